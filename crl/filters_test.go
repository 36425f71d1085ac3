package crl_test

import (
	"context"
	"crypto"
	"crypto/x509"
	"net/http/httptest"
	"testing"
	"time"

	"hallmark/ca/catest"
	"hallmark/ca/profile"
	"hallmark/crl"
	"hallmark/crl/filter"
)

// A gateway with the filter and nothing else knows what is revoked, and says what
// it cannot know (S35). Both files come over HTTP, as a gateway gets them.
func TestFilters_TellWhatIsRevoked_S35(t *testing.T) { both(t, filtersTellWhatIsRevoked) }

func filtersTellWhatIsRevoked(t *testing.T, b *bench) {
	cert, key := b.Issue(t, profile.OCSPResponder, "ocsp-device-1", "A", profile.Names{})
	filters := crl.NewFilters(crl.FiltersConfig{Store: b.DB, CA: b.CA, Now: b.clock.now,
		Responder: func(context.Context, string) (crypto.Signer, *x509.Certificate, error) { return key, cert, nil }})
	b.pub = crl.NewPublisher(crl.PublisherConfig{Store: b.DB, CA: b.CA, Set: b.set, Now: b.clock.now, Filters: filters})
	v := filter.NewVerifier(b.Device, 0)
	get := func(name string) []byte {
		t.Helper()
		w := httptest.NewRecorder()
		b.pub.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/crl/"+catest.Device+"/"+name, nil))
		if w.Code != 200 {
			return nil
		}
		return w.Body.Bytes()
	}
	update := func() {
		t.Helper()
		if err := filters.Update(t.Context(), catest.Device); err != nil {
			t.Fatal(err)
		}
		for _, f := range [][]byte{get("filter.bin"), get("filter-delta.bin")} {
			if f == nil {
				continue
			}
			if err := v.Load(f, b.clock.now()); err != nil && err != filter.ErrRollback {
				t.Fatal(err)
			}
		}
	}
	good, _ := b.device("F-1")
	lost, lostSerial := b.device("F-2")
	held, heldSerial := b.device("F-3")
	b.revoke(lostSerial, crl.KeyCompromise)
	b.revoke(heldSerial, crl.CertificateHold)
	update()
	head, err := b.DB.Head(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	check := func(what string, c *x509.Certificate, want filter.Answer) {
		t.Helper()
		if got := v.Status(c, b.clock.now()); got != want {
			t.Errorf("%s: %s, want %s", what, got, want)
		}
	}
	// Of today's numbers more may come, so only a receipt tells.
	check("one of today", lost, filter.NotCovered)
	if got := v.Logged(good.SerialNumber.Bytes(), uint64(head)-1, b.clock.now()); got != filter.Good {
		t.Errorf("a good one by its receipt: %s", got)
	}
	if got := v.Logged(lost.SerialNumber.Bytes(), 0, b.clock.now()); got != filter.Revoked {
		t.Errorf("a revoked one by its receipt: %s", got)
	}
	// The next day they are covered; what changed comes as changes.
	b.clock.move(23 * time.Hour)
	if err := b.svc.Release(t.Context(), officer, catest.Device, heldSerial, "found"); err != nil {
		t.Fatal(err)
	}
	b.clock.move(2 * time.Hour)
	update()
	check("a released hold", held, filter.Good)
	check("a good one", good, filter.Good)
	check("a revoked one", lost, filter.Revoked)
	b.revoke(serialOf(t, good), crl.Superseded)
	b.clock.move(time.Minute)
	update()
	check("one that was revoked since", good, filter.Revoked)
	fresh, _ := b.device("F-4")
	check("one that was issued since", fresh, filter.NotCovered)
	seq := v.Sequence()
	// Another process goes on from the sequence.
	filters = crl.NewFilters(crl.FiltersConfig{Store: b.DB, CA: b.CA, Now: b.clock.now,
		Responder: func(context.Context, string) (crypto.Signer, *x509.Certificate, error) { return key, cert, nil }})
	b.pub = crl.NewPublisher(crl.PublisherConfig{Store: b.DB, CA: b.CA, Set: b.set, Now: b.clock.now, Filters: filters})
	b.clock.move(25 * time.Hour)
	update()
	if v.Sequence() <= seq {
		t.Errorf("sequence %d after %d", v.Sequence(), seq)
	}
	check("one that was issued the day before", fresh, filter.Good)
	check("the revoked one", lost, filter.Revoked)
}
