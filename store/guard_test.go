package store_test

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"errors"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/ca"
	"hallmark/ca/profile"
	"hallmark/crl"
	"hallmark/provisioner"
	"hallmark/store"
	"hallmark/store/storetest"
)

// writer is a test of S32: a database, and somebody who writes to it beside the
// service.
type writer struct {
	*testing.T
	url string
	db  *store.DB
	raw *sql.DB
}

func writers(t *testing.T, test func(w *writer)) {
	for name, url := range map[string]func(t *testing.T) string{
		"sqlite":   func(t *testing.T) string { return filepath.Join(t.TempDir(), "h.db") },
		"postgres": func(t *testing.T) string { return storetest.Postgres(t) },
	} {
		t.Run(name, func(t *testing.T) {
			w := &writer{T: t, url: url(t)}
			w.db = opener(w.url)(t)
			var err error
			if w.raw, err = sql.Open(map[string]string{"sqlite": "sqlite", "postgres": "pgx"}[name], w.url); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { w.raw.Close() })
			test(w)
		})
	}
}

func (w *writer) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

// tamper changes rows; nothing changed is a broken test.
func (w *writer) tamper(query string, args ...any) {
	w.Helper()
	r, err := w.raw.Exec(query, args...)
	w.must(err)
	if n, _ := r.RowsAffected(); n == 0 {
		w.Fatalf("%s: no row", query)
	}
}

// again closes the service and opens it once more.
func (w *writer) again() error {
	w.must(w.db.Close())
	db, err := store.Open(w.Context(), store.Config{URL: w.url, Seal: box(w)})
	if err == nil {
		w.db = db
		w.Cleanup(func() { db.Close() })
	}
	return err
}

func (w *writer) order(id string, quantity int64) {
	w.Helper()
	b := provisioner.Body{ID: id, Tenant: "main", Product: "p", Quantity: quantity, Serials: provisioner.SerialRule{Pattern: ".*"}, KeyOrigin: profile.OriginClaimed, CreatedBy: "ann"}
	text, err := b.Canonical()
	w.must(err)
	w.must(w.db.CreateOrder(w.Context(), provisioner.Order{Body: b, State: provisioner.OrderDraft, Canonical: text, CreatedAt: time.Now(), ChangedAt: time.Now()}))
	w.set(id, provisioner.OrderDraft, provisioner.OrderOpen)
}

func (w *writer) set(id string, from, to provisioner.OrderState) {
	w.Helper()
	w.must(w.db.SetOrder(w.Context(), access.Scope{Tenant: "main"}, id, []provisioner.OrderState{from}, to, []byte("{}"), time.Now()))
}

func (w *writer) claim(unit, key string, quota int64) ca.Claim {
	w.Helper()
	serial, err := ca.NewSerial(time.Now(), rand.Reader)
	w.must(err)
	return ca.Claim{
		Identity: ca.Identity{Tenant: "main", Holder: unit, Profile: "idevid"}, Account: "o", Quota: quota,
		SPKI: sha256.Sum256([]byte(key)), Rekey: ca.RekeyBeforeInstalled, MaxRekeys: 3,
		Authority: "devices", Version: 1, Serial: serial, TBS: []byte("tbs of " + unit), NotBefore: time.Now(), NotAfter: time.Now().Add(time.Hour),
		Requester: ca.Requester{Actor: "station:s"}, Now: time.Now(),
	}
}

// unit makes one unit of order o.
func (w *writer) unit(unit, key string, quota int64) (ca.Reservation, error) {
	r, _, err := w.db.Ledger().Reserve(w.Context(), w.claim(unit, key, quota))
	if err == nil {
		_, err = w.db.Ledger().Record(w.Context(), r, []byte("certificate of "+unit))
	}
	return r, err
}

// broken is what fsck says of the sealed tables.
func (w *writer) broken() (found []string) {
	w.Helper()
	w.must(w.db.BrokenRows(w.Context(), func(object string, err error) { found = append(found, object+": "+err.Error()) }))
	return found
}

