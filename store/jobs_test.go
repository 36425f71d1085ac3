package store_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/fleet"
	"hallmark/fleet/jobs"
	"hallmark/fleet/rollout"
	"hallmark/store"
)

// counter is a publisher that counts messages by the end of their topic.
type counter struct {
	mu sync.Mutex
	n  map[string]int
}

func (c *counter) Publish(_ context.Context, m fleet.Message) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.n == nil {
		c.n = map[string]int{}
	}
	c.n[m.Topic[strings.LastIndex(m.Topic, "/")+1:]]++
	return nil
}

func jobServices(t *testing.T, now func() time.Time, p fleet.Publisher, dbs ...*store.DB) (out []*jobs.Service) {
	for _, db := range dbs {
		out = append(out, jobs.New(jobs.Config{Store: db, Publisher: p, Now: now}))
	}
	t.Cleanup(func() {
		if found, err := out[0].Fsck(context.Background()); err != nil || len(found) > 0 {
			t.Errorf("fsck: %v %v", found, err)
		}
	})
	return out
}

func TestJobs_FiftyParallelStartsGiveOneExecution(t *testing.T) {
	bothEngines(t, func(t *testing.T, _, _ string, a, b *store.DB) {
		ctx := t.Context()
		var p counter
		services := jobServices(t, nil, &p, a, b)
		for i := range 3 {
			_, err := services[0].CreateJob(ctx, "main", fmt.Sprint("j", i), jobs.Spec{Targets: []string{"T"}, Document: "{}"})
			must(t, err)
		}
		must(t, services[0].Step(ctx, time.Now()))
		var wg sync.WaitGroup
		for i := range 50 {
			wg.Go(func() {
				v, err := services[i%2].StartNext(ctx, "main", "T", jobs.Start{Details: map[string]string{"who": fmt.Sprint(i)}})
				if err != nil || v.Job != "j0" || v.Status != jobs.InProgress || v.Version != 2 {
					t.Errorf("%v %v", v, err)
				}
			})
		}
		wg.Wait()
		inProgress, queued, err := services[1].Pending(ctx, "main", "T")
		if err != nil || len(inProgress) != 1 || len(queued) != 2 {
			t.Errorf("%d in progress, %d queued: %v", len(inProgress), len(queued), err)
		}
		if p.n["notify-next"] != 1 {
			t.Errorf("%d times told what is next", p.n["notify-next"])
		}
		// Of fifty who report on version 2, one is taken, and the others hear of version 3.
		var won atomic.Int32
		two := int64(2)
		for i := range 50 {
			wg.Go(func() {
				_, err := services[i%2].Update(ctx, "main", "T", "j0", jobs.Update{Status: jobs.InProgress, Expected: &two})
				if err == nil {
					won.Add(1)
					return
				}
				if code, _, state := jobs.Reject(err); code != "VersionMismatch" || state == nil || state.Version != 3 {
					t.Errorf("%s %v: %v", code, state, err)
				}
			})
		}
		wg.Wait()
		if won.Load() != 1 {
			t.Errorf("%d won", won.Load())
		}
	})
}

func TestJobs_TwoServicesKeepTheRateAndTellOnce(t *testing.T) {
	bothEngines(t, func(t *testing.T, _, _ string, a, b *store.DB) {
		ctx := t.Context()
		var p counter
		services := jobServices(t, nil, &p, a, b)
		targets := make([]string, 90)
		for i := range targets {
			targets[i] = fmt.Sprintf("T%02d", i)
		}
		_, err := services[0].CreateJob(ctx, "main", "j", jobs.Spec{Targets: targets, Document: "{}", Timeout: jobs.Timeout{InProgressMinutes: 1}, Rollout: rollout.Rate{MaximumPerMinute: 30}})
		must(t, err)
		now := time.Now()
		both := func(at time.Time) {
			t.Helper()
			var wg sync.WaitGroup
			for _, s := range services {
				for range 3 {
					wg.Go(func() {
						if err := s.Step(ctx, at); err != nil {
							t.Error(err)
						}
					})
				}
			}
			wg.Wait()
		}
		for range 3 {
			both(now)
		}
		j, err := services[0].Job(ctx, "main", "j")
		if err != nil || j.Counts.Queued != 30 || j.Counts.Waiting != 60 || p.n["notify"] != 30 || p.n["notify-next"] != 30 {
			t.Fatalf("%+v %v %v", j.Counts, p.n, err)
		}
		// Devices report while both services step.
		var wg sync.WaitGroup
		for i := range 30 {
			wg.Go(func() {
				thing := fleet.ThingName(fmt.Sprintf("T%02d", i))
				if _, err := services[i%2].StartNext(ctx, "main", thing, jobs.Start{}); err != nil {
					t.Error(err)
				}
				if i%3 == 0 {
					return // this one never comes back
				}
				if _, err := services[i%2].Update(ctx, "main", thing, "j", jobs.Update{Status: jobs.Succeeded}); err != nil {
					t.Error(err)
				}
			})
		}
		both(now)
		wg.Wait()
		both(now.Add(5 * time.Minute))
		j, err = services[0].Job(ctx, "main", "j")
		if want := (jobs.Counts{Succeeded: 20, TimedOut: 10, Queued: 30, Waiting: 30}); err != nil || j.Counts != want {
			t.Errorf("%+v %v", j.Counts, err)
		}
	})
}

