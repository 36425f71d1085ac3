package broker

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync/atomic"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"hallmark/fabric"
	"hallmark/fabric/fabrictest"
)

// pair is two or more nodes on one store and one NATS server.
type pair struct {
	t     *testing.T
	nats  *fabrictest.Server
	store Store
	nodes []*bench
}

func newPair(t *testing.T, store Store) *pair {
	t.Helper()
	p := &pair{t: t, nats: fabrictest.Start(t, nil), store: store}
	p.add(nil)
	p.add(nil)
	return p
}

func (p *pair) add(change func(*Config)) (*bench, *fabric.Fabric) {
	p.t.Helper()
	f := p.nats.Node(p.t)
	b := open(p.t, func(c *Config) {
		c.Store, c.Fabric, c.Node, c.NodeTimeout = p.store, f, fmt.Sprint("node", len(p.nodes)), 2*time.Second
		c.Limits.RestartGrace = 500 * time.Millisecond
		if change != nil {
			change(c)
		}
	})
	p.nodes = append(p.nodes, b)
	return b, f
}

func TestCluster_DeliversToTheOtherNode(t *testing.T) {
	both(t, func(t *testing.T, v byte) {
		p := newPair(t, NewMemory())
		a, b := p.nodes[0], p.nodes[1]
		sub, _ := b.connect(t, "lamp1", v, nil)
		sub.sub("dt/+/t", 1)
		pub, _ := a.connect(t, "lamp2", v, nil)
		pub.pub("dt/lamp2/t", "one", 1)
		sub.message("dt/lamp2/t", "one")
		pub.send(publishPacket("dt/lamp2/t", "zero", 0, 0))
		sub.message("dt/lamp2/t", "zero")
		// Nobody else is interested: nothing goes to the other node.
		before := a.Stats().RelayedOut
		pub.pub("nobody", "x", 1)
		if n := a.Stats().RelayedOut; n != before {
			t.Errorf("%d messages went to a node that does not want them", n-before)
		}
		// Tenants stay apart on every node (S24).
		other, _ := b.connect(t, "other/lamp9", v, func(p *pkt) { p.Connect.ClientIdentifier = "lamp9" })
		other.sub("#", 1)
		pub.pub("dt/lamp2/t", "two", 1)
		sub.message("dt/lamp2/t", "two")
		other.quiet()
		// A policy of the receiver's node decides there.
		b.rules.forbid(5, "dt/lamp2/t", false)
		sub.send(&pkt{FixedHeader: packets.FixedHeader{Type: packets.Unsubscribe, Qos: 1}, PacketID: 77, Filters: packets.Subscriptions{{Filter: "dt/+/t"}}})
		sub.recv(packets.Unsuback)
		eventually(t, "no interest", func() bool { return a.realm("acme").far.size.Load() == 0 })
	})
}

func TestCluster_TakesOverFromTheOtherNode(t *testing.T) {
	both(t, func(t *testing.T, v byte) {
		p := newPair(t, NewMemory())
		a, b := p.nodes[0], p.nodes[1]
		old, _ := a.connect(t, "lamp1", v, nil)
		if _, ack := b.connect(t, "lamp1", v, nil); ack.SessionPresent {
			t.Error("a clean session was taken over")
		}
		if v == 5 {
			if d := old.recv(packets.Disconnect); d.ReasonCode != codeTakenOver {
				t.Errorf("DISCONNECT 0x%02X", d.ReasonCode)
			}
		}
		old.closed()
		if e := a.event("disconnected", "lamp1"); e.Reason != DuplicateClient {
			t.Errorf("reason %s", e.Reason)
		}
		if e := b.event("connected", "lamp1"); e.Version != 1 {
			t.Errorf("version %d of the connection, want 1: it is the second", e.Version)
		}
		if a.Stats().Connections != 0 || a.Stats().Sessions != 0 {
			t.Errorf("left behind: %+v", a.Stats())
		}
	})
}

