package tlog_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"hallmark/ca/tlog"
	"hallmark/ca/tlog/tlogtest"
	"hallmark/internal/fault"

	merkle "golang.org/x/mod/sumdb/tlog"
)

var ctx = context.Background()

// reference is the tree as the library stores it, one hash at a time.
type reference struct{ hashes []merkle.Hash }

func (r *reference) ReadHashes(indexes []int64) ([]merkle.Hash, error) {
	out := make([]merkle.Hash, len(indexes))
	for i, x := range indexes {
		out[i] = r.hashes[x]
	}
	return out, nil
}

func (r *reference) add(t testing.TB, n int64, entry [32]byte) {
	t.Helper()
	more, err := merkle.StoredHashes(n, entry[:], r)
	if err != nil {
		t.Fatal(err)
	}
	r.hashes = append(r.hashes, more...)
}

// Every size up to 600, one leaf at a time, against the library's own tree and checks.
func TestLog_AgreesWithTheLibraryAtEverySize(t *testing.T) {
	const top = 600
	store := tlogtest.NewMemory()
	log := tlogtest.NewLog(t, store)
	ref := &reference{}
	leaves := tlogtest.Leaves(0, top)
	roots := make([]merkle.Hash, top+1)

	c, err := log.Integrate(ctx)
	if err != nil || c.Size != 0 || c.Root != sha256.Sum256(nil) {
		t.Fatalf("empty: %+v, %v", c, err)
	}
	for n := int64(1); n <= top; n++ {
		leaf := leaves[n-1]
		if err := store.Add(ctx, leaf); err != nil {
			t.Fatal(err)
		}
		ref.add(t, n-1, leaf.Entry)
		c, err := log.Integrate(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if roots[n], err = merkle.TreeHash(n, ref); err != nil || c.Size != n || c.Root != roots[n] {
			t.Fatalf("at %d: %d %v, want %v (%v)", n, c.Size, c.Root, roots[n], err)
		}
		for _, i := range []int64{0, n / 3, n / 2, n - 1} {
			proof, err := log.InclusionProof(ctx, i, n)
			if err != nil {
				t.Fatal(err)
			}
			if err := merkle.CheckRecord(proof, n, c.Root, i, merkle.RecordHash(leaves[i].Entry[:])); err != nil {
				t.Fatalf("leaf %d of %d: %v", i, n, err)
			}
		}
		for _, old := range []int64{1, n / 2, n - 1} {
			if old < 1 || old == n {
				continue
			}
			proof, err := log.ConsistencyProof(ctx, old, n)
			if err != nil {
				t.Fatal(err)
			}
			if err := merkle.CheckTree(proof, n, c.Root, old, roots[old]); err != nil {
				t.Fatalf("%d to %d: %v", old, n, err)
			}
		}
	}

	// Proofs for older trees, from the tiles of the newest.
	for _, size := range []int64{1, 2, 255, 256, 257, 511, 512, 513, 599, 600} {
		for i := int64(0); i < size; i += 7 {
			proof, err := log.InclusionProof(ctx, i, size)
			if err != nil {
				t.Fatal(err)
			}
			if err := merkle.CheckRecord(proof, size, roots[size], i, tlog.MerkleLeaf(leaves[i].Entry)); err != nil {
				t.Fatalf("leaf %d of %d: %v", i, size, err)
			}
		}
	}
	for _, r := range [][2]int64{{-1, 5}, {5, 5}, {0, 601}, {7, 3}} {
		if _, err := log.InclusionProof(ctx, r[0], r[1]); !errors.Is(err, tlog.ErrRange) {
			t.Errorf("leaf %d of %d: %v", r[0], r[1], err)
		}
	}
	if _, err := log.ConsistencyProof(ctx, 5, 601); !errors.Is(err, tlog.ErrRange) {
		t.Errorf("got %v", err)
	}
	if err := log.Verify(ctx); err != nil {
		t.Error(err)
	}
}

// One step with many leaves gives the tree that many steps give, across the
// boundaries of tiles of two levels and of batches.
func TestLog_DoesNotDependOnSteps(t *testing.T) {
	for _, sizes := range [][]int{{255, 1}, {256}, {257}, {65535, 1, 1}, {65536}, {65537}, {131073}, {1, 255, 256, 65279, 65000}} {
		store := tlogtest.NewMemory()
		log := tlogtest.NewLog(t, store)
		ref := &reference{}
		n := int64(0)
		var c tlog.Checkpoint
		for _, more := range sizes {
			entries := many(n, more)
			store.AddEntries(entries...)
			for _, e := range entries {
				ref.add(t, n, e)
				n++
			}
			var err error
			if c, err = log.Integrate(ctx); err != nil {
				t.Fatal(err)
			}
		}
		want, err := merkle.TreeHash(n, ref)
		if err != nil || c.Root != want || c.Size != n {
			t.Errorf("%v: %d %v, want %v (%v)", sizes, c.Size, c.Root, want, err)
		}
		if err := log.Verify(ctx); err != nil {
			t.Errorf("%v: %v", sizes, err)
		}
	}
}

// many makes bare entries, quickly.
func many(from int64, n int) [][32]byte {
	out := make([][32]byte, n)
	for i := range out {
		binary.BigEndian.PutUint64(out[i][:], uint64(from)+uint64(i))
	}
	return out
}

// Clarifications, way 5: an append at a million leaves costs O(log n).
func TestLog_AppendsToAMillionLeavesInLogN(t *testing.T) {
	store := tlogtest.NewMemory()
	_, key, _ := ed25519.GenerateKey(rand.Reader)
	config := tlog.Config{Store: store, Origin: "log.example/test", Key: key}
	log, err := tlog.New(config)
	if err != nil {
		t.Fatal(err)
	}
	store.AddEntries(many(0, 1_000_000)...)
	if _, err := log.Integrate(ctx); err != nil {
		t.Fatal(err)
	}
	const levels = 3 // 256³ is above a million
	for i, add := range []int{1, 1, 32, 1} {
		store.ResetCounts()
		n, _ := store.Head(ctx)
		leaves := tlogtest.Leaves(n, add)
		if err := store.Add(ctx, leaves...); err != nil {
			t.Fatal(err)
		}
		if _, err := log.Integrate(ctx); err != nil {
			t.Fatal(err)
		}
		if store.TilesRead > levels || store.TilesWritten > levels || store.EntriesRead != add {
			t.Errorf("append %d: %d tiles read, %d written, %d entries read", i, store.TilesRead, store.TilesWritten, store.EntriesRead)
		}
		store.ResetCounts()
		r, err := log.Receipt(ctx, leaves[0])
		if err != nil {
			t.Fatal(err)
		}
		if store.TilesRead > 2*levels || store.EntriesRead != 0 {
			t.Errorf("receipt: %d tiles and %d entries read", store.TilesRead, store.EntriesRead)
		}
		if len(r.Proof) > 20 {
			t.Errorf("the proof has %d hashes", len(r.Proof))
		}
	}
	// A new process, which has seen nothing, is as cheap.
	store.ResetCounts()
	head, _ := store.Head(ctx)
	store.AddEntries(many(head, 1)...)
	if log, err = tlog.New(config); err != nil {
		t.Fatal(err)
	}
	if _, err := log.Integrate(ctx); err != nil || store.EntriesRead != 1 || store.TilesRead > levels {
		t.Errorf("%d entries and %d tiles read, %v", store.EntriesRead, store.TilesRead, err)
	}
	store.ResetCounts()
	if _, err := log.Integrate(ctx); err != nil || store.TilesRead+store.TilesWritten+store.EntriesRead != 0 {
		t.Errorf("nothing to do costs %d tiles read, %v", store.TilesRead, err)
	}
}

func TestLeaf_HashesItsFactsInTheDocumentedForm(t *testing.T) {
	l := tlog.Leaf{Type: tlog.Issue, Tenant: "t", Account: "o", Holder: "unit"}
	for i := range l.Salt {
		l.Salt[i] = byte(i)
	}
	for i := range l.Subject {
		l.Subject[i] = 0xee
	}
	var b bytes.Buffer
	b.Write(l.Salt[:])
	for _, s := range []string{"hallmark log entry v1", "issue", "t", "o", "unit"} {
		binary.Write(&b, binary.BigEndian, uint32(len(s)))
		b.WriteString(s)
	}
	b.Write(l.Subject[:])
	if want := sha256.Sum256(b.Bytes()); l.Compute() != want {
		t.Errorf("got %x, want %x", l.Compute(), want)
	}
	// Golden: receipts in the field depend on it.
	if got := l.Compute(); [4]byte(got[:4]) != [4]byte{0xbe, 0x71, 0x98, 0x13} {
		t.Errorf("the form changed: %x", got[:4])
	}

	l.Entry = l.Compute()
	if err := l.Check(); err != nil {
		t.Error(err)
	}
	for name, change := range map[string]func(*tlog.Leaf){
		"type":            func(l *tlog.Leaf) { l.Type = tlog.Revoke },
		"unknown type":    func(l *tlog.Leaf) { l.Type = "other"; l.Entry = l.Compute() },
		"tenant":          func(l *tlog.Leaf) { l.Tenant = "u" },
		"shifted borders": func(l *tlog.Leaf) { l.Tenant, l.Account = "to", "" },
		"holder":          func(l *tlog.Leaf) { l.Holder = "" },
		"subject":         func(l *tlog.Leaf) { l.Subject[31] ^= 1 },
		"salt":            func(l *tlog.Leaf) { l.Salt[0] ^= 1 },
	} {
		c := l
		if change(&c); !errors.Is(c.Check(), tlog.ErrLeaf) {
			t.Errorf("%s changed and taken", name)
		}
	}
	if a, b := tlogtest.Leaves(0, 1)[0], tlogtest.Leaves(0, 1)[0]; a.Entry == b.Entry {
		t.Error("equal facts give equal entries: the salt is missing")
	}
}

func TestReceipt_ProvesOfflineAndNoticesEveryChange(t *testing.T) {
	store := tlogtest.NewMemory()
	log := tlogtest.NewLog(t, store)
	leaves := tlogtest.Leaves(0, 300)
	if err := store.Add(ctx, leaves[:299]...); err != nil {
		t.Fatal(err)
	}
	if _, err := log.Receipt(ctx, leaves[7]); !errors.Is(err, tlog.ErrPending) {
		t.Errorf("before integration: %v", err)
	}
	if _, err := log.Integrate(ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := log.Receipt(ctx, leaves[299]); !errors.Is(err, tlog.ErrPending) || fault.KindOf(err) != fault.Unavailable {
		t.Errorf("not integrated: %v", err)
	}
	made, err := log.Receipt(ctx, leaves[7])
	if err != nil {
		t.Fatal(err)
	}
	sent, err := json.Marshal(made)
	if err != nil {
		t.Fatal(err)
	}
	read := func() *tlog.Receipt {
		var r tlog.Receipt
		if err := json.Unmarshal(sent, &r); err != nil {
			t.Fatal(err)
		}
		return &r
	}
	c, err := tlog.VerifyReceipt(read(), log.VerifierKey())
	if err != nil || c.Size != 299 || c.Origin != "log.example/test" || read().Leaf != leaves[7] {
		t.Fatalf("%+v, %v", c, err)
	}

	other := tlogtest.NewLog(t, tlogtest.NewMemory())
	if _, err := tlog.VerifyReceipt(made, other.VerifierKey()); !errors.Is(err, tlog.ErrCheckpoint) {
		t.Errorf("another log's key: %v", err)
	}
	for name, change := range map[string]func(*tlog.Receipt){
		"holder":       func(r *tlog.Receipt) { r.Leaf.Holder = "unit-8" },
		"index":        func(r *tlog.Receipt) { r.Leaf.Index = 8 },
		"far index":    func(r *tlog.Receipt) { r.Leaf.Index = 1 << 40 },
		"before":       func(r *tlog.Receipt) { r.Leaf.Index = -1 },
		"a new entry":  func(r *tlog.Receipt) { r.Leaf.Holder = "x"; r.Leaf.Entry = r.Leaf.Compute() },
		"proof":        func(r *tlog.Receipt) { r.Proof[3][0] ^= 1 },
		"shorter":      func(r *tlog.Receipt) { r.Proof = r.Proof[:8] },
		"no proof":     func(r *tlog.Receipt) { r.Proof = nil },
		"longer":       func(r *tlog.Receipt) { r.Proof = append(r.Proof, tlog.Hash{}) },
		"size":         func(r *tlog.Receipt) { r.Checkpoint = strings.Replace(r.Checkpoint, "\n299\n", "\n298\n", 1) },
		"origin":       func(r *tlog.Receipt) { r.Checkpoint = strings.Replace(r.Checkpoint, "log.example", "log.exampel", 1) },
		"no signature": func(r *tlog.Receipt) { r.Checkpoint, _, _ = strings.Cut(r.Checkpoint, "\n\n") },
		"promise":      func(r *tlog.Receipt) { r.Checkpoint = "" },
	} {
		r := read()
		change(r)
		if _, err := tlog.VerifyReceipt(r, log.VerifierKey()); err == nil {
			t.Errorf("%s changed and taken", name)
		}
	}
	if _, err := tlog.VerifyReceipt(nil, log.VerifierKey()); err == nil {
		t.Error("nothing was taken for a receipt")
	}
	if err := json.Unmarshal([]byte(`{"leaf":{"salt":"AAAA"}}`), new(tlog.Receipt)); err == nil {
		t.Error("a short salt was taken")
	}
}

// S32: what a database writer changes is never signed over, and fsck names it.
func TestLog_NamesWhatADatabaseWriterChanged_S32(t *testing.T) {
	flip := func(at int) func([]byte) []byte {
		return func(b []byte) []byte { b[at] ^= 1; return b }
	}
	for name, c := range map[string]struct {
		change   func(*tlogtest.Content)
		verify   string // what fsck says
		sees     bool   // whether Integrate itself must refuse
		wantCode error
	}{
		"an old entry":     {func(c *tlogtest.Content) { c.Entries[5][0] ^= 1 }, "Leaf 5 is not what the tile tile/0/000 has", false, tlog.ErrCorrupt},
		"an entry deleted": {func(c *tlogtest.Content) { c.Entries = c.Entries[:299] }, "299 leaves are recorded, 300", true, tlog.ErrBehind},
		"two swapped":      {func(c *tlogtest.Content) { c.Entries[260], c.Entries[261] = c.Entries[261], c.Entries[260] }, "Leaf 260 is not what the tile tile/0/001.p/44 has", false, tlog.ErrCorrupt},
		"a full tile":      {func(c *tlogtest.Content) { c.Tile(0, 0, flip(33)) }, "Leaf 1 is not what the tile tile/0/000 has", false, tlog.ErrCorrupt},
		"an edge tile":     {func(c *tlogtest.Content) { c.Tile(0, 1, flip(0)) }, "Leaf 256", true, tlog.ErrCorrupt},
		"an upper tile":    {func(c *tlogtest.Content) { c.Tile(1, 0, flip(31)) }, "Hash 0 of the tile tile/1/000.p/1 differs", true, tlog.ErrCorrupt},
		"a tile deleted":   {func(c *tlogtest.Content) { c.Tile(0, 0, func([]byte) []byte { return nil }) }, "tile/0/000 is not there", false, tlog.ErrCorrupt},
		"a tile cut":       {func(c *tlogtest.Content) { c.Tile(0, 1, func(b []byte) []byte { return b[:32] }) }, "tile/0/001.p/44 is not there", true, tlog.ErrCorrupt},
		"the root":         {func(c *tlogtest.Content) { c.Root[0] ^= 1 }, "stored size and root", true, tlog.ErrCorrupt},
		"the size":         {func(c *tlogtest.Content) { c.Size = 256 }, "stored size and root", true, tlog.ErrCorrupt},
		"the note":         {func(c *tlogtest.Content) { c.Note = bytes.Replace(c.Note, []byte("300"), []byte("256"), 1) }, "not ours", true, tlog.ErrCorrupt},
		"the note gone":    {func(c *tlogtest.Content) { c.Note = nil }, "not ours", true, tlog.ErrCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			store := tlogtest.NewMemory()
			log := tlogtest.NewLog(t, store)
			if err := store.Add(ctx, tlogtest.Leaves(0, 300)...); err != nil {
				t.Fatal(err)
			}
			if _, err := log.Integrate(ctx); err != nil {
				t.Fatal(err)
			}
			store.Corrupt(c.change)
			if err := log.Verify(ctx); !errors.Is(err, c.wantCode) || !strings.Contains(err.Error(), c.verify) {
				t.Errorf("fsck says: %v", err)
			}
			if !c.sees {
				return
			}
			_, before, _, _ := store.Integrated(ctx)
			if name != "an entry deleted" {
				n, _ := store.Head(ctx)
				store.Add(ctx, tlogtest.Leaves(n, 1)...)
			}
			if _, err := log.Integrate(ctx); !errors.Is(err, c.wantCode) {
				t.Errorf("integrating over it: %v", err)
			}
			if _, after, _, _ := store.Integrated(ctx); after != before {
				t.Error("the changed tree was extended")
			}
		})
	}
}

// S34: a log that was set back as a whole is noticed with a checkpoint kept elsewhere.
func TestLog_ChecksAgainstACheckpointHeldElsewhere_S34(t *testing.T) {
	_, key, _ := ed25519.GenerateKey(rand.Reader)
	open := func(store tlog.Store) *tlog.Log {
		l, err := tlog.New(tlog.Config{Store: store, Origin: "log.example/test", Key: key})
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	leaves := tlogtest.Leaves(0, 600)
	grow := func(leaves ...tlog.Leaf) (*tlog.Log, *tlogtest.Memory, tlog.Checkpoint) {
		store := tlogtest.NewMemory()
		if err := store.Add(ctx, leaves...); err != nil {
			t.Fatal(err)
		}
		l := open(store)
		c, err := l.Integrate(ctx)
		if err != nil {
			t.Fatal(err)
		}
		return l, store, c
	}
	full, _, atAll := grow(leaves...)
	set, _, atHalf := grow(leaves[:300]...)
	rewritten := slices.Clone(leaves)
	rewritten[17] = tlogtest.Leaves(17, 1)[0] // another salt
	forked, _, atFork := grow(rewritten...)

	if err := full.CheckAgainst(ctx, atHalf.Note); err != nil {
		t.Errorf("an older checkpoint of the same log: %v", err)
	}
	if err := full.CheckAgainst(ctx, atAll.Note); err != nil {
		t.Errorf("the newest: %v", err)
	}
	if err := set.CheckAgainst(ctx, atAll.Note); !errors.Is(err, tlog.ErrBehind) {
		t.Errorf("set back: %v", err)
	}
	if err := forked.CheckAgainst(ctx, atHalf.Note); !errors.Is(err, tlog.ErrForked) {
		t.Errorf("rewritten before the checkpoint: %v", err)
	}
	if err := forked.CheckAgainst(ctx, atAll.Note); !errors.Is(err, tlog.ErrForked) {
		t.Errorf("another root of the same size: %v", err)
	}
	if err := full.CheckAgainst(ctx, atFork.Note[:20]); !errors.Is(err, tlog.ErrCheckpoint) {
		t.Errorf("no note: %v", err)
	}
}

// swapped is a store whose content changes under a running process.
type swapped struct{ tlog.Store }

func TestLog_RefusesAForkWhileRunning(t *testing.T) {
	_, key, _ := ed25519.GenerateKey(rand.Reader)
	leaves := tlogtest.Leaves(0, 50)
	a, b := tlogtest.NewMemory(), tlogtest.NewMemory()
	a.Add(ctx, leaves...)
	leaves[3] = tlogtest.Leaves(3, 1)[0]
	b.Add(ctx, append(leaves, tlogtest.Leaves(50, 20)...)...)
	s := &swapped{b}
	config := tlog.Config{Store: s, Origin: "log.example/test", Key: key}
	other, err := tlog.New(config)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := other.Integrate(ctx); err != nil {
		t.Fatal(err)
	}
	log, _ := tlog.New(config)
	s.Store = a
	if _, err := log.Integrate(ctx); err != nil {
		t.Fatal(err)
	}
	s.Store = b // signed by our key, larger, and another history
	if _, err := log.Integrate(ctx); !errors.Is(err, tlog.ErrForked) {
		t.Errorf("got %v", err)
	}
	s.Store = tlogtest.NewMemory()
	if _, err := log.Integrate(ctx); !errors.Is(err, tlog.ErrBehind) {
		t.Errorf("emptied: %v", err)
	}
}

// racing lets another node integrate between our reading and our commit.
type racing struct {
	tlog.Store
	before func()
	moved  int
}

func (r *racing) Commit(ctx context.Context, old int64, tiles []tlog.Tile, size int64, root [32]byte, note []byte) error {
	if before := r.before; before != nil {
		r.before = nil
		before()
	}
	err := r.Store.Commit(ctx, old, tiles, size, root, note)
	if errors.Is(err, tlog.ErrMoved) {
		r.moved++
	}
	return err
}

func TestLog_GivesWayToAnotherNodeAndGoesOn(t *testing.T) {
	_, key, _ := ed25519.GenerateKey(rand.Reader)
	store := tlogtest.NewMemory()
	race := &racing{Store: store}
	mine, err := tlog.New(tlog.Config{Store: race, Origin: "log.example/test", Key: key})
	if err != nil {
		t.Fatal(err)
	}
	theirs, _ := tlog.New(tlog.Config{Store: store, Origin: "log.example/test", Key: key})
	store.Add(ctx, tlogtest.Leaves(0, 10)...)
	race.before = func() {
		if _, err := theirs.Integrate(ctx); err != nil {
			t.Error(err)
		}
		store.Add(ctx, tlogtest.Leaves(10, 5)...)
	}
	c, err := mine.Integrate(ctx)
	if err != nil || c.Size != 15 || race.moved != 1 {
		t.Errorf("size %d after %d lost races, %v", c.Size, race.moved, err)
	}
	if err := theirs.Verify(ctx); err != nil {
		t.Error(err)
	}
}

func TestNew_RefusesABadConfig(t *testing.T) {
	_, ed, _ := ed25519.GenerateKey(rand.Reader)
	ec, _ := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	for name, c := range map[string]tlog.Config{
		"no store":    {Origin: "a", Key: ed},
		"no key":      {Store: tlogtest.NewMemory(), Origin: "a"},
		"EC key":      {Store: tlogtest.NewMemory(), Origin: "a", Key: ec},
		"no origin":   {Store: tlogtest.NewMemory(), Key: ed},
		"space in it": {Store: tlogtest.NewMemory(), Origin: "a b", Key: ed},
		"plus in it":  {Store: tlogtest.NewMemory(), Origin: "a+b", Key: ed},
		"two lines":   {Store: tlogtest.NewMemory(), Origin: "a\nb", Key: ed},
	} {
		if _, err := tlog.New(c); !errors.Is(err, tlog.ErrConfig) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// token is a signer that fails, or computes wrongly.
type token struct {
	crypto.Signer
	fail, lie bool
}

func (k *token) Sign(r io.Reader, msg []byte, o crypto.SignerOpts) ([]byte, error) {
	if k.fail {
		return nil, errors.New("token gone")
	}
	sig, err := k.Signer.Sign(r, msg, o)
	if k.lie && err == nil {
		sig[0] ^= 1
	}
	return sig, err
}

func TestLog_PublishesNothingWithoutAGoodSignature(t *testing.T) {
	_, key, _ := ed25519.GenerateKey(rand.Reader)
	k := &token{Signer: key}
	store := tlogtest.NewMemory()
	log, err := tlog.New(tlog.Config{Store: store, Origin: "log.example/test", Key: k, Now: func() time.Time { return time.Unix(0, 0) }})
	if err != nil {
		t.Fatal(err)
	}
	store.Add(ctx, tlogtest.Leaves(0, 3)...)
	for _, bad := range []token{{fail: true}, {lie: true}} {
		k.fail, k.lie = bad.fail, bad.lie
		if _, err := log.Integrate(ctx); !errors.Is(err, tlog.ErrSigner) {
			t.Errorf("got %v", err)
		}
		if size, _, note, _ := store.Integrated(ctx); size != 0 || note != nil || store.TilesWritten != 0 {
			t.Error("something was written")
		}
	}
	k.fail, k.lie = false, false
	if c, err := log.Integrate(ctx); err != nil || c.Size != 3 {
		t.Errorf("the token is back: %d, %v", c.Size, err)
	}
}

func FuzzParseTilePath(f *testing.F) {
	for _, s := range []string{"tile/0/000", "tile/5/x001/x234/067.p/8", "tile/0/x000/001", "tile/6/000", "tile/0/000.p/256", "tile/0/1000"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, path string) {
		level, index, width, err := tlog.ParseTilePath(path)
		if err != nil {
			return
		}
		again := tlog.Tile{Level: level, Index: index, Hashes: make([]byte, 32*width)}.Path()
		if again != path {
			t.Fatalf("%q is written %q", path, again)
		}
	})
}

func FuzzParseCheckpoint(f *testing.F) {
	store := tlogtest.NewMemory()
	log := tlogtest.NewLog(f, store)
	c, err := log.Integrate(ctx)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(c.Note)
	f.Add([]byte("log.example/test\n1\n\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		if got, err := tlog.ParseCheckpoint(in, log.VerifierKey()); err == nil && got.Size != 0 {
			t.Fatalf("forged: %q", in)
		}
	})
}
