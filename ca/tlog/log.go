package tlog

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"errors"
	"log/slog"
	"sync"
	"time"

	merkle "golang.org/x/mod/sumdb/tlog"
)

const (
	// batch bounds the memory of one integration step: 2 MiB of entries, and as
	// much again of tiles.
	batch = 1 << 16
	// maxTries bounds how often one Integrate gives way to other nodes.
	maxTries = 8
)

// emptyRoot is the root of a log without leaves (RFC 6962, Section 2.1).
var emptyRoot = Hash(sha256.Sum256(nil))

// Config is what a Log needs.
type Config struct {
	Store  Store
	Origin string        // names the log for ever; a domain and path without scheme, such as log.example.com/brand
	Key    crypto.Signer // Ed25519, in memory or in a token
	// More gives lines that every checkpoint carries below its root, each with its
	// end: what else is fixed by the signature. nil = none. When they change, the next
	// Integrate signs anew, also without new leaves.
	More func(ctx context.Context) (string, error)
	Now  func() time.Time // nil = time.Now
	Log  *slog.Logger     // nil = discard
}

// Log integrates leaves and proves what is in the tree. It is safe for
// concurrent use; several processes may have one over the same store.
type Log struct {
	store  Store
	signer signer
	vkey   string
	more   func(ctx context.Context) (string, error)
	now    func() time.Time
	log    *slog.Logger

	mu   sync.Mutex // one integration at a time; guards last
	last Checkpoint // the newest that this process has seen
}

// New makes a Log. It does no I/O.
func New(c Config) (*Log, error) {
	if c.Store == nil {
		return nil, ErrConfig.New("There is no store.")
	}
	s, vkey, err := newSigner(c.Origin, c.Key)
	if err != nil {
		return nil, ErrConfig.Wrap(err, "")
	}
	l := &Log{store: c.Store, signer: s, vkey: vkey, more: c.More, now: c.Now, log: c.Log}
	if l.more == nil {
		l.more = func(context.Context) (string, error) { return "", nil }
	}
	if l.now == nil {
		l.now = time.Now
	}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	return l, nil
}

// VerifierKey is the log's public key in the form of signed notes: give it to
// everyone who verifies receipts.
func (l *Log) VerifierKey() string { return l.vkey }

// Checkpoint is the newest checkpoint, with its signature checked; before the
// first integration it is [ErrPending].
func (l *Log) Checkpoint(ctx context.Context) (Checkpoint, error) {
	c, err := l.current(ctx)
	if err == nil && c.Note == nil {
		err = ErrPending.New("The log has no checkpoint yet.")
	}
	return c, err
}

// Newest is [Log.Checkpoint], or a signed checkpoint of the empty tree, which
// every log extends, before the first integration.
func (l *Log) Newest(ctx context.Context) (Checkpoint, error) {
	c, err := l.Checkpoint(ctx)
	if errors.Is(err, ErrPending) {
		return l.signer.sign(0, emptyRoot, "")
	}
	return c, err
}

// current reads the stored checkpoint. What the row says must be what was
// signed: a database writer can change both size and root, but not sign them.
func (l *Log) current(ctx context.Context) (Checkpoint, error) {
	size, root, signed, err := l.store.Integrated(ctx)
	if err != nil {
		return Checkpoint{}, err
	}
	if signed == nil && size == 0 {
		return Checkpoint{Origin: l.signer.Name(), Root: emptyRoot}, nil
	}
	c, err := openCheckpoint(signed, l.signer.Verifier)
	if err != nil {
		return Checkpoint{}, ErrCorrupt.Wrap(err, "The stored checkpoint is not ours.")
	}
	if c.Size != size || c.Root != root {
		return Checkpoint{}, ErrCorrupt.New("The stored size and root are not those of the stored checkpoint.")
	}
	return c, nil
}

// Integrate derives tiles and a checkpoint for all leaves committed so far and
// returns the checkpoint. It is idempotent, and any number of nodes may call it.
func (l *Log) Integrate(ctx context.Context) (Checkpoint, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for tries := 0; ; {
		c, more, err := l.step(ctx)
		switch {
		case errors.Is(err, ErrMoved) && tries < maxTries:
			tries++ // its work is ours as well; look again
		case err != nil:
			return Checkpoint{}, err
		case !more:
			return c, nil
		default:
			tries = 0
		}
	}
}

