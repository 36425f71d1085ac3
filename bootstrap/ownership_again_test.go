package bootstrap_test

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"hallmark/bootstrap"
	"hallmark/bootstrap/bootstraptest"
	"hallmark/ca/catest"
	"hallmark/device"
	"hallmark/fleet/ownership"
	"hallmark/fleet/registry"
	"hallmark/provisioner"
	"hallmark/store"
)

// TestOwnership_AKeyThatTheFormerOwnerBoundIsReplaced: the answer of a first boot was
// lost, and the device was sold before it came again.
func TestOwnership_AKeyThatTheFormerOwnerBoundIsReplaced(t *testing.T) {
	w := newWorld(t, "")
	birth, key := w.IssueIDevID(t, "SN-1")
	dir := t.TempDir()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	w.must(err)
	w.must(os.WriteFile(filepath.Join(dir, "idevid.key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600))
	w.must(os.WriteFile(filepath.Join(dir, "idevid.pem"), pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: birth.Raw}), 0o600))
	_, port, err := net.SplitHostPort(w.Addr)
	w.must(err)
	cfg := device.Config{Dir: dir, Server: "https://localhost:" + port, Roots: w.Pool(), Parameters: map[string]string{"Site": "x"}}
	door := w.Service.Handler(bootstraptest.Problem)
	w.Serve(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		door.ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler) // the answer is lost
	}))
	if _, err := device.FirstBoot(t.Context(), cfg); err == nil || w.live("main", "SN-1") != 1 {
		t.Fatalf("%v, %d bound", err, w.live("main", "SN-1"))
	}
	w.Serve(door)
	w.must(w.accept("other", w.release("main", "sale-1", "SN-1")))
	if out, err := device.FirstBoot(t.Context(), cfg); err != nil || out.Thing != "theirs-SN-1" {
		t.Errorf("%+v %v", out, err)
	}
}

// failover is the record of owners of a database that fails once.
type failover struct {
	*ownership.Service
	fail *bool
}

func (f failover) Held(ctx context.Context, tenant, holder string) (ownership.Unit, error) {
	if *f.fail {
		*f.fail = false
		return ownership.Unit{}, store.ErrOpen.New("").After(time.Second)
	}
	return f.Service.Held(ctx, tenant, holder)
}

// TestOwnership_ADatabaseThatFailsIsNoMissingBirthCertificate: the device comes again
// (A80).
func TestOwnership_ADatabaseThatFailsIsNoMissingBirthCertificate(t *testing.T) {
	w := newWorld(t, "")
	fail := false
	gate := bootstrap.NewGate(bootstrap.GateConfig{CA: w.CA, Records: w.DB, Registry: w.Registry, Revoked: w.Set, Owners: failover{w.Owners, &fail}})
	w.Serve(bootstrap.New(bootstrap.Config{Gate: gate, Issuer: w.CA, Planner: w.Planner, Registry: w.Registry, Records: w.DB}).Handler(bootstraptest.Problem))
	birth, key := w.IssueIDevID(t, "SN-1")
	k1, k2 := catest.NewKey(t), catest.NewKey(t)
	c1, _ := mustBoot(t, w.Door, birth, key, k1, "Site", "x")
	fail = true
	if a := boot(t, w.Door, c1, k1, k2); a.Status != 503 || a.Code == "register-birth-invalid" {
		t.Errorf("%d %s", a.Status, a.Body)
	}
	mustBoot(t, w.Door, c1, k1, k2)
}

// TestOwnership_AnAcceptanceIsCorrectedUntilTheUnitBoots: what cannot be registered is
// refused when it is accepted, or can be put right then.
func TestOwnership_AnAcceptanceIsCorrectedUntilTheUnitBoots(t *testing.T) {
	w := newWorld(t, "")
	ctx := t.Context()
	birth, key := w.IssueIDevID(t, "SN-1")
	code := w.release("main", "sale-1", "SN-1")
	_, err := w.Registry.CreateGroup(ctx, registry.Group{Tenant: "other", Class: registry.ThingGroup, Name: "found", Query: "attributes.owner:other"})
	w.must(err)
	accept := func(template string, groups ...string) ([]ownership.Unit, error) {
		return w.Owners.Accept(ctx, officerOf("other"), ownership.Acceptance{Code: code, Template: template, Groups: groups})
	}
	for _, group := range []string{"Hall 3", "found", "FOUND"} {
		if _, err := accept("accepted", group); !errors.Is(err, registry.ErrGroupInvalid) && !errors.Is(err, registry.ErrGroupExists) {
			t.Errorf("group %q: %v", group, err)
		}
	}
	if _, err := accept("", "hall-3"); !errors.Is(err, ownership.ErrInvalid) {
		t.Errorf("groups without a template: %v", err)
	}
	_, err = accept("accepted", "hall-1")
	w.must(err)
	if us, err := accept("accepted", "hall-3"); err != nil || len(us) != 1 || len(us[0].Groups) != 1 || us[0].Groups[0] != "hall-3" {
		t.Errorf("%+v %v", us, err)
	}
	mustBoot(t, w.Door, birth, key, catest.NewKey(t))
	if thing, err := w.Registry.Get(ctx, officerOf("other").Scope(), "theirs-SN-1"); err != nil || len(thing.Groups) != 1 || thing.Groups[0] != "hall-3" {
		t.Errorf("%+v %v", thing, err)
	}
	if _, err := accept("accepted", "hall-3"); err != nil {
		t.Errorf("the same again: %v", err)
	}
	if _, err := accept("accepted", "hall-4"); !errors.Is(err, ownership.ErrNotOwner) {
		t.Errorf("another group after it booted: %v", err)
	}
	w.whole()
}

// TestOwnership_AUnitRegisteredAtTheDoorComesBackAfterAReset: its birth certificate is
// what it works with, and it has no other.
func TestOwnership_AUnitRegisteredAtTheDoorComesBackAfterAReset(t *testing.T) {
	s := newSite(t, "")
	ctx := t.Context()
	birth, _ := s.IssueIDevID(t, "SN-1")
	info, err := s.CA.Authority(catest.Device)
	must(t, err)
	rec, err := s.byoc.RegisterCA(ctx, s.owner, registry.CARegistration{Certificate: info.Cert, Authority: catest.Device, Active: true, AutoRegistration: true})
	must(t, err)
	must(t, s.Planner.PutRegistration(ctx, provisioner.Registration{Tenant: scope.Tenant, Authority: rec.Registration(), Template: "jitp", Enabled: true}))
	enters := func(when string) {
		t.Helper()
		if _, err := s.connect(birth); !errors.Is(err, bootstrap.ErrRegistered) {
			t.Errorf("%s, first: %v", when, err)
		}
		if a, err := s.connect(birth); err != nil || a.Thing == "" {
			t.Errorf("%s, then: %+v %v", when, a, err)
		}
	}
	enters("new")
	_, _, err = s.Owners.Do(ctx, officerOf("main"), ownership.Wanted{Name: "reset-1", Kind: ownership.Reset, Units: []string{"SN-1"}})
	must(t, err)
	must(t, s.Set.Follow(ctx))
	enters("after the reset")

	// Released it is nobody's, and the door stays shut.
	_, _, err = s.Owners.Do(ctx, officerOf("main"), ownership.Wanted{Name: "sale-1", Kind: ownership.Release, Units: []string{"SN-1"}})
	must(t, err)
	must(t, s.Set.Follow(ctx))
	if _, err := s.connect(birth); !errors.Is(err, ownership.ErrReleased) {
		t.Errorf("after the release: %v", err)
	}
}
