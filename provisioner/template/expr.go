package template

import (
	"encoding/json"
	"slices"
	"strconv"
	"strings"

	"hallmark/internal/strictjson"
)

// expr is one node of a parsed template. Whether a node gives a string or a
// list is known when it is parsed, so evaluation has no type errors.
type expr interface{ isExpr() }

type (
	literal string // the template's own text
	null    struct{}
	ref     struct {
		path strictjson.Path
		name string
	}
	join struct {
		path  strictjson.Path
		delim expr
		list  expr
	}
	pick struct { // Fn::Select
		path  strictjson.Path
		index expr
		list  expr
	}
	find struct { // Fn::FindInMap
		path              strictjson.Path
		table, key, field expr
	}
	split struct {
		path        strictjson.Path
		delim, text expr
	}
	sub struct {
		path  strictjson.Path
		parts []expr // literals, refs, and locals
		vars  []expr // evaluated once each, however often they are used
	}
	local  int // a sub's own variable
	list   []expr
	object struct { // of a policy document
		keys   []string // sorted
		values []expr
	}
	plain struct{ value any } // a number, bool or null of a policy document
)

func (literal) isExpr() {}
func (null) isExpr()    {}
func (ref) isExpr()     {}
func (join) isExpr()    {}
func (pick) isExpr()    {}
func (find) isExpr()    {}
func (split) isExpr()   {}
func (sub) isExpr()     {}
func (local) isExpr()   {}
func (list) isExpr()    {}
func (object) isExpr()  {}
func (plain) isExpr()   {}

var functions = []string{"Ref", "Fn::Join", "Fn::Select", "Fn::FindInMap", "Fn::Split", "Fn::Sub"}

// call reports whether v is a function call: an object whose only member is
// Ref or begins with Fn::. An object that has such a member beside others is
// neither a call nor data.
func call(v any, path strictjson.Path) (name string, argument any, ok bool, err error) {
	members, isObject := v.(map[string]any)
	if !isObject {
		return "", nil, false, nil
	}
	for _, key := range sortedKeys(members) {
		if key != "Ref" && !strings.HasPrefix(key, "Fn::") {
			continue
		}
		if len(members) > 1 {
			return "", nil, false, at(ErrStructure, path, "%s must be the only member of its object", strictjson.Quote(key))
		}
		if !slices.Contains(functions, key) {
			return "", nil, false, at(ErrUnknownFunction, path, "there is no function %s%s", strictjson.Quote(key), meant(key, functions))
		}
		return key, members[key], true, nil
	}
	return "", nil, false, nil
}

// text parses what must give a string.
func (p *parser) text(v any, path strictjson.Path) (expr, error) {
	if s, ok := v.(string); ok {
		return literal(s), nil
	}
	name, argument, ok, err := call(v, path)
	switch {
	case err != nil:
		return nil, err
	case !ok:
		return nil, at(ErrStructure, path, "want a string or a function, not %s", kindOf(v))
	case name == "Fn::Split":
		return nil, at(ErrStructure, path, "Fn::Split gives a list where a string is needed")
	}
	return p.function(name, argument, path.Key(name))
}

// texts parses what must give a list of strings. Only Fn::Select may have
// nulls in its list.
func (p *parser) texts(v any, path strictjson.Path, nulls bool) (expr, error) {
	if elements, ok := v.([]any); ok {
		out := make(list, len(elements))
		for i, e := range elements {
			if e == nil && nulls {
				out[i] = null{}
				continue
			}
			var err error
			if out[i], err = p.text(e, path.Index(i)); err != nil {
				return nil, err
			}
		}
		return out, nil
	}
	name, argument, ok, err := call(v, path)
	switch {
	case err != nil:
		return nil, err
	case !ok:
		return nil, at(ErrStructure, path, "want a list or Fn::Split, not %s", kindOf(v))
	case name != "Fn::Split":
		return nil, at(ErrStructure, path, "%s gives a string where a list is needed", name)
	}
	return p.function(name, argument, path.Key(name))
}

