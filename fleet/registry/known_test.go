package registry_test

import (
	"context"
	"sync/atomic"
	"testing"

	"hallmark/access"
	"hallmark/fleet"
	"hallmark/fleet/registry"
)

// counting counts the looks at certificates.
type counting struct {
	registry.Store
	looks atomic.Int64
}

func (c *counting) CertificatesByID(ctx context.Context, id string) ([]registry.Certificate, error) {
	c.looks.Add(1)
	return c.Store.CertificatesByID(ctx, id)
}

func (c *counting) Certificate(ctx context.Context, s access.Scope, id string) (registry.Certificate, error) {
	c.looks.Add(1)
	return c.Store.Certificate(ctx, s, id)
}

// A certificate that connects again is not looked for again, until anything that
// counts for it changes. A node among others asks each time.
func TestAtDoor_RemembersUntilSomethingChanges(t *testing.T) {
	f, _ := open(t)
	for _, alone := range []bool{true, false} {
		s := &counting{Store: f.DB}
		r := registry.New(registry.Config{Store: s, Alone: alone})
		ctx := t.Context()
		name := map[bool]string{true: "alone", false: "among"}[alone]
		leaf := newCA(t, "maker of "+name).leaf(name)
		c, err := r.PutCertificate(ctx, registry.NewCertificate(main.Tenant, leaf, registry.HowBYOC, fleet.Active), true)
		ok(t, err)
		_, err = r.CreateThing(ctx, registry.Thing{Tenant: main.Tenant, Name: fleet.ThingName(name)})
		ok(t, err)
		for _, p := range []string{"one-" + name, "two-" + name} {
			_, err = r.CreatePolicy(ctx, registry.Policy{Tenant: main.Tenant, Name: p, Document: document("Allow", "iot:Publish", "topic/"+p)})
			ok(t, err)
		}
		ok(t, r.AttachPolicy(ctx, main, registry.CertificateTarget(c.ID), "one-"+name))
		ok(t, r.Attach(ctx, main, fleet.ThingName(name), c.ID, registry.Exclusive, false))
		// look connects twice and gives what is known, and how often it was looked for.
		look := func() (*registry.Known, *registry.Binding, int64) {
			t.Helper()
			var k *registry.Known
			var b *registry.Binding
			before := s.looks.Load()
			for range 2 {
				k, err = r.AtDoor(ctx, c.ID, "")
				if err != nil {
					return nil, nil, s.looks.Load() - before
				}
				b, err = r.Bind(ctx, registry.Connection{Tenant: main.Tenant, Certificate: leaf, ClientID: name})
				ok(t, err)
			}
			return k, b, s.looks.Load() - before
		}
		first, b, n := look()
		if alone && n != 1 || !alone && n != 4 {
			t.Errorf("%s: %d looks for two connects", name, n)
		}
		if first.Stands() != alone || first.Certificate.Status != fleet.Active || len(first.Things) != 1 || b.Thing() != fleet.ThingName(name) {
			t.Errorf("%s: %+v", name, first)
		}
		if k, _ := r.AtDoor(ctx, c.ID, "another"); k != nil {
			t.Errorf("%s: another tenant gets it", name)
		}
		may := func(b *registry.Binding, p string) bool { return b.Allows("iot:Publish", "topic/"+p) }
		for _, change := range []struct {
			what string
			do   func() error
			then func(k *registry.Known, b *registry.Binding) bool
		}{
			{"a policy is attached", func() error { return r.AttachPolicy(ctx, main, registry.CertificateTarget(c.ID), "two-"+name) },
				func(k *registry.Known, b *registry.Binding) bool { return may(b, "one-"+name) && may(b, "two-"+name) }},
			{"a policy says something else", func() error {
				_, err := r.CreatePolicyVersion(ctx, main, "two-"+name, document("Deny", "iot:Publish", "*"), true)
				return err
			}, func(k *registry.Known, b *registry.Binding) bool { return !may(b, "one-"+name) }},
			{"a policy is detached", func() error { return r.DetachPolicy(ctx, main, registry.CertificateTarget(c.ID), "two-"+name) },
				func(k *registry.Known, b *registry.Binding) bool { return may(b, "one-"+name) }},
			{"the thing changes", func() error {
				_, err := r.UpdateThing(ctx, main, fleet.ThingName(name), registry.ThingChange{Attributes: map[string]string{"a": "b"}})
				return err
			}, func(k *registry.Known, b *registry.Binding) bool { return len(k.Things) == 1 }},
			{"the thing is detached", func() error { return r.Detach(ctx, main, fleet.ThingName(name), c.ID) },
				func(k *registry.Known, b *registry.Binding) bool { return len(k.Things) == 0 && b.Thing() == "" }},
			{"the thing is attached again", func() error { return r.Attach(ctx, main, fleet.ThingName(name), c.ID, registry.Exclusive, false) },
				func(k *registry.Known, b *registry.Binding) bool { return len(k.Things) == 1 && may(b, "one-"+name) }},
			{"another tenant has it too", func() error {
				_, err := r.PutCertificate(ctx, registry.NewCertificate(other.Tenant, leaf, registry.HowBYOC, fleet.Inactive), true)
				return err
			}, func(k *registry.Known, b *registry.Binding) bool { return k == nil }},
			{"the other tenant drops it", func() error { return r.DropCertificate(ctx, other, c.ID, true) },
				func(k *registry.Known, b *registry.Binding) bool {
					return k != nil && k.Certificate.Tenant == main.Tenant
				}},
			{"it is set inactive", func() error {
				_, err := r.SetCertificateStatus(ctx, main, c.ID, fleet.Inactive)
				return err
			}, func(k *registry.Known, b *registry.Binding) bool {
				return k.Certificate.Status == fleet.Inactive && !may(b, "one-"+name)
			}},
			{"it is set active", func() error {
				_, err := r.SetCertificateStatus(ctx, main, c.ID, fleet.Active)
				return err
			}, func(k *registry.Known, b *registry.Binding) bool {
				return k.Certificate.Status == fleet.Active && may(b, "one-"+name)
			}},
			{"it is revoked", func() error {
				_, err := r.SetCertificateStatus(ctx, main, c.ID, fleet.Revoked)
				return err
			}, func(k *registry.Known, b *registry.Binding) bool {
				return k.Certificate.Status == fleet.Revoked && !may(b, "one-"+name)
			}},
		} {
			was, _, _ := look()
			if err := change.do(); err != nil {
				t.Fatalf("%s: %s: %v", name, change.what, err)
			}
			if was != nil && was.Stands() {
				t.Errorf("%s: what was known still stands after %s", name, change.what)
			}
			k, b, _ := look()
			if !change.then(k, b) {
				t.Errorf("%s: after %s: %+v", name, change.what, k)
			}
		}
	}
}
