package main

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"hallmark/access"
	"hallmark/ca"
	"hallmark/ca/profile"
	"hallmark/internal/durable"
	"hallmark/internal/lane"
	"hallmark/internal/seal"
	"hallmark/store"
)

// vault keeps the service's own keys (TLS, OCSP responders, log checkpoints) in
// files that are sealed under the key outside the database (S39). They are not
// CA keys: those live in tokens.
type vault struct {
	dir string
	box *seal.Box
}

// load reads a key; fs.ErrNotExist if there is none.
func (v vault) load(name string) (crypto.Signer, error) {
	b, err := os.ReadFile(filepath.Join(v.dir, name+".key"))
	if err != nil {
		return nil, err
	}
	der, err := v.box.Unseal(b, "service-key", name)
	if err != nil {
		return nil, err
	}
	k, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return nil, err
	}
	s, ok := k.(crypto.Signer)
	if !ok {
		return nil, fmt.Errorf("key %s cannot sign", name)
	}
	return s, nil
}

func (v vault) save(name string, key crypto.Signer) error {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(v.dir, 0o700); err != nil {
		return err
	}
	return durable.WriteFile(filepath.Join(v.dir, name+".key"), v.box.Seal(der, "service-key", name), 0o600)
}

// ed25519Key loads or makes the log's checkpoint key.
func (v vault) ed25519Key(name string) (ed25519.PrivateKey, error) {
	s, err := v.load(name)
	if errors.Is(err, fs.ErrNotExist) {
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			return nil, err
		}
		return key, v.save(name, key)
	}
	if err != nil {
		return nil, err
	}
	key, ok := s.(ed25519.PrivateKey)
	if !ok {
		return nil, fmt.Errorf("key %s is not Ed25519", name)
	}
	return key, nil
}

// certifier keeps the service's own certificates alive: it issues them through
// ca.Issue like everything else, and renews them with a new key at half their
// life.
type certifier struct {
	ca    *ca.CA
	db    *store.DB
	vault vault
	now   func() time.Time

	mu     sync.Mutex
	have   map[string]*serviceCert
	opened map[string]*sharedKey // by what is stored of them

	seen sync.Mutex // not mu, which is held while a token signs
	end  map[string]ending
}

// keep remembers what is used.
func (c *certifier) keep(name string, s *serviceCert) {
	c.have[name] = s
	c.seen.Lock()
	defer c.seen.Unlock()
	if c.end == nil {
		c.end = map[string]ending{}
	}
	c.end[name] = ending{name, s.leaf.NotBefore, s.leaf.NotAfter}
}

type serviceCert struct {
	key   crypto.Signer
	leaf  *x509.Certificate
	chain [][]byte // leaf first
}

func (s *serviceCert) tls() *tls.Certificate {
	return &tls.Certificate{Certificate: s.chain, PrivateKey: s.key, Leaf: s.leaf}
}

// certificates are those of the chain.
func (s *serviceCert) certificates() ([]*x509.Certificate, error) {
	chain := []*x509.Certificate{s.leaf}
	for _, raw := range s.chain[1:] {
		c, err := x509.ParseCertificate(raw)
		if err != nil {
			return nil, err
		}
		chain = append(chain, c)
	}
	return chain, nil
}

// ending is when a certificate of the service ends.
type ending struct {
	name                string
	notBefore, notAfter time.Time
}

// ends lists the certificates that are used, by name.
func (c *certifier) ends() (out []ending) {
	c.seen.Lock()
	defer c.seen.Unlock()
	for _, e := range c.end {
		out = append(out, e)
	}
	slices.SortFunc(out, func(a, b ending) int { return strings.Compare(a.name, b.name) })
	return out
}

