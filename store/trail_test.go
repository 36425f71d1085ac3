package store_test

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/store"
)

func trailEntry(i int) access.TrailEntry {
	return access.TrailEntry{Tenant: "main", Actor: "principal:ann", Action: access.CreatePrincipal, On: fmt.Sprintf("POST /api/v1/principals %d", i), Request: fmt.Sprintf("%016x", i), Outcome: access.TrailDone}
}

// A75: the change and its entry are one transaction; who only looks leaves none.
func TestA75_TrailIsWrittenWithTheChange(t *testing.T) {
	principals(t, func(t *testing.T, db *store.DB, _ *sql.DB) {
		ctx := t.Context()
		all := func() []access.TrailRow {
			t.Helper()
			rows, err := db.TrailRows(ctx, access.Scope{Tenant: "main"}, 1, 1000)
			if err != nil {
				t.Fatal(err)
			}
			return rows
		}
		with, r := access.WithRecord(ctx, trailEntry(1))
		if _, err := db.Principals(with, access.Scope{Tenant: "main"}, "", 10); err != nil {
			t.Fatal(err)
		}
		if err := db.Atomic(with, func(context.Context) error { return nil }); err != nil || r.Written() || len(all()) != 0 {
			t.Fatalf("looking: %v, %d entries", err, len(all()))
		}
		refused := errors.New("no")
		if err := db.Atomic(with, func(ctx context.Context) error {
			if err := db.CreatePrincipal(ctx, principal("main", "wei", access.Auditor)); err != nil {
				return err
			}
			return refused
		}); !errors.Is(err, refused) || r.Written() || len(all()) != 0 {
			t.Fatalf("taken back: %v, %d entries", err, len(all()))
		}
		if err := db.CreatePrincipal(with, principal("main", "wei", access.Auditor)); err != nil || !r.Written() || len(all()) != 1 {
			t.Fatalf("done: %v, %d entries", err, len(all()))
		}
		if err := db.CreatePrincipal(with, principal("main", "olga", access.Auditor)); err != nil || len(all()) != 1 {
			t.Fatalf("the second transaction of the same: %v, %d entries", err, len(all()))
		}
		// Many at once share commits; the numbers have no gaps.
		var wg sync.WaitGroup
		for i := range 40 {
			wg.Go(func() {
				with, _ := access.WithRecord(ctx, trailEntry(i+2))
				tenant := []string{"main", "other"}[i%2]
				err := db.CreatePrincipal(with, principal(tenant, fmt.Sprintf("p-%d", i/4), access.Auditor))
				if err != nil && !errors.Is(err, access.ErrPrincipalExists) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		rows := all()
		if len(rows) != 21 { // of four that want a name in a tenant two are each other's
			t.Errorf("%d entries", len(rows))
		}
		if head, err := db.VerifyTrail(ctx); err != nil || head.Seq != int64(len(rows)) {
			t.Errorf("%+v %v", head, err)
		}
		if rows, err := db.Trail(ctx, access.Scope{Tenant: "other"}, store.TrailQuery{}, 0, 100); err != nil || len(rows) != 0 {
			t.Errorf("another tenant sees %d: %v", len(rows), err)
		}
		hidden, err := db.TrailRows(ctx, access.Scope{Tenant: "other"}, 1, 1000)
		chain := access.NewChain()
		for _, r := range hidden {
			if r.Entry != nil {
				t.Fatal("another tenant reads an entry")
			}
			if err := chain.Add(r); err != nil {
				t.Fatal(err)
			}
		}
		if err != nil || chain.Head().Seq != int64(len(rows)) {
			t.Errorf("the chain for another tenant: %d, %v", chain.Head().Seq, err)
		}
		some, err := db.Trail(ctx, access.Scope{Tenant: "main"}, store.TrailQuery{Actor: "principal:ann", Action: "principal.create", Since: time.Now().Add(-time.Hour), Until: time.Now().Add(time.Hour)}, 10, 5)
		if err != nil || len(some) != 5 || some[0].Seq != 9 {
			t.Errorf("a page: %v %v", some, err)
		}
		for _, q := range []store.TrailQuery{{Actor: "principal:bob"}, {Action: "order.open"}, {Since: time.Now().Add(time.Hour)}, {Until: time.Now().Add(-time.Hour)}} {
			if rows, err := db.Trail(ctx, access.Scope{Tenant: "main"}, q, 0, 5); err != nil || len(rows) != 0 {
				t.Errorf("%+v: %d %v", q, len(rows), err)
			}
		}
	})
}

// A75, S32: whatever somebody does to the table, the first bad entry is named.
func TestA75_VerifyTrailNamesTheFirstBadEntry(t *testing.T) {
	principals(t, func(t *testing.T, db *store.DB, raw *sql.DB) {
		ctx := t.Context()
		for i := range 12 {
			if err := db.AppendTrail(ctx, trailEntry(i)); err != nil {
				t.Fatal(err)
			}
		}
		head, err := db.VerifyTrail(ctx)
		if err != nil || head.Seq != 12 {
			t.Fatalf("%+v %v", head, err)
		}
		flip := func(column string) []string {
			return []string{`CREATE TABLE kept AS SELECT * FROM trail`, `UPDATE trail SET ` + column + ` = (SELECT k.` + column + ` FROM kept k WHERE k.seq = 8) WHERE seq = 5`}
		}
		for name, c := range map[string]struct {
			do   []string
			want string
		}{
			"the last four deleted":  {[]string{`CREATE TABLE kept AS SELECT * FROM trail`, `DELETE FROM trail WHERE seq > 8`}, "Entry 9."},
			"one deleted":            {[]string{`CREATE TABLE kept AS SELECT * FROM trail`, `DELETE FROM trail WHERE seq = 5`}, "Entry 5."},
			"two swapped":            {[]string{`CREATE TABLE kept AS SELECT * FROM trail`, `UPDATE trail SET seq = seq + 100 WHERE seq IN (5, 6)`, `UPDATE trail SET seq = 6 WHERE seq = 105`, `UPDATE trail SET seq = 5 WHERE seq = 106`}, "Entry 5."},
			"another's content":      {flip("entry"), "Entry 5."},
			"another's hash":         {flip("hash"), "Entry 5."},
			"another's MAC":          {flip("mac"), "entry 5."},
			"an actor that searches": {[]string{`CREATE TABLE kept AS SELECT * FROM trail`, `UPDATE trail SET actor = 'principal:eve' WHERE seq = 5`}, "entry 5."},
			"emptied":                {[]string{`CREATE TABLE kept AS SELECT * FROM trail`, `DELETE FROM trail`}, "Entry 1."},
		} {
			for _, q := range c.do {
				if _, err := raw.Exec(q); err != nil {
					t.Fatalf("%s: %s: %v", name, q, err)
				}
			}
			if _, err := db.VerifyTrail(ctx, head); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("%s: %v, want %s", name, err, c.want)
			}
			for _, q := range []string{`DELETE FROM trail`, `INSERT INTO trail SELECT * FROM kept`, `DROP TABLE kept`} {
				if _, err := raw.Exec(q); err != nil {
					t.Fatal(err)
				}
			}
		}
		if err := db.CheckTrailAgainst(ctx, head); err != nil {
			t.Errorf("against its own head: %v", err)
		}
		// An older database that went on is another history.
		if _, err := raw.Exec(`DELETE FROM trail WHERE seq > 10`); err != nil {
			t.Fatal(err)
		}
		for i := range 4 {
			if err := db.AppendTrail(ctx, trailEntry(100+i)); err != nil {
				t.Fatal(err)
			}
		}
		if err := db.CheckTrailAgainst(ctx, head); !errors.Is(err, access.ErrTrailBroken) {
			t.Errorf("an old database: %v", err)
		}
		if _, err := db.VerifyTrail(ctx, head); err == nil || !strings.Contains(err.Error(), "Entry 12.") {
			t.Errorf("an old database: %v", err)
		}
	})
}
