//go:build cgo

package pkcs11

import (
	"log/slog"
	"os"
	"path/filepath"
	"testing"

	p11 "github.com/miekg/pkcs11"

	"hallmark/hsm/token"
)

// installed is the content of the first module that exists.
func installed(t *testing.T, paths ...string) []byte {
	t.Helper()
	for _, p := range paths {
		if b, err := os.ReadFile(p); err == nil {
			return b
		}
	}
	if os.Getenv("CI") == "true" || os.Getenv("HALLMARK_CI") == "1" {
		t.Fatal("not installed: ", paths)
	}
	t.Skip("not installed; apt-get install -y --no-install-recommends softhsm2 p11-kit-modules")
	return nil
}

func softHSM(t *testing.T) []byte {
	return installed(t, "/usr/lib/softhsm/libsofthsm2.so", "/usr/lib/x86_64-linux-gnu/softhsm/libsofthsm2.so",
		"/usr/lib/aarch64-linux-gnu/softhsm/libsofthsm2.so", "/usr/lib64/softhsm/libsofthsm2.so")
}

// fresh is a module of a file of its own.
func fresh(t *testing.T, content []byte) *module {
	t.Helper()
	path := filepath.Join(t.TempDir(), "module.so")
	if err := os.WriteFile(path, content, 0o700); err != nil {
		t.Fatal(err)
	}
	m, err := moduleAt(path)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestCopy_IsAnInstanceOfItsOwn(t *testing.T) {
	content := softHSM(t)
	conf := filepath.Join(t.TempDir(), "conf")
	if err := os.WriteFile(conf, []byte("directories.tokendir="+t.TempDir()+"\nobjectstore.backend=file\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("SOFTHSM2_CONF", conf)
	var all []*p11.Ctx
	for _, place := range []func([]byte) (string, func(bool), error){memoryCopy, memoryCopy, fileCopy, fileCopy} {
		path, done, err := place(content)
		if err != nil {
			t.Fatal(err)
		}
		ctx := p11.New(path)
		done(ctx != nil)
		if ctx == nil {
			t.Fatalf("%s does not load", path)
		}
		// An instance that exists already would say that it is initialised.
		if err := ctx.Initialize(); err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		if _, err := os.Stat(filepath.Dir(path)); filepath.Base(path) == "module.so" && err == nil {
			t.Errorf("%s was left behind", path)
		}
		all = append(all, ctx)
	}
	for _, ctx := range all {
		if _, err := ctx.GetSlotList(false); err != nil {
			t.Error(err)
		}
		if err := ctx.Finalize(); err != nil {
			t.Error(err)
		}
	}
}

func TestInstance_OnlyTheFileOfTheStartIsCopied(t *testing.T) {
	m := fresh(t, softHSM(t))
	log := slog.New(slog.DiscardHandler)
	if err := m.restart(0, log); err != nil {
		t.Fatal(err)
	}
	if _, err := m.another(); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(m.path)
	if err != nil {
		t.Fatal(err)
	}
	// As an update does it: another file under the name.
	if err := os.Remove(m.path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(m.path, append(b, 0), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := m.another(); !token.Fault(err, token.ErrModuleStuck) {
		t.Errorf("a changed file: %v", err)
	}
}

func TestInstance_HangingOnesAreBounded(t *testing.T) {
	m := fresh(t, []byte("never read"))
	stuckInstances.Add(maxStuck)
	defer stuckInstances.Add(-maxStuck)
	err := m.restart(0, slog.New(slog.DiscardHandler))
	if !token.Fault(err, token.ErrModuleStuck) {
		t.Fatalf("got %v", err)
	}
	// The fault reaches the caller as it is: it does not end by itself.
	d := &device{mod: m, lastErr: err}
	if f := d.downFault(nil); f.Definition != token.ErrModuleStuck || f.RetryAfter == 0 {
		t.Errorf("got %v", f)
	}
	if _, err := m.enter(); !isCode(err, p11.CKR_CRYPTOKI_NOT_INITIALIZED) {
		t.Errorf("a module without an instance is entered: %v", err)
	}
}

func TestModule_ClientOfP11KitTakesOneCallAtATime(t *testing.T) {
	client := installed(t, "/usr/lib/x86_64-linux-gnu/pkcs11/p11-kit-client.so", "/usr/lib/aarch64-linux-gnu/pkcs11/p11-kit-client.so", "/usr/lib64/pkcs11/p11-kit-client.so")
	for _, c := range []struct {
		name    string
		content []byte
		want    bool
	}{
		{"/lib/p11-kit-client.so", nil, true},
		{"/lib/another-name.so", client, true},
		{"/lib/libsofthsm2.so", softHSM(t), false},
		{"/lib/not-elf.so", []byte("hello"), false},
		{"/lib/empty.so", nil, false},
	} {
		if got := oneCallOnly(c.name, c.content); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

// A23: a PIN that nobody knows to be right is not sent again while the token has
// not answered to it.
func TestLogin_FirstPINIsNotSentTwiceAtATime(t *testing.T) {
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
