package registry

import (
	"context"
	"errors"

	"hallmark/access"
)

// Renew lets a new certificate of ours stand beside the one that it renews: it
// acts for the same things in the same way, with the policies that are attached
// to the old one now. Nothing else changes, and what an administrator took from
// the old one does not come back. Asked again for the same certificate it gives
// what is there.
func (r *Registry) Renew(ctx context.Context, s access.Scope, old string, at Attachment) (thing Thing, p Principal, err error) {
	for range 8 {
		thing, p, err = r.renew(ctx, s, old, at)
		if !errors.Is(err, ErrCertificateChanged) {
			break
		}
	}
	return thing, p, err
}

func (r *Registry) renew(ctx context.Context, s access.Scope, old string, at Attachment) (thing Thing, p Principal, err error) {
	err = r.store.Atomic(ctx, func(ctx context.Context) error {
		before, err := r.store.Certificate(ctx, s, old)
		if err != nil {
			return err
		}
		if !before.Usable(r.now()) {
			return ErrPrincipalStatus.New("The certificate to renew is %s.", before.Status)
		}
		things, err := r.store.CertificateThings(ctx, s, old)
		if err != nil {
			return err
		}
		if len(things) == 0 {
			return ErrPrincipalUnknown.New("")
		}
		if thing, err = r.store.Thing(ctx, s, things[0].Thing.Fold()); err != nil {
			return err
		}
		c, err := r.certificateFor(ctx, s, &at)
		if err != nil {
			return err
		}
		if c.Holder != before.Holder || c.ID == old {
			return ErrPrincipalBound.New("") // renewing is for the same device only
		}
		have, err := r.store.CertificateThings(ctx, s, c.ID)
		if err != nil {
			return err
		}
		if len(have) == 0 { // else an administrator decides what it acts for
			for _, t := range things {
				if err := r.store.PutAttachment(ctx, s.Tenant, t.Thing.Fold(), c.ID, t.Kind, r.stamp()); err != nil {
					return err
				}
			}
			policies, err := r.store.AttachedPolicies(ctx, s, CertificateTarget(old))
			if err != nil {
				return err
			}
			for _, name := range policies {
				if err := r.attachPolicy(ctx, s, CertificateTarget(c.ID), name); err != nil {
					return err
				}
			}
			if have, err = r.store.CertificateThings(ctx, s, c.ID); err != nil {
				return err
			}
		}
		p = have[0]
		return nil
	})
	return thing, p, err
}
