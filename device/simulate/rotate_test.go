package simulate

import (
	"context"
	"encoding/json"
	"math/rand/v2"
	"os"
	"sync"
	"testing"
	"time"

	"hallmark/device"
	"hallmark/device/mqtt"
	"hallmark/fleet"
	"hallmark/fleet/campaign"
)

// size is the short form's number, or the proof's.
func size(short, proof int) int {
	if os.Getenv("HALLMARK_PROOF") == "1" {
		return proof
	}
	return short
}

// What a test wants of the devices.
const (
	plain     = iota
	spoiled   // a fault of every kind at every step
	killed    // powered off at random steps
	refused   // the issuer refuses
	turnedOff // B is not let in
)

// A rotation in stages while the devices publish, with all that can happen to them:
// at no moment is there a device whose certificate in use does not let it in, what
// they publish arrives, each ends on a certificate that works, and the campaign says
// which. Issue 6, acceptance 1 (with the real program: TestProof_…), 2 and 7; A50 and
// assurance's row on rotation. HALLMARK_PROOF=1 has 500 with faults and 1,000 killed.
func TestA50_RotationInStagesLeavesEveryDeviceACertificateThatWorks(t *testing.T) {
	s := newRotating(t)
	roles := []int{}
	for role, n := range map[int]int{plain: size(5, 100), spoiled: size(7, 420), killed: size(4, 1000), refused: size(2, 40), turnedOff: size(2, 40)} {
		for range n {
			roles = append(roles, role)
		}
	}
	rand.Shuffle(len(roles), func(i, j int) { roles[i], roles[j] = roles[j], roles[i] })
	began := time.Now()
	devices := s.fleet("SN", len(roles))
	t.Logf("%d devices registered in %s", len(devices), time.Since(began).Round(time.Millisecond))
	before := map[string]string{}
	for i, d := range devices {
		id, works := s.holds(d)
		if before[d.Thing] = id; !works {
			t.Fatalf("%s does not work at the beginning", d.Thing)
		}
		switch roles[i] {
		case refused:
			s.refuse[d.Thing] = "certificate-budget"
		case turnedOff:
			s.stays[d.Thing] = id
		}
	}
	// Who listens to what they say.
	listener := s.fleet("EAR", 1)[0]
	var mu sync.Mutex
	got := map[string]map[int]bool{}
	ear, err := mqtt.Dial(t.Context(), mqtt.Config{Addr: s.addr, TLS: mqtt.TLS(listener.Certificate, s.Pool(), "localhost"), ClientID: listener.Thing, OnMessage: func(m mqtt.Message) {
		var v struct {
			Thing string
			N     int
		}
		if json.Unmarshal(m.Payload, &v) == nil {
			mu.Lock()
			defer mu.Unlock()
			if got[v.Thing] == nil {
				got[v.Thing] = map[int]bool{}
			}
			got[v.Thing][v.N] = true
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer ear.Close()
	if err := ear.Subscribe(t.Context(), mqtt.Subscription{Filter: "dt/+/telemetry"}); err != nil {
		t.Fatal(err)
	}
	n, astray := 0, map[int]bool{}
	// A device whose clock says that all of its certificates have ended registers anew,
	// and leaves one behind that it does not use: assurance allows that.
	extra := func(i int) int {
		if astray[i] {
			return 2
		}
		return 1
	}
	agents := &Agents{Server: s.URL, Probe: float64(size(40, 50)), Fault: func(i int) []Fault {
		switch roles[i] {
		case spoiled:
			n++
			astray[i] = FaultKinds[n%len(FaultKinds)] == ClockAhead
			return []Fault{{FaultKinds[n%len(FaultKinds)], Steps[n*5%len(Steps)]}}
		case killed:
			out := make([]Fault, 1+rand.IntN(3))
			for i := range out {
				out[i] = Fault{PowerCut, Steps[rand.IntN(len(Steps))]}
			}
			return out
		}
		return nil
	}}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan Result, 1)
	go func() {
		out, err := Run(ctx, Config{Endpoint: s.addr, ServerName: "localhost", Roots: s.Pool(), Devices: devices, Rate: 2 / float64(size(1, 40)), QoS: 1, Stages: []int{100}, Dials: 32,
			Backoff: device.Backoff{Min: 5 * time.Millisecond, Max: time.Duration(size(100, 2000)) * time.Millisecond}, Agents: agents})
		if err != nil {
			t.Error(err)
		}
		ended <- out
	}()
	defer cancel()
	eventually(t, "all are connected", 5*time.Minute, func() bool { return s.broker.Stats().Connections > int64(len(devices)) })
	spec := campaign.Spec{Kind: campaign.Rotate, Reason: campaign.Expiry, Targets: nil, Query: "thingName:thing-SN-*", Stages: []campaign.Stage{{Name: "half", Percent: 50}},
		Timeout: 5 * time.Minute, Soak: time.Duration(size(300, 5000)) * time.Millisecond, Parameters: json.RawMessage(`{"connectAttempts":3,"connectSeconds":60}`)}
	began = time.Now()
	if _, err := s.campaigns.Create(t.Context(), tenant.Tenant, "c1", "ann", spec); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the campaign is over", 20*time.Minute, func() bool {
		c, err := s.campaigns.Campaign(context.Background(), tenant, "c1")
		return err == nil && c.State == campaign.Completed
	})
	took := time.Since(began)
	cancel()
	out := <-ended
	c, err := s.campaigns.Campaign(t.Context(), tenant, "c1")
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("rotated in %s: %v; agents %+v; %d publishes, %d connects, %d lost, errors %v", took.Round(time.Millisecond), c.Counts, *out.Agents, out.Publishes, out.Connects, out.Lost, out.Errors)
	if len(out.Agents.Refused) > 0 || out.Agents.Locked > 0 || out.Agents.Probes == 0 {
		t.Errorf("the probe: %d of %d were refused, as %q", out.Agents.Locked, out.Agents.Probes, out.Agents.Refused)
	}
	if out.Agents.Unsent > 0 {
		t.Errorf("%d messages were never acknowledged", out.Agents.Unsent)
	}
	total := 0
	mu.Lock()
	for thing, list := range got {
		total += len(list)
		for i := 1; i <= len(list); i++ {
			if !list[i] {
				t.Errorf("%s: message %d of %d did not arrive", thing, i, len(list))
			}
		}
	}
	mu.Unlock()
	if uint64(total) < out.Publishes {
		t.Errorf("%d messages arrived, %d were acknowledged", total, out.Publishes)
	}
	for i, d := range devices {
		m, err := s.campaigns.Member(t.Context(), tenant, "c1", fleet.ThingName(d.Thing))
		if err != nil {
			t.Fatal(err)
		}
		id, works := s.holds(d)
		if !works {
			t.Errorf("%s is bricked: %+v", d.Thing, m)
		}
		if n := s.live(d); n > 2 || n == 0 {
			t.Errorf("%s has %d live certificates", d.Thing, n)
		}
		switch {
		case roles[i] == refused || roles[i] == turnedOff:
			if m.State != campaign.Failed || m.Code == "" || id != before[d.Thing] || s.live(d) != 1 {
				t.Errorf("%s was not let to: %s %q, holds its old one: %v, %d live", d.Thing, m.State, m.Code, id == before[d.Thing], s.live(d))
			}
		case astray[i] && m.State == campaign.Failed && m.Code != "" && id == before[d.Thing]:
			// By its clock the trial was over at once: it went back to the old one, and said so.
		case m.State != campaign.Done || m.After != id || m.Before != before[d.Thing] || s.live(d) > extra(i):
			t.Errorf("%s (%d): %s %q %q, holds what was proven: %v, %d live", d.Thing, roles[i], m.State, m.Code, m.Detail, m.After == id, s.live(d))
		}
	}
	for what, f := range map[string]func(context.Context) (int, error){
		"registry":  func(ctx context.Context) (int, error) { l, err := s.Registry.Fsck(ctx); return len(l), err },
		"campaigns": func(ctx context.Context) (int, error) { l, err := s.campaigns.Fsck(ctx); return len(l), err },
		"jobs":      func(ctx context.Context) (int, error) { l, err := s.jobs.Fsck(ctx); return len(l), err },
	} {
		if n, err := f(context.Background()); err != nil || n > 0 {
			t.Errorf("fsck of %s: %d findings, %v", what, n, err)
		}
	}
}

func eventually(t *testing.T, what string, within time.Duration, is func() bool) {
	t.Helper()
	for end := time.Now().Add(within); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not in time: %s", what)
		}
	}
}
