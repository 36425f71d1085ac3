package main

import (
	"cmp"
	"context"
	"errors"
	"net"
	"net/url"
	"slices"
	"time"

	"hallmark/access"
	"hallmark/ca/profile"
	"hallmark/fleet"
	"hallmark/fleet/campaign"
	"hallmark/fleet/registry"
	"hallmark/fleet/rollout"
	"hallmark/fleet/rotation"
	"hallmark/store"
)

// RotationConfig is what is done about certificates of devices that end soon.
type RotationConfig struct {
	Window Duration          `yaml:"window"`  // before the end; default 720h
	Groups []RotationGroup   `yaml:"windows"` // thing groups with a window of their own; the first that a thing is in counts
	Every  Duration          `yaml:"every"`   // between two scans; default 1h
	Feed   *RotationCampaign `yaml:"campaign"`
	Spread Duration          `yaml:"spread"`          // of renewals once an authority is being replaced; default 168h
	Soak   Duration          `yaml:"soak"`            // of a renewal that a device began by itself, before the old certificate ends; default 24h
	Pages  string            `yaml:"explanation_url"` // of pages that say why a window was moved; the reason is added
}

// RotationGroup is the window of a thing group.
type RotationGroup struct {
	Group  string   `yaml:"group"`
	Window Duration `yaml:"window"`
}

// RotationCampaign is the continuous campaign that gets what ends soon; without it
// the scan only reports.
type RotationCampaign struct {
	PerMinute    int      `yaml:"per_minute"` // default 60
	Jitter       Duration `yaml:"jitter"`     // default 1h
	Timeout      Duration `yaml:"timeout"`    // default 24h
	Soak         Duration `yaml:"soak"`       // default 24h
	Canary       string   `yaml:"canary"`     // thing group
	CanaryWatch  Duration `yaml:"canary_watch"`
	AbortPercent float64  `yaml:"abort_percent"` // of those that ended; default 5
	AbortAfter   int64    `yaml:"abort_after"`   // devices that have to have ended first; default 20
}

func (c *RotationConfig) complete() error {
	c.Window, c.Every = cmp.Or(c.Window, Duration(30*24*time.Hour)), cmp.Or(c.Every, Duration(time.Hour))
	const least, most = Duration(time.Hour), Duration(20 * 365 * 24 * time.Hour)
	for _, g := range append([]RotationGroup{{"everybody", c.Window}}, c.Groups...) {
		if g.Group == "" || g.Window < least || g.Window > most {
			return errConfig.New("fleet.rotation: the window of %q is not 1h to 175200h, or its group has no name.", g.Group)
		}
	}
	if c.Spread = cmp.Or(c.Spread, Duration(7*24*time.Hour)); c.Spread < Duration(time.Minute) || c.Spread > most {
		return errConfig.New("fleet.rotation.spread: %s is not 1m to 175200h.", time.Duration(c.Spread))
	}
	if c.Soak = cmp.Or(c.Soak, Duration(24*time.Hour)); c.Soak < Duration(time.Second) || c.Soak > most {
		return errConfig.New("fleet.rotation.soak: %s is not 1s to 175200h.", time.Duration(c.Soak))
	}
	if u, err := url.Parse(c.Pages); c.Pages != "" && (err != nil || u.Scheme != "https" || u.Host == "") {
		return errConfig.New("fleet.rotation.explanation_url: %q is not an https URL.", c.Pages)
	}
	if c.Every < Duration(time.Second) {
		return errConfig.New("fleet.rotation.every: %s is under 1s.", time.Duration(c.Every))
	}
	if f := c.Feed; f != nil {
		f.PerMinute, f.Jitter, f.Timeout, f.Soak = cmp.Or(f.PerMinute, 60), cmp.Or(f.Jitter, Duration(time.Hour)), cmp.Or(f.Timeout, Duration(24*time.Hour)), cmp.Or(f.Soak, Duration(24*time.Hour))
		f.AbortPercent, f.AbortAfter = cmp.Or(f.AbortPercent, 5), cmp.Or(f.AbortAfter, 20)
		if f.PerMinute < 1 || f.Jitter < 0 || f.Timeout < 0 || f.Soak < 0 || f.CanaryWatch < 0 || f.AbortPercent < 0 || f.AbortPercent > 100 || f.AbortAfter < 0 {
			return errConfig.New("fleet.rotation.campaign: nothing is negative, and abort_percent is up to 100.")
		}
	}
	return nil
}

func (c *RotationConfig) rules() rotation.Rules {
	r := rotation.Rules{Window: time.Duration(c.Window), Spread: time.Duration(c.Spread), Soak: time.Duration(c.Soak)}
	for _, g := range c.Groups {
		r.Groups = append(r.Groups, rotation.GroupWindow{Group: g.Group, Window: time.Duration(g.Window)})
	}
	if f := c.Feed; f != nil {
		r.Campaign = &campaign.Spec{Rate: rollout.Rate{MaximumPerMinute: f.PerMinute}, Jitter: time.Duration(f.Jitter), Timeout: time.Duration(f.Timeout), Soak: time.Duration(f.Soak),
			Canary: f.Canary, CanaryWatch: time.Duration(f.CanaryWatch),
			Abort: rollout.Abort{Criteria: []rollout.AbortCriterion{{FailureType: "ALL", Action: "CANCEL", Percentage: f.AbortPercent, MinExecuted: f.AbortAfter}}}}
	}
	return r
}

