package crl_test

import (
	"bytes"
	"crypto/rand"
	"crypto/x509"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/ca"
	"hallmark/ca/catest"
	"hallmark/crl"
)

// deltas starts the publisher anew, with delta lists.
func (b *bench) deltas() {
	b.t.Helper()
	b.pub = crl.NewPublisher(crl.PublisherConfig{Store: b.DB, CA: b.CA, Set: b.set, Dir: b.dir, Now: b.clock.now, Deltas: true})
	if err := b.pub.Start(b.t.Context()); err != nil {
		b.t.Fatal(err)
	}
}

// pair gives the list and the delta list of a shard, read and verified.
func (b *bench) pair(shard int) (full, delta *crl.List) {
	b.t.Helper()
	read := func(isDelta bool) *crl.List {
		var out bytes.Buffer
		if err := b.pub.WriteList(&out, catest.Device, shard, isDelta); err != nil {
			b.t.Fatal(err)
		}
		l, err := crl.ParseList(out.Bytes())
		if err != nil {
			b.t.Fatal(err)
		}
		if err := l.Verify(b.Device); err != nil {
			b.t.Fatal(err)
		}
		return l
	}
	return read(false), read(true)
}

func TestDelta_AndItsBaseMakeTheNextList_A32_A33(t *testing.T) { both(t, deltaAndItsBase) }

