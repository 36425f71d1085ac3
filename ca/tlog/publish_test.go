package tlog_test

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"hallmark/ca/tlog"
	"hallmark/ca/tlog/tlogtest"

	merkle "golang.org/x/mod/sumdb/tlog"
)

func publisher(l *tlog.Log, dir string) *tlog.Publisher {
	return tlog.NewPublisher(tlog.PublisherConfig{Source: l.Source(), Key: l.VerifierKey(), Dir: dir})
}

// What is published is a log by itself: a plain file server and the library's
// own tile reader are enough to prove every leaf, and no file ever changes but
// the checkpoint.
func TestPublisher_WritesALogThatNeedsNoService(t *testing.T) {
	store := tlogtest.NewMemory()
	l := tlogtest.NewLog(t, store)
	dir := filepath.Join(t.TempDir(), "a", "log")
	p := publisher(l, dir)
	leaves := tlogtest.Leaves(0, 66_000)
	if os.Getenv("HALLMARK_PROOF") != "1" {
		leaves = leaves[:1500]
	}
	seen := map[string][]byte{}
	n := 0
	for _, more := range []int{0, 1, 254, 1, 1, 700, 43, len(leaves) - 1000} {
		if err := store.Add(ctx, leaves[n:n+more]...); err != nil {
			t.Fatal(err)
		}
		n += more
		c, err := l.Integrate(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if n%2 == 0 { // as after a restart
			p = publisher(l, dir)
		}
		if _, err := p.Publish(ctx, c.Note); err != nil {
			t.Fatal(err)
		}
		if again, err := p.Publish(ctx, c.Note); err != nil || again != 0 {
			t.Errorf("again: %d tiles, %v", again, err)
		}
		filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
			if err != nil || d.IsDir() || d.Name() == "checkpoint" {
				return err
			}
			b, err := os.ReadFile(path)
			if have, ok := seen[path]; ok && !bytes.Equal(have, b) {
				t.Errorf("%s changed", path)
			}
			seen[path] = b
			return err
		})

		srv := httptest.NewServer(http.FileServer(http.Dir(dir)))
		src := tlog.Web(srv.URL, nil)
		signed, err := src.Note(ctx)
		if err != nil {
			t.Fatal(err)
		}
		got, err := tlog.ParseCheckpoint(signed, l.VerifierKey())
		if err != nil || got.Size != int64(n) {
			t.Fatalf("%d leaves, %v", got.Size, err)
		}
		tree := tlog.NewTree(src, got)
		for _, i := range []int{0, n / 2, n - 1} {
			if i < 0 || i >= n {
				continue
			}
			proof, err := tree.Inclusion(ctx, int64(i))
			if err != nil {
				t.Fatal(err)
			}
			if err := merkle.CheckRecord(proof, got.Size, got.Root, int64(i), merkle.RecordHash(leaves[i].Entry[:])); err != nil {
				t.Errorf("leaf %d of %d: %v", i, n, err)
			}
		}
		srv.Close()
	}
	// The partial tiles of full ones are gone one checkpoint later; what is left
	// is complete.
	if _, err := os.Stat(filepath.Join(dir, "tile/0/000.p")); len(leaves) > 2000 && err == nil {
		t.Log("partial tiles of the first tile are still there") // restarts forget them, which is harmless
	}
	c, _ := tlog.ParseCheckpoint(must(tlog.Dir(dir).Note(ctx)), l.VerifierKey())
	if rep, err := tlog.NewTree(tlog.Dir(dir), c).Audit(ctx, rows(leaves)); err != nil || len(rep.Findings) != 0 || rep.Leaves != int64(n) {
		t.Errorf("%+v, %v", rep, err)
	}
	// A copy of the copy.
	mirror := t.TempDir()
	m := tlog.NewPublisher(tlog.PublisherConfig{Source: tlog.Dir(dir), Key: l.VerifierKey(), Dir: mirror})
	if _, err := m.Publish(ctx, c.Note); err != nil {
		t.Fatal(err)
	}
	if rep, err := tlog.NewTree(tlog.Dir(mirror), c).Audit(ctx, nil); err != nil || len(rep.Findings) != 0 {
		t.Errorf("%+v, %v", rep, err)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// A directory that says something else is not overwritten, and tiles that do not
// hash to the root are not published.
func TestPublisher_RefusesAForkASetbackAndChangedTiles_S34(t *testing.T) {
	_, key, _ := ed25519.GenerateKey(nil)
	grow := func(leaves ...tlog.Leaf) (*tlog.Log, *tlogtest.Memory, tlog.Checkpoint) {
		store := tlogtest.NewMemory()
		l, err := tlog.New(tlog.Config{Store: store, Origin: "log.example/test", Key: key})
		if err != nil {
			t.Fatal(err)
		}
		store.Add(ctx, leaves...)
		c, err := l.Integrate(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return l, store, c
	}
	leaves := tlogtest.Leaves(0, 600)
	l, _, c := grow(leaves...)
	dir := t.TempDir()
	if _, err := publisher(l, dir).Publish(ctx, c.Note); err != nil {
		t.Fatal(err)
	}
	back, _, cBack := grow(leaves[:300]...)
	if _, err := publisher(back, dir).Publish(ctx, cBack.Note); !errors.Is(err, tlog.ErrBehind) {
		t.Errorf("set back: %v", err)
	}
	forked, _, cFork := grow(tlogtest.Leaves(0, 700)...)
	if _, err := publisher(forked, dir).Publish(ctx, cFork.Note); !errors.Is(err, tlog.ErrForked) {
		t.Errorf("forked: %v", err)
	}
	if _, err := publisher(tlogtest.NewLog(t, tlogtest.NewMemory()), dir).Published(); !errors.Is(err, tlog.ErrPublish) {
		t.Errorf("another log's directory: %v", err)
	}
	for _, level := range []int{0, 1} {
		bad, store, cBad := grow(leaves...)
		store.Corrupt(func(c *tlogtest.Content) { c.Tile(level, 0, func(b []byte) []byte { b[40] ^= 1; return b }) })
		empty := t.TempDir()
		if _, err := publisher(bad, empty).Publish(ctx, cBad.Note); !errors.Is(err, tlog.ErrCorrupt) {
			t.Errorf("a changed tile of level %d: %v", level, err)
		}
		if _, err := os.Stat(filepath.Join(empty, "checkpoint")); err == nil {
			t.Error("the checkpoint was published without its tiles")
		}
	}
	// Somebody wrote into the directory.
	name := filepath.Join(dir, "tile", "0", "002.p", "88")
	if err := os.Remove(filepath.Join(dir, "checkpoint")); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(name, []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := publisher(l, dir).Publish(ctx, c.Note); !errors.Is(err, tlog.ErrPublish) || !strings.Contains(err.Error(), "tile/0/002.p/88") {
		t.Errorf("a strange file: %v", err)
	}
}
