package main

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/ca"
	"hallmark/ca/catest"
	"hallmark/ca/tlog"
	"hallmark/crl"
	"hallmark/fleet/registry"
	"hallmark/hsm"
	"hallmark/internal/fault"
	"hallmark/provisioner"
	"hallmark/station/uplink"
	"hallmark/web"
)

// bench is a backend over a real database and CA.
type bench struct {
	*backend
	f    *catest.Fixture
	api  web.Backend
	keys *hsm.Keyring
	// officer approves what manager creates.
	officer, manager access.Actor
	approverKey      *ecdsa.PrivateKey
	scope, stranger  access.Scope
	reloads          int
	station          access.Actor // once it is enrolled
}

func newBench(t *testing.T, change func(*Config)) *bench {
	t.Helper()
	f := catest.New(t)
	n := &bench{f: f, keys: hsm.Open(hsm.Config{}), scope: access.Scope{Tenant: access.DefaultTenant}, stranger: access.Scope{Tenant: "other"}}
	t.Cleanup(func() { n.keys.Close() })
	n.officer = access.Actor{Tenant: n.scope.Tenant, Kind: access.KindPrincipal, Name: "olga", Role: access.SecurityOfficer}
	n.manager = access.Actor{Tenant: n.scope.Tenant, Kind: access.KindPrincipal, Name: "max", Role: access.CMManager}
	n.approverKey = catest.NewKey(t)
	spki, err := x509.MarshalPKIXPublicKey(n.approverKey.Public())
	if err != nil {
		t.Fatal(err)
	}
	cfg := &Config{OnePerson: true, State: t.TempDir(), BaseURL: catest.BaseURL, Lists: ListsConfig{Shards: 2}, ApprovalsNeeded: 1,
		Approvers: []ApproverConfig{{Name: "Olga", Key: string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki}))}}}
	if change != nil {
		change(cfg)
	}
	pinned, err := cfg.approvers()
	if err != nil {
		t.Fatal(err)
	}
	orders, err := provisioner.NewOrders(pinned, cfg.ApprovalsNeeded)
	if err != nil {
		t.Fatal(err)
	}
	_, logKey, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	log, err := tlog.New(tlog.Config{Store: f.DB.Log(), Origin: "log.example.com", Key: logKey})
	if err != nil {
		t.Fatal(err)
	}
	if f.CA, err = ca.New(t.Context(), ca.Config{Ledger: f.DB.Ledger(), Keys: bothKeys{n.keys, f.Keys}, Store: f.DB}); err != nil {
		t.Fatal(err)
	}
	set := crl.NewSet(crl.SetConfig{Feed: f.DB})
	if err := set.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.backend = &backend{
		cfg: cfg, db: f.DB, ca: f.CA, keys: n.keys, set: set, tlog: log, reg: registry.New(registry.Config{Store: f.DB}),
		prov: provisioner.New(provisioner.Config{Orders: orders, Store: f.DB, Units: f.DB, Stations: f.DB, Records: f.DB, CA: f.CA,
			Nonce: func(s ca.Serial) []byte { return s[:16] },
			VerifyCommit: func(pub crypto.PublicKey, nonce []byte, unit string, der, sig []byte) error {
				return uplink.VerifyCommit(pub, uplink.CommitMessage(nonce, unit, der), sig)
			}}),
		crl:      crl.New(crl.Config{Store: f.DB}),
		blast:    crl.NewBlast(crl.BlastConfig{Store: f.DB, Service: crl.New(crl.Config{Store: f.DB})}),
		lists:    crl.NewPublisher(crl.PublisherConfig{Store: f.DB, CA: f.CA, Set: set}),
		reloaded: func(ctx context.Context) error { n.reloads++; return n.lists.Sweep(ctx) },
	}
	doors := &Server{ca: f.CA, now: time.Now}
	doors.tls.Store(&doorCertificate{cert: &tls.Certificate{Certificate: [][]byte{f.Infra.Raw}}, ready: true})
	n.backend.stationRoot = doors.stationRoot
	if err := n.lists.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	n.api = n.backend.web()
	return n
}

