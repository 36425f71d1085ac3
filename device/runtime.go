package device

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"hallmark/api/deviceapi"
	"hallmark/device/mqtt"
	"hallmark/fleet"
	"hallmark/internal/durable"
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

	// Poll is how often it asks whether a job waits, as the message that tells so can be
	// lost: after a random time between half and all of it; 0 = half an hour. What the
	// service answers with a time to wait is asked no sooner.
	Poll time.Duration

	Renewal   string // how a new certificate is asked for: "" = over MQTT, else HTTPS; "https"; "est"
	NoRenewal bool   // only when a job asks, never by itself

	Firmware *Firmware // nil: it takes none

	Event func(Event) // called for what happens, one at a time; may be nil
	// Online is called with each connection once it works, for what the product itself
	// has to say; the connection ends when its Done says so. It must not block.
	Online func(*mqtt.Conn)

	askAfter time.Duration // for the window the first time; tests
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
	EventFallback     = "fallback"      // a certificate did not connect, the other one is used
	EventReboot       = "reboot"        // simulated
	EventFirmware     = "firmware"      // an image is on trial, or did well
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
	ctx   context.Context // of the run
	cfg   RunConfig
	now   func() time.Time
	log   *slog.Logger
	lock  *os.File
	state state

	eventMu sync.Mutex
	tls     *tls.Config // of the certificate in use
	placed  string      // of the place for which it was made
	serial  string      // of it
	slot    string
	thing   string
	leaf    *x509.Certificate // of it
	window  *window           // in which the service wants it renewed

	rotationMu sync.Mutex
	rotation   *rotation    // as it is on disk; nil if there never was one
	active     string       // slot in use, as it is on disk
	instead    string       // slot that is tried because the one in use is refused
	refused    int          // times in a row
	told       bool         // the device door said when it wants to be asked again
	notBefore  atomic.Int64 // ms; no new certificate is asked for before

	trustMu   sync.Mutex
	trust     *trust // as it is on disk; nil if no job ever changed the bundle
	unreached int    // connections in a row that did not come up, but for the service's own word

	slots  slots                             // of firmware
	blocks atomic.Pointer[chan mqtt.Message] // of the file stream that is read
	due    atomic.Bool                       // a reboot, before the next connection

	requests mqtt.Requests
	session  atomic.Pointer[session] // the connection that works, if there is one
	wake     chan struct{}           // there may be a job
	reboot   chan struct{}           // a job asks for it
	turn     chan struct{}           // the next connection is to use another certificate
	boots    atomic.Int64
	idle     chan struct{} // closed when no job will run any more
}

