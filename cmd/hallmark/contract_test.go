package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"

	"hallmark/api"
)

// The ninth of the ten ways: while tests run, every door of the service is
// watched. What it accepts and what it answers is held to api/openapi.yaml by a
// library that shares no code with the service. TestMain sets the watch, so the
// processes that tests start are watched too.

// brokenMark begins a line on the standard error of a process whose service
// left the contract.
const brokenMark = "CONTRACT BROKEN: "

// contractWatch holds requests and answers to the document.
type contractWatch struct {
	doc    *openapi3.T
	routes []watchedRoute
	report func(string)
}

type watchedRoute struct {
	path string
	re   *regexp.Regexp
	item *openapi3.PathItem
}

var pathParam = regexp.MustCompile(`\\\{([a-z]+)\\\}`)

func newContractWatch(report func(string)) (*contractWatch, error) {
	doc, err := openapi3.NewLoader().LoadFromData(api.OpenAPI)
	if err != nil {
		return nil, err
	}
	if err := doc.Validate(context.Background()); err != nil {
		return nil, err
	}
	doc.Servers = nil
	w := &contractWatch{doc: doc, report: report}
	for path, item := range doc.Paths.Map() {
		one := "(?P<$1>[^/]+)"
		if path == "/topics/{topic}" { // its slashes are seen decoded
			one = "(?P<$1>.+)"
		}
		re, err := regexp.Compile("^" + pathParam.ReplaceAllString(regexp.QuoteMeta(path), one) + "$")
		if err != nil {
			return nil, err
		}
		w.routes = append(w.routes, watchedRoute{path, re, item})
	}
	return w, nil
}

// documented are the beginnings of paths that the document describes; pages for
// people and what is public by a standard are not in it.
var documented = []string{"/api/", "/factory/", "/bootstrap/", "/enrol/", "/provisioning/", "/topics/", "/things/"}

// find gives the operation of a request; documented tells whether there has to be one.
func (c *contractWatch) find(r *http.Request) (route *routers.Route, params map[string]string, must bool) {
	path := r.URL.Path // an encoded letter is the same path (A63)
	must = slices.ContainsFunc(documented, func(p string) bool { return strings.HasPrefix(r.URL.Path, p) })
	for _, w := range c.routes {
		m := w.re.FindStringSubmatch(path)
		op := w.item.GetOperation(r.Method)
		if m == nil || op == nil {
			continue
		}
		params = map[string]string{}
		for i, name := range w.re.SubexpNames()[1:] {
			params[name] = m[i+1]
		}
		return &routers.Route{Spec: c.doc, Path: w.path, PathItem: w.item, Method: r.Method, Operation: op}, params, must
	}
	return nil, nil, must
}

// maxWatched bounds what is kept of a body; larger ones are refused anyway.
const maxWatched = 4 << 20

func (c *contractWatch) wrap(door string, h http.Handler) http.Handler {
	if door == "public" || door == "metrics" {
		return h
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked := &keptBody{ReadCloser: r.Body}
		r.Body = asked
		q := r.Clone(r.Context())
		q.Body = nil
		k := &keptAnswer{ResponseWriter: w, status: http.StatusOK}
		h.ServeHTTP(k, r)
		if err := c.check(q, asked.kept.Bytes(), k); err != nil {
			c.report(fmt.Sprintf("the %s door, %s %s, answer %d: %v", door, q.Method, q.URL.Path, k.status, err))
		}
	})
}

// check says how an exchange leaves the contract, nil if it does not.
func (c *contractWatch) check(q *http.Request, asked []byte, k *keptAnswer) error {
	route, params, must := c.find(q)
	if route == nil {
		if must && (k.status < 400 || k.status >= 500) {
			return fmt.Errorf("no operation is documented")
		}
		return nil
	}
	ctx := context.Background()
	in := &openapi3filter.RequestValidationInput{Request: q, PathParams: params, Route: route,
		Options: &openapi3filter.Options{AuthenticationFunc: openapi3filter.NoopAuthenticationFunc, ExcludeRequestBody: !jsonBody(route), MultiError: true}}
	if k.status < 300 { // what is accepted must be in the contract
		q.Body = io.NopCloser(bytes.NewReader(asked))
		if err := openapi3filter.ValidateRequest(ctx, in); err != nil {
			return fmt.Errorf("it accepts what the document forbids: %w", err)
		}
	}
	if k.kept.Len() >= maxWatched {
		return nil
	}
	media := k.Header().Get("Content-Type")
	if k.status >= 400 && !strings.HasPrefix(media, "application/problem+json") && q.Method != http.MethodHead {
		return fmt.Errorf("an error of the type %q", media)
	}
	out := &openapi3filter.ResponseValidationInput{RequestValidationInput: in, Status: k.status, Header: k.Header(),
		Options: &openapi3filter.Options{IncludeResponseStatus: true, ExcludeResponseBody: !strings.Contains(media, "json"), MultiError: true}}
	out.SetBodyBytes(k.kept.Bytes())
	if err := openapi3filter.ValidateResponse(ctx, out); err != nil {
		return fmt.Errorf("it answers outside the document: %w: %.300s", err, k.kept.Bytes())
	}
	return nil
}

func jsonBody(r *routers.Route) bool {
	b := r.Operation.RequestBody
	return b != nil && b.Value.Content["application/json"] != nil
}

// keptBody keeps what the handler read.
type keptBody struct {
	io.ReadCloser
	kept bytes.Buffer
}

func (b *keptBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if b.kept.Len() < maxWatched {
		b.kept.Write(p[:n])
	}
	return n, err
}

// keptAnswer keeps what the handler answered.
type keptAnswer struct {
	http.ResponseWriter
	status int
	wrote  bool
	kept   bytes.Buffer
}

