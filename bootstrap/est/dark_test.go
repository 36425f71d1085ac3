package est_test

import (
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"strings"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/bootstrap"
	"hallmark/bootstrap/bootstraptest"
	"hallmark/bootstrap/enroltest"
	"hallmark/ca/catest"
	"hallmark/ca/profile"
	"hallmark/crl"
	"hallmark/fleet/registry"
)

// TestEST_ADeviceThatSleptReenrolsIntoQuarantine_S33: an expired certificate renews
// over EST as it does at first boot's own interface: within the bounds, with its
// names, tied to the connection, and into quarantine. It does nothing else.
func TestEST_ADeviceThatSleptReenrolsIntoQuarantine_S33(t *testing.T) {
	const day = 24 * time.Hour
	clock := bootstraptest.NewClock()
	lane := &bootstrap.DarkLane{Within: 90 * day, PerDay: 1, Policy: "quarantine", Profiles: []profile.Name{profile.LDevID}}
	s := newSite(t, bootstrap.Rules{}, bootstraptest.Options{Clock: clock, Dark: lane})
	scope := access.Scope{Tenant: access.DefaultTenant}
	_, err := s.Registry.CreatePolicy(t.Context(), registry.Policy{Tenant: scope.Tenant, Name: "quarantine",
		Document: `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"iot:Connect","Resource":"client/${iot:Connection.Thing.ThingName}"}]}`})
	if err != nil {
		t.Fatal(err)
	}
	sleeper := func(unit string) tls.Certificate {
		birth, key := s.IssueIDevID(t, unit)
		c, fresh := s.dial(t, birth, key, tls.VersionTLS13), catest.NewKey(t)
		status, body := c.enrol(t, enrolPath, enroltest.CSR(t, fresh, "", c.exporter(t)), "", "")
		if status != 200 {
			t.Fatalf("%d %s", status, body)
		}
		return s.Client(certificates(t, body)[0], fresh)
	}
	good, revoked, second := sleeper("U-001"), sleeper("U-002"), sleeper("U-003")
	s.Revoke(t, revoked.Leaf, crl.Superseded)
	for range (2*365 + 10) / 10 {
		clock.Add(10 * day)
		if err := s.DB.KeepClock(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.Set.Follow(t.Context()); err != nil { // which forgets what expired
		t.Fatal(err)
	}

	connect := func(c tls.Certificate) *conn {
		return s.dial(t, c.Leaf, c.PrivateKey.(crypto.Signer), tls.VersionTLS13)
	}
	refused := func(name, code string, status int, body []byte) {
		t.Helper()
		if status == 200 || !strings.Contains(string(body), code) {
			t.Errorf("%s: %d %s", name, status, body)
		}
	}
	c, key := connect(good), catest.NewKey(t)
	bound := func(subject *x509.Certificate) []byte { return request(t, key, subject.Subject, nil, c.exporter(t)) }
	status, body := c.enrol(t, enrolPath, bound(good.Leaf), "", "")
	refused("simpleenroll", "device-expired", status, body)
	status, body = c.enrol(t, reenrolPath, request(t, key, good.Leaf.Subject, nil, ""), "", "")
	refused("not tied to the connection", "register-binding", status, body)
	status, body = c.enrol(t, reenrolPath, bound(second.Leaf), "", "")
	refused("another's names", "enrol-renewal-identity", status, body)
	if status, _, body := c.do(t, ask{method: "GET", path: attrsPath}); status != 200 || len(body) == 0 {
		t.Errorf("csrattrs: %d", status)
	}
	r := connect(revoked)
	status, body = r.enrol(t, reenrolPath, request(t, key, revoked.Leaf.Subject, nil, r.exporter(t)), "", "")
	refused("revoked", "device-revoked", status, body)

	status, body = c.enrol(t, reenrolPath, bound(good.Leaf), "", "")
	if status != 200 {
		t.Fatalf("%d %s", status, body)
	}
	got := certificates(t, body)[0]
	policies, err := s.Registry.EffectivePolicies(t.Context(), scope, registry.CertificateID(got.Raw))
	if err != nil || len(policies) != 1 || policies[0].Name != "quarantine" {
		t.Errorf("in quarantine it has %+v, %v", policies, err)
	}
	if all := s.Records(t, "U-001", profile.LDevID); all[len(all)-1].Tool != "dark-lane" {
		t.Errorf("the record says %q", all[len(all)-1].Tool)
	}
	entries, err := s.DB.DarkEntries(t.Context(), scope, "U-001")
	if err != nil || len(entries) != 1 {
		t.Errorf("entries: %+v, %v", entries, err)
	}
	// A lost answer costs nothing; the day has its number; quarantine renews nothing.
	if status, body := c.enrol(t, reenrolPath, bound(good.Leaf), "", ""); status != 200 || !certificates(t, body)[0].Equal(got) {
		t.Errorf("again: %d %s", status, body)
	}
	other := connect(second)
	status, body = other.enrol(t, reenrolPath, request(t, catest.NewKey(t), second.Leaf.Subject, nil, other.exporter(t)), "", "")
	refused("the second of one", "dark-lane-spent", status, body)
	n := s.dial(t, got, key, tls.VersionTLS13)
	status, body = n.enrol(t, reenrolPath, request(t, catest.NewKey(t), got.Subject, nil, n.exporter(t)), "", "")
	refused("out of quarantine", "dark-lane-quarantine", status, body)
}
