package registry

import (
	"context"
	"encoding/base64"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"hallmark/access"
	"hallmark/ca"
	"hallmark/fleet"
	"hallmark/provisioner/template"
)

// Thing is a device after first boot.
type Thing struct {
	Tenant        string
	Name          fleet.ThingName
	Holder        string // the identity that it was registered from, in lower case
	Attributes    map[string]string
	Type          string
	Groups        []string
	BillingGroup  string
	Policies      []string          // names
	Configuration map[string]string // as answered at first boot
	RegisteredBy  string            // authority of the birth certificate
	Version       int64             // 1 at first; rises with every change
	CreatedAt     time.Time
	UpdatedAt     time.Time
}

// Principal is a certificate that acts for a thing.
type Principal struct {
	Tenant     string
	Thing      fleet.ThingName
	Authority  string
	Serial     ca.Serial
	Status     fleet.PrincipalStatus
	AttachedAt time.Time

	// From the certificate's record; not stored with the principal.
	Holder   string // folded
	Profile  string
	Slot     string
	NotAfter time.Time
	Revoked  bool
}

// Live tells whether the certificate could act for its thing now or after a
// proof of its key.
func (p *Principal) Live(now time.Time) bool {
	return !p.Revoked && now.Before(p.NotAfter) && (p.Status == fleet.Active || p.Status == fleet.PendingActivation)
}

// Policy is a device policy document that a template brought along.
type Policy struct{ Tenant, Name, Document string }

// Query selects things. Without an attribute the names are searched.
type Query struct {
	Attribute string // key; "" searches names
	Prefix    string // of the value, or of the name
	From, To  string // value range From <= value < To; "" leaves an end open; only with an attribute
	Cursor    string // [Page.Next] of the page before
	Limit     int    // at most 1000; 0 means 100
}

// Range is a [Query] in the store's words: rows with From <= key < To, after
// the row (AfterKey, AfterThing), in the order of both.
type Range struct {
	Attribute            string
	From, To             string
	AfterKey, AfterThing string
	After                bool
	Limit                int
}

// Match is a thing that a search found.
type Match struct {
	Thing Thing
	Key   string // what the order follows: the value, or the folded name
}

// Page is a part of a search's result.
type Page struct {
	Things []Thing
	Next   string // cursor of the next page, "" at the end
}

// Store persists the registry. Contract: Atomic runs fn in one transaction that
// every method joins; look-ups see one tenant; Thing and ThingPrincipal return a
// NotFound fault when there is none; PutThing inserts when was is 0 and else
// changes the row only if its version is still was, with ErrThingChanged when
// somebody was faster.
type Store interface {
	Atomic(ctx context.Context, fn func(ctx context.Context) error) error
	Thing(ctx context.Context, s access.Scope, folded string) (Thing, error)
	ThingsOf(ctx context.Context, s access.Scope, holder string) ([]Thing, error)
	SearchThings(ctx context.Context, s access.Scope, r Range) ([]Match, error)
	PutThing(ctx context.Context, t Thing, was int64) error
	ThingPrincipal(ctx context.Context, s access.Scope, authority string, serial ca.Serial) (Principal, error)
	ThingPrincipals(ctx context.Context, s access.Scope, folded string) ([]Principal, error)
	PutThingPrincipal(ctx context.Context, p Principal) error
	PutPolicy(ctx context.Context, p Policy, now time.Time) error
	Policy(ctx context.Context, s access.Scope, name string) (Policy, error)
	// Broken lists what does not fit together; see [Registry.Fsck].
	Broken(ctx context.Context, now time.Time, report func(check, object, detail string)) error
}

// Config makes a Registry.
type Config struct {
	Store Store
	Now   func() time.Time
}

// Registry keeps things. It is safe for concurrent use.
type Registry struct {
	store Store
	now   func() time.Time
}

// New makes a Registry.
func New(cfg Config) *Registry {
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	return &Registry{cfg.Store, cfg.Now}
}

