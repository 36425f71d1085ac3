package storetest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/provisioner/declare"
)

// Wish is an open approval request for one document.
func Wish(t testing.TB, tenant, id, hash string) declare.Request {
	t.Helper()
	at := time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC)
	r := declare.Request{State: declare.RequestOpen, Version: 1, RequestBody: declare.RequestBody{Tenant: tenant, ID: id, Hash: strings.Repeat(hash, 32), AskedBy: "ann", AskedAt: at, ExpiresAt: at.Add(declare.RequestLife),
		Documents: []declare.Wanted{{Kind: "Hook", Name: "erp", Text: "apiVersion: hallmark/v1\n"}}}}
	var err error
	r.Body, err = json.Marshal(&r.RequestBody)
	must(t, err)
	return r
}

// decided is the request as somebody decides it.
func decided(r declare.Request, by string) declare.Request {
	r.State, r.Version = declare.RequestApproved, r.Version+1
	r.Decision = declare.Decision{By: by, At: r.AskedAt.Add(time.Hour), Plan: r.Hash}
	return r
}

func wishes(t *testing.T, open Open) {
	db, ctx, s := open(t), t.Context(), access.Scope{Tenant: tenant}
	ids := func(rows []declare.Request, err error) (out []string) {
		t.Helper()
		must(t, err)
		for i := range rows {
			out = append(out, rows[i].ID)
		}
		return out
	}
	// Twenty ask for the same at once: one request is open.
	var made, moved atomic.Int64
	Parallel(20, func(i int) {
		switch err := db.PutRequest(ctx, Wish(t, tenant, fmt.Sprintf("20270301-%02d", i), "a1"), 0); {
		case err == nil:
			made.Add(1)
		case errors.Is(err, declare.ErrRequestMoved):
			moved.Add(1)
		default:
			t.Error(err)
		}
	})
	all, err := db.OpenRequests(ctx, s)
	if err != nil || made.Load() != 1 || moved.Load() != 19 || len(all) != 1 {
		t.Fatalf("%d made, %d late, %+v %v", made.Load(), moved.Load(), all, err)
	}
	first := all[0]
	want := Wish(t, tenant, first.ID, "a1")
	if string(first.Body) != string(want.Body) || first.State != want.State || first.AskedBy != "ann" || !first.ExpiresAt.Equal(want.ExpiresAt) || len(first.Documents) != 1 || first.Documents[0] != want.Documents[0] {
		t.Errorf("%+v", first)
	}
	// Twenty decide at once: one does.
	made.Store(0)
	Parallel(20, func(i int) {
		switch err := db.PutRequest(ctx, decided(first, fmt.Sprintf("p%d", i)), 1); {
		case err == nil:
			made.Add(1)
		case !errors.Is(err, declare.ErrRequestMoved):
			t.Error(err)
		}
	})
	r, err := db.Request(ctx, s, first.ID)
	if err != nil || made.Load() != 1 || r.State != declare.RequestApproved || r.Version != 2 || !strings.HasPrefix(r.Decision.By, "p") || !r.Decision.At.Equal(first.AskedAt.Add(time.Hour)) || r.Decision.Plan != first.Hash {
		t.Fatalf("%d decided, %+v %v", made.Load(), r, err)
	}
	// It is not open any more, so the same can be asked for anew, and elsewhere too.
	must(t, db.PutRequest(ctx, Wish(t, tenant, "20270302", "a1"), 0))
	must(t, db.PutRequest(ctx, Wish(t, tenant, "20270303", "b2"), 0))
	must(t, db.PutRequest(ctx, Wish(t, "other", "20270303", "b2"), 0))
	if got := ids(db.OpenRequests(ctx, s)); !slices.Equal(got, []string{"20270302", "20270303"}) {
		t.Errorf("%q", got)
	}
	if got := ids(db.Requests(ctx, s, "", 2)); !slices.Equal(got, []string{"20270303", "20270302"}) {
		t.Errorf("%q", got)
	}
	if got := ids(db.Requests(ctx, s, "20270302", 9)); !slices.Equal(got, []string{first.ID}) {
		t.Errorf("%q", got)
	}
	if got := ids(db.Requests(ctx, access.Scope{Tenant: "third"}, "", 9)); len(got) != 0 {
		t.Errorf("%q", got)
	}
	_, err = db.Request(ctx, access.Scope{Tenant: "other"}, first.ID)
	wantCode(t, err, declare.ErrRequestUnknown)
	// A decision joins the transaction of what it is about.
	back := errors.New("taken back")
	second, err := db.Request(ctx, s, "20270302")
	must(t, err)
	if err := db.Atomic(ctx, func(ctx context.Context) error {
		if err := db.PutRequest(ctx, decided(second, "bob"), 1); err != nil {
			return err
		}
		return back
	}); !errors.Is(err, back) {
		t.Fatal(err)
	}
	if r, err = db.Request(ctx, s, "20270302"); err != nil || r.State != declare.RequestOpen {
		t.Errorf("%+v %v", r, err)
	}
}
