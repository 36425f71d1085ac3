package bootstrap_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"errors"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/bootstrap"
	"hallmark/bootstrap/bootstraptest"
	"hallmark/bootstrap/enroltest"
	"hallmark/ca"
	"hallmark/ca/catest"
	"hallmark/ca/csr"
	"hallmark/ca/profile"
	"hallmark/provisioner"
	"hallmark/store/storetest"
)

// label is what a second scan of a unit's label asks for.
func label(t testing.TB, s *enroltest.Site, unit string, key crypto.Signer) (*x509.Certificate, error) {
	t.Helper()
	req, err := csr.Parse(enroltest.CSR(t, key, "", ""))
	must(t, err)
	made, err := s.Provisioner.EnrolUnit(context.Background(), provisioner.UnitEnrolment{Tenant: access.DefaultTenant, Order: enroltest.Order, Unit: unit, Request: req, By: "test", Tool: "test"})
	if err != nil {
		return nil, err
	}
	return enroltest.Certificate(t, made.DER), nil
}

// TestS11_ASecondScanOfALabelLeavesTheDeviceThatBooted: nobody committed the unit, as
// with curl or a one-time password. Until its first boot a new key replaces the old
// one; after it, whichever way the device came in, a new key is rework, and the device
// keeps what it has.
func TestS11_ASecondScanOfALabelLeavesTheDeviceThatBooted(t *testing.T) {
	for engine, url := range map[string]func(testing.TB) string{"SQLite": func(testing.TB) string { return "" }, "PostgreSQL": storetest.Postgres} {
		t.Run(engine, func(t *testing.T) { secondScan(t, url(t)) })
	}
}

func secondScan(t *testing.T, url string) {
	s := enroltest.New(t, bootstraptest.Options{URL: url}, 20)
	ctx := t.Context()
	e := s.Enroller(bootstrap.Rules{Protocol: "est"})
	enrol := func(t *testing.T, a bootstrap.Applicant) *x509.Certificate {
		t.Helper()
		req, err := csr.Parse(enroltest.CSR(t, catest.NewKey(t), "", ""))
		must(t, err)
		got, err := e.Enrol(ctx, bootstrap.Application{Applicant: a, Request: req})
		must(t, err)
		return enroltest.Certificate(t, got.Certificate)
	}
	for i, way := range []struct {
		name string
		boot func(t *testing.T, unit string, birth *x509.Certificate, key *ecdsa.PrivateKey)
	}{
		{"first boot", func(t *testing.T, _ string, birth *x509.Certificate, key *ecdsa.PrivateKey) {
			mustBoot(t, s.Door, birth, key, catest.NewKey(t))
		}},
		{"EST, CMP or SCEP with the birth certificate", func(t *testing.T, _ string, birth *x509.Certificate, _ *ecdsa.PrivateKey) {
			enrol(t, bootstrap.Applicant{Certificate: birth})
		}},
		{"a one-time password", func(t *testing.T, unit string, _ *x509.Certificate, _ *ecdsa.PrivateKey) {
			p, _ := s.Password(t, e, unit, profile.LDevID)
			enrol(t, bootstrap.Applicant{Password: &p})
		}},
	} {
		t.Run(way.name, func(t *testing.T) {
			unit := []string{"U-001", "U-002", "U-003"}[i]
			_, err := label(t, s, unit, catest.NewKey(t))
			must(t, err)
			key := catest.NewKey(t)
			birth, err := label(t, s, unit, key)
			if err != nil {
				t.Fatalf("a new key before the first boot: %v", err)
			}
			way.boot(t, unit, birth, key)
			if _, err := label(t, s, unit, catest.NewKey(t)); !errors.Is(err, ca.ErrRework) {
				t.Errorf("a new key after the first boot: %v", err)
			}
			// With a password for the birth certificate it is the same.
			p, _ := s.Password(t, e, unit, profile.IDevID)
			req, err := csr.Parse(enroltest.CSR(t, catest.NewKey(t), "", ""))
			must(t, err)
			if _, err := e.Enrol(ctx, bootstrap.Application{Applicant: bootstrap.Applicant{Password: &p}, Request: req}); !errors.Is(err, ca.ErrRework) {
				t.Errorf("a new key by password after the first boot: %v", err)
			}
			must(t, s.Set.Follow(ctx))
			if a := s.Dial(t, birth, key).Do(t, whoami, nil); a.Status != 200 {
				t.Errorf("the device that booted: %d %s", a.Status, a.Code)
			}
			if again, err := label(t, s, unit, key); err != nil || !again.Equal(birth) {
				t.Errorf("its own request again: %v", err)
			}
		})
	}
	units, err := s.Provisioner.Units(ctx, scope, enroltest.Order, "", 10)
	must(t, err)
	for _, u := range units {
		if u.State != "installed" || u.Proven || u.InstalledAt.IsZero() {
			t.Errorf("after the first boot %+v", u)
		}
	}
	if len(units) != 3 {
		t.Errorf("%d units", len(units))
	}
	found, err := ca.Fsck(ctx, s.DB, s.Now(), nil)
	if err != nil || len(found) > 0 {
		t.Errorf("fsck: %v %v", found, err)
	}
}

