package tlog_test

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"testing"
	"time"

	"hallmark/ca/tlog"
	"hallmark/ca/tlog/tlogtest"
)

// A cosignature is for one checkpoint, of one key, and replaced by a newer one.
func TestPolicy_CountsEachWitnessOnce(t *testing.T) {
	store := tlogtest.NewMemory()
	l := tlogtest.NewLog(t, store)
	if err := store.Add(ctx, tlogtest.Leaves(0, 3)...); err != nil {
		t.Fatal(err)
	}
	c, err := l.Integrate(ctx)
	if err != nil {
		t.Fatal(err)
	}
	_, a, _ := ed25519.GenerateKey(nil)
	_, b, _ := ed25519.GenerateKey(nil)
	ka := must(tlog.CosignerKey("w/a", a.Public().(ed25519.PublicKey)))
	kb := must(tlog.CosignerKey("w/b", b.Public().(ed25519.PublicKey)))
	first := must(tlog.Cosign(c, "w/a", a, time.Unix(1_800_000_000, 0)))
	second := must(tlog.Cosign(c, "w/a", a, time.Unix(1_800_000_100, 0)))
	signed := must(tlog.AddCosignature(c.Note, append(first, second...), ka))
	signed = must(tlog.AddCosignature(signed, second, ka))
	p := tlog.Policy{Log: l.VerifierKey(), Witnesses: []string{ka, kb}, Quorum: 1}
	if _, have, err := p.Open(signed); err != nil || len(have) != 1 || have[0].At.Unix() != 1_800_000_100 || bytes.Count(signed, []byte("w/a")) != 1 {
		t.Errorf("%+v %v\n%s", have, err, signed)
	}
	p.Quorum = 2
	if _, _, err := p.Open(signed); !errors.Is(err, tlog.ErrQuorum) {
		t.Errorf("one witness twice is a quorum of two: %v", err)
	}
	if _, err := tlog.AddCosignature(c.Note, first, kb); !errors.Is(err, tlog.ErrCosignature) {
		t.Errorf("another's signature: %v", err)
	}
	if err := store.Add(ctx, tlogtest.Leaves(3, 1)...); err != nil {
		t.Fatal(err)
	}
	next := must(l.Integrate(ctx))
	if _, err := tlog.AddCosignature(next.Note, first, ka); !errors.Is(err, tlog.ErrCosignature) {
		t.Errorf("the signature of another checkpoint: %v", err)
	}
	for _, bad := range []string{"", "x", "x+y", "x+y+z", l.VerifierKey(), ka[:len(ka)-4] + "AAA=", "w w" + ka[3:]} {
		if _, err := tlog.CosignerName(bad); !errors.Is(err, tlog.ErrCosigner) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}

func FuzzPolicy_Open(f *testing.F) {
	_, key, _ := ed25519.GenerateKey(bytes.NewReader(make([]byte, 64)))
	w := must(tlog.CosignerKey("w", key.Public().(ed25519.PublicKey)))
	l := must(tlog.New(tlog.Config{Store: tlogtest.NewMemory(), Origin: "log.example/test", Key: key}))
	c := must(l.Newest(ctx))
	signed := must(tlog.AddCosignature(c.Note, must(tlog.Cosign(c, "w", key, time.Unix(1, 0))), w))
	f.Add(signed)
	f.Add(c.Note)
	f.Add([]byte("log.example/test\n18446744073709551616\n\n\n\u2014 w AAAA\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		p := tlog.Policy{Log: l.VerifierKey(), Witnesses: []string{w}, Quorum: 1}
		if got, have, err := p.Open(b); err == nil && (got.Size != 0 || len(have) != 1) {
			t.Errorf("%+v %+v", got, have)
		}
		tlog.ReadCheckpoint(b)
		tlog.AddCosignature(b, b, w)
	})
}
