package simulate

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
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
	"hallmark/bootstrap"
	"hallmark/bootstrap/bootstraptest"
	"hallmark/broker"
	"hallmark/ca"
	"hallmark/ca/catest"
	"hallmark/device"
	"hallmark/fleet"
	"hallmark/fleet/campaign"
	"hallmark/fleet/jobs"
	"hallmark/fleet/presence"
	"hallmark/fleet/rotation"
	"hallmark/fleet/shadow"
)

var tenant = access.Scope{Tenant: access.DefaultTenant}

// rotating is a service in this process, real in every part: the device door, the
// broker, jobs, campaigns, rotation, the lists' memory.
type rotating struct {
	*bootstraptest.Door
	t         *testing.T
	addr      string // of the broker
	broker    *broker.Broker
	campaigns *campaign.Service
	jobs      *jobs.Service

	mu     sync.Mutex
	leaves map[string]*x509.Certificate
	stays  map[string]string // things whose first certificate alone is let in, and it
	refuse map[string]string // things that get no other certificate, and the code of why

	received map[string]map[string]int // payloads by thing
}

func newRotating(t *testing.T) *rotating {
	t.Helper()
	s := &rotating{t: t, leaves: map[string]*x509.Certificate{}, stays: map[string]string{}, refuse: map[string]string{}, received: map[string]map[string]int{}}
	s.Door = bootstraptest.New(t, bootstraptest.Options{Limit: 1000})
	s.Intercept = func(w http.ResponseWriter, r *http.Request) bool {
		if r.URL.Path == "/bootstrap/v1/register" && len(r.TLS.PeerCertificates) > 0 {
			if code := s.refuses(r.TLS.PeerCertificates[0].Subject.CommonName); code != "" {
				w.Header().Set("Content-Type", "application/problem+json")
				w.WriteHeader(http.StatusForbidden)
				w.Write([]byte(`{"code":"` + code + `","title":"No."}`))
				return false
			}
		}
		return true
	}
	out := new(later)
	heard := func(ctx context.Context, e *jobs.Execution) error { return s.campaigns.Heard(ctx, e) }
	s.jobs = jobs.New(jobs.Config{Store: s.DB, Publisher: out, Targets: s.Registry, Changed: heard})
	shadows := shadow.New(shadow.Config{Store: s.DB, Publisher: out})
	seen := presence.New(presence.Config{Store: s.DB, Publisher: out, Node: "a"})
	rotate := rotation.New(rotation.Config{Registry: s.Registry, Presence: s.DB, Revoker: s.Crl, Store: s.DB, HTTPS: func() string { return s.URL }})
	s.campaigns = campaign.New(campaign.Config{Store: s.DB, Jobs: s.jobs, Presence: s.DB, Targets: s.Registry, Actions: map[campaign.Kind]campaign.Action{campaign.Rotate: rotate}, TwoPeopleOver: 1 << 40, Node: "a", Every: 50 * time.Millisecond})
	topics := append(s.jobs.Topics(), shadows.Topics()...)
	for _, topic := range s.Service.Topics() {
		handle := topic.Handle
		topic.Handle = func(ctx context.Context, r fleet.Request) error {
			if code := s.refuses(string(r.Thing)); code != "" {
				r.Reply(r.Topic+"/rejected", []byte(`{"code":"`+code+`","message":"No.","clientToken":"`+tokenOf(r.Payload)+`"}`))
				return nil
			}
			return handle(ctx, r)
		}
		topics = append(topics, topic)
	}
	server := s.Server(t, "broker-1")
	var err error
	s.broker, err = broker.New(t.Context(), broker.Config{
		TLS:           &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{server}, ClientAuth: tls.RequestClientCert, NextProtos: broker.ALPN},
		Authenticator: s, Topics: topics, Events: told{seen}, Limits: broker.Limits{ConnectRate: -1},
	})
	if err != nil {
		t.Fatal(err)
	}
	out.set(s.broker)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s.addr = l.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { s.broker.Serve(ctx, l) })
	wg.Go(func() { seen.Run(ctx) })
	wg.Go(func() { s.campaigns.Run(ctx) })
	wg.Go(func() { s.jobs.Run(ctx) })
	wg.Go(func() {
		for ctx.Err() == nil {
			s.Set.Follow(ctx)
			wait(ctx, 50*time.Millisecond)
		}
	})
	t.Cleanup(func() { cancel(); wg.Wait(); s.broker.Close() })
	return s
}

