package store_test

import (
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"hallmark/broker"
	"hallmark/store"
)

// onClusterStores runs a test on the memory store and on both engines, with as many
// handles as there can be services.
func onClusterStores(t *testing.T, f func(t *testing.T, a, b broker.ClusterStore)) {
	t.Run("memory", func(t *testing.T) {
		m := broker.NewMemory()
		f(t, m, m)
	})
	bothEngines(t, func(t *testing.T, _, _ string, a, b *store.DB) { f(t, a, b) })
}

func putSession(client, node string) broker.PutSession {
	return broker.PutSession{Session: broker.Session{Tenant: "acme", Client: client, Node: node, Version: 5, Expiry: time.Hour}}
}

func clientsOf(list []broker.StoredSession) (out []string) {
	for _, s := range list {
		out = append(out, s.Client)
	}
	slices.Sort(out)
	return out
}

func TestNodes_ASessionHasOneNode(t *testing.T) {
	onClusterStores(t, func(t *testing.T, a, b broker.ClusterStore) {
		ctx := t.Context()
		ok := func(err error) {
			t.Helper()
			if err != nil {
				t.Fatal(err)
			}
		}
		// What a lone service left behind is the first node's.
		ok(a.Apply(ctx, []broker.Change{putSession("old", "")}))
		list, err := a.Join(ctx, broker.Member{Node: "a1", Name: "a"})
		ok(err)
		if got := clientsOf(list); !slices.Equal(got, []string{"old"}) {
			t.Errorf("a has %v", got)
		}
		list, err = b.Join(ctx, broker.Member{Node: "b1", Name: "b"})
		ok(err)
		if len(list) != 0 {
			t.Errorf("b has %v of a living node", clientsOf(list))
		}
		ok(a.Apply(ctx, []broker.Change{broker.Guard{Node: "a1"}, putSession("lamp", "a1"),
			broker.PutSubscription{Tenant: "acme", Client: "lamp", Filter: "x/#", QoS: 1},
			broker.Enqueue{Tenant: "acme", Message: broker.Message{Topic: "x", Payload: []byte("1"), QoS: 1, Publisher: "p"}, To: []broker.Recipient{{Client: "lamp", Position: 7, QoS: 1}}}}))

		// It goes over with everything of it, and only from who has it.
		if _, err := b.Take(ctx, "acme", "lamp", "c1", "b1"); !errors.Is(err, broker.ErrElsewhere) {
			t.Errorf("taken from a node that has it not: %v", err)
		}
		s, err := b.Take(ctx, "acme", "lamp", "a1", "b1")
		ok(err)
		if s == nil || s.Node != "b1" || len(s.Subscriptions) != 1 || len(s.Waiting) != 1 || s.Waiting[0].Last != 7 {
			t.Errorf("took %+v", s)
		}
		if s, err = b.Take(ctx, "acme", "none", "a1", "b1"); s != nil || err != nil {
			t.Errorf("took %+v, %v", s, err)
		}
		if s, err = b.Take(ctx, "zeta", "lamp", "a1", "b1"); s != nil || err != nil {
			t.Errorf("took another tenant's: %+v, %v", s, err) // S24
		}

		// A node that gave a sign of life is not fenced.
		members, err := a.Members(ctx)
		ok(err)
		var dead broker.Member
		for _, m := range members {
			if m.Node == "b1" {
				dead = m
			}
		}
		ok(b.Apply(ctx, []broker.Change{broker.Guard{Node: "b1"}}))
		if _, fenced, err := a.Fence(ctx, dead, "a1"); fenced || err != nil {
			t.Errorf("a living node was fenced: %v", err)
		}
		members, err = a.Members(ctx)
		ok(err)
		for _, m := range members {
			if m.Node == "b1" {
				dead = m
			}
		}
		list, fenced, err := a.Fence(ctx, dead, "a1")
		ok(err)
		if got := clientsOf(list); !fenced || !slices.Equal(got, []string{"lamp"}) || list[0].Node != "a1" {
			t.Errorf("fenced %v, with %v", fenced, got)
		}
		// From then on it changes nothing, and takes nothing.
		if err := b.Apply(ctx, []broker.Change{broker.Guard{Node: "b1"}, putSession("late", "b1")}); !errors.Is(err, broker.ErrFenced) {
			t.Errorf("a fenced node wrote: %v", err)
		}
		if _, err := b.Take(ctx, "acme", "lamp", "a1", "b1"); !errors.Is(err, broker.ErrFenced) {
			t.Errorf("a fenced node took a session: %v", err)
		}
		if _, fenced, err := b.Fence(ctx, broker.Member{Node: "a1"}, "b1"); fenced || err == nil {
			t.Errorf("a fenced node fenced another: %v", err)
		}

		// Its next life finds nothing; a node that says that it stops is seen to.
		list, err = b.Join(ctx, broker.Member{Node: "b2", Name: "b"})
		ok(err)
		if len(list) != 0 {
			t.Errorf("it has %v again", clientsOf(list))
		}
		ok(a.Leave(ctx, "a1"))
		members, err = b.Members(ctx)
		ok(err)
		for _, m := range members {
			if m.Node == "a1" && m.Beat != broker.Left {
				t.Errorf("it left with beat %d", m.Beat)
			}
		}
		// Whoever is started again under its name has its own sessions.
		list, err = a.Join(ctx, broker.Member{Node: "a2", Name: "a"})
		ok(err)
		if got := clientsOf(list); !slices.Equal(got, []string{"lamp", "old"}) {
			t.Errorf("a's next life has %v", got)
		}
		if p, err := a.RetainedAt(ctx, "acme", "t"); p != nil || err != nil {
			t.Errorf("%+v %v", p, err)
		}
		ok(a.Apply(ctx, []broker.Change{broker.PutRetained{Tenant: "acme", StoredAt: time.UnixMilli(1), Message: broker.Message{Topic: "t", Payload: []byte("x")}}}))
		if p, err := b.RetainedAt(ctx, "acme", "t"); err != nil || p == nil || string(p.Payload) != "x" {
			t.Errorf("%+v %v", p, err)
		}
		if p, err := b.RetainedAt(ctx, "zeta", "t"); p != nil || err != nil {
			t.Errorf("another tenant's: %+v %v", p, err) // S24
		}
	})
}

