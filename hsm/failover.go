package hsm

import (
	"bytes"
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"hallmark/hsm/token"
	"hallmark/internal/fault"
)

const (
	defaultPatience = 500 * time.Millisecond
	defaultDeadline = 5 * time.Second
	defaultWaiting  = 4096

	firstProbe = 20 * time.Millisecond // pause before the first probe of a lost token
	lastProbe  = time.Second           // longest pause: the return is noticed within it
	idleProbe  = 10 * time.Second      // test signature of a token that has had no work
	groupRetry = time.Second           // what a caller is told to wait
)

// GroupConfig names one key by the tokens that hold it.
type GroupConfig struct {
	// Name is for people, logs and metrics.
	Name string
	// Keys are the key's URIs in order of preference.
	Keys []string
	// SPKI pins the public key, in DER; nil pins that of the record, or of the
	// first token that opens.
	SPKI []byte
	// Share spreads the load over the tokens; otherwise the first that works
	// has all of it.
	Share bool
	// Patience is after which a token that does not answer is left for the next
	// one; 0 = 500 ms. Signing twice is harmless: what is signed is fixed, and the
	// late signature is destroyed.
	Patience time.Duration
	// Deadline is how long a request may wait altogether; 0 = 5 s.
	Deadline time.Duration
	// Waiting bounds the requests that wait; 0 = 4096.
	Waiting int
	// Transfers are the records of how the key came into more than one token
	// (S6). Production mode refuses a copy that none of them names.
	Transfers []*Transfer
}

// Group is a key that several tokens hold, and signs as long as one of them
// works. It is a [Signer].
//
// Invariants:
//   - Every signature is verified with the pinned public key before it leaves.
//   - A token that failed gets no work before a test signature of it verified.
//   - No request waits longer than the deadline, and none waits for a token that
//     is known to be dead.
type Group struct {
	cfg     GroupConfig
	log     *slog.Logger
	open    func(ctx context.Context, u token.URI) (token.Signer, error)
	check   func(ctx context.Context, u token.URI) error // the rules for CA keys
	checked atomic.Bool                                  // they apply, see allow
	members []*member
	metrics *token.Metrics

	pinMu sync.Mutex
	pin   atomic.Pointer[pinned]

	waiting   atomic.Int64
	turn      atomic.Uint32
	failovers atomic.Int64
	late      atomic.Int64
	bad       atomic.Int64
	stop      chan struct{}
	closed    atomic.Bool
	wg        sync.WaitGroup
}

// pinned is the public key that every token of a group must have.
type pinned struct {
	pub  crypto.PublicKey
	alg  token.Algorithm
	spki []byte
}

// member is one token of a group.
type member struct {
	g    *Group
	uri  token.URI
	name string // of the token, for logs and metrics

	key      atomic.Pointer[token.Signer] // nil until it was opened
	up       atomic.Bool
	busy     atomic.Int64
	lastGood atomic.Int64 // unix nanoseconds
	latency  atomic.Int64 // nanoseconds, smoothed

	vetted atomic.Bool // passed the rules for CA keys

	mu         sync.Mutex
	recovering bool
	since      time.Time
	lastErr    error
}

// newGroup opens what can be opened. One token that works is enough.
func newGroup(ctx context.Context, cfg GroupConfig, uris []token.URI, g *Group) (*Group, error) {
	if cfg.Patience <= 0 {
		cfg.Patience = defaultPatience
	}
	if cfg.Deadline <= 0 {
		cfg.Deadline = defaultDeadline
	}
	if cfg.Waiting <= 0 {
		cfg.Waiting = defaultWaiting
	}
	g.cfg, g.stop = cfg, make(chan struct{})
	if cfg.SPKI == nil && len(cfg.Transfers) > 0 {
		cfg.SPKI = cfg.Transfers[0].Key.SPKI
	}
	if cfg.SPKI != nil {
		if err := g.pinTo(cfg.SPKI); err != nil {
			return nil, err
		}
	}
	for _, u := range uris {
		name := u.Token
		if name == "" {
			name = u.Scheme + "-" + u.Serial
		}
		g.members = append(g.members, &member{g: g, uri: u, name: name, since: time.Now()})
	}
	// All at once: one that is dead must not delay the other.
	var wg sync.WaitGroup
	errs := make([]error, len(g.members))
	first := make(chan struct{}, len(g.members))
	for i, m := range g.members {
		wg.Go(func() {
			errs[i] = m.attach(ctx)
			if errs[i] == nil {
				first <- struct{}{}
			}
		})
	}
	all := make(chan struct{})
	go func() { wg.Wait(); close(all) }()
	select {
	case <-all:
	case <-first:
		// The others get a moment, so that preference decides and not chance.
		select {
		case <-all:
		case <-time.After(cfg.Patience):
		}
	}
	usable := false
	for _, m := range g.members {
		usable = usable || m.up.Load()
	}
	if !usable {
		<-all
		close(g.stop)
		return nil, preferred(errs)
	}
	g.wg.Add(1)
	go g.watch()
	for _, m := range g.members {
		if !m.up.Load() {
			m.recover()
		}
	}
	return g, nil
}