func tokenOf(payload []byte) string {
	_, rest, _ := strings.Cut(string(payload), `"clientToken":"`)
	token, _, _ := strings.Cut(rest, `"`)
	return token
}

// later is the broker once it is there.
type later struct {
	mu sync.Mutex
	to fleet.Publisher
}

func (p *later) set(to fleet.Publisher) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.to = to
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

func idOf(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

func (s *rotating) refuses(thing string) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refuse[thing]
}

// Authenticate implements [broker.Authenticator].
func (s *rotating) Authenticate(ctx context.Context, state tls.ConnectionState, _ netip.AddrPort) (broker.Identity, error) {
	c := state.PeerCertificates[0]
	s.mu.Lock()
	only := s.stays[c.Subject.CommonName]
	s.mu.Unlock()
	if only != "" && only != idOf(c.Raw) {
		return broker.Identity{}, bootstrap.ErrRevoked.New("")
	}
	id, err := s.Gate.AdmitCertificate(ctx, c)
	if err != nil {
		return broker.Identity{}, err
	}
	return broker.Identity{Tenant: id.Tenant, Thing: id.Thing, Certificate: idOf(c.Raw), Authority: id.Authority, Serial: id.Serial.String(), NotAfter: id.NotAfter, Bind: func(string, []string) broker.Authoriser { return gate{} }}, nil
}

// fleet makes registered devices.
func (s *rotating) fleet(prefix string, n int) []Device {
	s.t.Helper()
	dir := s.t.TempDir()
	var wg sync.WaitGroup
	turns := make(chan struct{}, 8)
	var mu sync.Mutex
	var first error
	for i := range n {
		unit := prefix + "-" + hex.EncodeToString([]byte{byte(i >> 8), byte(i)})
		c, key := s.IssueIDevID(s.t, unit)
		home := filepath.Join(dir, unit)
		der, err := x509.MarshalPKCS8PrivateKey(key)
		if err == nil {
			err = os.MkdirAll(home, 0o700)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(home, "idevid.pem"), catest.PEM(c, s.Device), 0o600)
		}
		if err == nil {
			err = os.WriteFile(filepath.Join(home, "idevid.key"), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)
		}
		if err != nil {
			s.t.Fatal(err)
		}
		turns <- struct{}{}
		wg.Go(func() {
			defer func() { <-turns }()
			if _, err := device.FirstBoot(context.Background(), device.Config{Dir: home, Server: s.URL, Roots: s.Pool()}); err != nil {
				mu.Lock()
				first = err
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if first != nil {
		s.t.Fatal(first)
	}
	devices, _, err := LoadDir(dir, 0)
	if err != nil || len(devices) != n {
		s.t.Fatalf("%d devices: %v", len(devices), err)
	}
	return devices
}

// holds is the certificate that a device has in use, and whether the door takes it.
func (s *rotating) holds(d Device) (id string, works bool) {
	s.t.Helper()
	_, c, err := held(d.Dir)
	if err != nil {
		s.t.Errorf("%s: bricked: %v", d.Thing, err)
		return "", false
	}
	_, err = s.Gate.AdmitCertificate(context.Background(), c.Leaf)
	return idOf(c.Leaf.Raw), err == nil
}

// live is how many operational certificates of a device are good.
func (s *rotating) live(d Device) (n int) {
	s.t.Helper()
	all, err := s.DB.Records(context.Background(), ca.RecordQuery{Tenant: tenant.Tenant, Holder: strings.TrimPrefix(d.Thing, "thing-"), Profile: "ldevid"})
	if err != nil {
		s.t.Fatal(err)
	}
	for i := range all {
		if all[i].Status(time.Now()) == "good" {
			n++
		}
	}
	return n
}
