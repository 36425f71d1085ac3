package rotation_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/bootstrap"
	"hallmark/bootstrap/bootstraptest"
	"hallmark/ca"
	"hallmark/ca/catest"
	"hallmark/ca/csr"
	"hallmark/crl"
	"hallmark/fleet"
	"hallmark/fleet/campaign"
	"hallmark/fleet/jobs"
	"hallmark/fleet/presence"
	"hallmark/fleet/registry"
	"hallmark/fleet/rotation"
	"hallmark/store"
	"hallmark/store/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m) }

var scope = access.Scope{Tenant: access.DefaultTenant}

type deaf struct{}

func (deaf) Publish(context.Context, fleet.Message) error { return nil }

// site is a service on one database: door, registry, lists, jobs, campaigns, rotation.
type site struct {
	*bootstraptest.Door
	t         testing.TB
	clock     *bootstraptest.Clock
	jobs      *jobs.Service
	campaigns *campaign.Service
	rotation  *rotation.Service
	sessions  int
	incidents rotation.Incidents // nil: there is none
}

// Rotating implements [rotation.Incidents].
func (s *site) Rotating(ctx context.Context, scope access.Scope, authority string, serial ca.Serial) (time.Time, error) {
	if s.incidents == nil {
		return time.Time{}, nil
	}
	return s.incidents.Rotating(ctx, scope, authority, serial)
}

// turner lets plans rotate that nobody runs.
func (s *site) turner() crl.Rotator {
	return &rotation.Blast{Campaigns: func() rotation.Campaigns { return s.campaigns }, Holders: s.Registry, Presence: store.Contacts{DB: s.DB}, Now: s.clock.Now, Issues: func(string) []string { return nil }}
}

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

func newSite(t testing.TB, url string, rules rotation.Rules) *site {
	t.Helper()
	s := &site{t: t, clock: bootstraptest.NewClock()}
	s.Door = bootstraptest.New(t, bootstraptest.Options{URL: url, Clock: s.clock, Limit: 1000, Renewed: func(ctx context.Context, tenant string, thing fleet.ThingName, before, certificate, over string) {
		must(t, s.rotation.Renewed(ctx, tenant, thing, before, certificate, over))
	}, Advise: func(ctx context.Context, tenant, authority string, c *x509.Certificate) (rotation.Advice, error) {
		return s.rotation.Advise(ctx, tenant, authority, c)
	}})
	s.rotation = rotation.New(rotation.Config{Registry: s.Registry, Presence: store.Contacts{DB: s.DB}, Revoker: s.Crl, Store: s.DB, Rules: rules, Leavers: s.DB, Incidents: s, Explain: "https://pki.example.com/why/", Now: s.clock.Now, HTTPS: func() string { return "https://devices.example.com:9443" }})
	s.jobs = jobs.New(jobs.Config{Store: s.DB, Publisher: deaf{}, Targets: s.Registry, Now: s.clock.Now, Changed: func(ctx context.Context, e *jobs.Execution) error { return s.campaigns.Heard(ctx, e) }})
	s.campaigns = campaign.New(campaign.Config{Store: s.DB, Jobs: s.jobs, Presence: store.Contacts{DB: s.DB}, Targets: s.Registry, Actions: map[campaign.Kind]campaign.Action{campaign.Rotate: s.rotation}, TwoPeopleOver: 1 << 40, Node: "a", Now: s.clock.Now})
	t.Cleanup(func() {
		for what, f := range map[string]func(context.Context) (int, error){
			"registry":  func(ctx context.Context) (int, error) { l, err := s.Registry.Fsck(ctx); return len(l), err },
			"campaigns": func(ctx context.Context) (int, error) { l, err := s.campaigns.Fsck(ctx); return len(l), err },
			"jobs":      func(ctx context.Context) (int, error) { l, err := s.jobs.Fsck(ctx); return len(l), err },
		} {
			if n, err := f(context.Background()); err != nil || n > 0 {
				t.Errorf("fsck of %s: %d findings, %v", what, n, err)
			}
		}
	})
	return s
}

// device is a device with what it holds.
type device struct {
	s       *site
	thing   fleet.ThingName
	birth   *x509.Certificate
	a, b    *x509.Certificate // b while it rotates
	bKey    *ecdsa.PrivateKey
	session string
}

func (s *site) device(unit string) *device {
	s.t.Helper()
	d := &device{s: s}
	d.birth, _ = s.IssueIDevID(s.t, unit)
	r, err := s.Service.Register(s.t.Context(), bootstrap.Facts{Certificate: d.birth}, bootstrap.Request{CSR: request(s.t, catest.NewKey(s.t))})
	must(s.t, err)
	d.thing, d.a = r.Thing, parse(s.t, r.Certificate)
	must(s.t, d.connect(d.a))
	return d
}

func parse(t testing.TB, der []byte) *x509.Certificate {
	t.Helper()
	c, err := x509.ParseCertificate(der)
	must(t, err)
	return c
}

func request(t testing.TB, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := csr.Create(key, "", "")
	must(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der})
}

func idOf(c *x509.Certificate) string { return registry.CertificateID(c.Raw) }

// connect is a connection with a certificate, or what the door says.
func (d *device) connect(c *x509.Certificate) error {
	d.s.t.Helper()
	must(d.s.t, d.s.Set.Follow(context.Background()))
	if _, err := d.s.Gate.AdmitCertificate(context.Background(), c); err != nil {
		return err
	}
	d.s.sessions++
	d.session = fmt.Sprint("s", d.s.sessions)
	d.put(c, true)
	return nil
}

