package store

import (
	"context"
	"database/sql"
	"errors"

	"hallmark/ca"
	"hallmark/crl"
)

var _ crl.FilterStore = (*DB)(nil)

// EachSerial implements [crl.FilterStore].
func (db *DB) EachSerial(ctx context.Context, authority string, f func(ca.Serial) error) error {
	return chunks(func(after int64) (last int64, n int, err error) {
		rows, err := db.query(ctx, `SELECT id, serial, authority FROM reservations WHERE id > $1 ORDER BY id LIMIT $2`, after, chunk)
		err = each(rows, err, func(r row) error {
			var serial []byte
			var by string
			if err := r.Scan(&last, &serial, &by); err != nil {
				return err
			}
			n++
			if by != authority || len(serial) != ca.SerialLen {
				return nil
			}
			return f(ca.Serial(serial))
		})
		return last, n, err
	})
}

// EachRevoked implements [crl.FilterStore].
func (db *DB) EachRevoked(ctx context.Context, authority string, from int64, f func(crl.Revocation, error) error) error {
	rows, err := db.query(ctx, `SELECT `+revocationColumns+` FROM revocations WHERE leaf >= $1 AND authority || '' = $2 ORDER BY leaf`, from, authority)
	return each(rows, err, func(r row) error {
		v, err := db.scanRevocation(r)
		return f(v, err)
	})
}

// Filter implements [crl.FilterStore].
func (db *DB) Filter(ctx context.Context, authority string) (*crl.StoredFilter, error) {
	f := &crl.StoredFilter{Authority: authority}
	var next int64
	err := db.queryRow(ctx, `SELECT sequence, size, next_update, file, delta FROM crl_filters WHERE authority = $1`, authority).Scan(&f.Sequence, &f.Size, &next, &f.File, &f.Delta)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	f.NextUpdate = timeOf(next)
	return f, err
}

// PutFilter implements [crl.FilterStore]: the condition on the old sequence lets
// one of two nodes win.
func (db *DB) PutFilter(ctx context.Context, f crl.StoredFilter, old int64) error {
	return db.Atomic(ctx, func(ctx context.Context) error {
		var n int64
		var err error
		if old == 0 {
			n, err = db.exec(ctx, `INSERT INTO crl_filters (authority, sequence, size, next_update, file, delta) VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT (authority) DO NOTHING`,
				f.Authority, f.Sequence, f.Size, millis(f.NextUpdate), f.File, f.Delta)
		} else {
			n, err = db.exec(ctx, `UPDATE crl_filters SET sequence = $1, size = $2, next_update = $3, file = $4, delta = $5 WHERE authority = $6 AND sequence = $7 AND sequence < $1`,
				f.Sequence, f.Size, millis(f.NextUpdate), f.File, f.Delta, f.Authority, old)
		}
		if err == nil && n == 0 {
			return crl.ErrListMoved.New("Authority %s, its filter.", f.Authority)
		}
		return err
	})
}

// NewestSerials gives serial numbers of an authority that have a certificate, the
// newest first.
func (db *DB) NewestSerials(ctx context.Context, authority string, n int) (out []ca.Serial, err error) {
	rows, err := db.query(ctx, `SELECT r.serial FROM reservations r JOIN certificates c ON c.reservation = r.id WHERE r.authority = $1 ORDER BY r.id DESC LIMIT $2`, authority, n)
	err = each(rows, err, func(r row) error {
		var serial []byte
		if err := r.Scan(&serial); err != nil {
			return err
		}
		if len(serial) == ca.SerialLen {
			out = append(out, ca.Serial(serial))
		}
		return nil
	})
	return out, err
}
