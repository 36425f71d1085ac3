package store

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"database/sql"
	"errors"
	"time"

	"hallmark/ca"
	"hallmark/ca/tlog"
	"hallmark/crl"
)

var (
	_ crl.ListStore   = (*DB)(nil)
	_ crl.StatusStore = (*DB)(nil)
	_ crl.FsckStore   = (*DB)(nil)
)

// ListHeads implements [crl.ListStore].
func (db *DB) ListHeads(ctx context.Context) (out []crl.ListHead, err error) {
	rows, err := db.query(ctx, `SELECT authority, shard, number, this_update, next_update, leaf FROM crls ORDER BY authority, shard`)
	err = each(rows, err, func(r row) error {
		var h crl.ListHead
		var this, next int64
		if err := r.Scan(&h.Authority, &h.Shard, &h.Number, &this, &next, &h.Leaf); err != nil {
			return err
		}
		h.ThisUpdate, h.NextUpdate = timeOf(this), timeOf(next)
		out = append(out, h)
		return nil
	})
	return out, err
}

// List implements [crl.ListStore].
func (db *DB) List(ctx context.Context, authority string, shard int, have int64) (*crl.StoredList, error) {
	l := &crl.StoredList{ListHead: crl.ListHead{Authority: authority, Shard: shard}}
	var this, next int64
	err := db.queryRow(ctx, `SELECT number, this_update, next_update, leaf, CASE WHEN number > $3 THEN der END FROM crls WHERE authority = $1 AND shard = $2`, authority, shard, have).
		Scan(&l.Number, &this, &next, &l.Leaf, &l.DER)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	l.ThisUpdate, l.NextUpdate = timeOf(this), timeOf(next)
	return l, nil
}

// PutList implements [crl.ListStore]: the condition on the old number lets one
// of two nodes win (A32). A list of a time that is not yet would outlive the
// mistake, so a clock that jumped publishes nothing (A74).
func (db *DB) PutList(ctx context.Context, l crl.StoredList, old int64) error {
	if err := db.CheckClock(); errors.Is(err, ErrClockAhead) {
		return err
	}
	return db.Atomic(ctx, func(ctx context.Context) error {
		var n int64
		var err error
		if old == 0 {
			n, err = db.exec(ctx, `INSERT INTO crls (authority, shard, number, this_update, next_update, leaf, der) VALUES ($1, $2, $3, $4, $5, $6, $7) ON CONFLICT (authority, shard) DO NOTHING`,
				l.Authority, l.Shard, l.Number, millis(l.ThisUpdate), millis(l.NextUpdate), l.Leaf, l.DER)
		} else {
			n, err = db.exec(ctx, `UPDATE crls SET number = $1, this_update = $2, next_update = $3, leaf = $4, der = $5 WHERE authority = $6 AND shard = $7 AND number = $8 AND number < $1`,
				l.Number, millis(l.ThisUpdate), millis(l.NextUpdate), l.Leaf, l.DER, l.Authority, l.Shard, old)
		}
		if err == nil && n == 0 {
			return crl.ErrListMoved.New("Authority %s, shard %d.", l.Authority, l.Shard)
		}
		return err
	})
}

// ShardRevocations implements [crl.ListStore].
func (db *DB) ShardRevocations(ctx context.Context, authority string, shard int, endFrom time.Time, f func(crl.Revocation, error) error) error {
	rows, err := db.query(ctx, `SELECT `+revocationColumns+` FROM revocations WHERE authority = $1 AND shard = $2 AND released_at = 0 AND not_after >= $3 ORDER BY serial`,
		authority, shard, millis(endFrom))
	return each(rows, err, func(r row) error {
		v, err := scanRevocation(r)
		return f(v, err)
	})
}

// ShardChanges implements [crl.ListStore].
func (db *DB) ShardChanges(ctx context.Context, authority string, shard int, fromLeaf int64, f func(crl.Revocation, error) error) error {
	rows, err := db.query(ctx, `SELECT `+revocationColumns+` FROM revocations WHERE leaf >= $1 AND authority = $2 AND shard = $3 ORDER BY serial`, fromLeaf, authority, shard)
	return each(rows, err, func(r row) error {
		v, err := scanRevocation(r)
		return f(v, err)
	})
}

