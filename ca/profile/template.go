package profile

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"strconv"
	"strings"
	"time"

	"hallmark/internal/der"
)

// Issuer is what a template needs to know of who signs. A root that signs itself
// is its own issuer.
type Issuer struct {
	Subject  []byte // DER of the Name
	KeyID    []byte // subject key identifier
	Key      crypto.PublicKey
	CRLBase  string // the list's URL is CRLBase + "/" + shard + ".crl"; "" leaves the extension out (root)
	OCSPURL  string // "" leaves it out
	CertURL  string // caIssuers; "" leaves it out
	NotAfter time.Time
	// Limits is what its certificate allows below it; nil means everything.
	Limits *Limits
}

// Subject is the name of the certificate's holder; empty fields are left out.
// The order of the attributes is C, O, OU, CN, serialNumber.
type Subject struct {
	Country, Organization, OrganizationalUnit, CommonName, SerialNumber string
}

// HardwareModule is the hardwareModuleName of RFC 4108, Section 5.
type HardwareModule struct {
	Type   der.OID
	Serial []byte
}

// Names are the alternative names.
type Names struct {
	DNS      []string
	IP       [][]byte // 4 or 16 octets
	Hardware *HardwareModule
}

// Fields is the part of a certificate that differs from one to the next.
type Fields struct {
	Serial    []byte // big-endian, positive
	NotBefore time.Time
	NotAfter  time.Time
	Subject   Subject
	Names     Names
	SPKI      []byte // DER of subjectPublicKeyInfo
	Shard     int
	Origin    Origin
}

// Template renders one profile for one issuer. It is safe for concurrent use.
type Template struct {
	Profile Profile
	Issuer  Issuer
	SigAlg  []byte // DER of the AlgorithmIdentifier, also for the outer field
	Hash    crypto.Hash

	head     []byte            // version
	fixed    []byte            // extensions that never change
	policies map[Origin][]byte // whole certificatePolicies extension
	aki, aia []byte            // whole extensions
}

// SignatureAlgorithm gives the AlgorithmIdentifier and hash that a key signs
// with: SHA-256, or SHA-384 for P-384; RSA with PKCS #1 v1.5 (RFC 4055), which
// every device stack verifies.
func SignatureAlgorithm(key crypto.PublicKey) (alg []byte, hash crypto.Hash, err error) {
	oid := func(s string, null bool) []byte {
		return der.Sequence(nil, func(b []byte) []byte {
			b = der.MustOID(s).Append(b)
			if null {
				b = der.AppendNull(b)
			}
			return b
		})
	}
	switch k := key.(type) {
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			return oid("1.2.840.10045.4.3.2", false), crypto.SHA256, nil
		case elliptic.P384():
			return oid("1.2.840.10045.4.3.3", false), crypto.SHA384, nil
		}
	case *rsa.PublicKey:
		return oid("1.2.840.113549.1.1.11", true), crypto.SHA256, nil
	case ed25519.PublicKey:
		return oid("1.3.101.112", false), 0, nil
	}
	return nil, 0, fmt.Errorf("profile: no signature algorithm for a key of type %T", key)
}

// KeyID is the key identifier of a subjectPublicKeyInfo: the leftmost 160 bits
// of the SHA-256 of the key (RFC 7093, Section 2, method 1).
func KeyID(spki []byte) ([]byte, error) {
	seq, err := der.Only(spki, der.TagSequence)
	if err != nil {
		return nil, err
	}
	_, rest, err := der.Next(seq.Content)
	if err != nil {
		return nil, err
	}
	bits, err := der.Only(rest, der.TagBitString)
	if err != nil {
		return nil, err
	}
	if len(bits.Content) < 2 || bits.Content[0] != 0 {
		return nil, fmt.Errorf("profile: the public key is not a whole number of octets")
	}
	sum := sha256.Sum256(bits.Content[1:])
	return sum[:20], nil
}

