//go:build !testclock

package clock

import (
	"testing"
	"time"
)

func TestNow_OfAReleaseCannotBeMoved_S38(t *testing.T) {
	t.Setenv("HALLMARK_CLOCK_OFFSET", "24h")
	if d := time.Until(Now()); Test || d > time.Second {
		t.Errorf("a build without the tag is %s ahead, Test is %t", d, Test)
	}
}
