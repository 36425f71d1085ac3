package policy

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/hex"
	"maps"
	"math/big"
	"net"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestContextFromCertificate_HasEveryVariable(t *testing.T) {
	arc := func(n int) asn1.ObjectIdentifier { return asn1.ObjectIdentifier{2, 5, 4, n} }
	subject := pkix.Name{Country: []string{"DE"}, CommonName: "press-7", SerialNumber: "SN1"}
	want := map[string][]string{"Subject.Country": {"DE"}, "Subject.CommonName": {"press-7"}, "Subject.SerialNumber": {"SN1"}}
	for n, name := range map[int]string{46: "DistinguishedNameQualifier", 8: "State", 12: "Title", 4: "Surname", 42: "GivenName", 43: "Initials", 65: "Pseudonym", 44: "GenerationQualifier"} {
		subject.ExtraNames = append(subject.ExtraNames, pkix.AttributeTypeAndValue{Type: arc(n), Value: "v" + name})
		want["Subject."+name] = []string{"v" + name}
	}
	for _, unit := range []string{"1", "2", "3", "4", "5", "6"} {
		subject.ExtraNames = append(subject.ExtraNames, pkix.AttributeTypeAndValue{Type: arc(11), Value: unit})
	}
	want["Subject.OrganizationalUnit"] = []string{"1", "2", "3", "4", "5"} // "lists stop at 5"
	subject.ExtraNames = append(subject.ExtraNames, pkix.AttributeTypeAndValue{Type: arc(10), Value: "Example Corp"}, pkix.AttributeTypeAndValue{Type: arc(10), Value: "AnyCompany"},
		pkix.AttributeTypeAndValue{Type: arc(7), Value: "no variable for localities"})
	want["Subject.Organization"] = []string{"Example Corp", "AnyCompany"}

	directory, err := asn1.Marshal(pkix.Name{CommonName: "dir", Organization: []string{"Corp"}}.ToRDNSequence())
	if err != nil {
		t.Fatal(err)
	}
	issuerAlt, err := asn1.Marshal([]asn1.RawValue{
		{Class: asn1.ClassContextSpecific, Tag: 2, Bytes: []byte("ca.example")},
		{Class: asn1.ClassContextSpecific, Tag: 4, IsCompound: true, Bytes: directory},
	})
	if err != nil {
		t.Fatal(err)
	}
	want["Issuer.AlternativeName.DNSName"] = []string{"ca.example"}
	want["Issuer.AlternativeName.DirectoryName"] = []string{"CN=dir,O=Corp"}
	want["Subject.AlternativeName.DNSName"] = []string{"a.example", "b.example"}
	want["Subject.AlternativeName.RFC822Name"] = []string{"x@example.com"}
	want["Subject.AlternativeName.IPAddress"] = []string{"10.0.0.1", "2001:db8::1"}
	want["Subject.AlternativeName.UniformResourceIdentifier"] = []string{"urn:dev:7"}
	want["Issuer.CommonName"], want["Issuer.Organization"] = []string{"Devices 1"}, []string{"Maker"}

	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	issuer := &x509.Certificate{Subject: pkix.Name{CommonName: "Devices 1", Organization: []string{"Maker"}}}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{
		SerialNumber: big.NewInt(0x0a40ff), Subject: subject, NotAfter: time.Now().Add(time.Hour),
		DNSNames: []string{"a.example", "b.example"}, EmailAddresses: []string{"x@example.com"},
		IPAddresses: []net.IP{net.ParseIP("10.0.0.1"), net.ParseIP("2001:db8::1")}, URIs: []*url.URL{{Scheme: "urn", Opaque: "dev:7"}},
		ExtraExtensions: []pkix.Extension{{Id: oidIssuerAltName, Value: issuerAlt}},
	}, issuer, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	got := ContextFromCertificate(cert).Certificate
	if id := sha256.Sum256(der); got.ID != hex.EncodeToString(id[:]) || got.SerialNumber != "0a40ff" {
		t.Errorf("id %s, serial number %s", got.ID, got.SerialNumber)
	}
	if !maps.EqualFunc(got.Values, want, slices.Equal[[]string]) {
		t.Errorf("got  %v\nwant %v", got.Values, want)
	}
	// Every name is one that documents can use, and no other is listed.
	for name := range got.Values {
		for _, end := range []string{"", ".0", ".List"} {
			if _, err := parseVariable("iot:Certificate."+name+end, ""); err != nil {
				t.Error(err)
			}
		}
	}
	for _, name := range nameAttributes {
		_, sub := got.Values["Subject."+name]
		if _, iss := got.Values["Issuer."+name]; !sub && !iss {
			t.Errorf("%s is in neither name", name)
		}
	}
	if ctx := ContextFromCertificate(nil); ctx.Certificate.ID != "" {
		t.Error("no certificate has an id")
	}
}

func FuzzAlternativeNames(f *testing.F) {
	f.Add([]byte{0x30, 0x05, 0x82, 0x03, 'a', '.', 'b'})
	f.Add([]byte{0x30, 0x06, 0x87, 0x04, 10, 0, 0, 1})
	f.Add([]byte{0x30, 0x04, 0xa4, 0x02, 0x30, 0x00})
	f.Fuzz(func(t *testing.T, der []byte) {
		c := Certificate{Values: map[string][]string{}}
		c.addAlternatives("Subject.AlternativeName.", der)
		for name, values := range c.Values {
			if !slices.Contains(nameAttributes, strings.TrimPrefix(name, "Subject.")) || len(values) > maxList {
				t.Errorf("%s: %d values", name, len(values))
			}
		}
	})
}
