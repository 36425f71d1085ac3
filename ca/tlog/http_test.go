package tlog_test

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"hallmark/ca/tlog"
	"hallmark/ca/tlog/tlogtest"

	"golang.org/x/mod/sumdb/note"
	merkle "golang.org/x/mod/sumdb/tlog"
)

func TestTile_PathIsThatOfC2SP(t *testing.T) {
	for _, c := range []struct {
		level int
		index int64
		width int
		want  string
	}{
		{0, 0, 256, "tile/0/000"},
		{0, 0, 1, "tile/0/000.p/1"},
		{0, 999, 256, "tile/0/999"},
		{0, 1000, 256, "tile/0/x001/000"},
		{1, 1234067, 256, "tile/1/x001/x234/067"},
		{1, 1234067, 8, "tile/1/x001/x234/067.p/8"},
		{5, 255, 255, "tile/5/255.p/255"},
	} {
		tile := tlog.Tile{Level: c.level, Index: c.index, Hashes: make([]byte, 32*c.width)}
		if got := tile.Path(); got != c.want {
			t.Errorf("got %s, want %s", got, c.want)
		}
		level, index, width, err := tlog.ParseTilePath(c.want)
		if err != nil || level != c.level || index != c.index || width != c.width {
			t.Errorf("%s: %d %d %d, %v", c.want, level, index, width, err)
		}
		// The library's form has the height between.
		lib := merkle.Tile{H: 8, L: c.level, N: c.index, W: c.width}.Path()
		if strings.Replace(lib, "tile/8/", "tile/", 1) != c.want {
			t.Errorf("the library writes %s", lib)
		}
	}
	for _, bad := range []string{"", "tile", "tile/0", "tile/0/", "tile/0/0", "tile/0/0000", "tile/0/1000", "tile/00/000", "tile/-1/000", "tile/+1/000", "tile/6/000", "tile/0/x000/001",
		"tile/0/001/002", "tile/0/x001", "tile/0/000.p/0", "tile/0/000.p/256", "tile/0/000.p/01", "tile/0/000.p/1/2", "tile/0/000.p", "tile/0/+00", "tile/0/000/", "/tile/0/000",
		"tile/8/0/000", "tile/entries/000", "tile/0/xx01/000", "tile/0/x999/x999/x999/x999/x999/x999/x999/999"} {
		if _, _, _, err := tlog.ParseTilePath(bad); err == nil {
			t.Errorf("%q taken", bad)
		}
	}
}

// webTiles reads tiles as any client of a C2SP log does: over HTTP, with nothing of ours.
type webTiles struct {
	t    *testing.T
	base string
}

func (w webTiles) Height() int                       { return 8 }
func (w webTiles) SaveTiles([]merkle.Tile, [][]byte) {}
func (w webTiles) get(path string) (*http.Response, []byte) {
	w.t.Helper()
	resp, err := http.Get(w.base + path)
	if err != nil {
		w.t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return resp, body
}

func (w webTiles) ReadTiles(tiles []merkle.Tile) ([][]byte, error) {
	out := make([][]byte, len(tiles))
	for i, tile := range tiles {
		path := strings.Replace(tile.Path(), "tile/8/", "tile/", 1)
		resp, body := w.get("/" + path)
		if resp.StatusCode != 200 {
			return nil, fmt.Errorf("%s: %s", path, resp.Status)
		}
		out[i] = body
	}
	return out, nil
}

func TestHandler_ServesWhatTheLibraryVerifies(t *testing.T) {
	store := tlogtest.NewMemory()
	log := tlogtest.NewLog(t, store)
	server := httptest.NewServer(log.Handler())
	defer server.Close()
	web := webTiles{t, server.URL}

	if resp, _ := web.get("/checkpoint"); resp.StatusCode != 404 || resp.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("before the first checkpoint: %s", resp.Status)
	}
	// Two checkpoints, so that a client with the old one reads tiles that have
	// grown since.
	verifier, err := note.NewVerifier(log.VerifierKey())
	if err != nil {
		t.Fatal(err)
	}
	leaves := tlogtest.Leaves(0, 66_000)
	var trees []merkle.Tree
	for _, upTo := range []int64{300, 66_000} {
		n, _ := store.Head(ctx)
		store.Add(ctx, leaves[n:upTo]...)
		if _, err := log.Integrate(ctx); err != nil {
			t.Fatal(err)
		}
		resp, signed := web.get("/checkpoint")
		if !strings.HasPrefix(resp.Header.Get("Content-Type"), "text/plain") || resp.Header.Get("Cache-Control") != "public, max-age=5" {
			t.Errorf("headers %v", resp.Header)
		}
		n2, err := note.Open(signed, note.VerifierList(verifier))
		if err != nil {
			t.Fatal(err)
		}
		var origin, root string
		var size int64
		if _, err := fmt.Sscanf(n2.Text, "%s\n%d\n%s\n", &origin, &size, &root); err != nil || origin != "log.example/test" || size != upTo {
			t.Fatalf("%q: %v", n2.Text, err)
		}
		hash, err := merkle.ParseHash(root)
		if err != nil {
			t.Fatal(err)
		}
		trees = append(trees, merkle.Tree{N: size, Hash: hash})
	}
	for _, tree := range trees {
		reader := merkle.TileHashReader(tree, web)
		for _, i := range []int64{0, 255, 256, tree.N / 2, tree.N - 1} {
			proof, err := merkle.ProveRecord(tree.N, i, reader)
			if err != nil {
				t.Fatal(err)
			}
			if err := merkle.CheckRecord(proof, tree.N, tree.Hash, i, merkle.RecordHash(leaves[i].Entry[:])); err != nil {
				t.Errorf("leaf %d of %d: %v", i, tree.N, err)
			}
		}
	}
	proof, err := merkle.ProveTree(trees[1].N, trees[0].N, merkle.TileHashReader(trees[1], web))
	if err != nil {
		t.Fatal(err)
	}
	if err := merkle.CheckTree(proof, trees[1].N, trees[1].Hash, trees[0].N, trees[0].Hash); err != nil {
		t.Error(err)
	}

	for path, want := range map[string]struct {
		status int
		cache  string
		size   int
	}{
		"/tile/0/000":       {200, "public, max-age=31536000, immutable", 8192},
		"/tile/1/000":       {200, "public, max-age=31536000, immutable", 8192},
		"/tile/0/000.p/44":  {200, "public, max-age=60", 44 * 32},
		"/tile/0/257.p/208": {200, "public, max-age=60", 208 * 32},
		"/tile/2/000.p/1":   {200, "public, max-age=60", 32},
		"/tile/0/257.p/209": {404, "no-store", 0},
		"/tile/0/257":       {404, "no-store", 0},
		"/tile/0/258":       {404, "no-store", 0},
		"/tile/2/000":       {404, "no-store", 0},
		"/tile/0/0":         {404, "no-store", 0},
		"/tile/entries/000": {404, "no-store", 0},
	} {
		resp, body := web.get(path)
		if resp.StatusCode != want.status || resp.Header.Get("Cache-Control") != want.cache || want.size > 0 && len(body) != want.size {
			t.Errorf("%s: %s, %q, %d octets", path, resp.Status, resp.Header.Get("Cache-Control"), len(body))
		}
	}
	if resp, err := http.Post(server.URL+"/checkpoint", "text/plain", nil); err != nil || resp.StatusCode != 405 {
		t.Errorf("POST: %v %v", resp, err)
	}
}
