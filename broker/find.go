package broker

import "slices"

// Sessions are found by what their device is, too: a fleet that changes its
// certificates has one withdrawn for each device, and looking through all sessions for
// each would grow with the square of the fleet.

// mark is one thing that tells devices apart.
type mark struct {
	kind       byte // 'c' certificate, 's' serial number and authority, 't' thing
	name, more string
}

func marksOf(id *Identity) (out [3]mark, n int) {
	if id == nil {
		return out, 0
	}
	for _, m := range [3]mark{{'c', id.Certificate, ""}, {'s', id.Serial, id.Authority}, {'t', string(id.Thing), ""}} {
		if m.name != "" {
			out[n] = m
			n++
		}
	}
	return out, n
}

// enter has a session found by its identity. r.mu is held.
func (r *realm) enter(s *session) {
	marks, n := marksOf(s.identity)
	for _, m := range marks[:n] {
		r.marked[m] = append(r.marked[m], s)
	}
}

// leave is the end of enter: before the identity changes, or with the session. r.mu is
// held.
func (r *realm) leave(s *session) {
	marks, n := marksOf(s.identity)
	for _, m := range marks[:n] {
		list := r.marked[m]
		i := slices.Index(list, s)
		switch {
		case i < 0:
		case len(list) == 1:
			delete(r.marked, m)
		default: // one thing's, as a rule: a few
			r.marked[m] = slices.Delete(list, i, i+1)
		}
	}
}

// near gives the sessions among which those of a selection are. r.mu is held.
func (r *realm) near(sel *Selection) []*session {
	id := Identity{Certificate: sel.Certificate, Serial: sel.Serial, Authority: sel.Authority, Thing: sel.Thing}
	if marks, n := marksOf(&id); n > 0 {
		return slices.Clone(r.marked[marks[0]])
	}
	out := make([]*session, 0, len(r.sessions))
	for _, s := range r.sessions {
		out = append(out, s)
	}
	return out
}
