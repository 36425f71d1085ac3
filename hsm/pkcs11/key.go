//go:build cgo

package pkcs11

import (
	"context"
	"crypto"
	"crypto/rsa"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	p11 "github.com/miekg/pkcs11"

	"hallmark/hsm/token"
	"hallmark/internal/lane"
)

// Mechanisms and key types of PKCS #11 v3.0 that the binding does not name.
const (
	ckmECEdwardsKeyPairGen = 0x1055
	ckmEDDSA               = 0x1057
	ckkECEdwards           = 0x40
)

// noDeadline is for work that belongs to the token and not to one caller.
var noDeadline = context.Background()

// errNoKey is that a search found nothing.
var errNoKey = errors.New("the token shows no such key")

// Key is a private key in a token.
type Key struct {
	d    *device
	uri  token.URI
	name string
	pub  crypto.PublicKey // pinned when the key was opened
	alg  token.Algorithm
	half int // bytes of r and of s; 0 = not ECDSA

	alwaysAuth bool // wants the PIN for each signature

	found atomic.Pointer[found]
	plain *p11.Mechanism // for ECDSA, EdDSA and RSA PKCS #1 v1.5
}

// found is where the key was in one generation of the link.
type found struct {
	gen    uint64
	handle p11.ObjectHandle
}

func newKey(d *device, u token.URI, pub crypto.PublicKey, alwaysAuth bool) (*Key, error) {
	k := &Key{d: d, uri: u, name: u.Key(), pub: pub, alg: token.AlgorithmOf(pub), alwaysAuth: alwaysAuth}
	switch {
	case k.alg == "":
		return nil, token.ErrUnsupported.New("%s has a kind or size of key that we do not use.", k.name)
	case k.alg == token.Ed25519:
		k.plain = p11.NewMechanism(ckmEDDSA, nil)
	case k.alg.Curve() != nil:
		k.half = (k.alg.Curve().Params().BitSize + 7) / 8
		// Tokens differ in which ECDSA_SHA* they offer; all take a digest.
		k.plain = p11.NewMechanism(p11.CKM_ECDSA, nil)
	default:
		k.plain = p11.NewMechanism(p11.CKM_RSA_PKCS, nil)
	}
	return k, nil
}

// Public is the public key, as it was when the key was opened.
func (k *Key) Public() crypto.PublicKey { return k.pub }

// URI is the canonical name of the key.
func (k *Key) URI() string { return k.name }

// Sign is SignContext without an end.
func (k *Key) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return k.SignContext(noDeadline, digest, opts)
}

// SignContext queues the request in the lane of ctx and waits for its signature.
func (k *Key) SignContext(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	in, err := k.prepare(digest, opts)
	if err != nil {
		return nil, err
	}
	d := k.d
	if err := d.available(); err != nil {
		return nil, err
	}
	began := time.Now()
	r := &request{lane: min(lane.From(ctx), lane.Count-1), key: k, in: in, done: make(chan struct{}, 1)}
	if err := d.q.push(r); err != nil {
		return nil, err
	}
	if d.state.Load() != up {
		// The breaker opened between the check and the push, perhaps after it
		// had emptied the queue.
		r.settle(nil, d.available())
	}
	select {
	case <-r.done:
	case <-ctx.Done():
		r.settle(nil, ctx.Err()) // the worker's result, if any, is dropped
		if errors.Is(ctx.Err(), context.DeadlineExceeded) {
			return nil, token.ErrBusy.Wrap(ctx.Err(), "The request's own time ran out.").After(busyRetry)
		}
		return nil, fmt.Errorf("hsm: %w", ctx.Err())
	}
	d.observe.Observe(time.Since(began).Seconds())
	return r.sig, r.err
}

// input is what goes to C_Sign.
type input struct {
	data []byte // ours: the caller may leave and reuse its own
	mech *p11.Mechanism
}

// digestInfo is the DER that stands before a digest in RFC 8017, Section 9.2.
func digestInfo(h crypto.Hash) []byte {
	// SEQUENCE { SEQUENCE { OID 2.16.840.1.101.3.4.2.n, NULL }, OCTET STRING }
	n := map[crypto.Hash]byte{crypto.SHA256: 1, crypto.SHA384: 2, crypto.SHA512: 3}[h]
	size := byte(h.Size())
	return []byte{0x30, 17 + size, 0x30, 13, 0x06, 9, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, n, 0x05, 0, 0x04, size}
}

var digestInfos = map[crypto.Hash][]byte{
	crypto.SHA256: digestInfo(crypto.SHA256),
	crypto.SHA384: digestInfo(crypto.SHA384),
	crypto.SHA512: digestInfo(crypto.SHA512),
}

// prepare checks what is to be signed and gives it the form of its mechanism.
func (k *Key) prepare(digest []byte, opts crypto.SignerOpts) (input, error) {
	if err := token.CheckDigest(k.alg, digest, opts); err != nil {
		return input{}, err
	}
	if k.alg == token.Ed25519 {
		return input{append([]byte(nil), digest...), k.plain}, nil
	}
	if k.half > 0 {
		// FIPS 186-5, Section 6.4.1: the leftmost bits of the digest; some
		// tokens refuse more than they need.
		return input{append([]byte(nil), digest[:min(len(digest), k.half)]...), k.plain}, nil
	}
	if pss, ok := opts.(*rsa.PSSOptions); ok {
		mech, err := pssMechanism(opts.HashFunc(), pss)
		return input{append([]byte(nil), digest...), mech}, err
	}
	prefix := digestInfos[opts.HashFunc()]
	data := make([]byte, 0, len(prefix)+len(digest))
	return input{append(append(data, prefix...), digest...), k.plain}, nil
}

