package store

import (
	"context"
	"crypto/sha256"
	"database/sql"

	"hallmark/access"
	"hallmark/ca/tlog"
)

// logRowSelect reads leaves with the certificate of their serial number. The
// join is the same as fsck's: what it does not find is missing.
const logRowSelect = `SELECT l.idx, l.type, l.tenant, l.account, l.holder, l.subject, l.salt, l.entry, l.serial, l.at,
	r.profile, r.requester, r.operator, r.tool, r.account, r.holder, COALESCE(i.shown, r.holder), c.der, c.leaf, c.issued_at
	FROM log_leaves l
	LEFT JOIN reservations r ON r.serial = l.serial AND r.tenant = l.tenant
	LEFT JOIN certificates c ON c.reservation = r.id
	LEFT JOIN identities i ON i.tenant = r.tenant AND i.holder = r.holder AND i.profile = r.profile AND i.slot = r.slot `

func (db *DB) logRows(ctx context.Context, query string, args ...any) (out []tlog.Row, err error) {
	rows, err := db.query(ctx, logRowSelect+query, args...)
	err = each(rows, err, func(r row) error {
		var profile, requester, operator, tool, account, holder, shown sql.NullString
		var der []byte
		var leaf, issued sql.NullInt64
		l, err := scanLeaf(r, &profile, &requester, &operator, &tool, &account, &holder, &shown, &der, &leaf, &issued)
		if err != nil {
			return err
		}
		v := tlog.Row{Leaf: l.Leaf, Serial: l.serial, At: timeOf(l.at), Genuine: db.salted(&l),
			Shown: shown.String, Profile: profile.String, Requester: requester.String, Operator: operator.String, Tool: tool.String}
		if v.Shown == "" {
			v.Shown = v.Holder
		}
		if der != nil {
			v.Certificate = &tlog.RowCertificate{Sum: sha256.Sum256(der), Leaf: leaf.Int64, IssuedAt: timeOf(issued.Int64), Account: account.String, Holder: holder.String}
		}
		out = append(out, v)
		return nil
	})
	return out, err
}

// LogRows gives the leaves of a tenant from an index on, at most limit of them.
// What is missing is left out, and nothing is judged: audits do that.
func (db *DB) LogRows(ctx context.Context, s access.Scope, from int64, limit int) ([]tlog.Row, error) {
	return db.logRows(ctx, `WHERE l.idx >= $1 AND l.tenant = $2 ORDER BY l.idx LIMIT $3`, from, s.Tenant, limit)
}

// OrderRows gives the leaves of an order from an index on, at most limit of them.
func (db *DB) OrderRows(ctx context.Context, s access.Scope, order string, from int64, limit int) ([]tlog.Row, error) {
	return db.logRows(ctx, `WHERE l.tenant = $1 AND l.account = $2 AND l.idx >= $3 ORDER BY l.idx LIMIT $4`, s.Tenant, order, from, limit)
}

// LogEntries gives index and entry of all leaves from ≤ index < to that there
// are, whoever's they are: entries are public. Of the rest only [tlog.Lost] is told.
func (db *DB) LogEntries(ctx context.Context, from, to int64) (out []tlog.Leaf, err error) {
	rows, err := db.query(ctx, `SELECT idx, CASE WHEN type = 'lost' THEN type ELSE '' END, entry FROM log_leaves WHERE idx >= $1 AND idx < $2 ORDER BY idx`, from, to)
	err = each(rows, err, func(r row) error {
		var l tlog.Leaf
		var entry []byte
		if err := r.Scan(&l.Index, (*string)(&l.Type), &entry); err != nil {
			return err
		}
		copy(l.Entry[:], entry)
		out = append(out, l)
		return nil
	})
	return out, err
}

// LogLeaf gives one leaf of a tenant; nil without an error if there is none.
func (db *DB) LogLeaf(ctx context.Context, s access.Scope, index int64) (*tlog.Row, error) {
	rows, err := db.logRows(ctx, `WHERE l.idx = $1 AND l.tenant = $2`, index, s.Tenant)
	if err != nil || len(rows) == 0 {
		return nil, err
	}
	return &rows[0], nil
}
