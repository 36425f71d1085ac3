package broker

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"runtime/debug"
	"slices"
	"strings"
	"sync"

	"hallmark/fleet"
)

// requests is what a connection asked of reserved topics. They are worked on one
// after the other: two updates of one shadow must not change places.
type requests struct {
	mu      sync.Mutex
	waiting []request
	running bool
}

type request struct {
	topic *fleet.Topic
	m     *message
	a     ack
}

func (b *Broker) isReserved(topic string) bool {
	return underReserved(topic) && b.handler(topic) != nil
}

// The reserved topics: those of the reference cloud, and the service's own.
const (
	cloudPrefix = "$aws/"
	ownPrefix   = "$hallmark/things/"
)

func underReserved(topic string) bool {
	return strings.HasPrefix(topic, cloudPrefix) || strings.HasPrefix(topic, ownPrefix)
}

// ofThing tells whether a topic or filter is below a thing's part of the service's
// own topics. A device needs no policy for it: with the certificate that it
// connected with it may also ask for its next one.
func ofThing(topic string, thing fleet.ThingName) bool {
	rest, ok := strings.CutPrefix(topic, ownPrefix)
	if !ok || thing == "" {
		return false
	}
	rest, ok = strings.CutPrefix(rest, string(thing))
	return ok && strings.HasPrefix(rest, "/")
}

// handler finds the row of a topic. If several match, the first in the table wins.
func (b *Broker) handler(topic string) *fleet.Topic {
	best := -1
	b.reserved.match(topic, func(i *int) {
		if best < 0 || *i < best {
			best = *i
		}
	})
	if best < 0 {
		return nil
	}
	return &b.cfg.Topics[best]
}

// ask hands a message to the handler of its topic. It is answered by the handler,
// and acknowledged when the handler is done.
func (c *conn) ask(m *message, a ack) error {
	b := c.b
	r := request{b.handler(m.topic), m, a}
	q := &c.request
	q.mu.Lock()
	full := len(q.waiting) >= b.lim.Requests || b.asking.Load() >= int64(b.lim.RequestQueue)
	if !full {
		q.waiting = append(q.waiting, r)
		b.asking.Add(1)
	}
	start := !full && !q.running
	if start {
		q.running = true
	}
	q.mu.Unlock()
	b.count.requests.Add(1)
	if full {
		b.count.requestsRejected.Add(1)
		c.reply(m.topic+"/rejected", tooMany(m, b.now().Unix()))
		if c.version == 5 {
			a.complete(codeQuota, &c.kicks)
		} else {
			a.complete(codeSuccess, &c.kicks) // the rejection is the answer
		}
		return nil
	}
	if start {
		go c.work()
	}
	return nil
}

// work runs the connection's requests until there is none left.
func (c *conn) work() {
	b, q := c.b, &c.request
	for {
		b.workers <- struct{}{}
		q.mu.Lock()
		if len(q.waiting) == 0 {
			q.waiting, q.running = nil, false
			q.mu.Unlock()
			<-b.workers
			return
		}
		r := q.waiting[0]
		q.mu.Unlock()
		c.run(r)
		<-b.workers
		q.mu.Lock()
		q.waiting = slices.Delete(q.waiting, 0, 1)
		q.mu.Unlock()
		b.asking.Add(-1)
	}
}

// run calls the handler of one request.
func (c *conn) run(r request) {
	b := c.b
	ctx, cancel := context.WithTimeout(b.ctx, b.lim.RequestTimeout)
	defer cancel()
	err := call(ctx, r.topic, fleet.Request{
		Sender:  c.id.sender(c.session.client),
		Topic:   r.m.topic,
		Levels:  strings.Split(r.m.topic, "/"),
		Payload: r.m.payload,
		Address: c.remote.Addr(),
		Reply:   c.reply,
	})
	var k kicks
	if err != nil {
		b.count.requestsFailed.Add(1)
		b.log.ErrorContext(ctx, "request to a reserved topic failed", "filter", r.topic.Filter, "client", c.session.client, "err", err)
	}
	if r.a.qos > 0 {
		switch {
		case err == nil:
			c.finishAck(r.a, codeSuccess, false, &k)
		case c.version == 5:
			c.finishAck(r.a, codeUnspecified, false, &k)
		default:
			// No PUBACK for what was not done. The connection stays: a database that is
			// down for a moment must not send a fleet into reconnecting.
			c.finishAck(r.a, 0, true, &k)
		}
	}
	k.flush()
}

