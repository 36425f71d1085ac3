package trust_test

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"sync"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/fleet"
	"hallmark/fleet/campaign"
	"hallmark/fleet/jobs"
	"hallmark/fleet/presence"
	"hallmark/fleet/registry"
	"hallmark/fleet/trust"
)

func TestJudge_WordsThatFitAndANewConnectionAreBelieved(t *testing.T) {
	s := newSite(t, "")
	good, liar, mute, strange, moved := s.device("GOOD"), s.device("LIAR"), s.device("MUTE"), s.device("STRANGE"), s.device("MOVED")
	all := []*device{good, liar, mute, strange, moved}
	for _, d := range all {
		d.connect()
	}
	must(t, s.create("c1", `{"add":["root-2"]}`, all...))
	s.pass(time.Second)
	s.pass(time.Second)
	for _, d := range all {
		s.is("c1", d, campaign.Offered, "")
	}
	both := []string{s.old.id(), s.next.id()}
	good.obey()
	liar.connect()
	liar.report("campaign-c1", jobs.Succeeded, says([]string{s.old.id()})) // it did not add it
	mute.report("campaign-c1", jobs.Succeeded, says(both))                 // on the connection from before
	strange.connect()
	strange.report("campaign-c1", jobs.Succeeded, map[string]string{"bundle": says(both)["bundle"], "roots": s.old.id()})
	moved.report("campaign-c1", jobs.Failed, map[string]string{"step": "fallback", "code": "bundle-unverified"})
	s.pass(3 * time.Second)
	s.is("c1", good, campaign.Soaking, "")
	s.is("c1", liar, campaign.Failed, "root-missing")
	s.is("c1", mute, campaign.Proving, "")
	s.is("c1", strange, campaign.Failed, "bundle-unknown")
	s.is("c1", moved, campaign.Failed, "bundle-unverified")
	if b, err := s.trust.Bundle(t.Context(), scope, good.thing); err != nil || !b.ConfirmedAt.IsZero() {
		t.Errorf("%+v %v", b, err)
	}
	mute.connect()
	for range 5 {
		s.pass(time.Minute)
	}
	s.is("c1", good, campaign.Done, "")
	s.is("c1", mute, campaign.Done, "")
	b, err := s.trust.Bundle(t.Context(), scope, good.thing)
	if slices.Sort(both); err != nil || b.ConfirmedAt.IsZero() || !slices.Equal(b.Roots, both) || b.Campaign != "c1" {
		t.Errorf("%+v %v", b, err)
	}
	if _, err := s.trust.Bundle(t.Context(), scope, liar.thing); !errors.Is(err, trust.ErrUnknown) {
		t.Errorf("%v", err)
	}
	// Who has it is not asked again; and an undo makes it unknown.
	must(t, s.create("c2", `{"add":["root-2"]}`, good))
	s.pass(time.Second)
	s.is("c2", good, campaign.Skipped, "already-trusted")
	_, err = s.campaigns.Rollback(t.Context(), scope.Tenant, "c1", "ann", "")
	must(t, err)
	s.pass(time.Second)
	s.pass(time.Second)
	good.report("campaign-c1-undo", jobs.Succeeded, says([]string{s.old.id()}))
	s.pass(time.Minute)
	s.is("c1", good, campaign.Undone, "")
	if _, err := s.trust.Bundle(t.Context(), scope, good.thing); !errors.Is(err, trust.ErrUnknown) {
		t.Errorf("%v", err)
	}
}

func TestCheck_RefusesWhatCutsDevicesOff(t *testing.T) {
	s := newSite(t, "")
	d := s.device("ONE")
	for parameters, want := range map[string]error{
		`{}`:                                     trust.ErrParameters,
		`{"add":["root-9"]}`:                     trust.ErrParameters,
		`{"add":["root-2"],"remove":["zz"]}`:     trust.ErrParameters,
		`{"add":["root-1"],"remove":["root-1"]}`: trust.ErrParameters,
		`{"endpoint":{"mqtt":"nowhere"}}`:        trust.ErrParameters,
		`{"endpoint":{"https":"http://x:1"}}`:    trust.ErrParameters,
		`{"other":1}`:                            trust.ErrParameters,
		`{"remove":["root-1"]}`:                  trust.ErrCut, // the doors lead to it
		`{"add":["root-2"],"remove":["root-1"],"endpoint":{"mqtt":"localhost:8884"}}`: trust.ErrCut, // what device-1 issues too
		`{"remove":["root-2"]}`: nil,
	} {
		if err := s.create(fmt.Sprint("c", len(parameters)), parameters, d); !errors.Is(err, want) {
			t.Errorf("%s: %v", parameters, err)
		}
	}
	s.show(t, s.next)
	if err := s.create("later", `{"remove":["root-1"],"requires":["root-2"]}`, d); err != nil {
		t.Error(err)
	}
}

