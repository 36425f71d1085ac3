package filter

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/binary"
	"math"
	"slices"
	"sync"
	"time"
)

// Answer is what a filter says of a certificate.
type Answer uint8

// The answers.
const (
	NotCovered Answer = iota // it cannot know: ask OCSP or a list
	Good
	Revoked
)

// String is the answer in words.
func (a Answer) String() string {
	return [...]string{"not covered", "good", "revoked"}[min(a, 2)]
}

// skew is how far the clock of who made a filter may be ahead.
const skew = 5 * time.Minute

// Verifier answers for the certificates of one authority. It is safe for
// concurrent use.
type Verifier struct {
	issuer *x509.Certificate
	key    [32]byte

	mu      sync.RWMutex
	floor   uint64 // nothing before it is taken
	raw     [32]byte
	full    *file
	changes *file
}

// NewVerifier makes a verifier for certificates that issuer signed. floor is the
// sequence that an earlier run ended with, so that a restart is no way back; 0
// for the first.
func NewVerifier(issuer *x509.Certificate, floor uint64) *Verifier {
	return &Verifier{issuer: issuer, key: sha256.Sum256(issuer.RawSubjectPublicKeyInfo), floor: floor}
}

// Sequence is that of the newest file that was taken. Keep it for [NewVerifier].
func (v *Verifier) Sequence() uint64 {
	v.mu.RLock()
	defer v.mu.RUnlock()
	return v.floor
}

// Headers are those of the filter and its changes, nil where there is none.
func (v *Verifier) Headers() (full, delta *Header) {
	v.mu.RLock()
	defer v.mu.RUnlock()
	if v.full != nil {
		full = &v.full.Header
	}
	if v.changes != nil {
		delta = &v.changes.Header
	}
	return full, delta
}

// Load takes a filter, or the changes since the one that is there. It must be
// signed for the authority, current, and newer than everything before; the same
// octets again change nothing.
func (v *Verifier) Load(data []byte, now time.Time) error {
	f, err := parse(data)
	if err != nil {
		return err
	}
	if f.KeyHash != v.key {
		return ErrSignature
	}
	delegate, err := x509.ParseCertificate(f.cert)
	if err != nil {
		return ErrSignature
	}
	if err := v.delegate(delegate, now); err != nil {
		return err
	}
	if err := f.signature(delegate); err != nil {
		return err
	}
	if !f.NextUpdate.After(now) || f.ThisUpdate.After(now.Add(skew)) {
		return ErrStale
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	sum := sha256.Sum256(data)
	newest := v.newest()
	// After a restart the newest file is taken once more, and the filter that the
	// changes of that sequence are about.
	switch {
	case newest != nil && sum == v.raw:
		return nil
	case newest != nil && (f.Sequence <= newest.Sequence || f.Size < newest.Size || f.Day < newest.Day):
		return ErrRollback
	case newest == nil && f.Sequence < v.floor && !(f.Kind == Full):
		return ErrRollback
	}
	if f.Kind == Delta {
		if v.full == nil || v.full.Sequence != f.Base {
			return ErrBase
		}
		v.changes = f
	} else {
		v.full, v.changes = f, nil
	}
	v.raw = sum
	v.floor = max(v.floor, f.Sequence)
	return nil
}

// delegate checks that the authority lets the holder of a certificate sign status
// (RFC 6960, Section 4.2.2.2).
func (v *Verifier) delegate(c *x509.Certificate, now time.Time) error {
	if c.CheckSignatureFrom(v.issuer) != nil || c.IsCA || !slices.Contains(c.ExtKeyUsage, x509.ExtKeyUsageOCSPSigning) ||
		now.After(c.NotAfter) || now.Add(skew).Before(c.NotBefore) {
		return ErrSignature
	}
	return nil
}

func (f *file) signature(c *x509.Certificate) error {
	msg := message(f.signed)
	sum := sha256.Sum256(msg)
	ok := false
	switch k := c.PublicKey.(type) {
	case *ecdsa.PublicKey:
		ok = ecdsa.VerifyASN1(k, sum[:], f.sig)
	case *rsa.PublicKey:
		ok = rsa.VerifyPKCS1v15(k, crypto.SHA256, sum[:], f.sig) == nil
	case ed25519.PublicKey:
		ok = ed25519.Verify(k, msg, f.sig)
	}
	if !ok {
		return ErrSignature
	}
	return nil
}

func (v *Verifier) newest() *file {
	if v.changes != nil {
		return v.changes
	}
	return v.full
}

// Status answers for a certificate, which the caller has verified up to the
// authority.
func (v *Verifier) Status(c *x509.Certificate, now time.Time) Answer {
	if !bytes.Equal(c.RawIssuer, v.issuer.RawSubject) || len(c.AuthorityKeyId) > 0 && !bytes.Equal(c.AuthorityKeyId, v.issuer.SubjectKeyId) {
		return NotCovered
	}
	return v.Serial(c.SerialNumber.Bytes(), now)
}

// Serial answers for a serial number of the authority: its octets without leading
// zeros. One that was never issued has no right answer, and gets any.
func (v *Verifier) Serial(serial []byte, now time.Time) Answer {
	return v.answer(serial, math.MaxUint64, now)
}

// Logged answers for a certificate whose place in the log is known from its
// receipt: the newest ones of a filter are covered too.
func (v *Verifier) Logged(serial []byte, leaf uint64, now time.Time) Answer {
	return v.answer(serial, leaf, now)
}

func (v *Verifier) answer(serial []byte, leaf uint64, now time.Time) Answer {
	v.mu.RLock()
	defer v.mu.RUnlock()
	n := v.newest()
	if n == nil || n.Sequence < v.floor || !n.NextUpdate.After(now) || !n.covers(serial, leaf) {
		return NotCovered
	}
	if c := v.changes; c != nil {
		if _, found := slices.BinarySearchFunc(c.put, serial, bytes.Compare); found {
			return Revoked
		}
		if _, found := slices.BinarySearchFunc(c.gone, serial, bytes.Compare); found {
			return Good
		}
		if !v.full.covers(serial, leaf) { // it is newer than the filter, and was not revoked since
			return Good
		}
	}
	return v.full.look(serial)
}

// covers tells whether the file knows a serial number, by the place in the log or
// by the day that is in the number.
func (h *Header) covers(serial []byte, leaf uint64) bool {
	if len(serial) != maxKey || serial[0]&0xc0 != 0x40 {
		return false
	}
	return leaf < h.Size || binary.BigEndian.Uint32(serial)&(1<<30-1) < h.Day
}

// look asks the two tables.
func (f *file) look(serial []byte) Answer {
	if f.exact.slots == 0 || !f.prints.matches(serial) {
		return Good
	}
	e := hash(f.exact.seed, f.exact.slots, serial)
	if f.exact.value(&e) == 1 {
		return Revoked
	}
	return Good
}
