// Package brokertest has a certification authority for tests of whatever speaks
// MQTT with the broker: a server certificate for localhost, and one certificate
// per device.
//
// Start reading at [New].
package brokertest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// PKI is a certification authority of one test run.
type PKI struct {
	CA     *x509.Certificate
	key    *ecdsa.PrivateKey
	server tls.Certificate

	mu   sync.Mutex
	made map[string]tls.Certificate
}

// New makes one.
func New() *PKI {
	p := &PKI{made: map[string]tls.Certificate{}, key: newKey()}
	t := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, t, t, p.key.Public(), p.key)
	if err != nil {
		panic(err)
	}
	if p.CA, err = x509.ParseCertificate(der); err != nil {
		panic(err)
	}
	p.server = p.Issue(&x509.Certificate{Subject: pkix.Name{CommonName: "localhost"}, DNSNames: []string{"localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
	return p
}

func newKey() *ecdsa.PrivateKey {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return k
}

// Issue signs a certificate with a new key; the template needs a subject and a use.
func (p *PKI) Issue(t *x509.Certificate) tls.Certificate {
	key := newKey()
	t.SerialNumber, _ = rand.Int(rand.Reader, big.NewInt(1<<62))
	t.NotBefore = time.Now().Add(-time.Hour)
	if t.NotAfter.IsZero() {
		t.NotAfter = time.Now().Add(24 * time.Hour)
	}
	t.KeyUsage = x509.KeyUsageDigitalSignature
	der, err := x509.CreateCertificate(rand.Reader, t, p.CA, key.Public(), p.key)
	if err != nil {
		panic(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		panic(err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}
}

// Device gives the certificate of a thing, always the same: "thing" of the tenant
// acme, or "tenant/thing". The common name is the thing, the organization the tenant.
func (p *PKI) Device(name string) tls.Certificate {
	p.mu.Lock()
	defer p.mu.Unlock()
	c, ok := p.made[name]
	if !ok {
		tenant, thing, found := strings.Cut(name, "/")
		if !found {
			tenant, thing = "acme", name
		}
		c = p.Issue(&x509.Certificate{Subject: pkix.Name{CommonName: thing, Organization: []string{tenant}}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}})
		p.made[name] = c
	}
	return c
}

// Put makes a certificate the device's.
func (p *PKI) Put(name string, c tls.Certificate) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.made[name] = c
}

// Pool holds the authority.
func (p *PKI) Pool() *x509.CertPool {
	pool := x509.NewCertPool()
	pool.AddCert(p.CA)
	return pool
}

// Server is the configuration of a server that wants device certificates.
func (p *PKI) Server(alpn ...string) *tls.Config {
	return &tls.Config{Certificates: []tls.Certificate{p.server}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: p.Pool(), NextProtos: alpn}
}

// Client is the configuration of a device.
func (p *PKI) Client(name string) *tls.Config {
	return &tls.Config{RootCAs: p.Pool(), ServerName: "localhost", Certificates: []tls.Certificate{p.Device(name)}}
}

// Files writes a device's certificate and key, and the authority's certificate,
// for programs that read files.
func (p *PKI) Files(t testing.TB, name string) (ca, cert, key string) {
	t.Helper()
	dir := t.TempDir()
	c := p.Device(name)
	der, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	write := func(file, kind string, der []byte) string {
		file = filepath.Join(dir, file)
		if err := os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600); err != nil {
			t.Fatal(err)
		}
		return file
	}
	return write("ca.pem", "CERTIFICATE", p.CA.Raw), write("cert.pem", "CERTIFICATE", c.Certificate[0]), write("key.pem", "PRIVATE KEY", der)
}
