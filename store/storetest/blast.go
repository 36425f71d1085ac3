package storetest

import (
	"encoding/hex"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/ca"
	"hallmark/crl"
	"hallmark/internal/lane"
	"hallmark/store"
)

// Make issues one certificate for a claim, as the line and first boot do.
func Make(t testing.TB, db *store.DB, c ca.Claim) ca.Serial {
	t.Helper()
	l := db.Ledger()
	ctx := lane.With(t.Context(), lane.Line)
	r, issued, err := l.Reserve(ctx, c)
	must(t, err)
	if issued == nil {
		_, err = l.Record(ctx, r, []byte("der of "+c.Holder+c.Slot))
		must(t, err)
	}
	return r.Serial
}

// Birth is a claim for a unit's birth certificate by a station.
func Birth(t testing.TB, order, station, unit string) ca.Claim {
	c := claim(t, order, 1_000_000, unit, unit+" birth")
	c.Requester = ca.Requester{Actor: "station:" + station}
	c.NotAfter = time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC)
	c.Operator, c.Tool = "asserted:ola", "t-"+station
	return c
}

// Operational is a claim for a device's operational certificate.
func Operational(t testing.TB, unit, slot string) ca.Claim {
	c := claim(t, "", 0, unit, unit+" "+slot)
	c.Profile, c.Slot, c.Rekey = "ldevid", slot, ca.RekeySupersede
	c.Requester = ca.Requester{Actor: "device:" + unit}
	return c
}

// Order makes an open order of a size.
func Order(t *testing.T, db *store.DB, id string, quantity int64) { order(t, db, id, quantity) }

// Officer is a security officer.
func Officer(name string) access.Actor {
	return access.Actor{Tenant: tenant, Kind: access.KindPrincipal, Name: name, Role: access.SecurityOfficer}
}

// Parallel calls f for 0 to n-1 on many goroutines.
func Parallel(n int, f func(i int)) {
	next := make(chan int, n)
	for i := range n {
		next <- i
	}
	close(next)
	var wg sync.WaitGroup
	for range min(n, 256) {
		wg.Go(func() {
			for i := range next {
				f(i)
			}
		})
	}
	wg.Wait()
}

// NewBlast is the service of plans on a database, with a clock of the caller's.
func NewBlast(db *store.DB, now func() time.Time) *crl.Blast {
	return crl.NewBlast(crl.BlastConfig{Store: db, Service: crl.New(crl.Config{Store: db, Now: now}), Now: now})
}

// Work steps a plan until it is not running, at most n steps if n is not 0. The
// clock is given as far forward as the rate demands.
func Work(t testing.TB, b *crl.Blast, skip func(time.Duration), id string, n int) crl.BlastPlan {
	t.Helper()
	for i := 0; ; i++ {
		p, err := b.Get(t.Context(), access.Scope{Tenant: tenant}, id)
		must(t, err)
		if p.State != crl.BlastRunning || n > 0 && i == n {
			return p
		}
		wait, err := b.Step(t.Context(), tenant, id)
		must(t, err)
		skip(wait)
	}
}

