package campaign

import (
	"context"
	"time"

	"hallmark/fleet"
	"hallmark/fleet/jobs"
)

// takeBack withdraws what was offered and nobody has begun: in a campaign that does
// not run nobody begins.
func (s *Service) takeBack(ctx context.Context, c *Campaign, now time.Time) (more bool, err error) {
	if c.Counts.Of(Offered, Asleep) == 0 {
		return false, nil
	}
	for _, state := range []MemberState{Offered, Asleep} {
		list, err := s.store.CampaignMembers(ctx, c.scope(), c.ID, MemberQuery{State: state, Limit: s.page()})
		if err != nil {
			return false, err
		}
		if len(list) == 0 {
			continue
		}
		if err := s.hold(ctx, c, now); err != nil {
			return false, err
		}
		return true, s.cfg.Jobs.Withdraw(ctx, c.scope(), c.Job(false), numbers(list), false, func(ctx context.Context, was map[fleet.ThingName]jobs.Status) error {
			moves := make([]move, 0, len(list))
			for _, m := range list {
				v := become(m, m.State, now, nil).at(now) // it has begun: see follow
				if was[m.Thing] != "" {
					v = become(m, Waiting, now, func(m *Member) { m.Code, m.Detail = "taken-back", "The campaign is "+string(c.State)+"." }).at(now)
				}
				moves = append(moves, v)
			}
			return s.write(ctx, c, moves)
		})
	}
	return false, nil
}

func numbers(list []Member) []jobs.Enlisted {
	out := make([]jobs.Enlisted, len(list))
	for i := range list {
		out[i] = jobs.Enlisted{Thing: list[i].Thing, Number: list[i].Attempt}
	}
	return out
}

// rollBack looks once at every member to see what has to be undone, and then has it
// undone at the campaign's rate.
func (s *Service) rollBack(ctx context.Context, c *Campaign, a Action, now time.Time) (more bool, err error) {
	if !c.Turned {
		return true, s.turnBack(ctx, c, a, now)
	}
	if more, err = s.follow(ctx, c, a, now); err != nil || more {
		return more, err
	}
	if more, err = s.offerUndo(ctx, c, a, now); err != nil || more {
		return more, err
	}
	if c.Counts.Of(Returning, Undoing) > 0 {
		return false, nil
	}
	s.finished(ctx, c)
	return false, s.turn(ctx, c, now, func(c *Campaign) { c.State, c.Active, c.RolledBack, c.FinishedAt = Canceled, false, true, now })
}

// turnBack looks at the next members: those that began are to be undone, what others
// were offered is taken back.
func (s *Service) turnBack(ctx context.Context, c *Campaign, a Action, now time.Time) error {
	list, err := s.store.CampaignMembers(ctx, c.scope(), c.ID, MemberQuery{After: c.Cursor, Limit: s.page()})
	if err != nil {
		return err
	}
	next := *c
	if next.Turned, next.Cursor = len(list) == 0, ""; len(list) > 0 {
		next.Cursor = list[len(list)-1].Thing.Fold()
	}
	var back []Member
	keeps := map[fleet.ThingName]bool{}
	for i := range list {
		switch m := &list[i]; m.State {
		case Offered, Asleep, Working:
			back = append(back, *m)
		case Done:
			r, ok := a.(Reverser)
			if ok {
				if ok, err = r.Reversible(ctx, c, m); err != nil {
					s.Errors.Add(1)
					return err
				}
			}
			keeps[m.Thing] = !ok
		}
	}
	err = s.cfg.Jobs.Withdraw(ctx, c.scope(), c.Job(false), numbers(back), true, func(ctx context.Context, was map[fleet.ThingName]jobs.Status) error {
		if err := s.put(ctx, c, &next, now); err != nil {
			return err
		}
		var moves []move
		for _, m := range list {
			switch m.State {
			case Offered, Asleep:
				if was[m.Thing] == jobs.Queued {
					moves = append(moves, become(m, Waiting, now, func(m *Member) { m.Code = "taken-back" }))
					continue
				}
			case Waiting:
				if m.Code != askedAgain || m.Began.IsZero() {
					if m.Stage >= 0 {
						moves = append(moves, become(m, Waiting, now, nil)) // its time does not come any more
					}
					continue
				}
			case Rejected, Skipped, Returning, Undoing, Undone:
				continue
			case Done:
				if keeps[m.Thing] {
					continue
				}
			default:
				if m.Began.IsZero() && m.State != Working {
					continue // it timed out before it began
				}
			}
			moves = append(moves, become(m, Returning, now, func(m *Member) { m.Code = "rolled-back" }).at(now))
		}
		return s.write(ctx, c, moves)
	})
	if err == nil {
		*c = next
	}
	return err
}

