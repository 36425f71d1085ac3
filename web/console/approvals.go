package console

import (
	"slices"

	"hallmark/api/adminapi"
	"hallmark/web"
)

var approvalStates = []string{"open", "approved", "rejected", "expired", "superseded"}

// approvalTone is the colour of a request's state: what waits is what to look at.
func approvalTone(state string) string {
	switch state {
	case "open":
		return "warn"
	case "approved":
		return "good"
	}
	return "plain"
}

// approvalRow is a request with the colour of its state.
type approvalRow struct {
	adminapi.ApprovalRequest
	Tone string
}

// approvals lists what waits for a second person, and what became of it. Approving
// is done where people have keys and a terminal, as with orders.
func (c *console) approvals(v *view) (string, error) {
	v.Title = "Approvals"
	p, err := c.paging(v)
	if err != nil {
		return "", err
	}
	state := v.r.URL.Query().Get("state")
	if state != "" && !slices.Contains(approvalStates, state) {
		return "", web.ErrInput.New("There is no such state.")
	}
	items, next, err := c.Backend.Plans.ApprovalRequests(v.r.Context(), v.Who.Actor(), state, p)
	rows := make([]approvalRow, len(items))
	for i := range items {
		rows[i] = approvalRow{items[i], approvalTone(items[i].State)}
	}
	v.Data = map[string]any{"Items": rows, "Next": c.nextLink(v, next), "State": state, "States": approvalStates}
	return "approvals", err
}

// approval shows one request, and while it is open what it would change now.
func (c *console) approval(v *view) (string, error) {
	r, err := c.Backend.Plans.ApprovalRequest(v.r.Context(), v.Who.Actor(), v.r.PathValue("approval"))
	if err != nil {
		return "", err
	}
	v.Title = "Approval " + r.Id
	v.Data = map[string]any{"Request": r, "Tone": approvalTone(r.State), "Own": r.AskedBy == v.Who.Name}
	return "approval", nil
}
