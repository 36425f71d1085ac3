package main

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"time"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/fleet"
	"hallmark/fleet/jobs"
	"hallmark/fleet/rollout"
	"hallmark/web"
)

// jobPage is how many rows [jobs.Service] gives at once.
const jobPage = 250

// inPages reads n rows from whoever gives fewer at once.
func inPages[T any](most int, fetch func(after string, n int) ([]T, error), position func(*T) string) func(after string, n int) ([]T, error) {
	return func(after string, n int) (out []T, err error) {
		for len(out) < n {
			m := min(most, n-len(out))
			rows, err := fetch(after, m)
			if err != nil {
				return nil, err
			}
			out = append(out, rows...)
			if len(rows) < m {
				break
			}
			after = position(&rows[m-1])
		}
		return out, nil
	}
}

// jobSpec translates a request.
func jobSpec(r *adminapi.JobRequest) (jobs.Spec, error) {
	s := jobs.Spec{Targets: r.Targets, Document: r.Document, Parameters: r.Parameters, Presign: jobs.Presign{ExpiresInSec: r.UrlSeconds}, Description: r.Description,
		Timeout: jobs.Timeout{InProgressMinutes: r.TimeoutMinutes}, Tags: r.Tags,
		Rollout:  rollout.Rate{MaximumPerMinute: r.Rollout.MaxPerMinute},
		Schedule: rollout.Schedule{Start: r.Schedule.Start, End: r.Schedule.End, EndBehavior: rollout.EndBehavior(r.Schedule.EndBehavior)}}
	if r.Continuous {
		s.Selection = jobs.Continuous
	}
	if g := r.Rollout; g.BasePerMinute != 0 || g.Factor != 0 || g.PerNotified != 0 || g.PerSucceeded != 0 {
		s.Rollout.Exponential = &rollout.Exponential{BasePerMinute: g.BasePerMinute, IncrementFactor: g.Factor, Increase: rollout.Increase{NotifiedThings: g.PerNotified, SucceededThings: g.PerSucceeded}}
	}
	for _, a := range r.Abort {
		s.Abort.Criteria = append(s.Abort.Criteria, rollout.AbortCriterion{FailureType: rollout.Failure(a.Failure), Action: "CANCEL", Percentage: a.Percent, MinExecuted: a.MinExecuted})
	}
	for _, a := range r.Retry {
		s.Retry.Criteria = append(s.Retry.Criteria, rollout.RetryCriterion{FailureType: rollout.Failure(a.Failure), Retries: a.Retries})
	}
	for _, w := range r.Schedule.Windows {
		at, err := rollout.ParseCron(w.Start)
		if err != nil {
			return s, err
		}
		s.Schedule.Windows = append(s.Schedule.Windows, rollout.Maintenance{Start: at, Minutes: w.Minutes})
	}
	return s, nil
}

func jobView(j *jobs.Job) adminapi.Job {
	v := adminapi.Job{
		Id: j.ID, Status: string(j.Status), Continuous: j.Selection == jobs.Continuous, Targets: nonNil(j.Targets), Parameters: j.Parameters, UrlSeconds: j.Presign.ExpiresInSec, Description: j.Description,
		TimeoutMinutes: j.Timeout.InProgressMinutes, Tags: j.Tags, LookedAtAll: j.Enumerated, Stopped: j.Stopped, Forced: j.Force, ReasonCode: j.ReasonCode, Comment: j.Comment,
		CreatedAt: j.CreatedAt, UpdatedAt: j.UpdatedAt, CompletedAt: j.CompletedAt, Version: j.Version,
		Rollout:  adminapi.JobRollout{MaxPerMinute: j.Rollout.MaximumPerMinute},
		Schedule: adminapi.JobSchedule{Start: j.Schedule.Start, End: j.Schedule.End, EndBehavior: string(j.Schedule.EndBehavior)},
		Counts: adminapi.JobCounts{Waiting: j.Counts.Waiting, Queued: j.Counts.Queued, InProgress: j.Counts.InProgress, Succeeded: j.Counts.Succeeded, Failed: j.Counts.Failed, Rejected: j.Counts.Rejected,
			TimedOut: j.Counts.TimedOut, Canceled: j.Counts.Canceled, Removed: j.Counts.Removed},
	}
	if e := j.Rollout.Exponential; e != nil {
		v.Rollout.BasePerMinute, v.Rollout.Factor, v.Rollout.PerNotified, v.Rollout.PerSucceeded = e.BasePerMinute, e.IncrementFactor, e.Increase.NotifiedThings, e.Increase.SucceededThings
	}
	for _, a := range j.Abort.Criteria {
		v.Abort = append(v.Abort, adminapi.JobAbort{Failure: string(a.FailureType), Percent: a.Percentage, MinExecuted: a.MinExecuted})
	}
	for _, a := range j.Retry.Criteria {
		v.Retry = append(v.Retry, adminapi.JobRetry{Failure: string(a.FailureType), Retries: a.Retries})
	}
	for _, w := range j.Schedule.Windows {
		v.Schedule.Windows = append(v.Schedule.Windows, adminapi.JobWindow{Start: w.Start.String(), Minutes: w.Minutes})
	}
	return v
}

