package rotation_test

import (
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"hallmark/bootstrap"
	"hallmark/ca"
	"hallmark/ca/catest"
	"hallmark/crl"
	"hallmark/fleet/campaign"
	"hallmark/fleet/rotation"
	"hallmark/store/storetest"
)

// told is an answer of GET /bootstrap/v1/renewal.
type told struct {
	Start, End     time.Time
	Reason         string
	ExplanationURL string
	again          time.Duration
}

// window asks the device door when a certificate is to be renewed.
func (s *site) window(c *x509.Certificate) (out told) {
	s.t.Helper()
	r := httptest.NewRequest("GET", "/bootstrap/v1/renewal", nil)
	r.TLS = &tls.ConnectionState{PeerCertificates: []*x509.Certificate{c}}
	w := httptest.NewRecorder()
	must(s.t, s.Service.HandleRenewal(w, r))
	must(s.t, json.Unmarshal(w.Body.Bytes(), &out))
	seconds, err := strconv.Atoi(w.Header().Get("Retry-After"))
	must(s.t, err)
	out.again = time.Duration(seconds) * time.Second
	return out
}

// self is a device that renews by itself, over HTTPS with A.
func (d *device) self(key *ecdsa.PrivateKey) *x509.Certificate {
	d.s.t.Helper()
	r, err := d.s.Service.Register(d.s.t.Context(), bootstrap.Facts{Certificate: d.a}, bootstrap.Request{CSR: request(d.s.t, key)})
	must(d.s.t, err)
	d.b = parse(d.s.t, r.Certificate)
	return d.b
}

// reasons is the history with its reasons.
func (s *site) reasons(d *device) (out []string) {
	s.t.Helper()
	list, err := s.rotation.History(s.t.Context(), scope, d.thing, 100)
	must(s.t, err)
	for _, e := range list {
		out = append(out, string(e.What)+" "+string(e.Reason))
	}
	return out
}

// TestWindow_MovesWhenTheAuthorityIsReplacedOrCompromised: spread over the fleet for the
// one, at once for the other, with the reason; and who renews then has it in its history.
// The other tenants' windows stay. (The look-ups of plans are tested on both engines in
// package crl.)
func TestWindow_MovesWhenTheAuthorityIsReplacedOrCompromised(t *testing.T) {
	s := newSite(t, "", rotation.Rules{Spread: 48 * time.Hour})
	var fleet []*device
	for i := range 6 {
		fleet = append(fleet, s.device(fmt.Sprintf("UNIT-%d", i)))
	}
	usual := s.window(fleet[0].a)
	life := fleet[0].a.NotAfter.Sub(fleet[0].a.NotBefore)
	if usual.Reason != "expiry" || usual.Start.Before(fleet[0].a.NotBefore.Add(life/2)) || usual.again != 24*time.Hour || usual.ExplanationURL != "https://pki.example.com/why/expiry" {
		t.Errorf("%+v", usual)
	}
	// The authority is being replaced.
	s.clock.Add(time.Hour)
	since := s.clock.Now()
	must(t, s.DB.PutEnd(t.Context(), ca.End{Tenant: scope.Tenant, Authority: catest.Device, Successor: "device-2", Stage: ca.EndOverlap, Steps: []ca.EndStep{{Step: ca.StepSwitched, At: since, By: "ann"}}}, 0))
	var starts []time.Time
	for _, d := range fleet {
		w := s.window(d.a)
		if w.Reason != "rollover" || w.Start.Before(since.Truncate(time.Second)) || w.End.After(since.Add(48*time.Hour)) || w.again > time.Hour || w.ExplanationURL != "https://pki.example.com/why/rollover" || w != s.window(d.a) {
			t.Errorf("%+v", w)
		}
		starts = append(starts, w.Start)
	}
	slices.SortFunc(starts, time.Time.Compare)
	if starts[len(starts)-1].Sub(starts[0]) < time.Hour { // six certificates by chance
		t.Errorf("they are not spread: %v", starts)
	}
	s.clock.Add(48 * time.Hour)
	fleet[0].self(catest.NewKey(t))
	if got := s.reasons(fleet[0]); !slices.Equal(got, []string{"renewed request", "renewed rollover"}) {
		t.Errorf("%q", got)
	}
	// Two people decide to rotate away what it issued.
	blast := crl.NewBlast(crl.BlastConfig{Store: s.DB, Service: s.Crl, Rotator: s.turner(), Now: s.clock.Now})
	s.incidents = blast
	p, err := blast.Plan(t.Context(), storetest.Officer("ann"), crl.BlastRequest{Query: crl.BlastQuery{Authority: catest.Device}, Reason: crl.CessationOfOperation, Rotate: &crl.BlastRotation{}}, false)
	must(t, err)
	if w := s.window(fleet[1].a); w.Reason != "rollover" {
		t.Errorf("a plan that nobody approved moves the window: %+v", w)
	}
	s.clock.Add(time.Hour)
	hash := p.Hash(crl.StageRotate)
	_, err = blast.Approve(t.Context(), storetest.Officer("bob"), p.ID, crl.StageRotate, hex.EncodeToString(hash[:]))
	must(t, err)
	s.clock.Add(time.Minute)
	w := s.window(fleet[1].a)
	if w.Reason != "compromise" || w.End.After(s.clock.Now()) || w.Start.Before(s.clock.Now().Add(-5*time.Minute)) || w.again != time.Minute || w.ExplanationURL != "https://pki.example.com/why/compromise" {
		t.Errorf("%+v at %s", w, s.clock.Now())
	}
	fleet[1].self(catest.NewKey(t))
	if got := s.reasons(fleet[1]); !slices.Equal(got, []string{"renewed request", "renewed compromise"}) {
		t.Errorf("%q", got)
	}
	if a, err := s.rotation.Advise(t.Context(), "other", catest.Device, fleet[1].a); err != nil || a.Reason != campaign.Expiry {
		t.Errorf("another tenant's: %+v %v", a, err)
	}
}

