package registry_test

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"strings"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/ca/catest"
	"hallmark/fleet"
	"hallmark/fleet/registry"
	"hallmark/store/storetest"
)

// both runs a test on both engines.
func both(t *testing.T, f func(t *testing.T, x *catest.Fixture, r *registry.Registry)) {
	for name, url := range map[string]func(t *testing.T) string{"sqlite": func(*testing.T) string { return "" }, "postgres": func(t *testing.T) string { return storetest.Postgres(t) }} {
		t.Run(name, func(t *testing.T) {
			x := catest.Open(t, catest.Config{URL: url(t)})
			f(t, x, registry.New(registry.Config{Store: x.DB, Alone: x.DB.Alone()}))
		})
	}
}

// byoc makes a CA of somebody else and certificates of it.
type byoc struct {
	t    testing.TB
	cert *x509.Certificate
	key  crypto.Signer
}

func newCA(t testing.TB, name string) *byoc {
	key := catest.NewKey(t)
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	return &byoc{t, sign(t, tmpl, tmpl, key, key), key}
}

func sign(t testing.TB, tmpl, parent *x509.Certificate, key, by crypto.Signer) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, key.Public(), by)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (b *byoc) leaf(name string) *x509.Certificate {
	n, _ := rand.Int(rand.Reader, big.NewInt(1<<62))
	return sign(b.t, &x509.Certificate{SerialNumber: n, Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour)}, b.cert, catest.NewKey(b.t), b.key)
}

func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func is(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got %v, want %v", err, want)
	}
}

var other = access.Scope{Tenant: "other"}

func TestCertificate_FollowsTheTableOfStatuses(t *testing.T) {
	both(t, func(t *testing.T, _ *catest.Fixture, r *registry.Registry) {
		ctx, ca := t.Context(), newCA(t, "maker")
		states := []fleet.PrincipalStatus{fleet.PendingActivation, fleet.Active, fleet.Inactive, fleet.Revoked, fleet.PendingTransfer}
		byHand := map[[2]fleet.PrincipalStatus]bool{
			{fleet.PendingActivation, fleet.Active}: true, {fleet.PendingActivation, fleet.Inactive}: true, {fleet.PendingActivation, fleet.Revoked}: true,
			{fleet.Active, fleet.Inactive}: true, {fleet.Active, fleet.Revoked}: true, {fleet.Inactive, fleet.Active}: true, {fleet.Inactive, fleet.Revoked}: true,
		}
		for _, from := range states {
			for _, to := range states {
				c := registry.NewCertificate(main.Tenant, ca.leaf("d"), registry.HowBYOC, fleet.Inactive)
				if from == fleet.PendingActivation {
					c.Status = from
				}
				c, err := r.PutCertificate(ctx, c, true)
				ok(t, err)
				switch from {
				case fleet.Active, fleet.Revoked:
					_, err = r.SetCertificateStatus(ctx, main, c.ID, from)
				case fleet.PendingTransfer:
					_, err = r.Transfer(ctx, main, c.ID, other.Tenant)
				}
				ok(t, err)
				after, err := r.SetCertificateStatus(ctx, main, c.ID, to)
				want := from == to && to != fleet.PendingActivation && to != fleet.PendingTransfer || byHand[[2]fleet.PrincipalStatus{from, to}]
				if (err == nil) != want || err == nil && after.Status != to || err != nil && !errors.Is(err, registry.ErrPrincipalStatus) {
					t.Errorf("%s to %s: %v", from, to, err)
				}
				if got, err := r.Certificate(ctx, main, c.ID); err != nil || !want && got.Status != from {
					t.Errorf("%s after a refused change to %s: %s %v", from, to, got.Status, err)
				}
			}
		}
	})
}

