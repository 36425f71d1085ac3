package store_test

import (
	"database/sql"
	"errors"
	"log/slog"
	"net/netip"
	"strings"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/store"
)

// glass is an authenticator over a real database, with a key in two shares.
type glass struct {
	*access.Authenticator
	t    *testing.T
	db   *store.DB
	raw  *sql.DB
	now  time.Time
	a, b access.Share
	log  *strings.Builder
}

var here = netip.MustParseAddr("192.0.2.7")

func (g *glass) start(key access.BreakGlassKey) {
	g.Authenticator = access.NewAuthenticator(access.Config{Store: g.db, Trail: g.db, Log: slog.New(slog.NewTextHandler(g.log, nil)), Now: func() time.Time { return g.now },
		BreakGlass: access.BreakGlassConfig{Key: key, Store: g.db, Nonces: []byte("nonces")}})
}

func glasses(t *testing.T, test func(g *glass)) {
	principals(t, func(t *testing.T, db *store.DB, raw *sql.DB) {
		key, a, b := access.NewBreakGlassKey()
		g := &glass{t: t, db: db, raw: raw, now: time.Now(), a: a, b: b, log: &strings.Builder{}}
		g.start(key)
		test(g)
	})
}

// opening is signed with the two shares.
func (g *glass) opening(drill bool) access.BreakGlassOpening {
	g.t.Helper()
	key, err := access.CombineShares(g.a, g.b)
	if err != nil {
		g.t.Fatal(err)
	}
	nonce, err := g.BreakGlassNonce()
	if err != nil {
		g.t.Fatal(err)
	}
	o := access.BreakGlassOpening{Nonce: nonce, Tenant: "main", Reason: "nobody can sign in", Drill: drill}
	o.Sign(key)
	return o
}

func (g *glass) trail() (out []access.TrailEntry) {
	g.t.Helper()
	rows, err := g.db.Trail(g.t.Context(), access.Scope{Tenant: "main"}, store.TrailQuery{}, 0, 100)
	if err != nil {
		g.t.Fatal(err)
	}
	for _, r := range rows {
		e, _, err := r.Read()
		if err != nil {
			g.t.Fatal(err)
		}
		out = append(out, e)
	}
	return out
}

