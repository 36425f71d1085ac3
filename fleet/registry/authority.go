package registry

import (
	"context"
	"crypto/sha256"
	"crypto/subtle"
	"crypto/x509"
	"errors"
	"time"

	"hallmark/access"
)

// CAStatus says whether a registered CA registers certificates.
type CAStatus string

// The statuses, as on the wire. An INACTIVE CA registers nothing new; its
// devices keep working.
const (
	CAActive   CAStatus = "ACTIVE"
	CAInactive CAStatus = "INACTIVE"
)

// CAMode says how a certificate of the CA finds its tenant.
type CAMode string

// The modes, as on the wire. A DEFAULT one belongs to one tenant, who proved
// the possession of its key; of an SNI_ONLY one the device has to name the
// tenant's server.
const (
	ModeDefault CAMode = "DEFAULT"
	ModeSNIOnly CAMode = "SNI_ONLY"
)

// RegisteredCA is a certification authority whose device certificates the
// tenant lets in: one of our own, or one that was brought along. How its
// certificates become things is the registration of that authority, whose key
// is [RegisteredCA.Registration].
type RegisteredCA struct {
	Tenant           string
	ID               string // lower-case hex of the SHA-256 of the DER
	DER              []byte
	Authority        string // our own authority's name; "" for one that was brought along
	Status           CAStatus
	Mode             CAMode
	AutoRegistration bool // unknown certificates of it are registered at the door
	Proven           bool // the tenant proved the possession of the CA's key
	RegisteredAt     time.Time
	UpdatedAt        time.Time
	Version          int64
}

// Registration is the name under which the CA's registration (template, hook,
// take-over) is stored: the authority's name, or the CA's id.
func (c *RegisteredCA) Registration() string {
	if c.Authority != "" {
		return c.Authority
	}
	return c.ID
}

// CAStore persists registered CAs. Contract: as of [Store]; look-ups return
// ErrCAUnknown when there is none; PutCA is like PutCertificate, with
// ErrCAChanged. CAsByID and CAsBySubject see all tenants, for S23 and for the
// door. subject is the SHA-256 of the raw subject.
type CAStore interface {
	CA(ctx context.Context, s access.Scope, id string) (RegisteredCA, error)
	CAs(ctx context.Context, s access.Scope, after string, limit int) ([]RegisteredCA, error)
	CAsByID(ctx context.Context, id string) ([]RegisteredCA, error)
	CAsBySubject(ctx context.Context, subject [32]byte) ([]RegisteredCA, error)
	PutCA(ctx context.Context, c RegisteredCA, subject [32]byte, was int64) error
	DropCA(ctx context.Context, tenant string, id string) error
	// RegistrationCode is the tenant's word for proofs of possession; it can be
	// made again from the tenant and a key outside of the database.
	RegistrationCode(tenant string) string
}

// MaxSubjectCAs is how many CAs with one subject a tenant can have.
const MaxSubjectCAs = 10

// VerifyPossession checks the proof that somebody holds a CA's key: a
// certificate which that key signed and whose common name is the registration
// code. It reads no clock: the code, not the time, makes it fresh.
func VerifyPossession(code string, caCert, verification *x509.Certificate) error {
	switch {
	case code == "" || caCert == nil || verification == nil:
		return ErrPossession.New("The verification certificate is missing.")
	case subtle.ConstantTimeCompare([]byte(verification.Subject.CommonName), []byte(code)) != 1:
		return ErrPossession.New("Its common name is not the registration code.")
	case verification.Equal(caCert):
		return ErrPossession.New("It is the CA's own certificate.")
	}
	if string(verification.RawIssuer) != string(caCert.RawSubject) {
		return ErrPossession.New("Its issuer is another CA.")
	}
	if err := caCert.CheckSignature(verification.SignatureAlgorithm, verification.RawTBSCertificate, verification.Signature); err != nil {
		return ErrPossession.Wrap(err, "The CA's key did not sign it.")
	}
	return nil
}

// CARegistration is what somebody asks for who registers a CA.
type CARegistration struct {
	Tenant           string
	Certificate      *x509.Certificate
	Verification     *x509.Certificate // nil without a proof
	Authority        string            // our own authority, whose key we hold: no proof is needed
	Mode             CAMode            // "" means DEFAULT
	Active           bool
	AutoRegistration bool
}

// RegistrationCode is the common name that a verification certificate needs.
func (r *Registry) RegistrationCode(s access.Scope) string { return r.store.RegistrationCode(s.Tenant) }

