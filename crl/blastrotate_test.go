package crl_test

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"testing"

	"hallmark/access"
	"hallmark/ca"
	"hallmark/crl"
	"hallmark/store/storetest"
)

var errCut = errors.New("the power")

// turner stands for campaigns and devices. Each of its calls does what it is to do and
// is cut off then, once, as by a kill before the service noted it.
type turner struct {
	b         *bench
	connected map[string]bool // by holder
	old       map[string]ca.Serial
	taken     map[string]int
	cut       map[string]bool
	calls     int
	waiting   map[string]bool
	rotated   int64
	halted    string
	ready     error
	ended     int
}

func (r *turner) once(call string) error {
	r.calls++
	if r.cut[call] {
		return nil
	}
	r.cut[call] = true
	return errCut
}

func (r *turner) Ready(context.Context, *crl.BlastPlan) error { return r.ready }

func (r *turner) Connected(_ context.Context, s *crl.Story) (bool, error) {
	return r.connected[s.Holder], nil
}

func (r *turner) Take(_ context.Context, _ *crl.BlastPlan, list []crl.Story) ([]bool, error) {
	out, call := make([]bool, len(list)), "take"
	for i := range list {
		call += " " + list[i].Holder
		if out[i] = r.connected[list[i].Holder]; out[i] {
			r.taken[list[i].Holder]++
		}
	}
	return out, r.once(call)
}

func (r *turner) Taken(context.Context, *crl.BlastPlan) (waiting, rotated int64, halted string, err error) {
	return int64(len(r.waiting)), r.rotated, r.halted, r.once(fmt.Sprint("taken ", len(r.waiting), r.halted))
}

func (r *turner) End(context.Context, *crl.BlastPlan) error {
	r.ended++
	return r.once("end")
}

// turn is a device that proves its new certificate: its old one is retired.
func (r *turner) turn(holder string) {
	r.b.t.Helper()
	delete(r.waiting, holder)
	r.rotated++
	if _, err := r.b.svc.Revoke(r.b.t.Context(), officer, crl.Withdrawal{Authority: "devices", Serial: r.old[holder], Reason: crl.Superseded}); err != nil {
		r.b.t.Fatal(err)
	}
}

