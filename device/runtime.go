package device

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"hallmark/api/deviceapi"
	"hallmark/device/mqtt"
	"hallmark/fleet"
	"hallmark/internal/fault"
	"hallmark/internal/strictjson"
)

// RunConfig says how a device lives after its first boot.
type RunConfig struct {
	Config // directory, roots, and the service for a first boot

	Endpoint   string // of the broker, host:port
	ServerName string // in the broker's certificate; empty = the endpoint's host
	Version    byte   // mqtt.V311 (0 too) or mqtt.V5
	KeepAlive  time.Duration

	Allow   []Command     // that jobs may run; see [LoadAllowList]
	Backoff Backoff       // between connections
	Tries   int           // failures in a row after which it gives up; 0 = never
	Grace   time.Duration // that a running job gets when the agent stops; 0 = 10 s

	Event func(Event) // called for what happens, one at a time; may be nil
}

// The kinds of events.
const (
	EventRegistered   = "registered"    // first boot, or a renewal
	EventConnected    = "connected"     // to the broker, subscribed
	EventDisconnected = "disconnected"  // the connection ended
	EventFailed       = "failed"        // it did not come up
	EventSettings     = "settings"      // a change was taken; its report follows
	EventRefused      = "refused"       // something that was asked for was not done
	EventJobStarted   = "job-started"   // or resumed
	EventJobFinished  = "job-finished"  // and reported
	EventJobDiscarded = "job-discarded" // the service does not want its result any more
	EventReboot       = "reboot"        // simulated
	EventStopped      = "stopped"
)

// Event is something that happened to a device.
type Event struct {
	Time     time.Time         `json:"time"`
	Event    string            `json:"event"`
	Thing    string            `json:"thing,omitempty"`
	Endpoint string            `json:"endpoint,omitempty"`
	Serial   string            `json:"serial,omitempty"`
	Slot     string            `json:"slot,omitempty"`
	Session  bool              `json:"session_present,omitempty"`
	Resumed  bool              `json:"tls_resumed,omitempty"`
	Boots    int               `json:"boots,omitempty"`
	Settings map[string]any    `json:"settings,omitempty"`
	Job      string            `json:"job,omitempty"`
	Status   string            `json:"status,omitempty"`
	Details  map[string]string `json:"details,omitempty"`
	Code     string            `json:"code,omitempty"`   // of what failed; stable
	Reason   string            `json:"reason,omitempty"` // in words
	RetryIn  string            `json:"retry_in,omitempty"`
}

// runner is a running device.
type runner struct {
	cfg   RunConfig
	now   func() time.Time
	log   *slog.Logger
	lock  *os.File
	state state

	eventMu sync.Mutex
	tls     *tls.Config // of the certificate in use
	serial  string      // of it
	slot    string
	thing   string

	requests mqtt.Requests
	session  atomic.Pointer[session] // the connection that works, if there is one
	wake     chan struct{}           // there may be a job
	reboot   chan struct{}           // a job asks for it
	boots    atomic.Int64
	idle     chan struct{} // closed when no job will run any more
}

// Run is a device's life: registered first, if it is not yet; then connected,
// again and again until the context ends. It returns nil then. What will not
// get better by waiting ends it too: a directory or an identity that cannot be
// used, and, if Tries says so, a service that stays away.
func Run(ctx context.Context, cfg RunConfig) error {
	r := &runner{cfg: cfg, now: cfg.Now, log: cfg.Log, wake: make(chan struct{}, 1), reboot: make(chan struct{}), idle: make(chan struct{})}
	if r.now == nil {
		r.now = time.Now
	}
	if r.log == nil {
		r.log = slog.New(slog.DiscardHandler)
	}
	if r.cfg.Grace <= 0 {
		r.cfg.Grace = 10 * time.Second
	}
	if cfg.Endpoint == "" {
		return ErrEndpoint.New("")
	}
	if err := r.take(); err != nil {
		return err
	}
	defer r.lock.Close()
	if err := r.boot(); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go r.work(ctx)
	err := r.live(ctx)
	cancel()
	<-r.idle
	if err == nil {
		r.event(Event{Event: EventStopped})
	}
	return err
}

// take makes this process the directory's agent. First boots take a lock of
// their own, for as long as one lasts.
func (r *runner) take() error {
	lock, err := os.OpenFile(filepath.Join(r.cfg.Dir, "agent.lock"), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return ErrDir.Wrap(err, "")
	}
	if err := syscall.Flock(int(lock.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		lock.Close()
		return ErrBusy.Wrap(err, "")
	}
	r.lock = lock
	return nil
}

// boot reads what is left of the last life and begins the next one.
func (r *runner) boot() error {
	s, err := loadState(r.cfg.Dir)
	if err != nil {
		return err
	}
	s.Boots++
	if err := s.save(r.cfg.Dir); err != nil {
		return err
	}
	r.state = s
	r.boots.Store(int64(s.Boots))
	return nil
}

// errReboot ends a connection because the device starts anew.
var errReboot = errors.New("reboot")

// live connects until the context ends.
func (r *runner) live(ctx context.Context) error {
	failures := 0
	for ctx.Err() == nil {
		up, err := r.once(ctx)
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, errReboot):
			if err := r.boot(); err != nil {
				return err
			}
			r.event(Event{Event: EventReboot, Boots: r.state.Boots})
			continue
		case hopeless(err):
			return err
		}
		kind := EventFailed
		// A connection that held proves that the service is well.
		if up > 0 {
			kind = EventDisconnected
		}
		if up > time.Minute {
			failures = 0
		}
		failures++
		if r.cfg.Tries > 0 && failures >= r.cfg.Tries {
			return err
		}
		wait := r.cfg.Backoff.Wait(failures)
		if f := fault.From(err); f.RetryAfter > wait {
			wait = f.RetryAfter + Random(f.RetryAfter)
		}
		r.event(Event{Event: kind, Endpoint: r.cfg.Endpoint, Code: codeOf(err), Reason: wordsOf(err), RetryIn: wait.Round(time.Millisecond).String()})
		pause(ctx, wait)
	}
	return nil
}

