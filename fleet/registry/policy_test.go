package registry_test

import (
	"crypto/x509"
	"fmt"
	"testing"

	"hallmark/ca/catest"
	"hallmark/fleet"
	"hallmark/fleet/policy"
	"hallmark/fleet/registry"
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
	r := registry.New(registry.Config{Store: f.DB})
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
