package store

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"

	"hallmark/access"
	"hallmark/fleet"
	"hallmark/fleet/trust"
)

var _ trust.Store = (*DB)(nil)

const (
	bundleColumns   = `tenant, thing, body, version, mac`
	rolloverColumns = `tenant, name, body, version, mac`
)

func (db *DB) scanBundle(r row) (b trust.Bundle, err error) {
	tenant, folded, version, err := db.scanBody("device_trust", r, &b)
	if b.Tenant, b.Version = tenant, version; err == nil && b.Thing.Fold() != folded {
		err = ErrRowTampered.New("Table device_trust, row %s: its key is another's.", pair(tenant, folded))
	}
	return b, err
}

// Bundle implements [trust.Store].
func (db *DB) Bundle(ctx context.Context, s access.Scope, thing fleet.ThingName) (trust.Bundle, error) {
	b, err := db.scanBundle(db.queryRow(ctx, `SELECT `+bundleColumns+` FROM device_trust WHERE tenant = $1 AND thing = $2`, s.Tenant, thing.Fold()))
	if errors.Is(err, sql.ErrNoRows) {
		return trust.Bundle{}, trust.ErrUnknown.New("")
	}
	return b, err
}

// Bundles implements [trust.Store].
func (db *DB) Bundles(ctx context.Context, s access.Scope, after, upTo string, limit int) (out []trust.Bundle, err error) {
	rows, err := db.query(ctx, `SELECT `+bundleColumns+` FROM device_trust WHERE tenant = $1 AND thing > $2 AND ($3 = '' OR thing <= $3) ORDER BY thing LIMIT $4`, s.Tenant, after, upTo, limit)
	err = each(rows, err, func(r row) error {
		b, err := db.scanBundle(r)
		out = append(out, b)
		return err
	})
	return out, err
}

func bundleRow(tenant string, thing fleet.ThingName) sealedRow {
	return sealedRow{table: "device_trust", name: pair(tenant, thing.Fold()), find: `SELECT mac FROM device_trust WHERE tenant = $1 AND thing = $2`, key: []any{tenant, thing.Fold()}, changed: trust.ErrChanged}
}

// PutBundle implements [trust.Store].
func (db *DB) PutBundle(ctx context.Context, b trust.Bundle) error {
	body, err := json.Marshal(&b)
	if err != nil {
		return err
	}
	return db.Atomic(ctx, func(ctx context.Context) error {
		was := int64(0)
		have, err := db.Bundle(ctx, access.Scope{Tenant: b.Tenant}, b.Thing)
		if err == nil {
			was = have.Version
		} else if !errors.Is(err, trust.ErrUnknown) {
			return err
		}
		folded, version := b.Thing.Fold(), was+1
		r := bundleRow(b.Tenant, b.Thing)
		r.mac = db.bodyMAC("device_trust", b.Tenant, folded, body, version)
		return db.put(ctx, r, was,
			`INSERT INTO device_trust (`+bundleColumns+`) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING`, []any{b.Tenant, folded, body, version, r.mac},
			`UPDATE device_trust SET body = $1, version = $2, mac = $3 WHERE tenant = $4 AND thing = $5 AND version = $6`, []any{body, version, r.mac, b.Tenant, folded, was})
	})
}

// DropBundle implements [trust.Store].
func (db *DB) DropBundle(ctx context.Context, tenant string, thing fleet.ThingName) error {
	_, err := db.drop(ctx, bundleRow(tenant, thing), `DELETE FROM device_trust WHERE tenant = $1 AND thing = $2`)
	return err
}

func (db *DB) scanRollover(r row) (v trust.Rollover, err error) {
	tenant, name, version, err := db.scanBody("trust_rollovers", r, &v)
	v.Tenant, v.Name, v.Version = tenant, name, version
	return v, err
}

// Rollovers implements [trust.Store]. Outside of a transaction the rows are held against
// the seal: a rollover that is gone is one whose gates nobody asks.
func (db *DB) Rollovers(ctx context.Context, s access.Scope) (out []trust.Rollover, err error) {
	if txFrom(ctx) == nil {
		if err := db.whole(ctx, "trust_rollovers"); err != nil {
			return nil, err
		}
	}
	rows, err := db.query(ctx, `SELECT `+rolloverColumns+` FROM trust_rollovers WHERE $1 = '' OR tenant = $1 ORDER BY tenant, name`, s.Tenant)
	err = each(rows, err, func(r row) error {
		v, err := db.scanRollover(r)
		out = append(out, v)
		return err
	})
	return out, err
}

// PutRollover implements [trust.Store].
func (db *DB) PutRollover(ctx context.Context, v trust.Rollover, was int64) error {
	v.Version = was + 1
	body, err := json.Marshal(&v)
	if err != nil {
		return err
	}
	mac := db.bodyMAC("trust_rollovers", v.Tenant, v.Name, body, v.Version)
	return db.Atomic(ctx, func(ctx context.Context) error {
		return db.put(ctx, sealedRow{table: "trust_rollovers", name: pair(v.Tenant, v.Name), mac: mac, find: `SELECT mac FROM trust_rollovers WHERE tenant = $1 AND name = $2`, key: []any{v.Tenant, v.Name}, changed: trust.ErrChanged}, was,
			`INSERT INTO trust_rollovers (`+rolloverColumns+`) VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING`, []any{v.Tenant, v.Name, body, v.Version, mac},
			`UPDATE trust_rollovers SET body = $1, version = $2, mac = $3 WHERE tenant = $4 AND name = $5 AND version = $6`, []any{body, v.Version, mac, v.Tenant, v.Name, was})
	})
}
