package access_test

import (
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"

	"hallmark/access"
)

// S42: two shares of one key make it; nothing else does, and one alone shows nothing.
func TestS42_Shares(t *testing.T) {
	key, a, b := access.NewBreakGlassKey()
	again, err := access.ParseShare("  " + strings.ToUpper(b.Reveal()[:40]) + "\n" + b.Reveal()[40:] + "\n")
	if err != nil {
		t.Fatal(err)
	}
	private, err := access.CombineShares(again, a)
	if err != nil {
		t.Fatal(err)
	}
	public, err := access.ParseBreakGlassKey(key.String())
	if err != nil || public.ID() != key.ID() || a.KeyID != key.ID() || len(private) != ed25519.PrivateKeySize {
		t.Fatalf("%v %s", err, public.ID())
	}
	_, c, d := access.NewBreakGlassKey()
	for name, shares := range map[string][]access.Share{"one": {a}, "the same twice": {a, a}, "of two keys": {a, d}, "of two keys, the other way": {c, b}, "three": {a, b, c}, "none": nil} {
		if _, err := access.CombineShares(shares...); !errors.Is(err, access.ErrShares) {
			t.Errorf("%s: %v", name, err)
		}
	}
	text := a.Reveal()
	for i := len("hallmark-break-glass-share:"); i < len(text); i++ { // a mistake of the hand, anywhere
		wrong := "0"
		if text[i] == '0' {
			wrong = "1"
		}
		if _, err := access.ParseShare(text[:i] + wrong + text[i+1:]); !errors.Is(err, access.ErrShare) {
			t.Errorf("octet %d: %v", i, err)
		}
	}
	raw, _ := json.Marshal(a)
	secret := strings.Split(text, ":")[3]
	if shown := fmt.Sprintf("%v %+v %#v %s %x %s", a, a, a, a, a, raw); strings.Contains(shown, secret) {
		t.Errorf("it shows: %s", shown)
	}
	for _, bad := range []string{"hallmark-break-glass-key:AAAA", key.String() + "A", "x" + key.String(), strings.TrimPrefix(key.String(), "hallmark-break-glass-key:")} {
		if _, err := access.ParseBreakGlassKey(bad); err == nil {
			t.Errorf("%q is a key", bad)
		}
	}
}

func FuzzParseShare(f *testing.F) {
	_, a, b := access.NewBreakGlassKey()
	f.Add(a.Reveal())
	f.Add(b.Reveal() + "\n")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := access.ParseShare(text)
		if err != nil {
			return
		}
		if again, err := access.ParseShare(s.Reveal()); err != nil || again != s {
			t.Errorf("%q is not read back", text)
		}
	})
}
