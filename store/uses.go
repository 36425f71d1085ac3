package store

import (
	"context"
	"errors"
	"time"

	"hallmark/access"
	"hallmark/fleet"
	"hallmark/fleet/presence"
)

const useColumns = `u.tenant, u.certificate, u.at, u.mac`

// usesSQL begins with the thing's certificates, which are few: a CROSS JOIN, because
// SQLite would else go through all uses of the tenant.
const usesSQL = `SELECT ` + useColumns + ` FROM thing_principals p CROSS JOIN certificate_uses u WHERE u.tenant = p.tenant AND u.certificate = p.certificate AND p.tenant = $1 AND p.thing = $2 ORDER BY p.certificate`

func (db *DB) useMAC(u *presence.Use) []byte {
	return db.cfg.Seal.MAC("certificate_uses", useFields(u)...)
}

func useFields(u *presence.Use) [][]byte {
	return append([][]byte{[]byte(u.Tenant), []byte(u.Certificate)}, decimals(millis(u.At))...)
}

func (db *DB) scanUse(r row) (u presence.Use, err error) {
	var at int64
	var mac []byte
	if err := r.Scan(&u.Tenant, &u.Certificate, &at, &mac); err != nil {
		return u, err
	}
	u.At = timeOf(at)
	if err := db.cfg.Seal.Verify(mac, "certificate_uses", useFields(&u)...); err != nil {
		return u, ErrRowTampered.Wrap(err, "Table certificate_uses, row %s.", pair(u.Tenant, u.Certificate))
	}
	return u, nil
}

// PutUses implements [presence.Store]: those that are new, and then the others.
func (db *DB) PutUses(ctx context.Context, uses []presence.Use) error {
	return db.Atomic(ctx, func(ctx context.Context) error {
		tx := txFrom(ctx)
		put := func(conflict string, each func(row) error) error {
			steps := tx.insertSteps(`certificate_uses (tenant, certificate, at, mac)`, "", conflict, 4, len(uses), func(i int, args []any) []any {
				u := &uses[i]
				return append(args, u.Tenant, u.Certificate, millis(u.At), db.useMAC(u))
			})
			for i := range steps {
				steps[i].row = each
			}
			return tx.pipe(steps...)
		}
		if err := put(` ON CONFLICT (tenant, certificate) DO NOTHING RETURNING tenant, certificate`, func(r row) error {
			name, err := scanPair(r)
			tx.reseal("certificate_uses", name, nil, keyOnly)
			return err
		}); err != nil {
			return err
		}
		return put(` ON CONFLICT (tenant, certificate) DO UPDATE SET at = excluded.at, mac = excluded.mac WHERE certificate_uses.at < excluded.at`, nil)
	})
}

func scanPair(r row) (name string, err error) {
	var tenant, key string
	err = r.Scan(&tenant, &key)
	return pair(tenant, key), err
}

// ForgetUses implements [presence.Store].
func (db *DB) ForgetUses(ctx context.Context, before time.Time, limit int) (n int64, err error) {
	err = db.Atomic(ctx, func(ctx context.Context) error {
		n = 0
		rows, err := db.query(ctx, `DELETE FROM certificate_uses WHERE (tenant, certificate) IN (SELECT tenant, certificate FROM certificate_uses WHERE at < $1 ORDER BY at LIMIT $2) RETURNING tenant, certificate`, millis(before), limit)
		return each(rows, err, func(r row) error {
			name, err := scanPair(r)
			txFrom(ctx).reseal("certificate_uses", name, keyOnly, nil)
			n++
			return err
		})
	})
	return n, err
}

// CertificateUses is when the certificates of a thing were last used over HTTPS.
func (db *DB) CertificateUses(ctx context.Context, s access.Scope, thing fleet.ThingName) (out []presence.Use, err error) {
	rows, err := db.query(ctx, usesSQL, s.Tenant, thing.Fold())
	err = each(rows, err, func(r row) error {
		u, err := db.scanUse(r)
		out = append(out, u)
		return err
	})
	return out, err
}

// Contacts is presence for whoever asks when a device was last there, in whatever way:
// beside the states of its clients it gives one of no client, and not connected, for
// each certificate that was used over HTTPS.
type Contacts struct{ DB *DB }

// Presence gives both.
func (c Contacts) Presence(ctx context.Context, s access.Scope, thing fleet.ThingName) ([]presence.State, error) {
	states, err := c.DB.Presence(ctx, s, thing)
	if err != nil {
		return nil, err
	}
	uses, err := c.DB.CertificateUses(ctx, s, thing)
	for _, u := range uses {
		states = append(states, presence.State{Tenant: u.Tenant, Thing: thing, Certificate: u.Certificate, At: u.At})
	}
	return states, err
}

// brokenUses names the rows that this program did not write.
func (db *DB) brokenUses(ctx context.Context, report func(check, object, detail string)) error {
	tenant, certificate := "", ""
	for {
		n := 0
		rows, err := db.query(ctx, `SELECT `+useColumns+` FROM certificate_uses u WHERE (u.tenant, u.certificate) > ($1, $2) ORDER BY u.tenant, u.certificate LIMIT $3`, tenant, certificate, chunk)
		err = each(rows, err, func(r row) error {
			u, err := db.scanUse(r)
			if errors.Is(err, ErrRowTampered) {
				report("row-tampered", "certificate_uses "+pair(u.Tenant, u.Certificate), "The row is not as this program wrote it.")
				err = nil
			}
			tenant, certificate = u.Tenant, u.Certificate
			n++
			return err
		})
		if err != nil || n == 0 {
			return err
		}
	}
}
