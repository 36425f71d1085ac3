package ceremony_test

import (
	"crypto/x509"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"hallmark/ca/ceremony"
	"hallmark/ca/profile"
	"hallmark/hsm"
	"hallmark/hsm/hsmtest"
)

const baseURL = "http://pki.acme-devices.example"

func ring(t testing.TB) *hsm.Keyring {
	t.Helper()
	k := hsm.Open(hsm.Config{})
	t.Cleanup(func() {
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	})
	return k
}

func start(t testing.TB, cfg ceremony.Config) *ceremony.Ceremony {
	t.Helper()
	c, err := ceremony.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// must is for steps that have to succeed.
func must(t testing.TB) func(*ceremony.Result, error) *ceremony.Result {
	return func(r *ceremony.Result, err error) *ceremony.Result {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
}

func refused(t testing.TB, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got %v, want %v", err, want)
	}
}

func name(cn string) profile.Subject {
	return profile.Subject{Country: "DE", Organization: "Acme Devices", CommonName: cn}
}

// fileURI names an encrypted key file of the test.
func fileURI(t testing.TB, object string) string {
	t.Helper()
	dir := t.TempDir()
	pass := filepath.Join(dir, "passphrase")
	if err := os.WriteFile(pass, []byte("correct horse battery\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return "file:" + filepath.Join(dir, object+".pem") + "?passphrase-source=file:" + pass
}

// chain is a whole ceremony.
type chain struct {
	keys    *hsm.Keyring
	tok     hsmtest.Token
	rootKey string
	dev     bool
	root    *ceremony.Result
	csr     *ceremony.Result
	device  *ceremony.Result
	infra   *ceremony.Result
	list    *ceremony.Result
}

func (c *chain) files() [][]byte {
	return [][]byte{c.root.TranscriptJSON, c.device.TranscriptJSON, c.infra.TranscriptJSON, c.list.TranscriptJSON}
}

func (c *chain) cfg(previous []byte) ceremony.Config {
	return ceremony.Config{Keys: c.keys, Development: c.dev, Previous: previous, ClockRead: "wall clock 10:02", Witnesses: []string{"R. Roe", "J. Doe"}}
}

// run makes a root, two authorities and a list.
func run(t testing.TB, c *chain, algorithm hsm.Algorithm) *chain {
	t.Helper()
	c.root = must(t)(start(t, c.cfg(nil)).CreateRoot(t.Context(), ceremony.RootRequest{
		Name: "acme-root", BaseURL: baseURL, KeyURI: c.rootKey, Generate: true, Algorithm: algorithm, Subject: name("Acme Device Root"),
	}))
	online := start(t, ceremony.Config{Keys: c.keys})
	c.csr = must(t)(online.MakeCSR(t.Context(), ceremony.CSRRequest{Name: "devices-1", Duty: profile.DutyDevice, KeyURI: c.tok.URI("devices-1"), Generate: true, Subject: name("Acme Devices CA 1")}))
	infra := must(t)(online.MakeCSR(t.Context(), ceremony.CSRRequest{Name: "infra-1", Duty: profile.DutyInfrastructure, KeyURI: c.tok.URI("infra-1"), Generate: true, Subject: name("Acme Infrastructure CA 1")}))
	c.device = must(t)(start(t, c.cfg(c.root.TranscriptJSON)).SignIntermediate(t.Context(), ceremony.SignRequest{RootCert: c.root.CertificatePEM, KeyURI: c.rootKey, CSR: c.csr.TranscriptJSON}))
	c.infra = must(t)(start(t, c.cfg(c.device.TranscriptJSON)).SignIntermediate(t.Context(), ceremony.SignRequest{RootCert: c.root.CertificateDER, KeyURI: c.rootKey, CSR: infra.TranscriptJSON}))
	c.list = must(t)(start(t, c.cfg(c.infra.TranscriptJSON)).SignRootCRL(t.Context(), ceremony.ListRequest{RootCert: c.root.CertificateDER, KeyURI: c.rootKey, First: true}))
	return c
}

func parse(t testing.TB, der []byte) *x509.Certificate {
	t.Helper()
	c, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func write(t testing.TB, name string, data []byte) string {
	t.Helper()
	p := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(p, data, 0o600); err != nil {
		t.Fatal(err)
	}
	return p
}

// tool runs a program that is not ours.
func tool(t testing.TB, program string, args ...string) (string, error) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		hsmtest.Missing(t, program+" is not installed; apt-get install -y openssl opensc")
	}
	out, err := exec.Command(program, args...).CombinedOutput()
	return strings.TrimSpace(string(out)), err
}
