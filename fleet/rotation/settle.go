package rotation

import (
	"context"
	"time"

	"hallmark/access"
	"hallmark/crl"
	"hallmark/fleet"
	"hallmark/fleet/campaign"
)

// Renewal is a change of certificates that a device began by itself, by whatever
// protocol, until the old certificate is retired. A thing has at most one: the newest.
type Renewal struct {
	Tenant string
	Thing  fleet.ThingName
	Before string // id of the old certificate
	After  string // id of the new one
	Reason campaign.Reason
	At     time.Time // when the new one was made
	Proven time.Time // when it was found to be in use; zero: not yet
	Due    time.Time // of the next look
}

// Timelines knows what campaigns do with a thing; [campaign.Service] does.
type Timelines interface {
	Timeline(ctx context.Context, s access.Scope, thing fleet.ThingName, after campaign.Step, limit int) ([]campaign.Step, error)
}

const (
	settlePage    = 200
	settleSoonest = time.Minute
	settleLatest  = 6 * time.Hour
)

// Settle looks at the renewals that are due, in all tenants: a new certificate that is
// in use soaks, and then the old one is retired as it is in a campaign. A renewal for a
// campaign is the campaign's to end.
func (s *Service) Settle(ctx context.Context, t Timelines) error {
	for {
		list, err := s.cfg.Store.DueRenewals(ctx, s.clock(), settlePage)
		if err != nil {
			return err
		}
		for i := range list {
			if err := s.settle(ctx, t, &list[i]); err != nil {
				if ctx.Err() != nil {
					return err
				}
				s.log.ErrorContext(ctx, "a renewal was not looked at", "tenant", list[i].Tenant, "thing", string(list[i].Thing), "error", err)
				list[i].Due = s.clock().Add(settleLatest)
				if err := s.cfg.Store.PutRenewal(ctx, list[i]); err != nil {
					return err
				}
			}
		}
		if len(list) < settlePage {
			return nil
		}
	}
}

func (s *Service) settle(ctx context.Context, t Timelines, r *Renewal) error {
	l, err := s.look(ctx, access.Scope{Tenant: r.Tenant}, r.Thing)
	if err != nil {
		return err
	}
	now := l.now
	later := func(since time.Time) error {
		r.Due = now.Add(min(max(now.Sub(since)/4, settleSoonest), settleLatest))
		return s.cfg.Store.PutRenewal(ctx, *r)
	}
	a, b := l.find(r.Before), l.find(r.After)
	if a == nil || a.Status == fleet.Revoked || !now.Before(a.NotAfter) || b == nil || b.Status == fleet.Revoked {
		return s.cfg.Store.DropRenewal(ctx, *r)
	}
	if !a.Live(now) { // on hold or switched off: if it comes back it is still to be retired
		return later(r.At)
	}
	busy, err := s.inCampaign(ctx, t, r)
	if err != nil {
		return err
	}
	switch {
	case busy:
		return later(r.At)
	case !l.lives(r.After):
		return later(r.At)
	case r.Proven.IsZero():
		if !l.seenSince(r.After, r.At) {
			return later(r.At)
		}
		r.Proven, r.Due = now, now.Add(s.cfg.Rules.soak())
		return s.cfg.Store.PutRenewal(ctx, *r)
	case now.Before(r.Proven.Add(s.cfg.Rules.soak())):
		return later(r.Proven)
	case l.onlyWith(r.Before, r.After):
		if err := s.told(ctx, r, Kept, r.Before, "It went back to the old certificate, so both stay."); err != nil {
			return err
		}
		return s.cfg.Store.DropRenewal(ctx, *r)
	case !l.seenSince(r.After, r.Proven): // it sleeps
		return later(r.Proven)
	}
	if err := s.revoke(ctx, r.Tenant, a, crl.Superseded, "renewed"); err != nil {
		return err
	}
	if err := s.told(ctx, r, Retired, r.Before, ""); err != nil {
		return err
	}
	return s.cfg.Store.DropRenewal(ctx, *r)
}

func (s *Service) told(ctx context.Context, r *Renewal, what What, certificate, detail string) error {
	s.totals.happened(what)
	s.log.InfoContext(ctx, "certificate rotation", "tenant", r.Tenant, "thing", string(r.Thing), "what", string(what), "certificate", certificate)
	return s.cfg.Store.AddRotationEvent(ctx, Event{Tenant: r.Tenant, Thing: r.Thing, At: s.clock(), What: what, Certificate: certificate, Reason: r.Reason, Detail: detail})
}

// inCampaign tells whether a campaign is at work on the old certificate.
func (s *Service) inCampaign(ctx context.Context, t Timelines, r *Renewal) (bool, error) {
	if t == nil {
		return false, nil
	}
	under := map[string]bool{}
	for last := (campaign.Step{}); ; {
		steps, err := t.Timeline(ctx, access.Scope{Tenant: r.Tenant}, r.Thing, last, campaign.MaxPage)
		if err != nil {
			return false, err
		}
		for _, v := range steps {
			if last = v; v.Before == r.Before {
				under[v.Campaign] = !v.State.Ended() && v.State != campaign.Waiting
			}
		}
		if len(steps) < campaign.MaxPage {
			break
		}
	}
	for _, yes := range under {
		if yes {
			return true, nil
		}
	}
	return false, nil
}