// TestRegister_MakesALivingUnitAnInstalledOne: a unit that booted before that was kept
// is installed once it renews, and a commit may still bring the proof.
func TestRegister_MakesALivingUnitAnInstalledOne(t *testing.T) {
	s := enroltest.New(t, bootstraptest.Options{}, 5)
	ctx := t.Context()
	key, one := catest.NewKey(t), catest.NewKey(t)
	birth, err := label(t, s, "U-001", key)
	must(t, err)
	// A first boot that tells no orders, as it was.
	s.Serve(bootstrap.New(bootstrap.Config{Gate: s.Gate, Issuer: s.CA, Planner: s.Planner, Registry: s.Registry, Records: s.DB, Now: s.Now}).Handler(bootstraptest.Problem))
	first, _ := mustBoot(t, s.Door, birth, key, one)
	s.Serve(s.Service.Handler(bootstraptest.Problem))
	state := func() provisioner.Unit {
		t.Helper()
		units, err := s.Provisioner.Units(ctx, scope, enroltest.Order, "", 10)
		must(t, err)
		return units[0]
	}
	if u := state(); u.State != "issued" {
		t.Fatalf("before: %+v", u)
	}
	mustBoot(t, s.Door, first, one, catest.NewKey(t))
	was := state()
	if was.State != "installed" || was.Proven {
		t.Errorf("after a renewal: %+v", was)
	}
	rec, err := s.DB.RecordBySerial(ctx, access.DefaultTenant, "", serial(birth))
	must(t, err)
	must(t, s.DB.Commit(ctx, rec.Identity, rec.ID, "", []byte("evidence"), time.Now().Add(time.Minute)))
	if u := state(); !u.Proven || !u.InstalledAt.Equal(was.InstalledAt) {
		t.Errorf("after a commit: %+v, it was %+v", u, was)
	}
}

// between does something else after a certificate was made.
type between struct {
	bootstrap.Issuer
	then func()
}

func (b *between) Issue(ctx context.Context, r ca.Request) (ca.Issued, error) {
	out, err := b.Issuer.Issue(ctx, r)
	b.then()
	return out, err
}

// TestRegister_LosesToAKeyThatWasCertifiedMeanwhile: one of the two wins. Had the
// first boot gone on, its thing would stand on a birth certificate that is revoked.
func TestRegister_LosesToAKeyThatWasCertifiedMeanwhile(t *testing.T) {
	s := enroltest.New(t, bootstraptest.Options{}, 5)
	key, second := catest.NewKey(t), catest.NewKey(t)
	birth, err := label(t, s, "U-001", key)
	must(t, err)
	var successor *x509.Certificate
	meanwhile := &between{s.CA, func() {
		var err error
		if successor, err = label(t, s, "U-001", second); err != nil {
			t.Errorf("a new key before the first boot ended: %v", err)
		}
	}}
	s.Serve(bootstrap.New(bootstrap.Config{Gate: s.Gate, Issuer: meanwhile, Planner: s.Planner, Registry: s.Registry, Records: s.DB, Orders: s.Provisioner, Now: s.Now}).Handler(bootstraptest.Problem))
	if a := boot(t, s.Door, birth, key, catest.NewKey(t)); a.Status != 403 || a.Code != "device-revoked" {
		t.Errorf("the device whose key was replaced: %d %s", a.Status, a.Body)
	}
	if things, err := s.DB.ThingsOf(t.Context(), scope, "U-001"); err != nil || len(things) != 0 {
		t.Errorf("it has %d things: %v", len(things), err)
	}
	s.Serve(s.Service.Handler(bootstraptest.Problem))
	mustBoot(t, s.Door, successor, second, catest.NewKey(t))
}
