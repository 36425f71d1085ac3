package main

import (
	"context"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/fleet"
	"hallmark/fleet/registry"
	"hallmark/web"
)

// classOf is a kind of group in the registry's words.
func classOf(k web.GroupKind) registry.GroupClass {
	if k == web.BillingGroups {
		return registry.BillingGroup
	}
	return registry.ThingGroup
}

func groupView(g *registry.Group) adminapi.ThingGroup {
	return adminapi.ThingGroup{Name: g.Name, Parent: g.Parent, Depth: g.Depth, Query: g.Query, Status: string(g.Status), Description: g.Description,
		Attributes: nonNilMap(g.Attributes), Tags: nonNilMap(g.Tags), CreatedAt: g.CreatedAt, UpdatedAt: g.UpdatedAt, Version: g.Version}
}

// Groups implements [web.Groups].
func (b *backend) Groups(ctx context.Context, s access.Scope, k web.GroupKind, q web.GroupQuery, p web.Page) ([]adminapi.ThingGroup, string, error) {
	rows, next, err := collect(p.After, p.Limit,
		func(after string, n int) ([]registry.Group, error) {
			return b.reg.Groups(ctx, s, registry.GroupQuery{Class: classOf(k), Parent: q.Parent, Prefix: q.Prefix, After: after, Limit: n})
		},
		(*registry.Group).Fold, nil)
	return mapped(rows, groupView), next, err
}

// Group implements [web.Groups].
func (b *backend) Group(ctx context.Context, s access.Scope, k web.GroupKind, name string) (adminapi.ThingGroup, error) {
	g, err := b.reg.Group(ctx, s, classOf(k), name)
	return groupView(&g), err
}

// CreateGroup implements [web.Groups].
func (b *backend) CreateGroup(ctx context.Context, by access.Actor, k web.GroupKind, r adminapi.ThingGroupRequest) (adminapi.ThingGroup, error) {
	g, err := b.reg.CreateGroup(ctx, registry.Group{Tenant: by.Tenant, Class: classOf(k), Name: r.Name, Parent: r.Parent, Query: r.Query, Description: r.Description, Attributes: r.Attributes, Tags: r.Tags})
	if err == nil {
		b.log.InfoContext(ctx, "group created", "kind", string(k), "group", g.Name, "parent", g.Parent, "query", g.Query, "by", by.String())
	}
	return groupView(&g), err
}

// UpdateGroup implements [web.Groups]. A new query finds its things in the
// background; continuous jobs see them with their sweep.
func (b *backend) UpdateGroup(ctx context.Context, by access.Actor, k web.GroupKind, name string, r adminapi.ThingGroupChange) (adminapi.ThingGroup, error) {
	ch := registry.GroupChange{Description: r.Description, Query: r.Query, ExpectedVersion: r.ExpectedVersion}
	if r.Attributes != nil {
		ch.Attributes = *r.Attributes
	}
	if r.Tags != nil {
		ch.Tags = *r.Tags
	}
	g, err := b.reg.UpdateGroup(ctx, by.Scope(), classOf(k), name, ch)
	if err == nil {
		b.log.InfoContext(ctx, "group changed", "kind", string(k), "group", g.Name, "query", g.Query, "by", by.String())
	}
	return groupView(&g), err
}

// DeleteGroup implements [web.Groups]. Its things leave it in pages, so that a
// crash can leave a group with fewer things; asking again goes on.
func (b *backend) DeleteGroup(ctx context.Context, by access.Actor, k web.GroupKind, name string, version int64) (adminapi.ThingGroup, error) {
	s := by.Scope()
	v, err := b.Group(ctx, s, k, name)
	if err != nil {
		return v, err
	}
	var above []string
	if k == web.ThingGroups {
		above = b.upward(ctx, s, name)
	}
	if err := b.reg.DropGroup(ctx, s, classOf(k), name, version); err != nil {
		return v, err
	}
	b.log.InfoContext(ctx, "group deleted", "kind", string(k), "group", name, "by", by.String())
	b.refresh(ctx, s, above)
	return v, nil
}

// GroupThings implements [web.Groups].
func (b *backend) GroupThings(ctx context.Context, s access.Scope, k web.GroupKind, name string, nested bool, p web.Page) ([]string, string, error) {
	rows, next, err := collect(p.After, p.Limit,
		func(after string, n int) ([]fleet.ThingName, error) {
			return b.reg.GroupThings(ctx, s, classOf(k), name, nested, fleet.ThingName(after), n)
		},
		func(n *fleet.ThingName) string { return n.Fold() }, nil)
	return mapped(rows, func(n *fleet.ThingName) string { return string(*n) }), next, err
}

// AddToGroup implements [web.Groups].
func (b *backend) AddToGroup(ctx context.Context, by access.Actor, k web.GroupKind, name, thing string) (adminapi.Thing, error) {
	return b.changeThing(ctx, by, thing, "thing added to group", func(n fleet.ThingName) error {
		return b.reg.AddToGroup(ctx, by.Scope(), classOf(k), name, n)
	}, "kind", string(k), "group", name)
}

// RemoveFromGroup implements [web.Groups].
func (b *backend) RemoveFromGroup(ctx context.Context, by access.Actor, k web.GroupKind, name, thing string) (adminapi.Thing, error) {
	return b.changeThing(ctx, by, thing, "thing removed from group", func(n fleet.ThingName) error {
		return b.reg.RemoveFromGroup(ctx, by.Scope(), classOf(k), name, n)
	}, "kind", string(k), "group", name)
}
