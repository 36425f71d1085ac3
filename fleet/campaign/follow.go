package campaign

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"hallmark/fleet"
	"hallmark/fleet/jobs"
	"hallmark/internal/lane"
)

func isNoMember(err error) bool { return errors.Is(err, ErrNoMember) }

// open are the states in which a device has something to do, or is watched.
var open = []MemberState{Offered, Asleep, Working, Proving, Soaking, Undoing}

// follow looks at the devices that are due: how far their executions came, whether
// they are there, and what the Action thinks. more says that there were some.
func (s *Service) follow(ctx context.Context, c *Campaign, a Action, now time.Time) (more bool, err error) {
	for _, state := range open {
		due, err := s.store.DueMembers(ctx, c.scope(), c.ID, state, now, s.page())
		if err != nil {
			return false, err
		}
		if len(due) == 0 {
			continue
		}
		if err := s.hold(ctx, c, now); err != nil {
			return false, err
		}
		return true, s.followPage(ctx, c, a, due, state == Undoing, now)
	}
	return false, nil
}

func (s *Service) followPage(ctx context.Context, c *Campaign, a Action, due []Member, undo bool, now time.Time) error {
	number := func(m *Member) jobs.Enlisted {
		if undo {
			return jobs.Enlisted{Thing: m.Thing, Number: 1}
		}
		return jobs.Enlisted{Thing: m.Thing, Number: m.Attempt}
	}
	told, err := s.ensure(ctx, c, a, undo)
	if err != nil {
		return err
	}
	attempts := make([]jobs.Execution, len(due))
	list := make([]jobs.Enlisted, len(due))
	for i := range due {
		list[i] = number(&due[i])
	}
	if told {
		if attempts, err = s.cfg.Jobs.Attempts(ctx, c.scope(), c.Job(undo), list); err != nil {
			return err
		}
	}
	moves := make([]move, len(due))
	faults := make([]error, len(due))
	// What an Action does for a device may be a commit: several share one.
	var wg sync.WaitGroup
	turns := make(chan struct{}, lookers)
	for i := range due {
		turns <- struct{}{}
		wg.Go(func() {
			defer func() { <-turns }()
			moves[i], faults[i] = s.lookAt(ctx, c, a, &due[i], &attempts[i], told, now)
		})
	}
	wg.Wait()
	if err := errors.Join(faults...); err != nil {
		return err
	}
	var back []jobs.Enlisted
	for i, v := range moves {
		if v.m.State.Ended() && attempts[i].Status.Pending() && told {
			back = append(back, list[i]) // what has ended for us must not begin later
		}
	}
	var remind []fleet.ThingName
	err = s.cfg.Jobs.Withdraw(ctx, c.scope(), c.Job(undo), back, true, func(ctx context.Context, was map[fleet.ThingName]jobs.Status) error {
		latest := attempts
		if told && len(moves) > 0 {
			var err error
			if latest, err = s.cfg.Jobs.Attempts(ctx, c.scope(), c.Job(undo), list); err != nil {
				return err
			}
		}
		decided := make([]move, 0, len(moves))
		remind = remind[:0]
		for i, v := range moves {
			// The device was faster: look again. What it said since must not wait until
			// the time at which somebody would look otherwise.
			faster := latest[i].Version != attempts[i].Version
			if v.m.State.Ended() && attempts[i].Status.Pending() && told {
				faster = was[v.m.Thing] != attempts[i].Status
			}
			if faster {
				v = become(v.was, v.was.State, now, nil).at(now)
			}
			if v.remind {
				remind = append(remind, v.m.Thing)
			}
			decided = append(decided, v)
		}
		return s.write(ctx, c, decided)
	})
	if err == nil && len(remind) > 0 {
		s.cfg.Jobs.Remind(ctx, c.scope(), remind)
		s.Reminders.Add(int64(len(remind)))
	}
	return err
}

// lookAt is one look at one device: what becomes of it.
func (s *Service) lookAt(ctx context.Context, c *Campaign, a Action, m *Member, e *jobs.Execution, told bool, now time.Time) (move, error) {
	r, since, err := s.report(ctx, c, m, e, now)
	if err != nil {
		return move{}, err
	}
	w := watch{s: s, c: c, a: a, m: m, r: r, e: e, told: told, since: since, now: now}
	if l, ok := a.(Leaver); ok {
		switch code, words, err := l.Left(ctx, c, m.Thing); {
		case err != nil:
			s.failed(ctx, c, m, "left", err)
			return w.again(), nil
		case code != "":
			return w.to(Skipped, code, words), nil
		}
	}
	v := w.look(ctx)
	if !v.m.State.Bad() || m.State == Undoing {
		return v, nil
	}
	if l, ok := a.(Loser); ok {
		if err := l.Lost(ctx, c, m, v.m.State); err != nil {
			s.failed(ctx, c, m, "lost", err)
			return w.again(), nil
		}
	}
	return s.comesBack(ctx, c, v, now)
}

