package registry_test

import (
	"context"
	"crypto/x509"
	"database/sql"
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hallmark/ca/catest"
	"hallmark/fleet"
	"hallmark/fleet/policy"
	"hallmark/fleet/registry"
	"hallmark/store"
	"hallmark/store/storetest"
)

func document(effect, action, resource string) string {
	return fmt.Sprintf(`{"Version":"2012-10-17","Statement":[{"Effect":%q,"Action":%q,"Resource":"arn:aws:iot:eu:1:%s"}]}`, effect, action, resource)
}

func TestPolicy_HasFiveVersionsAndADefault(t *testing.T) {
	both(t, func(t *testing.T, _ *catest.Fixture, r *registry.Registry) {
		ctx := t.Context()
		p := registry.Policy{Tenant: main.Tenant, Name: "Base", Document: document("Allow", "iot:Connect", "client/*")}
		_, err := r.CreatePolicy(ctx, registry.Policy{Tenant: main.Tenant, Name: "a b", Document: p.Document})
		is(t, err, registry.ErrPolicyName)
		_, err = r.CreatePolicy(ctx, registry.Policy{Tenant: main.Tenant, Name: "bad", Document: `{}`})
		is(t, err, policy.ErrStructure)
		for range 2 {
			h, err := r.CreatePolicy(ctx, p)
			ok(t, err)
			if h.Default != 1 || h.Version != 1 {
				t.Errorf("%+v", h)
			}
		}
		for _, c := range []registry.Policy{{Tenant: main.Tenant, Name: "Base", Document: document("Deny", "iot:Connect", "client/*")}, {Tenant: main.Tenant, Name: "base", Document: p.Document}} {
			_, err := r.CreatePolicy(ctx, c)
			is(t, err, registry.ErrPolicyExists)
		}
		for i := range policy.MaxVersions {
			h, err := r.CreatePolicyVersion(ctx, main, "Base", document("Allow", "iot:Publish", fmt.Sprintf("topic/%d", i)), i == 0)
			if i == policy.MaxVersions-1 {
				is(t, err, registry.ErrPolicyVersions)
				continue
			}
			ok(t, err)
			if h.Default != 2 {
				t.Errorf("%+v", h)
			}
		}
		is(t, r.DropPolicyVersion(ctx, main, "Base", 2), registry.ErrPolicyInUse)
		is(t, r.DropPolicy(ctx, main, "Base"), registry.ErrPolicyInUse)
		ok(t, r.DropPolicyVersion(ctx, main, "Base", 5))
		h, err := r.CreatePolicyVersion(ctx, main, "Base", p.Document, false)
		ok(t, err)
		if h.Latest != 6 { // a number is never used again
			t.Errorf("%+v", h)
		}
		_, err = r.SetDefaultPolicyVersion(ctx, main, "Base", 5)
		is(t, err, registry.ErrPolicyUnknown)
		_, err = r.SetDefaultPolicyVersion(ctx, main, "Base", 6)
		ok(t, err)
		if got, err := r.Policy(ctx, main, "base"); err != nil || got.Document != p.Document || got.Name != "Base" {
			t.Errorf("%+v %v", got, err)
		}
		_, err = r.Policy(ctx, other, "Base")
		is(t, err, registry.ErrPolicyUnknown)
		for n := 1; n < 5; n++ {
			ok(t, r.DropPolicyVersion(ctx, main, "Base", n))
		}
		ok(t, r.DropPolicy(ctx, main, "Base"))
		if l, err := r.Policies(ctx, main, "", 0); err != nil || len(l) != 0 {
			t.Errorf("%v %v", l, err)
		}
	})
}

// site is a device with a certificate of its own, in a group three levels down.
func site(t *testing.T, r *registry.Registry) (id string, b *registry.Binding) {
	t.Helper()
	ctx, maker := t.Context(), newCA(t, "maker")
	leaf := maker.leaf("d")
	c, err := r.PutCertificate(ctx, registry.NewCertificate(main.Tenant, leaf, registry.HowBYOC, fleet.Active), true)
	ok(t, err)
	for _, g := range [][2]string{{"top", ""}, {"mid", "top"}, {"low", "mid"}, {"aside", "top"}} {
		_, err := r.CreateGroup(ctx, registry.Group{Tenant: main.Tenant, Class: registry.ThingGroup, Name: g[0], Parent: g[1]})
		ok(t, err)
	}
	_, err = r.CreateThing(ctx, registry.Thing{Tenant: main.Tenant, Name: "press", Attributes: map[string]string{"hall": "7"}})
	ok(t, err)
	ok(t, r.Attach(ctx, main, "press", c.ID, registry.Exclusive, false))
	ok(t, r.AddToGroup(ctx, main, registry.ThingGroup, "low", "press"))
	b, err = r.Bind(ctx, registry.Connection{Tenant: main.Tenant, Certificate: leaf, ClientID: "press"})
	ok(t, err)
	return c.ID, b
}

