package web_test

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/web"
	"hallmark/web/webtest"
)

// A75, G3: every route that changes something leaves an entry, whoever asks and
// however it ends; one that looks leaves none.
func TestA75_EveryChangeLeavesAnEntry(t *testing.T) {
	ids := document(t)
	for _, r := range web.Routes() {
		if r.Action == access.OpenBreakGlass {
			continue // by who has no token; its own tests look at its entries
		}
		path, body := example(r.Pattern, ids[r.Method+" "+r.Pattern])
		t.Run(r.Method+" "+r.Pattern, func(t *testing.T) {
			d := newDoor(t)
			for _, role := range []access.Role{access.SecurityOfficer, access.Platform, access.Operator} {
				before := len(d.Fake.Entries())
				w := d.ask(t, webtest.Tenant, role, r.Method, path, body)
				fresh := d.Fake.Entries()[before:]
				if !access.ChangesState(r.Action) {
					if len(fresh) != 0 {
						t.Errorf("looking leaves %+v", fresh)
					}
					continue
				}
				if len(fresh) == 0 {
					t.Fatalf("as %s: %d and no entry", role, w.Code)
				}
				e := fresh[len(fresh)-1]
				if e.Tenant != webtest.Tenant || !strings.HasPrefix(e.Actor, "principal:") || e.Role != role || len(e.Token) != 12 || e.Action != r.Action || e.On != r.Method+" "+path || e.Request != w.Header().Get("X-Request-Id") || e.From != "192.0.2.1" {
					t.Errorf("as %s: %+v", role, e)
				}
				sum := sha256.Sum256([]byte(body))
				switch {
				case w.Code < 300 && (e.Outcome != access.TrailDone || e.Code != "" || body != "" && e.Body != hex.EncodeToString(sum[:])):
					t.Errorf("as %s, done: %+v", role, e)
				case w.Code >= 300 && (e.Outcome != access.TrailRefused && e.Outcome != access.TrailFailed || e.Code != problem(t, w)):
					t.Errorf("as %s, refused: %+v", role, e)
				}
			}
		})
	}
}