// hopeless tells whether waiting changes nothing.
func hopeless(err error) bool {
	for _, d := range []*fault.Definition{ErrDir, ErrIdentity, ErrToken, ErrState, ErrEndpoint, mqtt.ErrConfig} {
		if errors.Is(err, d) {
			return true
		}
	}
	return false
}

func codeOf(err error) string {
	if r := mqtt.Reason(err); r != "other" {
		return r
	}
	return fault.From(err).Code
}

func wordsOf(err error) string {
	f := fault.From(err)
	if f.Code == "internal" {
		return err.Error()
	}
	if f.Detail == "" {
		return f.What
	}
	return f.What + " " + f.Detail
}

// once is one connection from the certificate to the end. up is for how long it
// was connected.
func (r *runner) once(ctx context.Context) (up time.Duration, err error) {
	// 1. a certificate that works
	if err := r.identify(ctx); err != nil {
		return 0, err
	}
	// 2. the connection. It outlives ctx for a little: a job reports over it.
	s := &session{r: r, thing: r.thing, deltas: make(chan delta, 8), sync: make(chan struct{}, 1)}
	c, err := mqtt.Dial(ctx, mqtt.Config{
		Addr: r.cfg.Endpoint, TLS: r.tls, ClientID: r.thing, Version: r.cfg.Version, KeepAlive: r.cfg.KeepAlive, Timeout: r.cfg.Timeout,
		Persistent: true, OnMessage: s.message,
	})
	if err != nil {
		return 0, err
	}
	defer c.Close()
	s.conn = c
	began := time.Now()
	// 3. what it wants to hear
	if err := s.subscribe(ctx); err != nil {
		return 0, err
	}
	r.session.Store(s)
	defer r.session.CompareAndSwap(s, nil)
	r.event(Event{Event: EventConnected, Endpoint: r.cfg.Endpoint, Serial: r.serial, Slot: r.slot, Session: c.SessionPresent, Resumed: c.Resumed, Boots: r.state.Boots})
	// 4. its life
	err = s.serve(ctx)
	return max(time.Since(began), 1), err
}

// identify makes sure of a certificate: the one in use, or a first boot.
func (r *runner) identify(ctx context.Context) error {
	h, err := openHome(r.cfg.Dir)
	if err != nil {
		return err
	}
	h.keys = keyring{ctx, r.cfg.Keys, r.cfg.KeyURI}
	used, err := h.active()
	h.close()
	if err != nil {
		return err
	}
	if used == nil || !r.now().Before(used.Leaf.NotAfter) {
		if r.cfg.Server == "" {
			return ErrIdentity.New("It has no certificate that is valid, and no URL to get one from.")
		}
		out, err := FirstBoot(ctx, r.cfg.Config)
		if err != nil {
			return err
		}
		if h, err = openHome(r.cfg.Dir); err != nil {
			return err
		}
		h.keys = keyring{ctx, r.cfg.Keys, r.cfg.KeyURI}
		used, err = h.active()
		h.close()
		if err != nil || used == nil {
			return ErrDir.Wrap(err, "The certificate cannot be read back.")
		}
		r.event(Event{Event: EventRegistered, Thing: out.Thing, Serial: out.Serial, Slot: out.Slot})
	}
	serial := hex.EncodeToString(used.Leaf.SerialNumber.FillBytes(make([]byte, 20)))
	if serial == r.serial {
		return nil // with its TLS session
	}
	var answer deviceapi.Registration
	raw, err := os.ReadFile(h.path(used.slot, answerFile))
	if err == nil {
		err = strictjson.Decode(raw, &answer)
	}
	if err != nil {
		return ErrDir.Wrap(err, "The slot's registration cannot be read.")
	}
	// The name becomes part of topics, so it must be one.
	if _, err := fleet.ParseThingName(answer.Thing); err != nil {
		return ErrDir.Wrap(err, "The slot's registration has no name of a thing.")
	}
	r.tls = mqtt.TLS(used.Certificate, r.cfg.Roots, r.cfg.ServerName)
	r.tls.Time = r.now
	r.eventMu.Lock()
	r.serial, r.slot, r.thing = serial, used.slot, answer.Thing
	r.eventMu.Unlock()
	return nil
}

// event tells what happened, to the log and to whoever listens.
func (r *runner) event(e Event) {
	r.eventMu.Lock()
	defer r.eventMu.Unlock()
	e.Time = r.now().UTC()
	if e.Thing == "" {
		e.Thing = r.thing
	}
	level := slog.LevelInfo
	if e.Code != "" || e.Event == EventRefused {
		level = slog.LevelWarn
	}
	r.log.Log(context.Background(), level, "device event", "event", e.Event, "thing", e.Thing, "job", e.Job, "status", e.Status, "code", e.Code, "reason", e.Reason)
	if r.cfg.Event != nil {
		r.cfg.Event(e)
	}
}

// nudge sets a signal that may be set already.
func nudge(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// readMessage reads a message of the service, which may have more members than
// are known here.
func readMessage(payload []byte, v any) error {
	return strictjson.Decode(payload, v, strictjson.AllowUnknownFields(), strictjson.WithLimits(strictjson.Limits{Size: 256 << 10}))
}
