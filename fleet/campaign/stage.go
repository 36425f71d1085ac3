package campaign

import (
	"context"
	"errors"
	"fmt"
	"math"
	"time"

	"hallmark/fleet"
	"hallmark/fleet/jobs"
	"hallmark/fleet/rollout"
)

func sayThreshold(c rollout.AbortCriterion, t rollout.Tally) string {
	return fmt.Sprintf("Of %d devices that ended %d failed, %d rejected it, %d timed out and %d fell silent: %s reached %g %%.",
		t.Executed(), t.Failed, t.Rejected, t.TimedOut, t.Silent, c.FailureType, c.Percentage)
}

// looks tells whether targets have to be looked at.
func (c *Campaign) looks(now time.Time, sweep time.Duration) bool {
	if !c.Enumerated || c.Cursor != "" {
		return true
	}
	return c.Continuous && (len(c.Targets) > 0 || c.Query != "") && (now.Sub(c.SweptAt) >= sweep || now.Before(c.SweptAt))
}

// enumerate looks at the next targets: who wants the change becomes a member. The
// cursor moves in the same transaction, so that a kill leaves nobody out and nobody
// in twice.
func (s *Service) enumerate(ctx context.Context, c *Campaign, a Action, now time.Time) error {
	if err := s.hold(ctx, c, now); err != nil {
		return err
	}
	things, upTo, err := s.look(ctx, c.Tenant, &c.Spec, c.Cursor)
	if err != nil {
		return err
	}
	// A page of things is several transactions; the last one ends the page's range.
	for {
		n := min(len(things), s.page())
		end := upTo
		if n < len(things) {
			end = things[n-1].Fold()
		}
		if err := s.enlist(ctx, c, a, things[:n], end, now); err != nil {
			return err
		}
		if c.Cursor == "" {
			return nil
		}
		// Not simply those after n: enlist may have ended its range sooner.
		for len(things) > 0 && things[0].Fold() <= c.Cursor {
			things = things[1:]
		}
		if len(things) == 0 {
			return nil
		}
	}
}

// enlist compares things with the members in the range from the cursor up to end.
func (s *Service) enlist(ctx context.Context, c *Campaign, a Action, things []fleet.ThingName, end string, now time.Time) error {
	have, err := s.store.CampaignMembers(ctx, c.scope(), c.ID, MemberQuery{After: c.Cursor, UpTo: end, Limit: 4 * batch})
	if err != nil {
		return err
	}
	if len(have) == 4*batch { // there may be more: the range ends with what was read
		end = have[len(have)-1].Thing.Fold()
		for len(things) > 0 && things[len(things)-1].Fold() > end {
			things = things[:len(things)-1]
		}
	}
	canary, err := s.canaries(ctx, c, end)
	if err != nil {
		return err
	}
	known := make(map[string]Member, len(have))
	for _, m := range have {
		known[m.Thing.Fold()] = m
	}
	var moves []move
	for _, t := range things {
		m := known[t.Fold()]
		delete(known, t.Fold())
		v, ok, err := s.consider(ctx, c, a, t, m, canary[t.Fold()], now)
		if err != nil {
			return err
		}
		if ok {
			moves = append(moves, v)
		}
	}
	for _, m := range known {
		if c.Continuous && m.State == Waiting && (len(c.Targets) > 0 || c.Query != "") {
			moves = append(moves, become(m, Skipped, now, func(m *Member) { m.Code, m.Detail = "left", "It is no target any more." }))
		}
	}
	next := *c
	if next.Cursor = end; end == "" {
		// The pause begins with the end: a sweep that takes longer than the pause would
		// otherwise be followed by the next one, and nobody would be offered anything.
		next.Enumerated, next.SweptAt = true, now
		if grown := c.Counts.Of() - c.Counts.In(-1, Skipped) + int64(len(moves)); !c.Continuous && !s.cfg.OnePerson && c.ApprovedBy == "" && grown > s.cfg.TwoPeopleOver {
			// It was for few devices when it was made.
			next.State, next.Approved, next.Active = AwaitingApproval, false, false
			next.Code, next.Detail = "grown", fmt.Sprintf("It is for %d devices by now.", grown)
		}
	}
	err = s.store.Atomic(ctx, func(ctx context.Context) error {
		if err := s.put(ctx, c, &next, now); err != nil {
			return err
		}
		return s.write(ctx, c, moves)
	})
	if err != nil {
		return err
	}
	*c = next
	for _, v := range moves { // good enough until the counts are read again
		if v.m.State == v.was.State {
			continue
		}
		c.Counts = c.Counts.add(v.m.Stage, v.m.State, 1)
	}
	if c.State != Running {
		return ErrChanged.New("")
	}
	return nil
}

