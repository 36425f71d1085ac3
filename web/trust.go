package web

import (
	"context"

	"hallmark/access"
	"hallmark/api/adminapi"
)

// Bundles is whom devices trust, and the rollover of roots over the air.
type Bundles interface {
	TrustState(ctx context.Context, s access.Scope) (adminapi.TrustState, error)
	ThingTrust(ctx context.Context, s access.Scope, thing string) (adminapi.TrustBundle, error)
	PlanTrustRollover(ctx context.Context, s access.Scope, r adminapi.TrustRolloverRequest) (adminapi.TrustRolloverPlan, error)
	TrustRollovers(ctx context.Context, s access.Scope) ([]adminapi.TrustRollover, error)
	TrustRollover(ctx context.Context, s access.Scope, name string) (adminapi.TrustRollover, error)
	AdvanceTrustRollover(ctx context.Context, by access.Actor, name string, r adminapi.CampaignNote) (adminapi.TrustRollover, error)
	RetryTrustRollover(ctx context.Context, by access.Actor, name string, r adminapi.CampaignNote) (adminapi.TrustRollover, error)
	CancelTrustRollover(ctx context.Context, by access.Actor, name string, r adminapi.CampaignNote) (adminapi.TrustRollover, error)
}

func (p *people) getTrust(c *call) (any, error) {
	return p.Backend.Bundles.TrustState(c.Request().Context(), c.scope)
}

func (p *people) getThingTrust(c *call) (any, error) {
	return p.Backend.Bundles.ThingTrust(c.Request().Context(), c.scope, c.Param("thing"))
}

func (p *people) planTrustRollover(c *call) (any, error) {
	r, err := body[adminapi.TrustRolloverRequest](c)
	if err != nil {
		return nil, err
	}
	return p.Backend.Bundles.PlanTrustRollover(c.Request().Context(), c.scope, r)
}

func (p *people) listTrustRollovers(c *call) (any, error) {
	items, err := p.Backend.Bundles.TrustRollovers(c.Request().Context(), c.scope)
	return adminapi.TrustRollovers{Items: list(items)}, err
}

func (p *people) getTrustRollover(c *call) (any, error) {
	return p.Backend.Bundles.TrustRollover(c.Request().Context(), c.scope, c.Param("rollover"))
}

// moveTrustRollover is a step of a rollover by a person.
func (p *people) moveTrustRollover(c *call, move func(ctx context.Context, by access.Actor, name string, r adminapi.CampaignNote) (adminapi.TrustRollover, error)) (any, error) {
	r, err := body[adminapi.CampaignNote](c)
	if err != nil {
		return nil, err
	}
	return move(c.Request().Context(), c.actor, c.Param("rollover"), r)
}

func (p *people) advanceTrustRollover(c *call) (any, error) {
	return p.moveTrustRollover(c, p.Backend.Bundles.AdvanceTrustRollover)
}

func (p *people) retryTrustRollover(c *call) (any, error) {
	return p.moveTrustRollover(c, p.Backend.Bundles.RetryTrustRollover)
}

func (p *people) cancelTrustRollover(c *call) (any, error) {
	return p.moveTrustRollover(c, p.Backend.Bundles.CancelTrustRollover)
}