// S42: two shares open one session of one hour that may take trust away and repair
// a sign-in; the key is spent; all of it is loud and in the trail.
func TestS42_TwoSharesOpenOneSessionOfOneHour(t *testing.T) {
	glasses(t, func(g *glass) {
		ctx := t.Context()
		anna := principal("main", "anna", access.Platform)
		if err := g.db.CreatePrincipal(ctx, anna); err != nil {
			t.Fatal(err)
		}
		o := g.opening(false)
		s, token, err := g.OpenBreakGlass(ctx, o, here)
		if err != nil || s.ExpiresAt.Sub(s.OpenedAt) != time.Hour {
			t.Fatalf("%+v %v", s, err)
		}
		p, err := g.Authenticate(ctx, token.Reveal(), here)
		if err != nil {
			t.Fatal(err)
		}
		by := p.Actor()
		want := map[access.Action]bool{access.ReadMe: true, access.ReadBreakGlass: true, access.CloseBreakGlass: true, access.RevokeCertificate: true, access.RevokeDevice: true, access.RevokeStation: true, access.RepairSignIn: true}
		for _, a := range append(access.Actions(""), access.RepairSignIn, access.CloseBreakGlass, access.OpenBreakGlass) {
			if access.Can(by, a) != want[a] {
				t.Errorf("%s: %v", a, access.Can(by, a))
			}
		}
		if _, err := g.ByHash(ctx, token.Hash()); !errors.Is(err, access.ErrToken) {
			t.Errorf("a session of the console: %v", err)
		}
		if v, err := g.BreakGlass(ctx); err != nil || v.Open != 1 || !v.Spent {
			t.Errorf("%+v %v", v, err)
		}

		// A new token for a named administrator; not for others.
		fixed, fresh, err := g.RepairSignIn(ctx, by, "anna")
		if err != nil || fixed.Role != access.Platform {
			t.Fatal(err)
		}
		if got, err := g.Authenticate(ctx, fresh.Reveal(), here); err != nil || got.Name != "anna" {
			t.Errorf("the new token: %v", err)
		}
		if _, err := g.db.PrincipalByToken(ctx, anna.TokenHash); !errors.Is(err, access.ErrToken) {
			t.Errorf("the former token: %v", err)
		}
		if _, _, err := g.RepairSignIn(ctx, fixed.Actor(), "anna"); !errors.Is(err, access.ErrForbidden) {
			t.Errorf("by a principal: %v", err)
		}
		auditor := principal("main", "olga", access.Auditor)
		if err := g.db.CreatePrincipal(ctx, auditor); err != nil {
			t.Fatal(err)
		}
		if _, _, err := g.RepairSignIn(ctx, by, "olga"); !errors.Is(err, access.ErrBreakGlassAdmin) {
			t.Errorf("an auditor: %v", err)
		}

		// Spent: neither what was sent nor the shares open another one.
		if _, _, err := g.OpenBreakGlass(ctx, o, here); !errors.Is(err, access.ErrBreakGlassReplayed) {
			t.Errorf("replayed: %v", err)
		}
		if _, _, err := g.OpenBreakGlass(ctx, g.opening(false), here); !errors.Is(err, access.ErrBreakGlassSpent) {
			t.Errorf("again: %v", err)
		}
		g.now = g.now.Add(time.Hour)
		if _, err := g.Authenticate(ctx, token.Reveal(), here); !errors.Is(err, access.ErrBreakGlassOver) {
			t.Errorf("after an hour: %v", err)
		}
		key, a, b := access.NewBreakGlassKey()
		g.a, g.b = a, b
		g.start(key)
		if v, err := g.BreakGlass(ctx); err != nil || v.Open != 0 || v.Spent {
			t.Errorf("with a new key: %+v %v", v, err)
		}
		s, token, err = g.OpenBreakGlass(ctx, g.opening(false), here)
		if err != nil {
			t.Fatal(err)
		}
		if p, err = g.Authenticate(ctx, token.Reveal(), here); err != nil {
			t.Fatal(err)
		}
		if err := g.CloseBreakGlass(ctx, p.Actor()); err != nil {
			t.Fatal(err)
		}
		if _, err := g.Authenticate(ctx, token.Reveal(), here); !errors.Is(err, access.ErrBreakGlassOver) {
			t.Errorf("closed: %v", err)
		}
		opened, refused := 0, 0
		for _, e := range g.trail() {
			if e.Action == access.OpenBreakGlass && e.Outcome == access.TrailDone && e.About["reason"] == "nobody can sign in" && e.From == here.String() {
				opened++
			}
			if e.Action == access.OpenBreakGlass && e.Outcome == access.TrailRefused && e.Code != "" {
				refused++
			}
		}
		if opened != 2 || refused != 2 {
			t.Errorf("the trail has %d openings and %d refusals", opened, refused)
		}
		if log := g.log.String(); strings.Count(log, `level=ERROR msg="break-glass opened"`) != 2 || strings.Contains(log, token.Reveal()[4:]) {
			t.Errorf("the log: %s", log)
		}
	})
}

