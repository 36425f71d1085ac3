//go:build cgo

package pkcs11

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"sync"

	p11 "github.com/miekg/pkcs11"

	"hallmark/hsm/token"
)

// Store opens keys in PKCS #11 tokens.
type Store struct {
	cfg token.Config

	mu      sync.Mutex
	devices []*device
	closed  bool
}

// New makes a Store; cfg is complete.
func New(cfg token.Config) *Store { return &Store{cfg: cfg} }

// Signer opens the private key that u names.
func (s *Store) Signer(ctx context.Context, u token.URI) (token.Signer, error) {
	if u.Type != "" && u.Type != "private" {
		return nil, token.ErrURIInvalid.New("The type of a signing key is private.")
	}
	u.Type = "" // says the same with and without
	d, err := s.device(ctx, u)
	if err != nil {
		return nil, err
	}
	if k := d.known(u); k != nil {
		return k, d.available()
	}
	var k *Key
	err = d.admin(ctx, 0, d.cfg.SignTimeout, func(l *link, sess p11.SessionHandle) error {
		h, err := d.findPrivate(sess, l, u)
		if err != nil {
			return err
		}
		pub, err := publicKey(l.ctx, sess, h, u)
		if err != nil {
			return err
		}
		always, err := flag(l.ctx, sess, h, p11.CKA_ALWAYS_AUTHENTICATE)
		if err != nil {
			return err
		}
		if k, err = newKey(d, u, pub, always == token.Yes); err != nil {
			return err
		}
		return k.resolve(l.ctx, sess, l.gen)
	})
	if err != nil {
		return nil, err
	}
	k = d.remember(k)
	d.log.Info("key opened", "key", k.name, "algorithm", string(k.alg))
	return k, nil
}

// Attributes reads what the token says about the private key.
func (s *Store) Attributes(ctx context.Context, u token.URI) (token.Attributes, error) {
	u.Type = ""
	a := token.Attributes{URI: u.Key(), Scheme: token.SchemePKCS11}
	d, err := s.device(ctx, u)
	if err != nil {
		return token.Attributes{}, err
	}
	a.Token = d.id
	err = d.admin(ctx, 0, d.cfg.SignTimeout, func(l *link, sess p11.SessionHandle) error {
		h, err := d.findPrivate(sess, l, u)
		if err != nil {
			return err
		}
		pub, err := publicKey(l.ctx, sess, h, u)
		if err != nil {
			return err
		}
		a.Algorithm = token.AlgorithmOf(pub)
		if a.SPKI, err = x509.MarshalPKIXPublicKey(pub); err != nil {
			return token.ErrUnsupported.Wrap(err, "The public key has no standard form.")
		}
		return readAttributes(l.ctx, sess, h, &a)
	})
	if err != nil {
		return token.Attributes{}, err // what was filled may still be written to
	}
	return a, nil
}

// Certificate reads the certificate object of the key: by the key's id if there
// is a key, else by the URI itself.
func (s *Store) Certificate(ctx context.Context, u token.URI) (*x509.Certificate, error) {
	u.Type = ""
	d, err := s.device(ctx, u)
	if err != nil {
		return nil, err
	}
	var cert *x509.Certificate
	err = d.admin(ctx, 0, d.cfg.SignTimeout, func(l *link, sess p11.SessionHandle) error {
		by := u
		h, err := d.findPrivate(sess, l, u)
		switch {
		case err == nil:
			id, err := attribute(l.ctx, sess, h, p11.CKA_ID)
			if err != nil {
				return err
			}
			if len(id) > 0 {
				by = token.URI{ID: id}
			}
		case !token.Fault(err, token.ErrKeyNotFound):
			return err
		}
		cert, err = findCertificate(l.ctx, sess, by)
		return err
	})
	if err != nil {
		return nil, err
	}
	return cert, nil
}

// Health examines each token.
func (s *Store) Health(ctx context.Context) []token.Health {
	s.mu.Lock()
	devices := slices.Clone(s.devices)
	s.mu.Unlock()
	var all []token.Health
	for _, d := range devices {
		all = append(all, d.health(ctx))
	}
	return all
}

// Close ends the sessions of this store. The modules stay initialised: another
// keyring of the process may use them.
func (s *Store) Close() error {
	s.mu.Lock()
	s.closed = true
	devices := s.devices
	s.devices = nil
	s.mu.Unlock()
	for _, d := range devices {
		d.close()
	}
	return nil
}

// device is the token that u names, opened at its first use.
func (s *Store) device(ctx context.Context, u token.URI) (*device, error) {
	if d, err := s.opened(u); d != nil || err != nil {
		return d, err
	}
	// Loading, looking and logging in can hang in the module; the caller can
	// leave, the goroutine stays until the module answers.
	type result struct {
		d   *device
		err error
	}
	done := make(chan result, 1)
	go func() {
		d, err := s.open(u)
		done <- result{d, err}
	}()
	select {
	case r := <-done:
		return r.d, r.err
	case <-ctx.Done():
		return nil, token.ErrTokenDown.Wrap(ctx.Err(), "The token did not answer in the request's time.").After(busyRetry)
	}
}

