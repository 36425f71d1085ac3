package trust

import (
	"context"
	"crypto/x509"
	"log/slog"
	"slices"
	"strings"
	"time"

	"hallmark/access"
	"hallmark/fleet"
	"hallmark/fleet/campaign"
	"hallmark/fleet/presence"
	"hallmark/fleet/registry"
)

// Root is a root that the service knows.
type Root struct {
	Name   string
	Cert   *x509.Certificate
	Active bool
}

// Shown is a chain that verifiers have to accept: what a listener shows, or how what an
// authority issues is verified.
type Shown struct {
	What   string // for people
	Server bool   // a device that does not accept it cannot connect
	Chain  []*x509.Certificate
}

// Accepted tells whether who trusts only some roots accepts the chain at a time.
func (s *Shown) Accepted(roots []*x509.Certificate, now time.Time) bool {
	if len(s.Chain) == 0 {
		return false
	}
	trusted, between := x509.NewCertPool(), x509.NewCertPool()
	for _, r := range roots {
		trusted.AddCert(r)
	}
	for _, c := range s.Chain[1:] {
		between.AddCert(c)
	}
	_, err := s.Chain[0].Verify(x509.VerifyOptions{Roots: trusted, Intermediates: between, CurrentTime: now, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	return err == nil
}

// Bundle is what a thing trusts, as it confirmed.
type Bundle struct {
	Tenant   string          `json:"-"`
	Thing    fleet.ThingName `json:"thing"`
	Roots    []string        `json:"roots"` // ids, sorted; see [fleet.RootID]
	Endpoint string          `json:"endpoint,omitempty"`
	Campaign string          `json:"campaign"` // that made it so
	SeenAt   time.Time       `json:"seenAt"`
	// ConfirmedAt is after the soak of the campaign; zero: not yet.
	ConfirmedAt time.Time `json:"confirmedAt,omitzero"`
	Version     int64     `json:"-"`
}

// ID names the bundle; see [fleet.BundleID].
func (b *Bundle) ID() string {
	id, _ := fleet.BundleID(b.Roots)
	return id
}

// trusts tells whether it was confirmed that the thing trusts some roots and not
// some others.
func (b *Bundle) trusts(has, lacks []string) bool {
	if b.ConfirmedAt.IsZero() {
		return false
	}
	for _, r := range has {
		if !slices.Contains(b.Roots, r) {
			return false
		}
	}
	return !slices.ContainsFunc(lacks, func(r string) bool { return slices.Contains(b.Roots, r) })
}

// Store persists what things trust, and rollovers. Contract: each method is one
// transaction or joins that of ctx; look-ups see one tenant; rows are believed only
// as this program wrote them.
type Store interface {
	// PutBundle writes what a thing trusts, whatever was there.
	PutBundle(ctx context.Context, b Bundle) error
	DropBundle(ctx context.Context, tenant string, thing fleet.ThingName) error
	// Bundle gives [ErrUnknown] for a thing without.
	Bundle(ctx context.Context, s access.Scope, thing fleet.ThingName) (Bundle, error)
	// Bundles lists by folded name of the thing, after one and up to one ("" is the end).
	Bundles(ctx context.Context, s access.Scope, after, upTo string, limit int) ([]Bundle, error)

	// Rollovers lists by name; those of all tenants if the scope names none.
	Rollovers(ctx context.Context, s access.Scope) ([]Rollover, error)
	// PutRollover makes a rollover (was is 0), or replaces the one of that version; else
	// it gives [ErrChanged].
	PutRollover(ctx context.Context, r Rollover, was int64) error
}

// Registry knows things and their certificates; [registry.Registry] does.
type Registry interface {
	Principals(ctx context.Context, s access.Scope, thing fleet.ThingName) ([]registry.Principal, error)
	Things(ctx context.Context, tenant, target string, after fleet.ThingName, limit int) ([]fleet.ThingName, error)
}

// Presence knows the connections of a thing.
type Presence interface {
	Presence(ctx context.Context, s access.Scope, thing fleet.ThingName) ([]presence.State, error)
}

// Campaigns runs the two campaigns of a rollover; [campaign.Service] does.
type Campaigns interface {
	OpenAs(ctx context.Context, tenant, id, by string, spec campaign.Spec) (campaign.Campaign, error)
	Campaign(ctx context.Context, s access.Scope, id string) (campaign.Campaign, error)
	Cancel(ctx context.Context, tenant, id, by, words string) (campaign.Campaign, error)
}

// Config makes a Service.
type Config struct {
	Store    Store
	Registry Registry
	Presence Presence
	// Roots are those of a tenant, and Shown is what its devices have to accept.
	Roots func(tenant string) []Root
	Shown func(ctx context.Context, tenant string) ([]Shown, error)
	Log   *slog.Logger
	Now   func() time.Time
}

// Service is trust, and the [campaign.Action] of the kind update-trust. It is safe
// for concurrent use.
type Service struct {
	cfg   Config
	store Store
	log   *slog.Logger
	now   func() time.Time

	campaigns Campaigns
}

var (
	_ campaign.Action   = (*Service)(nil)
	_ campaign.Loser    = (*Service)(nil)
	_ campaign.Reverser = (*Service)(nil)
)

// New makes a Service.
func New(cfg Config) *Service {
	s := &Service{cfg: cfg, store: cfg.Store, log: cfg.Log, now: cfg.Now}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.now == nil {
		s.now = time.Now
	}
	return s
}

// Join gives the engine of campaigns, which is made with this as one of its Actions.
func (s *Service) Join(c Campaigns) { s.campaigns = c }

func (s *Service) clock() time.Time { return s.now().UTC().Truncate(time.Millisecond) }

// Bundle is what a thing trusts.
func (s *Service) Bundle(ctx context.Context, scope access.Scope, thing fleet.ThingName) (Bundle, error) {
	return s.store.Bundle(ctx, scope, thing)
}

// Forget is for a device that registered anew, of which nobody knows what it kept: it
// counts as not confirmed until it is asked again.
func (s *Service) Forget(ctx context.Context, tenant string, thing fleet.ThingName) error {
	return s.store.DropBundle(ctx, tenant, thing)
}

// Roots are the roots of a tenant, by name.
func (s *Service) Roots(tenant string) []Root {
	list := slices.Clone(s.cfg.Roots(tenant))
	slices.SortFunc(list, func(a, b Root) int { return strings.Compare(a.Name, b.Name) })
	return list
}

// Shown is what devices of a tenant have to accept, and by which single roots of its
// they could.
func (s *Service) Shown(ctx context.Context, tenant string) (shown []Shown, by [][]string, err error) {
	shown, err = s.cfg.Shown(ctx, tenant)
	for i := range shown {
		var names []string
		for _, r := range s.Roots(tenant) {
			if shown[i].Accepted([]*x509.Certificate{r.Cert}, s.clock()) {
				names = append(names, r.Name)
			}
		}
		by = append(by, names)
	}
	return shown, by, err
}

// Taken are the ids of the roots that a rollover takes from devices, or took. A root
// that a later rollover brings back counts again.
func (s *Service) Taken(ctx context.Context, tenant string) (map[string]bool, error) {
	list, err := s.store.Rollovers(ctx, access.Scope{Tenant: tenant})
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(list, func(a, b Rollover) int { return a.begun().Compare(b.begun()) })
	gone := map[string]bool{}
	for _, r := range list {
		delete(gone, r.NewRoot)
		switch r.Phase {
		case Removing, Sleepers, Over:
			gone[r.OldRoot] = true
		}
	}
	return gone, nil
}

// Brought are the ids of the roots that a rollover brought to the devices, and that none
// began to take from them since.
func (s *Service) Brought(ctx context.Context, tenant string) (map[string]bool, error) {
	list, err := s.store.Rollovers(ctx, access.Scope{Tenant: tenant})
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(list, func(a, b Rollover) int { return a.begun().Compare(b.begun()) })
	has := map[string]bool{}
	for _, r := range list {
		switch r.Phase {
		case Switching, Staying, Removing, Sleepers, Over:
			has[r.NewRoot] = true
		}
		if r.Phase == Removing || r.Phase == Sleepers || r.Phase == Over || r.Rounds[Removing] > 0 {
			delete(has, r.OldRoot)
		}
	}
	return has, nil
}

// Bundled leaves out what is [Service.Taken]: a device that registers now is to trust
// what the others do. Never is nothing left.
func (s *Service) Bundled(ctx context.Context, tenant string, all []*x509.Certificate) ([]*x509.Certificate, error) {
	gone, err := s.Taken(ctx, tenant)
	if err != nil {
		return all, err
	}
	left := slices.DeleteFunc(slices.Clone(all), func(c *x509.Certificate) bool { return gone[fleet.RootID(c.Raw)] })
	if len(left) == 0 {
		return all, nil
	}
	return left, nil
}
