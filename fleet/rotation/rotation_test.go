package rotation_test

import (
	"encoding/json"
	"testing"
	"time"

	"hallmark/ca/catest"
	"hallmark/crl"
	"hallmark/fleet/campaign"
	"hallmark/fleet/jobs"
	"hallmark/fleet/rotation"
)

const job = "campaign-c"

// TestA50_AStaysUntilBProvedItselfAndTheSoakIsOver on both engines, and then it is
// revoked as superseded; the birth certificate is not touched.
func TestA50_AStaysUntilBProvedItselfAndTheSoakIsOver(t *testing.T) {
	onBothEngines(t, func(t *testing.T, url string) {
		s := newSite(t, url, rotation.Rules{})
		d, other := s.device("UNIT-1"), s.device("UNIT-2")
		s.create("c", campaign.Spec{Soak: time.Hour, Timeout: 6 * time.Hour}, d, other)
		s.pass(time.Second)
		var doc map[string]any
		j, err := s.jobs.Job(t.Context(), scope.Tenant, job)
		must(t, err)
		must(t, json.Unmarshal([]byte(j.Document), &doc))
		if renew, _ := doc["renew"].(map[string]any); doc["operation"] != "rotate-certificate" || doc["reason"] != "expiry" || renew["mqtt"] != rotation.RenewTopic || renew["https"] != "https://devices.example.com:9443/bootstrap/v1/register" {
			t.Errorf("%s", j.Document)
		}
		d.rotate(job)
		s.pass(time.Second)
		s.is("c", d, campaign.Soaking, "")
		if !s.works(d.a) || !s.works(d.b) || s.live(d) != 2 {
			t.Errorf("in the soak A works: %v, B: %v; %d live", s.works(d.a), s.works(d.b), s.live(d))
		}
		s.pass(2 * time.Hour)
		s.is("c", d, campaign.Done, "")
		if r, revoked := s.reason(d.a); !revoked || r != crl.Superseded || !s.works(d.b) || !s.works(d.birth) || s.live(d) != 1 {
			t.Errorf("A is revoked: %v %v; B works: %v; %d live", revoked, r, s.works(d.b), s.live(d))
		}
		if h := s.history(d); h != "renewed A, renewed B, retired A" {
			t.Errorf("history: %s", h)
		}
		if !s.works(other.a) {
			t.Error("the device that did nothing lost A")
		}
		// Who has the new one is not asked again.
		s.create("again", campaign.Spec{Parameters: json.RawMessage(`{"issuedBefore":"2020-01-01T00:00:00Z"}`)}, d)
		s.pass(time.Second)
		s.is("again", d, campaign.Skipped, "already-new")
	})
}

// TestA50_SUCCEEDEDIsNoProof: what was never seen connected is put on hold when its
// time is over, and not revoked (S30); A stays, and the next rotation succeeds.
func TestA50_SUCCEEDEDIsNoProof(t *testing.T) {
	s := newSite(t, "", rotation.Rules{})
	d := s.device("UNIT-1")
	s.create("c", campaign.Spec{Soak: time.Hour, Timeout: time.Hour}, d)
	s.pass(time.Second)
	d.report(job, jobs.InProgress, nil)
	b, err := d.renew(d.a, catest.NewKey(t))
	must(t, err)
	d.report(job, jobs.Succeeded, map[string]string{"certificateId": idOf(b)})
	d.b = b
	for range 5 {
		s.pass(10 * time.Minute)
		s.is("c", d, campaign.Proving, "")
	}
	s.pass(20 * time.Minute)
	s.is("c", d, campaign.TimedOut, "not-proven")
	if r, revoked := s.reason(b); !revoked || r != crl.CertificateHold || !s.works(d.a) {
		t.Errorf("B: %v %v; A works: %v", revoked, r, s.works(d.a))
	}
	if h := s.history(d); h != "renewed A, renewed B, held B" {
		t.Errorf("history: %s", h)
	}
	for range 40 { // no timer revokes it
		s.pass(24 * time.Hour)
	}
	if r, _ := s.reason(b); r != crl.CertificateHold {
		t.Errorf("B: %v", r)
	}
	s.create("c2", campaign.Spec{Soak: time.Hour}, d)
	s.pass(time.Second)
	d.rotate("campaign-c2")
	s.pass(time.Second)
	s.is("c2", d, campaign.Soaking, "")
}

// TestA50_BIsNotHeldWhenItIsAllThatTheDeviceHas: A ended or was revoked meanwhile.
func TestA50_BIsNotHeldWhenItIsAllThatTheDeviceHas(t *testing.T) {
	s := newSite(t, "", rotation.Rules{})
	d := s.device("UNIT-1")
	s.create("c", campaign.Spec{Soak: time.Hour, Timeout: time.Hour}, d)
	s.pass(time.Second)
	d.report(job, jobs.InProgress, nil)
	b, err := d.renew(d.a, catest.NewKey(t))
	must(t, err)
	s.Revoke(t, d.a, crl.PrivilegeWithdrawn)
	s.pass(2 * time.Hour)
	s.is("c", d, campaign.TimedOut, "timed-out")
	if !s.works(b) {
		t.Error("the only certificate of the device was held")
	}
}

