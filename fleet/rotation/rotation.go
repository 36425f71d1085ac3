package rotation

import (
	"context"
	"log/slog"
	"slices"
	"time"

	"hallmark/access"
	"hallmark/ca/profile"
	"hallmark/crl"
	"hallmark/fleet"
	"hallmark/fleet/campaign"
	"hallmark/fleet/presence"
	"hallmark/fleet/registry"
)

// Registry knows the certificates of things; [registry.Registry] does.
type Registry interface {
	Principals(ctx context.Context, s access.Scope, thing fleet.ThingName) ([]registry.Principal, error)
	Certificate(ctx context.Context, s access.Scope, id string) (registry.Certificate, error)
	Get(ctx context.Context, s access.Scope, name fleet.ThingName) (registry.Thing, error)
	Things(ctx context.Context, tenant, target string, after fleet.ThingName, limit int) ([]fleet.ThingName, error)
}

// Presence knows the connections of a thing and the certificates behind them. A
// certificate that was used over HTTPS has a state of no client, whose time is that of
// the request.
type Presence interface {
	Presence(ctx context.Context, s access.Scope, thing fleet.ThingName) ([]presence.State, error)
}

// Revoker revokes certificates and puts them on hold; [crl.Service] does.
type Revoker interface {
	Revoke(ctx context.Context, by access.Actor, w crl.Withdrawal) (crl.Result, error)
}

// Feeder has continuous campaigns; [campaign.Service] does.
type Feeder interface {
	Open(ctx context.Context, tenant, id string, spec campaign.Spec) (campaign.Campaign, error)
	Feed(ctx context.Context, tenant, id string, things []fleet.ThingName) (int, error)
	Follow(ctx context.Context, tenant, id string, spec *campaign.Spec) error
}

// Config makes a Service.
type Config struct {
	Registry Registry
	Presence Presence
	Revoker  Revoker
	Store    Store
	// HTTPS is the address of the device door, which devices are told for the case
	// that they cannot renew over MQTT; nil and "" tell none.
	HTTPS func() string
	// Leavers and Incidents move renewal windows; nil move none.
	Leavers   Leavers
	Incidents Incidents
	Explain   string // address of pages for people, to which the reason is added; "" for none
	Rules     Rules
	Log       *slog.Logger
	Now       func() time.Time
}

// Service is rotation, and the [campaign.Action] of the kind rotate-certificate. It
// is safe for concurrent use.
type Service struct {
	cfg Config
	log *slog.Logger
	now func() time.Time

	totals  totals
	leavers leavers
}

var (
	_ campaign.Action   = (*Service)(nil)
	_ campaign.Loser    = (*Service)(nil)
	_ campaign.Reverser = (*Service)(nil)
)

// New makes a Service.
func New(cfg Config) *Service {
	s := &Service{cfg: cfg, log: cfg.Log, now: cfg.Now}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.now == nil {
		s.now = time.Now
	}
	return s
}

func (s *Service) clock() time.Time { return s.now().UTC().Truncate(time.Millisecond) }

// Actor is who rotation is in records of revocation. A hold by it may be replaced
// when the device asks for its next certificate; anybody else's may not.
func Actor(tenant string) access.Actor {
	return access.Actor{Tenant: tenant, Kind: access.KindService, Name: "rotation"}
}

// look is what is known of a device's certificates.
type look struct {
	own    []registry.Principal // operational ones that are ours, the latest attached last
	others int                  // live ones of other CAs
	seen   []presence.State     // the newest of each of its clients
	now    time.Time
}

func (s *Service) look(ctx context.Context, scope access.Scope, thing fleet.ThingName) (*look, error) {
	all, err := s.cfg.Registry.Principals(ctx, scope, thing)
	if err != nil {
		return nil, err
	}
	l := &look{now: s.clock()}
	for _, p := range all {
		switch {
		case p.Authority != "" && p.Profile == string(profile.LDevID):
			l.own = append(l.own, p)
		case p.Live(l.now):
			l.others++
		}
	}
	slices.SortStableFunc(l.own, func(a, b registry.Principal) int { return a.AttachedAt.Compare(b.AttachedAt) })
	l.seen, err = s.cfg.Presence.Presence(ctx, scope, thing)
	return l, err
}

// find gives a certificate of the device, nil if it has it no more.
func (l *look) find(id string) *registry.Principal {
	for i := range l.own {
		if l.own[i].Certificate == id && id != "" {
			return &l.own[i]
		}
	}
	return nil
}

// lives tells whether a certificate lets the device in now.
func (l *look) lives(id string) bool {
	p := l.find(id)
	return p != nil && p.Live(l.now) && p.Status == fleet.Active
}

// current is the certificate that the device uses, as far as is known: that of its
// newest connection, else the latest that was activated, else the latest.
func (l *look) current() (best *registry.Principal) {
	var state *presence.State
	for i := range l.seen {
		v := &l.seen[i]
		if p := l.find(v.Certificate); p == nil || !p.Live(l.now) {
			continue
		}
		if state == nil || v.Connected && !state.Connected || v.Connected == state.Connected && v.At.After(state.At) {
			state = v
		}
	}
	if state != nil {
		return l.find(state.Certificate)
	}
	for i := range l.own {
		p := &l.own[i]
		if p.Live(l.now) && (best == nil || p.Status == fleet.Active || best.Status != fleet.Active) {
			best = p
		}
	}
	return best
}

// connected tells whether the device is connected with a certificate.
func (l *look) connected(id string) bool {
	return slices.ContainsFunc(l.seen, func(v presence.State) bool { return v.Certificate == id && v.Connected })
}

// seenSince tells whether the device is connected with a certificate, or was so at a
// time or later.
func (l *look) seenSince(id string, since time.Time) bool {
	return slices.ContainsFunc(l.seen, func(v presence.State) bool { return v.Certificate == id && (v.Connected || !v.At.Before(since)) })
}
