package rotation_test

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/ca/catest"
	"hallmark/fleet/campaign"
	"hallmark/fleet/jobs"
	"hallmark/fleet/registry"
	"hallmark/fleet/rotation"
	"hallmark/store"
)

// TestScan_FeedsACampaignWithItsReason: what ends within its group's window is
// reported, and comes into a continuous campaign once; who rotated is not due.
func TestScan_FeedsACampaignWithItsReason(t *testing.T) {
	rules := rotation.Rules{Window: time.Hour, Groups: []rotation.GroupWindow{{Group: "early", Window: 30 * 365 * 24 * time.Hour}}}
	s := newSite(t, "", rules)
	d, later := s.device("UNIT-1"), s.device("UNIT-2")
	_, err := s.Registry.CreateGroup(t.Context(), registry.Group{Tenant: scope.Tenant, Class: registry.ThingGroup, Name: "early"})
	must(t, err)
	must(t, s.Registry.AddToGroup(t.Context(), scope, registry.ThingGroup, "early", d.thing))
	due := func() (out []rotation.Due) {
		t.Helper()
		must(t, s.rotation.Due(t.Context(), scope.Tenant, 0, rotation.Due{}, func(d rotation.Due) bool { out = append(out, d); return true }))
		return out
	}
	if got := due(); len(got) != 1 || got[0].Thing != d.thing || got[0].Certificate != idOf(d.a) || got[0].Group != "early" || !got[0].NotAfter.Equal(d.a.NotAfter) {
		t.Fatalf("%+v", got)
	}
	// Without a campaign in the rules it only reports.
	if out, err := s.rotation.Scan(t.Context(), scope.Tenant, s.campaigns); err != nil || out.Due != 1 || out.Fed != 0 {
		t.Errorf("%+v %v", out, err)
	}
	rules.Campaign = &campaign.Spec{Soak: time.Hour, Parameters: json.RawMessage(`{"issuedBefore":"2999-01-01T00:00:00Z"}`)}
	s.rotation = rotation.New(rotation.Config{Registry: s.Registry, Presence: s.DB, Revoker: s.Crl, Store: s.DB, Rules: rules, Now: s.clock.Now})
	for want := range []int64{1, 0} {
		out, err := s.rotation.Scan(t.Context(), scope.Tenant, s.campaigns)
		if err != nil || out.Fed != int64(1-want) {
			t.Errorf("%+v %v", out, err)
		}
	}
	if got := s.rotation.Totals(); got.Due != 1 || got.Foreign != 0 || got.Fed != 1 || !got.Soonest.Equal(d.a.NotAfter) || got.Scanned.IsZero() {
		t.Errorf("%+v", got)
	}
	c, err := s.campaigns.Campaign(t.Context(), scope, rotation.ExpiryCampaign)
	if err != nil || c.Reason != campaign.Expiry || !c.Continuous || c.CreatedBy != "configuration" {
		t.Fatalf("%+v %v", c, err)
	}
	for range 3 {
		s.pass(time.Second)
	}
	s.is(rotation.ExpiryCampaign, d, campaign.Offered, "")
	d.rotate("campaign-" + rotation.ExpiryCampaign)
	s.pass(time.Second)
	s.pass(2 * time.Hour)
	s.is(rotation.ExpiryCampaign, d, campaign.Done, "")
	if got := s.rotation.Totals().Events; got[rotation.Renewed] != 1 {
		t.Errorf("%v", got)
	}
	if _, err := s.campaigns.Member(t.Context(), scope, rotation.ExpiryCampaign, later.thing); err == nil {
		t.Error("a device whose window is not there yet is in the campaign")
	}
	if got, err := s.rotation.History(t.Context(), access.Scope{Tenant: "other"}, d.thing, 10); err != nil || len(got) > 0 {
		t.Errorf("another tenant sees %v, %v", got, err)
	}
}

