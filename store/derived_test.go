package store_test

import (
	"database/sql"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/fleet"
	"hallmark/fleet/presence"
	"hallmark/fleet/registry"
	"hallmark/fleet/shadow"
	"hallmark/store"
)

// kept is a registry with the runtime's domains on one database.
type kept struct {
	db       *store.DB
	reg      *registry.Registry
	shadows  *shadow.Service
	presence *presence.Service
	now      time.Time
}

func newKept(db *store.DB) *kept {
	k := &kept{db: db, now: time.UnixMilli(1_800_000_000_000).UTC()}
	now := func() time.Time { return k.now }
	k.reg = registry.New(registry.Config{Store: db, Alone: db.Alone(), Now: now})
	k.shadows = shadow.New(shadow.Config{Store: db, Publisher: deaf{}, Now: now})
	k.presence = presence.New(presence.Config{Store: db, Publisher: deaf{}, Node: "n1", Now: now})
	return k
}

func (k *kept) thing(t *testing.T, name string) {
	t.Helper()
	_, err := k.reg.CreateThing(t.Context(), registry.Thing{Tenant: "main", Name: fleet.ThingName(name)})
	must(t, err)
}

func (k *kept) update(t *testing.T, thing, name, state string) {
	t.Helper()
	_, err := k.shadows.Update(t.Context(), shadow.Key{Tenant: "main", Thing: fleet.ThingName(thing), Name: name}, []byte(`{"state":`+state+`}`))
	must(t, err)
}

func (k *kept) online(t *testing.T, thing, client string, connected bool) {
	t.Helper()
	must(t, k.db.PutPresence(t.Context(), []presence.State{{Tenant: "main", Client: client, Thing: fleet.ThingName(thing), Certificate: "c", Node: "n1", Session: client + "-s", Connected: connected, At: k.now, Reason: map[bool]string{false: "CONNECTION_LOST"}[connected]}}))
}

func (k *kept) find(t *testing.T, query string) []string {
	t.Helper()
	got, err := k.reg.Search(t.Context(), access.Scope{Tenant: "main"}, query, "", 100)
	must(t, err)
	var names []string
	for _, th := range got.Things {
		names = append(names, string(th.Name))
	}
	return names
}

func (k *kept) want(t *testing.T, query string, names ...string) {
	t.Helper()
	if got := k.find(t, query); !slices.Equal(got, names) {
		t.Errorf("%s finds %v, want %v", query, got, names)
	}
}

func (k *kept) fsck(t *testing.T) (out []string) {
	t.Helper()
	found, err := k.reg.Fsck(t.Context())
	must(t, err)
	for _, f := range found {
		out = append(out, f.Check+": "+f.Object+": "+f.Detail)
	}
	return out
}

