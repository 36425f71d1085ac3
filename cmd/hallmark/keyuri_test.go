package main

import (
	"encoding/json"
	"net"
	"os"
	"path/filepath"
	"testing"

	"github.com/spf13/cobra"

	"hallmark/hsm"
)

func TestKeyURI_ARelativeFileIsInTheWorkingDirectory(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "a b?c")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	for given, want := range map[string]string{
		"file:anna.pem": dir + "/anna.pem",
		"file:../anna.pem?passphrase-source=env:PASS": filepath.Dir(dir) + "/anna.pem",
		"file:/keys/anna.pem":                         "/keys/anna.pem",
		"file:///keys/anna.pem":                       "/keys/anna.pem",
	} {
		var got string
		c := &cobra.Command{Use: "x", Run: func(*cobra.Command, []string) {}}
		keyURIFlag(c, &got, "key", "")
		c.SetArgs([]string{"--key", given})
		if err := c.Execute(); err != nil {
			t.Fatal(err)
		}
		if u, err := hsm.ParseURI(got); err != nil || u.Path != want {
			t.Errorf("%s: %s, %q, %v", given, got, u.Path, err)
		}
	}
	for _, same := range []string{"file:", "file:?passphrase-source=env:PASS", "pkcs11:token=officer;object=orders", "anna.pem"} {
		var got keyURI
		if err := got.Set(same); err != nil || string(got) != same {
			t.Errorf("%s: %s %v", same, got, err)
		}
	}
}

func TestServe_ItsAddressFileIsReadFromAnywhere(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.Mkdir("state", 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s := &Server{cfg: &Config{State: "state", ServerNames: []string{"127.0.0.1"}}, doors: map[string]*door{"people": {"people", l, nil}}}
	if err := s.announce(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join("state", "endpoints.json"))
	if err != nil {
		t.Fatal(err)
	}
	var e endpointFile
	if err := json.Unmarshal(b, &e); err != nil || !filepath.IsAbs(e.CAFile) || filepath.Base(e.CAFile) != "ca.pem" {
		t.Errorf("%s %v", b, err)
	}
}
