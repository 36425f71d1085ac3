//go:build cgo && !nopcsc && linux

package piv_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"log/slog"
	"math/big"
	"os"
	"sync"
	"testing"
	"time"

	gopiv "github.com/go-piv/piv-go/v2/piv"

	"hallmark/hsm"
	"hallmark/hsm/hsmtest"
	"hallmark/hsm/hsmtest/vpiv"
	"hallmark/hsm/token"
)

var (
	reader  *vpiv.Reader
	missing error
)

func TestMain(m *testing.M) {
	r, err := vpiv.StartReader()
	switch {
	case errors.Is(err, vpiv.ErrMissing):
		missing = err
		os.Exit(m.Run())
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Setenv("PCSCLITE_CSOCK_NAME", r.Socket)
	os.Setenv("TEST_PIV_PIN", vpiv.PIN)
	os.Setenv("TEST_PIV_WRONG", "654321")
	reader = r
	code := m.Run()
	r.Stop()
	os.Exit(code)
}

var serials uint32 = 1000

// insert gives the test a card of its own; the test's end pulls it.
func insert(t *testing.T, major, minor, patch byte) (*vpiv.Card, func()) {
	t.Helper()
	if missing != nil {
		hsmtest.Missing(t, missing.Error())
	}
	serials++
	c := vpiv.New(serials, major, minor, patch)
	return c, put(t, c)
}

func put(t *testing.T, c *vpiv.Card) func() {
	t.Helper()
	pull, err := reader.Insert(c)
	if err != nil {
		t.Fatal(err)
	}
	settle(t)
	once := sync.OnceFunc(func() {
		pull()
		time.Sleep(900 * time.Millisecond) // the daemon looks every 400 ms
	})
	t.Cleanup(once)
	return once
}

// settle waits until the card is seen by a client. An opening that fails too
// early would keep the card from this process for ever.
func settle(t *testing.T) {
	t.Helper()
	time.Sleep(900 * time.Millisecond)
}

func uri(c *vpiv.Card, slot, source string) string {
	return fmt.Sprintf("piv:serial=%d;slot=%s?pin-source=%s", c.Serial, slot, source)
}

func open(t *testing.T) *hsm.Keyring {
	t.Helper()
	k := hsm.Open(hsm.Config{})
	t.Cleanup(func() { k.Close() })
	return k
}

func signs(t *testing.T, s hsm.Signer) {
	t.Helper()
	digest := sha256.Sum256([]byte("message"))
	sig, err := s.SignContext(t.Context(), digest[:], crypto.SHA256)
	if err != nil {
		t.Fatal(err)
	}
	good := false
	switch p := s.Public().(type) {
	case *ecdsa.PublicKey:
		good = ecdsa.VerifyASN1(p, digest[:], sig)
	case *rsa.PublicKey:
		good = rsa.VerifyPKCS1v15(p, crypto.SHA256, digest[:], sig) == nil
	}
	if !good {
		t.Fatal("the signature does not verify")
	}
}

func TestPIV_GeneratesSignsAndReadsTheCertificate(t *testing.T) {
	c, _ := insert(t, 5, 7, 4)
	k := open(t)
	for slot, alg := range map[string]hsm.Algorithm{"9c": hsm.P256, "9a": hsm.P384, "82": hsm.RSA2048} {
		u := uri(c, slot, "env:TEST_PIV_PIN")
		s, err := k.Generate(t.Context(), u, hsm.Spec{Algorithm: alg})
		if err != nil {
			t.Fatal(err)
		}
		signs(t, s)
		signs(t, s)
		a, err := k.Attributes(t.Context(), u)
		if err != nil {
			t.Fatal(err)
		}
		if a.Algorithm != alg || a.Token.Firmware != "5.7.4" || a.Token.Serial != fmt.Sprint(c.Serial) {
			t.Errorf("attributes: %+v", a)
		}
		if err := hsm.CheckCAKey(a, false); err != nil {
			t.Errorf("%s: %v", slot, err)
		}
		if _, err := k.Generate(t.Context(), u, hsm.Spec{Algorithm: alg}); !token.Fault(err, hsm.ErrKeyExists) {
			t.Errorf("%s: generated over a key: %v", slot, err)
		}
	}
	u := uri(c, "9c", "env:TEST_PIV_PIN")
	if _, err := k.Certificate(t.Context(), u); !token.Fault(err, hsm.ErrNoCertificate) {
		t.Errorf("certificate of an empty object: %v", err)
	}
	s, err := k.Signer(t.Context(), u)
	if err != nil {
		t.Fatal(err)
	}
	cert := selfSigned(t, s)
	k.Close() // the binding opens cards exclusively
	store(t, gopiv.SlotSignature, cert)
	k = open(t)
	got, err := k.Certificate(t.Context(), u)
	if err != nil || !got.Equal(cert) {
		t.Errorf("certificate: %v", err)
	}
	if s, err = k.Signer(t.Context(), u); err != nil {
		t.Fatal(err)
	}
	signs(t, s)
	if h := k.Health(t.Context()); len(h) != 1 || h[0].State != hsm.StateUp || h[0].Keys != 1 {
		t.Errorf("health: %+v", h)
	}
	if _, err := k.Signer(t.Context(), uri(c, "9d", "env:TEST_PIV_PIN")); !token.Fault(err, hsm.ErrKeyNotFound) {
		t.Errorf("empty slot: %v", err)
	}
}

func selfSigned(t *testing.T, s crypto.Signer) *x509.Certificate {
	t.Helper()
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "Card"}, NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour)}
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

