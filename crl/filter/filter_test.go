package filter_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/binary"
	"errors"
	"go/parser"
	"go/token"
	"iter"
	"math/big"
	mrand "math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hallmark/crl/filter"
)

var now = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)

const today = 20779 // days since 1970

// authority is a CA and its delegate for status.
type authority struct {
	cert   *x509.Certificate
	key    crypto.Signer
	signer filter.Signer
}

func newAuthority(t testing.TB, name string) *authority {
	t.Helper()
	a := &authority{}
	a.cert, a.key = a.certify(t, name, true, x509.ExtKeyUsageAny, now.AddDate(10, 0, 0))
	a.signer.Cert, a.signer.Key = a.certify(t, name+" status", false, x509.ExtKeyUsageOCSPSigning, now.AddDate(0, 0, 14))
	return a
}

func (a *authority) certify(t testing.TB, name string, ca bool, use x509.ExtKeyUsage, end time.Time) (*x509.Certificate, crypto.Signer) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c := &x509.Certificate{SerialNumber: big.NewInt(7), Subject: pkix.Name{CommonName: name}, NotBefore: now.AddDate(0, 0, -1), NotAfter: end,
		BasicConstraintsValid: true, IsCA: ca, ExtKeyUsage: []x509.ExtKeyUsage{use}, KeyUsage: x509.KeyUsageDigitalSignature}
	issuer, signer := a.cert, a.key
	if ca {
		c.KeyUsage, issuer, signer = x509.KeyUsageCertSign|x509.KeyUsageCRLSign, c, key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, issuer, key.Public(), signer)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert, key
}

func (a *authority) header(sequence, size uint64, day uint32) filter.Header {
	return filter.Header{Authority: "device-1", KeyHash: keyHash(a.cert), Sequence: sequence, Size: size, Day: day, ThisUpdate: now, NextUpdate: now.AddDate(0, 0, 2)}
}

func keyHash(c *x509.Certificate) [32]byte { return sha256.Sum256(c.RawSubjectPublicKeyInfo) }

// drawn are serial numbers in the form of S4, of the days before today.
func drawn(n int, seed uint64) [][]byte {
	r := mrand.NewChaCha8([32]byte{byte(seed)})
	out := make([][]byte, n)
	for i := range out {
		s := make([]byte, 20)
		r.Read(s[4:])
		binary.BigEndian.PutUint32(s, 1<<30|uint32(today-1-i%900))
		out[i] = s
	}
	return out
}

func each(all [][]byte) iter.Seq2[[]byte, error] {
	return func(yield func([]byte, error) bool) {
		for _, s := range all {
			if !yield(s, nil) {
				return
			}
		}
	}
}

