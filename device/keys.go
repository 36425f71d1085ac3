package device

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"net/url"
	"os"
	"strings"

	"hallmark/hsm"
	"hallmark/hsm/token"
)

// Keys opens and makes keys in tokens; [hsm.Keyring] does.
type Keys interface {
	Signer(ctx context.Context, uri string) (hsm.Signer, error)
	Generate(ctx context.Context, uri string, spec hsm.Spec) (hsm.Signer, error)
}

// algorithms are those of the keys that a device makes; "" is the first.
var algorithms = map[string]struct {
	curve elliptic.Curve
	token hsm.Algorithm
}{"": {elliptic.P256(), hsm.P256}, "P-256": {elliptic.P256(), hsm.P256}, "P-384": {elliptic.P384(), hsm.P384}}

// scheme is how a reference to a token begins.
const scheme = "pkcs11:"

// keyring reads and makes the keys of one directory.
type keyring struct {
	ctx  context.Context // of the run
	keys Keys            // nil: files only
	base string          // URI for new keys; empty: files
}

// read gives the key of a file, or the one that the file refers to.
func (k keyring) read(name string) (crypto.Signer, error) {
	raw, err := os.ReadFile(name)
	if err != nil {
		return nil, ErrDir.Wrap(err, "")
	}
	if text := strings.TrimSpace(string(raw)); strings.HasPrefix(text, scheme) {
		if k.keys == nil {
			return nil, ErrToken.New("Its key is in a token.")
		}
		return k.keys.Signer(k.ctx, text)
	}
	block, _ := pem.Decode(raw)
	if block == nil {
		return nil, ErrDir.New("A key file holds neither PEM nor a URI.")
	}
	var key any
	if key, err = x509.ParsePKCS8PrivateKey(block.Bytes); err != nil {
		if key, err = x509.ParseECPrivateKey(block.Bytes); err != nil {
			key, err = x509.ParsePKCS1PrivateKey(block.Bytes)
		}
	}
	s, ok := key.(crypto.Signer)
	if err != nil || !ok {
		return nil, ErrDir.Wrap(err, "A key file cannot be read.")
	}
	return s, nil
}

// pair gives a certificate with its chain and the key that fits.
func (k keyring) pair(certFile, keyFile string) (tls.Certificate, error) {
	var out tls.Certificate
	raw, err := os.ReadFile(certFile)
	if err != nil {
		return out, err
	}
	for block, rest := pem.Decode(raw); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			out.Certificate = append(out.Certificate, block.Bytes)
		}
	}
	if len(out.Certificate) == 0 {
		return out, errors.New("no certificate")
	}
	if out.Leaf, err = x509.ParseCertificate(out.Certificate[0]); err != nil {
		return out, err
	}
	key, err := k.read(keyFile)
	if err != nil {
		return out, err
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil || !bytes.Equal(spki, out.Leaf.RawSubjectPublicKeyInfo) {
		return out, errors.New("the key is not the certificate's")
	}
	out.PrivateKey = key
	return out, nil
}

// create makes a key and leaves it, or its URI, in a file. A URI is on disk
// before the token is asked: cut off in between, the next run finds no key under
// it and begins anew, and no key is left that nothing refers to.
func (k keyring) create(name, slot, algorithm string, write func(string, []byte, os.FileMode) error) (crypto.Signer, error) {
	kind, ok := algorithms[algorithm]
	if !ok {
		return nil, ErrToken.New("%q is no algorithm for keys here.", algorithm)
	}
	if k.base != "" {
		return k.inToken(name, slot, kind.token, write)
	}
	key, err := ecdsa.GenerateKey(kind.curve, rand.Reader)
	if err != nil {
		return nil, ErrDir.Wrap(err, "")
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, ErrDir.Wrap(err, "")
	}
	if err := write(name, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600); err != nil {
		return nil, ErrDir.Wrap(err, "")
	}
	return key, nil
}

func (k keyring) inToken(name, slot string, algorithm hsm.Algorithm, write func(string, []byte, os.FileMode) error) (crypto.Signer, error) {
	if k.keys == nil || !strings.HasPrefix(k.base, scheme) {
		return nil, ErrToken.New("The URI for new keys does not begin with %s.", scheme)
	}
	// Each key has a name of its own: a token does not replace one.
	uri, err := objectNamed(k.base, slot+"-"+strings.ToLower(rand.Text()[:8]))
	if err != nil {
		return nil, err
	}
	if err := write(name, []byte(uri+"\n"), 0o600); err != nil {
		return nil, ErrDir.Wrap(err, "")
	}
	key, err := k.keys.Generate(k.ctx, uri, hsm.Spec{Algorithm: algorithm})
	if err != nil {
		return nil, err
	}
	return key, nil
}

// objectNamed adds to the name of the object in a PKCS #11 URI (RFC 7512,
// Section 2.3).
func objectNamed(uri, suffix string) (string, error) {
	if _, err := hsm.ParseURI(uri); err != nil {
		return "", err
	}
	path, query, hasQuery := strings.Cut(strings.TrimPrefix(uri, scheme), "?")
	found := false
	parts := strings.Split(path, ";")
	for i, p := range parts {
		if v, ok := strings.CutPrefix(p, "object="); ok {
			parts[i], found = "object="+v+"-"+url.PathEscape(suffix), true
		}
	}
	if !found {
		parts = append(parts, "object="+url.PathEscape(suffix))
	}
	out := scheme + strings.Join(parts, ";")
	if hasQuery {
		out += "?" + query
	}
	return out, nil
}

// lasting tells whether a key that cannot be read is gone, so that another one
// may take its place. A token that is away or wants its PIN still has it.
func lasting(err error) bool {
	return errors.Is(err, token.ErrKeyNotFound) || errors.Is(err, ErrDir)
}