// TestSearch_WhatDevicesSaidIsDerivedFromSealedRows_S32: a row of the index that
// says other than the sealed rows of shadows and presence is named, whichever way
// somebody changed it, and so is a changed presence row. What fsck says is clean
// after every honest change, in whatever order.
func TestSearch_WhatDevicesSaidIsDerivedFromSealedRows_S32(t *testing.T) {
	bothEngines(t, func(t *testing.T, url, driver string, a, b *store.DB) {
		k := newKept(a)
		raw, err := sql.Open(driver, url)
		must(t, err)
		defer raw.Close()
		k.thing(t, "Press-7")
		k.update(t, "Press-7", "", `{"reported":{"lamp":"on"},"desired":{"lamp":"off"}}`)
		k.update(t, "Press-7", "config", `{"reported":{"mode":1}}`)
		k.online(t, "Press-7", "Press-7", true)
		// What was there before the thing counts from its registration on, and
		// another spelling of a name is another shadow.
		k.update(t, "press-9", "", `{"reported":{"lamp":"early"}}`)
		k.online(t, "press-9", "press-9", false)
		k.thing(t, "press-9")
		k.update(t, "PRESS-7", "", `{"reported":{"lamp":"forged"}}`)
		k.want(t, "shadow.reported.lamp:forged")
		k.want(t, "shadow.reported.lamp:early", "press-9")
		k.want(t, "connectivity.connected:false", "press-9")
		k.want(t, "shadow.name.config.reported.mode:1", "Press-7")
		_, err = k.reg.CreateGroup(t.Context(), registry.Group{Tenant: "main", Class: registry.ThingGroup, Name: "lit", Query: "shadow.reported.lamp:on"})
		must(t, err)
		for more := true; more; {
			more, err = k.reg.Build(t.Context())
			must(t, err)
		}
		if f := k.fsck(t); len(f) > 0 {
			t.Fatalf("before anything: %v", f)
		}
		for _, c := range []struct{ change, back, want string }{
			{`UPDATE thing_index SET text = 'on' WHERE thing = 'press-9' AND field = 'shadow.reported.lamp'`, `UPDATE thing_index SET text = 'early' WHERE thing = 'press-9' AND field = 'shadow.reported.lamp'`, "index: thing_index main/press-9"},
			{`UPDATE thing_index SET text = 'false' WHERE thing = 'press-7' AND field = 'connectivity.connected'`, `UPDATE thing_index SET text = 'true' WHERE thing = 'press-7' AND field = 'connectivity.connected'`, "index: thing_index main/press-7"},
			{`DELETE FROM thing_index WHERE thing = 'press-7' AND field = 'shadow.hasDelta' AND text = 'true'`, `INSERT INTO thing_index (tenant, thing, field, text) VALUES ('main', 'press-7', 'shadow.hasDelta', 'true')`, "index: thing_index main/press-7: The value of shadow.hasDelta is missing."},
			{`INSERT INTO thing_index (tenant, thing, field, text) VALUES ('main', 'press-9', 'shadow.reported.extra', 'x')`, `DELETE FROM thing_index WHERE field = 'shadow.reported.extra'`, "index: thing_index main/press-9: A value of shadow.reported.extra is too many."},
			{`UPDATE presence SET connected = 0 WHERE client = 'Press-7'`, `UPDATE presence SET connected = 1 WHERE client = 'Press-7'`, "row-tampered: presence main/Press-7"},
			{`UPDATE presence SET at = at + 1 WHERE client = 'press-9'`, `UPDATE presence SET at = at - 1 WHERE client = 'press-9'`, "row-tampered: presence main/press-9"},
			{`UPDATE presence SET thing = 'press-7' WHERE client = 'press-9'`, `UPDATE presence SET thing = 'press-9' WHERE client = 'press-9'`, "row-tampered: presence main/press-9"},
		} {
			if _, err := raw.ExecContext(t.Context(), c.change); err != nil {
				t.Fatalf("%s: %v", c.change, err)
			}
			if got := strings.Join(k.fsck(t), "\n"); !strings.Contains(got, c.want) {
				t.Errorf("%s: found %q, want %s", c.change, got, c.want)
			}
			if _, err := raw.ExecContext(t.Context(), c.back); err != nil {
				t.Fatal(err)
			}
		}
		if f := k.fsck(t); len(f) > 0 {
			t.Errorf("put back: %v", f)
		}
		// A changed row is not believed either.
		if _, err := raw.ExecContext(t.Context(), `UPDATE presence SET reason = 'x' WHERE client = 'press-9'`); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Presence(t.Context(), access.Scope{Tenant: "main"}, "press-9"); !errors.Is(err, store.ErrRowTampered) {
			t.Errorf("%v", err)
		}
		k.online(t, "press-9", "press-9", true) // what is true now is written over it
		k.want(t, "connectivity.connected:true", "Press-7", "press-9")

		// Two clients of one thing; a node that died; a shadow that is deleted.
		k.now = k.now.Add(time.Second)
		k.online(t, "Press-7", "Press-7-1", false)
		k.want(t, "connectivity.connected:true", "Press-7", "press-9")
		n, err := b.ResetPresence(t.Context(), "n1", "SERVER_ERROR", k.now.Add(time.Second))
		if err != nil || n != 2 {
			t.Errorf("reset %d, %v", n, err)
		}
		k.want(t, "connectivity.connected:true")
		k.want(t, "connectivity.disconnectReason:SERVER_ERROR", "Press-7", "press-9")
		_, err = k.shadows.Delete(t.Context(), shadow.Key{Tenant: "main", Thing: "Press-7"})
		must(t, err)
		k.want(t, "shadow.reported.lamp:on")
		k.want(t, "thingGroupNames:lit")
		if f := k.fsck(t); len(f) > 0 {
			t.Errorf("after honest changes: %v", f)
		}
	})
}

