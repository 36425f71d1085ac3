package rotation

import (
	"context"
	"time"

	"hallmark/access"
	"hallmark/fleet"
	"hallmark/fleet/campaign"
)

// What became of a certificate.
type What string

// The outcomes.
const (
	Renewed What = "renewed" // the device got it
	Retired What = "retired" // revoked, since its successor proved itself
	Held    What = "held"    // put on hold, since it did not prove itself
	Kept    What = "kept"    // would have been held, and is all that the device has
	Undone  What = "undone"  // revoked, since the device went back
)

// Event is what was done with a certificate of a device, kept for ever.
type Event struct {
	Tenant      string
	Thing       fleet.ThingName
	At          time.Time
	What        What
	Certificate string // id
	Before      string // of Renewed: the one with which the device asked
	Campaign    string // "" for what the device did by itself
	Reason      campaign.Reason
	Detail      string
}

// Store persists what rotation keeps. Contract: each method is one transaction or
// joins that of ctx. AddRotationEvent does nothing if the thing has the event for that
// campaign and certificate already; RotationEvents gives a thing's in the order of
// time, the latest limit of them.
type Store interface {
	AddRotationEvent(ctx context.Context, e Event) error
	RotationEvents(ctx context.Context, s access.Scope, thing fleet.ThingName, limit int) ([]Event, error)
	// Steps is as that of [campaign.Store].
	Steps(ctx context.Context, s access.Scope, thing fleet.ThingName, after campaign.Step, limit int) ([]campaign.Step, error)
	// Expiring lists the certificates in use of a tenant that end after now and not
	// after until, and have no successor in use that ends later and after until; in
	// the order of their end, after one. It looks at limit certificates, of which last
	// is the last; more says that there may be others.
	Expiring(ctx context.Context, s access.Scope, now, until time.Time, after Due, limit int) (due []Due, last Due, more bool, err error)
	// PutRenewal writes a thing's renewal unless it has a newer one; DropRenewal removes
	// it if it is still about that new certificate. DueRenewals lists those of all
	// tenants whose look is due, the longest due first.
	PutRenewal(ctx context.Context, r Renewal) error
	DropRenewal(ctx context.Context, r Renewal) error
	DueRenewals(ctx context.Context, now time.Time, limit int) ([]Renewal, error)
}

func (s *Service) note(ctx context.Context, c *campaign.Campaign, m *campaign.Member, what What, certificate, detail string) error {
	s.totals.happened(what)
	s.log.InfoContext(ctx, "certificate rotation", "tenant", c.Tenant, "campaign", c.ID, "thing", string(m.Thing), "what", string(what), "certificate", certificate)
	return s.cfg.Store.AddRotationEvent(ctx, Event{Tenant: c.Tenant, Thing: m.Thing, At: s.clock(), What: what, Certificate: certificate, Campaign: c.ID, Reason: c.Reason, Detail: detail})
}

// Renewed keeps that a device got a certificate; by says over what. If it asked with an
// operational one, that is retired once the new one proved itself, see [Service.Settle].
func (s *Service) Renewed(ctx context.Context, tenant string, thing fleet.ThingName, before, certificate, by string) error {
	s.totals.happened(Renewed)
	reason, operational := s.why(ctx, tenant, before)
	now := s.clock()
	if err := s.cfg.Store.AddRotationEvent(ctx, Event{Tenant: tenant, Thing: thing, At: now, What: Renewed, Certificate: certificate, Before: before, Reason: reason, Detail: by}); err != nil || !operational {
		return err
	}
	return s.cfg.Store.PutRenewal(ctx, Renewal{Tenant: tenant, Thing: thing, Before: before, After: certificate, Reason: reason, At: now, Due: now.Add(settleSoonest)})
}

// History lists what was done with the certificates of a thing.
func (s *Service) History(ctx context.Context, scope access.Scope, thing fleet.ThingName, limit int) ([]Event, error) {
	return s.cfg.Store.RotationEvents(ctx, scope, thing, limit)
}
