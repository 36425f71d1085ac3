package ota_test

import (
	"context"
	"fmt"
	"testing"

	"hallmark/fleet"
	"hallmark/fleet/ota/manifest"
	"hallmark/fleet/registry"
	"hallmark/fleet/shadow"
)

type deaf struct{}

func (deaf) Publish(context.Context, fleet.Message) error { return nil }

// TestBelowFloor_CountsVersionsAndDevicesEach: what is offered though a newer version
// closed it, and who runs such a thing.
func TestBelowFloor_CountsVersionsAndDevicesEach(t *testing.T) {
	s := newSite(t)
	shadows := shadow.New(shadow.Config{Store: s.DB, Publisher: deaf{}})
	runs := func(thing, class string, version manifest.Version) {
		t.Helper()
		_, err := s.Registry.CreateThing(t.Context(), registry.Thing{Tenant: scope.Tenant, Name: fleet.ThingName(thing)})
		must(t, err)
		_, err = shadows.Update(t.Context(), shadow.Key{Tenant: scope.Tenant, Thing: fleet.ThingName(thing)}, fmt.Appendf(nil, `{"state":{"reported":{"device":{"firmware":{"class":%q,"version":%q,"hardware":"rev-a","floor":"1.0"}}}}}`, class, version))
		must(t, err)
	}
	for i := range 3 {
		runs(fmt.Sprintf("old-%d", i), "lamp", "1.2")
	}
	runs("factory", "Lamp", "1.0") // the index knows no case, and nobody published this one
	runs("later", "lamp", "1.20")  // which is the number 1.2 to the index
	runs("good", "lamp", "1.10")
	runs("other", "pump", "1.0")
	runs("odd", "lamp", "yesterday's")
	_, err := s.Registry.CreateThing(t.Context(), registry.Thing{Tenant: scope.Tenant, Name: "silent"})
	must(t, err)
	is := func(versions, devices int64) {
		t.Helper()
		got, err := s.ota.Totals(t.Context())
		must(t, err)
		n, err := s.ota.DevicesBelow(t.Context())
		if err != nil || got.Below != versions || n != devices {
			t.Fatalf("%d versions and %d devices are below the floor, not %d and %d; %v", got.Below, n, versions, devices, err)
		}
	}
	is(0, 0)
	s.released("1.2", "good", nil)
	is(0, 0) // its floor is 1.0, which the factory's is not below
	s.released("1.10", "good", func(m *manifest.Manifest) { m.Floor = "1.3" })
	is(1, 4)
	// What was withdrawn sets none.
	_, err = s.ota.Withdraw(t.Context(), scope.Tenant, "lamp", "1.10", "bob")
	must(t, err)
	is(0, 0)
}
