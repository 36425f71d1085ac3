package bootstrap_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"errors"
	"math/big"
	"sync"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/bootstrap"
	"hallmark/bootstrap/bootstraptest"
	"hallmark/ca/catest"
	"hallmark/ca/csr"
	"hallmark/fleet"
	"hallmark/fleet/registry"
	"hallmark/provisioner"
	"hallmark/store/storetest"
)

const jitpTemplate = `{
  "Parameters": {"AWS::IoT::Certificate::CommonName": {"Type": "String"}, "AWS::IoT::Certificate::SerialNumber": {"Type": "String"}, "AWS::IoT::Certificate::Id": {"Type": "String"}},
  "Resources": {
    "thing": {"Type": "AWS::IoT::Thing", "Properties": {"ThingName": {"Ref": "AWS::IoT::Certificate::CommonName"}, "AttributePayload": {"sn": {"Ref": "AWS::IoT::Certificate::SerialNumber"}}}, "OverrideSettings": {"AttributePayload": "REPLACE"}},
    "certificate": {"Type": "AWS::IoT::Certificate", "Properties": {"CertificateId": {"Ref": "AWS::IoT::Certificate::Id"}, "Status": "ACTIVE"}},
    "policy": {"Type": "AWS::IoT::Policy", "Properties": {"PolicyDocument": "{\"Version\": \"2012-10-17\", \"Statement\": [{\"Effect\": \"Allow\", \"Action\": \"iot:Connect\", \"Resource\": \"arn:aws:iot:*:*:client/${iot:Connection.Thing.ThingName}\"}]}"}}
  }
}`

const fleetTemplate = `{
  "Parameters": {"SerialNumber": {"Type": "String"}, "AWS::IoT::Certificate::Id": {"Type": "String"}},
  "Resources": {
    "thing": {"Type": "AWS::IoT::Thing", "Properties": {"ThingName": {"Fn::Join": ["", ["fp_", {"Ref": "SerialNumber"}]]}, "AttributePayload": {}, "ThingGroups": []}, "OverrideSettings": {"AttributePayload": "MERGE", "ThingTypeName": "REPLACE", "ThingGroups": "DO_NOTHING"}},
    "certificate": {"Type": "AWS::IoT::Certificate", "Properties": {"CertificateId": {"Ref": "AWS::IoT::Certificate::Id"}, "Status": "Active"}},
    "policy": {"Type": "AWS::IoT::Policy", "Properties": {"PolicyDocument": {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "iot:Connect", "Resource": "arn:aws:iot:*:*:client/${iot:Connection.Thing.ThingName}"}]}}}
  },
  "DeviceConfiguration": {"Foo": "Bar"}
}`

const bulkTemplate = `{
  "Parameters": {"Name": {"Type": "String"}, "CSR": {"Type": "String"}},
  "Resources": {
    "thing": {"Type": "AWS::IoT::Thing", "Properties": {"ThingName": {"Ref": "Name"}}},
    "certificate": {"Type": "AWS::IoT::Certificate", "Properties": {"CertificateSigningRequest": {"Ref": "CSR"}, "Status": "ACTIVE"}}
  }
}`

// bus remembers what was published.
type bus struct {
	mu  sync.Mutex
	all []fleet.Message
}

func (b *bus) Publish(_ context.Context, m fleet.Message) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.all = append(b.all, m)
	return nil
}

func (b *bus) events() []fleet.Message {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]fleet.Message(nil), b.all...)
}

// site is everything that registers devices, on one database.
type site struct {
	*bootstraptest.Door
	clock  *bootstraptest.Clock
	door   *bootstrap.Door
	claims *bootstrap.Claims
	byoc   *bootstrap.BYOC
	bulk   *bootstrap.Bulk
	bus    *bus
	owner  access.Actor
}

func engines(t *testing.T, test func(t *testing.T, url string)) {
	t.Run("sqlite", func(t *testing.T) { test(t, "") })
	t.Run("postgres", func(t *testing.T) { test(t, storetest.Postgres(t)) })
}

func newSite(t testing.TB, url string) *site {
	t.Helper()
	clock := bootstraptest.NewClock()
	d := bootstraptest.New(t, bootstraptest.Options{URL: url, Clock: clock})
	s := &site{Door: d, clock: clock, bus: &bus{}, owner: access.Actor{Tenant: access.DefaultTenant, Kind: access.KindPrincipal, Name: "owner"}}
	s.door = bootstrap.NewDoor(bootstrap.DoorConfig{Gate: d.Gate, Registry: d.Registry, Grants: d.DB, Planner: d.Planner, Publisher: s.bus, Now: clock.Now,
		Tenant: func(name string) string {
			if name == "other.example.com" {
				return "other"
			}
			return ""
		}})
	var err error
	s.claims, err = bootstrap.NewClaims(bootstrap.ClaimsConfig{Issuer: d.CA, Planner: d.Planner, Templates: d.DB, Registry: d.Registry, Records: d.DB, Grants: d.DB, Revoker: d.Crl, ServerKeys: true, Now: clock.Now})
	if err != nil {
		t.Fatal(err)
	}
	s.byoc = bootstrap.NewBYOC(bootstrap.BYOCConfig{CA: d.CA, Registry: d.Registry, Now: clock.Now})
	s.bulk = bootstrap.NewBulk(bootstrap.BulkConfig{BYOC: s.byoc, Issuer: d.CA, Planner: d.Planner, Registry: d.Registry, Grants: d.DB, Now: clock.Now})
	s.template(t, "jitp", provisioner.JITPKind, jitpTemplate)
	s.template(t, "fleet", provisioner.FleetKind, fleetTemplate)
	s.template(t, "bulk", provisioner.BulkKind, bulkTemplate)
	must(t, d.Planner.PutFleetTemplate(t.Context(), d.DB, provisioner.FleetTemplate{Tenant: access.DefaultTenant, Name: "fleet", Enabled: true}))
	return s
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (s *site) template(t testing.TB, name, kind, body string) {
	t.Helper()
	must(t, s.Planner.PutTemplate(context.Background(), provisioner.TemplateDocument{Tenant: access.DefaultTenant, Name: name, Kind: kind, Body: []byte(body)}))
}

// authority is a CA that somebody brings along.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	rec  registry.RegisteredCA
	now  func() time.Time
}

