package broker

import (
	"strings"

	"github.com/mochi-mqtt/server/v2/packets"

	"hallmark/fleet/policy"
)

// onSubscribe adds subscriptions, answers, and sends what is retained, in this
// order: a client knows its subscription before it hears anything through it.
func (c *conn) onSubscribe(pk *packets.Packet) error {
	b, s := c.b, c.session
	if pk.PacketID == 0 {
		return violation("packet identifier 0") // [MQTT-2.3.1-1]
	}
	if err := c.pace.subscribe(c); err != nil {
		return err
	}
	id := 0
	if ids := pk.Properties.SubscriptionIdentifier; len(ids) > 0 {
		if b.lim.NoSubscriptionIDs {
			return end(codeNoSubscriptionIDs, ClientError, "subscription identifiers are not offered")
		}
		if len(ids) > 1 {
			return violation("subscription identifier twice")
		}
		id = ids[0]
	}
	codes := make([]byte, 0, len(pk.Filters))
	var changes []Change
	var told []string
	type pending struct {
		sub *subscription
		old bool
	}
	var fresh []pending
	for i := range pk.Filters {
		f := &pk.Filters[i]
		sub, existed, code, err := c.subscribe(f, id, i)
		if err != nil {
			return err
		}
		codes = append(codes, code)
		if sub == nil {
			b.count.refusedSubscribe.Add(1)
			continue
		}
		told = append(told, sub.filter.sent)
		fresh = append(fresh, pending{sub, existed})
		changes = append(changes, PutSubscription{Tenant: s.realm.tenant, Client: s.key, Filter: sub.filter.sent, QoS: sub.qos,
			NoLocal: sub.noLocal, AsPublished: sub.asPublished, Handling: sub.handling, ID: sub.id})
	}
	if s.lasting.Load() && len(changes) > 0 {
		c.kicks.flush()
		if err := b.journal.write(changes...); err != nil {
			return end(codeUnspecified, ServerError, "subscription not stored")
		}
	}
	if b.cluster != nil && len(fresh) > 0 {
		// The other nodes know it before the client does. For a session in the store this
		// is a promise: nothing is acknowledged elsewhere without it.
		c.kicks.flush()
		if !b.cluster.settled(b.cluster.mark(), syncTime) && s.lasting.Load() {
			return end(codeUnspecified, ServerError, "other nodes not told of the subscription")
		}
	}
	if c.version == 4 {
		for i := range codes {
			if codes[i] >= 0x80 {
				codes[i] = refused3SubscribeFailed // [MQTT-3.9.3-2]
			}
		}
	}
	suback := &packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Suback}, ProtocolVersion: c.version, PacketID: pk.PacketID, ReasonCodes: codes}
	c.push(item{octets: encode(suback)}, &c.kicks)
	for _, p := range fresh {
		// Retain handling: 0 always, 1 if the subscription is new, 2 never [MQTT-3.3.1-9]
		// to [MQTT-3.3.1-11]. Shared subscriptions get none.
		if p.sub.filter.share == "" && (p.sub.handling == 0 || p.sub.handling == 1 && !p.old) {
			b.sendRetained(c, p.sub)
		}
	}
	if len(told) > 0 && c.tellsEvents() {
		ev := c.event()
		ev.Topics = told
		b.cfg.Events.Subscribed(ev)
	}
	return nil
}

// subscribe decides on one filter and adds it. A nil subscription was refused, with
// the code.
func (c *conn) subscribe(f *packets.Subscription, id, nth int) (sub *subscription, existed bool, code byte, err error) {
	b, s, l := c.b, c.session, &c.b.lim
	if nth >= l.Filters {
		return nil, false, codeQuota, nil
	}
	parsed, ok := l.parseFilter(strings.Clone(f.Filter))
	if !ok {
		return nil, false, codeFilterInvalid, nil
	}
	if parsed.share != "" && f.NoLocal {
		return nil, false, 0, violation("shared subscription with no local") // [MQTT-3.8.3-4]
	}
	if !c.allows(policy.Subscribe, parsed.sent) {
		return nil, false, codeNotAuthorized, nil
	}
	top := byte(1)
	if l.QoS2 {
		top = 2
	}
	sub = &subscription{session: s, filter: parsed, qos: min(f.Qos, top), noLocal: f.NoLocal, asPublished: f.RetainAsPublished, handling: f.RetainHandling, id: id}
	s.mu.Lock()
	old := s.subs[parsed.sent]
	if old == nil && len(s.subs) >= l.Subscriptions {
		s.mu.Unlock()
		return nil, false, codeQuota, nil
	}
	s.subs[parsed.sent] = sub
	s.mu.Unlock()
	// A subscription of the same filter is replaced [MQTT-3.8.4-3].
	s.realm.tree.add(sub, old)
	if old == nil {
		b.count.subscriptions.Add(1)
	}
	return sub, old != nil, sub.qos, nil
}

// onUnsubscribe takes subscriptions away.
func (c *conn) onUnsubscribe(pk *packets.Packet) error {
	b, s := c.b, c.session
	if pk.PacketID == 0 {
		return violation("packet identifier 0")
	}
	if err := c.pace.subscribe(c); err != nil {
		return err
	}
	codes := make([]byte, 0, len(pk.Filters))
	var changes []Change
	var told []string
	for i := range pk.Filters {
		filter := strings.Clone(pk.Filters[i].Filter)
		s.mu.Lock()
		sub := s.subs[filter]
		delete(s.subs, filter)
		s.mu.Unlock()
		if sub == nil {
			codes = append(codes, codeNoSubscription)
			continue
		}
		s.realm.tree.drop(sub)
		b.count.subscriptions.Add(-1)
		codes = append(codes, codeSuccess)
		told = append(told, filter)
		changes = append(changes, EndSubscription{s.realm.tenant, s.key, filter})
	}
	if s.lasting.Load() && len(changes) > 0 {
		c.kicks.flush()
		if err := b.journal.write(changes...); err != nil {
			return end(codeUnspecified, ServerError, "subscription not stored")
		}
	}
	unsuback := &packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Unsuback}, ProtocolVersion: c.version, PacketID: pk.PacketID, ReasonCodes: codes}
	c.push(item{octets: encode(unsuback)}, &c.kicks)
	if len(told) > 0 && c.tellsEvents() {
		ev := c.event()
		ev.Topics = told
		b.cfg.Events.Unsubscribed(ev)
	}
	return nil
}
