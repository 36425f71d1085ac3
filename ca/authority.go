package ca

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"fmt"
	"net/netip"
	"net/url"
	"reflect"
	"regexp"
	"strings"
	"sync/atomic"
	"time"

	"hallmark/ca/profile"
)

// State is where an authority stands.
type State string

// The states.
const (
	StatePending State = "pending" // has a key and a CSR, waits for its certificate
	StateActive  State = "active"
	StateClosed  State = "closed"  // issues nothing more, still signs lists and has its OCSP responder (S2)
	StateRevoked State = "revoked" // by its root, or about to be: as closed, and nobody takes its certificates
	StateEnded   State = "ended"   // its last certificate ended: it signs its last lists, which hold to its own end (S2)
)

// Authority is a certification authority as it is stored. A root is stored
// without a key: its key is never on this machine.
type Authority struct {
	Name   string
	Tenant string
	Duty   profile.Duty
	State  State
	KeyURI string
	// CSR is the transcript in which the CSR came about, with all that was asked
	// for, or the CSR alone in DER; package ceremony reads both.
	CSR         []byte
	Certificate []byte // DER
	// BaseURL is the start of the URLs in its certificates, frozen when the
	// authority is made (S3); lists are at BaseURL/crl/NAME/SHARD.crl.
	BaseURL string
	// Shards is how many lists its certificates are spread over; at least 1.
	Shards int
	// IssueUntil ends issuance before the certificate ends (S2); zero means at its end.
	IssueUntil time.Time
	CreatedAt  time.Time
}

// Authorities persists authorities. Contract: Install makes a pending authority
// active, or stores a root, and refuses (ErrAuthorityExists) one that has a
// certificate; rows are protected against other writers (S32).
type Authorities interface {
	Authorities(ctx context.Context) ([]Authority, error)
	CreateAuthority(ctx context.Context, a Authority) error
	InstallAuthority(ctx context.Context, a Authority) error
	SetAuthorityState(ctx context.Context, name string, s State) error
	Servings
	Crosses
}

// Key signs for an authority.
type Key interface {
	crypto.Signer
	SignContext(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error)
}

// Keys opens the key of an authority by its URI.
type Keys interface {
	Key(ctx context.Context, uri string) (Key, error)
}

