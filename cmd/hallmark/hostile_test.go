package main

import (
	"bytes"
	"context"
	crand "crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"testing"
	"time"

	"hallmark/ca/catest"
	"hallmark/internal/fault"
	"hallmark/provisioner/template"
	"hallmark/station/uplink"
)

// raced tells whether this binary was built with the race detector, under which
// times and sizes say little.
func raced() bool {
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return false
	}
	for _, s := range info.Settings {
		if s.Key == "-race" && s.Value == "true" {
			return true
		}
	}
	return false
}

// mutator makes hostile octets from good ones; the same seed makes the same ones.
type mutator struct{ *rand.Rand }

func newMutator(seed uint64) mutator { return mutator{rand.New(rand.NewPCG(seed, 11))} }

var interesting = [][]byte{
	{0x30, 0x80}, {0x30, 0x84, 0x7f, 0xff, 0xff, 0xff}, {0x30, 0x84, 0x80, 0, 0, 0}, {0x30, 0x88, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}, {0x02, 0x00}, {0x06, 0x01, 0x80}, {0x00}, {0xff, 0xfe}, {0xef, 0xbb, 0xbf}, {0xc0, 0x80}, {0xed, 0xa0, 0x80},
	[]byte(`"`), []byte(`\u0000`), []byte(`\ud800`), []byte("null"), []byte("NaN"), []byte("-0"), []byte("1e999999"), []byte("\r\n\r\n"), []byte("\x1b[2J"), []byte("{{.}}"), []byte("${x}"), []byte("' OR 1=1 --"), []byte("../../"), []byte("%00"), []byte("&a [*a,*a]"), []byte("<<: *a"), []byte("!!binary "), []byte("-----BEGIN CERTIFICATE REQUEST-----\n"), []byte(`{"Ref":"x"}`), []byte(`{"Fn::Sub":"${a}"}`), []byte("\u202e"),
}

// octets mutates a copy: a few small changes, now and then something huge.
func (m mutator) octets(seed []byte) []byte {
	b := bytes.Clone(seed)
	for range 1 + m.IntN(4) {
		at := 0
		if len(b) > 0 {
			at = m.IntN(len(b))
		}
		insert := func(p []byte) { b = append(b[:at:at], append(bytes.Clone(p), b[at:]...)...) }
		switch m.IntN(11) {
		case 0, 1:
			if len(b) > 0 {
				b[at] ^= 1 << m.IntN(8)
			}
		case 2:
			if len(b) > 0 {
				b[at] = byte(m.IntN(256))
			}
		case 3:
			b = b[:at]
		case 4:
			b = append(b[:at:at], b[min(len(b), at+1+m.IntN(40)):]...)
		case 5:
			insert(b[at:min(len(b), at+1+m.IntN(200))])
		case 6:
			insert(interesting[m.IntN(len(interesting))])
		case 7: // a length field or a string's head, if this is one
			if len(b) > 0 {
				b[at] = []byte{0x00, 0x7f, 0x80, 0x81, 0x82, 0x84, 0x88, 0xff, 0xa0, 0x24}[m.IntN(10)]
			}
		case 8: // nesting
			open := []string{"[", `{"a":`, "\x30\x80", "\xa0\x80", "- ", "&a [*a, ", `{"Fn::Join":["",`}[m.IntN(7)]
			insert(bytes.Repeat([]byte(open), []int{20, 100, 1000, 10_000}[m.IntN(4)]))
		case 9: // a number of many digits in place of one of few
			i := bytes.IndexAny(b[at:], "0123456789")
			if i >= 0 {
				n := []string{strings.Repeat("9", 10_000), "1e999999999", "-1", "18446744073709551616", "0.5", "1e5", "007"}[m.IntN(7)]
				b = append(b[:at+i:at+i], append([]byte(n), b[at+i+1:]...)...)
			}
		case 10: // twice the same
			b = append(b, b...)
		}
		if len(b) > 256<<10 {
			b = b[:256<<10]
		}
	}
	if m.IntN(400) == 0 {
		b = append(b, bytes.Repeat([]byte("-"), 2<<20+m.IntN(8<<20))...)
	}
	return b
}