// report gathers what is known of a device. since is when it connected last, or when
// it was last there.
func (s *Service) report(ctx context.Context, c *Campaign, m *Member, e *jobs.Execution, now time.Time) (r Report, since time.Time, err error) {
	r = Report{Status: e.Status, Details: e.Details, Updated: e.UpdatedAt}
	states, err := s.cfg.Presence.Presence(ctx, c.scope(), m.Thing)
	for _, st := range states {
		switch {
		case st.Connected && !r.Connected:
			r.Connected, since = true, st.At
		case st.Connected == r.Connected && st.At.After(since):
			since = st.At
		}
	}
	if r.LastSeen = since; r.Connected {
		r.LastSeen = now
	}
	if e.UpdatedAt.After(r.LastSeen) && e.Status != jobs.Queued { // it speaks, wherever
		r.LastSeen = e.UpdatedAt
	}
	return r, since, err
}

// LookSoon has the loop look at things at its next step, where a campaign that may end
// for them ([Leaver]) is under way: something was changed that it would find late.
func (s *Service) LookSoon(ctx context.Context, tenant string, things ...fleet.ThingName) error {
	ctx = lane.With(ctx, lane.Status)
	after, id := "", ""
	for {
		list, err := s.store.ActiveCampaigns(ctx, after, id, MaxPage)
		if err != nil || len(list) == 0 {
			return err
		}
		for i := range list {
			c := &list[i]
			after, id = c.Tenant, c.ID
			if _, ok := s.cfg.Actions[c.Kind].(Leaver); !ok || c.Tenant != tenant || c.Counts.Of(open...) == 0 {
				continue
			}
			for _, t := range things {
				if err := s.lookSoon(ctx, c, t); err != nil {
					return err
				}
			}
		}
	}
}

func (s *Service) lookSoon(ctx context.Context, c *Campaign, thing fleet.ThingName) error {
	m, err := s.store.Member(ctx, c.scope(), c.ID, thing)
	if isNoMember(err) {
		return nil
	}
	if err != nil || !slices.Contains(open, m.State) {
		return err
	}
	return s.store.Atomic(ctx, func(ctx context.Context) error {
		m, err := s.store.Member(ctx, c.scope(), c.ID, thing)
		if err != nil || !slices.Contains(open, m.State) {
			return err
		}
		return s.store.LookAt(ctx, c.scope(), c.ID, thing, s.clock())
	})
}

// watch is one look at one device.
type watch struct {
	s     *Service
	c     *Campaign
	a     Action
	m     *Member
	r     Report
	e     *jobs.Execution
	told  bool // there is a job
	since time.Time
	now   time.Time
}

func (w *watch) to(state MemberState, code, detail string) move {
	return become(*w.m, state, w.now, func(m *Member) { m.Code, m.Detail = code, detail })
}

// again leaves it as it is, to be looked at soon.
func (w *watch) again() move { return become(*w.m, w.m.State, w.now, nil).at(w.now.Add(5 * lookSoon)) }

// later is the time of the next look at what takes the longer the longer it took.
func (w *watch) later(since time.Time) time.Time {
	return w.now.Add(min(max(w.now.Sub(since)/4, lookSoon), lookLate))
}

