package scep

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/rsa"
	"crypto/subtle"
	"crypto/x509"
	"math/big"
	"slices"

	"hallmark/ca"
	"hallmark/internal/der"
)

// ciphers are those that are taken, by the size of their key (RFC 3565).
var ciphers = map[der.OID]int{
	der.MustOID("2.16.840.1.101.3.4.1.2"):  16,
	der.MustOID("2.16.840.1.101.3.4.1.22"): 24,
	oidAES256:                              32,
}

var oidAES256 = der.MustOID("2.16.840.1.101.3.4.1.42")

// maxRecipients bounds the search for our key.
const maxRecipients = 8

// envelope is EnvelopedData (RFC 5652, Section 6.1) for us.
type envelope struct {
	to            *RA
	key           []byte // encrypted for it
	cipher        der.OID
	iv, encrypted []byte
}

// readEnvelope reads the frame and finds the part for one of ours.
func readEnvelope(raw []byte, ours []*RA) (*envelope, error) {
	raw, err := definite(raw)
	if err != nil {
		return nil, err
	}
	r := reader{in: raw}
	data := r.sequence().oid(oidEnvelopedData).explicit(0).sequence()
	data.take(der.TagInteger)
	if data.has(der.ContextConstructed(0)) {
		data.take(der.ContextConstructed(0))
	}
	out := &envelope{}
	recipients := reader{in: data.take(der.TagSet).Content, err: data.err}
	for n := 0; len(recipients.in) > 0 && recipients.err == nil; n++ {
		e := recipients.next()
		if n == maxRecipients {
			return nil, ErrEnvelope.New("It has too many recipients.")
		}
		if e.Tag != der.TagSequence {
			continue // not key transport
		}
		one := reader{in: e.Content}
		one.take(der.TagInteger)
		id := one.next()
		algorithm := one.sequence().takeOID()
		key := one.take(der.TagOctetString).Content
		if one.err != nil {
			return nil, one.err
		}
		if out.to != nil || algorithm != oidRSA {
			continue
		}
		if i := slices.IndexFunc(ours, func(ra *RA) bool { return names(id, ra.Chain[0]) }); i >= 0 {
			out.to, out.key = ours[i], key
		}
	}
	content := data.sequence()
	content.takeOID()
	algorithm := content.sequence()
	out.cipher = algorithm.takeOID()
	out.iv = algorithm.take(der.TagOctetString).Content
	e := content.next()
	if err := firstError(&r, data, &recipients, content, algorithm); err != nil {
		return nil, err
	}
	switch e.Tag {
	case der.Context(0):
		out.encrypted = e.Content
	case der.ContextConstructed(0): // in pieces
		for p := (reader{in: e.Content}); len(p.in) > 0; {
			out.encrypted = append(out.encrypted, p.take(der.TagOctetString).Content...)
			if p.err != nil {
				return nil, p.err
			}
		}
	default:
		return nil, ErrEnvelope.New("It has no content.")
	}
	if out.to == nil {
		return nil, ErrEnvelope.New("It is for another recipient.")
	}
	return out, nil
}

// open decrypts. A key that does not decrypt is replaced by a random one, so that
// it fails where a wrong content does, and as late (RFC 3218, Section 2.3.2).
func (e *envelope) open() ([]byte, error) {
	size, ok := ciphers[e.cipher]
	if !ok {
		return nil, ErrAlgorithm.New("Of the encryption.")
	}
	if len(e.iv) != aes.BlockSize || len(e.encrypted) == 0 || len(e.encrypted)%aes.BlockSize != 0 {
		return nil, ErrEnvelope.New("")
	}
	//lint:ignore SA1019 SCEP has no other form that clients speak (RFC 8894, Section 3.5.2); SessionKeyLen makes bad padding look like a wrong key
	secret, err := e.to.Decrypter.Decrypt(rand.Reader, e.key, &rsa.PKCS1v15DecryptOptions{SessionKeyLen: size})
	if err != nil {
		return nil, ErrEnvelope.Wrap(err, "")
	}
	block, err := aes.NewCipher(secret)
	if err != nil {
		return nil, ErrEnvelope.Wrap(err, "")
	}
	plain := make([]byte, len(e.encrypted))
	cipher.NewCBCDecrypter(block, e.iv).CryptBlocks(plain, e.encrypted)
	n := int(plain[len(plain)-1])
	if n == 0 || n > aes.BlockSize {
		return nil, ErrEnvelope.New("")
	}
	pad := make([]byte, n)
	for i := range pad {
		pad[i] = byte(n)
	}
	if subtle.ConstantTimeCompare(plain[len(plain)-n:], pad) != 1 {
		return nil, ErrEnvelope.New("")
	}
	return plain[:len(plain)-n], nil
}

