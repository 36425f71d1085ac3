package store

import (
	"context"
	"database/sql"
	"errors"

	"hallmark/access"
	"hallmark/ca/profile"
	"hallmark/ca/tlog"
)

// Counts counts what a tenant has. Each is a walk over an index, so callers keep
// the answer for a while.
func (db *DB) Counts(ctx context.Context, s access.Scope) (c access.Counts, err error) {
	for _, q := range []struct {
		to   *int64
		text string
		args []any
	}{
		{&c.Certificates, `SELECT COUNT(*) FROM log_leaves WHERE tenant = $1 AND type = $2`, []any{s.Tenant, string(tlog.Issue)}},
		{&c.Revoked, `SELECT COUNT(*) FROM revocations WHERE tenant = $1 AND released_at = 0`, []any{s.Tenant}},
		{&c.Things, `SELECT COUNT(*) FROM things WHERE tenant = $1`, []any{s.Tenant}},
		{&c.Stations, `SELECT COUNT(*) FROM stations WHERE tenant = $1 AND state = 'active'`, []any{s.Tenant}},
		{&c.LogSize, `SELECT size FROM log_head WHERE id = 1`, nil},
	} {
		if err := db.queryRow(ctx, q.text, q.args...).Scan(q.to); err != nil {
			return c, ErrOpen.Wrap(err, "")
		}
	}
	return c, nil
}

// CountInstalled gives the units of an order that are installed and verified.
func (db *DB) CountInstalled(ctx context.Context, s access.Scope, order string) (n int64, err error) {
	if err := db.queryRow(ctx, `SELECT COUNT(*) FROM identities WHERE tenant = $1 AND account = $2 AND state = 'installed' AND profile = $3`, s.Tenant, order, string(profile.IDevID)).Scan(&n); err != nil {
		return 0, ErrOpen.Wrap(err, "")
	}
	return n, nil
}

// BlockOf tells whether and why an identity is blocked.
func (db *DB) BlockOf(ctx context.Context, s access.Scope, holder string) (b access.Block, blocked bool, err error) {
	var at int64
	err = db.queryRow(ctx, `SELECT blocked_at, blocked_by, note FROM blocks WHERE tenant = $1 AND holder = $2`, s.Tenant, fold(holder)).Scan(&at, &b.By, &b.Note)
	if errors.Is(err, sql.ErrNoRows) {
		return b, false, nil
	}
	b.At = timeOf(at)
	return b, err == nil, err
}