// preferred is the error to show when no token opens: one that waiting does not
// cure before one that it does, the first token's before the others'.
func preferred(errs []error) error {
	for _, err := range errs {
		if err != nil && fault.KindOf(err) != fault.Unavailable && fault.KindOf(err) != fault.Exhausted {
			return err
		}
	}
	return errs[0]
}

// pinTo fixes the public key. A second, other one is refused.
func (g *Group) pinTo(spki []byte) error {
	g.pinMu.Lock()
	defer g.pinMu.Unlock()
	if p := g.pin.Load(); p != nil {
		if !bytes.Equal(p.spki, spki) {
			return ErrKeyDiffers.New("%s.", g.cfg.Name)
		}
		return nil
	}
	pub, err := x509.ParsePKIXPublicKey(spki)
	if err != nil {
		return ErrURIInvalid.Wrap(err, "The pinned public key of %s does not parse.", g.cfg.Name)
	}
	alg := token.AlgorithmOf(pub)
	if alg == "" {
		return ErrUnsupported.New("%s has a kind or size of key that we do not use.", g.cfg.Name)
	}
	g.pin.Store(&pinned{pub: pub, alg: alg, spki: bytes.Clone(spki)})
	return nil
}

// Public is the pinned public key.
func (g *Group) Public() crypto.PublicKey { return g.pin.Load().pub }

// URI is the canonical name of the key in the preferred token.
func (g *Group) URI() string { return g.members[0].uri.Key() }

// Sign is SignContext with the group's deadline alone.
func (g *Group) Sign(_ io.Reader, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	return g.SignContext(context.Background(), digest, opts)
}

// SignContext signs with the first token that does, and verifies.
func (g *Group) SignContext(ctx context.Context, digest []byte, opts crypto.SignerOpts) ([]byte, error) {
	pin := g.pin.Load()
	if err := token.CheckDigest(pin.alg, digest, opts); err != nil {
		return nil, err
	}
	if g.closed.Load() {
		return nil, ErrClosed.New("")
	}
	if n := g.waiting.Add(1); n > int64(g.cfg.Waiting) {
		g.waiting.Add(-1)
		return nil, ErrBusy.New("%d requests wait for %s.", n-1, g.cfg.Name).After(groupRetry)
	}
	defer g.waiting.Add(-1)
	ctx, cancel := context.WithTimeout(ctx, g.cfg.Deadline)
	defer cancel()

	var tried [maxMembers]bool
	var last error
	for n := 0; ; n++ {
		m, more := g.pick(&tried)
		if m == nil {
			return nil, g.refuse(last)
		}
		if n > 0 {
			g.failovers.Add(1)
			g.metrics.Failovers.WithLabelValues(g.cfg.Name).Inc()
		}
		sig, err := m.sign(ctx, pin, digest, opts, more)
		if err == nil {
			return sig, nil
		}
		if ctx.Err() != nil || callers(err) {
			return nil, g.outcome(ctx, err)
		}
		last = err
	}
}

// outcome names the group's own deadline, where that was the end.
func (g *Group) outcome(ctx context.Context, err error) error {
	if errors.Is(ctx.Err(), context.DeadlineExceeded) && fault.KindOf(err) != fault.Exhausted {
		return ErrBusy.Wrap(err, "No token of %s answered in time.", g.cfg.Name).After(groupRetry)
	}
	return err
}

// maxMembers bounds the tokens of a group.
const maxMembers = 8

// pick is the token for the next try, and whether others are left after it.
func (g *Group) pick(tried *[maxMembers]bool) (best *member, more bool) {
	at, score, first := -1, int64(0), 0
	if g.cfg.Share {
		first = int(g.turn.Add(1) % uint32(len(g.members))) // equals take turns
	}
	for n := range g.members {
		i := (first + n) % len(g.members)
		m := g.members[i]
		if tried[i] || !m.up.Load() {
			continue
		}
		if best == nil {
			best, at = m, i
			if g.cfg.Share {
				score = m.busy.Load()
			}
			continue
		}
		more = true
		if g.cfg.Share {
			if l := m.busy.Load(); l < score {
				best, at, score = m, i, l
			}
		}
	}
	if best != nil {
		tried[at] = true
	}
	return best, more
}

// callers tells that another token would say the same.
func callers(err error) bool {
	f := fault.From(err)
	switch f.Definition {
	case ErrDigest, ErrUnsupported, ErrURIInvalid:
		return true
	}
	return errors.Is(err, context.Canceled)
}