func TestTransfer_MovesACertificateThatNothingHoldsS25(t *testing.T) {
	both(t, func(t *testing.T, x *catest.Fixture, r *registry.Registry) {
		ctx, maker := t.Context(), newCA(t, "maker")
		c, err := r.PutCertificate(ctx, registry.NewCertificate(main.Tenant, maker.leaf("d"), registry.HowBYOC, fleet.Active), true)
		ok(t, err)
		_, err = r.Transfer(ctx, main, c.ID, other.Tenant)
		is(t, err, registry.ErrPrincipalStatus) // it is active
		_, err = r.CreateThing(ctx, registry.Thing{Tenant: main.Tenant, Name: "press"})
		ok(t, err)
		ok(t, r.Attach(ctx, main, "press", c.ID, registry.Exclusive, false))
		_, err = r.SetCertificateStatus(ctx, main, c.ID, fleet.Inactive)
		ok(t, err)
		_, err = r.Transfer(ctx, main, c.ID, other.Tenant)
		is(t, err, registry.ErrCertificateInUse)
		is(t, r.DropCertificate(ctx, main, c.ID, false), registry.ErrCertificateInUse)
		ok(t, r.Detach(ctx, main, "press", c.ID))
		_, err = r.Transfer(ctx, main, c.ID, other.Tenant)
		ok(t, err)
		is(t, r.Attach(ctx, main, "press", c.ID, "", false), registry.ErrPrincipalStatus)
		_, err = r.AcceptTransfer(ctx, access.Scope{Tenant: "third"}, c.ID, true)
		is(t, err, registry.ErrCertificateUnknown)
		ok(t, r.RejectTransfer(ctx, other, c.ID))
		_, err = r.Transfer(ctx, main, c.ID, other.Tenant)
		ok(t, err)
		got, err := r.AcceptTransfer(ctx, other, c.ID, true)
		ok(t, err)
		if got.Tenant != other.Tenant || got.Status != fleet.Active {
			t.Errorf("%+v", got)
		}
		_, err = r.Certificate(ctx, main, c.ID)
		is(t, err, registry.ErrCertificateUnknown)
		if at, err := r.AtDoor(ctx, c.ID, ""); err != nil || at.Certificate.Tenant != other.Tenant {
			t.Errorf("%+v %v", at, err)
		}
		// One of ours stays with its authority.
		_, serial := put(t, x, r, thing("oven", "SN-1"))
		own, err := r.Principal(ctx, main, catest.Device, serial)
		ok(t, err)
		_, err = r.SetCertificateStatus(ctx, main, own.Certificate, fleet.Inactive)
		ok(t, err)
		_, err = r.Transfer(ctx, main, own.Certificate, other.Tenant)
		is(t, err, registry.ErrCertificateOwn)
		is(t, r.DropCertificate(ctx, main, own.Certificate, true), registry.ErrCertificateOwn)
	})
}

func TestS23_RegistrationIsUniqueAcrossTenantsUnlessProven(t *testing.T) {
	both(t, func(t *testing.T, _ *catest.Fixture, r *registry.Registry) {
		ctx, maker := t.Context(), newCA(t, "maker")
		proof := func(s access.Scope, by *byoc, cn string) *x509.Certificate {
			if cn == "" {
				cn = r.RegistrationCode(s)
			}
			return by.leaf(cn)
		}
		reg := func(s access.Scope, mode registry.CAMode, v *x509.Certificate) error {
			_, err := r.RegisterCA(ctx, registry.CARegistration{Tenant: s.Tenant, Certificate: maker.cert, Mode: mode, Verification: v, Active: true})
			return err
		}
		is(t, reg(main, registry.ModeDefault, nil), registry.ErrPossession)
		is(t, reg(main, registry.ModeDefault, proof(main, maker, "wrong")), registry.ErrPossession)
		is(t, reg(main, registry.ModeDefault, proof(main, newCA(t, "maker"), "")), registry.ErrPossession)
		is(t, reg(main, registry.ModeDefault, proof(other, maker, "")), registry.ErrPossession)
		ok(t, reg(main, registry.ModeDefault, proof(main, maker, "")))
		is(t, reg(main, registry.ModeSNIOnly, nil), registry.ErrCAExists)
		is(t, reg(other, registry.ModeSNIOnly, nil), registry.ErrCAElsewhere)
		is(t, reg(other, registry.ModeDefault, proof(other, maker, "")), registry.ErrCAElsewhere)
		ok(t, reg(other, registry.ModeSNIOnly, proof(other, maker, "")))

		leaf := maker.leaf("d")
		for tenant, want := range map[string]string{"": main.Tenant, main.Tenant: main.Tenant, other.Tenant: other.Tenant} {
			if got, err := r.IssuerAtDoor(ctx, leaf, tenant); err != nil || got.Tenant != want {
				t.Errorf("at %q: %+v %v", tenant, got.Tenant, err)
			}
		}
		_, err := r.IssuerAtDoor(ctx, newCA(t, "maker").leaf("d"), "")
		is(t, err, registry.ErrCAUnknown) // the name is not the key
		// A device certificate.
		c := registry.NewCertificate(main.Tenant, leaf, registry.HowJITP, fleet.PendingActivation)
		_, err = r.PutCertificate(ctx, c, false)
		ok(t, err)
		c.Tenant = other.Tenant
		_, err = r.PutCertificate(ctx, c, false)
		is(t, err, registry.ErrCertificateElsewhere)
		_, err = r.PutCertificate(ctx, c, true)
		ok(t, err)
		_, err = r.AtDoor(ctx, c.ID, "")
		is(t, err, registry.ErrCertificateUnknown)
		if at, err := r.AtDoor(ctx, c.ID, other.Tenant); err != nil || at.Certificate.Tenant != other.Tenant {
			t.Errorf("%+v %v", at, err)
		}
		// INACTIVE first, then it goes.
		id := registry.CertificateID(maker.cert.Raw)
		is(t, r.DropCA(ctx, main, id), registry.ErrCAStatus)
		off := registry.CAInactive
		_, err = r.UpdateCA(ctx, main, id, registry.CAChange{Status: &off})
		ok(t, err)
		ok(t, r.DropCA(ctx, main, id))
		// Ten of one name.
		for i := range registry.MaxSubjectCAs + 1 {
			_, err := r.RegisterCA(ctx, registry.CARegistration{Tenant: main.Tenant, Certificate: newCA(t, "same").cert, Mode: registry.ModeSNIOnly})
			if i < registry.MaxSubjectCAs {
				ok(t, err)
			} else {
				is(t, err, registry.ErrCAInvalid)
			}
		}
	})
}

