package webtest

import (
	"context"
	"strings"
	"time"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/web"
)

// PlanHash is the hash of the fixture's plan.
var PlanHash = strings.Repeat("a1", 32)

var _ web.Plans = (*Fake)(nil)

func (f *Fake) plan(files int) adminapi.Plan {
	return adminapi.Plan{Hash: PlanHash, Todo: 1, Waiting: 1, Unchanged: files, Items: []adminapi.PlanItem{
		{Kind: "Policy", Name: Policy, File: "a.yaml", Line: 3, Action: "change", Changes: []adminapi.PlanChange{{Path: "document.Statement[0].Effect", Before: `"Allow"`, After: `"Deny"`}, {Path: "document.Id", After: `"x"`}}, Notes: []string{"it is attached to groups"}},
		{Kind: "Hook", Name: "erp", File: "b.yaml", Line: 1, Action: "create", Waits: "hook.put", Roles: []string{"platform"}, Dangerous: "a hook's target"},
		{Kind: "Order", Name: Draft, File: "b.yaml", Line: 9, Action: "unchanged", Next: []string{"hallmark order approve " + Draft + " --key URI"}},
	}}
}

// MakePlan implements [web.Plans].
func (f *Fake) MakePlan(_ context.Context, _ access.Actor, r adminapi.PlanRequest) (adminapi.Plan, error) {
	f.Calls = append(f.Calls, "plan "+r.Files[0].Name)
	return f.plan(len(r.Files)), nil
}

// ApplyPlan implements [web.Plans].
func (f *Fake) ApplyPlan(_ context.Context, _ access.Actor, r adminapi.PlanApplyRequest) (adminapi.Plan, error) {
	f.Calls = append(f.Calls, "apply "+r.Plan)
	p := f.plan(len(r.Files))
	p.Applied = true
	p.Requests = []adminapi.PlanRequestMade{{Id: Approval, Documents: 1, Roles: []string{"platform"}, AskedBy: "wei", ExpiresAt: time.Date(2026, 3, 8, 10, 15, 0, 0, time.UTC)}}
	return p, nil
}

// ExportDocuments implements [web.Plans].
func (f *Fake) ExportDocuments(_ context.Context, by access.Actor, kind string, p web.Page) ([]adminapi.DeclaredDocument, string, error) {
	var all []adminapi.DeclaredDocument
	if kind == "Policy" {
		for _, name := range []string{Policy, Policy + "-2"} {
			all = append(all, adminapi.DeclaredDocument{Kind: kind, Name: name, Text: "apiVersion: hallmark/v1\nkind: Policy\nmetadata:\n  name: " + name + "\nspec: {}\n"})
		}
	}
	return cut(by.Scope(), all, p)
}