// What is attached, versioned, moved and withdrawn counts with the next message.
func TestBind_FollowsEveryChangeAtOnce(t *testing.T) {
	both(t, func(t *testing.T, _ *catest.Fixture, r *registry.Registry) {
		ctx := t.Context()
		id, b := site(t, r)
		can := func(when string, action, resource string, want bool) {
			t.Helper()
			if got := b.Allows(action, resource); got != want {
				t.Errorf("%s: %s of %s is %t", when, action, resource, got)
			}
			// What is explained is what a connection meets.
			a, err := policy.ParseAction(action)
			ok(t, err)
			_, name, _ := strings.Cut(resource, "/")
			e, err := r.Explain(ctx, main, registry.Question{Certificate: id, Action: a, Resource: name, ClientID: "press"})
			if err != nil || (e.Usable && e.Result == policy.Allowed) != want {
				t.Errorf("%s: %s of %s is explained as %+v, %v", when, action, resource, e.Decision, err)
			}
		}
		step := func(err error) { t.Helper(); ok(t, err) }
		if b.Thing() != "press" {
			t.Errorf("thing %q", b.Thing())
		}
		can("nothing attached", "iot:Connect", "client/press", false)
		for name, doc := range map[string]string{
			"own":   document("Allow", "iot:Connect", "client/${iot:Connection.Thing.ThingName}"),
			"all":   document("Allow", "iot:Publish", "topic/hall/${iot:Connection.Thing.Attributes[hall]}"),
			"side":  document("Allow", "iot:Receive", "topic/*"),
			"never": document("Deny", "iot:Publish", "topic/hall/8"),
		} {
			_, err := r.CreatePolicy(ctx, registry.Policy{Tenant: main.Tenant, Name: name, Document: doc})
			step(err)
		}
		wait := r.Changed()
		step(r.AttachPolicy(ctx, main, registry.CertificateTarget(id), "own"))
		<-wait
		can("own policy", "iot:Connect", "client/press", true)
		can("own policy", "iot:Publish", "topic/hall/7", false)
		step(r.AttachPolicy(ctx, main, registry.GroupTarget("top"), "all"))
		step(r.AttachPolicy(ctx, main, registry.GroupTarget("aside"), "side"))
		can("from the group two above", "iot:Publish", "topic/hall/7", true)
		can("a group that it is not in", "iot:Receive", "topic/a", false)
		_, err := r.UpdateThing(ctx, main, "press", registry.ThingChange{Attributes: map[string]string{"hall": "8"}})
		step(err)
		can("another attribute", "iot:Publish", "topic/hall/7", false)
		can("another attribute", "iot:Publish", "topic/hall/8", true)
		step(r.AttachPolicy(ctx, main, registry.GroupTarget("low"), "never"))
		can("denied by its group", "iot:Publish", "topic/hall/8", false)
		step(r.DetachPolicy(ctx, main, registry.GroupTarget("low"), "never"))
		can("not denied any more", "iot:Publish", "topic/hall/8", true)
		_, err = r.CreatePolicyVersion(ctx, main, "all", document("Allow", "iot:Publish", "topic/other"), true)
		step(err)
		can("a new version", "iot:Publish", "topic/hall/8", false)
		can("a new version", "iot:Publish", "topic/other", true)
		_, err = r.SetDefaultPolicyVersion(ctx, main, "all", 1)
		step(err)
		can("the old version", "iot:Publish", "topic/hall/8", true)
		step(r.RemoveFromGroup(ctx, main, registry.ThingGroup, "low", "press"))
		can("out of the group", "iot:Publish", "topic/hall/8", false)
		can("its own stays", "iot:Connect", "client/press", true)
		step(r.Detach(ctx, main, "press", id))
		can("without its thing", "iot:Connect", "client/press", false)
		step(r.Attach(ctx, main, "press", id, registry.NonExclusive, false))
		can("with it again", "iot:Connect", "client/press", true)
		_, err = r.SetCertificateStatus(ctx, main, id, fleet.Inactive)
		step(err)
		can("inactive", "iot:Connect", "client/press", false)
	})
}

