package template

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"strconv"
	"strings"

	"hallmark/internal/fault"
	"hallmark/internal/strictjson"
)

// A document built as text has its holes marked by two noncharacters around
// their number, which no text of ours needs and which JSON lets through.
const (
	holeOpen  = "\ufdd0"
	holeClose = "\ufdd1"
)

// document parses a policy document, given as an object with functions in it,
// as a string that holds JSON, or as Fn::Sub or Fn::Join over such text.
func (p *parser) document(v any, path strictjson.Path) (expr, error) {
	if text, ok := v.(string); ok {
		return p.documentText([]expr{literal(text)}, path)
	}
	name, argument, ok, err := call(v, path)
	if err != nil {
		return nil, err
	}
	if !ok {
		if _, isObject := v.(map[string]any); !isObject {
			return nil, at(ErrStructure, path, "want an object or a string with JSON in it, not %s", kindOf(v))
		}
		return p.tree(v, path)
	}
	if name != "Fn::Sub" && name != "Fn::Join" {
		return nil, at(ErrStructure, path, "a whole document comes from text, Fn::Sub or Fn::Join, not from %s", name)
	}
	e, err := p.function(name, argument, path.Key(name))
	if err != nil {
		return nil, err
	}
	parts, err := p.flatten(e, path)
	if err != nil {
		return nil, err
	}
	return p.documentText(parts, path)
}

// tree parses a document's object: functions are calls, everything else is
// itself. A list function may stand wherever a value may.
func (p *parser) tree(v any, path strictjson.Path) (expr, error) {
	switch v := v.(type) {
	case string:
		return literal(v), nil
	case []any:
		out := make(list, len(v))
		for i := range v {
			var err error
			if out[i], err = p.tree(v[i], path.Index(i)); err != nil {
				return nil, err
			}
		}
		return out, nil
	case map[string]any:
		name, argument, ok, err := call(v, path)
		if err != nil {
			return nil, err
		}
		if ok {
			return p.function(name, argument, path.Key(name))
		}
		return p.each(v, path, p.tree)
	}
	return plain{v}, nil
}

func (p *parser) each(v map[string]any, path strictjson.Path, parse func(any, strictjson.Path) (expr, error)) (expr, error) {
	out := object{keys: sortedKeys(v)}
	for _, key := range out.keys {
		e, err := parse(v[key], path.Key(key))
		if err != nil {
			return nil, err
		}
		out.values = append(out.values, e)
	}
	return out, nil
}

// flatten takes Fn::Sub and Fn::Join apart into literal text and holes. It
// counts its calls, because a variable is taken apart wherever it is used and
// nesting multiplies that.
func (p *parser) flatten(e expr, path strictjson.Path) ([]expr, error) {
	if p.pieces++; p.pieces > maxPieces {
		return nil, at(ErrStructure, path, "the document is made of more than %d pieces", maxPieces)
	}
	switch e := e.(type) {
	case sub:
		var out []expr
		for _, part := range e.parts {
			if i, ok := part.(local); ok {
				part = e.vars[i]
			}
			more, err := p.flatten(part, path)
			if err != nil {
				return nil, err
			}
			out = append(out, more...)
		}
		return out, nil
	case join:
		elements, ok := e.list.(list)
		if !ok {
			return nil, at(ErrStructure, path, "a document made by Fn::Join needs a written list")
		}
		var out []expr
		for i, element := range elements {
			if i > 0 {
				out = append(out, e.delim)
			}
			more, err := p.flatten(element, path)
			if err != nil {
				return nil, err
			}
			out = append(out, more...)
		}
		return out, nil
	}
	return []expr{e}, nil
}