// step integrates one batch. Its order matters: nothing is signed before what
// is there has been proven to be what was signed last.
func (l *Log) step(ctx context.Context) (_ Checkpoint, again bool, err error) {
	start := l.now()

	// 1. The newest checkpoint, and that it extends what this process has seen.
	old, err := l.current(ctx)
	if err != nil {
		return Checkpoint{}, false, err
	}
	if err := l.extends(ctx, old, l.last); err != nil {
		return Checkpoint{}, false, err
	}
	l.last = old

	// 2. The new leaves.
	head, err := l.store.Head(ctx)
	if err != nil {
		return Checkpoint{}, false, err
	}
	if head < old.Size {
		return Checkpoint{}, false, ErrBehind.New("%d leaves are recorded, %d were signed for.", head, old.Size)
	}
	more, err := l.more(ctx)
	if err != nil {
		return Checkpoint{}, false, err
	}
	if head == old.Size && old.Note != nil && more == old.More {
		return old, false, nil
	}
	size := min(head, old.Size+batch)
	leaves, err := l.leaves(ctx, old.Size, size)
	if err != nil {
		return Checkpoint{}, false, err
	}

	// 3. The edge, which must hash to the signed root.
	e, err := l.edge(ctx, old)
	if err != nil {
		return Checkpoint{}, false, err
	}

	// 4. The new tiles and root.
	var tiles []Tile
	for _, leaf := range leaves {
		// A full tile belongs to the list alone from here on.
		if err := e.add(leaf, func(t Tile) error { tiles = append(tiles, t); return nil }); err != nil {
			return Checkpoint{}, false, err
		}
	}
	for _, t := range e.partial() {
		if widthAt(old.Size, t.Level, t.Index) != t.Width() { // unchanged ones are there
			tiles = append(tiles, t)
		}
	}
	root, err := e.root()
	if err != nil {
		return Checkpoint{}, false, ErrCorrupt.Wrap(err, "")
	}

	// 5. Sign, then swap. A crash between the two leaves a signed checkpoint
	//    that nobody saw, for a tree that the next step makes again.
	c, err := l.signer.sign(size, root, more)
	if err != nil {
		return Checkpoint{}, false, err
	}
	if err := l.store.Commit(ctx, old.Size, tiles, c.Size, c.Root, c.Note); err != nil {
		return Checkpoint{}, false, err
	}
	l.last = c
	l.log.LogAttrs(ctx, slog.LevelInfo, "log integrated",
		slog.Int64("size", c.Size), slog.Int64("added", c.Size-old.Size), slog.Int("tiles", len(tiles)), slog.Duration("took", l.now().Sub(start)))
	return c, size < head, nil
}

// leaves are the Merkle leaves from ≤ index < to.
func (l *Log) leaves(ctx context.Context, from, to int64) ([]Hash, error) {
	if from == to {
		return nil, nil
	}
	entries, err := l.store.Entries(ctx, from, to)
	if err != nil {
		return nil, err
	}
	if int64(len(entries)) != to-from {
		return nil, ErrCorrupt.New("Of the leaves %d to %d only %d are there.", from, to-1, len(entries))
	}
	lost, err := l.store.Lost(ctx, from, to)
	if err != nil {
		return nil, err
	}
	out := make([]Hash, len(entries))
	for i, e := range entries {
		if len(lost) > 0 && lost[0] == from+int64(i) {
			out[i], lost = Hash(e), lost[1:]
			continue
		}
		out[i] = MerkleLeaf(e)
	}
	return out, nil
}

// edge reads one tile a level at most.
func (l *Log) edge(ctx context.Context, c Checkpoint) (*edge, error) {
	e := &edge{size: c.Size}
	for level := 0; c.Size>>(tileHeight*level) > 0; level++ {
		hashes := make([]byte, 0, tileWidth*hashSize)
		index := c.Size >> (tileHeight * (level + 1))
		if want := widthAt(c.Size, level, index) * hashSize; want > 0 {
			stored, err := l.store.Tile(ctx, level, index)
			if err != nil {
				return nil, err
			}
			if len(stored) < want {
				return nil, ErrCorrupt.New("The tile %s is not there.", tilePath(level, index, want/hashSize))
			}
			hashes = append(hashes, stored[:want]...)
		}
		e.levels = append(e.levels, hashes)
	}
	if c.Size == 0 {
		return e, nil
	}
	if root, err := e.root(); err != nil || root != c.Root {
		return nil, ErrCorrupt.Wrap(err, "The edge of the tree at %d leaves does not hash to the signed root.", c.Size)
	}
	return e, nil
}

