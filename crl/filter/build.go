package filter

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"iter"
	"math"
	"slices"
)

// Signer signs a filter: a delegate of the authority with the purpose of signing
// status, the one that answers OCSP.
type Signer struct {
	Key  crypto.Signer
	Cert *x509.Certificate
}

// Build makes a signed filter. revoked are the serial numbers that are revoked,
// issued is every serial number up to the header's Size and before its Day,
// revoked ones too, in any order; it is run through once. The header's counts
// and hash are filled in.
func Build(h Header, revoked [][]byte, issued iter.Seq2[[]byte, error], s Signer) ([]byte, error) {
	h.Kind, h.Base = Full, 0
	revoked = sorted(revoked)
	for _, k := range revoked {
		if len(k) == 0 || len(k) > maxKey {
			return nil, errors.New("filter: a serial number has no or more than 20 octets")
		}
	}
	var seed [16]byte
	rand.Read(seed[:])
	nbits := fingerprint(uint64(len(revoked)), h.Issued)
	first, err := newRibbon(nbits, binary.BigEndian.Uint64(seed[:]), revoked, func(_ int, e *equation) uint32 { return e.print })
	if err != nil {
		return nil, err
	}
	// All that match the first table go into the second one, each with its truth.
	keys := slices.Clone(revoked)
	h.Issued, h.Revoked = 0, uint64(len(revoked))
	for k, err := range issued {
		if err != nil {
			return nil, err
		}
		h.Issued++
		if len(revoked) == 0 || !first.matches(k) {
			continue
		}
		if _, found := slices.BinarySearchFunc(revoked, k, bytes.Compare); !found {
			keys = append(keys, bytes.Clone(k))
		}
	}
	second, err := newRibbon(1, binary.BigEndian.Uint64(seed[8:]), keys, func(i int, _ *equation) uint32 {
		if i < len(revoked) {
			return 1
		}
		return 0
	})
	if err != nil {
		return nil, err
	}
	return h.sign(second.append(first.append(nil)), s)
}

// BuildDelta makes the signed changes since a filter: put are serial numbers that
// are revoked now and were not then, gone those that are not any more.
func BuildDelta(h Header, put, gone [][]byte, s Signer) ([]byte, error) {
	h.Kind = Delta
	return h.sign(appendSerials(appendSerials(nil, sorted(put)), sorted(gone)), s)
}

func sorted(all [][]byte) [][]byte {
	all = slices.Clone(all)
	slices.SortFunc(all, bytes.Compare)
	return slices.CompactFunc(all, bytes.Equal)
}

// matches tells whether the first table lets a key through.
func (r *ribbon) matches(key []byte) bool {
	if r.bits == 0 {
		return true
	}
	if r.slots == 0 {
		return false
	}
	e := hash(r.seed, r.slots, key)
	return r.value(&e) == e.print&(1<<r.bits-1)
}

// fingerprint picks how many bits the first table has for a key, so that both
// tables together are small.
func fingerprint(revoked, issued uint64) int {
	best, size := 0, math.Inf(1)
	for b := range 25 {
		n := float64(revoked)*float64(b+1) + float64(issued-min(revoked, issued))/math.Exp2(float64(b))
		if n < size {
			best, size = b, n
		}
	}
	return best
}

func (h *Header) sign(body []byte, s Signer) ([]byte, error) {
	h.BodyHash = sha256.Sum256(body)
	header := h.encode()
	if len(h.Authority) > maxName || h.Sequence == 0 {
		return nil, errors.New("filter: the header has no sequence or too long a name")
	}
	msg := message(header)
	digest, hash := msg, crypto.Hash(0)
	switch s.Key.Public().(type) {
	case *ecdsa.PublicKey, *rsa.PublicKey:
		sum := sha256.Sum256(msg)
		digest, hash = sum[:], crypto.SHA256
	case ed25519.PublicKey:
	default:
		return nil, errors.New("filter: no signature with this kind of key")
	}
	sig, err := s.Key.Sign(rand.Reader, digest, hash)
	if err != nil {
		return nil, err
	}
	out := assemble(header, s.Cert.Raw, sig, body)
	f, err := parse(out)
	if err != nil {
		return nil, err
	}
	return out, f.signature(s.Cert)
}
