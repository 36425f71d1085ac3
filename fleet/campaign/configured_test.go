package campaign_test

import (
	"testing"
	"time"

	"hallmark/fleet"
	"hallmark/fleet/campaign"
	"hallmark/fleet/jobs"
	"hallmark/fleet/rollout"
)

func (s *site) open(spec campaign.Spec) {
	s.t.Helper()
	spec.Kind, spec.Continuous = "test", true
	_, err := s.Open(s.t.Context(), "main", "c", spec)
	must(s.t, err)
}

func (s *site) follows(spec *campaign.Spec) {
	s.t.Helper()
	if spec != nil {
		spec.Kind, spec.Continuous = "test", true
	}
	must(s.t, s.Follow(s.t.Context(), "main", "c", spec))
}

func (s *site) feed(want int, things ...fleet.ThingName) {
	s.t.Helper()
	if n, err := s.Feed(s.t.Context(), "main", "c", things); err != nil || n != want {
		s.t.Fatalf("added %d, not %d, %v", n, want, err)
	}
}

// What the configuration says of an open campaign counts from then on; what was offered
// stays offered.
func TestFollow_AnOpenCampaignDoesAsTheConfigurationSaysNow(t *testing.T) {
	onBothEngines(t, func(t *testing.T, url string) {
		s := newSite(t, url, campaign.Config{})
		all := things(6)
		s.connect(s.now, true, all...)
		s.open(campaign.Spec{Rate: rollout.Rate{MaximumPerMinute: 1}})
		s.feed(6, all...)
		s.pass(time.Second)
		s.counts("c", "waiting 5 offered 1")
		s.follows(&campaign.Spec{Rate: rollout.Rate{MaximumPerMinute: 3}, Soak: time.Hour, Abort: rollout.Abort{Criteria: []rollout.AbortCriterion{{FailureType: "ALL", Action: "CANCEL", Percentage: 50, MinExecuted: 1}}}})
		c := s.get("c")
		if c.State != campaign.Running || c.Soak != time.Hour || c.CreatedBy != "configuration" || c.By != "" {
			t.Fatalf("%+v", c)
		}
		version := c.Version
		s.follows(&campaign.Spec{Rate: rollout.Rate{MaximumPerMinute: 3}, Soak: time.Hour, Abort: c.Abort})
		if c = s.get("c"); c.Version != version {
			t.Error("what is as it was is written again")
		}
		s.pass(time.Second)
		s.counts("c", "waiting 3 offered 3")
		s.work("c", 1, jobs.Failed)
		s.pass(time.Second)
		s.is("c", campaign.Stopped, "threshold")
		// A person decides whether it goes on, whatever the configuration says next.
		s.follows(&campaign.Spec{Rate: rollout.Rate{MaximumPerMinute: 5}})
		s.is("c", campaign.Stopped, "threshold")
		_, err := s.Resume(t.Context(), "main", "c", "bob")
		must(t, err)
		s.follows(&campaign.Spec{Rate: rollout.Rate{MaximumPerMinute: 6}})
		if c = s.get("c"); c.By != "bob" || c.Rate.MaximumPerMinute != 6 {
			t.Errorf("%+v", c)
		}
	})
}

// What people made and approved is not the configuration's, and what ended stays so.
func TestFollow_LeavesAloneWhatPeopleDecided(t *testing.T) {
	s := onSQLite(t, campaign.Config{OnePerson: true})
	s.follows(&campaign.Spec{}) // there is none
	s.create("c", campaign.Spec{Continuous: true})
	made := s.get("c")
	s.follows(&campaign.Spec{Soak: time.Hour})
	s.follows(nil)
	if c := s.get("c"); c.Version != made.Version || c.Hash() != made.Hash() {
		t.Errorf("%+v", c)
	}

	s = onSQLite(t, campaign.Config{})
	s.open(campaign.Spec{})
	_, err := s.Cancel(t.Context(), "main", "c", "bob", "enough")
	must(t, err)
	s.follows(&campaign.Spec{Soak: time.Hour})
	s.follows(nil)
	if s.is("c", campaign.Canceled, "canceled"); s.get("c").Soak != 0 {
		t.Error("it follows after its end")
	}
}

