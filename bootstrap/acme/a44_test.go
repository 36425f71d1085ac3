package acme_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"fmt"
	"math/big"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-tpm/legacy/tpm2"

	"hallmark/bootstrap/acme"
	"hallmark/bootstrap/bootstraptest"
	"hallmark/ca/catest"
	"hallmark/ca/profile"
	"hallmark/internal/freeport"
)

var (
	oidSAN = asn1.ObjectIdentifier{2, 5, 29, 17}
	oidEKU = asn1.ObjectIdentifier{2, 5, 29, 37}
	oidAIK = asn1.ObjectIdentifier{2, 23, 133, 8, 3}
)

func marshal(t testing.TB, v any, params string) []byte {
	t.Helper()
	b, err := asn1.MarshalWithParams(v, params)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// tpm is a TPM with an attestation key, made of software.
type tpm struct {
	ak   *rsa.PrivateKey
	cert *x509.Certificate
}

// newTPM gives it a certificate for a unit; "" names none. purposes are its extended
// key usage.
func (m *maker) newTPM(unit string, purposes []asn1.ObjectIdentifier) *tpm {
	m.t.Helper()
	if m.ak == nil {
		var err error
		if m.ak, err = rsa.GenerateKey(rand.Reader, 2048); err != nil {
			m.t.Fatal(err)
		}
	}
	k := &tpm{ak: m.ak}
	text := func(arc int, value string) pkix.RelativeDistinguishedNameSET {
		return pkix.RelativeDistinguishedNameSET{{Type: asn1.ObjectIdentifier{2, 23, 133, 2, arc}, Value: value}}
	}
	name := marshal(m.t, pkix.RDNSequence{text(1, "id:FFFFF1D0"), text(2, "soft"), text(3, "id:00000001")}, "")
	var names []asn1.RawValue
	names = append(names, asn1.RawValue{Class: 2, Tag: 4, IsCompound: true, Bytes: name})
	if unit != "" {
		type permanent struct {
			Value string `asn1:"utf8"`
		}
		value := asn1.RawValue{Class: 2, Tag: 0, IsCompound: true, Bytes: marshal(m.t, permanent{unit}, "")}
		names = append(names, asn1.RawValue{Class: 2, Tag: 0, IsCompound: true, Bytes: append(marshal(m.t, asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 8, 3}, ""), marshal(m.t, value, "")...)})
	}
	k.cert = m.sign(&x509.Certificate{NotAfter: time.Now().Add(time.Hour), KeyUsage: x509.KeyUsageDigitalSignature, BasicConstraintsValid: true,
		ExtraExtensions: []pkix.Extension{{Id: oidSAN, Critical: true, Value: marshal(m.t, names, "")}, {Id: oidEKU, Value: marshal(m.t, purposes, "")}}}, k.ak.Public())
	return k
}

