//go:build cgo

package pkcs11

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	p11 "github.com/miekg/pkcs11"
	"github.com/prometheus/client_golang/prometheus"

	"hallmark/hsm/token"
	"hallmark/internal/fault"
)

const (
	minRetry   = 20 * time.Millisecond // first pause before a reconnection
	maxRetry   = 30 * time.Second      // longest pause
	busyRetry  = time.Second           // what a caller is told to wait
	drainWait  = 2 * time.Second       // for calls in flight before a re-initialisation
	probeEvery = 10 * time.Second      // test signature of an idle token
)

// errNoToken is the absence of the token, which for a network HSM is what an
// outage looks like.
var errNoToken = errors.New("the token is not present")

// state of the breaker.
const (
	up uint32 = iota
	down
	refused
	stopped
)

// device is one token as one keyring uses it.
type device struct {
	mod *module
	id  token.ID
	uri token.URI // as opened: where the PIN comes from
	cfg token.Config
	log *slog.Logger
	q   *queue

	state atomic.Uint32
	stop  chan struct{}
	wg    sync.WaitGroup // workers and the watch

	// connectMu serialises connecting; the fields below it change only there.
	connectMu sync.Mutex
	pin       token.Secret
	keeper    p11.SessionHandle
	keeperGen uint64 // module generation of keeper; 0 = none
	attempts  uint64 // generations are never used twice, failed ones included

	link atomic.Pointer[link]

	mu      sync.Mutex
	keys    map[string]*Key
	since   time.Time
	lastErr error
	pinLow  bool
	latency time.Duration
	lastUse atomic.Int64 // unix nanoseconds of the last good signature

	workers []*worker
	genMu   sync.Mutex // one generation of a key at a time

	observe prometheus.Observer
	inUse   prometheus.Gauge
	queued  prometheus.Gauge
	breaker prometheus.Gauge
}

// link is one connection to the token. Sessions and handles belong to it.
type link struct {
	gen    uint64
	modGen uint64
	slot   uint
}

func newDevice(m *module, s slot, u token.URI, cfg token.Config) *device {
	if s.sessions > 0 && cfg.Sessions > s.sessions-3 {
		// Keeper, the line's reserve and one for administration come on top.
		cfg.Sessions = max(s.sessions-3, 1)
	}
	d := &device{
		mod: m, id: s.id, uri: u, cfg: cfg,
		log:     cfg.Log.With("token", s.id.Label, "serial", s.id.Serial),
		q:       newQueue(cfg.Sessions),
		stop:    make(chan struct{}),
		keys:    map[string]*Key{},
		since:   time.Now(),
		observe: cfg.Metrics.Sign.WithLabelValues(s.id.Label),
		inUse:   cfg.Metrics.InUse.WithLabelValues(s.id.Label),
		queued:  cfg.Metrics.Waiting.WithLabelValues(s.id.Label),
		breaker: cfg.Metrics.Breaker.WithLabelValues(s.id.Label),
	}
	return d
}

// start begins to serve a device that connect has connected.
func (d *device) start() {
	// One more than configured is reserved for the line, see queue.
	for i := range d.cfg.Sessions + 1 {
		w := &worker{d: d, reserved: i == d.cfg.Sessions}
		d.workers = append(d.workers, w)
		d.wg.Add(1)
		go w.run()
	}
	d.wg.Add(1)
	go d.watch()
}

func (d *device) refusalKey() string {
	return d.mod.path + "\x00" + d.id.Serial + "\x00" + d.id.Label
}

// connect makes a new link without touching the module: find the token, log
// in, find and prove every key. prev is the generation the caller saw; if the
// link is newer already, there is nothing to do.
func (d *device) connect(ctx context.Context, prev uint64) error {
	d.connectMu.Lock()
	defer d.connectMu.Unlock()
	if l := d.link.Load(); l != nil && l.gen > prev {
		return nil
	}
	if d.state.Load() == stopped {
		return token.ErrClosed.New("")
	}
	registry.mu.Lock()
	err := registry.refused[d.refusalKey()]
	registry.mu.Unlock()
	if err != nil {
		return err
	}

	modGen := d.mod.enter()
	defer d.mod.leave()
	s, err := d.mod.one(token.URI{Token: d.id.Label, Serial: d.id.Serial})
	if err != nil {
		return err
	}
	sess, err := d.mod.ctx.OpenSession(s.number, p11.CKF_SERIAL_SESSION)
	if err != nil {
		return err
	}
	if err := d.login(ctx, sess, s); err != nil {
		d.mod.ctx.CloseSession(sess)
		return err
	}
	// The new keeper exists before the old one goes: closing the last session
	// of a token logs out.
	if d.keeperGen == modGen && d.keeper != sess {
		d.mod.ctx.CloseSession(d.keeper)
	}
	d.keeper, d.keeperGen = sess, modGen
	d.attempts++
	next := &link{gen: d.attempts, modGen: modGen, slot: s.number}
	if err := d.proveAll(sess, next.gen); err != nil {
		return err
	}
	d.link.Store(next)
	d.mu.Lock()
	d.pinLow = s.flags&p11.CKF_USER_PIN_COUNT_LOW != 0
	d.mu.Unlock()
	return nil
}

