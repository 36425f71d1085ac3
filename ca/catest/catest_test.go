package catest_test

import (
	"crypto/x509"
	"testing"

	"hallmark/ca/catest"
)

func TestNew_IssuesCertificatesThatVerify(t *testing.T) {
	f := catest.New(t)
	c, key := f.IssueIDevID(t, "SN-1")
	if !key.PublicKey.Equal(c.PublicKey) {
		t.Error("the certificate is for another key")
	}
	inter := x509.NewCertPool()
	inter.AddCert(f.Device)
	inter.AddCert(f.Infra)
	for _, l := range []*x509.Certificate{c, f.Server(t, "server-1").Leaf} {
		if _, err := l.Verify(x509.VerifyOptions{Roots: f.Pool(), Intermediates: inter, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err != nil {
			t.Error(err)
		}
	}
}
