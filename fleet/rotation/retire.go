package rotation

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"hallmark/access"
	"hallmark/crl"
	"hallmark/fleet"
	"hallmark/fleet/campaign"
	"hallmark/fleet/registry"
)

// Finish implements [campaign.Action]: A is retired.
func (s *Service) Finish(ctx context.Context, c *campaign.Campaign, m *campaign.Member) error {
	l, err := s.look(ctx, access.Scope{Tenant: c.Tenant}, m.Thing)
	if err != nil {
		return err
	}
	// The engine asked a moment ago; this is the last look before the one step that
	// cannot be taken back.
	if !l.lives(m.After) || m.After == m.Before || !l.seenSince(m.After, m.Since) {
		return ErrUnproven.New("Certificate %.16s of %s.", m.After, m.Thing)
	}
	a := l.find(m.Before)
	if a == nil {
		return nil // it is not the device's any more, or never was ours
	}
	if err := s.withdraw(ctx, c, a, crl.Superseded, "rotated"); err != nil {
		return err
	}
	return s.note(ctx, c, m, Retired, m.Before, "")
}

// withdraw revokes or holds a certificate. What is revoked already stays as it is.
func (s *Service) withdraw(ctx context.Context, c *campaign.Campaign, p *registry.Principal, r crl.Reason, words string) error {
	return s.revoke(ctx, c.Tenant, p, r, fmt.Sprintf("campaign %s: %s", c.ID, words))
}

func (s *Service) revoke(ctx context.Context, tenant string, p *registry.Principal, r crl.Reason, note string) error {
	_, err := s.cfg.Revoker.Revoke(ctx, Actor(tenant), crl.Withdrawal{Authority: p.Authority, Serial: p.Serial, Reason: r, Note: note})
	if errors.Is(err, crl.ErrRevoked) || errors.Is(err, crl.ErrWeaken) {
		return nil
	}
	return err
}

// Lost implements [campaign.Loser]: B of a device that did not make it is put on
// hold, so that at most A is live. It stays if it is all that the device has, or if
// the device was seen with it.
func (s *Service) Lost(ctx context.Context, c *campaign.Campaign, m *campaign.Member, state campaign.MemberState) error {
	l, err := s.look(ctx, access.Scope{Tenant: c.Tenant}, m.Thing)
	if err != nil {
		return err
	}
	b := l.find(m.After)
	if m.After == "" {
		b = l.madeIn(m, m.Offered, l.now)
	}
	switch {
	case b == nil || b.Certificate == m.Before || b.Revoked || b.Status == fleet.Revoked:
		return nil
	case !l.lives(m.Before):
		return s.note(ctx, c, m, Kept, b.Certificate, "The old certificate lets it in no more, so the new one stays.")
	case m.After != "" || l.seenSince(b.Certificate, m.Offered):
		return s.note(ctx, c, m, Kept, b.Certificate, "It was connected with both, so both stay.")
	}
	if err := s.withdraw(ctx, c, b, crl.CertificateHold, "never confirmed, "+string(state)); err != nil {
		return err
	}
	return s.note(ctx, c, m, Held, b.Certificate, "It was not confirmed: "+string(state)+".")
}

// Reversible implements [campaign.Reverser]: there is a way back while A lives.
func (s *Service) Reversible(ctx context.Context, c *campaign.Campaign, m *campaign.Member) (bool, error) {
	l, err := s.look(ctx, access.Scope{Tenant: c.Tenant}, m.Thing)
	return err == nil && l.lives(m.Before), err
}

// Undo implements [campaign.Action]: the device went back to A. B is revoked if the
// device was seen with A since it was told to, else put on hold; and it stays where A
// lets nobody in.
func (s *Service) Undo(ctx context.Context, c *campaign.Campaign, m *campaign.Member) error {
	l, err := s.look(ctx, access.Scope{Tenant: c.Tenant}, m.Thing)
	if err != nil {
		return err
	}
	b := l.find(m.After)
	if m.After == "" {
		from, to, err := s.attempt(ctx, c, m)
		if err != nil {
			return err
		}
		b = l.madeIn(m, from, to)
	}
	switch {
	case b == nil || b.Certificate == m.Before || b.Status == fleet.Revoked:
		return nil
	case !l.lives(m.Before):
		return s.note(ctx, c, m, Kept, b.Certificate, "The old certificate lets it in no more, so the new one stays.")
	}
	reason, what := crl.CertificateHold, Held
	if l.seenSince(m.Before, m.Offered) && !l.connected(b.Certificate) {
		reason, what = crl.Superseded, Undone
	}
	if err := s.withdraw(ctx, c, b, reason, "rolled back"); err != nil {
		return err
	}
	return s.note(ctx, c, m, what, b.Certificate, "It was rolled back.")
}

// madeIn gives the latest certificate that the device got in a time. What it got by
// itself before or later is nothing that a campaign may take from it.
func (l *look) madeIn(m *campaign.Member, from, to time.Time) *registry.Principal {
	for i := range slices.Backward(l.own) {
		p := &l.own[i]
		if p.Certificate != m.Before && !p.Revoked && !p.AttachedAt.Before(from) && !p.AttachedAt.After(to) {
			return p
		}
	}
	return nil
}

// attempt gives the time of a member's last attempt: from the offer until it ended, or
// until the device was told to take it back.
func (s *Service) attempt(ctx context.Context, c *campaign.Campaign, m *campaign.Member) (from, to time.Time, err error) {
	for last := (campaign.Step{}); ; {
		steps, err := s.cfg.Store.Steps(ctx, access.Scope{Tenant: c.Tenant}, m.Thing, last, campaign.MaxPage)
		if err != nil {
			return from, to, err
		}
		for _, v := range steps {
			last = v
			switch {
			case v.Campaign != c.ID:
			case v.State == campaign.Offered:
				from, to = v.At, time.Time{}
			case !from.IsZero() && to.IsZero() && (v.State.Bad() || v.State == campaign.Waiting || v.State == campaign.Undoing):
				to = v.At
			}
		}
		if len(steps) < campaign.MaxPage {
			break
		}
	}
	if !from.IsZero() && to.IsZero() {
		to = s.clock()
	}
	return from, to, nil
}
