package scep_test

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/base64"
	"fmt"
	"math/big"
	"net/url"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/smallstep/pkcs7"
	library "github.com/smallstep/scep"

	"hallmark/access"
	"hallmark/bootstrap/bootstraptest"
	"hallmark/bootstrap/enroltest"
	"hallmark/bootstrap/scep"
	"hallmark/ca"
	"hallmark/ca/catest"
	"hallmark/ca/profile"
	"hallmark/crl"
	"hallmark/internal/fault"
	"hallmark/provisioner/hook"
)

const (
	failure                                        = "2"
	badAlg, badMessageCheck, badRequest, badCertID = "0", "1", "2", "4"
)

// issued counts the device certificates there are.
func (s *site) issued(t testing.TB) int {
	t.Helper()
	n := 0
	for _, p := range []profile.Name{profile.IDevID, profile.LDevID} {
		all, err := s.DB.Records(t.Context(), ca.RecordQuery{Tenant: access.DefaultTenant, Profile: string(p), Limit: 1000})
		if err != nil {
			t.Fatal(err)
		}
		n += len(all)
	}
	return n
}

// TestA36_NoMessageTypeGetsACertificateWithoutAChallenge: nor a 5xx, whatever the
// type is, and however often it is said.
func TestA36_NoMessageTypeGetsACertificateWithoutAChallenge(t *testing.T) {
	s := newSite(t, bootstraptest.Options{}, nil)
	key := rsaKey(t, 1)
	self := selfMade(t, key, pkix.Name{CommonName: "U-001"})
	kinds := map[string][]any{
		"019": {"019"}, "19 with a space": {"19 "}, "19 with a NUL": {"19\x00"}, "missing": {}, "twice": {"19", "19"}, "17 and 19": {"17", "19"}, "empty": {""},
		"a number": {19}, "octets": {[]byte("19")}, "a list": {[]string{"19"}}, "very long": {strings.Repeat("1", 5000)}, "minus": {"-19"},
	}
	for i := range 100 {
		kinds[fmt.Sprint(i)] = []any{fmt.Sprint(i)}
	}
	for name, kind := range kinds {
		known := name == "17" || name == "19" || name == "20" || name == "21" || name == "22"
		for what, content := range map[string][]byte{"a request": enroltest.CSR(t, key, "U-001", ""), "a wrong challenge": enroltest.CSR(t, key, "U-001", "wrong"), "nothing": nil} {
			if what == "nothing" && !known {
				continue // nobody looks at it
			}
			o := s.send(t, s.encode(t, draft{kind: kind, csr: content, signer: self, key: key}), self, key)
			if o.status != 200 || o.pki != failure || o.certificate != nil {
				t.Errorf("type %s with %s: %d, status %q", name, what, o.status, o.pki)
			}
			if !known && o.info != badRequest {
				t.Errorf("type %s: failInfo %q", name, o.info)
			}
		}
	}
	if n := s.issued(t); n != 0 {
		t.Errorf("%d certificates", n)
	}
	// By GET too; and with a challenge there is one.
	p, secret := s.Password(t, s.enroller, "U-001", profile.IDevID)
	csr := enroltest.CSR(t, key, "U-001", secret)
	if o := s.send(t, s.encode(t, draft{kind: []any{"019"}, csr: csr, signer: self, key: key}), self, key); o.certificate != nil {
		t.Errorf("%+v", o)
	}
	raw := s.encode(t, draft{csr: csr, signer: self, key: key})
	status, media, body := s.get(t, url.Values{"operation": {"PKIOperation"}, "message": {base64.StdEncoding.EncodeToString(raw)}})
	if o := s.read(t, status, body, self, key); media != "application/x-pki-message" || o.certificate == nil || o.certificate.Subject.CommonName != p.Unit {
		t.Errorf("%s %+v", media, o)
	}
}