// function parses one call; path ends in its name.
func (p *parser) function(name string, argument any, path strictjson.Path) (expr, error) {
	if name == "Ref" {
		s, ok := argument.(string)
		if !ok {
			return nil, at(ErrStructure, path, "want a parameter's name, not %s", kindOf(argument))
		}
		return p.ref(s, path)
	}
	if name == "Fn::Sub" {
		return p.sub(argument, path)
	}
	form := map[string]string{
		"Fn::Join":      "[delimiter, list]",
		"Fn::Select":    "[index, list]",
		"Fn::FindInMap": "[table, key, field]",
		"Fn::Split":     "[delimiter, string]",
	}[name]
	args, ok := argument.([]any)
	if !ok || len(args) != strings.Count(form, ",")+1 {
		return nil, at(ErrStructure, path, "want %s", form)
	}
	if name == "Fn::FindInMap" {
		return p.find(args, path)
	}
	first, err := args[0], error(nil)
	if n, isNumber := first.(json.Number); isNumber && name == "Fn::Select" {
		first = n.String()
	}
	head, err := p.text(first, path.Index(0))
	if err != nil {
		return nil, err
	}
	if s, isLiteral := head.(literal); isLiteral {
		switch name {
		case "Fn::Split":
			if s == "" {
				return nil, at(ErrStructure, path.Index(0), "the delimiter is empty")
			}
		case "Fn::Select":
			if _, ok := index(string(s)); !ok {
				return nil, at(ErrStructure, path.Index(0), "%s is no index", strictjson.Quote(string(s)))
			}
		}
	}
	if name == "Fn::Split" {
		body, err := p.text(args[1], path.Index(1))
		return split{path, head, body}, err
	}
	body, err := p.texts(args[1], path.Index(1), name == "Fn::Select")
	if name == "Fn::Join" {
		return join{path, head, body}, err
	}
	return pick{path, head, body}, err
}

// ref resolves a name among the declared parameters and those that the
// service always gives to this kind of template.
func (p *parser) ref(name string, path strictjson.Path) (expr, error) {
	if _, ok := p.t.parameters[name]; ok || slices.Contains(serviceParameters[p.t.kind], name) {
		return ref{path, name}, nil
	}
	names := slices.Concat(sortedKeys(p.t.parameters), serviceParameters[p.t.kind])
	return nil, at(ErrUnknownReference, path, "cannot resolve reference value %s%s", strictjson.Quote(name), meant(name, names))
}

// find checks as much of a look-up as is written literally.
func (p *parser) find(args []any, path strictjson.Path) (expr, error) {
	var parts [3]expr
	for i := range parts {
		var err error
		if parts[i], err = p.text(args[i], path.Index(i)); err != nil {
			return nil, err
		}
	}
	if table, ok := parts[0].(literal); ok {
		keys, ok := p.t.mappings[string(table)]
		if !ok {
			return nil, at(ErrUnknownReference, path.Index(0), "there is no mapping %s%s", strictjson.Quote(string(table)), meant(string(table), sortedKeys(p.t.mappings)))
		}
		if key, ok := parts[1].(literal); ok && keys[string(key)] == nil {
			return nil, at(ErrUnknownReference, path.Index(1), "mapping %s has no key %s%s", strictjson.Quote(string(table)), strictjson.Quote(string(key)), meant(string(key), sortedKeys(keys)))
		}
	}
	return find{path, parts[0], parts[1], parts[2]}, nil
}

// index reads a list index: decimal, no sign, no leading zeros.
func index(s string) (int, bool) {
	n, err := strconv.Atoi(s)
	return n, err == nil && n >= 0 && strconv.Itoa(n) == s
}

// kindOf names a JSON value's type for messages.
func kindOf(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case bool:
		return "a bool"
	case json.Number:
		return "a number"
	case string:
		return "a string"
	case []any:
		return "a list"
	}
	return "an object"
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
