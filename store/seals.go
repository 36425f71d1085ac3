package store

import (
	"bytes"
	"context"
	"crypto/hmac"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"hallmark/migrations"
)

// The seal of a small table says how many rows it has, the keyed sum of them, and
// the names of all of them laid over one another. It is encrypted, so that nobody
// learns the sums and composes another set of rows with the same one. A row's own
// MAC shows that the row was changed; the seal shows that one is gone, and if it
// is one alone, which (S32). Its row moves once a batch, in the same transaction.
type tableSeal struct {
	Rows  int64
	Sum   [32]byte
	Names []byte
}

// change takes a row with its MAC in or out; the difference of two seals is made
// the same way.
func (s *tableSeal) change(rows int64, sum []byte, name []byte) {
	s.Rows += rows
	for i := range sum {
		s.Sum[i] ^= sum[i]
	}
	if n := len(name) - len(s.Names); n > 0 {
		s.Names = append(s.Names, make([]byte, n)...)
	}
	for i := range name {
		s.Names[i] ^= name[i]
	}
}

func (s *tableSeal) merge(d *tableSeal) { s.change(d.Rows, d.Sum[:], d.Names) }

func (s *tableSeal) equal(o *tableSeal) bool {
	return s.Rows == o.Rows && s.Sum == o.Sum && bytes.Equal(bytes.TrimRight(s.Names, "\x00"), bytes.TrimRight(o.Names, "\x00"))
}

// sumOf is what a row adds to its table's sum.
func (db *DB) sumOf(table, name string, mac []byte) []byte {
	return db.cfg.Seal.MAC("seals", []byte(table), []byte(name), mac)
}

// reseal notes that a row of a sealed table came (old is nil), went (now is nil)
// or changed. Where rows are only added, their MACs can be left out by giving
// [keyOnly].
func (tx *txn) reseal(table, name string, old, now []byte) {
	d := &tableSeal{}
	if old != nil {
		d.change(-1, tx.db.sumOf(table, name, old), []byte(name))
	}
	if now != nil {
		d.change(1, tx.db.sumOf(table, name, now), []byte(name))
	}
	if tx.seals == nil {
		tx.seals = map[string]*tableSeal{}
	}
	if tx.seals[table] == nil {
		tx.seals[table] = &tableSeal{}
	}
	tx.seals[table].merge(d)
	tx.undo = append(tx.undo, func() {
		d.Rows = -d.Rows
		tx.seals[table].merge(d)
	})
}

// keyOnly stands for the MAC in seals of tables of which only the rows' names are sealed.
var keyOnly = []byte{}

// moveSeals writes the seals of the tables that the batch changed, in the order
// of their names, so that no two nodes wait for each other in a ring. A seal that
// is broken stays broken: it stops no change, and fsck names it.
func (tx *txn) moveSeals() error {
	for _, table := range slices.Sorted(maps.Keys(tx.seals)) {
		d := tx.seals[table]
		if d.equal(&tableSeal{}) {
			continue
		}
		old, s, err := tx.db.openSeal(table, tx.rawQueryRow(`SELECT state FROM seals WHERE name = $1`, table))
		var engine errEngine
		if errors.As(err, &engine) {
			return err
		}
		if err != nil {
			tx.db.log.ErrorContext(tx.ctx, "a table's seal is broken", "table", table, "error", err)
			continue
		}
		s.merge(d)
		n, err := tx.rawExec(`UPDATE seals SET state = $1 WHERE name = $2 AND state = $3`, tx.db.closeSeal(table, s), table, old)
		if err != nil {
			return err
		}
		if n != 1 {
			return errStale
		}
	}
	return nil
}

func (db *DB) openSeal(table string, r row) (sealed []byte, s *tableSeal, err error) {
	if err := r.Scan(&sealed); errors.Is(err, sql.ErrNoRows) {
		return nil, nil, ErrRowTampered.New("Table seals, row %s is missing.", table)
	} else if err != nil {
		return nil, nil, err
	}
	plain, err := db.cfg.Seal.Unseal(sealed, "seals", table, "state")
	if err == nil {
		err = json.Unmarshal(plain, &s)
	}
	if err != nil {
		return nil, nil, ErrRowTampered.Wrap(err, "Table seals, row %s.", table)
	}
	return sealed, s, nil
}

func (db *DB) closeSeal(table string, s *tableSeal) []byte {
	s.Names = bytes.TrimRight(s.Names, "\x00")
	plain, _ := json.Marshal(s) // numbers and octets always have a form
	return db.cfg.Seal.Seal(plain, "seals", table, "state")
}

