package bootstrap

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"net/netip"
	"regexp"
	"strings"
	"time"

	"hallmark/access"
	"hallmark/ca"
	"hallmark/ca/csr"
	"hallmark/ca/profile"
	"hallmark/fleet"
	"hallmark/fleet/registry"
)

// ClaimRequest asks for a claim certificate: what is built into many devices, so
// that each can get its own.
type ClaimRequest struct {
	Name     string // 1 to 40 of a-z A-Z 0-9 . _ -; the certificate's subject
	Template string // the one fleet template that it is for
	CSR      []byte // DER or PEM; nil has the service make the key
	// What it may make: Most in all, PerMinute (0: no limit), Outstanding at a time
	// (0: 100), until ExpiresAt, which also ends the certificate (zero: the
	// profile's life).
	Most        int64
	PerMinute   int64
	Outstanding int64
	ExpiresAt   time.Time
	Networks    []netip.Prefix // from which it may be used (A47); none means everywhere
}

// ClaimCertificate is what came of it.
type ClaimCertificate struct {
	CertificateID  string
	CertificatePEM string
	Chain          [][]byte // issuer, DER
	PublicKeyPEM   string
	PrivateKeyPEM  string // only if the service made the key; it is kept nowhere
	Expiration     time.Time
	Policy         string // attached to it
}

var claimName = regexp.MustCompile(`^[A-Za-z0-9._-]{1,40}$`)

// temporaryLife is that of a claim by a trusted user.
const temporaryLife = 5 * time.Minute

// CreateClaim makes a claim certificate with its budget and its policy. Whether
// the actor may is for the caller to know. The same name and key again give the
// same certificate, and the first budget stays.
func (c *Claims) CreateClaim(ctx context.Context, by access.Actor, r ClaimRequest) (ClaimCertificate, error) {
	if !claimName.MatchString(r.Name) {
		return ClaimCertificate{}, ErrClaimConfig.New("The name %.60q is not 1 to 40 characters of a-z A-Z 0-9 . _ -", r.Name)
	}
	if r.Most < 1 || r.PerMinute < 0 || r.Outstanding < 0 {
		return ClaimCertificate{}, ErrClaimConfig.New("A budget allows at least one device, and no limit is negative.")
	}
	if r.Outstanding == 0 {
		r.Outstanding = 100
	}
	return c.createClaim(ctx, by, &r)
}

// CreateProvisioningClaim is for a trusted user, an installer with a phone: a
// claim certificate with its key for one device, good for five minutes.
func (c *Claims) CreateProvisioningClaim(ctx context.Context, by access.Actor, template string) (ClaimCertificate, error) {
	return c.CreateProvisioningClaimFor(ctx, by, template, nil)
}

// CreateProvisioningClaimFor is [Claims.CreateProvisioningClaim] for a key that the
// installer made: csr is DER or PEM.
func (c *Claims) CreateProvisioningClaimFor(ctx context.Context, by access.Actor, template string, csr []byte) (ClaimCertificate, error) {
	var name [8]byte
	rand.Read(name[:])
	return c.createClaim(ctx, by, &ClaimRequest{Name: "user-" + hex.EncodeToString(name[:]), Template: template, CSR: csr, Most: 1, Outstanding: 1, ExpiresAt: c.now().Add(temporaryLife)})
}

