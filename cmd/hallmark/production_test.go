package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/ca"
	"hallmark/ca/profile"
	"hallmark/hsm"
	"hallmark/hsm/hsmtest"
	"hallmark/internal/fault"
	"hallmark/store"
)

// goodProduction is a configuration that production mode takes, but for approvers.
const goodProduction = "production: true\nbase_url: http://pki.example.com\nserver_names: [pki.example.com]\nntp: ['127.0.0.1:9']\nlog: {software_key: no token at this site has Ed25519}\nlisten: {people: '127.0.0.1:0', device: '127.0.0.1:0', mqtt: '127.0.0.1:0', factory: '127.0.0.1:0', enrol: '127.0.0.1:0', public: '127.0.0.1:0', metrics: '127.0.0.1:0'}\n"

// approvedBy is the approver that is missing in it.
func approvedBy(t *testing.T) string {
	t.Helper()
	return "approvers:\n  - {name: ana, key: " + publicKeyFile(t) + "}\n"
}

func publicKeyFile(t *testing.T) string {
	t.Helper()
	d := &stage{dir: t.TempDir()}
	for _, p := range []string{"people", "keys"} {
		if err := os.Mkdir(d.path(p), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(d.path("keys", "pin"), []byte("1234"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := d.approverKey(); err != nil {
		t.Fatal(err)
	}
	return d.path("people", "bob.pub.pem")
}

func productionConfig(t *testing.T, text string) *Config {
	t.Helper()
	c, err := parseConfig([]byte(text), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// listed gives what a production refusal lists, nil if err is none.
func listed(err error) []string {
	f := fault.From(err)
	if f == nil || f.Code != errProduction.Code {
		return nil
	}
	list, _ := f.Members["refused"].([]string)
	return list
}

func TestProduction_RefusesEachConvenienceOfTheFile_S44(t *testing.T) {
	good := goodProduction + approvedBy(t)
	if list := productionConfig(t, good).conveniences(); len(list) != 0 {
		t.Fatalf("a good configuration is refused: %q", list)
	}
	for _, c := range []struct{ from, to, want string }{
		{"http://pki.example.com", "http://localhost", "base_url"},
		{"http://pki.example.com", "http://192.0.2.1", "base_url"},
		{"http://pki.example.com", "http://pki.example.com:8080", "base_url"},
		{"server_names: [pki.example.com]\n", "", "server_names"},
		{"[pki.example.com]", "['::1', localhost]", "server_names"},
		{approvedByText(good), "", "approvers"},
		{"ntp: ['127.0.0.1:9']\n", "", "ntp"},
		{"log: {software_key: no token at this site has Ed25519}\n", "", "log.key"},
		{"production: true\n", "production: true\ndatabase: postgres://u@db.example.com/h\n", "database"},
		{"production: true\n", "production: true\ndatabase: postgres://u:secret@/h\n", "database"},
		{"production: true\n", "production: true\ntokens: {modules: [libsofthsm2.so]}\n", "tokens.modules"},
	} {
		text := strings.Replace(good, c.from, c.to, 1)
		if text == good {
			t.Fatalf("%q changes nothing", c.from)
		}
		if list := productionConfig(t, text).conveniences(); len(list) != 1 || !strings.HasPrefix(list[0], c.want) {
			t.Errorf("%q: refused %q, want one about %s", c.to, list, c.want)
		}
		if list := productionConfig(t, strings.Replace(text, "production: true", "production: false", 1)).conveniences(); len(list) != 0 {
			t.Errorf("%q is refused outside production mode: %q", c.to, list)
		}
	}
	for _, ok := range []string{"postgres:///h?host=/run/postgresql", "postgres://u@127.0.0.1/h", "postgres://u@db.example.com/h?sslmode=verify-full"} {
		if why := unprotected(ok); why != "" {
			t.Errorf("%s: %s", ok, why)
		}
	}
}

func approvedByText(config string) string { return config[strings.Index(config, "approvers:"):] }

// One error lists everything, at the command that looks at the file and at the start.
func TestProduction_ListsEverythingAtOnce_S44(t *testing.T) {
	file := filepath.Join(t.TempDir(), "hallmark.yaml")
	if err := os.WriteFile(file, []byte("production: true\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"config", "check", file}, {"serve", "--config", file}} {
		var out, errOut bytes.Buffer
		if exit := run(t.Context(), args, strings.NewReader(""), &out, &errOut); exit != exitFault {
			t.Errorf("%v: exit code %d", args, exit)
		}
		for _, want := range []string{"(5)", "ntp", "base_url", "server_names", "approvers", "production-refused"} {
			if !strings.Contains(errOut.String(), want) {
				t.Errorf("%v does not say %s: %s", args, want, errOut.String())
			}
		}
	}
}

// The keys of the authorities are asked at the start, each of them (A22).
func TestProduction_RefusesUnsafeCAKeys_S44_A22(t *testing.T) {
	tok := hsmtest.SoftHSM(t)
	tool := func(args ...string) {
		t.Helper()
		if _, err := exec.LookPath("pkcs11-tool"); err != nil {
			hsmtest.Missing(t, "pkcs11-tool is missing: apt-get install opensc")
		}
		cmd := exec.Command("pkcs11-tool", append([]string{"--module", tok.Module, "--token-label", tok.Label, "--login", "--pin", hsmtest.PIN, "--keypairgen", "--sensitive"}, args...)...)
		cmd.Env = append(os.Environ(), tok.Env()...)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	ring := hsm.Open(hsm.Config{})
	if _, err := ring.Generate(t.Context(), tok.URI("good"), hsm.Spec{Algorithm: hsm.P256}); err != nil {
		t.Fatal(err)
	}
	ring.Close()
	tool("--key-type", "EC:prime256v1", "--label", "leaves", "--id", "11", "--extractable")
	tool("--key-type", "rsa:2048", "--label", "decrypts", "--id", "12", "--usage-decrypt", "--usage-sign")
	tool("--key-type", "EC:prime256v1", "--label", "derives", "--id", "13", "--usage-derive", "--usage-sign")

	cfg := productionConfig(t, goodProduction+approvedBy(t)+"tokens: {modules: ["+tok.Module+"]}\n")
	install := func(keys map[string]string) {
		t.Helper()
		box, err := openSeal(cfg)
		if err != nil {
			t.Fatal(err)
		}
		db, err := store.Open(t.Context(), store.Config{URL: cfg.Database, Seal: box})
		if err != nil {
			t.Fatal(err)
		}
		defer db.Close()
		for name, uri := range keys {
			if err := db.CreateAuthority(t.Context(), ca.Authority{Name: name, Tenant: access.DefaultTenant, Duty: profile.DutyDevice, State: ca.StatePending, CSR: []byte{1}, KeyURI: uri, BaseURL: cfg.BaseURL, Shards: 1, CreatedAt: time.Now()}); err != nil {
				t.Fatal(err)
			}
		}
	}
	start := func() error {
		s, err := newServer(context.Background(), cfg, serverOptions{})
		if err == nil {
			err = s.Close()
		}
		return err
	}
	if err := os.MkdirAll(cfg.State, 0o700); err != nil {
		t.Fatal(err)
	}
	install(map[string]string{"good": tok.URI("good")})
	if err := start(); err != nil {
		t.Fatalf("a good key is refused: %v", err)
	}
	bad := map[string]string{
		"leaves": tok.URI("leaves"), "decrypts": tok.URI("decrypts"), "derives": tok.URI("derives"),
		"file": "file:" + filepath.Join(t.TempDir(), "key.pem"), "pin": tok.URI("good") + "&pin-value=1",
		"library": strings.Replace(tok.URI("good"), tok.Module, "/opt/other.so", 1),
	}
	install(bad)
	err := start()
	list := listed(err)
	if len(list) != len(bad) {
		t.Errorf("%d of %d keys are listed: %v", len(list), len(bad), err)
	}
	for name, why := range map[string]string{"leaves": "extractable", "decrypts": "decrypt", "derives": "derive", "file": "file", "pin": "", "library": "/opt/other.so"} {
		found := false
		for _, l := range list {
			found = found || strings.HasPrefix(l, fmt.Sprintf("authority %s: ", name)) && strings.Contains(l, why)
		}
		if !found {
			t.Errorf("%s is not refused for %q: %q", name, why, list)
		}
	}
	cfg.Production = false
	if err := start(); listed(err) != nil {
		t.Errorf("development refuses: %v", err)
	}
}
