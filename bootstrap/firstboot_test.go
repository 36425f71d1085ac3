package bootstrap_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/api/deviceapi"
	"hallmark/bootstrap/bootstraptest"
	"hallmark/ca"
	"hallmark/ca/catest"
	"hallmark/ca/csr"
	"hallmark/ca/profile"
	"hallmark/fleet"
	"hallmark/provisioner"
	"hallmark/provisioner/hook"
	"hallmark/store/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m) }

var scope = access.Scope{Tenant: access.DefaultTenant}

const register, whoami, nonce = "/bootstrap/v1/register", "/bootstrap/v1/whoami", "/bootstrap/v1/nonce"

// request makes a body with a CSR.
func request(t testing.TB, key crypto.Signer, challenge string, parameters ...string) deviceapi.RegisterRequest {
	t.Helper()
	raw, err := csr.Create(key, "ignored", challenge)
	if err != nil {
		t.Fatal(err)
	}
	r := deviceapi.RegisterRequest{Csr: raw}
	if len(parameters) > 0 {
		m := map[string]string{}
		for i := 0; i < len(parameters); i += 2 {
			m[parameters[i]] = parameters[i+1]
		}
		r.Parameters = &m
	}
	return r
}

// boot is a first boot over a connection of its own.
func boot(t testing.TB, d *bootstraptest.Door, c *x509.Certificate, key crypto.Signer, fresh crypto.Signer, parameters ...string) bootstraptest.Answer {
	t.Helper()
	conn := d.Dial(t, c, key)
	return conn.Do(t, register, request(t, fresh, conn.Challenge(t), parameters...))
}

