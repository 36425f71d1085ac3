package main

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"hallmark/api/adminapi"
	"hallmark/api/factoryapi"
	"hallmark/ca/catest"
	"hallmark/ca/csr"
	"hallmark/hsm/hsmtest"
	"hallmark/hsm/softhsm"
	"hallmark/internal/freeport"
)

// long tells whether the long form of a proof was asked for (make proof).
func long() bool { return os.Getenv("HALLMARK_PROOF") == "1" }

// site is a whole installation in a directory: root, authorities, people, an open
// order (siteOrder) and an enrolled station. Its service can run in this process,
// where a test reaches into it, or as processes that can be killed.
type site struct {
	stage
	t testing.TB
}

const siteOrder = "ORDER-1"

// newSite sets the installation up with the service in this process, which keeps
// running until [site.halt]. Its ports are fixed, so that a service that is
// started again is found again.
func newSite(t testing.TB, hsm, database string, o adminapi.OrderRequest) *site {
	t.Helper()
	return newChangedSite(t, hsm, database, o, nil)
}

// newChangedSite lets a test change the site between its directory and its service.
func newChangedSite(t testing.TB, hsm, database string, o adminapi.OrderRequest, change func(*site)) *site {
	t.Helper()
	if hsm == "softhsm" {
		if err := softhsm.Available(); err != nil {
			hsmtest.Missing(t, err.Error())
		}
	}
	g := &globals{JSON: true, Out: io.Discard, Err: io.Discard, In: strings.NewReader(""), Now: time.Now}
	s := &site{stage: stage{g: g, dir: filepath.Join(t.TempDir(), "site"), hsm: hsm, freePorts: true, database: database}, t: t}
	ctx := context.Background()
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"check", func(context.Context) error { return s.check() }},
		{"prepare", s.prepare},
		{"ports", func(context.Context) error { return fixPorts(s.path("hallmark.yaml")) }},
		{"change", func(context.Context) error {
			s.configure("one_person: true\n") // second persons have tests of their own
			if change != nil {
				change(s)
			}
			return nil
		}},
		{"approver", func(context.Context) error { return s.lighten("people", "bob.pem") }},
		{"serve", s.serve},
		{"ceremony", s.ceremony},
		{"order", func(ctx context.Context) error { return s.openOrder(ctx, o) }},
		{"enrol", s.enrol},
	} {
		if err := step.do(ctx); err != nil {
			s.halt()
			t.Fatalf("setting up the site, %s: %v", step.name, err)
		}
	}
	t.Cleanup(func() {
		s.halt()
		keepsContract(t)
	})
	return s
}

// quickHSM is where keys live when a test does not care: opening an encrypted
// file takes long on purpose.
func quickHSM() string {
	if softhsm.Available() == nil {
		return "softhsm"
	}
	return "software"
}

// lighten encrypts a key file again with few iterations: what costs a thief time
// costs it here too, and the race detector multiplies it.
func (s *site) lighten(name ...string) error {
	file, pin := s.path(name...), "pass:demo-1234"
	out, err := tool(s.t, nil, "openssl", "pkcs8", "-in", file, "-passin", pin, "-topk8", "-v2", "aes-256-cbc", "-v2prf", "hmacWithSHA256", "-iter", "1000", "-passout", pin, "-out", file+".new")
	if err != nil {
		return fmt.Errorf("openssl: %w: %s", err, out)
	}
	return os.Rename(file+".new", file)
}

// lamps is an order for n units that the service numbers.
func lamps(n int) adminapi.OrderRequest {
	return adminapi.OrderRequest{Id: siteOrder, Product: "lamp", Quantity: int64(n), Organization: "Example", KeyOrigin: "claimed",
		Serials: adminapi.SerialRule{Prefix: "LMP-", First: 1, Last: int64(n), Width: 6}}
}

