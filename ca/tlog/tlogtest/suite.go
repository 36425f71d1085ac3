package tlogtest

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"hallmark/ca/tlog"
)

// Fixture is a store under test.
type Fixture struct {
	Store tlog.Store
	// Add commits leaves durably, as the ledger does; their Index goes on where
	// the log ends.
	Add func(ctx context.Context, leaves ...tlog.Leaf) error
	// Reopen gives the same data through a new store, as after a restart or in
	// another process. nil = the store cannot be opened twice.
	Reopen func(t *testing.T) tlog.Store
}

// Leaves makes n leaves from index on.
func Leaves(from int64, n int) []tlog.Leaf {
	out := make([]tlog.Leaf, n)
	for i := range out {
		index := from + int64(i)
		var subject [32]byte
		copy(subject[:], fmt.Sprintf("certificate %d", index))
		out[i] = tlog.NewLeaf(tlog.Issue, "tenant", "order-1", fmt.Sprintf("unit-%d", index), subject, time.Unix(1_800_000_000, 0))
		out[i].Index = index
	}
	return out
}

// NewLog makes a Log with a key of its own over a store.
func NewLog(t testing.TB, store tlog.Store) *tlog.Log {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	l, err := tlog.New(tlog.Config{Store: store, Origin: "log.example/test", Key: key})
	if err != nil {
		t.Fatal(err)
	}
	return l
}

