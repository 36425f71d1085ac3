package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"slices"
	"sync"
	"time"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/ca"
	"hallmark/ca/ceremony"
	"hallmark/ca/keycheck"
	"hallmark/ca/profile"
	"hallmark/hsm"
)

// importAuthority takes an authority that exists: its certificate, and its key
// where it is now. Where its duty is served it issues nothing before a declaration
// names it, which a second person approves (S36). The caller holds b.change.
func (b *backend) importAuthority(ctx context.Context, by access.Actor, a ca.Authority, uri hsm.URI, r adminapi.AuthorityRequest, all []ca.Authority) (adminapi.Authority, error) {
	der, err := ceremony.ReadObject([]byte(r.Certificate), "CERTIFICATE")
	if err != nil {
		return adminapi.Authority{}, err
	}
	root, err := b.authority(ctx, by.Scope(), r.Root)
	if err != nil {
		return adminapi.Authority{}, err
	}
	if root.Duty != profile.DutyRoot || root.State != ca.StateActive {
		return adminapi.Authority{}, ca.ErrAuthorityMismatch.New("%s is no active root.", r.Root)
	}
	above, err := x509.ParseCertificate(root.Certificate)
	if err != nil {
		return adminapi.Authority{}, ca.ErrAuthorityMismatch.Wrap(err, "The certificate of %s does not parse.", r.Root)
	}
	cert, err := b.importable(der, above, a.Duty)
	if err != nil {
		return adminapi.Authority{}, err
	}
	if err := keyIsOnlyOf(all, cert.RawSubjectPublicKeyInfo); err != nil {
		return adminapi.Authority{}, err
	}
	key, err := b.keys.Signer(ctx, uri.String())
	if err != nil {
		return adminapi.Authority{}, err
	}
	if pub, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !pub.Equal(cert.PublicKey) {
		return adminapi.Authority{}, ca.ErrAuthorityMismatch.New("The key at %s is not that of the certificate.", uri.Key())
	}
	a.KeyURI = uri.String()
	pending := a
	a.State, a.Certificate = ca.StateActive, cert.Raw
	if err := b.db.Atomic(ctx, func(ctx context.Context) error { // an installation, in one step
		if err := b.db.CreateAuthority(ctx, pending); err != nil {
			return err
		}
		return b.db.InstallAuthority(ctx, a)
	}); err != nil {
		return adminapi.Authority{}, err
	}
	b.log.WarnContext(ctx, "authority imported", "authority", a.Name, "root", root.Name, "key", uri.Key(), "exposed", b.exposed.is(ctx, a.KeyURI), "fingerprint", fingerprint(cert.Raw), "by", by.String())
	if err := b.reload(ctx); err != nil {
		return adminapi.Authority{}, err
	}
	return b.authorityView(&a), nil
}

// importable holds a certificate that others made to what the service needs of an
// issuing authority. It may have another shape than ours, but not other powers.
func (b *backend) importable(der []byte, root *x509.Certificate, d profile.Duty) (*x509.Certificate, error) {
	wrong := func(text string, args ...any) error { return ca.ErrAuthorityMismatch.New(text, args...) }
	c, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, ca.ErrAuthorityMismatch.Wrap(err, "The certificate does not parse.")
	}
	if err := keycheck.Check(c.PublicKey); err != nil {
		return nil, err
	}
	if _, _, err := profile.SignatureAlgorithm(c.PublicKey); err != nil {
		return nil, ca.ErrAuthorityMismatch.Wrap(err, "Its key is of no kind that we sign with.")
	}
	const signs = x509.KeyUsageCertSign | x509.KeyUsageCRLSign
	now := b.now()
	switch {
	case bytes.Equal(c.RawSubject, c.RawIssuer):
		return nil, wrong("It is a root itself. An authority that issues has one above it (S1); certify its key by a root first.")
	case c.CheckSignatureFrom(root) != nil:
		return nil, wrong("It is not signed by the root %s.", root.Subject.CommonName)
	case !c.BasicConstraintsValid || !c.IsCA || c.KeyUsage&signs != signs:
		return nil, wrong("It is no authority that signs certificates and lists.")
	case len(c.SubjectKeyId) == 0:
		return nil, wrong("It has no key identifier.")
	case len(c.UnhandledCriticalExtensions) > 0:
		return nil, wrong("It has a critical extension that the doors of this service do not check: %v.", c.UnhandledCriticalExtensions)
	case !now.Before(c.NotAfter) || now.Before(c.NotBefore):
		return nil, wrong("It is valid from %s to %s.", c.NotBefore.Format(time.DateOnly), c.NotAfter.Format(time.DateOnly))
	}
	if len(c.ExtKeyUsage) > 0 && !slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageAny) {
		for _, need := range map[profile.Duty][]x509.ExtKeyUsage{
			profile.DutyDevice:         {x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageOCSPSigning},
			profile.DutyInfrastructure: {x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageOCSPSigning},
		}[d] {
			if !slices.Contains(c.ExtKeyUsage, need) {
				return nil, wrong("Its purposes leave something out that an authority with the duty %s issues for.", d)
			}
		}
	}
	return c, nil
}

// exposure remembers which keys are or were outside of a token. What a token says
// of a key never changes, so each is asked once.
type exposure struct {
	keys *hsm.Keyring
	mu   sync.Mutex
	seen map[string]bool
}

// is tells whether copies of a key may exist. A token that does not answer counts
// as telling nothing.
func (e *exposure) is(ctx context.Context, uri string) bool {
	if e == nil || uri == "" {
		return false
	}
	u, err := hsm.ParseURI(uri)
	if err != nil || u.Scheme == "file" {
		return err == nil
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if known, ok := e.seen[uri]; ok {
		return known
	}
	ctx, done := context.WithTimeout(ctx, tokenTimeout)
	defer done()
	a, err := e.keys.Attributes(ctx, uri)
	if err != nil {
		return false
	}
	if e.seen == nil {
		e.seen = map[string]bool{}
	}
	e.seen[uri] = a.Local == hsm.No || a.NeverExtractable == hsm.No
	return e.seen[uri]
}

// checkExposed reports the authorities of which copies of the key may exist.
func (b *backend) checkExposed(ctx context.Context, rows []ca.Authority, c *checks) {
	for i := range rows {
		if a := &rows[i]; a.State != ca.StatePending && b.exposed.is(ctx, a.KeyURI) {
			c.add("key of "+a.Name, "warning", "It is or was outside of a token, so copies of it may exist.", "Roll over to an authority with a new key that was made in a token (hallmark ca rollover plan "+a.Name+").")
		}
	}
}
