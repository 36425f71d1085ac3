package bootstrap

import (
	"context"
	"crypto/x509"
	"errors"
	"time"

	"hallmark/access"
	"hallmark/ca"
	"hallmark/fleet"
	"hallmark/fleet/registry"
	"hallmark/internal/fault"
	"hallmark/provisioner"
)

// mayRegister tells whether a registered CA takes this certificate at the door.
func (d *Door) mayRegister(c *x509.Certificate, issuer *registry.RegisteredCA, now time.Time) error {
	switch {
	case d.cfg.Planner == nil:
		return ErrDoorClosed.New("Nothing is registered at this door (S22).")
	case issuer.Status != registry.CAActive:
		return ErrDoorClosed.New("The CA is %s.", issuer.Status)
	case !issuer.AutoRegistration:
		return ErrDoorClosed.New("")
	case !now.Before(c.NotAfter):
		return ErrExpired.New("It ended at %s.", c.NotAfter.UTC().Format(time.RFC3339))
	case now.Before(c.NotBefore):
		return ErrNotYet.New("It starts at %s.", c.NotBefore.UTC().Format(time.RFC3339))
	case c.IsCA:
		return ErrDoorWeak.New("It is the certificate of a CA.")
	case len(c.UnhandledCriticalExtensions) > 0:
		return ErrDoorWeak.New("It has a critical extension that is not known here.")
	}
	if err := d.cfg.Keys.Check(c.PublicKey); err != nil {
		return ErrDoorWeak.Wrap(err, "%s", fault.From(err).What)
	}
	parsed, err := x509.ParseCertificate(issuer.DER)
	if err != nil {
		return err
	}
	if !now.Before(parsed.NotAfter) {
		return ErrDoorClosed.New("The CA's certificate has expired.")
	}
	return nil
}

// newcomer registers a certificate that was seen at the door. It never admits
// anybody: the device connects again. The order:
//
//  1. plan: the CA's template, a pure function of the certificate.
//  2. register: certificate, budget, thing, policies and the status ACTIVE in
//     one transaction. However many connections race, on however many nodes, one
//     finds the certificate unknown.
//  3. A template that refuses, or a registry that does, leaves the certificate
//     PENDING_ACTIVATION and nothing else.
func (d *Door) newcomer(ctx context.Context, c *x509.Certificate, issuer *registry.RegisteredCA, own *ca.Record, now time.Time) (Admission, time.Duration, error) {
	id := registry.CertificateID(c.Raw)
	mu := d.lock(id)
	mu.Lock()
	defer mu.Unlock()
	scope := access.Scope{Tenant: issuer.Tenant}
	// Somebody else may have been here while this one waited.
	if rec, err := d.cfg.Registry.Certificate(ctx, scope, id); err == nil && rec.Status == fleet.Active {
		return Admission{}, 0, ErrRegistered.New("")
	}
	cert := registry.NewCertificate(issuer.Tenant, c, registry.HowJITP, fleet.PendingActivation)
	cert.CA = issuer.ID
	if own != nil {
		cert.Authority, cert.Serial, cert.Holder = own.Authority, own.Serial, own.Holder
	}
	// 1. plan
	plan, err := d.cfg.Planner.PlanJITP(ctx, provisioner.PlanInput{Tenant: issuer.Tenant, Authority: issuer.Registration(), Certificate: c})
	if errors.Is(err, provisioner.ErrRegistrationNone) {
		return Admission{}, refuseState, d.park(ctx, cert, issuer, now)
	}
	if errors.Is(err, provisioner.ErrTemplateKind) || errors.Is(err, provisioner.ErrFleetTemplate) {
		return Admission{}, refuseState, ErrDoorClosed.Wrap(err, "")
	}
	if err != nil && fault.KindOf(err) != fault.Invalid {
		return Admission{}, 0, err
	}
	// 2. register
	if err == nil {
		err = d.provision(ctx, cert, issuer, &plan, now)
	}
	if err == nil {
		d.log.InfoContext(ctx, "device registered at the door", "tenant", issuer.Tenant, "ca", issuer.ID, "certificate", id, "thing", plan.Thing.Name)
		return Admission{}, 0, ErrRegistered.New("")
	}
	if k := fault.KindOf(err); k == fault.Unavailable || k == fault.Internal || k == fault.Exhausted {
		return Admission{}, 0, err
	}
	// 3. parked, with the reason in the log, once an hour
	if _, perr := d.keep(ctx, cert, issuer, now); perr != nil {
		return Admission{}, 0, perr
	}
	if first, nerr := d.cfg.Grants.NoteEvent(ctx, issuer.Tenant, id, now, eventGap); nerr == nil && first {
		d.log.WarnContext(ctx, "device not registered at the door", "tenant", issuer.Tenant, "ca", issuer.ID, "certificate", id, "err", err)
	}
	return Admission{}, refuseState, ErrParked.Wrap(err, "The CA's template cannot be applied to it.")
}

