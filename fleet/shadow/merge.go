package shadow

import (
	"encoding/json"
	"maps"
)

// A section of a document is a map[string]any as encoding/json makes it, with
// numbers as [json.Number]. Its metadata is a tree of the same shape whose
// leaves are the seconds (int64) of each value's last change. Neither is ever
// changed in place: what a merge returns shares the parts that stayed.

// merge lays a patch over a section. Objects merge member by member, null
// removes, anything else replaces; an object without members is no value and
// disappears. Every value that the patch names is stamped with now, changed or
// not.
func merge(state, meta, patch map[string]any, now int64) (map[string]any, map[string]any) {
	outState, outMeta := maps.Clone(state), maps.Clone(meta)
	if outState == nil || outMeta == nil {
		outState, outMeta = map[string]any{}, map[string]any{}
	}
	for k, v := range patch {
		switch v := v.(type) {
		case nil:
			delete(outState, k)
			delete(outMeta, k)
		case map[string]any:
			// What was no object is replaced: both are nil then.
			below, _ := state[k].(map[string]any)
			metaBelow, _ := meta[k].(map[string]any)
			below, metaBelow = merge(below, metaBelow, v, now)
			if len(below) == 0 {
				delete(outState, k)
				delete(outMeta, k)
				continue
			}
			outState[k], outMeta[k] = below, metaBelow
		default:
			outState[k], outMeta[k] = v, stamp(v, now)
		}
	}
	return outState, outMeta
}

// stamp gives a value's metadata.
func stamp(v any, now int64) any {
	switch v := v.(type) {
	case []any:
		out := make([]any, len(v))
		for i := range v {
			out[i] = stamp(v[i], now)
		}
		return out
	case map[string]any:
		out := make(map[string]any, len(v))
		for k, e := range v {
			out[k] = stamp(e, now)
		}
		return out
	}
	return now
}

// stampSent gives the metadata of what a patch sets: its nulls have none.
func stampSent(patch map[string]any, now int64) map[string]any {
	out := map[string]any{}
	for k, v := range patch {
		switch v := v.(type) {
		case nil:
		case map[string]any:
			if below := stampSent(v, now); len(below) > 0 {
				out[k] = below
			}
		default:
			out[k] = stamp(v, now)
		}
	}
	return out
}

// diff is what the device has to change: the parts of desired that reported
// lacks or has otherwise, with the metadata of desired. What is only reported
// is the device's own affair.
func diff(desired, meta, reported map[string]any) (state, stateMeta map[string]any) {
	for k, want := range desired {
		var part, partMeta any = want, meta[k]
		if have, ok := reported[k]; ok {
			w, both := want.(map[string]any)
			if h, isObject := have.(map[string]any); both && isObject {
				m, _ := meta[k].(map[string]any)
				below, metaBelow := diff(w, m, h)
				if len(below) == 0 {
					continue
				}
				part, partMeta = below, metaBelow
			} else if equal(want, have) {
				continue
			}
		}
		if state == nil {
			state, stateMeta = map[string]any{}, map[string]any{}
		}
		state[k], stateMeta[k] = part, partMeta
	}
	return state, stateMeta
}

// equal compares values; numbers by what they are worth.
func equal(a, b any) bool {
	switch a := a.(type) {
	case json.Number:
		b, ok := b.(json.Number)
		return ok && sameNumber(a, b)
	case []any:
		b, ok := b.([]any)
		if !ok || len(a) != len(b) {
			return false
		}
		for i := range a {
			if !equal(a[i], b[i]) {
				return false
			}
		}
		return true
	case map[string]any:
		b, ok := b.(map[string]any)
		if !ok || len(a) != len(b) {
			return false
		}
		for k, v := range a {
			if w, ok := b[k]; !ok || !equal(v, w) {
				return false
			}
		}
		return true
	}
	switch b.(type) { // comparing these with == would panic
	case []any, map[string]any:
		return false
	}
	return a == b
}
