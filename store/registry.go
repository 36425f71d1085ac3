package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"hallmark/access"
	"hallmark/fleet"
	"hallmark/fleet/registry"
)

var _ registry.Store = (*DB)(nil)

// thingRow is a thing in its columns. The lists are JSON, whose form Go fixes:
// object keys are sorted.
type thingRow struct {
	t                     registry.Thing
	groups, policy, conf  string
	createdAt, updatedAt  int64
	mac                   []byte
	key                   string // of a search
	attributes            map[string]string
	name, holder, foldedN string
}

const thingColumns = `t.tenant, t.name, t.folded, t.holder, t.type, t.groups, t.billing_group, t.policy, t.configuration, t.registered_by, t.created_at, t.updated_at, t.version, t.mac`

func (r *thingRow) dest() []any {
	return []any{&r.t.Tenant, &r.name, &r.foldedN, &r.holder, &r.t.Type, &r.groups, &r.t.BillingGroup, &r.policy, &r.conf, &r.t.RegisteredBy, &r.createdAt, &r.updatedAt, &r.t.Version, &r.mac}
}

// fields is what the MAC of a thing covers: the row and its attributes, so that
// neither a changed column nor a missing attribute goes unseen (S32).
func (r *thingRow) fields() [][]byte {
	out := [][]byte{[]byte(r.t.Tenant), []byte(r.name), []byte(r.foldedN), []byte(r.holder), []byte(r.t.Type), []byte(r.groups), []byte(r.t.BillingGroup),
		[]byte(r.policy), []byte(r.conf), []byte(r.t.RegisteredBy), []byte(strconv.FormatInt(r.createdAt, 10)), []byte(strconv.FormatInt(r.updatedAt, 10)), []byte(strconv.FormatInt(r.t.Version, 10))}
	for _, k := range slices.Sorted(maps.Keys(r.attributes)) {
		out = append(out, []byte(k), []byte(r.attributes[k]))
	}
	return out
}

func toText(v any) (string, error) {
	b, err := json.Marshal(v)
	return string(b), err
}

// thing checks the row and gives it as the domain's value.
func (db *DB) thing(ctx context.Context, r *thingRow) (registry.Thing, error) {
	r.attributes = map[string]string{}
	rows, err := db.query(ctx, `SELECT key, value FROM thing_attributes WHERE tenant = $1 AND thing = $2`, r.t.Tenant, r.foldedN)
	err = each(rows, err, func(row row) error {
		var k, v string
		err := row.Scan(&k, &v)
		r.attributes[k] = v
		return err
	})
	if err != nil {
		return registry.Thing{}, err
	}
	return db.believe(r)
}

// believe holds the row and its attributes against the MAC.
func (db *DB) believe(r *thingRow) (registry.Thing, error) {
	if err := db.cfg.Seal.Verify(r.mac, "things", r.fields()...); err != nil {
		return registry.Thing{}, ErrRowTampered.Wrap(err, "Table things, row %s/%s.", r.t.Tenant, r.foldedN)
	}
	t := r.t
	t.Name, t.Holder, t.Attributes = fleet.ThingName(r.name), r.holder, r.attributes
	t.CreatedAt, t.UpdatedAt = timeOf(r.createdAt), timeOf(r.updatedAt)
	for _, f := range []struct {
		text string
		to   any
	}{{r.groups, &t.Groups}, {r.policy, &t.Policies}, {r.conf, &t.Configuration}} {
		if err := json.Unmarshal([]byte(f.text), f.to); err != nil {
			return t, ErrRowTampered.Wrap(err, "Table things, row %s/%s.", r.t.Tenant, r.foldedN)
		}
	}
	return t, nil
}

// Thing implements [registry.Store].
func (db *DB) Thing(ctx context.Context, s access.Scope, folded string) (registry.Thing, error) {
	var r thingRow
	err := db.queryRow(ctx, `SELECT `+thingColumns+` FROM things t WHERE t.tenant = $1 AND t.folded = $2`, s.Tenant, fold(folded)).Scan(r.dest()...)
	if errors.Is(err, sql.ErrNoRows) {
		return registry.Thing{}, registry.ErrThingUnknown.New("")
	}
	if err != nil {
		return registry.Thing{}, err
	}
	return db.thing(ctx, &r)
}

const thingsOfSQL = `SELECT ` + thingColumns + ` FROM things t WHERE t.tenant = $1 AND t.holder = $2 ORDER BY t.folded LIMIT 1000`

