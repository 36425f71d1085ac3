package crl

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha1"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	mrand "math/rand/v2"
	"slices"
	"testing"
	"time"

	"golang.org/x/crypto/ocsp"

	"hallmark/ca"
	"hallmark/ca/profile"
	"hallmark/internal/der"
)

var start = time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)

func TestDecide_NeverWeakensKeyCompromise_A33(t *testing.T) {
	at := func(r Reason) *Revocation { return &Revocation{Reason: r, At: start} }
	released := &Revocation{Reason: CertificateHold, At: start, ReleasedAt: start}
	for _, c := range []struct {
		have *Revocation
		want Reason
		do   change
		err  error
	}{
		{nil, Unspecified, changeInsert, nil},
		{nil, CertificateHold, changeInsert, nil},
		{nil, 2, 0, ErrReason}, {nil, 7, 0, ErrReason}, {nil, 8, 0, ErrReason}, {nil, 10, 0, ErrReason}, {nil, 11, 0, ErrReason}, {nil, 255, 0, ErrReason},
		{released, Superseded, changeInsert, nil},
		{at(KeyCompromise), KeyCompromise, changeNothing, nil},
		{at(KeyCompromise), Superseded, 0, ErrWeaken},
		{at(KeyCompromise), CertificateHold, 0, ErrWeaken},
		{at(Superseded), KeyCompromise, changeReason, nil},
		{at(Superseded), CessationOfOperation, 0, ErrRevoked},
		{at(Superseded), CertificateHold, 0, ErrRevoked},
		{at(CertificateHold), CertificateHold, changeNothing, nil},
		{at(CertificateHold), PrivilegeWithdrawn, changeReason, nil},
		{at(CertificateHold), KeyCompromise, changeReason, nil},
	} {
		do, err := decide(c.have, c.want)
		if do != c.do || (err == nil) != (c.err == nil) || c.err != nil && !isFault(err, c.err) {
			t.Errorf("%+v, want %v: got %v, %v", c.have, c.want, do, err)
		}
	}
	for r := range 12 {
		p, err := ParseReason(Reason(r).String())
		if Reason(r).Valid() != (err == nil) || err == nil && p != Reason(r) {
			t.Errorf("reason %d: %v, %v", r, p, err)
		}
	}
}

func isFault(err, want error) bool {
	f, ok := err.(interface{ Is(error) bool })
	return ok && f.Is(want)
}

func randomSerial(r *mrand.Rand) (s ca.Serial) {
	for i := range s {
		s[i] = byte(r.Uint32())
	}
	s[0] = 0x40 | s[0]&0x3f
	return s
}

func TestMerge_IsTheOrderedUnion(t *testing.T) {
	r := mrand.New(mrand.NewPCG(1, 2))
	for range 300 {
		want := map[ca.Serial][]byte{}
		encode := func() []byte {
			var keys []ca.Serial
			for s := range want {
				keys = append(keys, s)
			}
			slices.SortFunc(keys, func(a, b ca.Serial) int { return bytes.Compare(a[:], b[:]) })
			var out []byte
			for _, s := range keys {
				out = append(out, want[s]...)
			}
			return out
		}
		for range r.IntN(20) {
			s := randomSerial(r)
			want[s] = appendEntry(nil, s, start, Superseded)
		}
		base := encode()
		var edits []edit
		for s := range want {
			switch r.IntN(4) {
			case 0:
				edits = append(edits, edit{serial: s})
				delete(want, s)
			case 1:
				want[s] = appendEntry(nil, s, start, KeyCompromise)
				edits = append(edits, edit{s, want[s]})
			}
		}
		for range r.IntN(5) {
			s := randomSerial(r)
			want[s] = appendEntry(nil, s, start, Unspecified)
			edits = append(edits, edit{s, want[s]})
		}
		edits = append(edits, edit{serial: randomSerial(r)}) // takes away what is not there
		slices.SortFunc(edits, func(a, b edit) int { return bytes.Compare(a.serial[:], b.serial[:]) })
		pieces, err := merge(base, edits)
		if err != nil || !bytes.Equal(encode(), bytes.Join(pieces, nil)) {
			t.Fatalf("merge of %d edits: %v", len(edits), err)
		}
	}
}

