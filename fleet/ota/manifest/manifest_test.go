package manifest

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"hallmark/internal/fault"
)

var (
	day   = time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)
	image = []byte("an image of firmware")
)

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func ecKey(t testing.TB, c elliptic.Curve) crypto.Signer {
	t.Helper()
	k, err := ecdsa.GenerateKey(c, rand.Reader)
	check(t, err)
	return k
}

func sample() *Manifest {
	return &Manifest{Class: "lamp", Version: "1.4.0", Floor: "1.2", Requires: "1.1", Hardware: []string{"rev-a", "rev-b"}, Size: int64(len(image)), Digest: sha256.Sum256(image), Expires: day.Add(90 * 24 * time.Hour)}
}

func signed(t testing.TB, m *Manifest, keys ...crypto.Signer) []byte {
	t.Helper()
	s, err := New(m)
	check(t, err)
	for _, k := range keys {
		check(t, s.Sign(k, nil))
	}
	raw, err := s.Encode()
	check(t, err)
	return raw
}

func pinned(t testing.TB, need int, keys ...crypto.Signer) *Trust {
	t.Helper()
	var text []byte
	for _, k := range keys {
		der, err := x509.MarshalPKIXPublicKey(k.Public())
		check(t, err)
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})...)
	}
	trust, err := ParseTrust(text, need)
	check(t, err)
	return trust
}

func codeOf(err error) string {
	if err == nil {
		return ""
	}
	return fault.From(err).Code
}

// TestS40_AManifestCountsWithTheSignaturesThatAreNeeded by pinned keys of every kind,
// by two people where two are asked for, and by certificates of a pinned root.
func TestS40_AManifestCountsWithTheSignaturesThatAreNeeded(t *testing.T) {
	_, ed, err := ed25519.GenerateKey(rand.Reader)
	check(t, err)
	a, b, stranger := ecKey(t, elliptic.P256()), ecKey(t, elliptic.P384()), ecKey(t, elliptic.P256())
	for _, k := range []crypto.Signer{a, b, ed} {
		m, signers, err := pinned(t, 0, k).Verify(signed(t, sample(), k), day)
		check(t, err)
		if m.Class != "lamp" || m.Version != "1.4.0" || m.Floor != "1.2" || m.Requires != "1.1" || len(m.Hardware) != 2 || m.Size != int64(len(image)) || m.CheckImage(bytes.NewReader(image)) != nil || len(signers) != 1 {
			t.Errorf("%+v %v", m, signers)
		}
	}
	two := pinned(t, 2, a, b, ed)
	for what, c := range map[string]struct {
		keys []crypto.Signer
		code string
	}{
		"one of two": {[]crypto.Signer{a}, "firmware-signers"}, "one and a stranger": {[]crypto.Signer{a, stranger}, "firmware-signers"}, "two": {[]crypto.Signer{b, ed}, ""},
		"two and a stranger": {[]crypto.Signer{stranger, a, ed}, ""}, "a stranger": {[]crypto.Signer{stranger}, "firmware-signers"},
	} {
		if _, _, err := two.Verify(signed(t, sample(), c.keys...), day); codeOf(err) != c.code {
			t.Errorf("%s: %v", what, err)
		}
	}
	s, err := New(sample())
	check(t, err)
	check(t, s.Sign(a, nil))
	if err := s.Sign(a, nil); !errors.Is(err, ErrKey) {
		t.Errorf("twice: %v", err)
	}
	if err := s.Sign(ecKey(t, elliptic.P521()), nil); !errors.Is(err, ErrKey) {
		t.Errorf("P-521: %v", err)
	}
	// The same signature twice is not two people.
	s.signatures = append(s.signatures, s.signatures[0])
	raw, err := s.Encode()
	check(t, err)
	if _, _, err := pinned(t, 2, a, b).Verify(raw, day); !errors.Is(err, ErrSignature) {
		t.Errorf("twice the same: %v", err)
	}
}

// certificate issues one for a key; parent nil is a root.
func certificate(t testing.TB, pub any, parent *x509.Certificate, by crypto.Signer, change func(*x509.Certificate)) *x509.Certificate {
	t.Helper()
	c := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "firmware"}, NotBefore: day.Add(-time.Hour), NotAfter: day.Add(time.Hour), BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature}
	if change != nil {
		change(c)
	}
	if parent == nil {
		c.IsCA, c.KeyUsage, parent = true, x509.KeyUsageCertSign, c
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, pub, by)
	check(t, err)
	out, err := x509.ParseCertificate(der)
	check(t, err)
	return out
}

