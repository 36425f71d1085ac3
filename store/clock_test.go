package store_test

import (
	"context"
	"database/sql"
	"errors"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"hallmark/ca"
	"hallmark/crl"
	"hallmark/internal/fault"
	"hallmark/provisioner"
	"hallmark/store"
	"hallmark/store/storetest"
)

// hands is a clock that a test moves.
type hands struct{ at atomic.Int64 }

func newHands() *hands {
	h := &hands{}
	h.at.Store(time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC).UnixMilli())
	return h
}

func (h *hands) now() time.Time       { return time.UnixMilli(h.at.Load()).UTC() }
func (h *hands) move(d time.Duration) { h.at.Add(d.Milliseconds()) }

// reserve makes a reservation that no order counts.
func reserve(t *testing.T, db *store.DB, h *hands, holder string) error {
	t.Helper()
	serial, err := ca.NewSerial(h.now(), nil)
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = db.Ledger().Reserve(t.Context(), ca.Claim{
		Identity: ca.Identity{Tenant: "main", Holder: holder, Profile: "server"}, SPKI: [32]byte(append(serial[:], make([]byte, 12)...)),
		Authority: "infra-1", Version: 1, Serial: serial, TBS: []byte("tbs"), NotBefore: h.now(), NotAfter: h.now().Add(time.Hour), Now: h.now(),
	})
	return err
}

func wantFault(t *testing.T, what string, err error, want *fault.Definition) {
	t.Helper()
	if want == nil && err != nil || want != nil && !errors.Is(err, want) {
		t.Errorf("%s: got %v, want %v", what, err, want)
	}
}

func engines(t *testing.T, test func(t *testing.T, url, driver string)) {
	t.Run("SQLite", func(t *testing.T) { test(t, filepath.Join(t.TempDir(), "h.db"), "sqlite") })
	t.Run("PostgreSQL", func(t *testing.T) { test(t, storetest.Postgres(t), "pgx") })
}

func TestClock_RefusesToIssueWhenItCannotBeRight_A74_S38(t *testing.T) {
	engines(t, func(t *testing.T, url, _ string) {
		h := newHands()
		open := func(accept bool) *store.DB {
			db, err := store.Open(t.Context(), store.Config{URL: url, Seal: box(t), Now: h.now, AcceptClock: accept})
			if err != nil {
				t.Fatal(err)
			}
			return db
		}
		db := open(false)
		wantFault(t, "a new database", reserve(t, db, h, "a"), nil)
		h.move(-9 * time.Minute)
		wantFault(t, "9 minutes back", reserve(t, db, h, "b"), nil)
		h.move(-2 * time.Minute)
		wantFault(t, "11 minutes back", reserve(t, db, h, "c"), store.ErrClockBehind)
		h.move(-24 * time.Hour)
		wantFault(t, "a day back", reserve(t, db, h, "c"), store.ErrClockBehind)
		db.Close()
		db = open(false)
		wantFault(t, "a day back, after a restart", reserve(t, db, h, "c"), store.ErrClockBehind)
		// A list goes out with the right number whatever the clock says; revocation never waits.
		wantFault(t, "a list of the past", db.PutList(t.Context(), list(h, 1), 0), nil)

		h.move(24*time.Hour + 11*time.Minute + 29*24*time.Hour)
		wantFault(t, "29 days later", reserve(t, db, h, "d"), nil)
		h.move(365 * 24 * time.Hour)
		wantFault(t, "a year ahead", reserve(t, db, h, "e"), store.ErrClockAhead)
		wantFault(t, "a list of next year", db.PutList(t.Context(), list(h, 2), 1), store.ErrClockAhead)
		wantFault(t, "once more", reserve(t, db, h, "e"), store.ErrClockAhead) // the refusal moved nothing
		db.Close()
		db = open(false)
		wantFault(t, "a year ahead, after a restart", reserve(t, db, h, "e"), store.ErrClockAhead)
		db.Close()
		db = open(true)
		wantFault(t, "accepted", reserve(t, db, h, "e"), nil)
		wantFault(t, "a list", db.PutList(t.Context(), list(h, 2), 1), nil)
		wantFault(t, "a number that goes back", db.PutList(t.Context(), list(h, 1), 2), crl.ErrListMoved)

		// The jump was a mistake: the way back is accepted too.
		h.move(-365 * 24 * time.Hour)
		wantFault(t, "back again", reserve(t, db, h, "f"), store.ErrClockBehind)
		db.Close()
		db = open(true)
		wantFault(t, "back again, accepted", reserve(t, db, h, "f"), nil)
		db.Close()
		db = open(false)
		wantFault(t, "the start after", reserve(t, db, h, "g"), nil)
		db.Close()
	})
}

