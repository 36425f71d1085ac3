//go:build cgo && !nopcsc

package piv

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"io"
	"slices"
	"strconv"
	"sync"
	"time"

	"github.com/go-piv/piv-go/v2/piv"

	"hallmark/hsm/token"
)

// Store opens keys in PIV cards.
type Store struct {
	cfg token.Config

	mu     sync.Mutex
	cards  []*card
	keys   map[string]*Key
	closed bool
}

// New makes a Store; cfg is complete.
func New(cfg token.Config) *Store { return &Store{cfg: cfg, keys: map[string]*Key{}} }

func (s *Store) card(u token.URI) (*card, piv.Slot, error) {
	serial, err := strconv.ParseUint(u.Serial, 10, 32)
	if err != nil {
		return nil, piv.Slot{}, token.ErrURIInvalid.Wrap(err, "The serial is no number.")
	}
	slot, ok := slotOf(u.Slot)
	if !ok {
		return nil, piv.Slot{}, token.ErrURIInvalid.New("There is no slot %02x.", u.Slot)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, piv.Slot{}, token.ErrClosed.New("")
	}
	for _, c := range s.cards {
		if c.serial == uint32(serial) {
			return c, slot, nil
		}
	}
	c := newCard(uint32(serial), s.cfg)
	s.cards = append(s.cards, c)
	return c, slot, nil
}

func slotOf(b byte) (piv.Slot, bool) {
	switch b {
	case 0x9a:
		return piv.SlotAuthentication, true
	case 0x9c:
		return piv.SlotSignature, true
	case 0x9d:
		return piv.SlotKeyManagement, true
	case 0x9e:
		return piv.SlotCardAuthentication, true
	}
	return piv.RetiredKeyManagementSlot(uint32(b))
}

// Signer opens the key of a slot and, unless it wants a touch, tests it.
func (s *Store) Signer(ctx context.Context, u token.URI) (token.Signer, error) {
	c, slot, err := s.card(u)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	k := s.keys[u.Key()]
	s.mu.Unlock()
	if k != nil {
		return k, nil
	}
	err = c.do(ctx, func(yk *piv.YubiKey) error {
		info, err := inspect(yk, slot)
		if err != nil {
			return err
		}
		if err := c.login(ctx, u, yk); err != nil {
			return err
		}
		k, err = newKey(s, c, u, slot, info)
		if err != nil || info.TouchPolicy != piv.TouchPolicyNever {
			return err
		}
		return token.Prove(k.pub, func(d []byte, o crypto.SignerOpts) ([]byte, error) { return k.sign(yk, d, o) })
	})
	if err != nil {
		return nil, err
	}
	return s.remember(k), nil
}

func (s *Store) remember(k *Key) *Key {
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.keys[k.name]; old != nil {
		return old
	}
	s.keys[k.name] = k
	return k
}

// inspect reads what the card knows about the key of a slot. Cards before 5.3
// tell it by attestation, or only by the certificate beside the key, which can
// be stale: the test signature notices.
func inspect(yk *piv.YubiKey, slot piv.Slot) (piv.KeyInfo, error) {
	info, err := yk.KeyInfo(slot)
	var sw status
	if err == nil || !errors.As(err, &sw) || sw.Status() != 0x6d00 {
		return info, err
	}
	info = piv.KeyInfo{PINPolicy: piv.PINPolicyAlways, TouchPolicy: piv.TouchPolicyNever}
	if cert, err := yk.Attest(slot); err == nil {
		info.PublicKey, info.Origin = cert.PublicKey, piv.OriginGenerated
		return info, nil
	}
	cert, err := yk.Certificate(slot)
	if err != nil {
		return info, err
	}
	info.PublicKey = cert.PublicKey
	return info, nil
}

var algorithms = map[token.Algorithm]piv.Algorithm{
	token.P256: piv.AlgorithmEC256, token.P384: piv.AlgorithmEC384, token.Ed25519: piv.AlgorithmEd25519,
	token.RSA2048: piv.AlgorithmRSA2048, token.RSA3072: piv.AlgorithmRSA3072, token.RSA4096: piv.AlgorithmRSA4096,
}

// Generate makes a key in an empty slot. The management key is the one that the
// card keeps under its PIN, else the card's default.
func (s *Store) Generate(ctx context.Context, u token.URI, spec token.Spec) (token.Signer, error) {
	c, slot, err := s.card(u)
	if err != nil {
		return nil, err
	}
	var k *Key
	err = c.do(ctx, func(yk *piv.YubiKey) error {
		if _, err := inspect(yk, slot); err == nil {
			return token.ErrKeyExists.New("%s", u.Key())
		} else if !errors.Is(err, piv.ErrNotFound) {
			return err
		}
		if _, err := yk.Certificate(slot); err == nil {
			return token.ErrKeyExists.New("The slot of %s holds a certificate.", u.Key())
		}
		if err := c.login(ctx, u, yk); err != nil {
			return err
		}
		management := piv.DefaultManagementKey
		if m, err := yk.Metadata(string(c.pin.Reveal())); err != nil {
			return err
		} else if m.ManagementKey != nil {
			management = *m.ManagementKey
		}
		policy := piv.PINPolicyOnce
		if slot == piv.SlotSignature {
			policy = piv.PINPolicyAlways // NIST SP 800-73-4, Part 1, Table 4
		}
		_, err := yk.GenerateKey(management, slot, piv.Key{Algorithm: algorithms[spec.Algorithm], PINPolicy: policy, TouchPolicy: piv.TouchPolicyNever})
		if err != nil {
			return keyless(err)
		}
		info, err := inspect(yk, slot)
		if err != nil {
			return err
		}
		if k, err = newKey(s, c, u, slot, info); err != nil {
			return err
		}
		return token.Prove(k.pub, func(d []byte, o crypto.SignerOpts) ([]byte, error) { return k.sign(yk, d, o) })
	})
	if err != nil {
		return nil, err
	}
	s.cfg.Log.Info("key generated", "key", k.name, "algorithm", string(k.alg))
	return s.remember(k), nil
}

