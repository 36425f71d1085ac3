package crl_test

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"hallmark/ca/catest"
	"hallmark/crl"
)

// theirs is a CA that is not ours.
type theirs struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newTheirs(t *testing.T, name string) *theirs {
	t.Helper()
	key := catest.NewKey(t)
	c := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(5, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCRLSign | x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, c, c, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &theirs{t, cert, key}
}

func (o *theirs) list(number int64, this, next time.Time, extra []pkix.Extension, serials ...int64) []byte {
	o.t.Helper()
	l := &x509.RevocationList{Number: big.NewInt(number), ThisUpdate: this, NextUpdate: next, ExtraExtensions: extra}
	for _, s := range serials {
		l.RevokedCertificateEntries = append(l.RevokedCertificateEntries, x509.RevocationListEntry{SerialNumber: big.NewInt(s), RevocationTime: this, ReasonCode: 1})
	}
	der, err := x509.CreateRevocationList(rand.Reader, l, o.cert, o.key)
	if err != nil {
		o.t.Fatal(err)
	}
	return der
}

func (o *theirs) device(serial int64) *x509.Certificate {
	return &x509.Certificate{SerialNumber: big.NewInt(serial), RawIssuer: o.cert.RawSubject, AuthorityKeyId: o.cert.SubjectKeyId}
}

func TestImports_TakeAListOnlyIfItIsGenuineNewerAndCurrent(t *testing.T) {
	o, other := newTheirs(t, "Their CA"), newTheirs(t, "Their CA")
	dir, now := t.TempDir(), time.Now()
	file := filepath.Join(dir, "source")
	put := func(der []byte) {
		t.Helper()
		if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: "X509 CRL", Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	clock := now
	open := func() *crl.Imports {
		t.Helper()
		m, err := crl.NewImports(crl.ImportsConfig{Sources: []crl.ImportSource{{Name: "theirs", Issuer: o.cert, File: file, Required: true}}, Dir: filepath.Join(dir, "kept"), Now: func() time.Time { return clock }})
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	m := open()
	if _, _, err := m.Check(o.device(5)); err == nil {
		t.Error("a device was let in before there was a list")
	}
	var told []int64
	m.OnRevoked(func(_ *x509.Certificate, s *big.Int, _ crl.Reason) { told = append(told, s.Int64()) })
	put(o.list(7, now.Add(-time.Hour), now.Add(time.Hour), nil, 5))
	if err := m.Fetch(t.Context()); err != nil {
		t.Fatal(err)
	}
	is := func(m *crl.Imports, serial int64, want bool) {
		t.Helper()
		if r, got, err := m.Check(o.device(serial)); got != want || err != nil || got && r != crl.KeyCompromise {
			t.Errorf("%d: %v %t %v", serial, r, got, err)
		}
	}
	is(m, 5, true)
	is(m, 6, false)
	critical := []pkix.Extension{{Id: []int{2, 5, 29, 27}, Critical: true, Value: []byte{2, 1, 3}}}
	partial := []pkix.Extension{{Id: []int{2, 5, 29, 28}, Critical: true, Value: []byte{0x30, 3, 0x82, 1, 0xff}}}
	for what, c := range map[string]struct {
		der  []byte
		want error
	}{
		"the same number":    {o.list(7, now, now.Add(time.Hour), nil), crl.ErrListOld},
		"a lower number":     {o.list(6, now, now.Add(time.Hour), nil), crl.ErrListOld},
		"an earlier time":    {o.list(8, now.Add(-2*time.Hour), now.Add(time.Hour), nil), crl.ErrListOld},
		"one that is over":   {o.list(9, now.Add(-time.Hour), now.Add(-time.Minute), nil), crl.ErrListOld},
		"one of the future":  {o.list(9, now.Add(time.Hour), now.Add(2*time.Hour), nil), crl.ErrListOld},
		"another key's":      {other.list(9, now, now.Add(time.Hour), nil), crl.ErrListUntrusted},
		"a delta":            {o.list(9, now, now.Add(time.Hour), critical), crl.ErrListMalformed},
		"one about CAs only": {o.list(9, now, now.Add(time.Hour), partial), crl.ErrListMalformed},
		"something else":     {[]byte("hello"), crl.ErrListMalformed},
		"one that was bent":  {bent(o.list(9, now, now.Add(time.Hour), nil)), crl.ErrListUntrusted},
	} {
		put(c.der)
		if err := m.Fetch(t.Context()); !isAny(err, c.want) {
			t.Errorf("%s: %v, want %v", what, err, c.want)
		}
		is(m, 5, true)
	}
	put(o.list(12, now, now.Add(time.Hour), nil, 5, 6))
	if err := m.Fetch(t.Context()); err != nil {
		t.Fatal(err)
	}
	is(m, 6, true)
	if len(told) != 2 || told[0] != 5 || told[1] != 6 {
		t.Errorf("told of %v", told)
	}
	// A start knows what was taken, and its number.
	m = open()
	is(m, 6, true)
	put(o.list(11, now, now.Add(time.Hour), nil))
	if err := m.Fetch(t.Context()); !isAny(err, crl.ErrListOld) {
		t.Errorf("an older list after a start: %v", err)
	}
	// When it lapses, the CA's devices are refused if it is required; who is on it stays so.
	clock = now.Add(2 * time.Hour)
	is(m, 6, true)
	if _, revoked, err := m.Check(o.device(99)); revoked || !isAny(err, crl.ErrImportMissing) {
		t.Errorf("after its end: %t %v", revoked, err)
	}
	if s := m.States(); len(s) != 1 || s[0].Current || s[0].Number != "12" || s[0].Entries != 2 {
		t.Errorf("%+v", s)
	}
	if _, revoked, err := m.Check(&x509.Certificate{SerialNumber: big.NewInt(5), RawIssuer: []byte{1}}); revoked || err != nil {
		t.Error("another CA's device was judged")
	}
}

func bent(der []byte) []byte {
	der[len(der)-1] ^= 1
	return der
}

func isAny(err, want error) bool {
	f, ok := err.(interface{ Is(error) bool })
	return ok && f.Is(want)
}

func TestImports_FetchOverHTTPAndAskForChangesOnly(t *testing.T) {
	o, now := newTheirs(t, "Their CA"), time.Now()
	der := o.list(3, now.Add(-time.Minute), now.Add(time.Hour), nil, 4)
	var whole, same atomic.Int64
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("If-None-Match") == `"3"` {
			same.Add(1)
			w.WriteHeader(http.StatusNotModified)
			return
		}
		whole.Add(1)
		w.Header().Set("ETag", `"3"`)
		w.Write(der)
	}))
	defer srv.Close()
	m, err := crl.NewImports(crl.ImportsConfig{Sources: []crl.ImportSource{{Name: "web", Issuer: o.cert, URL: srv.URL}}})
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if err := m.Fetch(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if _, revoked, _ := m.Check(o.device(4)); !revoked || whole.Load() != 1 || same.Load() != 2 {
		t.Errorf("revoked %t, fetched %d times and asked %d times", revoked, whole.Load(), same.Load())
	}
	srv.Close()
	if err := m.Fetch(t.Context()); !isAny(err, crl.ErrImport) {
		t.Errorf("without a server: %v", err)
	}
	if _, revoked, _ := m.Check(o.device(4)); !revoked {
		t.Error("the list is gone with the server")
	}
}
