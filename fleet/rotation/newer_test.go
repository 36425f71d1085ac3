package rotation_test

import (
	"testing"
	"time"

	"hallmark/bootstrap"
	"hallmark/ca/catest"
	"hallmark/fleet/campaign"
	"hallmark/fleet/jobs"
	"hallmark/fleet/rotation"
)

// A device whose clock was wrong registers anew after it told of B: what it uses in the
// end is its new certificate, and the campaign says so.
func TestA50_WhatTheDeviceGotAfterBCounts(t *testing.T) {
	t.Run("before the soak", func(t *testing.T) { gotAfterB(t, false) })
	t.Run("in the soak", func(t *testing.T) { gotAfterB(t, true) })
}

func gotAfterB(t *testing.T, soaking bool) {
	s := newSite(t, "", rotation.Rules{})
	d := s.device("UNIT-1")
	s.create("c", campaign.Spec{Soak: time.Hour, Timeout: time.Hour}, d)
	s.pass(time.Second)
	d.report(job, jobs.InProgress, nil)
	b, err := d.renew(d.a, catest.NewKey(t))
	must(t, err)
	s.pass(time.Second)
	must(t, d.connect(b))
	d.report(job, jobs.Succeeded, map[string]string{"certificateId": idOf(b)})
	if soaking {
		s.pass(time.Second)
		s.is("c", d, campaign.Soaking, "")
	}
	s.clock.Add(time.Second)
	r, err := s.Service.Register(t.Context(), bootstrap.Facts{Certificate: d.birth}, bootstrap.Request{CSR: request(t, catest.NewKey(t))})
	must(t, err)
	c := parse(t, r.Certificate)
	must(t, d.connect(c))
	s.pass(time.Second)
	s.is("c", d, campaign.Soaking, "")
	s.pass(2 * time.Hour)
	s.is("c", d, campaign.Done, "")
	if m := s.member("c", d); m.After != idOf(c) {
		t.Errorf("proven is %s, not %s: %+v", m.After, idOf(c), m)
	}
	if !s.works(c) || s.works(d.a) {
		t.Errorf("C works: %v, A: %v", s.works(c), s.works(d.a))
	}
}
