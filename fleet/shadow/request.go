package shadow

import (
	"bytes"
	"encoding/json"
	"errors"
	"strconv"
	"unicode/utf8"

	"hallmark/internal/strictjson"
)

// section is one side of an update.
type section struct {
	given bool
	patch map[string]any // nil: the section is removed
}

// request is an update that was read and is right in itself.
type request struct {
	token             string
	version           int64 // 0: any
	clear             bool  // state: null
	desired, reported section
}

var limits = strictjson.WithLimits(strictjson.Limits{Size: maxPayload, Depth: maxNesting, Values: maxValues, Number: maxNumber})

// parse reads one JSON object.
func parse(payload []byte) (map[string]any, error) {
	if len(payload) > maxPayload {
		return nil, ErrSize.New("")
	}
	if !utf8.Valid(payload) {
		return nil, ErrEncoding.New("")
	}
	v, err := strictjson.Generic(payload, limits)
	if errors.Is(err, strictjson.ErrLimit) && nesting(payload) > maxNesting {
		return nil, ErrDepth.Wrap(err, "")
	}
	if err != nil {
		return nil, ErrJSON.Wrap(err, "")
	}
	object, ok := v.(map[string]any)
	if !ok {
		return nil, ErrJSON.New("")
	}
	return object, nil
}

// nesting is how deep brackets nest, whatever else is wrong with the text.
func nesting(b []byte) (deepest int) {
	depth, quoted := 0, false
	for i := 0; i < len(b); i++ {
		switch c := b[i]; {
		case quoted && c == '\\':
			i++
		case c == '"':
			quoted = !quoted
		case quoted:
		case c == '{' || c == '[':
			depth++
			deepest = max(deepest, depth)
		case c == '}' || c == ']':
			depth--
		}
	}
	return deepest
}

// parseToken reads a request of which only the token counts.
func parseToken(payload []byte) (string, error) {
	if len(bytes.TrimSpace(payload)) == 0 {
		return "", nil
	}
	object, err := parse(payload)
	if err != nil {
		return "", err
	}
	return token(object)
}

func token(object map[string]any) (string, error) {
	v, given := object["clientToken"]
	if !given || v == nil {
		return "", nil
	}
	s, ok := v.(string)
	if !ok || len(s) > MaxToken {
		return "", ErrToken.New("")
	}
	return s, nil
}

// parseUpdate reads an update. Its error carries the token if that much could
// be read.
func parseUpdate(payload []byte) (r request, err error) {
	object, err := parse(payload)
	if err != nil {
		return r, err
	}
	if r.token, err = token(object); err != nil {
		return r, err
	}
	if err := r.read(object); err != nil {
		return r, &refusal{err, r.token}
	}
	return r, nil
}

func (r *request) read(object map[string]any) error {
	if v, ok := object["version"]; ok && v != nil {
		number, _ := v.(json.Number)
		n, err := strconv.ParseInt(string(number), 10, 64)
		if err != nil || n < 0 {
			return ErrVersion.Wrap(err, "")
		}
		if r.version = n; n == 0 {
			r.version = -1 // given, and never the version of anything
		}
	}
	v, ok := object["state"]
	if !ok {
		return ErrNoState.New("")
	}
	if v == nil {
		r.clear = true
		return nil
	}
	state, ok := v.(map[string]any)
	if !ok {
		return ErrState.New("")
	}
	// Anything else in the state, a delta for one, is not stored.
	if v, ok := state["desired"]; ok {
		r.desired.given = true
		if r.desired.patch, ok = v.(map[string]any); !ok && v != nil {
			return ErrDesired.New("")
		}
	}
	if v, ok := state["reported"]; ok {
		r.reported.given = true
		if r.reported.patch, ok = v.(map[string]any); !ok && v != nil {
			return ErrReported.New("")
		}
	}
	for _, s := range []section{r.desired, r.reported} {
		if depth(s.patch) > MaxDepth {
			return ErrDepth.New("")
		}
		if !tidy(s.patch, false) {
			return ErrNode.New("")
		}
	}
	return nil
}

// depth counts the levels of objects and arrays.
func depth(v any) (d int) {
	switch v := v.(type) {
	case map[string]any:
		for _, e := range v {
			d = max(d, depth(e))
		}
		return d + 1
	case []any:
		for _, e := range v {
			d = max(d, depth(e))
		}
		return d + 1
	}
	return 0
}

// tidy tells whether no array holds a null. An array is stored whole, so there
// is nothing that a null inside one of its objects could remove: such a member
// is dropped from v.
func tidy(v any, inArray bool) bool {
	switch v := v.(type) {
	case map[string]any:
		for k, e := range v {
			if e == nil && inArray {
				delete(v, k)
			}
			if !tidy(e, inArray) {
				return false
			}
		}
	case []any:
		for _, e := range v {
			if e == nil || !tidy(e, true) {
				return false
			}
		}
	}
	return true
}