func (k *keptAnswer) WriteHeader(status int) {
	if !k.wrote && status >= 200 {
		k.status, k.wrote = status, true
	}
	k.ResponseWriter.WriteHeader(status)
}

func (k *keptAnswer) Write(p []byte) (int, error) {
	k.wrote = true
	if k.kept.Len() < maxWatched {
		k.kept.Write(p)
	}
	return k.ResponseWriter.Write(p)
}

func (k *keptAnswer) Flush()                      { http.NewResponseController(k.ResponseWriter).Flush() }
func (k *keptAnswer) Unwrap() http.ResponseWriter { return k.ResponseWriter }

// broken is what the services of this process did outside the contract.
var broken struct {
	sync.Mutex
	list []string
}

// watchContract sets the watch of this process; called before any service starts.
// The document is read when the first door opens: most processes that tests start
// open none, and reading it with the race detector takes a second.
func watchContract() {
	read := sync.OnceValue(func() *contractWatch {
		c, err := newContractWatch(func(what string) {
			fmt.Fprintln(os.Stderr, brokenMark+what)
			broken.Lock()
			defer broken.Unlock()
			broken.list = append(broken.list, what)
		})
		if err != nil {
			panic(err)
		}
		return c
	})
	watch = func(door string, h http.Handler) http.Handler { return read().wrap(door, h) }
}

// keepsContract fails a test during which a service left the contract.
func keepsContract(t testing.TB) {
	t.Helper()
	broken.Lock()
	defer broken.Unlock()
	for _, what := range broken.list {
		t.Error(brokenMark + what)
	}
	broken.list = nil
}

// TestWays_TheContractIsWatched shows that the watch of the other tests sees:
// each of these services leaves the contract, and is named. That a route outside
// the document fails the build is TestRoutes_AreTheContract of package web.
func TestWays_TheContractIsWatched(t *testing.T) {
	if watch == nil {
		t.Fatal("the services of these tests are not watched")
	}
	problem := `{"type":"/problems/x-y","title":"A.","status":400,"code":"x-y","next":"B.","request_id":"r"}`
	good := `{"name":"ann","tenant":"main","role":"auditor","actions":[]}`
	for _, c := range []struct {
		what, method, path, body string
		status                   int
		media, answer            string
		broken                   string // part of what is said; "" for a good one
	}{
		{"good", "GET", "/api/v1/me", "", 200, "application/json", good, ""},
		{"a refusal", "GET", "/api/v1/me", "", 400, "application/problem+json", problem, ""},
		{"a page for people", "GET", "/orders", "", 200, "text/html", "<p>", ""},
		{"nothing there", "GET", "/api/v1/nothing", "", 404, "application/problem+json", problem, ""},
		{"a hidden route", "GET", "/api/v1/nothing", "", 200, "application/json", good, "no operation"},
		{"a hidden method", "DELETE", "/api/v1/me", "", 204, "", "", "no operation"},
		{"a member too few", "GET", "/api/v1/me", "", 200, "application/json", `{"name":"ann"}`, "outside the document"},
		{"another type", "GET", "/api/v1/me", "", 200, "application/json", strings.Replace(good, `[]`, `"x"`, 1), "outside the document"},
		{"another status", "GET", "/api/v1/me", "", 202, "application/json", good, "outside the document"},
		{"plain text as error", "GET", "/api/v1/me", "", 500, "text/plain", "oops", "an error of the type"},
		{"a problem without code", "GET", "/api/v1/me", "", 400, "application/problem+json", strings.Replace(problem, `"code":"x-y",`, "", 1), "outside the document"},
		{"an unknown member accepted", "POST", "/api/v1/station-codes", `{"station":"a","site":"b","role":"x"}`, 201, "application/json", `{}`, "forbids"},
		{"a limit passed", "GET", "/api/v1/orders?limit=100000", "", 200, "application/json", `{"items":[]}`, "forbids"},
	} {
		var said []string
		w, err := newContractWatch(func(s string) { said = append(said, s) })
		if err != nil {
			t.Fatal(err)
		}
		h := w.wrap("people", http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			rw.Header().Set("Content-Type", c.media)
			rw.WriteHeader(c.status)
			io.WriteString(rw, c.answer)
		}))
		q := httptest.NewRequest(c.method, c.path, strings.NewReader(c.body))
		if c.body != "" {
			q.Header.Set("Content-Type", "application/json")
		}
		h.ServeHTTP(httptest.NewRecorder(), q)
		if c.broken == "" && len(said) != 0 || c.broken != "" && (len(said) != 1 || !strings.Contains(said[0], c.broken)) {
			t.Errorf("%s: the watch says %q", c.what, said)
		}
	}
	// And the watch is on the doors: what a real service is asked passes through it.
	var seen []string
	var mu sync.Mutex
	before := watch
	t.Cleanup(func() { watch = before })
	watch = func(door string, h http.Handler) http.Handler {
		return before(door, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			mu.Lock()
			seen = append(seen, door)
			mu.Unlock()
			h.ServeHTTP(w, r)
		}))
	}
	s := newSite(t, "software", "", anyName(2))
	u := newUnit(t, "W-1")
	s.issue(u)
	device := s.client(nil, 1)
	if r, err := call(t.Context(), device, "GET", "https://"+s.door("device")+"/bootstrap/v1/whoami", nil); err != nil || r.status != http.StatusUnauthorized {
		t.Errorf("the device door: %v %s", err, r)
	}
	for _, door := range []string{"people", "device", "factory", "enrol"} {
		if !slices.Contains(seen, door) {
			t.Errorf("the %s door is not watched", door)
		}
	}
}
