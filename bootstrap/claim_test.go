package bootstrap_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	"hallmark/access"
	"hallmark/bootstrap"
	"hallmark/ca"
	"hallmark/ca/catest"
	"hallmark/crl"
	"hallmark/fleet"
	"hallmark/fleet/registry"
	"hallmark/internal/fault"
	"hallmark/provisioner"
	"hallmark/provisioner/hook"
)

const (
	topicKeys = "$aws/certificates/create/json"
	topicCSR  = "$aws/certificates/create-from-csr/json"
	topicReg  = "$aws/provisioning-templates/fleet/provision/json"
)

func askOn(t testing.TB, c *bootstrap.Claims, who bootstrap.Caller, topic string, payload []byte) (out answer) {
	t.Helper()
	for _, row := range c.Topics() {
		if !matches(row.Filter, topic) {
			continue
		}
		err := row.Handle(context.Background(), fleet.Request{
			Sender: fleet.Sender{Tenant: who.Tenant, Client: who.Client, Certificate: who.Certificate}, Topic: topic, Levels: strings.Split(topic, "/"), Payload: payload,
			Reply: func(topic string, body []byte) { out.Topic, out.Body = topic, body; out.N++ },
		})
		if err != nil {
			t.Logf("%s: %v", topic, err)
		}
		if out.N != 1 {
			t.Errorf("%s: %d answers", topic, out.N)
		}
		return out
	}
	t.Errorf("no row for %s", topic)
	return out
}

func matches(filter, topic string) bool {
	f, l := strings.Split(filter, "/"), strings.Split(topic, "/")
	if len(f) != len(l) {
		return false
	}
	for i := range f {
		if f[i] != "+" && f[i] != l[i] {
			return false
		}
	}
	return true
}

func payload(t testing.TB, v map[string]any) []byte {
	t.Helper()
	var b bytes.Buffer
	b.WriteByte('{')
	first := true
	for k, x := range v {
		if !first {
			b.WriteByte(',')
		}
		first = false
		switch x := x.(type) {
		case string:
			fmt.Fprintf(&b, "%q:%q", k, x)
		case map[string]string:
			fmt.Fprintf(&b, "%q:{", k)
			sep := ""
			for n, s := range x {
				fmt.Fprintf(&b, "%s%q:%q", sep, n, s)
				sep = ","
			}
			b.WriteByte('}')
		}
	}
	b.WriteByte('}')
	return b.Bytes()
}

func registerBody(t testing.TB, token string, parameters ...string) []byte {
	m := map[string]string{}
	for i := 0; i < len(parameters); i += 2 {
		m[parameters[i]] = parameters[i+1]
	}
	return payload(t, map[string]any{"certificateOwnershipToken": token, "parameters": m})
}

func (a answer) accepted(t testing.TB, topic string) map[string]any {
	t.Helper()
	if a.Topic != topic+"/accepted" {
		t.Fatalf("%s: %s", a.Topic, a.Body)
	}
	return a.json(t)
}

func (a answer) rejected(t testing.TB, topic string, status int, code string) {
	t.Helper()
	if a.Topic != topic+"/rejected" {
		t.Errorf("%s: %s", a.Topic, a.Body)
		return
	}
	m := a.json(t)
	if m["statusCode"] != float64(status) || m["errorCode"] != code || m["errorMessage"] == "" || len(m) != 3 {
		t.Errorf("%s: %s, want %d %s", a.Topic, a.Body, status, code)
	}
}

// made is a new certificate over the topics.
func (s *site) made(t testing.TB, who bootstrap.Caller, key crypto.Signer) (*x509.Certificate, string) {
	t.Helper()
	m := s.ask(t, who, topicCSR, payload(t, map[string]any{"certificateSigningRequest": string(s.request(t, key))})).accepted(t, topicCSR)
	if len(m) != 3 {
		t.Errorf("%v", m)
	}
	c := leafOf(t, m["certificatePem"].(string))
	if m["certificateId"] != registry.CertificateID(c.Raw) {
		t.Errorf("id %v", m["certificateId"])
	}
	return c, m["certificateOwnershipToken"].(string)
}

