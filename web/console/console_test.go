package console_test

import (
	"context"
	"flag"
	"fmt"
	"html"
	"io"
	"maps"
	"net/http"
	"net/http/cookiejar"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/web"
	"hallmark/web/console"
	"hallmark/web/webtest"
)

var (
	shots   = flag.String("screenshots", "", "directory for pictures of every page, taken with chromium")
	tall    = flag.Bool("screenshots-tall", false, "take the whole of each page and not only what a screen shows")
	shotsOf = flag.String("screenshots-of", "", "regular expression of the names of the pages to take")
)

// site is the people's door over TLS with a browser's habits.
type site struct {
	*webtest.Service
	url    string
	client *http.Client
	clock  *time.Time
	tls    *httptest.Server
	fleet  *fleet
}

func serve(t *testing.T, fill bool) *site {
	t.Helper()
	now := time.Now()
	s := &site{clock: &now}
	clock := func() time.Time { return *s.clock }
	s.Service = webtest.New(t, clock)
	s.fleet = &fleet{Fake: s.Fake, now: clock}
	if fill {
		s.Fake.Fill(t)
		s.fleet.fill()
	}
	pages, err := console.New(console.Config{Backend: s.fleet.backend(), Access: s.Access, Trail: s.Fake, Cursors: web.NewCursors(nil), Version: "test", Now: clock})
	if err != nil {
		t.Fatal(err)
	}
	h, err := web.NewPeople(web.PeopleConfig{Backend: s.Backend(), Access: s.Access, Trail: s.Fake, Cursors: web.NewCursors(nil), Console: pages, Now: clock})
	if err != nil {
		t.Fatal(err)
	}
	s.tls = httptest.NewTLSServer(h)
	t.Cleanup(s.tls.Close)
	s.url, s.client = s.tls.URL, s.tls.Client()
	s.client.Jar, _ = cookiejar.New(nil)
	return s
}

func (s *site) signIn(t *testing.T, role access.Role) {
	t.Helper()
	s.signInAs(t, webtest.Tenant, role)
}

func (s *site) signInAs(t *testing.T, tenant string, role access.Role) {
	t.Helper()
	r, body := s.post(t, "/console/sign-in", url.Values{"token": {s.Tokens[tenant][role]}}, nil)
	if r.StatusCode != http.StatusOK || !strings.Contains(body, "<h1>Overview</h1>") {
		t.Fatalf("sign-in gives %d: %s", r.StatusCode, body)
	}
}

func (s *site) post(t *testing.T, path string, form url.Values, header map[string]string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequest(http.MethodPost, s.url+path, strings.NewReader(form.Encode()))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	for k, v := range header {
		req.Header.Set(k, v)
	}
	return s.do(t, req)
}

func (s *site) get(t *testing.T, path string) (*http.Response, string) {
	t.Helper()
	req, err := http.NewRequest(http.MethodGet, s.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	return s.do(t, req)
}

func (s *site) do(t *testing.T, req *http.Request) (*http.Response, string) {
	t.Helper()
	r, err := s.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		t.Fatal(err)
	}
	return r, string(b)
}

