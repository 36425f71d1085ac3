//go:build cgo && !nopcsc && linux

package ceremony_test

import (
	"bytes"
	"crypto/x509"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"hallmark/ca/ceremony"
	"hallmark/hsm"
	"hallmark/hsm/hsmtest"
	"hallmark/hsm/hsmtest/vpiv"
)

// The PC/SC library remembers its socket for the life of a process, so there is
// one reader, started by the first test that wants it.
var (
	startReader = sync.OnceValues(func() (*vpiv.Reader, error) {
		r, err := vpiv.StartReader()
		if err == nil {
			os.Setenv("PCSCLITE_CSOCK_NAME", r.Socket)
			os.Setenv("TEST_PIV_PIN", vpiv.PIN)
			reader = r
		}
		return r, err
	})
	reader *vpiv.Reader
	serial uint32 = 7000
)

func TestMain(m *testing.M) {
	code := m.Run()
	if reader != nil {
		reader.Stop()
	}
	os.Exit(code)
}

// card puts a card of its own into the reader.
func card(t testing.TB, major, minor, patch byte) *vpiv.Card {
	t.Helper()
	r, err := startReader()
	if errors.Is(err, vpiv.ErrMissing) {
		hsmtest.Missing(t, err.Error())
	}
	if err != nil {
		t.Fatal(err)
	}
	serial++
	c := vpiv.New(serial, major, minor, patch)
	pull, err := r.Insert(c)
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(900 * time.Millisecond) // the daemon looks every 400 ms
	t.Cleanup(func() {
		pull()
		time.Sleep(900 * time.Millisecond)
	})
	return c
}

// S37, S6: two of three custodians, one of them with a card, make a root in a
// card that attests its key, and a copy of the transcript verifies.
func TestRun_TwoOfThreeOnAVirtualPIVCard_S37_S6(t *testing.T) {
	c := card(t, 5, 7, 4)
	slot := func(s string) string {
		return fmt.Sprintf("piv:serial=%d;slot=%s?pin-source=env:TEST_PIV_PIN", c.Serial, s)
	}
	keys := ring(t)
	k, err := keys.Generate(t.Context(), slot("9a"), hsm.Spec{Algorithm: hsm.P256})
	if err != nil {
		t.Fatal(err)
	}
	s := &stage{t: t, keys: keys, people: append(people(t, keys, "Anna", "Bo"), person{"Cem", slot("9a"), publicText(t, k)}), dir: t.TempDir(), room: &room{}}
	s.csr(hsmtest.SoftHSM(t))
	s.script = []byte(head("acme-2026", 2, s.people...) + "keys:\n  root: {uri: \"" + slot("9c") + "\", generate: P-256, attestation: required}\n" + wholeSteps)
	res := s.must()
	s.opensslAgrees()
	copied := bytes.Clone(s.read(transcriptFile))
	v, err := ceremony.VerifyRun(copied, ceremony.RunTrust{Roots: []*x509.Certificate{parse(t, s.read("acme-root.cer"))}, Makers: []*x509.Certificate{vpiv.Maker()}})
	if err != nil {
		t.Fatal(err)
	}
	found := fmt.Sprint(v.Steps)
	for _, want := range []string{
		fmt.Sprintf("make-root attestation: made in the token %d, firmware 5.7.4; ends in the maker's root", c.Serial), "firmware 5.7.4)", "attestation: Cem: made in the token",
	} {
		if !strings.Contains(found, want) {
			t.Errorf("nothing of %q in %s", want, found)
		}
	}
	// Another maker's root is not this one's.
	_, err = ceremony.VerifyRun(copied, ceremony.RunTrust{Makers: []*x509.Certificate{parse(t, s.read("acme-root.cer"))}})
	refused(t, err, ceremony.ErrTranscript)
	for i := 11; i < len(copied); i += len(copied) / 12 {
		bad := bytes.Clone(copied)
		bad[i] ^= 1 << (i % 8)
		if _, err := ceremony.VerifyRun(bad, ceremony.RunTrust{}); !errors.Is(err, ceremony.ErrTranscript) || !strings.Contains(err.Error(), "Step ") {
			t.Errorf("octet %d: %v", i, err)
		}
	}
	if n := strings.Count(string(res.Data), `"kind":"done"`); n != 3 || c.WrongPINs() != 0 {
		t.Errorf("%d steps, %d wrong PINs", n, c.WrongPINs())
	}
}

// A21, S7: a script in production does not make a root in a card that leaks it.
func TestRun_RefusesALeakingCard_A21_S7(t *testing.T) {
	c := card(t, 5, 4, 3)
	keys := ring(t)
	s := &stage{t: t, keys: keys, people: people(t, keys, "Anna", "Bo", "Cem"), dir: t.TempDir(), room: &room{}}
	s.csr(hsmtest.SoftHSM(t))
	uri := fmt.Sprintf("piv:serial=%d;slot=9c?pin-source=env:TEST_PIV_PIN", c.Serial)
	s.script = []byte(head("acme-2026", 2, s.people...) + "keys:\n  root: {uri: \"" + uri + "\", generate: P-256}\n" + wholeSteps)
	_, err := s.run()
	refused(t, err, hsm.ErrKeyUnsafe)
	if _, err := os.Stat(s.file("acme-root.cer")); err == nil {
		t.Error("a root was made")
	}
}