// TestWindow_SpreadsAFleetBetween50And67PercentOfLife, the same for a certificate each
// time it is asked.
func TestWindow_SpreadsAFleetBetween50And67PercentOfLife(t *testing.T) {
	from := time.Date(2027, 1, 1, 0, 0, 0, 0, time.UTC)
	to := from.Add(1000 * 24 * time.Hour)
	var perTenth [10]int
	const fleetSize = 10_000
	for i := range fleetSize {
		f := sha256.Sum256(fmt.Append(nil, i))
		w := rotation.WindowOf(f, from, to)
		if w != rotation.WindowOf(f, from, to) || w.Start.Before(from.Add(500*24*time.Hour)) || w.End.After(from.Add(670*24*time.Hour)) || w.End.Sub(w.Start) != 10*24*time.Hour {
			t.Fatalf("%+v", w)
		}
		perTenth[int(w.Start.Sub(from.Add(500*24*time.Hour))/(16*24*time.Hour))]++
	}
	if least, most := slices.Min(perTenth[:]), slices.Max(perTenth[:]); least < fleetSize/13 || most > fleetSize/8 {
		t.Errorf("it is not even: %v", perTenth)
	}
	w := rotation.WindowOf([32]byte{}, to, from) // of no life
	if !w.Start.Equal(w.End) || w.Again(from) > 24*time.Hour || w.Again(to.Add(time.Hour)) < time.Minute {
		t.Errorf("%+v", w)
	}
}

// TestA50_ADeviceThatDiesAtAnyStepIsNotBricked is the service's side of it: each
// device stops at a random step and comes back, or never does. At the end each works
// with something that it holds, and has at most one certificate extra. 30 devices here,
// 1,000 in the long form.
func TestA50_ADeviceThatDiesAtAnyStepIsNotBricked(t *testing.T) {
	n := 30
	if os.Getenv("HALLMARK_PROOF") == "1" {
		n = 1000
	}
	s := newSite(t, "", rotation.Rules{})
	rnd := rand.New(rand.NewPCG(50, 50))
	devices := make([]*device, n)
	for i := range devices {
		devices[i] = s.device(fmt.Sprintf("UNIT-%d", i))
	}
	s.create("c", campaign.Spec{Soak: time.Hour, Timeout: 2 * time.Hour, Silence: time.Hour}, devices...)
	for range 3 + n/100 {
		s.pass(time.Minute)
	}
	// Each line is a step after which power is cut.
	type cut struct{ step, back int } // back: hours until it comes back; 0 is never
	cuts := make([]cut, n)
	run := func(d *device, until int) {
		for step := 0; step <= until; step++ {
			switch step {
			case 0:
				d.report(job, jobs.InProgress, nil)
			case 1: // the key is on disk
				if d.bKey == nil {
					d.bKey = catest.NewKey(t)
				}
			case 2: // the answer may get lost: until 2 means that it did
				b, err := d.renew(d.a, d.bKey)
				if err == nil && until > 2 {
					d.b = b
				}
			case 3: // B is on disk
			case 4:
				if d.b == nil || d.connect(d.b) != nil {
					must(t, d.connect(d.a))
					d.report(job, jobs.Failed, map[string]string{"step": "fallback", "code": "not-accepted"})
					return
				}
			case 5:
				d.report(job, jobs.Succeeded, map[string]string{"certificateId": idOf(d.b)})
			}
		}
	}
	gone := func(d *device) {
		c := d.a
		if d.b != nil && s.works(d.b) {
			c = d.b
		}
		d.put(c, false)
	}
	for i, d := range devices {
		cuts[i] = cut{rnd.IntN(7) - 1, rnd.IntN(4)}
		run(d, cuts[i].step)
		if cuts[i].step < 5 {
			gone(d)
		}
	}
	for hour := 1; hour <= 8; hour++ {
		for range 4 {
			s.pass(15 * time.Minute)
			for _, d := range devices {
				if !s.works(d.a) && !s.works(d.b) {
					t.Fatalf("%s has nothing that works: cut %+v", d.thing, cuts[slices.Index(devices, d)])
				}
			}
		}
		for i, d := range devices {
			if cuts[i].step >= 5 || cuts[i].back != hour {
				continue
			}
			// It comes back with what works, and resumes if the job is still there.
			if d.connect(d.a) != nil {
				must(t, d.connect(d.b))
			}
			if m := s.member("c", d); m.State == campaign.Working || m.State == campaign.Offered || m.State == campaign.Asleep {
				run(d, 5)
			}
		}
	}
	for _, d := range devices {
		if live := s.live(d); live < 1 || live > 2 {
			t.Errorf("%s has %d live certificates", d.thing, live)
		}
		m := s.member("c", d)
		switch {
		case m.State == campaign.Done && s.works(d.a):
			t.Errorf("%s is done and A still lives", d.thing)
		case m.State != campaign.Done && m.After == "" && !s.works(d.a):
			t.Errorf("%s is %s and A does not live", d.thing, m.State)
		}
	}
	c, err := s.campaigns.Campaign(t.Context(), scope, "c")
	must(t, err)
	t.Logf("%d devices: %v", n, c.Counts)
}

