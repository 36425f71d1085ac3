package store_test

import (
	"context"
	"database/sql"
	"errors"
	"slices"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/ca"
	"hallmark/ca/catest"
	"hallmark/store"
	"hallmark/store/storetest"
)

var servingOfficer = access.Actor{Tenant: access.DefaultTenant, Kind: access.KindPrincipal, Name: "olga", Role: access.SecurityOfficer}

// both gives a fixture on either engine, and a writer beside it.
func bothWithWriter(t *testing.T, test func(t *testing.T, f *catest.Fixture, raw *sql.DB)) {
	for name, url := range map[string]func() string{"sqlite": func() string { return t.TempDir() + "/h.db" }, "postgres": func() string { return storetest.Postgres(t) }} {
		t.Run(name, func(t *testing.T) {
			u := url()
			f := catest.Open(t, catest.Config{URL: u})
			raw, err := sql.Open(map[string]string{"sqlite": "sqlite", "postgres": "pgx"}[name], u)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { raw.Close() })
			test(t, f, raw)
		})
	}
}

// TestServings_ADatabaseWriterDeclaresNobody_S32: a declaration that was changed,
// added, taken away or brought back from before is not taken; the former ones stay.
func TestServings_ADatabaseWriterDeclaresNobody_S32(t *testing.T) {
	bothWithWriter(t, func(t *testing.T, f *catest.Fixture, raw *sql.DB) {
		ctx := t.Context()
		one := ca.Serving{Tenant: access.DefaultTenant, Name: "idevid.pump", Serves: "idevid", Product: "pump", Authorities: []string{catest.Device}}
		if err := f.DB.PutServing(ctx, one, 0); err != nil {
			t.Fatal(err)
		}
		if err := f.DB.PutServing(ctx, one, 0); !errors.Is(err, ca.ErrServingChanged) {
			t.Errorf("made twice: %v", err)
		}
		if err := f.CA.Reload(ctx); err != nil {
			t.Fatal(err)
		}
		var body, mac []byte
		if err := raw.QueryRow(`SELECT body, mac FROM serving WHERE name = 'idevid.pump'`).Scan(&body, &mac); err != nil {
			t.Fatal(err)
		}
		write := func(query string, args ...any) {
			t.Helper()
			if _, err := raw.Exec(query, args...); err != nil {
				t.Fatal(err)
			}
		}
		put := func(b, m []byte, version int) {
			t.Helper()
			write(`DELETE FROM serving WHERE name = 'idevid.pump'`)
			write(`INSERT INTO serving (tenant, name, body, version, mac) VALUES ('main', 'idevid.pump', $1, $2, $3)`, b, version, m)
		}
		one.Authorities = nil
		if err := f.DB.PutServing(ctx, one, 1); err != nil {
			t.Fatal(err)
		}
		var body2, mac2 []byte
		if err := raw.QueryRow(`SELECT body, mac FROM serving WHERE name = 'idevid.pump'`).Scan(&body2, &mac2); err != nil {
			t.Fatal(err)
		}
		for name, change := range map[string]func(){
			"taken away":       func() { write(`DELETE FROM serving WHERE name = 'idevid.pump'`) },
			"from before":      func() { put(body, mac, 1) },
			"another's MAC":    func() { put(body, mac2, 2) },
			"under a new name": func() { write(`UPDATE serving SET name = 'x' WHERE name = 'idevid.pump'`) },
		} {
			change()
			if err := f.CA.Reload(ctx); !errors.Is(err, store.ErrRowTampered) {
				t.Errorf("%s: %v", name, err)
			}
			if n := len(f.CA.Servings()); n != 3 {
				t.Errorf("%s: %d declarations are in force", name, n)
			}
			write(`DELETE FROM serving WHERE name IN ('x', 'idevid.pump')`)
			put(body2, mac2, 2)
			if err := f.CA.Reload(ctx); err != nil {
				t.Fatalf("%s, put right again: %v", name, err)
			}
		}
		// A closed authority does not come back as it was.
		var was []byte
		if err := raw.QueryRow(`SELECT mac FROM authorities WHERE name = 'device-1'`).Scan(&was); err != nil {
			t.Fatal(err)
		}
		if err := f.DB.SetAuthorityState(ctx, catest.Device, ca.StateClosed); err != nil {
			t.Fatal(err)
		}
		if err := f.CA.Reload(ctx); err != nil {
			t.Fatal(err)
		}
		write(`UPDATE authorities SET state = 'active', mac = $1 WHERE name = 'device-1'`, was)
		if err := f.CA.Reload(ctx); !errors.Is(err, store.ErrRowTampered) {
			t.Errorf("an authority from before: %v", err)
		}
	})
}