func TestAttach_ExclusiveActsForOneThingAndS22KeepsTheLiveDevice(t *testing.T) {
	both(t, func(t *testing.T, _ *catest.Fixture, r *registry.Registry) {
		ctx, maker := t.Context(), newCA(t, "maker")
		reg := func() string {
			c, err := r.PutCertificate(ctx, registry.NewCertificate(main.Tenant, maker.leaf("d"), registry.HowBYOC, fleet.Active), true)
			ok(t, err)
			return c.ID
		}
		for _, n := range []fleet.ThingName{"a", "b"} {
			_, err := r.CreateThing(ctx, registry.Thing{Tenant: main.Tenant, Name: n})
			ok(t, err)
		}
		one, two := reg(), reg()
		ok(t, r.Attach(ctx, main, "a", one, registry.Exclusive, false))
		ok(t, r.Attach(ctx, main, "a", one, registry.Exclusive, false))
		is(t, r.Attach(ctx, main, "b", one, registry.NonExclusive, false), registry.ErrPrincipalBound)
		is(t, r.Attach(ctx, main, "a", two, registry.NonExclusive, false), registry.ErrThingTaken)
		is(t, r.Attach(ctx, main, "a", two, "SOME", false), registry.ErrPrincipalKind)
		is(t, r.Attach(ctx, main, "A", two, "", false), registry.ErrThingUnknown)
		ok(t, r.Attach(ctx, main, "a", two, registry.NonExclusive, true))
		ok(t, r.Attach(ctx, main, "b", two, registry.NonExclusive, false))
		is(t, r.Attach(ctx, main, "b", two, registry.Exclusive, false), registry.ErrPrincipalBound)
		if p, err := r.ExclusiveThing(ctx, main, one); err != nil || p.Thing != "a" {
			t.Errorf("%+v %v", p, err)
		}
		_, err := r.ExclusiveThing(ctx, main, two)
		is(t, err, registry.ErrPrincipalUnknown)
		is(t, r.DropThing(ctx, main, "a", 0), registry.ErrThingInUse)
		ok(t, r.Detach(ctx, main, "a", one))
		ok(t, r.Detach(ctx, main, "a", two))
		is(t, r.DropThing(ctx, main, "a", 7), registry.ErrVersion)
		ok(t, r.DropThing(ctx, main, "a", 1))
		_, err = r.Get(ctx, main, "a")
		is(t, err, registry.ErrThingUnknown)
	})
}

func TestThing_VersionsAttributesAndTypes(t *testing.T) {
	both(t, func(t *testing.T, _ *catest.Fixture, r *registry.Registry) {
		ctx := t.Context()
		th := registry.Thing{Tenant: main.Tenant, Name: "press", Attributes: map[string]string{"a": "1", "b": "2", "c": "3"}}
		first, err := r.CreateThing(ctx, th)
		ok(t, err)
		if again, err := r.CreateThing(ctx, th); err != nil || again.Version != 1 || again.ID() != first.ID() || len(first.ID()) != 36 {
			t.Errorf("%+v %v", again, err)
		}
		changed := th
		changed.Attributes = map[string]string{"a": "2"}
		_, err = r.CreateThing(ctx, changed)
		is(t, err, registry.ErrThingExists)
		changed.Name = "Press"
		_, err = r.CreateThing(ctx, changed)
		is(t, err, registry.ErrThingCase)
		four := registry.ThingChange{Attributes: map[string]string{"d": "4"}, Merge: true}
		_, err = r.UpdateThing(ctx, main, "press", four)
		is(t, err, registry.ErrAttributes) // without a type three
		_, err = r.UpdateThing(ctx, main, "press", registry.ThingChange{Attributes: map[string]string{"x y": "1"}})
		is(t, err, registry.ErrAttributes)
		_, err = r.UpdateThing(ctx, main, "press", registry.ThingChange{Attributes: map[string]string{"x": strings.Repeat("y", 801)}})
		is(t, err, registry.ErrAttributes)
		typ := "oven"
		_, err = r.UpdateThing(ctx, main, "press", registry.ThingChange{Type: &typ})
		is(t, err, registry.ErrTypeUnknown)
		_, err = r.CreateType(ctx, registry.Type{Tenant: main.Tenant, Name: typ})
		ok(t, err)
		four.Type, four.ExpectedVersion = &typ, 2
		_, err = r.UpdateThing(ctx, main, "press", four)
		is(t, err, registry.ErrVersion)
		four.ExpectedVersion = 1
		got, err := r.UpdateThing(ctx, main, "press", four)
		ok(t, err)
		if got.Version != 2 || len(got.Attributes) != 4 {
			t.Errorf("%+v", got)
		}
		got, err = r.UpdateThing(ctx, main, "press", registry.ThingChange{Attributes: map[string]string{"a": "", "b": ""}, Merge: true})
		ok(t, err)
		if len(got.Attributes) != 2 {
			t.Errorf("%+v", got.Attributes)
		}
		// A type in use stays; a deprecated one takes nobody new.
		is(t, r.DropType(ctx, main, typ), registry.ErrTypeInUse)
		_, err = r.DeprecateType(ctx, main, typ, false)
		ok(t, err)
		is(t, r.DropType(ctx, main, typ), registry.ErrTypeInUse)
		_, err = r.CreateThing(ctx, registry.Thing{Tenant: main.Tenant, Name: "late", Type: typ})
		is(t, err, registry.ErrTypeDeprecated)
		none := ""
		_, err = r.UpdateThing(ctx, main, "press", registry.ThingChange{Type: &none})
		ok(t, err)
		ok(t, r.DropType(ctx, main, typ))
	})
}

