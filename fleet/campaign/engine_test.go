package campaign_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/fleet"
	"hallmark/fleet/campaign"
	"hallmark/fleet/jobs"
	"hallmark/fleet/rollout"
)

func TestCampaign_ReadsWindowsInTheZoneOfTheDevice(t *testing.T) {
	s := onSQLite(t, campaign.Config{})
	all := things(4)
	s.group("all", all...)
	s.connect(s.now, true, all...)
	s.zones[all[0]], s.zones[all[1]], s.zones[all[2]] = "Europe/Berlin", "America/New_York", "Nowhere/Atlantis"
	night, err := rollout.ParseCron("cron(0 2 ? * * *)")
	must(t, err)
	s.create("c", campaign.Spec{Targets: []string{"thinggroup/all"}, ZoneAttribute: "zone", Schedule: rollout.Schedule{Windows: []rollout.Maintenance{{Start: night, Minutes: 60}}}})
	s.pass(time.Second) // noon in UTC
	s.counts("c", "waiting 4")
	day := time.Date(2027, 3, 2, 0, 0, 0, 0, time.UTC)
	for i, hour := range []int{1, 7, 2, 2} { // Berlin is an hour ahead, New York five behind
		if m := s.member("c", all[i]); !m.NotBefore.Equal(day.Add(time.Duration(hour) * time.Hour)) {
			t.Errorf("%s: %s", all[i], m.NotBefore)
		}
	}
	s.now = day.Add(59 * time.Minute)
	s.pass(0)
	s.counts("c", "waiting 4")
	s.pass(2 * time.Minute)
	s.counts("c", "waiting 3 offered 1")
	s.pass(time.Hour)
	s.counts("c", "waiting 1 offered 3")
	// Nobody stepped while New York's window was open: it waits for the next night.
	s.pass(7 * time.Hour)
	s.counts("c", "waiting 1 offered 3")
	s.now = day.Add(31*time.Hour + time.Minute)
	s.pass(0)
	if m := s.member("c", all[1]); m.State != campaign.Offered {
		t.Errorf("%+v", m)
	}
}

func TestCampaign_SpreadsAStageAndGivesEachDeviceItsPlace(t *testing.T) {
	s := onSQLite(t, campaign.Config{})
	all := things(60)
	s.group("all", all...)
	s.connect(s.now, true, all...)
	spec := campaign.Spec{Kind: "test", Targets: []string{"thinggroup/all"}, Jitter: time.Hour}
	d, err := s.DryRun(t.Context(), "main", "c", spec, 60)
	must(t, err)
	s.create("c", spec)
	for minute := 1; minute <= 62; minute++ {
		s.pass(time.Minute)
	}
	s.counts("c", "offered 60")
	offers := map[int]int{}
	for _, x := range all {
		m := s.member("c", x)
		offers[int(m.Offered.Sub(d.Named[0].Earliest)/(10*time.Minute))]++
		if m.Offered.Before(m.NotBefore) || m.Offered.Sub(m.NotBefore) > 2*time.Minute {
			t.Errorf("%s was offered at %s, its time was %s", x, m.Offered, m.NotBefore)
		}
	}
	if len(offers) < 5 {
		t.Errorf("not spread: %v", offers)
	}
	// The dry run knew it, but for the minute after which the campaign began.
	for _, n := range d.Named {
		if m := s.member("c", n.Thing); m.NotBefore.Sub(n.Earliest).Abs() > 2*time.Minute {
			t.Errorf("%s: %s, dry run %s", n.Thing, m.NotBefore, n.Earliest)
		}
	}
}

