package store

import (
	"context"
	"database/sql"
	"errors"
	"strconv"
	"time"

	"hallmark/access"
	"hallmark/fleet"
	"hallmark/fleet/presence"
	"hallmark/fleet/registry"
)

var _ presence.Store = (*DB)(nil)

const presenceColumns = `tenant, client, thing, name, certificate, node, session, connected, at, reason, mac`

// presenceMAC is over all that a row says.
func (db *DB) presenceMAC(s *presence.State) []byte {
	return db.cfg.Seal.MAC("presence", presenceFields(s)...)
}

func presenceFields(s *presence.State) [][]byte {
	return [][]byte{[]byte(s.Tenant), []byte(s.Client), []byte(s.Thing), []byte(s.Certificate), []byte(s.Node), []byte(s.Session),
		strconv.AppendInt(nil, int64(flag(s.Connected)), 10), strconv.AppendInt(nil, millis(s.At), 10), []byte(s.Reason)}
}

func (db *DB) scanPresence(r row) (s presence.State, err error) {
	var folded string
	var at int64
	var connected int
	var mac []byte
	if err := r.Scan(&s.Tenant, &s.Client, &folded, (*string)(&s.Thing), &s.Certificate, &s.Node, &s.Session, &connected, &at, &s.Reason, &mac); err != nil {
		return s, err
	}
	s.Connected, s.At = connected == 1, timeOf(at)
	err = db.cfg.Seal.Verify(mac, "presence", presenceFields(&s)...)
	if err == nil && folded != s.Thing.Fold() {
		err = errors.New("the folded name is another's")
	}
	if err != nil {
		err = ErrRowTampered.Wrap(err, "Table presence, row %s/%s.", s.Tenant, s.Client)
	}
	return s, err
}

// PutPresence implements [presence.Store]. An end is written only over the
// session that ended; a beginning over everything that is not newer.
func (db *DB) PutPresence(ctx context.Context, states []presence.State) error {
	return db.Atomic(ctx, func(ctx context.Context) error {
		for i := range states {
			s := &states[i]
			n, err := db.exec(ctx, `INSERT INTO presence (`+presenceColumns+`) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
				ON CONFLICT (tenant, client) DO UPDATE SET thing = excluded.thing, name = excluded.name, certificate = excluded.certificate, node = excluded.node, session = excluded.session,
					connected = excluded.connected, at = excluded.at, reason = excluded.reason, mac = excluded.mac
				WHERE presence.session = excluded.session OR presence.at <= excluded.at AND (excluded.connected = 1 OR presence.connected = 0)`,
				s.Tenant, s.Client, s.Thing.Fold(), string(s.Thing), s.Certificate, s.Node, s.Session, flag(s.Connected), millis(s.At), s.Reason, db.presenceMAC(s))
			if err != nil {
				return err
			}
			if n == 0 || s.Thing == "" {
				continue
			}
			if err := db.indexPresence(ctx, s.Tenant, s.Thing); err != nil {
				return err
			}
		}
		return nil
	})
}

// indexPresence lets queries find a thing by its connection.
func (db *DB) indexPresence(ctx context.Context, tenant string, thing fleet.ThingName) error {
	fields, err := db.connectivity(ctx, tenant, thing)
	if err != nil {
		if errors.Is(err, ErrRowTampered) {
			return nil // the others go on; fsck names the row
		}
		return err
	}
	return db.Index(ctx, tenant, thing, registry.PrefixOnline, fields)
}

