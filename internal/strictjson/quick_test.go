//go:build !race

package strictjson

import "time"

const (
	quick       = 50 * time.Millisecond
	hostileSize = 10 << 20
)
