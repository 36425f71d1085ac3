package broker

import (
	"fmt"
	"testing"
	"time"
)

// S41: who has no connection is held to the same rates.
func TestS41_PacerHoldsEachDeviceToTheRatesOfAConnection(t *testing.T) {
	now := time.Unix(1_800_000_000, 0)
	p := (&Broker{lim: Limits{PublishRate: 10, PublishBytes: 1000}}).NewPacer()
	p.now = func() time.Time { return now }
	for i := range 10 {
		if d := p.Take("a", 10); d != 0 {
			t.Fatalf("request %d waits %v", i, d)
		}
	}
	for range 3 {
		if d := p.Take("a", 10); d <= 0 || d > 150*time.Millisecond {
			t.Errorf("the eleventh waits %v", d)
		}
	}
	if d := p.Take("b", 10); d != 0 {
		t.Errorf("another device waits %v", d)
	}
	now = now.Add(100 * time.Millisecond)
	if d := p.Take("a", 10); d != 0 {
		t.Errorf("after a tenth of a second: %v", d)
	}
	if d := p.Take("a", 10); d == 0 {
		t.Error("two requests in a tenth of a second")
	}
	// A large payload is taken, and paid for afterwards.
	if d := p.Take("c", 3000); d != 0 {
		t.Errorf("a large payload waits %v", d)
	}
	if d := p.Take("c", 1); d < 1900*time.Millisecond || d > 2100*time.Millisecond {
		t.Errorf("after it: %v", d)
	}
	now = now.Add(2 * time.Second)
	if d := p.Take("c", 1); d != 0 {
		t.Errorf("two seconds later: %v", d)
	}
	now = now.Add(-time.Hour) // a clock that goes back gives nothing and locks nobody out
	if d := p.Take("c", 1); d < 0 || d > time.Second {
		t.Errorf("with an older clock: %v", d)
	}
	for i := range maxPaced + 10 {
		p.Take(fmt.Sprint(i), 1)
	}
	if len(p.m) > maxPaced {
		t.Errorf("%d devices remembered", len(p.m))
	}
	free := (&Broker{lim: Limits{PublishRate: -1, PublishBytes: -1}}).NewPacer()
	for range 1000 {
		if d := free.Take("a", 1<<20); d != 0 {
			t.Fatalf("without limits: %v", d)
		}
	}
}
