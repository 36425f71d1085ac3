package registry_test

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"hallmark/access"
	"hallmark/ca/catest"
	"hallmark/fleet"
	"hallmark/fleet/registry"
	"hallmark/fleet/shadow"
)

func names(l []fleet.ThingName) string {
	var out []string
	for _, n := range l {
		out = append(out, string(n))
	}
	return strings.Join(out, " ")
}

func TestGroup_NestsToSevenAndListsThingsInPages(t *testing.T) {
	both(t, func(t *testing.T, _ *catest.Fixture, r *registry.Registry) {
		ctx := t.Context()
		group := func(name, parent string) error {
			_, err := r.CreateGroup(ctx, registry.Group{Tenant: main.Tenant, Class: registry.ThingGroup, Name: name, Parent: parent})
			return err
		}
		parent := ""
		for i := range registry.MaxGroupDepth {
			ok(t, group(fmt.Sprintf("g%d", i), parent))
			parent = fmt.Sprintf("g%d", i)
		}
		is(t, group("g7", parent), registry.ErrGroupDepth)
		is(t, group("x", "none"), registry.ErrGroupUnknown)
		is(t, group("G0", ""), registry.ErrGroupExists)
		is(t, group("a b", ""), registry.ErrGroupInvalid)
		for i := range 12 {
			n := fleet.ThingName(fmt.Sprintf("T-%02d", i))
			_, err := r.CreateThing(ctx, registry.Thing{Tenant: main.Tenant, Name: n})
			ok(t, err)
			ok(t, r.AddToGroup(ctx, main, registry.ThingGroup, fmt.Sprintf("g%d", i%3), n))
		}
		if l, err := r.GroupThings(ctx, main, registry.ThingGroup, "g1", false, "", 0); err != nil || names(l) != "T-01 T-04 T-07 T-10" {
			t.Errorf("%s %v", names(l), err)
		}
		if l, err := r.GroupThings(ctx, main, registry.ThingGroup, "g1", true, "t-04", 3); err != nil || names(l) != "T-05 T-07 T-08" {
			t.Errorf("%s %v", names(l), err)
		}
		// As jobs ask.
		for target, want := range map[string]string{"thinggroup/g2": "T-02 T-05 T-08 T-11", "g2": "T-02 T-05 T-08 T-11", "thing/T-03": "T-03", "t-03": "T-03"} {
			if l, err := r.Things(ctx, main.Tenant, target, "", 100); err != nil || names(l) != want {
				t.Errorf("%s: %s %v", target, names(l), err)
			}
		}
		if l, err := r.Things(ctx, main.Tenant, "thing/T-03", "T-03", 100); err != nil || len(l) != 0 {
			t.Errorf("%v %v", l, err)
		}
		_, err := r.Things(ctx, other.Tenant, "g2", "", 100)
		is(t, err, registry.ErrThingUnknown)
		// A change by its version; and away with all of them.
		text := "new"
		_, err = r.UpdateGroup(ctx, main, registry.ThingGroup, "g2", registry.GroupChange{Description: &text, ExpectedVersion: 9})
		is(t, err, registry.ErrVersion)
		g, err := r.UpdateGroup(ctx, main, registry.ThingGroup, "g2", registry.GroupChange{Description: &text, Tags: map[string]string{"cost": "7"}, ExpectedVersion: 1})
		ok(t, err)
		if g.Version != 2 || g.Parent != "g1" || g.Depth != 3 {
			t.Errorf("%+v", g)
		}
		is(t, r.DropGroup(ctx, main, registry.ThingGroup, "g2", 0), registry.ErrGroupInUse)
		for i := registry.MaxGroupDepth - 1; i >= 2; i-- {
			ok(t, r.DropGroup(ctx, main, registry.ThingGroup, fmt.Sprintf("g%d", i), 0))
		}
		if th, err := r.Get(ctx, main, "T-02"); err != nil || len(th.Groups) != 0 || th.Version != 3 {
			t.Errorf("%+v %v", th, err)
		}
		if l, err := r.GroupThings(ctx, main, registry.ThingGroup, "g0", true, "", 0); err != nil || len(l) != 8 {
			t.Errorf("%s %v", names(l), err)
		}
		// Billing groups: one each.
		for _, n := range []string{"b1", "b2"} {
			_, err := r.CreateGroup(ctx, registry.Group{Tenant: main.Tenant, Class: registry.BillingGroup, Name: n})
			ok(t, err)
			ok(t, r.AddToGroup(ctx, main, registry.BillingGroup, n, "T-00"))
		}
		for n, want := range map[string]string{"b1": "", "b2": "T-00"} {
			if l, err := r.GroupThings(ctx, main, registry.BillingGroup, n, false, "", 0); err != nil || names(l) != want {
				t.Errorf("%s: %s %v", n, names(l), err)
			}
		}
	})
}

type deaf struct{}

func (deaf) Publish(context.Context, fleet.Message) error { return nil }