func TestClaim_ADeviceProvisionsItself(t *testing.T) {
	engines(t, func(t *testing.T, url string) {
		s := newSite(t, url)
		who := s.claim(t, "line-1", 10)
		key := catest.NewKey(t)
		c, token := s.made(t, who, key)
		if !key.PublicKey.Equal(c.PublicKey) || len(token) < 90 || len(token) > 200 {
			t.Errorf("token of %d characters", len(token))
		}
		// Until it is claimed it is pending here and on hold for the world (S17).
		if s.status(t, c) != fleet.PendingActivation {
			t.Errorf("status %s", s.status(t, c))
		}
		must(t, s.Set.Follow(t.Context()))
		if reason, _, revoked := s.Set.Revoked(catest.Device, serial(c)); !revoked || reason != crl.CertificateHold {
			t.Errorf("%v %v", reason, revoked)
		}
		s.refused(t, c, bootstrap.ErrHeld)

		body := registerBody(t, token, "SerialNumber", "SN-1", "Extra", "ignored")
		m := s.ask(t, who, topicReg, body).accepted(t, topicReg)
		if m["thingName"] != "fp_SN-1" || fmt.Sprint(m["deviceConfiguration"]) != "map[Foo:Bar]" || len(m) != 2 {
			t.Errorf("%v", m)
		}
		// At once, before this node's memory hears of the release.
		got, err := s.connect(c)
		if err != nil || got.Thing != "fp_SN-1" || got.Claim || got.How != registry.HowClaim {
			t.Fatalf("%+v %v", got, err)
		}
		must(t, s.Set.Follow(t.Context()))
		if _, _, revoked := s.Set.Revoked(catest.Device, serial(c)); revoked {
			t.Error("still on hold")
		}
		rec, err := s.DB.RecordBySerial(t.Context(), access.DefaultTenant, catest.Device, serial(c))
		if err != nil || rec.Origin != "claimed" {
			t.Errorf("%+v %v", rec.Origin, err)
		}
		// The identical request gets the answer again; another one does not.
		if again := s.ask(t, who, topicReg, body).accepted(t, topicReg); fmt.Sprint(again) != fmt.Sprint(m) {
			t.Errorf("%v", again)
		}
		s.ask(t, who, topicReg, registerBody(t, token, "SerialNumber", "SN-2")).rejected(t, topicReg, 400, "InvalidCertificateOwnershipToken")
		if _, err := s.Registry.Get(t.Context(), scope, "fp_SN-2"); !errors.Is(err, registry.ErrThingUnknown) {
			t.Errorf("%v", err)
		}
		clean(t, s.Door)
	})
}

// TestClaim_TheSameKeyGetsTheSameCertificate also when fifty ask at once.
func TestClaim_TheSameKeyGetsTheSameCertificate(t *testing.T) {
	engines(t, func(t *testing.T, url string) {
		s := newSite(t, url)
		who := s.claim(t, "line-1", 10)
		raw := s.request(t, catest.NewKey(t))
		var wg sync.WaitGroup
		out := make([]bootstrap.NewDevice, 50)
		errs := make([]error, len(out))
		for i := range out {
			wg.Go(func() { out[i], errs[i] = s.claims.CreateFromCSR(context.Background(), who, raw) })
		}
		wg.Wait()
		for i := range out {
			if errs[i] != nil || out[i] != out[0] {
				t.Fatalf("%d: %v %v", i, out[i], errs[i])
			}
		}
		b, err := s.DB.Budget(t.Context(), scope, bootstrap.ClaimBudget(who.Certificate))
		if err != nil || b.Used != 1 {
			t.Errorf("the budget counts %d, %v", b.Used, err)
		}
		// And fifty claim it at once: one thing, one answer.
		answers := make([]bootstrap.Claimed, 50)
		for i := range answers {
			wg.Go(func() {
				answers[i], errs[i] = s.claims.RegisterThing(context.Background(), who, "fleet", out[0].Token, map[string]string{"SerialNumber": "SN-1"})
			})
		}
		wg.Wait()
		for i := range answers {
			if errs[i] != nil || answers[i].Thing != "fp_SN-1" {
				t.Fatalf("%d: %v %v", i, answers[i], errs[i])
			}
		}
		th, err := s.Registry.Get(t.Context(), scope, "fp_SN-1")
		if err != nil || th.Version != 1 {
			t.Errorf("%+v %v", th, err)
		}
		// Another claim certificate gets nothing with this key.
		if _, err := s.claims.CreateFromCSR(t.Context(), s.claim(t, "line-2", 10), raw); !errors.Is(err, bootstrap.ErrClaimSpent) {
			t.Errorf("%v", err)
		}
	})
}

