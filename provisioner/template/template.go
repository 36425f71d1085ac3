package template

import (
	"slices"

	"hallmark/internal/strictjson"
)

// Kind is the way of provisioning that a template serves.
type Kind uint8

// The three kinds. They share the language and differ in what they may use.
const (
	Fleet Kind = iota // by claim or trusted user: parameters from the device, perhaps changed by a hook
	JITP              // at first connection: parameters from the certificate's subject only
	Bulk              // by a file of parameter sets: certificates may be given in several forms
)

// String is the kind's name.
func (k Kind) String() string {
	switch k {
	case Fleet:
		return "fleet"
	case JITP:
		return "JITP"
	case Bulk:
		return "bulk"
	}
	return "unknown"
}

// CertificateID is the parameter that carries the certificate's id in fleet
// and JITP templates.
const CertificateID = servicePrefix + "IoT::Certificate::Id"

const servicePrefix = "AWS::"

// serviceParameters lists what the service may give to each kind. JITP's are
// the subject's attributes; one that the subject lacks is simply not given.
var serviceParameters = map[Kind][]string{
	Fleet: {CertificateID},
	JITP: {
		"AWS::IoT::Certificate::Country",
		"AWS::IoT::Certificate::Organization",
		"AWS::IoT::Certificate::OrganizationalUnit",
		"AWS::IoT::Certificate::DistinguishedNameQualifier",
		"AWS::IoT::Certificate::StateName",
		"AWS::IoT::Certificate::CommonName",
		"AWS::IoT::Certificate::SerialNumber", // the subject attribute, not the certificate's number
		CertificateID,
	},
}

// Template is a parsed template. It is immutable and safe for concurrent use.
type Template struct {
	kind       Kind
	parameters map[string]parameter
	mappings   map[string]map[string]map[string]string
	thing      *thing
	cert       *certificate
	policies   []policy
	config     map[string]expr
}

type parameter struct {
	fallback expr // nil = must be given
}

type thing struct {
	path                     strictjson.Path
	name                     expr
	attributes               map[string]expr
	typeName, groups, billed expr // nil = not in the template
	overrides                map[string]expr
}

type certificate struct {
	path                        strictjson.Path
	csr, id, pem, caPEM, status expr
	overrides                   map[string]expr
}

type policy struct {
	path           strictjson.Path
	name, document expr // one of them
}

// Kind is the kind the template was parsed as.
func (t *Template) Kind() Kind { return t.kind }

// Groups are the thing groups that the template names, and how many it adds at least
// whose names it has from the device.
func (t *Template) Groups() (named []string, more int) {
	if t.thing == nil || t.thing.groups == nil {
		return nil, 0
	}
	elements, ok := t.thing.groups.(list)
	if !ok {
		return nil, 1
	}
	for _, e := range elements {
		if l, ok := e.(literal); ok {
			named = append(named, string(l))
		} else {
			more++
		}
	}
	return named, more
}

// Parameter is one declared parameter.
type Parameter struct {
	Name     string
	Required bool   // it has no default
	Default  string // where the default is a plain string
	Service  bool   // the service gives it, nobody else may
}

// Parameters lists the declared parameters, ordered by name.
func (t *Template) Parameters() []Parameter {
	out := make([]Parameter, 0, len(t.parameters))
	for _, name := range sortedKeys(t.parameters) {
		text, _ := t.parameters[name].fallback.(literal)
		out = append(out, Parameter{
			Name:     name,
			Required: t.parameters[name].fallback == nil,
			Default:  string(text),
			Service:  slices.Contains(serviceParameters[t.kind], name),
		})
	}
	return out
}
