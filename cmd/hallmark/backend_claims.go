package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/netip"
	"strings"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/bootstrap"
	"hallmark/ca/profile"
	"hallmark/provisioner"
	"hallmark/web"
)

func budgetView(g *bootstrap.Budget) adminapi.RegistrationBudget {
	v := adminapi.RegistrationBudget{Name: g.Name, Most: g.Most, Used: g.Used, PerMinute: g.PerMinute, Outstanding: g.Outstanding, ExpiresAt: g.ExpiresAt, CreatedBy: g.CreatedBy, CreatedAt: g.CreatedAt}
	for _, p := range g.Networks {
		v.Networks = append(v.Networks, p.String())
	}
	return v
}

func (b registrationAPI) putBudget(ctx context.Context, by access.Actor, name string, r adminapi.BudgetRequest) (adminapi.RegistrationBudget, error) {
	want := bootstrap.Budget{Name: name, Most: r.Most, PerMinute: r.PerMinute, Outstanding: r.Outstanding, ExpiresAt: r.ExpiresAt}
	if r.Networks != nil {
		list, err := bootstrap.ParseNetworks(*r.Networks)
		if err != nil {
			return adminapi.RegistrationBudget{}, err
		}
		want.Networks = append([]netip.Prefix{}, list...) // an empty list is not none
	}
	if err := b.secondForBudget(ctx, by, &want); err != nil {
		return adminapi.RegistrationBudget{}, err
	}
	g, err := b.claims.SetBudget(ctx, by, want)
	if err != nil {
		return adminapi.RegistrationBudget{}, err
	}
	b.log.InfoContext(ctx, "registration budget set", "budget", name, "most", r.Most, "per_minute", r.PerMinute, "outstanding", r.Outstanding, "by", by.String())
	return budgetView(&g), nil
}

// PutCABudget implements [web.Registration].
func (b registrationAPI) PutCABudget(ctx context.Context, by access.Actor, id string, r adminapi.BudgetRequest) (adminapi.RegistrationBudget, error) {
	return b.putBudget(ctx, by, bootstrap.CABudget(id), r)
}

// PutClaimBudget implements [web.Registration].
func (b registrationAPI) PutClaimBudget(ctx context.Context, by access.Actor, id string, r adminapi.BudgetRequest) (adminapi.RegistrationBudget, error) {
	return b.putBudget(ctx, by, bootstrap.ClaimBudget(id), r)
}

func fleetTemplateView(t *provisioner.FleetTemplate) adminapi.FleetTemplate {
	return adminapi.FleetTemplate{Name: t.Name, Hook: t.Hook, Issuer: t.Issuer, TakeOver: t.TakeOver, Enabled: t.Enabled, UpdatedAt: t.UpdatedAt}
}

// FleetTemplates implements [web.Registration].
func (b registrationAPI) FleetTemplates(ctx context.Context, s access.Scope) ([]adminapi.FleetTemplate, error) {
	rows, err := b.db.FleetTemplates(ctx, s)
	return mapped(rows, fleetTemplateView), err
}

// PutFleetTemplate implements [web.Registration].
func (b registrationAPI) PutFleetTemplate(ctx context.Context, by access.Actor, name string, r adminapi.FleetTemplateRequest) (v adminapi.FleetTemplate, err error) {
	if _, err := b.db.Template(ctx, by.Scope(), name); err != nil {
		return v, err
	}
	if r.Issuer != "" {
		a, err := b.ours(by.Scope(), r.Issuer)
		if err != nil {
			return v, err
		}
		if a.Duty != profile.DutyDevice {
			return v, provisioner.ErrRegistrationInvalid.New("%s has the duty %s and certifies no devices.", a.Name, a.Duty)
		}
	}
	t := provisioner.FleetTemplate{Tenant: by.Tenant, Name: name, Hook: r.Hook, Issuer: r.Issuer, TakeOver: r.TakeOver, Enabled: r.Enabled}
	if err := b.planner.PutFleetTemplate(ctx, b.db, t); err != nil {
		return v, err
	}
	b.log.InfoContext(ctx, "fleet template stored", "template", name, "hook", r.Hook, "take_over", r.TakeOver, "enabled", r.Enabled, "by", by.String())
	if t, err = b.db.FleetTemplate(ctx, by.Scope(), name); err != nil {
		return v, err
	}
	return fleetTemplateView(&t), nil
}

func (b registrationAPI) claimView(ctx context.Context, s access.Scope, g *bootstrap.Budget) (adminapi.Claim, error) {
	c, err := b.reg.Certificate(ctx, s, strings.TrimPrefix(g.Name, bootstrap.ClaimBudget("")))
	return adminapi.Claim{Certificate: c.ID, Holder: c.Holder, Template: g.Template, Status: string(c.Status), Usable: c.Usable(b.now()), NotAfter: c.NotAfter, Budget: budgetView(g)}, err
}

