package hsm

import (
	"context"
	"crypto/x509"

	"hallmark/hsm/token"
)

// attester is a backend whose tokens attest keys.
type attester interface {
	Attestation(ctx context.Context, u token.URI) ([]*x509.Certificate, error)
}

// Attestation is the chain by which a token says that it made a key: the
// certificate about the key, then those above, without the maker's root. It is
// empty for tokens that do not attest.
func (k *Keyring) Attestation(ctx context.Context, uri string) ([]*x509.Certificate, error) {
	u, b, err := k.resolve(uri)
	if err != nil {
		return nil, err
	}
	a, ok := b.(attester)
	if !ok {
		return nil, nil
	}
	return a.Attestation(ctx, u)
}
