package software

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"hallmark/hsm/token"
	"hallmark/internal/fault"
)

func setup(t *testing.T) (*Store, func(string) token.URI, *bytes.Buffer) {
	t.Helper()
	log := &bytes.Buffer{}
	dir := t.TempDir()
	pass := filepath.Join(dir, "pass")
	if err := os.WriteFile(pass, []byte("correct horse\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := New(token.Config{Log: slog.New(slog.NewTextHandler(log, nil))})
	return s, func(name string) token.URI {
		u, err := token.ParseURI("file:" + filepath.Join(dir, name) + "?passphrase-source=file:" + pass)
		if err != nil {
			t.Fatal(err)
		}
		return u
	}, log
}

func wants(t *testing.T, err error, d *fault.Definition) {
	t.Helper()
	if !token.Fault(err, d) {
		t.Fatalf("got %v, want %v", err, d)
	}
}

func TestStore_GeneratesWhatOpenSSLReads(t *testing.T) {
	s, uri, log := setup(t)
	for _, alg := range []token.Algorithm{token.P256, token.RSA2048, token.Ed25519} {
		u := uri(string(alg))
		k, err := s.Generate(context.Background(), u, token.Spec{Algorithm: alg})
		if err != nil {
			t.Fatal(err)
		}
		st, err := os.Stat(u.Path)
		if err != nil || st.Mode().Perm() != 0o600 {
			t.Errorf("mode %v, %v", st.Mode(), err)
		}
		out, err := exec.Command("openssl", "pkey", "-in", u.Path, "-passin", "pass:correct horse", "-pubout").Output()
		if err != nil {
			t.Fatalf("%s: openssl: %v", alg, err)
		}
		block, _ := pem.Decode(out)
		want, _ := x509.MarshalPKIXPublicKey(k.Public())
		if block == nil || !bytes.Equal(block.Bytes, want) {
			t.Errorf("%s: openssl reads another key", alg)
		}
		again, err := New(s.cfg).Signer(context.Background(), u)
		if err != nil {
			t.Fatal(err)
		}
		if !again.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(k.Public()) {
			t.Errorf("%s: read another key", alg)
		}
		_, err = s.Generate(context.Background(), u, token.Spec{Algorithm: alg})
		wants(t, err, token.ErrKeyExists)
	}
	if strings.Count(log.String(), "level=WARN") < 6 || strings.Contains(log.String(), "horse") {
		t.Errorf("log: %s", log)
	}
	entries, _ := os.ReadDir(filepath.Dir(uri("x").Path))
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			t.Errorf("left behind: %s", e.Name())
		}
	}
}

func TestStore_ReadsWhatOpenSSLWrites(t *testing.T) {
	s, uri, _ := setup(t)
	for name, args := range map[string][]string{
		"default": {"-v2", "aes-256-cbc"},
		"aes128":  {"-v2", "aes-128-cbc", "-v2prf", "hmacWithSHA512"},
		"scrypt":  {"-scrypt"},
	} {
		u := uri(name)
		plain := u.Path + ".plain"
		run(t, "openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-out", plain)
		run(t, "openssl", append([]string{"pkcs8", "-topk8", "-in", plain, "-out", u.Path, "-passout", "pass:correct horse"}, args...)...)
		if err := os.Chmod(u.Path, 0o600); err != nil {
			t.Fatal(err)
		}
		k, err := s.Signer(context.Background(), u)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		digest := sha256.Sum256(nil)
		sig, err := k.SignContext(context.Background(), digest[:], crypto.SHA256)
		if err != nil || !ecdsa.VerifyASN1(k.Public().(*ecdsa.PublicKey), digest[:], sig) {
			t.Errorf("%s: %v", name, err)
		}
		_, err = k.Sign(nil, digest[:31], crypto.SHA256)
		wants(t, err, token.ErrDigest)
	}
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v: %s", name, err, out)
	}
}

func TestStore_RefusesWrongPassphraseModeAndContent(t *testing.T) {
	s, uri, _ := setup(t)
	u := uri("key.pem")
	if _, err := s.Generate(context.Background(), u, token.Spec{Algorithm: token.P256}); err != nil {
		t.Fatal(err)
	}
	fresh := func(u token.URI) error {
		_, err := New(s.cfg).Signer(context.Background(), u)
		return err
	}
	t.Setenv("PASS", "wrong")
	wrong := u
	wrong.PINSource = "env:PASS"
	wants(t, fresh(wrong), token.ErrPassphraseRefused)
	wrong.PINSource = "env:NOT_SET_ANYWHERE"
	wants(t, fresh(wrong), token.ErrPINMissing)
	wrong.PINSource = ""
	wants(t, fresh(wrong), token.ErrPINMissing)
	wants(t, fresh(uri("absent")), token.ErrKeyNotFound)

	if err := os.Chmod(u.Path, 0o644); err != nil {
		t.Fatal(err)
	}
	wants(t, fresh(u), token.ErrFile)

	plain := uri("plain")
	run(t, "openssl", "genpkey", "-algorithm", "ED25519", "-out", plain.Path)
	if err := os.Chmod(plain.Path, 0o600); err != nil {
		t.Fatal(err)
	}
	wants(t, fresh(plain), token.ErrFile)
	// Without a source of a passphrase it is the file that is wrong all the same, and
	// what is said about it works.
	plain.PINSource = ""
	err := fresh(plain)
	wants(t, err, token.ErrFile)
	_, command, found := strings.Cut(err.Error(), "openssl ")
	command, _, ends := strings.Cut(command, ";")
	if !found || !ends {
		t.Fatalf("it does not say how: %v", err)
	}
	sealed := uri("sealed")
	run(t, "openssl", append(strings.Fields(strings.NewReplacer("KEY.pem", plain.Path, "ENCRYPTED.pem", sealed.Path).Replace(command)), "-passout", "pass:some words")...)
	if err := os.Chmod(sealed.Path, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PASS", "some words")
	sealed.PINSource = "env:PASS"
	if err := fresh(sealed); err != nil {
		t.Error(err)
	}
}

func FuzzDecrypt(f *testing.F) {
	key, err := GenerateKey(token.Ed25519)
	if err != nil {
		f.Fatal(err)
	}
	pass := token.NewSecret([]byte("x"))
	good, err := Encrypt(key, pass)
	if err != nil {
		f.Fatal(err)
	}
	block, _ := pem.Decode(good)
	f.Add(block.Bytes)
	f.Add([]byte{0x30, 0})
	f.Fuzz(func(t *testing.T, der []byte) {
		k, err := Decrypt(pem.EncodeToMemory(&pem.Block{Type: pemType, Bytes: der}), pass)
		if (k == nil) == (err == nil) {
			t.Fatal("neither key nor error, or both")
		}
	})
}
