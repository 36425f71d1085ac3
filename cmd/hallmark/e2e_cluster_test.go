package main

import (
	"context"
	"database/sql"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/device"
	"hallmark/device/mqtt"
	"hallmark/fabric/fabrictest"
	"hallmark/fleet"
	"hallmark/fleet/registry"
	"hallmark/store/storetest"
)

// clusterPolicy lets devices talk to each other, which a test of two nodes needs.
const clusterPolicy = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":["iot:Connect","iot:Publish","iot:RetainPublish","iot:Subscribe","iot:Receive"],"Resource":"*"}]}`

// duo is two service processes on one PostgreSQL and one NATS server, with devices
// that have their certificates.
type duo struct {
	parallel
	nats *fabrictest.Server
	a, b *process
}

func newDuo(t *testing.T, names ...string) *duo {
	t.Helper()
	d := &duo{nats: fabrictest.Start(t, nil)}
	s := newChangedSite(t, quickHSM(), storetest.Postgres(t), anyName(len(names)), func(s *site) {
		f, err := os.OpenFile(s.path("hallmark.yaml"), os.O_APPEND|os.O_WRONLY, 0)
		s.ok(err)
		fmt.Fprintf(f, "fabric:\n  servers: [%q]\n  node_timeout: 6s\n", d.nats.URL)
		s.ok(f.Close())
	})
	scope := access.Scope{Tenant: access.DefaultTenant}
	_, err := s.server.reged.CreatePolicy(t.Context(), registry.Policy{Tenant: scope.Tenant, Name: "cluster", Document: clusterPolicy})
	s.ok(err)
	for _, n := range names {
		dir := s.path("devices", n)
		writeDevice(t, dir, s.issue(newUnit(t, n)))
		_, err := device.FirstBoot(t.Context(), device.Config{Dir: dir, Server: "https://" + s.door("device"), Roots: s.roots})
		s.ok(err)
		p, err := s.server.reged.Principals(t.Context(), scope, fleet.ThingName(n))
		s.ok(err)
		s.ok(s.server.reged.AttachPolicy(t.Context(), scope, registry.CertificateTarget(p[0].Certificate), "cluster"))
	}
	s.halt()
	d.parallel = parallel{site: s, t: t, states: []string{"state"}}
	d.secondNode()
	d.a = d.service("hallmark.yaml", "state")
	d.b = d.service("second.yaml", "second")
	return d
}

// inbox is what one device hears.
type clusterInbox struct {
	mu   sync.Mutex
	list []mqtt.Message
}

func (i *clusterInbox) take(m mqtt.Message) {
	i.mu.Lock()
	defer i.mu.Unlock()
	m.Payload = append([]byte(nil), m.Payload...)
	i.list = append(i.list, m)
}

// texts are "topic payload", of the topics that begin so.
func (i *clusterInbox) texts(prefix string) (out []string) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for _, m := range i.list {
		if strings.HasPrefix(m.Topic, prefix) {
			out = append(out, m.Topic+" "+string(m.Payload))
		}
	}
	return out
}

func (i *clusterInbox) count(text string) (n int) {
	for _, have := range i.texts("") {
		if have == text {
			n++
		}
	}
	return n
}

// on connects a device at the node with this state directory.
func (d *duo) on(state, name string, change func(*mqtt.Config)) (*mqtt.Conn, *clusterInbox) {
	d.t.Helper()
	c, in, err := d.try(state, name, change)
	if err != nil {
		d.t.Fatalf("%s at %s: %v", name, state, err)
	}
	d.t.Cleanup(c.Abort)
	return c, in
}

func (d *duo) try(state, name string, change func(*mqtt.Config)) (*mqtt.Conn, *clusterInbox, error) {
	addr := d.endpoints(state).Doors["mqtt"]
	host, _, _ := net.SplitHostPort(addr)
	in := &clusterInbox{}
	conf := mqtt.Config{Addr: addr, TLS: mqtt.TLS(d.pair(name), d.roots, host), ClientID: name, Version: mqtt.V5, OnMessage: in.take, Timeout: 30 * time.Second}
	if change != nil {
		change(&conf)
	}
	ctx, cancel := context.WithTimeout(d.t.Context(), 30*time.Second)
	defer cancel()
	c, err := mqtt.Dial(ctx, conf)
	return c, in, err
}

