package main

import (
	"testing"
	"time"

	"hallmark/access"
	"hallmark/ca"
	"hallmark/ca/catest"
	"hallmark/ca/profile"
)

// TestCertifier_LeavesAnIssuerThatIsGone: the service's own certificates are renewed
// as soon as their issuer is retired or revoked and another one is declared; until
// then the former ones are used.
func TestCertifier_LeavesAnIssuerThatIsGone(t *testing.T) {
	for _, stage := range []ca.EndStage{ca.EndClosed, ca.EndRevoked} {
		t.Run(string(stage), func(t *testing.T) {
			ctx := t.Context()
			f := catest.Open(t, catest.Config{Copied: true})
			dir := t.TempDir()
			c := &certifier{ca: f.CA, db: f.DB, vault: vault{dir: dir, box: f.Box}, now: time.Now, have: map[string]*serviceCert{}}
			names := []string{"localhost"}
			issuers := func(what, want string) (doors, ra *serviceCert) {
				t.Helper()
				doors, err := c.get(ctx, "doors", serverRequest(access.DefaultTenant, names))
				if err != nil {
					t.Fatal(err)
				}
				all, err := c.shared(ctx, "scep-ra", raRequest(access.DefaultTenant))
				if err != nil {
					t.Fatal(err)
				}
				if got := []string{doors.leaf.Issuer.CommonName, all[0].leaf.Issuer.CommonName}; got[0] != want || got[1] != want {
					t.Fatalf("%s: %v, want %s", what, got, want)
				}
				return doors, all[0]
			}
			first, _ := issuers("at first", catest.Infra)

			key := catest.NewKey(t)
			f.Keys.Add("test:infra-2", key)
			next := ca.Authority{Name: "infra-2", Tenant: access.DefaultTenant, Duty: profile.DutyInfrastructure, State: ca.StatePending, KeyURI: "test:infra-2",
				BaseURL: catest.BaseURL, Shards: 1, CreatedAt: f.Now(), CSR: []byte{1}}
			if err := f.DB.CreateAuthority(ctx, next); err != nil {
				t.Fatal(err)
			}
			next.State, next.Certificate = ca.StateActive, f.Certify(t, next.Duty, next.Name, key.Public()).Raw
			if err := f.DB.InstallAuthority(ctx, next); err != nil {
				t.Fatal(err)
			}
			officer := access.Actor{Tenant: access.DefaultTenant, Kind: access.KindPrincipal, Name: "olga"}
			if _, err := ca.Leave(ctx, f.DB, officer, ca.End{Authority: catest.Infra, Stage: stage, Reason: 1}, time.Now()); err != nil {
				t.Fatal(err)
			}
			if err := f.CA.Reload(ctx); err != nil {
				t.Fatal(err)
			}
			if old, _ := issuers("while nobody is declared", catest.Infra); !old.leaf.Equal(first.leaf) {
				t.Error("it is another certificate")
			}

			all, err := f.DB.Servings(ctx)
			if err != nil {
				t.Fatal(err)
			}
			for _, s := range all {
				if s.Serves == string(profile.DutyInfrastructure) {
					s.Authorities = []string{next.Name}
					if err := f.DB.PutServing(ctx, s, s.Version); err != nil {
						t.Fatal(err)
					}
				}
			}
			if err := f.CA.Reload(ctx); err != nil {
				t.Fatal(err)
			}
			doors, ra := issuers("once another is declared", next.Name)
			if d, r := issuers("again", next.Name); d.leaf != doors.leaf || r.leaf != ra.leaf {
				t.Error("they were renewed again")
			}
			c = &certifier{ca: f.CA, db: f.DB, vault: vault{dir: dir, box: f.Box}, now: time.Now, have: map[string]*serviceCert{}}
			if d, r := issuers("after a restart", next.Name); !d.leaf.Equal(doors.leaf) || !r.leaf.Equal(ra.leaf) {
				t.Error("they were renewed by a restart")
			}
		})
	}
}
