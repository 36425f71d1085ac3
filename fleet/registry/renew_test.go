package registry_test

import (
	"testing"

	"hallmark/ca/catest"
	"hallmark/fleet"
	"hallmark/fleet/registry"
)

// TestBind_ANumberedClientIsNotAnotherThing_S25_A69: sensor may connect as sensor-1
// while nobody is called so. From the moment that a thing is, only that thing may;
// no policy of sensor's helps, and its own name stays its own.
func TestBind_ANumberedClientIsNotAnotherThing_S25_A69(t *testing.T) {
	both(t, func(t *testing.T, _ *catest.Fixture, r *registry.Registry) {
		ctx, maker := t.Context(), newCA(t, "maker")
		_, err := r.CreatePolicy(ctx, registry.Policy{Tenant: main.Tenant, Name: "loose", Document: document("Allow", "iot:*", "*")})
		ok(t, err)
		device := func(thing string) func(client string) *registry.Binding {
			leaf := maker.leaf(thing)
			c, err := r.PutCertificate(ctx, registry.NewCertificate(main.Tenant, leaf, registry.HowBYOC, fleet.Active), true)
			ok(t, err)
			_, err = r.CreateThing(ctx, registry.Thing{Tenant: main.Tenant, Name: fleet.ThingName(thing)})
			ok(t, err)
			ok(t, r.Attach(ctx, main, fleet.ThingName(thing), c.ID, registry.Exclusive, false))
			ok(t, r.AttachPolicy(ctx, main, registry.CertificateTarget(c.ID), "loose"))
			return func(client string) *registry.Binding {
				b, err := r.Bind(ctx, registry.Connection{Tenant: main.Tenant, Certificate: leaf, ClientID: client})
				ok(t, err)
				return b
			}
		}
		sensor := device("sensor")
		early := sensor("sensor-1")
		if !early.Allows("iot:Connect", "client/sensor-1") || !early.Allows("iot:Publish", "topic/a") {
			t.Error("a number of its own is refused")
		}
		other := device("sensor-1")
		for name, b := range map[string]*registry.Binding{"one from before": early, "a new one": sensor("sensor-1"), "another spelling": sensor("SENSOR-1")} {
			if b.Allows("iot:Connect", "client/sensor-1") || b.Allows("iot:Publish", "topic/a") {
				t.Errorf("%s is taken for the thing sensor-1", name)
			}
		}
		for _, b := range []*registry.Binding{other("sensor-1"), other("sensor-1-1"), sensor("sensor"), sensor("sensor-2")} {
			if !b.Allows("iot:Publish", "topic/a") {
				t.Error("an owner is refused")
			}
		}
	})
}

// TestBind_OfSeveralThingsTheClientIdentifierChooses: the connection's thing is the
// one that is named like the client identifier, and without one the variables of
// things match nothing.
func TestBind_OfSeveralThingsTheClientIdentifierChooses(t *testing.T) {
	both(t, func(t *testing.T, _ *catest.Fixture, r *registry.Registry) {
		ctx, leaf := t.Context(), newCA(t, "maker").leaf("gateway")
		c, err := r.PutCertificate(ctx, registry.NewCertificate(main.Tenant, leaf, registry.HowBYOC, fleet.Active), true)
		ok(t, err)
		_, err = r.CreatePolicy(ctx, registry.Policy{Tenant: main.Tenant, Name: "own", Document: document("Allow", "iot:Publish", "topic/dt/${iot:Connection.Thing.ThingName}")})
		ok(t, err)
		ok(t, r.AttachPolicy(ctx, main, registry.CertificateTarget(c.ID), "own"))
		for _, n := range []fleet.ThingName{"a", "b"} {
			_, err = r.CreateThing(ctx, registry.Thing{Tenant: main.Tenant, Name: n})
			ok(t, err)
			ok(t, r.Attach(ctx, main, n, c.ID, registry.NonExclusive, false))
		}
		for client, want := range map[string]fleet.ThingName{"a": "a", "b": "b", "a-1": "", "c": ""} {
			b, err := r.Bind(ctx, registry.Connection{Tenant: main.Tenant, Certificate: leaf, ClientID: client})
			ok(t, err)
			if b.Thing() != want || want != "" && (!b.Allows("iot:Publish", "topic/dt/"+string(want)) || b.Allows("iot:Publish", "topic/dt/other")) {
				t.Errorf("client %s acts for %q, want %q", client, b.Thing(), want)
			}
		}
	})
}
