package main

import (
	"errors"
	"testing"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/crl"
	"hallmark/fleet/ownership"
	"hallmark/internal/fault"
	"hallmark/web"
)

// TestOwnership_S36_ManyUnitsTakeASecondPerson: over the configured number a release is
// asked for; who approves it gets the code, and nobody else does.
func TestOwnership_S36_ManyUnitsTakeASecondPerson(t *testing.T) {
	n := newBench(t, func(c *Config) {
		c.OnePerson = false
		if err := c.Fleet.Ownership.complete(); err != nil {
			t.Fatal(err)
		}
		*c.Fleet.Ownership.TwoPeopleOver = 1
	})
	ctx, pat := t.Context(), n.plat()
	n.backend.ownership = ownership.New(ownership.Config{Store: n.db, Registry: n.reg, Revoker: crl.New(crl.Config{Store: n.db})})
	for _, u := range []string{"U-1", "U-2", "U-3"} {
		n.f.IssueIDevID(t, u)
	}
	// One may do it with one.
	one := ok[adminapi.OwnershipAct](t)(n.backend.ReleaseUnits(ctx, pat, adminapi.OwnershipRequest{Name: "one", Units: []string{"U-3"}}))
	if one.Code == "" || one.State != "open" || one.By != "pat" || one.ExpiresAt.Sub(one.At).Hours() != 168 {
		t.Fatalf("%+v", one)
	}
	if again := ok[adminapi.OwnershipAct](t)(n.backend.ReleaseUnits(ctx, pat, adminapi.OwnershipRequest{Name: "one", Units: []string{"U-3"}})); again.Code != "" {
		t.Error("the code is told twice")
	}
	// Nobody with two.
	two := adminapi.OwnershipRequest{Name: "two", Units: []string{"U-1", "U-2"}, Note: "sold"}
	_, err := n.backend.ReleaseUnits(ctx, pat, two)
	if !errors.Is(err, errSecondPerson) {
		t.Fatalf("%v", err)
	}
	if u := ok[adminapi.OwnershipUnit](t)(n.backend.OwnershipOf(ctx, n.scope, "U-1")); u.State != "owned" || len(u.History) > 0 || n.backend.ownership.Stats.Released.Load() != 0 {
		t.Fatalf("asking released it: %+v", u)
	}
	request := fault.From(err).Members["request"].(string)
	if _, err := n.approveRequest(t, pat, request); err == nil {
		t.Fatal("who asked approved it")
	}
	done := ok[adminapi.ApprovalRequest](t)(n.approveRequest(t, n.quinn(), request))
	if len(done.Plan.Items) != 1 || len(done.Plan.Items[0].Secret) < 32 {
		t.Fatalf("%+v", done)
	}
	code := done.Plan.Items[0].Secret
	a := ok[adminapi.OwnershipAct](t)(n.backend.OwnershipAct(ctx, n.scope, "two"))
	if a.State != "open" || a.Code != "" || a.By != "quinn" || a.Note != "sold" {
		t.Errorf("%+v", a)
	}
	if items, _, err := n.backend.OwnershipActs(ctx, n.stranger, web.Page{Limit: 10}); err != nil || len(items) > 0 {
		t.Errorf("another tenant sees %+v %v", items, err)
	}
	// Taken back, it is worth nothing.
	w := ok[adminapi.OwnershipAct](t)(n.backend.WithdrawRelease(ctx, pat, "two", adminapi.CampaignNote{Comment: "no"}))
	them := access.Actor{Tenant: "other", Kind: access.KindPrincipal, Name: "eve", Role: access.Platform}
	if _, err := n.backend.AcceptUnits(ctx, them, adminapi.OwnershipAcceptance{Code: code, Template: "x"}); w.State != "withdrawn" || !errors.Is(err, ownership.ErrCode) {
		t.Errorf("%+v, accepted: %v", w, err)
	}
	if u := ok[adminapi.OwnershipUnit](t)(n.backend.OwnershipOf(ctx, n.scope, "u-1")); u.State != "owned" || len(u.History) != 2 || u.Unit != "U-1" {
		t.Errorf("%+v", u)
	}
}
