package store

import (
	"context"
	"errors"
	"time"

	"hallmark/fleet"
	"hallmark/fleet/rotation"
)

const renewalColumns = `tenant, thing, name, was, is_now, reason, at, proven, due, mac`

func renewalFields(r *rotation.Renewal) [][]byte {
	return append([][]byte{[]byte(r.Tenant), []byte(r.Thing), []byte(r.Before), []byte(r.After), []byte(r.Reason)}, decimals(millis(r.At), millis(r.Proven), millis(r.Due))...)
}

func (db *DB) scanRenewal(row row) (r rotation.Renewal, folded string, err error) {
	var at, proven, due int64
	var mac []byte
	if err := row.Scan(&r.Tenant, &folded, (*string)(&r.Thing), &r.Before, &r.After, (*string)(&r.Reason), &at, &proven, &due, &mac); err != nil {
		return r, folded, err
	}
	r.At, r.Proven, r.Due = timeOf(at), timeOf(proven), timeOf(due)
	err = db.cfg.Seal.Verify(mac, "renewals", renewalFields(&r)...)
	if err == nil && folded != r.Thing.Fold() {
		err = errors.New("its key is another's")
	}
	if err != nil {
		err = ErrRowTampered.Wrap(err, "Table renewals, row %s.", pair(r.Tenant, folded))
	}
	return r, folded, err
}

// PutRenewal implements [rotation.Store].
func (db *DB) PutRenewal(ctx context.Context, r rotation.Renewal) error {
	mac := db.cfg.Seal.MAC("renewals", renewalFields(&r)...)
	return db.Atomic(ctx, func(ctx context.Context) error {
		_, err := db.exec(ctx, `INSERT INTO renewals (`+renewalColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10) ON CONFLICT (tenant, thing) DO UPDATE
			SET name = excluded.name, was = excluded.was, is_now = excluded.is_now, reason = excluded.reason, at = excluded.at, proven = excluded.proven, due = excluded.due, mac = excluded.mac WHERE renewals.at <= excluded.at`,
			r.Tenant, r.Thing.Fold(), string(r.Thing), r.Before, r.After, string(r.Reason), millis(r.At), millis(r.Proven), millis(r.Due), mac)
		return err
	})
}

// DropRenewal implements [rotation.Store].
func (db *DB) DropRenewal(ctx context.Context, r rotation.Renewal) error {
	return db.Atomic(ctx, func(ctx context.Context) error {
		_, err := db.exec(ctx, `DELETE FROM renewals WHERE tenant = $1 AND thing = $2 AND is_now = $3`, r.Tenant, r.Thing.Fold(), r.After)
		return err
	})
}

// DueRenewals implements [rotation.Store]. A row that somebody else wrote is passed
// over and put last: fsck names it.
func (db *DB) DueRenewals(ctx context.Context, now time.Time, limit int) (out []rotation.Renewal, err error) {
	var broken [][2]string
	rows, err := db.query(ctx, `SELECT `+renewalColumns+` FROM renewals WHERE due <= $1 ORDER BY due LIMIT $2`, millis(now), limit)
	err = each(rows, err, func(row row) error {
		r, folded, err := db.scanRenewal(row)
		if errors.Is(err, ErrRowTampered) {
			broken = append(broken, [2]string{r.Tenant, folded})
			return nil
		}
		out = append(out, r)
		return err
	})
	if err != nil || len(broken) == 0 {
		return out, err
	}
	db.log.ErrorContext(ctx, "renewals were changed by somebody else; their old certificates stay", "rows", len(broken))
	return out, db.Atomic(ctx, func(ctx context.Context) error {
		for _, k := range broken {
			if _, err := db.exec(ctx, `UPDATE renewals SET due = $1 WHERE tenant = $2 AND thing = $3`, millis(now.Add(24*time.Hour)), k[0], k[1]); err != nil {
				return err
			}
		}
		return nil
	})
}

// brokenRenewals names the rows that this program did not write.
func (db *DB) brokenRenewals(ctx context.Context, report func(check, object, detail string)) error {
	tenant, thing := "", fleet.ThingName("").Fold()
	for {
		n := 0
		rows, err := db.query(ctx, `SELECT `+renewalColumns+` FROM renewals WHERE (tenant, thing) > ($1, $2) ORDER BY tenant, thing LIMIT $3`, tenant, thing, chunk)
		err = each(rows, err, func(row row) error {
			r, folded, err := db.scanRenewal(row)
			if errors.Is(err, ErrRowTampered) {
				report("row-tampered", "renewals "+pair(r.Tenant, folded), "The row is not as this program wrote it.")
				err = nil
			}
			tenant, thing = r.Tenant, folded
			n++
			return err
		})
		if err != nil || n == 0 {
			return err
		}
	}
}