// call turns a handler's panic into an error, so that one request never ends the service (A57).
func call(ctx context.Context, t *fleet.Topic, r fleet.Request) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("broker: panic in a handler: %v\n%s", p, debug.Stack())
		}
	}()
	return t.Handle(ctx, r)
}

// reply is [fleet.Request.Reply]: to this connection only, without a subscription,
// if the policy lets the device receive it. Its QoS is that of a subscription
// that matches, else 0.
func (c *conn) reply(topic string, payload []byte) {
	if topic == "" || len(topic) > 65535 {
		return
	}
	m := &message{topic: topic, payload: slices.Clone(payload), qos: 1}
	s := c.session
	t := target{session: s}
	var k kicks
	s.mu.Lock()
	for _, sub := range s.subs {
		if sub.filter.share == "" && sub.qos > t.qos && matches(sub.filter.filter, topic, s.realm.b.lim.HashWithoutParent) {
			t.qos = 1
		}
	}
	mine := s.conn == c
	s.mu.Unlock()
	if mine {
		s.offer(m, &t, &k)
		k.flush()
	}
}

// matches compares one filter with one topic.
func matches(filter, topic string, hashWithoutParent bool) bool {
	if strings.HasPrefix(topic, "$") && !strings.HasPrefix(filter, "$") {
		return false
	}
	for {
		f, restF, moreF := strings.Cut(filter, "/")
		if f == "#" {
			return true
		}
		t, restT, moreT := strings.Cut(topic, "/")
		if f != "+" && f != t {
			return false
		}
		switch {
		case !moreF && !moreT:
			return true
		case !moreT: // a/# matches a
			return restF == "#" && !hashWithoutParent
		case !moreF:
			return false
		}
		filter, topic = restF, restT
	}
}

// tooMany is what a request gets that found no place. It carries the fields of
// every kind of rejection: the broker does not know which protocol it speaks for.
func tooMany(m *message, now int64) []byte {
	const text = "Too many requests in work."
	if strings.HasSuffix(m.topic, "/cbor") {
		b := []byte{0xA3} // RFC 8949, Section 3.1: a map of three
		b = cborText(b, "statusCode")
		b = binary.BigEndian.AppendUint16(append(b, 0x19), 429)
		b = cborText(cborText(b, "errorCode"), "Throttled")
		return cborText(cborText(b, "errorMessage"), text)
	}
	var in struct {
		ClientToken json.RawMessage `json:"clientToken"`
	}
	json.Unmarshal(m.payload, &in) // no token, no echo
	out := struct {
		Code         int             `json:"code"`
		Message      string          `json:"message"`
		StatusCode   int             `json:"statusCode"`
		ErrorCode    string          `json:"errorCode"`
		ErrorMessage string          `json:"errorMessage"`
		Timestamp    int64           `json:"timestamp"`
		ClientToken  json.RawMessage `json:"clientToken,omitempty"`
	}{429, text, 429, "Throttled", text, now, in.ClientToken}
	b, err := json.Marshal(out)
	if err != nil {
		return nil
	}
	return b
}

// cborText appends a text string of less than 256 octets.
func cborText(b []byte, s string) []byte {
	if len(s) < 24 {
		b = append(b, 0x60|byte(len(s)))
	} else {
		b = append(b, 0x78, byte(len(s)))
	}
	return append(b, s...)
}