func spec(s *site, gates trust.Gates, targets ...string) trust.Spec {
	return trust.Spec{From: "root-1", To: "root-2", Targets: targets, Gates: gates, Soak: time.Minute, Timeout: time.Hour, AbortPercent: 50, AbortMinimum: 100}
}

// Issue 6, acceptance 4: of 20 devices one sleeps through all of it, with HALLMARK_PROOF=1
// of 2,000 a hundred. No gate opens early, and sleepers get in when they return and get
// both changes.
func TestRollover_GatesHoldAndASleeperStillGetsIn(t *testing.T) {
	total := 20
	if os.Getenv("HALLMARK_PROOF") == "1" {
		total = 2000
	}
	onBothEngines(t, func(t *testing.T, url string) {
		ctx := context.Background()
		s := newSite(t, url)
		var all []*device
		began := time.Now()
		for i := range total {
			d := s.device(fmt.Sprintf("R-%04d", i))
			d.connect()
			all = append(all, d)
		}
		awake, sleepers := all[:total*19/20], all[total*19/20:]
		for _, d := range sleepers {
			d.leave()
		}
		t.Logf("%d devices, %d of them asleep, in %s", total, len(sleepers), time.Since(began).Round(time.Millisecond))
		gates := trust.Gates{Added: 95, Left: 95, Removed: 95, WaitSeconds: 3600, KeepSeconds: 30 * 24 * 3600}
		r, err := s.trust.Start(ctx, scope.Tenant, "roots", "ann", spec(s, gates, "thinggroup/all"))
		must(t, err)
		must(t, s.trust.Ensure(ctx)) // a crash between the two
		must(t, s.trust.Ensure(ctx))
		closed := func(phase trust.Phase) {
			t.Helper()
			r, err := s.trust.Advance(ctx, scope.Tenant, "roots", "ann")
			if !errors.Is(err, trust.ErrGate) || r.Phase != phase {
				t.Fatalf("%s, not %s: %v", r.Phase, phase, err)
			}
			t.Log(err)
		}
		opens := func(phase trust.Phase) {
			t.Helper()
			r, err = s.trust.Advance(ctx, scope.Tenant, "roots", "ann")
			if err != nil || r.Phase != phase {
				t.Fatalf("%s, not %s: %v", r.Phase, phase, err)
			}
		}
		work := func(n int) {
			t.Helper()
			for range 4 {
				s.pass(time.Duration(max(1, total/50)) * time.Second) // a thousand a minute are told
			}
			for _, d := range awake[:n] {
				d.obey()
			}
			for range 4 {
				s.pass(30 * time.Second)
			}
		}
		closed(trust.Adding)
		work(total * 9 / 10)
		closed(trust.Adding) // 90 %
		work(len(awake))
		opens(trust.Switching)
		closed(trust.Switching)
		s.show(t, s.next)
		closed(trust.Switching) // sleepers would stay outside
		for _, d := range sleepers {
			if d.getsIn() {
				t.Fatal("the test shows nothing")
			}
		}
		s.show(t, s.next, s.cross)
		opens(trust.Staying)
		closed(trust.Staying) // too early
		s.clock.Add(time.Hour)
		opens(trust.Removing)
		closed(trust.Removing)
		for range 3 {
			s.pass(11 * time.Minute)
		}
		work(len(awake))
		opens(trust.Sleepers)
		closed(trust.Sleepers)
		for _, d := range awake {
			if !slices.Equal(d.roots, []string{s.next.id()}) || !d.getsIn() {
				t.Errorf("%s trusts %v", d.thing, d.roots)
			}
		}
		// They come back three weeks later.
		s.clock.Add(21 * 24 * time.Hour)
		s.pass(time.Second)
		for _, d := range sleepers {
			if !d.getsIn() {
				t.Fatalf("%s does not get in", d.thing)
			}
			d.connect()
		}
		for range 12 {
			for _, d := range sleepers {
				d.obey()
			}
			s.pass(4 * time.Minute)
		}
		for _, d := range sleepers {
			if !slices.Equal(d.roots, []string{s.next.id()}) || !d.getsIn() {
				t.Fatalf("%s trusts %v", d.thing, d.roots)
			}
		}
		opens(trust.Over) // nobody sleeps any more
		for _, id := range []string{"roots-add", "roots-remove"} {
			c, err := s.campaigns.Campaign(ctx, scope, id)
			if err != nil || c.State != campaign.Canceled {
				t.Errorf("%s is %s %v", id, c.State, err)
			}
		}
		var phases []string
		for _, v := range r.Steps {
			phases = append(phases, v.What)
		}
		if want := []string{"started", "switching", "waiting", "removing", "sleepers", "done"}; !slices.Equal(phases, want) {
			t.Errorf("%q", phases)
		}
		_, err = s.trust.Cancel(ctx, scope.Tenant, "roots", "ann", "")
		if !errors.Is(err, trust.ErrPhase) {
			t.Error(err)
		}
		t.Logf("from the first root to the second in %s", time.Since(began).Round(time.Millisecond))
	})
}

