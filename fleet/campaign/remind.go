package campaign

import "time"

// remindFirst is how long after it was offered the change a device that is connected
// and does nothing is reminded.
func (s *Spec) remindFirst() time.Duration { return min(remindSoon, max(s.Timeout/4, lookSoon)) }

// reminded reminds a device that is connected and has not begun: the message that told
// it may be lost, and a device that only listens would wait for its next connection.
// The time between two grows with the time that it has taken already.
func (w *watch) reminded(v move, from, deadline time.Time) move {
	first := w.c.remindFirst()
	age := w.now.Sub(from)
	switch {
	case age < first:
		return v.at(earlier(deadline, from.Add(first)))
	case !w.s.mayRemind(w.now):
		return v.at(earlier(deadline, w.now.Add(5*lookSoon)))
	}
	v.remind = true
	return v.at(earlier(deadline, w.now.Add(min(max(age, first), remindLate))))
}

// budget is how many reminders may go out.
type budget struct {
	left  float64
	until time.Time // when left was counted
}

// mayRemind takes one reminder of the budget, if there is one and the factory line does
// not need the database.
func (s *Service) mayRemind(now time.Time) bool {
	if s.cfg.Yield() {
		return false
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	b := &s.pace
	if b.until.IsZero() {
		b.left = remindBurst
	}
	if now.After(b.until) {
		b.left, b.until = min(remindBurst, b.left+remindRate*now.Sub(b.until).Seconds()), now
	}
	if b.left < 1 {
		return false
	}
	b.left--
	return true
}