func TestGuard_ACounterSetBackGivesNoUnit_S32(t *testing.T) {
	for name, tamper := range map[string]func(w *writer){
		"running":        func(w *writer) { w.tamper(`UPDATE orders SET used = 0`) },
		"with a restart": func(w *writer) { w.tamper(`UPDATE orders SET used = 0`); w.must(w.again()) },
		"without the rows": func(w *writer) {
			w.tamper(`UPDATE orders SET used = 0`)
			w.tamper(`DELETE FROM identities`)
			w.must(w.again())
		},
		"without leaves": func(w *writer) {
			w.tamper(`UPDATE orders SET used = 0`)
			w.tamper(`UPDATE log_leaves SET account = ''`)
			w.must(w.again())
		},
	} {
		t.Run(name, func(t *testing.T) {
			writers(t, func(w *writer) {
				w.order("o", 4)
				for _, u := range []string{"U1", "U2", "U2", "U3"} { // U2 changes its key: two leaves, one unit
					_, err := w.unit(u, u+fmt.Sprint(time.Now()), 4)
					w.must(err)
				}
				tamper(w)
				_, err := w.unit("U4", "k4", 4)
				w.must(err)
				if _, err := w.unit("U5", "k5", 4); !errors.Is(err, ca.ErrQuota) {
					w.Errorf("a fifth unit of four: %v", err)
				}
				o, err := w.db.Order(w.Context(), access.Scope{Tenant: "main"}, "o")
				w.must(err)
				if o.Used != 4 {
					w.Errorf("the counter says %d", o.Used)
				}
			})
		})
	}
}

func TestGuard_AnOrderIsWhatPeopleMadeOfIt_S32(t *testing.T) {
	for name, query := range map[string]string{
		"state":   `UPDATE orders SET state = 'open'`,
		"closing": `UPDATE orders SET changed_at = changed_at + 1000000`,
	} {
		t.Run(name, func(t *testing.T) {
			writers(t, func(w *writer) {
				w.order("o", 4)
				_, err := w.unit("U1", "k1", 4)
				w.must(err)
				w.set("o", provisioner.OrderOpen, provisioner.OrderClosed)
				w.tamper(query)
				if _, err := w.unit("U1", "k1", 4); !errors.Is(err, store.ErrRowTampered) {
					w.Errorf("a changed order: %v", err)
				}
			})
		})
	}
}

// A row that says bound, another holder, or is not there at all.
func TestGuard_ACompromisedKeyStaysRefused_S32_A14(t *testing.T) {
	writers(t, func(w *writer) {
		w.order("o", 10)
		r, err := w.unit("U1", "stolen", 10)
		w.must(err)
		s, err := w.db.Story(w.Context(), "main", "devices", r.Serial)
		w.must(err)
		w.must(w.db.Revoke(w.Context(), s, crl.KeyCompromise, time.Now(), "ann", ""))
		w.must(w.db.MarkCompromised(w.Context(), s))
		refused := func(when, unit string) {
			w.Helper()
			if _, err := w.unit(unit, "stolen", 10); !errors.Is(err, ca.ErrKeyCompromised) {
				w.Errorf("%s: %v", when, err)
			}
		}
		w.tamper(`UPDATE public_keys SET state = 'bound', holder = 'u2'`)
		refused("called bound", "U2")
		w.tamper(`DELETE FROM public_keys`)
		refused("deleted", "U2")
		w.must(w.again())
		w.must(w.db.Revocations(w.Context(), math.MinInt64, 100, func(crl.Revocation, error) error { return nil })) // as the set does
		refused("after a restart", "U2")
		w.tamper(`DELETE FROM revocations`)
		w.must(w.again())
		refused("without its revocation", "U2")
	})
}

func TestReserve_HandsNoTBSOutThatSomebodyElseWrote_S32(t *testing.T) {
	writers(t, func(w *writer) {
		w.order("o", 10)
		c := w.claim("U1", "k1", 10)
		_, _, err := w.db.Ledger().Reserve(w.Context(), c)
		w.must(err)
		w.tamper(`UPDATE reservations SET tbs = $1`, []byte("tbs of U9"))
		if _, _, err := w.db.Ledger().Reserve(w.Context(), c); !errors.Is(err, store.ErrRowTampered) {
			w.Errorf("a changed TBS goes to the key: %v", err)
		}
	})
}

