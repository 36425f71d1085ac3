package witness

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	merkle "golang.org/x/mod/sumdb/tlog"

	"hallmark/ca/tlog"
	"hallmark/internal/durable"
	"hallmark/internal/strictjson"
)

// Config makes a Witness.
type Config struct {
	Name string           // of the witness in signature lines, such as witness.example.com/line-3
	Key  crypto.Signer    // Ed25519; used for nothing else
	Dir  string           // of its state; see [Init]
	Logs []string         // verifier keys of the logs that it looks at
	Now  func() time.Time // nil = time.Now
	Log  *slog.Logger     // nil = discard
}

// Witness signs checkpoints that extend what it signed before. It is safe for
// concurrent use and the only one in its directory.
type Witness struct {
	cfg  Config
	vkey string
	logs map[string]string // origin → verifier key
	lock *os.File

	mu     sync.Mutex // held from the comparison until the new state is on disk
	newest map[string]tlog.Checkpoint
}

const (
	stateName = "state.json"
	// maxEvidence bounds what a hostile log can make us keep.
	maxEvidence = 100
)

// stateFile is what the witness remembers: of each log the newest checkpoint
// that it signed, with its own signature, so that nobody else's file is taken.
type stateFile struct {
	Witness string            `json:"witness"` // verifier key
	Logs    map[string]string `json:"logs"`    // origin → signed note
}

// Init makes the state of a new key. Doing so again for a key that has signed
// would make a witness that forgot, so it refuses where there is a state.
func Init(dir, verifierKey string) error {
	if _, err := tlog.CosignerName(verifierKey); err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return ErrState.Wrap(err, "")
	}
	name := filepath.Join(dir, stateName)
	if _, err := os.Stat(name); !errors.Is(err, fs.ErrNotExist) {
		return ErrState.New("There is a state in %s already.", dir)
	}
	return writeState(name, stateFile{Witness: verifierKey, Logs: map[string]string{}})
}

func writeState(name string, s stateFile) error {
	b, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return ErrState.Wrap(err, "")
	}
	if err := durable.WriteFile(name, append(b, '\n'), 0o600); err != nil {
		return ErrState.Wrap(err, "")
	}
	return nil
}

