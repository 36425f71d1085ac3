package campaign_test

import (
	"testing"
	"time"

	"hallmark/fleet/campaign"
	"hallmark/fleet/jobs"
	"hallmark/fleet/rollout"
)

func TestCampaign_GoesThroughItsStages(t *testing.T) {
	onBothEngines(t, func(t *testing.T, url string) {
		s := newSite(t, url, campaign.Config{})
		all := things(100)
		s.group("all", all...)
		s.group("lab", all[0], all[50], "elsewhere")
		s.connect(s.now, true, all...)
		s.skip["t00007"] = "already-new"
		s.create("c", campaign.Spec{Targets: []string{"thinggroup/all", "thing/t00003"}, Canary: "lab", CanaryWatch: time.Hour,
			Stages: []campaign.Stage{{Name: "ten", Percent: 10, Watch: 10 * time.Minute}, {Name: "half", Percent: 50, Watch: time.Minute}}, Soak: 30 * time.Minute})
		s.pass(time.Second)
		s.counts("c", "waiting 97 offered 2 skipped 1")
		if m := s.member("c", all[50]); m.State != campaign.Offered || m.Stage != 0 || m.Before != "old" {
			t.Fatalf("%+v", m)
		}
		s.work("c", -1, jobs.Succeeded)
		s.pass(time.Second)
		s.counts("c", "waiting 97 soaking 2 skipped 1")
		s.pass(59 * time.Minute) // the soak is over, the watch is not
		s.counts("c", "waiting 97 done 2 skipped 1")
		s.pass(time.Minute)
		s.pass(time.Second)
		s.counts("c", "waiting 89 offered 8 done 2 skipped 1") // ten of 99, rounded up, with the canary
		s.work("c", -1, jobs.InProgress)
		s.pass(time.Second)
		s.counts("c", "waiting 89 working 8 done 2 skipped 1")
		list, err := s.Members(t.Context(), main, "c", campaign.Working, "", 250)
		must(t, err)
		for _, m := range list {
			s.report(m.Thing, "campaign-c", jobs.Succeeded)
		}
		s.pass(time.Second)
		s.counts("c", "waiting 89 soaking 8 done 2 skipped 1")
		s.pass(10 * time.Minute)
		s.pass(time.Second)
		if c := s.get("c"); c.Stage != 2 || c.Counts.In(2, campaign.Offered) != 40 {
			t.Fatalf("%+v", c)
		}
		s.work("c", -1, jobs.Succeeded)
		s.pass(time.Second)
		s.pass(time.Minute)
		s.pass(time.Second)
		s.work("c", -1, jobs.Succeeded)
		s.pass(time.Second)
		s.counts("c", "soaking 97 done 2 skipped 1")
		s.is("c", campaign.Running, "")
		s.pass(time.Hour)
		s.pass(time.Second)
		s.counts("c", "done 99 skipped 1")
		s.is("c", campaign.Completed, "")
		if c := s.get("c"); c.Active || c.FinishedAt.IsZero() {
			t.Errorf("%+v", c.Progress)
		}
		s.pass(time.Second)
		if j, err := s.jobs.Job(t.Context(), "main", "campaign-c"); err != nil || j.Status != jobs.JobCompleted || j.Counts.Succeeded != 99 {
			t.Errorf("%+v %v", j, err)
		}
		if len(s.finished) != 99 {
			t.Errorf("%d finished", len(s.finished))
		}
		for _, n := range s.finished {
			if n != 1 {
				t.Errorf("finished %d times", n)
			}
		}
		if got := s.way("T00000"); got != "waiting offered soaking done" {
			t.Error(got)
		}
		if got := s.way("t00007"); got != "skipped(already-new)" {
			t.Error(got)
		}
	})
}

