package campaign

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"hallmark/access"
	"hallmark/fleet"
	"hallmark/fleet/jobs"
	"hallmark/fleet/presence"
	"hallmark/fleet/rollout"
)

// Presence knows the connections of a thing.
type Presence interface {
	Presence(ctx context.Context, s access.Scope, thing fleet.ThingName) ([]presence.State, error)
}

// Config makes a Service.
type Config struct {
	Store    Store
	Jobs     *jobs.Service // whose Config.Changed is [Service.Heard]
	Presence Presence
	// Targets knows "query/TEXT" beside what [jobs.Targets] knows.
	Targets jobs.Targets
	Actions map[Kind]Action
	// Attribute is an attribute of a thing, "" if it has none; nil means that none has.
	Attribute func(ctx context.Context, s access.Scope, thing fleet.ThingName, name string) (string, error)
	// TwoPeopleOver is the number of devices over which a second person approves; a
	// continuous campaign has no number, so somebody always does. 0: always.
	TwoPeopleOver int64
	OnePerson     bool // nobody else ever approves
	// Node names this service among those of one database.
	Node string
	// Yield tells that the factory line needs the database now; nil: it never does.
	Yield func() bool
	Every time.Duration // between two steps of [Service.Run]; 0 means a second
	Sweep time.Duration // how often a continuous campaign looks at its targets; 0 means ten minutes
	Log   *slog.Logger
	Now   func() time.Time
}

// Service runs campaigns. It is safe for concurrent use, and several services may
// work on one database.
type Service struct {
	cfg   Config
	store Store
	log   *slog.Logger
	now   func() time.Time

	Offers    atomic.Int64 // devices that were offered a change
	Reminders atomic.Int64 // of those that are connected and did not begin
	Errors    atomic.Int64 // calls of an Action that did not succeed

	mu   sync.Mutex
	pace budget          // of reminders
	told map[string]bool // jobs that are known, and whether devices are told anything by them

	stops map[string]int64
}

// New makes a Service.
func New(cfg Config) *Service {
	s := &Service{cfg: cfg, store: cfg.Store, log: cfg.Log, now: cfg.Now, told: map[string]bool{}, stops: map[string]int64{}}
	s.cfg.Every, s.cfg.Sweep = cmp.Or(cfg.Every, stepEvery), cmp.Or(cfg.Sweep, sweepEvery)
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.now == nil {
		s.now = time.Now
	}
	if s.cfg.Yield == nil {
		s.cfg.Yield = func() bool { return false }
	}
	return s
}

func (s *Service) clock() time.Time { return s.now().UTC().Truncate(time.Millisecond) }

func (s *Service) action(k Kind) (Action, error) {
	if a := s.cfg.Actions[k]; a != nil {
		return a, nil
	}
	var have []string
	for k := range s.cfg.Actions {
		have = append(have, string(k))
	}
	slices.Sort(have)
	return nil, ErrKind.New("%.40q is none of %s.", k, strings.Join(have, ", "))
}

// prepare checks a Spec, by its kind too, and completes it.
func (s *Service) prepare(ctx context.Context, tenant, id string, spec *Spec) (*Campaign, Action, error) {
	if err := ParseID(id); err != nil {
		return nil, nil, err
	}
	a, err := s.action(spec.Kind)
	if err != nil {
		return nil, nil, err
	}
	if err := a.Check(ctx, tenant, spec); err != nil {
		return nil, nil, err
	}
	if err := spec.check(); err != nil {
		return nil, nil, err
	}
	spec.Targets = slices.Clone(spec.Targets)
	if err := s.resolve(ctx, tenant, spec); err != nil {
		return nil, nil, err
	}
	now := s.clock()
	if spec.Schedule.Phase(now) == rollout.After {
		return nil, nil, ErrInvalid.New("The schedule has ended.")
	}
	c := &Campaign{Tenant: tenant, ID: id, Spec: *spec, CreatedAt: now, UpdatedAt: now, Version: 1}
	if _, err := a.Document(ctx, c, false); err != nil {
		return nil, nil, err
	}
	return c, a, nil
}

// Create makes a campaign. One for more devices than a person may decide about
// alone waits for a second one, see [Service.Approve].
func (s *Service) Create(ctx context.Context, tenant, id, by string, spec Spec) (Campaign, error) {
	c, _, err := s.prepare(ctx, tenant, id, &spec)
	if err != nil {
		return Campaign{}, err
	}
	c.CreatedBy, c.State = by, AwaitingApproval
	two, err := s.over(ctx, tenant, &spec)
	if err != nil {
		return Campaign{}, err
	}
	if !two {
		c.Approved = true
		c.start(c.CreatedAt)
	}
	return s.add(ctx, c)
}

// Open makes a campaign that the service's own configuration asks for, which nobody
// else approves. One that is there already is given as it is; see [Service.Follow].
func (s *Service) Open(ctx context.Context, tenant, id string, spec Spec) (Campaign, error) {
	return s.OpenAs(ctx, tenant, id, configuration, spec)
}