// documentText parses JSON text with holes. Parsing comes before filling, so
// what fills a hole cannot end a string, open a member or close a brace.
func (p *parser) documentText(parts []expr, path strictjson.Path) (expr, error) {
	var text strings.Builder
	var holes []expr
	for _, part := range parts {
		fixed, ok := part.(literal)
		if !ok {
			text.WriteString(holeOpen + strconv.Itoa(len(holes)) + holeClose)
			holes = append(holes, part)
			continue
		}
		if strings.Contains(string(fixed), holeOpen) || strings.Contains(string(fixed), holeClose) || strings.Contains(strings.ToLower(string(fixed)), `\ufdd`) {
			return nil, at(ErrStructure, path, "the document holds a noncharacter")
		}
		text.WriteString(string(fixed))
		if text.Len() > maxDocument {
			return nil, at(ErrStructure, path, "the document has more than %d bytes", maxDocument)
		}
	}
	v, err := strictjson.Generic([]byte(text.String()))
	if err != nil {
		return nil, at(ErrStructure, path, "the text is no strict JSON: %s", strings.TrimSuffix(fault.From(err).Detail, "."))
	}
	if _, ok := v.(map[string]any); !ok {
		return nil, at(ErrStructure, path, "the text holds %s, not an object", kindOf(v))
	}
	return p.filled(v, path, holes)
}

// filled puts the holes of a parsed document back as functions.
func (p *parser) filled(v any, path strictjson.Path, holes []expr) (expr, error) {
	switch v := v.(type) {
	case string:
		if !strings.Contains(v, holeOpen) {
			return literal(v), nil
		}
		out := sub{path: path}
		for v != "" {
			before, rest, found := strings.Cut(v, holeOpen)
			if before != "" {
				out.parts = append(out.parts, literal(before))
			}
			if !found {
				break
			}
			number, after, _ := strings.Cut(rest, holeClose)
			i, err := strconv.Atoi(number)
			if err != nil || i < 0 || i >= len(holes) {
				return nil, at(ErrStructure, path, "the document holds a noncharacter")
			}
			out.parts = append(out.parts, holes[i])
			v = after
		}
		return out, nil
	case []any:
		out := make(list, len(v))
		for i := range v {
			var err error
			if out[i], err = p.filled(v[i], path.Index(i), holes); err != nil {
				return nil, err
			}
		}
		return out, nil
	case map[string]any:
		for _, key := range sortedKeys(v) {
			if strings.Contains(key, holeOpen) {
				return nil, at(ErrStructure, path, "a value cannot become the name of a member")
			}
		}
		if name, _, ok, err := call(v, path); ok || err != nil {
			return nil, at(ErrStructure, path, "functions in a document given as text are not evaluated%s: give the document as an object", map[bool]string{true: " (" + name + ")"}[ok])
		}
		return p.each(v, path, func(v any, path strictjson.Path) (expr, error) { return p.filled(v, path, holes) })
	}
	return plain{v}, nil
}

// policy evaluates one policy. A document without a name is named by its
// hash, so equal documents share a policy.
func (ev *evaluator) policy(p policy) (Policy, error) {
	if p.document == nil {
		name, err := ev.text(p.name)
		if err != nil {
			return Policy{}, err
		}
		if !validPolicyName(name) {
			return Policy{}, at(ErrValueInvalid, p.path.Key("PolicyName"), "%s is no policy name: it has 1 to %d of a-z A-Z 0-9 _ + = , . @ -", strictjson.Quote(name), maxPolicyName)
		}
		return Policy{Name: name}, nil
	}
	path := p.path.Key("PolicyDocument")
	ev.inPolicy = true
	defer func() { ev.inPolicy = false }()
	v, err := ev.tree(p.document)
	if err != nil {
		return Policy{}, err
	}
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		return Policy{}, at(ErrValueInvalid, path, "the document cannot be written as JSON")
	}
	document := bytes.TrimSuffix(out.Bytes(), []byte("\n"))
	if len(document) > maxDocument {
		return Policy{}, at(ErrLimit, path, "the document has more than %d bytes", maxDocument)
	}
	sum := sha256.Sum256(document)
	return Policy{Name: hex.EncodeToString(sum[:]), Document: string(document)}, nil
}

// tree evaluates a document's node into what encoding/json writes; it sorts
// the members, so the same document is always the same bytes.
func (ev *evaluator) tree(e expr) (any, error) {
	switch e := e.(type) {
	case object:
		out := make(map[string]any, len(e.keys))
		for i, key := range e.keys {
			v, err := ev.tree(e.values[i])
			if err != nil {
				return nil, err
			}
			out[key] = v
		}
		return out, nil
	case list:
		out := make([]any, len(e))
		for i := range e {
			v, err := ev.tree(e[i])
			if err != nil {
				return nil, err
			}
			out[i] = v
		}
		return out, nil
	case plain:
		return e.value, nil
	case split:
		return ev.texts(e)
	}
	return ev.text(e)
}
