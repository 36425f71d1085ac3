package device

import (
	"crypto"
	"crypto/tls"
	"encoding/pem"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"

	"hallmark/internal/durable"
	"hallmark/internal/fault"
)

// home is a device's directory:
//
//	idevid.pem idevid.key          from the factory, never changed
//	slots/A slots/B                each key.pem, then registration.json and cert.pem
//	slots/active                   "A" or "B": which pair is in use; the truth
//	ldevid.pem ldevid.key registration.json trust.pem
//	                               copies of the active slot, for other software
//
// A key file holds a key in PEM, or one line with the URI of a key in a token.
type home struct {
	dir  string
	lock *os.File
	keys keyring
	// algorithm of new keys; "" = P-256
	algorithm string
	// write replaces a file as one step.
	write func(name string, data []byte, perm os.FileMode) error
}

const (
	certFile   = "cert.pem"
	keyFile    = "key.pem"
	answerFile = "registration.json"

	retiredFile = "retired" // empty; the slot was in use once
)

// openHome takes the directory for this process.
func openHome(dir string) (*home, error) {
	if dir == "" {
		return nil, ErrDir.New("It has no name.")
	}
	for _, s := range []string{"A", "B"} {
		if err := os.MkdirAll(filepath.Join(dir, "slots", s), 0o700); err != nil {
			return nil, ErrDir.Wrap(err, "")
		}
	}
	lock, err := os.OpenFile(filepath.Join(dir, "slots", "lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, ErrDir.Wrap(err, "")
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		lock.Close()
		return nil, ErrBusy.Wrap(err, "")
	}
	return &home{dir: dir, lock: lock, write: durable.WriteFile}, nil
}

func (h *home) close() { h.lock.Close() }

func (h *home) path(slot, file string) string { return filepath.Join(h.dir, "slots", slot, file) }

// has tells whether a slot has a file.
func (h *home) has(slot, file string) bool {
	_, err := os.Stat(h.path(slot, file))
	return err == nil
}

// pair is a key with its certificate.
type pair struct {
	tls.Certificate
	slot string
}

// birth reads what the factory installed.
func (h *home) birth() (*pair, error) {
	c, err := h.keys.pair(filepath.Join(h.dir, "idevid.pem"), filepath.Join(h.dir, "idevid.key"))
	if err != nil {
		return nil, ErrIdentity.Wrap(err, "")
	}
	return &pair{Certificate: c}, nil
}

// active reads the pair in use; nil if there is none yet.
func (h *home) active() (*pair, error) {
	b, err := os.ReadFile(filepath.Join(h.dir, "slots", "active"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, ErrDir.Wrap(err, "")
	}
	slot := strings.TrimSpace(string(b))
	if slot != "A" && slot != "B" {
		return nil, ErrDir.New("slots/active names no slot.")
	}
	c, err := h.keys.pair(h.path(slot, certFile), h.path(slot, keyFile))
	if err != nil {
		if f := fault.From(err); f.Kind != fault.Internal && f.Definition != ErrDir {
			return nil, err // the token's own words
		}
		return nil, ErrDir.Wrap(err, "Slot %s is in use and cannot be read.", slot)
	}
	return &pair{c, slot}, nil
}

// load reads a slot; nil if it has no certificate for its key, as one that was
// being written.
func (h *home) load(slot string) *pair {
	c, err := h.keys.pair(h.path(slot, certFile), h.path(slot, keyFile))
	if err != nil {
		return nil
	}
	return &pair{c, slot}
}

// key gives the slot's key. A key without a certificate is one of a run that
// was cut off: it is used again, so that the service sees one device and not two.
func (h *home) key(slot string, fresh bool) (crypto.Signer, error) {
	name := h.path(slot, keyFile)
	if !fresh {
		if k, err := h.keys.read(name); err == nil || !lasting(err) {
			return k, err
		}
	}
	// The old certificate goes first, the mark of a retired slot last: cut off
	// in between, the slot is still one to begin anew.
	for _, f := range []string{certFile, answerFile} {
		if err := os.Remove(h.path(slot, f)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, ErrDir.Wrap(err, "")
		}
	}
	if err := durable.SyncDir(filepath.Join(h.dir, "slots", slot)); err != nil {
		return nil, ErrDir.Wrap(err, "")
	}
	k, err := h.keys.create(name, slot, h.algorithm, h.write)
	if err != nil {
		return nil, err
	}
	if err := os.Remove(h.path(slot, retiredFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, ErrDir.Wrap(err, "")
	}
	return k, nil
}

// waiting finds a slot that has a key, is not in use and was not retired: a run
// was cut off there.
func (h *home) waiting(active string) string {
	for _, slot := range []string{"A", "B"} {
		if slot == active {
			continue
		}
		if h.has(slot, keyFile) && !h.has(slot, retiredFile) {
			return slot
		}
	}
	return ""
}

// store keeps what the service answered: the answer, then the certificate,
// whose presence says that the slot is complete.
func (h *home) store(slot string, chain [][]byte, answer []byte) error {
	if err := h.write(h.path(slot, answerFile), answer, 0o600); err != nil {
		return ErrDir.Wrap(err, "")
	}
	if err := h.write(h.path(slot, certFile), pemOf(chain), 0o644); err != nil {
		return ErrDir.Wrap(err, "")
	}
	return nil
}

// activate makes a slot the one in use. The slot before is retired first, not
// wiped: cut off in between, the new one is still the one that waits.
func (h *home) activate(slot string) error {
	if before := other(slot); h.has(before, keyFile) {
		if err := h.write(h.path(before, retiredFile), nil, 0o644); err != nil {
			return ErrDir.Wrap(err, "")
		}
	}
	if err := h.write(filepath.Join(h.dir, "slots", "active"), []byte(slot+"\n"), 0o644); err != nil {
		return ErrDir.Wrap(err, "")
	}
	return nil
}

// export copies the active slot to where other software looks; it runs at every
// start too, so that a cut between two copies does not last.
func (h *home) export(slot string, trust [][]byte) error {
	for _, c := range []struct {
		from, to string
		perm     os.FileMode
	}{{keyFile, "ldevid.key", 0o600}, {certFile, "ldevid.pem", 0o644}, {answerFile, answerFile, 0o600}} {
		b, err := os.ReadFile(h.path(slot, c.from))
		if err == nil {
			err = h.write(filepath.Join(h.dir, c.to), b, c.perm)
		}
		if err != nil {
			return ErrDir.Wrap(err, "")
		}
	}
	// Once a job changed the bundle, only jobs do: what came with a certificate long
	// ago must not bring back a root that was removed since.
	if _, err := os.Stat(filepath.Join(h.dir, trustFile)); len(trust) > 0 && errors.Is(err, fs.ErrNotExist) {
		if err := h.write(filepath.Join(h.dir, "trust.pem"), pemOf(trust), 0o644); err != nil {
			return ErrDir.Wrap(err, "")
		}
	}
	return nil
}

func pemOf(ders [][]byte) []byte {
	var out []byte
	for _, der := range ders {
		out = append(out, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})...)
	}
	return out
}