// RegisterCA registers a CA (S23). DEFAULT needs a proof and belongs to one
// tenant. SNI_ONLY needs a proof once another tenant has the CA.
func (r *Registry) RegisterCA(ctx context.Context, g CARegistration) (out RegisteredCA, err error) {
	c := g.Certificate
	if c == nil || !c.IsCA || !c.BasicConstraintsValid {
		return out, ErrCAInvalid.New("It is not a certificate of a CA.")
	}
	if c.KeyUsage != 0 && c.KeyUsage&x509.KeyUsageCertSign == 0 {
		return out, ErrCAInvalid.New("Its key may not sign certificates.")
	}
	now := r.stamp()
	if !now.Before(c.NotAfter) {
		return out, ErrCAInvalid.New("It ended at %s.", c.NotAfter.Format(time.RFC3339))
	}
	if g.Mode == "" {
		g.Mode = ModeDefault
	}
	if g.Mode != ModeDefault && g.Mode != ModeSNIOnly {
		return out, ErrCAInvalid.New("There is no mode %.32q.", string(g.Mode))
	}
	proven := g.Authority != ""
	if !proven && g.Verification != nil {
		if err := VerifyPossession(r.store.RegistrationCode(g.Tenant), c, g.Verification); err != nil {
			return out, err
		}
		proven = true
	}
	if g.Mode == ModeDefault && !proven {
		return out, ErrPossession.New("The mode DEFAULT needs a verification certificate.")
	}
	subject := sha256.Sum256(c.RawSubject)
	out = RegisteredCA{Tenant: g.Tenant, ID: CertificateID(c.Raw), DER: c.Raw, Authority: g.Authority, Status: CAInactive, Mode: g.Mode, AutoRegistration: g.AutoRegistration, Proven: proven, RegisteredAt: now, UpdatedAt: now, Version: 1}
	if g.Active {
		out.Status = CAActive
	}
	err = r.store.Atomic(ctx, func(ctx context.Context) error {
		same, err := r.store.CAsBySubject(ctx, subject)
		if err != nil {
			return err
		}
		n := 0
		for _, o := range same {
			switch {
			case o.ID == out.ID && o.Tenant == out.Tenant:
				return ErrCAExists.New("")
			case o.ID == out.ID && !proven:
				return ErrCAElsewhere.New("")
			case o.ID == out.ID && o.Mode == ModeDefault && out.Mode == ModeDefault:
				return ErrCAElsewhere.New("Another tenant has it in the mode DEFAULT.")
			case o.Tenant == out.Tenant:
				n++
			}
		}
		if n >= MaxSubjectCAs {
			return ErrCAInvalid.New("There are %d CAs with this subject.", n)
		}
		return r.store.PutCA(ctx, out, subject, 0)
	})
	return out, err
}

// CA finds a registered CA.
func (r *Registry) CA(ctx context.Context, s access.Scope, id string) (RegisteredCA, error) {
	return r.store.CA(ctx, s, id)
}

// CAs lists registered CAs in the order of their ids.
func (r *Registry) CAs(ctx context.Context, s access.Scope, after string, limit int) ([]RegisteredCA, error) {
	return r.store.CAs(ctx, s, after, pageSize(limit))
}

// IssuerAtDoor finds the registered CA that issued a certificate which no tenant
// has registered yet. tenant is the one of the server name, or "". The CA's
// status and flags are for the caller to look at.
func (r *Registry) IssuerAtDoor(ctx context.Context, c *x509.Certificate, tenant string) (RegisteredCA, error) {
	all, err := r.store.CAsBySubject(ctx, sha256.Sum256(c.RawIssuer))
	if err != nil {
		return RegisteredCA{}, err
	}
	for _, g := range all {
		if tenant != "" && g.Tenant != tenant || tenant == "" && g.Mode != ModeDefault {
			continue
		}
		issuer, err := x509.ParseCertificate(g.DER)
		if err == nil && c.CheckSignatureFrom(issuer) == nil {
			return g, nil
		}
	}
	return RegisteredCA{}, ErrCAUnknown.New("")
}

// CAChange is what may change of a registered CA; nil leaves it.
type CAChange struct {
	Status           *CAStatus
	AutoRegistration *bool
}

// UpdateCA changes a registered CA.
func (r *Registry) UpdateCA(ctx context.Context, s access.Scope, id string, ch CAChange) (out RegisteredCA, err error) {
	if ch.Status != nil && *ch.Status != CAActive && *ch.Status != CAInactive {
		return out, ErrCAInvalid.New("There is no status %.32q.", string(*ch.Status))
	}
	for range maxTries {
		err = r.store.Atomic(ctx, func(ctx context.Context) error {
			c, err := r.store.CA(ctx, s, id)
			if err != nil {
				return err
			}
			if ch.Status != nil {
				c.Status = *ch.Status
			}
			if ch.AutoRegistration != nil {
				c.AutoRegistration = *ch.AutoRegistration
			}
			was := c.Version
			c.Version, c.UpdatedAt = was+1, r.stamp()
			out = c
			issuer, err := x509.ParseCertificate(c.DER)
			if err != nil {
				return err
			}
			return r.store.PutCA(ctx, c, sha256.Sum256(issuer.RawSubject), was)
		})
		if !errors.Is(err, ErrCAChanged) {
			break
		}
	}
	return out, err
}

// DropCA forgets an INACTIVE CA that has no certificates. One that has keeps
// vouching for where they came from.
func (r *Registry) DropCA(ctx context.Context, s access.Scope, id string) error {
	return r.store.Atomic(ctx, func(ctx context.Context) error {
		c, err := r.store.CA(ctx, s, id)
		if err == nil && c.Status != CAInactive {
			err = ErrCAStatus.New("It is %s.", c.Status)
		}
		if err != nil {
			return err
		}
		have, err := r.store.Certificates(ctx, s, CertificateQuery{CA: id, Limit: 1})
		if err == nil && len(have) > 0 {
			err = ErrCAInUse.New("")
		}
		if err != nil {
			return err
		}
		return r.store.DropCA(ctx, s.Tenant, id)
	})
}
