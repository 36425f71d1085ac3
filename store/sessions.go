package store

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"strconv"
	"strings"
	"time"

	"hallmark/broker"
)

var _ broker.Store = (*DB)(nil)

// sharedFrom is the size from which a payload that waits for several sessions is
// stored once.
const sharedFrom = 512

// Apply implements [broker.Store]: one call is one transaction, which shares its
// commit with whatever else is written at the time.
func (db *DB) Apply(ctx context.Context, changes []broker.Change) error {
	return db.Atomic(ctx, func(ctx context.Context) error {
		var queue rows
		queue.init(`INSERT INTO broker_queue (tenant, client, position, publisher, topic, qos, flags, ids, expires_at, size, body, properties, payload) VALUES `, 13)
		for _, c := range changes {
			if q, ok := c.(broker.Enqueue); ok {
				if err := db.enqueue(ctx, &queue, &q); err != nil {
					return err
				}
				continue
			}
			if err := queue.flush(ctx, db); err != nil {
				return err
			}
			if err := db.applyOne(ctx, c); err != nil {
				return err
			}
		}
		return queue.flush(ctx, db)
	})
}

// rows gathers rows of one table, to be inserted many at a time.
type rows struct {
	insert  string
	columns int
	args    []any
	many    string // placeholders of rowsAtOnce rows
	one     string
}

const rowsAtOnce = 16

func (r *rows) init(insert string, columns int) {
	r.insert, r.columns = insert, columns
}

func (r *rows) add(values ...any) { r.args = append(r.args, values...) }

func (r *rows) flush(ctx context.Context, db *DB) error {
	for len(r.args) > 0 {
		n := 1
		text := &r.one
		if len(r.args) >= rowsAtOnce*r.columns {
			n, text = rowsAtOnce, &r.many
		}
		if *text == "" {
			*text = r.insert + placeholders(n, r.columns)
		}
		if _, err := db.exec(ctx, *text, r.args[:n*r.columns]...); err != nil {
			return err
		}
		r.args = r.args[n*r.columns:]
	}
	r.args = nil
	return nil
}

