package access_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	"hallmark/access"
	"hallmark/internal/fault"
	"hallmark/web/webtest"
)

var update = flag.Bool("update", false, "write testdata/matrix.golden anew")

var ctx = context.Background()

// S36, A65: who may do what is one table; a change to it is a change to this file.
func TestGrants_Matrix(t *testing.T) {
	var b bytes.Buffer
	w := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "action")
	for _, r := range access.Roles() {
		fmt.Fprintf(w, "\t%s", r)
	}
	fmt.Fprintln(w)
	for _, a := range access.Actions("") {
		fmt.Fprint(w, a)
		for _, r := range access.Roles() {
			mark := "-"
			if access.Can(access.Actor{Tenant: "main", Kind: access.KindPrincipal, Name: "x", Role: r}, a) {
				mark = "yes"
			}
			fmt.Fprintf(w, "\t%s", mark)
		}
		fmt.Fprintln(w)
	}
	w.Flush()
	const file = "testdata/matrix.golden"
	if *update {
		if err := os.WriteFile(file, b.Bytes(), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(b.Bytes(), want) {
		t.Errorf("the matrix changed; if that is meant, run go test ./access -update\n%s", b.Bytes())
	}
}

func TestGrants_AuditorChangesNothing(t *testing.T) {
	for _, a := range access.Actions(access.Auditor) {
		if !strings.HasSuffix(string(a), ".read") {
			t.Errorf("an auditor may %s", a)
		}
	}
}

// S18: only principals have roles; a forged or half-made actor may do nothing.
func TestCan_OnlyPrincipals(t *testing.T) {
	full := access.Actor{Tenant: "main", Kind: access.KindPrincipal, Name: "x", Role: access.Platform}
	if !access.Can(full, access.ReadMe) {
		t.Fatal("a platform principal may not read who it is")
	}
	for name, change := range map[string]func(*access.Actor){
		"zero": func(a *access.Actor) { *a = access.Actor{} }, "station": func(a *access.Actor) { a.Kind = access.KindStation }, "device": func(a *access.Actor) { a.Kind = access.KindDevice },
		"service": func(a *access.Actor) { a.Kind = access.KindService }, "no tenant": func(a *access.Actor) { a.Tenant = "" }, "no name": func(a *access.Actor) { a.Name = "" },
		"unknown role": func(a *access.Actor) { a.Role = "root" }, "no role": func(a *access.Actor) { a.Role = "" },
	} {
		a := full
		change(&a)
		for _, action := range access.Actions("") {
			if access.Can(a, action) {
				t.Errorf("%s may %s", name, action)
			}
		}
	}
	if access.Can(full, "everything") || access.Can(full, "") {
		t.Error("an action that is not in the table is allowed")
	}
}

// S36: a person never approves what the same person asked for.
func TestS36_Approve(t *testing.T) {
	officer := access.Actor{Tenant: "main", Kind: access.KindPrincipal, Name: "anna", Role: access.SecurityOfficer}
	subject := [32]byte{1}
	if _, err := access.Approve(officer, access.ApproveOrder, subject, "anna", time.Now()); !errors.Is(err, access.ErrSelfApproval) {
		t.Errorf("her own: %v", err)
	}
	if _, err := access.Approve(officer, access.ApproveOrder, subject, "", time.Now()); !errors.Is(err, access.ErrSelfApproval) {
		t.Errorf("nobody's: %v", err)
	}
	operator := officer
	operator.Role = access.Operator
	if _, err := access.Approve(operator, access.ApproveOrder, subject, "wei", time.Now()); fault.KindOf(err) != fault.Forbidden {
		t.Errorf("without the right: %v", err)
	}
	a, err := access.Approve(officer, access.ApproveOrder, subject, "wei", time.Now())
	if err != nil || !a.Covers(access.ApproveOrder, subject) || a.Approver() != "anna" {
		t.Fatalf("%+v %v", a, err)
	}
	if a.Covers(access.ApproveOrder, [32]byte{2}) || a.Covers(access.OpenOrder, subject) || (access.Approval{}).Covers("", [32]byte{}) {
		t.Error("it covers something else")
	}
}

// A26: a token shows itself only when asked to.
func TestToken_Redacts(t *testing.T) {
	token := access.NewToken()
	secret := token.Reveal()
	if len(secret) != 47 || !strings.HasPrefix(secret, "hmk_") {
		t.Fatalf("%d characters", len(secret))
	}
	var log bytes.Buffer
	slog.New(slog.NewJSONHandler(&log, nil)).Info("x", "token", token, "in", struct{ T access.Token }{token})
	raw, err := json.Marshal(map[string]any{"t": token})
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{fmt.Sprint(token), fmt.Sprintf("%+v %#v %s %q %x %d", token, token, token, token, token, token), log.String(), string(raw), fmt.Sprintf("%v", &token)} {
		if strings.Contains(s, secret[4:]) || strings.Contains(s, fmt.Sprintf("%x", secret)) {
			t.Errorf("it shows: %s", s)
		}
	}
	for _, bad := range []string{"", "hmk_", secret[:46], secret + "A", "HMK_" + secret[4:], secret[:46] + "=", " " + secret, secret[:46] + "B"} {
		if p, ok := access.ParseToken(bad); ok && p.Hash() == token.Hash() {
			t.Errorf("%q is taken for the token", bad)
		}
	}
}

func setup(t *testing.T) (*access.Authenticator, *webtest.Store, *time.Time) {
	now := time.Now()
	s := &webtest.Store{}
	return access.NewAuthenticator(access.Config{Store: s, Now: func() time.Time { return now }}), s, &now
}

var maker = access.Actor{Tenant: "main", Kind: access.KindPrincipal, Name: "maker", Role: access.Platform}

func TestAuthenticate(t *testing.T) {
	from := netip.MustParseAddr("192.0.2.1")
	t.Run("a token works until it expires", func(t *testing.T) {
		a, _, now := setup(t)
		_, token, err := a.Create(ctx, maker, "anna", access.Auditor, time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // from the database, then from the cache
			if p, err := a.Authenticate(ctx, token.Reveal(), from); err != nil || p.Name != "anna" {
				t.Fatal(err)
			}
		}
		*now = now.Add(time.Hour)
		if _, err := a.Authenticate(ctx, token.Reveal(), from); !errors.Is(err, access.ErrToken) {
			t.Errorf("after its end: %v", err)
		}
	})
	t.Run("disabling ends it at once", func(t *testing.T) {
		a, _, _ := setup(t)
		_, token, _ := a.Create(ctx, maker, "anna", access.Auditor, 0)
		a.Authenticate(ctx, token.Reveal(), from)
		if _, err := a.Disable(ctx, maker, "anna"); err != nil {
			t.Fatal(err)
		}
		if _, err := a.Authenticate(ctx, token.Reveal(), from); !errors.Is(err, access.ErrToken) {
			t.Errorf("afterwards: %v", err)
		}
	})
	t.Run("another process sees it within seconds", func(t *testing.T) {
		a, s, now := setup(t)
		_, token, _ := a.Create(ctx, maker, "anna", access.Auditor, 0)
		a.Authenticate(ctx, token.Reveal(), from)
		s.DisablePrincipal(ctx, access.Scope{Tenant: "main"}, "anna", *now)
		*now = now.Add(6 * time.Second)
		if _, err := a.Authenticate(ctx, token.Reveal(), from); !errors.Is(err, access.ErrToken) {
			t.Errorf("afterwards: %v", err)
		}
	})
	t.Run("wrong tokens are told to wait, right ones are not", func(t *testing.T) {
		a, _, now := setup(t)
		_, token, _ := a.Create(ctx, maker, "anna", access.Auditor, 0)
		for i := range 12 {
			_, err := a.Authenticate(ctx, access.NewToken().Reveal(), from)
			if want := map[bool]error{true: access.ErrToken, false: access.ErrTooManyFailures}[i < 10]; !errors.Is(err, want) {
				t.Errorf("try %d: %v", i, err)
			}
		}
		if _, err := a.Authenticate(ctx, token.Reveal(), from); err != nil {
			t.Errorf("a right one: %v", err)
		}
		if _, err := a.Authenticate(ctx, "nonsense", netip.MustParseAddr("192.0.2.2")); !errors.Is(err, access.ErrToken) {
			t.Errorf("another address: %v", err)
		}
		*now = now.Add(time.Minute)
		if _, err := a.Authenticate(ctx, "nonsense", from); !errors.Is(err, access.ErrToken) {
			t.Errorf("a minute later: %v", err)
		}
	})
	t.Run("an IPv6 host counts once", func(t *testing.T) {
		a, _, _ := setup(t)
		for i := range 12 {
			_, err := a.Authenticate(ctx, "nonsense", netip.MustParseAddr(fmt.Sprintf("2001:db8::%x", i+1)))
			if i >= 10 && !errors.Is(err, access.ErrTooManyFailures) {
				t.Errorf("try %d: %v", i, err)
			}
		}
	})
	t.Run("a database that is down is not a wrong token", func(t *testing.T) {
		a, s, _ := setup(t)
		_, token, _ := a.Create(ctx, maker, "anna", access.Auditor, 0)
		s.Down = errors.New("down")
		for range 20 {
			if _, err := a.Authenticate(ctx, token.Reveal(), from); fault.KindOf(err) != fault.Internal {
				t.Fatalf("%v", err)
			}
		}
	})
}

func TestCreate_RefusesWhatIsNotAPrincipal(t *testing.T) {
	a, _, _ := setup(t)
	for _, name := range []string{"", "Anna", "anna\n", "-x", strings.Repeat("a", 65), "ann a", "änna", "a/b"} {
		if _, _, err := a.Create(ctx, maker, name, access.Auditor, 0); !errors.Is(err, access.ErrPrincipalInvalid) {
			t.Errorf("name %q: %v", name, err)
		}
	}
	if _, _, err := a.Create(ctx, maker, "anna", "root", 0); !errors.Is(err, access.ErrPrincipalInvalid) {
		t.Errorf("role: %v", err)
	}
	if _, _, err := a.Create(ctx, maker, "anna", access.Auditor, 800*24*time.Hour); !errors.Is(err, access.ErrPrincipalInvalid) {
		t.Errorf("life: %v", err)
	}
	officer := maker
	officer.Role = access.SecurityOfficer
	if _, _, err := a.Create(ctx, officer, "anna", access.Platform, 0); !errors.Is(err, access.ErrForbidden) {
		t.Errorf("by somebody else: %v", err)
	}
}

func TestBootstrap_OnceAndOnlyOnce(t *testing.T) {
	a, _, _ := setup(t)
	var mu sync.Mutex
	var tokens []string
	var made int
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			created, err := a.Bootstrap(ctx, func(_ string, token access.Token) error {
				mu.Lock()
				defer mu.Unlock()
				tokens = append(tokens, token.Reveal())
				return nil
			})
			mu.Lock()
			defer mu.Unlock()
			if created {
				made++
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	good := 0
	for _, token := range tokens {
		if p, err := a.Authenticate(ctx, token, netip.Addr{}); err == nil && p.Role == access.Platform {
			good++
		}
	}
	if made != 1 || good != 1 {
		t.Errorf("%d made, %d tokens work", made, good)
	}
	if created, err := a.Bootstrap(ctx, func(string, access.Token) error { t.Error("a token was delivered"); return nil }); created || err != nil {
		t.Errorf("again: %v %v", created, err)
	}
}

func TestBootstrap_WhatCannotBeDeliveredIsNotMade(t *testing.T) {
	a, s, _ := setup(t)
	if _, err := a.Bootstrap(ctx, func(string, access.Token) error { return os.ErrPermission }); !errors.Is(err, os.ErrPermission) {
		t.Errorf("%v", err)
	}
	if rows, _ := s.Principals(ctx, access.Scope{Tenant: access.DefaultTenant}, "", 10); len(rows) != 0 {
		t.Error("a principal exists whose token nobody has")
	}
}
