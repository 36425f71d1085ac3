package web

import (
	"context"

	"hallmark/access"
	"hallmark/api/adminapi"
)

// Approvals is what waits for a second person.
type Approvals interface {
	ApprovalRequests(ctx context.Context, by access.Actor, state string, p Page) (items []adminapi.ApprovalRequest, next string, err error)
	ApprovalRequest(ctx context.Context, by access.Actor, id string) (adminapi.ApprovalRequest, error)
	Approve(ctx context.Context, by access.Actor, id string, r adminapi.ApprovalDecision) (adminapi.ApprovalRequest, error)
	Reject(ctx context.Context, by access.Actor, id string, r adminapi.ApprovalRejection) (adminapi.ApprovalRequest, error)
}

func (p *people) listApprovals(c *call) (any, error) {
	page, err := c.page()
	if err != nil {
		return nil, err
	}
	items, next, err := p.Backend.Plans.ApprovalRequests(c.Request().Context(), c.actor, c.query.Get("state"), page)
	return adminapi.ApprovalRequestPage{Items: list(items), Next: c.next(next)}, err
}

func (p *people) getApproval(c *call) (any, error) {
	return p.Backend.Plans.ApprovalRequest(c.Request().Context(), c.actor, c.Param("approval"))
}

func (p *people) approveApproval(c *call) (any, error) {
	r, err := body[adminapi.ApprovalDecision](c)
	if err != nil {
		return nil, err
	}
	NoteApproval(c.Request().Context(), c.Param("approval"))
	return p.Backend.Plans.Approve(c.Request().Context(), c.actor, c.Param("approval"), r)
}

func (p *people) rejectApproval(c *call) (any, error) {
	r, err := body[adminapi.ApprovalRejection](c)
	if err != nil {
		return nil, err
	}
	NoteApproval(c.Request().Context(), c.Param("approval"))
	return p.Backend.Plans.Reject(c.Request().Context(), c.actor, c.Param("approval"), r)
}
