package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/fleet"
	"hallmark/fleet/campaign"
	"hallmark/fleet/rollout"
	"hallmark/internal/fault"
	"hallmark/provisioner/declare"
	"hallmark/web"
)

func ofSeconds(n int64) time.Duration { return time.Duration(n) * time.Second }

// campaignSpec translates a request.
func campaignSpec(r *adminapi.CampaignRequest) (campaign.Spec, error) {
	s := campaign.Spec{Kind: campaign.Kind(r.Kind), Reason: campaign.Reason(r.Reason), Description: r.Description, Targets: r.Targets, Query: r.Query, Canary: r.Canary, CanaryWatch: ofSeconds(r.CanaryWatchSeconds),
		ZoneAttribute: r.ZoneAttribute, Jitter: ofSeconds(r.JitterSeconds), Timeout: ofSeconds(r.TimeoutSeconds), Silence: ofSeconds(r.SilenceSeconds), Soak: ofSeconds(r.SoakSeconds), Continuous: r.Continuous}
	// The rate, the windows and the thresholds are those of jobs.
	as := adminapi.JobRequest{Rollout: r.Rollout, Schedule: adminapi.JobSchedule{Start: r.Schedule.Start, End: r.Schedule.End, Windows: r.Schedule.Windows}}
	for _, a := range r.Abort {
		as.Abort = append(as.Abort, adminapi.JobAbort(a))
	}
	j, err := jobSpec(&as)
	if err != nil {
		return s, err
	}
	s.Rate, s.Schedule, s.Abort = j.Rollout, j.Schedule, j.Abort
	for _, g := range r.Stages {
		s.Stages = append(s.Stages, campaign.Stage{Name: g.Name, Percent: g.Percent, Watch: ofSeconds(g.WatchSeconds)})
	}
	if r.Parameters != "" {
		s.Parameters = json.RawMessage(r.Parameters)
	}
	return s, nil
}

func stageViews(in []campaign.Stage) []adminapi.CampaignStage {
	return mapped(in, func(g *campaign.Stage) adminapi.CampaignStage {
		return adminapi.CampaignStage{Name: g.Name, Percent: g.Percent, WatchSeconds: int64(g.Watch.Seconds())}
	})
}

func (b *backend) campaignView(c *campaign.Campaign) adminapi.Campaign {
	v := adminapi.Campaign{Id: c.ID, Kind: string(c.Kind), Reason: string(c.Reason), Description: c.Description, Targets: nonNil(c.Targets), Query: c.Query, Canary: c.Canary, CanaryWatchSeconds: int64(c.CanaryWatch.Seconds()),
		Stages: stageViews(c.Stages), ZoneAttribute: c.ZoneAttribute, JitterSeconds: int64(c.Jitter.Seconds()), TimeoutSeconds: int64(c.Timeout.Seconds()), SilenceSeconds: int64(c.Silence.Seconds()), SoakSeconds: int64(c.Soak.Seconds()),
		Continuous: c.Continuous, State: string(c.State), Active: c.Active, Hash: c.Hash(), ApprovedBy: c.ApprovedBy, Request: c.Request, Code: c.Code, Detail: c.Detail, By: c.By, Enumerated: c.Enumerated,
		Stage: c.Stage, StageStarted: c.StageStarted, StageEnded: c.StageEnded, RolledBack: c.RolledBack, Plan: stageViews(c.Plan()), Failures: []adminapi.CampaignFailure{},
		Rollout: adminapi.JobRollout{MaxPerMinute: c.Rate.MaximumPerMinute}, Schedule: adminapi.CampaignSchedule{Start: c.Schedule.Start, End: c.Schedule.End},
		CreatedBy: c.CreatedBy, CreatedAt: c.CreatedAt, UpdatedAt: c.UpdatedAt, FinishedAt: c.FinishedAt, Version: c.Version}
	if e := c.Rate.Exponential; e != nil {
		v.Rollout.BasePerMinute, v.Rollout.Factor, v.Rollout.PerNotified, v.Rollout.PerSucceeded = e.BasePerMinute, e.IncrementFactor, e.Increase.NotifiedThings, e.Increase.SucceededThings
	}
	for _, w := range c.Schedule.Windows {
		v.Schedule.Windows = append(v.Schedule.Windows, adminapi.JobWindow{Start: w.Start.String(), Minutes: w.Minutes})
	}
	for _, a := range c.Abort.Criteria {
		v.Abort = append(v.Abort, adminapi.CampaignAbort{Failure: string(a.FailureType), Percent: a.Percentage, MinExecuted: a.MinExecuted})
	}
	v.Members = mapped(c.Counts, func(n *campaign.Count) adminapi.CampaignCount {
		return adminapi.CampaignCount{Stage: n.Stage, State: string(n.State), Members: n.Members}
	})
	v.Parameters = string(c.Parameters)
	w := rollout.Window{Batches: append([]rollout.Batch(nil), c.Window.Batches...)}
	const most = 1 << 30
	v.OfferedLastMinute = int64(most - w.Allow(b.now(), most))
	return v
}