// sealed reads a table's seal.
func (db *DB) sealed(ctx context.Context, table string) (*tableSeal, error) {
	_, s, err := db.openSeal(table, db.queryRow(ctx, `SELECT state FROM seals WHERE name = $1`, table))
	return s, err
}

// sealedTable is how fsck reads one: each row's name and MAC, and whether the row
// is what was written.
type sealedTable struct {
	name, query string
	row         func(db *DB, r row) (name string, mac []byte, err error)
}

// sealedTables are in the order of their names.
var sealedTables = []sealedTable{
	{"acme_accounts", `SELECT ` + acmeAccountColumns + ` FROM acme_accounts`, func(db *DB, r row) (string, []byte, error) {
		a, mac, err := db.scanAcmeAccount(r)
		return pair(a.Tenant, a.ID), mac, err
	}},
	{"acme_keys", `SELECT ` + acmeKeyColumns + ` FROM acme_keys`, func(db *DB, r row) (string, []byte, error) {
		k, mac, err := db.scanAcmeKey(r)
		return pair(k.Tenant, k.ID), mac, err
	}},
	{"acme_orders", `SELECT ` + acmeOrderColumns + ` FROM acme_orders`, func(db *DB, r row) (string, []byte, error) {
		o, mac, err := db.scanAcmeOrder(r)
		return pair(o.Tenant, o.ID), mac, err
	}},
	{"approval_requests", `SELECT ` + requestColumns + ` FROM approval_requests`, func(db *DB, r row) (string, []byte, error) {
		k := keepMAC{row: r}
		_, err := db.scanRequest(&k)
		return k.name, k.mac, err
	}},
	{"authorities", `SELECT ` + authorityColumns + ` FROM authorities`, func(db *DB, r row) (string, []byte, error) {
		a, err := db.scanAuthority(r)
		return a.Name, db.authorityMAC(&a), err
	}},
	{"authority_ends", `SELECT ` + endColumns + ` FROM authority_ends`, func(db *DB, r row) (string, []byte, error) {
		k := keepMAC{row: r}
		_, err := db.scanEnd(&k)
		return k.name, k.mac, err
	}},
	{"blast_members", `SELECT ` + blastMemberColumns + ` FROM blast_members`, func(db *DB, r row) (string, []byte, error) {
		key, _, _, mac, err := db.scanBlastMembers(r)
		return key, mac, err
	}},
	{"blast_plans", `SELECT ` + blastColumns + ` FROM blast_plans`, func(db *DB, r row) (string, []byte, error) {
		k := keepMAC{row: r}
		_, err := db.scanBlast(&k)
		return k.name, k.mac, err
	}},
	{"blocks", `SELECT ` + blockColumns + ` FROM blocks`, func(db *DB, r row) (string, []byte, error) {
		b, err := db.scanBlock(r)
		return b.key(), keyOnly, err
	}},
	*breakGlassTable,
	{"campaigns", `SELECT ` + campaignColumns + ` FROM campaigns`, func(db *DB, r row) (string, []byte, error) {
		k := keepMAC{row: r}
		_, err := db.scanCampaign(&k)
		return k.name, k.mac, err
	}},
	{"crls", `SELECT authority, shard, number, this_update, next_update, leaf, mac FROM crls`, func(db *DB, r row) (string, []byte, error) {
		h, err := db.scanListHead(r)
		return listKey(h.Authority, h.Shard), keyOnly, err
	}},
	{"cross_certificates", `SELECT ` + crossColumns + ` FROM cross_certificates`, func(db *DB, r row) (string, []byte, error) {
		k := keepMAC{row: r}
		_, err := db.scanCross(&k)
		return k.name, k.mac, err
	}},
	{"dark_entries", `SELECT ` + darkColumns + ` FROM dark_entries`, func(db *DB, r row) (string, []byte, error) {
		e, mac, err := db.scanDark(r)
		return darkKey(&e), mac, err
	}},
	{"device_certificates", `SELECT ` + certificateColumns + ` FROM device_certificates c`, func(db *DB, row row) (string, []byte, error) {
		var r certificateRow
		err := row.Scan(r.dest()...)
		if err == nil {
			_, err = db.verifyCertificate(&r)
		}
		return pair(r.c.Tenant, r.c.ID), r.mac, err
	}},
	{"device_trust", `SELECT ` + bundleColumns + ` FROM device_trust`, func(db *DB, r row) (string, []byte, error) {
		k := keepMAC{row: r}
		_, err := db.scanBundle(&k)
		return k.name, k.mac, err
	}},
	{"enrol_passwords", `SELECT ` + passwordColumns + ` FROM enrol_passwords`, func(db *DB, r row) (string, []byte, error) {
		p, mac, err := db.scanPassword(r)
		return pair(p.Tenant, p.ID), mac, err
	}},
	{"firmware", `SELECT ` + firmwareColumns + ` FROM firmware`, func(db *DB, r row) (string, []byte, error) {
		k := keepMAC{row: r}
		_, err := db.scanArtifact(&k)
		return k.name, k.mac, err
	}},
	{"fleet_templates", `SELECT ` + fleetTemplateColumns + ` FROM fleet_templates`, func(db *DB, r row) (string, []byte, error) {
		k := keepMAC{row: r}
		_, err := db.scanFleetTemplate(&k)
		return k.name, k.mac, err
	}},
	{"hooks", `SELECT ` + hookColumns + ` FROM hooks`, func(db *DB, r row) (string, []byte, error) {
		k := keepMAC{row: r}
		_, err := db.scanHook(&k)
		return k.name, k.mac, err
	}},
	{"orders", `SELECT ` + orderColumns + ` FROM orders`, func(db *DB, r row) (string, []byte, error) {
		k := keepMAC{row: r}
		_, err := db.scanOrder(&k)
		return k.name, k.mac, err
	}},
	{"ownership", `SELECT ` + ownershipColumns + ` FROM ownership`, func(db *DB, r row) (string, []byte, error) {
		u, mac, err := db.scanUnit(r)
		return pair(u.Home, u.Holder), mac, err
	}},
	{"ownership_acts", `SELECT ` + actColumns + ` FROM ownership_acts`, func(db *DB, r row) (string, []byte, error) {
		a, mac, err := db.scanAct(r)
		return pair(a.Tenant, a.Name), mac, err
	}},
	{"ownership_events", `SELECT ` + eventsColumns + ` FROM ownership_events`, func(db *DB, r row) (string, []byte, error) {
		e, err := db.scanOwnershipEvent(r)
		return eventKey(&e), keyOnly, err
	}},
	{"policies", `SELECT ` + policyColumns + ` FROM policies`, func(db *DB, r row) (string, []byte, error) {
		k := keepMAC{row: r}
		_, err := db.scanPolicy(&k)
		return k.name, k.mac, err
	}},
	{"policy_attachments", `SELECT ` + grantColumns + ` FROM policy_attachments a`, func(db *DB, row row) (string, []byte, error) {
		var r grantRow
		err := row.Scan(r.dest()...)
		if err == nil {
			err = db.verifyGrant(&r)
		}
		return r.name(), r.mac, err
	}},
	{"policy_versions", `SELECT ` + policyVersionColumns + ` FROM policy_versions`, func(db *DB, r row) (string, []byte, error) {
		k := keepMAC{row: r}
		v, err := db.scanPolicyVersion(&k)
		return versionName(v.Tenant, v.Policy, v.Number), k.mac, err
	}},
	{"principals", `SELECT ` + principalColumns + ` FROM principals`, func(db *DB, r row) (string, []byte, error) {
		k := keepMAC{row: r}
		_, err := db.scanPrincipal(&k)
		return k.name, k.mac, err
	}},
	{"registered_cas", `SELECT ` + caColumns + ` FROM registered_cas`, func(db *DB, r row) (string, []byte, error) {
		k := keepMAC{row: r}
		_, err := db.scanCA(&k)
		return k.name, k.mac, err
	}},
	{"registration_budgets", `SELECT ` + budgetColumns + ` FROM registration_budgets`, func(db *DB, r row) (string, []byte, error) {
		k := keepMAC{row: r}
		_, err := db.scanBudget(&k)
		return k.name, k.mac, err
	}},
	{"registration_events", `SELECT ` + eventColumns + ` FROM registration_events`, func(db *DB, r row) (string, []byte, error) {
		k := keepMAC{row: r}
		_, err := db.scanEvent(&k)
		return k.name, k.mac, err
	}},
	{"registration_grants", `SELECT ` + grantStoreColumns + ` FROM registration_grants`, func(db *DB, r row) (string, []byte, error) {
		k := keepMAC{row: r}
		_, err := db.scanClaimGrant(&k)
		return k.name, k.mac, err
	}},
	{"registrations", `SELECT ` + registrationColumns + ` FROM registrations`, func(db *DB, r row) (string, []byte, error) {
		k := keepMAC{row: r}
		_, err := db.scanRegistration(&k)
		return k.name, k.mac, err
	}},
	{"restores", `SELECT ` + restoredColumns + ` FROM restores`, func(db *DB, r row) (string, []byte, error) {
		v, mac, err := db.scanRestored(r)
		return v.ID, mac, err
	}},
	{"revocations", `SELECT ` + revocationColumns + ` FROM revocations`, func(db *DB, r row) (string, []byte, error) {
		v, err := db.scanRevocation(r)
		return revocationKey(v.Authority, v.Serial), keyOnly, err
	}},
	{"certificate_uses", `SELECT ` + useColumns + ` FROM certificate_uses u`, func(db *DB, r row) (string, []byte, error) {
		u, err := db.scanUse(r)
		return pair(u.Tenant, u.Certificate), keyOnly, err
	}},
	{"rotation_events", `SELECT ` + rotationColumns + ` FROM rotation_events`, func(db *DB, r row) (string, []byte, error) {
		_, name, err := db.scanRotation(r)
		return name, keyOnly, err
	}},
	{"schema_version", `SELECT version, min_reader, applied_at, mac FROM schema_version`, scanVersion},
	{"service_keys", `SELECT ` + serviceKeyColumns + ` FROM service_keys`, func(db *DB, r row) (string, []byte, error) {
		k, mac, err := db.scanServiceKey(r)
		return k.key(), mac, err
	}},
	{"serving", `SELECT ` + servingColumns + ` FROM serving`, func(db *DB, r row) (string, []byte, error) {
		k := keepMAC{row: r}
		_, err := db.scanServing(&k)
		return k.name, k.mac, err
	}},
	{"station_codes", `SELECT ` + codeColumns + ` FROM station_codes`, func(db *DB, r row) (string, []byte, error) {
		c, mac, err := db.scanCode(r)
		return codeKey(&c), mac, err
	}},
	{"stations", `SELECT ` + stationColumns + ` FROM stations`, func(db *DB, r row) (string, []byte, error) {
		k := keepMAC{row: r}
		_, err := db.scanStation(&k)
		return k.name, k.mac, err
	}},
	{"templates", `SELECT ` + templateColumns + ` FROM templates`, func(db *DB, r row) (string, []byte, error) {
		k := keepMAC{row: r}
		_, err := db.scanTemplate(&k)
		return k.name, k.mac, err
	}},
	{"thing_groups", `SELECT ` + groupColumns + ` FROM thing_groups g`, func(db *DB, r row) (string, []byte, error) {
		g, mac, err := db.scanGroup(r)
		return groupKey(g.Tenant, g.Class, g.Fold()), mac, err
	}},
	{"thing_principals", `SELECT ` + attachmentColumns + ` FROM thing_principals p`, func(db *DB, r row) (string, []byte, error) {
		a, err := db.scanAttachment(r)
		return a.name(), a.mac, err
	}},
	{"thing_types", `SELECT ` + typeColumns + ` FROM thing_types`, func(db *DB, r row) (string, []byte, error) {
		k := keepMAC{row: r}
		_, err := db.scanType(&k)
		return k.name, k.mac, err
	}},
	{"trail", `SELECT ` + trailColumns + ` FROM trail`, sealTrail},
	{"trust_rollovers", `SELECT ` + rolloverColumns + ` FROM trust_rollovers`, func(db *DB, r row) (string, []byte, error) {
		k := keepMAC{row: r}
		_, err := db.scanRollover(&k)
		return k.name, k.mac, err
	}},
}

