package seal

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"fmt"
	"io"
	"log/slog"
)

const (
	// MasterSize is the size of a master key in octets.
	MasterSize = 32
	// MACSize is the size of what [Box.MAC] returns.
	MACSize = sha256.Size
	// Overhead is how much longer a sealed value is than the plain one.
	Overhead = headSize + 16

	version  = 1
	idSize   = 4
	saltSize = 24
	headSize = 1 + idSize + saltSize
)

// Box seals and MACs under one master key. It is safe for concurrent use.
type Box struct {
	id   []byte // tells masters apart; no secret
	seal []byte
	mac  []byte
}

// Open makes the Box of a master key, which the caller may wipe afterwards.
func Open(master []byte) (*Box, error) {
	if len(master) != MasterSize {
		return nil, ErrKeySize.New("This one has %d.", len(master))
	}
	if bytes.Count(master, master[:1]) == MasterSize {
		return nil, ErrKeySize.New("This one is a single octet repeated, which no generator makes.")
	}
	root, err := hkdf.Extract(sha256.New, master, []byte("hallmark seal v1"))
	if err != nil {
		return nil, ErrKeySize.Wrap(err, "")
	}
	b := &Box{}
	for _, k := range []struct {
		to    *[]byte
		label string
		size  int
	}{{&b.id, "key id", idSize}, {&b.seal, "seal", 32}, {&b.mac, "mac", 32}} {
		if *k.to, err = hkdf.Expand(sha256.New, root, k.label, k.size); err != nil {
			return nil, ErrKeySize.Wrap(err, "")
		}
	}
	return b, nil
}

// Seal encrypts plaintext and binds it to aad: table, row, column. The result is
//
//	version (1) || key id (4) || salt (24) || AES-256-GCM ciphertext and tag
func (b *Box) Seal(plaintext []byte, aad ...string) []byte {
	out := make([]byte, headSize, len(plaintext)+Overhead)
	out[0] = version
	copy(out[1:], b.id)
	rand.Read(out[1+idSize : headSize])
	gcm, nonce := b.gcm(out[1+idSize : headSize])
	return gcm.Seal(out, nonce, plaintext, associated(out[:headSize], aad))
}

// Unseal gives back what [Box.Seal] was given, if nothing was changed and aad is
// the same. The errors say which: [ErrOtherKey] or [ErrSealBroken].
func (b *Box) Unseal(sealed []byte, aad ...string) ([]byte, error) {
	if len(sealed) < Overhead || sealed[0] != version {
		return nil, ErrSealBroken.New("It does not have the form of a sealed value.")
	}
	if !bytes.Equal(sealed[1:1+idSize], b.id) {
		return nil, ErrOtherKey.New("It names key %x, the service holds %x.", sealed[1:1+idSize], b.id)
	}
	gcm, nonce := b.gcm(sealed[1+idSize : headSize])
	plain, err := gcm.Open(nil, nonce, sealed[headSize:], associated(sealed[:headSize], aad))
	if err != nil {
		return nil, ErrSealBroken.Wrap(err, "")
	}
	return plain, nil
}

// gcm derives key and nonce of one value. The sizes are constants, so none of
// the constructors can fail.
func (b *Box) gcm(salt []byte) (cipher.AEAD, []byte) {
	km, err := hkdf.Expand(sha256.New, b.seal, string(salt), 32+12)
	if err != nil {
		panic(err)
	}
	block, err := aes.NewCipher(km[:32])
	if err != nil {
		panic(err)
	}
	gcm, err := cipher.NewGCM(block)
	if err != nil {
		panic(err)
	}
	return gcm, km[32:]
}

func associated(head []byte, aad []string) []byte {
	n := len(head)
	for _, a := range aad {
		n += 8 + len(a)
	}
	out := append(make([]byte, 0, n), head...)
	for _, a := range aad {
		out = append(binary.BigEndian.AppendUint64(out, uint64(len(a))), a...)
	}
	return out
}

// MAC authenticates the fields of a row under a domain, which names the table
// and the meaning of the fields. Give fields in a fixed order and number; the
// row's key belongs to them, else two rows can be swapped.
func (b *Box) MAC(domain string, fields ...[]byte) []byte {
	h := hmac.New(sha256.New, b.mac)
	var n [8]byte
	binary.BigEndian.PutUint64(n[:], uint64(len(domain)))
	h.Write(n[:])
	io.WriteString(h, domain)
	for _, f := range fields {
		binary.BigEndian.PutUint64(n[:], uint64(len(f)))
		h.Write(n[:])
		h.Write(f)
	}
	return h.Sum(nil)
}

// Verify returns nil when mac is what [Box.MAC] gives for the same domain and
// fields, [ErrMACMismatch] else. It takes the same time wherever they differ.
func (b *Box) Verify(mac []byte, domain string, fields ...[]byte) error {
	if !hmac.Equal(mac, b.MAC(domain, fields...)) {
		return ErrMACMismatch.New("Domain %s.", domain)
	}
	return nil
}

// KeyID names the master key without saying anything about it; it is in the
// head of every sealed value.
func (b *Box) KeyID() string { return fmt.Sprintf("%x", b.id) }

const redacted = "seal.Box(redacted)"

// Format, String, LogValue and MarshalJSON show a placeholder, never a key.
func (b *Box) Format(f fmt.State, _ rune) { io.WriteString(f, redacted) }

// String is a placeholder.
func (b *Box) String() string { return redacted }

// LogValue is a placeholder.
func (b *Box) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON is a placeholder.
func (b *Box) MarshalJSON() ([]byte, error) { return []byte(`"` + redacted + `"`), nil }
