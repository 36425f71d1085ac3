package uplink

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

func keys(t *testing.T) map[string]crypto.Signer {
	t.Helper()
	p256, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	p384, _ := ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	r, err := rsa.GenerateKey(rand.Reader, 2048)
	if err != nil {
		t.Fatal(err)
	}
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	return map[string]crypto.Signer{"P-256": p256, "P-384": p384, "RSA-2048": r, "Ed25519": ed}
}

func TestCommitMessage_HasTheOctetsOfTheManual(t *testing.T) { // S12
	sum := sha256.Sum256([]byte("der"))
	want := append([]byte("hallmark commit v1\x00no\x00nce\x00SN-1\x00"), sum[:]...)
	if got := CommitMessage([]byte("no\x00nce"), "SN-1", []byte("der")); !bytes.Equal(got, want) {
		t.Errorf("got %q", got)
	}
}

func TestVerifyCommit_TakesTheDevicesSignatureAndNoOther(t *testing.T) { // S12
	msg := CommitMessage([]byte("nonce"), "SN-1", []byte("der"))
	all := keys(t)
	for name, key := range all {
		t.Run(name, func(t *testing.T) {
			sig, err := SignCommit(key, msg)
			if err != nil {
				t.Fatal(err)
			}
			if err := VerifyCommit(key.Public(), msg, sig); err != nil {
				t.Fatal(err)
			}
			bad := bytes.Clone(sig)
			bad[len(bad)-1] ^= 1
			for what, err := range map[string]error{
				"another signature": VerifyCommit(key.Public(), msg, bad),
				"no signature":      VerifyCommit(key.Public(), msg, nil),
				"another unit":      VerifyCommit(key.Public(), CommitMessage([]byte("nonce"), "SN-2", []byte("der")), sig),
				"another nonce":     VerifyCommit(key.Public(), CommitMessage([]byte("nonc"), "SN-1", []byte("der")), sig),
				"another cert":      VerifyCommit(key.Public(), CommitMessage([]byte("nonce"), "SN-1", []byte("dir")), sig),
			} {
				if !errors.Is(err, ErrProof) {
					t.Errorf("%s: %v", what, err)
				}
			}
			for other, k := range all {
				if other != name && VerifyCommit(k.Public(), msg, sig) == nil {
					t.Errorf("the key %s verifies it", other)
				}
			}
		})
	}
	if err := VerifyCommit("no key", msg, []byte{1}); !errors.Is(err, ErrProofKey) {
		t.Errorf("got %v", err)
	}
}

// What a device's firmware does is what the openssl command does.
func TestVerifyCommit_TakesOpenSSLsSignature(t *testing.T) {
	if _, err := exec.LookPath("openssl"); err != nil {
		t.Skip("openssl is not installed: apt-get install openssl")
	}
	msg := CommitMessage([]byte("nonce"), "SN-1", []byte("der"))
	for name, key := range keys(t) {
		dir := t.TempDir()
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		file := func(n string, b []byte) string {
			p := filepath.Join(dir, n)
			if err := os.WriteFile(p, b, 0o600); err != nil {
				t.Fatal(err)
			}
			return p
		}
		k, m := file("key.pem", pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})), file("msg", msg)
		args := []string{"pkeyutl", "-sign", "-inkey", k, "-rawin", "-in", m}
		switch name {
		case "P-384":
			args = append(args, "-digest", "sha384")
		case "P-256", "RSA-2048":
			args = append(args, "-digest", "sha256")
		}
		sig, err := exec.Command("openssl", args...).Output()
		if err != nil {
			t.Fatalf("%s: openssl: %v", name, err)
		}
		if err := VerifyCommit(key.Public(), msg, sig); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
}
