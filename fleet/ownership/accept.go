package ownership

import (
	"context"
	"errors"
	"slices"
	"time"

	"hallmark/access"
	"hallmark/ca"
	"hallmark/crl"
	"hallmark/fleet/registry"
)

// Acceptance is who takes what was released, and how its devices are registered.
type Acceptance struct {
	Code string
	// Template is one of the kind first-boot of the new owner. "" is the registration
	// of the authority, for units that come home.
	Template string
	Groups   []string // besides those of the template
	Note     string
}

// Accept takes over all units of a release, once: of two who try at the same time one
// is told that the code is used. Asked again by the tenant that accepted it answers the
// same; another template or other groups count for the units that did not boot yet.
func (s *Service) Accept(ctx context.Context, by access.Actor, in Acceptance) (units []Unit, err error) {
	raw, err := parseCode(in.Code)
	if err != nil {
		return nil, err
	}
	if len(in.Groups) > registry.MaxThingGroups || len(in.Note) > MaxNote {
		return nil, ErrInvalid.New("At most %d groups and %d octets of note.", registry.MaxThingGroups, MaxNote)
	}
	if in.Template == "" && len(in.Groups) > 0 {
		return nil, ErrInvalid.New("Groups are added to those of a template; name one.")
	}
	if err := s.cfg.Registry.CheckGroups(ctx, by.Scope(), in.Groups); err != nil {
		return nil, err // the first boot would fail, and the device can do nothing about it
	}
	if in.Template != "" && s.cfg.TemplateGroups != nil {
		groups, more, err := s.cfg.TemplateGroups(ctx, by.Scope(), in.Template)
		if err != nil {
			return nil, err
		}
		for _, g := range in.Groups {
			if !slices.Contains(groups, g) {
				groups = append(slices.Clip(groups), g)
			}
		}
		if n := len(groups) + more; n > registry.MaxThingGroups {
			return nil, ErrInvalid.New("With those of the template a thing would be in %d groups; %d are allowed.", n, registry.MaxThingGroups)
		}
	}
	now := s.clock()
	again := false
	err = s.store.Atomic(ctx, func(ctx context.Context) error {
		units, again = nil, false
		a, err := s.store.ActByCode(ctx, hash(raw))
		if errors.Is(err, ErrAct) {
			return ErrCode.New("")
		}
		if err != nil {
			return err
		}
		if a.State == Accepted && a.EndedIn == by.Tenant {
			again = true
			settled := 0
			for _, name := range a.Units {
				u, err := s.store.Holds(ctx, by.Scope(), name)
				if err != nil {
					return ErrCode.Wrap(err, "")
				}
				late, err := s.correct(ctx, by, &u, in)
				if err != nil {
					return err
				}
				if late {
					settled++
				}
				units = append(units, u)
			}
			if settled == len(units) {
				return ErrNotOwner.New("They have booted by what was accepted before; change their things.")
			}
			return nil
		}
		if a.State != Open || !now.Before(a.Expires) || a.To != "" && a.To != by.Tenant {
			return ErrCode.New("")
		}
		if a.Tenant == by.Tenant {
			return ErrInvalid.New("This tenant released it; take it back with hallmark owner withdraw %s.", a.Name)
		}
		for _, name := range a.Units {
			u, err := s.take(ctx, by, &a, name, in, now)
			if err != nil {
				return err
			}
			units = append(units, u)
		}
		was := a.Version
		a.State, a.EndedAt, a.EndedIn = Accepted, now, by.Tenant
		return s.store.PutAct(ctx, a, was)
	})
	if errors.Is(err, ErrChanged) {
		// Somebody else was faster, and the code is used now; or this was the same request.
		return s.Accept(ctx, by, in)
	}
	if err != nil {
		return nil, err
	}
	if !again {
		s.Stats.Accepted.Add(int64(len(units)))
		s.log.InfoContext(ctx, "units accepted", "units", len(units), "by", by.String())
	}
	return units, nil
}

// correct gives a unit that was accepted before what is asked for now: with a template
// or a group that fails it would never boot. One that has booted keeps what it has; late
// tells that it is something else.
func (s *Service) correct(ctx context.Context, by access.Actor, u *Unit, in Acceptance) (late bool, err error) {
	if u.State != Owned || u.Template == in.Template && slices.Equal(u.Groups, in.Groups) {
		return false, nil
	}
	if u.Foreign() && in.Template == "" {
		return false, ErrTemplate.New("Units of another tenant's authority need one.")
	}
	things, err := s.cfg.Registry.ByHolder(ctx, by.Scope(), u.Holder)
	if err != nil {
		return false, err
	}
	for i := range things {
		if things[i].RegisteredBy != registry.Released {
			return true, nil
		}
	}
	was := u.Version
	u.Template, u.Groups = in.Template, slices.Clone(in.Groups)
	return false, s.store.PutUnit(ctx, *u, was)
}

