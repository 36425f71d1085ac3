package tlog

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"

	merkle "golang.org/x/mod/sumdb/tlog"

	"hallmark/internal/durable"
)

// PublisherConfig makes a Publisher.
type PublisherConfig struct {
	Source Source       // what is published: [Log.Source], or another copy
	Key    string       // the log's verifier key
	Dir    string       // made if it is not there
	Log    *slog.Logger // nil = discard
}

// Publisher writes a log as static files that any web server or CDN can serve:
// checkpoint and tile/<level>/<index>, laid out as in C2SP tlog-tiles.
//
// A file under tile/ never changes under its name, so it can be cached for ever;
// only the file checkpoint does. Tiles are on disk before the checkpoint that
// needs them, so that a crash leaves a complete older log, and every tile is
// checked against the signed root before it is written.
type Publisher struct {
	cfg PublisherConfig

	mu    sync.Mutex
	prune []string // partial tiles that nobody needs after the next checkpoint
}

// NewPublisher makes a Publisher. It does no I/O.
func NewPublisher(c PublisherConfig) *Publisher {
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	return &Publisher{cfg: c}
}

// Published is the checkpoint in the directory; [ErrPending] if there is none.
// What is there and is not this log's is [ErrPublish].
func (p *Publisher) Published() (Checkpoint, error) {
	b, err := os.ReadFile(p.path("checkpoint"))
	if errors.Is(err, fs.ErrNotExist) {
		return Checkpoint{Root: emptyRoot}, ErrPending.New("Nothing was published to %s yet.", p.cfg.Dir)
	}
	if err != nil {
		return Checkpoint{}, ErrPublish.Wrap(err, "")
	}
	c, err := ParseCheckpoint(b, p.cfg.Key)
	if err != nil {
		return Checkpoint{}, ErrPublish.Wrap(err, "The file checkpoint in %s was not signed by this log.", p.cfg.Dir)
	}
	return c, nil
}

func (p *Publisher) path(name string) string {
	return filepath.Join(p.cfg.Dir, filepath.FromSlash(name))
}

// Publish brings the directory up to a signed checkpoint, which must extend the
// one that is there ([ErrForked], [ErrBehind]), and returns the number of tiles
// that it wrote.
func (p *Publisher) Publish(ctx context.Context, signed []byte) (tiles int, err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c, err := ParseCheckpoint(signed, p.cfg.Key)
	if err != nil {
		return 0, err
	}
	old, err := p.Published()
	if err != nil && !errors.Is(err, ErrPending) {
		return 0, err
	}
	if bytes.Equal(old.Note, signed) {
		return 0, nil
	}
	tree := NewTree(p.cfg.Source, c)
	if err := tree.Extends(ctx, old); err != nil {
		return 0, err
	}
	hashes := tree.reader(ctx)
	full := []string{}
	for _, t := range merkle.NewTiles(tileHeight, old.Size, c.Size) {
		b, err := tree.src.Tile(ctx, t.L, t.N, t.W)
		if err != nil {
			return tiles, err
		}
		if err := checkTile(hashes, t, b); err != nil {
			return tiles, err
		}
		name := tilePath(t.L, t.N, t.W)
		if err := p.put(name, b); err != nil {
			return tiles, err
		}
		tiles++
		if t.W == tileWidth {
			full = append(full, name+".p")
		}
	}
	if err := p.write("checkpoint", signed); err != nil {
		return tiles, err
	}
	// Whoever read the checkpoint before this one may still want its partial
	// tiles; those of the one before that, nobody.
	for _, name := range p.prune {
		if err := os.RemoveAll(p.path(name)); err != nil {
			p.cfg.Log.WarnContext(ctx, "partial tiles of a full one not removed", "path", name, "error", err)
		}
	}
	p.prune = full
	p.cfg.Log.DebugContext(ctx, "log published", "size", c.Size, "tiles", tiles)
	return tiles, nil
}

// checkTile compares a tile with what the signed root says: the library reads
// the hashes above it, or in it, and checks them.
func checkTile(r merkle.HashReader, t merkle.Tile, b []byte) error {
	bad := func(err error) error {
		return ErrCorrupt.Wrap(err, "The tile %s does not hash to the signed root.", tilePath(t.L, t.N, t.W)).With("tile", tilePath(t.L, t.N, t.W))
	}
	if t.W == tileWidth {
		above, err := r.ReadHashes([]int64{merkle.StoredHashIndex(tileHeight*(t.L+1), t.N)})
		if err != nil {
			return bad(err)
		}
		if subtree(b) != above[0] {
			return bad(nil)
		}
		return nil
	}
	indexes := make([]int64, t.W)
	for i := range indexes {
		indexes[i] = merkle.StoredHashIndex(tileHeight*t.L, t.N*tileWidth+int64(i))
	}
	want, err := r.ReadHashes(indexes)
	if err != nil {
		return bad(err)
	}
	for i := range want {
		if !bytes.Equal(want[i][:], b[i*hashSize:(i+1)*hashSize]) {
			return bad(nil)
		}
	}
	return nil
}

// put writes a tile once. The same octets under the name are what a crash left.
func (p *Publisher) put(name string, b []byte) error {
	have, err := os.ReadFile(p.path(name))
	switch {
	case err == nil && bytes.Equal(have, b):
		return nil
	case err == nil:
		return ErrPublish.New("The file %s has other octets.", name)
	case !errors.Is(err, fs.ErrNotExist):
		return ErrPublish.Wrap(err, "")
	}
	return p.write(name, b)
}

func (p *Publisher) write(name string, b []byte) error {
	file := p.path(name)
	if err := makeDirs(filepath.Dir(file)); err != nil {
		return err
	}
	return durable.WriteFile(file, b, 0o644)
}

// makeDirs makes a directory that stays: each new one is synced in its parent.
func makeDirs(dir string) error {
	if _, err := os.Stat(dir); err == nil {
		return nil
	}
	parent := filepath.Dir(dir)
	if parent != dir {
		if err := makeDirs(parent); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return durable.SyncDir(parent)
}
