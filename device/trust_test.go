package device

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"hallmark/device/mqtt"
	"hallmark/fleet"
)

// otherRoot is another root of the service, and what the broker can show under it.
func otherRoot(t *testing.T) (root *x509.Certificate, server *tls.Certificate) {
	t.Helper()
	make := func(name string, isCA bool, parent *x509.Certificate, signer *ecdsa.PrivateKey) (*x509.Certificate, *ecdsa.PrivateKey) {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62))
		c := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(5, 0, 0), BasicConstraintsValid: true, IsCA: isCA, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}, DNSNames: []string{"localhost"}}
		if isCA {
			c.KeyUsage, c.ExtKeyUsage, c.DNSNames = x509.KeyUsageCertSign, nil, nil
		}
		if parent == nil {
			parent, signer = c, key
		}
		der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), signer)
		if err != nil {
			t.Fatal(err)
		}
		out, err := x509.ParseCertificate(der)
		if err != nil {
			t.Fatal(err)
		}
		return out, key
	}
	root, rootKey := make("another root", true, nil, nil)
	leaf, key := make("localhost", false, root, rootKey)
	return root, &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}
}

// bundleJob is the document of a change of trust.
func bundleJob(campaign string, add, remove []*x509.Certificate, endpoint string) string {
	d := map[string]any{"operation": opTrust, "version": 1, "campaign": campaign, "connect": map[string]int{"attempts": 3, "seconds": 60}}
	var pems, ids []string
	for _, c := range add {
		pems = append(pems, string(pemOf([][]byte{c.Raw})))
	}
	for _, c := range remove {
		ids = append(ids, fleet.RootID(c.Raw))
	}
	if d["add"], d["remove"] = pems, ids; endpoint != "" {
		d["endpoint"] = map[string]string{"mqtt": endpoint}
	}
	raw, _ := json.Marshal(d)
	return string(raw)
}

// trusts checks what a device has in trust.pem, and that it gets in with that.
func (u *unit) trusts(want ...*x509.Certificate) {
	u.s.t.Helper()
	b, err := os.ReadFile(filepath.Join(u.cfg.Dir, "trust.pem"))
	if err != nil {
		u.s.t.Fatal(err)
	}
	var have, should []string
	for _, der := range dersOf(string(b)) {
		have = append(have, fleet.RootID(der))
	}
	for _, c := range want {
		should = append(should, fleet.RootID(c.Raw))
	}
	slices.Sort(have)
	if slices.Sort(should); !slices.Equal(have, should) {
		u.s.t.Errorf("%s trusts %v, not %v", u.thing, have, should)
	}
	h, err := openHome(u.cfg.Dir)
	if err != nil {
		u.s.t.Fatal(err)
	}
	used, err := h.active()
	h.close()
	if err != nil || used == nil {
		u.s.t.Fatalf("%s: bricked: %v", u.thing, err)
	}
	c, err := mqtt.Dial(u.s.t.Context(), mqtt.Config{Addr: u.s.addr, TLS: mqtt.TLS(used.Certificate, pool(dersOf(string(b))), "localhost"), ClientID: u.thing})
	if err != nil {
		u.s.t.Errorf("%s: bricked: %v", u.thing, err)
		return
	}
	c.Close()
}

func TestTrust_ARootIsAddedUsedAndRemoved(t *testing.T) {
	s := newService(t)
	u := s.unit(1)
	next, server := otherRoot(t)
	j := s.ask(u.thing, "j1", bundleJob("add", []*x509.Certificate{next}, nil, ""))
	end := u.begin()
	if status, step := s.ended(u.thing, j); status != succeeded || step != "connected" {
		t.Fatalf("%s %v", status, j.Details)
	}
	ids := strings.Split(j.Details["roots"], ",")
	if id, ok := fleet.BundleID(ids); !ok || id != j.Details["bundle"] || len(ids) != 2 {
		t.Errorf("%v", j.Details)
	}
	end()
	u.trusts(s.Root, next)
	// A bundle that came with the certificate does not bring back what was removed.
	s.shows.Store(server)
	u.cfg.Server = "" // the device door of this test keeps its root
	j = s.ask(u.thing, "j2", bundleJob("remove", nil, []*x509.Certificate{s.Root}, ""))
	end = u.begin()
	if status, _ := s.ended(u.thing, j); status != succeeded || strings.Contains(j.Details["roots"], fleet.RootID(s.Root.Raw)) {
		t.Fatalf("%s %v", status, j.Details)
	}
	end()
	u.trusts(next)
	end = u.begin() // another life
	s.until(u.thing, "it connects", func(th *served) bool { return th.with != "" })
	end()
	u.trusts(next)
	// And back, as the service asks.
	for i, campaign := range []string{"other", "remove"} {
		j = s.ask(u.thing, "undo"+string(rune('0'+i)), `{"operation":"update-trust","version":1,"campaign":"`+campaign+`","undo":true}`)
		end = u.begin()
		if status, step := s.ended(u.thing, j); status != succeeded || step != "undone" {
			t.Errorf("%s %s %v", status, step, j.Details)
		}
		end()
		u.trusts([][]*x509.Certificate{{next}, {s.Root, next}}[i]...)
	}
}

