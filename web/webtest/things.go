package webtest

import (
	"context"
	"strings"
	"time"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/web"
)

// What the fixtures hold of the registry besides things.
const (
	Group        = "lamps"
	BillingGroup = "berlin-office"
	ThingType    = "lamp"
)

// SearchThings implements [web.Things]. The fake knows one query, thingName:NAME.
func (f *Fake) SearchThings(_ context.Context, s access.Scope, query string, p web.Page) ([]adminapi.Thing, string, error) {
	var in []adminapi.Thing
	for _, t := range f.Thing_ {
		if query == "thingName:"+t.Name {
			in = append(in, t)
		}
	}
	return cut(s, in, p)
}

// SilentThings implements [web.Things]. The fixtures' thing left an hour ago.
func (f *Fake) SilentThings(_ context.Context, s access.Scope, silence time.Duration, p web.Page) ([]adminapi.Thing, string, error) {
	var in []adminapi.Thing
	for _, t := range f.Thing_ {
		if silence < time.Hour {
			t.Connectivity = adminapi.ThingConnectivity{At: f.Now().Add(-time.Hour), Reason: "CONNECTION_LOST", Client: t.Name}
			in = append(in, t)
		}
	}
	return cut(s, in, p)
}

// CreateThing implements [web.Things].
func (f *Fake) CreateThing(_ context.Context, by access.Actor, r adminapi.ThingRequest) (adminapi.Thing, error) {
	f.Calls = append(f.Calls, "create thing "+r.Name)
	return adminapi.Thing{Name: r.Name, Type: r.Type, Attributes: nonNil(r.Attributes), Groups: []string{}, Policies: []string{}, Principals: []adminapi.ThingPrincipal{}, CreatedAt: f.Now(), Version: 1}, nil
}