// keepMAC remembers of a row what its scan does not give: the first two columns,
// which name it, and the last, its MAC.
type keepMAC struct {
	row
	name string
	mac  []byte
}

func (k *keepMAC) Scan(dest ...any) error {
	err := k.row.Scan(dest...)
	k.name, k.mac = pair(*dest[0].(*string), *dest[1].(*string)), *dest[len(dest)-1].(*[]byte)
	return err
}

// pair is the name of a row in its table.
func pair(tenant, name string) string { return tenant + "/" + name }

func (db *DB) versionMAC(version, reader, at int64) []byte {
	return db.cfg.Seal.MAC("schema_version", number(version), number(reader), number(at))
}

// scanVersion reads a row of the table of migrations.
func scanVersion(db *DB, r row) (name string, mac []byte, err error) {
	var version, reader, at int64
	err = r.Scan(&version, &reader, &at, &mac)
	if err == nil && !hmac.Equal(mac, db.versionMAC(version, reader, at)) {
		err = ErrRowTampered.New("Table schema_version, version %d.", version)
	}
	return "version " + strconv.FormatInt(version, 10), mac, err
}

// openSeals makes the seals of a new database, and after an upgrade those of the
// new tables and of the migrations. Otherwise a database that was ever written to
// gets none.
func (db *DB) openSeals(ctx context.Context, upgraded bool) error {
	var used bool
	isUsed := func(ctx context.Context) error {
		return db.queryRow(ctx, `SELECT EXISTS (SELECT 1 FROM seals) OR EXISTS (SELECT 1 FROM clock_high) OR EXISTS (SELECT 1 FROM log_leaves)`).Scan(&used)
	}
	if err := isUsed(ctx); err != nil || used && !upgraded {
		return err
	}
	return db.Atomic(ctx, func(ctx context.Context) error {
		if err := isUsed(ctx); err != nil || used && !upgraded {
			return err
		}
		for _, t := range sealedTables {
			upgrade := used && t.name != "schema_version"
			if upgrade { // only a table that came with it needs one
				var sealed bool
				if err := db.queryRow(ctx, `SELECT EXISTS (SELECT 1 FROM seals WHERE name = $1)`, t.name).Scan(&sealed); err != nil {
					return err
				}
				if sealed {
					continue
				}
			}
			s, err := db.readTable(ctx, &t, func(string, error) {})
			if err != nil {
				return err
			}
			if upgrade && s.Rows > 0 {
				continue
			}
			// Of two services that start together on a new database one is late.
			if _, err := db.exec(ctx, `INSERT INTO seals (name, state) VALUES ($1, $2) ON CONFLICT (name) DO UPDATE SET state = excluded.state WHERE $3`, t.name, db.closeSeal(t.name, s), used); err != nil {
				return err
			}
		}
		return nil
	})
}

