package policy

import (
	"slices"
	"strings"

	"hallmark/internal/strictjson"
)

// variable is something about a connection that a document can ask for, as
// ${name} or as the key of a condition.
type variable struct {
	name  string // in full, as documents write it
	from  origin
	key   string // of a thing's or certificate's attribute
	index int    // which of several values
	list  bool   // all values: the key of a condition only
}

type origin uint8

const (
	fromClientID origin = iota
	fromSourceIP
	fromDomainName
	fromConnect
	fromThingName
	fromThingType
	fromThingAttribute
	fromThingAttached
	fromCertificateID
	fromSerialNumber
	fromAvailableKeys
	fromCertificate
)

// plain are the variables without parts. Their names, as those of all condition
// keys, may be written in any case.
var plain = []variable{
	{name: "iot:ClientId", from: fromClientID},
	{name: "aws:SourceIp", from: fromSourceIP},
	{name: "iot:DomainName", from: fromDomainName},
	{name: "iot:ConnectAttributes", from: fromConnect, list: true},
	{name: "iot:Connection.Thing.ThingName", from: fromThingName},
	{name: "iot:Connection.Thing.ThingTypeName", from: fromThingType},
	{name: "iot:Connection.Thing.IsAttached", from: fromThingAttached},
	{name: "iot:CertificateId", from: fromCertificateID},
	{name: "iot:Certificate.SerialNumber", from: fromSerialNumber},
	{name: "iot:Certificate.AvailableKeys", from: fromAvailableKeys, list: true},
}

const (
	attributes  = "iot:Connection.Thing.Attributes["
	certificate = "iot:Certificate."
)

// nameAttributes are the parts of a subject or an issuer that have variables.
var nameAttributes = []string{
	"DistinguishedNameQualifier", "Country", "Organization", "OrganizationalUnit", "State", "CommonName", "SerialNumber",
	"Title", "Surname", "GivenName", "Initials", "Pseudonym", "GenerationQualifier",
	"AlternativeName.RFC822Name", "AlternativeName.DNSName", "AlternativeName.DirectoryName",
	"AlternativeName.UniformResourceIdentifier", "AlternativeName.IPAddress",
}

// parseVariable finds a variable by its name. An unknown name is refused, not
// left unresolved: a Deny that was misspelt would never be noticed.
func parseVariable(name string, path strictjson.Path) (variable, error) {
	for _, v := range plain {
		if strings.EqualFold(v.name, name) {
			return v, nil
		}
	}
	if rest, ok := cutFold(name, attributes); ok {
		key, ok := strings.CutSuffix(rest, "]")
		if !ok || !attributeName(key) {
			return variable{}, at(ErrVariable, path, "%s does not name a thing's attribute", strictjson.Quote(name))
		}
		return variable{name: attributes + key + "]", from: fromThingAttribute, key: key}, nil
	}
	for _, side := range []string{"Subject.", "Issuer."} {
		if rest, ok := cutFold(name, certificate+side); ok {
			if v, ok := certificateVariable(side, rest); ok {
				return v, nil
			}
		}
	}
	return variable{}, at(ErrVariable, path, "there is no %s%s", strictjson.Quote(name), perhaps(name, variableNames()))
}

// certificateVariable reads X, X.n or X.List.
func certificateVariable(side, rest string) (variable, bool) {
	for _, x := range nameAttributes {
		end, ok := cutFold(rest, x)
		if !ok {
			continue
		}
		v := variable{name: certificate + side + x, from: fromCertificate, key: side + x}
		switch {
		case end == "":
			return v, true
		case strings.EqualFold(end, ".List"):
			v.name, v.list = v.name+".List", true
			return v, true
		case len(end) == 2 && end[0] == '.' && end[1] >= '0' && end[1] <= '9':
			v.name, v.index = v.name+end, int(end[1]-'0')
			return v, true
		}
	}
	return variable{}, false
}

func cutFold(s, prefix string) (string, bool) {
	if len(s) < len(prefix) || !strings.EqualFold(s[:len(prefix)], prefix) {
		return "", false
	}
	return s[len(prefix):], true
}

// attributeName holds the registry's rule for the names of attributes.
func attributeName(s string) bool {
	if s == "" || len(s) > maxName {
		return false
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		if !(c|0x20 >= 'a' && c|0x20 <= 'z' || c >= '0' && c <= '9' || strings.IndexByte("_.,@/:#-", c) >= 0) {
			return false
		}
	}
	return true
}

func variableNames() []string {
	names := []string{attributes + "]"}
	for _, v := range plain {
		names = append(names, v.name)
	}
	for _, x := range nameAttributes {
		names = append(names, certificate+"Subject."+x, certificate+"Issuer."+x)
	}
	slices.Sort(names)
	return names
}
