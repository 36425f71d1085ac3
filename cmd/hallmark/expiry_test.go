package main

import (
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"log/slog"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.yaml.in/yaml/v3"

	"hallmark/access"
	"hallmark/ca/catest"
	"hallmark/ca/profile"
	"hallmark/crl"
	"hallmark/fleet/campaign"
	"hallmark/provisioner"
)

// movedClock is a service's certificates and lists on a clock that a test moves.
type movedClock struct {
	t      *testing.T
	f      *catest.Fixture
	offset atomic.Int64
	s      *Server
	b      *backend
	door   net.Listener
}

func (m *movedClock) now() time.Time { return time.Now().Add(time.Duration(m.offset.Load())) }

func newMovedClock(t *testing.T) *movedClock {
	m := &movedClock{t: t}
	f := catest.Open(t, catest.Config{Now: m.now})
	m.f = f
	set := crl.NewSet(crl.SetConfig{Feed: f.DB, Now: m.now})
	if err := set.Load(t.Context()); err != nil {
		t.Fatal(err)
	}
	lists := crl.NewPublisher(crl.PublisherConfig{Store: f.DB, CA: f.CA, Set: set, Now: m.now})
	if err := lists.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	root, err := x509.CreateRevocationList(rand.Reader, &x509.RevocationList{Number: big.NewInt(1), ThisUpdate: m.now(), NextUpdate: m.now().AddDate(0, 6, 0)}, f.Root, f.RootKey)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lists.InstallRootList(t.Context(), catest.Root, root); err != nil {
		t.Fatal(err)
	}
	m.s = &Server{cfg: &Config{State: t.TempDir(), ServerNames: []string{"localhost"}}, log: slog.New(slog.DiscardHandler), now: m.now, ca: f.CA, db: f.DB, lists: lists}
	m.s.certs = &certifier{ca: f.CA, db: f.DB, vault: vault{dir: t.TempDir(), box: f.Box}, now: m.now, have: map[string]*serviceCert{}}
	m.s.expiry = &expiryWatch{ca: f.CA, certs: m.s.certs, lists: lists, db: f.DB, now: m.now, log: m.s.log}
	m.b = &backend{cfg: m.s.cfg, db: f.DB, ca: f.CA, certs: m.s.certs, lists: lists, now: m.now, log: m.s.log, expiry: m.s.expiry}
	if err := m.s.renewDoors(t.Context()); err != nil {
		t.Fatal(err)
	}
	if m.door, err = net.Listen("tcp", "127.0.0.1:0"); err != nil {
		t.Fatal(err)
	}
	l := tls.NewListener(m.door, m.s.baseTLS())
	t.Cleanup(func() { l.Close() })
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				c.(*tls.Conn).Handshake()
			}()
		}
	}()
	return m
}

// checks are the health checks by name.
func (m *movedClock) checks() map[string]string {
	m.t.Helper()
	c, scope := &checks{status: "ok"}, access.Scope{Tenant: access.DefaultTenant}
	if err := m.b.checkAuthorities(m.t.Context(), scope, c); err != nil {
		m.t.Fatal(err)
	}
	m.b.checkService(c)
	m.b.checkStations(m.t.Context(), scope, c)
	m.b.checkLists(scope, c)
	out := map[string]string{}
	for _, x := range c.all {
		out[x.Name] = x.Status
	}
	return out
}

// left is the metric in days.
func (m *movedClock) left() map[string]float64 {
	m.t.Helper()
	reg := prometheus.NewRegistry()
	reg.MustRegister(m.s.expiry)
	families, err := reg.Gather()
	if err != nil {
		m.t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		if f.GetName() != "hallmark_expiry_seconds" {
			continue
		}
		for _, x := range f.Metric {
			out[x.Label[0].GetValue()+" "+x.Label[1].GetValue()] = x.Gauge.GetValue() / 86400
		}
	}
	return out
}

// shown dials the open door.
func (m *movedClock) shown() *x509.Certificate {
	m.t.Helper()
	c, err := tls.Dial("tcp", m.door.Addr().String(), &tls.Config{RootCAs: m.f.Pool(), ServerName: "localhost", Time: m.now})
	if err != nil {
		m.t.Fatal(err)
	}
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0]
}

func (m *movedClock) is(when string, want map[string]string) {
	m.t.Helper()
	have := m.checks()
	for name, status := range want {
		if have[name] != status {
			m.t.Errorf("%s: %s is %q, not %s", when, name, have[name], status)
		}
	}
}

