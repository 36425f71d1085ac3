package ownership

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"time"

	"hallmark/access"
	"hallmark/ca"
	"hallmark/ca/profile"
	"hallmark/crl"
	"hallmark/fleet"
	"hallmark/fleet/registry"
	"hallmark/fleet/shadow"
)

// Store persists ownership. Contract: every method joins the transaction of Atomic;
// look-ups of a tenant see that tenant's rows; Unit finds by the home and Holds by the
// owner, both with ErrUnknown if there is no row, and Unit fails as tampered with if the
// history knows of a row that is missing; Put methods insert when was is 0 and else
// change the row only if its version is still was, with ErrChanged; AddEvent gives the
// event the next number of its tenant and unit.
type Store interface {
	Atomic(ctx context.Context, fn func(ctx context.Context) error) error
	Unit(ctx context.Context, home, holder string) (Unit, error)
	Holds(ctx context.Context, s access.Scope, holder string) (Unit, error)
	PutUnit(ctx context.Context, u Unit, was int64) error
	AddEvent(ctx context.Context, e Event) error
	OwnershipEvents(ctx context.Context, s access.Scope, holder string) ([]Event, error)
	OwnershipAct(ctx context.Context, s access.Scope, name string) (Act, error)
	OwnershipActs(ctx context.Context, s access.Scope, after string, limit int) ([]Act, error)
	// ActByCode finds a release of any tenant by the hash of its code.
	ActByCode(ctx context.Context, hash string) (Act, error)
	// UnsweptActs are those of all tenants that left something behind.
	UnsweptActs(ctx context.Context, limit int) ([]Act, error)
	// Releases lists the releases of all tenants by tenant and name, after one of them.
	Releases(ctx context.Context, tenant, name string, limit int) ([]Act, error)
	PutAct(ctx context.Context, a Act, was int64) error
	// EachUnit reads all rows, for fsck.
	EachUnit(ctx context.Context, f func(u Unit, broken error) error) error

	Records(ctx context.Context, q ca.RecordQuery) ([]ca.Record, error)
	Shadow(ctx context.Context, s access.Scope, k shadow.Key) (shadow.Row, error)
	ShadowNames(ctx context.Context, s access.Scope, thing fleet.ThingName, after string, limit int) ([]string, error)
	DropShadows(ctx context.Context, s access.Scope, thing fleet.ThingName) error
	DropBundle(ctx context.Context, tenant string, thing fleet.ThingName) error
}

// Revoker takes certificates away; [crl.Service] does.
type Revoker interface {
	RetireDevice(ctx context.Context, by access.Actor, holder string, r crl.Reason, text string) (crl.Result, error)
	BlockDevice(ctx context.Context, by access.Actor, holder string, r crl.Reason, text string) (crl.Result, error)
}

// Jobs ends what a thing still has to do; [jobs.Service] does.
type Jobs interface {
	ThingDeleted(ctx context.Context, tenant string, thing fleet.ThingName) error
}

// Config makes a Service.
type Config struct {
	Store    Store
	Registry *registry.Registry
	Revoker  Revoker
	Jobs     Jobs // nil: jobs end by themselves
	// TemplateGroups fails unless accepted units can be registered by a template of the
	// tenant, and tells the groups that it names, and how many more it adds at least; nil
	// takes any.
	TemplateGroups func(ctx context.Context, s access.Scope, name string) (named []string, more int, err error)
	Log            *slog.Logger
	Now            func() time.Time
}

// Service keeps ownership. It is safe for concurrent use.
type Service struct {
	cfg   Config
	store Store
	now   func() time.Time
	log   *slog.Logger
	wake  chan struct{}
	Stats Stats
}

// Stats counts units since start.
type Stats struct {
	Released, Accepted, Withdrawn, Reset, Decommissioned, Refused atomic.Int64
	// Overdue is what [Service.Overdue] counted last.
	Overdue atomic.Int64
}

