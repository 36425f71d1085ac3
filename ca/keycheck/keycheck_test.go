//lint:file-ignore SA1019 hostile keys are built by hand, with the coordinates that the standard library would not give

package keycheck

import (
	"crypto"
	"crypto/dsa"
	"crypto/ecdh"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"math/big"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"hallmark/internal/der"
)

// budget is A19's: no key, however hostile, may cost more. The race detector
// and a busy machine make big numbers several times slower, so the best of
// three counts.
const budget = 50 * time.Millisecond

func refused(t *testing.T, name string, pub crypto.PublicKey, want error) {
	t.Helper()
	best := time.Hour
	for range 3 {
		start := time.Now()
		if err := Check(pub); !errors.Is(err, want) {
			t.Errorf("%s: got %v, want %v", name, err, want)
			return
		}
		best = min(best, time.Since(start))
	}
	if best > budget {
		t.Errorf("%s: refused only after %v", name, best)
	}
}

func rsaKey(t testing.TB, bits int) *rsa.PrivateKey {
	t.Helper()
	k, err := rsa.GenerateKey(rand.Reader, bits)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func ecKey(t testing.TB, c elliptic.Curve) *ecdsa.PublicKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(c, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return &k.PublicKey
}

func TestCheck_TakesSoundKeys(t *testing.T) {
	ed, _, _ := ed25519.GenerateKey(rand.Reader)
	for name, pub := range map[string]crypto.PublicKey{
		"P-256": ecKey(t, elliptic.P256()), "P-384": ecKey(t, elliptic.P384()),
		"RSA-2048": rsaKey(t, 2048).Public(), "Ed25519": ed,
	} {
		if err := Check(pub); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		spki, err := x509.MarshalPKIXPublicKey(pub)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ParseSPKI(spki); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for range 200 { // Ed25519 points are judged by our own arithmetic
		ed, _, _ := ed25519.GenerateKey(rand.Reader)
		if err := Check(ed); err != nil {
			t.Fatalf("%x: %v", []byte(ed), err)
		}
	}
}

func TestCheck_FollowsThePolicy(t *testing.T) {
	p521 := ecKey(t, elliptic.P521())
	refused(t, "P-521 by default", p521, ErrUnsupported)
	if err := (Policy{AllowP521: true}).Check(p521); err != nil {
		t.Error(err)
	}
	key := rsaKey(t, 2048)
	if err := (Policy{RefuseRSA: true}).Check(key.Public()); !errors.Is(err, ErrUnsupported) {
		t.Error(err)
	}
	if err := (Policy{RSAMinBits: 3072}).Check(key.Public()); !errors.Is(err, ErrSize) {
		t.Error(err)
	}
	small := &rsa.PublicKey{N: new(big.Int).Rsh(key.N, 1024), E: 65537}
	if err := (Policy{RSAMinBits: 512}).Check(small); !errors.Is(err, ErrSize) {
		t.Errorf("a policy cannot go below 2048 bits: %v", err)
	}
	ed, _, _ := ed25519.GenerateKey(rand.Reader)
	if err := (Policy{RefuseEd25519: true}).Check(ed); !errors.Is(err, ErrUnsupported) {
		t.Error(err)
	}
}

// A19: sizes, exponents and parity are refused within 50 ms, before any big arithmetic.
func TestCheck_RefusesBadRSAShapes_A19(t *testing.T) {
	n := rsaKey(t, 2048).N
	random := func(bits int) *big.Int {
		v, _ := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), uint(bits-1)))
		return v.SetBit(v, bits-1, 1).SetBit(v, 0, 1)
	}
	for _, e := range []int{-65537, 0, 1, 2, 3, 17, 65535, 65536, 65538, 1 << 32, 1<<32 + 1} {
		refused(t, "exponent", &rsa.PublicKey{N: n, E: e}, ErrExponent)
	}
	for _, bits := range []int{8, 512, 1024, 1536, 2040, 2047, 2049, 3071, 4097, 4104, 8192, 65536, 1 << 20, 1 << 24} {
		refused(t, "size", &rsa.PublicKey{N: random(bits), E: 65537}, ErrSize)
	}
	refused(t, "even", &rsa.PublicKey{N: new(big.Int).Xor(n, big.NewInt(1)), E: 65537}, ErrFactor)
	refused(t, "zero", &rsa.PublicKey{N: new(big.Int), E: 65537}, ErrSize)
	refused(t, "negative", &rsa.PublicKey{N: new(big.Int).Neg(n), E: 65537}, ErrSize)
	refused(t, "no modulus", &rsa.PublicKey{E: 65537}, ErrSize)
	refused(t, "nil", (*rsa.PublicKey)(nil), ErrSize)

	for _, factor := range []int64{3, 257, 9973} {
		m := random(2048)
		m.Sub(m, new(big.Int).Mod(m, big.NewInt(factor)))
		if m.Bit(0) == 0 {
			m.Add(m, big.NewInt(factor))
		}
		refused(t, "small factor", &rsa.PublicKey{N: m, E: 65537}, ErrFactor)
	}
}

