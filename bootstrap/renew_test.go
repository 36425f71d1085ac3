package bootstrap_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"hallmark/bootstrap"
	"hallmark/bootstrap/bootstraptest"
	"hallmark/ca/catest"
	"hallmark/ca/profile"
	"hallmark/crl"
	"hallmark/fleet"
	"hallmark/fleet/registry"
)

// claimed is a device that came by claim.
func (s *site) claimed(t *testing.T, sn string) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key := catest.NewKey(t)
	who := s.claim(t, "line-"+sn, 5)
	c, token := s.made(t, who, key)
	s.ask(t, who, topicReg, registerBody(t, token, "SerialNumber", sn)).accepted(t, topicReg)
	must(t, s.Set.Follow(t.Context()))
	return c, key
}

// bulked is a device that came in a file.
func (s *site) bulked(t *testing.T, name string) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key := catest.NewKey(t)
	line, err := json.Marshal(map[string]string{"Name": name, "CSR": string(s.request(t, key))})
	must(t, err)
	var out bytes.Buffer
	_, err = s.bulk.Run(t.Context(), s.owner, bootstrap.BulkTask{Template: "bulk", Lines: bytes.NewReader(line), Results: &out})
	must(t, err)
	var r bootstrap.BulkResult
	must(t, json.Unmarshal(out.Bytes(), &r))
	if r.Code != "" {
		t.Fatalf("%+v", r)
	}
	return leafOf(t, r.CertificatePEM), key
}

// TestRenew_DevicesWithoutABirthCertificateRenewLikeTheOthers covers S15 and S17
// for devices that came by claim and in bulk.
func TestRenew_DevicesWithoutABirthCertificateRenewLikeTheOthers(t *testing.T) {
	engines(t, func(t *testing.T, url string) {
		s := newSite(t, url)
		for how, first := range map[string]func(*testing.T, string) (*x509.Certificate, *ecdsa.PrivateKey){"claim": s.claimed, "bulk": s.bulked} {
			t.Run(how, func(t *testing.T) {
				c, key := first(t, how+"-1")
				before, err := s.connect(c)
				must(t, err)
				certs, keys := []*x509.Certificate{c}, []*ecdsa.PrivateKey{key}
				for range 2 { // each over the one before
					key := catest.NewKey(t)
					n, r := mustBoot(t, s.Door, certs[len(certs)-1], keys[len(keys)-1], key)
					if fleet.ThingName(r.Thing) != before.Thing || r.Status != "ACTIVE" || !key.PublicKey.Equal(n.PublicKey) || len(r.TrustBundle) != 1 {
						t.Errorf("%+v", r)
					}
					certs, keys = append(certs, n), append(keys, key)
				}
				must(t, s.Set.Follow(t.Context()))
				// At most two are live: the first was superseded, at both doors.
				for i, want := range []int{403, 200, 200} {
					if a := s.Dial(t, certs[i], keys[i]).Do(t, whoami, nil); a.Status != want || want == 403 && a.Code != "device-revoked" {
						t.Errorf("certificate %d: %d %s", i, a.Status, a.Code)
					}
				}
				s.refused(t, certs[0], bootstrap.ErrRevoked)
				got, err := s.connect(certs[2])
				if err != nil || got.Thing != before.Thing || got.Holder != before.Holder || got.How != registry.HowRenewal {
					t.Errorf("%+v %v", got, err)
				}
				// It may do what its predecessor may.
				was, err := s.Registry.AttachedPolicies(t.Context(), scope, registry.CertificateTarget(before.CertificateID), false)
				must(t, err)
				is, err := s.Registry.AttachedPolicies(t.Context(), scope, registry.CertificateTarget(got.CertificateID), false)
				if err != nil || !slices.Equal(was, is) || how == "claim" && len(is) != 1 {
					t.Errorf("policies %v, before %v, %v", is, was, err)
				}
				if rec, err := s.DB.RecordBySerial(t.Context(), scope.Tenant, catest.Device, serial(certs[2])); err != nil || rec.Origin != string(profile.OriginClaimed) {
					t.Errorf("origin %q, %v", rec.Origin, err)
				}
			})
		}
		clean(t, s.Door)
	})
}

