package bootstrap_test

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/bootstrap"
	"hallmark/ca/catest"
	"hallmark/ca/profile"
	"hallmark/crl"
	"hallmark/fleet"
	"hallmark/fleet/registry"
	"hallmark/provisioner"
)

func TestJITP_TheFirstConnectionRegistersAndTheSecondWorks(t *testing.T) {
	engines(t, func(t *testing.T, url string) {
		s := newSite(t, url)
		a := s.register(t, "Maker CA", "jitp")
		c := a.device(t, "press-1", "SN-1")
		s.refused(t, c, bootstrap.ErrRegistered)
		got, err := s.connect(c)
		if err != nil || got.Thing != "press-1" || got.Tenant != access.DefaultTenant || got.Claim || got.CertificateID != registry.CertificateID(c.Raw) || got.Authority != "" || !got.NotAfter.Equal(c.NotAfter) {
			t.Fatalf("%+v %v", got, err)
		}
		must(t, s.door.Recheck(t.Context(), &got))
		th, err := s.Registry.Get(t.Context(), scope, "press-1")
		if err != nil || th.Attributes["sn"] != "SN-1" || th.RegisteredBy != a.rec.ID {
			t.Errorf("%+v %v", th, err)
		}
		set, err := s.Registry.Bind(t.Context(), registry.Connection{Tenant: access.DefaultTenant, Certificate: c, ClientID: "press-1"})
		if err != nil || !set.Allows("iot:Connect", "client/press-1") || set.Allows("iot:Connect", "client/press-2") {
			t.Errorf("the template's policy does not count: %v", err)
		}
		if n := len(s.bus.events()); n != 0 {
			t.Errorf("%d events of a certificate that a template registered", n)
		}
		clean(t, s.Door)
	})
}

// TestJITP_ADeviceThatCameBeforeItsCAIsTakenOnceTheCAIsOpen: what was refused because
// no CA vouched for it is looked at again when one does, and not a minute later; until
// then, a loop costs no look-up.
func TestJITP_ADeviceThatCameBeforeItsCAIsTakenOnceTheCAIsOpen(t *testing.T) {
	engines(t, func(t *testing.T, url string) {
		s := newSite(t, url)
		ctx := t.Context()
		a := s.newCA(t, "Late CA")
		c := a.device(t, "press-1", "SN-1")
		s.refused(t, c, bootstrap.ErrUnknown)
		s.clock.Add(2 * time.Second)
		s.refused(t, c, bootstrap.ErrUnknown)

		// Registered, but closed; then active, but not for devices that nobody knows.
		var err error
		a.rec, err = s.byoc.RegisterCA(ctx, s.owner, registry.CARegistration{Certificate: a.cert, Verification: s.verification(t, a, scope)})
		must(t, err)
		must(t, s.Planner.PutRegistration(ctx, provisioner.Registration{Tenant: access.DefaultTenant, Authority: a.rec.Registration(), Template: "jitp", Enabled: true}))
		s.refused(t, c, bootstrap.ErrDoorClosed)
		active, on := registry.CAActive, true
		s.clock.Add(2 * time.Second)
		_, err = s.Registry.UpdateCA(ctx, scope, a.rec.ID, registry.CAChange{Status: &active})
		must(t, err)
		s.refused(t, c, bootstrap.ErrDoorClosed)
		s.clock.Add(2 * time.Second)
		_, err = s.Registry.UpdateCA(ctx, scope, a.rec.ID, registry.CAChange{AutoRegistration: &on})
		must(t, err)
		s.refused(t, c, bootstrap.ErrRegistered)
		if got, err := s.connect(c); err != nil || got.Thing != "press-1" {
			t.Errorf("%+v %v", got, err)
		}
	})
}

// TestJITP_TwoHundredConnectionsMakeOneRegistration is the exactly-once promise,
// over two doors on one database: two processes.
func TestJITP_TwoHundredConnectionsMakeOneRegistration(t *testing.T) {
	engines(t, func(t *testing.T, url string) {
		s := newSite(t, url)
		a := s.register(t, "Maker CA", "jitp")
		second := bootstrap.NewDoor(bootstrap.DoorConfig{Gate: s.Gate, Registry: s.Registry, Grants: s.DB, Planner: s.Planner, Publisher: s.bus, Now: s.clock.Now})
		c := a.device(t, "press-1", "SN-1")
		var wg sync.WaitGroup
		errs := make([]error, 200)
		for i := range errs {
			wg.Go(func() {
				d := s.door
				if i%2 == 1 {
					d = second
				}
				_, errs[i] = d.Admit(context.Background(), &tls.ConnectionState{PeerCertificates: []*x509.Certificate{c}})
			})
		}
		wg.Wait()
		for _, err := range errs {
			if err != nil && !errors.Is(err, bootstrap.ErrRegistered) {
				t.Errorf("%v", err)
			}
		}
		got, err := s.connect(c)
		if err != nil || got.Thing != "press-1" {
			t.Fatalf("%+v %v", got, err)
		}
		page, err := s.Registry.List(t.Context(), scope, registry.Query{})
		if err != nil || len(page.Things) != 1 || page.Things[0].Version != 1 {
			t.Errorf("things %+v %v", page.Things, err)
		}
		all, err := s.Registry.Certificates(t.Context(), scope, registry.CertificateQuery{})
		if err != nil || len(all) != 1 {
			t.Errorf("%d certificates, %v", len(all), err)
		}
		b, err := s.DB.Budget(t.Context(), scope, bootstrap.CABudget(a.rec.ID))
		if err != nil || b.Used != 1 {
			t.Errorf("the budget counts %d, %v", b.Used, err)
		}
		clean(t, s.Door)
	})
}

