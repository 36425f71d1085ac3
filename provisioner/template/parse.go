package template

import (
	"slices"
	"strings"

	"hallmark/internal/fault"
	"hallmark/internal/strictjson"
)

const (
	typeThing       = "AWS::IoT::Thing"
	typeCertificate = "AWS::IoT::Certificate"
	typePolicy      = "AWS::IoT::Policy"
)

type parser struct {
	t      *Template
	pieces int // that flatten has looked at
}

// Parse reads a template body and checks all of it that does not depend on
// parameters: an accepted template refers to nothing it does not have.
func Parse(body []byte, kind Kind) (*Template, error) {
	if kind > Bulk {
		return nil, at(ErrKind, "", "there is no such kind of template")
	}
	if len(body) > MaxBody {
		return nil, ErrTooLarge.New("It has %d bytes, %d are allowed.", len(body), MaxBody)
	}
	v, err := strictjson.Generic(body)
	if err != nil {
		f := fault.From(err)
		out := ErrMalformed.Wrap(err, "%s", f.Detail)
		out.Members = f.Members
		return nil, out
	}
	p := &parser{t: &Template{kind: kind, parameters: map[string]parameter{}, mappings: map[string]map[string]map[string]string{}, config: map[string]expr{}}}
	top, err := members(v, "", "Parameters", "Mappings", "Resources", "DeviceConfiguration")
	if err != nil {
		return nil, err
	}
	for _, section := range []string{"Mappings", "DeviceConfiguration"} {
		if _, ok := top[section]; ok && kind != Fleet {
			return nil, at(ErrKind, strictjson.Path(section), "only fleet templates have this section, not %s templates", kind)
		}
	}
	// Declarations first: the rest refers to them.
	if err := p.parseMappings(top); err != nil {
		return nil, err
	}
	if err := p.parseParameters(top); err != nil {
		return nil, err
	}
	if err := p.parseResources(top); err != nil {
		return nil, err
	}
	if err := p.parseConfiguration(top); err != nil {
		return nil, err
	}
	return p.t, nil
}

// members is v as an object that has none but the allowed keys. Without a
// list any keys go.
func members(v any, path strictjson.Path, allowed ...string) (map[string]any, error) {
	m, ok := v.(map[string]any)
	if !ok {
		return nil, at(ErrStructure, path, "want an object, not %s", kindOf(v))
	}
	for _, key := range sortedKeys(m) {
		if len(allowed) > 0 && !slices.Contains(allowed, key) {
			return nil, at(ErrUnknownKey, path.Key(key), "this key does not belong here%s", meant(key, allowed))
		}
		if key == "" {
			return nil, at(ErrUnknownKey, path.Key(key), "a key is empty")
		}
	}
	return m, nil
}

func (p *parser) parseMappings(top map[string]any) error {
	v, ok := top["Mappings"]
	if !ok {
		return nil
	}
	tables, err := members(v, "Mappings")
	if err != nil {
		return err
	}
	for _, table := range sortedKeys(tables) {
		at1 := strictjson.Path("Mappings").Key(table)
		keys, err := members(tables[table], at1)
		if err != nil {
			return err
		}
		p.t.mappings[table] = map[string]map[string]string{}
		for _, key := range sortedKeys(keys) {
			at2 := at1.Key(key)
			cells, err := members(keys[key], at2)
			if err != nil {
				return err
			}
			row := map[string]string{}
			for _, field := range sortedKeys(cells) {
				text, ok := cells[field].(string)
				if !ok {
					return at(ErrStructure, at2.Key(field), "want a string, not %s: there are no functions in Mappings", kindOf(cells[field]))
				}
				row[field] = text
			}
			p.t.mappings[table][key] = row
		}
	}
	return nil
}

