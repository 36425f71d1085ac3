package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"
	library "golang.org/x/crypto/acme"
	"golang.org/x/net/dns/dnsmessage"

	"hallmark/api/adminapi"
	"hallmark/ca/catest"
	"hallmark/ca/profile"
)

// acmeWorld is what ACME needs outside the service: the maker of cards whose
// attestations are taken, and the names of servers at a site.
type acmeWorld struct {
	cert     *x509.Certificate
	key      *ecdsa.PrivateKey
	resolver string
}

// configured is the configuration of ACME for it; the maker's root is written for
// the service to read.
func (w *acmeWorld) configured(t *testing.T, s *site) string {
	t.Helper()
	w.key = catest.NewKey(t)
	root := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Maker of cards"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	raw, err := x509.CreateCertificate(rand.Reader, root, root, w.key.Public(), w.key)
	if err == nil {
		w.cert, err = x509.ParseCertificate(raw)
	}
	if err == nil {
		err = os.WriteFile(s.path("maker.pem"), catest.PEM(w.cert), 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
	w.resolver = everyNameIsHere(t)
	return fmt.Sprintf("  acme:\n    enabled: true\n    attestation: {step: maker.pem}\n    sites: {domains: [plant.example.com], networks: [127.0.0.0/8], resolver: %q}\n", w.resolver)
}

// everyNameIsHere is a DNS server to which every name is 127.0.0.1.
func everyNameIsHere(t *testing.T) string {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(buf[:n]) != nil || len(m.Questions) != 1 {
				continue
			}
			m.Response, m.Additionals = true, nil
			if q := m.Questions[0]; q.Type == dnsmessage.TypeA {
				m.Answers = []dnsmessage.Resource{{Header: dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class}, Body: &dnsmessage.AResource{A: [4]byte{127, 0, 0, 1}}}}
			}
			if b, err := m.Pack(); err == nil {
				conn.WriteTo(b, from)
			}
		}
	}()
	t.Cleanup(func() { conn.Close(); <-done })
	return conn.LocalAddr().String()
}

// attestation is what a card says about a key (device-attest-01, format step).
func (w *acmeWorld) attestation(t *testing.T, serial string, key *ecdsa.PrivateKey, keyAuth string) json.RawMessage {
	t.Helper()
	value, err := asn1.Marshal(struct{ DeviceID string }{serial})
	if err != nil {
		t.Fatal(err)
	}
	leaf := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "attestation"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 37476, 9000, 64, 4}, Value: value}}}
	raw, err := x509.CreateCertificate(rand.Reader, leaf, w.cert, key.Public(), w.key)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte(keyAuth))
	sig, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	if sig, err = cbor.Marshal(sig); err != nil {
		t.Fatal(err)
	}
	object, err := cbor.Marshal(map[string]any{"fmt": "step", "attStmt": map[string]any{"x5c": [][]byte{raw}, "alg": -7, "sig": sig}})
	if err != nil {
		t.Fatal(err)
	}
	out, err := json.Marshal(map[string]string{"attObj": base64.RawURLEncoding.EncodeToString(object)})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// urnOf is the type of the problem in an error of the library.
func urnOf(err error) string {
	var e *library.Error
	if errors.As(err, &e) {
		return e.ProblemType
	}
	return fmt.Sprint(err)
}