// TestS40_ARootOfItsOwnCertifiesSigners and nobody whom it did not certify for code.
func TestS40_ARootOfItsOwnCertifiesSigners(t *testing.T) {
	rootKey, key := ecKey(t, elliptic.P384()), ecKey(t, elliptic.P256())
	root := certificate(t, rootKey.Public(), nil, rootKey, nil)
	other := certificate(t, rootKey.Public(), nil, rootKey, func(c *x509.Certificate) { c.Subject.CommonName = "other" })
	coding := func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageCodeSigning} }
	trust, err := ParseTrust(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: root.Raw}), 1)
	check(t, err)
	if !trust.Uses(rootKey.Public()) || trust.Uses(key.Public()) {
		t.Error("uses")
	}
	for what, c := range map[string]struct {
		cert *x509.Certificate
		at   time.Time
		code string
	}{
		"good":        {certificate(t, key.Public(), root, rootKey, coding), day, ""},
		"too late":    {certificate(t, key.Public(), root, rootKey, coding), day.Add(2 * time.Hour), "firmware-signature"},
		"no usage":    {certificate(t, key.Public(), root, rootKey, nil), day, "firmware-signature"},
		"for servers": {certificate(t, key.Public(), root, rootKey, func(c *x509.Certificate) { c.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth} }), day, "firmware-signature"},
		"a CA":        {certificate(t, key.Public(), root, rootKey, func(c *x509.Certificate) { coding(c); c.IsCA = true }), day, "firmware-signature"},
		"self-signed": {certificate(t, key.Public(), nil, key, coding), day, "firmware-signature"},
		"other root":  {certificate(t, key.Public(), other, rootKey, coding), day, "firmware-signature"},
	} {
		s, err := New(sample())
		check(t, err)
		check(t, s.Sign(key, []*x509.Certificate{c.cert}))
		raw, err := s.Encode()
		check(t, err)
		if _, _, err := trust.Verify(raw, c.at); codeOf(err) != c.code {
			t.Errorf("%s: %v", what, err)
		}
	}
	s, err := New(sample())
	check(t, err)
	if err := s.Sign(rootKey, []*x509.Certificate{certificate(t, key.Public(), root, rootKey, coding)}); !errors.Is(err, ErrKey) {
		t.Errorf("somebody else's certificate: %v", err)
	}
}

// TestS40_EveryBoundFieldIsBound: whoever changes one has no signature any more, and
// every octet of the file is in the one encoding or under the signature.
func TestS40_EveryBoundFieldIsBound(t *testing.T) {
	k := ecKey(t, elliptic.P256())
	trust := pinned(t, 1, k)
	for what, change := range map[string]func(m *Manifest){
		"class": func(m *Manifest) { m.Class = "oven" }, "version": func(m *Manifest) { m.Version = "1.4.1" }, "floor": func(m *Manifest) { m.Floor = "1.0" }, "requires": func(m *Manifest) { m.Requires = "" },
		"hardware": func(m *Manifest) { m.Hardware = append(m.Hardware, "rev-c") }, "size": func(m *Manifest) { m.Size++ }, "digest": func(m *Manifest) { m.Digest[3] ^= 1 }, "expires": func(m *Manifest) { m.Expires = m.Expires.Add(time.Second) },
	} {
		s, err := Parse(signed(t, sample(), k))
		check(t, err)
		m := sample()
		change(m)
		if s.payload, err = m.encode(); err != nil {
			t.Fatal(err)
		}
		raw, err := s.Encode()
		check(t, err)
		if _, _, err := trust.Verify(raw, day); codeOf(err) != "firmware-signature" {
			t.Errorf("%s: %v", what, err)
		}
	}
	raw := signed(t, sample(), k)
	for i := range raw {
		for _, bit := range []byte{1, 0x80} {
			bad := bytes.Clone(raw)
			bad[i] ^= bit
			if _, _, err := trust.Verify(bad, day); err == nil {
				t.Fatalf("octet %d", i)
			}
		}
	}
	if _, _, err := trust.Verify(append(bytes.Clone(raw), 0), day); !errors.Is(err, ErrManifest) {
		t.Errorf("one octet more: %v", err)
	}
}

