package profile_test

import (
	"bytes"
	"crypto/rand"
	"testing"
	"time"

	"hallmark/ca/catest"
	"hallmark/ca/profile"
	"hallmark/internal/der"
)

// TestAgile_ACertificateMayBeOfAnySize renders around a key and a signature of the
// sizes of ML-DSA-87 (FIPS 204, Table 2; RFC 9881): nothing that we write has a
// bound of its own for either.
func TestAgile_ACertificateMayBeOfAnySize(t *testing.T) {
	issuer := profile.Issuer{Key: catest.NewKey(t).Public(), KeyID: make([]byte, 20), CRLBase: "http://pki.example.com/crl/x", Subject: profile.Subject{CommonName: "Example"}.AppendName(nil)}
	p, _ := profile.Get(profile.IDevID)
	tmpl, err := profile.Compile(p, issuer, profile.DefaultArc)
	if err != nil {
		t.Fatal(err)
	}
	key, sig := make([]byte, 2592), make([]byte, 4627)
	rand.Read(key)
	rand.Read(sig)
	alg := der.AppendTLV(nil, der.TagSequence, der.MustOID("2.16.840.1.101.3.4.3.19").Append(nil)) // id-ml-dsa-87
	spki := der.Sequence(nil, func(b []byte) []byte { return der.AppendBitString(append(b, alg...), key) })
	start := time.Now().UTC().Truncate(time.Second)
	tbs, err := tmpl.Render(&profile.Fields{Serial: append([]byte{0x40}, make([]byte, 19)...), NotBefore: start, NotAfter: start.Add(time.Hour), SPKI: spki,
		Subject: profile.Subject{CommonName: "SN-1"}, Origin: profile.OriginClaimed})
	if err != nil {
		t.Fatal(err)
	}
	whole, err := der.Only(profile.Assemble(tbs, alg, sig), der.TagSequence)
	if err != nil {
		t.Fatal(err)
	}
	if err := der.Check(whole.Raw, 16); err != nil {
		t.Error(err)
	}
	if len(whole.Raw) < len(key)+len(sig) || !bytes.Contains(whole.Raw, spki) || !bytes.HasSuffix(whole.Raw, sig) {
		t.Errorf("%d octets do not hold the key and the signature", len(whole.Raw))
	}
}
