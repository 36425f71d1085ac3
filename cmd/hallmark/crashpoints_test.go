package main

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"hallmark/api/factoryapi"
	"hallmark/internal/seal"
	"hallmark/station/uplink"
	"hallmark/store"
	"hallmark/store/storetest"
)

// TestWays_AKillAtEachSyncLosesNothing is the tenth of the ten ways, and A2: the
// service is killed in front of the first, second, third … fsync of one issue
// and one commit. What was answered stays, what was not is answered when it is
// asked again, and there is one certificate.
func TestWays_AKillAtEachSyncLosesNothing(t *testing.T) {
	s := newSite(t, "software", "", anyName(100))
	s.halt()
	cert := s.stationPair()
	p := s.tracedService(t)
	kills, whole := 0, false
	for n := 1; !whole; n++ {
		if n > 40 {
			t.Fatal("one issue and one commit make more than 40 syncs")
		}
		u := newUnit(t, fmt.Sprintf("SN-%d", n))
		p.arm(n)
		var issued []byte
		committed := false
		round := func() error {
			c := s.client(&cert, 1)
			defer c.CloseIdleConnections()
			r, err := call(t.Context(), c, "POST", "https://"+s.door("factory")+"/factory/v1/units/issue", u.request())
			if err != nil {
				return err
			}
			var a factoryapi.IssueAnswer
			if err := json.Unmarshal(r.body, &a); err != nil || r.status != http.StatusOK {
				return fmt.Errorf("issue: %s %w", r, err)
			}
			if issued != nil && string(issued) != string(a.Certificate) {
				t.Errorf("%s: another certificate than was answered before the kill", u.name)
			}
			issued = a.Certificate
			digest := sha256.Sum256(uplink.CommitMessage(a.Nonce, u.name, a.Certificate))
			sig, err := u.key.Sign(rand.Reader, digest[:], crypto.SHA256)
			if err != nil {
				return err
			}
			r, err = call(t.Context(), c, "POST", "https://"+s.door("factory")+"/factory/v1/units/commit",
				factoryapi.CommitRequest{Order: siteOrder, Unit: u.name, Serial: a.Serial, Signature: sig})
			if err != nil {
				return err
			}
			if r.status != http.StatusOK {
				return fmt.Errorf("commit: %s", r)
			}
			committed = true
			return nil
		}
		err := round()
		select {
		case <-p.done:
			kills++
		case <-time.After(map[bool]time.Duration{true: 0, false: 5 * time.Second}[err == nil]):
			if err != nil {
				t.Fatalf("%s: %v, and nobody was killed", u.name, err)
			}
			whole = true // it was through before the n-th sync
			p.arm(0)
			continue
		}
		wasCommitted := committed
		p = s.tracedService(t)
		if wasCommitted && s.unitState(u.name) != "installed" {
			t.Errorf("kill %d: the answered commit of %s is gone", n, u.name)
		}
		if err := round(); err != nil {
			t.Errorf("kill %d: after the restart: %v", n, err)
		}
		if used := s.order(siteOrder).Used; used != int64(n) {
			t.Errorf("kill %d: %d units used", n, used)
		}
	}
	if kills < 3 { // reservation, certificate, commit
		t.Errorf("only %d syncs for one issue and one commit", kills)
	}
	t.Logf("killed in front of %d syncs", kills)
	p.kill()
	s.clean()
}

// unitState is what the service says of a unit.
func (s *site) unitState(name string) string {
	s.t.Helper()
	a, err := s.api("bob").ListUnitsWithResponse(s.t.Context(), siteOrder, nil)
	if err != nil || a.JSON200 == nil {
		s.t.Fatalf("units: %v %s", err, a.Body)
	}
	for _, u := range a.JSON200.Items {
		if u.Unit == name {
			return u.State
		}
	}
	return ""
}

// migrateOnly makes this test binary open a database and end, so that a test can
// kill it on the way.
const migrateOnly = "HALLMARK_TEST_MIGRATE"

