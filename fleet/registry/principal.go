package registry

import (
	"context"
	"errors"
	"time"

	"hallmark/access"
	"hallmark/ca"
	"hallmark/fleet"
)

// Kind says whether a certificate may act for other things too.
type Kind string

// The kinds, as on the wire.
const (
	Exclusive    Kind = "EXCLUSIVE_THING"
	NonExclusive Kind = "NON_EXCLUSIVE_THING"
)

// Principal is a certificate that acts for a thing.
type Principal struct {
	Tenant      string
	Thing       fleet.ThingName
	Certificate string // id
	Kind        Kind
	AttachedAt  time.Time

	// From the certificate; not stored with the attachment.
	Authority string // our own, "" for others
	Serial    ca.Serial
	Status    fleet.PrincipalStatus
	How       How
	NotAfter  time.Time
	Holder    string // folded
	Profile   string
	Slot      string
	Revoked   bool

	// For the index alone; see [KeyOf].
	Key     string
	KeyBits int
}

// Live tells whether the certificate could act for its thing now or after a
// proof of its key.
func (p *Principal) Live(now time.Time) bool {
	return !p.Revoked && now.Before(p.NotAfter) && (p.Status == fleet.Active || p.Status == fleet.PendingActivation)
}

// AttachmentStore persists which certificate acts for which thing. Contract: as
// of [Store]; PutAttachment changes the kind of one that exists, DropAttachment
// does nothing where there is none. CertificateThings and ThingPrincipals list
// in the order of attaching. Every change wakes [Registry.Changed].
type AttachmentStore interface {
	CertificateThings(ctx context.Context, s access.Scope, id string) ([]Principal, error)
	ThingPrincipals(ctx context.Context, s access.Scope, folded string) ([]Principal, error)
	PutAttachment(ctx context.Context, tenant, folded, id string, k Kind, at time.Time) error
	DropAttachment(ctx context.Context, tenant string, folded, id string) error
}

// Principals lists the certificates of a thing.
func (r *Registry) Principals(ctx context.Context, s access.Scope, name fleet.ThingName) ([]Principal, error) {
	return r.store.ThingPrincipals(ctx, s, name.Fold())
}

// CertificateThings lists the things of a certificate.
func (r *Registry) CertificateThings(ctx context.Context, s access.Scope, id string) ([]Principal, error) {
	return r.store.CertificateThings(ctx, s, id)
}

// ExclusiveThing finds the one thing that a certificate belongs to exclusively
// (S25); ErrPrincipalUnknown if there is none.
func (r *Registry) ExclusiveThing(ctx context.Context, s access.Scope, id string) (Principal, error) {
	all, err := r.store.CertificateThings(ctx, s, id)
	if err != nil {
		return Principal{}, err
	}
	if len(all) == 1 && all[0].Kind == Exclusive {
		return all[0], nil
	}
	return Principal{}, ErrPrincipalUnknown.New("")
}

// Principal finds the thing's side of a certificate of ours: its exclusive
// thing, or else the first that it was attached to.
func (r *Registry) Principal(ctx context.Context, s access.Scope, authority string, serial ca.Serial) (Principal, error) {
	c, err := r.store.CertificateBySerial(ctx, s, authority, serial)
	if errors.Is(err, ErrCertificateUnknown) {
		return Principal{}, ErrPrincipalUnknown.New("")
	}
	if err != nil {
		return Principal{}, err
	}
	all, err := r.store.CertificateThings(ctx, s, c.ID)
	if err == nil && len(all) == 0 {
		err = ErrPrincipalUnknown.New("")
	}
	if err != nil {
		return Principal{}, err
	}
	return all[0], nil
}

// Attach lets a certificate act for a thing. An exclusive one acts for no other.
// A thing with a live certificate of another device takes none of a third (S22),
// unless takeOver says that a person decided so.
func (r *Registry) Attach(ctx context.Context, s access.Scope, thing fleet.ThingName, id string, k Kind, takeOver bool) error {
	if k == "" {
		k = NonExclusive
	}
	if k != Exclusive && k != NonExclusive {
		return ErrPrincipalKind.New("%.40q", string(k))
	}
	return r.store.Atomic(ctx, func(ctx context.Context) error {
		t, err := r.exact(ctx, s, thing)
		if err != nil {
			return err
		}
		c, err := r.store.Certificate(ctx, s, id)
		if err != nil {
			return err
		}
		if c.Status == fleet.Revoked || c.Status == fleet.PendingTransfer || c.Revoked {
			return ErrPrincipalStatus.New("It is %s.", c.Status)
		}
		things, err := r.store.CertificateThings(ctx, s, id)
		if err != nil {
			return err
		}
		for _, p := range things {
			if p.Thing != t.Name && (k == Exclusive || p.Kind == Exclusive) {
				return ErrPrincipalBound.New("")
			}
		}
		if !takeOver {
			others, err := r.store.ThingPrincipals(ctx, s, t.Name.Fold())
			if err != nil {
				return err
			}
			for _, p := range others {
				if p.Certificate != id && p.Holder != c.Holder && p.Live(r.now()) {
					return ErrThingTaken.New("")
				}
			}
		}
		return r.store.PutAttachment(ctx, s.Tenant, t.Name.Fold(), id, k, r.stamp())
	})
}

// Detach ends that a certificate acts for a thing.
func (r *Registry) Detach(ctx context.Context, s access.Scope, thing fleet.ThingName, id string) error {
	return r.store.Atomic(ctx, func(ctx context.Context) error {
		t, err := r.exact(ctx, s, thing)
		if err != nil {
			return err
		}
		return r.store.DropAttachment(ctx, s.Tenant, t.Name.Fold(), id)
	})
}

// SetStatus changes the status of a certificate of ours by hand. It says what the
// runtime does with the certificate; taking the certificate away is revocation.
func (r *Registry) SetStatus(ctx context.Context, s access.Scope, authority string, serial ca.Serial, to fleet.PrincipalStatus) error {
	if to == fleet.PendingActivation || to == fleet.PendingTransfer {
		return ErrPrincipalStatus.New("Nobody sets %s.", to)
	}
	c, err := r.store.CertificateBySerial(ctx, s, authority, serial)
	if err == nil {
		_, err = r.SetCertificateStatus(ctx, s, c.ID, to)
	}
	return err
}

// Prove activates a pending certificate of ours after its key was proven by a
// connection (S15). It reports whether it was pending; another status stays.
func (r *Registry) Prove(ctx context.Context, s access.Scope, authority string, serial ca.Serial) (changed bool, err error) {
	c, err := r.store.CertificateBySerial(ctx, s, authority, serial)
	if err != nil {
		return false, err
	}
	_, err = r.changeCertificate(ctx, s, c.ID, func(_ context.Context, c *Certificate) error {
		if changed = c.Status == fleet.PendingActivation && !c.Revoked; changed {
			c.Status = fleet.Active
		}
		return nil
	})
	return changed && err == nil, err
}