func (a *authority) build(t testing.TB, h filter.Header, revoked, issued [][]byte) []byte {
	t.Helper()
	h.Issued = uint64(len(issued))
	out, err := filter.Build(h, revoked, each(issued), a.signer)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// S35 and the promise about it: not one wrong answer over everything issued. The
// long form is a million with 10,000 revoked.
func TestVerifier_IsExactOverEverythingIssued_S35(t *testing.T) {
	n := 100_000
	if os.Getenv("HALLMARK_PROOF") != "" {
		n = 1_000_000
	}
	a := newAuthority(t, "CA")
	issued := drawn(n, 1)
	revoked := issued[:n/100]
	data := a.build(t, a.header(1, 5, today), revoked, issued)
	v := filter.NewVerifier(a.cert, 0)
	if err := v.Load(data, now); err != nil {
		t.Fatal(err)
	}
	wrong := 0
	for i, s := range issued {
		want := filter.Good
		if i < n/100 {
			want = filter.Revoked
		}
		if v.Serial(s, now) != want {
			wrong++
		}
	}
	if wrong > 0 {
		t.Errorf("%d wrong answers of %d", wrong, n)
	}
	if bits := float64(len(data)*8) / float64(n/100); bits > 10 && n == 1_000_000 {
		t.Errorf("%.1f bits for each that is revoked", bits)
	}
	t.Logf("%d octets for %d revoked of %d", len(data), n/100, n)
}

func TestVerifier_IsExactForAnyShare(t *testing.T) {
	a := newAuthority(t, "CA")
	issued := drawn(3000, 2)
	for _, k := range []int{0, 1, 2, 17, 500, 1500, 2999, 3000} {
		v := filter.NewVerifier(a.cert, 0)
		if err := v.Load(a.build(t, a.header(1, 5, today), issued[:k], issued), now); err != nil {
			t.Fatal(err)
		}
		for i, s := range issued {
			if got := v.Serial(s, now); (got == filter.Revoked) != (i < k) || got == filter.NotCovered {
				t.Fatalf("%d of 3000 revoked: number %d is %s", k, i, got)
			}
		}
	}
}

func TestVerifier_SaysWhatItDoesNotCover_S35(t *testing.T) {
	a, other := newAuthority(t, "CA"), newAuthority(t, "Other")
	issued := drawn(1000, 3)
	v := filter.NewVerifier(a.cert, 0)
	if got := v.Serial(issued[0], now); got != filter.NotCovered {
		t.Errorf("without a filter: %s", got)
	}
	if err := v.Load(a.build(t, a.header(1, 1000, today), issued[:10], issued), now); err != nil {
		t.Fatal(err)
	}
	fresh := append([]byte(nil), issued[500]...)
	binary.BigEndian.PutUint32(fresh, 1<<30|today)
	for what, got := range map[string]filter.Answer{
		"of today":              v.Serial(fresh, now),
		"of tomorrow's log":     v.Logged(fresh, 1000, now),
		"of another form":       v.Serial([]byte{1, 2, 3}, now),
		"after its end":         v.Serial(issued[0], now.AddDate(0, 0, 2)),
		"of another CA":         v.Status(&x509.Certificate{RawIssuer: other.cert.RawSubject, SerialNumber: new(big.Int).SetBytes(issued[0])}, now),
		"of another key's name": v.Status(&x509.Certificate{RawIssuer: a.cert.RawSubject, AuthorityKeyId: []byte{9}, SerialNumber: new(big.Int).SetBytes(issued[0])}, now),
	} {
		if got != filter.NotCovered {
			t.Errorf("%s: %s", what, got)
		}
	}
	if got := v.Status(&x509.Certificate{RawIssuer: a.cert.RawSubject, SerialNumber: new(big.Int).SetBytes(issued[0])}, now); got != filter.Revoked {
		t.Errorf("a revoked one: %s", got)
	}
	if got := v.Logged(issued[20], 999, now); got != filter.Good {
		t.Errorf("a good one by its receipt: %s", got)
	}
}

func TestVerifier_FollowsChanges(t *testing.T) {
	a := newAuthority(t, "CA")
	issued := drawn(2000, 4)
	v := filter.NewVerifier(a.cert, 0)
	if err := v.Load(a.build(t, a.header(1, 1000, today-900), issued[:10], issued), now); err != nil {
		t.Fatal(err)
	}
	h := a.header(2, 2000, today)
	h.Base = 1
	delta, err := filter.BuildDelta(h, [][]byte{issued[50], issued[51]}, [][]byte{issued[3]}, a.signer)
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Load(delta, now); err != nil {
		t.Fatal(err)
	}
	for i, want := range map[int]filter.Answer{0: filter.Revoked, 3: filter.Good, 50: filter.Revoked, 51: filter.Revoked, 60: filter.Good} {
		// The filter covers them by their place in the log, the delta by their day too.
		if got := v.Logged(issued[i], 5, now); got != want {
			t.Errorf("number %d is %s, want %s", i, got, want)
		}
	}
	if got := v.Serial(issued[60], now); got != filter.Good {
		t.Errorf("a number that only the changes cover is %s", got)
	}
	h.Sequence, h.Base = 4, 3
	if stray, err := filter.BuildDelta(h, nil, nil, a.signer); err != nil {
		t.Fatal(err)
	} else if err := v.Load(stray, now); !errors.Is(err, filter.ErrBase) {
		t.Errorf("changes of another filter: %v", err)
	}
}

func TestVerifier_RefusesRollbackAndForgery_S35(t *testing.T) {
	a, other := newAuthority(t, "CA"), newAuthority(t, "CA")
	issued := drawn(300, 5)
	old := a.build(t, a.header(1, 100, today), nil, issued)
	newer := a.build(t, a.header(2, 200, today), issued[:3], issued)
	v := filter.NewVerifier(a.cert, 0)
	for _, f := range [][]byte{old, newer, newer} {
		if err := v.Load(f, now); err != nil {
			t.Fatal(err)
		}
	}
	check := func(what string, data []byte, at time.Time, want error) {
		t.Helper()
		if err := v.Load(data, at); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", what, err, want)
		}
		if v.Serial(issued[0], now) != filter.Revoked {
			t.Errorf("%s: the newer filter is gone", what)
		}
	}
	check("the older one", old, now, filter.ErrRollback)
	check("a higher sequence of an older log", a.build(t, a.header(3, 150, today), nil, issued), now, filter.ErrRollback)
	check("a higher sequence of an older day", a.build(t, a.header(3, 250, today-1), nil, issued), now, filter.ErrRollback)
	late := a.header(3, 300, today)
	late.NextUpdate = now
	check("one that is over", a.build(t, late, nil, issued), now, filter.ErrStale)
	early := a.header(3, 300, today)
	early.ThisUpdate = now.Add(time.Hour)
	check("one of the future", a.build(t, early, nil, issued), now, filter.ErrStale)
	check("another CA's delegate", other.build(t, a.header(3, 300, today), nil, issued), now, filter.ErrSignature)
	check("another CA's", other.build(t, other.header(3, 300, today), nil, issued), now, filter.ErrSignature)
	self := *a
	self.signer = filter.Signer{Key: a.key, Cert: a.cert}
	check("the CA's own key", self.build(t, a.header(3, 300, today), nil, issued), now, filter.ErrSignature)
	self.signer.Cert, self.signer.Key = a.certify(t, "client", false, x509.ExtKeyUsageClientAuth, now.AddDate(1, 0, 0))
	check("a device's key", self.build(t, a.header(3, 300, today), nil, issued), now, filter.ErrSignature)
	for i := range newer {
		bad := append([]byte(nil), newer...)
		bad[i] ^= 0x10
		if v.Load(bad, now) == nil {
			t.Fatalf("octet %d was changed, and the filter taken", i)
		}
	}
	// After a restart what was known before counts.
	again := filter.NewVerifier(a.cert, v.Sequence())
	again.Load(old, now)
	if got := again.Serial(issued[0], now); got != filter.NotCovered {
		t.Errorf("an older filter after a restart says %s", got)
	}
	if err := again.Load(newer, now); err != nil || again.Serial(issued[0], now) != filter.Revoked {
		t.Errorf("the newest filter after a restart: %v", err)
	}
}

