package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/bootstrap"
	"hallmark/ca"
	"hallmark/ca/catest"
	"hallmark/ca/csr"
	"hallmark/ca/profile"
	"hallmark/device/mqtt"
	"hallmark/fleet"
	"hallmark/fleet/registry"
	"hallmark/provisioner"
	"hallmark/provisioner/hook"
)

// knock connects to the MQTT door with a certificate and says what came of it:
// "in", a CONNACK's code, or the TLS alert. The session ends with the connection.
func (s *site) knock(cert *tls.Certificate, client string, version byte) string {
	s.t.Helper()
	conf := s.tlsConfig(cert)
	conf.NextProtos = []string{"x-amzn-mqtt-ca"}
	d := net.Dialer{Timeout: 20 * time.Second}
	nc, err := tls.DialWithDialer(&d, "tcp", s.door("mqtt"), conf)
	if err != nil {
		return alert(err)
	}
	defer nc.Close()
	nc.SetDeadline(time.Now().Add(20 * time.Second))
	p := packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Connect}, ProtocolVersion: version,
		Connect: packets.ConnectParams{ProtocolName: []byte("MQTT"), ClientIdentifier: client, Clean: true, Keepalive: 60}}
	var buf bytes.Buffer
	if err := p.ConnectEncode(&buf); err != nil {
		s.t.Fatal(err)
	}
	if _, err := nc.Write(buf.Bytes()); err != nil {
		return alert(err)
	}
	head := make([]byte, 2)
	if _, err := io.ReadFull(nc, head); err != nil {
		return alert(err)
	}
	body := make([]byte, head[1])
	if _, err := io.ReadFull(nc, body); err != nil || head[0] != packets.Connack<<4 || len(body) < 2 {
		return fmt.Sprintf("%x %x %v", head, body, err)
	}
	if body[1] != 0 {
		return fmt.Sprintf("connack 0x%02x", body[1])
	}
	nc.Write([]byte{packets.Disconnect << 4, 0})
	return "in"
}

// maker is a certification authority that is not ours.
type maker struct {
	t    testing.TB
	cert *x509.Certificate
	key  crypto.Signer
}

func newMaker(t testing.TB, name string) *maker {
	t.Helper()
	m := &maker{t: t, key: catest.NewKey(t)}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour)}
	m.cert = tmpl
	m.cert = m.sign(tmpl, m.key).Leaf
	return m
}

func (m *maker) sign(tmpl *x509.Certificate, key crypto.Signer) tls.Certificate {
	m.t.Helper()
	der, err := x509.CreateCertificate(rand.Reader, tmpl, m.cert, key.Public(), m.key)
	if err != nil {
		m.t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		m.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// device is a device's certificate; AIA and list addresses in it are traps.
func (m *maker) device(cn string, urls ...string) tls.Certificate {
	m.t.Helper()
	n, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		m.t.Fatal(err)
	}
	return m.sign(&x509.Certificate{SerialNumber: n, Subject: pkix.Name{CommonName: cn, SerialNumber: cn}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
		IssuingCertificateURL: urls, OCSPServer: urls, CRLDistributionPoints: urls, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(24 * time.Hour)}, catest.NewKey(m.t))
}

func (s *site) ok(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

// registerMaker registers a CA with automatic registration, with a template if
// there is one.
func (s *site) registerMaker(m *maker, template string) string {
	s.t.Helper()
	ctx := context.Background()
	scope := access.Scope{Tenant: access.DefaultTenant}
	proof := m.sign(&x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: s.server.reged.RegistrationCode(scope)}, NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour)}, catest.NewKey(s.t))
	rec, err := s.server.reged.RegisterCA(ctx, registry.CARegistration{Tenant: scope.Tenant, Certificate: m.cert, Verification: proof.Leaf, Active: true, AutoRegistration: true})
	s.ok(err)
	if template != "" {
		s.ok(s.server.planner.PutTemplate(ctx, provisioner.TemplateDocument{Tenant: scope.Tenant, Name: rec.ID[:8], Kind: provisioner.JITPKind, Body: []byte(template)}))
		s.ok(s.server.planner.PutRegistration(ctx, provisioner.Registration{Tenant: scope.Tenant, Authority: rec.Registration(), Template: rec.ID[:8], Enabled: true}))
	}
	return rec.ID
}