// login uses the PIN once. A refusal is remembered for the life of the
// process: a retry counter of three does not survive a reconnect loop (A23).
func (d *device) login(ctx context.Context, sess p11.SessionHandle, s slot) error {
	if s.flags&p11.CKF_LOGIN_REQUIRED == 0 {
		return nil
	}
	if s.flags&p11.CKF_USER_PIN_LOCKED != 0 {
		return d.refuse(p11.Error(p11.CKR_PIN_LOCKED))
	}
	if s.flags&p11.CKF_USER_PIN_FINAL_TRY != 0 && d.pin.Empty() {
		// Somebody failed before us; the last try is not ours to take.
		return d.refuse(errors.New("only one try is left; log in once with the vendor's tool"))
	}
	if d.pin.Empty() {
		pin, err := d.cfg.PINFor(ctx, d.uri, d.id, "to use the keys of the token")
		if err != nil {
			return err
		}
		d.pin = pin
	}
	err := d.mod.ctx.Login(sess, p11.CKU_USER, string(d.pin.Reveal()))
	switch {
	case err == nil, isCode(err, p11.CKR_USER_ALREADY_LOGGED_IN):
		return nil
	case classify(err) == classPIN:
		return d.refuse(err)
	}
	return err
}

func (d *device) refuse(cause error) error {
	d.count(cause)
	f := token.ErrPINRefused.Wrap(cause, "The token is %q, serial %q.", d.id.Label, d.id.Serial)
	registry.mu.Lock()
	registry.refused[d.refusalKey()] = f
	registry.mu.Unlock()
	return f
}

// proveAll finds every known key again and tests it. At least one must be
// there if any was known: a token without its keys is not the token.
func (d *device) proveAll(sess p11.SessionHandle, gen uint64) error {
	d.mu.Lock()
	keys := make([]*Key, 0, len(d.keys))
	for _, k := range d.keys {
		keys = append(keys, k)
	}
	d.mu.Unlock()
	good := 0
	var missing error
	for _, k := range keys {
		began := time.Now()
		err := k.resolve(sess, gen)
		switch {
		case err == nil:
			good++
			d.mu.Lock()
			d.latency = time.Since(began)
			d.mu.Unlock()
		case errors.Is(err, errNoKey):
			missing = err
		default:
			return err
		}
	}
	if good == 0 && missing != nil {
		return missing
	}
	return nil
}

// available is nil while the breaker is closed.
func (d *device) available() error {
	switch d.state.Load() {
	case up:
		return nil
	case stopped:
		return token.ErrClosed.New("")
	case refused:
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.lastErr
	}
	return d.downFault(nil)
}

func (d *device) downFault(cause error) *fault.Fault {
	if cause == nil {
		d.mu.Lock()
		cause = d.lastErr
		d.mu.Unlock()
	}
	return token.ErrTokenDown.Wrap(cause, "The token is %q, serial %q.", d.id.Label, d.id.Serial).After(busyRetry)
}

// lost opens the breaker, if the link is still the one that failed.
func (d *device) lost(gen uint64, cause error) {
	d.mu.Lock()
	if l := d.link.Load(); d.state.Load() != up || l != nil && l.gen != gen {
		d.mu.Unlock()
		return
	}
	d.state.Store(down)
	d.since, d.lastErr = time.Now(), cause
	d.mu.Unlock()
	d.breaker.Set(1)
	d.log.Error("token lost, reconnecting", "error", cause)
	d.q.fail(d.downFault(cause))
	go d.reconnect(gen)
}

