package store_test

import (
	"context"
	"crypto/sha256"
	"database/sql"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/fleet/rotation"
	"hallmark/internal/seal"
	"hallmark/store"
	"hallmark/store/storetest"
)

// TestExpiring_GoesAlongItsIndex on both engines: the look at what ends next costs as
// much as there is of it, however many certificates there are. The long form has a
// million (HALLMARK_PROOF=1).
func TestExpiring_GoesAlongItsIndex(t *testing.T) {
	n := 20_000
	if os.Getenv("HALLMARK_PROOF") == "1" {
		n = 1_000_000
	}
	t.Run("SQLite", func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "h.db")
		expiring(t, file, "sqlite", "file:"+file+"?_pragma=synchronous(0)&_pragma=busy_timeout(10000)", n)
	})
	t.Run("PostgreSQL", func(t *testing.T) {
		url := storetest.Postgres(t)
		expiring(t, url, "pgx", url, n)
	})
}

func expiring(t *testing.T, url, driver, dsn string, n int) {
	key, err := seal.Open(sha256.New().Sum(nil))
	if err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(t.Context(), store.Config{URL: url, Seal: key})
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	raw, err := sql.Open(driver, dsn)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	// Ten years of certificates, one each second hour; each tenth device has another
	// one that ends later, and each seventh certificate is not in use.
	now := time.UnixMilli(1_800_000_000_000)
	step := 10 * 365 * 24 * time.Hour / time.Duration(n)
	numbers := fmt.Sprintf(`WITH RECURSIVE k(i) AS (SELECT 0 UNION ALL SELECT i + 1 FROM k WHERE i < %d) `, n-1)
	blob, name, cast := `X'00'`, `printf('%s%%07d', %s)`, `i`
	if driver == "pgx" {
		blob, name, cast = `'\x00'::bytea`, `'%s' || lpad((%s)::text, 7, '0')`, `i::bigint`
	}
	thing, id, first := fmt.Sprintf(name, "t", "i"), fmt.Sprintf(name, "c", "i"), fmt.Sprintf(name, "t", fmt.Sprintf("i - %d", n*9/10))
	for _, q := range []string{
		`INSERT INTO things (tenant, name, folded, holder, type, groups, billing_group, policy, configuration, registered_by, created_at, updated_at, version, mac) ` + numbers + `SELECT 'main', ` + thing + `, ` + thing + `, '', '', '[]', '', '[]', '{}', '', 0, 0, 1, ` + blob + ` FROM k`,
		`INSERT INTO device_certificates (tenant, id, der, ca, authority, serial, status, how, holder, common_name, not_before, not_after, transfer_to, registered_at, updated_at, version, mac) ` + numbers +
			`SELECT 'main', ` + id + `, ` + blob + `, '', 'device-1', ` + serialSQL(driver) + `, CASE WHEN i % 7 = 0 THEN 'INACTIVE' ELSE 'ACTIVE' END, 'first-boot', '', '', 0, ` + fmt.Sprintf(`%d + %s * %d`, now.UnixMilli(), cast, step.Milliseconds()) + `, '', 0, 0, 1, ` + blob + ` FROM k`,
		`INSERT INTO thing_principals (tenant, thing, certificate, kind, attached_at, mac) ` + numbers + `SELECT 'main', ` + thing + `, ` + id + `, 'EXCLUSIVE_THING', 0, ` + blob + ` FROM k`,
		// The last tenth of all also act for the things of the first.
		`INSERT INTO thing_principals (tenant, thing, certificate, kind, attached_at, mac) ` + strings.Replace(numbers, "SELECT 0 ", fmt.Sprintf("SELECT %d ", n*9/10), 1) + `SELECT 'main', ` + first + `, ` + id + `, 'EXCLUSIVE_THING', 0, ` + blob + ` FROM k`,
	} {
		if _, err := raw.Exec(q); err != nil {
			t.Fatalf("%v: %s", err, q)
		}
	}
	if driver == "pgx" { // it does so by itself; the service never asks SQLite to
		if _, err := raw.Exec(`ANALYZE`); err != nil {
			t.Fatal(err)
		}
	}
	until := now.Add(30 * 24 * time.Hour)
	args := store.ExpiringArgs("main", now, until, &rotation.Due{}, 250)
	plan := explain(t, raw, driver, store.ExpiringSQL, args...)
	if !strings.Contains(plan, "device_certificates_expiry") || strings.Contains(plan, "SCAN device_certificates") || strings.Contains(plan, "Seq Scan on device_certificates") {
		t.Errorf("the plan does not go along the index:\n%s", plan)
	}
	if driver == "sqlite" && !strings.Contains(plan, "thing_principals_thing (tenant=? AND thing=?)") {
		t.Errorf("whether a thing has another certificate is not looked up by the thing:\n%s", plan)
	}
	// What every look at a device asks.
	for query, index := range map[string]string{store.UsesSQL: "thing_principals_thing (tenant=? AND thing=?)", store.PresenceSQL: "presence_thing (tenant=? AND thing=?)", store.ThingsOfSQL: "things_holder (tenant=? AND holder=?)"} {
		plan := explain(t, raw, driver, query, "main", "t0000001")
		if driver == "sqlite" && (!strings.Contains(plan, index) || strings.Contains(plan, "(tenant=?)")) {
			t.Errorf("%s\nis not looked up by the thing:\n%s", query, plan)
		}
	}
	began := time.Now()
	var all []rotation.Due
	for after, more := (rotation.Due{}), true; more; {
		var page []rotation.Due
		page, after, more, err = db.Expiring(context.Background(), access.Scope{Tenant: "main"}, now, until, after, 250)
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, page...)
	}
	took := time.Since(began)
	seen := map[string]bool{}
	for i, d := range all {
		if seen[d.Certificate] || !d.NotAfter.After(now) || d.NotAfter.After(until) || i > 0 && d.NotAfter.Before(all[i-1].NotAfter) {
			t.Fatalf("%+v", d)
		}
		seen[d.Certificate] = true
	}
	// The first month of ten years is the first tenth's, whose things have a successor
	// wherever that one is in use.
	want := 0
	for i := 1; now.Add(time.Duration(i)*step.Truncate(time.Millisecond)).Compare(until) <= 0; i++ {
		if i%7 != 0 && (i+n*9/10)%7 == 0 {
			want++
		}
	}
	t.Logf("%d certificates, %d due: %s", n, len(all), took)
	if len(all) != want {
		t.Errorf("%d are due, not %d", len(all), want)
	}
}

func serialSQL(driver string) string {
	if driver == "pgx" {
		return `decode(lpad(to_hex(i), 40, '0'), 'hex')`
	}
	return `CAST(printf('%020d', i) AS BLOB)`
}

func explain(t *testing.T, raw *sql.DB, driver, query string, args ...any) string {
	t.Helper()
	prefix := "EXPLAIN QUERY PLAN "
	if driver == "pgx" {
		prefix = "EXPLAIN "
	}
	rows, err := raw.Query(prefix+query, args...)
	if err != nil {
		t.Fatal(err)
	}
	defer rows.Close()
	var out strings.Builder
	for rows.Next() {
		var line string
		var x int
		dest := []any{&x, &x, &x, &line}
		if driver == "pgx" {
			dest = dest[3:]
		}
		if err := rows.Scan(dest...); err != nil {
			t.Fatal(err)
		}
		out.WriteString(line + "\n")
	}
	return out.String()
}
