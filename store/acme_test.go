package store_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"hallmark/bootstrap/acme/state"
	"hallmark/ca"
	"hallmark/ca/profile"
	"hallmark/store"
)

func acmeKey(id string) state.Key {
	now := time.Now().UTC().Truncate(time.Millisecond)
	return state.Key{Tenant: "main", ID: id, Profile: profile.LDevID, Names: []state.Name{{Identifier: "a", Unit: "U-1"}}, CreatedBy: "ann", CreatedAt: now, ExpiresAt: now.Add(time.Hour)}
}

func acmeAccount(id, key string) state.Account {
	return state.Account{Tenant: "main", ID: id, Key: key, JWK: []byte(`{}`), Print: "print-" + id, Status: "valid", CreatedAt: time.Now().UTC().Truncate(time.Millisecond)}
}

// A43, S17: of all who come at once to two services one spends a nonce, one binds a
// key, and one changes an order.
func TestAcme_OneOfManyWins_A43(t *testing.T) {
	bothEngines(t, func(t *testing.T, _, _ string, a, b *store.DB) {
		ctx := t.Context()
		now := time.Now().UTC().Truncate(time.Millisecond)
		race := func(what string, refused error, f func(s store.Acme, i int) error) {
			t.Helper()
			var winners atomic.Int64
			var wg sync.WaitGroup
			for i := range 16 {
				s := a.Acme()
				if i%2 == 1 {
					s = b.Acme()
				}
				wg.Go(func() {
					switch err := f(s, i); {
					case err == nil:
						winners.Add(1)
					case !errors.Is(err, refused):
						t.Errorf("%s: %v", what, err)
					}
				})
			}
			wg.Wait()
			if winners.Load() != 1 {
				t.Errorf("%s: %d won", what, winners.Load())
			}
		}
		race("a nonce", state.ErrNonceSpent, func(s store.Acme, _ int) error {
			return s.SpendNonce(context.Background(), []byte("nonce"), now, now.Add(time.Hour))
		})
		if err := a.Acme().CreateKey(ctx, acmeKey("k-1")); err != nil {
			t.Fatal(err)
		}
		race("a key", state.ErrKeyBound, func(s store.Acme, i int) error {
			return s.CreateAccount(context.Background(), acmeAccount(fmt.Sprint("a-", i), "k-1"))
		})
		k, err := b.Acme().Key(ctx, "main", "k-1")
		if err != nil || k.Account == "" || k.BoundAt.IsZero() || len(k.Names) != 1 {
			t.Fatalf("%+v %v", k, err)
		}
		if _, err := b.Acme().Account(ctx, "main", k.Account); err != nil {
			t.Error(err)
		}
		o := state.Order{Tenant: "main", ID: "o-1", Account: k.Account, Status: "pending", CreatedAt: now, ExpiresAt: now.Add(time.Hour), KeptUntil: now.Add(time.Hour)}
		if err := a.Acme().CreateOrder(ctx, o); err != nil {
			t.Fatal(err)
		}
		read, err := b.Acme().Order(ctx, "main", "o-1")
		if err != nil {
			t.Fatal(err)
		}
		race("an order", state.ErrChanged, func(s store.Acme, i int) error {
			mine := read
			mine.Status, mine.Leaf, mine.Serial = "valid", []byte{byte(i)}, ca.Serial{byte(i)}
			return s.UpdateOrder(context.Background(), &mine)
		})
		done, err := a.Acme().Order(ctx, "main", "o-1")
		if err != nil || done.Revision != 2 {
			t.Fatalf("%+v %v", done, err)
		}
		if got, err := b.Acme().OrderBySerial(ctx, "main", k.Account, done.Serial); err != nil || got.ID != "o-1" {
			t.Errorf("%+v %v", got, err)
		}
		// Nobody sees another tenant's.
		for what, err := range map[string]error{
			"key":     second(a.Acme().Key(ctx, "other", "k-1")),
			"account": second(a.Acme().Account(ctx, "other", k.Account)),
			"print":   second(a.Acme().AccountByPrint(ctx, "other", "print-"+k.Account)),
			"order":   second(a.Acme().Order(ctx, "other", "o-1")),
			"serial":  second(a.Acme().OrderBySerial(ctx, "other", k.Account, done.Serial)),
		} {
			if !errors.Is(err, state.ErrNoKey) && !errors.Is(err, state.ErrNoAccount) && !errors.Is(err, state.ErrNoOrder) {
				t.Errorf("%s of another tenant: %v", what, err)
			}
		}
		// What has ended goes with the next.
		late := o
		late.ID, late.CreatedAt, late.KeptUntil = "o-2", now.Add(2*time.Hour), now.Add(3*time.Hour)
		if err := a.Acme().CreateOrder(ctx, late); err != nil {
			t.Fatal(err)
		}
		if _, err := b.Acme().Order(ctx, "main", "o-1"); !errors.Is(err, state.ErrNoOrder) {
			t.Errorf("an order of yesterday: %v", err)
		}
		if ids, err := b.Acme().Orders(ctx, "main", k.Account, 10); err != nil || len(ids) != 1 {
			t.Errorf("%v %v", ids, err)
		}
	})
}

func second[T any](_ T, err error) error { return err }

// S32: what something else changed is refused, and fsck names the row.
func TestAcme_AChangedRowIsRefused_S32(t *testing.T) {
	writers(t, func(w *writer) {
		ctx := w.Context()
		s := w.db.Acme()
		w.must(s.CreateKey(ctx, acmeKey("k-1")))
		w.must(s.CreateKey(ctx, acmeKey("k-2")))
		w.must(s.CreateAccount(ctx, acmeAccount("a-1", "k-1")))
		now := time.Now().UTC().Truncate(time.Millisecond)
		w.must(s.CreateOrder(ctx, state.Order{Tenant: "main", ID: "o-1", Account: "a-1", Status: "pending", CreatedAt: now, ExpiresAt: now, KeptUntil: now.Add(time.Hour)}))
		o, err := s.Order(ctx, "main", "o-1")
		w.must(err)
		w.must(s.UpdateOrder(ctx, &o))
		a, err := s.Account(ctx, "main", "a-1")
		w.must(err)
		w.must(s.UpdateAccount(ctx, &a))
		_, err = s.RevokeKey(ctx, "main", "k-2", "ann", now)
		w.must(err)
		if found := w.broken(); len(found) > 0 {
			w.Fatalf("before: %v", found)
		}
		w.tamper(`UPDATE acme_keys SET revoked_at = 0 WHERE id = 'k-2'`)
		w.tamper(`UPDATE acme_accounts SET print = 'x' WHERE id = 'a-1'`)
		w.tamper(`UPDATE acme_orders SET account = 'x' WHERE id = 'o-1'`)
		if _, err := s.Key(ctx, "main", "k-2"); !errors.Is(err, store.ErrRowTampered) {
			w.Errorf("key: %v", err)
		}
		if _, err := s.Account(ctx, "main", "a-1"); !errors.Is(err, store.ErrRowTampered) {
			w.Errorf("account: %v", err)
		}
		if _, err := s.Order(ctx, "main", "o-1"); !errors.Is(err, store.ErrRowTampered) {
			w.Errorf("order: %v", err)
		}
		w.tamper(`DELETE FROM acme_keys WHERE id = 'k-1'`)
		all := strings.Join(w.broken(), "\n")
		for _, want := range []string{"acme_keys main/k-1: the row was deleted", "acme_keys main/k-2", "acme_accounts main/a-1", "acme_orders main/o-1"} {
			if !strings.Contains(all, want) {
				w.Errorf("want %q in\n%s", want, all)
			}
		}
	})
}