// Compile makes the template of a profile for an issuer and checks it once
// against crypto/x509. arc is the base of the policy OIDs.
func Compile(p Profile, iss Issuer, arc string) (*Template, error) {
	t := &Template{Profile: p, Issuer: iss, policies: map[Origin][]byte{}}
	var err error
	if t.SigAlg, t.Hash, err = SignatureAlgorithm(iss.Key); err != nil {
		return nil, err
	}
	t.head = der.AppendTLV(nil, der.ContextConstructed(0), der.AppendInt(nil, 2))

	t.fixed = appendExtension(t.fixed, oidKeyUsage, true, der.AppendNamedBits(nil, p.Usage))
	bc := der.Sequence(nil, func(b []byte) []byte {
		if p.CA {
			b = der.AppendBool(b, true)
			b = der.AppendInt(b, int64(p.PathLen))
		}
		return b
	})
	t.fixed = appendExtension(t.fixed, oidBasicConstraints, true, bc)
	if p.names != nil { // RFC 5280, Section 4.2.1.10: critical
		t.fixed = appendExtension(t.fixed, oidNameConstraints, true, p.names)
	}
	if len(p.Purposes) > 0 {
		t.fixed = appendExtension(t.fixed, oidExtKeyUsage, false, der.Sequence(nil, func(b []byte) []byte {
			for _, o := range p.Purposes {
				b = o.Append(b)
			}
			return b
		}))
	}
	if p.NoCheck {
		t.fixed = appendExtension(t.fixed, oidOCSPNoCheck, false, der.AppendNull(nil))
	}
	if len(iss.KeyID) > 0 {
		t.aki = appendExtension(nil, oidAuthorityKeyID, false, der.Sequence(nil, func(b []byte) []byte {
			return der.AppendTLV(b, der.Context(0), iss.KeyID)
		}))
	}
	if iss.OCSPURL != "" && !p.NoCheck || iss.CertURL != "" {
		t.aia = appendExtension(nil, oidAIA, false, der.Sequence(nil, func(b []byte) []byte {
			if iss.OCSPURL != "" && !p.NoCheck {
				b = appendAccess(b, oidADOCSP, iss.OCSPURL)
			}
			if iss.CertURL != "" {
				b = appendAccess(b, oidADCAIssuers, iss.CertURL)
			}
			return b
		}))
	}
	if err := t.compilePolicies(arc); err != nil {
		return nil, err
	}
	return t, t.check()
}

func (t *Template) compilePolicies(arc string) error {
	for _, o := range []Origin{"", OriginAttested, OriginManifest, OriginClaimed, OriginStationMade, OriginServerMade} {
		var ids []string
		switch {
		case t.Profile.Name == Root:
			continue
		case t.Profile.CA:
			ids = []string{"2.5.29.32.0"} // anyPolicy: what a CA's certificates say is theirs
		default:
			ids = []string{arc + ".1." + strconv.Itoa(t.Profile.Role)}
			if o != "" {
				ids = append(ids, arc+".2."+strconv.Itoa(o.Arc()))
			}
		}
		var list []byte
		for _, id := range ids {
			oid, err := der.ParseOID(id)
			if err != nil {
				return err
			}
			list = der.AppendTLV(list, der.TagSequence, oid.Append(nil))
		}
		t.policies[o] = appendExtension(nil, oidPolicies, false, der.AppendTLV(nil, der.TagSequence, list))
	}
	return nil
}

// RolePolicy is the policy OID of a profile under an arc (S18).
func RolePolicy(p Profile, arc string) string { return arc + ".1." + strconv.Itoa(p.Role) }

func appendExtension(b []byte, oid der.OID, critical bool, value []byte) []byte {
	return der.Sequence(b, func(b []byte) []byte {
		b = oid.Append(b)
		if critical {
			b = der.AppendBool(b, true)
		}
		return der.AppendOctetString(b, value)
	})
}

func appendAccess(b []byte, method der.OID, url string) []byte {
	return der.Sequence(b, func(b []byte) []byte {
		b = method.Append(b)
		return der.AppendTLV(b, der.Context(6), []byte(url))
	})
}

// ListURL is where the list of one shard is published; the certificate's CRL
// distribution point and the list's issuing distribution point are this string.
func ListURL(base string, shard int) string { return base + "/" + strconv.Itoa(shard) + ".crl" }

// AppendName appends a Name.
func (s Subject) AppendName(b []byte) []byte {
	return der.Sequence(b, func(b []byte) []byte {
		for _, a := range [...]struct {
			oid   string
			value string
			print bool
		}{
			{"\x55\x04\x06", s.Country, true},
			{"\x55\x04\x0a", s.Organization, false},
			{"\x55\x04\x0b", s.OrganizationalUnit, false},
			{"\x55\x04\x03", s.CommonName, false},
			{"\x55\x04\x05", s.SerialNumber, true},
		} {
			if a.value == "" {
				continue
			}
			b = der.Set(b, func(b []byte) []byte {
				return der.Sequence(b, func(b []byte) []byte {
					b = der.AppendTLV(b, der.TagOID, []byte(a.oid))
					if a.print {
						return der.AppendPrintableString(b, a.value)
					}
					return der.AppendUTF8String(b, a.value)
				})
			})
		}
		return b
	})
}