// connectivity is what queries find of a thing's connections: of one that it has,
// else of the last that it had. A thing can have several clients.
func (db *DB) connectivity(ctx context.Context, tenant string, thing fleet.ThingName) (map[string]any, error) {
	s, err := db.scanPresence(db.queryRow(ctx, `SELECT `+presenceColumns+` FROM presence WHERE tenant = $1 AND thing = $2 ORDER BY connected DESC, at DESC, client LIMIT 1`, tenant, thing.Fold()))
	if errors.Is(err, sql.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	return map[string]any{"connected": s.Connected, "timestamp": millis(s.At), "disconnectReason": s.Reason}, nil
}

// Presence implements [presence.Store].
func (db *DB) Presence(ctx context.Context, s access.Scope, thing fleet.ThingName) (out []presence.State, err error) {
	rows, err := db.query(ctx, `SELECT `+presenceColumns+` FROM presence WHERE tenant = $1 AND thing = $2 ORDER BY client`, s.Tenant, thing.Fold())
	err = each(rows, err, func(r row) error {
		st, err := db.scanPresence(r)
		out = append(out, st)
		return err
	})
	return out, err
}

// ResetPresence implements [presence.Store].
func (db *DB) ResetPresence(ctx context.Context, node, reason string, at time.Time) (n int64, err error) {
	for {
		var page []presence.State
		err = db.Atomic(ctx, func(ctx context.Context) error {
			page = page[:0]
			rows, err := db.query(ctx, `SELECT `+presenceColumns+` FROM presence WHERE node = $1 AND connected = 1 ORDER BY tenant, client LIMIT 500`, node)
			err = each(rows, err, func(r row) error {
				s, err := db.scanPresence(r)
				if errors.Is(err, ErrRowTampered) {
					err = nil // what is written now is true again
				}
				page = append(page, s)
				return err
			})
			if err != nil {
				return err
			}
			for i := range page {
				s := &page[i]
				s.Connected, s.Reason, s.At = false, reason, at
				if _, err := db.exec(ctx, `UPDATE presence SET thing = $1, connected = 0, reason = $2, at = $3, mac = $4 WHERE tenant = $5 AND client = $6`,
					s.Thing.Fold(), reason, millis(at), db.presenceMAC(s), s.Tenant, s.Client); err != nil {
					return err
				}
				if s.Thing != "" {
					if err := db.indexPresence(ctx, s.Tenant, s.Thing); err != nil {
						return err
					}
				}
			}
			return nil
		})
		n += int64(len(page))
		if err != nil || len(page) == 0 {
			return n, err
		}
	}
}

// ForgetPresence implements [presence.Store]. A client that is connected stays.
func (db *DB) ForgetPresence(ctx context.Context, before time.Time, limit int) (n int64, err error) {
	err = db.Atomic(ctx, func(ctx context.Context) error {
		n = 0
		var gone []presence.State
		rows, err := db.query(ctx, `SELECT tenant, client, name FROM presence WHERE connected = 0 AND at < $1 ORDER BY at LIMIT $2`, millis(before), limit)
		err = each(rows, err, func(r row) error {
			var s presence.State
			err := r.Scan(&s.Tenant, &s.Client, (*string)(&s.Thing))
			gone = append(gone, s)
			return err
		})
		if err != nil {
			return err
		}
		for i := range gone {
			s := &gone[i]
			if _, err := db.exec(ctx, `DELETE FROM presence WHERE tenant = $1 AND client = $2`, s.Tenant, s.Client); err != nil {
				return err
			}
			if s.Thing != "" {
				if err := db.indexPresence(ctx, s.Tenant, s.Thing); err != nil {
					return err
				}
			}
			n++
		}
		return nil
	})
	return n, err
}

// brokenPresence names the rows that this program did not write.
func (db *DB) brokenPresence(ctx context.Context, report func(check, object, detail string)) error {
	tenant, client := "", ""
	for {
		n := 0
		rows, err := db.query(ctx, `SELECT `+presenceColumns+` FROM presence WHERE (tenant, client) > ($1, $2) ORDER BY tenant, client LIMIT $3`, tenant, client, chunk)
		err = each(rows, err, func(r row) error {
			s, err := db.scanPresence(r)
			if errors.Is(err, ErrRowTampered) {
				report("row-tampered", "presence "+s.Tenant+"/"+s.Client, "The row is not as this program wrote it.")
				err = nil
			}
			tenant, client = s.Tenant, s.Client
			n++
			return err
		})
		if err != nil || n == 0 {
			return err
		}
	}
}

// SilentThings implements [presence.Store].
func (db *DB) SilentThings(ctx context.Context, s access.Scope, since time.Time, after fleet.ThingName, limit int) (out []presence.State, err error) {
	rows, err := db.query(ctx, `SELECT `+presenceColumns+` FROM presence p WHERE tenant = $1 AND thing > $2 AND thing <> '' AND connected = 0 AND at < $3
		AND NOT EXISTS (SELECT 1 FROM presence o WHERE o.tenant = p.tenant AND o.thing = p.thing AND (o.connected = 1 OR o.at > p.at OR o.at = p.at AND o.client > p.client))
		ORDER BY thing LIMIT $4`, s.Tenant, after.Fold(), millis(since), limit)
	err = each(rows, err, func(r row) error {
		st, err := db.scanPresence(r)
		out = append(out, st)
		return err
	})
	return out, err
}