// certify is the attestation of a key; change may make it something else.
func (k *tpm) certify(t testing.TB, key *ecdsa.PrivateKey, keyAuth string, change func(*tpm2.AttestationData)) map[string]any {
	t.Helper()
	pub, err := tpm2.Public{Type: tpm2.AlgECC, NameAlg: tpm2.AlgSHA256, Attributes: tpm2.FlagFixedTPM | tpm2.FlagFixedParent | tpm2.FlagSensitiveDataOrigin | tpm2.FlagUserWithAuth | tpm2.FlagSign,
		ECCParameters: &tpm2.ECCParams{Sign: &tpm2.SigScheme{Alg: tpm2.AlgECDSA, Hash: tpm2.AlgSHA256}, CurveID: tpm2.CurveNISTP256, Point: tpm2.ECPoint{XRaw: key.X.FillBytes(make([]byte, 32)), YRaw: key.Y.FillBytes(make([]byte, 32))}}}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(pub)
	name := tpm2.Name{Digest: &tpm2.HashValue{Alg: tpm2.AlgSHA256, Value: sum[:]}}
	extra := sha256.Sum256([]byte(keyAuth))
	data := tpm2.AttestationData{Magic: 0xff544347, Type: tpm2.TagAttestCertify, QualifiedSigner: name, ExtraData: extra[:], AttestedCertifyInfo: &tpm2.CertifyInfo{Name: name, QualifiedName: name}}
	if change != nil {
		change(&data)
	}
	info, err := data.Encode()
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(info)
	pkcs1, err := rsa.SignPKCS1v15(nil, k.ak, crypto.SHA256, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	sig, err := tpm2.Signature{Alg: tpm2.AlgRSASSA, RSA: &tpm2.SignatureRSA{HashAlg: tpm2.AlgSHA256, Signature: pkcs1}}.Encode()
	if err != nil {
		t.Fatal(err)
	}
	return object(t, map[string]any{"fmt": "tpm", "attStmt": map[string]any{"ver": "2.0", "alg": -257, "x5c": [][]byte{k.cert.Raw}, "sig": sig, "certInfo": info, "pubArea": pub}})
}

// phone attests a key in Apple's form; without a nonce for "".
func (m *maker) phone(serial string, key *ecdsa.PrivateKey, token string) map[string]any {
	extensions := []pkix.Extension{{Id: asn1.ObjectIdentifier{1, 2, 840, 113635, 100, 8, 9, 1}, Value: []byte(serial)}}
	if token != "" {
		sum := sha256.Sum256([]byte(token))
		extensions = append(extensions, pkix.Extension{Id: asn1.ObjectIdentifier{1, 2, 840, 113635, 100, 8, 11, 1}, Value: sum[:]})
	}
	leaf := m.sign(&x509.Certificate{Subject: pkix.Name{CommonName: "phone"}, NotAfter: time.Now().Add(time.Hour), ExtraExtensions: extensions}, key.Public())
	return object(m.t, map[string]any{"fmt": "apple", "attStmt": map[string]any{"x5c": [][]byte{leaf.Raw}}})
}

// raw is a response of octets that no encoder makes.
func raw(b ...byte) map[string]any { return map[string]any{"attObj": b64(b)} }

// A44: whatever is wrong with an attestation, the challenge is invalid, the order
// never gets ready, and nothing breaks. What is right gets a certificate, in each
// format.
func TestACME_Attestations_A44(t *testing.T) {
	s := newSite(t, nil, bootstraptest.Options{})
	s.birth(t, "U-001")
	c := s.client(t).register(nil)
	key := catest.NewKey(t)
	foreign := newMaker(t, "Maker") // the same name, another key
	card := func(m *maker, serial string, change func(*x509.Certificate)) func(*order) map[string]any {
		return func(o *order) map[string]any {
			return response(t, m.card(serial, key.Public(), change), key, o.keyAuth())
		}
	}
	serialExtension := func(id asn1.ObjectIdentifier, value []byte) func(*x509.Certificate) {
		return func(c *x509.Certificate) { c.ExtraExtensions = []pkix.Extension{{Id: id, Value: value}} }
	}
	managed := asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 37476, 9000, 64, 4}
	yubico := asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 41482, 3, 7}
	step := func(statement func(o *order) map[string]any) func(*order) map[string]any {
		return func(o *order) map[string]any {
			return object(t, map[string]any{"fmt": "step", "attStmt": statement(o)})
		}
	}
	leaf := s.maker.card("U-001", key.Public(), nil)
	p384, err := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	short, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	aik := []asn1.ObjectIdentifier{oidAIK}
	good := s.maker.newTPM("U-001", aik)
	quote := func(d *tpm2.AttestationData) {
		d.Type, d.AttestedCertifyInfo = tpm2.TagAttestQuote, nil
		d.AttestedQuoteInfo = &tpm2.QuoteInfo{PCRSelection: tpm2.PCRSelection{Hash: tpm2.AlgSHA256}, PCRDigest: make([]byte, 32)}
	}
	former := c.order(device("U-001"), "device-attest-01")
	fixed := func(v map[string]any) func(*order) map[string]any { return func(*order) map[string]any { return v } }
	length := append([]byte{0x5b}, binary.BigEndian.AppendUint64(nil, 1<<63)...)
	for _, x := range []struct {
		name   string
		answer func(o *order) map[string]any
	}{
		{"a foreign root of the same name", card(foreign, "U-001", nil)},
		{"another serial number", card(s.maker, "U-002", nil)},
		{"a serial number that begins alike", card(s.maker, "U-0011", nil)},
		{"expired", card(s.maker, "U-001", func(c *x509.Certificate) { c.NotAfter = time.Now().Add(-time.Hour) })},
		{"not yet valid", card(s.maker, "U-001", func(c *x509.Certificate) {
			c.NotBefore, c.NotAfter = time.Now().Add(time.Hour), time.Now().Add(2*time.Hour)
		})},
		{"replayed", func(*order) map[string]any { return response(t, leaf, key, former.keyAuth()) }},
		{"for another account", func(o *order) map[string]any {
			return response(t, leaf, key, o.token+"."+thumbprint(t, key.Public()))
		}},
		{"another signer", func(o *order) map[string]any { return response(t, leaf, catest.NewKey(t), o.keyAuth()) }},
		{"an empty x5c", step(func(*order) map[string]any { return map[string]any{"x5c": [][]byte{}} })},
		{"no x5c", step(func(*order) map[string]any { return map[string]any{} })},
		{"an x5c of text", step(func(*order) map[string]any { return map[string]any{"x5c": []string{"a"}} })},
		{"an x5c of rubbish", step(func(*order) map[string]any { return map[string]any{"x5c": [][]byte{{1, 2, 3}}} })},
		{"an x5c of 17", step(func(*order) map[string]any { return map[string]any{"x5c": make([][]byte, 17)} })},
		{"no signature", step(func(*order) map[string]any { return map[string]any{"x5c": [][]byte{leaf.Raw}} })},
		{"a signature that is no CBOR", step(func(*order) map[string]any { return map[string]any{"x5c": [][]byte{leaf.Raw}, "sig": []byte{0xff}} })},
		{"no serial number", card(s.maker, "", func(c *x509.Certificate) { c.ExtraExtensions = nil })},
		{"a serial number with more behind it", card(s.maker, "", serialExtension(managed, append(marshal(t, struct{ ID string }{"U-001"}, ""), 5, 0)))},
		{"a card's number with more behind it", card(s.maker, "", serialExtension(yubico, append(marshal(t, 7, ""), 5, 0)))},
		{"a serial number that is none", card(s.maker, "", serialExtension(yubico, []byte{0x02, 0x7f}))},
		{"a huge serial number", card(s.maker, "", serialExtension(yubico, marshal(t, new(big.Int).Lsh(big.NewInt(1), 200), "")))},
		{"a curve that is not taken", func(o *order) map[string]any {
			return response(t, s.maker.card("U-001", p384.Public(), nil), p384, o.keyAuth())
		}},
		{"a short RSA key", func(o *order) map[string]any {
			return response(t, s.maker.card("U-001", short.Public(), nil), key, o.keyAuth())
		}},
		{"an unknown format", func(*order) map[string]any {
			return object(t, map[string]any{"fmt": "packed", "attStmt": map[string]any{}})
		}},
		{"no format", func(*order) map[string]any { return object(t, map[string]any{"attStmt": map[string]any{}}) }},
		{"a format in other letters", func(*order) map[string]any {
			return object(t, map[string]any{"FMT": "step", "attStmt": map[string]any{}})
		}},
		{"a CBOR bomb of arrays", fixed(raw([]byte(strings.Repeat("\x81", 20_000))...))},
		{"a CBOR bomb of indefinite lengths", fixed(raw([]byte(strings.Repeat("\x9f", 20_000))...))},
		{"a CBOR bomb of tags", fixed(raw([]byte(strings.Repeat("\xc1", 20_000))...))},
		{"a map of 2^63", fixed(raw(append([]byte{0xbb}, length[1:]...)...))},
		{"octets of length 2^63", fixed(raw(append([]byte{0xa1, 0x63, 'f', 'm', 't'}, length...)...))},
		{"a number", fixed(raw(1))},
		{"null", fixed(raw(0xf6))},
		{"a format twice", fixed(raw([]byte("\xa2\x63fmt\x64step\x63fmt\x63tpm")...))},
		{"half of one", fixed(raw(0xa2, 0x63))},
		{"nothing", fixed(map[string]any{"attObj": ""})},
		{"no base64", fixed(map[string]any{"attObj": "***"})},
		{"a number for attObj", fixed(map[string]any{"attObj": 1})},
		{"an empty response", fixed(map[string]any{})},
		{"the client's error", fixed(map[string]any{"error": "no"})},
		{"a TPM of a foreign root", func(o *order) map[string]any {
			return foreign.newTPM("U-001", aik).certify(t, key, o.keyAuth(), nil)
		}},
		{"a TPM whose extended key usage is empty [step-ca CVE-2026-40097]", func(o *order) map[string]any {
			return s.maker.newTPM("U-001", []asn1.ObjectIdentifier{}).certify(t, key, o.keyAuth(), nil)
		}},
		{"a TPM with another purpose", func(o *order) map[string]any {
			return s.maker.newTPM("U-001", []asn1.ObjectIdentifier{{1, 3, 6, 1, 5, 5, 7, 3, 2}}).certify(t, key, o.keyAuth(), nil)
		}},
		{"a TPM of another unit", func(o *order) map[string]any {
			return s.maker.newTPM("U-002", aik).certify(t, key, o.keyAuth(), nil)
		}},
		{"a TPM that names no unit", func(o *order) map[string]any { return s.maker.newTPM("", aik).certify(t, key, o.keyAuth(), nil) }},
		{"a quote over no PCRs [go-attestation CVE-2022-0317]", func(o *order) map[string]any { return good.certify(t, key, o.keyAuth(), quote) }},
		{"a TPM's replay", func(*order) map[string]any { return good.certify(t, key, former.keyAuth(), nil) }},
		{"a TPM's other magic", func(o *order) map[string]any {
			return good.certify(t, key, o.keyAuth(), func(d *tpm2.AttestationData) { d.Magic = 1 })
		}},
		{"a TPM that certifies another key", func(o *order) map[string]any {
			other := sha256.Sum256([]byte("x"))
			return good.certify(t, key, o.keyAuth(), func(d *tpm2.AttestationData) {
				d.AttestedCertifyInfo.Name = tpm2.Name{Digest: &tpm2.HashValue{Alg: tpm2.AlgSHA256, Value: other[:]}}
			})
		}},
		{"a TPM with a signature of another kind", func(o *order) map[string]any {
			sig, err := tpm2.Signature{Alg: tpm2.AlgECDSA, ECC: &tpm2.SignatureECC{HashAlg: tpm2.AlgSHA256, R: big.NewInt(1), S: big.NewInt(1)}}.Encode()
			if err != nil {
				t.Fatal(err)
			}
			return object(t, map[string]any{"fmt": "tpm", "attStmt": map[string]any{"ver": "2.0", "alg": -257, "x5c": [][]byte{good.cert.Raw}, "sig": sig, "certInfo": []byte("\xffTCG\x80\x17"), "pubArea": []byte{1}}})
		}},
		{"a phone without a nonce", func(*order) map[string]any { return s.maker.phone("U-001", key, "") }},
		{"a phone's replay", func(*order) map[string]any { return s.maker.phone("U-001", key, former.token) }},
		{"another phone", func(o *order) map[string]any { return s.maker.phone("U-002", key, o.token) }},
		{"a phone of a foreign root", func(o *order) map[string]any { return foreign.phone("U-001", key, o.token) }},
	} {
		o := c.order(device("U-001"), "device-attest-01")
		a := c.post(o.challenge, x.answer(o))
		problem, _ := a.body["error"].(map[string]any)
		if a.status != 200 || a.text("status") != "invalid" || problem["type"] != "urn:ietf:params:acme:error:badAttestationStatement" {
			t.Errorf("%s: %d %s", x.name, a.status, a.raw)
		}
		if ch, az, order := o.statuses(); ch != "invalid" || az != "invalid" || order != "invalid" {
			t.Errorf("%s: challenge %s, authorization %s, order %s: %s", x.name, ch, az, order, c.post(o.challenge, nil).raw)
		}
		// It stays so, whatever comes after it.
		if a := c.post(o.challenge, response(t, leaf, key, o.keyAuth())); a.text("status") != "invalid" {
			t.Errorf("%s, and then the truth: %s", x.name, a.raw)
		}
		c.post(o.finalize, csrOf(t, key, "")).want(t, x.name+", finalized", 403, "orderNotReady")
	}
	if n := len(s.Records(t, "U-001", profile.LDevID)); n != 0 {
		t.Errorf("%d certificates", n)
	}
	for i, x := range []struct {
		name   string
		answer func(o *order, key *ecdsa.PrivateKey) map[string]any
	}{
		{"step", func(o *order, key *ecdsa.PrivateKey) map[string]any {
			return response(t, s.maker.card("U-001", key.Public(), nil), key, o.keyAuth())
		}},
		{"tpm", func(o *order, key *ecdsa.PrivateKey) map[string]any { return good.certify(t, key, o.keyAuth(), nil) }},
		{"apple", func(o *order, key *ecdsa.PrivateKey) map[string]any { return s.maker.phone("U-001", key, o.token) }},
	} {
		key := catest.NewKey(t)
		o := c.order(device("U-001"), "device-attest-01")
		c.post(o.challenge, x.answer(o, key)).must(t, x.name, 200)
		if ch, az, order := o.statuses(); ch != "valid" || az != "valid" || order != "ready" {
			t.Errorf("%s: challenge %s, authorization %s, order %s: %s", x.name, ch, az, order, c.post(o.challenge, nil).raw)
		}
		c.post(o.finalize, csrOf(t, key, "U-001")).want(t, x.name, 200, "")
		// The same key again has the same certificate; another has another.
		again := c.order(device("U-001"), "device-attest-01")
		c.post(again.challenge, x.answer(again, key)).must(t, x.name, 200)
		c.post(again.finalize, csrOf(t, key, "")).want(t, x.name+" again", 200, "")
		r := s.Records(t, "U-001", profile.LDevID)
		if len(r) != i+1 || r[i].Origin != string(profile.OriginAttested) {
			t.Fatalf("%s: %d certificates, the last one of origin %s", x.name, len(r), r[len(r)-1].Origin)
		}
	}
}