// document mutates the tree of a JSON text, which then still is JSON.
func (m mutator) document(seed []byte) []byte {
	var doc map[string]any
	if json.Unmarshal(seed, &doc) != nil {
		return m.octets(seed)
	}
	keys := make([]string, 0, len(doc))
	for k := range doc {
		keys = append(keys, k)
	}
	// Maps have no order; the seed must decide.
	for i := range keys {
		for j := i + 1; j < len(keys); j++ {
			if keys[j] < keys[i] {
				keys[i], keys[j] = keys[j], keys[i]
			}
		}
	}
	k := keys[m.IntN(len(keys))]
	switch m.IntN(5) {
	case 0:
		delete(doc, k)
	case 1:
		doc[k+strings.Repeat("x", m.IntN(3))] = m.value()
	case 2:
		doc[string(m.octets([]byte(k)))] = doc[k]
	default:
		switch v := doc[k].(type) {
		case string:
			der, err := base64.StdEncoding.DecodeString(v)
			if err == nil && len(der) > 64 {
				doc[k] = base64.StdEncoding.EncodeToString(m.octets(der))
			} else {
				doc[k] = string(m.octets([]byte(v)))
			}
		case map[string]any:
			inner, _ := json.Marshal(v)
			doc[k] = json.RawMessage(m.document(inner))
		default:
			doc[k] = m.value()
		}
	}
	out, err := json.Marshal(doc)
	if err != nil {
		return m.octets(seed)
	}
	if m.IntN(10) == 0 { // a member twice
		out = append(out[:len(out)-1], fmt.Sprintf(`,%q:%q}`, k, "again")...)
	}
	return out
}

func (m mutator) value() any {
	many := make([]any, 3000)
	for i := range many {
		many[i] = i
	}
	return []any{nil, true, -1, 0, 1e300, json.RawMessage("9" + strings.Repeat("0", 5000)), "", " ", "\x00", strings.Repeat("A", 70_000), []any{}, map[string]any{}, many, hostileNames[m.IntN(len(hostileNames))].text}[m.IntN(14)]
}

// wire is one request to a door.
type wire struct {
	door, method, path, media, person string
	body                              []byte
	tree                              bool // the body is JSON
	unit                              string
}

func (w wire) String() string {
	return fmt.Sprintf("%s %s %s, %d octets %.120q", w.door, w.method, w.path, len(w.body), w.body)
}

// assault sends hostile requests to a site's service.
type assault struct {
	t       testing.TB
	s       *site
	station tls.Certificate
	device  *tls.Certificate
	clients map[string]*http.Client
	tokens  map[string]string
	enrols  int
}

func newAssault(t testing.TB, s *site) *assault {
	a := &assault{t: t, s: s, station: s.stationPair(), clients: map[string]*http.Client{}, tokens: map[string]string{}}
	a.clients["factory"] = s.client(&a.station, 8)
	a.clients["people"] = s.client(nil, 8)
	a.clients["public"] = s.client(nil, 8)
	a.clients["enrol"] = s.client(nil, 8)
	for person, file := range map[string]string{"ann": "people/ann.token", "bob": "people/bob.token", "platform": "state/admin.token"} {
		b, err := os.ReadFile(s.path(file))
		if err != nil {
			t.Fatal(err)
		}
		a.tokens[person] = strings.TrimSpace(string(b))
	}
	return a
}

// as is the device that asks at the device door.
func (a *assault) as(c tls.Certificate) {
	a.device = &c
	a.clients["device"] = a.s.client(a.device, 8)
}

// client of a door. Enrolment counts failures per address, so attempts come from
// many addresses of the loopback network.
func (a *assault) client(door string) *http.Client {
	if door != "enrol" {
		return a.clients[door]
	}
	if a.enrols++; a.enrols%8 == 1 {
		a.clients["enrol"].CloseIdleConnections()
		n := a.enrols / 8
		local := &net.TCPAddr{IP: net.IPv4(127, 1, byte(n>>8), byte(n))}
		a.clients["enrol"] = &http.Client{Timeout: time.Minute, Transport: &http.Transport{TLSClientConfig: a.s.tlsConfig(nil), DialContext: (&net.Dialer{LocalAddr: local}).DialContext}}
	}
	return a.clients["enrol"]
}

type verdict struct {
	reply
	media, retry string
	took         time.Duration
}

