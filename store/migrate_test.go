package store

import (
	"context"
	"database/sql"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"hallmark/internal/seal"
	"hallmark/migrations"
)

// Steps are taken by their numbers, which have gaps: a database takes those that it has
// not, also where a later one came before. A78.
func TestMigrate_TakesTheStepsThatItHasNot_A78(t *testing.T) {
	steps, err := migrations.For(migrations.SQLite)
	if err != nil {
		t.Fatal(err)
	}
	box, err := seal.Create(filepath.Join(t.TempDir(), "seal.key"))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		upTo int
		late string // a step that is taken only later
	}{
		"one of an older program": {upTo: 9},
		"one step before the end": {upTo: steps[len(steps)-2].Number},
		"before a gap":            {upTo: 14},
		"a step that came late":   {late: "DROP TABLE restores; DELETE FROM schema_version WHERE version = 13"},
	} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "h.db")
			old := &DB{cfg: Config{URL: file, Seal: box}, log: slog.New(slog.DiscardHandler), now: time.Now, prep: map[string]*sql.Stmt{}, upTo: c.upTo, engine: migrations.SQLite}
			if err := old.openSQLite(file); err != nil {
				t.Fatal(err)
			}
			if _, err := old.migrate(t.Context()); err != nil {
				t.Fatal(err)
			}
			if _, err := old.write.ExecContext(t.Context(), c.late); err != nil {
				t.Fatal(err)
			}
			if have := versions(t, old); len(have) == 0 || len(have) >= len(steps) {
				t.Fatalf("the old one has %d of %d steps", len(have), len(steps))
			}
			old.closeHandles()
			for range 2 {
				db, err := Open(context.Background(), Config{URL: file, Seal: box})
				if err != nil {
					t.Fatal(err)
				}
				have := versions(t, db)
				for _, m := range steps {
					if !have[m.Number] {
						t.Errorf("step %04d_%s was not taken", m.Number, m.Name)
					}
				}
				if len(have) != len(steps) {
					t.Errorf("%d steps of %d", len(have), len(steps))
				}
				if _, err := db.Restores(t.Context()); err != nil {
					t.Error(err)
				}
				if err := db.Close(); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func versions(t *testing.T, db *DB) map[int]bool {
	t.Helper()
	rows, err := db.read.QueryContext(t.Context(), `SELECT version FROM schema_version`)
	have := map[int]bool{}
	if err := each(rows, err, func(r row) error {
		var v int
		err := r.Scan(&v)
		have[v] = true
		return err
	}); err != nil {
		t.Fatal(err)
	}
	return have
}