const aDay = 24 * time.Hour

// TestExpiry_EverythingTheServiceDependsOnIsWatched_A9_A35 moves the clock until each
// thing ends: health speaks before it does, and the metric counts down.
func TestExpiry_EverythingTheServiceDependsOnIsWatched_A9_A35(t *testing.T) {
	m := newMovedClock(t)
	m.station("ST-1")
	m.is("at first", map[string]string{
		"authority " + catest.Infra: "ok", "authority " + catest.Device: "ok", "certificate doors": "ok", "certificate ocsp-" + catest.Device: "ok",
		"station certificates": "ok", "lists of " + catest.Root: "ok",
	})
	start := m.left()
	for name, days := range map[string]float64{
		"authority " + catest.Infra: 3650, "service doors": 90, "responder ocsp-" + catest.Device: 14, "station ST-1": 90, "root_list " + catest.Root: 181, "list " + catest.Device: 7,
	} {
		if have, ok := start[name]; !ok || have < days-4 || have > days+4 {
			t.Errorf("%s ends in %.1f days, not %.0f", name, have, days)
		}
	}
	if start["root "+catest.Root] < 1e6 {
		t.Errorf("the root ends in %.0f days", start["root "+catest.Root])
	}
	// Nothing is renewed from here on: what ends first is said first.
	for _, step := range []struct {
		day  int
		want map[string]string
	}{
		{11, map[string]string{"certificate ocsp-" + catest.Device: "warning", "certificate doors": "ok", "lists of " + catest.Device: "failing"}},
		{15, map[string]string{"certificate ocsp-" + catest.Device: "failing"}},
		{70, map[string]string{"certificate doors": "warning", "station certificates": "warning", "lists of " + catest.Root: "ok"}},
		{92, map[string]string{"certificate doors": "failing", "station certificates": "warning"}},
		{95, map[string]string{"lists of " + catest.Root: "warning"}}, // less than half of its life is left (A35)
		{140, map[string]string{"lists of " + catest.Root: "warning"}},
		{170, map[string]string{"lists of " + catest.Root: "failing"}}, // less than a tenth
		{190, map[string]string{"lists of " + catest.Root: "failing"}},
		{3650 - 80, map[string]string{"authority " + catest.Infra: "warning", "authority " + catest.Device: "ok"}},
		{3650 - 5, map[string]string{"authority " + catest.Infra: "failing"}},
		{3655, map[string]string{"authority " + catest.Infra: "failing"}},
	} {
		m.offset.Store(int64(time.Duration(step.day) * aDay))
		m.is(fmt.Sprintf("day %d", step.day), step.want)
	}
	for name, days := range m.left() {
		if gone := start[name] - days; gone < 3654 || gone > 3656 {
			t.Errorf("%s: the metric counted %.1f days of 3655", name, gone)
		}
		if strings.HasPrefix(name, "root ") == (days < 0) && name != "authority "+catest.Device {
			t.Errorf("%s: %.1f days are left", name, days)
		}
	}
}

// TestExpiry_OpenDoorsServeTheRenewedCertificate_A9 has the service renew its TLS
// certificate and the responders' at half of their life; a door that is open all
// the while shows the new one to the next connection.
func TestExpiry_OpenDoorsServeTheRenewedCertificate_A9(t *testing.T) {
	m := newMovedClock(t)
	first := m.shown()
	responder := m.left()["responder ocsp-"+catest.Device]
	m.offset.Store(int64(40 * aDay)) // before half of its life
	if err := m.s.renewDoors(t.Context()); err != nil {
		t.Fatal(err)
	}
	if now := m.shown(); !now.Equal(first) {
		t.Error("the doors' certificate was renewed before half of its life")
	}
	if now := m.left()["responder ocsp-"+catest.Device]; now < responder-1 {
		t.Errorf("the responder's certificate was not renewed: %.1f days are left", now)
	}
	for _, day := range []time.Duration{46, 95, 150} { // of which two after the end of the first
		m.offset.Store(int64(day * aDay))
		before := m.s.tls.Load().cert.Leaf
		if err := m.s.renewDoors(t.Context()); err != nil {
			t.Fatal(err)
		}
		now := m.shown()
		if now.Equal(before) || now.PublicKey.(*ecdsa.PublicKey).Equal(before.PublicKey) {
			t.Fatalf("day %d: the door shows the certificate or the key of before", day)
		}
		if left := now.NotAfter.Sub(m.now()); left < 89*aDay {
			t.Errorf("day %d: the new one ends in %s", day, left)
		}
	}
	m.is("after all", map[string]string{"certificate doors": "ok", "certificate ocsp-" + catest.Device: "ok"})
}

