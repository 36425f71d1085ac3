package main

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"time"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/bootstrap"
	"hallmark/fleet/registry"
	"hallmark/internal/fault"
	"hallmark/provisioner/declare"
)

// errSecondPerson is no failure: what was wanted waits, and the answer says where.
var errSecondPerson = fault.Define(fault.Conflict, "second-person-needed", "One person may not do this alone. It was asked for, and waits for somebody else.", "Somebody else looks at it with hallmark approval show ID, and puts it in force with hallmark approval approve ID.")

// second makes a change that one person may not make alone (S36) a stored request, as
// applying its document does, and says so with [errSecondPerson]. It returns nil if
// one person suffices: then the caller goes on.
func (b *backend) second(ctx context.Context, by access.Actor, k declare.Kind, name string, want declare.Spec) error {
	if b.cfg.OnePerson {
		return nil
	}
	text, err := declare.Write(k, name, want)
	if err != nil {
		return err
	}
	files := []declare.File{{Name: k.Name() + " " + name, Text: text}}
	plan, err := b.declared.Plan(ctx, by, files)
	if err != nil {
		return inner(err)
	}
	if len(plan.Items) != 1 || plan.Items[0].Dangerous == "" || plan.Items[0].Action == declare.Unchanged {
		return nil
	}
	access.RecordFrom(ctx).Note(func(e *access.TrailEntry) { e.Outcome = access.TrailAsked })
	if plan, err = b.declared.Apply(ctx, by, files, plan.Hash); err != nil {
		return inner(err)
	}
	if len(plan.Requests) != 1 {
		return declare.ErrStale.New("")
	}
	r := &plan.Requests[0]
	return errSecondPerson.New("It is %s; request %s, until %s. One of these roles may approve it: %s.", plan.Items[0].Dangerous, r.ID, r.ExpiresAt.Format(time.DateOnly), strings.Join(r.Roles, ", ")).With("request", r.ID).With("roles", r.Roles)
}

// inner gives a document's single mistake as the fault that its own command has.
func inner(err error) error {
	f := fault.From(err)
	found, _ := f.Members["errors"].([]declare.Finding)
	if len(found) != 1 {
		return err
	}
	for _, d := range fault.All() {
		if d.Code == found[0].Code {
			return d.New("%s", strings.TrimSpace(strings.TrimPrefix(found[0].Message, d.What)))
		}
	}
	return err
}

// secondForHook is [backend.second] for a hook's target.
func (b *backend) secondForHook(ctx context.Context, by access.Actor, name string, r adminapi.HookRequest) error {
	allow := []string{}
	for _, text := range r.Allow {
		p, err := prefix(text)
		if err != nil {
			return nil // the hook's own way says what is wrong
		}
		allow = append(allow, p.String())
	}
	return b.second(ctx, by, hookKind{b}, name, hookSpec{URL: r.Url, Allow: allow, Roots: r.Roots})
}

// secondForCA is [backend.second] for another's CA.
func (b registrationAPI) secondForCA(ctx context.Context, by access.Actor, r adminapi.RegisteredCARequest) error {
	if r.Authority != "" || b.cfg.OnePerson {
		return nil
	}
	cert, err := bootstrap.ParseLeaf([]byte(r.Certificate))
	if err != nil {
		return nil
	}
	w := registeredCASpec{Certificate: pemText("CERTIFICATE", cert.Raw), Verification: r.Verification, Mode: r.Mode, Status: string(registry.CAInactive), AutoRegistration: r.AutoRegistration, Template: r.Template}
	if w.Mode == "" {
		w.Mode = string(registry.ModeDefault)
	}
	if r.Active {
		w.Status = string(registry.CAActive)
	}
	name := registry.CertificateID(cert.Raw)
	if have, err := (registeredCAKind{b}).Read(ctx, by.Scope(), name); err != nil || have != nil {
		return nil // it is there already, and is refused by its own way
	}
	return b.second(ctx, by, registeredCAKind{b}, name, w)
}

// secondForCAChange is [backend.second] for what is changed of another's CA.
func (b registrationAPI) secondForCAChange(ctx context.Context, by access.Actor, id string, r adminapi.RegisteredCAChange) error {
	if b.cfg.OnePerson {
		return nil
	}
	have, err := (registeredCAKind{b}).Read(ctx, by.Scope(), id)
	if err != nil || have == nil {
		return nil
	}
	w := have.(registeredCASpec)
	if r.Status != nil {
		w.Status = *r.Status
	}
	if r.AutoRegistration != nil {
		w.AutoRegistration = *r.AutoRegistration
	}
	if r.Template != nil {
		w.Template = *r.Template
	}
	return b.second(ctx, by, registeredCAKind{b}, id, w)
}

