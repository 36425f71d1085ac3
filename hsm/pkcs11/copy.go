//go:build cgo

package pkcs11

import (
	"errors"
	"os"
	"path/filepath"
)

// fileCopy writes the content of a module to a file that nobody else can reach.
// done removes it; what is mapped stays.
func fileCopy(content []byte) (path string, done func(loaded bool), err error) {
	dir, err := os.MkdirTemp("", "hallmark-module-") // mode 0700
	if err != nil {
		return "", nil, err
	}
	done = func(bool) { os.RemoveAll(dir) }
	path = filepath.Join(dir, "module.so")
	if err := os.WriteFile(path, content, 0o700); err != nil {
		done(false)
		return "", nil, errors.Join(errors.New("the temporary directory takes no copy of the module"), err)
	}
	return path, done, nil
}
