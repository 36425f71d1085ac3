package store_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"hallmark/bootstrap"
	"hallmark/ca/profile"
	"hallmark/store"
)

func onetime(id, text string) bootstrap.Password {
	now := time.Now().UTC().Truncate(time.Millisecond)
	return bootstrap.Password{Tenant: "main", ID: id, Unit: "U-1", Profile: profile.IDevID, Order: "o", Hash: sha256.Sum256([]byte(text)), CreatedBy: "ann", CreatedAt: now, ExpiresAt: now.Add(time.Hour)}
}

// A one-time password is one key's, however many come with it to two services
// (A37, A40).
func TestPasswords_OneKeyGetsIt(t *testing.T) {
	bothEngines(t, func(t *testing.T, _, _ string, a, b *store.DB) {
		ctx := t.Context()
		want := onetime("id-1", "secret")
		if err := a.CreatePassword(ctx, want); err != nil {
			t.Fatal(err)
		}
		if err := a.CreatePassword(ctx, want); err == nil {
			t.Error("the same id twice")
		}
		got, err := b.PasswordByHash(ctx, want.Hash)
		if err != nil || got != want {
			t.Fatalf("%+v %v", got, err)
		}
		if _, err := b.PasswordByHash(ctx, sha256.Sum256(nil)); !errors.Is(err, bootstrap.ErrEnrolPassword) {
			t.Errorf("no such password: %v", err)
		}
		var winners atomic.Int64
		var wg sync.WaitGroup
		for i := range 40 {
			db := a
			if i%2 == 1 {
				db = b
			}
			wg.Go(func() {
				switch err := db.RedeemPassword(context.Background(), "id-1", sha256.Sum256(fmt.Append(nil, i)), time.Now()); {
				case err == nil:
					winners.Add(1)
				case !errors.Is(err, bootstrap.ErrEnrolPassword):
					t.Error(err)
				}
			})
		}
		wg.Wait()
		if winners.Load() != 1 {
			t.Errorf("%d keys got it", winners.Load())
		}
		if got, err = a.PasswordByID(ctx, "id-1"); err != nil || got.SPKI == nil || got.UsedAt.IsZero() {
			t.Fatalf("%+v %v", got, err)
		}
		// Attempts by others end it for others, not for its key.
		for range bootstrap.MaxPasswordAttempts + 2 {
			if err := b.FailPassword(ctx, "id-1"); err != nil {
				t.Fatal(err)
			}
		}
		if err := a.RedeemPassword(ctx, "id-1", *got.SPKI, time.Now()); err != nil {
			t.Errorf("its own key again: %v", err)
		}
		if err := a.RedeemPassword(ctx, "id-1", *got.SPKI, time.Now().Add(time.Hour)); !errors.Is(err, bootstrap.ErrEnrolPassword) {
			t.Errorf("an hour later: %v", err)
		}
		if got, err = a.PasswordByID(ctx, "id-1"); err != nil || got.Attempts != bootstrap.MaxPasswordAttempts {
			t.Errorf("%+v %v", got, err)
		}
	})
}

// S32: a password that something else changed is none, and fsck names the row.
func TestPasswords_AChangedRowIsRefused_S32(t *testing.T) {
	writers(t, func(w *writer) {
		w.must(w.db.CreatePassword(w.Context(), onetime("id-1", "secret")))
		w.must(w.db.CreatePassword(w.Context(), onetime("id-2", "other")))
		w.must(w.db.RedeemPassword(w.Context(), "id-1", [32]byte{1}, time.Now()))
		w.must(w.db.FailPassword(w.Context(), "id-2"))
		if found := w.broken(); len(found) > 0 {
			w.Fatalf("before: %v", found)
		}
		w.tamper(`UPDATE enrol_passwords SET unit = 'U-2' WHERE id = 'id-2'`)
		if _, err := w.db.PasswordByID(w.Context(), "id-2"); !errors.Is(err, store.ErrRowTampered) {
			w.Errorf("got %v", err)
		}
		w.tamper(`DELETE FROM enrol_passwords WHERE id = 'id-1'`)
		all := strings.Join(w.broken(), "\n")
		for _, want := range []string{"enrol_passwords main/id-1: the row was deleted", "main/id-2"} {
			if !strings.Contains(all, want) {
				w.Errorf("want %q in\n%s", want, all)
			}
		}
	})
}
