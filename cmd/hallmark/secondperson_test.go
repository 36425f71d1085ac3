package main

import (
	"errors"
	"testing"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/bootstrap"
	"hallmark/fleet/registry"
	"hallmark/internal/fault"
)

// S36: what is dangerous by a single command waits for a second person too. Who asked
// gets 409 and a request, cannot approve it himself, and asks again for the same one.
func TestSecondPerson_SingleCommandsWait_S36(t *testing.T) {
	n, ctx := newBench(t, func(c *Config) { c.OnePerson = false }), t.Context()
	n.claims = must(bootstrap.NewClaims(bootstrap.ClaimsConfig{Issuer: n.ca, Planner: n.planner, Templates: n.db, Registry: n.reg, Records: n.db, Grants: n.db, Revoker: n.crl, TokenKey: make([]byte, 32)}))
	theirs := newTheirCA(t, "theirs")
	id := registry.CertificateID(theirs.cert.Raw)
	yes, active := true, string(registry.CAActive)
	ca := func() adminapi.RegisteredCA {
		v, err := n.api.Registration.RegisteredCA(ctx, n.scope, id)
		if err != nil && !errors.Is(err, registry.ErrCAUnknown) {
			t.Fatal(err)
		}
		return v
	}
	hook := func(url string) func(access.Actor) error {
		return func(by access.Actor) error {
			_, err := n.api.Registry.PutHook(ctx, by, "erp", adminapi.HookRequest{Url: url, Allow: []string{"192.0.2.0/24"}})
			return err
		}
	}
	target := func() string {
		for _, h := range ok[[]adminapi.Hook](t)(n.api.Registry.Hooks(ctx, n.scope)) {
			return h.Url
		}
		return ""
	}
	change := func(r adminapi.RegisteredCAChange) func(access.Actor) error {
		return func(by access.Actor) error {
			_, err := n.api.Registration.UpdateRegisteredCA(ctx, by, id, r)
			return err
		}
	}
	budget := func(most int64) func(access.Actor) error {
		return func(by access.Actor) error {
			_, err := n.api.Registration.PutCABudget(ctx, by, id, adminapi.BudgetRequest{Most: most, PerMinute: 60})
			return err
		}
	}
	for _, c := range []struct {
		what string
		do   func(by access.Actor) error
		is   func() bool
	}{
		{"a hook", hook("https://erp.example.com/v1"), func() bool { return target() == "https://erp.example.com/v1" }},
		{"another target", hook("https://erp.example.net/v1"), func() bool { return target() == "https://erp.example.net/v1" }},
		{"another's CA", func(by access.Actor) error {
			_, err := n.api.Registration.RegisterCA(ctx, by, adminapi.RegisteredCARequest{Certificate: theirs.pem, Mode: string(registry.ModeSNIOnly)})
			return err
		}, func() bool { return ca().Id == id && ca().Status != active }},
		{"its activation", change(adminapi.RegisteredCAChange{Status: &active}), func() bool { return ca().Status == active && !ca().AutoRegistration }},
		{"automatic registration", change(adminapi.RegisteredCAChange{AutoRegistration: &yes}), func() bool { return ca().AutoRegistration }},
		{"a budget", budget(10), func() bool { return ca().Budget.Most == 10 }},
		{"a budget that grows", budget(20), func() bool { return ca().Budget.Most == 20 }},
	} {
		asks := func(by access.Actor) string {
			t.Helper()
			err := c.do(by)
			var f *fault.Fault
			if !errors.As(err, &f) || f.Definition != errSecondPerson || f.Kind != fault.Conflict {
				t.Fatalf("%s by %s alone: %v", c.what, by.Name, err)
			}
			request, _ := f.Members["request"].(string)
			if c.is() || request == "" {
				t.Fatalf("%s by %s alone is in force, request %q", c.what, by.Name, request)
			}
			return request
		}
		request := asks(n.plat())
		if again := asks(n.plat()); again != request {
			t.Errorf("%s: asked twice, it is %s and %s", c.what, request, again)
		}
		_, err := n.approveRequest(t, n.plat(), request)
		wants(t, err, access.ErrSelfApproval)
		_, err = n.approveRequest(t, n.manager, request)
		wants(t, err, access.ErrForbidden)
		if c.is() {
			t.Fatalf("%s is in force without a second person", c.what)
		}
		r, err := n.approveRequest(t, n.quinn(), request)
		if err != nil || r.AskedBy != "pat" || r.DecidedBy != "quinn" || !c.is() {
			t.Fatalf("%s, approved: %+v, %v", c.what, r, err)
		}
	}

	// One person may brake: what lets fewer in needs nobody else.
	no, inactive := false, string(registry.CAInactive)
	for what, do := range map[string]func(access.Actor) error{
		"a budget that shrinks": budget(5), "no more automatic registration": change(adminapi.RegisteredCAChange{AutoRegistration: &no}), "no more of the CA": change(adminapi.RegisteredCAChange{Status: &inactive}),
	} {
		if err := do(n.plat()); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	if v := ca(); v.Status == active || v.AutoRegistration || v.Budget.Most != 5 {
		t.Errorf("after the brakes: %+v", v)
	}
	// What is wrong says what is wrong, and asks nobody.
	for _, url := range []string{"ftp://erp.example.com/", "https://erp.example.com/\x00"} {
		if err := hook(url)(n.plat()); err == nil || errors.Is(err, errSecondPerson) || fault.From(err).Kind != fault.Invalid {
			t.Errorf("%q: %v", url, err)
		}
	}
}
