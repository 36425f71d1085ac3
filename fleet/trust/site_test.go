package trust_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/bootstrap"
	"hallmark/bootstrap/bootstraptest"
	"hallmark/ca/catest"
	"hallmark/ca/csr"
	"hallmark/fleet"
	"hallmark/fleet/campaign"
	"hallmark/fleet/jobs"
	"hallmark/fleet/presence"
	"hallmark/fleet/registry"
	"hallmark/fleet/trust"
	"hallmark/store/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m) }

var scope = access.Scope{Tenant: access.DefaultTenant}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func onBothEngines(t *testing.T, fn func(t *testing.T, url string)) {
	t.Run("SQLite", func(t *testing.T) { fn(t, "") })
	t.Run("PostgreSQL", func(t *testing.T) { fn(t, storetest.Postgres(t)) })
}

// authority is a CA of the test.
type authority struct {
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func (a *authority) id() string { return fleet.RootID(a.cert.Raw) }
func (a *authority) pem() string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw}))
}

// certify makes a certificate of a key by a CA; by nil it is a root.
func certify(t testing.TB, by *authority, name string, key *ecdsa.PrivateKey, isCA bool, until time.Time) *x509.Certificate {
	t.Helper()
	serial, _ := rand.Int(rand.Reader, big.NewInt(1<<62))
	c := &x509.Certificate{SerialNumber: serial, Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: until, BasicConstraintsValid: true, IsCA: isCA, KeyUsage: x509.KeyUsageDigitalSignature}
	if isCA {
		c.KeyUsage = x509.KeyUsageCertSign
	} else {
		c.DNSNames = []string{"localhost"}
	}
	parent, signer := c, key
	if by != nil {
		parent, signer = by.cert, by.key
	}
	der, err := x509.CreateCertificate(rand.Reader, c, parent, key.Public(), signer)
	must(t, err)
	out, err := x509.ParseCertificate(der)
	must(t, err)
	return out
}

func newRoot(t testing.TB, name string, years int) *authority {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	return &authority{certify(t, nil, name, key, true, time.Now().AddDate(years, 0, 0)), key}
}

// pki is two roots, a cross certificate, and what the service shows.
type pki struct {
	old, next *authority
	cross     *x509.Certificate // of next by old

	mu    sync.Mutex
	shown []trust.Shown
}

func newPKI(t testing.TB) *pki {
	p := &pki{old: newRoot(t, "old root", 5), next: newRoot(t, "new root", 20)}
	p.cross = certify(t, p.old, "new root", p.next.key, true, time.Now().AddDate(4, 0, 0))
	p.show(t, p.old)
	return p
}

// show has the service issue by and show what leads to a root, and the certificates
// besides.
func (p *pki) show(t testing.TB, root *authority, more ...*x509.Certificate) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	between := &authority{certify(t, root, "between", key, true, time.Now().AddDate(3, 0, 0)), key}
	leaf := certify(t, between, "doors", key, false, time.Now().AddDate(1, 0, 0))
	p.mu.Lock()
	defer p.mu.Unlock()
	p.shown = []trust.Shown{
		{What: "the certificate of the doors", Server: true, Chain: append([]*x509.Certificate{leaf, between.cert}, more...)},
		{What: "what device-1 issues", Chain: append([]*x509.Certificate{between.cert}, more...)},
	}
}

func (p *pki) Roots(string) []trust.Root {
	return []trust.Root{{Name: "root-1", Cert: p.old.cert, Active: true}, {Name: "root-2", Cert: p.next.cert, Active: true}}
}

func (p *pki) Shown(context.Context, string) ([]trust.Shown, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.shown), nil
}

type deaf struct{}

func (deaf) Publish(context.Context, fleet.Message) error { return nil }

// site is a service on one database.
type site struct {
	*bootstraptest.Door
	*pki
	t         testing.TB
	clock     *bootstraptest.Clock
	jobs      *jobs.Service
	campaigns *campaign.Service
	trust     *trust.Service
	sessions  int
}

func newSite(t testing.TB, url string) *site {
	t.Helper()
	s := &site{t: t, clock: bootstraptest.NewClock(), pki: newPKI(t)}
	s.Door = bootstraptest.New(t, bootstraptest.Options{URL: url, Clock: s.clock, Limit: 1000})
	s.trust = trust.New(trust.Config{Store: s.DB, Registry: s.Registry, Presence: s.DB, Roots: s.pki.Roots, Shown: s.Shown, Now: s.clock.Now})
	s.jobs = jobs.New(jobs.Config{Store: s.DB, Publisher: deaf{}, Targets: s.Registry, Now: s.clock.Now, Changed: func(ctx context.Context, e *jobs.Execution) error { return s.campaigns.Heard(ctx, e) }})
	s.campaigns = campaign.New(campaign.Config{Store: s.DB, Jobs: s.jobs, Presence: s.DB, Targets: s.Registry, Actions: map[campaign.Kind]campaign.Action{campaign.Trust: s.trust}, TwoPeopleOver: 1 << 40, Node: "a", Now: s.clock.Now})
	s.trust.Join(s.campaigns)
	return s
}

