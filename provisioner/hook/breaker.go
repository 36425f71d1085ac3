package hook

import (
	"sync"
	"time"
)

const (
	breakAfter = 5                // failures in a row
	breakFor   = 30 * time.Second // until one call may try again
)

// breaker keeps a hook that is down from costing every device its time-out,
// and us a connection each. After breakAfter failures in a row it refuses for
// breakFor, then lets one call through at a time until one succeeds.
type breaker struct {
	mu       sync.Mutex
	failures int
	until    time.Time // refuse before this
	trying   bool      // a trial call is under way
}

// enter asks to make a call. When it may not be made, wait says how long not.
func (b *breaker) enter(now time.Time) (ok bool, wait time.Duration) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failures < breakAfter {
		return true, 0
	}
	if now.Before(b.until) {
		return false, b.until.Sub(now)
	}
	if b.trying {
		return false, time.Second
	}
	b.trying = true
	return true, 0
}

type outcome uint8

const (
	answered  outcome = iota // the hook works, whatever it said
	failed                   // it does not
	undecided                // the call ended for a reason of ours
)

// leave reports how the call went, and whether that opened the breaker.
func (b *breaker) leave(now time.Time, o outcome) (opened bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.trying = false
	switch o {
	case answered:
		b.failures = 0
	case failed:
		b.failures++
		if b.failures >= breakAfter {
			b.until = now.Add(breakFor)
			return true
		}
	}
	return false
}
