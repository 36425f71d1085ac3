package est_test

import (
	"bytes"
	"encoding/base64"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"hallmark/bootstrap"
	"hallmark/bootstrap/bootstraptest"
	"hallmark/bootstrap/enroltest"
	"hallmark/ca/catest"
	"hallmark/ca/profile"
)

// need skips a test for want of a tool; where everything has to be there it fails.
func need(t *testing.T, what string, err error) {
	t.Helper()
	switch {
	case err == nil:
	case os.Getenv("CI") == "true":
		t.Fatalf("%s: %v", what, err)
	default:
		t.Skipf("%s: %v", what, err)
	}
}

// TestEST_GlobalsignObtainsRenewsAndGetsAKey is the whole protocol with the EST
// client of github.com/globalsign/est, a module of its own in testdata.
func TestEST_GlobalsignObtainsRenewsAndGetsAKey(t *testing.T) {
	program := filepath.Join(t.TempDir(), "globalsign")
	build := exec.Command("go", "build", "-o", program, ".")
	build.Dir = filepath.Join("testdata", "globalsign")
	build.Env = append(os.Environ(), "GOFLAGS=-mod=mod -buildvcs=false", "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		t.Logf("%s", out)
		need(t, "building the client", err)
	}
	s := newSite(t, bootstrap.Rules{ServerKeys: true}, bootstraptest.Options{})
	root := filepath.Join(t.TempDir(), "root.pem")
	if err := os.WriteFile(root, catest.PEM(s.Root), 0o600); err != nil {
		t.Fatal(err)
	}
	_, birth := s.Password(t, s.enroller, "U-001", profile.IDevID)
	_, key := s.Password(t, s.enroller, "U-001", profile.LDevID)
	out, err := exec.Command(program, "-root", root, "-passwords", s.plain, "-devices", s.Addr, "-unit", "U-001", "-birth", birth, "-serverkey", key).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	if r := s.Records(t, "U-001", profile.LDevID); len(r) != 3 {
		t.Errorf("%d operational certificates", len(r))
	}
}

// TestEST_CurlAndOpenSSLEnrol is what an installer does by hand.
func TestEST_CurlAndOpenSSLEnrol(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		need(t, "curl", err)
	}
	s := newSite(t, bootstrap.Rules{}, bootstraptest.Options{})
	dir := t.TempDir()
	file := func(name string) string { return filepath.Join(dir, name) }
	write := func(name string, b []byte) string {
		if err := os.WriteFile(file(name), b, 0o600); err != nil {
			t.Fatal(err)
		}
		return file(name)
	}
	root := write("root.pem", catest.PEM(s.Root))
	// The CA certificates, with which everything else verifies.
	text := tool(t, nil, "curl", "-sSf", "--cacert", root, "https://"+s.plain+cacertsPath)
	if got := certificates(t, text); len(got) != 3 {
		t.Errorf("%d CA certificates", len(got))
	}
	tool(t, nil, "openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", file("key.pem"), "-subj", "/CN=U-001", "-outform", "DER", "-out", file("req.der"))
	der, err := os.ReadFile(file("req.der"))
	if err != nil {
		t.Fatal(err)
	}
	var lines bytes.Buffer
	for rest := base64.StdEncoding.EncodeToString(der); rest != ""; {
		n := min(64, len(rest))
		lines.WriteString(rest[:n] + "\n")
		rest = rest[n:]
	}
	body := write("req.b64", lines.Bytes())
	_, secret := s.Password(t, s.enroller, "U-001", profile.IDevID)
	ask := func(extra ...string) []byte {
		return tool(t, nil, "curl", append([]string{"-sS", "--cacert", root, "-H", "Content-Type: application/pkcs10"}, extra...)...)
	}
	cert := certificates(t, ask("--data-binary", "@"+body, "-u", "U-001:"+secret, "https://"+s.plain+enrolPath))
	if len(cert) != 1 || cert[0].Subject.CommonName != "U-001" {
		t.Fatalf("%v", cert)
	}
	write("cert.pem", catest.PEM(cert[0], s.Device))
	write("ca.pem", catest.PEM(s.Device))
	tool(t, nil, "openssl", "verify", "-x509_strict", "-purpose", "sslclient", "-CAfile", root, "-untrusted", file("ca.pem"), file("cert.pem"))
	// The operational one, in chunks.
	next := write("next.b64", []byte(base64.StdEncoding.EncodeToString(enroltest.CSR(t, catest.NewKey(t), "", ""))))
	got := certificates(t, ask("-H", "Transfer-Encoding: chunked", "--data-binary", "@"+next, "--cert", file("cert.pem"), "--key", file("key.pem"), "https://"+s.Addr+enrolPath))
	if len(got) != 1 || got[0].Subject.CommonName != "thing-U-001" {
		t.Errorf("%v", got)
	}
	if text := ask("-w", "%{http_code}", "--data-binary", "@"+body, "-u", "U-001:wrong", "https://"+s.plain+enrolPath); !strings.HasSuffix(string(text), "401") {
		t.Errorf("%s", text)
	}
}
