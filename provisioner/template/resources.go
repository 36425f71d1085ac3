package template

import (
	"slices"

	"hallmark/internal/strictjson"
)

// Override says what happens when the thing or certificate exists already and
// differs from what the template gives.
type Override string

// The override values; MERGE is for attributes and groups only.
const (
	Fail      Override = "FAIL" // the default
	DoNothing Override = "DO_NOTHING"
	Replace   Override = "REPLACE"
	Merge     Override = "MERGE"
)

// aliases are the other names that the language's documentation has for the
// override settings.
var aliases = map[string]string{
	"ATTRIBUTE_PAYLOAD": "AttributePayload",
	"THING_TYPE_NAME":   "ThingTypeName",
	"THING_GROUPS":      "ThingGroups",
}

// parseResources reads at most one thing, at most one certificate and the
// policies. Fleet and JITP templates must have the certificate: without it
// nothing would be activated and the device locked out silently.
func (p *parser) parseResources(top map[string]any) error {
	const path = strictjson.Path("Resources")
	v, ok := top["Resources"]
	if !ok {
		return at(ErrStructure, path, "the section is missing")
	}
	resources, err := members(v, path)
	if err != nil {
		return err
	}
	if len(resources) == 0 {
		return at(ErrStructure, path, "there is no resource")
	}
	for _, name := range sortedKeys(resources) {
		at1 := path.Key(name)
		m, err := members(resources[name], at1, "Type", "Properties", "OverrideSettings")
		if err != nil {
			return err
		}
		kind, _ := m["Type"].(string)
		types := []string{typeThing, typeCertificate, typePolicy}
		if !slices.Contains(types, kind) {
			return at(ErrStructure, at1.Key("Type"), "want %s, %s or %s%s", typeThing, typeCertificate, typePolicy, meant(kind, types))
		}
		if v, ok := m["OverrideSettings"]; ok && v == nil {
			return at(ErrStructure, at1.Key("OverrideSettings"), "want an object, not null")
		}
		properties, ok := m["Properties"]
		if !ok {
			return at(ErrStructure, at1.Key("Properties"), "the section is missing")
		}
		switch kind {
		case typeThing:
			err = p.parseThing(at1, properties, m["OverrideSettings"])
		case typeCertificate:
			err = p.parseCertificate(at1, properties, m["OverrideSettings"])
		case typePolicy:
			if _, ok := m["OverrideSettings"]; ok {
				return at(ErrUnknownKey, at1.Key("OverrideSettings"), "a policy has no override settings")
			}
			err = p.parsePolicy(at1, properties)
		}
		if err != nil {
			return err
		}
	}
	if p.t.cert == nil && p.t.kind != Bulk {
		return at(ErrStructure, path, "a %s template needs a resource of type %s", p.t.kind, typeCertificate)
	}
	return nil
}

func (p *parser) parseThing(path strictjson.Path, properties, overrides any) error {
	if p.t.thing != nil {
		return at(ErrStructure, path, "there is a second resource of type %s", typeThing)
	}
	t := &thing{path: path.Key("Properties"), attributes: map[string]expr{}}
	m, err := members(properties, t.path, "ThingName", "AttributePayload", "ThingTypeName", "ThingGroups", "BillingGroup")
	if err != nil {
		return err
	}
	if _, ok := m["ThingName"]; !ok {
		return at(ErrStructure, t.path.Key("ThingName"), "it is missing")
	}
	if err := p.optional(m, t.path, map[string]*expr{"ThingName": &t.name, "ThingTypeName": &t.typeName, "BillingGroup": &t.billed}); err != nil {
		return err
	}
	if v, ok := m["AttributePayload"]; ok {
		at1 := t.path.Key("AttributePayload")
		attributes, err := members(v, at1)
		if err != nil {
			return err
		}
		for _, key := range sortedKeys(attributes) {
			if !validAttributeKey(key) {
				return at(ErrStructure, at1.Key(key), "an attribute's name has 1 to %d of a-z A-Z 0-9 _ . , @ / : # -", maxAttributeKey)
			}
			if t.attributes[key], err = p.text(attributes[key], at1.Key(key)); err != nil {
				return err
			}
		}
	}
	if v, ok := m["ThingGroups"]; ok {
		if t.groups, err = p.texts(v, t.path.Key("ThingGroups"), false); err != nil {
			return err
		}
	}
	t.overrides, err = p.parseOverrides(path.Key("OverrideSettings"), overrides, "AttributePayload", "ThingTypeName", "ThingGroups")
	p.t.thing = t
	return err
}

