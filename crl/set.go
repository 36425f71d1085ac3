package crl

import (
	"context"
	"log/slog"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"hallmark/ca"
)

// Feed is where [Set] reads what was revoked.
type Feed interface {
	// Head is the number of leaves that are committed.
	Head(ctx context.Context) (int64, error)
	// TrustChanged is closed when this process commits a leaf that is not of issuance.
	TrustChanged() <-chan struct{}
	// Revocations gives rows whose newest leaf is at or after from, ordered by
	// leaf, at most limit. A row that cannot be read, or that somebody else wrote,
	// is given as revoked without an end and with an error, and the others after it.
	Revocations(ctx context.Context, from int64, limit int, each func(Revocation, error) error) error
	// Reserved tells under which authority and shard a serial number was
	// reserved, and for whom.
	Reserved(ctx context.Context, serial ca.Serial) (r Revocation, known bool, err error)
	// Blocks gives the blocks whose leaf is at or after from.
	Blocks(ctx context.Context, from int64, each func(Block) error) error
}

// Block is an identity that gets no certificate any more.
type Block struct {
	Tenant, Holder string
	At             time.Time
	Leaf           int64
}

// Change is what subscribers of [Set] are told.
type Change struct {
	Revocation
	// Blocked: it is about all of Tenant's Holder; Authority and Serial are empty.
	// Where only Serial is zero, the root revoked the whole authority.
	Blocked bool
	// Revoked is the new state; false after a release.
	Revoked bool
}

// SetConfig makes a [Set].
type SetConfig struct {
	Feed Feed
	// Poll is how often the log is asked for what other nodes wrote; 0 means 500 ms.
	Poll time.Duration
	Log  *slog.Logger
	Now  func() time.Time
}

// Set is the revoked, held and void serial numbers that have not expired, in
// memory. It is safe for concurrent use.
type Set struct {
	feed Feed
	poll time.Duration
	log  *slog.Logger
	now  func() time.Time

	Stats SetStats

	mu      sync.RWMutex
	revoked map[ca.Serial]mark
	names   []string // of authorities; mark.authority is an index
	dead    map[string]mark

	subscribers []func(Change)
	follow      sync.Mutex // one reader at a time
	next        int64      // first leaf that was not read
	loaded      atomic.Bool
	fresh       atomic.Int64 // Unix nanoseconds of the last complete read
	purged      time.Time
}

// SetStats counts for the metrics.
type SetStats struct {
	Size    atomic.Int64
	Polls   atomic.Int64
	Errors  atomic.Int64 // reads that failed
	Garbage atomic.Int64 // rows that could not be read (A3)
	Adopted atomic.Int64 // serial numbers found on a list but not in the table
}

// mark is 16 octets, so that a million of them stay below 100 MB with their keys.
type mark struct {
	at        int64 // Unix seconds
	expires   uint32
	authority uint16
	reason    Reason
}

// forever is an expiry that [mark] cannot hold; it is about the year 2106.
const forever = 1<<32 - 1

func seconds(t time.Time) uint32 {
	return uint32(min(max(t.Unix(), 0), forever))
}

// NewSet makes an empty Set. It answers nothing before [Set.Load].
func NewSet(cfg SetConfig) *Set {
	s := &Set{feed: cfg.Feed, poll: cfg.Poll, log: cfg.Log, now: cfg.Now, revoked: map[ca.Serial]mark{}, dead: map[string]mark{}}
	s.log, s.now = defaults(s.log, s.now)
	if s.poll == 0 {
		s.poll = 500 * time.Millisecond
	}
	return s
}

// OnChange adds a subscriber. It is called in the order of the log, one change
// at a time, and must not block. Subscribe before [Set.Run].
func (s *Set) OnChange(f func(Change)) {
	s.mu.Lock()
	s.subscribers = append(s.subscribers, f)
	s.mu.Unlock()
}

