package acme_test

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/hmac"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/sha512"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/fxamacker/cbor/v2"

	"hallmark/bootstrap"
	"hallmark/bootstrap/acme"
	"hallmark/bootstrap/acme/state"
	"hallmark/bootstrap/bootstraptest"
	"hallmark/bootstrap/enroltest"
	"hallmark/ca/catest"
	"hallmark/store/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m) }

// need skips a test for want of a tool; where everything has to be there it fails.
func need(t *testing.T, what string, err error) {
	t.Helper()
	switch {
	case err == nil:
	case os.Getenv("CI") == "true":
		t.Fatalf("%s: %v", what, err)
	default:
		t.Skipf("%s: %v", what, err)
	}
}

// site is an ACME server at its door.
type site struct {
	*enroltest.Site
	server *acme.Server
	host   string
	maker  *maker
	http   *http.Client
}

// newSite opens one that takes attestations of one maker of cards.
func newSite(t *testing.T, change func(*acme.Config), o bootstraptest.Options) *site {
	t.Helper()
	s := &site{Site: enroltest.New(t, o, 20), maker: newMaker(t, "Maker")}
	cfg := acme.Config{Enroller: s.Enroller(bootstrap.Rules{Protocol: "acme"}), Store: s.DB.Acme(), Tenant: "main", Now: s.Now,
		Attestation: map[string]*x509.CertPool{"step": s.maker.pool(), "tpm": s.maker.pool(), "apple": s.maker.pool()}}
	if change != nil {
		change(&cfg)
	}
	var err error
	if s.server, err = acme.New(cfg); err != nil {
		t.Fatal(err)
	}
	s.host = s.PlainTLS(t, s.server.Handler())
	s.http = &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.Pool()}}, Timeout: time.Minute}
	t.Cleanup(s.http.CloseIdleConnections)
	return s
}

func (s *site) url(path string) string { return "https://" + s.host + "/acme/" + path }

// loopback lets http-01 reach the tests, at the port that they listen on.
func loopback(port int, r *net.Resolver) func(*acme.Config) {
	return func(c *acme.Config) {
		c.Sites = &acme.Sites{Suffixes: []string{"plant.example.com"}, Networks: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}, Resolver: r, Port: port}
	}
}

// maker makes cards that attest their keys.
type maker struct {
	t    testing.TB
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	ak   *rsa.PrivateKey // of its TPMs
}

func newMaker(t testing.TB, name string) *maker {
	t.Helper()
	m := &maker{t: t, key: catest.NewKey(t)}
	m.cert = m.sign(&x509.Certificate{Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign, NotAfter: time.Now().Add(24 * time.Hour)}, m.key.Public())
	return m
}

func (m *maker) pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(m.cert)
	return p
}

func (m *maker) sign(tmpl *x509.Certificate, pub crypto.PublicKey) *x509.Certificate {
	m.t.Helper()
	parent := m.cert
	if parent == nil {
		parent = tmpl
	}
	n, err := rand.Int(rand.Reader, big.NewInt(1<<62))
	if err != nil {
		m.t.Fatal(err)
	}
	tmpl.SerialNumber = n
	if tmpl.NotBefore.IsZero() {
		tmpl.NotBefore = time.Now().Add(-48 * time.Hour)
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, parent, pub, m.key)
	if err != nil {
		m.t.Fatal(err)
	}
	return enroltest.Certificate(m.t, der)
}

// card is what attests the key: the certificate that the maker's card made for it.
func (m *maker) card(serial string, pub crypto.PublicKey, change func(*x509.Certificate)) *x509.Certificate {
	m.t.Helper()
	value, err := asn1.Marshal(struct{ DeviceID string }{serial})
	if err != nil {
		m.t.Fatal(err)
	}
	tmpl := &x509.Certificate{Subject: pkix.Name{CommonName: "attestation"}, NotAfter: time.Now().Add(time.Hour),
		ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 37476, 9000, 64, 4}, Value: value}}}
	if change != nil {
		change(tmpl)
	}
	return m.sign(tmpl, pub)
}

