package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/bootstrap"
	"hallmark/ca/profile"
	"hallmark/crl"
	"hallmark/fleet"
	"hallmark/fleet/registry"
	"hallmark/internal/fault"
	"hallmark/provisioner"
	"hallmark/web"
)

// registrationAPI answers for certificates that no order made: who brought them,
// who vouches for them, and what claims may make.
type registrationAPI struct {
	*backend
	byoc *bootstrap.BYOC
	bulk *bootstrap.Bulk
}

var _ web.Registration = registrationAPI{}

func (b *backend) registration() web.Registration {
	r := registrationAPI{backend: b}
	r.byoc = bootstrap.NewBYOC(bootstrap.BYOCConfig{CA: b.ca, Registry: b.reg, Log: b.log, Now: b.now})
	r.bulk = bootstrap.NewBulk(bootstrap.BulkConfig{BYOC: r.byoc, Issuer: b.ca, Planner: b.planner, Registry: b.reg, Grants: b.db, Log: b.log, Now: b.now})
	return r
}

func (b registrationAPI) fleetCertificateView(c *registry.Certificate) adminapi.FleetCertificate {
	v := adminapi.FleetCertificate{Id: c.ID, Status: string(c.Status), How: string(c.How), Usable: c.Usable(b.now()), Revoked: c.Revoked, Holder: c.Holder, CommonName: c.CommonName,
		Authority: c.Authority, Profile: c.Profile, Ca: c.CA, TransferTo: c.TransferTo, NotBefore: c.NotBefore, NotAfter: c.NotAfter, RegisteredAt: c.RegisteredAt, UpdatedAt: c.UpdatedAt,
		Things: []string{}, Policies: []string{}}
	if c.Authority != "" {
		v.Serial = serialText(c.Serial)
	}
	return v
}

// FleetCertificates implements [web.Registration].
func (b registrationAPI) FleetCertificates(ctx context.Context, s access.Scope, q web.FleetCertificateQuery, p web.Page) ([]adminapi.FleetCertificate, string, error) {
	items, next, err := collect(p.After, p.Limit, func(after string, n int) ([]registry.Certificate, error) {
		return b.reg.Certificates(ctx, s, registry.CertificateQuery{CA: q.CA, Status: fleet.PrincipalStatus(q.Status), After: after, Limit: n})
	}, func(c *registry.Certificate) string { return c.ID }, nil)
	return mapped(items, b.fleetCertificateView), next, err
}

// FleetCertificate implements [web.Registration].
func (b registrationAPI) FleetCertificate(ctx context.Context, s access.Scope, id string) (v adminapi.FleetCertificate, err error) {
	c, err := b.reg.Certificate(ctx, s, id)
	if err != nil {
		return v, err
	}
	v = b.fleetCertificateView(&c)
	v.Certificate = pemText("CERTIFICATE", c.DER)
	things, err := b.reg.CertificateThings(ctx, s, id)
	if err != nil {
		return v, err
	}
	for _, t := range things {
		v.Things = append(v.Things, string(t.Thing))
	}
	own, err := b.reg.AttachedPolicies(ctx, s, registry.CertificateTarget(id), false)
	v.Policies = nonNil(own)
	return v, err
}

// RegisterFleetCertificate implements [web.Registration].
func (b registrationAPI) RegisterFleetCertificate(ctx context.Context, by access.Actor, r adminapi.FleetCertificateRequest) (adminapi.FleetCertificate, error) {
	register := b.byoc.RegisterCertificate
	if r.WithoutCa {
		register = b.byoc.RegisterCertificateWithoutCA
	}
	c, err := register(ctx, by, bootstrap.LeafRegistration{Certificate: []byte(r.Certificate), CA: []byte(r.Ca), Active: r.Active, Proof: r.Proof})
	if err != nil {
		return adminapi.FleetCertificate{}, err
	}
	return b.FleetCertificate(ctx, by.Scope(), c.ID)
}

// SetFleetCertificateStatus implements [web.Registration]. What was issued here is
// revoked where its record is; of the others the registry alone knows.
func (b registrationAPI) SetFleetCertificateStatus(ctx context.Context, by access.Actor, id string, r adminapi.FleetCertificateStatus) (v adminapi.FleetCertificate, err error) {
	to := fleet.PrincipalStatus(r.Status)
	if to == fleet.Revoked {
		err = b.revokeFleetCertificate(ctx, by, id, r)
	} else {
		if r.Reason != "" {
			return v, web.ErrInput.New("reason: only REVOKED has one.")
		}
		err = b.db.Atomic(ctx, func(ctx context.Context) error {
			c, err := b.reg.Certificate(ctx, by.Scope(), id)
			if err != nil {
				return err
			}
			// S15: whether the device has that key only a connection tells.
			if c.Status == fleet.PendingActivation && to == fleet.Active && (c.How == registry.HowFirstBoot || c.How == registry.HowRenewal || c.How == registry.HowClaim) {
				return registry.ErrPrincipalStatus.New("It is %s until its device has shown the key.", c.Status)
			}
			_, err = b.reg.SetCertificateStatus(ctx, by.Scope(), id, to)
			return err
		})
	}
	if err != nil {
		return v, err
	}
	b.log.InfoContext(ctx, "status of a device certificate set", "certificate", id, "status", r.Status, "reason", r.Reason, "note", r.Note, "by", by.String())
	return b.FleetCertificate(ctx, by.Scope(), id)
}