func TestCluster_PersistentSessionMoves(t *testing.T) {
	both(t, func(t *testing.T, v byte) {
		p := newPair(t, NewMemory())
		a, b := p.nodes[0], p.nodes[1]
		lamp, _ := a.connect(t, "lamp1", v, persistent)
		lamp.sub("cmd/lamp1", 1)
		pub, _ := b.connect(t, "lamp2", v, nil)
		pub.pub("cmd/lamp1", "1", 1)
		lamp.recv(packets.Publish) // not answered
		lamp, ack := b.connect(t, "lamp1", v, persistent)
		if !ack.SessionPresent {
			t.Fatal("no session present")
		}
		lamp.message("cmd/lamp1", "1")
		pub.pub("cmd/lamp1", "2", 1)
		lamp.message("cmd/lamp1", "2")
		home, _ := a.connect(t, "lamp3", v, nil)
		home.pub("cmd/lamp1", "3", 1)
		lamp.message("cmd/lamp1", "3")
		lamp.quiet()
		lamp.bye()
		b.event("disconnected", "lamp1")
		home.pub("cmd/lamp1", "4", 1)
		// And back: the session is at the node that it left.
		lamp, ack = a.connect(t, "lamp1", v, persistent)
		if !ack.SessionPresent {
			t.Fatal("no session present")
		}
		lamp.message("cmd/lamp1", "4")
		pub.pub("cmd/lamp1", "5", 1)
		lamp.message("cmd/lamp1", "5")
		lamp.quiet()
		// What it answered just before it went does not come again.
		for i := range 4 {
			pub.pub("cmd/lamp1", fmt.Sprint("again", i), 1)
			lamp.message("cmd/lamp1", fmt.Sprint("again", i))
			lamp.send(&pkt{FixedHeader: head(packets.Pingreq)}) // behind the PUBACK
			lamp.recv(packets.Pingresp)
			lamp, _ = p.nodes[(i+1)%2].connect(t, "lamp1", v, persistent)
		}
		lamp.quiet()
	})
}

// TestCluster_NothingAcknowledgedIsLost has messages come in at both nodes while the
// session goes to and fro.
func TestCluster_NothingAcknowledgedIsLost(t *testing.T) {
	p := newPair(t, NewMemory())
	lamp, _ := p.nodes[0].connect(t, "lamp1", 5, persistent)
	lamp.sub("cmd/lamp1", 1)
	const each = 150
	done := make(chan map[string]bool, 2)
	for i, n := range p.nodes {
		c, _ := n.connect(t, fmt.Sprint("pub", i), 5, nil)
		go func() {
			acked := map[string]bool{}
			for k := range each {
				text := fmt.Sprint(i, "-", k)
				c.send(publishPacket("cmd/lamp1", text, 1, uint16(k+1)))
				a, err := c.read(20 * time.Second)
				if err != nil {
					t.Error(err)
					break
				}
				if a.ReasonCode < 0x80 {
					acked[text] = true
				}
				time.Sleep(2 * time.Millisecond)
			}
			done <- acked
		}()
	}
	got := map[string]int{}
	take := func(c *raw, patience time.Duration) {
		for {
			p, err := c.read(patience)
			if err != nil {
				return
			}
			if p.FixedHeader.Type == packets.Publish {
				got[string(p.Payload)]++
				c.send(&pkt{FixedHeader: head(packets.Puback), PacketID: p.PacketID})
			}
		}
	}
	for i := range 8 {
		lamp, _ = p.nodes[(i+1)%2].connect(t, "lamp1", 5, persistent)
		take(lamp, 100*time.Millisecond)
	}
	acked := <-done
	for k := range <-done {
		acked[k] = true
	}
	lamp, _ = p.nodes[1].connect(t, "lamp1", 5, persistent)
	take(lamp, time.Second)
	missing, twice := 0, 0
	for k := range acked {
		if got[k] == 0 {
			missing++
		}
		if got[k] > 1 {
			twice++
		}
	}
	if missing > 0 {
		t.Errorf("%d of %d acknowledged messages are lost", missing, len(acked))
	}
	if len(acked) < 2*each {
		t.Errorf("%d of %d messages were acknowledged", len(acked), 2*each)
	}
	t.Logf("%d acknowledged, %d came twice", len(acked), twice)
}

