package web

import (
	"context"
	"strconv"

	"hallmark/access"
	"hallmark/api/adminapi"
)

// Policies is what devices may do.
type Policies interface {
	Policies(ctx context.Context, s access.Scope, p Page) (items []adminapi.DevicePolicy, next string, err error)
	Policy(ctx context.Context, s access.Scope, name string) (adminapi.DevicePolicy, error)
	CreatePolicy(ctx context.Context, by access.Actor, r adminapi.DevicePolicyRequest) (adminapi.DevicePolicy, error)
	DeletePolicy(ctx context.Context, by access.Actor, name string) (adminapi.DevicePolicy, error)
	CreatePolicyVersion(ctx context.Context, by access.Actor, name string, r adminapi.DevicePolicyVersionRequest) (adminapi.DevicePolicy, error)
	PolicyVersion(ctx context.Context, s access.Scope, name string, number int) (adminapi.DevicePolicyVersion, error)
	SetDefaultPolicyVersion(ctx context.Context, by access.Actor, name string, number int) (adminapi.DevicePolicy, error)
	DeletePolicyVersion(ctx context.Context, by access.Actor, name string, number int) (adminapi.DevicePolicy, error)
	PolicyTargets(ctx context.Context, s access.Scope, name string, p Page) (items []adminapi.PolicyTarget, next string, err error)
	// AttachPolicy and DetachPolicy take the kind and name of a target as
	// adminapi.PolicyTarget has them.
	AttachPolicy(ctx context.Context, by access.Actor, t adminapi.PolicyTarget) (adminapi.PolicyTarget, error)
	DetachPolicy(ctx context.Context, by access.Actor, t adminapi.PolicyTarget) (adminapi.PolicyTarget, error)
	AttachedPolicies(ctx context.Context, s access.Scope, q AttachedQuery) ([]adminapi.AttachedPolicy, error)
	CheckPolicy(ctx context.Context, s access.Scope, q adminapi.PolicyQuestion) (adminapi.PolicyDecision, error)
}

// The kinds of targets.
const (
	CertificateTarget = "certificate"
	GroupTarget       = "group"
)

// AttachedQuery asks for the policies of one of the three.
type AttachedQuery struct {
	Certificate, Thing, Group string
	Inherited                 bool // with a group
}

// FleetCertificateQuery selects device certificates; empty fields do not filter.
type FleetCertificateQuery struct{ CA, Status string }

// Registration is how certificates that no order made come in.
type Registration interface {
	FleetCertificates(ctx context.Context, s access.Scope, q FleetCertificateQuery, p Page) (items []adminapi.FleetCertificate, next string, err error)
	FleetCertificate(ctx context.Context, s access.Scope, id string) (adminapi.FleetCertificate, error)
	RegisterFleetCertificate(ctx context.Context, by access.Actor, r adminapi.FleetCertificateRequest) (adminapi.FleetCertificate, error)
	SetFleetCertificateStatus(ctx context.Context, by access.Actor, id string, r adminapi.FleetCertificateStatus) (adminapi.FleetCertificate, error)
	RegistrationCode(ctx context.Context, s access.Scope) (adminapi.RegistrationCode, error)
	RegisteredCAs(ctx context.Context, s access.Scope, p Page) (items []adminapi.RegisteredCA, next string, err error)
	RegisteredCA(ctx context.Context, s access.Scope, id string) (adminapi.RegisteredCA, error)
	RegisterCA(ctx context.Context, by access.Actor, r adminapi.RegisteredCARequest) (adminapi.RegisteredCA, error)
	UpdateRegisteredCA(ctx context.Context, by access.Actor, id string, r adminapi.RegisteredCAChange) (adminapi.RegisteredCA, error)
	DeleteRegisteredCA(ctx context.Context, by access.Actor, id string) (adminapi.RegisteredCA, error)
	PutCABudget(ctx context.Context, by access.Actor, id string, r adminapi.BudgetRequest) (adminapi.RegistrationBudget, error)
	FleetTemplates(ctx context.Context, s access.Scope) ([]adminapi.FleetTemplate, error)
	PutFleetTemplate(ctx context.Context, by access.Actor, name string, r adminapi.FleetTemplateRequest) (adminapi.FleetTemplate, error)
	Claims(ctx context.Context, s access.Scope, p Page) (items []adminapi.Claim, next string, err error)
	Claim(ctx context.Context, s access.Scope, id string) (adminapi.Claim, error)
	CreateClaim(ctx context.Context, by access.Actor, r adminapi.ClaimRequest) (adminapi.ClaimCertificate, error)
	CreateProvisioningClaim(ctx context.Context, by access.Actor, template string, r adminapi.ProvisioningClaimRequest) (adminapi.ClaimCertificate, error)
	PutClaimBudget(ctx context.Context, by access.Actor, id string, r adminapi.BudgetRequest) (adminapi.RegistrationBudget, error)
	RegisterInBulk(ctx context.Context, by access.Actor, r adminapi.BulkRequest) (adminapi.BulkAnswer, error)
}

