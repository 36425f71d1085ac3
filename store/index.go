package store

import (
	"context"
	"database/sql"
	"errors"
	"math"
	"slices"
	"strings"
	"sync"

	"hallmark/access"
	"hallmark/fleet"
	"hallmark/fleet/registry"
	"hallmark/internal/fault"
)

// Fields that no query can name: group memberships.
const (
	fieldDirect  = "group.direct"  // static groups, as the thing names them
	fieldDynamic = "group.dynamic" // dynamic groups, as their queries find it
)

// ofRegistry tells whether the registry itself keeps a field.
func ofRegistry(field string) bool {
	switch field {
	case registry.FieldName, registry.FieldType, registry.FieldGroups, registry.FieldBilling, registry.FieldVersion, fieldDirect:
		return true
	}
	return strings.HasPrefix(field, registry.PrefixAttrs+".") || strings.HasPrefix(field, registry.PrefixCert+".")
}

// ofOthers tells whether another domain may keep a field.
func ofOthers(field string) bool {
	for _, p := range []string{registry.PrefixShadow, registry.PrefixOnline, registry.PrefixDefence} {
		if strings.HasPrefix(field, p+".") {
			return true
		}
	}
	return false
}

// under tells whether a field belongs to a prefix. The classic shadow's does not
// cover those of the named ones.
func under(prefix string) func(field string) bool {
	named := prefix == registry.PrefixShadow
	return func(field string) bool {
		return strings.HasPrefix(field, prefix+".") && !(named && strings.HasPrefix(field, registry.PrefixNamed))
	}
}

// Index implements [registry.IndexStore].
func (db *DB) Index(ctx context.Context, tenant string, thing fleet.ThingName, prefix string, fields map[string]any) error {
	if !ofOthers(prefix + ".") {
		return registry.ErrFilter.New("No query can name fields under the prefix %q.", prefix)
	}
	rows := registry.Flatten(prefix, fields)
	return db.Atomic(ctx, func(ctx context.Context) error {
		folded := thing.Fold()
		var exists bool
		if err := db.queryRow(ctx, `SELECT EXISTS (SELECT 1 FROM things WHERE tenant = $1 AND folded = $2 AND name = $3)`, tenant, folded, string(thing)).Scan(&exists); err != nil || !exists {
			return err
		}
		return db.putIndex(ctx, tenant, folded, under(prefix), rows)
	})
}

// others is what the index should have of a thing by shadows and presence, whose
// rows are sealed where the index's are not (S32).
func (db *DB) others(ctx context.Context, tenant string, thing fleet.ThingName) (out []registry.Row, err error) {
	shadows, err := db.shadowsOf(ctx, tenant, thing)
	if err != nil {
		return nil, err
	}
	for i := range shadows {
		prefix, fields, err := shadowIndex(&shadows[i])
		if err != nil {
			return nil, err
		}
		out = append(out, registry.Flatten(prefix, fields)...)
	}
	fields, err := db.connectivity(ctx, tenant, thing)
	if err != nil {
		return nil, err
	}
	return append(out, registry.Flatten(registry.PrefixOnline, fields)...), nil
}

// reindex brings the registry's own fields of a thing up to date.
func (db *DB) reindex(ctx context.Context, tenant, folded string) error {
	s := access.Scope{Tenant: tenant}
	t, err := db.Thing(ctx, s, folded)
	if errors.Is(err, registry.ErrThingUnknown) {
		return nil
	}
	if errors.Is(err, ErrRowTampered) {
		return nil // revocation goes on; fsck names the row
	}
	if err != nil {
		return err
	}
	rows, err := db.ownRows(ctx, &t)
	if err != nil {
		return err
	}
	return db.putIndex(ctx, tenant, folded, ofRegistry, rows)
}

// ownRows is what the index should have of a thing by the registry.
func (db *DB) ownRows(ctx context.Context, t *registry.Thing) ([]registry.Row, error) {
	var groups []string
	for _, name := range t.Groups {
		for up, n := fold(name), 0; up != "" && n < registry.MaxGroupDepth; n++ {
			if !slices.Contains(groups, up) {
				groups = append(groups, up)
			}
			var parent string
			err := db.queryRow(ctx, `SELECT parent FROM thing_groups WHERE tenant = $1 AND class = 'thing' AND folded = $2`, t.Tenant, up).Scan(&parent)
			if err != nil && !errors.Is(err, sql.ErrNoRows) {
				return nil, err
			}
			up = parent
		}
	}
	principals, err := db.ThingPrincipals(ctx, access.Scope{Tenant: t.Tenant}, t.Name.Fold())
	if err != nil && !errors.Is(err, ErrRowTampered) {
		return nil, err
	}
	for i := range principals {
		if err := db.keyOf(ctx, &principals[i]); err != nil {
			return nil, err
		}
	}
	rows := registry.IndexOf(t, groups, principals)
	for _, g := range t.Groups {
		rows = append(rows, registry.Row{Field: fieldDirect, Text: fold(g)})
	}
	return rows, nil
}

