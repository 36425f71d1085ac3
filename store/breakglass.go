package store

import (
	"context"
	"crypto/hmac"
	"database/sql"
	"errors"
	"time"

	"hallmark/access"
)

var _ access.BreakGlassStore = (*DB)(nil)

const breakGlassColumns = `id, tenant, key_id, token_hash, opened_at, expires_at, closed_at, drill, reason, remote, mac`

func drillFlag(drill bool) int64 {
	if drill {
		return 1
	}
	return 0
}

func (db *DB) breakGlassMAC(s *access.BreakGlassSession) []byte {
	return db.cfg.Seal.MAC("break_glass", []byte(s.ID), []byte(s.Tenant), []byte(s.KeyID), s.TokenHash[:], number(millis(s.OpenedAt)), number(millis(s.ExpiresAt)), number(millis(s.ClosedAt)), number(drillFlag(s.Drill)), []byte(s.Reason), []byte(s.From))
}

func (db *DB) scanBreakGlass(r row) (s access.BreakGlassSession, mac []byte, err error) {
	var opened, expires, closed, drill int64
	var hash []byte
	if err := r.Scan(&s.ID, &s.Tenant, &s.KeyID, &hash, &opened, &expires, &closed, &drill, &s.Reason, &s.From, &mac); err != nil {
		return s, nil, err
	}
	copy(s.TokenHash[:], hash)
	s.OpenedAt, s.ExpiresAt, s.ClosedAt, s.Drill = timeOf(opened), timeOf(expires), timeOf(closed), drill == 1
	if len(hash) != len(s.TokenHash) || drillFlag(s.Drill) != drill || !hmac.Equal(mac, db.breakGlassMAC(&s)) {
		return s, mac, ErrRowTampered.New("Table break_glass, session %s.", s.ID)
	}
	return s, mac, nil
}

// OpenBreakGlass implements [access.BreakGlassStore].
func (db *DB) OpenBreakGlass(ctx context.Context, s access.BreakGlassSession) error {
	return db.Atomic(ctx, func(ctx context.Context) error {
		var replayed, spent bool
		if err := db.queryRow(ctx, `SELECT EXISTS (SELECT 1 FROM break_glass WHERE id = $1), EXISTS (SELECT 1 FROM break_glass WHERE key_id = $2 AND drill = 0)`, s.ID, s.KeyID).Scan(&replayed, &spent); err != nil {
			return err
		}
		switch {
		case replayed:
			return access.ErrBreakGlassReplayed.New("Session %s.", s.ID)
		case spent:
			return access.ErrBreakGlassSpent.New("Key %s.", s.KeyID)
		}
		// A table that lost its rows does not make a spent key fresh.
		have, err := db.readTable(ctx, breakGlassTable, func(string, error) {})
		if err != nil {
			return err
		}
		if want, err := db.sealed(ctx, breakGlassTable.name); err != nil {
			return err
		} else if txFrom(ctx).seals[breakGlassTable.name] == nil && !have.equal(want) {
			return ErrRowTampered.New("Table break_glass is not as it was written.")
		}
		mac := db.breakGlassMAC(&s)
		n, err := db.exec(ctx, `INSERT INTO break_glass (`+breakGlassColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT DO NOTHING`,
			s.ID, s.Tenant, s.KeyID, s.TokenHash[:], millis(s.OpenedAt), millis(s.ExpiresAt), millis(s.ClosedAt), drillFlag(s.Drill), s.Reason, s.From, mac)
		if err == nil && n != 1 { // another node was faster
			err = access.ErrBreakGlassSpent.New("Key %s.", s.KeyID)
		}
		if err != nil {
			return err
		}
		txFrom(ctx).reseal(breakGlassTable.name, s.ID, nil, mac)
		return nil
	})
}

// BreakGlassByToken implements [access.BreakGlassStore].
func (db *DB) BreakGlassByToken(ctx context.Context, hash [32]byte) (access.BreakGlassSession, error) {
	s, _, err := db.scanBreakGlass(db.queryRow(ctx, `SELECT `+breakGlassColumns+` FROM break_glass WHERE token_hash = $1`, hash[:]))
	if errors.Is(err, sql.ErrNoRows) {
		return s, access.ErrToken.New("")
	}
	return s, err
}

// BreakGlassSessions implements [access.BreakGlassStore].
func (db *DB) BreakGlassSessions(ctx context.Context) (out []access.BreakGlassSession, err error) {
	rows, err := db.query(ctx, `SELECT `+breakGlassColumns+` FROM break_glass ORDER BY opened_at DESC, id`)
	err = each(rows, err, func(r row) error {
		s, _, err := db.scanBreakGlass(r)
		out = append(out, s)
		return err
	})
	return out, err
}

// CloseBreakGlass implements [access.BreakGlassStore].
func (db *DB) CloseBreakGlass(ctx context.Context, id string, now time.Time) error {
	return db.Atomic(ctx, func(ctx context.Context) error {
		s, old, err := db.scanBreakGlass(db.queryRow(ctx, `SELECT `+breakGlassColumns+` FROM break_glass WHERE id = $1`, id))
		if errors.Is(err, sql.ErrNoRows) || err == nil && !s.ClosedAt.IsZero() {
			return access.ErrBreakGlassOver.New("Session %s.", id)
		}
		if err != nil {
			return err
		}
		s.ClosedAt = timeOf(millis(now))
		mac := db.breakGlassMAC(&s)
		n, err := db.exec(ctx, `UPDATE break_glass SET closed_at = $1, mac = $2 WHERE id = $3 AND closed_at = 0`, millis(s.ClosedAt), mac, id)
		if err == nil && n != 1 {
			err = access.ErrBreakGlassOver.New("Session %s.", id)
		}
		if err != nil {
			return err
		}
		txFrom(ctx).reseal(breakGlassTable.name, id, old, mac)
		return nil
	})
}

// RenewToken implements [access.BreakGlassStore].
func (db *DB) RenewToken(ctx context.Context, s access.Scope, name string, hash [32]byte, expires time.Time) (p access.Principal, err error) {
	err = db.Atomic(ctx, func(ctx context.Context) error {
		if p, err = db.Principal(ctx, s, name); err != nil {
			return err
		}
		old := db.principalMAC(&p)
		was := p.TokenHash
		p.TokenHash, p.ExpiresAt = hash, timeOf(millis(expires))
		mac := db.principalMAC(&p)
		n, err := db.exec(ctx, `UPDATE principals SET token_hash = $1, expires_at = $2, mac = $3 WHERE tenant = $4 AND name = $5 AND token_hash = $6 AND disabled_at = 0`,
			hash[:], millis(p.ExpiresAt), mac, s.Tenant, name, was[:])
		if err == nil && n != 1 {
			err = ErrChanged.New("Principal %s.", name)
		}
		if err != nil {
			return err
		}
		txFrom(ctx).reseal("principals", pair(s.Tenant, name), old, mac)
		return nil
	})
	return p, err
}

// breakGlassTable is its entry among [sealedTables].
var breakGlassTable = &sealedTable{"break_glass", `SELECT ` + breakGlassColumns + ` FROM break_glass`, func(db *DB, r row) (string, []byte, error) {
	s, mac, err := db.scanBreakGlass(r)
	return s.ID, mac, err
}}