func mustBoot(t testing.TB, d *bootstraptest.Door, c *x509.Certificate, key crypto.Signer, fresh crypto.Signer, parameters ...string) (*x509.Certificate, deviceapi.Registration) {
	t.Helper()
	a := boot(t, d, c, key, fresh, parameters...)
	if a.Status != 200 {
		t.Fatalf("register: %d %s", a.Status, a.Body)
	}
	out, err := x509.ParseCertificate(a.Registration.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	return out, a.Registration
}

func ldevids(t testing.TB, d *bootstraptest.Door, holder string) []ca.Record {
	t.Helper()
	all, err := d.DB.Records(context.Background(), ca.RecordQuery{Tenant: access.DefaultTenant, Holder: holder, Profile: string(profile.LDevID)})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

func clean(t testing.TB, d *bootstraptest.Door) {
	t.Helper()
	found, err := d.Registry.Fsck(context.Background())
	if err != nil || len(found) > 0 {
		t.Errorf("fsck: %v %v", found, err)
	}
}

func TestRegister_MakesAThingWithAnOperationalCertificate(t *testing.T) {
	d := bootstraptest.New(t, bootstraptest.Options{})
	birth, key := d.IssueIDevID(t, "SN-1")
	fresh := catest.NewKey(t)
	c, r := mustBoot(t, d, birth, key, fresh, "Site", "Hall 3")

	if r.Thing != "thing-SN-1" || c.Subject.CommonName != "thing-SN-1" || r.Status != "ACTIVE" {
		t.Errorf("thing %q, subject %q, status %q", r.Thing, c.Subject.CommonName, r.Status)
	}
	if !fresh.PublicKey.Equal(c.PublicKey) {
		t.Error("the certificate is for another key")
	}
	if r.Configuration["endpoint"] == "" || r.Configuration["site"] != "site/Hall 3" || len(r.Policies) != 1 {
		t.Errorf("configuration %v, policies %v", r.Configuration, r.Policies)
	}
	if len(r.TrustBundle) != 1 || !bytes.Equal(r.TrustBundle[0], d.Root.Raw) || len(r.Chain) != 1 || !bytes.Equal(r.Chain[0], d.Device.Raw) {
		t.Error("chain or trust bundle is wrong")
	}
	thing, err := d.Registry.Get(t.Context(), scope, "thing-SN-1")
	if err != nil || thing.Attributes["site"] != "Hall 3" || thing.Attributes["maker"] != "Example" || thing.Attributes["serial"] != "SN-1" || thing.Holder != "sn-1" || thing.RegisteredBy != catest.Device {
		t.Errorf("%+v %v", thing, err)
	}
	if p, err := d.Registry.Policy(t.Context(), scope, r.Policies[0]); err != nil || !strings.Contains(p.Document, "${iot:Connection.Thing.ThingName}") {
		t.Errorf("%+v %v", p, err)
	}
	if recs := ldevids(t, d, "SN-1"); len(recs) != 1 || recs[0].Origin != string(profile.OriginClaimed) || recs[0].Requester != "device:SN-1" {
		t.Errorf("%+v", recs) // S16: the origin is inherited
	}
	// The new certificate opens the door, and is the thing's.
	a := d.Dial(t, c, fresh).Do(t, whoami, nil)
	if a.Status != 200 || a.WhoAmI.Profile != "ldevid" || a.WhoAmI.Thing == nil || *a.WhoAmI.Thing != "thing-SN-1" || a.WhoAmI.Status != "ACTIVE" {
		t.Errorf("%d %s", a.Status, a.Body)
	}
	// Somebody else's tool says the same about the chain.
	dir := t.TempDir()
	for name, certs := range map[string][]*x509.Certificate{"root.pem": {d.Root}, "ca.pem": {d.Device}, "dev.pem": {c}} {
		if err := os.WriteFile(filepath.Join(dir, name), catest.PEM(certs...), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	out, err := exec.Command("openssl", "verify", "-x509_strict", "-purpose", "sslclient", "-CAfile", filepath.Join(dir, "root.pem"), "-untrusted", filepath.Join(dir, "ca.pem"), filepath.Join(dir, "dev.pem")).CombinedOutput()
	if err != nil {
		t.Errorf("openssl: %s", out)
	}
	clean(t, d)
}

// S15: 50 parallel first boots with the same CSR are one device.
func TestS15_FiftyParallelFirstBootsAreOne(t *testing.T) {
	t.Run("sqlite", func(t *testing.T) { fifty(t, "") })
	t.Run("postgres", func(t *testing.T) { fifty(t, storetest.Postgres(t)) })
}

func fifty(t *testing.T, url string) {
	d := bootstraptest.New(t, bootstraptest.Options{URL: url})
	birth, key := d.IssueIDevID(t, "SN-1")
	n := d.Dial(t, birth, key).Do(t, nonce, []byte("{}"))
	if n.Status != 200 || n.Nonce.Nonce == "" {
		t.Fatalf("%d %s", n.Status, n.Body)
	}
	body := request(t, catest.NewKey(t), n.Nonce.Nonce)
	var conns []*bootstraptest.Conn
	for range 50 {
		conns = append(conns, d.Dial(t, birth, key))
	}
	answers := make([]bootstraptest.Answer, len(conns))
	errs := make([]error, len(conns))
	var wg sync.WaitGroup
	for i, c := range conns {
		wg.Go(func() { answers[i], errs[i] = c.Try(register, body) })
	}
	wg.Wait()
	for i, a := range answers {
		if errs[i] != nil || a.Status != 200 || !bytes.Equal(a.Registration.Certificate, answers[0].Registration.Certificate) || a.Registration.Status != "ACTIVE" {
			t.Errorf("answer %d: %v %d %.300s", i, errs[i], a.Status, a.Body)
		}
	}
	page, err := d.Registry.List(t.Context(), scope, listAll)
	if err != nil || len(page.Things) != 1 || len(ldevids(t, d, "SN-1")) != 1 {
		t.Errorf("%d things, %d certificates, %v", len(page.Things), len(ldevids(t, d, "SN-1")), err)
	}
	clean(t, d)
}

// S15: without a binding the key is active only after it was proven by a connection.
func TestS15_AnUnboundKeyIsPendingUntilItConnects(t *testing.T) {
	d := bootstraptest.New(t, bootstraptest.Options{})
	birth, key := d.IssueIDevID(t, "SN-1")
	fresh := catest.NewKey(t)
	conn := d.Dial(t, birth, key)
	a := conn.Do(t, register, request(t, fresh, ""))
	if a.Status != 200 || a.Registration.Status != "PENDING_ACTIVATION" {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	c, _ := x509.ParseCertificate(a.Registration.Certificate)
	status := func() fleet.PrincipalStatus {
		ps, err := d.Registry.Principals(t.Context(), scope, "thing-SN-1")
		if err != nil || len(ps) != 1 {
			t.Fatalf("%v %v", ps, err)
		}
		return ps[0].Status
	}
	if status() != fleet.PendingActivation {
		t.Errorf("status %s", status())
	}
	if a := d.Dial(t, c, fresh).Do(t, whoami, nil); a.Status != 200 || a.WhoAmI.Status != "ACTIVE" || status() != fleet.Active {
		t.Errorf("%d %s", a.Status, a.Body)
	}
	// A binding of another connection, or of another certificate, is refused.
	other, otherKey := d.IssueIDevID(t, "SN-2")
	stolen := d.Dial(t, other, otherKey).Do(t, nonce, []byte("{}")).Nonce.Nonce
	for name, challenge := range map[string]string{"another connection": d.Dial(t, birth, key).Challenge(t), "another device's nonce": stolen, "nonsense": "hello"} {
		if a := conn.Do(t, register, request(t, catest.NewKey(t), challenge)); a.Status != 403 || a.Code != "register-binding" {
			t.Errorf("%s: %d %s", name, a.Status, a.Code)
		}
	}
	clean(t, d)
}

func TestS15_ANonceEnds(t *testing.T) {
	clock := bootstraptest.NewClock()
	d := bootstraptest.New(t, bootstraptest.Options{Clock: clock})
	birth, key := d.IssueIDevID(t, "SN-1")
	conn := d.Dial(t, birth, key)
	n := conn.Do(t, nonce, []byte("{}")).Nonce.Nonce
	clock.Add(9*time.Minute + 59*time.Second)
	if a := conn.Do(t, register, request(t, catest.NewKey(t), n)); a.Status != 200 || a.Registration.Status != "ACTIVE" {
		t.Errorf("%d %s", a.Status, a.Body)
	}
	clock.Add(2 * time.Second)
	if a := conn.Do(t, register, request(t, catest.NewKey(t), n)); a.Code != "register-binding" {
		t.Errorf("%d %s", a.Status, a.Code)
	}
}

// S15: at most two operational certificates live; the third supersedes the older.
func TestS15_AThirdCertificateSupersedesTheOldest(t *testing.T) {
	d := bootstraptest.New(t, bootstraptest.Options{})
	birth, key := d.IssueIDevID(t, "SN-1")
	var certs []*x509.Certificate
	var keys []*ecdsa.PrivateKey
	for range 3 {
		keys = append(keys, catest.NewKey(t))
		c, _ := mustBoot(t, d, birth, key, keys[len(keys)-1])
		certs = append(certs, c)
	}
	if err := d.Set.Follow(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i, want := range []int{403, 200, 200} {
		if a := d.Dial(t, certs[i], keys[i]).Do(t, whoami, nil); a.Status != want || want == 403 && a.Code != "device-revoked" {
			t.Errorf("certificate %d: %d %s", i, a.Status, a.Code)
		}
	}
	// The replaced key never comes back.
	if a := boot(t, d, birth, key, keys[0]); a.Status != 409 || a.Code != "identity-revoked" {
		t.Errorf("%d %s", a.Status, a.Code)
	}
	clean(t, d)
}

func TestRegister_RenewsOverTheOperationalCertificate(t *testing.T) {
	d := bootstraptest.New(t, bootstraptest.Options{})
	birth, key := d.IssueIDevID(t, "SN-1")
	first := catest.NewKey(t)
	c, _ := mustBoot(t, d, birth, key, first)
	second := catest.NewKey(t)
	n, r := mustBoot(t, d, c, first, second)
	if r.Thing != "thing-SN-1" || bytes.Equal(n.Raw, c.Raw) {
		t.Errorf("%+v", r)
	}
	if recs := ldevids(t, d, "SN-1"); len(recs) != 2 || recs[0].Slot == recs[1].Slot {
		t.Errorf("%+v", recs)
	}
	// The same key again is not a new key.
	if a := boot(t, d, n, second, second); a.Code != "register-key-reused" {
		t.Errorf("%d %s", a.Status, a.Code)
	}
	if a := boot(t, d, birth, key, key); a.Code != "register-key-reused" {
		t.Errorf("%d %s", a.Status, a.Code)
	}
	// S16: without a good birth certificate there is no renewal.
	d.Revoke(t, birth, 4)
	if a := boot(t, d, n, second, catest.NewKey(t)); a.Status != 403 || a.Code != "register-birth-invalid" {
		t.Errorf("%d %s %s", a.Status, a.Code, a.Body)
	}
	clean(t, d)
}

// What the owner of a fleet changes at a thing, or in the template, stops no renewal:
// a device that could not renew would be lost at the end of its certificate.
func TestRegister_RenewsAThingThatWasChanged(t *testing.T) {
	d := bootstraptest.New(t, bootstraptest.Options{})
	birth, key := d.IssueIDevID(t, "SN-1")
	first, second := catest.NewKey(t), catest.NewKey(t)
	c, _ := mustBoot(t, d, birth, key, first)
	d.SetTemplate(t, strings.Replace(bootstraptest.Template, `["all"]`, `["others"]`, 1))
	if a := boot(t, d, birth, key, catest.NewKey(t)); a.Code != "thing-conflict" {
		t.Errorf("a first boot over another group: %d %s", a.Status, a.Code)
	}
	if _, r := mustBoot(t, d, c, first, second); r.Thing != "thing-SN-1" {
		t.Errorf("%+v", r)
	}
	clean(t, d)
}

// S17: a device in a loop is stopped for the day.
func TestS17_ADevicesDailyBudgetEnds(t *testing.T) {
	clock := bootstraptest.NewClock()
	d := bootstraptest.New(t, bootstraptest.Options{Clock: clock, Limit: 3})
	birth, key := d.IssueIDevID(t, "SN-1")
	var last *ecdsa.PrivateKey
	for range 3 {
		last = catest.NewKey(t)
		mustBoot(t, d, birth, key, last)
	}
	a := boot(t, d, birth, key, catest.NewKey(t))
	if a.Status != 429 || a.Code != "identity-slots-exhausted" {
		t.Errorf("%d %s", a.Status, a.Code)
	}
	mustBoot(t, d, birth, key, last) // the same key asks for nothing new
	clock.Add(24*time.Hour + time.Second)
	mustBoot(t, d, birth, key, catest.NewKey(t))
}

// S15, S22: a device that wants another's thing learns nothing about the other.
func TestS22_AThingWithALiveDeviceIsNotHandedOver(t *testing.T) {
	d := bootstraptest.New(t, bootstraptest.Options{})
	one, oneKey := d.IssueIDevID(t, "SECRET-1")
	two, twoKey := d.IssueIDevID(t, "SN-2")
	first := catest.NewKey(t)
	c, _ := mustBoot(t, d, one, oneKey, first, "Name", "press")
	for name, code := range map[string]string{"press": "thing-taken", "PRESS": "thing-case"} {
		a := boot(t, d, two, twoKey, catest.NewKey(t), "Name", name)
		if a.Status != 409 || a.Code != code || strings.Contains(strings.ToUpper(string(a.Body)), "SECRET-1") {
			t.Errorf("%s: %d %s", name, a.Status, a.Body)
		}
	}
	// The other device's key is refused without its name too (A15).
	if a := boot(t, d, two, twoKey, first); a.Status != 409 || a.Code != "key-in-use" || strings.Contains(strings.ToUpper(string(a.Body)), "SECRET-1") {
		t.Errorf("%d %s", a.Status, a.Body)
	}
	if n := len(ldevids(t, d, "SN-2")); n != 0 {
		t.Errorf("%d certificates were made for a refused device", n)
	}
	// When the first device is gone, its name is free.
	d.Revoke(t, c, 4)
	if a := boot(t, d, two, twoKey, catest.NewKey(t), "Name", "press"); a.Status != 200 {
		t.Errorf("%d %s", a.Status, a.Body)
	}
	clean(t, d)
}

// S21: parameters of the service come from the service.
func TestS21_SmuggledParametersAreRefused(t *testing.T) {
	d := bootstraptest.New(t, bootstraptest.Options{})
	birth, key := d.IssueIDevID(t, "SN-1")
	conn := d.Dial(t, birth, key)
	for _, name := range []string{"AWS::IoT::Certificate::CommonName", "AWS::IoT::Certificate::Id", "aws::x", "Certificate::CommonName", "certificate::serialnumber"} {
		a := conn.Do(t, register, request(t, catest.NewKey(t), "", name, "SN-2"))
		if a.Status != 400 || a.Code != "parameter-reserved" {
			t.Errorf("%s: %d %s", name, a.Status, a.Code)
		}
	}
	if len(ldevids(t, d, "SN-1")) != 0 {
		t.Error("a certificate was made")
	}
}

func TestRegister_RefusesBodiesThatAreNotRequests(t *testing.T) {
	d := bootstraptest.New(t, bootstraptest.Options{})
	birth, key := d.IssueIDevID(t, "SN-1")
	conn := d.Dial(t, birth, key)
	good := request(t, catest.NewKey(t), "")
	raw, _ := json.Marshal(good)
	for name, c := range map[string]struct {
		body []byte
		code string
	}{
		"not JSON":    {[]byte("{"), "json-malformed"},
		"unknown":     {[]byte(`{"csr":"","unit":"SN-2"}`), "json-unknown-field"},
		"twice":       {[]byte(`{"csr":"","csr":""}`), "json-duplicate-key"},
		"no CSR":      {[]byte(`{}`), "csr-malformed"},
		"large":       {bytes.Repeat([]byte(" "), 200<<10), "register-request-invalid"},
		"spoiled CSR": {bytes.Replace(raw, []byte(`"csr":"M`), []byte(`"csr":"N`), 1), "csr-malformed"},
	} {
		if a := d.Dial(t, birth, key).Do(t, register, c.body); a.Status != 400 || a.Code != c.code {
			t.Errorf("%s: %d %s", name, a.Status, a.Code)
		}
	}
	if a := conn.Do(t, register, good); a.Status != 200 {
		t.Errorf("%d %s", a.Status, a.Body)
	}
}

func TestRegister_NeedsARegistrationThatIsEnabled(t *testing.T) {
	d := bootstraptest.New(t, bootstraptest.Options{Template: "-"})
	birth, key := d.IssueIDevID(t, "SN-1")
	if a := boot(t, d, birth, key, catest.NewKey(t)); a.Status != 403 || a.Code != "registration-none" {
		t.Errorf("%d %s", a.Status, a.Code)
	}
	// A template whose certificate is INACTIVE makes a device that stays out.
	d.SetTemplate(t, strings.Replace(bootstraptest.Template, `"Status": "ACTIVE"`, `"Status": "INACTIVE"`, 1))
	fresh := catest.NewKey(t)
	c, r := mustBoot(t, d, birth, key, fresh)
	if a := d.Dial(t, c, fresh).Do(t, whoami, nil); r.Status != "INACTIVE" || a.Status != 403 || a.Code != "device-inactive" {
		t.Errorf("%s %d %s", r.Status, a.Status, a.Code)
	}
	serial, _ := ca.SerialFromInt(c.SerialNumber)
	if err := d.Registry.SetStatus(t.Context(), scope, catest.Device, serial, fleet.Active); err != nil {
		t.Fatal(err)
	}
	if a := d.Dial(t, c, fresh).Do(t, whoami, nil); a.Status != 200 {
		t.Errorf("%d %s", a.Status, a.Code)
	}
}

// TLS 1.2 devices are bound too: both ends have the extended master secret.
func TestRegister_BindsOverTLS12(t *testing.T) {
	d := bootstraptest.New(t, bootstraptest.Options{})
	birth, key := d.IssueIDevID(t, "SN-1")
	conn := d.Dial(t, birth, key, func(c *tls.Config) { c.MaxVersion = tls.VersionTLS12 })
	if a := conn.Do(t, register, request(t, catest.NewKey(t), conn.Challenge(t))); a.Status != 200 || a.Registration.Status != "ACTIVE" || a.TLS.Version != tls.VersionTLS12 {
		t.Errorf("%d %s", a.Status, a.Body)
	}
}

// webhook is a hook on loopback that a test programs.
type webhook struct {
	*httptest.Server
	secret hook.Secret
	mu     sync.Mutex
	asked  []hook.Request
	answer func(w http.ResponseWriter, id string)
}

func newWebhook(t *testing.T, d *bootstraptest.Door, takeOver bool) *webhook {
	h := &webhook{secret: hook.Secret{KeyID: "k1", Key: bytes.Repeat([]byte{7, 9}, 16)}}
	h.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var body bytes.Buffer
		body.ReadFrom(r.Body)
		id, err := hook.Verify(r.Header, h.URL+"/hook", body.Bytes(), []hook.Secret{h.secret}, time.Now())
		var q hook.Request
		if err != nil || json.Unmarshal(body.Bytes(), &q) != nil {
			http.Error(w, fmt.Sprint(err), http.StatusUnauthorized)
			return
		}
		h.mu.Lock()
		h.asked = append(h.asked, q)
		answer := h.answer
		h.mu.Unlock()
		answer(w, id)
	}))
	t.Cleanup(h.Close)
	doc := provisioner.HookDocument{Tenant: access.DefaultTenant, Name: "h", URL: h.URL + "/hook", Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}, Secrets: []hook.Secret{h.secret}}
	if err := d.Planner.PutHook(t.Context(), doc); err != nil {
		t.Fatal(err)
	}
	d.Register(t, bootstraptest.Template, "h", takeOver)
	return h
}

func (h *webhook) says(body string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.answer = func(w http.ResponseWriter, id string) {
		hook.SignReply(w.Header(), id, []byte(body), h.secret)
		w.Write([]byte(body))
	}
}

// S20, S21: the hook decides, and everything but its signed yes is a no.
func TestS20_TheHookDecidesAndFailsClosed(t *testing.T) {
	d := bootstraptest.New(t, bootstraptest.Options{})
	h := newWebhook(t, d, false)
	birth, key := d.IssueIDevID(t, "SN-1")
	refused := func(what string, status int, code string) {
		t.Helper()
		if a := boot(t, d, birth, key, catest.NewKey(t), "Site", "Hall 3"); a.Status != status || a.Code != code {
			t.Errorf("%s: %d %s", what, a.Status, a.Code)
		}
		if n := len(ldevids(t, d, "SN-1")); n != 0 {
			t.Fatalf("%s: %d certificates were made", what, n)
		}
	}
	h.says(`{"allowProvisioning": false}`)
	refused("deny", 403, "hook-refused")
	h.says(`{"allowProvisioning": "true"}`)
	refused("not a boolean", 503, "hook-answer-invalid")
	h.says(`<html>`)
	refused("garbage", 503, "hook-answer-invalid")
	h.says(`{"allowProvisioning": true, "parameterOverrides": {"AWS::IoT::Certificate::CommonName": "SN-2"}}`)
	refused("service parameter", 503, "hook-answer-invalid")
	h.says(`{"allowProvisioning": true, "parameterOverrides": {"Certificate::CommonName": "SN-2"}}`)
	refused("reserved parameter", 400, "parameter-reserved")
	// Smuggled parameters do not even reach the hook.
	asked := len(h.asked)
	conn := d.Dial(t, birth, key)
	if a := conn.Do(t, register, request(t, catest.NewKey(t), "", "AWS::x", "y")); a.Code != "parameter-reserved" || len(h.asked) != asked {
		t.Errorf("%s, asked %d times more", a.Code, len(h.asked)-asked)
	}
	h.says(`{"allowProvisioning": true, "parameterOverrides": {"Site": "Hall 9", "Name": "press-9"}}`)
	c, r := mustBoot(t, d, birth, key, catest.NewKey(t), "Site", "Hall 3")
	if r.Thing != "press-9" || r.Configuration["site"] != "site/Hall 9" || c.Subject.CommonName != "press-9" {
		t.Errorf("the overrides did not count: %+v", r)
	}
	last := h.asked[len(h.asked)-1]
	if last.Parameters["Site"] != "Hall 3" || last.ClientID != "SN-1" || len(last.CertificateID) != 64 || !strings.Contains(last.CertificatePEM, "BEGIN CERTIFICATE") || !strings.HasSuffix(last.TemplateARN, ":provisioningtemplate/first") {
		t.Errorf("the hook was asked %+v", last)
	}
	clean(t, d)
}

// S20: a hook that does not answer in time refuses; nothing waits in a transaction.
func TestS20_ASlowHookRefusesWithoutHoldingTheDatabase(t *testing.T) {
	d := bootstraptest.New(t, bootstraptest.Options{})
	h := newWebhook(t, d, false)
	entered, release := make(chan struct{}), make(chan struct{})
	h.answer = func(http.ResponseWriter, string) { close(entered); <-release }
	birth, key := d.IssueIDevID(t, "SN-1")
	conn := d.Dial(t, birth, key)
	body := request(t, catest.NewKey(t), conn.Challenge(t))
	var a bootstraptest.Answer
	var err error
	done := make(chan struct{})
	start := time.Now()
	go func() { defer close(done); a, err = conn.Try(register, body) }()
	<-entered
	d.IssueIDevID(t, "SN-2") // another writer is not held up
	if time.Since(start) > 4*time.Second {
		t.Errorf("a write waited %s for the hook", time.Since(start))
	}
	<-done
	close(release)
	if err != nil || a.Status != 503 || a.Code != "hook-failed" || time.Since(start) > 7*time.Second {
		t.Errorf("%v %d %s after %s", err, a.Status, a.Code, time.Since(start))
	}
	if len(ldevids(t, d, "SN-1")) != 0 {
		t.Error("a certificate was made")
	}
}

// A58: a hook's address must be allowed.
func TestA58_AHookOutsideItsAllowListIsRefused(t *testing.T) {
	d := bootstraptest.New(t, bootstraptest.Options{})
	h := newWebhook(t, d, false)
	h.says(`{"allowProvisioning": true}`)
	doc := provisioner.HookDocument{Tenant: access.DefaultTenant, Name: "h2", URL: h.URL + "/hook", Secrets: []hook.Secret{h.secret}}
	if err := d.Planner.PutHook(t.Context(), doc); err == nil {
		t.Error("a hook on loopback without an allow-list was taken")
	}
	doc.URL = strings.Replace(doc.URL, "127.0.0.1", "localhost", 1)
	if err := d.Planner.PutHook(t.Context(), doc); err != nil {
		t.Fatal(err)
	}
	d.Register(t, bootstraptest.Template, "h2", false)
	birth, key := d.IssueIDevID(t, "SN-1")
	if a := boot(t, d, birth, key, catest.NewKey(t)); a.Status != 403 || a.Code != "hook-address-refused" || len(h.asked) != 0 {
		t.Errorf("%d %s, asked %d times", a.Status, a.Code, len(h.asked))
	}
}

// S22: a thing changes its device only if registration and hook both allow it.
func TestS22_TakeOverNeedsBoth(t *testing.T) {
	d := bootstraptest.New(t, bootstraptest.Options{})
	h := newWebhook(t, d, true)
	h.says(`{"allowProvisioning": true, "parameterOverrides": {"Name": "press"}}`)
	one, oneKey := d.IssueIDevID(t, "SN-1")
	two, twoKey := d.IssueIDevID(t, "SN-2")
	first := catest.NewKey(t)
	c, _ := mustBoot(t, d, one, oneKey, first)
	d.Register(t, bootstraptest.Template, "h", false) // the flag is off
	if a := boot(t, d, two, twoKey, catest.NewKey(t)); a.Code != "thing-taken" {
		t.Errorf("%d %s", a.Status, a.Code)
	}
	d.Register(t, strings.Replace(bootstraptest.Template, `"AttributePayload": "MERGE"`, `"AttributePayload": "REPLACE"`, 1), "h", true)
	if a := boot(t, d, two, twoKey, catest.NewKey(t)); a.Status != 200 {
		t.Errorf("%d %s", a.Status, a.Body)
	}
	if a := d.Dial(t, c, first).Do(t, whoami, nil); a.Status != 403 || a.Code != "device-inactive" {
		t.Errorf("the former device: %d %s", a.Status, a.Code)
	}
	r := provisioner.Registration{Tenant: access.DefaultTenant, Authority: catest.Device, Template: "first", TakeOver: true, Enabled: true}
	if err := d.Planner.PutRegistration(t.Context(), r); err == nil {
		t.Error("a take-over without a hook was taken")
	}
	clean(t, d)
}