func (d *duo) sub(c *mqtt.Conn, filter string) {
	d.t.Helper()
	if err := c.Subscribe(d.t.Context(), mqtt.Subscription{Filter: filter, QoS: 1}); err != nil {
		d.t.Fatalf("subscribe %s: %v", filter, err)
	}
}

func (d *duo) pub(c *mqtt.Conn, topic, text string, retain bool) {
	d.t.Helper()
	if err := c.Publish(d.t.Context(), mqtt.Message{Topic: topic, Payload: []byte(text), QoS: 1, Retain: retain}); err != nil {
		d.t.Fatalf("publish %s: %v", topic, err)
	}
}

func persistently(c *mqtt.Config) { c.Persistent = true }

// TestCluster_TwoNodesAreOneBroker_A29_S19: two processes, one PostgreSQL, one NATS
// server. What is said at one node is heard at the other; a client has one connection
// in both; a revocation at one ends the session at the other, and nothing is said on
// the device's behalf at either.
func TestCluster_TwoNodesAreOneBroker_A29_S19(t *testing.T) {
	d := newDuo(t, "M-1", "M-2", "M-3", "M-4", "M-5")
	const A, B = "state", "second"
	watch, seen := d.on(B, "M-5", nil)
	d.sub(watch, "$aws/events/presence/#")
	d.sub(watch, "$aws/events/subscriptions/#")
	ctx := t.Context()

	t.Run("publish and subscribe", func(t *testing.T) {
		there, heard := d.on(B, "M-2", nil)
		d.sub(there, "dt/M-1/+")
		here, _ := d.on(A, "M-1", nil)
		d.pub(here, "dt/M-1/t", "21", false)
		eventually(t, "the message at the other node", func() bool { return heard.count("dt/M-1/t 21") == 1 })
		if err := here.Publish(ctx, mqtt.Message{Topic: "dt/M-1/u", Payload: []byte("0"), QoS: 0}); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the QoS 0 message", func() bool { return heard.count("dt/M-1/u 0") == 1 })
		here.Close()
		there.Close()
	})

	t.Run("what is retained", func(t *testing.T) {
		here, _ := d.on(A, "M-1", nil)
		d.pub(here, "dt/M-1/state", "on", true)
		there, heard := d.on(B, "M-2", nil)
		d.sub(there, "dt/M-1/state")
		eventually(t, "the retained message", func() bool { return heard.count("dt/M-1/state on") == 1 })
		here.Close()
		there.Close()
	})

	t.Run("a will", func(t *testing.T) {
		there, heard := d.on(B, "M-2", nil)
		d.sub(there, "dt/M-1/will")
		here, _ := d.on(A, "M-1", func(c *mqtt.Config) {
			c.Will = &mqtt.Message{Topic: "dt/M-1/will", Payload: []byte("gone"), QoS: 1}
		})
		here.Abort()
		eventually(t, "the will at the other node", func() bool { return heard.count("dt/M-1/will gone") == 1 })
		there.Close()
	})

	t.Run("a shared subscription delivers once", func(t *testing.T) {
		one, first := d.on(A, "M-1", nil)
		two, second := d.on(B, "M-2", nil)
		d.sub(one, "$share/workers/jobs/+")
		d.sub(two, "$share/workers/jobs/+")
		from, _ := d.on(A, "M-3", nil)
		const n = 40
		for i := range n {
			d.pub(from, "jobs/x", fmt.Sprint(i), false)
		}
		eventually(t, "all of them", func() bool { return len(first.texts("jobs/"))+len(second.texts("jobs/")) >= n })
		for i := range n {
			if got := first.count(fmt.Sprint("jobs/x ", i)) + second.count(fmt.Sprint("jobs/x ", i)); got != 1 {
				t.Errorf("message %d was delivered %d times", i, got)
			}
		}
		if len(first.texts("jobs/")) == 0 || len(second.texts("jobs/")) == 0 {
			t.Error("one node got them all")
		}
		t.Logf("%d at the publisher's node, %d at the other", len(first.texts("jobs/")), len(second.texts("jobs/")))
		one.Close()
		two.Close()
		from.Close()
	})

	t.Run("a client has one connection, and presence knows which", func(t *testing.T) {
		old, _ := d.on(A, "M-4", persistently)
		d.sub(old, "dt/M-4/inbox")
		from, _ := d.on(A, "M-3", nil)
		fresh, heard := d.on(B, "M-4", persistently)
		select {
		case <-old.Done():
		case <-time.After(20 * time.Second):
			t.Fatal("the old connection lives")
		}
		if !fresh.SessionPresent {
			t.Error("the session did not come along")
		}
		d.pub(from, "dt/M-4/inbox", "after", false)
		eventually(t, "the message at the new node", func() bool { return heard.count("dt/M-4/inbox after") == 1 })
		// Two connections and one end so far, each told once, whichever node saw it.
		type event struct {
			Type, Session, Reason string
			Version               int64
		}
		var events []event
		eventually(t, "the events", func() bool {
			events = nil
			for _, x := range seen.texts("$aws/events/presence/") {
				topic, body, _ := strings.Cut(x, " ")
				if !strings.HasSuffix(topic, "/M-4") {
					continue
				}
				var v struct {
					Type    string `json:"eventType"`
					Session string `json:"sessionIdentifier"`
					Reason  string `json:"disconnectReason"`
					Version int64  `json:"versionNumber"`
				}
				if err := json.Unmarshal([]byte(body), &v); err != nil {
					t.Fatal(err)
				}
				events = append(events, event{v.Type, v.Session, v.Reason, v.Version})
			}
			return len(events) >= 3
		})
		time.Sleep(time.Second) // for one too many
		times := map[event]int{}
		for _, e := range events {
			times[e]++
		}
		sessions := map[string][]string{}
		for _, e := range events {
			sessions[e.Session] = append(sessions[e.Session], fmt.Sprint(e.Type, " ", e.Version, e.Reason))
		}
		if len(events) != 3 || len(times) != 3 || len(sessions) != 2 {
			t.Errorf("events %+v", events)
		}
		for _, list := range sessions {
			switch strings.Join(list, ", ") {
			case "connected 0, disconnected 0DUPLICATE_CLIENTID", "connected 1":
			default:
				t.Errorf("a connection's events: %v", list)
			}
		}
		db, err := sql.Open("pgx", d.database)
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		var connected int
		var node string
		if err := db.QueryRow(`SELECT connected, node FROM presence WHERE client = 'M-4'`).Scan(&connected, &node); err != nil || connected != 1 {
			t.Errorf("presence says connected %d at %s, %v", connected, node, err)
		}
		if name, _ := os.ReadFile(d.path(B, "node")); !strings.HasSuffix(node, strings.TrimSpace(string(name))) {
			t.Errorf("presence says that it is at %s", node)
		}
		from.Close()
		fresh.Close()
	})

	t.Run("A29 S19 a revocation at one node ends the session at the other", func(t *testing.T) {
		listener, heard := d.on(A, "M-1", nil)
		d.sub(listener, "dt/M-3/will")
		c, _ := d.on(B, "M-3", func(c *mqtt.Config) {
			c.Will = &mqtt.Message{Topic: "dt/M-3/will", Payload: []byte("gone"), QoS: 1}
		})
		d.pub(c, "dt/M-3/kept", "x", true)
		at := time.Now()
		r, err := d.api("bob").RevokeDeviceWithResponse(ctx, "M-3", adminapi.DeviceRevokeRequest{Reason: "keyCompromise"})
		if err != nil || r.StatusCode() >= 300 {
			t.Fatalf("%v %s", err, r.Body)
		}
		answered := time.Now()
		select {
		case <-c.Done():
		case <-time.After(20 * time.Second):
			t.Fatal("still connected")
		}
		t.Logf("off %v after the request, %v after the answer", time.Since(at), time.Since(answered))
		if over := time.Since(at); over > 5*time.Second { // a second, on a machine five times slower
			t.Errorf("off after %v", over)
		}
		for _, node := range []string{A, B} {
			if c, _, err := d.try(node, "M-3", nil); err == nil {
				c.Close()
				t.Errorf("it came back at %s", node)
			}
			eventually(t, "what it left is gone at "+node, func() bool {
				late, kept := d.on(node, "M-2", nil)
				defer late.Close()
				d.sub(late, "dt/M-3/kept")
				if err := late.Publish(ctx, mqtt.Message{Topic: "dt/M-2/end", QoS: 1}); err != nil { // behind whatever is retained
					t.Fatal(err)
				}
				return len(kept.texts("dt/M-3/")) == 0
			})
		}
		if got := heard.texts("dt/M-3/"); len(got) > 0 {
			t.Errorf("said on its behalf: %v", got)
		}
		listener.Close()
	})
	watch.Close()
	for _, p := range []*process{d.a, d.b} {
		if err := p.stop(); err != nil {
			t.Errorf("%v: %s", err, lastLine(p.said.Bytes()))
		}
	}
	d.clean()
}

