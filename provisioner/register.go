package provisioner

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"hallmark/access"
	"hallmark/fleet"
	"hallmark/internal/fault"
	"hallmark/provisioner/hook"
	"hallmark/provisioner/template"
)

// The faults of planning a first boot.
var (
	ErrRegistrationNone    = fault.Define(fault.Forbidden, "registration-none", "The authority of this certificate registers no devices.", "Set a registration for the authority, with a template.")
	ErrRegistrationInvalid = fault.Define(fault.Invalid, "registration-invalid", "The registration, template or hook is not usable.", "Correct the named field.")
	ErrPlanThing           = fault.Define(fault.Invalid, "plan-thing", "The template gives no thing that a certificate can name.", "Give the template a thing whose name has at most 64 characters.")
	ErrParameterReserved   = fault.Define(fault.Invalid, "parameter-reserved", "A parameter has a name that only the service gives.", "Leave out parameters whose names begin with AWS:: or Certificate::")
)

// Registration says how the birth certificates of an authority become things.
type Registration struct {
	Tenant    string
	Authority string
	Template  string
	Hook      string // "" for none
	// TakeOver lets a thing with a live device go to another one, if the hook
	// allows it too (S22).
	TakeOver  bool
	Enabled   bool
	UpdatedAt time.Time
}

// TemplateDocument is a stored provisioning template.
type TemplateDocument struct {
	Tenant    string
	Name      string
	Kind      string // first-boot, fleet, jitp or bulk
	Body      []byte
	UpdatedAt time.Time
}

// FirstBootTemplate is the kind of the templates that a registration names.
const FirstBootTemplate = "first-boot"

// HookDocument is a stored webhook.
type HookDocument struct {
	Tenant    string
	Name      string
	URL       string
	Allow     []netip.Prefix // empty refuses every address (A58)
	Secrets   []hook.Secret
	Roots     []byte // PEM; none means the system's
	UpdatedAt time.Time
}

// RegistrationStore persists registrations, templates and hooks. Contract:
// look-ups see one tenant and return a NotFound fault; Put inserts or replaces;
// secrets are sealed and every row is protected against other writers (S32, S39).
type RegistrationStore interface {
	Registration(ctx context.Context, s access.Scope, authority string) (Registration, error)
	Registrations(ctx context.Context, s access.Scope) ([]Registration, error)
	PutRegistration(ctx context.Context, r Registration) error
	Template(ctx context.Context, s access.Scope, name string) (TemplateDocument, error)
	Templates(ctx context.Context, s access.Scope) ([]TemplateDocument, error)
	PutTemplate(ctx context.Context, t TemplateDocument) error
	Hook(ctx context.Context, s access.Scope, name string) (HookDocument, error)
	Hooks(ctx context.Context, s access.Scope) ([]HookDocument, error)
	PutHook(ctx context.Context, h HookDocument) error
}

// PlannerConfig makes a Planner.
type PlannerConfig struct {
	Store RegistrationStore
	// HookTimeout bounds a hook's answer; 0 means 5 s, which is also the most.
	HookTimeout time.Duration
	Log         *slog.Logger
	Now         func() time.Time
}

// Planner turns a birth certificate into a plan. It is safe for concurrent use.
type Planner struct {
	cfg PlannerConfig
	now func() time.Time

	mu        sync.Mutex
	templates map[[32]byte]*template.Template // by the body's hash
	callers   map[string]*cachedCaller        // by tenant and name; they hold connections and the breaker
}

type cachedCaller struct {
	at     time.Time // of the document
	caller *hook.Caller
}

// maxPlanned bounds each cache; an installation has a few templates and hooks.
const maxPlanned = 256

// NewPlanner makes a Planner.
func NewPlanner(cfg PlannerConfig) *Planner {
	p := &Planner{cfg: cfg, now: cfg.Now, templates: map[[32]byte]*template.Template{}, callers: map[string]*cachedCaller{}}
	if p.now == nil {
		p.now = time.Now
	}
	if p.cfg.Log == nil {
		p.cfg.Log = slog.New(slog.DiscardHandler)
	}
	return p
}