// TestA48_ATemplateThatAsksForMoreRegistersNoDevice: the certificate waits, there
// is no thing, and a device in a loop changes nothing.
func TestA48_ATemplateThatAsksForMoreRegistersNoDevice(t *testing.T) {
	engines(t, func(t *testing.T, url string) {
		s := newSite(t, url)
		a := s.register(t, "Maker CA", "jitp")
		c := a.device(t, "press-1", "") // the template wants a serialNumber
		for range 3 {
			s.refused(t, c, bootstrap.ErrParked)
			s.clock.Add(time.Minute)
		}
		if s.status(t, c) != fleet.PendingActivation {
			t.Errorf("it is %s", s.status(t, c))
		}
		if _, err := s.Registry.Get(t.Context(), scope, "press-1"); !errors.Is(err, registry.ErrThingUnknown) {
			t.Errorf("there is a thing: %v", err)
		}
		// The template is corrected: the next connection registers.
		s.template(t, "jitp", "jitp", `{"Parameters": {"AWS::IoT::Certificate::CommonName": {"Type": "String"}, "AWS::IoT::Certificate::Id": {"Type": "String"}}, "Resources": {
			"thing": {"Type": "AWS::IoT::Thing", "Properties": {"ThingName": {"Ref": "AWS::IoT::Certificate::CommonName"}}},
			"certificate": {"Type": "AWS::IoT::Certificate", "Properties": {"CertificateId": {"Ref": "AWS::IoT::Certificate::Id"}}}}}`)
		s.clock.Add(time.Minute)
		s.refused(t, c, bootstrap.ErrRegistered)
		if got, err := s.connect(c); err != nil || got.Thing != "press-1" {
			t.Errorf("%+v %v", got, err)
		}
	})
}

// TestDoor_RefusesWhatNobodyVouchesFor gives each reason its own fault (A12, A48, S41).
func TestDoor_RefusesWhatNobodyVouchesFor(t *testing.T) {
	s := newSite(t, "")
	ctx := t.Context()
	a := s.register(t, "Maker CA", "jitp")
	unknown := s.newCA(t, "Maker CA") // same name, another key
	s.refused(t, unknown.device(t, "press-1", "SN-1"), bootstrap.ErrUnknown)

	inactive, auto := registry.CAInactive, false
	active, on := registry.CAActive, true
	_, err := s.Registry.UpdateCA(ctx, scope, a.rec.ID, registry.CAChange{Status: &inactive})
	must(t, err)
	c := a.device(t, "press-1", "SN-1")
	s.refused(t, c, bootstrap.ErrDoorClosed)
	_, err = s.Registry.UpdateCA(ctx, scope, a.rec.ID, registry.CAChange{Status: &active, AutoRegistration: &auto})
	must(t, err)
	s.refused(t, c, bootstrap.ErrDoorClosed) // remembered for a moment
	s.clock.Add(time.Minute)
	s.refused(t, c, bootstrap.ErrDoorClosed)
	if s.status(t, c) != "" {
		t.Error("a closed CA registered a certificate")
	}
	_, err = s.Registry.UpdateCA(ctx, scope, a.rec.ID, registry.CAChange{AutoRegistration: &on})
	must(t, err)
	s.clock.Add(time.Minute)
	s.refused(t, c, bootstrap.ErrRegistered)
	_, err = s.connect(c)
	must(t, err)

	// An INACTIVE CA's devices keep working; an INACTIVE and a revoked certificate do not.
	_, err = s.Registry.UpdateCA(ctx, scope, a.rec.ID, registry.CAChange{Status: &inactive})
	must(t, err)
	got, err := s.connect(c)
	must(t, err)
	_, err = s.Registry.SetCertificateStatus(ctx, scope, got.CertificateID, fleet.Inactive)
	must(t, err)
	s.refused(t, c, bootstrap.ErrInactive)
	if err := s.door.Recheck(ctx, &got); !errors.Is(err, bootstrap.ErrInactive) {
		t.Errorf("recheck: %v", err)
	}
	_, err = s.Registry.SetCertificateStatus(ctx, scope, got.CertificateID, fleet.Revoked)
	must(t, err)
	s.refused(t, c, bootstrap.ErrRevoked)

	_, err = s.Registry.UpdateCA(ctx, scope, a.rec.ID, registry.CAChange{Status: &active})
	must(t, err)
	weak, err := rsa.GenerateKey(rand.Reader, 1024)
	must(t, err)
	s.refused(t, a.deviceFor(t, "press-2", "SN-2", weak.Public()), bootstrap.ErrDoorWeak)
	old := a.device(t, "press-3", "SN-3")
	s.clock.Add(2 * 365 * 24 * time.Hour)
	s.refused(t, old, bootstrap.ErrExpired)

	// Production mode has no planner (S22).
	off := bootstrap.NewDoor(bootstrap.DoorConfig{Gate: s.Gate, Registry: s.Registry, Grants: s.DB, Now: s.clock.Now})
	if _, err := off.Admit(ctx, &tls.ConnectionState{PeerCertificates: []*x509.Certificate{a.device(t, "press-4", "SN-4")}}); !errors.Is(err, bootstrap.ErrDoorClosed) {
		t.Errorf("%v", err)
	}
	if _, err := off.Admit(ctx, &tls.ConnectionState{}); !errors.Is(err, bootstrap.ErrNoCertificate) {
		t.Errorf("%v", err)
	}
}

