package webtest

import (
	"context"
	"encoding/base64"
	"strings"
	"time"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/web"
)

// Names of what the fixtures hold of registration.
const (
	Policy        = "lamp-default"
	FleetTemplate = "lamp-claims"
)

// FleetID is the fixture's device certificate, claim certificate and registered CA.
var FleetID = strings.Repeat("5e", 32)

var (
	_ web.Policies     = (*Fake)(nil)
	_ web.Registration = (*Fake)(nil)
)

func (f *Fake) policy(s access.Scope, name string) (adminapi.DevicePolicy, error) {
	at := f.Now().Add(-time.Hour)
	return pick(s, []adminapi.DevicePolicy{{Name: Policy, DefaultVersion: 1, LatestVersion: 2, CreatedAt: at, UpdatedAt: at, Document: `{"Version":"2012-10-17","Statement":[]}`,
		Versions: []adminapi.DevicePolicyVersion{{Policy: Policy, Version: 1, Default: true, CreatedAt: at}, {Policy: Policy, Version: 2, CreatedAt: at}}}},
		func(p *adminapi.DevicePolicy) bool { return p.Name == name })
}

// Policies implements [web.Policies].
func (f *Fake) Policies(_ context.Context, s access.Scope, p web.Page) ([]adminapi.DevicePolicy, string, error) {
	one, err := f.policy(s, Policy)
	if err != nil {
		return nil, "", nil
	}
	one.Document, one.Versions = "", []adminapi.DevicePolicyVersion{}
	return cut(s, []adminapi.DevicePolicy{one}, p)
}

// Policy implements [web.Policies].
func (f *Fake) Policy(_ context.Context, s access.Scope, name string) (adminapi.DevicePolicy, error) {
	return f.policy(s, name)
}

// CreatePolicy implements [web.Policies].
func (f *Fake) CreatePolicy(_ context.Context, by access.Actor, r adminapi.DevicePolicyRequest) (adminapi.DevicePolicy, error) {
	f.Calls = append(f.Calls, "create policy "+r.Name)
	return adminapi.DevicePolicy{Name: r.Name, DefaultVersion: 1, LatestVersion: 1, Document: r.Document, Versions: []adminapi.DevicePolicyVersion{}, CreatedAt: f.Now(), UpdatedAt: f.Now()}, nil
}

func (f *Fake) policyDone(by access.Actor, name, what string) (adminapi.DevicePolicy, error) {
	if err := f.did(by, "%s policy %s", what, name); err != nil {
		return adminapi.DevicePolicy{}, err
	}
	return f.policy(by.Scope(), name)
}

// DeletePolicy implements [web.Policies].
func (f *Fake) DeletePolicy(_ context.Context, by access.Actor, name string) (adminapi.DevicePolicy, error) {
	return f.policyDone(by, name, "delete")
}

// CreatePolicyVersion implements [web.Policies].
func (f *Fake) CreatePolicyVersion(_ context.Context, by access.Actor, name string, _ adminapi.DevicePolicyVersionRequest) (adminapi.DevicePolicy, error) {
	return f.policyDone(by, name, "new version of")
}

// PolicyVersion implements [web.Policies].
func (f *Fake) PolicyVersion(_ context.Context, s access.Scope, name string, number int) (adminapi.DevicePolicyVersion, error) {
	p, err := f.policy(s, name)
	if err != nil {
		return adminapi.DevicePolicyVersion{}, err
	}
	v, err := pick(s, p.Versions, func(v *adminapi.DevicePolicyVersion) bool { return v.Version == number })
	v.Document = p.Document
	return v, err
}

// SetDefaultPolicyVersion implements [web.Policies].
func (f *Fake) SetDefaultPolicyVersion(_ context.Context, by access.Actor, name string, _ int) (adminapi.DevicePolicy, error) {
	return f.policyDone(by, name, "default of")
}