// TestA37_AChallengeIsForItsUnitItsProfileAndOneKey: and for an hour.
func TestA37_AChallengeIsForItsUnitItsProfileAndOneKey(t *testing.T) {
	clock := bootstraptest.NewClock()
	s := newSite(t, bootstraptest.Options{Clock: clock}, nil)
	key, other := rsaKey(t, 1), rsaKey(t, 2)
	self, otherSelf := selfMade(t, key, pkix.Name{CommonName: "U-001"}), selfMade(t, other, pkix.Name{CommonName: "U-001"})
	_, secret := s.Password(t, s.enroller, "U-001", profile.IDevID)
	_, foreign := s.Password(t, s.enroller, "U-002", profile.IDevID)
	ask := func(path, cn, challenge string) outcome {
		t.Helper()
		return s.sendTo(t, path, s.encode(t, draft{csr: enroltest.CSR(t, key, cn, challenge), signer: self, key: key}), self, key)
	}
	for name, o := range map[string]outcome{
		"the subject of another":   ask("/scep", "U-002", secret),
		"the challenge of another": ask("/scep", "U-001", foreign),
		"no subject":               ask("/scep", "", secret),
		"another profile":          ask("/scep/ldevid", "U-001", secret),
		"none":                     ask("/scep", "U-001", ""),
		// Whoever holds the challenge, and somebody's request with it, signs it.
		"signed by another key": s.send(t, s.encode(t, draft{csr: enroltest.CSR(t, key, "U-001", secret), signer: otherSelf, key: other}), otherSelf, other),
	} {
		if o.status != 200 || o.pki != failure || o.certificate != nil {
			t.Errorf("%s: %+v", name, o)
		}
	}
	if o := ask("/scep/nothing", "U-001", secret); o.status != 404 {
		t.Errorf("an unknown profile: %d", o.status)
	}
	first := ask("/scep/idevid/pkiclient.exe", "U-001", secret)
	if first.certificate == nil {
		t.Fatalf("%+v", first)
	}
	// One key: it may come again, no other may.
	if o := ask("/scep", "U-001", secret); o.certificate == nil || !o.certificate.Equal(first.certificate) {
		t.Errorf("the same key again: %+v", o)
	}
	if o := s.send(t, s.encode(t, draft{csr: enroltest.CSR(t, other, "U-001", secret), signer: otherSelf, key: other}), otherSelf, other); o.pki != failure {
		t.Errorf("another key: %+v", o)
	}
	// An hour.
	_, late := s.Password(t, s.enroller, "U-003", profile.IDevID)
	clock.Add(time.Hour)
	if o := ask("/scep", "U-003", late); o.pki != failure {
		t.Errorf("after an hour: %+v", o)
	}
	if n := s.issued(t); n != 1 {
		t.Errorf("%d certificates", n)
	}
}

// TestA37_AHookVouchesForAChallengeOnce: what a hook allows becomes a one-time
// password, for the unit and profile that the hook says.
func TestA37_AHookVouchesForAChallengeOnce(t *testing.T) {
	var asked []hook.Request
	s := newSite(t, bootstraptest.Options{}, func(r hook.Request) (hook.Decision, error) {
		asked = append(asked, r)
		switch r.Parameters["scepChallenge"] {
		case "lamp":
			return hook.Decision{Allow: true, Overrides: map[string]string{"unit": "U-001", "profile": "idevid", "order": enroltest.Order}}, nil
		case "down":
			return hook.Decision{}, hook.ErrFailed.New("")
		}
		return hook.Decision{}, hook.ErrRefused.New("")
	})
	key, other := rsaKey(t, 1), rsaKey(t, 2)
	ask := func(n int, cn, challenge string) outcome {
		t.Helper()
		k := rsaKey(t, n)
		self := selfMade(t, k, pkix.Name{CommonName: cn})
		return s.send(t, s.encode(t, draft{csr: enroltest.CSR(t, k, cn, challenge), signer: self, key: k, id: fmt.Sprint(n, cn)}), self, k)
	}
	for _, challenge := range []string{"stranger", "down"} {
		if o := ask(1, "U-001", challenge); o.status != 200 || o.pki != failure {
			t.Errorf("%s: %+v", challenge, o)
		}
	}
	first := ask(1, "U-001", "lamp")
	if first.certificate == nil || first.certificate.Subject.CommonName != "U-001" || !key.PublicKey.Equal(first.certificate.PublicKey) {
		t.Fatalf("%+v", first)
	}
	if o := ask(1, "U-001", "lamp"); o.certificate == nil || !o.certificate.Equal(first.certificate) {
		t.Errorf("again: %+v", o)
	}
	if o := ask(2, "U-001", "lamp"); o.pki != failure { // the hook would say yes again
		t.Errorf("another key: %+v, %v", o, other.Size())
	}
	if o := ask(2, "U-002", "lamp"); o.pki != failure {
		t.Errorf("another subject: %+v", o)
	}
	if r := asked[len(asked)-1]; len(asked) != 3 || r.ClientID != "U-001" || r.Parameters["certificateRequest"] == "" || r.Parameters["scepTransactionId"] == "" {
		t.Errorf("the hook was asked %d times: %+v", len(asked), r)
	}
	if r := s.Records(t, "U-001", profile.IDevID); len(r) != 1 || r[0].Tool != "scep" {
		t.Errorf("%+v", r)
	}
}