// openRotation makes the service that says when certificates are renewed; first boot
// and the campaigns need it.
func (s *Server) openRotation() {
	s.rotation = rotation.New(rotation.Config{Registry: s.reged, Presence: store.Contacts{DB: s.db}, Revoker: s.crl, Store: s.db, HTTPS: s.deviceURL, Leavers: s.db, Incidents: s.blast, Explain: s.cfg.Fleet.Rotation.Pages, Rules: s.cfg.Fleet.Rotation.rules(), Log: s.log, Now: s.now})
}

// planRotator gives the devices of revocation plans new certificates. Registry and
// engine are made after it, and before it is asked.
func (s *Server) planRotator() *rotation.Blast {
	return &rotation.Blast{
		Holders: lateHolders{s}, Presence: store.Contacts{DB: s.db}, Now: s.now,
		Campaigns: func() rotation.Campaigns {
			if s.fleet == nil || s.fleet.campaigns == nil {
				return nil
			}
			return s.fleet.campaigns
		},
		Issues: func(tenant string) (out []string) {
			own := false // a declaration of the profile for everything stands before the duty's
			for _, d := range s.ca.Servings() {
				own = own || d.Tenant == tenant && d.Serves == string(profile.LDevID) && d.Product == "" && d.Region == ""
			}
			for _, d := range s.ca.Servings() {
				if d.Tenant == tenant && (d.Serves == string(profile.LDevID) || d.Serves == string(profile.DutyDevice) && !own) {
					out = append(out, d.Authorities...)
				}
			}
			return out
		},
	}
}

type lateHolders struct{ s *Server }

// ByHolder implements [rotation.Holders].
func (l lateHolders) ByHolder(ctx context.Context, scope access.Scope, holder string) ([]registry.Thing, error) {
	return l.s.reged.ByHolder(ctx, scope, holder)
}

// deviceURL is where devices find their door over HTTPS.
func (s *Server) deviceURL() string {
	at := s.cfg.Listen.Device
	if d := s.doors["device"]; d != nil && d.listener != nil {
		at = d.listener.Addr().String()
	}
	_, port, err := net.SplitHostPort(at)
	if err != nil || len(s.cfg.ServerNames) == 0 {
		return ""
	}
	return "https://" + net.JoinHostPort(s.cfg.ServerNames[0], port)
}

// renewed keeps that a device got a certificate. The device has it already, so what
// goes wrong here is only told.
func (s *Server) renewed(ctx context.Context, tenant string, thing fleet.ThingName, before, certificate, over string) {
	if err := s.rotation.Renewed(ctx, tenant, thing, before, certificate, over); err != nil {
		s.log.ErrorContext(ctx, "a renewal is not in the history", "tenant", tenant, "thing", string(thing), "certificate", certificate, "error", err)
	}
	// Who comes with a birth certificate may have been reset to what the factory gave it.
	if _, err := s.reged.Certificate(ctx, access.Scope{Tenant: tenant}, before); errors.Is(err, registry.ErrCertificateUnknown) && s.trust != nil {
		if err := s.trust.Forget(ctx, tenant, thing); err != nil {
			s.log.ErrorContext(ctx, "what a device trusted before is not forgotten", "tenant", tenant, "thing", string(thing), "error", err)
		}
	}
}

// settleRenewals retires what devices that renewed by themselves left, until ctx ends.
func (s *Server) settleRenewals(ctx context.Context) {
	for every(ctx, min(time.Minute, time.Duration(s.cfg.Fleet.Rotation.Every))) {
		if err := s.rotation.Settle(ctx, s.fleet.campaigns); err != nil && ctx.Err() == nil {
			s.log.ErrorContext(ctx, "renewals were not looked at", "error", err)
		}
	}
}

// scanExpiry looks for certificates of devices that end soon, until ctx ends.
func (s *Server) scanExpiry(ctx context.Context) {
	tenants := func() (out []string) {
		for _, a := range s.ca.Authorities() {
			out = append(out, a.Tenant)
		}
		slices.Sort(out)
		return slices.Compact(out)
	}
	for _, t := range tenants() { // what was changed while the service was down does not wait for the first scan
		if err := s.rotation.Follow(ctx, t, s.fleet.campaigns); err != nil && ctx.Err() == nil {
			s.log.ErrorContext(ctx, "the campaign for certificates that end soon does not follow the configuration yet; it is tried again", "tenant", t, "error", err)
		}
	}
	for every(ctx, time.Duration(s.cfg.Fleet.Rotation.Every)) {
		for _, t := range tenants() {
			if _, err := s.rotation.Scan(ctx, t, s.fleet.campaigns); err != nil && ctx.Err() == nil {
				s.log.ErrorContext(ctx, "what ends soon was not found out", "tenant", t, "error", err)
			}
		}
	}
}