// send asks once.
func (a *assault) send(ctx context.Context, w wire) (v verdict, err error) {
	scheme := "https://"
	if w.door == "public" {
		scheme = "http://"
	}
	q, err := http.NewRequestWithContext(ctx, w.method, scheme+a.s.door(w.door), bytes.NewReader(w.body))
	if err != nil {
		return v, err
	}
	q.URL.Path, q.URL.RawQuery, _ = strings.Cut(w.path, "?")
	if p, err := url.PathUnescape(q.URL.Path); err == nil {
		q.URL.Path, q.URL.RawPath = p, q.URL.Path
	}
	if w.media != "" {
		q.Header.Set("Content-Type", w.media)
	}
	if w.person != "" {
		q.Header.Set("Authorization", "Bearer "+a.tokens[w.person])
	}
	if w.unit != "" {
		q.Header.Set("Hallmark-Unit", w.unit)
	}
	c := a.client(w.door)
	start := time.Now()
	r, err := c.Do(q)
	if err != nil {
		return v, err
	}
	v.body, err = io.ReadAll(r.Body)
	r.Body.Close()
	v.took, v.status, v.media, v.retry = time.Since(start), r.StatusCode, r.Header.Get("Content-Type"), r.Header.Get("Retry-After")
	if strings.HasPrefix(v.media, "application/problem+json") {
		var p struct{ Code string }
		if err := json.Unmarshal(v.body, &p); err != nil {
			return v, err
		}
		v.code = p.Code
	}
	return v, err
}

// limit is A56's bound of an answer.
func limit() time.Duration {
	if raced() {
		return time.Second
	}
	return 100 * time.Millisecond
}

// must sends and holds the answer to the rules: no 5xx but 503 with a code, every
// refusal a problem with a code, no slow answer. A slow one may be the machine's
// fault and is asked for again.
func (a *assault) must(w wire) verdict {
	a.t.Helper()
	var v verdict
	for try := range 5 {
		var err error
		if v, err = a.send(a.t.Context(), w); err != nil {
			// The service answers an endless body and hangs up; the client may
			// see only the second.
			if len(w.body) > 64<<10 && !errors.Is(err, context.DeadlineExceeded) {
				return v
			}
			a.t.Errorf("%s: %v", w, err)
			return v
		}
		if v.took <= limit() || len(w.body) > 1<<20 && v.took <= 4*limit() {
			break
		}
		if try == 4 {
			a.t.Errorf("%s took %v", w, v.took)
		}
	}
	switch {
	case v.status >= 500 && (v.status != http.StatusServiceUnavailable || v.code == "" || v.retry == ""):
		a.t.Errorf("%s: %s %.200s", w, v, v.body)
	case v.status >= 400 && v.code == "" && w.door != "public": // who fetches lists reads no JSON
		a.t.Errorf("%s: a refusal without a code: %s %.200s", w, v, v.body)
	case v.status >= 300 && v.status < 400:
		a.t.Errorf("%s: a redirect", w)
	}
	return v
}

// metric sums the samples of a metric of the running service.
func (a *assault) metric(name string) (sum float64) {
	a.t.Helper()
	r, err := http.Get("http://" + a.s.door("metrics") + "/metrics")
	if err != nil {
		a.t.Fatal(err)
	}
	defer r.Body.Close()
	text, err := io.ReadAll(r.Body)
	if err != nil {
		a.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if rest, ok := strings.CutPrefix(line, name); ok && (rest[0] == ' ' || rest[0] == '{') {
			f := strings.Fields(line)
			v, _ := strconv.ParseFloat(f[len(f)-1], 64)
			sum += v
		}
	}
	return sum
}

// resident is the service's memory after a collection.
func (a *assault) resident() float64 {
	a.t.Helper()
	for range 2 {
		r, err := http.Get("http://" + a.s.door("metrics") + "/debug/pprof/heap?gc=1")
		if err != nil {
			a.t.Fatal(err)
		}
		io.Copy(io.Discard, r.Body)
		r.Body.Close()
	}
	return a.metric("process_resident_memory_bytes")
}