// ThingsOf implements [registry.Store].
func (db *DB) ThingsOf(ctx context.Context, s access.Scope, holder string) ([]registry.Thing, error) {
	return db.things(ctx, thingsOfSQL, s.Tenant, fold(holder))
}

func (db *DB) things(ctx context.Context, query string, args ...any) (out []registry.Thing, err error) {
	var found []thingRow
	rows, err := db.query(ctx, query, args...)
	err = each(rows, err, func(row row) error {
		var r thingRow
		err := row.Scan(r.dest()...)
		found = append(found, r)
		return err
	})
	if err != nil {
		return nil, err
	}
	for i := range found {
		t, err := db.thing(ctx, &found[i])
		if err != nil {
			return nil, err
		}
		out = append(out, t)
	}
	return out, nil
}

// SearchThings implements [registry.Store]. Ranges instead of LIKE: both
// engines then use the index and agree about case.
func (db *DB) SearchThings(ctx context.Context, s access.Scope, q registry.Range) (out []registry.Match, err error) {
	var b strings.Builder
	args := []any{s.Tenant}
	bind := func(v any) string {
		args = append(args, v)
		return "$" + strconv.Itoa(len(args))
	}
	key := "t.folded"
	if q.Attribute != "" {
		key = "a.value"
		b.WriteString(`SELECT ` + thingColumns + `, a.value FROM thing_attributes a JOIN things t ON t.tenant = a.tenant AND t.folded = a.thing WHERE a.tenant = $1 AND a.key = ` + bind(q.Attribute))
	} else {
		b.WriteString(`SELECT ` + thingColumns + `, t.folded FROM things t WHERE t.tenant = $1`)
	}
	if q.From != "" {
		b.WriteString(` AND ` + key + ` >= ` + bind(q.From))
	}
	if q.To != "" {
		b.WriteString(` AND ` + key + ` < ` + bind(q.To))
	}
	if q.After {
		k := bind(q.AfterKey)
		b.WriteString(` AND ` + key + ` >= ` + k + ` AND (` + key + ` > ` + k + ` OR t.folded > ` + bind(q.AfterThing) + `)`)
	}
	b.WriteString(` ORDER BY ` + key + `, t.folded LIMIT ` + bind(q.Limit))
	var found []thingRow
	rows, err := db.query(ctx, b.String(), args...)
	err = each(rows, err, func(row row) error {
		var r thingRow
		err := row.Scan(append(r.dest(), &r.key)...)
		found = append(found, r)
		return err
	})
	if err != nil {
		return nil, err
	}
	for i := range found {
		t, err := db.thing(ctx, &found[i])
		if err != nil {
			return nil, err
		}
		out = append(out, registry.Match{Thing: t, Key: found[i].key})
	}
	return out, nil
}

// PutThing implements [registry.Store].
func (db *DB) PutThing(ctx context.Context, t registry.Thing, was int64) error {
	r := thingRow{t: t, name: string(t.Name), foldedN: t.Name.Fold(), holder: fold(t.Holder), createdAt: millis(t.CreatedAt), updatedAt: millis(t.UpdatedAt), attributes: t.Attributes}
	var err error
	if r.groups, err = toText(nonNil(t.Groups)); err != nil {
		return err
	}
	if r.policy, err = toText(nonNil(t.Policies)); err != nil {
		return err
	}
	conf := t.Configuration
	if conf == nil {
		conf = map[string]string{}
	}
	if r.conf, err = toText(conf); err != nil {
		return err
	}
	r.mac = db.cfg.Seal.MAC("things", r.fields()...)
	return db.Atomic(ctx, func(ctx context.Context) error {
		var n int64
		var err error
		if was == 0 {
			n, err = db.exec(ctx, `INSERT INTO things (tenant, name, folded, holder, type, groups, billing_group, policy, configuration, registered_by, created_at, updated_at, version, mac)
				VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14) ON CONFLICT (tenant, folded) DO NOTHING`,
				t.Tenant, r.name, r.foldedN, r.holder, t.Type, r.groups, t.BillingGroup, r.policy, r.conf, t.RegisteredBy, r.createdAt, r.updatedAt, t.Version, r.mac)
		} else {
			n, err = db.exec(ctx, `UPDATE things SET holder = $1, type = $2, groups = $3, billing_group = $4, policy = $5, configuration = $6, registered_by = $7, updated_at = $8, version = $9, mac = $10
				WHERE tenant = $11 AND folded = $12 AND version = $13`,
				r.holder, t.Type, r.groups, t.BillingGroup, r.policy, r.conf, t.RegisteredBy, r.updatedAt, t.Version, r.mac, t.Tenant, r.foldedN, was)
		}
		if err == nil && n != 1 {
			err = registry.ErrThingChanged.New("")
		}
		if err != nil {
			return err
		}
		if _, err := db.exec(ctx, `DELETE FROM thing_attributes WHERE tenant = $1 AND thing = $2`, t.Tenant, r.foldedN); err != nil {
			return err
		}
		for k, v := range t.Attributes {
			if _, err := db.exec(ctx, `INSERT INTO thing_attributes (tenant, thing, key, value) VALUES ($1, $2, $3, $4)`, t.Tenant, r.foldedN, k, v); err != nil {
				return err
			}
		}
		db.tellRegistry(ctx, registry.Change{Tenant: t.Tenant, Thing: r.foldedN})
		if err := db.reindex(ctx, t.Tenant, r.foldedN); err != nil || was != 0 {
			return err
		}
		// What its shadows and connections said before it was a thing counts now.
		rows, err := db.others(ctx, t.Tenant, t.Name)
		if err != nil || len(rows) == 0 {
			if errors.Is(err, ErrRowTampered) {
				err = nil // fsck names the row
			}
			return err
		}
		return db.putIndex(ctx, t.Tenant, r.foldedN, ofOthers, rows)
	})
}