// check refuses what no certificate could carry.
func (s Subject) check() error {
	for _, f := range [...]struct {
		name, value string
		max         int
		print       bool
	}{
		{"country", s.Country, 2, true},
		{"organization", s.Organization, maxOrganization, false},
		{"organizational unit", s.OrganizationalUnit, maxOrganization, false},
		{"common name", s.CommonName, maxCommonName, false},
		{"serialNumber", s.SerialNumber, maxSerialNumber, true},
	} {
		if len([]rune(f.value)) > f.max {
			return fmt.Errorf("the %s is longer than %d characters", f.name, f.max)
		}
		if f.print && !der.IsPrintable(f.value) && f.value != "" {
			return fmt.Errorf("the %s holds a character that PrintableString does not have", f.name)
		}
		if strings.ContainsFunc(f.value, func(r rune) bool { return r < 0x20 || r == 0x7f || r == '\uFFFD' }) {
			return fmt.Errorf("the %s holds a control character or is not UTF-8", f.name)
		}
	}
	if s == (Subject{}) {
		return fmt.Errorf("the subject is empty")
	}
	return nil
}

// Render builds the TBS. It refuses fields that cannot be in a certificate; what
// is unwise but possible is for the lints to say.
func (t *Template) Render(f *Fields) ([]byte, error) {
	if err := f.Subject.check(); err != nil {
		return nil, err
	}
	if !f.NotAfter.After(f.NotBefore) {
		return nil, fmt.Errorf("the certificate would end before it starts")
	}
	keyID, err := KeyID(f.SPKI)
	if err != nil {
		return nil, err
	}
	b := make([]byte, 0, 1024)
	b, tbs := der.Begin(b, der.TagSequence)
	b = append(b, t.head...)
	b = der.AppendUint(b, f.Serial)
	b = append(b, t.SigAlg...)
	if t.Profile.Name == Root {
		b = f.Subject.AppendName(b)
	} else {
		b = append(b, t.Issuer.Subject...)
	}
	b, mark := der.Begin(b, der.TagSequence)
	b = der.AppendUTCOrGeneralizedTime(b, f.NotBefore)
	b = der.AppendUTCOrGeneralizedTime(b, f.NotAfter)
	b = der.End(b, mark)
	b = f.Subject.AppendName(b)
	b = append(b, f.SPKI...)

	b, exts := der.Begin(b, der.ContextConstructed(3))
	b, list := der.Begin(b, der.TagSequence)
	b = append(b, t.fixed...)
	b, ext := der.Begin(b, der.TagSequence)
	b = oidSubjectKeyID.Append(b)
	b, value := der.Begin(b, der.TagOctetString)
	b = der.AppendOctetString(b, keyID)
	b = der.End(b, value)
	b = der.End(b, ext)
	if t.Profile.Name == Root {
		b = appendExtension(b, oidAuthorityKeyID, false, der.AppendTLV(nil, der.TagSequence, der.AppendTLV(nil, der.Context(0), keyID)))
	} else {
		b = append(b, t.aki...)
	}
	if b, err = appendNames(b, f.Names); err != nil {
		return nil, err
	}
	b = append(b, t.policies[f.Origin]...)
	// A root carries its own list's address too: OpenSSL's -crl_check_all asks
	// for the trust anchor's list and wants the scopes to match.
	if t.Issuer.CRLBase != "" {
		b = appendCRLDP(b, t.Issuer.CRLBase, f.Shard)
	}
	if t.Profile.Name != Root {
		b = append(b, t.aia...)
	}
	b = der.End(b, list)
	b = der.End(b, exts)
	return der.End(b, tbs), nil
}

func appendNames(b []byte, n Names) ([]byte, error) {
	if len(n.DNS) == 0 && len(n.IP) == 0 && n.Hardware == nil {
		return b, nil
	}
	var names []byte
	for _, d := range n.DNS {
		if !validDNS(d) {
			return nil, fmt.Errorf("%q is not a DNS name", d)
		}
		names = der.AppendTLV(names, der.Context(2), []byte(d))
	}
	for _, ip := range n.IP {
		if len(ip) != 4 && len(ip) != 16 {
			return nil, fmt.Errorf("an IP address has 4 or 16 octets")
		}
		names = der.AppendTLV(names, der.Context(7), ip)
	}
	if h := n.Hardware; h != nil {
		if len(h.Serial) == 0 || len(h.Serial) > MaxHardwareSerial {
			return nil, fmt.Errorf("the hardware serial number has 1 to %d octets", MaxHardwareSerial)
		}
		names = der.Wrap(names, der.ContextConstructed(0), func(b []byte) []byte {
			b = oidHardwareModule.Append(b)
			return der.Wrap(b, der.ContextConstructed(0), func(b []byte) []byte {
				return der.Sequence(b, func(b []byte) []byte {
					b = h.Type.Append(b)
					return der.AppendOctetString(b, h.Serial)
				})
			})
		})
	}
	return appendExtension(b, oidSubjectAltName, false, der.AppendTLV(nil, der.TagSequence, names)), nil
}