// opened finds u among the tokens that were opened. That only one of them
// matches does not show that only one token matches, so the names must be the
// ones the device was opened with, or include its serial.
func (s *Store) opened(u token.URI) (*device, error) {
	path, err := realPath(u.ModulePath)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, token.ErrClosed.New("")
	}
	for _, d := range s.devices {
		if d.mod.path != path {
			continue
		}
		same := u.Token == d.uri.Token && u.Serial == d.uri.Serial && u.Model == d.uri.Model && u.Manufacturer == d.uri.Manufacturer
		exact := u.Serial == d.id.Serial && match(u.Token, d.id.Label) && match(u.Model, d.id.Model) && match(u.Manufacturer, d.id.Manufacturer)
		if same || exact {
			return d, nil
		}
	}
	return nil, nil
}

func (s *Store) open(u token.URI) (*device, error) {
	m, err := moduleAt(u.ModulePath, s.cfg)
	if err != nil {
		return nil, err
	}
	held := true // until a device holds it
	defer func() {
		if held {
			m.letGo()
		}
	}()
	m.openMu.Lock()
	defer m.openMu.Unlock()
	if d, err := s.opened(u); d != nil || err != nil {
		return d, err
	}
	if err := m.load(s.cfg.Log); err != nil {
		return nil, err
	}
	sl, err := m.look(u, s.cfg)
	if err != nil {
		return nil, openFault(err, u)
	}
	byID := u
	byID.Token, byID.Serial = sl.id.Label, sl.id.Serial
	if d, err := s.opened(byID); d != nil || err != nil {
		return d, err
	}
	d := newDevice(m, sl, u, s.cfg)
	if err := d.connect(noDeadline, 0); err != nil {
		return nil, openFault(err, u)
	}
	d.start()
	held = false
	s.mu.Lock()
	closed := s.closed
	if !closed {
		s.devices = append(s.devices, d)
	}
	s.mu.Unlock()
	if closed {
		d.close()
		return nil, token.ErrClosed.New("")
	}
	d.log.Info("token opened", "model", d.id.Model, "firmware", d.id.Firmware, "sessions", d.cfg.Sessions)
	return d, nil
}

// look finds the token of u. If the module shows no token at all, it is started
// anew once: a network module that lost its server shows an empty slot list for
// ever. It is left alone while it shows others, whose sessions would end. A
// module that hangs is started anew too.
func (m *module) look(u token.URI, cfg token.Config) (slot, error) {
	gen := m.generation()
	sl, all, err := m.lookOnce(u, cfg)
	if err == nil || all > 0 {
		return sl, err
	}
	if rerr := m.restart(gen, errors.Is(err, errSilent), cfg.Log); rerr != nil {
		return sl, fmt.Errorf("%w, after: %w", rerr, err)
	}
	sl, _, err = m.lookOnce(u, cfg)
	return sl, err
}

// lookOnce finds the token of u and counts all tokens.
func (m *module) lookOnce(u token.URI, cfg token.Config) (slot, int, error) {
	var found slot
	var all []slot
	var miss error
	if err := m.do(cfg.SignTimeout, func(v visit, _ func() bool) (err error) {
		if found, miss = v.one(u); miss != nil {
			all, _ = v.slots(token.URI{})
		}
		return nil
	}); err != nil {
		return slot{}, 0, err
	}
	return found, len(all), miss
}

func openFault(err error, u token.URI) error {
	switch {
	case token.Fault(err, token.ErrModuleStuck):
		return err
	case errors.Is(err, errNoToken), errors.Is(err, errSilent), errors.Is(err, errUnanswered),
		classify(err) == classToken, classify(err) == classDoubtful:
		return token.ErrTokenDown.Wrap(err, "No token matches %s.", token.URI{Scheme: u.Scheme, Token: u.Token, Serial: u.Serial}.Key()).After(busyRetry)
	}
	return wrapCode(err)
}

// findPrivate is the one private key that u names.
func (d *device) findPrivate(sess p11.SessionHandle, l *link, u token.URI) (p11.ObjectHandle, error) {
	h, err := findObjects(l.ctx, sess, p11.CKO_PRIVATE_KEY, u)
	switch {
	case err != nil:
		return 0, err
	case len(h) == 0:
		return 0, d.whyNoKey(sess, l, u)
	case len(h) > 1:
		return 0, token.ErrKeyAmbiguous.New("%s matches more than one key.", u.Key())
	}
	return h[0], nil
}

func (d *device) known(u token.URI) *Key {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.keys[u.Key()]
}

// remember keeps one Key per name, the first.
func (d *device) remember(k *Key) *Key {
	d.mu.Lock()
	defer d.mu.Unlock()
	if old := d.keys[k.name]; old != nil {
		return old
	}
	d.keys[k.name] = k
	return k
}