// keyOf reads what a certificate's key is.
func (db *DB) keyOf(ctx context.Context, p *registry.Principal) error {
	var der []byte
	err := db.queryRow(ctx, `SELECT COALESCE(k.der, c.der) FROM device_certificates c LEFT JOIN reservations r ON r.serial = c.serial AND r.authority = c.authority AND r.tenant = c.tenant
		LEFT JOIN certificates k ON k.reservation = r.id WHERE c.tenant = $1 AND c.id = $2`, p.Tenant, p.Certificate).Scan(&der)
	if errors.Is(err, sql.ErrNoRows) {
		return nil
	}
	p.Key, p.KeyBits = registry.KeyOf(der)
	return err
}

// indexRows reads what the index has of a thing.
func (db *DB) indexRows(ctx context.Context, tenant, folded string) (out []registry.Row, err error) {
	rows, err := db.query(ctx, `SELECT field, text, number FROM thing_index WHERE tenant = $1 AND thing = $2 ORDER BY field, text`, tenant, folded)
	err = each(rows, err, func(row row) error {
		r, err := scanIndex(row)
		out = append(out, r)
		return err
	})
	return out, err
}

// scanIndex takes a number that somebody else spoilt for one that nothing equals,
// so that the row goes with the next change and fsck names it before.
// before are the columns in front.
func scanIndex(row row, before ...any) (r registry.Row, err error) {
	var n any
	err = row.Scan(append(before, &r.Field, &r.Text, &n)...)
	switch n := n.(type) {
	case nil:
	case float64:
		r.Number, r.Numeric = n, true
	case int64:
		r.Number, r.Numeric = float64(n), true
	default:
		r.Number, r.Numeric = math.NaN(), true
	}
	return r, err
}

// putIndex replaces what belongs to one owner with rows, and decides anew about
// the dynamic groups that look at what changed.
func (db *DB) putIndex(ctx context.Context, tenant, folded string, mine func(field string) bool, rows []registry.Row) error {
	have, err := db.indexRows(ctx, tenant, folded)
	if err != nil {
		return err
	}
	old := map[registry.Row]bool{}
	for _, r := range have {
		if mine(r.Field) {
			old[r] = true
		}
	}
	changed := map[string]bool{}
	next := map[registry.Row]bool{}
	for _, r := range rows {
		if next[r] = true; old[r] {
			continue
		}
		changed[r.Field] = true
	}
	for r := range old {
		if next[r] {
			continue
		}
		changed[r.Field] = true
		if _, err := db.exec(ctx, `DELETE FROM thing_index WHERE tenant = $1 AND thing = $2 AND field = $3 AND text = $4`, tenant, folded, r.Field, r.Text); err != nil {
			return err
		}
	}
	for r := range next {
		if old[r] {
			continue
		}
		if _, err := db.exec(ctx, `INSERT INTO thing_index (tenant, thing, field, text, number) VALUES ($1, $2, $3, $4, $5) ON CONFLICT (tenant, thing, field, text) DO UPDATE SET number = excluded.number`,
			tenant, folded, r.Field, r.Text, sql.NullFloat64{Float64: r.Number, Valid: r.Numeric}); err != nil {
			return err
		}
	}
	if len(changed) == 0 {
		return nil
	}
	return db.regroup(ctx, tenant, folded, changed)
}

// Regroup implements [registry.GroupStore].
func (db *DB) Regroup(ctx context.Context, tenant string, folded string) error {
	return db.Atomic(ctx, func(ctx context.Context) error { return db.regroup(ctx, tenant, fold(folded), nil) })
}

