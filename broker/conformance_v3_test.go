package broker

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"hallmark/fleet"
	"hallmark/fleet/policy"
)

// statement is one normative statement and how it is held to.
type statement struct {
	number string
	says   string
	check  func(t *testing.T, f *bench)
}

func conformance(t *testing.T, change func(*Config), list []statement) {
	for _, s := range list {
		t.Run(s.number+" "+s.says, func(t *testing.T) { s.check(t, open(t, change)) })
	}
}

// connectBytes is a CONNECT of 3.1.1 with flags and payload as given.
func connectBytes(level, flags byte, payload ...string) []byte {
	body := []byte{0, 4, 'M', 'Q', 'T', 'T', level, flags, 0, 60}
	for _, p := range payload {
		body = append(body, byte(len(p)>>8), byte(len(p)))
		body = append(body, p...)
	}
	return append(appendVar([]byte{0x10}, len(body)), body...)
}

func publishPacket(topic, payload string, qos byte, id uint16) *pkt {
	return &pkt{FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: qos}, TopicName: topic, Payload: []byte(payload), PacketID: id}
}

func TestConformance_311(t *testing.T) {
	refusedAtOnce := func(b []byte) func(t *testing.T, f *bench) {
		return func(t *testing.T, f *bench) {
			c := f.dial(t, "lamp1", 4)
			c.bytes(b)
			c.closed()
		}
	}
	afterConnect := func(b []byte) func(t *testing.T, f *bench) {
		return func(t *testing.T, f *bench) {
			c, _ := f.connect(t, "lamp1", 4, nil)
			c.bytes(b)
			c.closed()
		}
	}
	connack := func(b []byte, code byte) func(t *testing.T, f *bench) {
		return func(t *testing.T, f *bench) {
			c := f.dial(t, "lamp1", 4)
			c.bytes(b)
			if p := c.recv(packets.Connack); p.ReasonCode != code || p.SessionPresent {
				t.Errorf("CONNACK %d", p.ReasonCode)
			}
			c.closed()
		}
	}
	conformance(t, nil, []statement{
		{"MQTT-1.5.3-1", "ill-formed UTF-8 closes", afterConnect([]byte{0x30, 6, 0, 3, 'a', 0xFF, 'b', 'x'})},
		{"MQTT-1.5.3-2", "U+0000 in a string closes", afterConnect([]byte{0x30, 6, 0, 3, 'a', 0, 'b', 'x'})},
		{"MQTT-1.5.3-3", "U+FEFF is not stripped", func(t *testing.T, f *bench) {
			c, _ := f.connect(t, "lamp1", 4, nil)
			c.sub("a/\ufeffb", 0)
			c.pub("a/\ufeffb", "x", 0)
			c.message("a/\ufeffb", "x")
		}},
		{"MQTT-2.2.2-2", "wrong fixed header flags close", afterConnect([]byte{0x80, 6, 0, 1, 0, 1, 'a', 0})},
		{"MQTT-2.3.1-1", "SUBSCRIBE with packet identifier 0 closes", afterConnect([]byte{0x82, 6, 0, 0, 0, 1, 'a', 0})},
		{"MQTT-2.3.1-1", "QoS 1 PUBLISH with packet identifier 0 closes", afterConnect([]byte{0x32, 5, 0, 1, 'a', 0, 0})},
		{"MQTT-2.3.1-6", "PUBACK has the identifier of its PUBLISH", func(t *testing.T, f *bench) {
			c, _ := f.connect(t, "lamp1", 4, nil)
			for _, id := range []uint16{1, 77, 65535} {
				c.publish(publishPacket("a", "x", 1, id))
			}
		}},
		{"MQTT-3.1.0-1", "first packet other than CONNECT closes", refusedAtOnce([]byte{0xC0, 0})},
		{"MQTT-3.1.0-1", "a client that sends CONNACK is closed (CVE-2021-28166)", refusedAtOnce([]byte{0x20, 2, 0, 0})},
		{"MQTT-3.1.0-2", "second CONNECT closes", func(t *testing.T, f *bench) {
			c, _ := f.connect(t, "lamp1", 4, nil)
			c.send(connectPacket(4, "lamp1"))
			c.closed()
		}},
		{"MQTT-3.1.2-1", "wrong protocol name closes", refusedAtOnce([]byte{0x10, 17, 0, 4, 'M', 'Q', 'X', 'X', 4, 2, 0, 60, 0, 5, 'l', 'a', 'm', 'p', '1'})},
		{"MQTT-3.1.2-2", "unknown level gets CONNACK 1", connack(connectBytes(3, 2, "lamp1"), 1)},
		{"MQTT-3.1.2-3", "reserved connect flag closes", refusedAtOnce(connectBytes(4, 3, "lamp1"))},
		{"MQTT-3.1.2-6", "clean session forgets subscriptions", func(t *testing.T, f *bench) {
			c, _ := f.connect(t, "lamp1", 4, persistent)
			c.sub("c6", 1)
			c.bye()
			c, ack := f.connect(t, "lamp1", 4, nil)
			if ack.SessionPresent {
				t.Error("session present")
			}
			c.pub("c6", "x", 0)
			c.quiet()
			c.bye()
			_, ack = f.connect(t, "lamp1", 4, persistent)
			if ack.SessionPresent {
				t.Error("a clean session was kept")
			}
		}},
		{"MQTT-3.1.2-8", "the will is published when the connection is cut", func(t *testing.T, f *bench) {
			w, _ := f.connect(t, "watch", 4, nil)
			w.sub("will/+", 1)
			c, _ := f.connect(t, "lamp1", 4, withWill("will/lamp1", "gone"))
			c.nc.Close()
			w.message("will/lamp1", "gone")
		}},
		{"MQTT-3.1.2-10", "DISCONNECT forgets the will", func(t *testing.T, f *bench) {
			w, _ := f.connect(t, "watch", 4, nil)
			w.sub("will/+", 1)
			c, _ := f.connect(t, "lamp1", 4, withWill("will/lamp1", "gone"))
			c.bye()
			f.event("disconnected", "lamp1")
			w.quiet()
		}},
		{"MQTT-3.1.2-11", "will QoS without a will closes", refusedAtOnce(connectBytes(4, 2|8, "lamp1"))},
		{"MQTT-3.1.2-13", "will retain without a will closes", refusedAtOnce(connectBytes(4, 2|0x20, "lamp1"))},
		{"MQTT-3.1.2-14", "will QoS 3 closes", refusedAtOnce(connectBytes(4, 2|4|0x18, "lamp1", "w", "x"))},
		{"MQTT-3.1.2-17", "a retained will is retained", func(t *testing.T, f *bench) {
			c, _ := f.connect(t, "lamp1", 4, func(p *pkt) { withWill("will/kept", "gone")(p); p.Connect.WillRetain = true })
			c.nc.Close()
			f.event("disconnected", "lamp1")
			w, _ := f.connect(t, "watch", 4, nil)
			w.sub("will/kept", 1)
			if p := w.message("will/kept", "gone"); !p.FixedHeader.Retain {
				t.Error("RETAIN is not set")
			}
		}},
		{"MQTT-3.1.2-22", "password without user name closes", refusedAtOnce(connectBytes(4, 2|0x40, "lamp1", "secret"))},
		{"MQTT-3.1.2-24", "silence ends the connection after 1.5 keep alives", func(t *testing.T, f *bench) {
			c, _ := f.connect(t, "lamp1", 4, func(p *pkt) { p.Connect.Keepalive = 1 })
			began := time.Now()
			c.closed()
			if d := time.Since(began); d < 1400*time.Millisecond || d > 15*time.Second {
				t.Errorf("after %v", d)
			}
			if e := f.event("disconnected", "lamp1"); e.Reason != KeepAliveTimeout {
				t.Errorf("reason %s", e.Reason)
			}
		}},
		{"MQTT-3.1.3-6", "empty client id with a clean session gets an identifier", func(t *testing.T, f *bench) {
			c := f.dial(t, "lamp1", 4)
			c.send(connectPacket(4, ""))
			if p := c.recv(packets.Connack); p.ReasonCode != 0 {
				t.Errorf("CONNACK %d", p.ReasonCode)
			}
		}},
		{"MQTT-3.1.3-8", "empty client id without a clean session gets CONNACK 2", connack(connectBytes(4, 0, ""), 2)},
		{"MQTT-3.1.3-9", "a client id that is too long gets CONNACK 2", connack(connectBytes(4, 2, strings.Repeat("x", 129)), 2)},
		{"MQTT-3.1.3-9", "another device's client id gets CONNACK 5 (S25)", connack(connectBytes(4, 2, "lamp2"), 5)},
		{"MQTT-3.1.4-1", "octets behind CONNECT's payload close", refusedAtOnce(connectBytes(4, 2, "lamp1", "more"))},
		{"MQTT-3.1.4-2", "the same client id again disconnects the first, without a packet", func(t *testing.T, f *bench) {
			a, _ := f.connect(t, "lamp1", 4, nil)
			b, _ := f.connect(t, "lamp1", 4, nil)
			a.closed()
			b.quiet()
			if e := f.event("disconnected", "lamp1"); e.Reason != DuplicateClient {
				t.Errorf("reason %s", e.Reason)
			}
		}},
		{"MQTT-3.2.2-2", "a kept session is present, a new one is not", func(t *testing.T, f *bench) {
			c, ack := f.connect(t, "lamp9", 4, persistent)
			if ack.SessionPresent {
				t.Error("a new session was present")
			}
			c.bye()
			if _, ack = f.connect(t, "lamp9", 4, persistent); !ack.SessionPresent {
				t.Error("a kept session was not present")
			}
		}},
		{"MQTT-3.3.1-2", "DUP with QoS 0 closes", afterConnect([]byte{0x38, 4, 0, 1, 'a', 'x'})},
		{"MQTT-3.3.1-3", "DUP is not passed on", func(t *testing.T, f *bench) {
			c, _ := f.connect(t, "lamp1", 4, nil)
			c.sub("dup", 1)
			p := publishPacket("dup", "x", 1, 5)
			p.FixedHeader.Dup = true
			c.send(p)
			got := map[byte]bool{}
			for range 2 {
				q, err := c.read(5 * time.Second)
				if err != nil {
					t.Fatal(err)
				}
				if q.FixedHeader.Dup {
					t.Error("DUP is set")
				}
				got[q.FixedHeader.Type] = true
			}
			if !got[packets.Publish] || !got[packets.Puback] {
				t.Errorf("got %v", got)
			}
		}},
		{"MQTT-3.3.1-4", "QoS 3 closes", afterConnect([]byte{0x36, 5, 0, 1, 'a', 0, 1})},
		{"MQTT-3.3.1-6", "retained messages come to a new subscription", func(t *testing.T, f *bench) {
			c, _ := f.connect(t, "lamp1", 4, nil)
			for _, topic := range []string{"r6/a", "r6/b/c", "r6"} {
				p := publishPacket(topic, topic, 1, 3)
				p.FixedHeader.Retain = true
				c.publish(p)
			}
			for filter, want := range map[string]int{"r6/a": 1, "r6/+": 1, "r6/#": 3, "+/b/c": 1, "r6": 1, "R6": 0} {
				w, _ := f.connect(t, "watch", 4, nil)
				w.sub(filter, 0)
				for range want {
					p := w.recv(packets.Publish)
					if !p.FixedHeader.Retain || p.TopicName != string(p.Payload) {
						t.Errorf("%s: RETAIN %v, %q", filter, p.FixedHeader.Retain, p.TopicName) // [MQTT-3.3.1-8]
					}
				}
				w.quiet()
			}
		}},
		{"MQTT-3.3.1-9", "to an existing subscription RETAIN is 0", func(t *testing.T, f *bench) {
			c, _ := f.connect(t, "lamp1", 4, nil)
			c.sub("r9", 0)
			p := publishPacket("r9", "x", 0, 0)
			p.FixedHeader.Retain = true
			c.publish(p)
			if c.message("r9", "x").FixedHeader.Retain {
				t.Error("RETAIN is set")
			}
		}},
		{"MQTT-3.3.1-10", "an empty payload removes what is retained", func(t *testing.T, f *bench) {
			c, _ := f.connect(t, "lamp1", 4, nil)
			for _, text := range []string{"x", ""} {
				p := publishPacket("r10", text, 1, 3)
				p.FixedHeader.Retain = true
				c.publish(p)
			}
			c.sub("r10", 0)
			c.quiet()
		}},
		{"MQTT-3.3.1-12", "RETAIN 0 leaves what is retained", func(t *testing.T, f *bench) {
			c, _ := f.connect(t, "lamp1", 4, nil)
			p := publishPacket("r12", "old", 1, 3)
			p.FixedHeader.Retain = true
			c.publish(p)
			c.pub("r12", "new", 1)
			c.sub("r12", 0)
			c.message("r12", "old")
		}},
		{"MQTT-3.3.2-2", "wildcards in a topic name close", afterConnect([]byte{0x30, 6, 0, 3, 'a', '/', '#', 'x'})},
		{"MQTT-4.7.3-1", "an empty topic closes (CVE-2021-34432)", afterConnect([]byte{0x30, 3, 0, 0, 'x'})},
		{"MQTT-3.3.5-1", "overlapping subscriptions deliver with the highest QoS", func(t *testing.T, f *bench) {
			c, _ := f.connect(t, "lamp1", 4, nil)
			c.sub("o/#", 0)
			c.sub("o/+", 1)
			o, _ := f.connect(t, "lamp2", 4, nil)
			o.pub("o/x", "1", 1)
			if p := c.message("o/x", "1"); p.FixedHeader.Qos != 1 {
				t.Errorf("QoS %d", p.FixedHeader.Qos)
			}
			c.quiet()
		}},
		{"MQTT-3.3.5-2", "a publish that is not authorised closes", func(t *testing.T, f *bench) {
			f.rules.forbid(policy.Publish, "secret", true)
			for _, qos := range []byte{0, 1} {
				c, _ := f.connect(t, "lamp1", 4, nil)
				c.send(publishPacket("secret", "x", qos, uint16(qos)))
				c.closed()
			}
		}},
		{"MQTT-3.8.1-1", "SUBSCRIBE with other flags closes", afterConnect([]byte{0x83, 6, 0, 1, 0, 1, 'a', 0})},
		{"MQTT-3.8.3-3", "SUBSCRIBE without a filter closes", afterConnect([]byte{0x82, 2, 0, 1})},
		{"MQTT-3.8.3-4", "reserved bits of the requested QoS close", afterConnect([]byte{0x82, 6, 0, 1, 0, 1, 'a', 4})},
		{"MQTT-3.8.3-4", "a SUBSCRIBE that ends within a filter closes", afterConnect([]byte{0x82, 5, 0, 1, 0, 9, 'a'})},
		{"MQTT-3.8.4-3", "subscribing again replaces and sends retained again", func(t *testing.T, f *bench) {
			c, _ := f.connect(t, "lamp1", 4, nil)
			p := publishPacket("s3", "kept", 1, 3)
			p.FixedHeader.Retain = true
			c.publish(p)
			c.sub("s3", 1)
			c.message("s3", "kept")
			c.sub("s3", 0)
			c.message("s3", "kept")
			o, _ := f.connect(t, "lamp2", 4, nil)
			o.pub("s3", "new", 1)
			if p := c.message("s3", "new"); p.FixedHeader.Qos != 0 {
				t.Error("the old subscription counts")
			}
			c.quiet()
		}},
		{"MQTT-3.8.4-5", "each filter has its code in order", func(t *testing.T, f *bench) {
			f.rules.forbid(policy.Subscribe, "no", true)
			c, _ := f.connect(t, "lamp1", 4, nil)
			codes := c.subscribe(packets.Subscription{Filter: "a", Qos: 1}, packets.Subscription{Filter: "no", Qos: 1}, packets.Subscription{Filter: "b/#/c", Qos: 0}, packets.Subscription{Filter: "b", Qos: 0}, packets.Subscription{Filter: "c", Qos: 2})
			if !bytes.Equal(codes, []byte{1, 0x80, 0x80, 0, 1}) { // [MQTT-3.9.3-2]
				t.Errorf("codes %x", codes)
			}
		}},
		{"MQTT-3.8.4-6", "delivery uses the lower QoS", func(t *testing.T, f *bench) {
			c, _ := f.connect(t, "lamp1", 4, nil)
			c.sub("q0", 0)
			c.sub("q1", 1)
			o, _ := f.connect(t, "lamp2", 4, nil)
			o.pub("q0", "x", 1)
			o.pub("q1", "x", 0)
			for _, topic := range []string{"q0", "q1"} {
				if p := c.message(topic, "x"); p.FixedHeader.Qos != 0 {
					t.Errorf("%s: QoS %d", topic, p.FixedHeader.Qos)
				}
			}
		}},
		{"MQTT-3.10.3-2", "UNSUBSCRIBE without a filter closes", afterConnect([]byte{0xA2, 2, 0, 1})},
		{"MQTT-3.10.4-1", "UNSUBSCRIBE compares octet by octet and stops delivery", func(t *testing.T, f *bench) {
			c, _ := f.connect(t, "lamp1", 4, nil)
			c.sub("u/+", 0)
			for i, filter := range []string{"u/x", "U/+", "u/+"} {
				c.send(&pkt{FixedHeader: head(packets.Unsubscribe), PacketID: uint16(40 + i), Filters: packets.Subscriptions{{Filter: filter}}})
				if p := c.recv(packets.Unsuback); p.PacketID != uint16(40+i) { // [MQTT-3.10.4-4] [MQTT-3.10.4-5]
					t.Errorf("identifier %d", p.PacketID)
				}
				c.pub("u/x", "1", 0)
				if filter == "u/+" {
					c.quiet()
				} else {
					c.message("u/x", "1")
				}
			}
		}},
		{"MQTT-3.12.4-1", "PINGREQ gets PINGRESP", func(t *testing.T, f *bench) {
			c, _ := f.connect(t, "lamp1", 4, nil)
			c.quiet()
		}},
		{"MQTT-3.14.1-1", "DISCONNECT with flags closes, with the will", func(t *testing.T, f *bench) {
			w, _ := f.connect(t, "watch", 4, nil)
			w.sub("will/+", 1)
			c, _ := f.connect(t, "lamp1", 4, withWill("will/lamp1", "gone"))
			c.bytes([]byte{0xE1, 0})
			c.closed()
			w.message("will/lamp1", "gone")
		}},
		{"MQTT-4.3.2-1", "an unanswered QoS 1 message is sent again on the next connection, with DUP and its identifier", func(t *testing.T, f *bench) {
			c, _ := f.connect(t, "lamp8", 4, persistent) // [MQTT-4.4.0-1]
			c.sub("again", 1)
			o, _ := f.connect(t, "lamp2", 4, nil)
			o.pub("again", "1", 1)
			o.pub("again", "2", 1)
			first := c.recv(packets.Publish)
			if first.FixedHeader.Dup {
				t.Error("DUP on the first delivery") // [MQTT-3.3.1-1]
			}
			second := c.recv(packets.Publish)
			c.send(&pkt{FixedHeader: head(packets.Puback), PacketID: second.PacketID})
			c.quiet()
			c.nc.Close()
			f.event("disconnected", "lamp8")
			c, _ = f.connect(t, "lamp8", 4, persistent)
			p := c.message("again", "1")
			if !p.FixedHeader.Dup || p.PacketID != first.PacketID {
				t.Errorf("DUP %v, identifier %d, want %d", p.FixedHeader.Dup, p.PacketID, first.PacketID)
			}
			c.quiet()
		}},
		{"MQTT-4.5.0-1", "a publisher hears itself", func(t *testing.T, f *bench) {
			c, _ := f.connect(t, "lamp1", 4, nil)
			c.sub("self", 0)
			c.pub("self", "x", 0)
			c.message("self", "x")
		}},
		{"MQTT-4.6.0-2", "PUBACKs come in the order of the messages", func(t *testing.T, f *bench) {
			// Every second message waits for a commit, the others do not.
			keep, _ := f.connect(t, "lamp7", 4, persistent)
			keep.sub("slow", 1)
			c, _ := f.connect(t, "lamp1", 4, nil)
			for id := uint16(1); id <= 50; id++ {
				c.send(publishPacket([]string{"slow", "fast"}[id%2], "x", 1, id))
			}
			for id := uint16(1); id <= 50; id++ {
				if p := c.recv(packets.Puback); p.PacketID != id {
					t.Fatalf("PUBACK %d, want %d", p.PacketID, id)
				}
			}
		}},
		{"MQTT-4.7.1-2", "# is last and alone in its level", func(t *testing.T, f *bench) {
			c, _ := f.connect(t, "lamp1", 4, nil)
			for filter, code := range map[string]byte{"#": 0, "a/#": 0, "a#": 0x80, "a/#/b": 0x80, "+": 0, "+/+/b": 0, "a+": 0x80, "a/+b": 0x80, "/": 0, "//": 0, "": 0x80, "$share/g": 0x80, "$share//a": 0x80, "$share/g+/a": 0x80, "$share/g/a#": 0x80, "$SYS/#": 0x80} {
				if codes := c.subscribe(packets.Subscription{Filter: filter}); codes[0] != code {
					t.Errorf("%q: %x", filter, codes)
				}
			}
		}},
		{"MQTT-4.7.2-1", "wildcards do not match topics with $", func(t *testing.T, f *bench) {
			c, _ := f.connect(t, "lamp1", 4, nil)
			c.sub("#", 0)
			c.sub("+/things/#", 0)
			f.say(t, "acme", "$aws/things/lamp1/x", "hidden", 0)
			f.say(t, "acme", "seen", "x", 0)
			c.message("seen", "x")
			c.sub("$aws/things/+/x", 0)
			f.say(t, "acme", "$aws/things/lamp1/x", "shown", 0)
			c.message("$aws/things/lamp1/x", "shown")
		}},
		{"MQTT-4.7.3-4", "topics are compared octet by octet, also empty levels", func(t *testing.T, f *bench) {
			c, _ := f.connect(t, "lamp1", 4, nil)
			for _, filter := range []string{"/x", "x/", "X", "x//y"} {
				c.sub(filter, 0)
			}
			for _, topic := range []string{"x", "/x", "x/", "X", "x//y", "x/y"} {
				c.pub(topic, topic, 0)
			}
			for _, topic := range []string{"/x", "x/", "X", "x//y"} {
				c.message(topic, topic)
			}
			c.quiet()
		}},
		{"MQTT-4.8.0-1", "QoS 2 is not offered and closes", afterConnect([]byte{0x34, 5, 0, 1, 'a', 0, 1})},
		{"section 2.2.3", "a remaining length of five octets closes", refusedAtOnce([]byte{0x10, 0xFF, 0xFF, 0xFF, 0xFF, 1})},
		{"section 2.2.3", "a packet beyond the limit closes before it came", func(t *testing.T, f *bench) {
			c, _ := f.connect(t, "lamp1", 4, nil)
			c.bytes([]byte{0x30, 0xFF, 0xFF, 0xFF, 0x7F})
			c.closed()
		}},
	})
}