// TestS17_ServerMadeKeysAreOffUnlessSwitchedOn and are recorded as what they are.
func TestS17_ServerMadeKeysAreOffUnlessSwitchedOn(t *testing.T) {
	s := newSite(t, "")
	who := s.claim(t, "line-1", 10)
	for _, body := range []string{"", "{}"} {
		m := s.ask(t, who, topicKeys, []byte(body)).accepted(t, topicKeys)
		c := leafOf(t, m["certificatePem"].(string))
		block, _ := pem.Decode([]byte(m["privateKey"].(string)))
		key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		must(t, err)
		if pub, ok := key.(crypto.Signer).Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !pub.Equal(c.PublicKey) {
			t.Error("the key is not the certificate's")
		}
		rec, err := s.DB.RecordBySerial(t.Context(), access.DefaultTenant, catest.Device, serial(c))
		if err != nil || rec.Origin != "server-made" {
			t.Errorf("origin %q, %v", rec.Origin, err)
		}
		s.ask(t, who, topicReg, registerBody(t, m["certificateOwnershipToken"].(string), "SerialNumber", "SN-"+c.SerialNumber.Text(16)[30:])).accepted(t, topicReg)
	}
	off, err := bootstrap.NewClaims(bootstrap.ClaimsConfig{Issuer: s.CA, Planner: s.Planner, Templates: s.DB, Registry: s.Registry, Records: s.DB, Grants: s.DB, Revoker: s.Crl, Now: s.clock.Now})
	must(t, err)
	askOn(t, off, who, topicKeys, nil).rejected(t, topicKeys, 403, "AccessDenied")
}

// TestS17_BudgetsOfAClaim: count, outstanding, rate and end.
func TestS17_BudgetsOfAClaim(t *testing.T) {
	engines(t, func(t *testing.T, url string) {
		s := newSite(t, url)
		who := s.claim(t, "line-1", 10)
		create := func() error {
			_, err := s.claims.CreateFromCSR(context.Background(), who, s.request(t, catest.NewKey(t)))
			return err
		}
		var wg sync.WaitGroup
		errs := make([]error, 40)
		for i := range errs {
			wg.Go(func() { errs[i] = create() })
		}
		wg.Wait()
		made := 0
		for _, err := range errs {
			if err == nil {
				made++
			} else if !errors.Is(err, bootstrap.ErrBudgetSpent) {
				t.Error(err)
			}
		}
		if made != 10 {
			t.Errorf("%d made", made)
		}
		set := func(b bootstrap.Budget) {
			t.Helper()
			b.Name = bootstrap.ClaimBudget(who.Certificate)
			_, err := s.claims.SetBudget(t.Context(), s.owner, b)
			must(t, err)
		}
		set(bootstrap.Budget{Most: 100, Outstanding: 10})
		if err := create(); !errors.Is(err, bootstrap.ErrBudgetOutstanding) {
			t.Error(err)
		}
		s.clock.Add(time.Minute)
		set(bootstrap.Budget{Most: 100, PerMinute: 2})
		must(t, create())
		must(t, create())
		if err := create(); !errors.Is(err, bootstrap.ErrBudgetRate) || fault.From(err).RetryAfter <= 0 {
			t.Error(err)
		}
		s.clock.Add(time.Minute)
		must(t, create())
		set(bootstrap.Budget{Most: 100, ExpiresAt: s.clock.Now()})
		if err := create(); !errors.Is(err, bootstrap.ErrBudgetExpired) {
			t.Error(err)
		}
		// What is refused for its key costs nothing.
		set(bootstrap.Budget{Most: 14})
		birth, key := s.IssueIDevID(t, "SN-1")
		_ = birth
		if _, err := s.claims.CreateFromCSR(t.Context(), who, s.request(t, key)); !errors.Is(err, ca.ErrKeyInUse) || strings.Contains(fmt.Sprint(fault.From(err).Detail), "sn-1") {
			t.Errorf("%v", err)
		}
		b, err := s.DB.Budget(t.Context(), scope, bootstrap.ClaimBudget(who.Certificate))
		if err != nil || b.Used != 13 {
			t.Errorf("%d used, %v", b.Used, err)
		}
	})
}