func openOnly(url string) (*store.DB, error) {
	box, err := seal.Open(sha256.New().Sum(nil))
	if err != nil {
		return nil, err
	}
	return store.Open(context.Background(), store.Config{URL: url, Seal: box})
}

func migrateMain(url string) {
	db, err := openOnly(url)
	if err == nil {
		err = db.Close()
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

// TestMigration_KilledAtEachStepItIsFinishedByTheNextStart_A78 kills a service
// that makes its schema in front of a write, on both engines; the next one has a
// whole schema, the same as one that was never disturbed.
func TestMigration_KilledAtEachStepItIsFinishedByTheNextStart_A78(t *testing.T) {
	for _, engine := range []string{"SQLite", "PostgreSQL"} {
		t.Run(engine, func(t *testing.T) {
			fresh := func() string {
				if engine == "PostgreSQL" {
					return storetest.Postgres(t)
				}
				return filepath.Join(t.TempDir(), "h.db")
			}
			driver, calls := "sqlite", writeCalls
			if engine == "PostgreSQL" {
				driver, calls = "pgx", []uint64{syscall.SYS_WRITE} // its connection
			}
			start := func(url string, n int) *traced {
				cmd := exec.Command(must(os.Executable()))
				cmd.Env = append(os.Environ(), migrateOnly+"="+url)
				cmd.Stderr = os.Stderr
				p := trace(t, cmd, calls, n)
				select {
				case <-p.done:
				case <-time.After(time.Minute):
					t.Fatal("it does not end")
				}
				return p
			}
			schema := func(url string) string {
				raw, err := sql.Open(driver, url)
				if err != nil {
					t.Fatal(err)
				}
				defer raw.Close()
				q := `SELECT type || ' ' || name || ' ' || COALESCE(sql, '') FROM sqlite_master ORDER BY 1`
				if engine == "PostgreSQL" {
					q = `SELECT table_name || ' ' || column_name || ' ' || data_type || ' ' || is_nullable || ' ' || COALESCE(column_default, '') FROM information_schema.columns WHERE table_schema = 'public'
						UNION ALL SELECT indexdef FROM pg_indexes WHERE schemaname = 'public' ORDER BY 1`
				}
				q = `SELECT * FROM (` + q + `) x UNION ALL SELECT 'version ' || version FROM schema_version UNION ALL SELECT 'head ' || size FROM log_head`
				rows, err := raw.Query(q)
				if err != nil {
					t.Fatal(err)
				}
				defer rows.Close()
				var all []string
				for rows.Next() {
					var line string
					if err := rows.Scan(&line); err != nil {
						t.Fatal(err)
					}
					all = append(all, line)
				}
				if err := rows.Err(); err != nil {
					t.Fatal(err)
				}
				return strings.Join(all, "\n")
			}
			url := fresh()
			p := start(url, 0)
			if p.exit.ExitStatus() != 0 {
				t.Fatalf("it ended with %v", p.exit)
			}
			want, total := schema(url), p.counted()
			if strings.Count(want, "\n") < 30 || total < 5 {
				t.Fatalf("%d calls made the schema %s", total, want)
			}
			stride := 1
			if !long() {
				stride = max(1, total/map[string]int{"SQLite": 12, "PostgreSQL": 6}[engine])
			}
			killed := 0
			for n := 1; n <= total; n += stride {
				url := fresh()
				if p := start(url, n); p.exit.Signaled() {
					killed++
				}
				db, err := openOnly(url)
				if err != nil {
					t.Fatalf("killed in front of write %d of %d, the next start says: %v", n, total, err)
				}
				if err := db.Close(); err != nil {
					t.Error(err)
				}
				if got := schema(url); got != want {
					t.Errorf("killed in front of write %d of %d, the schema is %s", n, total, got)
				}
			}
			if killed < 5 {
				t.Errorf("only %d starts were killed", killed)
			}
			t.Logf("%d starts of %d writes were killed", killed, total)
		})
	}
}
