//go:build cgo && !nopcsc

package piv

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/go-piv/piv-go/v2/piv"

	"hallmark/hsm/token"
)

// Tokens lists the cards in the readers. Cards that this store has open are
// told by what it knows of them: the binding opens a card once.
func (s *Store) Tokens(ctx context.Context, u token.URI) ([]token.Info, error) {
	type result struct {
		all []token.Info
		err error
	}
	done := make(chan result, 1)
	go func() {
		all, err := s.tokens(u)
		done <- result{all, err}
	}()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case r := <-done:
		return r.all, r.err
	case <-ctx.Done():
		return nil, token.ErrTokenDown.Wrap(ctx.Err(), "A card did not answer in the request's time.").After(time.Second)
	case <-timer.C:
		return nil, token.ErrTokenDown.New("A card did not answer within %v.", limit).After(time.Second)
	}
}

func (s *Store) tokens(u token.URI) ([]token.Info, error) {
	names, err := piv.Cards()
	if err != nil {
		return nil, token.ErrTokenDown.Wrap(err, "The card daemon does not answer; is pcscd running?").After(time.Second)
	}
	var all []token.Info
	for _, n := range names {
		yk, err := piv.Open(n)
		if err != nil {
			continue // no PIV card, or somebody's who uses it alone
		}
		i := token.Info{Scheme: token.SchemePIV, Reader: n, LoginRequired: true, Sessions: 1, Algorithms: []string{"EC", "RSA"}}
		serial, serr := yk.Serial()
		v := yk.Version()
		retries, rerr := yk.Retries()
		yk.Close()
		if serr != nil {
			continue
		}
		name := strconv.FormatUint(uint64(serial), 10)
		i.ID = token.ID{Label: "piv-" + name, Model: "PIV", Serial: name, Firmware: fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Patch)}
		if v.Major > 5 || v.Major == 5 && v.Minor >= 7 {
			i.Algorithms = append(i.Algorithms, "Ed25519")
		}
		if rerr == nil {
			i.PINLow, i.PINFinalTry, i.PINLocked = retries < 3, retries == 1, retries == 0
		}
		if u.Serial == "" || u.Serial == name {
			all = append(all, i)
		}
	}
	return all, nil
}

// slots are those that a URI can name.
func slots() []byte {
	all := []byte{0x9a, 0x9c, 0x9d, 0x9e}
	for b := byte(0x82); b <= 0x95; b++ {
		all = append(all, b)
	}
	return all
}

// Keys lists the keys of a card, whatever slot u names.
func (s *Store) Keys(ctx context.Context, u token.URI) ([]token.KeyInfo, error) {
	c, _, err := s.card(u)
	if err != nil {
		return nil, err
	}
	var all []token.KeyInfo
	err = c.do(ctx, func(yk *piv.YubiKey) error {
		all = nil
		for _, b := range slots() {
			slot, ok := slotOf(b)
			if !ok {
				continue
			}
			info, err := inspect(yk, slot)
			if errors.Is(err, piv.ErrNotFound) {
				continue
			}
			if err != nil {
				return err
			}
			name := u
			name.Slot = b
			k := token.KeyInfo{Attributes: attributesOf(name, info), Object: fmt.Sprintf("slot %02x", b), ID: []byte{b}, PINEachTime: info.PINPolicy == piv.PINPolicyAlways}
			k.Token, k.Algorithm = c.id(), token.AlgorithmOf(info.PublicKey)
			if k.SPKI, err = x509.MarshalPKIXPublicKey(info.PublicKey); err != nil || k.Algorithm == "" {
				k.SPKI, k.Note = nil, "a kind of key that we do not use"
			}
			all = append(all, k)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

// attributesOf are those that a PIV card has by its nature, and what it tells of
// the origin of the key.
func attributesOf(u token.URI, info piv.KeyInfo) token.Attributes {
	a := token.Attributes{
		URI: u.Key(), Scheme: token.SchemePIV,
		// NIST SP 800-73-4, Part 1, Section 3.3: a private key never leaves.
		OnToken: token.Yes, Private: token.Yes, Sensitive: token.Yes, Extractable: token.No, Sign: token.Yes, Modifiable: token.No,
	}
	switch info.Origin {
	case piv.OriginGenerated:
		a.Local, a.AlwaysSensitive, a.NeverExtractable = token.Yes, token.Yes, token.Yes
	case piv.OriginImported:
		a.Local, a.AlwaysSensitive, a.NeverExtractable = token.No, token.No, token.No
	}
	return a
}
