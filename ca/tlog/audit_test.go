package tlog_test

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"hallmark/ca/tlog"
	"hallmark/ca/tlog/tlogtest"
)

// rows is a database that has these leaves, each with its certificate.
func rows(leaves []tlog.Leaf) tlog.Rows {
	all := make([]tlog.Row, len(leaves))
	for i, l := range leaves {
		at := time.Unix(l.At, 0)
		all[i] = tlog.Row{Leaf: l, Serial: []byte{byte(i)}, At: at, Genuine: true,
			Certificate: &tlog.RowCertificate{Sum: l.Subject, Leaf: l.Index, IssuedAt: at, Account: l.Account, Holder: l.Holder}}
	}
	return rowsOf(all)
}

func rowsOf(all []tlog.Row) tlog.Rows {
	return func(_ context.Context, from, to int64) (out []tlog.Row, _ error) {
		for _, r := range all {
			if r.Index >= from && r.Index < to {
				r.Certificate = clone(r.Certificate)
				out = append(out, r)
			}
		}
		return out, nil
	}
}

func clone(c *tlog.RowCertificate) *tlog.RowCertificate {
	if c == nil {
		return nil
	}
	n := *c
	return &n
}

// Acceptance 7: whatever is done to a leaf, to its certificate or to a tile, the
// audit names it, and names nothing else.
func TestAudit_NamesWhatWasRemovedReorderedOrAltered_S32(t *testing.T) {
	const n = 700
	store := tlogtest.NewMemory()
	l := tlogtest.NewLog(t, store)
	leaves := tlogtest.Leaves(0, n)
	if err := store.Add(ctx, leaves...); err != nil {
		t.Fatal(err)
	}
	c, err := l.Integrate(ctx)
	if err != nil {
		t.Fatal(err)
	}
	whole, err := rows(leaves)(ctx, 0, n)
	if err != nil {
		t.Fatal(err)
	}
	recompute := func(r *tlog.Row) { r.Entry = r.Compute() }
	for name, d := range map[string]struct {
		change func(all []tlog.Row) []tlog.Row
		want   []string // beginnings of the findings, all of them
	}{
		"nothing":          {func(a []tlog.Row) []tlog.Row { return a }, nil},
		"a row removed":    {func(a []tlog.Row) []tlog.Row { return slices.Delete(a, 17, 18) }, []string{"leaf-removed: leaf 17:"}},
		"the last removed": {func(a []tlog.Row) []tlog.Row { return a[:n-1] }, []string{"leaf-removed: leaf 699:"}},
		"two swapped": {func(a []tlog.Row) []tlog.Row {
			a[3], a[300] = a[300], a[3]
			a[3].Index, a[300].Index = 3, 300
			a[3].Certificate.Leaf, a[300].Certificate.Leaf = 3, 300
			return a
		}, []string{"leaf-reordered: leaf 3 (issue, serial number 2c, unit-300): in the log this is leaf 300", "leaf-reordered: leaf 300 (issue, serial number 03, unit-3): in the log this is leaf 3"}},
		"one removed and the others moved up": {func(a []tlog.Row) []tlog.Row {
			a = slices.Delete(a, 690, 691)
			for i := range a {
				a[i].Index = int64(i)
				a[i].Certificate.Leaf = int64(i)
			}
			return a
		}, append(slices.Repeat([]string{"leaf-reordered: leaf 69"}, 9), "leaf-removed: leaf 699:")},
		"an entry altered": {func(a []tlog.Row) []tlog.Row { a[5].Entry[0] ^= 1; return a }, []string{"leaf-altered: leaf 5 ", "leaf-altered: leaf 5 "}},
		"a unit altered":   {func(a []tlog.Row) []tlog.Row { a[5].Holder = "x"; a[5].Certificate.Holder = "x"; return a }, []string{"leaf-altered: leaf 5 "}},
		"a unit and its entry": {func(a []tlog.Row) []tlog.Row {
			a[5].Holder = "x"
			a[5].Certificate.Holder = "x"
			recompute(&a[5])
			return a
		}, []string{"leaf-altered: leaf 5 "}},
		"a serial number or time":       {func(a []tlog.Row) []tlog.Row { a[5].Genuine = false; return a }, []string{"leaf-altered: leaf 5 "}},
		"a certificate removed":         {func(a []tlog.Row) []tlog.Row { a[6].Certificate = nil; return a }, []string{"certificate-removed: leaf 6 "}},
		"a certificate altered":         {func(a []tlog.Row) []tlog.Row { a[6].Certificate.Sum[3] ^= 1; return a }, []string{"certificate-altered: leaf 6 "}},
		"a certificate at another leaf": {func(a []tlog.Row) []tlog.Row { a[6].Certificate.Leaf = 7; return a }, []string{"certificate-altered: leaf 6 "}},
		"a certificate's time":          {func(a []tlog.Row) []tlog.Row { a[6].Certificate.IssuedAt = time.Unix(1, 0); return a }, []string{"certificate-altered: leaf 6 "}},
		"a certificate of another unit": {func(a []tlog.Row) []tlog.Row { a[6].Certificate.Holder = "y"; return a }, []string{"certificate-altered: leaf 6 "}},
		"another tenant's leaf altered": {func(a []tlog.Row) []tlog.Row {
			a[8] = tlog.Row{Foreign: true, Leaf: tlog.Leaf{Index: 8, Entry: [32]byte{1}}}
			return a
		}, []string{"leaf-altered: leaf 8 (another tenant's)"}},
		"another tenant's leaf": {func(a []tlog.Row) []tlog.Row {
			a[8] = tlog.Row{Foreign: true, Leaf: tlog.Leaf{Index: 8, Entry: a[8].Entry}}
			return a
		}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			all := slices.Clone(whole)
			for i := range all {
				all[i].Certificate = clone(all[i].Certificate)
			}
			rep, err := tlog.NewTree(l.Source(), c).Audit(ctx, rowsOf(d.change(all)))
			if err != nil {
				t.Fatal(err)
			}
			expect(t, rep, d.want)
		})
	}

	// Tiles of a copy, one octet each; the database is right.
	for name, d := range map[string]struct {
		file   string
		change func(b []byte) []byte
		want   string
	}{
		"a full tile":           {"tile/0/001", func(b []byte) []byte { b[100] ^= 1; return b }, "tile-altered: tile/0/001:"},
		"a tile at the edge":    {"tile/0/002.p/188", func(b []byte) []byte { b[100] ^= 1; return b }, "log-root: "},
		"an upper tile":         {"tile/1/000.p/2", func(b []byte) []byte { b[0] ^= 1; return b }, "log-root: "},
		"a tile that is gone":   {"tile/0/000", nil, "tile-missing: tile/0/000:"},
		"a tile that was cut":   {"tile/0/000", func(b []byte) []byte { return b[:32] }, "tile-altered: tile/0/000:"},
		"two swapped in a tile": {"tile/0/000", func(b []byte) []byte { return append(append(b[32:64:64], b[:32]...), b[64:]...) }, "tile-altered: tile/0/000:"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if _, err := publisher(l, dir).Publish(ctx, c.Note); err != nil {
				t.Fatal(err)
			}
			file := filepath.Join(dir, d.file)
			b, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if d.change == nil {
				os.Remove(file)
			} else if err := os.WriteFile(file, d.change(b), 0o644); err != nil {
				t.Fatal(err)
			}
			rep, err := tlog.NewTree(tlog.Dir(dir), c).Audit(ctx, rowsOf(whole))
			if err != nil {
				t.Fatal(err)
			}
			if len(rep.Findings) == 0 || !strings.HasPrefix(rep.Findings[0].String(), d.want) {
				t.Errorf("found %v", rep.Findings)
			}
			if rep, err = tlog.NewTree(tlog.Dir(dir), c).Audit(ctx, nil); err != nil || len(rep.Findings) == 0 {
				t.Errorf("without the database: %v, %v", rep, err)
			}
		})
	}
}

func expect(t *testing.T, rep *tlog.AuditReport, want []string) {
	t.Helper()
	if len(rep.Findings) != len(want) {
		t.Fatalf("found %v", rep.Findings)
	}
	for i, f := range rep.Findings {
		if !strings.HasPrefix(f.String(), want[i]) {
			t.Errorf("finding %d: %s, want %s…", i, f, want[i])
		}
	}
}