func toJSON(t testing.TB, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// seeds are good requests of every kind, except where success would take away
// what the assault stands on.
func (a *assault) seeds() []wire {
	a.t.Helper()
	t, s := a.t, a.s
	u := newUnit(t, "SEED-1")
	broken := bytes.Clone(u.csr)
	broken[len(broken)-1] ^= 1
	rsaKey := bigRSA(t, 2048, 65537)
	rsaCSR := rsaKey.request(t, "SEED-2", oidSHA256RSA, "sha256")
	asking, err := x509.CreateCertificateRequest(crand.Reader, &x509.CertificateRequest{Subject: named("SEED-3"), DNSNames: []string{"a.example", "b.example"}, URIs: []*url.URL{{Scheme: "spiffe", Host: "x", Path: "/y"}}}, catest.NewKey(t))
	if err != nil {
		t.Fatal(err)
	}
	pemCSR := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: u.csr})
	code, _ := uplink.NewCode(nil, [32]byte{1})
	read := func(parts ...string) string {
		b, err := os.ReadFile(s.path(parts...))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	const js = "application/json"
	serial := strings.Repeat("4a", 20)
	ocsp := []byte{0x30, 0x4c, 0x30, 0x4a, 0x30, 0x48, 0x30, 0x46, 0x30, 0x44, 0x30, 0x09, 0x06, 0x05, 0x2b, 0x0e, 0x03, 0x02, 0x1a, 0x05, 0x00, 0x04, 0x14}
	ocsp = append(append(append(append(ocsp, make([]byte, 20)...), 0x04, 0x14), make([]byte, 20)...), 0x02, 0x01, 0x05)
	type m = map[string]any
	return []wire{
		{door: "factory", method: "POST", path: "/factory/v1/units/issue", media: js, tree: true, body: toJSON(t, m{"order": siteOrder, "unit": "SEED-1", "csr": u.csr, "operator": "op", "tool": "t 1"})},
		{door: "factory", method: "POST", path: "/factory/v1/units/issue", media: js, tree: true, body: toJSON(t, m{"order": siteOrder, "unit": "SEED-2", "csr": rsaCSR})},
		{door: "factory", method: "POST", path: "/factory/v1/orders/" + siteOrder + "/issue", media: "application/pkcs10", body: u.csr},
		{door: "factory", method: "POST", path: "/factory/v1/orders/" + siteOrder + "/issue", media: "application/pkcs10", body: pemCSR, unit: "SEED-1"},
		{door: "factory", method: "POST", path: "/factory/v1/orders/" + siteOrder + "/issue", media: "application/pkcs10", body: rsaCSR},
		{door: "factory", method: "POST", path: "/factory/v1/orders/" + siteOrder + "/issue", media: "application/pkcs10", body: asking},
		{door: "factory", method: "POST", path: "/factory/v1/units/commit", media: js, tree: true, body: toJSON(t, m{"order": siteOrder, "unit": "SEED-1", "serial": serial, "signature": u.csr})},
		{door: "factory", method: "POST", path: "/factory/v1/station/renew", media: js, tree: true, body: toJSON(t, m{"csr": broken})},
		{door: "factory", method: "GET", path: "/factory/v1/orders/" + siteOrder},
		{door: "enrol", method: "POST", path: "/enrol/v1/station", media: js, tree: true, body: toJSON(t, m{"station": "station-9", "code": code, "csr": u.csr})},
		{door: "device", method: "POST", path: "/bootstrap/v1/register", media: js, tree: true, body: toJSON(t, m{"csr": u.csr, "parameters": m{"Site": "Hall 3"}})},
		{door: "device", method: "POST", path: "/bootstrap/v1/nonce"},
		{door: "device", method: "GET", path: "/bootstrap/v1/whoami"},
		{door: "people", person: "ann", method: "POST", path: "/api/v1/orders", media: js, tree: true, body: toJSON(t, m{"id": "H-1", "product": "lamp", "quantity": 5, "serials": m{"prefix": "H-", "first": 1, "last": 5, "width": 3}, "key_origin": "claimed", "not_after": "2099-01-01T00:00:00Z"})},
		{door: "people", person: "ann", method: "POST", path: "/api/v1/orders", media: js, tree: true, body: toJSON(t, m{"id": "H-2", "product": "lamp", "quantity": 5, "serials": m{"pattern": "[A-Z]{3}(a|b)*[0-9]+"}, "key_origin": "manifest", "stations": []string{"station-1"}})},
		{door: "people", person: "platform", method: "PUT", path: "/api/v1/templates/h", media: js, tree: true, body: toJSON(t, m{"body": fmt.Sprintf(demoTemplate, "x:1")})},
		{door: "people", person: "platform", method: "PUT", path: "/api/v1/hooks/h", media: js, tree: true, body: toJSON(t, m{"url": "https://127.0.0.1:1/x", "allow": []string{"127.0.0.0/8"}, "roots": read("pki", "root.pem")})},
		{door: "people", person: "platform", method: "PUT", path: "/api/v1/registrations/device-9", media: js, tree: true, body: toJSON(t, m{"template": "demo", "enabled": true})},
		{door: "people", person: "platform", method: "POST", path: "/api/v1/principals", media: js, tree: true, body: toJSON(t, m{"name": "eve", "role": "operator", "days": 1})},
		{door: "people", person: "platform", method: "POST", path: "/api/v1/authorities", media: js, tree: true, body: toJSON(t, m{"name": "h-1", "duty": "device", "key_uri": "pkcs11:token=none;object=h", "common_name": "H 1"})},
		{door: "people", person: "platform", method: "POST", path: "/api/v1/authorities/device-1/install", media: js, tree: true, body: toJSON(t, m{"certificate": read("pki", "infrastructure.pem"), "root": "root-1"})},
		{door: "people", person: "platform", method: "POST", path: "/api/v1/roots", media: js, tree: true, body: toJSON(t, m{"name": "root-9", "certificate": read("pki", "issuing.pem")})},
		{door: "people", person: "platform", method: "PUT", path: "/api/v1/authorities/root-1/list", media: js, tree: true, body: toJSON(t, m{"list": read("pki", "root.crl")})},
		{door: "people", person: "bob", method: "POST", path: "/api/v1/orders/H-1/approve", media: js, tree: true, body: toJSON(t, m{"payloadType": "application/x", "payload": u.csr, "signatures": []m{{"keyid": "x", "sig": u.csr}}})},
		{door: "people", person: "ann", method: "POST", path: "/api/v1/station-codes", media: js, tree: true, body: toJSON(t, m{"station": "station-9", "site": "s"})},
		{door: "people", person: "bob", method: "POST", path: "/api/v1/certificates/" + serial + "/revoke", media: js, tree: true, body: toJSON(t, m{"reason": "keyCompromise", "note": "n"})},
		{door: "people", person: "bob", method: "POST", path: "/api/v1/devices/NOBODY/revoke", media: js, tree: true, body: toJSON(t, m{"reason": "keyCompromise", "note": "n"})},
		{door: "people", person: "bob", method: "GET", path: "/api/v1/certificates?holder=SEED&limit=3&order=" + siteOrder},
		{door: "people", person: "bob", method: "GET", path: "/api/v1/things?attribute=serial&value=S&cursor=AAAA"},
		{door: "people", person: "bob", method: "GET", path: "/api/v1/orders/" + siteOrder + "/units?limit=2"},
		{door: "public", method: "POST", path: "/ocsp/device-1", media: "application/ocsp-request", body: ocsp},
		{door: "public", method: "GET", path: "/ocsp/device-1/" + base64.URLEncoding.EncodeToString(ocsp)},
		{door: "public", method: "GET", path: "/crl/device-1/0.crl"},
		{door: "public", method: "GET", path: "/ca/device-1.cer"},
		{door: "public", method: "GET", path: "/log/tile/0/000"},
		{door: "public", method: "GET", path: "/log/checkpoint"},
	}
}