// Run is a device's life: registered first, if it is not yet; then connected,
// again and again until the context ends. It returns nil then. What will not
// get better by waiting ends it too: a directory or an identity that cannot be
// used, and, if Tries says so, a service that stays away.
func Run(ctx context.Context, cfg RunConfig) error {
	r := &runner{cfg: cfg, now: cfg.Now, log: cfg.Log, wake: make(chan struct{}, 1), reboot: make(chan struct{}), turn: make(chan struct{}, 1), idle: make(chan struct{})}
	r.ctx, r.slots.changed = ctx, make(chan struct{}, 1)
	r.cfg.hook()
	if r.cfg.step == nil {
		r.cfg.step = func(string) error { return nil }
	}
	if r.cfg.write == nil {
		r.cfg.write = durable.WriteFile
	}
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
	err := r.take()
	if err != nil {
		return err
	}
	defer r.lock.Close()
	if err := r.boot(); err != nil {
		return err
	}
	if r.rotation, err = loadRotation(cfg.Dir); err != nil {
		return err
	}
	if r.trust, err = loadTrust(cfg.Dir); err != nil {
		return err
	}
	if r.trust != nil {
		r.exportTrust()
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r.ctx = ctx
	go r.work(ctx)
	if cfg.Server != "" && !cfg.NoRenewal {
		go r.askWindow(ctx)
	}
	watched := make(chan struct{})
	go func() { defer close(watched); r.watchImage(ctx) }()
	err = r.live(ctx)
	cancel()
	<-r.idle
	<-watched
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
	if err := s.save(r.cfg.Dir); err != nil { // a full disk must not keep it from its service
		r.event(Event{Event: EventRefused, Code: codeOf(err), Reason: wordsOf(err)})
	}
	r.state = s
	r.boots.Store(int64(s.Boots))
	r.due.Store(false)
	return r.bootImage(r.ctx)
}

// errReboot ends a connection because the device starts anew.
var errReboot = errors.New("reboot")

// live connects until the context ends.
func (r *runner) live(ctx context.Context) error {
	failures := 0
	for ctx.Err() == nil {
		if r.due.Load() {
			if err := r.boot(); err != nil {
				return err
			}
			r.event(Event{Event: EventReboot, Boots: r.state.Boots})
		}
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
		case errors.Is(err, errTurn):
			continue
		case hopeless(err) && !errors.Is(err, errTried):
			return err
		}
		var later time.Duration
		if reached(err) && !errors.Is(err, errTried) {
			var anew bool
			if later, anew = r.turnedAway(ctx); anew {
				failures = 0 // what was refused is not used any more
			}
		}
		if r.unreached++; up > 0 || reached(err) {
			r.unreached = 0
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
		wait = max(wait, later)
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
	t, to := r.trial(), r.trustTrial()
	if to != nil {
		if err := r.cfg.step("trust-trial"); err != nil {
			return 0, err
		}
		defer func() {
			if ctx.Err() == nil && up == 0 && !errors.Is(err, errTurn) {
				r.missedTrust(err, stepTrial)
				err = errors.Join(errTried, err)
			}
		}()
	}
	if t != nil {
		if err := r.cfg.step("rotate-trial"); err != nil {
			return 0, err
		}
		defer func() {
			if ctx.Err() == nil && up == 0 && !errors.Is(err, errTurn) {
				r.missed(err)
				err = errors.Join(errTried, err)
			}
		}()
	}
	select {
	case <-r.turn: // of the connection before
	default:
	}
	at := r.where(to)
	if err := r.identify(ctx, t, at); err != nil {
		return 0, err
	}
	// 2. the connection. It outlives ctx for a little: a job reports over it.
	s := &session{r: r, thing: r.thing, slot: r.slot, deltas: make(chan delta, 8), sync: make(chan struct{}, 1)}
	c, err := mqtt.Dial(ctx, mqtt.Config{
		Addr: at.endpoint, TLS: r.tls, ClientID: r.thing, Version: r.cfg.Version, KeepAlive: r.cfg.KeepAlive, Timeout: r.cfg.Timeout,
		Persistent: true, OnMessage: s.message, Dial: r.cfg.dial,
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
	// The service let it in: what was on trial is used from now on.
	if err := r.promote(); err != nil {
		return 0, err
	}
	if to != nil {
		if err := r.promoteTrust(); err != nil {
			return 0, err
		}
	}
	r.refused, r.told = 0, false
	r.session.Store(s)
	defer r.session.CompareAndSwap(s, nil)
	r.event(Event{Event: EventConnected, Endpoint: at.endpoint, Serial: r.serial, Slot: r.slot, Session: c.SessionPresent, Resumed: c.Resumed, Boots: r.state.Boots})
	nudge(r.wake) // a change of keys may go on
	if r.cfg.Online != nil {
		r.cfg.Online(c)
	}
	// 4. its life
	err = s.serve(ctx)
	return max(time.Since(began), 1), err
}

// identify makes sure of a certificate: the one that is to be tried, the one in
// use, or a first boot.
func (r *runner) identify(ctx context.Context, t *rotation, at place) error {
	h, err := r.open()
	if err != nil {
		return err
	}
	used, err := h.active()
	if err == nil && used != nil {
		r.active = used.slot
		want := r.instead
		if t != nil {
			want = t.To
		}
		if want != "" && want != used.slot {
			next := h.load(want)
			if next == nil {
				h.close()
				return ErrCertificate.New("Slot %s cannot be read.", want)
			}
			used = next
		}
	}
	h.close()
	if err != nil {
		return err
	}
	if used == nil || t == nil && !r.now().Before(used.Leaf.NotAfter) {
		base := r.base()
		if base.Server == "" {
			return ErrIdentity.New("It has no certificate that is valid, and no URL to get one from.")
		}
		out, err := FirstBoot(ctx, base)
		if err != nil {
			return err
		}
		if h, err = r.open(); err != nil {
			return err
		}
		used, err = h.active()
		h.close()
		if err != nil || used == nil {
			return ErrDir.Wrap(err, "The certificate cannot be read back.")
		}
		r.active, r.instead = used.slot, ""
		r.event(Event{Event: EventRegistered, Thing: out.Thing, Serial: out.Serial, Slot: out.Slot})
	}
	serial := hex.EncodeToString(used.Leaf.SerialNumber.FillBytes(make([]byte, 20)))
	if serial == r.serial && used.slot == r.slot && at.key == r.placed {
		return nil // with its TLS session
	}
	var answer struct {
		deviceapi.Registration
		Renew *window `json:"renew"`
	}
	raw, err := os.ReadFile(h.path(used.slot, answerFile))
	if err == nil {
		err = readMessage(raw, &answer)
	}
	if err != nil {
		return ErrDir.Wrap(err, "The slot's registration cannot be read.")
	}
	// The name becomes part of topics, so it must be one.
	if _, err := fleet.ParseThingName(answer.Thing); err != nil {
		return ErrDir.Wrap(err, "The slot's registration has no name of a thing.")
	}
	r.tls, r.placed = mqtt.TLS(used.Certificate, at.roots, at.serverName), at.key
	r.tls.Time = r.now
	r.eventMu.Lock()
	r.serial, r.slot, r.thing, r.leaf, r.window = serial, used.slot, answer.Thing, used.Leaf, answer.Renew
	r.eventMu.Unlock()
	return nil
}

// errTurn ends a connection because the next one uses another certificate, and
// errTried says that the certificate that failed is one that was only tried.
var (
	errTurn  = errors.New("another certificate")
	errTried = errors.New("a certificate on trial")
)

// refusals is how often the service refuses a certificate before another way is
// looked for: a broker that is being repaired refuses for a moment too.
const refusals = 5

// turnedAway is called when the certificate in use was refused. If that goes on,
// it tries the other slot's, and if that one is refused too asks the service's device
// door what is wrong, and registers anew with the birth certificate if that is the
// answer. later is when the door wants to be asked again; no connection comes up before,
// and the next refusal asks at once.
func (r *runner) turnedAway(ctx context.Context) (later time.Duration, anew bool) {
	if r.refused++; r.refused < refusals && r.instead == "" && !r.told {
		return 0, false
	}
	told := r.told
	r.refused, r.told = 0, false
	h, err := r.open()
	if err != nil {
		return 0, false
	}
	used, err := h.active()
	var way *pair
	if err == nil && used != nil && r.instead == "" && !told {
		way = h.load(other(used.slot))
	}
	h.close()
	if way != nil && r.now().Before(way.Leaf.NotAfter) {
		r.instead = way.slot
		r.event(Event{Event: EventFallback, Slot: way.slot, Code: "refused"})
		return 0, false
	}
	r.instead = ""
	again := r.base()
	if again.Server == "" {
		return 0, false
	}
	again.again = true
	out, err := FirstBoot(ctx, again)
	if err != nil {
		r.event(Event{Event: EventRefused, Code: codeOf(err), Reason: wordsOf(err)})
		later = laterBy(err, 0)
		r.told = later > 0
		return later, false
	}
	if !out.Resumed {
		r.event(Event{Event: EventRegistered, Thing: out.Thing, Serial: out.Serial, Slot: out.Slot})
	}
	return 0, !out.Resumed
}

// reached tells whether a failure to connect is the service's word about the
// device, and not the network's about the service.
func reached(err error) bool {
	var op *net.OpError
	return errors.Is(err, mqtt.ErrRefused) || errors.Is(err, mqtt.ErrSubscribe) || errors.As(err, &op) && op.Op == "remote error"
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
