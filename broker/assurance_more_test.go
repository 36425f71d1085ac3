package broker

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"hallmark/fleet"
	"hallmark/fleet/policy"
)

// TestPolicy_HoldsOnEveryWayToATopic_A70: filters with wildcards, shared ones, reserved
// topics, the will, retained messages, the alias and the response topic. What may not
// be read is not delivered by any of them, and what may not be written is not
// published by any.
func TestPolicy_HoldsOnEveryWayToATopic_A70(t *testing.T) {
	both(t, func(t *testing.T, v byte) {
		f := open(t, nil)
		f.retain(t, v, "secret/a", "kept")
		secret := []string{"secret/a", "$aws/things/lamp2/shadow/update/accepted"}
		for _, topic := range secret {
			f.rules.forbid(policy.Receive, topic, true)
			f.rules.forbid(policy.Publish, topic, true)
		}
		// To read: each filter may be subscribed, and gives nothing of it.
		reader, _ := f.connect(t, "lamp1", v, nil)
		for _, filter := range []string{"#", "+/+", "secret/#", "secret/a", "$share/g/secret/a", "$share/g/#", "$aws/things/+/shadow/#", "$aws/#"} {
			if code := reader.subscribe(packets.Subscription{Filter: filter, Qos: 1})[0]; code != 1 {
				t.Errorf("%s: SUBACK 0x%02X", filter, code)
			}
		}
		for _, topic := range secret {
			f.say(t, "acme", topic, "x", 1)
		}
		f.say(t, "acme", "open/a", "y", 0)
		seen := false
		for !seen {
			p, err := reader.read(5 * time.Second)
			if err != nil {
				t.Fatal(err)
			}
			if p.TopicName != "open/a" {
				t.Errorf("delivered: %s", p.TopicName)
			}
			seen = p.TopicName == "open/a"
		}
		reader.count("") // a member of a group, too, got it
		// A filter that is refused is refused as it is written, whatever it would match.
		f.rules.forbid(policy.Subscribe, "$share/h/hidden/#", true)
		f.rules.forbid(policy.Subscribe, "hidden/#", true)
		codes := reader.subscribe(packets.Subscription{Filter: "hidden/#"}, packets.Subscription{Filter: "$share/h/hidden/#"}, packets.Subscription{Filter: "hidden/+"})
		if codes[0] < 0x80 || codes[1] < 0x80 || codes[2] >= 0x80 {
			t.Errorf("SUBACK %x", codes)
		}
		// The policy changes: what is delivered follows with the next message.
		f.rules.forbid(policy.Receive, "open/a", true)
		f.say(t, "acme", "open/a", "z", 0)
		for n := reader.count("open/a"); n != 0; n = reader.count("open/a") {
			t.Errorf("%d messages after the policy changed", n)
		}
		f.rules.forbid(policy.Receive, "open/a", false)

		// To write.
		watch, _ := f.connect(t, "watch", v, nil)
		w := watch
		f.rules.forbid(policy.Receive, "secret/a", false)
		w.sub("secret/#", 1)
		w.count("secret/a") // the retained one
		refusedWill := f.dial(t, "lamp3", v)
		p := connectPacket(v, "lamp3")
		withWill("secret/a", "will")(p)
		refusedWill.send(p)
		if ack := refusedWill.recv(packets.Connack); ack.ReasonCode == 0 {
			t.Error("a will on a topic that is refused")
		}
		for _, retain := range []bool{false, true} {
			c, _ := f.connect(t, "lamp4", v, nil)
			p := publishPacket("secret/a", "forged", 1, 3)
			p.FixedHeader.Retain = retain
			c.send(p)
			if v == 4 {
				c.closed()
			} else if a := c.recv(packets.Puback); a.ReasonCode != 0x87 {
				t.Errorf("PUBACK 0x%02X", a.ReasonCode)
			}
		}
		if v == 5 {
			// A response topic is a word to the receiver and no right: whoever answers
			// there needs it.
			c, _ := f.connect(t, "lamp5", v, nil)
			p := publishPacket("open/b", "ask", 1, 3)
			p.Properties.ResponseTopic = "secret/a"
			c.publish(p)
			for i, topic := range []string{"open/c", "", "secret/a", ""} {
				p := publishPacket(topic, "alias", 1, uint16(10+i))
				p.Properties.TopicAlias, p.Properties.TopicAliasFlag = 1, true
				c.send(p)
				if a := c.recv(packets.Puback); (a.ReasonCode == 0x87) != (i >= 2) {
					t.Errorf("alias %d: PUBACK 0x%02X", i, a.ReasonCode)
				}
			}
		}
		if n := w.count("secret/a"); n != 0 {
			t.Errorf("%d messages came through", n)
		}
	})
}