// station enrols one.
func (m *movedClock) station(id string) {
	m.t.Helper()
	hash := sha256.Sum256([]byte(id))
	err := m.f.DB.CreateStationCode(m.t.Context(), provisioner.StationCode{Hash: hash, Tenant: access.DefaultTenant, Station: id, ExpiresAt: m.now().Add(time.Hour)})
	if err == nil {
		_, err = m.f.DB.Redeem(m.t.Context(), hash, id, hash, m.now())
	}
	if err != nil {
		m.t.Fatal(err)
	}
	m.f.Issue(m.t, profile.Station, "station:"+id, "A", profile.Names{})
}

// TestAlerts_NameMetricsThatExist reads the rules as Prometheus does, strictly, and
// looks for each metric in the source.
func TestAlerts_NameMetricsThatExist(t *testing.T) {
	type group struct {
		Name  string
		Rules []struct {
			Alert       string
			Expr        string
			For         string
			Labels      map[string]string
			Annotations map[string]string
		}
	}
	var groups []group
	for _, book := range []string{"../../docs/alerts.yaml", "../../docs/alerts-campaigns.yaml"} { // the metrics of the third are asked for by the test of the lists
		text, err := os.ReadFile(book)
		if err != nil {
			t.Fatal(err)
		}
		var rules struct{ Groups []group }
		dec := yaml.NewDecoder(strings.NewReader(string(text)))
		dec.KnownFields(true)
		if err := dec.Decode(&rules); err != nil {
			t.Fatalf("%s: %v", book, err)
		}
		groups = append(groups, rules.Groups...)
	}
	source := map[string]bool{}
	files, _ := filepath.Glob("../../*/*.go")
	more, _ := filepath.Glob("../../*/*/*.go")
	for _, f := range append(files, more...) {
		b, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, w := range regexp.MustCompile(`"[a-z_]+"`).FindAllString(string(b), -1) {
			source[strings.TrimPrefix(strings.Trim(w, `"`), "hallmark_")] = true
		}
	}
	kinds := map[string]bool{endsRoot: true, endsAuthority: true, endsIssuing: true, endsRootList: true, endsList: true, endsService: true, endsResponder: true, endsStation: true}
	states := map[string]bool{}
	for _, s := range []campaign.State{campaign.AwaitingApproval, campaign.Scheduled, campaign.Running, campaign.Paused, campaign.Stopped, campaign.RollingBack, campaign.Canceled, campaign.Completed} {
		states["hallmark_campaigns "+string(s)] = true
	}
	for _, s := range campaign.MemberStates {
		states["hallmark_campaign_members "+string(s)] = true
	}
	seen, n := map[string]bool{}, 0
	for _, g := range groups {
		for _, r := range g.Rules {
			n++
			if r.Alert == "" || seen[r.Alert] || r.Labels["severity"] == "" || r.Annotations["summary"] == "" || r.Annotations["next"] == "" {
				t.Errorf("%s: it has no name of its own, severity, summary or next step", r.Alert)
			}
			seen[r.Alert] = true
			if r.For != "" {
				if _, err := time.ParseDuration(r.For); err != nil {
					t.Errorf("%s: %v", r.Alert, err)
				}
			}
			metrics := regexp.MustCompile(`hallmark_[a-z_]+`).FindAllString(r.Expr, -1)
			if len(metrics) == 0 {
				t.Errorf("%s looks at no metric: %s", r.Alert, r.Expr)
			}
			for _, m := range metrics {
				if !source[strings.TrimPrefix(m, "hallmark_")] {
					t.Errorf("%s: there is no metric %s", r.Alert, m)
				}
			}
			for _, k := range regexp.MustCompile(`(hallmark_campaign\w+)\{state="([a-z-]+)"`).FindAllStringSubmatch(r.Expr, -1) {
				if !states[k[1]+" "+k[2]] {
					t.Errorf("%s: nothing is in the state %s", r.Alert, k[2])
				}
			}
			for _, k := range regexp.MustCompile(`kind=~?"([a-z_|]+)"`).FindAllStringSubmatch(r.Expr, -1) {
				for _, one := range strings.Split(k[1], "|") {
					if !kinds[one] {
						t.Errorf("%s: nothing is of the kind %s", r.Alert, one)
					}
				}
			}
		}
	}
	if n < 8 {
		t.Errorf("%d rules", n)
	}
}
