package broker

import (
	"bytes"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"hallmark/fleet/policy"
)

// first is the first octet of the next packet, its length and the octets behind:
// what the codec of the tests does not show.
func (c *raw) first() (head byte, body []byte) {
	c.t.Helper()
	c.nc.SetReadDeadline(time.Now().Add(10 * time.Second))
	for {
		if len(c.pending) >= 2 {
			if size, n, err := remaining(c.pending[1:]); err != nil {
				c.t.Fatal(err)
			} else if size > 0 && len(c.pending) >= 1+size+n {
				head, body = c.pending[0], bytes.Clone(c.pending[1+size:1+size+n])
				c.pending = c.pending[1+size+n:]
				return head, body
			}
		}
		buf := make([]byte, 4096)
		n, err := c.nc.Read(buf)
		c.pending = append(c.pending, buf[:n]...)
		if n == 0 && err != nil {
			c.t.Fatal(err)
		}
	}
}

func (f *bench) retain(t *testing.T, version byte, topic, text string) {
	t.Helper()
	o, _ := f.connect(t, "keeper", version, nil)
	p := publishPacket(topic, text, 1, 3)
	p.FixedHeader.Retain = true
	o.publish(p)
	o.bye()
}

// of gives the statement's number in the version at hand.
func of(version byte, v3, v5 string) string {
	if version == 4 {
		return v3
	}
	return v5
}

// TestConformance_BothMore are statements that say the same in both versions; a
// statement without a number in one of them is held there too.
func TestConformance_BothMore(t *testing.T) {
	for _, v := range []byte{4, 5} {
		t.Run(fmt.Sprintf("v%d", v), func(t *testing.T) { conformance(t, nil, bothMore(v)) })
	}
}