// offerUndo tells as many devices as the rate allows to take the change back.
func (s *Service) offerUndo(ctx context.Context, c *Campaign, a Action, now time.Time) (more bool, err error) {
	n := min(c.Window.Allow(now, c.Rate.PerMinute(c.Counts.Of(), c.Counts.Of())), s.page())
	if n == 0 {
		return false, nil
	}
	due, err := s.store.DueMembers(ctx, c.scope(), c.ID, Returning, now, n)
	if err != nil || len(due) == 0 {
		return false, err
	}
	told, err := s.ensure(ctx, c, a, true)
	if err != nil {
		return false, err
	}
	var moves []move
	var list []jobs.Enlisted
	for i := range due {
		m := &due[i]
		if told {
			moves = append(moves, become(*m, Undoing, now, func(m *Member) { m.Offered = now }).at(now.Add(c.remindFirst())))
			list = append(list, jobs.Enlisted{Thing: m.Thing, Number: 1})
			continue
		}
		if err := a.Undo(ctx, c, m); err != nil {
			s.failed(ctx, c, m, "undo", err)
			moves = append(moves, become(*m, Returning, now, nil).at(now.Add(5*lookSoon)))
			continue
		}
		moves = append(moves, become(*m, Undone, now, nil))
	}
	next := *c
	next.Window.Batches = append(next.Window.Batches[:0:0], c.Window.Batches...)
	next.Window.Add(now, len(due))
	with := func(ctx context.Context) error {
		if err := s.put(ctx, c, &next, now); err != nil {
			return err
		}
		return s.write(ctx, c, moves)
	}
	if len(list) > 0 {
		err = s.cfg.Jobs.Enlist(ctx, c.scope(), c.Job(true), list, with)
	} else {
		err = s.store.Atomic(ctx, with)
	}
	if err == nil {
		*c = next
	}
	return true, err
}

// undoing waits for a device to take the change back; then the service does its part.
func (w *watch) undoing(ctx context.Context) move {
	code, words := w.e.Details["code"], w.e.Details["message"]
	if code == "" {
		code = "device-failed"
	}
	from := latest(w.m.Offered, w.e.StartedAt)
	if w.r.Connected {
		from = latest(from, w.since)
	}
	deadline := from.Add(w.c.Timeout)
	switch {
	case w.e.Status == jobs.Succeeded:
		if err := w.a.Undo(ctx, w.c, w.m); err != nil {
			w.s.failed(ctx, w.c, w.m, "undo", err)
			return w.again()
		}
		return w.keep(Undone)
	case w.e.Status.Terminal() || w.e.Status == "":
		return w.to(Failed, "undo-"+code, words)
	case w.r.Connected && !w.now.Before(deadline):
		return w.to(Failed, "undo-timed-out", "It was told to take the change back and did not in time.")
	case !w.r.Connected:
		return w.keep(Undoing).at(w.now.Add(w.c.Timeout))
	case w.e.Status == jobs.Queued:
		return w.reminded(w.keep(Undoing), from, deadline)
	}
	return w.keep(Undoing).at(deadline)
}
