package store

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"hallmark/bootstrap"
	"hallmark/ca/profile"
)

var _ bootstrap.Passwords = (*DB)(nil)

const passwordColumns = `tenant, id, unit, profile, account, hash, created_by, created_at, expires_at, attempts, spki, used_at, mac`

func (db *DB) passwordMAC(p *bootstrap.Password) []byte {
	var spki []byte
	if p.SPKI != nil {
		spki = p.SPKI[:]
	}
	return db.cfg.Seal.MAC("enrol_passwords", append([][]byte{[]byte(p.Tenant), []byte(p.ID), []byte(p.Unit), []byte(p.Profile), []byte(p.Order), p.Hash[:], []byte(p.CreatedBy), spki},
		decimals(millis(p.CreatedAt), millis(p.ExpiresAt), int64(p.Attempts), millis(p.UsedAt))...)...)
}

// scanPassword reads a one-time password and its MAC.
func (db *DB) scanPassword(r row) (p bootstrap.Password, mac []byte, err error) {
	var name string
	var hash, spki []byte
	var created, expires, used int64
	if err := r.Scan(&p.Tenant, &p.ID, &p.Unit, &name, &p.Order, &hash, &p.CreatedBy, &created, &expires, &p.Attempts, &spki, &used, &mac); err != nil {
		return p, nil, err
	}
	p.Profile, p.CreatedAt, p.ExpiresAt, p.UsedAt = profile.Name(name), timeOf(created), timeOf(expires), timeOf(used)
	copy(p.Hash[:], hash)
	if spki != nil {
		p.SPKI = new([32]byte)
		copy(p.SPKI[:], spki)
	}
	if len(hash) != len(p.Hash) || spki != nil && len(spki) != len(p.SPKI) || string(db.passwordMAC(&p)) != string(mac) {
		return p, mac, ErrRowTampered.New("Table enrol_passwords, row %s.", pair(p.Tenant, p.ID))
	}
	return p, mac, nil
}

// CreatePassword implements [bootstrap.Passwords].
func (db *DB) CreatePassword(ctx context.Context, p bootstrap.Password) error {
	mac := db.passwordMAC(&p)
	return db.Atomic(ctx, func(ctx context.Context) error {
		_, err := db.exec(ctx, `INSERT INTO enrol_passwords (`+passwordColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)`,
			p.Tenant, p.ID, p.Unit, string(p.Profile), p.Order, p.Hash[:], p.CreatedBy, millis(p.CreatedAt), millis(p.ExpiresAt), p.Attempts, nil, millis(p.UsedAt), mac)
		if err == nil {
			txFrom(ctx).reseal("enrol_passwords", pair(p.Tenant, p.ID), nil, mac)
		}
		return err
	})
}

func passwordMissing(err error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return bootstrap.ErrEnrolPassword.New("")
	}
	return err
}

// PasswordByID implements [bootstrap.Passwords].
func (db *DB) PasswordByID(ctx context.Context, id string) (bootstrap.Password, error) {
	p, _, err := db.scanPassword(db.queryRow(ctx, `SELECT `+passwordColumns+` FROM enrol_passwords WHERE id = $1`, id))
	return p, passwordMissing(err)
}

// PasswordByHash implements [bootstrap.Passwords].
func (db *DB) PasswordByHash(ctx context.Context, hash [32]byte) (bootstrap.Password, error) {
	p, _, err := db.scanPassword(db.queryRow(ctx, `SELECT `+passwordColumns+` FROM enrol_passwords WHERE hash = $1`, hash[:]))
	return p, passwordMissing(err)
}

// RedeemPassword implements [bootstrap.Passwords]. The condition on the MAC lets
// one of two nodes win.
func (db *DB) RedeemPassword(ctx context.Context, id string, spki [32]byte, now time.Time) error {
	return db.movePassword(ctx, id, func(p *bootstrap.Password) (change bool, err error) {
		switch {
		case !db.clock.steady(now).Before(p.ExpiresAt):
			return false, bootstrap.ErrEnrolPassword.New("")
		case p.SPKI != nil && *p.SPKI == spki:
			return false, nil // whoever used it may come again, however many tried after it
		case p.SPKI != nil || p.Attempts >= bootstrap.MaxPasswordAttempts:
			return false, bootstrap.ErrEnrolPassword.New("")
		}
		p.SPKI, p.UsedAt = &spki, now
		return true, nil
	})
}

// FailPassword implements [bootstrap.Passwords].
func (db *DB) FailPassword(ctx context.Context, id string) error {
	return db.movePassword(ctx, id, func(p *bootstrap.Password) (bool, error) {
		p.Attempts++
		return p.Attempts <= bootstrap.MaxPasswordAttempts, nil
	})
}

// movePassword changes what a password remembers of its use.
func (db *DB) movePassword(ctx context.Context, id string, decide func(p *bootstrap.Password) (change bool, err error)) error {
	return db.Atomic(ctx, func(ctx context.Context) error {
		p, old, err := db.scanPassword(db.queryRow(ctx, `SELECT `+passwordColumns+` FROM enrol_passwords WHERE id = $1`, id))
		if err != nil {
			return passwordMissing(err)
		}
		change, err := decide(&p)
		if err != nil || !change {
			return err
		}
		p.UsedAt = timeOf(millis(p.UsedAt))
		var spki []byte
		if p.SPKI != nil {
			spki = p.SPKI[:]
		}
		mac := db.passwordMAC(&p)
		n, err := db.exec(ctx, `UPDATE enrol_passwords SET attempts = $1, spki = $2, used_at = $3, mac = $4 WHERE id = $5 AND mac = $6`, p.Attempts, spki, millis(p.UsedAt), mac, id, old)
		if err == nil && n == 0 {
			return errStale
		}
		if err == nil {
			txFrom(ctx).reseal("enrol_passwords", pair(p.Tenant, p.ID), old, mac)
		}
		return err
	})
}
