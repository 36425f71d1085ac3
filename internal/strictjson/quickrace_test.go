//go:build race

package strictjson

import "time"

// The race detector slows a byte loop some ten times; the bound of A67 is
// proven without it, and here only that nothing runs away.
const (
	quick       = time.Second
	hostileSize = 1 << 20
)