func (d *device) put(c *x509.Certificate, connected bool) {
	d.s.t.Helper()
	must(d.s.t, d.s.DB.PutPresence(context.Background(), []presence.State{{Tenant: scope.Tenant, Client: string(d.thing), Thing: d.thing, Certificate: idOf(c), Node: "a", Session: d.session, Connected: connected, At: d.s.clock.Now()}}))
}

// renew asks for B on the connection of a certificate.
func (d *device) renew(over *x509.Certificate, key *ecdsa.PrivateKey) (*x509.Certificate, error) {
	d.s.t.Helper()
	topic := strings.Replace(rotation.RenewTopic, "THING", string(d.thing), 1)
	body, err := json.Marshal(map[string]string{"csr": string(request(d.s.t, key))})
	must(d.s.t, err)
	var got struct{ CertificatePem, Code, Message string }
	must(d.s.t, d.s.Service.Topics()[0].Handle(context.Background(), fleet.Request{Sender: fleet.Sender{Tenant: scope.Tenant, Thing: d.thing, Client: string(d.thing), Certificate: idOf(over)},
		Topic: topic, Levels: strings.Split(topic, "/"), Payload: body, Reply: func(_ string, payload []byte) { err = json.Unmarshal(payload, &got) }}))
	must(d.s.t, err)
	if got.Code != "" {
		return nil, errors.New(got.Code + " " + got.Message)
	}
	block, _ := pem.Decode([]byte(got.CertificatePem))
	return parse(d.s.t, block.Bytes), nil
}

func (d *device) report(job string, status jobs.Status, details map[string]string) {
	d.s.t.Helper()
	_, err := d.s.jobs.Update(context.Background(), scope.Tenant, d.thing, job, jobs.Update{Status: status, Details: details})
	must(d.s.t, err)
}

// rotate is the whole of the device's part.
func (d *device) rotate(job string) {
	d.s.t.Helper()
	d.report(job, jobs.InProgress, nil)
	d.bKey = catest.NewKey(d.s.t)
	b, err := d.renew(d.a, d.bKey)
	must(d.s.t, err)
	d.b = b
	must(d.s.t, d.connect(b))
	d.report(job, jobs.Succeeded, map[string]string{"step": "connected", "certificateId": idOf(b)})
}

// ask is a request over HTTPS, or what the door says.
func (d *device) ask(c *x509.Certificate) error {
	d.s.t.Helper()
	must(d.s.t, d.s.Set.Follow(context.Background()))
	if _, err := d.s.Gate.AdmitCertificate(context.Background(), c); err != nil {
		return err
	}
	must(d.s.t, d.s.DB.PutUses(context.Background(), []presence.Use{{Tenant: scope.Tenant, Certificate: idOf(c), At: d.s.clock.Now()}}))
	return nil
}

// works tells whether a certificate lets in now.
func (s *site) works(c *x509.Certificate) bool {
	s.t.Helper()
	if c == nil {
		return false
	}
	must(s.t, s.Set.Follow(context.Background()))
	_, err := s.Gate.AdmitCertificate(context.Background(), c)
	return err == nil
}

// live is how many operational certificates of a device are live.
func (s *site) live(d *device) (n int) {
	s.t.Helper()
	all, err := s.DB.Records(context.Background(), ca.RecordQuery{Tenant: scope.Tenant, Holder: d.birth.Subject.SerialNumber, Profile: "ldevid"})
	must(s.t, err)
	for i := range all {
		if all[i].Status(s.clock.Now()) == "good" {
			n++
		}
	}
	if len(all) == 0 {
		s.t.Fatalf("%s has no records", d.birth.Subject)
	}
	return n
}

func (s *site) reason(c *x509.Certificate) (crl.Reason, bool) {
	s.t.Helper()
	must(s.t, s.Set.Follow(context.Background()))
	serial, _ := ca.SerialFromInt(c.SerialNumber)
	r, _, revoked := s.Set.Revoked(catest.Device, serial)
	return r, revoked
}

func (s *site) create(id string, spec campaign.Spec, devices ...*device) {
	s.t.Helper()
	s.clock.Add(time.Minute) // what was issued is older than the campaign
	spec.Kind = campaign.Rotate
	if spec.Reason == "" {
		spec.Reason = campaign.Expiry
	}
	for _, d := range devices {
		spec.Targets = append(spec.Targets, "thing/"+string(d.thing))
	}
	_, err := s.campaigns.Create(context.Background(), scope.Tenant, id, "ann", spec)
	must(s.t, err)
}

// pass lets time go by and steps.
func (s *site) pass(d time.Duration) {
	s.t.Helper()
	s.clock.Add(d)
	must(s.t, s.jobs.Step(context.Background(), s.clock.Now()))
	must(s.t, s.campaigns.Step(context.Background(), s.clock.Now()))
}

func (s *site) member(id string, d *device) campaign.Member {
	s.t.Helper()
	m, err := s.campaigns.Member(context.Background(), scope, id, d.thing)
	must(s.t, err)
	return m
}

func (s *site) is(id string, d *device, state campaign.MemberState, code string) {
	s.t.Helper()
	if m := s.member(id, d); m.State != state || m.Code != code {
		s.t.Fatalf("%s is %s %q (%s), not %s %q", d.thing, m.State, m.Code, m.Detail, state, code)
	}
}

// history is what was done with a device's certificates.
func (s *site) history(d *device) string {
	s.t.Helper()
	list, err := s.rotation.History(context.Background(), scope, d.thing, 100)
	must(s.t, err)
	var out []string
	for _, e := range list {
		name := "A"
		switch {
		case d.b != nil && e.Certificate == idOf(d.b):
			name = "B"
		case e.Certificate != idOf(d.a):
			name = "?"
		}
		out = append(out, string(e.What)+" "+name)
	}
	return strings.Join(out, ", ")
}
