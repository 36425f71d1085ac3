package main

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"reflect"
	"slices"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"hallmark/api/adminapi"
	"hallmark/ca/catest"
)

var tlsDoors = []string{"people", "device", "factory", "enrol"}

// scanned is what a scanner sees of a door.
type scanned struct {
	Versions []string // that it speaks
	Suites   []string // of TLS 1.2
	Groups   []string // of TLS 1.3
	Protocol string   // by ALPN
	Asks     bool     // for a client certificate
	Accepts  int      // names of authorities in that question
	Bare     string   // what becomes of a request without a client certificate
	Names    []string // in its certificate
}

// scan tries versions, suites and groups one by one, as sslscan does.
func (s *site) scan(t testing.TB, door string) scanned {
	t.Helper()
	addr := s.door(door)
	var out scanned
	// try is one handshake up to the server's last word: in TLS 1.3 a client is
	// done before the server looked at its certificate.
	try := func(change func(*tls.Config)) (*tls.ConnectionState, error) {
		c := &tls.Config{RootCAs: s.roots, MinVersion: tls.VersionTLS10}
		c.GetClientCertificate = func(q *tls.CertificateRequestInfo) (*tls.Certificate, error) {
			out.Asks, out.Accepts = true, len(q.AcceptableCAs)
			return &tls.Certificate{}, nil
		}
		change(c)
		conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", addr, c)
		if err != nil {
			return nil, err
		}
		defer conn.Close()
		st := conn.ConnectionState()
		return &st, nil
	}
	cert := s.stationPair()
	shown := func(c *tls.Config) {
		if door == "factory" { // which hangs up on who has no certificate
			c.GetClientCertificate = func(q *tls.CertificateRequestInfo) (*tls.Certificate, error) {
				out.Asks, out.Accepts = true, len(q.AcceptableCAs)
				return &cert, nil
			}
		}
	}
	for _, v := range []uint16{tls.VersionTLS10, tls.VersionTLS11, tls.VersionTLS12, tls.VersionTLS13} {
		st, err := try(func(c *tls.Config) { c.MinVersion, c.MaxVersion = v, v; shown(c) })
		if err == nil {
			out.Versions = append(out.Versions, tls.VersionName(v))
		}
		if st != nil && out.Names == nil {
			out.Names = append(out.Names, st.PeerCertificates[0].DNSNames...)
		}
	}
	for _, suite := range append(tls.CipherSuites(), tls.InsecureCipherSuites()...) {
		if !slices.Contains(suite.SupportedVersions, uint16(tls.VersionTLS12)) {
			continue
		}
		if _, err := try(func(c *tls.Config) {
			c.MinVersion, c.MaxVersion, c.CipherSuites = tls.VersionTLS12, tls.VersionTLS12, []uint16{suite.ID}
			shown(c)
		}); err == nil {
			out.Suites = append(out.Suites, suite.Name)
		}
	}
	for _, g := range []tls.CurveID{tls.CurveP256, tls.CurveP384, tls.CurveP521, tls.X25519, tls.X25519MLKEM768} {
		if _, err := try(func(c *tls.Config) { c.MinVersion, c.CurvePreferences = tls.VersionTLS13, []tls.CurveID{g}; shown(c) }); err == nil {
			out.Groups = append(out.Groups, g.String())
		}
	}
	if st, err := try(func(c *tls.Config) { c.NextProtos = []string{"h2", "http/1.1"}; shown(c) }); err == nil {
		out.Protocol = st.NegotiatedProtocol
	}
	tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: s.roots}}
	defer tr.CloseIdleConnections()
	r, err := (&http.Client{Transport: tr, Timeout: 10 * time.Second}).Get("https://" + addr + doorPath[door])
	if err != nil {
		out.Bare = "no connection"
	} else {
		r.Body.Close()
		out.Bare = r.Status
	}
	return out
}

// doorPath is a route of each door that answers GET.
var doorPath = map[string]string{"people": "/api/v1/me", "device": "/bootstrap/v1/whoami", "factory": "/factory/v1/orders/" + siteOrder, "enrol": "/enrol/v1/station"}