// refuse is the answer when no token is left: fast, and with every reason.
func (g *Group) refuse(last error) error {
	var why []string
	for _, m := range g.members {
		m.mu.Lock()
		err := m.lastErr
		m.mu.Unlock()
		code := "no answer"
		if err != nil {
			code = fault.From(err).Code
		}
		why = append(why, m.name+": "+code)
	}
	return ErrTokenDown.Wrap(last, "None of the tokens of %s works: %s.", g.cfg.Name, strings.Join(why, ", ")).After(groupRetry)
}

// sign asks one token. With others left it waits for Patience only.
func (m *member) sign(ctx context.Context, pin *pinned, digest []byte, opts crypto.SignerOpts, more bool) ([]byte, error) {
	key := *m.key.Load()
	began := time.Now()
	try := ctx
	if more {
		var cancel context.CancelFunc
		try, cancel = context.WithTimeout(ctx, m.g.cfg.Patience)
		defer cancel()
	}
	m.busy.Add(1)
	sig, err := key.SignContext(try, digest, opts)
	m.busy.Add(-1)
	took := time.Since(began)
	switch {
	case err == nil && token.Verify(pin.pub, digest, opts, sig):
		m.lastGood.Store(time.Now().UnixNano())
		m.latency.Store((7*m.latency.Load() + int64(took)) / 8)
		m.g.metrics.KeySign.WithLabelValues(m.g.cfg.Name, m.name).Observe(took.Seconds())
		return sig, nil
	case err == nil:
		// Never shown to anybody: it may be another key's (A25).
		m.g.bad.Add(1)
		m.g.metrics.BadSignatures.WithLabelValues(m.g.cfg.Name, m.name).Inc()
		err = ErrWrongSignature.New("%s of %s.", m.name, m.g.cfg.Name)
		m.g.log.ErrorContext(ctx, "a token made a signature that is not the key's", "key", m.g.cfg.Name, "token", m.name)
		m.fail(err)
		return nil, err
	case callers(err):
		return nil, err
	case ctx.Err() == nil && try.Err() != nil:
		m.g.late.Add(1)
		err = ErrTokenDown.Wrap(err, "%s does not answer within %v.", m.name, m.g.cfg.Patience).After(groupRetry)
		if m.lastGood.Load() >= began.UnixNano() {
			return nil, err // it works for others, so it is only behind
		}
	case ctx.Err() != nil:
		if m.lastGood.Load() < began.UnixNano() && took >= m.g.cfg.Patience {
			m.fail(fmt.Errorf("no answer within %v: %w", took, err))
		}
		return nil, err
	case fault.From(err).Definition == ErrBusy:
		return nil, err // its queue is full; that is no illness
	}
	m.fail(err)
	return nil, err
}

// MemberHealth is one token of a group.
type MemberHealth struct {
	Token     string
	URI       string
	Serving   bool
	InUse     int
	Latency   time.Duration // smoothed
	LastGood  time.Time     // the last signature that verified
	Since     time.Time     // of this state
	LastError string
}

// Health is the state of the group, without asking any token.
func (g *Group) Health() GroupHealth {
	pin := g.pin.Load()
	h := GroupHealth{
		Name: g.cfg.Name, URI: g.URI(), SPKI: hexDigest(pin.spki), Share: g.cfg.Share, Waiting: int(g.waiting.Load()),
		Failovers: g.failovers.Load(), Late: g.late.Load(), Wrong: g.bad.Load(),
	}
	for _, m := range g.members {
		m.mu.Lock()
		v := MemberHealth{
			Token: m.name, URI: m.uri.Key(), Serving: m.up.Load(), InUse: int(m.busy.Load()), Latency: time.Duration(m.latency.Load()), Since: m.since,
		}
		if n := m.lastGood.Load(); n > 0 {
			v.LastGood = time.Unix(0, n)
		}
		if m.lastErr != nil && !v.Serving {
			v.LastError = m.lastErr.Error()
		}
		m.mu.Unlock()
		if v.Serving {
			h.Serving++
		}
		h.Tokens = append(h.Tokens, v)
	}
	return h
}

// allow holds the key to the rules for CA keys from now on: in the tokens that
// serve at once, in the others before they do. One token that passes is enough;
// one that does not is out of use.
func (g *Group) allow(ctx context.Context) error {
	g.checked.Store(true)
	var errs []error
	usable := false
	for _, m := range g.members {
		m.mu.Lock() // attach looks at checked under it
		up := m.up.Load()
		m.mu.Unlock()
		if !up {
			continue
		}
		if err := m.vet(ctx); err != nil {
			m.fail(err)
			errs = append(errs, err)
			continue
		}
		usable = true
	}
	if usable || len(errs) == 0 {
		return nil
	}
	return preferred(errs)
}

