package webtest

import (
	"context"
	"strings"
	"time"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/web"
)

// Approval is the fixture's request; it is open and asks for what is dangerous.
const Approval = "20260301-101500-a1b2c3d4"

var _ web.Approvals = (*Fake)(nil)

func (f *Fake) approvals() []adminapi.ApprovalRequest {
	at := time.Date(2026, 3, 1, 10, 15, 0, 0, time.UTC)
	if f.Now != nil {
		at = f.Now().Add(-26 * time.Hour)
	}
	if len(f.Order_) == 0 { // the service has nothing yet
		return nil
	}
	docs := []adminapi.ApprovalDocument{{Kind: "Hook", Name: "erp", Text: "apiVersion: hallmark/v1\nkind: Hook\nmetadata:\n  name: erp\nspec:\n  url: https://erp.example.com/v2\n"},
		{Kind: "FleetTemplate", Name: "lamp-claim", Text: "apiVersion: hallmark/v1\nkind: FleetTemplate\nmetadata:\n  name: lamp-claim\nspec:\n  hook: erp\n"}}
	open := adminapi.ApprovalRequest{Id: Approval, State: "open", Hash: strings.Repeat("e5", 32), Documents: docs, AskedBy: "wei", AskedAt: at, ExpiresAt: at.Add(7 * 24 * time.Hour),
		Plan: adminapi.Plan{Hash: PlanHash, Todo: 2, Items: []adminapi.PlanItem{
			{Kind: "Hook", Name: "erp", File: "Hook erp", Line: 1, Action: "change", Dangerous: "a hook's target", Changes: []adminapi.PlanChange{{Path: "url", Before: `"https://erp.example.com/v1"`, After: `"https://erp.example.com/v2` + Hostile + `"`}}},
			{Kind: "FleetTemplate", Name: "lamp-claim", File: "FleetTemplate lamp-claim", Line: 1, Action: "create", Changes: []adminapi.PlanChange{{Path: "hook", After: `"erp"`}, {Path: "enabled", After: "true"}}},
		}}}
	done := open
	done.Id, done.State, done.Plan, done.DecidedBy, done.DecidedAt, done.Note = "20260222-080000-00000001", "rejected", adminapi.Plan{}, "olga", at.Add(-time.Hour), Hostile+" is not ours"
	done.AskedAt, done.ExpiresAt, done.Documents = at.Add(-7*24*time.Hour), at, docs[:1]
	return []adminapi.ApprovalRequest{open, done}
}

// ApprovalRequests implements [web.Approvals].
func (f *Fake) ApprovalRequests(_ context.Context, by access.Actor, state string, p web.Page) ([]adminapi.ApprovalRequest, string, error) {
	var out []adminapi.ApprovalRequest
	for _, r := range f.approvals() {
		if state == "" || r.State == state {
			r.Plan = adminapi.Plan{}
			out = append(out, r)
		}
	}
	return cut(by.Scope(), out, p)
}

// ApprovalRequest implements [web.Approvals].
func (f *Fake) ApprovalRequest(_ context.Context, by access.Actor, id string) (adminapi.ApprovalRequest, error) {
	for _, r := range f.approvals() {
		if by.Tenant == Tenant && r.Id == id {
			return r, nil
		}
	}
	return adminapi.ApprovalRequest{}, errUnknown.New("")
}

// Approve implements [web.Approvals].
func (f *Fake) Approve(ctx context.Context, by access.Actor, id string, d adminapi.ApprovalDecision) (adminapi.ApprovalRequest, error) {
	f.Calls = append(f.Calls, "approve "+id+" "+d.Plan)
	r, err := f.ApprovalRequest(ctx, by, id)
	if err == nil {
		r.State, r.DecidedBy, r.Plan.Applied, r.Plan.Items[0].Secret = "approved", by.Name, true, "c2VjcmV0"
	}
	return r, err
}

// Reject implements [web.Approvals].
func (f *Fake) Reject(ctx context.Context, by access.Actor, id string, d adminapi.ApprovalRejection) (adminapi.ApprovalRequest, error) {
	f.Calls = append(f.Calls, "reject "+id+" "+d.Note)
	r, err := f.ApprovalRequest(ctx, by, id)
	r.State, r.DecidedBy, r.Note, r.Plan = "rejected", by.Name, d.Note, adminapi.Plan{}
	return r, err
}
