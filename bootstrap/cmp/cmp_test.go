package cmp_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"os"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/bootstrap"
	"hallmark/bootstrap/bootstraptest"
	"hallmark/bootstrap/cmp"
	"hallmark/ca"
	"hallmark/ca/catest"
	"hallmark/ca/profile"
)

// post sends octets and reads the answer.
func (s *site) post(t testing.TB, raw []byte, secret string) cmp.Answer {
	t.Helper()
	return s.postTo(t, cmp.Prefix, raw, secret)
}

func (s *site) postTo(t testing.TB, path string, raw []byte, secret string) cmp.Answer {
	t.Helper()
	res, err := http.Post("http://"+s.host+path, "application/pkixcmp", bytes.NewReader(raw))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != 200 || res.Header.Get("Content-Type") != "application/pkixcmp" {
		t.Fatalf("%d %v %s", res.StatusCode, err, body)
	}
	a, err := cmp.Read(body, secret)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func random(n int) []byte {
	b := make([]byte, n)
	rand.Read(b)
	return b
}

func body(t testing.TB, key *ecdsa.PrivateKey, cn string) []byte {
	t.Helper()
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	var subject []byte
	if cn != "" {
		subject = cmp.Name(cn)
	}
	return cmp.Request(spki, subject, func(octets []byte) []byte {
		sum := sha256.Sum256(octets)
		sig, err := ecdsa.SignASN1(rand.Reader, key, sum[:])
		if err != nil {
			t.Error(err)
		}
		return sig
	})
}

// draft is an ir under a one-time password.
func draft(p bootstrap.Password, secret string, b []byte) cmp.Draft {
	return cmp.Draft{Body: b, Transaction: random(16), Nonce: random(16), Reference: p.ID, Secret: secret, Algorithm: cmp.PBM(500), Time: time.Now()}
}

// PKIFailureInfo, and bodies, by their numbers in RFC 9810.
const (
	ip, pkiconf, errorBody = 1, 19, 23

	badAlg, badMessageCheck, badRequest, badTime, badDataFormat, badPOP, badNonce, badTemplate, untrusted, inUse, unauthorized = 0, 1, 2, 3, 5, 9, 13, 19, 20, 21, 23
)

// TestCMP_ARepeatedMessageGetsTheSameCertificate: whoever repeats a message gets
// what it got; its transaction and nonces serve nothing else (A40).
func TestCMP_ARepeatedMessageGetsTheSameCertificate(t *testing.T) {
	s := newSite(t, bootstrap.Rules{}, bootstraptest.Options{})
	p, secret := s.Password(t, s.enroller, "U-001", profile.IDevID)
	d := draft(p, secret, body(t, catest.NewKey(t), "U-001"))
	raw := d.Encode()
	first := s.post(t, raw, secret)
	if first.Kind != ip || first.Certificate == nil || !first.Protected {
		t.Fatalf("%+v", first)
	}
	for range 3 {
		if again := s.post(t, raw, secret); !bytes.Equal(again.Certificate, first.Certificate) || !bytes.Equal(again.Nonce, first.Nonce) {
			t.Errorf("%+v", again)
		}
	}
	other := d
	other.Body = body(t, catest.NewKey(t), "U-001")
	if a := s.post(t, other.Encode(), secret); a.Failure != inUse || a.Certificate != nil {
		t.Errorf("another request in the transaction: %+v", a)
	}
	other.Transaction = random(16)
	if a := s.post(t, other.Encode(), secret); a.Failure != untrusted || a.Certificate != nil {
		t.Errorf("another key with the password: %+v", a)
	}
	if n := len(s.Records(t, "U-001", profile.IDevID)); n != 1 {
		t.Errorf("%d certificates", n)
	}

	// The confirmation answers our nonce, in its transaction.
	hash := sha256.Sum256(first.Certificate)
	conf := d
	conf.Kind, conf.Body, conf.Answers = 24, cmp.Confirmation(hash[:], 0), first.Nonce
	for name, change := range map[string]func(c *cmp.Draft){
		"another nonce":       func(c *cmp.Draft) { c.Answers = random(16) },
		"no nonce":            func(c *cmp.Draft) { c.Answers = nil },
		"another transaction": func(c *cmp.Draft) { c.Transaction = random(16) },
		"another certificate": func(c *cmp.Draft) { c.Body = cmp.Confirmation(random(32), 0) },
	} {
		wrong := conf
		change(&wrong)
		if a := s.post(t, wrong.Encode(), secret); a.Kind != errorBody || a.Failure != badNonce {
			t.Errorf("%s: %+v", name, a)
		}
	}
	for range 2 {
		if a := s.post(t, conf.Encode(), secret); a.Kind != pkiconf {
			t.Errorf("%+v", a)
		}
	}
	// One that the device declines is taken back.
	conf.Body = cmp.Confirmation(hash[:], 2)
	if a := s.post(t, conf.Encode(), secret); a.Kind != pkiconf {
		t.Errorf("%+v", a)
	}
	c, err := x509.ParseCertificate(first.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	serial, _ := ca.SerialFromInt(c.SerialNumber)
	if r, err := s.DB.RecordBySerial(t.Context(), access.DefaultTenant, "", serial); err != nil || !r.Revoked() {
		t.Errorf("%+v %v", r, err)
	}
	if a := s.post(t, raw, secret); a.Certificate != nil {
		t.Error("a certificate that was declined is handed out again")
	}
}

// TestA37_CMPAPasswordIsForItsUnitAndItsProfile: and proves itself in every form
// that is offered (A37).
func TestA37_CMPAPasswordIsForItsUnitAndItsProfile(t *testing.T) {
	s := newSite(t, bootstrap.Rules{}, bootstraptest.Options{})
	p, secret := s.Password(t, s.enroller, "U-001", profile.IDevID)
	foreign, foreignSecret := s.Password(t, s.enroller, "U-002", profile.IDevID)
	key := catest.NewKey(t)
	good := body(t, key, "U-001")
	old := draft(p, secret, good)
	old.Time = time.Now().Add(-2 * time.Hour)
	bare := draft(p, secret, good)
	bare.Algorithm = nil
	short := draft(p, secret, good)
	short.Transaction = nil
	mixed := draft(p, foreignSecret, good)
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	with := func(algorithm []byte) cmp.Draft {
		d := draft(p, secret, good)
		d.Algorithm = algorithm
		return d
	}
	of := func(kind byte, b []byte) cmp.Draft {
		d := draft(p, secret, b)
		d.Kind = kind
		return d
	}
	for name, c := range map[string]struct {
		draft   cmp.Draft
		profile profile.Name
		failure int
	}{
		"the subject of another":             {draft(p, secret, body(t, key, "U-002")), "", unauthorized},
		"another profile":                    {draft(p, secret, good), profile.LDevID, unauthorized},
		"the secret of another":              {mixed, "", badMessageCheck},
		"the reference of another":           {draft(foreign, secret, good), "", badMessageCheck},
		"no such reference":                  {draft(bootstrap.Password{ID: "nobody"}, secret, good), "", untrusted},
		"no protection":                      {bare, "", badMessageCheck},
		"too few iterations":                 {with(cmp.PBM(1)), "", badAlg},
		"iterations that would take a year":  {with(cmp.PBM(1 << 40)), "", badAlg},
		"the same of PBMAC1":                 {with(cmp.PBMAC1(1 << 40)), "", badAlg},
		"another time":                       {old, "", badTime},
		"no transaction":                     {short, "", badNonce},
		"no proof of possession":             {draft(p, secret, cmp.Request(spki, nil, nil)), "", badPOP},
		"a false proof of possession":        {draft(p, secret, cmp.Request(spki, nil, func([]byte) []byte { return random(70) })), "", badPOP},
		"no request":                         {draft(p, secret, []byte{0x30, 0}), "", badRequest},
		"an update with a password":          {of(7, good), "", unauthorized},
		"a body that nobody offers":          {of(20, good), "", badRequest},
		"a certificate request that is none": {of(4, good), "", badRequest},
	} {
		a := s.handleFor(t, c.draft.Encode(), c.profile)
		if a.Certificate != nil || a.Failure != c.failure {
			t.Errorf("%s: %+v, want failure %d", name, a, c.failure)
		}
	}
	if n := len(s.Records(t, "U-001", profile.IDevID)); n != 0 {
		t.Fatalf("%d certificates", n)
	}
	if a := s.post(t, with(cmp.PBMAC1(2048)).Encode(), secret); a.Certificate == nil || !a.Protected {
		t.Errorf("PBMAC1: %+v", a)
	}
	for _, path := range []string{"/p/lamp", "/p/", "/x", "/p/ldevid/x"} {
		res, err := http.Post("http://"+s.host+cmp.Prefix+path, "application/pkixcmp", bytes.NewReader(nil))
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != 404 {
			t.Errorf("%s: %d", path, res.StatusCode)
		}
	}
	if raw, err := os.ReadFile(s.file("root.pem")); err != nil || s.post(t, raw, "").Failure != badDataFormat {
		t.Error("octets that are no message")
	}
}

// TestCMP_ForeignSignersAreRefused: self-made, of another role, revoked, and with
// another's certificate beside the signature.
func TestCMP_ForeignSignersAreRefused(t *testing.T) {
	s := newSite(t, bootstrap.Rules{}, bootstraptest.Options{})
	birth, birthKey := s.IssueIDevID(t, "U-001")
	s.write(t, "birth.pem", catest.PEM(birth))
	s.keep(t, "birth.key", birthKey)
	s.key(t, "new.key")
	self := s.key(t, "self.key")
	tmpl := &x509.Certificate{SerialNumber: birth.SerialNumber, Subject: birth.Subject, NotBefore: birth.NotBefore, NotAfter: birth.NotAfter, SubjectKeyId: birth.SubjectKeyId, KeyUsage: x509.KeyUsageDigitalSignature}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, &x509.Certificate{RawSubject: s.Device.RawSubject, SubjectKeyId: s.Device.SubjectKeyId}, self.Public(), self)
	if err != nil {
		t.Fatal(err)
	}
	fake, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, "self.pem", catest.PEM(fake))
	station, stationKey := s.Issue(t, profile.Station, "st-1", "A", profile.Names{})
	s.write(t, "station.pem", catest.PEM(station))
	s.keep(t, "station.key", stationKey)
	ask := []string{"-cmd", "ir", "-newkey", "new.key", "-subject", "/CN=x", "-certout", "x.pem", "-trusted", "root.pem"}
	s.refused(t, "device-unknown", append(ask, "-cert", "self.pem", "-key", "self.key")...)
	s.refused(t, "device-role", append(ask, "-cert", "station.pem", "-key", "station.key")...)
	s.refused(t, "cmp-protection-invalid", append(ask, "-unprotected_requests")...)
	s.Block(t, "U-001")
	s.refused(t, "device-revoked", append(ask, "-cert", "birth.pem", "-key", "birth.key")...)
	if all, err := s.DB.Records(t.Context(), ca.RecordQuery{Tenant: access.DefaultTenant, Profile: string(profile.LDevID)}); err != nil || len(all) != 0 {
		t.Errorf("%d certificates, %v", len(all), err)
	}
}

