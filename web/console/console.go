package console

import (
	"bytes"
	"crypto/rand"
	"embed"
	"errors"
	"html/template"
	"io/fs"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"time"

	"hallmark/access"
	"hallmark/internal/fault"
	"hallmark/web"
)

//go:embed templates/*.html
var templateFiles embed.FS

//go:embed assets/*
var assetFiles embed.FS

// Config makes the console.
type Config struct {
	Backend web.Backend
	Access  *access.Authenticator
	// Trail takes an entry for every action of the console that changes something (A75).
	Trail access.TrailWriter
	// Cursors of the lists; the zero value lives as long as the process.
	Cursors web.Cursors
	// Version of the program, shown in the footer.
	Version string
	Log     *slog.Logger
	Now     func() time.Time
}

// console serves the pages under /console/.
type console struct {
	Config
	sessions *sessions
	pages    map[string]*template.Template
	origin   *http.CrossOriginProtection
}

// page is one row of the console's table.
type page struct {
	Pattern string // under /console/, for http.ServeMux
	Action  access.Action
	Section string // of the navigation
	show    func(c *console, v *view) (name string, err error)
}

// pages is the whole console, apart from signing in and out. Who may see a page
// is in the grants table under its action.
var pages = []page{
	{"GET /console/{$}", access.ReadSummary, "overview", (*console).overview},
	{"GET /console/orders", access.ReadOrders, "orders", (*console).orders},
	{"GET /console/orders/{order}", access.ReadOrders, "orders", (*console).order},
	{"GET /console/devices", access.ReadDevices, "devices", (*console).devices},
	{"GET /console/devices/{device}", access.ReadDevices, "devices", (*console).device},
	{"GET /console/certificates", access.ReadCertificates, "certificates", (*console).certificates},
	{"GET /console/certificates/{serial}", access.ReadCertificates, "certificates", (*console).certificate},
	{"GET /console/certificates/{serial}/pem", access.ReadCertificates, "certificates", (*console).certificatePEM},
	{"GET /console/authorities", access.ReadAuthorities, "authorities", (*console).authorities},
	{"GET /console/authorities/{authority}/pem", access.ReadAuthorities, "authorities", (*console).authorityPEM},
	{"GET /console/lists", access.ReadLists, "lists", (*console).lists},
	{"GET /console/revocation-plans", access.ReadRevocationPlans, "plans", (*console).revocationPlans},
	{"GET /console/revocation-plans/{plan}", access.ReadRevocationPlans, "plans", (*console).revocationPlan},
	{"GET /console/trust", access.ReadTrust, "trust", (*console).trust},
	{"GET /console/trust/{rollover}", access.ReadTrust, "trust", (*console).rootRollover},
	{"GET /console/stations", access.ReadStations, "stations", (*console).stations},

	{"GET /console/approvals", access.ReadApprovals, "approvals", (*console).approvals},
	{"GET /console/approvals/{approval}", access.ReadApprovals, "approvals", (*console).approval},

	{"GET /console/registered-cas", access.ReadRegisteredCAs, "cas", (*console).registeredCAs},
	{"GET /console/registered-cas/{ca}", access.ReadRegisteredCAs, "cas", (*console).registeredCA},
	{"GET /console/registered-cas/{ca}/pem", access.ReadRegisteredCAs, "cas", (*console).registeredCAPEM},
	{"GET /console/device-certificates", access.ReadFleetCertificates, "device-certificates", (*console).deviceCertificates},
	{"GET /console/device-certificates/{certificate}", access.ReadFleetCertificates, "device-certificates", (*console).deviceCertificate},
	{"GET /console/device-certificates/{certificate}/pem", access.ReadFleetCertificates, "device-certificates", (*console).deviceCertificatePEM},
	{"GET /console/claims", access.ReadClaims, "claims", (*console).claims},
	{"GET /console/claims/{certificate}", access.ReadClaims, "claims", (*console).claim},

	{"GET /console/things", access.ReadThings, "things", (*console).things},
	{"GET /console/things/{thing}", access.ReadThings, "things", (*console).thing},
	{"GET /console/things/{thing}/timeline", access.ReadTimeline, "things", (*console).timeline},
	{"GET /console/things/{thing}/jobs", access.ReadJobs, "things", (*console).thingJobs},
	{"GET /console/things/{thing}/shadows", access.ReadShadows, "things", (*console).shadows},
	{"GET /console/things/{thing}/shadow", access.ReadShadows, "things", (*console).shadow},
	{"GET /console/groups", access.ReadGroups, "groups", (*console).groups},
	{"GET /console/groups/{group}", access.ReadGroups, "groups", group(web.ThingGroups)},
	{"GET /console/billing-groups/{group}", access.ReadGroups, "groups", group(web.BillingGroups)},
	{"GET /console/thing-types", access.ReadThingTypes, "types", (*console).types},
	{"GET /console/thing-types/{type}", access.ReadThingTypes, "types", (*console).thingType},
	{"GET /console/jobs", access.ReadJobs, "jobs", (*console).jobs},
	{"GET /console/jobs/{job}", access.ReadJobs, "jobs", (*console).job},
	{"GET /console/campaigns", access.ReadCampaigns, "campaigns", (*console).campaigns},
	{"GET /console/campaigns/{campaign}", access.ReadCampaigns, "campaigns", (*console).campaign},
	{"GET /console/firmware", access.ReadFirmware, "firmware", (*console).firmware},
	{"GET /console/firmware/{class}/{version}", access.ReadFirmware, "firmware", (*console).firmwareVersion},
	{"GET /console/expiring", access.ReadCampaigns, "expiring", (*console).expiring},
	{"GET /console/policies", access.ReadPolicies, "policies", (*console).policies},
	{"GET /console/policies/{policy}", access.ReadPolicies, "policies", (*console).policyPage},
	{"GET /console/templates", access.ReadTemplates, "templates", (*console).templates},
	{"GET /console/templates/{template}", access.ReadTemplates, "templates", (*console).template},
	{"GET /console/hooks", access.ReadHooks, "hooks", (*console).hooks},
}

