package witness_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"hallmark/ca/tlog"
	"hallmark/ca/tlog/tlogtest"
	"hallmark/ca/tlog/witness"
)

const origin = "log.example/test"

// tree is a log in memory that shares its key with others of a test.
type tree struct {
	*tlog.Log
	store *tlogtest.Memory
}

func (l *tree) grow(t testing.TB, leaves ...tlog.Leaf) tlog.Checkpoint {
	t.Helper()
	if err := l.store.Add(t.Context(), leaves...); err != nil {
		t.Fatal(err)
	}
	c, err := l.Integrate(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func newKey(t testing.TB) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func newTree(t testing.TB, key ed25519.PrivateKey) *tree {
	t.Helper()
	store := tlogtest.NewMemory()
	l, err := tlog.New(tlog.Config{Store: store, Origin: origin, Key: key})
	if err != nil {
		t.Fatal(err)
	}
	return &tree{l, store}
}

// place is a witness with a key in a directory; open may be called again.
type place struct {
	dir, name string
	key       ed25519.PrivateKey
	logs      []string
}

func newPlace(t testing.TB, name string, logs ...string) place {
	t.Helper()
	p := place{t.TempDir(), name, newKey(t), logs}
	if err := witness.Init(p.dir, p.vkey(t)); err != nil {
		t.Fatal(err)
	}
	return p
}

func (p place) vkey(t testing.TB) string {
	t.Helper()
	k, err := tlog.CosignerKey(p.name, p.key.Public().(ed25519.PublicKey))
	if err != nil {
		t.Fatal(err)
	}
	return k
}

func (p place) open(t testing.TB) *witness.Witness {
	t.Helper()
	w, err := witness.Open(witness.Config{Name: p.name, Key: p.key, Dir: p.dir, Logs: p.logs})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { w.Close() })
	return w
}

// Acceptance 7: of two trees of one log the witness signs the first, also after a
// restart, and keeps both as evidence.
func TestWitness_RefusesAForkedAndASmallerCheckpoint_S34(t *testing.T) {
	ctx, key := t.Context(), newKey(t)
	a, b := newTree(t, key), newTree(t, key)
	leaves := tlogtest.Leaves(0, 600)
	other := tlogtest.Leaves(0, 600) // other salts, so another history
	p := newPlace(t, "witness.example/w1", a.VerifierKey())
	w := p.open(t)

	c300 := a.grow(t, leaves[:300]...)
	if _, err := w.AddCheckpoint(ctx, 0, nil, c300.Note); err != nil {
		t.Fatal(err)
	}
	c600 := a.grow(t, leaves[300:]...)
	proof, err := a.ConsistencyProof(ctx, 300, 600)
	if err != nil {
		t.Fatal(err)
	}
	line, err := w.AddCheckpoint(ctx, 300, proof, c600.Note)
	if err != nil {
		t.Fatal(err)
	}
	signed, err := tlog.AddCosignature(c600.Note, line, w.VerifierKey())
	if err != nil {
		t.Fatal(err)
	}
	policy := tlog.Policy{Log: a.VerifierKey(), Witnesses: []string{w.VerifierKey()}, Quorum: 1}
	if c, have, err := policy.Open(signed); err != nil || c.Size != 600 || len(have) != 1 || time.Since(have[0].At) > time.Minute {
		t.Fatalf("%+v %+v %v", c, have, err)
	}

	f300 := b.grow(t, other[:300]...)
	f601 := b.grow(t, append(other[300:], tlogtest.Leaves(600, 1)...)...)
	forkProof, err := b.ConsistencyProof(ctx, 600, 601)
	if err != nil {
		t.Fatal(err)
	}
	f600 := newTree(t, key)
	fork600 := f600.grow(t, other...)
	refuse := func(w *witness.Witness) {
		t.Helper()
		for name, r := range map[string]struct {
			old   int64
			proof []tlog.Hash
			note  []byte
			want  error
		}{
			"a smaller checkpoint of the same tree":          {300, nil, c300.Note, witness.ErrSize},
			"a smaller one, as if nothing was signed":        {0, nil, c300.Note, witness.ErrSize},
			"a fork that is smaller":                         {300, nil, f300.Note, witness.ErrSize},
			"a fork of the same size":                        {600, nil, fork600.Note, witness.ErrConflict},
			"a fork that grew":                               {600, forkProof, f601.Note, witness.ErrProof},
			"a fork that grew, without a proof":              {600, nil, f601.Note, witness.ErrProof},
			"a fork that grew, as if nothing was signed":     {0, nil, f601.Note, witness.ErrSize},
			"the newest again with a proof it does not need": {600, proof, c600.Note, witness.ErrProof},
		} {
			if line, err := w.AddCheckpoint(ctx, r.old, r.proof, r.note); !errors.Is(err, r.want) || line != nil {
				t.Errorf("%s: %q, %v; want %v", name, line, err, r.want.Error())
			}
		}
		if n := w.Newest(origin); n.Size != 600 || n.Root != c600.Root {
			t.Errorf("the witness has %d %v", n.Size, n.Root)
		}
		if _, err := w.AddCheckpoint(ctx, 600, nil, c600.Note); err != nil {
			t.Errorf("the newest again: %v", err)
		}
	}
	refuse(w)
	w.Close()
	refuse(p.open(t))
	found, err := filepath.Glob(filepath.Join(p.dir, "evidence", "*"))
	if err != nil || len(found) != 2 {
		t.Fatalf("evidence: %v, %v", found, err)
	}
	text, err := os.ReadFile(found[0])
	if err != nil || !bytes.Contains(text, []byte(c600.Root.String())) {
		t.Errorf("the evidence lacks what was signed: %s, %v", text, err)
	}
}

// The state is on the disk when the answer leaves: whoever opens it after any
// answer refuses what contradicts it. A lost or foreign state is no new start.
func TestWitness_WithoutItsStateSignsNothing(t *testing.T) {
	key := newKey(t)
	l := newTree(t, key)
	p := newPlace(t, "witness.example/w1", l.VerifierKey())
	w := p.open(t)
	if _, err := witness.Open(witness.Config{Name: p.name, Key: p.key, Dir: p.dir, Logs: p.logs}); !errors.Is(err, witness.ErrLocked) {
		t.Errorf("a second one in the directory: %v", err)
	}
	c := l.grow(t, tlogtest.Leaves(0, 5)...)
	if _, err := w.AddCheckpoint(t.Context(), 0, nil, c.Note); err != nil {
		t.Fatal(err)
	}
	w.Close()
	name := filepath.Join(p.dir, "state.json")
	good, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	fork := newTree(t, key).grow(t, tlogtest.Leaves(0, 2)...)
	forged := bytes.Replace(good, []byte(`"`+origin+`": "`), []byte(`"`+origin+`": "`+strings.ReplaceAll(string(fork.Note), "\n", `\n`)), 1)
	for what, b := range map[string][]byte{
		"lost": nil, "cut": good[:len(good)/2], "of another witness": bytes.Replace(good, []byte("w1"), []byte("w2"), 1),
		"with a checkpoint that it did not sign": forged, "with a changed size": bytes.Replace(good, []byte(`\n5\n`), []byte(`\n4\n`), 1),
	} {
		if b == nil {
			os.Remove(name)
		} else if bytes.Equal(b, good) {
			t.Errorf("%s: the test changes nothing", what)
		} else if err := os.WriteFile(name, b, 0o600); err != nil {
			t.Fatal(err)
		}
		if w, err := witness.Open(witness.Config{Name: p.name, Key: p.key, Dir: p.dir, Logs: p.logs}); !errors.Is(err, witness.ErrState) {
			t.Errorf("%s: %v", what, err)
			if w != nil {
				w.Close()
			}
		}
	}
	if err := os.WriteFile(name, good, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := witness.Init(p.dir, p.vkey(t)); !errors.Is(err, witness.ErrState) {
		t.Errorf("a second beginning: %v", err)
	}
	if n := p.open(t).Newest(origin); n.Size != 5 {
		t.Errorf("it has %d leaves", n.Size)
	}
}

// Requests of two histories at once: whatever the order, everything that was
// signed is in one of them.
func TestWitness_OfTwoHistoriesAtOnceSignsOne(t *testing.T) {
	key := newKey(t)
	a, b := newTree(t, key), newTree(t, key)
	p := newPlace(t, "witness.example/w1", a.VerifierKey())
	w := p.open(t)
	srv := httptest.NewServer(w.Handler())
	defer srv.Close()
	var wg sync.WaitGroup
	var mu sync.Mutex
	signed := map[string]int{}
	for name, l := range map[string]*tree{"a": a, "b": b} {
		c := l.grow(t, tlogtest.Leaves(0, 100)...)
		for range 8 {
			wg.Go(func() {
				g, err := witness.NewGroup(witness.GroupConfig{Log: a.VerifierKey(), Witnesses: []witness.Remote{{URL: srv.URL, Key: w.VerifierKey()}}, Timeout: time.Minute})
				if err != nil {
					t.Error(err)
					return
				}
				_, err = g.Cosign(t.Context(), l, c)
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					signed[name]++
				} else if !errors.Is(err, tlog.ErrForked) {
					t.Error(err)
				}
			})
		}
	}
	wg.Wait()
	if len(signed) != 1 || signed["a"]+signed["b"] != 8 {
		t.Errorf("signed: %v", signed)
	}
}

// The statuses of C2SP tlog-witness, over HTTP.
func TestHandler_AnswersAsTheProtocolSays(t *testing.T) {
	key := newKey(t)
	l, stranger := newTree(t, key), newTree(t, newKey(t))
	p := newPlace(t, "witness.example/w1", l.VerifierKey())
	srv := httptest.NewServer(p.open(t).Handler())
	defer srv.Close()
	c := l.grow(t, tlogtest.Leaves(0, 10)...)
	alien := stranger.grow(t, tlogtest.Leaves(0, 10)...)
	unknown := bytes.Replace(c.Note, []byte(origin), []byte("log.example/other"), 1)
	grown := l.grow(t, tlogtest.Leaves(10, 5)...)
	wrong := base64.StdEncoding.EncodeToString(make([]byte, 32)) + "\n"
	for _, r := range []struct {
		what, body string
		status     int
		answer     string
	}{
		{"garbage", "hello", 400, ""},
		{"a leading zero", "old 00\n\n" + string(c.Note), 400, ""},
		{"a negative size", "old -1\n\n" + string(c.Note), 400, ""},
		{"a bad hash", "old 0\nxx\n\n" + string(c.Note), 400, ""},
		{"too long a proof", "old 0\n" + strings.Repeat(wrong, 64) + "\n" + string(c.Note), 400, ""},
		{"an old size above the checkpoint's", "old 11\n\n" + string(c.Note), 400, ""},
		{"an unknown log", "old 0\n\n" + string(unknown), 404, ""},
		{"another key", "old 0\n\n" + string(alien.Note), 403, ""},
		{"a size that it never signed", "old 3\n\n" + string(c.Note), 409, "0\n"},
		{"a proof from nothing", "old 0\n" + wrong + "\n" + string(c.Note), 422, ""},
		{"the first", "old 0\n\n" + string(c.Note), 200, "\u2014 witness.example/w1 "},
		{"as if it were the first", "old 0\n\n" + string(grown.Note), 409, "10\n"},
		{"a wrong proof", "old 10\n" + wrong + "\n" + string(grown.Note), 422, ""},
	} {
		a, err := http.Post(srv.URL+"/add-checkpoint", "text/plain", strings.NewReader(r.body))
		if err != nil {
			t.Fatal(err)
		}
		b, _ := io.ReadAll(a.Body)
		a.Body.Close()
		if a.StatusCode != r.status || !strings.HasPrefix(string(b), r.answer) {
			t.Errorf("%s: %d %q, want %d %q", r.what, a.StatusCode, b, r.status, r.answer)
		}
		if a.StatusCode == 409 && a.Header.Get("Content-Type") != "text/x.tlog.size" {
			t.Errorf("%s: content type %q", r.what, a.Header.Get("Content-Type"))
		}
	}
}

// The library's own note reader, with a verifier written from the specification
// alone, takes what we sign.
type plainCosigner struct {
	name string
	hash uint32
	pub  ed25519.PublicKey
}

func (p plainCosigner) Name() string    { return p.name }
func (p plainCosigner) KeyHash() uint32 { return p.hash }
func (p plainCosigner) Verify(msg, sig []byte) bool {
	var at uint64
	for _, b := range sig[:8] {
		at = at<<8 | uint64(b)
	}
	return ed25519.Verify(p.pub, []byte(fmt.Sprintf("cosignature/v1\ntime %d\n%s", at, msg)), sig[8:])
}

func TestGroup_QuorumAndPolicy(t *testing.T) {
	ctx := t.Context()
	l := newTree(t, newKey(t))
	var remotes []witness.Remote
	var servers []*httptest.Server
	var places []place
	for i := range 3 {
		p := newPlace(t, fmt.Sprintf("witness.example/w%d", i), l.VerifierKey())
		w := p.open(t)
		srv := httptest.NewServer(w.Handler())
		defer srv.Close()
		remotes, servers, places = append(remotes, witness.Remote{URL: srv.URL + "/", Key: w.VerifierKey()}), append(servers, srv), append(places, p)
	}
	g, err := witness.NewGroup(witness.GroupConfig{Log: l.VerifierKey(), Witnesses: remotes, Quorum: 2, Timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	signed, err := g.Cosign(ctx, l, l.grow(t, tlogtest.Leaves(0, 10)...))
	if err != nil {
		t.Fatal(err)
	}
	lv, err := note.NewVerifier(l.VerifierKey())
	if err != nil {
		t.Fatal(err)
	}
	verifiers := []note.Verifier{lv}
	for i, p := range places {
		var hash uint32
		if _, err := fmt.Sscanf(strings.Split(remotes[i].Key, "+")[1], "%x", &hash); err != nil {
			t.Fatal(err)
		}
		verifiers = append(verifiers, plainCosigner{p.name, hash, p.key.Public().(ed25519.PublicKey)})
	}
	if n, err := note.Open(signed, note.VerifierList(verifiers...)); err != nil || len(n.Sigs) != 4 || len(n.UnverifiedSigs) != 0 {
		t.Fatalf("%+v, %v\n%s", n, err, signed)
	}

	// One is silent: the quorum holds, and the state says who.
	servers[1].Close()
	signed, err = g.Cosign(ctx, l, l.grow(t, tlogtest.Leaves(10, 300)...))
	if err != nil {
		t.Fatal(err)
	}
	if _, have, err := g.Policy().Open(signed); err != nil || len(have) != 2 {
		t.Errorf("%+v, %v", have, err)
	}
	for i, s := range g.State() {
		if (s.Err != nil) != (i == 1) || s.Size != map[bool]int64{true: 10, false: 310}[i == 1] {
			t.Errorf("state %d: %+v", i, s)
		}
	}
	// Two are silent: there is none, and the note is still the log's.
	servers[2].Close()
	c := l.grow(t, tlogtest.Leaves(310, 1)...)
	signed, err = g.Cosign(ctx, l, c)
	if !errors.Is(err, tlog.ErrQuorum) {
		t.Errorf("got %v", err)
	}
	if _, _, err := g.Policy().Open(signed); !errors.Is(err, tlog.ErrQuorum) {
		t.Errorf("got %v", err)
	}
	if got, err := tlog.ParseCheckpoint(signed, l.VerifierKey()); err != nil || got.Size != 311 {
		t.Errorf("%+v, %v", got, err)
	}
	for _, bad := range []witness.GroupConfig{
		{Log: l.VerifierKey(), Witnesses: remotes, Quorum: 4},
		{Log: l.VerifierKey(), Witnesses: append(remotes[:1:1], remotes[0])},
		{Log: l.VerifierKey(), Witnesses: []witness.Remote{{URL: "ftp://x", Key: remotes[0].Key}}},
		{Log: l.VerifierKey(), Witnesses: []witness.Remote{{URL: servers[0].URL, Key: l.VerifierKey()}}},
	} {
		if _, err := witness.NewGroup(bad); err == nil {
			t.Errorf("taken: %+v", bad)
		}
	}
}

// S34: at the start a witness that saw more, or something else, is believed, and
// one that is silent is not waited for.
func TestGroup_KnowsADatabaseThatWentBackOrWasEmptied_S34(t *testing.T) {
	ctx, key := t.Context(), newKey(t)
	l := newTree(t, key)
	p := newPlace(t, "witness.example/w1", l.VerifierKey())
	srv := httptest.NewServer(p.open(t).Handler())
	defer srv.Close()
	group := func() *witness.Group {
		g, err := witness.NewGroup(witness.GroupConfig{Log: l.VerifierKey(), Witnesses: []witness.Remote{{URL: srv.URL, Key: p.vkey(t)}}, Timeout: time.Minute})
		if err != nil {
			t.Fatal(err)
		}
		return g
	}
	leaves := tlogtest.Leaves(0, 400)
	if _, err := group().Cosign(ctx, l, l.grow(t, leaves[:300]...)); err != nil {
		t.Fatal(err)
	}
	check := func(l *tree) error { return group().Check(ctx, l, l.Newest) }
	if err := check(l); err != nil {
		t.Error(err)
	}
	back, forked := newTree(t, key), newTree(t, key)
	back.grow(t, leaves[:299]...)
	forked.grow(t, tlogtest.Leaves(0, 350)...)
	if err := check(back); !errors.Is(err, tlog.ErrBehind) {
		t.Errorf("set back: %v", err)
	}
	if err := check(newTree(t, key)); !errors.Is(err, tlog.ErrBehind) {
		t.Errorf("emptied: %v", err)
	}
	if err := check(forked); !errors.Is(err, tlog.ErrForked) {
		t.Errorf("rewritten: %v", err)
	}
	l.grow(t, leaves[300:]...) // committed, and then the service died before it asked
	if err := check(l); err != nil {
		t.Error(err)
	}
	srv.Close()
	if err := check(l); err != nil {
		t.Errorf("a silent witness: %v", err)
	}
}

func FuzzHandler(f *testing.F) {
	key := ed25519.NewKeyFromSeed(make([]byte, 32))
	store := tlogtest.NewMemory()
	l, err := tlog.New(tlog.Config{Store: store, Origin: origin, Key: key})
	if err != nil {
		f.Fatal(err)
	}
	if err := store.Add(context.Background(), tlogtest.Leaves(0, 5)...); err != nil {
		f.Fatal(err)
	}
	c, err := l.Integrate(context.Background())
	if err != nil {
		f.Fatal(err)
	}
	p := newPlace(f, "w", l.VerifierKey())
	w := p.open(f)
	h := w.Handler()
	f.Add([]byte("old 0\n\n" + string(c.Note)))
	f.Add([]byte("old 5\nPlRNCrwHpqhGrupue0L7gxbjbMiKA9temvuZZDDpkaw=\n\n" + string(c.Note)))
	f.Add([]byte("old 18446744073709551616\n\n"))
	f.Fuzz(func(t *testing.T, body []byte) {
		a := httptest.NewRecorder()
		h.ServeHTTP(a, httptest.NewRequest(http.MethodPost, "/add-checkpoint", bytes.NewReader(body)))
		if a.Code == http.StatusOK {
			if _, err := tlog.AddCosignature(c.Note, a.Body.Bytes(), w.VerifierKey()); err != nil {
				t.Errorf("it signed something else than the one checkpoint there is: %v", err)
			}
		}
	})
}
