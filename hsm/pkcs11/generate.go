//go:build cgo

package pkcs11

import (
	"context"
	"crypto/rand"
	"encoding/asn1"
	"errors"
	"time"

	p11 "github.com/miekg/pkcs11"

	"hallmark/hsm/token"
)

// generateLimit is for RSA-4096 on a slow token, which takes minutes.
const generateLimit = 5 * time.Minute

// Generate makes a key pair that signs and does nothing else.
func (s *Store) Generate(ctx context.Context, u token.URI, spec token.Spec) (token.Signer, error) {
	if u.Object == "" {
		return nil, token.ErrURIInvalid.New("A new key needs an object name.")
	}
	if u.Type != "" && u.Type != "private" {
		return nil, token.ErrURIInvalid.New("The type of a new key is private.")
	}
	if len(u.ID) == 0 {
		u.ID = make([]byte, 16)
		rand.Read(u.ID)
	}
	d, err := s.device(ctx, u)
	if err != nil {
		return nil, err
	}
	var k *Key
	err = d.admin(ctx, p11.CKF_RW_SESSION, generateLimit, func(l *link, sess p11.SessionHandle) error {
		l.genMu.Lock()
		defer l.genMu.Unlock()
		if err := nameIsFree(l, sess, u); err != nil {
			return err
		}
		k, err = d.generate(sess, l, u, spec)
		return err
	})
	if err != nil {
		return nil, err
	}
	d.remember(k)
	d.log.Info("key generated", "key", k.name, "algorithm", string(k.alg))
	return k, nil
}

// nameIsFree refuses a name or an id that any key has: tokens accept twins, and
// then no URI can tell them apart.
func nameIsFree(l *link, sess p11.SessionHandle, u token.URI) error {
	for _, by := range []token.URI{{Object: u.Object}, {ID: u.ID}} {
		for _, class := range []uint{p11.CKO_PRIVATE_KEY, p11.CKO_PUBLIC_KEY} {
			h, err := findObjects(l.ctx, sess, class, by)
			if err != nil {
				return err
			}
			if len(h) > 0 {
				return token.ErrKeyExists.New("%s", u.Key())
			}
		}
	}
	return nil
}

func (d *device) generate(sess p11.SessionHandle, l *link, u token.URI, spec token.Spec) (*Key, error) {
	mech, public, err := publicTemplate(spec.Algorithm)
	if err != nil {
		return nil, err
	}
	public = append(public,
		p11.NewAttribute(p11.CKA_TOKEN, true),
		p11.NewAttribute(p11.CKA_VERIFY, true),
		p11.NewAttribute(p11.CKA_LABEL, u.Object),
		p11.NewAttribute(p11.CKA_ID, u.ID),
	)
	// The defaults of many tokens are unsafe, so each one is said aloud.
	private := []*p11.Attribute{
		p11.NewAttribute(p11.CKA_TOKEN, true),
		p11.NewAttribute(p11.CKA_PRIVATE, true),
		p11.NewAttribute(p11.CKA_SENSITIVE, true),
		p11.NewAttribute(p11.CKA_EXTRACTABLE, false),
		p11.NewAttribute(p11.CKA_SIGN, true),
		p11.NewAttribute(p11.CKA_DECRYPT, false),
		p11.NewAttribute(p11.CKA_UNWRAP, false),
		p11.NewAttribute(p11.CKA_DERIVE, false),
		p11.NewAttribute(p11.CKA_LABEL, u.Object),
		p11.NewAttribute(p11.CKA_ID, u.ID),
	}
	// Some tokens do not know these two for every kind of key; they do not
	// open a way to the key, so a token without them is accepted.
	optional := []*p11.Attribute{
		p11.NewAttribute(p11.CKA_SIGN_RECOVER, false),
		p11.NewAttribute(p11.CKA_MODIFIABLE, false),
	}
	pubH, privH, err := l.ctx.generateKeyPair(sess, mech, public, append(private[:len(private):len(private)], optional...))
	if isCode(err, p11.CKR_ATTRIBUTE_TYPE_INVALID) || isCode(err, p11.CKR_TEMPLATE_INCONSISTENT) {
		pubH, privH, err = l.ctx.generateKeyPair(sess, mech, public, private)
	}
	if err != nil {
		return nil, err
	}
	k, err := d.adopt(sess, l, u, pubH, privH)
	if err != nil {
		// Nothing was signed with it, so nothing is lost.
		return nil, errors.Join(err, l.ctx.destroy(sess, privH), l.ctx.destroy(sess, pubH))
	}
	return k, nil
}

// adopt checks that the token made what it was asked for.
func (d *device) adopt(sess p11.SessionHandle, l *link, u token.URI, pubH, privH p11.ObjectHandle) (*Key, error) {
	pub, err := readPublic(l.ctx, sess, pubH)
	if err != nil {
		return nil, err
	}
	k, err := newKey(d, u, pub, false)
	if err != nil {
		return nil, err
	}
	var a token.Attributes
	if err := readAttributes(l.ctx, sess, privH, &a); err != nil {
		return nil, err
	}
	if a.Sensitive == token.No || a.Extractable == token.Yes || a.Decrypt == token.Yes || a.Unwrap == token.Yes || a.Derive == token.Yes {
		return nil, token.ErrKeyUnsafe.New("The token did not honour the template.")
	}
	return k, k.resolve(l.ctx, sess, l.gen)
}

func publicTemplate(alg token.Algorithm) (*p11.Mechanism, []*p11.Attribute, error) {
	if bits := alg.RSABits(); bits > 0 {
		return p11.NewMechanism(p11.CKM_RSA_PKCS_KEY_PAIR_GEN, nil), []*p11.Attribute{
			p11.NewAttribute(p11.CKA_KEY_TYPE, p11.CKK_RSA),
			p11.NewAttribute(p11.CKA_MODULUS_BITS, bits),
			p11.NewAttribute(p11.CKA_PUBLIC_EXPONENT, []byte{1, 0, 1}),
			p11.NewAttribute(p11.CKA_ENCRYPT, false),
			p11.NewAttribute(p11.CKA_WRAP, false),
		}, nil
	}
	oid, kind, mech := asn1.ObjectIdentifier(nil), uint(p11.CKK_EC), uint(p11.CKM_EC_KEY_PAIR_GEN)
	switch alg {
	case token.P256:
		oid = oidP256
	case token.P384:
		oid = oidP384
	case token.Ed25519:
		oid, kind, mech = asn1.ObjectIdentifier{1, 3, 101, 112}, ckkECEdwards, ckmECEdwardsKeyPairGen
	default:
		return nil, nil, token.ErrUnsupported.New("%q is no algorithm we generate.", string(alg))
	}
	params, err := asn1.Marshal(oid)
	if err != nil {
		return nil, nil, err
	}
	return p11.NewMechanism(mech, nil), []*p11.Attribute{
		p11.NewAttribute(p11.CKA_KEY_TYPE, kind),
		p11.NewAttribute(p11.CKA_EC_PARAMS, params),
	}, nil
}
