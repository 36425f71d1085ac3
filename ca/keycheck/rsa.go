package keycheck

import (
	"math/big"
	"sync"
)

const (
	// smallPrimeLimit bounds trial division. An honest generator makes two
	// primes of half the size; a factor this small means broken arithmetic.
	smallPrimeLimit = 10_000
	// fermatRounds is what the Baseline Requirements, Section 6.1.1.3 name.
	fermatRounds = 100
	// rocaPrimes is how many primes the fingerprint uses: every key size of the
	// flawed generator has at least these 39 (2 to 167) in its product, and a
	// sound key passes for one with a chance of about 2^-27.
	rocaPrimes = 39
)

var primes = sync.OnceValue(func() []uint64 {
	composite := make([]bool, smallPrimeLimit)
	var out []uint64
	for i := 2; i < smallPrimeLimit; i++ {
		if composite[i] {
			continue
		}
		out = append(out, uint64(i))
		for j := i * i; j < smallPrimeLimit; j += i {
			composite[j] = true
		}
	}
	return out
})

// primorial is the product of all primes below the limit, so that one greatest
// common divisor replaces 1229 divisions.
var primorial = sync.OnceValue(func() *big.Int {
	p := big.NewInt(1)
	for _, q := range primes() {
		p.Mul(p, new(big.Int).SetUint64(q))
	}
	return p
})

func hasSmallFactor(n *big.Int) bool {
	return new(big.Int).GCD(nil, nil, n, primorial()).Cmp(big.NewInt(1)) != 0
}

// The flawed generator makes primes of the form k·M + (65537^a mod M), where M
// is a product of the first primes (Nemec et al., "The Return of Coppersmith's
// Attack", CCS 2017, Section 3.1). Both factors then lie in the group that 65537
// generates modulo each prime of M, hence so does the modulus.
var rocaGroups = sync.OnceValue(func() (groups [rocaPrimes][]bool) {
	for i := range groups {
		p := primes()[i]
		groups[i] = make([]bool, p)
		for x := uint64(1); !groups[i][x%p]; x = x * 65537 % p {
			groups[i][x%p] = true
		}
	}
	return groups
})

func isROCA(n *big.Int) bool {
	var r, p big.Int
	for i, group := range rocaGroups() {
		if !group[r.Mod(n, p.SetUint64(primes()[i])).Uint64()] {
			return false
		}
	}
	return true
}

// hasClosePrimes is Fermat's method: n = a² - b² with a just above the root of n
// and b the half distance of the primes (CVE-2022-26320).
func hasClosePrimes(n *big.Int) bool {
	a := new(big.Int).Sqrt(n)
	if a2 := new(big.Int).Mul(a, a); a2.Cmp(n) < 0 {
		a.Add(a, big.NewInt(1))
	}
	b2 := new(big.Int).Mul(a, a)
	b2.Sub(b2, n)
	root, square, step := new(big.Int), new(big.Int), new(big.Int)
	for range fermatRounds {
		if mayBeSquare(b2) {
			root.Sqrt(b2)
			if square.Mul(root, root).Cmp(b2) == 0 {
				return true
			}
		}
		// (a+1)² - n = b² + 2a + 1
		b2.Add(b2, step.Lsh(a, 1).Add(step, big.NewInt(1)))
		a.Add(a, big.NewInt(1))
	}
	return false
}

// mayBeSquare spares most roots: of the residues modulo 64·63·65·11 one in a
// hundred is a square.
func mayBeSquare(v *big.Int) bool {
	const modulus = 64 * 63 * 65 * 11
	r := new(big.Int).Mod(v, big.NewInt(modulus)).Uint64()
	for i, m := range [...]uint64{64, 63, 65, 11} {
		if !squares()[i][r%m] {
			return false
		}
	}
	return true
}

var squares = sync.OnceValue(func() (out [4][]bool) {
	for i, m := range [...]uint64{64, 63, 65, 11} {
		out[i] = make([]bool, m)
		for x := range m {
			out[i][x*x%m] = true
		}
	}
	return out
})