// twist makes a hostile request of a good one.
func (m mutator) twist(w wire) wire {
	switch {
	case w.method == "GET" || w.body == nil || m.IntN(12) == 0:
		at := 1 + strings.LastIndexAny(w.path[:len(w.path)-1], "/=")
		head, tail := w.path[:at], string(m.octets([]byte(w.path[at:])))
		tail = tail[:min(len(tail), 6000)]
		w.path = head + url.PathEscape(tail)
		if strings.Contains(w.path, "?") {
			w.path = head + url.QueryEscape(tail)
		}
	case w.tree && m.IntN(3) > 0:
		w.body = m.document(w.body)
	default:
		w.body = m.octets(w.body)
	}
	if m.IntN(60) == 0 {
		w.media = "text/" + strconv.Itoa(m.IntN(9))
	}
	return w
}

// TestHostile_TheServiceAnswersEveryMutationWithACode is the third acceptance of
// the hostile input issue (A51, A56, A57, A67): mutated requests of every kind to
// every door of a service in a process of its own.
func TestHostile_TheServiceAnswersEveryMutationWithACode(t *testing.T) {
	n := 2000
	if long() {
		n = 10_000
	}
	o := anyName(1_000_000)
	o.CnIsUnit = true
	s := newSite(t, "software", "", o)
	s.halt()
	p := s.service("hallmark.yaml", "state")
	a := newAssault(t, s)
	a.as(s.issue(newUnit(t, "DEVICE-1")))
	seeds := a.seeds()
	m := newMutator(1)
	for range 3 { // warm: caches, pools, prepared statements, every route once
		for _, w := range seeds {
			a.must(w)
			a.must(m.twist(w))
		}
	}
	a.must(wire{door: "people", person: "ann", method: "POST", path: "/api/v1/orders", media: "application/json", body: bytes.Repeat([]byte("-"), 10<<20)})
	before := a.resident()
	codes, statuses := map[string]int{}, map[int]int{}
	for i := range n {
		v := a.must(m.twist(seeds[i%len(seeds)]))
		codes[v.code]++
		statuses[v.status]++
	}
	grown := a.resident() - before
	bound := 50.0
	if raced() {
		bound = 300
	}
	t.Logf("%d requests, statuses %v, %d codes, memory %+.1f MB to %.1f MB", n, statuses, len(codes), grown/1e6, (grown+before)/1e6)
	if grown > bound*1e6 {
		t.Errorf("the service's memory grew by %.0f MB", grown/1e6)
	}
	if panics := a.metric("hallmark_http_panics_total"); panics != 0 {
		t.Errorf("%v handlers panicked", panics)
	}
	if len(codes) < 15 {
		t.Errorf("only %d codes: the mutations do not reach far", len(codes))
	}
	s.commits(t, newUnit(t, "AFTER-1"))
	if err := p.stop(); err != nil {
		t.Errorf("the service: %v", err)
	}
	if lines := bytes.Count(p.said.Bytes(), []byte("panic")); lines != 0 {
		t.Errorf("the service said panic %d times", lines)
	}
	s.clean()
}

