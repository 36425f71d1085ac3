package store_test

import (
	"database/sql"
	"errors"
	"strings"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/fleet/presence"
	"hallmark/fleet/registry"
	"hallmark/store"
)

// TestUses_TheNewestCountsAndIsNoClient: when a certificate was used over HTTPS is told
// to its tenant alone, in no query, and not believed if somebody else wrote it (S32).
func TestUses_TheNewestCountsAndIsNoClient(t *testing.T) {
	bothEngines(t, func(t *testing.T, url, driver string, a, b *store.DB) {
		k := newKept(a)
		k.thing(t, "Press-7")
		main, at := access.Scope{Tenant: "main"}, time.UnixMilli(1_800_000_000_000).UTC()
		must(t, a.PutAttachment(t.Context(), "main", "press-7", "c1", registry.Exclusive, at))
		raw, err := sql.Open(driver, url)
		must(t, err)
		defer raw.Close()
		look := func() []presence.State {
			t.Helper()
			got, err := store.Contacts{DB: b}.Presence(t.Context(), main, "PRESS-7")
			must(t, err)
			return got
		}
		use := func(certificate string, after time.Duration) presence.Use {
			return presence.Use{Tenant: "main", Certificate: certificate, At: at.Add(after)}
		}
		must(t, a.PutUses(t.Context(), []presence.Use{use("c1", time.Minute), use("c2", 0)}))
		must(t, b.PutUses(t.Context(), []presence.Use{use("c1", 0)})) // an old word
		if got := look(); len(got) != 1 || got[0].Certificate != "c1" || got[0].Connected || got[0].Client != "" || !got[0].At.Equal(at.Add(time.Minute)) {
			t.Errorf("%+v", got)
		}
		k.want(t, "connectivity.connected:false")
		k.want(t, "connectivity.timestamp:*")
		if got, err := a.CertificateUses(t.Context(), access.Scope{Tenant: "other"}, "press-7"); err != nil || len(got) > 0 {
			t.Errorf("another tenant sees %v, %v", got, err)
		}
		for _, change := range []string{`at = at + 1`, `certificate = 'c3'`} {
			back := map[string]string{`at = at + 1`: `at = at - 1`, `certificate = 'c3'`: `certificate = 'c1'`}[change]
			_, err := raw.ExecContext(t.Context(), `UPDATE certificate_uses SET `+change+` WHERE certificate = 'c1'`)
			must(t, err)
			if got := strings.Join(k.fsck(t), "\n"); !strings.Contains(got, "row-tampered: certificate_uses main/c") {
				t.Errorf("%s: %s", change, got)
			}
			if change == `at = at + 1` {
				if _, err := (store.Contacts{DB: b}).Presence(t.Context(), main, "press-7"); !errors.Is(err, store.ErrRowTampered) {
					t.Errorf("%v", err)
				}
			}
			_, err = raw.ExecContext(t.Context(), `UPDATE certificate_uses SET `+back+` WHERE certificate IN ('c1', 'c3')`)
			must(t, err)
		}
		if n, err := a.ForgetUses(t.Context(), at.Add(time.Second), 10); n != 1 || err != nil {
			t.Errorf("forgot %d, %v", n, err)
		}
		if got := look(); len(got) != 1 {
			t.Errorf("%v", got)
		}
	})
}
