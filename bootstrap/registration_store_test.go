package bootstrap_test

import (
	"context"
	"crypto/x509"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/bootstrap"
	"hallmark/ca"
	"hallmark/ca/catest"
	"hallmark/fleet"
	"hallmark/fleet/registry"
	"hallmark/internal/fault"
	"hallmark/provisioner"
	"hallmark/provisioner/hook"
)

// dying is an issuer whose answer is lost after the certificate was made, as in a
// crash between issuing and registering.
type dying struct {
	bootstrap.Issuer
	dead atomic.Bool
}

func (d *dying) Issue(ctx context.Context, r ca.Request) (ca.Issued, error) {
	out, err := d.Issuer.Issue(ctx, r)
	if err == nil && d.dead.Load() {
		return ca.Issued{}, ca.ErrSigner.New("The process died.")
	}
	return out, err
}

// TestClaim_ACrashAfterIssuingLosesNothing: the same key resumes and is counted
// once; what nobody resumes is revoked.
func TestClaim_ACrashAfterIssuingLosesNothing(t *testing.T) {
	engines(t, func(t *testing.T, url string) {
		s := newSite(t, url)
		who := s.claim(t, "line-1", 10)
		issuer := &dying{Issuer: s.CA}
		claims, err := bootstrap.NewClaims(bootstrap.ClaimsConfig{Issuer: issuer, Planner: s.Planner, Templates: s.DB, Registry: s.Registry, Records: s.DB, Grants: s.DB, Revoker: s.Crl, Now: s.clock.Now})
		must(t, err)
		issuer.dead.Store(true)
		back, gone := s.request(t, catest.NewKey(t)), s.request(t, catest.NewKey(t))
		for _, r := range [][]byte{back, gone} {
			if _, err := claims.CreateFromCSR(t.Context(), who, r); fault.KindOf(err) != fault.Unavailable {
				t.Fatalf("%v", err)
			}
		}
		issuer.dead.Store(false)
		out, err := claims.CreateFromCSR(t.Context(), who, back)
		must(t, err)
		if _, err := claims.RegisterThing(t.Context(), who, "fleet", out.Token, map[string]string{"SerialNumber": "SN-1"}); err != nil {
			t.Fatal(err)
		}
		b, err := s.DB.Budget(t.Context(), scope, bootstrap.ClaimBudget(who.Certificate))
		if err != nil || b.Used != 2 {
			t.Errorf("%d used, %v", b.Used, err)
		}
		s.clock.Add(time.Hour)
		if n, err := claims.Sweep(t.Context()); n != 1 || err != nil {
			t.Errorf("%d ended, %v", n, err)
		}
		all, err := s.DB.Records(t.Context(), ca.RecordQuery{Tenant: access.DefaultTenant, Profile: "ldevid"})
		must(t, err)
		states := map[string]int{}
		for i := range all {
			states[all[i].Status(s.clock.Now())]++
		}
		if len(all) != 2 || states["good"] != 1 || states["revoked"] != 1 {
			t.Errorf("%v", states)
		}
		if _, err := claims.CreateFromCSR(t.Context(), who, gone); !errors.Is(err, bootstrap.ErrClaimSpent) {
			t.Errorf("%v", err)
		}
		clean(t, s.Door)
	})
}

// TestJITP_ABirthCertificateOfOursCanRegisterAtTheDoor where its CA is switched on
// for it, and only with a template of that kind.
func TestJITP_ABirthCertificateOfOursCanRegisterAtTheDoor(t *testing.T) {
	s := newSite(t, "")
	birth, _ := s.IssueIDevID(t, "SN-1")
	_, err := s.byoc.RegisterCA(t.Context(), s.owner, registry.CARegistration{Certificate: s.Device, Active: true, AutoRegistration: true})
	must(t, err)
	s.refused(t, birth, bootstrap.ErrDoorClosed) // its registration is one of first boot
	must(t, s.Planner.PutRegistration(t.Context(), provisioner.Registration{Tenant: access.DefaultTenant, Authority: catest.Device, Template: "jitp", Enabled: true}))
	s.clock.Add(time.Minute)
	s.refused(t, birth, bootstrap.ErrRegistered)
	got, err := s.connect(birth)
	if err != nil || got.Thing != "SN-1" || got.Authority != catest.Device || got.Holder != "sn-1" {
		t.Errorf("%+v %v", got, err)
	}
	// A forged one of the same issuer stays outside (A12).
	key, err := s.Keys.Key(t.Context(), "test:"+catest.Device)
	must(t, err)
	s.refused(t, signed(t, birth, s.Device, catest.NewKey(t).Public(), key), bootstrap.ErrUnknown)
	clean(t, s.Door)
}

