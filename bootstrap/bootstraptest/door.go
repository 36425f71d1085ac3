// Package bootstraptest gives a test a device door that is real in every part:
// TLS on loopback, database, CA, gate, planner and first boot.
//
// Start reading at [New].
package bootstraptest

import (
	"bytes"
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/api/deviceapi"
	"hallmark/bootstrap"
	"hallmark/ca"
	"hallmark/ca/catest"
	"hallmark/crl"
	"hallmark/fleet"
	"hallmark/fleet/ownership"
	"hallmark/fleet/registry"
	"hallmark/fleet/rotation"
	"hallmark/internal/fault"
	"hallmark/provisioner"
)

// Template is the registration template of the door: the thing is named for
// the unit, has attributes of the certificate and the device, a policy and a
// configuration.
const Template = `{
  "Parameters": {
    "AWS::IoT::Certificate::Id": {"Type": "String"},
    "AWS::IoT::Certificate::CommonName": {"Type": "String"},
    "AWS::IoT::Certificate::Organization": {"Type": "String", "Default": "none"},
    "Site": {"Type": "String", "Default": "unknown"},
    "Name": {"Type": "String", "Default": {"Fn::Join": ["-", ["thing", {"Ref": "AWS::IoT::Certificate::CommonName"}]]}}
  },
  "Resources": {
    "thing": {
      "Type": "AWS::IoT::Thing",
      "Properties": {
        "ThingName": {"Ref": "Name"},
        "AttributePayload": {"serial": {"Ref": "AWS::IoT::Certificate::CommonName"}, "site": {"Ref": "Site"}, "maker": {"Ref": "AWS::IoT::Certificate::Organization"}},
        "ThingGroups": ["all"]
      },
      "OverrideSettings": {"AttributePayload": "MERGE"}
    },
    "certificate": {"Type": "AWS::IoT::Certificate", "Properties": {"CertificateId": {"Ref": "AWS::IoT::Certificate::Id"}, "Status": "ACTIVE"}},
    "policy": {"Type": "AWS::IoT::Policy", "Properties": {"PolicyDocument": {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "iot:Connect", "Resource": "client/${iot:Connection.Thing.ThingName}"}]}}}
  },
  "DeviceConfiguration": {"endpoint": "mqtts://broker.example.com:8883", "report_interval": "60", "site": {"Fn::Sub": "site/${Site}"}}
}`

// Door is a running device door.
type Door struct {
	*catest.Fixture
	URL      string
	Addr     string
	Gate     *bootstrap.Gate
	Service  *bootstrap.Service
	Planner  *provisioner.Planner
	Registry *registry.Registry
	Set      *crl.Set
	Crl      *crl.Service
	Owners   *ownership.Service
	Requests atomic.Int64
	handler  atomic.Pointer[http.Handler]
	// Intercept, if set, sees a request before the service does; it answers
	// false to swallow it.
	Intercept func(w http.ResponseWriter, r *http.Request) bool
}

// Clock is a time that a test moves.
type Clock struct {
	mu  sync.Mutex
	now time.Time
}

// NewClock starts at the real time, in whole milliseconds.
func NewClock() *Clock { return &Clock{now: time.Now().UTC().Truncate(time.Millisecond)} }