func TestOpen_RestoresBlocksFromTheLog_S32(t *testing.T) {
	writers(t, func(w *writer) {
		w.order("o", 10)
		for _, u := range []string{"U1", "U2"} {
			_, err := w.db.Block(w.Context(), "main", u, time.Now(), "ann", "")
			w.must(err)
		}
		w.tamper(`DELETE FROM blocks WHERE holder = 'u1'`)
		w.must(w.again())
		if _, err := w.unit("U1", "k1", 10); !errors.Is(err, ca.ErrHolderBlocked) {
			w.Errorf("the blocked unit: %v", err)
		}
		if found := w.broken(); len(found) > 0 {
			w.Errorf("after the repair: %v", found)
		}
		// Without its leaf a block cannot come back, so nothing starts.
		w.tamper(`DELETE FROM blocks WHERE holder = 'u2'`)
		w.tamper(`DELETE FROM log_leaves WHERE holder = 'u2'`)
		if err := w.again(); !errors.Is(err, store.ErrRowTampered) {
			w.Errorf("a block is gone for good: %v", err)
		}
	})
}

func TestRelease_OnlyOfAHoldThatThisProgramWrote_S32(t *testing.T) {
	writers(t, func(w *writer) {
		w.order("o", 10)
		r, err := w.unit("U1", "k1", 10)
		w.must(err)
		s, err := w.db.Story(w.Context(), "main", "devices", r.Serial)
		w.must(err)
		w.must(w.db.Revoke(w.Context(), s, crl.PrivilegeWithdrawn, time.Now(), "ann", ""))
		w.tamper(`UPDATE revocations SET reason = 6`)
		bob := access.Actor{Tenant: "main", Kind: access.KindPrincipal, Name: "bob", Role: access.SecurityOfficer}
		if err := crl.New(crl.Config{Store: w.db}).Release(w.Context(), bob, "devices", r.Serial, ""); !errors.Is(err, crl.ErrNotHeld) {
			w.Errorf("a revocation that was made a hold: %v", err)
		}
	})
}

func TestSeals_NameTheRowThatIsGone_S32(t *testing.T) {
	writers(t, func(w *writer) {
		ctx := w.Context()
		w.order("o", 10)
		w.must(w.db.CreatePrincipal(ctx, principal("main", "ann", access.Auditor)))
		w.must(w.db.CreatePrincipal(ctx, principal("main", "bob", access.Auditor)))
		w.must(w.db.CreatePrincipal(ctx, principal("main", "eve", access.Platform)))
		w.must(w.db.PutTemplate(ctx, provisioner.TemplateDocument{Tenant: "main", Name: "t", Kind: "k", Body: []byte("1"), UpdatedAt: time.Now()}))
		w.must(w.db.PutTemplate(ctx, provisioner.TemplateDocument{Tenant: "main", Name: "t", Kind: "k", Body: []byte("2"), UpdatedAt: time.Now()}))
		w.must(w.db.CreateStationCode(ctx, provisioner.StationCode{Hash: [32]byte{1}, Tenant: "main", Station: "st-1", Site: "a", CreatedBy: "ann", ExpiresAt: time.Now().Add(time.Hour)}))
		if found := w.broken(); len(found) > 0 {
			w.Fatalf("before: %v", found)
		}
		finds := func(want string) {
			w.Helper()
			if found := w.broken(); !slices.ContainsFunc(found, func(f string) bool { return strings.HasPrefix(f, want) }) {
				w.Errorf("want %q, got %q", want, found)
			}
		}
		w.tamper(`DELETE FROM templates`)
		finds("templates main/t: the row was deleted")
		w.tamper(`DELETE FROM station_codes`)
		finds("station_codes main/st-1/0100000000000000: the row was deleted")
		w.tamper(`DELETE FROM schema_version WHERE version = 1`)
		finds("schema_version version 1: the row was deleted")
		w.tamper(`UPDATE seals SET state = (SELECT state FROM seals WHERE name = 'hooks') WHERE name = 'stations'`)
		finds("seals stations: ")
		// A row of yesterday has a MAC that is right, and the seal has moved on.
		w.tamper(`CREATE TABLE yesterday AS SELECT * FROM principals WHERE name = 'eve'`)
		w.must(w.db.CreatePrincipal(ctx, principal("main", "zoe", access.Platform)))
		_, err := w.db.DisablePrincipal(ctx, access.Scope{Tenant: "main"}, "eve", time.Now())
		w.must(err)
		w.tamper(`DELETE FROM principals WHERE name = 'eve'`)
		w.tamper(`INSERT INTO principals SELECT * FROM yesterday`)
		finds("principals: its rows are older ones")
		w.tamper(`DELETE FROM principals WHERE name = 'ann' OR name = 'bob'`)
		finds("principals: 2 rows more were written than there are")
		// An emptied table is no new one: nobody becomes the first principal.
		w.tamper(`DELETE FROM principals`)
		if ok, err := w.db.CreateFirstPrincipal(ctx, principal("main", "platform", access.Platform)); ok || !errors.Is(err, store.ErrRowTampered) {
			w.Errorf("a first principal of an emptied table: %v %v", ok, err)
		}
	})
}

