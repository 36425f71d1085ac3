package bootstrap

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"time"

	"hallmark/access"
	"hallmark/ca/keycheck"
	"hallmark/fleet"
	"hallmark/fleet/registry"
	"hallmark/station/uplink"
)

// BYOCConfig makes BYOC.
type BYOCConfig struct {
	CA       Authorities
	Registry *registry.Registry
	Keys     keycheck.Policy
	Log      *slog.Logger
	Now      func() time.Time
}

// BYOC registers CAs and certificates that somebody brings along. Whether the
// actor may is for the caller to know. It is safe for concurrent use.
type BYOC struct {
	cfg BYOCConfig
	now func() time.Time
	log *slog.Logger
}

// NewBYOC makes BYOC.
func NewBYOC(cfg BYOCConfig) *BYOC {
	b := &BYOC{cfg: cfg, now: cfg.Now, log: cfg.Log}
	if b.now == nil {
		b.now = time.Now
	}
	if b.log == nil {
		b.log = slog.New(slog.DiscardHandler)
	}
	return b
}

// maxPEM bounds what is parsed as one certificate in PEM.
const maxPEM = 2*maxCertificate + 128

// ParseLeaf reads one certificate in PEM or DER and nothing after it.
func ParseLeaf(data []byte) (*x509.Certificate, error) {
	if len(data) > maxPEM {
		return nil, ErrLeafInvalid.New("It has %d octets.", len(data))
	}
	if trimmed := bytes.TrimSpace(data); bytes.HasPrefix(trimmed, []byte("-----BEGIN")) {
		block, rest := pem.Decode(trimmed)
		if block == nil || block.Type != "CERTIFICATE" || len(bytes.TrimSpace(rest)) > 0 {
			return nil, ErrLeafInvalid.New("It is not one certificate in PEM.")
		}
		data = block.Bytes
	}
	c, err := x509.ParseCertificate(data)
	if err != nil {
		return nil, ErrLeafInvalid.Wrap(err, "It does not parse.")
	}
	return c, nil
}

// RegisterCA registers a CA (S23); see [registry.Registry.RegisterCA]. The keys of
// our own authorities need no proof, and nobody may claim one of them as brought
// along.
func (b *BYOC) RegisterCA(ctx context.Context, by access.Actor, g registry.CARegistration) (registry.RegisteredCA, error) {
	g.Tenant = by.Tenant
	if g.Certificate != nil {
		if err := b.cfg.Keys.Check(g.Certificate.PublicKey); err != nil {
			return registry.RegisteredCA{}, err
		}
		g.Authority = ""
		for _, a := range b.cfg.CA.Authorities() {
			if !bytes.Equal(a.Cert.RawSubjectPublicKeyInfo, g.Certificate.RawSubjectPublicKeyInfo) {
				continue
			}
			if a.Tenant != by.Tenant || !bytes.Equal(a.Cert.Raw, g.Certificate.Raw) {
				return registry.RegisteredCA{}, registry.ErrCAElsewhere.New("")
			}
			g.Authority = a.Name
		}
	}
	out, err := b.cfg.Registry.RegisterCA(ctx, g)
	if err == nil {
		b.log.InfoContext(ctx, "CA registered", "tenant", by.Tenant, "ca", out.ID, "mode", string(out.Mode), "status", string(out.Status), "proven", out.Proven, "by", by.String())
	}
	return out, err
}

// LeafRegistration asks to register one device certificate.
type LeafRegistration struct {
	Certificate []byte // PEM or DER
	CA          []byte // PEM or DER, "" finds the registered CA by the issuer; not in [BYOC.RegisterCertificateWithoutCA]
	Active      bool   // else it begins INACTIVE
	// Proof is a signature over [LeafMessage] by the certificate's key (S23). It is
	// needed without a CA, and with a CA whose possession is not proven if another
	// tenant has the certificate too.
	Proof []byte
}

func (r *LeafRegistration) status() fleet.PrincipalStatus {
	if r.Active {
		return fleet.Active
	}
	return fleet.Inactive
}

// leaf parses and judges the certificate.
func (b *BYOC) leaf(data []byte) (*x509.Certificate, error) {
	c, err := ParseLeaf(data)
	if err != nil {
		return nil, err
	}
	now := b.now()
	switch {
	case c.IsCA:
		return nil, ErrLeafInvalid.New("It is the certificate of a CA.")
	case !now.Before(c.NotAfter):
		return nil, ErrLeafInvalid.New("It ended at %s.", c.NotAfter.UTC().Format(time.RFC3339))
	case len(c.UnhandledCriticalExtensions) > 0:
		return nil, ErrLeafInvalid.New("It has a critical extension that is not known here.")
	}
	if err := b.cfg.Keys.Check(c.PublicKey); err != nil {
		return nil, err
	}
	// Ours come in by the ways that know their records, and their revocation.
	for _, a := range b.cfg.CA.Authorities() {
		if bytes.Equal(a.Cert.RawSubject, c.RawIssuer) && c.CheckSignatureFrom(a.Cert) == nil {
			return nil, registry.ErrCertificateOwn.New("")
		}
	}
	return c, nil
}