// device is a birth certificate and an operational one, both RSA.
func (s *site) device(t testing.TB, unit string, birthKey, key int) (birth, operational *x509.Certificate) {
	t.Helper()
	birth = s.IssueFor(t, profile.IDevID, unit, "", profile.Names{}, rsaKey(t, birthKey).Public())
	o := s.send(t, s.encode(t, draft{kind: []any{"17"}, csr: enroltest.CSR(t, rsaKey(t, key), "any", ""), signer: birth, key: rsaKey(t, birthKey)}), birth, rsaKey(t, birthKey))
	if o.certificate == nil {
		t.Fatalf("%+v", o)
	}
	return birth, o.certificate
}

// TestA38_ARenewalIsSignedByALiveCertificateOfOurs: or there is none, and its message
// serves once.
func TestA38_ARenewalIsSignedByALiveCertificateOfOurs(t *testing.T) {
	clock := bootstraptest.NewClock()
	s := newSite(t, bootstraptest.Options{Clock: clock}, nil)
	old, key := rsaKey(t, 3), rsaKey(t, 4)
	_, cert := s.device(t, "U-001", 2, 3)
	_, victim := s.device(t, "U-002", 5, 6)
	renewal := func(signer *x509.Certificate, n int) outcome {
		t.Helper()
		return s.send(t, s.encode(t, draft{kind: []any{"17"}, csr: request(t, key, cert), signer: signer, key: rsaKey(t, n)}), signer, rsaKey(t, n))
	}
	attacker := rsaKey(t, 1)
	foreign := catest.NewKey(t)
	issuer := selfMade(t, foreign, pkix.Name{CommonName: s.Device.Subject.CommonName}, func(c *x509.Certificate) {
		c.IsCA, c.BasicConstraintsValid, c.KeyUsage, c.RawSubject = true, true, x509.KeyUsageCertSign, s.Device.RawSubject
	})
	leaf := &x509.Certificate{SerialNumber: cert.SerialNumber, RawSubject: cert.RawSubject, NotBefore: cert.NotBefore, NotAfter: cert.NotAfter, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: cert.ExtKeyUsage}
	raw, err := x509.CreateCertificate(rand.Reader, leaf, issuer, attacker.Public(), foreign)
	if err != nil {
		t.Fatal(err)
	}
	before := s.issued(t)
	for name, o := range map[string]outcome{
		"self-made, of the same name": renewal(selfMade(t, attacker, cert.Subject, func(c *x509.Certificate) { c.RawSubject, c.SerialNumber = cert.RawSubject, cert.SerialNumber }), 1),
		"self-made with the new key":  renewal(selfMade(t, key, cert.Subject), 4),
		"of a CA with our name":       renewal(enroltest.Certificate(t, raw), 1),
		"a station's":                 renewal(s.IssueFor(t, profile.Station, "st-1", "A", profile.Names{}, attacker.Public()), 1),
		"the RA's own":                renewal(s.ra, 0),
	} {
		if o.status != 200 || o.pki != failure || o.info != badMessageCheck {
			t.Errorf("%s: %+v", name, o)
		}
	}
	// Another device's certificate is not of this identity.
	if o := renewal(victim, 6); o.pki != failure {
		t.Errorf("another device's: %+v", o)
	}
	// The key of the certificate that asks.
	if o := s.send(t, s.encode(t, draft{kind: []any{"17"}, csr: request(t, old, cert), signer: cert, key: old}), cert, old); o.pki != failure {
		t.Errorf("the same key: %+v", o)
	}
	if n := s.issued(t); n != before {
		t.Errorf("%d certificates more", n-before)
	}

	// The honest one; its transaction serves nothing else.
	good := draft{kind: []any{"17"}, csr: request(t, key, cert), signer: cert, key: old, id: "one", nonce: random(16)}
	message := s.encode(t, good)
	first := s.send(t, message, cert, old)
	if first.certificate == nil || first.certificate.Subject.String() != cert.Subject.String() || first.certificate.Equal(cert) {
		t.Fatalf("%+v", first)
	}
	for range 3 {
		if o := s.send(t, message, cert, old); o.certificate == nil || !o.certificate.Equal(first.certificate) {
			t.Errorf("the same message: %+v", o)
		}
	}
	good.csr = request(t, rsaKey(t, 7), cert)
	if o := s.send(t, s.encode(t, good), cert, old); o.pki != failure || o.info != badRequest {
		t.Errorf("another request in the transaction: %+v", o)
	}
	if n := s.issued(t); n != before+1 {
		t.Errorf("%d certificates more", n-before)
	}
	// Revoked, and the message that was good before it.
	s.Revoke(t, cert, crl.Superseded)
	for name, o := range map[string]outcome{"revoked": renewal(cert, 3), "revoked, the old message": s.send(t, message, cert, old)} {
		if o.pki != failure || o.info != badMessageCheck {
			t.Errorf("%s: %+v", name, o)
		}
	}
	// Expired.
	for range 26 {
		clock.Add(29 * 24 * time.Hour)
		if err := s.DB.KeepClock(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if o := s.send(t, s.encode(t, draft{kind: []any{"17"}, csr: request(t, rsaKey(t, 7), victim), signer: victim, key: rsaKey(t, 6)}), victim, rsaKey(t, 6)); o.pki != failure || o.info != badMessageCheck {
		t.Errorf("expired: %+v", o)
	}
	if n := s.issued(t); n != before+1 {
		t.Errorf("%d certificates more", n-before)
	}
}

// TestA39_OnlyAESAndSHA2: in what is offered, in what is taken and in what is
// answered.
func TestA39_OnlyAESAndSHA2(t *testing.T) {
	s := newSite(t, bootstraptest.Options{}, nil)
	status, media, body := s.get(t, url.Values{"operation": {"GetCACaps"}})
	if status != 200 || media != "text/plain" {
		t.Errorf("%d %s", status, media)
	}
	lines := strings.Split(strings.TrimSpace(string(body)), "\n")
	for _, want := range []string{"AES", "POSTPKIOperation", "Renewal", "SCEPStandard", "SHA-256", "SHA-512"} {
		if !contains(lines, want) {
			t.Errorf("%s is not offered", want)
		}
	}
	for _, not := range []string{"DES3", "SHA-1", "MD5", "DES"} {
		if contains(lines, not) {
			t.Errorf("%s is offered", not)
		}
	}
	key := rsaKey(t, 1)
	self := selfMade(t, key, pkix.Name{CommonName: "U-001"})
	_, secret := s.Password(t, s.enroller, "U-001", profile.IDevID)
	csr := enroltest.CSR(t, key, "U-001", secret)
	// Single DES is what the library's client takes when nobody tells it otherwise.
	pkcs7.ContentEncryptionAlgorithm = pkcs7.EncryptionAlgorithmDESCBC
	des := s.seal(t, csr)
	pkcs7.ContentEncryptionAlgorithm = pkcs7.EncryptionAlgorithmAES128CBC
	aes128 := s.seal(t, csr)
	pkcs7.ContentEncryptionAlgorithm = pkcs7.EncryptionAlgorithmAES256CBC
	ec := catest.NewKey(t)
	ecSelf := selfMade(t, ec, pkix.Name{CommonName: "U-001"})
	swap := func(in []byte, from, to string) []byte {
		t.Helper()
		out := swapOID(t, in, oidDER(t, from), oidDER(t, to))
		if bytes.Equal(out, in) {
			t.Fatalf("there is no %s", from)
		}
		return out
	}
	des3 := swap(s.seal(t, csr), "2.16.840.1.101.3.4.1.42", "1.2.840.113549.3.7")
	md5 := swap(s.encode(t, draft{csr: csr, signer: self, key: key}), "2.16.840.1.101.3.4.2.1", "1.2.840.113549.2.5")
	if o := s.send(t, md5, self, key); o.status != 200 || o.pki != failure || o.info != badAlg {
		t.Errorf("MD5: %+v", o)
	}
	for name, d := range map[string]draft{
		"DES":          {envelope: des, signer: self, key: key},
		"3DES":         {envelope: des3, signer: self, key: key},
		"SHA-1":        {csr: csr, signer: self, key: key, digest: pkcs7.OIDDigestAlgorithmSHA1},
		"elliptic key": {csr: enroltest.CSR(t, ec, "U-001", secret), signer: ecSelf, key: ec},
	} {
		if o := s.send(t, s.encode(t, d), d.signer, d.key); o.status != 200 || o.pki != failure || o.info != badAlg {
			t.Errorf("%s: %+v", name, o)
		}
	}
	for name, c := range map[string]struct {
		d      draft
		cipher string
	}{
		"AES-256 and SHA-256": {draft{csr: csr, signer: self, key: key}, "2.16.840.1.101.3.4.1.42"},
		"AES-128 and SHA-512": {draft{envelope: aes128, signer: self, key: key, digest: pkcs7.OIDDigestAlgorithmSHA512}, "2.16.840.1.101.3.4.1.2"},
	} {
		o := s.sendRaw(t, s.encode(t, c.d)) // the library does not decrypt AES-128
		if o.status != 200 || bytes.Contains(o.raw, oidDER(t, oidInfo.String())) {
			t.Errorf("%s: %d %q", name, o.status, o.raw)
			continue
		}
		for what, oid := range map[string]string{"its cipher": c.cipher, "SHA-256": "2.16.840.1.101.3.4.2.1"} {
			if !bytes.Contains(o.raw, oidDER(t, oid)) {
				t.Errorf("%s: the answer is without %s", name, what)
			}
		}
		for _, oid := range []string{"1.3.14.3.2.26", "1.3.14.3.2.7", "1.2.840.113549.3.7", "1.2.840.113549.2.5"} {
			if bytes.Contains(o.raw, oidDER(t, oid)) {
				t.Errorf("%s: the answer has %s", name, oid)
			}
		}
	}
}

// swapOID writes a DER encoding anew with another object identifier.
func swapOID(t *testing.T, in, from, to []byte) (out []byte) {
	t.Helper()
	for len(in) > 0 {
		var v asn1.RawValue
		rest, err := asn1.Unmarshal(in, &v)
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case bytes.Equal(v.FullBytes, from):
			out = append(out, to...)
		case v.IsCompound:
			v.Bytes, v.FullBytes = swapOID(t, v.Bytes, from, to), nil
			raw, err := asn1.Marshal(v)
			if err != nil {
				t.Fatal(err)
			}
			out = append(out, raw...)
		default:
			out = append(out, v.FullBytes...)
		}
		in = rest
	}
	return out
}

func contains(lines []string, one string) bool {
	for _, l := range lines {
		if strings.EqualFold(strings.TrimSpace(l), one) {
			return true
		}
	}
	return false
}

func oidDER(t testing.TB, dotted string) []byte {
	t.Helper()
	var id asn1.ObjectIdentifier
	for _, part := range strings.Split(dotted, ".") {
		n, _ := new(big.Int).SetString(part, 10)
		id = append(id, int(n.Int64()))
	}
	raw, err := asn1.Marshal(id)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

// TestSCEP_GivesCertificatesAndLists covers GetCACert, GetCert, GetCRL and CertPoll.
func TestSCEP_GivesCertificatesAndLists(t *testing.T) {
	s := newSite(t, bootstraptest.Options{}, nil)
	status, media, body := s.get(t, url.Values{"operation": {"GetCACert"}, "message": {"any"}})
	certs, err := library.CACerts(body)
	if status != 200 || media != "application/x-x509-ca-ra-cert" || err != nil || len(certs) != 4 || !certs[0].Equal(s.ra) {
		t.Fatalf("%d %s %v %d", status, media, err, len(certs))
	}
	pool := x509.NewCertPool()
	for _, c := range certs[1:] {
		pool.AddCert(c)
	}
	if _, err := s.ra.Verify(x509.VerifyOptions{Roots: s.Pool(), Intermediates: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageEmailProtection}}); err != nil {
		t.Error(err)
	}
	if _, err := s.ra.Verify(x509.VerifyOptions{Roots: s.Pool(), Intermediates: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}); err == nil {
		t.Error("the RA's certificate is good for TLS")
	}
	_, cert := s.device(t, "U-001", 2, 3)
	_, other := s.device(t, "U-002", 5, 6)
	key := rsaKey(t, 3)
	name := func(c *x509.Certificate) []byte {
		raw, err := asn1.Marshal(struct {
			Issuer asn1.RawValue
			Serial *big.Int
		}{asn1.RawValue{FullBytes: c.RawIssuer}, c.SerialNumber})
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	ask := func(kind string, content []byte) outcome {
		t.Helper()
		raw := s.encode(t, draft{kind: []any{kind}, csr: content, signer: cert, key: key})
		if kind == "22" {
			return s.list22(t, raw, cert, key)
		}
		return s.send(t, raw, cert, key)
	}
	if o := ask("21", name(cert)); o.certificate == nil || !o.certificate.Equal(cert) {
		t.Errorf("its own: %+v", o)
	}
	if o := ask("21", name(other)); o.info != badCertID {
		t.Errorf("another's: %+v", o)
	}
	if o := ask("21", []byte("x")); o.info != badMessageCheck {
		t.Errorf("nonsense: %+v", o)
	}
	if o := ask("22", name(cert)); o.pki != "0" || !strings.HasPrefix(o.info, "list") {
		t.Errorf("a list: %+v", o)
	}
	if o := ask("22", name(s.ra)); o.info != badCertID {
		t.Errorf("a list of others: %+v", o)
	}
	if o := ask("20", name(cert)); o.info != badCertID {
		t.Errorf("polling: %+v", o)
	}
	self := selfMade(t, rsaKey(t, 1), pkix.Name{CommonName: "x"})
	for _, kind := range []string{"21", "22"} {
		if o := s.send(t, s.encode(t, draft{kind: []any{kind}, csr: name(cert), signer: self, key: rsaKey(t, 1)}), self, rsaKey(t, 1)); o.info != badMessageCheck {
			t.Errorf("%s by a stranger: %+v", kind, o)
		}
	}
	for _, q := range []url.Values{{}, {"operation": {"GetNextCACert"}}, {"operation": {"PKIOperation"}}, {"operation": {"PKIOperation"}, "message": {"%%%"}}} {
		if status, _, _ := s.get(t, q); status != 400 {
			t.Errorf("%v: %d", q, status)
		}
	}
}

// list22 reads an answer with a list, which the library does not.
func (s *site) list22(t testing.TB, raw []byte, signer *x509.Certificate, key any) outcome {
	t.Helper()
	o := s.sendRaw(t, raw)
	p, err := pkcs7.Parse(o.raw)
	if err != nil {
		t.Fatal(err)
	}
	p.Certificates = []*x509.Certificate{s.ra}
	if err := p.Verify(); err != nil {
		t.Fatal(err)
	}
	if err := p.UnmarshalSignedAttribute(oidInfo, &o.info); err == nil {
		o.pki = failure
		return o
	}
	inner, err := pkcs7.Parse(p.Content)
	if err != nil {
		t.Fatal(err)
	}
	plain, err := inner.Decrypt(signer, key)
	if err != nil {
		t.Fatal(err)
	}
	lists, err := pkcs7.Parse(plain)
	if err != nil || len(lists.CRLs) != 1 {
		t.Fatalf("%v %d", err, len(lists.CRLs))
	}
	o.pki, o.info = "0", "list "+lists.CRLs[0].TBSCertList.NextUpdate.String()
	return o
}

// TestSCEP_WhatDoesNotDecryptSaysNoMore: whatever is wrong within an envelope, the
// answer is the same.
func TestSCEP_WhatDoesNotDecryptSaysNoMore(t *testing.T) {
	s := newSite(t, bootstraptest.Options{}, nil)
	key := rsaKey(t, 1)
	self := selfMade(t, key, pkix.Name{CommonName: "U-001"})
	_, secret := s.Password(t, s.enroller, "U-001", profile.IDevID)
	csr := enroltest.CSR(t, key, "U-001", secret)
	good := s.seal(t, csr)
	flipped := func(from int) []byte { b := bytes.Clone(good); b[len(b)-from] ^= 0x55; return b }
	broken := bytes.Clone(csr)
	broken[len(broken)-5] ^= 1
	// The key's ciphertext follows the recipient's algorithm.
	at := bytes.Index(good, []byte{0x04, 0x82, 0x01, 0x00})
	wrongKey := bytes.Clone(good)
	wrongKey[at+100] ^= 1
	texts := map[string]int{}
	for name, envelope := range map[string][]byte{
		"padding": flipped(17), "last block": flipped(1), "first block": flipped(len(csr) - 10), "key": wrongKey,
		"not a request": s.seal(t, []byte("x")), "empty": s.seal(t, nil), "bad signature": s.seal(t, broken), "cut": s.seal(t, csr[:100]),
	} {
		o := s.send(t, s.encode(t, draft{envelope: envelope, signer: self, key: key}), self, key)
		if o.status != 200 || o.info != badMessageCheck {
			t.Errorf("%s: %+v", name, o)
		}
		i := bytes.Index(o.raw, []byte("What the message encloses"))
		j := bytes.Index(o.raw, []byte("(scep-envelope-invalid)"))
		if i < 0 || j < 0 {
			t.Fatalf("%s: no text", name)
		}
		texts[string(o.raw[i:j])]++
	}
	if len(texts) != 1 {
		t.Errorf("%d different answers: %v", len(texts), texts)
	}
	// An envelope for somebody else, or none.
	other, err := pkcs7.Encrypt(csr, []*x509.Certificate{self})
	if err != nil {
		t.Fatal(err)
	}
	for name, envelope := range map[string][]byte{"for another": other, "none": {}, "nonsense": []byte("nonsense")} {
		if o := s.send(t, s.encode(t, draft{envelope: envelope, signer: self, key: key}), self, key); o.status != 200 || o.pki != failure {
			t.Errorf("%s: %+v", name, o)
		}
	}
}

// TestSCEP_TheFormerKeyServesUntilItEnds: who asked for the certificate of messages
// before it was renewed is answered with the key that it knows.
func TestSCEP_TheFormerKeyServesUntilItEnds(t *testing.T) {
	s := newSite(t, bootstraptest.Options{}, nil)
	former := s.ras[0]
	key := rsaKey(t, 2)
	next := &scep.RA{Signer: key, Decrypter: key, Chain: []*x509.Certificate{s.IssueFor(t, profile.SCEPRA, "service:scep", "B", profile.Names{}, key.Public()), s.Infra, s.Root}}
	s.ras = []*scep.RA{next, former}
	_, _, body := s.get(t, url.Values{"operation": {"GetCACert"}})
	given, err := library.CACerts(body)
	if err != nil || !given[0].Equal(next.Chain[0]) || slices.ContainsFunc(given, former.Chain[0].Equal) {
		t.Errorf("GetCACert: %v", err)
	}
	self := selfMade(t, rsaKey(t, 1), pkix.Name{CommonName: "U-001"})
	_, secret := s.Password(t, s.enroller, "U-001", profile.IDevID)
	ask := func(ra *scep.RA) outcome {
		t.Helper()
		s.ra = ra.Chain[0] // the library checks the answer with it, too
		return s.send(t, s.encode(t, draft{csr: enroltest.CSR(t, rsaKey(t, 1), "U-001", secret), signer: self, key: rsaKey(t, 1)}), self, rsaKey(t, 1))
	}
	first, second := ask(former), ask(next)
	if first.certificate == nil || second.certificate == nil || !first.certificate.Equal(second.certificate) {
		t.Fatalf("%+v %+v", first, second)
	}
	s.ras = []*scep.RA{next}
	if o := s.send(t, func() []byte {
		s.ra = former.Chain[0]
		m := s.encode(t, draft{csr: enroltest.CSR(t, rsaKey(t, 1), "U-001", secret), signer: self, key: rsaKey(t, 1)})
		s.ra = next.Chain[0]
		return m
	}(), self, rsaKey(t, 1)); o.pki != failure || o.info != badMessageCheck {
		t.Errorf("after its end: %+v", o)
	}
}

// TestSCEP_FlippedOctetsAreRefused changes octets of a good message in turn; in the
// proof, each.
func TestSCEP_FlippedOctetsAreRefused(t *testing.T) {
	s := newSite(t, bootstraptest.Options{}, nil)
	key := rsaKey(t, 1)
	self := selfMade(t, key, pkix.Name{CommonName: "U-001"})
	_, secret := s.Password(t, s.enroller, "U-001", profile.IDevID)
	raw := s.encode(t, draft{csr: enroltest.CSR(t, key, "U-001", secret), signer: self, key: key})
	step := 17
	if os.Getenv("HALLMARK_PROOF") != "" {
		step = 1
	}
	for i := 0; i < len(raw); i += step {
		bad := bytes.Clone(raw)
		bad[i] ^= 1 << (i % 8)
		o := s.sendRaw(t, bad)
		if o.status >= 500 {
			t.Fatalf("octet %d: %d", i, o.status)
		}
	}
	if n := s.issued(t); n > 1 {
		t.Errorf("%d certificates", n)
	}
}

// TestSCEP_AStrangerIsSlowedDown_S17: refusals cost their address the minute; what is
// public stays so.
func TestSCEP_AStrangerIsSlowedDown_S17(t *testing.T) {
	s := newSite(t, bootstraptest.Options{}, nil)
	last := 0
	for range 25 {
		last, _, _ = s.get(t, url.Values{"operation": {"PKIOperation"}, "message": {"MAA="}})
	}
	if last != 429 {
		t.Errorf("after 25 refusals: %d", last)
	}
	if status, _, _ := s.get(t, url.Values{"operation": {"GetCACaps"}}); status != 200 {
		t.Errorf("GetCACaps: %d", status)
	}
}

// TestDefinite_RewritesIndefiniteLengthsAndPieces: what BouncyCastle and older
// OpenSSL send is what was meant.
func TestDefinite_RewritesIndefiniteLengthsAndPieces(t *testing.T) {
	for _, c := range []struct{ in, out string }{
		{"\x30\x80\x02\x01\x05\x00\x00", "\x30\x03\x02\x01\x05"},
		{"\x30\x03\x02\x01\x05", "\x30\x03\x02\x01\x05"},
		{"\x30\x81\x03\x02\x01\x05", "\x30\x03\x02\x01\x05"},
		{"\x24\x80\x04\x02ab\x04\x01c\x00\x00", "\x04\x03abc"},
		{"\x24\x06\x24\x80\x04\x00\x00\x00", "\x04\x00"},
		{"\x30\x80\x24\x80\x04\x01a\x00\x00\xa0\x80\x00\x00\x00\x00", "\x30\x05\x04\x01a\xa0\x00"},
	} {
		if out, err := scep.Definite([]byte(c.in)); err != nil || string(out) != c.out {
			t.Errorf("%x: %x, %v; want %x", c.in, out, err, c.out)
		}
	}
	for _, in := range []string{"", "\x30", "\x30\x80", "\x30\x80\x02\x01\x05", "\x04\x80\x00\x00", "\x30\x05\x02\x01\x05", "\x30\x03\x02\x01\x05x", "\x3f\x01\x00", "\x00\x00", "\x24\x03\x02\x01\x05",
		"\x30\x84\xff\xff\xff\xff\x00", strings.Repeat("\x30\x80", 1000), strings.Repeat("x", scep.MaxMessage+1)} {
		if out, err := scep.Definite([]byte(in)); err == nil {
			t.Errorf("%.20x: %x", in, out)
		} else if fault.KindOf(err) != fault.Invalid {
			t.Errorf("%.20x: %v", in, err)
		}
	}
}

// FuzzMessage: no input ends the process, and what was rewritten stays as it is.
func FuzzMessage(f *testing.F) {
	key := rsaKey(f, 1)
	self := selfMade(f, key, pkix.Name{CommonName: "U-001"})
	s := &site{ra: self}
	csr := enroltest.CSR(f, key, "U-001", "secret")
	f.Add(s.encode(f, draft{csr: csr, signer: self, key: key}))
	f.Add(s.encode(f, draft{kind: []any{"19", "17"}, envelope: []byte{0x30, 0x80, 0, 0}, signer: self, key: key}))
	f.Add(s.seal(f, csr))
	f.Add([]byte("\x30\x80\x24\x80\x04\x01a\x00\x00\xa0\x80\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		scep.ReadAll(raw)
		once, err := scep.Definite(raw)
		if err != nil {
			return
		}
		if twice, err := scep.Definite(once); err != nil || !bytes.Equal(once, twice) {
			t.Errorf("%x becomes %x: %v", once, twice, err)
		}
	})
}
