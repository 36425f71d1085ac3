package store_test

import (
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/crl"
	"hallmark/store/storetest"
)

// The blast radius of one station among others: 100,000 certificates in a store
// of 300,000 with HALLMARK_PROOF=1, 2,000 of 6,000 else. The dry run takes less
// than two seconds; the run goes on in another process's database handle.
func TestBlast_OneStationOfThree_A33(t *testing.T) {
	n := 2000
	proof := os.Getenv("HALLMARK_PROOF") != ""
	if proof {
		n = 100_000
	}
	file := filepath.Join(t.TempDir(), "h.db")
	db := opener(file)(t)
	storetest.Order(t, db, "o", int64(3*n))
	start := time.Now()
	half := n / 2
	storetest.Parallel(3*half, func(i int) { // half of the certificates are of devices in the field
		station, unit := fmt.Sprintf("s%d", i%3), fmt.Sprintf("u%07d", i)
		storetest.Make(t, db, storetest.Birth(t, "o", station, unit))
		storetest.Make(t, db, storetest.Operational(t, unit, "A"))
	})
	t.Logf("%d certificates made in %s", 6*half, time.Since(start).Round(time.Millisecond))
	var shift time.Duration
	now := func() time.Time { return time.Now().Add(shift) }
	skip := func(d time.Duration) { shift += d }
	b := storetest.NewBlast(db, now)
	ann, bob := storetest.Officer("ann"), storetest.Officer("bob")
	req := crl.BlastRequest{Query: crl.BlastQuery{Station: "s1", From: start.Add(-time.Hour)}, Reason: crl.KeyCompromise, Note: "stolen", PerSecond: 10_000}
	best := time.Hour
	for range 3 {
		start = time.Now()
		if _, err := b.Plan(t.Context(), ann, req, true); err != nil {
			t.Fatal(err)
		}
		best = min(best, time.Since(start))
	}
	start = time.Now()
	p, err := b.Plan(t.Context(), ann, req, false)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("dry run over %d certificates: %s; with writing the plan: %s", p.Counts.Certificates, best.Round(time.Millisecond), time.Since(start).Round(time.Millisecond))
	if best > 10*time.Second {
		t.Errorf("the dry run took %s", best)
	}
	want := crl.BlastCounts{Certificates: int64(2 * half), Devices: int64(half), Inherited: int64(half), SpareSlot: int64(half)}
	if p.Counts != want {
		t.Errorf("counts: %+v", p.Counts)
	}
	if !proof {
		return // the run is in the contract of the store, on both engines
	}
	hash := p.Hash(crl.StageRevoke)
	if _, err := b.Approve(t.Context(), bob, p.ID, crl.StageRevoke, hex.EncodeToString(hash[:])); err != nil {
		t.Fatal(err)
	}
	for _, stage := range []crl.BlastStage{crl.StageHold, crl.StageRevoke} {
		start = time.Now()
		if _, err := b.Start(t.Context(), ann, p.ID, stage); err != nil {
			t.Fatal(err)
		}
		storetest.Work(t, b, skip, p.ID, 500)
		db.Close()
		db = opener(file)(t)
		b = storetest.NewBlast(db, now)
		p = storetest.Work(t, b, skip, p.ID, 0)
		r := p.Progress.Reports[len(p.Progress.Reports)-1]
		t.Logf("%s: %s, %+v", stage, time.Since(start).Round(time.Millisecond), r)
		if r.Changed != p.Counts.Certificates || r.Failed != 0 {
			t.Errorf("%s: %+v", stage, r)
		}
	}
	planned := map[string]bool{}
	for i := int64(0); i < p.Counts.Certificates; i += 10_000 {
		members, err := db.BlastMembers(t.Context(), &p, i, 10_000)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range members {
			planned[m.Serial.String()] = true
		}
	}
	listed := 0
	err = db.EachRevocation(t.Context(), func(v crl.Revocation, err error) error {
		if !planned[v.Serial.String()] || v.Reason != crl.KeyCompromise {
			t.Errorf("%s of %s: %s", v.Serial, v.Holder, v.Reason)
		}
		listed++
		return err
	})
	if err != nil || listed != len(planned) || listed != 2*half {
		t.Errorf("%d revoked of %d planned: %v", listed, len(planned), err)
	}
	if _, blocked, err := db.Blocked(t.Context(), access.DefaultTenant, "u0000000"); err != nil || blocked {
		t.Errorf("a device of another station is blocked: %v", err)
	}
}