func (b registrationAPI) revokeFleetCertificate(ctx context.Context, by access.Actor, id string, r adminapi.FleetCertificateStatus) error {
	if err := access.Require(by, access.RevokeCertificate); err != nil {
		return err
	}
	reason := crl.Unspecified
	if r.Reason != "" {
		var err error
		if reason, err = crl.ParseReason(r.Reason); err != nil {
			return err
		}
	}
	return b.db.Atomic(ctx, func(ctx context.Context) error {
		c, err := b.reg.Certificate(ctx, by.Scope(), id)
		if err != nil {
			return err
		}
		if c.Authority != "" {
			_, err := b.crl.Revoke(ctx, by, crl.Withdrawal{Authority: c.Authority, Serial: c.Serial, Reason: reason, Note: r.Note})
			return err
		}
		_, err = b.reg.SetCertificateStatus(ctx, by.Scope(), id, fleet.Revoked)
		return err
	})
}

// RegistrationCode implements [web.Registration].
func (b registrationAPI) RegistrationCode(_ context.Context, s access.Scope) (adminapi.RegistrationCode, error) {
	return adminapi.RegistrationCode{Code: b.reg.RegistrationCode(s), Tenant: s.Tenant}, nil
}

func (b registrationAPI) registeredCAView(ctx context.Context, c *registry.RegisteredCA) (adminapi.RegisteredCA, error) {
	v := adminapi.RegisteredCA{Id: c.ID, Authority: c.Authority, Status: string(c.Status), Mode: string(c.Mode), AutoRegistration: c.AutoRegistration, Proven: c.Proven, RegisteredAt: c.RegisteredAt, UpdatedAt: c.UpdatedAt}
	cert, err := x509.ParseCertificate(c.DER)
	if err != nil {
		return v, err
	}
	v.Subject, v.NotAfter = cert.Subject.String(), cert.NotAfter
	_, v.Template, err = b.registered(ctx, access.Scope{Tenant: c.Tenant}, c.Registration())
	return v, err
}

// registered finds the registration of a CA, and the name of its template if that
// is for the door. An authority of ours can have one for first boot instead.
func (b registrationAPI) registered(ctx context.Context, s access.Scope, name string) (g provisioner.Registration, jitp string, err error) {
	g, err = b.db.Registration(ctx, s, name)
	if err != nil {
		if fault.KindOf(err) == fault.NotFound {
			err = nil
		}
		return provisioner.Registration{}, "", err
	}
	doc, err := b.db.Template(ctx, s, g.Template)
	if err == nil && doc.Kind == provisioner.JITPKind && g.Enabled {
		jitp = doc.Name
	}
	return g, jitp, err
}

// RegisteredCAs implements [web.Registration].
func (b registrationAPI) RegisteredCAs(ctx context.Context, s access.Scope, p web.Page) ([]adminapi.RegisteredCA, string, error) {
	rows, next, err := collect(p.After, p.Limit, func(after string, n int) ([]registry.RegisteredCA, error) { return b.reg.CAs(ctx, s, after, n) },
		func(c *registry.RegisteredCA) string { return c.ID }, nil)
	if err != nil {
		return nil, "", err
	}
	out := make([]adminapi.RegisteredCA, len(rows))
	for i := range rows {
		if out[i], err = b.registeredCAView(ctx, &rows[i]); err != nil {
			return nil, "", err
		}
	}
	return out, next, nil
}

// RegisteredCA implements [web.Registration].
func (b registrationAPI) RegisteredCA(ctx context.Context, s access.Scope, id string) (v adminapi.RegisteredCA, err error) {
	c, err := b.reg.CA(ctx, s, id)
	if err != nil {
		return v, err
	}
	if v, err = b.registeredCAView(ctx, &c); err != nil {
		return v, err
	}
	v.Certificate = pemText("CERTIFICATE", c.DER)
	have, err := b.db.Budget(ctx, s, bootstrap.CABudget(id))
	if errors.Is(err, bootstrap.ErrBudgetUnknown) {
		return v, nil // the door makes it with the first device
	}
	v.Budget = budgetView(&have)
	return v, err
}

// RegisterCA implements [web.Registration].
func (b registrationAPI) RegisterCA(ctx context.Context, by access.Actor, r adminapi.RegisteredCARequest) (v adminapi.RegisteredCA, err error) {
	if err := b.secondForCA(ctx, by, r); err != nil {
		return v, err
	}
	return b.registerCA(ctx, by, r)
}

