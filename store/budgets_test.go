package store_test

import (
	"fmt"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/bootstrap"
	"hallmark/internal/fault"
	"hallmark/provisioner"
	"hallmark/store"
)

func TestBudgets_AreListedByTheStartOfTheirNames(t *testing.T) {
	bothEngines(t, func(t *testing.T, _, _ string, a, b *store.DB) {
		ctx, now := t.Context(), time.UnixMilli(1_800_000_000_000).UTC()
		for _, n := range []struct{ tenant, name string }{{"main", "ca/1"}, {"main", "claim/1"}, {"main", "claim/2"}, {"main", "claim/3"}, {"main", "claims"}, {"other", "claim/9"}} {
			if err := a.PutBudget(ctx, bootstrap.Budget{Tenant: n.tenant, Name: n.name, Most: 1, CreatedAt: now, Version: 1}, 0); err != nil {
				t.Fatal(err)
			}
		}
		for _, c := range []struct{ tenant, prefix, after, want string }{
			{"main", "claim/", "", "[claim/1 claim/2]"}, {"main", "claim/", "claim/2", "[claim/3]"}, {"main", "claim/", "claim/3", "[]"}, {"main", "ca/", "", "[ca/1]"},
			{"main", "", "claim/3", "[claims]"}, {"other", "claim/", "", "[claim/9]"}, {"none", "claim/", "", "[]"},
		} {
			got, err := b.Budgets(ctx, access.Scope{Tenant: c.tenant}, c.prefix, c.after, 2)
			names := []string{}
			for _, g := range got {
				names = append(names, g.Name)
			}
			if err != nil || fmt.Sprint(names) != c.want {
				t.Errorf("%s %q after %q: %v %v, want %s", c.tenant, c.prefix, c.after, names, err, c.want)
			}
		}
	})
}

func TestRegistration_IsRemovedForItsTenantOnly(t *testing.T) {
	bothEngines(t, func(t *testing.T, _, _ string, a, b *store.DB) {
		ctx, now := t.Context(), time.UnixMilli(1_800_000_000_000).UTC()
		name := fmt.Sprintf("%064x", 7) // of a CA that was brought along, which several tenants can have
		for _, tenant := range []string{"main", "other"} {
			if err := a.PutTemplate(ctx, provisioner.TemplateDocument{Tenant: tenant, Name: "t", Kind: provisioner.JITPKind, Body: []byte("{}"), UpdatedAt: now}); err != nil {
				t.Fatal(err)
			}
			if err := a.PutRegistration(ctx, provisioner.Registration{Tenant: tenant, Authority: name, Template: "t", Enabled: true, UpdatedAt: now}); err != nil {
				t.Fatal(err)
			}
		}
		for range 2 { // the second time there is nothing to do
			if err := b.DropRegistration(ctx, "main", name); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := a.Registration(ctx, access.Scope{Tenant: "main"}, name); fault.KindOf(err) != fault.NotFound {
			t.Errorf("it is still there: %v", err)
		}
		if g, err := a.Registration(ctx, access.Scope{Tenant: "other"}, name); err != nil || g.Template != "t" {
			t.Errorf("another tenant's went with it: %+v %v", g, err)
		}
	})
}