// TestA61_AScanOfEveryDoorIsSoundAndTheSameAfterAReload covers A60 too: no door
// gets weaker, whatever happens to the authorities it trusts.
func TestA61_AScanOfEveryDoorIsSoundAndTheSameAfterAReload(t *testing.T) {
	s := newSite(t, "software", "", anyName(100))
	before := map[string]scanned{}
	for _, door := range tlsDoors {
		got := s.scan(t, door)
		before[door] = got
		t.Logf("%s: %+v", door, got)
		if !reflect.DeepEqual(got.Versions, []string{"TLS 1.2", "TLS 1.3"}) {
			t.Errorf("%s speaks %v", door, got.Versions)
		}
		if len(got.Suites) == 0 || len(got.Groups) == 0 {
			t.Errorf("%s: the scan saw no suites or groups", door)
		}
		for _, suite := range got.Suites {
			if !strings.HasPrefix(suite, "TLS_ECDHE_") || strings.Contains(suite, "RC4") || strings.Contains(suite, "3DES") || strings.Contains(suite, "CBC_SHA256") {
				t.Errorf("%s takes %s", door, suite)
			}
		}
		asks, bare := false, "401 Unauthorized"
		switch door {
		case "device":
			asks = true
		case "factory":
			asks, bare = true, "no connection"
		case "enrol":
			bare = "405 Method Not Allowed"
		}
		if got.Asks != asks || got.Bare != bare {
			t.Errorf("%s: asks for a certificate %v, without one %s", door, got.Asks, got.Bare)
		}
	}
	same := func(when string) {
		t.Helper()
		for _, door := range tlsDoors {
			if after := s.scan(t, door); !reflect.DeepEqual(after, before[door]) {
				t.Errorf("%s: the %s door is %+v, was %+v", when, door, after, before[door])
			}
		}
	}
	if err := s.server.renewDoors(t.Context()); err != nil {
		t.Fatal(err)
	}
	same("after a reload")
	// The first authority again: refused, and nothing at the doors changes.
	platform, err := s.as("platform")
	if err != nil {
		t.Fatal(err)
	}
	r, err := platform.InstallAuthorityWithResponse(t.Context(), "infra-1", adminapi.InstallRequest{Certificate: "garbage", Root: "root-1"})
	if err != nil || r.StatusCode() < 400 {
		t.Fatalf("garbage was installed: %v %d", err, r.StatusCode())
	}
	same("after garbage was refused")
	s.again2()
	same("after a restart")

	// A60: a door that trusts nobody lets nobody in.
	full := s.server.tls.Load()
	empty := *full
	empty.infra = x509.NewCertPool()
	s.server.tls.Store(&empty)
	cert := s.stationPair()
	if conn, err := tls.Dial("tcp", s.door("factory"), s.tlsConfig(&cert)); err == nil {
		conn.SetReadDeadline(time.Now().Add(5 * time.Second))
		if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, io.EOF) || isTimeout(err) {
			t.Errorf("a station came in through a door that trusts nobody: %v", err)
		}
		conn.Close()
	}
	if got := s.scan(t, "factory"); got.Bare != "no connection" || len(got.Suites) != 0 {
		t.Errorf("with an empty pool the factory door is %+v", got)
	}
	s.server.tls.Store(full)
	same("with the pool again")
	s.commits(t, newUnit(t, "SCAN-1"))
}

func isTimeout(err error) bool {
	var n net.Error
	return errors.As(err, &n) && n.Timeout()
}

// again2 is a restart on the same addresses.
func (s *site) again2() {
	s.halt()
	s.again()
}

