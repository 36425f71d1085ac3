//go:build cgo

package pkcs11

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
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
	maxRetry   = 3 * time.Second       // longest pause: a token that is back is in use within 5 s
	busyRetry  = time.Second           // what a caller is told to wait
	drainWait  = 2 * time.Second       // for calls in flight before a re-initialisation
	probeEvery = 10 * time.Second      // test signature of an idle token
)

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
	keeper    p11.SessionHandle
	keeperGen uint64 // module generation of keeper; 0 = none
	attempts  uint64 // generations are never used twice, failed ones included

	found    slot        // where the token was when it was opened
	accepted atomic.Bool // the token took our PIN in this process
	pinMu    sync.Mutex
	pin      token.Secret

	link atomic.Pointer[link]

	mu      sync.Mutex
	keys    map[string]*Key
	since   time.Time
	lastErr error
	pinLow  bool
	latency time.Duration
	lastUse atomic.Int64 // unix nanoseconds of the last good signature

	workers []*worker

	observe prometheus.Observer
	inUse   prometheus.Gauge
	queued  prometheus.Gauge
	breaker prometheus.Gauge
	stuck   prometheus.Gauge

	replaced prometheus.Counter
}

// link is one connection to the token. Sessions and handles belong to it.
type link struct {
	gen    uint64
	modGen uint64
	slot   uint
	ctx    *calls     // of the visit that made it; good in visits of modGen
	genMu  sync.Mutex // one generation of a key at a time
}

func newDevice(m *module, s slot, u token.URI, cfg token.Config) *device {
	if s.sessions > 0 && cfg.Sessions > s.sessions-3 {
		// Keeper, the line's reserve and one for administration come on top.
		cfg.Sessions = max(s.sessions-3, 1)
	}
	d := &device{
		mod: m, id: s.id, uri: u, cfg: cfg, found: s,
		log:     cfg.Log.With("token", s.id.Label, "serial", s.id.Serial),
		q:       newQueue(cfg.Sessions),
		stop:    make(chan struct{}),
		keys:    map[string]*Key{},
		since:   time.Now(),
		observe: cfg.Metrics.Sign.WithLabelValues(s.id.Label),
		inUse:   cfg.Metrics.InUse.WithLabelValues(s.id.Label),
		queued:  cfg.Metrics.Waiting.WithLabelValues(s.id.Label),
		breaker: cfg.Metrics.Breaker.WithLabelValues(s.id.Label),
		stuck:   cfg.Metrics.Stuck.WithLabelValues(s.id.Label),

		replaced: cfg.Metrics.Replaced.WithLabelValues(s.id.Label),
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
	if f := fault.From(cause); f != nil && f.Definition == token.ErrModuleStuck {
		return f // not one that ends by itself
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
	go d.reconnect(gen, errors.Is(cause, errSilent))
}

// watch looks for signatures that do not return and tests an idle token.
func (d *device) watch() {
	defer d.wg.Done()
	tick := min(max(d.cfg.SignTimeout/8, 5*time.Millisecond), time.Second)
	t := time.NewTicker(tick)
	defer t.Stop()
	d.lastUse.Store(time.Now().UnixNano())
	_, counted := d.mod.figures()
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
		if d.mod.lost() {
			// Seen without a request: an idle token is back before it is needed.
			d.lost(d.link.Load().gen, errGone)
		}
		stuck, replaced := d.mod.figures()
		d.stuck.Set(float64(stuck))
		d.replaced.Add(float64(replaced - counted))
		counted = replaced
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
		info, err := l.ctx.tokenInfo(l.slot)
		if err != nil {
			return lostError{err}
		}
		d.mu.Lock()
		d.pinLow = info.Flags&p11.CKF_USER_PIN_COUNT_LOW != 0
		d.mu.Unlock()
		if key == nil {
			return nil
		}
		if err := key.resolve(l.ctx, sess, l.gen); err != nil && !errors.Is(err, errNoKey) {
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
		err := fmt.Errorf("%w within %v", errSilent, limit)
		d.lost(seen.Load(), err)
		return d.downFault(err)
	}
}

func (d *device) adminOnce(flags uint, f func(*link, p11.SessionHandle) error, seen *atomic.Uint64) (*link, error) {
	v, err := d.mod.enter()
	l := d.link.Load()
	seen.Store(l.gen)
	if err != nil {
		return l, err
	}
	defer v.leave()
	if l.modGen != v.gen {
		return l, p11.Error(p11.CKR_SESSION_CLOSED) // the module was started anew: connect again
	}
	sess, err := v.ctx.openSession(l.slot, p11.CKF_SERIAL_SESSION|flags)
	if err != nil {
		return l, err
	}
	defer v.ctx.closeSession(sess)
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
	h.Stuck, h.Replaced = d.mod.figures()
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
	defer d.mod.letGo()
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
	if keeper, gen := d.keeper, d.keeperGen; gen != 0 {
		d.mod.do(drainWait, func(v visit, _ func() bool) error {
			if gen != v.gen {
				return nil
			}
			return v.ctx.closeSession(keeper)
		})
	}
	d.keeperGen = 0
	d.pinMu.Lock()
	defer d.pinMu.Unlock()
	d.pin.Wipe()
	d.pin = token.Secret{}
}
