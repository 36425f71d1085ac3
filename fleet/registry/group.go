package registry

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"hallmark/access"
	"hallmark/fleet"
)

// GroupClass keeps the two kinds of names apart.
type GroupClass string

// The classes of groups.
const (
	ThingGroup   GroupClass = "thing"   // static or dynamic; a thing is in many
	BillingGroup GroupClass = "billing" // a thing is in one
)

// GroupStatus says whether a dynamic group's members are known.
type GroupStatus string

// The statuses, as on the wire. Static groups are always ACTIVE.
const (
	GroupActive   GroupStatus = "ACTIVE"
	GroupBuilding GroupStatus = "BUILDING" // see [Registry.Build]
)

// Group is a group of things. Which things are in a static one is said by the
// things ([Thing.Groups]); in a dynamic one, by its query.
type Group struct {
	Tenant      string
	Class       GroupClass
	Name        string
	Parent      string // as spelt; fixed once the group exists
	Depth       int    // 1 for one without a parent
	Query       string // of a dynamic group, see [ParseFilter]
	Status      GroupStatus
	Cursor      string // how far [Registry.Build] came
	Description string
	Attributes  map[string]string
	Tags        map[string]string
	Version     int64 // 1 at first; rises with every change that a person makes
	CreatedAt   time.Time
	UpdatedAt   time.Time
}

// Fold is the compared form of the group's name.
func (g *Group) Fold() string { return strings.ToLower(g.Name) }

// Type is a thing type.
type Type struct {
	Tenant      string
	Name        string
	Description string
	Attributes  []string // names that things of this type are searched by
	Tags        map[string]string
	Deprecated  time.Time // zero for one in use
	Version     int64
	CreatedAt   time.Time
	UpdatedAt   time.Time
}

// GroupStore persists groups and thing types. Contract: as of [Store]; names are
// compared folded; look-ups return ErrGroupUnknown or ErrTypeUnknown. PutGroup
// inserts when was is 0 and else changes the row only if its version is still
// was, with ErrGroupChanged; PutType likewise. PutProgress changes status and
// cursor only, if the version is still the group's. GroupThings lists folded
// names in order: of a static group's own things, with nested those of the
// groups below too, of a dynamic or billing group its things. OfType lists
// those of a type.
type GroupStore interface {
	Group(ctx context.Context, s access.Scope, c GroupClass, name string) (Group, error)
	Groups(ctx context.Context, s access.Scope, q GroupQuery) ([]Group, error)
	PutGroup(ctx context.Context, g Group, was int64) error
	PutProgress(ctx context.Context, g Group) error
	DropGroup(ctx context.Context, tenant string, c GroupClass, name string) error
	GroupThings(ctx context.Context, s access.Scope, g Group, nested bool, after string, limit int) ([]fleet.ThingName, error)
	DynamicGroupsOf(ctx context.Context, s access.Scope, folded string) ([]string, error)
	// Building lists dynamic groups of all tenants that are being built.
	Building(ctx context.Context, limit int) ([]Group, error)
	// Regroup decides anew which dynamic groups a thing is in.
	Regroup(ctx context.Context, tenant string, folded string) error
	// ForgetGroup removes up to limit things from a dynamic group that is gone.
	ForgetGroup(ctx context.Context, tenant string, name string, limit int) (int64, error)

	Type(ctx context.Context, s access.Scope, name string) (Type, error)
	Types(ctx context.Context, s access.Scope, after string, limit int) ([]Type, error)
	PutType(ctx context.Context, t Type, was int64) error
	DropType(ctx context.Context, tenant string, name string) error
	OfType(ctx context.Context, s access.Scope, name, after string, limit int) ([]fleet.ThingName, error)
}

// GroupQuery selects groups in the order of their folded names.
type GroupQuery struct {
	Class  GroupClass
	Parent string // only those right below it; "" for all
	Roots  bool   // only those without a parent
	Prefix string // of the name
	After  string // name
	Limit  int    // at most 1000; 0 means 100
}