// TestS17_UnclaimedCertificatesAreRevoked after an hour, and never deleted.
func TestS17_UnclaimedCertificatesAreRevoked(t *testing.T) {
	engines(t, func(t *testing.T, url string) {
		s := newSite(t, url)
		who := s.claim(t, "line-1", 10)
		lost, token := s.made(t, who, catest.NewKey(t))
		byHand, _ := s.made(t, who, catest.NewKey(t))
		claimed, good := s.made(t, who, catest.NewKey(t))
		s.ask(t, who, topicReg, registerBody(t, good, "SerialNumber", "SN-1")).accepted(t, topicReg)
		if n, err := s.claims.Sweep(t.Context()); n != 0 || err != nil {
			t.Errorf("%d %v", n, err)
		}
		must(t, s.Crl.Release(t.Context(), s.owner, catest.Device, serial(byHand), "by hand"))
		_, err := s.Registry.SetCertificateStatus(t.Context(), scope, registry.CertificateID(byHand.Raw), fleet.Active)
		must(t, err)
		s.clock.Add(time.Hour)
		s.ask(t, who, topicReg, registerBody(t, token, "SerialNumber", "SN-2")).rejected(t, topicReg, 400, "InvalidCertificateOwnershipToken")
		if n, err := s.claims.Sweep(t.Context()); n != 1 || err != nil {
			t.Errorf("%d %v", n, err)
		}
		if n, err := s.claims.Sweep(t.Context()); n != 0 || err != nil {
			t.Errorf("again: %d %v", n, err)
		}
		must(t, s.Set.Follow(t.Context()))
		if got := s.status(t, lost); got != fleet.Revoked {
			t.Errorf("the lost one is %q", got)
		}
		s.refused(t, lost, bootstrap.ErrRevoked)
		for _, c := range []*x509.Certificate{byHand, claimed} {
			if _, err := s.connect(c); err != nil {
				t.Error(err)
			}
		}
	})
}

// TestA49_ATokenIsForItsClaimItsCertificateAndItsTemplate and nothing else.
func TestA49_ATokenIsForItsClaimItsCertificateAndItsTemplate(t *testing.T) {
	s := newSite(t, "")
	must(t, s.Planner.PutTemplate(t.Context(), provisioner.TemplateDocument{Tenant: access.DefaultTenant, Name: "second", Kind: provisioner.FleetKind, Body: []byte(fleetTemplate)}))
	must(t, s.Planner.PutFleetTemplate(t.Context(), s.DB, provisioner.FleetTemplate{Tenant: access.DefaultTenant, Name: "second", Enabled: true}))
	who, other := s.claim(t, "line-1", 10), s.claim(t, "line-2", 10)
	_, token := s.made(t, who, catest.NewKey(t))
	body := registerBody(t, token, "SerialNumber", "SN-1")
	s.ask(t, other, topicReg, body).rejected(t, topicReg, 400, "InvalidCertificateOwnershipToken")
	elsewhere := "$aws/provisioning-templates/second/provision/json"
	s.ask(t, who, elsewhere, body).rejected(t, elsewhere, 403, "AccessDenied")
	s.ask(t, bootstrap.Caller{Tenant: "other", Certificate: who.Certificate}, topicReg, body).rejected(t, topicReg, 403, "AccessDenied")
	for i := range len(token) {
		b := []byte(token)
		if b[i] ^= 1; b[i] == '\\' || b[i] == '"' {
			continue
		}
		if a := s.ask(t, who, topicReg, registerBody(t, string(b), "SerialNumber", "SN-1")); !strings.HasSuffix(a.Topic, "/rejected") {
			t.Fatalf("octet %d: %s", i, a.Body)
		}
	}
	empty := s.ask(t, who, topicReg, registerBody(t, "", "SerialNumber", "SN-1"))
	empty.rejected(t, topicReg, 400, "InvalidCertificateOwnershipToken")
	if empty.json(t)["errorMessage"] != "Certificate ownership token cannot be empty." {
		t.Errorf("%s", empty.Body)
	}
	// A device's certificate is no claim certificate, whatever its policy says (A47).
	c, good := s.made(t, who, catest.NewKey(t))
	s.ask(t, who, topicReg, registerBody(t, good, "SerialNumber", "SN-2")).accepted(t, topicReg)
	device := bootstrap.Caller{Tenant: access.DefaultTenant, Certificate: registry.CertificateID(c.Raw)}
	s.ask(t, device, topicKeys, nil).rejected(t, topicKeys, 403, "AccessDenied")
	// Nor is a claim certificate that was switched off or revoked.
	_, err := s.Registry.SetCertificateStatus(t.Context(), scope, who.Certificate, fleet.Inactive)
	must(t, err)
	s.ask(t, who, topicReg, body).rejected(t, topicReg, 403, "AccessDenied")
	_, err = s.Registry.SetCertificateStatus(t.Context(), scope, who.Certificate, fleet.Active)
	must(t, err)
	s.ask(t, who, topicReg, body).accepted(t, topicReg)
}