var pssHashes = map[crypto.Hash][2]uint{
	crypto.SHA256: {p11.CKM_SHA256, p11.CKG_MGF1_SHA256},
	crypto.SHA384: {p11.CKM_SHA384, p11.CKG_MGF1_SHA384},
	crypto.SHA512: {p11.CKM_SHA512, p11.CKG_MGF1_SHA512},
}

func pssMechanism(h crypto.Hash, o *rsa.PSSOptions) (*p11.Mechanism, error) {
	salt := o.SaltLength
	switch salt {
	case rsa.PSSSaltLengthAuto, rsa.PSSSaltLengthEqualsHash:
		// RFC 4055, Section 3.1: as long as the hash is what verifiers expect.
		salt = h.Size()
	}
	if salt < 0 || salt > h.Size() {
		return nil, token.ErrUnsupported.New("The PSS salt must be as long as the hash, or shorter.")
	}
	p := pssHashes[h]
	return p11.NewMechanism(p11.CKM_RSA_PKCS_PSS, p11.NewPSSParams(p[0], p[1], uint(salt))), nil
}

// raw is a signature in the form of the token. The caller owns sess and is in a visit with ctx.
func (k *Key) raw(ctx *calls, sess p11.SessionHandle, h p11.ObjectHandle, in input) ([]byte, error) {
	if !k.alwaysAuth {
		return ctx.sign(sess, h, in.mech, in.data, nil)
	}
	pin := k.d.copyPIN()
	defer pin.Wipe()
	return ctx.sign(sess, h, in.mech, in.data, &pin)
}

// encode turns a token's signature into the form of crypto.Signer.
func (k *Key) encode(raw []byte) ([]byte, error) {
	if k.half == 0 {
		return raw, nil
	}
	// PKCS #11 v3.1, Section 6.3.1: r and s, each as long as the order.
	if len(raw) != 2*k.half {
		return nil, token.ErrOperation.New("The signature has %d bytes, not %d.", len(raw), 2*k.half)
	}
	return derSignature(raw[:k.half], raw[k.half:]), nil
}

// derSignature is Ecdsa-Sig-Value of RFC 3279, Section 2.2.3, for halves of at
// most 66 bytes.
func derSignature(r, s []byte) []byte {
	r, rPad := integer(r)
	s, sPad := integer(s)
	body := 4 + len(r) + rPad + len(s) + sPad
	out := make([]byte, 0, body+3)
	out = append(out, 0x30)
	if body > 127 {
		out = append(out, 0x81)
	}
	out = append(out, byte(body))
	for _, p := range []struct {
		b   []byte
		pad int
	}{{r, rPad}, {s, sPad}} {
		out = append(out, 2, byte(len(p.b)+p.pad))
		if p.pad > 0 {
			out = append(out, 0)
		}
		out = append(out, p.b...)
	}
	return out
}

// integer is b without leading zeros, and whether one must be put before it to
// keep the number positive.
func integer(b []byte) ([]byte, int) {
	for len(b) > 1 && b[0] == 0 {
		b = b[1:]
	}
	return b, int(b[0] >> 7)
}

func (k *Key) handle(gen uint64) (p11.ObjectHandle, bool) {
	f := k.found.Load()
	if f == nil || f.gen != gen {
		return 0, false
	}
	return f.handle, true
}

func (k *Key) forget(gen uint64) {
	if f := k.found.Load(); f != nil && f.gen == gen {
		k.found.CompareAndSwap(f, nil)
	}
}

// resolve finds the key in sess and tests it before its handle is used: after
// a loss, the same name may belong to another key.
func (k *Key) resolve(ctx *calls, sess p11.SessionHandle, gen uint64) error {
	handles, err := findObjects(ctx, sess, p11.CKO_PRIVATE_KEY, k.uri)
	switch {
	case err != nil:
		return err
	case len(handles) == 0:
		k.forget(gen)
		return errNoKey
	case len(handles) > 1:
		return token.ErrKeyAmbiguous.New("%s matches %d keys.", k.name, len(handles))
	}
	if err := k.prove(ctx, sess, handles[0]); err != nil {
		return err
	}
	for next := (&found{gen: gen, handle: handles[0]}); ; {
		// A call that hung may end here long after the link it was made for.
		f := k.found.Load()
		if f != nil && f.gen > gen || k.found.CompareAndSwap(f, next) {
			return nil
		}
	}
}

// prove has the handle sign a challenge.
func (k *Key) prove(ctx *calls, sess p11.SessionHandle, h p11.ObjectHandle) error {
	return token.Prove(k.pub, func(digest []byte, opts crypto.SignerOpts) ([]byte, error) {
		in, err := k.prepare(digest, opts)
		if err != nil {
			return nil, err
		}
		raw, err := k.raw(ctx, sess, h, in)
		if err != nil {
			return nil, err
		}
		return k.encode(raw)
	})
}