// TestS32_FsckNamesChangedBudgetsAndGrants: whoever writes to the database raises
// no budget and claims nothing again.
func TestS32_FsckNamesChangedBudgetsAndGrants(t *testing.T) {
	file := filepath.Join(t.TempDir(), "x.db")
	s := newSite(t, file)
	who := s.claim(t, "line-1", 10)
	_, token := s.made(t, who, catest.NewKey(t))
	s.ask(t, who, topicReg, registerBody(t, token, "SerialNumber", "SN-1")).accepted(t, topicReg)
	parked := s.register(t, "Maker CA", "").device(t, "press-1", "")
	s.refused(t, parked, bootstrap.ErrParked)
	db, err := sql.Open("sqlite", "file:"+file+"?_pragma=busy_timeout(10000)")
	must(t, err)
	defer db.Close()
	rows := func() string {
		var out []string
		must(t, s.DB.BrokenRows(t.Context(), func(object string, err error) { out = append(out, object) }))
		return strings.Join(out, "\n")
	}
	if got := rows(); got != "" {
		t.Fatalf("before: %s", got)
	}
	for _, c := range []struct{ change, undo, want string }{
		{`UPDATE registration_budgets SET most = most + 1`, `UPDATE registration_budgets SET most = most - 1`, "registration_budgets main/claim/" + who.Certificate},
		{`UPDATE registration_grants SET state = 'pending'`, `UPDATE registration_grants SET state = 'claimed'`, "registration_grants main/claim-"},
		{`UPDATE registration_events SET sent_at = sent_at + 1`, `UPDATE registration_events SET sent_at = sent_at - 1`, "registration_events main/" + registry.CertificateID(parked.Raw)},
		{`UPDATE fleet_templates SET take_over = 1`, `UPDATE fleet_templates SET take_over = 0`, "fleet_templates main/fleet"},
		{`DELETE FROM registration_grants`, ``, "registration_grants main/claim-"},
	} {
		if _, err := db.Exec(c.change); err != nil {
			t.Fatal(err)
		}
		if got := rows(); !strings.Contains(got, c.want) {
			t.Errorf("%s: fsck says %q", c.change, got)
		}
		if c.want == "registration_budgets main/claim/"+who.Certificate {
			if _, err := s.claims.CreateKeys(t.Context(), who); fault.KindOf(err) != fault.Internal {
				t.Errorf("a changed budget is drawn on: %v", err)
			}
		}
		if c.undo != "" {
			if _, err := db.Exec(c.undo); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestRegistration_IsItsTenants: no look-up gives another tenant anything.
func TestRegistration_IsItsTenants(t *testing.T) {
	engines(t, func(t *testing.T, url string) {
		s := newSite(t, url)
		who := s.claim(t, "line-1", 10)
		c, _ := s.made(t, who, catest.NewKey(t))
		holder := c.Subject.CommonName
		for _, sc := range []access.Scope{scope, {Tenant: "other"}} {
			mine := sc == scope
			_, e1 := s.DB.Budget(t.Context(), sc, bootstrap.ClaimBudget(who.Certificate))
			_, e2 := s.DB.Grant(t.Context(), sc, holder)
			_, e3 := s.DB.GrantByCertificate(t.Context(), sc, registry.CertificateID(c.Raw))
			_, e4 := s.DB.FleetTemplate(t.Context(), sc, "fleet")
			n, e5 := s.DB.OpenGrants(t.Context(), sc, bootstrap.ClaimBudget(who.Certificate))
			list, e6 := s.DB.FleetTemplates(t.Context(), sc)
			if mine != (e1 == nil && e2 == nil && e3 == nil && e4 == nil && n == 1 && len(list) == 1) || !mine && (e1 == nil || e2 == nil || e3 == nil || e4 == nil || n != 0 || len(list) != 0) || e5 != nil || e6 != nil {
				t.Errorf("%s: %v %v %v %v %d %v %v %v", sc.Tenant, e1, e2, e3, e4, n, e5, list, e6)
			}
		}
	})
}

// TestS22_ATakeOverNeedsTheTemplateAndTheHook.
func TestS22_ATakeOverNeedsTheTemplateAndTheHook(t *testing.T) {
	s := newSite(t, "")
	who := s.claim(t, "line-1", 10)
	first, token := s.made(t, who, catest.NewKey(t))
	s.ask(t, who, topicReg, registerBody(t, token, "SerialNumber", "SN-1")).accepted(t, topicReg)
	second, again := s.made(t, who, catest.NewKey(t))
	body := registerBody(t, again, "SerialNumber", "SN-1")
	var none map[string]string
	s.hook(t, &none, new(hook.Request))
	s.ask(t, who, topicReg, body).rejected(t, topicReg, 409, "ResourceConflict")
	ft, err := s.DB.FleetTemplate(t.Context(), scope, "fleet")
	must(t, err)
	ft.TakeOver = true
	if err := s.Planner.PutFleetTemplate(t.Context(), s.DB, provisioner.FleetTemplate{Tenant: ft.Tenant, Name: ft.Name, TakeOver: true, Enabled: true}); !errors.Is(err, provisioner.ErrRegistrationInvalid) {
		t.Errorf("a take-over without a hook: %v", err)
	}
	must(t, s.Planner.PutFleetTemplate(t.Context(), s.DB, ft))
	s.ask(t, who, topicReg, body).accepted(t, topicReg)
	if s.status(t, first) != fleet.Inactive || s.status(t, second) != fleet.Active {
		t.Errorf("%s, %s", s.status(t, first), s.status(t, second))
	}
	if got, err := s.connect(second); err != nil || fmt.Sprint(got.Thing) != "fp_SN-1" {
		t.Errorf("%+v %v", got, err)
	}
	for _, c := range []*x509.Certificate{first} {
		s.refused(t, c, bootstrap.ErrInactive)
	}
}