// small is a registry, a store and a presence of nothing but names.
type small struct {
	mu      sync.Mutex
	things  map[string][]fleet.ThingName // by target
	bundles map[string]trust.Bundle
	roll    map[string]trust.Rollover
	never   map[fleet.ThingName]bool // had no certificate
}

func (m *small) Things(_ context.Context, _, target string, after fleet.ThingName, limit int) (out []fleet.ThingName, _ error) {
	for _, t := range m.things[target] {
		if t.Fold() > after.Fold() && len(out) < limit {
			out = append(out, t)
		}
	}
	return out, nil
}

func (m *small) Principals(_ context.Context, _ access.Scope, t fleet.ThingName) ([]registry.Principal, error) {
	if m.never[t] {
		return nil, nil
	}
	return []registry.Principal{{Status: fleet.Active}}, nil // its certificate has ended
}

func (m *small) Presence(context.Context, access.Scope, fleet.ThingName) ([]presence.State, error) {
	return nil, nil
}
func (m *small) PutBundle(_ context.Context, b trust.Bundle) error {
	m.bundles[b.Thing.Fold()] = b
	return nil
}
func (m *small) DropBundle(_ context.Context, _ string, t fleet.ThingName) error {
	delete(m.bundles, t.Fold())
	return nil
}
func (m *small) Bundle(_ context.Context, _ access.Scope, t fleet.ThingName) (trust.Bundle, error) {
	b, ok := m.bundles[t.Fold()]
	if !ok {
		return b, trust.ErrUnknown.New("")
	}
	return b, nil
}

func (m *small) Bundles(_ context.Context, _ access.Scope, after, upTo string, limit int) (out []trust.Bundle, _ error) {
	for k, b := range m.bundles {
		if k > after && (upTo == "" || k <= upTo) {
			out = append(out, b)
		}
	}
	slices.SortFunc(out, func(a, b trust.Bundle) int {
		if a.Thing.Fold() < b.Thing.Fold() {
			return -1
		}
		return 1
	})
	return out[:min(limit, len(out))], nil
}

func (m *small) Rollovers(context.Context, access.Scope) (out []trust.Rollover, _ error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, r := range m.roll {
		out = append(out, r)
	}
	return out, nil
}

func (m *small) PutRollover(_ context.Context, r trust.Rollover, was int64) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.roll[r.Name].Version != was {
		return trust.ErrChanged.New("")
	}
	r.Version = was + 1
	m.roll[r.Name] = r
	return nil
}

func (m *small) OpenAs(context.Context, string, string, string, campaign.Spec) (campaign.Campaign, error) {
	return campaign.Campaign{}, nil
}
func (m *small) Campaign(context.Context, access.Scope, string) (campaign.Campaign, error) {
	return campaign.Campaign{State: campaign.Canceled}, nil
}
func (m *small) Cancel(context.Context, string, string, string, string) (campaign.Campaign, error) {
	return campaign.Campaign{}, nil
}