func TestRegister_StrictRefusesWhatDoesNotExist(t *testing.T) {
	both(t, func(t *testing.T, _ *catest.Fixture, r *registry.Registry) {
		ctx, maker := t.Context(), newCA(t, "maker")
		c, err := r.PutCertificate(ctx, registry.NewCertificate(main.Tenant, maker.leaf("d"), registry.HowJITP, fleet.PendingActivation), true)
		ok(t, err)
		doc := `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"iot:Connect","Resource":"*"}]}`
		th := registry.Thing{Tenant: main.Tenant, Name: "press", Holder: c.ID, RegisteredBy: "maker", Groups: []string{"hall"}, Type: "press", Policies: []string{"base"}}
		at := registry.Attachment{Certificate: c.ID, Status: fleet.Active}
		for _, want := range []error{registry.ErrTypeUnknown, registry.ErrGroupUnknown, registry.ErrPolicyUnknown, nil} {
			_, p, err := r.Register(ctx, registry.Registration{Thing: th, Strict: true}, at)
			is(t, err, want)
			switch {
			case want == registry.ErrTypeUnknown:
				_, err = r.CreateType(ctx, registry.Type{Tenant: main.Tenant, Name: "press"})
			case want == registry.ErrGroupUnknown:
				_, err = r.CreateGroup(ctx, registry.Group{Tenant: main.Tenant, Class: registry.ThingGroup, Name: "hall"})
			case want == registry.ErrPolicyUnknown:
				if _, err := r.Get(ctx, main, "press"); !errors.Is(err, registry.ErrThingUnknown) {
					t.Error("a refused registration left a thing")
				}
				_, err = r.CreatePolicy(ctx, registry.Policy{Tenant: main.Tenant, Name: "base", Document: doc})
			default:
				if p.Status != fleet.Active || p.Kind != registry.Exclusive || p.Certificate != c.ID {
					t.Errorf("%+v", p)
				}
			}
			ok(t, err)
		}
		if list, err := r.EffectivePolicies(ctx, main, c.ID); err != nil || len(list) != 1 || list[0].Document != doc {
			t.Errorf("%+v %v", list, err)
		}
	})
}

// At most one of many that race for a version wins, and all others see it.
func TestCertificate_RacesKeepTheLast(t *testing.T) {
	both(t, func(t *testing.T, _ *catest.Fixture, r *registry.Registry) {
		ctx, maker := t.Context(), newCA(t, "maker")
		c, err := r.PutCertificate(ctx, registry.NewCertificate(main.Tenant, maker.leaf("d"), registry.HowBYOC, fleet.Active), true)
		ok(t, err)
		done := make(chan error)
		for i := range 16 {
			to := fleet.Inactive
			if i == 7 {
				to = fleet.Revoked
			}
			go func() {
				_, err := r.SetCertificateStatus(context.Background(), main, c.ID, to)
				done <- err
			}()
		}
		for range 16 {
			if err := <-done; err != nil && !errors.Is(err, registry.ErrPrincipalStatus) {
				t.Error(err)
			}
		}
		if got, err := r.Certificate(ctx, main, c.ID); err != nil || got.Status != fleet.Revoked {
			t.Errorf("%s %v", got.Status, err)
		}
	})
}
