package lint

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"time"

	"hallmark/ca/profile"
	"hallmark/internal/der"
)

// Constraint is the rule that a certificate keeps to what its issuer's certificate
// allows. It is the one rule that a request can break.
const Constraint = "constraint"

const nameConstraints = "2.5.29.30"

// own runs our lints: every variable field says what the record says, and every
// fixed one what the profile says.
func own(c *x509.Certificate, want Expect) []Finding {
	var out []Finding
	bad := func(rule, detail string, args ...any) {
		out = append(out, Finding{"hallmark_" + rule, fmt.Sprintf(detail, args...)})
	}
	p, iss, f := want.Template.Profile, want.Template.Issuer, want.Fields

	if c.Version != 3 {
		bad("version", "version %d", c.Version)
	}
	// RFC 5280, Section 4.1.2.2; S4.
	if c.SerialNumber.Sign() <= 0 || c.SerialNumber.BitLen() > 159 || c.SerialNumber.BitLen() < 64 {
		bad("serial_number", "%d bits", c.SerialNumber.BitLen())
	}
	if !bytes.Equal(c.SerialNumber.Bytes(), bytes.TrimLeft(f.Serial, "\x00")) {
		bad("serial_number", "is not the drawn one")
	}
	// RFC 5280, Section 4.1.2.5: whole seconds; the draft must say what was asked.
	if !c.NotBefore.Equal(f.NotBefore.Truncate(time.Second)) || !c.NotAfter.Equal(f.NotAfter.Truncate(time.Second)) {
		bad("validity", "is not the planned one")
	}
	if !c.NotAfter.After(c.NotBefore) {
		bad("validity", "ends before it starts")
	}
	if !iss.NotAfter.IsZero() && c.NotAfter.After(iss.NotAfter) { // A9
		bad("validity", "outlives its issuer")
	}
	if c.NotAfter.Sub(c.NotBefore) > p.Lifetime+24*time.Hour && !(p.NoExpiry && c.NotAfter.Equal(profile.NoExpiry)) {
		bad("validity", "is longer than the profile allows")
	}
	if p.Name == profile.Root {
		if !bytes.Equal(c.RawIssuer, c.RawSubject) {
			bad("issuer", "a root names another issuer")
		}
	} else if !bytes.Equal(c.RawIssuer, iss.Subject) {
		bad("issuer", "is not the issuer's subject")
	}
	if !bytes.Equal(c.RawSubject, f.Subject.AppendName(nil)) || len(c.Subject.Names) == 0 {
		bad("subject", "is not the planned one")
	}
	if !bytes.Equal(c.RawSubjectPublicKeyInfo, f.SPKI) {
		bad("public_key", "is not the requested one")
	}
	// S1: a CA only from the profile, never by accident.
	if !c.BasicConstraintsValid || c.IsCA != p.CA {
		bad("basic_constraints", "CA is %t", c.IsCA)
	}
	if c.IsCA && c.MaxPathLen != p.PathLen {
		bad("basic_constraints", "path length is %d", c.MaxPathLen)
	}
	if uint32(c.KeyUsage) != p.Usage {
		bad("key_usage", "%b", c.KeyUsage)
	}
	if len(c.ExtKeyUsage)+len(c.UnknownExtKeyUsage) != len(p.Purposes) {
		bad("ext_key_usage", "%d purposes", len(c.ExtKeyUsage))
	}
	keyID, err := profile.KeyID(f.SPKI)
	if err != nil || !bytes.Equal(c.SubjectKeyId, keyID) {
		bad("subject_key_id", "does not fit the key")
	}
	if p.Name != profile.Root && !bytes.Equal(c.AuthorityKeyId, iss.KeyID) {
		bad("authority_key_id", "is not the issuer's")
	}
	lists := 0
	if iss.CRLBase != "" {
		lists = 1
		if len(c.CRLDistributionPoints) != 1 || c.CRLDistributionPoints[0] != profile.ListURL(iss.CRLBase, f.Shard) {
			bad("crl_distribution_point", "is not that of the shard")
		}
	}
	if len(c.CRLDistributionPoints) != lists {
		bad("crl_distribution_point", "%d points", len(c.CRLDistributionPoints))
	}
	if len(c.DNSNames) != len(f.Names.DNS) || len(c.IPAddresses) != len(f.Names.IP) || len(c.URIs)+len(c.EmailAddresses) != 0 {
		bad("subject_alt_name", "names that nobody planned")
	}
	if c.IsCA && !profile.SameConstraints(c, p) {
		bad(Constraint, "is not that of the profile")
	}
	for _, what := range iss.Limits.Breaks(c, p.NoCheck) {
		bad(Constraint, "%s", what)
	}
	extensions(c, bad)
	ofItsKind(c, p.Name, bad)
	return out
}

// critical says which extensions must be critical and which must not (RFC 5280,
// Section 4.2; the others are left to zlint).
var critical = map[string]bool{
	der.MustOID("2.5.29.15").String(): true,  // keyUsage
	der.MustOID("2.5.29.19").String(): true,  // basicConstraints
	der.MustOID("2.5.29.14").String(): false, // subjectKeyIdentifier
	der.MustOID("2.5.29.35").String(): false,
	der.MustOID("2.5.29.37").String(): false,
	der.MustOID("2.5.29.17").String(): false,
	der.MustOID("2.5.29.31").String(): false,
	der.MustOID("2.5.29.32").String(): false,
	nameConstraints:                   true,

	der.MustOID("1.3.6.1.5.5.7.1.1").String():    false, // authorityInfoAccess
	der.MustOID("1.3.6.1.5.5.7.48.1.5").String(): false, // ocsp-nocheck
}

func extensions(c *x509.Certificate, bad func(string, string, ...any)) {
	seen := make(map[string]bool, len(c.Extensions))
	for _, e := range c.Extensions {
		id := e.Id.String()
		want, known := critical[id]
		switch {
		case seen[id]:
			bad("extension", "%s twice", id)
		case !known || id == nameConstraints && !c.IsCA:
			bad("extension", "%s is not in any profile", id)
		case e.Critical != want:
			bad("extension", "%s critical is %t", id, e.Critical)
		}
		seen[id] = true
	}
}
