package ca_test

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"math/big"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/ca"
	"hallmark/ca/catest"
	"hallmark/ca/profile"
)

// narrow makes and loads an authority with constraints.
func narrow(t *testing.T, f *catest.Fixture, name string, duty profile.Duty, n profile.Constraints) (*ecdsa.PrivateKey, *x509.Certificate) {
	t.Helper()
	key := catest.NewKey(t)
	p, _ := profile.Get(map[profile.Duty]profile.Name{profile.DutyDevice: profile.DeviceCA, profile.DutyInfrastructure: profile.InfraCA}[duty])
	p, err := p.Constrained(n)
	if err != nil {
		t.Fatal(err)
	}
	c := sign(t, p, ca.IssuerOf(&ca.Authority{Name: catest.Root, BaseURL: catest.BaseURL, Duty: profile.DutyRoot}, f.Root), f.RootKey,
		profile.Fields{Subject: profile.Subject{Organization: "Example", CommonName: "Example " + name}, SPKI: spkiOf(t, key.Public())})
	back, err := profile.ConstraintsOf(c, profileNamed(p.Name))
	if err != nil || !back.Equal(n) {
		t.Fatalf("%+v was written, %+v read: %v", n, back, err)
	}
	f.Keys.Add("test:"+name, key)
	if err := f.DB.CreateAuthority(t.Context(), ca.Authority{Name: name, Tenant: access.DefaultTenant, Duty: duty, State: ca.StateActive, KeyURI: "test:" + name,
		BaseURL: catest.BaseURL, Shards: 1, Certificate: c.Raw, CreatedAt: time.Now()}); err != nil {
		t.Fatal(err)
	}
	if err := f.CA.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
	return key, c
}

func profileNamed(n profile.Name) profile.Profile {
	p, _ := profile.Get(n)
	return p
}

