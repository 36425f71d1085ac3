package provisioner

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"maps"
	"time"

	"hallmark/access"
	"hallmark/fleet"
	"hallmark/internal/fault"
	"hallmark/provisioner/hook"
	"hallmark/provisioner/template"
)

// The kinds of templates besides [FirstBootTemplate].
const (
	FleetKind = "fleet" // fleet provisioning: by claim certificate or by a trusted user
	JITPKind  = "jitp"  // at the first connection of an unknown certificate of a registered CA
	BulkKind  = "bulk"  // a file of parameter sets
)

// The faults of fleet provisioning's templates.
var (
	ErrFleetTemplate = fault.Define(fault.NotFound, "fleet-template-unknown", "There is no such provisioning template, or it is not enabled.", "Enable the template for fleet provisioning.")
	ErrTemplateKind  = fault.Define(fault.Invalid, "provisioning-template-kind", "The template is for another way of registration.", "Store a template of the kind that is needed under another name.")
)

// FleetTemplate lets devices provision themselves with a template.
type FleetTemplate struct {
	Tenant string
	Name   string // of a template of the kind fleet
	Hook   string // "" for none
	Issuer string // authority of the certificates; "" takes the active one of the duty
	// TakeOver lets a thing with a live device go to another one, if the hook
	// allows it too (S22).
	TakeOver  bool
	Enabled   bool
	UpdatedAt time.Time
}

// FleetTemplateStore persists them. Contract: as of [RegistrationStore].
type FleetTemplateStore interface {
	FleetTemplate(ctx context.Context, s access.Scope, name string) (FleetTemplate, error)
	FleetTemplates(ctx context.Context, s access.Scope) ([]FleetTemplate, error)
	PutFleetTemplate(ctx context.Context, t FleetTemplate) error
}

// parseKind parses a template as its kind says.
func parseKind(kind string, body []byte) (*template.Template, error) {
	switch kind {
	case FirstBootTemplate:
		return ParseTemplate(body)
	case FleetKind:
		return template.Parse(body, template.Fleet)
	case JITPKind:
		return template.Parse(body, template.JITP)
	case BulkKind:
		return template.Parse(body, template.Bulk)
	}
	return nil, ErrRegistrationInvalid.New("There is no kind of template %.40q.", kind)
}

// document finds a template of one kind.
func (p *Planner) document(ctx context.Context, s access.Scope, name, kind string) (*template.Template, error) {
	doc, err := p.cfg.Store.Template(ctx, s, name)
	if err != nil {
		return nil, err
	}
	if doc.Kind != kind {
		return nil, ErrTemplateKind.New("It is of the kind %s, not %s.", doc.Kind, kind)
	}
	return p.template(doc.Kind, doc.Body)
}

// TemplateARN is a template's name as hooks see it.
func TemplateARN(tenant, name string) string {
	return "arn:aws:iot::" + tenant + ":provisioningtemplate/" + name
}

// ask calls a hook about a certificate. Every outcome but its signed yes is an
// error.
func (p *Planner) ask(ctx context.Context, s access.Scope, name, template string, c *x509.Certificate, claim, client string, parameters map[string]string) (hook.Decision, error) {
	caller, err := p.caller(ctx, s, name)
	if err != nil {
		return hook.Decision{}, err
	}
	d, err := caller.Call(ctx, hook.Request{
		ClaimCertificateID: claim, CertificateID: certificateID(c),
		CertificatePEM: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})),
		TemplateARN:    TemplateARN(s.Tenant, template), ClientID: client, Parameters: parameters,
	})
	if err != nil {
		return d, err
	}
	if err := checkNames(d.Overrides, "hook"); err != nil {
		return hook.Decision{}, err
	}
	return d, nil
}

// ClaimInput is what the plan of a claim is made from.
type ClaimInput struct {
	Tenant      string
	Template    FleetTemplate
	Certificate *x509.Certificate // the new one, which waits to be activated
	ClaimID     string            // id of the claim certificate
	ClientID    string
	Parameters  map[string]string // from the device
}