// paths are all pages, with what each must show.
var paths = []struct{ name, path, shows string }{
	{"overview", "/console/", webtest.OpenOrder},
	{"orders", "/console/orders", webtest.Draft},
	{"orders-closed", "/console/orders?state=closed", "PO-2026-090"},
	{"order", "/console/orders/" + webtest.OpenOrder, "LMP-000050"},
	{"order-draft", "/console/orders/" + webtest.Draft, "hallmark order approve " + webtest.Draft},
	{"devices", "/console/devices", webtest.Unit},
	{"devices-search", "/console/devices?q=lmp-00000", webtest.Blocked},
	{"device", "/console/devices/" + webtest.Unit, "First boot"},
	{"device-blocked", "/console/devices/" + webtest.Blocked, "grey market"},
	{"certificates", "/console/certificates", webtest.Serial(3)},
	{"certificates-revoked", "/console/certificates?status=revoked&q=&authority=", webtest.Serial(2)},
	{"approvals", "/console/approvals", "Hook <bdi>erp</bdi>"},
	{"approvals-expired", "/console/approvals?state=expired", "No request is expired."},
	{"approval", "/console/approvals/" + webtest.Approval, "hallmark approval approve " + webtest.Approval},
	{"revocation-plans", "/console/revocation-plans", webtest.RevocationPlan},
	{"revocation-plan", "/console/revocation-plans/" + webtest.RevocationPlan, "hallmark revoke pause " + webtest.RevocationPlan},
	{"certificate", "/console/certificates/" + webtest.Serial(1), "clientAuth"},
	{"certificate-revoked", "/console/certificates/" + webtest.Serial(2), "privilegeWithdrawn"},
	{"authorities", "/console/authorities", "token=issuing"},
	{"lists", "/console/lists", "devices-1"},
	{"stations", "/console/stations", webtest.Station},
	{"missing", "/console/orders/none", "There is no such record."},
	{"lost", "/console/nowhere", "nothing at this address"},
}

func TestConsole_ShowsEveryPage(t *testing.T) {
	s := serve(t, true)
	s.signIn(t, access.SecurityOfficer)
	for _, p := range paths {
		r, body := s.get(t, p.path)
		if want := map[bool]int{true: 404, false: 200}[p.name == "missing" || p.name == "lost"]; r.StatusCode != want {
			t.Errorf("%s: status %d", p.name, r.StatusCode)
		}
		if !strings.Contains(body, p.shows) || !strings.HasSuffix(strings.TrimSpace(body), "</html>") {
			t.Errorf("%s does not show %q:\n%s", p.name, p.shows, body)
		}
		for _, bad := range []string{"%!", "<no value>", "ZgotmplZ", "<nil>", "0001-01-01"} {
			if strings.Contains(body, bad) {
				t.Errorf("%s shows %q", p.name, bad)
			}
		}
		if strings.Contains(body, " style=") || strings.Contains(body, " onclick") {
			t.Errorf("%s has inline style or script", p.name)
		}
		if csp := r.Header.Get("Content-Security-Policy"); !strings.Contains(csp, "default-src 'none'") || strings.Contains(csp, "unsafe") {
			t.Errorf("%s has the policy %q", p.name, csp)
		}
	}
	for _, file := range []string{"console.css", "console.js", "mark.svg"} {
		if r, body := s.get(t, "/console/assets/"+file); r.StatusCode != 200 || r.Header.Get("X-Content-Type-Options") != "nosniff" || strings.Contains(body, "://") && !strings.Contains(body, "w3.org") {
			t.Errorf("%s: %d, or it names another place", file, r.StatusCode)
		}
	}
}

func TestConsole_EmptyPagesSayWhatToDo(t *testing.T) {
	s := serve(t, false)
	s.signIn(t, access.SecurityOfficer)
	for _, path := range []string{"/console/", "/console/orders", "/console/devices", "/console/certificates", "/console/authorities", "/console/lists", "/console/stations", "/console/approvals"} {
		if r, body := s.get(t, path); r.StatusCode != 200 || !strings.Contains(body, "empty") {
			t.Errorf("%s: %d without a hint:\n%s", path, r.StatusCode, body)
		}
	}
}

func TestA55_NamesAreText(t *testing.T) {
	s := serve(t, true)
	s.signIn(t, access.SecurityOfficer)
	_, body := s.get(t, "/console/certificates/"+webtest.Serial(102))
	if strings.Contains(body, webtest.Hostile) || strings.Contains(body, "<img src=x>") || !strings.Contains(body, "&lt;script&gt;") {
		t.Errorf("markup of a device reaches the page:\n%s", body)
	}
	_, body = s.get(t, "/console/approvals/"+webtest.Approval)
	if strings.Contains(body, webtest.Hostile) || !strings.Contains(body, "&lt;script&gt;") {
		t.Errorf("markup of a document reaches the page:\n%s", body)
	}
}

