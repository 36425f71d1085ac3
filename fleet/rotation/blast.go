package rotation

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"hallmark/access"
	"hallmark/crl"
	"hallmark/fleet"
	"hallmark/fleet/campaign"
	"hallmark/fleet/presence"
	"hallmark/fleet/registry"
	"hallmark/fleet/rollout"
)

// Campaigns is what [Blast] needs of the engine; [campaign.Service] has it.
type Campaigns interface {
	Feeder
	Campaign(ctx context.Context, s access.Scope, id string) (campaign.Campaign, error)
	OpenAs(ctx context.Context, tenant, id, by string, spec campaign.Spec) (campaign.Campaign, error)
	Cancel(ctx context.Context, tenant, id, by, words string) (campaign.Campaign, error)
}

// Holders knows the things of an identity; [registry.Registry] does.
type Holders interface {
	ByHolder(ctx context.Context, s access.Scope, holder string) ([]registry.Thing, error)
}

// Blast is the stage rotate of revocation in bulk: a continuous campaign for the
// reason compromise, which is fed with the devices of a plan that are connected.
type Blast struct {
	Campaigns func() Campaigns // the engine, once it is there
	Holders   Holders
	Presence  Presence
	Now       func() time.Time // nil: the clock
	// Issues lists the authorities that make operational certificates now.
	Issues func(tenant string) []string
}

var _ crl.Rotator = (*Blast)(nil)

// CampaignOf is the campaign of a plan.
func CampaignOf(p *crl.BlastPlan) string { return "plan-" + p.ID }

func (b *Blast) engine() (Campaigns, error) {
	if c := b.Campaigns(); c != nil {
		return c, nil
	}
	return nil, ErrNotYet.New("")
}

// Ready implements [crl.Rotator].
func (b *Blast) Ready(_ context.Context, p *crl.BlastPlan) error {
	if p.Query.Authority != "" && slices.Contains(b.Issues(p.Tenant), p.Query.Authority) {
		return ErrSameAuthority.New("It is %s.", p.Query.Authority)
	}
	return nil
}

// open makes the campaign, or finds it.
func (b *Blast) open(ctx context.Context, p *crl.BlastPlan) (Campaigns, error) {
	engine, err := b.engine()
	if err != nil {
		return nil, err
	}
	parameters, err := json.Marshal(Parameters{Authority: p.Query.Authority, IssuedBefore: p.CreatedAt.Add(time.Millisecond)})
	if err != nil {
		return nil, err
	}
	a := p.Progress.Approvals[crl.StageRotate]
	_, err = engine.OpenAs(ctx, p.Tenant, CampaignOf(p), a.By, campaign.Spec{
		Kind: campaign.Rotate, Reason: campaign.Compromise, Description: "The stage rotate of the revocation plan " + p.ID + ".", Continuous: true, Parameters: parameters,
		Rate: rollout.Rate{MaximumPerMinute: rollout.MaxPerMinute}, Timeout: time.Duration(p.Rotate.Timeout) * time.Second, Soak: max(time.Duration(p.Rotate.Soak)*time.Second, time.Millisecond),
	})
	return engine, err
}

// Connected implements [crl.Rotator]; see [presence.State.There].
func (b *Blast) Connected(ctx context.Context, s *crl.Story) (bool, error) {
	thing, err := b.online(ctx, s)
	return thing != "", err
}

func (b *Blast) now() time.Time {
	if b.Now != nil {
		return b.Now()
	}
	return time.Now()
}

// online gives the thing of a certificate's device if it is there.
func (b *Blast) online(ctx context.Context, s *crl.Story) (fleet.ThingName, error) {
	scope := access.Scope{Tenant: s.Tenant}
	things, err := b.Holders.ByHolder(ctx, scope, s.Holder)
	if err != nil {
		return "", err
	}
	for i := range things {
		states, err := b.Presence.Presence(ctx, scope, things[i].Name)
		if err != nil {
			return "", err
		}
		if slices.ContainsFunc(states, func(v presence.State) bool { return v.There(b.now()) }) {
			return things[i].Name, nil
		}
	}
	return "", nil
}

// Take implements [crl.Rotator].
func (b *Blast) Take(ctx context.Context, p *crl.BlastPlan, stories []crl.Story) ([]bool, error) {
	engine, err := b.open(ctx, p)
	if err != nil {
		return nil, err
	}
	taken := make([]bool, len(stories))
	var things []fleet.ThingName
	for i := range stories {
		thing, err := b.online(ctx, &stories[i])
		if err != nil {
			return nil, err
		}
		if thing != "" {
			taken[i] = true
			things = append(things, thing)
		}
	}
	_, err = engine.Feed(ctx, p.Tenant, CampaignOf(p), things)
	if errors.Is(err, campaign.ErrState) { // somebody ended it: what is left is held
		return make([]bool, len(stories)), nil
	}
	return taken, err
}

// Taken implements [crl.Rotator]. Devices that fell asleep are not waited for.
func (b *Blast) Taken(ctx context.Context, p *crl.BlastPlan) (waiting, rotated int64, halted string, err error) {
	engine, err := b.engine()
	if err != nil {
		return 0, 0, "", err
	}
	c, err := engine.Campaign(ctx, access.Scope{Tenant: p.Tenant}, CampaignOf(p))
	if errors.Is(err, campaign.ErrUnknown) {
		return 0, 0, "", nil // nobody was connected
	}
	if err != nil {
		return 0, 0, "", err
	}
	waiting = c.Counts.Of(campaign.Working, campaign.Proving, campaign.Soaking)
	if !c.State.Ended() {
		waiting += c.Counts.Of(campaign.Waiting, campaign.Offered)
	}
	if waiting > 0 && c.State != campaign.Running {
		halted = "Its campaign " + c.ID + " is " + string(c.State) + "."
	}
	return waiting, c.Counts.Of(campaign.Done), halted, nil
}

// End implements [crl.Rotator].
func (b *Blast) End(ctx context.Context, p *crl.BlastPlan) error {
	engine, err := b.engine()
	if err != nil {
		return err
	}
	_, err = engine.Cancel(ctx, p.Tenant, CampaignOf(p), "plan "+p.ID, "The stage rotate is over.")
	if errors.Is(err, campaign.ErrState) || errors.Is(err, campaign.ErrUnknown) {
		return nil
	}
	return err
}
