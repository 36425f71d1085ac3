package trust_test

import (
	"context"
	"crypto/x509"
	"slices"
	"testing"
	"time"

	"hallmark/fleet"
	"hallmark/fleet/trust"
)

// TestBundled_ANewDeviceTrustsWhatTheOthersDo, in every phase of a rollover and when a
// root comes back.
func TestBundled_ANewDeviceTrustsWhatTheOthersDo(t *testing.T) {
	ctx := context.Background()
	p := newPKI(t)
	m := &small{roll: map[string]trust.Rollover{}}
	s := trust.New(trust.Config{Store: m, Registry: m, Presence: m, Roots: p.Roots, Shown: p.Shown})
	all := []*x509.Certificate{p.old.cert, p.next.cert}
	begun := time.Now()
	put := func(name string, from, to *authority, phase trust.Phase) {
		begun = begun.Add(time.Hour)
		m.roll[name] = trust.Rollover{Tenant: scope.Tenant, Name: name, OldRoot: from.id(), NewRoot: to.id(), Phase: phase, Steps: []trust.Step{{At: begun}}}
	}
	got := func(want ...*authority) {
		t.Helper()
		list, err := s.Bundled(ctx, scope.Tenant, all)
		must(t, err)
		if !slices.EqualFunc(list, want, func(c *x509.Certificate, a *authority) bool { return fleet.RootID(c.Raw) == a.id() }) {
			t.Errorf("%d roots", len(list))
		}
	}
	got(p.old, p.next)
	for phase, want := range map[trust.Phase][]*authority{
		trust.Adding: {p.old, p.next}, trust.Switching: {p.old, p.next}, trust.Staying: {p.old, p.next}, trust.Canceled: {p.old, p.next},
		trust.Removing: {p.next}, trust.Sleepers: {p.next}, trust.Over: {p.next},
	} {
		put("a", p.old, p.next, phase)
		got(want...)
	}
	put("a", p.old, p.next, trust.Over)
	put("b", p.next, p.old, trust.Adding) // and back
	got(p.old, p.next)
	put("b", p.next, p.old, trust.Removing)
	got(p.old)
	all = []*x509.Certificate{p.next.cert}
	got(p.next) // nothing would be left
}

// TestPlan_RootsWithoutAnEndReplaceEachOther: both end in the year 9999.
func TestPlan_RootsWithoutAnEndReplaceEachOther(t *testing.T) {
	ctx := context.Background()
	never := time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
	p := newPKI(t)
	outlives := func() bool {
		m := &small{things: map[string][]fleet.ThingName{"thing/A": {"A"}}, roll: map[string]trust.Rollover{}}
		s := trust.New(trust.Config{Store: m, Registry: m, Presence: m, Roots: p.Roots, Shown: p.Shown})
		checks, err := s.Plan(ctx, scope.Tenant, "r", trust.Spec{From: "root-1", To: "root-2", Targets: []string{"thing/A"}})
		must(t, err)
		i := slices.IndexFunc(checks, func(c trust.Check) bool { return c.Name == "outlives" })
		return checks[i].OK
	}
	p.old.cert = certify(t, nil, "old root", p.old.key, true, never)
	p.next.cert = certify(t, nil, "new root", p.next.key, true, never)
	if !outlives() {
		t.Error("two roots without an end")
	}
	p.next.cert = certify(t, nil, "new root", p.next.key, true, never.AddDate(-1, 0, 0))
	if outlives() {
		t.Error("a root that ends before")
	}
}