// Seals move with their rows: also when a request fails after it wrote, and when
// two services change one table at once.
func TestSeals_StayRightUnderLoad_S32(t *testing.T) {
	writers(t, func(w *writer) {
		dbs := []*store.DB{w.db, w.db}
		if strings.HasPrefix(w.url, "postgres") {
			dbs[1] = opener(w.url)(w.T)
		}
		w.order("o", 1000)
		var wg sync.WaitGroup
		fails := errors.New("no")
		for i := range 60 {
			db := dbs[i%2]
			wg.Go(func() {
				p := principal("main", fmt.Sprintf("p-%d", i), access.Auditor)
				err := db.Atomic(w.Context(), func(ctx context.Context) error {
					if err := db.CreatePrincipal(ctx, p); err != nil {
						return err
					}
					if i%3 == 0 {
						return fails
					}
					return nil
				})
				if err != nil && !errors.Is(err, fails) {
					w.Errorf("principal %d: %v", i, err)
				}
				if err := db.PutTemplate(w.Context(), provisioner.TemplateDocument{Tenant: "main", Name: "same", Kind: "k", Body: []byte{byte(i)}, UpdatedAt: time.Now()}); err != nil {
					w.Errorf("template: %v", err)
				}
				r, _, err := db.Ledger().Reserve(w.Context(), w.claim(fmt.Sprintf("U%d", i), fmt.Sprintf("k%d", i), 1000))
				if err == nil {
					err = db.Ledger().Void(w.Context(), r.Serial, "test")
				}
				if err != nil {
					w.Errorf("unit %d: %v", i, err)
				}
			})
		}
		wg.Wait()
		if found := w.broken(); len(found) > 0 {
			w.Errorf("nobody else wrote, and fsck says %v", found)
		}
	})
}

func TestRedeem_RefusesACodeWhoseAttemptsWereSetBack_S32(t *testing.T) {
	writers(t, func(w *writer) {
		hash := [32]byte{7}
		w.must(w.db.CreateStationCode(w.Context(), provisioner.StationCode{Hash: hash, Tenant: "main", Station: "st-1", Site: "a", CreatedBy: "ann", ExpiresAt: time.Now().Add(time.Hour)}))
		for range provisioner.MaxCodeAttempts {
			if _, err := w.db.Redeem(w.Context(), hash, "other", [32]byte{1}, time.Now()); !errors.Is(err, provisioner.ErrStationCode) {
				w.Fatal(err)
			}
		}
		w.tamper(`UPDATE station_codes SET attempts = 0`)
		if _, err := w.db.Redeem(w.Context(), hash, "st-1", [32]byte{1}, time.Now()); !errors.Is(err, store.ErrRowTampered) {
			w.Errorf("got %v", err)
		}
	})
}

// A start without an upgrade makes no seal for a table that lost its own.
func TestSeals_AreNotMadeAnew_S32(t *testing.T) {
	writers(t, func(w *writer) {
		w.must(w.db.CreatePrincipal(w.Context(), principal("main", "ann", access.Auditor)))
		w.tamper(`DELETE FROM seals WHERE name = 'hooks' OR name = 'principals'`)
		w.must(w.again())
		if found := w.broken(); len(found) != 2 {
			w.Errorf("fsck says %v", found)
		}
	})
}
