package broker

import (
	"context"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/mochi-mqtt/server/v2/packets"

	"hallmark/fleet"
	"hallmark/fleet/policy"
)

// onPublish is a message from a device. The order counts: resolve the alias, then
// decide on the resolved topic (A70), then act.
func (c *conn) onPublish(pk *packets.Packet) error {
	b, qos := c.b, pk.FixedHeader.Qos
	p := &pk.Properties
	if qos == 2 && !b.lim.QoS2 {
		return end(codeQoS, ClientError, "QoS 2") // [MQTT-3.2.2-11]
	}
	if qos > 0 && pk.PacketID == 0 {
		return violation("packet identifier 0") // [MQTT-2.3.1-1]
	}
	if len(p.SubscriptionIdentifier) > 0 {
		return violation("subscription identifier from a client") // [MQTT-3.3.4-6]
	}
	if strings.ContainsAny(p.ResponseTopic, "+#") {
		return violation("response topic with wildcards") // [MQTT-3.3.2-14]
	}
	topic, err := c.resolve(pk.TopicName, p)
	if err != nil {
		return err
	}
	topic = c.own(topic)
	if err := c.pace.publish(c, len(pk.Payload)); err != nil {
		return err
	}
	b.count.publishedIn.Add(1)
	b.count.bytesIn.Add(int64(len(pk.Payload)))

	if qos == 2 {
		s := c.session
		s.mu.Lock()
		_, again := s.received[pk.PacketID]
		full := len(s.received) >= b.lim.ReceiveMaximum
		if !again && !full {
			if s.received == nil {
				s.received = map[uint16]struct{}{}
			}
			s.received[pk.PacketID] = struct{}{}
		}
		s.mu.Unlock()
		if again {
			// Sent again before PUBREL: it is not passed on twice [MQTT-4.3.3-10].
			c.push(item{kind: packets.Pubrec, pid: pk.PacketID}, &c.kicks)
			return nil
		}
		if full {
			return end(codeReceiveMaximum, ClientError, "receive maximum")
		}
	}
	a, err := c.expect(pk.PacketID, qos)
	if err != nil {
		return err
	}
	if code, why := c.mayPublish(topic, pk); code != 0 {
		b.count.refusedPublish.Add(1)
		return c.reject(a, code, why)
	}
	m := &message{topic: topic, payload: slices.Clone(pk.Payload), props: passedOn(p), origin: c.session.key, qos: qos, retain: pk.FixedHeader.Retain}
	if p.MessageExpiryInterval > 0 {
		m.expires = b.now().Add(min(time.Duration(p.MessageExpiryInterval)*time.Second, b.lim.MessageExpiry)).UnixMilli()
	}
	if strings.HasPrefix(topic, "$") {
		return c.ask(m, a)
	}
	slow := b.publish(c.session.realm, m, c.id, &c.kicks, a)
	for _, s := range slow {
		c.yield(s)
	}
	return nil
}

// resolve gives the topic, from the packet or from its alias.
func (c *conn) resolve(topic string, p *packets.Properties) (string, error) {
	if !p.TopicAliasFlag {
		if topic == "" && c.version == 5 {
			return "", violation("no topic") // [MQTT-3.3.2-8]
		}
		return topic, nil
	}
	a := int(p.TopicAlias)
	if a == 0 || a > c.b.lim.TopicAliases {
		return "", end(codeAliasInvalid, ClientError, "topic alias") // [MQTT-3.3.2-8] [MQTT-3.3.2-9]
	}
	if topic != "" {
		for len(c.aliasIn) < a {
			c.aliasIn = append(c.aliasIn, "")
		}
		c.aliasIn[a-1] = strings.Clone(topic)
		return c.aliasIn[a-1], nil
	}
	if a > len(c.aliasIn) || c.aliasIn[a-1] == "" {
		return "", violation("unknown topic alias")
	}
	return c.aliasIn[a-1], nil
}

// own gives a topic that outlives the packet, whose octets are used again. The last
// one is kept: most devices publish to few topics.
func (c *conn) own(topic string) string {
	if c.lastTopic != topic {
		c.lastTopic = strings.Clone(topic)
	}
	return c.lastTopic
}

