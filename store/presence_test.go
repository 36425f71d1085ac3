package store_test

import (
	"testing"
	"time"

	"hallmark/access"
	"hallmark/fleet"
	"hallmark/fleet/presence"
	"hallmark/store"
)

func TestPresence_TheNewestConnectionCountsAndOtherTenantsSeeNothing(t *testing.T) {
	bothEngines(t, func(t *testing.T, _, _ string, a, b *store.DB) {
		now := time.UnixMilli(1_800_000_000_000).UTC()
		main := access.Scope{Tenant: "main"}
		state := func(client, session string, connected bool, after time.Duration) presence.State {
			return presence.State{Tenant: "main", Client: client, Thing: "Press-7", Certificate: "c", Node: "n1", Session: session, Connected: connected, At: now.Add(after)}
		}
		put := func(db *store.DB, s ...presence.State) {
			t.Helper()
			if err := db.PutPresence(t.Context(), s); err != nil {
				t.Fatal(err)
			}
		}
		look := func() presence.State {
			t.Helper()
			got, err := b.Presence(t.Context(), main, "press-7")
			if err != nil || len(got) != 1 {
				t.Fatalf("%v %v", got, err)
			}
			return got[0]
		}
		put(a, state("Press-7", "s1", true, 0))
		put(b, state("Press-7", "s2", true, time.Second))
		put(a, state("Press-7", "s1", false, 2*time.Second)) // the end of the one that was taken over
		if s := look(); !s.Connected || s.Session != "s2" || s.Thing != "Press-7" {
			t.Errorf("after a takeover: %+v", s)
		}
		put(a, state("Press-7", "s2", false, 3*time.Second))
		put(a, state("Press-7", "s0", true, time.Millisecond)) // an old word
		if s := look(); s.Connected || !s.At.Equal(now.Add(3*time.Second)) {
			t.Errorf("after its end: %+v", s)
		}
		if got, err := a.Presence(t.Context(), access.Scope{Tenant: "other"}, "press-7"); err != nil || len(got) != 0 {
			t.Errorf("another tenant sees %v, %v", got, err)
		}

		silent := func(since time.Duration) (names []fleet.ThingName) {
			t.Helper()
			got, err := a.SilentThings(t.Context(), main, now.Add(since), "", 10)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range got {
				names = append(names, s.Thing)
			}
			return names
		}
		if n := silent(3 * time.Second); len(n) != 0 {
			t.Errorf("heard of at that time: %v", n)
		}
		if n := silent(4 * time.Second); len(n) != 1 {
			t.Errorf("silent since: %v", n)
		}
		put(a, state("Press-7-1", "x1", true, 0)) // a second connection of the thing
		if n := silent(time.Hour); len(n) != 0 {
			t.Errorf("connected by its second client: %v", n)
		}
		// A node that comes back has none of its former connections.
		if n, err := b.ResetPresence(t.Context(), "n1", "SERVER_ERROR", now.Add(time.Minute)); err != nil || n != 1 {
			t.Errorf("reset %d, %v", n, err)
		}
		if n := silent(time.Hour); len(n) != 1 {
			t.Errorf("after the reset: %v", n)
		}
	})
}

func TestPresence_AConnectionThatCameAndWentBetweenTwoWritesIsOver(t *testing.T) {
	bothEngines(t, func(t *testing.T, _, _ string, a, _ *store.DB) {
		svc := presence.New(presence.Config{Store: a, Publisher: deaf{}, Node: "n1"})
		hear := func(kind presence.Kind, session string, second int64) {
			svc.Hear(presence.Event{Sender: fleet.Sender{Tenant: "main", Client: "M-1", Thing: "M-1", Certificate: "c"}, Kind: kind, Session: session, Time: time.Unix(1_800_000_000+second, 0), Reason: "CONNECTION_LOST"})
		}
		flush := func(connected bool, session string) {
			t.Helper()
			if err := svc.Flush(t.Context()); err != nil {
				t.Fatal(err)
			}
			got, err := a.Presence(t.Context(), access.Scope{Tenant: "main"}, "m-1")
			if err != nil || len(got) != 1 || got[0].Connected != connected || got[0].Session != session {
				t.Errorf("%+v, %v", got, err)
			}
		}
		hear(presence.Connected, "s1", 1)
		flush(true, "s1")
		hear(presence.Disconnected, "s1", 2)
		hear(presence.Connected, "s2", 3)
		hear(presence.Disconnected, "s2", 4)
		flush(false, "s2")
		hear(presence.Connected, "s3", 5)
		flush(true, "s3")
		hear(presence.Disconnected, "s2", 6) // what was said before, late
		flush(true, "s3")
	})
}
