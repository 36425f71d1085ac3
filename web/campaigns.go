package web

import (
	"context"

	"hallmark/access"
	"hallmark/api/adminapi"
)

// Campaigns is changes that many devices get in stages, and how they go.
type Campaigns interface {
	CreateCampaign(ctx context.Context, by access.Actor, r adminapi.CampaignRequest) (adminapi.Campaign, error)
	PlanCampaign(ctx context.Context, by access.Actor, r adminapi.CampaignPlanRequest) (adminapi.CampaignPlan, error)
	Campaigns(ctx context.Context, s access.Scope, state string, p Page) (items []adminapi.Campaign, next string, err error)
	Campaign(ctx context.Context, s access.Scope, id string) (adminapi.Campaign, error)
	CampaignMembers(ctx context.Context, s access.Scope, id, state string, p Page) (items []adminapi.CampaignMember, next string, err error)
	PauseCampaign(ctx context.Context, by access.Actor, id string, r adminapi.CampaignNote) (adminapi.Campaign, error)
	ResumeCampaign(ctx context.Context, by access.Actor, id string, r adminapi.CampaignNote) (adminapi.Campaign, error)
	CancelCampaign(ctx context.Context, by access.Actor, id string, r adminapi.CampaignNote) (adminapi.Campaign, error)
	RollbackCampaign(ctx context.Context, by access.Actor, id string, r adminapi.CampaignNote) (adminapi.Campaign, error)
	AskCampaign(ctx context.Context, by access.Actor, id string, r adminapi.CampaignNote) (adminapi.Campaign, error)
	ThingCampaigns(ctx context.Context, s access.Scope, thing string, p Page) (items []adminapi.CampaignStep, next string, err error)
}

func (p *people) createCampaign(c *call) (any, error) {
	r, err := body[adminapi.CampaignRequest](c)
	if err != nil {
		return nil, err
	}
	return p.Backend.Campaigns.CreateCampaign(c.Request().Context(), c.actor, r)
}

func (p *people) planCampaign(c *call) (any, error) {
	r, err := body[adminapi.CampaignPlanRequest](c)
	if err != nil {
		return nil, err
	}
	return p.Backend.Campaigns.PlanCampaign(c.Request().Context(), c.actor, r)
}

func (p *people) listCampaigns(c *call) (any, error) {
	page, err := c.page()
	if err != nil {
		return nil, err
	}
	items, next, err := p.Backend.Campaigns.Campaigns(c.Request().Context(), c.scope, c.query.Get("state"), page)
	return adminapi.CampaignPage{Items: list(items), Next: c.next(next)}, err
}

func (p *people) getCampaign(c *call) (any, error) {
	return p.Backend.Campaigns.Campaign(c.Request().Context(), c.scope, c.Param("campaign"))
}

func (p *people) listCampaignMembers(c *call) (any, error) {
	page, err := c.page()
	if err != nil {
		return nil, err
	}
	items, next, err := p.Backend.Campaigns.CampaignMembers(c.Request().Context(), c.scope, c.Param("campaign"), c.query.Get("state"), page)
	return adminapi.CampaignMemberPage{Items: list(items), Next: c.next(next)}, err
}

// moveCampaign is a change of a campaign's state by a person.
func (p *people) moveCampaign(c *call, move func(ctx context.Context, by access.Actor, id string, r adminapi.CampaignNote) (adminapi.Campaign, error)) (any, error) {
	r, err := body[adminapi.CampaignNote](c)
	if err != nil {
		return nil, err
	}
	return move(c.Request().Context(), c.actor, c.Param("campaign"), r)
}

func (p *people) pauseCampaign(c *call) (any, error) {
	return p.moveCampaign(c, p.Backend.Campaigns.PauseCampaign)
}

func (p *people) resumeCampaign(c *call) (any, error) {
	return p.moveCampaign(c, p.Backend.Campaigns.ResumeCampaign)
}

func (p *people) cancelCampaign(c *call) (any, error) {
	return p.moveCampaign(c, p.Backend.Campaigns.CancelCampaign)
}

func (p *people) rollbackCampaign(c *call) (any, error) {
	return p.moveCampaign(c, p.Backend.Campaigns.RollbackCampaign)
}

func (p *people) askCampaign(c *call) (any, error) {
	return p.moveCampaign(c, p.Backend.Campaigns.AskCampaign)
}

func (p *people) listThingCampaigns(c *call) (any, error) {
	page, err := c.page()
	if err != nil {
		return nil, err
	}
	items, next, err := p.Backend.Campaigns.ThingCampaigns(c.Request().Context(), c.scope, c.Param("thing"), page)
	return adminapi.CampaignStepPage{Items: list(items), Next: c.next(next)}, err
}
