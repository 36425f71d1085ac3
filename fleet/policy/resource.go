package policy

import (
	"strings"

	"hallmark/internal/strictjson"
)

// resource is one value of Resource or NotResource.
type resource struct {
	raw             string
	name            text // type and name, such as topic/a/*; * alone is everything
	arn             bool // region and account were given
	region, account glob // patterns themselves
}

// Partition is where this service stands for ARNs. Documents that were written
// for the cloud name its regions and accounts, which mean nothing here, so an
// empty member takes every value; a member that is set has to be matched by the
// document's, wildcards included.
type Partition struct{ Region, Account string }

// here tells whether a resource is one of the partition.
func (r *resource) here(p Partition) bool {
	return !r.arn || (p.Region == "" || r.region.match(p.Region)) && (p.Account == "" || r.account.match(p.Account))
}

// parseResource reads *, an ARN, or the part of one behind the account, which
// some documents write alone. A slash before the type, as in older examples of
// the cloud service, is dropped.
func parseResource(it item) (resource, error) {
	s, ok := it.value.(string)
	if !ok {
		return resource{}, at(ErrStructure, it.path, "want a string, not %s", kindOf(it.value))
	}
	r := resource{raw: s}
	name := s
	if strings.HasPrefix(s, "arn:") {
		parts := strings.SplitN(s, ":", 6) // the last may hold colons itself
		if len(parts) < 6 {
			return r, at(ErrResource, it.path, "an ARN has six parts between colons")
		}
		globs, err := arnGlobs(parts[1:5], it.path)
		if err != nil {
			return r, err
		}
		if !globs[0].match("aws") && !strings.HasPrefix(parts[1], "aws-") || !globs[1].match("iot") {
			return r, at(ErrResource, it.path, "want arn:aws:iot:, not %s", strictjson.Quote(strings.Join(parts[:3], ":")+":"))
		}
		r.arn, r.region, r.account = true, globs[2], globs[3]
		name = parts[5]
	} else if s != "*" && typeOf(s) == kindNone {
		return r, at(ErrResource, it.path, "%s is neither * nor an ARN", strictjson.Quote(s))
	}
	if typeOf(name) != kindNone {
		name = strings.TrimPrefix(name, "/")
	}
	var err error
	if r.name, err = parseText(name, true, it.path); err != nil {
		return r, err
	}
	if !r.reachable() {
		return r, at(ErrResource, it.path, "no action has %s", strictjson.Quote(name))
	}
	return r, nil
}

// arnGlobs compiles the parts of an ARN before the name, which take wildcards
// but no variables: those hold colons.
func arnGlobs(parts []string, path strictjson.Path) ([4]glob, error) {
	var out [4]glob
	for i, s := range parts {
		if strings.Contains(s, "$") {
			return out, at(ErrResource, path, "variables belong behind the account")
		}
		t, err := parseText(s, true, path)
		if err != nil {
			return out, err
		}
		out[i] = compileGlob(t)
	}
	return out, nil
}

// typeOf is the type that s names in full before its first slash.
func typeOf(s string) kind {
	s = strings.TrimPrefix(s, "/")
	for k := kindClient; k < numKinds; k++ {
		if strings.HasPrefix(s, kindPrefix[k]) {
			return k
		}
	}
	return kindNone
}

// reachable tells whether there can be a resource that the pattern matches,
// whatever its variables are.
func (r *resource) reachable() bool {
	loose := make(text, 0, len(r.name))
	for _, tok := range r.name {
		if tok.kind == hole {
			tok = token{kind: star}
		}
		loose = append(loose, tok)
	}
	return len(specialise(loose, nil)) > 0
}

// pattern is what a resource's name, behind its type, has to match.
type pattern struct {
	kind kind
	glob glob
}

// specialise appends the patterns that t, without variables, stands for: one
// where it names a type, more where a wildcard covers types. So the messages'
// topics are matched as they come, without a copy that has the type before it.
func specialise(t text, out []pattern) []pattern {
	if len(t) > 0 && t[0].kind == literal {
		if k := typeOf(t[0].lit); k != kindNone && t[0].lit[0] != '/' {
			rest := t[1:]
			if lit := t[0].lit[len(kindPrefix[k]):]; lit != "" {
				rest = append(text{{kind: literal, lit: lit}}, rest...)
			}
			return append(out, pattern{k, compileGlob(rest)})
		}
	}
	for k := kindClient; k < numKinds; k++ {
		for _, rest := range t.after(kindPrefix[k]) {
			out = append(out, pattern{k, compileGlob(rest)})
		}
	}
	if g := compileGlob(t); g.match(nothing) {
		out = append(out, pattern{kindNone, g})
	}
	return out
}

// NameOf takes the name out of a resource of action, as [Set.Allows] wants it:
// the ARN and the type before it are dropped if they are there. It serves
// questions that come with whole ARNs, such as TestAuthorization.
func NameOf(action Action, resource string) (string, error) {
	if !action.known() {
		return "", ErrAction.New("")
	}
	k := actions[action].kind
	if k == kindNone {
		return nothing, nil
	}
	name := resource
	if strings.HasPrefix(name, "arn:") {
		parts := strings.SplitN(name, ":", 6)
		if len(parts) < 6 {
			return "", ErrResource.New("%s.", strictjson.Quote(resource))
		}
		name = strings.TrimPrefix(parts[5], "/")
	}
	name, ok := strings.CutPrefix(name, kindPrefix[k])
	if !ok {
		return "", ErrResource.New("%s is asked about %s, not %s.", action, kindPrefix[k], strictjson.Quote(resource))
	}
	return name, nil
}