func nameOK(s string) bool { _, err := fleet.ParseThingName(s); return err == nil } // groups and types have the names of things

func checkTags(tags map[string]string) error {
	if len(tags) > maxTags {
		return ErrTags.New("There are %d.", len(tags))
	}
	for k, v := range tags {
		if k == "" || len(k) > maxName || len(v) > maxTagValue || !printable(k) || !printable(v) {
			return ErrTags.New("%.40q", k)
		}
	}
	return nil
}

// CreateGroup makes a group. The same again changes nothing.
func (r *Registry) CreateGroup(ctx context.Context, g Group) (out Group, err error) {
	if !nameOK(g.Name) || g.Class != ThingGroup && g.Class != BillingGroup || g.Class == BillingGroup && (g.Parent != "" || g.Query != "") {
		return g, ErrGroupInvalid.New("Its name, or what it is made of.")
	}
	if err := checkGroup(&g); err != nil {
		return g, err
	}
	if g.Query != "" && g.Parent != "" {
		return g, ErrGroupInvalid.New("A dynamic group has no parent.")
	}
	scope := access.Scope{Tenant: g.Tenant}
	err = r.store.Atomic(ctx, func(ctx context.Context) error {
		have, err := r.store.Group(ctx, scope, g.Class, g.Name)
		if err == nil {
			if out = have; have.Name != g.Name || have.Parent != g.Parent || have.Query != g.Query || have.Description != g.Description || !maps.Equal(have.Attributes, g.Attributes) || !maps.Equal(have.Tags, g.Tags) {
				return ErrGroupExists.New("")
			}
			return nil
		}
		if !errors.Is(err, ErrGroupUnknown) {
			return err
		}
		out = g
		out.Depth, out.Status, out.Cursor, out.Version, out.CreatedAt = 1, GroupActive, "", 1, r.stamp()
		out.UpdatedAt = out.CreatedAt
		if g.Parent != "" {
			p, err := r.store.Group(ctx, scope, ThingGroup, g.Parent)
			switch {
			case err != nil:
				return err
			case p.Query != "":
				return ErrGroupInvalid.New("Nothing is below a dynamic group.")
			case p.Depth >= MaxGroupDepth:
				return ErrGroupDepth.New("")
			}
			out.Parent, out.Depth = p.Name, p.Depth+1
		}
		if g.Query != "" {
			all, err := r.store.Groups(ctx, scope, GroupQuery{Class: ThingGroup, Limit: -1})
			if err != nil {
				return err
			}
			n := 0
			for _, o := range all {
				if o.Query != "" {
					n++
				}
			}
			if n >= MaxDynamicGroups {
				return ErrGroupLimit.New("")
			}
			out.Status = GroupBuilding
		}
		return r.store.PutGroup(ctx, out, 0)
	})
	return out, err
}

func checkGroup(g *Group) error {
	if len(g.Description) > maxDescription || !printable(g.Description) {
		return ErrGroupInvalid.New("Its description has more than %d characters, or control characters.", maxDescription)
	}
	if err := checkAttributes(g.Attributes, MaxAttributes); err != nil {
		return err
	}
	if g.Query != "" {
		if _, err := ParseFilter(g.Query); err != nil {
			return err
		}
	}
	return checkTags(g.Tags)
}

// GroupChange is what may change of a group; nil leaves it.
type GroupChange struct {
	Description     *string
	Attributes      map[string]string
	Tags            map[string]string
	Query           *string // of a dynamic group
	ExpectedVersion int64   // 0 for any
}

