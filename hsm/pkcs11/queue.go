//go:build cgo

package pkcs11

import (
	"sync"
	"sync/atomic"
	"time"

	"hallmark/hsm/token"
	"hallmark/internal/lane"
)

const (
	// maxWaiting bounds the queue of a token. At 4096 a token of 1000
	// signatures a second is four seconds behind: more waiting helps nobody.
	maxWaiting = 4096
	// lowEvery is how often the lowest lane goes first, so that a line under
	// full load cannot keep a CRL from being signed for ever.
	lowEvery = 32
)

// request is one signature. Whoever moves its state to settled owns the result
// fields; after done is signalled nobody writes them.
type request struct {
	lane  lane.Lane
	key   *Key
	in    input
	state atomic.Uint32
	done  chan struct{}
	sig   []byte
	err   error
	next  *request

	began time.Time // set by the worker that took it
	gen   uint64
}

const (
	waiting uint32 = iota
	taken
	settled
)

// settle gives the request its result, unless somebody did before.
func (r *request) settle(sig []byte, err error) {
	for {
		s := r.state.Load()
		if s == settled {
			return
		}
		if r.state.CompareAndSwap(s, settled) {
			r.sig, r.err = sig, err
			r.done <- struct{}{}
			return
		}
	}
}

type fifo struct{ head, tail *request }

func (f *fifo) push(r *request) {
	if f.tail == nil {
		f.head = r
	} else {
		f.tail.next = r
	}
	f.tail = r
}

func (f *fifo) pop() *request {
	r := f.head
	f.head = r.next
	if f.head == nil {
		f.tail = nil
	}
	r.next = nil
	return r
}

// queue hands requests to workers, lane by lane. Besides the regular workers
// there may be a reserved one: it takes work of the line only, and only while
// every regular worker is busy and at least one of them with other work. So
// the line never waits for a renewal to end, and costs nothing otherwise (S41).
type queue struct {
	mu       sync.Mutex
	regular  sync.Cond
	reserved sync.Cond
	lanes    [lane.Count]fifo
	n        int
	picks    uint
	workers  int // regular ones
	onLine   int // regular ones that work for the line
	onOther  int // regular ones that work for other lanes
	closed   bool
}

func newQueue(workers int) *queue {
	q := &queue{workers: workers}
	q.regular.L = &q.mu
	q.reserved.L = &q.mu
	return q
}

// push adds a request, or says why not.
func (q *queue) push(r *request) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return token.ErrClosed.New("")
	}
	if q.n >= maxWaiting {
		return token.ErrBusy.New("").After(busyRetry)
	}
	q.n++
	q.lanes[r.lane].push(r)
	q.regular.Signal()
	q.wakeReserved()
	return nil
}

func (q *queue) reservedMay() bool {
	return q.lanes[lane.Line].head != nil && q.onOther > 0 && q.onLine+q.onOther >= q.workers
}

func (q *queue) wakeReserved() {
	if q.reservedMay() {
		q.reserved.Signal()
	}
}

// next ends the work on prev (nil at first) and waits for the next request. It
// is nil when the queue was closed.
func (q *queue) next(prev *request, reserved bool) *request {
	q.mu.Lock()
	defer q.mu.Unlock()
	if prev != nil && !reserved {
		if prev.lane == lane.Line {
			q.onLine--
		} else {
			q.onOther--
		}
	}
	for {
		if q.closed {
			return nil
		}
		r := q.pick(reserved)
		if r == nil {
			if reserved {
				q.reserved.Wait()
			} else {
				q.regular.Wait()
			}
			continue
		}
		if !r.state.CompareAndSwap(waiting, taken) {
			continue // its caller left
		}
		if !reserved {
			if r.lane == lane.Line {
				q.onLine++
			} else {
				q.onOther++
			}
			q.wakeReserved()
		}
		return r
	}
}

func (q *queue) pick(reserved bool) *request {
	if q.n == 0 {
		return nil
	}
	if reserved {
		if !q.reservedMay() {
			return nil
		}
		q.n--
		return q.lanes[lane.Line].pop()
	}
	q.picks++
	low := q.picks%lowEvery == 0
	for i := range q.lanes {
		if low {
			i = len(q.lanes) - 1 - i
		}
		if q.lanes[i].head != nil {
			q.n--
			return q.lanes[i].pop()
		}
	}
	return nil
}

// fail settles everything that waits.
func (q *queue) fail(err error) {
	q.mu.Lock()
	var all []*request
	for i := range q.lanes {
		for q.lanes[i].head != nil {
			all = append(all, q.lanes[i].pop())
		}
	}
	q.n = 0
	q.mu.Unlock()
	for _, r := range all {
		r.settle(nil, err)
	}
}

func (q *queue) close(err error) {
	q.mu.Lock()
	q.closed = true
	q.regular.Broadcast()
	q.reserved.Broadcast()
	q.mu.Unlock()
	q.fail(err)
}

// load is the number of waiting requests and of busy regular workers.
func (q *queue) load() (waiting, busy int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.n, q.onLine + q.onOther
}