func TestCampaign_DryRunSaysWhoWhenAndWhyNot(t *testing.T) {
	s := onSQLite(t, campaign.Config{TwoPeopleOver: 50})
	all := things(100)
	s.group("all", all...)
	s.group("lab", all[:4]...)
	s.skip[all[5]], s.skip[all[6]], s.skip[all[7]] = "already-new", "already-new", "no-certificate"
	spec := campaign.Spec{Kind: "test", Targets: []string{"thinggroup/all"}, Canary: "lab", CanaryWatch: time.Hour, Stages: []campaign.Stage{{Name: "half", Percent: 50, Watch: time.Minute}}, Rate: rollout.Rate{MaximumPerMinute: 20}}
	d, err := s.DryRun(t.Context(), "main", "c", spec, 10)
	must(t, err)
	if d.Things != 100 || d.Wanting != 97 || !d.TwoPeople || !d.More || len(d.Named) != 10 || len(d.Stages) != 3 || len(d.Skipped) != 2 || d.Skipped[0].Code != "already-new" || d.Skipped[0].Things != 2 {
		t.Fatalf("%+v", d)
	}
	for i, n := range []int64{4, 45, 48} {
		if d.Stages[i].Things != n {
			t.Errorf("%+v", d.Stages[i])
		}
	}
	if !d.Stages[1].Earliest.Equal(s.now.Add(time.Hour)) || d.Stages[1].Latest.Sub(d.Stages[1].Earliest) != 2*time.Minute {
		t.Errorf("%+v", d.Stages[1])
	}
	for _, n := range d.Named[:4] {
		if n.Stage != 0 || n.Before != "old" {
			t.Errorf("%+v", n)
		}
	}
	if list, err := s.Campaigns(t.Context(), main, "", "", 10); err != nil || len(list) != 0 {
		t.Errorf("the dry run stored something: %v %v", list, err)
	}
	for _, bad := range []campaign.Spec{
		{Kind: "else", Targets: spec.Targets}, {Kind: "test"}, {Kind: "test", Targets: []string{"thinggroup/none"}}, {Kind: "test", Targets: []string{"group/all"}},
		{Kind: "test", Targets: spec.Targets, Stages: []campaign.Stage{{Name: "a", Percent: 50}, {Name: "b", Percent: 50}}}, {Kind: "test", Targets: spec.Targets, Soak: -1},
		{Kind: "test", Targets: spec.Targets, Parameters: []byte(`"impossible"`)}, {Kind: "test", Targets: spec.Targets, Parameters: []byte(`{`)}, {Kind: "test", Targets: spec.Targets, Canary: "none"},
		{Kind: "test", Targets: spec.Targets, Reason: "fun"}, {Kind: "test", Targets: spec.Targets, Abort: rollout.Abort{Criteria: []rollout.AbortCriterion{{FailureType: "LATE", Percentage: 1, MinExecuted: 1}}}},
	} {
		if _, err := s.DryRun(t.Context(), "main", "c", bad, 0); err == nil {
			t.Errorf("%+v is taken", bad)
		}
		if _, err := s.Create(t.Context(), "main", "c", "ann", bad); err == nil {
			t.Errorf("%+v is taken", bad)
		}
	}
}

func TestCampaign_ContinuousPicksUpWhoBecomesATarget(t *testing.T) {
	s := onSQLite(t, campaign.Config{OnePerson: true, Sweep: time.Minute})
	all := things(10)
	s.group("all", all[:4]...)
	s.connect(s.now, true, all...)
	s.skip[all[1]] = "not-due"
	s.create("c", campaign.Spec{Targets: []string{"thinggroup/all"}, Stages: []campaign.Stage{{Name: "few", Percent: 40}}, Continuous: true})
	s.pass(time.Second)
	s.counts("c", "waiting 1 offered 2") // nobody is a row who wants nothing
	s.work("c", -1, jobs.Succeeded)
	s.pass(time.Second)
	s.pass(time.Second)
	s.work("c", -1, jobs.Succeeded)
	s.pass(time.Second)
	s.counts("c", "done 3")
	s.is("c", campaign.Running, "")
	// One becomes due, one joins, one is there for the second time.
	delete(s.skip, all[1])
	s.skip[all[2]], s.skip[all[3]] = "already-new", "already-new"
	s.group("all", all[0], all[1], all[2], all[3], all[7])
	s.pass(2 * time.Minute)
	s.counts("c", "offered 3 done 2")
	// One that has no targets is fed.
	if _, err := s.Feed(t.Context(), "main", "c", all); !errors.Is(err, campaign.ErrState) {
		t.Errorf("one with targets was fed: %v", err)
	}
	c, err := s.Open(t.Context(), "main", "fed", campaign.Spec{Kind: "test", Reason: campaign.Expiry, Continuous: true, Stages: []campaign.Stage{{Name: "few", Percent: 1, Watch: time.Hour}}})
	if err != nil || c.State != campaign.Running || c.CreatedBy != "configuration" {
		t.Fatalf("%+v %v", c, err)
	}
	s.pass(time.Second)
	for _, want := range []int{4, 0} { // the same again adds nobody
		if n, err := s.Feed(t.Context(), "main", "fed", []fleet.ThingName{all[8], all[2], all[4], all[5], all[6]}); err != nil || n != want {
			t.Fatalf("%d %v", n, err)
		}
	}
	s.pass(time.Second)
	s.counts("fed", "waiting 3 offered 1")
	s.work("fed", -1, jobs.Succeeded)
	s.pass(time.Second)
	s.pass(time.Hour)
	s.pass(time.Second)
	s.counts("fed", "offered 3 done 1")
	if c, err = s.Open(t.Context(), "main", "fed", campaign.Spec{Kind: "test", Continuous: true}); err != nil || c.Reason != campaign.Expiry {
		t.Errorf("%+v %v", c, err)
	}
}

