package device

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"hallmark/bootstrap"
	"hallmark/bootstrap/bootstraptest"
	"hallmark/broker"
	"hallmark/device/mqtt"
	"hallmark/fleet"
	"hallmark/fleet/policy"
	"hallmark/internal/durable"
	"hallmark/internal/fault"
)

// service is a device door and our own broker behind one gate, real in every part
// but the jobs, which the test gives.
type service struct {
	*bootstraptest.Door
	t     *testing.T
	addr  string
	shows atomic.Pointer[tls.Certificate] // what the broker shows

	mu     sync.Mutex
	leaves map[string]*x509.Certificate
	things map[string]*served
	last   *unit
}

// served is what the service knows of one thing, and what is wrong with it.
type served struct {
	jobs    []*cloudJob
	updates []string // statuses and steps, as they came
	change  chan struct{}
	refuse  func() (code string, silent bool) // a renewal
	door    func(certificate string) error    // a connection
	with    string                            // certificate of the newest connection
}

func newService(t *testing.T) *service {
	t.Helper()
	s := &service{Door: bootstraptest.New(t, bootstraptest.Options{Limit: 1000}), t: t, leaves: map[string]*x509.Certificate{}, things: map[string]*served{}}
	server := s.Server(t, "broker-1")
	s.shows.Store(&server)
	var topics []fleet.Topic
	for _, f := range []string{"$aws/things/+/shadow/get", "$aws/things/+/shadow/update", "$aws/things/+/jobs/+/get", "$aws/things/+/jobs/start-next", "$aws/things/+/jobs/+/update", "$hallmark/things/+/certificate/renew"} {
		topics = append(topics, fleet.Topic{Filter: f, Handle: s.handle})
	}
	b, err := broker.New(t.Context(), broker.Config{
		TLS:           &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return s.shows.Load(), nil }, ClientAuth: tls.RequestClientCert, NextProtos: broker.ALPN},
		Authenticator: s, Topics: topics, Limits: broker.Limits{ConnectRate: -1},
	})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); b.Serve(ctx, l) }()
	t.Cleanup(func() { cancel(); <-done; b.Close() })
	s.addr = l.Addr().String()
	return s
}

func (s *service) thing(name string) *served {
	if s.things[name] == nil {
		s.things[name] = &served{change: make(chan struct{})}
	}
	return s.things[name]
}

func (s *service) Authenticate(ctx context.Context, state tls.ConnectionState, _ netip.AddrPort) (broker.Identity, error) {
	c := state.PeerCertificates[0]
	id, err := s.Gate.AdmitCertificate(ctx, c)
	if err != nil {
		return broker.Identity{}, err
	}
	name := certificateID(c.Raw)
	s.mu.Lock()
	s.leaves[name] = c
	th := s.thing(string(id.Thing))
	if th.door != nil {
		err = th.door(name)
	}
	if err == nil {
		th.with = name
	}
	s.mu.Unlock()
	return broker.Identity{Tenant: id.Tenant, Thing: id.Thing, Certificate: name, Authority: id.Authority, Serial: id.Serial.String(), NotAfter: id.NotAfter, Bind: func(string, []string) broker.Authoriser { return s }}, err
}

func (s *service) Allows(policy.Action, string) bool { return true }