// A16: a modulus made the way the flawed chips made theirs.
func TestCheck_RefusesROCA_A16(t *testing.T) {
	// For 2048 bits the product has the first 126 primes.
	m := big.NewInt(1)
	for _, p := range primes()[:126] {
		m.Mul(m, new(big.Int).SetUint64(p))
	}
	flawed := func() *big.Int {
		for {
			a, _ := rand.Int(rand.Reader, m)
			g := new(big.Int).Exp(big.NewInt(65537), a, m)
			for range 2000 {
				k, _ := rand.Int(rand.Reader, big.NewInt(1<<52))
				p := k.SetBit(k, 52, 1)
				p.Mul(p, m).Add(p, g)
				p.SetBit(p, 0, 1)
				if p.BitLen() == 1024 && new(big.Int).Mod(p, m).Cmp(g) == 0 && p.ProbablyPrime(1) {
					return p
				}
			}
		}
	}
	var n *big.Int
	for n == nil || n.BitLen() != 2048 {
		n = new(big.Int).Mul(flawed(), flawed())
	}
	refused(t, "ROCA", &rsa.PublicKey{N: n, E: 65537}, ErrROCA)

	if isROCA(rsaKey(t, 2048).N) {
		t.Error("a sound key is taken for a flawed one")
	}
}

