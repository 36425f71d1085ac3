package console

import (
	"hallmark/access"
	"hallmark/api/adminapi"
)

func (c *console) revocationPlans(v *view) (string, error) {
	v.Title = "Revocation plans"
	p, err := c.paging(v)
	if err != nil {
		return "", err
	}
	items, next, err := c.Backend.Revocations.RevocationPlans(v.r.Context(), v.scope, p)
	rows := make([]planRow, len(items))
	for i := range items {
		rows[i] = planRowOf(items[i])
	}
	v.Data = map[string]any{"Items": rows, "Next": c.nextLink(v, next)}
	return "revocation-plans", err
}

// planRow is a plan with the stage that it is in, or was in last.
type planRow struct {
	adminapi.RevocationPlan
	Last *adminapi.RevocationPlanReport
}

func planRowOf(p adminapi.RevocationPlan) planRow {
	r := planRow{RevocationPlan: p}
	if n := len(p.Reports); n > 0 {
		r.Last = &p.Reports[n-1]
	}
	return r
}

// Bar is how far the last stage came.
func (r planRow) Bar() progressView {
	n := r.Last
	all := r.Counts.Certificates
	out := progressView{Done: n.Done, All: all, Counts: []piece{
		{Title: "Changed", Tone: "good", N: n.Changed},
		{Title: "Were so", Tone: "ended", N: n.Already},
		{Title: "Failed", Tone: "bad", N: n.Failed},
		{Title: "To do", Tone: "waits", N: max(all-n.Done, 0)},
	}}
	var before int64
	for _, p := range out.Counts {
		if p.N > 0 && all > 0 {
			p.X, p.Width = share(before, all), share(p.N, all)
			out.Bar = append(out.Bar, p)
			before += p.N
		}
	}
	return out
}

func (c *console) revocationPlan(v *view) (string, error) {
	id := v.r.PathValue("plan")
	plan, err := c.Backend.Revocations.RevocationPlan(v.r.Context(), v.scope, id)
	if err != nil {
		return "", err
	}
	v.Title = "Revocation plan " + plan.Id
	p, err := c.paging(v)
	if err != nil {
		return "", err
	}
	items, next, err := c.Backend.Revocations.PlannedCertificates(v.r.Context(), v.scope, id, p)
	approved := map[string]bool{}
	for _, a := range plan.Approvals {
		approved[a.Stage] = true
	}
	v.Data = map[string]any{"Plan": planRowOf(plan), "Items": items, "Next": c.nextLink(v, next), "See": v.sees(), "Approved": approved, "Acts": v.can(access.RunRevocation)}
	return "revocation-plan", err
}