// OpenAs is [Service.Open] for what else was approved as a whole, and needs a campaign.
func (s *Service) OpenAs(ctx context.Context, tenant, id, by string, spec Spec) (Campaign, error) {
	have, err := s.store.Campaign(ctx, access.Scope{Tenant: tenant}, id)
	if !errors.Is(err, ErrUnknown) {
		return have, err
	}
	c, _, err := s.prepare(ctx, tenant, id, &spec)
	if err != nil {
		return Campaign{}, err
	}
	c.CreatedBy, c.Approved, c.ApprovedBy = by, true, by
	c.start(c.CreatedAt)
	out, err := s.add(ctx, c)
	if errors.Is(err, ErrExists) {
		return s.store.Campaign(ctx, access.Scope{Tenant: tenant}, id)
	}
	return out, err
}

// configuration stands for a person where the service's configuration decided.
const configuration = "configuration"

func (s *Service) add(ctx context.Context, c *Campaign) (Campaign, error) {
	err := s.store.Atomic(ctx, func(ctx context.Context) error { return s.store.AddCampaign(ctx, *c) })
	if err != nil {
		return Campaign{}, err
	}
	s.log.InfoContext(ctx, "campaign created", "tenant", c.Tenant, "campaign", c.ID, "kind", string(c.Kind), "reason", string(c.Reason), "state", string(c.State), "by", c.CreatedBy)
	return *c, nil
}

// start is the state of a campaign that may begin.
func (c *Campaign) start(now time.Time) {
	c.Active = true
	if c.State = Running; c.Schedule.Phase(now) == rollout.Before {
		c.State = Scheduled
	}
}

// over tells whether a campaign is for more devices than one person may decide about.
func (s *Service) over(ctx context.Context, tenant string, spec *Spec) (bool, error) {
	grave, _ := s.cfg.Actions[spec.Kind].(Grave)
	if s.cfg.OnePerson || spec.Continuous || grave != nil && grave.AlwaysTwo() {
		return !s.cfg.OnePerson, nil
	}
	n, after := int64(0), ""
	for {
		list, upTo, err := s.look(ctx, tenant, spec, after)
		if err != nil {
			return false, err
		}
		if n += int64(len(list)); s.cfg.TwoPeopleOver <= 0 || n > s.cfg.TwoPeopleOver {
			return true, nil
		}
		if after = upTo; after == "" {
			return false, nil
		}
	}
}

// look gives the next targets after a folded name, see [jobs.Look].
func (s *Service) look(ctx context.Context, tenant string, spec *Spec, after string) ([]fleet.ThingName, string, error) {
	many, things := spec.sources()
	return jobs.Look(ctx, func(ctx context.Context, source string, after fleet.ThingName, limit int) ([]fleet.ThingName, error) {
		return s.cfg.Targets.Things(ctx, tenant, source, after, limit)
	}, many, things, after)
}

// change changes a campaign's row for a person; by is empty where the state stays.
func (s *Service) change(ctx context.Context, tenant, id, by, what string, f func(c *Campaign, now time.Time) error) (c Campaign, err error) {
	scope := access.Scope{Tenant: tenant}
	for range maxTries {
		err = s.store.Atomic(ctx, func(ctx context.Context) error {
			if c, err = s.store.Campaign(ctx, scope, id); err != nil {
				return err
			}
			was, now := c.Version, s.clock()
			if c.Version, c.UpdatedAt = was+1, now; by != "" {
				c.By = by
			}
			c.Node, c.Lease = "", time.Time{} // whoever is at it begins anew
			if err := f(&c, now); err != nil {
				return err
			}
			return s.store.PutCampaign(ctx, c, was)
		})
		if !errors.Is(err, ErrChanged) {
			break
		}
	}
	if err != nil {
		return Campaign{}, err
	}
	if what != "" {
		s.log.InfoContext(ctx, "campaign changed", "tenant", tenant, "campaign", id, "change", what, "state", string(c.State), "by", by)
	}
	return c, nil
}

const maxTries = 16

func (c *Campaign) must(states ...State) error {
	if !slices.Contains(states, c.State) {
		return ErrState.New("It is %s.", c.State)
	}
	return nil
}

// Asked notes the approval request of a campaign that waits for a second person.
func (s *Service) Asked(ctx context.Context, tenant, id, request string) (Campaign, error) {
	return s.change(ctx, tenant, id, "", "approval asked for", func(c *Campaign, _ time.Time) error {
		c.Request = request
		return c.must(AwaitingApproval)
	})
}