func TestConsole_PagesGoOn(t *testing.T) {
	s := serve(t, true)
	s.signIn(t, access.Auditor)
	_, body := s.get(t, "/console/orders/"+webtest.OpenOrder)
	i := strings.Index(body, `rel="next"`)
	if i < 0 {
		t.Fatal("60 units and no next page")
	}
	href := body[:i]
	href = href[strings.LastIndex(href, `href="`)+6:]
	href = strings.ReplaceAll(href[:strings.IndexByte(href, '"')], "&amp;", "&")
	if _, body = s.get(t, href); !strings.Contains(body, "LMP-000060") || strings.Contains(body, "LMP-000050") {
		t.Error("the second page is not the second page")
	}
	if r, _ := s.get(t, href+"A"); r.StatusCode != 400 {
		t.Errorf("an altered cursor gives %d, want 400 (A66)", r.StatusCode)
	}
}

func TestConsole_Download(t *testing.T) {
	s := serve(t, true)
	s.signIn(t, access.Auditor)
	for _, path := range []string{"/console/certificates/" + webtest.Serial(1) + "/pem", "/console/authorities/devices-1/pem"} {
		r, body := s.get(t, path)
		if r.StatusCode != 200 || !strings.HasPrefix(body, "-----BEGIN CERTIFICATE-----") || !strings.HasPrefix(r.Header.Get("Content-Disposition"), "attachment;") {
			t.Errorf("%s: %d %s", path, r.StatusCode, body)
		}
	}
}

