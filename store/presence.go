package store

import (
	"context"
	"database/sql"
	"errors"
	"maps"
	"slices"
	"strconv"
	"strings"
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

func (db *DB) scanPresence(r row) (presence.State, error) {
	s, _, err := db.scanPresenceOf(r)
	return s, err
}

// scanPresenceOf also gives the folded name under which the row is found, whatever
// the row says.
func (db *DB) scanPresenceOf(r row) (s presence.State, folded string, err error) {
	var at int64
	var connected int
	var mac []byte
	if err := r.Scan(&s.Tenant, &s.Client, &folded, (*string)(&s.Thing), &s.Certificate, &s.Node, &s.Session, &connected, &at, &s.Reason, &mac); err != nil {
		return s, folded, err
	}
	s.Connected, s.At = connected == 1, timeOf(at)
	err = db.cfg.Seal.Verify(mac, "presence", presenceFields(&s)...)
	if err == nil && folded != s.Thing.Fold() {
		err = errors.New("the folded name is another's")
	}
	if err != nil {
		err = ErrRowTampered.Wrap(err, "Table presence, row %s/%s.", s.Tenant, s.Client)
	}
	return s, folded, err
}

// PutPresence implements [presence.Store]. An end is written only over the
// session that ended; a beginning over everything that is not newer. A fleet
// that comes back at once is many states, so each step is few statements.
func (db *DB) PutPresence(ctx context.Context, states []presence.State) error {
	return db.Atomic(ctx, func(ctx context.Context) error {
		tx := txFrom(ctx)
		if err := tx.settle(true); err != nil {
			return err
		}
		written := map[[2]string]bool{}
		steps := tx.insertSteps(`presence (`+presenceColumns+`)`, "", ` ON CONFLICT (tenant, client) DO UPDATE SET thing = excluded.thing, name = excluded.name, certificate = excluded.certificate,
				node = excluded.node, session = excluded.session, connected = excluded.connected, at = excluded.at, reason = excluded.reason, mac = excluded.mac
			WHERE presence.session = excluded.session OR presence.at <= excluded.at AND (excluded.connected = 1 OR presence.connected = 0) RETURNING tenant, client`,
			strings.Count(presenceColumns, ",")+1, len(states), func(i int, args []any) []any {
				s := &states[i]
				return append(args, s.Tenant, s.Client, s.Thing.Fold(), string(s.Thing), s.Certificate, s.Node, s.Session, flag(s.Connected), millis(s.At), s.Reason, db.presenceMAC(s))
			})
		for i := range steps {
			steps[i].row = func(r row) error {
				var k [2]string
				err := r.Scan(&k[0], &k[1])
				written[k] = true
				return err
			}
		}
		if err := tx.pipe(steps...); err != nil {
			return err
		}
		of := map[[2]string][]string{} // names as they are written, by tenant and folded name
		for i := range states {
			if s := &states[i]; s.Thing != "" && written[[2]string{s.Tenant, s.Client}] {
				k := [2]string{s.Tenant, s.Thing.Fold()}
				of[k] = append(of[k], string(s.Thing))
			}
		}
		return db.indexConnections(ctx, of)
	})
}

// indexConnections lets queries find things by their connections. of has the
// names as they were written, by tenant and folded name.
func (db *DB) indexConnections(ctx context.Context, of map[[2]string][]string) error {
	// 1. Things that are registered under that very name.
	all := slices.SortedFunc(maps.Keys(of), func(a, b [2]string) int { return slices.Compare(a[:], b[:]) })
	var things [][2]string
	err := db.tuples(ctx, `SELECT tenant, folded, name FROM things WHERE (tenant, folded) IN `, all, "", func(r row) error {
		var k [2]string
		var name string
		err := r.Scan(&k[0], &k[1], &name)
		if slices.Contains(of[k], name) {
			things = append(things, k)
		}
		return err
	})
	if err != nil || len(things) == 0 {
		return err
	}
	// 2. What is true of their connections: as [DB.connectivity] says it.
	best, broken := map[[2]string]presence.State{}, map[[2]string]bool{}
	err = db.tuples(ctx, `SELECT `+presenceColumns+` FROM presence WHERE (tenant, thing) IN `, things, "", func(r row) error {
		s, folded, err := db.scanPresenceOf(r)
		k := [2]string{s.Tenant, folded}
		if errors.Is(err, ErrRowTampered) {
			broken[k] = true // the others go on; fsck names the row
			return nil
		}
		if b, ok := best[k]; err == nil && (!ok || rather(&s, &b)) {
			best[k] = s
		}
		return err
	})
	if err != nil {
		return err
	}
	// 3. What the index has.
	type entry struct {
		thing [2]string
		registry.Row
	}
	have := map[entry]bool{}
	err = db.tuples(ctx, `SELECT tenant, thing, field, text, number FROM thing_index WHERE (tenant, thing) IN `, things,
		` AND field >= '`+registry.PrefixOnline+`.' AND field < '`+registry.PrefixOnline+`/'`, func(r row) error {
			var e entry
			var err error
			e.Row, err = scanIndex(r, &e.thing[0], &e.thing[1])
			have[e] = true
			return err
		})
	if err != nil {
		return err
	}
	// 4. The difference.
	var more, less []entry
	changed := map[[2]string]map[string]bool{}
	note := func(e entry) {
		if changed[e.thing] == nil {
			changed[e.thing] = map[string]bool{}
		}
		changed[e.thing][e.Field] = true
	}
	for _, k := range things {
		s, ok := best[k]
		if broken[k] || !ok { // one that has no connection any more has no rows
			continue
		}
		for _, row := range registry.Flatten(registry.PrefixOnline, connectivityFields(&s)) {
			e := entry{k, row}
			if have[e] {
				delete(have, e)
				continue
			}
			more = append(more, e)
			note(e)
		}
	}
	for e := range have {
		if !broken[e.thing] {
			less = append(less, e)
			note(e)
		}
	}
	tx := txFrom(ctx)
	for rest := less; len(rest) > 0; {
		n := piece(len(rest))
		args := make([]any, 0, 4*n)
		for _, e := range rest[:n] {
			args = append(args, e.thing[0], e.thing[1], e.Field, e.Text)
		}
		if _, err := tx.exec(`DELETE FROM thing_index WHERE (tenant, thing, field, text) IN `+valuesSQL(4, n), args...); err != nil {
			return err
		}
		rest = rest[n:]
	}
	if err := tx.pipe(tx.insertSteps(`thing_index (tenant, thing, field, text, number)`, "", ` ON CONFLICT (tenant, thing, field, text) DO UPDATE SET number = excluded.number`, 5, len(more), func(i int, args []any) []any {
		e := more[i]
		return append(args, e.thing[0], e.thing[1], e.Field, e.Text, sql.NullFloat64{Float64: e.Number, Valid: e.Numeric})
	})...); err != nil {
		return err
	}
	// 5. Dynamic groups that look at it.
	dynamic := map[string]bool{}
	for k, fields := range changed {
		if _, ok := dynamic[k[0]]; !ok {
			var any bool
			if err := db.queryRow(ctx, `SELECT EXISTS (SELECT 1 FROM thing_groups WHERE tenant = $1 AND query <> '')`, k[0]).Scan(&any); err != nil {
				return err
			}
			dynamic[k[0]] = any
		}
		if dynamic[k[0]] {
			if err := db.regroup(ctx, k[0], k[1], fields); err != nil {
				return err
			}
		}
	}
	return nil
}

// rather tells whether a state says more about a thing's connection than another
// of its clients: the order of connectivity.
func rather(a, b *presence.State) bool {
	if a.Connected != b.Connected {
		return a.Connected
	}
	if !a.At.Equal(b.At) {
		return a.At.After(b.At)
	}
	return a.Client < b.Client
}

// tuples asks for rows by pairs of columns, in pieces.
func (db *DB) tuples(ctx context.Context, query string, keys [][2]string, tail string, scan func(row) error) error {
	for len(keys) > 0 {
		n := piece(len(keys))
		args := make([]any, 0, 2*n)
		for _, k := range keys[:n] {
			args = append(args, k[0], k[1])
		}
		rows, err := db.query(ctx, query+valuesSQL(2, n)+tail, args...)
		if err := each(rows, err, scan); err != nil {
			return err
		}
		keys = keys[n:]
	}
	return nil
}

// valuesSQL is (VALUES ($1, $2), ($3, $4)) for two columns and two rows.
func valuesSQL(columns, rows int) string {
	var b strings.Builder
	b.WriteString("(VALUES ")
	for i := range columns * rows {
		switch {
		case i == 0:
			b.WriteString("(")
		case i%columns == 0:
			b.WriteString("), (")
		default:
			b.WriteString(", ")
		}
		b.WriteString("$" + strconv.Itoa(i+1))
	}
	return b.String() + "))"
}

// indexPresence is indexConnections for one thing.
func (db *DB) indexPresence(ctx context.Context, tenant string, thing fleet.ThingName) error {
	return db.indexConnections(ctx, map[[2]string][]string{{tenant, thing.Fold()}: {string(thing)}})
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
	return connectivityFields(&s), nil
}

func connectivityFields(s *presence.State) map[string]any {
	return map[string]any{"connected": s.Connected, "timestamp": millis(s.At), "disconnectReason": s.Reason}
}

const presenceSQL = `SELECT ` + presenceColumns + ` FROM presence WHERE tenant = $1 AND thing = $2 ORDER BY client`

// Presence implements [presence.Store].
func (db *DB) Presence(ctx context.Context, s access.Scope, thing fleet.ThingName) (out []presence.State, err error) {
	rows, err := db.query(ctx, presenceSQL, s.Tenant, thing.Fold())
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