// sample is a list of n entries with a real signature.
func sample(t testing.TB, n int) (*x509.Certificate, []byte) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "CA"}, NotBefore: start, NotAfter: start.AddDate(1, 0, 0),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCRLSign | x509.KeyUsageCertSign, SubjectKeyId: []byte{1, 2, 3}}
	raw, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, _ := x509.ParseCertificate(raw)
	alg, hash, _ := profile.SignatureAlgorithm(key.Public())
	r := mrand.New(mrand.NewPCG(uint64(n), 9))
	serials := make([]ca.Serial, n)
	for i := range serials {
		serials[i] = randomSerial(r)
	}
	slices.SortFunc(serials, func(a, b ca.Serial) int { return bytes.Compare(a[:], b[:]) })
	var entries []byte
	for i, s := range serials {
		entries = appendEntry(entries, s, start, []Reason{0, 1, 3, 4, 5, 6, 9}[i%7])
	}
	hd := &header{SigAlg: alg, Issuer: cert.RawSubject, KeyID: cert.SubjectKeyId, URL: "http://pki.example.com/crl/d/0.crl", Number: 7, ThisUpdate: start, NextUpdate: start.AddDate(0, 0, 7)}
	front, back := hd.frame(len(entries))
	tbs := slices.Concat(front, entries, back)
	h := hash.New()
	h.Write(tbs)
	sig, err := key.Sign(rand.Reader, h.Sum(nil), hash)
	if err != nil {
		t.Fatal(err)
	}
	return cert, profile.Assemble(tbs, alg, sig)
}

