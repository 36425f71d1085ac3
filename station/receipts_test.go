package station_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	"hallmark/api/factoryapi"
	"hallmark/ca/tlog"
	"hallmark/ca/tlog/tlogtest"
	"hallmark/station"
	"hallmark/station/spool"
)

// receiptService has a log; only what was integrated has a receipt.
type receiptService struct {
	t      *testing.T
	log    *tlog.Log
	leaves map[string]tlog.Leaf
	lie    func(r *tlog.Receipt)
	key    string
	asked  int
}

func (s *receiptService) Receipts(ctx context.Context, serials []string) (a factoryapi.ReceiptAnswer, err error) {
	s.asked += len(serials)
	a.LogKey = s.key
	if len(serials) > 100 {
		return a, errors.New("too many")
	}
	for _, serial := range serials {
		r, err := s.log.Receipt(ctx, s.leaves[serial])
		if errors.Is(err, tlog.ErrPending) {
			continue
		}
		if err != nil {
			s.t.Error(err)
			return a, err
		}
		if s.lie != nil {
			s.lie(r)
		}
		text, err := json.Marshal(r)
		if err != nil {
			return a, err
		}
		a.Receipts = append(a.Receipts, factoryapi.StationReceipt{Serial: serial, Receipt: text})
	}
	return a, nil
}

// A station keeps a verified receipt for everything that it made, once, also
// over restarts and a torn file; and never one that does not hold.
func TestCollectReceipts_KeepsWhatHolds(t *testing.T) {
	ctx, dir := t.Context(), t.TempDir()
	journal, err := spool.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer journal.Close()
	store := tlogtest.NewMemory()
	log := tlogtest.NewLog(t, store)
	svc := &receiptService{t: t, log: log, leaves: map[string]tlog.Leaf{}, key: log.VerifierKey()}
	var leaves []tlog.Leaf
	const n = 130
	for i := range n {
		serial, der := fmt.Sprintf("%040x", i), []byte(fmt.Sprint("certificate ", i))
		sum := sha256.Sum256(der)
		l := tlog.NewLeaf(tlog.Issue, "main", "O", fmt.Sprint("u", i), sum, time.Unix(1_800_000_000, 0))
		l.Index = int64(i)
		leaves = append(leaves, l)
		svc.leaves[serial] = l
		job := fmt.Sprint("unit:", i)
		for _, r := range []spool.Record{{State: spool.Planned, Order: "O", Unit: fmt.Sprint("u", i)}, {State: spool.Issued, Serial: serial, Certificate: der, Fingerprint: sum[:]}, {State: spool.Committed}} {
			if r.Job = job; i == n-1 && r.State == spool.Committed {
				continue // still in the nest
			}
			if err := journal.Append(r); err != nil {
				t.Fatal(err)
			}
		}
	}
	integrate := func(l ...tlog.Leaf) {
		t.Helper()
		if err := store.Add(ctx, l...); err != nil {
			t.Fatal(err)
		}
		if _, err := log.Integrate(ctx); err != nil {
			t.Fatal(err)
		}
	}
	collect := func(wantKept, wantWaiting int, wantErr error) {
		t.Helper()
		keep, err := spool.OpenReceipts(dir)
		if err != nil {
			t.Fatal(err)
		}
		defer keep.Close()
		kept, waiting, err := station.CollectReceipts(ctx, svc, journal, keep, nil)
		if kept != wantKept || waiting != wantWaiting || !errors.Is(err, wantErr) {
			t.Errorf("%d kept, %d wait, %v; want %d, %d, %v", kept, waiting, err, wantKept, wantWaiting, wantErr)
		}
	}
	integrate(leaves[:50]...)
	svc.lie = func(r *tlog.Receipt) { r.Leaf.Holder = "other" }
	collect(0, n-1, nil)
	svc.lie = func(r *tlog.Receipt) { *r = *must(log.Receipt(ctx, leaves[(r.Leaf.Index+1)%50])) } // somebody else's
	collect(0, n-1, nil)
	svc.lie = nil
	collect(50, n-1-50, nil)
	other := tlogtest.NewLog(t, tlogtest.NewMemory())
	svc.key = other.VerifierKey()
	collect(0, n-1-50, spool.ErrLogKey)
	svc.key = log.VerifierKey()

	// The power fails while a line is written.
	file := filepath.Join(dir, "receipts.jsonl")
	b := must(os.ReadFile(file))
	if err := os.WriteFile(file, b[:len(b)-7], 0o600); err != nil {
		t.Fatal(err)
	}
	integrate(leaves[50:]...)
	collect(n-1-49, 0, nil)
	svc.asked = 0
	collect(0, 0, nil)
	if svc.asked != 0 {
		t.Errorf("%d are asked for again", svc.asked)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}