// placeholders is ($1, $2), ($3, $4) and so on.
func placeholders(rows, columns int) string {
	var b strings.Builder
	for i := range rows * columns {
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
	return b.String() + ")"
}

func (db *DB) enqueue(ctx context.Context, queue *rows, q *broker.Enqueue) error {
	m := &q.Message
	properties, payload, body := octets(m.Properties), octets(m.Payload), int64(0)
	if len(q.To) > 1 && len(payload) >= sharedFrom {
		var r [8]byte
		rand.Read(r[:])
		body = int64(binary.BigEndian.Uint64(r[:])>>1) | 1
		if _, err := db.exec(ctx, `INSERT INTO broker_bodies (id, properties, payload) VALUES ($1, $2, $3)`, body, properties, payload); err != nil {
			return err
		}
		properties, payload = []byte{}, []byte{}
	}
	for _, to := range q.To {
		flags := int64(m.QoS) << 2
		if to.Retain {
			flags |= 1
		}
		queue.add(q.Tenant, to.Client, to.Position, m.Publisher, m.Topic, int64(to.QoS), flags, encodeIDs(to.IDs), millis(m.ExpiresAt), int64(m.Size()), body, properties, payload)
	}
	return nil
}

func (db *DB) applyOne(ctx context.Context, c broker.Change) (err error) {
	exec := func(query string, args ...any) {
		if err == nil {
			_, err = db.exec(ctx, query, args...)
		}
	}
	switch c := c.(type) {
	case broker.PutSession:
		exec(`INSERT INTO broker_sessions (tenant, client, thing, certificate, version, expiry, connected, ends_at, sent_up_to, will, will_at, node) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)
			ON CONFLICT (tenant, client) DO UPDATE SET thing = excluded.thing, certificate = excluded.certificate, version = excluded.version, expiry = excluded.expiry, connected = excluded.connected,
			ends_at = excluded.ends_at, sent_up_to = excluded.sent_up_to, will = excluded.will, will_at = excluded.will_at, node = excluded.node`,
			c.Tenant, c.Client, c.Thing, c.Certificate, int64(c.Version), int64(c.Expiry/time.Second), flag(c.Connected), millis(c.ExpiresAt), c.SentUpTo, octets(c.Will), millis(c.WillAt), c.Node)
	case broker.EndSession:
		exec(`DELETE FROM broker_queue WHERE tenant = $1 AND client = $2`, c.Tenant, c.Client)
		exec(`DELETE FROM broker_received WHERE tenant = $1 AND client = $2`, c.Tenant, c.Client)
		exec(`DELETE FROM broker_subscriptions WHERE tenant = $1 AND client = $2`, c.Tenant, c.Client)
		exec(`DELETE FROM broker_sessions WHERE tenant = $1 AND client = $2`, c.Tenant, c.Client)
	case broker.PutSubscription:
		options := int64(c.QoS) | int64(flag(c.NoLocal))<<2 | int64(flag(c.AsPublished))<<3 | int64(c.Handling)<<4
		exec(`INSERT INTO broker_subscriptions (tenant, client, filter, options, subscription) VALUES ($1, $2, $3, $4, $5)
			ON CONFLICT (tenant, client, filter) DO UPDATE SET options = excluded.options, subscription = excluded.subscription`, c.Tenant, c.Client, c.Filter, options, int64(c.ID))
	case broker.EndSubscription:
		exec(`DELETE FROM broker_subscriptions WHERE tenant = $1 AND client = $2 AND filter = $3`, c.Tenant, c.Client, c.Filter)
	case broker.Acknowledge:
		if c.Only {
			exec(`DELETE FROM broker_queue WHERE tenant = $1 AND client = $2 AND position = $3`, c.Tenant, c.Client, c.Position)
		} else {
			exec(`DELETE FROM broker_queue WHERE tenant = $1 AND client = $2 AND position <= $3`, c.Tenant, c.Client, c.Position)
		}
	case broker.Release:
		exec(`UPDATE broker_queue SET flags = flags | 2 WHERE tenant = $1 AND client = $2 AND position = $3`, c.Tenant, c.Client, c.Position)
	case broker.Receive:
		if c.Done {
			exec(`DELETE FROM broker_received WHERE tenant = $1 AND client = $2 AND packet = $3`, c.Tenant, c.Client, int64(c.ID))
		} else {
			exec(`INSERT INTO broker_received (tenant, client, packet) VALUES ($1, $2, $3) ON CONFLICT (tenant, client, packet) DO NOTHING`, c.Tenant, c.Client, int64(c.ID))
		}
	case broker.PutRetained:
		exec(`INSERT INTO broker_retained (tenant, topic, thing, certificate, publisher, qos, stored_at, expires_at, properties, payload) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
			ON CONFLICT (tenant, topic) DO UPDATE SET thing = excluded.thing, certificate = excluded.certificate, publisher = excluded.publisher, qos = excluded.qos, stored_at = excluded.stored_at,
			expires_at = excluded.expires_at, properties = excluded.properties, payload = excluded.payload`,
			c.Tenant, c.Topic, c.Thing, c.Certificate, c.Publisher, int64(c.QoS), millis(c.StoredAt), millis(c.ExpiresAt), octets(c.Properties), octets(c.Payload))
	case broker.Guard:
		n, err := db.exec(ctx, `UPDATE broker_nodes SET beat = beat + 1 WHERE node = $1`, c.Node)
		if err == nil && n == 0 {
			err = broker.ErrFenced.New("")
		}
		return err
	case broker.EndRetained:
		exec(`DELETE FROM broker_retained WHERE tenant = $1 AND topic = $2`, c.Tenant, c.Topic)
	}
	return err
}

// octets is b, and no NULL.
func octets(b []byte) []byte {
	if b == nil {
		return []byte{}
	}
	return b
}

func encodeIDs(ids []int) []byte {
	b := []byte{}
	for _, id := range ids {
		b = binary.AppendUvarint(b, uint64(id))
	}
	return b
}

func decodeIDs(b []byte) (ids []int) {
	for len(b) > 0 {
		v, n := binary.Uvarint(b)
		if n <= 0 {
			return ids
		}
		ids, b = append(ids, int(v)), b[n:]
	}
	return ids
}

// Sessions implements [broker.Store]. It runs once, at the start, so it reads
// the tables whole and joins them here.
func (db *DB) Sessions(ctx context.Context, fn func(broker.StoredSession) error) error {
	list, err := db.sessions(ctx, `1 = 1`)
	for i := range list {
		if err == nil {
			err = fn(list[i])
		}
	}
	return err
}

// sessions reads the sessions that a condition on tenant and client selects.
func (db *DB) sessions(ctx context.Context, where string, args ...any) (list []broker.StoredSession, err error) {
	type key struct{ tenant, client string }
	at := map[key]int{}
	found, err := db.query(ctx, `SELECT tenant, client, thing, certificate, version, expiry, connected, ends_at, sent_up_to, will, will_at, node FROM broker_sessions WHERE `+where+` ORDER BY tenant, client`, args...)
	err = each(found, err, func(r row) error {
		var s broker.StoredSession
		var version, expiry, connected, ends, willAt int64
		if err := r.Scan(&s.Tenant, &s.Client, &s.Thing, &s.Certificate, &version, &expiry, &connected, &ends, &s.SentUpTo, &s.Will, &willAt, &s.Node); err != nil {
			return err
		}
		s.Version, s.Expiry, s.Connected, s.ExpiresAt, s.WillAt = byte(version), time.Duration(expiry)*time.Second, connected == 1, timeOf(ends), timeOf(willAt)
		at[key{s.Tenant, s.Client}] = len(list)
		list = append(list, s)
		return nil
	})
	if err != nil {
		return nil, err
	}
	found, err = db.query(ctx, `SELECT tenant, client, filter, options, subscription FROM broker_subscriptions WHERE `+where, args...)
	err = each(found, err, func(r row) error {
		var p broker.PutSubscription
		var o, id int64
		if err := r.Scan(&p.Tenant, &p.Client, &p.Filter, &o, &id); err != nil {
			return err
		}
		p.QoS, p.NoLocal, p.AsPublished, p.Handling, p.ID = byte(o&3), o&4 != 0, o&8 != 0, byte(o>>4&3), int(id)
		if i, ok := at[key{p.Tenant, p.Client}]; ok {
			list[i].Subscriptions = append(list[i].Subscriptions, p)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	found, err = db.query(ctx, `SELECT tenant, client, packet FROM broker_received WHERE `+where, args...)
	err = each(found, err, func(r row) error {
		var k key
		var id int64
		if err := r.Scan(&k.tenant, &k.client, &id); err != nil {
			return err
		}
		if i, ok := at[k]; ok {
			list[i].Received = append(list[i].Received, uint16(id))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	found, err = db.query(ctx, `SELECT tenant, client, publisher, COUNT(*), CAST(SUM(size) AS BIGINT), MIN(position), MAX(position) FROM broker_queue WHERE `+where+` GROUP BY tenant, client, publisher`, args...)
	err = each(found, err, func(r row) error {
		var k key
		var w broker.Waiting
		if err := r.Scan(&k.tenant, &k.client, &w.Publisher, &w.Messages, &w.Bytes, &w.First, &w.Last); err != nil {
			return err
		}
		if i, ok := at[k]; ok {
			list[i].Waiting = append(list[i].Waiting, w)
		}
		return nil
	})
	return list, err
}

// Retained implements [broker.Store].
func (db *DB) Retained(ctx context.Context, fn func(broker.PutRetained) error) error {
	return db.retained(ctx, fn, `1 = 1`)
}

func (db *DB) retained(ctx context.Context, fn func(broker.PutRetained) error, where string, args ...any) error {
	found, err := db.query(ctx, `SELECT tenant, topic, thing, certificate, publisher, qos, stored_at, expires_at, properties, payload FROM broker_retained WHERE `+where, args...)
	return each(found, err, func(r row) error {
		var p broker.PutRetained
		var qos, stored, expires int64
		if err := r.Scan(&p.Tenant, &p.Topic, &p.Thing, &p.Certificate, &p.Publisher, &qos, &stored, &expires, &p.Properties, &p.Payload); err != nil {
			return err
		}
		p.QoS, p.StoredAt, p.ExpiresAt = byte(qos), timeOf(stored), timeOf(expires)
		return fn(p)
	})
}

// Queued implements [broker.Store].
func (db *DB) Queued(ctx context.Context, tenant, client string, after int64, limit int) (out []broker.StoredMessage, err error) {
	found, err := db.query(ctx, `SELECT q.position, q.publisher, q.topic, q.qos, q.flags, q.ids, q.expires_at, q.body, q.properties, q.payload, b.properties, b.payload
		FROM broker_queue q LEFT JOIN broker_bodies b ON b.id = q.body WHERE q.tenant = $1 AND q.client = $2 AND q.position > $3 ORDER BY q.position LIMIT $4`, tenant, client, after, limit)
	err = each(found, err, func(r row) error {
		var m broker.StoredMessage
		var qos, flags, expires, body int64
		var ids, properties, payload []byte
		if err := r.Scan(&m.Position, &m.Publisher, &m.Topic, &qos, &flags, &ids, &expires, &body, &m.Properties, &m.Payload, &properties, &payload); err != nil {
			return err
		}
		if body != 0 {
			m.Properties, m.Payload = properties, payload
		}
		m.QoS, m.Retain, m.Released, m.Message.QoS = byte(qos), flags&1 != 0, flags&2 != 0, byte(flags>>2&3)
		m.IDs, m.ExpiresAt = decodeIDs(ids), timeOf(expires)
		out = append(out, m)
		return nil
	})
	return out, err
}

// Sweep implements [broker.Store].
func (db *DB) Sweep(ctx context.Context) error {
	for {
		var n int64
		err := db.Atomic(ctx, func(ctx context.Context) (err error) {
			n, err = db.exec(ctx, `DELETE FROM broker_bodies WHERE id IN (SELECT b.id FROM broker_bodies b WHERE NOT EXISTS (SELECT 1 FROM broker_queue q WHERE q.body = b.id AND q.body <> 0) LIMIT $1)`, sweepAtOnce)
			return err
		})
		if err != nil || n < sweepAtOnce {
			return err
		}
	}
}

// sweepAtOnce keeps a sweep from holding up what shares its commit.
const sweepAtOnce = 256
