package campaign

import (
	"context"
	"errors"
	"time"

	"hallmark/fleet/rollout"
	"hallmark/internal/lane"
)

// Run steps until ctx ends. Several services may run at the same time.
func (s *Service) Run(ctx context.Context) error {
	tick := time.NewTicker(s.cfg.Every)
	defer tick.Stop()
	for {
		if err := s.Step(ctx, s.clock()); err != nil && ctx.Err() == nil {
			s.log.ErrorContext(ctx, "campaigns: step failed", "error", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
}

// Step does what is due at a time. What fails for one campaign does not hold up
// another.
func (s *Service) Step(ctx context.Context, now time.Time) error {
	ctx = lane.With(ctx, lane.Status)
	now = now.UTC().Truncate(time.Millisecond)
	var errs []error
	tenant, id := "", ""
	for {
		list, err := s.store.ActiveCampaigns(ctx, tenant, id, MaxPage)
		if err != nil || len(list) == 0 {
			return errors.Join(append(errs, err)...)
		}
		for _, c := range list {
			tenant, id = c.Tenant, c.ID
			if err := s.stepCampaign(ctx, c, now); err != nil && !errors.Is(err, ErrUnknown) {
				errs = append(errs, err)
			}
		}
	}
}

// stepCampaign does what is due for a campaign, one bounded transaction after the
// other. Between two of them the factory line gets its turn, if it works.
func (s *Service) stepCampaign(ctx context.Context, c Campaign, now time.Time) error {
	if c.Node != s.cfg.Node && now.Before(c.Lease) {
		return nil // another service is at it
	}
	a, err := s.action(c.Kind)
	if err != nil {
		return err
	}
	if v := c.Sample(now); c.changed(v) {
		if err := s.turn(ctx, &c, now, func(c *Campaign) { c.keep(v) }); err != nil {
			if errors.Is(err, ErrChanged) {
				return nil // somebody else is at it
			}
			return err
		}
	}
	for range maxRounds {
		start := time.Now()
		more, err := s.round(ctx, &c, a, now)
		if errors.Is(err, ErrChanged) {
			return nil // somebody else is at it
		}
		if err != nil || !more || ctx.Err() != nil {
			return err
		}
		if s.cfg.Yield() {
			select {
			case <-ctx.Done():
			case <-time.After(2 * time.Since(start)):
			}
		}
		if c, err = s.store.Campaign(ctx, c.scope(), c.ID); err != nil {
			return err
		}
	}
	return nil
}

// page is how many members one transaction may change.
func (s *Service) page() int {
	if s.cfg.Yield() {
		return busyBatch
	}
	return batch
}

// put writes a campaign's row as this service's, in a transaction. c is not changed:
// it is what was read.
func (s *Service) put(ctx context.Context, c, next *Campaign, now time.Time) error {
	next.Version, next.UpdatedAt, next.Node, next.Lease = c.Version+1, now, s.cfg.Node, now.Add(leaseTime)
	return s.store.PutCampaign(ctx, *next, c.Version)
}

// turn writes a change of the row alone.
func (s *Service) turn(ctx context.Context, c *Campaign, now time.Time, f func(c *Campaign)) error {
	next := *c
	f(&next)
	err := s.store.Atomic(ctx, func(ctx context.Context) error { return s.put(ctx, c, &next, now) })
	if err == nil {
		if next.State != c.State {
			s.log.InfoContext(ctx, "campaign changed its state", "tenant", c.Tenant, "campaign", c.ID, "state", string(next.State), "code", next.Code, "detail", next.Detail)
		}
		*c = next
	}
	return err
}

// hold makes the campaign this service's for a while, so that two do not ask an
// Action the same at once. What keeps them from doing the same is the versions.
func (s *Service) hold(ctx context.Context, c *Campaign, now time.Time) error {
	if c.Node == s.cfg.Node && now.Add(leaseTime/2).Before(c.Lease) {
		return nil
	}
	return s.turn(ctx, c, now, func(*Campaign) {})
}

// move is one member's next state, and when the loop looks at it next.
type move struct {
	was, m Member
	next   time.Time
	remind bool // the device of what it has to do, after the commit
}

// become makes a move to a state; a state that stays only changes the rest.
func become(was Member, to MemberState, now time.Time, f func(m *Member)) move {
	m := was
	if to != was.State {
		m.State, m.Since, m.Code, m.Detail = to, now, "", ""
	}
	if f != nil {
		f(&m)
	}
	m.Detail = clip(m.Detail)
	return move{was: was, m: m}
}

func (v move) at(next time.Time) move { v.next = next; return v }

// write writes moves, in a transaction.
func (s *Service) write(ctx context.Context, c *Campaign, moves []move) error {
	var by Counts
	for _, v := range moves {
		if v.m == v.was && v.was.Version > 0 {
			if err := s.store.LookAt(ctx, c.scope(), c.ID, v.m.Thing, v.next); err != nil {
				return err
			}
			continue
		}
		m := v.m
		m.Version = v.was.Version + 1
		log := v.was.Version == 0 || m.State != v.was.State
		if log {
			m.Steps++
		}
		if err := s.store.PutMember(ctx, m, v.next, log); err != nil {
			return err
		}
		if v.was.Version > 0 {
			by = by.add(v.was.Stage, v.was.State, -1)
		}
		by = by.add(m.Stage, m.State, 1)
	}
	if len(by) == 0 {
		return nil
	}
	return s.store.CountMembers(ctx, c.scope(), c.ID, by)
}

func (c Counts) add(stage int, state MemberState, n int64) Counts {
	for i := range c {
		if c[i].Stage == stage && c[i].State == state {
			c[i].Members += n
			return c
		}
	}
	return append(c, Count{stage, state, n})
}

// round does one bounded piece of what is due, and tells whether there may be more.
func (s *Service) round(ctx context.Context, c *Campaign, a Action, now time.Time) (more bool, err error) {
	switch c.State {
	case Scheduled:
		if c.Schedule.Phase(now) == rollout.Before {
			return false, nil
		}
		return true, s.turn(ctx, c, now, func(c *Campaign) { c.State = Running })
	case RollingBack:
		return s.rollBack(ctx, c, a, now)
	case AwaitingApproval, Completed:
		return false, s.turn(ctx, c, now, func(c *Campaign) { c.Active = false })
	}
	if more, err := s.follow(ctx, c, a, now); err != nil || more {
		return more, err // the counts are others now
	}
	if c.State != Running {
		if more, err := s.takeBack(ctx, c, now); err != nil || more || c.State != Canceled {
			return more, err
		}
		if c.Counts.Of(Offered, Asleep, Working, Proving, Soaking, Undoing) > 0 {
			return false, nil
		}
		s.finished(ctx, c)
		return false, s.turn(ctx, c, now, func(c *Campaign) { c.Active, c.FinishedAt = false, now })
	}
	if c.Schedule.Phase(now) == rollout.After {
		return true, s.turn(ctx, c, now, func(c *Campaign) {
			c.State, c.Code, c.Detail, c.By = Canceled, "schedule-ended", "The schedule ended.", ""
		})
	}
	if gone := c.Forgiven.Minus(c.Counts.Tally()); gone != (rollout.Tally{}) {
		// Some of those that were forgiven are asked again: what they do now counts.
		return true, s.turn(ctx, c, now, func(c *Campaign) { c.Forgiven = c.Forgiven.Minus(gone) })
	}
	if i, tally := c.threshold(); i >= 0 {
		return true, s.stop(ctx, c, now, "threshold", tally)
	}
	if c.looks(now, s.cfg.Sweep) {
		return true, s.enumerate(ctx, c, a, now)
	}
	if more, err := s.bringBack(ctx, c, a, now); err != nil || more {
		return more, err
	}
	return s.advance(ctx, c, a, now)
}

// stop has a campaign stop itself.
func (s *Service) stop(ctx context.Context, c *Campaign, now time.Time, code, words string) error {
	err := s.turn(ctx, c, now, func(c *Campaign) { c.State, c.Code, c.Detail, c.By = Stopped, code, words, "" })
	if err == nil {
		s.stopped(code)
	}
	return err
}

// threshold gives the first criterion that is reached, -1 if none is, and says it.
func (c *Campaign) threshold() (int, string) {
	t := c.Counted()
	i := c.Abort.Decide(t)
	if i < 0 {
		return i, ""
	}
	return i, sayThreshold(c.Abort.Criteria[i], t)
}
