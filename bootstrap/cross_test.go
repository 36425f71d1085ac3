package bootstrap_test

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/bootstrap/bootstraptest"
	"hallmark/ca"
	"hallmark/ca/catest"
)

// TestRegister_AChainReachesTheOtherRootToo: a device gets the cross certificate of
// its root after the authority, and its anchors stay the roots.
func TestRegister_AChainReachesTheOtherRootToo(t *testing.T) {
	d := bootstraptest.New(t, bootstraptest.Options{})
	key := catest.NewKey(t)
	certify := func(subject *x509.Certificate, parent *x509.Certificate, pub any) *x509.Certificate {
		t.Helper()
		if parent == nil {
			parent = subject
		}
		der, err := x509.CreateCertificate(rand.Reader, subject, parent, pub, key)
		if err != nil {
			t.Fatal(err)
		}
		c, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	root := x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Other Root"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(3, 0, 0),
		BasicConstraintsValid: true, IsCA: true, MaxPathLen: -1, KeyUsage: x509.KeyUsageCertSign | x509.KeyUsageCRLSign}
	other := certify(&root, nil, key.Public())
	crossing := root
	crossing.RawSubject, crossing.SubjectKeyId, crossing.SerialNumber = d.Root.RawSubject, d.Root.SubjectKeyId, big.NewInt(2)
	cross := certify(&crossing, other, d.Root.PublicKey)
	if err := d.DB.AddCross(t.Context(), ca.Cross{Tenant: access.DefaultTenant, Name: "root-1-by-other", Root: "other", Of: catest.Root, Certificate: cross.Raw}); err != nil {
		t.Fatal(err)
	}
	if err := d.CA.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	birth, own := d.IssueIDevID(t, "SN-1")
	c, r := mustBoot(t, d, birth, own, catest.NewKey(t), "Site", "Hall 3")
	if len(r.Chain) != 2 || !bytes.Equal(r.Chain[0], d.Device.Raw) || !bytes.Equal(r.Chain[1], cross.Raw) || len(r.TrustBundle) != 1 {
		t.Fatalf("a chain of %d, %d anchors", len(r.Chain), len(r.TrustBundle))
	}
	anchors, between := x509.NewCertPool(), x509.NewCertPool()
	anchors.AddCert(other)
	for _, der := range r.Chain {
		x, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		between.AddCert(x)
	}
	if _, err := c.Verify(x509.VerifyOptions{Roots: anchors, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
		t.Errorf("under the other root: %v", err)
	}
}