// shown is a campaign with its failures.
func (b *backend) shown(ctx context.Context, c campaign.Campaign, err error) (adminapi.Campaign, error) {
	if err != nil {
		return adminapi.Campaign{}, err
	}
	v := b.campaignView(&c)
	failures, err := b.campaigns.Failures(ctx, access.Scope{Tenant: c.Tenant}, c.ID)
	v.Failures = mapped(failures, func(f *campaign.Failure) adminapi.CampaignFailure {
		return adminapi.CampaignFailure{State: string(f.State), Code: f.Code, Members: f.Members}
	})
	t := c.Counted()
	v.Thresholds = mapped(c.Abort.Criteria, func(a *rollout.AbortCriterion) adminapi.CampaignThreshold {
		reached := rollout.Abort{Criteria: []rollout.AbortCriterion{*a}}.Decide(t) == 0
		return adminapi.CampaignThreshold{Failure: string(a.FailureType), Percent: a.Percentage, MinExecuted: a.MinExecuted, Ended: t.Executed(), Failed: t.Of(a.FailureType), Reached: reached}
	})
	v.History = mapped(c.Samples, func(m *campaign.Sample) adminapi.CampaignSample {
		return adminapi.CampaignSample{At: m.At, Told: m.Told, Well: m.Well, Bad: m.Bad}
	})
	return v, err
}

// CreateCampaign implements [web.Campaigns]. One that takes a second person is asked
// for at once.
func (b *backend) CreateCampaign(ctx context.Context, by access.Actor, r adminapi.CampaignRequest) (adminapi.Campaign, error) {
	spec, err := campaignSpec(&r)
	if err != nil {
		return adminapi.Campaign{}, err
	}
	c, err := b.campaigns.Create(ctx, by.Tenant, r.Id, by.Name, spec)
	if err == nil && c.State == campaign.AwaitingApproval {
		c, err = b.askCampaign(ctx, by, c)
	}
	return b.shown(ctx, c, err)
}

// askCampaign makes the approval request of a campaign (S36).
func (b *backend) askCampaign(ctx context.Context, by access.Actor, c campaign.Campaign) (campaign.Campaign, error) {
	err := b.second(ctx, by, campaignKind{b}, c.ID, startOf(&c))
	if !errors.Is(err, errSecondPerson) {
		return c, err
	}
	request, _ := fault.From(err).Members["request"].(string)
	return b.campaigns.Asked(ctx, by.Tenant, c.ID, request)
}

// AskCampaign implements [web.Campaigns].
func (b *backend) AskCampaign(ctx context.Context, by access.Actor, id string, _ adminapi.CampaignNote) (adminapi.Campaign, error) {
	c, err := b.campaigns.Campaign(ctx, by.Scope(), id)
	if err == nil && c.State != campaign.AwaitingApproval {
		err = campaign.ErrState.New("It is %s.", c.State)
	}
	if err == nil {
		c, err = b.askCampaign(ctx, by, c)
	}
	return b.shown(ctx, c, err)
}

