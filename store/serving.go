package store

import (
	"context"
	"crypto/hmac"
	"encoding/json"
	"errors"
	"slices"

	"hallmark/access"
	"hallmark/ca"
	"hallmark/ca/profile"
)

const servingColumns = `tenant, name, body, version, mac`

// bodyMAC covers a row that is named by tenant and name and has a body.
func (db *DB) bodyMAC(table, tenant, name string, body []byte, version int64) []byte {
	return db.cfg.Seal.MAC(table, []byte(tenant), []byte(name), body, number(version))
}

// scanBody reads such a row; it is believed only as it was written (S32).
func (db *DB) scanBody(table string, r row, into any) (tenant, name string, version int64, err error) {
	var body, mac []byte
	if err := r.Scan(&tenant, &name, &body, &version, &mac); err != nil {
		return "", "", 0, err
	}
	err = json.Unmarshal(body, into)
	if err == nil && !hmac.Equal(mac, db.bodyMAC(table, tenant, name, body, version)) {
		err = errors.New("the MAC is another's")
	}
	if err != nil {
		err = ErrRowTampered.Wrap(err, "Table %s, row %s.", table, pair(tenant, name))
	}
	return tenant, name, version, err
}

func (db *DB) scanServing(r row) (s ca.Serving, err error) {
	tenant, name, version, err := db.scanBody("serving", r, &s)
	s.Tenant, s.Name, s.Version = tenant, name, version
	return s, err
}

// Servings implements [ca.Servings]. Outside of a transaction the rows are held
// against the seals: if one were gone, another authority would issue.
func (db *DB) Servings(ctx context.Context) (out []ca.Serving, err error) {
	if txFrom(ctx) == nil {
		for _, table := range []string{"authorities", "serving"} {
			if err := db.whole(ctx, table); err != nil {
				return nil, err
			}
		}
	}
	rows, err := db.query(ctx, `SELECT `+servingColumns+` FROM serving ORDER BY tenant, name`)
	err = each(rows, err, func(r row) error {
		s, err := db.scanServing(r)
		out = append(out, s)
		return err
	})
	return out, err
}

// whole compares a small table with its seal. A change that comes in between is
// no difference.
func (db *DB) whole(ctx context.Context, table string) error {
	at := slices.IndexFunc(sealedTables, func(t sealedTable) bool { return t.name == table })
	for try := 0; ; try++ {
		want, err := db.sealed(ctx, table)
		if err != nil {
			return err
		}
		var bad error
		have, err := db.readTable(ctx, &sealedTables[at], func(_ string, err error) { bad = errors.Join(bad, err) })
		if err != nil || bad != nil {
			return errors.Join(err, bad)
		}
		if have.equal(want) {
			return nil
		}
		if now, err := db.sealed(ctx, table); err != nil || now.equal(want) || try == 10 {
			return errors.Join(err, ErrRowTampered.New("Table %s has not the rows that were written.", table))
		}
	}
}

// PutServing implements [ca.Servings].
func (db *DB) PutServing(ctx context.Context, s ca.Serving, was int64) error {
	s.Version = was + 1
	body, err := json.Marshal(&s)
	if err != nil {
		return err
	}
	mac := db.bodyMAC("serving", s.Tenant, s.Name, body, s.Version)
	return db.Atomic(ctx, func(ctx context.Context) error {
		db.authoritiesMoved(ctx)
		return db.put(ctx, sealedRow{table: "serving", name: pair(s.Tenant, s.Name), mac: mac, find: `SELECT mac FROM serving WHERE tenant = $1 AND name = $2`, key: []any{s.Tenant, s.Name}, changed: ca.ErrServingChanged}, was,
			`INSERT INTO serving (`+servingColumns+`) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING`, []any{s.Tenant, s.Name, body, s.Version, mac},
			`UPDATE serving SET body = $1, version = $2, mac = $3 WHERE tenant = $4 AND name = $5 AND version = $6`, []any{body, s.Version, mac, s.Tenant, s.Name, was})
	})
}

