package ota_test

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/bootstrap/bootstraptest"
	"hallmark/broker"
	"hallmark/ca/catest"
	"hallmark/device"
	"hallmark/fleet"
	"hallmark/fleet/campaign"
	"hallmark/fleet/jobs"
	"hallmark/fleet/ota"
	"hallmark/fleet/ota/manifest"
	"hallmark/fleet/policy"
	"hallmark/fleet/presence"
	"hallmark/fleet/registry"
	"hallmark/fleet/shadow"
	"hallmark/internal/seal"
	"hallmark/store/blobs"
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

// later is the broker once it is there.
type later struct {
	mu sync.Mutex
	to fleet.Publisher
}

func (p *later) Publish(ctx context.Context, m fleet.Message) error {
	p.mu.Lock()
	to := p.to
	p.mu.Unlock()
	return to.Publish(ctx, m)
}

// told tells presence what the broker saw.
type told struct{ to *presence.Service }

func (e told) hear(k presence.Kind, ev broker.Event) {
	e.to.Hear(presence.Event{Sender: ev.Sender, Kind: k, Time: ev.Time, Session: ev.Session, Version: ev.Version, Reason: string(ev.Reason)})
}
func (e told) Connected(ev broker.Event)    { e.hear(presence.Connected, ev) }
func (e told) Disconnected(ev broker.Event) { e.hear(presence.Disconnected, ev) }
func (told) ConnectFailed(broker.Event)     {}
func (told) Subscribed(broker.Event)        {}
func (told) Unsubscribed(broker.Event)      {}

// all allows everything.
type all struct{}

func (all) Allows(policy.Action, string) bool { return true }

// site is a service in this process, real in every part.
type site struct {
	*bootstraptest.Door
	t         testing.TB
	addr      string // of the broker
	blobs     blobs.Directory
	key       crypto.Signer // of firmware
	trust     *manifest.Trust
	ota       *ota.Service
	jobs      *jobs.Service
	campaigns *campaign.Service
	https     bool // URLs are offered
}

func newSite(t testing.TB) *site {
	t.Helper()
	s := &site{Door: bootstraptest.New(t, bootstraptest.Options{Limit: 1000}), t: t, blobs: blobs.Directory{Dir: t.TempDir()}, https: true}
	var err error
	s.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	der, err := x509.MarshalPKIXPublicKey(s.key.Public())
	must(t, err)
	s.trust, err = manifest.ParseTrust(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der}), 1)
	must(t, err)
	box, err := seal.Open(sha256.New().Sum(nil))
	must(t, err)
	out := &later{}
	shadows := shadow.New(shadow.Config{Store: s.DB, Publisher: out})
	s.ota = ota.New(ota.Config{Store: s.DB, Blobs: s.blobs, Staging: filepath.Join(t.TempDir(), "staging"), Trust: s.trust, Shadows: shadows, Things: s.Registry, Presence: s.DB, Jobs: s.DB, Campaigns: s.DB, Key: box.MAC, HTTPS: func() string {
		if !s.https {
			return ""
		}
		return s.URL
	}})
	s.jobs = jobs.New(jobs.Config{Store: s.DB, Publisher: out, Targets: s.Registry, Sign: s.ota.Sign, Changed: func(ctx context.Context, e *jobs.Execution) error { return s.campaigns.Heard(ctx, e) }})
	seen := presence.New(presence.Config{Store: s.DB, Publisher: out, Node: "a"})
	s.campaigns = campaign.New(campaign.Config{Store: s.DB, Jobs: s.jobs, Presence: s.DB, Targets: s.Registry, Actions: map[campaign.Kind]campaign.Action{campaign.Firmware: s.ota}, TwoPeopleOver: 1 << 40, Node: "a", Every: 50 * time.Millisecond})
	mux := http.NewServeMux()
	mux.Handle(ota.Pattern, s.ota.Handler(bootstraptest.Problem))
	mux.Handle("/", s.Service.Handler(bootstraptest.Problem))
	s.Serve(mux)
	server := s.Server(t, "broker-1")
	b, err := broker.New(t.Context(), broker.Config{
		TLS:           &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{server}, ClientAuth: tls.RequestClientCert, NextProtos: broker.ALPN},
		Authenticator: s, Topics: append(append(s.jobs.Topics(), shadows.Topics()...), s.ota.Topics()...), Events: told{seen}, Limits: broker.Limits{ConnectRate: -1},
	})
	must(t, err)
	out.mu.Lock()
	out.to = b
	out.mu.Unlock()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	s.addr = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { b.Serve(ctx, l) })
	wg.Go(func() { seen.Run(ctx) })
	wg.Go(func() { s.campaigns.Run(ctx) })
	wg.Go(func() { s.jobs.Run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait(); b.Close() })
	return s
}

