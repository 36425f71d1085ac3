package main

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hallmark/ca/ceremony"
	"hallmark/hsm/hsmtest"
)

// ceremonyCLI runs one command and gives what it printed.
func ceremonyCLI(t *testing.T, in string, args ...string) (out, errOut string, err error) {
	t.Helper()
	var o, e bytes.Buffer
	g := &globals{Out: &o, Err: &e, In: strings.NewReader(in), Now: time.Now}
	c := newCeremonyCmd(g)
	c.SetArgs(args)
	c.SetOut(&o)
	c.SetErr(&e)
	c.SilenceErrors, c.SilenceUsage = true, true
	err = c.ExecuteContext(t.Context())
	return o.String(), e.String(), err
}

func TestCeremonyCLI_RunsFromRootToListAndVerifies(t *testing.T) {
	tok, dir := hsmtest.SoftHSM(t), t.TempDir()
	file := func(n string) string { return filepath.Join(dir, n) }
	root := []string{"root", "--key", tok.URI("root"), "--name", "acme-root", "--subject-cn", "Acme Root", "--base-url", "http://pki.acme-devices.example", "--out-dir", dir, "--witness", "R. Roe", "--clock", "10:02"}

	_, shown, err := ceremonyCLI(t, "no\n", append(root, "--generate")...)
	if !errors.Is(err, ceremony.ErrNotConfirmed) || !strings.Contains(shown, "path length 2") {
		t.Fatalf("%v\n%s", err, shown)
	}
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Fatalf("a step that was not confirmed left %v", left)
	}
	out, _, err := ceremonyCLI(t, "yes\n", root...)
	if err != nil || !strings.Contains(out, "Read these words aloud") {
		t.Fatalf("%v\n%s", err, out)
	}
	_, _, err = ceremonyCLI(t, "yes\n", root...)
	if !errors.Is(err, ceremony.ErrFileExists) {
		t.Fatalf("the root was overwritten: %v", err)
	}

	csr := file("d.csr")
	if b, err := exec.Command("openssl", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-keyout", file("k.pem"), "-out", csr, "-subj", "/CN=x").CombinedOutput(); err != nil {
		t.Fatalf("%v %s", err, b)
	}
	if _, _, err := ceremonyCLI(t, "", "sign", "--key", tok.URI("root"), "--root", file("acme-root.pem"), "--csr", csr, "--name", "devices-1", "--duty", "device", "--subject-cn", "Devices 1", "--previous", file("acme-root.root.transcript.json"), "--out-dir", dir, "--yes"); err != nil {
		t.Fatal(err)
	}
	// A step that was interrupted after its intent is not silently repeated.
	if err := os.WriteFile(file("acme-root-1.intent"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	list := []string{"crl", "--key", tok.URI("root"), "--root", file("acme-root.cer"), "--first", "--previous", file("devices-1.sign.transcript.json"), "--out-dir", dir, "--yes"}
	if _, _, err := ceremonyCLI(t, "", list...); !errors.Is(err, ceremony.ErrFileExists) || !strings.Contains(err.Error(), "interrupted") {
		t.Fatalf("got %v", err)
	}
	if err := os.Remove(file("acme-root-1.intent")); err != nil {
		t.Fatal(err)
	}
	if _, _, err := ceremonyCLI(t, "", list...); err != nil {
		t.Fatal(err)
	}

	all := []string{"verify", file("acme-root.root.transcript.json"), file("devices-1.sign.transcript.json"), file("acme-root-1.crl.transcript.json"), "--root", file("acme-root.pem")}
	out, _, err = ceremonyCLI(t, "", all...)
	if err != nil || !strings.Contains(out, "Verified: 3 transcripts") {
		t.Fatalf("%v\n%s", err, out)
	}
	out, _, err = ceremonyCLI(t, "", "show", file("devices-1.sign.transcript.json"))
	if err != nil || !strings.Contains(out, "This was shown before it was signed") {
		t.Fatalf("%v\n%s", err, out)
	}
	b, err := os.ReadFile(file("devices-1.sign.transcript.json"))
	if err != nil {
		t.Fatal(err)
	}
	b[len(b)/2] ^= 1
	if err := os.WriteFile(file("devices-1.sign.transcript.json"), b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, _, err = ceremonyCLI(t, "", all...); !errors.Is(err, ceremony.ErrTranscript) || !strings.Contains(err.Error(), "Transcript 2 of 3") {
		t.Fatalf("got %v", err)
	}
}

// TestCeremonyCLI_SaysWhatIsWrong covers messages that sent people the wrong way.
func TestCeremonyCLI_SaysWhatIsWrong(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "nowhere")
	if _, _, err := ceremonyCLI(t, "", "pin", "split", "--shares", "3", "--threshold", "2", "--generate", "6", "--out-dir", missing); !errors.Is(err, ceremony.ErrOutput) || !strings.Contains(err.Error(), missing) {
		t.Errorf("a directory that is missing: %v", err)
	}
	const script = `schema: hallmark.ceremony-script/v1
id: acme-2026
title: Test
mode: development
run_until: 2025-12-31
custodians: {threshold: 1, people: [{name: Anna, key: "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE="}]}
keys:
  root: {uri: "pkcs11:token=root;object=root", generate: P-256}
steps:
  - {step: make-root, do: create-root, name: acme-root, key: root, base_url: "http://pki.acme-devices.example", subject: {common_name: Acme Root}}
`
	file := filepath.Join(t.TempDir(), "script.yaml")
	for date, want := range map[string]error{"2025-12-31": ceremony.ErrScript, time.Now().Add(48 * time.Hour).UTC().Format(time.DateOnly): nil} {
		if err := os.WriteFile(file, []byte(strings.ReplaceAll(script, "2025-12-31", date)), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, _, err := ceremonyCLI(t, "", "run", file, "--check"); !errors.Is(err, want) {
			t.Errorf("run_until %s: %v", date, err)
		}
	}
}