// TestS22_AThingWithALiveDeviceIsNotGivenAway: neither to another certificate of
// the same CA, nor to one of another CA.
func TestS22_AThingWithALiveDeviceIsNotGivenAway(t *testing.T) {
	engines(t, func(t *testing.T, url string) {
		s := newSite(t, url)
		a, b := s.register(t, "Maker CA", "jitp"), s.register(t, "Other CA", "jitp")
		victim := a.device(t, "press-1", "SN-1")
		s.refused(t, victim, bootstrap.ErrRegistered)
		before, err := s.Registry.Get(t.Context(), scope, "press-1")
		must(t, err)
		for _, thief := range []*x509.Certificate{a.device(t, "press-1", "SN-9"), a.device(t, "PRESS-1", "SN-9"), b.device(t, "press-1", "SN-1")} {
			s.refused(t, thief, bootstrap.ErrParked)
			if s.status(t, thief) != fleet.PendingActivation {
				t.Errorf("the thief's certificate is %s", s.status(t, thief))
			}
			if things, err := s.Registry.CertificateThings(t.Context(), scope, registry.CertificateID(thief.Raw)); err != nil || len(things) != 0 {
				t.Errorf("%v %v", things, err)
			}
		}
		after, err := s.Registry.Get(t.Context(), scope, "press-1")
		if err != nil || after.Version != before.Version || after.Attributes["sn"] != "SN-1" {
			t.Errorf("%+v %v", after, err)
		}
		if got, err := s.connect(victim); err != nil || got.Thing != "press-1" {
			t.Errorf("%+v %v", got, err)
		}
		clean(t, s.Door)
	})
}

// TestS41_TheEventOfAParkedCertificateComesOnceAnHourAtMost is JITR.
func TestS41_TheEventOfAParkedCertificateComesOnceAnHourAtMost(t *testing.T) {
	engines(t, func(t *testing.T, url string) {
		s := newSite(t, url)
		a := s.register(t, "Maker CA", "")
		c := a.device(t, "press-1", "SN-1")
		var wg sync.WaitGroup
		for range 50 {
			wg.Go(func() { s.connect(c) })
		}
		wg.Wait()
		s.refused(t, c, bootstrap.ErrParked)
		if n := len(s.bus.events()); n != 1 {
			t.Fatalf("%d events", n)
		}
		e := s.bus.events()[0]
		var body map[string]any
		must(t, json.Unmarshal(e.Payload, &body))
		if e.Topic != "$aws/events/certificates/registered/"+a.rec.ID || e.Tenant != access.DefaultTenant || body["certificateId"] != registry.CertificateID(c.Raw) || body["caCertificateId"] != a.rec.ID || body["certificateStatus"] != "PENDING_ACTIVATION" || body["timestamp"] != float64(s.clock.Now().UnixMilli()) {
			t.Errorf("%s %s", e.Topic, e.Payload)
		}
		if _, ok := body["certificateRegistrationTimestamp"].(string); !ok || len(body) != 6 {
			t.Errorf("%s", e.Payload)
		}
		s.clock.Add(59 * time.Minute)
		s.refused(t, c, bootstrap.ErrParked)
		if n := len(s.bus.events()); n != 1 {
			t.Errorf("%d events after 59 minutes", n)
		}
		s.clock.Add(2 * time.Minute)
		s.refused(t, c, bootstrap.ErrParked)
		if n := len(s.bus.events()); n != 2 {
			t.Errorf("%d events after an hour", n)
		}
		// Somebody activates it.
		_, err := s.Registry.SetCertificateStatus(t.Context(), scope, registry.CertificateID(c.Raw), fleet.Active)
		must(t, err)
		s.clock.Add(time.Minute)
		if got, err := s.connect(c); err != nil || got.Thing != "" || got.How != registry.HowJITR {
			t.Errorf("%+v %v", got, err)
		}
		clean(t, s.Door)
	})
}

