package ceremony

import (
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"io"
	"slices"
	"strings"

	"hallmark/hsm"
)

// A PIN is divided by Shamir's scheme over GF(2^8): each octet of a block that
// holds the PIN is the constant term of a random polynomial of degree M-1, and
// a part is its value at one point. M parts give the PIN, fewer give nothing.
// A part is written as words of [Words], one word an octet.
//
// A part is: version, two octets that name the set, M, the point, the values,
// and the first two octets of the SHA-256 of all of that, against mistakes in
// copying. The block is: length, PIN, zeros up to a multiple of 16, and four
// octets of SHA-256 against parts that do not belong together.

const (
	shareVersion = 1
	shareHead    = 5
	shareCheck   = 2
	blockUnit    = 16
	blockCheck   = 4
	// MaxPIN is the longest PIN that is divided.
	MaxPIN = 64
)

// gfMul multiplies in GF(2^8) modulo x^8+x^4+x^3+x+1, without tables and
// branches on the values, which are secret.
func gfMul(a, b byte) byte {
	var p byte
	for range 8 {
		p ^= a & -(b & 1)
		a = a<<1 ^ 0x1b&-(a>>7)
		b >>= 1
	}
	return p
}

// gfInv is a^254, which is 1/a, and 0 for 0.
func gfInv(a byte) byte {
	r, x := byte(1), a
	for range 7 {
		x = gfMul(x, x)
		r = gfMul(r, x)
	}
	return r
}

// SplitPIN divides a PIN into n parts of which m give it again.
func SplitPIN(pin hsm.Secret, m, n int, random io.Reader) ([]string, error) {
	if random == nil {
		random = rand.Reader
	}
	secret := pin.Reveal()
	if len(secret) == 0 || len(secret) > MaxPIN {
		return nil, ErrShare.New("A PIN to divide has 1 to %d octets.", MaxPIN)
	}
	if m < 2 || n < m || n > maxCustodians {
		return nil, ErrShare.New("%d of %d parts is not possible; at least two are needed of at most %d.", m, n, maxCustodians)
	}
	block := make([]byte, (1+len(secret)+blockUnit-1)/blockUnit*blockUnit+blockCheck)
	defer clear(block)
	block[0] = byte(len(secret))
	copy(block[1:], secret)
	sum := sha256.Sum256(block[:len(block)-blockCheck])
	copy(block[len(block)-blockCheck:], sum[:])
	set := make([]byte, 2)
	if _, err := io.ReadFull(random, set); err != nil {
		return nil, ErrShare.Wrap(err, "There is no randomness.")
	}
	parts := make([][]byte, n)
	for i := range parts {
		parts[i] = append(make([]byte, 0, shareHead+len(block)+shareCheck), shareVersion, set[0], set[1], byte(m), byte(i+1))
	}
	poly := make([]byte, m)
	defer clear(poly)
	for _, c := range block {
		poly[0] = c
		if _, err := io.ReadFull(random, poly[1:]); err != nil {
			return nil, ErrShare.Wrap(err, "There is no randomness.")
		}
		for i := range parts {
			x, y := byte(i+1), byte(0)
			for j := m - 1; j >= 0; j-- {
				y = gfMul(y, x) ^ poly[j]
			}
			parts[i] = append(parts[i], y)
		}
	}
	out := make([]string, n)
	for i, p := range parts {
		sum := sha256.Sum256(p)
		out[i] = shareWords(append(p, sum[:shareCheck]...))
		clear(p)
	}
	return out, nil
}

// shareWords writes octets as words, in groups of four.
func shareWords(b []byte) string {
	var s strings.Builder
	for i, o := range b {
		switch {
		case i == 0:
		case i%4 == 0:
			s.WriteString(" - ")
		default:
			s.WriteByte(' ')
		}
		s.WriteString(wordList[o])
	}
	return s.String()
}

var wordIndex = func() map[string]byte {
	m := make(map[string]byte, len(wordList))
	for i, w := range wordList {
		m[w] = byte(i)
	}
	return m
}()

// readShare reads a part that somebody typed. The fault names the place of a
// wrong word and not the word.
func readShare(text string) ([]byte, error) {
	if len(text) > 2048 {
		return nil, ErrShare.New("It is too long.")
	}
	var b []byte
	for _, w := range strings.FieldsFunc(strings.ToLower(text), func(r rune) bool { return r < 'a' || r > 'z' }) {
		o, ok := wordIndex[w]
		if !ok {
			clear(b)
			return nil, ErrShare.New("Word %d is not in the list of words.", len(b)+1)
		}
		b = append(b, o)
	}
	n := len(b) - shareCheck
	if n < shareHead+blockUnit+blockCheck || (n-shareHead-blockCheck)%blockUnit != 0 || n > shareHead+(1+MaxPIN/blockUnit)*blockUnit+blockCheck {
		clear(b)
		return nil, ErrShare.New("It has %d words, which is too few or too many.", n+shareCheck)
	}
	sum := sha256.Sum256(b[:n])
	if subtle.ConstantTimeCompare(sum[:shareCheck], b[n:]) != 1 {
		clear(b)
		return nil, ErrShare.New("A word is wrong, missing or in another place.")
	}
	if b[0] != shareVersion || b[3] < 2 || b[4] == 0 {
		clear(b)
		return nil, ErrShare.New("It is of a version that this program does not know.")
	}
	return b[:n], nil
}

// CheckShare reads one part and says which it is, so that a mistake in typing
// is found before the next person types.
func CheckShare(text string) (point, needed int, err error) {
	p, err := readShare(text)
	if err != nil {
		return 0, 0, err
	}
	defer clear(p)
	return int(p[4]), int(p[3]), nil
}

// JoinPIN gives the PIN of enough parts.
func JoinPIN(shares []string) (hsm.Secret, error) {
	var parts [][]byte
	defer func() {
		for _, p := range parts {
			clear(p)
		}
	}()
	for _, s := range shares {
		p, err := readShare(s)
		if err != nil {
			return hsm.Secret{}, err
		}
		parts = append(parts, p)
	}
	if len(parts) == 0 {
		return hsm.Secret{}, ErrShare.New("There is none.")
	}
	first := parts[0]
	for i, p := range parts {
		if !slices.Equal(p[:4], first[:4]) || len(p) != len(first) {
			return hsm.Secret{}, ErrShare.New("Part %d is of another set than the first.", i+1)
		}
		for _, q := range parts[:i] {
			if q[4] == p[4] {
				return hsm.Secret{}, ErrShare.New("Part %d is there twice.", p[4])
			}
		}
	}
	m := int(first[3])
	if len(parts) < m {
		return hsm.Secret{}, ErrShare.New("There are %d of %d parts.", len(parts), m)
	}
	use := parts[:m]
	block := make([]byte, len(first)-shareHead)
	defer clear(block)
	for i := range use {
		// Lagrange's polynomial of this point, at zero.
		num, den := byte(1), byte(1)
		for j := range use {
			if i != j {
				num = gfMul(num, use[j][4])
				den = gfMul(den, use[j][4]^use[i][4])
			}
		}
		l := gfMul(num, gfInv(den))
		for k := range block {
			block[k] ^= gfMul(l, use[i][shareHead+k])
		}
	}
	n := len(block) - blockCheck
	sum := sha256.Sum256(block[:n])
	if subtle.ConstantTimeCompare(sum[:blockCheck], block[n:]) != 1 || block[0] == 0 || int(block[0]) >= n {
		return hsm.Secret{}, ErrShare.New("The parts do not give a PIN together.")
	}
	return hsm.NewSecret(block[1 : 1+int(block[0])]), nil
}
