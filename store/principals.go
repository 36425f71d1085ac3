package store

import (
	"context"
	"database/sql"
	"errors"
	"time"

	"hallmark/access"
)

var _ access.Store = (*DB)(nil)

// principalMAC covers the whole row: a database writer can neither raise a role
// nor bring a token back (S32).
func (db *DB) principalMAC(p *access.Principal) []byte {
	return db.cfg.Seal.MAC("principals", []byte(p.Tenant), []byte(p.Name), []byte(p.Role), p.TokenHash[:],
		number(millis(p.CreatedAt)), number(millis(p.ExpiresAt)), number(millis(p.DisabledAt)))
}

const principalColumns = `tenant, name, role, token_hash, created_at, expires_at, disabled_at, mac`

func (db *DB) scanPrincipal(r row) (p access.Principal, err error) {
	var created, expires, disabled int64
	var hash, mac []byte
	if err := r.Scan(&p.Tenant, &p.Name, (*string)(&p.Role), &hash, &created, &expires, &disabled, &mac); err != nil {
		return p, err
	}
	if len(hash) != len(p.TokenHash) {
		return p, ErrRowTampered.New("Table principals, row %s.", p.Name)
	}
	copy(p.TokenHash[:], hash)
	p.CreatedAt, p.ExpiresAt, p.DisabledAt = timeOf(created), timeOf(expires), timeOf(disabled)
	if err := db.cfg.Seal.Verify(mac, "principals", []byte(p.Tenant), []byte(p.Name), []byte(p.Role), hash,
		number(created), number(expires), number(disabled)); err != nil {
		return p, ErrRowTampered.Wrap(err, "Table principals, row %s.", p.Name)
	}
	return p, nil
}

// CreatePrincipal implements [access.Store].
func (db *DB) CreatePrincipal(ctx context.Context, p access.Principal) error {
	return db.Atomic(ctx, func(ctx context.Context) error {
		n, err := db.insertPrincipal(ctx, &p)
		if err == nil && n == 0 {
			return access.ErrPrincipalExists.New("%s.", p.Name)
		}
		return err
	})
}

func (db *DB) insertPrincipal(ctx context.Context, p *access.Principal) (int64, error) {
	mac := db.principalMAC(p)
	n, err := db.exec(ctx, `INSERT INTO principals (`+principalColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT DO NOTHING`,
		p.Tenant, p.Name, string(p.Role), p.TokenHash[:], millis(p.CreatedAt), millis(p.ExpiresAt), millis(p.DisabledAt), mac)
	if err == nil && n == 1 {
		txFrom(ctx).reseal("principals", pair(p.Tenant, p.Name), nil, mac)
	}
	return n, err
}

// CreateFirstPrincipal implements [access.Store]. Two processes that start
// together give the same name, so the primary key lets one win.
func (db *DB) CreateFirstPrincipal(ctx context.Context, p access.Principal) (created bool, err error) {
	err = db.Atomic(ctx, func(ctx context.Context) error {
		created = false
		var have int64
		if err := db.queryRow(ctx, `SELECT COUNT(*) FROM principals`).Scan(&have); err != nil || have > 0 {
			return err
		}
		// An empty table that was not empty is no reason to let anybody in.
		if s, err := db.sealed(ctx, "principals"); err != nil {
			return err
		} else if s.Rows > 0 {
			return ErrRowTampered.New("Table principals had %d rows and is empty.", s.Rows)
		}
		n, err := db.insertPrincipal(ctx, &p)
		created = n == 1
		return err
	})
	return created && err == nil, err
}

// PrincipalByToken implements [access.Store].
func (db *DB) PrincipalByToken(ctx context.Context, hash [32]byte) (access.Principal, error) {
	p, err := db.scanPrincipal(db.queryRow(ctx, `SELECT `+principalColumns+` FROM principals WHERE token_hash = $1`, hash[:]))
	if errors.Is(err, sql.ErrNoRows) {
		return p, access.ErrToken.New("")
	}
	return p, err
}

// Principal implements [access.Store].
func (db *DB) Principal(ctx context.Context, s access.Scope, name string) (access.Principal, error) {
	p, err := db.scanPrincipal(db.queryRow(ctx, `SELECT `+principalColumns+` FROM principals WHERE tenant = $1 AND name = $2`, s.Tenant, name))
	if errors.Is(err, sql.ErrNoRows) {
		return p, access.ErrPrincipalUnknown.New("%s.", name)
	}
	return p, err
}

// Principals implements [access.Store].
func (db *DB) Principals(ctx context.Context, s access.Scope, after string, limit int) (out []access.Principal, err error) {
	rows, err := db.query(ctx, `SELECT `+principalColumns+` FROM principals WHERE tenant = $1 AND name > $2 ORDER BY name LIMIT $3`, s.Tenant, after, page(limit))
	err = each(rows, err, func(r row) error {
		p, err := db.scanPrincipal(r)
		out = append(out, p)
		return err
	})
	return out, err
}

// DisablePrincipal implements [access.Store]. Disabling twice keeps the first time.
func (db *DB) DisablePrincipal(ctx context.Context, s access.Scope, name string, now time.Time) (p access.Principal, err error) {
	err = db.Atomic(ctx, func(ctx context.Context) error {
		p, err = db.Principal(ctx, s, name)
		if err != nil || !p.DisabledAt.IsZero() {
			return err
		}
		if p.Role == access.Platform {
			var others int64
			if err := db.queryRow(ctx, `SELECT COUNT(*) FROM principals WHERE tenant = $1 AND role = $2 AND name <> $3 AND disabled_at = 0 AND expires_at > $4`,
				s.Tenant, string(access.Platform), name, millis(now)).Scan(&others); err != nil {
				return err
			}
			if others == 0 {
				return access.ErrLastPlatform.New("%s.", name)
			}
		}
		old := db.principalMAC(&p)
		p.DisabledAt = timeOf(millis(now))
		mac := db.principalMAC(&p)
		n, err := db.exec(ctx, `UPDATE principals SET disabled_at = $1, mac = $2 WHERE tenant = $3 AND name = $4 AND disabled_at = 0`, millis(p.DisabledAt), mac, s.Tenant, name)
		if err == nil && n == 0 {
			return ErrChanged.New("Principal %s.", name)
		}
		txFrom(ctx).reseal("principals", pair(s.Tenant, name), old, mac)
		return err
	})
	return p, err
}