// Now is the clock's time.
func (c *Clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

// Add moves the clock.
func (c *Clock) Add(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
}

// Options changes what [New] makes.
type Options struct {
	URL      string              // of the database; "" is a new SQLite file
	Clock    *Clock              // nil is the real time
	Template string              // "" is [Template]; "-" leaves the authority unregistered
	Copied   bool                // as in [catest.Config]
	Limit    int                 // of new certificates per device and day
	Dark     *bootstrap.DarkLane // its store is the door's
	// Renewed hears of every certificate that a device got.
	Renewed func(ctx context.Context, tenant string, thing fleet.ThingName, before, certificate, over string)
	Advise  func(ctx context.Context, tenant, authority string, c *x509.Certificate) (rotation.Advice, error)
}

// New opens a door; the test's end closes it.
func New(t testing.TB, o Options) *Door {
	t.Helper()
	ctx := context.Background()
	var now func() time.Time
	if o.Clock != nil {
		now = o.Clock.Now
	}
	d := &Door{Fixture: catest.Open(t, catest.Config{URL: o.URL, Now: now, Copied: o.Copied})}
	d.Registry = registry.New(registry.Config{Store: d.DB, Alone: d.DB.Alone(), Now: now})
	d.Planner = provisioner.NewPlanner(provisioner.PlannerConfig{Store: d.DB, Now: now})
	t.Cleanup(d.Planner.Close)
	d.Set = crl.NewSet(crl.SetConfig{Feed: d.DB, Now: now})
	if err := d.Set.Load(ctx); err != nil {
		t.Fatal(err)
	}
	d.Crl = crl.New(crl.Config{Store: d.DB, Now: now})
	d.Owners = ownership.New(ownership.Config{Store: d.DB, Registry: d.Registry, Revoker: d.Crl, TemplateGroups: d.Planner.FirstBootGroups, Now: now})
	d.Gate = bootstrap.NewGate(bootstrap.GateConfig{CA: d.CA, Records: d.DB, Registry: d.Registry, Revoked: d.Set, Owners: d.Owners, Now: now})
	if o.Dark != nil {
		o.Dark.Store = d.DB
	}
	d.Service = bootstrap.New(bootstrap.Config{Gate: d.Gate, Issuer: d.CA, Planner: d.Planner, Registry: d.Registry, Records: d.DB, Orders: provisioner.New(provisioner.Config{Store: d.DB, Units: d.DB, Now: now}), DailyLimit: o.Limit, Dark: o.Dark, Withdrawer: d.Crl, Renewed: o.Renewed, Advise: o.Advise, Now: now})
	if o.Template == "" {
		o.Template = Template
	}
	if o.Template != "-" {
		d.SetTemplate(t, o.Template)
	}

	server := d.Server(t, "server-1")
	d.Serve(d.Service.Handler(Problem))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{
		TLSConfig: bootstrap.TLSConfig(func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return &server, nil }, d.Gate),
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			d.Requests.Add(1)
			if d.Intercept != nil && !d.Intercept(w, r) {
				return
			}
			(*d.handler.Load()).ServeHTTP(w, r)
		}),
		ReadHeaderTimeout: 10 * time.Second,
	}
	done := make(chan struct{})
	go func() { defer close(done); srv.ServeTLS(l, "", "") }()
	t.Cleanup(func() { srv.Close(); <-done })
	d.Addr = l.Addr().String()
	d.URL = "https://" + d.Addr
	return d
}

// SetTemplate registers the device authority with a template and no hook.
func (d *Door) SetTemplate(t testing.TB, body string) {
	t.Helper()
	d.Register(t, body, "", false)
}

// Register registers the device authority.
func (d *Door) Register(t testing.TB, body, hook string, takeOver bool) {
	t.Helper()
	ctx := context.Background()
	if err := d.Planner.PutTemplate(ctx, provisioner.TemplateDocument{Tenant: access.DefaultTenant, Name: "first", Body: []byte(body)}); err != nil {
		t.Fatal(err)
	}
	r := provisioner.Registration{Tenant: access.DefaultTenant, Authority: catest.Device, Template: "first", Hook: hook, TakeOver: takeOver, Enabled: true}
	if err := d.Planner.PutRegistration(ctx, r); err != nil {
		t.Fatal(err)
	}
}

