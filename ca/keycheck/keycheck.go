package keycheck

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"math/big"
)

const (
	defaultRSAMin = 2048
	defaultRSAMax = 4096
	// hardRSAMax is the most any policy may allow: beyond it one verification
	// costs an attacker nothing and us tens of milliseconds (CVE-2023-29409).
	hardRSAMax = 8192
	// minExponent and maxExponent: FIPS 186-5, Section 5.1 asks for an odd
	// exponent above 2^16; above 32 bits common verifiers give up.
	minExponent = 65537
	maxExponent = 1<<32 - 1
)

// Policy says which keys are taken. The zero value is the default policy.
type Policy struct {
	AllowP521     bool // default: refused, few devices and verifiers have it
	RefuseRSA     bool
	RefuseEd25519 bool
	RSAMinBits    int // 0 = 2048; less is not possible
	RSAMaxBits    int // 0 = 4096; more than 8192 is not possible

	// Blocklist is asked about every key besides the built-in list; nil = none.
	Blocklist Blocklist
}

// Blocklist knows keys whose private half is public. Blocked is called for
// every key, also concurrently, must not block, and gives where the key is from.
type Blocklist interface {
	Blocked(spkiSHA256 [32]byte) (origin string, blocked bool)
}

// Check judges a key by the default policy.
func Check(pub crypto.PublicKey) error { return Policy{}.Check(pub) }

// Bounds refuses keys with which even one verification could be expensive or
// meaningless: unknown types, RSA beyond 8192 bits or with a large exponent. It
// is not a judgement about the key; that is [Policy.Check].
func Bounds(pub crypto.PublicKey) error {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		return curvePoint(k, true)
	case *rsa.PublicKey:
		return rsaShape(k, 1024, hardRSAMax)
	case ed25519.PublicKey:
		if len(k) != ed25519.PublicKeySize {
			return ErrSize.New("An Ed25519 key has %d octets, this one %d.", ed25519.PublicKeySize, len(k))
		}
		return nil
	}
	return ErrUnsupported.New("Its type is %T.", pub)
}

// Check returns nil for a key that may be certified. The steps go from cheap to
// dear, and nothing is computed with a number before its size is known.
func (p Policy) Check(pub crypto.PublicKey) error {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		if err := curvePoint(k, p.AllowP521); err != nil {
			return err
		}
	case ed25519.PublicKey:
		if p.RefuseEd25519 {
			return ErrUnsupported.New("This policy takes no Ed25519 keys.")
		}
		if err := edwardsPoint(k); err != nil {
			return err
		}
	case *rsa.PublicKey:
		if p.RefuseRSA {
			return ErrUnsupported.New("This policy takes no RSA keys.")
		}
		low, high := max(p.RSAMinBits, defaultRSAMin), p.RSAMaxBits
		if high == 0 {
			high = defaultRSAMax
		}
		if err := rsaShape(k, low, min(high, hardRSAMax)); err != nil {
			return err
		}
		if err := rsaStrength(k.N); err != nil {
			return err
		}
	default:
		return ErrUnsupported.New("Its type is %T.", pub)
	}
	return p.blocked(pub)
}

func (p Policy) blocked(pub crypto.PublicKey) error {
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return ErrUnsupported.Wrap(err, "")
	}
	hash := sha256.Sum256(spki)
	if origin, yes := builtin().Blocked(hash); yes {
		return ErrBlocked.New("It is known from: %s.", origin)
	}
	if p.Blocklist != nil {
		if origin, yes := p.Blocklist.Blocked(hash); yes {
			return ErrBlocked.New("It is known from: %s.", origin)
		}
	}
	return nil
}

// ParseSPKI reads a SubjectPublicKeyInfo and insists on its one encoding: the
// hash of these octets is the key's identity (S9), so a key must not have two.
// Explicit curve parameters and compressed points are refused on the way
// (RFC 5480, Section 2.1.1).
func ParseSPKI(spki []byte) (crypto.PublicKey, error) {
	pub, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return nil, ErrUnsupported.Wrap(err, "")
	}
	if err := Bounds(pub); err != nil {
		return nil, err
	}
	again, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return nil, ErrUnsupported.Wrap(err, "")
	}
	if !bytes.Equal(again, spki) {
		return nil, ErrUnsupported.New("It is not in the standard encoding.")
	}
	return pub, nil
}

// curvePoint takes only the curve objects of the standard library: a caller's
// own Curve could claim any point as its own.
func curvePoint(k *ecdsa.PublicKey, p521 bool) error {
	if k == nil {
		return ErrPoint.New("There is no point.")
	}
	switch {
	case k.Curve == elliptic.P256(), k.Curve == elliptic.P384():
	case k.Curve == elliptic.P521() && p521:
	case k.Curve == nil:
		return ErrUnsupported.New("It names no curve.")
	default:
		return ErrUnsupported.New("The curve %s is not taken.", k.Curve.Params().Name)
	}
	//lint:ignore SA1019 a key built by hand may have no coordinates, which the conversion below would not survive
	if k.X == nil || k.Y == nil {
		return ErrPoint.New("There is no point.")
	}
	// The conversion checks that the point is on the curve and not at infinity
	// (SP 800-56A Rev. 3, Section 5.6.2.3.4; the cofactor is 1).
	if _, err := k.ECDH(); err != nil {
		return ErrPoint.Wrap(err, "")
	}
	return nil
}

// rsaShape looks at sizes and bits only.
func rsaShape(k *rsa.PublicKey, low, high int) error {
	if k == nil || k.N == nil {
		return ErrSize.New("There is no modulus.")
	}
	bits := k.N.BitLen()
	switch {
	case k.N.Sign() <= 0:
		return ErrSize.New("The modulus is not positive.")
	case bits < low || bits > high:
		return ErrSize.New("The modulus has %d bits; %d to %d are taken.", bits, low, high)
	case bits%8 != 0:
		return ErrSize.New("The modulus has %d bits, which is not a multiple of 8.", bits)
	case k.E < minExponent || int64(k.E) > maxExponent || k.E%2 == 0:
		return ErrExponent.New("It is %d.", k.E)
	case k.N.Bit(0) == 0:
		return ErrFactor.New("It is even.")
	}
	return nil
}

func rsaStrength(n *big.Int) error {
	if hasSmallFactor(n) {
		return ErrFactor.New("It is below %d.", smallPrimeLimit)
	}
	if isROCA(n) {
		return ErrROCA.New("")
	}
	if hasClosePrimes(n) {
		return ErrClosePrimes.New("")
	}
	return nil
}
