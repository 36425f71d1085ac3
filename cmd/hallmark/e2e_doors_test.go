package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/ca"
	"hallmark/ca/catest"
	"hallmark/ca/profile"
	"hallmark/device"
	"hallmark/station/uplink"
)

// certified issues a certificate of any profile with the CA of the service, as
// only the service itself could.
func (s *site) certified(p profile.Name, holder string, change func(*ca.Request)) tls.Certificate {
	s.t.Helper()
	key, err := serviceKey(p)
	if err != nil {
		s.t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		s.t.Fatal(err)
	}
	r := ca.Request{
		Identity: ca.Identity{Tenant: access.DefaultTenant, Holder: holder, Profile: string(p)},
		Subject:  profile.Subject{Organization: "Example", CommonName: strings.TrimPrefix(holder, "station:")}, SPKI: spki, Key: key.Public(),
		Requester: ca.Requester{Actor: "service:test"}, Tool: "test",
	}
	switch p {
	case profile.IDevID, profile.LDevID:
		r.Origin = profile.OriginClaimed
	case profile.OCSPResponder:
		r.Authority = "device-1"
	case profile.Server, profile.Site:
		r.Names.DNS = []string{"localhost"}
	}
	if change != nil {
		change(&r)
	}
	out, err := s.server.ca.Issue(context.Background(), r)
	if err != nil {
		s.t.Fatalf("issue %s for %s: %v", p, holder, err)
	}
	a, err := s.server.ca.Authority(out.Authority)
	if err != nil {
		s.t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(out.DER)
	if err != nil {
		s.t.Fatal(err)
	}
	return tls.Certificate{Certificate: [][]byte{out.DER, a.Cert.Raw}, PrivateKey: key, Leaf: leaf}
}

// forged is a certificate with everything of another that can be copied, signed
// by issuer's key, or by its own.
func forged(t testing.TB, like *x509.Certificate, issuer *x509.Certificate, signer crypto.Signer, serial *big.Int) tls.Certificate {
	t.Helper()
	key := catest.NewKey(t)
	tmpl := &x509.Certificate{SerialNumber: serial, RawSubject: like.RawSubject, NotBefore: like.NotBefore, NotAfter: like.NotAfter, KeyUsage: like.KeyUsage,
		ExtKeyUsage: like.ExtKeyUsage, DNSNames: like.DNSNames, Policies: like.Policies, BasicConstraintsValid: true}
	parent, with := issuer, signer
	chain := [][]byte{}
	if issuer == nil {
		parent, with = tmpl, crypto.Signer(key)
	} else {
		chain = append(chain, issuer.Raw)
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, key.Public(), with)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return tls.Certificate{Certificate: append([][]byte{der}, chain...), PrivateKey: key, Leaf: leaf}
}

// outcome is what a door says to a certificate: a TLS alert, or a status and code.
func (s *site) outcome(cert *tls.Certificate, from int, method, url string, body any) string {
	s.t.Helper()
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.IPv4(127, 0, 1, byte(from))}, Timeout: 10 * time.Second}
	tr := &http.Transport{TLSClientConfig: s.tlsConfig(cert), DialContext: d.DialContext, DisableKeepAlives: true}
	r, err := call(context.Background(), &http.Client{Transport: tr, Timeout: 30 * time.Second}, method, url, body)
	// In TLS 1.3 a client writes before it knows what becomes of its certificate; a
	// door that is closed by then resets the connection, and the alert may be lost.
	for tries := 0; tries < 20 && (errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)); tries++ {
		r, err = call(context.Background(), &http.Client{Transport: tr, Timeout: 30 * time.Second}, method, url, body)
	}
	if err != nil {
		return alert(err)
	}
	return r.String()
}

// greeting connects, says nothing and reads: what a door that refuses the
// certificate says first. A client of TLS 1.3 that wrote its request at once
// could find the connection reset before it has read the alert.
func greeting(t testing.TB, conf *tls.Config, to string) string {
	t.Helper()
	u, err := url.Parse(to)
	if err != nil {
		t.Fatal(err)
	}
	c, err := (&tls.Dialer{Config: conf}).DialContext(t.Context(), "tcp", u.Host)
	if err != nil {
		return alert(err)
	}
	defer c.Close()
	c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Read(make([]byte, 1)); err != nil {
		return alert(err)
	}
	return "an answer before the question"
}

// alert is the text of the TLS alert in an error.
func alert(err error) string {
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "remote error" {
		return strings.TrimPrefix(op.Err.Error(), "tls: ")
	}
	return err.Error()
}

