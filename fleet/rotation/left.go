package rotation

import (
	"context"
	"errors"

	"hallmark/access"
	"hallmark/ca/profile"
	"hallmark/fleet"
	"hallmark/fleet/campaign"
	"hallmark/fleet/registry"
)

// Why a campaign ends for a device that is under way.
const (
	leftGone    = "thing-gone"
	leftDevice  = "device-left"
	leftRevoked = "certificates-revoked"
)

var _ campaign.Leaver = (*Service)(nil)

// Left implements [campaign.Leaver]. A device on hold may come back, and so may one whose
// certificate has ended; with a birth certificate alone it gets another one, and there is
// nothing left to replace.
func (s *Service) Left(ctx context.Context, c *campaign.Campaign, thing fleet.ThingName) (code, words string, err error) {
	scope := access.Scope{Tenant: c.Tenant}
	all, err := s.cfg.Registry.Principals(ctx, scope, thing)
	if err != nil {
		return "", "", err
	}
	now, revoked, other := s.clock(), 0, 0
	for i := range all {
		switch p := &all[i]; {
		case p.Live(now) && p.Profile != string(profile.IDevID):
			return "", "", nil
		case p.Profile == string(profile.IDevID):
		case p.Status == fleet.Revoked:
			revoked++
		default:
			other++
		}
	}
	t, err := s.cfg.Registry.Get(ctx, scope, thing)
	switch {
	case errors.Is(err, registry.ErrThingUnknown):
		return leftGone, "The thing was removed.", nil
	case err != nil:
		return "", "", err
	case t.RegisteredBy == registry.Released:
		return leftDevice, "Its device was released, reset or taken out of use.", nil
	case revoked > 0 && other == 0:
		return leftRevoked, "All its operational certificates are revoked.", nil
	}
	return "", "", nil
}
