package main

import (
	"context"
	"slices"
	"strconv"
	"strings"
	"time"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/fleet"
	"hallmark/fleet/campaign"
	"hallmark/fleet/rotation"
	"hallmark/web"
)

// maxHistory is how much of a thing's history is shown.
const maxHistory = 500

// ThingRotations implements [web.Rotation]: what was done with its certificates, and
// how the campaigns that rotate went for it.
func (b *backend) ThingRotations(ctx context.Context, s access.Scope, thing string) ([]adminapi.RotationEvent, error) {
	name, err := b.knownThing(ctx, s, thing)
	if err != nil {
		return nil, err
	}
	events, err := b.rotation.History(ctx, s, name, maxHistory)
	if err != nil {
		return nil, err
	}
	out := mapped(events, func(e *rotation.Event) adminapi.RotationEvent {
		return adminapi.RotationEvent{At: e.At, What: string(e.What), Certificate: e.Certificate, Before: e.Before, Campaign: e.Campaign, Reason: string(e.Reason), Detail: e.Detail}
	})
	reasons := map[string]campaign.Reason{} // of the campaigns; "" for those of another kind
	var last campaign.Step
	for len(out) < 2*maxHistory {
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
				if c.Kind == campaign.Rotate {
					why = c.Reason
				}
				reasons[v.Campaign] = why
			}
			if why == "" {
				continue
			}
			detail := strings.TrimSpace(v.Code + " " + v.Detail)
			out = append(out, adminapi.RotationEvent{At: v.At, What: "campaign " + string(v.State), Certificate: v.After, Before: v.Before, Campaign: v.Campaign, Reason: string(why), Detail: detail})
		}
		if len(steps) < campaign.MaxPage {
			break
		}
	}
	slices.SortStableFunc(out, func(a, b adminapi.RotationEvent) int { return a.At.Compare(b.At) })
	return out[max(0, len(out)-maxHistory):], nil
}

// RotationDue implements [web.Rotation].
func (b *backend) RotationDue(ctx context.Context, s access.Scope, window time.Duration, p web.Page) ([]adminapi.RotationDue, string, error) {
	var after rotation.Due
	if p.After != "" {
		parts := strings.SplitN(p.After, "/", 3)
		if len(parts) != 3 {
			return nil, "", web.ErrCursor.New("")
		}
		at, err := strconv.ParseInt(parts[0], 10, 64)
		if err != nil {
			return nil, "", web.ErrCursor.Wrap(err, "")
		}
		after = rotation.Due{NotAfter: time.UnixMilli(at), Certificate: parts[1], Thing: fleet.ThingName(parts[2])}
	}
	out, next := []adminapi.RotationDue{}, ""
	var last rotation.Due
	err := b.rotation.Due(ctx, s.Tenant, window, after, func(d rotation.Due) bool {
		if len(out) >= p.Limit && d.Certificate != last.Certificate {
			next = strconv.FormatInt(last.NotAfter.UnixMilli(), 10) + "/" + last.Certificate + "/" + string(last.Thing)
			return false
		}
		last = d
		out = append(out, adminapi.RotationDue{Thing: string(d.Thing), Certificate: d.Certificate, Authority: d.Authority, NotAfter: d.NotAfter, Group: d.Group})
		return true
	})
	return out, next, err
}