func executionView(e *jobs.Execution) adminapi.JobExecution {
	return adminapi.JobExecution{Job: e.Job, Thing: string(e.Thing), Number: e.Number, Status: string(e.Status), Details: e.Details, Forced: e.Forced,
		QueuedAt: e.QueuedAt, StartedAt: e.StartedAt, UpdatedAt: e.UpdatedAt, DueAt: e.Due(), Version: e.Version}
}

// full is a job with its document.
func (b *backend) full(ctx context.Context, j jobs.Job, err error) (adminapi.Job, error) {
	if err != nil {
		return adminapi.Job{}, err
	}
	v := jobView(&j)
	v.Document, err = b.jobs.Document(ctx, j.Tenant, j.ID)
	if errors.Is(err, jobs.ErrJobUnknown) {
		v.Document, err = j.Document, nil // removed since
	}
	return v, err
}

// CreateJob implements [web.Jobs].
func (b *backend) CreateJob(ctx context.Context, by access.Actor, r adminapi.JobRequest) (adminapi.Job, error) {
	spec, err := jobSpec(&r)
	if err != nil {
		return adminapi.Job{}, err
	}
	j, err := b.jobs.CreateJob(ctx, by.Tenant, r.Id, spec)
	if err == nil {
		b.log.InfoContext(ctx, "job created", "job", j.ID, "targets", len(j.Targets), "by", by.String())
	}
	return b.full(ctx, j, err)
}

// Jobs implements [web.Jobs].
func (b *backend) Jobs(ctx context.Context, s access.Scope, status string, p web.Page) ([]adminapi.Job, string, error) {
	position := func(j *jobs.Job) string { return j.ID }
	items, next, err := collect(p.After, p.Limit, inPages(jobPage, func(after string, n int) ([]jobs.Job, error) {
		return b.jobs.Jobs(ctx, s.Tenant, jobs.JobStatus(status), after, n)
	}, position), position, nil)
	return mapped(items, jobView), next, err
}

// Job implements [web.Jobs].
func (b *backend) Job(ctx context.Context, s access.Scope, id string) (adminapi.Job, error) {
	j, err := b.jobs.Job(ctx, s.Tenant, id)
	return b.full(ctx, j, err)
}

// CancelJob implements [web.Jobs].
func (b *backend) CancelJob(ctx context.Context, by access.Actor, id string, r adminapi.JobCancelRequest) (adminapi.Job, error) {
	j, err := b.jobs.CancelJob(ctx, by.Tenant, id, jobs.CancelOptions{Force: r.Force, ReasonCode: r.ReasonCode, Comment: r.Comment})
	if err == nil {
		b.log.InfoContext(ctx, "job cancelled", "job", id, "force", r.Force, "by", by.String())
	}
	return b.full(ctx, j, err)
}

