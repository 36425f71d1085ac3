package main

import (
	"context"
	"crypto/x509"
	"slices"
	"time"

	"hallmark/access"
	"hallmark/ca"
	"hallmark/ca/profile"
	"hallmark/fleet/trust"
)

// openTrust makes the service that changes whom devices trust; the campaigns need it.
func (s *Server) openTrust() {
	s.trust = trust.New(trust.Config{Store: s.db, Registry: s.reged, Presence: s.db, Roots: s.trustedRoots, Shown: s.shownTo, Log: s.log, Now: s.now})
}

// trustedRoots are the roots of a tenant.
func (s *Server) trustedRoots(tenant string) (out []trust.Root) {
	for _, a := range s.ca.Authorities() {
		if a.Tenant == tenant && a.Duty == profile.DutyRoot {
			out = append(out, trust.Root{Name: a.Name, Cert: a.Cert, Active: a.State == ca.StateActive})
		}
	}
	return out
}

// shownTo is what devices of a tenant have to accept: what the doors show, and what the
// authorities issue that are declared, each of which may be the next to issue.
func (s *Server) shownTo(_ context.Context, tenant string) (out []trust.Shown, err error) {
	doors, err := s.shownByDoors()
	if err != nil {
		return nil, err
	}
	if len(doors.Chain) > 0 {
		out = append(out, doors)
	}
	var names []string
	for _, d := range s.ca.Servings() {
		if d.Tenant == tenant {
			names = append(names, d.Authorities...)
		}
	}
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		a, err := s.ca.Authority(name)
		if err != nil {
			return nil, err
		}
		out = append(out, trust.Shown{What: "what " + name + " issues", Chain: append([]*x509.Certificate{a.Cert}, s.ca.CrossesOf(a.Cert)...)})
	}
	return out, nil
}

// shownByDoors is the chain of the doors; it is empty while no authority certifies them.
func (s *Server) shownByDoors() (v trust.Shown, err error) {
	v = trust.Shown{What: "the certificate of the doors", Server: true}
	d := s.tls.Load()
	if d == nil || !d.ready {
		return v, nil
	}
	for _, der := range d.cert.Certificate {
		c, err := x509.ParseCertificate(der)
		if err != nil {
			return v, err
		}
		v.Chain = append(v.Chain, c)
	}
	return v, nil
}

// bundle is which roots a new device or station is told to trust: those of its tenant
// and of the doors', and of them those that a rollover did not take from the others.
// Whatever the doors are under stays: who does not accept them cannot come again.
func (s *Server) bundle(ctx context.Context, tenant string, all []*x509.Certificate) (out []*x509.Certificate, err error) {
	near := slices.Compact([]string{tenant, access.DefaultTenant})
	var known []trust.Root
	for _, t := range near {
		known = append(known, s.trustedRoots(t)...)
	}
	for _, c := range all {
		if slices.ContainsFunc(known, func(r trust.Root) bool { return r.Cert.Equal(c) }) {
			out = append(out, c)
		}
	}
	for _, t := range near {
		if s.trust == nil {
			break
		}
		if out, err = s.trust.Bundled(ctx, t, out); err != nil {
			return nil, err
		}
	}
	doors, err := s.shownByDoors()
	if err != nil || len(doors.Chain) == 0 || doors.Accepted(out, s.now()) {
		return out, err
	}
	for _, c := range all {
		if doors.Accepted([]*x509.Certificate{c}, s.now()) {
			out = append(out, c)
		}
	}
	return out, nil
}

// stationRoot is the root by which a station of a tenant knows the doors before it tells
// its code to anybody (S14): one that it is told to trust.
func (s *Server) stationRoot(ctx context.Context, tenant string) (*x509.Certificate, error) {
	doors, err := s.shownByDoors()
	if err != nil {
		return nil, err
	}
	told, err := s.bundle(ctx, tenant, s.ca.Roots())
	if err != nil {
		return nil, err
	}
	for _, c := range told {
		if doors.Accepted([]*x509.Certificate{c}, s.now()) {
			return c, nil
		}
	}
	return nil, errNoRoot.New("")
}

// keepRollovers makes the campaigns of root rollovers that were approved, until ctx ends.
func (s *Server) keepRollovers(ctx context.Context) {
	for every(ctx, 10*time.Second) {
		if err := s.trust.Ensure(ctx); err != nil && ctx.Err() == nil {
			s.log.ErrorContext(ctx, "the campaigns of root rollovers are not as they should be", "error", err)
		}
	}
}