// keyless keeps a refused management key from being taken for a refused PIN.
func keyless(err error) error {
	var sw status
	if errors.As(err, &sw) {
		return token.ErrOperation.Wrap(err, "The card did not make the key; is its management key the default, or kept under its PIN?")
	}
	return err
}

// Attributes are those that a PIV card has by its nature, and what it tells of
// the origin of the key.
func (s *Store) Attributes(ctx context.Context, u token.URI) (token.Attributes, error) {
	c, slot, err := s.card(u)
	if err != nil {
		return token.Attributes{}, err
	}
	var info piv.KeyInfo
	var id token.ID
	err = c.do(ctx, func(yk *piv.YubiKey) error {
		var err error
		info, err = inspect(yk, slot)
		id = c.id()
		return err
	})
	if err != nil {
		return token.Attributes{}, err
	}
	a := attributesOf(u, info)
	a.Token, a.Algorithm = id, token.AlgorithmOf(info.PublicKey)
	if a.SPKI, err = x509.MarshalPKIXPublicKey(info.PublicKey); err != nil {
		return token.Attributes{}, token.ErrUnsupported.Wrap(err, "The public key has no standard form.")
	}
	return a, nil
}

// Certificate reads the certificate of the slot.
func (s *Store) Certificate(ctx context.Context, u token.URI) (*x509.Certificate, error) {
	c, slot, err := s.card(u)
	if err != nil {
		return nil, err
	}
	var cert *x509.Certificate
	err = c.do(ctx, func(yk *piv.YubiKey) error {
		got, err := yk.Certificate(slot)
		if errors.Is(err, piv.ErrNotFound) {
			return token.ErrNoCertificate.Wrap(err, "%s", u.Key())
		}
		cert = got
		return err
	})
	if err != nil {
		return nil, err
	}
	return cert, nil
}

// Health asks each card for its serial number.
func (s *Store) Health(ctx context.Context) []token.Health {
	s.mu.Lock()
	cards := slices.Clone(s.cards)
	keys := map[*card]int{}
	for _, k := range s.keys {
		keys[k.card]++
	}
	s.mu.Unlock()
	var all []token.Health
	for _, c := range cards {
		h := c.health(ctx)
		h.Keys = keys[c]
		all = append(all, h)
	}
	return all
}

// Close releases the cards.
func (s *Store) Close() error {
	s.mu.Lock()
	s.closed = true
	cards := s.cards
	s.cards = nil
	s.mu.Unlock()
	for _, c := range cards {
		c.close()
	}
	return nil
}

// Key is a private key in a card.
type Key struct {
	store  *Store
	card   *card
	uri    token.URI
	name   string
	slot   piv.Slot
	pub    crypto.PublicKey
	alg    token.Algorithm
	policy piv.PINPolicy
}

func newKey(s *Store, c *card, u token.URI, slot piv.Slot, info piv.KeyInfo) (*Key, error) {
	k := &Key{store: s, card: c, uri: u, name: u.Key(), slot: slot, pub: info.PublicKey, alg: token.AlgorithmOf(info.PublicKey), policy: info.PINPolicy}
	if k.alg == "" {
		return nil, token.ErrUnsupported.New("%s has a kind or size of key that we do not use.", k.name)
	}
	return k, nil
}

// Public is the public key, as it was when the key was opened.
func (k *Key) Public() crypto.PublicKey { return k.pub }

// URI is the canonical name of the key.
func (k *Key) URI() string { return k.name }

// Sign is SignContext without an end.
func (k *Key) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return k.SignContext(context.Background(), digest, opts)
}

// SignContext waits for the card and signs.
func (k *Key) SignContext(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if err := token.CheckDigest(k.alg, digest, opts); err != nil {
		return nil, err
	}
	k.store.mu.Lock()
	closed := k.store.closed
	k.store.mu.Unlock()
	if closed {
		return nil, token.ErrClosed.New("")
	}
	own := append([]byte(nil), digest...) // the caller may leave and reuse its own
	type result struct{ sig []byte }
	done := make(chan result, 1)
	began := time.Now()
	err := k.card.do(ctx, func(yk *piv.YubiKey) error {
		if err := k.card.login(ctx, k.uri, yk); err != nil {
			return err
		}
		sig, err := k.sign(yk, own, opts)
		if err == nil {
			done <- result{sig}
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	k.store.cfg.Metrics.Sign.WithLabelValues("piv-" + k.card.name()).Observe(time.Since(began).Seconds())
	return (<-done).sig, nil
}

func (k *Key) sign(yk *piv.YubiKey, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	priv, err := yk.PrivateKey(k.slot, k.pub, piv.KeyAuth{PIN: string(k.card.pin.Reveal()), PINPolicy: k.policy})
	if err != nil {
		return nil, err
	}
	signer, ok := priv.(crypto.Signer)
	if !ok {
		return nil, token.ErrUnsupported.New("%s cannot sign.", k.name)
	}
	return signer.Sign(rand.Reader, digest, opts)
}
