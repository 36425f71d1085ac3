package hsmtest

import (
	"io"
	"net/url"
	"os"
	"path/filepath"
	"testing"

	"hallmark/hsm/pkcs11"
	"hallmark/hsm/softhsm"
)

// PIN is the PIN of every test token.
const PIN = "123456"

// Token is a SoftHSM token of one test.
type Token struct {
	Dir     string // configuration, tokens, module and PIN file
	Label   string
	Module  string // path of the module's own copy
	Conf    string // value of SOFTHSM2_CONF
	PINFile string // mode 0600, holds [PIN]

	t testing.TB
}

// SoftHSM makes a token labelled "test" for t.
func SoftHSM(t testing.TB) Token { return SoftHSMLabel(t, "test") }

// SoftHSMLabel makes a token with the given label for t.
func SoftHSMLabel(t testing.TB, label string) Token {
	t.Helper()
	if err := softhsm.Available(); err != nil {
		Missing(t, err.Error())
	}
	dir := t.TempDir()
	conf, err := softhsm.Create(dir, label, PIN)
	if err != nil {
		t.Fatal(err)
	}
	installed, err := softhsm.Module()
	if err != nil {
		t.Fatal(err)
	}
	// A module's state belongs to its file: a copy is an HSM of its own.
	module := filepath.Join(dir, "libsofthsm2.so")
	copyFile(t, installed, module)
	if err := pkcs11.SetModuleEnv(module, "SOFTHSM2_CONF", conf); err != nil {
		t.Fatal(err)
	}
	pinFile := filepath.Join(dir, "pin")
	if err := os.WriteFile(pinFile, []byte(PIN+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return Token{Dir: dir, Label: label, Module: module, Conf: conf, PINFile: pinFile, t: t}
}

// URI names a key of the token, with module and PIN source.
func (k Token) URI(object string) string {
	return k.URIPin(object, "file:"+k.PINFile)
}

// URIPin is URI with another source of the PIN.
func (k Token) URIPin(object, source string) string {
	return "pkcs11:token=" + url.PathEscape(k.Label) + ";object=" + url.PathEscape(object) +
		"?module-path=" + k.Module + "&pin-source=" + source
}

// Env is what a child process needs in its environment to see the token.
func (k Token) Env() []string { return []string{"SOFTHSM2_CONF=" + k.Conf} }

// Vanish takes the token away, as if its cable was pulled.
func (k Token) Vanish() {
	k.t.Helper()
	if err := os.Rename(filepath.Join(k.Dir, "tokens"), filepath.Join(k.Dir, "away")); err != nil {
		k.t.Fatal(err)
	}
}

// Return brings the token back.
func (k Token) Return() {
	k.t.Helper()
	if err := os.Rename(filepath.Join(k.Dir, "away"), filepath.Join(k.Dir, "tokens")); err != nil {
		k.t.Fatal(err)
	}
}

// Missing skips t, or fails it where nothing may be missing.
func Missing(t testing.TB, why string) {
	t.Helper()
	if os.Getenv("CI") == "true" || os.Getenv("HALLMARK_CI") == "1" {
		t.Fatal(why)
	}
	t.Skip(why)
}

func copyFile(t testing.TB, from, to string) {
	t.Helper()
	in, err := os.Open(from)
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o755)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(out, in); err != nil {
		t.Fatal(err)
	}
	if err := out.Close(); err != nil {
		t.Fatal(err)
	}
}
