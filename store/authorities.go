package store

import (
	"context"
	"database/sql"
	"errors"
	"strconv"

	"hallmark/ca"
	"hallmark/ca/profile"
)

var _ ca.EndStore = (*DB)(nil)

// authorityMAC covers what a database writer must not change (S32).
func (db *DB) authorityMAC(a *ca.Authority) []byte {
	return db.cfg.Seal.MAC("authorities", []byte(a.Name), []byte(a.Tenant), []byte(a.Duty), []byte(a.State), []byte(a.KeyURI), a.CSR, a.Certificate,
		[]byte(a.BaseURL), []byte(strconv.Itoa(a.Shards)), number(millis(a.IssueUntil)), number(millis(a.CreatedAt)))
}

const authorityColumns = `name, tenant, duty, state, key_uri, csr, certificate, base_url, shards, issue_until, created_at, mac`

func (db *DB) scanAuthority(r row) (a ca.Authority, err error) {
	var until, created int64
	var mac []byte
	if err := r.Scan(&a.Name, &a.Tenant, (*string)(&a.Duty), (*string)(&a.State), &a.KeyURI, &a.CSR, &a.Certificate, &a.BaseURL, &a.Shards, &until, &created, &mac); err != nil {
		return a, err
	}
	a.IssueUntil, a.CreatedAt = timeOf(until), timeOf(created)
	if err := db.cfg.Seal.Verify(mac, "authorities", []byte(a.Name), []byte(a.Tenant), []byte(a.Duty), []byte(a.State), []byte(a.KeyURI), a.CSR, a.Certificate,
		[]byte(a.BaseURL), []byte(strconv.Itoa(a.Shards)), number(until), number(created)); err != nil {
		return a, ErrRowTampered.Wrap(err, "Table authorities, row %s.", a.Name)
	}
	return a, nil
}

// Authorities implements [ca.Authorities].
func (db *DB) Authorities(ctx context.Context) (out []ca.Authority, err error) {
	rows, err := db.query(ctx, `SELECT `+authorityColumns+` FROM authorities ORDER BY name`)
	err = each(rows, err, func(r row) error {
		a, err := db.scanAuthority(r)
		out = append(out, a)
		return err
	})
	return out, err
}

// CreateAuthority implements [ca.Authorities].
func (db *DB) CreateAuthority(ctx context.Context, a ca.Authority) error {
	return db.Atomic(ctx, func(ctx context.Context) error {
		mac := db.authorityMAC(&a)
		n, err := db.exec(ctx, `INSERT INTO authorities (`+authorityColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) ON CONFLICT (name) DO NOTHING`,
			a.Name, a.Tenant, string(a.Duty), string(a.State), a.KeyURI, a.CSR, a.Certificate, a.BaseURL, a.Shards, millis(a.IssueUntil), millis(a.CreatedAt), mac)
		if err == nil && n == 0 {
			return ca.ErrAuthorityExists.New("%s.", a.Name)
		}
		if err != nil {
			return err
		}
		txFrom(ctx).reseal("authorities", a.Name, nil, mac)
		db.authoritiesMoved(ctx)
		return db.declareFirst(ctx, &a, true)
	})
}

// InstallAuthority implements [ca.Authorities].
func (db *DB) InstallAuthority(ctx context.Context, a ca.Authority) error {
	if a.Duty == profile.DutyRoot {
		return db.CreateAuthority(ctx, a)
	}
	return db.Atomic(ctx, func(ctx context.Context) error {
		was, err := db.scanAuthority(db.queryRow(ctx, `SELECT `+authorityColumns+` FROM authorities WHERE name = $1 AND state = 'pending'`, a.Name))
		if errors.Is(err, sql.ErrNoRows) {
			return ca.ErrAuthorityExists.New("%s has its certificate, or was never created.", a.Name)
		}
		if err != nil {
			return err
		}
		old := db.authorityMAC(&was)
		was.State, was.Certificate, was.IssueUntil = a.State, a.Certificate, a.IssueUntil
		mac := db.authorityMAC(&was)
		n, err := db.exec(ctx, `UPDATE authorities SET state = $1, certificate = $2, issue_until = $3, mac = $4 WHERE name = $5 AND mac = $6`,
			string(a.State), a.Certificate, millis(a.IssueUntil), mac, a.Name, old)
		if err == nil && n == 0 {
			return errStale
		}
		if err != nil {
			return err
		}
		txFrom(ctx).reseal("authorities", a.Name, old, mac)
		db.authoritiesMoved(ctx)
		return db.declareFirst(ctx, &was, false)
	})
}

// SetAuthorityState implements [ca.Authorities].
func (db *DB) SetAuthorityState(ctx context.Context, name string, s ca.State) error {
	return db.Atomic(ctx, func(ctx context.Context) error {
		a, err := db.scanAuthority(db.queryRow(ctx, `SELECT `+authorityColumns+` FROM authorities WHERE name = $1`, name))
		if err != nil {
			return notFound(err, "Authority %s.", name)
		}
		old := db.authorityMAC(&a)
		a.State = s
		mac := db.authorityMAC(&a)
		n, err := db.exec(ctx, `UPDATE authorities SET state = $1, mac = $2 WHERE name = $3 AND mac = $4`, string(s), mac, name, old)
		if err == nil && n == 0 {
			return errStale
		}
		txFrom(ctx).reseal("authorities", name, old, mac)
		db.authoritiesMoved(ctx)
		return err
	})
}
