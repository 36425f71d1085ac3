package acme_test

import (
	"context"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/net/dns/dnsmessage"

	"hallmark/bootstrap/acme"
	"hallmark/bootstrap/bootstraptest"
	"hallmark/ca"
	"hallmark/ca/catest"
	"hallmark/ca/profile"
	"hallmark/crl"
	"hallmark/internal/freeport"
)

// names is a DNS server of a test.
type names struct {
	t    testing.TB
	conn net.PacketConn
	mu   sync.Mutex
	a    map[string][]string // addresses by name; the first is taken off if there are more
	txt  map[string][]string
}

func newNames(t testing.TB) *names {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &names{t: t, conn: conn, a: map[string][]string{}, txt: map[string][]string{}}
	done := make(chan struct{})
	go func() {
		defer close(done)
		buf := make([]byte, 1500)
		for {
			k, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			if b := n.answer(buf[:k]); b != nil {
				conn.WriteTo(b, from)
			}
		}
	}()
	t.Cleanup(func() { conn.Close(); <-done })
	return n
}

func (n *names) answer(raw []byte) []byte {
	var m dnsmessage.Message
	if m.Unpack(raw) != nil || len(m.Questions) != 1 {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	q := m.Questions[0]
	name := strings.TrimSuffix(q.Name.String(), ".")
	m.Response, m.Authoritative, m.Additionals = true, true, nil
	h := dnsmessage.ResourceHeader{Name: q.Name, Class: q.Class}
	switch q.Type {
	case dnsmessage.TypeA:
		for _, a := range n.a[name][:min(1, len(n.a[name]))] {
			r := &dnsmessage.AResource{}
			copy(r.A[:], net.ParseIP(a).To4())
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: r})
		}
		if len(n.a[name]) > 1 {
			n.a[name] = n.a[name][1:]
		}
	case dnsmessage.TypeTXT:
		for _, t := range n.txt[name] {
			m.Answers = append(m.Answers, dnsmessage.Resource{Header: h, Body: &dnsmessage.TXTResource{TXT: []string{t}}})
		}
	}
	b, err := m.Pack()
	if err != nil {
		n.t.Error(err)
	}
	return b
}

func (n *names) set(name string, addresses ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.a[name] = addresses
}

func (n *names) text(name string, values ...string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.txt[name] = values
}

func (n *names) resolver() *net.Resolver {
	return &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
		var d net.Dialer
		return d.DialContext(ctx, "udp", n.conn.LocalAddr().String())
	}}
}

// atSites opens a site whose servers have names, and a key for them.
func atSites(t *testing.T, hosts ...string) (s *site, port int, k *externalKey, root string) {
	t.Helper()
	port, err := freeport.Take(1)
	if err != nil {
		t.Fatal(err)
	}
	n := newNames(t)
	for _, h := range hosts {
		n.set(h, "127.0.0.1")
	}
	s = newSite(t, func(c *acme.Config) { c.External = true; loopback(port, n.resolver())(c) }, bootstraptest.Options{})
	k = s.key(t, acme.KeyRequest{Profile: profile.Site, Names: hosts})
	root = filepath.Join(t.TempDir(), "root.pem")
	if err := os.WriteFile(root, catest.PEM(s.Root), 0o600); err != nil {
		t.Fatal(err)
	}
	return s, port, k, root
}

// states counts a holder's certificates that are revoked, and those that are not.
func (s *site) states(t *testing.T, holder string, reason crl.Reason) (revoked, good int) {
	t.Helper()
	for _, r := range s.Records(t, holder, profile.Site) {
		switch {
		case !r.Revoked():
			good++
		case r.Reason == int(reason):
			revoked++
		}
	}
	return revoked, good
}

