package ca_test

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/ca"
	"hallmark/ca/catest"
	"hallmark/ca/profile"
	"hallmark/internal/fault"
)

var errAway = fault.Define(fault.Unavailable, "test-token-away", "The token is away.", "Wait.")

// loose is keys of which some are away.
type loose struct {
	*catest.Keys
	away  map[string]*atomic.Bool
	asked map[string]*atomic.Int64
}

func (l loose) Key(ctx context.Context, uri string) (ca.Key, error) {
	k, err := l.Keys.Key(ctx, uri)
	return looseKey{k, l.away[uri], l.asked[uri]}, err
}

type looseKey struct {
	ca.Key
	away  *atomic.Bool
	asked *atomic.Int64
}

func (k looseKey) SignContext(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	if k.asked != nil {
		k.asked.Add(1)
	}
	if k.away != nil && k.away.Load() {
		return nil, errAway.New("")
	}
	return k.Key.SignContext(ctx, digest, opts)
}

// several is a CA with device-1, device-2 and device-3, of which 1 and 2 are
// declared, and with a clock.
type several struct {
	*catest.Fixture
	loose
	now atomic.Int64
}

func (s *several) clock() time.Time { return time.Unix(0, s.now.Load()) }

func newSeveral(t *testing.T) *several {
	t.Helper()
	s := &several{}
	s.now.Store(time.Now().UnixNano())
	s.Fixture = catest.Open(t, catest.Config{Now: s.clock})
	s.loose = loose{s.Fixture.Keys, map[string]*atomic.Bool{}, map[string]*atomic.Int64{}}
	for _, name := range []string{"device-2", "device-3"} {
		key := catest.NewKey(t)
		s.Fixture.Keys.Add("test:"+name, key)
		c := s.Certify(t, profile.DutyDevice, name, key.Public())
		if err := s.DB.CreateAuthority(t.Context(), ca.Authority{Name: name, Tenant: access.DefaultTenant, Duty: profile.DutyDevice, State: ca.StateActive, KeyURI: "test:" + name,
			BaseURL: catest.BaseURL, Shards: 1, CreatedAt: s.clock(), Certificate: c.Raw}); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"device-1", "device-2", "device-3"} {
		s.away["test:"+name], s.asked["test:"+name] = &atomic.Bool{}, &atomic.Int64{}
	}
	var err error
	if s.CA, err = ca.New(t.Context(), ca.Config{Ledger: s.DB.Ledger(), Keys: s.loose, Store: s.DB, Now: s.clock}); err != nil {
		t.Fatal(err)
	}
	s.declare(t, ca.Serving{Serves: "device", Authorities: []string{"device-1", "device-2"}})
	return s
}

