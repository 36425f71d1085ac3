package hsm

import (
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"os"
	"time"

	"hallmark/hsm/pkcs11"
	"hallmark/hsm/token"
)

// What tokens say of themselves and of their keys.
type (
	TokenInfo = token.Info
	KeyInfo   = token.KeyInfo
)

// lister is a backend whose tokens can be looked at.
type lister interface {
	Tokens(ctx context.Context, u token.URI) ([]token.Info, error)
	Keys(ctx context.Context, u token.URI) ([]token.KeyInfo, error)
}

// Tokens lists tokens without a PIN: those of a PKCS #11 module, or with an
// empty module of the configured one.
func (k *Keyring) Tokens(ctx context.Context, module string) ([]TokenInfo, error) {
	if module == "" {
		module = k.cfg.Module
	}
	if module == "" {
		return nil, ErrURIInvalid.New("No PKCS #11 module is named.")
	}
	return k.backends[token.SchemePKCS11].(lister).Tokens(ctx, token.URI{Scheme: token.SchemePKCS11, ModulePath: module})
}

// Cards lists the PIV cards in the readers.
func (k *Keyring) Cards(ctx context.Context) ([]TokenInfo, error) {
	return k.backends[token.SchemePIV].(lister).Tokens(ctx, token.URI{Scheme: token.SchemePIV})
}

// Keys lists the private keys of the token that uri names; for pkcs11: those
// that its object and id match, where it has them.
func (k *Keyring) Keys(ctx context.Context, uri string) ([]KeyInfo, error) {
	u, err := token.ParseURI(uri)
	if err != nil {
		return nil, err
	}
	if u.Scheme == token.SchemePKCS11 && u.ModulePath == "" {
		u.ModulePath = k.cfg.Module
	}
	if u.Scheme == token.SchemePKCS11 && u.ModulePath == "" {
		return nil, ErrURIInvalid.New("It has no module-path and none is configured.")
	}
	l, ok := k.backends[u.Scheme].(lister)
	if !ok {
		return nil, ErrURIInvalid.New("A %s URI names one key and no token.", u.Scheme)
	}
	return l.Keys(ctx, u)
}

// Replicate makes a key in the token of from and puts a copy of it, under wrap,
// into the token of to (S6). What it gives is the record without which
// production mode takes no copy; both tokens have signed it. by is who does it.
func (k *Keyring) Replicate(ctx context.Context, from, to string, alg Algorithm, by string, now time.Time) (*Transfer, error) {
	var uris [2]token.URI
	for i, text := range []string{from, to} {
		u, _, err := k.resolve(text)
		if err != nil {
			return nil, err
		}
		if u.Scheme != token.SchemePKCS11 {
			return nil, ErrUnsupported.New("Keys move between PKCS #11 tokens only; a card's key never leaves it.")
		}
		uris[i] = u
	}
	a, b, w, err := k.backends[token.SchemePKCS11].(*pkcs11.Store).Replicate(ctx, uris[0], uris[1], alg)
	if err != nil {
		return nil, err
	}
	t := &Transfer{Schema: TransferSchema, Made: now.UTC().Truncate(time.Second), By: by, Program: programDigest()}
	for _, s := range []struct {
		key  Signer
		u    token.URI
		into *TransferToken
	}{{a, uris[0], &t.From}, {b, uris[1], &t.To}} {
		named, err := token.ParseURI(s.key.URI())
		if err != nil {
			return nil, err
		}
		s.u.Object, s.u.ID = named.Object, named.ID
		attrs, err := k.backends[token.SchemePKCS11].Attributes(ctx, s.u)
		if err != nil {
			return nil, err
		}
		*s.into = TokenFacts(attrs)
		t.Key = TransferKey{Object: named.Object, ID: hex.EncodeToString(named.ID), Algorithm: attrs.Algorithm, SPKI: attrs.SPKI, SHA256: hexDigest(attrs.SPKI)}
	}
	wpub, err := x509.ParsePKIXPublicKey(w.SPKI)
	if err != nil {
		return nil, err
	}
	t.Wrapping = WrappingKey{Algorithm: token.AlgorithmOf(wpub), SPKI: w.SPKI, SHA256: hexDigest(w.SPKI), KEK: w.KEK, Mechanism: w.Mechanism, Destroyed: w.Destroyed}
	return t, SignTransfer(ctx, t, a, b)
}

// programDigest is the SHA-256 of this program's file, "" if it cannot be read.
func programDigest() string {
	name, err := os.Executable()
	if err != nil {
		return ""
	}
	b, err := os.ReadFile(name)
	if err != nil {
		return ""
	}
	d := sha256.Sum256(b)
	return hex.EncodeToString(d[:])
}

// SourcePrompt and SourceProtected are the sources of a PIN that are no place:
// the terminal asks, or the token does at a keypad of its own.
const (
	SourcePrompt    = token.SourcePrompt
	SourceProtected = token.SourceProtected
)

// ReadSource reads a PIN or passphrase from a source as a URI names it.
func ReadSource(source string) (Secret, error) { return token.ReadSource(source) }

// AlgorithmOf is the algorithm of a public key, empty if it is none of ours.
func AlgorithmOf(pub crypto.PublicKey) Algorithm { return token.AlgorithmOf(pub) }

// Verify tells whether sig is what SignContext promises for digest and opts.
func Verify(pub crypto.PublicKey, digest []byte, opts crypto.SignerOpts, sig []byte) bool {
	return token.Verify(pub, digest, opts, sig)
}

// TestDigest is something to sign that can be no certificate.
func TestDigest(pub crypto.PublicKey) ([]byte, crypto.SignerOpts) { return token.Challenge(pub) }

// TestSign has a key sign a challenge and verifies it.
func TestSign(ctx context.Context, s Signer) error {
	return token.Prove(s.Public(), func(digest []byte, opts crypto.SignerOpts) ([]byte, error) {
		return s.SignContext(ctx, digest, opts)
	})
}

// CheckCard is [CheckFirmware] before there is a key: it refuses to make a key of
// the algorithm on the card that uri names, if its firmware gives such keys away.
// It gives the firmware. What is no card passes.
func (k *Keyring) CheckCard(ctx context.Context, uri string, alg Algorithm) (firmware string, err error) {
	u, b, err := k.resolve(uri)
	if err != nil || u.Scheme != token.SchemePIV {
		return "", err
	}
	cards, err := b.(lister).Tokens(ctx, token.URI{Scheme: token.SchemePIV, Serial: u.Serial})
	if err != nil {
		return "", err
	}
	if len(cards) == 0 {
		return "", ErrTokenDown.New("No reader holds the card %s.", u.Serial)
	}
	return cards[0].Firmware, CheckFirmware(Attributes{URI: u.Key(), Scheme: token.SchemePIV, Algorithm: alg, Token: cards[0].ID}, false)
}
