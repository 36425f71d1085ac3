package main

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha512"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/ca"
	"hallmark/ca/catest"
	"hallmark/ca/profile"
	"hallmark/crl"
	"hallmark/web"
)

// estate is a root and issuing authorities of every kind of key, with their lists
// and OCSP responders at the addresses that are in the certificates.
type estate struct {
	*bench
	url     string
	public  string // directory of the lists
	root    *x509.Certificate
	rootKey crypto.Signer
	chain   []*x509.Certificate
}

const estateRoot = "root-384"

var estateKeys = []string{"p256", "p384", "rsa"}

func newKey(t *testing.T, alg string) (k crypto.Signer) {
	t.Helper()
	var err error
	switch alg {
	case "p256":
		k, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "p384":
		k, err = ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "rsa":
		k, err = rsa.GenerateKey(rand.Reader, 2048)
	}
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func newEstate(t *testing.T) *estate {
	e := &estate{bench: newBench(t, nil), rootKey: newKey(t, "p384"), public: t.TempDir()}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	e.url = "http://" + l.Addr().String()
	e.root = e.authority(t, estateRoot, profile.DutyRoot, e.rootKey)
	for _, alg := range estateKeys {
		e.authority(t, "device-"+alg, profile.DutyDevice, newKey(t, alg))
		e.authority(t, "infra-"+alg, profile.DutyInfrastructure, newKey(t, alg))
	}
	if err := e.f.CA.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	e.lists = crl.NewPublisher(crl.PublisherConfig{Store: e.f.DB, CA: e.f.CA, Set: e.set, Dir: e.public, Deltas: true})
	if err := e.lists.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := e.lists.InstallRootList(t.Context(), estateRoot, e.rootList(t)); err != nil {
		t.Fatal(err)
	}
	s := &Server{ca: e.f.CA, certs: &certifier{ca: e.f.CA, db: e.f.DB, vault: vault{dir: t.TempDir(), box: e.f.Box}, now: time.Now, have: map[string]*serviceCert{}}}
	ocsp := crl.NewOCSP(crl.OCSPConfig{Store: e.f.DB, CA: e.f.CA, Set: e.set, Responder: s.responder})
	srv := &http.Server{Handler: web.PublicHandler(web.PublicConfig{CRL: e.lists.Handler(), Certs: e.lists.Handler(), OCSP: ocsp})}
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
	return e
}

// rootList is an empty list of the root.
func (e *estate) rootList(t *testing.T) []byte {
	t.Helper()
	point := profile.AppendDistributionPointName(nil, profile.ListURL(e.url+"/crl/"+estateRoot, 0))
	list, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{
		Number: big.NewInt(1), ThisUpdate: time.Now().Add(-time.Minute), NextUpdate: time.Now().AddDate(0, 6, 0),
		ExtraExtensions: []pkix.Extension{{Id: []int{2, 5, 29, 28}, Critical: true, Value: append([]byte{0x30, byte(len(point))}, point...)}},
	}, e.root, e.rootKey)
	if err != nil {
		t.Fatal(err)
	}
	return list
}

