package profile

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"hallmark/internal/der"
)

// Constraints narrow what an authority's certificate lets it sign (RFC 5280,
// Sections 4.2.1.9, 4.2.1.10 and 4.2.1.12). The zero value narrows nothing.
//
// A name is written with its kind: dns:example.com (and all below it),
// ip:10.0.0.0/8, uri:example.com (that host) or uri:.example.com (those below it),
// directory:C=DE,O=Example (subjects that begin so).
type Constraints struct {
	// PathLength is below what the profile has; nil leaves that.
	PathLength *int     `json:"path_length,omitempty" yaml:"path_length"`
	Permitted  []string `json:"permitted,omitempty" yaml:"permitted"`
	Excluded   []string `json:"excluded,omitempty" yaml:"excluded"`
	// Purposes are those of everything below: client-auth, server-auth, ocsp-signing.
	Purposes []string `json:"purposes,omitempty" yaml:"purposes"`
}

// Empty tells whether nothing is narrowed.
func (c Constraints) Empty() bool {
	return c.PathLength == nil && len(c.Permitted)+len(c.Excluded)+len(c.Purposes) == 0
}

// Equal compares, an absent list like an empty one.
func (c Constraints) Equal(d Constraints) bool {
	length := func(n *int) int {
		if n == nil {
			return -1
		}
		return *n
	}
	return length(c.PathLength) == length(d.PathLength) && slices.Equal(c.Permitted, d.Permitted) && slices.Equal(c.Excluded, d.Excluded) && slices.Equal(c.Purposes, d.Purposes)
}

// Same tells whether authorities of a profile that are narrowed by one and by the
// other may sign the same: the order and the spelling of names do not count, and a
// path length that is left out is the profile's.
func (c Constraints) Same(d Constraints, p Profile) bool {
	length := func(n *int) int {
		if n == nil {
			return p.PathLen
		}
		return *n
	}
	names := func(list []string) []string {
		out := slices.Clone(list)
		for i, text := range out {
			if s, err := parseSubtree(text); err == nil {
				out[i] = s.String()
			}
		}
		slices.Sort(out)
		return slices.Compact(out)
	}
	purposes := func(list []string) []string { return slices.Sorted(slices.Values(list)) }
	return length(c.PathLength) == length(d.PathLength) && slices.Equal(names(c.Permitted), names(d.Permitted)) &&
		slices.Equal(names(c.Excluded), names(d.Excluded)) && slices.Equal(purposes(c.Purposes), purposes(d.Purposes))
}

// String is the constraints in words; empty if there are none.
func (c Constraints) String() string {
	var out []string
	if c.PathLength != nil {
		out = append(out, fmt.Sprintf("path length %d", *c.PathLength))
	}
	for _, l := range []struct {
		what string
		list []string
	}{{"permitted", c.Permitted}, {"excluded", c.Excluded}, {"purposes", c.Purposes}} {
		if len(l.list) > 0 {
			out = append(out, l.what+" "+strings.Join(l.list, " "))
		}
	}
	return strings.Join(out, "; ")
}

var (
	oidNameConstraints = der.MustOID("2.5.29.30")
	oidAnyPurpose      = "2.5.29.37.0"

	purposeNames = []purpose{{"client-auth", PurposeClientAuth}, {"server-auth", PurposeServerAuth}, {"ocsp-signing", PurposeOCSPSigning}}
)

// purpose is a name for scripts and an identifier.
type purpose struct {
	name string
	oid  der.OID
}

const (
	maxSubtrees = 64
	// Tags of GeneralName (RFC 5280, Section 4.2.1.6).
	nameDNS       = 2
	nameDirectory = 4
	nameURI       = 6
	nameIP        = 7
)

// subtree is one base name.
type subtree struct {
	kind byte
	text string // of a host, in lower case
	ip   *net.IPNet
	dir  []attribute
	subj Subject // of dir, where it has that form
}

// attribute is one of a name, folded for comparison (RFC 5280, Section 7.1).
type attribute struct{ oid, value string }