// TestS21_NobodyNamesAnotherDevicesCertificate: as a parameter, as a hook's
// override, or by the victim's serial number; the victim is not touched.
func TestS21_NobodyNamesAnotherDevicesCertificate(t *testing.T) {
	engines(t, func(t *testing.T, url string) {
		s := newSite(t, url)
		who := s.claim(t, "line-1", 10)
		victim, good := s.made(t, who, catest.NewKey(t))
		s.ask(t, who, topicReg, registerBody(t, good, "SerialNumber", "SN-1")).accepted(t, topicReg)
		victimID := registry.CertificateID(victim.Raw)
		before, err := s.Registry.Get(t.Context(), scope, "fp_SN-1")
		must(t, err)

		thief, token := s.made(t, who, catest.NewKey(t))
		for _, name := range []string{"AWS::IoT::Certificate::Id", "aws::iot::certificate::id", "AWS::Region"} {
			s.ask(t, who, topicReg, registerBody(t, token, "SerialNumber", "SN-9", name, victimID)).rejected(t, topicReg, 400, "InvalidParameters")
		}
		s.ask(t, who, topicReg, registerBody(t, token, "SerialNumber", "SN-1")).rejected(t, topicReg, 409, "ResourceConflict")
		s.ask(t, who, topicReg, registerBody(t, token, "SerialNumber", "sn-1")).rejected(t, topicReg, 409, "ResourceConflict")
		s.ask(t, who, topicReg, registerBody(t, token, "SerialNumber", "a+/#")).rejected(t, topicReg, 400, "InvalidParameters")

		var overrides map[string]string
		var asked hook.Request
		s.hook(t, &overrides, &asked)
		for _, o := range []map[string]string{{"AWS::IoT::Certificate::Id": victimID}, {"SerialNumber": "SN-1"}} {
			overrides = o
			if a := s.ask(t, who, topicReg, registerBody(t, token, "SerialNumber", "SN-9")); !strings.HasSuffix(a.Topic, "/rejected") {
				t.Errorf("%v: %s", o, a.Body)
			}
		}
		if asked.ClaimCertificateID != who.Certificate || asked.CertificateID != registry.CertificateID(thief.Raw) || asked.ClientID != who.Client || asked.Parameters["SerialNumber"] != "SN-9" || !strings.HasSuffix(asked.TemplateARN, "provisioningtemplate/fleet") || leafOf(t, asked.CertificatePEM).SerialNumber.Cmp(thief.SerialNumber) != 0 {
			t.Errorf("the hook was asked %+v", asked)
		}
		after, err := s.Registry.Get(t.Context(), scope, "fp_SN-1")
		if err != nil || after.Version != before.Version || after.Holder != before.Holder {
			t.Errorf("%+v %v", after, err)
		}
		if p, err := s.Registry.Principals(t.Context(), scope, "fp_SN-1"); err != nil || len(p) != 1 || p[0].Certificate != victimID {
			t.Errorf("%+v %v", p, err)
		}
		if things, err := s.Registry.CertificateThings(t.Context(), scope, registry.CertificateID(thief.Raw)); err != nil || len(things) != 0 || s.status(t, thief) != fleet.PendingActivation {
			t.Errorf("%+v %v", things, err)
		}
		if got, err := s.connect(victim); err != nil || got.Thing != "fp_SN-1" {
			t.Errorf("%+v %v", got, err)
		}
		// The token still works for what is the thief's own to ask.
		overrides = map[string]string{"SerialNumber": "SN-10"}
		if m := s.ask(t, who, topicReg, registerBody(t, token, "SerialNumber", "SN-9")).accepted(t, topicReg); m["thingName"] != "fp_SN-10" {
			t.Errorf("%v", m)
		}
		clean(t, s.Door)
	})
}

