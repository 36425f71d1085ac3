package jobs

import (
	"maps"
	"time"

	"hallmark/fleet"
	"hallmark/fleet/rollout"
)

// Status is the state of an execution.
//
//	(Waiting) ─ roll-out ─► Queued ─ device ─► InProgress ─ device ─► Succeeded, Failed, Rejected
//	                          │  └─ device ─► Succeeded, Failed, Rejected     └─ timer ─► TimedOut
//	                          └─ service ─► Canceled, Removed ◄─ by force, Removed ─┘
//
// After Failed and TimedOut a new attempt may be Queued, with the next number.
type Status string

// The states. Waiting is our own: devices and lists do not see it.
const (
	Waiting    Status = "WAITING"
	Queued     Status = "QUEUED"
	InProgress Status = "IN_PROGRESS"
	Succeeded  Status = "SUCCEEDED"
	Failed     Status = "FAILED"
	Rejected   Status = "REJECTED"
	TimedOut   Status = "TIMED_OUT"
	Canceled   Status = "CANCELED"
	Removed    Status = "REMOVED"
)

// Pending tells whether the device still has to do it.
func (s Status) Pending() bool { return s == Queued || s == InProgress }

// Terminal tells whether the execution is over.
func (s Status) Terminal() bool { return s != Waiting && !s.Pending() }

// Rank is the order in which executions are looked at: those in progress first,
// then the queued, the waiting, and the finished ones.
func (s Status) Rank() int {
	switch s {
	case InProgress:
		return 0
	case Queued:
		return 1
	case Waiting:
		return 2
	}
	return 3
}

// Execution is one attempt of a thing at a job.
type Execution struct {
	Tenant    string
	Job       string
	Thing     fleet.ThingName
	Number    int64 // of the attempt, from 1
	Latest    bool  // there is no later attempt
	Status    Status
	Details   map[string]string
	Forced    bool // cancelled while in progress
	Failures  int  // attempts before that failed
	Timeouts  int  // and that timed out
	QueuedAt  time.Time
	StartedAt time.Time
	UpdatedAt time.Time
	Version   int64     // 1 at first; rises with every change
	Until     time.Time // the in-progress timer; zero: none
	StepUntil time.Time // the step timer, of no effect after Until
}

// Due is when a timer of the execution ends; zero if none runs.
func (e *Execution) Due() time.Time {
	if e.Until.IsZero() || !e.StepUntil.IsZero() && e.StepUntil.Before(e.Until) {
		return e.StepUntil
	}
	return e.Until
}

// ExecutionState is what a device may ask to see after an update.
type ExecutionState struct {
	Status  Status            `json:"status"`
	Details map[string]string `json:"statusDetails"`
	Version int64             `json:"versionNumber"`
}

// State is the execution's state for the device.
func (e *Execution) State() ExecutionState {
	s := ExecutionState{e.Status, e.Details, e.Version}
	if s.Details == nil {
		s.Details = map[string]string{}
	}
	return s
}

// noTimer in minutes drops the step timer.
const noTimer = -1

// touch makes the next version of an execution.
func (e Execution) touch(now time.Time) Execution {
	e.Version++
	e.UpdatedAt = now
	return e
}

// end makes the execution's last version.
func (e Execution) end(s Status, now time.Time) Execution {
	e = e.touch(now)
	e.Status, e.Until, e.StepUntil = s, time.Time{}, time.Time{}
	return e
}

// queue rolls a waiting execution out.
func (e Execution) queue(now time.Time) Execution {
	e.Status, e.QueuedAt, e.UpdatedAt = Queued, now, now
	return e
}

// start is the device's beginning, or its next step if it began before. nil
// details leave those that are there.
func (e Execution) start(timeout time.Duration, details map[string]string, stepMinutes int, now time.Time) Execution {
	e = e.touch(now)
	if e.Status == Queued {
		e.Status, e.StartedAt = InProgress, now
		if timeout > 0 {
			e.Until = now.Add(timeout)
		}
	}
	if details != nil {
		e.Details = maps.Clone(details)
	}
	switch {
	case stepMinutes == noTimer:
		e.StepUntil = time.Time{}
	case stepMinutes > 0:
		e.StepUntil = now.Add(time.Duration(stepMinutes) * time.Minute)
	}
	return e
}

// retry is the attempt after one that failed.
func (e Execution) retry(now time.Time) Execution {
	next := Execution{Tenant: e.Tenant, Job: e.Job, Thing: e.Thing, Number: e.Number + 1, Latest: true, Version: 1, Failures: e.Failures, Timeouts: e.Timeouts}
	switch e.Status {
	case Failed:
		next.Failures++
	case TimedOut:
		next.Timeouts++
	}
	return next.queue(now)
}

// Counts are a job's things by the state of their latest attempt.
type Counts struct {
	Waiting, Queued, InProgress, Succeeded, Failed, Rejected, TimedOut, Canceled, Removed int64
}

func (c *Counts) at(s Status) *int64 {
	switch s {
	case Waiting:
		return &c.Waiting
	case Queued:
		return &c.Queued
	case InProgress:
		return &c.InProgress
	case Succeeded:
		return &c.Succeeded
	case Failed:
		return &c.Failed
	case Rejected:
		return &c.Rejected
	case TimedOut:
		return &c.TimedOut
	case Canceled:
		return &c.Canceled
	}
	return &c.Removed
}

// All lists the counts with their states, in one order.
func (c *Counts) All() (out []struct {
	Status Status
	N      int64
}) {
	for _, s := range []Status{Waiting, Queued, InProgress, Succeeded, Failed, Rejected, TimedOut, Canceled, Removed} {
		out = append(out, struct {
			Status Status
			N      int64
		}{s, *c.at(s)})
	}
	return out
}

// plus adds a difference.
func (c Counts) plus(d Counts) Counts {
	for _, s := range d.All() {
		*c.at(s.Status) += s.N
	}
	return c
}

// open is how many are not over.
func (c *Counts) open() int64 { return c.Waiting + c.Queued + c.InProgress }

// notified is how many things were ever told.
func (c *Counts) notified() int64 {
	return c.Queued + c.InProgress + c.Succeeded + c.Failed + c.Rejected + c.TimedOut + c.Canceled + c.Removed
}

func (c *Counts) tally() rollout.Tally {
	return rollout.Tally{Succeeded: c.Succeeded, Failed: c.Failed, Rejected: c.Rejected, TimedOut: c.TimedOut}
}
