package vpiv

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/binary"
	"math/big"
	"sync"
	"time"
)

// maker is the root of the maker of all virtual cards.
var maker = sync.OnceValues(func() (*authority, error) { return newAuthority("Virtual PIV Root", nil) })

// Maker is the root certificate in which attestations of cards end; nil if it
// could not be made.
func Maker() *x509.Certificate {
	m, err := maker()
	if err != nil {
		return nil
	}
	return m.cert
}

type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(name string, by *authority) (*authority, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	t := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: name}, NotBefore: time.Unix(0, 0), NotAfter: time.Now().AddDate(20, 0, 0),
		IsCA: true, BasicConstraintsValid: true,
	}
	up, signer := t, key
	if by != nil {
		up, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, t, up, key.Public(), signer)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	return &authority{cert, key}, err
}

// attest is the YubiKey's ATTEST: a certificate about a key that the card made,
// by the key of slot F9, whose certificate is object 5FFF01.
func (c *Card) attest(slot byte) ([]byte, uint16) {
	k := c.keys[slot]
	if k == nil {
		return nil, swWrongData
	}
	if _, ok := k.private.(imported); ok {
		return nil, swWrongData
	}
	if c.attestor == nil {
		m, err := maker()
		if err != nil {
			return nil, swNotSupported
		}
		a, err := newAuthority("Virtual PIV Attestation", m)
		if err != nil {
			return nil, swNotSupported
		}
		c.attestor = a
		c.objects["\x5f\xff\x01"] = append(tlv(0x70, a.cert.Raw), 0x71, 1, 0, 0xfe, 0)
	}
	serial, err := asn1.Marshal(int64(c.Serial))
	if err != nil {
		return nil, swNotSupported
	}
	base := asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 41482, 3}
	t := &x509.Certificate{
		SerialNumber: new(big.Int).SetBytes(binary.BigEndian.AppendUint32(nil, c.Serial)), Subject: pkix.Name{CommonName: "Virtual PIV Attestation"},
		NotBefore: time.Unix(0, 0), NotAfter: time.Now().AddDate(20, 0, 0),
		ExtraExtensions: []pkix.Extension{
			{Id: append(base[:len(base):len(base)], 3), Value: c.Firmware[:]},
			{Id: append(base[:len(base):len(base)], 7), Value: serial},
			{Id: append(base[:len(base):len(base)], 8), Value: []byte{k.pinPolicy, 1}},
		},
	}
	der, err := x509.CreateCertificate(rand.Reader, t, c.attestor.cert, k.private.Public(), c.attestor.key)
	if err != nil {
		return nil, swNotSupported
	}
	return der, swOK
}