// Constrained is the profile of an authority narrowed.
func (p Profile) Constrained(c Constraints) (Profile, error) {
	if c.Empty() {
		return p, nil
	}
	if !p.CA {
		return p, fmt.Errorf("the profile %s is no authority's", p.Name)
	}
	if n := c.PathLength; n != nil {
		if *n < 0 || *n > p.PathLen {
			return p, fmt.Errorf("the path length of the profile %s is %d, which can be narrowed but not to %d", p.Name, p.PathLen, *n)
		}
		p.PathLen = *n
	}
	p.Purposes = nil
	for _, name := range c.Purposes {
		i := slices.IndexFunc(purposeNames, func(x purpose) bool { return x.name == name })
		if i < 0 || slices.Contains(p.Purposes, purposeNames[i].oid) {
			return p, fmt.Errorf("%.30q is no purpose, or is there twice; there are client-auth, server-auth and ocsp-signing", name)
		}
		p.Purposes = append(p.Purposes, purposeNames[i].oid)
	}
	if len(c.Permitted)+len(c.Excluded) == 0 {
		return p, nil
	}
	if len(c.Permitted)+len(c.Excluded) > maxSubtrees {
		return p, fmt.Errorf("there are more than %d names", maxSubtrees)
	}
	var content []byte
	for i, list := range [][]string{c.Permitted, c.Excluded} {
		var trees []byte
		for _, text := range list {
			s, err := parseSubtree(text)
			if err != nil {
				return p, err
			}
			trees = der.AppendTLV(trees, der.TagSequence, s.appendName(nil))
		}
		if len(trees) > 0 {
			content = der.AppendTLV(content, der.ContextConstructed(byte(i)), trees)
		}
	}
	p.names = der.AppendTLV(nil, der.TagSequence, content)
	return p, nil
}

// NameConstraints is the value of the extension, nil if there is none.
func (p Profile) NameConstraints() []byte { return p.names }

// parseSubtree reads a name as it is written in scripts.
func parseSubtree(text string) (s subtree, err error) {
	kind, value, _ := strings.Cut(text, ":")
	switch kind {
	case "dns":
		s = subtree{kind: nameDNS, text: value}
		if !validDNS(value) || strings.ToLower(value) != value {
			err = fmt.Errorf("is not a DNS name in lower case without a dot before it")
		}
	case "uri":
		s = subtree{kind: nameURI, text: value}
		if !validDNS(strings.TrimPrefix(value, ".")) || strings.ToLower(value) != value {
			err = fmt.Errorf("is not a host, or a dot and a domain, in lower case")
		}
	case "ip":
		p, perr := netip.ParsePrefix(value)
		if perr != nil || p != p.Masked() {
			return s, fmt.Errorf("the constraint %.80q is not a network such as 10.0.0.0/8", text)
		}
		s = subtree{kind: nameIP, ip: &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}}
	case "directory":
		s.kind = nameDirectory
		for _, part := range strings.Split(value, ",") {
			k, v, _ := strings.Cut(part, "=")
			field := map[string]*string{"C": &s.subj.Country, "O": &s.subj.Organization, "OU": &s.subj.OrganizationalUnit, "CN": &s.subj.CommonName}[k]
			if field == nil || *field != "" || v == "" {
				return s, fmt.Errorf("the constraint %.80q is not C=, O=, OU=, CN= once each, with commas between", text)
			}
			*field = v
		}
		if err = s.subj.check(); err == nil {
			s.dir, err = attributes(s.subj.AppendName(nil))
		}
	default:
		err = fmt.Errorf("has none of the beginnings dns:, ip:, uri:, directory: that there are")
	}
	if err != nil {
		return s, fmt.Errorf("the constraint %.80q %w", text, err)
	}
	return s, nil
}

func (s *subtree) appendName(b []byte) []byte {
	switch s.kind {
	case nameIP:
		return der.AppendTLV(b, der.Context(nameIP), s.ip.IP, s.ip.Mask)
	case nameDirectory:
		return der.AppendTLV(b, der.ContextConstructed(nameDirectory), s.subj.AppendName(nil))
	}
	return der.AppendTLV(b, der.Context(s.kind), []byte(s.text))
}

// String is the form that parseSubtree reads.
func (s *subtree) String() string {
	switch s.kind {
	case nameIP:
		return "ip:" + s.ip.String()
	case nameURI:
		return "uri:" + s.text
	case nameDNS:
		return "dns:" + s.text
	}
	var parts []string
	for _, f := range [][2]string{{"C", s.subj.Country}, {"O", s.subj.Organization}, {"OU", s.subj.OrganizationalUnit}, {"CN", s.subj.CommonName}} {
		if f[1] != "" {
			parts = append(parts, f[0]+"="+f[1])
		}
	}
	return "directory:" + strings.Join(parts, ",")
}

// attributes reads a Name.
func attributes(name []byte) ([]attribute, error) {
	out, err := rawAttributes(name)
	for i := range out {
		out[i].value = strings.ToLower(strings.Join(strings.Fields(out[i].value), " "))
	}
	return out, err
}

func rawAttributes(name []byte) (out []attribute, err error) {
	var seq pkix.RDNSequence
	if rest, err := asn1.Unmarshal(name, &seq); err != nil || len(rest) > 0 {
		return nil, fmt.Errorf("is not a name")
	}
	for _, set := range seq {
		for _, a := range set {
			out = append(out, attribute{a.Type.String(), fmt.Sprint(a.Value)})
		}
	}
	return out, nil
}

