package token

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"time"
)

// Signer is a private key that is somewhere else. It is safe for concurrent use.
type Signer interface {
	crypto.Signer
	// SignContext is Sign that gives up when ctx ends and takes its priority
	// from ctx (package lane). It does not verify what it returns: whoever
	// signs a certificate, CRL or answer verifies it with the pinned public
	// key before it leaves.
	SignContext(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error)
	// URI is the canonical name of the key without PIN or module.
	URI() string
}

// Algorithm is a kind of key pair.
type Algorithm string

// The algorithms.
const (
	P256    Algorithm = "P-256"
	P384    Algorithm = "P-384"
	RSA2048 Algorithm = "RSA-2048"
	RSA3072 Algorithm = "RSA-3072"
	RSA4096 Algorithm = "RSA-4096"
	Ed25519 Algorithm = "Ed25519"
)

// RSABits is the modulus length, 0 for another kind.
func (a Algorithm) RSABits() int {
	switch a {
	case RSA2048:
		return 2048
	case RSA3072:
		return 3072
	case RSA4096:
		return 4096
	}
	return 0
}

// Curve is the curve of an ECDSA algorithm, nil for another kind.
func (a Algorithm) Curve() elliptic.Curve {
	switch a {
	case P256:
		return elliptic.P256()
	case P384:
		return elliptic.P384()
	}
	return nil
}

// Valid says whether a is one of the algorithms.
func (a Algorithm) Valid() bool { return a == Ed25519 || a.Curve() != nil || a.RSABits() != 0 }

// AlgorithmOf is the algorithm of a public key, empty if it is none of ours.
func AlgorithmOf(pub crypto.PublicKey) Algorithm {
	switch k := pub.(type) {
	case *ecdsa.PublicKey:
		switch k.Curve {
		case elliptic.P256():
			return P256
		case elliptic.P384():
			return P384
		}
	case *rsa.PublicKey:
		switch k.N.BitLen() {
		case 2048:
			return RSA2048
		case 3072:
			return RSA3072
		case 4096:
			return RSA4096
		}
	case ed25519.PublicKey:
		return Ed25519
	}
	return ""
}

// Profile is how a key may live (S6).
type Profile string

// Unique keys never leave their token and have no backup. It is the default
// and the only profile that can be generated; replicated keys need a ceremony.
const (
	Unique     Profile = "unique"
	Replicated Profile = "replicated"
)

// Spec says what to generate.
type Spec struct {
	Algorithm Algorithm
	Profile   Profile // default Unique
}

// Check refuses a Spec that cannot be generated.
func (s Spec) Check() error {
	if !s.Algorithm.Valid() {
		return ErrUnsupported.New("%q is no algorithm we generate.", string(s.Algorithm))
	}
	if s.Profile != "" && s.Profile != Unique {
		return ErrUnsupported.New("A %q key is made by a ceremony, not by a single token.", string(s.Profile))
	}
	return nil
}

// Tri is a fact that a token may not tell.
type Tri uint8

// The three states. The zero value is Unknown.
const (
	Unknown Tri = iota
	No
	Yes
)

// String is "unknown", "no" or "yes".
func (t Tri) String() string {
	switch t {
	case Yes:
		return "yes"
	case No:
		return "no"
	}
	return "unknown"
}

// MarshalText is String.
func (t Tri) MarshalText() ([]byte, error) { return []byte(t.String()), nil }

// Is makes a Tri of a bool.
func Is(b bool) Tri {
	if b {
		return Yes
	}
	return No
}

// Attributes is what a token says about a private key.
type Attributes struct {
	URI       string
	Scheme    string // SchemePKCS11, SchemePIV or SchemeFile
	Token     ID
	Algorithm Algorithm
	SPKI      []byte // DER SubjectPublicKeyInfo

	OnToken          Tri // CKA_TOKEN: stays when the session ends
	Private          Tri
	Sensitive        Tri
	AlwaysSensitive  Tri
	Extractable      Tri
	NeverExtractable Tri
	Local            Tri // generated on this token
	Sign             Tri
	SignRecover      Tri
	Decrypt          Tri
	Unwrap           Tri
	Derive           Tri
	Modifiable       Tri
}

// States of a token.
const (
	StateUp      = "up"
	StateDown    = "down"    // reconnecting in the background
	StateRefused = "refused" // the PIN was refused; waits for a person
)

// Health is the state of one token.
type Health struct {
	Scheme     string
	Token      ID
	State      string
	Keys       int           // keys opened
	Sessions   int           // sessions of the pool
	InUse      int           // sessions that sign at this moment
	Waiting    int           // requests in the queue
	Generation uint64        // rises with each reconnection
	Latency    time.Duration // of the last test signature
	PINLow     bool          // the token says that a wrong PIN was tried since the last login
	Stuck      int           // calls that hang in the token's module, where it is loaded into this process
	Replaced   int           // processes of the token's module that were ended or lost, and replaced
	LastError  string
	Since      time.Time // of this state
}
