package scep_test

import (
	"bytes"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/bootstrap"
	"hallmark/bootstrap/bootstraptest"
	"hallmark/ca/profile"
	"hallmark/fleet/registry"
)

// TestSCEP_ADeviceThatSleptIsToldTheLane_S33: SCEP has no way back for an expired
// certificate. A device that the lane would let in is told where that is; any other
// one that it is expired.
func TestSCEP_ADeviceThatSleptIsToldTheLane_S33(t *testing.T) {
	clock := bootstraptest.NewClock()
	lane := &bootstrap.DarkLane{Within: 60 * 24 * time.Hour, PerDay: 5, Policy: "quarantine", Profiles: []profile.Name{profile.LDevID}}
	s := newSite(t, bootstraptest.Options{Clock: clock, Dark: lane}, nil)
	_, err := s.Registry.CreatePolicy(t.Context(), registry.Policy{Tenant: access.DefaultTenant, Name: "quarantine", Document: `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"iot:Connect","Resource":"*"}]}`})
	if err != nil {
		t.Fatal(err)
	}
	_, cert := s.device(t, "U-001", 2, 3)
	if a := s.Dial(t, cert, rsaKey(t, 3)).Do(t, "/bootstrap/v1/whoami", nil); a.Status != 200 { // its key proves itself
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	sleep := func(d time.Duration) {
		t.Helper()
		for ; d > 0; d -= 29 * 24 * time.Hour {
			clock.Add(min(d, 29*24*time.Hour))
			if err := s.DB.KeepClock(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	renew := func(what string, told bool) {
		t.Helper()
		for _, kind := range []any{"17", "19"} {
			d := draft{kind: []any{kind}, csr: request(t, rsaKey(t, 4), cert), signer: cert, key: rsaKey(t, 3)}
			if o := s.send(t, s.encode(t, d), cert, rsaKey(t, 3)); o.pki != failure || o.info != badMessageCheck || bytes.Contains(o.raw, []byte("dark-lane-elsewhere")) != told {
				t.Errorf("%s, message type %v: status %s, info %s, told %t", what, kind, o.pki, o.info, !told)
			}
		}
	}
	before := s.issued(t)
	sleep(cert.NotAfter.Sub(clock.Now()) + 24*time.Hour)
	renew("a day after its end", true)
	sleep(60 * 24 * time.Hour)
	renew("too late for the lane", false)
	if n := s.issued(t); n != before {
		t.Errorf("%d certificates more", n-before)
	}
}