// PlanCampaign implements [web.Campaigns].
func (b *backend) PlanCampaign(ctx context.Context, by access.Actor, r adminapi.CampaignPlanRequest) (adminapi.CampaignPlan, error) {
	spec, err := campaignSpec(&r.Campaign)
	if err != nil {
		return adminapi.CampaignPlan{}, err
	}
	d, err := b.campaigns.DryRun(ctx, by.Tenant, r.Campaign.Id, spec, r.Named)
	if err != nil {
		return adminapi.CampaignPlan{}, err
	}
	return adminapi.CampaignPlan{Things: d.Things, Wanting: d.Wanting, TwoPeople: d.TwoPeople, More: d.More,
		Stages: mapped(d.Stages, func(g *campaign.DryStage) adminapi.CampaignPlanStage {
			return adminapi.CampaignPlanStage{Name: g.Name, Things: g.Things, Earliest: g.Earliest, Latest: g.Latest, WatchSeconds: int64(g.Watch.Seconds())}
		}),
		Skipped: mapped(d.Skipped, func(k *campaign.DrySkip) adminapi.CampaignPlanSkip {
			return adminapi.CampaignPlanSkip{Code: k.Code, Words: k.Words, Things: k.Things, Example: string(k.Example)}
		}),
		Named: mapped(d.Named, func(t *campaign.DryThing) adminapi.CampaignPlanThing {
			return adminapi.CampaignPlanThing{Thing: string(t.Thing), Stage: t.Stage, Earliest: t.Earliest, Before: t.Before}
		})}, nil
}

// Campaigns implements [web.Campaigns].
func (b *backend) Campaigns(ctx context.Context, s access.Scope, state string, p web.Page) ([]adminapi.Campaign, string, error) {
	position := func(c *campaign.Campaign) string { return c.ID }
	items, next, err := collect(p.After, p.Limit, inPages(campaign.MaxPage, func(after string, n int) ([]campaign.Campaign, error) {
		return b.campaigns.Campaigns(ctx, s, campaign.State(state), after, n)
	}, position), position, nil)
	return mapped(items, b.campaignView), next, err
}

// Campaign implements [web.Campaigns].
func (b *backend) Campaign(ctx context.Context, s access.Scope, id string) (adminapi.Campaign, error) {
	c, err := b.campaigns.Campaign(ctx, s, id)
	return b.shown(ctx, c, err)
}

// CampaignMembers implements [web.Campaigns].
func (b *backend) CampaignMembers(ctx context.Context, s access.Scope, id, state string, p web.Page) ([]adminapi.CampaignMember, string, error) {
	position := func(m *campaign.Member) string { return string(m.Thing) }
	items, next, err := collect(p.After, p.Limit, inPages(campaign.MaxPage, func(after string, n int) ([]campaign.Member, error) {
		return b.campaigns.Members(ctx, s, id, campaign.MemberState(state), fleet.ThingName(after), n)
	}, position), position, nil)
	return mapped(items, func(m *campaign.Member) adminapi.CampaignMember {
		return adminapi.CampaignMember{Thing: string(m.Thing), Stage: m.Stage, State: string(m.State), Since: m.Since, NotBefore: m.NotBefore, OfferedAt: m.Offered, BeganAt: m.Began, Attempt: m.Attempt,
			Before: m.Before, After: m.After, Code: m.Code, Detail: m.Detail}
	}), next, err
}

// PauseCampaign implements [web.Campaigns].
func (b *backend) PauseCampaign(ctx context.Context, by access.Actor, id string, _ adminapi.CampaignNote) (adminapi.Campaign, error) {
	c, err := b.campaigns.Pause(ctx, by.Tenant, id, by.Name)
	return b.shown(ctx, c, err)
}

// ResumeCampaign implements [web.Campaigns].
func (b *backend) ResumeCampaign(ctx context.Context, by access.Actor, id string, _ adminapi.CampaignNote) (adminapi.Campaign, error) {
	c, err := b.campaigns.Resume(ctx, by.Tenant, id, by.Name)
	return b.shown(ctx, c, err)
}

// CancelCampaign implements [web.Campaigns].
func (b *backend) CancelCampaign(ctx context.Context, by access.Actor, id string, r adminapi.CampaignNote) (adminapi.Campaign, error) {
	c, err := b.campaigns.Cancel(ctx, by.Tenant, id, by.Name, r.Comment)
	return b.shown(ctx, c, err)
}

// RollbackCampaign implements [web.Campaigns].
func (b *backend) RollbackCampaign(ctx context.Context, by access.Actor, id string, r adminapi.CampaignNote) (adminapi.Campaign, error) {
	c, err := b.campaigns.Rollback(ctx, by.Tenant, id, by.Name, r.Comment)
	return b.shown(ctx, c, err)
}

