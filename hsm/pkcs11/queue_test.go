//go:build cgo

package pkcs11

import (
	"sync"
	"testing"
	"testing/synctest"

	"hallmark/hsm/token"
	"hallmark/internal/lane"
)

func put(t *testing.T, q *queue, l lane.Lane) *request {
	t.Helper()
	r := &request{lane: l, done: make(chan struct{}, 1)}
	if err := q.push(r); err != nil {
		t.Fatal(err)
	}
	return r
}

// S41: the line first, then renewals, claims, status.
func TestQueue_ServesLanesInOrder(t *testing.T) {
	q := newQueue(1)
	var want [lane.Count][]*request
	for _, l := range []lane.Lane{lane.Status, lane.Claim, lane.Line, lane.Renewal, lane.Status, lane.Line, lane.Claim, lane.Renewal} {
		want[l] = append(want[l], put(t, q, l))
	}
	var r *request
	for l := range want {
		for i, w := range want[l] {
			if r = q.next(r, false); r != w {
				t.Fatalf("lane %d, place %d: got lane %d", l, i, r.lane)
			}
		}
	}
}

// A line under full load must not keep a CRL from being signed for ever.
func TestQueue_LowestLaneIsNotStarved(t *testing.T) {
	q := newQueue(1)
	put(t, q, lane.Status)
	var r *request
	for i := 1; i <= lowEvery; i++ {
		put(t, q, lane.Line)
		if r = q.next(r, false); r.lane == lane.Status {
			if i != lowEvery {
				t.Fatalf("status went before the line at pick %d", i)
			}
			return
		}
	}
	t.Fatal("status never came")
}

// S41: while other lanes hold every regular worker, the reserved one serves the
// line, and only then.
func TestQueue_ReservedWorkerServesTheLineOnly(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		q := newQueue(2)
		var mu sync.Mutex
		var got []*request
		go func() {
			var r *request
			for {
				if r = q.next(r, true); r == nil {
					return
				}
				mu.Lock()
				got = append(got, r)
				mu.Unlock()
			}
		}()
		expect := func(n int, when string) {
			t.Helper()
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if len(got) != n {
				t.Fatalf("%s: the reserved worker served %d, want %d", when, len(got), n)
			}
		}
		put(t, q, lane.Line)
		expect(0, "regular workers are free")
		one := q.next(nil, false) // on the line
		put(t, q, lane.Claim)
		two := q.next(nil, false) // on a claim: all are busy now
		put(t, q, lane.Renewal)
		expect(0, "only a renewal waits")
		urgent := put(t, q, lane.Line)
		expect(1, "the line waits behind a claim")
		if got[0] != urgent {
			t.Fatal("served something else")
		}
		put(t, q, lane.Line)
		expect(2, "the line waits again")
		two = q.next(two, false) // the renewal
		if two.lane != lane.Renewal {
			t.Fatal(two.lane)
		}
		put(t, q, lane.Line)
		expect(3, "the line waits behind a renewal")
		put(t, q, lane.Line)
		expect(4, "and again")
		_ = one
		q.close(token.ErrClosed.New(""))
	})
}

func TestQueue_SkipsWhoLeftAndFailsWhoWaits(t *testing.T) {
	q := newQueue(1)
	left := put(t, q, lane.Line)
	left.settle(nil, errNoToken)
	stays := put(t, q, lane.Line)
	if r := q.next(nil, false); r != stays {
		t.Fatal("served a request whose caller left")
	}
	waits := put(t, q, lane.Claim)
	q.fail(errNoToken)
	<-waits.done
	if waits.err != errNoToken {
		t.Fatal(waits.err)
	}
	if n, _ := q.load(); n != 0 {
		t.Fatalf("%d wait", n)
	}
}

func TestQueue_IsBounded(t *testing.T) {
	q := newQueue(1)
	for range maxWaiting {
		put(t, q, lane.Renewal)
	}
	err := q.push(&request{done: make(chan struct{}, 1)})
	if !token.Fault(err, token.ErrBusy) {
		t.Fatal(err)
	}
	q.close(token.ErrClosed.New(""))
	if err := q.push(&request{done: make(chan struct{}, 1)}); !token.Fault(err, token.ErrClosed) {
		t.Fatal(err)
	}
}