func blast(t *testing.T, open Open) {
	db := open(t)
	var mu sync.Mutex
	shift := time.Duration(0)
	now := func() time.Time { mu.Lock(); defer mu.Unlock(); return time.Now().Add(shift) }
	skip := func(d time.Duration) { mu.Lock(); shift += d; mu.Unlock() }
	b := NewBlast(db, now)
	order(t, db, "o", 1_000_000)
	const n = 120
	unit := func(station string, i int) string { return fmt.Sprintf("%s-%04d", station, i) }
	// Before the window, in it, and beside it; a half of the devices was in the field
	// and a quarter is in the middle of a renewal.
	early := Birth(t, "o", "bad", "early")
	early.Now = time.Now().Add(-24 * time.Hour)
	Make(t, db, early)
	from := time.Now().Add(-time.Hour)
	births := map[string]ca.Serial{}
	Parallel(2*n, func(i int) {
		station := []string{"bad", "good"}[i%2]
		u := unit(station, i/2)
		s := Make(t, db, Birth(t, "o", station, u))
		mu.Lock()
		births[u] = s
		mu.Unlock()
		if i/2 < n/2 {
			Make(t, db, Operational(t, u, "A"))
		}
		if i/2 < n/4 {
			Make(t, db, Operational(t, u, "B"))
		}
	})
	// One unit that another station made anew: its device is nobody's business.
	again := Birth(t, "o", "bad", unit("bad", n-1))
	again.SPKI[0] ^= 1
	again.Requester.Actor = "station:good"
	Make(t, db, again)
	// One that was only reserved.
	_, _, err := db.Ledger().Reserve(t.Context(), Birth(t, "o", "bad", "unsigned"))
	must(t, err)

	ann, bob := Officer("ann"), Officer("bob")
	req := crl.BlastRequest{Query: crl.BlastQuery{Station: "bad", From: from}, Reason: crl.PrivilegeWithdrawn, Note: "stolen", PerSecond: 10_000}
	p, err := b.Plan(t.Context(), ann, req, false)
	must(t, err)
	want := crl.BlastCounts{Certificates: n + 1 + n/2 + n/4, Devices: n + 1, Inherited: n/2 + n/4, Unissued: 1, Revoked: 1, InStock: n/2 + 1, SpareSlot: n / 4}
	if p.Counts != want {
		t.Errorf("counts:\n%+v, want\n%+v", p.Counts, want)
	}
	for _, c := range []struct {
		name string
		q    crl.BlastQuery
		n    int64
	}{
		{"order", crl.BlastQuery{Order: "o", From: from}, 2*(n+n/2+n/4) + 2},
		{"operator and tool", crl.BlastQuery{Operator: "ola", Tool: "t-bad", From: from}, want.Certificates + 1},
		{"operator as recorded", crl.BlastQuery{Operator: "asserted:ola", Tool: "t-bad", From: from}, want.Certificates + 1},
		{"authority", crl.BlastQuery{Authority: "devices", To: from}, 1},
		{"key", crl.BlastQuery{Key: hex.EncodeToString(early.SPKI[:])}, 1},
		{"station and order", crl.BlastQuery{Station: "bad", Order: "o"}, want.Certificates + 1},
	} {
		if got, err := b.Plan(t.Context(), ann, crl.BlastRequest{Query: c.q, Reason: crl.Superseded}, true); err != nil || got.Counts.Certificates != c.n {
			t.Errorf("%s: %d certificates, want %d: %v", c.name, got.Counts.Certificates, c.n, err)
		}
	}
	if _, err := b.Get(t.Context(), access.Scope{Tenant: "other"}, p.ID); !errors.Is(err, crl.ErrBlastUnknown) {
		t.Errorf("another tenant sees the plan: %v", err)
	}

	// One person holds; nobody revokes alone (S36).
	_, err = b.Start(t.Context(), ann, p.ID, crl.StageRevoke)
	wantCode(t, err, crl.ErrBlastApproval)
	_, err = b.Start(t.Context(), ann, p.ID, crl.StageRotate)
	wantCode(t, err, crl.ErrBlastStage)
	_, err = b.Start(t.Context(), ann, p.ID, crl.StageHold)
	must(t, err)
	Work(t, b, skip, p.ID, 2)
	// A device that came up for the first time after the plan inherits all the same.
	// It is one that was not reached yet: one on hold does not come up.
	waiting := ""
	for i := n - 2; i >= n/2 && waiting == ""; i-- {
		story, err := db.Story(t.Context(), tenant, "devices", births[unit("bad", i)])
		must(t, err)
		if story.Revocation == nil {
			waiting = unit("bad", i)
		}
	}
	if waiting == "" {
		t.Fatal("two steps held every device that was never in the field")
	}
	late := Make(t, db, Operational(t, waiting, "A"))
	// Another process goes on where this one ended.
	other := NewBlast(db, now)
	p = Work(t, other, skip, p.ID, 0)
	if r := p.Progress.Reports[0]; p.State != crl.BlastReady || r.Done != want.Certificates || r.Changed != want.Certificates-1 || r.Already != 1 || r.Late != 1 {
		t.Errorf("hold: %s %+v", p.State, r)
	}
	hash := p.Hash(crl.StageRevoke)
	_, err = b.Approve(t.Context(), ann, p.ID, crl.StageRevoke, hex.EncodeToString(hash[:]))
	wantCode(t, err, access.ErrSelfApproval)
	release := p.Hash(crl.StageRelease)
	_, err = b.Approve(t.Context(), bob, p.ID, crl.StageRevoke, hex.EncodeToString(release[:]))
	wantCode(t, err, crl.ErrBlastOther)
	_, err = b.Approve(t.Context(), bob, p.ID, crl.StageRevoke, hex.EncodeToString(hash[:]))
	must(t, err)
	_, err = b.Start(t.Context(), ann, p.ID, crl.StageRevoke)
	must(t, err)
	Work(t, b, skip, p.ID, 1)
	_, err = b.Pause(t.Context(), bob, p.ID)
	must(t, err)
	if q := Work(t, b, skip, p.ID, 0); q.State != crl.BlastPaused {
		t.Errorf("paused: %s", q.State)
	}
	_, err = b.Resume(t.Context(), bob, p.ID)
	must(t, err)
	p = Work(t, b, skip, p.ID, 0)
	if r := p.Progress.Reports[1]; p.State != crl.BlastDone || r.Changed != want.Certificates-1 || r.Already != 1 || r.Late != 1 || r.Blocked != n {
		t.Errorf("revoke: %s %+v", p.State, r)
	}

	// All of it is listed, nobody else is touched.
	listed := map[ca.Serial]bool{}
	entries, err := b.Entries(t.Context(), access.Scope{Tenant: tenant}, p.ID, 0, 1_000_000)
	must(t, err)
	for _, e := range entries {
		if v := e.Story.Revocation; v == nil || !v.ReleasedAt.IsZero() || v.Reason != crl.PrivilegeWithdrawn && v.Reason != crl.Superseded {
			t.Fatalf("%s is not revoked: %+v", e.Serial, v)
		}
		listed[e.Serial] = true
	}
	if int64(len(listed)) != want.Certificates {
		t.Errorf("%d members listed, want %d", len(listed), want.Certificates)
	}
	story, err := db.Story(t.Context(), tenant, "devices", late)
	must(t, err)
	if story.Revocation == nil || story.Revocation.Reason != crl.PrivilegeWithdrawn {
		t.Error("an operational certificate made after the plan is good")
	}
	rows := 0
	must(t, db.EachRevocation(t.Context(), func(v crl.Revocation, err error) error {
		rows++
		if !listed[v.Serial] && v.Serial != late {
			t.Errorf("%s of %s is revoked and was not planned", v.Serial, v.Holder)
		}
		return err
	}))
	if rows != len(listed)+1 {
		t.Errorf("%d revocations, want %d", rows, len(listed)+1)
	}
	for i := range n {
		for station, blocked := range map[string]bool{"bad": i != n-1, "good": false} {
			if _, got, err := db.Blocked(t.Context(), tenant, unit(station, i)); err != nil || got != blocked {
				t.Errorf("%s blocked: %v, %v", unit(station, i), got, err)
			}
		}
	}
	// Each change of each certificate is one leaf (S32).
	leaves := map[string]int{}
	must(t, db.EachStatusLeaf(t.Context(), func(l crl.StatusLeaf) error {
		leaves[string(l.Type)]++
		if !l.Genuine {
			t.Errorf("leaf %d is not genuine", l.Index)
		}
		return nil
	}))
	if leaves["hold"] != int(want.Certificates) || leaves["revoke"]+leaves["void"] != int(want.Certificates)+1 || leaves["void"] != 1 || leaves["block"] != n {
		t.Errorf("leaves: %v", leaves)
	}
	must(t, db.BrokenRows(t.Context(), func(object string, err error) { t.Errorf("fsck: %s: %v", object, err) }))
}

