//go:build cgo && !nopcsc && linux

package station

import (
	"errors"
	"fmt"
	"path/filepath"
	"testing"
	"time"

	"hallmark/hsm"
	"hallmark/hsm/hsmtest"
	"hallmark/hsm/hsmtest/vpiv"
	"hallmark/station/stationtest"
)

// A card whose firmware gives EC keys away gets none, and its station no
// certificate (A21, S7); a newer one does.
func TestEnrol_RefusesACardWhoseKeysLeak_A21_S7(t *testing.T) {
	reader, err := vpiv.StartReader()
	if err != nil {
		hsmtest.Missing(t, err.Error())
	}
	defer reader.Stop()
	t.Setenv("PCSCLITE_CSOCK_NAME", reader.Socket)
	t.Setenv("TEST_PIV_PIN", vpiv.PIN)
	s := stationtest.New(t)
	for _, c := range []struct {
		card  *vpiv.Card
		leaks bool
	}{{vpiv.New(2101, 5, 4, 3), true}, {vpiv.New(2102, 5, 7, 4), false}} {
		pull, err := reader.Insert(c.card)
		if err != nil {
			t.Fatal(err)
		}
		ring := hsm.Open(hsm.Config{})
		// The daemon looks for cards every 400 ms, and who opens one too early never
		// gets it in this process.
		time.Sleep(900 * time.Millisecond)
		cfg := enrolment(s, filepath.Join(t.TempDir(), "st-1"))
		cfg.Keyring, cfg.Key = ring, fmt.Sprintf("piv:serial=%d;slot=9a?pin-source=env:TEST_PIV_PIN", c.card.Serial)
		if _, err = Enrol(background, cfg); c.leaks != errors.Is(err, hsm.ErrKeyUnsafe) || !c.leaks && err != nil {
			t.Errorf("serial %d: %v", c.card.Serial, err)
		}
		ring.Close()
		pull()
		time.Sleep(900 * time.Millisecond)
	}
}
