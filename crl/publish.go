package crl

import (
	"context"
	"errors"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"hallmark/ca"
	"hallmark/ca/profile"
	"hallmark/internal/lane"
)

// ListHead is what is known of a published list without its octets.
type ListHead struct {
	Authority  string
	Shard      int
	Number     int64
	ThisUpdate time.Time
	NextUpdate time.Time
	Leaf       int64 // the size of the log that it covers
}

// StoredList is a published list.
type StoredList struct {
	ListHead
	DER []byte
}

// Evidence is why a serial number may leave a list.
type Evidence struct {
	NotAfter time.Time // zero: it was never reserved
	Released bool      // a hold was released, and the log says so
}

// ListStore is what [Publisher] reads and writes.
type ListStore interface {
	Head(ctx context.Context) (int64, error)
	ListHeads(ctx context.Context) ([]ListHead, error)
	// List gives the newest list, nil if there is none; its DER only if its
	// number is above have.
	List(ctx context.Context, authority string, shard int, have int64) (*StoredList, error)
	// PutList replaces the list of number old (0: none); ErrListMoved if the
	// stored one has another number. The number never falls.
	PutList(ctx context.Context, l StoredList, old int64) error
	// ShardRevocations gives what is revoked now and ends at or after a time,
	// ordered by serial number. A row that cannot be read comes with an error.
	ShardRevocations(ctx context.Context, authority string, shard int, endFrom time.Time, each func(Revocation, error) error) error
	// ShardChanges gives rows whose newest leaf is at or after fromLeaf, released
	// ones too, ordered by serial number.
	ShardChanges(ctx context.Context, authority string, shard int, fromLeaf int64, each func(Revocation, error) error) error
	// Evidence looks at certificate and log, not only at the revocation's row.
	Evidence(ctx context.Context, authority string, serial ca.Serial) (Evidence, error)
}

// PublisherConfig makes a [Publisher].
type PublisherConfig struct {
	Store ListStore
	CA    *ca.CA
	Set   *Set
	// Dir is the public directory; lists are written to Dir/crl/AUTHORITY/SHARD.crl.
	// "" writes no files.
	Dir string
	// Validity is nextUpdate minus now; 0 means 7 days. A list is made anew at
	// half of it.
	Validity time.Duration
	// Coalesce is how long a burst is collected; 0 means 25 ms.
	Coalesce time.Duration
	// MaxAge is for how long caches may keep a list; 0 means 5 minutes.
	MaxAge time.Duration
	// Clock refuses a clock that cannot be right, before a list is signed; nil
	// means it is right.
	Clock func() error
	Log   *slog.Logger
	Now   func() time.Time
}

// Publisher keeps the lists of all authorities current and serves them.
type Publisher struct {
	cfg PublisherConfig
	log *slog.Logger
	now func() time.Time

	Stats PublisherStats

	mu    sync.RWMutex
	lists map[listID]*published
	dirty map[listID]bool // a revocation touched them
	kick  chan struct{}
	build [16]sync.Mutex // one builder per list, by hash
}

// PublisherStats counts for the metrics.
type PublisherStats struct {
	Built    atomic.Int64 // lists signed and published
	Failures atomic.Int64 // builds that failed; the former list stays
	Carried  atomic.Int64 // entries kept although the table lost them (S32)
	Moved    atomic.Int64 // times another node was faster
	Rollback atomic.Int64 // stored lists older than the published file
	Requests atomic.Int64
}

type listID struct {
	authority string
	shard     int
}

type published struct {
	*List
	leaf int64
	etag string
}

const (
	defaultValidity = 7 * 24 * time.Hour
	maxTries        = 6
	skew            = 5 * time.Minute
)

// NewPublisher makes a Publisher; nothing is published before [Publisher.Start].
func NewPublisher(cfg PublisherConfig) *Publisher {
	p := &Publisher{cfg: cfg, lists: map[listID]*published{}, dirty: map[listID]bool{}, kick: make(chan struct{}, 1)}
	p.log, p.now = defaults(cfg.Log, cfg.Now)
	for _, d := range []struct {
		have *time.Duration
		want time.Duration
	}{{&p.cfg.Validity, defaultValidity}, {&p.cfg.Coalesce, 25 * time.Millisecond}, {&p.cfg.MaxAge, 5 * time.Minute}} {
		if *d.have == 0 {
			*d.have = d.want
		}
	}
	return p
}

// Start loads what is published, makes every list that is missing, behind the
// table or older than half its validity, and subscribes to the set. It fails
// when the store cannot be read; an authority that cannot sign now keeps its
// former list and is tried again. Call it after [Set.Load], before the doors open.
func (p *Publisher) Start(ctx context.Context) error {
	p.cfg.Set.OnChange(p.changed)
	ctx = lane.With(ctx, lane.Status)
	for _, a := range p.cfg.CA.Authorities() {
		if a.Duty != profile.DutyRoot {
			continue
		}
		if err := p.loadRoot(ctx, a); err != nil {
			return err
		}
	}
	ids, err := p.ids(ctx)
	if err != nil {
		return err
	}
	return p.each(ids, func(id listID) error {
		err := p.update(ctx, id, full)
		var bad *storeError
		if errors.As(err, &bad) {
			return err
		}
		if err != nil {
			p.markDirty(id)
		}
		return nil
	})
}

// storeError is a failure of the store, as against one of a key or a list.
type storeError struct{ error }

func (e *storeError) Unwrap() error { return e.error }

func stored(err error) error {
	if err == nil {
		return nil
	}
	return &storeError{err}
}