// TestCluster_ANodeDiesAndNothingAcknowledgedIsLost: a persistent session lives on
// one node, messages for it are acknowledged at both, and its node is killed. The
// device finds all of them at the other one; so it does after the node is back, when
// that other one is killed in turn.
func TestCluster_ANodeDiesAndNothingAcknowledgedIsLost(t *testing.T) {
	d := newDuo(t, "M-1", "M-2", "M-3")
	const A, B = "state", "second"
	lamp, _ := d.on(A, "M-1", persistently)
	d.sub(lamp, "dt/M-1/inbox")
	lamp.Close()
	here, _ := d.on(A, "M-2", nil)
	there, _ := d.on(B, "M-3", nil)
	for i := range 20 {
		d.pub(here, "dt/M-1/inbox", fmt.Sprint("a", i), false)
		d.pub(there, "dt/M-1/inbox", fmt.Sprint("b", i), false)
	}
	d.a.kill()
	start := time.Now()
	// Until the other node has the session, what is for it is refused, not lost.
	acked := map[string]bool{}
	for i := 0; len(acked) < 5 && time.Since(start) < time.Minute; i++ {
		text := fmt.Sprint("c", i)
		if there.Publish(t.Context(), mqtt.Message{Topic: "dt/M-1/inbox", Payload: []byte(text), QoS: 1}) == nil {
			acked[text] = true
		}
	}
	t.Logf("messages for the dead node's session are taken again %v after the kill", time.Since(start))
	lamp, heard := d.on(B, "M-1", persistently)
	if !lamp.SessionPresent {
		t.Error("the session is gone")
	}
	all := func(in *clusterInbox, prefixes string, n int) {
		t.Helper()
		for _, p := range prefixes {
			for i := range n {
				text := fmt.Sprintf("dt/M-1/inbox %c%d", p, i)
				eventually(t, text, func() bool { return in.count(text) > 0 })
			}
		}
	}
	all(heard, "ab", 20)
	for text := range acked {
		eventually(t, text, func() bool { return heard.count("dt/M-1/inbox "+text) > 0 })
	}
	lamp.Close()

	// The node comes back, and the other dies.
	d.a = d.service("hallmark.yaml", A)
	here, _ = d.on(A, "M-2", nil)
	for i := range 20 {
		d.pub(here, "dt/M-1/inbox", fmt.Sprint("d", i), false)
	}
	d.b.kill()
	start = time.Now()
	lamp, heard, err := d.try(A, "M-1", persistently)
	for ; err != nil && time.Since(start) < time.Minute; lamp, heard, err = d.try(A, "M-1", persistently) {
		time.Sleep(100 * time.Millisecond)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer lamp.Abort()
	t.Logf("let in %v after its node was killed", time.Since(start))
	if !lamp.SessionPresent {
		t.Error("the session is gone")
	}
	all(heard, "d", 20)
	lamp.Close()
	if err := d.a.stop(); err != nil {
		t.Errorf("%v: %s", err, lastLine(d.a.said.Bytes()))
	}
	d.clean()
}
