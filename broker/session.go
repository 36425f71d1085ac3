package broker

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"hallmark/fleet/policy"
)

// session is what the broker remembers of a client, with or without a connection.
type session struct {
	realm       *realm
	key, client string

	owner *conn // the connection that has or is getting the session; guarded by realm.mu

	online   atomic.Bool  // conn is set: for shared groups, which look without a lock
	lasting  atomic.Bool  // durable is set: its messages wait in the store
	progress atomic.Int64 // Unix milliseconds of the last sign that the client takes messages

	mu       sync.Mutex
	conn     *conn // to which messages go; nil while there is none
	gone     bool  // ended: nothing may be added any more
	identity *Identity
	version  byte
	expiry   time.Duration
	subs     map[string]*subscription // by filter as sent

	position   int64       // of the newest message; its packet identifier follows from it
	window     int         // messages that may be unanswered
	inflight   []*outbound // sent and not answered, in order
	queue      []*outbound // not sent
	queueBytes int
	received   map[uint16]struct{} // QoS 2: identifiers between PUBLISH and PUBREL
	room       chan struct{}       // closed when the session is not overloaded any more; nil if nobody waits

	durable *durable // nil: nothing of the session is in the store
	will    *will
	willAt  time.Time
	endsAt  time.Time
}

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

// outbound is a QoS 1 or 2 message on its way to a client.
type outbound struct {
	msg      *message
	group    *shared // by which it was chosen; another member can take it over
	ids      []int
	position int64
	qos      byte
	retain   bool
	dup      bool
	released bool // QoS 2: PUBREC came
	stored   bool
}

// pid is the packet identifier: 1 to 65535, and the same after a restart
// [MQTT-4.4.0-1].
func pid(position int64) uint16 { return uint16((position-1)%65535) + 1 }

func newSession(r *realm, key, client string) *session {
	return &session{realm: r, key: key, client: client, subs: map[string]*subscription{}}
}

// offer gives the session a message that is in no store. It reports false if the
// session cannot take it: it has no connection, or it is being ended.
func (s *session) offer(m *message, t *target, k *kicks) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.conn
	if c == nil {
		return false
	}
	if t.qos == 0 {
		c.sendOnce(m, t, k)
		return true
	}
	o := &outbound{msg: m, group: t.group, ids: t.ids, qos: t.qos, retain: t.retain}
	if !s.draw(o) {
		return false
	}
	if s.queueBytes+m.size() > s.realm.b.lim.OutBytes {
		s.tooSlow(c)
		return false
	}
	s.append(o)
	s.pump(c, k)
	return true
}

// draw gives a message its position. A client that leaves one message unanswered
// while 65,000 others went through keeps its identifier in use: it is cut.
func (s *session) draw(o *outbound) bool {
	oldest := s.position + 1
	if len(s.inflight) > 0 {
		oldest = s.inflight[0].position
	}
	if s.durable != nil {
		oldest = min(oldest, s.durable.ackedUpTo+1)
	}
	if s.position-oldest > 65_000 {
		if s.conn != nil {
			s.tooSlow(s.conn)
		}
		return false
	}
	s.position++
	o.position = s.position
	return true
}

func (s *session) tooSlow(c *conn) {
	s.realm.b.count.slowDisconnects.Add(1)
	c.shut(end(codeQuota, Throttled, "subscriber too slow"))
}

func (s *session) append(o *outbound) {
	if len(s.queue) == 0 && len(s.inflight) == 0 {
		s.progress.Store(s.realm.b.now().UnixMilli())
	}
	s.queue = append(s.queue, o)
	s.queueBytes += o.msg.size()
}

// pump sends what the window allows, and sees to it that more is read from the
// store when the queue in memory runs low. s.mu is held.
func (s *session) pump(c *conn, k *kicks) {
	for len(s.queue) > 0 && len(s.inflight) < s.window {
		o := s.queue[0]
		s.queue[0] = nil
		s.queue = s.queue[1:]
		s.queueBytes -= o.msg.size()
		if c.transmit(o, k) {
			s.inflight = append(s.inflight, o)
		} else {
			s.settle(o)
		}
	}
	if len(s.queue) == 0 {
		s.queue = nil
	}
	d := s.durable
	if d != nil && d.loaded < d.last && !d.filling && len(s.queue) < pageSize/2 {
		d.filling = true
		go s.fill(c)
	}
	if s.room != nil && !s.crowded(4) {
		close(s.room)
		s.room = nil
	}
}

// crowded tells whether more than one part in n of what may wait does. s.mu is held.
func (s *session) crowded(n int) bool {
	l := &s.realm.b.lim
	if d := s.durable; d != nil && d.messages > l.QueueMessages/n {
		return true
	}
	return s.durable == nil && s.queueBytes > l.OutBytes/n
}

// overloaded gives a channel to wait on if publishers should, else nil.
func (s *session) overloaded() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn == nil || s.gone || !s.crowded(2) {
		return nil
	}
	if s.room == nil {
		s.room = make(chan struct{})
	}
	return s.room
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

// answered looks up the unanswered message of an identifier. s.mu is held.
func (s *session) answered(id uint16, qos byte) (*outbound, int) {
	for i, o := range s.inflight {
		if o.qos == qos && pid(o.position) == id {
			return o, i
		}
	}
	return nil, -1
}

// done takes a message out of the window: the client has it.
func (s *session) done(i int, k *kicks) {
	o := s.inflight[i]
	s.inflight = slices.Delete(s.inflight, i, i+1)
	if len(s.inflight) == 0 {
		s.inflight = nil
	}
	s.progress.Store(s.realm.b.now().UnixMilli())
	s.settle(o)
	if s.conn != nil {
		s.pump(s.conn, k)
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

// row is the session for the store. s.mu is held.
func (s *session) row(connected bool) PutSession {
	p := PutSession{Session{Tenant: s.realm.tenant, Client: s.key, Version: s.version, Expiry: s.expiry, Connected: connected, ExpiresAt: s.endsAt, WillAt: s.willAt}}
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

// transmit puts a message into the connection's queue: false if it is not to be
// delivered at all. The session's lock is held.
func (c *conn) transmit(o *outbound, k *kicks) bool {
	b := c.b
	if o.released {
		c.push(item{kind: packets.Pubrel, pid: pid(o.position)}, k)
		return true
	}
	switch {
	case o.msg.expired(b.now()):
		b.count.expired.Add(1)
		return false
	case wireSize(o.msg, o.ids, c.version) > c.maxPacket:
		// As if it had been sent and answered [MQTT-3.1.2-25].
		b.count.droppedTooLarge.Add(1)
		return false
	case !c.allows(policy.Receive, o.msg.topic):
		b.count.refusedReceive.Add(1)
		return false
	}
	if d := c.session.durable; d != nil && o.stored {
		d.sentUpTo = max(d.sentUpTo, o.position)
	}
	c.push(item{msg: o.msg, ids: o.ids, pid: pid(o.position), qos: o.qos, retain: o.retain, dup: o.dup}, k)
	return true
}

// sendOnce is a QoS 0 message: sent, or dropped. The session's lock is held.
func (c *conn) sendOnce(m *message, t *target, k *kicks) {
	b := c.b
	switch {
	case wireSize(m, t.ids, c.version) > c.maxPacket:
		b.count.droppedTooLarge.Add(1)
	case !c.allows(policy.Receive, m.topic):
		b.count.refusedReceive.Add(1)
	case !c.pushIfRoom(item{msg: m, ids: t.ids, retain: t.retain}, k):
		b.count.droppedQoS0.Add(1)
	}
}
