package store

import (
	"context"
	"sync"
	"time"

	"hallmark/internal/lane"
)

type job struct {
	ctx  context.Context
	fn   func(ctx context.Context) error
	done chan error
}

// queue holds waiting jobs, one list a lane.
type queue struct {
	mu     sync.Mutex
	cond   *sync.Cond
	lanes  [lane.Count][]*job
	length int
	closed bool
}

func (q *queue) init() { q.cond = sync.NewCond(&q.mu) }

func (q *queue) put(l lane.Lane, j *job) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		return ErrClosed.New("")
	}
	// The line keeps a reserve that no other lane can fill (S41).
	limit := maxQueue
	if l != lane.Line {
		limit = maxQueue / 2
	}
	if q.length >= limit {
		return ErrBusy.New("").After(time.Second)
	}
	q.lanes[l] = append(q.lanes[l], j)
	q.length++
	q.cond.Signal()
	return nil
}

// take waits for work and returns up to maxBatch jobs, line first; nil at the end.
func (q *queue) take(buf []*job) []*job {
	q.mu.Lock()
	defer q.mu.Unlock()
	for q.length == 0 && !q.closed {
		q.cond.Wait()
	}
	return q.fill(buf[:0])
}

// more adds what came meanwhile, without waiting.
func (q *queue) more(buf []*job) []*job {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.fill(buf)
}

func (q *queue) fill(buf []*job) []*job {
	for l := range q.lanes {
		n := min(len(q.lanes[l]), maxBatch-len(buf))
		buf = append(buf, q.lanes[l][:n]...)
		rest := copy(q.lanes[l], q.lanes[l][n:])
		clear(q.lanes[l][rest:])
		q.lanes[l] = q.lanes[l][:rest]
		q.length -= n
	}
	return buf
}

func (q *queue) close() {
	q.mu.Lock()
	q.closed = true
	q.cond.Broadcast()
	q.mu.Unlock()
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