func (p *parser) parseParameters(top map[string]any) error {
	v, ok := top["Parameters"]
	if !ok {
		return nil
	}
	const path = strictjson.Path("Parameters")
	declared, err := members(v, path)
	if err != nil {
		return err
	}
	for _, name := range sortedKeys(declared) {
		at1 := path.Key(name)
		switch {
		case isService(name) && !slices.Contains(serviceParameters[p.t.kind], name):
			return at(ErrUnknownReference, at1, "the service has no such parameter for a %s template%s", p.t.kind, meant(name, serviceParameters[p.t.kind]))
		case len(name) > maxParameterName || strings.ContainsAny(name, "${}!") || survives(name) || hasControl(name):
			return at(ErrStructure, at1, "this is no name for a parameter")
		}
		p.t.parameters[name] = parameter{} // all names first: defaults may refer to any
	}
	for _, name := range sortedKeys(declared) {
		at1 := path.Key(name)
		m, err := members(declared[name], at1, "Type", "Default")
		if err != nil {
			return err
		}
		if kind, ok := m["Type"]; !ok || kind != "String" {
			return at(ErrStructure, at1.Key("Type"), `want "String"`)
		}
		def, ok := m["Default"]
		switch {
		case ok && name == CertificateID:
			return at(ErrStructure, at1.Key("Default"), "the certificate's id cannot have a default")
		case !ok && p.t.kind == JITP && !isService(name):
			return at(ErrKind, at1, "a JITP template has no device to give this parameter, so it needs a default")
		case !ok:
			continue
		}
		fallback, err := p.text(def, at1.Key("Default"))
		if err != nil {
			return err
		}
		p.t.parameters[name] = parameter{fallback: fallback}
	}
	return p.checkCycles()
}

// checkCycles refuses defaults that need each other.
func (p *parser) checkCycles() error {
	state := map[string]int{} // 1 = being visited, 2 = done
	var visit func(name string) error
	var walk func(e expr) error
	walk = func(e expr) error {
		switch e := e.(type) {
		case ref:
			if state[e.name] == 1 {
				return at(ErrStructure, e.path, "the default of %s needs itself", strictjson.Quote(e.name))
			}
			return visit(e.name)
		default:
			for _, child := range children(e) {
				if err := walk(child); err != nil {
					return err
				}
			}
		}
		return nil
	}
	visit = func(name string) error {
		if state[name] == 2 {
			return nil
		}
		state[name] = 1
		if err := walk(p.t.parameters[name].fallback); err != nil {
			return err
		}
		state[name] = 2
		return nil
	}
	for _, name := range sortedKeys(p.t.parameters) {
		if err := visit(name); err != nil {
			return err
		}
	}
	return nil
}

// children lists the nodes right under e.
func children(e expr) []expr {
	switch e := e.(type) {
	case join:
		return []expr{e.delim, e.list}
	case pick:
		return []expr{e.index, e.list}
	case find:
		return []expr{e.table, e.key, e.field}
	case split:
		return []expr{e.delim, e.text}
	case sub:
		return append(slices.Clone(e.parts), e.vars...)
	case list:
		return e
	case object:
		return e.values
	}
	return nil
}

func (p *parser) parseConfiguration(top map[string]any) error {
	v, ok := top["DeviceConfiguration"]
	if !ok {
		return nil
	}
	const path = strictjson.Path("DeviceConfiguration")
	m, err := members(v, path)
	if err != nil {
		return err
	}
	for _, key := range sortedKeys(m) {
		if len(key) > maxConfigKey {
			return at(ErrStructure, path.Key(key), "the key has more than %d bytes", maxConfigKey)
		}
		if p.t.config[key], err = p.text(m[key], path.Key(key)); err != nil {
			return err
		}
	}
	return nil
}

// isService reports whether a parameter's name is the service's to give.
// Case does not matter: nobody declares aws::x but to be mistaken for AWS::x.
func isService(name string) bool {
	return len(name) >= len(servicePrefix) && strings.EqualFold(name[:len(servicePrefix)], servicePrefix)
}
