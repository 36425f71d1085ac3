// Package durable writes files so that they stay: after a return without error
// the content survives a power cut, and at no moment does a reader see half of it.
package durable

import (
	"fmt"
	"os"
	"path/filepath"
)

// WriteFile replaces name by data as one step: it writes a neighbour, syncs it,
// renames it over name and syncs the directory.
func WriteFile(name string, data []byte, perm os.FileMode) (err error) {
	dir := filepath.Dir(name)
	f, err := os.CreateTemp(dir, "."+filepath.Base(name)+".*")
	if err != nil {
		return fmt.Errorf("durable: %w", err)
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	if err = f.Chmod(perm); err != nil {
		return fmt.Errorf("durable: %w", err)
	}
	if _, err = f.Write(data); err != nil {
		return fmt.Errorf("durable: %w", err)
	}
	if err = f.Sync(); err != nil {
		return fmt.Errorf("durable: %w", err)
	}
	if err = f.Close(); err != nil {
		return fmt.Errorf("durable: %w", err)
	}
	if err = os.Rename(f.Name(), name); err != nil {
		return fmt.Errorf("durable: %w", err)
	}
	return SyncDir(dir)
}

// SyncDir makes renames, creations and removals in dir durable.
func SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return fmt.Errorf("durable: %w", err)
	}
	defer d.Close()
	if err := d.Sync(); err != nil {
		return fmt.Errorf("durable: sync %s: %w", dir, err)
	}
	return nil
}
