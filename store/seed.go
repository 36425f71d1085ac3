package store

import (
	"context"
	"time"

	"hallmark/ca"
	"hallmark/crl"
)

// seedRows is how many rows of a seed are one statement.
const seedRows = 50

// SeedRevocations writes rows of revocations that no certificate belongs to, for
// measurements. The rows are as the ledger writes them, with their codes and in
// the order of the log; the log itself gets no leaves, so that the checks of a
// database that was seeded find it broken. It refuses one that was really used.
func (db *DB) SeedRevocations(ctx context.Context, rows []crl.Revocation) error {
	return db.Atomic(ctx, func(ctx context.Context) error {
		var used int64
		if err := db.queryRow(ctx, `SELECT COUNT(*) FROM (SELECT 1 FROM log_leaves LIMIT 1) l`).Scan(&used); err != nil {
			return err
		}
		if used > 0 {
			return ErrWrite.New("The database has a log; revocations are made up in an empty one only.")
		}
		var next int64
		if err := db.queryRow(ctx, `UPDATE log_head SET size = size + $1 WHERE id = 1 RETURNING size`, int64(len(rows))).Scan(&next); err != nil {
			return err
		}
		next -= int64(len(rows))
		for len(rows) > 0 {
			n := min(len(rows), seedRows)
			args := make([]any, 0, n*13)
			for i := range rows[:n] {
				v := &rows[i]
				v.Leaf = next
				next++
				args = append(args, v.Authority, v.Serial[:], v.Tenant, v.Holder, v.Shard, int64(v.Reason), millis(v.At), v.By, v.Note, millis(v.NotAfter), millis(v.ReleasedAt), v.Leaf, db.revocationMAC(v))
			}
			if _, err := db.exec(ctx, manySQL(`revocations (authority, serial, tenant, holder, shard, reason, revoked_at, revoked_by, note, not_after, released_at, leaf, mac)`, "", "", 13, n), args...); err != nil {
				return err
			}
			rows = rows[n:]
		}
		return nil
	})
}

// SeedReservations writes reservations of made-up serial numbers, for
// measurements; see [DB.SeedRevocations].
func (db *DB) SeedReservations(ctx context.Context, authority, tenant string, serials []ca.Serial, at, notAfter time.Time) error {
	return db.Atomic(ctx, func(ctx context.Context) error {
		for len(serials) > 0 {
			n := min(len(serials), seedRows)
			args := make([]any, 0, n*19)
			for i := range serials[:n] {
				args = append(args, authority, serials[i][:], tenant, "seed", "idevid", 1, "seed", "", make([]byte, 32), []byte{}, 0, millis(at), millis(notAfter), "", "", "seed", "", millis(at), []byte{})
			}
			if _, err := db.exec(ctx, manySQL(`reservations (authority, serial, tenant, account, profile, version, holder, slot, spki, tbs, shard, not_before, not_after, requester, operator, tool, origin, reserved_at, mac)`, "", "", 19, n), args...); err != nil {
				return err
			}
			serials = serials[n:]
		}
		return nil
	})
}
