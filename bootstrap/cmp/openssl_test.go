package cmp_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"hallmark/access"
	"hallmark/bootstrap"
	"hallmark/bootstrap/bootstraptest"
	"hallmark/bootstrap/cmp"
	"hallmark/bootstrap/enroltest"
	"hallmark/ca"
	"hallmark/ca/catest"
	"hallmark/ca/profile"
	"hallmark/crl"
	"hallmark/fleet"
	"hallmark/store/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m) }

// site is a CMP server on a plain door.
type site struct {
	*enroltest.Site
	enroller *bootstrap.Enroller
	server   *cmp.Server
	host     string
	dir      string
}

func newSite(t testing.TB, rules bootstrap.Rules, o bootstraptest.Options) *site {
	t.Helper()
	rules.Protocol = "cmp"
	s := &site{Site: enroltest.New(t, o, 5), dir: t.TempDir()}
	s.enroller = s.Enroller(rules)
	own := s.Server(t, "server-cmp")
	s.server = cmp.New(cmp.Config{Enroller: s.enroller, Tenant: access.DefaultTenant, Now: s.Now, Key: func(context.Context) (crypto.Signer, []*x509.Certificate, error) {
		return own.PrivateKey.(crypto.Signer), []*x509.Certificate{own.Leaf, s.Infra}, nil
	}})
	mux := http.NewServeMux()
	mux.Handle(cmp.Prefix, s.server)
	mux.Handle(cmp.Prefix+"/", s.server)
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	s.host = strings.TrimPrefix(srv.URL, "http://")
	s.write(t, "root.pem", catest.PEM(s.Root))
	s.write(t, "ca.pem", catest.PEM(s.Device))
	return s
}

func (s *site) file(name string) string { return filepath.Join(s.dir, name) }

func (s *site) write(t testing.TB, name string, content []byte) {
	t.Helper()
	if err := os.WriteFile(s.file(name), content, 0o600); err != nil {
		t.Fatal(err)
	}
}

// key makes a key and its file.
func (s *site) key(t testing.TB, name string) *ecdsa.PrivateKey {
	t.Helper()
	k := catest.NewKey(t)
	s.keep(t, name, k)
	return k
}