func (s *service) handle(ctx context.Context, q fleet.Request) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	th := s.thing(q.Levels[2])
	defer func() { close(th.change); th.change = make(chan struct{}) }()
	var in struct {
		ClientToken, Status, CSR string
		StatusDetails            map[string]string
	}
	if err := json.Unmarshal(q.Payload, &in); err != nil {
		return err
	}
	answer := func(verdict string, body map[string]any) error {
		body["clientToken"] = in.ClientToken
		raw, err := json.Marshal(body)
		q.Reply(q.Topic+"/"+verdict, raw)
		return err
	}
	current := func() map[string]any {
		for _, j := range th.jobs {
			if j.Status == "QUEUED" || j.Status == inProgress {
				return map[string]any{"execution": j}
			}
		}
		return map[string]any{}
	}
	switch q.Levels[3] + "/" + q.Levels[len(q.Levels)-1] {
	case "shadow/get":
		return answer("rejected", map[string]any{"code": 404, "message": "No shadow exists"})
	case "shadow/update":
		return answer("accepted", map[string]any{"version": 1})
	case "jobs/get":
		return answer("accepted", current())
	case "jobs/start-next":
		out := current()
		if j, _ := out["execution"].(*cloudJob); j != nil {
			j.Status = inProgress
		}
		return answer("accepted", out)
	case "jobs/update":
		for _, j := range th.jobs {
			if j.ID == q.Levels[4] && (j.Status == "QUEUED" || j.Status == inProgress) {
				j.Status, j.Details = in.Status, in.StatusDetails
				on := "A"
				if q.Certificate == j.Details["certificateId"] {
					on = "its own"
				}
				th.updates = append(th.updates, in.Status+" "+j.Details["step"]+" over "+on)
				return answer("accepted", map[string]any{})
			}
		}
		return answer("rejected", map[string]any{"code": "InvalidStateTransition", "message": "It ended."})
	}
	if th.refuse != nil {
		if code, silent := th.refuse(); silent {
			return nil
		} else if code != "" {
			return answer("rejected", map[string]any{"code": code, "message": "No."})
		}
	}
	block, _ := pem.Decode([]byte(in.CSR))
	if block == nil {
		return answer("rejected", map[string]any{"code": "InvalidRequest", "message": "No CSR."})
	}
	out, err := s.Service.Register(ctx, bootstrap.Facts{Certificate: s.leaves[q.Certificate]}, bootstrap.Request{CSR: block.Bytes})
	if err != nil {
		return answer("rejected", map[string]any{"code": fault.From(err).Code, "message": err.Error()})
	}
	return answer("accepted", map[string]any{"certificatePem": string(pemOf([][]byte{out.Certificate})), "chainPem": string(pemOf(out.Chain)), "certificateId": certificateID(out.Certificate)})
}

// until waits until something is true of what the service knows of a thing.
func (s *service) until(thing, what string, is func(*served) bool) {
	s.t.Helper()
	timeout := time.After(time.Minute)
	for {
		s.mu.Lock()
		th := s.thing(thing)
		ok, change, text := is(th), th.change, fmt.Sprintf("%q", th.updates)
		s.mu.Unlock()
		if ok {
			return
		}
		select {
		case <-change:
		case <-time.After(20 * time.Millisecond): // it may be about the device's files
		case <-timeout:
			for s.last != nil && len(s.last.events) > 0 {
				s.t.Logf("%+v", <-s.last.events)
			}
			s.t.Fatalf("%s: not in time: %s (%s)", thing, what, text)
		}
	}
}

const rotateNow = `{"operation":"rotate-certificate","version":1,"campaign":"c1","reason":"expiry","key":{"algorithm":"P-256"},"connect":{"attempts":3,"seconds":60}}`

// rotated gives a thing the job.
func (s *service) ask(thing, id, document string) *cloudJob {
	s.mu.Lock()
	defer s.mu.Unlock()
	j := &cloudJob{ID: id, Number: 1, Status: "QUEUED", Document: json.RawMessage(document)}
	th := s.thing(thing)
	th.jobs = append(th.jobs, j)
	return j
}

// wanted waits for the end of a job and gives how it ended.
func (s *service) ended(thing string, j *cloudJob) (status, step string) {
	s.t.Helper()
	s.until(thing, "job "+j.ID+" ends", func(*served) bool { return j.Status != "QUEUED" && j.Status != inProgress })
	s.mu.Lock()
	defer s.mu.Unlock()
	return j.Status, j.Details["step"]
}

// unit is a device whose power, disk, clock and network a test spoils.
type unit struct {
	s     *service
	thing string
	sn    string
	cfg   RunConfig

	mu      sync.Mutex
	off     bool // the power: nothing happens any more in this life
	stop    context.CancelFunc
	calls   int // steps and writes of this life
	spoil   func(u *unit, step string, n int) error
	full    bool // the disk
	skew    time.Duration
	cut     bool // the network
	streams map[net.Conn]bool
	events  chan Event
}

// unit makes a device that is registered.
func (s *service) unit(n int) *unit {
	s.t.Helper()
	u := &unit{s: s, sn: fmt.Sprintf("SN-%d", n), streams: map[net.Conn]bool{}, events: make(chan Event, 1000)}
	u.thing, s.last = "thing-"+u.sn, u
	first, _ := install(s.t, s.Door, u.sn)
	first.Timeout = 3 * time.Second
	if _, err := FirstBoot(s.t.Context(), first); err != nil {
		s.t.Fatal(err)
	}
	u.cfg = RunConfig{Config: first, Endpoint: s.addr, ServerName: "localhost", NoRenewal: true, Backoff: Backoff{Min: 5 * time.Millisecond, Max: 40 * time.Millisecond}, Grace: 50 * time.Millisecond, Event: func(e Event) {
		select {
		case u.events <- e:
		default:
		}
	}}
	u.cfg.step, u.cfg.write, u.cfg.dial = u.step, u.write, u.dial
	u.cfg.Now = func() time.Time {
		u.mu.Lock()
		defer u.mu.Unlock()
		return time.Now().Add(u.skew)
	}
	return u
}