var namePattern = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`)

// ValidName checks an authority's name; it becomes part of URLs for decades.
func ValidName(name string) error {
	if !namePattern.MatchString(name) {
		return ErrInvalidRequest.New("The authority name %q is not 1 to 32 characters of a-z, 0-9 and -.", name)
	}
	return nil
}

// ValidBaseURL checks the base of the URLs that certificates carry (S3).
// Production mode refuses what will not be there in ten years.
func ValidBaseURL(base string, production bool) error {
	u, err := url.Parse(base)
	if err != nil || u.Scheme != "http" || u.Host == "" || u.RawQuery != "" || u.Fragment != "" || u.User != nil || strings.HasSuffix(base, "/") {
		return ErrInvalidRequest.New("The base URL %q must be http://NAME without a slash at its end: lists are signed themselves and fetched without TLS.", base)
	}
	if !production {
		return nil
	}
	host := u.Hostname()
	if _, err := netip.ParseAddr(host); err == nil || host == "localhost" || strings.HasSuffix(host, ".localhost") || !strings.Contains(host, ".") {
		return ErrInvalidRequest.New("In production mode the base URL needs a DNS name that you own, not %q.", host)
	}
	if p := u.Port(); p != "" && p != "80" {
		return ErrInvalidRequest.New("In production mode the base URL cannot have port %s: it is frozen into certificates.", p)
	}
	return nil
}

// ListBase is the URL of the directory of an authority's lists.
func (a *Authority) ListBase() string { return a.BaseURL + "/crl/" + a.Name }

// OCSPURL is the URL of the OCSP responder of an authority.
func (a *Authority) OCSPURL() string { return a.BaseURL + "/ocsp/" + a.Name }

// CertURL is the URL of the authority's own certificate.
func (a *Authority) CertURL() string { return a.BaseURL + "/ca/" + a.Name + ".cer" }

// Shard is the list that would hold a serial number: a hash of it, so that
// neither order nor station can be read from the list's name.
func (a *Authority) Shard(s Serial) int {
	if a.Shards <= 1 {
		return 0
	}
	sum := sha256.Sum256(s[:])
	return int(binary.BigEndian.Uint64(sum[:8]) % uint64(a.Shards))
}

// authority is an Authority that is loaded.
type authority struct {
	Authority
	cert      *x509.Certificate
	key       Key // nil for a root
	sigAlg    []byte
	hash      crypto.Hash
	templates map[profile.Name]*profile.Template
	rest      *rest
}

// rest is how a key's failures are remembered; it outlives a reload.
type rest struct {
	until atomic.Int64 // Unix nanoseconds; 0: it answers
	times atomic.Int32 // failures in a row
}

// load parses and checks an authority, opens its key, and compiles the
// templates of the profiles it serves. A key whose token is away is opened later.
func load(ctx context.Context, a Authority, keys Keys, arc string) (*authority, error) {
	c, err := x509.ParseCertificate(a.Certificate)
	if err != nil {
		return nil, ErrAuthorityMismatch.Wrap(err, "The certificate of %s does not parse.", a.Name)
	}
	l := &authority{Authority: a, cert: c, templates: map[profile.Name]*profile.Template{}, rest: &rest{}}
	if l.sigAlg, l.hash, err = profile.SignatureAlgorithm(c.PublicKey); err != nil {
		return nil, err
	}
	if a.Duty == profile.DutyRoot {
		return l, nil
	}
	open := func(ctx context.Context) (Key, error) {
		k, err := keys.Key(ctx, a.KeyURI)
		if err != nil {
			return nil, fmt.Errorf("ca: the key of %s: %w", a.Name, err)
		}
		if pub, ok := k.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !pub.Equal(c.PublicKey) {
			return nil, ErrAuthorityMismatch.New("The token holds another key than the certificate of %s.", a.Name)
		}
		return k, nil
	}
	if l.key, err = open(ctx); err != nil {
		if ctx.Err() != nil || !comesBack(err) {
			return nil, err
		}
		l.key = newLateKey(c.PublicKey, open, err)
	}
	iss := l.Issuer()
	for _, p := range profile.All() {
		if p.CA || p.Issuer != "" && p.Issuer != a.Duty {
			continue
		}
		t, err := profile.Compile(p, iss, arc)
		if err != nil {
			return nil, err
		}
		l.templates[p.Name] = t
	}
	return l, nil
}

// Issuer is what templates need to know of an authority with a certificate.
func (l *authority) Issuer() profile.Issuer { return IssuerOf(&l.Authority, l.cert) }

// IssuerOf is what templates need to know of an authority.
func IssuerOf(a *Authority, c *x509.Certificate) profile.Issuer {
	i := profile.Issuer{
		Subject: c.RawSubject, KeyID: c.SubjectKeyId, Key: c.PublicKey,
		CRLBase: a.ListBase(), OCSPURL: a.OCSPURL(), CertURL: a.CertURL(), NotAfter: c.NotAfter, Limits: profile.LimitsOf(c),
	}
	if a.Duty == profile.DutyRoot {
		i.OCSPURL = "" // an offline root has no responder, only its list
	}
	return i
}

// again is the authority with what is written of it now. A certificate and where
// its key is never change, so neither is read again under load.
func (l *authority) again(a Authority) (*authority, bool) {
	if l == nil || l.KeyURI != a.KeyURI || l.Duty != a.Duty || l.BaseURL != a.BaseURL || !bytes.Equal(l.Certificate, a.Certificate) {
		return nil, false
	}
	serves := 0
	for _, p := range profile.All() {
		if p.CA || p.Issuer != "" && p.Issuer != a.Duty {
			continue
		}
		if t := l.templates[p.Name]; t == nil || !reflect.DeepEqual(p, t.Profile) {
			return nil, false
		}
		serves++
	}
	if serves != len(l.templates) {
		return nil, false
	}
	n := *l
	n.Authority = a
	return &n, true
}

// open refuses an authority that issues no more. Its own OCSP responder it
// certifies as long as it signs lists: without one nobody could ask about what it
// issued (RFC 6960, Section 4.2.2.2).
func (l *authority) open(p profile.Profile, now time.Time) error {
	switch {
	case p.Name == profile.OCSPResponder && l.State == StateClosed && now.Before(l.cert.NotAfter):
	case p.Name == profile.OCSPResponder && l.State == StateActive && now.Before(l.cert.NotAfter) && !now.Before(l.cert.NotBefore):
	case l.State != StateActive:
		return ErrAuthorityClosed.New("%s is %s.", l.Name, l.State)
	case !l.IssueUntil.IsZero() && !now.Before(l.IssueUntil), !now.Before(l.cert.NotAfter):
		return ErrAuthorityClosed.New("%s issued until %s.", l.Name, l.IssueUntil.Format(time.DateOnly))
	case now.Before(l.cert.NotBefore):
		return ErrAuthorityClosed.New("The certificate of %s starts at %s; is the clock right?", l.Name, l.cert.NotBefore.Format(time.RFC3339))
	}
	return nil
}

// CheckInstall proves that a certificate fits a pending authority: its key, which
// is spki, its issuer, its duty, and nothing that its profile does not have. A root
// has neither a key here nor an issuer.
func CheckInstall(a *Authority, spki, certificate []byte, root *x509.Certificate) (*x509.Certificate, error) {
	c, err := x509.ParseCertificate(certificate)
	if err != nil {
		return nil, ErrAuthorityMismatch.Wrap(err, "The certificate does not parse.")
	}
	if a.Duty == profile.DutyRoot {
		if err := c.CheckSignatureFrom(c); err != nil || !bytes.Equal(c.RawIssuer, c.RawSubject) {
			return nil, ErrAuthorityMismatch.Wrap(err, "A root signs itself.")
		}
	} else {
		if !bytes.Equal(spki, c.RawSubjectPublicKeyInfo) {
			return nil, ErrAuthorityMismatch.New("The certificate is for another key than the CSR of %s.", a.Name)
		}
		if err := c.CheckSignatureFrom(root); err != nil {
			return nil, ErrAuthorityMismatch.Wrap(err, "The certificate is not signed by the root %s.", root.Subject.CommonName)
		}
	}
	p, ok := profile.Get(map[profile.Duty]profile.Name{profile.DutyRoot: profile.Root, profile.DutyDevice: profile.DeviceCA, profile.DutyInfrastructure: profile.InfraCA}[a.Duty])
	if !ok {
		return nil, ErrAuthorityMismatch.New("There is no duty %q.", a.Duty)
	}
	if a.Duty == profile.DutyRoot && c.BasicConstraintsValid && c.IsCA && (c.MaxPathLen < 0 || c.MaxPathLen > 0) && uint32(c.KeyUsage)&p.Usage == p.Usage {
		return c, nil // the root of an imported authority may have another shape than ours
	}
	if !c.IsCA || c.MaxPathLen != p.PathLen || uint32(c.KeyUsage) != p.Usage {
		return nil, ErrAuthorityMismatch.New("The certificate is not of the profile %s: CA %t, path length %d, key usage %b.", p.Name, c.IsCA, c.MaxPathLen, c.KeyUsage)
	}
	return c, nil
}
