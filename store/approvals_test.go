package store_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"hallmark/access"
	"hallmark/provisioner/declare"
	"hallmark/store"
	"hallmark/store/storetest"
)

// Who writes to the database beside the service can neither decide a request nor
// change what was asked for, and a row that is gone is named.
func TestApprovals_AreBelievedAsWritten_S32_S36(t *testing.T) {
	writers(t, func(w *writer) {
		ctx, s := w.Context(), access.Scope{Tenant: "main"}
		r := storetest.Wish(w, "main", "20270301-1", "a1")
		w.must(w.db.PutRequest(ctx, r, 0))
		ended := r
		ended.State, ended.Version, ended.Decision = declare.RequestRejected, 2, declare.Decision{By: "bob", At: r.AskedAt}
		w.must(w.db.PutRequest(ctx, ended, 1))
		w.must(w.db.PutRequest(ctx, storetest.Wish(w, "main", "20270301-2", "b2"), 0))
		if found := w.broken(); len(found) > 0 {
			w.Fatalf("before: %v", found)
		}
		for _, c := range []struct{ change, back string }{
			{`UPDATE approval_requests SET state = 'open' WHERE id = '20270301-1'`, `UPDATE approval_requests SET state = 'rejected' WHERE id = '20270301-1'`},
			{`UPDATE approval_requests SET version = 1 WHERE id = '20270301-1'`, `UPDATE approval_requests SET version = 2 WHERE id = '20270301-1'`},
			{`UPDATE approval_requests SET hash = 'ff' WHERE id = '20270301-1'`, `UPDATE approval_requests SET hash = '` + r.Hash + `' WHERE id = '20270301-1'`},
			{`UPDATE approval_requests SET tenant = 'eve' WHERE id = '20270301-1'`, `UPDATE approval_requests SET tenant = 'main' WHERE id = '20270301-1'`},
			{`UPDATE approval_requests SET decision = (SELECT decision FROM approval_requests WHERE id = '20270301-2') WHERE id = '20270301-1'`, ``},
		} {
			w.tamper(c.change)
			scope := s
			if strings.Contains(c.change, "eve") {
				scope.Tenant = "eve"
			}
			if _, err := w.db.Request(ctx, scope, "20270301-1"); !errors.Is(err, store.ErrRowTampered) {
				w.Errorf("%s: %v", c.change, err)
			}
			if found := w.broken(); !slices.ContainsFunc(found, func(f string) bool { return strings.HasPrefix(f, "approval_requests") }) {
				w.Errorf("%s: fsck says %q", c.change, found)
			}
			if c.back != "" {
				w.tamper(c.back)
			}
		}
		w.tamper(`DELETE FROM approval_requests WHERE id = '20270301-1'`)
		if found := w.broken(); !slices.ContainsFunc(found, func(f string) bool {
			return strings.HasPrefix(f, "approval_requests main/20270301-1: the row was deleted")
		}) {
			w.Errorf("fsck says %q", found)
		}
	})
}
