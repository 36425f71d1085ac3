package main

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/ca/catest"
	"hallmark/fleet/registry"
	"hallmark/internal/fault"
	"hallmark/provisioner"
	"hallmark/provisioner/declare"
	"hallmark/web"
)

// manual is the example of docs/apply.md for an authority of the test.
func manual(t *testing.T, authority string) string {
	t.Helper()
	b, err := os.ReadFile("../../docs/apply.md")
	if err != nil {
		t.Fatal(err)
	}
	_, text, _ := strings.Cut(string(b), "```yaml\n")
	text, _, ok := strings.Cut(text, "```\n")
	if !ok {
		t.Fatal("docs/apply.md has no example")
	}
	return strings.ReplaceAll(text, "devices-1", authority)
}

func docFiles(text ...string) (out []adminapi.DocumentFile) {
	for i, s := range text {
		out = append(out, adminapi.DocumentFile{Name: fmt.Sprintf("%c.yaml", 'a'+i), Text: s})
	}
	return out
}

func (n *bench) plat() access.Actor {
	return access.Actor{Tenant: n.scope.Tenant, Kind: access.KindPrincipal, Name: "pat", Role: access.Platform}
}

// quinn is platform too: the second person.
func (n *bench) quinn() access.Actor {
	a := n.plat()
	a.Name = "quinn"
	return a
}

// ask plans and applies, and gives what was done and what was asked for.
func (n *bench) ask(t *testing.T, by access.Actor, text ...string) adminapi.Plan {
	t.Helper()
	p := ok[adminapi.Plan](t)(n.api.Plans.MakePlan(t.Context(), by, adminapi.PlanRequest{Files: docFiles(text...)}))
	return ok[adminapi.Plan](t)(n.api.Plans.ApplyPlan(t.Context(), by, adminapi.PlanApplyRequest{Files: docFiles(text...), Plan: p.Hash}))
}

// approveRequest looks at a request and approves it.
func (n *bench) approveRequest(t *testing.T, by access.Actor, id string) (adminapi.ApprovalRequest, error) {
	t.Helper()
	r := ok[adminapi.ApprovalRequest](t)(n.api.Plans.ApprovalRequest(t.Context(), by, id))
	return n.api.Plans.Approve(t.Context(), by, id, adminapi.ApprovalDecision{Plan: r.Plan.Hash})
}

// apply is ask, and a second person of the platform approves what it can.
func (n *bench) apply(t *testing.T, by access.Actor, text ...string) adminapi.Plan {
	t.Helper()
	p := n.ask(t, by, text...)
	for _, r := range p.Requests {
		if slices.Contains(r.Roles, string(access.Platform)) {
			ok[adminapi.ApprovalRequest](t)(n.approveRequest(t, n.quinn(), r.Id))
		}
	}
	return p
}

// exported is every document, as a person who may see all of them gets it.
func (n *bench) exported(t *testing.T) (out []string) {
	t.Helper()
	for _, k := range documentKinds {
		for after := ""; ; {
			items, next, err := n.api.Plans.ExportDocuments(t.Context(), n.officer, k, web.Page{After: after, Limit: 2})
			if err != nil {
				t.Fatal(err)
			}
			for _, d := range items {
				out = append(out, d.Text)
			}
			if after = next; next == "" {
				break
			}
		}
	}
	return out
}

func (n *bench) findings(t *testing.T, err error) (out []string) {
	t.Helper()
	var f *fault.Fault
	if !errors.As(err, &f) || f.Definition != declare.ErrRefused {
		t.Fatalf("got %v", err)
	}
	for _, e := range f.Members["errors"].([]declare.Finding) {
		out = append(out, fmt.Sprintf("%s:%d %s", e.File, e.Line, e.Code))
	}
	return out
}

