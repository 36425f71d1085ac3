package webtest

import (
	"context"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/web"
)

// Campaign is the campaign of the fixtures; it is for [Unit].
const Campaign = "rotate-1"

func (f *Fake) campaignRow() adminapi.Campaign {
	return adminapi.Campaign{Id: Campaign, Kind: "rotate-certificate", Reason: "expiry", State: "running", Active: true, Hash: PlanHash, Targets: []string{"thing/" + Unit}, Plan: []adminapi.CampaignStage{{Name: "all", Percent: 100}},
		Members: []adminapi.CampaignCount{{State: "offered", Members: 1}}, Failures: []adminapi.CampaignFailure{}, CreatedBy: "a", CreatedAt: f.Now(), UpdatedAt: f.Now(), Version: 1}
}

func (f *Fake) campaignOf(s access.Scope, id string) (adminapi.Campaign, error) {
	return pick(s, []adminapi.Campaign{f.campaignRow()}, func(c *adminapi.Campaign) bool { return c.Id == id })
}

// CreateCampaign implements [web.Campaigns].
func (f *Fake) CreateCampaign(_ context.Context, _ access.Actor, r adminapi.CampaignRequest) (adminapi.Campaign, error) {
	f.Calls = append(f.Calls, "create campaign "+r.Id)
	c := f.campaignRow()
	c.Id, c.Kind, c.Targets = r.Id, r.Kind, r.Targets
	return c, nil
}

// PlanCampaign implements [web.Campaigns].
func (f *Fake) PlanCampaign(_ context.Context, _ access.Actor, r adminapi.CampaignPlanRequest) (adminapi.CampaignPlan, error) {
	return adminapi.CampaignPlan{Things: 1, Wanting: 1, Stages: []adminapi.CampaignPlanStage{}, Skipped: []adminapi.CampaignPlanSkip{}, Named: []adminapi.CampaignPlanThing{}}, nil
}

// Campaigns implements [web.Campaigns].
func (f *Fake) Campaigns(_ context.Context, s access.Scope, state string, p web.Page) ([]adminapi.Campaign, string, error) {
	in := []adminapi.Campaign{f.campaignRow()}
	if state != "" && in[0].State != state {
		in = nil
	}
	return cut(s, in, p)
}

// Campaign implements [web.Campaigns].
func (f *Fake) Campaign(_ context.Context, s access.Scope, id string) (adminapi.Campaign, error) {
	return f.campaignOf(s, id)
}

// CampaignMembers implements [web.Campaigns].
func (f *Fake) CampaignMembers(_ context.Context, s access.Scope, id, _ string, p web.Page) ([]adminapi.CampaignMember, string, error) {
	if _, err := f.campaignOf(s, id); err != nil {
		return nil, "", err
	}
	return cut(s, []adminapi.CampaignMember{{Thing: Unit, State: "offered", Since: f.Now(), Attempt: 1}}, p)
}

func (f *Fake) moveCampaign(by access.Actor, id, verb string) (adminapi.Campaign, error) {
	if err := f.did(by, "%s campaign %s", verb, id); err != nil {
		return adminapi.Campaign{}, err
	}
	return f.campaignOf(by.Scope(), id)
}

// PauseCampaign implements [web.Campaigns].
func (f *Fake) PauseCampaign(_ context.Context, by access.Actor, id string, _ adminapi.CampaignNote) (adminapi.Campaign, error) {
	return f.moveCampaign(by, id, "pause")
}

// ResumeCampaign implements [web.Campaigns].
func (f *Fake) ResumeCampaign(_ context.Context, by access.Actor, id string, _ adminapi.CampaignNote) (adminapi.Campaign, error) {
	return f.moveCampaign(by, id, "resume")
}

// CancelCampaign implements [web.Campaigns].
func (f *Fake) CancelCampaign(_ context.Context, by access.Actor, id string, _ adminapi.CampaignNote) (adminapi.Campaign, error) {
	return f.moveCampaign(by, id, "cancel")
}

// RollbackCampaign implements [web.Campaigns].
func (f *Fake) RollbackCampaign(_ context.Context, by access.Actor, id string, _ adminapi.CampaignNote) (adminapi.Campaign, error) {
	return f.moveCampaign(by, id, "roll back")
}

// AskCampaign implements [web.Campaigns].
func (f *Fake) AskCampaign(_ context.Context, by access.Actor, id string, _ adminapi.CampaignNote) (adminapi.Campaign, error) {
	return f.moveCampaign(by, id, "ask for")
}

// ThingCampaigns implements [web.Campaigns].
func (f *Fake) ThingCampaigns(ctx context.Context, s access.Scope, thing string, p web.Page) ([]adminapi.CampaignStep, string, error) {
	if _, err := f.Thing(ctx, s, thing); err != nil {
		return nil, "", err
	}
	return cut(s, []adminapi.CampaignStep{{Campaign: Campaign, At: f.Now(), State: "offered", Attempt: 1}}, p)
}