const makerTemplate = `{
  "Parameters": {"AWS::IoT::Certificate::CommonName": {"Type": "String"}, "AWS::IoT::Certificate::Id": {"Type": "String"}},
  "Resources": {
    "thing": {"Type": "AWS::IoT::Thing", "Properties": {"ThingName": {"Ref": "AWS::IoT::Certificate::CommonName"}}},
    "certificate": {"Type": "AWS::IoT::Certificate", "Properties": {"CertificateId": {"Ref": "AWS::IoT::Certificate::Id"}, "Status": "ACTIVE"}},
    "policy": {"Type": "AWS::IoT::Policy", "Properties": {"PolicyName": "loose"}}
  }
}`

// loosePolicy allows everything: what it does not reach is kept apart without
// policies.
const loosePolicy = `{"Version":"2012-10-17","Statement":[{"Effect":"Allow","Action":"iot:*","Resource":"*"}]}`

// byHand registers a certificate for a thing of a tenant, with the loose policy.
func (s *site) byHand(tenant, thing string, c tls.Certificate) *tls.Certificate {
	s.t.Helper()
	ctx, scope, reg := context.Background(), access.Scope{Tenant: tenant}, s.server.reged
	rec, err := reg.PutCertificate(ctx, registry.NewCertificate(tenant, c.Leaf, registry.HowBYOC, fleet.Active), true)
	s.ok(err)
	_, err = reg.CreatePolicy(ctx, registry.Policy{Tenant: tenant, Name: "loose", Document: loosePolicy})
	s.ok(err)
	_, err = reg.CreateThing(ctx, registry.Thing{Tenant: tenant, Name: fleet.ThingName(thing)})
	s.ok(err)
	s.ok(reg.Attach(ctx, scope, fleet.ThingName(thing), rec.ID, registry.Exclusive, false))
	s.ok(reg.AttachPolicy(ctx, scope, registry.CertificateTarget(rec.ID), "loose"))
	return &c
}

// claimPair makes a claim certificate for a fleet template, which it makes too.
func (s *site) claimPair(name string) tls.Certificate {
	s.t.Helper()
	ctx := context.Background()
	s.ok(s.server.planner.PutTemplate(ctx, provisioner.TemplateDocument{Tenant: access.DefaultTenant, Name: "claimed", Kind: provisioner.FleetKind, Body: []byte(`{
  "Parameters": {"SerialNumber": {"Type": "String"}, "AWS::IoT::Certificate::Id": {"Type": "String"}},
  "Resources": {
    "thing": {"Type": "AWS::IoT::Thing", "Properties": {"ThingName": {"Ref": "SerialNumber"}}},
    "certificate": {"Type": "AWS::IoT::Certificate", "Properties": {"CertificateId": {"Ref": "AWS::IoT::Certificate::Id"}, "Status": "ACTIVE"}},
    "policy": {"Type": "AWS::IoT::Policy", "Properties": {"PolicyName": "loose"}}
  }}`)}))
	s.ok(s.server.planner.PutFleetTemplate(ctx, s.server.db, provisioner.FleetTemplate{Tenant: access.DefaultTenant, Name: "claimed", Enabled: true}))
	key := catest.NewKey(s.t)
	request, err := csr.Create(key, name, "")
	s.ok(err)
	by := access.Actor{Tenant: access.DefaultTenant, Kind: access.KindPrincipal, Name: "bob", Role: access.SecurityOfficer}
	c, err := s.server.fleet.claims.CreateClaim(access.WithActor(ctx, by), by, bootstrap.ClaimRequest{Name: name, Template: "claimed", Most: 20, CSR: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: request})})
	s.ok(err)
	block, _ := pem.Decode([]byte(c.CertificatePEM))
	leaf, err := x509.ParseCertificate(block.Bytes)
	s.ok(err)
	return tls.Certificate{Certificate: append([][]byte{leaf.Raw}, c.Chain...), PrivateKey: key, Leaf: leaf}
}