func withWill(topic, text string) func(*pkt) {
	return func(p *pkt) {
		p.Connect.WillFlag, p.Connect.WillTopic, p.Connect.WillPayload, p.Connect.WillQos = true, topic, []byte(text), 1
	}
}

// say publishes as the service.
func (f *bench) say(t *testing.T, tenant, topic, text string, qos byte) {
	t.Helper()
	if err := f.Publish(t.Context(), fleet.Message{Tenant: tenant, Topic: topic, Payload: []byte(text), QoS: qos}); err != nil {
		t.Fatal(err)
	}
}

func TestConformance_311QoS2(t *testing.T) {
	conformance(t, func(c *Config) { c.Limits.QoS2 = true }, qos2(4))
}

// qos2 is the same for both versions.
func qos2(v byte) []statement {
	return []statement{
		{"MQTT-4.3.3-2", "a message is passed on once, whatever is sent again", func(t *testing.T, f *bench) {
			s, _ := f.connect(t, "lamp1", v, nil)
			s.sub("two", 2)
			c, _ := f.connect(t, "lamp2", v, nil)
			p := publishPacket("two", "x", 2, 11)
			c.send(p)
			c.recv(packets.Pubrec)
			p.FixedHeader.Dup = true
			c.send(p)
			c.recv(packets.Pubrec)
			c.send(&pkt{FixedHeader: head(packets.Pubrel), PacketID: 11})
			c.recv(packets.Pubcomp)
			got := s.recv(packets.Publish)
			if got.FixedHeader.Qos != 2 {
				t.Errorf("QoS %d", got.FixedHeader.Qos)
			}
			s.send(&pkt{FixedHeader: head(packets.Pubrec), PacketID: got.PacketID})
			if r := s.recv(packets.Pubrel); r.PacketID != got.PacketID {
				t.Errorf("PUBREL %d", r.PacketID)
			}
			s.send(&pkt{FixedHeader: head(packets.Pubcomp), PacketID: got.PacketID})
			s.quiet()
		}},
		{"MQTT-4.4.0-1", "a released message comes back as PUBREL, with its identifier", func(t *testing.T, f *bench) {
			name := fmt.Sprint("lamp8", v)
			s, _ := f.connect(t, name, v, persistent)
			s.sub("rel", 2)
			c, _ := f.connect(t, "lamp2", v, nil)
			c.send(publishPacket("rel", "x", 2, 12))
			c.recv(packets.Pubrec)
			got := s.recv(packets.Publish)
			s.send(&pkt{FixedHeader: head(packets.Pubrec), PacketID: got.PacketID})
			s.recv(packets.Pubrel)
			s.nc.Close()
			f.event("disconnected", name)
			s, _ = f.connect(t, name, v, persistent)
			if r := s.recv(packets.Pubrel); r.PacketID != got.PacketID {
				t.Errorf("PUBREL %d, want %d", r.PacketID, got.PacketID)
			}
			s.send(&pkt{FixedHeader: head(packets.Pubcomp), PacketID: got.PacketID})
			s.quiet()
		}},
		{"A71", "identifiers that are never released are bounded (CVE-2023-28366)", func(t *testing.T, f *bench) {
			c, _ := f.connect(t, "lamp1", v, nil)
			for id := uint16(1); id <= 100; id++ {
				c.send(publishPacket("x", "y", 2, id))
				c.recv(packets.Pubrec)
			}
			c.send(publishPacket("x", "y", 2, 101))
			c.ended(0x93)
		}},
		{"MQTT-4.3.3-1", "a received identifier survives the connection", func(t *testing.T, f *bench) {
			name := fmt.Sprint("lamp9", v)
			s, _ := f.connect(t, "lamp1", v, nil)
			s.sub("once", 1)
			c, _ := f.connect(t, name, v, persistent)
			p := publishPacket("once", "x", 2, 13)
			c.send(p)
			c.recv(packets.Pubrec)
			c.nc.Close()
			f.event("disconnected", name)
			c, _ = f.connect(t, name, v, persistent)
			p.FixedHeader.Dup = true
			c.send(p)
			c.recv(packets.Pubrec)
			s.message("once", "x")
			s.quiet()
		}},
	}
}