// reconnect tries until the token is back, the PIN is refused or the keyring is
// closed: first a new link, then the same after a new start of the module,
// which is what most modules need after their far side was away.
func (d *device) reconnect(gen uint64) {
	pause := minRetry
	for {
		// Full jitter over the upper half keeps many processes apart that lost
		// one HSM at the same moment.
		timer := time.NewTimer(pause/2 + rand.N(pause/2+1))
		select {
		case <-d.stop:
			timer.Stop()
			return
		case <-timer.C:
		}
		pause = min(2*pause, maxRetry)

		modGen := d.mod.generation()
		err := d.connect(context.Background(), gen)
		if err != nil && !token.Fault(err, token.ErrPINRefused) {
			if err = d.mod.restart(modGen, drainWait); err == nil {
				err = d.connect(context.Background(), gen)
			}
		}
		switch {
		case err == nil:
			d.mu.Lock()
			away := time.Since(d.since)
			if d.state.CompareAndSwap(down, up) {
				d.since = time.Now()
			}
			d.mu.Unlock()
			d.breaker.Set(0)
			d.log.Info("token is back", "away", away)
			return
		case token.Fault(err, token.ErrPINRefused):
			d.mu.Lock()
			d.state.CompareAndSwap(down, refused)
			d.since, d.lastErr = time.Now(), err
			d.mu.Unlock()
			d.breaker.Set(2)
			d.log.Error("the token refuses the PIN, waiting for a person", "error", err)
			return
		case token.Fault(err, token.ErrClosed):
			return
		}
		d.mu.Lock()
		d.lastErr = err
		d.mu.Unlock()
		d.log.Debug("token still away", "error", err, "pause", pause)
	}
}

// watch looks for signatures that do not return and tests an idle token.
func (d *device) watch() {
	defer d.wg.Done()
	tick := min(max(d.cfg.SignTimeout/8, 5*time.Millisecond), time.Second)
	t := time.NewTicker(tick)
	defer t.Stop()
	d.lastUse.Store(time.Now().UnixNano())
	for {
		select {
		case <-d.stop:
			return
		case <-t.C:
		}
		now := time.Now()
		for _, w := range d.workers {
			w.expire(now)
		}
		waiting, busy := d.q.load()
		d.queued.Set(float64(waiting))
		d.inUse.Set(float64(busy))
		if d.state.Load() == up && now.UnixNano()-d.lastUse.Load() > int64(probeEvery) {
			d.lastUse.Store(now.UnixNano())
			go d.probe(context.Background())
		}
	}
}

// probe asks the token for its state and one key for a test signature, and
// opens the breaker if either fails.
func (d *device) probe(ctx context.Context) error {
	d.mu.Lock()
	var key *Key
	for _, k := range d.keys {
		key = k
		break
	}
	d.mu.Unlock()
	began := time.Now()
	return d.admin(ctx, 0, d.cfg.SignTimeout, func(l *link, sess p11.SessionHandle) error {
		info, err := d.mod.ctx.GetTokenInfo(l.slot)
		if err != nil {
			return lostError{err}
		}
		d.mu.Lock()
		d.pinLow = info.Flags&p11.CKF_USER_PIN_COUNT_LOW != 0
		d.mu.Unlock()
		if key == nil {
			return nil
		}
		if err := key.resolve(sess, l.gen); err != nil && !errors.Is(err, errNoKey) {
			return lostError{err}
		}
		d.mu.Lock()
		d.latency = time.Since(began)
		d.mu.Unlock()
		return nil
	})
}

// lostError marks an error that opens the breaker whatever its class.
type lostError struct{ error }

func (e lostError) Unwrap() error { return e.error }

// admin runs f in a session of its own, for everything but signatures. It
// leaves at ctx or after limit; in the second case the token counts as lost.
func (d *device) admin(ctx context.Context, flags uint, limit time.Duration, f func(*link, p11.SessionHandle) error) error {
	result := make(chan error, 1)
	var seen atomic.Uint64
	go func() {
		var err error
		for range 3 { // a lost session and a lost login, then the answer
			if err = d.available(); err != nil {
				break
			}
			var l *link
			l, err = d.adminOnce(flags, f, &seen)
			if err == nil {
				break
			}
			d.count(err)
			var gone lostError
			if errors.As(err, &gone) || classify(err) == classToken {
				d.lost(l.gen, err)
				err = d.downFault(err)
				break
			}
			if c := classify(err); c != classLogin && c != classSession {
				break
			}
			if rerr := d.connect(context.Background(), l.gen); rerr != nil {
				d.lost(l.gen, rerr)
				err = d.downFault(rerr)
				break
			}
		}
		result <- err
	}()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case err := <-result:
		return wrapCode(err)
	case <-ctx.Done():
		return fmt.Errorf("hsm: %w", ctx.Err())
	case <-timer.C:
		err := fmt.Errorf("no answer within %v", limit)
		d.lost(seen.Load(), err)
		return d.downFault(err)
	}
}

