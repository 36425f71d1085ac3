package acme_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"hallmark/bootstrap"
	"hallmark/bootstrap/acme"
	"hallmark/bootstrap/acme/state"
	"hallmark/bootstrap/bootstraptest"
	"hallmark/bootstrap/enroltest"
	"hallmark/ca/catest"
	"hallmark/ca/profile"
	"hallmark/store"
	"hallmark/store/storetest"
)

// A43, nonces: one is good once on all nodes together, sixteen at once have one
// winner, and made-up and old ones are none.
func TestACME_ANonceIsGoodOnce_A43(t *testing.T) {
	nodes := func(t *testing.T, url string) {
		clock := bootstraptest.NewClock()
		s := newSite(t, nil, bootstraptest.Options{URL: url, Clock: clock})
		other := s.DB
		if url != "" { // a second node of the service
			var err error
			if other, err = store.Open(t.Context(), store.Config{URL: url, Seal: s.Box, Now: clock.Now}); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { other.Close() })
		}
		second, err := acme.New(acme.Config{Enroller: s.Enroller(bootstrap.Rules{Protocol: "acme"}), Store: other.Acme(), Tenant: "main", Now: s.Now})
		if err != nil {
			t.Fatal(err)
		}
		c := s.client(t).register(nil)
		h := c.header(c.kid)
		message := jws(t, c.key, h, nil)
		// The second node is called as the first one's address.
		ask := func(i int) (int, string) {
			if i%2 == 0 {
				a := c.send(c.kid, message)
				return a.status, a.kind()
			}
			r, err := http.NewRequest("POST", c.kid, strings.NewReader(string(message)))
			if err != nil {
				t.Error(err)
				return 0, ""
			}
			r.Header.Set("Content-Type", "application/jose+json")
			w := &recorder{header: http.Header{}}
			second.Handler().ServeHTTP(w, r)
			a := &answer{status: max(w.status, 200)}
			json.Unmarshal(w.body, &a.body)
			return a.status, a.kind()
		}
		var mu sync.Mutex
		count := map[string]int{}
		var wg sync.WaitGroup
		for i := range 16 {
			wg.Go(func() {
				status, kind := ask(i)
				mu.Lock()
				defer mu.Unlock()
				count[fmt.Sprint(status, kind)]++
			})
		}
		wg.Wait()
		if count["200"] != 1 || count["400badNonce"] != 15 {
			t.Errorf("%v", count)
		}
		if status, kind := ask(0); status != 400 || kind != "badNonce" {
			t.Errorf("replayed: %d %s", status, kind)
		}
		c.postWith(c.kid, nil, func(h map[string]any) { h["nonce"] = "AAAA" }).want(t, "made up", 400, "badNonce")
		c.postWith(c.kid, nil, func(h map[string]any) { h["nonce"] = strings.Repeat("A", 54) }).want(t, "made up, of the right length", 400, "badNonce")
		c.postWith(c.kid, nil, func(h map[string]any) { h["nonce"] = nil }).want(t, "none", 400, "badNonce")
		n := c.nonce()
		clock.Add(2 * time.Hour)
		c.postWith(c.kid, nil, func(h map[string]any) { h["nonce"] = n }).want(t, "old", 400, "badNonce")
		c.post(c.kid, nil).want(t, "after all that", 200, "")
	}
	t.Run("SQLite", func(t *testing.T) { nodes(t, "") })
	t.Run("PostgreSQL", func(t *testing.T) { nodes(t, storetest.Postgres(t)) })
}

// recorder keeps an answer.
type recorder struct {
	header http.Header
	status int
	body   []byte
}

func (r *recorder) Header() http.Header { return r.header }
func (r *recorder) WriteHeader(s int)   { r.status = s }
func (r *recorder) Write(b []byte) (int, error) {
	r.body = append(r.body, b...)
	return len(b), nil
}

