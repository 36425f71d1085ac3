package main

import (
	"context"
	"errors"
	"sync"
	"time"

	"hallmark/access"
	"hallmark/ca"
	"hallmark/ca/profile"
	"hallmark/crl"
)

// authorityWatch is how far this node knows of authorities and declarations.
type authorityWatch struct {
	mu   sync.Mutex
	mark string
}

// followAuthorities takes over what any node changed of authorities, declarations
// and ends. It does nothing if nothing was changed.
func (s *Server) followAuthorities(ctx context.Context) error {
	s.watched.mu.Lock()
	defer s.watched.mu.Unlock()
	mark, err := s.db.AuthoritiesMark(ctx)
	if err != nil || mark == s.watched.mark {
		return err
	}
	if err := s.ca.Reload(ctx); err != nil {
		return err
	}
	if err := s.distrustRevoked(ctx); err != nil {
		return err
	}
	if err := s.authoritiesChanged(ctx); err != nil {
		return err
	}
	s.watched.mark = mark
	return nil
}

// distrustRevoked has the doors refuse what a revoked authority issued, before its
// root's list says so.
func (s *Server) distrustRevoked(ctx context.Context) error {
	for _, a := range s.ca.Authorities() {
		if a.State != ca.StateRevoked || s.set.Distrusted(a.Name) {
			continue
		}
		reason, at := crl.KeyCompromise, s.now()
		ends, err := s.db.Ends(ctx, access.Scope{Tenant: a.Tenant})
		if err != nil {
			return err
		}
		for _, e := range ends {
			if e.Authority == a.Name {
				reason = crl.Reason(e.Reason)
				if did, ok := e.Did(ca.StepRevoked); ok {
					at = did.At
				}
			}
		}
		s.set.Distrust(a.Name, reason, at)
		s.log.WarnContext(ctx, "authority is revoked; what it issued is refused", "authority", a.Name, "reason", reason.String())
	}
	return nil
}

// watchAuthorities keeps this node up with what was declared, and moves those that
// leave on.
func (s *Server) watchAuthorities(ctx context.Context) {
	poll := 500 * time.Millisecond
	if s.db.Alone() {
		poll = 5 * time.Second // nobody else writes; this is for what failed
	}
	tick := time.NewTicker(poll)
	defer tick.Stop()
	var looked time.Time
	for {
		changed := s.db.AuthoritiesChanged()
		if err := s.followAuthorities(ctx); err != nil && ctx.Err() == nil {
			s.log.ErrorContext(ctx, "authorities cannot be followed; the former ones stay", "error", err)
			changed = nil
		} else if time.Since(looked) >= 10*time.Second || changed == nil {
			looked = time.Now()
			if err := s.moveLeaving(ctx); err != nil && ctx.Err() == nil {
				s.log.ErrorContext(ctx, "an authority that leaves cannot be moved on", "error", err)
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-changed:
			looked = time.Time{}
		case <-tick.C:
		}
	}
}

// moveLeaving does the steps of authorities that leave which are due.
func (s *Server) moveLeaving(ctx context.Context) (err error) {
	tenants := map[string]bool{}
	for _, a := range s.ca.Authorities() {
		tenants[a.Tenant] = true
		// A root's list may name one before anybody says so here.
		if a.Duty != profile.DutyRoot && s.set.Distrusted(a.Name) && a.State != ca.StateRevoked && a.State != ca.StateEnded {
			by := access.Actor{Tenant: a.Tenant, Kind: access.KindService, Name: "root-list"}
			_, lerr := ca.Leave(ctx, s.db, by, ca.End{Authority: a.Name, Stage: ca.EndRevoked, Reason: int(crl.KeyCompromise), Note: "its root's list has it"}, s.now())
			err = errors.Join(err, lerr)
		}
	}
	for tenant := range tenants {
		ends, rerr := s.db.Ends(ctx, access.Scope{Tenant: tenant})
		err = errors.Join(err, rerr)
		for _, e := range ends {
			err = errors.Join(err, s.moveOn(ctx, e))
		}
	}
	return err
}

// moveOn does the next step of one of them, if it is due.
func (s *Server) moveOn(ctx context.Context, e ca.End) error {
	a, err := s.ca.Authority(e.Authority)
	if err != nil {
		return err
	}
	facts, err := leavingFacts(ctx, s.lists, a)
	if err != nil {
		return err
	}
	if a.State == ca.StateEnded && !facts.LastListsOut {
		if _, err := s.lists.PublishAll(ctx, a.Name); err != nil {
			return err
		}
	}
	changed, _, err := ca.Advance(ctx, s.db, e, facts, s.now())
	if changed {
		s.log.InfoContext(ctx, "an authority that leaves moved on", "authority", e.Authority, "stage", string(e.Stage))
	}
	if errors.Is(err, ca.ErrEndChanged) { // another node did it
		return nil
	}
	return err
}

// leavingFacts is what the lists say of an authority that leaves.
func leavingFacts(ctx context.Context, lists *crl.Publisher, a ca.Info) (ca.Facts, error) {
	f := ca.Facts{Ends: a.Cert.NotAfter}
	var err error
	if f.Listed, err = lists.OnRootList(a); err != nil {
		return f, err
	}
	if a.State == ca.StateEnded {
		f.LastListsOut, err = lists.LastLists(ctx, a.Name)
	}
	return f, err
}