// What the service shows does not lead to the bundle: the device keeps the old one,
// and does not even leave its connection.
func TestTrust_AWrongBundleIsNotTaken(t *testing.T) {
	s := newService(t)
	u := s.unit(1)
	next, server := otherRoot(t)
	end := u.begin()
	defer func() { end() }()
	for name, document := range map[string]string{
		"switched": bundleJob("c", []*x509.Certificate{next}, []*x509.Certificate{s.Root}, ""),
		"nobody":   bundleJob("c", nil, []*x509.Certificate{s.Root}, ""),
		"leaf":     bundleJob("c", []*x509.Certificate{server.Leaf}, nil, ""),
		"place":    bundleJob("c", []*x509.Certificate{next}, nil, "nowhere"),
	} {
		j := s.ask(u.thing, "j-"+name, document)
		end()
		end = u.begin()
		want := map[bool]string{true: failed, false: rejected}[name == "switched"]
		if status, _ := s.ended(u.thing, j); status != want || want == failed && j.Details["code"] != codeUnverified {
			t.Errorf("%s: %s %v", name, status, j.Details)
		}
	}
	connected := 0
	for len(u.events) > 0 {
		if e := <-u.events; e.Event == EventConnected {
			connected++
		}
	}
	if connected > 5 { // one for each life
		t.Errorf("%d connections", connected)
	}
	end()
	end = func() {}
	u.trusts(s.Root)
}

// relay is another place of the broker.
func relay(t *testing.T, to string) (addr string, stop func()) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	open := map[net.Conn]bool{}
	stop = func() {
		l.Close()
		mu.Lock()
		defer mu.Unlock()
		for c := range open {
			c.Close()
		}
	}
	t.Cleanup(stop)
	go func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", to)
			if err != nil {
				in.Close()
				continue
			}
			mu.Lock()
			open[in], open[out] = true, true
			mu.Unlock()
			for _, p := range [][2]net.Conn{{in, out}, {out, in}} {
				go func() { io.Copy(p[0], p[1]); p[0].Close(); p[1].Close() }()
			}
		}
	}()
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return "localhost:" + port, stop
}

func TestTrust_TheServiceMovesAndTheDeviceFollows(t *testing.T) {
	s := newService(t)
	u := s.unit(1)
	gone, stop := relay(t, s.addr)
	stop()
	place, stop := relay(t, s.addr)
	// Nobody is there: it stays.
	j := s.ask(u.thing, "j1", bundleJob("c1", nil, nil, gone))
	end := u.begin()
	if status, step := s.ended(u.thing, j); status != failed || step != "fallback" || j.Details["endpoint"] != "" {
		t.Errorf("%s %v", status, j.Details)
	}
	end()
	j = s.ask(u.thing, "j2", bundleJob("c2", nil, nil, place))
	end = u.begin()
	if status, _ := s.ended(u.thing, j); status != succeeded || j.Details["endpoint"] != place {
		t.Fatalf("%s %v", status, j.Details)
	}
	end()
	for len(u.events) > 0 {
		<-u.events
	}
	at := func(want string) {
		t.Helper()
		timeout := time.After(20 * time.Second)
		for {
			select {
			case e := <-u.events:
				if e.Event == EventConnected && e.Endpoint == want {
					return
				}
			case <-timeout:
				t.Fatalf("it does not connect to %s", want)
			}
		}
	}
	end = u.begin()
	at(place)
	stop() // the new place burns down: the old one is tried
	at(s.addr)
	end()
	u.trusts(s.Root)
}

var trustSteps = []string{"trust-begin", "write trust.json", "trust-examine", "trust-trial", "trust-promote", "trust-export", "write trust.pem", "trust-report", "trust-forget"}

// A50: a power cut at whatever step leaves a device that gets in, with one bundle or
// the other, and ends with the new one.
func TestTrustA50_APowerCutAtEachStepLeavesADeviceThatGetsIn(t *testing.T) {
	s := newService(t)
	next, _ := otherRoot(t)
	for i, at := range trustSteps {
		for _, nth := range []int{1, 2} {
			if nth == 2 && !strings.HasPrefix(at, "write trust.json") {
				continue
			}
			u := s.unit(10*i + nth)
			n := 0
			u.spoil = func(u *unit, step string, _ int) error {
				if step == at {
					if n++; n == nth {
						return u.kill()
					}
				}
				return nil
			}
			j := s.ask(u.thing, "j", bundleJob("add", []*x509.Certificate{next}, nil, ""))
			u.survive("the job ends after a cut at "+at, ended(j))
			if j.Status != succeeded || n < nth {
				t.Errorf("%s: %s %v, %d cuts", at, j.Status, j.Details, n)
			}
			end := u.begin() // trust.pem is mended by the next start
			s.until(u.thing, "it connects", func(th *served) bool { return th.with != "" })
			end()
			u.trusts(s.Root, next)
		}
	}
}

// A full disk changes nothing, and the change goes on when there is room.
func TestTrust_AFullDiskKeepsTheOldBundle(t *testing.T) {
	s := newService(t)
	u := s.unit(1)
	next, _ := otherRoot(t)
	u.spoil = func(u *unit, step string, _ int) error {
		if step == "trust-promote" && !u.full {
			u.full = true
			time.AfterFunc(100*time.Millisecond, func() {
				u.mu.Lock()
				defer u.mu.Unlock()
				u.full, u.spoil = false, nil
			})
		}
		return nil
	}
	j := s.ask(u.thing, "j", bundleJob("add", []*x509.Certificate{next}, nil, ""))
	end := u.begin()
	if status, _ := s.ended(u.thing, j); status != succeeded && j.Details["step"] != "fallback" {
		t.Errorf("%s %v", status, j.Details)
	}
	end()
	if j.Status == succeeded {
		u.trusts(s.Root, next)
	} else {
		u.trusts(s.Root)
	}
}