// TestHostile_PacketsEndTheirOwnConnectionOnly_A71: what other brokers died of ends the
// connection that sent it, with a code where the version has one; memory does not grow
// by what lengths promise, and another device notices nothing.
func TestHostile_PacketsEndTheirOwnConnectionOnly_A71(t *testing.T) {
	both(t, func(t *testing.T, v byte) {
		f := open(t, func(c *Config) { c.Limits.QoS2 = true })
		other, _ := f.connect(t, "other", v, nil)
		other.sub("o", 1)
		publish := func(head byte, topic string, rest ...byte) []byte {
			body := append([]byte{byte(len(topic) >> 8), byte(len(topic))}, topic...)
			return append(appendVar([]byte{head}, len(body)+len(rest)), append(body, rest...)...)
		}
		props := func(b ...byte) []byte {
			if v == 4 {
				return nil
			}
			return b
		}
		var before, after runtime.MemStats
		runtime.GC()
		runtime.ReadMemStats(&before)
		for what, b := range map[string][]byte{
			"an empty topic (CVE-2021-34432)":             publish(0x30, "", props(0)...),
			"a huge length (CVE-2023-0809)":               {0x30, 0xFF, 0xFF, 0xFF, 0x7F},
			"a length of five octets":                     {0x30, 0xFF, 0xFF, 0xFF, 0xFF, 0x01},
			"CONNACK from a client (CVE-2021-28166)":      {0x20, 2, 0, 0},
			"SUBACK from a client":                        {0x90, 3, 0, 1, 0},
			"UNSUBACK from a client":                      {0xB0, 2, 0, 1},
			"PINGRESP from a client":                      {0xD0, 0},
			"a packet of type 0":                          {0x00, 0},
			"a filter of 65,535 octets that is not there": append(append([]byte{0x82, byte(6 + len(props(0))), 0, 1}, props(0)...), 0xFF, 0xFF, 'a', 'b'),
			"a topic that is longer than its packet":      {0x30, 3, 0xFF, 0xFF, 'a'},
			"a SUBSCRIBE with 100 filters":                subscribeMany(v, 100),
		} {
			for range 5 {
				c, _ := f.connect(t, "lamp1", v, nil)
				c.bytes(b)
				p, err := c.read(5 * time.Second)
				if err == nil && (p.FixedHeader.Type != packets.Disconnect || p.ReasonCode < 0x80) && p.FixedHeader.Type != packets.Suback {
					t.Errorf("%s: got %s 0x%02X", what, packets.PacketNames[p.FixedHeader.Type], p.ReasonCode)
				}
				if (err == nil) != (v == 5) && !strings.Contains(what, "100 filters") {
					t.Errorf("%s: said something: %v", what, err == nil)
				}
				c.nc.Close()
			}
		}
		for what, b := range map[string][]byte{"no CONNECT first": {0xC0, 0}, "CONNACK first": {0x20, 2, 0, 0}, "PUBLISH first": {0x30, 4, 0, 1, 'a', 'x'}, "a huge CONNECT": {0x10, 0xFF, 0xFF, 0xFF, 0x7F}} {
			c := f.dial(t, "lamp1", v)
			c.bytes(b)
			if p, err := c.read(10 * time.Second); err == nil && (p.FixedHeader.Type != packets.Connack || p.ReasonCode == 0) {
				t.Errorf("%s: got %s", what, packets.PacketNames[p.FixedHeader.Type])
			}
		}
		runtime.GC()
		runtime.ReadMemStats(&after)
		if grown := int64(after.HeapAlloc) - int64(before.HeapAlloc); grown > 32<<20 {
			t.Errorf("the heap grew by %d octets", grown)
		}
		f.say(t, "acme", "o", "still here", 1)
		other.message("o", "still here")
		eventually(t, "the others are gone", func() bool { return f.Stats().Connections == 1 })
	})
}

// subscribeMany is a SUBSCRIBE with many filters.
func subscribeMany(v byte, n int) []byte {
	body := []byte{0, 9}
	if v == 5 {
		body = append(body, 0)
	}
	for i := range n {
		filter := fmt.Sprintf("f/%d", i)
		body = append(append(append(body, 0, byte(len(filter))), filter...), 0)
	}
	return append(appendVar([]byte{0x82}, len(body)), body...)
}

// TestIdentity_TheClientIdentifierChoosesAmongThings_S25: a certificate for several
// things is the one that its client identifier names, and no other's.
func TestIdentity_TheClientIdentifierChoosesAmongThings_S25(t *testing.T) {
	for client, want := range map[string]fleet.ThingName{"a": "a", "b": "b", "a-1": "a-1", "a-2": "a", "b-7": "b", "c": "", "a-x": "", "": ""} {
		id := Identity{Tenant: "acme", Things: []fleet.ThingName{"a", "a-1", "b"}}
		id.choose(client)
		if id.Thing != want || id.mayUse(client) != (want != "") {
			t.Errorf("%q: %q, may use it: %v", client, id.Thing, id.mayUse(client))
		}
	}
	own := Identity{Thing: "x", Things: []fleet.ThingName{"a"}}
	if own.choose("a"); own.Thing != "x" || own.mayUse("a") {
		t.Error("an exclusive thing was changed")
	}
	claim := Identity{Claim: true, Things: []fleet.ThingName{"a"}}
	if claim.choose("a"); claim.Thing != "" {
		t.Error("a claim certificate became a thing")
	}
}
