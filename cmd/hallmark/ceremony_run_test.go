package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hallmark/ca/ceremony"
	"hallmark/hsm"
	"hallmark/hsm/hsmtest"
)

// S37: a script with two of three custodians, one of them by file, run as people
// run it: a PIN in parts that is mistyped, and tried again by word and hand.
func TestCeremonyRun_AMistypedPINIsTriedAgainByAPerson_S37(t *testing.T) {
	tok, dir := hsmtest.SoftHSM(t), t.TempDir()
	program := filepath.Join(programDir(t), "bin", "hallmark")
	run := func(in string, args ...string) (string, string, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		var out, errOut bytes.Buffer
		cmd := exec.CommandContext(ctx, program, append([]string{"ceremony"}, args...)...)
		cmd.Dir, cmd.Stdin, cmd.Stdout, cmd.Stderr = dir, strings.NewReader(in), &out, &errOut
		cmd.Env = append(append(os.Environ(), tok.Env()...), "CEREMONY_PASS=correct horse battery")
		err := cmd.Run()
		return out.String(), errOut.String(), err
	}
	must := func(in string, args ...string) string {
		t.Helper()
		out, errOut, err := run(in, args...)
		if err != nil {
			t.Fatalf("%v: %v\n%s", args, err, errOut)
		}
		return out
	}
	key := func(n string) string {
		return "file:" + filepath.Join(dir, n+".pem") + "?passphrase-source=env:CEREMONY_PASS"
	}
	lines := ""
	for _, n := range []string{"Anna", "Bo", "Cem"} {
		lines += must("", "custodian", "--name", n, "--key", key(n), "--generate", "Ed25519")
	}
	script := fmt.Sprintf(`schema: %s
id: acme-2026
title: First root
mode: production
run_until: %s
custodians:
  threshold: 2
  people:
%skeys:
  root: {uri: "pkcs11:token=%s;object=root?module-path=%s", generate: P-256, pin: shares, pin_shares: 2}
steps:
  - step: make-root
    do: create-root
    name: acme-root
    key: root
    base_url: http://pki.acme-devices.com
    subject: {common_name: Acme Device Root}
  - step: first-list
    do: sign-crl
    root: acme-root
    first: true
`, ceremony.AgendaSchema, time.Now().Add(48*time.Hour).Format(time.DateOnly), lines, tok.Label, tok.Module)
	if err := os.WriteFile(filepath.Join(dir, "script.yaml"), []byte(script), 0o644); err != nil {
		t.Fatal(err)
	}
	must("yes\n", "approve", "script.yaml", "--name", "Bo", "--key", key("Bo"), "--out", "bo.approval.json")
	right, err := ceremony.SplitPIN(hsm.NewSecret([]byte(hsmtest.PIN)), 2, 3, nil)
	if err != nil {
		t.Fatal(err)
	}
	wrong, err := ceremony.SplitPIN(hsm.NewSecret([]byte("654321")), 2, 3, nil)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now().UTC().Format("2006-01-02 15:04")
	in := strings.Join([]string{now, "yes", "acorn typo", wrong[0], wrong[1], "again", now, right[2], right[0], "yes", "yes", now, "yes", ""}, "\n")
	args := []string{"run", "script.yaml", "--custodian", "Anna=" + key("Anna"), "--approval", "bo.approval.json"}
	_, errOut, err := run(in, args...)
	// Anna alone signed the transcript; Bo does so by file.
	if err == nil || !strings.Contains(errOut, "ceremony-quorum-missing") || strings.Count(errOut, "code: hsm-pin-refused") != 1 || !strings.Contains(errOut, "Word 2 is not in the list") {
		t.Fatalf("%v\n%s", err, errOut)
	}
	for _, secret := range []string{hsmtest.PIN, "654321", strings.Fields(right[0])[7] + " " + strings.Fields(right[0])[8]} {
		if strings.Contains(errOut, secret) {
			t.Errorf("the terminal shows a PIN or a part: %q", secret)
		}
	}
	must("yes\n", "approve", "acme-2026.ceremony.jsonl", "--name", "Bo", "--key", key("Bo"), "--out", "bo2.approval.json")
	var out struct{ Transcript, Words, Checkpoint string }
	if err := json.Unmarshal([]byte(must("", append(args, "--approval", "bo2.approval.json", "--json")...)), &out); err != nil || !strings.HasPrefix(out.Checkpoint, "hallmark.ceremony/acme-2026\n") {
		t.Fatalf("%+v %v", out, err)
	}
	data, err := os.ReadFile(filepath.Join(dir, "acme-2026.ceremony.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	if found := must("", "verify", "acme-2026.ceremony.jsonl", "--root", "acme-root.pem"); !strings.Contains(found, "make-root: a token refused a PIN") || !strings.HasSuffix(found, "Verified: the ceremony acme-2026.\n") {
		t.Errorf("verify:\n%s", found)
	}
	if b, err := exec.Command("openssl", "crl", "-in", filepath.Join(dir, "acme-root-1.crl.pem"), "-CAfile", filepath.Join(dir, "acme-root.pem"), "-noout", "-verify").CombinedOutput(); err != nil || !strings.Contains(string(b), "verify OK") {
		t.Errorf("openssl: %v %s", err, b)
	}
	data[bytes.Index(data, []byte(`"step":"first-list"`))-100] ^= 1
	if err := os.WriteFile(filepath.Join(dir, "copy.jsonl"), data, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, errOut, err := run("", "verify", "copy.jsonl"); err == nil || !strings.Contains(errOut, "Step first-list") {
		t.Errorf("a flipped bit: %v %s", err, errOut)
	}
	must("", "record", "acme-2026.ceremony.jsonl", "--out", "record.html")
	if page, err := os.ReadFile(filepath.Join(dir, "record.html")); err != nil || strings.Count(string(page), "<svg") != 3 || strings.Contains(string(page), "http:") && strings.Contains(string(page), "src=") {
		t.Errorf("the record: %v", err)
	}
}
