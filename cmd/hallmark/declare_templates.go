package main

import (
	"cmp"
	"context"
	"encoding/base64"
	"net/netip"
	"slices"

	"hallmark/access"
	"hallmark/ca/profile"
	"hallmark/fleet/registry"
	"hallmark/internal/fault"
	"hallmark/provisioner"
	"hallmark/provisioner/declare"
	"hallmark/provisioner/hook"
)

// The kinds of documents. Each reads and puts as its own route does, but for the
// log: a plan tries every change and takes it back, and a line about that would
// be a lie. What is applied is logged by the planner.

// alone is said in a plan about what reaches far and no second person is asked for:
// the kind's own rule holds, which is a role.
func alone(what string) string {
	return what + " is dangerous and takes effect at once: the role alone decides, as with its own command"
}

// absent turns "there is none" into no error.
func absent[T any](v T, err error) (T, bool, error) {
	if fault.KindOf(err) == fault.NotFound && err != nil {
		return v, false, nil
	}
	return v, err == nil, err
}

// pageOfNames cuts a page out of sorted names.
func pageOfNames(names []string, after string, limit int) ([]string, string, error) {
	slices.Sort(names)
	i, _ := slices.BinarySearch(names, after)
	if i < len(names) && names[i] == after {
		i++
	}
	names = names[i:]
	if len(names) <= limit {
		return names, "", nil
	}
	return names[:limit], names[limit-1], nil
}

// certifies refuses an authority that is not of the tenant's own for devices.
func (b *backend) certifies(s access.Scope, authority string) error {
	a, err := b.ours(s, authority)
	if err == nil && a.Duty != profile.DutyDevice {
		err = provisioner.ErrRegistrationInvalid.New("%s has the duty %s and certifies no devices.", a.Name, a.Duty)
	}
	return err
}

type templateSpec struct {
	Kind string       `json:"kind"`
	Body declare.Body `json:"body"`
}

type templateKind struct{ *backend }

func (templateKind) Name() string        { return "Template" }
func (templateKind) Sees() access.Action { return access.ReadTemplates }

func (templateKind) Decode(raw []byte) (declare.Spec, error) {
	s, err := declare.Decode[templateSpec](raw)
	if err != nil {
		return nil, err
	}
	t := s.(templateSpec)
	if t.Kind == "" {
		t.Kind = provisioner.FirstBootTemplate
	}
	return t, nil
}

func (k templateKind) Read(ctx context.Context, s access.Scope, name string) (declare.Spec, error) {
	d, ok, err := absent(k.db.Template(ctx, s, name))
	if !ok {
		return nil, err
	}
	return templateSpec{d.Kind, declare.NewBody(string(d.Body))}, nil
}

func (k templateKind) List(ctx context.Context, s access.Scope, after string, limit int) ([]string, string, error) {
	rows, err := k.db.Templates(ctx, s)
	if err != nil {
		return nil, "", err
	}
	return pageOfNames(mapped(rows, func(d *provisioner.TemplateDocument) string { return d.Name }), after, limit)
}

func (templateKind) Judge(context.Context, access.Scope, string, declare.Spec, declare.Spec) (declare.Verdict, error) {
	return declare.Verdict{Rights: []access.Action{access.PutTemplate}}, nil
}

func (k templateKind) Put(ctx context.Context, by access.Actor, name string, _, want declare.Spec) (declare.Outcome, error) {
	t := want.(templateSpec)
	return declare.Outcome{}, k.planner.PutTemplate(ctx, provisioner.TemplateDocument{Tenant: by.Tenant, Name: name, Kind: t.Kind, Body: []byte(t.Body.Text())})
}

// ruleSpec is a fleet template's, and with a template a registration's.
type ruleSpec struct {
	Template string `json:"template,omitempty"`
	Hook     string `json:"hook,omitempty"`
	Issuer   string `json:"issuer,omitempty"`
	TakeOver bool   `json:"takeOver,omitempty"`
	Enabled  bool   `json:"enabled"`
}

// Needs implements what waits together; a fleet template has its template's name.
func (r ruleSpec) Needs(name string) []declare.Ref {
	return []declare.Ref{{Kind: "Template", Name: cmp.Or(r.Template, name)}, {Kind: "Hook", Name: r.Hook}}
}

type fleetTemplateKind struct{ *backend }