// TestS15_ARenewedKeyOfAClaimedDeviceIsPendingUntilItConnects at either door, and
// a binding to another connection is refused.
func TestS15_ARenewedKeyOfAClaimedDeviceIsPendingUntilItConnects(t *testing.T) {
	s := newSite(t, "")
	c, key := s.claimed(t, "SN-1")
	other := s.Dial(t, c, key)
	if a := s.Dial(t, c, key).Do(t, register, request(t, catest.NewKey(t), other.Challenge(t))); a.Status != 403 || a.Code != "register-binding" {
		t.Errorf("%d %s", a.Status, a.Code)
	}
	for _, prove := range []func(c *x509.Certificate, key *ecdsa.PrivateKey) error{
		func(c *x509.Certificate, _ *ecdsa.PrivateKey) error { _, err := s.connect(c); return err },
		func(c *x509.Certificate, key *ecdsa.PrivateKey) error {
			if a := s.Dial(t, c, key).Do(t, whoami, nil); a.Status != 200 {
				return errors.New(a.Code)
			}
			return nil
		},
	} {
		fresh := catest.NewKey(t)
		a := s.Dial(t, c, key).Do(t, register, request(t, fresh, ""))
		if a.Status != 200 || a.Registration.Status != "PENDING_ACTIVATION" {
			t.Fatalf("%d %s", a.Status, a.Body)
		}
		// The same request again gives the same octets, and activates nothing.
		if b := s.Dial(t, c, key).Do(t, register, request(t, fresh, "")); !bytes.Equal(b.Registration.Certificate, a.Registration.Certificate) || b.Registration.Status != "PENDING_ACTIVATION" {
			t.Errorf("%d %s", b.Status, b.Body)
		}
		n, err := x509.ParseCertificate(a.Registration.Certificate)
		must(t, err)
		must(t, prove(n, fresh))
		if s.status(t, n) != fleet.Active {
			t.Errorf("it is %s", s.status(t, n))
		}
		c, key = n, fresh
	}
}

// TestS16_WhatWasTakenAwayRenewsNothing: revoked, switched off, on hold, blocked;
// a claim certificate; and what an administrator took from a certificate stays
// taken.
func TestS16_WhatWasTakenAwayRenewsNothing(t *testing.T) {
	s := newSite(t, "")
	no := func(what string, c *x509.Certificate, key *ecdsa.PrivateKey, code string) {
		t.Helper()
		if a := boot(t, s.Door, c, key, catest.NewKey(t)); a.Status != 403 || a.Code != code {
			t.Errorf("%s: %d %s", what, a.Status, a.Code)
		}
	}
	revoked, revokedKey := s.claimed(t, "SN-1")
	s.Revoke(t, revoked, crl.Superseded)
	no("revoked", revoked, revokedKey, "device-revoked")

	off, offKey := s.claimed(t, "SN-2")
	_, err := s.Registry.SetCertificateStatus(t.Context(), scope, registry.CertificateID(off.Raw), fleet.Inactive)
	must(t, err)
	no("switched off", off, offKey, "device-inactive")

	blocked, blockedKey := s.claimed(t, "SN-3")
	got, err := s.connect(blocked)
	must(t, err)
	s.Block(t, got.Holder)
	no("blocked", blocked, blockedKey, "device-revoked")

	heldKey := catest.NewKey(t)
	held, _ := s.made(t, s.claim(t, "line-held", 5), heldKey)
	must(t, s.Set.Follow(t.Context()))
	no("not claimed yet", held, heldKey, "device-on-hold")

	claimKey := catest.NewKey(t)
	claim, err := s.claims.CreateClaim(t.Context(), s.owner, bootstrap.ClaimRequest{Name: "line-9", Template: "fleet", Most: 5, CSR: s.request(t, claimKey)})
	must(t, err)
	no("a claim certificate", leafOf(t, claim.CertificatePEM), claimKey, "device-role")

	less, lessKey := s.claimed(t, "SN-4")
	target := registry.CertificateTarget(registry.CertificateID(less.Raw))
	names, err := s.Registry.AttachedPolicies(t.Context(), scope, target, false)
	must(t, err)
	must(t, s.Registry.DetachPolicy(t.Context(), scope, target, names[0]))
	n, _ := mustBoot(t, s.Door, less, lessKey, catest.NewKey(t))
	if names, err := s.Registry.AttachedPolicies(t.Context(), scope, registry.CertificateTarget(registry.CertificateID(n.Raw)), false); err != nil || len(names) != 0 {
		t.Errorf("%v came back, %v", names, err)
	}
	clean(t, s.Door)
}