// DeletePolicyVersion implements [web.Policies].
func (f *Fake) DeletePolicyVersion(_ context.Context, by access.Actor, name string, _ int) (adminapi.DevicePolicy, error) {
	return f.policyDone(by, name, "delete version of")
}

// PolicyTargets implements [web.Policies].
func (f *Fake) PolicyTargets(_ context.Context, s access.Scope, name string, p web.Page) ([]adminapi.PolicyTarget, string, error) {
	if _, err := f.policy(s, name); err != nil {
		return nil, "", err
	}
	return cut(s, []adminapi.PolicyTarget{{Policy: name, Kind: web.CertificateTarget, Name: FleetID}, {Policy: name, Kind: web.GroupTarget, Name: "lamps"}}, p)
}

// AttachPolicy implements [web.Policies].
func (f *Fake) AttachPolicy(_ context.Context, by access.Actor, t adminapi.PolicyTarget) (adminapi.PolicyTarget, error) {
	_, err := f.policyDone(by, t.Policy, "attach "+t.Kind+" "+t.Name+" to")
	return t, err
}

// DetachPolicy implements [web.Policies].
func (f *Fake) DetachPolicy(_ context.Context, by access.Actor, t adminapi.PolicyTarget) (adminapi.PolicyTarget, error) {
	_, err := f.policyDone(by, t.Policy, "detach "+t.Kind+" "+t.Name+" from")
	return t, err
}

// AttachedPolicies implements [web.Policies].
func (f *Fake) AttachedPolicies(_ context.Context, s access.Scope, q web.AttachedQuery) ([]adminapi.AttachedPolicy, error) {
	if err := known(s); err != nil {
		return nil, err
	}
	return []adminapi.AttachedPolicy{{Policy: Policy, Version: 1, From: adminapi.PolicyTarget{Policy: Policy, Kind: web.GroupTarget, Name: "lamps"}}}, nil
}

// CheckPolicy implements [web.Policies].
func (f *Fake) CheckPolicy(_ context.Context, s access.Scope, q adminapi.PolicyQuestion) (adminapi.PolicyDecision, error) {
	if err := known(s); err != nil {
		return adminapi.PolicyDecision{}, err
	}
	m := adminapi.PolicyMatch{Policy: Policy, Version: 1, Effect: "Allow", Sid: "own", From: adminapi.PolicyTarget{Policy: Policy, Kind: web.GroupTarget, Name: "lamps"}}
	return adminapi.PolicyDecision{Result: "ALLOWED", Certificate: FleetID, Status: "ACTIVE", Usable: true, Thing: q.Thing, Action: q.Action, Resource: q.Resource, DecidedBy: m,
		Matches: []adminapi.PolicyMatch{m}, Policies: []adminapi.AttachedPolicy{{Policy: Policy, Version: 1, From: m.From}}}, nil
}

func (f *Fake) fleetCertificate(s access.Scope, id string) (adminapi.FleetCertificate, error) {
	at := f.Now().Add(-time.Hour)
	return pick(s, []adminapi.FleetCertificate{{Id: FleetID, Status: "PENDING_ACTIVATION", How: "jitr", Holder: FleetID, CommonName: "lamp-7", Ca: FleetID, NotBefore: at, NotAfter: at.AddDate(1, 0, 0),
		RegisteredAt: at, UpdatedAt: at, Things: []string{}, Policies: []string{}}}, func(c *adminapi.FleetCertificate) bool { return c.Id == id })
}

// FleetCertificates implements [web.Registration].
func (f *Fake) FleetCertificates(_ context.Context, s access.Scope, _ web.FleetCertificateQuery, p web.Page) ([]adminapi.FleetCertificate, string, error) {
	c, err := f.fleetCertificate(s, FleetID)
	if err != nil {
		return nil, "", nil
	}
	return cut(s, []adminapi.FleetCertificate{c}, p)
}

// FleetCertificate implements [web.Registration].
func (f *Fake) FleetCertificate(_ context.Context, s access.Scope, id string) (adminapi.FleetCertificate, error) {
	return f.fleetCertificate(s, id)
}

