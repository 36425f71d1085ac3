package trust

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"

	"hallmark/access"
	"hallmark/fleet"
	"hallmark/fleet/campaign"
)

// Why a device is left alone.
const (
	skipNone    = "no-certificate"
	skipTrusted = "already-trusted"
	skipFirst   = "not-confirmed"
)

// Wants implements [campaign.Action].
func (s *Service) Wants(ctx context.Context, c *campaign.Campaign, thing fleet.ThingName) (campaign.Want, error) {
	scope := access.Scope{Tenant: c.Tenant}
	p, err := parse(c.Parameters)
	if err != nil {
		return campaign.Want{}, err
	}
	all, err := s.cfg.Registry.Principals(ctx, scope, thing)
	if err != nil {
		return campaign.Want{}, err
	}
	live := false
	for i := range all {
		live = live || all[i].Live(s.clock())
	}
	if !live {
		return campaign.Want{Skip: skipNone, Words: "It has no certificate that lets it in."}, nil
	}
	b, err := s.store.Bundle(ctx, scope, thing)
	if err != nil && !errors.Is(err, ErrUnknown) {
		return campaign.Want{}, err
	}
	w := campaign.Want{}
	if err == nil {
		w.Before = b.ID()
	}
	switch {
	case len(p.Requires) > 0 && !b.trusts(p.Requires, nil):
		w.Skip, w.Words = skipFirst, "It has not confirmed yet that it trusts what it is to be left with."
	case b.trusts(p.added(), p.Remove) && (p.Endpoint.MQTT == "" || p.Endpoint.MQTT == b.Endpoint) && p.Endpoint.HTTPS == "":
		w.Skip, w.Words = skipTrusted, "It confirmed that already, in "+b.Campaign+"."
	}
	return w, nil
}

type document struct {
	Operation string       `json:"operation"`
	Version   int          `json:"version"`
	Campaign  string       `json:"campaign"`
	Undo      bool         `json:"undo,omitempty"`
	Add       []string     `json:"add,omitempty"`
	Remove    []string     `json:"remove,omitempty"`
	Endpoint  *Endpoint    `json:"endpoint,omitempty"`
	Connect   *connectWith `json:"connect,omitempty"`
}

type connectWith struct {
	Attempts int `json:"attempts"`
	Seconds  int `json:"seconds"`
}

// Document implements [campaign.Action].
func (s *Service) Document(_ context.Context, c *campaign.Campaign, undo bool) (string, error) {
	p, err := parse(c.Parameters)
	if err != nil {
		return "", err
	}
	d := document{Operation: string(campaign.Trust), Version: 1, Campaign: c.ID, Undo: undo, Connect: &connectWith{p.ConnectAttempts, p.ConnectSeconds}}
	if !undo {
		if d.Add, d.Remove = p.Add, p.Remove; p.Endpoint != (Endpoint{}) {
			d.Endpoint = &p.Endpoint
		}
	}
	out, err := json.Marshal(d)
	return string(out), err
}

// said is what a device says it trusts: the roots, which have to make the bundle. One
// that names only the bundle is understood where it is known what it had.
func (s *Service) said(ctx context.Context, c *campaign.Campaign, p *Parameters, m *campaign.Member, details map[string]string) (roots []string, err error) {
	if text := details["roots"]; text != "" {
		roots = strings.Split(strings.ToLower(text), ",")
	} else {
		b, err := s.store.Bundle(ctx, access.Scope{Tenant: c.Tenant}, m.Thing)
		if err != nil && !errors.Is(err, ErrUnknown) {
			return nil, err
		}
		for _, r := range append(b.Roots, p.added()...) {
			if !slices.Contains(p.Remove, r) {
				roots = append(roots, r)
			}
		}
	}
	slices.Sort(roots)
	roots = slices.Compact(roots)
	if id, ok := fleet.BundleID(roots); !ok || id != strings.ToLower(details["bundle"]) || len(roots) > maxRoots {
		return nil, nil
	}
	return roots, nil
}