// Whatever devices confirm, in whatever order, and whoever asks: a phase is left only
// while its threshold is reached, counted by another count than the service's.
func TestGate_IsNeverPassedBelowItsThreshold(t *testing.T) {
	ctx := context.Background()
	p := newPKI(t)
	seed := time.Now().UnixNano()
	t.Log("seed", seed)
	rng := rand.New(rand.NewPCG(uint64(seed), 1))
	now := time.Now()
	passed := map[trust.Phase]int{}
	for round := range 300 {
		n := 1 + rng.IntN(60)
		if round%50 == 0 {
			n = 1200 // several pages
		}
		m := &small{things: map[string][]fleet.ThingName{}, bundles: map[string]trust.Bundle{}, roll: map[string]trust.Rollover{}, never: map[fleet.ThingName]bool{}}
		for i := range n {
			name := fleet.ThingName(fmt.Sprintf("T-%04d", i))
			m.things["thinggroup/all"] = append(m.things["thinggroup/all"], name)
			if rng.IntN(4) == 0 {
				m.things["thinggroup/vip"] = append(m.things["thinggroup/vip"], name)
			}
			m.never[name] = rng.IntN(10) == 0
		}
		s := trust.New(trust.Config{Store: m, Registry: m, Presence: m, Roots: p.Roots, Shown: p.Shown, Now: func() time.Time { return now }})
		s.Join(m)
		gates := trust.Gates{Added: 1 + rng.Float64()*99, Left: 1 + rng.Float64()*99, Removed: 1 + rng.Float64()*99, WaitSeconds: 1, KeepSeconds: 3600}
		if rng.IntN(2) == 0 {
			gates.Groups, gates.InGroups = []string{"vip"}, 1+rng.Float64()*99
		}
		p.show(t, p.next, p.cross)
		phase := []trust.Phase{trust.Adding, trust.Staying, trust.Removing}[rng.IntN(3)]
		must(t, m.PutRollover(ctx, trust.Rollover{Tenant: scope.Tenant, Name: "r", Spec: trust.Spec{From: "root-1", To: "root-2", Targets: []string{"thinggroup/all"}, Gates: gates}, OldRoot: p.old.id(), NewRoot: p.next.id(), Phase: phase, Since: now.Add(-time.Hour), Rounds: map[trust.Phase]int{trust.Adding: 1}}, 0))
		for _, name := range m.things["thinggroup/all"] {
			b := trust.Bundle{Tenant: scope.Tenant, Thing: name, Roots: [][]string{{p.old.id()}, {p.old.id(), p.next.id()}, {p.next.id()}}[rng.IntN(3)], ConfirmedAt: now}
			if rng.IntN(5) == 0 {
				b.ConfirmedAt = time.Time{} // it soaks
			}
			if rng.IntN(6) > 0 {
				must(t, m.PutBundle(ctx, b))
			}
		}
		reached := func(group string, percent float64) bool {
			all, good := 0, 0
			for _, name := range m.things["thinggroup/"+group] {
				b := m.bundles[name.Fold()]
				ok := slices.Contains(b.Roots, p.next.id()) && !b.ConfirmedAt.IsZero() && (phase != trust.Removing || !slices.Contains(b.Roots, p.old.id()))
				if ok || !m.never[name] {
					all++
				}
				if ok {
					good++
				}
			}
			return all > 0 && float64(good)/float64(all)*100 >= percent-1e-9
		}
		want := reached("all", map[trust.Phase]float64{trust.Adding: gates.Added, trust.Staying: gates.Left, trust.Removing: gates.Removed}[phase])
		if len(gates.Groups) > 0 {
			want = want && reached("vip", gates.InGroups)
		}
		r, err := s.Advance(ctx, scope.Tenant, "r", "ann")
		if got := err == nil && r.Phase != phase; got != want {
			t.Fatalf("round %d, %s, %d things, %+v: passed %t, not %t (%v)", round, phase, n, gates, got, want, err)
		}
		if err == nil {
			passed[phase]++
		} else if !errors.Is(err, trust.ErrGate) {
			t.Fatal(err)
		}
	}
	if len(passed) < 3 {
		t.Errorf("%v", passed)
	}
}