// hook gives the fleet template a hook that allows with some overrides.
func (s *site) hook(t testing.TB, overrides *map[string]string, asked *hook.Request) {
	t.Helper()
	secret := hook.Secret{KeyID: "k1", Key: []byte("0123456789abcdef0123456789abcdef")}
	s.hookServer(t, secret, func(r hook.Request) (bool, map[string]string) {
		*asked = r
		return true, *overrides
	})
}

func TestClaim_OnlyTheHooksYesProvisions(t *testing.T) {
	s := newSite(t, "")
	who := s.claim(t, "line-1", 10)
	_, token := s.made(t, who, catest.NewKey(t))
	allow := false
	s.hookServer(t, hook.Secret{KeyID: "k1", Key: []byte("0123456789abcdef0123456789abcdef")}, func(hook.Request) (bool, map[string]string) { return allow, nil })
	s.ask(t, who, topicReg, registerBody(t, token, "SerialNumber", "SN-1")).rejected(t, topicReg, 403, "AccessDenied")
	if _, err := s.Registry.Get(t.Context(), scope, "fp_SN-1"); !errors.Is(err, registry.ErrThingUnknown) {
		t.Errorf("%v", err)
	}
	allow = true
	s.ask(t, who, topicReg, registerBody(t, token, "SerialNumber", "SN-1")).accepted(t, topicReg)
}

// TestClaim_SpeaksCBOR with a codec that is not ours (RFC 8949), in sizes that
// firmware has room for.
func TestClaim_SpeaksCBOR(t *testing.T) {
	s := newSite(t, "")
	who := s.claim(t, "line-1", 10)
	in, err := cbor.Marshal(map[string]string{"certificateSigningRequest": string(s.request(t, catest.NewKey(t)))})
	must(t, err)
	topic := "$aws/certificates/create-from-csr/cbor"
	a := s.ask(t, who, topic, in)
	var made map[string]string
	if err := cbor.Unmarshal(a.Body, &made); err != nil || a.Topic != topic+"/accepted" {
		t.Fatalf("%s %x %v", a.Topic, a.Body, err)
	}
	if len(a.Body)+len(a.Topic) > 2048 || len(made["certificateId"]) != 64 || len(made["certificateOwnershipToken"]) > 512 || len(made) != 3 {
		t.Errorf("%d octets, %v", len(a.Body), made)
	}
	in, err = cbor.Marshal(map[string]any{"certificateOwnershipToken": made["certificateOwnershipToken"], "parameters": map[string]string{"SerialNumber": "SN-1"}})
	must(t, err)
	topic = "$aws/provisioning-templates/fleet/provision/cbor"
	a = s.ask(t, who, topic, in)
	var done struct {
		Thing  string            `cbor:"thingName"`
		Config map[string]string `cbor:"deviceConfiguration"`
	}
	if err := cbor.Unmarshal(a.Body, &done); err != nil || done.Thing != "fp_SN-1" || done.Config["Foo"] != "Bar" {
		t.Errorf("%s %x %v", a.Topic, a.Body, err)
	}
	for name, bad := range map[string][]byte{"a key twice": {0xa2, 0x61, 'a', 0x01, 0x61, 'a', 0x02}, "indefinite": {0xbf, 0xff}, "a tag": {0xc1, 0xa0}, "trailing": {0xa0, 0xa0}, "a list": {0x80}, "not UTF-8": {0xa1, 0x61, 0xff, 0x01}, "cut": {0xa1}} {
		a := s.ask(t, who, topic, bad)
		var no struct {
			Status int    `cbor:"statusCode"`
			Code   string `cbor:"errorCode"`
		}
		if err := cbor.Unmarshal(a.Body, &no); err != nil || no.Status != 400 || no.Code != "InvalidPayload" || a.Topic != topic+"/rejected" {
			t.Errorf("%s: %s %+v %v", name, a.Topic, no, err)
		}
	}
}