func (fleetTemplateKind) Name() string        { return "FleetTemplate" }
func (fleetTemplateKind) Sees() access.Action { return access.ReadTemplates }

func (fleetTemplateKind) Decode(raw []byte) (declare.Spec, error) {
	s, err := declare.Decode[ruleSpec](raw)
	if err == nil && s.(ruleSpec).Template != "" {
		err = declare.ErrField.New("spec.template: the document's name is the template.").With("path", "template")
	}
	return s, err
}

func (k fleetTemplateKind) Read(ctx context.Context, s access.Scope, name string) (declare.Spec, error) {
	t, ok, err := absent(k.db.FleetTemplate(ctx, s, name))
	if !ok {
		return nil, err
	}
	return ruleSpec{Hook: t.Hook, Issuer: t.Issuer, TakeOver: t.TakeOver, Enabled: t.Enabled}, nil
}

func (k fleetTemplateKind) List(ctx context.Context, s access.Scope, after string, limit int) ([]string, string, error) {
	rows, err := k.db.FleetTemplates(ctx, s)
	if err != nil {
		return nil, "", err
	}
	return pageOfNames(mapped(rows, func(t *provisioner.FleetTemplate) string { return t.Name }), after, limit)
}

func (fleetTemplateKind) Judge(context.Context, access.Scope, string, declare.Spec, declare.Spec) (declare.Verdict, error) {
	return declare.Verdict{Rights: []access.Action{access.PutFleetTemplate}}, nil
}

func (k fleetTemplateKind) Put(ctx context.Context, by access.Actor, name string, _, want declare.Spec) (declare.Outcome, error) {
	t := want.(ruleSpec)
	if t.Issuer != "" {
		if err := k.certifies(by.Scope(), t.Issuer); err != nil {
			return declare.Outcome{}, err
		}
	}
	return declare.Outcome{}, k.planner.PutFleetTemplate(ctx, k.db, provisioner.FleetTemplate{Tenant: by.Tenant, Name: name, Hook: t.Hook, Issuer: t.Issuer, TakeOver: t.TakeOver, Enabled: t.Enabled})
}

type registrationKind struct{ registrationAPI }

func (registrationKind) Name() string        { return "Registration" }
func (registrationKind) Sees() access.Action { return access.ReadRegistrations }

func (registrationKind) Decode(raw []byte) (declare.Spec, error) {
	s, err := declare.Decode[ruleSpec](raw)
	if err == nil && s.(ruleSpec).Issuer != "" {
		err = declare.ErrField.New("spec.issuer: the document's name is the authority.").With("path", "issuer")
	}
	return s, err
}

// byCA tells whether a registration is the template of a registered CA, which is
// that document's to say.
func (k registrationKind) byCA(ctx context.Context, s access.Scope, name string) (bool, error) {
	_, jitp, err := k.registered(ctx, s, name)
	if err != nil || jitp == "" {
		return false, err
	}
	id := name
	if a, err := k.ours(s, name); err == nil {
		id = registry.CertificateID(a.Cert.Raw)
	}
	_, ok, err := absent(k.reg.CA(ctx, s, id))
	return ok, err
}

func (k registrationKind) Read(ctx context.Context, s access.Scope, name string) (declare.Spec, error) {
	g, ok, err := absent(k.db.Registration(ctx, s, name))
	if !ok {
		return nil, err
	}
	if other, err := k.byCA(ctx, s, name); other || err != nil {
		return nil, err
	}
	return ruleSpec{Template: g.Template, Hook: g.Hook, TakeOver: g.TakeOver, Enabled: g.Enabled}, nil
}

func (k registrationKind) List(ctx context.Context, s access.Scope, after string, limit int) ([]string, string, error) {
	rows, err := k.db.Registrations(ctx, s)
	if err != nil {
		return nil, "", err
	}
	return pageOfNames(mapped(rows, func(g *provisioner.Registration) string { return g.Authority }), after, limit)
}

func (registrationKind) Judge(context.Context, access.Scope, string, declare.Spec, declare.Spec) (declare.Verdict, error) {
	return declare.Verdict{Rights: []access.Action{access.PutRegistration}}, nil
}