// Two people ask at once, and one lowers the gate meanwhile: one step is made.
func TestAdvance_IsOneStepHoweverManyAsk(t *testing.T) {
	ctx := context.Background()
	p := newPKI(t)
	m := &small{things: map[string][]fleet.ThingName{"thinggroup/all": {"A"}}, bundles: map[string]trust.Bundle{}, roll: map[string]trust.Rollover{}, never: map[fleet.ThingName]bool{}}
	s := trust.New(trust.Config{Store: m, Registry: m, Presence: m, Roots: p.Roots, Shown: p.Shown})
	s.Join(m)
	_, err := s.Start(ctx, scope.Tenant, "r", "ann", trust.Spec{From: "root-1", To: "root-2", Targets: []string{"thinggroup/all"}})
	must(t, err)
	must(t, m.PutBundle(ctx, trust.Bundle{Tenant: scope.Tenant, Thing: "A", Roots: []string{p.next.id()}, ConfirmedAt: time.Now()}))
	var wg sync.WaitGroup
	var mu sync.Mutex
	steps := 0
	for range 8 {
		wg.Go(func() {
			_, err := s.Advance(ctx, scope.Tenant, "r", "ann")
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				steps++
			} else if !errors.Is(err, trust.ErrChanged) && !errors.Is(err, trust.ErrGate) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if steps != 1 {
		t.Errorf("%d steps", steps)
	}
}

func TestSetGates_ALowerOneNeedsAReason(t *testing.T) {
	ctx := context.Background()
	p := newPKI(t)
	m := &small{things: map[string][]fleet.ThingName{"thinggroup/all": {"A"}, "thinggroup/vip": {"A"}}, bundles: map[string]trust.Bundle{}, roll: map[string]trust.Rollover{}, never: map[fleet.ThingName]bool{}}
	s := trust.New(trust.Config{Store: m, Registry: m, Presence: m, Roots: p.Roots, Shown: p.Shown})
	s.Join(m)
	r, err := s.Start(ctx, scope.Tenant, "r", "ann", trust.Spec{From: "root-1", To: "root-2", Targets: []string{"thinggroup/all"}, Gates: trust.Gates{Added: 90, Groups: []string{"vip"}}})
	must(t, err)
	higher := r.Spec.Gates
	higher.Added = 95
	if _, err := s.SetGates(ctx, scope.Tenant, "r", "ann", higher, ""); err != nil {
		t.Error(err)
	}
	for _, change := range []func(g *trust.Gates){
		func(g *trust.Gates) { g.Added = 94 }, func(g *trust.Gates) { g.Left = 1 }, func(g *trust.Gates) { g.Removed = 1 }, func(g *trust.Gates) { g.InGroups = 99 },
		func(g *trust.Gates) { g.Groups = nil }, func(g *trust.Gates) { g.WaitSeconds = 1 }, func(g *trust.Gates) { g.KeepSeconds = 1 },
	} {
		lower := higher
		change(&lower)
		if _, err := s.SetGates(ctx, scope.Tenant, "r", "ann", lower, " "); !errors.Is(err, trust.ErrReason) {
			t.Errorf("%+v: %v", lower, err)
		}
	}
	none := higher
	none.Added = 0
	if _, err := s.SetGates(ctx, scope.Tenant, "r", "ann", none, "because"); !errors.Is(err, trust.ErrSpec) {
		t.Error(err)
	}
	lower := higher
	lower.Added = 50
	r, err = s.SetGates(ctx, scope.Tenant, "r", "bob", lower, "half of them are scrapped")
	if err != nil || r.Spec.Gates.Added != 50 || r.Steps[len(r.Steps)-1].What != "gate lowered" || r.Steps[len(r.Steps)-1].Words != "added from 95 to 50 half of them are scrapped" {
		t.Errorf("%+v %v", r, err)
	}
}

// TestAction_ADeviceThatWasAwayIsNotBelievedOnItsOldConnection: it came back with the
// bundle that it had, and only the next connection proves the other one.
func TestAction_ADeviceThatWasAwayIsNotBelievedOnItsOldConnection(t *testing.T) {
	s := newSite(t, "")
	d := s.device("ONE")
	d.connect()
	d.leave()
	must(t, s.create("c1", `{"add":["root-2"]}`, d))
	s.pass(time.Second)
	s.pass(time.Second)
	s.is("c1", d, campaign.Offered, "")
	s.clock.Add(time.Minute)
	d.connect()
	s.clock.Add(10 * time.Second)
	e, err := s.jobs.StartNext(t.Context(), scope.Tenant, d.thing, jobs.Start{})
	must(t, err)
	d.report(e.Job, jobs.Succeeded, says([]string{s.old.id(), s.next.id()}))
	for range 3 {
		s.pass(time.Minute)
	}
	s.is("c1", d, campaign.Proving, "")
	d.connect()
	for range 3 {
		s.pass(time.Minute)
	}
	s.is("c1", d, campaign.Done, "")
}
