package jobs

import (
	"cmp"
	"context"
	"errors"
	"hash/maphash"
	"log/slog"
	"sync"
	"time"

	"hallmark/access"
	"hallmark/fleet"
)

// Store persists jobs and executions. Contract: Atomic runs fn in one
// transaction that every method joins, and may run it again; look-ups see one
// tenant but where it is said otherwise, and compare things by
// [fleet.ThingName.Fold]; what is not there is [ErrJobUnknown] or [ErrExecution].
type Store interface {
	Atomic(ctx context.Context, fn func(ctx context.Context) error) error

	// AddJob gives [ErrJobExists] if the name is taken. PutJob changes everything
	// but the counts if the version is still was, else it gives [ErrJobChanged].
	AddJob(ctx context.Context, j Job) error
	PutJob(ctx context.Context, j Job, was int64) error
	// CountJob adds a difference to the counts.
	CountJob(ctx context.Context, s access.Scope, id string, by Counts) error
	DropJob(ctx context.Context, s access.Scope, id string) error
	Job(ctx context.Context, s access.Scope, id string) (Job, error)
	Jobs(ctx context.Context, s access.Scope, status JobStatus, after string, limit int) ([]Job, error)
	// ActiveJobs lists the active jobs of all tenants after one, for the loop.
	ActiveJobs(ctx context.Context, tenant, id string, limit int) ([]Job, error)

	// AddExecution gives [ErrChanged] if the attempt is there already; PutExecution
	// gives it if the version is not was any more.
	AddExecution(ctx context.Context, e Execution) error
	PutExecution(ctx context.Context, e Execution, was int64) error
	// Execution finds one attempt, the latest for number 0.
	Execution(ctx context.Context, s access.Scope, job string, thing fleet.ThingName, number int64) (Execution, error)
	// PendingExecutions lists what a thing has to do: in progress first, then by
	// the time of queueing, then by job.
	PendingExecutions(ctx context.Context, s access.Scope, thing fleet.ThingName, limit int) ([]Execution, error)
	// ExecutionsOfJob lists the latest attempts in the order of their things. rank
	// is one of [Status.Rank], or negative for all.
	ExecutionsOfJob(ctx context.Context, s access.Scope, job string, rank int, after fleet.ThingName, limit int) ([]Execution, error)
	// ExecutionsOfThing lists all attempts of a thing by job and number.
	ExecutionsOfThing(ctx context.Context, s access.Scope, thing fleet.ThingName, afterJob string, afterNumber int64, limit int) ([]Execution, error)
	// DropExecutions removes all attempts of a thing at a job.
	DropExecutions(ctx context.Context, s access.Scope, job string, thing fleet.ThingName) error
	// DropWaiting removes up to limit executions that were not rolled out.
	DropWaiting(ctx context.Context, s access.Scope, job string, limit int) (int64, error)
	// DueExecutions lists executions of all tenants whose timer ended, for the loop.
	DueExecutions(ctx context.Context, now time.Time, limit int) ([]Execution, error)

	// BrokenJobs lists what does not fit together; see [Service.Fsck].
	BrokenJobs(ctx context.Context, report func(check, object, detail string)) error
}

// Targets knows which things a target is: the first limit of them, in the order
// of [fleet.ThingName.Fold], whose folded name is after that of after; fewer
// means that there are no more. A target is
// "thing/NAME" or "thinggroup/NAME"; one that does not exist is a fault of the
// kind NotFound. It is asked outside of transactions.
type Targets interface {
	Things(ctx context.Context, tenant string, target string, after fleet.ThingName, limit int) ([]fleet.ThingName, error)
}

// Config makes a Service.
type Config struct {
	Store Store
	// Publisher gets notifications and events. It must not come back to this
	// Service for the same thing before it returns.
	Publisher fleet.Publisher
	// Targets are asked for things and groups; nil means that there are no groups
	// and every thing exists.
	Targets Targets
	// Sign makes the presigned URLs of documents; nil refuses documents that
	// want one.
	Sign Signer
	// ARN is a target's name on the wire; nil means "arn:aws:iot::TENANT:" and the
	// target.
	ARN func(tenant, target string) string
	// Events tells whether a tenant wants events of a kind ("JOB" or
	// "JOB_EXECUTION"); nil means always.
	Events func(ctx context.Context, tenant, kind string) bool
	// Changed hears of an execution that its device began, or that is over, in the
	// transaction of that change; nil hears nothing. It may be asked again.
	Changed func(ctx context.Context, e *Execution) error
	// Every is the pause between two steps of [Service.Run]; 0 means a second.
	Every time.Duration
	// Sweep is how often a continuous job looks at all its groups; 0 means a
	// minute. [Service.Refresh] makes it look at once.
	Sweep time.Duration
	Log   *slog.Logger
	Now   func() time.Time
}

// Service keeps jobs. It is safe for concurrent use, and several services may
// work on one database.
type Service struct {
	store     Store
	publisher fleet.Publisher
	group     Targets
	signer    Signer
	arn       func(tenant, target string) string
	events    func(ctx context.Context, tenant, kind string) bool
	changed   func(ctx context.Context, e *Execution) error
	every     time.Duration
	sweep     time.Duration
	log       *slog.Logger
	now       func() time.Time

	seed   maphash.Seed
	voices [64]sync.Mutex // one for some of the things each; see tell
}

// New makes a Service.
func New(cfg Config) *Service {
	s := &Service{store: cfg.Store, publisher: cfg.Publisher, group: cfg.Targets, signer: cfg.Sign, arn: cfg.ARN, events: cfg.Events, changed: cfg.Changed,
		every: cmp.Or(cfg.Every, stepEvery), sweep: cmp.Or(cfg.Sweep, sweepEvery), log: cfg.Log, now: cfg.Now, seed: maphash.MakeSeed()}
	if s.arn == nil {
		s.arn = func(tenant, target string) string { return "arn:aws:iot::" + tenant + ":" + target }
	}
	if s.events == nil {
		s.events = func(context.Context, string, string) bool { return true }
	}
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.now == nil {
		s.now = time.Now
	}
	return s
}

// clock is the time as it is stored.
func (s *Service) clock() time.Time { return s.now().UTC().Truncate(time.Millisecond) }

// atomically runs a change, again while other services are faster, and then
// tells whoever has to know.
func (s *Service) atomically(ctx context.Context, now time.Time, fn func(ctx context.Context, c *change) error) error {
	var c *change
	var err error
	for range maxTries {
		err = s.store.Atomic(ctx, func(ctx context.Context) error {
			c = newChange(s.store, now)
			c.changed = s.changed
			if err := fn(ctx, c); err != nil {
				return err
			}
			return c.finish(ctx)
		})
		if !errors.Is(err, ErrChanged) {
			break
		}
	}
	if err != nil {
		return err
	}
	s.announce(ctx, c)
	return nil
}
