package main

import (
	"errors"
	"log/slog"
	"net/http"
	"os"
	"testing"
	"time"

	"hallmark/internal/fault"
	"hallmark/internal/sntp/sntptest"
)

// TestTimeSource_RefusesADisagreement_S38: the clock of this machine against up
// to three servers, in production mode and without.
func TestTimeSource_RefusesADisagreement_S38(t *testing.T) {
	a, b, c := sntptest.New(t), sntptest.New(t), sntptest.New(t)
	moved := time.Duration(0)
	source := func(production bool, servers ...*sntptest.Server) *timeSource {
		cfg := &Config{Production: production}
		for _, s := range servers {
			cfg.NTP = append(cfg.NTP, s.Addr)
		}
		return newTimeSource(cfg, func() time.Time { return time.Now().Add(moved) }, slog.New(slog.DiscardHandler))
	}
	want := func(what string, s *timeSource, d *fault.Definition) {
		t.Helper()
		if err := s.Check(); d == nil && err != nil || d != nil && !errors.Is(err, d) {
			t.Errorf("%s: %v, want %v", what, err, d)
		}
	}
	want("no servers", source(false), nil)
	for _, production := range []bool{false, true} {
		s := source(production, a, b, c)
		if production {
			want("nobody was asked", s, errClockUnconfirmed)
		} else {
			want("nobody was asked", s, nil)
		}
		s.ask(t.Context())
		want("all agree", s, nil)
		a.Ahead(time.Hour)
		s.ask(t.Context())
		want("one of three is wrong", s, nil)
		b.Ahead(6 * time.Minute)
		s.ask(t.Context())
		want("two of three say six minutes or more", s, errClockDisagrees)
		a.Ahead(4 * time.Minute)
		b.Ahead(-4 * time.Minute)
		s.ask(t.Context())
		want("four minutes", s, nil)
		// A jump is seen at once, without a question, in either direction.
		a.Ahead(0)
		b.Ahead(0)
		s.ask(t.Context())
		for _, d := range []time.Duration{6 * time.Minute, -6 * time.Minute, 365 * 24 * time.Hour} {
			moved = d
			want("the clock jumped by "+d.String(), s, errClockDisagrees)
		}
		moved = 0
		want("and back", s, nil)
		// Servers that went away: the last answer holds for a day.
		for _, n := range []*sntptest.Server{a, b, c} {
			n.Silent()
		}
		s.ask(t.Context())
		want("nobody answers", s, nil)
		s.when = s.when.Add(-25 * time.Hour)
		if production {
			want("nobody answers for a day", s, errClockUnconfirmed)
		} else {
			want("nobody answers for a day", s, nil)
		}
		for _, n := range []*sntptest.Server{a, b, c} {
			n.Ahead(0)
		}
	}
}

// TestClock_ADisagreementStopsIssuanceOnly_S38: a whole service whose time server
// says something else issues nothing and goes on with the rest.
func TestClock_ADisagreementStopsIssuanceOnly_S38(t *testing.T) {
	n := sntptest.New(t)
	s := newSite(t, "software", "", anyName(10))
	first := s.issue(newUnit(t, "SN-1")).Leaf
	s.halt()
	s.configure("ntp: ['" + n.Addr + "']\n")
	s.again()
	if n.Asked() == 0 {
		t.Fatal("the service asked nobody")
	}
	cert := s.stationPair()
	client, url := s.client(&cert, 1), "https://"+s.door("factory")+"/factory/v1/units/issue"
	u := newUnit(t, "SN-2")
	n.Ahead(-10 * time.Minute)
	s.server.time.ask(t.Context())
	if r, err := call(t.Context(), client, "POST", url, u.request()); err != nil || r.status != http.StatusServiceUnavailable || r.code != "clock-disagrees" {
		t.Errorf("issuance: %v %s", err, r)
	}
	s.publicList()
	s.good(first)
	if o := s.order(siteOrder); o.Used != 1 {
		t.Errorf("the order used %d", o.Used)
	}
	n.Ahead(2 * time.Minute)
	s.server.time.ask(t.Context())
	s.issue(u)
	s.clean()
}

// configure adds to the site's configuration; it counts from the next start.
func (s *site) configure(text string) {
	s.t.Helper()
	f, err := os.OpenFile(s.path("hallmark.yaml"), os.O_APPEND|os.O_WRONLY, 0o644)
	if err == nil {
		_, err = f.WriteString(text)
		err = errors.Join(err, f.Close())
	}
	if err != nil {
		s.t.Fatal(err)
	}
}
