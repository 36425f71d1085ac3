package crl

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"hallmark/ca"
	"hallmark/ca/profile"
	"hallmark/internal/der"
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

// StoredList is a published list. A long one is written as Pieces, and read as DER
// with the Cuts at which they lie in its entries.
type StoredList struct {
	ListHead
	DER    []byte
	Delta  []byte // the delta list that goes with it, or nil
	Pieces *Pieces
	Cuts   []Cut
}

// Cut is a piece of a stored list: its name and how many octets it has.
type Cut struct {
	ID  int64
	Len int
}

// Pieces is a list whose entries are kept in pieces: Front, the pieces of All in
// their order, and Back.
type Pieces struct {
	Front, Back []byte
	All         []Cut
	// Put are the octets of the pieces of All that are not stored yet.
	Put map[int64][]byte
	// Gone are stored pieces that All does not have. Fresh says that nothing is
	// known of what is stored; all of it goes.
	Gone  []int64
	Fresh bool
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
	// Deltas makes a delta list with every list but the first.
	Deltas bool
	// BaseEvery is how long delta lists are made against the same list; 0 means a
	// quarter of Validity.
	BaseEvery time.Duration
	// Send carries lists to other places; nil means nowhere.
	Send *Sender
	// Filters are served beside the lists; nil means there are none.
	Filters *Filters
	// Floor is the number above which the next list has to be, whatever the store
	// remembers: after a restore the world may know later lists (A77). nil means 0.
	Floor func(authority string, shard int) int64
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

	loading  atomic.Int64 // nanoseconds in which the former list was read
	building atomic.Int64 // nanoseconds from the decision to the signature, of the last list
}

// Building is how long the last list took from reading what changed to its
// verified signature, without storing and serving it.
func (s *PublisherStats) Building() time.Duration { return time.Duration(s.building.Load()) }

// Loading is how long it took to read the former list from the store before that,
// if it was not in memory.
func (s *PublisherStats) Loading() time.Duration { return time.Duration(s.loading.Load()) }

type listID struct {
	authority string
	shard     int
}

// published is a list as it is served: front, entries and back are its octets.
type published struct {
	Number     int64
	ThisUpdate time.Time
	NextUpdate time.Time
	URL        string

	front   []byte
	entries *entries
	back    []byte
	leaf    int64
	etag    string
	stored  bool       // its pieces are in the store under their ids
	ref     *reference // of its delta list
	delta   *delta
}

// publishedOf takes a parsed list; cuts are those at which it was stored.
func publishedOf(l *List, cuts []Cut, leaf int64) (*published, error) {
	n := &published{Number: l.Number, ThisUpdate: l.ThisUpdate, NextUpdate: l.NextUpdate, URL: l.URL, leaf: leaf,
		front: l.DER[:l.at:l.at], back: l.DER[l.at+len(l.Entries):]}
	n.etag = etag(append(n.front[:len(n.front):len(n.front)], n.back...))
	if cuts == nil {
		var err error
		n.entries, err = newEntries(l.Entries)
		return n, err
	}
	n.entries, n.stored = &entries{}, true
	in := l.Entries
	for _, c := range cuts {
		if c.Len <= 0 || c.Len > len(in) || c.ID <= 0 {
			return nil, malformed(nil, "Its pieces do not fit.")
		}
		p := &piece{id: c.ID, der: in[:c.Len:c.Len]}
		if err := p.read(); err != nil {
			return nil, malformed(err, "Its pieces do not fit.")
		}
		n.entries.add(p)
		in = in[c.Len:]
	}
	if len(in) > 0 {
		return nil, malformed(nil, "Its pieces do not fit.")
	}
	return n, nil
}

// reader gives its octets.
func (n *published) reader() *parts {
	return newParts(slices.Concat([][]byte{n.front}, n.entries.octets(), [][]byte{n.back}))
}

// der is the list in one place.
func (n *published) der() []byte {
	return bytes.Join(slices.Concat([][]byte{n.front}, n.entries.octets(), [][]byte{n.back}), nil)
}

// without is the list without its entries, to read what else it says.
func (n *published) without() []byte {
	outer, _, _ := splitHeader(n.front)
	inner, _, _ := splitHeader(outer)
	if n.entries.size > 0 { // their header is the last of front
		inner = inner[:len(inner)-len(der.AppendHeader(nil, der.TagSequence, n.entries.size))]
	}
	ext, _, err := der.Next(n.back)
	if err != nil {
		return nil
	}
	return der.Sequence(nil, func(b []byte) []byte {
		b = der.AppendTLV(b, der.TagSequence, inner, ext.Raw)
		return append(b, n.back[len(ext.Raw):]...)
	})
}

// splitHeader takes a tag and a length off, whose content may not be all there.
func splitHeader(in []byte) (content []byte, tag byte, ok bool) {
	if len(in) < 2 {
		return nil, 0, false
	}
	n := 2
	if in[1] >= 0x80 {
		n += int(in[1] & 0x7f)
	}
	if n > len(in) {
		return nil, 0, false
	}
	return in[n:], in[0], true
}

// inline is up to how long a list is one row of the store.
const inline = 4 * pieceOctets

