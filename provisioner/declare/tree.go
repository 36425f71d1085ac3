package declare

import (
	"bytes"
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"unicode/utf8"

	"hallmark/internal/strictjson"
)

// Body is a JSON document inside a spec: written as YAML, or as a text that holds
// JSON. Two bodies are the same if they say the same.
type Body struct{ text string }

// NewBody is a stored document.
func NewBody(text string) Body { return Body{text} }

// Text is the document as it is stored.
func (b Body) Text() string { return b.text }

// UnmarshalJSON implements [json.Unmarshaler]. What a text holds is for whoever
// takes the document to judge.
func (b *Body) UnmarshalJSON(raw []byte) error {
	if len(raw) > 0 && raw[0] == '"' {
		return json.Unmarshal(raw, &b.text)
	}
	var out bytes.Buffer
	err := json.Indent(&out, raw, "", "  ")
	b.text = out.String()
	return err
}

// MarshalJSON implements [json.Marshaler].
func (b Body) MarshalJSON() ([]byte, error) {
	if v, err := strictjson.Generic([]byte(b.text)); err == nil {
		if _, object := v.(map[string]any); object {
			return []byte(b.text), nil
		}
	}
	return json.Marshal(b.text)
}

// canonical is a spec's JSON.
func canonical(s Spec) ([]byte, error) {
	var out bytes.Buffer
	e := json.NewEncoder(&out)
	e.SetEscapeHTML(false)
	if err := e.Encode(s); err != nil {
		return nil, err
	}
	return bytes.TrimSpace(out.Bytes()), nil
}

// tree is a spec as maps, lists and scalars, nil for none.
func tree(s Spec) (v any, err error) {
	if s == nil {
		return nil, nil
	}
	raw, err := canonical(s)
	if err != nil {
		return nil, err
	}
	dec := json.NewDecoder(bytes.NewReader(raw))
	dec.UseNumber()
	return v, dec.Decode(&v)
}

// Change is one field of a difference. A field that is not there is "".
type Change struct {
	Path   string `json:"path"`
	Before string `json:"before,omitempty"` // as JSON
	After  string `json:"after,omitempty"`
}

// maxShown bounds a value in a difference; the plan's hash is over all of it.
const maxShown = 4096

// difference lists the fields in which two trees differ, in the order of their paths.
func difference(before, after any) (out []Change) {
	a, b := map[string]string{}, map[string]string{}
	flatten(before, "", a)
	flatten(after, "", b)
	paths := make([]string, 0, len(a)+len(b))
	for p := range a {
		paths = append(paths, p)
	}
	for p := range b {
		if _, ok := a[p]; !ok {
			paths = append(paths, p)
		}
	}
	slices.SortFunc(paths, natural)
	for _, p := range paths {
		if a[p] != b[p] {
			out = append(out, Change{p, shorten(a[p]), shorten(b[p])})
		}
	}
	return out
}

func shorten(s string) string {
	if len(s) <= maxShown {
		return s
	}
	n := maxShown
	for n > 0 && !utf8.RuneStart(s[n]) {
		n--
	}
	return fmt.Sprintf("%s… (%d octets)", s[:n], len(s))
}

// flatten lists the leaves of a tree by their paths. A path is whole here, unlike
// those of strictjson, so that no two are the same.
func flatten(v any, path string, out map[string]string) {
	switch t := v.(type) {
	case map[string]any:
		for k, c := range t {
			next := k
			if strings.ContainsAny(k, ".[]\" \t\n") || k == "" {
				q, _ := json.Marshal(k)
				next = "[" + string(q) + "]"
			} else if path != "" {
				next = "." + k
			}
			flatten(c, path+next, out)
		}
		if len(t) == 0 && path != "" {
			out[path] = "{}"
		}
	case []any:
		for i, c := range t {
			flatten(c, fmt.Sprintf("%s[%d]", path, i), out)
		}
		if len(t) == 0 {
			out[path] = "[]"
		}
	default:
		if path == "" {
			return
		}
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false)
		e.Encode(t)
		out[path] = strings.TrimSpace(b.String())
	}
}

// natural orders paths so that [10] comes after [9].
func natural(a, b string) int {
	for a != "" && b != "" {
		da, db := digits(a), digits(b)
		if da > 0 && db > 0 {
			x, y := strings.TrimLeft(a[:da], "0"), strings.TrimLeft(b[:db], "0")
			if len(x) != len(y) {
				return len(x) - len(y)
			}
			if x != y {
				return strings.Compare(x, y)
			}
			if da != db {
				return da - db
			}
			a, b = a[da:], b[db:]
			continue
		}
		if a[0] != b[0] {
			return int(a[0]) - int(b[0])
		}
		a, b = a[1:], b[1:]
	}
	return len(a) - len(b)
}

func digits(s string) int {
	n := 0
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		n++
	}
	return n
}

func same(a, b any) bool { return reflect.DeepEqual(a, b) }

// Equal tells whether two specs say the same.
func Equal(a, b Spec) bool {
	x, errX := tree(a)
	y, errY := tree(b)
	return errX == nil && errY == nil && same(x, y)
}