// commits makes a unit from request to commit and verifies its certificate.
func (s *site) commits(t testing.TB, u unit) {
	t.Helper()
	cert := s.stationPair()
	c := s.client(&cert, 1)
	r, err := call(t.Context(), c, "POST", "https://"+s.door("factory")+"/factory/v1/units/issue", u.request())
	if err != nil || r.status != http.StatusOK {
		t.Fatalf("issue %s: %v %s %s", u.name, err, r, r.body)
	}
	var a struct {
		Serial             string
		Certificate, Nonce []byte
		Chain              [][]byte
	}
	if err := json.Unmarshal(r.body, &a); err != nil {
		t.Fatal(err)
	}
	if err := s.verifies(a.Certificate, a.Chain, u); err != nil {
		t.Fatalf("the certificate of %s: %v", u.name, err)
	}
	sig, err := uplink.SignCommit(u.key, uplink.CommitMessage(a.Nonce, u.name, a.Certificate))
	if err != nil {
		t.Fatal(err)
	}
	r, err = call(t.Context(), c, "POST", "https://"+s.door("factory")+"/factory/v1/units/commit", map[string]any{"order": siteOrder, "unit": u.name, "serial": a.Serial, "signature": sig})
	if err != nil || r.status != http.StatusOK {
		t.Fatalf("commit %s: %v %s", u.name, err, r)
	}
}

// verifies tells whether a certificate is of a unit and ends in the site's root.
func (s *site) verifies(der []byte, chain [][]byte, u unit) error {
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return err
	}
	between := x509.NewCertPool()
	for _, c := range chain {
		issuer, err := x509.ParseCertificate(c)
		if err != nil {
			return err
		}
		between.AddCert(issuer)
	}
	if leaf.Subject.CommonName != u.name || !u.key.PublicKey.Equal(leaf.PublicKey) {
		return fmt.Errorf("it is of %s or has another key", leaf.Subject)
	}
	_, err = leaf.Verify(x509.VerifyOptions{Roots: s.roots, Intermediates: between, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}})
	return err
}

