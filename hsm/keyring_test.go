package hsm_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"hallmark/hsm"
	"hallmark/hsm/hsmtest"
)

func open(t testing.TB, cfg hsm.Config) *hsm.Keyring {
	t.Helper()
	k := hsm.Open(cfg)
	t.Cleanup(func() {
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	})
	return k
}

func generate(t testing.TB, k *hsm.Keyring, uri string, alg hsm.Algorithm) hsm.Signer {
	t.Helper()
	s, err := k.Generate(t.Context(), uri, hsm.Spec{Algorithm: alg})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// signs makes a signature with every form the key has and verifies it.
func signs(t testing.TB, s hsm.Signer) {
	t.Helper()
	for _, h := range []crypto.Hash{crypto.SHA256, crypto.SHA384, crypto.SHA512} {
		m := h.New()
		m.Write([]byte("message"))
		digest := m.Sum(nil)
		switch pub := s.Public().(type) {
		case *ecdsa.PublicKey:
			sig, err := s.Sign(rand.Reader, digest, h)
			if err != nil {
				t.Fatal(err)
			}
			if !ecdsa.VerifyASN1(pub, digest, sig) {
				t.Fatalf("%v: signature does not verify", h)
			}
		case *rsa.PublicKey:
			sig, err := s.Sign(rand.Reader, digest, h)
			if err != nil {
				t.Fatal(err)
			}
			if err := rsa.VerifyPKCS1v15(pub, h, digest, sig); err != nil {
				t.Fatalf("%v: %v", h, err)
			}
			sig, err = s.Sign(rand.Reader, digest, &rsa.PSSOptions{Hash: h, SaltLength: rsa.PSSSaltLengthAuto})
			if err != nil {
				t.Fatal(err)
			}
			if err := rsa.VerifyPSS(pub, h, digest, sig, &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash}); err != nil {
				t.Fatalf("%v: PSS: %v", h, err)
			}
		case ed25519.PublicKey:
			sig, err := s.Sign(rand.Reader, digest, crypto.Hash(0))
			if err != nil {
				t.Fatal(err)
			}
			if !ed25519.Verify(pub, digest, sig) {
				t.Fatal("signature does not verify")
			}
		default:
			t.Fatalf("public key is a %T", pub)
		}
	}
}

func try(s hsm.Signer) error {
	digest := sha256.Sum256([]byte("message"))
	_, err := s.Sign(rand.Reader, digest[:], crypto.SHA256)
	return err
}

// is reports whether err is the fault, and says what it was otherwise.
func is(t testing.TB, err, want error) {
	t.Helper()
	if f, ok := err.(interface{ Is(error) bool }); !ok || !f.Is(want) {
		t.Fatalf("got %v, want %v", err, want)
	}
}

var algorithms = []hsm.Algorithm{hsm.P256, hsm.P384, hsm.Ed25519, hsm.RSA2048, hsm.RSA3072, hsm.RSA4096}

func TestKeyring_GeneratesSignsAndOpensAgainOnSoftHSM(t *testing.T) {
	tok := hsmtest.SoftHSM(t)
	k := open(t, hsm.Config{})
	for _, alg := range algorithms {
		t.Run(string(alg), func(t *testing.T) {
			uri := tok.URI(string(alg))
			made := generate(t, k, uri, alg)
			signs(t, made)
			if !strings.Contains(made.URI(), ";id=%") || strings.Contains(made.URI(), "pin") {
				t.Errorf("URI is %q", made.URI())
			}
			a, err := k.Attributes(t.Context(), uri)
			if err != nil {
				t.Fatal(err)
			}
			if a.Algorithm != alg || a.Modifiable != hsm.No || a.SignRecover != hsm.No || a.Token.Label != "test" || a.Token.Serial == "" {
				t.Errorf("attributes: %+v", a)
			}
			spki, err := x509.MarshalPKIXPublicKey(made.Public())
			if err != nil || !bytes.Equal(spki, a.SPKI) {
				t.Errorf("SPKI differs, %v", err)
			}
			if err := hsm.CheckCAKey(a, false); err != nil {
				t.Errorf("a key we generated is not good for a CA: %v", err)
			}
			// Another keyring has its own sessions and finds the same key.
			other := open(t, hsm.Config{})
			again, err := other.Signer(t.Context(), uri)
			if err != nil {
				t.Fatal(err)
			}
			if !again.Public().(interface{ Equal(crypto.PublicKey) bool }).Equal(made.Public()) {
				t.Error("opened another key")
			}
			signs(t, again)
			_, err = k.Generate(t.Context(), uri, hsm.Spec{Algorithm: alg})
			is(t, err, hsm.ErrKeyExists)
		})
	}
}