// TestScan_AnOpenCampaignFollowsAChangedConfiguration: after a restart with a wider window,
// what is due by it comes into the campaign that is open; with a narrower one who waits is
// left alone, and who was offered it stays; without a campaign nobody begins.
func TestScan_AnOpenCampaignFollowsAChangedConfiguration(t *testing.T) {
	s := newSite(t, "", rotation.Rules{})
	restart := func(window time.Duration, groups []rotation.GroupWindow, spec *campaign.Spec) rotation.Scanned {
		t.Helper()
		s.rotation = rotation.New(rotation.Config{Registry: s.Registry, Presence: store.Contacts{DB: s.DB}, Revoker: s.Crl, Store: s.DB, Rules: rotation.Rules{Window: window, Groups: groups, Campaign: spec}, Now: s.clock.Now})
		out, err := s.rotation.Scan(t.Context(), scope.Tenant, s.campaigns)
		must(t, err)
		return out
	}
	first := s.device("UNIT-1")
	s.clock.Add(10 * time.Minute)
	second, third := s.device("UNIT-2"), s.device("UNIT-3")
	_, err := s.Registry.CreateGroup(t.Context(), registry.Group{Tenant: scope.Tenant, Class: registry.ThingGroup, Name: "early"})
	must(t, err)
	must(t, s.Registry.AddToGroup(t.Context(), scope, registry.ThingGroup, "early", first.thing))

	ends := first.a.NotAfter.Sub(s.clock.Now())
	narrow := ends - 10*time.Minute // nobody is due by it yet
	if out := restart(narrow, nil, &campaign.Spec{}); out.Due != 0 {
		t.Fatalf("%+v", out)
	}
	if out := restart(narrow, []rotation.GroupWindow{{Group: "early", Window: ends + time.Minute}}, &campaign.Spec{}); out.Fed != 1 {
		t.Fatalf("%+v", out)
	}
	s.pass(time.Second)
	s.pass(time.Second)
	s.is(rotation.ExpiryCampaign, first, campaign.Offered, "")

	// Wider, for all: and they wait for two days at most.
	if out := restart(ends+365*24*time.Hour, nil, &campaign.Spec{Jitter: 48 * time.Hour}); out.Due != 3 || out.Fed != 2 {
		t.Fatalf("%+v", out)
	}
	c, err := s.campaigns.Campaign(t.Context(), scope, rotation.ExpiryCampaign)
	if err != nil || c.Jitter != 48*time.Hour || c.State != campaign.Running {
		t.Fatalf("%+v %v", c, err)
	}
	s.pass(time.Second)
	s.is(rotation.ExpiryCampaign, second, campaign.Waiting, "")

	// Narrower: nobody is due. Who waits is told nothing; who was offered it goes on.
	if out := restart(time.Hour, nil, &campaign.Spec{}); out.Due != 0 {
		t.Fatalf("%+v", out)
	}
	s.pass(time.Second)
	first.rotate("campaign-" + rotation.ExpiryCampaign)
	s.pass(49 * time.Hour)
	s.is(rotation.ExpiryCampaign, second, campaign.Skipped, "expires-later")
	s.is(rotation.ExpiryCampaign, third, campaign.Skipped, "expires-later")
	if m := s.member(rotation.ExpiryCampaign, first); m.State != campaign.Soaking && m.State != campaign.Done {
		t.Errorf("%+v", m)
	}

	restart(time.Hour, nil, nil)
	if c, err = s.campaigns.Campaign(t.Context(), scope, rotation.ExpiryCampaign); err != nil || c.State != campaign.Paused || c.Code != "not-configured" {
		t.Errorf("%s %q %v", c.State, c.Code, err)
	}
}