// RegisterFleetCertificate implements [web.Registration].
func (f *Fake) RegisterFleetCertificate(_ context.Context, by access.Actor, _ adminapi.FleetCertificateRequest) (adminapi.FleetCertificate, error) {
	if err := f.did(by, "register a certificate"); err != nil {
		return adminapi.FleetCertificate{}, err
	}
	return f.fleetCertificate(by.Scope(), FleetID)
}

// SetFleetCertificateStatus implements [web.Registration].
func (f *Fake) SetFleetCertificateStatus(_ context.Context, by access.Actor, id string, r adminapi.FleetCertificateStatus) (adminapi.FleetCertificate, error) {
	c, err := f.fleetCertificate(by.Scope(), id)
	if err == nil {
		err = f.did(by, "%s certificate %s", r.Status, id)
	}
	c.Status = r.Status
	return c, err
}

// RegistrationCode implements [web.Registration].
func (f *Fake) RegistrationCode(_ context.Context, s access.Scope) (adminapi.RegistrationCode, error) {
	return adminapi.RegistrationCode{Code: base64.RawURLEncoding.EncodeToString([]byte("code of " + s.Tenant)), Tenant: s.Tenant}, nil
}

func (f *Fake) registeredCA(s access.Scope, id string) (adminapi.RegisteredCA, error) {
	at := f.Now().Add(-time.Hour)
	return pick(s, []adminapi.RegisteredCA{{Id: FleetID, Status: "ACTIVE", Mode: "DEFAULT", AutoRegistration: true, Proven: true, Subject: "CN=Their CA", NotAfter: at.AddDate(9, 0, 0), RegisteredAt: at, UpdatedAt: at}},
		func(c *adminapi.RegisteredCA) bool { return c.Id == id })
}

// RegisteredCAs implements [web.Registration].
func (f *Fake) RegisteredCAs(_ context.Context, s access.Scope, p web.Page) ([]adminapi.RegisteredCA, string, error) {
	c, err := f.registeredCA(s, FleetID)
	if err != nil {
		return nil, "", nil
	}
	return cut(s, []adminapi.RegisteredCA{c}, p)
}

// RegisteredCA implements [web.Registration].
func (f *Fake) RegisteredCA(_ context.Context, s access.Scope, id string) (adminapi.RegisteredCA, error) {
	return f.registeredCA(s, id)
}

// RegisterCA implements [web.Registration].
func (f *Fake) RegisterCA(_ context.Context, by access.Actor, r adminapi.RegisteredCARequest) (adminapi.RegisteredCA, error) {
	if err := f.did(by, "register CA %s", r.Authority); err != nil {
		return adminapi.RegisteredCA{}, err
	}
	return f.registeredCA(by.Scope(), FleetID)
}

// UpdateRegisteredCA implements [web.Registration].
func (f *Fake) UpdateRegisteredCA(_ context.Context, by access.Actor, id string, _ adminapi.RegisteredCAChange) (adminapi.RegisteredCA, error) {
	c, err := f.registeredCA(by.Scope(), id)
	if err == nil {
		err = f.did(by, "update CA %s", id)
	}
	return c, err
}

// DeleteRegisteredCA implements [web.Registration].
func (f *Fake) DeleteRegisteredCA(_ context.Context, by access.Actor, id string) (adminapi.RegisteredCA, error) {
	c, err := f.registeredCA(by.Scope(), id)
	if err == nil {
		err = f.did(by, "delete CA %s", id)
	}
	return c, err
}

func budget(name string, r adminapi.BudgetRequest) adminapi.RegistrationBudget {
	return adminapi.RegistrationBudget{Name: name, Most: r.Most, PerMinute: r.PerMinute, Outstanding: r.Outstanding, ExpiresAt: r.ExpiresAt}
}

