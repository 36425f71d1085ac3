package crl_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"io"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"hallmark/ca"
	"hallmark/ca/catest"
	"hallmark/ca/profile"
	"hallmark/crl"
)

// answering is a live responder on a bench.
type answering struct {
	*bench
	ocsp *crl.OCSP
	srv  *httptest.Server
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	down atomic.Bool
}

func newAnswering(t *testing.T, change func(*crl.OCSPConfig)) *answering {
	a := &answering{bench: newBench(t), key: catest.NewKey(t)}
	a.renew()
	cfg := crl.OCSPConfig{Store: a.DB, CA: a.CA, Set: a.set, Now: a.clock.now, Responder: func(context.Context, string) (crypto.Signer, *x509.Certificate, error) {
		if a.down.Load() {
			return nil, nil, errors.New("token is gone")
		}
		return a.key, a.cert, nil
	}}
	if change != nil {
		change(&cfg)
	}
	a.ocsp = crl.NewOCSP(cfg)
	a.srv = httptest.NewServer(a.ocsp)
	t.Cleanup(a.srv.Close)
	return a
}

// renew issues the responder's certificate under the device CA.
func (a *answering) renew() {
	a.t.Helper()
	spki, _ := x509.MarshalPKIXPublicKey(a.key.Public())
	out, err := a.CA.Issue(a.t.Context(), ca.Request{
		Identity: ca.Identity{Tenant: officer.Tenant, Holder: "ocsp-device-1", Profile: string(profile.OCSPResponder), Slot: "A"},
		Subject:  profile.Subject{Organization: "Example", CommonName: "ocsp"}, SPKI: spki, Key: a.key.Public(), Authority: catest.Device,
	})
	if err != nil {
		a.t.Fatal(err)
	}
	if a.cert, err = x509.ParseCertificate(out.DER); err != nil {
		a.t.Fatal(err)
	}
}

func (a *answering) post(in []byte) *http.Response {
	a.t.Helper()
	r, err := http.Post(a.srv.URL+"/ocsp/"+catest.Device, "application/ocsp-request", bytes.NewReader(in))
	if err != nil {
		a.t.Fatal(err)
	}
	return r
}

