package template

import (
	"strings"

	"hallmark/internal/strictjson"
)

// sub parses Fn::Sub in both forms: "text ${Name}" and ["text", {name: value}].
// A name of the second form hides a parameter. The text is taken apart here,
// once, so that a value which holds ${...} is never looked at again.
func (p *parser) sub(argument any, path strictjson.Path) (expr, error) {
	text, ok := argument.(string)
	textPath, locals, out := path, map[string]local{}, sub{path: path}
	if args, isList := argument.([]any); isList && len(args) == 2 {
		textPath = path.Index(0)
		if text, ok = args[0].(string); !ok {
			return nil, at(ErrStructure, textPath, "want a string, not %s", kindOf(args[0]))
		}
		vars, isObject := args[1].(map[string]any)
		if !isObject {
			return nil, at(ErrStructure, path.Index(1), "want an object of names and values, not %s", kindOf(args[1]))
		}
		for _, name := range sortedKeys(vars) {
			if name == "" || strings.ContainsAny(name, "${}!") || survives(name) {
				return nil, at(ErrStructure, path.Index(1), "%s is no name for a variable", strictjson.Quote(name))
			}
			v, err := p.text(vars[name], path.Index(1).Key(name))
			if err != nil {
				return nil, err
			}
			locals[name] = local(len(out.vars))
			out.vars = append(out.vars, v)
		}
	} else if !ok {
		return nil, at(ErrStructure, path, "want a string or [string, object]")
	}

	var fixed strings.Builder
	flush := func() {
		if fixed.Len() > 0 {
			out.parts = append(out.parts, literal(fixed.String()))
			fixed.Reset()
		}
	}
	for {
		before, rest, found := strings.Cut(text, "${")
		fixed.WriteString(before)
		if !found {
			flush()
			return out, nil
		}
		name, after, closed := strings.Cut(rest, "}")
		if !closed {
			return nil, at(ErrStructure, textPath, "a ${ has no }")
		}
		text = after
		switch {
		case survives(name):
			fixed.WriteString("${" + name + "}")
		case strings.HasPrefix(name, "!"):
			fixed.WriteString("${" + name[1:] + "}")
		default:
			part, known := expr(nil), false
			if part, known = locals[name]; !known {
				var err error
				if part, err = p.ref(name, textPath); err != nil {
					return nil, err
				}
			}
			flush()
			out.parts = append(out.parts, part)
		}
	}
}

// survives reports whether ${name} is a variable of the policy language,
// which is filled in when a device connects and not when it is provisioned.
func survives(name string) bool {
	return strings.HasPrefix(name, "iot:") || strings.HasPrefix(name, "aws:") && !isService(name)
}