// falseAlarm is a plan that was held and given up.
func falseAlarm(t *testing.T, open Open) {
	db := open(t)
	var shift time.Duration
	now := func() time.Time { return time.Now().Add(shift) }
	skip := func(d time.Duration) { shift += d }
	b := NewBlast(db, now)
	order(t, db, "o", 1000)
	const n = 70
	serials := make([]ca.Serial, n)
	Parallel(n, func(i int) { serials[i] = Make(t, db, Birth(t, "o", "s1", fmt.Sprintf("u%d", i))) })
	// Somebody else's hold, from before.
	story, err := db.Story(t.Context(), tenant, "devices", serials[3])
	must(t, err)
	must(t, db.Revoke(t.Context(), story, crl.CertificateHold, time.Now(), "principal:eve", "lost"))
	ann, bob := Officer("ann"), Officer("bob")
	p, err := b.Plan(t.Context(), ann, crl.BlastRequest{Query: crl.BlastQuery{Station: "s1"}, Reason: crl.Superseded, Reenrol: true, PerSecond: 10_000}, false)
	must(t, err)
	_, err = b.Start(t.Context(), ann, p.ID, crl.StageHold)
	must(t, err)
	Work(t, b, skip, p.ID, 1)
	_, err = b.Abort(t.Context(), ann, p.ID)
	must(t, err)
	if p = Work(t, b, skip, p.ID, 0); p.State != crl.BlastAborted || p.Progress.Reports[0].Done != 50 {
		t.Fatalf("aborted: %s, %+v", p.State, p.Progress.Reports[0])
	}
	_, err = b.Start(t.Context(), ann, p.ID, crl.StageRelease)
	wantCode(t, err, crl.ErrBlastApproval)
	h := p.Hash(crl.StageRelease)
	_, err = b.Approve(t.Context(), bob, p.ID, crl.StageRelease, hex.EncodeToString(h[:]))
	must(t, err)
	_, err = b.Start(t.Context(), ann, p.ID, crl.StageRelease)
	must(t, err)
	if p = Work(t, b, skip, p.ID, 0); p.State != crl.BlastAborted {
		t.Errorf("after the release: %s", p.State)
	}
	for i, s := range serials {
		story, err := db.Story(t.Context(), tenant, "devices", s)
		must(t, err)
		if held := story.Revocation != nil && story.Revocation.ReleasedAt.IsZero(); held != (i == 3) {
			t.Errorf("certificate %d on hold: %v", i, held)
		}
	}
	_, err = b.Start(t.Context(), ann, p.ID, crl.StageHold)
	wantCode(t, err, crl.ErrBlastStage)
}