func body(t *testing.T, r *http.Response) []byte {
	t.Helper()
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func (a *answering) ask(serial *big.Int) *ocsp.Response {
	a.t.Helper()
	q, err := ocsp.CreateRequest(&x509.Certificate{SerialNumber: serial}, a.Device, &ocsp.RequestOptions{Hash: crypto.SHA1})
	if err != nil {
		a.t.Fatal(err)
	}
	r, err := ocsp.ParseResponseForCert(body(a.t, a.post(q)), &x509.Certificate{SerialNumber: serial}, a.Device)
	if err != nil {
		a.t.Fatal(err)
	}
	return r
}

func TestOCSP_OpenSSLBelievesIt_A31(t *testing.T) {
	a := newAnswering(t, nil)
	good, _ := a.device("SN-1")
	bad, bs := a.device("SN-2")
	held, hs := a.device("SN-3")
	a.revoke(bs, crl.KeyCompromise)
	a.revoke(hs, crl.CertificateHold)
	a.settle()
	root, issuer := a.write("root.pem", "CERTIFICATE", a.Root.Raw), a.write("ca.pem", "CERTIFICATE", a.Device.Raw)
	g, r, h := a.write("g.pem", "CERTIFICATE", good.Raw), a.write("r.pem", "CERTIFICATE", bad.Raw), a.write("h.pem", "CERTIFICATE", held.Raw)
	for _, hash := range []string{"-sha1", "-sha256"} {
		out, err := run(t, "openssl", "ocsp", "-issuer", issuer, "-CAfile", root, "-verify_other", issuer, "-url", a.srv.URL+"/ocsp/"+catest.Device, "-no_nonce",
			hash, "-cert", g, hash, "-cert", r, hash, "-cert", h)
		if err != nil || !strings.Contains(out, "Response verify OK") {
			t.Fatalf("%s: %v\n%s", hash, err, out)
		}
		for _, s := range []string{g + ": good", r + ": revoked", "Reason: keyCompromise", h + ": revoked", "Reason: certificateHold"} {
			if !strings.Contains(out, s) {
				t.Errorf("%s: no %q in\n%s", hash, s, out)
			}
		}
	}
	// With a nonce, which we ignore: openssl warns and goes on.
	if out, err := run(t, "openssl", "ocsp", "-issuer", issuer, "-CAfile", root, "-verify_other", issuer, "-url", a.srv.URL+"/ocsp/"+catest.Device, "-cert", g); err != nil || !strings.Contains(out, ": good") {
		t.Errorf("with a nonce: %v\n%s", err, out)
	}
	if tool(t, "ocsptool") {
		if out, err := run(t, "ocsptool", "--ask="+a.srv.URL+"/ocsp/"+catest.Device, "--load-cert", r, "--load-issuer", issuer, "--load-trust", issuer); !strings.Contains(out, "revoked") {
			t.Errorf("ocsptool: %v\n%s", err, out)
		}
	}
}

func TestOCSP_NeverSaysGoodWithoutARecord_A7_A2(t *testing.T) {
	a := newAnswering(t, nil)
	never, err := ca.NewSerial(a.clock.now(), nil)
	if err != nil {
		t.Fatal(err)
	}
	reserved := a.reserve("SN-5", "")
	void := a.reserve("SN-6", "")
	want(t, a.DB.Ledger().Void(t.Context(), void, "abandoned"), nil)
	for _, loaded := range []bool{false, true} { // the table answers before the set knows, too
		for n, c := range map[string]struct {
			serial *big.Int
			status int
		}{
			"never reserved": {never.Int(), ocsp.Unknown}, "not of our form": {big.NewInt(4711), ocsp.Unknown},
			"reserved": {reserved.Int(), ocsp.Unknown}, "void": {void.Int(), ocsp.Revoked},
		} {
			if r := a.ask(c.serial); r.Status != c.status {
				t.Errorf("%s, set loaded %t: status %d", n, loaded, r.Status)
			}
		}
		a.settle()
	}
	// Unknown must not be kept: the number may be issued any moment.
	q, _ := ocsp.CreateRequest(&x509.Certificate{SerialNumber: reserved.Int()}, a.Device, nil)
	if h := a.post(q).Header.Get("Cache-Control"); h != "no-store" {
		t.Errorf("Cache-Control of unknown is %q", h)
	}
	// Reserved, then revoked by number: it is void.
	a.revoke(reserved, crl.CessationOfOperation)
	if r := a.ask(reserved.Int()); r.Status != ocsp.Revoked || r.RevocationReason != int(crl.CessationOfOperation) {
		t.Errorf("voided by number: %+v", r)
	}
}

func TestOCSP_AnAnswerChangesWithTheRevocation(t *testing.T) {
	a := newAnswering(t, nil)
	_, s := a.device("SN-1")
	first := a.ask(s.Int())
	again := a.ask(s.Int())
	if first.Status != ocsp.Good || !bytes.Equal(first.Raw, again.Raw) || a.ocsp.Stats.Hits.Load() != 1 {
		t.Errorf("status %d, %d hits", first.Status, a.ocsp.Stats.Hits.Load())
	}
	if first.NextUpdate.Sub(first.ThisUpdate) > 12*time.Hour {
		t.Errorf("valid for %v (S31)", first.NextUpdate.Sub(first.ThisUpdate))
	}
	a.revoke(s, crl.CertificateHold)
	a.settle()
	if r := a.ask(s.Int()); r.Status != ocsp.Revoked || r.RevocationReason != int(crl.CertificateHold) {
		t.Errorf("held: status %d", r.Status)
	}
	want(t, a.svc.Release(t.Context(), officer, catest.Device, s, ""), nil)
	a.settle()
	if r := a.ask(s.Int()); r.Status != ocsp.Good {
		t.Errorf("released: status %d", r.Status)
	}
	// A3: no answer is served in the second half of its life.
	before := a.ask(s.Int())
	a.clock.move(7 * time.Hour)
	if r := a.ask(s.Int()); !r.ThisUpdate.After(before.ThisUpdate) {
		t.Error("an answer older than half its validity was served")
	}
	// An answer does not outlive its responder.
	a.clock.move(14*24*time.Hour - 7*time.Hour - 2*time.Hour)
	if r := a.ask(s.Int()); r.NextUpdate.After(a.cert.NotAfter) {
		t.Errorf("valid until %s, the responder until %s", r.NextUpdate, a.cert.NotAfter)
	}
	a.clock.move(48 * time.Hour)
	q, _ := ocsp.CreateRequest(&x509.Certificate{SerialNumber: s.Int()}, a.Device, nil)
	if _, err := ocsp.ParseResponse(body(t, a.post(q)), nil); !errors.Is(err, ocsp.ResponseError{Status: ocsp.TryLater}) {
		t.Errorf("an expired responder: %v", err)
	}
}

func TestOCSP_RefusesAWrongResponder_A31(t *testing.T) {
	a := newAnswering(t, nil)
	c, s := a.device("SN-1")
	q, _ := ocsp.CreateRequest(&x509.Certificate{SerialNumber: s.Int()}, a.Device, nil)
	right, key := a.cert, a.key
	later := func(what string) {
		t.Helper()
		if _, err := ocsp.ParseResponse(body(t, a.post(q)), nil); !errors.Is(err, ocsp.ResponseError{Status: ocsp.TryLater}) {
			t.Errorf("%s: %v", what, err)
		}
	}
	a.cert = c
	later("a device's certificate")
	a.cert, a.key = right, catest.NewKey(t)
	later("another key")
	a.cert, a.key = a.Device, key
	later("the CA itself")
	// What other authorities of ours, and nobody, made for the same key.
	a.key = key
	forged := func(by *x509.Certificate, with crypto.Signer, usage []x509.ExtKeyUsage) *x509.Certificate {
		t.Helper()
		out, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: right.SerialNumber, RawSubject: right.RawSubject, NotBefore: right.NotBefore, NotAfter: right.NotAfter,
			KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: usage}, by, key.Public(), with)
		if err != nil {
			t.Fatal(err)
		}
		c, err := x509.ParseCertificate(out)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	signing := []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning}
	a.cert = forged(a.Root, a.RootKey, signing)
	later("a responder of another issuer")
	stranger, namesake := catest.NewKey(t), *a.Device
	namesake.PublicKey = stranger.Public()
	a.cert = forged(&namesake, stranger, signing)
	later("a responder that the issuer did not sign")
	a.cert = right
	a.down.Store(true)
	later("no key")
	a.down.Store(false)
	if r := a.ask(s.Int()); r.Status != ocsp.Good || r.Certificate == nil || bytes.Equal(r.Certificate.RawSubjectPublicKeyInfo, a.Device.RawSubjectPublicKeyInfo) {
		t.Error("the right one is refused")
	}
}

