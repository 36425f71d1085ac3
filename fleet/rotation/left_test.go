package rotation_test

import (
	"context"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/ca/catest"
	"hallmark/crl"
	"hallmark/fleet"
	"hallmark/fleet/campaign"
	"hallmark/fleet/jobs"
	"hallmark/fleet/rollout"
	"hallmark/fleet/rotation"
)

// look is what the service does with things of which a certificate was changed.
func (s *site) look(devices ...*device) {
	s.t.Helper()
	for _, d := range devices {
		must(s.t, s.campaigns.LookSoon(context.Background(), scope.Tenant, d.thing))
	}
	s.pass(time.Second)
}

// TestCampaign_WhoWasRevokedEndsAtOnce, however far it came, and is neither a success nor
// a failure; who still has a certificate, or is on hold, goes on.
func TestCampaign_WhoWasRevokedEndsAtOnce(t *testing.T) {
	onBothEngines(t, func(t *testing.T, url string) {
		s := newSite(t, url, rotation.Rules{})
		var all []*device
		for _, unit := range []string{"offered", "away", "working", "proving", "soaking", "held", "one-left"} {
			all = append(all, s.device("UNIT-"+unit))
		}
		offered, away, working, proving, soaking, held, left := all[0], all[1], all[2], all[3], all[4], all[5], all[6]
		s.clock.Add(time.Hour)
		away.put(away.a, false)
		s.create("c", campaign.Spec{Soak: 240 * time.Hour, Timeout: 100 * time.Hour, Silence: 300 * time.Hour, Abort: rollout.Abort{Criteria: []rollout.AbortCriterion{{FailureType: "ALL", Action: "CANCEL", Percentage: 1, MinExecuted: 1}}}}, all...)
		s.pass(time.Second)
		for _, d := range []*device{working, proving} {
			d.report(job, jobs.InProgress, nil)
		}
		left.report(job, jobs.InProgress, nil)
		proving.report(job, jobs.Succeeded, nil)
		soaking.rotate(job)
		b, err := left.renew(left.a, catest.NewKey(t))
		must(t, err)
		left.b = b
		s.pass(time.Second)
		for d, want := range map[*device]campaign.MemberState{offered: campaign.Offered, away: campaign.Offered, working: campaign.Working, proving: campaign.Proving, soaking: campaign.Soaking} {
			s.is("c", d, want, "")
		}
		for _, d := range []*device{offered, away, working, proving, soaking} {
			s.Revoke(t, d.a, crl.PrivilegeWithdrawn)
		}
		s.Revoke(t, soaking.b, crl.PrivilegeWithdrawn)
		s.Revoke(t, left.a, crl.PrivilegeWithdrawn)
		s.Revoke(t, held.a, crl.CertificateHold)
		s.look(all...)
		for _, d := range []*device{offered, away, working, proving, soaking} {
			s.is("c", d, campaign.Skipped, "certificates-revoked")
		}
		s.is("c", held, campaign.Offered, "")
		s.is("c", left, campaign.Working, "")
		c, err := s.campaigns.Campaign(t.Context(), scope, "c")
		must(t, err)
		if got := c.Counts.Tally(); c.State != campaign.Running || got != (rollout.Tally{}) {
			t.Errorf("%s %s %+v", c.State, c.Code, got)
		}
		if got, err := s.campaigns.Failures(t.Context(), scope, "c"); err != nil || len(got) != 1 || got[0] != (campaign.Failure{State: campaign.Skipped, Code: "certificates-revoked", Members: 5}) {
			t.Errorf("the report: %+v %v", got, err)
		}
		// What was offered cannot begin later.
		if e, err := s.jobs.Attempts(t.Context(), scope, job, []jobs.Enlisted{{Thing: away.thing, Number: 1}}); err != nil || e[0].Status.Pending() {
			t.Errorf("%+v %v", e, err)
		}
	})
}

// TestCampaign_WhoWasRevokedIsFoundThoughNobodyTellsOfIt: the service may die before it
// heard, and looks at a device that sleeps once in a time-out.
func TestCampaign_WhoWasRevokedIsFoundThoughNobodyTellsOfIt(t *testing.T) {
	s := newSite(t, "", rotation.Rules{})
	d := s.device("UNIT-1")
	s.clock.Add(time.Hour)
	d.put(d.a, false)
	s.create("c", campaign.Spec{Timeout: 100 * time.Hour}, d)
	for range 5 {
		s.pass(40 * time.Hour)
	}
	s.is("c", d, campaign.Asleep, "asleep")
	s.Revoke(t, d.a, crl.PrivilegeWithdrawn)
	s.pass(101 * time.Hour)
	s.is("c", d, campaign.Skipped, "certificates-revoked")
}

// TestCampaign_ADeviceThatLeftEndsAtOnce: released, reset or taken out of use.
func TestCampaign_ADeviceThatLeftEndsAtOnce(t *testing.T) {
	s := newSite(t, "", rotation.Rules{})
	d, soaking, stays := s.device("UNIT-1"), s.device("UNIT-2"), s.device("UNIT-3")
	s.create("c", campaign.Spec{Soak: time.Hour}, d, soaking, stays)
	s.pass(time.Second)
	soaking.rotate(job)
	s.pass(time.Second)
	s.is("c", soaking, campaign.Soaking, "")
	for _, gone := range []*device{d, soaking} {
		_, err := s.Crl.RetireDevice(t.Context(), access.Actor{Tenant: scope.Tenant, Kind: access.KindService, Name: "ownership"}, gone.birth.Subject.SerialNumber, crl.CessationOfOperation, "out of use")
		must(t, err)
		must(t, s.Registry.Retire(t.Context(), scope, gone.thing))
	}
	s.look(d, soaking, stays)
	s.is("c", d, campaign.Skipped, "device-left")
	s.is("c", soaking, campaign.Skipped, "device-left")
	s.is("c", stays, campaign.Offered, "")
}

// TestLookSoon_WhoWaitsIsNotHurried: only what is under way is looked at.
func TestLookSoon_WhoWaitsIsNotHurried(t *testing.T) {
	s := newSite(t, "", rotation.Rules{})
	d, stranger := s.device("UNIT-1"), s.device("UNIT-2")
	s.create("c", campaign.Spec{Jitter: 300 * 24 * time.Hour}, d)
	s.pass(time.Second)
	s.is("c", d, campaign.Waiting, "")
	for range 2 {
		s.look(d, stranger)
	}
	must(t, s.campaigns.LookSoon(t.Context(), "other", d.thing, fleet.ThingName("nobody")))
	s.is("c", d, campaign.Waiting, "")
	if _, err := s.campaigns.Member(t.Context(), scope, "c", stranger.thing); err == nil {
		t.Error("a stranger came into the campaign")
	}
}