func list(h *hands, number int64) crl.StoredList {
	return crl.StoredList{ListHead: crl.ListHead{Authority: "infra-1", Number: number, ThisUpdate: h.now(), NextUpdate: h.now().Add(time.Hour)}, DER: []byte("list")}
}

func TestClock_OfAQuietServiceIsNoJump(t *testing.T) {
	h := newHands()
	db, err := store.Open(t.Context(), store.Config{URL: filepath.Join(t.TempDir(), "h.db"), Seal: box(t), Now: h.now})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	wantFault(t, "first", reserve(t, db, h, "a"), nil)
	for range 50 {
		h.move(24 * time.Hour)
		wantFault(t, "keep", db.KeepClock(t.Context()), nil)
	}
	wantFault(t, "after 50 quiet days", reserve(t, db, h, "b"), nil)
}

func TestClock_IsSharedByTwoServices_A74(t *testing.T) {
	url := storetest.Postgres(t)
	right, wrong := newHands(), newHands()
	open := func(h *hands) *store.DB {
		db, err := store.Open(t.Context(), store.Config{URL: url, Seal: box(t), Now: h.now})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { db.Close() })
		return db
	}
	a, b := open(right), open(wrong)
	wrong.move(-time.Hour)
	right.move(time.Second)
	wantFault(t, "the right one", reserve(t, a, right, "a"), nil)
	wantFault(t, "the wrong one looks", b.KeepClock(t.Context()), nil)
	wantFault(t, "the wrong one", reserve(t, b, wrong, "b"), store.ErrClockBehind)
}

func TestClock_NothingThatEndedComesBack_A74(t *testing.T) {
	h := newHands()
	db, err := store.Open(t.Context(), store.Config{URL: filepath.Join(t.TempDir(), "h.db"), Seal: box(t), Now: h.now})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	code := provisioner.StationCode{Hash: [32]byte{1}, Tenant: "main", Station: "st-1", Site: "x", CreatedBy: "ann", ExpiresAt: h.now().Add(time.Hour)}
	if err := db.CreateStationCode(t.Context(), code); err != nil {
		t.Fatal(err)
	}
	h.move(2 * time.Hour)
	wantFault(t, "the mark moves", db.KeepClock(t.Context()), nil)
	h.move(-90 * time.Minute)
	if got := db.Steady(); !got.After(code.ExpiresAt) {
		t.Errorf("the time of tokens went back to %s", got)
	}
	_, err = db.Redeem(t.Context(), code.Hash, "st-1", [32]byte{2}, h.now())
	wantFault(t, "an expired code", err, provisioner.ErrStationCode)
}

func TestClock_AMarkThatSomebodyChangedIsNamed_S32(t *testing.T) {
	engines(t, func(t *testing.T, url, driver string) {
		h := newHands()
		open := func(cfg store.Config) (*store.DB, error) {
			cfg.URL, cfg.Seal, cfg.Now = url, box(t), h.now
			return store.Open(context.Background(), cfg)
		}
		db, err := open(store.Config{})
		if err != nil {
			t.Fatal(err)
		}
		wantFault(t, "first", reserve(t, db, h, "a"), nil)
		db.Close()
		raw, err := sql.Open(driver, url)
		if err != nil {
			t.Fatal(err)
		}
		defer raw.Close()
		if _, err := raw.Exec(`UPDATE clock_high SET at = at - 86400000`); err != nil {
			t.Fatal(err)
		}
		_, err = open(store.Config{})
		wantFault(t, "start", err, store.ErrRowTampered)
		if db, err = open(store.Config{ReadOnly: true}); err != nil {
			t.Fatal(err)
		}
		var named []string
		if err := db.BrokenRows(t.Context(), func(object string, _ error) { named = append(named, object) }); err != nil {
			t.Fatal(err)
		}
		if len(named) != 1 || named[0] != "clock mark" {
			t.Errorf("fsck names %q", named)
		}
		db.Close()
	})
}