// A43, messages: what is signed by nobody, for somebody else, or too large.
func TestACME_MessagesThatAreRefused_A43(t *testing.T) {
	s := newSite(t, nil, bootstraptest.Options{})
	c := s.client(t).register(nil)
	stranger := s.client(t).register(nil)
	weak, err := ecdsa.GenerateKey(elliptic.P224(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	short, err := rsa.GenerateKey(rand.Reader, 1024)
	if err != nil {
		t.Fatal(err)
	}
	orders := s.url("new-order")
	set := func(name string, v any) func(map[string]any) { return func(h map[string]any) { h[name] = v } }
	jwkOnly := func(v any) func(map[string]any) { return func(h map[string]any) { h["kid"], h["jwk"] = nil, v } }
	private := jwk(c.key.Public())
	private["d"] = "AAAA"
	for _, x := range []struct {
		name, url string
		change    func(h map[string]any)
		status    int
		kind      string
	}{
		{"alg none", orders, set("alg", "none"), 400, "badSignatureAlgorithm"},
		{"alg HS256", orders, set("alg", "HS256"), 400, "badSignatureAlgorithm"},
		{"alg missing", orders, set("alg", nil), 400, "badSignatureAlgorithm"},
		{"alg of another key", orders, set("alg", "RS256"), 400, "badSignatureAlgorithm"},
		{"alg of another curve", orders, set("alg", "ES384"), 400, "badSignatureAlgorithm"},
		{"foreign kid", orders, set("kid", stranger.kid), 400, "malformed"},
		{"unknown kid", orders, set("kid", s.url("account/AAAAAAAAAAAAAAAAAAAAAA")), 400, "accountDoesNotExist"},
		{"kid of another host", orders, set("kid", strings.Replace(c.kid, "https://", "https://evil.", 1)), 400, "accountDoesNotExist"},
		{"kid without a URL", orders, set("kid", c.kid[strings.LastIndex(c.kid, "/")+1:]), 400, "accountDoesNotExist"},
		{"kid and jwk", orders, set("jwk", jwk(c.key.Public())), 400, "malformed"},
		{"neither", orders, set("kid", nil), 400, "malformed"},
		{"jwk where an account signs", orders, jwkOnly(jwk(c.key.Public())), 400, "malformed"},
		{"kid where a key signs", s.url("new-account"), nil, 400, "malformed"},
		{"url of another resource", orders, set("url", s.url("new-account")), 403, "unauthorized"},
		{"url of another host", orders, set("url", "https://evil.example.com/acme/new-order"), 403, "unauthorized"},
		{"url missing", orders, set("url", nil), 403, "unauthorized"},
		{"a critical extension", orders, set("crit", []string{"exp"}), 400, "malformed"},
		{"a protected header of 300 kB", orders, set("x", strings.Repeat("a", 300_000)), 413, "malformed"},
		{"a weak curve", s.url("new-account"), jwkOnly(jwk(weak.Public())), 400, "badPublicKey"},
		{"a short RSA key", s.url("new-account"), func(h map[string]any) { h["kid"], h["jwk"], h["alg"] = nil, jwk(short.Public()), "RS256" }, 400, "badPublicKey"},
		{"a symmetric key", s.url("new-account"), jwkOnly(map[string]any{"kty": "oct", "k": "AAAA"}), 400, "badPublicKey"},
		{"a private key", s.url("new-account"), jwkOnly(private), 400, "badPublicKey"},
		{"no key", s.url("new-account"), jwkOnly("x"), 400, "malformed"},
		{"a point that is not on the curve", s.url("new-account"), jwkOnly(map[string]any{"kty": "EC", "crv": "P-256", "x": strings.Repeat("A", 43), "y": strings.Repeat("A", 43)}), 400, "badPublicKey"},
	} {
		c.postWith(x.url, map[string]any{}, x.change).want(t, x.name, x.status, x.kind)
	}
	for _, x := range []struct {
		name, body string
		status     int
	}{
		{"no JSON", "x", 400},
		{"nothing", "", 400},
		{"an array", "[]", 400},
		{"general form", `{"payload":"","signatures":[{"protected":"","signature":""}]}`, 400},
		{"an unprotected header", `{"protected":"e30","header":{"alg":"none"},"payload":"","signature":"AA"}`, 400},
		{"a member twice", `{"protected":"e30","protected":"e30","payload":"","signature":"AA"}`, 400},
		{"padding", `{"protected":"e30=","payload":"","signature":"AA"}`, 400},
		{"deep nesting", `{"protected":` + strings.Repeat("[", 100) + strings.Repeat("]", 100) + `}`, 400},
		{"no signature", `{"protected":"e30","payload":"","signature":""}`, 400},
		{"ten megabytes", strings.Repeat(" ", 10<<20), 413},
	} {
		c.send(orders, []byte(x.body)).want(t, x.name, x.status, "malformed")
	}
	// A signature that is not.
	h := c.header(orders)
	c.send(orders, []byte(strings.Replace(string(jws(t, c.key, h, []byte("{}"))), `"payload":"e30"`, `"payload":"e30"`, 1))).want(t, "an empty order", 400, "malformed")
	other := s.client(t)
	h = c.header(orders)
	c.send(orders, jws(t, other.key, h, []byte("{}"))).want(t, "another key's signature", 400, "malformed")
	// What is no request.
	for _, x := range []struct {
		method, path, media string
		status              int
	}{{"GET", "new-order", "", 405}, {"PUT", "directory", "", 405}, {"POST", "new-order", "application/json", 415}, {"POST", "nothing", "application/jose+json", 404}, {"POST", "order/a/b/c", "application/jose+json", 404}, {"POST", "..%2f..%2fx", "application/jose+json", 404}} {
		req, err := http.NewRequest(x.method, s.url(x.path), strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set("Content-Type", x.media)
		r, err := s.http.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, r.Body)
		r.Body.Close()
		if r.StatusCode != x.status {
			t.Errorf("%s %s: %d, want %d", x.method, x.path, r.StatusCode, x.status)
		}
	}
}

// A6, as far as it is about identifiers: of five names each in turn is denied, and
// the whole order is refused by that name; an order that is made has every name's
// authorization once.
func TestACME_OneDeniedNameRefusesTheOrder_A6(t *testing.T) {
	s := newSite(t, loopback(80, nil), bootstraptest.Options{})
	c := s.client(t).register(nil)
	names := func() (out []string) {
		for i := range 5 {
			out = append(out, fmt.Sprintf("a%d.plant.example.com", i))
		}
		return out
	}
	for k := range 5 {
		all := names()
		all[k] = fmt.Sprintf("a%d.example.org", k)
		a := c.post(s.url("new-order"), identifiers("dns", all...))
		if a.want(t, all[k], 400, "rejectedIdentifier"); !strings.Contains(a.text("detail"), all[k]) {
			t.Errorf("%s: %s", all[k], a.raw)
		}
	}
	if a := c.post(c.kid+"/orders", nil); len(a.list("orders")) != 0 {
		t.Errorf("refused orders are there: %s", a.raw)
	}
	o := c.post(s.url("new-order"), identifiers("dns", names()...)).must(t, "all allowed", 201)
	var got []string
	for _, url := range o.list("authorizations") {
		id, _ := c.post(url, nil).body["identifier"].(map[string]any)
		got = append(got, fmt.Sprint(id["value"]))
	}
	if !slices.Equal(got, names()) {
		t.Errorf("%q", got)
	}
}

// A43, orders: names that are none, too many of them, those of somebody else, and
// orders that are not ready, or for another key.
func TestACME_OrdersThatAreRefused_A43(t *testing.T) {
	s := newSite(t, loopback(80, nil), bootstraptest.Options{})
	c := s.client(t).register(nil)
	orders := s.url("new-order")
	many := func(n int, form string) (out []string) {
		for i := range n {
			out = append(out, fmt.Sprintf(form, i))
		}
		return out
	}
	for _, x := range []struct {
		name    string
		payload map[string]any
		status  int
		kind    string
	}{
		{"none", map[string]any{"identifiers": []string{}}, 400, "malformed"},
		{"no list", map[string]any{"identifiers": "x"}, 400, "malformed"},
		{"a name with a control character", identifiers("dns", "a\x00b.plant.example.com"), 400, "malformed"},
		{"a name in upper case", identifiers("dns", "A.plant.example.com"), 400, "malformed"},
		{"a name that is an address", identifiers("dns", "127.0.0.1"), 400, "malformed"},
		{"a name that is a decimal address", identifiers("dns", "2130706433"), 400, "malformed"},
		{"a name that is an IPv6 address", identifiers("dns", "::1"), 400, "malformed"},
		{"a name with a port", identifiers("dns", "a.plant.example.com:80"), 400, "malformed"},
		{"a name with a path", identifiers("dns", "a.plant.example.com/x"), 400, "malformed"},
		{"a name with a dot at its end", identifiers("dns", "a.plant.example.com."), 400, "malformed"},
		{"a name with two dots", identifiers("dns", "a..plant.example.com"), 400, "malformed"},
		{"a wildcard", identifiers("dns", "*.plant.example.com"), 400, "malformed"},
		{"an international name", identifiers("dns", "xn--a.plant.example.com"), 400, "malformed"},
		{"a long label", identifiers("dns", strings.Repeat("a", 64)+".plant.example.com"), 400, "malformed"},
		{"a long name", identifiers("dns", strings.Repeat("a.", 130)+"plant.example.com"), 400, "malformed"},
		{"a name twice", identifiers("dns", "a.plant.example.com", "a.plant.example.com"), 400, "malformed"},
		{"a name elsewhere", identifiers("dns", "a.example.com"), 400, "rejectedIdentifier"},
		{"a name that only ends like ours", identifiers("dns", "eviilplant.example.com"), 400, "rejectedIdentifier"},
		{"an address", identifiers("ip", "127.0.0.1"), 400, "unsupportedIdentifier"},
		{"another type", identifiers("wireapp-user", "{}"), 400, "unsupportedIdentifier"},
		{"a unit that is none", device("U 1"), 400, "malformed"},
		{"two units", identifiers("permanent-identifier", "U-1", "U-2"), 400, "malformed"},
		{"11 names", identifiers("dns", many(11, "a%d.plant.example.com")...), 400, "malformed"},
		{"5,000 identifiers", identifiers("dns", many(5000, "a%d.plant.example.com")...), 413, "malformed"},
		{"an end", map[string]any{"identifiers": []any{map[string]string{"type": "dns", "value": "a.plant.example.com"}}, "notAfter": "2030-01-01T00:00:00Z"}, 400, "malformed"},
	} {
		c.post(orders, x.payload).want(t, x.name, x.status, x.kind)
	}

	// Not ready, and whatever is wrong with a CSR.
	s.birth(t, "U-001")
	key := catest.NewKey(t)
	o := c.order(device("U-001"), "device-attest-01")
	c.post(o.finalize, csrOf(t, key, "")).want(t, "not ready", 403, "orderNotReady")
	leaf := s.maker.card("U-001", key.Public(), nil)
	if a := c.post(o.challenge, response(t, leaf, key, o.keyAuth())); a.text("status") != "valid" {
		t.Fatalf("%s", a.raw)
	}
	if a := c.post(o.url, nil); a.text("status") != "ready" {
		t.Fatalf("%s", a.raw)
	}
	for _, x := range []struct {
		name    string
		payload map[string]any
	}{
		{"another key", csrOf(t, catest.NewKey(t), "")},
		{"the account's key", csrOf(t, c.key, "")},
		{"another unit's name", csrOf(t, key, "U-002")},
		{"no base64", map[string]any{"csr": "***"}},
		{"no CSR", map[string]any{"csr": "AAAA"}},
		{"nothing", map[string]any{}},
		{"a CSR that asks to be a CA", map[string]any{"csr": caCSR(t, key)}},
	} {
		c.post(o.finalize, x.payload).want(t, x.name, 400, "badCSR")
	}

	// Somebody else's order is none.
	stranger := s.client(t).register(nil)
	for _, url := range []string{o.url, o.authz, o.challenge, strings.Replace(o.url, "/order/", "/certificate/", 1), o.url + "x", o.authz + "9", o.challenge + "9", s.url("order/AAAA"), s.url("challenge/a.b.c")} {
		stranger.post(url, nil).want(t, url, 404, "malformed")
	}
	stranger.post(o.finalize, csrOf(t, key, "")).want(t, "a stranger finalizes", 404, "malformed")
	stranger.post(o.challenge, map[string]any{}).want(t, "a stranger answers", 404, "malformed")
	stranger.post(c.kid, nil).want(t, "a stranger's account", 403, "unauthorized")
	stranger.post(c.kid+"/orders", nil).want(t, "a stranger's orders", 403, "unauthorized")

	// After all that the order is good, once; a repetition gets the same.
	f := c.post(o.finalize, csrOf(t, key, "")).must(t, "finalize", 200)
	c.post(o.finalize, csrOf(t, key, "")).want(t, "again", 200, "")
	c.post(o.finalize, csrOf(t, catest.NewKey(t), "")).want(t, "again with another key", 403, "orderNotReady")
	stranger.post(f.text("certificate"), nil).want(t, "a stranger's certificate", 404, "malformed")
	if n := len(s.Records(t, "U-001", profile.LDevID)); n != 1 {
		t.Errorf("%d certificates", n)
	}

	// The names of a server have to be those of the order.
	o = c.order(identifiers("dns", "gw-1.plant.example.com"), "http-01")
	c.post(o.finalize, csrOf(t, catest.NewKey(t), "gw-1.plant.example.com")).want(t, "a name that is not proven", 403, "orderNotReady")
	// An authorization that is given up ends the order.
	c.post(o.authz, map[string]any{"status": "deactivated"}).want(t, "given up", 200, "")
	if _, az, order := o.statuses(); az != "deactivated" || order != "invalid" {
		t.Errorf("given up: %s %s", az, order)
	}
	// So does an order's end.
	clock := bootstraptest.NewClock()
	s = newSite(t, nil, bootstraptest.Options{Clock: clock})
	c = s.client(t).register(nil)
	o = c.order(device("U-001"), "device-attest-01")
	clock.Add(61 * time.Minute)
	c.next = ""
	if ch, az, order := o.statuses(); ch != "pending" || az != "expired" || order != "invalid" {
		t.Errorf("expired: %s %s %s", ch, az, order)
	}
	c.post(o.challenge, response(t, leaf, key, o.keyAuth())).want(t, "answered late", 200, "")
	c.post(o.finalize, csrOf(t, key, "")).want(t, "finalized late", 403, "orderNotReady")
}

func caCSR(t *testing.T, key *ecdsa.PrivateKey) string {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{ExtraExtensions: []extension{{Id: []int{2, 5, 29, 19}, Critical: true, Value: []byte{0x30, 3, 1, 1, 0xff}}}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return b64(der)
}

// A43, revocation: reasons, twice, by the wrong people, by the certificate's key;
// and accounts that have ended.
func TestACME_RevocationAndEndedAccounts_A43(t *testing.T) {
	s := newSite(t, nil, bootstraptest.Options{})
	s.birth(t, "U-001")
	s.birth(t, "U-002")
	c := s.client(t).register(nil)
	key := catest.NewKey(t)
	chain := c.attested("U-001", key).must(t, "certificate", 200)
	cert := leafOf(t, chain.raw)
	url := s.url("revoke-cert")
	revoke := func(c *client, der []byte, reason any) *answer {
		p := map[string]any{"certificate": b64(der)}
		if reason != nil {
			p["reason"] = reason
		}
		return c.post(url, p)
	}
	stranger := s.client(t).register(nil)
	byKey := &client{t: t, s: s, key: key}
	for _, reason := range []any{2, 6, 7, 8, 10, 11, 255, -1} {
		revoke(c, cert.Raw, reason).want(t, fmt.Sprint("reason ", reason), 400, "badRevocationReason")
	}
	revoke(c, cert.Raw, "1").want(t, "a reason in words", 400, "malformed")
	revoke(c, cert.Raw, 1.5).want(t, "half a reason", 400, "malformed")
	revoke(c, []byte("x"), 1).want(t, "no certificate", 400, "malformed")
	revoke(stranger, cert.Raw, 1).want(t, "a stranger", 403, "unauthorized")
	revoke(s.client(t), cert.Raw, 1).want(t, "another key", 403, "unauthorized")
	foreign := newMaker(t, "device-1").sign(&x509.Certificate{Subject: cert.Subject, NotAfter: cert.NotAfter}, key.Public())
	revoke(c, foreign.Raw, 1).want(t, "a certificate of somebody else", 404, "malformed")
	birth, _ := s.IssueIDevID(t, "U-003")
	revoke(c, birth.Raw, 1).want(t, "a certificate that ACME did not make", 404, "malformed")
	c.post(url, map[string]any{"certificate": b64(cert.Raw) + "="}).want(t, "padding", 400, "malformed")

	revoke(byKey, cert.Raw, 4).want(t, "by the certificate's key", 200, "")
	revoke(byKey, cert.Raw, 4).want(t, "twice", 400, "alreadyRevoked")
	revoke(c, cert.Raw, nil).want(t, "and by the account", 400, "alreadyRevoked")
	if r := s.Records(t, "U-001", profile.LDevID); len(r) != 1 || !r[0].Revoked() || r[0].Reason != 4 {
		t.Errorf("%+v", r)
	}
	second := leafOf(t, c.attested("U-002", catest.NewKey(t)).must(t, "certificate", 200).raw)
	revoke(c, second.Raw, nil).want(t, "by the account", 200, "")

	// An account that has ended.
	c.post(c.kid, map[string]any{"status": "revoked"}).want(t, "a status that is none", 400, "malformed")
	o := c.order(device("U-001"), "device-attest-01")
	if a := c.post(c.kid, map[string]any{"status": "deactivated"}).must(t, "deactivate", 200); a.text("status") != "deactivated" {
		t.Errorf("%s", a.raw)
	}
	for _, u := range []string{o.url, o.authz, o.challenge, c.kid, s.url("new-order"), url} {
		c.post(u, map[string]any{}).want(t, "deactivated: "+u, 403, "unauthorized")
	}
	again := &client{t: t, s: s, key: c.key}
	again.post(s.url("new-account"), map[string]any{}).want(t, "the same key again", 403, "unauthorized")
}

// RFC 8555, Section 7.3: accounts.
func TestACME_Accounts(t *testing.T) {
	s := newSite(t, nil, bootstraptest.Options{})
	account := s.url("new-account")
	s.client(t).post(account, map[string]any{"onlyReturnExisting": true}).want(t, "none yet", 400, "accountDoesNotExist")
	for _, x := range []struct{ contact, kind string }{{"tel:1", "unsupportedContact"}, {"x", "invalidContact"}, {"mailto:", "invalidContact"}, {"mailto:a@b.c,d@e.f", "invalidContact"}, {"mailto:a@b.c?subject=x", "invalidContact"}, {"mailto:" + strings.Repeat("a", 300) + "@b.c", "invalidContact"}} {
		s.client(t).post(account, map[string]any{"contact": []string{x.contact}}).want(t, x.contact, 400, x.kind)
	}
	// Sixteen requests for one key make one account.
	c := s.client(t)
	messages := make([][]byte, 16)
	for i := range messages {
		messages[i] = jws(t, c.key, c.header(account), []byte("{}"))
	}
	var mu sync.Mutex
	made, urls := 0, map[string]bool{}
	var wg sync.WaitGroup
	for _, m := range messages {
		wg.Go(func() {
			a := c.send(account, m)
			mu.Lock()
			defer mu.Unlock()
			if urls[a.header.Get("Location")] = true; a.status == 201 {
				made++
			}
		})
	}
	wg.Wait()
	if made != 1 || len(urls) != 1 {
		t.Errorf("%d made, %v", made, urls)
	}
	for u := range urls {
		c.kid = u
	}
	if a := c.post(c.kid, map[string]any{"contact": []string{"mailto:new@example.com"}}).must(t, "update", 200); a.list("contact")[0] != "mailto:new@example.com" {
		t.Errorf("%s", a.raw)
	}

	// Another key for the account.
	next := catest.NewKey(t)
	change := func(c *client, key *ecdsa.PrivateKey, h, payload map[string]any) *answer {
		head := map[string]any{"alg": "ES256", "jwk": jwk(key.Public()), "url": s.url("key-change")}
		for k, v := range h {
			head[k] = v
		}
		raw, err := json.Marshal(payload)
		if err != nil {
			t.Fatal(err)
		}
		return c.post(s.url("key-change"), json.RawMessage(jws(t, key, head, raw)))
	}
	good := map[string]any{"account": c.kid, "oldKey": jwk(c.key.Public())}
	stranger := s.client(t).register(nil)
	change(c, next, map[string]any{"nonce": c.nonce()}, good).want(t, "a nonce inside", 400, "malformed")
	change(c, next, map[string]any{"url": account}, good).want(t, "another url inside", 400, "malformed")
	change(c, next, map[string]any{"jwk": jwk(stranger.key.Public())}, good).want(t, "a key that did not sign", 400, "malformed")
	change(c, next, nil, map[string]any{"account": stranger.kid, "oldKey": jwk(c.key.Public())}).want(t, "another account", 400, "malformed")
	change(c, next, nil, map[string]any{"account": c.kid, "oldKey": jwk(next.Public())}).want(t, "another old key", 400, "malformed")
	if a := change(c, stranger.key.(*ecdsa.PrivateKey), nil, good); a.status != 409 || a.header.Get("Location") != stranger.kid {
		t.Errorf("a key that has an account: %d %v", a.status, a.header)
	}
	change(c, next, nil, good).want(t, "changed", 200, "")
	c.post(c.kid, nil).want(t, "the old key", 400, "malformed")
	c.key = next
	c.post(c.kid, nil).want(t, "the new key", 200, "")
}

// RFC 8555, Section 7.3.4, and S17: an external account key makes one account,
// which gets what the key says and nothing else, until the key is revoked.
func TestACME_ExternalAccountKeys_S17(t *testing.T) {
	clock := bootstraptest.NewClock()
	s := newSite(t, func(c *acme.Config) { c.External = true; loopback(80, nil)(c) }, bootstraptest.Options{Clock: clock})
	s.birth(t, "U-001")
	account := s.url("new-account")
	k := s.key(t, acme.KeyRequest{Profile: profile.LDevID, Names: []string{"CARD-1=U-001", "U-002"}})
	s.client(t).post(account, map[string]any{}).want(t, "no key", 403, "externalAccountRequired")
	bad := func(what, id string, secret []byte, alg, url string, payload func(c *client) any) {
		t.Helper()
		c := s.client(t)
		var p any = jwk(c.key.Public())
		if payload != nil {
			p = payload(c)
		}
		c.post(account, map[string]any{"externalAccountBinding": c.binding(id, secret, alg, url, p)}).want(t, what, 403, "unauthorized")
	}
	bad("another secret", k.ID, []byte("x"), "HS256", account, nil)
	bad("another key id", "aaaa", k.secret, "HS256", account, nil)
	bad("another algorithm", k.ID, k.secret, "HS512", account, nil)
	bad("alg none", k.ID, k.secret, "none", account, nil)
	bad("another url", k.ID, k.secret, "HS256", s.url("new-order"), nil)
	bad("another account's key", k.ID, k.secret, "HS256", account, func(*client) any { return jwk(catest.NewKey(t).Public()) })
	bad("no key", k.ID, k.secret, "HS256", account, func(*client) any { return "x" })
	s.client(t).post(account, map[string]any{"externalAccountBinding": "x"}).want(t, "no binding", 400, "malformed")

	c := s.client(t).register(k)
	again := s.client(t)
	again.post(account, again.account(k)).want(t, "used twice", 403, "unauthorized")
	orders := s.url("new-order")
	c.post(orders, device("U-009")).want(t, "a unit of nobody's", 400, "rejectedIdentifier")
	c.post(orders, device("U-001")).want(t, "a unit under a name that is another's", 400, "rejectedIdentifier")
	c.post(orders, identifiers("dns", "gw.plant.example.com")).want(t, "a server", 400, "rejectedIdentifier")
	if cert := leafOf(t, c.attested("CARD-1", catest.NewKey(t)).must(t, "certificate", 200).raw); cert.Subject.CommonName != "thing-U-001" {
		t.Errorf("%v", cert.Subject)
	}
	if a := c.attested("U-002", catest.NewKey(t)); a.status != 403 || a.kind() != "unauthorized" {
		t.Errorf("a unit that was never born: %d %s", a.status, a.raw)
	}
	// A birth certificate counts on the order, and only where the order has room for it.
	b := s.key(t, acme.KeyRequest{Profile: profile.IDevID, Order: enroltest.Order, Names: []string{"CARD-5=U-005"}})
	bc := s.client(t).register(b)
	if cert := leafOf(t, bc.attested("CARD-5", catest.NewKey(t)).must(t, "birth certificate", 200).raw); cert.Subject.CommonName != "U-005" {
		t.Errorf("%v", cert.Subject)
	}
	srv := s.client(t).register(s.key(t, acme.KeyRequest{Profile: profile.Site, Names: []string{".lab.plant.example.com", "gw.plant.example.com"}}))
	srv.post(orders, identifiers("dns", "other.plant.example.com")).want(t, "a server that is not named", 400, "rejectedIdentifier")
	srv.post(orders, identifiers("dns", "lab.plant.example.com")).want(t, "the domain itself", 400, "rejectedIdentifier")
	srv.post(orders, identifiers("dns", "a.lab.plant.example.com", "gw.plant.example.com")).want(t, "servers that are", 201, "")
	srv.post(orders, device("U-001")).want(t, "a device", 400, "rejectedIdentifier")

	// Keys that cannot be.
	for _, r := range []acme.KeyRequest{{}, {Profile: profile.LDevID}, {Profile: profile.Server, Names: []string{"a"}}, {Profile: profile.Station, Names: []string{"a"}},
		{Profile: profile.LDevID, Order: "o-1", Names: []string{"U-1"}}, {Profile: profile.IDevID, Names: []string{"U-001"}}, {Profile: profile.IDevID, Order: "o-1", Names: []string{"X-1"}}, {Profile: profile.IDevID, Order: "o-9", Names: []string{"U-001"}},
		{Profile: profile.LDevID, Names: []string{"U-1", "U-1"}}, {Profile: profile.LDevID, Names: []string{"U 1"}}, {Profile: profile.LDevID, Names: []string{"U-1= "}},
		{Profile: profile.Site, Names: []string{"a.example.com"}}, {Profile: profile.Site, Names: []string{"gw.plant.example.com=U-1"}}, {Profile: profile.LDevID, Names: []string{"U-1"}, Life: time.Second}} {
		if _, _, err := s.server.CreateKey(t.Context(), enroltest.Officer, r); err == nil {
			t.Errorf("%+v was made", r)
		}
	}

	// Another tenant's people see and change nothing of it.
	elsewhere := enroltest.Officer
	elsewhere.Tenant = "other"
	if _, _, err := s.server.CreateKey(t.Context(), elsewhere, acme.KeyRequest{Profile: profile.LDevID, Names: []string{"U-002"}}); !errors.Is(err, acme.ErrOff) {
		t.Errorf("another tenant's key: %v", err)
	}
	if _, err := s.server.RevokeKey(t.Context(), elsewhere, k.ID); !errors.Is(err, state.ErrNoKey) {
		t.Errorf("revoked by another tenant: %v", err)
	}
	if keys, err := s.server.Keys(t.Context(), "other"); err != nil || len(keys) > 0 {
		t.Errorf("%d keys of another tenant, %v", len(keys), err)
	}

	// The end of a key.
	o := c.order(device("CARD-1"), "device-attest-01")
	if _, err := s.server.RevokeKey(context.Background(), enroltest.Officer, k.ID); err != nil {
		t.Fatal(err)
	}
	c.post(orders, device("CARD-1")).want(t, "revoked: an order", 403, "unauthorized")
	c.post(o.challenge, map[string]any{}).want(t, "revoked: a challenge", 403, "unauthorized")
	late := s.key(t, acme.KeyRequest{Profile: profile.LDevID, Names: []string{"U-002"}, Life: time.Hour})
	clock.Add(time.Hour)
	lc := s.client(t)
	lc.post(account, lc.account(late)).want(t, "too late", 403, "unauthorized")
	keys, err := s.server.Keys(t.Context(), "main")
	if i := slices.IndexFunc(keys, func(o state.Key) bool { return o.ID == k.ID }); err != nil || len(keys) != 4 || i < 0 || keys[i].RevokedAt.IsZero() || keys[i].Account == "" {
		t.Errorf("%+v %v", keys, err)
	}
}

// S17: the protocol has its rate, and an address that is refused too often waits.
func TestACME_Rates_S17(t *testing.T) {
	s := newSite(t, nil, bootstraptest.Options{Clock: bootstraptest.NewClock()})
	limited, err := acme.New(acme.Config{Enroller: s.Enroller(bootstrap.Rules{Protocol: "acme", PerMinute: 3}), Store: s.DB.Acme(), Tenant: "main", Now: s.Now, Attestation: map[string]*x509.CertPool{"step": s.maker.pool()}})
	if err != nil {
		t.Fatal(err)
	}
	s.host = s.PlainTLS(t, limited.Handler())
	c := s.client(t).register(nil)
	c.order(device("U-1"), "device-attest-01")
	c.order(device("U-1"), "device-attest-01")
	a := c.post(s.url("new-order"), device("U-1"))
	if a.want(t, "the fourth", 429, "rateLimited"); a.header.Get("Retry-After") == "" {
		t.Error("nothing says when")
	}
	for range 20 {
		c.postWith(s.url("new-order"), nil, func(h map[string]any) { h["url"] = "x" })
	}
	if a := c.post(c.kid, nil); a.status != 429 {
		t.Errorf("after 20 refusals: %d %s", a.status, a.raw)
	}
}