// TestLeave_EveryStepIsOneTransaction: what stops before the end of a step leaves
// nothing of it, and what is repeated changes nothing.
func TestLeave_EveryStepIsOneTransaction_S2(t *testing.T) {
	bothWithWriter(t, func(t *testing.T, f *catest.Fixture, _ *sql.DB) {
		ctx, now := t.Context(), time.Now()
		a, err := f.CA.Authority(catest.Device)
		if err != nil {
			t.Fatal(err)
		}
		next := a.Authority
		key := catest.NewKey(t)
		next.Name, next.KeyURI, next.State = "device-2", "test:device-2", ca.StatePending
		next.Certificate, next.CSR = nil, []byte{1}
		f.Keys.Add(next.KeyURI, key)
		if err := f.DB.CreateAuthority(ctx, next); err != nil {
			t.Fatal(err)
		}
		next.State, next.Certificate = ca.StateActive, f.Certify(t, a.Duty, "device-2", key.Public()).Raw
		if err := f.DB.InstallAuthority(ctx, next); err != nil {
			t.Fatal(err)
		}
		declared := func() []string {
			t.Helper()
			all, err := f.DB.Servings(ctx)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range all {
				if s.Serves == "device" {
					return s.Authorities
				}
			}
			return nil
		}
		state := func(name string) ca.State {
			t.Helper()
			all, err := f.DB.Authorities(ctx)
			if err != nil {
				t.Fatal(err)
			}
			i := slices.IndexFunc(all, func(a ca.Authority) bool { return a.Name == name })
			return all[i].State
		}
		if got := declared(); !slices.Equal(got, []string{"device-1"}) {
			t.Fatalf("an installed authority is declared: %v", got)
		}
		died := errors.New("the process is gone")
		for _, step := range []struct {
			want  ca.End
			names []string
			state ca.State
		}{
			{ca.End{Authority: "device-1", Successor: "device-2", Stage: ca.EndOverlap}, []string{"device-2", "device-1"}, ca.StateActive},
			{ca.End{Authority: "device-1", Successor: "device-2", Stage: ca.EndClosed}, []string{"device-2"}, ca.StateClosed},
			{ca.End{Authority: "device-1", Stage: ca.EndRevoked, Reason: 1}, []string{"device-2"}, ca.StateRevoked},
		} {
			before, was := declared(), state("device-1")
			err := f.DB.Atomic(ctx, func(ctx context.Context) error {
				if _, err := ca.Leave(ctx, f.DB, servingOfficer, step.want, now); err != nil {
					return err
				}
				return died
			})
			if !errors.Is(err, died) || !slices.Equal(declared(), before) || state("device-1") != was {
				t.Fatalf("%s, stopped: %v; declared %v, %s", step.want.Stage, err, declared(), state("device-1"))
			}
			for range 2 {
				if _, err := ca.Leave(ctx, f.DB, servingOfficer, step.want, now); err != nil {
					t.Fatal(err)
				}
				if got := declared(); !slices.Equal(got, step.names) || state("device-1") != step.state {
					t.Errorf("%s: declared %v, %s", step.want.Stage, got, state("device-1"))
				}
			}
			if _, err := ca.Leave(ctx, f.DB, servingOfficer, ca.End{Authority: "device-1", Successor: "device-2", Stage: ca.EndOverlap}, now); step.want.Stage != ca.EndOverlap && !errors.Is(err, ca.ErrEndBack) {
				t.Errorf("back from %s: %v", step.want.Stage, err)
			}
		}
		ends, err := f.DB.Ends(ctx, servingOfficer.Scope())
		if err != nil || len(ends) != 1 || len(ends[0].Steps) != 3 {
			t.Errorf("%+v, %v", ends, err)
		}
	})
}

