package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"strconv"

	"hallmark/access"
	"hallmark/fleet"
	"hallmark/fleet/registry"
)

const groupColumns = `g.tenant, g.class, g.folded, g.name, g.parent, g.depth, g.query, g.description, g.attributes, g.tags, g.created_at, g.updated_at, g.version, g.mac, g.status, g.progress`
const groupSelect = `SELECT ` + groupColumns + `, COALESCE(u.name, g.parent) FROM thing_groups g LEFT JOIN thing_groups u ON u.tenant = g.tenant AND u.class = g.class AND u.folded = g.parent `

// groupRow is a group in its columns.
type groupRow struct {
	g                registry.Group
	folded, parent   string
	attributes, tags string
	created, updated int64
	mac              []byte
}

func (r *groupRow) fields() [][]byte {
	g := &r.g
	return append([][]byte{[]byte(g.Tenant), []byte(g.Class), []byte(r.folded), []byte(g.Name), []byte(r.parent), []byte(g.Query), []byte(g.Description), []byte(r.attributes), []byte(r.tags)},
		decimals(int64(g.Depth), r.created, r.updated, g.Version)...)
}

func (db *DB) groupRow(g registry.Group) (r groupRow, err error) {
	r = groupRow{g: g, folded: g.Fold(), parent: fold(g.Parent), created: millis(g.CreatedAt), updated: millis(g.UpdatedAt)}
	if r.attributes, err = toText(nonNilMap(g.Attributes)); err != nil {
		return r, err
	}
	if r.tags, err = toText(nonNilMap(g.Tags)); err != nil {
		return r, err
	}
	r.mac = db.cfg.Seal.MAC("thing_groups", r.fields()...)
	return r, nil
}