func TestList_ReadsTheSameInTheStandardLibrary(t *testing.T) {
	for _, n := range []int{0, 1, 3, 500} {
		cert, out := sample(t, n)
		l, err := ParseList(out)
		if err != nil {
			t.Fatal(err)
		}
		if err := l.Verify(cert); err != nil {
			t.Fatal(err)
		}
		std, err := x509.ParseRevocationList(out)
		if err != nil {
			t.Fatal(err)
		}
		if err := std.CheckSignatureFrom(cert); err != nil {
			t.Fatal(err)
		}
		if l.Number != std.Number.Int64() || !l.ThisUpdate.Equal(std.ThisUpdate) || !l.NextUpdate.Equal(std.NextUpdate) || l.Count != len(std.RevokedCertificateEntries) || !bytes.Equal(l.KeyID, std.AuthorityKeyId) || !l.Ordered {
			t.Errorf("%d entries: we read %+v", n, l)
		}
		i := 0
		if err := l.Each(func(e Entry) error {
			w := std.RevokedCertificateEntries[i]
			if new(big.Int).SetBytes(e.Serial).Cmp(w.SerialNumber) != 0 || int(e.Reason) != w.ReasonCode || !e.At.Equal(w.RevocationTime) || !bytes.Equal(e.Raw, w.Raw) {
				t.Errorf("entry %d differs", i)
			}
			i++
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
}

func TestParseList_RefusesWhatWasBent(t *testing.T) {
	cert, out := sample(t, 5)
	other, _ := sample(t, 1)
	l, _ := ParseList(out)
	if err := l.Verify(other); !isFault(err, ErrListUntrusted) {
		t.Errorf("another issuer: %v", err)
	}
	for i := range out {
		bad := bytes.Clone(out)
		bad[i] ^= 0x04
		p, err := ParseList(bad)
		if err != nil {
			continue
		}
		if p.Verify(cert) == nil {
			t.Fatalf("octet %d was changed and the list verifies", i)
		}
	}
	for n := range out {
		if _, err := ParseList(out[:n]); err == nil {
			t.Fatalf("the first %d octets are a list", n)
		}
	}
	if _, err := ParseList(append(bytes.Clone(out), 0)); err == nil {
		t.Error("trailing octet taken")
	}
}

func TestLost_NamesWhatIsGone(t *testing.T) {
	_, out := sample(t, 50)
	l, _ := ParseList(out)
	var kept []byte
	var want [][]byte
	i := 0
	l.Each(func(e Entry) error {
		if i%7 == 3 || i == 0 || i == 49 {
			want = append(want, e.Serial)
		} else {
			kept = append(kept, e.Raw...)
		}
		i++
		return nil
	})
	lostOf := func(kept []byte) (out []Entry, err error) {
		a, err := newEntries(l.Entries)
		if err != nil {
			return nil, err
		}
		b, err := newEntries(kept)
		if err != nil {
			return nil, err
		}
		err = compare(a, b, func(e Entry) error { out = append(out, e); return nil }, func(e Entry) error {
			t.Errorf("%x is new or changed", e.Serial)
			return nil
		})
		return out, err
	}
	lost, err := lostOf(kept)
	if err != nil || len(lost) != len(want) {
		t.Fatalf("%d lost, want %d: %v", len(lost), len(want), err)
	}
	for i := range lost {
		if !bytes.Equal(lost[i].Serial, want[i]) {
			t.Errorf("lost %x, want %x", lost[i].Serial, want[i])
		}
	}
	if lost, _ := lostOf(l.Entries); len(lost) != 0 {
		t.Errorf("%d lost of the same list", len(lost))
	}
}

// A56: reading a list of any size allocates next to nothing.
func TestParseList_DoesNotCopyEntries_A32(t *testing.T) {
	_, out := sample(t, 20_000)
	if n := testing.AllocsPerRun(3, func() { ParseList(out) }); n > 60 {
		t.Errorf("%v allocations for 20,000 entries", n)
	}
}

func FuzzParseList(f *testing.F) {
	_, a := sample(f, 0)
	_, b := sample(f, 4)
	f.Add(a)
	f.Add(b)
	f.Add([]byte{0x30, 0x80, 0, 0})
	f.Fuzz(func(t *testing.T, in []byte) {
		l, err := ParseList(in)
		if err != nil {
			return
		}
		n := 0
		if err := l.Each(func(e Entry) error { n++; return nil }); err != nil || n != l.Count {
			t.Fatalf("%d entries, then %d: %v", l.Count, n, err)
		}
		if l.Ordered {
			e, err := newEntries(l.Entries)
			if err != nil || e.count != l.Count || !bytes.Equal(bytes.Join(e.octets(), nil), l.Entries) {
				t.Fatalf("cut %d of %d entries: %v", e.count, l.Count, err)
			}
		}
	})
}

func ocspQuestion(t testing.TB) (*x509.Certificate, []byte) {
	cert, _ := sample(t, 0)
	serial := randomSerial(mrand.New(mrand.NewPCG(3, 4)))
	q, err := ocsp.CreateRequest(&x509.Certificate{SerialNumber: serial.Int()}, cert, &ocsp.RequestOptions{Hash: crypto.SHA1})
	if err != nil {
		t.Fatal(err)
	}
	return cert, q
}

func TestParseRequest_NamesTheIssuer(t *testing.T) {
	cert, q := ocspQuestion(t)
	r, err := parseRequest(q)
	if err != nil || len(r.certs) != 1 {
		t.Fatal(err)
	}
	bits, _ := keyBits(cert.RawSubjectPublicKeyInfo)
	name, key := sha1.Sum(cert.RawSubject), sha1.Sum(bits)
	if id := r.certs[0]; id.hash != crypto.SHA1 || !bytes.Equal(id.nameHash, name[:]) || !bytes.Equal(id.keyHash, key[:]) {
		t.Errorf("%+v", id)
	}
	for n := range q {
		if _, err := parseRequest(q[:n]); err == nil {
			t.Fatalf("the first %d octets are a request", n)
		}
	}
}

func FuzzParseRequest(f *testing.F) {
	_, q := ocspQuestion(f)
	f.Add(q)
	f.Add([]byte{0x30, 0x03, 0x30, 0x01, 0x30})
	f.Fuzz(func(t *testing.T, in []byte) {
		r, err := parseRequest(in)
		if err != nil {
			return
		}
		statuses := make([]certStatus, len(r.certs))
		for i := range r.certs {
			r.certs[i].ours()
			statuses[i] = certStatus{kind: statusKind(i % 3), reason: KeyCompromise, at: start}
		}
		out := appendResponseData(nil, make([]byte, 20), r.certs, statuses, start, start, start.Add(time.Hour), r.nonce)
		if _, err := der.Only(out, der.TagSequence); err != nil {
			t.Fatal(err)
		}
	})
}

func TestDecodeGET_TakesWhatClientsSend(t *testing.T) {
	want := []byte{0xfb, 0xff, 0xfe, 0x01}
	for _, s := range []string{"+//+AQ==", "+//+AQ", " // AQ==", "-__-AQ", "%2B%2F%2F%2BAQ%3D%3D"} {
		if got := decodeGET(s); !bytes.Equal(got, want) {
			t.Errorf("%q: %x", s, got)
		}
	}
	if decodeGET("@@@") != nil {
		t.Error("not base64, and taken")
	}
}

func TestAnswers_KeepNothingComposedBeforeAChange(t *testing.T) {
	var c answers
	c.init(4)
	var s ca.Serial
	s[0] = 0x41
	gen := c.generation()
	c.forget(s)
	c.put("k", cached{renew: start}, s, gen)
	if _, ok := c.get([]byte("k"), start.Add(-1)); ok {
		t.Error("an answer from before the revocation was kept")
	}
	c.put("k", cached{renew: start}, s, c.generation())
	if _, ok := c.get([]byte("k"), start.Add(-1)); !ok {
		t.Error("not kept")
	}
	if _, ok := c.get([]byte("k"), start); ok {
		t.Error("kept beyond its time")
	}
	for i := range 50 {
		s[1] = byte(i)
		c.put(string(rune('a'+i)), cached{renew: start}, s, c.generation())
	}
	if n := len(c.young) + len(c.old); n > 4 {
		t.Errorf("%d answers kept, 4 allowed", n)
	}
}

func BenchmarkList(b *testing.B) {
	_, out := sample(b, 100_000)
	l, _ := ParseList(out)
	one := randomSerial(mrand.New(mrand.NewPCG(5, 5)))
	e, _ := newEntries(l.Entries)
	b.Run("revoke-one-of-100k", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := e.apply([]edit{{one, appendEntry(nil, one, start, KeyCompromise)}}); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("parse-100k", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			ParseList(out)
		}
	})
}