// TestCrosses_ADatabaseWriterAddsNone_S32: a cross certificate that was changed,
// added or taken away is not served; the former ones stay.
func TestCrosses_ADatabaseWriterAddsNone_S32(t *testing.T) {
	bothWithWriter(t, func(t *testing.T, f *catest.Fixture, raw *sql.DB) {
		ctx := t.Context()
		for _, name := range []string{"x-1", "x-2"} {
			x := ca.Cross{Tenant: access.DefaultTenant, Name: name, Root: catest.Root, Of: "other", Certificate: f.Root.Raw, AddedAt: time.Now().UTC()}
			if err := f.DB.AddCross(ctx, x); err != nil {
				t.Fatal(err)
			}
			if err := f.DB.AddCross(ctx, x); !errors.Is(err, ca.ErrAuthorityExists) {
				t.Errorf("added twice: %v", err)
			}
		}
		if err := f.CA.Reload(ctx); err != nil || len(f.CA.Crosses()) != 2 {
			t.Fatalf("%d, %v", len(f.CA.Crosses()), err)
		}
		for _, change := range []string{
			`UPDATE cross_certificates SET body = (SELECT body FROM cross_certificates WHERE name = 'x-2') WHERE name = 'x-1'`,
			`UPDATE cross_certificates SET version = 2 WHERE name = 'x-1'`,
			`UPDATE cross_certificates SET name = 'x-3' WHERE name = 'x-1'`,
			`DELETE FROM cross_certificates WHERE name <> 'x-2'`,
		} {
			if _, err := raw.Exec(change); err != nil {
				t.Fatal(err)
			}
			if err := f.CA.Reload(ctx); !errors.Is(err, store.ErrRowTampered) {
				t.Errorf("%s: %v", change, err)
			}
			if len(f.CA.Crosses()) != 2 {
				t.Errorf("%s: %d are in force", change, len(f.CA.Crosses()))
			}
		}
	})
}

// TestInstall_DeclaresNobodyAfterARevocation_S36: the first authority of a duty is
// declared with its installation. After it was revoked, and served alone, its
// successor is installed by one person and declared by two.
func TestInstall_DeclaresNobodyAfterARevocation_S36(t *testing.T) {
	bothWithWriter(t, func(t *testing.T, f *catest.Fixture, _ *sql.DB) {
		ctx := t.Context()
		declared := func() (out []string) {
			t.Helper()
			all, err := f.DB.Servings(ctx)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range all {
				if s.Serves == "device" {
					out = s.Authorities
				}
			}
			return out
		}
		if got := declared(); !slices.Equal(got, []string{catest.Device}) {
			t.Fatalf("the first: %v", got)
		}
		if _, err := ca.Leave(ctx, f.DB, servingOfficer, ca.End{Authority: catest.Device, Stage: ca.EndRevoked, Reason: 1}, time.Now()); err != nil {
			t.Fatal(err)
		}
		a, err := f.CA.Authority(catest.Device)
		if err != nil {
			t.Fatal(err)
		}
		next, key := a.Authority, catest.NewKey(t)
		next.Name, next.KeyURI, next.State, next.Certificate, next.CSR = "device-2", "test:device-2", ca.StatePending, nil, []byte{1}
		f.Keys.Add(next.KeyURI, key)
		if err := f.DB.CreateAuthority(ctx, next); err != nil {
			t.Fatal(err)
		}
		next.State, next.Certificate = ca.StateActive, f.Certify(t, a.Duty, "device-2", key.Public()).Raw
		if err := f.DB.InstallAuthority(ctx, next); err != nil {
			t.Fatal(err)
		}
		if got := declared(); len(got) != 0 {
			t.Errorf("one person declared %v", got)
		}
	})
}