func TestCampaign_StopsAtTheCanary(t *testing.T) {
	s := onSQLite(t, campaign.Config{})
	all := things(50)
	s.group("all", all...)
	s.group("lab", all[:10]...)
	s.connect(s.now, true, all...)
	s.create("c", campaign.Spec{Targets: []string{"thinggroup/all"}, Canary: "lab", Abort: rollout.Abort{Criteria: []rollout.AbortCriterion{{FailureType: rollout.All, Percentage: 20, MinExecuted: 5}}}})
	s.pass(time.Second)
	s.counts("c", "waiting 40 offered 10")
	s.broken[all[0]] = true
	s.work("c", 4, jobs.Succeeded)
	s.pass(time.Second)
	s.counts("c", "waiting 40 offered 6 done 3 failed 1")
	s.is("c", campaign.Running, "")
	if n, err := s.Nearest(t.Context()); err != nil || n != 0 || len(s.Stops()) != 0 { // four ended, five decide
		t.Errorf("%v %v %v", n, s.Stops(), err)
	}
	s.report(all[4], "campaign-c", jobs.Rejected)
	s.pass(time.Second)
	s.is("c", campaign.Stopped, "threshold")
	if got := s.Stops(); len(got) != 1 || got["threshold"] != 1 {
		t.Errorf("%v", got)
	}
	// What nobody began is taken back: a device that comes now gets nothing.
	s.counts("c", "waiting 45 done 3 failed 1 rejected 1")
	if v, err := s.jobs.StartNext(t.Context(), "main", all[9], jobs.Start{}); err != nil || v != nil {
		t.Fatalf("%v %v", v, err)
	}
	if s.lost[all[0]] != campaign.Failed || s.lost[all[4]] != campaign.Rejected || len(s.lost) != 2 {
		t.Errorf("%v", s.lost)
	}
	// A person looks at it and goes on: what is known is forgiven, and counted anew.
	_, err := s.Resume(t.Context(), "main", "c", "ann")
	must(t, err)
	s.pass(time.Second)
	s.counts("c", "waiting 40 offered 5 done 3 failed 1 rejected 1")
	s.work("c", -1, jobs.Succeeded)
	s.pass(time.Second)
	s.pass(time.Second)
	s.counts("c", "offered 40 done 8 failed 1 rejected 1")
	s.work("c", 3, jobs.Failed)
	s.pass(time.Second)
	s.is("c", campaign.Stopped, "threshold")
	f, err := s.Failures(t.Context(), main, "c")
	if err != nil || len(f) != 3 || f[0] != (campaign.Failure{State: campaign.Failed, Code: "device-failed", Members: 3}) || f[1].Code != "test-broken" {
		t.Errorf("%+v %v", f, err)
	}
	if got := s.way(all[9]); got != "waiting offered waiting(taken-back) offered soaking done" {
		t.Error(got)
	}
}

func TestCampaign_PausesResumesAndCancels(t *testing.T) {
	s := onSQLite(t, campaign.Config{})
	all := things(30)
	s.group("all", all...)
	s.connect(s.now, true, all...)
	ctx := t.Context()
	s.create("c", campaign.Spec{Targets: []string{"thinggroup/all"}, Rate: rollout.Rate{MaximumPerMinute: 10}, Soak: time.Hour})
	s.pass(time.Second)
	s.counts("c", "waiting 20 offered 10")
	s.report(all[0], "campaign-c", jobs.InProgress)
	s.work("c", 4, jobs.InProgress)
	_, err := s.Pause(ctx, "main", "c", "ann")
	must(t, err)
	s.pass(time.Minute)
	s.is("c", campaign.Paused, "")
	c := s.get("c")
	if began := c.Counts.Of(campaign.Working); began < 4 || began > 5 || c.Counts.Of(campaign.Waiting) != 30-began || c.By != "ann" {
		t.Fatalf("%v by %q", c.Counts, c.By)
	}
	if _, err := s.Pause(ctx, "main", "c", "ann"); err == nil {
		t.Error("paused twice")
	}
	_, err = s.Resume(ctx, "main", "c", "ann")
	must(t, err)
	s.pass(time.Second)
	if n := s.get("c").Counts.Of(campaign.Offered); n != 10 {
		t.Errorf("%d offered after the pause", n)
	}
	_, err = s.Cancel(ctx, "main", "c", "bob", "no more")
	must(t, err)
	s.pass(time.Second)
	c = s.get("c")
	working := c.Counts.Of(campaign.Working)
	if c.State != campaign.Canceled || c.Detail != "no more" || c.By != "bob" || c.Counts.Of(campaign.Offered) != 0 || !c.Active {
		t.Fatalf("%+v %v", c.Progress, c.Counts)
	}
	// What had begun ends, soak and all, and then it is over.
	list, err := s.Members(ctx, main, "c", campaign.Working, "", 250)
	must(t, err)
	for _, m := range list {
		s.report(m.Thing, "campaign-c", jobs.Succeeded)
	}
	s.pass(time.Second)
	s.pass(2 * time.Hour)
	s.pass(time.Second)
	if c = s.get("c"); c.Active || c.Counts.Of(campaign.Done) != working || c.Counts.Of(campaign.Waiting) != 30-working {
		t.Errorf("%+v %v", c.Progress, c.Counts)
	}
}

