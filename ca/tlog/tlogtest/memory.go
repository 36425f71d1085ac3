package tlogtest

import (
	"bytes"
	"context"
	"errors"
	"sync"

	"hallmark/ca/tlog"
)

type place struct {
	level int
	index int64
}

// Memory is a Store in memory that counts what is asked of it. Its fields with
// capital letters may be read and set between calls.
type Memory struct {
	mu      sync.Mutex
	entries [][32]byte
	tiles   map[place][]byte
	size    int64
	root    [32]byte
	note    []byte

	TilesRead, TilesWritten, EntriesRead int
}

// NewMemory is an empty store.
func NewMemory() *Memory { return &Memory{tiles: map[place][]byte{}} }

// Add commits leaves; their Index must go on where the log ends.
func (m *Memory) Add(_ context.Context, leaves ...tlog.Leaf) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, l := range leaves {
		if l.Index != int64(len(m.entries)) {
			return errors.New("tlogtest: gap in the indexes")
		}
		m.entries = append(m.entries, l.Entry)
	}
	return nil
}

// AddEntries commits bare entries, for tests with very many.
func (m *Memory) AddEntries(entries ...[32]byte) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.entries = append(m.entries, entries...)
}

// Head implements [tlog.Store].
func (m *Memory) Head(context.Context) (int64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return int64(len(m.entries)), nil
}

// Lost implements [tlog.Store]; nothing was lost here.
func (m *Memory) Lost(context.Context, int64, int64) ([]int64, error) { return nil, nil }

// Entries implements [tlog.Store].
func (m *Memory) Entries(_ context.Context, from, to int64) ([][32]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if from < 0 || to < from || to > int64(len(m.entries)) {
		return nil, errors.New("tlogtest: no such entries")
	}
	m.EntriesRead += int(to - from)
	return append([][32]byte(nil), m.entries[from:to]...), nil
}

// Tile implements [tlog.Store].
func (m *Memory) Tile(_ context.Context, level int, index int64) ([]byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.TilesRead++
	return bytes.Clone(m.tiles[place{level, index}]), nil
}

// Integrated implements [tlog.Store].
func (m *Memory) Integrated(context.Context) (int64, [32]byte, []byte, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.size, m.root, bytes.Clone(m.note), nil
}

// Commit implements [tlog.Store].
func (m *Memory) Commit(_ context.Context, oldSize int64, tiles []tlog.Tile, size int64, root [32]byte, note []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.size != oldSize {
		return tlog.ErrMoved.New("")
	}
	for _, t := range tiles {
		m.tiles[place{t.Level, t.Index}] = bytes.Clone(t.Hashes)
	}
	m.TilesWritten += len(tiles)
	m.size, m.root, m.note = size, root, bytes.Clone(note)
	return nil
}

// ResetCounts sets the counters to 0.
func (m *Memory) ResetCounts() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.TilesRead, m.TilesWritten, m.EntriesRead = 0, 0, 0
}

// Corrupt lets a test change what is stored, as a database writer would.
func (m *Memory) Corrupt(change func(c *Content)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := &Content{m.entries, m.size, m.root, m.note, func(level int, index int64, change func([]byte) []byte) {
		m.tiles[place{level, index}] = change(m.tiles[place{level, index}])
	}}
	change(c)
	m.entries, m.size, m.root, m.note = c.Entries, c.Size, c.Root, c.Note
}

// Content is what [Memory.Corrupt] hands out.
type Content struct {
	Entries [][32]byte
	Size    int64
	Root    [32]byte
	Note    []byte
	Tile    func(level int, index int64, change func([]byte) []byte)
}
