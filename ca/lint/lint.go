// Package lint is what we refuse to sign: zlint's rules for RFC 5280, 3279,
// 5480, 8813 and 5891, and our own for a device CA.
//
// zlint costs a large part of a millisecond, so it runs once for every issuer,
// profile version and shape of subject and names, before the first signature of
// that shape; our own lints run on every certificate's fields before its
// signature; and everything issued goes through zlint again behind the line
// ([Linter.Full]). A finding of level error or above refuses.
//
// Start reading at lint.go.
package lint

import (
	"bytes"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	zx509 "github.com/zmap/zcrypto/x509"
	"github.com/zmap/zlint/v3"
	zlintlint "github.com/zmap/zlint/v3/lint"

	"hallmark/ca/profile"
)

// Finding is a broken rule.
type Finding struct {
	Rule   string // zlint's name, or one of ours with the prefix "hallmark_"
	Detail string
}

func (f Finding) String() string {
	if f.Detail == "" {
		return f.Rule
	}
	return f.Rule + " (" + f.Detail + ")"
}

// Expect is what a certificate must say, from the authenticated record and not
// from the certificate itself.
type Expect struct {
	Template *profile.Template
	Fields   *profile.Fields
}

// Linter checks certificates and lists. It is safe for concurrent use.
type Linter struct {
	zlint  zlintlint.Registry
	shapes sync.Map // string → error text, "" when clean
}

// New makes a Linter.
func New() (*Linter, error) {
	reg, err := zlintlint.GlobalRegistry().Filter(zlintlint.FilterOptions{
		IncludeSources: zlintlint.SourceList{zlintlint.RFC5280, zlintlint.RFC3279, zlintlint.RFC5480, zlintlint.RFC8813, zlintlint.RFC5891, zlintlint.Community},
		ExcludeNames:   []string{"e_cert_issued_by_compromised_emudhra_ca"}, // 17 times as slow as all others together, and about one public CA
	})
	if err != nil {
		return nil, fmt.Errorf("lint: %w", err)
	}
	return &Linter{zlint: reg}, nil
}

// Certificate lints a TBS before it is signed. The parsed certificate it
// returns is the TBS with a signature of one zero octet.
func (l *Linter) Certificate(tbs []byte, want Expect) (*x509.Certificate, []Finding) {
	draft := profile.Assemble(tbs, want.Template.SigAlg, []byte{0})
	c, err := x509.ParseCertificate(draft)
	if err != nil {
		return nil, []Finding{{"hallmark_parses", err.Error()}}
	}
	if !bytes.Equal(c.RawTBSCertificate, tbs) {
		return nil, []Finding{{"hallmark_parses", "octets after the certificate"}}
	}
	if fs := own(c, want); len(fs) > 0 {
		return nil, fs
	}
	shape := shapeOf(c, want.Template, want.Fields.Names.Hardware != nil)
	if text, ok := l.shapes.Load(shape); ok {
		if text != "" {
			return nil, []Finding{{"zlint", text.(string)}}
		}
		return c, nil
	}
	fs := l.Full(draft)
	text := make([]string, len(fs))
	for i, f := range fs {
		text[i] = f.String()
	}
	l.shapes.Store(shape, strings.Join(text, ", "))
	if len(fs) > 0 {
		return nil, fs
	}
	return c, nil
}

// Full runs zlint on a certificate and returns its errors.
func (l *Linter) Full(certificate []byte) []Finding {
	z, err := zx509.ParseCertificate(certificate)
	if err != nil {
		return []Finding{{"zlint_parses", err.Error()}}
	}
	return findings(zlint.LintCertificateEx(z, l.zlint), nil)
}

// List runs zlint on a revocation list. A list of a root may run for a year.
func (l *Linter) List(list []byte, root bool) []Finding {
	z, err := zx509.ParseRevocationList(list)
	if err != nil {
		return []Finding{{"zlint_parses", err.Error()}}
	}
	var except []string
	if root {
		except = []string{"e_crl_next_update_invalid"}
	}
	return findings(zlint.LintRevocationListEx(z, l.zlint), except)
}

func findings(set *zlint.ResultSet, except []string) []Finding {
	var out []Finding
	for name, r := range set.Results {
		if r.Status >= zlintlint.Error && !slices.Contains(except, name) {
			out = append(out, Finding{name, r.Details})
		}
	}
	slices.SortFunc(out, func(a, b Finding) int { return strings.Compare(a.Rule, b.Rule) })
	return out
}

// shapeOf names what zlint's verdict depends on besides the values that our own
// lints bound: who issues, which profile version, which attributes and names
// there are, what kind of key, which encoding of time.
func shapeOf(c *x509.Certificate, t *profile.Template, hardware bool) string {
	b := make([]byte, 0, 256)
	b = append(b, t.Issuer.KeyID...)
	b = append(append(b, ' '), t.Profile.Name...)
	for _, n := range [...]int{t.Profile.Version, int(c.PublicKeyAlgorithm), len(c.RawSubjectPublicKeyInfo), len(c.DNSNames), len(c.IPAddresses)} {
		b = strconv.AppendInt(append(b, ' '), int64(n), 10)
	}
	oid := func(id asn1.ObjectIdentifier) {
		b = append(b, ' ')
		for _, n := range id {
			b = strconv.AppendInt(append(b, '.'), int64(n), 10)
		}
	}
	flag := func(v bool) { b = strconv.AppendBool(append(b, ':'), v) }
	for _, n := range c.Subject.Names {
		oid(n.Type)
		v, isText := n.Value.(string)
		flag(v == "" && isText)
		flag(strings.Contains(v, " "))
		flag(isText)
	}
	for _, e := range c.Extensions {
		oid(e.Id)
	}
	flag(c.NotBefore.Year() >= 2050)
	flag(c.NotAfter.Year() >= 2050)
	flag(hardware)
	flag(c.NotAfter.Sub(c.NotBefore) > 100*365*24*time.Hour)
	return string(b)
}