func b64(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

func mustCBOR(t testing.TB, v any) []byte {
	t.Helper()
	b, err := cbor.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// response is the answer to device-attest-01 with a card.
func response(t testing.TB, leaf *x509.Certificate, key *ecdsa.PrivateKey, keyAuth string) map[string]any {
	t.Helper()
	return object(t, map[string]any{"fmt": "step", "attStmt": map[string]any{"x5c": [][]byte{leaf.Raw}, "alg": -7, "sig": mustCBOR(t, signASN1(t, key, []byte(keyAuth)))}})
}

func object(t testing.TB, v any) map[string]any {
	return map[string]any{"attObj": b64(mustCBOR(t, v))}
}

func signASN1(t testing.TB, key *ecdsa.PrivateKey, message []byte) []byte {
	t.Helper()
	sum := sha256.Sum256(message)
	sig, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
	if err != nil {
		t.Fatal(err)
	}
	return sig
}

// client is an ACME client that can do everything wrong.
type client struct {
	t    testing.TB
	s    *site
	key  crypto.Signer
	kid  string
	next string // nonce
}

// answer is what came back.
type answer struct {
	status int
	header http.Header
	raw    []byte
	body   map[string]any
}

// kind is the end of the problem's type.
func (a *answer) kind() string {
	if a.status < 400 {
		return ""
	}
	text, _ := a.body["type"].(string)
	return strings.TrimPrefix(text, "urn:ietf:params:acme:error:")
}

func (a *answer) text(name string) string {
	s, _ := a.body[name].(string)
	return s
}

func (a *answer) list(name string) (out []string) {
	all, _ := a.body[name].([]any)
	for _, v := range all {
		out = append(out, fmt.Sprint(v))
	}
	return out
}

func (s *site) client(t testing.TB) *client { return &client{t: t, s: s, key: catest.NewKey(t)} }

func (c *client) nonce() string {
	c.t.Helper()
	if n := c.next; n != "" {
		c.next = ""
		return n
	}
	r, err := c.s.http.Head(c.s.url("new-nonce"))
	if err != nil {
		c.t.Fatal(err)
	}
	r.Body.Close()
	return r.Header.Get("Replay-Nonce")
}

func jwk(pub crypto.PublicKey) map[string]any {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		point, err := k.Bytes() // 4, x, y
		if err != nil {
			panic(err)
		}
		size := len(point) / 2
		return map[string]any{"kty": "EC", "crv": k.Curve.Params().Name, "x": b64(point[1 : 1+size]), "y": b64(point[1+size:])}
	case *rsa.PublicKey:
		return map[string]any{"kty": "RSA", "n": b64(k.N.Bytes()), "e": b64(big.NewInt(int64(k.E)).Bytes())}
	}
	panic("no such key")
}

func thumbprint(t testing.TB, pub crypto.PublicKey) string {
	t.Helper()
	raw, err := json.Marshal(jwk(pub)) // sorted, as RFC 7638 wants it
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(raw)
	return b64(sum[:])
}

// jws signs a message; header members with the value nil are left out.
func jws(t testing.TB, key crypto.Signer, header map[string]any, payload []byte) []byte {
	t.Helper()
	h := map[string]any{}
	for k, v := range header {
		if v != nil {
			h[k] = v
		}
	}
	raw, err := json.Marshal(h)
	if err != nil {
		t.Fatal(err)
	}
	input := b64(raw) + "." + b64(payload)
	var sig []byte
	switch k := key.(type) {
	case *ecdsa.PrivateKey:
		var sum []byte
		if k.Curve == elliptic.P384() {
			h := sha512.Sum384([]byte(input))
			sum = h[:]
		} else {
			h := sha256.Sum256([]byte(input))
			sum = h[:]
		}
		r, v, err := ecdsa.Sign(rand.Reader, k, sum)
		if err != nil {
			t.Fatal(err)
		}
		size := (k.Curve.Params().BitSize + 7) / 8
		sig = append(r.FillBytes(make([]byte, size)), v.FillBytes(make([]byte, size))...)
	case *rsa.PrivateKey:
		sum := sha256.Sum256([]byte(input))
		if sig, err = rsa.SignPKCS1v15(nil, k, crypto.SHA256, sum[:]); err != nil {
			t.Fatal(err)
		}
	}
	out, err := json.Marshal(map[string]string{"protected": b64(raw), "payload": b64(payload), "signature": b64(sig)})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// send posts octets.
func (c *client) send(url string, body []byte) *answer {
	c.t.Helper()
	r, err := c.s.http.Post(url, "application/jose+json", bytes.NewReader(body))
	if err != nil {
		c.t.Error(err)
		return &answer{}
	}
	defer r.Body.Close()
	a := &answer{status: r.StatusCode, header: r.Header}
	if a.raw, err = io.ReadAll(r.Body); err != nil {
		c.t.Error(err)
	}
	json.Unmarshal(a.raw, &a.body)
	return a
}

// header is what a request's protected header has to be.
func (c *client) header(url string) map[string]any {
	h := map[string]any{"alg": "ES256", "nonce": c.nonce(), "url": url}
	switch k := c.key.(type) {
	case *rsa.PrivateKey:
		h["alg"] = "RS256"
	case *ecdsa.PrivateKey:
		if k.Curve == elliptic.P384() {
			h["alg"] = "ES384"
		}
	}
	if c.kid != "" {
		h["kid"] = c.kid
	} else {
		h["jwk"] = jwk(c.key.Public())
	}
	return h
}

// post is a good request; nil is POST-as-GET.
func (c *client) post(url string, payload any) *answer { return c.postWith(url, payload, nil) }

func (c *client) postWith(url string, payload any, change func(h map[string]any)) *answer {
	c.t.Helper()
	var raw []byte
	if payload != nil {
		var err error
		if raw, err = json.Marshal(payload); err != nil {
			c.t.Fatal(err)
		}
	}
	h := c.header(url)
	if change != nil {
		change(h)
	}
	a := c.send(url, jws(c.t, c.key, h, raw))
	c.next = a.header.Get("Replay-Nonce")
	return a
}

// want fails unless the answer is the problem, or the status where kind is "".
func (a *answer) want(t testing.TB, what string, status int, kind string) {
	t.Helper()
	if a.status != status || a.kind() != kind {
		t.Errorf("%s: %d %q, want %d %q: %.300s", what, a.status, a.kind(), status, kind, a.raw)
	}
}

func (a *answer) must(t testing.TB, what string, status int) *answer {
	t.Helper()
	if a.status != status {
		t.Fatalf("%s: %d: %s", what, a.status, a.raw)
	}
	return a
}

// register makes an account; key may be nil.
func (c *client) register(k *externalKey) *client {
	c.t.Helper()
	a := c.post(c.s.url("new-account"), c.account(k)).must(c.t, "new account", 201)
	c.kid = a.header.Get("Location")
	return c
}

// externalKey is an external account key in clear.
type externalKey struct {
	state.Key
	secret []byte
}

func (s *site) key(t testing.TB, r acme.KeyRequest) *externalKey {
	t.Helper()
	k, secret, err := s.server.CreateKey(t.Context(), enroltest.Officer, r)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := base64.RawURLEncoding.DecodeString(secret.Reveal())
	if err != nil {
		t.Fatal(err)
	}
	return &externalKey{k, raw}
}

// account is the payload of newAccount.
func (c *client) account(k *externalKey) map[string]any {
	out := map[string]any{"termsOfServiceAgreed": true, "contact": []string{"mailto:ops@example.com"}}
	if k != nil {
		out["externalAccountBinding"] = c.binding(k.ID, k.secret, "HS256", c.s.url("new-account"), jwk(c.key.Public()))
	}
	return out
}

func (c *client) binding(id string, secret []byte, alg, url string, payload any) json.RawMessage {
	c.t.Helper()
	raw, err := json.Marshal(payload)
	if err != nil {
		c.t.Fatal(err)
	}
	header, err := json.Marshal(map[string]any{"alg": alg, "kid": id, "url": url})
	if err != nil {
		c.t.Fatal(err)
	}
	m := hmac.New(sha256.New, secret)
	m.Write([]byte(b64(header) + "." + b64(raw)))
	out, err := json.Marshal(map[string]string{"protected": b64(header), "payload": b64(raw), "signature": b64(m.Sum(nil))})
	if err != nil {
		c.t.Fatal(err)
	}
	return out
}

// order is a new order with its first authorization read.
type order struct {
	url, finalize, authz, challenge, token string
	c                                      *client
}

func identifiers(kind string, values ...string) map[string]any {
	var ids []map[string]string
	for _, v := range values {
		ids = append(ids, map[string]string{"type": kind, "value": v})
	}
	return map[string]any{"identifiers": ids}
}

func device(unit string) map[string]any { return identifiers("permanent-identifier", unit) }

func (c *client) order(payload map[string]any, kind string) *order {
	c.t.Helper()
	a := c.post(c.s.url("new-order"), payload).must(c.t, "new order", 201)
	o := &order{url: a.header.Get("Location"), finalize: a.text("finalize"), authz: a.list("authorizations")[0], c: c}
	z := c.post(o.authz, nil).must(c.t, "authorization", 200)
	all, _ := z.body["challenges"].([]any)
	for _, v := range all {
		if ch := v.(map[string]any); ch["type"] == kind {
			o.challenge, o.token = ch["url"].(string), ch["token"].(string)
		}
	}
	if o.challenge == "" {
		c.t.Fatalf("no challenge %s in %s", kind, z.raw)
	}
	return o
}

// keyAuth is the key authorization (RFC 8555, Section 8.1).
func (o *order) keyAuth() string { return o.token + "." + thumbprint(o.c.t, o.c.key.Public()) }

// statuses are those of the challenge, the authorization and the order.
func (o *order) statuses() (challenge, authorization, order string) {
	o.c.t.Helper()
	return o.c.post(o.challenge, nil).text("status"), o.c.post(o.authz, nil).text("status"), o.c.post(o.url, nil).text("status")
}

func csrOf(t testing.TB, key crypto.Signer, cn string, names ...string) map[string]any {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: cn}, DNSNames: names}, key)
	if err != nil {
		t.Fatal(err)
	}
	return map[string]any{"csr": b64(der)}
}

// birth gives a unit its birth certificate.
func (s *site) birth(t testing.TB, unit string) { s.IssueIDevID(t, unit) }

// attested orders a device, shows a card and finalizes; the answer is that of the
// certificate's download.
func (c *client) attested(unit string, key *ecdsa.PrivateKey) *answer {
	c.t.Helper()
	o := c.order(device(unit), "device-attest-01")
	leaf := c.s.maker.card(unit, key.Public(), nil)
	if a := c.post(o.challenge, response(c.t, leaf, key, o.keyAuth())); a.status != 200 || a.text("status") != "valid" {
		c.t.Fatalf("challenge: %d %s", a.status, a.raw)
	}
	f := c.post(o.finalize, csrOf(c.t, key, ""))
	if f.status != 200 || f.text("status") != "valid" {
		return f
	}
	return c.post(f.text("certificate"), nil)
}

type extension = pkix.Extension

// leafOf is the first certificate of a chain in PEM.
func leafOf(t testing.TB, chain []byte) *x509.Certificate {
	t.Helper()
	b, _ := pem.Decode(chain)
	if b == nil {
		t.Fatalf("no certificate in %q", chain)
	}
	return enroltest.Certificate(t, b.Bytes)
}