// ThingCampaigns implements [web.Campaigns].
func (b *backend) ThingCampaigns(ctx context.Context, s access.Scope, thing string, p web.Page) ([]adminapi.CampaignStep, string, error) {
	name, err := b.knownThing(ctx, s, thing)
	if err != nil {
		return nil, "", err
	}
	position := func(v *campaign.Step) string {
		return strconv.FormatInt(v.At.UnixMilli(), 10) + "/" + v.Campaign + "/" + strconv.FormatInt(v.Number, 10)
	}
	items, next, err := collect(p.After, p.Limit, inPages(campaign.MaxPage, func(after string, n int) ([]campaign.Step, error) {
		var last campaign.Step
		if after != "" {
			parts := strings.Split(after, "/")
			if len(parts) != 3 {
				return nil, web.ErrCursor.New("")
			}
			at, err := strconv.ParseInt(parts[0], 10, 64)
			if err == nil {
				last.Number, err = strconv.ParseInt(parts[2], 10, 64)
			}
			if err != nil {
				return nil, web.ErrCursor.Wrap(err, "")
			}
			last.At, last.Campaign = time.UnixMilli(at), parts[1]
		}
		return b.campaigns.Timeline(ctx, s, name, last, n)
	}, position), position, nil)
	return mapped(items, func(v *campaign.Step) adminapi.CampaignStep {
		return adminapi.CampaignStep{Campaign: v.Campaign, At: v.At, Stage: v.Stage, State: string(v.State), Attempt: v.Attempt, Before: v.Before, After: v.After, Code: v.Code, Detail: v.Detail}
	}), next, err
}

// startSpec is what a second person approves: what the campaign is, in short, and the
// hash of all of it.
type startSpec struct {
	Change    string   `json:"change"`
	Reason    string   `json:"reason"`
	Targets   []string `json:"targets,omitempty"`
	Query     string   `json:"query,omitempty"`
	CreatedBy string   `json:"createdBy"`
	Hash      string   `json:"hash"`
}

func startOf(c *campaign.Campaign) startSpec {
	targets := c.Targets
	if len(targets) > 20 {
		targets = append(append([]string(nil), targets[:20]...), fmt.Sprintf("and %d more", len(c.Targets)-20))
	}
	return startSpec{Change: string(c.Kind), Reason: string(c.Reason), Targets: targets, Query: c.Query, CreatedBy: c.CreatedBy, Hash: c.Hash()}
}

// campaignKind is the beginning of a campaign for more devices than one person may
// decide about (S36). It is only ever approved: what a campaign is, is not a document.
type campaignKind struct{ *backend }

func (campaignKind) Name() string                            { return "CampaignStart" }
func (campaignKind) Sees() access.Action                     { return access.ReadCampaigns }
func (campaignKind) Decode(raw []byte) (declare.Spec, error) { return declare.Decode[startSpec](raw) }

// Read gives what was approved, nil while it was not.
func (k campaignKind) Read(ctx context.Context, s access.Scope, name string) (declare.Spec, error) {
	c, known, err := absent(k.db.Campaign(ctx, s, name))
	if err != nil || !known || !c.Approved {
		return nil, err
	}
	return startOf(&c), nil
}

// List gives none: that a campaign begins is an act, not how things are.
func (campaignKind) List(context.Context, access.Scope, string, int) ([]string, string, error) {
	return nil, "", nil
}

// Judge implements [declare.Kind].
func (k campaignKind) Judge(ctx context.Context, s access.Scope, name string, was, want declare.Spec) (declare.Verdict, error) {
	v := declare.Verdict{Rights: []access.Action{access.CreateCampaign}}
	if was != nil && declare.Equal(was, want) {
		return v, nil
	}
	c, err := k.db.Campaign(ctx, s, name)
	if err != nil {
		return v, err
	}
	if c.State != campaign.AwaitingApproval || want.(startSpec).Hash != c.Hash() {
		return v, campaign.ErrApproval.New("%s is %s.", name, c.State).With("path", "hash")
	}
	v.Dangerous = "a change of many devices"
	v.Notes = append(v.Notes, "it begins as soon as it is approved; see who, in which stage and when with hallmark campaign show "+shellWord(name))
	return v, nil
}

// Put implements [declare.Kind].
func (k campaignKind) Put(ctx context.Context, by access.Actor, name string, _, want declare.Spec) (declare.Outcome, error) {
	_, err := k.campaigns.Approve(ctx, by.Tenant, name, want.(startSpec).Hash, by.Name)
	return declare.Outcome{}, err
}