// Registration is what a first boot wants to be true.
type Registration struct {
	Thing     Thing
	Overrides template.ThingOverrides
	Policies  []Policy // documents; the names are in Thing.Policies too
	// TakeOver allows a thing that has a live certificate of another device.
	// Set it only if both the registration and the hook allow it (S22).
	TakeOver bool
}

// Attachment is the certificate to attach.
type Attachment struct {
	Authority string
	Serial    ca.Serial
	Status    fleet.PrincipalStatus // for a new one; a pending one becomes active when this says so
}

// Check tells whether [Registry.Register] would take the registration now. It
// is asked before a certificate is made; Register decides again.
func (r *Registry) Check(ctx context.Context, reg Registration) error {
	_, err := r.decide(ctx, &reg, r.now())
	return err
}

// Register makes or changes the thing and attaches the certificate, in one
// transaction; it returns what is now true. When another node was faster it
// decides again about what is there then.
func (r *Registry) Register(ctx context.Context, reg Registration, at Attachment) (thing Thing, p Principal, err error) {
	for range 4 {
		if thing, p, err = r.register(ctx, reg, at); !errors.Is(err, ErrThingChanged) {
			break
		}
	}
	return thing, p, err
}

func (r *Registry) register(ctx context.Context, reg Registration, at Attachment) (thing Thing, p Principal, err error) {
	now := r.now().UTC().Truncate(time.Millisecond) // as it is stored
	scope := access.Scope{Tenant: reg.Thing.Tenant}
	err = r.store.Atomic(ctx, func(ctx context.Context) error {
		// 1. The thing: what should be, and what has to go.
		d, err := r.decide(ctx, &reg, now)
		if err != nil {
			return err
		}
		if thing = d.thing; d.changed {
			thing.Version, thing.UpdatedAt = thing.Version+1, now
			if err := r.store.PutThing(ctx, thing, d.thing.Version); err != nil {
				return err
			}
		}
		for _, old := range d.evict {
			old.Status = fleet.Inactive
			if err := r.store.PutThingPrincipal(ctx, old); err != nil {
				return err
			}
		}
		for _, policy := range reg.Policies {
			if err := r.store.PutPolicy(ctx, policy, now); err != nil {
				return err
			}
		}
		// 2. The certificate: once attached, only its proof changes it here.
		p, err = r.store.ThingPrincipal(ctx, scope, at.Authority, at.Serial)
		switch {
		case errors.Is(err, ErrPrincipalUnknown):
			p = Principal{Tenant: thing.Tenant, Thing: thing.Name, Authority: at.Authority, Serial: at.Serial, Status: at.Status, AttachedAt: now}
			return r.store.PutThingPrincipal(ctx, p)
		case err != nil:
			return err
		case p.Thing != thing.Name:
			return ErrPrincipalBound.New("")
		case p.Status == fleet.PendingActivation && at.Status == fleet.Active:
			p.Status = fleet.Active
			return r.store.PutThingPrincipal(ctx, p)
		}
		return nil
	})
	return thing, p, err
}

// decision is what a registration comes to.
type decision struct {
	thing   Thing // as it should be; the version is that of the stored row, 0 for none
	changed bool  // it differs from the row
	evict   []Principal
}

