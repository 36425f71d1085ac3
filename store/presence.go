package store

import (
	"context"
	"time"

	"hallmark/access"
	"hallmark/fleet"
	"hallmark/fleet/presence"
	"hallmark/fleet/registry"
)

var _ presence.Store = (*DB)(nil)

const presenceColumns = `tenant, client, thing, name, certificate, node, session, connected, at, reason`

func scanPresence(r row) (s presence.State, err error) {
	var folded string
	var at int64
	var connected int
	err = r.Scan(&s.Tenant, &s.Client, &folded, (*string)(&s.Thing), &s.Certificate, &s.Node, &s.Session, &connected, &at, &s.Reason)
	s.Connected, s.At = connected == 1, timeOf(at)
	return s, err
}

// PutPresence implements [presence.Store]. An end is written only over the
// session that ended; a beginning over everything that is not newer.
func (db *DB) PutPresence(ctx context.Context, states []presence.State) error {
	return db.Atomic(ctx, func(ctx context.Context) error {
		for i := range states {
			s := &states[i]
			n, err := db.exec(ctx, `INSERT INTO presence (`+presenceColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
				ON CONFLICT (tenant, client) DO UPDATE SET thing = excluded.thing, name = excluded.name, certificate = excluded.certificate, node = excluded.node, session = excluded.session,
					connected = excluded.connected, at = excluded.at, reason = excluded.reason
				WHERE presence.session = excluded.session OR presence.at <= excluded.at AND (excluded.connected = 1 OR presence.connected = 0)`,
				s.Tenant, s.Client, s.Thing.Fold(), string(s.Thing), s.Certificate, s.Node, s.Session, flag(s.Connected), millis(s.At), s.Reason)
			if err != nil {
				return err
			}
			if n == 0 || s.Thing == "" {
				continue
			}
			if err := db.Index(ctx, s.Tenant, s.Thing, registry.PrefixOnline, map[string]any{"connected": s.Connected, "timestamp": millis(s.At), "disconnectReason": s.Reason}); err != nil {
				return err
			}
		}
		return nil
	})
}

// Presence implements [presence.Store].
func (db *DB) Presence(ctx context.Context, s access.Scope, thing fleet.ThingName) (out []presence.State, err error) {
	rows, err := db.query(ctx, `SELECT `+presenceColumns+` FROM presence WHERE tenant = $1 AND thing = $2 ORDER BY client`, s.Tenant, thing.Fold())
	err = each(rows, err, func(r row) error {
		st, err := scanPresence(r)
		out = append(out, st)
		return err
	})
	return out, err
}

// ResetPresence implements [presence.Store].
func (db *DB) ResetPresence(ctx context.Context, node, reason string, at time.Time) (n int64, err error) {
	err = db.Atomic(ctx, func(ctx context.Context) error {
		n, err = db.exec(ctx, `UPDATE presence SET connected = 0, reason = $1, at = $2 WHERE node = $3 AND connected = 1`, reason, millis(at), node)
		return err
	})
	return n, err
}

// SilentThings implements [presence.Store].
func (db *DB) SilentThings(ctx context.Context, s access.Scope, since time.Time, after fleet.ThingName, limit int) (out []presence.State, err error) {
	rows, err := db.query(ctx, `SELECT `+presenceColumns+` FROM presence p WHERE tenant = $1 AND thing > $2 AND thing <> '' AND connected = 0 AND at < $3
		AND NOT EXISTS (SELECT 1 FROM presence o WHERE o.tenant = p.tenant AND o.thing = p.thing AND (o.connected = 1 OR o.at > p.at OR o.at = p.at AND o.client > p.client))
		ORDER BY thing LIMIT $4`, s.Tenant, after.Fold(), millis(since), limit)
	err = each(rows, err, func(r row) error {
		st, err := scanPresence(r)
		out = append(out, st)
		return err
	})
	return out, err
}