// The example of the manual comes in by the people who may, goes out as an export,
// is found unchanged, and makes the same export in another service.
func TestPlans_TheManualsExampleThereAndBack(t *testing.T) {
	n, ctx := newBench(t, nil), t.Context()
	theirs := newTheirCA(t, "theirs")
	jitp := declaredDoc("Template", "lamp-door", `{kind: jitp, body: {Parameters: {"AWS::IoT::Certificate::CommonName": {Type: String}}, Resources: {thing: {Type: "AWS::IoT::Thing", Properties: {ThingName: {Ref: "AWS::IoT::Certificate::CommonName"}}}, certificate: {Type: "AWS::IoT::Certificate", Properties: {CertificateId: {Ref: "AWS::IoT::Certificate::Id"}, Status: ACTIVE}}}}}`)
	brought := declaredDoc("RegisteredCA", registry.CertificateID(theirs.cert.Raw), "\n  mode: SNI_ONLY\n  autoRegistration: true\n  template: lamp-door\n  certificate: |\n    "+strings.ReplaceAll(strings.TrimSpace(theirs.pem), "\n", "\n    "))
	text := []string{manual(t, catest.Device), jitp + "---\n" + brought}

	// S36: a hook's target and another's CA take two people, and with the hook waits
	// what names it. The order is for other roles, so it is a request of its own.
	first := n.ask(t, n.plat(), text...)
	if first.Todo != 10 || first.Waiting != 4 || first.Unchanged != 0 || !first.Applied || len(first.Requests) != 2 || first.Requests[0].Documents != 3 || first.Requests[1].Documents != 1 {
		t.Fatalf("platform: %d %d %d %+v", first.Todo, first.Waiting, first.Unchanged, first.Requests)
	}
	for _, i := range first.Items {
		want := map[string][2]string{"Hook": {"a hook's target", ""}, "RegisteredCA": {"the registration of another's CA", ""}, "FleetTemplate": {"", "Hook erp"}, "Order": {}}
		if w, waits := want[i.Kind]; waits != (i.Waits != "") || w != [2]string{i.Dangerous, i.After} || i.Secret != "" {
			t.Errorf("%+v", i)
		}
		if i.Kind == "Order" && (i.Waits != string(access.CreateOrder) || !slices.Equal(i.Roles, []string{"cm-manager", "security-officer"})) {
			t.Errorf("%+v", i)
		}
	}
	if hooks := ok[[]adminapi.Hook](t)(n.api.Registry.Hooks(ctx, n.scope)); len(hooks) != 0 {
		t.Errorf("%+v", hooks)
	}
	request := first.Requests[0].Id
	_, err := n.approveRequest(t, n.plat(), request)
	wants(t, err, access.ErrSelfApproval)
	_, err = n.approveRequest(t, n.officer, request) // the CA would be hers, the hook is not
	wants(t, err, access.ErrForbidden)
	approved := ok[adminapi.ApprovalRequest](t)(n.approveRequest(t, n.quinn(), request))
	if approved.State != "approved" || approved.AskedBy != "pat" || approved.DecidedBy != "quinn" || approved.Plan.Todo != 3 || approved.Plan.Items[0].Secret == "" {
		t.Errorf("%+v", approved)
	}
	_, err = n.approveRequest(t, n.quinn(), request)
	wants(t, err, declare.ErrRequestDecided)
	// S36: the order comes from somebody else, is a draft, and the drafter cannot
	// approve it.
	second := n.apply(t, n.manager, text...)
	if second.Todo != 1 {
		t.Errorf("the manager did %d", second.Todo)
	}
	o := ok[adminapi.Order](t)(n.api.Orders.Order(ctx, n.scope, "PO-7"))
	if o.State != string(provisioner.OrderDraft) || o.CreatedBy != "max" {
		t.Errorf("%+v", o)
	}
	_, err = n.api.Orders.ApproveOrder(ctx, n.manager, "PO-7", n.approve(t, o.Body, n.approverKey))
	wants(t, err, access.ErrSelfApproval)
	again := ok[adminapi.Plan](t)(n.api.Plans.MakePlan(ctx, n.officer, adminapi.PlanRequest{Files: docFiles(text...)}))
	if i := again.Items[len(again.Items)-1]; again.Todo+again.Waiting != 0 || i.Kind != "Order" || !slices.Contains(i.Next, "hallmark order approve PO-7 --key URI") {
		t.Errorf("%+v", again)
	}
	ok[adminapi.Order](t)(n.api.Orders.ApproveOrder(ctx, n.officer, "PO-7", n.approve(t, o.Body, n.approverKey)))

	out := n.exported(t)
	if len(out) != 16 || strings.Contains(strings.Join(out, ""), "secret") {
		t.Errorf("%d documents", len(out))
	}
	files := strings.Join(out, "---\n")
	if p := ok[adminapi.Plan](t)(n.api.Plans.MakePlan(ctx, n.officer, adminapi.PlanRequest{Files: docFiles(files)})); p.Todo+p.Waiting != 0 || p.Unchanged != 16 { // with who issues for devices and for infrastructure
		t.Errorf("the export is not what is there: %+v", p)
	}
	m := newBench(t, nil)
	m.apply(t, m.plat(), files)
	m.apply(t, m.officer, files)
	if there := m.exported(t); !slices.Equal(there, out) {
		t.Errorf("the other service exports\n%s\nand not\n%s", strings.Join(there, "---\n"), files)
	}
	// Another tenant sees nothing of it.
	eve := n.officer
	eve.Tenant = "other"
	if items, _, err := n.api.Plans.ExportDocuments(ctx, eve, "Policy", web.Page{Limit: 10}); err != nil || len(items) != 0 {
		t.Errorf("%v %v", items, err)
	}
	if p := ok[adminapi.Plan](t)(n.api.Plans.MakePlan(ctx, eve, adminapi.PlanRequest{Files: docFiles(declaredDoc("ThingType", "lamp", "{}"))})); p.Items[0].Action != declare.Create {
		t.Errorf("%+v", p)
	}
}