// acme enrols at the enrol door with the client of golang.org/x/crypto: unit, which
// was born, by an attestation, and a server at a site by http-01.
func (w *acmeWorld) acme(t *testing.T, s *site, unit string) {
	t.Helper()
	ctx := t.Context()
	hc := &http.Client{Transport: &http.Transport{TLSClientConfig: s.tlsConfig(nil)}, Timeout: time.Minute}
	defer hc.CloseIdleConnections()
	client := func() *library.Client {
		return &library.Client{Key: catest.NewKey(t), HTTPClient: hc, DirectoryURL: "https://" + s.door("enrol") + "/acme/directory", RetryBackoff: func(int, *http.Request, *http.Response) time.Duration { return -1 }}
	}
	made := func(p profile.Name, name string) adminapi.AcmeKey {
		t.Helper()
		a, err := s.api("bob").CreateAcmeKeyWithResponse(ctx, adminapi.AcmeKeyRequest{Profile: string(p), Names: []string{name}})
		if err != nil || a.JSON201 == nil {
			t.Fatalf("%v %s", err, a.Body)
		}
		return *a.JSON201
	}
	register := func(c *library.Client, kid string, secret []byte) error {
		_, err := c.Register(ctx, &library.Account{Contact: []string{"mailto:ops@example.com"}, ExternalAccountBinding: &library.ExternalAccountBinding{KID: kid, Key: secret}}, library.AcceptTOS)
		return err
	}
	account := func(k adminapi.AcmeKey) *library.Client {
		t.Helper()
		secret, err := base64.RawURLEncoding.DecodeString(k.Secret)
		c := client()
		if err == nil {
			err = register(c, k.Id, secret)
		}
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	const urn = "urn:ietf:params:acme:error:"
	// The directory; and who has no key, or the wrong one, is told in ACME's words.
	d, err := client().Discover(ctx)
	if err != nil || !d.ExternalAccountRequired || d.KeyChangeURL == "" {
		t.Fatalf("%+v %v", d, err)
	}
	if _, err := client().Register(ctx, &library.Account{}, library.AcceptTOS); urnOf(err) != urn+"externalAccountRequired" {
		t.Errorf("without a key: %s", urnOf(err))
	}
	card := made(profile.LDevID, "CARD-1="+unit)
	if err := register(client(), card.Id, []byte("another secret of 32 octets ....")); urnOf(err) != urn+"unauthorized" {
		t.Errorf("with another secret: %s", urnOf(err))
	}
	// A64: a person's token is no such key, and such a key is no token.
	token, err := os.ReadFile(s.path("people", "ann.token"))
	if err != nil {
		t.Fatal(err)
	}
	if err := register(client(), "ann", []byte(strings.TrimSpace(string(token)))); urnOf(err) != urn+"unauthorized" {
		t.Errorf("with a person's token: %s", urnOf(err))
	}
	r, err := http.NewRequest("GET", "https://"+s.door("people")+"/api/v1/me", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+card.Secret)
	res, err := hc.Do(r)
	if err != nil {
		t.Fatal(err)
	}
	res.Body.Close()
	if res.StatusCode != http.StatusUnauthorized {
		t.Errorf("the key as a token: %d", res.StatusCode)
	}

	// order gets a certificate for one identifier.
	order := func(c *library.Client, kind, value, challenge string, prove func(ch *library.Challenge) error, key crypto.Signer, csr *x509.CertificateRequest) (*x509.Certificate, error) {
		t.Helper()
		o, err := c.AuthorizeOrder(ctx, []library.AuthzID{{Type: kind, Value: value}})
		if err != nil {
			return nil, err
		}
		z, err := c.GetAuthorization(ctx, o.AuthzURLs[0])
		if err != nil {
			return nil, err
		}
		for _, ch := range z.Challenges {
			if ch.Type != challenge {
				continue
			}
			if err := prove(ch); err != nil {
				return nil, err
			}
			if _, err := c.Accept(ctx, ch); err != nil {
				return nil, err
			}
		}
		if _, err := c.WaitAuthorization(ctx, z.URI); err != nil {
			return nil, err
		}
		if o, err = c.WaitOrder(ctx, o.URI); err != nil {
			return nil, err
		}
		raw, err := x509.CreateCertificateRequest(rand.Reader, csr, key)
		if err != nil {
			return nil, err
		}
		chain, _, err := c.CreateOrderCert(ctx, o.FinalizeURL, raw, true)
		if err != nil {
			return nil, err
		}
		return x509.ParseCertificate(chain[0])
	}
	key := catest.NewKey(t)
	c := account(card)
	attest := func(serial string) func(ch *library.Challenge) error {
		return func(ch *library.Challenge) error {
			keyAuth, err := c.HTTP01ChallengeResponse(ch.Token) // of every challenge the same
			ch.Payload = w.attestation(t, serial, key, keyAuth)
			return err
		}
	}
	if _, err := order(c, "permanent-identifier", "CARD-2", "device-attest-01", attest("CARD-2"), key, &x509.CertificateRequest{}); urnOf(err) != urn+"rejectedIdentifier" {
		t.Errorf("another card: %s", urnOf(err))
	}
	if cert, err := order(c, "permanent-identifier", "CARD-1", "device-attest-01", attest("CARD-2"), key, &x509.CertificateRequest{}); cert != nil || err == nil {
		t.Error("another card's attestation is taken")
	}
	leaf, err := order(c, "permanent-identifier", "CARD-1", "device-attest-01", attest("CARD-1"), key, &x509.CertificateRequest{})
	if err != nil || leaf.Subject.SerialNumber != unit {
		t.Fatalf("device-attest-01: %v %s", err, urnOf(err))
	}
	// It is a device's certificate at once, and its account revokes it once.
	at := "https://" + s.door("device") + "/bootstrap/v1/whoami"
	show := tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
	if got := s.outcome(&show, 1, "GET", at, nil); !strings.HasPrefix(got, "200") {
		t.Errorf("at the device door: %s", got)
	}
	if err := c.RevokeCert(ctx, nil, leaf.Raw, library.CRLReasonSuperseded); err != nil {
		t.Errorf("its revocation: %v", err)
	}
	got := ""
	for deadline := time.Now().Add(10 * time.Second); got != "403 device-revoked" && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		got = s.outcome(&show, 1, "GET", at, nil)
	}
	if got != "403 device-revoked" {
		t.Errorf("at the device door after it: %s", got)
	}

	// A server at a site.
	const host = "gw1.plant.example.com"
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.server.cfg.Enrolment.ACME.sites.Port = l.Addr().(*net.TCPAddr).Port // nobody has to be root for port 80
	answers := http.NewServeMux()
	web := &http.Server{Handler: answers, ReadHeaderTimeout: time.Minute}
	done := make(chan struct{})
	go func() { defer close(done); web.Serve(l) }()
	defer func() { web.Close(); <-done }()
	c, key = account(made(profile.Site, host)), catest.NewKey(t)
	leaf, err = order(c, "dns", host, "http-01", func(ch *library.Challenge) error {
		text, err := c.HTTP01ChallengeResponse(ch.Token)
		answers.HandleFunc(c.HTTP01ChallengePath(ch.Token), func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, text) })
		return err
	}, key, &x509.CertificateRequest{DNSNames: []string{host}})
	if err != nil || leaf.VerifyHostname(host) != nil {
		t.Fatalf("http-01: %v %s", err, urnOf(err))
	}
	if err := c.RevokeCert(ctx, key, leaf.Raw, library.CRLReasonCessationOfOperation); err != nil {
		t.Errorf("its revocation by its key: %v", err)
	}
}