func appendCRLDP(b []byte, base string, shard int) []byte {
	return appendExtension(b, oidCRLDP, false, der.Sequence(nil, func(b []byte) []byte {
		return der.Sequence(b, func(b []byte) []byte {
			return AppendDistributionPointName(b, ListURL(base, shard))
		})
	}))
}

// AppendDistributionPointName appends [0] { fullName [0] { URI } }, the form
// that a CRL distribution point and an issuing distribution point share.
func AppendDistributionPointName(b []byte, url string) []byte {
	return der.Wrap(b, der.ContextConstructed(0), func(b []byte) []byte {
		return der.Wrap(b, der.ContextConstructed(0), func(b []byte) []byte {
			return der.AppendTLV(b, der.Context(6), []byte(url))
		})
	})
}

// Label tells whether s can be one label of a DNS name (RFC 1123, Section 2.1).
func Label(s string) bool {
	if s == "" || len(s) > 63 || s[0] == '-' || s[len(s)-1] == '-' {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if c != '-' && (c < '0' || c > '9') && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
			return false
		}
	}
	return true
}

func validDNS(s string) bool {
	if len(s) > 253 {
		return false
	}
	for _, l := range strings.Split(s, ".") {
		if !Label(l) {
			return false
		}
	}
	return true
}

// Assemble joins a TBS and its signature to a certificate or list.
func Assemble(tbs, sigAlg, signature []byte) []byte {
	b := make([]byte, 0, len(tbs)+len(sigAlg)+len(signature)+16)
	b, mark := der.Begin(b, der.TagSequence)
	b = append(b, tbs...)
	b = append(b, sigAlg...)
	b = der.AppendBitString(b, signature)
	return der.End(b, mark)
}

// check renders a sample and reads it back with crypto/x509: every octet that
// the template fixes is proven once, before anything is signed from it.
func (t *Template) check() error {
	spki, err := x509.MarshalPKIXPublicKey(t.Issuer.Key)
	if err != nil {
		return err
	}
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	f := Fields{Serial: append([]byte{0x40}, make([]byte, 19)...), NotBefore: start, NotAfter: start.Add(time.Hour),
		Subject: Subject{Organization: "Sample", CommonName: "sample-1", SerialNumber: "SAMPLE-1"},
		Names:   Names{DNS: []string{"sample-1.example"}}, SPKI: spki, Shard: 7}
	tbs, err := t.Render(&f)
	if err != nil {
		return err
	}
	c, err := x509.ParseCertificate(Assemble(tbs, t.SigAlg, []byte{0}))
	if err != nil {
		return fmt.Errorf("profile %s: the template does not parse: %w", t.Profile.Name, err)
	}
	keyID, _ := KeyID(spki)
	aki := t.Issuer.KeyID
	if t.Profile.Name == Root {
		aki = keyID
	}
	ok := bytes.Equal(c.RawTBSCertificate, tbs) && c.Version == 3 && c.SerialNumber.BitLen() == serialBits-1 &&
		c.NotBefore.Equal(f.NotBefore) && c.NotAfter.Equal(f.NotAfter) &&
		c.Subject.CommonName == "sample-1" && c.Subject.SerialNumber == "SAMPLE-1" &&
		bytes.Equal(c.RawSubjectPublicKeyInfo, spki) && bytes.Equal(c.SubjectKeyId, keyID) && bytes.Equal(c.AuthorityKeyId, aki) &&
		c.BasicConstraintsValid && c.IsCA == t.Profile.CA && (!c.IsCA || c.MaxPathLen == t.Profile.PathLen) &&
		uint32(c.KeyUsage) == t.Profile.Usage && len(c.ExtKeyUsage) == len(t.Profile.Purposes) && len(c.UnknownExtKeyUsage) == 0 &&
		len(c.DNSNames) == 1
	for _, id := range c.UnhandledCriticalExtensions { // crypto/x509 knows no directory names there
		ok = ok && t.Profile.names != nil && id.String() == oidNameConstraints.String()
	}
	if t.Issuer.CRLBase != "" {
		ok = ok && len(c.CRLDistributionPoints) == 1 && c.CRLDistributionPoints[0] == ListURL(t.Issuer.CRLBase, 7)
	}
	if !ok {
		return fmt.Errorf("profile %s: crypto/x509 reads other fields than the template wrote", t.Profile.Name)
	}
	return nil
}