func bothMore(v byte) []statement {
	will := func(retain bool) func(*pkt) {
		return func(p *pkt) { withWill("w/lamp1", "gone")(p); p.Connect.WillRetain = retain }
	}
	return []statement{
		{of(v, "MQTT-2.2.2-1", "MQTT-2.1.3-1"), "reserved bits of what the server sends are 0", func(t *testing.T, f *bench) {
			c := f.dial(t, "lamp1", v)
			c.send(connectPacket(v, "lamp1"))
			want := func(kind string, octet byte) []byte {
				t.Helper()
				head, body := c.first()
				if head != octet {
					t.Errorf("%s begins with 0x%02X", kind, head)
				}
				return body
			}
			if body := want("CONNACK", 0x20); body[0] != 0 { // [MQTT-3.2.2-1]
				t.Errorf("acknowledge flags 0x%02X", body[0])
			}
			c.send(&pkt{FixedHeader: head(packets.Subscribe), PacketID: 0x1234, Filters: packets.Subscriptions{{Filter: "a", Qos: 1}}})
			if body := want("SUBACK", 0x90); body[0] != 0x12 || body[1] != 0x34 { // [MQTT-2.3.1-7] [MQTT-2.2.1-6] [MQTT-3.8.4-1] [MQTT-3.8.4-2]
				t.Errorf("SUBACK %x", body)
			}
			c.send(publishPacket("b", "x", 1, 0x2345))
			if body := want("PUBACK", 0x40); body[0] != 0x23 || body[1] != 0x45 { // [MQTT-2.3.1-6] [MQTT-2.2.1-5]
				t.Errorf("PUBACK %x", body)
			}
			c.send(&pkt{FixedHeader: head(packets.Unsubscribe), PacketID: 0x3456, Filters: packets.Subscriptions{{Filter: "a"}}})
			if body := want("UNSUBACK", 0xB0); body[0] != 0x34 || body[1] != 0x56 { // [MQTT-3.10.4-4] [MQTT-3.10.4-5]
				t.Errorf("UNSUBACK %x", body)
			}
			c.send(&pkt{FixedHeader: head(packets.Pingreq)})
			if body := want("PINGRESP", 0xD0); len(body) != 0 {
				t.Errorf("PINGRESP %x", body)
			}
		}},
		{of(v, "MQTT-2.3.1-5", "MQTT-2.2.1-2"), "QoS 0 has no packet identifier, and DUP 0", func(t *testing.T, f *bench) { // [MQTT-3.3.1-2] [MQTT-4.3.1-1]
			c, _ := f.connect(t, "lamp1", v, nil)
			c.sub("a", 0)
			c.pub("a", "xyz", 0)
			want := []byte{0, 1, 'a', 'x', 'y', 'z'}
			if v == 5 {
				want = []byte{0, 1, 'a', 0, 'x', 'y', 'z'} // no properties are a length of 0 [MQTT-2.2.2-1]
			}
			if head, body := c.first(); head != 0x30 || !bytes.Equal(body, want) { // [MQTT-3.3.2-1]
				t.Errorf("0x%02X %x", head, body)
			}
		}},
		{of(v, "MQTT-2.3.1-4", "MQTT-2.2.1-4"), "the server's identifiers are not 0 and not in use", func(t *testing.T, f *bench) { // [MQTT-4.3.2-1] [MQTT-4.3.2-2] [MQTT-4.3.2-3]
			c, _ := f.connect(t, "lamp1", v, nil)
			c.sub("ids", 1)
			o, _ := f.connect(t, "lamp2", v, nil)
			used := map[uint16]bool{}
			for range 60 {
				o.pub("ids", "x", 1)
				p := c.recv(packets.Publish)
				if p.PacketID == 0 || used[p.PacketID] || p.FixedHeader.Dup {
					t.Fatalf("identifier %d, DUP %v", p.PacketID, p.FixedHeader.Dup)
				}
				used[p.PacketID] = true
			}
		}},
		{of(v, "MQTT-3.1.2-4", "MQTT-3.1.2-5"), "without a clean start the session goes on, or begins", func(t *testing.T, f *bench) { // [MQTT-3.1.2-6] [MQTT-3.1.2-5] [MQTT-3.2.2-3] [MQTT-3.1.4-3] [MQTT-3.1.4-4]
			c, ack := f.connect(t, "lamp1", v, persistent)
			if ack.SessionPresent {
				t.Error("a new session is present")
			}
			c.sub("kept", 1)
			c.bye()
			f.event("disconnected", "lamp1")
			o, _ := f.connect(t, "lamp2", v, nil)
			o.pub("kept", "1", 1) // stored while away [MQTT-3.1.2-5] [MQTT-3.1.2-23] [MQTT-4.5.0-1]
			c, ack = f.connect(t, "lamp1", v, persistent)
			if !ack.SessionPresent {
				t.Error("the session is gone")
			}
			c.message("kept", "1")
			c.quiet()
		}},
		{of(v, "MQTT-3.1.2-7", "MQTT-3.1.2-4"), "retained messages do not end with the publisher's session", func(t *testing.T, f *bench) {
			f.retain(t, v, "state", "on")
			w, _ := f.connect(t, "keeper", v, nil) // a clean session of the same client
			w.sub("state", 0)
			w.message("state", "on")
		}},
		{of(v, "MQTT-3.1.2-9", "MQTT-3.1.2-9"), "with the will flag, topic and message have to be there", func(t *testing.T, f *bench) {
			for _, rest := range [][]string{{"lamp1"}, {"lamp1", "w"}} {
				c := f.dial(t, "lamp1", v)
				if v == 4 {
					c.bytes(connectBytes(4, 2|4, rest...))
				} else {
					c.bytes(connect5(2|4, true, rest...))
				}
				if p, err := c.read(5 * time.Second); err == nil && (p.FixedHeader.Type != packets.Connack || p.ReasonCode == 0) {
					t.Errorf("%v: got %d 0x%02X", rest, p.FixedHeader.Type, p.ReasonCode)
				}
			}
		}},
		{of(v, "MQTT-3.1.2-12", "MQTT-3.1.2-7"), "without a will nothing is published, with one it is, not retained", func(t *testing.T, f *bench) { // [MQTT-3.1.2-16] [MQTT-3.1.2-14] [MQTT-3.1.2-8]
			w, _ := f.connect(t, "watch", v, nil)
			w.sub("w/#", 1)
			c, _ := f.connect(t, "lamp1", v, nil)
			c.nc.Close()
			f.event("disconnected", "lamp1")
			w.quiet()
			c, _ = f.connect(t, "lamp2", v, will(false))
			c.nc.Close()
			w.message("w/lamp1", "gone")
			x, _ := f.connect(t, "late", v, nil)
			x.sub("w/#", 1)
			x.quiet()
		}},
		{of(v, "MQTT-3.1.2-17", "MQTT-3.1.2-15"), "a retained will is retained", func(t *testing.T, f *bench) {
			c, _ := f.connect(t, "lamp1", v, will(true))
			c.nc.Close()
			f.event("disconnected", "lamp1")
			x, _ := f.connect(t, "late", v, nil)
			x.sub("w/lamp1", 1)
			x.message("w/lamp1", "gone")
		}},
		{of(v, "MQTT-3.14.4-3", "MQTT-3.14.4-3"), "DISCONNECT discards the will", func(t *testing.T, f *bench) {
			w, _ := f.connect(t, "watch", v, nil)
			w.sub("w/#", 1)
			c, _ := f.connect(t, "lamp1", v, will(false))
			c.bye()
			f.event("disconnected", "lamp1")
			w.quiet()
		}},
		{of(v, "MQTT-3.1.2-19", "MQTT-3.1.2-17"), "user name and password are there as the flags say", func(t *testing.T, f *bench) { // 3.1.1: [MQTT-3.1.2-18] [MQTT-3.1.2-20] [MQTT-3.1.2-21]; 5: [MQTT-3.1.2-16] [MQTT-3.1.2-18] [MQTT-3.1.2-19]
			make := func(flags byte, rest ...string) []byte {
				if v == 4 {
					return connectBytes(4, flags, rest...)
				}
				return connect5(flags, false, rest...)
			}
			for what, b := range map[string][]byte{"a flag without a name": make(2|0x80, "lamp1"), "a name without a flag": make(2, "lamp1", "name"), "flags without a password": make(2|0xC0, "lamp1", "name"), "a password without a flag": make(2|0x80, "lamp1", "name", "password")} {
				c := f.dial(t, "lamp1", v)
				c.bytes(b)
				if p, err := c.read(5 * time.Second); err == nil && (p.FixedHeader.Type != packets.Connack || p.ReasonCode == 0) {
					t.Errorf("%s: got %d 0x%02X", what, p.FixedHeader.Type, p.ReasonCode)
				}
			}
			c := f.dial(t, "lamp1", v)
			c.bytes(make(2|0xC0, "lamp1", "?SDK=x", "ignored"))
			if p := c.recv(packets.Connack); p.ReasonCode != 0 {
				t.Errorf("CONNACK 0x%02X", p.ReasonCode)
			}
		}},
		{of(v, "MQTT-3.1.3-1", "MQTT-3.1.3-1"), "the payload's fields in their order", func(t *testing.T, f *bench) { // [MQTT-3.1.3-3]
			w, _ := f.connect(t, "watch", v, nil)
			w.sub("w/#", 1)
			c := f.dial(t, "lamp1", v)
			if v == 4 {
				c.bytes(connectBytes(4, 2|4|0xC0, "lamp1", "w/order", "message", "name", "password"))
			} else {
				c.bytes(connect5(2|4|0xC0, true, "lamp1", "\x00", "w/order", "message", "name", "password"))
			}
			if p := c.recv(packets.Connack); p.ReasonCode != 0 {
				t.Fatalf("CONNACK 0x%02X", p.ReasonCode)
			}
			c.nc.Close()
			w.message("w/order", "message")
			if e := f.event("disconnected", "lamp1"); e.Client != "lamp1" { // [MQTT-3.1.3-2]
				t.Errorf("client %s", e.Client)
			}
		}},
		{of(v, "MQTT-3.1.3-4", "MQTT-3.1.3-4"), "strings of CONNECT that are not UTF-8", func(t *testing.T, f *bench) { // 3.1.1: [MQTT-3.1.3-10] [MQTT-3.1.3-11]; 5: [MQTT-3.1.3-11] [MQTT-3.1.3-12]
			for what, change := range map[string]func(*pkt){
				"client": func(p *pkt) { p.Connect.ClientIdentifier = "lamp\xff" }, "will topic": withWill("w\xff", "x"),
				"user name": func(p *pkt) { p.Connect.UsernameFlag, p.Connect.Username = true, []byte("u\xff") },
				"a NUL":     func(p *pkt) { p.Connect.ClientIdentifier = "lamp1\x00" }, // [MQTT-1.5.4-2]
			} {
				c := f.dial(t, "lamp1", v)
				p := connectPacket(v, "lamp1")
				change(p)
				c.send(p)
				if p, err := c.read(5 * time.Second); err == nil && (p.FixedHeader.Type != packets.Connack || p.ReasonCode == 0) {
					t.Errorf("%s: got %d 0x%02X", what, p.FixedHeader.Type, p.ReasonCode)
				}
			}
		}},
		{of(v, "MQTT-3.1.3-5", "MQTT-3.1.3-5"), "client identifiers of 1 to 23 letters and digits", func(t *testing.T, f *bench) {
			// Which ones is the certificate's word (S25); the form is not refused.
			for _, id := range []string{"a", "Z9", "abcdefghijklmnopqrstuvw", "0123456789ABCDEFGHIJKLM"} {
				c, _ := f.connect(t, id, v, nil)
				c.bye()
			}
		}},
		{of(v, "MQTT-3.1.4-4", "MQTT-3.1.4-5"), "CONNACK with 0, before anything else, once", func(t *testing.T, f *bench) { // [MQTT-3.2.0-1] [MQTT-3.2.0-2]
			c, _ := f.connect(t, "lamp1", v, persistent)
			c.sub("q", 1)
			c.bye()
			f.event("disconnected", "lamp1")
			o, _ := f.connect(t, "lamp2", v, nil)
			o.pub("q", "1", 1)
			c = f.dial(t, "lamp1", v)
			p := connectPacket(v, "lamp1")
			persistent(p)
			c.send(p)
			c.send(&pkt{FixedHeader: head(packets.Pingreq)}) // sent before the CONNACK came
			if ack := c.recv(packets.Connack); ack.ReasonCode != 0 {
				t.Errorf("CONNACK 0x%02X", ack.ReasonCode)
			}
			seen := map[byte]int{}
			for range 2 {
				p, err := c.read(5 * time.Second)
				if err != nil {
					t.Fatal(err)
				}
				seen[p.FixedHeader.Type]++
			}
			if seen[packets.Publish] != 1 || seen[packets.Pingresp] != 1 {
				t.Errorf("got %v", seen)
			}
		}},
		{of(v, "MQTT-3.1.4-5", "MQTT-3.1.4-6"), "what follows a refused CONNECT is not looked at", func(t *testing.T, f *bench) { // [MQTT-3.1.4-2] [MQTT-3.2.2-5] [MQTT-3.2.2-8] [MQTT-3.14.0-1]
			w, _ := f.connect(t, "watch", v, nil)
			w.sub("#", 1)
			f.rules.forbid(policy.Connect, "lamp1", true)
			c := f.dial(t, "lamp1", v)
			c.send(connectPacket(v, "lamp1"))
			c.send(publishPacket("a", "x", 1, 7))
			if ack := c.recv(packets.Connack); ack.ReasonCode == 0 || ack.SessionPresent { // [MQTT-3.2.2-4]
				t.Errorf("CONNACK 0x%02X", ack.ReasonCode)
			}
			c.closed()
			w.quiet()
		}},
		{of(v, "MQTT-3.2.2-1", "MQTT-3.2.2-2"), "a clean start has no session present", func(t *testing.T, f *bench) {
			c, _ := f.connect(t, "lamp1", v, persistent)
			c.bye()
			if _, ack := f.connect(t, "lamp1", v, nil); ack.SessionPresent {
				t.Error("present")
			}
		}},
		{of(v, "MQTT-3.3.1-5", "MQTT-3.3.1-5"), "the newest retained message is stored with its QoS", func(t *testing.T, f *bench) { // [MQTT-3.3.1-7]
			o, _ := f.connect(t, "keeper", v, nil)
			for i, qos := range []byte{1, 0, 1} {
				p := publishPacket("r", fmt.Sprint(i), qos, uint16(qos)*5)
				p.FixedHeader.Retain = true
				o.publish(p)
				o.quiet()
				c, _ := f.connect(t, "late", v, nil)
				c.sub("r", 1)
				if m := c.message("r", fmt.Sprint(i)); m.FixedHeader.Qos != qos {
					t.Errorf("QoS %d, want %d", m.FixedHeader.Qos, qos)
				}
				c.quiet()
			}
		}},
		{of(v, "MQTT-3.3.1-11", "MQTT-3.3.1-6"), "an empty retained message is delivered, and not stored", func(t *testing.T, f *bench) { // [MQTT-3.3.1-7] [MQTT-3.3.1-10]
			f.retain(t, v, "r", "x")
			c, _ := f.connect(t, "lamp1", v, nil)
			c.sub("r", 1)
			c.message("r", "x")
			f.retain(t, v, "r", "")
			c.message("r", "")
			w, _ := f.connect(t, "late", v, nil)
			w.sub("r", 1)
			w.quiet()
		}},
		{of(v, "MQTT-3.3.1-12", "MQTT-3.3.1-8"), "RETAIN 0 leaves what is retained", func(t *testing.T, f *bench) {
			f.retain(t, v, "r", "old")
			o, _ := f.connect(t, "lamp2", v, nil)
			o.pub("r", "new", 1)
			c, _ := f.connect(t, "lamp1", v, nil)
			c.sub("r", 0)
			c.message("r", "old")
			c.quiet()
		}},
		{of(v, "MQTT-3.3.2-3", "MQTT-3.3.2-3"), "a delivered topic fits the filter", func(t *testing.T, f *bench) {
			c, _ := f.connect(t, "lamp1", v, nil)
			c.sub("a/+/c", 0)
			o, _ := f.connect(t, "lamp2", v, nil)
			for _, topic := range []string{"a/c", "a/b/c/d", "b/b/c", "a/b/c", "a//c", "A/b/c"} {
				o.pub(topic, topic, 0)
			}
			c.message("a/b/c", "a/b/c")
			c.message("a//c", "a//c")
			c.quiet()
		}},
		{of(v, "MQTT-3.3.4-1", "MQTT-3.3.4-1"), "QoS 0 has no answer, QoS 1 a PUBACK", func(t *testing.T, f *bench) { // [MQTT-4.3.2-2] [MQTT-4.3.2-4]
			c, _ := f.connect(t, "lamp1", v, nil)
			c.pub("a", "x", 0)
			c.quiet()
			c.pub("a", "x", 1)
			c.quiet()
		}},
		{of(v, "MQTT-4.3.2-2", "MQTT-4.3.2-5"), "after its PUBACK an identifier is a new message's, whatever DUP says", func(t *testing.T, f *bench) {
			c, _ := f.connect(t, "lamp1", v, nil)
			o, _ := f.connect(t, "lamp2", v, nil)
			c.sub("n", 0)
			for range 2 {
				p := publishPacket("n", "x", 1, 21)
				p.FixedHeader.Dup = true
				o.publish(p)
				c.message("n", "x")
			}
		}},
		{of(v, "MQTT-3.8.3-2", "MQTT-3.8.3-1"), "filters: wildcards are taken, ill-formed UTF-8 ends the connection", func(t *testing.T, f *bench) { // [MQTT-3.8.3-1]
			c, _ := f.connect(t, "lamp1", v, nil)
			c.sub("+/#", 0)
			b := []byte{0x82, 6, 0, 9, 0, 1, 0xFF, 0}
			if v == 5 {
				b = []byte{0x82, 7, 0, 9, 0, 0, 1, 0xFF, 0}
			}
			c.bytes(b)
			c.ended(0x81)
		}},
		{of(v, "MQTT-3.8.4-4", "MQTT-3.8.4-5"), "several filters are as several packets, with one answer", func(t *testing.T, f *bench) { // [MQTT-3.8.4-6] [MQTT-3.8.4-7] [MQTT-3.9.3-1] [MQTT-3.9.3-2]
			f.rules.forbid(policy.Subscribe, "no", true)
			c, _ := f.connect(t, "lamp1", v, nil)
			codes := c.subscribe(packets.Subscription{Filter: "a", Qos: 0}, packets.Subscription{Filter: "no", Qos: 1}, packets.Subscription{Filter: "b", Qos: 1})
			if len(codes) != 3 || codes[0] != 0 || codes[1] < 0x80 || codes[2] != 1 {
				t.Errorf("codes %x", codes)
			}
			for _, topic := range []string{"a", "no", "b"} {
				c.pub(topic, topic, 0)
			}
			c.message("a", "a")
			c.message("b", "b")
			c.quiet()
		}},
		{of(v, "MQTT-3.8.4-3", "MQTT-3.8.4-4"), "replacing a subscription loses no message", func(t *testing.T, f *bench) {
			c, _ := f.connect(t, "lamp1", v, nil)
			c.sub("flow", 1)
			o, _ := f.connect(t, "lamp2", v, nil)
			const n = 200
			done := make(chan bool)
			go func() {
				defer close(done)
				for i := range n {
					o.pub("flow", fmt.Sprint(i), 1)
				}
			}()
			got := 0
			for i := 0; got < n; i++ {
				if i%10 == 0 {
					c.send(&pkt{FixedHeader: head(packets.Subscribe), PacketID: uint16(100 + i), Filters: packets.Subscriptions{{Filter: "flow", Qos: 1}}})
				}
				p, err := c.read(10 * time.Second)
				if err != nil {
					t.Fatalf("after %d: %v", got, err)
				}
				if p.FixedHeader.Type == packets.Publish {
					if string(p.Payload) != fmt.Sprint(got) { // [MQTT-4.6.0-5] [MQTT-4.6.0-6]
						t.Fatalf("message %s, want %d", p.Payload, got)
					}
					got++
					c.send(&pkt{FixedHeader: head(packets.Puback), PacketID: p.PacketID})
				}
			}
			<-done
		}},
		{of(v, "MQTT-3.10.1-1", "MQTT-3.10.1-1"), "UNSUBSCRIBE with other flags ends the connection", func(t *testing.T, f *bench) {
			c, _ := f.connect(t, "lamp1", v, nil)
			b := []byte{0xA0, 5, 0, 1, 0, 1, 'a'}
			if v == 5 {
				b = []byte{0xA0, 6, 0, 1, 0, 0, 1, 'a'}
			}
			c.bytes(b)
			c.ended(0x81)
		}},
		{of(v, "MQTT-3.10.3-1", "MQTT-3.10.3-1"), "UNSUBSCRIBE with ill-formed UTF-8 ends the connection", func(t *testing.T, f *bench) {
			c, _ := f.connect(t, "lamp1", v, nil)
			b := []byte{0xA2, 5, 0, 1, 0, 1, 0xFF}
			if v == 5 {
				b = []byte{0xA2, 6, 0, 1, 0, 0, 1, 0xFF}
			}
			c.bytes(b)
			c.ended(0x81)
		}},
		{of(v, "MQTT-3.10.4-3", "MQTT-3.10.4-3"), "what was begun is completed after UNSUBSCRIBE, and nothing new comes", func(t *testing.T, f *bench) { // [MQTT-3.10.4-1] [MQTT-3.10.4-2] [MQTT-3.10.4-6]
			c, _ := f.connect(t, "lamp8", v, persistent)
			c.sub("u/a", 1)
			c.sub("u/b", 1)
			o, _ := f.connect(t, "lamp2", v, nil)
			o.pub("u/a", "1", 1)
			first := c.recv(packets.Publish)
			c.send(&pkt{FixedHeader: head(packets.Unsubscribe), PacketID: 9, Filters: packets.Subscriptions{{Filter: "u/a"}, {Filter: "u/b"}, {Filter: "u/none"}}})
			if a := c.recv(packets.Unsuback); v == 5 && !bytes.Equal(a.ReasonCodes, []byte{0, 0, 0x11}) { // [MQTT-3.11.3-1] [MQTT-3.11.3-2]
				t.Errorf("codes %x", a.ReasonCodes)
			}
			o.pub("u/a", "2", 1)
			o.pub("u/b", "2", 1)
			c.quiet()
			c.nc.Close()
			f.event("disconnected", "lamp8")
			c, _ = f.connect(t, "lamp8", v, persistent)
			if p := c.message("u/a", "1"); p.PacketID != first.PacketID || !p.FixedHeader.Dup { // [MQTT-3.3.1-1] [MQTT-4.4.0-1]
				t.Errorf("identifier %d, DUP %v", p.PacketID, p.FixedHeader.Dup)
			}
			c.quiet()
		}},
		{of(v, "MQTT-3.12.4-1", "MQTT-3.12.4-1"), "PINGREQ gets PINGRESP", func(t *testing.T, f *bench) { c, _ := f.connect(t, "lamp1", v, nil); c.quiet() }},
		{of(v, "MQTT-4.1.0-1", "MQTT-4.1.0-1"), "no session state goes while the connection is open", func(t *testing.T, f *bench) {
			c, _ := f.connect(t, "lamp1", v, nil) // nothing of it outlives the connection
			c.sub("s", 1)
			time.Sleep(1200 * time.Millisecond) // longer than the tick that ends sessions
			o, _ := f.connect(t, "lamp2", v, nil)
			o.pub("s", "1", 1)
			c.message("s", "1")
		}},
		{of(v, "MQTT-4.1.0-2", "MQTT-4.1.0-2"), "and it goes with the connection where it has to", func(t *testing.T, f *bench) {
			c, _ := f.connect(t, "lamp1", v, nil)
			c.sub("s", 1)
			c.nc.Close()
			f.event("disconnected", "lamp1")
			eventually(t, "no session", func() bool { return f.Stats().Sessions == 0 })
		}},
		{of(v, "MQTT-4.6.0-6", "MQTT-4.6.0-5"), "messages of one publisher keep their order", func(t *testing.T, f *bench) {
			c, _ := f.connect(t, "lamp1", v, nil)
			c.sub("order", 1)
			o, _ := f.connect(t, "lamp2", v, nil)
			for i := range 80 {
				o.send(publishPacket("order", fmt.Sprint(i), 1, uint16(i+1)))
			}
			for i := range 80 {
				c.message("order", fmt.Sprint(i))
			}
		}},
		{of(v, "MQTT-4.7.1-1", "MQTT-4.7.0-1"), "no wildcard in a topic name", func(t *testing.T, f *bench) {
			for _, topic := range []string{"a/#", "+/a", "#"} {
				c, _ := f.connect(t, "lamp1", v, nil)
				c.send(publishPacket(topic, "x", 0, 0))
				c.ended(0x90)
			}
		}},
		{of(v, "MQTT-4.7.1-3", "MQTT-4.7.1-2"), "# and + stand alone in their level, # last", func(t *testing.T, f *bench) { // [MQTT-4.7.1-1] [MQTT-4.7.3-1] [MQTT-4.8.2-1] [MQTT-4.8.2-2]
			c, _ := f.connect(t, "lamp1", v, nil)
			for filter, ok := range map[string]bool{"+": true, "+/a/+": true, "/+": true, "a+": false, "a/+b/c": false, "+a": false, "#": true, "a/#": true, "a/#/b": false, "a#": false, "": false, "$share/g/a": true, "$share//a": false, "$share/g": false, "$share/g+/a": false, "$share/#/a": false} {
				if codes := c.subscribe(packets.Subscription{Filter: filter}); codes[0] < 0x80 != ok {
					t.Errorf("%q: %x", filter, codes)
				}
			}
		}},
		{of(v, "MQTT-4.7.2-1", "MQTT-4.7.2-1"), "wildcards do not match topics with $", func(t *testing.T, f *bench) {
			c, _ := f.connect(t, "lamp1", v, nil)
			c.sub("#", 0)
			c.sub("+/x", 0)
			f.say(t, "acme", "$aws/x", "hidden", 0)
			c.quiet()
		}},
		{of(v, "MQTT-4.7.3-2", "MQTT-4.7.3-2"), "no U+0000 in topics and filters", func(t *testing.T, f *bench) {
			c, _ := f.connect(t, "lamp1", v, nil)
			b := []byte{0x82, 7, 0, 9, 0, 2, 'a', 0, 0}
			if v == 5 {
				b = []byte{0x82, 8, 0, 9, 0, 0, 2, 'a', 0, 0}
			}
			c.bytes(b)
			c.ended(0x81)
		}},
		{of(v, "MQTT-4.7.3-4", "MQTT-4.7.3-4"), "topics are compared octet by octet", func(t *testing.T, f *bench) { // [MQTT-4.7.3-3]: 65,535 octets are all that a length can say
			c, _ := f.connect(t, "lamp1", v, nil)
			for _, filter := range []string{"A", "é", "é", "a\ufeff"} { // [MQTT-1.5.4-3] [MQTT-1.5.3-3]
				c.sub(filter, 0)
			}
			for _, topic := range []string{"a", "é", "A", "é", "a\ufeff"} {
				c.pub(topic, topic, 0)
			}
			for _, topic := range []string{"é", "A", "é", "a\ufeff"} {
				c.message(topic, topic)
			}
			c.quiet()
		}},
	}
}