// A18: primes that Fermat's method separates within 100 rounds.
func TestCheck_RefusesClosePrimes_A18(t *testing.T) {
	next := func(p *big.Int) *big.Int {
		for p = new(big.Int).Add(p, big.NewInt(2)); !p.ProbablyPrime(1); {
			p.Add(p, big.NewInt(2))
		}
		return p
	}
	p, err := rand.Prime(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	for p.Bit(1022) == 0 { // so that the product has all its bits
		p, _ = rand.Prime(rand.Reader, 1024)
	}
	refused(t, "neighbours", &rsa.PublicKey{N: new(big.Int).Mul(p, next(p)), E: 65537}, ErrClosePrimes)
	refused(t, "a square", &rsa.PublicKey{N: new(big.Int).Mul(p, p), E: 65537}, ErrClosePrimes)

	// The difference that needs d²/(8·√n) rounds: about 50 of the 100, and far beyond.
	diff := new(big.Int).Sqrt(new(big.Int).Mul(p, big.NewInt(8*50)))
	far := next(new(big.Int).SetBit(new(big.Int).Add(p, diff), 0, 1))
	refused(t, "50 rounds", &rsa.PublicKey{N: new(big.Int).Mul(p, far), E: 65537}, ErrClosePrimes)
	beyond := new(big.Int).SetBit(new(big.Int).Add(p, diff.Lsh(diff, 2)), 0, 1)
	if hasClosePrimes(new(big.Int).Mul(p, next(beyond))) {
		t.Error("800 rounds away and taken for close")
	}
}

type lyingCurve struct{ elliptic.Curve }

func (lyingCurve) IsOnCurve(x, y *big.Int) bool { return true }

// A20: points off their curve, at infinity, on curves nobody here serves.
func TestCheck_RefusesBadPoints_A20(t *testing.T) {
	good := ecKey(t, elliptic.P256())
	x, y := good.X, good.Y
	for name, k := range map[string]*ecdsa.PublicKey{
		"off the curve":     {Curve: elliptic.P256(), X: x, Y: new(big.Int).Add(y, big.NewInt(1))},
		"infinity as zeros": {Curve: elliptic.P256(), X: new(big.Int), Y: new(big.Int)},
		"no coordinates":    {Curve: elliptic.P256()},
		"half":              {Curve: elliptic.P256(), X: x},
		"negative":          {Curve: elliptic.P256(), X: new(big.Int).Neg(x), Y: y},
		"not reduced":       {Curve: elliptic.P256(), X: new(big.Int).Add(x, elliptic.P256().Params().P), Y: y},
		"huge":              {Curve: elliptic.P256(), X: new(big.Int).Lsh(big.NewInt(1), 1<<20), Y: y},
		"of another curve":  {Curve: elliptic.P384(), X: x, Y: y},
	} {
		refused(t, name, k, ErrPoint)
	}
	refused(t, "nil", (*ecdsa.PublicKey)(nil), ErrPoint)
	refused(t, "P-224", ecKey(t, elliptic.P224()), ErrUnsupported)
	refused(t, "own curve", &ecdsa.PublicKey{Curve: lyingCurve{elliptic.P256()}, X: x, Y: x}, ErrUnsupported)
	refused(t, "no curve", &ecdsa.PublicKey{X: x, Y: y}, ErrUnsupported)
	refused(t, "X25519", func() any { k, _ := ecdh.X25519().GenerateKey(rand.Reader); return k.PublicKey() }(), ErrUnsupported)
	refused(t, "DSA", &dsa.PublicKey{}, ErrUnsupported)
	refused(t, "nothing", nil, ErrUnsupported)
	refused(t, "by value", *good, ErrUnsupported)
}

// A20, in the encoding: what a parser must stop before there is a key.
func TestParseSPKI_RefusesOtherEncodings_A20(t *testing.T) {
	good, err := x509.MarshalPKIXPublicKey(ecKey(t, elliptic.P256()))
	if err != nil {
		t.Fatal(err)
	}
	point := good[len(good)-65:]
	spki := func(params []byte, point []byte) []byte {
		return der.Sequence(nil, func(b []byte) []byte {
			b = der.Sequence(b, func(b []byte) []byte {
				return append(der.MustOID("1.2.840.10045.2.1").Append(b), params...)
			})
			return der.AppendBitString(b, point)
		})
	}
	p256 := der.MustOID("1.2.840.10045.3.1.7").Append(nil)
	if _, err := ParseSPKI(spki(p256, point)); err != nil {
		t.Fatalf("the frame of this test is wrong: %v", err)
	}
	explicit := der.Sequence(nil, func(b []byte) []byte {
		b = der.AppendInt(b, 1)
		return der.Sequence(b, func(b []byte) []byte {
			b = der.MustOID("1.2.840.10045.1.1").Append(b)
			return der.AppendBigInt(b, elliptic.P256().Params().P)
		})
	})
	compressed := append([]byte{2 + point[64]&1}, point[1:33]...)
	hybrid := append([]byte{6 + point[64]&1}, point[1:]...)
	off := slices.Clone(point)
	off[64] ^= 1
	for name, in := range map[string][]byte{
		"explicit parameters": spki(explicit, point),
		"no parameters":       spki(nil, point),
		"secp256k1":           spki(der.MustOID("1.3.132.0.10").Append(nil), point),
		"compressed":          spki(p256, compressed),
		"hybrid":              spki(p256, hybrid),
		"infinity":            spki(p256, []byte{0}),
		"zeros":               spki(p256, append([]byte{4}, make([]byte, 64)...)),
		"off the curve":       spki(p256, off),
		"trailing octet":      append(slices.Clone(good), 0),
		"cut":                 good[:len(good)-1],
		"empty":               nil,
	} {
		if _, err := ParseSPKI(in); !errors.Is(err, ErrUnsupported) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// edDouble doubles an affine point by RFC 8032's addition formula, as an
// independent check of the table of low orders.
func edDouble(f field, x, y *big.Int) (*big.Int, *big.Int) {
	mul := func(a, b *big.Int) *big.Int { return new(big.Int).Mod(new(big.Int).Mul(a, b), f.p) }
	xx, yy, xy := mul(x, x), mul(y, y), mul(x, y)
	dd := mul(f.d, mul(xx, yy))
	inv := func(v *big.Int) *big.Int { return new(big.Int).ModInverse(new(big.Int).Mod(v, f.p), f.p) }
	one := big.NewInt(1)
	return mul(new(big.Int).Lsh(xy, 1), inv(new(big.Int).Add(one, dd))),
		mul(new(big.Int).Add(yy, xx), inv(new(big.Int).Sub(one, dd)))
}

func TestCheck_RefusesLowOrderEd25519(t *testing.T) {
	f := edwards()
	if len(f.lowY) != 5 {
		t.Fatalf("eight points of low order have five y, got %d", len(f.lowY))
	}
	encode := func(y *big.Int, sign byte) ed25519.PublicKey {
		k := y.FillBytes(make([]byte, 32))
		slices.Reverse(k)
		k[31] |= sign << 7
		return k
	}
	for _, y := range f.lowY {
		u := new(big.Int).Mul(y, y)
		v := new(big.Int).Mul(u, f.d)
		u.Sub(u, big.NewInt(1))
		v.ModInverse(v.Add(v, big.NewInt(1)).Mod(v, f.p), f.p)
		x := new(big.Int).ModSqrt(u.Mul(u, v).Mod(u, f.p), f.p)
		if x == nil {
			t.Fatalf("%v is not on the curve", y)
		}
		px, py := x, y
		for range 3 {
			px, py = edDouble(f, px, py)
		}
		if px.Sign() != 0 || py.Cmp(big.NewInt(1)) != 0 {
			t.Errorf("eight times the point with y=%v is not neutral", y)
		}
		refused(t, "low order", encode(y, 0), ErrPoint)
		refused(t, "low order, other sign", encode(y, 1), ErrPoint)
		if over := new(big.Int).Add(y, f.p); over.BitLen() <= 255 {
			refused(t, "low order, not reduced", encode(over, 0), ErrPoint)
		}
	}
	refused(t, "zeros", make(ed25519.PublicKey, 32), ErrPoint)
	refused(t, "ones", ed25519.PublicKey(slices.Repeat([]byte{0xff}, 32)), ErrPoint)
	refused(t, "short", make(ed25519.PublicKey, 31), ErrSize)
	refused(t, "nil", ed25519.PublicKey(nil), ErrSize)
	off := 0
	for y := int64(2); y < 100; y++ {
		k := encode(big.NewInt(y), 0)
		msgErr := Check(k)
		if errors.Is(msgErr, ErrPoint) {
			off++
		}
	}
	if off < 30 || off > 70 {
		t.Errorf("of 98 values of y about half are on the curve, %d are refused", off)
	}
}

// A17: keys that anybody has.
func TestCheck_RefusesPublishedKeys_A17(t *testing.T) {
	if n := builtin().Len(); n < 100 {
		t.Errorf("the list in the program has %d keys", n)
	}
	one := new(big.Int).SetInt64(1)
	g := elliptic.P256().Params()
	refused(t, "P-256 scalar 1", &ecdsa.PublicKey{Curve: elliptic.P256(), X: g.Gx, Y: g.Gy}, ErrBlocked)
	refused(t, "P-256 scalar -1", &ecdsa.PublicKey{Curve: elliptic.P256(), X: g.Gx, Y: one.Sub(g.P, g.Gy)}, ErrBlocked)
	refused(t, "Ed25519 of a zero seed", ed25519.NewKeyFromSeed(make([]byte, 32)).Public(), ErrBlocked)
	server := httptest.NewTLSServer(nil)
	defer server.Close()
	refused(t, "the key of net/http/httptest", server.Certificate().PublicKey, ErrBlocked)

	key := ecKey(t, elliptic.P384())
	spki, _ := x509.MarshalPKIXPublicKey(key)
	hash := sha256.Sum256(spki)
	list, err := ParseList(strings.NewReader("# ours\n\n" + hexOf(hash[:]) + "  golden image of 2024\r\n"))
	if err != nil || list.Len() != 1 {
		t.Fatal(err)
	}
	err = Policy{Blocklist: list}.Check(key)
	if !errors.Is(err, ErrBlocked) || !strings.Contains(err.Error(), "golden image of 2024") {
		t.Errorf("own list: %v", err)
	}
	if err := Check(key); err != nil {
		t.Errorf("without the list: %v", err)
	}
}

func hexOf(b []byte) string {
	const digits = "0123456789abcdef"
	var s strings.Builder
	for _, c := range b {
		s.WriteByte(digits[c>>4])
		s.WriteByte(digits[c&15])
	}
	return s.String()
}

func TestParseList_RefusesWhatItCannotRead(t *testing.T) {
	for _, in := range []string{"abc x", strings.Repeat("0", 64), strings.Repeat("0", 62) + " x", strings.Repeat("g", 64) + " x", strings.Repeat("0", 66) + " x", strings.Repeat("a", 5000)} {
		if _, err := ParseList(strings.NewReader(in)); !errors.Is(err, ErrBlocklist) {
			t.Errorf("%.40q: %v", in, err)
		}
	}
}

func TestBounds_StopsExpensiveKeys(t *testing.T) {
	if err := Bounds(&rsa.PublicKey{N: new(big.Int).Lsh(big.NewInt(1), 16384), E: 65537}); !errors.Is(err, ErrSize) {
		t.Error(err)
	}
	if err := Bounds(ecKey(t, elliptic.P521())); err != nil {
		t.Errorf("P-521 is cheap, the policy judges it: %v", err)
	}
}

func FuzzParseSPKI(f *testing.F) {
	for _, pub := range []crypto.PublicKey{ecKey(f, elliptic.P256()), ecKey(f, elliptic.P384()), rsaKey(f, 2048).Public(), ed25519.PublicKey(make([]byte, 32))} {
		spki, err := x509.MarshalPKIXPublicKey(pub)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(spki)
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		pub, err := ParseSPKI(in)
		if err != nil {
			return
		}
		if again, err := x509.MarshalPKIXPublicKey(pub); err != nil || string(again) != string(in) {
			t.Fatalf("%x is read and written as %x (%v)", in, again, err)
		}
		Check(pub)
	})
}

func BenchmarkCheck(b *testing.B) {
	ed, _, _ := ed25519.GenerateKey(rand.Reader)
	for name, pub := range map[string]crypto.PublicKey{"P256": ecKey(b, elliptic.P256()), "RSA2048": rsaKey(b, 2048).Public(), "RSA4096": rsaKey(b, 4096).Public(), "Ed25519": ed} {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				if err := Check(pub); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