func TestSession(t *testing.T) {
	noFollow := func(s *site) {
		s.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	}
	t.Run("without one every page leads to the sign-in", func(t *testing.T) {
		s := serve(t, true)
		noFollow(s)
		for _, p := range paths[:16] {
			r, body := s.get(t, p.path)
			if r.StatusCode != http.StatusSeeOther || !strings.HasPrefix(r.Header.Get("Location"), "/console/sign-in") || strings.Contains(body, p.shows) {
				t.Errorf("%s: %d %s", p.path, r.StatusCode, r.Header.Get("Location"))
			}
		}
	})
	t.Run("the cookie is new, closed to scripts and to other sites", func(t *testing.T) {
		s := serve(t, true)
		noFollow(s)
		form := url.Values{"token": {s.Tokens[webtest.Tenant][access.Auditor]}}
		r, _ := s.post(t, "/console/sign-in", form, map[string]string{"Cookie": "__Host-hallmark=planted"})
		c := r.Cookies()[0]
		if c.Value == "planted" || len(c.Value) < 40 || !c.HttpOnly || !c.Secure || c.SameSite != http.SameSiteStrictMode || c.Path != "/" || c.Domain != "" {
			t.Errorf("cookie %+v", c)
		}
	})
	t.Run("a wrong token is refused without saying why", func(t *testing.T) {
		s := serve(t, true)
		r, body := s.post(t, "/console/sign-in", url.Values{"token": {"hmk_nonsense"}}, nil)
		if r.StatusCode != 401 || len(r.Cookies()) != 0 || strings.Contains(body, "nonsense") {
			t.Errorf("%d %s", r.StatusCode, body)
		}
	})
	t.Run("another site cannot sign in or out", func(t *testing.T) {
		s := serve(t, true)
		s.signIn(t, access.Auditor)
		for _, h := range []map[string]string{{"Sec-Fetch-Site": "cross-site"}, {"Origin": "https://evil.example"}} {
			for _, path := range []string{"/console/sign-in", "/console/sign-out"} {
				if r, _ := s.post(t, path, url.Values{"token": {s.Tokens[webtest.Tenant][access.Auditor]}}, h); r.StatusCode != 403 {
					t.Errorf("%s with %v: %d", path, h, r.StatusCode)
				}
			}
		}
		if r, _ := s.get(t, "/console/"); r.Request.URL.Path != "/console/" {
			t.Error("the session is gone")
		}
	})
	t.Run("signing out ends it", func(t *testing.T) {
		s := serve(t, true)
		s.signIn(t, access.Auditor)
		u, _ := url.Parse(s.url)
		old := s.client.Jar.Cookies(u)
		s.post(t, "/console/sign-out", nil, nil)
		s.client.Jar.SetCookies(u, old)
		if r, _ := s.get(t, "/console/"); r.Request.URL.Path != "/console/sign-in" {
			t.Error("the old cookie still works")
		}
	})
	t.Run("it ends with the principal", func(t *testing.T) {
		s := serve(t, true)
		s.signIn(t, access.Auditor)
		platform := access.Actor{Tenant: webtest.Tenant, Kind: access.KindPrincipal, Name: "a-platform", Role: access.Platform}
		if _, err := s.Access.Disable(context.Background(), platform, "a-auditor"); err != nil {
			t.Fatal(err)
		}
		if r, _ := s.get(t, "/console/"); r.Request.URL.Path != "/console/sign-in" {
			t.Error("a disabled principal still reads")
		}
	})
	t.Run("it ends without use, and in any case", func(t *testing.T) {
		s := serve(t, true)
		s.signIn(t, access.Auditor)
		*s.clock = s.clock.Add(31 * time.Minute)
		if r, _ := s.get(t, "/console/"); r.Request.URL.Path != "/console/sign-in" {
			t.Error("31 minutes idle")
		}
		s.signIn(t, access.Auditor)
		for range 17 {
			*s.clock = s.clock.Add(29 * time.Minute)
			s.get(t, "/console/")
		}
		if r, _ := s.get(t, "/console/"); r.Request.URL.Path != "/console/sign-in" {
			t.Error("more than eight hours")
		}
	})
	t.Run("it leads back to our pages only", func(t *testing.T) {
		for to, want := range map[string]string{
			"/console/orders?state=open": "/console/orders?state=open", "//evil.example/console/": "/console/", "https://evil.example": "/console/",
			`/console/\evil.example`: "/console/", "/console/\r\nX: y": "/console/", "javascript:alert(1)": "/console/",
		} {
			s := serve(t, true)
			noFollow(s)
			r, _ := s.post(t, "/console/sign-in", url.Values{"token": {s.Tokens[webtest.Tenant][access.Auditor]}, "to": {to}}, nil)
			if got := r.Header.Get("Location"); got != want {
				t.Errorf("%q leads to %q", to, got)
			}
		}
	})
	t.Run("the api takes no cookie", func(t *testing.T) {
		s := serve(t, true)
		s.signIn(t, access.Auditor)
		if r, _ := s.get(t, "/api/v1/me"); r.StatusCode != 401 {
			t.Errorf("status %d", r.StatusCode)
		}
	})
}