// PutCABudget implements [web.Registration].
func (f *Fake) PutCABudget(_ context.Context, by access.Actor, id string, r adminapi.BudgetRequest) (adminapi.RegistrationBudget, error) {
	_, err := f.registeredCA(by.Scope(), id)
	if err == nil {
		err = f.did(by, "budget of CA %s", id)
	}
	return budget("ca/"+id, r), err
}

// FleetTemplates implements [web.Registration].
func (f *Fake) FleetTemplates(_ context.Context, s access.Scope) ([]adminapi.FleetTemplate, error) {
	out, _, err := cut(s, []adminapi.FleetTemplate{{Name: FleetTemplate, Enabled: true, UpdatedAt: f.Now()}}, web.Page{Limit: 1000})
	return out, err
}

// PutFleetTemplate implements [web.Registration].
func (f *Fake) PutFleetTemplate(_ context.Context, by access.Actor, name string, r adminapi.FleetTemplateRequest) (adminapi.FleetTemplate, error) {
	return adminapi.FleetTemplate{Name: name, Hook: r.Hook, Enabled: r.Enabled, UpdatedAt: f.Now()}, f.did(by, "put fleet template %s", name)
}

func (f *Fake) claim(s access.Scope, id string) (adminapi.Claim, error) {
	return pick(s, []adminapi.Claim{{Certificate: FleetID, Holder: "claims-lamps", Template: FleetTemplate, Status: "ACTIVE", Usable: true, Budget: adminapi.RegistrationBudget{Name: "claim/" + FleetID, Most: 1000, Used: 12, Outstanding: 100}}},
		func(c *adminapi.Claim) bool { return c.Certificate == id })
}

// Claims implements [web.Registration].
func (f *Fake) Claims(_ context.Context, s access.Scope, p web.Page) ([]adminapi.Claim, string, error) {
	c, err := f.claim(s, FleetID)
	if err != nil {
		return nil, "", nil
	}
	return cut(s, []adminapi.Claim{c}, p)
}

// Claim implements [web.Registration].
func (f *Fake) Claim(_ context.Context, s access.Scope, id string) (adminapi.Claim, error) {
	return f.claim(s, id)
}

// CreateClaim implements [web.Registration].
func (f *Fake) CreateClaim(_ context.Context, by access.Actor, r adminapi.ClaimRequest) (adminapi.ClaimCertificate, error) {
	return adminapi.ClaimCertificate{Id: FleetID, Certificate: "-----BEGIN CERTIFICATE-----\n", Chain: "-----BEGIN CERTIFICATE-----\n", Policy: "claim-" + r.Template, ExpiresAt: f.Now().AddDate(1, 0, 0)}, f.did(by, "create claim %s", r.Name)
}

// CreateProvisioningClaim implements [web.Registration].
func (f *Fake) CreateProvisioningClaim(ctx context.Context, by access.Actor, template string, _ adminapi.ProvisioningClaimRequest) (adminapi.ClaimCertificate, error) {
	c, err := f.CreateClaim(ctx, by, adminapi.ClaimRequest{Name: "user", Template: template})
	c.ExpiresAt = f.Now().Add(5 * time.Minute)
	return c, err
}

// PutClaimBudget implements [web.Registration].
func (f *Fake) PutClaimBudget(_ context.Context, by access.Actor, id string, r adminapi.BudgetRequest) (adminapi.RegistrationBudget, error) {
	_, err := f.claim(by.Scope(), id)
	if err == nil {
		err = f.did(by, "budget of claim %s", id)
	}
	return budget("claim/"+id, r), err
}

// RegisterInBulk implements [web.Registration].
func (f *Fake) RegisterInBulk(_ context.Context, by access.Actor, r adminapi.BulkRequest) (adminapi.BulkAnswer, error) {
	out := adminapi.BulkAnswer{Results: []adminapi.BulkResult{}}
	for i, l := range r.Lines {
		out.Results = append(out.Results, adminapi.BulkResult{Line: int64(i + 1), Thing: strings.Trim(l, "{}")})
	}
	return out, f.did(by, "bulk of %d with %s", len(r.Lines), r.Template)
}
