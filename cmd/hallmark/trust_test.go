package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"slices"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/ca"
	"hallmark/ca/catest"
	"hallmark/ca/profile"
	"hallmark/fleet"
	"hallmark/fleet/trust"
)

// rollovers is a store that has nothing but rollovers.
type rollovers struct {
	trust.Store
	list []trust.Rollover
}

func (r rollovers) Rollovers(_ context.Context, s access.Scope) (out []trust.Rollover, _ error) {
	for _, v := range r.list {
		if v.Tenant == s.Tenant {
			out = append(out, v)
		}
	}
	return out, nil
}

// TestBundle_ADeviceTrustsItsTenantsRootsAndTheDoors, and not the root of somebody else
// who happens to be served by the same program.
func TestBundle_ADeviceTrustsItsTenantsRootsAndTheDoors(t *testing.T) {
	f := catest.New(t)
	root := func(name, tenant string) *x509.Certificate {
		c := catest.New(t).Root
		err := f.DB.CreateAuthority(t.Context(), ca.Authority{Name: name, Tenant: tenant, Duty: profile.DutyRoot, State: ca.StateActive, BaseURL: catest.BaseURL, Shards: 1, CreatedAt: time.Now(), Certificate: c.Raw})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	doors, old, next, stranger := f.Root, root("root-a", "a"), root("root-a2", "a"), root("root-b", "b")
	known, err := ca.New(t.Context(), ca.Config{Ledger: f.DB.Ledger(), Keys: f.Keys, Store: f.DB})
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{ca: known}
	is := func(tenant string, want ...*x509.Certificate) {
		t.Helper()
		got, err := s.bundle(t.Context(), tenant, known.Roots())
		if err != nil || len(got) != len(want) || slices.ContainsFunc(want, func(c *x509.Certificate) bool { return !slices.ContainsFunc(got, c.Equal) }) {
			t.Errorf("a device of %s trusts %d roots: %v", tenant, len(got), err)
		}
	}
	is(access.DefaultTenant, doors)
	is("a", doors, old, next)
	is("b", doors, stranger)
	// A rollover of one tenant counts for the devices of that tenant.
	gone := trust.Rollover{Tenant: "a", Name: "r", OldRoot: fleet.RootID(old.Raw), NewRoot: fleet.RootID(next.Raw), Phase: trust.Over}
	s.trust = trust.New(trust.Config{Store: rollovers{list: []trust.Rollover{gone}}})
	is("a", doors, next)
	is("b", doors, stranger)
	is(access.DefaultTenant, doors)
	// Who is told no root of the doors cannot come: it stays, whatever a rollover took.
	gone = trust.Rollover{Tenant: access.DefaultTenant, Name: "r", OldRoot: fleet.RootID(doors.Raw), NewRoot: "x", Phase: trust.Over}
	s.trust = trust.New(trust.Config{Store: rollovers{list: []trust.Rollover{gone}}})
	is("b", stranger)
	s.now = time.Now
	s.tls.Store(&doorCertificate{cert: &tls.Certificate{Certificate: [][]byte{f.Infra.Raw}}, ready: true})
	is("b", doors, stranger)
	if root, err := s.stationRoot(t.Context(), "b"); err != nil || !root.Equal(doors) {
		t.Errorf("a station of b knows the doors by %v: %v", root, err)
	}
}

// TestRollover_NoAuthorityGoesBackUnderARootThatDevicesDoNotTrustAnyMore, until a later
// root rollover brought it to them again.
func TestRollover_NoAuthorityGoesBackUnderARootThatDevicesDoNotTrustAnyMore(t *testing.T) {
	f := catest.New(t)
	begun := time.Now()
	over := func(name, from, to string, phase trust.Phase) trust.Rollover {
		begun = begun.Add(time.Hour)
		return trust.Rollover{Tenant: access.DefaultTenant, Name: name, OldRoot: from, NewRoot: to, Phase: phase, Steps: []trust.Step{{At: begun}}}
	}
	id := fleet.RootID(f.Root.Raw)
	there, back := over("there", id, "next", trust.Over), over("back", "next", id, trust.Over)
	for _, c := range []struct {
		list []trust.Rollover
		bad  bool
	}{{nil, false}, {[]trust.Rollover{there}, true}, {[]trust.Rollover{there, back}, false}} {
		b := &backend{ca: f.CA, trust: trust.New(trust.Config{Store: rollovers{list: c.list}})}
		p := &rollover{to: &ca.Authority{Certificate: f.Device.Raw}}
		if err := b.checkDevicesTrust(t.Context(), access.Scope{Tenant: access.DefaultTenant}, p); err != nil {
			t.Fatal(err)
		}
		if bad := slices.ContainsFunc(p.checks, func(c rolloverCheck) bool { return c.bad }); bad != c.bad {
			t.Errorf("%d rollovers: %+v", len(c.list), p.checks)
		}
	}
}