// Load reads everything. A listener must not open before it succeeded (A28).
func (s *Set) Load(ctx context.Context) error {
	if err := s.Follow(ctx); err != nil {
		return err
	}
	s.loaded.Store(true)
	s.log.InfoContext(ctx, "revoked set loaded", "size", s.Len())
	return nil
}

// Loaded tells whether [Set.Load] succeeded.
func (s *Set) Loaded() bool { return s.loaded.Load() }

// Age is how long ago the set was known to be complete; alarms read it.
func (s *Set) Age() time.Duration {
	at := s.fresh.Load()
	if at == 0 {
		return 1<<63 - 1
	}
	return s.now().Sub(time.Unix(0, at))
}

// Len is the number of serial numbers held.
func (s *Set) Len() int {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return len(s.revoked)
}

// Revoked tells whether a serial number is revoked, void or on hold. Before the
// set is loaded everything is (A28). Everything of an authority that its root
// revoked is revoked too.
func (s *Set) Revoked(authority string, serial ca.Serial) (reason Reason, at time.Time, revoked bool) {
	if !s.loaded.Load() {
		return Unspecified, time.Time{}, true
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if m, ok := s.revoked[serial]; ok && s.names[m.authority] == authority {
		return m.reason, time.Unix(m.at, 0).UTC(), true
	}
	if m, ok := s.dead[authority]; ok {
		return m.reason, time.Unix(m.at, 0).UTC(), true
	}
	return 0, time.Time{}, false
}

// Run follows the log until ctx ends.
func (s *Set) Run(ctx context.Context) {
	tick := time.NewTicker(s.poll)
	defer tick.Stop()
	for {
		grown := s.feed.TrustChanged() // before reading, so that nothing falls between
		if err := s.Follow(ctx); err != nil && ctx.Err() == nil {
			s.log.ErrorContext(ctx, "revoked set cannot follow the log", "error", err)
			grown = nil // wait for the next tick
		}
		select {
		case <-ctx.Done():
			return
		case <-grown:
		case <-tick.C:
		}
	}
}

// page is how many rows one read takes.
const page = 20_000

// Follow reads what is new once. [Set.Run] calls it; tests may.
func (s *Set) Follow(ctx context.Context) error {
	s.follow.Lock()
	defer s.follow.Unlock()
	s.Stats.Polls.Add(1)
	err := s.read(ctx)
	if err != nil {
		s.Stats.Errors.Add(1)
		return err
	}
	now := s.now()
	s.fresh.Store(now.UnixNano())
	if now.Sub(s.purged) >= time.Hour {
		s.purge(now)
	}
	s.Stats.Size.Store(int64(s.Len()))
	return nil
}

func (s *Set) read(ctx context.Context) error {
	// The size is read first: what is committed during the reads below is read
	// again next time, which changes nothing.
	size, err := s.feed.Head(ctx)
	if err != nil {
		return err
	}
	if size <= s.next {
		return nil
	}
	now := s.now()
	from := s.next
	if from == 0 {
		from = math.MinInt64 // leaves start at 0, unless somebody wrote another number
	}
	for {
		n, start := 0, from
		var batch, odd []Revocation
		err := s.feed.Revocations(ctx, from, page, func(r Revocation, bad error) error {
			n++
			from = max(from, r.Leaf+1)
			switch {
			case bad != nil: // A3: one bad row does not stop the others
				s.Stats.Garbage.Add(1)
				s.log.ErrorContext(ctx, "revocation row cannot be read", "authority", r.Authority, "error", bad)
				if r.Serial != (ca.Serial{}) {
					odd = append(odd, r)
				}
			case r.NotAfter.After(now):
				batch = append(batch, r)
			}
			return nil
		})
		if err != nil {
			return err
		}
		for _, r := range odd {
			// The row is not believed about whose it is (S32).
			if v, known, err := s.feed.Reserved(ctx, r.Serial); err != nil {
				return err
			} else if known {
				r.Authority, r.Tenant, r.Holder, r.Shard = v.Authority, v.Tenant, v.Holder, v.Shard
			}
			batch = append(batch, r)
		}
		s.apply(batch)
		if n < page || from == start {
			break
		}
	}
	if err := s.feed.Blocks(ctx, s.next, func(b Block) error {
		s.tell(Change{Revocation: Revocation{Tenant: b.Tenant, Holder: b.Holder, At: b.At, Leaf: b.Leaf}, Blocked: true, Revoked: true})
		return nil
	}); err != nil {
		return err
	}
	s.next = size
	return nil
}

// apply puts rows into the set, then tells of those that changed it.
func (s *Set) apply(rows []Revocation) {
	var changed []Change
	s.mu.Lock()
	for _, r := range rows {
		old, had := s.revoked[r.Serial]
		if !r.ReleasedAt.IsZero() {
			if had {
				delete(s.revoked, r.Serial)
				changed = append(changed, Change{Revocation: r})
			}
			continue
		}
		m := mark{at: r.At.Unix(), expires: seconds(r.NotAfter), authority: s.name(r.Authority), reason: r.Reason}
		if had && m == old {
			continue
		}
		s.revoked[r.Serial] = m
		changed = append(changed, Change{Revocation: r, Revoked: true})
	}
	s.mu.Unlock()
	for _, c := range changed {
		s.tell(c)
	}
}

func (s *Set) tell(c Change) {
	s.mu.RLock()
	subscribers := s.subscribers
	s.mu.RUnlock()
	for _, f := range subscribers {
		f(c)
	}
}

// name gives the index of an authority; s.mu is held.
func (s *Set) name(authority string) uint16 {
	if i := slices.Index(s.names, authority); i >= 0 {
		return uint16(i)
	}
	s.names = append(s.names, authority)
	return uint16(len(s.names) - 1)
}

// adopt keeps a serial number revoked that is on a signed list although the
// table lost it (S32): whoever can delete rows must not bring a device back.
func (s *Set) adopt(authority string, e Entry, expires time.Time) {
	serial, ok := e.ours()
	if !ok {
		return
	}
	s.mu.Lock()
	m, had := s.revoked[serial]
	if had = had && s.names[m.authority] == authority; !had {
		s.revoked[serial] = mark{at: e.At.Unix(), expires: seconds(expires), authority: s.name(authority), reason: e.Reason}
	}
	s.mu.Unlock()
	if !had {
		s.Stats.Adopted.Add(1)
		s.tell(Change{Revocation: Revocation{Authority: authority, Serial: serial, Reason: e.Reason, At: e.At, NotAfter: expires}, Revoked: true})
	}
}

// Distrust makes everything of an authority revoked before its root's list says so.
func (s *Set) Distrust(authority string, r Reason, at time.Time) { s.kill(authority, r, at) }

// Distrusted tells whether all of an authority is revoked.
func (s *Set) Distrusted(authority string) bool {
	s.mu.RLock()
	defer s.mu.RUnlock()
	_, ok := s.dead[authority]
	return ok
}

// kill makes everything of an authority revoked, since its root says so.
func (s *Set) kill(authority string, r Reason, at time.Time) {
	s.mu.Lock()
	m := mark{at: at.Unix(), reason: r}
	known := s.dead[authority] == m
	s.dead[authority] = m
	s.mu.Unlock()
	if !known {
		s.tell(Change{Revocation: Revocation{Authority: authority, Reason: r, At: at}, Revoked: true})
	}
}

// purge forgets what expired: an expired certificate is refused for that.
func (s *Set) purge(now time.Time) {
	limit := seconds(now)
	s.mu.Lock()
	for k, m := range s.revoked {
		if m.expires != forever && m.expires < limit {
			delete(s.revoked, k)
		}
	}
	s.mu.Unlock()
	s.purged = now
}
