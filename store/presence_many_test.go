package store_test

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/fleet"
	"hallmark/fleet/presence"
	"hallmark/fleet/registry"
	"hallmark/store"
)

// Whatever comes together, in whatever order and for whatever clients of a thing,
// is found as one by one: by the index, by a dynamic group, and by fsck, which
// compares the index with the states.
func TestPresence_ManyAtOnceAreFoundAsOneByOne(t *testing.T) {
	bothEngines(t, func(t *testing.T, _, _ string, many, _ *store.DB) {
		k := newKept(many)
		const things = 60
		for i := range things {
			k.thing(t, fmt.Sprintf("T%02d", i))
		}
		_, err := k.reg.CreateGroup(t.Context(), registry.Group{Tenant: "main", Class: registry.ThingGroup, Name: "here", Query: "connectivity.connected:true"})
		must(t, err)
		for more := true; more; {
			more, err = k.reg.Build(t.Context())
			must(t, err)
		}
		group := func() (names []string) {
			in, err := k.reg.GroupThings(t.Context(), access.Scope{Tenant: "main"}, registry.ThingGroup, "here", false, "", 100)
			must(t, err)
			for _, n := range in {
				names = append(names, string(n))
			}
			return names
		}
		rnd := rand.New(rand.NewPCG(1, 2))
		truth := map[string]presence.State{} // by client
		for round := range 8 {
			var batch []presence.State
			for _, i := range rnd.Perm(things)[:things*3/4] {
				for c := range 1 + rnd.IntN(2) { // a thing can have two clients
					client := fmt.Sprintf("T%02d", i)
					if c == 1 {
						client += "-1"
					}
					name := fmt.Sprintf("T%02d", i)
					if i%10 == 9 {
						name = fmt.Sprintf("stranger-%02d", i) // no registered thing
					}
					s := presence.State{Tenant: "main", Client: client, Thing: fleet.ThingName(name), Certificate: "c", Node: "n1", Session: fmt.Sprint(round), Connected: rnd.IntN(3) > 0,
						At: k.now.Add(time.Duration(round)*time.Minute + time.Duration(rnd.IntN(1000))*time.Millisecond), Reason: "CLIENT_INITIATED_DISCONNECT"}
					if was, ok := truth[client]; !ok || s.Connected || !was.Connected {
						truth[client] = s
					}
					batch = append(batch, s)
				}
			}
			must(t, many.PutPresence(t.Context(), batch))
			var want []string
			for i := range things {
				n := fmt.Sprintf("T%02d", i)
				if i%10 != 9 && (truth[n].Connected || truth[n+"-1"].Connected) {
					want = append(want, n)
				}
			}
			got := k.find(t, "connectivity.connected:true")
			slices.Sort(got)
			if !slices.Equal(got, want) {
				t.Fatalf("round %d: found %v, connected are %v", round, got, want)
			}
			if in := group(); !slices.Equal(in, want) {
				t.Fatalf("round %d: the group has %v, connected are %v", round, in, want)
			}
			all, err := many.Presence(t.Context(), access.Scope{Tenant: "main"}, "t00")
			must(t, err)
			for _, s := range all {
				if w := truth[s.Client]; s.Connected != w.Connected || !s.At.Equal(w.At) {
					t.Errorf("round %d: %s is %+v, want %+v", round, s.Client, s, w)
				}
			}
		}
		found, err := k.reg.Fsck(t.Context())
		must(t, err)
		for _, f := range found {
			t.Errorf("%+v", f)
		}
	})
}
