package main

import (
	"context"
	"crypto/tls"
	"errors"
	"net"
	"os/exec"
	"strings"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/device"
	"hallmark/device/mqtt"
	"hallmark/fleet"
	"hallmark/fleet/jobs"
	"hallmark/fleet/shadow"
	"hallmark/hsm/hsmtest"
)

// fleetSite is a site whose registered devices may use what the demo's policy gives.
func newFleetSite(t *testing.T, names ...string) *site {
	t.Helper()
	w := newSite(t, quickHSM(), "", anyName(len(names)))
	for _, n := range names {
		dir := w.path("devices", n)
		writeDevice(t, dir, w.issue(newUnit(t, n)))
		if _, err := device.FirstBoot(t.Context(), device.Config{Dir: dir, Server: "https://" + w.door("device"), Roots: w.roots}); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// pair is a device's operational key and certificate.
func (s *site) pair(name string) tls.Certificate {
	s.t.Helper()
	c, err := tls.LoadX509KeyPair(s.path("devices", name, "ldevid.pem"), s.path("devices", name, "ldevid.key"))
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

// connect connects a device as a client of its name, or as another's.
func (s *site) connect(name, client string, version byte, on func(mqtt.Message)) (*mqtt.Conn, error) {
	host, _, _ := net.SplitHostPort(s.door("mqtt"))
	ctx, cancel := context.WithTimeout(s.t.Context(), 20*time.Second)
	defer cancel()
	return mqtt.Dial(ctx, mqtt.Config{Addr: s.door("mqtt"), TLS: mqtt.TLS(s.pair(name), s.roots, host), ClientID: client, Version: version, OnMessage: on})
}

// eventually asks until it is true; the service's loops have a second.
func eventually(t *testing.T, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !f(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 20 s", what)
		}
	}
}

func TestFleet_ARegisteredDeviceLivesOnTheBroker(t *testing.T) {
	w := newFleetSite(t, "M-1", "M-2", "M-3")
	ctx, f := t.Context(), w.server.fleet
	main := access.Scope{Tenant: access.DefaultTenant}

	t.Run("a stranger's client keeps the shadow, on both versions", func(t *testing.T) {
		if _, err := exec.LookPath("mosquitto_rr"); err != nil {
			hsmtest.Missing(t, err.Error())
		}
		host, port, _ := net.SplitHostPort(w.door("mqtt"))
		ask := func(version, topic, answer, body string) string {
			t.Helper()
			out, err := tool(t, nil, "mosquitto_rr", "-V", version, "-h", host, "-p", port, "-W", "20", "-q", "1", "-i", "M-1", "-t", topic, "-e", answer, "-m", body,
				"--cafile", w.path("pki", "root.pem"), "--cert", w.path("devices", "M-1", "ldevid.pem"), "--key", w.path("devices", "M-1", "ldevid.key"))
			if err != nil {
				t.Fatalf("mosquitto_rr %s: %v %s", version, err, out)
			}
			return out
		}
		const p = "$aws/things/M-1/shadow"
		if out := ask("311", p+"/update", p+"/update/accepted", `{"state":{"reported":{"lamp":"on"}},"clientToken":"t-311"}`); !strings.Contains(out, `"version":1`) || !strings.Contains(out, `"clientToken":"t-311"`) {
			t.Errorf("3.1.1 update: %s", out)
		}
		if out := ask("mqttv5", p+"/update", p+"/update/delta", `{"state":{"desired":{"lamp":"off"}}}`); !strings.Contains(out, `"state":{"lamp":"off"}`) {
			t.Errorf("5 delta: %s", out)
		}
		if out := ask("mqttv5", p+"/get", p+"/get/accepted", ``); !strings.Contains(out, `"delta":{"lamp":"off"}`) || !strings.Contains(out, `"version":2`) {
			t.Errorf("get: %s", out)
		}
		if out := ask("311", p+"/name/none/get", p+"/name/none/get/rejected", `{}`); !strings.Contains(out, "No shadow exists with name: 'M-1~none'") {
			t.Errorf("a shadow that is not there: %s", out)
		}
		eventually(t, "presence", func() bool {
			st, err := w.server.db.Presence(ctx, main, "m-1")
			return err == nil && len(st) == 1 && !st[0].Connected && st[0].Thing == "M-1" && st[0].Reason == "CONNECTION_LOST" // mosquitto_rr leaves without a DISCONNECT
		})
	})

	t.Run("what devices say is found by queries", func(t *testing.T) {
		for query, want := range map[string]int{
			"shadow.reported.lamp:on": 1, "shadow.reported.lamp:off": 0, "shadow.hasDelta:true": 1, "connectivity.connected:false": 1, "connectivity.connected:false AND attributes.product:demo*": 1,
		} {
			found, err := f.registry.Search(ctx, main, query, "", 10)
			if err != nil || len(found.Things) != want {
				t.Errorf("%s: %d things, %v", query, len(found.Things), err)
			}
		}
	})

	t.Run("S25 a device is itself and reaches its own topics only", func(t *testing.T) {
		if c, err := w.connect("M-2", "M-3", mqtt.V5, nil); err == nil {
			c.Close()
			t.Error("M-2 connected as M-3")
		}
		c, err := w.connect("M-2", "M-2", mqtt.V5, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if err := c.Publish(ctx, mqtt.Message{Topic: "$aws/things/M-3/shadow/update", Payload: []byte(`{"state":{"reported":{"x":1}}}`), QoS: 1}); err == nil {
			t.Error("M-2 wrote the shadow of M-3")
		}
		if _, err := f.shadows.Get(ctx, shadow.Key{Tenant: main.Tenant, Thing: "M-3"}); !errors.Is(err, shadow.ErrUnknown) {
			t.Errorf("M-3 has a shadow: %v", err)
		}
		if err := c.Subscribe(ctx, mqtt.Subscription{Filter: "#", QoS: 1}); err == nil {
			t.Error("M-2 may read everything")
		}
		if err := c.Publish(ctx, mqtt.Message{Topic: "dt/M-2/telemetry", Payload: []byte(`1`), QoS: 1}); err != nil {
			t.Errorf("its own topic: %v", err)
		}
	})

	t.Run("the agent does a job", func(t *testing.T) {
		if _, err := f.jobs.CreateJob(ctx, main.Tenant, "hello", jobs.Spec{Targets: []string{"thing/M-2"}, Document: `{"operation":"echo","message":"hello"}`}); err != nil {
			t.Fatal(err)
		}
		p := w.spawn("device", "run", w.path("devices", "M-2"), "--endpoint", w.door("mqtt"), "--ca-file", w.path("pki", "root.pem"), "--json")
		eventually(t, "the job", func() bool {
			e, err := f.jobs.ExecutionsOfThing(ctx, main.Tenant, "M-2", "", "", 0, 10)
			return err == nil && len(e) == 1 && e[0].Status == jobs.Succeeded && e[0].Details["echo"] == "hello"
		})
		if err := p.stop(); err != nil {
			t.Errorf("the agent: %v %s", err, p.said.String())
		}
	})

	t.Run("S16 S19 a revoked device is off within a second and does not come back", func(t *testing.T) {
		c, err := w.connect("M-3", "M-3", mqtt.V311, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Abort()
		r, err := w.api("bob").RevokeDeviceWithResponse(ctx, "M-3", adminapi.DeviceRevokeRequest{Reason: "keyCompromise"})
		if err != nil || r.StatusCode() >= 300 {
			t.Fatalf("%v %s", err, r.Body)
		}
		at := time.Now()
		select {
		case <-c.Done():
			t.Logf("off after %v", time.Since(at))
		case <-time.After(20 * time.Second):
			t.Fatal("still connected")
		}
		if d := time.Since(at); d > 5*time.Second {
			t.Errorf("off after %v", d)
		}
		if c, err := w.connect("M-3", "M-3", mqtt.V311, nil); err == nil {
			c.Close()
			t.Error("it came back")
		}
	})
	w.halt()
	w.clean()
}

func TestFleet_APersistentSessionSurvivesTheServicesDeath(t *testing.T) {
	w := newFleetSite(t, "M-1")
	host, _, _ := net.SplitHostPort(w.door("mqtt"))
	dial := func(on func(mqtt.Message)) *mqtt.Conn {
		t.Helper()
		var c *mqtt.Conn
		eventually(t, "connecting", func() (ok bool) {
			var err error
			c, err = mqtt.Dial(t.Context(), mqtt.Config{Addr: w.door("mqtt"), TLS: mqtt.TLS(w.pair("M-1"), w.roots, host), ClientID: "M-1", Version: mqtt.V311, Persistent: true, OnMessage: on})
			return err == nil
		})
		return c
	}
	c := dial(nil)
	if err := c.Subscribe(t.Context(), mqtt.Subscription{Filter: "dt/M-1/inbox", QoS: 1}); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if err := w.server.fleet.broker.Publish(t.Context(), fleet.Message{Tenant: access.DefaultTenant, Topic: "dt/M-1/inbox", Payload: []byte("while you were away"), QoS: 1}); err != nil {
		t.Fatal(err)
	}
	w.halt()
	w.again()
	got := make(chan string, 4)
	c = dial(func(m mqtt.Message) { got <- string(m.Payload) })
	defer c.Abort()
	if !c.SessionPresent {
		t.Error("the session is gone")
	}
	select {
	case m := <-got:
		if m != "while you were away" {
			t.Errorf("got %q", m)
		}
	case <-time.After(20 * time.Second):
		t.Error("the message is lost")
	}
}
