package main

import (
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
	_ "unsafe" // go:linkname

	"hallmark/ca/profile"
	"hallmark/hsm/hsmtest"
	"hallmark/hsm/pkcs11"
	"hallmark/hsm/softhsm"
)

// profileTable is the service's own table of profiles: what a wrong line of code
// there would change, a test changes here.
//
//go:linkname profileTable hallmark/ca/profile.profiles
var profileTable []profile.Profile

// signCounter is a PKCS#11 library that counts.
type signCounter struct {
	t    testing.TB
	file string // the library
	log  string
}

// newSignCounter compiles testdata/countsign.c before SoftHSM's library.
func newSignCounter(t testing.TB) *signCounter {
	t.Helper()
	cc, err := exec.LookPath("cc")
	if err != nil {
		hsmtest.Missing(t, "a C compiler is missing: apt-get install gcc libc6-dev")
	}
	module, err := softhsm.Module()
	if err != nil {
		hsmtest.Missing(t, err.Error())
	}
	c := &signCounter{t, filepath.Join(t.TempDir(), "countsign.so"), filepath.Join(t.TempDir(), "signed")}
	out, err := exec.Command(cc, "-shared", "-fPIC", "-O1", "-Wall", `-DREAL="`+module+`"`, `-DCOUNT="`+c.log+`"`, "-o", c.file, "testdata/countsign.c", "-ldl").CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return c
}

// lines are what was asked of the token so far: "init", and "sign" with octets.
func (c *signCounter) lines() []string {
	c.t.Helper()
	b, err := os.ReadFile(c.log)
	if err != nil && !os.IsNotExist(err) {
		c.t.Fatal(err)
	}
	return strings.Split(strings.TrimSuffix(string(b), "\n"), "\n")
}

// rest waits until nothing was signed for a while: lists and the like.
func (c *signCounter) rest() int {
	c.t.Helper()
	n := len(c.lines())
	for quiet, deadline := 0, time.Now().Add(20*time.Second); quiet < 6 && time.Now().Before(deadline); quiet++ {
		time.Sleep(50 * time.Millisecond)
		if now := len(c.lines()); now != n {
			n, quiet = now, 0
		}
	}
	return n
}

// TestWays_ABrokenProfileReachesNoToken is the third of the ten ways, with a
// whole service and a token: a profile that is broken on purpose is refused, and
// the token is not asked for any signature. The unbroken one is signed by it,
// the digest of the TBS and nothing else (S1, S18).
func TestWays_ABrokenProfileReachesNoToken(t *testing.T) {
	counter := newSignCounter(t)
	s := newCountedSite(t, counter)
	cert := s.stationPair()
	client, url := s.client(&cert, 1), "https://"+s.door("factory")+"/factory/v1/units/issue"
	units := 0
	issue := func() (unit, reply) {
		t.Helper()
		units++
		u := newUnit(t, "SN-"+string(rune('A'+units)))
		r, err := call(t.Context(), client, "POST", url, u.request())
		if err != nil {
			t.Fatal(err)
		}
		return u, r
	}

	before := counter.rest()
	good := s.issue(newUnit(t, "GOOD")).Leaf
	digest := sha256.Sum256(good.RawTBSCertificate)
	if got := counter.lines()[before:]; strings.Count(strings.Join(got, "\n"), "sign ") != 1 || !slices.Contains(got, "sign "+hex.EncodeToString(digest[:])) {
		t.Fatalf("for a good certificate the token was asked %q", got)
	}

	table := profileTable
	t.Cleanup(func() { profileTable = table })
	for _, c := range []struct {
		what   string
		damage func(p *profile.Profile)
	}{
		{"a device is a CA", func(p *profile.Profile) { p.CA = true }},
		{"a device signs certificates", func(p *profile.Profile) { p.Usage = uint32(x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign) }},
		{"a device may do nothing", func(p *profile.Profile) { p.Usage = 0 }},
		{"a device is a server too", func(p *profile.Profile) { p.Purposes = append(slices.Clone(p.Purposes), profile.PurposeServerAuth) }},
		{"a device answers OCSP", func(p *profile.Profile) {
			p.Purposes = p.Purposes[:0:0]
			p.Purposes = append(p.Purposes, profile.PurposeOCSPSigning)
		}},
		{"a device is good for anything", func(p *profile.Profile) { p.Purposes = nil }},
		{"a device is never checked", func(p *profile.Profile) { p.NoCheck = true }},
		{"a device has a station's role", func(p *profile.Profile) { p.Role = 6 }},
		{"a device ends before it begins", func(p *profile.Profile) { p.Lifetime, p.NoExpiry = -time.Hour, false }},
		{"a profile of a name that nobody knows", func(p *profile.Profile) { p.Name = "idevid2" }},
	} {
		broken := slices.Clone(table)
		c.damage(&broken[slices.IndexFunc(broken, func(p profile.Profile) bool { return p.Name == profile.IDevID })])
		profileTable = broken
		if err := s.server.ca.Reload(t.Context()); err != nil {
			t.Fatalf("%s: not even loaded, so this proves nothing: %v", c.what, err)
		}
		before := counter.rest()
		u, r := issue()
		if r.status < 400 || r.code == "" {
			t.Errorf("%s: %s was answered %s", c.what, u.name, r)
		}
		if got := counter.lines()[before:]; len(got) != 0 {
			t.Errorf("%s: the token was asked %q", c.what, got)
		}
		profileTable = table
		if err := s.server.ca.Reload(t.Context()); err != nil {
			t.Fatal(err)
		}
		s.issue(u) // the same request is good with the good profile
	}
	s.clean()
}

// newCountedSite is a site whose authorities' tokens are reached through a
// counter.
func newCountedSite(t testing.TB, c *signCounter) *site {
	t.Helper()
	return newChangedSite(t, "softhsm", "", anyName(100), func(s *site) {
		real, err := softhsm.Module()
		if err == nil {
			err = pkcs11.SetModuleEnv(c.file, "SOFTHSM2_CONF", s.path("keys", "softhsm", "softhsm2.conf"))
		}
		if err != nil {
			t.Fatal(err)
		}
		direct := s.keyURI
		s.keyURI = func(name string) string {
			return strings.Replace(direct(name), "module-path="+real, "module-path="+c.file, 1)
		}
	})
}