// A dynamic group is what its query finds, after every kind of change.
func TestDynamicGroup_FollowsItsQuery(t *testing.T) {
	both(t, func(t *testing.T, x *catest.Fixture, r *registry.Registry) {
		ctx := t.Context()
		for i := range 30 {
			_, err := r.CreateThing(ctx, registry.Thing{Tenant: main.Tenant, Name: fleet.ThingName(fmt.Sprintf("t-%02d", i)), Attributes: map[string]string{"hall": fmt.Sprint(i % 3)}})
			ok(t, err)
		}
		build := func() {
			t.Helper()
			for more := true; more; {
				var err error
				more, err = r.Build(ctx)
				ok(t, err)
			}
		}
		g, err := r.CreateGroup(ctx, registry.Group{Tenant: main.Tenant, Class: registry.ThingGroup, Name: "warm", Query: "attributes.hall:2 AND shadow.reported.heat > 50"})
		ok(t, err)
		if g.Status != registry.GroupBuilding {
			t.Errorf("%+v", g)
		}
		build()
		members := func(want string) {
			t.Helper()
			if l, err := r.Things(ctx, main.Tenant, "thinggroup/warm", "", 100); err != nil || names(l) != want {
				t.Errorf("members %q, want %q: %v", names(l), want, err)
			}
		}
		members("")
		shadows := shadow.New(shadow.Config{Store: x.DB, Publisher: deaf{}})
		heat := func(n string, v any) {
			t.Helper()
			state, err := json.Marshal(map[string]any{"state": map[string]any{"reported": map[string]any{"heat": v}}})
			ok(t, err)
			_, err = shadows.Update(ctx, shadow.Key{Tenant: main.Tenant, Thing: fleet.ThingName(n)}, state)
			ok(t, err)
		}
		heat("t-02", 60.0)
		heat("t-05", 50.0)
		heat("t-03", 70.0)
		heat("nobody", 70.0)
		members("t-02")
		_, err = r.UpdateThing(ctx, main, "t-03", registry.ThingChange{Attributes: map[string]string{"hall": "2"}})
		ok(t, err)
		members("t-02 t-03")
		if l, err := r.DynamicGroupsOf(ctx, main, "t-03"); err != nil || fmt.Sprint(l) != "[warm]" {
			t.Errorf("%v %v", l, err)
		}
		heat("t-02", nil)
		members("t-03")
		// A job's transaction sees it, and one that fails leaves nothing.
		err = x.DB.Atomic(ctx, func(ctx context.Context) error {
			if err := x.DB.Index(ctx, main.Tenant, "t-02", registry.PrefixShadow, map[string]any{"reported": map[string]any{"heat": 99}}); err != nil {
				return err
			}
			return registry.ErrQuery.New("")
		})
		is(t, err, registry.ErrQuery)
		members("t-03")
		is(t, r.AddToGroup(ctx, main, registry.ThingGroup, "warm", "t-00"), registry.ErrGroupInvalid)
		query := "attributes.hall:1 OR thingName:t-03"
		_, err = r.UpdateGroup(ctx, main, registry.ThingGroup, "warm", registry.GroupChange{Query: &query})
		ok(t, err)
		build()
		members("t-01 t-03 t-04 t-07 t-10 t-13 t-16 t-19 t-22 t-25 t-28")
		ok(t, r.DropThing(ctx, main, "t-04", 0))
		members("t-01 t-03 t-07 t-10 t-13 t-16 t-19 t-22 t-25 t-28")
		ok(t, r.DropGroup(ctx, main, registry.ThingGroup, "warm", 0))
		if l, err := r.DynamicGroupsOf(ctx, main, "t-03"); err != nil || len(l) != 0 {
			t.Errorf("%v %v", l, err)
		}
		_, err = r.CreateGroup(ctx, registry.Group{Tenant: main.Tenant, Class: registry.ThingGroup, Name: "bad", Query: "attributes.hall:["})
		is(t, err, registry.ErrFilter)
		if found, err := r.Fsck(ctx); err != nil || len(found) != 0 {
			t.Errorf("%v %v", found, err)
		}
	})
}

func TestSearch_SeesCertificatesAndTenants(t *testing.T) {
	both(t, func(t *testing.T, x *catest.Fixture, r *registry.Registry) {
		ctx := t.Context()
		_, serial := put(t, x, r, thing("press", "SN-1", "site", "A"))
		put(t, x, r, thing("oven", "SN-2", "site", "A"))
		find := func(s access.Scope, q, want string) {
			t.Helper()
			got, err := r.Search(ctx, s, q, "", 0)
			ok(t, err)
			var l []fleet.ThingName
			for _, th := range got.Things {
				l = append(l, th.Name)
			}
			n, err := r.Count(ctx, s, q)
			ok(t, err)
			if names(l) != want || int(n) != len(l) {
				t.Errorf("%s: %q (%d), want %q", q, names(l), n, want)
			}
		}
		find(main, "certificate.status:active", "oven press")
		ok(t, r.SetStatus(ctx, main, catest.Device, serial, fleet.Inactive))
		find(main, "certificate.status:active", "oven")
		find(main, "certificate.status:INACTIVE attributes.site:a", "press")
		find(main, "certificate.authority:"+catest.Device+" -certificate.status:inactive", "oven")
		find(other, "*", "")
		find(other, "certificate.status:*", "")
	})
}
