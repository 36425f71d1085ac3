package store_test

import (
	"context"
	"database/sql"
	"errors"
	"path/filepath"
	"sync"
	"testing"

	"hallmark/access"
	"hallmark/fleet"
	"hallmark/fleet/shadow"
	"hallmark/store"
	"hallmark/store/storetest"
)

// bothEngines runs a test on SQLite with one handle and on PostgreSQL with two,
// which are two services there.
func bothEngines(t *testing.T, f func(t *testing.T, url, driver string, a, b *store.DB)) {
	t.Run("SQLite", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "h.db")
		db := opener(file)(t)
		f(t, file, "sqlite", db, db)
	})
	t.Run("PostgreSQL", func(t *testing.T) {
		url := storetest.Postgres(t)
		open := opener(url)
		f(t, url, "pgx", open(t), open(t))
	})
}

type deaf struct{}

func (deaf) Publish(context.Context, fleet.Message) error { return nil }

func TestShadows_TwoServicesKeepEveryUpdate(t *testing.T) {
	bothEngines(t, func(t *testing.T, _, _ string, a, b *store.DB) {
		k := shadow.Key{Tenant: "main", Thing: "t"}
		var wg sync.WaitGroup
		for _, db := range []*store.DB{a, b} {
			s := shadow.New(shadow.Config{Store: db, Publisher: deaf{}, InFlight: -1})
			for i := range 20 {
				wg.Go(func() {
					var err error
					if i%5 == 4 {
						if _, err = s.Delete(t.Context(), k); errors.Is(err, shadow.ErrUnknown) {
							err = nil
						}
					} else {
						_, err = s.Update(t.Context(), k, []byte(`{"state":{"reported":{"a":1}}}`))
					}
					if err != nil {
						t.Error(err)
					}
				})
			}
		}
		wg.Wait()
		row, err := a.Shadow(t.Context(), access.Scope{Tenant: "main"}, k)
		if err != nil || row.Version != 32 {
			t.Errorf("version %d after 32 updates: %v", row.Version, err)
		}
	})
}

func TestShadows_RowsAreKeptByTenantAndVersion(t *testing.T) {
	bothEngines(t, func(t *testing.T, url, driver string, a, b *store.DB) {
		ctx := t.Context()
		mine, other := access.Scope{Tenant: "main"}, access.Scope{Tenant: "other"}
		k := shadow.Key{Tenant: "main", Thing: "t", Name: "n"}
		row := shadow.Row{Key: k, Version: 1, Document: []byte("{}")}
		if err := a.PutShadow(ctx, row, shadow.Row{}); err != nil {
			t.Fatal(err)
		}
		if err := b.PutShadow(ctx, row, shadow.Row{}); !errors.Is(err, shadow.ErrChanged) {
			t.Errorf("second insert: %v", err)
		}
		gone := shadow.Row{Key: k, Version: 1, Deleted: true}
		if err := a.PutShadow(ctx, gone, row); err != nil {
			t.Fatal(err)
		}
		next := shadow.Row{Key: k, Version: 2, Document: []byte("{}")}
		if err := b.PutShadow(ctx, next, row); !errors.Is(err, shadow.ErrChanged) {
			t.Errorf("update of what was deleted meanwhile: %v", err)
		}
		if err := b.PutShadow(ctx, next, gone); err != nil {
			t.Fatal(err)
		}
		if r, err := b.Shadow(ctx, other, k); err != nil || r.Version != 0 {
			t.Errorf("another tenant sees %v %v", r, err)
		}
		if names, err := b.ShadowNames(ctx, other, "t", "", 10); err != nil || len(names) > 0 {
			t.Errorf("another tenant lists %v %v", names, err)
		}
		if err := b.DropShadows(ctx, other, "t"); err != nil {
			t.Fatal(err)
		}
		if names, err := b.ShadowNames(ctx, mine, "t", "", 10); err != nil || len(names) != 1 {
			t.Errorf("another tenant dropped them: %v %v", names, err)
		}
		// S32: a row that somebody else wrote is not believed, and fsck names it.
		raw, err := sql.Open(driver, url)
		if err != nil {
			t.Fatal(err)
		}
		defer raw.Close()
		if _, err := raw.Exec(`UPDATE shadows SET version = 7`); err != nil {
			t.Fatal(err)
		}
		if _, err := a.Shadow(ctx, mine, k); !errors.Is(err, store.ErrRowTampered) {
			t.Errorf("a changed version: %v", err)
		}
		found, err := shadow.New(shadow.Config{Store: a}).Fsck(ctx)
		if err != nil || len(found) != 1 || found[0].Object != "shadows main/t/n" {
			t.Errorf("fsck: %v %v", found, err)
		}
	})
}
