package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hallmark/bootstrap/bootstraptest"
	"hallmark/ca/catest"
)

func TestDeviceAgent_RegistersFromTheCommandLine(t *testing.T) {
	d := bootstraptest.New(t, bootstraptest.Options{})
	c, key := d.IssueIDevID(t, "SN-1")
	dir := t.TempDir()
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string][]byte{"idevid.pem": catest.PEM(c, d.Device), "idevid.key": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), "root.pem": catest.PEM(d.Root)} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	do := func(args ...string) (int, string, string) {
		var out, errOut bytes.Buffer
		code := run(context.Background(), append([]string{"device-agent", "firstboot"}, args...), strings.NewReader(""), &out, &errOut)
		return code, out.String(), errOut.String()
	}
	code, out, errOut := do(dir, "--url", d.URL, "--parameter", "Site=Hall 3", "--json")
	var r map[string]any
	if code != exitOK || json.Unmarshal([]byte(out), &r) != nil || r["thing"] != "thing-SN-1" || r["status"] != "ACTIVE" {
		t.Fatalf("exit %d\n%s\n%s", code, out, errOut)
	}
	if code, out, _ := do(dir, "--url", d.URL); code != exitOK || !strings.Contains(out, "registered before") {
		t.Errorf("exit %d: %s", code, out)
	}
	d.Revoke(t, c, 1)
	if code, _, errOut := do(dir, "--url", d.URL, "--renew"); code != exitFault || !strings.Contains(errOut, "was revoked") {
		t.Errorf("exit %d: %s", code, errOut)
	}
	if code, _, _ := do(dir, "--url", d.URL, "--parameter", "x"); code != exitUsage {
		t.Errorf("exit %d", code)
	}
	if code, _, _ := do(dir); code != exitUsage {
		t.Errorf("without a URL: exit %d", code)
	}
}