// PlanInput is what a plan is made from.
type PlanInput struct {
	Tenant      string
	Authority   string            // that issued the certificate
	Certificate *x509.Certificate // the birth certificate, verified
	Parameters  map[string]string // from the device
	ClaimID     string            // id of the claim certificate, if there is one
	ClientID    string            // who asks, in the hook's words
	// Template takes the place of the authority's registration, and no hook is asked:
	// for a device that the tenant accepted from another one.
	Template string
}

// Plan is what a first boot comes to. It has changed nothing yet.
type Plan struct {
	Authority     string
	Template      string
	Thing         template.Thing
	Policies      []template.Policy
	Configuration map[string]string // never nil
	Active        bool              // the status that the certificate gets
	TakeOver      bool              // registration and hook allow a thing with a live device (S22)
	Certificate   template.Certificate
}

// Plan looks the registration up, asks the hook and evaluates the template. It
// runs outside of any transaction: the hook may take seconds (S20).
func (p *Planner) Plan(ctx context.Context, in PlanInput) (Plan, error) {
	scope := access.Scope{Tenant: in.Tenant}
	// 1. What the authority is registered for.
	reg := Registration{Template: in.Template, Enabled: true}
	var err error
	if in.Template == "" {
		reg, err = p.cfg.Store.Registration(ctx, scope, in.Authority)
	}
	if err != nil && fault.KindOf(err) == fault.NotFound || err == nil && !reg.Enabled {
		return Plan{}, ErrRegistrationNone.New("")
	}
	if err != nil {
		return Plan{}, err
	}
	doc, err := p.cfg.Store.Template(ctx, scope, reg.Template)
	if err != nil {
		return Plan{}, err
	}
	if doc.Kind != FirstBootTemplate {
		return Plan{}, ErrRegistrationNone.New("Its template is of the kind %s.", doc.Kind)
	}
	tmpl, err := p.template(doc.Kind, doc.Body)
	if err != nil {
		return Plan{}, err
	}
	// 2. The device's parameters, before a hook could be led by them (S21).
	if err := checkNames(in.Parameters, "device"); err != nil {
		return Plan{}, err
	}
	// 3. The hook. Every outcome but its signed yes ends here.
	id := certificateID(in.Certificate)
	var decision hook.Decision
	if reg.Hook != "" {
		if decision, err = p.ask(ctx, scope, reg.Hook, reg.Template, in.Certificate, in.ClaimID, in.ClientID, in.Parameters); err != nil {
			return Plan{}, err
		}
	}
	// 4. The template.
	if err := unambiguous(in.Certificate, tmpl.Parameters()); err != nil {
		return Plan{}, err
	}
	overrides := subjectParameters(in.Certificate)
	maps.Copy(overrides, decision.Overrides)
	result, err := tmpl.Evaluate(template.Input{Service: map[string]string{template.CertificateID: id}, Device: in.Parameters, Overrides: overrides})
	if err != nil {
		return Plan{}, err
	}
	if _, err := fleet.ParseThingName(result.Thing.Name); err != nil || len(result.Thing.Name) > maxCertifiedName {
		return Plan{}, ErrPlanThing.New("")
	}
	return Plan{
		Authority: in.Authority, Template: reg.Template, Thing: result.Thing, Policies: result.Policies, Configuration: result.DeviceConfiguration,
		Active: result.Certificate.Active, TakeOver: reg.TakeOver && decision.Allow,
	}, nil
}

// FirstBootGroups are the groups of a template, which has to be of the kind first-boot;
// see [template.Template.Groups].
func (p *Planner) FirstBootGroups(ctx context.Context, s access.Scope, name string) (named []string, more int, err error) {
	t, err := p.document(ctx, s, name, FirstBootTemplate)
	if err != nil {
		return nil, 0, err
	}
	named, more = t.Groups()
	return named, more, nil
}

// maxCertifiedName is ub-common-name (RFC 5280, Appendix A.1): the operational
// certificate has the thing's name as its common name.
const maxCertifiedName = 64

