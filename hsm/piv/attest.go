//go:build cgo && !nopcsc

package piv

import (
	"context"
	"crypto/x509"
	"errors"

	"github.com/go-piv/piv-go/v2/piv"

	"hallmark/hsm/token"
)

// Attestation is what the card attests of the key of a slot, and the
// certificate that signed it. Keys that were imported, and cards that cannot
// attest, have none.
func (s *Store) Attestation(ctx context.Context, u token.URI) ([]*x509.Certificate, error) {
	c, slot, err := s.card(u)
	if err != nil {
		return nil, err
	}
	var chain []*x509.Certificate
	err = c.do(ctx, func(yk *piv.YubiKey) error {
		chain = nil
		leaf, err := yk.Attest(slot)
		var sw status
		switch {
		case errors.As(err, &sw) || errors.Is(err, piv.ErrNotFound):
			return nil // not a card that attests, or not a key that it made
		case err != nil:
			return err
		}
		up, err := yk.AttestationCertificate()
		if errors.Is(err, piv.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		chain = []*x509.Certificate{leaf, up}
		return nil
	})
	return chain, err
}
