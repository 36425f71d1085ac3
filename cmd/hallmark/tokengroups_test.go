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

// TestTokenGroups_TheServiceFailsOver is the second acceptance of the keys issue
// at the door: the token of the device authority dies under load and no client
// sees it; with both dead every answer is a clear refusal.
func TestTokenGroups_TheServiceFailsOver(t *testing.T) {
	a, b := hsmtest.ServerLabel(t, "alpha"), hsmtest.ServerLabel(t, "beta")
	hsmtest.Import(t, "device-1", a.Token, b.Token)
	s, log := newSiteWith(t, anyName(1_000_000), func(s *site) error {
		files := s.keyURI
		s.keyURI = func(name string) string {
			if name == "device-1" {
				return a.URI(name)
			}
			return files(name)
		}
		f, err := os.OpenFile(s.path("hallmark.yaml"), os.O_APPEND|os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		defer f.Close()
		_, err = f.WriteString("tokens:\n  groups:\n    - name: device-1\n      keys:\n        - " + a.URI("device-1") + "\n        - " + b.URI("device-1") + "\n")
		return err
	})
	group := func() hsm.GroupHealth {
		all := s.server.keys.Groups()
		if len(all) != 1 {
			t.Fatalf("groups: %+v", all)
		}
		return all[0]
	}
	l := startLoad(t, s, 8, "FO")
	more := func() {
		t.Helper()
		at, _ := l.since(time.Time{})
		until(t, "30 certificates more", 60*time.Second, func() bool { good, _ := l.since(time.Time{}); return good >= at+30 })
	}
	more()
	began := time.Now()
	a.Kill()
	until(t, "the loss is seen", 30*time.Second, func() bool { return !group().Tokens[0].Serving })
	known := time.Since(began)
	more()
	for _, c := range s.server.checks() {
		if err := c.Do(t.Context()); err != nil {
			t.Errorf("not ready with the spare: %s: %v", c.Name, err)
		}
	}
	a.Start()
	until(t, "the return is noticed", 30*time.Second, func() bool { return group().Serving == 2 })
	more()
	if good, bad := l.since(time.Time{}); bad > 0 {
		t.Errorf("%d of %d requests failed", bad, good+bad)
	} else {
		t.Logf("%d certificates, none refused; the loss was known after %v", good, known.Round(time.Millisecond))
	}
	a.Kill()
	b.Kill()
	until(t, "no token serves", 30*time.Second, func() bool { return group().Serving == 0 })
	dead := time.Now()
	until(t, "20 refusals", 30*time.Second, func() bool { _, bad := l.since(dead); return bad >= 20 })
	l.end()
	var slowest time.Duration
	for _, x := range l.shots {
		if v := x.verdict; x.at.After(dead) {
			slowest = max(slowest, v.took)
			if v.status != http.StatusServiceUnavailable || v.code != "hsm-token-down" || v.retry == "" {
				t.Errorf("%s: %s, Retry-After %q, %v", x.unit.name, v, v.retry, x.err)
			}
		}
	}
	if slowest > 5*time.Second {
		t.Errorf("a refusal took %v", slowest)
	}
	t.Logf("the slowest refusal took %v", slowest)
	if strings.Contains(log.String(), "hsm-pin-refused") {
		t.Error("a PIN was refused")
	}
}