// extends says whether the tree of newer contains that of older.
func (l *Log) extends(ctx context.Context, newer, older Checkpoint) error {
	return extends(l.reader(ctx, newer), newer, older)
}

// extends reads the tree of newer.
func extends(r merkle.HashReader, newer, older Checkpoint) error {
	switch {
	case older.Size == 0:
		return nil
	case newer.Size < older.Size:
		return ErrBehind.New("The log has %d leaves, a checkpoint for %d was signed.", newer.Size, older.Size)
	case newer.Size == older.Size:
		if newer.Root != older.Root {
			return ErrForked.New("There are two roots for %d leaves.", older.Size)
		}
		return nil
	}
	root, err := merkle.TreeHash(older.Size, r)
	if err != nil {
		return readFault(err)
	}
	if root != older.Root {
		return ErrForked.New("The tree at %d leaves does not contain the one at %d.", newer.Size, older.Size)
	}
	return nil
}

// CheckAgainst compares the log with a checkpoint that was kept elsewhere (S34).
// [ErrBehind] means that the database was set back, [ErrForked] that its
// history was rewritten. Call it before the first Integrate after a start.
func (l *Log) CheckAgainst(ctx context.Context, signed []byte) error {
	older, err := openCheckpoint(signed, l.signer.Verifier)
	if err != nil {
		return err
	}
	newer, err := l.current(ctx)
	if err != nil {
		return err
	}
	return l.extends(ctx, newer, older)
}

// Verify makes the whole tree again from the leaves and compares every tile, the
// root and the checkpoint; fsck calls it. The error names the first difference.
// Leaves that are not integrated yet are no difference.
func (l *Log) Verify(ctx context.Context) error {
	c, err := l.current(ctx)
	if err != nil {
		return err
	}
	head, err := l.store.Head(ctx)
	if err != nil {
		return err
	}
	if head < c.Size {
		return ErrBehind.New("%d leaves are recorded, %d were signed for.", head, c.Size)
	}
	e := &edge{}
	for from := int64(0); from < c.Size; from += batch {
		leaves, err := l.leaves(ctx, from, min(from+batch, c.Size))
		if err != nil {
			return err
		}
		for _, leaf := range leaves {
			if err := e.add(leaf, func(t Tile) error { return l.compare(ctx, t) }); err != nil {
				return err
			}
		}
	}
	for _, t := range e.partial() {
		if err := l.compare(ctx, t); err != nil {
			return err
		}
	}
	if root, err := e.root(); c.Size > 0 && (err != nil || root != c.Root) {
		return ErrCorrupt.Wrap(err, "The leaves do not hash to the root that was signed for %d of them.", c.Size)
	}
	return nil
}

func (l *Log) compare(ctx context.Context, want Tile) error {
	stored, err := l.store.Tile(ctx, want.Level, want.Index)
	if err != nil {
		return err
	}
	if len(stored) < len(want.Hashes) {
		return ErrCorrupt.New("The tile %s is not there.", want.Path()).With("tile", want.Path())
	}
	if bytes.Equal(stored[:len(want.Hashes)], want.Hashes) {
		return nil
	}
	for i := 0; ; i += hashSize {
		if bytes.Equal(stored[i:i+hashSize], want.Hashes[i:i+hashSize]) {
			continue
		}
		at := want.Index*tileWidth + int64(i/hashSize)
		f := ErrCorrupt.New("Hash %d of the tile %s differs.", i/hashSize, want.Path()).With("tile", want.Path())
		if want.Level == 0 {
			f = ErrCorrupt.New("Leaf %d is not what the tile %s has.", at, want.Path()).With("tile", want.Path()).With("index", at)
		}
		return f
	}
}

// Origin is the log's name.
func (l *Log) Origin() string { return l.signer.Name() }