// Limits is what the certificate of an issuer allows below it.
type Limits struct {
	pathLen             int      // -1: no limit
	purposes            []string // dotted; nil: all
	permitted, excluded []subtree
	broken              error // what it says is not understood, so nothing is allowed
}

// LimitsOf reads what a certificate allows below it.
func LimitsOf(c *x509.Certificate) *Limits {
	l := &Limits{pathLen: -1}
	if c.BasicConstraintsValid && (c.MaxPathLen > 0 || c.MaxPathLenZero) {
		l.pathLen = c.MaxPathLen
	}
	for _, e := range c.Extensions {
		switch e.Id.String() {
		case oidNameConstraints.String():
			if err := l.readNames(e.Value); err != nil {
				l.broken = err
			}
		case oidExtKeyUsage.String():
			var ids []asn1.ObjectIdentifier
			if rest, err := asn1.Unmarshal(e.Value, &ids); err != nil || len(rest) > 0 {
				l.broken = fmt.Errorf("its purposes are malformed")
			}
			for _, id := range ids {
				l.purposes = append(l.purposes, id.String())
			}
		}
	}
	return l
}

func (l *Limits) readNames(value []byte) error {
	malformed := fmt.Errorf("its name constraints are malformed")
	seq, err := der.Only(value, der.TagSequence)
	if err != nil {
		return malformed
	}
	for rest := seq.Content; len(rest) > 0; {
		var list der.Element
		if list, rest, err = der.Next(rest); err != nil {
			return malformed
		}
		into := map[byte]*[]subtree{der.ContextConstructed(0): &l.permitted, der.ContextConstructed(1): &l.excluded}[list.Tag]
		if into == nil {
			return malformed
		}
		for trees := list.Content; len(trees) > 0; {
			var tree der.Element
			if tree, trees, err = der.Take(trees, der.TagSequence); err != nil {
				return malformed
			}
			s, err := readSubtree(tree.Content)
			if err != nil {
				return err
			}
			*into = append(*into, s)
		}
	}
	return nil
}

func readSubtree(in []byte) (s subtree, err error) {
	e, rest, err := der.Next(in)
	if err != nil || len(rest) > 0 { // minimum and maximum are never there (RFC 5280, Section 4.2.1.10)
		return s, fmt.Errorf("a subtree of its name constraints is malformed or has bounds")
	}
	switch e.Tag {
	case der.Context(nameDNS), der.Context(nameURI):
		return subtree{kind: e.Tag & 0x1f, text: strings.ToLower(string(e.Content))}, nil
	case der.Context(nameIP):
		if n := len(e.Content); n == 8 || n == 32 {
			return subtree{kind: nameIP, ip: &net.IPNet{IP: net.IP(e.Content[:n/2]), Mask: net.IPMask(e.Content[n/2:])}}, nil
		}
	case der.ContextConstructed(nameDirectory):
		s.kind = nameDirectory
		raw, err := rawAttributes(e.Content)
		if err == nil {
			s.dir, _ = attributes(e.Content)
			for _, a := range raw {
				field := map[string]*string{"2.5.4.6": &s.subj.Country, "2.5.4.10": &s.subj.Organization, "2.5.4.11": &s.subj.OrganizationalUnit, "2.5.4.3": &s.subj.CommonName}[a.oid]
				if field != nil {
					*field = a.value
				}
			}
			return s, nil
		}
	}
	return s, fmt.Errorf("a subtree of its name constraints is of a kind (tag %#x) that is not checked here", e.Tag)
}

// ConstraintsOf reads the constraints of an authority's certificate as they are
// written in scripts. p is its profile. The path length is there if it is narrower.
func ConstraintsOf(c *x509.Certificate, p Profile) (out Constraints, err error) {
	l := LimitsOf(c)
	if l.broken != nil {
		return out, l.broken
	}
	if l.pathLen >= 0 && l.pathLen < p.PathLen {
		out.PathLength = &l.pathLen
	}
	for _, id := range l.purposes {
		i := slices.IndexFunc(purposeNames, func(x purpose) bool { return x.oid.String() == id })
		if i < 0 {
			return out, fmt.Errorf("its purpose %s is none that we write", id)
		}
		out.Purposes = append(out.Purposes, purposeNames[i].name)
	}
	for i := range l.permitted {
		out.Permitted = append(out.Permitted, l.permitted[i].String())
	}
	for i := range l.excluded {
		out.Excluded = append(out.Excluded, l.excluded[i].String())
	}
	return out, nil
}

