package main

import (
	"context"
	"encoding/hex"
	"slices"
	"strconv"
	"strings"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/crl"
	"hallmark/web"
)

// revocationAPI answers for revocation in bulk.
type revocationAPI struct{ *backend }

var _ web.Revocations = revocationAPI{}

func revocationPlanView(p *crl.BlastPlan) adminapi.RevocationPlan {
	q, n := &p.Query, &p.Counts
	rotate, revoke, release := p.Hash(crl.StageRotate), p.Hash(crl.StageRevoke), p.Hash(crl.StageRelease)
	v := adminapi.RevocationPlan{
		Id: p.ID, State: string(p.State), Stage: string(p.Progress.Stage), Station: q.Station, Order: q.Order, Operator: q.Operator, Authority: q.Authority, Tool: q.Tool, Key: q.Key, From: q.From, To: q.To,
		Reason: p.Reason.String(), Note: p.Note, Reenrol: p.Reenrol, PerSecond: p.PerSecond, CreatedBy: p.CreatedBy, CreatedAt: p.CreatedAt, ChangedAt: p.Progress.ChangedAt, Members: p.Members,
		RevokeHash: hex.EncodeToString(revoke[:]), ReleaseHash: hex.EncodeToString(release[:]), Problem: p.Progress.Problem,
		Counts: adminapi.RevocationPlanCounts{Certificates: n.Certificates, Devices: n.Devices, Inherited: n.Inherited, Unissued: n.Unissued, Expired: n.Expired, Revoked: n.Revoked, Held: n.Held,
			Live: n.Live, InStock: n.InStock, SpareSlot: n.SpareSlot},
		Approvals: []adminapi.RevocationPlanApproval{}, Reports: []adminapi.RevocationPlanReport{},
	}
	if o := p.Rotate; o != nil {
		v.Rotate, v.RotateTimeoutSeconds, v.RotateSoakSeconds, v.RotateHash = true, o.Timeout, o.Soak, hex.EncodeToString(rotate[:])
	}
	for stage, a := range p.Progress.Approvals {
		v.Approvals = append(v.Approvals, adminapi.RevocationPlanApproval{Stage: string(stage), By: a.By, At: a.At})
	}
	slices.SortFunc(v.Approvals, func(a, b adminapi.RevocationPlanApproval) int { return strings.Compare(a.Stage, b.Stage) })
	for _, r := range p.Progress.Reports {
		v.Reports = append(v.Reports, adminapi.RevocationPlanReport{Stage: string(r.Stage), StartedBy: r.StartedBy, StartedAt: r.StartedAt, EndedAt: r.EndedAt, Done: r.Done, Changed: r.Changed, Already: r.Already,
			Late: r.Late, Blocked: r.Blocked, Failed: r.Failed, Waiting: r.Waiting, Rotated: r.Rotated, Held: r.Held})
	}
	return v
}

func viewed(p crl.BlastPlan, err error) (adminapi.RevocationPlan, error) {
	if err != nil {
		return adminapi.RevocationPlan{}, err
	}
	return revocationPlanView(&p), nil
}

// RevocationPlans implements [web.Revocations].
func (a revocationAPI) RevocationPlans(ctx context.Context, s access.Scope, p web.Page) ([]adminapi.RevocationPlan, string, error) {
	rows, next, err := collect(p.After, p.Limit, func(after string, n int) ([]crl.BlastPlan, error) { return a.blast.List(ctx, s, after, n) }, func(p *crl.BlastPlan) string { return p.ID }, nil)
	return mapped(rows, revocationPlanView), next, err
}

// RevocationPlan implements [web.Revocations].
func (a revocationAPI) RevocationPlan(ctx context.Context, s access.Scope, id string) (adminapi.RevocationPlan, error) {
	return viewed(a.blast.Get(ctx, s, id))
}