// FuzzMessage: no input ends the process, and what was read is written again.
func FuzzMessage(f *testing.F) {
	key := catest.NewKey(f)
	for _, d := range []cmp.Draft{
		{Body: body(f, key, "U-001"), Transaction: random(16), Nonce: random(16), Reference: "r", Secret: "s", Algorithm: cmp.PBM(100), Time: time.Now()},
		{Kind: 24, Body: cmp.Confirmation(random(32), 0), Transaction: random(16), Nonce: random(16), Answers: random(16), Reference: "r", Secret: "s", Algorithm: cmp.PBMAC1(100), Time: time.Now()},
		{Kind: 21, Body: []byte{0x30, 0}, Time: time.Now()},
	} {
		f.Add(d.Encode())
	}
	f.Add([]byte{0x30, 0x84, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(_ *testing.T, raw []byte) { cmp.ReadAll(raw) })
}

// TestCMP_FlippedOctetsAreRefused changes each octet of a good message in turn:
// none of them gets a certificate, and all get an answer.
func TestCMP_FlippedOctetsAreRefused(t *testing.T) {
	s := newSite(t, bootstrap.Rules{PerMinute: 100_000}, bootstraptest.Options{})
	p, secret := s.Password(t, s.enroller, "U-001", profile.IDevID)
	raw := draft(p, secret, body(t, catest.NewKey(t), "U-001")).Encode()
	for i := range raw {
		bad := bytes.Clone(raw)
		bad[i] ^= 1 << (i % 8)
		if a := s.handle(t, bad); a.Certificate != nil {
			t.Fatalf("octet %d: a certificate", i)
		}
	}
	if a := s.handle(t, raw); a.Certificate == nil {
		t.Errorf("%+v", a)
	}
}

// handle asks the server past its limit on refused requests of an address.
func (s *site) handle(t testing.TB, raw []byte) cmp.Answer {
	t.Helper()
	return s.handleFor(t, raw, "")
}

func (s *site) handleFor(t testing.TB, raw []byte, name profile.Name) cmp.Answer {
	t.Helper()
	out, err := cmp.Handle(s.server, raw, name)
	if err != nil {
		t.Fatal(err)
	}
	a, err := cmp.Read(out, "")
	if err != nil {
		t.Fatal(fmt.Errorf("the answer: %w", err))
	}
	return a
}