// mayPublish is every rule for a message: 0, or the code of the refusal.
func (c *conn) mayPublish(topic string, pk *packets.Packet) (byte, Reason) {
	l := &c.b.lim
	switch {
	case !l.checkTopic(topic):
		return codeTopicInvalid, ClientError
	case len(pk.Payload) > l.PayloadSize:
		return codeQuota, ClientError
	case !c.allows(policy.Publish, topic):
		return codeNotAuthorized, AuthError
	case pk.FixedHeader.Retain && !c.allows(policy.RetainPublish, topic):
		return codeNotAuthorized, AuthError
	case strings.HasPrefix(topic, "$") && (pk.FixedHeader.Retain || !c.b.isReserved(topic)):
		return codeTopicInvalid, ForbiddenAccess
	case pk.Properties.PayloadFormatFlag && pk.Properties.PayloadFormat == 1 && !utf8.Valid(pk.Payload):
		return codePayloadFormat, ClientError
	}
	return 0, ""
}

// reject tells a client that its message was refused, in the way its protocol has.
func (c *conn) reject(a ack, code byte, why Reason) error {
	if c.version == 5 && a.qos > 0 {
		a.complete(code, &c.kicks)
		return nil
	}
	// MQTT 3.1.1 has no other word, and QoS 0 no answer.
	return end(code, why, "publish refused")
}

var targetLists = sync.Pool{New: func() any { l := make([]target, 0, 16); return &l }}

// publish is the one way of a message to its subscribers: from a device, a will,
// or the service, for which from is nil. When it is safe with all of them, or was refused, a is
// completed. It gives the sessions that are too slow for more.
func (b *Broker) publish(r *realm, m *message, from *Identity, k *kicks, a completer) (slow []*session) {
	list := targetLists.Get().(*[]target)
	targets := r.tree.targets(m, (*list)[:0])
	if b.cluster != nil && r.far.size.Load() > 0 {
		var routes []route
		if targets, routes = b.cluster.route(r, m, targets); len(routes) > 0 {
			a = b.cluster.relay(r, m, routes, a)
		}
	}
	code := byte(codeSuccess)
	if len(targets) == 0 {
		code = codeNoSubscribers
	}
	var keep func() byte
	if m.retain {
		code = codeSuccess
		keep = func() byte { return r.kept.put(b, m, from) }
	}
	slow = b.handAll(r, m, targets, keep, k, a, code)
	recycle(list, targets)
	return slow
}

func recycle(list *[]target, targets []target) {
	clear(targets)
	if cap(targets) <= 4096 {
		*list = targets[:0]
		targetLists.Put(list)
	}
}

// completer is told once how a publish ended.
type completer interface{ complete(code byte, k *kicks) }

type completion func(code byte)

func (f completion) complete(code byte, _ *kicks) {
	if f != nil {
		f(code)
	}
}

// hand delivers to targets and keeps nothing.
func (b *Broker) hand(r *realm, m *message, targets []target, k *kicks, a completer) {
	if a == nil {
		a = completion(nil)
	}
	b.handAll(r, m, targets, nil, k, a, codeSuccess)
}

// handAll gives a message to its targets: through the store to sessions that
// outlive their connection, at once to the others. keep, if there is one, changes the
// topic's retained message, or refuses to.
func (b *Broker) handAll(r *realm, m *message, targets []target, keep func() byte, k *kicks, a completer, code byte) (slow []*session) {
	// 1. Take room in the store's queues. A publisher that has too much waiting is
	// refused before anybody got anything.
	var stored []target
	refuse := func(code byte) []*session {
		for _, t := range stored {
			t.session.unreserve(m)
		}
		a.complete(code, k)
		return nil
	}
	for i := range targets {
		t := &targets[i]
		if t.qos == 0 || !t.session.lasting.Load() {
			continue
		}
		refused, full := t.session.reserve(m)
		if refused != 0 {
			return refuse(refused)
		}
		if full {
			b.count.endedFull.Add(1)
			go b.endFull(t.session)
			t.session = nil
			continue
		}
		stored = append(stored, *t)
	}

	if keep != nil {
		if refused := keep(); refused != 0 {
			return refuse(refused)
		}
	}

	// 2. Deliver to the others.
	for i := range targets {
		t := &targets[i]
		s := t.session
		if s == nil || t.qos > 0 && s.lasting.Load() {
			continue
		}
		ok := s.offer(m, t, k)
		for tries := 0; !ok && t.group != nil && tries < 3; tries++ {
			sub := r.tree.another(t.group, s)
			if sub == nil {
				break
			}
			next := sub.target(m)
			if s = sub.session; next.qos > 0 && s.lasting.Load() {
				if refused, full := s.reserve(m); refused == 0 && !full {
					stored = append(stored, next)
				}
				break
			}
			ok = s.offer(m, &next, k)
		}
		if ok && t.qos > 0 && s.overloaded() != nil {
			slow = append(slow, s)
		}
	}
	if len(stored) == 0 && keep == nil {
		a.complete(code, k)
		return slow
	}

	// 3. Write down, then deliver, then answer.
	for _, t := range stored {
		if t.session.overloaded() != nil {
			slow = append(slow, t.session)
		}
	}
	b.record(r, m, stored, keep != nil, k, a, code)
	return slow
}

