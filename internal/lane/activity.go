package lane

import (
	"sync/atomic"
	"time"
)

// Activity tells whether anybody works in a lane, so that others can rest while it
// needs the machine. Its zero value is ready.
type Activity struct {
	inside atomic.Int64
	last   atomic.Pointer[time.Time] // end of the latest work
}

// linger is how long a lane counts as busy after its last work: a station asks again
// within that time.
const linger = 100 * time.Millisecond

// Enter begins a piece of work; its end is the function that it returns.
func (a *Activity) Enter() (leave func()) {
	a.inside.Add(1)
	return func() {
		now := time.Now()
		a.last.Store(&now)
		a.inside.Add(-1)
	}
}

// Busy tells whether there is work, or was a moment ago.
func (a *Activity) Busy() bool {
	if a.inside.Load() > 0 {
		return true
	}
	last := a.last.Load()
	return last != nil && time.Since(*last) < linger
}
