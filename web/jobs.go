package web

import (
	"context"

	"hallmark/access"
	"hallmark/api/adminapi"
)

// Jobs is what devices are told to do, and how it went. A list of executions is
// of one job or of one thing.
type Jobs interface {
	CreateJob(ctx context.Context, by access.Actor, r adminapi.JobRequest) (adminapi.Job, error)
	Jobs(ctx context.Context, s access.Scope, status string, p Page) (items []adminapi.Job, next string, err error)
	Job(ctx context.Context, s access.Scope, id string) (adminapi.Job, error)
	CancelJob(ctx context.Context, by access.Actor, id string, r adminapi.JobCancelRequest) (adminapi.Job, error)
	DeleteJob(ctx context.Context, by access.Actor, id string, force bool) (adminapi.Job, error)
	AddJobTargets(ctx context.Context, by access.Actor, id string, r adminapi.JobTargetsRequest) (adminapi.Job, error)
	JobExecutions(ctx context.Context, s access.Scope, job, status string, p Page) (items []adminapi.JobExecution, next string, err error)
	ThingJobs(ctx context.Context, s access.Scope, thing, status string, p Page) (items []adminapi.JobExecution, next string, err error)
	CancelJobExecution(ctx context.Context, by access.Actor, job, thing string, r adminapi.JobExecutionCancelRequest) (adminapi.JobExecution, error)
}

// Shadows is what devices should be and what they said they are. The name "" is
// the classic shadow.
type Shadows interface {
	Shadow(ctx context.Context, s access.Scope, thing, name string) (adminapi.Shadow, error)
	UpdateShadow(ctx context.Context, by access.Actor, thing, name string, r adminapi.ShadowRequest) (adminapi.Shadow, error)
	DeleteShadow(ctx context.Context, by access.Actor, thing, name string) (adminapi.Shadow, error)
	Shadows(ctx context.Context, s access.Scope, thing string, p Page) (adminapi.ShadowPage, error)
}

func (p *people) listJobs(c *call) (any, error) {
	page, err := c.page()
	if err != nil {
		return nil, err
	}
	items, next, err := p.Backend.Jobs.Jobs(c.Request().Context(), c.scope, c.query.Get("status"), page)
	return adminapi.JobPage{Items: list(items), Next: c.next(next)}, err
}

func (p *people) createJob(c *call) (any, error) {
	r, err := body[adminapi.JobRequest](c)
	if err != nil {
		return nil, err
	}
	return p.Backend.Jobs.CreateJob(c.Request().Context(), c.actor, r)
}

func (p *people) getJob(c *call) (any, error) {
	return p.Backend.Jobs.Job(c.Request().Context(), c.scope, c.Param("job"))
}

func (p *people) cancelJob(c *call) (any, error) {
	r, err := body[adminapi.JobCancelRequest](c)
	if err != nil {
		return nil, err
	}
	return p.Backend.Jobs.CancelJob(c.Request().Context(), c.actor, c.Param("job"), r)
}

func (p *people) deleteJob(c *call) (any, error) {
	return p.Backend.Jobs.DeleteJob(c.Request().Context(), c.actor, c.Param("job"), c.query.Get("force") == "true")
}

func (p *people) addJobTargets(c *call) (any, error) {
	r, err := body[adminapi.JobTargetsRequest](c)
	if err != nil {
		return nil, err
	}
	return p.Backend.Jobs.AddJobTargets(c.Request().Context(), c.actor, c.Param("job"), r)
}

func (p *people) listJobExecutions(c *call) (any, error) {
	page, err := c.page()
	if err != nil {
		return nil, err
	}
	items, next, err := p.Backend.Jobs.JobExecutions(c.Request().Context(), c.scope, c.Param("job"), c.query.Get("status"), page)
	return adminapi.JobExecutionPage{Items: list(items), Next: c.next(next)}, err
}

func (p *people) listThingJobs(c *call) (any, error) {
	page, err := c.page()
	if err != nil {
		return nil, err
	}
	items, next, err := p.Backend.Jobs.ThingJobs(c.Request().Context(), c.scope, c.Param("thing"), c.query.Get("status"), page)
	return adminapi.JobExecutionPage{Items: list(items), Next: c.next(next)}, err
}

func (p *people) cancelJobExecution(c *call) (any, error) {
	r, err := body[adminapi.JobExecutionCancelRequest](c)
	if err != nil {
		return nil, err
	}
	return p.Backend.Jobs.CancelJobExecution(c.Request().Context(), c.actor, c.Param("job"), c.Param("thing"), r)
}

func (p *people) listShadows(c *call) (any, error) {
	page, err := c.page()
	if err != nil {
		return nil, err
	}
	out, err := p.Backend.Shadows.Shadows(c.Request().Context(), c.scope, c.Param("thing"), page)
	out.Items, out.Next = list(out.Items), c.next(out.Next)
	return out, err
}

func (p *people) getShadow(c *call) (any, error) {
	return p.Backend.Shadows.Shadow(c.Request().Context(), c.scope, c.Param("thing"), c.query.Get("name"))
}

func (p *people) updateShadow(c *call) (any, error) {
	r, err := body[adminapi.ShadowRequest](c)
	if err != nil {
		return nil, err
	}
	return p.Backend.Shadows.UpdateShadow(c.Request().Context(), c.actor, c.Param("thing"), c.query.Get("name"), r)
}

func (p *people) deleteShadow(c *call) (any, error) {
	return p.Backend.Shadows.DeleteShadow(c.Request().Context(), c.actor, c.Param("thing"), c.query.Get("name"))
}
