package jobs_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"hallmark/fleet"
	"hallmark/fleet/jobs"
	"hallmark/fleet/rollout"
)

func TestService_RollsOutAtTheRate(t *testing.T) {
	s := newSite(t, jobs.Config{})
	s.groups.set("g", things(1200)...)
	s.create("j", jobs.Spec{Targets: []string{"g", "thing/extra", "T00001"}, Rollout: rollout.Rate{MaximumPerMinute: 100,
		Exponential: &rollout.Exponential{BasePerMinute: 10, IncrementFactor: 2, Increase: rollout.Increase{SucceededThings: 10}}}})
	s.pass(time.Second)
	if c := s.job("j").Counts; c.Queued != 10 || c.Waiting != 1191 { // T00001 is t00001
		t.Fatalf("first minute: %+v", c)
	}
	for range 58 {
		s.pass(time.Second)
	}
	if c := s.job("j").Counts; c.Queued != 10 {
		t.Fatalf("still the first minute: %+v", c)
	}
	s.pass(2 * time.Second)
	if c := s.job("j").Counts; c.Queued != 20 {
		t.Fatalf("second minute: %+v", c)
	}
	list, err := s.ExecutionsOfJob(t.Context(), "main", "j", jobs.Queued, "", 250)
	must(t, err)
	for _, e := range list[:10] {
		s.update(e.Thing, "j", jobs.Succeeded)
	}
	s.pass(time.Second) // the rate is doubled, and the window has ten of them
	if c := s.job("j").Counts; c.Queued != 20 || c.Succeeded != 10 {
		t.Fatalf("after success: %+v", c)
	}
}

func TestService_AbortsWhatGoesWrong(t *testing.T) {
	s := newSite(t, jobs.Config{})
	s.groups.set("g", things(50)...)
	s.create("j", jobs.Spec{Targets: []string{"thinggroup/g"}, Rollout: rollout.Rate{MaximumPerMinute: 20}, Abort: rollout.Abort{Criteria: []rollout.AbortCriterion{{FailureType: rollout.Failed, Action: "CANCEL", Percentage: 20, MinExecuted: 5}}}})
	s.pass(time.Second)
	for i, thing := range things(5) {
		if i < 4 {
			s.update(thing, "j", jobs.Succeeded)
			s.pass(time.Second)
			continue
		}
		s.update("t00010", "j", jobs.InProgress)
		s.tape.take("")
		s.update(thing, "j", jobs.Failed)
	}
	s.pass(time.Second)
	j := s.job("j")
	if j.Status != jobs.JobCanceled || j.Active || j.ReasonCode != "ABORT_CRITERION_FULFILLED" {
		t.Errorf("%s %v %s", j.Status, j.Active, j.ReasonCode)
	}
	// Only what is queued is cancelled; what waited is gone.
	if want := (jobs.Counts{InProgress: 1, Succeeded: 4, Failed: 1, Canceled: 14}); j.Counts != want {
		t.Errorf("%+v", j.Counts)
	}
	var events []string
	for _, m := range s.tape.take("$aws/events/job/j/") {
		events = append(events, strings.Fields(m)[0])
	}
	if fmt.Sprint(events) != "[cancellation_in_progress canceled]" {
		t.Error(events)
	}
	s.update("t00010", "j", jobs.Succeeded) // it may finish
	if c := s.job("j").Counts; c.Succeeded != 5 || c.InProgress != 0 {
		t.Errorf("%+v", c)
	}
}