// TestRotation_AFallBackInTheSoakKeepsBoth: the device was seen with B and went back,
// so A is not retired, and nothing is taken from it.
func TestRotation_AFallBackInTheSoakKeepsBoth(t *testing.T) {
	s := newSite(t, "", rotation.Rules{})
	d := s.device("UNIT-1")
	s.create("c", campaign.Spec{Soak: time.Hour, Timeout: 6 * time.Hour}, d)
	s.pass(time.Second)
	d.rotate(job)
	s.pass(time.Second)
	s.is("c", d, campaign.Soaking, "")
	s.clock.Add(time.Minute)
	must(t, d.connect(d.a))
	s.pass(2 * time.Hour)
	s.is("c", d, campaign.Failed, "fell-back")
	if !s.works(d.a) || !s.works(d.b) {
		t.Errorf("A works: %v, B: %v", s.works(d.a), s.works(d.b))
	}
}

// TestRotation_ASleeperIsNotRetired: a device that was not seen with B since the soak
// began keeps A until it was.
func TestRotation_ASleeperIsNotRetired(t *testing.T) {
	s := newSite(t, "", rotation.Rules{})
	d := s.device("UNIT-1")
	s.create("c", campaign.Spec{Soak: time.Hour, Timeout: 6 * time.Hour, Silence: 365 * 24 * time.Hour}, d)
	s.pass(time.Second)
	d.rotate(job)
	d.put(d.b, false) // it was seen, and is gone again before the soak
	for range 10 {
		s.pass(24 * time.Hour)
		s.is("c", d, campaign.Soaking, "")
	}
	if !s.works(d.a) {
		t.Error("A was retired")
	}
	must(t, d.connect(d.b))
	s.pass(24 * time.Hour)
	s.is("c", d, campaign.Done, "")
}

// TestRotation_RollBackTakesBWhileALives, and not where A is retired.
func TestRotation_RollBackTakesBWhileALives(t *testing.T) {
	s := newSite(t, "", rotation.Rules{})
	d, done := s.device("UNIT-1"), s.device("UNIT-2")
	s.create("c", campaign.Spec{Soak: time.Hour, Timeout: 6 * time.Hour}, d, done)
	s.pass(time.Second)
	done.rotate(job)
	s.pass(time.Second)
	s.pass(2 * time.Hour)
	s.is("c", done, campaign.Done, "")
	d.rotate(job)
	s.pass(time.Second)
	_, err := s.campaigns.Rollback(t.Context(), scope.Tenant, "c", "ann", "test")
	must(t, err)
	s.pass(time.Second)
	s.pass(time.Second)
	must(t, d.connect(d.a)) // as the job says
	d.report(job+"-undo", jobs.Succeeded, nil)
	s.pass(time.Second)
	s.is("c", d, campaign.Undone, "")
	if r, revoked := s.reason(d.b); !revoked || r != crl.Superseded || !s.works(d.a) {
		t.Errorf("B: %v %v; A works: %v", revoked, r, s.works(d.a))
	}
	s.is("c", done, campaign.Done, "")
	if !s.works(done.b) {
		t.Error("what was finished was taken back")
	}
}

// TestA50_ADeviceThatSpeaksOnlyHTTPSProvesItselfByARequest; and one that goes back to A
// keeps both.
func TestA50_ADeviceThatSpeaksOnlyHTTPSProvesItselfByARequest(t *testing.T) {
	s := newSite(t, "", rotation.Rules{})
	d, back := s.device("UNIT-1"), s.device("UNIT-2")
	for _, v := range []*device{d, back} {
		v.put(v.a, false) // it was on MQTT once, long ago
	}
	s.clock.Add(24 * time.Hour)
	s.create("c", campaign.Spec{Soak: time.Hour, Timeout: 6 * time.Hour}, d, back)
	s.pass(time.Second)
	for _, v := range []*device{d, back} {
		must(t, v.ask(v.a))
		v.report(job, jobs.InProgress, nil)
		b, err := v.renew(v.a, catest.NewKey(t))
		must(t, err)
		v.b = b
		v.report(job, jobs.Succeeded, map[string]string{"certificateId": idOf(b)})
		s.pass(time.Second)
		s.is("c", v, campaign.Proving, "") // what it says is no proof
		must(t, v.ask(b))
		s.pass(10 * time.Minute)
		s.is("c", v, campaign.Soaking, "")
	}
	for range 4 { // back goes back, d asks every half an hour
		s.pass(30 * time.Minute)
		must(t, d.ask(d.b))
		must(t, back.ask(back.a))
	}
	s.pass(time.Hour)
	s.is("c", d, campaign.Done, "")
	if r, revoked := s.reason(d.a); !revoked || r != crl.Superseded {
		t.Errorf("A: %v %v", r, revoked)
	}
	s.is("c", back, campaign.Failed, "fell-back")
	if !s.works(back.a) || !s.works(back.b) {
		t.Errorf("A works: %v, B: %v", s.works(back.a), s.works(back.b))
	}
}