func (r *Registry) decide(ctx context.Context, reg *Registration, now time.Time) (decision, error) {
	t := reg.Thing
	t.Holder = strings.ToLower(t.Holder)
	if _, err := fleet.ParseThingName(string(t.Name)); err != nil {
		return decision{}, err
	}
	scope := access.Scope{Tenant: t.Tenant}
	have, err := r.store.Thing(ctx, scope, t.Name.Fold())
	if errors.Is(err, ErrThingUnknown) {
		t.Version, t.CreatedAt = 0, now
		return decision{thing: t, changed: true}, nil
	}
	if err != nil {
		return decision{}, err
	}
	switch {
	case have.Name != t.Name:
		return decision{}, ErrThingCase.New("")
	case have.RegisteredBy != t.RegisteredBy:
		return decision{}, ErrThingElsewhere.New("")
	}
	// S22: a live certificate of another device keeps its thing.
	var d decision
	principals, err := r.store.ThingPrincipals(ctx, scope, t.Name.Fold())
	if err != nil {
		return decision{}, err
	}
	for _, p := range principals {
		if p.Live(now) && !strings.EqualFold(p.Holder, t.Holder) {
			if !reg.TakeOver {
				return decision{}, ErrThingTaken.New("")
			}
			d.evict = append(d.evict, p)
		}
	}
	// What the template may change of what is there.
	d.thing = have
	d.thing.Holder, d.thing.Policies, d.thing.Configuration = t.Holder, t.Policies, t.Configuration
	if d.thing.Attributes, err = overrideMap(have.Attributes, t.Attributes, reg.Overrides.Attributes); err != nil {
		return decision{}, err
	}
	if d.thing.Type, err = overrideText(have.Type, t.Type, reg.Overrides.Type, "type"); err != nil {
		return decision{}, err
	}
	if d.thing.BillingGroup, err = overrideText(have.BillingGroup, t.BillingGroup, reg.Overrides.Type, "billing group"); err != nil {
		return decision{}, err
	}
	if d.thing.Groups, err = overrideList(have.Groups, t.Groups, reg.Overrides.Groups); err != nil {
		return decision{}, err
	}
	d.changed = !same(&have, &d.thing)
	return d, nil
}

func same(a, b *Thing) bool {
	return a.Holder == b.Holder && a.Type == b.Type && a.BillingGroup == b.BillingGroup && maps.Equal(a.Attributes, b.Attributes) &&
		slices.Equal(a.Groups, b.Groups) && slices.Equal(a.Policies, b.Policies) && maps.Equal(a.Configuration, b.Configuration)
}

func overrideMap(have, want map[string]string, o template.Override) (map[string]string, error) {
	switch {
	case maps.Equal(have, want) || o == template.DoNothing:
		return have, nil
	case o == template.Replace:
		return want, nil
	case o == template.Merge:
		out := maps.Clone(have)
		if out == nil {
			out = map[string]string{}
		}
		maps.Copy(out, want)
		return out, nil
	}
	return nil, ErrThingConflict.New("Its attributes differ.")
}

func overrideText(have, want string, o template.Override, what string) (string, error) {
	switch {
	case have == want || o == template.DoNothing:
		return have, nil
	case o == template.Replace:
		return want, nil
	}
	return "", ErrThingConflict.New("Its %s differs.", what)
}

func overrideList(have, want []string, o template.Override) ([]string, error) {
	sorted := func(l []string) []string { return slices.Sorted(slices.Values(l)) }
	switch {
	case slices.Equal(sorted(have), sorted(want)) || o == template.DoNothing:
		return have, nil
	case o == template.Replace:
		return want, nil
	case o == template.Merge:
		out := slices.Clone(have)
		for _, g := range want {
			if !slices.Contains(out, g) {
				out = append(out, g)
			}
		}
		return out, nil
	}
	return nil, ErrThingConflict.New("Its groups differ.")
}

// Get finds a thing; the spelling must be exact.
func (r *Registry) Get(ctx context.Context, s access.Scope, name fleet.ThingName) (Thing, error) {
	t, err := r.store.Thing(ctx, s, name.Fold())
	if err == nil && t.Name != name {
		return Thing{}, ErrThingUnknown.New("%q is known in another spelling.", name)
	}
	return t, err
}

// ByHolder lists the things that were registered from an identity.
func (r *Registry) ByHolder(ctx context.Context, s access.Scope, holder string) ([]Thing, error) {
	return r.store.ThingsOf(ctx, s, strings.ToLower(holder))
}

