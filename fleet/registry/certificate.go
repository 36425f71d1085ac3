package registry

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"strings"
	"time"

	"hallmark/access"
	"hallmark/ca"
	"hallmark/fleet"
)

// How says by which way a certificate came into the registry.
type How string

// The ways.
const (
	HowFirstBoot How = "first-boot" // an operational certificate of ours, made at first boot
	HowJITP      How = "jitp"       // seen at the door, registered by a template
	HowJITR      How = "jitr"       // seen at the door, parked until somebody activates it
	HowClaim     How = "claim"      // fleet provisioning with a claim certificate or by a trusted user
	HowBYOC      How = "byoc"       // registered by hand, with or without its CA
	HowBulk      How = "bulk"       // registered by a bulk task
	HowRenewal   How = "renewal"    // made for a device that had one by claim or in bulk
	HowDarkLane  How = "dark-lane"  // made for a device that came back with an expired one; it is in quarantine
	HowClaimCert How = "claim-cert" // itself a claim certificate, which many devices hold
)

var ways = map[How]bool{HowFirstBoot: true, HowJITP: true, HowJITR: true, HowClaim: true, HowBYOC: true, HowBulk: true, HowRenewal: true, HowDarkLane: true, HowClaimCert: true}

// Certificate is a device certificate that the runtime knows. Its status is
// nowhere else; what revocation says comes on top (see [Certificate.Usable]).
type Certificate struct {
	Tenant string
	ID     string // lower-case hex of the SHA-256 of the DER
	DER    []byte

	// Who issued it: one of our own authorities under a serial number, or a
	// registered CA, or neither for one that was registered without its CA.
	Authority string
	Serial    ca.Serial
	CA        string // id of the registered CA

	Status       fleet.PrincipalStatus
	How          How
	Holder       string // the device that it identifies, folded; see [Thing.Holder]
	CommonName   string // of the subject, "" if it has none
	NotBefore    time.Time
	NotAfter     time.Time
	TransferTo   string // tenant, while PENDING_TRANSFER
	RegisteredAt time.Time
	UpdatedAt    time.Time
	Version      int64 // 1 at first; rises with every change

	// From the records of issuance; not stored here.
	Profile string
	Slot    string
	Revoked bool // revoked or on hold, by the permanent table (S33)
}

// Usable tells whether a device may use the certificate now.
func (c *Certificate) Usable(now time.Time) bool {
	return c.Status == fleet.Active && !c.Revoked && !now.Before(c.NotBefore) && now.Before(c.NotAfter)
}

