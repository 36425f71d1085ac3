package broker

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"hallmark/fleet"
)

// Whatever comes, changes its certificate and goes: a selection finds the sessions that
// a look at all of them finds, and nothing is left of those that are gone.
func TestRealm_FindsTheSessionsOfADevice(t *testing.T) {
	r := &realm{sessions: map[string]*session{}, marked: map[mark][]*session{}}
	pick := func(n int) string { return fmt.Sprint(rand.IntN(n)) }
	for range 3000 {
		key := pick(40)
		s := r.sessions[key]
		switch {
		case s == nil:
			s = &session{key: key}
			r.sessions[key] = s
			fallthrough
		case rand.IntN(3) > 0: // connects, maybe as another
			r.leave(s)
			s.identity = &Identity{Certificate: pick(30), Serial: pick(30), Authority: pick(2), Thing: fleet.ThingName(pick(10))}
			if rand.IntN(5) == 0 { // from the store
				s.identity.Serial, s.identity.Authority = "", ""
			}
			r.enter(s)
		default:
			delete(r.sessions, key)
			r.leave(s)
			r.leave(s) // twice is once
		}
		sel := []Selection{{Certificate: pick(30)}, {Serial: pick(30), Authority: pick(2)}, {Thing: fleet.ThingName(pick(10))}, {Certificate: pick(30), Thing: fleet.ThingName(pick(10))}, {Client: "x"}}[rand.IntN(5)]
		want, got := map[*session]bool{}, map[*session]bool{}
		for _, s := range r.sessions {
			if sel.is(s.identity, "x") {
				want[s] = true
			}
		}
		for _, s := range r.near(&sel) {
			if sel.is(s.identity, "x") {
				got[s] = true
			}
		}
		if fmt.Sprint(want) != fmt.Sprint(got) {
			t.Fatalf("%+v: %d of %d sessions", sel, len(got), len(want))
		}
	}
	for key, s := range r.sessions {
		delete(r.sessions, key)
		r.leave(s)
	}
	if len(r.marked) > 0 {
		t.Errorf("%d marks are left", len(r.marked))
	}
}
