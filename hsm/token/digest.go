package token

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
)

// maxMessage bounds what is handed to Ed25519, which signs whole messages.
const maxMessage = 16 << 20

// CheckDigest refuses what a key of the algorithm must not sign. Tokens do not
// check it: SoftHSM and crypto/ecdsa sign a digest of any length.
func CheckDigest(alg Algorithm, digest []byte, opts crypto.SignerOpts) error {
	if opts == nil {
		return ErrDigest.New("The hash is not named.")
	}
	h := opts.HashFunc()
	if alg == Ed25519 {
		o, isOptions := opts.(*ed25519.Options)
		if h != 0 || isOptions && o.Context != "" {
			return ErrUnsupported.New("Ed25519 keys sign messages, without hash or context.")
		}
		if len(digest) > maxMessage {
			return ErrDigest.New("The message is longer than %d bytes.", maxMessage)
		}
		return nil
	}
	switch h {
	case crypto.SHA256, crypto.SHA384, crypto.SHA512:
	default:
		return ErrUnsupported.New("The hash must be SHA-256, SHA-384 or SHA-512.")
	}
	if len(digest) != h.Size() {
		return ErrDigest.New("It has %d bytes, not the %d of %v.", len(digest), h.Size(), h)
	}
	return nil
}

// ProbePrefix begins what a test signature signs. The rest is random, so no
// test signature can be one over a certificate or a list, and whoever reads the
// audit log of a token can tell the tests from the work.
const ProbePrefix = "hallmark-probe-1"

// Challenge is what a test signature of the key signs.
func Challenge(pub crypto.PublicKey) ([]byte, crypto.SignerOpts) {
	challenge := make([]byte, 32)
	rand.Read(challenge[copy(challenge, ProbePrefix):])
	if AlgorithmOf(pub) == Ed25519 {
		return challenge, crypto.Hash(0)
	}
	return challenge, crypto.SHA256
}

// Prove has a random challenge signed and verifies it with pub: the only proof
// that a private key is there, works, and is the one that is meant.
func Prove(pub crypto.PublicKey, sign func(digest []byte, opts crypto.SignerOpts) ([]byte, error)) error {
	challenge, opts := Challenge(pub)
	sig, err := sign(challenge, opts)
	if err != nil {
		return err
	}
	if !Verify(pub, challenge, opts, sig) {
		return ErrOperation.New("The private key does not fit its public key.")
	}
	return nil
}

// Verify tells whether sig is what SignContext promises for digest and opts.
func Verify(pub crypto.PublicKey, digest []byte, opts crypto.SignerOpts, sig []byte) bool {
	switch p := pub.(type) {
	case *ecdsa.PublicKey:
		return ecdsa.VerifyASN1(p, digest, sig)
	case *rsa.PublicKey:
		if pss, ok := opts.(*rsa.PSSOptions); ok {
			return rsa.VerifyPSS(p, pss.HashFunc(), digest, sig, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthAuto}) == nil
		}
		return rsa.VerifyPKCS1v15(p, opts.HashFunc(), digest, sig) == nil
	case ed25519.PublicKey:
		return ed25519.Verify(p, digest, sig)
	}
	return false
}
