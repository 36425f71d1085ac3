package main

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	"hallmark/fleet"
	"hallmark/fleet/presence"
	"hallmark/fleet/registry"
	"hallmark/web"
)

// Silence comes from two sources, things that left and things that never came,
// over more things than one batch reads: each is listed once, in order.
func TestBackend_SilentThingsMeetBothSourcesOnce(t *testing.T) {
	n, ctx := newBench(t, nil), t.Context()
	now := time.Now()
	const all = 1300
	var states []presence.State
	var want []string
	err := n.db.Atomic(ctx, func(ctx context.Context) error {
		for i := range all {
			name := fmt.Sprintf("T-%04d", i)
			if err := n.db.PutThing(ctx, registry.Thing{Tenant: n.scope.Tenant, Name: fleet.ThingName(name), CreatedAt: now.Add(-time.Duration(i%3) * time.Hour), UpdatedAt: now, Version: 1}, 0); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for i := range all {
		name := fmt.Sprintf("T-%04d", i)
		st := presence.State{Tenant: n.scope.Tenant, Client: name, Thing: fleet.ThingName(name), Session: "s", At: now.Add(-2 * time.Hour), Reason: "CONNECTION_LOST"}
		switch i % 5 {
		case 0: // it left long ago
			want = append(want, name)
		case 1: // it is there
			st.Connected, st.Reason = true, ""
		case 2: // it left a moment ago
			st.At = now.Add(-time.Minute)
		default: // it never came; two thirds were made long ago
			if i%3 > 0 {
				want = append(want, name)
			}
			continue
		}
		states = append(states, st)
	}
	if err := n.db.PutPresence(ctx, states); err != nil {
		t.Fatal(err)
	}
	for _, limit := range []int{500, 97} {
		var got []string
		pages := 0
		for p := (web.Page{Limit: limit}); ; {
			items, next, err := n.api.Things.SilentThings(ctx, n.scope, 30*time.Minute, p)
			if err != nil || len(items) > limit {
				t.Fatalf("%d items, %v", len(items), err)
			}
			for _, th := range items {
				got = append(got, th.Name)
			}
			if pages++; next == "" || pages > 100 {
				break
			}
			p.After = next
		}
		if !slices.Equal(got, want) {
			t.Errorf("in pages of %d: %d things, want %d", limit, len(got), len(want))
		}
	}
	if items, next, err := n.api.Things.SilentThings(ctx, n.stranger, time.Second, web.Page{Limit: 10}); err != nil || len(items) != 0 || next != "" {
		t.Errorf("another tenant sees %d, %v", len(items), err)
	}
	// A search pages in the same way.
	found := 0
	for p := (web.Page{Limit: 500}); ; {
		items, next, err := n.api.Things.SearchThings(ctx, n.scope, "connectivity.connected:true", p)
		if err != nil {
			t.Fatal(err)
		}
		if found += len(items); next == "" {
			break
		}
		p.After = next
	}
	if found != all/5 {
		t.Errorf("%d things are connected, want %d", found, all/5)
	}
}
