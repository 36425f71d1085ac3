package main

import (
	"slices"
	"strings"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/ca"
	"hallmark/ca/catest"
	"hallmark/ca/profile"
	"hallmark/fleet"
	"hallmark/fleet/trust"
	"hallmark/provisioner/declare"
)

// TestServing_NoAuthorityUnderARootThatDevicesDoNotHave: a declaration that lets one issue
// is refused until a root rollover has brought its root to the devices, or two people want
// it with a reason, which the trail has.
func TestServing_NoAuthorityUnderARootThatDevicesDoNotHave(t *testing.T) {
	n, ctx := newBench(t, func(c *Config) { c.OnePerson = false }), t.Context()
	next := catest.New(t)
	stored := func(name string, duty profile.Duty, certificate []byte, uri string) {
		t.Helper()
		a := ca.Authority{Name: name, Tenant: n.scope.Tenant, Duty: duty, State: ca.StateActive, KeyURI: uri, BaseURL: catest.BaseURL, Shards: 1, CreatedAt: time.Now(), Certificate: certificate}
		before := ok[[]ca.Serving](t)(n.db.Servings(ctx))
		if err := n.db.CreateAuthority(ctx, a); err != nil {
			t.Fatal(err)
		}
		for _, s := range before { // what is stored as active at once is declared; what people install is not
			for _, have := range ok[[]ca.Serving](t)(n.db.Servings(ctx)) {
				if have.Name == s.Name && !slices.Equal(have.Authorities, s.Authorities) {
					if err := n.db.PutServing(ctx, s, have.Version); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
	}
	stored("root-2", profile.DutyRoot, next.Root.Raw, "")
	for name, root := range map[string]*catest.Fixture{"device-1b": n.f, "device-2": next} {
		key := catest.NewKey(t)
		n.f.Keys.Add("test:"+name, key)
		stored(name, profile.DutyDevice, root.Certify(t, profile.DutyDevice, name, key.Public()).Raw, "test:"+name)
	}
	if err := n.f.CA.Reload(ctx); err != nil {
		t.Fatal(err)
	}
	rollover := func(phase trust.Phase, to ...string) {
		var list []trust.Rollover
		if phase != "" {
			list = append(list, trust.Rollover{Tenant: n.scope.Tenant, Name: "r", OldRoot: fleet.RootID(n.f.Root.Raw), NewRoot: fleet.RootID(next.Root.Raw), Phase: phase, Steps: []trust.Step{{At: time.Now()}}})
		}
		if len(to) > 0 {
			list = append(list, trust.Rollover{Tenant: n.scope.Tenant, Name: "back", OldRoot: fleet.RootID(next.Root.Raw), NewRoot: fleet.RootID(n.f.Root.Raw), Phase: trust.Over, Steps: []trust.Step{{At: time.Now().Add(time.Hour)}}})
		}
		n.backend.trust = trust.New(trust.Config{Store: rollovers{list: list}})
	}
	document := func(reason string, authorities ...string) string {
		return "apiVersion: " + declare.APIVersion + "\nkind: Serving\nmetadata: {name: device}\nspec: {serves: device, authorities: [" + strings.Join(authorities, ", ") + "]" + reason + "}\n"
	}
	plan := func(text string) error {
		_, err := n.api.Plans.MakePlan(ctx, n.plat(), adminapi.PlanRequest{Files: docFiles(text)})
		return err
	}
	refused := func(what string, text string) {
		t.Helper()
		if err := plan(text); err == nil {
			t.Errorf("%s: it is taken", what)
		} else if codes := n.findings(t, err); len(codes) != 1 || !strings.Contains(codes[0], "ca-serving-root") {
			t.Errorf("%s: %v", what, codes)
		}
	}
	taken := func(what string, text string) {
		t.Helper()
		if err := plan(text); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}

	rollover("")
	taken("another under the same root", document("", "device-1b", catest.Device))
	refused("no rollover", document("", "device-2", catest.Device))
	refused("it steps in", document("", catest.Device, "device-2"))
	refused("an empty reason", document(`, reason: "  "`, "device-2", catest.Device))
	n.backend.trust = nil
	refused("nobody knows what devices trust", document("", "device-2", catest.Device))
	rollover(trust.Adding)
	refused("a rollover that adds it still", document("", "device-2", catest.Device))
	rollover(trust.Canceled)
	refused("a rollover that was cancelled", document("", "device-2", catest.Device))
	for _, p := range []trust.Phase{trust.Switching, trust.Staying, trust.Removing, trust.Over} {
		rollover(p)
		taken("a rollover that is "+string(p), document("", "device-2", catest.Device))
	}
	rollover(trust.Over, "back")
	refused("a rollover back took it", document("", "device-2", catest.Device))

	// Two people force it, and the trail says why.
	rollover("")
	forced := document(`, reason: "the lab has no devices"`, "device-2", catest.Device)
	p := n.ask(t, n.plat(), forced)
	if len(p.Requests) != 1 || !strings.Contains(strings.Join(p.Items[0].Notes, " "), "the lab has no devices") {
		t.Fatalf("%+v", p.Items)
	}
	seen := ok[adminapi.ApprovalRequest](t)(n.api.Plans.ApprovalRequest(ctx, n.quinn(), p.Requests[0].Id))
	told, record := access.WithRecord(ctx, access.TrailEntry{Tenant: n.scope.Tenant, Actor: "principal:quinn", Action: access.DecideApproval, Outcome: access.TrailDone})
	ok[adminapi.ApprovalRequest](t)(n.api.Plans.Approve(told, n.quinn(), p.Requests[0].Id, adminapi.ApprovalDecision{Plan: seen.Plan.Hash}))
	if e := record.Entry(); !record.Written() || e.About["reason"] != "the lab has no devices" {
		t.Errorf("the trail says %+v", e)
	}
	rows := ok[[]ca.Serving](t)(n.db.Servings(ctx))
	if i := slices.IndexFunc(rows, func(s ca.Serving) bool { return s.Name == "device" }); !slices.Equal(rows[i].Authorities, []string{"device-2", catest.Device}) {
		t.Errorf("%+v", rows)
	}
	if err := n.f.CA.Reload(ctx); err != nil {
		t.Fatal(err)
	}
	// What is there is no change, with and without the reason; nor is the way back one to
	// another root.
	if p := n.ask(t, n.plat(), document("", "device-2", catest.Device)); p.Todo+p.Waiting != 0 {
		t.Errorf("%+v", p)
	}
	taken("the way back", document("", catest.Device))
}
