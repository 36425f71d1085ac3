package broker

import (
	"bytes"
	"context"
	"strings"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"hallmark/fleet"
	"hallmark/fleet/policy"
)

func TestConformance_5(t *testing.T) {
	// bad sends octets after CONNECT and wants DISCONNECT with a code.
	bad := func(code byte, b ...byte) func(t *testing.T, f *bench) {
		return func(t *testing.T, f *bench) {
			c, _ := f.connect(t, "lamp1", 5, nil)
			c.bytes(b)
			c.ended(code)
		}
	}
	// refused changes a CONNECT and wants CONNACK with a code.
	refused := func(code byte, change func(*pkt)) func(t *testing.T, f *bench) {
		return func(t *testing.T, f *bench) {
			c := f.dial(t, "lamp1", 5)
			p := connectPacket(5, "lamp1")
			change(p)
			c.send(p)
			if a := c.recv(packets.Connack); a.ReasonCode != code || a.SessionPresent { // [MQTT-3.2.2-6]
				t.Errorf("CONNACK 0x%02X", a.ReasonCode)
			}
			c.closed() // [MQTT-3.2.2-7]
		}
	}
	conformance(t, nil, []statement{
		{"MQTT-1.5.4-1", "ill-formed UTF-8 is malformed", bad(0x81, 0x30, 6, 0, 2, 'a', 0xFF, 0, 'x')},
		{"MQTT-1.5.5-1", "a length with needless octets is malformed", bad(0x81, 0xC0, 0x80, 0x00)},
		{"MQTT-2.1.3-1", "reserved flags are malformed", bad(0x81, 0xC1, 0)},
		{"MQTT-2.2.1-3", "SUBSCRIBE with packet identifier 0", bad(0x82, 0x82, 7, 0, 0, 0, 0, 1, 'a', 0)},
		{"MQTT-2.2.2-1", "properties that reach beyond their length are malformed", bad(0x81, 0x30, 9, 0, 1, 'a', 3, 3, 0, 9, 'x', 'y')},
		{"section 2.2.2", "an unknown property is malformed", bad(0x81, 0x30, 7, 0, 1, 'a', 2, 0x7E, 1, 'x')},
		{"section 2.2.2", "a property of another packet is malformed", bad(0x81, 0x30, 7, 0, 1, 'a', 2, 0x25, 1, 'x')},
		{"section 2.2.2", "a property twice is an error", bad(0x82, 0x30, 9, 0, 1, 'a', 4, 1, 0, 1, 0, 'x')},
		{"A71", "thousands of user properties are refused (CVE-2021-41039)", func(t *testing.T, f *bench) {
			c, _ := f.connect(t, "lamp1", 5, nil)
			p := publishPacket("a", "x", 1, 1)
			for range 5000 {
				p.Properties.User = append(p.Properties.User, packets.UserProperty{Key: "k", Val: "v"})
			}
			c.send(p)
			c.ended(0x97)
		}},
		{"MQTT-3.1.0-2", "second CONNECT", func(t *testing.T, f *bench) {
			c, _ := f.connect(t, "lamp1", 5, nil)
			c.send(connectPacket(5, "lamp1"))
			c.ended(0x82)
		}},
		{"MQTT-3.1.2-2", "an unknown version gets CONNACK 0x84", func(t *testing.T, f *bench) {
			c := f.dial(t, "lamp1", 5)
			c.bytes([]byte{0x10, 18, 0, 4, 'M', 'Q', 'T', 'T', 6, 2, 0, 60, 0, 0, 5, 'l', 'a', 'm', 'p', '1'})
			if a := c.recv(packets.Connack); a.ReasonCode != 0x84 {
				t.Errorf("CONNACK 0x%02X", a.ReasonCode)
			}
		}},
		{"MQTT-3.1.2-4", "clean start ends the old session", func(t *testing.T, f *bench) {
			c, _ := f.connect(t, "lamp1", 5, persistent)
			c.sub("x", 1)
			c.bye()
			c, ack := f.connect(t, "lamp1", 5, func(p *pkt) { persistent(p); p.Connect.Clean = true })
			if ack.SessionPresent { // [MQTT-3.2.2-2]
				t.Error("session present")
			}
			c.pub("x", "1", 0)
			c.quiet()
		}},
		{"MQTT-3.1.2-23", "the session is kept for its expiry interval", func(t *testing.T, f *bench) {
			one := func(p *pkt) {
				p.Connect.Clean = false
				p.Properties.SessionExpiryInterval, p.Properties.SessionExpiryIntervalFlag = 1, true
			}
			c, _ := f.connect(t, "lamp1", 5, one)
			c.sub("x", 1)
			c.bye()
			c, ack := f.connect(t, "lamp1", 5, one)
			if !ack.SessionPresent {
				t.Error("gone at once")
			}
			c.bye()
			deadline := time.Now().Add(10 * time.Second)
			for f.Stats().Sessions != 0 {
				if time.Now().After(deadline) {
					t.Fatal("the session does not end")
				}
				time.Sleep(20 * time.Millisecond)
			}
			if _, ack = f.connect(t, "lamp1", 5, one); ack.SessionPresent {
				t.Error("still there")
			}
		}},
		{"MQTT-3.1.2-24", "no packet is larger than the client takes", func(t *testing.T, f *bench) {
			c, _ := f.connect(t, "lamp1", 5, func(p *pkt) { p.Properties.MaximumPacketSize = 100 })
			c.sub("x", 1)
			o, _ := f.connect(t, "lamp2", 5, nil)
			o.pub("x", strings.Repeat("y", 200), 1)
			o.pub("x", "small", 1)
			c.message("x", "small") // [MQTT-3.1.2-25]
			if f.Stats().DroppedTooLarge != 1 {
				t.Error("not counted")
			}
		}},
		{"MQTT-3.1.2-27", "without a topic alias maximum no alias is sent", func(t *testing.T, f *bench) {
			c, _ := f.connect(t, "lamp1", 5, nil)
			c.sub("topic", 0)
			for range 2 {
				c.pub("topic", "x", 0)
				if p := c.message("topic", "x"); p.Properties.TopicAliasFlag {
					t.Error("alias")
				}
			}
		}},
		{"MQTT-3.1.2-26", "topic aliases stay within the client's maximum", func(t *testing.T, f *bench) {
			c, _ := f.connect(t, "lamp1", 5, func(p *pkt) { p.Properties.TopicAliasMaximum = 2 })
			c.sub("topic/+", 0)
			known := map[uint16]string{}
			for range 2 {
				for _, topic := range []string{"topic/a", "topic/b", "topic/c"} {
					c.pub(topic, topic, 0)
					p := c.recv(packets.Publish)
					name := p.TopicName
					if a := p.Properties.TopicAlias; a > 2 {
						t.Errorf("alias %d", a)
					} else if a > 0 && name != "" {
						known[a] = name
					} else if name == "" {
						name = known[a]
					}
					if name != string(p.Payload) {
						t.Errorf("%q is not %q", name, p.Payload)
					}
				}
			}
			if len(known) != 2 {
				t.Errorf("%d aliases", len(known))
			}
		}},
		{"section 3.1.2.11.9", "an authentication method is refused", refused(0x8C, func(p *pkt) { p.Properties.AuthenticationMethod = "x" })},
		{"section 3.1.2.11.3", "receive maximum 0 is an error", func(t *testing.T, f *bench) {
			c := f.dial(t, "lamp1", 5)
			c.bytes([]byte{0x10, 21, 0, 4, 'M', 'Q', 'T', 'T', 5, 2, 0, 60, 3, 0x21, 0, 0, 0, 5, 'l', 'a', 'm', 'p', '1'})
			if a := c.recv(packets.Connack); a.ReasonCode != 0x82 {
				t.Errorf("CONNACK 0x%02X", a.ReasonCode)
			}
		}},
		{"MQTT-3.1.3-5", "a client id that is another's (A69, S25)", refused(0x87, func(p *pkt) { p.Connect.ClientIdentifier = "lamp2" })},
		{"MQTT-3.1.3-6", "an empty client id is assigned within the rule of S25", func(t *testing.T, f *bench) {
			c := f.dial(t, "lamp1", 5)
			c.send(connectPacket(5, ""))
			if a := c.recv(packets.Connack); !strings.HasPrefix(a.Properties.AssignedClientID, "lamp1-") { // [MQTT-3.2.2-16]
				t.Errorf("assigned %q", a.Properties.AssignedClientID)
			}
		}},
		{"MQTT-3.1.3-9", "a delayed will is not sent if the device is back", func(t *testing.T, f *bench) {
			w, _ := f.connect(t, "watch", 5, nil)
			w.sub("will/+", 1)
			delayed := func(p *pkt) {
				persistent(p)
				withWill("will/lamp1", "gone")(p)
				p.Connect.WillProperties.WillDelayInterval = 1
			}
			c, _ := f.connect(t, "lamp1", 5, delayed)
			c.nc.Close()
			f.event("disconnected", "lamp1")
			c, _ = f.connect(t, "lamp1", 5, delayed)
			w.silent(1500 * time.Millisecond)
			c.nc.Close()
			began := time.Now()
			w.message("will/lamp1", "gone")
			if d := time.Since(began); d < 900*time.Millisecond {
				t.Errorf("after %v", d)
			}
		}},
		{"MQTT-3.1.2-10", "a delayed will is sent when the session ends", func(t *testing.T, f *bench) {
			w, _ := f.connect(t, "watch", 5, nil)
			w.sub("will/+", 1)
			c, _ := f.connect(t, "lamp1", 5, func(p *pkt) { // expiry 0: it ends with the connection
				withWill("will/lamp1", "gone")(p)
				p.Connect.WillProperties.WillDelayInterval = 3600
			})
			c.nc.Close()
			w.message("will/lamp1", "gone")
		}},
		{"section 3.14.2.1", "DISCONNECT with reason 4 sends the will", func(t *testing.T, f *bench) {
			w, _ := f.connect(t, "watch", 5, nil)
			w.sub("will/+", 1)
			c, _ := f.connect(t, "lamp1", 5, withWill("will/lamp1", "gone"))
			c.send(&pkt{FixedHeader: head(packets.Disconnect), ReasonCode: 4})
			w.message("will/lamp1", "gone")
			if e := f.event("disconnected", "lamp1"); e.Reason != ClientDisconnect {
				t.Errorf("reason %s", e.Reason)
			}
		}},
		{"MQTT-3.1.4-3", "takeover says 0x8E", func(t *testing.T, f *bench) {
			a, _ := f.connect(t, "lamp1", 5, nil)
			f.connect(t, "lamp1", 5, nil)
			a.ended(0x8E)
		}},
		{"MQTT-3.2.2-11", "QoS 2 is announced as missing and refused", func(t *testing.T, f *bench) {
			c, ack := f.connect(t, "lamp1", 5, nil)
			if !ack.Properties.MaximumQosFlag || ack.Properties.MaximumQos != 1 {
				t.Error("Maximum QoS is not 1") // [MQTT-3.2.2-9]
			}
			if codes := c.subscribe(packets.Subscription{Filter: "a", Qos: 2}); codes[0] != 1 { // [MQTT-3.2.2-10]
				t.Errorf("SUBACK %x", codes)
			}
			c.send(publishPacket("a", "x", 2, 1))
			c.ended(0x9B)
		}},
		{"MQTT-3.2.2-12", "a will with QoS 2 is refused", refused(0x9B, func(p *pkt) { withWill("w", "x")(p); p.Connect.WillQos = 2 })},
		{"section 3.2.2.3", "CONNACK announces the limits of the reference", func(t *testing.T, f *bench) {
			_, ack := f.connect(t, "lamp1", 5, func(p *pkt) {
				p.Connect.Keepalive = 3600
				p.Properties.SessionExpiryInterval, p.Properties.SessionExpiryIntervalFlag = 0xFFFFFFFF, true
			})
			p := ack.Properties
			if p.ReceiveMaximum != 100 || p.TopicAliasMaximum != 8 || p.MaximumPacketSize != 149504 || p.RetainAvailable != 1 || p.WildcardSubAvailable != 1 || p.SharedSubAvailable != 1 {
				t.Errorf("got %+v", p)
			}
			if p.ServerKeepAlive != 1200 || p.SessionExpiryInterval != 7*24*3600 { // [MQTT-3.2.2-21]
				t.Errorf("keep alive %d, expiry %d", p.ServerKeepAlive, p.SessionExpiryInterval)
			}
		}},
		{"MQTT-3.3.1-5", "an unannounced topic alias is an error", func(t *testing.T, f *bench) {
			for alias, code := range map[uint16]byte{0: 0x94, 9: 0x94, 3: 0x82} { // [MQTT-3.3.2-8] [MQTT-3.3.2-9]
				c, _ := f.connect(t, "lamp1", 5, nil)
				c.bytes([]byte{0x30, 7, 0, 0, 3, 0x23, byte(alias >> 8), byte(alias), 'x'})
				c.ended(code)
			}
		}},
		{"A70", "the policy sees the topic behind an alias", func(t *testing.T, f *bench) {
			f.rules.forbid(policy.Publish, "secret", true)
			c, _ := f.connect(t, "lamp1", 5, nil)
			c.sub("#", 0)
			alias := func(topic string, id uint16) byte {
				p := publishPacket(topic, "x", 1, id)
				p.Properties.TopicAlias, p.Properties.TopicAliasFlag = 1, true
				c.send(p)
				for {
					if q, err := c.read(5 * time.Second); err != nil {
						t.Fatal(err)
					} else if q.FixedHeader.Type == packets.Puback {
						return q.ReasonCode
					} else if q.TopicName == "secret" {
						t.Error("delivered")
					}
				}
			}
			for i, s := range []struct {
				topic string
				code  byte
			}{{"open", 0}, {"", 0}, {"secret", 0x87}, {"", 0x87}, {"open", 0}, {"", 0}} {
				if code := alias(s.topic, uint16(i+1)); code != s.code {
					t.Errorf("%d: PUBACK 0x%02X, want 0x%02X", i, code, s.code)
				}
			}
		}},
		{"A70", "delivery asks the policy as it is then", func(t *testing.T, f *bench) {
			c, _ := f.connect(t, "lamp1", 5, persistent)
			c.sub("cmd/#", 1)
			c.bye()
			f.event("disconnected", "lamp1")
			o, _ := f.connect(t, "lamp2", 5, nil)
			o.pub("cmd/a", "1", 1)
			o.pub("cmd/b", "2", 1)
			f.rules.forbid(policy.Receive, "cmd/a", true)
			c, _ = f.connect(t, "lamp1", 5, persistent)
			c.message("cmd/b", "2")
			o.pub("cmd/a", "3", 0)
			c.quiet()
		}},
		{"MQTT-3.3.1-9", "retain handling 0, 1 and 2", func(t *testing.T, f *bench) { // [MQTT-3.3.1-10] [MQTT-3.3.1-11]
			o, _ := f.connect(t, "lamp2", 5, nil)
			p := publishPacket("rh", "kept", 1, 3)
			p.FixedHeader.Retain = true
			o.publish(p)
			c, _ := f.connect(t, "lamp1", 5, nil)
			for i, s := range []struct {
				handling byte
				sent     bool
			}{{2, false}, {1, false}, {0, true}} {
				c.subscribe(packets.Subscription{Filter: "rh", RetainHandling: s.handling})
				if s.sent {
					c.message("rh", "kept")
				}
				c.quiet()
				_ = i
			}
			c, _ = f.connect(t, "lamp1", 5, nil)
			c.subscribe(packets.Subscription{Filter: "rh", RetainHandling: 1})
			c.message("rh", "kept")
		}},
		{"MQTT-3.3.1-12", "retain as published", func(t *testing.T, f *bench) { // [MQTT-3.3.1-13]
			c, _ := f.connect(t, "lamp1", 5, nil)
			o, _ := f.connect(t, "lamp2", 5, nil)
			for as, want := range map[bool]bool{true: true, false: false} {
				c.subscribe(packets.Subscription{Filter: "rap", RetainAsPublished: as, RetainHandling: 2})
				p := publishPacket("rap", "x", 1, 3)
				p.FixedHeader.Retain = true
				o.publish(p)
				if got := c.message("rap", "x").FixedHeader.Retain; got != want {
					t.Errorf("RETAIN %v, want %v", got, want)
				}
			}
		}},
		{"MQTT-3.3.2-6", "message expiry counts down, and what is expired is not sent", func(t *testing.T, f *bench) {
			c, _ := f.connect(t, "lamp1", 5, persistent)
			c.sub("exp", 1)
			c.bye()
			f.event("disconnected", "lamp1")
			o, _ := f.connect(t, "lamp2", 5, nil)
			for i, seconds := range []uint32{1, 100} { // [MQTT-3.3.2-5]
				p := publishPacket("exp", string(rune('a'+i)), 1, 3)
				p.Properties.MessageExpiryInterval = seconds
				o.publish(p)
			}
			time.Sleep(1200 * time.Millisecond) // the interval itself
			c, _ = f.connect(t, "lamp1", 5, persistent)
			if p := c.message("exp", "b"); p.Properties.MessageExpiryInterval == 0 || p.Properties.MessageExpiryInterval > 99 {
				t.Errorf("left %d", p.Properties.MessageExpiryInterval)
			}
			c.quiet()
		}},
		{"MQTT-3.3.2-17", "properties are passed on in their order", func(t *testing.T, f *bench) { // [MQTT-3.3.2-4] [MQTT-3.3.2-15] [MQTT-3.3.2-16] [MQTT-3.3.2-20]
			c, _ := f.connect(t, "lamp1", 5, nil)
			c.sub("props", 1)
			o, _ := f.connect(t, "lamp2", 5, nil)
			p := publishPacket("props", "x", 1, 3)
			p.Properties = packets.Properties{PayloadFormat: 1, PayloadFormatFlag: true, ContentType: "text/plain", ResponseTopic: "answers/lamp2", CorrelationData: []byte{0, 1, 2},
				User: []packets.UserProperty{{Key: "b", Val: "1"}, {Key: "a", Val: "2"}, {Key: "b", Val: "3"}}} // [MQTT-3.3.2-18]
			o.publish(p)
			got := c.message("props", "x").Properties
			if got.PayloadFormat != 1 || got.ContentType != "text/plain" || got.ResponseTopic != "answers/lamp2" || !bytes.Equal(got.CorrelationData, []byte{0, 1, 2}) || len(got.User) != 3 || got.User[0].Key != "b" || got.User[1].Val != "2" {
				t.Errorf("got %+v", got)
			}
		}},
		{"MQTT-3.3.2-14", "a response topic with wildcards is an error", bad(0x82, 0x30, 11, 0, 1, 'a', 6, 8, 0, 3, 'b', '/', '#', 'x')},
		{"MQTT-3.3.2-2", "wildcards in a topic: PUBACK 0x90 for QoS 1, DISCONNECT for QoS 0", func(t *testing.T, f *bench) {
			c, _ := f.connect(t, "lamp1", 5, nil)
			c.send(publishPacket("a/+", "x", 1, 3))
			if a := c.recv(packets.Puback); a.ReasonCode != 0x90 {
				t.Errorf("PUBACK 0x%02X", a.ReasonCode)
			}
			c.send(publishPacket("a/+", "x", 0, 0))
			c.ended(0x90)
		}},
		{"section 3.3.2.3.2", "a payload that is not the UTF-8 it claims to be", func(t *testing.T, f *bench) {
			c, _ := f.connect(t, "lamp1", 5, nil)
			p := publishPacket("a", "\xFF", 1, 3)
			p.Properties.PayloadFormat, p.Properties.PayloadFormatFlag = 1, true
			c.send(p)
			if a := c.recv(packets.Puback); a.ReasonCode != 0x99 {
				t.Errorf("PUBACK 0x%02X", a.ReasonCode)
			}
		}},
		{"MQTT-3.3.4-6", "a subscription identifier from a client is an error", bad(0x82, 0x30, 7, 0, 1, 'a', 2, 0x0B, 1, 'x')},
		{"MQTT-3.3.4-3", "subscription identifiers come with the message", func(t *testing.T, f *bench) { // [MQTT-3.3.4-4]
			c, _ := f.connect(t, "lamp1", 5, nil)
			for i, filter := range []string{"id/+", "id/#", "id/x"} {
				p := &pkt{FixedHeader: head(packets.Subscribe), PacketID: 9, Filters: packets.Subscriptions{{Filter: filter}}}
				if i < 2 {
					p.Properties.SubscriptionIdentifier = []int{i + 1 + 200*i}
				}
				c.send(p)
				c.recv(packets.Suback)
			}
			c.pub("id/x", "1", 0)
			ids := c.message("id/x", "1").Properties.SubscriptionIdentifier
			if len(ids) != 2 || ids[0]+ids[1] != 1+202 {
				t.Errorf("identifiers %v", ids)
			}
		}},
		{"MQTT-3.3.4-7", "no more unanswered messages than the client's receive maximum", func(t *testing.T, f *bench) { // [MQTT-3.3.4-9]
			c, _ := f.connect(t, "lamp1", 5, func(p *pkt) { p.Properties.ReceiveMaximum = 3 })
			c.sub("rm", 1)
			o, _ := f.connect(t, "lamp2", 5, nil)
			for i := range 8 {
				o.pub("rm", string(rune('0'+i)), 1)
			}
			var ids []uint16
			for i := range 3 {
				p := c.recv(packets.Publish)
				if string(p.Payload) != string(rune('0'+i)) {
					t.Errorf("got %s", p.Payload)
				}
				ids = append(ids, p.PacketID)
			}
			c.quiet()
			c.send(&pkt{FixedHeader: head(packets.Puback), PacketID: ids[0]})
			if p := c.recv(packets.Publish); string(p.Payload) != "3" {
				t.Errorf("got %s", p.Payload)
			}
			c.quiet()
		}},
		{"MQTT-3.3.4-8", "more unanswered messages than the server's receive maximum is 0x93", func(t *testing.T, f *bench) {
			hold := make(chan struct{})
			g := open(t, func(c *Config) {
				c.Limits.Requests = 200
				c.Topics = []fleet.Topic{{Filter: "$aws/slow", Handle: func(context.Context, fleet.Request) error { <-hold; return nil }}}
			})
			defer close(hold)
			c, _ := g.connect(t, "lamp1", 5, nil)
			for id := uint16(1); id <= 101; id++ {
				c.send(publishPacket("$aws/slow", "x", 1, id))
			}
			c.ended(0x93)
		}},
		{"MQTT-3.4.0-1", "no subscriber is PUBACK 0x10", func(t *testing.T, f *bench) {
			c, _ := f.connect(t, "lamp1", 5, nil)
			c.send(publishPacket("nobody", "x", 1, 3))
			if a := c.recv(packets.Puback); a.ReasonCode != 0x10 {
				t.Errorf("PUBACK 0x%02X", a.ReasonCode)
			}
		}},
		{"section 7 of the reference", "a refused publish is PUBACK 0x87", func(t *testing.T, f *bench) {
			f.rules.forbid(policy.Publish, "secret", true)
			f.rules.forbid(policy.RetainPublish, "open", true)
			c, _ := f.connect(t, "lamp1", 5, nil)
			for _, topic := range []string{"secret", "open"} {
				p := publishPacket(topic, "x", 1, 3)
				p.FixedHeader.Retain = true
				c.send(p)
				if a := c.recv(packets.Puback); a.ReasonCode != 0x87 {
					t.Errorf("%s: PUBACK 0x%02X", topic, a.ReasonCode)
				}
			}
			c.send(publishPacket("secret", "x", 0, 0))
			c.ended(0x87)
		}},
		{"section 7 of the reference", "Connect and the will are asked before anybody is disconnected (A69)", func(t *testing.T, f *bench) {
			owner, _ := f.connect(t, "lamp1", 5, nil)
			f.rules.forbid(policy.Publish, "will/no", true)
			refused(0x87, withWill("will/no", "x"))(t, f)
			if e := f.event("connect_failed", "lamp1"); e.Reason != AuthorizationFail {
				t.Errorf("reason %s", e.Reason)
			}
			f.rules.forbid(policy.Connect, "lamp1", true)
			refused(0x87, func(*pkt) {})(t, f)
			owner.quiet()
		}},
		{"MQTT-3.8.3-5", "reserved subscription options are an error", bad(0x82, 0x82, 7, 0, 1, 0, 0, 1, 'a', 0x40)},
		{"section 3.8.3.1", "retain handling 3 is an error", bad(0x82, 0x82, 7, 0, 1, 0, 0, 1, 'a', 0x30)},
		{"section 3.8.3", "a SUBSCRIBE without its last option is malformed", bad(0x81, 0x82, 6, 0, 1, 0, 0, 1, 'a')},
		{"MQTT-3.8.3-3", "no local", func(t *testing.T, f *bench) {
			c, _ := f.connect(t, "lamp1", 5, nil)
			o, _ := f.connect(t, "lamp2", 5, nil)
			c.subscribe(packets.Subscription{Filter: "nl", NoLocal: true})
			c.pub("nl", "own", 0)
			o.pub("nl", "other", 0)
			c.message("nl", "other")
		}},
		{"MQTT-3.8.3-4", "no local on a shared subscription is an error", func(t *testing.T, f *bench) {
			c, _ := f.connect(t, "lamp1", 5, nil)
			c.send(&pkt{FixedHeader: head(packets.Subscribe), PacketID: 1, Filters: packets.Subscriptions{{Filter: "$share/g/a", NoLocal: true}}})
			c.ended(0x82)
		}},
		{"MQTT-3.9.3-1", "SUBACK codes", func(t *testing.T, f *bench) {
			f.rules.forbid(policy.Subscribe, "no", true)
			c, _ := f.connect(t, "lamp1", 5, nil)
			codes := c.subscribe(packets.Subscription{Filter: "a", Qos: 1}, packets.Subscription{Filter: "no", Qos: 1}, packets.Subscription{Filter: "a/#/b"}, packets.Subscription{Filter: strings.Repeat("x", 1025)})
			if !bytes.Equal(codes, []byte{1, 0x87, 0x8F, 0x8F}) {
				t.Errorf("codes %x", codes)
			}
		}},
		{"MQTT-3.11.3-1", "UNSUBACK codes", func(t *testing.T, f *bench) {
			c, _ := f.connect(t, "lamp1", 5, nil)
			c.sub("a", 0)
			c.send(&pkt{FixedHeader: head(packets.Unsubscribe), PacketID: 3, Filters: packets.Subscriptions{{Filter: "a"}, {Filter: "a"}}})
			if a := c.recv(packets.Unsuback); !bytes.Equal(a.ReasonCodes, []byte{0, 0x11}) {
				t.Errorf("codes %x", a.ReasonCodes)
			}
		}},
		{"MQTT-3.14.2-2", "DISCONNECT can shorten the session, not begin one", func(t *testing.T, f *bench) {
			c, _ := f.connect(t, "lamp1", 5, persistent)
			c.send(&pkt{FixedHeader: head(packets.Disconnect), Properties: packets.Properties{SessionExpiryIntervalFlag: true}})
			c.closed()
			f.event("disconnected", "lamp1")
			c, ack := f.connect(t, "lamp1", 5, nil)
			if ack.SessionPresent || f.Stats().Sessions != 1 {
				t.Error("the session was kept")
			}
			c.send(&pkt{FixedHeader: head(packets.Disconnect), Properties: packets.Properties{SessionExpiryIntervalFlag: true, SessionExpiryInterval: 9}})
			c.ended(0x82)
		}},
		{"section 4.8.2", "a shared subscription gives each message to one member", func(t *testing.T, f *bench) {
			a, _ := f.connect(t, "lamp1", 5, nil)
			b, _ := f.connect(t, "lamp2", 5, nil)
			w, _ := f.connect(t, "watch", 5, nil)
			for _, c := range []*raw{a, b} {
				c.sub("$share/g/s/#", 1)
			}
			w.sub("s/#", 1)
			o, _ := f.connect(t, "lamp3", 5, nil)
			const n = 40
			for range n {
				o.pub("s/x", "x", 1)
			}
			for range n {
				w.message("s/x", "x")
			}
			got := a.count("s/x") + b.count("s/x")
			if got != n {
				t.Errorf("%d of %d", got, n)
			}
		}},
		{"section 4.8.2", "what a member did not answer goes to another when its session ends", func(t *testing.T, f *bench) {
			a, _ := f.connect(t, "lamp1", 5, nil)
			a.sub("$share/g/s", 1)
			o, _ := f.connect(t, "lamp3", 5, nil)
			o.pub("s", "1", 1)
			a.recv(packets.Publish)
			b, _ := f.connect(t, "lamp2", 5, nil)
			b.sub("$share/g/s", 1)
			a.nc.Close()
			b.message("s", "1")
		}},
		{"section 4.8.2", "a group queues while it has a persistent member (cloud)", func(t *testing.T, f *bench) {
			a, _ := f.connect(t, "lamp1", 5, persistent)
			a.sub("$share/g/s", 1)
			a.bye()
			f.event("disconnected", "lamp1")
			o, _ := f.connect(t, "lamp3", 5, nil)
			o.pub("s", "1", 1)
			a, _ = f.connect(t, "lamp1", 5, persistent)
			a.message("s", "1")
		}},
		{"MQTT-4.12.0-1", "AUTH without a method is an error", bad(0x82, 0xF0, 0)},
	})
}

// silent wants nothing for a while.
func (c *raw) silent(d time.Duration) {
	c.t.Helper()
	if p, err := c.read(d); err == nil {
		c.t.Fatalf("got %s %q", packets.PacketNames[p.FixedHeader.Type], p.TopicName)
	}
}

// count takes messages until a ping is answered.
func (c *raw) count(topic string) (n int) {
	c.t.Helper()
	c.send(&pkt{FixedHeader: head(packets.Pingreq)})
	for {
		p, err := c.read(5 * time.Second)
		if err != nil {
			c.t.Fatal(err)
		}
		switch p.FixedHeader.Type {
		case packets.Pingresp:
			return n
		case packets.Publish:
			if p.TopicName == topic {
				n++
			}
			c.send(&pkt{FixedHeader: head(packets.Puback), PacketID: p.PacketID})
		}
	}
}

func TestConformance_5QoS2(t *testing.T) {
	conformance(t, func(c *Config) { c.Limits.QoS2 = true }, qos2(5))
}
