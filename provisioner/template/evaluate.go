package template

import (
	"maps"
	"slices"
	"strings"
	"unicode/utf8"

	"hallmark/internal/strictjson"
)

// Input is what the parameters come from. The sources are kept apart because
// they are trusted differently.
type Input struct {
	Service   map[string]string // AWS:: parameters, from the service's own knowledge of the certificate
	Device    map[string]string // from the device, or a line of a bulk file
	Overrides map[string]string // from the hook; replace and add to the device's
}

// Result is what a template asks for. It names things; it has made none.
type Result struct {
	Thing               Thing
	Certificate         Certificate
	Policies            []Policy          // in the order of the resources' logical names
	DeviceConfiguration map[string]string // never nil
}

// Thing is the thing resource; Name is empty when the template has none.
type Thing struct {
	Name         string
	Attributes   map[string]string // never nil
	Type         string            // may be empty
	Groups       []string          // in the template's order
	BillingGroup string            // may be empty
	Overrides    ThingOverrides
}

// ThingOverrides says what to do where the thing exists and differs.
type ThingOverrides struct{ Attributes, Type, Groups Override }

// Certificate is the certificate resource. At most one of ID, CSR and PEM is
// set; none when a bulk template has no certificate.
type Certificate struct {
	ID, CSR, PEM string
	CAPEM        string // beside PEM only; may be empty
	Active       bool   // the status to set: active or inactive
	Overrides    CertificateOverrides
}

// CertificateOverrides says what to do where the certificate has a status.
type CertificateOverrides struct{ Status Override }

// Policy is one policy to attach: an existing one by Name, or Document under
// the name that is its hash.
type Policy struct{ Name, Document string }

type evaluator struct {
	t        *Template
	given    map[string]string
	defaults map[string]string // evaluated ones
	inPolicy bool              // references are checked for what would widen a policy
	steps    int
	bytes    int
	locals   [][]string // values of the variables of the Fn::Sub being evaluated
}

// Evaluate works out what the template gives for these parameters.
func (t *Template) Evaluate(in Input) (*Result, error) {
	// 1. The parameters, before anything looks at the template.
	given, err := t.merge(in)
	if err != nil {
		return nil, err
	}
	ev := &evaluator{t: t, given: given, defaults: map[string]string{}}
	for _, name := range sortedKeys(t.parameters) {
		if _, ok := given[name]; !ok && t.parameters[name].fallback == nil {
			return nil, missing(name, strictjson.Path("Parameters").Key(name))
		}
	}
	// 2. The sections.
	out := &Result{DeviceConfiguration: map[string]string{}}
	if out.Thing, err = ev.thing(t.thing); err != nil {
		return nil, err
	}
	if out.Certificate, err = ev.certificate(t.cert); err != nil {
		return nil, err
	}
	for _, p := range t.policies {
		policy, err := ev.policy(p)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(out.Policies, policy) {
			out.Policies = append(out.Policies, policy)
		}
	}
	size := 0
	for _, key := range sortedKeys(t.config) {
		if out.DeviceConfiguration[key], err = ev.text(t.config[key]); err != nil {
			return nil, err
		}
		if size += len(key) + len(out.DeviceConfiguration[key]); size > maxConfig {
			return nil, at(ErrLimit, "DeviceConfiguration", "it has more than %d bytes", maxConfig)
		}
	}
	return out, nil
}

func missing(name string, path strictjson.Path) error {
	return at(ErrParameterMissing, path, "the parameter %s is missing", strictjson.Quote(name)).With("parameter", name)
}

// merge checks the three sources and makes one set of them.
func (t *Template) merge(in Input) (map[string]string, error) {
	out := map[string]string{}
	for _, source := range []struct {
		who    string
		values map[string]string
		mine   bool // the service
	}{{"the device", in.Device, false}, {"the hook", in.Overrides, false}, {"the service", in.Service, true}} {
		if len(source.values) > maxParameters {
			return nil, ErrParameterInvalid.New("Of %s came %d parameters, %d are allowed.", source.who, len(source.values), maxParameters)
		}
		if t.kind == JITP && !source.mine && len(source.values) > 0 {
			return nil, ErrParameterRefused.New("In just-in-time provisioning there are no parameters of %s.", source.who)
		}
		for _, name := range sortedKeys(source.values) {
			value, refuse := source.values[name], ErrParameterInvalid.New
			switch {
			case source.mine && !slices.Contains(serviceParameters[t.kind], name):
				return nil, ErrParameterRefused.New("The service gives no %s to a %s template.", strictjson.Quote(name), t.kind).With("parameter", name)
			case !source.mine && isService(name):
				return nil, ErrParameterRefused.New("The parameter %s came from %s.", strictjson.Quote(name), source.who).With("parameter", name)
			case name == "" || len(name) > maxParameterName || hasControl(name):
				return nil, refuse("The name %s is not acceptable.", strictjson.Quote(name))
			case len(value) > maxParameterValue:
				return nil, refuse("The value of %s has %d bytes, %d are allowed.", strictjson.Quote(name), len(value), maxParameterValue).With("parameter", name)
			case !clean(value):
				return nil, refuse("The value of %s has control characters or is not UTF-8.", strictjson.Quote(name)).With("parameter", name)
			}
		}
		maps.Copy(out, source.values)
	}
	return out, nil
}