func TestClaim_RefusesPayloadsWithTheWiresCodes(t *testing.T) {
	s := newSite(t, "")
	who := s.claim(t, "line-1", 10)
	for name, c := range map[string]struct {
		topic, body string
		status      int
		code        string
	}{
		"no JSON":         {topicCSR, "{", 400, "InvalidPayload"},
		"twice":           {topicCSR, `{"a":1,"a":2}`, 400, "InvalidPayload"},
		"no text":         {topicCSR, `{"certificateSigningRequest":1}`, 400, "InvalidPayload"},
		"no CSR":          {topicCSR, `{}`, 400, "InvalidCertificateSigningRequest"},
		"garbage":         {topicCSR, `{"certificateSigningRequest":"x"}`, 400, "InvalidCertificateSigningRequest"},
		"no token":        {topicReg, ``, 400, "InvalidCertificateOwnershipToken"},
		"parameter":       {topicReg, `{"certificateOwnershipToken":"x","parameters":{"a":1}}`, 400, "InvalidPayload"},
		"unknown members": {topicReg, `{"certificateOwnershipToken":"x","clientToken":"c"}`, 400, "InvalidCertificateOwnershipToken"},
	} {
		t.Run(name, func(t *testing.T) { s.ask(t, who, c.topic, []byte(c.body)).rejected(t, c.topic, c.status, c.code) })
	}
	_, token := s.made(t, who, catest.NewKey(t))
	s.ask(t, who, topicReg, registerBody(t, token)).rejected(t, topicReg, 400, "InvalidParameters") // SerialNumber is missing
	ft, err := s.DB.FleetTemplate(t.Context(), scope, "fleet")
	must(t, err)
	ft.Enabled = false
	must(t, s.Planner.PutFleetTemplate(t.Context(), s.DB, ft))
	s.ask(t, who, topicReg, registerBody(t, token, "SerialNumber", "SN-1")).rejected(t, topicReg, 404, "ResourceNotFound")
}

// TestClaim_ATrustedUserGetsFiveMinutes for one device.
func TestClaim_ATrustedUserGetsFiveMinutes(t *testing.T) {
	s := newSite(t, "")
	out, err := s.claims.CreateProvisioningClaim(t.Context(), s.owner, "fleet")
	must(t, err)
	c := leafOf(t, out.CertificatePEM)
	if end := s.clock.Now().Add(5 * time.Minute); c.NotAfter.After(end) || end.Sub(c.NotAfter) > time.Second || !out.Expiration.Equal(c.NotAfter) || out.PrivateKeyPEM == "" || out.PublicKeyPEM == "" {
		t.Errorf("%+v", out)
	}
	got, err := s.connect(c)
	if err != nil || !got.Claim || got.Thing != "" {
		t.Fatalf("%+v %v", got, err)
	}
	// A47: it provisions with its template and does nothing else.
	set, err := s.Registry.Bind(t.Context(), registry.Connection{Tenant: access.DefaultTenant, Certificate: c, ClientID: "any"})
	must(t, err)
	for resource, want := range map[string]bool{"topic/$aws/certificates/create/json": true, "topic/" + topicReg: true, "topic/$aws/provisioning-templates/other/provision/json": false, "topic/a": false, "topic/$aws/things/x/shadow/get": false} {
		if set.Allows("iot:Publish", resource) != want {
			t.Errorf("publish to %s: %t", resource, !want)
		}
	}
	who := bootstrap.Caller{Tenant: got.Tenant, Certificate: got.CertificateID}
	_, token := s.made(t, who, catest.NewKey(t))
	s.ask(t, who, topicReg, registerBody(t, token, "SerialNumber", "SN-1")).accepted(t, topicReg)
	s.ask(t, who, topicKeys, nil).rejected(t, topicKeys, 429, "Throttled")
	s.clock.Add(5 * time.Minute)
	s.refused(t, c, bootstrap.ErrExpired)
	s.ask(t, who, topicKeys, nil).rejected(t, topicKeys, 403, "AccessDenied")
}

