package crl_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"database/sql"
	"slices"
	"strings"
	"testing"
	"time"

	"hallmark/ca/catest"
	"hallmark/ca/profile"
	"hallmark/crl"
)

// Whoever writes to the rows of delta lists and filters is seen (S32): numbers
// neither fall nor repeat, and both say what list and table say.
func TestFsck_NamesWhatIsWrongWithDeltasAndFilters_S32(t *testing.T) {
	both(t, fsckNamesDeltasAndFilters)
}

func fsckNamesDeltasAndFilters(t *testing.T, b *bench) {
	b.deltas()
	cert, key := b.Issue(t, profile.OCSPResponder, "ocsp-device-1", "A", profile.Names{})
	filters := crl.NewFilters(crl.FiltersConfig{Store: b.DB, CA: b.CA, Now: b.clock.now,
		Responder: func(context.Context, string) (crypto.Signer, *x509.Certificate, error) { return key, cert, nil }})
	update := func() {
		t.Helper()
		if err := filters.Update(t.Context(), catest.Device); err != nil {
			t.Fatal(err)
		}
	}
	type row struct {
		number         int64
		der, delta     []byte
		sequence, size int64
		file, changes  []byte
	}
	read := func() (r row) {
		t.Helper()
		db := b.open()
		defer db.Close()
		for _, q := range []struct {
			text string
			to   []any
		}{
			{`SELECT number, der FROM crls WHERE authority = '` + catest.Device + `' AND shard = 0`, []any{&r.number, &r.der}},
			{`SELECT der FROM crl_deltas WHERE authority = '` + catest.Device + `' AND shard = 0`, []any{&r.delta}},
			{`SELECT sequence, size, file, delta FROM crl_filters WHERE authority = '` + catest.Device + `'`, []any{&r.sequence, &r.size, &r.file, &r.changes}},
		} {
			if err := db.QueryRow(q.text).Scan(q.to...); err != nil && err != sql.ErrNoRows {
				t.Fatal(err)
			}
		}
		return r
	}
	_, held := b.device("D-1")
	_, lost := b.device("D-2")
	b.revoke(held, crl.CertificateHold)
	b.revoke(lost, crl.KeyCompromise)
	b.settle()
	update()
	early := read()
	b.clock.move(2 * time.Second)
	if err := b.svc.Release(t.Context(), officer, catest.Device, held, "found"); err != nil {
		t.Fatal(err)
	}
	_, more := b.device("D-3")
	b.revoke(more, crl.Superseded)
	b.settle()
	update()
	now := read()
	if now.delta == nil || now.number <= early.number || now.changes == nil || now.sequence <= early.sequence {
		t.Fatalf("list %d after %d, filter %d after %d: nothing to test with", now.number, early.number, now.sequence, early.sequence)
	}
	if f := b.fsck(); len(f) > 0 {
		t.Fatalf("before: %v", f)
	}
	const list, filter = `UPDATE crl_deltas SET `, `UPDATE crl_filters SET `
	back := func() {
		t.Helper()
		b.tamper(list+`number = ?, der = ?, shard = 0 WHERE authority = '`+catest.Device+`' AND number > 0`, now.number, now.delta)
		b.tamper(filter+`authority = ?, sequence = ?, size = ?, file = ?, delta = ? WHERE sequence > 0`, catest.Device, now.sequence, now.size, now.file, now.changes)
	}
	for _, c := range []struct {
		query string
		args  []any
		want  string
	}{
		{list + `number = ?`, []any{now.number + 5}, "crl-delta-number: crl_deltas " + catest.Device + "/0: "},
		{list + `der = ?`, []any{bent(bytes.Clone(now.delta))}, "crl-delta-verifies: crl_deltas " + catest.Device + "/0: "},
		{list + `der = ?`, []any{now.der}, "crl-delta-list: crl_deltas " + catest.Device + "/0: "},
		{list + `shard = ?`, []any{9}, "crl-delta-list: crl_deltas " + catest.Device + "/9: "},
		{filter + `file = ?`, []any{bent(bytes.Clone(now.file))}, "crl-filter-verifies: crl_filters " + catest.Device + ": "},
		{filter + `delta = ?`, []any{bent(bytes.Clone(now.changes))}, "crl-filter-verifies: crl_filters " + catest.Device + ": "},
		{filter + `delta = ?`, []any{[]byte(nil)}, "crl-filter-row: crl_filters " + catest.Device + ": "},
		{filter + `sequence = ?`, []any{now.sequence + 1}, "crl-filter-row: crl_filters " + catest.Device + ": "},
		{filter + `size = ?`, []any{now.size + 1}, "crl-filter-row: crl_filters " + catest.Device + ": "},
		{filter + `authority = ?`, []any{"nobody"}, "crl-filter-authority: crl_filters nobody: "},
		// An older pair that was signed, under the newest number.
		{filter + `delta = NULL, size = ?, file = ?`, []any{early.size, early.file}, "crl-filter-row: crl_filters " + catest.Device + ": "},
	} {
		b.tamper(c.query+` WHERE authority = '`+catest.Device+`'`, c.args...)
		if got := b.fsck(); !slices.ContainsFunc(got, func(f string) bool { return strings.HasPrefix(f, c.want) }) {
			t.Errorf("%s: want %s in %q", c.query, c.want, got)
		}
		back()
	}
	if f := b.fsck(); len(f) > 0 {
		t.Fatalf("put back: %v", f)
	}
	// A revocation that the log, the list and the filter know, and the table says
	// something else of.
	b.tamper(`UPDATE revocations SET released_at = 1 WHERE serial = ?`, lost[:])
	if got := strings.Join(b.fsck(), "\n"); !strings.Contains(got, lost.String()) {
		t.Errorf("a released row: %s", got)
	}
}
