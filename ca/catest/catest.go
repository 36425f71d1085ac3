package catest

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/ca"
	"hallmark/ca/profile"
	"hallmark/internal/seal"
	"hallmark/store"
)

// The names of the authorities.
const (
	Root   = "root-1"
	Device = "device-1"
	Infra  = "infra-1"

	// BaseURL is that of every authority.
	BaseURL = "http://pki.example.com"
)

// anyClock lets tests move the clock by years.
const anyClock = 200 * 365 * 24 * time.Hour

// Config changes what [Open] makes; the zero value is good.
type Config struct {
	URL      string // of the database; "" means a new SQLite file
	Patience time.Duration
	Now      func() time.Time
	// Copied takes an SQLite file whose tables another fixture of the process made,
	// with the key of its seals: under the race detector they take half a second.
	Copied bool
}

// made is the empty database that fixtures copy.
var made struct {
	sync.Mutex
	master, file []byte
}

// copied writes an empty database of the current schema, and gives its key.
func copied(t testing.TB, path string) (master []byte) {
	t.Helper()
	made.Lock()
	defer made.Unlock()
	if made.file == nil {
		master := make([]byte, seal.MasterSize)
		rand.Read(master)
		box, err := seal.Open(master)
		if err != nil {
			t.Fatal(err)
		}
		first := filepath.Join(t.TempDir(), "first.db")
		db, err := store.Open(context.Background(), store.Config{URL: first, Seal: box})
		if err == nil {
			err = db.Close()
		}
		if err != nil {
			t.Fatal(err)
		}
		if made.file, err = os.ReadFile(first); err != nil {
			t.Fatal(err)
		}
		made.master = master
	}
	if err := os.WriteFile(path, made.file, 0o600); err != nil {
		t.Fatal(err)
	}
	return made.master
}

// Fixture is an open database and a CA on it. The test's end closes it.
type Fixture struct {
	DB     *store.DB
	Box    *seal.Box
	CA     *ca.CA
	Keys   *Keys
	Root   *x509.Certificate
	Device *x509.Certificate
	Infra  *x509.Certificate
	Now    func() time.Time

	// RootKey lets a test make further authorities.
	RootKey crypto.Signer
}

// New opens a fixture with the default configuration.
func New(t testing.TB) *Fixture { return Open(t, Config{}) }

// Open makes the database, the three authorities and the CA.
func Open(t testing.TB, cfg Config) *Fixture {
	t.Helper()
	ctx := context.Background()
	f := &Fixture{Keys: &Keys{m: map[string]crypto.Signer{}}, Now: cfg.Now}
	if f.Now == nil {
		f.Now = time.Now
	}
	master := make([]byte, seal.MasterSize)
	rand.Read(master)
	if cfg.URL == "" {
		cfg.URL = filepath.Join(t.TempDir(), "hallmark.db")
		if cfg.Copied {
			master = copied(t, cfg.URL)
		}
	}
	var err error
	if f.Box, err = seal.Open(master); err != nil {
		t.Fatal(err)
	}
	if f.DB, err = store.Open(ctx, store.Config{URL: cfg.URL, Seal: f.Box, Patience: cfg.Patience, Now: cfg.Now, ClockBack: anyClock, ClockForward: anyClock}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.DB.Close() })

	f.RootKey = NewKey(t)
	f.Root = f.authority(t, Root, profile.DutyRoot, f.RootKey)
	f.Device = f.authority(t, Device, profile.DutyDevice, NewKey(t))
	f.Infra = f.authority(t, Infra, profile.DutyInfrastructure, NewKey(t))
	if f.CA, err = ca.New(ctx, ca.Config{Ledger: f.DB.Ledger(), Keys: f.Keys, Store: f.DB, Now: cfg.Now}); err != nil {
		t.Fatal(err)
	}
	return f
}

// authority makes and stores one active authority.
func (f *Fixture) authority(t testing.TB, name string, duty profile.Duty, key crypto.Signer) *x509.Certificate {
	t.Helper()
	uri := "test:" + name
	a := ca.Authority{Name: name, Tenant: access.DefaultTenant, Duty: duty, State: ca.StateActive, KeyURI: uri, BaseURL: BaseURL, Shards: 1, CreatedAt: f.Now()}
	if duty == profile.DutyRoot {
		a.KeyURI = ""
	} else {
		f.Keys.Add(uri, key)
	}
	c := f.Certify(t, duty, name, key.Public())
	a.Certificate = c.Raw
	if err := f.DB.CreateAuthority(context.Background(), a); err != nil {
		t.Fatal(err)
	}
	return c
}

