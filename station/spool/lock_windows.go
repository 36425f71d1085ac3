package spool

import (
	"errors"
	"os"

	"golang.org/x/sys/windows"
)

// takeLock locks the file for as long as it is open. The system gives the lock
// back when the process dies, however it dies.
func takeLock(name string) (*os.File, error) {
	f, err := os.OpenFile(name, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, ErrRead.Wrap(err, "")
	}
	const flags = windows.LOCKFILE_EXCLUSIVE_LOCK | windows.LOCKFILE_FAIL_IMMEDIATELY
	if err := windows.LockFileEx(windows.Handle(f.Fd()), flags, 0, 1, 0, new(windows.Overlapped)); err != nil {
		f.Close()
		if errors.Is(err, windows.ERROR_LOCK_VIOLATION) {
			return nil, ErrLocked.New("")
		}
		return nil, ErrRead.Wrap(err, "")
	}
	return f, nil
}
