package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"hallmark/ca/tlog"
	"hallmark/internal/durable"
	"hallmark/internal/lane"
)

// background starts what runs beside the doors.
func (s *Server) background(ctx context.Context) {
	s.wg.Go(func() { s.set.Run(ctx) })
	s.wg.Go(func() { s.lists.Run(ctx) })
	s.runLists(ctx)
	s.wg.Go(func() { s.integrate(ctx) })
	s.wg.Go(func() { s.blast.Run(ctx) })
	s.wg.Go(func() { s.ownership.Run(ctx) })
	s.wg.Go(func() { s.watchRevoked(ctx) })
	s.wg.Go(func() { s.watchAuthorities(ctx) })
	s.wg.Go(func() { s.scanExpiry(ctx) })
	s.wg.Go(func() { s.settleRenewals(ctx) })
	s.wg.Go(func() { s.keepRollovers(ctx) })
	s.wg.Go(func() { s.countFleet(ctx) })
	s.wg.Go(func() { s.logs.run(ctx) })
	s.wg.Go(func() { s.backup.schedule(ctx) })
	s.fleet.run(ctx, &s.wg)
	s.fleet.spread(ctx, s, &s.wg)
	s.wg.Go(func() { s.db.FollowRegistry(ctx, 0) })
	if s.time != nil {
		s.wg.Go(func() { s.time.run(ctx) })
	}
	s.wg.Go(func() { s.lintIssued(ctx) })
	s.wg.Go(func() {
		for every(ctx, time.Hour) {
			if err := s.renewDoors(ctx); err != nil {
				s.log.ErrorContext(ctx, "the doors' certificate cannot be renewed", "error", err)
			}
		}
	})
	s.wg.Go(func() {
		for every(ctx, 10*time.Minute) {
			if err := errors.Join(s.db.KeepClock(ctx), s.db.CheckClock()); err != nil {
				s.log.ErrorContext(ctx, "the clock's mark was not moved", "error", err)
			}
			s.voidAbandoned(ctx)
			s.returnQuota(ctx)
		}
	})
}

// every waits; false when ctx ends.
func every(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-t.C:
		return true
	}
}

// integrate puts new leaves under a signed checkpoint once a second, and keeps
// the newest checkpoint outside the database.
func (s *Server) integrate(ctx context.Context) {
	for every(ctx, time.Second) {
		s.checkpoint(ctx)
	}
}

// checkpoint may be called beside the background work: an older note must not
// replace a newer one on disk.
func (s *Server) checkpoint(ctx context.Context) {
	s.keeping.Lock()
	defer s.keeping.Unlock()
	c, err := s.tlog.Integrate(ctx)
	if err != nil {
		if ctx.Err() == nil && !errors.Is(err, tlog.ErrMoved) {
			s.log.ErrorContext(ctx, "log not integrated", "error", err)
		}
		return
	}
	s.logs.made(c)
	if bytes.Equal(c.Note, s.kept) {
		return
	}
	if err := durable.WriteFile(s.checkpointFile(), c.Note, 0o644); err != nil {
		s.log.ErrorContext(ctx, "checkpoint not kept", "error", err)
		return
	}
	s.kept = c.Note
}

// lintIssued runs the full lint on everything that was issued, from the table
// and behind the line: a full lint costs more than an issuance, so while the
// line is busy it gets a small share and catches up afterwards. An error here
// means that the lints before the signature missed a rule.
func (s *Server) lintIssued(ctx context.Context) {
	file := filepath.Join(s.cfg.State, "linted")
	var done int64 // reservations up to this id are linted
	if b, err := os.ReadFile(file); err == nil {
		done, _ = strconv.ParseInt(strings.TrimSpace(string(b)), 10, 64)
	}
	var jobs int64
	quiet := 0 // seconds without much work
	for every(ctx, time.Second) {
		now := s.db.Stats.Jobs.Load()
		share := 10
		if quiet++; now-jobs > 50 {
			quiet = 0
		} else if quiet > 3 {
			share = 200
		}
		jobs = now
		ders, last, err := s.db.IssuedAfter(ctx, done, share)
		if err != nil {
			s.log.ErrorContext(ctx, "issued certificates not linted", "error", err)
			continue
		}
		for _, der := range ders {
			if found := s.ca.Lint(der); len(found) > 0 {
				s.lintErrors.Add(1)
				s.log.ErrorContext(ctx, "an issued certificate breaks a rule", "rule", found[0].String())
			}
		}
		if last == done {
			continue
		}
		done = last
		// Losing it costs nothing but linting again, so it needs no sync.
		if err := os.WriteFile(file, []byte(strconv.FormatInt(done, 10)+"\n"), 0o644); err != nil {
			s.log.ErrorContext(ctx, "progress of the lint not kept", "error", err)
		}
	}
}

// abandonedAfter is when a reservation without certificate is given up (S8).
const abandonedAfter = 24 * time.Hour

// voidAbandoned goes on where the last round ended: what lies before is settled.
func (s *Server) voidAbandoned(ctx context.Context) {
	for {
		serials, last, err := s.db.Abandoned(ctx, s.settled, s.now().Add(-abandonedAfter), 5000)
		for _, serial := range serials {
			if err == nil {
				err = s.db.Ledger().Void(lane.With(ctx, lane.Status), serial, "abandoned")
			}
		}
		if err != nil {
			s.log.ErrorContext(ctx, "abandoned reservations not voided", "error", err)
			return
		}
		if last == s.settled {
			return
		}
		s.settled = last
	}
}

// returnQuota gives the units of abandoned reservations back to their orders, as
// soon as their serial numbers are on a list (S8).
func (s *Server) returnQuota(ctx context.Context) {
	for {
		last, n, err := s.db.ReturnQuota(lane.With(ctx, lane.Status), s.returned, 5000)
		if err != nil {
			s.log.ErrorContext(ctx, "units of abandoned reservations not returned", "error", err)
			return
		}
		if n > 0 {
			s.log.InfoContext(ctx, "units of abandoned reservations returned to their orders", "units", n)
		}
		if last == s.returned {
			return
		}
		s.returned = last
	}
}