// DropThing implements [registry.Store].
func (db *DB) DropThing(ctx context.Context, tenant string, folded string, was int64) error {
	folded = fold(folded)
	return db.Atomic(ctx, func(ctx context.Context) error {
		var name string
		if err := db.queryRow(ctx, `SELECT name FROM things WHERE tenant = $1 AND folded = $2`, tenant, folded).Scan(&name); err != nil && !errors.Is(err, sql.ErrNoRows) {
			return err
		}
		if err := db.DropShadows(ctx, access.Scope{Tenant: tenant}, fleet.ThingName(name)); err != nil {
			return err
		}
		if _, err := db.exec(ctx, `DELETE FROM presence WHERE tenant = $1 AND thing = $2`, tenant, folded); err != nil {
			return err
		}
		n, err := db.exec(ctx, `DELETE FROM things WHERE tenant = $1 AND folded = $2 AND version = $3`, tenant, folded, was)
		if err == nil && n != 1 {
			err = registry.ErrThingChanged.New("")
		}
		for _, q := range []string{`DELETE FROM thing_attributes WHERE tenant = $1 AND thing = $2`, `DELETE FROM thing_index WHERE tenant = $1 AND thing = $2`} {
			if err == nil {
				_, err = db.exec(ctx, q, tenant, folded)
			}
		}
		db.tellRegistry(ctx, registry.Change{Tenant: tenant, Thing: folded})
		return err
	})
}

func nonNil(l []string) []string {
	if l == nil {
		return []string{}
	}
	return l
}