// Principals lists the certificates of a thing.
func (r *Registry) Principals(ctx context.Context, s access.Scope, name fleet.ThingName) ([]Principal, error) {
	return r.store.ThingPrincipals(ctx, s, name.Fold())
}

// Principal finds the thing's side of a certificate.
func (r *Registry) Principal(ctx context.Context, s access.Scope, authority string, serial ca.Serial) (Principal, error) {
	return r.store.ThingPrincipal(ctx, s, authority, serial)
}

// Policy finds a policy document by its name.
func (r *Registry) Policy(ctx context.Context, s access.Scope, name string) (Policy, error) {
	return r.store.Policy(ctx, s, name)
}

// SetStatus changes a certificate's status by hand. It says what the runtime
// does with the certificate; taking the certificate away is revocation.
func (r *Registry) SetStatus(ctx context.Context, s access.Scope, authority string, serial ca.Serial, to fleet.PrincipalStatus) error {
	if to == fleet.PendingActivation {
		return ErrPrincipalStatus.New("Nobody sets %s.", to)
	}
	return r.store.Atomic(ctx, func(ctx context.Context) error {
		p, err := r.store.ThingPrincipal(ctx, s, authority, serial)
		if err != nil || p.Status == to {
			return err
		}
		if p.Revoked || !p.Status.CanBecome(to) {
			return ErrPrincipalStatus.New("It is %s.", p.Status)
		}
		p.Status = to
		return r.store.PutThingPrincipal(ctx, p)
	})
}

// Prove activates a pending certificate after its key was proven by a
// connection (S15). It reports whether it was pending; another status stays.
func (r *Registry) Prove(ctx context.Context, s access.Scope, authority string, serial ca.Serial) (changed bool, err error) {
	err = r.store.Atomic(ctx, func(ctx context.Context) error {
		changed = false
		p, err := r.store.ThingPrincipal(ctx, s, authority, serial)
		if err != nil || p.Status != fleet.PendingActivation || p.Revoked {
			return err
		}
		p.Status, changed = fleet.Active, true
		return r.store.PutThingPrincipal(ctx, p)
	})
	return changed, err
}

// maxRune ends a prefix range: nothing that starts with the prefix is above it.
const maxRune = "\U0010ffff"

// List searches things, in pages.
func (r *Registry) List(ctx context.Context, s access.Scope, q Query) (Page, error) {
	rng := Range{Attribute: q.Attribute, From: q.From, To: q.To, Limit: q.Limit}
	if rng.Limit <= 0 || rng.Limit > 1000 {
		rng.Limit = 100
	}
	if q.Attribute == "" && (q.From != "" || q.To != "") || q.Prefix != "" && (q.From != "" || q.To != "") {
		return Page{}, ErrQuery.New("A range needs an attribute and no prefix.")
	}
	if q.Prefix != "" {
		p := q.Prefix
		if q.Attribute == "" {
			p = strings.ToLower(p)
		}
		rng.From, rng.To = p, p+maxRune
	}
	if q.Cursor != "" {
		raw, err := base64.RawURLEncoding.DecodeString(q.Cursor)
		key, thing, ok := strings.Cut(string(raw), "\x00")
		if err != nil || !ok {
			return Page{}, ErrQuery.New("The cursor is damaged.")
		}
		rng.After, rng.AfterKey, rng.AfterThing = true, key, thing
	}
	rng.Limit++ // one more tells whether there is a next page
	found, err := r.store.SearchThings(ctx, s, rng)
	if err != nil {
		return Page{}, err
	}
	var page Page
	if len(found) == rng.Limit {
		found = found[:len(found)-1]
		last := found[len(found)-1]
		page.Next = base64.RawURLEncoding.EncodeToString([]byte(last.Key + "\x00" + last.Thing.Name.Fold()))
	}
	for _, m := range found {
		page.Things = append(page.Things, m.Thing)
	}
	return page, nil
}
