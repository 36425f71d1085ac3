package policy

import "slices"

// Result is an answer in the words of TestAuthorization.
type Result string

// The results.
const (
	Allowed      Result = "ALLOWED"
	ExplicitDeny Result = "EXPLICIT_DENY" // a Deny matches
	ImplicitDeny Result = "IMPLICIT_DENY" // nothing matches
)

// Match is a statement that matched.
type Match struct {
	Policy    string // the document's name
	Statement int    // its place in the document, from 0
	Sid       string // may be empty
	Deny      bool
}

// Decision is an answer with its reasons.
type Decision struct {
	Result Result

	// Match is the statement that decided: the first Deny, else the first Allow.
	// For ImplicitDeny it is empty, with Statement -1.
	Match

	// Matches lists all statements that matched, the denying ones first.
	Matches []Match

	// Missing names the variables and condition keys that the statements about
	// the action ask for and the context does not have, or has with a value that
	// may not stand in a policy: missingContextValues. Keys that may be missing
	// (Null, ...IfExists) are not in it. It is sorted.
	Missing []string
}

// Explain answers as Allows does, with the reasons. It is not for every
// message.
func (s *Set) Explain(ctx *Context, action Action, resource string) Decision {
	d := Decision{Result: ImplicitDeny, Match: Match{Statement: -1}}
	if s == nil || !action.known() {
		return d
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
		d.Missing = c.missing(ctx, d.Missing)
		if r, ok := c.bind(ctx); ok && r.matches(k, resource) {
			d.Matches = append(d.Matches, Match{Policy: c.doc, Statement: c.index, Sid: c.sid, Deny: c.deny})
		}
	}
	slices.Sort(d.Missing)
	d.Missing = slices.Compact(d.Missing)
	if len(d.Matches) > 0 {
		d.Result, d.Match = Allowed, d.Matches[0]
		if d.Match.Deny {
			d.Result = ExplicitDeny
		}
	}
	return d
}

func (c *compiled) missing(ctx *Context, out []string) []string {
	for _, v := range c.needs {
		if ctx.resolve(v) == "" {
			out = append(out, v.name)
		}
	}
	for i := range c.conds {
		cond := &c.conds[i]
		if cond.op != opNull && !cond.ifExists && len(ctx.values(cond.key, nil)) == 0 {
			out = append(out, cond.key.name)
		}
	}
	return out
}
