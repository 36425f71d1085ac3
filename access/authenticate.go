package access

import (
	"context"
	"crypto/subtle"
	"errors"
	"log/slog"
	"net/netip"
	"sync"
	"time"
)

const (
	cacheLife   = 5 * time.Second // how long a token is believed without the database
	maxCache    = 1024
	failWindow  = time.Minute
	maxFailures = 10  // of one address in a window, before it is told to wait
	maxLookups  = 200 // failures after which the database is not asked any more
	maxTracked  = 16384
)

// Config makes an Authenticator.
type Config struct {
	Store Store
	// Trail takes refused sign-ins, and the making of the first principal; nil leaves
	// them out. RequestID gives the id of the request of a context, nil none.
	Trail     TrailWriter
	RequestID func(ctx context.Context) string
	// BreakGlass lets somebody in when nobody else can sign in (S42).
	BreakGlass BreakGlassConfig
	Log        *slog.Logger
	Now        func() time.Time
}

// Authenticator turns tokens into actors. It is safe for concurrent use.
type Authenticator struct {
	cfg       Config
	log       *slog.Logger
	now       func() time.Time
	strangers *Strangers

	mu       sync.Mutex
	cache    map[[32]byte]cached
	epoch    int // rises when the cache is emptied, so that a slow look-up does not fill it with what was
	failures map[netip.Prefix]*failure
}

type cached struct {
	principal Principal
	until     time.Time
}

type failure struct {
	count int
	since time.Time
}

// NewAuthenticator makes an Authenticator.
func NewAuthenticator(cfg Config) *Authenticator {
	a := &Authenticator{cfg: cfg, log: cfg.Log, now: cfg.Now, cache: map[[32]byte]cached{}, failures: map[netip.Prefix]*failure{}}
	if a.log == nil {
		a.log = slog.New(slog.DiscardHandler)
	}
	if a.now == nil {
		a.now = time.Now
	}
	a.strangers = NewStrangers(cfg.Trail, a.log, a.now)
	return a
}

// Authenticate finds the principal of a token that came from an address. Wrong
// tokens are counted per address: after a few the sender is told to wait, and
// after many the database is not asked any more. A right token is let in
// meanwhile, because a factory shares one address and 256 random bits cannot be
// found by trying.
func (a *Authenticator) Authenticate(ctx context.Context, token string, from netip.Addr) (Principal, error) {
	t, ok := ParseToken(token)
	if ok {
		if p, hit := a.cached(t.Hash()); hit {
			return p, nil
		}
	}
	failures, wait := a.failed(from, 0)
	if ok && failures < maxLookups {
		p, err := a.ByHash(ctx, t.Hash())
		if errors.Is(err, ErrToken) {
			p, err = a.byBreakGlass(ctx, t)
		}
		if !errors.Is(err, ErrToken) {
			return p, err
		}
	}
	if failures, _ = a.failed(from, 1); failures > maxFailures {
		a.refused(ctx, from, failures, ErrTooManyFailures.Code)
		return Principal{}, ErrTooManyFailures.New("").After(wait)
	}
	a.refused(ctx, from, failures, ErrToken.Code)
	return Principal{}, ErrToken.New("")
}

// ByHash finds the live principal of a stored hash: for a session that began
// with the token and must end with it.
func (a *Authenticator) ByHash(ctx context.Context, hash [32]byte) (Principal, error) {
	if p, hit := a.cached(hash); hit {
		return p, nil
	}
	a.mu.Lock()
	epoch := a.epoch
	a.mu.Unlock()
	p, err := a.cfg.Store.PrincipalByToken(ctx, hash)
	if err != nil {
		return Principal{}, err
	}
	now := a.now()
	// The row was found by its hash; comparing again costs nothing and does not
	// depend on how the database compares.
	if subtle.ConstantTimeCompare(p.TokenHash[:], hash[:]) != 1 || !p.Live(now) {
		return Principal{}, ErrToken.New("")
	}
	a.mu.Lock()
	if a.epoch == epoch {
		if len(a.cache) >= maxCache {
			clear(a.cache)
		}
		a.cache[hash] = cached{p, now.Add(cacheLife)}
	}
	a.mu.Unlock()
	return p, nil
}

func (a *Authenticator) cached(hash [32]byte) (Principal, bool) {
	now := a.now()
	a.mu.Lock()
	defer a.mu.Unlock()
	c, ok := a.cache[hash]
	// now before its making means that the clock was set back: ask again.
	if !ok || !now.Before(c.until) || now.Before(c.until.Add(-cacheLife)) || !c.principal.Live(now) {
		return Principal{}, false
	}
	return c.principal, true
}

func (a *Authenticator) forget() {
	a.mu.Lock()
	clear(a.cache)
	a.epoch++
	a.mu.Unlock()
}

// network is what is counted: an IPv4 address, or the /64 that one IPv6 host can
// choose its addresses from.
func network(from netip.Addr) netip.Prefix {
	from = from.Unmap().WithZone("")
	bits := 32
	if from.Is6() {
		bits = 64
	}
	p, _ := from.Prefix(bits) // the zero Addr gives the zero Prefix, one bucket for all unknown
	return p
}

// failed adds to the failures of an address, and tells how many there are in its
// window and how long the window lasts.
func (a *Authenticator) failed(from netip.Addr, more int) (count int, wait time.Duration) {
	now := a.now()
	a.mu.Lock()
	defer a.mu.Unlock()
	key := network(from)
	f := a.failures[key]
	if f == nil || now.Sub(f.since) >= failWindow || now.Before(f.since) {
		if more == 0 {
			return 0, failWindow
		}
		a.makeRoom(now)
		f = &failure{since: now}
		a.failures[key] = f
	}
	f.count += more
	return f.count, failWindow - now.Sub(f.since)
}

// makeRoom bounds the memory that strangers can take.
func (a *Authenticator) makeRoom(now time.Time) {
	if len(a.failures) < maxTracked {
		return
	}
	for k, old := range a.failures {
		if now.Sub(old.since) >= failWindow {
			delete(a.failures, k)
		}
	}
	if len(a.failures) >= maxTracked {
		clear(a.failures)
	}
}