// TestJobs_TheNextExecutionIsOneStepDownAnIndex asks the engine for its plan.
func TestJobs_TheNextExecutionIsOneStepDownAnIndex(t *testing.T) {
	bothEngines(t, func(t *testing.T, url, driver string, a, _ *store.DB) {
		raw, err := sql.Open(driver, url)
		must(t, err)
		defer raw.Close()
		must(t, a.Atomic(t.Context(), func(ctx context.Context) error {
			for i := range 2000 { // enough for a planner to prefer the index
				e := jobs.Execution{Tenant: "main", Job: fmt.Sprint("j", i%7), Thing: fleet.ThingName(fmt.Sprint("t", i/7)), Number: 1, Latest: true, Status: []jobs.Status{jobs.Queued, jobs.Succeeded}[i%2], QueuedAt: time.Unix(int64(i), 0), Version: 1}
				if err := a.AddExecution(ctx, e); err != nil {
					return err
				}
			}
			return nil
		}))
		query := `SELECT job FROM job_executions WHERE tenant = 'main' AND thing = 't5' AND rank < 2 ORDER BY rank, queued_at, job LIMIT 1`
		explain := map[string]string{"sqlite": "EXPLAIN QUERY PLAN ", "pgx": "EXPLAIN "}[driver]
		if driver == "pgx" {
			_, err := raw.Exec("ANALYZE")
			must(t, err)
		}
		rows, err := raw.Query(explain + query)
		must(t, err)
		defer rows.Close()
		var plan strings.Builder
		for rows.Next() {
			var line string
			if driver == "pgx" {
				must(t, rows.Scan(&line))
			} else {
				var x int
				must(t, rows.Scan(&x, &x, &x, &line))
			}
			plan.WriteString(line + "\n")
		}
		must(t, rows.Err())
		if s := plan.String(); !strings.Contains(s, "job_executions_pending") || strings.Contains(strings.ToUpper(s), "SORT") || strings.Contains(s, "TEMP B-TREE") {
			t.Error(s)
		}
	})
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestJobs_RowsAreKeptByTenantAndVersion(t *testing.T) {
	bothEngines(t, func(t *testing.T, url, driver string, a, b *store.DB) {
		ctx := t.Context()
		mine, other := access.Scope{Tenant: "main"}, access.Scope{Tenant: "other"}
		j := jobs.Job{Tenant: "main", ID: "j", Status: jobs.JobInProgress, Active: true, Spec: jobs.Spec{Targets: []string{"T"}, Document: "{}"}, Version: 1}
		must(t, a.AddJob(ctx, j))
		if err := b.AddJob(ctx, j); !errors.Is(err, jobs.ErrJobExists) {
			t.Errorf("twice: %v", err)
		}
		j.Version = 2
		must(t, a.PutJob(ctx, j, 1))
		if err := b.PutJob(ctx, j, 1); !errors.Is(err, jobs.ErrJobChanged) {
			t.Errorf("old version: %v", err)
		}
		e := jobs.Execution{Tenant: "main", Job: "j", Thing: "T", Number: 1, Latest: true, Status: jobs.Queued, Version: 1, QueuedAt: time.Unix(1, 0).UTC(), Until: time.Unix(2, 0).UTC()}
		must(t, a.AddExecution(ctx, e))
		must(t, a.CountJob(ctx, mine, "j", jobs.Counts{Queued: 1}))
		if err := b.AddExecution(ctx, e); !errors.Is(err, jobs.ErrChanged) {
			t.Errorf("twice: %v", err)
		}
		if err := b.PutExecution(ctx, e, 7); !errors.Is(err, jobs.ErrChanged) {
			t.Errorf("old version: %v", err)
		}
		if got, err := b.Execution(ctx, mine, "j", "t", 0); err != nil || got.Thing != "T" || !got.Until.Equal(e.Until) {
			t.Errorf("%+v %v", got, err)
		}
		// Another tenant sees and changes nothing (S24).
		if _, err := b.Job(ctx, other, "j"); !errors.Is(err, jobs.ErrJobUnknown) {
			t.Error(err)
		}
		if _, err := b.Execution(ctx, other, "j", "T", 0); !errors.Is(err, jobs.ErrExecution) {
			t.Error(err)
		}
		if err := b.CountJob(ctx, other, "j", jobs.Counts{Queued: 1}); !errors.Is(err, jobs.ErrJobUnknown) {
			t.Error(err)
		}
		must(t, b.DropExecutions(ctx, other, "j", "T"))
		must(t, b.DropJob(ctx, other, "j"))
		for name, n := range map[string]func() (int, error){
			"jobs":     func() (int, error) { l, err := b.Jobs(ctx, other, "", "", 10); return len(l), err },
			"pending":  func() (int, error) { l, err := b.PendingExecutions(ctx, other, "T", 10); return len(l), err },
			"of job":   func() (int, error) { l, err := b.ExecutionsOfJob(ctx, other, "j", -1, "", 10); return len(l), err },
			"of thing": func() (int, error) { l, err := b.ExecutionsOfThing(ctx, other, "T", "", 0, 10); return len(l), err },
			"waiting":  func() (int, error) { n, err := b.DropWaiting(ctx, other, "j", 10); return int(n), err },
		} {
			if n, err := n(); err != nil || n != 0 {
				t.Errorf("%s: %d %v", name, n, err)
			}
		}
		s := jobs.New(jobs.Config{Store: a, Publisher: deaf{}})
		if found, err := s.Fsck(ctx); err != nil || len(found) > 0 {
			t.Fatalf("fsck before: %v %v", found, err)
		}
		// S32: what somebody else writes is not believed, and fsck names it.
		raw, err := sql.Open(driver, url)
		must(t, err)
		defer raw.Close()
		for _, c := range []struct{ change, back, check, object string }{
			{`UPDATE jobs SET status = 'COMPLETED'`, `UPDATE jobs SET status = 'IN_PROGRESS'`, "job-tampered", "jobs main/j"},
			{`UPDATE jobs SET succeeded = 5`, `UPDATE jobs SET succeeded = 0`, "job-counts", "jobs main/j"},
			{`UPDATE job_executions SET started_at = 5`, `UPDATE job_executions SET started_at = 0`, "job-execution-tampered", "job_executions main/j/t/1"},
			{`UPDATE job_executions SET latest = 0`, `UPDATE job_executions SET latest = 1`, "job-execution-attempts", "job_executions main/j/t"},
			{`UPDATE jobs SET id = 'k'`, `UPDATE jobs SET id = 'j'`, "job-missing", "job_executions main/j/t"},
			{`DELETE FROM job_executions`, ``, "job-counts", "jobs main/j"},
		} {
			if _, err := raw.Exec(c.change); err != nil {
				t.Fatal(err)
			}
			found, err := s.Fsck(ctx)
			must(t, err)
			seen := false
			for _, f := range found {
				seen = seen || f.Check == c.check && f.Object == c.object
			}
			if !seen {
				t.Errorf("%s: %v", c.change, found)
			}
			if c.check == "job-execution-tampered" {
				if _, err := a.PendingExecutions(ctx, mine, "T", 1); !errors.Is(err, store.ErrRowTampered) {
					t.Errorf("believed: %v", err)
				}
			}
			if c.back != "" {
				if _, err := raw.Exec(c.back); err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}
