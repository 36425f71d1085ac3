package seal

import (
	"crypto/rand"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"hallmark/internal/durable"
)

// Create makes a new master key at path, readable by its owner alone, and
// returns its Box. It never replaces a file: the link fails when path exists,
// and a crash leaves either no file there or a whole one.
func Create(path string) (*Box, error) {
	master := make([]byte, MasterSize)
	defer clear(master)
	rand.Read(master)
	fresh := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+"."+rand.Text())
	if err := durable.WriteFile(fresh, master, 0o600); err != nil {
		return nil, ErrKeyFile.Wrap(err, "")
	}
	defer os.Remove(fresh)
	if err := os.Link(fresh, path); errors.Is(err, fs.ErrExist) {
		return nil, ErrKeyExists.New("")
	} else if err != nil {
		return nil, ErrKeyFile.Wrap(err, "")
	}
	if err := durable.SyncDir(filepath.Dir(path)); err != nil {
		return nil, ErrKeyFile.Wrap(err, "")
	}
	return Open(master)
}

// Load opens the Box of the master key at path. A file that others can read is
// refused, because its secrecy is already gone.
func Load(path string) (*Box, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, ErrKeyFile.Wrap(err, "")
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, ErrKeyFile.Wrap(err, "")
	}
	if !info.Mode().IsRegular() {
		return nil, ErrKeyFile.New("It is not a regular file.")
	}
	// systemd gives a service its credentials as 0400 with an access list for
	// the user, which shows as group-readable (systemd.exec, LoadCredential=).
	forbidden := fs.FileMode(0o077)
	if dir := os.Getenv("CREDENTIALS_DIRECTORY"); dir != "" && strings.HasPrefix(filepath.Clean(path), filepath.Clean(dir)+string(filepath.Separator)) {
		forbidden = 0o037
	}
	if mode := info.Mode().Perm(); mode&forbidden != 0 {
		return nil, ErrKeyFile.New("Its mode is %#o; it must be 0600.", mode)
	}
	master, err := io.ReadAll(io.LimitReader(f, MasterSize+1))
	defer clear(master)
	if err != nil {
		return nil, ErrKeyFile.Wrap(err, "")
	}
	b, err := Open(master)
	if err != nil {
		return nil, ErrKeyFile.Wrap(err, "")
	}
	return b, nil
}
