package store_test

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"errors"
	"path/filepath"
	"testing"

	"hallmark/ca/tlog"
	"hallmark/internal/seal"
	"hallmark/store"
	"hallmark/store/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m) }

func box(t testing.TB) *seal.Box {
	b, err := seal.Open(sha256.New().Sum(nil))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func opener(url string) storetest.Open {
	return func(t *testing.T) *store.DB {
		db, err := store.Open(context.Background(), store.Config{URL: url, Seal: box(t)})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { db.Close() })
		return db
	}
}

func TestSQLite_KeepsTheContract(t *testing.T) {
	storetest.Test(t, func(t *testing.T) storetest.Open { return opener(filepath.Join(t.TempDir(), "h.db")) }, false)
}

func TestPostgres_KeepsTheContract(t *testing.T) {
	storetest.Test(t, func(t *testing.T) storetest.Open { return opener(storetest.Postgres(t)) }, true)
}

// A lone writer's guess that is wrong changes nothing but the time it takes
// (decision 0010). A15, A42, S8, S19, S32.
func TestPostgres_AWrongGuessIsAskedAgain(t *testing.T) {
	storetest.Guesses(t, storetest.Postgres, opener)
}

func TestOpen_RefusesASecondServiceOnOneFile_A78(t *testing.T) {
	file := filepath.Join(t.TempDir(), "h.db")
	opener(file)(t)
	if _, err := store.Open(t.Context(), store.Config{URL: file, Seal: box(t)}); !errors.Is(err, store.ErrInUse) {
		t.Errorf("got %v", err)
	}
}

func TestOpen_RefusesANewerSchema_A78(t *testing.T) {
	for name, url := range map[string]string{"sqlite": filepath.Join(t.TempDir(), "h.db"), "postgres": storetest.Postgres(t)} {
		t.Run(name, func(t *testing.T) {
			db, err := store.Open(t.Context(), store.Config{URL: url, Seal: box(t)})
			if err != nil {
				t.Fatal(err)
			}
			db.Close()
			driver := map[string]string{"sqlite": "sqlite", "postgres": "pgx"}[name]
			raw, err := sql.Open(driver, url)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := raw.Exec(`INSERT INTO schema_version (version, min_reader, applied_at) VALUES (9999, 9999, 0)`); err != nil {
				t.Fatal(err)
			}
			raw.Close()
			if _, err := store.Open(t.Context(), store.Config{URL: url, Seal: box(t)}); !errors.Is(err, store.ErrNewer) {
				t.Errorf("got %v", err)
			}
		})
	}
}

var _ tlog.Store = (*store.Log)(nil)
