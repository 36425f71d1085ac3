package jobs

import (
	"context"
	"errors"
	"strings"
	"time"

	"hallmark/access"
	"hallmark/fleet"
	"hallmark/fleet/rollout"
)

// aCampaign is the target of a job whose things somebody else chooses, one by one,
// with [Service.Enlist]. Nobody can ask for such a target by itself.
const aCampaign = "campaign/"

// enlisted tells whether somebody else chooses the job's things.
func (s *Spec) enlisted() bool {
	return len(s.Targets) == 1 && strings.HasPrefix(s.Targets[0], aCampaign)
}

// Enlisted is an attempt of a thing at a job.
type Enlisted struct {
	Thing  fleet.ThingName
	Number int64 // from 1
}

// OpenFor makes the job of a campaign. The same again changes nothing.
func (s *Service) OpenFor(ctx context.Context, tenant, id, campaign, document, description string) (Job, error) {
	if err := ParseID(id); err != nil {
		return Job{}, err
	}
	if urls, err := checkDocument(document, nil); err != nil {
		return Job{}, err
	} else if urls > 0 && s.signer == nil {
		return Job{}, ErrArtifacts.New("")
	}
	now := s.clock()
	j := Job{Tenant: tenant, ID: id, Status: JobInProgress, Spec: Spec{Targets: []string{aCampaign + campaign}, Selection: Continuous, Document: document, Description: description},
		Progress: Progress{Enumerated: true}, CreatedAt: now, UpdatedAt: now, Version: 1}
	err := s.store.Atomic(ctx, func(ctx context.Context) error { return s.store.AddJob(ctx, j) })
	if errors.Is(err, ErrJobExists) {
		have, err := s.Job(ctx, tenant, id)
		if err == nil && (!have.enlisted() || have.Targets[0] != j.Targets[0] || have.Document != document) {
			err = ErrJobExists.New("It is another's.")
		}
		return have, err
	}
	return j, err
}

// Enlist queues an attempt for each thing: the first, or the next one after an
// attempt that is over. with runs first, in the same transaction, and can refuse;
// it can be run again. An attempt that is there already is left as it is. Call it
// outside of transactions: the devices are told after the commit.
func (s *Service) Enlist(ctx context.Context, scope access.Scope, job string, list []Enlisted, with func(ctx context.Context) error) error {
	now := s.clock()
	return s.atomically(ctx, now, func(ctx context.Context, c *change) error {
		if err := with(ctx); err != nil {
			return err
		}
		j, err := c.job(ctx, scope.Tenant, job)
		if err != nil {
			return err
		}
		if !j.enlisted() || j.Status != JobInProgress || j.Stopped {
			return ErrJobState.New("The job is %s.", j.Status)
		}
		for _, t := range list {
			next := Execution{Tenant: scope.Tenant, Job: job, Thing: t.Thing, Number: t.Number, Latest: true, Version: 1}.queue(now)
			was, err := s.store.Execution(ctx, scope, job, t.Thing, 0)
			switch {
			case errors.Is(err, ErrExecution) && t.Number == 1:
				err = c.add(ctx, next)
			case err != nil || was.Number >= t.Number:
			case was.Number == t.Number-1 && was.Status.Terminal():
				err = c.follow(ctx, &was, was.Version, next)
			default:
				err = ErrTransition.New("Attempt %d is %s, so there is no attempt %d.", was.Number, was.Status, t.Number)
			}
			if err != nil {
				return err
			}
		}
		return nil
	})
}

// Withdraw takes attempts back that are still queued, by force also those in
// progress. with runs then, in the same transaction, with those that were taken
// back and what they were; the others have ended, have begun, or never were.
func (s *Service) Withdraw(ctx context.Context, scope access.Scope, job string, list []Enlisted, force bool, with func(ctx context.Context, back map[fleet.ThingName]Status) error) error {
	now := s.clock()
	return s.atomically(ctx, now, func(ctx context.Context, c *change) error {
		back := map[fleet.ThingName]Status{}
		for _, t := range list {
			was, err := s.store.Execution(ctx, scope, job, t.Thing, t.Number)
			if errors.Is(err, ErrExecution) || err == nil && was.Status != Queued && (was.Status != InProgress || !force) {
				continue
			}
			if err != nil {
				return err
			}
			is := was.end(Removed, now)
			is.Forced = was.Status == InProgress
			if err := c.put(ctx, was, is); err != nil {
				return err
			}
			back[t.Thing] = was.Status
		}
		return with(ctx, back)
	})
}

// Attempts finds attempts, in their order; one that is not there has no status.
func (s *Service) Attempts(ctx context.Context, scope access.Scope, job string, list []Enlisted) ([]Execution, error) {
	out := make([]Execution, len(list))
	for i, t := range list {
		e, err := s.store.Execution(ctx, scope, job, t.Thing, t.Number)
		if errors.Is(err, ErrExecution) {
			continue
		}
		if err != nil {
			return nil, err
		}
		out[i] = e
	}
	return out, nil
}

// CloseFor ends the job of a campaign, once nobody has anything to do for it.
func (s *Service) CloseFor(ctx context.Context, tenant, id string) error {
	_, err := s.changeJob(ctx, tenant, id, func(j *Job, now time.Time, _ *change) error {
		if j.enlisted() && j.Status == JobInProgress {
			j.Stopped, j.Active = true, true // the loop completes it
		}
		return nil
	})
	return err
}

// checkAbort refuses what only campaigns know.
func checkAbort(a rollout.Abort) error {
	for _, c := range a.Criteria {
		if c.FailureType == rollout.Silent {
			return rollout.ErrAbort.New("The failure type is %q.", c.FailureType)
		}
	}
	return a.Check()
}
