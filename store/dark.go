package store

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"database/sql"
	"errors"
	"strconv"

	"hallmark/access"
	"hallmark/bootstrap"
	"hallmark/ca"
	"hallmark/ca/tlog"
	"hallmark/crl"
)

var _ bootstrap.DarkStore = (*DB)(nil)

const darkColumns = `tenant, day, number, holder, authority, serial, spki, policy, at, mac`

func (db *DB) darkMAC(e *bootstrap.DarkEntry) []byte {
	return db.cfg.Seal.MAC("dark_entries", []byte(e.Tenant), number(e.Day), number(e.Number), []byte(e.Holder), []byte(e.Authority), e.Serial[:], e.SPKI[:], []byte(e.Policy), number(millis(e.At)))
}

func darkKey(e *bootstrap.DarkEntry) string {
	return pair(e.Tenant, strconv.FormatInt(e.Day, 10)) + "/" + strconv.FormatInt(e.Number, 10)
}

func (db *DB) scanDark(r row) (e bootstrap.DarkEntry, mac []byte, err error) {
	var serial, spki []byte
	var at int64
	if err := r.Scan(&e.Tenant, &e.Day, &e.Number, &e.Holder, &e.Authority, &serial, &spki, &e.Policy, &at, &mac); err != nil {
		return e, nil, err
	}
	copy(e.Serial[:], serial)
	copy(e.SPKI[:], spki)
	e.At = timeOf(at)
	if len(serial) != ca.SerialLen || len(spki) != sha256.Size || !hmac.Equal(mac, db.darkMAC(&e)) {
		err = ErrRowTampered.New("Table dark_entries, row %s.", darkKey(&e))
	}
	return e, mac, err
}

// EnterDark implements [bootstrap.DarkStore]. The number of the day is the key, so
// that of two nodes one gets the last place.
func (db *DB) EnterDark(ctx context.Context, e bootstrap.DarkEntry, perDay int64) error {
	e.Holder = fold(e.Holder)
	return db.Atomic(ctx, func(ctx context.Context) error {
		var known bool
		if err := db.queryRow(ctx, `SELECT EXISTS (SELECT 1 FROM dark_entries WHERE tenant = $1 AND holder = $2 AND serial = $3 AND spki = $4)`, e.Tenant, e.Holder, e.Serial[:], e.SPKI[:]).Scan(&known); err != nil || known {
			return err
		}
		var last int64
		if err := db.queryRow(ctx, `SELECT COALESCE(MAX(number), 0) FROM dark_entries WHERE tenant = $1 AND day = $2`, e.Tenant, e.Day).Scan(&last); err != nil {
			return err
		}
		if last >= perDay {
			return bootstrap.ErrDarkSpent.New("%d came back today.", last)
		}
		e.Number = last + 1
		mac := db.darkMAC(&e)
		n, err := db.exec(ctx, `INSERT INTO dark_entries (`+darkColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT DO NOTHING`,
			e.Tenant, e.Day, e.Number, e.Holder, e.Authority, e.Serial[:], e.SPKI[:], e.Policy, millis(e.At), mac)
		if err == nil && n != 1 {
			return errStale
		}
		if err != nil {
			return err
		}
		txFrom(ctx).reseal("dark_entries", darkKey(&e), nil, mac)
		return nil
	})
}

// DarkEntries implements [bootstrap.DarkStore].
func (db *DB) DarkEntries(ctx context.Context, s access.Scope, holder string) (out []bootstrap.DarkEntry, err error) {
	rows, err := db.query(ctx, `SELECT `+darkColumns+` FROM dark_entries WHERE tenant = $1 AND holder = $2 ORDER BY day, number`, s.Tenant, fold(holder))
	err = each(rows, err, func(r row) error {
		e, _, err := db.scanDark(r)
		out = append(out, e)
		return err
	})
	return out, err
}

// Withdrawn implements [bootstrap.DarkStore]: it asks the permanent table, and the
// log for a revocation whose row is gone (S32, S33). Both know what has expired; a
// list does not.
func (db *DB) Withdrawn(ctx context.Context, tenant, authority string, serial ca.Serial) (reason crl.Reason, withdrawn bool, err error) {
	story, err := db.Story(ctx, tenant, authority, serial)
	if err != nil {
		return 0, false, err
	}
	if v := story.Revocation; v != nil && v.ReleasedAt.IsZero() {
		return v.Reason, true, nil
	}
	var last string
	err = db.queryRow(ctx, `SELECT type FROM log_leaves WHERE type <> 'issue' AND serial = $1 ORDER BY idx DESC LIMIT 1`, serial[:]).Scan(&last)
	switch {
	case errors.Is(err, sql.ErrNoRows):
		return 0, false, nil
	case err != nil:
		return 0, false, err
	}
	return crl.Unspecified, last != string(tlog.Release), nil
}