// TestSettle_RetiresWhatARenewalLeft on both engines: a device that renewed by itself
// loses its old certificate only after the new one was in use, and again after the soak.
func TestSettle_RetiresWhatARenewalLeft(t *testing.T) {
	onBothEngines(t, func(t *testing.T, url string) {
		s := newSite(t, url, rotation.Rules{Soak: time.Hour})
		d, back, sleeps := s.device("UNIT-1"), s.device("UNIT-2"), s.device("UNIT-3")
		inCampaign := s.device("UNIT-4")
		s.create("c", campaign.Spec{Soak: 100 * time.Hour, Timeout: 200 * time.Hour}, inCampaign)
		s.pass(time.Second)
		inCampaign.rotate(job)
		s.pass(time.Second)
		step := func(wait time.Duration) {
			t.Helper()
			s.clock.Add(wait)
			must(t, s.rotation.Settle(t.Context(), s.campaigns))
		}
		for _, v := range []*device{d, back, sleeps} {
			v.self(catest.NewKey(t))
		}
		step(time.Minute)
		must(t, d.connect(d.b))
		must(t, back.ask(back.b))
		must(t, sleeps.connect(sleeps.b))
		sleeps.put(sleeps.b, false)
		step(time.Hour)
		step(30 * time.Minute)
		if !s.works(d.a) {
			t.Error("A is gone before the soak is over")
		}
		step(2 * time.Minute)
		must(t, back.ask(back.a))
		step(7 * time.Hour)
		step(7 * time.Hour)
		if r, revoked := s.reason(d.a); !revoked || r != crl.Superseded || !s.works(d.b) {
			t.Errorf("A: %v %v", r, revoked)
		}
		if !s.works(back.a) || !s.works(back.b) || !s.works(sleeps.a) || !s.works(inCampaign.a) {
			t.Errorf("works: %v %v %v %v", s.works(back.a), s.works(back.b), s.works(sleeps.a), s.works(inCampaign.a))
		}
		must(t, sleeps.connect(sleeps.b))
		step(7 * time.Hour)
		if s.works(sleeps.a) {
			t.Error("A of the sleeper stays for ever")
		}
		for _, v := range []struct {
			d    *device
			want string
		}{{d, "renewed A, renewed B, retired A"}, {back, "renewed A, renewed B, kept A"}, {sleeps, "renewed A, renewed B, retired A"}} {
			if h := s.history(v.d); h != v.want {
				t.Errorf("%s: %s", v.d.thing, h)
			}
		}
		if left, err := s.DB.DueRenewals(t.Context(), s.clock.Now().Add(1000*time.Hour), 100); err != nil || len(left) != 1 || !strings.EqualFold(string(left[0].Thing), string(inCampaign.thing)) {
			t.Errorf("%v %v", left, err)
		}
	})
}