func (p *people) listPolicies(c *call) (any, error) {
	page, err := c.page()
	if err != nil {
		return nil, err
	}
	items, next, err := p.Backend.Policies.Policies(c.Request().Context(), c.scope, page)
	return adminapi.DevicePolicyPage{Items: list(items), Next: c.next(next)}, err
}

func (p *people) createPolicy(c *call) (any, error) {
	r, err := body[adminapi.DevicePolicyRequest](c)
	if err != nil {
		return nil, err
	}
	return p.Backend.Policies.CreatePolicy(c.Request().Context(), c.actor, r)
}

func (p *people) getPolicy(c *call) (any, error) {
	return p.Backend.Policies.Policy(c.Request().Context(), c.scope, c.Param("policy"))
}

func (p *people) deletePolicy(c *call) (any, error) {
	return p.Backend.Policies.DeletePolicy(c.Request().Context(), c.actor, c.Param("policy"))
}

func (p *people) createPolicyVersion(c *call) (any, error) {
	r, err := body[adminapi.DevicePolicyVersionRequest](c)
	if err != nil {
		return nil, err
	}
	return p.Backend.Policies.CreatePolicyVersion(c.Request().Context(), c.actor, c.Param("policy"), r)
}

// policyVersion is the number in the path, which the contract checked.
func (c *call) policyVersion() int {
	n, _ := strconv.Atoi(c.Param("version"))
	return n
}

func (p *people) getPolicyVersion(c *call) (any, error) {
	return p.Backend.Policies.PolicyVersion(c.Request().Context(), c.scope, c.Param("policy"), c.policyVersion())
}

func (p *people) setDefaultPolicyVersion(c *call) (any, error) {
	return p.Backend.Policies.SetDefaultPolicyVersion(c.Request().Context(), c.actor, c.Param("policy"), c.policyVersion())
}

func (p *people) deletePolicyVersion(c *call) (any, error) {
	return p.Backend.Policies.DeletePolicyVersion(c.Request().Context(), c.actor, c.Param("policy"), c.policyVersion())
}

func (p *people) listPolicyTargets(c *call) (any, error) {
	page, err := c.page()
	if err != nil {
		return nil, err
	}
	items, next, err := p.Backend.Policies.PolicyTargets(c.Request().Context(), c.scope, c.Param("policy"), page)
	return adminapi.PolicyTargetPage{Items: list(items), Next: c.next(next)}, err
}

// target is what the path says: of the two parameters a route has one.
func (c *call) target() adminapi.PolicyTarget {
	if id := c.Param("certificate"); id != "" {
		return adminapi.PolicyTarget{Policy: c.Param("policy"), Kind: CertificateTarget, Name: id}
	}
	return adminapi.PolicyTarget{Policy: c.Param("policy"), Kind: GroupTarget, Name: c.Param("group")}
}

func (p *people) attachPolicy(c *call) (any, error) {
	return p.Backend.Policies.AttachPolicy(c.Request().Context(), c.actor, c.target())
}

func (p *people) detachPolicy(c *call) (any, error) {
	return p.Backend.Policies.DetachPolicy(c.Request().Context(), c.actor, c.target())
}

func (p *people) listAttachedPolicies(c *call) (any, error) {
	q := AttachedQuery{Certificate: c.query.Get("certificate"), Thing: c.query.Get("thing"), Group: c.query.Get("group"), Inherited: c.query.Get("inherited") == "yes"}
	if n := len(c.query); q.Inherited && q.Group == "" || n == 0 || c.query.Has("inherited") && n != 2 || !c.query.Has("inherited") && n != 1 {
		return nil, ErrContract.New("Name one of certificate, thing and group; inherited goes with a group.")
	}
	items, err := p.Backend.Policies.AttachedPolicies(c.Request().Context(), c.scope, q)
	return adminapi.AttachedPolicyPage{Items: list(items)}, err
}

func (p *people) checkPolicy(c *call) (any, error) {
	r, err := body[adminapi.PolicyQuestion](c)
	if err != nil {
		return nil, err
	}
	if (r.Certificate == "") == (r.Thing == "") {
		return nil, ErrContract.New("Name either a certificate or a thing.")
	}
	return p.Backend.Policies.CheckPolicy(c.Request().Context(), c.scope, r)
}

func (p *people) listFleetCertificates(c *call) (any, error) {
	page, err := c.page()
	if err != nil {
		return nil, err
	}
	q := FleetCertificateQuery{CA: c.query.Get("ca"), Status: c.query.Get("status")}
	items, next, err := p.Backend.Registration.FleetCertificates(c.Request().Context(), c.scope, q, page)
	return adminapi.FleetCertificatePage{Items: list(items), Next: c.next(next)}, err
}