func spkiOf(t *testing.T, pub crypto.PublicKey) []byte {
	t.Helper()
	b, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// sign renders and signs past every lint.
func sign(t *testing.T, p profile.Profile, iss profile.Issuer, key crypto.Signer, f profile.Fields) *x509.Certificate {
	t.Helper()
	tmpl, err := profile.Compile(p, iss, profile.DefaultArc)
	if err != nil {
		t.Fatal(err)
	}
	serial, err := ca.NewSerial(time.Now(), nil)
	if err != nil {
		t.Fatal(err)
	}
	f.Serial, f.NotBefore, f.NotAfter = serial[:], time.Now().Add(-time.Hour).UTC().Truncate(time.Second), time.Now().AddDate(1, 0, 0).UTC().Truncate(time.Second)
	tbs, err := tmpl.Render(&f)
	if err != nil {
		t.Fatal(err)
	}
	digest := sha256.Sum256(tbs)
	sig, err := key.Sign(rand.Reader, digest[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	c, err := x509.ParseCertificate(profile.Assemble(tbs, tmpl.SigAlg, sig))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// openssl verifies a chain, leaf first, root last.
func openssl(t *testing.T, purpose string, chain ...*x509.Certificate) (string, error) {
	t.Helper()
	if _, err := exec.LookPath("openssl"); err != nil && os.Getenv("CI") != "true" {
		t.Skip(err)
	}
	dir := t.TempDir()
	file := func(name string, certs ...*x509.Certificate) string {
		name = filepath.Join(dir, name)
		if err := os.WriteFile(name, catest.PEM(certs...), 0o600); err != nil {
			t.Fatal(err)
		}
		return name
	}
	n := len(chain) - 1
	out, err := exec.Command("openssl", "verify", "-x509_strict", "-purpose", purpose, "-CAfile", file("root.pem", chain[n]), "-untrusted", file("inter.pem", chain[1:n]...), file("leaf.pem", chain[0])).CombinedOutput()
	return string(out), err
}

// TestIssue_KeepsToWhatTheAuthorityIsConstrainedTo asks for certificates within and
// outside of an authority's constraints. What is refused is then signed all the
// same, past the lints, and OpenSSL refuses it too.
func TestIssue_KeepsToWhatTheAuthorityIsConstrainedTo(t *testing.T) {
	f := catest.New(t)
	type authority struct {
		key  *ecdsa.PrivateKey
		cert *x509.Certificate
		duty profile.Duty
	}
	all := map[string]authority{}
	for name, x := range map[string]struct {
		duty profile.Duty
		n    profile.Constraints
	}{
		"names": {profile.DutyDevice, profile.Constraints{
			Permitted: []string{"dns:devices.example.com", "ip:10.0.0.0/8", "ip:2001:db8::/32"}, Excluded: []string{"dns:secret.devices.example.com", "ip:10.9.0.0/16"}}},
		"excluded":  {profile.DutyDevice, profile.Constraints{Excluded: []string{"dns:example.net", "uri:.example.org"}}},
		"directory": {profile.DutyDevice, profile.Constraints{Permitted: []string{"directory:C=DE,O=Example GmbH"}}},
		"purposes":  {profile.DutyInfrastructure, profile.Constraints{Purposes: []string{"client-auth", "ocsp-signing"}}},
	} {
		key, cert := narrow(t, f, name, x.duty, x.n)
		all[name] = authority{key, cert, x.duty}
	}
	ip := func(s string) [][]byte { return [][]byte{netip.MustParseAddr(s).AsSlice()} }
	dns := func(s ...string) profile.Names { return profile.Names{DNS: s} }
	german := profile.Subject{Country: "DE", Organization: "Example GmbH", CommonName: "SN"}
	for i, c := range []struct {
		authority string
		profile   profile.Name
		subject   profile.Subject
		names     profile.Names
		code      string // of OpenSSL's refusal; "" issues; "ours" is refused by us alone
	}{
		{"names", profile.IDevID, profile.Subject{}, dns("sn-1.devices.example.com"), ""},
		{"names", profile.IDevID, profile.Subject{}, dns("sn-1.devices.example.com", "sn-1.example.com"), "error 47"},
		{"names", profile.IDevID, profile.Subject{}, dns("sn-1.otherdevices.example.com"), "error 47"},
		{"names", profile.IDevID, profile.Subject{}, dns("a.secret.devices.example.com"), "error 48"},
		{"names", profile.LDevID, profile.Subject{}, profile.Names{IP: ip("10.1.2.3")}, ""},
		{"names", profile.LDevID, profile.Subject{}, profile.Names{IP: ip("2001:db8::1")}, ""},
		{"names", profile.LDevID, profile.Subject{}, profile.Names{IP: ip("192.0.2.1")}, "error 47"},
		{"names", profile.LDevID, profile.Subject{}, profile.Names{IP: ip("10.9.2.3")}, "error 48"},
		{"names", profile.IDevID, profile.Subject{}, profile.Names{}, "ours"},
		{"names", profile.IDevID, profile.Subject{CommonName: "sn-1.example.com"}, profile.Names{}, "error 47"},
		{"names", profile.OCSPResponder, profile.Subject{}, profile.Names{}, ""},
		{"excluded", profile.IDevID, profile.Subject{}, profile.Names{}, ""},
		{"excluded", profile.IDevID, profile.Subject{}, dns("a.example.com"), ""},
		{"excluded", profile.IDevID, profile.Subject{}, dns("a.EXAMPLE.net"), "error 48"},
		{"excluded", profile.IDevID, profile.Subject{CommonName: "sn.example.net"}, profile.Names{}, "error 48"},
		{"directory", profile.IDevID, german, dns("a.example"), ""},
		{"directory", profile.IDevID, profile.Subject{Country: "DE", Organization: "EXAMPLE  gmbh", CommonName: "SN"}, profile.Names{}, ""},
		{"directory", profile.IDevID, profile.Subject{Country: "DE", Organization: "Example AG", CommonName: "SN"}, profile.Names{}, "error 47"},
		{"directory", profile.IDevID, profile.Subject{Organization: "Example GmbH", CommonName: "SN"}, profile.Names{}, "error 47"},
		{"purposes", profile.Station, profile.Subject{}, profile.Names{}, ""},
		{"purposes", profile.Server, profile.Subject{}, dns("a.example"), "error 26"},
	} {
		holder := "SN-" + string(rune('A'+i))
		if c.subject == (profile.Subject{}) {
			c.subject.CommonName = holder
		}
		a, key := all[c.authority], catest.NewKey(t)
		spki := spkiOf(t, key.Public())
		r := ca.Request{
			Identity: ca.Identity{Tenant: access.DefaultTenant, Holder: holder, Profile: string(c.profile)}, Authority: c.authority,
			Subject: c.subject, Names: c.names, SPKI: spki, Key: key.Public(), Requester: ca.Requester{Actor: "service:test"},
		}
		if c.profile == profile.IDevID || c.profile == profile.LDevID {
			r.Origin = profile.OriginClaimed
		}
		purpose := map[profile.Name]string{profile.Server: "sslserver", profile.OCSPResponder: "any"}[c.profile]
		if purpose == "" {
			purpose = "sslclient"
		}
		issued, err := f.CA.Issue(t.Context(), r)
		if c.code == "" {
			if err != nil {
				t.Errorf("%d %s: %v", i, c.authority, err)
				continue
			}
			leaf, err := x509.ParseCertificate(issued.DER)
			if err != nil {
				t.Fatal(err)
			}
			if out, err := openssl(t, purpose, leaf, a.cert, f.Root); err != nil {
				t.Errorf("%d %s: issued, and OpenSSL refuses it: %s", i, c.authority, out)
			}
			continue
		}
		if !errors.Is(err, ca.ErrConstraint) {
			t.Errorf("%d %s %v %v: %v", i, c.authority, c.subject, c.names, err)
		}
		if n := len(records(t, f, holder)); n != 0 {
			t.Errorf("%d: %d reservations were made", i, n)
		}
		iss := ca.IssuerOf(&ca.Authority{Name: c.authority, BaseURL: catest.BaseURL, Duty: a.duty}, a.cert)
		leaf := sign(t, profileNamed(c.profile), iss, a.key, profile.Fields{Subject: c.subject, Names: c.names, SPKI: spki, Origin: r.Origin})
		if out, err := openssl(t, purpose, leaf, a.cert, f.Root); c.code != "ours" && (err == nil || !strings.Contains(out, c.code)) {
			t.Errorf("%d %s: OpenSSL says %v %s, not %s", i, c.authority, err, out, c.code)
		}
	}
}

// TestLimits_PathLength has OpenSSL refuse the chain that the rule refuses.
func TestLimits_PathLength(t *testing.T) {
	f := catest.New(t)
	key, device := narrow(t, f, "names", profile.DutyDevice, profile.Constraints{Excluded: []string{"dns:example.net"}})
	below := catest.NewKey(t)
	iss := ca.IssuerOf(&ca.Authority{Name: "names", BaseURL: catest.BaseURL}, device)
	sub := sign(t, profileNamed(profile.DeviceCA), iss, key, profile.Fields{Subject: profile.Subject{CommonName: "Below"}, SPKI: spkiOf(t, below.Public())})
	if what := iss.Limits.Breaks(sub, false); len(what) != 1 || !strings.Contains(what[0], "path length of 0 below an issuer with 0") {
		t.Errorf("broken: %v", what)
	}
	der, err := x509.CreateCertificate(rand.Reader, &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour)}, sub, below.Public(), below)
	if err != nil {
		t.Fatal(err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	if out, err := openssl(t, "any", leaf, sub, device, f.Root); err == nil || !strings.Contains(out, "path length constraint exceeded") {
		t.Errorf("OpenSSL: %v %s", err, out)
	}
	for _, bad := range []profile.Constraints{
		{PathLength: new(int), Permitted: []string{"dns:.example.com"}}, {Permitted: []string{"dns:*.example.com"}}, {Excluded: []string{"dns:"}}, {Permitted: []string{"ip:10.0.0.1/8"}},
		{Permitted: []string{"urn:x"}}, {Permitted: []string{"uri:http://example.com/"}}, {Permitted: []string{"directory:L=Berlin"}}, {Purposes: []string{"code-signing"}},
		{PathLength: func() *int { n := 3; return &n }()}, {Purposes: []string{"client-auth", "client-auth"}}, {Permitted: []string{"dns:EXAMPLE.com"}},
	} {
		if _, err := profileNamed(profile.CrossRoot).Constrained(bad); err == nil {
			t.Errorf("taken: %+v", bad)
		}
	}
}
