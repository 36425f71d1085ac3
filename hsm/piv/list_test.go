package piv_test

import (
	"strings"
	"testing"

	"hallmark/hsm"
	"hallmark/hsm/token"
)

// What hallmark hsm shows of a card, and that a key which its chip would give
// away is refused before it is made (A21, S7).
func TestPIV_ListsCardsAndKeysAndRefusesLeakingFirmware_A21_S7(t *testing.T) {
	c, pull := insert(t, 5, 4, 3)
	k := open(t)
	cards, err := k.Cards(t.Context())
	if err != nil || len(cards) != 1 || cards[0].Firmware != "5.4.3" || cards[0].Serial == "" || cards[0].Reader == "" || cards[0].PINLow || cards[0].PINLocked {
		t.Fatalf("cards: %+v, %v", cards, err)
	}
	u := uri(c, "9c", "env:TEST_PIV_PIN")
	for alg, bad := range map[hsm.Algorithm]bool{hsm.P256: true, hsm.P384: true, hsm.RSA2048: false} {
		firmware, err := k.CheckCard(t.Context(), u, alg)
		if token.Fault(err, hsm.ErrKeyUnsafe) != bad || firmware != "5.4.3" {
			t.Errorf("%s on %s: %v", alg, firmware, err)
		}
	}
	if keys, err := k.Keys(t.Context(), u); err != nil || len(keys) != 0 {
		t.Errorf("keys of an empty card: %+v, %v", keys, err)
	}
	k.Close()
	pull()

	c, _ = insert(t, 5, 7, 4)
	k = open(t)
	u = uri(c, "9c", "env:TEST_PIV_PIN")
	if _, err := k.CheckCard(t.Context(), u, hsm.P384); err != nil {
		t.Error(err)
	}
	made, err := k.Generate(t.Context(), u, hsm.Spec{Algorithm: hsm.P384})
	if err != nil {
		t.Fatal(err)
	}
	if err := hsm.TestSign(t.Context(), made); err != nil {
		t.Error(err)
	}
	keys, err := k.Keys(t.Context(), u)
	if err != nil {
		t.Fatal(err)
	}
	if len(keys) != 1 || keys[0].Algorithm != hsm.P384 || keys[0].Local != hsm.Yes || keys[0].Token.Firmware != "5.7.4" || !strings.HasSuffix(keys[0].URI, "slot=9c") || !keys[0].PINEachTime {
		t.Errorf("keys: %+v", keys)
	}
	if _, err := k.CheckCard(t.Context(), "piv:serial=1;slot=9c", hsm.P256); !token.Fault(err, hsm.ErrTokenDown) {
		t.Errorf("a card that is not there: %v", err)
	}
}