// bothKeys opens the fixture's keys and those in files.
type bothKeys struct {
	ring    *hsm.Keyring
	fixture *catest.Keys
}

func (k bothKeys) Key(ctx context.Context, uri string) (ca.Key, error) {
	if strings.HasPrefix(uri, "test:") {
		return k.fixture.Key(ctx, uri)
	}
	return k.ring.Signer(ctx, uri)
}

func wants(t *testing.T, err error, want *fault.Definition) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got %v, want %s", err, want.Code)
	}
}

func ok[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestBackend_PagesMeetAllRowsOnceAndKnowTheLast(t *testing.T) {
	n, ctx := newBench(t, nil), t.Context()
	for i := range 5 {
		ok[adminapi.Order](t)(n.api.Orders.CreateOrder(ctx, n.manager, adminapi.OrderRequest{Id: fmt.Sprintf("o%d", i), Product: "p", Quantity: 1, Serials: adminapi.SerialRule{List: []string{"A"}}, KeyOrigin: "claimed"}))
		if i%2 == 0 {
			ok[adminapi.Order](t)(n.api.Orders.CloseOrder(ctx, n.manager, fmt.Sprintf("o%d", i)))
		}
		n.f.IssueIDevID(t, fmt.Sprintf("SN%d", i))
	}
	for _, c := range []struct {
		state string
		limit int
		want  [][]string
	}{
		{"", 2, [][]string{{"o0", "o1"}, {"o2", "o3"}, {"o4"}}},
		{"", 5, [][]string{{"o0", "o1", "o2", "o3", "o4"}}},
		{"closed", 2, [][]string{{"o0", "o2"}, {"o4"}}},
		{"draft", 2, [][]string{{"o1", "o3"}}},
		{"open", 2, [][]string{nil}},
	} {
		var got [][]string
		for after := ""; ; {
			items, next, err := n.api.Orders.Orders(ctx, n.scope, c.state, web.Page{After: after, Limit: c.limit})
			if err != nil {
				t.Fatal(err)
			}
			var ids []string
			for _, o := range items {
				ids = append(ids, o.Id)
			}
			got = append(got, ids)
			if after = next; after == "" {
				break
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(c.want) {
			t.Errorf("state %q, limit %d: %v, want %v", c.state, c.limit, got, c.want)
		}
	}
	seen := map[string]bool{}
	for after := ""; ; {
		items, next, err := n.api.Certificates.Certificates(ctx, n.scope, web.CertificateQuery{Holder: "sn"}, web.Page{After: after, Limit: 2})
		if err != nil {
			t.Fatal(err)
		}
		for _, c := range items {
			if seen[c.Serial] {
				t.Errorf("%s twice", c.Serial)
			}
			seen[c.Serial] = true
		}
		if after = next; after == "" {
			break
		}
	}
	if len(seen) != 5 {
		t.Errorf("%d of 5 certificates", len(seen))
	}
	_, _, err := n.api.Certificates.Certificates(ctx, n.scope, web.CertificateQuery{}, web.Page{After: "x", Limit: 2})
	wants(t, err, web.ErrCursor)
}

// TestCollect_AFilteredPageEnds covers the bound of one request's reading.
func TestCollect_AFilteredPageEnds(t *testing.T) {
	reads := 0
	fetch := func(after string, n int) ([]int, error) {
		reads++
		from := 0
		fmt.Sscan(after, &from)
		rows := make([]int, n)
		for i := range rows {
			rows[i] = from + i + 1
		}
		return rows, nil
	}
	items, next, err := collect("", 2, fetch, func(i *int) string { return fmt.Sprint(*i) }, func(i *int) bool { return *i == 20_500 })
	if err != nil || len(items) != 0 || next != fmt.Sprint(maxScan) || reads != maxScan/batch {
		t.Fatalf("%v, %q, %v after %d reads", items, next, err, reads)
	}
	if items, next, _ = collect("20000", 2, fetch, func(i *int) string { return fmt.Sprint(*i) }, func(i *int) bool { return *i == 20_500 }); len(items) != 1 || next == "" {
		t.Errorf("%v, %q", items, next)
	}
}