func TestService_ContinuousFollowsItsGroup(t *testing.T) {
	s := newSite(t, jobs.Config{})
	s.groups.set("g", "a", "b")
	s.create("j", jobs.Spec{Targets: []string{"thinggroup/g"}, Selection: jobs.Continuous, Rollout: rollout.Rate{MaximumPerMinute: 2}})
	s.pass(time.Second)
	if c := s.job("j").Counts; c.Queued != 2 {
		t.Fatalf("%+v", c)
	}
	s.update("a", "j", jobs.Succeeded)
	// One leaves, one whose work is done leaves, three join: at once, whatever the rate.
	s.groups.set("g", "C", "d", "e")
	s.pass(time.Second)
	if c := s.job("j").Counts; c != (jobs.Counts{Queued: 1, Succeeded: 1}) {
		t.Fatalf("before the next look: %+v", c)
	}
	must(t, s.Refresh(t.Context(), "main", "g"))
	s.tape.take("")
	s.pass(time.Second)
	if c := s.job("j").Counts; c != (jobs.Counts{Queued: 3, Succeeded: 1, Removed: 1}) {
		t.Fatalf("%+v", c)
	}
	if got := s.tape.take("$aws/things/b/jobs/"); len(got) != 2 || got[1] != `notify-next {"timestamp":100003}` {
		t.Errorf("%s", got)
	}
	// It comes back: another attempt. Nobody else gets one.
	s.groups.set("g", "C", "d", "e", "a", "b")
	s.pass(time.Minute)
	if c := s.job("j").Counts; c != (jobs.Counts{Queued: 4, Succeeded: 1}) {
		t.Fatalf("%+v", c)
	}
	if v, err := s.Describe(t.Context(), "main", "b", "j", 0, false); err != nil || v.Number != 2 || v.Status != jobs.Queued {
		t.Errorf("%v %v", v, err)
	}
	// Rules may change on the way; impossible ones are refused.
	if _, err := s.UpdateJob(t.Context(), "main", "j", jobs.Changes{Rollout: &rollout.Rate{MaximumPerMinute: 5000}}); !errors.Is(err, rollout.ErrRate) {
		t.Errorf("rate: %v", err)
	}
	words := "for all"
	if j, err := s.UpdateJob(t.Context(), "main", "j", jobs.Changes{Description: &words, Rollout: &rollout.Rate{MaximumPerMinute: 5}}); err != nil || j.Description != words || s.job("j").Rollout.MaximumPerMinute != 5 {
		t.Errorf("%+v %v", j, err)
	}
	// More targets, and a thing that is gone.
	_, err := s.AssociateTargets(t.Context(), "main", "j", []string{"thing/x"}, "")
	must(t, err)
	must(t, s.ThingDeleted(t.Context(), "main", "c"))
	s.groups.set("g", "d", "e", "a", "b")
	s.pass(time.Second)
	if j := s.job("j"); j.Counts != (jobs.Counts{Queued: 4, Succeeded: 1, Removed: 1}) || j.Status != jobs.JobInProgress {
		t.Fatalf("%s %+v", j.Status, j.Counts)
	}
	// The group is deleted: its things left it. The job goes on.
	s.groups.mu.Lock()
	delete(s.groups.m, "g")
	s.groups.mu.Unlock()
	s.pass(time.Minute)
	if j := s.job("j"); j.Counts != (jobs.Counts{Queued: 1, Succeeded: 1, Removed: 4}) || j.Status != jobs.JobInProgress {
		t.Fatalf("%s %+v", j.Status, j.Counts)
	}
	s.create("snap", jobs.Spec{Targets: []string{"thing/x"}})
	if _, err := s.AssociateTargets(t.Context(), "main", "snap", []string{"thing/y"}, ""); !errors.Is(err, jobs.ErrJobState) {
		t.Errorf("snapshot: %v", err)
	}
}

// TestService_ASweepIsExactOverPages compares groups of many pages, with random
// members, with what the executions say.
func TestService_ASweepIsExactOverPages(t *testing.T) {
	s := newSite(t, jobs.Config{})
	all := things(2600)
	s.groups.set("g", all[:1500]...)
	s.groups.set("h", all[700:2300]...)
	s.create("j", jobs.Spec{Targets: []string{"thinggroup/g", "thinggroup/h", "thing/zz"}, Selection: jobs.Continuous, Schedule: rollout.Schedule{Start: s.now.Add(time.Hour)}})
	s.pass(time.Second)
	if j := s.job("j"); j.Counts.Waiting != 2301 || j.Status != jobs.JobScheduled || !j.Enumerated {
		t.Fatalf("%s %v %+v", j.Status, j.Enumerated, j.Counts)
	}
	s.groups.set("g", all[:100]...)
	s.groups.set("h", all[2000:]...)
	s.pass(time.Hour)
	if j := s.job("j"); j.Counts.Removed != 1900 || j.Counts.Queued+j.Counts.Waiting != 701 {
		t.Fatalf("%s %+v", j.Status, j.Counts)
	}
}

