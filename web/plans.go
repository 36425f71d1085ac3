package web

import (
	"context"

	"hallmark/access"
	"hallmark/api/adminapi"
)

// Plans is infrastructure as code: documents, what they change, and their export.
type Plans interface {
	MakePlan(ctx context.Context, by access.Actor, r adminapi.PlanRequest) (adminapi.Plan, error)
	ApplyPlan(ctx context.Context, by access.Actor, r adminapi.PlanApplyRequest) (adminapi.Plan, error)
	ExportDocuments(ctx context.Context, by access.Actor, kind string, p Page) (items []adminapi.DeclaredDocument, next string, err error)
	Approvals
}

func (p *people) makePlan(c *call) (any, error) {
	r, err := body[adminapi.PlanRequest](c)
	if err != nil {
		return nil, err
	}
	return p.Backend.Plans.MakePlan(c.Request().Context(), c.actor, r)
}

func (p *people) applyPlan(c *call) (any, error) {
	r, err := body[adminapi.PlanApplyRequest](c)
	if err != nil {
		return nil, err
	}
	return p.Backend.Plans.ApplyPlan(c.Request().Context(), c.actor, r)
}

func (p *people) exportDocuments(c *call) (any, error) {
	page, err := c.page()
	if err != nil {
		return nil, err
	}
	items, next, err := p.Backend.Plans.ExportDocuments(c.Request().Context(), c.actor, c.Param("kind"), page)
	return adminapi.DocumentPage{Items: list(items), Next: c.next(next)}, err
}
