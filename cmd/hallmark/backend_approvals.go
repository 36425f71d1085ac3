package main

import (
	"context"
	"fmt"
	"strings"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/internal/fault"
	"hallmark/provisioner/declare"
	"hallmark/web"
)

func approvalView(r *declare.Request) adminapi.ApprovalRequest {
	return adminapi.ApprovalRequest{Id: r.ID, State: string(r.State), Hash: r.Hash, AskedBy: r.AskedBy, AskedAt: r.AskedAt, ExpiresAt: r.ExpiresAt,
		DecidedBy: r.Decision.By, DecidedAt: r.Decision.At, DecidedPlan: r.Decision.Plan, Note: r.Decision.Note,
		Documents: mapped(r.Documents, func(w *declare.Wanted) adminapi.ApprovalDocument {
			return adminapi.ApprovalDocument{Kind: w.Kind, Name: w.Name, Text: w.Text}
		})}
}

// ApprovalRequests implements [web.Approvals].
func (a planAPI) ApprovalRequests(ctx context.Context, by access.Actor, state string, p web.Page) ([]adminapi.ApprovalRequest, string, error) {
	var keep func(*declare.Request) bool
	if state != "" {
		keep = func(r *declare.Request) bool { return string(r.State) == state }
	}
	rows, next, err := collect(p.After, p.Limit, func(before string, n int) ([]declare.Request, error) {
		return a.planner.Requests(ctx, by.Scope(), before, n)
	}, func(r *declare.Request) string { return r.ID }, keep)
	return mapped(rows, func(r *declare.Request) adminapi.ApprovalRequest {
		for i := range r.Documents {
			r.Documents[i].Text = ""
		}
		return approvalView(r)
	}), next, err
}

// ApprovalRequest implements [web.Approvals].
func (a planAPI) ApprovalRequest(ctx context.Context, by access.Actor, id string) (adminapi.ApprovalRequest, error) {
	r, plan, refusal, err := a.planner.Request(ctx, by, id)
	v := approvalView(&r)
	switch {
	case err != nil:
		return adminapi.ApprovalRequest{}, err
	case refusal != nil:
		v.Refused = refusals(refusal)
	case r.State == declare.RequestOpen:
		v.Plan = planView(&plan)
	}
	return v, nil
}

// refusals says every mistake in one line.
func refusals(err error) (out []string) {
	f := fault.From(err)
	found, _ := f.Members["errors"].([]declare.Finding)
	for _, e := range found {
		out = append(out, fmt.Sprintf("%s %s: %s (%s)", e.Kind, e.Name, e.Message, e.Code))
	}
	if len(found) == 0 {
		out = append(out, strings.TrimSpace(f.What+" "+f.Detail)+" ("+f.Code+")")
	}
	return out
}

// Approve implements [web.Approvals].
func (a planAPI) Approve(ctx context.Context, by access.Actor, id string, d adminapi.ApprovalDecision) (adminapi.ApprovalRequest, error) {
	r, plan, err := a.planner.Approve(ctx, by, id, d.Plan)
	if err != nil {
		return adminapi.ApprovalRequest{}, err
	}
	a.settled(ctx)
	v := approvalView(&r)
	v.Plan = planView(&plan)
	return v, nil
}

// Reject implements [web.Approvals].
func (a planAPI) Reject(ctx context.Context, by access.Actor, id string, d adminapi.ApprovalRejection) (adminapi.ApprovalRequest, error) {
	r, err := a.planner.Reject(ctx, by, id, d.Note)
	if err != nil {
		return adminapi.ApprovalRequest{}, err
	}
	return approvalView(&r), nil
}
