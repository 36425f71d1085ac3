package store

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"time"

	"hallmark/ca"
	"hallmark/ca/tlog"
	"hallmark/crl"
)

var (
	_ crl.Store = (*DB)(nil)
	_ crl.Feed  = (*DB)(nil)
)

const storySelect = `SELECT r.id, r.tenant, r.account, r.holder, r.profile, r.authority, r.serial, r.spki, r.shard, r.not_after, c.issued_at,
	v.reason, v.revoked_at, v.revoked_by, v.note, v.released_at, v.leaf
	FROM reservations r
	LEFT JOIN certificates c ON c.reservation = r.id
	LEFT JOIN revocations v ON v.authority = r.authority AND v.serial = r.serial `

func (db *DB) scanStory(ctx context.Context, r row) (s crl.Story, err error) {
	var id, end int64
	var serial, spki []byte
	var issued, reason, at, released, leaf sql.NullInt64
	var by, note sql.NullString
	if err := r.Scan(&id, &s.Tenant, &s.Account, &s.Holder, &s.Profile, &s.Authority, &serial, &spki, &s.Shard, &end, &issued, &reason, &at, &by, &note, &released, &leaf); err != nil {
		return s, err
	}
	if len(serial) != ca.SerialLen || len(spki) != sha256.Size {
		return s, ErrRowTampered.New("Table reservations, row %d.", id)
	}
	s.Serial, s.SPKI, s.NotAfter, s.Issued = ca.Serial(serial), [32]byte(spki), timeOf(end), issued.Valid
	if tx := txFrom(ctx); tx != nil && tx.certs[id] != nil {
		s.Issued = true // recorded by an earlier call of this batch
	}
	if at.Valid {
		s.Revocation = &crl.Revocation{Authority: s.Authority, Serial: s.Serial, Tenant: s.Tenant, Holder: s.Holder, Shard: s.Shard,
			Reason: crl.Reason(reason.Int64), At: timeOf(at.Int64), By: by.String, Note: note.String, NotAfter: s.NotAfter,
			ReleasedAt: timeOf(released.Int64), Leaf: leaf.Int64}
	}
	return s, nil
}

// Story implements [crl.Store].
func (db *DB) Story(ctx context.Context, tenant, authority string, serial ca.Serial) (crl.Story, error) {
	s, err := db.scanStory(ctx, db.queryRow(ctx, storySelect+`WHERE r.serial = $1 AND r.authority = $2 AND r.tenant = $3`, serial[:], authority, tenant))
	if errors.Is(err, sql.ErrNoRows) {
		return s, crl.ErrSerialUnknown.New("Serial number %s under %.40s.", serial, authority)
	}
	return s, err
}

// Stories implements [crl.Store].
func (db *DB) Stories(ctx context.Context, tenant, holder string, after time.Time) (out []crl.Story, err error) {
	rows, err := db.query(ctx, storySelect+`WHERE r.tenant = $1 AND r.holder = $2 AND r.not_after > $3 ORDER BY r.id`, tenant, fold(holder), millis(after))
	err = each(rows, err, func(r row) error {
		s, err := db.scanStory(ctx, r)
		out = append(out, s)
		return err
	})
	return out, err
}

// Revoke implements [crl.Store].
func (db *DB) Revoke(ctx context.Context, s crl.Story, r crl.Reason, at time.Time, by, note string) error {
	return db.Atomic(ctx, func(ctx context.Context) error {
		event := tlog.Revoke
		switch {
		case r == crl.CertificateHold:
			event = tlog.Hold
		case !s.Issued:
			event = tlog.Void
		}
		err := txFrom(ctx).insertRevocation(revocation{
			authority: s.Authority, serial: s.Serial[:], tenant: s.Tenant, account: s.Account, holder: s.Holder, shard: s.Shard,
			reason: int(r), at: at, by: by, note: note, notAfter: millis(s.NotAfter), event: event, subject: sha256.Sum256(s.Serial[:]),
		})
		if err != nil || r == crl.CertificateHold {
			return err
		}
		_, err = db.exec(ctx, `UPDATE thing_principals SET status = 'REVOKED' WHERE authority = $1 AND serial = $2`, s.Authority, s.Serial[:])
		return err
	})
}

// Release implements [crl.Store].
func (db *DB) Release(ctx context.Context, s crl.Story, at time.Time, by, note string) error {
	return db.Atomic(ctx, func(ctx context.Context) error {
		tx := txFrom(ctx)
		n, err := tx.exec(`UPDATE revocations SET released_at = $1, revoked_by = $2, note = $3 WHERE authority = $4 AND serial = $5 AND reason = 6 AND released_at = 0`,
			millis(at), by, note, s.Authority, s.Serial[:])
		if err != nil {
			return err
		}
		if n == 0 {
			return crl.ErrNotHeld.New("Serial number %s.", s.Serial)
		}
		clear(tx.trust)
		authority, serial := s.Authority, s.Serial
		tx.appendLeaf(tlog.Release, s.Tenant, s.Account, s.Holder, sha256.Sum256(serial[:]), serial[:], at, func(tx *txn, index int64) error {
			_, err := tx.exec(`UPDATE revocations SET leaf = $1 WHERE authority = $2 AND serial = $3`, index, authority, serial[:])
			return err
		})
		return nil
	})
}