// Revoke takes a certificate's trust away and lets the door hear of it.
func (d *Door) Revoke(t testing.TB, c *x509.Certificate, r crl.Reason) {
	t.Helper()
	ctx := context.Background()
	id, err := d.DB.RecordBySerial(ctx, access.DefaultTenant, "", serialOf(c))
	if err == nil {
		_, err = d.Crl.Revoke(ctx, d.officer(), crl.Withdrawal{Authority: id.Authority, Serial: id.Serial, Reason: r, Note: "test"})
	}
	if err == nil {
		err = d.Set.Follow(ctx)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// Block takes all trust from a device.
func (d *Door) Block(t testing.TB, holder string) {
	t.Helper()
	_, err := d.Crl.BlockDevice(context.Background(), d.officer(), holder, crl.PrivilegeWithdrawn, "test")
	if err == nil {
		err = d.Set.Follow(context.Background())
	}
	if err != nil {
		t.Fatal(err)
	}
}

func (d *Door) officer() access.Actor {
	return access.Actor{Tenant: access.DefaultTenant, Kind: access.KindPrincipal, Name: "officer"}
}

// Answer is what the door said.
type Answer struct {
	Status       int
	Code         string // of a problem
	Body         []byte
	Registration deviceapi.Registration
	WhoAmI       deviceapi.WhoAmI
	Nonce        deviceapi.Nonce
	TLS          tls.ConnectionState
}

// Conn is one TLS connection of a device.
type Conn struct {
	*tls.Conn
	client *http.Client
	url    string
}

// Dial connects with a certificate; nil for none.
func (d *Door) Dial(t testing.TB, c *x509.Certificate, key crypto.Signer, change ...func(*tls.Config)) *Conn {
	t.Helper()
	cfg := &tls.Config{RootCAs: d.Pool(), ServerName: "localhost", MinVersion: tls.VersionTLS12}
	if d.Now != nil {
		cfg.Time = d.Now
	}
	if c != nil {
		cfg.Certificates = []tls.Certificate{d.Client(c, key)}
	}
	for _, f := range change {
		f(cfg)
	}
	conn, err := tls.Dial("tcp", d.Addr, cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	out := &Conn{Conn: conn, url: d.URL}
	out.client = &http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DialTLSContext: func(context.Context, string, string) (net.Conn, error) { return conn, nil }}}
	return out
}

// Challenge is the connection's binding.
func (c *Conn) Challenge(t testing.TB) string {
	t.Helper()
	cs := c.ConnectionState()
	s, err := bootstrap.Exporter(cs.ExportKeyingMaterial).Challenge()
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Do sends one request; body nil makes it a GET.
func (c *Conn) Do(t testing.TB, path string, body any) Answer {
	t.Helper()
	out, err := c.Try(path, body)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// Try is Do for goroutines other than the test's own.
func (c *Conn) Try(path string, body any) (out Answer, err error) {
	method, reader := http.MethodGet, io.Reader(nil)
	if body != nil {
		raw, ok := body.([]byte)
		if !ok {
			if raw, err = json.Marshal(body); err != nil {
				return out, err
			}
		}
		method, reader = http.MethodPost, bytes.NewReader(raw)
	}
	req, err := http.NewRequest(method, c.url+path, reader)
	if err != nil {
		return out, err
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := c.client.Do(req)
	if err != nil {
		return out, err
	}
	defer res.Body.Close()
	out.Status, out.TLS = res.StatusCode, *res.TLS
	if out.Body, err = io.ReadAll(res.Body); err != nil {
		return out, err
	}
	if res.StatusCode != http.StatusOK {
		var p deviceapi.Problem
		err := json.Unmarshal(out.Body, &p)
		out.Code = p.Code
		return out, err
	}
	var into any
	switch path {
	case "/bootstrap/v1/register":
		into = &out.Registration
	case "/bootstrap/v1/nonce":
		into = &out.Nonce
	default:
		into = &out.WhoAmI
	}
	return out, json.Unmarshal(out.Body, into)
}

// Serve replaces what answers at the door.
func (d *Door) Serve(h http.Handler) { d.handler.Store(&h) }

// Problem is a small problem document; the service has a better one.
func Problem(w http.ResponseWriter, _ *http.Request, err error) {
	f := fault.From(err)
	status := map[fault.Kind]int{fault.Invalid: 400, fault.Unauthenticated: 401, fault.Forbidden: 403, fault.NotFound: 404, fault.Conflict: 409, fault.Exhausted: 429, fault.Unavailable: 503}[f.Kind]
	if status == 0 {
		status = 500
	}
	if f.RetryAfter > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(f.RetryAfter.Seconds())))
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]any{"type": "/problems/" + f.Code, "title": f.What, "status": status, "code": f.Code, "detail": f.Detail, "next": f.Next, "request_id": "test"})
}

func serialOf(c *x509.Certificate) ca.Serial {
	s, _ := ca.SerialFromInt(c.SerialNumber)
	return s
}