// S42: a drill goes the whole way, may do nothing and spends no key.
func TestS42_ADrillDoesNothing(t *testing.T) {
	glasses(t, func(g *glass) {
		ctx := t.Context()
		o := g.opening(true)
		_, token, err := g.OpenBreakGlass(ctx, o, here)
		if err != nil {
			t.Fatal(err)
		}
		p, err := g.Authenticate(ctx, token.Reveal(), here)
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range []access.Action{access.RevokeCertificate, access.RevokeDevice, access.RevokeStation, access.RepairSignIn, access.CreatePrincipal} {
			if access.Can(p.Actor(), a) {
				t.Errorf("a drill may %s", a)
			}
		}
		if _, _, err := g.RepairSignIn(ctx, p.Actor(), "anna"); !errors.Is(err, access.ErrForbidden) {
			t.Errorf("repair: %v", err)
		}
		if _, _, err := g.OpenBreakGlass(ctx, o, here); !errors.Is(err, access.ErrBreakGlassReplayed) {
			t.Errorf("replayed: %v", err)
		}
		o.Drill = false // what was signed as a drill opens nothing
		if _, _, err := g.OpenBreakGlass(ctx, o, here); !errors.Is(err, access.ErrBreakGlassKey) {
			t.Errorf("made a session of: %v", err)
		}
		if v, err := g.BreakGlass(ctx); err != nil || v.Spent || v.Open != 0 || v.Drilled.IsZero() {
			t.Errorf("%+v %v", v, err)
		}
		if _, _, err := g.OpenBreakGlass(ctx, g.opening(false), here); err != nil {
			t.Errorf("the key afterwards: %v", err)
		}
	})
}

// S42, S32: what is not the key's, fresh and ours opens nothing, and a database writer
// does not make a spent key good again.
func TestS42_RefusesWithCodes(t *testing.T) {
	glasses(t, func(g *glass) {
		ctx := t.Context()
		other := g.opening(false)
		_, x, y := access.NewBreakGlassKey()
		stranger, err := access.CombineShares(x, y)
		if err != nil {
			t.Fatal(err)
		}
		other.Sign(stranger)
		late := g.opening(false)
		bent := g.opening(false)
		bent.Reason = "another reason"
		moved := g.opening(false)
		moved.Tenant = "other"
		mute := access.BreakGlassOpening{Nonce: bent.Nonce, Tenant: "main", Reason: " "}
		foreign := access.BreakGlassOpening{Nonce: "AAAA", Tenant: "main", Reason: "why"}
		key, _ := access.CombineShares(g.a, g.b)
		mute.Sign(key)
		foreign.Sign(key)
		for name, c := range map[string]struct {
			o    access.BreakGlassOpening
			want error
		}{"another key": {other, access.ErrBreakGlassKey}, "another reason": {bent, access.ErrBreakGlassKey}, "another tenant": {moved, access.ErrBreakGlassKey}, "no reason": {mute, access.ErrBreakGlassReason}, "a nonce of one's own": {foreign, access.ErrBreakGlassNonce}} {
			if _, _, err := g.OpenBreakGlass(ctx, c.o, here); !errors.Is(err, c.want) {
				t.Errorf("%s: %v", name, err)
			}
		}
		g.now = g.now.Add(6 * time.Minute)
		if _, _, err := g.OpenBreakGlass(ctx, late, here); !errors.Is(err, access.ErrBreakGlassNonce) {
			t.Errorf("an old nonce: %v", err)
		}
		if _, _, err := g.OpenBreakGlass(ctx, g.opening(false), here); err != nil {
			t.Fatal(err)
		}
		if _, err := g.raw.Exec(`DELETE FROM break_glass`); err != nil {
			t.Fatal(err)
		}
		if _, _, err := g.OpenBreakGlass(ctx, g.opening(false), here); !errors.Is(err, store.ErrRowTampered) {
			t.Errorf("with the session deleted: %v", err)
		}
		for range 12 {
			g.OpenBreakGlass(ctx, other, here)
		}
		if _, _, err := g.OpenBreakGlass(ctx, other, here); !errors.Is(err, access.ErrTooManyFailures) {
			t.Errorf("many: %v", err)
		}
		g.start(access.BreakGlassKey{})
		if _, err := g.BreakGlassNonce(); !errors.Is(err, access.ErrBreakGlassNone) {
			t.Errorf("without a key: %v", err)
		}
	})
}
