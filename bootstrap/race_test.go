package bootstrap_test

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/asn1"
	"errors"
	"math/big"
	"sync"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/bootstrap"
	"hallmark/ca/catest"
	"hallmark/fleet"
	"hallmark/fleet/registry"
	"hallmark/provisioner"
)

// race has a certificate knock at two doors, which are two processes, 200 times at
// once, and gives what each was told.
func (s *site) race(t *testing.T, c *x509.Certificate, server string) []error {
	t.Helper()
	second := bootstrap.NewDoor(bootstrap.DoorConfig{Gate: s.Gate, Registry: s.Registry, Grants: s.DB, Planner: s.Planner, Publisher: s.bus, Now: s.clock.Now})
	errs := make([]error, 200)
	start := make(chan struct{})
	var wg sync.WaitGroup
	for i := range errs {
		d := s.door
		if i%2 == 1 {
			d = second
		}
		wg.Go(func() {
			<-start
			_, errs[i] = d.Admit(context.Background(), &tls.ConnectionState{ServerName: server, PeerCertificates: []*x509.Certificate{c}})
		})
	}
	close(start)
	wg.Wait()
	return errs
}

// TestJITR_TwoHundredConnectionsMakeOneCertificateAndOneEvent: none of them gets in,
// the certificate is registered once and its event is published once; the next
// one comes with a connection an hour later (A48, S41). When somebody activates it
// during another race, whoever is let in is, and nothing is registered again.
func TestJITR_TwoHundredConnectionsMakeOneCertificateAndOneEvent(t *testing.T) {
	engines(t, func(t *testing.T, url string) {
		s := newSite(t, url)
		a := s.register(t, "Maker CA", "")
		c := a.device(t, "press-1", "SN-1")
		once := func(events int) {
			t.Helper()
			if n := len(s.bus.events()); n != events {
				t.Errorf("%d events, want %d", n, events)
			}
			all, err := s.Registry.Certificates(t.Context(), scope, registry.CertificateQuery{})
			if err != nil || len(all) != 1 || all[0].How != registry.HowJITR {
				t.Errorf("certificates %+v, %v", all, err)
			}
			page, err := s.Registry.List(t.Context(), scope, registry.Query{})
			if err != nil || len(page.Things) != 0 {
				t.Errorf("things %+v, %v", page.Things, err)
			}
			b, err := s.DB.Budget(t.Context(), scope, bootstrap.CABudget(a.rec.ID))
			if err != nil || b.Used != 1 {
				t.Errorf("the budget counts %d, %v", b.Used, err)
			}
		}
		for _, err := range s.race(t, c, "") {
			if !errors.Is(err, bootstrap.ErrParked) {
				t.Errorf("%v", err)
			}
		}
		once(1)
		s.clock.Add(time.Hour + time.Minute)
		for _, err := range s.race(t, c, "") {
			if !errors.Is(err, bootstrap.ErrParked) {
				t.Errorf("%v", err)
			}
		}
		once(2)
		s.clock.Add(time.Minute)
		done := make(chan error, 1)
		go func() {
			_, err := s.Registry.SetCertificateStatus(context.Background(), scope, registry.CertificateID(c.Raw), fleet.Active)
			done <- err
		}()
		for _, err := range s.race(t, c, "") {
			if err != nil && !errors.Is(err, bootstrap.ErrParked) && !errors.Is(err, bootstrap.ErrRegistered) {
				t.Errorf("%v", err)
			}
		}
		must(t, <-done)
		once(2)
		s.clock.Add(time.Minute)
		if _, err := s.connect(c); err != nil {
			t.Error(err)
		}
		clean(t, s.Door)
	})
}

// TestS23_TenantsOfASharedCAHaveATemplateEach: a CA in the mode SNI_ONLY is two
// tenants'; each has its own template, which says what its devices become, and a
// race of connections with both server names makes one thing in each.
func TestS23_TenantsOfASharedCAHaveATemplateEach(t *testing.T) {
	engines(t, func(t *testing.T, url string) {
		s := newSite(t, url)
		a := s.newCA(t, "Shared CA")
		other := access.Scope{Tenant: "other"}
		for _, sc := range []access.Scope{scope, other} {
			by := access.Actor{Tenant: sc.Tenant, Kind: access.KindPrincipal, Name: "owner"}
			rec, err := s.byoc.RegisterCA(t.Context(), by, registry.CARegistration{Certificate: a.cert, Verification: s.verification(t, a, sc), Mode: registry.ModeSNIOnly, Active: true, AutoRegistration: true})
			must(t, err)
			must(t, s.Planner.PutTemplate(t.Context(), provisioner.TemplateDocument{Tenant: sc.Tenant, Name: "shared", Kind: provisioner.JITPKind, Body: []byte(`{
				"Parameters": {"AWS::IoT::Certificate::CommonName": {"Type": "String"}, "AWS::IoT::Certificate::Id": {"Type": "String"}},
				"Resources": {"thing": {"Type": "AWS::IoT::Thing", "Properties": {"ThingName": {"Fn::Join": ["-", ["` + sc.Tenant + `", {"Ref": "AWS::IoT::Certificate::CommonName"}]]}}},
					"certificate": {"Type": "AWS::IoT::Certificate", "Properties": {"CertificateId": {"Ref": "AWS::IoT::Certificate::Id"}}}}}`)}))
			must(t, s.Planner.PutRegistration(t.Context(), provisioner.Registration{Tenant: sc.Tenant, Authority: rec.Registration(), Template: "shared", Enabled: true}))
		}
		c := a.device(t, "press-1", "SN-1")
		// Nobody's server name says nothing about the tenant.
		s.refused(t, c, bootstrap.ErrUnknown)
		s.refused(t, c, bootstrap.ErrRegistered, "other.example.com")
		got, err := s.connect(c, "other.example.com")
		if err != nil || got.Tenant != "other" || got.Thing != "other-press-1" {
			t.Errorf("%+v %v", got, err)
		}
		if s.status(t, c) != "" {
			t.Error("it is registered in the other tenant too")
		}
		if r, err := s.DB.Registration(t.Context(), scope, a.registration(t, s)); err != nil || r.Template != "shared" || r.Tenant != scope.Tenant {
			t.Errorf("%+v %v", r, err)
		}
		clean(t, s.Door)
	})
}

