package crl_test

import (
	"bytes"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"hallmark/ca/catest"
)

// tool tells whether a program is there. Where nothing may be missing it has to be.
func tool(t *testing.T, name string) bool {
	t.Helper()
	_, err := exec.LookPath(name)
	switch {
	case err != nil && os.Getenv("CI") == "true":
		t.Fatal(err)
	case err != nil:
		t.Logf("%s is not installed: scripts/setup.sh installs it", name)
	}
	return err == nil
}

// TestOCSP_TheResponderIsDelegated_S31: whoever answers has a certificate of the
// authority for nothing but that, with a key of its own, for at most 14 days, and
// nobody has to ask about it (RFC 6960, Section 4.2.2.2.1).
func TestOCSP_TheResponderIsDelegated_S31(t *testing.T) {
	a := newAnswering(t, nil)
	_, s := a.device("SN-1")
	c := a.ask(s.Int()).Certificate
	switch {
	case c == nil || c.CheckSignatureFrom(a.Device) != nil:
		t.Fatal("the answer has no certificate of the authority")
	case bytes.Equal(c.RawSubjectPublicKeyInfo, a.Device.RawSubjectPublicKeyInfo):
		t.Error("its key is the authority's")
	case !slices.Equal(c.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageOCSPSigning}) || len(c.UnknownExtKeyUsage) > 0 || c.IsCA || c.KeyUsage != x509.KeyUsageDigitalSignature:
		t.Errorf("it may do more than answer: %v %v %v", c.ExtKeyUsage, c.KeyUsage, c.IsCA)
	case len(c.OCSPServer) > 0:
		t.Errorf("it says whom to ask about it: %v", c.OCSPServer)
	}
	if life := c.NotAfter.Sub(c.NotBefore); life > 14*24*time.Hour {
		t.Errorf("it lives for %s", life)
	}
	noCheck := asn1.ObjectIdentifier{1, 3, 6, 1, 5, 5, 7, 48, 1, 5}
	if !slices.ContainsFunc(c.Extensions, func(e pkix.Extension) bool {
		return e.Id.Equal(noCheck) && !e.Critical && bytes.Equal(e.Value, asn1.NullBytes)
	}) {
		t.Error("it has no id-pkix-ocsp-nocheck")
	}
}

// TestPublisher_ListsHaveHalfTheirLife_A32: whenever somebody fetches a list, at
// least half of its validity is left; what is renewed has a higher number, and stays
// at the one distribution point that the certificates name, octet by octet.
func TestPublisher_ListsHaveHalfTheirLife_A32(t *testing.T) {
	const validity = 7 * 24 * time.Hour
	b := newBench(t)
	c, _ := b.device("SN-1")
	point := c.CRLDistributionPoints[0]
	number, renewed := int64(-1), 0
	for range 40 { // 20 days
		b.clock.move(12 * time.Hour)
		if err := b.pub.Sweep(t.Context()); err != nil {
			t.Fatal(err)
		}
		l := b.published(catest.Device)
		if left := l.NextUpdate.Sub(b.clock.now()); left < validity/2-time.Minute || left > validity {
			t.Fatalf("list %d has %s left", l.Number, left)
		}
		if l.Number < number {
			t.Fatalf("list %d after %d", l.Number, number)
		} else if l.Number > number {
			number, renewed = l.Number, renewed+1
		}
		std, err := x509.ParseRevocationList(l.DER)
		if err != nil {
			t.Fatal(err)
		}
		if i := slices.IndexFunc(std.Extensions, func(e pkix.Extension) bool { return e.Id.Equal(asn1.ObjectIdentifier{2, 5, 29, 28}) }); i < 0 || !std.Extensions[i].Critical || !bytes.Contains(std.Extensions[i].Value, []byte(point)) {
			t.Fatalf("list %d is not that of %s", l.Number, point)
		}
	}
	if renewed < 5 {
		t.Errorf("%d lists in 20 days", renewed)
	}
}
