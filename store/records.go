package store

import (
	"context"
	"database/sql"
	"strconv"
	"strings"
	"time"

	"hallmark/ca"
)

var _ ca.Records = (*DB)(nil)

const recordSelect = `SELECT r.id, r.authority, r.serial, r.tenant, r.account, r.profile, r.holder, r.slot, r.spki, r.tbs, r.shard, r.not_before, r.not_after,
	r.requester, r.operator, r.tool, r.origin, r.reserved_at, c.der, COALESCE(c.issued_at, 0), COALESCE(c.leaf, -1),
	COALESCE(i.shown, r.holder), CASE WHEN i.reservation = r.id THEN i.state ELSE '' END,
	COALESCE(v.reason, 0), COALESCE(v.revoked_at, 0), COALESCE(v.revoked_by, ''), COALESCE(v.note, ''), COALESCE(v.released_at, 0)
	FROM reservations r
	LEFT JOIN certificates c ON c.reservation = r.id
	LEFT JOIN identities i ON i.tenant = r.tenant AND i.holder = r.holder AND i.profile = r.profile AND i.slot = r.slot
	LEFT JOIN revocations v ON v.authority = r.authority AND v.serial = r.serial `

func scanRecord(r row) (ca.Record, error) {
	var out ca.Record
	var serial, spki []byte
	var nb, na, reserved, issued, revoked, released int64
	err := r.Scan(&out.ID, &out.Authority, &serial, &out.Tenant, &out.Account, &out.Profile, &out.Holder, &out.Slot, &spki, &out.TBS, &out.Shard, &nb, &na,
		&out.Requester, &out.Operator, &out.Tool, &out.Origin, &reserved, &out.DER, &issued, &out.Leaf,
		&out.Shown, &out.State, &out.Reason, &revoked, &out.RevokedBy, &out.Note, &released)
	copy(out.Serial[:], serial)
	copy(out.SPKI[:], spki)
	out.NotBefore, out.NotAfter, out.ReservedAt, out.IssuedAt = timeOf(nb), timeOf(na), timeOf(reserved), timeOf(issued)
	out.RevokedAt, out.ReleasedAt = timeOf(revoked), timeOf(released)
	return out, err
}

// RecordBySerial implements [ca.Records].
func (db *DB) RecordBySerial(ctx context.Context, tenant, authority string, serial ca.Serial) (ca.Record, error) {
	r, err := scanRecord(db.queryRow(ctx, recordSelect+`WHERE r.serial = $1 AND r.tenant = $2`, serial[:], tenant))
	if err == nil && authority != "" && r.Authority != authority {
		err = sql.ErrNoRows
	}
	if err != nil {
		return ca.Record{}, notFound(err, "No certificate has the serial number %s.", serial)
	}
	return r, nil
}

// Records implements [ca.Records].
func (db *DB) Records(ctx context.Context, q ca.RecordQuery) (out []ca.Record, err error) {
	var where strings.Builder
	args := []any{q.Tenant, q.After}
	where.WriteString(`WHERE r.tenant = $1 AND r.id > $2`)
	add := func(cond string, v any) {
		args = append(args, v)
		where.WriteString(` AND ` + strings.ReplaceAll(cond, "?", "$"+strconv.Itoa(len(args))))
	}
	if q.Holder != "" {
		add(`r.holder = ?`, fold(q.Holder))
	}
	if q.Prefix != "" {
		p := fold(q.Prefix)
		add(`r.holder >= ?`, p)
		add(`r.holder < ?`, p+"\U0010ffff")
	}
	if q.Account != "" {
		add(`r.account = ?`, q.Account)
	}
	if q.Profile != "" {
		add(`r.profile = ?`, q.Profile)
	}
	if q.Authority != "" {
		add(`r.authority = ?`, q.Authority)
	}
	limit := q.Limit
	if limit <= 0 || limit > 1000 {
		limit = 100
	}
	args = append(args, limit)
	rows, err := db.query(ctx, recordSelect+where.String()+` ORDER BY r.id LIMIT $`+strconv.Itoa(len(args)), args...)
	err = each(rows, err, func(r row) error {
		rec, err := scanRecord(r)
		out = append(out, rec)
		return err
	})
	return out, err
}

// Abandoned reads reservations after an id in order, at most limit of them and
// none made at or after a time, and returns those that have neither a
// certificate nor a revocation (S8), and the last id that it read.
func (db *DB) Abandoned(ctx context.Context, after int64, before time.Time, limit int) (out []ca.Serial, last int64, err error) {
	last = after
	rows, err := db.query(ctx, `SELECT r.id, r.serial, r.reserved_at, c.reservation IS NULL AND v.serial IS NULL FROM reservations r
		LEFT JOIN certificates c ON c.reservation = r.id AND c.reservation > $1
		LEFT JOIN revocations v ON v.authority = r.authority AND v.serial = r.serial
		WHERE r.id > $1 ORDER BY r.id LIMIT $2`, after, limit)
	young := false
	err = each(rows, err, func(r row) error {
		var id, at int64
		var serial []byte
		var open bool
		if err := r.Scan(&id, &serial, &at, &open); err != nil {
			return err
		}
		if young = young || at >= millis(before); young {
			return nil
		}
		last = id
		if open {
			out = append(out, ca.Serial(serial))
		}
		return nil
	})
	return out, last, err
}

// IssuedAfter gives the certificates of reservations after an id, at most limit
// of them, and the last id that it read. A reservation without a certificate
// ends the page while it is young, since its certificate may still come.
func (db *DB) IssuedAfter(ctx context.Context, after int64, limit int) (ders [][]byte, last int64, err error) {
	last = after
	young := millis(db.now().Add(-time.Minute))
	rows, err := db.query(ctx, `SELECT r.id, r.reserved_at, c.der FROM reservations r LEFT JOIN certificates c ON c.reservation = r.id AND c.reservation > $1 WHERE r.id > $1 ORDER BY r.id LIMIT $2`, after, limit)
	waiting := false
	err = each(rows, err, func(r row) error {
		var id, at int64
		var der []byte
		if err := r.Scan(&id, &at, &der); err != nil {
			return err
		}
		if waiting = waiting || der == nil && at > young; waiting {
			return nil
		}
		last = id
		if der != nil {
			ders = append(ders, der)
		}
		return nil
	})
	return ders, last, err
}
