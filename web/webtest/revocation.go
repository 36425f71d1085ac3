package webtest

import (
	"context"
	"fmt"
	"strings"
	"time"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/web"
)

// RevocationPlan is the fixture's plan; it holds and waits for its approval.
const RevocationPlan = "20260301-101500-a1b2c3"

// RevokeHash is what an approval of it is about.
var RevokeHash = strings.Repeat("b2", 32)

var _ web.Revocations = (*Fake)(nil)

func revocationPlan() adminapi.RevocationPlan {
	at := time.Date(2026, 3, 1, 10, 15, 0, 0, time.UTC)
	return adminapi.RevocationPlan{Id: RevocationPlan, State: "running", Stage: "hold", Station: Station, From: at.Add(-48 * time.Hour), To: at, Reason: "privilegeWithdrawn", Note: Hostile + " was stolen",
		PerSecond: 500, CreatedBy: "ann", CreatedAt: at, ChangedAt: at.Add(time.Minute), Members: strings.Repeat("c3", 32), RevokeHash: RevokeHash, ReleaseHash: strings.Repeat("d4", 32),
		Counts:    adminapi.RevocationPlanCounts{Certificates: 100_000, Devices: 60_000, Inherited: 40_000, Unissued: 3, Expired: 12, Revoked: 40, Held: 5, Live: 8_123, InStock: 20_000, SpareSlot: 39_000},
		Approvals: []adminapi.RevocationPlanApproval{{Stage: "revoke", By: "bob", At: at.Add(time.Minute)}},
		Reports:   []adminapi.RevocationPlanReport{{Stage: "hold", StartedBy: "ann", StartedAt: at, Done: 42_000, Changed: 41_960, Already: 40, Late: 2}}}
}

// RevocationPlans implements [web.Revocations].
func (f *Fake) RevocationPlans(_ context.Context, s access.Scope, p web.Page) ([]adminapi.RevocationPlan, string, error) {
	first, second := revocationPlan(), revocationPlan()
	second.Id, second.State, second.Stage = "20260228-090000-000001", "done", ""
	return cut(s, []adminapi.RevocationPlan{first, second}, p)
}

// RevocationPlan implements [web.Revocations].
func (f *Fake) RevocationPlan(_ context.Context, s access.Scope, id string) (adminapi.RevocationPlan, error) {
	if s.Tenant != Tenant || id != RevocationPlan {
		return adminapi.RevocationPlan{}, errUnknown.New("")
	}
	return revocationPlan(), nil
}

// PlannedCertificates implements [web.Revocations].
func (f *Fake) PlannedCertificates(ctx context.Context, s access.Scope, id string, p web.Page) ([]adminapi.PlannedCertificate, string, error) {
	if _, err := f.RevocationPlan(ctx, s, id); err != nil {
		return nil, "", err
	}
	var all []adminapi.PlannedCertificate
	for i := range 150 {
		c := adminapi.PlannedCertificate{Serial: fmt.Sprintf("%040x", i+1), Authority: "devices", Holder: Unit, Profile: "idevid", Issued: true, NotAfter: time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), Status: "good"}
		if i%2 == 1 {
			c.Profile, c.Inherited, c.Status, c.Reason, c.RevokedBy, c.RevokedAt, c.Note = "ldevid", true, "held", "certificateHold", "principal:ann", time.Date(2026, 3, 1, 10, 15, 0, 0, time.UTC), "plan "+id+": "+Hostile
		}
		all = append(all, c)
	}
	return cut(s, all, p)
}

func (f *Fake) didRevocation(by access.Actor, what, id string) (adminapi.RevocationPlan, error) {
	f.Calls = append(f.Calls, what+" "+id)
	return f.RevocationPlan(context.Background(), by.Scope(), id)
}

// MakeRevocationPlan implements [web.Revocations].
func (f *Fake) MakeRevocationPlan(_ context.Context, by access.Actor, r adminapi.RevocationPlanRequest) (adminapi.RevocationPlan, error) {
	f.Calls = append(f.Calls, "plan revocation "+r.Station)
	return revocationPlan(), nil
}

// ApproveRevocationPlan implements [web.Revocations].
func (f *Fake) ApproveRevocationPlan(_ context.Context, by access.Actor, id string, r adminapi.RevocationPlanApprovalRequest) (adminapi.RevocationPlan, error) {
	return f.didRevocation(by, "approve "+r.Stage, id)
}

// RunRevocationPlan implements [web.Revocations].
func (f *Fake) RunRevocationPlan(_ context.Context, by access.Actor, id, stage string) (adminapi.RevocationPlan, error) {
	return f.didRevocation(by, "run "+stage, id)
}

// PauseRevocationPlan implements [web.Revocations].
func (f *Fake) PauseRevocationPlan(_ context.Context, by access.Actor, id string) (adminapi.RevocationPlan, error) {
	return f.didRevocation(by, "pause", id)
}

// ResumeRevocationPlan implements [web.Revocations].
func (f *Fake) ResumeRevocationPlan(_ context.Context, by access.Actor, id string) (adminapi.RevocationPlan, error) {
	return f.didRevocation(by, "resume", id)
}

// AbortRevocationPlan implements [web.Revocations].
func (f *Fake) AbortRevocationPlan(_ context.Context, by access.Actor, id string) (adminapi.RevocationPlan, error) {
	return f.didRevocation(by, "abort", id)
}