func (u *unit) step(name string) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.calls++
	if !u.off && u.spoil != nil {
		if err := u.spoil(u, name, u.calls); err != nil {
			return err
		}
	}
	if u.off {
		return syscall.EINTR
	}
	return nil
}

func (u *unit) write(name string, data []byte, perm os.FileMode) error {
	if err := u.step("write " + filepath.Base(name)); err != nil {
		return err
	}
	u.mu.Lock()
	full := u.full
	u.mu.Unlock()
	if full {
		return syscall.ENOSPC
	}
	return durable.WriteFile(name, data, perm)
}

func (u *unit) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	u.mu.Lock()
	cut := u.cut || u.off
	u.mu.Unlock()
	if cut {
		return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.ENETUNREACH}
	}
	c, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err == nil {
		u.mu.Lock()
		u.streams[c] = true
		u.mu.Unlock()
	}
	return c, err
}

// drop breaks all connections; the caller holds the lock.
func (u *unit) drop() {
	for c := range u.streams {
		c.Close()
		delete(u.streams, c)
	}
}

// kill is a power cut; the caller holds the lock.
func (u *unit) kill() error {
	u.off = true
	u.stop()
	u.drop()
	return syscall.EINTR
}

// begin is one life; it ends with the power, or with end.
func (u *unit) begin() (end func()) {
	ctx, cancel := context.WithCancel(context.Background())
	u.mu.Lock()
	u.off, u.calls, u.stop = false, 0, cancel
	u.mu.Unlock()
	done := make(chan error, 1)
	go func() { done <- Run(ctx, u.cfg) }()
	return func() {
		u.s.t.Helper()
		select {
		case err := <-done:
			u.mu.Lock()
			defer u.mu.Unlock()
			if !u.off {
				u.s.t.Errorf("%s: the agent ended by itself: %v", u.thing, err)
			}
			return
		case <-ctx.Done(): // the power
		default:
			cancel()
		}
		select {
		case <-done:
		case <-time.After(30 * time.Second):
			u.s.t.Errorf("%s: the agent does not stop", u.thing)
		}
	}
}

// survive lives again after each power cut, until is says that it is enough.
func (u *unit) survive(what string, is func(*served) bool) {
	u.s.t.Helper()
	deadline := time.Now().Add(90 * time.Second)
	for {
		end := u.begin()
		for {
			u.s.mu.Lock()
			th := u.s.thing(u.thing)
			ok, change, text := is(th), th.change, fmt.Sprintf("%q", th.updates)
			u.s.mu.Unlock()
			u.mu.Lock()
			off := u.off
			u.mu.Unlock()
			if ok && !off {
				end()
				return
			}
			if off {
				break
			}
			if time.Now().After(deadline) {
				end()
				for len(u.events) > 0 {
					u.s.t.Logf("%+v", <-u.events)
				}
				u.s.t.Fatalf("%s: not in time: %s (%s)", u.thing, what, text)
			}
			select {
			case <-change:
			case <-time.After(20 * time.Millisecond):
			}
		}
		end()
	}
}

// works checks that what the device has in use lets it in, and that there is at
// most one live certificate besides. It gives the slot.
func (u *unit) works() string {
	u.s.t.Helper()
	h, err := openHome(u.cfg.Dir)
	if err != nil {
		u.s.t.Fatal(err)
	}
	used, err := h.active()
	h.close()
	if err != nil || used == nil {
		u.s.t.Errorf("%s: bricked: %v", u.thing, err)
		return ""
	}
	c, err := mqtt.Dial(u.s.t.Context(), mqtt.Config{Addr: u.s.addr, TLS: mqtt.TLS(used.Certificate, u.cfg.Roots, "localhost"), ClientID: u.thing})
	if err != nil {
		u.s.t.Errorf("%s: bricked: %v", u.thing, err)
		return ""
	}
	c.Close()
	live := 0
	for _, rec := range issued(u.s.t, u.s.Door, u.sn) {
		if rec.Status(time.Now()) == "good" {
			live++
		}
	}
	if live > 2 {
		u.s.t.Errorf("%s: %d live certificates", u.thing, live)
	}
	return used.slot
}
