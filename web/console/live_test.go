package console_test

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"sync/atomic"
	"testing"

	"hallmark/access"
)

// A browser that stays on a campaign's page sees it change, without a reload: it asks
// for the same page again and puts in what is new. Needs chromium; make proof runs it.
func TestConsole_RefreshesItselfInABrowser(t *testing.T) {
	if os.Getenv("HALLMARK_PROOF") == "" {
		t.Skip("set HALLMARK_PROOF=1; needs chromium (apt-get install chromium)")
	}
	s := serve(t, true)
	s.signIn(t, access.Auditor)
	u, _ := url.Parse(s.url)
	cookie := s.client.Jar.Cookies(u)[0]
	var loads, refreshes atomic.Int64
	front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.AddCookie(cookie)
		if strings.HasPrefix(r.URL.Path, "/console/campaigns/") {
			if r.Header.Get("Hallmark-Live") == "" {
				loads.Add(1)
			} else if refreshes.Add(1) == 1 {
				for i := range s.fleet.campaigns {
					if c := &s.fleet.campaigns[i]; c.Id == march {
						c.State, c.Code = "paused", "seen-by-a-refresh"
					}
				}
			}
		}
		s.tls.Config.Handler.ServeHTTP(w, r)
	}))
	t.Cleanup(front.Close)
	out, err := exec.Command("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--user-data-dir="+t.TempDir(), "--virtual-time-budget=16000", "--dump-dom", front.URL+"/console/campaigns/"+march).Output()
	if err != nil {
		t.Fatal(err)
	}
	page := string(out)
	if loads.Load() != 1 || refreshes.Load() < 2 {
		t.Errorf("%d loads, %d refreshes", loads.Load(), refreshes.Load())
	}
	if !strings.Contains(page, `<span class="badge warn">paused</span>`) || !strings.Contains(page, "seen-by-a-refresh") || !strings.Contains(page, "refreshes itself") {
		t.Errorf("the page did not change:\n%.3000s", page)
	}
	if strings.Contains(page, " UTC</time>") {
		t.Error("a time is not in the reader's zone")
	}
}