// victim is a device that must not notice anything.
type victim struct {
	s       *site
	conn    *mqtt.Conn
	got     chan string
	before  registry.Thing
	rights  []registry.EffectivePolicy
	current []registry.Principal
}

// watchOver connects the device M-1 and remembers all that belongs to it.
func (s *site) watchOver() *victim {
	s.t.Helper()
	v := &victim{s: s, got: make(chan string, 16)}
	host, _, _ := net.SplitHostPort(s.door("mqtt"))
	var err error
	v.conn, err = mqtt.Dial(s.t.Context(), mqtt.Config{Addr: s.door("mqtt"), TLS: mqtt.TLS(s.pair("M-1"), s.roots, host), ClientID: "M-1", Version: mqtt.V5, Persistent: true, SessionExpiry: time.Hour,
		OnMessage: func(m mqtt.Message) { v.got <- m.Topic + " " + string(m.Payload) }})
	s.ok(err)
	s.t.Cleanup(v.conn.Abort)
	s.ok(v.conn.Subscribe(s.t.Context(), mqtt.Subscription{Filter: "dt/M-1/inbox", QoS: 1}))
	v.before, v.rights, v.current = v.look()
	return v
}

func (v *victim) look() (registry.Thing, []registry.EffectivePolicy, []registry.Principal) {
	v.s.t.Helper()
	scope := access.Scope{Tenant: access.DefaultTenant}
	th, err := v.s.server.reged.Get(v.s.t.Context(), scope, "M-1")
	v.s.ok(err)
	p, err := v.s.server.reged.Principals(v.s.t.Context(), scope, "M-1")
	v.s.ok(err)
	if len(p) != 1 {
		v.s.t.Fatalf("M-1 has %d certificates", len(p))
	}
	e, err := v.s.server.reged.EffectivePolicies(v.s.t.Context(), scope, p[0].Certificate)
	v.s.ok(err)
	return th, e, p
}

// unharmed fails unless everything of the device is as it was: thing, certificate,
// policies, its one connection, and what it subscribed to.
func (v *victim) unharmed(when string) {
	v.s.t.Helper()
	th, rights, now := v.look()
	if th.Version != v.before.Version || th.Holder != v.before.Holder || !slices.Equal(rights, v.rights) || now[0].Certificate != v.current[0].Certificate || now[0].Status != fleet.Active {
		v.s.t.Errorf("%s: the victim's thing, policies or certificate changed: %+v %+v %+v", when, th, rights, now)
	}
	select {
	case <-v.conn.Done():
		v.s.t.Fatalf("%s: the victim was disconnected: %v", when, v.conn.Err())
	default:
	}
	v.s.ok(v.s.server.fleet.broker.Publish(v.s.t.Context(), fleet.Message{Tenant: access.DefaultTenant, Topic: "dt/M-1/inbox", Payload: []byte(when), QoS: 1}))
	select {
	case m := <-v.got:
		if m != "dt/M-1/inbox "+when {
			v.s.t.Errorf("%s: the victim got %q", when, m)
		}
	case <-time.After(20 * time.Second):
		v.s.t.Errorf("%s: the victim gets nothing any more", when)
	}
}

