package main

import (
	"context"
	"crypto/x509"
	"sync"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/ca"
	"hallmark/ca/catest"
	"hallmark/ca/profile"
	"hallmark/crl"
	"hallmark/store"
	"hallmark/store/storetest"
)

// TestSharedKey_IsOneForAllNodes: of two nodes on one PostgreSQL that begin at the
// same time, both have one key for SCEP messages and one certificate; it is renewed
// once, and the former key stays until it ends.
func TestSharedKey_IsOneForAllNodes(t *testing.T) {
	ctx := t.Context()
	url := storetest.Postgres(t)
	start := time.Now()
	moved := time.Duration(0)
	now := func() time.Time { return start.Add(moved) }
	f := catest.Open(t, catest.Config{URL: url, Now: now})
	db, err := store.Open(ctx, store.Config{URL: url, Seal: f.Box, Now: now, ClockBack: 100 * 365 * 24 * time.Hour, ClockForward: 100 * 365 * 24 * time.Hour})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	other, err := ca.New(ctx, ca.Config{Ledger: db.Ledger(), Keys: f.Keys, Store: db, Now: now})
	if err != nil {
		t.Fatal(err)
	}
	node := func(c *ca.CA, db *store.DB) *certifier {
		return &certifier{ca: c, db: db, vault: vault{dir: t.TempDir(), box: f.Box}, now: now, have: map[string]*serviceCert{}}
	}
	nodes := []*certifier{node(f.CA, f.DB), node(other, db)}
	// ask asks every node at once, and says how many keys there are and which is
	// the newest: it is the same for all.
	ask := func(what string, nodes []*certifier, want int) *x509.Certificate {
		t.Helper()
		got := make([][]*serviceCert, len(nodes))
		errs := make([]error, len(nodes))
		var wg sync.WaitGroup
		for i, n := range nodes {
			wg.Go(func() { got[i], errs[i] = n.shared(context.Background(), "scep-ra", raRequest(access.DefaultTenant)) })
		}
		wg.Wait()
		for i := range nodes {
			if errs[i] != nil || len(got[i]) != want {
				t.Fatalf("%s, node %d: %d keys, %v", what, i, len(got[i]), errs[i])
			}
			for j, c := range got[i] {
				if !c.leaf.Equal(got[0][j].leaf) {
					t.Fatalf("%s, node %d: another certificate", what, i)
				}
				if pub, ok := c.key.Public().(interface{ Equal(x any) bool }); ok && !pub.Equal(c.leaf.PublicKey) {
					t.Errorf("%s, node %d: the key is another's", what, i)
				}
			}
		}
		return got[0][0].leaf
	}
	first := ask("at first", nodes, 1)
	if again := ask("again, with a node that is new", append(nodes, node(other, db)), 1); !again.Equal(first) {
		t.Error("it was made again")
	}
	life := first.NotAfter.Sub(first.NotBefore)
	moved = life/2 + time.Minute
	second := ask("at half its life", nodes, 2)
	if second.Equal(first) {
		t.Error("it was not renewed")
	}
	moved = life - 9*time.Minute - 30*time.Second // the certificates begin ten minutes before they are made
	if c := ask("when the first has ended", nodes, 1); !c.Equal(second) {
		t.Error("the second is not the one that is used")
	}
	// One that is revoked is replaced, and its key is not used any more. (A compromised
	// one blocks the identity, as any other: people decide what comes next.)
	serial, _ := ca.SerialFromInt(second.SerialNumber)
	officer := access.Actor{Tenant: access.DefaultTenant, Kind: access.KindPrincipal, Name: "officer"}
	if _, err := crl.New(crl.Config{Store: f.DB, Now: now}).Revoke(ctx, officer, crl.Withdrawal{Authority: catest.Infra, Serial: serial, Reason: crl.Superseded, Note: "test"}); err != nil {
		t.Fatal(err)
	}
	if c := ask("after its revocation", nodes, 1); c.Equal(second) {
		t.Error("it is still used")
	}
	all, err := f.DB.Records(ctx, ca.RecordQuery{Tenant: access.DefaultTenant, Profile: string(profile.SCEPRA)})
	if err != nil || len(all) != 3 {
		t.Errorf("%d certificates, %v", len(all), err)
	}
	rows, err := db.ServiceKeys(ctx, access.DefaultTenant, "scep-ra")
	if err != nil || len(rows) != 2 || rows[0].Generation != 3 {
		t.Errorf("%+v %v", rows, err)
	}
	// Sealed, it is a key of this name alone (S39).
	for _, r := range rows {
		if _, err := f.Box.Unseal(r.Sealed, "service-key", r.Tenant, "other", "3"); err == nil {
			t.Error("it opens as another")
		}
	}
}