func TestCampaign_S36_ManyDevicesTakeASecondPerson(t *testing.T) {
	s := onSQLite(t, campaign.Config{TwoPeopleOver: 5})
	all := things(12)
	s.group("few", all[:5]...)
	s.group("many", all[:6]...)
	s.connect(s.now, true, all...)
	ctx := t.Context()
	if c := s.create("small", campaign.Spec{Targets: []string{"thinggroup/few"}}); c.State != campaign.Running || !c.Approved || c.ApprovedBy != "" {
		t.Errorf("%+v", c)
	}
	c := s.create("big", campaign.Spec{Targets: []string{"thinggroup/many"}})
	if c.State != campaign.AwaitingApproval || c.Active {
		t.Fatalf("%+v", c)
	}
	if c := s.create("for-ever", campaign.Spec{Targets: []string{"thing/t00001"}, Continuous: true}); c.State != campaign.AwaitingApproval {
		t.Errorf("%+v", c)
	}
	s.group("few", all[:7]...) // it was for five, and is for seven by now
	s.pass(time.Second)
	s.is("small", campaign.AwaitingApproval, "grown")
	s.counts("small", "waiting 7")
	s.counts("big", "")
	if len(s.work("small", -1, jobs.Succeeded)) > 0 {
		t.Error("somebody was offered what nobody approved")
	}
	if _, err := s.Resume(ctx, "main", "big", "ann"); !errors.Is(err, campaign.ErrState) {
		t.Errorf("resumed without approval: %v", err)
	}
	if _, err := s.Approve(ctx, "main", "big", "another", "bob"); !errors.Is(err, campaign.ErrApproval) {
		t.Errorf("approved what was not seen: %v", err)
	}
	got, err := s.Approve(ctx, "main", "big", c.Hash(), "bob")
	if err != nil || got.State != campaign.Running || got.ApprovedBy != "bob" {
		t.Fatalf("%+v %v", got, err)
	}
	s.pass(time.Second)
	s.counts("big", "offered 6")
}

func TestCampaign_StopsWithoutProof(t *testing.T) {
	s := onSQLite(t, campaign.Config{})
	all := things(6)
	s.group("all", all[:5]...)
	s.group("lab", all[5])
	s.group("two", all[:2]...)
	s.connect(s.now, true, all...)
	s.create("a", campaign.Spec{Targets: []string{"thinggroup/all"}, Canary: "lab"})
	s.pass(time.Second)
	s.is("a", campaign.Stopped, "canary-empty")
	s.create("b", campaign.Spec{Targets: []string{"thinggroup/all"}, Canary: "two"})
	s.pass(time.Second)
	s.work("b", -1, jobs.Failed)
	s.pass(time.Second)
	s.is("b", campaign.Stopped, "nobody-proven")
	for _, id := range []string{"a", "b"} {
		_, err := s.Resume(t.Context(), "main", id, "ann")
		must(t, err)
	}
	s.pass(time.Second)
	s.counts("a", "offered 5")
	s.counts("b", "offered 3 failed 2")
}

func TestCampaign_TwoNodesOfferNobodyTwice(t *testing.T) {
	onBothEngines(t, func(t *testing.T, url string) {
		const n = 40
		a := newSite(t, url, campaign.Config{})
		b := *a // another node on the same database, SQLite allows one process
		if url[:4] == "post" {
			b.start("b")
			defer b.db.Close()
		} else {
			cfg := a.cfg
			cfg.Store, cfg.Jobs, cfg.Presence, cfg.Targets, cfg.Node, cfg.Now = a.db, a.jobs, a.world, a.world, "b", func() time.Time { return a.now }
			cfg.Actions = map[campaign.Kind]campaign.Action{"test": a.world}
			b.Service = campaign.New(cfg)
		}
		all := things(n)
		a.group("all", all...)
		a.connect(a.now, true, all...)
		a.create("c", campaign.Spec{Targets: []string{"thinggroup/all"}, Stages: []campaign.Stage{{Name: "half", Percent: 50}}, Soak: time.Minute})
		for range 60 {
			var wg sync.WaitGroup
			a.now = a.now.Add(10 * time.Second) // no lease keeps one out for long
			now := a.now
			for _, s := range []*campaign.Service{a.Service, b.Service} {
				wg.Go(func() {
					if err := s.Step(context.Background(), now); err != nil {
						t.Error(err)
					}
				})
			}
			wg.Wait()
			a.work("c", -1, jobs.Succeeded)
			if c := a.get("c"); c.State == campaign.Completed {
				break
			}
		}
		a.counts("c", fmt.Sprint("done ", n))
		for _, x := range all {
			if m := a.member("c", x); m.Attempt != 1 || a.way(x) != "waiting offered soaking done" {
				t.Fatalf("%+v: %s", m, a.way(x))
			}
		}
	})
}