// consider tells what a target is to become; nothing, if it is a member that is
// under way, or one of a campaign that was once and does not want it again.
func (s *Service) consider(ctx context.Context, c *Campaign, a Action, t fleet.ThingName, m Member, canary bool, now time.Time) (move, bool, error) {
	isNew := m.Version == 0
	place, _ := spread(c.Tenant, c.ID, t, canary)
	if c.Continuous && m.State == Waiting && m.Stage < 0 && m.Place != place { // the canary is another group by now
		return become(m, Waiting, now, func(m *Member) { m.Place = place }), true, nil
	}
	if !isNew && (!c.Continuous || m.State != Done && m.State != Skipped && !m.State.Bad()) {
		return move{}, false, nil
	}
	w, err := a.Wants(ctx, c, t)
	if err != nil {
		s.Errors.Add(1)
		return move{}, false, err
	}
	if w.Skip != "" && c.Continuous {
		return move{}, false, nil // a fleet would be rows of those who want nothing
	}
	if m.State.Bad() && w.Before == m.Before {
		return move{}, false, nil // see bringBack
	}
	if isNew {
		m = Member{Tenant: c.Tenant, Campaign: c.ID, Thing: t}
	}
	to := Waiting
	if w.Skip != "" {
		to = Skipped
	}
	v := become(m, to, now, func(m *Member) {
		m.Thing, m.Stage, m.Place, m.NotBefore, m.Before, m.After, m.Code, m.Detail = t, -1, place, time.Time{}, w.Before, "", w.Skip, w.Words
	})
	return v, true, nil
}

// canaries are the canary group's things from the cursor up to end.
func (s *Service) canaries(ctx context.Context, c *Campaign, end string) (map[string]bool, error) {
	if c.Canary == "" {
		return nil, nil
	}
	out, after := map[string]bool{}, fleet.ThingName(c.Cursor)
	for {
		list, err := s.cfg.Targets.Things(ctx, c.Tenant, aGroup+c.Canary, after, 500)
		if err != nil {
			return nil, err
		}
		for _, t := range list {
			if end != "" && t.Fold() > end {
				return out, nil
			}
			out[t.Fold()] = true
		}
		if len(list) < 500 {
			return out, nil
		}
		after = list[len(list)-1]
	}
}

// Feed adds things to a continuous campaign that has no targets; those that do not
// want the change, and those that are under way, are left out. It gives how many were
// added.
func (s *Service) Feed(ctx context.Context, tenant, id string, things []fleet.ThingName) (added int, err error) {
	things = once(things)
	for len(things) > 0 {
		n := min(len(things), batch)
		k := 0
		for range maxTries {
			if k, err = s.feed(ctx, tenant, id, things[:n]); !errors.Is(err, ErrChanged) {
				break // else one of them was drawn meanwhile
			}
		}
		if added += k; err != nil {
			return added, err
		}
		things = things[n:]
	}
	return added, nil
}

// once gives each thing once: one with two certificates that end soon is fed twice, and
// is one member.
func once(things []fleet.ThingName) []fleet.ThingName {
	out, known := make([]fleet.ThingName, 0, len(things)), make(map[string]bool, len(things))
	for _, t := range things {
		if f := t.Fold(); !known[f] {
			known[f] = true
			out = append(out, t)
		}
	}
	return out
}

func (s *Service) feed(ctx context.Context, tenant, id string, things []fleet.ThingName) (added int, err error) {
	now := s.clock()
	var c Campaign
	c.Tenant = tenant
	c, err = s.store.Campaign(ctx, c.scope(), id)
	if err != nil {
		return 0, err
	}
	if !c.Continuous || len(c.Targets) > 0 || c.Query != "" || c.State.Ended() || c.State == RollingBack {
		return 0, ErrState.New("Only a continuous campaign without targets that goes on is fed.")
	}
	a, err := s.action(c.Kind)
	if err != nil {
		return 0, err
	}
	var canary map[string]bool
	if c.Canary != "" {
		all := c
		all.Cursor = ""
		if canary, err = s.canaries(ctx, &all, ""); err != nil {
			return 0, err
		}
	}
	var moves []move
	for _, t := range things {
		m, err := s.store.Member(ctx, c.scope(), id, t)
		if err != nil && !isNoMember(err) {
			return 0, err
		}
		v, ok, err := s.consider(ctx, &c, a, t, m, canary[t.Fold()], now)
		if err != nil {
			return 0, err
		}
		if ok {
			moves = append(moves, v)
		}
		if ok && v.m.State != m.State {
			added++
		}
	}
	if len(moves) == 0 {
		return 0, nil
	}
	if err := s.store.Atomic(ctx, func(ctx context.Context) error { return s.write(ctx, &c, moves) }); err != nil {
		return 0, err
	}
	return added, nil
}