// Broken implements [registry.Store]. It goes through the tables in pages, so
// that its memory does not grow with the fleet.
func (db *DB) Broken(ctx context.Context, now time.Time, report func(check, object, detail string)) error {
	tampered := func(err error, object string) error {
		if errors.Is(err, ErrRowTampered) {
			report("row-tampered", object, "The row is not as this program wrote it.")
			return nil
		}
		return err
	}
	// 1. Things, each with its attributes.
	var tenant, folded string
	for {
		var page []thingRow
		rows, err := db.query(ctx, `SELECT `+thingColumns+` FROM things t WHERE t.tenant > $1 OR (t.tenant = $1 AND t.folded > $2) ORDER BY t.tenant, t.folded LIMIT 500`, tenant, folded)
		err = each(rows, err, func(row row) error {
			var r thingRow
			err := row.Scan(r.dest()...)
			page = append(page, r)
			return err
		})
		if err != nil {
			return err
		}
		if len(page) == 0 {
			break
		}
		for i := range page {
			r := &page[i]
			tenant, folded = r.t.Tenant, r.foldedN
			object := "things " + tenant + "/" + folded
			t, err := db.thing(ctx, r)
			if err != nil {
				if err := tampered(err, object); err != nil {
					return err
				}
				continue
			}
			// Devices go on while this looks: what is found is looked at twice.
			found := false
			err = db.checkIndex(ctx, &t, func(string, string, string) { found = true })
			if err == nil && found {
				err = db.checkIndex(ctx, &t, report)
			}
			if err != nil {
				return err
			}
		}
	}
	if err := db.brokenPresence(ctx, report); err != nil {
		return err
	}
	for _, broken := range []func(context.Context, func(check, object, detail string)) error{db.brokenUses, db.brokenRenewals} {
		if err := broken(ctx, report); err != nil {
			return err
		}
	}
	// 2. What must lead from one table to another. Each query lists what does not.
	for _, q := range []struct{ check, table, detail, query string }{
		{"certificate-missing", "device_certificates", "Its certificate does not exist.", `SELECT d.authority, d.serial FROM device_certificates d LEFT JOIN reservations r ON r.serial = d.serial AND r.authority = d.authority AND r.tenant = d.tenant LEFT JOIN certificates c ON c.reservation = r.id WHERE d.authority <> '' AND c.reservation IS NULL`},
		{"ldevid-unattached", "certificates", "The operational certificate belongs to no thing; the device completes it when it registers again.", `SELECT r.authority, r.serial FROM reservations r JOIN certificates c ON c.reservation = r.id LEFT JOIN device_certificates d ON d.authority = r.authority AND d.serial = r.serial AND d.tenant = r.tenant
			LEFT JOIN thing_principals p ON p.tenant = d.tenant AND p.certificate = d.id LEFT JOIN revocations v ON v.authority = r.authority AND v.serial = r.serial
			WHERE r.profile = 'ldevid' AND p.certificate IS NULL AND (v.serial IS NULL OR v.released_at > 0)`},
	} {
		rows, err := db.query(ctx, q.query)
		err = each(rows, err, func(row row) error {
			var a string
			var s []byte
			err := row.Scan(&a, &s)
			report(q.check, fmt.Sprintf("%s %s/%x", q.table, a, s), q.detail)
			return err
		})
		if err != nil {
			return err
		}
	}
	rows, err := db.query(ctx, `SELECT p.certificate, p.thing FROM thing_principals p JOIN things t ON t.tenant = p.tenant AND t.folded = p.thing JOIN device_certificates d ON d.tenant = p.tenant AND d.id = p.certificate
		LEFT JOIN revocations v ON v.authority = d.authority AND v.serial = d.serial WHERE d.authority <> '' AND t.holder <> '' AND d.holder <> t.holder AND d.status IN ('ACTIVE', 'PENDING_ACTIVATION') AND d.not_after > $1 AND (v.serial IS NULL OR v.released_at > 0)`, millis(now))
	err = each(rows, err, func(row row) error {
		var id, thing string
		err := row.Scan(&id, &thing)
		report("thing-two-holders", "thing_principals "+id+"/"+thing, "It is live for a thing that belongs to another identity (S22).")
		return err
	})
	if err != nil {
		return err
	}
	for _, q := range []struct{ check, table, detail, query string }{
		{"holder-missing", "things", "Its identity has no birth certificate.", `SELECT t.tenant, t.folded FROM things t JOIN authorities a ON a.name = t.registered_by AND a.tenant = t.tenant LEFT JOIN identities i ON i.tenant = t.tenant AND i.holder = t.holder AND i.profile = 'idevid' WHERE i.holder IS NULL`},
		{"registration-missing", "things", "The authority that registered it has no registration.", `SELECT t.tenant, t.folded FROM things t LEFT JOIN registrations g ON g.authority = t.registered_by AND g.tenant = t.tenant LEFT JOIN fleet_templates f ON f.tenant = t.tenant AND t.registered_by = 'claim:' || f.name WHERE t.registered_by NOT IN ('', 'released', 'transferred') AND g.authority IS NULL AND f.name IS NULL AND NOT EXISTS (SELECT 1 FROM registered_cas c WHERE c.tenant = t.tenant AND (c.id = t.registered_by OR c.authority = t.registered_by))`},
		{"thing-missing", "thing_principals", "Its thing does not exist.", `SELECT p.tenant, p.certificate FROM thing_principals p LEFT JOIN things t ON t.tenant = p.tenant AND t.folded = p.thing WHERE t.folded IS NULL`},
		{"certificate-missing", "thing_principals", "Its certificate is not registered.", `SELECT p.tenant, p.certificate FROM thing_principals p LEFT JOIN device_certificates d ON d.tenant = p.tenant AND d.id = p.certificate WHERE d.id IS NULL`},
		{"ca-missing", "device_certificates", "The CA that it was registered with does not exist.", `SELECT d.tenant, d.id FROM device_certificates d LEFT JOIN registered_cas c ON c.tenant = d.tenant AND c.id = d.ca WHERE d.ca <> '' AND c.id IS NULL`},
		{"policy-missing", "policy_attachments", "Its policy does not exist.", `SELECT a.target, a.policy FROM policy_attachments a LEFT JOIN policies p ON p.tenant = a.tenant AND p.folded = a.policy WHERE p.folded IS NULL`},
		{"certificate-missing", "policy_attachments", "Its target is not registered.", `SELECT a.target, a.policy FROM policy_attachments a LEFT JOIN device_certificates d ON d.tenant = a.tenant AND a.target = 'cert/' || d.id WHERE a.target >= 'cert/' AND a.target < 'cert0' AND d.id IS NULL`},
		{"group-missing", "policy_attachments", "Its target does not exist.", `SELECT a.target, a.policy FROM policy_attachments a LEFT JOIN thing_groups g ON g.tenant = a.tenant AND g.class = 'thing' AND a.target = 'thinggroup/' || g.folded WHERE NOT (a.target >= 'cert/' AND a.target < 'cert0') AND g.folded IS NULL`},
		{"policy-version-missing", "policies", "Its default version does not exist.", `SELECT p.tenant, p.folded FROM policies p LEFT JOIN policy_versions v ON v.tenant = p.tenant AND v.policy = p.folded AND v.number = p.default_version WHERE v.number IS NULL`},
		{"policy-missing", "policy_versions", "Its policy does not exist.", `SELECT v.tenant, v.policy FROM policy_versions v LEFT JOIN policies p ON p.tenant = v.tenant AND p.folded = v.policy WHERE p.folded IS NULL`},
		{"group-missing", "thing_groups", "The group above it does not exist.", `SELECT g.tenant, g.folded FROM thing_groups g LEFT JOIN thing_groups u ON u.tenant = g.tenant AND u.class = g.class AND u.folded = g.parent WHERE g.parent <> '' AND u.folded IS NULL`},
		{"group-progress", "thing_groups", "Its progress is none that a group has.", `SELECT tenant, folded FROM thing_groups WHERE status NOT IN ('ACTIVE', 'BUILDING') OR (status = 'ACTIVE' AND progress <> '') OR (query = '' AND status <> 'ACTIVE')`},
		{"thing-missing", "thing_index", "Its thing does not exist.", `SELECT DISTINCT i.tenant, i.thing FROM thing_index i LEFT JOIN things t ON t.tenant = i.tenant AND t.folded = i.thing WHERE t.folded IS NULL`},
		{"thing-missing", "thing_attributes", "Its thing does not exist.", `SELECT DISTINCT a.tenant, a.thing FROM thing_attributes a LEFT JOIN things t ON t.tenant = a.tenant AND t.folded = a.thing WHERE t.folded IS NULL`},
		{"authority-missing", "registrations", "Its authority does not exist.", `SELECT g.tenant, g.authority FROM registrations g LEFT JOIN authorities a ON a.name = g.authority AND a.tenant = g.tenant LEFT JOIN registered_cas c ON c.tenant = g.tenant AND c.id = g.authority WHERE a.name IS NULL AND c.id IS NULL`},
		{"template-missing", "fleet_templates", "Its template does not exist.", `SELECT f.tenant, f.name FROM fleet_templates f LEFT JOIN templates m ON m.tenant = f.tenant AND m.name = f.name WHERE m.name IS NULL`},
		{"hook-missing", "fleet_templates", "Its hook does not exist.", `SELECT f.tenant, f.name FROM fleet_templates f LEFT JOIN hooks h ON h.tenant = f.tenant AND h.name = f.hook WHERE f.hook <> '' AND h.name IS NULL`},
		{"certificate-missing", "registration_grants", "Its certificate is not registered.", `SELECT g.tenant, g.holder FROM registration_grants g LEFT JOIN device_certificates d ON d.tenant = g.tenant AND d.id = g.certificate WHERE g.certificate <> '' AND d.id IS NULL`},
		{"budget-missing", "registration_grants", "Its budget does not exist.", `SELECT g.tenant, g.holder FROM registration_grants g LEFT JOIN registration_budgets b ON b.tenant = g.tenant AND b.name = g.budget WHERE b.name IS NULL`},
		{"template-missing", "registrations", "Its template does not exist.", `SELECT g.tenant, g.authority FROM registrations g LEFT JOIN templates m ON m.tenant = g.tenant AND m.name = g.template WHERE m.name IS NULL`},
		{"hook-missing", "registrations", "Its hook does not exist.", `SELECT g.tenant, g.authority FROM registrations g LEFT JOIN hooks h ON h.tenant = g.tenant AND h.name = g.hook WHERE g.hook <> '' AND h.name IS NULL`},
	} {
		rows, err := db.query(ctx, q.query)
		err = each(rows, err, func(row row) error {
			var a, b string
			err := row.Scan(&a, &b)
			report(q.check, q.table+" "+a+"/"+b, q.detail)
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}
