package campaign_test

import (
	"strings"
	"testing"
	"time"

	"hallmark/fleet/campaign"
	"hallmark/fleet/jobs"
	"hallmark/fleet/rollout"
)

// The message that tells a device is lost now and then: a connected one is told again,
// the less often the longer it takes; one that is away asks when it connects.
func TestCampaign_RemindsWhoIsConnectedAndDoesNotBegin(t *testing.T) {
	s := onSQLite(t, campaign.Config{})
	all := things(3)
	s.group("all", all...)
	s.connect(s.now, true, all[0], all[1])
	s.create("c", campaign.Spec{Targets: []string{"thinggroup/all"}})
	s.pass(time.Second)
	if n := s.tells(all...); n != 3 {
		t.Fatalf("%d were told", n)
	}
	s.pass(59 * time.Second)
	if n := s.tells(all...); n != 3 {
		t.Fatalf("%d were told within the minute", n)
	}
	s.pass(2 * time.Second)
	if a, b, c := s.tells(all[0]), s.tells(all[1]), s.tells(all[2]); a != 2 || b != 2 || c != 1 {
		t.Fatalf("told %d, %d, %d times", a, b, c)
	}
	c := s.get("c")
	s.report(all[0], c.Job(false), jobs.InProgress)
	for range 12 * 12 {
		s.pass(5 * time.Minute)
	}
	// After 1, 6, 12 and 24 minutes here, and then each half hour.
	if a, b, c := s.tells(all[0]), s.tells(all[1]), s.tells(all[2]); a != 2 || b < 20 || b > 32 || c != 1 {
		t.Fatalf("told %d, %d, %d times in half a day", a, b, c)
	}
	if n := s.Reminders.Load(); n != int64(s.tells(all...)-3) {
		t.Errorf("%d reminders", n)
	}
	s.connect(s.now, true, all[2]) // it asks by itself, and if that is lost too, it is reminded
	for range 12 {
		s.pass(5 * time.Minute)
	}
	if n := s.tells(all[2]); n < 2 {
		t.Error("it was away, and was not reminded after it came")
	}
	_, err := s.Pause(t.Context(), "main", "c", "ann")
	must(t, err)
	s.pass(time.Second)
	before := s.tells(all...)
	s.pass(time.Hour)
	if n := s.tells(all...); n != before {
		t.Error("a paused campaign reminds")
	}
}

func TestCampaign_RemindsAtABoundedRate(t *testing.T) {
	busy := false
	s := onSQLite(t, campaign.Config{Yield: func() bool { return busy }})
	all := things(150)
	s.group("all", all...)
	s.connect(s.now, true, all...)
	s.create("c", campaign.Spec{Targets: []string{"thinggroup/all"}, Rate: rollout.Rate{MaximumPerMinute: 1000}})
	s.pass(time.Second)
	s.counts("c", "offered 150")
	busy = true
	s.pass(2 * time.Minute)
	if n := s.Reminders.Load(); n != 0 {
		t.Fatalf("%d reminders while the line works", n)
	}
	busy = false
	s.pass(11 * time.Second)
	if n := s.Reminders.Load(); n == 0 || n > 100 {
		t.Fatalf("%d reminders at once", n)
	}
	for range 4 {
		s.pass(10 * time.Second)
	}
	for _, x := range all {
		if s.tells(x) < 2 {
			t.Fatalf("%s was not reminded", x)
		}
	}
}