func TestCluster_SharedSubscriptionDeliversOnce(t *testing.T) {
	both(t, func(t *testing.T, v byte) {
		p := newPair(t, NewMemory())
		a, b := p.nodes[0], p.nodes[1]
		var members []*raw
		for i, n := range []*bench{a, b, b} {
			c, _ := n.connect(t, fmt.Sprint("any", i), v, nil)
			c.sub("$share/workers/jobs/+", 1)
			members = append(members, c)
		}
		pub, _ := a.connect(t, "lamp2", v, nil)
		const n = 60
		for i := range n {
			pub.pub("jobs/x", fmt.Sprint(i), 1)
		}
		got, by := map[string]int{}, make([]int, 3)
		for i, c := range members {
			for {
				p, err := c.read(300 * time.Millisecond)
				if err != nil {
					break
				}
				got[string(p.Payload)]++
				by[i]++
				c.send(&pkt{FixedHeader: head(packets.Puback), PacketID: p.PacketID})
			}
		}
		for i := range n {
			if got[fmt.Sprint(i)] != 1 {
				t.Errorf("message %d came %d times", i, got[fmt.Sprint(i)])
			}
		}
		if by[0] == 0 || by[1]+by[2] == 0 {
			t.Errorf("not spread over the nodes: %v", by)
		}
		t.Logf("spread: %v", by)
	})
}

func TestCluster_RetainedIsEverywhere(t *testing.T) {
	both(t, func(t *testing.T, v byte) {
		p := newPair(t, NewMemory())
		a, b := p.nodes[0], p.nodes[1]
		pub, _ := a.connect(t, "lamp2", v, nil)
		keep := func(text string, id uint16) {
			x := publishPacket("state/lamp2", text, 1, id)
			x.FixedHeader.Retain = true
			pub.publish(x)
		}
		keep("on", 5)
		sub, _ := b.connect(t, "lamp1", v, nil)
		sub.sub("state/#", 1)
		sub.message("state/lamp2", "on")
		keep("", 6)
		sub.message("state/lamp2", "")
		late, _ := b.connect(t, "lamp3", v, nil)
		late.sub("state/#", 1)
		late.quiet()
		// A node that joins later knows it too.
		keep("off", 7)
		c, _ := p.add(nil)
		last, _ := c.connect(t, "lamp4", v, nil)
		last.sub("state/#", 1)
		last.message("state/lamp2", "off")
	})
}

