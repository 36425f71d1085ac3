package broker

import "time"

// durable is the part of a session that has rows in the store. What is in memory
// is a stretch of the store's queue: messages after loaded are in the store alone.
type durable struct {
	ackedUpTo int64 // rows up to here can go
	loaded    int64 // newest position in memory, or answered
	last      int64 // newest position in the store
	sentUpTo  int64 // newest position that was ever sent: what is sent again is a duplicate
	filling   bool  // a page is being read
	dirty     bool  // ackedUpTo moved since the journal was told

	above    map[int64]struct{} // answered out of order, after ackedUpTo
	share    map[string]int     // messages in the store, by publisher
	messages int
	bytes    int
}

// pageSize is how many messages are read from the store at once.
const pageSize = 100

// fill reads the next page of what waits in the store.
func (s *session) fill(c *conn) {
	b := s.realm.b
	s.mu.Lock()
	d := s.durable
	after, newest := d.loaded, d.last
	s.mu.Unlock()
	page, err := b.journal.store.Queued(b.ctx, s.realm.tenant, s.key, after, pageSize)
	if err != nil {
		b.count.storeFailures.Add(1)
		b.log.WarnContext(b.ctx, "waiting messages not read", "client", s.client, "err", err)
		select { // the connection stays: it still gets what is new
		case <-time.After(time.Second):
		case <-c.closed:
		}
	}
	var k kicks
	s.mu.Lock()
	d.filling = false
	if s.conn == c && !s.gone {
		if err == nil {
			s.load(page, newest)
		}
		s.pump(c, &k)
	}
	s.mu.Unlock()
	k.flush()
	s.tellAcks()
}

// load appends a page to the queue. newest is what the store had at least when
// the page was read.
func (s *session) load(page []StoredMessage, newest int64) {
	d := s.durable
	for i := range page {
		q := &page[i]
		if q.Position <= d.loaded {
			continue
		}
		d.loaded = q.Position
		if _, done := d.above[q.Position]; done {
			continue
		}
		s.append(&outbound{msg: fromStored(q.Message), ids: q.IDs, position: q.Position, qos: q.QoS, retain: q.Retain, dup: q.Position <= d.sentUpTo, released: q.Released, stored: true})
	}
	if len(page) < pageSize {
		d.loaded = max(d.loaded, newest)
	}
}

// arrived hands over a message that is in the store now.
func (s *session) arrived(o *outbound, k *kicks) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.durable
	if s.gone || d == nil {
		return
	}
	inMemory := s.conn != nil && d.loaded == d.last && !d.filling && s.queueBytes+o.msg.size() <= s.realm.b.lim.OutBytes
	d.last = o.position
	if inMemory {
		d.loaded = o.position
		s.append(o)
	}
	if s.conn != nil {
		s.pump(s.conn, k)
	}
}

// reserve takes room for a message in the store's queue: 0, or the code with
// which it is refused. full tells that the session has to end.
func (s *session) reserve(m *message) (code byte, full bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, l := s.durable, &s.realm.b.lim
	if s.gone || d == nil {
		return 0, false
	}
	if d.messages >= l.QueueMessages || d.bytes+m.size() > l.QueueBytes {
		return 0, true
	}
	if m.origin != "" && d.share[m.origin] >= max(l.QueueMessages*l.QueueShare/100, 1) {
		return codeQuota, false
	}
	d.count(m, 1)
	return 0, false
}

func (s *session) unreserve(m *message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.durable != nil {
		s.durable.count(m, -1)
	}
}

func (d *durable) count(m *message, n int) {
	d.messages += n
	d.bytes += n * m.size()
	if m.origin != "" {
		if d.share == nil {
			d.share = map[string]int{}
		}
		if d.share[m.origin] += n; d.share[m.origin] <= 0 {
			delete(d.share, m.origin)
		}
	}
}

// settle forgets a message that needs no delivery any more. s.mu is held.
func (s *session) settle(o *outbound) {
	d := s.durable
	if !o.stored || d == nil {
		return
	}
	d.count(o.msg, -1)
	d.dirty = true
	if d.above == nil {
		d.above = map[int64]struct{}{}
	}
	d.above[o.position] = struct{}{}
	// Rows can go up to the oldest message that is still to be answered.
	oldest := d.loaded + 1
	for _, list := range [2][]*outbound{s.inflight, s.queue} {
		for _, u := range list {
			if u.stored && u != o {
				oldest = min(oldest, u.position)
				break // both lists are in order
			}
		}
	}
	if oldest-1 > d.ackedUpTo {
		d.ackedUpTo = oldest - 1
		for p := range d.above {
			if p <= d.ackedUpTo {
				delete(d.above, p)
			}
		}
	}
	if len(d.above) == 0 {
		d.above = nil
	} else if _, ahead := d.above[o.position]; ahead {
		// Answered before an older one: its own row goes, so that a QoS 2 message that
		// is complete is not sent again after a crash.
		go s.realm.b.journal.later(Acknowledge{Tenant: s.realm.tenant, Client: s.key, Position: o.position, Only: true})
	}
}

// tellAcks passes what settle found on to the journal; s.mu must not be held.
func (s *session) tellAcks() {
	s.mu.Lock()
	tell := s.durable != nil && s.durable.dirty
	if tell {
		s.durable.dirty = false
	}
	s.mu.Unlock()
	if tell {
		s.realm.b.journal.acknowledged(s)
	}
}

// node is this node's name in the store.
func (b *Broker) node() string {
	if b.cluster == nil {
		return ""
	}
	return b.cluster.self()
}

// row is the session for the store. s.mu is held.
func (s *session) row(connected bool) PutSession {
	p := PutSession{Session{Tenant: s.realm.tenant, Client: s.key, Node: s.realm.b.node(), Version: s.version, Expiry: s.expiry, Connected: connected, ExpiresAt: s.endsAt, WillAt: s.willAt}}
	if s.identity != nil {
		p.Thing, p.Certificate = string(s.identity.Thing), s.identity.Certificate
	}
	if s.durable != nil {
		p.SentUpTo = s.durable.sentUpTo
	}
	if s.will != nil {
		p.Will = s.will.encode()
	}
	return p
}

// forget drops what is in memory of a durable session's queue: the next connection
// reads it from the store. s.mu is held.
func (s *session) forget() {
	s.queue, s.inflight, s.queueBytes = nil, nil, 0
	if d := s.durable; d != nil {
		d.loaded = d.ackedUpTo
	}
}