func declaredDoc(kind, name, spec string) string {
	return "apiVersion: hallmark/v1\nkind: " + kind + "\nmetadata:\n  name: " + name + "\nspec: " + spec + "\n"
}

func TestPlans_ChangesOfEveryKind(t *testing.T) {
	n, ctx := newBench(t, nil), t.Context()
	text := manual(t, catest.Device)
	n.apply(t, n.plat(), text)
	n.apply(t, n.officer, text)
	hooks := ok[[]adminapi.Hook](t)(n.api.Registry.Hooks(ctx, n.scope))
	changed := strings.NewReplacer("/hallmark\n", "/v2\n", "[192.0.2.0/24]", "[192.0.2.1, 198.51.100.7/16]", "hook: erp\n  enabled: true", "enabled: false", "[iot:Publish, iot:Receive]", "iot:Publish",
		"searchable: [model]", "searchable: [model]\n  deprecated: true", "{team: light}", "{}", "policies: [lamps]", "description: now", "firmware:1.*", "firmware:2.*", "of the north", "of the south",
		"template: lamp-boot\n  enabled: true", "template: lamp-boot\n  enabled: false", "kind: first-boot", "").Replace(text)
	p := n.apply(t, n.plat(), changed)
	var got []string
	for _, i := range p.Items {
		if i.Action == declare.Update {
			var fields []string
			for _, c := range i.Changes {
				fields = append(fields, c.Path)
			}
			got = append(got, i.Kind+" "+i.Name+": "+strings.Join(fields, " "))
		}
	}
	want := []string{"Hook erp: allow[0] allow[1] url", "FleetTemplate lamp-claim: enabled hook", "Policy lamps: document.Statement[1].Action document.Statement[1].Action[0] document.Statement[1].Action[1]",
		"ThingType lamp: deprecated", "ThingGroup building: tags.team", "ThingGroup old-lamps: query", "ThingGroup lamps: description policies[0]", "BillingGroup cost-42: description", "Registration " + catest.Device + ": enabled"}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	now := ok[[]adminapi.Hook](t)(n.api.Registry.Hooks(ctx, n.scope))
	if !slices.Equal(now[0].KeyIds, hooks[0].KeyIds) || fmt.Sprint(now[0].Allow) != "[192.0.2.1/32 198.51.0.0/16]" || p.Items[0].Secret != "" {
		t.Errorf("the hook: %+v", now[0])
	}
	policy := ok[adminapi.DevicePolicy](t)(n.api.Policies.Policy(ctx, n.scope, "lamps"))
	if policy.DefaultVersion != 2 || len(policy.Versions) != 2 {
		t.Errorf("%+v", policy)
	}
	// Back again: a version that says it already is taken. Then a sixth takes the
	// place of the oldest one, and the plan says so.
	n.apply(t, n.plat(), text)
	if policy = ok[adminapi.DevicePolicy](t)(n.api.Policies.Policy(ctx, n.scope, "lamps")); policy.DefaultVersion != 1 || policy.LatestVersion != 2 {
		t.Errorf("%+v", policy)
	}
	for i := range 4 {
		p = n.apply(t, n.plat(), declaredDoc("Policy", "lamps", fmt.Sprintf(`{document: {Version: 2012-10-17, Statement: [{Effect: Deny, Action: iot:Connect, Resource: "arn:aws:iot:*:*:client/c%d"}]}}`, i)))
	}
	policy = ok[adminapi.DevicePolicy](t)(n.api.Policies.Policy(ctx, n.scope, "lamps"))
	if policy.DefaultVersion != 6 || len(policy.Versions) != 5 || policy.Versions[0].Version != 2 || !strings.Contains(strings.Join(p.Items[0].Notes, "\n"), "version 1, the oldest") {
		t.Errorf("%+v, %q", policy, p.Items[0].Notes)
	}
	// It is attached to a group, so it is no longer for whoever runs the devices.
	fred := access.Actor{Tenant: n.scope.Tenant, Kind: access.KindPrincipal, Name: "fred", Role: access.FleetOperator}
	p = ok[adminapi.Plan](t)(n.api.Plans.MakePlan(ctx, fred, adminapi.PlanRequest{Files: docFiles(text)}))
	for _, i := range p.Items {
		if i.Kind == "Policy" && i.Waits != string(access.AttachPolicyToGroup) || i.Kind == "Hook" && (i.Waits != string(access.ReadHooks) || len(i.Changes) != 0) {
			t.Errorf("%+v", i)
		}
	}
}