// declare puts a declaration in force.
func (s *several) declare(t *testing.T, d ca.Serving) {
	t.Helper()
	d.Tenant = access.DefaultTenant
	if d.Name = d.Serves; d.Product+d.Region != "" {
		d.Name += "." + d.Product + "." + d.Region
	}
	all, err := s.DB.Servings(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, have := range all {
		if have.Name == d.Name {
			d.Version = have.Version
		}
	}
	if err := s.DB.PutServing(t.Context(), d, d.Version); err != nil {
		t.Fatal(err)
	}
	if err := s.CA.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func (s *several) state(t *testing.T, name string, st ca.State) {
	t.Helper()
	if err := s.DB.SetAuthorityState(t.Context(), name, st); err != nil {
		t.Fatal(err)
	}
	if err := s.CA.Reload(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func (s *several) issuer(t *testing.T, r ca.Request) string {
	t.Helper()
	out, err := s.CA.Issue(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return out.Authority
}

func TestIssue_GoesByWhatIsDeclared(t *testing.T) {
	s := newSeveral(t)
	s.declare(t, ca.Serving{Serves: "idevid", Product: "Pump", Authorities: []string{"device-2"}})
	s.declare(t, ca.Serving{Serves: "device", Region: "eu", Authorities: []string{"device-3"}})
	s.declare(t, ca.Serving{Serves: "idevid", Product: "pump", Region: "us", Authorities: []string{"device-3"}})
	n := 0
	for _, c := range []struct{ product, region, want string }{
		{"", "", "device-1"}, {"valve", "", "device-1"}, {"pump", "", "device-2"}, {"PUMP", "asia", "device-2"},
		{"pump", "US", "device-3"}, {"valve", "eu", "device-3"}, {"pump", "eu", "device-2"}, // the profile stands before its duty
	} {
		n++
		r := request(t, fmt.Sprintf("SN-%d", n), catest.NewKey(t))
		r.Product, r.Region = c.product, c.region
		if got := s.issuer(t, r); got != c.want {
			t.Errorf("product %q, region %q: issued by %s, want %s", c.product, c.region, got, c.want)
		}
	}
	// Nobody steps in for a declaration whose authorities are closed.
	s.state(t, "device-2", ca.StateClosed)
	r := request(t, "SN-20", catest.NewKey(t))
	r.Product = "pump"
	if _, err := s.CA.Issue(t.Context(), r); !errors.Is(err, ca.ErrAuthorityClosed) {
		t.Errorf("by a closed authority: %v", err)
	}
	// One that is named has to be declared too, and for this tenant.
	s.declare(t, ca.Serving{Serves: "device", Region: "eu"})
	s.declare(t, ca.Serving{Serves: "idevid", Product: "pump", Region: "us"})
	r = request(t, "SN-21", catest.NewKey(t))
	r.Authority = "device-3"
	if _, err := s.CA.Issue(t.Context(), r); !errors.Is(err, ca.ErrNoAuthority) {
		t.Errorf("by an authority that is not declared: %v", err)
	}
	r = request(t, "SN-22", catest.NewKey(t))
	r.Tenant = "other"
	if _, err := s.CA.Issue(t.Context(), r); !errors.Is(err, ca.ErrNoAuthority) {
		t.Errorf("for another tenant: %v", err)
	}
}

// TestIssue_ByNobodyButWhoIsOpen: every state that must not issue, by name and by
// declaration.
func TestIssue_ByNobodyButWhoIsOpen_S2(t *testing.T) {
	s := newSeveral(t)
	for i, st := range []ca.State{ca.StateClosed, ca.StateRevoked, ca.StateEnded} {
		s.state(t, "device-1", st)
		if got := s.issuer(t, request(t, fmt.Sprintf("SN-%d", i), catest.NewKey(t))); got != "device-2" {
			t.Errorf("%s: issued by %s", st, got)
		}
		r := request(t, fmt.Sprintf("SX-%d", i), catest.NewKey(t))
		r.Authority = "device-1"
		if _, err := s.CA.Issue(t.Context(), r); !errors.Is(err, ca.ErrAuthorityClosed) {
			t.Errorf("%s, by name: %v", st, err)
		}
		// Of the others only a closed one still has an OCSP responder to certify.
		r = request(t, fmt.Sprintf("service:ocsp-%d", i), catest.NewKey(t))
		r.Profile, r.Origin, r.Authority, r.Account, r.Quota = string(profile.OCSPResponder), "", "device-1", "", 0
		if _, err := s.CA.Issue(t.Context(), r); (err == nil) != (st == ca.StateClosed) {
			t.Errorf("%s, its OCSP responder: %v", st, err)
		}
	}
}

// TestIssue_FailsOverToTheNextDeclared: no request fails when the first key does
// not answer, each unit has one live certificate, and what was reserved under the
// first authority is void for good (S8).
func TestIssue_FailsOverToTheNextDeclared_S8(t *testing.T) {
	s := newSeveral(t)
	away, other := s.away["test:device-1"], s.away["test:device-2"]
	key := catest.NewKey(t)
	away.Store(true)
	r := request(t, "SN-1", key)
	if got := s.issuer(t, r); got != "device-2" {
		t.Fatalf("issued by %s", got)
	}
	all, err := s.DB.Records(t.Context(), ca.RecordQuery{Tenant: access.DefaultTenant, Holder: "SN-1"})
	if err != nil || len(all) != 2 {
		t.Fatalf("%d records, %v", len(all), err)
	}
	live := 0
	for _, rec := range all {
		switch st := rec.Status(s.clock()); {
		case st == "good" && rec.Authority == "device-2":
			live++
		case st == "void" && rec.Authority == "device-1":
			// A signature that comes after all is not recorded.
			if _, err := s.DB.Ledger().Record(t.Context(), ca.Reservation{ID: rec.ID, Authority: rec.Authority, Serial: rec.Serial, Resumed: true}, []byte{1}); !errors.Is(err, ca.ErrHolderRevoked) {
				t.Errorf("a late signature: %v", err)
			}
		default:
			t.Errorf("serial number %s of %s is %s", rec.Serial, rec.Authority, st)
		}
	}
	if live != 1 {
		t.Errorf("%d live certificates", live)
	}
	// The same request gets the same certificate.
	if out, err := s.CA.Issue(t.Context(), r); err != nil || !out.Replayed || out.Authority != "device-2" {
		t.Errorf("again: %s, replayed %t, %v", out.Authority, out.Replayed, err)
	}
	// While it rests nobody asks it.
	asked := s.asked["test:device-1"].Load()
	for i := range 5 {
		if got := s.issuer(t, request(t, fmt.Sprintf("SN-%d", 10+i), catest.NewKey(t))); got != "device-2" {
			t.Errorf("issued by %s", got)
		}
	}
	if n := s.asked["test:device-1"].Load(); n != asked {
		t.Errorf("a key that is away was asked %d times more", n-asked)
	}
	// Its return is noticed, by one request.
	away.Store(false)
	s.now.Add(int64(3 * time.Second))
	if got := s.issuer(t, request(t, "SN-30", catest.NewKey(t))); got != "device-1" {
		t.Errorf("after its return issued by %s", got)
	}

	// With both away the refusal is clear, and asking again costs no serial numbers.
	away.Store(true)
	other.Store(true)
	r = request(t, "SN-40", catest.NewKey(t))
	for range 6 {
		if _, err := s.CA.Issue(t.Context(), r); fault.KindOf(err) != fault.Unavailable {
			t.Fatalf("both away: %v", err)
		}
	}
	if all, err := s.DB.Records(t.Context(), ca.RecordQuery{Tenant: access.DefaultTenant, Holder: "SN-40"}); err != nil || len(all) > 2 {
		t.Errorf("%d serial numbers were spent, %v", len(all), err)
	}
	other.Store(false)
	if got := s.issuer(t, r); got != "device-2" {
		t.Errorf("issued by %s", got)
	}
}

// TestIssue_MovesAReservationOfWhoIssuesNoMore: a reservation outlives its
// authority; the unit gets its certificate from the next one.
func TestIssue_MovesAReservationOfWhoIssuesNoMore_S2(t *testing.T) {
	s := newSeveral(t)
	s.declare(t, ca.Serving{Serves: "device", Authorities: []string{"device-1"}})
	s.away["test:device-1"].Store(true)
	r := request(t, "SN-1", catest.NewKey(t))
	if _, err := s.CA.Issue(t.Context(), r); fault.KindOf(err) != fault.Unavailable {
		t.Fatalf("alone and away: %v", err)
	}
	s.away["test:device-1"].Store(false)
	s.declare(t, ca.Serving{Serves: "device", Authorities: []string{"device-3"}})
	s.state(t, "device-1", ca.StateClosed)
	asked := s.asked["test:device-1"].Load()
	if got := s.issuer(t, r); got != "device-3" {
		t.Errorf("issued by %s", got)
	}
	if n := s.asked["test:device-1"].Load(); n != asked {
		t.Error("a closed authority signed")
	}
}

// lostKeys are keys of which some cannot even be opened.
type lostKeys struct {
	loose
	lost map[string]*atomic.Bool
}

func (l lostKeys) Key(ctx context.Context, uri string) (ca.Key, error) {
	if b := l.lost[uri]; b != nil && b.Load() {
		return nil, errAway.New("")
	}
	return l.loose.Key(ctx, uri)
}

// TestNew_StartsWithoutATokenIfAnotherAuthorityServes: the one whose key cannot be
// opened is passed by, its return is noticed, and with nobody left there is no start.
func TestNew_StartsWithoutATokenIfAnotherAuthorityServes(t *testing.T) {
	s := newSeveral(t)
	keys := lostKeys{s.loose, map[string]*atomic.Bool{"test:device-1": {}, "test:device-2": {}, "test:device-3": {}}}
	cfg := ca.Config{Ledger: s.DB.Ledger(), Keys: keys, Store: s.DB, Now: s.clock}
	keys.lost["test:device-1"].Store(true)
	c, err := ca.New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	s.CA = c
	if a, err := c.Authority("device-1"); err != nil || !errors.Is(a.Lost, errAway) {
		t.Errorf("device-1: %v, %v", a.Lost, err)
	}
	r := request(t, "SN-1", catest.NewKey(t))
	if got := s.issuer(t, r); got != "device-2" {
		t.Errorf("issued by %s", got)
	}
	if n := c.FailedOver.Load(); n != 0 {
		t.Errorf("%d requests tried the lost key first", n)
	}
	if _, err := c.Issue(t.Context(), request(t, "SN-3", catest.NewKey(t))); err != nil {
		t.Error(err)
	}
	// Still away when it is tried again, then back.
	s.now.Add(int64(3 * time.Second))
	if got := s.issuer(t, request(t, "SN-4", catest.NewKey(t))); got != "device-2" {
		t.Errorf("issued by %s", got)
	}
	keys.lost["test:device-1"].Store(false)
	s.now.Add(int64(10 * time.Second))
	if got := s.issuer(t, request(t, "SN-5", catest.NewKey(t))); got != "device-1" {
		t.Errorf("after its return issued by %s", got)
	}
	if a, err := c.Authority("device-1"); err != nil || a.Lost != nil {
		t.Errorf("device-1 after its return: %v, %v", a.Lost, err)
	}
	// A token that comes back with another key is not taken.
	other := lostKeys{s.loose, map[string]*atomic.Bool{"test:device-1": {}}}
	other.lost["test:device-1"].Store(true)
	cfg.Keys = other
	if s.CA, err = ca.New(t.Context(), cfg); err != nil {
		t.Fatal(err)
	}
	other.Keys.Add("test:device-1", catest.NewKey(t))
	other.lost["test:device-1"].Store(false)
	s.now.Add(int64(10 * time.Second))
	if got := s.issuer(t, request(t, "SN-6", catest.NewKey(t))); got != "device-2" {
		t.Errorf("with another key in its token issued by %s", got)
	}
	// Nobody of the duty is left.
	for _, b := range keys.lost {
		b.Store(true)
	}
	cfg.Keys = keys
	if _, err := ca.New(t.Context(), cfg); !errors.Is(err, errAway) {
		t.Errorf("with all of them lost: %v", err)
	}
}
