package broker

import (
	"encoding/json"
	"slices"
	"strings"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"hallmark/fleet/policy"
)

// will is what is to be said when a device goes without a goodbye.
type will struct {
	msg    *message
	expiry time.Duration // of the message, from when it is published
	delay  time.Duration
}

// readWill takes the will of a CONNECT; nil if there is none.
func (c *conn) readWill(pk *packets.Packet, client string) (*will, *ending) {
	cp := &pk.Connect
	if !cp.WillFlag {
		return nil, nil
	}
	p := &cp.WillProperties
	m := &message{topic: strings.Clone(cp.WillTopic), payload: slices.Clone(cp.WillPayload), props: passedOn(p), origin: c.id.sessionKey(client), qos: cp.WillQos, retain: cp.WillRetain}
	return &will{
		msg: m, delay: time.Duration(p.WillDelayInterval) * time.Second,
		expiry: min(time.Duration(p.MessageExpiryInterval)*time.Second, c.b.lim.MessageExpiry),
	}, nil
}

// publishWill says a will. Policies may have changed since the CONNECT: a device
// that was refused meanwhile does not speak after its death. A will on a reserved
// topic is accepted, since firmware has such, and does nothing.
func (b *Broker) publishWill(r *realm, s *session, id *Identity, w *will) {
	if strings.HasPrefix(w.msg.topic, "$") {
		return
	}
	if id != nil && id.Bind != nil {
		a := id.Bind(s.client, []string{LastWill})
		if a == nil || !a.Allows(policy.Publish, w.msg.topic) || w.msg.retain && !a.Allows(policy.RetainPublish, w.msg.topic) {
			b.count.refusedPublish.Add(1)
			return
		}
	}
	m := *w.msg
	if w.expiry > 0 {
		m.expires = b.now().Add(w.expiry).UnixMilli()
	}
	var k kicks
	b.publish(r, &m, id, &k, completion(nil))
	k.flush()
}

// storedWill is a will in its row.
type storedWill struct {
	Topic      string `json:"topic"`
	Payload    []byte `json:"payload"`
	Properties []byte `json:"properties,omitempty"`
	QoS        byte   `json:"qos"`
	Retain     bool   `json:"retain,omitempty"`
	Expiry     int64  `json:"expiry_s,omitempty"`
	Delay      int64  `json:"delay_s,omitempty"`
}

func (w *will) encode() []byte {
	b, err := json.Marshal(storedWill{w.msg.topic, w.msg.payload, w.msg.props, w.msg.qos, w.msg.retain, int64(w.expiry / time.Second), int64(w.delay / time.Second)})
	if err != nil {
		return nil
	}
	return b
}

func decodeWill(b []byte, origin string) (*will, error) {
	if len(b) == 0 {
		return nil, nil
	}
	var s storedWill
	if err := json.Unmarshal(b, &s); err != nil {
		return nil, err
	}
	m := &message{topic: s.Topic, payload: s.Payload, props: s.Properties, origin: origin, qos: s.QoS, retain: s.Retain}
	return &will{msg: m, expiry: time.Duration(s.Expiry) * time.Second, delay: time.Duration(s.Delay) * time.Second}, nil
}
