package broker

import (
	"container/heap"
	"context"
	"sync"
	"time"
)

// schedule wakes sessions without a connection when their will or their end is
// due. An entry is a few words, however many devices are away.
type schedule struct {
	mu    sync.Mutex
	items alarms
	wake  chan struct{}
	now   func() time.Time
	due   func(*session)
}

type alarm struct {
	at int64 // Unix milliseconds
	s  *session
}

type alarms []alarm

func (a alarms) Len() int           { return len(a) }
func (a alarms) Less(i, k int) bool { return a[i].at < a[k].at }
func (a alarms) Swap(i, k int)      { a[i], a[k] = a[k], a[i] }
func (a *alarms) Push(x any)        { *a = append(*a, x.(alarm)) }
func (a *alarms) Pop() any {
	last := len(*a) - 1
	x := (*a)[last]
	(*a)[last] = alarm{}
	*a = (*a)[:last]
	return x
}

// at asks for a call of due. Entries are never taken back: due looks whether there
// is anything to do.
func (s *schedule) at(t time.Time, who *session) {
	s.mu.Lock()
	heap.Push(&s.items, alarm{t.UnixMilli() + 1, who}) // rounded up: never before it is due
	first := s.items[0].s == who
	s.mu.Unlock()
	if first {
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

func (s *schedule) run(ctx context.Context) {
	for {
		now := s.now().UnixMilli()
		wait := time.Minute // a clock that is set is noticed by then
		s.mu.Lock()
		var ready []*session
		for len(s.items) > 0 && s.items[0].at <= now {
			ready = append(ready, heap.Pop(&s.items).(alarm).s)
		}
		if len(s.items) > 0 {
			wait = min(wait, time.Duration(s.items[0].at-now)*time.Millisecond)
		}
		s.mu.Unlock()
		for _, r := range ready {
			s.due(r)
		}
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-s.wake:
		case <-t.C:
		}
		t.Stop()
	}
}