func TestCluster_AdoptsTheSessionsOfADeadNode(t *testing.T) {
	both(t, func(t *testing.T, v byte) {
		store := NewMemory()
		p := &pair{t: t, nats: fabrictest.Start(t, nil), store: store}
		gone := make(chan string, 10)
		blocked := &failing{Memory: store}
		a, _ := p.add(func(c *Config) { c.NodeGone = func(name string) { gone <- name } })
		b, bf := p.add(func(c *Config) { c.Store = blocked })
		c, _ := p.add(func(c *Config) { c.NodeGone = func(name string) { gone <- name } })
		lamp, _ := b.connect(t, "lamp1", v, func(x *pkt) { persistent(x); withWill("will/lamp1", "gone")(x) })
		lamp.sub("cmd/lamp1", 1)
		dead, _ := b.connect(t, "lamp3", v, func(x *pkt) { persistent(x); withWill("will/lamp3", "gone")(x) })
		dead.quiet()
		watch, _ := a.connect(t, "watch", v, nil)
		watch.sub("will/+", 1)
		pub, _ := a.connect(t, "lamp2", v, nil)
		pub.pub("cmd/lamp1", "1", 1)

		// A crash: nothing more is written, and the fabric is gone.
		blocked.broken.Store(true)
		bf.Close()
		start := time.Now()
		pub.send(publishPacket("cmd/lamp1", "2", 1, 9)) // refused, or safe with who adopted it
		lamp, ack := a.connect(t, "lamp1", v, persistent)
		t.Logf("let in after %v", time.Since(start))
		if !ack.SessionPresent {
			t.Error("no session present")
		}
		lamp.message("cmd/lamp1", "1")
		if n := a.Stats().Adopted + c.Stats().Adopted; n != 2 {
			t.Errorf("%d sessions adopted", n)
		}
		if name := <-gone; name != "node1" {
			t.Errorf("%s is gone", name)
		}
		// Who does not come back gets its will, once; who does, does not.
		watch.message("will/lamp3", "gone")
		watch.quiet()
	})
}

func TestCluster_FencedNodeBeginsAgain(t *testing.T) {
	store := NewMemory()
	p := newPair(t, store)
	a, b := p.nodes[0], p.nodes[1]
	lamp, _ := a.connect(t, "lamp1", 5, persistent)
	lamp.sub("cmd/lamp1", 1)
	members, _ := store.Members(context.Background())
	first := a.cluster.self()
	for _, m := range members {
		if m.Node == first {
			b.cluster.bury(m)
		}
	}
	if d := lamp.recv(packets.Disconnect); d.ReasonCode != codeUnavailable {
		t.Errorf("DISCONNECT 0x%02X", d.ReasonCode)
	}
	lamp.closed()
	eventually(t, "the session at the other node", func() bool { return b.Stats().Sessions == 1 && a.Stats().Sessions == 0 })
	eventually(t, "the node's second life", func() bool { return a.cluster.open.Load() && len(b.cluster.others()) == 1 })
	// What the first life still wanted to write is not written in the second: it would
	// take the session's row from the other node.
	result := make(chan error, 1)
	late := PutSession{store.all()[0].Session}
	late.Node = first
	a.journal.mu.Lock()
	a.journal.pending = append(a.journal.pending, &group{first, []Change{late}, func(err error) { result <- err }})
	a.journal.mu.Unlock()
	a.journal.poke()
	if err := <-result; !errors.Is(err, ErrFenced) {
		t.Errorf("a change of the first life: %v", err)
	}
	pub, _ := b.connect(t, "lamp2", 5, nil)
	pub.pub("cmd/lamp1", "1", 1)
	lamp, ack := a.connect(t, "lamp1", 5, persistent)
	if !ack.SessionPresent {
		t.Error("no session present")
	}
	lamp.message("cmd/lamp1", "1")
}