// New makes a Service.
func New(cfg Config) *Service {
	s := &Service{cfg: cfg, store: cfg.Store, now: cfg.Now, log: cfg.Log, wake: make(chan struct{}, 1)}
	if s.now == nil {
		s.now = time.Now
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	return s
}

func (s *Service) clock() time.Time { return s.now().UTC().Truncate(time.Millisecond) }

// retryAfter is when a device that was released asks again.
const retryAfter = 15 * time.Minute

// Owner tells who owns the unit of a birth certificate that home's authority made. A
// unit without a row is its home's. One that is released or decommissioned has none,
// and fails.
func (s *Service) Owner(ctx context.Context, home, holder string) (Unit, error) {
	u, err := s.store.Unit(ctx, home, holder)
	switch {
	case errors.Is(err, ErrUnknown):
		return Unit{Home: home, Holder: strings.ToLower(holder), Shown: holder, Tenant: home, State: Owned}, nil
	case err != nil:
		return u, err
	}
	return u, s.in(&u)
}

// in refuses a unit that is nobody's.
func (s *Service) in(u *Unit) error {
	switch u.State {
	case Owned:
		return nil
	case Released:
		s.Stats.Refused.Add(1)
		return ErrReleased.New("").After(retryAfter)
	}
	s.Stats.Refused.Add(1)
	return ErrGone.New("")
}

// Held finds a unit that a tenant owns, or owned last, by the name that it has there.
// For a unit without a row it is the tenant's own; whether there is such a unit at all
// is for who asks to know.
func (s *Service) Held(ctx context.Context, tenant, holder string) (Unit, error) {
	u, err := s.store.Holds(ctx, access.Scope{Tenant: tenant}, holder)
	if !errors.Is(err, ErrUnknown) {
		return u, err
	}
	u, err = s.Owner(ctx, tenant, holder)
	if err == nil && u.Tenant != tenant {
		err = ErrLeft.New("")
	}
	return u, err
}

// birth finds the birth certificate in force of a unit of home; nil if there is none.
func (s *Service) birth(ctx context.Context, home, holder string) (*ca.Record, error) {
	q := ca.RecordQuery{Tenant: home, Holder: holder, Profile: string(profile.IDevID), Limit: 1000}
	var found *ca.Record
	for {
		page, err := s.store.Records(ctx, q)
		if err != nil {
			return nil, err
		}
		for i := range page {
			if page[i].State != "" && page[i].DER != nil { // the identity's current one
				found = &page[i]
			}
		}
		if len(page) < q.Limit {
			return found, nil
		}
		q.After = page[len(page)-1].ID
	}
}

// look finds a unit that scope's tenant owns, owned, or has made; born says whether it
// has a birth certificate in force.
func (s *Service) look(ctx context.Context, scope access.Scope, holder string, now time.Time) (u Unit, born bool, err error) {
	u, err = s.store.Holds(ctx, scope, holder)
	if errors.Is(err, ErrUnknown) {
		if u, err = s.store.Unit(ctx, scope.Tenant, holder); err == nil {
			return u, false, ErrNotOwner.New("%s belongs to somebody else.", u.Shown)
		}
		u = Unit{Home: scope.Tenant, Holder: strings.ToLower(holder), Shown: holder, Tenant: scope.Tenant, State: Owned}
		if !errors.Is(err, ErrUnknown) {
			return u, false, err
		}
		err = nil
	}
	if err != nil {
		return u, false, err
	}
	r, err := s.birth(ctx, u.Home, u.Holder)
	if err != nil {
		return u, false, err
	}
	if r == nil {
		return u, false, ErrUnknown.New("%.80s.", holder)
	}
	u.Shown = r.Shown
	u.Authority, u.Serial = r.Authority, r.Serial.String()
	return u, !r.Revoked() && now.Before(r.NotAfter), nil
}

// Show gives a unit to the tenant that owns it, or owned it, or made it, with what of
// its history is that tenant's. A unit that somebody else owns says no more than that it
// is not here any more.
func (s *Service) Show(ctx context.Context, scope access.Scope, holder string) (Unit, []Event, error) {
	events, err := s.store.OwnershipEvents(ctx, scope, holder)
	if err != nil {
		return Unit{}, nil, err
	}
	u, _, err := s.look(ctx, scope, holder, s.now())
	if errors.Is(err, ErrNotOwner) || errors.Is(err, ErrUnknown) && len(events) > 0 {
		u, err = Unit{Holder: strings.ToLower(holder), Shown: holder}, nil
		if len(events) > 0 {
			u.Home = events[len(events)-1].Home
		}
	}
	return u, events, err
}

// History is what happened to a unit, as far as it is the tenant's to know.
func (s *Service) History(ctx context.Context, scope access.Scope, holder string) ([]Event, error) {
	return s.store.OwnershipEvents(ctx, scope, holder)
}

// Acts lists a tenant's acts.
func (s *Service) Acts(ctx context.Context, scope access.Scope, after string, limit int) ([]Act, error) {
	return s.store.OwnershipActs(ctx, scope, after, limit)
}

// Act finds one.
func (s *Service) Act(ctx context.Context, scope access.Scope, name string) (Act, error) {
	return s.store.OwnershipAct(ctx, scope, name)
}

// said is what the permanent record says about an act.
func (a *Act) said() string {
	return strings.TrimSuffix(fmt.Sprintf("%s %s: %s", a.Kind, a.Name, a.Note), ": ")
}
