package bootstrap_test

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/bootstrap"
	"hallmark/bootstrap/bootstraptest"
	"hallmark/ca"
	"hallmark/ca/catest"
	"hallmark/ca/profile"
	"hallmark/device"
	"hallmark/fleet/ownership"
	"hallmark/fleet/registry"
	"hallmark/provisioner"
	"hallmark/store"
	"hallmark/store/storetest"
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

// TestOwnership_GroupsAreCountedBeforeAnythingIsAccepted: those of the template and those
// of the acceptance together are at most what a thing may be in; else the device would be
// accepted, and never boot.
func TestOwnership_GroupsAreCountedBeforeAnythingIsAccepted(t *testing.T) {
	w := newWorld(t, "")
	template := func(groups string) string {
		return strings.Replace(theirTemplate, `"AttributePayload"`, `"ThingGroups": [`+groups+`], "AttributePayload"`, 1)
	}
	var seven []string
	for i := range 7 {
		seven = append(seven, fmt.Sprintf(`"g%d"`, i))
	}
	w.must(w.Planner.PutTemplate(t.Context(), provisioner.TemplateDocument{Tenant: "other", Name: "seven", Body: []byte(template(strings.Join(seven, ", ")))}))
	w.must(w.Planner.PutTemplate(t.Context(), provisioner.TemplateDocument{Tenant: "other", Name: "eight", Body: []byte(template(strings.Join(seven, ", ") + `, {"Fn::Join": ["", ["x", {"Ref": "AWS::IoT::Certificate::CommonName"}]]}`))}))
	birth, key := w.IssueIDevID(t, "SN-1")
	code := w.release("main", "sale-1", "SN-1")
	accept := func(template string, groups ...string) error {
		_, err := w.Owners.Accept(t.Context(), officerOf("other"), ownership.Acceptance{Code: code, Template: template, Groups: groups})
		return err
	}
	for what, err := range map[string]error{"7 and 4": accept("seven", "a", "b", "c", "d"), "8 and 3": accept("eight", "a", "b", "c"), "0 and 11 with one twice": accept("accepted", "a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k")} {
		if !errors.Is(err, ownership.ErrInvalid) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if a, err := w.Owners.Act(t.Context(), scope, "sale-1"); err != nil || a.State != ownership.Open {
		t.Fatalf("%+v %v", a, err)
	}
	w.must(accept("seven", "a", "b", "c", "g1"))
	if err := accept("seven", "a", "b", "c", "d"); !errors.Is(err, ownership.ErrInvalid) { // corrected into what never boots
		t.Errorf("%v", err)
	}
	mustBoot(t, w.Door, birth, key, catest.NewKey(t))
	if thing, err := w.Registry.Get(t.Context(), access.Scope{Tenant: "other"}, "theirs-SN-1"); err != nil || len(thing.Groups) != 10 {
		t.Errorf("%+v %v", thing, err)
	}
	w.whole()
}

// TestOwnership_TheNewOwnerMakesNoUnitOfThatName: while a unit of another home is a
// tenant's, the tenant gets no birth certificate for that name; nor does its line allocate it.
func TestOwnership_TheNewOwnerMakesNoUnitOfThatName(t *testing.T) {
	for engine, url := range map[string]func(testing.TB) string{"SQLite": func(testing.TB) string { return "" }, "PostgreSQL": storetest.Postgres} {
		t.Run(engine, func(t *testing.T) {
			w := newWorld(t, url(t))
			w.IssueIDevID(t, "SN-1")
			make := func(unit string) error {
				key := catest.NewKey(t)
				spki, err := x509.MarshalPKIXPublicKey(key.Public())
				w.must(err)
				_, err = w.CA.Issue(t.Context(), ca.Request{Identity: ca.Identity{Tenant: "other", Holder: unit, Profile: string(profile.IDevID)}, Subject: profile.Subject{Organization: "Other", CommonName: unit, SerialNumber: unit},
					SPKI: spki, Key: key.Public(), Origin: profile.OriginClaimed, Requester: ca.Requester{Actor: "service:test"}, Tool: "test"})
				return err
			}
			taken := func() bool {
				is, err := w.DB.Taken(t.Context(), ca.Identity{Tenant: "other", Holder: "SN-1", Profile: string(profile.IDevID)})
				w.must(err)
				return is
			}
			code := w.release("main", "sale-1", "SN-1")
			if taken() {
				t.Error("the name is taken before it was accepted")
			}
			w.must(w.accept("other", code))
			for _, name := range []string{"SN-1", "sn-1"} {
				if err := make(name); !errors.Is(err, ownership.ErrTaken) {
					t.Errorf("%s: %v", name, err)
				}
			}
			if !taken() {
				t.Error("a line would allocate the name")
			}
			w.must(make("SN-2"))
			w.whole()
			// It was given on: the name is free again, and then it cannot come back.
			w.must(w.accept("third", w.release("other", "sale-2", "SN-1")))
			w.must(make("SN-1"))
			if err := w.accept("other", w.release("third", "sale-3", "SN-1")); !errors.Is(err, ownership.ErrTaken) {
				t.Errorf("%v", err)
			}
			w.whole()
		})
	}
}

// TestOwnership_ReleasesThatNobodyAcceptedInTimeAreCounted, until they are withdrawn; one
// that was accepted or still may be is none.
func TestOwnership_ReleasesThatNobodyAcceptedInTimeAreCounted(t *testing.T) {
	for engine, url := range map[string]func(testing.TB) string{"SQLite": func(testing.TB) string { return "" }, "PostgreSQL": storetest.Postgres} {
		t.Run(engine, func(t *testing.T) {
			w, ctx := newWorld(t, url(t)), t.Context()
			late := ownership.New(ownership.Config{Store: w.DB, Registry: w.Registry, Revoker: w.Crl, Now: func() time.Time { return time.Now().Add(8 * 24 * time.Hour) }})
			is := func(s *ownership.Service, want int64) {
				t.Helper()
				if n, err := s.Overdue(ctx); err != nil || n != want {
					t.Errorf("%d, want %d: %v", n, want, err)
				}
			}
			for _, unit := range []string{"SN-1", "SN-2", "SN-3"} {
				w.IssueIDevID(t, unit)
			}
			w.must(w.accept("other", w.release("main", "sale-1", "SN-1")))
			w.release("main", "sale-2", "SN-2")
			w.release("other", "sale-1", "SN-1")
			_, _, err := w.Owners.Do(ctx, officerOf("main"), ownership.Wanted{Name: "back-1", Kind: ownership.Reset, Units: []string{"SN-3"}})
			w.must(err)
			is(w.Owners, 0)
			is(late, 2)
			_, err = w.Owners.Withdraw(ctx, officerOf("main"), "sale-2", "")
			w.must(err)
			is(late, 1)
		})
	}
}
