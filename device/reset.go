package device

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"hallmark/internal/durable"
)

// Reset is the device's side of a factory reset: it forgets its operational keys and
// certificates, its settings and what it was about to do, and is as the factory made
// it. The birth certificate stays, and so do its firmware and the roots that it was
// told to trust: without them it might not find its service. A key in a token stays
// there, unused. Cut off at any point it is to be run again, and until then the device
// boots with the birth certificate.
func Reset(dir string) error {
	if _, err := os.Stat(filepath.Join(dir, "idevid.pem")); err != nil {
		return ErrDir.Wrap(err, "")
	}
	lock, err := os.OpenFile(filepath.Join(dir, "agent.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return ErrDir.Wrap(err, "")
	}
	defer lock.Close()
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		return ErrBusy.Wrap(err, "")
	}
	h, err := openHome(dir)
	if err != nil {
		return err
	}
	defer h.close()
	// Retired first: a slot that is neither in use nor retired is one that a run was
	// cut off at, and its key would be used again.
	for _, slot := range []string{"A", "B"} {
		if err := h.write(h.path(slot, retiredFile), nil, 0o644); err != nil {
			return ErrDir.Wrap(err, "")
		}
	}
	gone := []string{filepath.Join(dir, "slots", "active")}
	for _, f := range []string{journalFile, rotationFile, stateFile, answerFile, "ldevid.key", "ldevid.pem"} {
		gone = append(gone, filepath.Join(dir, f))
	}
	for _, slot := range []string{"A", "B"} {
		for _, f := range []string{keyFile, certFile, answerFile} {
			gone = append(gone, h.path(slot, f))
		}
	}
	for _, name := range gone {
		if err := os.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return ErrDir.Wrap(err, "")
		}
		if err := durable.SyncDir(filepath.Dir(name)); err != nil {
			return ErrDir.Wrap(err, "")
		}
	}
	return nil
}
