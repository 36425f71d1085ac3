package hsm_test

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"hallmark/hsm"
	"hallmark/hsm/hsmtest"
	"hallmark/hsm/pkcs11"
	"hallmark/internal/freeport"
)

// need skips the test, or fails it in CI, without a file or program.
func need(t testing.TB, pkg string, names ...string) string {
	t.Helper()
	for _, n := range names {
		if filepath.IsAbs(n) {
			if _, err := os.Stat(n); err == nil {
				return n
			}
		} else if p, err := exec.LookPath(n); err == nil {
			return p
		}
	}
	hsmtest.Missing(t, names[0]+": not installed; apt-get install -y --no-install-recommends "+pkg)
	return ""
}

func tool(t testing.TB, env []string, name string, args ...string) {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
}

// copied is a module's file as a file of the test's own, so that its state and
// environment are too.
func copied(t testing.TB, from, name string) string {
	t.Helper()
	b, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	to := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(to, b, 0o755); err != nil {
		t.Fatal(err)
	}
	return to
}

func pinFile(t testing.TB) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), "pin")
	if err := os.WriteFile(name, []byte(hsmtest.PIN+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// nssToken is a database of NSS; its library is a PKCS #11 module.
func nssToken(t testing.TB) (module, token string) {
	certutil := need(t, "libnss3-tools", "certutil")
	lib := need(t, "libnss3", "/usr/lib/x86_64-linux-gnu/libsoftokn3.so", "/usr/lib/aarch64-linux-gnu/libsoftokn3.so", "/usr/lib/x86_64-linux-gnu/nss/libsoftokn3.so")
	dir := t.TempDir()
	pin := filepath.Join(dir, "password")
	if err := os.WriteFile(pin, []byte(hsmtest.PIN+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	tool(t, nil, certutil, "-N", "-d", "sql:"+dir, "-f", pin)
	// Its other libraries lie beside it, so it cannot be copied.
	if err := pkcs11.SetModuleParameters(lib, "configdir='sql:"+dir+"' certPrefix='' keyPrefix='' secmod='secmod.db' flags="); err != nil {
		t.Fatal(err)
	}
	return lib, "NSS%20Certificate%20DB"
}

// tpmToken is tpm2-pkcs11 on a TPM in software.
func tpmToken(t testing.TB) (module, token string) {
	swtpm := need(t, "swtpm", "swtpm")
	p11 := need(t, "opensc", "pkcs11-tool")
	flush := need(t, "tpm2-tools", "tpm2_flushcontext")
	lib := need(t, "libtpm2-pkcs11-1", "/usr/lib/x86_64-linux-gnu/pkcs11/libtpm2_pkcs11.so", "/usr/lib/aarch64-linux-gnu/pkcs11/libtpm2_pkcs11.so")
	dir := t.TempDir()
	server, err := freeport.Take(2)
	if err != nil {
		t.Fatal(err)
	}
	control := server + 1 // where its clients look for it
	cmd := exec.Command(swtpm, "socket", "--tpm2", "--tpmstate", "dir="+dir, "--flags", "not-need-init,startup-clear",
		"--server", fmt.Sprintf("type=tcp,port=%d,bindaddr=127.0.0.1", server), "--ctrl", fmt.Sprintf("type=tcp,port=%d,bindaddr=127.0.0.1", control))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		cmd.Wait()
	})
	eventually(t, "the TPM listens", func() bool {
		c, err := net.DialTimeout("tcp", fmt.Sprintf("127.0.0.1:%d", control), time.Second)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	tcti := fmt.Sprintf("swtpm:host=127.0.0.1,port=%d", server)
	env := []string{"TPM2_PKCS11_STORE=" + dir, "TPM2_PKCS11_TCTI=" + tcti, "TPM2TOOLS_TCTI=" + tcti, "TPM2_PKCS11_LOG_LEVEL=0"}
	tool(t, env, p11, "--module", lib, "--slot-index", "0", "--init-token", "--label", "tpm", "--so-pin", "12345678")
	tool(t, env, p11, "--module", lib, "--slot-index", "0", "--init-pin", "--so-pin", "12345678", "--login", "--pin", hsmtest.PIN)
	// The library fails when a template says that a key may not decrypt, and makes
	// keys that may when none does: ours have another maker, and serve no CA.
	tool(t, env, p11, "--module", lib, "--token-label", "tpm", "--login", "--pin", hsmtest.PIN, "--keypairgen", "--key-type", "EC:prime256v1", "--label", "ca", "--id", "01")
	tool(t, env, flush, "-t") // no resource manager does it here
	module = copied(t, lib, "libtpm2_pkcs11.so")
	for _, e := range env {
		name, value, _ := strings.Cut(e, "=")
		if err := pkcs11.SetModuleEnv(module, name, value); err != nil {
			t.Fatal(err)
		}
	}
	return module, "tpm"
}

// The same code opens three families of modules: it makes a key, signs, lists
// and says how the token is.
func TestModules_ThreeKindsThroughTheSameCode(t *testing.T) {
	for _, m := range []struct {
		name string
		make func(t testing.TB) (module, token string)
		ours bool // its keys are made by us
		ca   bool // they are good for a CA in production mode
	}{
		{"SoftHSM", func(t testing.TB) (string, string) { k := hsmtest.SoftHSM(t); return k.Module, k.Label }, true, true},
		{"NSS", nssToken, true, false},
		{"TPM", tpmToken, false, false},
	} {
		t.Run(m.name, func(t *testing.T) {
			module, label := m.make(t)
			uri := func(object string) string {
				return "pkcs11:token=" + label + object + "?module-path=" + module + "&pin-source=file:" + pinFile(t)
			}
			k := open(t, hsm.Config{Sessions: 1, SignTimeout: 10 * time.Second})
			tokens, err := k.Tokens(t.Context(), module)
			if err != nil {
				t.Fatal(err)
			}
			found := false
			for _, i := range tokens {
				found = found || strings.ReplaceAll(i.Label, " ", "%20") == label && i.LoginRequired && len(i.Algorithms) > 0
			}
			if !found {
				t.Errorf("tokens: %+v", tokens)
			}
			if m.ours {
				generate(t, k, uri(";object=ca"), hsm.P256)
			}
			s, err := k.Signer(t.Context(), uri(";object=ca"))
			if err != nil {
				t.Fatal(err)
			}
			for range 5 {
				if err := hsm.TestSign(t.Context(), s); err != nil {
					t.Fatal(err)
				}
			}
			signs(t, s)
			keys, err := k.Keys(t.Context(), uri(""))
			if err != nil {
				t.Fatal(err)
			}
			if len(keys) != 1 || keys[0].Object != "ca" || keys[0].Algorithm != hsm.P256 || len(keys[0].SPKI) == 0 || keys[0].Sensitive != hsm.Yes || keys[0].Extractable != hsm.No {
				t.Errorf("keys: %+v", keys)
			}
			if err := hsm.CheckCAKey(keys[0].Attributes, false); (err == nil) != m.ca {
				t.Errorf("for a CA: %v", err)
			}
			h := k.Health(t.Context())
			if len(h) != 1 || h[0].State != hsm.StateUp || h[0].Keys == 0 || h[0].Latency == 0 {
				t.Errorf("health: %+v", h)
			}
			t.Logf("%s %s, firmware %s: a test signature takes %v; good for a CA: %v", h[0].Token.Manufacturer, h[0].Token.Model, h[0].Token.Firmware, h[0].Latency.Round(10*time.Microsecond), m.ca)
			// Another start finds the key again.
			if err := k.Close(); err != nil {
				t.Fatal(err)
			}
			k = open(t, hsm.Config{Sessions: 1, SignTimeout: 10 * time.Second})
			if s, err = k.Signer(t.Context(), uri(";object=ca")); err != nil {
				t.Fatal(err)
			}
			signs(t, s)
		})
	}
}

// A token with a keypad asks for the PIN there, and none passes through here.
func TestPIN_ProtectedAuthenticationPath(t *testing.T) {
	cc := need(t, "gcc libc6-dev", "cc")
	tok := hsmtest.SoftHSM(t)
	shim := filepath.Join(tok.Dir, "keypad.so")
	tool(t, nil, cc, "-shared", "-fPIC", "-Wall", `-DREAL="`+tok.Module+`"`, `-DPIN="`+hsmtest.PIN+`"`, "-o", shim, "testdata/keypad.c", "-ldl")
	if err := pkcs11.SetModuleEnv(shim, "SOFTHSM2_CONF", tok.Conf); err != nil {
		t.Fatal(err)
	}
	uri := "pkcs11:token=" + tok.Label + ";object=ca?module-path=" + shim
	k := open(t, hsm.Config{})
	signs(t, generate(t, k, uri+"&pin-source=protected:", hsm.P256))
	k.Close()
	k = open(t, hsm.Config{})
	s, err := k.Signer(t.Context(), uri) // no source at all: the token can ask
	if err != nil {
		t.Fatal(err)
	}
	signs(t, s)
	// A token without a keypad is not asked to have one.
	k = open(t, hsm.Config{})
	_, err = k.Signer(t.Context(), tok.URIPin("ca", "protected:"))
	is(t, err, hsm.ErrPINMissing)
}

// Without a terminal a prompt is a clear refusal, and where somebody has a way
// to ask, it is used.
func TestPIN_Prompt(t *testing.T) {
	tok := hsmtest.SoftHSM(t)
	k := open(t, hsm.Config{PIN: hsm.PINFunc(asksOnce(t))})
	signs(t, generate(t, k, tok.URIPin("ca", "prompt:"), hsm.P256))
}

// asksOnce gives the PIN of the test tokens, to who asks the first time.
func asksOnce(t testing.TB) func(context.Context, hsm.TokenID, string) (hsm.Secret, error) {
	asked := 0
	return func(_ context.Context, id hsm.TokenID, reason string) (hsm.Secret, error) {
		if asked++; asked > 1 || id.Label == "" || reason == "" {
			t.Errorf("asked %d times, for %+v, %q", asked, id, reason)
		}
		return hsm.NewSecret([]byte(hsmtest.PIN)), nil
	}
}