// record submits a message for sessions in the store.
func (b *Broker) record(r *realm, m *message, stored []target, keep bool, k *kicks, a completer, code byte) {
	var out []*outbound
	var to []*session
	var moved []target // to other nodes, since they were found
	wait := m.qos > 0
	b.journal.submit(func() (changes []Change) {
		if keep {
			changes = append(changes, r.kept.current(r.tenant, m.topic))
		}
		q := Enqueue{Tenant: r.tenant, Message: m.stored()}
		for i := range stored {
			t := &stored[i]
			o := &outbound{msg: m, group: t.group, ids: t.ids, qos: t.qos, retain: t.retain, stored: true}
			if t.session.place(o) {
				out, to = append(out, o), append(to, t.session)
				q.To = append(q.To, Recipient{Client: t.session.key, Position: o.position, QoS: o.qos, Retain: o.retain, IDs: o.ids})
			} else if b.cluster != nil && t.session.whereTo() != "" {
				moved = append(moved, *t)
			}
		}
		if len(q.To) > 0 {
			changes = append(changes, q)
		}
		if r, ok := a.(remembers); ok {
			changes = append(changes, r.changes()...)
		}
		return changes
	}, func(err error) {
		var k kicks
		defer k.flush()
		if err != nil {
			for _, s := range to {
				s.unreserve(m)
			}
			if wait {
				a.complete(codeUnspecified, &k)
			}
			return
		}
		for i, s := range to {
			s.arrived(out[i], &k)
		}
		b.count.stored.Add(int64(len(out)))
		if b.cluster != nil && (keep || len(moved) > 0) {
			b.cluster.recorded(r, m, moved, keep, wait, a, code, &k)
		} else if wait {
			a.complete(code, &k)
		}
	})
	if !wait {
		a.complete(code, k)
	}
}

// place draws the position of a message for the store.
func (s *session) place(o *outbound) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	d, m := s.durable, o.msg
	if s.gone || d == nil {
		return false
	}
	if s.recent != nil && m.id != (messageID{}) {
		if _, had := s.recent[m.id]; had { // it came by way of the former node too
			d.count(m, -1)
			return false
		}
		s.recent[m.id] = struct{}{}
	}
	if d.messages == 1 && d.loaded == d.last { // nothing else waits
		d.ackedUpTo, d.loaded, d.last = s.position, s.position, s.position
	}
	return s.draw(o)
}

// Publish implements [fleet.Publisher]: it delivers to the tenant's subscribers and
// returns when a QoS 1 message is as safe as its sessions are.
func (b *Broker) Publish(ctx context.Context, msg fleet.Message) error {
	if b.stopping.Load() {
		return ErrClosed.New("")
	}
	// The service's own events are under $aws, and may be longer than a device's topics.
	if msg.Topic == "" || len(msg.Topic) > 65535 || strings.ContainsAny(msg.Topic, "+#\x00") || !utf8.ValidString(msg.Topic) || msg.QoS > 1 {
		return ErrTopic.New("")
	}
	m := &message{topic: strings.Clone(msg.Topic), payload: slices.Clone(msg.Payload), qos: msg.QoS}
	return b.publishAndWait(ctx, b.realm(msg.Tenant), m, nil)
}

var _ fleet.Publisher = (*Broker)(nil)
