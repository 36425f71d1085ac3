package web

import (
	"context"

	"hallmark/access"
	"hallmark/api/adminapi"
)

// Ownership is whose device a unit is.
type Ownership interface {
	ReleaseUnits(ctx context.Context, by access.Actor, r adminapi.OwnershipRequest) (adminapi.OwnershipAct, error)
	ResetUnits(ctx context.Context, by access.Actor, r adminapi.OwnershipRequest) (adminapi.OwnershipAct, error)
	DecommissionUnits(ctx context.Context, by access.Actor, r adminapi.OwnershipRequest) (adminapi.OwnershipAct, error)
	AcceptUnits(ctx context.Context, by access.Actor, r adminapi.OwnershipAcceptance) ([]adminapi.OwnershipUnit, error)
	OwnershipActs(ctx context.Context, s access.Scope, p Page) (items []adminapi.OwnershipAct, next string, err error)
	OwnershipAct(ctx context.Context, s access.Scope, name string) (adminapi.OwnershipAct, error)
	WithdrawRelease(ctx context.Context, by access.Actor, name string, r adminapi.CampaignNote) (adminapi.OwnershipAct, error)
	OwnershipOf(ctx context.Context, s access.Scope, unit string) (adminapi.OwnershipUnit, error)
	DecommissionStatement(ctx context.Context, s access.Scope, unit string) (adminapi.Envelope, error)
}

// ownershipAct is one of the three acts.
func (p *people) ownershipAct(c *call, act func(ctx context.Context, by access.Actor, r adminapi.OwnershipRequest) (adminapi.OwnershipAct, error)) (any, error) {
	r, err := body[adminapi.OwnershipRequest](c)
	if err != nil {
		return nil, err
	}
	return act(c.Request().Context(), c.actor, r)
}

func (p *people) releaseUnits(c *call) (any, error) {
	return p.ownershipAct(c, p.Backend.Ownership.ReleaseUnits)
}

func (p *people) resetUnits(c *call) (any, error) {
	return p.ownershipAct(c, p.Backend.Ownership.ResetUnits)
}

func (p *people) decommissionUnits(c *call) (any, error) {
	return p.ownershipAct(c, p.Backend.Ownership.DecommissionUnits)
}

func (p *people) acceptUnits(c *call) (any, error) {
	r, err := body[adminapi.OwnershipAcceptance](c)
	if err != nil {
		return nil, err
	}
	items, err := p.Backend.Ownership.AcceptUnits(c.Request().Context(), c.actor, r)
	return adminapi.OwnershipUnits{Items: list(items)}, err
}

func (p *people) listOwnershipActs(c *call) (any, error) {
	page, err := c.page()
	if err != nil {
		return nil, err
	}
	items, next, err := p.Backend.Ownership.OwnershipActs(c.Request().Context(), c.scope, page)
	return adminapi.OwnershipActPage{Items: list(items), Next: c.next(next)}, err
}

func (p *people) getOwnershipAct(c *call) (any, error) {
	return p.Backend.Ownership.OwnershipAct(c.Request().Context(), c.scope, c.Param("act"))
}

func (p *people) withdrawRelease(c *call) (any, error) {
	r, err := body[adminapi.CampaignNote](c)
	if err != nil {
		return nil, err
	}
	return p.Backend.Ownership.WithdrawRelease(c.Request().Context(), c.actor, c.Param("act"), r)
}

func (p *people) getOwnership(c *call) (any, error) {
	return p.Backend.Ownership.OwnershipOf(c.Request().Context(), c.scope, c.Param("unit"))
}

func (p *people) getDecommissionStatement(c *call) (any, error) {
	return p.Backend.Ownership.DecommissionStatement(c.Request().Context(), c.scope, c.Param("unit"))
}