// TestA60_BeforeAnAuthorityTheFactoryDoorIsShut looks at a service of which only
// the state directory exists.
func TestA60_BeforeAnAuthorityTheFactoryDoorIsShut(t *testing.T) {
	cfg, err := parseConfig([]byte("listen: {people: '127.0.0.1:0', device: '127.0.0.1:0', mqtt: '127.0.0.1:0', factory: '127.0.0.1:0', enrol: '127.0.0.1:0', public: '127.0.0.1:0', metrics: '127.0.0.1:0'}\n"), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	srv, err := newServer(t.Context(), cfg, serverOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer srv.Close()
	if err := srv.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, door := range []string{"factory", "enrol"} {
		if conn, err := tls.Dial("tcp", srv.Addr(door), &tls.Config{InsecureSkipVerify: true}); err == nil {
			conn.Close()
			t.Errorf("the %s door shook hands without an authority", door)
		}
	}
	tr := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	defer tr.CloseIdleConnections()
	r, err := (&http.Client{Transport: tr}).Get("https://" + srv.Addr("device") + "/bootstrap/v1/whoami")
	if err == nil {
		r.Body.Close()
		if r.StatusCode != http.StatusUnauthorized {
			t.Errorf("the device door answers %s", r.Status)
		}
	}
}

// TestA60_OnlyTheInfrastructureAuthorityMakesStations shows certificates of other
// makers at the factory door: of the device authority and of a stranger of the
// same names.
func TestA60_OnlyTheInfrastructureAuthorityMakesStations(t *testing.T) {
	s := newSite(t, "software", "", anyName(100))
	device := s.issue(newUnit(t, "ROLE-1"))
	station := s.stationPair()
	genuine, err := x509.ParseCertificate(station.Certificate[0])
	if err != nil {
		t.Fatal(err)
	}
	key := catest.NewKey(t)
	maker := *genuine
	maker.PublicKey = key.Public()
	forged, err := x509.CreateCertificate(rand.Reader, genuine, &maker, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string]tls.Certificate{
		"a device":                        device,
		"a copy of the station's subject": {Certificate: append([][]byte{forged}, station.Certificate[1:]...), PrivateKey: key},
	} {
		if r, err := call(t.Context(), s.client(&c, 1), "GET", "https://"+s.door("factory")+doorPath["factory"], nil); err == nil {
			t.Errorf("%s came in: %s", what, r)
		}
	}
}

// TestA62_HeadersSpeakForNobody sends what a proxy would say about a client.
func TestA62_HeadersSpeakForNobody(t *testing.T) {
	s := newSite(t, "software", "", anyName(100))
	a := newAssault(t, s)
	station := s.stationPair()
	pemText := url.QueryEscape(string(catest.PEM(must(x509.ParseCertificate(station.Certificate[0])))))
	headers := http.Header{}
	for _, name := range []string{"X-SSL-Client-Cert", "X-Ssl-Client-Verify", "SSL_CLIENT_CERT", "X-Client-Cert", "X-Forwarded-Client-Cert", "Client-Cert", "X-Amzn-Mtls-Clientcert", "X-Forwarded-User", "X-Forwarded-For", "X-Real-Ip", "Forwarded", "x_forwarded_for", "X-HTTP-Method-Override", "X-Original-URL", "X-Rewrite-Url"} {
		headers[name] = []string{pemText, "platform", "127.0.0.1"}
	}
	headers["X-Original-Url"] = []string{"/api/v1/principals"}
	device := s.issue(newUnit(t, "HEADER-1"))
	for _, c := range []struct {
		door   string
		client *http.Client
		status int // 0: no connection
	}{
		{"people", s.client(nil, 1), 401}, {"device", s.client(nil, 1), 401}, {"factory", s.client(nil, 1), 0}, {"enrol", s.client(nil, 1), 405},
		{"device", s.client(&station, 1), 403}, {"factory", s.client(&device, 1), 0}, {"factory", s.client(&station, 1), 200},
	} {
		q, err := http.NewRequest("GET", "https://"+s.door(c.door)+doorPath[c.door], nil)
		if err != nil {
			t.Fatal(err)
		}
		q.Header = headers.Clone()
		r, err := c.client.Do(q)
		switch {
		case err != nil && c.status != 0:
			t.Errorf("%s: %v", c.door, err)
		case err == nil && r.StatusCode != c.status:
			t.Errorf("%s: %s, want %d", c.door, r.Status, c.status)
		}
		if err == nil {
			r.Body.Close()
		}
	}
	// Nor do they get around the count of wrong codes (S14).
	limited := 0
	for i := range 15 {
		q, err := http.NewRequest("POST", "https://"+s.door("enrol")+"/enrol/v1/station", strings.NewReader("{}"))
		if err != nil {
			t.Fatal(err)
		}
		q.Header.Set("X-Forwarded-For", fmt.Sprintf("192.0.2.%d", i))
		q.Header.Set("Content-Type", "application/json")
		r, err := a.clients["enrol"].Do(q)
		if err != nil {
			t.Fatal(err)
		}
		r.Body.Close()
		if r.StatusCode == http.StatusTooManyRequests {
			limited++
		}
	}
	if limited < 4 {
		t.Errorf("only %d of 15 attempts were refused for their number", limited)
	}
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

// TestA63_APathHasOneSpelling writes the paths of every door in other ways, as they
// are, over a connection of its own.
func TestA63_APathHasOneSpelling(t *testing.T) {
	s := newSite(t, "software", "", anyName(100))
	a := newAssault(t, s)
	device := s.issue(newUnit(t, "PATH-1"))
	for _, c := range []struct {
		door string
		cert *tls.Certificate
		auth string
	}{{"people", nil, ""}, {"people", nil, a.tokens["ann"]}, {"device", &device, ""}, {"device", nil, ""}, {"factory", &a.station, ""}} {
		ask := func(path string) (status int) {
			conn, err := tls.Dial("tcp", s.door(c.door), s.tlsConfig(c.cert))
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			auth := ""
			if c.auth != "" {
				auth = "Authorization: Bearer " + c.auth + "\r\n"
			}
			fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: x\r\n%sConnection: close\r\n\r\n", path, auth)
			answer, _ := io.ReadAll(conn)
			fmt.Sscanf(string(answer), "HTTP/1.1 %d", &status)
			return status
		}
		clean := doorPath[c.door]
		want, last := ask(clean), strings.LastIndexByte(clean, '/')
		if want == 0 || want == 404 {
			t.Fatalf("%s %s: %d", c.door, clean, want)
		}
		for _, p := range []string{
			"/" + clean, clean[:last] + "/" + clean[last:], clean[:last] + "/." + clean[last:], clean[:last] + "/x/.." + clean[last:], clean[:last] + "/%2e%2e/x", clean[:last] + "/x/%2e%2e" + clean[last:],
			clean[:last] + "%2F" + clean[last+1:], clean[:last] + "%2f" + clean[last+1:], clean + ".", clean + "/", clean + "/.", clean + "%00", clean + "%20", clean + ";x=1", clean + "#x", strings.ToUpper(clean), strings.Replace(clean, "v1", "V1", 1),
			strings.ReplaceAll(clean, "/", "\\"), "/%" + fmt.Sprintf("%02x", clean[1]) + clean[2:], clean[:last] + "/%252e%252e" + clean[last:], "/./" + clean[1:], "https://evil.example" + clean, clean + "?x=1#y",
		} {
			got := ask(p)
			// One letter encoded, the host in the request line or a query is the same path.
			if got != want && got != http.StatusNotFound && got != http.StatusBadRequest {
				t.Errorf("%s %s: %d, the clean path %d", c.door, p, got, want)
			}
		}
	}
}

// TestA68_SlowClientsDoNotStopTheLine holds connections open at one octet a second,
// some before and some after the handshake, while stations work.
func TestA68_SlowClientsDoNotStopTheLine(t *testing.T) {
	n := 500
	if long() {
		n = 2000
	}
	s := newSite(t, "software", "", anyName(100_000))
	a := newAssault(t, s)
	p99 := func(prefix string) time.Duration {
		t.Helper()
		var times []time.Duration
		for i := range 150 {
			v, err := a.send(t.Context(), newUnit(t, fmt.Sprintf("%s-%d", prefix, i)).wire(t))
			if err != nil || v.status != http.StatusOK {
				t.Fatalf("%v %s", err, v)
			}
			times = append(times, v.took)
		}
		sort.Slice(times, func(i, j int) bool { return times[i] < times[j] })
		return times[len(times)*99/100]
	}
	p99("WARM")
	quiet := p99("QUIET")
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	var opened, dropped sync.Map
	for i := range n {
		wg.Go(func() {
			conn, err := net.Dial("tcp", s.door("factory"))
			if err != nil {
				return
			}
			defer conn.Close()
			text := []byte("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03") // the start of a ClientHello
			if i%2 == 1 {
				conf := s.tlsConfig(&a.station)
				conf.ServerName = "localhost"
				c := tls.Client(conn, conf)
				if err := c.HandshakeContext(ctx); err != nil {
					if ctx.Err() == nil {
						t.Errorf("a slow client's handshake: %v", err)
					}
					return
				}
				conn, text = c, []byte("POST /factory/v1/units/issue HTTP/1.1\r\n")
			}
			opened.Store(i, true)
			for k := 0; every(ctx, time.Second); k++ {
				if _, err := conn.Write(text[k%len(text) : k%len(text)+1]); err != nil {
					dropped.Store(i, true)
					return
				}
			}
		})
	}
	count := func(m *sync.Map) (n int) {
		m.Range(func(any, any) bool { n++; return true })
		return n
	}
	until(t, "slow connections", 20*time.Second, func() bool { return count(&opened) > n*9/10 })
	busy := p99("BUSY")
	t.Logf("%d slow connections: p99 %v, was %v", count(&opened), busy, quiet)
	if busy > 2*quiet+50*time.Millisecond && !raced() { // the machine is shared
		t.Errorf("p99 rose from %v to %v", quiet, busy)
	}
	// And the service hangs up on them: nobody has more than 5 s for a head.
	until(t, "the slow ones are dropped", 20*time.Second, func() bool { return count(&dropped) > n/2 })
	cancel()
	wg.Wait()
	s.halt()
	s.clean()
}

// TestA57_NothingOutsideTheCommandEndsTheProcess looks for what no recover stops,
// and for panics in the way of requests: they belong to start-up only.
func TestA57_NothingOutsideTheCommandEndsTheProcess(t *testing.T) {
	// Panics that can only happen while the program starts, or that are a
	// programmer's mistake which every test meets.
	allowed := map[string]string{
		"bootstrap/wire.go:must":                "fixed options of the codec, checked by every start",
		"bootstrap/acme/attest.go:a variable":   "fixed options of the codec, checked by every start",
		"internal/fault/fault.go:Define":        "a code defined twice",
		"internal/der/oid.go:MustOID":           "a constant that is no identifier",
		"ca/keycheck/blocklist.go:a variable":   "the list in the binary",
		"station/uplink/code.go:NewCode":        "no randomness, as in crypto/rand",
		"internal/seal/box.go:gcm":              "HKDF and AES with constant lengths",
		"web/edge.go:survive":                   "http.ErrAbortHandler goes on to net/http",
		"fleet/ota/manifest/manifest.go:must":   "constants of the program, before it does anything",
		"cmd/hallmark/station.go:requiredFlags": "a flag that does not exist", "cmd/hallmark/ceremony.go:ceremonyRequired": "a flag that does not exist",
	}
	fset, files := token.NewFileSet(), 0
	err := filepath.WalkDir("../..", func(name string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel("../..", name)
		if e.IsDir() {
			if strings.HasSuffix(e.Name(), "test") || e.Name() == "testdata" || e.Name() == "vpiv" || strings.HasPrefix(rel, "api") || strings.HasPrefix(e.Name(), ".") && e.Name() != ".." && rel != "." {
				return fs.SkipDir
			}
			return nil
		}
		if !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return nil
		}
		f, err := parser.ParseFile(fset, name, nil, 0)
		if err != nil {
			return err
		}
		files++
		for _, d := range f.Decls {
			fn := "a variable"
			if fd, ok := d.(*ast.FuncDecl); ok {
				fn = fd.Name.Name
			}
			ast.Inspect(d, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok {
					return true
				}
				at := fmt.Sprintf("%s:%d (%s)", rel, fset.Position(call.Pos()).Line, fn)
				switch f := call.Fun.(type) {
				case *ast.Ident:
					if f.Name == "panic" && allowed[rel+":"+fn] == "" {
						t.Errorf("%s panics", at)
					}
				case *ast.SelectorExpr:
					x, ok := f.X.(*ast.Ident)
					if !ok {
						return true
					}
					switch what := x.Name + "." + f.Sel.Name; {
					case strings.HasPrefix(what, "log.Fatal"), strings.HasPrefix(what, "log.Panic"), what == "runtime.Goexit":
						t.Errorf("%s calls %s", at, what)
					case what == "os.Exit" && rel != "cmd/hallmark/main.go" && rel != "hsm/pkcs11/child_linux.go": // which is a command of its own
						t.Errorf("%s calls %s", at, what)
					}
				}
				return true
			})
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if files < 80 {
		t.Errorf("only %d files were read", files)
	}
}