func TestCampaign_RollsBack(t *testing.T) {
	onBothEngines(t, func(t *testing.T, url string) {
		s := newSite(t, url, campaign.Config{})
		all := things(40)
		s.group("all", all...)
		s.group("lab", all[:12]...)
		s.connect(s.now, true, all...)
		ctx := t.Context()
		s.create("c", campaign.Spec{Targets: []string{"thinggroup/all"}, Canary: "lab", CanaryWatch: time.Hour, Soak: time.Minute, Timeout: 10 * time.Minute})
		s.pass(time.Second)
		s.broken[all[2]] = true
		for _, x := range all[:4] {
			s.report(x, "campaign-c", jobs.Succeeded)
		}
		s.report(all[4], "campaign-c", jobs.InProgress)
		s.report(all[5], "campaign-c", jobs.Rejected)
		s.report(all[6], "campaign-c", jobs.Failed)
		s.pass(time.Second)
		s.pass(2 * time.Minute)
		s.report(all[7], "campaign-c", jobs.Succeeded)
		s.pass(time.Second)
		s.counts("c", "waiting 28 offered 4 working 1 soaking 1 done 3 failed 2 rejected 1")
		_, err := s.Rollback(ctx, "main", "c", "ann", "bad")
		must(t, err)
		s.pass(time.Second)
		s.counts("c", "waiting 32 rejected 1 undoing 7")
		if v, err := s.jobs.Describe(ctx, "main", all[4], jobs.Next, 0, true); err != nil || v.Job != "campaign-c-undo" || string(v.Document) != s.undo {
			t.Fatalf("%+v %v", v, err)
		}
		s.connect(s.now, false, all[3])
		s.report(all[0], "campaign-c-undo", jobs.Failed)
		for _, x := range []int{1, 2, 4, 6} {
			s.report(all[x], "campaign-c-undo", jobs.Succeeded)
		}
		s.pass(time.Second)
		s.counts("c", "waiting 32 failed 1 rejected 1 undoing 2 undone 4")
		s.pass(11 * time.Minute) // of two who do not answer one is there
		s.counts("c", "waiting 32 failed 2 rejected 1 undoing 1 undone 4")
		s.is("c", campaign.RollingBack, "rolled-back")
		s.connect(s.now, true, all[3])
		s.report(all[3], "campaign-c-undo", jobs.Succeeded)
		s.pass(time.Second)
		s.counts("c", "waiting 32 failed 2 rejected 1 undone 5")
		if c := s.get("c"); c.State != campaign.Canceled || !c.RolledBack || c.Active {
			t.Errorf("%+v", c.Progress)
		}
		if len(s.undone) != 5 || s.undone[all[0]] != 0 || s.undone[all[3]] != 1 {
			t.Errorf("%v", s.undone)
		}
		if m := s.member("c", all[0]); m.Code != "undo-device-failed" {
			t.Errorf("%+v", m)
		}
		if m := s.member("c", all[7]); m.Code != "undo-timed-out" {
			t.Errorf("%+v", m)
		}
		if _, err := s.Rollback(ctx, "main", "c", "ann", ""); err == nil {
			t.Error("rolled back twice")
		}
	})
}

