package bootstrap_test

import (
	"context"
	"crypto"
	"crypto/x509"
	"database/sql"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/bootstrap/bootstraptest"
	"hallmark/ca"
	"hallmark/ca/catest"
	"hallmark/ca/profile"
	"hallmark/fleet/ownership"
	"hallmark/fleet/registry"
	"hallmark/fleet/shadow"
	"hallmark/provisioner"
	"hallmark/store/storetest"
)

// theirTemplate is how the tenant "other" registers what it accepts.
const theirTemplate = `{
  "Parameters": {"AWS::IoT::Certificate::Id": {"Type": "String"}, "AWS::IoT::Certificate::CommonName": {"Type": "String"}},
  "Resources": {
    "thing": {"Type": "AWS::IoT::Thing", "Properties": {"ThingName": {"Fn::Join": ["-", ["theirs", {"Ref": "AWS::IoT::Certificate::CommonName"}]]}, "AttributePayload": {"owner": "other"}}},
    "certificate": {"Type": "AWS::IoT::Certificate", "Properties": {"CertificateId": {"Ref": "AWS::IoT::Certificate::Id"}, "Status": "ACTIVE"}},
    "policy": {"Type": "AWS::IoT::Policy", "Properties": {"PolicyDocument": {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "iot:Publish", "Resource": "topic/theirs/*"}]}}}
  },
  "DeviceConfiguration": {"owner": "other"}
}`

// world is a door with three tenants, each with an authority of its own.
type world struct {
	*bootstraptest.Door
	t testing.TB
}

