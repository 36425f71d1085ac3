//go:build cgo && !linux

package pkcs11

import "errors"

// ownProcess says whether modules can run in processes of their own here.
const ownProcess = false

func (*process) spawn([]string) error {
	return errors.New("modules run in processes of their own on Linux only")
}