// each runs f for some lists at once, so that their commits are shared.
func (p *Publisher) each(ids []listID, f func(listID) error) error {
	var wg sync.WaitGroup
	var mu sync.Mutex
	var first error
	gate := make(chan struct{}, 8)
	for _, id := range ids {
		gate <- struct{}{}
		wg.Go(func() {
			defer func() { <-gate }()
			if err := f(id); err != nil {
				mu.Lock()
				first = errors.Join(first, err)
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	return first
}

// ids are the lists that we sign: every shard that there is or was, of every
// authority with a key here.
func (p *Publisher) ids(ctx context.Context) ([]listID, error) {
	heads, err := p.cfg.Store.ListHeads(ctx)
	if err != nil {
		return nil, err
	}
	now := p.now()
	var out []listID
	for _, a := range p.cfg.CA.Authorities() {
		if a.Duty == profile.DutyRoot || !now.Before(a.Cert.NotAfter) {
			continue
		}
		n := max(a.Shards, 1)
		for _, h := range heads {
			if h.Authority == a.Name {
				n = max(n, h.Shard+1)
			}
		}
		for s := range n {
			out = append(out, listID{a.Name, s})
		}
	}
	return out, nil
}

// changed is called by the set.
func (p *Publisher) changed(c Change) {
	if c.Blocked || c.Tenant == "" { // a block is on no list; an adopted entry is on it already
		return
	}
	p.markDirty(listID{c.Authority, c.Shard})
}

func (p *Publisher) markDirty(id listID) {
	p.mu.Lock()
	p.dirty[id] = true
	p.mu.Unlock()
	p.wake()
}

func (p *Publisher) wake() {
	select {
	case p.kick <- struct{}{}:
	default:
	}
}

// Run publishes after revocations and refreshes, until ctx ends.
func (p *Publisher) Run(ctx context.Context) {
	sweep := time.NewTicker(min(max(p.cfg.Validity/200, time.Second), time.Minute))
	defer sweep.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-p.kick:
			if !sleep(ctx, p.cfg.Coalesce) {
				return
			}
			// thisUpdate has seconds and rises with every list, so a list that was
			// made in this second waits for the next one; the others do not.
			ok, later := p.flush(ctx, true)
			if !ok && !sleep(ctx, time.Second) || later > 0 && !sleep(ctx, later) {
				return
			}
			if !ok || later > 0 {
				p.wake()
			}
		case <-sweep.C:
			if err := p.Sweep(ctx); err != nil {
				p.log.ErrorContext(ctx, "lists cannot be refreshed", "error", err)
			}
		}
	}
}

func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// Flush makes the lists that a revocation touched now, without the pace of
// [Publisher.Run]; false if one must be tried again.
func (p *Publisher) Flush(ctx context.Context) bool {
	ok, _ := p.flush(ctx, false)
	return ok
}

// flush makes the lists that are due. later is when the next one is, 0 for none.
func (p *Publisher) flush(ctx context.Context, pace bool) (ok bool, later time.Duration) {
	now := p.now()
	var due []listID
	p.mu.Lock()
	for id := range p.dirty {
		if l := p.lists[id]; pace && l != nil {
			if wait := l.ThisUpdate.Add(time.Second).Sub(now); wait > 0 && wait <= time.Second {
				later = max(later, wait)
				continue
			}
		}
		due = append(due, id)
		delete(p.dirty, id)
	}
	p.mu.Unlock()
	err := p.each(due, func(id listID) error {
		err := p.update(ctx, id, changesOnly)
		if err != nil {
			p.mu.Lock()
			p.dirty[id] = true
			p.mu.Unlock()
		}
		return err
	})
	return err == nil, later
}

// Sweep reads lists that other nodes published, and makes those anew that passed
// half of their validity (A32).
func (p *Publisher) Sweep(ctx context.Context) error {
	ctx = lane.With(ctx, lane.Status)
	heads, err := p.cfg.Store.ListHeads(ctx)
	if err != nil {
		return err
	}
	for _, h := range heads {
		id := listID{h.Authority, h.Shard}
		if have := p.current(id); have != nil && h.Number <= have.Number {
			continue
		}
		if a, err := p.cfg.CA.Authority(h.Authority); err != nil {
			continue
		} else if a.Duty == profile.DutyRoot {
			err = p.loadRoot(ctx, a)
			if err != nil {
				return err
			}
		} else if _, _, err := p.load(ctx, id, a); err != nil {
			p.log.ErrorContext(ctx, "stored list cannot be used", "authority", h.Authority, "shard", h.Shard, "error", err)
		}
	}
	ids, err := p.ids(ctx)
	if err != nil {
		return err
	}
	now := p.now()
	ids = slices.DeleteFunc(ids, func(id listID) bool { l := p.current(id); return l != nil && !p.stale(l, now) })
	return p.each(ids, func(id listID) error { return p.update(ctx, id, full) })
}

func (p *Publisher) stale(l *published, now time.Time) bool {
	return l.NextUpdate.Sub(now) < p.cfg.Validity/2
}

func (p *Publisher) current(id listID) *published {
	p.mu.RLock()
	defer p.mu.RUnlock()
	return p.lists[id]
}

// Lists are the heads of what is served, for metrics and alarms (A9, A35).
func (p *Publisher) Lists() []ListHead {
	p.mu.RLock()
	defer p.mu.RUnlock()
	out := make([]ListHead, 0, len(p.lists))
	for id, l := range p.lists {
		out = append(out, ListHead{id.authority, id.shard, l.Number, l.ThisUpdate, l.NextUpdate, l.leaf})
	}
	slices.SortFunc(out, func(a, b ListHead) int {
		if a.Authority != b.Authority {
			if a.Authority < b.Authority {
				return -1
			}
			return 1
		}
		return a.Shard - b.Shard
	})
	return out
}