// TestACME_LegoObtainsRenewsAndRevokes is http-01 with the client of
// github.com/go-acme/lego, a module of its own in testdata.
func TestACME_LegoObtainsRenewsAndRevokes(t *testing.T) {
	program := filepath.Join(t.TempDir(), "lego")
	build := exec.Command("go", "build", "-o", program, ".")
	build.Dir = filepath.Join("testdata", "lego")
	build.Env = append(os.Environ(), "GOFLAGS=-mod=mod -buildvcs=false", "GOWORK=off")
	if out, err := build.CombinedOutput(); err != nil {
		t.Logf("%s", out)
		need(t, "building the client", err)
	}
	hosts := []string{"a.plant.example.com", "b.plant.example.com"}
	s, port, k, root := atSites(t, hosts...)
	cmd := exec.Command(program, "-directory", s.url("directory"), "-root", root, "-port", fmt.Sprint(port), "-kid", k.ID, "-hmac", b64(k.secret), "-names", strings.Join(hosts, ","))
	out, err := cmd.Output()
	if err != nil {
		var stderr []byte
		if e, ok := err.(*exec.ExitError); ok {
			stderr = e.Stderr
		}
		t.Fatalf("%v\n%s", err, stderr)
	}
	leaf := leafOf(t, out)
	if leaf.VerifyHostname(hosts[0]) != nil || leaf.VerifyHostname(hosts[1]) != nil || len(leaf.DNSNames) != 2 {
		t.Errorf("%v", leaf.DNSNames)
	}
	holder := ""
	all, err := s.DB.Records(t.Context(), ca.RecordQuery{Tenant: "main", Profile: string(profile.Site)})
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range all {
		holder = r.Holder
	}
	if revoked, good := s.states(t, holder, crl.Superseded); revoked != 1 || good != 1 || len(all) != 2 {
		t.Errorf("%d revoked, %d good of %d", revoked, good, len(all))
	}
}

// TestACME_CertbotObtainsRenewsAndRevokes is http-01 with certbot.
func TestACME_CertbotObtainsRenewsAndRevokes(t *testing.T) {
	if _, err := exec.LookPath("certbot"); err != nil {
		need(t, "certbot (apt-get install certbot)", err)
	}
	const host = "gw.plant.example.com"
	s, port, k, root := atSites(t, host)
	dir := t.TempDir()
	run := func(args ...string) string {
		t.Helper()
		cmd := exec.Command("certbot", append(args, "--non-interactive", "--server", s.url("directory"), "--config-dir", dir, "--work-dir", filepath.Join(dir, "work"), "--logs-dir", filepath.Join(dir, "logs"))...)
		cmd.Env = append(os.Environ(), "REQUESTS_CA_BUNDLE="+root, "NO_PROXY=*")
		out, err := cmd.CombinedOutput()
		if err != nil {
			logged, _ := os.ReadFile(filepath.Join(dir, "logs", "letsencrypt.log"))
			t.Fatalf("certbot %s: %v\n%s\n%s", args[0], err, out, logged)
		}
		return string(out)
	}
	standalone := []string{"--standalone", "--http-01-port", fmt.Sprint(port), "--http-01-address", "127.0.0.1"}
	run(append([]string{"certonly", "-d", host, "--agree-tos", "-m", "ops@example.com", "--no-eff-email", "--eab-kid", k.ID, "--eab-hmac-key", b64(k.secret)}, standalone...)...)
	read := func() []byte {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(dir, "live", host, "cert.pem"))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	first := read()
	run("renew", "--force-renewal", "--no-random-sleep-on-renew")
	second := read()
	if leafOf(t, first).SerialNumber.Cmp(leafOf(t, second).SerialNumber) == 0 {
		t.Error("renewed: the same certificate")
	}
	run("revoke", "--cert-name", host, "--reason", "superseded", "--no-delete-after-revoke")
	if r := s.record(t, second); !r.Revoked() || r.Reason != int(crl.Superseded) {
		t.Errorf("by the account: %+v", r)
	}
	// By the certificate's key, and the account, of which the first one is still there.
	run("revoke", "--cert-path", filepath.Join(dir, "archive", host, "cert1.pem"), "--key-path", filepath.Join(dir, "archive", host, "privkey1.pem"), "--reason", "keycompromise", "--no-delete-after-revoke")
	if r := s.record(t, first); !r.Revoked() || r.Reason != int(crl.KeyCompromise) {
		t.Errorf("by the key: %+v", r)
	}
	// The name is not blocked by that: its next certificate is for another key.
	run("renew", "--force-renewal", "--no-random-sleep-on-renew")
	if third := s.record(t, read()); third.Revoked() {
		t.Error("the next one is revoked")
	}
}

// record is what the service knows of a certificate.
func (s *site) record(t *testing.T, cert []byte) ca.Record {
	t.Helper()
	b, _ := pem.Decode(cert)
	if b == nil {
		t.Fatalf("no PEM: %s", cert)
	}
	serial, _ := ca.SerialFromInt(leafOf(t, cert).SerialNumber)
	r, err := s.DB.RecordBySerial(t.Context(), "main", "", serial)
	if err != nil {
		t.Fatal(err)
	}
	return r
}