// TestS40_WhatDoesNotFitIsRefusedWithItsCode, rightly signed as it is.
func TestS40_WhatDoesNotFitIsRefusedWithItsCode(t *testing.T) {
	d := Device{Class: "lamp", Hardware: "rev-a", Version: "1.3.9", Floor: "1.3"}
	for what, c := range map[string]struct {
		change func(m *Manifest)
		at     time.Time
		code   string
	}{
		"good": {nil, day, ""}, "class": {func(m *Manifest) { m.Class = "oven" }, day, "firmware-class"}, "hardware": {func(m *Manifest) { m.Hardware = []string{"rev-z"} }, day, "firmware-hardware"},
		"expired": {nil, day.Add(90 * 24 * time.Hour), "firmware-expired"}, "floor": {func(m *Manifest) { m.Version = "1.2.9" }, day, "firmware-floor"},
		"to the floor": {func(m *Manifest) { m.Version = "1.3" }, day, ""}, "requires": {func(m *Manifest) { m.Requires = "1.3.10" }, day, "firmware-requires"},
	} {
		m := sample()
		if c.change != nil {
			c.change(m)
		}
		if err := m.Fits(d, c.at); codeOf(err) != c.code {
			t.Errorf("%s: %v", what, err)
		}
	}
	for what, octets := range map[string][]byte{"shorter": image[1:], "longer": append(bytes.Clone(image), 0), "another": append(bytes.Clone(image[1:]), 0)} {
		if err := sample().CheckImage(bytes.NewReader(octets)); codeOf(err) != "firmware-image" {
			t.Errorf("%s: %v", what, err)
		}
	}
	for what, change := range map[string]func(m *Manifest){
		"no class": func(m *Manifest) { m.Class = "" }, "a path": func(m *Manifest) { m.Class = "../lamp" }, "below its floor": func(m *Manifest) { m.Version = "1.1" }, "no hardware": func(m *Manifest) { m.Hardware = nil },
		"hardware twice": func(m *Manifest) { m.Hardware = []string{"a", "a"} }, "empty": func(m *Manifest) { m.Size = 0 }, "no end": func(m *Manifest) { m.Expires = time.Time{} }, "half a second": func(m *Manifest) { m.Expires = m.Expires.Add(time.Second / 2) },
	} {
		m := sample()
		change(m)
		if _, err := New(m); codeOf(err) != "firmware-manifest-malformed" {
			t.Errorf("%s: %v", what, err)
		}
	}
}

func TestVersion_IsComparedNumberByNumber(t *testing.T) {
	for _, c := range []struct {
		a, b Version
		want int
	}{{"1.9", "1.10", -1}, {"2", "1.99.99", 1}, {"1.4", "1.4.0", 0}, {"", "0", -1}, {"1.4.0.1", "1.4", 1}} {
		if got := c.a.Compare(c.b); got != c.want || c.b.Compare(c.a) != -c.want {
			t.Errorf("%s %s: %d", c.a, c.b, got)
		}
	}
	for _, s := range []string{"", "1.", ".1", "01", "1.2.3.4.5", "1a", "-1", "1.1234567890", "1 "} {
		if _, err := ParseVersion(s); !errors.Is(err, ErrVersion) {
			t.Errorf("%q is taken", s)
		}
	}
}

// TestSign_OpenSSLAgrees: the signature is over the structure of RFC 9052, and
// somebody else's program verifies it.
func TestSign_OpenSSLAgrees(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal(err)
		}
		t.Skip("apt-get install openssl")
	}
	k := ecKey(t, elliptic.P256())
	s, err := Parse(signed(t, sample(), k))
	check(t, err)
	octets, err := s.toSign(s.signatures[0].Protected)
	check(t, err)
	// ["Signature", <<{3: …}>>, <<{1: -7, 4: …}>>, h'', <<{1: 1, …}>>]
	if head, _ := hex.DecodeString("85695369676e6174757265"); !bytes.HasPrefix(octets, head) {
		t.Errorf("%x", octets)
	}
	r, v := new(big.Int).SetBytes(s.signatures[0].Signature[:32]), new(big.Int).SetBytes(s.signatures[0].Signature[32:])
	der := append([]byte{}, integer(r)...)
	der = append(der, integer(v)...)
	der = append([]byte{0x30, byte(len(der))}, der...)
	dir := t.TempDir()
	pub, err := x509.MarshalPKIXPublicKey(k.Public())
	check(t, err)
	for name, b := range map[string][]byte{"pub.pem": pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: pub}), "octets": octets, "sig": der} {
		check(t, os.WriteFile(filepath.Join(dir, name), b, 0o600))
	}
	cmd := exec.Command("openssl", "dgst", "-sha256", "-verify", "pub.pem", "-signature", "sig", "octets")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v %s", err, out)
	}
}

func integer(v *big.Int) []byte {
	b := v.Bytes()
	if len(b) == 0 || b[0] >= 0x80 {
		b = append([]byte{0}, b...)
	}
	return append([]byte{2, byte(len(b))}, b...)
}

// Whatever it is given: it is refused with a code, or it is the one encoding of what
// it says.
func FuzzParse(f *testing.F) {
	k := ecKey(f, elliptic.P256())
	f.Add(signed(f, sample(), k))
	f.Add(signed(f, sample(), k, ecKey(f, elliptic.P384())))
	f.Add([]byte{0xd8, 98, 0x84})
	f.Add([]byte{})
	trust := pinned(f, 1, k)
	f.Fuzz(func(t *testing.T, raw []byte) {
		m, _, verr := trust.Verify(raw, day)
		s, err := Parse(raw)
		if err != nil {
			if codeOf(err) == "internal" || verr == nil {
				t.Errorf("%v %v", err, verr)
			}
			return
		}
		again, err := s.Encode()
		if err != nil || !bytes.Equal(again, raw) {
			t.Errorf("%x %v", again, err)
		}
		if verr == nil && m.Check() != nil {
			t.Errorf("%+v", m)
		}
	})
}