// MarkCompromised implements [crl.Store] (A14).
func (db *DB) MarkCompromised(ctx context.Context, s crl.Story) error {
	return db.Atomic(ctx, func(ctx context.Context) error {
		_, err := db.exec(ctx, `INSERT INTO public_keys (spki, tenant, holder, state) VALUES ($1, $2, $3, 'compromised') ON CONFLICT (spki) DO UPDATE SET state = 'compromised'`,
			s.SPKI[:], s.Tenant, s.Holder)
		return err
	})
}

// Block implements [crl.Store] (S16).
func (db *DB) Block(ctx context.Context, tenant, holder string, at time.Time, by, note string) (added bool, err error) {
	err = db.Atomic(ctx, func(ctx context.Context) error {
		tx := txFrom(ctx)
		name := fold(holder)
		n, err := tx.exec(`INSERT INTO blocks (tenant, holder, blocked_at, blocked_by, note, leaf) VALUES ($1, $2, $3, $4, $5, -1) ON CONFLICT (tenant, holder) DO NOTHING`,
			tenant, name, millis(at), by, note)
		added = n == 1
		if err != nil || !added {
			return err
		}
		clear(tx.trust)
		tx.appendLeaf(tlog.Block, tenant, "", name, sha256.Sum256([]byte(name)), []byte{}, at, func(tx *txn, index int64) error {
			_, err := tx.exec(`UPDATE blocks SET leaf = $1 WHERE tenant = $2 AND holder = $3`, index, tenant, name)
			return err
		})
		return nil
	})
	return added, err
}

// RevokeThings implements [crl.Store].
func (db *DB) RevokeThings(ctx context.Context, tenant, holder string) error {
	return db.Atomic(ctx, func(ctx context.Context) error {
		_, err := db.exec(ctx, `UPDATE thing_principals SET status = 'REVOKED' WHERE tenant = $1 AND thing IN (SELECT folded FROM things WHERE tenant = $1 AND holder = $2)`, tenant, fold(holder))
		return err
	})
}

// Blocked tells whether an identity gets no certificate any more, and since when.
func (db *DB) Blocked(ctx context.Context, tenant, holder string) (at time.Time, blocked bool, err error) {
	var ms int64
	err = db.queryRow(ctx, `SELECT blocked_at FROM blocks WHERE tenant = $1 AND holder = $2`, tenant, fold(holder)).Scan(&ms)
	if errors.Is(err, sql.ErrNoRows) {
		return at, false, nil
	}
	return timeOf(ms), err == nil, err
}

const revocationColumns = `leaf, authority, serial, tenant, holder, shard, reason, revoked_at, released_at, not_after, revoked_by, note`

// longAgo stands for a time of revocation that cannot be read.
var longAgo = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// scanRevocation reads what it can: a damaged field after the serial number
// leaves it revoked, without a reason and an end.
func scanRevocation(r row) (v crl.Revocation, err error) {
	var serial []byte
	var reason, at, released, end int64
	err = r.Scan(&v.Leaf, &v.Authority, &serial, &v.Tenant, &v.Holder, &v.Shard, &reason, &at, &released, &end, &v.By, &v.Note)
	if len(serial) == ca.SerialLen {
		v.Serial = ca.Serial(serial)
	} else if err == nil {
		err = ErrRowTampered.New("Table revocations, leaf %d.", v.Leaf)
	}
	if err == nil && (reason < 0 || reason > 255 || !crl.Reason(reason).Valid() || at <= 0) {
		err = ErrRowTampered.New("Table revocations, serial number %x: reason %d at %d.", serial, reason, at)
		reason = 0
	}
	v.Reason, v.At, v.ReleasedAt, v.NotAfter = crl.Reason(reason), timeOf(at), timeOf(released), timeOf(end)
	if err != nil {
		v.NotAfter, v.ReleasedAt = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), time.Time{}
		if at <= 0 {
			v.At = longAgo
		}
	}
	return v, err
}

// Revocations implements [crl.Feed].
func (db *DB) Revocations(ctx context.Context, from int64, endAfter time.Time, limit int, f func(crl.Revocation, error) error) error {
	rows, err := db.query(ctx, `SELECT `+revocationColumns+` FROM revocations WHERE leaf >= $1 AND not_after > $2 ORDER BY leaf LIMIT $3`, from, millis(endAfter), limit)
	return each(rows, err, func(r row) error {
		v, err := scanRevocation(r)
		return f(v, err)
	})
}

// Blocks implements [crl.Feed].
func (db *DB) Blocks(ctx context.Context, from int64, f func(crl.Block) error) error {
	rows, err := db.query(ctx, `SELECT tenant, holder, blocked_at, leaf FROM blocks WHERE leaf >= $1 ORDER BY leaf`, from)
	return each(rows, err, func(r row) error {
		var b crl.Block
		var at int64
		if err := r.Scan(&b.Tenant, &b.Holder, &at, &b.Leaf); err != nil {
			return err
		}
		b.At = timeOf(at)
		return f(b)
	})
}
