package bootstrap

import (
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"strings"
	"testing"
	"time"

	"hallmark/internal/fault"
)

// A nonce that the service did not make, for this certificate and time, is none.
func FuzzNonce(f *testing.F) {
	n := nonces{key: make([]byte, 32)} // of this process: seeds of another one are strangers' nonces
	rand.Read(n.key)
	now := time.UnixMilli(1_800_000_000_000)
	good, _ := n.make([]byte("certificate"), now)
	if !n.check(good, []byte("certificate"), now) {
		f.Fatal("a good nonce is refused")
	}
	f.Add(good, "certificate", int64(0))
	f.Add(good, "other", int64(0))
	f.Add(good+"A", "certificate", int64(0))
	f.Add(strings.ToLower(good), "certificate", int64(700))
	f.Add("", "", int64(-1))
	f.Fuzz(func(t *testing.T, nonce, certificate string, seconds int64) {
		at := now.Add(time.Duration(seconds%100_000) * time.Second)
		want := nonce == good && certificate == "certificate" && seconds%100_000 >= 0 && seconds%100_000 < 600
		if got := n.check(nonce, []byte(certificate), at); got != want {
			t.Errorf("nonce %q of %q at %d: %t", nonce, certificate, seconds, got)
		}
	})
}

// S41: what is remembered of refused certificates is bounded.
func TestS41_TheMemoryOfRefusalsIsBounded(t *testing.T) {
	r := refusals{m: map[[32]byte]refusal{}}
	now := time.Now()
	key := func(i int) [32]byte { return sha256.Sum256(fmt.Append(nil, i)) }
	for i := range 3 * maxRefusals {
		r.add(key(i), now, ErrUnknown.New(""))
		if r.size() > maxRefusals {
			t.Fatalf("%d refusals are kept", r.size())
		}
	}
	last := key(3*maxRefusals - 1)
	if err := r.find(last, now); fault.From(err).Definition != ErrUnknown {
		t.Errorf("%v", err)
	}
	if err := r.find(last, now.Add(refuseFor)); err != nil {
		t.Errorf("a refusal lasts too long: %v", err)
	}
}