func (p *parser) parseCertificate(path strictjson.Path, properties, overrides any) error {
	if p.t.cert != nil {
		return at(ErrStructure, path, "there is a second resource of type %s", typeCertificate)
	}
	c := &certificate{path: path.Key("Properties")}
	m, err := members(properties, c.path, "CertificateSigningRequest", "CertificateId", "CertificatePem", "CACertificatePem", "Status")
	if err != nil {
		return err
	}
	if err := p.optional(m, c.path, map[string]*expr{
		"CertificateSigningRequest": &c.csr, "CertificateId": &c.id, "CertificatePem": &c.pem, "CACertificatePem": &c.caPEM, "Status": &c.status,
	}); err != nil {
		return err
	}
	if p.t.kind != Bulk {
		// The certificate was made or presented before the template runs; a
		// template that names another would attach a stranger's.
		if r, ok := c.id.(ref); !ok || r.name != CertificateID || c.csr != nil || c.pem != nil || c.caPEM != nil {
			return at(ErrKind, c.path, `a %s template identifies the certificate by "CertificateId": {"Ref": "%s"} and nothing else`, p.t.kind, CertificateID)
		}
	}
	given := 0
	for _, e := range []expr{c.csr, c.id, c.pem} {
		if e != nil {
			given++
		}
	}
	switch {
	case given != 1:
		return at(ErrStructure, c.path, "want exactly one of CertificateSigningRequest, CertificateId and CertificatePem")
	case c.caPEM != nil && c.pem == nil:
		return at(ErrStructure, c.path.Key("CACertificatePem"), "it belongs to CertificatePem")
	}
	c.overrides, err = p.parseOverrides(path.Key("OverrideSettings"), overrides, "Status")
	p.t.cert = c
	return err
}

func (p *parser) parsePolicy(path strictjson.Path, properties any) error {
	if len(p.t.policies) == maxPolicies {
		return at(ErrStructure, path, "there are more than %d policies", maxPolicies)
	}
	out := policy{path: path.Key("Properties")}
	m, err := members(properties, out.path, "PolicyName", "PolicyDocument")
	if err != nil {
		return err
	}
	document, hasDocument := m["PolicyDocument"]
	if _, hasName := m["PolicyName"]; hasName == hasDocument {
		return at(ErrStructure, out.path, "want exactly one of PolicyName and PolicyDocument")
	}
	if hasDocument {
		out.document, err = p.document(document, out.path.Key("PolicyDocument"))
	} else {
		out.name, err = p.text(m["PolicyName"], out.path.Key("PolicyName"))
	}
	p.t.policies = append(p.t.policies, out)
	return err
}

// optional parses those string properties that are there.
func (p *parser) optional(m map[string]any, path strictjson.Path, into map[string]*expr) error {
	for _, key := range sortedKeys(into) {
		v, ok := m[key]
		if !ok {
			continue
		}
		var err error
		if *into[key], err = p.text(v, path.Key(key)); err != nil {
			return err
		}
	}
	return nil
}

// parseOverrides reads override settings under their names or aliases. A
// value that is written plainly is checked at once.
func (p *parser) parseOverrides(path strictjson.Path, v any, allowed ...string) (map[string]expr, error) {
	out := map[string]expr{}
	if v == nil {
		return out, nil
	}
	names := slices.Clone(allowed)
	for alias, name := range aliases {
		if slices.Contains(allowed, name) {
			names = append(names, alias)
		}
	}
	slices.Sort(names)
	m, err := members(v, path, names...)
	if err != nil {
		return nil, err
	}
	for _, key := range sortedKeys(m) {
		name := key
		if full, ok := aliases[key]; ok {
			name = full
		}
		if _, twice := out[name]; twice {
			return nil, at(ErrStructure, path.Key(key), "%s stands here under two names", name)
		}
		if out[name], err = p.text(m[key], path.Key(key)); err != nil {
			return nil, err
		}
		if text, ok := out[name].(literal); ok {
			if f := checkOverride(name, string(text), path.Key(key)); f != nil {
				return nil, at(ErrStructure, path.Key(key), "want %s", overridesFor(name))
			}
		}
	}
	return out, nil
}

func overridesFor(name string) string {
	if name == "AttributePayload" || name == "ThingGroups" {
		return "DO_NOTHING, REPLACE, FAIL or MERGE"
	}
	return "DO_NOTHING, REPLACE or FAIL"
}

func checkOverride(name, value string, path strictjson.Path) error {
	switch Override(value) {
	case DoNothing, Replace, Fail:
		return nil
	case Merge:
		if name == "AttributePayload" || name == "ThingGroups" {
			return nil
		}
	}
	return at(ErrValueInvalid, path, "want %s", overridesFor(name))
}