// declareFirst declares an authority that is installed for its duty, if nothing was
// ever declared for that: a duty whose authorities were revoked or taken out has
// nobody either, and who follows them takes two people to say (S36). One that is
// stored as active at once, which only benches and tests do, comes before those that
// are there.
func (db *DB) declareFirst(ctx context.Context, a *ca.Authority, always bool) error {
	if a.Duty == profile.DutyRoot || a.State != ca.StateActive {
		return nil
	}
	all, err := db.Servings(ctx)
	if err != nil {
		return err
	}
	s := ca.Serving{Tenant: a.Tenant, Name: string(a.Duty), Serves: string(a.Duty)}
	for _, have := range all {
		if have.Tenant == a.Tenant && have.Name == s.Name {
			s = have
		}
	}
	if s.Version > 0 && !always {
		return nil
	}
	s.Authorities = append([]string{a.Name}, s.Authorities...)
	return db.PutServing(ctx, s, s.Version)
}

const endColumns = `tenant, authority, body, version, mac`

func (db *DB) scanEnd(r row) (e ca.End, err error) {
	tenant, name, version, err := db.scanBody("authority_ends", r, &e)
	e.Tenant, e.Authority, e.Version = tenant, name, version
	return e, err
}

// Ends implements [ca.Ends].
func (db *DB) Ends(ctx context.Context, s access.Scope) (out []ca.End, err error) {
	rows, err := db.query(ctx, `SELECT `+endColumns+` FROM authority_ends WHERE tenant = $1 ORDER BY authority`, s.Tenant)
	err = each(rows, err, func(r row) error {
		e, err := db.scanEnd(r)
		out = append(out, e)
		return err
	})
	return out, err
}

// PutEnd implements [ca.Ends].
func (db *DB) PutEnd(ctx context.Context, e ca.End, was int64) error {
	e.Version = was + 1
	body, err := json.Marshal(&e)
	if err != nil {
		return err
	}
	mac := db.bodyMAC("authority_ends", e.Tenant, e.Authority, body, e.Version)
	return db.Atomic(ctx, func(ctx context.Context) error {
		db.authoritiesMoved(ctx)
		return db.put(ctx, sealedRow{table: "authority_ends", name: pair(e.Tenant, e.Authority), mac: mac, find: `SELECT mac FROM authority_ends WHERE tenant = $1 AND authority = $2`, key: []any{e.Tenant, e.Authority}, changed: ca.ErrEndChanged}, was,
			`INSERT INTO authority_ends (`+endColumns+`) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING`, []any{e.Tenant, e.Authority, body, e.Version, mac},
			`UPDATE authority_ends SET body = $1, version = $2, mac = $3 WHERE tenant = $4 AND authority = $5 AND version = $6`, []any{body, e.Version, mac, e.Tenant, e.Authority, was})
	})
}

// LastEnd implements [ca.Ends].
func (db *DB) LastEnd(ctx context.Context, authority string) (out ca.LastEnd, err error) {
	var end, unsigned int64
	err = db.queryRow(ctx, `SELECT COUNT(*), COALESCE(MAX(r.not_after), 0), COALESCE(SUM(CASE WHEN c.reservation IS NULL AND v.serial IS NULL THEN 1 ELSE 0 END), 0) FROM reservations r
		LEFT JOIN certificates c ON c.reservation = r.id
		LEFT JOIN revocations v ON v.authority = r.authority AND v.serial = r.serial
		WHERE r.authority = $1`, authority).Scan(&out.Certificates, &end, &unsigned)
	out.At, out.Unsigned = timeOf(end), unsigned
	return out, err
}

// authoritiesMoved wakes whoever keeps authorities and declarations in memory,
// once the transaction is durable.
func (db *DB) authoritiesMoved(ctx context.Context) {
	tx := txFrom(ctx)
	tx.after = append(tx.after, db.authorityWaiters.wake)
}

// AuthoritiesChanged is closed when this process changes an authority, a
// declaration or an end. Ask again for the next.
func (db *DB) AuthoritiesChanged() <-chan struct{} { return db.authorityWaiters.wait() }

// AuthoritiesMark is something that changes with every change of an authority,
// a declaration, an end or a cross certificate, by whichever node.
func (db *DB) AuthoritiesMark(ctx context.Context) (string, error) {
	var mark []byte
	rows, err := db.query(ctx, `SELECT state FROM seals WHERE name IN ('authorities', 'authority_ends', 'cross_certificates', 'serving') ORDER BY name`)
	err = each(rows, err, func(r row) error {
		var state []byte
		err := r.Scan(&state)
		mark = append(mark, state...)
		return err
	})
	return string(mark), err
}
