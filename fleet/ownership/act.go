package ownership

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/hex"
	"encoding/json"
	"errors"
	"regexp"
	"slices"
	"strings"
	"time"

	"hallmark/access"
	"hallmark/crl"
	"hallmark/fleet"
	"hallmark/fleet/registry"
	"hallmark/fleet/shadow"
)

// Bounds of an act. All of its units change in one transaction, and others wait for it.
const (
	MaxUnits  = 500
	MaxNote   = 512
	MinCode   = time.Hour
	MaxCode   = 90 * 24 * time.Hour
	codeBytes = 20
)

var (
	names   = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$`)
	units   = regexp.MustCompile(`^[A-Za-z0-9._:-]{1,64}$`)
	letters = base32.StdEncoding.WithPadding(base32.NoPadding)
)

// Wanted is what somebody asks for.
type Wanted struct {
	Name  string
	Kind  Kind
	Units []string
	To    string        // of a release: the only tenant that may accept; "" is whoever has the code
	Valid time.Duration // of a release: how long the code is; 0 is a week
	Note  string
}

// Complete fills in what was left out, and refuses what cannot be.
func (w *Wanted) Complete() error {
	if w.Kind == Release && w.Valid == 0 {
		w.Valid = 7 * 24 * time.Hour
	}
	switch {
	case !names.MatchString(w.Name):
		return ErrInvalid.New("The name %.80q is not 1 to 64 characters of A-Z a-z 0-9 . _ - that begin with a letter or a digit.", w.Name)
	case w.Kind != Release && w.Kind != Reset && w.Kind != Decommission:
		return ErrInvalid.New("%.40q is none of release, reset and decommission.", w.Kind)
	case len(w.Units) == 0 || len(w.Units) > MaxUnits:
		return ErrInvalid.New("It names %d units; 1 to %d go at once.", len(w.Units), MaxUnits)
	case len(w.Note) > MaxNote:
		return ErrInvalid.New("The note has %d octets, %d are allowed.", len(w.Note), MaxNote)
	case w.Kind != Release && (w.To != "" || w.Valid != 0):
		return ErrInvalid.New("Only a release has a receiver and a code.")
	case w.Kind == Release && (w.Valid < MinCode || w.Valid > MaxCode):
		return ErrInvalid.New("The code would be valid for %s; %s to %s are.", w.Valid, MinCode, MaxCode)
	}
	seen := map[string]bool{}
	for _, u := range w.Units {
		if f := strings.ToLower(u); !units.MatchString(u) || seen[f] {
			return ErrInvalid.New("The unit %.80q is named twice, or is no name of a unit.", u)
		} else {
			seen[f] = true
		}
	}
	return nil
}

// Check tells whether the act could be carried out now.
func (s *Service) Check(ctx context.Context, scope access.Scope, w Wanted) error {
	if err := w.Complete(); err != nil {
		return err
	}
	if w.To == scope.Tenant {
		return ErrInvalid.New("The device is released to another tenant; with the same one it is a reset.")
	}
	for _, name := range w.Units {
		if _, err := s.may(ctx, scope, w.Kind, name); err != nil {
			return err
		}
	}
	return nil
}

// may finds a unit that the act can be carried out with.
func (s *Service) may(ctx context.Context, scope access.Scope, k Kind, name string) (Unit, error) {
	u, born, err := s.look(ctx, scope, name, s.now())
	switch {
	case err != nil:
		return u, err
	case u.State == Decommissioned || u.State != Owned && k != Decommission:
		return u, ErrNotOwner.New("%s is %s.", u.Shown, u.State)
	case !born && k != Decommission:
		return u, ErrBirth.New("Unit %s.", u.Shown)
	}
	return u, nil
}

// Do carries an act out: all of it or nothing. The code of a release is in the answer
// and nowhere else. The same act again, by the same tenant, does nothing and tells no
// code.
func (s *Service) Do(ctx context.Context, by access.Actor, w Wanted) (act Act, code string, err error) {
	if err := s.Check(ctx, by.Scope(), w); err != nil {
		// What was done already cannot be done again, and need not.
		if have, herr := s.store.OwnershipAct(ctx, by.Scope(), w.Name); herr == nil && same(&have, &w) {
			return have, "", nil
		}
		return Act{}, "", err
	}
	if err := w.Complete(); err != nil {
		return Act{}, "", err
	}
	raw := make([]byte, codeBytes)
	rand.Read(raw)
	now := s.clock()
	err = s.store.Atomic(ctx, func(ctx context.Context) error {
		code = ""
		have, err := s.store.OwnershipAct(ctx, by.Scope(), w.Name)
		if err == nil {
			if act = have; !same(&have, &w) {
				return ErrExists.New("%s.", w.Name)
			}
			return nil
		}
		if !errors.Is(err, ErrAct) {
			return err
		}
		act = Act{Tenant: by.Tenant, Name: w.Name, Kind: w.Kind, Units: w.Units, To: w.To, Note: w.Note, By: by.Name, At: now, State: Done}
		if w.Kind == Release {
			code = Form(raw)
			act.State, act.Code, act.Expires = Open, hash(raw), now.Add(w.Valid)
		}
		for _, name := range w.Units {
			if err := s.one(ctx, by, &act, name, now); err != nil {
				return err
			}
		}
		return s.store.PutAct(ctx, act, 0)
	})
	if err != nil {
		return Act{}, "", err
	}
	s.rouse()
	return act, code, nil
}

func same(a *Act, w *Wanted) bool {
	return a.Kind == w.Kind && slices.Equal(a.Units, w.Units) && a.To == w.To
}

// one is the act for one unit.
func (s *Service) one(ctx context.Context, by access.Actor, a *Act, name string, now time.Time) error {
	u, err := s.may(ctx, by.Scope(), a.Kind, name)
	if err != nil {
		return err
	}
	e := Event{Tenant: by.Tenant, Holder: u.Holder, Shown: u.Shown, Home: u.Home, At: now, By: by.Name, Note: a.Note, Act: a.Name}
	was := u.Version
	u.Act, u.Since = a.Name, now
	switch a.Kind {
	case Release:
		u.State, e.What = Released, DidRelease
	case Reset:
		e.What = DidReset
	case Decommission:
		u.State, e.What = Decommissioned, DidDecommission
	}
	// What the owner had is written down before it goes.
	things, err := s.cfg.Registry.ByHolder(ctx, by.Scope(), u.Holder)
	if err != nil {
		return err
	}
	left := Left{Tenant: by.Tenant, Holder: u.Holder}
	for i := range things {
		archive, err := s.archive(ctx, by.Scope(), &things[i])
		if err != nil {
			return err
		}
		if things[i].RegisteredBy != registry.Released {
			e.Archive = append(e.Archive, archive)
		}
		left.Things = append(left.Things, things[i].Name)
	}
	var gone crl.Result
	if a.Kind == Decommission {
		gone, err = s.takeAway(ctx, by, a, &u)
	} else {
		gone, err = s.cfg.Revoker.RetireDevice(ctx, by, u.Holder, crl.CessationOfOperation, a.said())
	}
	if err != nil {
		return err
	}
	for _, n := range gone.Revoked {
		e.Revoked = append(e.Revoked, n.String())
	}
	for i := range things {
		if err := s.empty(ctx, by.Scope(), things[i].Name); err != nil {
			return err
		}
	}
	if err := s.store.PutUnit(ctx, u, was); err != nil {
		return err
	}
	a.Left = append(a.Left, left)
	return s.store.AddEvent(ctx, e)
}

// takeAway revokes everything that a unit has, the birth certificate too, and blocks
// its name for ever, at home and at its owner. Who owns it decides that, whoever's
// authority made it.
func (s *Service) takeAway(ctx context.Context, by access.Actor, a *Act, u *Unit) (out crl.Result, err error) {
	out, err = s.cfg.Revoker.BlockDevice(ctx, by, u.Holder, crl.CessationOfOperation, a.said())
	if u.Foreign() {
		if errors.Is(err, crl.ErrHolderUnknown) { // it never booted here
			out, err = crl.Result{}, nil
		}
		if err != nil {
			return out, err
		}
		home := access.Actor{Tenant: u.Home, Kind: access.KindService, Name: "ownership"}
		var more crl.Result
		more, err = s.cfg.Revoker.BlockDevice(ctx, home, u.Holder, crl.CessationOfOperation, "decommissioned by its owner")
		out.Revoked = append(out.Revoked, more.Revoked...)
	}
	return out, err
}

// archive is a thing as it is, with its shadows.
func (s *Service) archive(ctx context.Context, scope access.Scope, t *registry.Thing) (Archive, error) {
	a := Archive{Thing: t.Name, Type: t.Type, Attributes: t.Attributes, Groups: t.Groups, BillingGroup: t.BillingGroup, Policies: t.Policies, Configuration: t.Configuration, CreatedAt: t.CreatedAt}
	principals, err := s.cfg.Registry.Principals(ctx, scope, t.Name)
	if err != nil {
		return a, err
	}
	for _, p := range principals {
		c := ArchivedCertificate{ID: p.Certificate, Authority: p.Authority, Status: string(p.Status)}
		if p.Authority != "" {
			c.Serial = p.Serial.String()
		}
		if c.Policies, err = s.cfg.Registry.AttachedPolicies(ctx, scope, registry.CertificateTarget(p.Certificate), false); err != nil {
			return a, err
		}
		a.Certificates = append(a.Certificates, c)
	}
	shadows, err := s.store.ShadowNames(ctx, scope, t.Name, "", 100)
	if err != nil {
		return a, err
	}
	for _, name := range append([]string{""}, shadows...) {
		r, err := s.store.Shadow(ctx, scope, shadow.Key{Tenant: scope.Tenant, Thing: t.Name, Name: name})
		if err != nil {
			return a, err
		}
		if r.Version == 0 || r.Deleted || !json.Valid(r.Document) {
			continue
		}
		if a.Shadows == nil {
			a.Shadows = map[string]json.RawMessage{}
		}
		a.Shadows[name] = r.Document
	}
	return a, nil
}

// empty takes from a thing what its owner gave it.
func (s *Service) empty(ctx context.Context, scope access.Scope, thing fleet.ThingName) error {
	if err := s.cfg.Registry.Retire(ctx, scope, thing); err != nil {
		return err
	}
	if err := s.store.DropShadows(ctx, scope, thing); err != nil {
		return err
	}
	return s.store.DropBundle(ctx, scope.Tenant, thing)
}

// Form writes a code for people: groups of four letters and digits.
func Form(raw []byte) string {
	text := letters.EncodeToString(raw)
	var out []string
	for len(text) > 4 {
		out, text = append(out, text[:4]), text[4:]
	}
	return strings.Join(append(out, text), "-")
}

// parseCode reads a code as people write it.
func parseCode(text string) ([]byte, error) {
	text = strings.ToUpper(strings.NewReplacer("-", "", " ", "").Replace(text))
	if len(text) > 64 {
		return nil, ErrCode.New("")
	}
	raw, err := letters.DecodeString(text)
	if err != nil || len(raw) != codeBytes {
		return nil, ErrCode.New("")
	}
	return raw, nil
}

func hash(raw []byte) string {
	sum := sha256.Sum256(append([]byte("hallmark transfer code v1\x00"), raw...))
	return hex.EncodeToString(sum[:])
}