// Judge implements [campaign.Action]: the device's words have to fit, and it has to
// have connected anew since it began, which it does with the new bundle.
func (s *Service) Judge(ctx context.Context, c *campaign.Campaign, m *campaign.Member, r campaign.Report) (campaign.Verdict, error) {
	since := m.Offered
	if m.Began.After(since) { // a sleeper came back between the two, with its old bundle
		since = m.Began
	}
	if m.State == campaign.Soaking {
		since = m.Since
	}
	seen, err := s.cfg.Presence.Presence(ctx, access.Scope{Tenant: c.Tenant}, m.Thing)
	if err != nil {
		return campaign.Wait(), err
	}
	anew := false
	for _, v := range seen {
		anew = anew || !v.At.Before(since) || v.Connected && m.State == campaign.Soaking
	}
	if m.State == campaign.Soaking {
		if anew {
			return campaign.Proven(m.After), nil
		}
		return campaign.Wait(), nil
	}
	p, err := parse(c.Parameters)
	if err != nil {
		return campaign.Wait(), err
	}
	roots, err := s.said(ctx, c, &p, m, r.Details)
	if err != nil {
		return campaign.Wait(), err
	}
	if roots == nil {
		return campaign.Fail("bundle-unknown", "The bundle that it names is not made of the roots that it names."), nil
	}
	for _, id := range p.added() {
		if !slices.Contains(roots, id) {
			return campaign.Fail("root-missing", "It does not trust "+id[:16]+", which was to be added."), nil
		}
	}
	for _, id := range p.Remove {
		if slices.Contains(roots, id) {
			return campaign.Fail("root-kept", "It still trusts "+id[:16]+", which was to be removed."), nil
		}
	}
	at := r.Details["endpoint"]
	if want := p.Endpoint.MQTT; want != "" && at != want {
		return campaign.Fail("endpoint-other", "It does not say that it moved to "+want+"."), nil
	}
	if !anew {
		return campaign.Wait(), nil
	}
	b := Bundle{Tenant: c.Tenant, Thing: m.Thing, Roots: roots, Endpoint: at, Campaign: c.ID, SeenAt: s.clock()}
	if err := s.store.PutBundle(ctx, b); err != nil {
		return campaign.Wait(), err
	}
	return campaign.Proven(b.ID()), nil
}

// Finish implements [campaign.Action]: from now on it counts as confirmed.
func (s *Service) Finish(ctx context.Context, c *campaign.Campaign, m *campaign.Member) error {
	b, err := s.store.Bundle(ctx, access.Scope{Tenant: c.Tenant}, m.Thing)
	if errors.Is(err, ErrUnknown) || err == nil && b.Campaign != c.ID {
		return nil // a later change of the same device
	}
	if err != nil || !b.ConfirmedAt.IsZero() {
		return err
	}
	b.ConfirmedAt = s.clock()
	s.log.InfoContext(ctx, "a device confirmed its trust bundle", "tenant", c.Tenant, "campaign", c.ID, "thing", string(m.Thing), "bundle", b.ID())
	return s.store.PutBundle(ctx, b)
}

// Lost implements [campaign.Loser]: what was seen of a device that did not make it is
// not known any more.
func (s *Service) Lost(ctx context.Context, c *campaign.Campaign, m *campaign.Member, _ campaign.MemberState) error {
	return s.drop(ctx, c, m)
}

// Reversible implements [campaign.Reverser]: a device keeps the bundle before.
func (s *Service) Reversible(context.Context, *campaign.Campaign, *campaign.Member) (bool, error) {
	return true, nil
}

// Undo implements [campaign.Action]: what it trusts now is what it had, of which this
// service may know nothing.
func (s *Service) Undo(ctx context.Context, c *campaign.Campaign, m *campaign.Member) error {
	return s.drop(ctx, c, m)
}

// drop forgets what a campaign made of a thing's bundle.
func (s *Service) drop(ctx context.Context, c *campaign.Campaign, m *campaign.Member) error {
	scope := access.Scope{Tenant: c.Tenant}
	b, err := s.store.Bundle(ctx, scope, m.Thing)
	if errors.Is(err, ErrUnknown) || err == nil && b.Campaign != c.ID {
		return nil
	}
	if err == nil {
		err = s.store.DropBundle(ctx, c.Tenant, m.Thing)
	}
	return err
}
