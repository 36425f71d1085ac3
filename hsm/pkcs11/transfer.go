//go:build cgo

package pkcs11

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"errors"
	"math/big"

	p11 "github.com/miekg/pkcs11"

	"hallmark/hsm/token"
)

// ckmAESKeyWrapPad is CKM_AES_KEY_WRAP_PAD: RFC 5649.
const ckmAESKeyWrapPad = 0x210A

// oaepSHA1 is CK_RSA_PKCS_OAEP_PARAMS with SHA-1 for hash and mask and no label.
// Tokens that take SHA-256 here are rare, and OAEP does not rest on collisions.
func oaepSHA1() []byte {
	var b []byte
	for _, n := range []uint64{p11.CKM_SHA_1, p11.CKG_MGF1_SHA1, p11.CKZ_DATA_SPECIFIED, 0, 0} {
		b = binary.NativeEndian.AppendUint64(b, n)
	}
	return b
}

// Replicate makes a key in the token of from and moves it, wrapped, into the
// token of to, where it gets the same name and id. It can leave the first token
// only while this runs, and the second never:
//
//  1. The second token makes an RSA key for this transfer, in the session.
//  2. The first makes the key, extractable, and an AES key that wraps it
//     (RFC 5649); the RSA key wraps the AES key. Nothing else leaves it.
//  3. The first makes its key unextractable.
//  4. The second unwraps both, the key with its final attributes.
//  5. The wrapping keys end with their sessions; they are destroyed before.
//
// The result is tested by a signature of each. On an error nothing stays behind.
func (s *Store) Replicate(ctx context.Context, from, to token.URI, alg token.Algorithm) (a, b token.Signer, w token.Wrapping, err error) {
	switch {
	case alg == token.Ed25519:
		return nil, nil, w, token.ErrUnsupported.New("Ed25519 keys cannot be wrapped; use P-256, P-384 or RSA for a key with a spare.")
	case !alg.Valid():
		return nil, nil, w, token.ErrUnsupported.New("%q is no algorithm we generate.", string(alg))
	case from.Object == "" || to.Object == "":
		return nil, nil, w, token.ErrURIInvalid.New("A new key needs an object name in both tokens.")
	}
	if len(from.ID) == 0 {
		from.ID = make([]byte, 16)
		rand.Read(from.ID)
	}
	to.ID, from.Type, to.Type = from.ID, "", ""
	da, err := s.device(ctx, from)
	if err != nil {
		return nil, nil, w, err
	}
	db, err := s.device(ctx, to)
	if err != nil {
		return nil, nil, w, err
	}
	if da == db {
		return nil, nil, w, token.ErrURIInvalid.New("Both URIs name the same token.")
	}
	m := move{from: from, to: to, alg: alg, da: da, db: db}
	err = db.admin(ctx, p11.CKF_RW_SESSION, generateLimit, func(lb *link, sb p11.SessionHandle) error {
		lb.genMu.Lock()
		defer lb.genMu.Unlock()
		if err := nameIsFree(lb, sb, to); err != nil {
			return err
		}
		return da.admin(ctx, p11.CKF_RW_SESSION, generateLimit, func(la *link, sa p11.SessionHandle) error {
			la.genMu.Lock()
			defer la.genMu.Unlock()
			if err := nameIsFree(la, sa, from); err != nil {
				return err
			}
			return m.run(la, sa, lb, sb)
		})
	})
	if err != nil {
		return nil, nil, w, err
	}
	da.remember(m.a)
	db.remember(m.b)
	da.log.Info("key made and moved", "key", m.a.name, "to", m.b.name, "algorithm", string(alg))
	return m.a, m.b, m.w, nil
}

// move is one transfer.
type move struct {
	from, to token.URI
	alg      token.Algorithm
	da, db   *device
	a, b     *Key
	w        token.Wrapping
}