func newWorld(t testing.TB, url string) *world {
	w := &world{bootstraptest.New(t, bootstraptest.Options{URL: url, Copied: url == ""}), t}
	for _, tenant := range []string{"other", "third"} {
		key := catest.NewKey(t)
		w.Keys.Add("test:device-"+tenant, key)
		w.must(w.DB.CreateAuthority(t.Context(), ca.Authority{Name: "device-" + tenant, Tenant: tenant, Duty: profile.DutyDevice, State: ca.StateActive, KeyURI: "test:device-" + tenant, BaseURL: catest.BaseURL, Shards: 1,
			CreatedAt: time.Now(), Certificate: w.Certify(t, profile.DutyDevice, "device-"+tenant, key.Public()).Raw}))
		w.must(w.Planner.PutTemplate(t.Context(), provisioner.TemplateDocument{Tenant: tenant, Name: "accepted", Body: []byte(theirTemplate)}))
	}
	w.must(w.CA.Reload(t.Context()))
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func officerOf(tenant string) access.Actor {
	return access.Actor{Tenant: tenant, Kind: access.KindPrincipal, Name: "sam"}
}

// release gives units away and lets the door hear of it.
func (w *world) release(tenant, name string, units ...string) (code string) {
	w.t.Helper()
	_, code, err := w.Owners.Do(w.t.Context(), officerOf(tenant), ownership.Wanted{Name: name, Kind: ownership.Release, Units: units})
	w.must(err)
	w.must(w.Set.Follow(w.t.Context()))
	return code
}

func (w *world) accept(tenant, code string) error {
	_, err := w.Owners.Accept(w.t.Context(), officerOf(tenant), ownership.Acceptance{Code: code, Template: "accepted", Groups: []string{"bought"}})
	return err
}

// whole is every check that can see ownership.
func (w *world) whole() {
	w.t.Helper()
	w.must(w.Owners.Step(w.t.Context()))
	for name, check := range map[string]func() (any, int, error){
		"ownership": func() (any, int, error) { f, err := w.Owners.Fsck(context.Background()); return f, len(f), err },
		"registry":  func() (any, int, error) { f, err := w.Registry.Fsck(context.Background()); return f, len(f), err },
		"issuance": func() (any, int, error) {
			f, err := ca.Fsck(context.Background(), w.DB, time.Now(), nil)
			return f, len(f), err
		},
	} {
		if found, n, err := check(); err != nil || n > 0 {
			w.t.Errorf("fsck of %s: %v %v", name, found, err)
		}
	}
}

func (w *world) live(tenant, holder string) (n int) {
	w.t.Helper()
	all, err := w.DB.Records(context.Background(), ca.RecordQuery{Tenant: tenant, Holder: holder, Profile: string(profile.LDevID), Limit: 1000})
	w.must(err)
	for i := range all {
		if all[i].DER != nil && !all[i].Revoked() {
			n++
		}
	}
	return n
}

func refused(t testing.TB, a bootstraptest.Answer, status int, code string) {
	t.Helper()
	if a.Status != status || a.Code != code {
		t.Errorf("%d %s, want %d %s", a.Status, a.Body, status, code)
	}
}

// TestOwnership_OnBothEngines is the life of a device with several owners (S25, S43),
// and its races.
func TestOwnership_OnBothEngines(t *testing.T) {
	for engine, url := range map[string]func(testing.TB) string{"SQLite": func(testing.TB) string { return "" }, "PostgreSQL": storetest.Postgres} {
		t.Run(engine, func(t *testing.T) {
			w := newWorld(t, url(t))
			t.Run("there and back", func(t *testing.T) { thereAndBack(t, &world{w.Door, t}) })
			t.Run("two accept at once", func(t *testing.T) { twoAccept(t, &world{w.Door, t}) })
			t.Run("release against rotation", func(t *testing.T) { againstRotation(t, &world{w.Door, t}) })
		})
	}
}

// thereAndBack: what a device worked with ends, nobody has it in between, the new
// owner's template registers it, and neither sees what the other had.
func thereAndBack(t *testing.T, w *world) {
	ctx, ours, theirs := t.Context(), scope, access.Scope{Tenant: "other"}
	birth, key := w.IssueIDevID(t, "SN-1")
	k1 := catest.NewKey(t)
	c1, r1 := mustBoot(t, w.Door, birth, key, k1, "Site", "Hall 3")
	w.must(w.DB.PutShadow(ctx, shadow.Row{Key: shadow.Key{Tenant: ours.Tenant, Thing: "thing-SN-1"}, Version: 1, Document: []byte(`{"state":{"reported":{"secret":"ours"}}}`), UpdatedAt: time.Now()}, shadow.Row{}))

	// Released: what it worked with is revoked, the birth certificate is not.
	code := w.release("main", "sale-1", "sn-1")
	refused(t, w.Dial(t, c1, k1).Do(t, whoami, nil), 403, "device-revoked")
	refused(t, boot(t, w.Door, c1, k1, catest.NewKey(t)), 403, "device-revoked")
	a := boot(t, w.Door, birth, key, catest.NewKey(t))
	refused(t, a, 503, "device-released")
	if b, err := w.DB.RecordBySerial(ctx, "main", catest.Device, serial(birth)); err != nil || b.Revoked() {
		t.Errorf("the birth certificate: %+v %v", b, err)
	}
	thing, err := w.Registry.Get(ctx, ours, "thing-SN-1")
	if err != nil || thing.RegisteredBy != registry.Released || len(thing.Attributes)+len(thing.Groups)+len(thing.Policies)+len(thing.Configuration) > 0 {
		t.Errorf("%+v %v", thing, err)
	}
	if p, err := w.Registry.AttachedPolicies(ctx, ours, registry.CertificateTarget(registry.CertificateID(c1.Raw)), true); err != nil || len(p) > 0 {
		t.Errorf("policies %v %v", p, err)
	}
	if _, _, err := w.Owners.Do(ctx, officerOf("main"), ownership.Wanted{Name: "again", Kind: ownership.Reset, Units: []string{"SN-1"}}); !errors.Is(err, ownership.ErrNotOwner) {
		t.Errorf("a released unit is reset: %v", err)
	}
	w.whole()

	// Accepted: by who has the code, once.
	for _, wrong := range []string{"", "ABCD", code[:len(code)-1] + "A", strings.Repeat("A", 32)} {
		if wrong != code {
			if err := w.accept("other", wrong); !errors.Is(err, ownership.ErrCode) {
				t.Errorf("the code %q: %v", wrong, err)
			}
		}
	}
	if err := w.accept("main", code); !errors.Is(err, ownership.ErrInvalid) && !errors.Is(err, ownership.ErrTemplate) && !errors.Is(err, provisioner.ErrTemplateKind) && err == nil {
		t.Errorf("its own tenant accepts: %v", err)
	}
	w.must(w.accept("other", strings.ToLower(strings.ReplaceAll(code, "-", ""))))
	w.must(w.accept("other", code)) // the answer was lost
	if err := w.accept("third", code); !errors.Is(err, ownership.ErrCode) {
		t.Errorf("the code is used again: %v", err)
	}

	// The first boot lands there, by their template, under their authority.
	k2 := catest.NewKey(t)
	c2, r2 := mustBoot(t, w.Door, birth, key, k2)
	if r2.Thing != "theirs-SN-1" || r2.Configuration["owner"] != "other" || c2.Issuer.CommonName != "device-other" || fmt.Sprint(r2.Policies) == fmt.Sprint(r1.Policies) {
		t.Errorf("%+v under %s", r2, c2.Issuer)
	}
	thing, err = w.Registry.Get(ctx, theirs, "theirs-SN-1")
	if err != nil || thing.RegisteredBy != registry.Transferred || fmt.Sprint(thing.Groups) != "[bought]" || thing.Attributes["owner"] != "other" {
		t.Errorf("%+v %v", thing, err)
	}
	// It renews there, standing on its birth certificate; where it was nothing is issued.
	k3 := catest.NewKey(t)
	c3, _ := mustBoot(t, w.Door, c2, k2, k3)
	if c3.Issuer.CommonName != "device-other" {
		t.Errorf("renewed under %s", c3.Issuer)
	}
	w.stays("main", "SN-1")

	// Each sees its own history.
	_, events, err := w.Owners.Show(ctx, ours, "SN-1")
	if err != nil || len(events) != 2 || events[0].What != ownership.DidRelease || events[1].What != ownership.DidHandOver {
		t.Fatalf("%+v %v", events, err)
	}
	if old := events[0].Archive; len(old) != 1 || old[0].Thing != "thing-SN-1" || old[0].Attributes["site"] != "Hall 3" || len(old[0].Groups) != 1 || !strings.Contains(string(old[0].Shadows[""]), "ours") ||
		len(old[0].Certificates) != 1 || old[0].Certificates[0].ID != registry.CertificateID(c1.Raw) || len(old[0].Certificates[0].Policies) != 1 || len(events[0].Revoked) != 1 {
		t.Errorf("%+v", events[0])
	}
	u, events, err := w.Owners.Show(ctx, theirs, "SN-1")
	if err != nil || u.Serial != serial(birth).String() || len(events) != 1 || events[0].What != ownership.DidAccept || len(events[0].Archive) > 0 {
		t.Errorf("%+v %+v %v", u, events, err)
	}
	if _, _, err := w.Owners.Show(ctx, access.Scope{Tenant: "third"}, "SN-1"); !errors.Is(err, ownership.ErrUnknown) {
		t.Errorf("a stranger sees it: %v", err)
	}
	if u, _, err := w.Owners.Show(ctx, ours, "SN-1"); err != nil || u.Tenant != "" || u.State != "" {
		t.Errorf("the former owner sees %+v %v", u, err)
	}
	w.whole()

	// And back: home it needs no template.
	code = w.release("other", "return-1", "SN-1")
	refused(t, w.Dial(t, c3, k3).Do(t, whoami, nil), 403, "device-revoked")
	refused(t, boot(t, w.Door, birth, key, catest.NewKey(t)), 503, "device-released")
	w.stays("other", "SN-1")
	_, err = w.Owners.Accept(ctx, officerOf("main"), ownership.Acceptance{Code: code})
	w.must(err)
	_, r4 := mustBoot(t, w.Door, birth, key, catest.NewKey(t), "Site", "Hall 9")
	// Who had it in between, and is not its home, keeps what it saw.
	if u, events, err := w.Owners.Show(ctx, theirs, "SN-1"); err != nil || len(events) != 3 || u.Tenant != "" {
		t.Errorf("%+v %d events, %v", u, len(events), err)
	}
	if thing, err = w.Registry.Get(ctx, ours, "thing-SN-1"); err != nil || r4.Thing != "thing-SN-1" || thing.Attributes["site"] != "Hall 9" || thing.RegisteredBy != catest.Device {
		t.Errorf("%+v %+v %v", r4, thing, err)
	}
	w.whole()

	// Reset: anew for the same owner. Decommissioned: never again.
	_, _, err = w.Owners.Do(ctx, officerOf("main"), ownership.Wanted{Name: "reset-1", Kind: ownership.Reset, Units: []string{"SN-1"}})
	w.must(err)
	w.must(w.Set.Follow(ctx))
	if n := w.live("main", "SN-1"); n != 0 {
		t.Errorf("%d certificates after the reset", n)
	}
	c5, _ := mustBoot(t, w.Door, birth, key, catest.NewKey(t))
	w.must(w.Owners.Step(ctx)) // it comes late, and does no harm
	if r, err := w.DB.RecordBySerial(ctx, "main", catest.Device, serial(c5)); err != nil || r.Revoked() {
		t.Errorf("what follows a reset revokes the next certificate: %v", err)
	}
	_, _, err = w.Owners.Do(ctx, officerOf("main"), ownership.Wanted{Name: "end-1", Kind: ownership.Decommission, Units: []string{"SN-1"}, Note: "shredded"})
	w.must(err)
	w.must(w.Set.Follow(ctx))
	refused(t, boot(t, w.Door, birth, key, catest.NewKey(t)), 403, "device-revoked")
	if _, blocked, err := w.DB.Blocked(ctx, "main", "SN-1"); err != nil || !blocked {
		t.Errorf("the name is free: %v", err)
	}
	w.whole()
}

// stays: nothing of the unit is issued in a tenant that it left.
func (w *world) stays(tenant, unit string) {
	w.t.Helper()
	before := w.live(tenant, unit)
	key := catest.NewKey(w.t)
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	w.must(err)
	_, err = w.CA.Issue(w.t.Context(), ca.Request{Identity: ca.Identity{Tenant: tenant, Holder: unit, Profile: string(profile.LDevID), Slot: "A"}, Subject: profile.Subject{CommonName: "x", SerialNumber: unit}, SPKI: spki, Key: key.Public(), Origin: profile.OriginClaimed,
		Rekey: ca.RekeySupersede, Requester: ca.Requester{Actor: "service:test"}})
	if !errors.Is(err, ownership.ErrLeft) || before != 0 || w.live(tenant, unit) != 0 {
		w.t.Errorf("%s: %v, %d live before", tenant, err, before)
	}
}

// twoAccept: a code is for one tenant.
func twoAccept(t *testing.T, w *world) {
	w.IssueIDevID(t, "T-1")
	w.IssueIDevID(t, "T-2")
	code := w.release("main", "sale-2", "T-1", "T-2")
	var won sync.Map
	storetest.Parallel(10, func(i int) {
		tenant := []string{"other", "third"}[i%2]
		if err := w.accept(tenant, code); err == nil {
			won.Store(tenant, true)
		} else if !errors.Is(err, ownership.ErrCode) {
			t.Error(err)
		}
	})
	n := 0
	won.Range(func(any, any) bool { n++; return true })
	a, err := w.Owners.Owner(t.Context(), "main", "T-1")
	b, err2 := w.Owners.Owner(t.Context(), "main", "T-2")
	if _, ok := won.Load(a.Tenant); n != 1 || !ok || a.Tenant != b.Tenant || err != nil || err2 != nil {
		t.Errorf("%d accepted; %+v %+v %v %v", n, a, b, err, err2)
	}
	w.whole()
}

// againstRotation: devices boot and renew while they are released; none has a
// certificate of the tenant that it left.
func againstRotation(t *testing.T, w *world) {
	const units = 3
	type device struct {
		name  string
		birth *x509.Certificate
		key   crypto.Signer
	}
	var all []device
	for i := range units {
		name := fmt.Sprintf("R-%d", i)
		c, k := w.IssueIDevID(t, name)
		all = append(all, device{name, c, k})
		mustBoot(t, w.Door, c, k, catest.NewKey(t))
	}
	var tries atomic.Int64
	ended := make(chan struct{})
	var wg sync.WaitGroup
	for _, d := range all {
		wg.Go(func() {
			c, k := d.birth, d.key
			for i := 0; ; i++ {
				fresh := catest.NewKey(t)
				conn := w.Dial(t, c, k)
				a, err := conn.Try(register, request(t, fresh, conn.Challenge(t)))
				conn.Close()
				if err != nil {
					t.Error(err)
					return
				}
				tries.Add(1)
				c, k = d.birth, d.key
				if a.Status == 200 && i%2 == 0 { // the next one is a renewal
					if c, err = x509.ParseCertificate(a.Registration.Certificate); err != nil {
						t.Error(err)
						return
					}
					k = fresh
				}
				select {
				case <-ended:
					return
				default:
				}
			}
		})
	}
	for tries.Load() < units {
		time.Sleep(time.Millisecond)
	}
	var code [units]string
	for i, d := range all {
		code[i] = w.release("main", "sale-"+d.name, d.name)
	}
	close(ended)
	wg.Wait()
	w.must(w.Owners.Step(t.Context()))
	for i, d := range all {
		if n := w.live("main", d.name); n != 0 {
			t.Errorf("%s has %d certificates of the tenant that it left", d.name, n)
		}
		refused(t, boot(t, w.Door, d.birth, d.key, catest.NewKey(t)), 503, "device-released")
		w.must(w.accept("other", code[i]))
	}
	w.whole()
}

// TestOwnership_ADatabaseWriterChangesNoOwner_S32: a row that was changed, put in
// another's place or taken leaves the device outside.
func TestOwnership_ADatabaseWriterChangesNoOwner_S32(t *testing.T) {
	file := filepath.Join(t.TempDir(), "o.db")
	w := newWorld(t, file)
	raw, err := sql.Open("sqlite", "file:"+file+"?_pragma=busy_timeout(10000)")
	w.must(err)
	defer raw.Close()
	exec := func(q string) {
		t.Helper()
		if _, err := raw.Exec(q); err != nil {
			t.Fatal(q, err)
		}
	}
	birth, key := w.IssueIDevID(t, "SN-1")
	w.must(w.accept("other", w.release("main", "sale-1", "SN-1")))
	u, err := w.Owners.Owner(t.Context(), "main", "SN-1")
	if err != nil || u.Tenant != "other" {
		t.Fatalf("%+v %v", u, err)
	}
	for _, q := range []string{
		`UPDATE ownership SET owner = 'third', body = replace(CAST(body AS TEXT), '"tenant":"other"', '"tenant":"third"')`,
		`UPDATE ownership SET body = replace(CAST(body AS TEXT), '"accepted"', '"theirown"')`,
		`DELETE FROM ownership`,
	} {
		exec(`CREATE TABLE kept AS SELECT * FROM ownership`)
		exec(q)
		if a := boot(t, w.Door, birth, key, catest.NewKey(t)); a.Code != "store-row-tampered" {
			t.Errorf("%s: %d %s", q, a.Status, a.Body)
		}
		exec(`DELETE FROM ownership; INSERT INTO ownership SELECT * FROM kept; DROP TABLE kept`)
	}
	mustBoot(t, w.Door, birth, key, catest.NewKey(t))
	w.whole()
}
