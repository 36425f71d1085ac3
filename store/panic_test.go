package store

import (
	"context"
	"crypto/sha256"
	"path/filepath"
	"testing"
	"time"

	"hallmark/ca/tlog"
	"hallmark/internal/seal"
)

// A panic at the end of a batch, outside of any job, answers everybody who was in
// it and passes the connection on (A57).
func TestBatch_APanicAtItsEndHoldsNobodyUp_A57(t *testing.T) {
	box, err := seal.Open(sha256.New().Sum(nil))
	if err != nil {
		t.Fatal(err)
	}
	db, err := Open(t.Context(), Config{URL: filepath.Join(t.TempDir(), "h.db"), Seal: box})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	leaf := func(placed func(tx *txn, index int64) error) error {
		return db.Atomic(t.Context(), func(ctx context.Context) error {
			txFrom(ctx).appendLeaf(tlog.Block, "main", "", "x", sha256.Sum256(nil), []byte{}, time.Now(), placed)
			return nil
		})
	}
	errs := make(chan error)
	for range 8 {
		go func() { errs <- leaf(func(*txn, int64) error { panic("boom") }) }()
	}
	for range 8 {
		select {
		case err := <-errs:
			if err == nil {
				t.Error("a batch that panicked was called committed")
			}
		case <-time.After(30 * time.Second):
			t.Fatal("nobody is answered")
		}
	}
	if err := leaf(nil); err != nil {
		t.Errorf("the writer does not live: %v", err)
	}
	if size, err := db.Log().Head(t.Context()); err != nil || size != 1 {
		t.Errorf("the log has %d leaves: %v", size, err)
	}
}