func (p *people) registerFleetCertificate(c *call) (any, error) {
	r, err := body[adminapi.FleetCertificateRequest](c)
	if err != nil {
		return nil, err
	}
	return p.Backend.Registration.RegisterFleetCertificate(c.Request().Context(), c.actor, r)
}

func (p *people) getFleetCertificate(c *call) (any, error) {
	return p.Backend.Registration.FleetCertificate(c.Request().Context(), c.scope, c.Param("certificate"))
}

func (p *people) setFleetCertificateStatus(c *call) (any, error) {
	r, err := body[adminapi.FleetCertificateStatus](c)
	if err != nil {
		return nil, err
	}
	return p.Backend.Registration.SetFleetCertificateStatus(c.Request().Context(), c.actor, c.Param("certificate"), r)
}

func (p *people) getRegistrationCode(c *call) (any, error) {
	return p.Backend.Registration.RegistrationCode(c.Request().Context(), c.scope)
}

func (p *people) listRegisteredCAs(c *call) (any, error) {
	page, err := c.page()
	if err != nil {
		return nil, err
	}
	items, next, err := p.Backend.Registration.RegisteredCAs(c.Request().Context(), c.scope, page)
	return adminapi.RegisteredCAPage{Items: list(items), Next: c.next(next)}, err
}

func (p *people) registerCA(c *call) (any, error) {
	r, err := body[adminapi.RegisteredCARequest](c)
	if err != nil {
		return nil, err
	}
	if (r.Certificate == "") == (r.Authority == "") {
		return nil, ErrContract.New("Give either a certificate or the name of an authority.")
	}
	return p.Backend.Registration.RegisterCA(c.Request().Context(), c.actor, r)
}

func (p *people) getRegisteredCA(c *call) (any, error) {
	return p.Backend.Registration.RegisteredCA(c.Request().Context(), c.scope, c.Param("ca"))
}

func (p *people) updateRegisteredCA(c *call) (any, error) {
	r, err := body[adminapi.RegisteredCAChange](c)
	if err != nil {
		return nil, err
	}
	return p.Backend.Registration.UpdateRegisteredCA(c.Request().Context(), c.actor, c.Param("ca"), r)
}

func (p *people) deleteRegisteredCA(c *call) (any, error) {
	return p.Backend.Registration.DeleteRegisteredCA(c.Request().Context(), c.actor, c.Param("ca"))
}

func (p *people) putCABudget(c *call) (any, error) {
	r, err := body[adminapi.BudgetRequest](c)
	if err != nil {
		return nil, err
	}
	return p.Backend.Registration.PutCABudget(c.Request().Context(), c.actor, c.Param("ca"), r)
}

func (p *people) listFleetTemplates(c *call) (any, error) {
	items, err := p.Backend.Registration.FleetTemplates(c.Request().Context(), c.scope)
	return adminapi.FleetTemplatePage{Items: list(items)}, err
}

func (p *people) putFleetTemplate(c *call) (any, error) {
	r, err := body[adminapi.FleetTemplateRequest](c)
	if err != nil {
		return nil, err
	}
	return p.Backend.Registration.PutFleetTemplate(c.Request().Context(), c.actor, c.Param("template"), r)
}

func (p *people) createProvisioningClaim(c *call) (any, error) {
	r, err := body[adminapi.ProvisioningClaimRequest](c)
	if err != nil {
		return nil, err
	}
	return p.Backend.Registration.CreateProvisioningClaim(c.Request().Context(), c.actor, c.Param("template"), r)
}

func (p *people) listClaims(c *call) (any, error) {
	page, err := c.page()
	if err != nil {
		return nil, err
	}
	items, next, err := p.Backend.Registration.Claims(c.Request().Context(), c.scope, page)
	return adminapi.ClaimPage{Items: list(items), Next: c.next(next)}, err
}

func (p *people) createClaim(c *call) (any, error) {
	r, err := body[adminapi.ClaimRequest](c)
	if err != nil {
		return nil, err
	}
	return p.Backend.Registration.CreateClaim(c.Request().Context(), c.actor, r)
}

func (p *people) getClaim(c *call) (any, error) {
	return p.Backend.Registration.Claim(c.Request().Context(), c.scope, c.Param("certificate"))
}

func (p *people) putClaimBudget(c *call) (any, error) {
	r, err := body[adminapi.BudgetRequest](c)
	if err != nil {
		return nil, err
	}
	return p.Backend.Registration.PutClaimBudget(c.Request().Context(), c.actor, c.Param("certificate"), r)
}

func (p *people) registerInBulk(c *call) (any, error) {
	r, err := body[adminapi.BulkRequest](c)
	if err != nil {
		return nil, err
	}
	return p.Backend.Registration.RegisterInBulk(c.Request().Context(), c.actor, r)
}