// The policy names every source. No inline script or style, nothing from other
// places, no framing, forms only to us (A55).
const policy = "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self'; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'"

// New makes the handler for /console/.
func New(cfg Config) (http.Handler, error) {
	c := &console{Config: cfg, pages: map[string]*template.Template{}, origin: http.NewCrossOriginProtection()}
	if cfg.Access == nil || cfg.Trail == nil {
		return nil, errors.New("console: an authenticator and a trail are needed")
	}
	if c.Cursors == (web.Cursors{}) {
		c.Cursors = web.NewCursors(nil)
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	c.sessions = &sessions{access: cfg.Access, now: c.Now, byID: map[[32]byte]*session{}}
	rand.Read(c.sessions.key[:])
	names, err := fs.Glob(templateFiles, "templates/*.html")
	if err != nil {
		return nil, err
	}
	for _, file := range names {
		name := strings.TrimSuffix(strings.TrimPrefix(file, "templates/"), ".html")
		if name == "layout" {
			continue
		}
		t, err := template.New("").Funcs(c.funcs()).ParseFS(templateFiles, "templates/layout.html", file)
		if err != nil {
			return nil, err
		}
		c.pages[name] = t
	}
	mux := http.NewServeMux()
	for _, p := range pages {
		if !access.Granted(p.Action) {
			return nil, errors.New("console: nobody may see " + p.Pattern)
		}
		mux.HandleFunc(p.Pattern, func(w http.ResponseWriter, r *http.Request) { c.serve(w, r, &p) })
	}
	for _, a := range acts {
		if !access.Granted(a.Action) {
			return nil, errors.New("console: nobody may do " + a.Pattern)
		}
		mux.HandleFunc(a.Pattern, func(w http.ResponseWriter, r *http.Request) { c.act(w, r, &a) })
	}
	mux.HandleFunc("GET /console/sign-in", c.signInPage)
	mux.HandleFunc("POST /console/sign-in", c.signIn)
	mux.HandleFunc("POST /console/sign-out", c.signOut)
	mux.HandleFunc("GET /console/assets/{file}", c.asset)
	mux.HandleFunc("/console/", func(w http.ResponseWriter, r *http.Request) {
		c.fail(w, r, c.newView(w, r, "", access.Principal{}), web.ErrRoute.New(""))
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Security-Policy", policy)
		mux.ServeHTTP(w, r)
	}), nil
}

// isGone tells that a token is not one any more.
func isGone(err error) bool { return errors.Is(err, access.ErrToken) }

// view is what a template gets.
type view struct {
	Title   string
	Section string
	Who     access.Principal
	Version string
	Parts   []link // of the navigation
	Part    string // the one shown
	Nav     []link // its pages
	Form    string // the token of forms that change something
	Data    any

	r      *http.Request
	w      http.ResponseWriter
	scope  access.Scope
	status int
}

func (c *console) newView(w http.ResponseWriter, r *http.Request, section string, who access.Principal) *view {
	v := &view{Section: section, Who: who, Version: c.Version, r: r, w: w, scope: access.Scope{Tenant: who.Tenant}, status: http.StatusOK}
	v.navigate()
	return v
}

// enter finds out who asks; whoever is not signed in does that first, and comes back
// to a page.
func (c *console) enter(w http.ResponseWriter, r *http.Request, pattern, section, back string) (v *view, ok bool) {
	web.SetRoute(r.Context(), pattern)
	who, ok, err := c.sessions.find(r.Context(), r)
	v = c.newView(w, r, section, who)
	if err != nil {
		c.fail(w, r, v, err)
		return nil, false
	}
	if !ok {
		target := "/console/sign-in"
		if back != "/console/" {
			target += "?" + url.Values{"to": {back}}.Encode()
		}
		http.Redirect(w, r, target, http.StatusSeeOther)
		return nil, false
	}
	web.SetActor(r.Context(), who.Actor().String())
	v.Form = c.sessions.form(r)
	return v, true
}

// serve is the way to every page: who, may they, look, show.
func (c *console) serve(w http.ResponseWriter, r *http.Request, p *page) {
	v, ok := c.enter(w, r, p.Pattern, p.Section, r.URL.RequestURI())
	if !ok {
		return
	}
	who := v.Who
	if err := access.Require(who.Actor(), p.Action); err != nil {
		c.fail(w, r, v, err)
		return
	}
	v.r = r.WithContext(access.WithActor(r.Context(), who.Actor()))
	name, err := p.show(c, v)
	switch {
	case err != nil:
		c.fail(w, r, v, err)
	case name != "":
		c.render(w, r, v, name)
	}
}

// render makes the whole page before it sends the first octet, so that an error
// is a page of its own and not half of one.
func (c *console) render(w http.ResponseWriter, r *http.Request, v *view, name string) {
	var b bytes.Buffer
	if err := c.pages[name].ExecuteTemplate(&b, "layout", v); err != nil {
		web.Fail(w, r, err)
		return
	}
	h := w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(v.status)
	w.Write(b.Bytes())
}

// fail shows a fault as a page. What has no code is logged by the edge and
// shows its request id.
func (c *console) fail(w http.ResponseWriter, r *http.Request, v *view, err error) {
	f := fault.From(err)
	v.status, v.Title = web.Status(f), "Problem"
	if f.Kind == fault.Internal || f.Kind == fault.Unavailable {
		c.Log.ErrorContext(r.Context(), "page failed", "request_id", web.RequestID(r.Context()), "code", f.Code, "error", f.Error())
	}
	detail := f.Detail
	if f.Kind == fault.Internal {
		detail = ""
	}
	v.Data = map[string]any{"What": f.What, "Detail": detail, "Next": f.Next, "Code": f.Code, "RequestID": web.RequestID(r.Context())}
	c.render(w, r, v, "problem")
}

// safeTarget is where to go after signing in: one of our own pages, else the
// first one. A browser reads //host and /\host as other hosts.
func safeTarget(to string) string {
	u, err := url.Parse(to)
	if err != nil || u.IsAbs() || u.Host != "" || !strings.HasPrefix(to, "/console/") || strings.ContainsAny(to, "\\\r\n") {
		return "/console/"
	}
	return to
}

func (c *console) signInPage(w http.ResponseWriter, r *http.Request) {
	web.SetRoute(r.Context(), r.Pattern)
	if _, ok, _ := c.sessions.find(r.Context(), r); ok {
		http.Redirect(w, r, "/console/", http.StatusSeeOther)
		return
	}
	v := c.newView(w, r, "", access.Principal{})
	v.Title, v.Data = "Sign in", map[string]any{"To": safeTarget(r.URL.Query().Get("to")), "Problem": "", "Next": ""}
	c.render(w, r, v, "sign-in")
}

func (c *console) signIn(w http.ResponseWriter, r *http.Request) {
	web.SetRoute(r.Context(), r.Pattern)
	v := c.newView(w, r, "", access.Principal{})
	if err := c.origin.Check(r); err != nil {
		c.fail(w, r, v, web.ErrCrossOrigin.Wrap(err, ""))
		return
	}
	r.Body = http.MaxBytesReader(w, r.Body, 4096)
	if err := r.ParseForm(); err != nil {
		c.fail(w, r, v, web.ErrBody.Wrap(err, ""))
		return
	}
	to := safeTarget(r.PostForm.Get("to"))
	p, err := c.Access.Authenticate(r.Context(), strings.TrimSpace(r.PostForm.Get("token")), web.RemoteAddr(r))
	if err != nil {
		f := fault.From(err)
		if f.Kind == fault.Internal || f.Kind == fault.Unavailable {
			c.fail(w, r, v, err)
			return
		}
		v.status, v.Title, v.Data = web.Status(f), "Sign in", map[string]any{"To": to, "Problem": f.What, "Next": f.Next}
		c.render(w, r, v, "sign-in")
		return
	}
	c.sessions.end(r)
	c.sessions.start(w, p)
	c.Log.InfoContext(r.Context(), "signed in", "actor", p.Actor().String(), "remote", r.RemoteAddr)
	http.Redirect(w, r, to, http.StatusSeeOther)
}

func (c *console) signOut(w http.ResponseWriter, r *http.Request) {
	web.SetRoute(r.Context(), r.Pattern)
	if err := c.origin.Check(r); err != nil {
		c.fail(w, r, c.newView(w, r, "", access.Principal{}), web.ErrCrossOrigin.Wrap(err, ""))
		return
	}
	c.sessions.end(r)
	http.SetCookie(w, &http.Cookie{Name: cookieName, Path: "/", Secure: true, HttpOnly: true, SameSite: http.SameSiteStrictMode, MaxAge: -1})
	http.Redirect(w, r, "/console/sign-in", http.StatusSeeOther)
}

// types of the assets: given, never guessed from what the machine knows.
var types = map[string]string{".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml"}

func (c *console) asset(w http.ResponseWriter, r *http.Request) {
	web.SetRoute(r.Context(), r.Pattern)
	name := r.PathValue("file")
	b, err := assetFiles.ReadFile("assets/" + name)
	if err != nil {
		web.Fail(w, r, web.ErrRoute.New(""))
		return
	}
	w.Header().Set("Content-Type", types[name[strings.LastIndexByte(name, '.'):]])
	w.Header().Set("Cache-Control", "public, max-age=300")
	w.Write(b)
}
