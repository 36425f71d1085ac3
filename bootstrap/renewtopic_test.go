package bootstrap_test

import (
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"testing"
	"time"

	paho "github.com/eclipse/paho.mqtt.golang"

	"hallmark/access"
	"hallmark/bootstrap"
	"hallmark/bootstrap/bootstraptest"
	"hallmark/ca"
	"hallmark/ca/catest"
	"hallmark/crl"
	"hallmark/fleet"
	"hallmark/fleet/registry"
	"hallmark/fleet/rotation"
)

// renewAnswer is what a device gets at …/accepted or …/rejected.
type renewAnswer struct {
	Topic       string
	Certificate string    `json:"certificatePem"`
	Chain       string    `json:"chainPem"`
	ID          string    `json:"certificateId"`
	Serial      string    `json:"serial"`
	NotAfter    time.Time `json:"notAfter"`
	Status      string    `json:"status"`
	Renew       struct{ Start, End time.Time }
	Token       string `json:"clientToken"`
	Code        string `json:"code"`
	Message     string `json:"message"`
}

// renewer is a device that asks over MQTT.
type renewer struct {
	t     *testing.T
	s     *site
	thing string
	p     paho.Client
	in    chan paho.Message
}

func (s *site) renewer(t *testing.T, addr, thing string, c *x509.Certificate, key *ecdsa.PrivateKey) *renewer {
	t.Helper()
	p, in, err := s.dial(t, addr, thing, c, key)
	must(t, err)
	return &renewer{t, s, thing, p, in}
}

func (r *renewer) send(thing string, body []byte) {
	r.t.Helper()
	if tok := r.p.Publish("$hallmark/things/"+thing+"/certificate/renew", 1, false, body); !tok.WaitTimeout(10 * time.Second) {
		r.t.Fatal("no PUBACK")
	}
}

func (r *renewer) answer() (out renewAnswer) {
	r.t.Helper()
	select {
	case m := <-r.in:
		must(r.t, json.Unmarshal(m.Payload(), &out))
		out.Topic = m.Topic()
	case <-time.After(20 * time.Second):
		r.t.Fatal("no answer")
	}
	return out
}

// ask sends a CSR for a key.
func (r *renewer) ask(key *ecdsa.PrivateKey, token string) renewAnswer {
	r.t.Helper()
	body, err := json.Marshal(map[string]any{"csr": string(r.s.request(r.t, key)), "clientToken": token})
	must(r.t, err)
	r.send(r.thing, body)
	return r.answer()
}

func (r *renewer) accepted(key *ecdsa.PrivateKey) (*x509.Certificate, renewAnswer) {
	r.t.Helper()
	a := r.ask(key, "tok")
	if a.Topic != "$hallmark/things/"+r.thing+"/certificate/renew/accepted" || a.Token != "tok" {
		r.t.Fatalf("%+v", a)
	}
	return leafOf(r.t, a.Certificate), a
}

func (r *renewer) rejected(a renewAnswer, code string) {
	r.t.Helper()
	if a.Topic != "$hallmark/things/"+r.thing+"/certificate/renew/rejected" || a.Code != code || a.Message == "" {
		r.t.Errorf("%+v, not %s", a, code)
	}
}

// TestA50_ADeviceRenewsOverTheConnectionOfItsCertificate without a policy for it, with
// a client that is not ours, on both engines: the answer comes to the asking
// connection, again for the same key, and the new certificate is pending until it
// connects (S15). The one that asks stays good all the time.
func TestA50_ADeviceRenewsOverTheConnectionOfItsCertificate(t *testing.T) {
	engines(t, func(t *testing.T, url string) {
		s := newSite(t, url)
		addr := s.serve(t)
		birth, birthKey := s.IssueIDevID(t, "UNIT-1")
		bootKey := catest.NewKey(t)
		booted, _ := mustBoot(t, s.Door, birth, birthKey, bootKey)
		claimed, claimedKey := s.claimed(t, "SN-1")
		for _, d := range []struct {
			c   *x509.Certificate
			key *ecdsa.PrivateKey
		}{{booted, bootKey}, {claimed, claimedKey}} {
			a, err := s.connect(d.c)
			must(t, err)
			r := s.renewer(t, addr, string(a.Thing), d.c, d.key)
			next := catest.NewKey(t)
			b, first := r.accepted(next)
			if !next.PublicKey.Equal(b.PublicKey) || first.ID != registry.CertificateID(b.Raw) || first.Chain == "" || first.Serial != b.SerialNumber.Text(16) || !first.NotAfter.Equal(b.NotAfter) || first.Status != "PENDING_ACTIVATION" {
				t.Errorf("%+v", first)
			}
			if life := b.NotAfter.Sub(b.NotBefore); first.Renew.Start.Before(b.NotBefore.Add(life/2)) || first.Renew.End.After(b.NotBefore.Add(life*67/100+time.Second)) || !first.Renew.Start.Before(first.Renew.End) {
				t.Errorf("window %v of %v to %v", first.Renew, b.NotBefore, b.NotAfter)
			}
			if again, _ := r.accepted(next); !again.Equal(b) || s.status(t, b) != fleet.PendingActivation {
				t.Errorf("the same key got %v, %s", again.SerialNumber, s.status(t, b))
			}
			if _, _, err := s.dial(t, addr, string(a.Thing), b, next); err != nil {
				t.Errorf("the new certificate: %v", err)
			}
			if s.status(t, b) != fleet.Active {
				t.Errorf("it is %s", s.status(t, b))
			}
			if _, err := s.connect(d.c); err != nil {
				t.Errorf("the old certificate: %v", err)
			}
		}
		clean(t, s.Door)
	})
}