// UpdateGroup changes a group. A new query has the members found again.
func (r *Registry) UpdateGroup(ctx context.Context, s access.Scope, c GroupClass, name string, ch GroupChange) (out Group, err error) {
	for range maxTries {
		err = r.store.Atomic(ctx, func(ctx context.Context) error {
			g, err := r.group(ctx, s, c, name)
			if err != nil {
				return err
			}
			if ch.ExpectedVersion != 0 && ch.ExpectedVersion != g.Version {
				return ErrVersion.New("It has the version %d.", g.Version)
			}
			if ch.Description != nil {
				g.Description = *ch.Description
			}
			if ch.Attributes != nil {
				g.Attributes = ch.Attributes
			}
			if ch.Tags != nil {
				g.Tags = ch.Tags
			}
			if ch.Query != nil {
				if g.Query == "" || *ch.Query == "" {
					return ErrGroupInvalid.New("A static group does not become a dynamic one, nor the other way round.")
				}
				if g.Query != *ch.Query {
					g.Query, g.Status, g.Cursor = *ch.Query, GroupBuilding, ""
				}
			}
			if err := checkGroup(&g); err != nil {
				return err
			}
			was := g.Version
			g.Version, g.UpdatedAt = was+1, r.stamp()
			out = g
			return r.store.PutGroup(ctx, g, was)
		})
		if !errors.Is(err, ErrGroupChanged) {
			break
		}
	}
	return out, err
}

// group finds a group in its exact spelling.
func (r *Registry) group(ctx context.Context, s access.Scope, c GroupClass, name string) (Group, error) {
	g, err := r.store.Group(ctx, s, c, name)
	if err == nil && g.Name != name {
		return Group{}, ErrGroupUnknown.New("%q is known in another spelling.", name)
	}
	return g, err
}

// Group finds a group.
func (r *Registry) Group(ctx context.Context, s access.Scope, c GroupClass, name string) (Group, error) {
	return r.group(ctx, s, c, name)
}

// CheckGroups tells whether a registration could put a thing into these groups: each is
// a static one, or could be made as one.
func (r *Registry) CheckGroups(ctx context.Context, s access.Scope, names []string) error {
	for _, name := range names {
		if !nameOK(name) {
			return ErrGroupInvalid.New("The name %.80q.", name)
		}
		g, err := r.store.Group(ctx, s, ThingGroup, name)
		switch {
		case errors.Is(err, ErrGroupUnknown):
		case err != nil:
			return err
		case g.Name != name:
			return ErrGroupExists.New("It is spelled %q.", g.Name)
		case g.Query != "":
			return ErrGroupInvalid.New("The members of a dynamic group are those that its query finds.")
		}
	}
	return nil
}

// Groups lists groups in pages.
func (r *Registry) Groups(ctx context.Context, s access.Scope, q GroupQuery) ([]Group, error) {
	q.Limit = pageSize(q.Limit)
	return r.store.Groups(ctx, s, q)
}

// ancestors gives a group and the groups above it, from the group upward. What
// does not end at the depth that groups can have is a ring that somebody else
// wrote.
func (r *Registry) ancestors(ctx context.Context, s access.Scope, name string) (out []Group, err error) {
	for name != "" && len(out) < MaxGroupDepth {
		g, err := r.store.Group(ctx, s, ThingGroup, name)
		if err != nil {
			return nil, err
		}
		out = append(out, g)
		name = g.Parent
	}
	if name != "" {
		return nil, ErrGroupDepth.New("%s", name)
	}
	return out, nil
}