// readTable makes a table's seal anew and reports rows that are not as written.
func (db *DB) readTable(ctx context.Context, t *sealedTable, report func(object string, err error)) (*tableSeal, error) {
	s := &tableSeal{}
	rows, err := db.query(ctx, t.query)
	err = each(rows, err, func(r row) error {
		name, mac, err := t.row(db, r)
		if err != nil {
			report(t.name+" "+name, err)
		}
		s.change(1, db.sumOf(t.name, name, mac), []byte(name))
		return nil
	})
	return s, err
}

// checkSeals reads every sealed table and compares it with its seal. The service
// may write meanwhile, so a difference counts only if the seal stayed the same.
func (db *DB) checkSeals(ctx context.Context, report func(object string, err error)) error {
	known := map[string]bool{}
	for _, t := range sealedTables {
		known[t.name] = true
		for try := 0; ; try++ {
			type finding struct {
				object string
				err    error
			}
			var found []finding
			want, err := db.sealed(ctx, t.name)
			if err != nil {
				found = append(found, finding{"seals " + t.name, err})
			}
			have, rerr := db.readTable(ctx, &t, func(object string, err error) { found = append(found, finding{object, err}) })
			if rerr != nil {
				return rerr
			}
			if err == nil && !have.equal(want) {
				if now, err := db.sealed(ctx, t.name); err == nil && !now.equal(want) && try < 10 {
					continue
				}
				have.Rows = -have.Rows
				have.merge(want) // the difference
				switch name := string(bytes.TrimRight(have.Names, "\x00")); {
				case have.Rows == 1:
					found = append(found, finding{t.name + " " + name, errors.New("the row was deleted")})
				case have.Rows == -1:
					found = append(found, finding{t.name + " " + name, errors.New("the row was added by something else")})
				case have.Rows != 0:
					found = append(found, finding{t.name, fmt.Errorf("%d rows more were written than there are", have.Rows)})
				case len(found) == 0:
					found = append(found, finding{t.name, errors.New("its rows are older ones, or have other names")})
				}
			}
			for _, f := range found {
				report(f.object, f.err)
			}
			break
		}
	}
	rows, err := db.query(ctx, `SELECT name FROM seals`)
	return each(rows, err, func(r row) error {
		var name string
		err := r.Scan(&name)
		if !known[name] {
			report("seals "+name, errors.New("there is no such table"))
		}
		return err
	})
}

// checkSchema compares the migrations that the database names with the program's.
func (db *DB) checkSchema(ctx context.Context, report func(object string, err error)) error {
	steps, err := migrations.For(db.engine)
	if err != nil {
		return err
	}
	have := map[int]bool{}
	rows, err := db.query(ctx, `SELECT version FROM schema_version`)
	if err := each(rows, err, func(r row) error {
		var v int
		err := r.Scan(&v)
		have[v] = true
		return err
	}); err != nil {
		return err
	}
	for _, m := range steps {
		if !have[m.Number] {
			report(fmt.Sprintf("schema_version version %d", m.Number), errors.New("the row was deleted"))
		}
	}
	return nil
}