// connect5 is a CONNECT of MQTT 5 with flags and payload as given; of a will's
// payload the second field is its properties, written as they are.
func connect5(flags byte, will bool, payload ...string) []byte {
	body := []byte{0, 4, 'M', 'Q', 'T', 'T', 5, flags, 0, 60, 0}
	for i, p := range payload {
		if will && i == 1 && p == "\x00" {
			body = append(body, 0)
			continue
		}
		body = append(body, byte(len(p)>>8), byte(len(p)))
		body = append(body, p...)
	}
	return append(appendVar([]byte{0x10}, len(body)), body...)
}

// TestConformance_5More are statements of MQTT 5 alone.
func TestConformance_5More(t *testing.T) {
	tiny := func(p *pkt) { p.Properties.MaximumPacketSize = 40 }
	conformance(t, nil, []statement{
		{"MQTT-1.5.7-1", "both strings of a user property are UTF-8", func(t *testing.T, f *bench) {
			for _, pair := range [][2]string{{"k\xff", "v"}, {"k", "v\xff"}} {
				c, _ := f.connect(t, "lamp1", 5, nil)
				p := publishPacket("a", "x", 0, 0)
				p.Properties.User = []packets.UserProperty{{Key: pair[0], Val: pair[1]}}
				c.send(p)
				c.ended(0x81)
			}
		}},
		{"MQTT-3.1.0-1", "another first packet ends the connection, without DISCONNECT", func(t *testing.T, f *bench) { // [MQTT-3.14.0-1]
			c := f.dial(t, "lamp1", 5)
			c.bytes([]byte{0xC0, 0})
			c.closed()
		}},
		{"MQTT-3.1.2-1", "another protocol name ends the connection", func(t *testing.T, f *bench) {
			c := f.dial(t, "lamp1", 5)
			c.bytes([]byte{0x10, 18, 0, 4, 'M', 'Q', 'X', 'X', 5, 2, 0, 60, 0, 0, 5, 'l', 'a', 'm', 'p', '1'})
			c.closed()
		}},
		{"MQTT-3.1.2-3", "the reserved flag, and flags of a will that is not there", func(t *testing.T, f *bench) { // [MQTT-3.1.2-11] [MQTT-3.1.2-12] [MQTT-3.1.2-13] [MQTT-3.1.4-1]
			for _, flags := range []byte{3, 2 | 8, 2 | 0x20, 2 | 4 | 0x18} {
				c := f.dial(t, "lamp1", 5)
				c.bytes(connect5(flags, true, "lamp1", "\x00", "w", "x"))
				if p, err := c.read(5 * time.Second); err == nil && (p.FixedHeader.Type != packets.Connack || p.ReasonCode < 0x80) {
					t.Errorf("0x%02X: got %d 0x%02X", flags, p.FixedHeader.Type, p.ReasonCode)
				}
			}
		}},
		{"MQTT-3.1.2-22", "silence ends the connection after 1.5 keep alives", func(t *testing.T, f *bench) { // [MQTT-3.2.2-22]
			c, ack := f.connect(t, "lamp1", 5, func(p *pkt) { p.Connect.Keepalive = 1 })
			if ack.Properties.ServerKeepAliveFlag {
				t.Errorf("server keep alive %d", ack.Properties.ServerKeepAlive)
			}
			began := time.Now()
			c.ended(0x8D)
			if d := time.Since(began); d < 1400*time.Millisecond || d > 15*time.Second {
				t.Errorf("after %v", d)
			}
		}},
		{"MQTT-3.1.2-28", "no response information unless it was asked for", func(t *testing.T, f *bench) {
			if _, ack := f.connect(t, "lamp1", 5, nil); ack.Properties.ResponseInfo != "" {
				t.Errorf("%q", ack.Properties.ResponseInfo)
			}
		}},
		{"MQTT-3.1.2-29", "without problem information no reasons in answers", func(t *testing.T, f *bench) {
			f.rules.forbid(policy.Publish, "no", true)
			f.rules.forbid(policy.Subscribe, "no", true)
			c, _ := f.connect(t, "lamp1", 5, func(p *pkt) { p.Properties.RequestProblemInfo, p.Properties.RequestProblemInfoFlag = 0, true })
			c.send(publishPacket("no", "x", 1, 3))
			if a := c.recv(packets.Puback); a.Properties.ReasonString != "" || len(a.Properties.User) != 0 {
				t.Errorf("PUBACK %+v", a.Properties)
			}
			c.send(&pkt{FixedHeader: head(packets.Subscribe), PacketID: 4, Filters: packets.Subscriptions{{Filter: "no"}}})
			if a := c.recv(packets.Suback); a.Properties.ReasonString != "" || len(a.Properties.User) != 0 {
				t.Errorf("SUBACK %+v", a.Properties)
			}
			c.send(&pkt{FixedHeader: head(packets.Unsubscribe), PacketID: 5, Filters: packets.Subscriptions{{Filter: "no"}}})
			if a := c.recv(packets.Unsuback); a.Properties.ReasonString != "" || len(a.Properties.User) != 0 {
				t.Errorf("UNSUBACK %+v", a.Properties)
			}
		}},
		{"MQTT-3.1.3-7", "an assigned identifier is unique and is the session's", func(t *testing.T, f *bench) { // [MQTT-3.2.2-16]
			seen := map[string]bool{}
			for range 5 {
				c := f.dial(t, "lamp1", 5)
				c.send(connectPacket(5, ""))
				id := c.recv(packets.Connack).Properties.AssignedClientID
				if id == "" || seen[id] {
					t.Errorf("assigned %q", id)
				}
				seen[id] = true
				f.event("connected", id)
			}
		}},
		{"MQTT-3.1.3-8", "a refused identifier is 0x85 and the end", func(t *testing.T, f *bench) {
			c := f.dial(t, "lamp1", 5)
			c.send(connectPacket(5, strings.Repeat("x", f.lim.ClientBytes+1)))
			if a := c.recv(packets.Connack); a.ReasonCode != 0x85 {
				t.Errorf("CONNACK 0x%02X", a.ReasonCode)
			}
			c.closed()
		}},
		{"MQTT-3.1.3-10", "user properties of a will keep their order", func(t *testing.T, f *bench) {
			w, _ := f.connect(t, "watch", 5, nil)
			w.sub("w", 1)
			c, _ := f.connect(t, "lamp1", 5, func(p *pkt) {
				withWill("w", "x")(p)
				p.Connect.WillProperties.User = []packets.UserProperty{{Key: "b", Val: "1"}, {Key: "a", Val: "2"}, {Key: "b", Val: "3"}}
			})
			c.nc.Close()
			if u := w.message("w", "x").Properties.User; len(u) != 3 || u[0].Key != "b" || u[1].Key != "a" || u[2].Val != "3" {
				t.Errorf("%+v", u)
			}
		}},
		{"MQTT-3.2.2-19", "no answer is larger than the client takes", func(t *testing.T, f *bench) { // [MQTT-3.2.2-20] [MQTT-3.4.2-2] [MQTT-3.4.2-3] [MQTT-3.9.2-1] [MQTT-3.9.2-2] [MQTT-3.11.2-1] [MQTT-3.11.2-2] [MQTT-3.14.2-3] [MQTT-3.14.2-4]
			f.rules.forbid(policy.Publish, "no", true)
			c := f.dial(t, "lamp1", 5)
			p := connectPacket(5, "lamp1")
			tiny(p)
			c.send(p)
			check := func(kind byte) {
				t.Helper()
				head, body := c.first()
				if head>>4 != kind || len(body)+2 > 40 {
					t.Errorf("0x%02X with %d octets", head, len(body)+2)
				}
			}
			check(packets.Connack)
			c.send(publishPacket("no", "x", 1, 3))
			check(packets.Puback)
			c.send(&pkt{FixedHeader: head(packets.Subscribe), PacketID: 4, Filters: packets.Subscriptions{{Filter: "a/#/b"}}})
			check(packets.Suback)
			c.send(&pkt{FixedHeader: head(packets.Unsubscribe), PacketID: 5, Filters: packets.Subscriptions{{Filter: "x"}}})
			check(packets.Unsuback)
			c.send(publishPacket("no", "x", 0, 0))
			check(packets.Disconnect)
			c.closed() // [MQTT-3.14.4-1] [MQTT-3.14.4-2] [MQTT-4.13.2-1]
		}},
		{"MQTT-3.3.1-3", "DUP is not passed on, and QoS 3 and DUP with QoS 0 end the connection", func(t *testing.T, f *bench) { // [MQTT-3.3.1-4] [MQTT-4.13.1-1]
			c, _ := f.connect(t, "lamp1", 5, nil)
			c.sub("dup", 0)
			o, _ := f.connect(t, "lamp2", 5, nil)
			p := publishPacket("dup", "x", 1, 5)
			p.FixedHeader.Dup = true
			o.publish(p)
			if c.message("dup", "x").FixedHeader.Dup {
				t.Error("DUP is set")
			}
			for _, b := range [][]byte{{0x36, 6, 0, 1, 'a', 0, 1, 0}, {0x38, 4, 0, 1, 'a', 0}} {
				o, _ := f.connect(t, "lamp3", 5, nil)
				o.bytes(b)
				if p := o.recv(packets.Disconnect); p.ReasonCode != 0x81 && p.ReasonCode != 0x82 { // [MQTT-3.14.2-1]
					t.Errorf("DISCONNECT 0x%02X", p.ReasonCode)
				}
			}
		}},
		{"MQTT-3.3.2-7", "an alias ends with its connection", func(t *testing.T, f *bench) { // [MQTT-3.3.2-12]
			for alias := uint16(1); alias <= 8; alias++ {
				c, _ := f.connect(t, "lamp1", 5, persistent)
				p := publishPacket("a", "x", 1, 1)
				p.Properties.TopicAlias, p.Properties.TopicAliasFlag = alias, true
				c.publish(p)
				p = publishPacket("", "x", 1, 2)
				p.Properties.TopicAlias, p.Properties.TopicAliasFlag = alias, true
				c.publish(p)
				c.bye()
				c, _ = f.connect(t, "lamp1", 5, persistent)
				p = publishPacket("", "x", 1, 2)
				p.Properties.TopicAlias, p.Properties.TopicAliasFlag = alias, true
				c.send(p)
				c.ended(0x82)
			}
		}},
		{"MQTT-3.3.2-13", "response topic and content type are UTF-8", func(t *testing.T, f *bench) { // [MQTT-3.3.2-19]
			for _, change := range []func(*packets.Properties){func(p *packets.Properties) { p.ResponseTopic = "r\xff" }, func(p *packets.Properties) { p.ContentType = "c\xff" }} {
				c, _ := f.connect(t, "lamp1", 5, nil)
				p := publishPacket("a", "x", 0, 0)
				change(&p.Properties)
				c.send(p)
				c.ended(0x81)
			}
		}},
		{"MQTT-3.3.4-2", "overlapping subscriptions deliver with the highest QoS", func(t *testing.T, f *bench) { // [MQTT-3.8.4-8]
			c, _ := f.connect(t, "lamp1", 5, nil)
			c.sub("o/#", 0)
			c.sub("o/+", 1)
			o, _ := f.connect(t, "lamp2", 5, nil)
			o.pub("o/x", "1", 1)
			if p := c.message("o/x", "1"); p.FixedHeader.Qos != 1 { // one copy; [MQTT-3.3.4-5] is about several
				t.Errorf("QoS %d", p.FixedHeader.Qos)
			}
			o.pub("o/x", "2", 0)
			if p := c.message("o/x", "2"); p.FixedHeader.Qos != 0 {
				t.Errorf("QoS %d", p.FixedHeader.Qos)
			}
			c.quiet()
		}},
		{"MQTT-3.3.4-10", "a full window holds messages only", func(t *testing.T, f *bench) { // [MQTT-4.9.0-1] [MQTT-4.9.0-2] [MQTT-4.9.0-3]
			c, _ := f.connect(t, "lamp1", 5, func(p *pkt) { p.Properties.ReceiveMaximum = 1 })
			c.sub("m", 1)
			o, _ := f.connect(t, "lamp2", 5, nil)
			o.pub("m", "1", 1)
			o.pub("m", "2", 1)
			p := c.recv(packets.Publish)
			c.quiet()
			c.sub("other", 1)
			c.pub("x", "y", 1)
			c.send(&pkt{FixedHeader: head(packets.Puback), PacketID: p.PacketID})
			c.message("m", "2")
		}},
		{"MQTT-3.8.1-1", "SUBSCRIBE with other flags, and without a filter", func(t *testing.T, f *bench) { // [MQTT-3.8.3-2] [MQTT-3.10.3-2]
			for code, b := range map[byte][]byte{0x81: {0x80, 7, 0, 1, 0, 0, 1, 'a', 0}, 0x82: {0x82, 3, 0, 1, 0}} {
				c, _ := f.connect(t, "lamp1", 5, nil)
				c.bytes(b)
				c.ended(code)
			}
			c, _ := f.connect(t, "lamp1", 5, nil)
			c.bytes([]byte{0xA2, 3, 0, 1, 0})
			c.ended(0x82)
		}},
		{"MQTT-3.8.4-3", "a filter that is subscribed again is replaced", func(t *testing.T, f *bench) {
			c, _ := f.connect(t, "lamp1", 5, nil)
			o, _ := f.connect(t, "lamp2", 5, nil)
			c.sub("s", 1)
			c.sub("s", 0)
			o.pub("s", "x", 1)
			if p := c.message("s", "x"); p.FixedHeader.Qos != 0 {
				t.Errorf("QoS %d", p.FixedHeader.Qos)
			}
			c.quiet()
			if f.Stats().Subscriptions != 1 {
				t.Errorf("%d subscriptions", f.Stats().Subscriptions)
			}
		}},
		{"MQTT-3.14.1-1", "DISCONNECT with reserved bits is malformed, with the will", func(t *testing.T, f *bench) {
			w, _ := f.connect(t, "watch", 5, nil)
			w.sub("w", 1)
			c, _ := f.connect(t, "lamp1", 5, withWill("w", "gone"))
			c.bytes([]byte{0xE1, 0})
			c.ended(0x81)
			w.message("w", "gone")
		}},
		{"MQTT-3.15.1-1", "AUTH with reserved bits is malformed", func(t *testing.T, f *bench) { // [MQTT-4.12.0-6]: no AUTH and no method is ever sent
			c, ack := f.connect(t, "lamp1", 5, nil)
			if ack.Properties.AuthenticationMethod != "" {
				t.Errorf("%q", ack.Properties.AuthenticationMethod)
			}
			c.bytes([]byte{0xF1, 0})
			c.ended(0x81)
		}},
		{"MQTT-4.4.0-2", "a message that was refused is not sent again", func(t *testing.T, f *bench) { // [MQTT-4.8.2-6]
			c, _ := f.connect(t, "lamp1", 5, persistent)
			c.sub("s", 1)
			c.sub("$share/g/t", 1)
			o, _ := f.connect(t, "lamp2", 5, nil)
			o.sub("$share/g/t", 1)
			o.pub("s", "1", 1)
			p := c.recv(packets.Publish)
			c.send(&pkt{FixedHeader: head(packets.Puback), PacketID: p.PacketID, ReasonCode: 0x80})
			c.quiet()
			c.bye()
			f.event("disconnected", "lamp1")
			c, _ = f.connect(t, "lamp1", 5, persistent)
			c.quiet()
			// Of a group's members, whoever gets it refuses it; nobody else does.
			p = publishPacket("t", "x", 1, 9)
			third, _ := f.connect(t, "lamp3", 5, nil)
			third.publish(p)
			var got *raw
			for _, m := range []*raw{c, o} {
				if p, err := m.read(300 * time.Millisecond); err == nil {
					m.send(&pkt{FixedHeader: head(packets.Puback), PacketID: p.PacketID, ReasonCode: 0x83})
					got = m
					break
				}
			}
			if got == nil {
				t.Fatal("nobody got it")
			}
			c.quiet()
			o.quiet()
		}},
		{"MQTT-4.8.2-3", "a member of a group gets its granted QoS", func(t *testing.T, f *bench) {
			c, _ := f.connect(t, "lamp1", 5, nil)
			c.sub("$share/g/s", 0)
			o, _ := f.connect(t, "lamp2", 5, nil)
			o.pub("s", "x", 1)
			if p := c.message("s", "x"); p.FixedHeader.Qos != 0 {
				t.Errorf("QoS %d", p.FixedHeader.Qos)
			}
		}},
	})
}

