package jobs

import (
	"context"
	"errors"
	"slices"
	"time"
	"unicode/utf8"

	"hallmark/access"
	"hallmark/fleet"
	"hallmark/fleet/rollout"
)

func failureOf(s Status) rollout.Failure { return rollout.Failure(s) }

// anyThing is for whom a document is rendered when only whether it can be matters.
const anyThing fleet.ThingName = "any"

// CreateJob makes a job. Its targets are looked at by the loop, at once.
func (s *Service) CreateJob(ctx context.Context, tenant, id string, spec Spec) (Job, error) {
	if err := ParseID(id); err != nil {
		return Job{}, err
	}
	if spec.Selection == "" {
		spec.Selection = Snapshot
	}
	if err := spec.Check(s.signer != nil); err != nil {
		return Job{}, err
	}
	// An address that nobody can sign is said to who makes the job, not to each device.
	_, err := s.render(ctx, &Job{Tenant: tenant, Spec: spec}, anyThing)
	if err != nil {
		return Job{}, err
	}
	if spec.Targets, err = s.resolve(ctx, tenant, spec.Targets); err != nil {
		return Job{}, err
	}
	now := s.clock()
	j := Job{Tenant: tenant, ID: id, Status: JobInProgress, Active: true, Spec: spec, CreatedAt: now, UpdatedAt: now, Version: 1}
	if spec.Schedule.Phase(now) == rollout.Before {
		j.Status = JobScheduled
	}
	if spec.Schedule.Phase(now) == rollout.After {
		return Job{}, ErrJobInvalid.New("The schedule has ended.")
	}
	err = s.store.Atomic(ctx, func(ctx context.Context) error { return s.store.AddJob(ctx, j) })
	return j, err
}

// AssociateTargets adds targets to a continuous job.
func (s *Service) AssociateTargets(ctx context.Context, tenant, id string, targets []string, comment string) (Job, error) {
	if len(targets) > MaxTargets {
		return Job{}, ErrJobInvalid.New("A job has 1 to %d targets.", MaxTargets)
	}
	targets, err := s.resolve(ctx, tenant, targets)
	if err != nil {
		return Job{}, err
	}
	return s.changeJob(ctx, tenant, id, func(j *Job, now time.Time, _ *change) error {
		if j.enlisted() {
			return ErrJobState.New("Its things are a campaign's.")
		}
		if j.Selection != Continuous || j.Status != JobInProgress && j.Status != JobScheduled {
			return ErrJobState.New("Only a continuous job that goes on takes more targets.")
		}
		for _, t := range targets {
			if !slices.Contains(j.Targets, t) {
				j.Targets = append(slices.Clone(j.Targets), t)
			}
		}
		if len(j.Targets) > MaxTargets {
			return ErrJobInvalid.New("A job has 1 to %d targets.", MaxTargets)
		}
		// The look that is under way does not know them: it begins anew.
		j.Cursor, j.SweptAt, j.Comment = "", time.Time{}, comment
		return nil
	})
}

// Changes are what may be changed of a job that goes on; nil leaves it.
type Changes struct {
	Description *string
	Presign     *Presign
	Rollout     *rollout.Rate
	Abort       *rollout.Abort
	Retry       *rollout.Retry
	Timeout     *Timeout // for executions that begin later
}

// UpdateJob changes a job.
func (s *Service) UpdateJob(ctx context.Context, tenant, id string, in Changes) (Job, error) {
	return s.changeJob(ctx, tenant, id, func(j *Job, _ time.Time, _ *change) error {
		if j.Status != JobInProgress && j.Status != JobScheduled {
			return ErrJobState.New("The job is %s.", j.Status)
		}
		replace(&j.Description, in.Description)
		replace(&j.Presign, in.Presign)
		replace(&j.Rollout, in.Rollout)
		replace(&j.Abort, in.Abort)
		replace(&j.Retry, in.Retry)
		replace(&j.Timeout, in.Timeout)
		return j.Check(s.signer != nil)
	})
}

func replace[T any](old, with *T) {
	if with != nil {
		*old = *with
	}
}

// Refresh makes the continuous jobs of a group look at it at once, after its
// members changed.
func (s *Service) Refresh(ctx context.Context, tenant, group string) error {
	tenantNow, id := tenant, ""
	for {
		list, err := s.store.ActiveJobs(ctx, tenantNow, id, maxPage)
		if err != nil || len(list) == 0 {
			return err
		}
		for _, j := range list {
			if id = j.ID; j.Tenant != tenant {
				return nil
			}
			groups, _ := j.parts()
			if j.Selection != Continuous || !slices.Contains(groups, aGroup+group) {
				continue
			}
			_, err := s.changeJob(ctx, tenant, j.ID, func(j *Job, _ time.Time, _ *change) error {
				j.SweptAt = time.Time{}
				return nil
			})
			if err != nil && !errors.Is(err, ErrJobUnknown) {
				return err
			}
		}
	}
}

// CancelOptions say how to cancel.
type CancelOptions struct {
	Force      bool // executions in progress too
	ReasonCode string
	Comment    string
}