// TestA56_HugeRequestsAreRefusedAtOnce sends the shapes that other parsers fell
// over.
func TestA56_HugeRequestsAreRefusedAtOnce(t *testing.T) {
	o := anyName(1000)
	o.CnIsUnit = true
	s := newSite(t, "software", "", o)
	a := newAssault(t, s)
	names := make([]string, 10_000)
	for i := range names {
		names[i] = fmt.Sprintf("h%d.example", i)
	}
	manySAN, err := x509.CreateCertificateRequest(crand.Reader, &x509.CertificateRequest{Subject: named("A"), DNSNames: names}, catest.NewKey(t))
	if err != nil {
		t.Fatal(err)
	}
	nested := []byte{}
	for range 100 {
		nested = append([]byte{0x30, 0x82, byte(len(nested) >> 8), byte(len(nested))}, nested...)
	}
	for name, body := range map[string][]byte{
		"10,000 SANs":        manySAN,
		"1 MB":               append([]byte{0x30, 0x83, 0x0f, 0xff, 0xfb}, make([]byte, 1<<20-5)...),
		"nesting":            nested,
		"indefinite lengths": bytes.Repeat([]byte{0x30, 0x80}, 5000),
		"10 MB of dashes":    bytes.Repeat([]byte("-"), 10<<20),
		"PEM of dashes":      append([]byte("-----BEGIN CERTIFICATE REQUEST-----\n"), bytes.Repeat([]byte("-"), 60<<10)...),
		"2^31 octets":        {0x30, 0x84, 0x80, 0, 0, 0, 1},
		"2^63 octets":        {0x30, 0x88, 0x80, 0, 0, 0, 0, 0, 0, 0, 1},
	} {
		v := a.must(wire{door: "factory", method: "POST", path: "/factory/v1/orders/" + siteOrder + "/issue", body: body})
		if (v.status != 0 || len(body) < 64<<10) && (v.status != http.StatusBadRequest || !strings.HasPrefix(v.code, "csr-") && v.code != "body-unreadable") {
			t.Errorf("%s: %s", name, v)
		}
	}
	for name, body := range map[string]string{ // A67
		"depth 10,000":   strings.Repeat("[", 10_000),
		"objects":        strings.Repeat(`{"id":`, 10_000),
		"10 MB number":   `{"quantity":` + strings.Repeat("9", 10<<20) + `}`,
		"number":         `{"id":"X","product":"p","quantity":` + strings.Repeat("9", 60_000) + `,"serials":{"list":["A"]},"key_origin":"claimed"}`,
		"duplicate keys": `{"id":"X","id":"Y","product":"p","quantity":1,"serials":{"list":["A"]},"key_origin":"claimed"}`,
		"unknown field":  `{"id":"X","product":"p","quantity":1,"serials":{"list":["A"]},"key_origin":"claimed","admin":true}`,
		"other case":     `{"ID":"X","product":"p","quantity":1,"serials":{"list":["A"]},"key_origin":"claimed"}`,
		"NaN":            `{"id":"X","product":"p","quantity":NaN,"serials":{"list":["A"]},"key_origin":"claimed"}`,
		"BOM":            "\ufeff" + `{"id":"X","product":"p","quantity":1,"serials":{"list":["A"]},"key_origin":"claimed"}`,
		"two documents":  `{"id":"X","product":"p","quantity":1,"serials":{"list":["A"]},"key_origin":"claimed"}{}`,
		"invalid UTF-8":  `{"id":"X","product":"p` + "\xff" + `","quantity":1,"serials":{"list":["A"]},"key_origin":"claimed"}`,
		"lone surrogate": `{"id":"X","product":"p\ud800","quantity":1,"serials":{"list":["A"]},"key_origin":"claimed"}`,
		"fraction":       `{"id":"X","product":"p","quantity":1.5,"serials":{"list":["A"]},"key_origin":"claimed"}`,
	} {
		v := a.must(wire{door: "people", person: "ann", method: "POST", path: "/api/v1/orders", media: "application/json", body: []byte(body)})
		if (v.status != 0 || len(body) < 64<<10) && v.status != http.StatusBadRequest {
			t.Errorf("%s: %s", name, v)
		}
	}
	s.commits(t, newUnit(t, "AFTER-1"))
	s.halt()
	s.clean()
}