func deltaAndItsBase(t *testing.T, b *bench) {
	var serials []ca.Serial
	for i := range 8 {
		_, s := b.device(fmt.Sprintf("D-%d", i))
		serials = append(serials, s)
	}
	b.revoke(serials[0], crl.Superseded)
	b.revoke(serials[1], crl.CertificateHold)
	b.revoke(serials[2], crl.CertificateHold)
	b.clock.move(time.Second)
	b.settle()
	b.deltas()
	var lists []*crl.List
	base, err := crl.ParseList(b.read("crl/" + catest.Device + "/0.crl"))
	if err != nil {
		t.Fatal(err)
	}
	lists = append(lists, base)
	last := base.Number
	step := func(do func()) (full, delta *crl.List) {
		t.Helper()
		b.clock.move(2 * time.Second)
		do()
		if err := b.set.Follow(t.Context()); err != nil {
			t.Fatal(err)
		}
		if _, err := b.pub.Publish(t.Context(), catest.Device, 0); err != nil {
			t.Fatal(err)
		}
		full, delta = b.pair(0)
		if full.Number <= last || delta.Number != full.Number || !delta.ThisUpdate.Equal(full.ThisUpdate) {
			t.Fatalf("list %d and delta %d after %d", full.Number, delta.Number, last)
		}
		last = full.Number
		if full.Freshest == "" || delta.Freshest != "" || delta.URL != full.URL {
			t.Errorf("the list points to %q, the delta to %q", full.Freshest, delta.Freshest)
		}
		// Every list since the base, with the delta, is this list: entry by entry.
		for _, l := range lists {
			if l.Number < delta.Base {
				continue
			}
			got, err := crl.Join(l, delta)
			if err != nil || !bytes.Equal(got, full.Entries) {
				t.Fatalf("list %d and delta %d do not make list %d: %v", l.Number, delta.Number, full.Number, err)
			}
		}
		lists = append(lists, full)
		return full, delta
	}
	_, d := step(func() { b.revoke(serials[3], crl.KeyCompromise) })
	if r, found := on(d, serials[3]); !found || r != crl.KeyCompromise || d.Count != 1 {
		t.Errorf("the delta has %d entries, reason %v", d.Count, r)
	}
	full, d := step(func() {
		if err := b.svc.Release(t.Context(), officer, catest.Device, serials[1], "found"); err != nil {
			t.Fatal(err)
		}
	})
	if r, found := on(d, serials[1]); !found || r != 8 {
		t.Errorf("a release is reason %v in the delta, found %t", r, found)
	}
	if _, found := on(full, serials[1]); found {
		t.Error("a released hold is on the full list")
	}
	step(func() { b.revoke(serials[2], crl.PrivilegeWithdrawn) }) // a hold becomes permanent
	step(func() {})                                               // nothing
	// What clients make of it.
	file := b.write("delta.pem", "X509 CRL", d.DER)
	issuer := b.write("issuer.pem", "CERTIFICATE", b.Device.Raw)
	if out, err := run(t, "openssl", "crl", "-in", file, "-CAfile", issuer, "-noout", "-text"); err != nil || !bytes.Contains([]byte(out), []byte("Remove From CRL")) || !bytes.Contains([]byte(out), []byte("Delta CRL Indicator: critical")) {
		t.Errorf("openssl: %v\n%s", err, out)
	}
	b.certtool(d.DER)
	b.certtool(full.DER)

	// Another start, and lists of another process, go on from the numbers.
	b.deltas()
	b.clock.move(2 * time.Second)
	b.revoke(serials[4], crl.Superseded)
	if err := b.set.Follow(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := b.pub.Publish(t.Context(), catest.Device, 0); err != nil {
		t.Fatal(err)
	}
	full, d = b.pair(0)
	if full.Number <= last || d.Base < last {
		t.Errorf("after a start list %d has a delta to %d; there was %d", full.Number, d.Base, last)
	}
	if got, err := crl.Join(lists[len(lists)-1], d); err != nil || !bytes.Equal(got, full.Entries) {
		t.Errorf("base and delta after a start: %v", err)
	}
	if _, err := crl.Join(base, d); err == nil {
		t.Error("a delta was joined to a list before its base")
	}
	if found := b.fsck(); len(found) > 0 {
		t.Error(found)
	}
}

func (b *bench) read(name string) []byte {
	b.t.Helper()
	out, err := os.ReadFile(filepath.Join(b.dir, filepath.FromSlash(name)))
	if err != nil {
		b.t.Fatal(err)
	}
	return out
}

// certtool has GnuTLS verify a list.
func (b *bench) certtool(der []byte) {
	b.t.Helper()
	if !tool(b.t, "certtool") {
		return
	}
	list := b.write("gnutls.pem", "X509 CRL", der)
	issuer := b.write("gnutls-ca.pem", "CERTIFICATE", b.Device.Raw)
	if out, err := run(b.t, "certtool", "--verify-crl", "--load-ca-certificate", issuer, "--infile", list); err != nil || !bytes.Contains([]byte(out), []byte("Verified")) {
		b.t.Errorf("certtool: %v\n%s", err, out)
	}
}

func TestParseList_RefusesRemovalsOutsideDeltas_A33(t *testing.T) {
	b := newBench(t)
	_, s := b.device("R-1")
	tmpl := &x509.RevocationList{Number: s.Int(), ThisUpdate: b.clock.now(), NextUpdate: b.clock.now().Add(time.Hour),
		RevokedCertificateEntries: []x509.RevocationListEntry{{SerialNumber: s.Int(), RevocationTime: b.clock.now(), ReasonCode: 8}}}
	tmpl.Number.SetInt64(4)
	out, err := x509.CreateRevocationList(rand.Reader, tmpl, b.Root, b.RootKey)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := crl.ParseList(out); err == nil {
		t.Error("removeFromCRL on a full list was taken")
	}
}

// A list that is too long for one row lies in pieces, of which a revocation
// writes one; what comes out of them is the same list after a start (A32).
func TestPublisher_KeepsALongListInPieces_A32(t *testing.T) { both(t, keepsALongListInPieces) }

func keepsALongListInPieces(t *testing.T, b *bench) {
	const n = 12_000
	now := b.clock.now()
	var rows []crl.Revocation
	for range n + 2 {
		s, err := ca.NewSerial(now, nil)
		if err != nil {
			t.Fatal(err)
		}
		rows = append(rows, crl.Revocation{Authority: catest.Device, Serial: s, Tenant: access.DefaultTenant, Holder: "x", Reason: crl.Superseded, At: now, By: "service:test", NotAfter: now.AddDate(1, 0, 0)})
	}
	seed := func(rows []crl.Revocation) {
		t.Helper()
		if err := b.DB.SeedRevocations(t.Context(), rows); err != nil {
			t.Fatal(err)
		}
	}
	count := func() (pieces int) {
		t.Helper()
		db := b.open()
		defer db.Close()
		if err := db.QueryRow(`SELECT COUNT(*) FROM crl_pieces`).Scan(&pieces); err != nil {
			t.Fatal(err)
		}
		return pieces
	}
	publish := func() *crl.List {
		t.Helper()
		b.clock.move(2 * time.Second)
		if _, err := b.pub.Publish(t.Context(), catest.Device, 0); err != nil {
			t.Fatal(err)
		}
		var out bytes.Buffer
		if err := b.pub.WriteList(&out, catest.Device, 0, false); err != nil {
			t.Fatal(err)
		}
		l, err := crl.ParseList(out.Bytes())
		if err != nil || l.Verify(b.Device) != nil || !l.Ordered {
			t.Fatalf("%v, %v", err, l.Verify(b.Device))
		}
		return l
	}
	seed(rows[:n])
	first := publish()
	if first.Count != n || count() < 5 {
		t.Fatalf("%d entries in %d pieces", first.Count, count())
	}
	was := count()
	seed(rows[n : n+1])
	second := publish()
	if second.Count != n+1 || second.Number <= first.Number || count() > was+1 {
		t.Errorf("list %d with %d entries in %d pieces", second.Number, second.Count, count())
	}
	row, err := b.DB.List(t.Context(), catest.Device, 0, 0)
	if err != nil || !bytes.Equal(row.DER, second.DER) {
		t.Fatalf("the stored list is another one: %v", err)
	}
	if !bytes.Equal(b.read("crl/"+catest.Device+"/0.crl"), second.DER) {
		t.Error("the file is another one")
	}
	b.pub = b.publisher(b.set, b.dir)
	seed(rows[n+1:])
	third := publish() // reads the pieces
	if third.Count != n+2 || third.Number <= second.Number || count() > was+2 {
		t.Errorf("list %d with %d entries in %d pieces", third.Number, third.Count, count())
	}
	b.certtool(third.DER)
	issuer := b.write("issuer.pem", "CERTIFICATE", b.Device.Raw)
	if out, err := run(t, "openssl", "crl", "-in", b.write("long.pem", "X509 CRL", third.DER), "-CAfile", issuer, "-noout"); err != nil {
		t.Errorf("openssl: %v\n%s", err, out)
	}
	b.damagePieces()
	// A piece that somebody changed is not served: the list is made from the rows.
	lies, err := b.DB.ListRows(t.Context(), catest.Device, 0)
	if err != nil {
		t.Fatal(err)
	}
	b.tamper(`UPDATE crl_pieces SET der = (SELECT der FROM crl_pieces WHERE id = ?) WHERE id = ?`, lies.Named[1].ID, lies.Named[0].ID)
	b.dir = t.TempDir()
	b.pub = b.publisher(b.set, b.dir)
	if err := b.pub.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if l := b.published(catest.Device); l.Count != n+2 || l.Number <= third.Number {
		t.Errorf("list %d with %d entries", l.Number, l.Count)
	}
}

// damagePieces does to pieces what a database writer could, and fsck names each
// (S32). What is published goes on: the file of that number is whole.
func (b *bench) damagePieces() {
	t := b.t
	t.Helper()
	check := func() string {
		t.Helper()
		found, err := crl.CheckPieces(t.Context(), b.DB, b.clock.now())
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(found, "\n")
	}
	if got := check(); got != "" {
		t.Fatalf("before: %s", got)
	}
	db := b.open()
	defer db.Close()
	rows, err := b.DB.ListRows(t.Context(), catest.Device, 0)
	if err != nil || len(rows.Named) < 5 || len(rows.Named) != len(rows.Stored) {
		t.Fatalf("%+v %v", rows, err)
	}
	one, two := rows.Named[1].ID, rows.Named[2].ID
	var kept []byte
	if err := db.QueryRow(`SELECT der FROM crl_pieces WHERE id = $1`, one).Scan(&kept); err != nil {
		t.Fatal(err)
	}
	bent := bytes.Clone(kept)
	bent[12] ^= 1 // in the first serial number
	name := func(id int64) string { return fmt.Sprintf("crl_pieces %s/0/%d: ", catest.Device, id) }
	for _, c := range []struct {
		what  string
		query string
		args  []any
		want  []string
	}{
		{"taken", `DELETE FROM crl_pieces WHERE id = ?`, []any{one}, []string{"crl-piece-there: " + name(one), "crl-list-verifies"}},
		{"shorter", `UPDATE crl_pieces SET der = ? WHERE id = ?`, []any{kept[:len(kept)-1], one}, []string{"crl-piece-length: " + name(one), "crl-list-verifies"}},
		{"a bit of it", `UPDATE crl_pieces SET der = ? WHERE id = ?`, []any{bent, one}, []string{"crl-piece-entry: " + name(one), "crl-list-verifies"}},
		{"no entries", `UPDATE crl_pieces SET der = ? WHERE id = ?`, []any{make([]byte, len(kept)), one}, []string{"crl-piece-reads: " + name(one), "crl-list-verifies"}},
		{"one more", `INSERT INTO crl_pieces (authority, shard, id, der) VALUES (?, 0, 4711, ?)`, []any{catest.Device, kept}, []string{"crl-piece-list: " + name(4711)}},
		{"of no list", `INSERT INTO crl_pieces (authority, shard, id, der) VALUES (?, 7, 4711, ?)`, []any{catest.Device, kept}, []string{"crl-piece-list: crl_pieces " + catest.Device + "/7/4711: "}},
		{"another's place", "", nil, []string{"crl-list-verifies"}},
	} {
		if c.what == "another's place" {
			b.tamper(`UPDATE crl_pieces SET id = -id WHERE id = ?`, one)
			b.tamper(`UPDATE crl_pieces SET id = ? WHERE id = ?`, one, two)
			b.tamper(`UPDATE crl_pieces SET id = ? WHERE id = ?`, two, -one)
		} else {
			b.tamper(c.query, c.args...)
		}
		got := check()
		for _, w := range c.want {
			if !strings.Contains(got, w) {
				t.Errorf("%s: want %s in\n%.2000s", c.what, w, got)
			}
		}
		switch c.what {
		case "taken":
			// A publisher that starts now still has the list, from its file.
			p := b.publisher(b.set, b.dir)
			if err := p.Start(t.Context()); err != nil {
				t.Error(err)
			}
			if l := p.Lists(); len(l) == 0 || l[0].Entries == 0 {
				t.Errorf("%+v", l)
			}
			rows, err := b.DB.ListRows(t.Context(), catest.Device, 0)
			if err != nil {
				t.Fatal(err)
			}
			if len(rows.Named) != len(rows.Stored) {
				b.tamper(`INSERT INTO crl_pieces (authority, shard, id, der) VALUES (?, 0, ?, ?)`, catest.Device, one, kept)
			}
		case "one more", "of no list":
			b.tamper(`DELETE FROM crl_pieces WHERE id = 4711`)
		case "another's place":
			b.tamper(`UPDATE crl_pieces SET id = -id WHERE id = ?`, one)
			b.tamper(`UPDATE crl_pieces SET id = ? WHERE id = ?`, one, two)
			b.tamper(`UPDATE crl_pieces SET id = ? WHERE id = ?`, two, -one)
		default:
			b.tamper(`UPDATE crl_pieces SET der = ? WHERE id = ?`, kept, one)
		}
	}
	if got := check(); got != "" {
		t.Fatalf("put back: %s", got)
	}
}