// TestS17_ADayOfRenewalsEnds also without a birth certificate; and a clone that
// renews beside the device gets no third live certificate.
func TestS17_ADayOfRenewalsEnds(t *testing.T) {
	s := newSite(t, "")
	c, key := s.claimed(t, "SN-1")
	for i := range 9 {
		fresh := catest.NewKey(t)
		c, _ = mustBoot(t, s.Door, c, key, fresh)
		key = fresh
		must(t, s.Set.Follow(t.Context()))
		p, err := s.Registry.Principals(t.Context(), scope, "fp_SN-1")
		must(t, err)
		live := 0
		for j := range p {
			if p[j].Live(s.clock.Now()) {
				live++
			}
		}
		if live > 2 {
			t.Errorf("renewal %d: %d live", i, live)
		}
	}
	if a := boot(t, s.Door, c, key, catest.NewKey(t)); a.Status != 429 || a.Code != "identity-slots-exhausted" {
		t.Errorf("%d %s", a.Status, a.Code)
	}
	s.clock.Add(24*time.Hour + time.Second)
	mustBoot(t, s.Door, c, key, catest.NewKey(t))
}

// TestS43_SubjectsCanBePseudonyms: neither thing nor serial number is in an
// operational certificate, at first boot and in renewals; the same device keeps its
// pseudonym, another has another, and the doors do not mind.
func TestS43_SubjectsCanBePseudonyms(t *testing.T) {
	s := newSite(t, "")
	s.Service = bootstrap.New(bootstrap.Config{Gate: s.Gate, Issuer: s.CA, Planner: s.Planner, Registry: s.Registry, Records: s.DB, Now: s.clock.Now, Organization: "Example",
		Pseudonym: bootstrap.Pseudonyms([]byte(strings.Repeat("k", 32)))})
	h := s.Service.Handler(bootstraptest.Problem)
	s.Serve(h)
	seen := map[string]bool{}
	for _, sn := range []string{"SN-1", "SN-2"} {
		birth, key := s.IssueIDevID(t, sn)
		first := catest.NewKey(t)
		c, r := mustBoot(t, s.Door, birth, key, first)
		n, _ := mustBoot(t, s.Door, c, first, catest.NewKey(t))
		for _, x := range []*x509.Certificate{c, n} {
			if text := strings.ToLower(fmt.Sprintf("%q", x.Raw)); strings.Contains(text, strings.ToLower(sn)) || strings.Contains(text, "example") && strings.Contains(x.Subject.String(), "Example") {
				t.Errorf("it says %s", x.Subject)
			}
			if x.Subject.CommonName != c.Subject.CommonName || len(x.Subject.CommonName) != 32 || r.Thing != "thing-"+sn {
				t.Errorf("subject %s, thing %s", x.Subject, r.Thing)
			}
		}
		if seen[c.Subject.CommonName] {
			t.Error("two devices have one pseudonym")
		}
		seen[c.Subject.CommonName] = true
		if got, err := s.connect(n); err != nil || string(got.Thing) != r.Thing {
			t.Errorf("%+v %v", got, err)
		}
	}
	clean(t, s.Door)
}