// Breaks says what a certificate would break: each is a certificate that some
// verifier refuses. An OCSP responder needs no alternative name; everything else
// below permitted names does (S29).
func (l *Limits) Breaks(c *x509.Certificate, responder bool) (out []string) {
	if l == nil {
		return nil
	}
	if l.broken != nil {
		return []string{"the issuer: " + l.broken.Error()}
	}
	if c.IsCA && l.pathLen >= 0 && c.MaxPathLen >= l.pathLen {
		out = append(out, fmt.Sprintf("a path length of %d below an issuer with %d", c.MaxPathLen, l.pathLen))
	}
	out = append(out, l.purposesOf(c)...)
	if len(l.permitted)+len(l.excluded) == 0 {
		return out
	}
	return append(out, l.namesOf(c, responder)...)
}

func (l *Limits) purposesOf(c *x509.Certificate) (out []string) {
	if l.purposes == nil || slices.Contains(l.purposes, oidAnyPurpose) {
		return nil
	}
	for _, e := range c.Extensions {
		var ids []asn1.ObjectIdentifier
		if e.Id.String() != oidExtKeyUsage.String() {
			continue
		}
		if _, err := asn1.Unmarshal(e.Value, &ids); err != nil {
			return []string{"its purposes are malformed"}
		}
		for _, id := range ids {
			if !slices.Contains(l.purposes, id.String()) {
				out = append(out, "the purpose "+id.String()+", which its issuer does not have")
			}
		}
	}
	return out
}

func (l *Limits) namesOf(c *x509.Certificate, responder bool) (out []string) {
	named := false
	check := func(kind byte, what string, match func(*subtree) bool) {
		bounded, inside := false, false
		for i := range l.permitted {
			if s := &l.permitted[i]; s.kind == kind {
				bounded, inside = true, inside || match(s)
			}
		}
		named = named || bounded && kind != nameDirectory
		if bounded && !inside {
			out = append(out, what+", outside of what its issuer permits")
		}
		if slices.ContainsFunc(l.excluded, func(s subtree) bool { return s.kind == kind && match(&s) }) {
			out = append(out, what+", which its issuer excludes")
		}
	}
	hosts := c.DNSNames
	if cn := c.Subject.CommonName; len(hosts) == 0 && strings.Contains(cn, ".") && validDNS(cn) {
		hosts = []string{cn} // verifiers take such a common name for a DNS name
	}
	for _, n := range hosts {
		check(nameDNS, "the DNS name "+n, func(s *subtree) bool { return below(strings.ToLower(n), s.text) })
	}
	for _, ip := range c.IPAddresses {
		check(nameIP, "the address "+ip.String(), func(s *subtree) bool { return s.ip.Contains(ip) })
	}
	for _, u := range c.URIs {
		check(nameURI, "the URI "+u.String(), func(s *subtree) bool {
			host := strings.ToLower(u.Hostname())
			return host == s.text || strings.HasPrefix(s.text, ".") && strings.HasSuffix(host, s.text)
		})
	}
	subject, err := attributes(c.RawSubject)
	if err != nil {
		return append(out, "its subject "+err.Error())
	}
	if len(subject) > 0 {
		check(nameDirectory, "the subject "+c.Subject.String(), func(s *subtree) bool {
			return len(subject) >= len(s.dir) && slices.Equal(subject[:len(s.dir)], s.dir)
		})
	}
	needs := slices.ContainsFunc(l.permitted, func(s subtree) bool { return s.kind != nameDirectory })
	if needs && !named && !c.IsCA && !responder {
		out = append(out, "no alternative name of a kind that its issuer permits")
	}
	return out
}

// below tells whether a host is the base or a name below it.
func below(host, base string) bool {
	if strings.HasPrefix(base, ".") {
		return strings.HasSuffix(host, base)
	}
	return base == "" || host == base || strings.HasSuffix(host, "."+base)
}

// sameNames compares what a certificate has with what the profile writes.
func sameNames(c *x509.Certificate, p Profile) bool {
	for _, e := range c.Extensions {
		if e.Id.String() == oidNameConstraints.String() {
			return e.Critical && bytes.Equal(e.Value, p.names)
		}
	}
	return p.names == nil
}

// SameConstraints tells whether a certificate has the path length, the name
// constraints and the purposes of the profile, octet by octet.
func SameConstraints(c *x509.Certificate, p Profile) bool {
	var want []byte
	if len(p.Purposes) > 0 {
		want = der.Sequence(nil, func(b []byte) []byte {
			for _, o := range p.Purposes {
				b = o.Append(b)
			}
			return b
		})
	}
	var have []byte
	for _, e := range c.Extensions {
		if e.Id.String() == oidExtKeyUsage.String() {
			have = e.Value
		}
	}
	return c.MaxPathLen == p.PathLen && bytes.Equal(have, want) && sameNames(c, p)
}