// TestNodes_FencingAndWritingExcludeEachOther races a node's commits with another that
// takes it for dead: either the beat moved and nothing is fenced, or the write fails.
func TestNodes_FencingAndWritingExcludeEachOther(t *testing.T) {
	onClusterStores(t, func(t *testing.T, a, b broker.ClusterStore) {
		ctx := t.Context()
		if _, err := a.Join(ctx, broker.Member{Node: "a1", Name: "a"}); err != nil {
			t.Fatal(err)
		}
		for i := range 15 {
			if _, err := b.Join(ctx, broker.Member{Node: "b1", Name: "b"}); err != nil {
				t.Fatal(err)
			}
			var wg sync.WaitGroup
			var wrote error
			wg.Go(func() { wrote = b.Apply(ctx, []broker.Change{broker.Guard{Node: "b1"}, putSession("late", "b1")}) })
			list, fenced, err := a.Fence(ctx, broker.Member{Node: "b1", Name: "b"}, "a1")
			wg.Wait()
			switch {
			case err != nil:
				t.Fatal(err)
			case fenced && !errors.Is(wrote, broker.ErrFenced):
				t.Errorf("round %d: fenced, and it wrote: %v, with %v", i, wrote, clientsOf(list))
			case !fenced && wrote != nil:
				t.Errorf("round %d: not fenced, and not written: %v", i, wrote)
			}
			if err := a.Apply(ctx, []broker.Change{broker.EndSession{Tenant: "acme", Client: "late"}}); err != nil {
				t.Fatal(err)
			}
		}
	})
}