func (k registrationKind) Put(ctx context.Context, by access.Actor, name string, _, want declare.Spec) (declare.Outcome, error) {
	g := want.(ruleSpec)
	if err := k.certifies(by.Scope(), name); err != nil {
		return declare.Outcome{}, err
	}
	if other, err := k.byCA(ctx, by.Scope(), name); err != nil || other {
		if other {
			err = provisioner.ErrRegistrationInvalid.New("%s is a registered CA with a template for the door, and has one registration only.", name)
		}
		return declare.Outcome{}, err
	}
	return declare.Outcome{}, k.planner.PutRegistration(ctx, provisioner.Registration{Tenant: by.Tenant, Authority: name, Template: g.Template, Hook: g.Hook, TakeOver: g.TakeOver, Enabled: g.Enabled})
}

// hookSpec has no secret: a new hook gets one, which the answer shows once.
type hookSpec struct {
	URL   string   `json:"url"`
	Allow []string `json:"allow,omitempty"`
	Roots string   `json:"roots,omitempty"` // "" for the configured ones
}

type hookKind struct{ *backend }

func (hookKind) Name() string        { return "Hook" }
func (hookKind) Sees() access.Action { return access.ReadHooks }

// What a hook's own route takes at most.
const (
	maxHookURL   = 2048
	maxHookAllow = 64
	maxHookRoots = 65536
)

func (hookKind) Decode(raw []byte) (declare.Spec, error) {
	s, err := declare.Decode[hookSpec](raw)
	if err != nil {
		return nil, err
	}
	h := s.(hookSpec)
	if len(h.URL) > maxHookURL || len(h.Allow) > maxHookAllow || len(h.Roots) > maxHookRoots {
		return nil, declare.ErrField.New("The URL has more than %d octets, or there are more than %d addresses or %d octets of roots.", maxHookURL, maxHookAllow, maxHookRoots)
	}
	for i, text := range h.Allow {
		p, err := prefix(text)
		if err != nil {
			return nil, declare.ErrField.New("spec.allow: %.64q is neither an address nor a prefix such as 10.1.0.0/16.", text).With("path", "allow")
		}
		h.Allow[i] = p.String()
	}
	return h, nil
}

func (k hookKind) Read(ctx context.Context, s access.Scope, name string) (declare.Spec, error) {
	h, ok, err := absent(k.db.Hook(ctx, s, name))
	if !ok {
		return nil, err
	}
	v := hookSpec{URL: h.URL, Allow: mapped(h.Allow, func(p *netip.Prefix) string { return p.String() }), Roots: string(h.Roots)}
	usual, err := k.hookRoots()
	if v.Roots == string(usual) {
		v.Roots = ""
	}
	return v, err
}

func (k hookKind) List(ctx context.Context, s access.Scope, after string, limit int) ([]string, string, error) {
	rows, err := k.db.Hooks(ctx, s)
	if err != nil {
		return nil, "", err
	}
	return pageOfNames(mapped(rows, func(h *provisioner.HookDocument) string { return h.Name }), after, limit)
}

func (hookKind) Judge(_ context.Context, _ access.Scope, _ string, was, want declare.Spec) (declare.Verdict, error) {
	v := declare.Verdict{Rights: []access.Action{access.PutHook}}
	if was == nil {
		v.Notes = append(v.Notes, "its secret is made when it is applied, and shown then and never again")
	}
	// What a hook answers decides what devices may do. Its target is its URL, the
	// addresses that are dialled for it, and the roots that the server there has to
	// show, so all of a hook.
	v.Dangerous = "a hook's target"
	return v, nil
}

func (k hookKind) Put(ctx context.Context, by access.Actor, name string, _, want declare.Spec) (out declare.Outcome, err error) {
	w := want.(hookSpec)
	h := provisioner.HookDocument{Tenant: by.Tenant, Name: name, URL: w.URL, Roots: []byte(w.Roots)}
	for _, text := range w.Allow {
		h.Allow = append(h.Allow, netip.MustParsePrefix(text)) // Decode wrote it
	}
	have, ok, err := absent(k.db.Hook(ctx, by.Scope(), name))
	if err != nil {
		return out, err
	}
	if h.Secrets = have.Secrets; !ok || len(h.Secrets) == 0 {
		s := newHookSecret()
		h.Secrets, out.Secret = []hook.Secret{s}, base64.StdEncoding.EncodeToString(s.Key)
	}
	if w.Roots == "" {
		if h.Roots, err = k.hookRoots(); err != nil {
			return out, err
		}
	}
	return out, k.planner.PutHook(ctx, h)
}
