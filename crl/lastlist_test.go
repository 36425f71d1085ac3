package crl_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/ca"
	"hallmark/ca/catest"
	"hallmark/crl"
)

// TestAdvance_LastListsOfAClosedAuthority: a closed authority signs lists until its
// last certificate ended, then one that holds to its own end, and nothing after it.
func TestAdvance_LastListsOfAClosedAuthority_S2(t *testing.T) {
	b := newBench(t)
	ctx := t.Context()
	by := access.Actor{Tenant: access.DefaultTenant, Kind: access.KindPrincipal, Name: "olga", Role: access.SecurityOfficer}
	r := b.request("SN-1", catest.NewKey(t))
	r.NotAfter = b.clock.now().Add(30 * 24 * time.Hour)
	out, err := b.CA.Issue(ctx, r)
	want(t, err, nil)
	end, err := ca.Leave(ctx, b.DB, by, ca.End{Authority: catest.Device, Stage: ca.EndClosed}, b.clock.now())
	want(t, err, nil)
	want(t, b.CA.Reload(ctx), nil)
	step := func() (changed bool, waits string) {
		t.Helper()
		a, err := b.CA.Authority(catest.Device)
		want(t, err, nil)
		facts := ca.Facts{Ends: a.Cert.NotAfter}
		if a.State == ca.StateEnded {
			facts.LastListsOut, err = b.pub.LastLists(ctx, a.Name)
			want(t, err, nil)
		}
		changed, waits, err = ca.Advance(ctx, b.DB, end, facts, b.clock.now())
		want(t, err, nil)
		if changed {
			ends, err := b.DB.Ends(ctx, by.Scope())
			want(t, err, nil)
			end = ends[0]
			want(t, b.CA.Reload(ctx), nil)
		}
		return changed, waits
	}
	if changed, waits := step(); changed || waits == "" {
		t.Fatalf("its certificate lives, and it moved on: %q", waits)
	}
	// A closed authority lists what is revoked.
	_, err = b.svc.Revoke(ctx, officer, crl.Withdrawal{Authority: catest.Device, Serial: out.Serial, Reason: crl.KeyCompromise})
	want(t, err, nil)
	b.settle()
	if _, ok := on(b.published(catest.Device), out.Serial); !ok {
		t.Error("a closed authority does not list what is revoked")
	}
	b.clock.move(30*24*time.Hour + 12*time.Hour)
	if changed, waits := step(); changed || waits == "" {
		t.Fatalf("it moved on on the day of the end: %q", waits)
	}
	b.clock.move(24 * time.Hour)
	want(t, b.pub.Sweep(ctx), nil)
	before := b.published(catest.Device)
	if changed, _ := step(); !changed {
		t.Fatal("it did not move on")
	}
	if changed, waits := step(); changed || waits == "" {
		t.Fatal("it ended before its last list was out")
	}
	_, err = b.pub.PublishAll(ctx, catest.Device)
	want(t, err, nil)
	last := b.published(catest.Device)
	if last.Number <= before.Number || !last.NextUpdate.Equal(b.Device.NotAfter) {
		t.Errorf("the last list has number %d and holds until %s, its authority ends at %s", last.Number, last.NextUpdate, b.Device.NotAfter)
	}
	want(t, last.Verify(b.Device), nil)
	if changed, _ := step(); !changed {
		t.Fatal("it did not end")
	}
	// Years later it is the same one, also after a restart.
	b.clock.move(2 * 365 * 24 * time.Hour)
	want(t, b.pub.Sweep(ctx), nil)
	_, err = b.pub.PublishAll(ctx, catest.Device)
	want(t, err, nil)
	b.restart()
	if l := b.published(catest.Device); l.Number != last.Number {
		t.Errorf("list %d came after the last one, %d", l.Number, last.Number)
	}
	if _, did := end.Did(ca.StepEnded); !did {
		t.Errorf("steps: %+v", end.Steps)
	}
	// OpenSSL reads its end.
	file := filepath.Join(t.TempDir(), "last.crl")
	want(t, os.WriteFile(file, last.DER, 0o600), nil)
	text, err := exec.Command("openssl", "crl", "-inform", "DER", "-in", file, "-noout", "-nextupdate").CombinedOutput()
	if err != nil {
		t.Errorf("%v: %s", err, text)
	}
}