// TestIdentity_EveryCertificateAtEveryListener_S18_S22_S24_S25_A54_A69 is the
// matrix of confused identities: each kind of certificate, ours and others', at each
// listener, as itself and as a victim that is connected. Each cell says who gets in
// and with which code the others do not; the victim notices nothing.
func TestIdentity_EveryCertificateAtEveryListener_S18_S22_S24_S25_A54_A69(t *testing.T) {
	s := newFleetSite(t, "M-1", "M-2")
	ctx := context.Background()
	v := s.watchOver()
	birth := loadPair(t, s.path("devices", "M-2", "idevid.pem"), s.path("devices", "M-2", "idevid.key"))
	victimOp, device2, station := s.pair("M-1"), s.pair("M-2"), s.stationPair()
	var deviceKey crypto.Signer
	var deviceCA *x509.Certificate
	for _, a := range s.server.ca.Authorities() {
		if a.Duty == profile.DutyDevice {
			k, err := s.server.keys.Signer(ctx, a.KeyURI)
			s.ok(err)
			deviceKey, deviceCA = k, a.Cert
		}
	}
	jitp, jitr, nobody := newMaker(t, "Maker"), newMaker(t, "Maker"), newMaker(t, "Maker") // of one name
	s.byHand("other", "M-1", newMaker(t, "Elsewhere").device("M-1"))
	otherM1 := s.byHand("other", "O-1", newMaker(t, "Elsewhere").device("M-1"))
	byoc := s.byHand(access.DefaultTenant, "B-1", nobody.device("M-1"))
	s.byHand(access.DefaultTenant, "sensor-1", nobody.device("sensor-1"))
	sensor := s.byHand(access.DefaultTenant, "sensor", nobody.device("sensor"))
	s.registerMaker(jitp, makerTemplate)
	s.registerMaker(jitr, "")
	joined := jitp.device("J-1")
	if got := s.knock(&joined, "J-1", 5); got != "connack 0x88" {
		t.Errorf("the first connection of a registered CA's device: %s", got)
	}
	revoked := s.certified(profile.LDevID, "REVOKED", func(r *ca.Request) { r.Slot = "A" })
	if a, err := s.api("bob").RevokeCertificateWithResponse(ctx, serialOf(revoked.Leaf), adminapi.RevokeRequest{Reason: "superseded", Note: "test"}); err != nil || a.JSON200 == nil {
		t.Fatal(err, string(a.Body))
	}
	expired := s.certified(profile.LDevID, "EXPIRED", func(r *ca.Request) { r.Slot, r.NotAfter = "A", time.Now().Add(time.Second) })
	claim := s.claimPair("line-1")

	const (
		noStation = "bad certificate"
		noChain   = "unknown certificate authority"
		not5      = "connack 0x87" // not authorised
		not3      = "connack 0x05"
		unknown   = "403 device-unknown"
		role      = "403 device-role"
	)
	type cell struct {
		name    string
		cert    *tls.Certificate
		client  string // its own
		factory string
		device  string // HTTPS
		own     string // MQTT 5, as itself
		as5     string // as the victim
		as3     string // the same with MQTT 3.1.1
	}
	matrix := []cell{
		{"none", nil, "x", "certificate required", "401 device-certificate-missing", not5, not5, not3},
		{"idevid", &birth, "M-2", noChain, "200", not5, not5, not3},
		{"ldevid", &device2, "M-2", noChain, "200", "in", not5, not3},
		{"ldevid without a thing", pair(s.certified(profile.LDevID, "DEV-2", func(r *ca.Request) { r.Slot = "A" })), "DEV-2", noChain, "403 device-inactive", not5, not5, not3},
		{"station", &station, "station-1", "200", role, not5, not5, not3},
		{"operator", pair(s.certified(profile.Operator, "olga", nil)), "olga", noStation, role, not5, not5, not3},
		{"server", pair(s.certified(profile.Server, "service:other", func(r *ca.Request) { r.Slot = "A" })), "other", noStation, role, not5, not5, not3},
		{"scep-ra", pair(s.certified(profile.SCEPRA, "service:scep-other", func(r *ca.Request) { r.Slot = "A" })), "other", noStation, role, not5, not5, not3},
		{"site-server", pair(s.certified(profile.Site, "site:gw", func(r *ca.Request) { r.Slot = "A" })), "gw", noStation, role, not5, not5, not3},
		{"ocsp-responder", pair(s.certified(profile.OCSPResponder, "service:ocsp-other", func(r *ca.Request) { r.Slot = "A" })), "other", noChain, unknown, not5, not5, not3},
		// A claim certificate takes any client identifier, and is nobody with it.
		{"claim", &claim, "anything", noStation, role, "in", "in", "in"},
		{"by hand (BYOC)", byoc, "B-1", noChain, unknown, "in", not5, not3},
		{"of a registered CA, by template", &joined, "J-1", noChain, unknown, "in", not5, not3},
		{"of a registered CA, waiting", pair(jitr.device("W-1")), "W-1", noChain, unknown, not5, not5, not3},
		{"of a CA with a registered one's name", pair(nobody.device("J-1")), "J-1", noChain, unknown, not5, not5, not3},
		{"of a registered CA, named like the victim", pair(jitp.device("M-1")), "M-1", noChain, unknown, not5, not5, not3},
		{"another tenant's, named like the victim", otherM1, "O-1", noChain, unknown, "in", not5, not3},
		{"revoked ldevid", &revoked, "REVOKED", noChain, "403 device-revoked", not5, not5, not3},
		{"expired ldevid", &expired, "EXPIRED", "expired certificate", "403 device-expired", not5, not5, not3},
		{"self-made, like the victim's", pair(forged(t, victimOp.Leaf, nil, nil, victimOp.Leaf.SerialNumber)), "M-1", noChain, unknown, not5, not5, not3},
		{"by the device CA's key, like the victim's", pair(forged(t, victimOp.Leaf, deviceCA, deviceKey, victimOp.Leaf.SerialNumber)), "M-1", noChain, unknown, not5, not5, not3},
		{"by the device CA's key, not on record", pair(forged(t, victimOp.Leaf, deviceCA, deviceKey, new(big.Int).Add(victimOp.Leaf.SerialNumber, big.NewInt(1)))), "M-1", noChain, unknown, not5, not5, not3},
	}
	// Publishing over HTTPS to a topic of the victim's.
	topics := map[string]string{
		"none": "401 device-certificate-missing", "idevid": "403 device-inactive", "ldevid": "403 broker-forbidden", "ldevid without a thing": "403 device-inactive",
		"station": role, "operator": role, "server": role, "site-server": role, "scep-ra": role, "ocsp-responder": role, "claim": role,
		"by hand (BYOC)": "200", "of a registered CA, by template": "200", // their policy allows every topic
		"of a registered CA, waiting": "403 device-pending", "of a CA with a registered one's name": unknown, "of a registered CA, named like the victim": "403 device-pending",
		"another tenant's, named like the victim": "200", // over there
		"revoked ldevid": "403 device-revoked", "expired ldevid": "403 device-expired",
		"self-made, like the victim's": unknown, "by the device CA's key, like the victim's": unknown, "by the device CA's key, not on record": unknown,
	}
	for _, p := range profile.All() {
		if !p.CA && !slices.ContainsFunc(matrix, func(c cell) bool { return c.name == string(p.Name) }) {
			t.Errorf("profile %s is not tried", p.Name)
		}
	}
	if left := time.Until(expired.Leaf.NotAfter.Add(time.Second)); left > 0 {
		time.Sleep(left) // for a certificate to expire there is only to wait
	}
	for i, c := range matrix {
		for _, door := range []struct {
			name, method, url string
			body              any
			want              string
		}{
			{"8443", "GET", "https://" + s.door("people") + "/api/v1/orders", nil, "401 token-missing"},
			{"9443", "GET", "https://" + s.door("device") + "/bootstrap/v1/whoami", nil, c.device},
			{"9443 /topics", "POST", "https://" + s.door("device") + "/topics/dt%2FM-1%2Fother?qos=1", map[string]any{}, topics[c.name]},
			{"9444", "GET", "https://" + s.door("factory") + "/factory/v1/orders/" + siteOrder, nil, c.factory},
			{"9445", "POST", "https://" + s.door("enrol") + "/enrol/v1/station", map[string]any{"station": "station-9", "code": wrongCode, "csr": newUnit(t, "x").csr}, "401 station-code-refused"},
		} {
			if got := s.outcome(c.cert, i+1, door.method, door.url, door.body); got != door.want {
				t.Errorf("%s at %s: %q, want %q", c.name, door.name, got, door.want)
			}
		}
		for _, m := range []struct {
			what, client string
			version      byte
			want         string
		}{{"itself", c.client, 5, c.own}, {"the victim", "M-1", 5, c.as5}, {"the victim in 3.1.1", "M-1", 4, c.as3}} {
			if got := s.knock(c.cert, m.client, m.version); got != m.want {
				t.Errorf("%s at 8883 as %s: %q, want %q", c.name, m.what, got, m.want)
			}
		}
		v.unharmed(c.name)
	}
	// The certificate of the thing M-1 of another tenant is M-1, over there.
	t.Run("a number makes nobody another thing", func(t *testing.T) {
		for client, want := range map[string]string{"sensor": "in", "sensor-2": "in", "sensor-1": not5, "sensor-1-1": not5} {
			if got := s.knock(sensor, client, 5); got != want {
				t.Errorf("sensor as %s: %q, want %q", client, got, want)
			}
		}
	})
	s.halt()
	for _, f := range s.findings() {
		if !strings.HasPrefix(f, "ldevid-unattached: ") { // those that this test made without a thing
			t.Errorf("fsck: %s", f)
		}
	}
}