// TestConformance_QoS2More holds QoS 2 to its order and its codes, where it is
// switched on.
func TestConformance_QoS2More(t *testing.T) {
	for _, v := range []byte{4, 5} {
		t.Run(fmt.Sprintf("v%d", v), func(t *testing.T) {
			conformance(t, func(c *Config) { c.Limits.QoS2 = true }, []statement{
				{of(v, "MQTT-4.6.0-3", "MQTT-4.3.3-8"), "PUBRECs and PUBCOMPs come in order, with their identifiers", func(t *testing.T, f *bench) { // 5: [MQTT-4.3.3-11] [MQTT-4.3.3-12] [MQTT-3.5.2-1] [MQTT-3.7.2-1]
					c, _ := f.connect(t, "lamp1", v, nil)
					for round := range 2 { // after PUBCOMP an identifier is a new message's
						for id := uint16(1); id <= 20; id++ {
							c.send(publishPacket("q", fmt.Sprint(round), 2, id))
						}
						for id := uint16(1); id <= 20; id++ {
							if p := c.recv(packets.Pubrec); p.PacketID != id || p.ReasonCode >= 0x80 {
								t.Fatalf("PUBREC %d 0x%02X", p.PacketID, p.ReasonCode)
							}
						}
						for id := uint16(1); id <= 20; id++ {
							c.send(&pkt{FixedHeader: head(packets.Pubrel), PacketID: id})
						}
						for id := uint16(1); id <= 20; id++ {
							if p := c.recv(packets.Pubcomp); p.PacketID != id || p.ReasonCode >= 0x80 {
								t.Fatalf("PUBCOMP %d 0x%02X", p.PacketID, p.ReasonCode)
							}
						}
					}
				}},
				{of(v, "MQTT-4.6.0-4", "MQTT-4.3.3-4"), "PUBRELs come in the order of the PUBRECs, and the message not again", func(t *testing.T, f *bench) { // 5: [MQTT-4.3.3-1] [MQTT-4.3.3-2] [MQTT-4.3.3-3] [MQTT-4.3.3-5] [MQTT-4.3.3-6] [MQTT-3.6.2-1]
					c, _ := f.connect(t, "lamp1", v, nil)
					c.sub("q", 2)
					o, _ := f.connect(t, "lamp2", v, nil)
					var ids []uint16
					for range 5 {
						o.pub("q", "x", 1)
						o.send(publishPacket("q", "x", 2, 9))
						o.recv(packets.Pubrec)
						o.send(&pkt{FixedHeader: head(packets.Pubrel), PacketID: 9})
						o.recv(packets.Pubcomp)
					}
					for range 10 {
						p := c.recv(packets.Publish)
						if p.FixedHeader.Dup || p.PacketID == 0 {
							t.Fatalf("DUP %v, identifier %d", p.FixedHeader.Dup, p.PacketID)
						}
						if p.FixedHeader.Qos == 1 {
							c.send(&pkt{FixedHeader: head(packets.Puback), PacketID: p.PacketID})
							continue
						}
						ids = append(ids, p.PacketID)
					}
					for _, id := range ids {
						c.send(&pkt{FixedHeader: head(packets.Pubrec), PacketID: id})
					}
					for _, id := range ids {
						if p := c.recv(packets.Pubrel); p.PacketID != id {
							t.Fatalf("PUBREL %d, want %d", p.PacketID, id)
						}
					}
					c.quiet()
				}},
				{of(v, "MQTT-3.6.1-1", "MQTT-3.6.1-1"), "PUBREL with other flags ends the connection", func(t *testing.T, f *bench) {
					c, _ := f.connect(t, "lamp1", v, nil)
					c.bytes([]byte{0x60, 2, 0, 1})
					c.ended(0x81)
				}},
			})
		})
	}
}

