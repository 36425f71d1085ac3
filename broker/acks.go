package broker

import (
	"sync"

	"github.com/mochi-mqtt/server/v2/packets"
)

// ack is the answer that a publish is waiting for. It is a small value: most are
// completed before the next packet is read.
type ack struct {
	c    *conn
	slot *slot // nil if nothing was ahead of it
	id   uint16
	qos  byte
}

// remembers is a completer that has changes of its own to make durable.
type remembers interface{ changes() []Change }

// acks keeps the answers of a connection in the order of the messages
// [MQTT-4.6.0-2], although some are known at once and some only after a commit.
type acks struct {
	mu    sync.Mutex
	slots []*slot
	room  chan struct{} // closed when one is free; nil if nobody waits
}

type slot struct {
	id    uint16
	qos   byte
	code  byte
	ready bool
	skip  bool // no answer: the client is not told that the message is safe
}

// expect takes a place in the order. A client may have so many unanswered
// messages and no more: MQTT 5 was told how many, MQTT 3.1.1 has to wait.
func (c *conn) expect(id uint16, qos byte) (ack, error) {
	a := ack{c: c, id: id, qos: qos}
	if qos == 0 {
		return a, nil
	}
	for {
		c.acks.mu.Lock()
		n := len(c.acks.slots)
		if n < c.b.lim.ReceiveMaximum {
			a.slot = &slot{id: id, qos: qos}
			c.acks.slots = append(c.acks.slots, a.slot)
			c.acks.mu.Unlock()
			return a, nil
		}
		if c.version == 5 {
			c.acks.mu.Unlock()
			return a, end(codeReceiveMaximum, ClientError, "receive maximum")
		}
		if c.acks.room == nil {
			c.acks.room = make(chan struct{})
		}
		room := c.acks.room
		c.acks.mu.Unlock()
		c.kicks.flush()
		select {
		case <-room:
		case <-c.closed:
			return a, c.ended.Load()
		}
	}
}

// changes implements [remembers]: the identifier of a QoS 2 message for a session
// in the store is written down with the message.
func (a ack) changes() []Change {
	if a.qos != 2 || !a.c.session.lasting.Load() {
		return nil
	}
	return []Change{Receive{Tenant: a.c.session.realm.tenant, Client: a.c.session.key, ID: a.id}}
}

// complete implements [completer]; it may be called from any goroutine.
func (a ack) complete(code byte, k *kicks) {
	c := a.c
	if a.qos == 0 {
		if code >= 0x80 {
			c.b.count.refusedPublish.Add(1)
		}
		return
	}
	if code >= 0x80 && c.version == 4 {
		// Nothing but silence says no to MQTT 3.1.1: the client sends it again on its
		// next connection.
		c.shut(end(code, refusedReason(code), "publish not accepted"))
		return
	}
	c.finishAck(a, code, false, k)
}

func refusedReason(code byte) Reason {
	if code == codeQuota {
		return Throttled
	}
	return ServerError
}

// finishAck marks an answer as known and sends what is in order.
func (c *conn) finishAck(a ack, code byte, skip bool, k *kicks) {
	q := &c.acks
	q.mu.Lock()
	a.slot.ready, a.slot.code, a.slot.skip = true, code, skip
	n := 0
	for n < len(q.slots) && q.slots[n].ready {
		s := q.slots[n]
		q.slots[n] = nil
		n++
		if s.skip {
			continue
		}
		if c.version == 4 {
			s.code = codeSuccess
		}
		kind := packets.Puback
		if s.qos == 2 {
			kind = packets.Pubrec
			if s.code >= 0x80 {
				c.unremember(s.id)
			}
		}
		c.push(item{kind: kind, pid: s.id, code: s.code}, k)
	}
	if q.slots = q.slots[n:]; len(q.slots) == 0 {
		q.slots = nil
	}
	if n > 0 && q.room != nil {
		close(q.room)
		q.room = nil
	}
	q.mu.Unlock()
}

// unremember forgets the identifier of a QoS 2 message that was refused.
func (c *conn) unremember(id uint16) {
	s := c.session
	s.mu.Lock()
	delete(s.received, id)
	s.mu.Unlock()
}

// onPubrel ends a QoS 2 message from the client.
func (c *conn) onPubrel(id uint16) error {
	s := c.session
	s.mu.Lock()
	_, known := s.received[id]
	delete(s.received, id)
	lasting := s.durable != nil
	s.mu.Unlock()
	code := codeSuccess
	if !known {
		code = codeIDNotFound
	}
	if known && lasting {
		c.b.journal.later(Receive{Tenant: s.realm.tenant, Client: s.key, ID: id, Done: true})
	}
	c.push(item{kind: packets.Pubcomp, pid: id, code: code}, &c.kicks)
	return nil
}