// DropGroup removes a group that has no group below it, and its things from it.
func (r *Registry) DropGroup(ctx context.Context, s access.Scope, c GroupClass, name string, expectedVersion int64) error {
	check := func(ctx context.Context) (Group, error) {
		g, err := r.group(ctx, s, c, name)
		if err != nil {
			return g, err
		}
		if expectedVersion != 0 && expectedVersion != g.Version {
			return g, ErrVersion.New("It has the version %d.", g.Version)
		}
		if c == ThingGroup {
			below, err := r.store.Groups(ctx, s, GroupQuery{Class: c, Parent: name, Limit: 1})
			if err != nil {
				return g, err
			}
			if len(below) > 0 {
				return g, ErrGroupInUse.New("It has groups below it.")
			}
			policies, err := r.store.AttachedPolicies(ctx, s, GroupTarget(name))
			if err != nil {
				return g, err
			}
			if len(policies) > 0 {
				return g, ErrGroupInUse.New("It has policies.")
			}
		}
		return g, nil
	}
	for {
		g, err := check(ctx)
		if err != nil {
			return err
		}
		var things []fleet.ThingName
		if g.Query == "" {
			if things, err = r.store.GroupThings(ctx, s, g, false, "", dropPage); err != nil {
				return err
			}
		}
		// The things leave in pages, so that a large group does not hold the writer.
		err = r.store.Atomic(ctx, func(ctx context.Context) error {
			for _, t := range things {
				if err := r.leave(ctx, s, t, &g); err != nil && !errors.Is(err, ErrThingUnknown) {
					return err
				}
			}
			if len(things) == dropPage {
				return nil
			}
			if _, err := check(ctx); err != nil {
				return err
			}
			return r.store.DropGroup(ctx, s.Tenant, c, name)
		})
		if err != nil {
			return err
		}
		if len(things) < dropPage {
			break
		}
	}
	if c != ThingGroup {
		return nil
	}
	for {
		n, err := r.store.ForgetGroup(ctx, s.Tenant, name, dropPage)
		if err != nil || n < dropPage {
			return err
		}
	}
}

const dropPage = 200

func (r *Registry) leave(ctx context.Context, s access.Scope, thing fleet.ThingName, g *Group) error {
	_, err := r.changeThing(ctx, s, thing, func(_ context.Context, t *Thing) error {
		if g.Class == BillingGroup {
			if strings.EqualFold(t.BillingGroup, g.Name) {
				t.BillingGroup = ""
			}
			return nil
		}
		t.Groups = slices.DeleteFunc(slices.Clone(t.Groups), func(n string) bool { return strings.EqualFold(n, g.Name) })
		return nil
	})
	return err
}

// AddToGroup puts a thing into a static or a billing group. overrideDynamic is
// the wire's word and changes nothing here: dynamic groups never push out.
func (r *Registry) AddToGroup(ctx context.Context, s access.Scope, c GroupClass, name string, thing fleet.ThingName) error {
	return r.store.Atomic(ctx, func(ctx context.Context) error {
		g, err := r.group(ctx, s, c, name)
		if err != nil {
			return err
		}
		if g.Query != "" {
			return ErrGroupInvalid.New("The members of a dynamic group are those that its query finds.")
		}
		_, err = r.changeThing(ctx, s, thing, func(_ context.Context, t *Thing) error {
			if c == BillingGroup {
				t.BillingGroup = g.Name
				return nil
			}
			if slices.Contains(t.Groups, g.Name) {
				return nil
			}
			if len(t.Groups) >= MaxThingGroups {
				return ErrGroupLimit.New("The thing is in %d groups.", len(t.Groups))
			}
			t.Groups = append(slices.Clone(t.Groups), g.Name)
			return nil
		})
		return err
	})
}

// RemoveFromGroup takes a thing out of a static or a billing group.
func (r *Registry) RemoveFromGroup(ctx context.Context, s access.Scope, c GroupClass, name string, thing fleet.ThingName) error {
	return r.store.Atomic(ctx, func(ctx context.Context) error {
		g, err := r.group(ctx, s, c, name)
		if err != nil {
			return err
		}
		if g.Query != "" {
			return ErrGroupInvalid.New("The members of a dynamic group are those that its query finds.")
		}
		return r.leave(ctx, s, thing, &g)
	})
}

// GroupThings lists the things of a group in the order of their folded names;
// nested takes those of the groups below a static group too.
func (r *Registry) GroupThings(ctx context.Context, s access.Scope, c GroupClass, name string, nested bool, after fleet.ThingName, limit int) ([]fleet.ThingName, error) {
	g, err := r.group(ctx, s, c, name)
	if err != nil {
		return nil, err
	}
	return r.store.GroupThings(ctx, s, g, nested, after.Fold(), pageSize(limit))
}