func store(t *testing.T, slot gopiv.Slot, cert *x509.Certificate) {
	t.Helper()
	names, err := gopiv.Cards()
	if err != nil || len(names) == 0 {
		t.Fatal(names, err)
	}
	yk, err := gopiv.Open(names[0])
	if err != nil {
		t.Fatal(err)
	}
	defer yk.Close()
	if err := yk.SetCertificate(gopiv.DefaultManagementKey, slot, cert); err != nil {
		t.Fatal(err)
	}
}

func TestPIV_ManyGoroutinesShareACard(t *testing.T) {
	c, _ := insert(t, 5, 7, 4)
	k := open(t)
	a, err := k.Generate(t.Context(), uri(c, "9c", "env:TEST_PIV_PIN"), hsm.Spec{Algorithm: hsm.P256})
	if err != nil {
		t.Fatal(err)
	}
	b, err := k.Generate(t.Context(), uri(c, "9a", "env:TEST_PIV_PIN"), hsm.Spec{Algorithm: hsm.P256})
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			s := a
			if i%2 == 0 {
				s = b
			}
			for range 5 {
				digest := sha256.Sum256([]byte{byte(i)})
				sig, err := s.SignContext(context.Background(), digest[:], crypto.SHA256)
				if err != nil || !ecdsa.VerifyASN1(s.Public().(*ecdsa.PublicKey), digest[:], sig) {
					t.Errorf("goroutine %d: %v", i, err)
					return
				}
			}
		})
	}
	wg.Wait()
}

func TestPIV_CardIsPulledAndPutBack(t *testing.T) {
	c, pull := insert(t, 5, 7, 4)
	k := open(t)
	s, err := k.Generate(t.Context(), uri(c, "9c", "env:TEST_PIV_PIN"), hsm.Spec{Algorithm: hsm.P256})
	if err != nil {
		t.Fatal(err)
	}
	signs(t, s)
	pull()
	digest := sha256.Sum256(nil)
	if _, err := s.SignContext(t.Context(), digest[:], crypto.SHA256); !token.Fault(err, hsm.ErrTokenDown) {
		t.Fatalf("without the card: %v", err)
	}
	if h := k.Health(t.Context()); h[0].State != hsm.StateDown {
		t.Errorf("health: %+v", h)
	}
	// Another card in the same reader is not this card.
	other := vpiv.New(c.Serial+500000, 5, 7, 4)
	pullOther := put(t, other)
	if _, err := s.SignContext(t.Context(), digest[:], crypto.SHA256); !token.Fault(err, hsm.ErrTokenDown) {
		t.Fatalf("with another card: %v", err)
	}
	pullOther()
	put(t, c)
	signs(t, s)
	if err := reader.Restart(); err != nil {
		t.Fatal(err)
	}
	put(t, c)
	signs(t, s)
}

// A23: one wrong PIN per start, and the card keeps its tries.
func TestPIV_WrongPINIsTriedOnce(t *testing.T) {
	c, _ := insert(t, 5, 7, 4)
	k := open(t)
	for range 3 {
		_, err := k.Generate(t.Context(), uri(c, "9c", "env:TEST_PIV_WRONG"), hsm.Spec{Algorithm: hsm.P256})
		if !token.Fault(err, hsm.ErrPINRefused) {
			t.Fatal(err)
		}
	}
	other := open(t)
	k.Close()
	if _, err := other.Generate(t.Context(), uri(c, "9c", "env:TEST_PIV_WRONG"), hsm.Spec{Algorithm: hsm.P256}); !token.Fault(err, hsm.ErrPINRefused) {
		t.Fatal(err)
	}
	if n := c.WrongPINs(); n != 1 {
		t.Errorf("the card saw %d wrong PINs", n)
	}
}

// A21, A22: old firmware and imported keys.
func TestPIV_RefusesOldFirmwareAndImportedKeysForACA(t *testing.T) {
	c, pull := insert(t, 5, 4, 3)
	k := hsm.Open(hsm.Config{Log: slog.New(slog.DiscardHandler)})
	defer k.Close()
	u := uri(c, "9c", "env:TEST_PIV_PIN")
	s, err := k.Generate(t.Context(), u, hsm.Spec{Algorithm: hsm.P256})
	if err != nil {
		t.Fatal(err)
	}
	signs(t, s)
	a, err := k.Attributes(t.Context(), u)
	if err != nil {
		t.Fatal(err)
	}
	if err := hsm.CheckCAKey(a, false); !token.Fault(err, hsm.ErrKeyUnsafe) {
		t.Errorf("EC on firmware 5.4.3: %v", err)
	}
	if err := hsm.CheckFirmware(a, true); err != nil {
		t.Errorf("override: %v", err)
	}
	k.Close()
	pull()

	c, _ = insert(t, 5, 7, 4)
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	c.Import(0x9a, key)
	k = open(t)
	if a, err = k.Attributes(t.Context(), uri(c, "9a", "env:TEST_PIV_PIN")); err != nil {
		t.Fatal(err)
	}
	if err := hsm.CheckCAKey(a, false); !token.Fault(err, hsm.ErrKeyUnsafe) || a.Local != hsm.No {
		t.Errorf("imported key: %v", err)
	}
}
