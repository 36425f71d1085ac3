//go:build testclock

package clock

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestNow_FollowsTheEnvironmentAndTheFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "offset")
	t.Setenv(offsetVariable, "24h")
	t.Setenv(fileVariable, file)
	for _, c := range []struct {
		file string
		want time.Duration
	}{{"", 24 * time.Hour}, {"-1h\n", -time.Hour}, {"nonsense", -time.Hour}} {
		if c.file != "" {
			if err := os.WriteFile(file, []byte(c.file), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if d := time.Until(Now()) - c.want; d < -time.Second || d > time.Second {
			t.Errorf("with %q the clock is off by %s", c.file, d)
		}
	}
}