// take is the acceptance of one unit.
func (s *Service) take(ctx context.Context, by access.Actor, a *Act, name string, in Acceptance, now time.Time) (Unit, error) {
	old := access.Actor{Tenant: a.Tenant, Kind: access.KindService, Name: "ownership"}
	u, err := s.store.Holds(ctx, old.Scope(), name)
	if err != nil {
		return u, err
	}
	if u.State != Released || u.Act != a.Name {
		return u, ErrNotOwner.New("%s is %s.", u.Shown, u.State)
	}
	if u.Home != by.Tenant {
		if in.Template == "" {
			return u, ErrTemplate.New("Units of another tenant's authority need one.")
		}
		have, err := s.store.Records(ctx, ca.RecordQuery{Tenant: by.Tenant, Holder: u.Holder, Profile: "idevid", Limit: 1})
		if err != nil {
			return u, err
		}
		_, herr := s.store.Holds(ctx, by.Scope(), u.Holder)
		if len(have) > 0 || herr == nil {
			return u, ErrTaken.New("%s.", u.Shown)
		}
		if !errors.Is(herr, ErrUnknown) {
			return u, herr
		}
	}
	if r, err := s.birth(ctx, u.Home, u.Holder); err != nil {
		return u, err
	} else if r == nil || r.Revoked() || !now.Before(r.NotAfter) {
		return u, ErrBirth.New("Unit %s.", u.Shown)
	}
	// What was issued beside the release, and not swept yet.
	if _, err := s.cfg.Revoker.RetireDevice(ctx, old, u.Holder, crl.CessationOfOperation, a.said()); err != nil {
		return u, err
	}
	was := u.Version
	u.Tenant, u.State, u.Act, u.Template, u.Groups, u.Since = by.Tenant, Owned, "", in.Template, slices.Clone(in.Groups), now
	if err := s.store.PutUnit(ctx, u, was); err != nil {
		return u, err
	}
	e := Event{Tenant: a.Tenant, Holder: u.Holder, Shown: u.Shown, Home: u.Home, What: DidHandOver, At: now, Act: a.Name, By: "the new owner"}
	if err := s.store.AddEvent(ctx, e); err != nil {
		return u, err
	}
	e = Event{Tenant: by.Tenant, Holder: u.Holder, Shown: u.Shown, Home: u.Home, What: DidAccept, At: now, By: by.Name, Note: in.Note}
	return u, s.store.AddEvent(ctx, e)
}

// Withdraw takes an open release back. The code is worth nothing any more; what was
// revoked stays so, and the devices boot again for their owner.
func (s *Service) Withdraw(ctx context.Context, by access.Actor, name, note string) (act Act, err error) {
	if len(note) > MaxNote {
		return act, ErrInvalid.New("The note is too long.")
	}
	now := s.clock()
	err = s.store.Atomic(ctx, func(ctx context.Context) error {
		if act, err = s.store.OwnershipAct(ctx, by.Scope(), name); err != nil {
			return err
		}
		if act.State != Open {
			return ErrNotOwner.New("%s is %s.", name, act.State)
		}
		for _, unit := range act.Units {
			u, err := s.store.Holds(ctx, by.Scope(), unit)
			if err != nil {
				return err
			}
			if u.State != Released || u.Act != act.Name {
				continue // decommissioned meanwhile
			}
			was := u.Version
			u.State, u.Since = Owned, now
			if err := s.store.PutUnit(ctx, u, was); err != nil {
				return err
			}
			if err := s.store.AddEvent(ctx, Event{Tenant: by.Tenant, Holder: u.Holder, Shown: u.Shown, Home: u.Home, What: DidWithdraw, At: now, By: by.Name, Note: note, Act: act.Name}); err != nil {
				return err
			}
		}
		was := act.Version
		act.State, act.EndedAt, act.EndedIn = Withdrawn, now, by.Tenant
		return s.store.PutAct(ctx, act, was)
	})
	if err != nil {
		return Act{}, err
	}
	s.Stats.Withdrawn.Add(int64(len(act.Units)))
	s.log.InfoContext(ctx, "release withdrawn", "act", act.Name, "by", by.String())
	return act, nil
}