// get returns a certificate that is less than half through its life, and whose
// issuer issues: one that is revoked or retired is left at once, as soon as another
// is declared.
func (c *certifier) get(ctx context.Context, name string, r ca.Request) (*serviceCert, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.have[name]; s != nil && c.fresh(s, &r) {
		return s, nil
	}
	if s, err := c.read(name); err == nil && c.current(ctx, s.leaf, r.Tenant) {
		c.keep(name, s) // even an old one: renewing it may fail
		if c.fresh(s, &r) {
			return s, nil
		}
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	s, err := c.issue(ctx, name, r)
	if err != nil {
		if old := c.have[name]; old != nil && c.now().Before(old.leaf.NotAfter) {
			return old, nil // still good; the next call tries again
		}
		return nil, err
	}
	c.keep(name, s)
	return s, nil
}

// fresh tells whether there is nothing to renew.
func (c *certifier) fresh(s *serviceCert, r *ca.Request) bool {
	return c.young(s.leaf) && (r.Authority != "" || c.issues(s)) // an OCSP responder's issuer is the one that it is for
}

// issues tells whether the issuer of a certificate is still active.
func (c *certifier) issues(s *serviceCert) bool {
	for _, a := range c.ca.Authorities() {
		if len(s.chain) > 1 && bytes.Equal(a.Cert.Raw, s.chain[1]) {
			return a.State == ca.StateActive
		}
	}
	return false
}

func (c *certifier) young(leaf *x509.Certificate) bool {
	half := leaf.NotBefore.Add(leaf.NotAfter.Sub(leaf.NotBefore) / 2)
	return c.now().Before(half)
}

// current tells whether the database knows the certificate and has not revoked
// it: after a restore from a backup it might not.
func (c *certifier) current(ctx context.Context, leaf *x509.Certificate, tenant string) bool {
	serial, ok := ca.SerialFromInt(leaf.SerialNumber)
	if !ok {
		return false
	}
	rec, err := c.db.RecordBySerial(ctx, tenant, "", serial)
	return err == nil && !rec.Revoked() && bytes.Equal(rec.DER, leaf.Raw)
}

func (c *certifier) read(name string) (*serviceCert, error) {
	key, err := c.vault.load(name)
	if err != nil {
		return nil, err
	}
	rest, err := os.ReadFile(filepath.Join(c.vault.dir, name+".pem"))
	if err != nil {
		return nil, err
	}
	s := &serviceCert{key: key}
	for {
		var b *pem.Block
		if b, rest = pem.Decode(rest); b == nil {
			break
		}
		s.chain = append(s.chain, b.Bytes)
	}
	if len(s.chain) == 0 {
		return nil, fs.ErrNotExist
	}
	if s.leaf, err = x509.ParseCertificate(s.chain[0]); err != nil {
		return nil, err
	}
	if pub, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !pub.Equal(s.leaf.PublicKey) {
		return nil, fs.ErrNotExist // a crash between the two files: make both anew
	}
	return s, nil
}

// serviceKey makes a key: P-256, or RSA where messages are encrypted for it.
func serviceKey(p profile.Name) (crypto.Signer, error) {
	if p == profile.SCEPRA {
		return rsa.GenerateKey(rand.Reader, 3072)
	}
	return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
}

func (c *certifier) issue(ctx context.Context, name string, r ca.Request) (*serviceCert, error) {
	key, err := serviceKey(profile.Name(r.Profile))
	if err != nil {
		return nil, err
	}
	if r.SPKI, err = x509.MarshalPKIXPublicKey(key.Public()); err != nil {
		return nil, err
	}
	r.Key = key.Public()
	held, err := c.db.Records(ctx, ca.RecordQuery{Tenant: r.Tenant, Holder: r.Holder, Profile: r.Profile, Limit: 1000})
	if err != nil {
		return nil, err
	}
	r.Slot, _ = ca.PickSlot(ca.TwoSlots, held, c.now())
	issued, err := c.ca.Issue(lane.With(ctx, lane.Renewal), asService(name, r))
	if err != nil {
		return nil, err
	}
	s, err := c.chain(key, issued.DER, issued.Authority)
	if err != nil {
		return nil, err
	}
	if err := c.vault.save(name, key); err != nil {
		return nil, err
	}
	var text bytes.Buffer
	for _, der := range s.chain {
		pem.Encode(&text, &pem.Block{Type: "CERTIFICATE", Bytes: der})
	}
	return s, durable.WriteFile(filepath.Join(c.vault.dir, name+".pem"), text.Bytes(), 0o644)
}

// asService is a request of the service itself.
func asService(name string, r ca.Request) ca.Request {
	r.Rekey = ca.RekeySupersede
	r.Requester = ca.Requester{Actor: string(access.KindService) + ":" + name}
	r.Tool = "hallmark " + version
	return r
}

// serverRequest asks for the TLS certificate of the doors.
func serverRequest(tenant string, names []string) ca.Request {
	r := ca.Request{
		Identity: ca.Identity{Tenant: tenant, Holder: "service:doors", Profile: string(profile.Server)},
		Subject:  profile.Subject{CommonName: "hallmark"},
	}
	for _, n := range names {
		if ip := net.ParseIP(n); ip != nil {
			if v4 := ip.To4(); v4 != nil {
				ip = v4
			}
			r.Names.IP = append(r.Names.IP, ip)
		} else {
			r.Names.DNS = append(r.Names.DNS, n)
		}
	}
	return r
}

// raRequest asks for the certificate of the SCEP registration authority.
func raRequest(tenant string) ca.Request {
	return ca.Request{
		Identity: ca.Identity{Tenant: tenant, Holder: "service:scep", Profile: string(profile.SCEPRA)},
		Subject:  profile.Subject{CommonName: "hallmark SCEP registration authority"},
	}
}

// responderRequest asks for the OCSP responder certificate of an authority.
func responderRequest(a ca.Info) ca.Request {
	return ca.Request{
		Identity:  ca.Identity{Tenant: a.Tenant, Holder: "service:ocsp:" + a.Name, Profile: string(profile.OCSPResponder)},
		Subject:   profile.Subject{CommonName: a.Name + " OCSP responder"},
		Authority: a.Name,
	}
}

// firstCertificate is a self-signed certificate for the people's door while no
// infrastructure authority is installed. The commands on this machine find and
// trust it through the state directory.
func firstCertificate(names []string, now time.Time) (*serviceCert, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial := make([]byte, 16)
	rand.Read(serial)
	serial[0] = serial[0]&0x7f | 0x40
	r := serverRequest("", names)
	t := &x509.Certificate{SerialNumber: new(big.Int).SetBytes(serial), Subject: pkix.Name{CommonName: "hallmark before its first authority"},
		NotBefore: now.Add(-time.Minute), NotAfter: now.Add(30 * 24 * time.Hour), DNSNames: r.Names.DNS, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, BasicConstraintsValid: true, IsCA: true, MaxPathLenZero: true}
	for _, ip := range r.Names.IP {
		t.IPAddresses = append(t.IPAddresses, ip)
	}
	der, err := x509.CreateCertificate(rand.Reader, t, t, key.Public(), key)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	return &serviceCert{key: key, leaf: leaf, chain: [][]byte{der}}, err
}