// anyName is an order for n units whose serials the station chooses.
func anyName(n int) adminapi.OrderRequest {
	o := lamps(n)
	o.Serials = adminapi.SerialRule{Pattern: "[A-Z0-9-]+"}
	return o
}

var (
	anyPort    = regexp.MustCompile(`127\.0\.0\.1:0\b`)
	publicPort = regexp.MustCompile(`public: 127\.0\.0\.1:([1-9]\d*)`)
	otherPort  = regexp.MustCompile(`127\.0\.0\.1:\d+`)
)

// fixPorts gives every door of a configuration a port that is free, and stays so
// while the service of this site is not running.
func fixPorts(file string) error {
	text, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if m := publicPort.FindSubmatch(text); m != nil { // the base URL has it too
		port, err := freeport.Take(1)
		if err != nil {
			return err
		}
		text = bytes.ReplaceAll(text, m[1], []byte(fmt.Sprint(port)))
	}
	text = anyPort.ReplaceAllFunc(text, func([]byte) []byte {
		port, perr := freeport.Take(1)
		if perr != nil {
			err = perr
		}
		return fmt.Append(nil, "127.0.0.1:", port)
	})
	if err != nil {
		return err
	}
	return os.WriteFile(file, text, 0o644)
}

// halt ends the service of this process.
func (s *site) halt() {
	if err := s.close(); err != nil {
		s.t.Errorf("closing the service: %v", err)
	}
	s.server = nil
}

// again starts the service in this process once more.
func (s *site) again() {
	s.t.Helper()
	if err := s.serve(context.Background()); err != nil {
		s.t.Fatal(err)
	}
}

// door is the address of a door of the service that runs, here or elsewhere.
func (s *site) door(name string) string {
	s.t.Helper()
	return s.endpoints("state").Doors[name]
}

func (s *site) endpoints(state string) endpointFile {
	s.t.Helper()
	var e endpointFile
	b, err := os.ReadFile(s.path(state, "endpoints.json"))
	if err == nil {
		err = json.Unmarshal(b, &e)
	}
	if err != nil {
		s.t.Fatal(err)
	}
	return e
}

// cli runs a command with --dir and --json in this process.
func (s *site) cli(args ...string) (out, errOut string, exit int) {
	s.t.Helper()
	var o, e bytes.Buffer
	exit = run(context.Background(), append([]string{"--json", "--dir", s.dir}, args...), strings.NewReader(""), &o, &e)
	return o.String(), e.String(), exit
}

// process is the program as a process of its own.
type process struct {
	t    testing.TB
	cmd  *exec.Cmd
	said bytes.Buffer // read after the end only
	done chan error
}

// spawn starts the program. The test's end kills it, and fails where the race
// detector spoke.
func (s *site) spawn(args ...string) *process {
	s.t.Helper()
	p := &process{t: s.t, cmd: s.child(context.Background(), "", args...), done: make(chan error, 1)}
	p.cmd.Stdout, p.cmd.Stderr = &p.said, &p.said
	if err := p.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	go func() {
		p.done <- p.cmd.Wait()
		close(p.done)
	}()
	s.t.Cleanup(func() {
		p.kill()
		if bytes.Contains(p.said.Bytes(), []byte("DATA RACE")) || bytes.Contains(p.said.Bytes(), []byte(brokenMark)) {
			s.t.Errorf("%s: %s", args[0], p.said.Bytes())
		}
	})
	return p
}

// kill is kill -9 and waits for the end.
func (p *process) kill() {
	p.cmd.Process.Kill()
	<-p.done
}

// stop is SIGTERM and waits for the end.
func (p *process) stop() error {
	p.cmd.Process.Signal(syscall.SIGTERM)
	select {
	case err := <-p.done:
		return err
	case <-time.After(30 * time.Second):
		p.kill()
		return fmt.Errorf("it did not stop within 30 s of SIGTERM: %s", p.said.Bytes())
	}
}

