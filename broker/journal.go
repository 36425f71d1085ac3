package broker

import (
	"context"
	"slices"
	"sync"
	"time"

	"hallmark/internal/lane"
)

// journal writes changes to the store, many in one commit, in the order in which
// they were submitted. There is one call of the store at a time, so positions,
// rows and callbacks all have the same order.
//
// Locks: journal.mu is taken before session.mu, never after it.
type journal struct {
	b     *Broker
	store Store

	mu      sync.Mutex
	pending []*group
	acks    map[*session]struct{} // sessions whose rows can go; not urgent
	closed  bool
	wake    chan struct{}
	done    chan struct{}
}

// group is changes that belong together and who waits for them.
type group struct {
	life    string // of this node when it was submitted: see commit
	changes []Change
	done    func(error) // may be nil; called on the journal's goroutine, must not block
}

const (
	journalBatch  = 256 // changes a commit: the line's transactions share the writer
	journalOctets = 4 << 20
	ackDelay      = 100 * time.Millisecond
	sweepEvery    = time.Minute
)

func newJournal(b *Broker, s Store) *journal {
	return &journal{b: b, store: s, acks: map[*session]struct{}{}, wake: make(chan struct{}, 1), done: make(chan struct{})}
}

// submit takes changes into the order. make is called at once, under the
// journal's lock: it draws positions.
func (j *journal) submit(make func() []Change, done func(error)) {
	j.mu.Lock()
	if j.closed {
		j.mu.Unlock()
		if done != nil {
			done(ErrClosed.New(""))
		}
		return
	}
	life := j.b.node() // before the changes, which may name it
	j.pending = append(j.pending, &group{life, make(), done})
	j.mu.Unlock()
	j.poke()
}

func (j *journal) poke() {
	select {
	case j.wake <- struct{}{}:
	default:
	}
}

// write submits changes and waits until they are durable.
func (j *journal) write(changes ...Change) error {
	result := make(chan error, 1)
	j.submit(func() []Change { return changes }, func(err error) { result <- err })
	return <-result
}

// later submits changes that nobody waits for.
func (j *journal) later(changes ...Change) {
	j.submit(func() []Change { return changes }, nil)
}

// acknowledged says that rows of s can be deleted. A crash before that repeats
// messages, so there is no hurry.
func (j *journal) acknowledged(s *session) {
	j.mu.Lock()
	if len(j.acks) == 0 && !j.closed {
		time.AfterFunc(ackDelay, j.poke)
	}
	j.acks[s] = struct{}{}
	j.mu.Unlock()
}

func (j *journal) run(ctx context.Context) {
	defer close(j.done)
	ctx = lane.With(ctx, lane.Status)
	sweep := time.NewTicker(sweepEvery)
	defer sweep.Stop()
	for {
		groups, acks, closed := j.take()
		if len(groups) == 0 && len(acks) == 0 {
			if closed {
				return
			}
			select {
			case <-j.wake:
			case <-sweep.C:
				if err := j.store.Sweep(ctx); err != nil {
					j.b.count.storeFailures.Add(1)
					j.b.log.WarnContext(ctx, "message store not swept", "err", err)
				}
			}
			continue
		}
		j.commit(ctx, groups, acks)
	}
}

// take gives the next groups, up to a batch, and the acknowledgements so far.
func (j *journal) take() (groups []*group, acks []Change, closed bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	n, size, octets := 0, 0, 0
	for n < len(j.pending) && (n == 0 || j.pending[n].life == j.pending[0].life && size+len(j.pending[n].changes) <= journalBatch && octets < journalOctets) {
		size += len(j.pending[n].changes)
		for _, c := range j.pending[n].changes {
			if q, ok := c.(Enqueue); ok {
				octets += q.Message.Size()
			}
		}
		n++
	}
	groups = j.pending[:n:n]
	if j.pending = j.pending[n:]; len(j.pending) == 0 {
		j.pending = nil
	}
	for s := range j.acks {
		s.mu.Lock()
		if d := s.durable; d != nil && !s.gone {
			acks = append(acks, Acknowledge{Tenant: s.realm.tenant, Client: s.key, Position: d.ackedUpTo})
		}
		s.mu.Unlock()
	}
	clear(j.acks)
	return groups, acks, j.closed
}

func (j *journal) commit(ctx context.Context, groups []*group, acks []Change) {
	var guard []Change
	if j.b.cluster != nil {
		// A node that was taken for dead changes nothing any more: not even in its next
		// life, what it had meant to change in the one before.
		life := j.b.node()
		if len(groups) > 0 {
			life = groups[0].life
		}
		guard = []Change{Guard{life}}
	}
	all := append(slices.Clone(guard), acks...)
	for _, g := range groups {
		all = append(all, g.changes...)
	}
	err := j.store.Apply(ctx, all)
	if err != nil {
		j.b.count.storeFailures.Add(1)
		j.b.log.ErrorContext(ctx, "messages not stored", "changes", len(all), "err", err)
	}
	for _, g := range groups {
		own := err
		if err != nil && len(groups) > 1 {
			// One bad change must not fail its neighbours.
			own = j.store.Apply(ctx, append(slices.Clone(guard), g.changes...))
		}
		if g.done != nil {
			g.done(own)
		}
	}
}

// close lets what was submitted finish.
func (j *journal) close() {
	j.mu.Lock()
	j.closed = true
	j.mu.Unlock()
	j.poke()
	<-j.done
}