// TestS18_EveryProfileAtEveryDoor covers S18, A12 and A62's neighbour: whatever
// certificate is shown, each door lets in its own role alone and says exactly why not.
func TestS18_EveryProfileAtEveryDoor(t *testing.T) {
	s := newSite(t, quickHSM(), "", anyName(10))
	ctx := context.Background()

	station := s.stationPair()
	birth := s.issue(newUnit(t, "DEV-1"))
	device1 := s.path("devices", "DEV-1")
	writeDevice(t, device1, birth)
	if _, err := device.FirstBoot(ctx, device.Config{Dir: device1, Server: "https://" + s.door("device"), Roots: s.roots}); err != nil {
		t.Fatal(err)
	}
	operational, err := tls.LoadX509KeyPair(s.path("devices", "DEV-1", "ldevid.pem"), s.path("devices", "DEV-1", "ldevid.key"))
	if err != nil {
		t.Fatal(err)
	}
	soon := func(r *ca.Request) { r.NotAfter = time.Now().Add(2 * time.Second) }
	expiredBirth, expiredStation := s.certified(profile.IDevID, "DEV-EXPIRED", soon), s.certified(profile.Station, "station:station-1", func(r *ca.Request) {
		soon(r)
		r.Slot = "B"
	})
	revokedBirth := s.issue(newUnit(t, "DEV-REVOKED"))
	revokedStation := s.certified(profile.Station, "station:station-x", nil)
	bob := s.api("bob")
	for _, c := range []tls.Certificate{revokedBirth, revokedStation} {
		a, err := bob.RevokeCertificateWithResponse(ctx, serialOf(c.Leaf), adminapi.RevokeRequest{Reason: "superseded", Note: "test"})
		if err != nil || a.JSON200 == nil {
			t.Fatal(err, string(a.Body))
		}
	}
	var deviceKey, infraKey crypto.Signer
	var deviceCA, infraCA *x509.Certificate
	for _, a := range s.server.ca.Authorities() {
		if a.KeyURI == "" {
			continue
		}
		k, err := s.server.keys.Signer(ctx, a.KeyURI)
		if err != nil {
			t.Fatal(err)
		}
		if a.Duty == profile.DutyDevice {
			deviceKey, deviceCA = k, a.Cert
		} else {
			infraKey, infraCA = k, a.Cert
		}
	}
	unknownSerial := new(big.Int).Add(birth.Leaf.SerialNumber, big.NewInt(1))

	const (
		noStation = "bad certificate" // the handshake's end, where a station must be proven
		noChain   = "unknown certificate authority"
	)
	certificates := []struct {
		name            string
		cert            *tls.Certificate
		factory, device string
	}{
		{"none", nil, "certificate required", "401 device-certificate-missing"},
		{"idevid", &birth, noChain, "200"},
		{"ldevid", &operational, noChain, "200"},
		{"ldevid without a thing", pair(s.certified(profile.LDevID, "DEV-2", func(r *ca.Request) { r.Slot = "A" })), noChain, "403 device-inactive"},
		{"station", &station, "200", "403 device-role"},
		{"operator", pair(s.certified(profile.Operator, "olga", nil)), noStation, "403 device-role"},
		{"server", pair(s.certified(profile.Server, "service:other", func(r *ca.Request) { r.Slot = "A" })), noStation, "403 device-role"},
		{"scep-ra", pair(s.certified(profile.SCEPRA, "service:scep-other", func(r *ca.Request) { r.Slot = "A" })), noStation, "403 device-role"},
		{"site-server", pair(s.certified(profile.Site, "site:gw", func(r *ca.Request) { r.Slot = "A" })), noStation, "403 device-role"},
		{"ocsp-responder", pair(s.certified(profile.OCSPResponder, "service:ocsp-other", func(r *ca.Request) { r.Slot = "A" })), noChain, "403 device-unknown"}, // its purpose fails before its role
		{"claim", pair(s.certified(profile.Claim, "claim-1", nil)), noStation, "403 device-role"},
		{"self-made, like the station", pair(forged(t, station.Leaf, nil, nil, station.Leaf.SerialNumber)), noChain, "403 device-unknown"},
		{"self-made, like the idevid", pair(forged(t, birth.Leaf, nil, nil, birth.Leaf.SerialNumber)), noChain, "403 device-unknown"},
		{"by the device CA's key, like the idevid, no record", pair(forged(t, birth.Leaf, deviceCA, deviceKey, unknownSerial)), noChain, "403 device-unknown"},
		{"by the device CA's key, like the idevid, its serial number", pair(forged(t, birth.Leaf, deviceCA, deviceKey, birth.Leaf.SerialNumber)), noChain, "403 device-unknown"},
		{"by the device CA's key, like the station", pair(forged(t, station.Leaf, deviceCA, deviceKey, unknownSerial)), noChain, "403 device-unknown"},
		{"by the infrastructure CA's key, like the station, no record", pair(forged(t, station.Leaf, infraCA, infraKey, unknownSerial)), noStation, "403 device-role"},
		{"by the infrastructure CA's key, like the station, its serial number", pair(forged(t, station.Leaf, infraCA, infraKey, station.Leaf.SerialNumber)), noStation, "403 device-role"},
		{"revoked idevid", &revokedBirth, noChain, "403 device-revoked"},
		{"revoked station", &revokedStation, noStation, "403 device-role"},
		{"expired idevid", &expiredBirth, "expired certificate", "403 device-expired"},
		{"expired station", &expiredStation, "expired certificate", "403 device-role"},
	}
	for _, p := range profile.All() {
		if !p.CA && !slices.ContainsFunc(certificates, func(c struct {
			name            string
			cert            *tls.Certificate
			factory, device string
		}) bool {
			return c.name == string(p.Name)
		}) {
			t.Errorf("profile %s is not tried", p.Name)
		}
	}
	if left := time.Until(expiredStation.Leaf.NotAfter.Add(time.Second)); left > 0 {
		time.Sleep(left) // for a certificate to expire there is only to wait
	}
	for i, c := range certificates {
		from := i + 1
		for _, door := range []struct {
			name, method, url string
			body              any
			want              string
		}{
			{"factory", "GET", "https://" + s.door("factory") + "/factory/v1/orders/" + siteOrder, nil, c.factory},
			{"device", "GET", "https://" + s.door("device") + "/bootstrap/v1/whoami", nil, c.device},
			// Nobody is let in at these by a certificate.
			{"people", "GET", "https://" + s.door("people") + "/api/v1/orders", nil, "401 token-missing"},
			{"enrol", "POST", "https://" + s.door("enrol") + "/enrol/v1/station", map[string]any{"station": "station-9", "code": wrongCode, "csr": newUnit(t, "x").csr}, "401 station-code-refused"},
			{"public", "GET", "http://" + s.door("public") + "/healthz", nil, "200"},
			// No other role's path answers at a door.
			{"factory's path at the device door", "GET", "https://" + s.door("device") + "/factory/v1/orders/" + siteOrder, nil, "404 route-unknown"},
			{"administration at the enrol door", "GET", "https://" + s.door("enrol") + "/api/v1/orders", nil, "404 route-unknown"},
			{"administration at the public door", "GET", "http://" + s.door("public") + "/api/v1/orders", nil, "404 route-unknown"},
		} {
			if got := s.outcome(c.cert, from, door.method, door.url, door.body); got != door.want {
				t.Errorf("%s at %s: %q, want %q", c.name, door.name, got, door.want)
			}
		}
	}
}