// What one node changes, a connection at another one feels.
func TestBind_FollowsOtherNodes(t *testing.T) {
	url := storetest.Postgres(t)
	x := catest.Open(t, catest.Config{URL: url})
	r := registry.New(registry.Config{Store: x.DB, Alone: x.DB.Alone()})
	far, err := store.Open(t.Context(), store.Config{URL: url, Seal: x.Box})
	ok(t, err)
	t.Cleanup(func() { far.Close() })
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); x.DB.FollowRegistry(ctx, time.Millisecond) }()
	t.Cleanup(func() { stop(); <-done })
	id, b := site(t, r)
	_, err = r.CreatePolicy(ctx, registry.Policy{Tenant: main.Tenant, Name: "own", Document: document("Allow", "iot:Connect", "client/*")})
	ok(t, err)
	there, start := registry.New(registry.Config{Store: far, Alone: far.Alone()}), time.Now()
	for _, attach := range []bool{true, false} {
		change := there.DetachPolicy
		if attach {
			change = there.AttachPolicy
		}
		ok(t, change(ctx, main, registry.CertificateTarget(id), "own"))
		for b.Allows("iot:Connect", "client/press") != attach {
			select {
			case <-r.Changed():
			case <-time.After(20 * time.Millisecond): // the change may have come before the channel was taken
			}
			if time.Since(start) > 30*time.Second {
				t.Fatal("the change never came")
			}
		}
	}
}

func TestAttachPolicy_TakesTenAndNoDynamicGroup(t *testing.T) {
	both(t, func(t *testing.T, _ *catest.Fixture, r *registry.Registry) {
		ctx := t.Context()
		id, _ := site(t, r)
		for i := range policy.MaxAttached + 1 {
			name := fmt.Sprintf("p%d", i)
			_, err := r.CreatePolicy(ctx, registry.Policy{Tenant: main.Tenant, Name: name, Document: document("Allow", "iot:Connect", "client/*")})
			ok(t, err)
			err = r.AttachPolicy(ctx, main, registry.CertificateTarget(id), name)
			if i < policy.MaxAttached {
				ok(t, err)
			} else {
				is(t, err, registry.ErrPolicyLimit)
			}
		}
		ok(t, r.AttachPolicy(ctx, main, registry.CertificateTarget(id), "p0")) // again
		_, err := r.CreateGroup(ctx, registry.Group{Tenant: main.Tenant, Class: registry.ThingGroup, Name: "dyn", Query: "thingName:p*"})
		ok(t, err)
		is(t, r.AttachPolicy(ctx, main, registry.GroupTarget("dyn"), "p0"), registry.ErrPolicyTarget)
		is(t, r.AttachPolicy(ctx, main, registry.GroupTarget("none"), "p0"), registry.ErrGroupUnknown)
		is(t, r.AttachPolicy(ctx, main, "else/x", "p0"), registry.ErrPolicyTarget)
		is(t, r.AttachPolicy(ctx, other, registry.CertificateTarget(id), "p0"), registry.ErrCertificateUnknown)
		is(t, r.AttachPolicy(ctx, main, registry.GroupTarget("low"), "P0"), registry.ErrPolicyUnknown)
		ok(t, r.AttachPolicy(ctx, main, registry.GroupTarget("top"), "p1"))
		if l, err := r.AttachedPolicies(ctx, main, registry.GroupTarget("low"), true); err != nil || fmt.Sprint(l) != "[p1]" {
			t.Errorf("%v %v", l, err)
		}
		if l, err := r.PolicyTargets(ctx, main, "p1", "", 0); err != nil || len(l) != 2 {
			t.Errorf("%v %v", l, err)
		}
		is(t, r.DropGroup(ctx, main, registry.ThingGroup, "top", 0), registry.ErrGroupInUse)
	})
}

func BenchmarkBind(b *testing.B) {
	f := catest.Open(b, catest.Config{})
	r := registry.New(registry.Config{Store: f.DB, Alone: f.DB.Alone()})
	maker := newCA(b, "maker")
	leaf := maker.leaf("d")
	c, err := r.PutCertificate(b.Context(), registry.NewCertificate(main.Tenant, leaf, registry.HowBYOC, fleet.Active), true)
	if err == nil {
		_, err = r.CreatePolicy(b.Context(), registry.Policy{Tenant: main.Tenant, Name: "p", Document: document("Allow", "iot:Connect", "client/*")})
	}
	if err == nil {
		err = r.AttachPolicy(b.Context(), main, registry.CertificateTarget(c.ID), "p")
	}
	if err != nil {
		b.Fatal(err)
	}
	b.Run("connection", func(b *testing.B) { bind(b, r, leaf) })
	b.Run("message", func(b *testing.B) {
		x := bind(b, r, leaf)
		b.ReportAllocs()
		for b.Loop() {
			if !x.Allows("iot:Connect", "client/a") {
				b.Fatal("refused")
			}
		}
	})
}

func bind(b *testing.B, r *registry.Registry, leaf *x509.Certificate) (x *registry.Binding) {
	for b.Loop() {
		var err error
		if x, err = r.Bind(b.Context(), registry.Connection{Tenant: main.Tenant, Certificate: leaf, ClientID: "a"}); err != nil {
			b.Fatal(err)
		}
	}
	return x
}

