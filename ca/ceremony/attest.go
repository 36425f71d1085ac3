package ceremony

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"strconv"
)

// Attester is what keys of a token that attests have besides [Keys]: the
// certificate by which the token says that the key was made in it, then the
// certificates above, without the maker's root. An empty chain means that the
// token does not attest.
type Attester interface {
	Attestation(ctx context.Context, uri string) ([]*x509.Certificate, error)
}

// Counter is what keys of a token with a signature counter have besides [Keys].
type Counter interface {
	SignatureCount(ctx context.Context, uri string) (count uint64, known bool, err error)
}

// Identifiers of the extensions of a PIV attestation, as the maker of the
// YubiKey documents them.
var (
	oidPIVFirmware = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 41482, 3, 3}
	oidPIVSerial   = asn1.ObjectIdentifier{1, 3, 6, 1, 4, 1, 41482, 3, 7}
)

// attestation asks the token; nil where it does not attest.
func attestation(ctx context.Context, keys Keys, uri string) ([][]byte, error) {
	a, ok := keys.(Attester)
	if !ok {
		return nil, nil
	}
	chain, err := a.Attestation(ctx, uri)
	if err != nil {
		return nil, err
	}
	var out [][]byte
	for _, c := range chain {
		out = append(out, c.Raw)
	}
	return out, nil
}

// checkAttestation proves that a chain attests a key of a token: each
// certificate signed by the next, the first about this key, with the firmware
// and serial number that the token reports. makers are the roots to end in; none
// means that this is left to who reads.
func checkAttestation(chain [][]byte, k *KeyFacts, makers []*x509.Certificate) (found string, err error) {
	var certs []*x509.Certificate
	for i, der := range chain {
		c, err := x509.ParseCertificate(der)
		if err != nil || !bytes.Equal(c.Raw, der) {
			return "", fmt.Errorf("certificate %d of the attestation does not parse", i+1)
		}
		certs = append(certs, c)
	}
	if len(certs) < 2 || len(certs) > 6 {
		return "", fmt.Errorf("the attestation has %d certificates", len(certs))
	}
	leaf := certs[0]
	if !bytes.Equal(leaf.RawSubjectPublicKeyInfo, k.SPKI) {
		return "", fmt.Errorf("the attestation is about another key")
	}
	for i, c := range certs[:len(certs)-1] {
		up := certs[i+1]
		// Cards of the field carry attestation certificates without the CA bit in
		// some series, so the signature alone is asked for.
		if err := up.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature); err != nil {
			return "", fmt.Errorf("certificate %d of the attestation is not signed by the next: %w", i+1, err)
		}
	}
	firmware, serial := "", ""
	for _, e := range leaf.Extensions {
		switch {
		case e.Id.Equal(oidPIVFirmware) && len(e.Value) == 3:
			firmware = fmt.Sprintf("%d.%d.%d", e.Value[0], e.Value[1], e.Value[2])
		case e.Id.Equal(oidPIVSerial):
			var n int64
			if rest, err := asn1.Unmarshal(e.Value, &n); err == nil && len(rest) == 0 {
				serial = strconv.FormatInt(n, 10)
			}
		}
	}
	if firmware != "" && firmware != k.Token.Firmware || serial != "" && serial != k.Token.Serial {
		return "", fmt.Errorf("the attestation is of the token %s with firmware %s, not of %s with %s", serial, firmware, k.Token.Serial, k.Token.Firmware)
	}
	last := certs[len(certs)-1]
	for _, m := range makers {
		if m.Equal(last) || m.CheckSignature(last.SignatureAlgorithm, last.RawTBSCertificate, last.Signature) == nil {
			return fmt.Sprintf("made in the token %s, firmware %s; ends in the maker's root %s", serial, firmware, graphic(m.Subject.String())), nil
		}
	}
	if len(makers) > 0 {
		return "", fmt.Errorf("the attestation ends in %s, which is none of the given makers", graphic(last.Issuer.String()))
	}
	return fmt.Sprintf("made in the token %s, firmware %s; NOT compared with a maker's root, issuer %s", serial, firmware, graphic(last.Issuer.String())), nil
}