// keep makes sure that the certificate is registered, and draws on the CA's
// budget when it is new. It returns what is now there.
func (d *Door) keep(ctx context.Context, cert registry.Certificate, issuer *registry.RegisteredCA, now time.Time) (out registry.Certificate, err error) {
	scope := access.Scope{Tenant: cert.Tenant}
	err = retry(func() error {
		return d.cfg.Grants.Atomic(ctx, func(ctx context.Context) error {
			// The CA again, inside: it may have been switched off meanwhile.
			now2, err := d.cfg.Registry.CA(ctx, scope, issuer.ID)
			if err != nil {
				return err
			}
			if now2.Status != registry.CAActive || !now2.AutoRegistration {
				return ErrDoorClosed.New("")
			}
			out, err = d.cfg.Registry.Certificate(ctx, scope, cert.ID)
			if !errors.Is(err, registry.ErrCertificateUnknown) {
				return err
			}
			if err := drawOn(ctx, d.cfg.Grants, scope, CABudget(issuer.ID), now, true); err != nil {
				return err
			}
			// The handshake proved the key (S23).
			out, err = d.cfg.Registry.PutCertificate(ctx, cert, true)
			return err
		})
	})
	return out, err
}

// provision makes the thing and activates the certificate, all or nothing.
func (d *Door) provision(ctx context.Context, cert registry.Certificate, issuer *registry.RegisteredCA, plan *provisioner.Plan, now time.Time) error {
	reg := registrationFrom(issuer.Tenant, issuer.Registration(), cert.Holder, plan)
	status := fleet.Active
	if !plan.Active {
		status = fleet.Inactive
	}
	return retry(func() error {
		return d.cfg.Grants.Atomic(ctx, func(ctx context.Context) error {
			rec, err := d.keep(ctx, cert, issuer, now)
			if err != nil {
				return err
			}
			if rec.Status != fleet.PendingActivation || rec.Revoked {
				return nil // another node was faster, or somebody decided by hand
			}
			_, p, err := d.cfg.Registry.Register(ctx, reg, registry.Attachment{Certificate: cert.ID, Status: status})
			if err == nil && p.Status != status {
				err = ErrInactive.New("")
			}
			return err
		})
	})
}

// registrationFrom is what a plan wants to be true. Whatever it names has to
// exist (S22).
func registrationFrom(tenant, by, holder string, p *provisioner.Plan) registry.Registration {
	out := registry.Registration{
		Thing: registry.Thing{
			Tenant: tenant, Name: fleet.ThingName(p.Thing.Name), Holder: holder, Attributes: p.Thing.Attributes, Type: p.Thing.Type,
			Groups: p.Thing.Groups, BillingGroup: p.Thing.BillingGroup, Configuration: p.Configuration, RegisteredBy: by,
		},
		Overrides: p.Thing.Overrides, TakeOver: p.TakeOver, Strict: true,
	}
	for _, policy := range p.Policies {
		out.Thing.Policies = append(out.Thing.Policies, policy.Name)
		if policy.Document != "" {
			out.Policies = append(out.Policies, registry.Policy{Tenant: tenant, Name: policy.Name, Document: policy.Document})
		}
	}
	return out
}

// drawOn takes one from a budget inside a transaction. A CA without a budget has
// the default one, which comes into being with the first device.
func drawOn(ctx context.Context, g Grants, s access.Scope, name string, now time.Time, door bool) error {
	b, err := g.Budget(ctx, s, name)
	if errors.Is(err, ErrBudgetUnknown) && door {
		b = Budget{Tenant: s.Tenant, Name: name, Most: doorMost, PerMinute: doorPerMinute, CreatedBy: "service:door", CreatedAt: now}
	} else if err != nil {
		return err
	}
	var open int64
	if b.Outstanding > 0 {
		if open, err = g.OpenGrants(ctx, s, name); err != nil {
			return err
		}
	}
	was := b.Version
	if err := b.draw(now, open); err != nil {
		return err
	}
	b.Version++
	return g.PutBudget(ctx, b, was)
}

// The budget of a registered CA that nobody gave another one (S17).
const (
	doorMost      = 100_000
	doorPerMinute = 600
)

// maxTries against others who change the same row.
const maxTries = 8

// retry runs f again while somebody else was faster.
func retry(f func() error) (err error) {
	for range maxTries {
		err = f()
		again := false
		for _, d := range []error{ErrRegistrationChanged, registry.ErrCertificateChanged, registry.ErrThingChanged, registry.ErrPolicyChanged, registry.ErrGroupChanged, registry.ErrTypeChanged} {
			again = again || errors.Is(err, d)
		}
		if !again {
			return err
		}
	}
	return err
}