// Test runs the contract of [tlog.Store] against new, empty stores from open.
func Test(t *testing.T, open func(t *testing.T) Fixture) {
	ctx := context.Background()
	tile := func(level int, index int64, width int, fill byte) tlog.Tile {
		return tlog.Tile{Level: level, Index: index, Hashes: bytes.Repeat([]byte{fill}, width*32)}
	}

	t.Run("an empty store", func(t *testing.T) {
		s := open(t).Store
		if n, err := s.Head(ctx); err != nil || n != 0 {
			t.Errorf("head %d, %v", n, err)
		}
		if size, root, note, err := s.Integrated(ctx); err != nil || size != 0 || root != [32]byte{} || note != nil {
			t.Errorf("integrated %d %x %q, %v", size, root, note, err)
		}
		if hashes, err := s.Tile(ctx, 0, 0); err != nil || hashes != nil {
			t.Errorf("tile %x, %v", hashes, err)
		}
	})

	t.Run("entries come back in order", func(t *testing.T) {
		f := open(t)
		leaves := Leaves(0, 700)
		for from := 0; from < 700; from += 70 {
			if err := f.Add(ctx, leaves[from:from+70]...); err != nil {
				t.Fatal(err)
			}
		}
		if n, err := f.Store.Head(ctx); err != nil || n != 700 {
			t.Fatalf("head %d, %v", n, err)
		}
		for _, r := range [][2]int64{{0, 700}, {0, 1}, {699, 700}, {255, 257}, {300, 300}} {
			got, err := f.Store.Entries(ctx, r[0], r[1])
			if err != nil || int64(len(got)) != r[1]-r[0] {
				t.Fatalf("%v: %d entries, %v", r, len(got), err)
			}
			for i, e := range got {
				if e != leaves[r[0]+int64(i)].Entry {
					t.Fatalf("%v: entry %d differs", r, i)
				}
			}
		}
	})

	t.Run("tiles are replaced by wider ones", func(t *testing.T) {
		s := open(t).Store
		if err := s.Commit(ctx, 0, []tlog.Tile{tile(0, 0, 5, 1)}, 5, [32]byte{5}, []byte("note 5")); err != nil {
			t.Fatal(err)
		}
		if err := s.Commit(ctx, 5, []tlog.Tile{tile(0, 0, 256, 2), tile(0, 1, 1, 3), tile(1, 0, 1, 4)}, 257, [32]byte{7}, []byte("note 257")); err != nil {
			t.Fatal(err)
		}
		for _, want := range []tlog.Tile{tile(0, 0, 256, 2), tile(0, 1, 1, 3), tile(1, 0, 1, 4)} {
			got, err := s.Tile(ctx, want.Level, want.Index)
			if err != nil || !bytes.Equal(got, want.Hashes) {
				t.Errorf("%s: %d octets, %v", want.Path(), len(got), err)
			}
			clear(got) // it is ours
		}
		if got, _ := s.Tile(ctx, 0, 1); !bytes.Equal(got, tile(0, 1, 1, 3).Hashes) {
			t.Error("a caller's change reached the store")
		}
		if size, root, note, err := s.Integrated(ctx); err != nil || size != 257 || root != [32]byte{7} || string(note) != "note 257" {
			t.Errorf("integrated %d %x %q, %v", size, root, note, err)
		}
	})

	t.Run("a commit from another size writes nothing", func(t *testing.T) {
		s := open(t).Store
		if err := s.Commit(ctx, 0, []tlog.Tile{tile(0, 0, 5, 1)}, 5, [32]byte{5}, []byte("note 5")); err != nil {
			t.Fatal(err)
		}
		for _, old := range []int64{0, 4, 6, -1} {
			err := s.Commit(ctx, old, []tlog.Tile{tile(0, 0, 9, 9), tile(3, 3, 3, 3)}, 9, [32]byte{9}, []byte("note 9"))
			if !errors.Is(err, tlog.ErrMoved) {
				t.Errorf("from %d: %v", old, err)
			}
		}
		if size, root, note, _ := s.Integrated(ctx); size != 5 || root != [32]byte{5} || string(note) != "note 5" {
			t.Errorf("integrated %d %x %q", size, root, note)
		}
		if got, _ := s.Tile(ctx, 0, 0); len(got) != 5*32 {
			t.Errorf("the tile has %d octets", len(got))
		}
		if got, _ := s.Tile(ctx, 3, 3); got != nil {
			t.Error("a tile of the refused commit is there")
		}
	})

	t.Run("of many commits from one size one wins", func(t *testing.T) {
		f := open(t)
		stores := []tlog.Store{f.Store}
		if f.Reopen != nil {
			stores = append(stores, f.Reopen(t))
		}
		var wg sync.WaitGroup
		var mu sync.Mutex
		var winners []byte
		for i := range byte(8) {
			wg.Go(func() {
				err := stores[int(i)%len(stores)].Commit(ctx, 0, []tlog.Tile{tile(0, 0, int(i)+1, i)}, int64(i)+1, [32]byte{i}, []byte{i})
				if err == nil {
					mu.Lock()
					winners = append(winners, i)
					mu.Unlock()
				} else if !errors.Is(err, tlog.ErrMoved) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if len(winners) != 1 {
			t.Fatalf("winners %v", winners)
		}
		w := winners[0]
		size, root, note, err := f.Store.Integrated(ctx)
		hashes, err2 := f.Store.Tile(ctx, 0, 0)
		if err != nil || err2 != nil || size != int64(w)+1 || root != [32]byte{w} || !bytes.Equal(note, []byte{w}) || len(hashes) != (int(w)+1)*32 {
			t.Errorf("%d won, stored are %d %x %q and %d octets of tile", w, size, root, note, len(hashes))
		}
	})

	t.Run("a whole log, in steps, and after a restart", func(t *testing.T) {
		f := open(t)
		log := NewLog(t, f.Store)
		var leaves []tlog.Leaf
		for _, n := range []int{1, 254, 1, 1, 300, 0, 43} {
			more := Leaves(int64(len(leaves)), n)
			if err := f.Add(ctx, more...); err != nil {
				t.Fatal(err)
			}
			leaves = append(leaves, more...)
			c, err := log.Integrate(ctx)
			if err != nil || c.Size != int64(len(leaves)) {
				t.Fatalf("size %d of %d, %v", c.Size, len(leaves), err)
			}
		}
		if err := log.Verify(ctx); err != nil {
			t.Error(err)
		}
		for _, i := range []int{0, 255, 256, 599} {
			r, err := log.Receipt(ctx, leaves[i])
			if err != nil {
				t.Fatal(err)
			}
			if _, err := tlog.VerifyReceipt(r, log.VerifierKey()); err != nil {
				t.Error(err)
			}
		}
		if f.Reopen == nil {
			return
		}
		s := f.Reopen(t)
		size, root, note, err := s.Integrated(ctx)
		size0, root0, note0, err0 := f.Store.Integrated(ctx)
		if err != nil || err0 != nil || size != size0 || root != root0 || !bytes.Equal(note, note0) {
			t.Errorf("after reopening %d %x, before %d %x (%v, %v)", size, root, size0, root0, err, err0)
		}
		if n, err := s.Head(ctx); err != nil || n != int64(len(leaves)) {
			t.Errorf("after reopening head %d, %v", n, err)
		}
	})

	t.Run("two nodes make one log", func(t *testing.T) {
		f := open(t)
		_, key, _ := ed25519.GenerateKey(nil)
		other := f.Store
		if f.Reopen != nil {
			other = f.Reopen(t)
		}
		var logs []*tlog.Log
		for _, s := range []tlog.Store{f.Store, other} {
			l, err := tlog.New(tlog.Config{Store: s, Origin: "log.example/test", Key: key})
			if err != nil {
				t.Fatal(err)
			}
			logs = append(logs, l)
		}
		const rounds, per = 10, 40
		var wg sync.WaitGroup
		for round := range rounds {
			if err := f.Add(ctx, Leaves(int64(round*per), per)...); err != nil {
				t.Fatal(err)
			}
			for _, l := range logs {
				wg.Go(func() {
					if _, err := l.Integrate(ctx); err != nil {
						t.Error(err)
					}
				})
			}
		}
		wg.Wait()
		for _, l := range logs {
			c, err := l.Integrate(ctx)
			if err != nil || c.Size != rounds*per {
				t.Errorf("size %d, %v", c.Size, err)
			}
			if err := l.Verify(ctx); err != nil {
				t.Error(err)
			}
		}
	})
}