// TestRetention_WhatDevicesSaidHasAnEnd_S43: last connections, shadows of nobody
// and, if it is wanted, shadows that nobody updates; a thing's go with it, and who
// gets its name next, here or in another tenant, sees none of them.
func TestRetention_WhatDevicesSaidHasAnEnd_S43(t *testing.T) {
	bothEngines(t, func(t *testing.T, _, _ string, a, b *store.DB) {
		k := newKept(a)
		main, day := access.Scope{Tenant: "main"}, 24*time.Hour
		get := func(tenant, thing, name string) error {
			_, err := k.shadows.Get(t.Context(), shadow.Key{Tenant: tenant, Thing: fleet.ThingName(thing), Name: name})
			return err
		}
		k.thing(t, "here")
		k.update(t, "here", "", `{"reported":{"a":1}}`)
		k.update(t, "nobody", "", `{"reported":{"a":1}}`)
		k.update(t, "nobody", "x", `{"reported":{"a":1}}`)
		k.online(t, "here", "here", false)
		k.online(t, "stays", "stays", true)
		k.now = k.now.Add(40 * day)
		k.update(t, "nobody", "x", `{"reported":{"a":2}}`)

		if n, err := k.shadows.Retain(t.Context(), 30*day, 0); n != 1 || err != nil {
			t.Errorf("%d shadows, %v", n, err)
		}
		if err := get("main", "nobody", ""); !errors.Is(err, shadow.ErrUnknown) {
			t.Errorf("the orphan: %v", err)
		}
		must(t, get("main", "nobody", "x"))
		must(t, get("main", "here", ""))
		if n, err := k.presence.Retain(t.Context(), 50*day); n != 0 || err != nil {
			t.Errorf("%d states, %v", n, err)
		}
		if n, err := k.presence.Retain(t.Context(), 30*day); n != 1 || err != nil {
			t.Errorf("%d states, %v", n, err)
		}
		k.want(t, "connectivity.connected:false")
		if p, err := b.Presence(t.Context(), main, "stays"); err != nil || len(p) != 1 {
			t.Errorf("who is connected is forgotten: %v %v", p, err)
		}
		if n, err := k.shadows.Retain(t.Context(), 0, 30*day); n != 1 || err != nil {
			t.Errorf("%d shadows, %v", n, err)
		}
		k.want(t, "shadow.reported.a:1")
		if f := k.fsck(t); len(f) > 0 {
			t.Errorf("fsck: %v", f)
		}

		k.update(t, "here", "", `{"reported":{"owner":"the first"}}`)
		k.online(t, "here", "here", false)
		must(t, k.reg.DropThing(t.Context(), main, "here", 0))
		k.thing(t, "here")
		if err := get("main", "here", ""); !errors.Is(err, shadow.ErrUnknown) {
			t.Errorf("the next owner: %v", err)
		}
		if p, err := b.Presence(t.Context(), main, "here"); err != nil || len(p) != 0 {
			t.Errorf("the next owner sees %v %v", p, err)
		}
		k.want(t, "shadow.reported.owner:*")
		if err := get("other", "here", ""); !errors.Is(err, shadow.ErrUnknown) {
			t.Errorf("another tenant: %v", err)
		}
		if f := k.fsck(t); len(f) > 0 {
			t.Errorf("fsck: %v", f)
		}
	})
}
