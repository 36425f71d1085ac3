//go:build cgo

package pkcs11

import (
	"os"
	"testing"

	p11 "github.com/miekg/pkcs11"

	"hallmark/hsm/token"
)

var (
	softHSMs   = []string{"/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so", "/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so", "/usr/lib64/softhsm/libsofthsm2.so"}
	p11Clients = []string{"/usr/lib/x86_64-linux-gnu/pkcs11/p11-kit-client.so", "/usr/lib/aarch64-linux-gnu/pkcs11/p11-kit-client.so", "/usr/lib64/pkcs11/p11-kit-client.so"}
)

// installed is the first of the modules that exists.
func installed(t testing.TB, paths []string) string {
	t.Helper()
	for _, p := range paths {
		if _, err := os.Stat(p); err == nil {
			return p
		}
	}
	if os.Getenv("CI") == "true" || os.Getenv("HALLMARK_CI") == "1" {
		t.Fatal("not installed: ", paths)
	}
	t.Skip("not installed; apt-get install -y --no-install-recommends softhsm2 p11-kit-modules")
	return ""
}

// copied is the file under another name.
func copied(t testing.TB, path, name string) string {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	to := t.TempDir() + "/" + name
	if err := os.WriteFile(to, b, 0o700); err != nil {
		t.Fatal(err)
	}
	return to
}

func TestModule_ClientOfP11KitTakesOneCallAtATime(t *testing.T) {
	client, soft := installed(t, p11Clients), installed(t, softHSMs)
	for path, want := range map[string]bool{
		client:                          true,
		copied(t, client, "another.so"): true,
		copied(t, soft, "p11-kit-client-of-ours.so"): true,
		soft:           false,
		"/etc/hosts":   false,
		"/nowhere.so":  false,
		"/proc/uptime": false,
	} {
		if got := oneCallOnly(path); got != want {
			t.Errorf("%s: %v", path, got)
		}
	}
}

func TestModule_IsOneForEachConfiguration(t *testing.T) {
	path := copied(t, installed(t, softHSMs), "module.so")
	at := func(cfg token.Config) *module {
		m, err := moduleAt(path, cfg)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(m.letGo)
		return m
	}
	t.Setenv("HALLMARK_TEST_A", "1")
	first := at(token.Config{})
	if at(token.Config{}) != first {
		t.Error("the same configuration is another module")
	}
	other := at(token.Config{Environment: []string{"HALLMARK_TEST_A", "HALLMARK_TEST_NONE"}})
	if other == first || len(other.env) != 1 {
		t.Errorf("another environment is the same module: %q", other.env)
	}
	if err := SetModuleEnv(path, "SOFTHSM2_CONF", "/elsewhere"); err != nil {
		t.Fatal(err)
	}
	if at(token.Config{}) == first {
		t.Error("another configuration is the same module")
	}
	if d := at(token.Config{Direct: true}); d == first || len(d.env) != 0 {
		t.Error("a module in this process is the one in another")
	}
}

func TestChildEnv_PassesConfigurationsAndNoSecrets(t *testing.T) {
	got := childEnv([]string{
		"PATH=/bin", "HOME=/root", "SOFTHSM2_CONF=/ours", "TPM2_PKCS11_STORE=/tpm", "LC_ALL=C",
		"HALLMARK_TOKEN=s", "SOFTHSM2_PIN=s", "PKCS11_PASSWORD=s", "AWS_SECRET_ACCESS_KEY=s", "GODEBUG=x", "LD_PRELOAD=/evil.so", "odd",
	}, [][2]string{{"SOFTHSM2_CONF", "/first"}, {"X", "1"}, {"SOFTHSM2_CONF", "/last"}})
	want := map[string]bool{"SOFTHSM2_CONF=/last": true, "X=1": true, "PATH=/bin": true, "HOME=/root": true, "TPM2_PKCS11_STORE=/tpm": true, "LC_ALL=C": true}
	if len(got) != len(want) {
		t.Errorf("got %q", got)
	}
	for _, e := range got {
		if !want[e] {
			t.Errorf("%q passed", e)
		}
	}
}

// A23: a PIN that nobody knows to be right is not sent again while the token has
// not answered to it.
func TestLogin_FirstPINIsNotSentTwice(t *testing.T) {
	d := &device{mod: &module{path: t.Name()}}
	registry.mu.Lock()
	registry.asking[d.refusalKey()] = true
	registry.mu.Unlock()
	// The visit has no module: a call would crash.
	if err := d.login(visit{}, 0, slot{flags: p11.CKF_LOGIN_REQUIRED}); err != errUnanswered {
		t.Errorf("got %v", err)
	}
	if !token.Fault(openFault(errUnanswered, token.URI{}), token.ErrTokenDown) {
		t.Error("the caller gets another fault than that of a token that is away")
	}
}