// wrongCode has the form of an enrolment string and opens nothing.
var wrongCode, _ = uplink.NewCode(nil, [32]byte{})

// serialOf is a serial number as commands and API write it.
func serialOf(c *x509.Certificate) string {
	serial, _ := ca.SerialFromInt(c.SerialNumber)
	return serial.String()
}

func pair(c tls.Certificate) *tls.Certificate { return &c }

// TestS19_RevocationIsSeenAtOnce covers S19, A8 and A30: a station that is
// revoked is refused at the next request of its open connection, within a
// second, and a TLS session from before it is not resumed, at either door.
func TestS19_RevocationIsSeenAtOnce(t *testing.T) {
	s := newSite(t, quickHSM(), "", anyName(10))
	s.halt()
	p := s.service("hallmark.yaml", "state")
	birth, station := s.issue(newUnit(t, "DEV-1")), s.stationPair()

	type visitor struct {
		name  string
		url   string
		conf  *tls.Config
		plain *http.Client // keeps one connection
	}
	visitors := []*visitor{
		{name: "station", url: "https://" + s.door("factory") + "/factory/v1/orders/" + siteOrder, conf: s.tlsConfig(&station)},
		{name: "device", url: "https://" + s.door("device") + "/bootstrap/v1/whoami", conf: s.tlsConfig(&birth)},
	}
	// resume connects anew and tells whether the session was resumed.
	resume := func(v *visitor) (resumed bool, r reply, err error) {
		tr := &http.Transport{DisableKeepAlives: true}
		tr.DialTLSContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			c, err := (&tls.Dialer{Config: v.conf}).DialContext(ctx, network, addr)
			if err == nil {
				resumed = c.(*tls.Conn).ConnectionState().DidResume
			}
			return c, err
		}
		r, err = call(t.Context(), &http.Client{Transport: tr, Timeout: 20 * time.Second}, "GET", v.url, nil)
		return resumed, r, err
	}
	for _, v := range visitors {
		dials := 0
		tr := &http.Transport{MaxConnsPerHost: 1, MaxIdleConnsPerHost: 1}
		tr.DialTLSContext = func(ctx context.Context, network, addr string) (net.Conn, error) {
			if dials++; dials > 1 {
				return nil, fmt.Errorf("%s: the open connection was given up", v.name)
			}
			return (&tls.Dialer{Config: v.conf}).DialContext(ctx, network, addr)
		}
		v.plain = &http.Client{Transport: tr, Timeout: 20 * time.Second}
		t.Cleanup(tr.CloseIdleConnections)
		v.conf.ClientSessionCache = tls.NewLRUClientSessionCache(8)
		for range 2 {
			if r, err := call(t.Context(), v.plain, "GET", v.url, nil); err != nil || r.status != http.StatusOK {
				t.Fatalf("%s before the revocation: %s %v", v.name, r, err)
			}
		}
		// The ticket came with the first answer: now resumption has to work, or
		// the test would prove nothing.
		resumed, r, err := resume(v)
		if err != nil || r.status != http.StatusOK || !resumed {
			t.Fatalf("%s: a session was resumed: %v, %s, %v", v.name, resumed, r, err)
		}
	}

	if out, errOut, exit := s.cli("stations", "revoke", "station-1", "--note", "PC stolen"); exit != exitOK {
		t.Fatalf("stations revoke: %s%s", out, errOut)
	}
	stationGone := time.Now()
	if out, errOut, exit := s.cli("device", "revoke", "DEV-1", "--reason", "privilegeWithdrawn"); exit != exitOK {
		t.Fatalf("device revoke: %s%s", out, errOut)
	}
	deviceGone := time.Now()
	for _, w := range []struct {
		*visitor
		since time.Time
		code  string
		fresh string // outcome of a handshake
	}{
		{visitors[0], stationGone, "requester-revoked", "bad certificate"},
		{visitors[1], deviceGone, "device-revoked", ""},
	} {
		r, err := call(t.Context(), w.plain, "GET", w.url, nil)
		if err != nil || r.status != http.StatusForbidden || r.code != w.code {
			t.Errorf("%s on its open connection: %s, %v; want 403 %s", w.name, r, err, w.code)
		}
		if took := time.Since(w.since); took > 5*time.Second {
			t.Errorf("%s: the refusal came after %s", w.name, took)
		}
		if w.fresh != "" {
			if got := greeting(t, w.conf, w.url); got != w.fresh {
				t.Errorf("%s connects anew and is told %q; want %q", w.name, got, w.fresh)
			}
			continue
		}
		if resumed, r, err := resume(w.visitor); err != nil || r.code != w.code {
			t.Errorf("%s, resumed %v: %s %v; want %s", w.name, resumed, r, err, w.code)
		}
	}
	// A station that is gone gets no certificate from a request that was on its
	// way, and none after a restart either (A28).
	p.kill()
	s.service("hallmark.yaml", "state")
	if got := s.outcome(&station, 1, "POST", "https://"+s.door("factory")+"/factory/v1/units/issue", newUnit(t, "AFTER").request()); got != "bad certificate" {
		t.Errorf("after a restart the station is told %q", got)
	}
	if used := s.order(siteOrder).Used; used != 1 {
		t.Errorf("the order used %d units", used)
	}
	s.clean()
}

// writeDevice puts a birth certificate where the reference device looks for it.
func writeDevice(t testing.TB, dir string, c tls.Certificate) {
	t.Helper()
	writePEM(t, dir, "idevid.pem", "CERTIFICATE", c.Certificate...)
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey.(*ecdsa.PrivateKey))
	if err != nil {
		t.Fatal(err)
	}
	writePEM(t, dir, "idevid.key", "PRIVATE KEY", der)
}
