package main

import (
	"context"
	"log/slog"
	"slices"
	"sync"
	"time"

	"hallmark/internal/fault"
	"hallmark/internal/sntp"
)

var (
	errClockDisagrees   = fault.Define(fault.Unavailable, "clock-disagrees", "This machine's clock and the time servers disagree, so nothing is issued.", "Find out which of them is wrong and set it; issuance goes on by itself.")
	errClockUnconfirmed = fault.Define(fault.Unavailable, "clock-unconfirmed", "No time server has confirmed this machine's clock, and production mode needs a second source.", "Make one of the servers under ntp in the configuration reachable (UDP port 123).")
)

// S38: two independent sources, and nothing is issued beyond five minutes of
// disagreement.
const (
	maxDisagreement = 5 * time.Minute
	confirmedFor    = 24 * time.Hour
	askEvery        = 5 * time.Minute
	askAgain        = 30 * time.Second // while there is no good answer
)

// timeSource is the opinion of time servers about the clock of this machine.
// Between two answers it goes on with the monotonic clock, which nobody sets, so
// that a jump is seen at once and not at the next question.
type timeSource struct {
	servers []string
	needed  bool // production mode: without an answer nothing is issued
	now     func() time.Time
	log     *slog.Logger

	mu   sync.Mutex
	at   time.Time // what the servers said
	when time.Time // by the monotonic clock
}

// newTimeSource is nil without servers: the system's clock and the database's
// mark are then what there is.
func newTimeSource(cfg *Config, now func() time.Time, log *slog.Logger) *timeSource {
	if len(cfg.NTP) == 0 {
		return nil
	}
	return &timeSource{servers: cfg.NTP, needed: cfg.Production, now: now, log: log}
}

// ask asks all servers at once and believes the middle one of those that answer.
func (s *timeSource) ask(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	offsets := make([]*time.Duration, len(s.servers))
	var wg sync.WaitGroup
	for i, addr := range s.servers {
		wg.Go(func() {
			a, err := sntp.Query(ctx, addr, s.now)
			if err != nil {
				s.log.WarnContext(ctx, "a time server does not answer", "server", addr, "error", err)
				return
			}
			offsets[i] = &a.Offset
		})
	}
	wg.Wait()
	offsets = slices.DeleteFunc(offsets, func(o *time.Duration) bool { return o == nil })
	if len(offsets) == 0 {
		return
	}
	slices.SortFunc(offsets, func(a, b *time.Duration) int { return int(*a - *b) })
	s.mu.Lock()
	s.at, s.when = s.now().Add(*offsets[len(offsets)/2]), time.Now()
	s.mu.Unlock()
}

// Check refuses a clock that the servers contradict.
func (s *timeSource) Check() error {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	at, when := s.at, s.when
	s.mu.Unlock()
	age := time.Since(when)
	if when.IsZero() || age > confirmedFor {
		if s.needed {
			return errClockUnconfirmed.New("The last answer came %s.", ago(when, age)).After(askAgain)
		}
		return nil
	}
	theirs, ours := at.Add(age), s.now()
	if d := ours.Sub(theirs); d.Abs() > maxDisagreement {
		return errClockDisagrees.New("It shows %s, they say %s.", ours.UTC().Format(time.RFC3339), theirs.UTC().Format(time.RFC3339)).After(askAgain)
	}
	return nil
}

func ago(when time.Time, age time.Duration) string {
	if when.IsZero() {
		return "never"
	}
	return age.Round(time.Minute).String() + " ago"
}

// run asks again and again until ctx ends.
func (s *timeSource) run(ctx context.Context) {
	wrong := false
	for {
		wait := askEvery
		s.mu.Lock()
		fresh := !s.when.IsZero() && time.Since(s.when) < 2*askEvery
		s.mu.Unlock()
		err := s.Check()
		if err != nil || !fresh {
			wait = askAgain
		}
		if (err != nil) != wrong {
			if wrong = err != nil; wrong {
				s.log.ErrorContext(ctx, "the clock is contradicted; nothing is issued", "error", err)
			} else {
				s.log.InfoContext(ctx, "the clock is confirmed again")
			}
		}
		if !every(ctx, wait) {
			return
		}
		s.ask(ctx)
	}
}