// DynamicGroupsOf lists the dynamic groups that a thing is in.
func (r *Registry) DynamicGroupsOf(ctx context.Context, s access.Scope, thing fleet.ThingName) ([]string, error) {
	return r.store.DynamicGroupsOf(ctx, s, thing.Fold())
}

// Things lists the things of a target, which is thing/NAME, thinggroup/NAME
// (with the groups below it) or the name of one of both without the word before
// it: a group's if there is one. query/TEXT is what a search finds. It is
// [jobs.Targets].
func (r *Registry) Things(ctx context.Context, tenant, target string, after fleet.ThingName, limit int) ([]fleet.ThingName, error) {
	s := access.Scope{Tenant: tenant}
	if query, ok := strings.CutPrefix(target, "query/"); ok {
		return r.matching(ctx, s, query, after, limit)
	}
	if name, ok := strings.CutPrefix(target, "thing/"); ok {
		return r.oneThing(ctx, s, name, after)
	}
	name, group := strings.CutPrefix(target, groupTarget)
	g, err := r.store.Group(ctx, s, ThingGroup, name)
	if errors.Is(err, ErrGroupUnknown) && !group {
		return r.oneThing(ctx, s, name, after)
	}
	if err != nil {
		return nil, err
	}
	return r.store.GroupThings(ctx, s, g, true, after.Fold(), limit)
}

// matching lists what a query finds, as Things does: fewer than limit are the last.
func (r *Registry) matching(ctx context.Context, s access.Scope, query string, after fleet.ThingName, limit int) (out []fleet.ThingName, err error) {
	f, err := ParseFilter(query)
	if err != nil {
		return nil, err
	}
	next := after.Fold()
	for len(out) < limit {
		var names []fleet.ThingName
		if names, next, err = r.store.SearchIndex(ctx, s, f, next, limit-len(out)); err != nil {
			return nil, err
		}
		found, err := r.store.ThingsNamed(ctx, s, names) // as they are written
		if err != nil {
			return nil, err
		}
		for i := range found {
			out = append(out, found[i].Name)
		}
		if next == "" {
			break
		}
	}
	return out, nil
}

func (r *Registry) oneThing(ctx context.Context, s access.Scope, name string, after fleet.ThingName) ([]fleet.ThingName, error) {
	t, err := r.store.Thing(ctx, s, strings.ToLower(name))
	if err != nil {
		return nil, err
	}
	if t.Name.Fold() <= after.Fold() {
		return nil, nil
	}
	return []fleet.ThingName{t.Name}, nil
}

// Build goes on with finding the members of new dynamic groups, a page of each
// a call; it reports whether there is more to do. Members that come or go
// meanwhile are kept right by whatever changes them.
func (r *Registry) Build(ctx context.Context) (more bool, err error) {
	groups, err := r.store.Building(ctx, 10)
	if err != nil {
		return false, err
	}
	for _, g := range groups {
		if err := r.build(ctx, g); err != nil {
			return false, err
		}
	}
	return len(groups) > 0, nil
}

func (r *Registry) build(ctx context.Context, g Group) error {
	s := access.Scope{Tenant: g.Tenant}
	f, err := ParseFilter(g.Query)
	if err != nil {
		return err
	}
	// Whoever is in it now and whoever should be, in one order.
	members, err := r.store.GroupThings(ctx, s, g, false, g.Cursor, buildPage)
	if err != nil {
		return err
	}
	found, next, err := r.store.SearchIndex(ctx, s, f, g.Cursor, buildPage)
	if err != nil {
		return err
	}
	end := "" // how far both pages reach
	if len(members) == buildPage {
		end = members[len(members)-1].Fold()
	}
	if next != "" && (end == "" || next < end) {
		end = next
	}
	var names []string
	for _, n := range append(members, found...) {
		if f := n.Fold(); end == "" || f <= end {
			names = append(names, f)
		}
	}
	slices.Sort(names)
	return r.store.Atomic(ctx, func(ctx context.Context) error {
		for _, n := range slices.Compact(slices.Clone(names)) {
			if err := r.store.Regroup(ctx, s.Tenant, n); err != nil {
				return err
			}
		}
		g.Cursor = end
		if end == "" {
			g.Status = GroupActive
		}
		return r.store.PutProgress(ctx, g)
	})
}