func TestOCSP_AnswersFaultsInItsProtocol(t *testing.T) {
	a := newAnswering(t, nil)
	good, s := a.device("SN-1")
	q, _ := ocsp.CreateRequest(good, a.Device, nil)
	for _, in := range [][]byte{nil, {0x30}, []byte("junk"), q[:len(q)-1], append(bytes.Clone(q), 0), bytes.Repeat([]byte{0x30, 0x80}, 1000)} {
		r := a.post(in)
		if b := body(t, r); r.StatusCode != 200 || !bytes.Equal(b, []byte{0x30, 3, 0x0a, 1, 1}) || r.Header.Get("Cache-Control") != "no-store" {
			t.Errorf("%.20x: %d %x", in, r.StatusCode, b)
		}
	}
	if r := a.post(make([]byte, 20<<10)); r.StatusCode != 413 {
		t.Errorf("20 kB: %d", r.StatusCode)
	}
	foreign, _ := ocsp.CreateRequest(good, a.Infra, nil)
	if b := body(t, a.post(foreign)); !bytes.Equal(b, []byte{0x30, 3, 0x0a, 1, 6}) {
		t.Errorf("another issuer: %x", b)
	}
	for path, code := range map[string]int{"/ocsp/none": 404, "/ocsp/" + catest.Root: 404, "/other": 404} {
		r, err := http.Post(a.srv.URL+path, "application/ocsp-request", bytes.NewReader(q))
		if err != nil {
			t.Fatal(err)
		}
		body(t, r)
		if r.StatusCode != code {
			t.Errorf("%s: %d", path, r.StatusCode)
		}
	}
	// GET, as RFC 6960, Appendix A.1 and as clients really do it.
	std := base64.StdEncoding.EncodeToString(q)
	for _, p := range []string{url.PathEscape(std), url.QueryEscape(std), std, strings.TrimRight(std, "=")} {
		r, err := http.Get(a.srv.URL + "/ocsp/" + catest.Device + "/" + p)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := ocsp.ParseResponseForCert(body(t, r), good, a.Device)
		if err != nil || resp.Status != ocsp.Good || resp.SerialNumber.Cmp(s.Int()) != 0 {
			t.Errorf("GET %s: %v", p, err)
		}
		if h := r.Header.Get("Cache-Control"); !strings.Contains(h, "max-age=600") || r.Header.Get("ETag") == "" {
			t.Errorf("GET: Cache-Control %q", h)
		}
	}
	r, err := http.Get(a.srv.URL + "/ocsp/" + catest.Device + "/%00%00")
	if err != nil {
		t.Fatal(err)
	}
	if b := body(t, r); !bytes.Equal(b, []byte{0x30, 3, 0x0a, 1, 1}) {
		t.Errorf("GET of junk: %x", b)
	}
	// Before the revoked set is loaded there is no status (A28).
	fresh := crl.NewOCSP(crl.OCSPConfig{Store: a.DB, CA: a.CA, Set: crl.NewSet(crl.SetConfig{Feed: a.DB}), Responder: func(context.Context, string) (crypto.Signer, *x509.Certificate, error) {
		return a.key, a.cert, nil
	}})
	w := httptest.NewRecorder()
	fresh.ServeHTTP(w, httptest.NewRequest("POST", "/ocsp/"+catest.Device, bytes.NewReader(q)))
	if !bytes.Equal(w.Body.Bytes(), []byte{0x30, 3, 0x0a, 1, 3}) {
		t.Errorf("before the set is loaded: %x", w.Body.Bytes())
	}
}