func (s *site) keep(t testing.TB, name string, k *ecdsa.PrivateKey) {
	t.Helper()
	der, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	s.write(t, name, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// openssl is one run of the client; files are named by their base names.
func (s *site) openssl(t testing.TB, args ...string) (string, bool) {
	t.Helper()
	cmd := exec.Command("openssl", append([]string{"cmp", "-config", "", "-server", s.host, "-path", strings.TrimPrefix(cmp.Prefix, "/"), "-batch", "-msg_timeout", "60"}, args...)...)
	cmd.Dir = s.dir
	var text bytes.Buffer
	cmd.Stdout, cmd.Stderr = &text, &text
	err := cmd.Run()
	return text.String(), err == nil
}

func (s *site) must(t testing.TB, args ...string) {
	t.Helper()
	if text, ok := s.openssl(t, args...); !ok {
		t.Fatalf("openssl cmp %s:\n%s", strings.Join(args, " "), text)
	}
}

// refused wants the client to be told so, in these words.
func (s *site) refused(t testing.TB, words string, args ...string) {
	t.Helper()
	text, ok := s.openssl(t, args...)
	if ok || !strings.Contains(text, words) {
		t.Errorf("openssl cmp %s: want %q, got (%t)\n%s", strings.Join(args, " "), words, ok, text)
	}
}

func (s *site) certificate(t testing.TB, name string) *x509.Certificate {
	t.Helper()
	b, err := os.ReadFile(s.file(name))
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(b)
	return enroltest.Certificate(t, block.Bytes)
}

// TestCMP_OpenSSLObtainsRenewsAndRevokes is the life of a device with `openssl cmp`:
// birth certificate by a one-time password, operational one by the birth
// certificate, two updates, revocation of its own.
func TestCMP_OpenSSLObtainsRenewsAndRevokes(t *testing.T) {
	s := newSite(t, bootstrap.Rules{}, bootstraptest.Options{})
	p, secret := s.Password(t, s.enroller, "U-001", profile.IDevID)
	birth := s.key(t, "birth.key")
	s.must(t, "-cmd", "ir", "-ref", p.ID, "-secret", "pass:"+secret, "-newkey", "birth.key", "-subject", "/CN=U-001/O=Somebody Else", "-certout", "birth.pem", "-cacertsout", "pubs.pem", "-out_trusted", "root.pem", "-untrusted", "ca.pem")
	c := s.certificate(t, "birth.pem")
	if c.Subject.CommonName != "U-001" || c.Subject.Organization[0] != "Example" || !birth.PublicKey.Equal(c.PublicKey) {
		t.Fatalf("%v", c.Subject)
	}
	if !s.certificate(t, "pubs.pem").Equal(s.Root) {
		t.Error("the root did not come along")
	}
	if r := s.Records(t, "U-001", profile.IDevID); len(r) != 1 || r[0].Tool != "cmp" || r[0].Account != enroltest.Order {
		t.Errorf("%+v", r)
	}
	// With the same key and password again: the same certificate (A40).
	s.must(t, "-cmd", "ir", "-ref", p.ID, "-secret", "pass:"+secret, "-newkey", "birth.key", "-subject", "/CN=U-001", "-certout", "again.pem", "-mac", "hmacWithSHA256", "-digest", "sha512")
	if !s.certificate(t, "again.pem").Equal(c) {
		t.Error("another certificate for the same key")
	}

	signed := func(cert, key string) []string { return []string{"-cert", cert, "-key", key, "-trusted", "root.pem"} }
	s.key(t, "one.key")
	s.must(t, append(signed("birth.pem", "birth.key"), "-cmd", "ir", "-newkey", "one.key", "-subject", "/CN=any", "-certout", "one.pem", "-path", ".well-known/cmp/p/ldevid")...)
	one := s.certificate(t, "one.pem")
	if one.Subject.CommonName != "thing-U-001" {
		t.Errorf("%v", one.Subject)
	}
	status := func() fleet.PrincipalStatus {
		r := s.Records(t, "U-001", profile.LDevID)
		p, err := s.Registry.Principal(t.Context(), access.Scope{Tenant: access.DefaultTenant}, r[len(r)-1].Authority, r[len(r)-1].Serial)
		if err != nil {
			t.Fatal(err)
		}
		return p.Status
	}
	if got := status(); got != fleet.PendingActivation { // S15: the key has not shown itself with the birth certificate's yet
		t.Errorf("status %s", got)
	}
	s.key(t, "two.key")
	s.must(t, append(signed("one.pem", "one.key"), "-cmd", "kur", "-newkey", "two.key", "-certout", "two.pem")...)
	two := s.certificate(t, "two.pem")
	if two.Subject.String() != one.Subject.String() || two.Equal(one) {
		t.Errorf("%v", two.Subject)
	}
	s.key(t, "three.key")
	s.must(t, append(signed("two.pem", "two.key"), "-cmd", "kur", "-newkey", "three.key", "-certout", "three.pem", "-implicit_confirm")...)
	// A13: an update has the names of its certificate, and is about it alone.
	s.key(t, "four.key")
	s.refused(t, "enrol-renewal-identity", append(signed("three.pem", "three.key"), "-cmd", "kur", "-newkey", "four.key", "-certout", "x.pem", "-subject", "/CN=victim")...)
	s.refused(t, "enrol-renewal-identity", append(signed("three.pem", "three.key"), "-cmd", "kur", "-newkey", "four.key", "-certout", "x.pem", "-oldcert", "birth.pem")...)
	s.refused(t, "register-key-reused", append(signed("three.pem", "three.key"), "-cmd", "kur", "-newkey", "three.key", "-certout", "x.pem")...)
	// cr and p10cr.
	s.must(t, append(signed("three.pem", "three.key"), "-cmd", "cr", "-newkey", "four.key", "-subject", "/CN=x", "-certout", "four.pem")...)
	s.key(t, "five.key")
	if out, err := exec.Command("openssl", "req", "-new", "-key", s.file("five.key"), "-subj", "/CN=x", "-out", s.file("five.csr")).CombinedOutput(); err != nil {
		t.Fatalf("%s", out)
	}
	s.must(t, append(signed("four.pem", "four.key"), "-cmd", "p10cr", "-csr", "five.csr", "-certout", "five.pem")...)
	s.must(t, append(signed("five.pem", "five.key"), "-cmd", "genm")...)

	// A34: its own, no other's.
	other, otherKey := s.IssueIDevID(t, "U-002")
	s.write(t, "other.pem", catest.PEM(other))
	s.keep(t, "other.key", otherKey)
	s.refused(t, "enrol-certificate-unknown", append(signed("other.pem", "other.key"), "-cmd", "rr", "-oldcert", "five.pem", "-revreason", "1")...)
	s.refused(t, "enrol-certificate-unknown", append(signed("five.pem", "five.key"), "-cmd", "rr", "-oldcert", "birth.pem", "-revreason", "4")...)
	s.refused(t, "revocation-reason-invalid", append(signed("five.pem", "five.key"), "-cmd", "rr", "-oldcert", "five.pem", "-revreason", "6")...)
	s.must(t, append(signed("five.pem", "five.key"), "-cmd", "rr", "-oldcert", "five.pem", "-revreason", "4")...)
	five := s.certificate(t, "five.pem")
	serial, _ := ca.SerialFromInt(five.SerialNumber)
	rec, err := s.DB.RecordBySerial(t.Context(), access.DefaultTenant, "", serial)
	if err != nil || !rec.Revoked() || crl.Reason(rec.Reason) != crl.Superseded || rec.RevokedBy != "device:U-001" {
		t.Errorf("%+v %v", rec, err)
	}
	if err := s.Set.Follow(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.refused(t, "device-revoked", append(signed("five.pem", "five.key"), "-cmd", "rr", "-oldcert", "five.pem", "-revreason", "4")...)
	s.key(t, "six.key")
	s.refused(t, "device-revoked", append(signed("five.pem", "five.key"), "-cmd", "kur", "-newkey", "six.key", "-certout", "x.pem")...)
	if found, err := s.Registry.Fsck(t.Context()); err != nil || len(found) > 0 {
		t.Errorf("fsck: %v %v", found, err)
	}
}