// TestCluster_WithoutNATSNothingIsPromised: while the nodes cannot hear each other, a
// message that another node would have to write down is refused, and nobody is let
// in who may be connected elsewhere. When they can, both work, and what was
// acknowledged is there.
func TestCluster_WithoutNATSNothingIsPromised(t *testing.T) {
	p := newPair(t, NewMemory())
	a, b := p.nodes[0], p.nodes[1]
	lamp, _ := b.connect(t, "lamp1", 5, persistent)
	lamp.sub("cmd/lamp1", 1)
	pub, _ := a.connect(t, "lamp2", 5, nil)
	near, _ := a.connect(t, "lamp4", 5, nil)
	near.sub("local", 1)
	pub.pub("cmd/lamp1", "1", 1)
	lamp.message("cmd/lamp1", "1")

	p.nats.Stop()
	say := func(text string) byte {
		t.Helper()
		pub.send(publishPacket("cmd/lamp1", text, 1, 7))
		for {
			p, err := pub.read(20 * time.Second)
			if err != nil {
				t.Fatal(err)
			}
			if p.FixedHeader.Type == packets.Puback {
				return p.ReasonCode
			}
		}
	}
	if code := say("2"); code != codeUnspecified {
		t.Errorf("PUBACK 0x%02X", code)
	}
	pub.pub("local", "3", 1) // what concerns this node only goes on
	near.message("local", "3")
	late := a.dial(t, "lamp3", 5)
	late.send(connectPacket(5, "lamp3"))
	if ack, err := late.read(20 * time.Second); err != nil || ack.ReasonCode != codeUnavailable {
		t.Errorf("CONNACK %+v %v", ack, err)
	}
	if n := a.Stats().Adopted + b.Stats().Adopted; n != 0 {
		t.Errorf("%d sessions of a living node were adopted", n)
	}

	p.nats.Again()
	eventually(t, "the nodes find each other", func() bool {
		return say("4") == codeSuccess
	})
	for {
		p := lamp.recv(packets.Publish)
		lamp.send(&pkt{FixedHeader: head(packets.Puback), PacketID: p.PacketID})
		if string(p.Payload) == "4" {
			break
		}
	}
	late, _ = a.connect(t, "lamp3", 5, nil)
	late.sub("x", 0)
}

// FuzzFrame gives a node whatever another could send: nothing of it may end the
// process, and what is understood is understood again.
func FuzzFrame(f *testing.F) {
	m := &message{topic: "a/b", payload: []byte("x"), qos: 1, id: messageID{1, 2}}
	frame := m.frame("acme")
	frame.Plain, frame.Groups = true, []groupRef{{Filter: "a/+", Name: "g"}}
	for _, seed := range [][]byte{
		{}, {0}, {9}, pack(kindMessage, &frame), pack(kindInterest, interestFrame{From: "n", Number: 1, States: []interest{{Tenant: "acme", Filter: "a/#", Level: 3, Groups: []groupState{{Name: "g", Online: 1}}}}, Topics: []topicRef{{Tenant: "acme", Topic: "t"}}}),
		pack(kindSync, syncFrame{From: "n"}), pack(kindClaim, claimFrame{From: "n", Tenant: "acme", Key: "k", Stamp: 1}), pack(kindArrived, arrivedFrame{From: "n", Tenant: "acme", Key: "k"}),
	} {
		f.Add(seed)
	}
	b, err := New(f.Context(), Config{Authenticator: &bench{}, Store: NewMemory(), Fabric: deaf{}, Node: "n0", NodeTimeout: time.Hour})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { b.Close() })
	f.Fuzz(func(t *testing.T, data []byte) {
		b.cluster.onFrame(data, func([]byte) {})
		for _, p := range b.cluster.others() { // strangers that it met
			b.cluster.drop(p)
		}
	})
}

// deaf is a fabric on which nobody answers.
type deaf struct{}

func (deaf) Listen(string, func([]byte, func([]byte))) (func(), error) { return func() {}, nil }
func (deaf) Send(string, []byte) error                                 { return nil }
func (deaf) Ask(_ string, _ []byte, _ time.Duration, done func([]byte, error)) {
	done(nil, context.DeadlineExceeded)
}

// crashing is a store that a node cannot reach any more from one moment on.
type crashing struct {
	*Memory
	dead atomic.Bool
}

func (c *crashing) err() error {
	if c.dead.Load() {
		return errors.New("the process is dead")
	}
	return nil
}

func (c *crashing) Apply(ctx context.Context, list []Change) error {
	if err := c.err(); err != nil {
		return err
	}
	return c.Memory.Apply(ctx, list)
}

func (c *crashing) Take(ctx context.Context, tenant, client, from, to string) (*StoredSession, error) {
	if err := c.err(); err != nil {
		return nil, err
	}
	return c.Memory.Take(ctx, tenant, client, from, to)
}

