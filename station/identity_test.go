package station

import (
	"context"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hallmark/hsm"
	"hallmark/hsm/hsmtest"
	"hallmark/internal/fault"
	"hallmark/station/stationtest"
	"hallmark/station/uplink"
)

func need(t *testing.T, program string) string {
	t.Helper()
	path, err := exec.LookPath(program)
	if err != nil {
		hsmtest.Missing(t, program+" is not installed")
	}
	return path
}

func pemKey(der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func enrolment(s *stationtest.Service, dir string) EnrolConfig {
	return EnrolConfig{Dir: dir, Server: stationtest.URL(s.Enrolment), Code: s.Code(), Station: "st-1", Patience: -1}
}

var background = context.Background()

func TestEnrol_MakesAStationThatCanRenew(t *testing.T) { // S14
	s, dir := stationtest.New(t), filepath.Join(t.TempDir(), "st-1")
	cfg := enrolment(s, dir)
	if _, err := Enrol(background, cfg); err != nil {
		t.Fatal(err)
	}
	if _, err := Enrol(background, cfg); !errors.Is(err, ErrEnrolled) {
		t.Errorf("enrolled twice: %v", err)
	}
	i, err := Load(dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	if i.Site != "site-1" || !i.Exportable || i.Server != stationtest.URL(s.Factory) {
		t.Errorf("%+v", i)
	}
	c, err := i.Client(background, uplink.Config{})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Order(background, "O-1"); err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{i.Certificate().SerialNumber.String(): true}
	for n := range 3 {
		if err := i.Renew(background, c, "", nil); err != nil {
			t.Fatal(err)
		}
		again, err := Load(dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		serial := again.Certificate().SerialNumber.String()
		if seen[serial] || again.Slot != slots[(n+1)%2] {
			t.Errorf("renewal %d: serial number %s in slot %s", n+1, serial, again.Slot)
		}
		seen[serial] = true
		if _, err := c.Order(background, "O-1"); err != nil {
			t.Errorf("with the new certificate: %v", err)
		}
	}
	due := i.RenewalDue().Sub(i.Certificate().NotBefore)
	if due < 59*24*time.Hour || due > 61*24*time.Hour {
		t.Errorf("it is renewed after %s of 90 days", due)
	}
}

func TestEnrol_InterruptedItGoesOnWithItsKey(t *testing.T) { // S14
	s, dir := stationtest.New(t), t.TempDir()
	s.After = func(op string, n int) bool { return n == 1 } // redeemed, and the answer is lost
	cfg := enrolment(s, dir)
	if _, err := Enrol(background, cfg); !errors.Is(err, uplink.ErrUnreached) {
		t.Fatalf("got %v", err)
	}
	if _, err := Load(dir, nil); !errors.Is(err, ErrNotEnrolled) {
		t.Errorf("half enrolled: %v", err)
	}
	if _, err := Enrol(background, cfg); err != nil {
		t.Fatalf("repeated: %v", err)
	}
}

func TestRenew_InterruptedItKeepsTheOldAndGoesOnWithTheNewKey(t *testing.T) {
	s, dir := stationtest.New(t), t.TempDir()
	i, err := Enrol(background, enrolment(s, dir))
	if err != nil {
		t.Fatal(err)
	}
	s.After = func(op string, n int) bool { return op == "renew" && n == 1 }
	c, err := i.Client(background, uplink.Config{Patience: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := i.Renew(background, c, "", nil); err == nil {
		t.Fatal("no error")
	}
	key, err := os.ReadFile(filepath.Join(dir, "station-b.key"))
	if err != nil {
		t.Fatal(err)
	}
	i, err = Load(dir, nil) // started again
	if err != nil || i.Slot != "a" {
		t.Fatalf("%+v, %v", i, err)
	}
	if err := i.Renew(background, c, "", nil); err != nil {
		t.Fatal(err)
	}
	if now, _ := os.ReadFile(filepath.Join(dir, "station-b.key")); string(now) != string(key) || i.Slot != "b" {
		t.Error("the repeated renewal made another key")
	}
}

func TestEnrol_KeyInAToken(t *testing.T) {
	token := hsmtest.SoftHSM(t)
	ring := hsm.Open(hsm.Config{})
	t.Cleanup(func() { ring.Close() })
	s, dir := stationtest.New(t), t.TempDir()
	cfg := enrolment(s, dir)
	cfg.Key, cfg.Keyring = token.URI("station"), ring
	if _, err := Enrol(background, cfg); err != nil {
		t.Fatal(err)
	}
	i, err := Load(dir, ring)
	if err != nil {
		t.Fatal(err)
	}
	if i.Exportable {
		t.Error("a key in a token is marked exportable")
	}
	c, err := i.Client(background, uplink.Config{Patience: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Order(background, "O-1"); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		before := i.Key()
		if err := i.Renew(background, c, "", nil); err != nil {
			t.Fatal(err)
		}
		if i.Key() == before || len(i.Key()) > len(token.URI("station"))+14 {
			t.Errorf("the next key is %s", i.Key())
		}
		if _, err := c.Order(background, "O-1"); err != nil {
			t.Fatal(err)
		}
	}
}

func TestLoad_RefusesWhatDoesNotBelongTogether(t *testing.T) {
	s, dir := stationtest.New(t), t.TempDir()
	i, err := Enrol(background, enrolment(s, dir))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Load(t.TempDir(), nil); !errors.Is(err, ErrNotEnrolled) {
		t.Errorf("an empty directory: %v", err)
	}
	late := func() time.Time { return time.Now().AddDate(1, 0, 0) }
	if _, err := i.Client(background, uplink.Config{Now: late}); !errors.Is(err, ErrExpired) {
		t.Errorf("expired: %v", err)
	}
	key := filepath.Join(dir, "station-a.key")
	if err := os.Chmod(key, 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := i.TLS(background); !errors.Is(err, ErrIdentity) || !strings.Contains(fault.From(err).Detail, "0600") {
		t.Errorf("a key that others can read: %v", err)
	}
	other := t.TempDir()
	if _, err := Enrol(background, enrolment(s, other)); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(other, "station-a.key"))
	if err != nil {
		t.Fatal(err)
	}
	os.Remove(key)
	if err := os.WriteFile(key, b, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := i.TLS(background); !errors.Is(err, ErrIdentity) {
		t.Errorf("another station's key: %v", err)
	}
}

func TestNextURI_NamesTheKeyAfterThisOne(t *testing.T) {
	now := time.Date(2031, 2, 3, 0, 0, 0, 0, time.UTC)
	got, err := nextURI("pkcs11:token=t;id=%01;object=st?pin-source=file:/p", now)
	if err != nil || !strings.HasPrefix(got, "pkcs11:token=t;object=st-20310203-") || !strings.HasSuffix(got, "?pin-source=file:/p") {
		t.Errorf("%s %v", got, err)
	}
	again, err := nextURI(got, now.AddDate(0, 2, 0))
	if err != nil || len(again) != len(got) || !strings.Contains(again, "st-20310403-") {
		t.Errorf("%s %v", again, err)
	}
	if got, err := nextURI("file:/k/st.pem?passphrase-source=env:P", now); err != nil || !strings.HasPrefix(got, "file:/k/st-20310203-") || !strings.Contains(got, ".pem?") {
		t.Errorf("%s %v", got, err)
	}
	for _, uri := range []string{"pkcs11:token=t;id=%01", "piv:serial=1;slot=9c"} {
		if _, err := nextURI(uri, now); !errors.Is(err, ErrKeyNext) {
			t.Errorf("%s: %v", uri, err)
		}
	}
}
