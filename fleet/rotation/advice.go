package rotation

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"slices"
	"sync"
	"time"

	"hallmark/access"
	"hallmark/ca"
	"hallmark/ca/profile"
	"hallmark/fleet/campaign"
	"hallmark/internal/fault"
)

// Advice is when a device is to renew a certificate, and why then.
type Advice struct {
	Window
	Reason campaign.Reason // expiry, rollover or compromise
	// Explanation is a page for people, as explanationURL of RFC 9773, Section 4.2;
	// "" if none is configured.
	Explanation string
}

// Leavers knows the authorities that leave; the store does.
type Leavers interface {
	Ends(ctx context.Context, s access.Scope) ([]ca.End, error)
}

// Incidents knows which certificates are being rotated away; [crl.Blast] does.
type Incidents interface {
	// Rotating tells since when two people's decision stands to rotate a certificate
	// away; zero for none.
	Rotating(ctx context.Context, s access.Scope, authority string, serial ca.Serial) (since time.Time, err error)
}

const (
	defaultSpread = 7 * 24 * time.Hour
	// moved is how often whoever has a window that was moved is to ask again.
	moved = time.Hour
	// leaversFor is how long the authorities that leave are believed.
	leaversFor = time.Minute
)

// Advise gives the window of a certificate of ours. It is earlier than the usual one
// where its authority is being replaced, spread over a fleet, and at once where the
// certificate is being rotated away since it is compromised.
func (s *Service) Advise(ctx context.Context, tenant, authority string, c *x509.Certificate) (Advice, error) {
	fingerprint := sha256.Sum256(c.Raw)
	a := Advice{Window: WindowOf(fingerprint, c.NotBefore, c.NotAfter), Reason: campaign.Expiry}
	scope := access.Scope{Tenant: tenant}
	serial, ok := ca.SerialFromInt(c.SerialNumber)
	if s.cfg.Incidents != nil && ok {
		since, err := s.cfg.Incidents.Rotating(ctx, scope, authority, serial)
		if err != nil {
			return a, err
		}
		if !since.IsZero() {
			a.Window, a.Reason = Window{since.UTC().Truncate(time.Second), since.UTC().Truncate(time.Second).Add(time.Minute)}, campaign.Compromise
		}
	}
	if s.cfg.Leavers != nil && a.Reason == campaign.Expiry {
		since, reason, err := s.leaving(ctx, scope, authority)
		if err != nil {
			return a, err
		}
		if w := s.spread(fingerprint, since, c.NotAfter); !since.IsZero() && w.Start.Before(a.Start) {
			a.Window, a.Reason = w, reason
		}
	}
	if s.cfg.Explain != "" {
		a.Explanation = s.cfg.Explain + string(a.Reason)
	}
	return a, nil
}

// spread is the window of a certificate whose authority leaves since a time: a
// fiftieth of the spread, at the certificate's own place, and well before its end.
func (s *Service) spread(fingerprint [32]byte, since, notAfter time.Time) Window {
	over := s.cfg.Rules.Spread
	if over <= 0 {
		over = defaultSpread
	}
	if left := notAfter.Sub(since) / 2; over > left {
		over = max(left, time.Minute)
	}
	long := over / 50
	start := since.Add(time.Duration(place(fingerprint) * float64(over-long))).UTC().Truncate(time.Second)
	return Window{start, start.Add(max(long, time.Second)).Truncate(time.Second)}
}

// Again is how long a device should wait before it asks for its window again. One
// that was moved is near, and may be moved again.
func (a *Advice) Again(now time.Time) time.Duration {
	d := a.Window.Again(now)
	if a.Reason != campaign.Expiry {
		d = min(d, moved)
	}
	return d
}

// leavers is what is known of the authorities that leave, by tenant.
type leavers struct {
	mu   sync.Mutex
	ends map[string][]ca.End
	at   map[string]time.Time
}

// leaving tells since when an authority leaves, zero if it does not, and what that is
// to its certificates.
func (s *Service) leaving(ctx context.Context, scope access.Scope, authority string) (since time.Time, reason campaign.Reason, err error) {
	now := s.now()
	s.leavers.mu.Lock()
	ends, at := s.leavers.ends[scope.Tenant], s.leavers.at[scope.Tenant]
	s.leavers.mu.Unlock()
	if d := now.Sub(at); at.IsZero() || d >= leaversFor || d < 0 {
		if ends, err = s.cfg.Leavers.Ends(ctx, scope); err != nil {
			return time.Time{}, "", err
		}
		s.leavers.mu.Lock()
		if s.leavers.ends == nil {
			s.leavers.ends, s.leavers.at = map[string][]ca.End{}, map[string]time.Time{}
		}
		s.leavers.ends[scope.Tenant], s.leavers.at[scope.Tenant] = ends, now
		s.leavers.mu.Unlock()
	}
	i := slices.IndexFunc(ends, func(e ca.End) bool { return e.Authority == authority })
	if i < 0 || len(ends[i].Steps) == 0 {
		return time.Time{}, "", nil
	}
	reason = campaign.Rollover
	if ends[i].Stage == ca.EndRevoked {
		reason = campaign.Compromise
	}
	return ends[i].Steps[0].At, reason, nil
}

// why is the reason of a renewal that a device began by itself: that of its window, if
// it has begun. It also tells whether the device asked with an operational certificate
// of ours.
func (s *Service) why(ctx context.Context, tenant, before string) (reason campaign.Reason, operational bool) {
	c, err := s.cfg.Registry.Certificate(ctx, access.Scope{Tenant: tenant}, before)
	if err != nil || c.Authority == "" || c.Profile != string(profile.LDevID) {
		if err != nil && fault.KindOf(err) != fault.NotFound { // that of a birth certificate is not there
			s.log.WarnContext(ctx, "why a device renewed is not known", "certificate", before, "error", err)
		}
		return campaign.OnRequest, false
	}
	x, err := x509.ParseCertificate(c.DER)
	if err != nil {
		return campaign.OnRequest, true
	}
	a, err := s.Advise(ctx, tenant, c.Authority, x)
	if err != nil || s.now().Before(a.Start) {
		return campaign.OnRequest, true
	}
	return a.Reason, true
}