func (m *move) run(la *link, sa p11.SessionHandle, lb *link, sb p11.SessionHandle) (err error) {
	// What was made is destroyed in the opposite order: always the wrapping keys,
	// and after an error the key too.
	var temporary, made []func() error
	defer func() {
		var left error
		for _, f := range temporary {
			left = errors.Join(left, f())
		}
		m.w.Destroyed = left == nil
		if err != nil {
			for _, f := range made {
				err = errors.Join(err, f())
			}
		}
	}()
	keep := func(list *[]func() error, l *link, s p11.SessionHandle, h ...p11.ObjectHandle) {
		for _, h := range h {
			*list = append(*list, func() error { return l.ctx.destroy(s, h) })
		}
	}

	// 1. the RSA key of the second token
	rsaPub, rsaPriv, err := lb.ctx.generateKeyPair(sb, p11.NewMechanism(p11.CKM_RSA_PKCS_KEY_PAIR_GEN, nil), []*p11.Attribute{
		p11.NewAttribute(p11.CKA_TOKEN, false), p11.NewAttribute(p11.CKA_MODULUS_BITS, 3072), p11.NewAttribute(p11.CKA_PUBLIC_EXPONENT, []byte{1, 0, 1}),
		p11.NewAttribute(p11.CKA_WRAP, true), p11.NewAttribute(p11.CKA_ENCRYPT, false), p11.NewAttribute(p11.CKA_VERIFY, false),
	}, []*p11.Attribute{
		p11.NewAttribute(p11.CKA_TOKEN, false), p11.NewAttribute(p11.CKA_PRIVATE, true), p11.NewAttribute(p11.CKA_SENSITIVE, true), p11.NewAttribute(p11.CKA_EXTRACTABLE, false),
		p11.NewAttribute(p11.CKA_UNWRAP, true), p11.NewAttribute(p11.CKA_DECRYPT, false), p11.NewAttribute(p11.CKA_SIGN, false),
	})
	if err != nil {
		return err
	}
	keep(&temporary, lb, sb, rsaPriv, rsaPub)
	pub, err := readPublic(lb.ctx, sb, rsaPub)
	if err != nil {
		return err
	}
	rp, ok := pub.(*rsa.PublicKey)
	if !ok || rp.N.BitLen() != 3072 {
		return token.ErrUnsupported.New("The second token did not make the RSA key it was asked for.")
	}
	if m.w.SPKI, err = x509.MarshalPKIXPublicKey(rp); err != nil {
		return err
	}

	// 2. the key and the AES key of the first token
	mech, public, err := publicTemplate(m.alg)
	if err != nil {
		return err
	}
	pubA, privA, err := la.ctx.generateKeyPair(sa, mech, append(public, named(m.from, p11.NewAttribute(p11.CKA_VERIFY, true))...), append(signing(m.from), p11.NewAttribute(p11.CKA_EXTRACTABLE, true)))
	if err != nil {
		return err
	}
	keep(&made, la, sa, privA, pubA)
	kek, err := la.ctx.generateKey(sa, p11.NewMechanism(p11.CKM_AES_KEY_GEN, nil), append(kekTemplate(), p11.NewAttribute(p11.CKA_VALUE_LEN, 32),
		p11.NewAttribute(p11.CKA_EXTRACTABLE, true), p11.NewAttribute(p11.CKA_WRAP, true), p11.NewAttribute(p11.CKA_UNWRAP, false)))
	if err != nil {
		return err
	}
	keep(&temporary, la, sa, kek)
	wrapper, err := la.ctx.create(sa, []*p11.Attribute{
		p11.NewAttribute(p11.CKA_CLASS, p11.CKO_PUBLIC_KEY), p11.NewAttribute(p11.CKA_KEY_TYPE, p11.CKK_RSA), p11.NewAttribute(p11.CKA_TOKEN, false),
		p11.NewAttribute(p11.CKA_MODULUS, rp.N.Bytes()), p11.NewAttribute(p11.CKA_PUBLIC_EXPONENT, big.NewInt(int64(rp.E)).Bytes()),
		p11.NewAttribute(p11.CKA_WRAP, true), p11.NewAttribute(p11.CKA_ENCRYPT, false), p11.NewAttribute(p11.CKA_VERIFY, false),
	})
	if err != nil {
		return err
	}
	keep(&temporary, la, sa, wrapper)
	oaep := &p11.Mechanism{Mechanism: p11.CKM_RSA_PKCS_OAEP, Parameter: oaepSHA1()}
	pad := p11.NewMechanism(ckmAESKeyWrapPad, nil)
	wrappedKEK, err := la.ctx.wrap(sa, oaep, wrapper, kek)
	if err != nil {
		return err
	}
	wrapped, err := la.ctx.wrap(sa, pad, kek, privA)
	if err != nil {
		return err
	}
	m.w.KEK, m.w.Mechanism = "AES-256 under RSA-3072 OAEP (SHA-1)", "CKM_AES_KEY_WRAP_PAD (RFC 5649)"

	// 3. the door behind it is closed
	if err := la.ctx.setAttributes(sa, privA, []*p11.Attribute{p11.NewAttribute(p11.CKA_EXTRACTABLE, false)}); err != nil {
		return err
	}
	if m.a, err = m.da.adopt(sa, la, m.from, pubA, privA); err != nil {
		return err
	}

	// 4. into the second token
	kekB, err := lb.ctx.unwrap(sb, oaep, rsaPriv, wrappedKEK, append(kekTemplate(), p11.NewAttribute(p11.CKA_CLASS, p11.CKO_SECRET_KEY), p11.NewAttribute(p11.CKA_KEY_TYPE, p11.CKK_AES),
		p11.NewAttribute(p11.CKA_EXTRACTABLE, false), p11.NewAttribute(p11.CKA_WRAP, false), p11.NewAttribute(p11.CKA_UNWRAP, true)))
	if err != nil {
		return err
	}
	keep(&temporary, lb, sb, kekB)
	kind, parts, err := publicParts(m.a.pub)
	if err != nil {
		return err
	}
	privB, err := lb.ctx.unwrap(sb, pad, kekB, wrapped, append(signing(m.to), p11.NewAttribute(p11.CKA_CLASS, p11.CKO_PRIVATE_KEY), p11.NewAttribute(p11.CKA_KEY_TYPE, kind),
		p11.NewAttribute(p11.CKA_EXTRACTABLE, false)))
	if err != nil {
		return err
	}
	keep(&made, lb, sb, privB)
	pubB, err := lb.ctx.create(sb, append(parts, named(m.to, p11.NewAttribute(p11.CKA_CLASS, p11.CKO_PUBLIC_KEY), p11.NewAttribute(p11.CKA_KEY_TYPE, kind), p11.NewAttribute(p11.CKA_VERIFY, true))...))
	if err != nil {
		return err
	}
	keep(&made, lb, sb, pubB)
	m.b, err = m.db.adopt(sb, lb, m.to, pubB, privB)
	return err
}

