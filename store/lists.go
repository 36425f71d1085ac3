package store

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/x509"
	"database/sql"
	"errors"
	"math"
	"strconv"
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
	rows, err := db.query(ctx, `SELECT authority, shard, number, this_update, next_update, leaf, mac FROM crls ORDER BY authority, shard`)
	err = each(rows, err, func(r row) error {
		h, err := db.scanListHead(r)
		if errors.Is(err, ErrRowTampered) {
			err = nil
		}
		out = append(out, h)
		return err
	})
	return out, err
}

func listKey(authority string, shard int) string { return authority + "/" + strconv.Itoa(shard) }

// listMAC covers the row; the list itself is signed.
func (db *DB) listMAC(h *crl.ListHead) []byte {
	return db.cfg.Seal.MAC("crls", []byte(h.Authority), number(int64(h.Shard)), number(h.Number), number(millis(h.ThisUpdate)), number(millis(h.NextUpdate)), number(h.Leaf))
}

// scanListHead gives, with a row that was changed, a leaf from which everything
// is looked at again: one that is too high would leave revocations out.
func (db *DB) scanListHead(r row, more ...any) (h crl.ListHead, err error) {
	var this, next int64
	var mac []byte
	if err := r.Scan(append([]any{&h.Authority, &h.Shard, &h.Number, &this, &next, &h.Leaf, &mac}, more...)...); err != nil {
		return h, err
	}
	h.ThisUpdate, h.NextUpdate = timeOf(this), timeOf(next)
	if !hmac.Equal(mac, db.listMAC(&h)) {
		h.Leaf = math.MinInt64
		return h, ErrRowTampered.New("Table crls, row %s.", listKey(h.Authority, h.Shard))
	}
	return h, nil
}

// List implements [crl.ListStore].
func (db *DB) List(ctx context.Context, authority string, shard int, have int64) (*crl.StoredList, error) {
	l := &crl.StoredList{}
	var err error
	l.ListHead, err = db.scanListHead(db.queryRow(ctx, `SELECT authority, shard, number, this_update, next_update, leaf, mac, CASE WHEN number > $3 THEN der END FROM crls WHERE authority = $1 AND shard = $2`, authority, shard, have), &l.DER)
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil && !errors.Is(err, ErrRowTampered) {
		return nil, err
	}
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
		mac := db.listMAC(&l.ListHead)
		if old == 0 {
			n, err = db.exec(ctx, `INSERT INTO crls (authority, shard, number, this_update, next_update, leaf, der, mac) VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (authority, shard) DO NOTHING`,
				l.Authority, l.Shard, l.Number, millis(l.ThisUpdate), millis(l.NextUpdate), l.Leaf, l.DER, mac)
			if err == nil && n == 1 {
				txFrom(ctx).reseal("crls", listKey(l.Authority, l.Shard), nil, keyOnly)
			}
		} else {
			n, err = db.exec(ctx, `UPDATE crls SET number = $1, this_update = $2, next_update = $3, leaf = $4, der = $5, mac = $6 WHERE authority = $7 AND shard = $8 AND number = $9 AND number < $1`,
				l.Number, millis(l.ThisUpdate), millis(l.NextUpdate), l.Leaf, l.DER, mac, l.Authority, l.Shard, old)
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
		v, err := db.scanRevocation(r)
		return f(v, err)
	})
}

// ShardChanges implements [crl.ListStore].
func (db *DB) ShardChanges(ctx context.Context, authority string, shard int, fromLeaf int64, f func(crl.Revocation, error) error) error {
	rows, err := db.query(ctx, `SELECT `+revocationColumns+` FROM revocations WHERE leaf >= $1 AND authority = $2 AND shard = $3 ORDER BY serial`, fromLeaf, authority, shard)
	return each(rows, err, func(r row) error {
		v, err := db.scanRevocation(r)
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
	l, err := db.leafAt(ctx, leaf.Int64)
	if err != nil || l == nil {
		return e, err
	}
	e.Released = l.Type == tlog.Release && string(l.serial) == string(serial[:]) && l.Subject == sha256.Sum256(serial[:]) && l.Compute() == l.Entry && db.salted(l)
	return e, nil
}

const leafColumns = `idx, type, tenant, account, holder, subject, salt, entry, serial, at`

// storedLeaf is a leaf as its row has it.
type storedLeaf struct {
	tlog.Leaf
	serial []byte
	at     int64 // milliseconds
}

// scanLeaf reads leafColumns, and more after them.
func scanLeaf(r row, more ...any) (l storedLeaf, err error) {
	var subject, salt, entry []byte
	err = r.Scan(append([]any{&l.Index, (*string)(&l.Type), &l.Tenant, &l.Account, &l.Holder, &subject, &salt, &entry, &l.serial, &l.at}, more...)...)
	copy(l.Subject[:], subject)
	copy(l.Salt[:], salt)
	copy(l.Entry[:], entry)
	l.At = l.at / 1000
	return l, err
}

// leafAt reads one leaf, nil if there is none.
func (db *DB) leafAt(ctx context.Context, index int64) (*storedLeaf, error) {
	l, err := scanLeaf(db.queryRow(ctx, `SELECT `+leafColumns+` FROM log_leaves WHERE idx = $1`, index))
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	return &l, err
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
		v, err := db.scanRevocation(r)
		return f(v, err)
	})
}

// EachStatusLeaf implements [crl.FsckStore].
func (db *DB) EachStatusLeaf(ctx context.Context, f func(crl.StatusLeaf) error) error {
	return chunks(func(after int64) (last int64, n int, err error) {
		rows, err := db.query(ctx, `SELECT `+leafColumns+` FROM log_leaves WHERE idx > $1 AND type <> 'issue' ORDER BY idx LIMIT $2`, after, chunk)
		err = each(rows, err, func(r row) error {
			l, err := scanLeaf(r)
			if err != nil {
				return err
			}
			last, n = l.Index, n+1
			return f(crl.StatusLeaf{Leaf: l.Leaf, Serial: l.serial, Genuine: db.salted(&l)})
		})
		return last, n, err
	})
}