// CertificateID is the id of a certificate on the wire.
func CertificateID(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// ParseCertificateID checks the form of an id.
func ParseCertificateID(s string) (string, error) {
	if len(s) != 2*sha256.Size || strings.Trim(s, "0123456789abcdef") != "" {
		return "", ErrCertificateID.New("")
	}
	return s, nil
}

// CertificateQuery selects certificates of a tenant in the order of their ids.
type CertificateQuery struct {
	CA     string                // id of the registered CA; "" for all
	Status fleet.PrincipalStatus // "" for all
	After  string                // id
	Limit  int                   // at most 1000; 0 means 100
}

// CertificateStore persists device certificates. Contract: as of [Store];
// look-ups return ErrCertificateUnknown when there is none. PutCertificate
// inserts when was is 0 and else changes the row only if its version is still
// was, with ErrCertificateChanged; it never makes anything of a REVOKED row but
// REVOKED. CertificatesByID alone sees all tenants, for the door, which learns
// the tenant from it. Whatever changes a certificate wakes [Registry.Changed].
type CertificateStore interface {
	Certificate(ctx context.Context, s access.Scope, id string) (Certificate, error)
	CertificateBySerial(ctx context.Context, s access.Scope, authority string, serial ca.Serial) (Certificate, error)
	CertificatesByID(ctx context.Context, id string) ([]Certificate, error)
	Certificates(ctx context.Context, s access.Scope, q CertificateQuery) ([]Certificate, error)
	PutCertificate(ctx context.Context, c Certificate, was int64) error
	DropCertificate(ctx context.Context, tenant string, id string) error
	// Issued is a certificate of our own authority as issuance recorded it, with
	// its octets and holder, and without a status.
	Issued(ctx context.Context, s access.Scope, authority string, serial ca.Serial) (Certificate, error)
}

// NewCertificate is a certificate to be registered: everything that follows
// from its octets. The holder is its id until the caller knows better.
func NewCertificate(tenant string, c *x509.Certificate, how How, status fleet.PrincipalStatus) Certificate {
	id := CertificateID(c.Raw)
	return Certificate{Tenant: tenant, ID: id, DER: c.Raw, Status: status, How: how, Holder: id, CommonName: c.Subject.CommonName, NotBefore: c.NotBefore, NotAfter: c.NotAfter}
}

// PutCertificate registers a device certificate. proven says that its key was
// shown to be the registrant's: by a handshake, by a signature, or by the
// possession of its registered CA. Without that a certificate that another
// tenant has is refused (S23). Registered already with the same octets, it is
// given as it is.
func (r *Registry) PutCertificate(ctx context.Context, c Certificate, proven bool) (out Certificate, err error) {
	if _, err := ParseCertificateID(c.ID); err != nil {
		return c, err
	}
	if !ways[c.How] || c.Status != fleet.Active && c.Status != fleet.Inactive && c.Status != fleet.PendingActivation {
		return c, ErrPrincipalStatus.New("A certificate begins ACTIVE, INACTIVE or PENDING_ACTIVATION.")
	}
	err = r.store.Atomic(ctx, func(ctx context.Context) error {
		others, err := r.store.CertificatesByID(ctx, c.ID)
		if err != nil {
			return err
		}
		for _, o := range others {
			if o.Tenant == c.Tenant {
				out = o
				return nil
			}
		}
		if len(others) > 0 && !proven {
			return ErrCertificateElsewhere.New("")
		}
		out = c
		out.Holder = strings.ToLower(c.Holder)
		out.NotBefore, out.NotAfter = c.NotBefore.UTC().Truncate(time.Millisecond), c.NotAfter.UTC().Truncate(time.Millisecond)
		out.RegisteredAt = r.stamp()
		out.UpdatedAt, out.Version, out.TransferTo = out.RegisteredAt, 1, ""
		return r.store.PutCertificate(ctx, out, 0)
	})
	return out, err
}

// stamp is the time as it is stored.
func (r *Registry) stamp() time.Time { return r.now().UTC().Truncate(time.Millisecond) }

// Certificate finds a device certificate by its id.
func (r *Registry) Certificate(ctx context.Context, s access.Scope, id string) (Certificate, error) {
	return r.store.Certificate(ctx, s, id)
}

// Certificates lists device certificates in pages.
func (r *Registry) Certificates(ctx context.Context, s access.Scope, q CertificateQuery) ([]Certificate, error) {
	q.Limit = pageSize(q.Limit)
	return r.store.Certificates(ctx, s, q)
}

func pageSize(n int) int {
	if n <= 0 || n > 1000 {
		return 100
	}
	return n
}

// changeCertificate decides about one certificate and writes it.
func (r *Registry) changeCertificate(ctx context.Context, s access.Scope, id string, decide func(ctx context.Context, c *Certificate) error) (out Certificate, err error) {
	for range maxTries {
		err = r.store.Atomic(ctx, func(ctx context.Context) error {
			c, err := r.store.Certificate(ctx, s, id)
			if err != nil {
				return err
			}
			out = c
			if err := decide(ctx, &c); err != nil || c.Status == out.Status && c.TransferTo == out.TransferTo && c.Holder == out.Holder && c.How == out.How {
				return err
			}
			was := c.Version
			c.Version, c.UpdatedAt = was+1, r.stamp()
			out = c
			return r.store.PutCertificate(ctx, c, was)
		})
		if !errors.Is(err, ErrCertificateChanged) {
			break
		}
	}
	return out, err
}

// SetCertificateStatus changes a status by hand or by a registration. Only
// [Registry.Transfer] and what ends it touch PENDING_TRANSFER.
func (r *Registry) SetCertificateStatus(ctx context.Context, s access.Scope, id string, to fleet.PrincipalStatus) (Certificate, error) {
	if to == fleet.PendingActivation || to == fleet.PendingTransfer {
		return Certificate{}, ErrPrincipalStatus.New("Nobody sets %s.", to)
	}
	return r.changeCertificate(ctx, s, id, func(_ context.Context, c *Certificate) error {
		if c.Status == to {
			return nil
		}
		if c.Revoked || c.Status == fleet.PendingTransfer || !c.Status.CanBecome(to) {
			return ErrPrincipalStatus.New("It is %s.", c.Status)
		}
		c.Status = to
		return nil
	})
}

// DropCertificate forgets a certificate. It must be INACTIVE or REVOKED, with no
// policy and no thing; force takes those away first.
func (r *Registry) DropCertificate(ctx context.Context, s access.Scope, id string, force bool) error {
	return r.store.Atomic(ctx, func(ctx context.Context) error {
		c, err := r.store.Certificate(ctx, s, id)
		if err != nil {
			return err
		}
		if c.Status != fleet.Inactive && c.Status != fleet.Revoked {
			return ErrPrincipalStatus.New("It is %s; only an INACTIVE or REVOKED one can be deleted.", c.Status)
		}
		if c.Authority != "" {
			return ErrCertificateOwn.New("It stays in the records.")
		}
		if err := r.free(ctx, s, id, force); err != nil {
			return err
		}
		return r.store.DropCertificate(ctx, s.Tenant, id)
	})
}

// free makes sure that a certificate has no policy and no thing.
func (r *Registry) free(ctx context.Context, s access.Scope, id string, force bool) error {
	policies, err := r.store.AttachedPolicies(ctx, s, CertificateTarget(id))
	if err != nil {
		return err
	}
	things, err := r.store.CertificateThings(ctx, s, id)
	if err != nil {
		return err
	}
	if !force && len(policies)+len(things) > 0 {
		return ErrCertificateInUse.New("It has %d policies and %d things.", len(policies), len(things))
	}
	for _, p := range policies {
		if err := r.store.DetachPolicy(ctx, s.Tenant, CertificateTarget(id), p); err != nil {
			return err
		}
	}
	for _, t := range things {
		if err := r.store.DropAttachment(ctx, s.Tenant, t.Thing.Fold(), id); err != nil {
			return err
		}
	}
	return nil
}

// Transfer offers a certificate to another tenant. It must be INACTIVE and have
// no policy and no thing. One of our own authority stays with it: such a device
// changes its owner by a new registration.
func (r *Registry) Transfer(ctx context.Context, s access.Scope, id, to string) (Certificate, error) {
	if to == "" || to == s.Tenant {
		return Certificate{}, ErrTransfer.New("Name another tenant.")
	}
	return r.changeCertificate(ctx, s, id, func(ctx context.Context, c *Certificate) error {
		switch {
		case c.Authority != "":
			return ErrCertificateOwn.New("")
		case c.Revoked || !c.Status.CanBecome(fleet.PendingTransfer):
			return ErrPrincipalStatus.New("It is %s.", c.Status)
		}
		if err := r.free(ctx, s, id, false); err != nil {
			return err
		}
		c.Status, c.TransferTo = fleet.PendingTransfer, to
		return nil
	})
}

// CancelTransfer takes an offer back.
func (r *Registry) CancelTransfer(ctx context.Context, s access.Scope, id string) (Certificate, error) {
	return r.changeCertificate(ctx, s, id, func(_ context.Context, c *Certificate) error {
		if c.Status != fleet.PendingTransfer {
			return ErrTransfer.New("It is %s.", c.Status)
		}
		c.Status, c.TransferTo = fleet.Inactive, ""
		return nil
	})
}

// offered finds a certificate that another tenant offers to s.
func (r *Registry) offered(ctx context.Context, s access.Scope, id string) (Certificate, error) {
	all, err := r.store.CertificatesByID(ctx, id)
	if err != nil {
		return Certificate{}, err
	}
	for _, c := range all {
		if c.Status == fleet.PendingTransfer && c.TransferTo == s.Tenant {
			return c, nil
		}
	}
	return Certificate{}, ErrCertificateUnknown.New("")
}

// RejectTransfer refuses an offer: the certificate stays where it is, INACTIVE.
func (r *Registry) RejectTransfer(ctx context.Context, s access.Scope, id string) error {
	return r.store.Atomic(ctx, func(ctx context.Context) error {
		c, err := r.offered(ctx, s, id)
		if err != nil {
			return err
		}
		_, err = r.CancelTransfer(ctx, access.Scope{Tenant: c.Tenant}, id)
		return err
	})
}

// AcceptTransfer takes a certificate over from the tenant that offers it.
func (r *Registry) AcceptTransfer(ctx context.Context, s access.Scope, id string, active bool) (out Certificate, err error) {
	err = r.store.Atomic(ctx, func(ctx context.Context) error {
		c, err := r.offered(ctx, s, id)
		if err != nil {
			return err
		}
		if _, err := r.store.Certificate(ctx, s, id); !errors.Is(err, ErrCertificateUnknown) {
			if err == nil {
				err = ErrTransfer.New("The certificate is registered here already.")
			}
			return err
		}
		if err := r.store.DropCertificate(ctx, c.Tenant, id); err != nil {
			return err
		}
		out = c
		out.Tenant, out.TransferTo, out.CA, out.Holder = s.Tenant, "", "", c.ID
		out.Status = fleet.Inactive
		if active {
			out.Status = fleet.Active
		}
		out.Version, out.UpdatedAt = 1, r.stamp()
		return r.store.PutCertificate(ctx, out, 0)
	})
	return out, err
}
