//go:build !cgo

package pkcs11

import (
	"context"
	"crypto/x509"

	"hallmark/hsm/token"
)

// Store stands in where the program is built without cgo: it opens nothing.
type Store struct{}

// New makes a Store.
func New(token.Config) *Store { return &Store{} }

// SetModuleEnv does nothing without cgo.
func SetModuleEnv(module, name, value string) error { return nil }

// SetModuleParameters does nothing without cgo.
func SetModuleParameters(module, parameters string) error { return nil }

func absent() error {
	return token.ErrUnsupported.New("This program was built without PKCS #11 (CGO_ENABLED=0).")
}

// Signer fails.
func (*Store) Signer(context.Context, token.URI) (token.Signer, error) { return nil, absent() }

// Generate fails.
func (*Store) Generate(context.Context, token.URI, token.Spec) (token.Signer, error) {
	return nil, absent()
}

// Attributes fails.
func (*Store) Attributes(context.Context, token.URI) (token.Attributes, error) {
	return token.Attributes{}, absent()
}

// Certificate fails.
func (*Store) Certificate(context.Context, token.URI) (*x509.Certificate, error) {
	return nil, absent()
}

// Health is empty.
func (*Store) Health(context.Context) []token.Health { return nil }

// Close does nothing.
func (*Store) Close() error { return nil }

// Tokens fails.
func (*Store) Tokens(context.Context, token.URI) ([]token.Info, error) { return nil, absent() }

// Keys fails.
func (*Store) Keys(context.Context, token.URI) ([]token.KeyInfo, error) { return nil, absent() }

// Replicate fails.
func (*Store) Replicate(context.Context, token.URI, token.URI, token.Algorithm) (a, b token.Signer, w token.Wrapping, err error) {
	return nil, nil, w, absent()
}