func TestPlans_WhatIsRefusedIsToldAtItsLineAndDoesNothing(t *testing.T) {
	n, ctx := newBench(t, nil), t.Context()
	text := manual(t, catest.Device)
	n.apply(t, n.plat(), text)
	n.apply(t, n.officer, text)
	before := n.exported(t)
	bad := []string{
		declaredDoc("ThingGroup", "flat", "{parent: nowhere}"),
		declaredDoc("ThingGroup", "lamps", "{parent: old-lamps}"),
		declaredDoc("ThingType", "lamp", "{searchable: [color]}"),
		declaredDoc("Template", "x", "\n  kind: fleet\n  body:\n    Resources:\n      thing: {Type: Nothing}"),
		declaredDoc("Policy", "x", "\n  document:\n    Version: 2012-10-17\n    Statement: [{Effect: Perhaps}]"),
		declaredDoc("Hook", "x", "{url: 'ftp://erp.example.com/'}"),
		declaredDoc("Registration", "nobody", "{template: lamp-boot, enabled: true}"),
		declaredDoc("RegisteredCA", strings.Repeat("ab", 32), "{mode: SNI_ONLY}"),
		declaredDoc("Registration", catest.Infra, "{template: lamp-boot, enabled: true}"),
		declaredDoc("FleetTemplate", "none", "{enabled: true}"),
		declaredDoc("Order", "PO-7", "{product: lock, quantity: 1, serials: {list: [A]}, keyOrigin: claimed}"),
	}
	for i, want := range []string{"1 thing-group-unknown", "1 declare-immutable", "1 declare-immutable", "9 template-structure", "8 policy-structure-invalid", "1 hook-config-invalid",
		"1 ca-authority-unknown", "1 declare-field", "1 registration-invalid", "1 registration-invalid", "1 declare-immutable"} {
		by := n.plat()
		if i == 10 { // orders are not platform's
			by = n.officer
		}
		_, err := n.api.Plans.MakePlan(ctx, by, adminapi.PlanRequest{Files: docFiles(bad[i])})
		if got := n.findings(t, err); !slices.Equal(got, []string{"a.yaml:" + want}) {
			t.Errorf("%d: %q, want %s", i, got, want)
		}
	}
	// One bad document among good ones.
	good := declaredDoc("ThingType", "new", "{}")
	_, err := n.api.Plans.MakePlan(ctx, n.plat(), adminapi.PlanRequest{Files: docFiles(good, bad[0], declaredDoc("BillingGroup", "new", "{query: x}"))})
	if got := n.findings(t, err); !slices.Equal(got, []string{"c.yaml:1 declare-field"}) {
		t.Errorf("%q", got)
	}
	_, err = n.api.Plans.MakePlan(ctx, n.plat(), adminapi.PlanRequest{Files: docFiles(good, strings.Join([]string{bad[0], bad[9]}, "---\n"))})
	if got := n.findings(t, err); len(got) != 2 {
		t.Errorf("%q", got)
	}
	if !slices.Equal(before, n.exported(t)) {
		t.Error("what was refused changed something")
	}
	// The world changes between the plan and its application: nothing is done.
	p := ok[adminapi.Plan](t)(n.api.Plans.MakePlan(ctx, n.plat(), adminapi.PlanRequest{Files: docFiles(good, declaredDoc("ThingGroup", "building", "{description: ours}"))}))
	description := "theirs"
	ok[adminapi.ThingGroup](t)(n.api.Groups.UpdateGroup(ctx, n.officer, web.ThingGroups, "building", adminapi.ThingGroupChange{Description: &description}))
	_, err = n.api.Plans.ApplyPlan(ctx, n.plat(), adminapi.PlanApplyRequest{Files: docFiles(good, declaredDoc("ThingGroup", "building", "{description: ours}")), Plan: p.Hash})
	wants(t, err, declare.ErrStale)
	if _, err := n.api.ThingTypes.ThingType(ctx, n.scope, "new"); fault.KindOf(err) != fault.NotFound {
		t.Errorf("a part was done: %v", err)
	}
	// An authority has one registration: what a registered CA has for the door is not
	// said twice, or each apply would undo the other.
	jitp := declaredDoc("Template", "door", `{kind: jitp, body: {Parameters: {"AWS::IoT::Certificate::CommonName": {Type: String}}, Resources: {thing: {Type: "AWS::IoT::Thing", Properties: {ThingName: {Ref: "AWS::IoT::Certificate::CommonName"}}}, certificate: {Type: "AWS::IoT::Certificate", Properties: {CertificateId: {Ref: "AWS::IoT::Certificate::Id"}, Status: ACTIVE}}}}}`)
	own := declaredDoc("RegisteredCA", catest.Device, "{template: door, autoRegistration: true}")
	_, err = n.api.Plans.MakePlan(ctx, n.plat(), adminapi.PlanRequest{Files: docFiles(jitp, own)})
	if got := n.findings(t, err); !slices.Equal(got, []string{"b.yaml:1 registration-invalid"}) {
		t.Errorf("%q", got)
	}
	n.apply(t, n.plat(), jitp, declaredDoc("Registration", catest.Device, "{template: lamp-boot, enabled: false}"))
	n.apply(t, n.plat(), own)
	if got := ok[adminapi.Plan](t)(n.api.Plans.MakePlan(ctx, n.plat(), adminapi.PlanRequest{Files: docFiles(own)})); got.Unchanged != 1 {
		t.Errorf("%+v", got)
	}
	_, err = n.api.Plans.MakePlan(ctx, n.plat(), adminapi.PlanRequest{Files: docFiles(declaredDoc("Registration", catest.Device, "{template: lamp-boot, enabled: true}"))})
	if got := n.findings(t, err); !slices.Equal(got, []string{"a.yaml:1 registration-invalid"}) {
		t.Errorf("%q", got)
	}
	if all := n.exported(t); slices.ContainsFunc(all, func(d string) bool { return strings.Contains(d, "kind: Registration\n") }) {
		t.Errorf("%s", all)
	}
	n.apply(t, n.plat(), declaredDoc("RegisteredCA", catest.Device, "{status: INACTIVE}"))
	if c := ok[[]adminapi.RegistrationRule](t)(n.api.Registry.Registrations(ctx, n.scope)); len(c) != 0 {
		t.Errorf("%+v", c)
	}
}

// Twenty apply one plan at once: one does it, the others are told that the world is
// another one now, and everything is there once.
func TestPlans_OfManyWhoApplyAPlanOneDoes(t *testing.T) {
	n, ctx := newBench(t, nil), t.Context()
	text := docFiles(manual(t, catest.Device))
	p := ok[adminapi.Plan](t)(n.api.Plans.MakePlan(ctx, n.plat(), adminapi.PlanRequest{Files: text}))
	results := make(chan error, 20)
	for range cap(results) {
		go func() {
			_, err := n.api.Plans.ApplyPlan(ctx, n.plat(), adminapi.PlanApplyRequest{Files: text, Plan: p.Hash})
			results <- err
		}()
	}
	done := 0
	for range cap(results) {
		switch err := <-results; {
		case err == nil:
			done++
		case !errors.Is(err, declare.ErrStale):
			t.Error(err)
		}
	}
	if v := ok[adminapi.DevicePolicy](t)(n.api.Policies.Policy(ctx, n.scope, "lamps")); done != 1 || len(v.Versions) != 1 {
		t.Errorf("%d did it, %+v", done, v)
	}
}