// Certify makes the certificate of an authority with the root's key; the root's
// own comes first.
func (f *Fixture) Certify(t testing.TB, duty profile.Duty, cn string, pub crypto.PublicKey) *x509.Certificate {
	t.Helper()
	p, _ := profile.Get(map[profile.Duty]profile.Name{profile.DutyRoot: profile.Root, profile.DutyDevice: profile.DeviceCA, profile.DutyInfrastructure: profile.InfraCA}[duty])
	iss := profile.Issuer{Key: f.RootKey.Public()}
	if f.Root != nil {
		iss = ca.IssuerOf(&ca.Authority{Name: Root, BaseURL: BaseURL}, f.Root)
	}
	tmpl, err := profile.Compile(p, iss, profile.DefaultArc)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	now := f.Now()
	serial, err := ca.NewSerial(now, nil)
	if err != nil {
		t.Fatal(err)
	}
	end := now.Add(p.Lifetime).UTC().Truncate(time.Second)
	if p.NoExpiry {
		end = profile.NoExpiry
	}
	tbs, err := tmpl.Render(&profile.Fields{Serial: serial[:], NotBefore: now.Add(-24 * time.Hour).UTC().Truncate(time.Second), NotAfter: end,
		Subject: profile.Subject{Organization: "Example", CommonName: cn}, SPKI: spki})
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(tbs)
	sig, err := f.RootKey.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(profile.Assemble(tbs, tmpl.SigAlg, sig))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// NewKey makes a P-256 key.
func NewKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// IssueIDevID gives a unit its birth certificate, outside any order.
func (f *Fixture) IssueIDevID(t testing.TB, unit string) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	return f.Issue(t, profile.IDevID, unit, "", profile.Names{})
}

// Issue makes a certificate of any profile for a new key.
func (f *Fixture) Issue(t testing.TB, p profile.Name, holder, slot string, names profile.Names) (*x509.Certificate, *ecdsa.PrivateKey) {
	t.Helper()
	key := NewKey(t)
	return f.IssueFor(t, p, holder, slot, names, key.Public()), key
}

// IssueFor is Issue for a key that there is.
func (f *Fixture) IssueFor(t testing.TB, p profile.Name, holder, slot string, names profile.Names, key crypto.PublicKey) *x509.Certificate {
	t.Helper()
	spki, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	r := ca.Request{
		Identity: ca.Identity{Tenant: access.DefaultTenant, Holder: holder, Profile: string(p), Slot: slot},
		Subject:  profile.Subject{Organization: "Example", CommonName: holder, SerialNumber: holder}, Names: names, SPKI: spki, Key: key,
		Requester: ca.Requester{Actor: "service:test"}, Tool: "catest",
	}
	if p == profile.IDevID || p == profile.LDevID {
		r.Origin = profile.OriginClaimed
	}
	if p == profile.OCSPResponder {
		r.Authority = Device // every authority has its own
	}
	out, err := f.CA.Issue(context.Background(), r)
	if err != nil {
		t.Fatalf("issue %s for %s: %v", p, holder, err)
	}
	c, err := x509.ParseCertificate(out.DER)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Server issues a TLS server certificate for localhost and 127.0.0.1, with its chain.
func (f *Fixture) Server(t testing.TB, name string) tls.Certificate {
	t.Helper()
	c, key := f.Issue(t, profile.Server, name, "A", profile.Names{DNS: []string{"localhost"}, IP: [][]byte{net.IPv4(127, 0, 0, 1).To4()}})
	return tls.Certificate{Certificate: [][]byte{c.Raw, f.Infra.Raw}, PrivateKey: key, Leaf: c}
}

// Client joins a device's or station's certificate, its issuer and its key.
func (f *Fixture) Client(c *x509.Certificate, key crypto.Signer) tls.Certificate {
	chain := [][]byte{c.Raw}
	for _, issuer := range []*x509.Certificate{f.Device, f.Infra} {
		if c.CheckSignatureFrom(issuer) == nil {
			chain = append(chain, issuer.Raw)
		}
	}
	return tls.Certificate{Certificate: chain, PrivateKey: key, Leaf: c}
}

// Pool holds the root.
func (f *Fixture) Pool() *x509.CertPool {
	p := x509.NewCertPool()
	p.AddCert(f.Root)
	return p
}

// PEM is certificates in PEM, for external tools.
func PEM(certs ...*x509.Certificate) []byte {
	var out []byte
	for _, c := range certs {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw})...)
	}
	return out
}

// Keys is [ca.Keys] in memory.
type Keys struct {
	mu sync.Mutex
	m  map[string]crypto.Signer
}

var _ ca.Keys = (*Keys)(nil)

// Add stores a key under a URI.
func (k *Keys) Add(uri string, s crypto.Signer) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.m[uri] = s
}

// Key implements [ca.Keys].
func (k *Keys) Key(_ context.Context, uri string) (ca.Key, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.m[uri]
	if s == nil {
		return nil, fmt.Errorf("catest: no key %q", uri)
	}
	return key{s}, nil
}

type key struct{ crypto.Signer }

func (k key) SignContext(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	return k.Sign(rand.Reader, digest, opts)
}