// regroup decides which dynamic groups a thing is in; with changed only about
// those that look at one of these fields.
func (db *DB) regroup(ctx context.Context, tenant, folded string, changed map[string]bool) error {
	type group struct {
		name   string
		filter *registry.Filter
	}
	var groups []group
	rows, err := db.query(ctx, `SELECT folded, query FROM thing_groups WHERE tenant = $1 AND query <> ''`, tenant)
	err = each(rows, err, func(r row) error {
		var name, query string
		if err := r.Scan(&name, &query); err != nil {
			return err
		}
		f := parsedFilter(query)
		concerned := changed == nil
		for field := range changed {
			concerned = concerned || f != nil && f.Uses(field)
		}
		if concerned {
			groups = append(groups, group{name, f})
		}
		return nil
	})
	if err != nil || len(groups) == 0 {
		return err
	}
	have, err := db.indexRows(ctx, tenant, folded)
	if err != nil {
		return err
	}
	fields, in := map[string][]registry.Row{}, map[string]bool{}
	for _, r := range have {
		if r.Field == fieldDynamic {
			in[r.Text] = true
		} else {
			fields[r.Field] = append(fields[r.Field], r)
		}
	}
	exists := len(fields[registry.FieldName]) > 0
	for _, g := range groups {
		fits := exists && g.filter != nil && g.filter.Matches(fields)
		switch {
		case fits && !in[g.name]:
			_, err = db.exec(ctx, `INSERT INTO thing_index (tenant, thing, field, text, number) VALUES ($1, $2, $3, $4, NULL) ON CONFLICT (tenant, thing, field, text) DO NOTHING`, tenant, folded, fieldDynamic, g.name)
		case !fits && in[g.name]:
			_, err = db.exec(ctx, `DELETE FROM thing_index WHERE tenant = $1 AND thing = $2 AND field = $3 AND text = $4`, tenant, folded, fieldDynamic, g.name)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// filters holds parsed queries of dynamic groups by their text.
var filters struct {
	sync.Mutex
	m map[string]*registry.Filter
}

// parsedFilter gives nil for a query that somebody else wrote and that does not
// parse: it finds nothing.
func parsedFilter(query string) *registry.Filter {
	filters.Lock()
	defer filters.Unlock()
	if f, ok := filters.m[query]; ok {
		return f
	}
	if filters.m == nil || len(filters.m) >= 4096 {
		filters.m = map[string]*registry.Filter{}
	}
	f, err := registry.ParseFilter(query)
	if err != nil {
		f = nil
	}
	filters.m[query] = f
	return f
}

// IndexRows implements [registry.IndexStore].
func (db *DB) IndexRows(ctx context.Context, s access.Scope, folded, prefix string) (out []registry.Row, err error) {
	all, err := db.indexRows(ctx, s.Tenant, fold(folded))
	for _, r := range all {
		if !strings.HasPrefix(r.Field, "group.") && (prefix == "" || r.Field == prefix || strings.HasPrefix(r.Field, prefix+".")) {
			out = append(out, r)
		}
	}
	return out, err
}

// checkIndex compares what the index has of a thing with what the thing says, and
// its dynamic groups with their queries.
func (db *DB) checkIndex(ctx context.Context, t *registry.Thing, report func(check, object, detail string)) error {
	object := "thing_index " + t.Tenant + "/" + t.Name.Fold()
	want, err := db.ownRows(ctx, t)
	if err != nil {
		return err
	}
	others, err := db.others(ctx, t.Tenant, t.Name)
	derived := err == nil
	if err != nil && !errors.Is(err, ErrRowTampered) && fault.KindOf(err) != fault.Invalid { // which the domains name
		return err
	}
	want = append(want, others...)
	all, err := db.indexRows(ctx, t.Tenant, t.Name.Fold())
	if err != nil {
		return err
	}
	have, fields, in := map[registry.Row]bool{}, map[string][]registry.Row{}, map[string]bool{}
	for _, r := range all {
		switch {
		case ofRegistry(r.Field):
			have[r] = true
		case r.Field == fieldDynamic:
			in[r.Text] = true
		case ofOthers(r.Field):
			if derived && !strings.HasPrefix(r.Field, registry.PrefixDefence+".") {
				have[r] = true
			}
		default:
			report("index", object, "Nobody keeps the field "+r.Field+".")
			return nil
		}
		fields[r.Field] = append(fields[r.Field], r)
	}
	groups, err := db.Groups(ctx, access.Scope{Tenant: t.Tenant}, registry.GroupQuery{Class: registry.ThingGroup, Limit: -1})
	if err != nil && !errors.Is(err, ErrRowTampered) { // which the seal names
		return err
	}
	for _, g := range groups {
		if f := parsedFilter(g.Query); err == nil && g.Status == registry.GroupActive && in[g.Fold()] != (f != nil && f.Matches(fields)) {
			report("index", object, "Its membership of the dynamic group "+g.Name+" is wrong.")
			return nil
		}
		delete(in, g.Fold())
	}
	for name := range in {
		if err == nil {
			report("index", object, "It is in the dynamic group "+name+", which does not exist.")
			return nil
		}
	}
	for _, r := range want {
		if !have[r] {
			report("index", object, "The value of "+r.Field+" is missing.")
			return nil
		}
	}
	for _, r := range want {
		delete(have, r)
	}
	for r := range have {
		report("index", object, "A value of "+r.Field+" is too many.")
		return nil
	}
	return nil
}
