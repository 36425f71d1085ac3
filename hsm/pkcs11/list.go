//go:build cgo

package pkcs11

import (
	"context"
	"crypto/x509"

	p11 "github.com/miekg/pkcs11"

	"hallmark/hsm/token"
)

// maxKeys bounds a list of keys.
const maxKeys = 1000

// Tokens lists the tokens of the module that u names, and of those the ones
// that match u. It needs no PIN.
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
	select {
	case r := <-done:
		return r.all, r.err
	case <-ctx.Done():
		return nil, token.ErrTokenDown.Wrap(ctx.Err(), "The module did not answer in the request's time.").After(busyRetry)
	}
}

func (s *Store) tokens(u token.URI) ([]token.Info, error) {
	m, err := moduleAt(u.ModulePath, s.cfg)
	if err != nil {
		return nil, err
	}
	defer m.letGo()
	m.openMu.Lock()
	defer m.openMu.Unlock()
	if err := m.load(s.cfg.Log); err != nil {
		return nil, err
	}
	var all []token.Info
	if err := m.do(s.cfg.SignTimeout, func(v visit, alive func() bool) error {
		found, err := v.slots(u)
		if err != nil {
			return err
		}
		for _, f := range found {
			i := token.Info{
				ID: f.id, Scheme: token.SchemePKCS11, Sessions: f.sessions,
				LoginRequired: f.flags&p11.CKF_LOGIN_REQUIRED != 0,
				PINPad:        f.flags&p11.CKF_PROTECTED_AUTHENTICATION_PATH != 0,
				PINLow:        f.flags&p11.CKF_USER_PIN_COUNT_LOW != 0,
				PINFinalTry:   f.flags&p11.CKF_USER_PIN_FINAL_TRY != 0,
				PINLocked:     f.flags&p11.CKF_USER_PIN_LOCKED != 0,
			}
			if !alive() {
				return errSilent
			}
			mechs, err := v.ctx.mechanisms(f.number)
			if err != nil {
				return err
			}
			i.Algorithms = algorithms(mechs)
			all = append(all, i)
		}
		return nil
	}); err != nil {
		return nil, openFault(err, u)
	}
	return all, nil
}

// algorithms are those of ours whose mechanisms a token names. Which curves and
// lengths it takes only a try can tell.
func algorithms(mechs []uint) []string {
	has := map[uint]bool{}
	for _, m := range mechs {
		has[m] = true
	}
	var all []string
	for _, a := range []struct {
		name     string
		gen, use uint
	}{{"EC", p11.CKM_EC_KEY_PAIR_GEN, p11.CKM_ECDSA}, {"RSA", p11.CKM_RSA_PKCS_KEY_PAIR_GEN, p11.CKM_RSA_PKCS}, {"Ed25519", ckmECEdwardsKeyPairGen, ckmEDDSA}} {
		switch {
		case has[a.use] && has[a.gen]:
			all = append(all, a.name)
		case has[a.use]:
			all = append(all, a.name+" (no generation)")
		}
	}
	return all
}

// Keys lists the private keys of the token that u names, with what the token
// says of them. Keys of kinds that we do not use are listed without a public key.
func (s *Store) Keys(ctx context.Context, u token.URI) ([]token.KeyInfo, error) {
	u.Type = ""
	d, err := s.device(ctx, u)
	if err != nil {
		return nil, err
	}
	var all []token.KeyInfo
	err = d.admin(ctx, 0, generateLimit, func(l *link, sess p11.SessionHandle) error {
		var found []token.KeyInfo
		tmpl := []*p11.Attribute{p11.NewAttribute(p11.CKA_CLASS, p11.CKO_PRIVATE_KEY), p11.NewAttribute(p11.CKA_TOKEN, true)}
		if u.Object != "" {
			tmpl = append(tmpl, p11.NewAttribute(p11.CKA_LABEL, u.Object))
		}
		if len(u.ID) > 0 {
			tmpl = append(tmpl, p11.NewAttribute(p11.CKA_ID, u.ID))
		}
		handles, err := l.ctx.find(sess, tmpl, maxKeys)
		if err != nil {
			return err
		}
		for _, h := range handles {
			k, err := d.keyInfo(l, sess, h)
			if err != nil {
				return err
			}
			found = append(found, k)
		}
		all = found
		return nil
	})
	if err != nil {
		return nil, err
	}
	return all, nil
}

func (d *device) keyInfo(l *link, sess p11.SessionHandle, h p11.ObjectHandle) (token.KeyInfo, error) {
	label, err := attribute(l.ctx, sess, h, p11.CKA_LABEL)
	if err != nil {
		return token.KeyInfo{}, err
	}
	id, err := attribute(l.ctx, sess, h, p11.CKA_ID)
	if err != nil {
		return token.KeyInfo{}, err
	}
	u := token.URI{Scheme: token.SchemePKCS11, Token: d.id.Label, Serial: d.id.Serial, Object: string(label), ID: id}
	k := token.KeyInfo{Attributes: token.Attributes{URI: u.Key(), Scheme: token.SchemePKCS11, Token: d.id}, Object: string(label), ID: id}
	pub, err := publicKey(l.ctx, sess, h, u)
	switch {
	case err == nil:
		k.Algorithm = token.AlgorithmOf(pub)
		if k.SPKI, err = x509.MarshalPKIXPublicKey(pub); err != nil {
			k.Note = "the public key has no standard form"
		}
	case token.Fault(err, token.ErrUnsupported):
		k.Note = "a kind of key that we do not use"
	case token.Fault(err, token.ErrKeyAmbiguous):
		k.Note = "more than one public key has its id"
	default:
		return k, err
	}
	always, err := flag(l.ctx, sess, h, p11.CKA_ALWAYS_AUTHENTICATE)
	if err != nil {
		return k, err
	}
	k.PINEachTime = always == token.Yes
	return k, readAttributes(l.ctx, sess, h, &k.Attributes)
}