func nonNil(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

func (f *Fake) changeThing(ctx context.Context, by access.Actor, name, what string) (adminapi.Thing, error) {
	t, err := f.Thing(ctx, by.Scope(), name)
	if err != nil {
		return t, err
	}
	return t, f.did(by, "%s %s", what, name)
}

// UpdateThing implements [web.Things].
func (f *Fake) UpdateThing(ctx context.Context, by access.Actor, name string, r adminapi.ThingChange) (adminapi.Thing, error) {
	t, err := f.changeThing(ctx, by, name, "update thing")
	if r.Attributes != nil {
		t.Attributes = *r.Attributes
	}
	if r.Type != nil {
		t.Type = *r.Type
	}
	return t, err
}

// DeleteThing implements [web.Things].
func (f *Fake) DeleteThing(ctx context.Context, by access.Actor, name string, _ int64) (adminapi.Thing, error) {
	return f.changeThing(ctx, by, name, "delete thing")
}

// ThingPrincipals implements [web.Things].
func (f *Fake) ThingPrincipals(ctx context.Context, s access.Scope, name string) ([]adminapi.ThingPrincipal, error) {
	t, err := f.Thing(ctx, s, name)
	return t.Principals, err
}

// AttachPrincipal implements [web.Things].
func (f *Fake) AttachPrincipal(ctx context.Context, by access.Actor, thing, certificate string, r adminapi.AttachRequest) (adminapi.Thing, error) {
	what := "attach " + certificate + " to"
	if r.TakeOver {
		what = "take over by " + certificate
	}
	return f.changeThing(ctx, by, thing, what)
}

// DetachPrincipal implements [web.Things].
func (f *Fake) DetachPrincipal(ctx context.Context, by access.Actor, thing, certificate string) (adminapi.Thing, error) {
	return f.changeThing(ctx, by, thing, "detach "+certificate+" from")
}

func (f *Fake) types() []adminapi.ThingType {
	return []adminapi.ThingType{{Name: ThingType, Attributes: []string{"model"}, Tags: map[string]string{}, CreatedAt: f.Now(), Version: 1}}
}

// ThingTypes implements [web.ThingTypes].
func (f *Fake) ThingTypes(_ context.Context, s access.Scope, p web.Page) ([]adminapi.ThingType, string, error) {
	return cut(s, f.types(), p)
}

// ThingType implements [web.ThingTypes].
func (f *Fake) ThingType(_ context.Context, s access.Scope, name string) (adminapi.ThingType, error) {
	return pick(s, f.types(), func(t *adminapi.ThingType) bool { return t.Name == name })
}

// CreateThingType implements [web.ThingTypes].
func (f *Fake) CreateThingType(_ context.Context, by access.Actor, r adminapi.ThingTypeRequest) (adminapi.ThingType, error) {
	f.Calls = append(f.Calls, "create type "+r.Name)
	return adminapi.ThingType{Name: r.Name, Attributes: append([]string{}, r.Attributes...), Tags: nonNil(r.Tags), CreatedAt: f.Now(), Version: 1}, nil
}

// DeprecateThingType implements [web.ThingTypes].
func (f *Fake) DeprecateThingType(ctx context.Context, by access.Actor, name string, undo bool) (adminapi.ThingType, error) {
	t, err := f.ThingType(ctx, by.Scope(), name)
	if err != nil {
		return t, err
	}
	if !undo {
		t.DeprecatedAt = f.Now()
	}
	return t, f.did(by, "deprecate type %s, undo %t", name, undo)
}

// DeleteThingType implements [web.ThingTypes].
func (f *Fake) DeleteThingType(ctx context.Context, by access.Actor, name string) (adminapi.ThingType, error) {
	t, err := f.ThingType(ctx, by.Scope(), name)
	if err != nil {
		return t, err
	}
	return t, f.did(by, "delete type %s", name)
}

func (f *Fake) groups(k web.GroupKind) []adminapi.ThingGroup {
	g := adminapi.ThingGroup{Name: BillingGroup, Depth: 1, Status: "ACTIVE", Attributes: map[string]string{}, Tags: map[string]string{}, CreatedAt: f.Now(), Version: 1}
	if k == web.BillingGroups {
		return []adminapi.ThingGroup{g}
	}
	static, dynamic := g, g
	static.Name, static.Description = Group, "everything that shines"
	dynamic.Name, dynamic.Query, dynamic.Status = "lamps-in-the-dark", "connectivity.connected:false", "BUILDING"
	return []adminapi.ThingGroup{static, dynamic}
}

// Groups implements [web.Groups].
func (f *Fake) Groups(_ context.Context, s access.Scope, k web.GroupKind, q web.GroupQuery, p web.Page) ([]adminapi.ThingGroup, string, error) {
	var in []adminapi.ThingGroup
	for _, g := range f.groups(k) {
		if g.Parent == q.Parent && strings.HasPrefix(g.Name, q.Prefix) {
			in = append(in, g)
		}
	}
	return cut(s, in, p)
}

// Group implements [web.Groups].
func (f *Fake) Group(_ context.Context, s access.Scope, k web.GroupKind, name string) (adminapi.ThingGroup, error) {
	return pick(s, f.groups(k), func(g *adminapi.ThingGroup) bool { return g.Name == name })
}

// CreateGroup implements [web.Groups].
func (f *Fake) CreateGroup(_ context.Context, by access.Actor, k web.GroupKind, r adminapi.ThingGroupRequest) (adminapi.ThingGroup, error) {
	f.Calls = append(f.Calls, "create "+string(k)+" group "+r.Name)
	return adminapi.ThingGroup{Name: r.Name, Parent: r.Parent, Query: r.Query, Status: "ACTIVE", Attributes: nonNil(r.Attributes), Tags: nonNil(r.Tags), CreatedAt: f.Now(), Version: 1}, nil
}

func (f *Fake) changeGroup(ctx context.Context, by access.Actor, k web.GroupKind, name, what string) (adminapi.ThingGroup, error) {
	g, err := f.Group(ctx, by.Scope(), k, name)
	if err != nil {
		return g, err
	}
	return g, f.did(by, "%s %s group %s", what, k, name)
}

// UpdateGroup implements [web.Groups].
func (f *Fake) UpdateGroup(ctx context.Context, by access.Actor, k web.GroupKind, name string, r adminapi.ThingGroupChange) (adminapi.ThingGroup, error) {
	g, err := f.changeGroup(ctx, by, k, name, "update")
	if r.Description != nil {
		g.Description = *r.Description
	}
	return g, err
}

// DeleteGroup implements [web.Groups].
func (f *Fake) DeleteGroup(ctx context.Context, by access.Actor, k web.GroupKind, name string, _ int64) (adminapi.ThingGroup, error) {
	return f.changeGroup(ctx, by, k, name, "delete")
}

// GroupThings implements [web.Groups].
func (f *Fake) GroupThings(ctx context.Context, s access.Scope, k web.GroupKind, name string, _ bool, p web.Page) ([]string, string, error) {
	if _, err := f.Group(ctx, s, k, name); err != nil {
		return nil, "", err
	}
	var names []string
	for _, t := range f.Thing_ {
		names = append(names, t.Name)
	}
	return cut(s, names, p)
}

func (f *Fake) member(ctx context.Context, by access.Actor, k web.GroupKind, name, thing, what string) (adminapi.Thing, error) {
	if _, err := f.Group(ctx, by.Scope(), k, name); err != nil {
		return adminapi.Thing{}, err
	}
	return f.changeThing(ctx, by, thing, what+" "+name)
}

// AddToGroup implements [web.Groups].
func (f *Fake) AddToGroup(ctx context.Context, by access.Actor, k web.GroupKind, name, thing string) (adminapi.Thing, error) {
	return f.member(ctx, by, k, name, thing, "add to "+string(k)+" group")
}

// RemoveFromGroup implements [web.Groups].
func (f *Fake) RemoveFromGroup(ctx context.Context, by access.Actor, k web.GroupKind, name, thing string) (adminapi.Thing, error) {
	return f.member(ctx, by, k, name, thing, "remove from "+string(k)+" group")
}
