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
	conn     *conn                  // to which messages go; nil while there is none
	gone     bool                   // ended or moved: nothing may be added any more
	movedTo  string                 // the node that has it now; its subscriptions stay until all nodes know
	recent   map[messageID]struct{} // while it may be told of a message twice: see move.go
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
