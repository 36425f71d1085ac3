package registry

import (
	"context"
	"errors"

	"hallmark/access"
	"hallmark/ca/profile"
	"hallmark/fleet"
)

// Released stands in [Thing.RegisteredBy] of a thing whose device left: it was
// released to another owner, reset, or taken out of use. Nothing of what the thing had
// is left but its name, its holder and its certificates, which let nobody in. A
// registration of that name finds it as if it were new.
const Released = "released"

// Transferred stands there for a device that this tenant accepted from another: its
// authority is not this tenant's.
const Transferred = "transferred"

// Retire empties a thing whose device leaves: groups, type, attributes, configuration
// and policies go. A certificate that acts for this thing alone is INACTIVE at least;
// one that acts for others too is taken from this thing. A birth certificate that was
// registered at the door is forgotten: it is all that the device has, and where the
// device belongs the door registers it anew.
func (r *Registry) Retire(ctx context.Context, s access.Scope, name fleet.ThingName) (err error) {
	for range maxTries {
		err = r.store.Atomic(ctx, func(ctx context.Context) error { return r.retire(ctx, s, name) })
		if !errors.Is(err, ErrThingChanged) && !errors.Is(err, ErrCertificateChanged) {
			break
		}
	}
	return err
}

func (r *Registry) retire(ctx context.Context, s access.Scope, name fleet.ThingName) error {
	have, err := r.store.Thing(ctx, s, name.Fold())
	if err != nil {
		return err
	}
	principals, err := r.store.ThingPrincipals(ctx, s, name.Fold())
	if err != nil {
		return err
	}
	for _, p := range principals {
		if p.Kind != Exclusive {
			if err := r.store.DropAttachment(ctx, s.Tenant, name.Fold(), p.Certificate); err != nil {
				return err
			}
			continue
		}
		policies, err := r.store.AttachedPolicies(ctx, s, CertificateTarget(p.Certificate))
		if err != nil {
			return err
		}
		for _, policy := range policies {
			if err := r.store.DetachPolicy(ctx, s.Tenant, CertificateTarget(p.Certificate), policy); err != nil {
				return err
			}
		}
		_, err = r.changeCertificate(ctx, s, p.Certificate, func(_ context.Context, c *Certificate) error {
			if c.Status.CanBecome(fleet.Inactive) {
				c.Status, c.TransferTo = fleet.Inactive, ""
			}
			return nil
		})
		if err == nil && p.Authority != "" && p.Profile == string(profile.IDevID) {
			if err = r.store.DropAttachment(ctx, s.Tenant, name.Fold(), p.Certificate); err == nil {
				err = r.store.DropCertificate(ctx, s.Tenant, p.Certificate)
			}
		}
		if err != nil {
			return err
		}
	}
	t := Thing{Tenant: have.Tenant, Name: have.Name, Holder: have.Holder, RegisteredBy: Released, Version: have.Version, CreatedAt: have.CreatedAt}
	if same(&have, &t) {
		return nil
	}
	t.Version, t.UpdatedAt = have.Version+1, r.stamp()
	return r.store.PutThing(ctx, t, have.Version)
}
