package broker

import (
	"context"
	"crypto/tls"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"hallmark/fleet"
)

// naive is [MQTT-4.7] word by word.
func naive(filter, topic string) bool {
	f, t := strings.Split(filter, "/"), strings.Split(topic, "/")
	if strings.HasPrefix(topic, "$") && (f[0] == "+" || f[0] == "#") {
		return false
	}
	for i, level := range f {
		if level == "#" {
			return i <= len(t)
		}
		if i >= len(t) || level != "+" && level != t[i] {
			return false
		}
	}
	return len(f) == len(t)
}

func FuzzTopicMatch(f *testing.F) {
	for _, s := range [][2]string{{"a/+/c", "a/b/c"}, {"#", "$aws/x"}, {"a/#", "a"}, {"+/+", "/x"}, {"//", "//"}, {"+", ""}, {"$aws/+", "$aws/x"}, {"a/b", "a/b/c"}, {"+/#", "a"}} {
		f.Add(s[0], s[1])
	}
	f.Fuzz(func(t *testing.T, filter, topic string) {
		if !validFilter(filter) || topic == "" || strings.ContainsAny(topic, "+#\x00") {
			return
		}
		want := naive(filter, topic)
		if got := matches(filter, topic, false); got != want {
			t.Errorf("matches(%q, %q) = %v", filter, topic, got)
		}
		// Among others, to be found and to be removed.
		var tr trie[string]
		others := []string{"#", "+", "a/b", "a/+", filter + "/x", "x/" + filter, "a/b/c/d"}
		for i := range 12 {
			others = append(others, "many/"+string(rune('a'+i)))
		}
		for _, o := range append(others, filter) {
			if validFilter(o) {
				*tr.at(o) = o
			}
		}
		var got []string
		tr.match(topic, func(v *string) { got = append(got, *v) })
		if slices.Contains(got, filter) != want {
			t.Errorf("trie: %q and %q: %v", filter, topic, got)
		}
		for _, g := range got {
			if !naive(g, topic) {
				t.Errorf("%q does not match %q", g, topic)
			}
		}
		tr.remove(filter)
		if tr.find(filter) != nil {
			t.Error("still there")
		}
		for _, o := range others {
			tr.remove(o)
		}
		if !tr.root.empty() {
			t.Error("the tree is not empty")
		}
		// The other way: topics by filter.
		var topics trie[string]
		*topics.at(topic) = topic
		found := false
		topics.topics(filter, func(*string) bool { found = true; return true })
		if found != want {
			t.Errorf("topics(%q) finds %q: %v", filter, topic, found)
		}
	})
}

// fuzzBroker lets in whoever comes, without TLS.
func fuzzBroker(tb testing.TB) *Broker {
	b, err := New(context.Background(), Config{
		Authenticator: authFunc(func(context.Context, tls.ConnectionState, netip.AddrPort) (Identity, error) {
			return Identity{Tenant: "acme", Thing: "lamp1", Certificate: "c", AnyClient: true, Bind: func(string, []string) Authoriser { return &rules{} }}, nil
		}),
		Topics: []fleet.Topic{{Filter: "$aws/things/+/shadow/#", Handle: func(_ context.Context, r fleet.Request) error { r.Reply(r.Topic+"/accepted", r.Payload); return nil }}},
		Limits: Limits{QoS2: true, ConnectRate: -1, PublishRate: -1, PublishBytes: -1, SubscribeRate: -1},
	})
	if err != nil {
		tb.Fatal(err)
	}
	return b
}

// FuzzListener feeds a session whatever comes: it must not panic, hang or leave a
// goroutine behind.
func FuzzListener(f *testing.F) {
	for _, v := range []byte{4, 5} {
		c := &raw{t: f, version: v}
		one, two := net.Pipe()
		c.nc = one
		var seed []byte
		done := make(chan struct{})
		go func() {
			defer close(done)
			buf := make([]byte, 4096)
			for {
				n, err := two.Read(buf)
				seed = append(seed, buf[:n]...)
				if err != nil {
					return
				}
			}
		}()
		p := connectPacket(v, "lamp1")
		withWill("w", "x")(p)
		c.send(p)
		c.send(&pkt{FixedHeader: head(packets.Subscribe), PacketID: 1, Filters: packets.Subscriptions{{Filter: "a/#", Qos: 2}, {Filter: "$share/g/a"}}})
		pub := publishPacket("a/b", "payload", 2, 7)
		pub.Properties = packets.Properties{TopicAlias: 1, TopicAliasFlag: true, ContentType: "x", User: []packets.UserProperty{{Key: "k", Val: "v"}}}
		c.send(pub)
		c.send(&pkt{FixedHeader: head(packets.Pubrel), PacketID: 7})
		c.send(publishPacket("$aws/things/x/shadow/get", "{}", 1, 8))
		c.send(&pkt{FixedHeader: head(packets.Unsubscribe), PacketID: 2, Filters: packets.Subscriptions{{Filter: "a/#"}}})
		c.send(&pkt{FixedHeader: head(packets.Pingreq)})
		c.send(&pkt{FixedHeader: head(packets.Disconnect)})
		one.Close()
		<-done
		f.Add(seed)
		f.Add(seed[:len(seed)/2])
	}
	f.Add([]byte{0x82, 6, 0, 1, 0, 0, 1, 'a'})
	b := fuzzBroker(f)
	f.Cleanup(func() { b.Close() })
	before := runtime.NumGoroutine()
	f.Fuzz(func(t *testing.T, input []byte) {
		ours, theirs := net.Pipe()
		done := make(chan struct{})
		go b.run(theirs, netip.AddrPort{}, tls.ConnectionState{}, func() {}, func() { close(done) })
		go func() { // take what comes
			buf := make([]byte, 4096)
			for {
				if _, err := ours.Read(buf); err != nil {
					return
				}
			}
		}()
		ours.SetWriteDeadline(time.Now().Add(5 * time.Second))
		ours.Write(input) // the broker may have closed already
		ours.Close()
		select {
		case <-done:
		case <-time.After(10 * time.Second):
			t.Fatal("the session does not end")
		}
		// Nothing of it is counted any more, and no session stays that was not asked for.
		if st := b.Stats(); st.Connections != 0 || st.Pending > 0 {
			t.Fatalf("%d connections, %d pending", st.Connections, st.Pending)
		}
		if _, err := b.Drop(context.Background(), Selection{Tenant: "acme", Thing: "lamp1"}, Withdrawn, false); err != nil {
			t.Fatal(err)
		}
		if st := b.Stats(); st.Sessions != 0 || st.Subscriptions != 0 || st.Retained != 0 {
			t.Fatalf("left: %d sessions, %d subscriptions, %d retained messages", st.Sessions, st.Subscriptions, st.Retained)
		}
		for range 1000 {
			if runtime.NumGoroutine() <= before+10 { // the fuzzer's own come and go
				return
			}
			time.Sleep(5 * time.Millisecond)
		}
		buf := make([]byte, 1<<16)
		t.Fatalf("goroutines left:\n%s", buf[:runtime.Stack(buf, true)])
	})
}
