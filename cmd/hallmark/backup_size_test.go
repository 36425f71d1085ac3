package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"filippo.io/age"

	"hallmark/ca"
	"hallmark/ca/tlog"
	"hallmark/internal/lane"
	"hallmark/internal/seal"
	"hallmark/store"
	"hallmark/store/storetest"
)

// TestBackup_AMillionCertificates_A77 is the figures of docs/backup.md: how long a
// backup of a million certificates takes, how large it is, what it costs the line
// meanwhile, and how long a restore takes (5 minutes at most). HALLMARK_ROWS makes
// another number of them. Part of make proof.
func TestBackup_AMillionCertificates_A77(t *testing.T) {
	if !long() {
		t.Skip("part of make proof")
	}
	n, _ := strconv.Atoi(os.Getenv("HALLMARK_ROWS"))
	if n == 0 {
		n = 1_000_000
	}
	dir := t.TempDir()
	cfg := &Config{State: filepath.Join(dir, "state"), dir: dir, Database: filepath.Join(dir, "state", "h.db")}
	id := must(age.GenerateX25519Identity())
	cfg.Backup = BackupConfig{Directory: filepath.Join(dir, "backups"), Keep: 2, Recipients: []string{id.Recipient().String()}}
	if err := os.MkdirAll(cfg.State, 0o700); err != nil {
		t.Fatal(err)
	}
	box := must(seal.Create(filepath.Join(cfg.State, "seal.key")))
	db := must(store.Open(t.Context(), store.Config{URL: cfg.Database, Seal: box}))
	defer db.Close()
	storetest.Order(t, db, "PO-1", 10_000_000)
	key := must(vault{filepath.Join(cfg.State, "keys"), box}.ed25519Key("log"))
	log := must(tlog.New(tlog.Config{Store: db.Log(), Origin: "log.example.com", Key: key}))

	// Many rows share a commit, and each is as long as that of a real certificate.
	start := time.Now()
	octets := func(n int) []byte {
		b := make([]byte, n)
		rand.Read(b)
		return b
	}
	birth := func(i int) ca.Claim {
		c := storetest.Birth(t, "PO-1", "st-1", fmt.Sprintf("SN-%08d", i))
		c.Quota, c.TBS = 10_000_000, octets(520)
		return c
	}
	l := db.Ledger()
	ctx := lane.With(t.Context(), lane.Line)
	const together = 1000
	for from := 0; from < n; from += together {
		rows := make([]ca.Reservation, min(together, n-from))
		if err := db.Atomic(ctx, func(ctx context.Context) error {
			for i := range rows {
				var err error
				if rows[i], _, err = l.Reserve(ctx, birth(from+i)); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if err := db.Atomic(ctx, func(ctx context.Context) error {
			for i := range rows {
				if _, err := l.Record(ctx, rows[i], octets(640)); err != nil {
					return err
				}
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		if from%100_000 == 0 {
			if _, err := log.Integrate(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if _, err := log.Integrate(t.Context()); err != nil {
		t.Fatal(err)
	}
	t.Logf("%d certificates made in %s", n, time.Since(start).Round(time.Second))

	var made atomic.Int64
	next := atomic.Int64{}
	next.Store(int64(n))
	line := func(until func() bool) float64 {
		was, start := made.Load(), time.Now()
		var wg sync.WaitGroup
		for range 8 {
			wg.Go(func() {
				for !until() {
					storetest.Make(t, db, birth(int(next.Add(1))))
					made.Add(1)
				}
			})
		}
		wg.Wait()
		return float64(made.Load()-was) / time.Since(start).Seconds()
	}
	seconds := func(d time.Duration) func() bool {
		end := time.Now().Add(d)
		return func() bool { return time.Now().After(end) }
	}
	alone := line(seconds(5 * time.Second))
	j := &backupJob{cfg: cfg, db: db, box: box, logKey: log.VerifierKey(), now: time.Now, log: newLogger(os.Stderr, "error"), busy: func() bool { return true }}
	var ended atomic.Bool
	var r *backupResult
	var err error
	go func() { r, err = j.make(t.Context()); ended.Store(true) }()
	beside := line(ended.Load)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("the line makes %.0f/s alone and %.0f/s while a backup of %s runs", alone, beside, r.Took.Round(time.Second))
	j.busy = nil
	if r, err = j.make(t.Context()); err != nil {
		t.Fatal(err)
	}
	size := must(os.Stat(cfg.Database)).Size()
	t.Logf("a backup alone: %s, %d rows, %d MB of a database of %d MB", r.Took.Round(time.Second), r.Rows, r.Octets>>20, size>>20)
	to := restorePlace{state: filepath.Join(dir, "back"), database: filepath.Join(dir, "back", "h.db")}
	start = time.Now()
	m, err := restore(t.Context(), r.File, restoreKeys{identities: []age.Identity{id}, master: filepath.Join(cfg.State, "seal.key")}, to, time.Now(), func(string, int64) {})
	if err != nil {
		t.Fatal(err)
	}
	took := time.Since(start)
	t.Logf("restored %d certificates and %d leaves in %s", m.Rows["certificates"], m.Facts.Log, took.Round(time.Second))
	if took > 5*5*time.Minute {
		t.Errorf("a restore takes %s", took)
	}
}
