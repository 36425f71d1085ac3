package store_test

import (
	"database/sql"
	"errors"
	"path/filepath"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/store"
	"hallmark/store/storetest"
)

func principals(t *testing.T, test func(t *testing.T, db *store.DB, raw *sql.DB)) {
	for name, url := range map[string]func(t *testing.T) string{
		"sqlite":   func(t *testing.T) string { return filepath.Join(t.TempDir(), "h.db") },
		"postgres": func(t *testing.T) string { return storetest.Postgres(t) },
	} {
		t.Run(name, func(t *testing.T) {
			u := url(t)
			db := opener(u)(t)
			raw, err := sql.Open(map[string]string{"sqlite": "sqlite", "postgres": "pgx"}[name], u)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { raw.Close() })
			test(t, db, raw)
		})
	}
}

func principal(tenant, name string, role access.Role) access.Principal {
	now := time.Now().UTC().Truncate(time.Millisecond)
	return access.Principal{Tenant: tenant, Name: name, Role: role, TokenHash: access.NewToken().Hash(), CreatedAt: now, ExpiresAt: now.Add(time.Hour)}
}

func TestPrincipals_KeepTheContract(t *testing.T) {
	principals(t, func(t *testing.T, db *store.DB, _ *sql.DB) {
		ctx, main, other := t.Context(), access.Scope{Tenant: "main"}, access.Scope{Tenant: "other"}
		first, second := principal("main", "platform", access.Platform), principal("main", "platform", access.Platform)
		if ok, err := db.CreateFirstPrincipal(ctx, first); err != nil || !ok {
			t.Fatalf("first: %v %v", ok, err)
		}
		if ok, err := db.CreateFirstPrincipal(ctx, second); err != nil || ok {
			t.Errorf("a second first: %v %v", ok, err)
		}
		if err := db.CreatePrincipal(ctx, second); !errors.Is(err, access.ErrPrincipalExists) {
			t.Errorf("the name again: %v", err)
		}
		anna := principal("main", "anna", access.SecurityOfficer)
		if err := db.CreatePrincipal(ctx, anna); err != nil {
			t.Fatal(err)
		}
		if err := db.CreatePrincipal(ctx, principal("other", "anna", access.Auditor)); err != nil {
			t.Errorf("the name in another tenant: %v", err)
		}
		if got, err := db.PrincipalByToken(ctx, anna.TokenHash); err != nil || got != anna {
			t.Errorf("by token: %+v %v", got, err)
		}
		if _, err := db.PrincipalByToken(ctx, access.NewToken().Hash()); !errors.Is(err, access.ErrToken) {
			t.Errorf("an unknown token: %v", err)
		}
		if list, err := db.Principals(ctx, main, "", 1); err != nil || len(list) != 1 || list[0].Name != "anna" {
			t.Errorf("first page %v %v", list, err)
		}
		if list, err := db.Principals(ctx, main, "anna", 10); err != nil || len(list) != 1 || list[0].Name != "platform" {
			t.Errorf("second page %v %v", list, err)
		}
		if _, err := db.Principal(ctx, other, "platform"); !errors.Is(err, access.ErrPrincipalUnknown) {
			t.Errorf("another tenant's: %v", err)
		}
		if _, err := db.DisablePrincipal(ctx, other, "platform", time.Now()); !errors.Is(err, access.ErrPrincipalUnknown) {
			t.Errorf("disable another tenant's: %v", err)
		}
		if _, err := db.DisablePrincipal(ctx, main, "platform", time.Now()); !errors.Is(err, access.ErrLastPlatform) {
			t.Errorf("disable the last: %v", err)
		}
		gone, err := db.DisablePrincipal(ctx, main, "anna", time.Now())
		if err != nil || gone.DisabledAt.IsZero() {
			t.Fatalf("%+v %v", gone, err)
		}
		if again, err := db.DisablePrincipal(ctx, main, "anna", time.Now().Add(time.Hour)); err != nil || again != gone {
			t.Errorf("again: %+v %v", again, err)
		}
		if got, err := db.PrincipalByToken(ctx, anna.TokenHash); err != nil || got.Live(time.Now()) {
			t.Errorf("disabled: %+v %v", got, err)
		}
	})
}

// S32: whoever writes the database can neither raise a role, nor bring a token
// back, nor take another's name.
func TestS32_PrincipalsChangedByHandAreRefused(t *testing.T) {
	principals(t, func(t *testing.T, db *store.DB, raw *sql.DB) {
		for change, text := range map[string]string{
			"role":   `UPDATE principals SET role = 'platform' WHERE name = $1`,
			"expiry": `UPDATE principals SET expires_at = expires_at + 1 WHERE name = $1`,
			"name":   `UPDATE principals SET name = name || 'x' WHERE name = $1`,
			"tenant": `UPDATE principals SET tenant = 'other' WHERE name = $1`,
			"revive": `UPDATE principals SET disabled_at = 0 WHERE name = $1`,
			"swap":   `UPDATE principals SET mac = (SELECT mac FROM principals WHERE name = 'platform') WHERE name = $1`,
		} {
			t.Run(change, func(t *testing.T) {
				ctx := t.Context()
				db.CreateFirstPrincipal(ctx, principal("main", "platform", access.Platform))
				p := principal("main", "p-"+change, access.Auditor)
				if err := db.CreatePrincipal(ctx, p); err != nil {
					t.Fatal(err)
				}
				if _, err := db.DisablePrincipal(ctx, access.Scope{Tenant: "main"}, p.Name, time.Now()); err != nil {
					t.Fatal(err)
				}
				if _, err := raw.ExecContext(ctx, text, p.Name); err != nil {
					t.Fatal(err)
				}
				if got, err := db.PrincipalByToken(ctx, p.TokenHash); !errors.Is(err, store.ErrRowTampered) {
					t.Errorf("%+v %v", got, err)
				}
			})
		}
	})
}

func TestCounts_AreATenants(t *testing.T) {
	principals(t, func(t *testing.T, db *store.DB, _ *sql.DB) {
		c, err := db.Counts(t.Context(), access.Scope{Tenant: "main"})
		if err != nil || c != (access.Counts{}) {
			t.Errorf("%+v %v", c, err)
		}
		if n, err := db.CountInstalled(t.Context(), access.Scope{Tenant: "main"}, "PO-1"); err != nil || n != 0 {
			t.Errorf("%d %v", n, err)
		}
		if _, blocked, err := db.BlockOf(t.Context(), access.Scope{Tenant: "main"}, "SN1"); err != nil || blocked {
			t.Errorf("%v %v", blocked, err)
		}
		if _, err := db.Block(t.Context(), "main", "sn1", time.Now(), "principal:anna", "stolen"); err != nil {
			t.Fatal(err)
		}
		if b, blocked, err := db.BlockOf(t.Context(), access.Scope{Tenant: "main"}, "SN1"); err != nil || !blocked || b.Note != "stolen" || b.By != "principal:anna" || b.At.IsZero() {
			t.Errorf("%+v %v %v", b, blocked, err)
		}
		if _, blocked, _ := db.BlockOf(t.Context(), access.Scope{Tenant: "other"}, "SN1"); blocked {
			t.Error("another tenant sees the block")
		}
	})
}