// sealFor is a ContentInfo with EnvelopedData for one certificate, whose key is RSA.
func sealFor(to *x509.Certificate, algorithm der.OID, content []byte) ([]byte, error) {
	size, ok := ciphers[algorithm]
	if !ok {
		algorithm, size = oidAES256, ciphers[oidAES256]
	}
	secret, iv := make([]byte, size), make([]byte, aes.BlockSize)
	rand.Read(secret)
	rand.Read(iv)
	block, err := aes.NewCipher(secret)
	if err != nil {
		return nil, err
	}
	n := aes.BlockSize - len(content)%aes.BlockSize
	padded := make([]byte, len(content)+n)
	copy(padded, content)
	for i := range n {
		padded[len(content)+i] = byte(n)
	}
	cipher.NewCBCEncrypter(block, iv).CryptBlocks(padded, padded)
	//lint:ignore SA1019 as above
	key, err := rsa.EncryptPKCS1v15(rand.Reader, to.PublicKey.(*rsa.PublicKey), secret)
	if err != nil {
		return nil, err
	}
	return contentInfo(oidEnvelopedData, func(b []byte) []byte {
		return der.Sequence(b, func(b []byte) []byte {
			b = der.AppendInt(b, 0)
			b = der.Set(b, func(b []byte) []byte {
				return der.Sequence(b, func(b []byte) []byte {
					b = der.AppendInt(b, 0)
					b = issuerAndSerial(b, to)
					b = der.Sequence(b, func(b []byte) []byte { return der.AppendNull(oidRSA.Append(b)) })
					return der.AppendOctetString(b, key)
				})
			})
			return der.Sequence(b, func(b []byte) []byte {
				b = oidData.Append(b)
				b = der.Sequence(b, func(b []byte) []byte { return der.AppendOctetString(algorithm.Append(b), iv) })
				return der.AppendTLV(b, der.Context(0), padded)
			})
		})
	}), nil
}

func contentInfo(kind der.OID, build func([]byte) []byte) []byte {
	return der.Sequence(nil, func(b []byte) []byte {
		return der.Wrap(kind.Append(b), der.ContextConstructed(0), build)
	})
}

func issuerAndSerial(b []byte, c *x509.Certificate) []byte {
	return der.Sequence(b, func(b []byte) []byte { return der.AppendBigInt(append(b, c.RawIssuer...), c.SerialNumber) })
}

// readIssuerAndSerial is what GetCert and GetCRL enclose.
func readIssuerAndSerial(plain []byte) (issuer []byte, serial ca.Serial, err error) {
	e, err := der.Only(plain, der.TagSequence)
	if err != nil {
		return nil, serial, ErrEnvelope.Wrap(err, "")
	}
	r := reader{in: e.Content}
	issuer = r.take(der.TagSequence).Raw
	number := r.take(der.TagInteger).Content
	if r.err != nil || len(r.in) > 0 {
		return nil, serial, ErrEnvelope.New("")
	}
	serial, _ = ca.SerialFromInt(new(big.Int).SetBytes(number)) // one that is none of ours is found nowhere
	return issuer, serial, nil
}