// TestIdentity_NobodyAttachesToAVictim_S21_S22_A47_A49: a claim certificate that asks
// for a victim's serial number, a certificate's id as a parameter and as a hook's
// override, over the wire: nothing attaches, and the victim notices nothing.
func TestIdentity_NobodyAttachesToAVictim_S21_S22_A47_A49(t *testing.T) {
	s := newFleetSite(t, "M-1")
	v := s.watchOver()
	claim := s.claimPair("line-1")
	s.byHand(access.DefaultTenant, "B-1", newMaker(t, "Maker").device("B-1")) // brings the policy that the template names
	victimID := v.current[0].Certificate
	host, _, _ := net.SplitHostPort(s.door("mqtt"))
	answers := make(chan string, 4)
	thief, err := mqtt.Dial(t.Context(), mqtt.Config{Addr: s.door("mqtt"), TLS: mqtt.TLS(claim, s.roots, host), ClientID: "M-1", Version: mqtt.V5, OnMessage: func(m mqtt.Message) {
		answers <- m.Topic[strings.LastIndexByte(m.Topic, '/')+1:] + " " + string(m.Payload)
	}})
	s.ok(err)
	defer thief.Close()
	ask := func(topic string, body any) string {
		t.Helper()
		b, err := json.Marshal(body)
		s.ok(err)
		s.ok(thief.Publish(t.Context(), mqtt.Message{Topic: topic, Payload: b, QoS: 1}))
		select {
		case a := <-answers:
			return a
		case <-time.After(20 * time.Second):
			t.Fatalf("no answer on %s", topic)
			return ""
		}
	}
	const create, register = "$aws/certificates/create-from-csr/json", "$aws/provisioning-templates/claimed/provision/json"
	made := func() (token string, c *x509.Certificate) {
		t.Helper()
		a := ask(create, map[string]string{"certificateSigningRequest": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: newUnit(t, "x").csr}))})
		text, ok := strings.CutPrefix(a, "accepted ")
		var out struct {
			Token string `json:"certificateOwnershipToken"`
			PEM   string `json:"certificatePem"`
		}
		if !ok || json.Unmarshal([]byte(text), &out) != nil {
			t.Fatal(a)
		}
		block, _ := pem.Decode([]byte(out.PEM))
		c, err := x509.ParseCertificate(block.Bytes)
		s.ok(err)
		return out.Token, c
	}
	token, mine := made()
	no := func(what, a, code string) {
		t.Helper()
		if !strings.HasPrefix(a, "rejected ") || !strings.Contains(a, `"errorCode":"`+code+`"`) {
			t.Errorf("%s: %s, want %s", what, a, code)
		}
		things, err := s.server.reged.CertificateThings(t.Context(), access.Scope{Tenant: access.DefaultTenant}, registry.CertificateID(mine.Raw))
		if err != nil || len(things) != 0 {
			t.Errorf("%s: something attached: %+v %v", what, things, err)
		}
		v.unharmed(what)
	}
	body := func(token string, parameters map[string]string) map[string]any {
		return map[string]any{"certificateOwnershipToken": token, "parameters": parameters}
	}
	no("the victim's serial number", ask(register, body(token, map[string]string{"SerialNumber": "M-1"})), "ResourceConflict")
	no("the victim's serial number in another case", ask(register, body(token, map[string]string{"SerialNumber": "m-1"})), "ResourceConflict")
	no("the victim's certificate as a parameter", ask(register, body(token, map[string]string{"SerialNumber": "N-1", "AWS::IoT::Certificate::Id": victimID})), "InvalidParameters")
	no("the same in another case", ask(register, body(token, map[string]string{"SerialNumber": "N-1", "aws::iot::certificate::id": victimID})), "InvalidParameters")

	// A hook that was taken over, or makes a mistake.
	var overrides map[string]string
	secret := hook.Secret{KeyID: "k1", Key: []byte("0123456789abcdef0123456789abcdef")}
	var srv *httptest.Server
	srv = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			t.Error(err)
		}
		id, err := hook.Verify(r.Header, srv.URL+"/hook", b, []hook.Secret{secret}, time.Now())
		if err != nil {
			t.Error(err)
		}
		out, err := json.Marshal(map[string]any{"allowProvisioning": true, "parameterOverrides": overrides})
		if err != nil {
			t.Error(err)
		}
		hook.SignReply(w.Header(), id, out, secret)
		w.Write(out)
	}))
	defer srv.Close()
	s.ok(s.server.planner.PutHook(t.Context(), provisioner.HookDocument{Tenant: access.DefaultTenant, Name: "ask", URL: srv.URL + "/hook", Allow: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Secrets: []hook.Secret{secret}}))
	s.ok(s.server.planner.PutFleetTemplate(t.Context(), s.server.db, provisioner.FleetTemplate{Tenant: access.DefaultTenant, Name: "claimed", Hook: "ask", Enabled: true}))
	overrides = map[string]string{"AWS::IoT::Certificate::Id": victimID}
	no("the victim's certificate as an override", ask(register, body(token, map[string]string{"SerialNumber": "N-1"})), "AccessDenied")
	overrides = map[string]string{"SerialNumber": "M-1"}
	no("the victim's serial number as an override", ask(register, body(token, map[string]string{"SerialNumber": "N-1"})), "ResourceConflict")

	// What a claim certificate may not do, it may not do as the victim either (A47).
	for _, topic := range []string{"dt/M-1/inbox", "$aws/things/M-1/shadow/update", "$aws/provisioning-templates/other/provision/json"} {
		if err := thief.Publish(t.Context(), mqtt.Message{Topic: topic, Payload: []byte("{}"), QoS: 1}); err == nil {
			t.Errorf("the claim certificate published to %s", topic)
		}
	}
	if err := thief.Subscribe(t.Context(), mqtt.Subscription{Filter: "dt/M-1/inbox", QoS: 1}); err == nil {
		t.Error("the claim certificate subscribed to the victim's topic")
	}
	// The token still works for what is the device's own (A49: and once).
	overrides = map[string]string{}
	if a := ask(register, body(token, map[string]string{"SerialNumber": "N-1"})); !strings.HasPrefix(a, "accepted ") || !strings.Contains(a, `"thingName":"N-1"`) {
		t.Errorf("its own: %s", a)
	}
	if a := ask(register, body(token, map[string]string{"SerialNumber": "N-2"})); !strings.Contains(a, "InvalidCertificateOwnershipToken") {
		t.Errorf("a used token: %s", a)
	}
	v.unharmed("at the end")
	s.halt()
	s.clean()
}