func earlier(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func latest(a, b time.Time) time.Time {
	if b.After(a) {
		return b
	}
	return a
}

// timeout is when the time of a device is over that has it since a time.
func (c *Campaign) timeout(since time.Time) time.Time { return latest(since, c.Retimed).Add(c.Timeout) }

// silence is when a device that has begun counts as lost.
func (w *watch) silence() time.Time {
	return latest(latest(w.r.LastSeen, w.m.Began), w.c.Retimed).Add(w.c.Silence)
}

// look decides what becomes of the device.
func (w *watch) look(ctx context.Context) move {
	if w.m.State == Undoing {
		return w.undoing(ctx)
	}
	if w.told && (w.m.State == Offered || w.m.State == Asleep || w.m.State == Working) {
		if v, ended := w.execution(); ended {
			return v
		}
	}
	if w.m.State == Offered || w.m.State == Asleep {
		if w.e.Status != jobs.InProgress && w.e.Status != jobs.Succeeded {
			return w.offered()
		}
		w.begin()
	}
	if !w.r.Connected && !w.now.Before(w.silence()) {
		return w.to(Silent, "silent", "It began, and was not seen for too long.")
	}
	if w.m.State == Soaking {
		return w.soaking(ctx)
	}
	if w.told && w.e.Status == jobs.InProgress {
		if !w.now.Before(w.c.timeout(w.m.Began)) {
			return w.to(TimedOut, "timed-out", "It began and did not end in time.")
		}
		return w.working()
	}
	return w.proving(ctx)
}

// begin notes when the device began; what is decided next builds on it.
func (w *watch) begin() {
	m := *w.m
	if m.Began = w.e.StartedAt; m.Began.IsZero() {
		m.Began = w.now
	}
	w.m = &m
}

// execution ends what the job execution says has ended badly.
func (w *watch) execution() (move, bool) {
	code, words := w.e.Details["code"], w.e.Details["message"]
	if words == "" {
		words = w.e.Details["detail"]
	}
	switch w.e.Status {
	case jobs.Failed:
		w.begin()
		if code == "" {
			code = "device-failed"
		}
		return w.to(Failed, code, words), true
	case jobs.Rejected:
		if code == "" {
			code = "device-rejected"
		}
		return w.to(Rejected, code, words), true
	case jobs.TimedOut:
		return w.to(TimedOut, "timed-out", "Its execution of the job timed out."), true
	case jobs.Canceled:
		return w.to(Failed, "job-canceled", "Somebody cancelled its execution of the job."), true
	case jobs.Removed:
		return w.to(Skipped, "thing-gone", "The thing was removed."), true
	case "":
		return w.to(Failed, "job-gone", "Somebody deleted the job."), true
	}
	return move{}, false
}

// offered waits for a device to begin, and reminds it. One that is not there sleeps.
func (w *watch) offered() move {
	from := w.m.Offered
	if w.m.State == Asleep || w.r.Connected {
		from = latest(from, w.since)
	}
	deadline := w.c.timeout(from)
	v := become(*w.m, w.m.State, w.now, nil)
	switch {
	case w.r.Connected && !w.now.Before(deadline):
		return w.to(TimedOut, "not-begun", "It is connected and did not begin in time.")
	case w.r.Connected:
		return w.reminded(v, from, deadline)
	case w.m.State == Offered && !w.now.Before(deadline):
		return w.to(Asleep, "asleep", "It was not connected when its time was over.").at(w.now.Add(w.c.Timeout))
	case w.m.State == Offered: // when it connects it asks by itself
		return v.at(earlier(deadline, w.now.Add(4*max(w.now.Sub(from), w.c.remindFirst()))))
	}
	return v.at(w.now.Add(w.c.Timeout))
}

func (w *watch) working() move {
	next := w.c.timeout(w.m.Began)
	if !w.r.Connected {
		next = earlier(next, w.silence())
	} else {
		next = earlier(next, w.now.Add(max(w.c.Silence, lookSoon)))
	}
	return w.keep(Working).at(next)
}

// keep goes to a state, or stays in it, with what was noted.
func (w *watch) keep(state MemberState) move {
	return become(*w.m, state, w.now, nil)
}

func (w *watch) proving(ctx context.Context) move {
	v, err := w.a.Judge(ctx, w.c, w.m, w.r)
	if err != nil {
		w.s.failed(ctx, w.c, w.m, "judge", err)
		return w.keep(Proving).at(w.now.Add(5 * lookSoon))
	}
	switch v.verdict {
	case failed:
		return w.to(Failed, v.code, v.words)
	case proven:
		soaking := become(*w.m, Soaking, w.now, func(m *Member) { m.After = v.after })
		return soaking.at(earlier(w.now.Add(w.c.Soak), w.now.Add(w.pace())))
	}
	deadline := w.c.timeout(w.m.Began)
	if !w.now.Before(deadline) {
		return w.to(TimedOut, "not-proven", "It said that it is done, and was not seen so in time.")
	}
	since := w.now
	if w.m.State == Proving {
		since = w.m.Since
	}
	return w.keep(Proving).at(earlier(w.later(since), deadline))
}

// pace is the time between two looks at a device that soaks.
func (w *watch) pace() time.Duration { return min(max(w.c.Soak/10, lookSoon), time.Hour) }

func (w *watch) soaking(ctx context.Context) move {
	v, err := w.a.Judge(ctx, w.c, w.m, w.r)
	if err != nil {
		w.s.failed(ctx, w.c, w.m, "judge", err)
		return w.again()
	}
	end := w.m.Since.Add(w.c.Soak)
	switch {
	case v.verdict == failed:
		return w.to(Failed, v.code, v.words)
	case w.now.Before(end):
		return w.keep(Soaking).at(earlier(end, w.now.Add(w.pace())))
	case v.verdict == wait:
		return w.keep(Soaking).at(w.later(end))
	}
	if v.after != "" {
		m := *w.m
		m.After = v.after
		w.m = &m
	}
	if err := w.a.Finish(ctx, w.c, w.m); err != nil {
		w.s.failed(ctx, w.c, w.m, "finish", err)
		return w.again()
	}
	return w.keep(Done)
}