// registration is the name under which templates know the CA.
func (a *authority) registration(t *testing.T, s *site) string {
	t.Helper()
	rec, err := s.Registry.CA(t.Context(), scope, registry.CertificateID(a.cert.Raw))
	must(t, err)
	return rec.Registration()
}

// TestA54_ASubjectWithTwoNamesIsNobodys: a template that asks for a subject's
// attribute gets it from the one place where it stands, whatever the order, the
// string type and the number of attributes in one name; twice it is refused, and
// the certificate waits. A comma and an equals sign in a value are no syntax.
func TestA54_ASubjectWithTwoNamesIsNobodys(t *testing.T) {
	s := newSite(t, "")
	a := s.register(t, "Maker CA", "jitp")
	victim := a.device(t, "press-1", "SN-1")
	s.refused(t, victim, bootstrap.ErrRegistered)
	cn, sn, o := asn1.ObjectIdentifier{2, 5, 4, 3}, asn1.ObjectIdentifier{2, 5, 4, 5}, asn1.ObjectIdentifier{2, 5, 4, 10}
	type attribute struct {
		Type  asn1.ObjectIdentifier
		Value asn1.RawValue
	}
	text := func(oid asn1.ObjectIdentifier, tag int, v string) attribute {
		return attribute{oid, asn1.RawValue{Tag: tag, Bytes: []byte(v)}}
	}
	const utf8, printable, bmp = 12, 19, 30
	subject := func(rdns ...[]attribute) []byte {
		t.Helper()
		var seq []asn1.RawValue
		for _, set := range rdns {
			raw, err := asn1.MarshalWithParams(set, "set")
			must(t, err)
			seq = append(seq, asn1.RawValue{FullBytes: raw})
		}
		raw, err := asn1.Marshal(seq)
		must(t, err)
		return raw
	}
	one := func(x ...attribute) []attribute { return x }
	for name, c := range map[string]struct {
		subject []byte
		thing   fleet.ThingName // "" for refused
	}{
		"another order":            {subject(one(text(sn, printable, "SN-9")), one(text(cn, utf8, "press-9"))), "press-9"},
		"two attributes, one name": {subject(one(text(cn, utf8, "press-8"), text(sn, printable, "SN-8"))), "press-8"},
		"another string type":      {subject(one(text(cn, bmp, "\x00p\x00r\x00e\x00s\x00s\x00-\x007")), one(text(sn, printable, "SN-7"))), "press-7"},
		"two, the victim second":   {subject(one(text(cn, utf8, "press-6")), one(text(cn, utf8, "press-1")), one(text(sn, printable, "SN-6"))), ""},
		"two, the victim first":    {subject(one(text(cn, utf8, "press-1")), one(text(cn, utf8, "press-6")), one(text(sn, printable, "SN-6"))), ""},
		"two in one name":          {subject(one(text(cn, utf8, "press-1"), text(cn, utf8, "press-5")), one(text(sn, printable, "SN-5"))), ""},
		"the same twice":           {subject(one(text(cn, utf8, "press-4")), one(text(cn, utf8, "press-4")), one(text(sn, printable, "SN-4"))), ""},
		"a name within a name":     {subject(one(text(o, utf8, "x,CN=press-1")), one(text(cn, utf8, "press-3")), one(text(sn, printable, "SN-3"))), "press-3"},
		"a comma in the name":      {subject(one(text(cn, utf8, "press-2,CN=press-1")), one(text(sn, printable, "SN-2"))), ""},
		"a space behind":           {subject(one(text(cn, utf8, "press-1 ")), one(text(sn, printable, "SN-1"))), ""},
		"a NUL behind":             {subject(one(text(cn, utf8, "press-1\x00")), one(text(sn, printable, "SN-1"))), ""},
	} {
		t.Run(name, func(t *testing.T) {
			n, err := rand.Int(rand.Reader, big.NewInt(1<<62))
			must(t, err)
			c2 := signed(t, &x509.Certificate{SerialNumber: n, RawSubject: c.subject, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
				NotBefore: s.clock.Now().Add(-time.Minute), NotAfter: s.clock.Now().Add(time.Hour)}, a.cert, catest.NewKey(t).Public(), a.key)
			if c.thing == "" {
				s.refused(t, c2, bootstrap.ErrParked)
				if s.status(t, c2) != fleet.PendingActivation {
					t.Errorf("it is %s", s.status(t, c2))
				}
				return
			}
			s.refused(t, c2, bootstrap.ErrRegistered)
			if got, err := s.connect(c2); err != nil || got.Thing != c.thing {
				t.Errorf("%+v %v", got, err)
			}
		})
	}
	if got, err := s.connect(victim); err != nil || got.Thing != "press-1" {
		t.Errorf("the victim: %+v %v", got, err)
	}
	if p, err := s.Registry.Principals(t.Context(), scope, "press-1"); err != nil || len(p) != 1 {
		t.Errorf("%+v %v", p, err)
	}
}
