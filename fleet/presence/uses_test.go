package presence

import (
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"
)

// TestUsed_IsWrittenOnceAMinuteAndInBatches: a fleet that speaks over HTTPS costs few
// transactions, a failure of the store loses nothing, and who is not let in is not noted.
func TestUsed_IsWrittenOnceAMinuteAndInBatches(t *testing.T) {
	store := &shelf{put: map[string]State{}, fail: errors.New("away")}
	now := time.UnixMilli(1_800_000_000_000)
	s := New(Config{Store: store, Publisher: &heard{}, Now: func() time.Time { return now }})
	main := func() string { return "main" }
	var wg sync.WaitGroup
	for g := range 4 { // each certificate by several connections
		wg.Go(func() {
			for i := range 300 {
				s.Used(fmt.Sprint("c", (i+g)%300), main)
			}
		})
	}
	wg.Wait()
	s.Used("refused", func() string { return "" })
	if err := s.Flush(t.Context()); err == nil {
		t.Fatal("the store's failure is hidden")
	}
	store.fail = nil
	written := func() (rows, transactions int) {
		t.Helper()
		store.uses = nil
		if err := s.Flush(t.Context()); err != nil {
			t.Fatal(err)
		}
		for _, u := range store.uses {
			rows += len(u)
		}
		return rows, len(store.uses)
	}
	if rows, n := written(); rows != 300 || n != 2 {
		t.Errorf("%d uses in %d transactions", rows, n)
	}
	asked := false
	for range 59 {
		now = now.Add(time.Second)
		s.Used("c1", func() string { asked = true; return "main" })
	}
	if rows, _ := written(); rows != 0 || asked {
		t.Errorf("%d uses within the minute, asked %v", rows, asked)
	}
	now = now.Add(time.Second)
	s.Used("c1", main)
	if rows, _ := written(); rows != 1 || !store.uses[0][0].At.Equal(now) {
		t.Errorf("after a minute: %v", store.uses)
	}
	now = now.Add(-time.Hour) // a clock that was put back does not silence a device
	s.Used("c1", main)
	if rows, _ := written(); rows != 1 {
		t.Errorf("%d uses after the clock was put back", rows)
	}
	if n := len(s.uses.young) + len(s.uses.old); n > 302 {
		t.Errorf("%d certificates are remembered", n)
	}
}