func (ev *evaluator) thing(t *thing) (out Thing, err error) {
	if t == nil {
		return out, nil
	}
	out.Attributes = map[string]string{}
	for _, field := range []struct {
		key  string
		from expr
		to   *string
	}{{"ThingName", t.name, &out.Name}, {"ThingTypeName", t.typeName, &out.Type}, {"BillingGroup", t.billed, &out.BillingGroup}} {
		if field.from == nil {
			continue
		}
		if *field.to, err = ev.name(field.from, t.path.Key(field.key)); err != nil {
			return out, err
		}
	}
	path := t.path.Key("AttributePayload")
	for _, key := range sortedKeys(t.attributes) {
		value, err := ev.text(t.attributes[key])
		switch {
		case err != nil:
			return out, err
		case utf8.RuneCountInString(value) > maxAttributeValue:
			return out, at(ErrValueInvalid, path.Key(key), "the value has more than %d characters", maxAttributeValue)
		case hasControl(value):
			return out, at(ErrValueInvalid, path.Key(key), "the value has control characters")
		}
		out.Attributes[key] = value
	}
	switch n := len(out.Attributes); {
	case n > maxAttributes:
		return out, at(ErrValueInvalid, path, "there are %d attributes, %d are allowed", n, maxAttributes)
	case n > maxUntyped && out.Type == "":
		return out, at(ErrValueInvalid, path, "there are %d attributes, a thing without a type has at most %d", n, maxUntyped)
	}
	if t.groups != nil {
		path := t.path.Key("ThingGroups")
		groups, err := ev.texts(t.groups)
		if err != nil {
			return out, err
		}
		for i, group := range groups {
			if !validName(group) {
				return out, badName(group, path.Index(i))
			}
			if slices.Contains(out.Groups, group) {
				return out, at(ErrValueInvalid, path.Index(i), "the group %s stands twice", strictjson.Quote(group))
			}
			out.Groups = append(out.Groups, group)
		}
		if len(groups) > maxGroups {
			return out, at(ErrValueInvalid, path, "there are %d groups, %d are allowed", len(groups), maxGroups)
		}
	}
	out.Overrides.Attributes, err = ev.override(t.overrides, "AttributePayload", t.path)
	if err == nil {
		out.Overrides.Type, err = ev.override(t.overrides, "ThingTypeName", t.path)
	}
	if err == nil {
		out.Overrides.Groups, err = ev.override(t.overrides, "ThingGroups", t.path)
	}
	return out, err
}

func (ev *evaluator) name(e expr, path strictjson.Path) (string, error) {
	s, err := ev.text(e)
	if err == nil && !validName(s) {
		err = badName(s, path)
	}
	return s, err
}

func badName(s string, path strictjson.Path) error {
	return at(ErrValueInvalid, path, "%s is no name: it has 1 to %d of a-z A-Z 0-9 : _ -", strictjson.Quote(s), maxThingName)
}

func (ev *evaluator) certificate(c *certificate) (out Certificate, err error) {
	if c == nil {
		return out, nil
	}
	for _, field := range []struct {
		from expr
		to   *string
	}{{c.id, &out.ID}, {c.csr, &out.CSR}, {c.pem, &out.PEM}, {c.caPEM, &out.CAPEM}} {
		if field.from == nil {
			continue
		}
		if *field.to, err = ev.text(field.from); err != nil {
			return out, err
		}
	}
	switch {
	case c.id != nil && !validCertificateID(out.ID):
		return out, at(ErrValueInvalid, c.path.Key("CertificateId"), "%s is no certificate id: it has 64 of 0-9 a-f", strictjson.Quote(out.ID))
	case c.csr != nil && out.CSR == "":
		return out, at(ErrValueInvalid, c.path.Key("CertificateSigningRequest"), "it is empty")
	case c.pem != nil && out.PEM == "":
		return out, at(ErrValueInvalid, c.path.Key("CertificatePem"), "it is empty")
	}
	status := "ACTIVE"
	if c.status != nil {
		if status, err = ev.text(c.status); err != nil {
			return out, err
		}
	}
	switch {
	case strings.EqualFold(status, "ACTIVE"):
		out.Active = true
	case !strings.EqualFold(status, "INACTIVE"):
		return out, at(ErrValueInvalid, c.path.Key("Status"), "%s is neither ACTIVE nor INACTIVE", strictjson.Quote(status))
	}
	out.Overrides.Status, err = ev.override(c.overrides, "Status", c.path)
	return out, err
}

// override evaluates one setting; path is that of the properties beside it.
func (ev *evaluator) override(from map[string]expr, name string, path strictjson.Path) (Override, error) {
	e, ok := from[name]
	if !ok {
		return Fail, nil
	}
	s, err := ev.text(e)
	if err != nil {
		return "", err
	}
	path = strictjson.Path(strings.TrimSuffix(string(path), ".Properties")).Key("OverrideSettings").Key(name)
	return Override(s), checkOverride(name, s, path)
}
