package scep_test

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"os"
	"os/exec"
	"strings"
	"testing"

	"hallmark/access"
	"hallmark/bootstrap/bootstraptest"
	"hallmark/bootstrap/enroltest"
	"hallmark/ca/catest"
	"hallmark/ca/profile"
	"hallmark/crl"
	"hallmark/fleet"
)

// pki is one run of strongSwan's client.
func (s *site) pki(t testing.TB, args ...string) ([]byte, string, error) {
	t.Helper()
	cmd := exec.Command("pki", args...)
	cmd.Dir = s.dir
	var out, text bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &text
	err := cmd.Run()
	return out.Bytes(), text.String(), err
}

// enrol runs `pki --scep` with the authorities that `pki --scepca` wrote.
func (s *site) enrol(t testing.TB, path string, args ...string) (*x509.Certificate, string) {
	t.Helper()
	out, text, err := s.pki(t, append([]string{"--scep", "--url", s.url + path, "--cacert-enc", "ra.pem", "--cacert-sig", "ra.pem", "--cacert", "ca-1.pem", "--cacert", "ca.pem", "--outform", "pem", "--interval", "1", "--maxpolltime", "2"}, args...)...)
	if err != nil {
		return nil, text
	}
	block, _ := pem.Decode(out)
	if block == nil {
		t.Fatalf("%s\n%s", out, text)
	}
	return enroltest.Certificate(t, block.Bytes), text
}

// TestSCEP_StrongSwanObtainsAndRenews is the life of a device with strongSwan's
// `pki`: birth certificate by a one-time password, operational one over it, two
// renewals. SCEP has no revocation.
func TestSCEP_StrongSwanObtainsAndRenews(t *testing.T) {
	if _, err := exec.LookPath("pki"); err != nil {
		if os.Getenv("CI") == "true" {
			t.Fatal("pki (Debian: strongswan-pki) is not installed")
		}
		t.Skip("pki (Debian: strongswan-pki) is not installed")
	}
	s := newSite(t, bootstraptest.Options{}, nil)
	if _, text, err := s.pki(t, "--scepca", "--url", s.url, "--caout", "ca.pem", "--raout", "ra.pem", "--outform", "pem"); err != nil {
		t.Fatalf("%v %s", err, text)
	}
	for i, name := range []string{"birth.key", "one.key", "two.key", "three.key"} {
		s.writeKey(t, name, rsaKey(t, 1+i))
	}
	_, secret := s.Password(t, s.enroller, "U-001", profile.IDevID)
	birth, text := s.enrol(t, "", "--in", "birth.key", "--dn", "CN=U-001", "--password", secret)
	if birth == nil || birth.Subject.CommonName != "U-001" || birth.Subject.Organization[0] != "Example" {
		t.Fatalf("%v\n%s", birth, text)
	}
	s.writePEM(t, "birth.pem", birth)
	if c, text := s.enrol(t, "", "--in", "one.key", "--dn", "CN=U-001", "--password", secret); c != nil || !strings.Contains(text, "badRequest") {
		t.Errorf("another key with the password: %s", text)
	}
	one, text := s.enrol(t, "/ldevid/pkiclient.exe", "--in", "one.key", "--dn", "CN=any", "--cert", "birth.pem", "--key", "birth.key")
	if one == nil || one.Subject.CommonName != "thing-U-001" {
		t.Fatalf("%v\n%s", one, text)
	}
	s.writePEM(t, "one.pem", one)
	name := "O=" + strings.Join(one.Subject.Organization, "") + ", CN=" + one.Subject.CommonName + ", serialNumber=" + one.Subject.SerialNumber
	if len(one.Subject.Organization) == 0 {
		name = strings.TrimPrefix(name, "O=, ")
	}
	two, text := s.enrol(t, "", "--in", "two.key", "--dn", name, "--cert", "one.pem", "--key", "one.key")
	if two == nil || two.Subject.String() != one.Subject.String() || two.Equal(one) {
		t.Fatalf("%v\n%s", two, text)
	}
	s.writePEM(t, "two.pem", two)
	if r := s.Records(t, "U-001", profile.LDevID); len(r) != 2 || r[1].Tool != "scep" {
		t.Errorf("%+v", r)
	}
	// A13: a renewal has the names of its certificate.
	if c, text := s.enrol(t, "", "--in", "three.key", "--dn", "CN=victim", "--cert", "two.pem", "--key", "two.key"); c != nil {
		t.Errorf("another name: %s", text)
	}
	three, text := s.enrol(t, "", "--in", "three.key", "--dn", name, "--cert", "two.pem", "--key", "two.key", "--digest", "sha512")
	if three == nil {
		t.Fatal(text)
	}
	p, err := s.Registry.Principal(t.Context(), access.Scope{Tenant: access.DefaultTenant}, catest.Device, serialOf(three))
	if err != nil || p.Status != fleet.PendingActivation { // S15: the new key has not shown itself yet
		t.Errorf("status %s, %v", p.Status, err)
	}
	s.Revoke(t, three, crl.Superseded)
	s.writePEM(t, "three.pem", three)
	s.writeKey(t, "four.key", rsaKey(t, 5))
	if c, text := s.enrol(t, "", "--in", "four.key", "--dn", name, "--cert", "three.pem", "--key", "three.key"); c != nil {
		t.Errorf("over a revoked certificate: %s", text)
	}
	// What the client can, and we do not.
	if c, text := s.enrol(t, "", "--in", "four.key", "--dn", "CN=U-002", "--password", "wrong", "--cipher", "des3"); c != nil {
		t.Errorf("DES3: %s", text)
	}
	if found, err := s.Registry.Fsck(t.Context()); err != nil || len(found) > 0 {
		t.Errorf("fsck: %v %v", found, err)
	}
}

func (s *site) writePEM(t testing.TB, name string, c *x509.Certificate) {
	t.Helper()
	s.write(t, name, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
}