func (d *device) adminOnce(flags uint, f func(*link, p11.SessionHandle) error, seen *atomic.Uint64) (*link, error) {
	modGen := d.mod.enter()
	defer d.mod.leave()
	l := d.link.Load()
	seen.Store(l.gen)
	if l.modGen != modGen {
		return l, p11.Error(p11.CKR_SESSION_CLOSED) // the module was started anew: connect again
	}
	sess, err := d.mod.ctx.OpenSession(l.slot, p11.CKF_SERIAL_SESSION|flags)
	if err != nil {
		return l, err
	}
	defer d.mod.ctx.CloseSession(sess)
	return l, f(l, sess)
}

// wrapCode makes a fault of a bare return code.
func wrapCode(err error) error {
	var code p11.Error
	if err == nil || !errors.As(err, &code) {
		return err
	}
	var f *fault.Fault
	if errors.As(err, &f) {
		return err
	}
	switch code {
	case p11.CKR_MECHANISM_INVALID, p11.CKR_MECHANISM_PARAM_INVALID, p11.CKR_KEY_FUNCTION_NOT_PERMITTED,
		p11.CKR_KEY_TYPE_INCONSISTENT, p11.CKR_KEY_SIZE_RANGE, p11.CKR_FUNCTION_NOT_SUPPORTED,
		p11.CKR_DOMAIN_PARAMS_INVALID, p11.CKR_CURVE_NOT_SUPPORTED, p11.CKR_TOKEN_WRITE_PROTECTED:
		return token.ErrUnsupported.Wrap(err, "The token says %s.", codeName(err))
	case p11.CKR_DATA_LEN_RANGE, p11.CKR_DATA_INVALID:
		return token.ErrDigest.Wrap(err, "The token says %s.", codeName(err))
	}
	return token.ErrOperation.Wrap(err, "The token says %s.", codeName(err))
}

func (d *device) count(err error) {
	var code p11.Error
	if errors.As(err, &code) {
		d.cfg.Metrics.Errors.WithLabelValues(d.id.Label, codeName(err)).Inc()
	}
}

func (d *device) health(ctx context.Context) token.Health {
	if d.state.Load() == up {
		d.probe(ctx)
	}
	waiting, busy := d.q.load()
	d.mu.Lock()
	defer d.mu.Unlock()
	h := token.Health{
		Scheme: token.SchemePKCS11, Token: d.id, Keys: len(d.keys), Sessions: d.cfg.Sessions,
		InUse: busy, Waiting: waiting, Latency: d.latency, PINLow: d.pinLow, Since: d.since,
	}
	if l := d.link.Load(); l != nil {
		h.Generation = l.gen
	}
	switch d.state.Load() {
	case up:
		h.State = token.StateUp
	case refused:
		h.State = token.StateRefused
	default:
		h.State = token.StateDown
	}
	if d.lastErr != nil {
		h.LastError = d.lastErr.Error()
	}
	return h
}

// close ends the workers, then the keeper. A call that hangs is left behind.
func (d *device) close() {
	d.mu.Lock()
	was := d.state.Swap(stopped)
	d.mu.Unlock()
	if was == stopped {
		return
	}
	close(d.stop)
	d.q.close(token.ErrClosed.New(""))
	gone := make(chan struct{})
	go func() { d.wg.Wait(); close(gone) }()
	select {
	case <-gone:
	case <-time.After(drainWait):
		d.log.Warn("a signature hangs in the module while closing")
		return
	}
	d.connectMu.Lock()
	defer d.connectMu.Unlock()
	modGen := d.mod.enter()
	defer d.mod.leave()
	if d.keeperGen != 0 && d.keeperGen == modGen {
		d.mod.ctx.CloseSession(d.keeper)
	}
	d.keeperGen = 0
	d.pin.Wipe()
	d.pin = token.Secret{}
}