// A65: every page asks the grants; a role without the right gets 403 and no link.
func TestA65_PagesByRole(t *testing.T) {
	lists := map[string]access.Action{
		"/console/": access.ReadSummary, "/console/orders": access.ReadOrders, "/console/devices": access.ReadDevices, "/console/certificates": access.ReadCertificates,
		"/console/authorities": access.ReadAuthorities, "/console/lists": access.ReadLists, "/console/stations": access.ReadStations, "/console/revocation-plans": access.ReadRevocationPlans,
		"/console/approvals":      access.ReadApprovals,
		"/console/registered-cas": access.ReadRegisteredCAs, "/console/device-certificates": access.ReadFleetCertificates, "/console/claims": access.ReadClaims,
		"/console/things": access.ReadThings, "/console/groups": access.ReadGroups, "/console/thing-types": access.ReadThingTypes, "/console/jobs": access.ReadJobs,
		"/console/policies": access.ReadPolicies, "/console/templates": access.ReadTemplates, "/console/hooks": access.ReadHooks,
		"/console/campaigns": access.ReadCampaigns, "/console/expiring": access.ReadCampaigns, "/console/firmware": access.ReadFirmware, "/console/trust": access.ReadTrust,
	}
	single := map[string]access.Action{
		"/console/revocation-plans/" + webtest.RevocationPlan: access.ReadRevocationPlans,
		"/console/approvals/" + webtest.Approval:              access.ReadApprovals,
		"/console/registered-cas/" + caID:                     access.ReadRegisteredCAs, "/console/registered-cas/" + caID + "/pem": access.ReadRegisteredCAs, "/console/device-certificates/" + certID: access.ReadFleetCertificates,
		"/console/device-certificates/" + certID + "/pem": access.ReadFleetCertificates, "/console/claims/" + claimID: access.ReadClaims, "/console/things/" + lamp: access.ReadThings,
		"/console/things/" + lamp + "/jobs": access.ReadJobs, "/console/things/" + lamp + "/shadows": access.ReadShadows, "/console/things/" + lamp + "/shadow": access.ReadShadows,
		"/console/groups/berlin": access.ReadGroups, "/console/billing-groups/berlin-office": access.ReadGroups, "/console/thing-types/lamp": access.ReadThingTypes, "/console/jobs/" + rollout: access.ReadJobs,
		"/console/policies/" + policyID: access.ReadPolicies, "/console/templates/lamps": access.ReadTemplates,
		"/console/campaigns/" + march: access.ReadCampaigns, "/console/things/" + lamp + "/timeline": access.ReadTimeline,
		"/console/firmware/lamp/1.4.0": access.ReadFirmware, "/console/trust/" + rolls: access.ReadTrust,
	}
	for _, role := range access.Roles() {
		s := serve(t, true)
		s.signIn(t, role)
		can := func(a access.Action) bool {
			return access.Can(access.Actor{Tenant: "main", Kind: access.KindPrincipal, Name: "x", Role: role}, a)
		}
		_, first := s.get(t, "/console/")
		linked := navLinks(first)
		for href := range navLinks(first) { // the pages of every part
			_, body := s.get(t, href)
			maps.Copy(linked, navLinks(body))
		}
		for path, action := range lists {
			r, body := s.get(t, path)
			if may := can(action); may != (r.StatusCode == 200) || !may && (r.StatusCode != 403 || !strings.Contains(body, "<code>action-forbidden</code>")) {
				t.Errorf("%s as %s: %d", path, role, r.StatusCode)
			}
			if can(action) != linked[path] {
				t.Errorf("%s as %s: link and right differ", path, role)
			}
			delete(linked, path)
		}
		if len(linked) > 0 {
			t.Errorf("as %s the navigation leads to pages that this test does not know: %v", role, linked)
		}
		for path, action := range single {
			if r, _ := s.get(t, path); can(action) != (r.StatusCode == 200) || !can(action) && r.StatusCode != 403 {
				t.Errorf("%s as %s: %d", path, role, r.StatusCode)
			}
		}
		// Of the pages that everybody sees, none leads where its reader is refused.
		for _, path := range []string{"/console/", "/console/devices/" + webtest.Unit, "/console/certificates/" + webtest.Serial(1)} {
			_, body := s.get(t, path)
			for href := range links(body) {
				href, _, _ = strings.Cut(href, "#")
				if r, _ := s.get(t, href); r.StatusCode == 403 {
					t.Errorf("%s leads %s to %s, which refuses", path, role, href)
				}
			}
		}
	}
}

// links are the addresses of ours on a page.
func links(body string) map[string]bool {
	out := map[string]bool{}
	for _, piece := range strings.Split(body, `<a href="`)[1:] {
		if href := piece[:strings.IndexByte(piece, '"')]; strings.HasPrefix(href, "/console/") {
			out[strings.ReplaceAll(href, "&amp;", "&")] = true
		}
	}
	return out
}