// Claims implements [web.Registration].
func (b registrationAPI) Claims(ctx context.Context, s access.Scope, p web.Page) ([]adminapi.Claim, string, error) {
	rows, next, err := collect(p.After, p.Limit, func(after string, n int) ([]bootstrap.Budget, error) {
		return b.db.Budgets(ctx, s, bootstrap.ClaimBudget(""), after, n)
	}, func(g *bootstrap.Budget) string { return g.Name }, nil)
	if err != nil {
		return nil, "", err
	}
	out := make([]adminapi.Claim, len(rows))
	for i := range rows {
		if out[i], err = b.claimView(ctx, s, &rows[i]); err != nil {
			return nil, "", err
		}
	}
	return out, next, nil
}

// Claim implements [web.Registration].
func (b registrationAPI) Claim(ctx context.Context, s access.Scope, id string) (v adminapi.Claim, err error) {
	g, err := b.db.Budget(ctx, s, bootstrap.ClaimBudget(id))
	if err != nil {
		return v, err
	}
	if v, err = b.claimView(ctx, s, &g); err != nil {
		return v, err
	}
	v.Budget.Open, err = b.db.OpenGrants(ctx, s, g.Name)
	return v, err
}

// claimCSR refuses a claim without a request for its key where the service makes
// no keys (S17).
func (b registrationAPI) claimCSR(text string) ([]byte, error) {
	if text == "" {
		if !b.cfg.Fleet.ServerKeys {
			return nil, bootstrap.ErrClaimKeys.New("Make the claim's key yourself and send a request for it.")
		}
		return nil, nil
	}
	return []byte(text), nil
}

func claimCertificateView(c *bootstrap.ClaimCertificate) adminapi.ClaimCertificate {
	v := adminapi.ClaimCertificate{Id: c.CertificateID, Certificate: c.CertificatePEM, PrivateKey: c.PrivateKeyPEM, Policy: c.Policy, ExpiresAt: c.Expiration}
	for _, der := range c.Chain {
		v.Chain += string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}))
	}
	return v
}

// CreateClaim implements [web.Registration].
func (b registrationAPI) CreateClaim(ctx context.Context, by access.Actor, r adminapi.ClaimRequest) (v adminapi.ClaimCertificate, err error) {
	raw, err := b.claimCSR(r.Csr)
	if err != nil {
		return v, err
	}
	networks, err := bootstrap.ParseNetworks(r.Networks)
	if err != nil {
		return v, err
	}
	c, err := b.claims.CreateClaim(ctx, by, bootstrap.ClaimRequest{Name: r.Name, Template: r.Template, CSR: raw, Most: r.Most, PerMinute: r.PerMinute, Outstanding: r.Outstanding, ExpiresAt: r.ExpiresAt, Networks: networks})
	if err != nil {
		return v, err
	}
	return claimCertificateView(&c), nil
}

// CreateProvisioningClaim implements [web.Registration].
func (b registrationAPI) CreateProvisioningClaim(ctx context.Context, by access.Actor, template string, r adminapi.ProvisioningClaimRequest) (v adminapi.ClaimCertificate, err error) {
	raw, err := b.claimCSR(r.Csr)
	if err != nil {
		return v, err
	}
	c, err := b.claims.CreateProvisioningClaimFor(ctx, by, template, raw)
	if err != nil {
		return v, err
	}
	return claimCertificateView(&c), nil
}

// RegisterInBulk implements [web.Registration]. Trouble of our own ends it; what
// was done before is answered, and the rest may be sent again.
func (b registrationAPI) RegisterInBulk(ctx context.Context, by access.Actor, r adminapi.BulkRequest) (adminapi.BulkAnswer, error) {
	doc, err := b.db.Template(ctx, by.Scope(), r.Template)
	if err == nil && doc.Kind != provisioner.BulkKind {
		err = provisioner.ErrTemplateKind.New("It is of the kind %s, not %s.", doc.Kind, provisioner.BulkKind)
	}
	if err != nil {
		return adminapi.BulkAnswer{}, err
	}
	var in, out bytes.Buffer
	for i, line := range r.Lines {
		if strings.ContainsAny(line, "\r\n") {
			return adminapi.BulkAnswer{}, web.ErrInput.New("lines[%d]: it has a line break in it.", i)
		}
		in.WriteString(line + "\n")
	}
	_, failed := b.bulk.Run(ctx, by, bootstrap.BulkTask{Template: r.Template, Lines: &in, Results: &out})
	v := adminapi.BulkAnswer{Results: []adminapi.BulkResult{}}
	lines := bufio.NewScanner(&out)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var one bootstrap.BulkResult
		if err := json.Unmarshal(lines.Bytes(), &one); err != nil {
			return v, err
		}
		v.Results = append(v.Results, adminapi.BulkResult{Line: one.Line, Thing: one.Thing, CertificateId: one.CertificateID, Certificate: one.CertificatePEM, Code: one.Code, Message: one.Message})
	}
	if len(v.Results) > 0 {
		if failed != nil {
			b.log.WarnContext(ctx, "bulk registration ended early", "template", r.Template, "done", len(v.Results), "of", len(r.Lines), "error", failed)
		}
		failed = nil
	}
	return v, errors.Join(failed, lines.Err())
}
