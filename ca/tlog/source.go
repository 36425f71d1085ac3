package tlog

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	merkle "golang.org/x/mod/sumdb/tlog"
)

// Source is a log as anybody can read it: its checkpoint and its tiles, from
// the service, from a directory or from a web server (C2SP tlog-tiles).
type Source interface {
	// Note is the newest signed checkpoint.
	Note(ctx context.Context) ([]byte, error)
	// Tile gives exactly width hashes of a tile. What is not there is
	// [ErrTilePath].
	Tile(ctx context.Context, level int, index int64, width int) ([]byte, error)
}

// Source gives the log itself as a Source.
func (l *Log) Source() Source { return ownSource{l} }

type ownSource struct{ l *Log }

func (s ownSource) Note(ctx context.Context) ([]byte, error) {
	c, err := s.l.Checkpoint(ctx)
	return c.Note, err
}

func (s ownSource) Tile(ctx context.Context, level int, index int64, width int) ([]byte, error) {
	b, err := s.l.store.Tile(ctx, level, index)
	if err == nil && len(b) < width*hashSize {
		err = ErrTilePath.New("The tile %s is not there.", tilePath(level, index, width))
	}
	if err != nil {
		return nil, err
	}
	return b[:width*hashSize], nil
}

// files reads paths relative to a directory or URL; a missing one is ErrTilePath.
type files func(ctx context.Context, path string) ([]byte, error)

func (f files) Note(ctx context.Context) ([]byte, error) { return f(ctx, "checkpoint") }

// Tile falls back on the full tile: a partial one may be removed when the tile
// is full (C2SP tlog-tiles).
func (f files) Tile(ctx context.Context, level int, index int64, width int) ([]byte, error) {
	b, err := f(ctx, tilePath(level, index, width))
	if errors.Is(err, ErrTilePath) && width < tileWidth {
		b, err = f(ctx, tilePath(level, index, tileWidth))
		if err == nil && len(b) == tileWidth*hashSize {
			b = b[:width*hashSize]
		}
	}
	if err == nil && len(b) != width*hashSize {
		err = ErrCorrupt.New("The tile %s has %d octets.", tilePath(level, index, width), len(b))
	}
	return b, err
}

// maxFile bounds a file of a published log; a full tile has 8 KiB.
const maxFile = 64 << 10

// Dir is a copy of a log in a directory.
func Dir(dir string) Source {
	return files(func(_ context.Context, path string) ([]byte, error) {
		f, err := os.Open(filepath.Join(dir, filepath.FromSlash(path)))
		if errors.Is(err, fs.ErrNotExist) {
			return nil, ErrTilePath.New("The file %s is not in the copy.", path)
		}
		if err != nil {
			return nil, ErrSource.Wrap(err, "")
		}
		defer f.Close()
		b, err := io.ReadAll(io.LimitReader(f, maxFile))
		if err != nil {
			return nil, ErrSource.Wrap(err, "")
		}
		return b, nil
	})
}

// Web is a published log at a URL. client may be nil.
func Web(url string, client *http.Client) Source {
	if client == nil {
		client = &http.Client{Timeout: 30 * time.Second}
	}
	url = strings.TrimSuffix(url, "/")
	return files(func(ctx context.Context, path string) ([]byte, error) {
		r, err := http.NewRequestWithContext(ctx, http.MethodGet, url+"/"+path, nil)
		if err != nil {
			return nil, ErrSource.Wrap(err, "")
		}
		a, err := client.Do(r)
		if err != nil {
			return nil, ErrSource.Wrap(err, "")
		}
		defer a.Body.Close()
		b, err := io.ReadAll(io.LimitReader(a.Body, maxFile))
		switch {
		case err != nil:
			return nil, ErrSource.Wrap(err, "")
		case a.StatusCode == http.StatusNotFound:
			return nil, ErrTilePath.New("The service has no %s.", path)
		case a.StatusCode != http.StatusOK:
			return nil, ErrSource.New("%s answers with status %d.", url+"/"+path, a.StatusCode)
		}
		return b, nil
	})
}

// Tree is what a checkpoint signs, read from a source. Nothing is taken from a
// tile before it was checked against the signed root, so the source need not be
// trusted.
type Tree struct {
	Checkpoint
	src Source
}

// NewTree makes a Tree of a checkpoint that was opened with the log's key.
func NewTree(src Source, c Checkpoint) *Tree {
	return &Tree{c, &cachedSource{Source: src, have: map[string][]byte{}}}
}

// cachedSource remembers tiles while a tree is read: each leaf's way to the root
// leads through the same few.
type cachedSource struct {
	Source
	mu   sync.Mutex
	have map[string][]byte
}

// maxCached tiles are 8 MiB.
const maxCached = 1024

func (s *cachedSource) Tile(ctx context.Context, level int, index int64, width int) ([]byte, error) {
	name := tilePath(level, index, width)
	s.mu.Lock()
	b, ok := s.have[name]
	s.mu.Unlock()
	if ok {
		return b, nil
	}
	b, err := s.Source.Tile(ctx, level, index, width)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.have) >= maxCached {
		clear(s.have)
	}
	s.have[name] = b
	return b, nil
}

// sourceReader lets the library read the source.
type sourceReader struct {
	ctx context.Context
	src Source
}

func (r *sourceReader) Height() int { return tileHeight }

func (r *sourceReader) ReadTiles(tiles []merkle.Tile) ([][]byte, error) {
	out := make([][]byte, len(tiles))
	for i, t := range tiles {
		b, err := r.src.Tile(r.ctx, t.L, t.N, t.W)
		if err != nil {
			return nil, err
		}
		out[i] = b
	}
	return out, nil
}

func (r *sourceReader) SaveTiles([]merkle.Tile, [][]byte) {}

func (t *Tree) reader(ctx context.Context) merkle.HashReader {
	return merkle.TileHashReader(merkle.Tree{N: t.Size, Hash: t.Root}, &sourceReader{ctx, t.src})
}

// Inclusion proves a leaf in the tree (RFC 6962, Section 2.1.1).
func (t *Tree) Inclusion(ctx context.Context, index int64) ([]Hash, error) {
	if index < 0 || index >= t.Size {
		return nil, ErrRange.New("Leaf %d of %d.", index, t.Size)
	}
	p, err := merkle.ProveRecord(t.Size, index, t.reader(ctx))
	return p, readFault(err)
}

// Extends says whether the tree contains that of an older checkpoint.
func (t *Tree) Extends(ctx context.Context, older Checkpoint) error {
	return extends(t.reader(ctx), t.Checkpoint, older)
}

// Leaves gives the Merkle leaves at some indexes, checked against the root.
func (t *Tree) Leaves(ctx context.Context, indexes []int64) ([]Hash, error) {
	stored := make([]int64, len(indexes))
	for i, index := range indexes {
		if index < 0 || index >= t.Size {
			return nil, ErrRange.New("Leaf %d of %d.", index, t.Size)
		}
		stored[i] = merkle.StoredHashIndex(0, index)
	}
	hashes, err := t.reader(ctx).ReadHashes(stored)
	return hashes, readFault(err)
}