// TestConformance_NamesEveryStatement holds the tests to the numbers: each
// normative statement about a server is named by a conformance test, or is here with
// the reason why none can. Statements about clients are the clients' to keep.
func TestConformance_NamesEveryStatement(t *testing.T) {
	var text strings.Builder
	for _, file := range []string{"conformance_v3_test.go", "conformance_v5_test.go", "conformance_more_test.go", "clients_test.go", "restart_test.go", "websocket_more_test.go"} {
		b, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		source := string(b)
		if i := strings.Index(source, "// TestConformance_NamesEveryStatement"); i >= 0 {
			source = source[:i]
		}
		text.WriteString(source)
	}
	named := map[string]bool{}
	for _, id := range regexp.MustCompile(`MQTT-(\d+\.\d+\.\d+-\d+)`).FindAllStringSubmatch(text.String(), -1) {
		named[id[1]] = true
	}
	for version, list := range map[string]string{
		"3.1.1": `1.5.3:1-3 2.2.2:1-2 2.3.1:1,4-7 3.1.0:1-2 3.1.2:1-14,16-22,24 3.1.3:1-6,8-11 3.1.4:1-5 3.2.0:1 3.2.2:1-6 3.3.1:1-12 3.3.2:1-3 3.3.4:1 3.3.5:1-2 3.6.1:1
			3.8.1:1 3.8.3:1-4 3.8.4:1-6 3.9.3:1-2 3.10.1:1 3.10.3:1-2 3.10.4:1-6 3.12.4:1 3.14.1:1 3.14.4:3 4.1.0:1-2 4.3.1:1 4.3.2:1-2 4.3.3:1-2 4.4.0:1 4.5.0:1 4.6.0:2-6 4.7.1:1-3 4.7.2:1 4.7.3:1-4 4.8.0:1 6.0.0:1-2,4`,
		"5": `1.5.4:1-3 1.5.5:1 1.5.7:1 2.1.3:1 2.2.1:2-6 2.2.2:1 3.1.0:1-2 3.1.2:1-19,22-29 3.1.3:1-12 3.1.4:1-6 3.2.0:1-2 3.2.2:1-3,6-12,16,19-22 3.3.1:1-13 3.3.2:1-9,12-20 3.3.4:1-10
			3.4.2:2-3 3.5.2:1 3.6.1:1 3.6.2:1 3.7.2:1 3.8.1:1 3.8.3:1-5 3.8.4:1-8 3.9.2:1-2 3.9.3:1-2 3.10.1:1 3.10.3:1-2 3.10.4:1-6 3.11.2:1-2 3.11.3:1-2 3.12.4:1 3.14.0:1 3.14.1:1 3.14.2:1-4 3.14.4:1-3 3.15.1:1
			4.1.0:1-2 4.3.1:1 4.3.2:1-5 4.3.3:1-6,8,11-12 4.4.0:1-2 4.5.0:1 4.6.0:5-6 4.7.0:1 4.7.1:1-2 4.7.2:1 4.7.3:1-4 4.8.2:1-3,6 4.9.0:1-3 4.12.0:1,6 4.13.1:1 4.13.2:1 6.0.0:1-2,4`,
	} {
		for _, part := range strings.Fields(list) {
			section, numbers, _ := strings.Cut(part, ":")
			for _, span := range strings.Split(numbers, ",") {
				var from, to int
				if n, _ := fmt.Sscanf(span, "%d-%d", &from, &to); n == 1 {
					to = from
				}
				for i := from; i <= to; i++ {
					if id := fmt.Sprintf("%s-%d", section, i); !named[id] && unheld[version+" "+id] == "" {
						t.Errorf("[MQTT-%s] of version %s is in no test", id, version)
					}
				}
			}
		}
	}
}

// unheld are statements that no test of a server can hold, with the reason; what is
// in neither list is said about clients.
var unheld = map[string]string{
	"3.1.1 4.8.0-2": "a server may close for a transient error of its own; there is nothing that it must do",
	"5 3.2.2-13":    "about servers without retained messages; this one has them",
	"5 3.4.2-1":     "which codes exist is the codec's; each code that is sent is in a test of its own",
	"5 3.5.2-2":     "PUBREC never has a reason string here",
	"5 3.6.2-2":     "PUBREL never has a reason string here",
	"5 3.7.2-2":     "PUBCOMP never has a reason string here",
	"5 3.15.2-1":    "AUTH is never sent",
	"5 4.2.0-1":     "the transport is TCP with TLS: ordered and lossless",
	"5 4.3.3-7":     "an expiry after the first delivery is not applied in any QoS; TestConformance_5 sends expired messages",
	"5 4.8.2-4":     "a group is granted QoS 1 at most",
	"5 4.8.2-5":     "a group is granted QoS 1 at most",
	"5 7.0.0-1":     "about servers that connect to servers by MQTT",
}