// certificateID is the id of a certificate on the wire.
func certificateID(c *x509.Certificate) string {
	sum := sha256.Sum256(c.Raw)
	return hex.EncodeToString(sum[:])
}

// Subject parameters. The language's fleet templates, which alone have a device
// configuration and parameters of the device, know of the service's parameters
// only the certificate's id. So that a first-boot template can refer to the
// subject as JITP templates do, its references are renamed before it is parsed,
// and the values come in as overrides under names that nobody else may give.
const (
	wireSubject  = "AWS::IoT::Certificate::"
	innerSubject = "Certificate::"
)

var subjectAttributes = []struct {
	name string
	oid  asn1.ObjectIdentifier
}{
	{"Country", asn1.ObjectIdentifier{2, 5, 4, 6}},
	{"Organization", asn1.ObjectIdentifier{2, 5, 4, 10}},
	{"OrganizationalUnit", asn1.ObjectIdentifier{2, 5, 4, 11}},
	{"DistinguishedNameQualifier", asn1.ObjectIdentifier{2, 5, 4, 46}},
	{"StateName", asn1.ObjectIdentifier{2, 5, 4, 8}},
	{"CommonName", asn1.ObjectIdentifier{2, 5, 4, 3}},
	{"SerialNumber", asn1.ObjectIdentifier{2, 5, 4, 5}}, // of the subject, not of the certificate
}

var renameSubject = func() *strings.Replacer {
	var pairs []string
	for _, a := range subjectAttributes {
		pairs = append(pairs, wireSubject+a.name, innerSubject+a.name)
	}
	return strings.NewReplacer(pairs...)
}()

// subjectParameters reads the subject; one that it lacks is not given. That none
// which is asked for stands there twice is [unambiguous]'s to see.
func subjectParameters(c *x509.Certificate) map[string]string {
	out := map[string]string{}
	for _, a := range subjectAttributes {
		for _, n := range c.Subject.Names {
			if text, ok := n.Value.(string); ok && n.Type.Equal(a.oid) {
				out[innerSubject+a.name] = text
				break
			}
		}
	}
	return out
}

// unambiguous refuses a subject that has an attribute twice, or not as text, where
// the template asks for it: which one identifies the device nobody can know (A54).
func unambiguous(c *x509.Certificate, asked []template.Parameter) error {
	for _, a := range subjectAttributes {
		if !slices.ContainsFunc(asked, func(p template.Parameter) bool { return p.Name == wireSubject+a.name || p.Name == innerSubject+a.name }) {
			continue
		}
		n := 0
		for _, have := range c.Subject.Names {
			if have.Type.Equal(a.oid) {
				n++
			}
		}
		if n > 1 {
			return template.ErrParameterInvalid.New("The subject has the attribute %s %d times.", a.name, n)
		}
	}
	return nil
}

// checkNames refuses parameters that only the service gives (S21).
func checkNames(parameters map[string]string, who string) error {
	for name := range parameters {
		for _, prefix := range []string{"AWS::", innerSubject} {
			if len(name) >= len(prefix) && strings.EqualFold(name[:len(prefix)], prefix) {
				return ErrParameterReserved.New("The %s gave %q.", who, name).With("parameter", name)
			}
		}
	}
	return nil
}

// ParseTemplate checks a first-boot template.
func ParseTemplate(body []byte) (*template.Template, error) {
	if len(body) > template.MaxBody {
		return nil, template.ErrTooLarge.New("It has %d bytes, %d are allowed.", len(body), template.MaxBody)
	}
	return template.Parse([]byte(renameSubject.Replace(string(body))), template.Fleet)
}

func (p *Planner) template(kind string, body []byte) (*template.Template, error) {
	key := sha256.Sum256(append([]byte(kind+"\x00"), body...))
	p.mu.Lock()
	t := p.templates[key]
	p.mu.Unlock()
	if t != nil {
		return t, nil
	}
	t, err := parseKind(kind, body)
	if err != nil {
		return nil, err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.templates) >= maxPlanned {
		clear(p.templates)
	}
	p.templates[key] = t
	return t, nil
}

