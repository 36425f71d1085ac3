package main

import (
	"net/http"
	"os"
	"strings"
	"testing"
	"time"

	"hallmark/hsm"
	"hallmark/hsm/hsmtest"
)

// TestA24_AModuleThatCrashesOrHangsIsNotTheServices has the device authority's
// key in a library that crashes, and then hangs, under the load of eight
// clients: the service lives, those who ask meanwhile get 503 with a code and a
// time to return, and certificates are issued again.
func TestA24_AModuleThatCrashesOrHangsIsNotTheServices(t *testing.T) {
	tok := hsmtest.Faulty(t)
	s, log := newSiteWith(t, anyName(1_000_000), func(s *site) error {
		files := s.keyURI
		s.keyURI = func(name string) string {
			if name == "device-1" {
				return tok.URI(name)
			}
			return files(name)
		}
		return nil
	})
	for i, what := range []string{"crash", "hang"} {
		l := startLoad(t, s, 8, strings.ToUpper(what)) // which begins the names of units
		t.Cleanup(func() {
			if t.Failed() && len(l.shots) > 0 {
				x := l.shots[len(l.shots)-1]
				t.Logf("%d requests, the last: %v %s %s\n%s", len(l.shots), x.err, x.verdict, x.verdict.body, log.String())
			}
		})
		until(t, "20 certificates", 30*time.Second, func() bool { good, _ := l.since(time.Time{}); return good >= 20 })
		tok.Next("sign-" + what)
		until(t, "the command is taken", 30*time.Second, tok.Taken)
		began := time.Now()
		until(t, "a refusal", 30*time.Second, func() bool { _, bad := l.since(time.Time{}); return bad > 0 })
		refused := time.Now()
		until(t, "20 certificates again", 60*time.Second, func() bool { good, _ := l.since(refused); return good >= 20 })
		l.end()
		good, bad := 0, 0
		var slowest time.Duration
		var back time.Time
		for _, x := range l.shots {
			v := x.verdict
			slowest = max(slowest, v.took)
			switch {
			case x.err != nil:
				t.Errorf("%s %s: %v", what, x.unit.name, x.err)
			case v.status == http.StatusOK:
				good++
				s.holds(t, x.unit, v.body)
				if ends := x.at.Add(v.took); x.at.After(refused) && (back.IsZero() || ends.Before(back)) {
					back = ends
				}
			case v.status == http.StatusServiceUnavailable && v.retry != "" && v.code == "hsm-token-down":
				bad++
			default:
				t.Errorf("%s %s: %s %s, Retry-After %q", what, x.unit.name, v, v.body, v.retry)
			}
		}
		took := back.Sub(began)
		t.Logf("%s: %d certificates, %d refusals, slowest %v, issuing again after %v", what, good, bad, slowest, took)
		// Of a module that hangs, 5 s are until it counts as hanging.
		if bad == 0 || took > 50*time.Second {
			t.Errorf("%s: %d refusals, issuing again after %v", what, bad, took)
		}
		for _, h := range s.server.keys.Health(t.Context()) {
			if h.Token.Label == tok.Label && (h.State != hsm.StateUp || h.Replaced != i+1 || h.PINLow) {
				t.Errorf("%s: the token is %+v", what, h)
			}
		}
		if p := hsmtest.Processes(t, os.Getpid(), tok.Module); len(p) != 1 {
			t.Errorf("%s: processes %v", what, p)
		}
	}
	if t.Failed() {
		t.Log(log.String())
	}
	s.halt()
	if p := hsmtest.Processes(t, os.Getpid(), tok.Module); len(p) != 0 {
		t.Errorf("processes %v are left", p)
	}
	s.clean()
}