// errKill ends what a process does at a point of its work.
var errKill = errors.New("killed")

// dying is a store whose transactions fail once there were so many: nothing of a
// process is left but what was committed.
type dying struct {
	campaign.Store
	left int
}

func (d *dying) Atomic(ctx context.Context, fn func(ctx context.Context) error) error {
	if d.left--; d.left < 0 {
		return errKill
	}
	return d.Store.Atomic(ctx, fn)
}

func TestCampaign_GoesOnAfterAKillAnywhere(t *testing.T) {
	s := onSQLite(t, campaign.Config{})
	all := things(60)
	s.group("all", all...)
	s.group("lab", all[:3]...)
	s.connect(s.now, true, all...)
	s.create("c", campaign.Spec{Targets: []string{"thinggroup/all"}, Canary: "lab", Stages: []campaign.Stage{{Name: "ten", Percent: 10}}})
	for i := 0; i < 400; i++ {
		// Each life ends after one to three transactions of the engine.
		cfg := s.cfg
		cfg.Store, cfg.Jobs, cfg.Presence, cfg.Targets, cfg.Node, cfg.Now = &dying{s.db, 1 + i%3}, s.jobs, s.world, s.world, "a", func() time.Time { return s.now }
		cfg.Actions = map[campaign.Kind]campaign.Action{"test": s.world}
		s.now = s.now.Add(time.Second)
		if err := campaign.New(cfg).Step(t.Context(), s.now); err != nil && !errors.Is(err, errKill) {
			t.Fatal(err)
		}
		s.work("c", 7, jobs.Succeeded)
		if s.get("c").State == campaign.Completed {
			break
		}
	}
	s.counts("c", "done 60")
	for _, x := range all {
		if got := s.way(x); got != "waiting offered soaking done" {
			t.Fatalf("%s: %s", x, got)
		}
	}
}

// Five thousand take four seconds where nothing else runs; CI has a tenth of them.
func TestCampaign_ThousandsOfDevices(t *testing.T) {
	n := 500
	if os.Getenv("HALLMARK_PROOF") != "" {
		n = 5000
	}
	s := onSQLite(t, campaign.Config{})
	all := things(n)
	s.group("all", all...)
	s.connect(s.now, true, all...)
	s.document, s.undo = "", "" // no job: the engine alone
	s.create("c", campaign.Spec{Targets: []string{"thinggroup/all"}, Stages: []campaign.Stage{{Name: "one", Percent: 1}, {Name: "ten", Percent: 10}}, Soak: time.Minute})
	start := time.Now()
	for i := 0; s.get("c").State != campaign.Completed; i++ {
		if i == 60 {
			t.Fatal(s.get("c"))
		}
		s.pass(30 * time.Second)
	}
	took := time.Since(start)
	t.Logf("%d devices through all their states in %s", n, took)
	s.counts("c", fmt.Sprint("done ", n))
}

func TestCampaign_TenantsAreApart(t *testing.T) {
	s := onSQLite(t, campaign.Config{})
	s.group("all", things(3)...)
	s.create("c", campaign.Spec{Targets: []string{"thinggroup/all"}})
	s.pass(time.Second)
	ctx, other := t.Context(), access.Scope{Tenant: "other"}
	if _, err := s.Campaign(ctx, other, "c"); !errors.Is(err, campaign.ErrUnknown) {
		t.Error(err)
	}
	if _, err := s.Member(ctx, other, "c", "t00001"); !errors.Is(err, campaign.ErrNoMember) {
		t.Error(err)
	}
	if list, err := s.Campaigns(ctx, other, "", "", 10); err != nil || len(list) != 0 {
		t.Errorf("%v %v", list, err)
	}
	if list, err := s.Timeline(ctx, other, "t00001", campaign.Step{}, 10); err != nil || len(list) != 0 {
		t.Errorf("%v %v", list, err)
	}
	if _, err := s.Cancel(ctx, "other", "c", "eve", ""); !errors.Is(err, campaign.ErrUnknown) {
		t.Error(err)
	}
}