// A verifier takes the package as it is.
func TestPackage_ImportsTheStandardLibraryOnly(t *testing.T) {
	files, err := filepath.Glob("*.go")
	if err != nil || len(files) < 4 {
		t.Fatal(files, err)
	}
	for _, f := range files {
		if strings.HasSuffix(f, "_test.go") {
			continue
		}
		p, err := parser.ParseFile(token.NewFileSet(), f, nil, parser.ImportsOnly)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range p.Imports {
			if first, _, _ := strings.Cut(strings.Trim(i.Path.Value, `"`), "/"); strings.Contains(first, ".") || first == "hallmark" {
				t.Errorf("%s imports %s", f, i.Path.Value)
			}
		}
	}
}

func FuzzVerifier_Load(f *testing.F) {
	a := newAuthority(f, "CA")
	issued := drawn(200, 6)
	f.Add(a.build(f, a.header(1, 5, today), issued[:20], issued))
	h := a.header(2, 5, today)
	h.Base = 1
	if d, err := filter.BuildDelta(h, issued[30:33], issued[:2], a.signer); err == nil {
		f.Add(d)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		v := filter.NewVerifier(a.cert, 0)
		if v.Load(in, now) == nil {
			for _, s := range issued {
				v.Serial(s, now)
			}
		}
	})
}
