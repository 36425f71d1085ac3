package web_test

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"hallmark/access"
	"hallmark/api"
	"hallmark/web"
	"hallmark/web/webtest"
)

type door struct {
	*webtest.Service
	handler http.Handler
	log     *bytes.Buffer
}

func newDoor(t *testing.T) *door {
	t.Helper()
	d := &door{Service: webtest.New(t, nil), log: &bytes.Buffer{}}
	d.Fake.Fill(t)
	var err error
	d.handler, err = web.NewPeople(web.PeopleConfig{Backend: d.Backend(), Access: d.Access, Trail: d.Fake, Cursors: web.NewCursors(nil), Log: slog.New(slog.NewJSONHandler(d.log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// ask sends one request as a role of a tenant; role "" sends no token.
func (d *door) ask(t *testing.T, tenant string, role access.Role, method, path, body string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	if role != "" {
		r.Header.Set("Authorization", "Bearer "+d.Tokens[tenant][role])
	}
	w := httptest.NewRecorder()
	d.handler.ServeHTTP(w, r)
	return w
}

// problem checks the form of every error (RFC 9457, Section 3.1) and gives its code.
func problem(t *testing.T, w *httptest.ResponseRecorder) string {
	t.Helper()
	var p struct {
		Type, Title, Code, Next string
		Status                  int
		RequestID               string `json:"request_id"`
	}
	if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
		t.Fatalf("not a problem: %s", w.Body)
	}
	if ct := w.Header().Get("Content-Type"); ct != "application/problem+json" || !strings.HasSuffix(p.Type, "/"+p.Code) || p.Title == "" || p.Next == "" || p.Status != w.Code || p.RequestID == "" || p.RequestID != w.Header().Get("X-Request-Id") {
		t.Errorf("problem %s %+v", ct, p)
	}
	return p.Code
}

// example fills a route's path and gives a body that its operation takes.
func example(pattern, id string) (path, body string) {
	path = strings.NewReplacer("{name}", "a-auditor", "{authority}", "devices-1", "{order}", webtest.OpenOrder, "{station}", webtest.Station,
		"{serial}", webtest.Serial(1), "{device}", webtest.Unit, "{thing}", webtest.Unit, "{template}", "lamp", "{job}", webtest.Job, "{campaign}", webtest.Campaign, "{rollover}", webtest.Rollover, "{act}", webtest.Act, "{unit}", webtest.Unit, "{hook}", "erp", "{key}", webtest.AcmeKey,
		"{digest}", strings.Repeat("ab", 32), "{class}/{version}", "lamp/1.4.0").Replace(pattern)
	body = map[string]string{
		"createPrincipal":      `{"name":"new-one","role":"auditor"}`,
		"createAuthority":      `{"name":"devices-9","duty":"device","key_uri":"pkcs11:token=t;object=o","common_name":"Devices 9"}`,
		"installAuthority":     `{"certificate":"PEM","root":"example-root"}`,
		"putRootList":          `{"list":"PEM"}`,
		"createRoot":           `{"name":"root-9","certificate":"PEM"}`,
		"createOrder":          `{"id":"PO-9","product":"lamp","quantity":5,"serials":{"prefix":"L","first":1,"last":5,"width":3},"key_origin":"claimed"}`,
		"approveOrder":         `{"payloadType":"application/vnd.hallmark.order+json","payload":"e30=","signatures":[{"keyid":"ab","sig":"AA=="}]}`,
		"createEnrolPassword":  `{"unit":"LMP-9","profile":"ldevid"}`,
		"addCross":             `{"name":"old-by-new","certificate":"PEM"}`,
		"createAcmeKey":        `{"profile":"ldevid","names":["LMP-9"]}`,
		"createStationCode":    `{"station":"st-9","site":"here"}`,
		"revokeStation":        `{"note":"stolen"}`,
		"revokeCertificate":    `{"reason":"superseded"}`,
		"revokeDevice":         `{"reason":"privilegeWithdrawn"}`,
		"putTemplate":          `{"body":"{}"}`,
		"putHook":              `{"url":"https://erp.example/hook"}`,
		"createJob":            `{"id":"update-9","targets":["thing/LMP-000001"],"document":"{}","parameters":{"v":"1"},"rollout":{"base_per_minute":5,"factor":1.5,"per_succeeded":10},"abort":[{"failure":"ALL","percent":12.5,"min_executed":4}]}`,
		"cancelJob":            `{"force":true}`,
		"createCampaign":       `{"id":"rotate-9","kind":"rotate-certificate","targets":["thing/LMP-000001"],"stages":[{"name":"ten","percent":10,"watch_seconds":60}],"abort":[{"failure":"SILENT","percent":1.5,"min_executed":10}],"parameters":"{\"algorithm\":\"P-256\"}"}`,
		"planCampaign":         `{"campaign":{"id":"rotate-9","kind":"rotate-certificate","targets":["thing/LMP-000001"]},"named":5}`,
		"pauseCampaign":        `{}`,
		"resumeCampaign":       `{}`,
		"cancelCampaign":       `{"comment":"no"}`,
		"rollbackCampaign":     `{}`,
		"askCampaign":          `{}`,
		"planTrustRollover":    `{"name":"roots-9","from":"root-1","to":"root-2","targets":["thinggroup/eu"],"gates":{"added":97.5}}`,
		"advanceTrustRollover": `{}`,
		"retryTrustRollover":   `{}`,
		"cancelTrustRollover":  `{"comment":"no"}`,
		"uploadFirmware":       `{"size":3,"offset":0,"octets":"AAAA"}`,
		"publishFirmware":      `{"manifest":"0oA="}`,
		"addJobTargets":        `{"targets":["thinggroup/eu"]}`,
		"cancelJobExecution":   `{}`,
		"updateShadow":         `{"desired":{"lamp":"on"},"version":3}`,
		"putRegistration":      `{"template":"lamp","enabled":true}`,
		"releaseUnits":         `{"name":"sale-1","units":["LMP-000001"],"to":"acme"}`,
		"resetUnits":           `{"name":"back-1","units":["LMP-000001"]}`,
		"decommissionUnits":    `{"name":"end-1","units":["LMP-000001"]}`,
		"acceptUnits":          `{"code":"AAAA-BBBB","template":"lamp","groups":["eu"]}`,
		"withdrawRelease":      `{"comment":"no"}`,
	}[id]
	if body == "" {
		path, body = thingsExample(path, id)
	}
	if body == "" {
		path, body = registrationExample(path, id)
	}
	if body == "" {
		path, body = plansExample(path, id)
	}
	if body == "" {
		path, body = revocationExample(path, id)
	}
	return path, body
}

// document is the part of the contract that tests compare with.
func document(t *testing.T) (ids map[string]string) {
	t.Helper()
	var doc struct {
		Paths map[string]map[string]struct {
			ID   string   `yaml:"operationId"`
			Tags []string `yaml:"tags"`
		} `yaml:"paths"`
	}
	if err := yaml.Unmarshal(api.OpenAPI, &doc); err != nil {
		t.Fatal(err)
	}
	ids = map[string]string{}
	for path, methods := range doc.Paths {
		for method, op := range methods {
			if op.Tags[0] == "admin" {
				ids[strings.ToUpper(method)+" "+path] = op.ID
			}
		}
	}
	return ids
}

// Clarification, shortcut 9: no route outside the document, no operation without a route.
func TestRoutes_AreTheContract(t *testing.T) {
	ids := document(t)
	have := map[string]bool{}
	for _, r := range web.Routes() {
		key := r.Method + " " + r.Pattern
		if ids[key] == "" {
			t.Errorf("%s is not in the document", key)
		}
		if have[key] {
			t.Errorf("%s is in the table twice", key)
		}
		have[key] = true
		if !access.Granted(r.Action) {
			t.Errorf("%s has an action without a grant", key)
		}
	}
	for key := range ids {
		if !have[key] {
			t.Errorf("%s has no route", key)
		}
	}
	if len(have) < 35 {
		t.Errorf("only %d routes", len(have))
	}
}

// A65: every route × every role × another tenant's objects.
func TestA65_RouteByRoleByTenant(t *testing.T) {
	ids := document(t)
	for _, r := range web.Routes() {
		path, body := example(r.Pattern, ids[r.Method+" "+r.Pattern])
		t.Run(r.Method+" "+r.Pattern, func(t *testing.T) {
			if r.Action == access.OpenBreakGlass {
				return // S42: for when nobody has a token; who has not the key is refused
			}
			d := newDoor(t)
			if w := d.ask(t, "", "", r.Method, path, body); w.Code != 401 || problem(t, w) != "token-missing" {
				t.Errorf("without a token: %d", w.Code)
			}
			for _, role := range access.Roles() {
				if strings.HasSuffix(r.Pattern, "/disable") {
					d = newDoor(t) // the one before disabled it
				}
				may := access.Can(access.Actor{Tenant: "main", Kind: access.KindPrincipal, Name: "x", Role: role}, r.Action)
				calls := len(d.Fake.Calls)
				w := d.ask(t, webtest.Tenant, role, r.Method, path, body)
				switch {
				case may && w.Code >= 300 && r.Pattern != "/api/v1/principals":
					t.Errorf("%s may and gets %d: %s", role, w.Code, w.Body)
				case !may && (w.Code != 403 || problem(t, w) != "action-forbidden" || len(d.Fake.Calls) != calls):
					t.Errorf("%s may not and gets %d: %s", role, w.Code, w.Body)
				case may:
					web.CheckAnswer(t, r, w.Code, w.Body.Bytes())
				}
				// Another tenant's people see nothing of it, and are told what
				// they are told about what does not exist.
				if may && strings.Contains(path, "{") == false && path != r.Pattern && !strings.Contains(r.Pattern, "{name}") && !strings.Contains(r.Pattern, "{hook}") && !strings.Contains(r.Pattern, "{kind}") && !strings.Contains(r.Pattern, "{digest}") && r.Method+r.Pattern != "PUT/api/v1/templates/{template}" {
					w := d.ask(t, webtest.Other, role, r.Method, path, body)
					if w.Code != 404 {
						t.Errorf("%s of another tenant gets %d: %s", role, w.Code, w.Body)
					}
				}
				if may && path == r.Pattern && r.Method == "GET" {
					w := d.ask(t, webtest.Other, role, r.Method, path, body)
					for _, secret := range []string{webtest.OpenOrder, webtest.Unit, webtest.Station, "devices-1", webtest.Serial(1), webtest.AcmeKey} {
						if strings.Contains(w.Body.String(), secret) {
							t.Errorf("%s of another tenant sees %s", role, secret)
						}
					}
				}
			}
		})
	}
}

// A63: one spelling a path.
func TestA63_OtherSpellingsAreNothing(t *testing.T) {
	d := newDoor(t)
	for _, path := range []string{
		"//api/v1/orders", "/api//v1/orders", "/api/./v1/orders", "/api/v1/../v1/orders", "/api/v1/%2e/orders", "/api/%2E%2E/api/v1/orders", "/api/v1%2Forders", "/api/v1%2forders",
		"/API/v1/orders", "/api/v1/Orders", "/api/v1/orders.", "/api/v1/orders%2e", "/api/v1/orders/", "/api/v1/orders%00", "/api/v1/orders;x=1", "/api/v1/orders%20", `/api/v1\orders`, "/api/v1/orders%3b", "/api/v1/%6frders%5c", "/api/v1/orders/%252e",
	} {
		r, err := http.NewRequest("GET", "http://h"+strings.ReplaceAll(path, `\`, "%5C"), nil)
		if err != nil {
			t.Fatal(path, err)
		}
		r.Header.Set("Authorization", "Bearer "+d.Tokens[webtest.Tenant][access.SecurityOfficer])
		w := httptest.NewRecorder()
		d.handler.ServeHTTP(w, r)
		if w.Code != 404 {
			t.Errorf("%s gives %d", path, w.Code)
		}
	}
	if w := d.ask(t, webtest.Tenant, access.SecurityOfficer, "GET", "/api/v1/%6frders", ""); w.Code != 200 { // an encoded letter is the same path and the same decision
		t.Errorf("an encoded letter gives %d", w.Code)
	}
	if w := d.ask(t, webtest.Tenant, access.SecurityOfficer, "DELETE", "/api/v1/orders", ""); w.Code != 405 || problem(t, w) != "method-not-allowed" || w.Header().Get("Allow") == "" {
		t.Errorf("another method gives %d, Allow %q", w.Code, w.Header().Get("Allow"))
	}
}

// A62: headers do not say who is asking, or from where.
func TestA62_ForwardingHeadersAreIgnored(t *testing.T) {
	d := newDoor(t)
	var seen http.Header
	h := web.Edge{Door: "x"}.Wrap(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { seen = r.Header }))
	r := httptest.NewRequest("GET", "/", nil)
	for _, name := range []string{"X-Forwarded-For", "x-forwarded-host", "X_Forwarded_Proto", "X-SSL-Client-Cert", "X-Ssl-Client-Verify", "Forwarded", "X-Real-IP", "X-Client-Cert", "Client-Cert", "SSL_CLIENT_CERT", "X-Original-URL", "X-Rewrite-URL", "X-HTTP-Method-Override"} {
		r.Header[name] = []string{"a", "b"}
	}
	r.Header.Set("Accept", "yes")
	h.ServeHTTP(httptest.NewRecorder(), r)
	if len(seen) != 1 || seen.Get("Accept") != "yes" {
		t.Errorf("the handler sees %v", seen)
	}
	// The limit of wrong tokens counts the connection's address whatever is claimed.
	for i := range 12 {
		r := httptest.NewRequest("GET", "/api/v1/me", nil)
		r.Header.Set("Authorization", "Bearer "+access.NewToken().Reveal())
		r.Header.Set("X-Forwarded-For", "198.51.100."+string(rune('0'+i%10)))
		w := httptest.NewRecorder()
		d.handler.ServeHTTP(w, r)
		if want := map[bool]int{true: 401, false: 429}[i < 10]; w.Code != want {
			t.Errorf("try %d gives %d", i, w.Code)
		}
		if w.Code == 429 && w.Header().Get("Retry-After") == "" {
			t.Error("429 without Retry-After")
		}
	}
	if w := d.ask(t, webtest.Tenant, access.Auditor, "GET", "/api/v1/me", ""); w.Code != 200 {
		t.Errorf("a right token from that address gives %d", w.Code)
	}
}

// A66: cursors that were altered, and filters that are not in the contract.
func TestA66_Cursors(t *testing.T) {
	d := newDoor(t)
	ask := func(path string) *httptest.ResponseRecorder {
		return d.ask(t, webtest.Tenant, access.SecurityOfficer, "GET", path, "")
	}
	var page struct {
		Items []map[string]any
		Next  string
	}
	w := ask("/api/v1/orders/" + webtest.OpenOrder + "/units?limit=7")
	if err := json.Unmarshal(w.Body.Bytes(), &page); err != nil || len(page.Items) != 7 || page.Next == "" {
		t.Fatalf("%s", w.Body)
	}
	first := page.Next
	seen := 7
	for page.Next != "" {
		w = ask("/api/v1/orders/" + webtest.OpenOrder + "/units?limit=20&cursor=" + page.Next)
		page.Next = ""
		if err := json.Unmarshal(w.Body.Bytes(), &page); err != nil {
			t.Fatal(err)
		}
		seen += len(page.Items)
	}
	if seen != 60 {
		t.Errorf("%d units over all pages", seen)
	}
	raw, _ := base64.RawURLEncoding.DecodeString(first)
	for i := range raw {
		bad := bytes.Clone(raw)
		bad[i] ^= 1
		if w := ask("/api/v1/orders/" + webtest.OpenOrder + "/units?cursor=" + base64.RawURLEncoding.EncodeToString(bad)); w.Code != 400 || problem(t, w) != "cursor-invalid" {
			t.Errorf("octet %d altered gives %d", i, w.Code)
		}
	}
	for _, path := range []string{
		"/api/v1/orders?cursor=" + first,                                               // of another list
		"/api/v1/certificates?cursor=" + first,                                         //
		"/api/v1/orders/" + webtest.OpenOrder + "/units?cursor=" + first + "=",         // another spelling
		"/api/v1/orders/" + webtest.OpenOrder + "/units?cursor=" + first + "&cursor=x", // twice
		"/api/v1/orders?limit=0", "/api/v1/orders?limit=501", "/api/v1/orders?limit=x", "/api/v1/orders?limit=1;2", "/api/v1/orders?state=none", "/api/v1/orders?sort=id;drop+table+orders", "/api/v1/orders?state=open'+or+1=1",
		"/api/v1/certificates?serial=12", "/api/v1/certificates?holder=" + strings.Repeat("a", 65), "/api/v1/things?value=x", "/api/v1/certificates/zz", "/api/v1/orders?cursor=" + strings.Repeat("A", 1025),
	} {
		if w := ask(path); w.Code != 400 {
			t.Errorf("%s gives %d", path, w.Code)
		}
	}
	// A cursor does not go to another tenant.
	if w := d.ask(t, webtest.Other, access.SecurityOfficer, "GET", "/api/v1/certificates?limit=5&cursor="+first, ""); w.Code != 400 {
		t.Errorf("another tenant's cursor gives %d", w.Code)
	}
}

// A67: bodies that two readers could understand differently, or that cost much.
func TestA67_Bodies(t *testing.T) {
	good := `{"station":"st-9","site":"here"}`
	for name, body := range map[string]string{
		"depth":         strings.Repeat("[", 10_000) + strings.Repeat("]", 10_000),
		"long number":   `{"station":"a","site":` + strings.Repeat("9", 900_000) + `}`,
		"duplicate":     `{"station":"a","site":"b","site":"c"}`,
		"unknown":       `{"station":"a","site":"b","role":"platform"}`,
		"other case":    `{"Station":"a","site":"b"}`,
		"NaN":           `{"station":NaN,"site":"b"}`,
		"BOM":           "\ufeff" + good,
		"two values":    good + good,
		"missing":       `{"station":"a"}`,
		"wrong type":    `{"station":1,"site":"b"}`,
		"null":          `{"station":null,"site":"b"}`,
		"too long":      `{"station":"` + strings.Repeat("a", 65) + `","site":"b"}`,
		"pattern":       `{"station":"a/b","site":"b"}`,
		"empty name":    `{"station":"","site":"b"}`,
		"array":         `[]`,
		"string":        `"x"`,
		"nothing":       ``,
		"invalid UTF-8": "{\"station\":\"a\xff\",\"site\":\"b\"}",
		"too large":     `{"station":"` + strings.Repeat("a", 2<<20) + `"}`,
	} {
		d := newDoor(t)
		start := time.Now()
		w := d.ask(t, webtest.Tenant, access.CMManager, "POST", "/api/v1/station-codes", body)
		if w.Code != 400 || len(d.Fake.Calls) != 0 {
			t.Errorf("%s gives %d: %s", name, w.Code, w.Body)
			continue
		}
		problem(t, w)
		if took := time.Since(start); took > 500*time.Millisecond { // 50 ms alone; tests run beside others
			t.Errorf("%s takes %v", name, took)
		}
	}
	d := newDoor(t)
	r := httptest.NewRequest("POST", "/api/v1/station-codes", strings.NewReader(good))
	r.Header.Set("Content-Type", "text/plain")
	r.Header.Set("Authorization", "Bearer "+d.Tokens[webtest.Tenant][access.CMManager])
	w := httptest.NewRecorder()
	if d.handler.ServeHTTP(w, r); w.Code != 400 {
		t.Errorf("another type gives %d", w.Code)
	}
}

// A57: a panic costs its request and nothing else, and tells nothing.
func TestA57_APanicStaysInItsRequest(t *testing.T) {
	d := newDoor(t)
	d.Fake.Panic = true
	w := d.ask(t, webtest.Tenant, access.Auditor, "GET", "/api/v1/summary", "")
	if w.Code != 500 || problem(t, w) != "internal" || strings.Contains(w.Body.String(), "a bug") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if !strings.Contains(d.log.String(), "a bug") || !strings.Contains(d.log.String(), w.Header().Get("X-Request-Id")) {
		t.Error("the log does not have the panic under the request id")
	}
	if w := d.ask(t, webtest.Tenant, access.Auditor, "GET", "/api/v1/me", ""); w.Code != 200 {
		t.Errorf("afterwards: %d", w.Code)
	}
}

// A55, A26: one line a request, whatever the path holds, and no token in it.
func TestA55_TheAccessLogIsOneLineARequest(t *testing.T) {
	d := newDoor(t)
	r, err := http.NewRequest("GET", "http://h/api/v1/orders/x%0alevel=error%20msg=fake?state=secretquery", nil)
	if err != nil {
		t.Fatal(err)
	}
	token := d.Tokens[webtest.Tenant][access.Auditor]
	r.Header.Set("Authorization", "Bearer "+token)
	d.handler.ServeHTTP(httptest.NewRecorder(), r)
	d.ask(t, webtest.Tenant, access.Auditor, "GET", "/api/v1/me", "")
	lines := strings.Split(strings.TrimSpace(d.log.String()), "\n")
	if len(lines) != 2 {
		t.Errorf("%d lines for two requests: %s", len(lines), d.log)
	}
	for _, l := range lines {
		var m map[string]any
		if err := json.Unmarshal([]byte(l), &m); err != nil || m["request_id"] == nil {
			t.Errorf("line %q", l)
		}
	}
	if strings.Contains(d.log.String(), token[4:]) || strings.Contains(d.log.String(), "secretquery") {
		t.Error("the log has a secret")
	}
	if !strings.Contains(lines[1], `"actor":"principal:a-auditor"`) || !strings.Contains(lines[1], `"action":"me.read"`) || !strings.Contains(lines[1], `"route":"/api/v1/me"`) {
		t.Errorf("line %s", lines[1])
	}
}

func TestProblem_HidesInternalsAndSaysWhenToComeBack(t *testing.T) {
	d := newDoor(t)
	d.Store.Down = errors.New("disk /secret/path is full")
	w := d.ask(t, webtest.Tenant, access.Auditor, "GET", "/api/v1/me", "")
	if w.Code != 500 || strings.Contains(w.Body.String(), "secret") || !strings.Contains(d.log.String(), "/secret/path") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	d.Store.Down = web.ErrNotReady.New("")
	if w = d.ask(t, webtest.Tenant, access.Operator, "GET", "/api/v1/me", ""); w.Code != 503 || w.Header().Get("Retry-After") == "" {
		t.Errorf("%d %v", w.Code, w.Header())
	}
	if w = d.ask(t, "", "", "GET", "/api/v1/me", ""); w.Header().Get("WWW-Authenticate") == "" {
		t.Error("401 without WWW-Authenticate")
	}
}

func TestAuthorization_OneBearerToken(t *testing.T) {
	d := newDoor(t)
	token := d.Tokens[webtest.Tenant][access.Auditor]
	for name, values := range map[string][]string{"none": nil, "twice": {"Bearer " + token, "Bearer " + token}, "basic": {"Basic " + token}, "bare": {token}, "cut": {"Bearer " + token[:40]}, "long": {"Bearer " + token + "A"}, "empty": {"Bearer "}} {
		r := httptest.NewRequest("GET", "/api/v1/me", nil)
		r.Header["Authorization"] = values
		w := httptest.NewRecorder()
		if d.handler.ServeHTTP(w, r); w.Code != 401 {
			t.Errorf("%s gives %d", name, w.Code)
		}
	}
	w := d.ask(t, webtest.Tenant, access.Auditor, "GET", "/api/v1/me", "")
	if w.Code != 200 || !strings.Contains(w.Body.String(), `"role":"auditor"`) || strings.Contains(w.Body.String(), "order.create") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}

func TestPrincipals_LifeOverTheAPI(t *testing.T) {
	d := newDoor(t)
	w := d.ask(t, webtest.Tenant, access.Platform, "POST", "/api/v1/principals", `{"name":"wei","role":"cm-manager","days":30}`)
	var made struct {
		Token     string
		Principal struct{ Name, Role string }
	}
	if err := json.Unmarshal(w.Body.Bytes(), &made); err != nil || w.Code != 201 || !strings.HasPrefix(made.Token, "hmk_") {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	d.Tokens[webtest.Tenant]["wei"] = made.Token
	if w := d.ask(t, webtest.Tenant, "wei", "GET", "/api/v1/orders", ""); w.Code != 200 {
		t.Errorf("the new token gives %d", w.Code)
	}
	if w := d.ask(t, webtest.Tenant, access.Platform, "POST", "/api/v1/principals", `{"name":"wei","role":"platform"}`); w.Code != 409 {
		t.Errorf("the name again gives %d", w.Code)
	}
	if w := d.ask(t, webtest.Tenant, access.Platform, "GET", "/api/v1/principals", ""); strings.Contains(w.Body.String(), made.Token) || !strings.Contains(w.Body.String(), `"wei"`) {
		t.Errorf("list: %s", w.Body)
	}
	if w := d.ask(t, webtest.Other, access.Platform, "POST", "/api/v1/principals/wei/disable", ""); w.Code != 404 {
		t.Errorf("another tenant disables: %d", w.Code)
	}
	if w := d.ask(t, webtest.Tenant, access.Platform, "POST", "/api/v1/principals/wei/disable", ""); w.Code != 200 {
		t.Errorf("disable: %d", w.Code)
	}
	if w := d.ask(t, webtest.Tenant, "wei", "GET", "/api/v1/orders", ""); w.Code != 401 {
		t.Errorf("the disabled token gives %d", w.Code)
	}
}

func TestNewPeople_NeedsEveryPart(t *testing.T) {
	s := webtest.New(t, nil)
	b := s.Backend()
	b.Trust = nil
	if _, err := web.NewPeople(web.PeopleConfig{Backend: b, Access: s.Access, Trail: s.Fake, Cursors: web.NewCursors(nil)}); err == nil || !strings.Contains(err.Error(), "Trust") {
		t.Errorf("error %v", err)
	}
}

func TestPublicHandler(t *testing.T) {
	var got []string
	echo := func(name string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			got = append(got, name+" "+r.URL.EscapedPath())
			io.WriteString(w, name)
		})
	}
	failing := error(nil)
	h := web.PublicHandler(web.PublicConfig{CRL: echo("crl"), OCSP: echo("ocsp"), Certs: echo("ca"), Log: echo("log"), Ready: []web.Check{{Name: "database", Do: func(context.Context) error { return failing }}}})
	for path, want := range map[string]int{
		"/healthz": 200, "/readyz": 200, "/crl/a/0.crl": 200, "/ocsp/a/MEUw//Q%2Fz%3D%3D": 200, "/ca/a.cer": 200, "/log/tile/0/000": 200,
		"/": 404, "/api/v1/orders": 404, "/console/": 404, "/crl//a/0.crl": 404, "/ca/%2e%2e/x": 404, "/nothing": 404,
	} {
		r, err := http.NewRequest("GET", "http://h"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		w := httptest.NewRecorder()
		if h.ServeHTTP(w, r); w.Code != want {
			t.Errorf("%s gives %d, want %d", path, w.Code, want)
		}
	}
	if joined := strings.Join(got, "\n"); !strings.Contains(joined, "ocsp /ocsp/a/MEUw//Q%2Fz%3D%3D") {
		t.Errorf("the responder sees %s", joined)
	}
	failing = web.ErrNotReady.New("the secret detail")
	w := httptest.NewRecorder()
	h.ServeHTTP(w, httptest.NewRequest("GET", "/readyz", nil))
	if w.Code != 503 || w.Header().Get("Retry-After") == "" || strings.Contains(w.Body.String(), "secret") {
		t.Errorf("not ready: %d %s", w.Code, w.Body)
	}
}

// A68: a client that never finishes its header is dropped.
func TestA68_GuardSetsEveryLimit(t *testing.T) {
	var s http.Server
	web.Guard(&s)
	if s.ReadHeaderTimeout == 0 || s.ReadTimeout == 0 || s.WriteTimeout == 0 || s.IdleTimeout == 0 || s.MaxHeaderBytes == 0 {
		t.Errorf("%+v", &s)
	}
	s.Handler, s.ReadHeaderTimeout = newDoor(t).handler, 50*time.Millisecond
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go s.Serve(l)
	defer s.Close()
	c, err := net.Dial("tcp", l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, "GET / HT")
	c.SetReadDeadline(time.Now().Add(5 * time.Second))
	if _, err := io.ReadAll(c); err != nil {
		t.Errorf("the connection stays open: %v", err)
	}
}
