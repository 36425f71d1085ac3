//go:build !testclock

package clock

import "time"

// Test is true in a build whose clock can be moved.
const Test = false

// Now is the system's time.
func Now() time.Time { return time.Now() }
