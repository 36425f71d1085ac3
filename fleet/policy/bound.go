package policy

import "strings"

// Bound is a set with the variables of one connection in it. It is immutable,
// may be used by many goroutines, and keeps nothing of the context.
//
// There may be one for every connection, and it is asked about every message.
// So its checks lie side by side, by type of resource, and most of them are
// decided by one comparison of text.
type Bound struct {
	checks [numKinds][]check // of one array; the denying ones first, so that the first match decides
}

// check is one pattern of a rule.
type check struct {
	head    string // what a name has to begin with
	more    *more  // what else it has to match; nil if nothing
	actions actionSet
	deny    bool
	open    bool // anything may follow the head
	kind    kind
}

// more is for patterns that are not just a text, or a text and a * behind it.
type more struct {
	glob     glob
	excluded []pattern // not nil: the check is of a NotResource, and there is no glob
}

func (c *check) match(name string) bool {
	switch {
	case !strings.HasPrefix(name, c.head):
		return false
	case c.more == nil:
		return c.open || len(name) == len(c.head)
	case c.more.excluded == nil:
		return c.more.glob.match(name)
	}
	for i := range c.more.excluded {
		if p := &c.more.excluded[i]; p.kind == c.kind && p.glob.match(name) {
			return false
		}
	}
	return true
}

// byKind are the actions whose resource is of a type.
var byKind = func() (sets [numKinds]actionSet) {
	for a := Connect; a < numActions; a++ {
		sets[actions[a].kind] |= 1 << a
	}
	return sets
}()

// checks appends what the rule comes to: nothing where it cannot match.
func (r *rule) checks(out []check) []check {
	if !r.all && !r.not {
		for i := range r.patterns {
			p := &r.patterns[i]
			c := check{actions: r.actions & byKind[p.kind], deny: r.deny, kind: p.kind}
			if c.actions == 0 {
				continue
			}
			if !p.glob.head.any {
				c.head = p.glob.head.text
			}
			if c.open = p.glob.star; p.glob.head.any || len(p.glob.mid) > 0 || p.glob.tail.text != "" {
				c.more = &more{glob: p.glob}
			}
			out = append(out, c)
		}
		return out
	}
	if r.all && r.not {
		return out
	}
	for k := range numKinds {
		c := check{actions: r.actions & byKind[k], deny: r.deny, kind: k, open: true}
		if c.actions == 0 {
			continue
		}
		if r.not && len(r.patterns) > 0 {
			c.more = &more{excluded: r.patterns}
		}
		out = append(out, c)
	}
	return out
}

// Bind puts the variables of one connection into the set. Do it once for a
// connection, and again when its policies or its thing change.
func (s *Set) Bind(ctx Context) *Bound {
	if s == nil {
		return &Bound{}
	}
	if s.shared != nil {
		return s.shared
	}
	var space [64]check
	return s.bind(&ctx, space[:0])
}

// bind uses space for what it then copies in the order it is read.
func (s *Set) bind(ctx *Context, space []check) *Bound {
	for i := range s.rules {
		if r, ok := s.rules[i].bind(ctx); ok {
			space = r.checks(space)
		}
	}
	b, all := &Bound{}, make([]check, 0, len(space))
	for k := range numKinds {
		from := len(all)
		for i := range space {
			if space[i].kind == k {
				all = append(all, space[i])
			}
		}
		b.checks[k] = all[from:len(all):len(all)]
	}
	return b
}

// Allows tells whether the connection may do action with resource, which is
// the name alone: the client id for Connect, the topic for Publish and Receive,
// the filter for Subscribe, the thing (or thing/shadow) for shadows and jobs.
// The type before it follows from the action. Actions without a resource
// ignore it. This is the check for every message: it allocates nothing.
func (b *Bound) Allows(action Action, resource string) bool {
	if b == nil || !action.known() {
		return false
	}
	k := actions[action].kind
	if k == kindNone {
		resource = nothing
	}
	checks := b.checks[k]
	for i := range checks {
		if c := &checks[i]; c.actions&(1<<action) != 0 && c.match(resource) {
			return !c.deny
		}
	}
	return false
}
