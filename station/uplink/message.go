package uplink

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
)

const commitContext = "hallmark commit v1"

// CommitMessage is what a device signs to prove that it holds the key of the
// certificate it was given (S12):
//
//	"hallmark commit v1" 0x00 nonce 0x00 unit 0x00 SHA-256(certificate)
//
// A unit has no zero octet and the hash has 32, so the message can be read from
// its end in one way only, whatever the nonce contains.
func CommitMessage(nonce []byte, unit string, der []byte) []byte {
	hash := sha256.Sum256(der)
	b := make([]byte, 0, len(commitContext)+len(nonce)+len(unit)+len(hash)+3)
	b = append(b, commitContext...)
	b = append(append(b, 0), nonce...)
	b = append(append(b, 0), unit...)
	return append(append(b, 0), hash[:]...)
}

// commitHash is the hash that goes with a key: of the strength of its curve,
// SHA-256 for RSA, none for Ed25519, which takes the message itself.
func commitHash(pub crypto.PublicKey) (crypto.Hash, error) {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			return crypto.SHA256, nil
		case elliptic.P384():
			return crypto.SHA384, nil
		case elliptic.P521():
			return crypto.SHA512, nil
		}
	case *rsa.PublicKey:
		return crypto.SHA256, nil
	case ed25519.PublicKey:
		return 0, nil
	}
	return 0, ErrProofKey.New("It is a %T.", pub)
}

// commitInput is what enters the signature operation.
func commitInput(h crypto.Hash, msg []byte) []byte {
	if h == 0 {
		return msg
	}
	d := h.New()
	d.Write(msg)
	return d.Sum(nil)
}

// SignCommit signs a commit message as a device does: ECDSA in ASN.1 over the
// hash of the curve's strength, RSA PKCS #1 v1.5 over SHA-256, Ed25519.
func SignCommit(key crypto.Signer, msg []byte) ([]byte, error) {
	h, err := commitHash(key.Public())
	if err != nil {
		return nil, err
	}
	return key.Sign(rand.Reader, commitInput(h, msg), h)
}

// VerifyCommit checks a device's signature over a commit message.
func VerifyCommit(pub crypto.PublicKey, msg, sig []byte) error {
	h, err := commitHash(pub)
	if err != nil {
		return err
	}
	input, ok := commitInput(h, msg), false
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		ok = ecdsa.VerifyASN1(k, input, sig)
	case *rsa.PublicKey:
		ok = rsa.VerifyPKCS1v15(k, h, input, sig) == nil
	case ed25519.PublicKey:
		ok = ed25519.Verify(k, input, sig)
	}
	if !ok {
		return ErrProof.New("")
	}
	return nil
}