func (c *Claims) createClaim(ctx context.Context, by access.Actor, r *ClaimRequest) (out ClaimCertificate, err error) {
	scope := by.Scope()
	if _, err := c.template(ctx, scope, r.Template); err != nil {
		return out, err
	}
	raw := r.CSR
	if raw == nil {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return out, err
		}
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			return out, err
		}
		out.PrivateKeyPEM = string(pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
		clear(der)
		if raw, err = csr.Create(key, "", ""); err != nil {
			return out, err
		}
	}
	req, err := csr.Parse(raw)
	if err != nil {
		return out, err
	}
	holder := "claims-" + r.Name
	issued, err := c.cfg.Issuer.Issue(ctx, ca.Request{
		Identity: ca.Identity{Tenant: scope.Tenant, Holder: holder, Profile: string(profile.Claim)},
		Subject:  profile.Subject{Organization: c.cfg.Organization, CommonName: holder}, SPKI: req.SPKI, Key: req.PublicKey, NotAfter: r.ExpiresAt,
		Requester: ca.Requester{Actor: by.String()}, Tool: "fleet-provisioning",
	})
	if err != nil {
		return out, discreet(err)
	}
	parsed, err := x509.ParseCertificate(issued.DER)
	if err != nil {
		return out, err
	}
	cert := registry.NewCertificate(scope.Tenant, parsed, registry.HowClaimCert, fleet.Active)
	cert.Authority, cert.Serial, cert.Holder = issued.Authority, issued.Serial, holder
	out.Policy = ClaimPolicyName(r.Template)
	document, err := ClaimPolicy(r.Template)
	if err != nil {
		return out, err
	}
	now := c.now().UTC().Truncate(time.Millisecond)
	budget := Budget{Tenant: scope.Tenant, Name: ClaimBudget(cert.ID), Template: r.Template, Most: r.Most, PerMinute: r.PerMinute, Outstanding: r.Outstanding,
		ExpiresAt: parsed.NotAfter, Networks: r.Networks, CreatedBy: by.String(), CreatedAt: now, Version: 1}
	err = retry(func() error {
		return c.cfg.Grants.Atomic(ctx, func(ctx context.Context) error {
			if _, err := c.cfg.Grants.Budget(ctx, scope, budget.Name); err == nil {
				return nil // asked again
			}
			if _, err := c.cfg.Registry.CreatePolicy(ctx, registry.Policy{Tenant: scope.Tenant, Name: out.Policy, Document: document}); err != nil {
				return err
			}
			if _, err := c.cfg.Registry.PutCertificate(ctx, cert, true); err != nil {
				return err
			}
			if err := c.cfg.Registry.AttachPolicy(ctx, scope, registry.CertificateTarget(cert.ID), out.Policy); err != nil {
				return err
			}
			return c.cfg.Grants.PutBudget(ctx, budget, 0)
		})
	})
	if err != nil {
		return ClaimCertificate{}, err
	}
	issuer, err := c.cfg.Issuer.Authority(issued.Authority)
	if err != nil {
		return ClaimCertificate{}, err
	}
	out.CertificateID, out.Expiration, out.Chain = cert.ID, parsed.NotAfter, [][]byte{issuer.Cert.Raw}
	out.CertificatePEM = string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: parsed.Raw}))
	out.PublicKeyPEM = string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: parsed.RawSubjectPublicKeyInfo}))
	c.log.InfoContext(ctx, "claim certificate made", "tenant", scope.Tenant, "template", r.Template, "certificate", cert.ID, "by", by.String(), "most", r.Most)
	return out, nil
}

// SetBudget changes what a claim certificate or a registered CA may make; what
// was used stays counted. Networks that are nil stay as they are.
func (c *Claims) SetBudget(ctx context.Context, by access.Actor, b Budget) (out Budget, err error) {
	if b.Most < 0 || b.PerMinute < 0 || b.Outstanding < 0 {
		return out, ErrClaimConfig.New("No limit is negative.")
	}
	if len(b.Networks) > 0 && !strings.HasPrefix(b.Name, ClaimBudget("")) {
		return out, ErrClaimConfig.New("Networks are for claims: the door takes a registered CA's devices from everywhere.")
	}
	now := c.now().UTC().Truncate(time.Millisecond)
	err = retry(func() error {
		return c.cfg.Grants.Atomic(ctx, func(ctx context.Context) error {
			have, err := c.cfg.Grants.Budget(ctx, by.Scope(), b.Name)
			switch {
			case err == nil:
			case len(b.Name) > 3 && b.Name[:3] == "ca/":
				if _, err := c.cfg.Registry.CA(ctx, by.Scope(), b.Name[3:]); err != nil {
					return err
				}
				have = Budget{Tenant: by.Tenant, Name: b.Name, CreatedBy: by.String(), CreatedAt: now}
			default:
				return err
			}
			was := have.Version
			have.Most, have.PerMinute, have.Outstanding, have.ExpiresAt, have.Version = b.Most, b.PerMinute, b.Outstanding, b.ExpiresAt.UTC().Truncate(time.Millisecond), was+1
			if b.Networks != nil {
				have.Networks = b.Networks
			}
			if b.ExpiresAt.IsZero() {
				have.ExpiresAt = time.Time{}
			}
			out = have
			return c.cfg.Grants.PutBudget(ctx, have, was)
		})
	})
	return out, err
}

// ClaimPolicyName is the name of the policy of a template's claim certificates.
func ClaimPolicyName(template string) string { return "claim-" + template }

// ClaimPolicy is what a claim certificate may do: provision with one template,
// and nothing else (A47).
func ClaimPolicy(template string) (string, error) {
	var topics, filters []string
	for _, t := range []string{"$aws/certificates/create/*", "$aws/certificates/create-from-csr/*", "$aws/provisioning-templates/" + template + "/provision/*"} {
		topics = append(topics, "arn:aws:iot:*:*:topic/"+t)
		filters = append(filters, "arn:aws:iot:*:*:topicfilter/"+t)
	}
	type statement struct{ Effect, Action, Resource any }
	out, err := json.Marshal(struct {
		Version   string
		Statement []statement
	}{"2012-10-17", []statement{
		{"Allow", "iot:Connect", "*"},
		{"Allow", []string{"iot:Publish", "iot:Receive"}, topics},
		{"Allow", "iot:Subscribe", filters},
	}})
	return string(out), err
}