func named(u token.URI, more ...*p11.Attribute) []*p11.Attribute {
	return append(more, p11.NewAttribute(p11.CKA_TOKEN, true), p11.NewAttribute(p11.CKA_LABEL, u.Object), p11.NewAttribute(p11.CKA_ID, u.ID))
}

// signing are the attributes of a private key that signs and does nothing else.
func signing(u token.URI) []*p11.Attribute {
	return named(u,
		p11.NewAttribute(p11.CKA_PRIVATE, true), p11.NewAttribute(p11.CKA_SENSITIVE, true), p11.NewAttribute(p11.CKA_SIGN, true),
		p11.NewAttribute(p11.CKA_DECRYPT, false), p11.NewAttribute(p11.CKA_UNWRAP, false), p11.NewAttribute(p11.CKA_DERIVE, false), p11.NewAttribute(p11.CKA_SIGN_RECOVER, false))
}

func kekTemplate() []*p11.Attribute {
	return []*p11.Attribute{
		p11.NewAttribute(p11.CKA_TOKEN, false), p11.NewAttribute(p11.CKA_PRIVATE, true), p11.NewAttribute(p11.CKA_SENSITIVE, true),
		p11.NewAttribute(p11.CKA_ENCRYPT, false), p11.NewAttribute(p11.CKA_DECRYPT, false),
	}
}

// publicParts are what a public key object is made of.
func publicParts(pub crypto.PublicKey) (kind uint, parts []*p11.Attribute, err error) {
	switch k := pub.(type) {
	case *rsa.PublicKey:
		return p11.CKK_RSA, []*p11.Attribute{
			p11.NewAttribute(p11.CKA_MODULUS, k.N.Bytes()), p11.NewAttribute(p11.CKA_PUBLIC_EXPONENT, big.NewInt(int64(k.E)).Bytes()),
		}, nil
	case *ecdsa.PublicKey:
		oid := oidP256
		if token.AlgorithmOf(pub) == token.P384 {
			oid = oidP384
		}
		params, err := asn1.Marshal(oid)
		if err != nil {
			return 0, nil, err
		}
		bare, err := k.Bytes()
		if err != nil {
			return 0, nil, err
		}
		point, err := asn1.Marshal(bare)
		if err != nil {
			return 0, nil, err
		}
		return p11.CKK_EC, []*p11.Attribute{p11.NewAttribute(p11.CKA_EC_PARAMS, params), p11.NewAttribute(p11.CKA_EC_POINT, point)}, nil
	}
	return 0, nil, token.ErrUnsupported.New("This kind of key cannot be moved.")
}