// TestA50_RenewalNeverTakesTheCertificateThatAsks: however many keys a device makes
// with A, B is superseded and not A; at most one extra is live.
func TestA50_RenewalNeverTakesTheCertificateThatAsks(t *testing.T) {
	s := newSite(t, "")
	addr := s.serve(t)
	c, key := s.claimed(t, "SN-1")
	r := s.renewer(t, addr, "fp_SN-1", c, key)
	for range 4 {
		r.accepted(catest.NewKey(t))
	}
	must(t, s.Set.Follow(t.Context()))
	if _, err := s.connect(c); err != nil {
		t.Errorf("the certificate that asks: %v", err)
	}
	live := 0
	all, err := s.DB.Records(t.Context(), ca.RecordQuery{Tenant: scope.Tenant, Holder: holderOf(t, s, c), Profile: "ldevid"})
	must(t, err)
	for i := range all {
		if all[i].Status(s.clock.Now()) == "good" {
			live++
		}
	}
	if live != 2 {
		t.Errorf("%d of %d certificates are live", live, len(all))
	}
	clean(t, s.Door)
}

// TestRenewal_OverMQTTIsForTheOwnThing, and what it refuses has the codes of the device
// door.
func TestRenewal_OverMQTTIsForTheOwnThing(t *testing.T) {
	s := newSite(t, "")
	addr := s.serve(t)
	c, key := s.claimed(t, "SN-1")
	s.claimed(t, "SN-2")
	r := s.renewer(t, addr, "fp_SN-1", c, key)
	r.send("fp_SN-1", []byte(`{"csr": 5}`))
	if a := r.answer(); a.Code == "" || a.Topic != "$hallmark/things/fp_SN-1/certificate/renew/rejected" {
		t.Errorf("%+v", a)
	}
	r.rejected(r.ask(key, "x"), "register-key-reused")
	if tok := r.p.Subscribe("$hallmark/things/fp_SN-1/certificate/renew/+", 1, nil); !tok.WaitTimeout(10*time.Second) || tok.Error() != nil {
		t.Errorf("subscription to the own answers: %v", tok.Error())
	}
	for _, filter := range []string{"$hallmark/things/+/certificate/renew/accepted", "$hallmark/things/fp_SN-2/#", "$hallmark/#"} {
		tok := r.p.Subscribe(filter, 1, nil)
		tok.WaitTimeout(10 * time.Second)
		if granted := tok.(*paho.SubscribeToken).Result()[filter]; granted != 0x80 {
			t.Errorf("subscription to %s: %d", filter, granted)
		}
	}
	// Another thing's topic ends the connection, as every publish that is refused.
	r.send("fp_SN-2", []byte(`{}`))
	for end := time.Now().Add(20 * time.Second); r.p.IsConnectionOpen(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("it published to another thing's topic and is still there")
		}
	}
}

// TestS30_WhatRotationHeldIsReplacedByTheDevicesNextKey and nobody else's hold is.
func TestS30_WhatRotationHeldIsReplacedByTheDevicesNextKey(t *testing.T) {
	s := newSite(t, "")
	addr := s.serve(t)
	c, key := s.claimed(t, "SN-1")
	r := s.renewer(t, addr, "fp_SN-1", c, key)
	hold := func(c *x509.Certificate, by access.Actor) {
		t.Helper()
		_, err := s.Crl.Revoke(t.Context(), by, crl.Withdrawal{Authority: catest.Device, Serial: serial(c), Reason: crl.CertificateHold, Note: "test"})
		must(t, err)
		must(t, s.Set.Follow(t.Context()))
	}
	b, _ := r.accepted(catest.NewKey(t))
	hold(b, rotation.Actor(scope.Tenant))
	next, _ := r.accepted(catest.NewKey(t))
	must(t, s.Set.Follow(t.Context()))
	s.refused(t, b, bootstrap.ErrRevoked)
	if _, err := s.connect(next); err != nil {
		t.Error(err)
	}
	// A person's hold on the other slot refuses.
	hold(next, s.owner)
	r.rejected(r.ask(catest.NewKey(t), "y"), "identity-revoked")
	clean(t, s.Door)
}

// TestRenewal_TheDoorSaysWhen: a window that is the same each time, and Retry-After.
func TestRenewal_TheDoorSaysWhen(t *testing.T) {
	d := bootstraptest.New(t, bootstraptest.Options{})
	birth, birthKey := d.IssueIDevID(t, "UNIT-1")
	key := catest.NewKey(t)
	c, reg := mustBoot(t, d, birth, birthKey, key)
	var got struct{ Start, End time.Time }
	must(t, json.Unmarshal(d.Dial(t, c, key).Do(t, "/bootstrap/v1/renewal", nil).Body, &got))
	if reg.Renew == nil || !reg.Renew.Start.Equal(got.Start) || !reg.Renew.End.Equal(got.End) || got.Start.Before(time.Now()) {
		t.Errorf("%+v, registration %+v", got, reg.Renew)
	}
}

func holderOf(t *testing.T, s *site, c *x509.Certificate) string {
	t.Helper()
	a, err := s.connect(c)
	must(t, err)
	return a.Holder
}
