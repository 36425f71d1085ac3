package main

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/fleet/campaign"
	"hallmark/fleet/jobs"
	"hallmark/web"
)

// maxKept is how much of one source a timeline looks at. Campaigns and jobs of one
// device are few; this bounds what somebody can ask of the database.
const maxKept = 5000

// ThingTimeline implements [web.Timeline]. Of connections only the last one is kept,
// and of a revocation that no rotation made only that it is so.
func (b *backend) ThingTimeline(ctx context.Context, s access.Scope, thing string, limit int) ([]adminapi.ThingEvent, error) {
	name, err := b.knownThing(ctx, s, thing)
	if err != nil {
		return nil, err
	}
	t, err := b.Thing(ctx, s, string(name))
	if err != nil {
		return nil, err
	}
	out := registryEvents(&t, b.now())
	rotations, err := b.rotation.History(ctx, s, name, maxHistory)
	if err != nil {
		return nil, err
	}
	for i := range rotations {
		e := &rotations[i]
		out = append(out, adminapi.ThingEvent{At: e.At, Kind: "rotation", What: string(e.What), Certificate: e.Certificate, Before: e.Before, Campaign: e.Campaign, Reason: string(e.Reason), Detail: e.Detail})
	}
	reasons := map[string]campaign.Reason{}
	var last campaign.Step
	for n := 0; n < maxKept; n += campaign.MaxPage {
		steps, err := b.campaigns.Timeline(ctx, s, name, last, campaign.MaxPage)
		if err != nil {
			return nil, err
		}
		for i := range steps {
			v := &steps[i]
			last = *v
			why, known := reasons[v.Campaign]
			if !known {
				c, err := b.campaigns.Campaign(ctx, s, v.Campaign)
				if err != nil {
					return nil, err
				}
				why = c.Reason
				reasons[v.Campaign] = why
			}
			out = append(out, adminapi.ThingEvent{At: v.At, Kind: "campaign", What: string(v.State), Campaign: v.Campaign, Before: v.Before, After: v.After, Reason: string(why), Detail: strings.TrimSpace(v.Code + " " + v.Detail)})
		}
		if len(steps) < campaign.MaxPage {
			break
		}
	}
	for after, n := "", 0; n < maxKept; n += jobPage {
		executions, next, err := b.ThingJobs(ctx, s, string(name), "", web.Page{After: after, Limit: jobPage})
		if err != nil {
			return nil, err
		}
		for i := range executions {
			out = append(out, executionEvents(&executions[i])...)
		}
		if after = next; next == "" {
			break
		}
	}
	if b.ownership != nil && t.Holder != "" {
		events, err := b.ownership.History(ctx, s, t.Holder)
		if err != nil {
			return nil, err
		}
		for i := range events {
			e := &events[i]
			out = append(out, adminapi.ThingEvent{At: e.At, Kind: "ownership", What: string(e.What), Reason: e.Act, Detail: e.Note})
		}
	}
	slices.SortStableFunc(out, func(a, b adminapi.ThingEvent) int { return a.At.Compare(b.At) })
	return out[max(0, len(out)-limit):], nil
}

// registryEvents is what the registry says of a thing.
func registryEvents(t *adminapi.Thing, now time.Time) []adminapi.ThingEvent {
	out := []adminapi.ThingEvent{{At: t.CreatedAt, Kind: "thing", What: "created", Detail: t.RegisteredBy}}
	if t.UpdatedAt.After(t.CreatedAt) {
		out = append(out, adminapi.ThingEvent{At: t.UpdatedAt, Kind: "thing", What: "changed"})
	}
	for i := range t.Principals {
		p := &t.Principals[i]
		id := cmp.Or(p.Certificate, p.Serial)
		out = append(out, adminapi.ThingEvent{At: p.AttachedAt, Kind: "certificate", What: "attached", Certificate: id, Detail: "It is " + p.Status + " now."})
		if !p.NotAfter.IsZero() && p.NotAfter.Before(now) {
			out = append(out, adminapi.ThingEvent{At: p.NotAfter, Kind: "certificate", What: "ended", Certificate: id})
		}
	}
	if c := &t.Connectivity; !c.At.IsZero() {
		what := "disconnected"
		if c.Connected {
			what = "connected"
		}
		out = append(out, adminapi.ThingEvent{At: c.At, Kind: "connection", What: what, Detail: strings.TrimSpace(c.Client + " " + c.Reason)})
	}
	return out
}

// executionEvents is what a thing was told by a job and what it said. What a campaign
// tells is in the campaign's own steps, so of its jobs only the end is here.
func executionEvents(e *adminapi.JobExecution) (out []adminapi.ThingEvent) {
	add := func(at time.Time, what, detail string) {
		if !at.IsZero() {
			out = append(out, adminapi.ThingEvent{At: at, Kind: "job", What: what, Job: e.Job, Detail: detail})
		}
	}
	if !campaign.OwnsJob(e.Job) {
		add(e.QueuedAt, string(jobs.Queued), "")
		add(e.StartedAt, "STARTED", "")
	}
	if s := jobs.Status(e.Status); s != jobs.Queued && s != jobs.InProgress {
		var said []string
		for _, k := range []string{"step", "code", "message", "detail"} {
			if e.Details[k] != "" {
				said = append(said, e.Details[k])
			}
		}
		add(e.UpdatedAt, e.Status, strings.Join(said, " "))
	}
	return out
}
