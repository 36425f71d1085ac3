package rotation_test

import (
	"testing"
	"time"

	"hallmark/access"
	"hallmark/ca"
	"hallmark/ca/catest"
	"hallmark/crl"
	"hallmark/fleet/campaign"
	"hallmark/fleet/jobs"
	"hallmark/fleet/rotation"
)

// What a device got by itself after it failed in a campaign is not the campaign's to
// take back.
func TestUndo_ACertificateThatTheDeviceGotByItselfLaterStays(t *testing.T) {
	s := newSite(t, "", rotation.Rules{})
	d := s.device("UNIT-1")
	s.create("c", campaign.Spec{Soak: time.Hour}, d)
	s.pass(time.Second)
	d.report(job, jobs.InProgress, nil)
	s.pass(time.Second)
	d.report(job, jobs.Failed, map[string]string{"step": "renew", "code": "issuer"})
	s.pass(time.Second)
	s.is("c", d, campaign.Failed, "issuer")
	s.pass(time.Hour)
	b, err := d.renew(d.a, catest.NewKey(t))
	must(t, err)
	must(t, d.connect(b))
	_, err = s.campaigns.Rollback(t.Context(), scope.Tenant, "c", "ann", "")
	must(t, err)
	s.pass(time.Second)
	s.pass(time.Second)
	d.report(job+"-undo", jobs.Succeeded, nil)
	s.pass(time.Second)
	s.is("c", d, campaign.Undone, "")
	if !s.works(b) {
		t.Errorf("the certificate in use was taken: %s", s.history(d))
	}
}

// What it got in the attempt that the rollback ended is.
func TestUndo_WhatTheUnfinishedAttemptMadeIsTaken(t *testing.T) {
	s := newSite(t, "", rotation.Rules{})
	d := s.device("UNIT-1")
	s.create("c", campaign.Spec{Soak: time.Hour}, d)
	s.pass(time.Second)
	d.report(job, jobs.InProgress, nil)
	s.pass(time.Second)
	b, err := d.renew(d.a, catest.NewKey(t))
	must(t, err)
	_, err = s.campaigns.Rollback(t.Context(), scope.Tenant, "c", "ann", "")
	must(t, err)
	s.pass(time.Second)
	s.pass(time.Second)
	d.report(job+"-undo", jobs.Succeeded, nil)
	s.pass(time.Second)
	s.is("c", d, campaign.Undone, "")
	if _, revoked := s.reason(b); !revoked || !s.works(d.a) {
		t.Errorf("B revoked: %v, A works: %v", revoked, s.works(d.a))
	}
}

// A hold of the new certificate, or of the old one, is for a time: afterwards the old one
// is still to be retired.
func TestSettle_AHoldDoesNotForgetTheRenewal(t *testing.T) {
	for _, held := range []string{"A", "B"} {
		s := newSite(t, "", rotation.Rules{})
		d := s.device("UNIT-1")
		s.clock.Add(time.Minute)
		b, err := d.renew(d.a, catest.NewKey(t))
		must(t, err)
		must(t, d.connect(b))
		d.b = b
		settle := func(after time.Duration) {
			s.clock.Add(after)
			must(t, s.rotation.Settle(t.Context(), s.campaigns))
		}
		settle(2 * time.Minute)
		c := d.a
		if held == "B" {
			c = b
		}
		serial, _ := ca.SerialFromInt(c.SerialNumber)
		by := access.Actor{Tenant: scope.Tenant, Kind: access.KindPrincipal, Name: "ann"}
		_, err = s.Crl.Revoke(t.Context(), by, crl.Withdrawal{Authority: catest.Device, Serial: serial, Reason: crl.CertificateHold, Note: "looked into"})
		must(t, err)
		settle(48 * time.Hour)
		if r, revoked := s.reason(c); !revoked || r != crl.CertificateHold {
			t.Fatalf("%s: %v %v while it is on hold", held, r, revoked)
		}
		must(t, s.Crl.Release(t.Context(), by, catest.Device, serial, "all well"))
		for range 3 {
			s.clock.Add(24 * time.Hour)
			must(t, d.connect(b))
			settle(time.Minute)
		}
		if s.works(d.a) || !s.works(b) {
			t.Errorf("after a hold of %s A works: %v, B: %v; %s", held, s.works(d.a), s.works(b), s.history(d))
		}
	}
}

// Who cancels the campaign of the scan does not blind it: what is due is counted on.
func TestScan_ACancelledCampaignIsLeftAloneAndTheScanGoesOn(t *testing.T) {
	s := newSite(t, "", rotation.Rules{Window: 20 * 365 * 24 * time.Hour, Campaign: &campaign.Spec{Soak: time.Hour}})
	s.device("UNIT-1")
	if out, err := s.rotation.Scan(t.Context(), scope.Tenant, s.campaigns); err != nil || out.Fed != 1 {
		t.Fatalf("%+v, %v", out, err)
	}
	_, err := s.campaigns.Cancel(t.Context(), scope.Tenant, rotation.ExpiryCampaign, "ann", "")
	must(t, err)
	s.device("UNIT-2")
	if out, err := s.rotation.Scan(t.Context(), scope.Tenant, s.campaigns); err != nil || out.Due != 2 || out.Fed != 0 {
		t.Errorf("%+v, %v", out, err)
	}
}