// Open reads the state that [Init] made and this key signed.
func Open(c Config) (w *Witness, err error) {
	if c.Key == nil || len(c.Logs) == 0 {
		return nil, ErrConfig.New("There is no key, or there are no logs.")
	}
	pub, ok := c.Key.Public().(ed25519.PublicKey)
	if !ok {
		return nil, ErrConfig.New("The key is not Ed25519.")
	}
	vkey, err := tlog.CosignerKey(c.Name, pub)
	if err != nil {
		return nil, err
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	w = &Witness{cfg: c, vkey: vkey, logs: map[string]string{}, newest: map[string]tlog.Checkpoint{}}
	for _, k := range c.Logs {
		origin, _, _ := strings.Cut(k, "+")
		if _, twice := w.logs[origin]; twice {
			return nil, ErrConfig.New("The log %s is named twice.", origin)
		}
		if err := tlog.CheckVerifierKey(k); err != nil {
			return nil, err
		}
		w.logs[origin] = k
	}
	if w.lock, err = os.OpenFile(filepath.Join(c.Dir, "lock"), os.O_CREATE|os.O_RDWR, 0o600); err != nil {
		return nil, ErrState.Wrap(err, "There is no state in %s.", c.Dir)
	}
	if err := syscall.Flock(int(w.lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		w.lock.Close()
		return nil, ErrLocked.Wrap(err, "")
	}
	if err := w.load(); err != nil {
		w.lock.Close()
		return nil, err
	}
	return w, nil
}

func (w *Witness) load() error {
	b, err := os.ReadFile(filepath.Join(w.cfg.Dir, stateName))
	if err != nil {
		return ErrState.Wrap(err, "The file %s cannot be read.", stateName)
	}
	var s stateFile
	if err := strictjson.Decode(b, &s); err != nil {
		return ErrState.Wrap(err, "The file %s cannot be read.", stateName)
	}
	if s.Witness != w.vkey {
		return ErrState.New("It is the state of %.120s.", s.Witness)
	}
	for origin, signed := range s.Logs {
		key, ok := w.logs[origin]
		if !ok {
			// A log that is not configured any more keeps its place: it may come back.
			key = ""
		}
		c, err := w.own([]byte(signed), key)
		if err != nil {
			return ErrState.Wrap(err, "The checkpoint of %s was not signed by this witness.", origin)
		}
		w.newest[origin] = c
	}
	return nil
}

// own opens a checkpoint of our state. Without the log's key our own signature
// vouches for it.
func (w *Witness) own(signed []byte, key string) (tlog.Checkpoint, error) {
	if key == "" {
		have, err := tlog.Cosignatures(signed, w.vkey)
		if err != nil || len(have) != 1 {
			return tlog.Checkpoint{}, tlog.ErrCosignature.Wrap(err, "")
		}
		return tlog.ReadCheckpoint(signed)
	}
	c, _, err := tlog.Policy{Log: key, Witnesses: []string{w.vkey}, Quorum: 1}.Open(signed)
	return c, err
}

// VerifierKey is the witness's public key in the form of signed notes.
func (w *Witness) VerifierKey() string { return w.vkey }

// Newest is the newest checkpoint of a log that the witness signed, with the
// signature; the zero value if it has signed none.
func (w *Witness) Newest(origin string) tlog.Checkpoint {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.newest[origin]
}

// Close gives the directory back.
func (w *Witness) Close() error { return w.lock.Close() }

// sizeError carries the size for which the answer has a form of its own.
type sizeError struct {
	error
	size int64
}

func (e sizeError) Unwrap() error { return e.error }

// AddCheckpoint signs a checkpoint that extends the one signed last, whose size
// must be old, and returns the signature line.
//
//  1. the log is known and signed it
//  2. the caller's old size is ours
//  3. the proof leads from our tree to this one
//  4. the new state is on disk
//  5. only then does the signature leave
func (w *Witness) AddCheckpoint(ctx context.Context, old int64, proof []tlog.Hash, signed []byte) (line []byte, err error) {
	origin := originOf(signed)
	key, ok := w.logs[origin]
	if !ok {
		return nil, ErrOrigin.New("%.200q.", origin)
	}
	c, err := tlog.ParseCheckpoint(signed, key)
	if err != nil {
		return nil, ErrKey.Wrap(err, "")
	}
	if old > c.Size {
		return nil, ErrRequest.New("The old size %d is larger than the checkpoint's, %d.", old, c.Size)
	}
	if old == 0 && len(proof) > 0 {
		return nil, ErrProof.New("There is nothing to prove from a size of 0.")
	}

	w.mu.Lock()
	defer w.mu.Unlock()
	last := w.newest[origin]
	if old != last.Size {
		return nil, sizeError{ErrSize.New("The witness signed %d leaves last, the request says %d.", last.Size, old).With("size", last.Size), last.Size}
	}
	switch {
	case last.Size == c.Size:
		if last.Note != nil && last.Root != c.Root {
			w.keep(ctx, last, c)
			return nil, sizeError{ErrConflict.New("Size %d.", c.Size).With("size", last.Size), last.Size}
		}
		if len(proof) > 0 {
			return nil, ErrProof.New("Equal sizes need none.")
		}
	case last.Size > 0:
		if err := merkle.CheckTree(proof, c.Size, c.Root, last.Size, last.Root); err != nil {
			w.keep(ctx, last, c)
			return nil, ErrProof.Wrap(err, "From %d to %d leaves.", last.Size, c.Size)
		}
	}
	at := w.cfg.Now()
	if line, err = tlog.Cosign(c, w.cfg.Name, w.cfg.Key, at); err != nil {
		return nil, err
	}
	if c.Note, err = tlog.AddCosignature(signed, line, w.vkey); err != nil {
		return nil, err
	}
	if err := w.store(origin, c); err != nil {
		return nil, err
	}
	w.newest[origin] = c
	w.cfg.Log.InfoContext(ctx, "checkpoint witnessed", "log", origin, "size", c.Size, "before", last.Size)
	return line, nil
}

func (w *Witness) store(origin string, c tlog.Checkpoint) error {
	s := stateFile{Witness: w.vkey, Logs: map[string]string{origin: string(c.Note)}}
	for o, have := range w.newest {
		if o != origin {
			s.Logs[o] = string(have.Note)
		}
	}
	return writeState(filepath.Join(w.cfg.Dir, stateName), s)
}

// keep writes down two checkpoints of one log that contradict each other: the
// log signed both, so it cannot deny it.
func (w *Witness) keep(ctx context.Context, last, c tlog.Checkpoint) {
	w.cfg.Log.ErrorContext(ctx, "a log showed a tree that does not extend the one before", "log", c.Origin, "size", c.Size, "root", c.Root.String(), "signed_size", last.Size, "signed_root", last.Root.String())
	dir := filepath.Join(w.cfg.Dir, "evidence")
	have, err := os.ReadDir(dir)
	if err == nil && len(have) >= maxEvidence {
		return
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		w.cfg.Log.ErrorContext(ctx, "evidence not kept", "error", err)
		return
	}
	var b bytes.Buffer
	fmt.Fprintf(&b, "%s\n%s", last.Note, c.Note)
	if err := durable.WriteFile(filepath.Join(dir, fmt.Sprintf("%d-%x", c.Size, c.Root[:8])), b.Bytes(), 0o600); err != nil {
		w.cfg.Log.ErrorContext(ctx, "evidence not kept", "error", err)
	}
}

// Inspect reads the state in a directory beside a witness that may be running:
// the newest checkpoint of each log, by origin.
func Inspect(dir string) (out []tlog.Checkpoint, err error) {
	b, err := os.ReadFile(filepath.Join(dir, stateName))
	if err != nil {
		return nil, ErrState.Wrap(err, "")
	}
	var s stateFile
	if err := strictjson.Decode(b, &s); err != nil {
		return nil, ErrState.Wrap(err, "The file %s cannot be read.", stateName)
	}
	for _, origin := range slices.Sorted(maps.Keys(s.Logs)) {
		c, err := tlog.ReadCheckpoint([]byte(s.Logs[origin]))
		if err != nil {
			return nil, err
		}
		out = append(out, c)
	}
	return out, nil
}
