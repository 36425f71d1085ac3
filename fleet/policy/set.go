package policy

// Set is the policies of a principal, compiled: what any of them allows and
// none denies. It is immutable and may be used by many goroutines.
type Set struct {
	rules  []compiled // the denying ones first
	shared *Bound     // where no statement depends on the connection
}

// compiled is one statement of a set.
type compiled struct {
	*statement
	doc     string
	index   int    // of the statement in its document
	rule    rule   // what does not depend on the connection; its patterns are shared by all
	dynamic []text // resources with variables in them
}

// rule is what is left of a statement once its connection is known.
type rule struct {
	actions  actionSet
	deny     bool
	not      bool // every resource but those that match
	all      bool // one of the resources is *
	patterns []pattern
}

// Compile joins documents into a set. The regions and accounts of their ARNs
// are ignored: see [Partition].
func Compile(docs ...*Document) *Set { return Partition{}.Compile(docs...) }

// Compile joins documents into a set of this partition: resources of other
// regions and accounts match nothing.
func (p Partition) Compile(docs ...*Document) *Set {
	s := &Set{}
	dependent := false
	for _, deny := range []bool{true, false} {
		for _, d := range docs {
			if d == nil {
				continue
			}
			for i := range d.statements {
				if st := &d.statements[i]; st.deny == deny {
					c := p.compile(st)
					c.doc, c.index = d.Name, i
					dependent = dependent || len(st.conds) > 0 || len(st.needs) > 0
					s.rules = append(s.rules, c)
				}
			}
		}
	}
	if !dependent {
		s.shared = s.bind(&Context{}, nil)
	}
	return s
}

func (p Partition) compile(st *statement) compiled {
	c := compiled{statement: st, rule: rule{actions: st.actions, deny: st.deny, not: st.not}}
	for i := range st.resources {
		switch r := &st.resources[i]; {
		case !r.here(p):
		case r.name.all():
			c.rule.all = true
		case r.name.static():
			c.rule.patterns = specialise(r.name, c.rule.patterns)
		default:
			c.dynamic = append(c.dynamic, r.name)
		}
	}
	return c
}

// bind gives the statement's rule for a connection, and whether it acts at all.
//
// A statement with a variable that is unknown, or that has a value which may
// not stand in a policy, does not act, as the reference says. That holds for
// the whole statement and for Deny too, which is why [Parse] refuses variables
// that do not exist.
func (c *compiled) bind(ctx *Context) (rule, bool) {
	for _, v := range c.needs {
		if ctx.resolve(v) == "" {
			return rule{}, false
		}
	}
	for i := range c.conds {
		if !c.conds[i].holds(ctx) {
			return rule{}, false
		}
	}
	return c.fill(ctx), true
}

// fill puts values in place of the variables of the resources.
func (c *compiled) fill(from source) rule {
	r := c.rule
	if len(c.dynamic) == 0 || r.all {
		return r
	}
	r.patterns = append(make([]pattern, 0, len(r.patterns)+len(c.dynamic)), r.patterns...)
	for _, t := range c.dynamic {
		r.patterns = specialise(t.fill(from), r.patterns)
	}
	return r
}

// matches tells whether the rule is about a resource.
func (r *rule) matches(k kind, name string) bool {
	found := r.all
	for i := 0; i < len(r.patterns) && !found; i++ {
		p := &r.patterns[i]
		found = p.kind == k && p.glob.match(name)
	}
	return found != r.not
}

// Allows answers one question without binding, as [Bound.Allows] would. It
// serves requests that come alone, as over HTTPS.
func (s *Set) Allows(ctx *Context, action Action, resource string) bool {
	if s == nil || !action.known() {
		return false
	}
	if s.shared != nil {
		return s.shared.Allows(action, resource)
	}
	if ctx == nil {
		ctx = &Context{}
	}
	k := actions[action].kind
	if k == kindNone {
		resource = nothing
	}
	for i := range s.rules {
		c := &s.rules[i]
		if c.actions&(1<<action) == 0 {
			continue
		}
		if r, ok := c.bind(ctx); ok && r.matches(k, resource) {
			return !r.deny
		}
	}
	return false
}