// A device that fails in a continuous campaign is asked again after a while, and not
// for ever; its history says so.
func TestCampaign_AContinuousOneAsksAgain(t *testing.T) {
	s := onSQLite(t, campaign.Config{})
	all := things(3)
	s.connect(s.now, true, all...)
	spec := campaign.Spec{Kind: "test", Reason: campaign.Expiry, Continuous: true, Timeout: time.Hour, Abort: rollout.Abort{Criteria: []rollout.AbortCriterion{{FailureType: rollout.All, Action: "CANCEL", Percentage: 60, MinExecuted: 3}}}}
	_, err := s.Open(t.Context(), "main", "c", spec)
	must(t, err)
	s.pass(time.Second)
	_, err = s.Feed(t.Context(), "main", "c", all)
	must(t, err)
	s.pass(time.Second)
	s.counts("c", "offered 3")
	c := s.get("c")
	job := c.Job(false)
	s.report(all[0], job, jobs.Succeeded)
	s.report(all[1], job, jobs.Succeeded)
	s.report(all[2], job, jobs.Failed)
	s.pass(time.Second)
	s.pass(time.Second)
	s.counts("c", "done 2 failed 1")
	if m := s.member("c", all[2]); m.Code != "device-failed" || !strings.Contains(m.Detail, "asked again from "+m.Since.Add(time.Hour).Format(time.RFC3339)) {
		t.Errorf("%+v", m)
	}
	if n, err := s.Feed(t.Context(), "main", "c", all[2:]); err != nil || n != 0 {
		t.Errorf("fed in spite of the pause: %d %v", n, err)
	}
	s.pass(58 * time.Minute)
	s.counts("c", "done 2 failed 1")
	s.pass(3 * time.Minute)
	s.counts("c", "offered 1 done 2")
	if m := s.member("c", all[2]); m.Attempt != 2 {
		t.Errorf("%+v", m)
	}
	// Each time a later time, and then never.
	for n, hours := 2, 4; n <= 6; n, hours = n+1, min(hours*4, 7*24) {
		s.work("c", -1, jobs.Rejected)
		s.pass(time.Second)
		s.counts("c", "done 2 rejected 1")
		s.pass(time.Duration(hours)*time.Hour - time.Minute)
		s.counts("c", "done 2 rejected 1")
		s.pass(2 * time.Minute)
		if n < 6 {
			s.counts("c", "offered 1 done 2")
		}
	}
	s.pass(365 * 24 * time.Hour)
	s.counts("c", "done 2 rejected 1")
	m := s.member("c", all[2])
	if m.Attempt != 6 || !strings.Contains(m.Detail, "Failure 6 in a row; it is not asked again.") {
		t.Errorf("%+v", m)
	}
	if got := s.way(all[2]); strings.Count(got, "waiting(asked-again) offered rejected(device-rejected)") != 5 {
		t.Error(got)
	}
	// Another certificate is another matter.
	s.before[all[2]] = "newer"
	if n, err := s.Feed(t.Context(), "main", "c", all[2:]); err != nil || n != 1 {
		t.Fatalf("%d %v", n, err)
	}
	s.pass(time.Second)
	s.work("c", -1, jobs.Failed)
	s.pass(time.Second)
	if m := s.member("c", all[2]); !strings.Contains(m.Detail, "Failure 1 in a row") {
		t.Errorf("%+v", m)
	}
}

// What was forgiven is forgiven once: those that fail again after they were asked again
// stop the campaign again. In a campaign that is paused or stopped nobody is asked again,
// and nobody outside of the windows.
func TestCampaign_AskingAgainKeepsThresholdsPausesAndWindows(t *testing.T) {
	s := onSQLite(t, campaign.Config{})
	all := things(4)
	s.connect(s.now, true, all...)
	night, err := rollout.ParseCron("cron(0 2 ? * * *)")
	must(t, err)
	_, err = s.Open(t.Context(), "main", "c", campaign.Spec{Kind: "test", Continuous: true, Schedule: rollout.Schedule{Windows: []rollout.Maintenance{{Start: night, Minutes: 60}}},
		Abort: rollout.Abort{Criteria: []rollout.AbortCriterion{{FailureType: rollout.All, Action: "CANCEL", Percentage: 50, MinExecuted: 4}}}})
	must(t, err)
	s.pass(time.Second)
	_, err = s.Feed(t.Context(), "main", "c", all)
	must(t, err)
	s.now = time.Date(2027, 3, 2, 2, 1, 0, 0, time.UTC)
	s.pass(0)
	s.counts("c", "offered 4")
	s.work("c", 2, jobs.Succeeded)
	s.work("c", 2, jobs.Failed)
	s.pass(time.Second)
	s.is("c", campaign.Stopped, "threshold")
	s.pass(24 * time.Hour)
	s.counts("c", "done 2 failed 2")
	_, err = s.Resume(t.Context(), "main", "c", "ann")
	must(t, err)
	s.now = time.Date(2027, 3, 3, 4, 0, 0, 0, time.UTC) // after the window
	s.pass(0)
	s.is("c", campaign.Running, "")
	s.counts("c", "waiting 2 done 2")
	s.now = time.Date(2027, 3, 4, 2, 1, 0, 0, time.UTC)
	s.pass(0)
	s.counts("c", "offered 2 done 2")
	s.work("c", 2, jobs.Failed)
	s.pass(time.Second)
	s.counts("c", "done 2 failed 2")
	s.is("c", campaign.Running, "") // the two that were done are forgiven too: two have ended since
	_, err = s.Feed(t.Context(), "main", "c", things(6))
	must(t, err)
	s.pass(time.Second)
	s.work("c", 2, jobs.Succeeded)
	s.pass(time.Second)
	s.is("c", campaign.Stopped, "threshold")
}