// Without a campaign in the configuration nobody begins; with one again it goes on, but
// not if a person paused it.
func TestFollow_PausesWhatTheConfigurationHasNoMore(t *testing.T) {
	s := onSQLite(t, campaign.Config{})
	all := things(2)
	s.connect(s.now, true, all...)
	s.open(campaign.Spec{})
	s.feed(2, all...)
	s.pass(time.Second)
	s.counts("c", "offered 2")
	s.report(all[0], "campaign-c", jobs.InProgress)
	s.follows(nil)
	s.is("c", campaign.Paused, "not-configured")
	s.follows(nil)
	s.pass(time.Second)
	s.counts("c", "waiting 1 working 1")
	s.follows(&campaign.Spec{})
	s.is("c", campaign.Running, "")
	s.pass(time.Second)
	s.counts("c", "offered 1 working 1")
	_, err := s.Pause(t.Context(), "main", "c", "bob")
	must(t, err)
	s.follows(nil)
	s.follows(&campaign.Spec{Soak: time.Hour})
	if s.is("c", campaign.Paused, ""); s.get("c").By != "bob" || s.get("c").Soak != time.Hour {
		t.Errorf("%+v", s.get("c"))
	}
}

// A shorter time-out counts anew for those who are under way: a fleet does not time out
// because somebody restarted the service.
func TestFollow_AShorterTimeoutCountsFromTheChange(t *testing.T) {
	s := onSQLite(t, campaign.Config{})
	all := things(4)
	s.connect(s.now, true, all[:2]...)
	s.connect(s.now.Add(-time.Hour), false, all[2:]...)
	s.open(campaign.Spec{Timeout: 48 * time.Hour})
	s.feed(4, all...)
	s.pass(time.Second)
	s.report(all[1], "campaign-c", jobs.InProgress)
	s.report(all[2], "campaign-c", jobs.InProgress)
	s.pass(40 * time.Hour)
	s.counts("c", "offered 2 working 2")
	s.follows(&campaign.Spec{Timeout: 10 * time.Hour})
	for range 9 {
		s.pass(time.Hour)
	}
	s.counts("c", "offered 2 working 2")
	s.pass(time.Hour + time.Minute)
	s.counts("c", "asleep 1 timed-out 2 silent 1")
}

// Until the canary's stage is over another group may be the canary; those that are in the
// stage stay in it, and the stage waits for the new ones.
func TestFollow_ACanaryCountsUntilItsStageIsOver(t *testing.T) {
	s := onSQLite(t, campaign.Config{})
	all := things(6)
	s.group("lab", "x00001") // none of the campaign's
	s.group("porch", all[3])
	s.group("hall", all[4])
	s.connect(s.now, true, all...)
	s.open(campaign.Spec{Canary: "lab"})
	s.feed(6, all...)
	s.pass(time.Second)
	s.is("c", campaign.Stopped, "canary-empty")
	porch := campaign.Spec{Canary: "porch", CanaryWatch: time.Hour}
	s.follows(&porch)
	s.feed(0, all...)
	_, err := s.Resume(t.Context(), "main", "c", "ann")
	must(t, err)
	s.pass(time.Second)
	s.counts("c", "waiting 5 offered 1")
	if m := s.member("c", all[3]); m.State != campaign.Offered || m.Stage != 0 {
		t.Fatalf("%+v", m)
	}
	hall := campaign.Spec{Canary: "hall", CanaryWatch: time.Hour}
	s.follows(&hall)
	s.feed(0, all...)
	s.pass(time.Second)
	s.counts("c", "waiting 4 offered 2")
	s.work("c", -1, jobs.Succeeded)
	s.pass(time.Second)
	s.pass(time.Second)
	s.counts("c", "waiting 4 done 2")
	s.pass(2 * time.Hour)
	s.pass(time.Second)
	s.counts("c", "offered 4 done 2")

	// Now it is for all, and stays so: the stages are told as they were.
	s.follows(&campaign.Spec{Soak: time.Minute})
	if c := s.get("c"); c.Canary != "hall" || c.Stage != 1 || c.Soak != time.Minute || len(c.Plan()) != 2 {
		t.Errorf("%+v", c)
	}

	s = onSQLite(t, campaign.Config{})
	s.group("lab", all[0])
	s.connect(s.now, true, all...)
	s.open(campaign.Spec{Canary: "lab"})
	s.feed(6, all...)
	s.pass(time.Second)
	s.counts("c", "waiting 5 offered 1")
	s.follows(&campaign.Spec{}) // without a canary it is for all at once
	s.pass(time.Second)
	s.counts("c", "offered 6")
	s.follows(&campaign.Spec{Canary: "lab"})
	s.pass(time.Second)
	if c := s.get("c"); c.Canary != "" || c.Counts.Of(campaign.Offered) != 6 {
		t.Errorf("%+v", c)
	}
}
