package policy

import (
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"net/netip"
)

// ContextFromCertificate is a context with the variables of cert in it. The
// caller adds what it knows of the connection and the thing.
//
// The service's documentation does not say how some values look. Here a serial
// number is lower-case hex without separators, and a directory name is written
// as in RFC 2253.
func ContextFromCertificate(cert *x509.Certificate) Context {
	if cert == nil {
		return Context{}
	}
	id := sha256.Sum256(cert.Raw)
	c := Certificate{ID: hex.EncodeToString(id[:]), Values: map[string][]string{}}
	if cert.SerialNumber != nil {
		c.SerialNumber = hex.EncodeToString(cert.SerialNumber.Bytes())
	}
	c.addName("Subject.", cert.Subject)
	c.addName("Issuer.", cert.Issuer)
	for _, ext := range cert.Extensions {
		switch {
		case ext.Id.Equal(oidSubjectAltName):
			c.addAlternatives("Subject.AlternativeName.", ext.Value)
		case ext.Id.Equal(oidIssuerAltName):
			c.addAlternatives("Issuer.AlternativeName.", ext.Value)
		}
	}
	return Context{Certificate: c}
}

// RFC 5280, Sections 4.2.1.6 and 4.2.1.7.
var (
	oidSubjectAltName = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidIssuerAltName  = asn1.ObjectIdentifier{2, 5, 29, 18}
)

// attributeTypes names the attributes of X.520 by the last arc of 2.5.4.
var attributeTypes = map[int]string{
	46: "DistinguishedNameQualifier", 6: "Country", 10: "Organization", 11: "OrganizationalUnit", 8: "State",
	3: "CommonName", 5: "SerialNumber", 12: "Title", 4: "Surname", 42: "GivenName", 43: "Initials",
	65: "Pseudonym", 44: "GenerationQualifier",
}

func (c *Certificate) add(name, value string) {
	if len(c.Values[name]) < maxList {
		c.Values[name] = append(c.Values[name], value)
	}
}

// addName takes the attributes in the order of the certificate.
func (c *Certificate) addName(side string, name pkix.Name) {
	for _, a := range name.Names {
		if len(a.Type) != 4 || a.Type[0] != 2 || a.Type[1] != 5 || a.Type[2] != 4 {
			continue
		}
		value, ok := a.Value.(string)
		if x := attributeTypes[a.Type[3]]; ok && x != "" {
			c.add(side+x, value)
		}
	}
}

// addAlternatives reads GeneralNames (RFC 5280, Section 4.2.1.6). It is not
// taken from crypto/x509 because that has neither directory names nor those of
// the issuer. What does not parse has no value.
func (c *Certificate) addAlternatives(side string, der []byte) {
	var names asn1.RawValue
	if rest, err := asn1.Unmarshal(der, &names); err != nil || len(rest) > 0 || names.Tag != asn1.TagSequence {
		return
	}
	for rest := names.Bytes; len(rest) > 0; {
		var n asn1.RawValue
		var err error
		if rest, err = asn1.Unmarshal(rest, &n); err != nil {
			return
		}
		if n.Class != asn1.ClassContextSpecific {
			continue
		}
		switch n.Tag {
		case 1:
			c.add(side+"RFC822Name", string(n.Bytes))
		case 2:
			c.add(side+"DNSName", string(n.Bytes))
		case 4:
			var rdns pkix.RDNSequence
			if tail, err := asn1.Unmarshal(n.Bytes, &rdns); err == nil && len(tail) == 0 {
				c.add(side+"DirectoryName", rdns.String())
			}
		case 6:
			c.add(side+"UniformResourceIdentifier", string(n.Bytes))
		case 7:
			if ip, ok := netip.AddrFromSlice(n.Bytes); ok {
				c.add(side+"IPAddress", ip.String())
			}
		}
	}
}