// PlannedCertificates implements [web.Revocations].
func (a revocationAPI) PlannedCertificates(ctx context.Context, s access.Scope, id string, p web.Page) ([]adminapi.PlannedCertificate, string, error) {
	fetch := func(after string, n int) ([]crl.BlastEntry, error) {
		from := int64(0)
		if after != "" {
			last, err := strconv.ParseInt(after, 10, 64)
			if err != nil {
				return nil, web.ErrCursor.Wrap(err, "")
			}
			from = last + 1
		}
		return a.blast.Entries(ctx, s, id, from, n)
	}
	rows, next, err := collect(p.After, p.Limit, fetch, func(e *crl.BlastEntry) string { return strconv.FormatInt(e.Index, 10) }, nil)
	return mapped(rows, func(e *crl.BlastEntry) adminapi.PlannedCertificate {
		st := &e.Story
		v := adminapi.PlannedCertificate{Serial: e.Serial.String(), Authority: e.Authority, Holder: st.Holder, Profile: st.Profile, Inherited: !e.Direct, Issued: st.Issued, NotAfter: st.NotAfter, Status: "good"}
		if r := st.Revocation; r != nil && r.ReleasedAt.IsZero() {
			v.Status, v.Reason, v.RevokedAt, v.RevokedBy, v.Note = "revoked", r.Reason.String(), r.At, r.By, r.Note
			if r.Reason == crl.CertificateHold {
				v.Status = "held"
			}
		}
		return v
	}), next, err
}

// MakeRevocationPlan implements [web.Revocations].
func (a revocationAPI) MakeRevocationPlan(ctx context.Context, by access.Actor, r adminapi.RevocationPlanRequest) (adminapi.RevocationPlan, error) {
	reason, err := crl.ParseReason(r.Reason)
	if err != nil {
		return adminapi.RevocationPlan{}, err
	}
	var rotate *crl.BlastRotation
	if r.Rotate {
		rotate = &crl.BlastRotation{Timeout: r.RotateTimeoutSeconds, Soak: r.RotateSoakSeconds}
	}
	v, err := viewed(a.blast.Plan(ctx, by, crl.BlastRequest{
		Query:  crl.BlastQuery{Station: r.Station, Order: r.Order, Operator: r.Operator, Authority: r.Authority, Tool: r.Tool, Key: r.Key, From: r.From, To: r.To},
		Reason: reason, Note: r.Note, Reenrol: r.Reenrol, PerSecond: r.PerSecond, Rotate: rotate,
	}, r.DryRun))
	if r.DryRun {
		v.Id, v.RotateHash, v.RevokeHash, v.ReleaseHash = "", "", "", "" // there is nothing to approve
	}
	return v, err
}

// ApproveRevocationPlan implements [web.Revocations].
func (a revocationAPI) ApproveRevocationPlan(ctx context.Context, by access.Actor, id string, r adminapi.RevocationPlanApprovalRequest) (adminapi.RevocationPlan, error) {
	return viewed(a.blast.Approve(ctx, by, id, crl.BlastStage(r.Stage), r.Hash))
}

// RunRevocationPlan implements [web.Revocations].
func (a revocationAPI) RunRevocationPlan(ctx context.Context, by access.Actor, id, stage string) (adminapi.RevocationPlan, error) {
	return viewed(a.blast.Start(ctx, by, id, crl.BlastStage(stage)))
}

// PauseRevocationPlan implements [web.Revocations].
func (a revocationAPI) PauseRevocationPlan(ctx context.Context, by access.Actor, id string) (adminapi.RevocationPlan, error) {
	return viewed(a.blast.Pause(ctx, by, id))
}

// ResumeRevocationPlan implements [web.Revocations].
func (a revocationAPI) ResumeRevocationPlan(ctx context.Context, by access.Actor, id string) (adminapi.RevocationPlan, error) {
	return viewed(a.blast.Resume(ctx, by, id))
}

// AbortRevocationPlan implements [web.Revocations].
func (a revocationAPI) AbortRevocationPlan(ctx context.Context, by access.Actor, id string) (adminapi.RevocationPlan, error) {
	return viewed(a.blast.Abort(ctx, by, id))
}
