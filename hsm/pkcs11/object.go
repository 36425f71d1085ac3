//go:build cgo

package pkcs11

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/asn1"
	"encoding/binary"
	"fmt"
	"math/big"

	p11 "github.com/miekg/pkcs11"

	"hallmark/hsm/token"
)

// findObjects finds up to three objects of a class by the object name and id
// of u, whichever it has.
func findObjects(ctx *calls, sess p11.SessionHandle, class uint, u token.URI) ([]p11.ObjectHandle, error) {
	tmpl := []*p11.Attribute{p11.NewAttribute(p11.CKA_CLASS, class), p11.NewAttribute(p11.CKA_TOKEN, true)}
	if u.Object != "" {
		tmpl = append(tmpl, p11.NewAttribute(p11.CKA_LABEL, u.Object))
	}
	if len(u.ID) > 0 {
		tmpl = append(tmpl, p11.NewAttribute(p11.CKA_ID, u.ID))
	}
	return ctx.find(sess, tmpl, 3)
}

// attribute reads one attribute; nil if the token does not tell.
func attribute(ctx *calls, sess p11.SessionHandle, h p11.ObjectHandle, typ uint) ([]byte, error) {
	v, err := ctx.attribute(sess, h, typ)
	if isCode(err, p11.CKR_ATTRIBUTE_TYPE_INVALID) || isCode(err, p11.CKR_ATTRIBUTE_SENSITIVE) {
		return nil, nil
	}
	return v, err
}

func flag(ctx *calls, sess p11.SessionHandle, h p11.ObjectHandle, typ uint) (token.Tri, error) {
	v, err := attribute(ctx, sess, h, typ)
	if err != nil || len(v) != 1 {
		return token.Unknown, err
	}
	return token.Is(v[0] != 0), nil
}

func number(v []byte) (uint64, bool) {
	switch len(v) {
	case 8:
		return binary.NativeEndian.Uint64(v), true
	case 4:
		return uint64(binary.NativeEndian.Uint32(v)), true
	}
	return 0, false
}

// publicKey reads the public half of private key h: from its public key
// object, from its certificate, or from the private key itself, because tokens
// differ in which of them exist.
func publicKey(ctx *calls, sess p11.SessionHandle, h p11.ObjectHandle, u token.URI) (crypto.PublicKey, error) {
	by := u
	id, err := attribute(ctx, sess, h, p11.CKA_ID)
	if err != nil {
		return nil, err
	}
	if len(id) > 0 {
		by = token.URI{ID: id}
	}
	pubs, err := findObjects(ctx, sess, p11.CKO_PUBLIC_KEY, by)
	if err != nil {
		return nil, err
	}
	if len(pubs) > 1 {
		return nil, token.ErrKeyAmbiguous.New("%s has more than one public key.", u.Key())
	}
	if len(pubs) == 1 {
		return readPublic(ctx, sess, pubs[0])
	}
	cert, err := findCertificate(ctx, sess, by)
	switch {
	case err == nil:
		return cert.PublicKey, nil
	case !token.Fault(err, token.ErrNoCertificate):
		return nil, err
	}
	return readPublic(ctx, sess, h)
}

func readPublic(ctx *calls, sess p11.SessionHandle, h p11.ObjectHandle) (crypto.PublicKey, error) {
	v, err := attribute(ctx, sess, h, p11.CKA_KEY_TYPE)
	if err != nil {
		return nil, err
	}
	get := func(typ uint) []byte {
		var v []byte
		if err == nil {
			v, err = attribute(ctx, sess, h, typ)
		}
		return v
	}
	kind, _ := number(v)
	switch kind {
	case p11.CKK_RSA:
		n, e := get(p11.CKA_MODULUS), get(p11.CKA_PUBLIC_EXPONENT)
		if err != nil {
			return nil, err
		}
		exp := new(big.Int).SetBytes(e)
		if len(n) == 0 || !exp.IsInt64() || exp.Int64() < 3 || exp.Int64() > 1<<31-1 {
			return nil, errPublic("the RSA key is incomplete")
		}
		return &rsa.PublicKey{N: new(big.Int).SetBytes(n), E: int(exp.Int64())}, nil
	case p11.CKK_EC:
		params, point := get(p11.CKA_EC_PARAMS), get(p11.CKA_EC_POINT)
		if err != nil {
			return nil, err
		}
		return parsePoint(params, point)
	case ckkECEdwards:
		point := get(p11.CKA_EC_POINT)
		if err != nil {
			return nil, err
		}
		point = unwrapOctets(point, ed25519.PublicKeySize)
		if len(point) != ed25519.PublicKeySize {
			return nil, errPublic("the Ed25519 key is not of 32 bytes")
		}
		return ed25519.PublicKey(point), nil
	}
	return nil, token.ErrUnsupported.New("The key is of type %#x.", kind)
}

