package store

import (
	"context"
	"slices"
	"time"

	"hallmark/access"
	"hallmark/fleet"
	"hallmark/fleet/rotation"
)

var _ rotation.Store = (*DB)(nil)

const (
	rotationColumns = `tenant, thing, campaign, what, certificate, was, at, name, reason, detail, mac`
	rotationSelect  = `SELECT ` + rotationColumns + ` FROM rotation_events `
)

func rotationFields(e *rotation.Event) [][]byte {
	return append([][]byte{[]byte(e.Tenant), []byte(e.Campaign), []byte(e.What), []byte(e.Certificate), []byte(e.Before), []byte(e.Thing), []byte(e.Reason), []byte(e.Detail)}, decimals(millis(e.At))...)
}

func rotationKey(tenant, folded string, e *rotation.Event) string {
	return pair(tenant, folded) + "/" + e.Certificate + "/" + string(e.What) + "/" + e.Campaign
}

// AddRotationEvent implements [rotation.Store].
func (db *DB) AddRotationEvent(ctx context.Context, e rotation.Event) error {
	mac := db.cfg.Seal.MAC("rotation_events", rotationFields(&e)...)
	return db.Atomic(ctx, func(ctx context.Context) error {
		n, err := db.exec(ctx, `INSERT INTO rotation_events (`+rotationColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11) ON CONFLICT (tenant, thing, certificate, what, campaign) DO NOTHING`,
			e.Tenant, e.Thing.Fold(), e.Campaign, string(e.What), e.Certificate, e.Before, millis(e.At), string(e.Thing), string(e.Reason), e.Detail, mac)
		if err == nil && n == 1 {
			txFrom(ctx).reseal("rotation_events", rotationKey(e.Tenant, e.Thing.Fold(), &e), nil, keyOnly)
		}
		return err
	})
}

// scanRotation also gives the name of the row.
func (db *DB) scanRotation(r row) (e rotation.Event, name string, err error) {
	var folded string
	var at int64
	var mac []byte
	if err := r.Scan(&e.Tenant, &folded, &e.Campaign, (*string)(&e.What), &e.Certificate, &e.Before, &at, (*string)(&e.Thing), (*string)(&e.Reason), &e.Detail, &mac); err != nil {
		return e, "", err
	}
	e.At, name = timeOf(at), rotationKey(e.Tenant, folded, &e)
	if err := db.cfg.Seal.Verify(mac, "rotation_events", rotationFields(&e)...); err != nil {
		return e, name, ErrRowTampered.Wrap(err, "Table rotation_events, row %s.", name)
	}
	if e.Thing.Fold() != folded {
		return e, name, ErrRowTampered.New("Table rotation_events, row %s: its key is another's.", name)
	}
	return e, name, nil
}

// RotationEvents implements [rotation.Store].
func (db *DB) RotationEvents(ctx context.Context, s access.Scope, thing fleet.ThingName, limit int) (out []rotation.Event, err error) {
	rows, err := db.query(ctx, rotationSelect+`WHERE tenant = $1 AND thing = $2 ORDER BY at DESC, certificate DESC, what DESC LIMIT $3`, s.Tenant, thing.Fold(), limit)
	err = each(rows, err, func(r row) error {
		e, _, err := db.scanRotation(r)
		out = append(out, e)
		return err
	})
	slices.Reverse(out)
	return out, err
}

// expiringSQL takes a page from device_certificates_expiry, in its order, and then
// looks at whose they are and whether these have a certificate that ends later. That a
// row was tampered with shows when the certificate is read: this only says where to
// look. The CROSS JOIN has SQLite begin with the thing's certificates, which are few, and
// not with all that end later.
const expiringSQL = `SELECT c.id, c.authority, c.not_after, COALESCE(t.name, ''),
	CASE WHEN EXISTS (SELECT 1 FROM thing_principals q CROSS JOIN device_certificates d WHERE d.tenant = q.tenant AND d.id = q.certificate AND q.tenant = p.tenant AND q.thing = p.thing AND d.status = 'ACTIVE' AND d.not_after > c.not_after AND d.not_after > $3) THEN 1 ELSE 0 END
	FROM (SELECT tenant, id, authority, not_after FROM device_certificates WHERE tenant = $1 AND status = 'ACTIVE' AND not_after > $2 AND not_after <= $3 AND (not_after > $4 OR not_after = $4 AND id > $5) ORDER BY not_after, id LIMIT $6) c
	LEFT JOIN thing_principals p ON p.tenant = c.tenant AND p.certificate = c.id
	LEFT JOIN things t ON t.tenant = p.tenant AND t.folded = p.thing
	ORDER BY c.not_after, c.id, p.thing`

func expiringArgs(tenant string, now, until time.Time, after *rotation.Due, limit int) []any {
	from, last := millis(now), int64(0)
	if after.Certificate != "" {
		last = millis(after.NotAfter)
		from = max(from, last-1)
	}
	return []any{tenant, from, millis(until), last, after.Certificate, limit}
}

// Expiring implements [rotation.Store].
func (db *DB) Expiring(ctx context.Context, s access.Scope, now, until time.Time, after rotation.Due, limit int) (out []rotation.Due, last rotation.Due, more bool, err error) {
	n := 0
	rows, err := db.query(ctx, expiringSQL, expiringArgs(s.Tenant, now, until, &after, limit)...)
	err = each(rows, err, func(r row) error {
		var d rotation.Due
		var at int64
		var successor int
		if err := r.Scan(&d.Certificate, &d.Authority, &at, (*string)(&d.Thing), &successor); err != nil {
			return err
		}
		if d.NotAfter = timeOf(at); d.Certificate != last.Certificate {
			n++
		}
		if last = d; d.Thing != "" && successor == 0 {
			out = append(out, d)
		}
		return nil
	})
	return out, last, n == limit, err
}