// TestS17_ACAHasABudgetAtTheDoor: what its key leaks to has an end.
func TestS17_ACAHasABudgetAtTheDoor(t *testing.T) {
	engines(t, func(t *testing.T, url string) {
		s := newSite(t, url)
		a := s.register(t, "Maker CA", "jitp")
		_, err := s.claims.SetBudget(t.Context(), s.owner, bootstrap.Budget{Name: bootstrap.CABudget(a.rec.ID), Most: 10})
		must(t, err)
		certs := make([]*x509.Certificate, 30)
		for i := range certs {
			certs[i] = a.device(t, fmt.Sprintf("press-%d", i), "SN")
		}
		var wg sync.WaitGroup
		errs := make([]error, len(certs))
		for i, c := range certs {
			wg.Go(func() { _, errs[i] = s.connect(c) })
		}
		wg.Wait()
		in, out := 0, 0
		for _, err := range errs {
			switch {
			case errors.Is(err, bootstrap.ErrRegistered):
				in++
			case errors.Is(err, bootstrap.ErrBudgetSpent):
				out++
			default:
				t.Error(err)
			}
		}
		if in != 10 || out != 20 {
			t.Errorf("%d registered, %d refused", in, out)
		}
	})
}

// TestS23_ACertificateOfAnSNIOnlyCANeedsItsServerName and is its tenant's.
func TestS23_ACertificateOfAnSNIOnlyCANeedsItsServerName(t *testing.T) {
	s := newSite(t, "")
	a := s.newCA(t, "Shared CA")
	other := access.Actor{Tenant: "other", Kind: access.KindPrincipal, Name: "eve"}
	_, err := s.byoc.RegisterCA(t.Context(), other, registry.CARegistration{Certificate: a.cert, Mode: registry.ModeSNIOnly, Active: true, AutoRegistration: true})
	must(t, err)
	c := a.device(t, "press-1", "SN-1")
	s.refused(t, c, bootstrap.ErrUnknown)
	s.refused(t, c, bootstrap.ErrParked, "other.example.com")
	rec, err := s.Registry.Certificate(t.Context(), access.Scope{Tenant: "other"}, registry.CertificateID(c.Raw))
	if err != nil || rec.How != registry.HowJITR {
		t.Errorf("%+v %v", rec, err)
	}
	if s.status(t, c) != "" {
		t.Error("it is registered in another tenant")
	}
}

// TestDoor_KnowsOurOwnCertificates: an operational one is let in, revocation counts
// before the registry hears of it, and a birth certificate has to register first.
func TestDoor_KnowsOurOwnCertificates(t *testing.T) {
	s := newSite(t, "")
	birth, key := s.IssueIDevID(t, "SN-1")
	s.refused(t, birth, bootstrap.ErrInactive)
	op, reg := mustBoot(t, s.Door, birth, key, catest.NewKey(t))
	got, err := s.connect(op)
	if err != nil || string(got.Thing) != reg.Thing || got.Authority != catest.Device || got.Serial == "" || got.Holder != "sn-1" {
		t.Fatalf("%+v %v", got, err)
	}
	// Signed with the issuing key, but not on record (A12).
	deviceKey, err := s.Keys.Key(t.Context(), "test:"+catest.Device)
	must(t, err)
	forged := signed(t, op, s.Device, catest.NewKey(t).Public(), deviceKey)
	s.refused(t, forged, bootstrap.ErrUnknown)
	s.Revoke(t, op, crl.KeyCompromise)
	s.refused(t, op, bootstrap.ErrRevoked)
	if err := s.door.Recheck(t.Context(), &got); !errors.Is(err, bootstrap.ErrRevoked) {
		t.Errorf("recheck: %v", err)
	}
	// A certificate of another role is nobody at this door (S18).
	station, _ := s.Issue(t, "station", "st-1", "A", profile.Names{})
	s.refused(t, station, bootstrap.ErrRole)
}