// Authenticate implements [broker.Authenticator].
func (s *site) Authenticate(ctx context.Context, state tls.ConnectionState, _ netip.AddrPort) (broker.Identity, error) {
	c := state.PeerCertificates[0]
	id, err := s.Gate.AdmitCertificate(ctx, c)
	if err != nil {
		return broker.Identity{}, err
	}
	return broker.Identity{Tenant: id.Tenant, Thing: id.Thing, Certificate: registry.CertificateID(c.Raw), Authority: id.Authority, Serial: id.Serial.String(), NotAfter: id.NotAfter, Bind: func(string, []string) broker.Authoriser { return all{} }}, nil
}

// build is an image; whether a device does well with it is in its text.
func build(version, kind string) []byte {
	return append([]byte("hallmark test image "+version+" "+kind+"\n"), bytes.Repeat([]byte{0xa5}, 40<<10)...)
}

func (s *site) sign(m *manifest.Manifest) []byte {
	s.t.Helper()
	e, err := manifest.New(m)
	must(s.t, err)
	must(s.t, e.Sign(s.key, nil))
	raw, err := e.Encode()
	must(s.t, err)
	return raw
}

func manifestOf(image []byte, version manifest.Version) *manifest.Manifest {
	return &manifest.Manifest{Class: "lamp", Version: version, Floor: "1.0", Hardware: []string{"rev-a", "rev-b"}, Size: int64(len(image)), Digest: sha256.Sum256(image), Expires: time.Now().Add(24 * time.Hour).Truncate(time.Second)}
}

// publish gives a manifest and its image to the service, and has it released.
func (s *site) publish(raw, image []byte) ota.Artifact {
	s.t.Helper()
	sum := sha256.Sum256(image)
	must(s.t, s.ota.Upload(s.t.Context(), scope.Tenant, hex.EncodeToString(sum[:]), int64(len(image)), bytes.NewReader(image)))
	a, err := s.ota.Publish(s.t.Context(), scope.Tenant, "ann", raw)
	must(s.t, err)
	a, err = s.ota.Release(s.t.Context(), scope.Tenant, a.Class, a.Version, a.Hash(), "bob")
	must(s.t, err)
	return a
}

// released publishes a build.
func (s *site) released(version manifest.Version, kind string, change func(m *manifest.Manifest)) []byte {
	s.t.Helper()
	image := build(string(version), kind)
	m := manifestOf(image, version)
	if change != nil {
		change(m)
	}
	s.publish(s.sign(m), image)
	return image
}

// rollout makes a campaign that a second person approves.
func (s *site) rollout(id string, version manifest.Version, spec campaign.Spec) campaign.Campaign {
	s.t.Helper()
	spec.Kind = campaign.Firmware
	if spec.Parameters == nil {
		spec.Parameters = json.RawMessage(fmt.Sprintf(`{"class":"lamp","version":%q,"healthySeconds":1,"connectSeconds":30}`, version))
	}
	c, err := s.campaigns.Create(context.Background(), scope.Tenant, id, "ann", spec)
	must(s.t, err)
	if c.State != campaign.AwaitingApproval {
		s.t.Fatalf("one person rolls out firmware: %s", c.State)
	}
	c, err = s.campaigns.Approve(context.Background(), scope.Tenant, id, c.Hash(), "bob")
	must(s.t, err)
	return c
}

func (s *site) eventually(what string, is func() bool) {
	s.t.Helper()
	for deadline := time.Now().Add(90 * time.Second); !is(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			s.t.Fatalf("not in time: %s", what)
		}
	}
}

func (s *site) campaign(id string) campaign.Campaign {
	s.t.Helper()
	c, err := s.campaigns.Campaign(context.Background(), scope, id)
	must(s.t, err)
	return c
}