// Evidence implements [crl.ListStore].
func (db *DB) Evidence(ctx context.Context, authority string, serial ca.Serial) (e crl.Evidence, err error) {
	var end int64
	var der []byte
	var released, leaf sql.NullInt64
	err = db.queryRow(ctx, `SELECT r.not_after, c.der, v.released_at, v.leaf FROM reservations r
		LEFT JOIN certificates c ON c.reservation = r.id
		LEFT JOIN revocations v ON v.authority = r.authority AND v.serial = r.serial
		WHERE r.serial = $1 AND r.authority = $2`, serial[:], authority).Scan(&end, &der, &released, &leaf)
	if errors.Is(err, sql.ErrNoRows) {
		return e, nil
	}
	if err != nil {
		return e, err
	}
	e.NotAfter = timeOf(end)
	if der != nil { // what the CA signed counts more than a column
		if c, err := x509.ParseCertificate(der); err == nil {
			e.NotAfter = c.NotAfter
		}
	}
	if released.Int64 == 0 {
		return e, nil
	}
	l, of, err := db.fsckLeaf(ctx, leaf.Int64)
	if err != nil || l == nil {
		return e, err
	}
	e.Released = l.Type == tlog.Release && string(of) == string(serial[:]) && l.Subject == sha256.Sum256(serial[:]) && l.Compute() == l.Entry
	return e, nil
}

const leafColumns = `idx, type, tenant, account, holder, subject, salt, entry, serial, at`

// scanLeaf reads leafColumns, and more after them.
func scanLeaf(r row, more ...any) (l tlog.Leaf, serial []byte, err error) {
	var subject, salt, entry []byte
	err = r.Scan(append([]any{&l.Index, (*string)(&l.Type), &l.Tenant, &l.Account, &l.Holder, &subject, &salt, &entry, &serial, &l.At}, more...)...)
	copy(l.Subject[:], subject)
	copy(l.Salt[:], salt)
	copy(l.Entry[:], entry)
	return l, serial, err
}

// Status implements [crl.StatusStore].
func (db *DB) Status(ctx context.Context, authority string, serial ca.Serial) (s crl.Status, err error) {
	var issued, reason, at, released sql.NullInt64
	err = db.queryRow(ctx, `SELECT c.issued_at, v.reason, v.revoked_at, v.released_at FROM reservations r
		LEFT JOIN certificates c ON c.reservation = r.id
		LEFT JOIN revocations v ON v.authority = r.authority AND v.serial = r.serial
		WHERE r.serial = $1 AND r.authority = $2`, serial[:], authority).Scan(&issued, &reason, &at, &released)
	if errors.Is(err, sql.ErrNoRows) {
		return s, nil
	}
	if err != nil {
		return s, err
	}
	s.Issued = issued.Valid
	if at.Valid && released.Int64 == 0 {
		s.Revoked, s.Reason, s.At = true, crl.Reason(reason.Int64), timeOf(at.Int64)
	}
	return s, nil
}

// EachRevocation implements [crl.FsckStore].
func (db *DB) EachRevocation(ctx context.Context, f func(crl.Revocation, error) error) error {
	rows, err := db.query(ctx, `SELECT `+revocationColumns+` FROM revocations ORDER BY leaf`)
	return each(rows, err, func(r row) error {
		v, err := scanRevocation(r)
		return f(v, err)
	})
}

// EachStatusLeaf implements [crl.FsckStore].
func (db *DB) EachStatusLeaf(ctx context.Context, f func(tlog.Leaf, []byte) error) error {
	return chunks(func(after int64) (last int64, n int, err error) {
		rows, err := db.query(ctx, `SELECT `+leafColumns+` FROM log_leaves WHERE idx > $1 AND type <> 'issue' ORDER BY idx LIMIT $2`, after, chunk)
		err = each(rows, err, func(r row) error {
			l, serial, err := scanLeaf(r)
			if err != nil {
				return err
			}
			last, n = l.Index, n+1
			return f(l, serial)
		})
		return last, n, err
	})
}
