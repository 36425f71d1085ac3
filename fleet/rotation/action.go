package rotation

import (
	"context"
	"encoding/json"
	"strings"
	"time"

	"hallmark/access"
	"hallmark/fleet"
	"hallmark/fleet/campaign"
	"hallmark/fleet/presence"
	"hallmark/fleet/registry"
)

// Why a device is left alone.
const (
	skipNone      = "no-certificate"
	skipForeign   = "foreign-ca"
	skipNew       = "already-new"
	skipLater     = "expires-later"
	skipAuthority = "other-authority"
	skipAlgorithm = "already-algorithm"
)

// Wants implements [campaign.Action].
func (s *Service) Wants(ctx context.Context, c *campaign.Campaign, thing fleet.ThingName) (campaign.Want, error) {
	scope := access.Scope{Tenant: c.Tenant}
	p, err := parse(c.Parameters)
	if err != nil {
		return campaign.Want{}, err
	}
	l, err := s.look(ctx, scope, thing)
	if err != nil {
		return campaign.Want{}, err
	}
	a := l.current()
	switch {
	case a == nil && l.others > 0:
		return campaign.Want{Skip: skipForeign, Words: "Another CA issued its certificate."}, nil
	case a == nil:
		return campaign.Want{Skip: skipNone, Words: "It has no operational certificate that lets it in."}, nil
	}
	w := campaign.Want{Before: a.Certificate}
	cert, err := s.cfg.Registry.Certificate(ctx, scope, a.Certificate)
	if err != nil {
		return w, err
	}
	w.Skip, w.Words = p.unwanted(&cert, c.Reason, l.now)
	return w, nil
}

// unwanted says why a certificate stays.
func (p *Parameters) unwanted(c *registry.Certificate, why campaign.Reason, now time.Time) (code, words string) {
	switch {
	case p.Authority != "" && c.Authority != p.Authority:
		return skipAuthority, "The authority " + c.Authority + " issued its certificate."
	case !p.IssuedBefore.IsZero() && !c.RegisteredAt.Before(p.IssuedBefore):
		return skipNew, "Its certificate is of " + c.RegisteredAt.Format(time.RFC3339) + "."
	case p.ExpiresWithinSeconds > 0 && c.NotAfter.After(now.Add(time.Duration(p.ExpiresWithinSeconds)*time.Second)):
		return skipLater, "Its certificate is good until " + c.NotAfter.Format(time.RFC3339) + "."
	case why == campaign.Algorithm && keyOf(c) == p.Algorithm:
		return skipAlgorithm, "Its key is " + p.Algorithm + " already."
	}
	return "", ""
}

// keyOf names the key of a certificate as [Parameters.Algorithm] does.
func keyOf(c *registry.Certificate) string {
	name, _ := registry.KeyOf(c.DER)
	return name
}

// The topics of renewal. THING stands for the thing's own name, in the job document
// too, which is the same for all devices.
const (
	RenewTopic  = "$hallmark/things/THING/certificate/renew"
	RenewFilter = "$hallmark/things/+/certificate/renew"
	renewPath   = "/bootstrap/v1/register"
)

type document struct {
	Operation string          `json:"operation"`
	Version   int             `json:"version"`
	Campaign  string          `json:"campaign"`
	Reason    campaign.Reason `json:"reason"`
	Undo      bool            `json:"undo,omitempty"`
	Key       *wantedKey      `json:"key,omitempty"`
	Renew     *renewAt        `json:"renew,omitempty"`
	Connect   *connectWith    `json:"connect,omitempty"`
}

type wantedKey struct {
	Algorithm string `json:"algorithm"`
}

