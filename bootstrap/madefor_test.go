package bootstrap_test

import (
	"crypto/x509"
	"testing"

	"hallmark/access"
	"hallmark/bootstrap"
	"hallmark/bootstrap/bootstraptest"
	"hallmark/bootstrap/enroltest"
	"hallmark/ca"
	"hallmark/ca/catest"
	"hallmark/ca/csr"
	"hallmark/ca/profile"
	"hallmark/provisioner"
)

// TestRegister_TheOrderChoosesWhoIssues: who issues operational certificates is
// declared for a product as it is for birth certificates: at first boot, in a
// renewal over the operational certificate, and over EST; and after the order was
// closed. What has no order is left to the general declaration.
func TestRegister_TheOrderChoosesWhoIssues(t *testing.T) {
	s := enroltest.New(t, bootstraptest.Options{}, 5)
	ctx := t.Context()
	key := catest.NewKey(t)
	s.Keys.Add("test:device-2", key)
	must(t, s.DB.CreateAuthority(ctx, ca.Authority{Name: "device-2", Tenant: access.DefaultTenant, Duty: profile.DutyDevice, State: ca.StateActive, KeyURI: "test:device-2",
		BaseURL: catest.BaseURL, Shards: 1, CreatedAt: s.Now(), Certificate: s.Certify(t, profile.DutyDevice, "device-2", key.Public()).Raw}))
	put := func(d ca.Serving) {
		t.Helper()
		d.Tenant = access.DefaultTenant
		all, err := s.DB.Servings(ctx)
		must(t, err)
		for _, have := range all {
			if have.Name == d.Name {
				d.Version = have.Version
			}
		}
		must(t, s.DB.PutServing(ctx, d, d.Version))
		must(t, s.CA.Reload(ctx))
	}
	put(ca.Serving{Name: "device", Serves: "device", Authorities: []string{catest.Device}})
	put(ca.Serving{Name: "ldevid.lamp", Serves: "ldevid", Product: "Lamp", Authorities: []string{"device-2"}})
	by := func(what string, c *x509.Certificate, want string) {
		t.Helper()
		if got := c.Issuer.CommonName; got != want {
			t.Errorf("%s: issued by %s, want %s", what, got, want)
		}
	}

	born := catest.NewKey(t)
	req, err := csr.Parse(enroltest.CSR(t, born, "", ""))
	must(t, err)
	made, err := s.Provisioner.EnrolUnit(ctx, provisioner.UnitEnrolment{Tenant: access.DefaultTenant, Order: enroltest.Order, Unit: "U-001", Request: req, By: "test", Tool: "test"})
	must(t, err)
	birth := enroltest.Certificate(t, made.DER)
	by("the birth certificate", birth, catest.Device)
	one := catest.NewKey(t)
	first, _ := mustBoot(t, s.Door, birth, born, one)
	by("first boot", first, "device-2")
	_, err = s.Provisioner.CloseOrder(ctx, enroltest.Officer, enroltest.Order)
	must(t, err)
	two := catest.NewKey(t)
	second, _ := mustBoot(t, s.Door, first, one, two)
	by("a renewal", second, "device-2")
	e := s.Enroller(bootstrap.Rules{Protocol: "est"})
	req, err = csr.Parse(enroltest.CSR(t, catest.NewKey(t), "", ""))
	must(t, err)
	got, err := e.Enrol(ctx, bootstrap.Application{Applicant: bootstrap.Applicant{Certificate: second}, Request: req})
	must(t, err)
	by("over EST", enroltest.Certificate(t, got.Certificate), "device-2")

	other, otherKey := s.IssueIDevID(t, "SN-9")
	third, _ := mustBoot(t, s.Door, other, otherKey, catest.NewKey(t))
	by("without an order", third, catest.Device)
}
