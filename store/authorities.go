package store

import (
	"context"
	"strconv"

	"hallmark/ca"
	"hallmark/ca/profile"
)

var _ ca.Authorities = (*DB)(nil)

// authorityMAC covers what a database writer must not change (S32).
func (db *DB) authorityMAC(a *ca.Authority) []byte {
	return db.cfg.Seal.MAC("authorities", []byte(a.Name), []byte(a.Tenant), []byte(a.Duty), []byte(a.State), []byte(a.KeyURI), a.CSR, a.Certificate,
		[]byte(a.BaseURL), []byte(strconv.Itoa(a.Shards)), []byte(strconv.FormatInt(millis(a.IssueUntil), 10)))
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
		[]byte(a.BaseURL), []byte(strconv.Itoa(a.Shards)), []byte(strconv.FormatInt(until, 10))); err != nil {
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
		n, err := db.exec(ctx, `INSERT INTO authorities (`+authorityColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12) ON CONFLICT (name) DO NOTHING`,
			a.Name, a.Tenant, string(a.Duty), string(a.State), a.KeyURI, a.CSR, a.Certificate, a.BaseURL, a.Shards, millis(a.IssueUntil), millis(a.CreatedAt), db.authorityMAC(&a))
		if err == nil && n == 0 {
			return ca.ErrAuthorityExists.New("%s.", a.Name)
		}
		return err
	})
}

// InstallAuthority implements [ca.Authorities].
func (db *DB) InstallAuthority(ctx context.Context, a ca.Authority) error {
	if a.Duty == profile.DutyRoot {
		return db.CreateAuthority(ctx, a)
	}
	return db.Atomic(ctx, func(ctx context.Context) error {
		n, err := db.exec(ctx, `UPDATE authorities SET state = $1, certificate = $2, issue_until = $3, mac = $4 WHERE name = $5 AND state = 'pending'`,
			string(a.State), a.Certificate, millis(a.IssueUntil), db.authorityMAC(&a), a.Name)
		if err == nil && n == 0 {
			return ca.ErrAuthorityExists.New("%s has its certificate, or was never created.", a.Name)
		}
		return err
	})
}

// SetAuthorityState implements [ca.Authorities].
func (db *DB) SetAuthorityState(ctx context.Context, name string, s ca.State) error {
	return db.Atomic(ctx, func(ctx context.Context) error {
		a, err := db.scanAuthority(db.queryRow(ctx, `SELECT `+authorityColumns+` FROM authorities WHERE name = $1`, name))
		if err != nil {
			return notFound(err, "Authority %s.", name)
		}
		a.State = s
		_, err = db.exec(ctx, `UPDATE authorities SET state = $1, mac = $2 WHERE name = $3`, string(s), db.authorityMAC(&a), name)
		return err
	})
}
