package policy

import (
	"slices"

	"hallmark/internal/strictjson"
)

// Document is a parsed policy. It is never changed by this package and may be
// shared.
type Document struct {
	Name       string // for explanations; set it before the document is compiled or shared
	statements []statement
}

// statement is one statement of a document.
type statement struct {
	sid       string
	deny      bool
	actions   actionSet
	not       bool // NotResource: every resource but these
	resources []resource
	conds     []condition
	needs     []variable // what has to be known for the statement to act at all
}

// item is a value and where it stands.
type item struct {
	value any
	path  strictjson.Path
}

// Parse reads a policy document. It refuses everything that could be understood
// in two ways, or that could never act, because a statement that silently does
// nothing is a hole if it is a Deny.
func Parse(doc []byte) (*Document, error) {
	if len(doc) > maxBytes {
		return nil, ErrTooLong.New("It has %d bytes, white space included; %d are allowed.", len(doc), maxBytes)
	}
	if n := length(doc); n > MaxLength {
		return nil, ErrTooLong.New("It has %d characters.", n).With("length", n)
	}
	tree, err := strictjson.Generic(doc, bounds())
	if err != nil {
		return nil, err
	}
	top, err := object(item{tree, ""}, []string{"Version", "Statement"}, "Id")
	if err != nil {
		return nil, err
	}
	if err := version(top["Version"]); err != nil {
		return nil, err
	}
	if id, ok := top["Id"]; ok {
		if _, err := word(id); err != nil {
			return nil, err
		}
	}
	d, sids := &Document{}, map[string]bool{}
	for _, it := range list(top["Statement"]) {
		s, err := parseStatement(it)
		if err != nil {
			return nil, err
		}
		if s.sid != "" && sids[s.sid] {
			return nil, at(ErrStructure, it.path.Key("Sid"), "another statement is called %s too", strictjson.Quote(s.sid))
		}
		sids[s.sid] = true
		d.statements = append(d.statements, s)
	}
	return d, nil
}

func version(it item) error {
	s, err := word(it)
	if err == nil && s != "2012-10-17" {
		return at(ErrVersion, it.path, "there is no version %s", strictjson.Quote(s))
	}
	return err
}

func parseStatement(it item) (statement, error) {
	var s statement
	m, err := object(it, []string{"Effect"}, "Sid", "Action", "NotAction", "Resource", "NotResource", "Condition")
	if err != nil {
		return s, err
	}
	if sid, ok := m["Sid"]; ok {
		if s.sid, err = word(sid); err != nil {
			return s, err
		}
	}
	effect, err := word(m["Effect"])
	if err != nil {
		return s, err
	}
	switch s.deny = effect == "Deny"; effect {
	case "Allow", "Deny":
	default:
		return s, at(ErrStructure, m["Effect"].path, "want Allow or Deny, not %s", strictjson.Quote(effect))
	}
	// Actions.
	what, not, err := either(m, it.path, "Action", "NotAction")
	if err != nil {
		return s, err
	}
	if s.actions, err = parseActions(what); err != nil {
		return s, err
	}
	if not {
		s.actions = everyAction &^ s.actions
	}
	// Resources.
	if what, s.not, err = either(m, it.path, "Resource", "NotResource"); err != nil {
		return s, err
	}
	for _, it := range what {
		r, err := parseResource(it)
		if err != nil {
			return s, err
		}
		s.resources = append(s.resources, r)
		s.needs = r.name.variables(s.needs)
	}
	// Conditions.
	if c, ok := m["Condition"]; ok {
		if s.conds, err = parseConditions(c); err != nil {
			return s, err
		}
	}
	for _, c := range s.conds {
		for _, o := range c.operands {
			s.needs = o.text.variables(s.needs)
			for _, t := range o.arn {
				s.needs = t.variables(s.needs)
			}
		}
	}
	return s, nil
}

// either gives the values of exactly one of two members.
func either(m map[string]item, path strictjson.Path, yes, no string) (items []item, not bool, err error) {
	it, ok := m[yes]
	other, not := m[no]
	switch {
	case ok && not:
		return nil, false, at(ErrStructure, path, "%s and %s exclude each other", yes, no)
	case !ok && !not:
		return nil, false, at(ErrStructure, path, "%s is missing", yes)
	case not:
		it = other
	}
	if items = list(it); len(items) == 0 {
		return nil, false, at(ErrStructure, it.path, "the list is empty")
	}
	return items, not, nil
}

// object reads an object that has all of must, perhaps some of may, and nothing
// else.
func object(it item, must []string, may ...string) (map[string]item, error) {
	m, ok := it.value.(map[string]any)
	if !ok {
		return nil, at(ErrStructure, it.path, "want an object, not %s", kindOf(it.value))
	}
	known := append(slices.Clone(must), may...)
	out := make(map[string]item, len(m))
	for _, key := range sorted(m) {
		if !slices.Contains(known, key) {
			return nil, at(ErrStructure, it.path, "%s does not belong there%s", strictjson.Quote(key), perhaps(key, known))
		}
		out[key] = item{m[key], it.path.Key(key)}
	}
	for _, key := range must {
		if _, ok := out[key]; !ok {
			return nil, at(ErrStructure, it.path, "%s is missing", key)
		}
	}
	return out, nil
}

// list gives the elements of a list, or the value itself where a list of one
// was left out.
func list(it item) []item {
	values, ok := it.value.([]any)
	if !ok {
		return []item{it}
	}
	out := make([]item, len(values))
	for i, v := range values {
		out[i] = item{v, it.path.Index(i)}
	}
	return out
}

// word reads a short text without control characters: a name that ends up in
// explanations and logs.
func word(it item) (string, error) {
	s, ok := it.value.(string)
	if !ok {
		return "", at(ErrStructure, it.path, "want a string, not %s", kindOf(it.value))
	}
	if len(s) > maxSid || slices.ContainsFunc([]byte(s), func(c byte) bool { return c < ' ' || c > '~' }) {
		return "", at(ErrStructure, it.path, "want at most %d characters of ASCII, no control characters", maxSid)
	}
	return s, nil
}

func sorted(m map[string]any) []string {
	keys := make([]string, 0, len(m))
	for key := range m {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}

func kindOf(v any) string {
	switch v.(type) {
	case nil:
		return "null"
	case bool:
		return "true or false"
	case string:
		return "a string"
	case []any:
		return "a list"
	case map[string]any:
		return "an object"
	}
	return "a number"
}