// Approve lets a campaign begin. The caller sees to it that by is another person
// than who asked for it; hash says what they saw ([Campaign.Hash]). It joins the
// transaction of ctx, which may be one that is only tried.
func (s *Service) Approve(ctx context.Context, tenant, id, hash, by string) (Campaign, error) {
	return s.change(ctx, tenant, id, by, "", func(c *Campaign, now time.Time) error {
		if err := c.must(AwaitingApproval); err != nil {
			return err
		}
		if c.Hash() != hash {
			return ErrApproval.New("%s.", c.ID)
		}
		c.Approved, c.ApprovedBy, c.Code, c.Detail = true, by, "", ""
		c.start(now)
		return nil
	})
}

// Pause has nobody begin any more: what is offered and not begun is taken back.
// Devices that began go on.
func (s *Service) Pause(ctx context.Context, tenant, id, by string) (Campaign, error) {
	return s.change(ctx, tenant, id, by, "paused", func(c *Campaign, _ time.Time) error {
		err := c.must(Running, Scheduled)
		c.State, c.Code, c.Detail = Paused, "", ""
		return err
	})
}

// Resume goes on with a campaign that was paused or stopped itself. What went wrong
// up to now is forgiven: thresholds count from here.
func (s *Service) Resume(ctx context.Context, tenant, id, by string) (Campaign, error) {
	return s.change(ctx, tenant, id, by, "resumed", func(c *Campaign, now time.Time) error {
		err := c.must(Paused, Stopped)
		if c.State == Stopped {
			c.Forgiven, c.Waived = c.Counts.Tally(), c.Stage+1
		}
		c.Code, c.Detail = "", ""
		c.start(now)
		return err
	})
}

// Cancel ends a campaign: nobody begins any more, and those who began still end.
func (s *Service) Cancel(ctx context.Context, tenant, id, by, words string) (Campaign, error) {
	return s.change(ctx, tenant, id, by, "cancelled", func(c *Campaign, _ time.Time) error {
		err := c.must(AwaitingApproval, Scheduled, Running, Paused, Stopped, RollingBack)
		c.State, c.Active, c.Code, c.Detail = Canceled, true, "canceled", clip(words)
		return err
	})
}

// Rollback undoes what a campaign changed: each device that began is told to, and
// then the service undoes its own side.
func (s *Service) Rollback(ctx context.Context, tenant, id, by, words string) (Campaign, error) {
	return s.change(ctx, tenant, id, by, "rolled back", func(c *Campaign, _ time.Time) error {
		err := c.must(Running, Paused, Stopped, Completed, Canceled)
		if err == nil && c.RolledBack {
			err = ErrState.New("It was rolled back.")
		}
		if !c.Turned {
			c.Cursor = ""
		}
		c.State, c.Active, c.Code, c.Detail, c.FinishedAt = RollingBack, true, "rolled-back", clip(words), time.Time{}
		return err
	})
}

func clip(s string) string {
	if len(s) > maxWords {
		s = s[:maxWords]
	}
	return strings.ToValidUTF8(s, "")
}

// Heard tells the engine of a change of an execution: [jobs.Config.Changed]. It joins
// the transaction of that change.
func (s *Service) Heard(ctx context.Context, e *jobs.Execution) error {
	id, ours := strings.CutPrefix(e.Job, jobPrefix)
	if !ours {
		return nil
	}
	return s.store.LookAt(ctx, access.Scope{Tenant: e.Tenant}, strings.TrimSuffix(id, undoSuffix), e.Thing, s.clock())
}

// ensure makes the job of a campaign, once, and tells whether its devices are told
// anything.
func (s *Service) ensure(ctx context.Context, c *Campaign, a Action, undo bool) (bool, error) {
	id := c.Job(undo)
	key := c.Tenant + "/" + id
	s.mu.Lock()
	told, known := s.told[key]
	s.mu.Unlock()
	if known {
		return told, nil
	}
	_, err := s.cfg.Jobs.Job(ctx, c.Tenant, id)
	told = err == nil
	if errors.Is(err, jobs.ErrJobUnknown) {
		var document string
		if document, err = a.Document(ctx, c, undo); err != nil {
			return false, err
		}
		if told = document != ""; told {
			_, err = s.cfg.Jobs.OpenFor(ctx, c.Tenant, id, c.ID, document, fmt.Sprintf("campaign %s: %s, %s", c.ID, c.Kind, c.Reason))
		}
	}
	if err != nil {
		return false, err
	}
	s.mu.Lock()
	s.told[key] = told
	s.mu.Unlock()
	return told, nil
}

// finished forgets and closes the jobs of a campaign that is over.
func (s *Service) finished(ctx context.Context, c *Campaign) {
	for _, undo := range []bool{false, true} {
		id := c.Job(undo)
		s.mu.Lock()
		delete(s.told, c.Tenant+"/"+id)
		s.mu.Unlock()
		if err := s.cfg.Jobs.CloseFor(ctx, c.Tenant, id); err != nil && !errors.Is(err, jobs.ErrJobUnknown) {
			s.log.WarnContext(ctx, "the job of a campaign was not closed", "tenant", c.Tenant, "job", id, "error", err)
		}
	}
}
