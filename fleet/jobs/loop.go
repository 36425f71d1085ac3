package jobs

import (
	"context"
	"errors"
	"time"

	"hallmark/internal/lane"
)

// Run steps until ctx ends. Several services may run at the same time.
func (s *Service) Run(ctx context.Context) error {
	tick := time.NewTicker(s.every)
	defer tick.Stop()
	for {
		if err := s.Step(ctx, s.clock()); err != nil && ctx.Err() == nil {
			s.log.ErrorContext(ctx, "jobs: step failed", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Step does what is due at a time: executions whose timers ended, then each
// active job's schedule, aborts, targets, roll-out and end. What fails for one
// job does not hold up another.
func (s *Service) Step(ctx context.Context, now time.Time) error {
	ctx = lane.With(ctx, lane.Status)
	now = now.UTC().Truncate(time.Millisecond)
	errs := []error{s.timers(ctx, now)}
	tenant, id := "", ""
	for {
		list, err := s.store.ActiveJobs(ctx, tenant, id, maxPage)
		if err != nil || len(list) == 0 {
			return errors.Join(append(errs, err)...)
		}
		for _, j := range list {
			tenant, id = j.Tenant, j.ID
			if err := s.stepJob(ctx, j, now); err != nil && !errors.Is(err, ErrJobUnknown) {
				errs = append(errs, err)
			}
		}
	}
}

// timers ends the executions whose time is up.
func (s *Service) timers(ctx context.Context, now time.Time) error {
	for {
		due, err := s.store.DueExecutions(ctx, now, batch)
		if err != nil || len(due) == 0 {
			return err
		}
		err = s.atomically(ctx, now, func(ctx context.Context, c *change) error {
			for _, e := range due {
				// It may have changed since.
				was, err := s.store.Execution(ctx, (&Job{Tenant: e.Tenant}).scope(), e.Job, e.Thing, e.Number)
				if errors.Is(err, ErrExecution) {
					continue
				}
				if err != nil {
					return err
				}
				if at := was.Due(); was.Status != InProgress || at.IsZero() || at.After(now) {
					continue
				}
				j, err := c.job(ctx, was.Tenant, was.Job)
				if err != nil {
					return err
				}
				if err := c.conclude(ctx, j, was, was.end(TimedOut, now)); err != nil {
					return err
				}
			}
			return nil
		})
		if err != nil || len(due) < batch {
			return err
		}
	}
}

// stepJob does what is due for a job, one bounded transaction after the other.
func (s *Service) stepJob(ctx context.Context, j Job, now time.Time) error {
	for range maxRounds {
		more, err := s.round(ctx, &j, now)
		if errors.Is(err, ErrJobChanged) {
			return nil // somebody else is at it
		}
		if err != nil || !more {
			return err
		}
	}
	return nil
}

func (s *Service) round(ctx context.Context, j *Job, now time.Time) (more bool, err error) {
	var p *page
	if j.looks(now, s.sweep) {
		if p, err = s.look(ctx, j); err != nil {
			return false, err
		}
	}
	var is Job
	err = s.atomically(ctx, now, func(ctx context.Context, c *change) error {
		was, err := s.store.Job(ctx, j.scope(), j.ID)
		if err != nil {
			return err
		}
		if was.Version != j.Version {
			return ErrJobChanged.New("")
		}
		is = was
		d := decision{s: s, c: c, j: &is, now: now}
		if err := d.decide(ctx, p); err != nil {
			return err
		}
		more = d.more
		// The row's version keeps two services from doing the same round, so it is
		// written also where only executions changed.
		if d.gone || !d.changed && !d.more {
			return nil
		}
		is.Version, is.UpdatedAt = was.Version+1, now
		return s.store.PutJob(ctx, is, was.Version)
	})
	*j = is
	return more, err
}

// looks tells whether targets have to be looked at.
func (j *Job) looks(now time.Time, sweep time.Duration) bool {
	if j.Status != JobInProgress && j.Status != JobScheduled || j.Stopped || j.enlisted() {
		return false
	}
	if !j.Enumerated || j.Cursor != "" {
		return true
	}
	return j.Selection == Continuous && j.Status == JobInProgress && (j.SweptAt.IsZero() || now.Sub(j.SweptAt) >= sweep || now.Before(j.SweptAt))
}
