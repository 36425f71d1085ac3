package webtest

import (
	"context"
	"encoding/json"
	"strings"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/web"
)

// Job is the job of the fixtures; it is for [Unit].
const Job = "update-1"

func (f *Fake) jobRow() adminapi.Job {
	return adminapi.Job{Id: Job, Status: "IN_PROGRESS", Targets: []string{"thing/" + Unit}, Document: `{"operation":"x"}`, Counts: adminapi.JobCounts{Queued: 1}, LookedAtAll: true, CreatedAt: f.Now(), UpdatedAt: f.Now(), Version: 1}
}

func (f *Fake) executionRow() adminapi.JobExecution {
	return adminapi.JobExecution{Job: Job, Thing: Unit, Number: 1, Status: "QUEUED", QueuedAt: f.Now(), UpdatedAt: f.Now(), Version: 1}
}

func (f *Fake) jobOf(s access.Scope, id string) (adminapi.Job, error) {
	return pick(s, []adminapi.Job{f.jobRow()}, func(j *adminapi.Job) bool { return j.Id == id })
}

// CreateJob implements [web.Jobs].
func (f *Fake) CreateJob(_ context.Context, by access.Actor, r adminapi.JobRequest) (adminapi.Job, error) {
	f.Calls = append(f.Calls, "create job "+r.Id)
	j := f.jobRow()
	j.Id, j.Targets, j.Document, j.Continuous = r.Id, r.Targets, r.Document, r.Continuous
	return j, nil
}

// Jobs implements [web.Jobs].
func (f *Fake) Jobs(_ context.Context, s access.Scope, status string, p web.Page) ([]adminapi.Job, string, error) {
	in := []adminapi.Job{f.jobRow()}
	if status != "" && in[0].Status != status {
		in = nil
	}
	return cut(s, in, p)
}

// Job implements [web.Jobs].
func (f *Fake) Job(_ context.Context, s access.Scope, id string) (adminapi.Job, error) {
	return f.jobOf(s, id)
}

func (f *Fake) moveJob(by access.Actor, id, verb string) (adminapi.Job, error) {
	if err := f.did(by, "%s job %s", verb, id); err != nil {
		return adminapi.Job{}, err
	}
	return f.jobOf(by.Scope(), id)
}

// CancelJob implements [web.Jobs].
func (f *Fake) CancelJob(_ context.Context, by access.Actor, id string, _ adminapi.JobCancelRequest) (adminapi.Job, error) {
	return f.moveJob(by, id, "cancel")
}

// DeleteJob implements [web.Jobs].
func (f *Fake) DeleteJob(_ context.Context, by access.Actor, id string, force bool) (adminapi.Job, error) {
	if force {
		return f.moveJob(by, id, "delete by force")
	}
	return f.moveJob(by, id, "delete")
}

// AddJobTargets implements [web.Jobs].
func (f *Fake) AddJobTargets(_ context.Context, by access.Actor, id string, r adminapi.JobTargetsRequest) (adminapi.Job, error) {
	return f.moveJob(by, id, "extend by "+strings.Join(r.Targets, ","))
}

// JobExecutions implements [web.Jobs].
func (f *Fake) JobExecutions(_ context.Context, s access.Scope, job, _ string, p web.Page) ([]adminapi.JobExecution, string, error) {
	if _, err := f.jobOf(s, job); err != nil {
		return nil, "", err
	}
	return cut(s, []adminapi.JobExecution{f.executionRow()}, p)
}

// ThingJobs implements [web.Jobs].
func (f *Fake) ThingJobs(ctx context.Context, s access.Scope, thing, _ string, p web.Page) ([]adminapi.JobExecution, string, error) {
	if _, err := f.Thing(ctx, s, thing); err != nil {
		return nil, "", err
	}
	return cut(s, []adminapi.JobExecution{f.executionRow()}, p)
}

// CancelJobExecution implements [web.Jobs].
func (f *Fake) CancelJobExecution(_ context.Context, by access.Actor, job, thing string, _ adminapi.JobExecutionCancelRequest) (adminapi.JobExecution, error) {
	if err := f.did(by, "cancel job %s on %s", job, thing); err != nil {
		return adminapi.JobExecution{}, err
	}
	return pick(by.Scope(), []adminapi.JobExecution{f.executionRow()}, func(e *adminapi.JobExecution) bool { return e.Job == job && e.Thing == thing })
}

// Shadow implements [web.Shadows].
func (f *Fake) Shadow(ctx context.Context, s access.Scope, thing, name string) (adminapi.Shadow, error) {
	if _, err := f.Thing(ctx, s, thing); err != nil {
		return adminapi.Shadow{}, err
	}
	return adminapi.Shadow{Thing: thing, Name: name, Version: 3, State: json.RawMessage(`{"desired":{"lamp":"on"},"delta":{"lamp":"on"}}`), Metadata: json.RawMessage(`{}`)}, nil
}

// UpdateShadow implements [web.Shadows].
func (f *Fake) UpdateShadow(ctx context.Context, by access.Actor, thing, name string, r adminapi.ShadowRequest) (adminapi.Shadow, error) {
	if err := f.did(by, "update shadow %s %s %s", thing, name, r.Desired); err != nil {
		return adminapi.Shadow{}, err
	}
	return f.Shadow(ctx, by.Scope(), thing, name)
}

// DeleteShadow implements [web.Shadows].
func (f *Fake) DeleteShadow(ctx context.Context, by access.Actor, thing, name string) (adminapi.Shadow, error) {
	if err := f.did(by, "delete shadow %s %s", thing, name); err != nil {
		return adminapi.Shadow{}, err
	}
	return f.Shadow(ctx, by.Scope(), thing, name)
}

// Shadows implements [web.Shadows].
func (f *Fake) Shadows(ctx context.Context, s access.Scope, thing string, p web.Page) (out adminapi.ShadowPage, err error) {
	if _, err := f.Thing(ctx, s, thing); err != nil {
		return out, err
	}
	out.Classic = true
	out.Items, out.Next, err = cut(s, []string{"config", "firmware"}, p)
	return out, err
}
