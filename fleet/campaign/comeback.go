package campaign

import (
	"context"
	"fmt"
	"time"
)

// A continuous campaign is for ever, so a device that did not make it is asked again
// later: a certificate that ends does not wait for a person. The time between two
// attempts grows, and after a number of them the device is left to people, until there
// is something else to change (another certificate, another version).

// askedAgain is the code of a device that waits because it is asked again.
const askedAgain = "asked-again"

// bad are the states in which a change went wrong.
var bad = []MemberState{Failed, Rejected, TimedOut, Silent}

// backAfter is how long after its n-th failure in a row a device is asked again.
func backAfter(n int) time.Duration {
	wait := backSoon
	for i := 1; i < n && wait < backLate; i++ {
		wait *= 4
	}
	return min(wait, backLate)
}

// failures counts how often in a row a device did not make the change that it is in.
func (s *Service) failures(ctx context.Context, c *Campaign, m *Member) (n int, err error) {
	var after Step
	for {
		list, err := s.store.Steps(ctx, c.scope(), m.Thing, after, MaxPage)
		if err != nil {
			return 0, err
		}
		for _, step := range list {
			after = step
			switch {
			case step.Campaign != c.ID:
			case step.State == Done || step.State == Soaking || step.State == Skipped || step.Before != m.Before:
				n = 0
			case step.State.Bad():
				n++
			}
		}
		if len(list) < MaxPage {
			return n, nil
		}
	}
}

// comesBack says of a move to a bad state when the device is asked again.
func (s *Service) comesBack(ctx context.Context, c *Campaign, v move, now time.Time) (move, error) {
	if !c.Continuous || v.m.Code == "job-gone" { // without its job's attempts there is no next one
		return v, nil
	}
	before, err := s.failures(ctx, c, &v.was)
	if err != nil {
		return v, err
	}
	n := before + 1
	words := fmt.Sprintf("Failure %d in a row; it is not asked again.", n)
	if n < maxFailures {
		next := now.Add(backAfter(n))
		v = v.at(next)
		words = fmt.Sprintf("Failure %d in a row; it is asked again from %s.", n, next.Format(time.RFC3339))
	}
	if v.m.Detail != "" {
		words = " " + words
	}
	v.m.Detail = clip(v.m.Detail[:min(len(v.m.Detail), maxWords-len(words))]) + words
	return v, nil
}

// bringBack has the next of those that failed wait for their turn again, where they
// still want the change: windows, rate, jitter and thresholds are as for all.
func (s *Service) bringBack(ctx context.Context, c *Campaign, a Action, now time.Time) (more bool, err error) {
	if !c.Continuous {
		return false, nil
	}
	for _, state := range bad {
		if c.Counts.Of(state) == 0 {
			continue
		}
		due, err := s.store.DueMembers(ctx, c.scope(), c.ID, state, now, s.page())
		if err != nil {
			return false, err
		}
		if len(due) > 0 {
			return true, s.askAgain(ctx, c, a, due, now)
		}
	}
	return false, nil
}

func (s *Service) askAgain(ctx context.Context, c *Campaign, a Action, due []Member, now time.Time) error {
	moves := make([]move, 0, len(due))
	for _, m := range due {
		n, err := s.failures(ctx, c, &m)
		if err != nil {
			return err
		}
		if at := m.Since.Add(backAfter(n)); n < maxFailures && at.After(now) { // somebody looked early
			moves = append(moves, become(m, m.State, now, nil).at(at))
			continue
		}
		w, err := a.Wants(ctx, c, m.Thing)
		switch {
		case err != nil:
			s.failed(ctx, c, &m, "wants", err)
			moves = append(moves, become(m, m.State, now, nil).at(now.Add(5*lookSoon)))
		case w.Skip != "":
			moves = append(moves, become(m, Skipped, now, func(m *Member) { m.Code, m.Detail = w.Skip, w.Words }))
		case n >= maxFailures && w.Before == m.Before:
			moves = append(moves, become(m, m.State, now, nil)) // left to people
		default:
			zone, err := s.zone(ctx, c, m.Thing)
			if err != nil {
				return err
			}
			if w.Before != m.Before { // there is another thing to change by now
				n = 0
			}
			_, jitter := spread(c.Tenant, c.ID, m.Thing, false)
			at := opening(&c.Schedule, zone, c.jittered(now, jitter))
			words := fmt.Sprintf("Attempt %d of %d, after %s (%s).", n+1, maxFailures, m.State, m.Code)
			moves = append(moves, become(m, Waiting, now, func(m *Member) {
				m.NotBefore, m.Code, m.Detail, m.Before, m.After = at, askedAgain, words, w.Before, ""
			}).at(at))
		}
	}
	var leaving Counts // what they do now counts, whether it was forgiven before or not
	for _, v := range moves {
		if v.m.State != v.was.State {
			leaving = leaving.add(v.was.Stage, v.was.State, 1)
		}
	}
	next := *c
	next.Forgiven = c.Forgiven.Minus(leaving.Tally())
	err := s.store.Atomic(ctx, func(ctx context.Context) error {
		if err := s.put(ctx, c, &next, now); err != nil {
			return err
		}
		return s.write(ctx, c, moves)
	})
	if err == nil {
		*c = next
	}
	return err
}
