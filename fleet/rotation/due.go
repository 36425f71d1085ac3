package rotation

import (
	"context"
	"fmt"
	"slices"
	"time"

	"hallmark/access"
	"hallmark/fleet"
	"hallmark/fleet/campaign"
)

// Due is a certificate that ends soon.
type Due struct {
	Thing       fleet.ThingName
	Certificate string
	Authority   string // "" for one of another CA, which a campaign does not rotate
	NotAfter    time.Time
	Group       string // whose window it is in; "" for everybody's
}

// Rules say what ends soon, and what is done about it.
type Rules struct {
	Window time.Duration // before the end of a certificate; 0 means 30 days
	Groups []GroupWindow // thing groups with a window of their own; the first that a thing is in counts
	// Spread is the time over which devices renew by themselves once the authority of
	// their certificates is being replaced; 0 means 7 days.
	Spread time.Duration
	// Soak is the time between the proof of a certificate that a device got by itself
	// and the end of its old one; 0 means a day.
	Soak time.Duration
	// Campaign, if it is not nil, is opened as a continuous campaign and fed with what
	// is due; its name is [ExpiryCampaign].
	Campaign *campaign.Spec
}

// GroupWindow is the window of a thing group.
type GroupWindow struct {
	Group  string
	Window time.Duration
}

const (
	defaultWindow = 30 * 24 * time.Hour
	scanPage      = 250
	// ExpiryCampaign is the name of the campaign that the scan feeds.
	ExpiryCampaign = "expiry"
)

func (r *Rules) window() time.Duration {
	if r.Window > 0 {
		return r.Window
	}
	return defaultWindow
}

func (r *Rules) soak() time.Duration {
	if r.Soak > 0 {
		return r.Soak
	}
	return defaultSoak
}

// widest is how far ahead the scan has to look.
func (r *Rules) widest() time.Duration {
	w := r.window()
	for _, g := range r.Groups {
		w = max(w, g.Window)
	}
	return w
}

// members reads the groups that have a window of their own.
func (s *Service) members(ctx context.Context, tenant string) (map[string]GroupWindow, error) {
	out := map[string]GroupWindow{}
	for _, g := range slices.Backward(s.cfg.Rules.Groups) {
		after := fleet.ThingName("")
		for {
			list, err := s.cfg.Registry.Things(ctx, tenant, "thinggroup/"+g.Group, after, scanPage)
			if err != nil {
				return nil, fmt.Errorf("the group %s of fleet.rotation: %w", g.Group, err)
			}
			for _, t := range list {
				out[t.Fold()] = g
			}
			if len(list) < scanPage {
				break
			}
			after = list[len(list)-1]
		}
	}
	return out, nil
}

// Due gives what is due in a tenant to each, the soonest first, after one, until it
// gives false. A window that is not 0 stands for all windows.
func (s *Service) Due(ctx context.Context, tenant string, window time.Duration, after Due, each func(d Due) bool) error {
	scope, now, widest := access.Scope{Tenant: tenant}, s.clock(), window
	var groups map[string]GroupWindow
	if window <= 0 {
		widest = s.cfg.Rules.widest()
		var err error
		if groups, err = s.members(ctx, tenant); err != nil {
			return err
		}
	}
	for {
		list, last, more, err := s.cfg.Store.Expiring(ctx, scope, now, now.Add(widest), after, scanPage)
		if err != nil {
			return err
		}
		for _, d := range list {
			mine := widest
			if window <= 0 {
				mine = s.cfg.Rules.window()
				if g, ok := groups[d.Thing.Fold()]; ok {
					d.Group, mine = g.Group, g.Window
				}
			}
			if !d.NotAfter.After(now.Add(mine)) && !each(d) {
				return nil
			}
		}
		if after = last; !more {
			return nil
		}
	}
}

// Scanned is what one scan found.
type Scanned struct {
	Due     int64
	Foreign int64     // of them, of other CAs
	Fed     int64     // devices that came into the campaign
	Soonest time.Time // when the first of ours ends
}

// Follow has the campaign that an earlier scan opened do as the rules say now.
func (s *Service) Follow(ctx context.Context, tenant string, f Feeder) error {
	var spec *campaign.Spec
	if s.cfg.Rules.Campaign != nil {
		now := s.expirySpec()
		spec = &now
	}
	return f.Follow(ctx, tenant, ExpiryCampaign, spec)
}

// Scan looks once at what ends soon in a tenant. With a campaign in the rules it is
// opened, for the reason expiry, and fed. One that is open follows the rules.
func (s *Service) Scan(ctx context.Context, tenant string, f Feeder) (out Scanned, err error) {
	if f != nil {
		if err := s.Follow(ctx, tenant, f); err != nil { // what ends soon is told all the same
			s.log.ErrorContext(ctx, "the campaign for certificates that end soon does not follow the configuration, and goes on as it was", "tenant", tenant, "error", err)
		}
	}
	var page []fleet.ThingName
	opened, over := false, false
	feed := func() error {
		if s.cfg.Rules.Campaign == nil || f == nil || len(page) == 0 {
			return nil
		}
		if !opened {
			c, err := f.Open(ctx, tenant, ExpiryCampaign, s.expirySpec())
			if err != nil {
				return err
			}
			// Somebody ended it, and that stands. What is due is counted all the same.
			if opened, over = true, c.State.Ended() || c.State == campaign.RollingBack; over {
				s.log.WarnContext(ctx, "the campaign for certificates that end soon was ended, so no device is put into it", "tenant", tenant, "campaign", c.ID, "state", string(c.State), "by", c.By)
			}
		}
		if over {
			page = page[:0]
			return nil
		}
		n, err := f.Feed(ctx, tenant, ExpiryCampaign, page)
		out.Fed += int64(n)
		page = page[:0]
		return err
	}
	var ferr error
	err = s.Due(ctx, tenant, 0, Due{}, func(d Due) bool {
		out.Due++
		if d.Authority == "" {
			out.Foreign++
			return true
		}
		if out.Soonest.IsZero() { // they come in the order of their ends
			out.Soonest = d.NotAfter
		}
		if page = append(page, d.Thing); len(page) >= scanPage {
			ferr = feed()
		}
		return ferr == nil
	})
	if err == nil {
		err = ferr
	}
	if err == nil {
		err = feed()
	}
	if err == nil {
		s.totals.scanned(tenant, out, s.clock())
	}
	if out.Due > 0 {
		s.log.InfoContext(ctx, "certificates end soon", "tenant", tenant, "certificates", out.Due, "of other CAs", out.Foreign, "into the campaign", out.Fed)
	}
	return out, err
}

// expirySpec is the campaign of the rules, as the scan needs it.
func (s *Service) expirySpec() campaign.Spec {
	spec := *s.cfg.Rules.Campaign
	spec.Kind, spec.Reason, spec.Continuous, spec.Targets, spec.Query = campaign.Rotate, campaign.Expiry, true, nil, ""
	if spec.Description == "" {
		spec.Description = "certificates that end soon"
	}
	if len(spec.Parameters) == 0 {
		spec.Parameters = fmt.Appendf(nil, `{"expiresWithinSeconds":%d}`, int64(s.cfg.Rules.widest().Seconds()))
	}
	return spec
}
