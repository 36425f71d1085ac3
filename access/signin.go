package access

import (
	"context"
	"log/slog"
	"net/netip"
	"sync"
	"time"
)

// What strangers do, as the trail says it.
const (
	SignIn            Action = "sign-in"             // with a token that was refused
	RedeemStationCode Action = "station.code.redeem" // at the enrolment door
)

// maxStrange is how many entries a minute strangers can cause: they must not fill
// the disk. The next entry counts the rest.
const maxStrange = 60

// Strangers writes what people without a right did into the trail, within bounds. A
// nil *Strangers writes nothing.
type Strangers struct {
	trail TrailWriter
	log   *slog.Logger
	now   func() time.Time

	mu    sync.Mutex
	since time.Time
	used  int
	left  int64 // that got no entry
}

// NewStrangers makes one; nil without a trail.
func NewStrangers(trail TrailWriter, log *slog.Logger, now func() time.Time) *Strangers {
	if trail == nil {
		return nil
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &Strangers{trail: trail, log: log, now: now}
}

// Refused writes an entry that stands for e.Count refusals. Nobody was let in, so
// that nothing has to be taken back if it cannot be written.
func (s *Strangers) Refused(ctx context.Context, e TrailEntry) {
	if s == nil {
		return
	}
	now := s.now()
	s.mu.Lock()
	if now.Sub(s.since) >= failWindow || now.Before(s.since) {
		s.since, s.used = now, 0
	}
	if s.used >= maxStrange {
		s.left += max(e.Count, 1)
		s.mu.Unlock()
		return
	}
	s.used++
	if s.left > 0 {
		e.Count = max(e.Count, 1) + s.left
		s.left = 0
	}
	s.mu.Unlock()
	e.Outcome = TrailRefused
	if err := s.trail.AppendTrail(context.WithoutCancel(ctx), e); err != nil {
		s.log.ErrorContext(ctx, "a refusal is not in the trail", "action", string(e.Action), "from", e.From, "error", err)
	}
}

// refused notes a refused sign-in. Of an address there is an entry for the first in a
// minute, and one for the next ten, after which it is told to wait; what it tries
// then is in the log alone.
func (a *Authenticator) refused(ctx context.Context, from netip.Addr, failures int, code string) {
	e := TrailEntry{Tenant: DefaultTenant, Actor: "unknown:", Action: SignIn, From: from.String(), Code: code}
	switch failures {
	case 1:
	case maxFailures + 1:
		e.Count = maxFailures
	default:
		return
	}
	if a.cfg.RequestID != nil {
		e.Request = a.cfg.RequestID(ctx)
	}
	a.strangers.Refused(ctx, e)
}