// fail opens the breaker of a token and begins to test it.
func (m *member) fail(err error) {
	m.mu.Lock()
	m.lastErr = err
	m.mu.Unlock()
	if m.up.CompareAndSwap(true, false) {
		m.mu.Lock()
		m.since = time.Now()
		m.mu.Unlock()
		m.g.metrics.Member.WithLabelValues(m.g.cfg.Name, m.name).Set(0)
		m.g.log.Error("token of a key lost, the others serve", "key", m.g.cfg.Name, "token", m.name, "error", err)
		m.recover()
	}
}

// recover tests the token in the background until it works.
func (m *member) recover() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.recovering || m.g.closed.Load() {
		return
	}
	m.recovering = true
	m.g.wg.Add(1)
	go func() {
		defer m.g.wg.Done()
		for pause := firstProbe; ; pause = min(2*pause, lastProbe) {
			timer := time.NewTimer(pause/2 + rand.N(pause/2+1))
			select {
			case <-m.g.stop:
				timer.Stop()
				return
			case <-timer.C:
			}
			ctx, cancel := context.WithTimeout(context.Background(), m.g.cfg.Deadline)
			err := m.attach(ctx)
			cancel()
			if err == nil {
				return
			}
			m.mu.Lock()
			m.lastErr = err
			m.mu.Unlock()
		}
	}()
}

// attach opens the key if it is not open, tests it and lets it work.
func (m *member) attach(ctx context.Context) error {
	err := m.prove(ctx)
	m.mu.Lock()
	defer m.mu.Unlock()
	if err == nil && m.g.checked.Load() && !m.vetted.Load() {
		err = ErrTokenDown.New("%s is to be checked first.", m.name) // the rules came into force meanwhile
	}
	if err != nil {
		m.lastErr = err
		m.g.metrics.Member.WithLabelValues(m.g.cfg.Name, m.name).Set(0)
		return err
	}
	m.recovering = false
	m.lastErr = nil
	if m.up.CompareAndSwap(false, true) {
		m.g.log.Info("token of a key serves", "key", m.g.cfg.Name, "token", m.name, "away", time.Since(m.since).Round(time.Millisecond).String())
		m.since = time.Now()
	}
	m.g.metrics.Member.WithLabelValues(m.g.cfg.Name, m.name).Set(1)
	return nil
}

// prove has the token sign a challenge and verifies it with the pinned key.
func (m *member) prove(ctx context.Context) error {
	if m.key.Load() == nil {
		key, err := m.g.open(ctx, m.uri)
		if err != nil {
			return err
		}
		spki, err := x509.MarshalPKIXPublicKey(key.Public())
		if err != nil {
			return ErrUnsupported.Wrap(err, "The public key has no standard form.")
		}
		if err := m.g.pinTo(spki); err != nil {
			return err
		}
		m.key.Store(&key)
	}
	if err := m.vet(ctx); err != nil {
		return err
	}
	key := m.key.Load()
	began := time.Now()
	if err := token.Prove(m.g.pin.Load().pub, func(digest []byte, opts crypto.SignerOpts) ([]byte, error) {
		return (*key).SignContext(ctx, digest, opts)
	}); err != nil {
		return err
	}
	m.lastGood.Store(time.Now().UnixNano())
	m.latency.Store(int64(time.Since(began)))
	return nil
}

// vet holds the key in this token to the rules for CA keys, once, if they apply.
func (m *member) vet(ctx context.Context) error {
	if !m.g.checked.Load() || m.vetted.Load() {
		return nil
	}
	if err := m.g.check(ctx, m.uri); err != nil {
		return err
	}
	m.vetted.Store(true)
	return nil
}

// watch tests tokens that have no work, so that a dead spare is known before it
// is needed.
func (g *Group) watch() {
	defer g.wg.Done()
	t := time.NewTicker(idleProbe / 4)
	defer t.Stop()
	for {
		select {
		case <-g.stop:
			return
		case <-t.C:
		}
		for _, m := range g.members {
			if !m.up.Load() || time.Since(time.Unix(0, m.lastGood.Load())) < idleProbe {
				continue
			}
			ctx, cancel := context.WithTimeout(context.Background(), g.cfg.Deadline)
			if err := m.prove(ctx); err != nil && fault.From(err).Definition != ErrBusy {
				m.fail(err)
			}
			cancel()
		}
	}
}

// close ends the background work. The tokens belong to the keyring.
func (g *Group) close() {
	if g.closed.Swap(true) {
		return
	}
	// Who was about to start holds mu and is seen, or sees closed.
	for _, m := range g.members {
		m.mu.Lock()
		//lint:ignore SA2001 a barrier
		m.mu.Unlock()
	}
	close(g.stop)
	g.wg.Wait()
}