// advance draws a stage's devices, offers to those whose time has come, and passes
// the gate to the next stage.
func (s *Service) advance(ctx context.Context, c *Campaign, a Action, now time.Time) (more bool, err error) {
	plan := c.Plan()
	last := c.Stage >= len(plan)-1
	if c.StageStarted.IsZero() {
		return true, s.turn(ctx, c, now, func(c *Campaign) { c.StageStarted, c.StageEnded, c.Drawn = now, time.Time{}, false })
	}
	if !c.Drawn {
		if more, err = s.draw(ctx, c, plan, now); err != nil || more {
			return more, err
		}
	}
	if more, err = s.offer(ctx, c, a, now); err != nil || more {
		return more, err
	}
	return s.gate(ctx, c, plan, last, now)
}

// draw gives a stage its devices, in the order of their places.
func (s *Service) draw(ctx context.Context, c *Campaign, plan []Stage, now time.Time) (more bool, err error) {
	last := c.Stage >= len(plan)-1
	total := c.Counts.Of() - c.Counts.In(-1, Skipped)
	below, want := int64(math.MaxInt64), int64(s.page())
	if c.Canary != "" && c.Stage == 0 {
		below = 0
	} else {
		drawn := total - c.Counts.In(-1) + c.Counts.In(-1, Skipped)
		want = min(want, quota(plan, c.Stage, total)-drawn)
	}
	var list []Member
	if want > 0 {
		if list, err = s.store.Undrawn(ctx, c.scope(), c.ID, below, int(want)); err != nil {
			return false, err
		}
	}
	if len(list) == 0 {
		// A continuous campaign draws on: in its last stage for ever, and before until
		// the stage has somebody; but not while others wait that the stage is not for.
		if c.Continuous && (last || c.Counts.In(c.Stage) == 0 && c.Counts.In(-1, Waiting) == 0) {
			return false, nil
		}
		return true, s.turn(ctx, c, now, func(c *Campaign) { c.Drawn = true })
	}
	moves := make([]move, 0, len(list))
	for _, m := range list {
		_, jitter := spread(c.Tenant, c.ID, m.Thing, false)
		start := c.StageStarted
		if c.Continuous && last {
			start = m.Since
		}
		at := c.jittered(start, jitter)
		zone, err := s.zone(ctx, c, m.Thing)
		if err != nil {
			return false, err
		}
		at = opening(&c.Schedule, zone, at)
		moves = append(moves, become(m, Waiting, now, func(m *Member) { m.Stage, m.NotBefore = c.Stage, at }).at(at))
	}
	next := *c
	err = s.store.Atomic(ctx, func(ctx context.Context) error {
		if err := s.put(ctx, c, &next, now); err != nil {
			return err
		}
		return s.write(ctx, c, moves)
	})
	if err == nil {
		*c = next
	}
	return true, err
}

// zone is where a device's windows are read; UTC if nobody knows.
func (s *Service) zone(ctx context.Context, c *Campaign, t fleet.ThingName) (*time.Location, error) {
	if c.ZoneAttribute == "" || len(c.Schedule.Windows) == 0 || s.cfg.Attribute == nil {
		return time.UTC, nil
	}
	name, err := s.cfg.Attribute(ctx, c.scope(), t, c.ZoneAttribute)
	if err != nil || name == "" || name == "Local" {
		return time.UTC, err
	}
	zone, err := time.LoadLocation(name)
	if err != nil {
		s.log.DebugContext(ctx, "a device's zone is not known, so it is UTC", "tenant", c.Tenant, "thing", t, "zone", name)
		return time.UTC, nil
	}
	return zone, nil
}

// notified is how many devices were offered the change.
func (c *Campaign) notified() int64 {
	return c.Counts.Of() - c.Counts.Of(Waiting, Skipped)
}