func TestKeyring_ReopensByID(t *testing.T) {
	tok := hsmtest.SoftHSM(t)
	k := open(t, hsm.Config{})
	made := generate(t, k, tok.URI("ca"), hsm.P256)
	_, query, _ := strings.Cut(tok.URI("ca"), "?")
	id := made.URI()[strings.Index(made.URI(), "id="):]
	s, err := k.Signer(t.Context(), "pkcs11:token=test;"+id+"?"+query)
	if err != nil {
		t.Fatal(err)
	}
	signs(t, s)
	_, err = k.Signer(t.Context(), tok.URI("nothing"))
	is(t, err, hsm.ErrKeyNotFound)
	_, err = k.Generate(t.Context(), "pkcs11:token=test;object=other;"+id+"?"+query, hsm.Spec{Algorithm: hsm.P256})
	is(t, err, hsm.ErrKeyExists)
}

func TestKeyring_RefusesDigestsThatDoNotFit(t *testing.T) {
	tok := hsmtest.SoftHSM(t)
	k := open(t, hsm.Config{})
	ec := generate(t, k, tok.URI("ec"), hsm.P256)
	ed := generate(t, k, tok.URI("ed"), hsm.Ed25519)
	for _, n := range []int{0, 31, 33, 64} {
		_, err := ec.Sign(nil, make([]byte, n), crypto.SHA256)
		is(t, err, hsm.ErrDigest)
	}
	_, err := ec.Sign(nil, make([]byte, 20), crypto.SHA1)
	is(t, err, hsm.ErrUnsupported)
	_, err = ec.Sign(nil, make([]byte, 32), nil)
	is(t, err, hsm.ErrDigest)
	_, err = ed.Sign(nil, make([]byte, 32), crypto.SHA256)
	is(t, err, hsm.ErrUnsupported)
	signs(t, ec)
}

func TestKeyring_SignsACertificateThatOpenSSLAccepts(t *testing.T) {
	tok := hsmtest.SoftHSM(t)
	k := open(t, hsm.Config{})
	for _, alg := range []hsm.Algorithm{hsm.P256, hsm.P384, hsm.Ed25519, hsm.RSA2048} {
		s := generate(t, k, tok.URI(string(alg)), alg)
		file := filepath.Join(t.TempDir(), "ca.pem")
		writePEM(t, file, "CERTIFICATE", selfSigned(t, s).Raw)
		out, err := exec.Command("openssl", "verify", "-check_ss_sig", "-CAfile", file, file).CombinedOutput()
		if err != nil {
			t.Errorf("%s: %v: %s", alg, err, out)
		}
	}
}

func selfSigned(t testing.TB, s crypto.Signer) *x509.Certificate {
	t.Helper()
	tmpl := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Test"},
		NotBefore: time.Now().Add(-time.Minute), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, s.Public(), s)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// A23: 32 goroutines on a small pool.
func TestKeyring_SharesAPoolBetween32Goroutines(t *testing.T) {
	tok := hsmtest.SoftHSM(t)
	k := open(t, hsm.Config{Sessions: 3})
	keys := []hsm.Signer{generate(t, k, tok.URI("a"), hsm.P256), generate(t, k, tok.URI("b"), hsm.P384), generate(t, k, tok.URI("c"), hsm.RSA2048)}
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() {
			s := keys[i%len(keys)]
			for range 25 {
				digest := sha256.Sum256([]byte{byte(i)})
				sig, err := s.SignContext(context.Background(), digest[:], crypto.SHA256)
				if err != nil {
					t.Error(err)
					return
				}
				switch pub := s.Public().(type) {
				case *ecdsa.PublicKey:
					if !ecdsa.VerifyASN1(pub, digest[:], sig) {
						t.Error("a signature is not for this request")
					}
				case *rsa.PublicKey:
					if rsa.VerifyPKCS1v15(pub, crypto.SHA256, digest[:], sig) != nil {
						t.Error("a signature is not for this request")
					}
				}
			}
		})
	}
	wg.Wait()
}

func TestKeyring_ProductionRefusesFilesAndPINsInURIs(t *testing.T) {
	k := open(t, hsm.Config{Production: true, Module: "/nowhere.so"})
	_, err := k.Signer(t.Context(), "file:/etc/key.pem?passphrase-source=env:X")
	is(t, err, hsm.ErrKeyUnsafe)
	_, err = k.Signer(t.Context(), "pkcs11:token=t;object=o?pin-value=1234")
	is(t, err, hsm.ErrURIInvalid)
	if strings.Contains(err.Error(), "1234") {
		t.Error("the error shows the PIN")
	}
	_, err = k.Signer(t.Context(), "pkcs11:token=t?pin-source=env:X")
	is(t, err, hsm.ErrURIInvalid)
	_, err = k.Signer(t.Context(), "pkcs11:token=t;object=o?pin-source=env:X")
	is(t, err, hsm.ErrModule)
}

func TestKeyring_ClosedKeyringFails(t *testing.T) {
	tok := hsmtest.SoftHSM(t)
	k := hsm.Open(hsm.Config{})
	s := generate(t, k, tok.URI("a"), hsm.P256)
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	is(t, try(s), hsm.ErrClosed)
	_, err := k.Signer(t.Context(), tok.URI("a"))
	is(t, err, hsm.ErrClosed)
}