func TestCampaign_RollBackLeavesWhatIsFinal(t *testing.T) {
	s := onSQLite(t, campaign.Config{})
	all := things(6)
	s.group("all", all...)
	s.connect(s.now, true, all...)
	s.final, s.undo = true, ""
	s.create("c", campaign.Spec{Targets: []string{"thinggroup/all"}, Soak: time.Minute})
	s.pass(time.Second)
	s.work("c", 2, jobs.Succeeded)
	s.pass(time.Second)
	s.pass(2 * time.Minute)
	s.work("c", 2, jobs.Succeeded)
	s.pass(time.Second)
	s.counts("c", "offered 2 soaking 2 done 2")
	_, err := s.Rollback(t.Context(), "main", "c", "ann", "")
	must(t, err)
	s.pass(time.Second)
	s.counts("c", "waiting 2 done 2 undone 2")
	s.is("c", campaign.Canceled, "rolled-back")
	if len(s.undone) != 2 {
		t.Errorf("%v", s.undone)
	}
}

func TestCampaign_KnowsWhoSleepsWhoIsLateAndWhoIsLost(t *testing.T) {
	s := onSQLite(t, campaign.Config{})
	all := things(6)
	s.group("all", all...)
	s.group("lab", all[:5]...)
	s.connect(s.now, true, all...)
	s.connect(s.now, false, all[0])
	s.unproven[all[4]] = true
	s.create("c", campaign.Spec{Targets: []string{"thinggroup/all"}, Canary: "lab", Timeout: time.Hour, Silence: 20 * time.Minute, Soak: 2 * time.Hour})
	s.pass(time.Second)
	s.counts("c", "waiting 1 offered 5")
	s.report(all[1], "campaign-c", jobs.InProgress)
	s.report(all[2], "campaign-c", jobs.Succeeded)
	s.report(all[4], "campaign-c", jobs.Succeeded)
	s.pass(time.Second)
	s.counts("c", "waiting 1 offered 2 working 1 proving 1 soaking 1")
	s.connect(s.now, false, all[1])
	s.pass(21 * time.Minute) // the second began and went away; the first never was there
	s.counts("c", "waiting 1 offered 2 proving 1 soaking 1 silent 1")
	s.pass(40 * time.Minute)
	// The fourth was there for an hour and did nothing, the fifth is done and was not proven.
	s.pass(time.Second)
	s.counts("c", "offered 1 asleep 1 soaking 1 timed-out 2 silent 1")
	for i, code := range map[int]string{1: "silent", 3: "not-begun", 4: "not-proven"} {
		if m := s.member("c", all[i]); m.Code != code {
			t.Errorf("%s: %+v", code, m)
		}
	}
	// The sleeper did not hold up the stage, and comes back.
	s.connect(s.now, true, all[0])
	s.report(all[0], "campaign-c", jobs.Succeeded)
	s.pass(time.Second)
	s.counts("c", "offered 1 soaking 2 timed-out 2 silent 1")
	// Who falls silent in the soak is lost, and not finished.
	s.connect(s.now, false, all[2])
	s.pass(30 * time.Minute)
	s.counts("c", "offered 1 soaking 1 timed-out 2 silent 2")
	if len(s.finished) != 0 || s.lost[all[2]] != campaign.Silent {
		t.Errorf("%v %v", s.finished, s.lost)
	}
	if v, err := s.jobs.StartNext(t.Context(), "main", all[3], jobs.Start{}); err != nil || v != nil {
		t.Errorf("a device that was too late may begin: %v %v", v, err)
	}
	if got := s.way(all[0]); got != "waiting offered asleep(asleep) soaking" {
		t.Error(got)
	}
}
