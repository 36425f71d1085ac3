package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net/http"
	"path/filepath"
	"testing"
	"time"

	"hallmark/api/adminapi"
	"hallmark/crl"
	"hallmark/internal/seal"
	"hallmark/store"
	"hallmark/store/storetest"
)

// TestS36_ABlastRadiusGoesOnAfterAKill revokes what one station made, 2,000 units
// or 20,000 with HALLMARK_PROOF=1, while the service is killed in the middle of
// each stage: all of it is on the list afterwards, and nobody else (A33, A34).
func TestS36_ABlastRadiusGoesOnAfterAKill(t *testing.T) {
	n := 2000
	if long() {
		n = 20_000
	}
	s := newSite(t, "software", "", anyName(3*n))
	platform, err := s.as("platform")
	if err != nil {
		t.Fatal(err)
	}
	made, err := platform.CreatePrincipalWithResponse(t.Context(), adminapi.PrincipalRequest{Name: "carol", Role: "security-officer", Days: 1})
	if err != nil || made.JSON201 == nil {
		t.Fatalf("%v %s", err, made.Body)
	}
	s.halt()
	s.fill(n)
	p := s.service("hallmark.yaml", "state")
	bob := s.api("bob")
	carol, err := adminClient("https://"+s.door("people"), made.JSON201.Token, s.path("state", "ca.pem"))
	if err != nil {
		t.Fatal(err)
	}
	plan := func(status int, body []byte, v *adminapi.RevocationPlan, err error) *adminapi.RevocationPlan {
		t.Helper()
		if err != nil || v == nil {
			t.Fatalf("%d %s %v", status, body, err)
		}
		return v
	}
	a, err := bob.MakeRevocationPlanWithResponse(t.Context(), adminapi.RevocationPlanRequest{Station: "bad", Reason: "privilegeWithdrawn", Note: "stolen", PerSecond: 10_000})
	v := plan(a.StatusCode(), a.Body, a.JSON200, err)
	if v.Counts.Certificates != int64(n) || v.Counts.Devices != int64(n) || v.Counts.InStock != int64(n) {
		t.Fatalf("%+v", v.Counts)
	}
	look := func() *adminapi.RevocationPlan {
		t.Helper()
		a, err := s.api("bob").GetRevocationPlanWithResponse(t.Context(), v.Id)
		if err != nil {
			t.Fatal(err)
		}
		return plan(a.StatusCode(), a.Body, a.JSON200, nil)
	}
	await := func(what string, ready func(*adminapi.RevocationPlan) bool) *adminapi.RevocationPlan {
		t.Helper()
		for end := time.Now().Add(5 * time.Minute); time.Now().Before(end); time.Sleep(20 * time.Millisecond) {
			if v := look(); ready(v) {
				return v
			}
		}
		t.Fatalf("%s: %+v", what, look())
		return nil
	}
	for i, stage := range []string{"hold", "revoke"} {
		if stage == "revoke" {
			early, err := s.api("bob").RunRevocationPlanWithResponse(t.Context(), v.Id, adminapi.RevocationPlanRun{Stage: stage})
			if err != nil || early.StatusCode() != http.StatusForbidden {
				t.Fatalf("a stage that nobody approved: %s %v", early.Body, err)
			}
			own, err := s.api("bob").ApproveRevocationPlanWithResponse(t.Context(), v.Id, adminapi.RevocationPlanApprovalRequest{Stage: stage, Hash: v.RevokeHash})
			if err != nil || own.StatusCode() != http.StatusForbidden {
				t.Fatalf("whoever made the plan approves it: %s %v", own.Body, err)
			}
			yes, err := carol.ApproveRevocationPlanWithResponse(t.Context(), v.Id, adminapi.RevocationPlanApprovalRequest{Stage: stage, Hash: v.RevokeHash})
			plan(yes.StatusCode(), yes.Body, yes.JSON200, err)
		}
		r, err := s.api("bob").RunRevocationPlanWithResponse(t.Context(), v.Id, adminapi.RevocationPlanRun{Stage: stage})
		plan(r.StatusCode(), r.Body, r.JSON200, err)
		before := await(stage+" has begun", func(v *adminapi.RevocationPlan) bool { return v.State != "running" || v.Reports[i].Done > 0 })
		p.kill()
		if before.State != "running" {
			t.Errorf("%s was over before the kill", stage)
		}
		p = s.service("hallmark.yaml", "state")
		after := await(stage+" has ended", func(v *adminapi.RevocationPlan) bool { return v.State != "running" })
		if x := after.Reports[i]; len(after.Reports) != i+1 || x.Done != int64(n) || x.Changed != int64(n) || x.Failed != 0 || after.Problem != "" {
			t.Errorf("%s: %+v", stage, after)
		}
	}
	if v = look(); v.State != "done" || v.Reports[1].Blocked != int64(n) {
		t.Errorf("%+v", v)
	}
	// The list has all of them and nobody else.
	var entries, final int
	for end := time.Now().Add(2 * time.Minute); time.Now().Before(end) && final < n; time.Sleep(100 * time.Millisecond) {
		r, err := call(t.Context(), http.DefaultClient, "GET", "http://"+s.door("public")+"/crl/device-1/0.crl", nil)
		if err != nil || r.status != http.StatusOK {
			t.Fatalf("%s %v", r, err)
		}
		list, err := x509.ParseRevocationList(r.body)
		if err != nil {
			t.Fatal(err)
		}
		entries, final = len(list.RevokedCertificateEntries), 0
		for _, e := range list.RevokedCertificateEntries {
			if e.ReasonCode == int(crl.PrivilegeWithdrawn) {
				final++
			}
		}
	}
	if entries != n || final != n {
		t.Errorf("%d on the list, %d for good, want %d", entries, final, n)
	}
	items, _, err := gather(0, func(cursor *string, limit int) ([]adminapi.PlannedCertificate, string, error) {
		a, err := s.api("bob").ListPlannedCertificatesWithResponse(t.Context(), v.Id, &adminapi.ListPlannedCertificatesParams{Cursor: cursor, Limit: &limit})
		if err != nil || a.JSON200 == nil {
			return nil, "", errors.Join(err, fmt.Errorf("%s", a.Body))
		}
		return a.JSON200.Items, a.JSON200.Next, nil
	})
	if err != nil || len(items) != n {
		t.Fatalf("%d certificates of the plan: %v", len(items), err)
	}
	for _, c := range items {
		if c.Status != "revoked" || c.Note == "" {
			t.Fatalf("%+v", c)
		}
	}
	if err := p.stop(); err != nil {
		t.Error(err)
	}
}

// fill puts the certificates of two stations into the database of a site that does
// not run: that their octets are no certificates does not matter to revocation.
func (s *site) fill(n int) {
	s.t.Helper()
	box, err := seal.Load(s.path("state", "seal.key"))
	if err != nil {
		s.t.Fatal(err)
	}
	db, err := store.Open(context.Background(), store.Config{URL: filepath.Join(s.path("state"), "hallmark.db"), Seal: box})
	if err != nil {
		s.t.Fatal(err)
	}
	defer db.Close()
	storetest.Parallel(n+n/2, func(i int) {
		station := "bad"
		if i%3 == 2 {
			station = "good"
		}
		c := storetest.Birth(s.t, siteOrder, station, fmt.Sprintf("F-%06d", i))
		c.Authority = "device-1"
		storetest.Make(s.t, db, c)
	})
}