// budgetSpec is what a claim certificate or a registered CA may make. What was used
// is counted and not said.
type budgetSpec struct {
	Most        int64    `json:"most"`
	PerMinute   int64    `json:"perMinute,omitempty"`
	Outstanding int64    `json:"outstanding,omitempty"`
	ExpiresAt   string   `json:"expiresAt,omitempty"` // RFC 3339
	Networks    []string `json:"networks,omitempty"`
}

// budgetKind is the documents of budgets, which commands ask with; nothing exports
// them, since claims are not in files.
type budgetKind struct{ registrationAPI }

func (budgetKind) Name() string        { return "Budget" }
func (budgetKind) Sees() access.Action { return access.ReadClaims }

func (budgetKind) Decode(raw []byte) (declare.Spec, error) {
	s, err := declare.Decode[budgetSpec](raw)
	if err != nil {
		return nil, err
	}
	v := s.(budgetSpec)
	if v.ExpiresAt != "" {
		t, err := time.Parse(time.RFC3339, v.ExpiresAt)
		if err != nil {
			return nil, declare.ErrField.New("spec.expiresAt: it is no time such as 2027-01-31T00:00:00Z.").With("path", "expiresAt")
		}
		v.ExpiresAt = t.UTC().Format(time.RFC3339)
	}
	list, err := bootstrap.ParseNetworks(v.Networks)
	if err != nil {
		return nil, err
	}
	v.Networks = nil
	for _, p := range list {
		v.Networks = append(v.Networks, p.String())
	}
	return v, nil
}

func budgetDocument(g *bootstrap.Budget) budgetSpec {
	v := budgetSpec{Most: g.Most, PerMinute: g.PerMinute, Outstanding: g.Outstanding, Networks: mapped(g.Networks, func(p *netip.Prefix) string { return p.String() })}
	if len(v.Networks) == 0 {
		v.Networks = nil
	}
	if !g.ExpiresAt.IsZero() {
		v.ExpiresAt = g.ExpiresAt.UTC().Format(time.RFC3339)
	}
	return v
}

func (k budgetKind) Read(ctx context.Context, s access.Scope, name string) (declare.Spec, error) {
	g, ok, err := absent(k.db.Budget(ctx, s, name))
	if !ok {
		return nil, err
	}
	return budgetDocument(&g), nil
}

func (budgetKind) List(context.Context, access.Scope, string, int) ([]string, string, error) {
	return nil, "", nil
}

// Judge lets one person brake: lower the numbers, end it earlier.
func (budgetKind) Judge(_ context.Context, _ access.Scope, _ string, was, want declare.Spec) (declare.Verdict, error) {
	v := declare.Verdict{Rights: []access.Action{access.PutBudget}}
	if was == nil || !want.(budgetSpec).within(was.(budgetSpec)) {
		v.Dangerous = "what a claim or another's CA may make"
	}
	return v, nil
}

// within tells whether nothing of it is more than it was. 0 is no limit, but for most.
func (b budgetSpec) within(was budgetSpec) bool {
	least := func(b, was int64) bool { return b == was || b > 0 && (was == 0 || b < was) }
	return b.Most <= was.Most && least(b.PerMinute, was.PerMinute) && least(b.Outstanding, was.Outstanding) &&
		(b.ExpiresAt == was.ExpiresAt || b.ExpiresAt != "" && (was.ExpiresAt == "" || b.ExpiresAt < was.ExpiresAt)) && slices.Equal(b.Networks, was.Networks)
}

func (k budgetKind) Put(ctx context.Context, by access.Actor, name string, _, want declare.Spec) (out declare.Outcome, err error) {
	w := want.(budgetSpec)
	g := bootstrap.Budget{Name: name, Most: w.Most, PerMinute: w.PerMinute, Outstanding: w.Outstanding}
	if w.ExpiresAt != "" {
		g.ExpiresAt, _ = time.Parse(time.RFC3339, w.ExpiresAt) // Decode wrote it
	}
	if strings.HasPrefix(name, bootstrap.ClaimBudget("")) {
		g.Networks, err = bootstrap.ParseNetworks(w.Networks)
		g.Networks = append([]netip.Prefix{}, g.Networks...) // the document says all of it
	}
	if err == nil {
		_, err = k.claims.SetBudget(ctx, by, g)
	}
	return out, err
}

// secondForBudget is [backend.second] for a budget that grows.
func (b registrationAPI) secondForBudget(ctx context.Context, by access.Actor, g *bootstrap.Budget) error {
	if b.cfg.OnePerson {
		return nil
	}
	have, ok, err := absent(b.db.Budget(ctx, by.Scope(), g.Name))
	if err != nil || !ok && strings.HasPrefix(g.Name, bootstrap.ClaimBudget("")) {
		return nil
	}
	want := *g
	if want.Networks == nil {
		want.Networks = have.Networks
	}
	return b.second(ctx, by, budgetKind{b}, g.Name, budgetDocument(&want))
}