func (c *crashing) Fence(ctx context.Context, dead Member, heir string) ([]StoredSession, bool, error) {
	if err := c.err(); err != nil {
		return nil, false, err
	}
	return c.Memory.Fence(ctx, dead, heir)
}

// TestCluster_ACrashBetweenMovesLosesNothing: a session hops between three nodes,
// messages for it come in at two of them all the time, and the third dies at a
// moment that nobody chose while it may have the session.
func TestCluster_ACrashBetweenMovesLosesNothing(t *testing.T) {
	store := NewMemory()
	p := &pair{t: t, nats: fabrictest.Start(t, nil), store: store}
	p.add(nil)
	doomed := &crashing{Memory: store}
	_, wire := p.add(func(c *Config) { c.Store = doomed })
	p.add(nil)
	lamp, _ := p.nodes[1].connect(t, "lamp1", 5, persistent)
	lamp.sub("cmd/lamp1", 1)

	stop := make(chan struct{})
	done := make(chan map[string]bool, 2)
	refused := atomic.Int64{}
	for i, n := range []*bench{p.nodes[0], p.nodes[2]} {
		c, _ := n.connect(t, fmt.Sprint("pub", i), 5, nil)
		go func() {
			acked := map[string]bool{}
			defer func() { done <- acked }()
			for k := 0; ; k++ {
				select {
				case <-stop:
					return
				case <-time.After(3 * time.Millisecond):
				}
				text := fmt.Sprint(i, "-", k)
				c.send(publishPacket("cmd/lamp1", text, 1, uint16(k%60000+1)))
				a, err := c.read(30 * time.Second)
				if err != nil {
					t.Error(err)
					return
				}
				if a.ReasonCode < 0x80 {
					acked[text] = true
				} else {
					refused.Add(1)
				}
			}
		}()
	}
	got := map[string]int{}
	take := func(c *raw, patience time.Duration) {
		for end := time.Now().Add(patience); time.Now().Before(end); {
			p, err := c.read(time.Until(end))
			if err != nil {
				return
			}
			if p.FixedHeader.Type == packets.Publish {
				got[string(p.Payload)]++
				c.send(&pkt{FixedHeader: head(packets.Puback), PacketID: p.PacketID})
			}
		}
	}
	// try connects, or is told to come again.
	try := func(n *bench) *raw {
		for end := time.Now().Add(30 * time.Second); time.Now().Before(end); {
			c := n.dial(t, "lamp1", 5)
			x := connectPacket(5, "lamp1")
			persistent(x)
			c.send(x)
			if a, err := c.read(20 * time.Second); err == nil && a.ReasonCode == 0 {
				if !a.SessionPresent {
					t.Error("the session is gone")
				}
				return c
			}
			time.Sleep(50 * time.Millisecond)
		}
		t.Fatal("not let in within 30 s")
		return nil
	}
	for i := range 4 {
		take(try(p.nodes[i%3]), 150*time.Millisecond)
	}
	lamp = p.nodes[1].dial(t, "lamp1", 5)
	x := connectPacket(5, "lamp1")
	persistent(x)
	lamp.send(x)
	time.Sleep(time.Duration(rand.IntN(8)) * time.Millisecond) // anywhere in the takeover
	doomed.dead.Store(true)
	wire.Close()
	lamp.nc.Close()
	for i := range 4 {
		take(try(p.nodes[i%2*2]), 300*time.Millisecond)
	}
	close(stop)
	acked := <-done
	for k := range <-done {
		acked[k] = true
	}
	take(try(p.nodes[2]), 3*time.Second)
	missing := 0
	for k := range acked {
		if got[k] == 0 {
			missing++
		}
	}
	if missing > 0 || len(acked) < 20 {
		t.Errorf("%d of %d acknowledged messages are lost", missing, len(acked))
	}
	t.Logf("%d acknowledged, %d refused", len(acked), refused.Load())
}