// releasedPlan is a false alarm whose hold had ended: after its release one person
// revokes nothing with it, whatever was approved before (S36).
func releasedPlan(t *testing.T, open Open) {
	db := open(t)
	var shift time.Duration
	now := func() time.Time { return time.Now().Add(shift) }
	skip := func(d time.Duration) { shift += d }
	b := NewBlast(db, now)
	order(t, db, "o", 1000)
	const n = 20
	serials := make([]ca.Serial, n)
	Parallel(n, func(i int) { serials[i] = Make(t, db, Birth(t, "o", "s1", fmt.Sprintf("u%d", i))) })
	ann, bob, eve := Officer("ann"), Officer("bob"), Officer("eve")
	approve := func(p crl.BlastPlan, stage crl.BlastStage) error {
		h := p.Hash(stage)
		_, err := b.Approve(t.Context(), eve, p.ID, stage, hex.EncodeToString(h[:]))
		return err
	}
	for _, aborted := range []bool{true, false} {
		p, err := b.Plan(t.Context(), ann, crl.BlastRequest{Query: crl.BlastQuery{Station: "s1"}, Reason: crl.Superseded, Reenrol: true, PerSecond: 10_000}, false)
		must(t, err)
		_, err = b.Start(t.Context(), ann, p.ID, crl.StageHold)
		must(t, err)
		if p = Work(t, b, skip, p.ID, 0); p.State != crl.BlastReady || p.Progress.Reports[0].Changed != n {
			t.Fatalf("hold: %s %+v", p.State, p.Progress.Reports)
		}
		must(t, approve(p, crl.StageRevoke))
		must(t, approve(p, crl.StageRelease))
		if aborted {
			if p, err = b.Abort(t.Context(), ann, p.ID); err != nil || len(p.Progress.Approvals) != 0 {
				t.Errorf("aborted, with approvals of before: %v %+v", err, p.Progress.Approvals)
			}
			_, err = b.Start(t.Context(), bob, p.ID, crl.StageRelease)
			wantCode(t, err, crl.ErrBlastApproval)
			must(t, approve(p, crl.StageRelease))
		}
		_, err = b.Start(t.Context(), bob, p.ID, crl.StageRelease)
		must(t, err)
		wantCode(t, approve(p, crl.StageRevoke), crl.ErrBlastStage) // while it releases
		if p = Work(t, b, skip, p.ID, 0); p.State != crl.BlastAborted || p.Progress.Reports[1].Changed != n {
			t.Errorf("release: %s %+v", p.State, p.Progress.Reports)
		}
		wantCode(t, approve(p, crl.StageRevoke), crl.ErrBlastStage)
		for _, stage := range []crl.BlastStage{crl.StageRevoke, crl.StageHold} {
			_, err = b.Start(t.Context(), bob, p.ID, stage)
			wantCode(t, err, crl.ErrBlastStage)
		}
		// So does a plan that was released before plans ended so.
		was := p.Version
		p.State, p.Version = crl.BlastReady, was+1
		p.Progress.Approvals = map[crl.BlastStage]crl.BlastApproval{crl.StageRevoke: {By: "eve", At: now()}}
		must(t, db.PutBlast(t.Context(), p, was))
		_, err = b.Start(t.Context(), bob, p.ID, crl.StageRevoke)
		wantCode(t, err, crl.ErrBlastStage)
		for _, serial := range serials {
			story, err := db.Story(t.Context(), tenant, "devices", serial)
			must(t, err)
			if v := story.Revocation; v == nil || v.ReleasedAt.IsZero() {
				t.Fatalf("aborted %v: %+v", aborted, v)
			}
		}
	}
}
