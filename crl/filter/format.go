package filter

import (
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"math"
	"time"
)

// The errors of the package. A [Verifier] keeps what it had when it gives one.
var (
	ErrMalformed = errors.New("filter: the octets are not a filter")
	ErrSignature = errors.New("filter: not signed for this authority")
	ErrRollback  = errors.New("filter: older than what is there")
	ErrStale     = errors.New("filter: not current")
	ErrBase      = errors.New("filter: the changes are for another filter")
)

const (
	magic   = "HLMKFLT1"
	context = "hallmark filter v1\x00" // before the header in what is signed
	maxFile = 256 << 20
	maxName = 64
)

// Kind tells a filter from the changes since one.
type Kind uint8

// The kinds.
const (
	Full  Kind = 1
	Delta Kind = 2
)

// Header is what is signed.
type Header struct {
	Kind      Kind
	Authority string   // its name, for people
	KeyHash   [32]byte // SHA-256 of the authority's subjectPublicKeyInfo
	Sequence  uint64   // rises with every filter and every delta of an authority
	Base      uint64   // of a delta: the sequence of the filter that it changes
	// Size is how much of the log was read: revocations whose leaf lies before it
	// are in, and so are the certificates.
	Size uint64
	// Day is the first day, counted from 1970, whose serial numbers are not all
	// known. The day is in our serial numbers.
	Day        uint32
	ThisUpdate time.Time
	NextUpdate time.Time
	Issued     uint64
	Revoked    uint64
	BodyHash   [32]byte
}

// file is a parsed filter or delta.
type file struct {
	Header
	signed []byte
	cert   []byte
	sig    []byte

	prints, exact *ribbon  // of a filter
	put, gone     [][]byte // of a delta, sorted
}

func (h *Header) encode() []byte {
	b := []byte{byte(h.Kind), byte(len(h.Authority))}
	b = append(b, h.Authority...)
	b = append(b, h.KeyHash[:]...)
	for _, v := range []uint64{h.Sequence, h.Base, h.Size, uint64(h.Day), uint64(h.ThisUpdate.Unix()), uint64(h.NextUpdate.Unix()), h.Issued, h.Revoked} {
		b = binary.BigEndian.AppendUint64(b, v)
	}
	return append(b, h.BodyHash[:]...)
}

// message is what is signed about a header.
func message(header []byte) []byte { return append([]byte(context), header...) }

func assemble(header, cert, sig, body []byte) []byte {
	b := []byte(magic)
	for _, part := range [][]byte{header, cert, sig} {
		b = binary.BigEndian.AppendUint16(b, uint16(len(part)))
		b = append(b, part...)
	}
	return append(b, body...)
}

// reader takes octets from the front; after the first fault it gives zeros.
type reader struct {
	in  []byte
	bad bool
}

func (r *reader) take(n int) []byte {
	if n < 0 || n > len(r.in) {
		r.bad, r.in = true, nil
		return nil
	}
	v := r.in[:n:n]
	r.in = r.in[n:]
	return v
}

func (r *reader) uint(n int) (v uint64) {
	for _, b := range r.take(n) {
		v = v<<8 | uint64(b)
	}
	return v
}

func (r *reader) hash() (h [32]byte) {
	copy(h[:], r.take(32))
	return h
}

// parse reads a file; nothing in it is believed before [file.verify].
func parse(in []byte) (*file, error) {
	if len(in) > maxFile {
		return nil, ErrMalformed
	}
	r := &reader{in: in}
	if string(r.take(len(magic))) != magic {
		return nil, ErrMalformed
	}
	f := &file{}
	f.signed = r.take(int(r.uint(2)))
	f.cert = r.take(int(r.uint(2)))
	f.sig = r.take(int(r.uint(2)))
	if r.bad {
		return nil, ErrMalformed
	}
	body := r.in
	h := &reader{in: f.signed}
	f.Kind = Kind(h.uint(1))
	f.Authority = string(h.take(int(h.uint(1))))
	f.KeyHash = h.hash()
	f.Sequence, f.Base, f.Size = h.uint(8), h.uint(8), h.uint(8)
	day, this, next := h.uint(8), h.uint(8), h.uint(8)
	f.Issued, f.Revoked = h.uint(8), h.uint(8)
	f.BodyHash = h.hash()
	const end = 1 << 40 // of times that are taken, in seconds
	if h.bad || len(h.in) > 0 || len(f.Authority) > maxName || day > math.MaxUint32 || this > end || next > end || f.Sequence == 0 ||
		(f.Kind == Delta) != (f.Base != 0) || f.Base >= f.Sequence && f.Base != 0 || f.BodyHash != sha256.Sum256(body) {
		return nil, ErrMalformed
	}
	f.Day, f.ThisUpdate, f.NextUpdate = uint32(day), time.Unix(int64(this), 0).UTC(), time.Unix(int64(next), 0).UTC()
	b := &reader{in: body}
	switch f.Kind {
	case Full:
		f.prints, f.exact = b.ribbon(), b.ribbon()
		if !b.bad && f.exact.bits != 1 {
			return nil, ErrMalformed
		}
	case Delta:
		f.put, f.gone = b.serials(), b.serials()
	default:
		return nil, ErrMalformed
	}
	if b.bad || len(b.in) > 0 {
		return nil, ErrMalformed
	}
	return f, nil
}

// ribbon octets: seed, number of bits, number of slots, then the columns, each of
// as many octets as its slots need, the first slot in the lowest bit.
func (r *ribbon) append(b []byte) []byte {
	b = binary.BigEndian.AppendUint64(b, r.seed)
	b = append(b, byte(r.bits))
	b = binary.BigEndian.AppendUint32(b, uint32(r.slots))
	n := r.columnWords()
	for c := range r.bits {
		for i := range int(r.slots+7) / 8 {
			b = append(b, byte(r.words[c*n+i/8]>>(i%8*8)))
		}
	}
	return b
}

func (r *reader) ribbon() *ribbon {
	t := &ribbon{seed: r.uint(8), bits: int(r.uint(1)), slots: r.uint(4)}
	octets := int(t.slots+7) / 8
	if t.bits > 32 || t.slots > 0 && t.slots < width || t.slots > math.MaxInt32 || t.bits > 0 && octets > len(r.in)/t.bits {
		r.bad = true
		return t
	}
	if t.slots == 0 {
		return t
	}
	n := t.columnWords()
	t.words = make([]uint64, n*t.bits)
	for c := range t.bits {
		for i, v := range r.take(octets) {
			t.words[c*n+i/8] |= uint64(v) << (i % 8 * 8)
		}
	}
	return t
}

// serials are sorted, each with its length before it.
func (r *reader) serials() (out [][]byte) {
	n := r.uint(4)
	if n > uint64(len(r.in)) {
		r.bad = true
		return nil
	}
	out = make([][]byte, 0, n)
	for range n {
		s := r.take(int(r.uint(1)))
		if r.bad || len(s) == 0 || len(s) > maxKey || len(out) > 0 && string(out[len(out)-1]) >= string(s) {
			r.bad = true
			return nil
		}
		out = append(out, s)
	}
	return out
}

func appendSerials(b []byte, all [][]byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(len(all)))
	for _, s := range all {
		b = append(append(b, byte(len(s))), s...)
	}
	return b
}
