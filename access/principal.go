package access

import (
	"context"
	"regexp"
	"time"
)

// Principal is a named person or script. Its name is in every record of what it
// did, so it is never used again and never removed, only disabled.
type Principal struct {
	Tenant     string
	Name       string
	Role       Role
	TokenHash  [32]byte
	CreatedAt  time.Time
	ExpiresAt  time.Time
	DisabledAt time.Time // zero while enabled
}

// Limits of a token's life.
const (
	DefaultTokenLife = 90 * 24 * time.Hour
	MaxTokenLife     = 730 * 24 * time.Hour
)

// Live tells whether the token works at that time.
func (p *Principal) Live(now time.Time) bool {
	return p.DisabledAt.IsZero() && now.Before(p.ExpiresAt) && p.Role.Valid()
}

// Actor is the principal as somebody who asks.
func (p *Principal) Actor() Actor {
	if p.Role == BreakGlass || p.Role == BreakGlassDrill {
		return Actor{Tenant: p.Tenant, Kind: KindBreakGlass, Name: p.Name, Role: p.Role}
	}
	return Actor{Tenant: p.Tenant, Kind: KindPrincipal, Name: p.Name, Role: p.Role}
}

var principalName = regexp.MustCompile(`^[a-z0-9][a-z0-9._@-]{0,63}$`)

// Store persists principals. Contract: rows are protected against other writers
// (S32); a name is unique in its tenant for ever (ErrPrincipalExists); look-ups
// by name see one tenant (ErrPrincipalUnknown). CreateFirst stores the principal
// only if there is none at all, and tells whether it did. Disable refuses
// (ErrLastPlatform) the last live platform principal of a tenant.
type Store interface {
	CreatePrincipal(ctx context.Context, p Principal) error
	CreateFirstPrincipal(ctx context.Context, p Principal) (bool, error)
	PrincipalByToken(ctx context.Context, hash [32]byte) (Principal, error)
	Principal(ctx context.Context, s Scope, name string) (Principal, error)
	Principals(ctx context.Context, s Scope, after string, limit int) ([]Principal, error)
	DisablePrincipal(ctx context.Context, s Scope, name string, now time.Time) (Principal, error)
}

// Create makes a principal in the actor's tenant. The token is in this answer
// and nowhere else. A life of zero means [DefaultTokenLife].
func (a *Authenticator) Create(ctx context.Context, by Actor, name string, role Role, life time.Duration) (Principal, Token, error) {
	if err := Require(by, CreatePrincipal); err != nil {
		return Principal{}, Token{}, err
	}
	p, t, err := a.draft(by.Tenant, name, role, life)
	if err != nil {
		return Principal{}, Token{}, err
	}
	if err := a.cfg.Store.CreatePrincipal(ctx, p); err != nil {
		return Principal{}, Token{}, err
	}
	a.log.InfoContext(ctx, "principal created", "principal", p.Name, "role", string(p.Role), "tenant", p.Tenant, "by", by.String())
	return p, t, nil
}

func (a *Authenticator) draft(tenant, name string, role Role, life time.Duration) (Principal, Token, error) {
	switch {
	case !principalName.MatchString(name):
		return Principal{}, Token{}, ErrPrincipalInvalid.New("The name %.80q is not valid.", name)
	case !role.Valid():
		return Principal{}, Token{}, ErrPrincipalInvalid.New("There is no role %.80q.", role).With("roles", roles)
	case life < 0 || life > MaxTokenLife:
		return Principal{}, Token{}, ErrPrincipalInvalid.New("A token lives at most %d days.", int(MaxTokenLife.Hours()/24))
	case life == 0:
		life = DefaultTokenLife
	}
	t, now := NewToken(), a.now().UTC().Truncate(time.Millisecond)
	return Principal{Tenant: tenant, Name: name, Role: role, TokenHash: t.Hash(), CreatedAt: now, ExpiresAt: now.Add(life)}, t, nil
}

// List lists the principals of a tenant after a name.
func (a *Authenticator) List(ctx context.Context, s Scope, after string, limit int) ([]Principal, error) {
	return a.cfg.Store.Principals(ctx, s, after, limit)
}

// Get finds one principal of a tenant.
func (a *Authenticator) Get(ctx context.Context, s Scope, name string) (Principal, error) {
	return a.cfg.Store.Principal(ctx, s, name)
}

// Disable ends a principal for good. This process refuses its token from the
// moment Disable returns, others within [cacheLife].
func (a *Authenticator) Disable(ctx context.Context, by Actor, name string) (Principal, error) {
	if err := Require(by, DisablePrincipal); err != nil {
		return Principal{}, err
	}
	p, err := a.cfg.Store.DisablePrincipal(ctx, by.Scope(), name, a.now())
	a.forget()
	if err == nil {
		a.log.InfoContext(ctx, "principal disabled", "principal", name, "tenant", by.Tenant, "by", by.String())
	}
	return p, err
}

// FirstPrincipal is the name that [Authenticator.Bootstrap] gives.
const FirstPrincipal = "platform"

// Bootstrap makes the first principal, with the role platform, if there is none
// in the whole database; without it nobody could make the others. deliver puts
// the token where the owner of the machine finds it, a file that only the
// service's user reads; it is called before the principal is stored, so that a
// crash between the two leaves a useless file and never an unknown token.
// created is false if there was a principal already, also when another process
// was faster: then what deliver wrote is void.
func (a *Authenticator) Bootstrap(ctx context.Context, deliver func(name string, t Token) error) (created bool, err error) {
	have, err := a.cfg.Store.Principals(ctx, Scope{Tenant: DefaultTenant}, "", 1)
	if err != nil || len(have) > 0 {
		return false, err
	}
	p, t, err := a.draft(DefaultTenant, FirstPrincipal, Platform, 0)
	if err != nil {
		return false, err
	}
	if err := deliver(p.Name, t); err != nil {
		return false, err
	}
	ctx, _ = WithRecord(ctx, TrailEntry{Tenant: p.Tenant, Actor: Actor{Kind: KindService, Name: "start"}.String(), Action: CreatePrincipal, On: "the first principal", About: map[string]string{"name": p.Name, "role": string(p.Role)}, Outcome: TrailDone})
	if created, err = a.cfg.Store.CreateFirstPrincipal(ctx, p); err == nil && created {
		a.log.WarnContext(ctx, "first principal created", "principal", p.Name, "role", string(p.Role))
	}
	return created, err
}