func (s *site) member(id string, d *unit) campaign.Member {
	s.t.Helper()
	m, err := s.campaigns.Member(context.Background(), scope, id, d.thing)
	if err != nil && !errors.Is(err, campaign.ErrNoMember) {
		must(s.t, err)
	}
	return m
}

// unit is a device that runs.
type unit struct {
	s     *site
	thing fleet.ThingName
	cfg   device.RunConfig
	bad   bool // its hardware does not bear the build of the kind "picky"
	stop  func()

	mu     sync.Mutex
	events []device.Event
}

var errIll = errors.New("the watchdog bit")

// unit makes a registered device with the factory's image 1.0.
func (s *site) unit(n int) *unit {
	s.t.Helper()
	name := fmt.Sprintf("SN-%02d", n)
	c, key := s.IssueIDevID(s.t, name)
	dir := filepath.Join(s.t.TempDir(), name)
	must(s.t, os.MkdirAll(dir, 0o700))
	der, err := x509.MarshalPKCS8PrivateKey(key)
	must(s.t, err)
	must(s.t, os.WriteFile(filepath.Join(dir, "idevid.pem"), catest.PEM(c, s.Device), 0o600))
	must(s.t, os.WriteFile(filepath.Join(dir, "idevid.key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600))
	u := &unit{s: s, thing: fleet.ThingName("thing-" + name)}
	first := device.Config{Dir: dir, Server: s.URL, Roots: s.Pool(), Timeout: 5 * time.Second}
	_, err = device.FirstBoot(s.t.Context(), first)
	must(s.t, err)
	u.cfg = device.RunConfig{Config: first, Endpoint: s.addr, ServerName: "localhost", NoRenewal: true, Backoff: device.Backoff{Min: 10 * time.Millisecond, Max: 100 * time.Millisecond}, Grace: 50 * time.Millisecond,
		Firmware: &device.Firmware{Trust: s.trust, Class: "lamp", Hardware: "rev-a", Version: "1.0",
			Start:  func(_ context.Context, _ manifest.Version, image string) error { return u.runs(image, "dead") },
			Health: func(_ context.Context, _ manifest.Version, image string) error { return u.runs(image, "ill") }},
		Event: func(e device.Event) {
			u.mu.Lock()
			defer u.mu.Unlock()
			u.events = append(u.events, e)
		}}
	return u
}

// runs tells how the product does with an image.
func (u *unit) runs(image, trouble string) error {
	if image == "" { // the factory's
		return nil
	}
	head := make([]byte, 64)
	f, err := os.Open(image)
	if err != nil {
		return err
	}
	defer f.Close()
	f.Read(head)
	line, _, _ := strings.Cut(string(head), "\n")
	if strings.HasSuffix(line, " "+trouble) || u.bad && trouble == "ill" && strings.HasSuffix(line, " picky") {
		return errIll
	}
	return nil
}

func (u *unit) start() {
	u.s.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- device.Run(ctx, u.cfg) }()
	var once sync.Once
	u.stop = func() {
		once.Do(func() {
			cancel()
			if err := <-done; err != nil {
				u.s.t.Errorf("%s: %v", u.thing, err)
			}
		})
	}
	u.s.t.Cleanup(u.stop)
}

// firmware is what is on the device's disk.
func (u *unit) firmware() (f struct {
	Slot, Step, Floor, Code string
	Images                  map[string]struct{ Version string }
}) {
	u.s.t.Helper()
	raw, err := os.ReadFile(filepath.Join(u.cfg.Dir, "firmware.json"))
	if errors.Is(err, os.ErrNotExist) {
		f.Slot = "A"
		return f
	}
	must(u.s.t, err)
	must(u.s.t, json.Unmarshal(raw, &f))
	return f
}

// boots is the version that the device starts with.
func (u *unit) boots() string {
	f := u.firmware()
	if f.Images == nil {
		return string(u.cfg.Firmware.Version)
	}
	return f.Images[f.Slot].Version
}

// says dumps what a device did, where a test failed.
func (u *unit) says() {
	u.mu.Lock()
	defer u.mu.Unlock()
	for _, e := range u.events {
		u.s.t.Logf("%s %s: %s %s %s %v %s %s", e.Time.Format("05.000"), u.thing, e.Event, e.Job, e.Status, e.Details, e.Code, e.Reason)
	}
}
