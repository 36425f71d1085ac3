package registry

import (
	"context"
	"errors"

	"hallmark/access"
	"hallmark/fleet"
)

// ReEnter lets a new certificate of ours take the place of one that has expired:
// it acts for the same things, in quarantine, with one policy and nothing that the
// old one or the groups of its things had. Asked again for the same certificate it
// gives what is there.
func (r *Registry) ReEnter(ctx context.Context, s access.Scope, old string, at Attachment, quarantine string) (thing Thing, p Principal, err error) {
	at.How = HowDarkLane
	for range 8 {
		thing, p, err = r.reenter(ctx, s, old, at, quarantine)
		if !errors.Is(err, ErrCertificateChanged) {
			break
		}
	}
	return thing, p, err
}

func (r *Registry) reenter(ctx context.Context, s access.Scope, old string, at Attachment, quarantine string) (thing Thing, p Principal, err error) {
	err = r.store.Atomic(ctx, func(ctx context.Context) error {
		before, err := r.store.Certificate(ctx, s, old)
		if err != nil {
			return err
		}
		if before.Status != fleet.Active || before.Revoked || r.now().Before(before.NotAfter) {
			return ErrPrincipalStatus.New("The certificate that comes back is %s until %s.", before.Status, before.NotAfter)
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
			return ErrPrincipalBound.New("")
		}
		have, err := r.store.CertificateThings(ctx, s, c.ID)
		if err != nil {
			return err
		}
		if len(have) == 0 { // else an administrator decides what it acts for, and may do
			for _, t := range things {
				if err := r.store.PutAttachment(ctx, s.Tenant, t.Thing.Fold(), c.ID, t.Kind, r.stamp()); err != nil {
					return err
				}
			}
			if err := r.attachPolicy(ctx, s, CertificateTarget(c.ID), quarantine); err != nil {
				return err
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