// row is what the store keeps of a list.
func (n *published) row(id listID) StoredList {
	row := StoredList{ListHead: ListHead{id.authority, id.shard, n.Number, n.ThisUpdate, n.NextUpdate, n.leaf}}
	if n.delta != nil {
		row.Delta = n.delta.der
	}
	if n.entries.size <= inline {
		row.DER = n.der()
		return row
	}
	row.Pieces = &Pieces{Front: n.front, Back: n.back, All: make([]Cut, len(n.entries.pieces))}
	for i, p := range n.entries.pieces {
		row.Pieces.All[i] = Cut{p.id, len(p.der)}
	}
	return row
}

// keep says which pieces of the last list stay in the store.
func (row *StoredList) keep(n, last *published, old int64) {
	if row.Pieces == nil {
		return
	}
	put := n.entries.pieces
	if last != nil && last.stored && last.Number == old {
		var gone []*piece
		gone, put = apart(last.entries, n.entries)
		for _, p := range gone {
			row.Pieces.Gone = append(row.Pieces.Gone, p.id)
		}
	} else {
		row.Pieces.Fresh = true
	}
	row.Pieces.Put = make(map[int64][]byte, len(put))
	for _, p := range put {
		row.Pieces.Put[p.id] = p.der
	}
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
	}{{&p.cfg.Validity, defaultValidity}, {&p.cfg.Coalesce, 25 * time.Millisecond}, {&p.cfg.MaxAge, 5 * time.Minute}, {&p.cfg.BaseEvery, p.cfg.Validity / 4}} {
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

// Publish makes a list now, also when nothing changed.
func (p *Publisher) Publish(ctx context.Context, authority string, shard int) (ListHead, error) {
	id := listID{authority, shard}
	if err := p.update(lane.With(ctx, lane.Status), id, again); err != nil {
		return ListHead{}, err
	}
	l := p.current(id)
	return ListHead{authority, shard, l.Number, l.ThisUpdate, l.NextUpdate, l.leaf}, nil
}

// PublishAll makes all lists of an authority now, also when nothing changed.
func (p *Publisher) PublishAll(ctx context.Context, authority string) ([]PublishedList, error) {
	a, err := p.cfg.CA.Authority(authority)
	if err != nil {
		return nil, err
	}
	if a.Duty == profile.DutyRoot {
		return nil, ErrListUntrusted.New("%s is a root: its list is signed in a ceremony and uploaded.", authority)
	}
	all, err := p.ids(ctx)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(id listID) bool { return id.authority != authority })
	if len(all) == 0 {
		return nil, ErrListMissing.New("%s ended at %s.", authority, a.Cert.NotAfter.Format(timeForm))
	}
	if err := p.each(all, func(id listID) error { return p.update(lane.With(ctx, lane.Status), id, again) }); err != nil {
		return nil, err
	}
	return slices.DeleteFunc(p.Lists(), func(l PublishedList) bool { return l.Authority != authority }), nil
}

// LastLists tells whether every list of an authority that ended is its last one.
func (p *Publisher) LastLists(ctx context.Context, authority string) (bool, error) {
	a, err := p.cfg.CA.Authority(authority)
	if err != nil {
		return false, err
	}
	ids, err := p.ids(ctx)
	for _, id := range ids {
		if l := p.current(id); id.authority == authority && (l == nil || !lastOf(a, l)) {
			return false, err
		}
	}
	return err == nil, err
}

// WriteList writes what is served of a shard: the list, or its delta list.
func (p *Publisher) WriteList(w io.Writer, authority string, shard int, delta bool) error {
	l := p.current(listID{authority, shard})
	switch {
	case l == nil || delta && l.delta == nil:
		return ErrListMissing.New("Authority %s, shard %d.", authority, shard)
	case delta:
		_, err := w.Write(l.delta.der)
		return err
	}
	_, err := l.reader().WriteTo(w)
	return err
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

// PublishedList is what is known of a list that is served.
type PublishedList struct {
	ListHead
	Entries      int
	Octets       int64
	Delta        bool // there is a delta list beside it
	DeltaBase    int64
	DeltaOctets  int64
	DeltaUpdated time.Time // its thisUpdate
}

// Lists are those that are served, for people, metrics and alarms (A9, A35).
func (p *Publisher) Lists() []PublishedList {
	p.mu.RLock()
	defer p.mu.RUnlock()
	out := make([]PublishedList, 0, len(p.lists))
	for id, l := range p.lists {
		one := PublishedList{ListHead: ListHead{id.authority, id.shard, l.Number, l.ThisUpdate, l.NextUpdate, l.leaf}, Entries: l.entries.count,
			Octets: int64(len(l.front) + l.entries.size + len(l.back))}
		if l.delta != nil {
			one.Delta, one.DeltaOctets, one.DeltaUpdated = true, int64(len(l.delta.der)), l.delta.thisUpdate
			if l.ref != nil {
				one.DeltaBase = l.ref.number
			}
		}
		out = append(out, one)
	}
	slices.SortFunc(out, func(a, b PublishedList) int {
		return cmp.Or(strings.Compare(a.Authority, b.Authority), a.Shard-b.Shard)
	})
	return out
}