// TestBlastRotate_GoesOnAfterEachStep_S36: whoever is connected is offered a new
// certificate, sleepers are held, and what is left is held at the end; each step is done
// by another process than the one before, and cut off once before it is noted.
func TestBlastRotate_GoesOnAfterEachStep_S36(t *testing.T) {
	both(t, func(t *testing.T, b *bench) {
		ctx, ann, bob := t.Context(), storetest.Officer("ann"), storetest.Officer("bob")
		scope := access.Scope{Tenant: access.DefaultTenant}
		storetest.Order(t, b.DB, "o", 100)
		r := &turner{b: b, connected: map[string]bool{"u-0": true, "u-1": true, "u-2": true}, old: map[string]ca.Serial{}, taken: map[string]int{}, cut: map[string]bool{}, waiting: map[string]bool{}}
		births := map[string]ca.Serial{}
		for i := range 7 { // 3 connected, 2 asleep, one whose certificate was revoked before, one in stock
			unit := fmt.Sprintf("u-%d", i)
			births[unit] = storetest.Make(t, b.DB, storetest.Birth(t, "o", "bad", unit))
			if i < 6 {
				r.old[unit] = storetest.Make(t, b.DB, storetest.Operational(t, unit, "A"))
			}
		}
		other := storetest.Make(t, b.DB, storetest.Birth(t, "o", "good", "g-0"))
		if _, err := b.svc.Revoke(ctx, officer, crl.Withdrawal{Authority: "devices", Serial: r.old["u-5"], Reason: crl.Superseded}); err != nil {
			t.Fatal(err)
		}
		open := func() *crl.Blast { // another process
			return crl.NewBlast(crl.BlastConfig{Store: b.DB, Service: crl.New(crl.Config{Store: b.DB, Now: b.clock.now}), Rotator: r, Now: b.clock.now})
		}
		p, err := open().Plan(ctx, ann, crl.BlastRequest{Query: crl.BlastQuery{Station: "bad"}, Reason: crl.CessationOfOperation, PerSecond: 20, Rotate: &crl.BlastRotation{Timeout: 60}}, false)
		if err != nil {
			t.Fatal(err)
		}
		state := func(s ca.Serial) string {
			t.Helper()
			story, err := b.DB.Story(ctx, scope.Tenant, "devices", s)
			if err != nil {
				t.Fatal(err)
			}
			if story.Revocation == nil {
				return "good"
			}
			return story.Revocation.Reason.String()
		}
		report := func() crl.BlastReport {
			t.Helper()
			now, err := open().Get(ctx, scope, p.ID)
			if err != nil || len(now.Progress.Reports) == 0 {
				t.Fatalf("%v %+v", err, now)
			}
			return now.Progress.Reports[len(now.Progress.Reports)-1]
		}
		// work steps until the plan waits, or until is says that it is enough.
		work := func(is func(crl.BlastReport) bool) {
			t.Helper()
			for range 200 {
				now, err := open().Get(ctx, scope, p.ID)
				if err != nil {
					t.Fatal(err)
				}
				if now.State != crl.BlastRunning || is(report()) {
					return
				}
				wait, err := open().Step(ctx, scope.Tenant, p.ID)
				if err != nil && !errors.Is(err, errCut) {
					t.Fatal(err)
				}
				b.clock.move(wait)
			}
			t.Fatalf("it does not end: %+v", report())
		}
		ended := func(r crl.BlastReport) bool { return !r.EndedAt.IsZero() }
		if _, err := open().Start(ctx, ann, p.ID, crl.StageHold); err != nil {
			t.Fatal(err)
		}
		work(ended)
		for unit, s := range r.old {
			want := map[string]string{"u-3": "certificateHold", "u-4": "certificateHold", "u-5": "superseded"}[unit]
			if want == "" {
				want = "good"
			}
			if got := state(s); got != want {
				t.Errorf("after the stage hold %s is %s, not %s", unit, got, want)
			}
		}

		// Rotate needs a second person, and an authority that is not the plan's.
		if _, err := open().Start(ctx, ann, p.ID, crl.StageRotate); !errors.Is(err, crl.ErrBlastApproval) {
			t.Errorf("without a second person: %v", err)
		}
		if at, err := open().Rotating(ctx, scope, "devices", r.old["u-0"]); err != nil || !at.IsZero() {
			t.Errorf("nobody approved it: %s %v", at, err)
		}
		hash := p.Hash(crl.StageRotate)
		if _, err := open().Approve(ctx, bob, p.ID, crl.StageRotate, hex.EncodeToString(hash[:])); err != nil {
			t.Fatal(err)
		}
		r.ready = errors.New("it still issues")
		if _, err := open().Start(ctx, ann, p.ID, crl.StageRotate); !errors.Is(err, r.ready) {
			t.Errorf("%v", err)
		}
		r.ready = nil
		// From now on windows of renewal of what it covers are moved, and of nothing else.
		for _, c := range []struct {
			serial  ca.Serial
			covered bool
		}{{r.old["u-0"], true}, {r.old["u-4"], true}, {births["u-6"], true}, {other, false}} {
			if at, err := open().Rotating(ctx, scope, "devices", c.serial); err != nil || at.IsZero() == c.covered {
				t.Errorf("%s: %s %v", c.serial, at, err)
			}
		}
		if at, err := open().Rotating(ctx, access.Scope{Tenant: "other"}, "devices", r.old["u-0"]); err != nil || !at.IsZero() {
			t.Errorf("another tenant sees %s %v", at, err)
		}
		if _, err := open().Start(ctx, ann, p.ID, crl.StageRotate); err != nil {
			t.Fatal(err)
		}
		for unit := range r.connected {
			r.waiting[unit] = true
		}
		work(func(v crl.BlastReport) bool { return v.Waiting == 3 })
		if v := report(); v.Done != p.Counts.Certificates || v.Held != 0 || v.Rotated != 0 || v.Settled {
			t.Errorf("%+v", v)
		}
		r.turn("u-0")
		r.halted = "Its campaign is paused."
		work(func(v crl.BlastReport) bool { return v.Waiting == 2 })
		if now, err := open().Get(ctx, scope, p.ID); err != nil || now.Progress.Problem != r.halted {
			t.Errorf("%v %+v", err, now.Progress)
		}
		r.halted = ""
		r.turn("u-1")
		delete(r.waiting, "u-2") // it fell asleep
		work(ended)
		v := report()
		if v.Rotated != 2 || v.Held != 1 || v.Changed != 3 || v.Waiting != 0 || !v.Settled || v.Swept < p.Counts.Certificates || r.ended == 0 {
			t.Errorf("%+v; ended %d times", v, r.ended)
		}
		for unit, want := range map[string]string{"u-0": "superseded", "u-1": "superseded", "u-2": "certificateHold", "u-3": "certificateHold", "u-4": "certificateHold", "u-5": "superseded"} {
			if got := state(r.old[unit]); got != want {
				t.Errorf("%s is %s, not %s", unit, got, want)
			}
		}
		// Birth certificates of who is rotated are left to the stage revoke.
		for unit := range r.connected {
			if got := state(births[unit]); got != "good" {
				t.Errorf("the birth certificate of %s is %s", unit, got)
			}
			if n := r.taken[unit]; n < 2 { // the second time after the cut
				t.Errorf("%s was offered %d times", unit, n)
			}
		}
		for _, call := range []string{"end", "taken 3", "taken 2Its campaign is paused.", "taken 0"} {
			if !r.cut[call] {
				t.Errorf("it was never cut off at %q", call)
			}
		}
		if state(other) != "good" {
			t.Error("another station's certificate was touched")
		}
	})
}
