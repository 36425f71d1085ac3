package bootstrap

import (
	"context"
	"net/netip"
	"slices"
	"time"

	"hallmark/access"
)

// Budget bounds what one claim certificate, or one registered CA at the door, may
// make (S17). Nothing that names a budget is made without drawing on it.
type Budget struct {
	Tenant      string
	Name        string // [ClaimBudget] or [CABudget]
	Template    string // the fleet template that a claim is for
	Most        int64  // in all; 0 allows nothing
	PerMinute   int64  // 0 means no limit
	Outstanding int64  // made and not claimed, at a time; 0 means no limit
	ExpiresAt   time.Time
	Networks    []netip.Prefix // from which a claim may be used: its sites; none means everywhere
	CreatedBy   string
	CreatedAt   time.Time

	Used       int64
	WindowAt   time.Time // start of the minute that WindowUsed counts
	WindowUsed int64
	Version    int64 // of the row: 1 at first; rises with every change
}

// ClaimBudget names the budget of a claim certificate by its id.
func ClaimBudget(id string) string { return "claim/" + id }

// CABudget names the budget of a registered CA by its id.
func CABudget(id string) string { return "ca/" + id }

// at tells whether the budget is good at an address. One that is not known is
// nowhere.
func (b *Budget) at(a netip.Addr) bool {
	a = a.Unmap()
	return len(b.Networks) == 0 || slices.ContainsFunc(b.Networks, func(p netip.Prefix) bool { return p.Contains(a) })
}

// ParseNetworks reads prefixes such as 10.1.0.0/16, or single addresses.
func ParseNetworks(texts []string) (out []netip.Prefix, err error) {
	if len(texts) > maxNetworks {
		return nil, ErrClaimConfig.New("%d networks are named, at most %d can be.", len(texts), maxNetworks)
	}
	for _, t := range texts {
		p, err := netip.ParsePrefix(t)
		if err != nil {
			a, aerr := netip.ParseAddr(t)
			if aerr != nil || a.Zone() != "" {
				return nil, ErrClaimConfig.New("%.60q is no network such as 10.1.0.0/16.", t)
			}
			p = netip.PrefixFrom(a, a.BitLen())
		}
		if p.Addr().Is4In6() {
			return nil, ErrClaimConfig.New("%.60q is an IPv4 network in IPv6 form; write it as IPv4.", t)
		}
		out = append(out, p.Masked())
	}
	return out, nil
}

// maxNetworks bounds the sites of one claim.
const maxNetworks = 64

// draw takes one from the budget, or says which of its limits is reached. open is
// how many are outstanding.
func (b *Budget) draw(now time.Time, open int64) error {
	switch {
	case !b.ExpiresAt.IsZero() && !now.Before(b.ExpiresAt):
		return ErrBudgetExpired.New("It ended at %s.", b.ExpiresAt.Format(time.RFC3339))
	case b.Used >= b.Most:
		return ErrBudgetSpent.New("All %d are used.", b.Most)
	case b.Outstanding > 0 && open >= b.Outstanding:
		return ErrBudgetOutstanding.New("%d wait to be claimed.", open).After(time.Minute)
	}
	if now.Sub(b.WindowAt) >= time.Minute || now.Before(b.WindowAt) {
		b.WindowAt, b.WindowUsed = now.UTC().Truncate(time.Minute), 0
	}
	if b.PerMinute > 0 && b.WindowUsed >= b.PerMinute {
		return ErrBudgetRate.New("%d a minute are allowed.", b.PerMinute).After(b.WindowAt.Add(time.Minute).Sub(now))
	}
	b.Used++
	b.WindowUsed++
	return nil
}

// back gives one back that came to nothing; the rate still counts it.
func (b *Budget) back() { b.Used = max(0, b.Used-1) }

// GrantState is how far a certificate of a claim is.
type GrantState string

// The states. A grant leaves pending once.
const (
	GrantReserved GrantState = "reserved" // drawn from the budget; the certificate may exist
	GrantPending  GrantState = "pending"  // issued, waits to be claimed
	GrantClaimed  GrantState = "claimed"
	GrantVoid     GrantState = "void" // not claimed in time, and revoked
)

// Grant is a certificate that was made for a claim.
type Grant struct {
	Tenant      string
	Holder      string // made from the public key
	Budget      string
	Certificate string // id, "" until it was issued
	State       GrantState
	Origin      string // of the key (S5)
	CreatedAt   time.Time
	ExpiresAt   time.Time // until then it can be claimed
	Request     string    // hash of what it was claimed with
	Result      string    // JSON, the answer
	Version     int64
}

// Grants persists budgets, grants and events. Contract: Atomic runs fn in one
// transaction that every method joins, those of the registry and of revocation
// too; look-ups see one tenant and return ErrBudgetUnknown or ErrGrantUnknown;
// Put inserts when was is 0 and else changes the row only if its version is still
// was, with ErrRegistrationChanged; rows are protected against other writers
// (S32). DueGrants sees all tenants, for the service itself.
type Grants interface {
	Atomic(ctx context.Context, fn func(ctx context.Context) error) error
	Budget(ctx context.Context, s access.Scope, name string) (Budget, error)
	PutBudget(ctx context.Context, b Budget, was int64) error
	Grant(ctx context.Context, s access.Scope, holder string) (Grant, error)
	GrantByCertificate(ctx context.Context, s access.Scope, id string) (Grant, error)
	PutGrant(ctx context.Context, g Grant, was int64) error
	// OpenGrants counts the grants of a budget that are reserved or pending.
	OpenGrants(ctx context.Context, s access.Scope, budget string) (int64, error)
	// DueGrants lists open grants that ended, the oldest first.
	DueGrants(ctx context.Context, now time.Time, limit int) ([]Grant, error)
	// NoteEvent notes that the event of a certificate is published now, unless it
	// was less than gap ago; it tells which. Of concurrent calls one is first.
	NoteEvent(ctx context.Context, tenant, certificate string, now time.Time, gap time.Duration) (first bool, err error)
}