// offer tells as many devices as the rate allows. The campaign's row, the members
// and the executions of the job change in one transaction: nobody is offered an
// attempt twice, and nobody is offered one in a campaign that was paused meanwhile.
func (s *Service) offer(ctx context.Context, c *Campaign, a Action, now time.Time) (more bool, err error) {
	n := min(c.Window.Allow(now, c.Rate.PerMinute(c.notified(), c.Counts.Of(Soaking, Done))), s.page())
	if n == 0 {
		return false, nil
	}
	due, err := s.store.DueMembers(ctx, c.scope(), c.ID, Waiting, now, n)
	if err != nil || len(due) == 0 {
		return false, err
	}
	told, err := s.ensure(ctx, c, a, false)
	if err != nil {
		return false, err
	}
	var moves []move
	var list []jobs.Enlisted
	for _, m := range due {
		zone, err := s.zone(ctx, c, m.Thing)
		if err != nil {
			return false, err
		}
		if at := opening(&c.Schedule, zone, now); at.After(now) {
			moves = append(moves, become(m, Waiting, now, func(m *Member) { m.NotBefore = at }).at(at))
			continue
		}
		w, err := a.Wants(ctx, c, m.Thing)
		switch {
		case err != nil:
			s.failed(ctx, c, &m, "wants", err)
			moves = append(moves, become(m, Waiting, now, nil).at(now.Add(5*lookSoon)))
		case w.Skip != "":
			moves = append(moves, become(m, Skipped, now, func(m *Member) { m.Code, m.Detail = w.Skip, w.Words }))
		case told:
			v := become(m, Offered, now, func(m *Member) { m.Attempt, m.Offered, m.Began, m.Before = m.Attempt+1, now, time.Time{}, w.Before })
			moves = append(moves, v.at(now.Add(c.remindFirst())))
			list = append(list, jobs.Enlisted{Thing: m.Thing, Number: m.Attempt + 1})
		default:
			v := become(m, Proving, now, func(m *Member) { m.Attempt, m.Offered, m.Began, m.Before = m.Attempt+1, now, now, w.Before })
			moves = append(moves, v.at(now))
		}
	}
	next := *c
	next.Window.Batches = append([]rollout.Batch(nil), c.Window.Batches...)
	offered := 0
	for _, v := range moves {
		if v.m.State == Offered || v.m.State == Proving {
			offered++
		}
	}
	next.Window.Add(now, offered)
	with := func(ctx context.Context) error {
		if err := s.put(ctx, c, &next, now); err != nil {
			return err
		}
		return s.write(ctx, c, moves)
	}
	if len(list) > 0 {
		err = s.cfg.Jobs.Enlist(ctx, c.scope(), c.Job(false), list, with)
	} else {
		err = s.store.Atomic(ctx, with)
	}
	if err == nil {
		*c = next
		s.Offers.Add(int64(offered))
	}
	return true, err
}

// failed notes that an Action could not be asked.
func (s *Service) failed(ctx context.Context, c *Campaign, m *Member, what string, err error) {
	s.Errors.Add(1)
	s.log.WarnContext(ctx, "a campaign's action could not be asked; it is asked again", "tenant", c.Tenant, "campaign", c.ID, "thing", m.Thing, "what", what, "error", err)
}

// gate passes to the next stage when the stage has ended and was watched, and ends
// the campaign after the last one.
func (s *Service) gate(ctx context.Context, c *Campaign, plan []Stage, last bool, now time.Time) (more bool, err error) {
	n, total := c.Counts.In(c.Stage), c.Counts.Of()-c.Counts.In(-1, Skipped)
	if last {
		if c.Continuous || !c.Drawn || c.Counts.Of(Waiting, Offered, Asleep, Working, Proving, Soaking) > 0 {
			return false, nil
		}
		s.finished(ctx, c)
		return false, s.turn(ctx, c, now, func(c *Campaign) { c.State, c.Active, c.FinishedAt, c.By = Completed, false, now, "" })
	}
	if !c.Drawn {
		return false, nil
	}
	if c.Counts.In(c.Stage, Waiting, Offered, Working, Proving) > 0 {
		if c.StageEnded.IsZero() {
			return false, nil
		}
		return false, s.turn(ctx, c, now, func(c *Campaign) { c.StageEnded = time.Time{} }) // a sleeper began
	}
	if c.Waived <= c.Stage {
		canary := c.Canary != "" && c.Stage == 0
		switch proven, asleep := c.Counts.In(c.Stage, Soaking, Done), c.Counts.In(c.Stage, Asleep); {
		case canary && n == 0 && total > 0:
			return true, s.stop(ctx, c, now, "canary-empty", "No device of the canary group is one of the campaign's that want the change. Resume it to go on without.")
		case n == c.Counts.In(c.Stage, Skipped) || proven > 0:
		case asleep > 0:
			return false, nil // what nobody has shown to work does not go on
		default:
			return true, s.stop(ctx, c, now, "nobody-proven", "No device of the stage was proven.")
		}
	}
	if c.StageEnded.IsZero() {
		return true, s.turn(ctx, c, now, func(c *Campaign) { c.StageEnded = now })
	}
	if now.Before(c.StageEnded.Add(plan[c.Stage].Watch)) {
		return false, nil
	}
	s.log.InfoContext(ctx, "campaign goes to its next stage", "tenant", c.Tenant, "campaign", c.ID, "stage", plan[c.Stage+1].Name)
	return true, s.turn(ctx, c, now, func(c *Campaign) {
		c.Stage++
		c.StageStarted, c.StageEnded, c.Drawn = time.Time{}, time.Time{}, false
	})
}