// PlanClaim asks the template's hook and evaluates the template. Like
// [Planner.Plan] it runs outside of any transaction.
func (p *Planner) PlanClaim(ctx context.Context, in ClaimInput) (Plan, error) {
	scope := access.Scope{Tenant: in.Tenant}
	tmpl, err := p.document(ctx, scope, in.Template.Name, FleetKind)
	if err != nil {
		return Plan{}, err
	}
	if err := checkNames(in.Parameters, "device"); err != nil {
		return Plan{}, err
	}
	var d hook.Decision
	if in.Template.Hook != "" {
		if d, err = p.ask(ctx, scope, in.Template.Hook, in.Template.Name, in.Certificate, in.ClaimID, in.ClientID, in.Parameters); err != nil {
			return Plan{}, err
		}
	}
	result, err := tmpl.Evaluate(template.Input{Service: map[string]string{template.CertificateID: certificateID(in.Certificate)}, Device: in.Parameters, Overrides: d.Overrides})
	if err != nil {
		return Plan{}, err
	}
	return planOf("", in.Template.Name, result, in.Template.TakeOver && d.Allow)
}

// PlanJITP evaluates the template of a registered CA for a certificate that was
// seen at the door. ErrRegistrationNone says that the CA has no template, so that
// the certificate is parked. There is no hook and nothing comes from the device.
func (p *Planner) PlanJITP(ctx context.Context, in PlanInput) (Plan, error) {
	scope := access.Scope{Tenant: in.Tenant}
	reg, err := p.cfg.Store.Registration(ctx, scope, in.Authority)
	if err != nil && fault.KindOf(err) == fault.NotFound {
		return Plan{}, ErrRegistrationNone.New("")
	}
	if err != nil {
		return Plan{}, err
	}
	if !reg.Enabled {
		return Plan{}, ErrFleetTemplate.New("The CA's registration is switched off.")
	}
	tmpl, err := p.document(ctx, scope, reg.Template, JITPKind)
	if err != nil {
		return Plan{}, err
	}
	if err := unambiguous(in.Certificate, tmpl.Parameters()); err != nil {
		return Plan{}, err
	}
	service := map[string]string{template.CertificateID: certificateID(in.Certificate)}
	for name, value := range subjectParameters(in.Certificate) {
		service[wireSubject+name[len(innerSubject):]] = value
	}
	result, err := tmpl.Evaluate(template.Input{Service: service})
	if err != nil {
		return Plan{}, err
	}
	return planOf(in.Authority, reg.Template, result, false)
}

// PlanBulk evaluates a bulk template for one set of parameters; which certificate
// it is about is in the plan.
func (p *Planner) PlanBulk(ctx context.Context, s access.Scope, name string, parameters map[string]string) (Plan, error) {
	tmpl, err := p.document(ctx, s, name, BulkKind)
	if err != nil {
		return Plan{}, err
	}
	result, err := tmpl.Evaluate(template.Input{Device: parameters})
	if err != nil {
		return Plan{}, err
	}
	return planOf("", name, result, false)
}

func planOf(authority, name string, r *template.Result, takeOver bool) (Plan, error) {
	if _, err := fleet.ParseThingName(r.Thing.Name); err != nil {
		return Plan{}, ErrPlanThing.New("")
	}
	return Plan{Authority: authority, Template: name, Thing: r.Thing, Policies: r.Policies, Configuration: maps.Clone(r.DeviceConfiguration),
		Active: r.Certificate.Active, TakeOver: takeOver, Certificate: r.Certificate}, nil
}

// PutFleetTemplate stores a fleet template whose template and hook exist. store
// is where it goes; the templates and hooks are the planner's.
func (p *Planner) PutFleetTemplate(ctx context.Context, store FleetTemplateStore, t FleetTemplate) error {
	scope := access.Scope{Tenant: t.Tenant}
	_, err := p.document(ctx, scope, t.Name, FleetKind)
	if err == nil && t.Hook != "" {
		_, err = p.cfg.Store.Hook(ctx, scope, t.Hook)
	}
	if err := usable(err, t.TakeOver, t.Hook); err != nil {
		return err
	}
	t.UpdatedAt = p.now()
	return store.PutFleetTemplate(ctx, t)
}