// authority certifies a key under the root, or makes the root.
func (e *estate) authority(t *testing.T, name string, duty profile.Duty, key crypto.Signer) *x509.Certificate {
	t.Helper()
	root := &ca.Authority{Name: estateRoot, BaseURL: e.url, Duty: profile.DutyRoot}
	a := ca.Authority{Name: name, Tenant: access.DefaultTenant, Duty: duty, State: ca.StateActive, BaseURL: e.url, Shards: 1, CreatedAt: time.Now()}
	p, _ := profile.Get(map[profile.Duty]profile.Name{profile.DutyRoot: profile.Root, profile.DutyDevice: profile.DeviceCA, profile.DutyInfrastructure: profile.InfraCA}[duty])
	iss := profile.Issuer{Key: key.Public(), CRLBase: root.ListBase()}
	if duty != profile.DutyRoot {
		a.KeyURI, a.Shards = "test:"+name, 2
		e.f.Keys.Add(a.KeyURI, key)
		iss = ca.IssuerOf(root, e.root)
	}
	tmpl, err := profile.Compile(p, iss, profile.DefaultArc)
	if err != nil {
		t.Fatal(err)
	}
	spki, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	serial, err := ca.NewSerial(time.Now(), nil)
	if err != nil {
		t.Fatal(err)
	}
	f := profile.Fields{Serial: serial[:], NotBefore: time.Now().Add(-time.Hour).UTC().Truncate(time.Second), NotAfter: profile.NoExpiry, SPKI: spki,
		Subject: profile.Subject{Organization: "Example", CommonName: "Example " + name}}
	if !p.NoExpiry {
		f.NotAfter = f.NotBefore.Add(p.Lifetime)
	}
	tbs, err := tmpl.Render(&f)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha512.Sum384(tbs)
	sig, err := e.rootKey.Sign(rand.Reader, digest[:], crypto.SHA384)
	if err != nil {
		t.Fatal(err)
	}
	a.Certificate = profile.Assemble(tbs, tmpl.SigAlg, sig)
	c, err := x509.ParseCertificate(a.Certificate)
	if err != nil {
		t.Fatal(err)
	}
	if err := e.f.DB.CreateAuthority(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	e.chain = append(e.chain, c)
	return c
}

// issue makes a certificate through the whole pipeline.
func (e *estate) issue(t *testing.T, authority string, p profile.Name, holder string, key crypto.PublicKey) *x509.Certificate {
	t.Helper()
	spki, err := x509.MarshalPKIXPublicKey(key)
	if err != nil {
		t.Fatal(err)
	}
	r := ca.Request{
		Identity: ca.Identity{Tenant: access.DefaultTenant, Holder: holder, Profile: string(p)}, Authority: authority,
		Subject: profile.Subject{Organization: "Example", CommonName: holder, SerialNumber: holder},
		Names:   profile.Names{DNS: []string{strings.ToLower(holder) + ".devices.example.com"}}, SPKI: spki, Key: key,
		Requester: ca.Requester{Actor: "service:test"}, Tool: "test",
	}
	switch p {
	case profile.IDevID, profile.LDevID:
		r.Origin = profile.OriginClaimed
	case profile.Server:
		r.Names.IP = [][]byte{net.IPv4(192, 0, 2, 1).To4()}
	}
	out, err := e.f.CA.Issue(t.Context(), r)
	if err != nil {
		t.Fatalf("%s by %s: %v", p, authority, err)
	}
	c, err := x509.ParseCertificate(out.DER)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// publish signs every list anew.
func (e *estate) publish(t *testing.T) {
	t.Helper()
	if err := e.set.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, a := range e.f.CA.Authorities() {
		for shard := range a.Shards {
			if a.Duty == profile.DutyRoot {
				continue
			}
			if _, err := e.lists.Publish(t.Context(), a.Name, shard); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// collect copies published lists, with a prefix to their names.
func (e *estate) collect(t *testing.T, dir, prefix string, want func(name string) bool) {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(e.public, "crl", "*", "*.crl"))
	if err != nil || len(files) == 0 {
		t.Fatalf("%d lists, %v", len(files), err)
	}
	for _, f := range files {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		if name := filepath.Base(filepath.Dir(f)) + "-" + filepath.Base(f); want(name) {
			if err := os.WriteFile(filepath.Join(dir, prefix+name), b, 0o600); err != nil {
				t.Fatal(err)
			}
			list, err := x509.ParseRevocationList(b)
			if err != nil {
				t.Fatal(err)
			}
			// The second list of one second is of the next: time rises with the number (A32).
			time.Sleep(time.Until(list.ThisUpdate))
		}
	}
}

// TestThreeVerifiers_AgreeOnEveryProfileAndAlgorithm issues under authorities with
// P-256, P-384 and RSA keys, to keys of the three kinds, in every profile, with
// lists in shards. A part is revoked. OpenSSL, which alone of the three reads
// deltas, judges one authority's certificates again from the lists of before and
// the deltas since.
func TestThreeVerifiers_AgreeOnEveryProfileAndAlgorithm(t *testing.T) {
	n, rsaEvery := 100, 50
	if os.Getenv("HALLMARK_PROOF") != "" {
		n, rsaEvery = 1000, 20
	}
	e, dir, deltas := newEstate(t), t.TempDir(), t.TempDir()
	profiles := []profile.Name{profile.IDevID, profile.LDevID, profile.Station, profile.Operator, profile.Server, profile.Claim, profile.OCSPResponder}
	const byDelta = "device-p256"
	var revoked []string
	for i := range n {
		if i == n/2 { // the lists of before
			e.publish(t)
			e.collect(t, deltas, "old-", func(name string) bool { return strings.HasPrefix(name, byDelta) && !strings.Contains(name, "delta") })
		}
		p := profiles[i%len(profiles)]
		duty := "infra-"
		if p == profile.IDevID || p == profile.LDevID {
			duty = "device-"
		}
		authority := duty + estateKeys[i/len(profiles)%len(estateKeys)]
		key := estateKeys[i%2]
		if i%rsaEvery == 3 {
			key = "rsa"
		}
		c := e.issue(t, authority, p, fmt.Sprintf("SN-%d", i), newKey(t, key).Public())
		name := fmt.Sprintf("leaf-%04d-%s-%s.pem", i, p, authority)
		if err := os.WriteFile(filepath.Join(dir, name), catest.PEM(c), 0o600); err != nil {
			t.Fatal(err)
		}
		if i%4 != 0 || p == profile.OCSPResponder { // about whom nobody can be asked
			continue
		}
		serial, _ := ca.SerialFromInt(c.SerialNumber)
		if _, err := e.crl.Revoke(t.Context(), e.officer, crl.Withdrawal{Authority: authority, Serial: serial, Reason: crl.Superseded}); err != nil {
			t.Fatal(err)
		}
		revoked = append(revoked, name)
	}
	e.publish(t)
	e.collect(t, dir, "", func(name string) bool { return !strings.Contains(name, "delta") })
	e.collect(t, deltas, "", func(name string) bool { return !strings.HasPrefix(name, byDelta) || strings.Contains(name, "delta") })
	for name, b := range map[string][]byte{"chain.pem": catest.PEM(e.chain...), "revoked.txt": []byte(strings.Join(revoked, "\n"))} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	verifyWithThree(t, dir)

	leaves, _ := filepath.Glob(filepath.Join(dir, "leaf-*-"+byDelta+".pem"))
	w := newWorkbench(t, deltas, leaves, filepath.Join(dir, "chain.pem"))
	for file, verdict := range w.openssl(leaves) {
		if (verdict == "revoked") != slices.Contains(revoked, filepath.Base(file)) || verdict != "" && verdict != "revoked" {
			t.Errorf("%s from the delta: %q", filepath.Base(file), verdict)
		}
	}
	w.deltas = false
	if missed := w.openssl(leaves); !slices.ContainsFunc(leaves, func(f string) bool { return missed[f] == "" && slices.Contains(revoked, filepath.Base(f)) }) {
		t.Error("the old lists say it all without the deltas")
	}

	// The three also refuse what is no certificate of ours: one changed octet.
	forged := t.TempDir()
	e.collect(t, forged, "", func(string) bool { return true })
	good := e.issue(t, "device-p384", profile.LDevID, "SN-FORGED", newKey(t, "p256").Public())
	bent := *good
	bent.Raw = append([]byte(nil), good.Raw...)
	bent.Raw[len(bent.Raw)-1] ^= 1
	for name, b := range map[string][]byte{"chain.pem": catest.PEM(e.chain...), "leaf-good.pem": catest.PEM(good), "leaf-bent.pem": catest.PEM(&bent)} {
		if err := os.WriteFile(filepath.Join(forged, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	v := threeVerdicts(t, forged)
	if bad := v["leaf-bent"]; v["leaf-good"] != (verdict3{}) || bad.openssl == "" || bad.gnutls == "" || bad.nss == "" {
		t.Errorf("a forged signature: %+v", v)
	}
}