// service starts `hallmark serve` and returns when its doors are open. state is
// where the configuration keeps its state.
func (s *site) service(config, state string) *process {
	s.t.Helper()
	p := s.spawn("serve", "--config", s.path(config))
	deadline := time.Now().Add(60 * time.Second)
	for {
		var e endpointFile
		if b, err := os.ReadFile(s.path(state, "endpoints.json")); err == nil && json.Unmarshal(b, &e) == nil && e.PID == p.cmd.Process.Pid {
			return p
		}
		select {
		case err := <-p.done:
			s.t.Fatalf("the service ended early: %v\n%s", err, p.said.Bytes())
		case <-time.After(20 * time.Millisecond):
		}
		if time.Now().After(deadline) {
			p.kill()
			s.t.Fatalf("the service did not open its doors within 60 s:\n%s", p.said.Bytes())
		}
	}
}

// api is the administration API as a person, of whichever service runs.
func (s *site) api(person string) *adminapi.ClientWithResponses {
	s.t.Helper()
	token, err := os.ReadFile(s.path("people", person+".token"))
	if err != nil {
		s.t.Fatal(err)
	}
	c, err := adminClient("https://"+s.door("people"), strings.TrimSpace(string(token)), s.path("state", "ca.pem"))
	if err != nil {
		s.t.Fatal(err)
	}
	return c
}

// order reads an order.
func (s *site) order(id string) *adminapi.Order {
	s.t.Helper()
	a, err := s.api("bob").GetOrderWithResponse(s.t.Context(), id)
	if err != nil {
		s.t.Fatal(err)
	}
	o, err := answered(a.StatusCode(), a.Body, a.JSON200)
	if err != nil {
		s.t.Fatal(err)
	}
	return o
}

// stationPair is the certificate and key of the enrolled station.
func (s *site) stationPair() tls.Certificate {
	s.t.Helper()
	return loadPair(s.t, s.path("station", "station-a.pem"), s.path("station", "station-a.key"))
}

func loadPair(t testing.TB, cert, key string) tls.Certificate {
	t.Helper()
	c, err := tls.LoadX509KeyPair(cert, key)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// tlsConfig trusts the site's root and shows a certificate, if there is one.
func (s *site) tlsConfig(cert *tls.Certificate) *tls.Config {
	c := &tls.Config{RootCAs: s.roots, MinVersion: tls.VersionTLS12}
	if cert != nil {
		// Whatever the server says it would accept: it has to refuse by itself.
		c.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return cert, nil }
	}
	return c
}

// client is an HTTPS client with at most n connections.
func (s *site) client(cert *tls.Certificate, n int) *http.Client {
	tr := &http.Transport{TLSClientConfig: s.tlsConfig(cert), MaxConnsPerHost: n, MaxIdleConnsPerHost: n}
	s.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 2 * time.Minute}
}

// clientFrom is a client without a certificate at a loopback address of its own.
func (s *site) clientFrom(addr string) *http.Client {
	d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(addr)}}
	tr := &http.Transport{TLSClientConfig: s.tlsConfig(nil), DialContext: d.DialContext, MaxConnsPerHost: 1}
	s.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: 2 * time.Minute}
}

// reply is an answer over HTTP; code is of its problem document.
type reply struct {
	status int
	code   string
	body   []byte
}

func (r reply) String() string { return strings.TrimSpace(fmt.Sprintf("%d %s", r.status, r.code)) }

// call sends JSON, or nothing for nil.
func call(ctx context.Context, c *http.Client, method, url string, body any) (r reply, err error) {
	var in io.Reader
	if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return r, err
		}
		in = bytes.NewReader(b)
	}
	q, err := http.NewRequestWithContext(ctx, method, url, in)
	if err != nil {
		return r, err
	}
	q.Header.Set("Content-Type", "application/json")
	a, err := c.Do(q)
	if err != nil {
		return r, err
	}
	defer a.Body.Close()
	r.status = a.StatusCode
	if r.body, err = io.ReadAll(a.Body); err != nil {
		return r, err
	}
	if strings.HasPrefix(a.Header.Get("Content-Type"), "application/problem+json") {
		var p struct{ Code string }
		if err := json.Unmarshal(r.body, &p); err != nil {
			return r, err
		}
		r.code = p.Code
	}
	return r, nil
}