func errPublic(why string) error {
	return token.ErrUnsupported.New("The public key cannot be read: %s.", why)
}

var (
	oidP256 = asn1.ObjectIdentifier{1, 2, 840, 10045, 3, 1, 7}
	oidP384 = asn1.ObjectIdentifier{1, 3, 132, 0, 34}
)

func parsePoint(params, point []byte) (*ecdsa.PublicKey, error) {
	var oid asn1.ObjectIdentifier
	if rest, err := asn1.Unmarshal(params, &oid); err != nil || len(rest) > 0 {
		return nil, errPublic("the curve is not named")
	}
	var curve elliptic.Curve
	switch {
	case oid.Equal(oidP256):
		curve = elliptic.P256()
	case oid.Equal(oidP384):
		curve = elliptic.P384()
	default:
		return nil, token.ErrUnsupported.New("The curve %v is not one we use.", oid)
	}
	size := 1 + 2*((curve.Params().BitSize+7)/8)
	pub, err := ecdsa.ParseUncompressedPublicKey(curve, unwrapOctets(point, size))
	if err != nil {
		return nil, errPublic("the point is not on its curve")
	}
	return pub, nil
}

// unwrapOctets accepts a point bare or in an OCTET STRING: the standard wants
// the second, modules do both.
func unwrapOctets(b []byte, size int) []byte {
	if len(b) == size {
		return b
	}
	var inner []byte
	if rest, err := asn1.Unmarshal(b, &inner); err == nil && len(rest) == 0 {
		return inner
	}
	return b
}

func findCertificate(ctx *calls, sess p11.SessionHandle, u token.URI) (*x509.Certificate, error) {
	handles, err := findObjects(ctx, sess, p11.CKO_CERTIFICATE, u)
	switch {
	case err != nil:
		return nil, err
	case len(handles) == 0:
		return nil, token.ErrNoCertificate.New("")
	case len(handles) > 1:
		return nil, token.ErrKeyAmbiguous.New("There are %d certificates for one key.", len(handles))
	}
	v, err := attribute(ctx, sess, handles[0], p11.CKA_VALUE)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(v)
	if err != nil {
		return nil, token.ErrNoCertificate.Wrap(err, "What the token holds is no certificate.")
	}
	return cert, nil
}

// readAttributes asks for every attribute singly: one that a token does not
// know would spoil the answer for all.
func readAttributes(ctx *calls, sess p11.SessionHandle, h p11.ObjectHandle, a *token.Attributes) error {
	for _, f := range []struct {
		typ uint
		to  *token.Tri
	}{
		{p11.CKA_TOKEN, &a.OnToken},
		{p11.CKA_PRIVATE, &a.Private},
		{p11.CKA_SENSITIVE, &a.Sensitive},
		{p11.CKA_ALWAYS_SENSITIVE, &a.AlwaysSensitive},
		{p11.CKA_EXTRACTABLE, &a.Extractable},
		{p11.CKA_NEVER_EXTRACTABLE, &a.NeverExtractable},
		{p11.CKA_LOCAL, &a.Local},
		{p11.CKA_SIGN, &a.Sign},
		{p11.CKA_SIGN_RECOVER, &a.SignRecover},
		{p11.CKA_DECRYPT, &a.Decrypt},
		{p11.CKA_UNWRAP, &a.Unwrap},
		{p11.CKA_DERIVE, &a.Derive},
		{p11.CKA_MODIFIABLE, &a.Modifiable},
	} {
		var err error
		if *f.to, err = flag(ctx, sess, h, f.typ); err != nil {
			return fmt.Errorf("attribute %#x: %w", f.typ, err)
		}
	}
	return nil
}