type renewAt struct {
	MQTT  string `json:"mqtt"`
	HTTPS string `json:"https,omitempty"`
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
	d := document{Operation: string(campaign.Rotate), Version: 1, Campaign: c.ID, Reason: c.Reason, Undo: undo}
	if !undo {
		d.Renew = &renewAt{MQTT: RenewTopic}
		if s.cfg.HTTPS != nil {
			if url := s.cfg.HTTPS(); url != "" {
				d.Renew.HTTPS = strings.TrimSuffix(url, "/") + renewPath
			}
		}
		if p.Algorithm != "" {
			d.Key = &wantedKey{p.Algorithm}
		}
		d.Connect = &connectWith{p.ConnectAttempts, p.ConnectSeconds}
	}
	out, err := json.Marshal(d)
	return string(out), err
}

// made gives B: the certificate that the device says it has, if it is its own, else
// the latest that it got after A.
func (l *look) made(m *campaign.Member, said string) *registry.Principal {
	if said = strings.ToLower(said); said != "" {
		if said == m.Before {
			return nil
		}
		return l.find(said)
	}
	a := l.find(m.Before)
	for i := len(l.own) - 1; i >= 0; i-- {
		if p := &l.own[i]; p.Certificate != m.Before && !p.Revoked && (a == nil || p.AttachedAt.After(a.AttachedAt)) {
			return p
		}
	}
	return nil
}

// Judge implements [campaign.Action]: what the device said counts for nothing but to
// tell which certificate it means.
func (s *Service) Judge(ctx context.Context, c *campaign.Campaign, m *campaign.Member, r campaign.Report) (campaign.Verdict, error) {
	l, err := s.look(ctx, access.Scope{Tenant: c.Tenant}, m.Thing)
	if err != nil {
		return campaign.Wait(), err
	}
	if m.State == campaign.Soaking {
		return l.soaks(c, m), nil
	}
	b := l.made(m, r.Details["certificateId"])
	switch {
	case b == nil:
		return campaign.Wait(), nil
	case b.Revoked || b.Status == fleet.Revoked:
		return campaign.Fail("certificate-revoked", "The new certificate is revoked or on hold."), nil
	case b.Status == fleet.Active && b.Live(l.now) && l.seenSince(b.Certificate, m.Offered):
		return campaign.Proven(b.Certificate), nil
	}
	if n := l.newer(b.Certificate, m.Offered); n != nil && n.Certificate != m.Before {
		return campaign.Proven(n.Certificate), nil
	}
	return campaign.Wait(), nil
}

// newer gives the certificate that the device uses, if it got it after another: by its
// birth certificate for instance, after its clock was wrong. What it uses counts.
func (l *look) newer(than string, since time.Time) *registry.Principal {
	a, n := l.find(than), l.current()
	if a == nil || n == nil || !n.AttachedAt.After(a.AttachedAt) || n.Status != fleet.Active || !l.seenSince(n.Certificate, since) {
		return nil
	}
	return n
}

// soaks judges a device whose B was seen, until A may go.
func (l *look) soaks(c *campaign.Campaign, m *campaign.Member) campaign.Verdict {
	over := !l.now.Before(m.Since.Add(c.Soak))
	if n := l.newer(m.After, m.Since); n != nil && n.Certificate != m.Before {
		return campaign.Proven(n.Certificate)
	}
	switch {
	case !l.lives(m.After):
		return campaign.Fail("certificate-lost", "The new certificate was revoked, switched off or taken from the thing in the soak.")
	case l.seenSince(m.After, m.Since) && !l.onlyWith(m.Before, m.After):
		return campaign.Proven(m.After)
	case over && l.onlyWith(m.Before, m.After):
		return campaign.Fail("fell-back", "It went back to the old certificate.")
	}
	return campaign.Wait()
}

// onlyWith tells whether the device is connected with one certificate and not with
// another, or speaks over HTTPS with the one and has left the other.
func (l *look) onlyWith(one, other string) bool {
	if l.connected(one) || l.connected(other) {
		return !l.connected(other)
	}
	var used, left time.Time
	for i := range l.seen {
		switch v := &l.seen[i]; {
		case v.Certificate == one && v.Client == "":
			used = v.At
		case v.Certificate == other && v.At.After(left):
			left = v.At
		}
	}
	// A request is noted as one of its minute: only what is a minute apart is in order.
	return used.Sub(left) > presence.UseEvery
}