func navLinks(body string) map[string]bool {
	_, body, _ = strings.Cut(body, "<header>")
	body, _, _ = strings.Cut(body, "</header>")
	out := links(body)
	return out
}

// TestScreenshots takes pictures for people to look at; it checks nothing else
// than that the browser gets every page.
func TestScreenshots(t *testing.T) {
	if *shots == "" {
		t.Skip("give -screenshots DIR; needs chromium (apt-get install chromium)")
	}
	for _, full := range []bool{true, false} {
		s := serve(t, full)
		s.signIn(t, access.SecurityOfficer)
		u, _ := url.Parse(s.url)
		cookie := s.client.Jar.Cookies(u)[0]
		// The browser cannot be given a cookie on its command line.
		front := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if to, ok := strings.CutPrefix(r.URL.RequestURI(), "/phone"); ok { // a browser's window is not as narrow as a phone
				w.Header().Set("Content-Type", "text/html")
				fmt.Fprintf(w, `<meta name="color-scheme" content="light dark"><body style="margin:0"><iframe src="%s" style="width:390px;height:100vh;border:0"></iframe>`, html.EscapeString(to))
				return
			}
			if r.URL.Path != "/console/sign-in" {
				r.AddCookie(cookie)
			}
			s.tls.Config.Handler.ServeHTTP(framed{w}, r)
		}))
		t.Cleanup(front.Close)
		list := append(append([]struct{ name, path, shows string }{{"sign-in", "/console/sign-in", ""}}, paths...), fleetPaths...)
		if !full {
			list = []struct{ name, path, shows string }{{"empty-overview", "/console/", ""}, {"empty-orders", "/console/orders", ""}, {"empty-authorities", "/console/authorities", ""},
				{"empty-things", "/console/things", ""}, {"empty-jobs", "/console/jobs", ""}, {"empty-campaigns", "/console/campaigns", ""}, {"empty-expiring", "/console/expiring", ""}, {"empty-firmware", "/console/firmware", ""}, {"empty-trust", "/console/trust", ""}, {"empty-registered-cas", "/console/registered-cas", ""}}
		}
		for _, p := range list {
			if match, err := regexp.MatchString(*shotsOf, p.name); err != nil || !match {
				continue
			}
			screen, phone := "1366,768", "500,844"
			if *tall {
				screen, phone = "1366,2600", "500,4200"
			}
			shoot(t, front.URL+p.path, p.name, screen, false)
			if full {
				shoot(t, front.URL+p.path, p.name+"-dark", screen, true)
				shoot(t, front.URL+"/phone"+p.path, p.name+"-phone", phone, false)
				shoot(t, front.URL+"/phone"+p.path, p.name+"-phone-dark", phone, true)
			}
		}
	}
}

// framed lets a page be shown in the frame of a phone.
type framed struct{ http.ResponseWriter }

func (f framed) WriteHeader(status int) {
	f.Header().Set("Content-Security-Policy", strings.ReplaceAll(f.Header().Get("Content-Security-Policy"), "frame-ancestors 'none'", "frame-ancestors 'self'"))
	f.Header().Del("X-Frame-Options")
	f.ResponseWriter.WriteHeader(status)
}

func shoot(t *testing.T, page, name, size string, dark bool) {
	t.Helper()
	args := []string{"--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--hide-scrollbars", "--window-size=" + size, "--user-data-dir=" + t.TempDir(), "--screenshot=" + filepath.Join(*shots, name+".png")}
	if dark {
		args = append(args, "--blink-settings=preferredColorScheme=0")
	}
	cmd := exec.Command("chromium", append(args, page)...)
	cmd.Env = append(os.Environ(), "TZ=Europe/Berlin")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
}