// caller finds the hook's caller, or makes one when the document changed.
func (p *Planner) caller(ctx context.Context, s access.Scope, name string) (*hook.Caller, error) {
	doc, err := p.cfg.Store.Hook(ctx, s, name)
	if err != nil {
		return nil, err
	}
	key := s.Tenant + "\x00" + name
	p.mu.Lock()
	defer p.mu.Unlock()
	if c := p.callers[key]; c != nil && c.at.Equal(doc.UpdatedAt) {
		return c.caller, nil
	}
	caller, err := p.newCaller(doc)
	if err != nil {
		return nil, err
	}
	if old := p.callers[key]; old != nil {
		old.caller.Close()
	} else if len(p.callers) >= maxPlanned {
		for k, c := range p.callers {
			c.caller.Close()
			delete(p.callers, k)
			break
		}
	}
	p.callers[key] = &cachedCaller{doc.UpdatedAt, caller}
	return caller, nil
}

func (p *Planner) newCaller(doc HookDocument) (*hook.Caller, error) {
	cfg := hook.Config{Name: doc.Name, URL: doc.URL, Secrets: doc.Secrets, AllowAddresses: doc.Allow, Timeout: p.cfg.HookTimeout, Now: p.cfg.Now, Log: p.cfg.Log}
	if len(doc.Roots) > 0 {
		cfg.RootCAs = x509.NewCertPool()
		if !cfg.RootCAs.AppendCertsFromPEM(doc.Roots) {
			return nil, ErrRegistrationInvalid.New("The roots of the hook %s are not certificates in PEM.", doc.Name)
		}
	}
	return hook.New(cfg)
}

// Close ends the hooks' idle connections.
func (p *Planner) Close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, c := range p.callers {
		c.caller.Close()
	}
	clear(p.callers)
}

// PutTemplate stores a template that parses.
func (p *Planner) PutTemplate(ctx context.Context, t TemplateDocument) error {
	if !idPattern.MatchString(t.Name) {
		return ErrRegistrationInvalid.New("The template's name %q is not 1 to 64 characters of A-Z a-z 0-9 . _ -", t.Name)
	}
	if t.Kind == "" {
		t.Kind = FirstBootTemplate
	}
	if _, err := parseKind(t.Kind, t.Body); err != nil {
		return err
	}
	t.UpdatedAt = p.now()
	return p.cfg.Store.PutTemplate(ctx, t)
}

// PutHook stores a hook that could be called.
func (p *Planner) PutHook(ctx context.Context, h HookDocument) error {
	if !idPattern.MatchString(h.Name) {
		return ErrRegistrationInvalid.New("The hook's name %q is not 1 to 64 characters of A-Z a-z 0-9 . _ -", h.Name)
	}
	h.UpdatedAt = p.now()
	c, err := p.newCaller(h)
	if err != nil {
		return err
	}
	c.Close()
	return p.cfg.Store.PutHook(ctx, h)
}

// PutRegistration stores a registration whose template and hook exist. Whether
// the authority is the tenant's is for the caller to know, who has the CA.
func (p *Planner) PutRegistration(ctx context.Context, r Registration) error {
	scope := access.Scope{Tenant: r.Tenant}
	_, err := p.cfg.Store.Template(ctx, scope, r.Template)
	if err == nil && r.Hook != "" {
		_, err = p.cfg.Store.Hook(ctx, scope, r.Hook)
	}
	if err := usable(err, r.TakeOver, r.Hook); err != nil {
		return err
	}
	r.UpdatedAt = p.now()
	return p.cfg.Store.PutRegistration(ctx, r)
}

// usable judges a registration by whether what it names was found.
func usable(err error, takeOver bool, hook string) error {
	var f *fault.Fault
	switch {
	case errors.As(err, &f) && f.Kind == fault.NotFound:
		return ErrRegistrationInvalid.Wrap(err, "%s", f.Detail)
	case err != nil:
		return err
	case takeOver && hook == "":
		return ErrRegistrationInvalid.New("A take-over needs a hook that allows each one (S22).")
	}
	return nil
}
