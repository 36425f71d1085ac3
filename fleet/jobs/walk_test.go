package jobs_test

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"hallmark/fleet"
	"hallmark/fleet/jobs"
	"hallmark/fleet/rollout"
)

// todo is a thing's list of pending executions, as a device would get it.
func (s *site) todo(thing fleet.ThingName) (out []string) {
	s.t.Helper()
	inProgress, queued, err := s.Pending(s.t.Context(), "main", thing)
	must(s.t, err)
	for _, e := range append(inProgress, queued...) {
		out = append(out, fmt.Sprintf("%s/%d", e.Job, e.Number))
	}
	return out
}

// TestService_TellsExactlyWhatChanged does random things and compares what was
// published with what each thing had to do before and after.
func TestService_TellsExactlyWhatChanged(t *testing.T) {
	s := newSite(t, jobs.Config{Sweep: time.Second})
	ctx := t.Context()
	r := rand.New(rand.NewPCG(5, 6))
	names := things(4)
	s.groups.set("g", names...)
	made := 0
	known := func() string { return fmt.Sprint("j", r.IntN(made+1)) }
	thing := func() fleet.ThingName { return names[r.IntN(len(names))] }
	counts := map[string]int{}
	for step := range 600 {
		before := map[fleet.ThingName][]string{}
		for _, n := range names {
			before[n] = s.todo(n)
		}
		s.tape.take("")
		what := []string{"create", "start", "start", "report", "report", "report", "cancel one", "cancel", "delete", "group", "pass", "pass", "gone"}[r.IntN(13)]
		once := true // one transaction: told at most once
		var err error
		switch what {
		case "create":
			made++
			_, err = s.CreateJob(ctx, "main", fmt.Sprint("j", made), jobs.Spec{Targets: []string{"g", "thing/" + string(thing())}, Document: `{}`, Selection: []jobs.Selection{jobs.Snapshot, jobs.Continuous}[r.IntN(2)],
				Rollout: rollout.Rate{MaximumPerMinute: 1 + r.IntN(3)}, Timeout: jobs.Timeout{InProgressMinutes: 1 + r.IntN(2)}, Retry: rollout.Retry{Criteria: []rollout.RetryCriterion{{FailureType: rollout.All, Retries: r.IntN(3)}}}})
		case "start":
			_, err = s.StartNext(ctx, "main", thing(), jobs.Start{})
		case "report":
			_, err = s.Update(ctx, "main", thing(), known(), jobs.Update{Status: []jobs.Status{jobs.InProgress, jobs.Succeeded, jobs.Failed, jobs.Rejected}[r.IntN(4)]})
		case "cancel one":
			err = s.CancelExecution(ctx, "main", known(), thing(), r.IntN(2) == 0, nil, nil)
		case "cancel":
			once = false
			_, err = s.CancelJob(ctx, "main", known(), jobs.CancelOptions{Force: r.IntN(2) == 0})
		case "delete":
			once = false
			err = s.DeleteJob(ctx, "main", known(), r.IntN(2) == 0)
		case "group":
			s.groups.set("g", names[:r.IntN(len(names)+1)]...)
		case "gone":
			err = s.ThingDeleted(ctx, "main", thing())
		case "pass":
			once = false
			s.pass(time.Duration(r.IntN(90)) * time.Second)
		}
		if code, _, _ := jobs.Reject(err); code == "InternalError" && !strings.HasPrefix(err.Error(), "job-state") {
			t.Fatalf("step %d, %s: %v", step, what, err)
		}
		if err == nil {
			counts[what]++
		}
		told := s.tape.take("$aws/things/")
		for _, n := range names {
			was, is := before[n], s.todo(n)
			var notify, next []string
			for _, m := range told {
				if rest, ok := strings.CutPrefix(m, string(n)+"/jobs/notify "); ok {
					notify = append(notify, rest)
				} else if rest, ok := strings.CutPrefix(m, string(n)+"/jobs/notify-next "); ok {
					next = append(next, rest)
				}
			}
			first := func(l []string) string { return append(slices.Clone(l), "")[0] }
			moved, another := !slices.Equal(sorted(was), sorted(is)), first(was) != first(is)
			if moved && len(notify) == 0 || once && (len(notify) > 1 || !moved && len(notify) > 0) {
				t.Fatalf("step %d, %s: %s had %v, has %v, and was told %q", step, what, n, was, is, notify)
			}
			if another && len(next) == 0 || once && (len(next) > 1 || !another && len(next) > 0) {
				t.Fatalf("step %d, %s: %s had %v, has %v, and was told next %q", step, what, n, was, is, next)
			}
			if len(next) > 0 { // the last word is the truth
				var got struct {
					Execution *struct {
						JobID           string
						ExecutionNumber int
					}
				}
				must(t, json.Unmarshal([]byte(next[len(next)-1]), &got))
				last := ""
				if got.Execution != nil {
					last = fmt.Sprintf("%s/%d", got.Execution.JobID, got.Execution.ExecutionNumber)
				}
				if last != first(is) {
					t.Fatalf("step %d, %s: %s has %v and was told %s", step, what, n, is, last)
				}
			}
		}
		if step%20 == 0 {
			if found, err := s.Fsck(ctx); err != nil || len(found) > 0 {
				t.Fatalf("step %d, %s: fsck %v %v", step, what, found, err)
			}
		}
	}
	for _, what := range []string{"create", "start", "report", "cancel one", "cancel", "delete", "group", "gone", "pass"} {
		if counts[what] == 0 {
			t.Errorf("%s never happened", what)
		}
	}
}

func sorted(l []string) []string {
	l = slices.Clone(l)
	slices.Sort(l)
	return l
}
