package template

import (
	"strings"

	"hallmark/internal/strictjson"
)

// step counts one node and what it produced.
func (ev *evaluator) step(path strictjson.Path, produced int) error {
	ev.steps++
	ev.bytes += produced
	switch {
	case ev.steps > maxSteps:
		return at(ErrLimit, path, "the evaluation takes more than %d steps", maxSteps)
	case produced > maxString:
		return at(ErrLimit, path, "a value has more than %d bytes", maxString)
	case ev.bytes > maxOutput:
		return at(ErrLimit, path, "the values have more than %d bytes together", maxOutput)
	}
	return nil
}

// text evaluates what gives a string.
func (ev *evaluator) text(e expr) (string, error) {
	switch e := e.(type) {
	case literal:
		return string(e), ev.step("", 0)
	case ref:
		return ev.ref(e)
	case local:
		return ev.locals[len(ev.locals)-1][e], nil
	case join:
		return ev.join(e)
	case pick:
		return ev.pick(e)
	case find:
		return ev.find(e)
	case sub:
		return ev.sub(e)
	}
	return "", at(ErrStructure, "", "a node gives no string") // the parser lets none through
}

// texts evaluates what gives a list of strings.
func (ev *evaluator) texts(e expr) ([]string, error) {
	if s, ok := e.(split); ok {
		return ev.split(s)
	}
	elements, _ := e.(list)
	out := make([]string, len(elements))
	for i, element := range elements {
		var err error
		if out[i], err = ev.text(element); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// ref is the value of a parameter. This is the only door through which
// foreign text comes in, so the policy rule is checked here, before Fn::Split
// or Fn::Select could cut the value into harmless-looking pieces.
func (ev *evaluator) ref(e ref) (string, error) {
	value, ok := ev.given[e.name]
	if !ok {
		var err error
		if value, err = ev.fallback(e); err != nil {
			return "", err
		}
	}
	if ev.inPolicy && widens(value) {
		return "", at(ErrPolicyValue, e.path, "the parameter %s holds a character that widens a policy", strictjson.Quote(e.name)).With("parameter", e.name)
	}
	return value, ev.step(e.path, len(value))
}

func (ev *evaluator) fallback(e ref) (string, error) {
	if value, ok := ev.defaults[e.name]; ok {
		return value, nil
	}
	def := ev.t.parameters[e.name].fallback
	if def == nil {
		return "", missing(e.name, e.path)
	}
	value, err := ev.text(def)
	if err == nil {
		ev.defaults[e.name] = value
	}
	return value, err
}

func (ev *evaluator) join(e join) (string, error) {
	delim, err := ev.text(e.delim)
	if err != nil {
		return "", err
	}
	elements, err := ev.texts(e.list)
	if err != nil {
		return "", err
	}
	size := max(len(elements)-1, 0) * len(delim)
	for _, s := range elements {
		size += len(s)
	}
	// Counted before it is made.
	if err := ev.step(e.path, size); err != nil {
		return "", err
	}
	return strings.Join(elements, delim), nil
}

func (ev *evaluator) pick(e pick) (string, error) {
	s, err := ev.text(e.index)
	if err != nil {
		return "", err
	}
	i, ok := index(s)
	if !ok {
		return "", at(ErrFunctionFailed, e.path, "%s is no index", strictjson.Quote(s))
	}
	// Only the chosen element of a written list is evaluated: the others may
	// be null.
	if elements, ok := e.list.(list); ok {
		if i >= len(elements) {
			return "", at(ErrFunctionFailed, e.path, "index %d of a list of %d", i, len(elements))
		}
		if _, isNull := elements[i].(null); isNull {
			return "", at(ErrFunctionFailed, e.path, "element %d is null", i)
		}
		return ev.text(elements[i])
	}
	elements, err := ev.texts(e.list)
	if err != nil {
		return "", err
	}
	if i >= len(elements) {
		return "", at(ErrFunctionFailed, e.path, "index %d of a list of %d", i, len(elements))
	}
	return elements[i], nil
}

func (ev *evaluator) find(e find) (string, error) {
	var keys [3]string
	for i, part := range []expr{e.table, e.key, e.field} {
		var err error
		if keys[i], err = ev.text(part); err != nil {
			return "", err
		}
	}
	value, ok := ev.t.mappings[keys[0]][keys[1]][keys[2]]
	if !ok {
		return "", at(ErrFunctionFailed, e.path, "there is no %s in %s of mapping %s", strictjson.Quote(keys[2]), strictjson.Quote(keys[1]), strictjson.Quote(keys[0]))
	}
	return value, ev.step(e.path, len(value))
}

func (ev *evaluator) split(e split) ([]string, error) {
	delim, err := ev.text(e.delim)
	if err != nil {
		return nil, err
	}
	s, err := ev.text(e.text)
	if err != nil {
		return nil, err
	}
	if delim == "" {
		return nil, at(ErrFunctionFailed, e.path, "the delimiter is empty")
	}
	if n := strings.Count(s, delim); n >= maxList {
		return nil, at(ErrLimit, e.path, "a list has %d elements, %d are allowed", n+1, maxList)
	}
	return strings.Split(s, delim), ev.step(e.path, len(s))
}

func (ev *evaluator) sub(e sub) (string, error) {
	vars := make([]string, len(e.vars))
	for i, v := range e.vars {
		var err error
		if vars[i], err = ev.text(v); err != nil {
			return "", err
		}
	}
	var out strings.Builder
	for _, part := range e.parts {
		ev.locals = append(ev.locals, vars)
		s, err := ev.text(part)
		ev.locals = ev.locals[:len(ev.locals)-1]
		if err != nil {
			return "", err
		}
		if out.Len()+len(s) > maxString {
			return "", at(ErrLimit, e.path, "a value has more than %d bytes", maxString)
		}
		out.WriteString(s)
	}
	return out.String(), ev.step(e.path, out.Len())
}