// TestHostile_ConfigurationsAndTemplates mutates what people write in files.
func TestHostile_ConfigurationsAndTemplates(t *testing.T) {
	n := 1000
	if long() {
		n = 5000
	}
	spki, err := x509.MarshalPKIXPublicKey(catest.NewKey(t).Public())
	if err != nil {
		t.Fatal(err)
	}
	key := strings.ReplaceAll(string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: spki})), "\n", "\n      ")
	yaml := []byte("state: state\nbase_url: http://pki.example.com\nserver_names: [pki.example.com, 192.0.2.1]\napprovers:\n  - name: ana\n    key: |\n      " + key + "\ndomain: devices.example\n")
	if _, err := parseConfig(yaml, "."); err != nil {
		t.Fatal(err)
	}
	small := []byte("state: state\nbase_url: http://localhost:8080\nlisten:\n  people: 127.0.0.1:1\nlists: {validity: 24h, shards: 3}\napprovals_needed: 1\nlog_level: debug\n")
	bomb := []byte("a: &a [x,x,x,x,x,x,x,x,x]\n")
	for i := range 9 {
		bomb = fmt.Appendf(bomb, "%c: &%c [*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c,*%c]\n", 'b'+i, 'b'+i, 'a'+i, 'a'+i, 'a'+i, 'a'+i, 'a'+i, 'a'+i, 'a'+i, 'a'+i, 'a'+i)
	}
	m, dir := newMutator(2), t.TempDir()
	timed := func(what string, in []byte, do func() error) {
		t.Helper()
		for try := range 5 {
			start := time.Now()
			err := do()
			if f := fault.From(err); err != nil && f.Kind != fault.Invalid {
				t.Errorf("%s %.300q: %v", what, in, err)
			}
			if took := time.Since(start); took <= limit() {
				return
			} else if try == 4 {
				t.Errorf("%s of %d octets %.300q took %v", what, len(in), in, took)
			}
		}
	}
	seeds := [][]byte{yaml, small, bomb}
	for i := range n {
		in := seeds[i%3]
		if i >= 3 {
			in = m.octets(in)
		}
		timed("configuration", in, func() error { _, err := parseConfig(in, dir); return err })
	}
	templates := [][]byte{
		fmt.Appendf(nil, demoTemplate, "x:1"),
		[]byte(`{"Parameters":{"P":{"Type":"String"}},"Mappings":{"M":{"eu":{"host":"a"}}},"Resources":{"t":{"Type":"AWS::IoT::Thing","Properties":{"ThingName":{"Fn::Join":["-",["a",{"Ref":"P"}]]},"AttributePayload":{"x":{"Fn::Sub":["${a}${P}",{"a":{"Fn::Select":[0,{"Fn::Split":[",",{"Ref":"P"}]}]}}]},"y":{"Fn::FindInMap":["M",{"Ref":"P"},"host"]}}}},"certificate":{"Type":"AWS::IoT::Certificate","Properties":{"CertificateId":{"Ref":"AWS::IoT::Certificate::Id"},"Status":"ACTIVE"}},"p":{"Type":"AWS::IoT::Policy","Properties":{"PolicyDocument":"{\"Version\":\"2012-10-17\",\"Statement\":[]}"}}}}`),
	}
	for i := range n {
		in := m.octets(templates[i%2])
		if i%3 == 0 {
			in = m.document(templates[i%2])
		}
		kind := template.Kind(i % 3)
		timed("template", in, func() error {
			tmpl, err := template.Parse(in, kind)
			if err != nil {
				return err
			}
			device := map[string]string{}
			for _, p := range tmpl.Parameters() {
				if !p.Service && kind != template.JITP {
					device[p.Name] = hostileNames[i%len(hostileNames)].text
				}
			}
			_, err = tmpl.Evaluate(template.Input{Service: map[string]string{"AWS::IoT::Certificate::SerialNumber": "SN1", "AWS::IoT::Certificate::Id": "1"}, Device: device})
			return err
		})
	}
}
