package main

import (
	"context"
	"log/slog"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/bootstrap"
	"hallmark/fleet/registry"
	"hallmark/provisioner/declare"
	"hallmark/web"
)

// planAPI answers for documents; package declare makes the plans of them.
type planAPI struct {
	planner *declare.Planner
	follow  func(ctx context.Context) error // of changed authorities; nil in tests
	log     *slog.Logger
}

var _ web.Plans = planAPI{}

func (b *backend) plans() web.Plans {
	// Without a log of its own: a plan tries what it shows.
	quiet := registrationAPI{backend: b, byoc: bootstrap.NewBYOC(bootstrap.BYOCConfig{CA: b.ca, Registry: b.reg, Now: b.now})}
	b.declared = declare.New(declare.Config{
		Kinds: []declare.Kind{hookKind{b}, templateKind{b}, fleetTemplateKind{b}, policyKind{policyAPI{b}}, thingTypeKind{b},
			groupDocKind{b, registry.ThingGroup}, groupDocKind{b, registry.BillingGroup}, registeredCAKind{quiet}, registrationKind{quiet}, orderKind{b}, servingKind{b}, endKind{b}, crossKind{b}, campaignKind{b}, firmwareKind{b}, rootRolloverKind{b}, ownershipKind{b}, budgetKind{quiet}},
		Atomic: b.db.Atomic, Requests: b.db, Gone: b.gone, Log: b.log, Now: b.now,
	})
	return planAPI{follow: b.follow, log: b.log, planner: b.declared}
}

// gone tells whether a principal's access was ended. Names are never removed; who
// is not a principal here has none to lose.
func (b *backend) gone(ctx context.Context, s access.Scope, name string) (bool, error) {
	p, known, err := absent(b.db.Principal(ctx, s, name))
	return known && !p.Live(b.now()), err
}

func declaredFiles(in []adminapi.DocumentFile) []declare.File {
	return mapped(in, func(f *adminapi.DocumentFile) declare.File { return declare.File{Name: f.Name, Text: f.Text} })
}

func planView(p *declare.Plan) adminapi.Plan {
	v := adminapi.Plan{Hash: p.Hash, Applied: p.Applied}
	v.Todo, v.Waiting, v.Unchanged = p.Count()
	v.Items = mapped(p.Items, func(i *declare.Item) adminapi.PlanItem {
		return adminapi.PlanItem{Kind: i.Kind, Name: i.Name, File: i.File, Line: i.Line, Action: i.Action, Notes: i.Notes, Next: i.Next, Waits: i.Waits, Roles: i.Roles, Dangerous: i.Dangerous, After: i.After, Secret: i.Secret,
			Changes: mapped(i.Changes, func(c *declare.Change) adminapi.PlanChange {
				return adminapi.PlanChange{Path: c.Path, Before: c.Before, After: c.After}
			})}
	})
	v.Requests = mapped(p.Requests, func(r *declare.Asked) adminapi.PlanRequestMade {
		return adminapi.PlanRequestMade{Id: r.ID, Documents: r.Documents, Roles: r.Roles, AskedBy: r.AskedBy, ExpiresAt: r.ExpiresAt, Again: r.Again}
	})
	return v
}

// MakePlan implements [web.Plans].
func (a planAPI) MakePlan(ctx context.Context, by access.Actor, r adminapi.PlanRequest) (adminapi.Plan, error) {
	p, err := a.planner.Plan(ctx, by, declaredFiles(r.Files))
	return planView(&p), err
}

// ApplyPlan implements [web.Plans].
func (a planAPI) ApplyPlan(ctx context.Context, by access.Actor, r adminapi.PlanApplyRequest) (adminapi.Plan, error) {
	p, err := a.planner.Apply(ctx, by, declaredFiles(r.Files), r.Plan)
	a.settled(ctx)
	return planView(&p), err
}

// ExportDocuments implements [web.Plans].
func (a planAPI) ExportDocuments(ctx context.Context, by access.Actor, kind string, p web.Page) ([]adminapi.DeclaredDocument, string, error) {
	items, next, err := a.planner.Export(ctx, by, kind, p.After, p.Limit)
	return mapped(items, func(w *declare.Written) adminapi.DeclaredDocument {
		return adminapi.DeclaredDocument{Kind: w.Kind, Name: w.Name, Text: w.Text}
	}), next, err
}
