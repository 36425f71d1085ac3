package main

import (
	"context"
	"crypto/x509"
	"errors"
	"net/http"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/ca"
	"hallmark/ca/profile"
)

// mortal is a ledger whose process dies before a signature is recorded.
type mortal struct{ ca.Ledger }

func (mortal) Record(context.Context, ca.Reservation, []byte) (ca.Issued, error) {
	return ca.Issued{}, errors.New("dead")
}

// TestAbandoned_IsVoidAfterADayAndListed_S8: what the key may have signed and
// nobody fetched within a day is on the list, and its unit goes on with a new key.
func TestAbandoned_IsVoidAfterADayAndListed_S8(t *testing.T) {
	s := newSite(t, "software", "", anyName(2))
	ctx := t.Context()
	c, err := ca.New(ctx, ca.Config{Ledger: mortal{s.server.db.Ledger()}, Keys: keysAdapter{s.server.keys, true, nil}, Store: s.server.db})
	if err != nil {
		t.Fatal(err)
	}
	u := newUnit(t, "SN-1")
	spki, err := x509.MarshalPKIXPublicKey(u.key.Public())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Issue(ctx, ca.Request{
		Identity: ca.Identity{Tenant: access.DefaultTenant, Holder: u.name, Profile: string(profile.IDevID)},
		Subject:  profile.Subject{Organization: "Example", CommonName: u.name, SerialNumber: u.name}, SPKI: spki, Key: u.key.Public(), Origin: profile.OriginClaimed,
		Account: siteOrder, Quota: 2, Rekey: ca.RekeyBeforeInstalled, MaxRekeys: 3,
		Requester: ca.Requester{Actor: "station:station-1", Station: "station-1"},
	}); err == nil {
		t.Fatal("the certificate was recorded")
	}
	rs, err := s.server.db.Records(ctx, ca.RecordQuery{Tenant: access.DefaultTenant, Holder: u.name})
	if err != nil || len(rs) != 1 {
		t.Fatalf("%d records, %v", len(rs), err)
	}
	void := rs[0].Serial
	for _, age := range []time.Duration{23 * time.Hour, 25 * time.Hour} {
		s.halt()
		s.g.Now = func() time.Time { return time.Now().Add(age) }
		s.again()
		s.server.voidAbandoned(ctx)
		st, err := s.server.db.Status(ctx, "device-1", void)
		if err != nil || st.Issued || st.Revoked != (age > 24*time.Hour) {
			t.Errorf("after %s: %+v, %v", age, st, err)
		}
	}
	if !s.listed(void) {
		t.Error("the void serial number is not on the list")
	}
	cert := s.stationPair()
	client, url := s.client(&cert, 1), "https://"+s.door("factory")+"/factory/v1/units/issue"
	used := func(when string, want int64) {
		t.Helper()
		if got := s.order(siteOrder).Used; got != want {
			t.Errorf("%s the order used %d units, want %d", when, got, want)
		}
		if rep, err := checkEverything(ctx, s.cfg, s.g.Now()); err != nil || !rep.Clean {
			t.Errorf("%s fsck: %v %+v", when, err, rep)
		}
	}
	used("listed, not yet returned:", 1)
	s.server.returnQuota(ctx)
	used("returned:", 0)
	s.server.returned = -1 // as after a restart
	s.server.returnQuota(ctx)
	used("returned once:", 0)
	if r, err := call(ctx, client, "POST", url, u.request()); err != nil || r.status != http.StatusConflict || r.code != "identity-revoked" {
		t.Errorf("the same key again: %v %s", err, r)
	}
	s.issue(newUnit(t, u.name))
	used("with a new key:", 1)
	s.issue(newUnit(t, "SN-2"))
	if r, err := call(ctx, client, "POST", url, newUnit(t, "SN-3").request()); err != nil || r.code != "quota-exhausted" {
		t.Errorf("one more than was ordered: %v %s", err, r)
	}
	used("all units:", 2)
}

// listed tells whether a serial number gets, in time, on the device authority's list.
func (s *site) listed(serial ca.Serial) bool {
	s.t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) { // published behind the commit
		l := s.publicList()
		for _, e := range l.RevokedCertificateEntries {
			if e.SerialNumber.Cmp(serial.Int()) == 0 {
				return true
			}
		}
	}
	return false
}

// publicList is the device authority's list as anybody fetches it.
func (s *site) publicList() *x509.RevocationList {
	s.t.Helper()
	r, err := call(s.t.Context(), http.DefaultClient, "GET", "http://"+s.door("public")+"/crl/device-1/0.crl", nil)
	if err != nil || r.status != http.StatusOK {
		s.t.Fatalf("the list: %v %s", err, r)
	}
	l, err := x509.ParseRevocationList(r.body)
	if err != nil {
		s.t.Fatal(err)
	}
	return l
}
