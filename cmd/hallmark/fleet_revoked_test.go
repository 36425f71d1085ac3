package main

import (
	"context"
	"crypto/rand"
	"testing"
	"time"

	"hallmark/broker"
	"hallmark/ca"
	"hallmark/crl"
)

// TestStillConnected_CountsAndEndsWhatTheNewsMissed covers S19: of two open
// connections one is revoked and nobody told the broker.
func TestStillConnected_CountsAndEndsWhatTheNewsMissed(t *testing.T) {
	bad, err := ca.NewSerial(time.Now(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	good, err := ca.NewSerial(time.Now(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	open := []*broker.Identity{{Authority: "devices", Serial: bad.String()}, {Authority: "devices", Serial: good.String()}, {Serial: "7f"}}
	reason, dropped := crl.Superseded, []broker.Cause{}
	w := &stillConnected{
		connected: func(fn func(*broker.Identity, string)) {
			for _, id := range open {
				fn(id, "c")
			}
		},
		revoked: func(_ string, s ca.Serial) (crl.Reason, time.Time, bool) { return reason, time.Time{}, s == bad },
		drop: func(_ context.Context, sel broker.Selection, cause broker.Cause, _ bool) (int, error) {
			if sel.Serial != bad.String() {
				t.Errorf("%+v", sel)
			}
			dropped = append(dropped, cause)
			return 1, nil
		},
	}
	at := time.Now()
	if late := w.look(t.Context(), at); len(late) != 0 || w.now.Load() != 1 || len(dropped) != 0 {
		t.Errorf("at once: %v, %d, %v", late, w.now.Load(), dropped)
	}
	reason = crl.CertificateHold
	if late := w.look(t.Context(), at.Add(revokedPatience)); len(late) != 1 || w.now.Load() != 1 || len(dropped) != 1 || dropped[0] != broker.Asked {
		t.Errorf("later: %v, %d, %v", late, w.now.Load(), dropped)
	}
	open = open[1:]
	if late := w.look(t.Context(), at.Add(2*revokedPatience)); len(late) != 0 || w.now.Load() != 0 || len(w.found) != 0 {
		t.Errorf("when it is gone: %v, %d, %v", late, w.now.Load(), w.found)
	}
}