func TestService_KeepsToItsSchedule(t *testing.T) {
	s := newSite(t, jobs.Config{})
	s.now = time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)
	nightly, err := rollout.ParseCron("cron(0 2 * * ? *)")
	must(t, err)
	s.groups.set("g", things(3)...)
	for id, behaviour := range map[string]rollout.EndBehavior{"stop": rollout.StopRollout, "cancel": rollout.Cancel, "force": rollout.ForceCancel} {
		s.create(id, jobs.Spec{Targets: []string{"thinggroup/g"}, Rollout: rollout.Rate{MaximumPerMinute: 2}, Schedule: rollout.Schedule{
			Start: s.now.Add(time.Hour), End: s.now.Add(3 * time.Hour), EndBehavior: behaviour, Windows: []rollout.Maintenance{{Start: nightly, Minutes: 1}}}})
	}
	counts := func(id string) jobs.Counts { return s.job(id).Counts }
	s.pass(59 * time.Minute)
	if j := s.job("stop"); j.Status != jobs.JobScheduled || j.Counts.Waiting != 3 {
		t.Fatalf("%s %+v", j.Status, j.Counts)
	}
	s.pass(time.Minute) // begun, outside of the maintenance window
	if j := s.job("stop"); j.Status != jobs.JobInProgress || j.Counts.Waiting != 3 {
		t.Fatalf("%s %+v", j.Status, j.Counts)
	}
	s.pass(time.Hour)
	if c := counts("stop"); c.Queued != 2 {
		t.Fatalf("in the window: %+v", c)
	}
	s.pass(30 * time.Minute)
	if c := counts("stop"); c.Queued != 2 {
		t.Fatalf("after the window: %+v", c)
	}
	for _, id := range []string{"stop", "cancel", "force"} {
		s.update("t00000", id, jobs.InProgress)
	}
	s.pass(30 * time.Minute)
	if j := s.job("stop"); j.Counts != (jobs.Counts{Queued: 1, InProgress: 1}) || j.Status != jobs.JobInProgress {
		t.Errorf("stop: %s %+v", j.Status, j.Counts)
	}
	if j := s.job("cancel"); j.Counts != (jobs.Counts{Canceled: 1, InProgress: 1}) || j.Status != jobs.JobCanceled {
		t.Errorf("cancel: %s %+v", j.Status, j.Counts)
	}
	if j := s.job("force"); j.Counts != (jobs.Counts{Canceled: 2}) || j.Status != jobs.JobCanceled {
		t.Errorf("force: %s %+v", j.Status, j.Counts)
	}
	s.update("t00000", "stop", jobs.Succeeded)
	s.update("t00001", "stop", jobs.Succeeded)
	s.pass(time.Second)
	if j := s.job("stop"); j.Status != jobs.JobCompleted || j.Counts.Succeeded != 2 {
		t.Errorf("stop, done: %s %+v", j.Status, j.Counts)
	}
}

// held is a publisher whose first message waits.
type held struct {
	*tape
	first    atomic.Bool
	reached  chan struct{}
	released chan struct{}
}

func (p *held) Publish(ctx context.Context, m fleet.Message) error {
	if p.first.CompareAndSwap(false, true) {
		close(p.reached)
		<-p.released
	}
	return p.tape.Publish(ctx, m)
}

func TestService_LastWordToADeviceIsTheTruth(t *testing.T) {
	s := newSite(t, jobs.Config{})
	s.create("a", jobs.Spec{Targets: []string{"T"}})
	s.create("b", jobs.Spec{Targets: []string{"T"}})
	s.pass(time.Second)
	p := &held{tape: &tape{}, reached: make(chan struct{}), released: make(chan struct{})}
	service := jobs.New(jobs.Config{Store: s.db, Publisher: p})
	var wg sync.WaitGroup
	end := func(job string) {
		wg.Go(func() {
			if _, err := service.Update(t.Context(), "main", "T", job, jobs.Update{Status: jobs.Succeeded}); err != nil {
				t.Error(err)
			}
		})
	}
	end("a")
	<-p.reached // b is the next one, and somebody is about to say so
	end("b")
	for s.job("b").Counts.Succeeded == 0 { // committed; nothing is left
		time.Sleep(time.Millisecond)
	}
	// If the second did not wait for the first it would have spoken by now.
	for range 20 {
		time.Sleep(2 * time.Millisecond)
	}
	close(p.released)
	wg.Wait()
	told := p.take("$aws/things/T/jobs/notify-next ")
	if len(told) == 0 || strings.Contains(told[len(told)-1], "jobId") {
		t.Errorf("%s", strings.Join(told, "\n"))
	}
}

func TestRun_StepsUntilItIsStopped(t *testing.T) {
	s := newSite(t, jobs.Config{Every: time.Millisecond})
	s.create("j", jobs.Spec{Targets: []string{"T"}})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- s.Run(ctx) }()
	for s.job("j").Counts.Queued == 0 {
		time.Sleep(time.Millisecond)
	}
	cancel()
	must(t, <-done)
}