func TestOCSP_LimitsSignatures_S31(t *testing.T) {
	a := newAnswering(t, func(c *crl.OCSPConfig) { c.SignRate = 5; c.CacheSize = 4 })
	later := 0
	for range 40 {
		s, err := ca.NewSerial(a.clock.now(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		q, _ := ocsp.CreateRequest(&x509.Certificate{SerialNumber: s.Int()}, a.Device, nil)
		if bytes.Equal(body(t, a.post(q)), []byte{0x30, 3, 0x0a, 1, 3}) {
			later++
		}
	}
	if later < 20 || a.ocsp.Stats.TryLater.Load() != int64(later) {
		t.Errorf("%d of 40 unknown numbers were put off", later)
	}
}

func TestOCSP_EchoesANonceWhenTold(t *testing.T) {
	a := newAnswering(t, func(c *crl.OCSPConfig) { c.EchoNonce = true })
	c, _ := a.device("SN-1")
	out, err := run(t, "openssl", "ocsp", "-issuer", a.write("ca.pem", "CERTIFICATE", a.Device.Raw), "-CAfile", a.write("root.pem", "CERTIFICATE", a.Root.Raw),
		"-verify_other", a.write("u.pem", "CERTIFICATE", a.Device.Raw), "-url", a.srv.URL+"/ocsp/"+catest.Device, "-cert", a.write("c.pem", "CERTIFICATE", c.Raw), "-nonce")
	if err != nil || !strings.Contains(out, ": good") || strings.Contains(out, "no nonce in response") {
		t.Errorf("%v\n%s", err, out)
	}
	if sum := sha256.Sum256(a.cert.Raw); sum == [32]byte{} {
		t.Fatal("no responder")
	}
}
