package filter

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"math/bits"
)

// width is how many neighbouring slots an equation touches.
const width = 128

// ribbon maps keys to a few bits each. For a key that it was not made with it
// gives bits as good as random.
type ribbon struct {
	seed  uint64
	bits  int      // of a value, 0 to 32
	slots uint64   // 0: there are no keys
	words []uint64 // one column of slots bits after another
}

// equation is what a key says: the exclusive or of the slots from start on whose
// coefficient is set is the value.
type equation struct {
	start  uint64
	lo, hi uint64 // coefficients; bit 0 is set
	print  uint32
}

func hash(seed uint64, slots uint64, key []byte) equation {
	var buf [8 + 64]byte
	binary.BigEndian.PutUint64(buf[:], seed)
	n := copy(buf[8:], key)
	sum := sha256.Sum256(buf[:8+n])
	start, _ := bits.Mul64(binary.BigEndian.Uint64(sum[:]), slots-width+1)
	return equation{start, binary.BigEndian.Uint64(sum[8:]) | 1, binary.BigEndian.Uint64(sum[16:]), binary.BigEndian.Uint32(sum[24:])}
}

// maxKey is how long a serial number can be (RFC 5280, Section 4.1.2.2).
const maxKey = 20

// columnWords is how many words a column has; one more lets two be read anywhere.
func (r *ribbon) columnWords() int { return int((r.slots+63)/64) + 1 }

// value gives the bits of a key.
func (r *ribbon) value(e *equation) (v uint32) {
	n := r.columnWords()
	at, off := int(e.start/64), e.start%64
	for b := range r.bits {
		c := r.words[b*n:]
		lo, hi := c[at], c[at+1]
		var top uint64
		if at+2 < n {
			top = c[at+2]
		}
		if off > 0 {
			lo, hi = lo>>off|hi<<(64-off), hi>>off|top<<(64-off)
		}
		parity := bits.OnesCount64(lo&e.lo^hi&e.hi) & 1
		v |= uint32(parity) << b
	}
	return v
}

var errFull = errors.New("filter: no table for these keys")

// newRibbon solves the equations of all keys. The seed is tried anew, with a
// little more room, until they have a solution.
func newRibbon(nbits int, seed uint64, keys [][]byte, value func(i int, e *equation) uint32) (*ribbon, error) {
	if len(keys) == 0 || nbits == 0 {
		return &ribbon{seed: seed, bits: nbits}, nil
	}
	for try := range 64 {
		room := 1.02 + 0.01*float64(try)
		r := &ribbon{seed: seed + uint64(try), bits: nbits, slots: max(uint64(float64(len(keys))*room)+8, width)}
		if r.solve(keys, value) {
			return r, nil
		}
	}
	return nil, errFull
}

// solve brings the equations into steps by elimination as they come, then reads
// the slots off from the last to the first.
func (r *ribbon) solve(keys [][]byte, value func(i int, e *equation) uint32) bool {
	type row struct {
		lo, hi uint64
		v      uint32
	}
	rows := make([]row, r.slots)
	mask := uint32(1)<<r.bits - 1
	for i, k := range keys {
		e := hash(r.seed, r.slots, k)
		at, lo, hi, v := e.start, e.lo, e.hi, value(i, &e)&mask
		for {
			if lo == 0 && hi == 0 {
				if v != 0 {
					return false
				}
				break // it says what others say together
			}
			var skip int
			if lo != 0 {
				skip = bits.TrailingZeros64(lo)
			} else {
				skip = 64 + bits.TrailingZeros64(hi)
			}
			at += uint64(skip)
			lo, hi = shift(lo, hi, uint(skip))
			have := &rows[at]
			if have.lo == 0 {
				*have = row{lo, hi, v}
				break
			}
			lo, hi, v = lo^have.lo, hi^have.hi, v^have.v
		}
	}
	n := r.columnWords()
	r.words = make([]uint64, n*r.bits)
	for s := int64(r.slots) - 1; s >= 0; s-- {
		w := &rows[s]
		if w.lo == 0 { // nobody cares; 0 is as good as 1
			continue
		}
		e := equation{start: uint64(s), lo: w.lo, hi: w.hi}
		got := r.value(&e) ^ w.v // slot s itself is still 0
		for b := range r.bits {
			if got>>b&1 == 1 {
				r.words[b*n+int(s/64)] |= 1 << (s % 64)
			}
		}
	}
	return true
}

func shift(lo, hi uint64, n uint) (uint64, uint64) {
	switch {
	case n == 0:
		return lo, hi
	case n >= 64:
		return hi >> (n - 64), 0
	}
	return lo>>n | hi<<(64-n), hi >> n
}