// A58: what http-01 may dial is checked after the name was resolved, and it is what
// is dialled; no redirect is followed, and the time and the octets are bounded.
func TestACME_SitesAreDialledWhereTheyMayBe_A58(t *testing.T) {
	n := newNames(t)
	port, err := freeport.Take(1)
	if err != nil {
		t.Fatal(err)
	}
	s := newSite(t, func(c *acme.Config) {
		c.Sites = &acme.Sites{Suffixes: []string{"plant.example.com"}, Resolver: n.resolver(), Port: port,
			Networks: []netip.Prefix{netip.MustParsePrefix("127.0.0.1/32")}}
	}, bootstraptest.Options{})
	var hits atomic.Int64
	var handle atomic.Pointer[http.HandlerFunc]
	web := &http.Server{Addr: fmt.Sprintf(":%d", port), ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hits.Add(1)
		(*handle.Load())(w, r)
	})}
	done := make(chan struct{})
	go func() { defer close(done); web.ListenAndServe() }()
	t.Cleanup(func() { web.Close(); <-done })
	c := s.client(t).register(nil)
	key := catest.NewKey(t)
	try := func(kind, host string, serve func(o *order) http.HandlerFunc) (string, *order) {
		t.Helper()
		o := c.order(identifiers("dns", host), kind)
		h := serve(o)
		handle.Store(&h)
		a := c.post(o.challenge, map[string]any{}).must(t, host, 200)
		problem, _ := a.body["error"].(map[string]any)
		text, _ := problem["type"].(string)
		return a.text("status") + " " + strings.TrimPrefix(text, "urn:ietf:params:acme:error:"), o
	}
	right := func(o *order) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, o.keyAuth()) }
	}
	for i, addresses := range [][]string{{"127.0.0.2"}, {"127.0.1.1"}, {"169.254.169.254"}, {"10.0.0.1"}, {"192.168.1.1"}, {"0.0.0.0"}, {"224.0.0.1"}, {"8.8.8.8"}, {}} {
		host := fmt.Sprintf("h%d.plant.example.com", i)
		n.set(host, addresses...)
		if got, _ := try("http-01", host, right); got != "invalid connection" {
			t.Errorf("%v: %s", addresses, got)
		}
	}
	// A name that binds anew is looked up once: what was checked is what is dialled.
	n.set("rebind.plant.example.com", "10.0.0.1", "127.0.0.1")
	if got, _ := try("http-01", "rebind.plant.example.com", right); got != "invalid connection" {
		t.Errorf("a name that binds anew: %s", got)
	}
	if hits.Load() != 0 {
		t.Errorf("%d requests came through", hits.Load())
	}
	for _, h := range []string{"r.plant.example.com", "w.plant.example.com", "l.plant.example.com", "e.plant.example.com", "gw.plant.example.com"} {
		n.set(h, "127.0.0.1")
	}
	if got, _ := try("http-01", "r.plant.example.com", func(o *order) http.HandlerFunc {
		return func(w http.ResponseWriter, r *http.Request) {
			if r.URL.Path == "/x" {
				right(o)(w, r)
				return
			}
			http.Redirect(w, r, "/x", http.StatusFound)
		}
	}); got != "invalid connection" {
		t.Errorf("a redirect: %s", got)
	}
	if got, _ := try("http-01", "w.plant.example.com", func(*order) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "x") }
	}); got != "invalid rejectedIdentifier" {
		t.Errorf("another text: %s", got)
	}
	if got, _ := try("http-01", "l.plant.example.com", func(o *order) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, o.keyAuth(), strings.Repeat(" ", 70_000), "x")
		}
	}); got != "valid " { // what is beyond 64 KiB is not read
		t.Errorf("a long text: %s", got)
	}
	if hits.Load() != 3 {
		t.Errorf("%d requests", hits.Load())
	}
	got, o := try("http-01", "gw.plant.example.com", right)
	if got != "valid " {
		t.Fatalf("the right text: %s", got)
	}
	c.post(o.finalize, csrOf(t, key, "", "gw.plant.example.com", "more.plant.example.com")).want(t, "a name more", 400, "badCSR")
	c.post(o.finalize, csrOf(t, key, "more.plant.example.com", "gw.plant.example.com")).want(t, "a common name more", 400, "badCSR")
	c.post(o.finalize, csrOf(t, key, "")).want(t, "no name", 400, "badCSR")
	f := c.post(o.finalize, csrOf(t, key, "", "GW.plant.example.com")).must(t, "finalize", 200)
	leaf := leafOf(t, c.post(f.text("certificate"), nil).must(t, "certificate", 200).raw)
	if len(leaf.DNSNames) != 1 || leaf.DNSNames[0] != "gw.plant.example.com" || len(leaf.ExtKeyUsage) != 1 || leaf.ExtKeyUsage[0] != x509.ExtKeyUsageServerAuth {
		t.Errorf("%v %v", leaf.DNSNames, leaf.ExtKeyUsage)
	}
	// dns-01 dials nobody.
	none := func(*order) http.HandlerFunc { return func(http.ResponseWriter, *http.Request) {} }
	if got, _ := try("dns-01", "d.plant.example.com", none); got != "invalid dns" {
		t.Errorf("no text record: %s", got)
	}
	n.text("_acme-challenge.d.plant.example.com", "x")
	if got, _ := try("dns-01", "d.plant.example.com", none); got != "invalid rejectedIdentifier" {
		t.Errorf("another text record: %s", got)
	}
	if got, _ := try("dns-01", "d.plant.example.com", func(o *order) http.HandlerFunc {
		sum := sha256.Sum256([]byte(o.keyAuth()))
		n.text("_acme-challenge.d.plant.example.com", "x", b64(sum[:]))
		return none(o)
	}); got != "valid " {
		t.Errorf("the right text record: %s", got)
	}
}