// TestClaim_OverHTTPS is the same without MQTT, over TLS.
func TestClaim_OverHTTPS(t *testing.T) {
	s := newSite(t, "")
	key := catest.NewKey(t)
	claim, err := s.claims.CreateClaim(t.Context(), s.owner, bootstrap.ClaimRequest{Name: "line-1", Template: "fleet", Most: 5, CSR: s.request(t, key)})
	must(t, err)
	h := s.claims.Handler(s.door, func(w http.ResponseWriter, _ *http.Request, err error) { http.Error(w, fault.From(err).Code, 400) })
	s.Intercept = func(w http.ResponseWriter, r *http.Request) bool {
		if strings.HasPrefix(r.URL.Path, "/provisioning/") {
			h.ServeHTTP(w, r)
			return false
		}
		return true
	}
	conn := s.Dial(t, leafOf(t, claim.CertificatePEM), key)
	a := conn.Do(t, "/provisioning/v1/certificates/from-csr", payload(t, map[string]any{"certificateSigningRequest": string(s.request(t, catest.NewKey(t)))}))
	if a.Status != 200 {
		t.Fatalf("%d %s", a.Status, a.Body)
	}
	made := answer{Body: a.Body}.json(t)
	a = conn.Do(t, "/provisioning/v1/templates/fleet", registerBody(t, made["certificateOwnershipToken"].(string), "SerialNumber", "SN-1"))
	if a.Status != 200 || (answer{Body: a.Body}).json(t)["thingName"] != "fp_SN-1" {
		t.Errorf("%d %s", a.Status, a.Body)
	}
	// A device's own certificate provisions nothing.
	birth, birthKey := s.IssueIDevID(t, "SN-7")
	if _, err := s.Dial(t, birth, birthKey).Try("/provisioning/v1/certificates", []byte("{}")); err == nil {
		t.Error("a birth certificate got a certificate")
	}
}

func serial(c *x509.Certificate) ca.Serial {
	s, _ := ca.SerialFromInt(c.SerialNumber)
	return s
}

// hookServer gives the fleet template a signed hook.
func (s *site) hookServer(t testing.TB, secret hook.Secret, decide func(hook.Request) (bool, map[string]string)) {
	t.Helper()
	var srv *httptest.Server
	srv = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		id, err := hook.Verify(r.Header, srv.URL+"/hook", body, []hook.Secret{secret}, s.clock.Now())
		var q hook.Request
		if err == nil {
			err = json.Unmarshal(body, &q)
		}
		if err != nil {
			t.Error(err)
		}
		allow, overrides := decide(q)
		out, err := json.Marshal(map[string]any{"allowProvisioning": allow, "parameterOverrides": overrides})
		if overrides == nil {
			out, err = json.Marshal(map[string]any{"allowProvisioning": allow})
		}
		if err != nil {
			t.Error(err)
		}
		hook.SignReply(w.Header(), id, out, secret)
		w.Write(out)
	}))
	t.Cleanup(srv.Close)
	must(t, s.Planner.PutHook(t.Context(), provisioner.HookDocument{Tenant: access.DefaultTenant, Name: "ask", URL: srv.URL + "/hook", Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Secrets: []hook.Secret{secret}}))
	must(t, s.Planner.PutFleetTemplate(t.Context(), s.DB, provisioner.FleetTemplate{Tenant: access.DefaultTenant, Name: "fleet", Hook: "ask", Enabled: true}))
}