func nonNilMap(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

// scanGroup reads groupColumns, and the parent's spelling if more is asked for.
func (db *DB) scanGroup(row row, more ...any) (registry.Group, []byte, error) {
	var r groupRow
	g := &r.g
	if err := row.Scan(append([]any{&g.Tenant, (*string)(&g.Class), &r.folded, &g.Name, &r.parent, &g.Depth, &g.Query, &g.Description, &r.attributes, &r.tags, &r.created, &r.updated, &g.Version, &r.mac, (*string)(&g.Status), &g.Cursor}, more...)...); err != nil {
		return *g, nil, err
	}
	g.Parent, g.CreatedAt, g.UpdatedAt = r.parent, timeOf(r.created), timeOf(r.updated)
	err := db.cfg.Seal.Verify(r.mac, "thing_groups", r.fields()...)
	if err == nil {
		err = json.Unmarshal([]byte(r.attributes), &g.Attributes)
	}
	if err == nil {
		err = json.Unmarshal([]byte(r.tags), &g.Tags)
	}
	if err != nil || r.folded != fold(g.Name) {
		return *g, r.mac, ErrRowTampered.Wrap(err, "Table thing_groups, row %s.", groupKey(g.Tenant, g.Class, r.folded))
	}
	return *g, r.mac, nil
}

func groupKey(tenant string, c registry.GroupClass, folded string) string {
	return pair(tenant, string(c)) + "/" + folded
}

func (db *DB) scanGroupSpelt(row row) (registry.Group, error) {
	var parent string
	g, _, err := db.scanGroup(row, &parent)
	g.Parent = parent
	return g, err
}

// Group implements [registry.GroupStore].
func (db *DB) Group(ctx context.Context, s access.Scope, c registry.GroupClass, name string) (registry.Group, error) {
	g, err := db.scanGroupSpelt(db.queryRow(ctx, groupSelect+`WHERE g.tenant = $1 AND g.class = $2 AND g.folded = $3`, s.Tenant, string(c), fold(name)))
	if errors.Is(err, sql.ErrNoRows) {
		return g, registry.ErrGroupUnknown.New("")
	}
	return g, err
}

func (db *DB) groups(ctx context.Context, where string, args ...any) (out []registry.Group, err error) {
	rows, err := db.query(ctx, groupSelect+where, args...)
	err = each(rows, err, func(r row) error {
		g, err := db.scanGroupSpelt(r)
		out = append(out, g)
		return err
	})
	return out, err
}

// Groups implements [registry.GroupStore]. A negative limit lists dynamic groups
// only, all of them.
func (db *DB) Groups(ctx context.Context, s access.Scope, q registry.GroupQuery) ([]registry.Group, error) {
	if q.Limit < 0 {
		return db.groups(ctx, `WHERE g.tenant = $1 AND g.query <> '' ORDER BY g.folded`, s.Tenant)
	}
	where, args := `WHERE g.tenant = $1 AND g.class = $2 AND g.folded > $3`, []any{s.Tenant, string(q.Class), fold(q.After)}
	and := func(cond string, v any) {
		args = append(args, v)
		where += cond + `$` + strconv.Itoa(len(args))
	}
	if q.Parent != "" {
		and(` AND g.parent = `, fold(q.Parent))
	} else if q.Roots {
		where += ` AND g.parent = ''`
	}
	if q.Prefix != "" {
		and(` AND g.folded >= `, fold(q.Prefix))
		and(` AND g.folded < `, fold(q.Prefix)+"\U0010ffff")
	}
	and(` ORDER BY g.folded LIMIT `, q.Limit)
	return db.groups(ctx, where, args...)
}

// PutGroup implements [registry.GroupStore].
func (db *DB) PutGroup(ctx context.Context, g registry.Group, was int64) error {
	r, err := db.groupRow(g)
	if err != nil {
		return err
	}
	return db.Atomic(ctx, func(ctx context.Context) error {
		db.tellRegistry(ctx, registry.Change{Tenant: g.Tenant})
		return db.put(ctx, sealedRow{table: "thing_groups", name: groupKey(g.Tenant, g.Class, r.folded), mac: r.mac, changed: registry.ErrGroupChanged,
			find: `SELECT mac FROM thing_groups WHERE tenant = $1 AND class = $2 AND folded = $3`, key: []any{g.Tenant, string(g.Class), r.folded}}, was,
			`INSERT INTO thing_groups (tenant, class, folded, name, parent, depth, query, description, attributes, tags, created_at, updated_at, version, mac, status, progress)
				VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16) ON CONFLICT (tenant, class, folded) DO NOTHING`,
			[]any{g.Tenant, string(g.Class), r.folded, g.Name, r.parent, g.Depth, g.Query, g.Description, r.attributes, r.tags, r.created, r.updated, g.Version, r.mac, string(g.Status), g.Cursor},
			`UPDATE thing_groups SET query = $1, description = $2, attributes = $3, tags = $4, updated_at = $5, version = $6, mac = $7, status = $8, progress = $9 WHERE tenant = $10 AND class = $11 AND folded = $12 AND version = $13`,
			[]any{g.Query, g.Description, r.attributes, r.tags, r.updated, g.Version, r.mac, string(g.Status), g.Cursor, g.Tenant, string(g.Class), r.folded, was})
	})
}

// PutProgress implements [registry.GroupStore].
func (db *DB) PutProgress(ctx context.Context, g registry.Group) error {
	return db.Atomic(ctx, func(ctx context.Context) error {
		_, err := db.exec(ctx, `UPDATE thing_groups SET status = $1, progress = $2 WHERE tenant = $3 AND class = $4 AND folded = $5 AND version = $6`,
			string(g.Status), g.Cursor, g.Tenant, string(g.Class), g.Fold(), g.Version)
		return err
	})
}

// DropGroup implements [registry.GroupStore].
func (db *DB) DropGroup(ctx context.Context, tenant string, c registry.GroupClass, name string) error {
	folded := fold(name)
	return db.Atomic(ctx, func(ctx context.Context) error {
		db.tellRegistry(ctx, registry.Change{Tenant: tenant})
		dropped, err := db.drop(ctx, sealedRow{table: "thing_groups", name: groupKey(tenant, c, folded),
			find: `SELECT mac FROM thing_groups WHERE tenant = $1 AND class = $2 AND folded = $3`, key: []any{tenant, string(c), folded}},
			`DELETE FROM thing_groups WHERE tenant = $1 AND class = $2 AND folded = $3`)
		if err == nil && !dropped {
			err = registry.ErrGroupUnknown.New("")
		}
		return err
	})
}

// members lists things by a field of the index.
func (db *DB) members(ctx context.Context, tenant, field, text, after string, limit int) (out []fleet.ThingName, err error) {
	rows, err := db.query(ctx, `SELECT t.name FROM thing_index i JOIN things t ON t.tenant = i.tenant AND t.folded = i.thing
		WHERE i.tenant = $1 AND i.field = $2 AND i.text = $3 AND i.thing > $4 ORDER BY i.thing LIMIT $5`, tenant, field, text, fold(after), limit)
	err = each(rows, err, func(r row) error {
		var n string
		err := r.Scan(&n)
		out = append(out, fleet.ThingName(n))
		return err
	})
	return out, err
}

// GroupThings implements [registry.GroupStore].
func (db *DB) GroupThings(ctx context.Context, s access.Scope, g registry.Group, nested bool, after string, limit int) ([]fleet.ThingName, error) {
	field := fieldDirect
	switch {
	case g.Class == registry.BillingGroup:
		field = registry.FieldBilling
	case g.Query != "":
		field = fieldDynamic
	case nested:
		field = registry.FieldGroups
	}
	return db.members(ctx, s.Tenant, field, g.Fold(), after, limit)
}

// DynamicGroupsOf implements [registry.GroupStore].
func (db *DB) DynamicGroupsOf(ctx context.Context, s access.Scope, folded string) (out []string, err error) {
	rows, err := db.query(ctx, `SELECT g.name FROM thing_index i JOIN thing_groups g ON g.tenant = i.tenant AND g.class = 'thing' AND g.folded = i.text WHERE i.tenant = $1 AND i.thing = $2 AND i.field = $3 ORDER BY i.text`, s.Tenant, fold(folded), fieldDynamic)
	err = each(rows, err, func(r row) error {
		var n string
		err := r.Scan(&n)
		out = append(out, n)
		return err
	})
	return out, err
}

// Building implements [registry.GroupStore].
func (db *DB) Building(ctx context.Context, limit int) ([]registry.Group, error) {
	return db.groups(ctx, `WHERE g.status <> 'ACTIVE' ORDER BY g.tenant, g.folded LIMIT $1`, limit)
}

// ForgetGroup implements [registry.GroupStore].
func (db *DB) ForgetGroup(ctx context.Context, tenant string, name string, limit int) (n int64, err error) {
	err = db.Atomic(ctx, func(ctx context.Context) error {
		var err error
		n, err = db.exec(ctx, `DELETE FROM thing_index WHERE tenant = $1 AND field = $2 AND text = $3 AND thing IN (SELECT thing FROM thing_index WHERE tenant = $1 AND field = $2 AND text = $3 LIMIT $4)`, tenant, fieldDynamic, fold(name), limit)
		return err
	})
	return n, err
}

const typeColumns = `tenant, folded, name, description, attributes, tags, deprecated_at, created_at, updated_at, version, mac`

func (db *DB) scanType(row row) (registry.Type, error) {
	var t registry.Type
	var folded, attributes, tags string
	var deprecated, created, updated int64
	var mac []byte
	if err := row.Scan(&t.Tenant, &folded, &t.Name, &t.Description, &attributes, &tags, &deprecated, &created, &updated, &t.Version, &mac); err != nil {
		return t, err
	}
	t.Deprecated, t.CreatedAt, t.UpdatedAt = timeOf(deprecated), timeOf(created), timeOf(updated)
	err := db.cfg.Seal.Verify(mac, "thing_types", typeFields(&t, attributes, tags)...)
	if err == nil {
		err = json.Unmarshal([]byte(attributes), &t.Attributes)
	}
	if err == nil {
		err = json.Unmarshal([]byte(tags), &t.Tags)
	}
	if err != nil || folded != fold(t.Name) {
		return t, ErrRowTampered.Wrap(err, "Table thing_types, row %s/%s.", t.Tenant, folded)
	}
	return t, nil
}

func typeFields(t *registry.Type, attributes, tags string) [][]byte {
	return append([][]byte{[]byte(t.Tenant), []byte(fold(t.Name)), []byte(t.Name), []byte(t.Description), []byte(attributes), []byte(tags)},
		decimals(millis(t.Deprecated), millis(t.CreatedAt), millis(t.UpdatedAt), t.Version)...)
}

// Type implements [registry.GroupStore].
func (db *DB) Type(ctx context.Context, s access.Scope, name string) (registry.Type, error) {
	t, err := db.scanType(db.queryRow(ctx, `SELECT `+typeColumns+` FROM thing_types WHERE tenant = $1 AND folded = $2`, s.Tenant, fold(name)))
	if errors.Is(err, sql.ErrNoRows) {
		return t, registry.ErrTypeUnknown.New("")
	}
	return t, err
}

// Types implements [registry.GroupStore].
func (db *DB) Types(ctx context.Context, s access.Scope, after string, limit int) (out []registry.Type, err error) {
	rows, err := db.query(ctx, `SELECT `+typeColumns+` FROM thing_types WHERE tenant = $1 AND folded > $2 ORDER BY folded LIMIT $3`, s.Tenant, fold(after), limit)
	err = each(rows, err, func(r row) error {
		t, err := db.scanType(r)
		out = append(out, t)
		return err
	})
	return out, err
}

// PutType implements [registry.GroupStore].
func (db *DB) PutType(ctx context.Context, t registry.Type, was int64) error {
	folded := fold(t.Name)
	attributes, err := toText(nonNil(t.Attributes))
	if err != nil {
		return err
	}
	tags, err := toText(nonNilMap(t.Tags))
	if err != nil {
		return err
	}
	mac := db.cfg.Seal.MAC("thing_types", typeFields(&t, attributes, tags)...)
	deprecated, created, updated := millis(t.Deprecated), millis(t.CreatedAt), millis(t.UpdatedAt)
	return db.put(ctx, sealedRow{table: "thing_types", name: pair(t.Tenant, folded), mac: mac, changed: registry.ErrTypeChanged,
		find: `SELECT mac FROM thing_types WHERE tenant = $1 AND folded = $2`, key: []any{t.Tenant, folded}}, was,
		`INSERT INTO thing_types (`+typeColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT (tenant, folded) DO NOTHING`,
		[]any{t.Tenant, folded, t.Name, t.Description, attributes, tags, deprecated, created, updated, t.Version, mac},
		`UPDATE thing_types SET description = $1, attributes = $2, tags = $3, deprecated_at = $4, updated_at = $5, version = $6, mac = $7 WHERE tenant = $8 AND folded = $9 AND version = $10`,
		[]any{t.Description, attributes, tags, deprecated, updated, t.Version, mac, t.Tenant, folded, was})
}

// DropType implements [registry.GroupStore].
func (db *DB) DropType(ctx context.Context, tenant string, name string) error {
	folded := fold(name)
	_, err := db.drop(ctx, sealedRow{table: "thing_types", name: pair(tenant, folded), find: `SELECT mac FROM thing_types WHERE tenant = $1 AND folded = $2`, key: []any{tenant, folded}},
		`DELETE FROM thing_types WHERE tenant = $1 AND folded = $2`)
	return err
}

// OfType implements [registry.GroupStore].
func (db *DB) OfType(ctx context.Context, s access.Scope, name, after string, limit int) ([]fleet.ThingName, error) {
	return db.members(ctx, s.Tenant, registry.FieldType, fold(name), after, limit)
}
