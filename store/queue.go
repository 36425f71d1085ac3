package store

import (
	"context"
	"sync"
	"time"

	"hallmark/ca"
	"hallmark/internal/lane"
)

type job struct {
	ctx   context.Context
	fn    func(ctx context.Context) error
	claim *ca.Claim // of a reservation
	wake  chan turn
}

// turn wakes a waiting caller: its job is done, or it shall lead the next batch
// with the connection.
type turn struct {
	err  error
	lead *connection
}

// queue holds waiting jobs, one list a lane, and the writers' connections that
// nobody uses. The caller that finds a connection free leads: it runs the batch
// itself, on its own goroutine, and then passes the connection to the first who
// waits. So a lone request changes no goroutine, and many share a commit.
type queue struct {
	mu      sync.Mutex
	cond    *sync.Cond
	lanes   [lane.Count][]*job
	length  int
	idle    []*connection
	writers int // connections in all
	closed  bool

	want   int           // jobs that a gathering leader waits for
	gather chan struct{} // closed when they are here; nil when nobody gathers
}

func (q *queue) init() { q.cond = sync.NewCond(&q.mu) }

// start puts the writers' connections down.
func (q *queue) start(db *DB, writers int) {
	q.writers = writers
	for range writers {
		q.idle = append(q.idle, &connection{db: db})
	}
}

// put adds a job. With a connection the caller leads.
func (q *queue) put(l lane.Lane, j *job) (lead *connection, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return nil, ErrClosed.New("")
	}
	// The line keeps a reserve that no other lane can fill (S41).
	limit := maxQueue
	if l != lane.Line {
		limit = maxQueue / 2
	}
	if q.length >= limit {
		return nil, ErrBusy.New("").After(time.Second)
	}
	j.wake = make(chan turn, q.writers+1) // a turn to lead from each connection, and the outcome: sending never waits
	q.lanes[l] = append(q.lanes[l], j)
	q.length++
	if q.gather != nil && q.length >= q.want {
		close(q.gather)
		q.gather = nil
	}
	if n := len(q.idle); n > 0 {
		lead, q.idle = q.idle[n-1], q.idle[:n-1]
	}
	return lead, nil
}

// take gives up to maxBatch jobs, line first. Under load the requests of the
// batch before are on their way back: a moment's wait lets them share this
// commit. An idle service never waits.
func (q *queue) take(w *connection) []*job {
	q.mu.Lock()
	defer q.mu.Unlock()
	want := w.expect
	if want >= manyJobs { // two groups that take turns become one, up to where more company saves nothing
		want = max(want, min(want+want/2, enoughJobs))
	}
	if want >= 3 && q.length < want && q.gather == nil && !q.closed {
		here := make(chan struct{})
		q.want, q.gather = want, here
		q.mu.Unlock()
		t := time.NewTimer(gatherFor * time.Duration(1+min(want/manyJobs, 2)))
		select {
		case <-here:
		case <-t.C:
		}
		t.Stop()
		q.mu.Lock()
		if q.gather == here {
			q.gather = nil
		}
	}
	buf := w.batch[:0]
	for l := range q.lanes {
		n := min(len(q.lanes[l]), maxBatch-len(buf))
		buf = append(buf, q.lanes[l][:n]...)
		rest := copy(q.lanes[l], q.lanes[l][n:])
		clear(q.lanes[l][rest:])
		q.lanes[l] = q.lanes[l][:rest]
		q.length -= n
	}
	if w.expect = (w.expect + len(buf)) / 2; w.expect < len(buf) {
		w.expect = len(buf)
	}
	w.batch = buf
	return buf
}

// pass hands a connection to the first who waits, or puts it down.
func (q *queue) pass(w *connection) {
	clear(w.batch)
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, waiting := range q.lanes {
		if len(waiting) > 0 {
			waiting[0].wake <- turn{lead: w}
			return
		}
	}
	q.idle = append(q.idle, w)
	if q.closed {
		q.cond.Broadcast()
	}
}

// close refuses new jobs and waits until the last is done.
func (q *queue) close() (free []*connection) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	for len(q.idle) < q.writers {
		q.cond.Wait()
	}
	free, q.idle, q.writers = q.idle, nil, 0
	return free
}

// notifier wakes whoever waits for trust to change.
type notifier struct {
	mu sync.Mutex
	ch chan struct{}
}

func (n *notifier) init() { n.ch = make(chan struct{}) }

func (n *notifier) wake() {
	n.mu.Lock()
	close(n.ch)
	n.ch = make(chan struct{})
	n.mu.Unlock()
}

func (n *notifier) wait() <-chan struct{} {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.ch
}
