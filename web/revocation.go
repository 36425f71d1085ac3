package web

import (
	"context"

	"hallmark/access"
	"hallmark/api/adminapi"
)

// Revocations is revocation in bulk: plans, their approval and their run.
type Revocations interface {
	RevocationPlans(ctx context.Context, s access.Scope, p Page) (items []adminapi.RevocationPlan, next string, err error)
	RevocationPlan(ctx context.Context, s access.Scope, id string) (adminapi.RevocationPlan, error)
	PlannedCertificates(ctx context.Context, s access.Scope, id string, p Page) (items []adminapi.PlannedCertificate, next string, err error)
	MakeRevocationPlan(ctx context.Context, by access.Actor, r adminapi.RevocationPlanRequest) (adminapi.RevocationPlan, error)
	ApproveRevocationPlan(ctx context.Context, by access.Actor, id string, r adminapi.RevocationPlanApprovalRequest) (adminapi.RevocationPlan, error)
	RunRevocationPlan(ctx context.Context, by access.Actor, id, stage string) (adminapi.RevocationPlan, error)
	PauseRevocationPlan(ctx context.Context, by access.Actor, id string) (adminapi.RevocationPlan, error)
	ResumeRevocationPlan(ctx context.Context, by access.Actor, id string) (adminapi.RevocationPlan, error)
	AbortRevocationPlan(ctx context.Context, by access.Actor, id string) (adminapi.RevocationPlan, error)
}

func (p *people) listRevocationPlans(c *call) (any, error) {
	page, err := c.page()
	if err != nil {
		return nil, err
	}
	items, next, err := p.Backend.Revocations.RevocationPlans(c.Request().Context(), c.scope, page)
	return adminapi.RevocationPlanPage{Items: list(items), Next: c.next(next)}, err
}

func (p *people) getRevocationPlan(c *call) (any, error) {
	return p.Backend.Revocations.RevocationPlan(c.Request().Context(), c.scope, c.Param("plan"))
}

func (p *people) listPlannedCertificates(c *call) (any, error) {
	page, err := c.page()
	if err != nil {
		return nil, err
	}
	items, next, err := p.Backend.Revocations.PlannedCertificates(c.Request().Context(), c.scope, c.Param("plan"), page)
	return adminapi.PlannedCertificatePage{Items: list(items), Next: c.next(next)}, err
}

func (p *people) makeRevocationPlan(c *call) (any, error) {
	r, err := body[adminapi.RevocationPlanRequest](c)
	if err != nil {
		return nil, err
	}
	return p.Backend.Revocations.MakeRevocationPlan(c.Request().Context(), c.actor, r)
}

func (p *people) approveRevocationPlan(c *call) (any, error) {
	r, err := body[adminapi.RevocationPlanApprovalRequest](c)
	if err != nil {
		return nil, err
	}
	return p.Backend.Revocations.ApproveRevocationPlan(c.Request().Context(), c.actor, c.Param("plan"), r)
}

func (p *people) runRevocationPlan(c *call) (any, error) {
	r, err := body[adminapi.RevocationPlanRun](c)
	if err != nil {
		return nil, err
	}
	return p.Backend.Revocations.RunRevocationPlan(c.Request().Context(), c.actor, c.Param("plan"), r.Stage)
}

func (p *people) pauseRevocationPlan(c *call) (any, error) {
	return p.Backend.Revocations.PauseRevocationPlan(c.Request().Context(), c.actor, c.Param("plan"))
}

func (p *people) resumeRevocationPlan(c *call) (any, error) {
	return p.Backend.Revocations.ResumeRevocationPlan(c.Request().Context(), c.actor, c.Param("plan"))
}

func (p *people) abortRevocationPlan(c *call) (any, error) {
	return p.Backend.Revocations.AbortRevocationPlan(c.Request().Context(), c.actor, c.Param("plan"))
}
