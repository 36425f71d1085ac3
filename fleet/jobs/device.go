package jobs

import (
	"context"
	"encoding/json"
	"time"

	"hallmark/access"
	"hallmark/fleet"
)

// Next is the name by which a device asks for its next execution.
const Next = "$next"

// View is an execution with the document as one device gets it.
type View struct {
	Execution
	Document json.RawMessage // nil if it was not asked for
	now      time.Time
}

// Pending lists what a thing has to do, in the order in which it should.
func (s *Service) Pending(ctx context.Context, tenant string, thing fleet.ThingName) (inProgress, queued []Execution, err error) {
	if _, err := fleet.ParseThingName(string(thing)); err != nil {
		return nil, nil, err
	}
	list, err := s.store.PendingExecutions(ctx, access.Scope{Tenant: tenant}, thing, maxPending)
	if err != nil {
		return nil, nil, err
	}
	for _, e := range list {
		if e.Status == InProgress {
			inProgress = append(inProgress, e)
		} else {
			queued = append(queued, e)
		}
	}
	return inProgress, queued, nil
}

// Start is what a device says when it begins.
type Start struct {
	Details     map[string]string // nil: none
	StepMinutes int               // 0: no step timer; -1: drop it
}

// StartNext gives a thing its next execution and marks it as in progress; nil if
// there is none. One that is in progress already comes back as it is.
func (s *Service) StartNext(ctx context.Context, tenant string, thing fleet.ThingName, in Start) (*View, error) {
	if _, err := fleet.ParseThingName(string(thing)); err != nil {
		return nil, err
	}
	if err := checkDetails(in.Details, in.StepMinutes); err != nil {
		return nil, err
	}
	now := s.clock()
	var found *Execution
	var job *Job
	err := s.atomically(ctx, now, func(ctx context.Context, c *change) error {
		found = nil
		for {
			list, err := s.store.PendingExecutions(ctx, access.Scope{Tenant: tenant}, thing, 1)
			if err != nil || len(list) == 0 {
				return err
			}
			e := list[0]
			if job, err = c.job(ctx, tenant, e.Job); err != nil {
				return err
			}
			if e.Status == Queued && job.ended() {
				// Its job was cancelled and the loop has not come here yet.
				if err := c.put(ctx, e, e.end(Canceled, now)); err != nil {
					return err
				}
				continue
			}
			found = &e
			if e.Status != Queued {
				return nil
			}
			started := e.start(job.timeout(), in.Details, in.StepMinutes, now)
			found = &started
			return c.put(ctx, e, started)
		}
	})
	if err != nil || found == nil {
		return nil, err
	}
	v := View{Execution: *found, now: now}
	v.Document, err = s.render(ctx, job, found.Thing)
	return &v, err
}

// Describe gives one execution: the latest attempt for number 0, the next
// pending one for the job [Next], and nil if there is none of those.
func (s *Service) Describe(ctx context.Context, tenant string, thing fleet.ThingName, job string, number int64, document bool) (*View, error) {
	if _, err := fleet.ParseThingName(string(thing)); err != nil {
		return nil, err
	}
	var e Execution
	scope := access.Scope{Tenant: tenant}
	if job == Next {
		list, err := s.store.PendingExecutions(ctx, scope, thing, 1)
		if err != nil || len(list) == 0 {
			return nil, err
		}
		e = list[0]
	} else {
		var err error
		if e, err = s.store.Execution(ctx, scope, job, thing, number); err != nil {
			return nil, err
		}
		if e.Status == Waiting { // nobody was told of it
			return nil, ErrExecution.New("")
		}
	}
	v := View{Execution: e, now: s.clock()}
	if document {
		j, err := s.store.Job(ctx, scope, e.Job)
		if err != nil {
			return nil, err
		}
		if v.Document, err = s.render(ctx, &j, e.Thing); err != nil {
			return nil, err
		}
	}
	return &v, nil
}

// Update is what a device reports.
type Update struct {
	Status      Status // IN_PROGRESS, SUCCEEDED, FAILED or REJECTED
	Details     map[string]string
	Expected    *int64 // version; nil: any
	Number      int64  // attempt; 0: the latest
	StepMinutes int    // 0: leave the timer; -1: drop it
	State       bool   // answer with the state
	Document    bool   // answer with the document
}

// Updated is the answer to an update, with what was asked for.
type Updated struct {
	State    *ExecutionState
	Document json.RawMessage
}

// Update changes an execution as its device reports. An [ErrVersion] and an
// [ErrTransition] carry the state that the execution is in.
func (s *Service) Update(ctx context.Context, tenant string, thing fleet.ThingName, job string, in Update) (*Updated, error) {
	if _, err := fleet.ParseThingName(string(thing)); err != nil {
		return nil, err
	}
	switch in.Status {
	case InProgress, Succeeded, Failed, Rejected:
	default:
		return nil, ErrRequest.New("The status is IN_PROGRESS, SUCCEEDED, FAILED or REJECTED.")
	}
	if err := checkDetails(in.Details, in.StepMinutes); err != nil {
		return nil, err
	}
	now := s.clock()
	var is Execution
	var j *Job
	err := s.atomically(ctx, now, func(ctx context.Context, c *change) error {
		// 1. What it is about, and whether the device knows it as it is.
		was, err := s.store.Execution(ctx, access.Scope{Tenant: tenant}, job, thing, in.Number)
		if err != nil {
			return err
		}
		if was.Status == Waiting {
			return ErrExecution.New("")
		}
		if in.Expected != nil && *in.Expected != was.Version {
			return ErrVersion.New("The version is %d, not %d.", was.Version, *in.Expected).With(stateMember, was.State())
		}
		if j, err = c.job(ctx, tenant, job); err != nil {
			return err
		}
		if !was.Status.Pending() || was.Status == Queued && j.ended() {
			return ErrTransition.New("The execution is %s and cannot become %s.", was.Status, in.Status).With(stateMember, was.State())
		}
		// 2. The step.
		if in.Status == InProgress {
			is = was.start(j.timeout(), in.Details, in.StepMinutes, now)
			return c.put(ctx, was, is)
		}
		is = was.end(in.Status, now)
		if in.Details != nil {
			is.Details = in.Details
		}
		return c.conclude(ctx, j, was, is)
	})
	if err != nil {
		return nil, err
	}
	out := &Updated{}
	if in.State {
		state := is.State()
		out.State = &state
	}
	if in.Document {
		out.Document, err = s.render(ctx, j, is.Thing)
	}
	return out, err
}

// conclude writes the end of an attempt, and queues the next one if there is to
// be one.
func (c *change) conclude(ctx context.Context, j *Job, was, is Execution) error {
	if !j.ended() && !j.Stopped && j.Retry.Again(failureOf(is.Status), is.Failures, is.Timeouts) {
		return c.again(ctx, was, is)
	}
	return c.put(ctx, was, is)
}