// newCA makes a CA; nothing knows it yet.
func (s *site) newCA(t testing.TB, name string) *authority {
	t.Helper()
	a := &authority{key: catest.NewKey(t), now: s.clock.Now}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		NotBefore: s.clock.Now().Add(-time.Hour), NotAfter: s.clock.Now().Add(10 * 365 * 24 * time.Hour)}
	a.cert = signed(t, tmpl, tmpl, a.key.Public(), a.key)
	return a
}

func signed(t testing.TB, tmpl, parent *x509.Certificate, key crypto.PublicKey, by crypto.Signer) *x509.Certificate {
	t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, key, by)
	must(t, err)
	c, err := x509.ParseCertificate(der)
	must(t, err)
	return c
}

// verification proves that the CA's key is ours.
func (s *site) verification(t testing.TB, a *authority, sc access.Scope) *x509.Certificate {
	t.Helper()
	return signed(t, &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: s.Registry.RegistrationCode(sc)}, NotBefore: s.clock.Now(), NotAfter: s.clock.Now().Add(time.Hour)}, a.cert, catest.NewKey(t).Public(), a.key)
}

// register registers a CA, ACTIVE and with automatic registration; with a
// template if there is one.
func (s *site) register(t testing.TB, name, template string) *authority {
	t.Helper()
	a := s.newCA(t, name)
	var err error
	a.rec, err = s.byoc.RegisterCA(context.Background(), s.owner, registry.CARegistration{Certificate: a.cert, Verification: s.verification(t, a, scope), Active: true, AutoRegistration: true})
	must(t, err)
	if template != "" {
		must(t, s.Planner.PutRegistration(context.Background(), provisioner.Registration{Tenant: access.DefaultTenant, Authority: a.rec.Registration(), Template: template, Enabled: true}))
	}
	return a
}

// device makes a device's certificate under the CA.
func (a *authority) device(t testing.TB, cn, sn string) *x509.Certificate {
	t.Helper()
	return a.deviceFor(t, cn, sn, catest.NewKey(t).Public())
}

func (a *authority) deviceFor(t testing.TB, cn, sn string, key crypto.PublicKey) *x509.Certificate {
	t.Helper()
	n, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	must(t, err)
	return signed(t, &x509.Certificate{SerialNumber: n, Subject: pkix.Name{CommonName: cn, SerialNumber: sn}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		NotBefore: a.now().Add(-time.Minute), NotAfter: a.now().Add(365 * 24 * time.Hour)}, a.cert, key, a.key)
}

// connect is one connection with a certificate.
func (s *site) connect(c *x509.Certificate, server ...string) (bootstrap.Admission, error) {
	cs := &tls.ConnectionState{PeerCertificates: []*x509.Certificate{c}}
	if len(server) > 0 {
		cs.ServerName = server[0]
	}
	return s.door.Admit(context.Background(), cs)
}

func (s *site) refused(t testing.TB, c *x509.Certificate, want error, server ...string) {
	t.Helper()
	if a, err := s.connect(c, server...); !errors.Is(err, want) {
		t.Helper()
		t.Errorf("admitted %+v, err %v, want %v", a.CertificateID, err, want)
	}
}

func (s *site) status(t testing.TB, c *x509.Certificate) fleet.PrincipalStatus {
	t.Helper()
	r, err := s.Registry.Certificate(context.Background(), scope, registry.CertificateID(c.Raw))
	if errors.Is(err, registry.ErrCertificateUnknown) {
		return ""
	}
	must(t, err)
	return r.Status
}

// claim makes a claim certificate.
func (s *site) claim(t testing.TB, name string, most int64) bootstrap.Caller {
	t.Helper()
	out, err := s.claims.CreateClaim(context.Background(), s.owner, bootstrap.ClaimRequest{Name: name, Template: "fleet", Most: most})
	must(t, err)
	return bootstrap.Caller{Tenant: access.DefaultTenant, Certificate: out.CertificateID, Client: "client-" + name}
}

func (s *site) request(t testing.TB, key crypto.Signer) []byte {
	t.Helper()
	der, err := csr.Create(key, "ignored", "")
	must(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

func leafOf(t testing.TB, text string) *x509.Certificate {
	t.Helper()
	block, rest := pem.Decode([]byte(text))
	if block == nil || len(rest) > 0 {
		t.Fatalf("not one certificate: %q", text)
	}
	c, err := x509.ParseCertificate(block.Bytes)
	must(t, err)
	return c
}

// answer is what a topic replied.
type answer struct {
	Topic string
	Body  []byte
	N     int
}

// ask sends to a reserved topic as the broker does.
func (s *site) ask(t testing.TB, who bootstrap.Caller, topic string, payload []byte) (out answer) {
	t.Helper()
	return askOn(t, s.claims, who, topic, payload)
}

func (a answer) json(t testing.TB) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal(a.Body, &m); err != nil {
		t.Fatalf("%s: %q: %v", a.Topic, a.Body, err)
	}
	return m
}
