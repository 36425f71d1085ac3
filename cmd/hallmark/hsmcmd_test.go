package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hallmark/hsm/hsmtest"
)

// TestHSMCommands_OnTwoTokens drives the hsm commands as a person would: list,
// generate, test, measure, and a key with a spare (S6).
func TestHSMCommands_OnTwoTokens(t *testing.T) {
	a, b := hsmtest.SoftHSMLabel(t, "alpha"), hsmtest.SoftHSMLabel(t, "beta")
	call := func(want int, out any, args ...string) string {
		t.Helper()
		var stdout, stderr bytes.Buffer
		code := run(t.Context(), append([]string{"--json"}, args...), strings.NewReader(""), &stdout, &stderr)
		if code != want {
			t.Fatalf("%q: exit %d, want %d\n%s%s", args, code, want, &stdout, &stderr)
		}
		if out != nil {
			if err := json.Unmarshal(stdout.Bytes(), out); err != nil {
				t.Fatalf("%q: %v: %s", args, err, &stdout)
			}
		}
		return stderr.String()
	}

	var tokens []hsmToken
	call(exitOK, &tokens, "hsm", "tokens", "--modules", a.Module)
	if len(tokens) != 1 || tokens[0].Label != "alpha" || tokens[0].PIN != "ok" || len(tokens[0].Algorithms) == 0 {
		t.Errorf("tokens: %+v", tokens)
	}
	var made hsmKey
	call(exitOK, &made, "hsm", "generate", a.URI("one"), "--algorithm", "P-384")
	if made.Algorithm != "P-384" || made.ForCA != "yes" || made.ID == "" || !strings.Contains(made.PublicKey, "PUBLIC KEY") {
		t.Errorf("made: %+v", made)
	}
	if err := call(exitFault, nil, "hsm", "generate", a.URI("one"), "--algorithm", "P-384"); !strings.Contains(err, "hsm-key-exists") {
		t.Error(err)
	}
	call(exitUsage, nil, "hsm", "generate", a.URI("two"), "--accept-firmware", "because")
	var keys []hsmKey
	call(exitOK, &keys, "hsm", "keys", "pkcs11:token=alpha?module-path="+a.Module+"&pin-source=file:"+a.PINFile)
	if len(keys) != 1 || keys[0].SHA256 != made.SHA256 || keys[0].Attributes["never-extractable"] != "yes" {
		t.Errorf("keys: %+v", keys)
	}
	var signed map[string]any
	call(exitOK, &signed, "hsm", "sign", a.URI("one"))
	if signed["verified"] != true {
		t.Errorf("sign: %v", signed)
	}
	for _, args := range [][]string{{"hsm", "bench", a.URI("one")}, {"bench", "sign", "--key", a.URI("one")}} {
		var m signBench
		call(exitOK, &m, append(args, "--duration", "200ms", "--clients", "2")...)
		if m.Signatures == 0 || m.PerSecond == 0 || m.Errors != 0 || m.P50 <= 0 {
			t.Errorf("%q: %+v", args, m)
		}
	}
	var health []hsmHealth
	call(exitOK, &health, "hsm", "health", a.URI("one"))
	if len(health) != 1 || health[0].State != "up" {
		t.Errorf("health: %+v", health)
	}
	call(exitFault, &health, "hsm", "health", b.URI("one"))

	// S6: the record, and a service's configuration with both copies.
	record := filepath.Join(t.TempDir(), "one.transfer.json")
	var transfer map[string]any
	call(exitOK, &transfer, "hsm", "replicate", "--from", a.URI("both"), "--to", b.URI("both"), "--record", record, "--by", "ann")
	call(exitUsage, nil, "hsm", "replicate", "--from", a.URI("x"), "--to", b.URI("x"), "--record", record)
	call(exitOK, &transfer, "hsm", "record", record)
	if transfer["by"] != "ann" {
		t.Errorf("record: %v", transfer)
	}
	text := "tokens:\n  groups:\n    - name: both\n      records: [" + record + "]\n      keys:\n        - " + a.URI("both") + "\n        - " + b.URI("both") + "\n"
	c, err := parseConfig([]byte(text), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if g, err := c.groups(); err != nil || len(g) != 1 || len(g[0].Transfers) != 1 {
		t.Errorf("groups: %+v, %v", g, err)
	}
	broken, err := os.ReadFile(record)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(record, bytes.Replace(broken, []byte(`"ann"`), []byte(`"bob"`), 1), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := parseConfig([]byte(text), t.TempDir()); err == nil {
		t.Error("a changed record was accepted")
	}
	if err := call(exitFault, nil, "hsm", "record", record); !strings.Contains(err, "hsm-transfer-invalid") {
		t.Error(err)
	}
	for what, text := range map[string]string{
		"one token":   "tokens: {groups: [{name: x, keys: ['" + a.URI("both") + "']}]}",
		"bad key":     "tokens: {groups: [{name: x, keys: ['" + a.URI("both") + "', 'nonsense']}]}",
		"unknown key": "tokens: {groups: [{nam: x}]}",
		"impatient":   "tokens: {groups: [{name: x, patience: 9s, deadline: 1s, keys: ['" + a.URI("both") + "', '" + b.URI("both") + "']}]}",
	} {
		if _, err := parseConfig([]byte(text), t.TempDir()); err == nil {
			t.Errorf("%s: accepted", what)
		}
	}
}
