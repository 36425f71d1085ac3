package keycheck

import (
	"crypto/ed25519"
	"math/big"
	"slices"
	"sync"
)

// field holds what is needed of edwards25519: -x² + y² = 1 + d·x²·y² over the
// integers modulo p (RFC 8032, Section 5.1).
type field struct {
	p, d *big.Int
	// lowY are the y of the eight points of low order. Their double, double
	// double or triple double is the neutral point, so a signature "by" them
	// proves nothing.
	lowY []*big.Int
}

var edwards = sync.OnceValue(func() field {
	one := big.NewInt(1)
	p := new(big.Int).Lsh(one, 255)
	p.Sub(p, big.NewInt(19))
	mod := func(v *big.Int) *big.Int { return v.Mod(v, p) }
	// d = -121665/121666
	d := new(big.Int).ModInverse(big.NewInt(121666), p)
	d = mod(d.Mul(d, big.NewInt(-121665)))

	low := []*big.Int{new(big.Int), one, new(big.Int).Sub(p, one)} // order 4, 1, 2
	// Order 8: the double has y = 0, so y² = -x², and the curve's equation
	// becomes d·y⁴ + 2·y² - 1 = 0, so y² = (-1 ± √(1+d)) / d.
	root := new(big.Int).ModSqrt(new(big.Int).Add(one, d), p)
	inverse := new(big.Int).ModInverse(d, p)
	for _, sign := range []int64{1, -1} {
		y2 := new(big.Int).Mul(root, big.NewInt(sign))
		y2 = mod(y2.Mul(y2.Sub(y2, one), inverse))
		if y := new(big.Int).ModSqrt(y2, p); y != nil {
			low = append(low, y, new(big.Int).Sub(p, y))
		}
	}
	return field{p, d, low}
})

// edwardsPoint refuses what does not decode to a point, has a second encoding,
// or has low order.
func edwardsPoint(k ed25519.PublicKey) error {
	if len(k) != ed25519.PublicKeySize {
		return ErrSize.New("An Ed25519 key has %d octets, this one %d.", ed25519.PublicKeySize, len(k))
	}
	be := slices.Clone(k)
	slices.Reverse(be)
	be[0] &= 0x7f // the sign of x
	y := new(big.Int).SetBytes(be)
	f := edwards()
	if y.Cmp(f.p) >= 0 {
		return ErrPoint.New("Its y is not reduced.")
	}
	for _, low := range f.lowY {
		if y.Cmp(low) == 0 {
			return ErrPoint.New("It has low order.")
		}
	}
	// x² = (y²-1)/(d·y²+1) has a root exactly when the product of both has one.
	y2 := new(big.Int).Mul(y, y)
	u := new(big.Int).Sub(y2, big.NewInt(1))
	v := y2.Mul(y2, f.d)
	v.Add(v, big.NewInt(1))
	if u.Mul(u, v).Mod(u, f.p); big.Jacobi(u, f.p) != 1 {
		return ErrPoint.New("It is not on the curve.")
	}
	return nil
}