func (b registrationAPI) registerCA(ctx context.Context, by access.Actor, r adminapi.RegisteredCARequest) (v adminapi.RegisteredCA, err error) {
	g := registry.CARegistration{Mode: registry.CAMode(r.Mode), Active: r.Active, AutoRegistration: r.AutoRegistration}
	if r.Authority != "" {
		a, err := b.ours(by.Scope(), r.Authority)
		if err != nil {
			return v, err
		}
		g.Certificate = a.Cert
	} else if g.Certificate, err = bootstrap.ParseLeaf([]byte(r.Certificate)); err != nil {
		return v, registry.ErrCAInvalid.Wrap(err, "The certificate does not parse.")
	}
	if r.Verification != "" {
		if g.Verification, err = bootstrap.ParseLeaf([]byte(r.Verification)); err != nil {
			return v, registry.ErrPossession.Wrap(err, "The verification certificate does not parse.")
		}
	}
	for _, a := range b.ca.Authorities() { // stations and the service itself are no devices (S18)
		if bytes.Equal(a.Cert.Raw, g.Certificate.Raw) && a.Tenant == by.Tenant && a.Duty != profile.DutyDevice {
			return v, registry.ErrCAInvalid.New("%s has the duty %s and certifies no devices.", a.Name, a.Duty)
		}
	}
	var made registry.RegisteredCA
	err = b.db.Atomic(ctx, func(ctx context.Context) (err error) {
		if made, err = b.byoc.RegisterCA(ctx, by, g); err != nil || r.Template == "" {
			return err
		}
		return b.attach(ctx, by, &made, r.Template)
	})
	if err != nil {
		return v, err
	}
	return b.RegisteredCA(ctx, by.Scope(), made.ID)
}

// attach gives a registered CA the template by which its devices are registered at
// the door, or takes it away. A registration for first boot stays what it is.
func (b registrationAPI) attach(ctx context.Context, by access.Actor, c *registry.RegisteredCA, name string) error {
	have, jitp, err := b.registered(ctx, by.Scope(), c.Registration())
	if err != nil {
		return err
	}
	if name == "" {
		if jitp == "" {
			return nil
		}
		return b.db.DropRegistration(ctx, by.Tenant, c.Registration())
	}
	if have.Template != "" && jitp == "" && have.Enabled {
		return provisioner.ErrRegistrationInvalid.New("The authority %s registers first boots with the template %s, and has one registration only.", c.Authority, have.Template)
	}
	doc, err := b.db.Template(ctx, by.Scope(), name)
	if err == nil && doc.Kind != provisioner.JITPKind {
		err = provisioner.ErrTemplateKind.New("It is of the kind %s, not %s.", doc.Kind, provisioner.JITPKind)
	}
	if err != nil {
		return err
	}
	return b.planner.PutRegistration(ctx, provisioner.Registration{Tenant: by.Tenant, Authority: c.Registration(), Template: name, Enabled: true})
}

// UpdateRegisteredCA implements [web.Registration].
func (b registrationAPI) UpdateRegisteredCA(ctx context.Context, by access.Actor, id string, r adminapi.RegisteredCAChange) (adminapi.RegisteredCA, error) {
	if err := b.secondForCAChange(ctx, by, id, r); err != nil {
		return adminapi.RegisteredCA{}, err
	}
	ch := registry.CAChange{AutoRegistration: r.AutoRegistration}
	if r.Status != nil {
		s := registry.CAStatus(*r.Status)
		ch.Status = &s
	}
	err := b.db.Atomic(ctx, func(ctx context.Context) error {
		c, err := b.reg.UpdateCA(ctx, by.Scope(), id, ch)
		if err != nil || r.Template == nil {
			return err
		}
		return b.attach(ctx, by, &c, *r.Template)
	})
	if err != nil {
		return adminapi.RegisteredCA{}, err
	}
	v, err := b.RegisteredCA(ctx, by.Scope(), id)
	b.log.InfoContext(ctx, "registered CA changed", "ca", id, "status", v.Status, "auto_registration", v.AutoRegistration, "template", v.Template, "by", by.String())
	return v, err
}

// DeleteRegisteredCA implements [web.Registration].
func (b registrationAPI) DeleteRegisteredCA(ctx context.Context, by access.Actor, id string) (v adminapi.RegisteredCA, err error) {
	if v, err = b.RegisteredCA(ctx, by.Scope(), id); err != nil {
		return v, err
	}
	err = b.db.Atomic(ctx, func(ctx context.Context) error {
		c, err := b.reg.CA(ctx, by.Scope(), id)
		if err == nil {
			err = b.attach(ctx, by, &c, "")
		}
		if err != nil {
			return err
		}
		return b.reg.DropCA(ctx, by.Scope(), id)
	})
	if err == nil {
		b.log.InfoContext(ctx, "registered CA deleted", "ca", id, "by", by.String())
	}
	return v, err
}
