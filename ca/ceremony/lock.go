//go:build unix

package ceremony

import (
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// lockFile keeps a second program from the same ceremony.
func lockFile(f *os.File) error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) }

func dirOf(name string) string { return filepath.Dir(name) }
