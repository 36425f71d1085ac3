package broker

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"hallmark/fleet"
	"hallmark/fleet/policy"
)

// eventually waits for something that happens on another goroutine.
func eventually(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatal("not in time: ", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

func TestTenants_AreApart_S24(t *testing.T) {
	f := open(t, nil)
	// The same thing name in two tenants: two sessions, two retained messages, two groups.
	a, _ := f.connect(t, "lamp1", 5, persistent)
	a.sub("#", 1)
	a.sub("$share/g/s", 1)
	dial := func(version byte, change func(*pkt)) *raw {
		c := f.dial(t, "zeta/lamp1", version)
		p := connectPacket(version, "lamp1")
		if change != nil {
			change(p)
		}
		c.send(p)
		if ack := c.recv(packets.Connack); ack.ReasonCode != 0 || ack.SessionPresent {
			t.Fatalf("CONNACK 0x%02X, present %v", ack.ReasonCode, ack.SessionPresent)
		}
		return c
	}
	z := dial(5, persistent)
	a.quiet() // not taken over
	p := publishPacket("state", "of zeta", 1, 3)
	p.FixedHeader.Retain = true
	z.publish(p)
	z.pub("s", "of zeta", 1)
	f.say(t, "zeta", "cmd", "of zeta", 1)
	a.quiet()
	a.sub("state", 1)
	a.quiet()
	z.sub("state", 1)
	z.message("state", "of zeta")
	if n, err := f.Drop(t.Context(), Selection{Tenant: "zeta", Thing: "lamp1"}, Asked, false); err != nil || n != 1 {
		t.Errorf("dropped %d: %v", n, err)
	}
	z.ended(0x98)
	a.quiet()
}

func TestIdentity_ClientIdentifierFollowsTheThing_S25(t *testing.T) {
	for _, c := range []struct {
		id     Identity
		client string
		ok     bool
	}{
		{Identity{Thing: "lamp1"}, "lamp1", true},
		{Identity{Thing: "lamp1"}, "lamp1-7", true},
		{Identity{Thing: "lamp1"}, "lamp1-", false},
		{Identity{Thing: "lamp1"}, "lamp1-x", false},
		{Identity{Thing: "lamp1"}, "lamp1-1234567890", false},
		{Identity{Thing: "lamp1"}, "LAMP1", false},
		{Identity{Thing: "lamp1"}, "lamp2", false},
		{Identity{Thing: "lamp1"}, "lamp12", false},
		{Identity{}, "", false},
		{Identity{}, "x", false},
		{Identity{Claim: true}, "anything", true},
		{Identity{Claim: true}, "$reserved", false},
		{Identity{Thing: "lamp1", AnyClient: true}, "anything", true},
	} {
		if got := c.id.mayUse(c.client); got != c.ok {
			t.Errorf("%+v %q: %v", c.id, c.client, got)
		}
	}
}

func TestClaim_CannotTakeOverADevice_A69(t *testing.T) {
	f := open(t, nil)
	lamp, _ := f.connect(t, "lamp1", 5, persistent)
	c := f.dial(t, "claim1", 5)
	p := connectPacket(5, "lamp1")
	persistent(p)
	c.send(p)
	ack := c.recv(packets.Connack)
	if ack.ReasonCode != 0 || ack.SessionPresent || !ack.Properties.SessionExpiryIntervalFlag || ack.Properties.SessionExpiryInterval != 0 {
		t.Errorf("CONNACK %+v", ack.Properties)
	}
	lamp.quiet()
	c.quiet()
}

func TestDrop_WithdrawsADevice_S19_S25(t *testing.T) {
	both(t, func(t *testing.T, v byte) {
		f := open(t, nil)
		watch, _ := f.connect(t, "watch", v, nil)
		watch.sub("will/+", 1)
		lamp, _ := f.connect(t, "lamp1", v, func(p *pkt) { persistent(p); withWill("will/lamp1", "gone")(p) })
		lamp.sub("cmd/lamp1", 1)
		p := publishPacket("state/lamp1", "on", 1, 3)
		p.FixedHeader.Retain = true
		lamp.publish(p)
		watch.pub("cmd/lamp1", "1", 1)
		lamp.message("cmd/lamp1", "1")

		f.mu.Lock()
		f.revoked["lamp1"] = true
		f.mu.Unlock()
		leaf := testPKI().Device("lamp1").Leaf
		began := time.Now()
		n, err := f.Drop(t.Context(), Selection{Authority: "test", Serial: leaf.SerialNumber.Text(16)}, Withdrawn, false)
		if err != nil || n != 1 {
			t.Fatalf("dropped %d: %v", n, err)
		}
		lamp.ended(0x87)
		if d := time.Since(began); d > 5*time.Second {
			t.Errorf("after %v", d)
		}
		if e := f.event("disconnected", "lamp1"); e.Reason != AuthError {
			t.Errorf("reason %s", e.Reason)
		}
		// Nothing of it is left: no will, no retained message, no session.
		watch.sub("state/#", 1)
		watch.quiet()
		s := f.Stats()
		if s.Retained != 0 || s.Sessions != 1 {
			t.Errorf("%d retained, %d sessions", s.Retained, s.Sessions)
		}
		// And it is not let in again.
		again := f.dial(t, "lamp1", v)
		again.send(connectPacket(v, "lamp1"))
		want := byte(0x87)
		if v == 4 {
			want = 5
		}
		if ack := again.recv(packets.Connack); ack.ReasonCode != want {
			t.Errorf("CONNACK 0x%02X", ack.ReasonCode)
		}
		again.closed()
	})
}

func TestDrop_WithdrawsADeviceThatIsAway(t *testing.T) {
	f := open(t, nil)
	lamp, _ := f.connect(t, "lamp1", 5, persistent)
	lamp.sub("cmd/lamp1", 1)
	lamp.bye()
	f.event("disconnected", "lamp1")
	if n, err := f.Drop(t.Context(), Selection{Tenant: "acme", Thing: "lamp1"}, Withdrawn, false); err != nil || n != 0 {
		t.Fatalf("dropped %d: %v", n, err)
	}
	if s := f.Stats(); s.Sessions != 0 || s.Subscriptions != 0 {
		t.Errorf("%d sessions, %d subscriptions", s.Sessions, s.Subscriptions)
	}
	if _, err := f.Drop(t.Context(), Selection{Tenant: "acme"}, Withdrawn, false); !errors.Is(err, ErrConfig) {
		t.Errorf("a selection of everybody: %v", err)
	}
}

type authFunc func(context.Context, tls.ConnectionState, netip.AddrPort) (Identity, error)

func (f authFunc) Authenticate(ctx context.Context, s tls.ConnectionState, a netip.AddrPort) (Identity, error) {
	return f(ctx, s, a)
}

func TestRebind_HoldsFromTheNextPacketOn(t *testing.T) {
	var mu sync.Mutex
	bound := []Authoriser{}
	f := open(t, nil)
	inner := f.cfg.Authenticator
	f.Broker.cfg.Authenticator = authFunc(func(ctx context.Context, s tls.ConnectionState, a netip.AddrPort) (Identity, error) {
		id, err := inner.Authenticate(ctx, s, a)
		id.Bind = func(string, []string) Authoriser {
			mu.Lock()
			defer mu.Unlock()
			r := &rules{deny: map[string]bool{}}
			if len(bound) > 0 {
				r.forbid(policy.Publish, "a", true)
			}
			bound = append(bound, r)
			return r
		}
		return id, err
	})
	c, _ := f.connect(t, "lamp1", 5, nil)
	c.pub("a", "x", 1)
	f.Rebind(Selection{Tenant: "acme", Thing: "lamp1"})
	c.send(publishPacket("a", "x", 1, 3))
	if a := c.recv(packets.Puback); a.ReasonCode != 0x87 {
		t.Errorf("PUBACK 0x%02X", a.ReasonCode)
	}
}

func TestCertificate_ExpiresWhileConnected_A73(t *testing.T) {
	f := open(t, nil)
	testPKI().Put("brief", testPKI().Issue(&x509.Certificate{Subject: pkix.Name{CommonName: "brief", Organization: []string{"acme"}}, NotAfter: time.Now().Add(3 * time.Second), ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}))
	c, _ := f.connect(t, "brief", 5, nil)
	c.ended(0x87)
	if e := f.event("disconnected", "brief"); e.Reason != AuthError {
		t.Errorf("reason %s", e.Reason)
	}
}

func TestAdmission_BoundsUnfinishedConnections_A68(t *testing.T) {
	f := open(t, func(c *Config) {
		c.Limits.PerAddress, c.Limits.HandshakeTimeout, c.Limits.ConnectTimeout = 5, 2*time.Second, 2*time.Second
	})
	// Connections that never finish a handshake fill their address's share …
	var slow []net.Conn
	for range 5 {
		nc, err := net.Dial("tcp", f.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		nc.Write([]byte{0x16, 3}) // the begin of a ClientHello
		slow = append(slow, nc)
	}
	eventually(t, "five pending", func() bool { return f.Stats().Pending == 5 })
	nc, err := net.Dial("tcp", f.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	nc.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := nc.Read(make([]byte, 1)); err == nil {
		t.Error("the sixth was answered")
	}
	if f.Stats().RefusedAddress != 1 {
		t.Error("not counted")
	}
	// … until their time is over.
	slow[0].SetReadDeadline(time.Now().Add(8 * time.Second))
	for {
		if _, err := slow[0].Read(make([]byte, 64)); err != nil {
			var n net.Error
			if errors.As(err, &n) && n.Timeout() {
				t.Error("the handshake has no end")
			}
			break
		}
	}
	eventually(t, "none pending", func() bool { return f.Stats().Pending == 0 })
	// A finished handshake without CONNECT is cut too.
	c := f.dial(t, "lamp1", 5)
	c.closed()
	// And one that is slow within a packet.
	g := open(t, func(c *Config) { c.Limits.PacketTimeout = time.Second })
	c, _ = g.connect(t, "lamp1", 5, nil)
	c.bytes([]byte{0x30, 100, 0})
	c.ended(0x81)
}

func TestAdmission_RateOfConnects(t *testing.T) {
	f := open(t, func(c *Config) { c.Limits.ConnectRate = 1 })
	for i := range connectBurst + 1 {
		c := f.dial(t, "lamp1", 5)
		c.send(connectPacket(5, "lamp1"))
		ack := c.recv(packets.Connack)
		if want := map[bool]byte{true: 0, false: 0x9F}[i < connectBurst]; ack.ReasonCode != want {
			t.Fatalf("connect %d: CONNACK 0x%02X", i, ack.ReasonCode)
		}
		c.nc.Close()
	}
}

func TestReserved_IsAnsweredAndNeverFannedOut(t *testing.T) {
	both(t, func(t *testing.T, v byte) {
		f := open(t, func(c *Config) {
			c.Topics = []fleet.Topic{
				{Filter: "$aws/things/+/shadow/get", Handle: func(_ context.Context, r fleet.Request) error {
					r.Reply(r.Topic+"/accepted", []byte(r.Levels[2]))
					return nil
				}},
				{Filter: "$aws/fails", Handle: func(context.Context, fleet.Request) error { return errors.New("database is down") }},
				{Filter: "$aws/panics", Handle: func(context.Context, fleet.Request) error { panic("boom") }},
				{Filter: "$aws/rules/+/#", Handle: func(context.Context, fleet.Request) error { return nil }},
			}
		})
		watch, _ := f.connect(t, "watch", v, nil)
		watch.sub("$aws/things/+/shadow/#", 1)
		c, _ := f.connect(t, "lamp1", v, nil)
		c.send(publishPacket("$aws/things/lamp1/shadow/get", "", 1, 3))
		got := map[byte]bool{}
		for range 2 {
			p, err := c.read(5 * time.Second)
			if err != nil {
				t.Fatal(err)
			}
			got[p.FixedHeader.Type] = true
			if p.FixedHeader.Type == packets.Publish && (p.TopicName != "$aws/things/lamp1/shadow/get/accepted" || string(p.Payload) != "lamp1") {
				t.Errorf("got %q %q", p.TopicName, p.Payload)
			}
		}
		if len(got) != 2 {
			t.Errorf("got %v", got)
		}
		c.pub("$aws/rules/r/dt/x", "x", 1)
		watch.quiet()

		// Receive covers the direct answers.
		f.rules.forbid(policy.Receive, "$aws/things/lamp1/shadow/get/accepted", true)
		c.publish(publishPacket("$aws/things/lamp1/shadow/get", "", 1, 4))
		c.quiet()

		// A failure is not acknowledged as done, and the connection stays.
		for _, topic := range []string{"$aws/fails", "$aws/panics"} {
			c.send(publishPacket(topic, "", 1, 5))
			if v == 5 {
				if a := c.recv(packets.Puback); a.ReasonCode != 0x80 {
					t.Errorf("PUBACK 0x%02X", a.ReasonCode)
				}
			}
			c.quiet()
		}
		eventually(t, "failures counted", func() bool { return f.Stats().RequestsFailed == 2 })

		// What no row answers is refused.
		for _, topic := range []string{"$aws/nothing", "$SYS/x", "$share/g/x", "$aws"} {
			c, _ := f.connect(t, "lamp1", v, nil)
			c.send(publishPacket(topic, "x", 1, 6))
			if v == 4 {
				c.closed()
			} else if a := c.recv(packets.Puback); a.ReasonCode != 0x90 {
				t.Errorf("%s: PUBACK 0x%02X", topic, a.ReasonCode)
			}
		}
		p := publishPacket("$aws/things/lamp1/shadow/get", "x", 1, 6)
		p.FixedHeader.Retain = true
		c, _ = f.connect(t, "lamp1", v, nil)
		c.send(p)
		if v == 4 {
			c.closed()
		} else if a := c.recv(packets.Puback); a.ReasonCode != 0x90 {
			t.Errorf("retain: PUBACK 0x%02X", a.ReasonCode)
		}
	})
}

func TestReserved_TooManyRequestsAreRejected(t *testing.T) {
	release := make(chan struct{})
	f := open(t, func(c *Config) {
		c.Topics = []fleet.Topic{{Filter: "$aws/things/+/jobs/#", Handle: func(ctx context.Context, r fleet.Request) error {
			<-release
			r.Reply(r.Topic+"/accepted", nil)
			return nil
		}}}
	})
	c, _ := f.connect(t, "lamp1", 4, nil)
	for range 11 {
		c.send(publishPacket("$aws/things/lamp1/jobs/get", `{"clientToken":"t-1"}`, 0, 0))
	}
	p := c.recv(packets.Publish)
	if p.TopicName != "$aws/things/lamp1/jobs/get/rejected" || !strings.Contains(string(p.Payload), `"code":429`) || !strings.Contains(string(p.Payload), `"clientToken":"t-1"`) {
		t.Errorf("got %s %s", p.TopicName, p.Payload)
	}
	close(release)
	for range 10 {
		if p := c.recv(packets.Publish); p.TopicName != "$aws/things/lamp1/jobs/get/accepted" {
			t.Errorf("got %s", p.TopicName)
		}
	}
}

func TestRetained_OfOneDeviceIsBounded_A72(t *testing.T) {
	f := open(t, func(c *Config) { c.Limits.RetainedPerDevice = 10 })
	c, _ := f.connect(t, "lamp1", 5, nil)
	code := func(topic, text string) byte {
		p := publishPacket(topic, text, 1, 3)
		p.FixedHeader.Retain = true
		c.send(p)
		return c.recv(packets.Puback).ReasonCode
	}
	for i := range 12 {
		got := code(fmt.Sprint("r/", i), "x")
		if want := i >= 10; (got == 0x97) != want {
			t.Errorf("topic %d: 0x%02X", i, got)
		}
	}
	if got := code("r/1", "other"); got >= 0x80 {
		t.Errorf("replacing: 0x%02X", got)
	}
	if got := code("r/1", ""); got >= 0x80 {
		t.Errorf("removing: 0x%02X", got)
	}
	if got := code("r/11", "x"); got >= 0x80 {
		t.Errorf("after removing: 0x%02X", got)
	}
}

func TestQueue_OfOnePublisherIsBounded_A72(t *testing.T) {
	f := open(t, func(c *Config) { c.Limits.QueueMessages = 20 })
	away, _ := f.connect(t, "lamp1", 5, persistent)
	away.sub("cmd/lamp1", 1)
	away.bye()
	f.event("disconnected", "lamp1")
	publish := func(who string) (accepted int) {
		c, _ := f.connect(t, who, 5, nil)
		for i := range 15 {
			c.send(publishPacket("cmd/lamp1", fmt.Sprint(who, i), 1, 3))
			switch a := c.recv(packets.Puback); a.ReasonCode {
			case 0:
				accepted++
			case 0x97, 0x10: // 0x10 once the session has ended
			default:
				t.Errorf("PUBACK 0x%02X", a.ReasonCode)
			}
		}
		return accepted
	}
	if n := publish("flood"); n != 10 {
		t.Errorf("one publisher got %d in", n)
	}
	if f.Stats().SessionsEndedFull != 0 {
		t.Error("one publisher ended the session")
	}
	// Together publishers can fill it; then the session ends, and its device is told.
	publish("other")
	c, _ := f.connect(t, "third", 5, nil)
	c.send(publishPacket("cmd/lamp1", "x", 1, 3))
	c.recv(packets.Puback)
	eventually(t, "session ended", func() bool { return f.Stats().SessionsEndedFull >= 1 })
	eventually(t, "session gone", func() bool { _, ack := f.connect(t, "lamp1", 5, persistent); return !ack.SessionPresent })
}

func TestSlowSubscriber_SlowsPublishersDownThenIsCut(t *testing.T) {
	f := open(t, func(c *Config) { c.Limits.OutBytes, c.Limits.SlowTimeout = 64<<10, time.Second })
	slow, _ := f.connect(t, "lamp1", 5, nil)
	slow.sub("x", 1)
	c, _ := f.connect(t, "lamp2", 5, nil)
	payload := strings.Repeat("y", 2000)
	var answered int
	for id := uint16(1); id <= 200; id++ { // 100 in the window, 64 KiB behind it
		c.send(publishPacket("x", payload, 1, id))
	}
	for answered < 200 {
		if _, err := c.read(5 * time.Second); err != nil {
			t.Fatal(err)
		}
		answered++
	}
	s := f.Stats()
	if s.Waits == 0 || s.SlowDisconnects == 0 {
		t.Errorf("%d waits, %d cut", s.Waits, s.SlowDisconnects)
	}
	if e := f.event("disconnected", "lamp1"); e.Reason != Throttled {
		t.Errorf("reason %s", e.Reason)
	}
	// It was told so: after what it had not read comes DISCONNECT, or nothing if TCP
	// was full.
	for {
		p, err := slow.read(5 * time.Second)
		if err != nil {
			break
		}
		if p.FixedHeader.Type == packets.Disconnect && p.ReasonCode != 0x97 {
			t.Errorf("DISCONNECT 0x%02X", p.ReasonCode)
		}
	}
}

func TestSlowSubscriber_LosesQoS0AndItIsCounted(t *testing.T) {
	f := open(t, func(c *Config) { c.Limits.OutBytes = 32 << 10 })
	slow, _ := f.connect(t, "lamp1", 4, nil)
	slow.sub("x", 0)
	c, _ := f.connect(t, "lamp2", 4, nil)
	payload := strings.Repeat("y", 60_000)
	for range 400 {
		c.pub("x", payload, 0)
	}
	c.quiet()
	if f.Stats().DroppedQoS0 == 0 {
		t.Error("nothing dropped")
	}
}

func TestReference_IsTheCloudsSide(t *testing.T) {
	f := open(t, func(c *Config) {
		rates := c.Limits
		c.Limits = Reference()
		c.Limits.PublishRate, c.Limits.PublishBytes, c.Limits.ConnectRate, c.Limits.SubscribeRate, c.Limits.KeepAliveMin = rates.PublishRate, rates.PublishBytes, rates.ConnectRate, rates.SubscribeRate, rates.KeepAliveMin
	})
	c, ack := f.connect(t, "lamp1", 5, nil)
	if !ack.Properties.SubIDAvailableFlag || ack.Properties.SubIDAvailable != 0 {
		t.Error("subscription identifiers are offered")
	}
	p := publishPacket("a", "kept", 1, 3)
	p.FixedHeader.Retain = true
	c.publish(p)
	c.sub("a/#", 0) // does not match a
	c.sub("+", 0)   // no retained message for wildcards
	c.quiet()
	c.sub("a", 0)
	c.message("a", "kept")
	if codes := c.subscribe(packets.Subscription{Filter: "1/2/3/4/5/6/7/8"}, packets.Subscription{Filter: "1/2/3/4/5/6/7/8/9"}); codes[0] != 0 || codes[1] != 0x8F {
		t.Errorf("codes %x", codes)
	}
	q := &pkt{FixedHeader: head(packets.Subscribe), PacketID: 9, Filters: packets.Subscriptions{{Filter: "x"}}}
	q.Properties.SubscriptionIdentifier = []int{1}
	c.send(q)
	c.ended(0xA1)
}

func TestClose_SaysSoAndKeepsSessions(t *testing.T) {
	store := NewMemory()
	f := open(t, func(c *Config) { c.Store = store })
	c, _ := f.connect(t, "lamp1", 5, func(p *pkt) { persistent(p); withWill("will/lamp1", "gone")(p) })
	c.sub("cmd/lamp1", 1)
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	c.ended(0x8B)
	if err := f.Publish(t.Context(), fleet.Message{Tenant: "acme", Topic: "x"}); !errors.Is(err, ErrClosed) {
		t.Errorf("publish after Close: %v", err)
	}
	g := open(t, func(c *Config) { c.Store = store })
	g.say(t, "acme", "cmd/lamp1", "1", 1)
	c, ack := g.connect(t, "lamp1", 5, persistent)
	if !ack.SessionPresent {
		t.Error("the session is gone")
	}
	c.message("cmd/lamp1", "1")
}

func TestEvents_HaveTheFieldsOfTheWire(t *testing.T) {
	f := open(t, nil)
	c, _ := f.connect(t, "lamp1", 5, nil)
	c.sub("a/+", 1)
	c.send(&pkt{FixedHeader: head(packets.Unsubscribe), PacketID: 4, Filters: packets.Subscriptions{{Filter: "a/+"}}})
	c.recv(packets.Unsuback)
	c.bye()
	out, in := f.event("disconnected", "lamp1"), f.event("connected", "lamp1")
	if in.Session == "" || in.Session != out.Session || in.Version != 0 || out.Version != 0 || len(in.Certificate) != 64 || in.Thing != "lamp1" || !in.Address.Addr().IsLoopback() || in.Protocol != 5 {
		t.Errorf("got %+v and %+v", in, out)
	}
	if e := f.event("unsubscribed", "lamp1"); len(e.Topics) != 1 || e.Topics[0] != "a/+" || e.Session != in.Session {
		t.Errorf("got %+v", e)
	}
	f.connect(t, "lamp1", 5, nil)
	if again := f.event("connected", "lamp1"); again.Version != 1 || again.Session == in.Session {
		t.Errorf("got %+v", again)
	}
}

func TestPace_DelaysAndLosesNothing(t *testing.T) {
	f := open(t, func(c *Config) { c.Limits.PublishRate = 50 })
	s, _ := f.connect(t, "lamp1", 4, nil)
	s.sub("x", 0)
	c, _ := f.connect(t, "lamp2", 4, nil)
	began := time.Now()
	for i := range 100 {
		c.pub("x", fmt.Sprint(i), 0)
	}
	for i := range 100 {
		s.message("x", fmt.Sprint(i))
	}
	if d := time.Since(began); d < 700*time.Millisecond {
		t.Errorf("100 messages at 50 a second took %v", d)
	}
}