const buildPage = 500

// CreateType makes a thing type. The same again changes nothing.
func (r *Registry) CreateType(ctx context.Context, t Type) (out Type, err error) {
	if !nameOK(t.Name) || len(t.Description) > maxDescription || !printable(t.Description) || len(t.Attributes) > MaxFreeAttributes {
		return t, ErrTypeInvalid.New("")
	}
	for _, a := range t.Attributes {
		if !attributeName(a) {
			return t, ErrTypeInvalid.New("The attribute %.40q.", a)
		}
	}
	if err := checkTags(t.Tags); err != nil {
		return t, err
	}
	err = r.store.Atomic(ctx, func(ctx context.Context) error {
		have, err := r.store.Type(ctx, access.Scope{Tenant: t.Tenant}, t.Name)
		if err == nil {
			if out = have; have.Name != t.Name || have.Description != t.Description || !slices.Equal(have.Attributes, t.Attributes) {
				return ErrTypeExists.New("")
			}
			return nil
		}
		if !errors.Is(err, ErrTypeUnknown) {
			return err
		}
		out = t
		out.CreatedAt, out.Version, out.Deprecated = r.stamp(), 1, time.Time{}
		out.UpdatedAt = out.CreatedAt
		return r.store.PutType(ctx, out, 0)
	})
	return out, err
}

// DeprecateType keeps new things from a type, or with undo lets them to it again.
func (r *Registry) DeprecateType(ctx context.Context, s access.Scope, name string, undo bool) (out Type, err error) {
	err = r.store.Atomic(ctx, func(ctx context.Context) error {
		t, err := r.thingType(ctx, s, name)
		if err != nil || t.Deprecated.IsZero() == undo {
			out = t
			return err
		}
		was := t.Version
		t.Version, t.UpdatedAt = was+1, r.stamp()
		if t.Deprecated = t.UpdatedAt; undo {
			t.Deprecated = time.Time{}
		}
		out = t
		return r.store.PutType(ctx, t, was)
	})
	return out, err
}

func (r *Registry) thingType(ctx context.Context, s access.Scope, name string) (Type, error) {
	t, err := r.store.Type(ctx, s, name)
	if err == nil && t.Name != name {
		return Type{}, ErrTypeUnknown.New("%q is known in another spelling.", name)
	}
	return t, err
}

// ThingType finds a thing type.
func (r *Registry) ThingType(ctx context.Context, s access.Scope, name string) (Type, error) {
	return r.thingType(ctx, s, name)
}

// Types lists thing types in the order of their folded names.
func (r *Registry) Types(ctx context.Context, s access.Scope, after string, limit int) ([]Type, error) {
	return r.store.Types(ctx, s, strings.ToLower(after), pageSize(limit))
}

// DropType removes a deprecated type that no thing has.
func (r *Registry) DropType(ctx context.Context, s access.Scope, name string) error {
	return r.store.Atomic(ctx, func(ctx context.Context) error {
		t, err := r.thingType(ctx, s, name)
		if err != nil {
			return err
		}
		things, err := r.store.OfType(ctx, s, name, "", 1)
		if err != nil {
			return err
		}
		if t.Deprecated.IsZero() || len(things) > 0 {
			return ErrTypeInUse.New("")
		}
		return r.store.DropType(ctx, s.Tenant, name)
	})
}