// CancelJob ends a job: what waits is dropped, what is queued is cancelled, and
// by force what is in progress too. Of very many executions the last are
// cancelled by the loop, and a device does not get one that still waits for it.
func (s *Service) CancelJob(ctx context.Context, tenant, id string, in CancelOptions) (Job, error) {
	if len(in.ReasonCode) > 128 || utf8.RuneCountInString(in.Comment) > MaxText {
		return Job{}, ErrJobInvalid.New("The reason or the comment is too long.")
	}
	j, err := s.changeJob(ctx, tenant, id, func(j *Job, now time.Time, c *change) error {
		again := j.Status == JobCanceled && in.Force && !j.Force
		if j.Status != JobInProgress && j.Status != JobScheduled && !again {
			return ErrJobState.New("The job is %s.", j.Status)
		}
		j.cancel(in.Force, in.ReasonCode, in.Comment)
		c.events = append(c.events, jobEvent{*j, "cancellation_in_progress"})
		return nil
	})
	if err != nil {
		return j, err
	}
	return s.drain(ctx, j)
}

func (j *Job) cancel(force bool, reason, comment string) {
	j.Status, j.Active, j.Force, j.ReasonCode, j.Comment = JobCanceled, true, force, reason, comment
}

// drain does the first of what the loop would do next.
func (s *Service) drain(ctx context.Context, j Job) (Job, error) {
	if err := s.stepJob(ctx, j, s.clock()); err != nil {
		return j, err
	}
	return s.Job(ctx, j.Tenant, j.ID)
}

// DeleteJob removes a job with all its executions. One that is not over needs
// force.
func (s *Service) DeleteJob(ctx context.Context, tenant, id string, force bool) error {
	j, err := s.changeJob(ctx, tenant, id, func(j *Job, now time.Time, c *change) error {
		if j.Status != JobCompleted && j.Status != JobCanceled && !force {
			return ErrJobState.New("The job is %s.", j.Status)
		}
		if j.Status == JobCanceled && j.Counts.InProgress > 0 && !force {
			return ErrJobState.New("%d executions are in progress.", j.Counts.InProgress)
		}
		j.Status, j.Active = JobDeleting, true
		c.events = append(c.events, jobEvent{*j, "deletion_in_progress"})
		return nil
	})
	if err != nil {
		return err
	}
	if _, err = s.drain(ctx, j); errors.Is(err, ErrJobUnknown) {
		return nil // as it should be
	}
	return err
}

// changeJob changes a job's row.
func (s *Service) changeJob(ctx context.Context, tenant, id string, f func(j *Job, now time.Time, c *change) error) (j Job, err error) {
	now := s.clock()
	for range maxTries {
		err = s.atomically(ctx, now, func(ctx context.Context, c *change) error {
			if j, err = s.store.Job(ctx, access.Scope{Tenant: tenant}, id); err != nil {
				return err
			}
			was := j.Version
			j.Version, j.UpdatedAt = was+1, now
			if err := f(&j, now, c); err != nil {
				return err
			}
			return s.store.PutJob(ctx, j, was)
		})
		if !errors.Is(err, ErrJobChanged) {
			break
		}
	}
	return j, err
}

// CancelExecution cancels one thing's execution; one in progress needs force.
func (s *Service) CancelExecution(ctx context.Context, tenant, job string, thing fleet.ThingName, force bool, expected *int64, details map[string]string) error {
	if err := checkDetails(details, 0); err != nil {
		return err
	}
	now := s.clock()
	return s.atomically(ctx, now, func(ctx context.Context, c *change) error {
		was, err := s.store.Execution(ctx, access.Scope{Tenant: tenant}, job, thing, 0)
		if err != nil {
			return err
		}
		if expected != nil && *expected != was.Version {
			return ErrVersion.New("The version is %d, not %d.", was.Version, *expected).With(stateMember, was.State())
		}
		if was.Status.Terminal() || was.Status == InProgress && !force {
			return ErrTransition.New("The execution is %s.", was.Status).With(stateMember, was.State())
		}
		is := was.end(Canceled, now)
		is.Forced = was.Status == InProgress
		if details != nil {
			is.Details = details
		}
		return c.put(ctx, was, is)
	})
}

// ThingDeleted ends whatever a thing still has to do, because it is gone.
func (s *Service) ThingDeleted(ctx context.Context, tenant string, thing fleet.ThingName) error {
	now := s.clock()
	var last Execution
	for {
		var list []Execution
		err := s.atomically(ctx, now, func(ctx context.Context, c *change) error {
			var err error
			if list, err = s.store.ExecutionsOfThing(ctx, access.Scope{Tenant: tenant}, thing, last.Job, last.Number, batch); err != nil {
				return err
			}
			for _, e := range list {
				if !e.Status.Terminal() {
					if err := c.put(ctx, e, e.end(Removed, now)); err != nil {
						return err
					}
				}
			}
			return nil
		})
		if err != nil || len(list) < batch {
			return err
		}
		last = list[len(list)-1]
	}
}