// DeleteJob implements [web.Jobs].
func (b *backend) DeleteJob(ctx context.Context, by access.Actor, id string, force bool) (adminapi.Job, error) {
	v, err := b.Job(ctx, by.Scope(), id)
	if err != nil {
		return v, err
	}
	if err := b.jobs.DeleteJob(ctx, by.Tenant, id, force); err != nil {
		return adminapi.Job{}, err
	}
	b.log.InfoContext(ctx, "job deleted", "job", id, "force", force, "by", by.String())
	return v, nil
}

// AddJobTargets implements [web.Jobs].
func (b *backend) AddJobTargets(ctx context.Context, by access.Actor, id string, r adminapi.JobTargetsRequest) (adminapi.Job, error) {
	j, err := b.jobs.AssociateTargets(ctx, by.Tenant, id, r.Targets, r.Comment)
	if err == nil {
		b.log.InfoContext(ctx, "job got more targets", "job", id, "targets", len(r.Targets), "by", by.String())
	}
	return b.full(ctx, j, err)
}

// JobExecutions implements [web.Jobs].
func (b *backend) JobExecutions(ctx context.Context, s access.Scope, job, status string, p web.Page) ([]adminapi.JobExecution, string, error) {
	position := func(e *jobs.Execution) string { return string(e.Thing) }
	items, next, err := collect(p.After, p.Limit, inPages(jobPage, func(after string, n int) ([]jobs.Execution, error) {
		return b.jobs.ExecutionsOfJob(ctx, s.Tenant, job, jobs.Status(status), fleet.ThingName(after), n)
	}, position), position, nil)
	return mapped(items, executionView), next, err
}

// ThingJobs implements [web.Jobs].
func (b *backend) ThingJobs(ctx context.Context, s access.Scope, thing, status string, p web.Page) ([]adminapi.JobExecution, string, error) {
	name, err := b.knownThing(ctx, s, thing)
	if err != nil {
		return nil, "", err
	}
	position := func(e *jobs.Execution) string { return e.Job + "/" + strconv.FormatInt(e.Number, 10) }
	items, next, err := collect(p.After, p.Limit, inPages(jobPage, func(after string, n int) ([]jobs.Execution, error) {
		job, text, _ := strings.Cut(after, "/")
		number, err := strconv.ParseInt(text, 10, 64)
		if err != nil && after != "" {
			return nil, web.ErrCursor.Wrap(err, "")
		}
		return b.jobs.ExecutionsOfThing(ctx, s.Tenant, name, jobs.Status(status), job, number, n)
	}, position), position, nil)
	return mapped(items, executionView), next, err
}

// knownThing is a thing's name as it is registered.
func (b *backend) knownThing(ctx context.Context, s access.Scope, name string) (fleet.ThingName, error) {
	n, err := fleet.ParseThingName(name)
	if err != nil {
		return "", err
	}
	t, err := b.reg.Get(ctx, s, n)
	return t.Name, err
}

// CancelJobExecution implements [web.Jobs].
func (b *backend) CancelJobExecution(ctx context.Context, by access.Actor, job, thing string, r adminapi.JobExecutionCancelRequest) (adminapi.JobExecution, error) {
	name, err := fleet.ParseThingName(thing)
	if err != nil {
		return adminapi.JobExecution{}, err
	}
	var expected *int64
	if r.ExpectedVersion != 0 {
		expected = &r.ExpectedVersion
	}
	if err := b.jobs.CancelExecution(ctx, by.Tenant, job, name, r.Force, expected, r.Details); err != nil {
		return adminapi.JobExecution{}, err
	}
	b.log.InfoContext(ctx, "job execution cancelled", "job", job, "thing", thing, "force", r.Force, "by", by.String())
	v, err := b.jobs.Describe(ctx, by.Tenant, name, job, 0, false)
	if errors.Is(err, jobs.ErrExecution) { // it had not been rolled out
		now := b.now().UTC().Truncate(time.Millisecond)
		return adminapi.JobExecution{Job: job, Thing: thing, Number: 1, Status: string(jobs.Canceled), QueuedAt: now, UpdatedAt: now, Version: 1}, nil
	}
	if err != nil {
		return adminapi.JobExecution{}, err
	}
	return executionView(&v.Execution), nil
}
