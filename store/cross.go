package store

import (
	"context"
	"encoding/json"

	"hallmark/access"
	"hallmark/ca"
)

const crossColumns = `tenant, name, body, version, mac`

func (db *DB) scanCross(r row) (x ca.Cross, err error) {
	tenant, name, version, err := db.scanBody("cross_certificates", r, &x)
	x.Tenant, x.Name, x.Version = tenant, name, version
	return x, err
}

// Crosses implements [ca.Crosses].
func (db *DB) Crosses(ctx context.Context) (out []ca.Cross, err error) {
	if txFrom(ctx) == nil {
		if err := db.whole(ctx, "cross_certificates"); err != nil {
			return nil, err
		}
	}
	rows, err := db.query(ctx, `SELECT `+crossColumns+` FROM cross_certificates ORDER BY name, tenant`)
	err = each(rows, err, func(r row) error {
		x, err := db.scanCross(r)
		out = append(out, x)
		return err
	})
	return out, err
}

// AddCross implements [ca.Crosses].
func (db *DB) AddCross(ctx context.Context, x ca.Cross) error {
	x.Version = 1
	body, err := json.Marshal(&x)
	if err != nil {
		return err
	}
	mac := db.bodyMAC("cross_certificates", x.Tenant, x.Name, body, x.Version)
	return db.Atomic(ctx, func(ctx context.Context) error {
		db.authoritiesMoved(ctx)
		return db.put(ctx, sealedRow{table: "cross_certificates", name: pair(x.Tenant, x.Name), mac: mac, find: `SELECT mac FROM cross_certificates WHERE tenant = $1 AND name = $2`, key: []any{x.Tenant, x.Name}, changed: ca.ErrAuthorityExists}, 0,
			`INSERT INTO cross_certificates (`+crossColumns+`) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING`, []any{x.Tenant, x.Name, body, x.Version, mac}, "", nil)
	})
}

// RemoveCross implements [ca.Crosses].
func (db *DB) RemoveCross(ctx context.Context, s access.Scope, name string) error {
	return db.Atomic(ctx, func(ctx context.Context) error {
		dropped, err := db.drop(ctx, sealedRow{table: "cross_certificates", name: pair(s.Tenant, name), find: `SELECT mac FROM cross_certificates WHERE tenant = $1 AND name = $2`, key: []any{s.Tenant, name}},
			`DELETE FROM cross_certificates WHERE tenant = $1 AND name = $2`)
		if err == nil && !dropped {
			return ca.ErrAuthorityUnknown.New("%.40s.", name)
		}
		db.authoritiesMoved(ctx)
		return err
	})
}