// What a database writer changes of what grants something, fsck names, and no
// connection gains by it (S32).
func TestS32_PoliciesAttachmentsAndCAsAreSealed(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x.db")
	x := catest.Open(t, catest.Config{URL: file})
	r := registry.New(registry.Config{Store: x.DB, Alone: x.DB.Alone()})
	ctx := t.Context()
	id, _ := site(t, r)
	leaf := newCA(t, "maker").leaf("e")
	spare, err := r.PutCertificate(ctx, registry.NewCertificate(main.Tenant, leaf, registry.HowBYOC, fleet.Inactive), true)
	ok(t, err)
	_, err = r.CreatePolicy(ctx, registry.Policy{Tenant: main.Tenant, Name: "p", Document: document("Allow", "iot:Connect", "client/*")})
	ok(t, err)
	_, err = r.CreatePolicyVersion(ctx, main, "p", document("Allow", "iot:Publish", "topic/*"), false)
	ok(t, err)
	ok(t, r.AttachPolicy(ctx, main, registry.GroupTarget("top"), "p"))
	_, err = r.RegisterCA(ctx, registry.CARegistration{Tenant: main.Tenant, Certificate: newCA(t, "maker").cert, Mode: registry.ModeSNIOnly})
	ok(t, err)
	_, err = r.CreateType(ctx, registry.Type{Tenant: main.Tenant, Name: "press"})
	ok(t, err)
	if got := findings(t, x, r); got != "" {
		t.Fatalf("before: %s", got)
	}
	db, err := sql.Open("sqlite", file)
	ok(t, err)
	defer db.Close()
	db.SetMaxOpenConns(1)
	tables := []string{"device_certificates", "thing_principals", "registered_cas", "policies", "policy_versions", "policy_attachments", "thing_groups", "thing_types", "thing_index"}
	run := func(q string) {
		t.Helper()
		if _, err := db.Exec(q); err != nil {
			t.Fatalf("%s: %v", q, err)
		}
	}
	for _, n := range tables {
		run("CREATE TEMP TABLE saved_" + n + " AS SELECT * FROM " + n)
	}
	for change, want := range map[string]string{
		`UPDATE device_certificates SET status = 'ACTIVE' WHERE id = '` + spare.ID + `'`:                        "row-tampered: device_certificates main/" + spare.ID,
		`DELETE FROM device_certificates WHERE id = '` + spare.ID + `'`:                                         "row-tampered: device_certificates main/" + spare.ID + ": the row was deleted",
		`UPDATE thing_principals SET kind = 'NON_EXCLUSIVE_THING'`:                                              "row-tampered: thing_principals main/" + id,
		`UPDATE registered_cas SET proven = 1`:                                                                  "row-tampered: registered_cas main/",
		`DELETE FROM registered_cas`:                                                                            "row-tampered: registered_cas main/",
		`UPDATE policies SET default_version = 2`:                                                               "row-tampered: policies main/p",
		`UPDATE policy_versions SET document = replace(document, 'Allow', 'Deny')`:                              "row-tampered: policy_versions main/p/1",
		`DELETE FROM policy_versions WHERE number = 1`:                                                          "policy-version-missing: policies main/p",
		`UPDATE policy_attachments SET target = 'cert/` + spare.ID + `'`:                                        "row-tampered: policy_attachments main/cert/" + spare.ID,
		`DELETE FROM policy_attachments`:                                                                        "row-tampered: policy_attachments main/thinggroup/top/p: the row was deleted",
		`UPDATE thing_groups SET parent = 'aside' WHERE folded = 'low'`:                                         "row-tampered: thing_groups main/thing/low",
		`DELETE FROM thing_groups WHERE folded = 'mid'`:                                                         "group-missing: thing_groups main/low",
		`DELETE FROM thing_types`:                                                                               "row-tampered: thing_types main/press: the row was deleted",
		`DELETE FROM thing_index WHERE field = 'group.direct'`:                                                  "index: thing_index main/press: The value of group.direct is missing.",
		`UPDATE thing_index SET text = 'other' WHERE field = 'attributes.hall'`:                                 "index: thing_index main/press",
		`INSERT INTO thing_index (tenant, thing, field, text) VALUES ('main', 'nobody', 'thingName', 'nobody')`: "thing-missing: thing_index main/nobody",
		`INSERT INTO policy_attachments (tenant, target, policy, attached_at, mac) SELECT tenant, 'cert/x', policy, attached_at, mac FROM policy_attachments`: "certificate-missing: policy_attachments cert/x",
	} {
		run(change)
		if got := findings(t, x, r); !strings.Contains(got, want) {
			t.Errorf("%s: fsck says %q", change, got)
		}
		for _, n := range tables {
			run("DELETE FROM " + n)
			run("INSERT INTO " + n + " SELECT * FROM saved_" + n)
		}
	}
}