// unit is a device that a test plays.
type unit struct {
	name string
	key  *ecdsa.PrivateKey
	csr  []byte
}

func newUnit(t testing.TB, name string) unit {
	t.Helper()
	u := unit{name: name, key: catest.NewKey(t)}
	var err error
	if u.csr, err = csr.Create(u.key, name, ""); err != nil {
		t.Fatal(err)
	}
	return u
}

func (u unit) request() factoryapi.IssueRequest {
	return factoryapi.IssueRequest{Order: siteOrder, Unit: &u.name, Csr: u.csr}
}

// issueAnswer asks for a unit's birth certificate as the station.
func (s *site) issueAnswer(u unit) (a factoryapi.IssueAnswer) {
	s.t.Helper()
	cert := s.stationPair()
	r, err := call(context.Background(), s.client(&cert, 1), "POST", "https://"+s.door("factory")+"/factory/v1/units/issue", u.request())
	if err != nil || r.status != http.StatusOK {
		s.t.Fatalf("issue %s: %v %s", u.name, err, r)
	}
	if err := json.Unmarshal(r.body, &a); err != nil {
		s.t.Fatal(err)
	}
	return a
}

// issue is issueAnswer as what a device has then.
func (s *site) issue(u unit) tls.Certificate {
	s.t.Helper()
	a := s.issueAnswer(u)
	leaf, err := x509.ParseCertificate(a.Certificate)
	if err != nil {
		s.t.Fatal(err)
	}
	return tls.Certificate{Certificate: append([][]byte{a.Certificate}, a.Chain...), PrivateKey: u.key, Leaf: leaf}
}

// findings runs fsck as a command and checks that its exit code says what its
// report says.
func (s *site) findings(extra ...string) (found []string) {
	s.t.Helper()
	out, errOut, exit := s.cli(append([]string{"fsck"}, extra...)...)
	var rep fsckReport
	if err := json.Unmarshal([]byte(out), &rep); err != nil {
		if exit == exitOK {
			s.t.Errorf("fsck ended with 0 and said %s%s", out, errOut)
		}
		return []string{"fsck itself failed: " + errOut}
	}
	for _, f := range rep.Findings {
		found = append(found, f.String())
	}
	if rep.Clean != (len(found) == 0) || (exit == exitOK) != rep.Clean {
		s.t.Errorf("fsck ended with %d and %d findings, clean: %v", exit, len(found), rep.Clean)
	}
	return found
}

// clean fails unless fsck finds nothing.
func (s *site) clean() {
	s.t.Helper()
	for _, f := range s.findings() {
		s.t.Errorf("fsck: %s", f)
	}
}

// readCert reads the first certificate of a PEM file.
func readCert(t testing.TB, file string) *x509.Certificate {
	t.Helper()
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	block, _ := pem.Decode(b)
	if block == nil {
		t.Fatalf("%s holds no PEM", file)
	}
	c, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// tool runs a program from outside and gives everything it says.
func tool(t testing.TB, env []string, name string, args ...string) (string, error) {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		hsmtest.Missing(t, name+" is missing: scripts/setup.sh installs it")
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	c := exec.CommandContext(ctx, name, args...)
	c.Env = append(os.Environ(), env...)
	out, err := c.CombinedOutput()
	return string(out), err
}

// writePEM writes blocks to a file.
func writePEM(t testing.TB, dir, name, kind string, blocks ...[]byte) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	var text []byte
	for _, b := range blocks {
		text = append(text, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: b})...)
	}
	if err := os.WriteFile(filepath.Join(dir, name), text, 0o600); err != nil {
		t.Fatal(err)
	}
}