// A75: without a trail nothing is done whose effect no transaction holds, and nothing
// is answered as done.
func TestA75_NoTrailNoAction(t *testing.T) {
	d := newDoor(t)
	d.Fake.NoTrail = errors.New("disk full")
	for _, r := range []struct{ method, pattern, id string }{{"POST", "/api/v1/roots", "createRoot"}, {"POST", "/api/v1/authorities", "createAuthority"}} {
		path, body := example(r.pattern, r.id)
		calls := len(d.Fake.Calls)
		if w := d.ask(t, webtest.Tenant, access.SecurityOfficer, r.method, path, body); w.Code != 503 || problem(t, w) != "trail-unavailable" || len(d.Fake.Calls) != calls {
			t.Errorf("%s: %d %s, %v", r.id, w.Code, w.Body, d.Fake.Calls[calls:])
		}
	}
	path, body := example("/api/v1/station-codes", "createStationCode")
	if w := d.ask(t, webtest.Tenant, access.SecurityOfficer, "POST", path, body); w.Code != 503 || problem(t, w) != "trail-unavailable" {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	if w := d.ask(t, webtest.Tenant, access.SecurityOfficer, "GET", "/api/v1/orders", ""); w.Code != 200 {
		t.Errorf("looking: %d", w.Code)
	}
}

// broken is a backend with a bug.
type broken struct{ web.Trust }

func (broken) RevokeCertificate(context.Context, access.Actor, string, adminapi.RevokeRequest) (adminapi.Revocation, error) {
	panic("a bug")
}

// A75: a handler that panics is answered 500, and who asked for what is in the trail.
func TestA75_APanicLeavesAnEntry(t *testing.T) {
	d := newDoor(t)
	b := d.Backend()
	b.Trust = broken{b.Trust}
	people, err := web.NewPeople(web.PeopleConfig{Backend: b, Access: d.Access, Trail: d.Fake, Cursors: web.NewCursors(nil)})
	if err != nil {
		t.Fatal(err)
	}
	d.handler = web.Edge{Door: "people"}.Wrap(people)
	path, body := example("/api/v1/certificates/{serial}/revoke", "revokeCertificate")
	if w := d.ask(t, webtest.Tenant, access.SecurityOfficer, "POST", path, body); w.Code != 500 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	all := d.Fake.Entries()
	if len(all) != 1 || all[0].Action != access.RevokeCertificate || all[0].Outcome != access.TrailFailed || all[0].Code != "internal" || all[0].Role != access.SecurityOfficer {
		t.Errorf("%+v", all)
	}
}

// The trail holds names out of a body, and never the body.
func TestTrail_NamesButNoContent(t *testing.T) {
	d := newDoor(t)
	if w := d.ask(t, webtest.Tenant, access.Platform, "POST", "/api/v1/principals", `{"name":"new-one","role":"auditor"}`); w.Code != 201 {
		t.Fatal(w.Body)
	}
	e := d.Fake.Entries()[0]
	if len(e.About) != 2 || e.About["name"] != "new-one" || e.About["role"] != "auditor" {
		t.Errorf("%+v", e.About)
	}
	path, body := example("/api/v1/roots", "createRoot")
	d.ask(t, webtest.Tenant, access.Platform, "POST", path, body)
	all := d.Fake.Entries()
	if e := all[len(all)-1]; e.About["name"] != "root-9" || e.About["certificate"] != "" {
		t.Errorf("%+v", e.About)
	}
	for _, token := range d.Tokens[webtest.Tenant] {
		for _, e := range all {
			if strings.Contains(e.Token, token[4:12]) {
				t.Error("it shows a token")
			}
		}
	}
}

// foreignTokens are what other services would take, and what their mistakes were made
// of: a genuine one in other clothes is none.
func foreignTokens(genuine string) map[string]string {
	part := func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) }
	claims := part(`{"iss":"https://id.example.com","sub":"ann","aud":"hallmark","role":"platform","exp":4102444800}`)
	public := []byte("-----BEGIN PUBLIC KEY-----\nMFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE\n-----END PUBLIC KEY-----\n")
	mac := func(head string) string {
		h := hmac.New(sha256.New, public)
		h.Write([]byte(part(head) + "." + claims))
		return part(head) + "." + claims + "." + base64.RawURLEncoding.EncodeToString(h.Sum(nil))
	}
	return map[string]string{
		"alg none":                    part(`{"alg":"none","typ":"JWT"}`) + "." + claims + ".",
		"HS256 with a public key":     mac(`{"alg":"HS256","typ":"JWT"}`),
		"a kid that is a path":        mac(`{"alg":"HS256","kid":"../../../../dev/null"}`),
		"a key of its own":            mac(`{"alg":"HS256","jku":"https://evil.example/keys","jwk":{"kty":"oct","k":"AA"}}`),
		"an ACME account's key":       base64.RawURLEncoding.EncodeToString(public[:32]),
		"a binding of ACME":           mac(`{"alg":"HS256","kid":"a2b3c4d5e6f7g8h9","url":"https://localhost:9445/acme/new-account"}`),
		"truncated":                   genuine[:len(genuine)-1],
		"a token of another service":  "ghp_" + genuine[4:44],
		"ours with more":              genuine + "." + claims,
		"ours in a JWT":               part(`{"alg":"none"}`) + "." + part(`{"token":"`+genuine+`"}`) + ".",
		"ours with another last part": genuine[:len(genuine)-1] + map[bool]string{true: "B", false: "A"}[genuine[len(genuine)-1] == 'A'],
	}
}

// A64, as far as there are tokens: what is not one of ours is 401 with a code,
// whatever it says about itself. There is no OIDC yet.
func TestA64_ForeignTokensAreRefused(t *testing.T) {
	d := newDoor(t)
	from := 0
	for name, token := range foreignTokens(d.Tokens[webtest.Tenant][access.Platform]) {
		r := httptest.NewRequest("GET", "/api/v1/me", nil)
		from++
		r.RemoteAddr = fmt.Sprintf("192.0.2.%d:1", from) // ten from one address are too many
		r.Header.Set("Authorization", "Bearer "+token)
		w := httptest.NewRecorder()
		d.handler.ServeHTTP(w, r)
		if w.Code != 401 || problem(t, w) != "token-refused" {
			t.Errorf("%s: %d %s", name, w.Code, w.Body)
		}
	}
	if log := d.log.String(); strings.Contains(log, d.Tokens[webtest.Tenant][access.Platform][4:40]) {
		t.Error("the log has the token")
	}
}