const leafContext = "hallmark leaf registration v1"

// LeafMessage is what a certificate's key signs for its registration: the
// tenant's registration code makes a signature worthless to others.
//
//	"hallmark leaf registration v1" 0x00 tenant 0x00 code 0x00 SHA-256(certificate)
//
// The signature is made as that of a commit: ECDSA in ASN.1 over the hash of the
// curve's strength, RSA PKCS #1 v1.5 over SHA-256, or Ed25519.
func LeafMessage(tenant, code string, der []byte) []byte {
	hash := sha256.Sum256(der)
	out := append([]byte(leafContext), 0)
	out = append(append(out, tenant...), 0)
	out = append(append(out, code...), 0)
	return append(out, hash[:]...)
}

// proven checks a proof, if there is one.
func (b *BYOC) proven(s access.Scope, c *x509.Certificate, proof []byte) (bool, error) {
	if len(proof) == 0 {
		return false, nil
	}
	if err := uplink.VerifyCommit(c.PublicKey, LeafMessage(s.Tenant, b.cfg.Registry.RegistrationCode(s), c.Raw), proof); err != nil {
		return false, ErrLeafProof.Wrap(err, "The signature is not by the certificate's key, or over another message.")
	}
	return true, nil
}

// RegisterCertificate registers a certificate of a registered, ACTIVE CA.
func (b *BYOC) RegisterCertificate(ctx context.Context, by access.Actor, r LeafRegistration) (registry.Certificate, error) {
	return b.registerUnder(ctx, by, &r, registry.HowBYOC)
}

func (b *BYOC) registerUnder(ctx context.Context, by access.Actor, r *LeafRegistration, how registry.How) (out registry.Certificate, err error) {
	c, err := b.leaf(r.Certificate)
	if err != nil {
		return out, err
	}
	var issuer registry.RegisteredCA
	if len(r.CA) > 0 {
		given, err := ParseLeaf(r.CA)
		if err != nil {
			return out, err
		}
		if issuer, err = b.cfg.Registry.CA(ctx, by.Scope(), registry.CertificateID(given.Raw)); err != nil {
			return out, err
		}
	} else if issuer, err = b.cfg.Registry.IssuerAtDoor(ctx, c, by.Tenant); err != nil {
		return out, err
	}
	parsed, err := x509.ParseCertificate(issuer.DER)
	if err != nil {
		return out, err
	}
	if err := c.CheckSignatureFrom(parsed); err != nil {
		return out, ErrLeafInvalid.Wrap(err, "The CA did not sign it.")
	}
	if issuer.Status != registry.CAActive {
		return out, registry.ErrCAStatus.New("It is %s and registers nothing.", issuer.Status)
	}
	proven, err := b.proven(by.Scope(), c, r.Proof)
	if err != nil {
		return out, err
	}
	cert := registry.NewCertificate(by.Tenant, c, how, r.status())
	cert.CA = issuer.ID
	return b.put(ctx, by, cert, proven || issuer.Proven)
}

// RegisterCertificateWithoutCA registers a certificate whose CA nobody
// registered; its key has to sign for it (S23).
func (b *BYOC) RegisterCertificateWithoutCA(ctx context.Context, by access.Actor, r LeafRegistration) (out registry.Certificate, err error) {
	if len(r.CA) > 0 {
		return out, ErrLeafInvalid.New("Without a CA none can be given.")
	}
	c, err := b.leaf(r.Certificate)
	if err != nil {
		return out, err
	}
	proven, err := b.proven(by.Scope(), c, r.Proof)
	if err == nil && !proven {
		err = ErrLeafProof.New("")
	}
	if err != nil {
		return out, err
	}
	return b.put(ctx, by, registry.NewCertificate(by.Tenant, c, registry.HowBYOC, r.status()), true)
}

func (b *BYOC) put(ctx context.Context, by access.Actor, cert registry.Certificate, proven bool) (registry.Certificate, error) {
	out, err := b.cfg.Registry.PutCertificate(ctx, cert, proven)
	if err == nil && (out.Status != cert.Status || out.How != cert.How) {
		// Registered before: it is given as it is, and says so by its status.
		b.log.InfoContext(ctx, "certificate was registered before", "tenant", by.Tenant, "certificate", out.ID, "status", string(out.Status))
	} else if err == nil {
		b.log.InfoContext(ctx, "certificate registered", "tenant", by.Tenant, "certificate", out.ID, "ca", out.CA, "how", string(out.How), "by", by.String())
	}
	return out, err
}