// device is a device with what it trusts.
type device struct {
	s       *site
	thing   fleet.ThingName
	leaf    *x509.Certificate
	roots   []string
	session string
}

func (s *site) device(unit string) *device {
	s.t.Helper()
	birth, _ := s.IssueIDevID(s.t, unit)
	der, err := csr.Create(catest.NewKey(s.t), "", "")
	must(s.t, err)
	r, err := s.Service.Register(s.t.Context(), bootstrap.Facts{Certificate: birth}, bootstrap.Request{CSR: der})
	must(s.t, err)
	leaf, err := x509.ParseCertificate(r.Certificate)
	must(s.t, err)
	return &device{s: s, thing: r.Thing, leaf: leaf, roots: []string{s.old.id()}}
}

// connect is a new connection, and leave its end.
func (d *device) connect() {
	d.s.sessions++
	d.session = fmt.Sprint("s", d.s.sessions)
	d.put(true)
}

func (d *device) leave() { d.put(false) }

func (d *device) put(connected bool) {
	d.s.t.Helper()
	must(d.s.t, d.s.DB.PutPresence(context.Background(), []presence.State{{Tenant: scope.Tenant, Client: string(d.thing), Thing: d.thing, Certificate: registry.CertificateID(d.leaf.Raw), Node: "a", Session: d.session, Connected: connected, At: d.s.clock.Now()}}))
}

func (d *device) report(job string, status jobs.Status, details map[string]string) {
	d.s.t.Helper()
	_, err := d.s.jobs.Update(context.Background(), scope.Tenant, d.thing, job, jobs.Update{Status: status, Details: details})
	must(d.s.t, err)
}

// says is what a device reports of its roots.
func says(roots []string) map[string]string {
	id, _ := fleet.BundleID(roots)
	return map[string]string{"step": "connected", "bundle": id, "roots": strings.Join(roots, ",")}
}

// obey does what jobs ask of the device, as the reference device does.
func (d *device) obey() {
	d.s.t.Helper()
	ctx := context.Background()
	for {
		e, err := d.s.jobs.StartNext(ctx, scope.Tenant, d.thing, jobs.Start{})
		must(d.s.t, err)
		if e == nil {
			return
		}
		j, err := d.s.jobs.Job(ctx, scope.Tenant, e.Job)
		must(d.s.t, err)
		for _, root := range []*authority{d.s.old, d.s.next} {
			if strings.Contains(j.Document, strings.ReplaceAll(root.pem(), "\n", `\n`)) && !slices.Contains(d.roots, root.id()) {
				d.roots = append(d.roots, root.id())
			}
			if strings.Contains(j.Document, root.id()) {
				d.roots = slices.DeleteFunc(d.roots, func(r string) bool { return r == root.id() })
			}
		}
		d.connect()
		d.report(e.Job, jobs.Succeeded, says(d.roots))
	}
}

// getsIn tells whether the device accepts what the service shows.
func (d *device) getsIn() bool {
	d.s.t.Helper()
	shown, by, err := d.s.trust.Shown(context.Background(), scope.Tenant)
	must(d.s.t, err)
	names := map[string]string{d.s.old.id(): "root-1", d.s.next.id(): "root-2"}
	for i := range shown {
		if shown[i].Server && !slices.ContainsFunc(d.roots, func(r string) bool { return slices.Contains(by[i], names[r]) }) {
			return false
		}
	}
	return true
}

func (s *site) create(id string, parameters string, devices ...*device) error {
	s.t.Helper()
	spec := campaign.Spec{Kind: campaign.Trust, Reason: campaign.Rollover, Soak: time.Minute, Timeout: time.Hour, Parameters: []byte(parameters)}
	for _, d := range devices {
		spec.Targets = append(spec.Targets, "thing/"+string(d.thing))
	}
	_, err := s.campaigns.Create(context.Background(), scope.Tenant, id, "ann", spec)
	return err
}

// pass lets time go by and steps.
func (s *site) pass(d time.Duration) {
	s.t.Helper()
	s.clock.Add(d)
	must(s.t, s.jobs.Step(context.Background(), s.clock.Now()))
	must(s.t, s.campaigns.Step(context.Background(), s.clock.Now()))
}

func (s *site) is(id string, d *device, state campaign.MemberState, code string) {
	s.t.Helper()
	m, err := s.campaigns.Member(context.Background(), scope, id, d.thing)
	must(s.t, err)
	if m.State != state || m.Code != code {
		s.t.Fatalf("%s is %s %q (%s), not %s %q", d.thing, m.State, m.Code, m.Detail, state, code)
	}
}
