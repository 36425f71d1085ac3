package ownership

import (
	"context"
	"errors"
	"time"

	"hallmark/access"
	"hallmark/crl"
	"hallmark/fleet/registry"
	"hallmark/internal/fault"
)

// Run sweeps until ctx ends: soon after each act, and every few seconds for what
// another node or an earlier run left.
func (s *Service) Run(ctx context.Context) {
	tick := time.NewTicker(5 * time.Second)
	defer tick.Stop()
	var counted time.Time
	for {
		if now := s.now(); now.Sub(counted) >= countEvery {
			counted = now
			if n, err := s.Overdue(ctx); err == nil {
				s.Stats.Overdue.Store(n)
			} else if ctx.Err() == nil {
				s.log.ErrorContext(ctx, "releases that nobody accepted in time were not counted", "error", err)
			}
		}
		if err := s.Step(ctx); err != nil && ctx.Err() == nil {
			s.log.ErrorContext(ctx, "what released units left behind was not ended; it is tried again", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-s.wake:
		}
	}
}

// countEvery is how often all releases are gone through.
const countEvery = 10 * time.Minute

// Overdue counts the open releases of all tenants whose code has ended. Nobody can accept
// them any more, and their devices get in nowhere until somebody withdraws them.
func (s *Service) Overdue(ctx context.Context) (n int64, err error) {
	const page = 200
	tenant, name, now := "", "", s.now()
	for {
		acts, err := s.store.Releases(ctx, tenant, name, page)
		if err != nil {
			return n, err
		}
		for i := range acts {
			if acts[i].State == Open && !now.Before(acts[i].Expires) {
				n++
			}
		}
		if len(acts) < page {
			return n, nil
		}
		tenant, name = acts[page-1].Tenant, acts[page-1].Name
	}
}

func (s *Service) rouse() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Step ends what units left behind. Two things cannot be in the act's own
// transaction: the jobs of its things, which are told to whoever listens; and, on an
// engine where transactions run beside each other, a certificate whose reservation
// was not to be seen yet. After the act's commit nothing new is reserved for the
// tenant that the unit left, so one look more suffices.
func (s *Service) Step(ctx context.Context) error {
	acts, err := s.store.UnsweptActs(ctx, 100)
	if err != nil {
		return err
	}
	var errs []error
	for i := range acts {
		errs = append(errs, s.sweep(ctx, acts[i]))
	}
	return errors.Join(errs...)
}

func (s *Service) sweep(ctx context.Context, a Act) error {
	for _, l := range a.Left {
		scope := access.Scope{Tenant: l.Tenant}
		for _, thing := range l.Things {
			t, err := s.cfg.Registry.Get(ctx, scope, thing)
			if fault.KindOf(err) == fault.NotFound || err == nil && t.RegisteredBy != registry.Released {
				continue // it is gone, or lives again
			}
			if err == nil && s.cfg.Jobs != nil {
				err = s.cfg.Jobs.ThingDeleted(ctx, l.Tenant, thing)
			}
			if err != nil {
				return err
			}
		}
		if a.Kind == Reset {
			continue // the device may have its next certificate already
		}
		err := s.store.Atomic(ctx, func(ctx context.Context) error {
			events, err := s.store.OwnershipEvents(ctx, scope, l.Holder)
			if err != nil || len(events) == 0 || !events[len(events)-1].What.Leaves() {
				return err
			}
			by := access.Actor{Tenant: l.Tenant, Kind: access.KindService, Name: "ownership"}
			_, err = s.cfg.Revoker.RetireDevice(ctx, by, l.Holder, crl.CessationOfOperation, a.said())
			return err
		})
		if err != nil {
			return err
		}
	}
	err := s.store.Atomic(ctx, func(ctx context.Context) error {
		now, err := s.store.OwnershipAct(ctx, access.Scope{Tenant: a.Tenant}, a.Name)
		if err != nil {
			return err
		}
		now.Left = nil
		return s.store.PutAct(ctx, now, now.Version)
	})
	if errors.Is(err, ErrChanged) {
		return nil // another node was faster, or somebody accepted it: the next look sees
	}
	if err != nil {
		return err
	}
	// Here and not where it was decided: whoever plans a change tries it first.
	switch n := int64(len(a.Units)); a.Kind {
	case Release:
		s.Stats.Released.Add(n)
	case Reset:
		s.Stats.Reset.Add(n)
	case Decommission:
		s.Stats.Decommissioned.Add(n)
	}
	s.log.InfoContext(ctx, "ownership changed", "tenant", a.Tenant, "act", a.Name, "kind", string(a.Kind), "units", len(a.Units), "by", a.By)
	return nil
}
