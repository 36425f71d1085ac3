package device

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"time"
)

// Backoff is how long a device waits before it tries again. A fleet that lost
// its service at one moment must not come back at one moment: the wait is random
// between nothing and a bound that doubles ("full jitter").
type Backoff struct {
	Min time.Duration // bound of the first wait; 0 = 1 s
	Max time.Duration // bound of all waits; 0 = 2 min
}

// Wait is how long to wait after so many failures in a row, from 1.
func (b Backoff) Wait(failures int) time.Duration {
	if b.Min <= 0 {
		b.Min = time.Second
	}
	if b.Max <= 0 {
		b.Max = 2 * time.Minute
	}
	bound := b.Min
	for i := 1; i < failures && bound < b.Max; i++ {
		bound *= 2
	}
	return Random(min(bound, b.Max))
}

// Random is a duration between nothing and d.
func Random(d time.Duration) time.Duration {
	if d <= 0 {
		return 0
	}
	var b [8]byte
	rand.Read(b[:])
	return time.Duration(binary.BigEndian.Uint64(b[:]) % uint64(d))
}

// pause waits, and tells whether the context still lives.
func pause(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
