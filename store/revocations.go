package store

import (
	"context"
	"crypto/hmac"
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
	v.reason, v.revoked_at, v.revoked_by, v.note, v.released_at, v.leaf, v.tenant, v.holder, v.shard, v.not_after, v.mac
	FROM reservations r
	LEFT JOIN certificates c ON c.reservation = r.id
	LEFT JOIN revocations v ON v.authority = r.authority AND v.serial = r.serial `

func (db *DB) scanStory(ctx context.Context, r row) (s crl.Story, err error) {
	var id, end int64
	var serial, spki []byte
	var issued, reason, at, released, leaf, shard, notAfter sql.NullInt64
	var by, note, tenant, holder sql.NullString
	var mac []byte
	if err := r.Scan(&id, &s.Tenant, &s.Account, &s.Holder, &s.Profile, &s.Authority, &serial, &spki, &s.Shard, &end, &issued, &reason, &at, &by, &note, &released, &leaf, &tenant, &holder, &shard, &notAfter, &mac); err != nil {
		return s, err
	}
	if len(serial) != ca.SerialLen || len(spki) != sha256.Size {
		return s, ErrRowTampered.New("Table reservations, row %d.", id)
	}
	s.ID, s.Serial, s.SPKI, s.NotAfter, s.Issued = id, ca.Serial(serial), [32]byte(spki), timeOf(end), issued.Valid
	if tx := txFrom(ctx); tx != nil && tx.certs[id] != nil {
		s.Issued = true // recorded by an earlier call of this batch
	}
	if at.Valid {
		v := &crl.Revocation{Authority: s.Authority, Serial: s.Serial, Tenant: tenant.String, Holder: holder.String, Shard: int(shard.Int64),
			Reason: crl.Reason(reason.Int64), At: timeOf(at.Int64), By: by.String, Note: note.String, NotAfter: timeOf(notAfter.Int64),
			ReleasedAt: timeOf(released.Int64), Leaf: leaf.Int64}
		if len(mac) > 0 && !hmac.Equal(mac, db.revocationMAC(v)) {
			// Somebody else wrote it: revoked for good, so that nobody can release it.
			v.Reason, v.ReleasedAt = crl.Unspecified, time.Time{}
		}
		v.Tenant, v.Holder, v.Shard, v.NotAfter = s.Tenant, s.Holder, s.Shard, s.NotAfter
		s.Revocation = v
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
		if err != nil {
			return err
		}
		if r == crl.CertificateHold {
			return db.ownChanged(ctx, s.Tenant, s.Authority, s.Serial)
		}
		return db.revokeCertificates(ctx, `WHERE c.authority = $1 AND c.serial = $2`, s.Authority, s.Serial[:])
	})
}

// Release implements [crl.Store].
func (db *DB) Release(ctx context.Context, s crl.Story, at time.Time, by, note string) error {
	return db.Atomic(ctx, func(ctx context.Context) error {
		tx := txFrom(ctx)
		v := crl.Revocation{Authority: s.Authority, Serial: s.Serial, Tenant: s.Tenant, Holder: s.Holder, Shard: s.Shard, Reason: crl.CertificateHold, By: by, Note: note, NotAfter: s.NotAfter, ReleasedAt: at}
		var since int64
		err := tx.queryRowWrite(`UPDATE revocations SET released_at = $1, revoked_by = $2, note = $3, tenant = $4, holder = $5, shard = $6, not_after = $7 WHERE authority = $8 AND serial = $9 AND reason = 6 AND released_at = 0 RETURNING revoked_at`,
			millis(at), by, note, v.Tenant, v.Holder, v.Shard, millis(v.NotAfter), v.Authority, v.Serial[:]).Scan(&since)
		if errors.Is(err, sql.ErrNoRows) {
			return crl.ErrNotHeld.New("Serial number %s.", s.Serial)
		}
		if err != nil {
			return err
		}
		v.At = timeOf(since)
		clear(tx.trust)
		tx.appendLeaf(tlog.Release, s.Tenant, s.Account, s.Holder, sha256.Sum256(v.Serial[:]), v.Serial[:], at, func(tx *txn, index int64) error {
			return tx.placeRevocation(&v, index)
		})
		return db.ownChanged(ctx, s.Tenant, s.Authority, s.Serial)
	})
}

// revocationMAC covers the whole row: with a released time, another authority or
// an end in the past a device would come back.
func (db *DB) revocationMAC(v *crl.Revocation) []byte {
	return db.cfg.Seal.MAC("revocations", []byte(v.Authority), v.Serial[:], []byte(v.Tenant), []byte(v.Holder), number(int64(v.Shard)), number(int64(v.Reason)),
		number(millis(v.At)), []byte(v.By), []byte(v.Note), number(millis(v.NotAfter)), number(millis(v.ReleasedAt)), number(v.Leaf))
}

func revocationKey(authority string, serial ca.Serial) string {
	return authority + "/" + serial.String()
}

// placeRevocation writes the leaf of a row, and the MAC, which covers it.
func (tx *txn) placeRevocation(v *crl.Revocation, index int64) error {
	v.Leaf = index
	_, err := tx.exec(`UPDATE revocations SET leaf = $1, mac = $2 WHERE authority = $3 AND serial = $4`, index, tx.db.revocationMAC(v), v.Authority, v.Serial[:])
	return err
}

// MarkCompromised implements [crl.Store] (A14).
func (db *DB) MarkCompromised(ctx context.Context, s crl.Story) error {
	return db.Atomic(ctx, func(ctx context.Context) error {
		_, err := db.exec(ctx, `INSERT INTO public_keys (spki, tenant, holder, state) VALUES ($1, $2, $3, 'compromised') ON CONFLICT (spki) DO UPDATE SET state = 'compromised'`,
			s.SPKI[:], s.Tenant, s.Holder)
		tx := txFrom(ctx)
		tx.after = append(tx.after, func() { db.guard.compromise(s.SPKI) })
		return err
	})
}

// Block implements [crl.Store] (S16).
func (db *DB) Block(ctx context.Context, tenant, holder string, at time.Time, by, note string) (added bool, err error) {
	err = db.Atomic(ctx, func(ctx context.Context) error {
		tx := txFrom(ctx)
		name := fold(holder)
		b := blockRow{tenant: tenant, holder: name, at: millis(at), by: by, note: note}
		n, err := tx.exec(`INSERT INTO blocks (`+blockColumns+`) VALUES ($1, $2, $3, $4, $5, -1, $6) ON CONFLICT (tenant, holder) DO NOTHING`, tenant, name, b.at, by, note, []byte{})
		added = n == 1
		if err != nil || !added {
			return err
		}
		clear(tx.trust)
		tx.reseal("blocks", b.key(), nil, keyOnly)
		tx.appendLeaf(tlog.Block, tenant, "", name, sha256.Sum256([]byte(name)), []byte{}, at, func(tx *txn, index int64) error {
			b.leaf = index
			_, err := tx.exec(`UPDATE blocks SET leaf = $1, mac = $2 WHERE tenant = $3 AND holder = $4`, index, db.blockMAC(&b), tenant, name)
			return err
		})
		return nil
	})
	return added, err
}

// blockRow is a row of blocks.
type blockRow struct {
	tenant, holder string
	at             int64
	by, note       string
	leaf           int64
}

const blockColumns = `tenant, holder, blocked_at, blocked_by, note, leaf, mac`

func (b *blockRow) key() string { return pair(b.tenant, b.holder) }

func (db *DB) blockMAC(b *blockRow) []byte {
	return db.cfg.Seal.MAC("blocks", []byte(b.tenant), []byte(b.holder), number(b.at), []byte(b.by), []byte(b.note), number(b.leaf))
}

// scanBlock tells whether the row is as written; whoever is in it is blocked all
// the same.
func (db *DB) scanBlock(r row) (b blockRow, err error) {
	var mac []byte
	if err := r.Scan(&b.tenant, &b.holder, &b.at, &b.by, &b.note, &b.leaf, &mac); err != nil {
		return b, err
	}
	if !hmac.Equal(mac, db.blockMAC(&b)) {
		return b, ErrRowTampered.New("Table blocks, row %s.", b.key())
	}
	return b, nil
}

// RevokeThings implements [crl.Store].
func (db *DB) RevokeThings(ctx context.Context, tenant, holder string) error {
	return db.Atomic(ctx, func(ctx context.Context) error {
		// From the thing to its certificates: SQLite would else go through all of the tenant.
		return db.revokeCertificates(ctx, `WHERE c.tenant = $1 AND c.id IN (SELECT p.certificate FROM things t CROSS JOIN thing_principals p WHERE p.tenant = t.tenant AND p.thing = t.folded AND t.tenant = $1 AND t.holder = $2)`, tenant, fold(holder))
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

const revocationColumns = `leaf, authority, serial, tenant, holder, shard, reason, revoked_at, released_at, not_after, revoked_by, note, mac`

// longAgo stands for a time of revocation that cannot be read.
var longAgo = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)

// scanRevocation reads what it can: a damaged field after the serial number, or a
// row that somebody else wrote, leaves it revoked and without an end.
func (db *DB) scanRevocation(r row) (v crl.Revocation, err error) {
	var serial, mac []byte
	var reason, at, released, end int64
	err = r.Scan(&v.Leaf, &v.Authority, &serial, &v.Tenant, &v.Holder, &v.Shard, &reason, &at, &released, &end, &v.By, &v.Note, &mac)
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
	if err == nil && !hmac.Equal(mac, db.revocationMAC(&v)) {
		err = ErrRowTampered.New("Table revocations, serial number %x.", serial)
	}
	if err != nil {
		v.NotAfter, v.ReleasedAt = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), time.Time{}
		if at <= 0 {
			v.At = longAgo
		}
	}
	return v, err
}

// Revocations implements [crl.Feed].
func (db *DB) Revocations(ctx context.Context, from int64, limit int, f func(crl.Revocation, error) error) error {
	var serials []ca.Serial // whose keys nobody gets a certificate for any more
	rows, err := db.query(ctx, `SELECT `+revocationColumns+` FROM revocations WHERE leaf >= $1 ORDER BY leaf LIMIT $2`, from, limit)
	err = each(rows, err, func(r row) error {
		v, err := db.scanRevocation(r)
		if err != nil || v.Reason == crl.KeyCompromise {
			serials = append(serials, v.Serial)
		}
		return f(v, err)
	})
	if err != nil {
		return err
	}
	return db.compromised(ctx, serials)
}

// Reserved implements [crl.Feed].
func (db *DB) Reserved(ctx context.Context, serial ca.Serial) (v crl.Revocation, known bool, err error) {
	v.Serial = serial
	err = db.queryRow(ctx, `SELECT authority, tenant, holder, shard FROM reservations WHERE serial = $1`, serial[:]).Scan(&v.Authority, &v.Tenant, &v.Holder, &v.Shard)
	if errors.Is(err, sql.ErrNoRows) {
		return v, false, nil
	}
	return v, err == nil, err
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
