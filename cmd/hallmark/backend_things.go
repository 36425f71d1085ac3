package main

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/fleet"
	"hallmark/fleet/presence"
	"hallmark/fleet/registry"
	"hallmark/web"
)

// connectivity is what is known of a thing's clients, as queries find it: of one
// that is connected, else of the last that was.
func connectivity(states []presence.State) (v adminapi.ThingConnectivity) {
	for _, st := range states {
		if newer := st.At.After(v.At); st.Connected && !v.Connected || st.Connected == v.Connected && newer {
			v = adminapi.ThingConnectivity{Connected: st.Connected, At: st.At, Client: st.Client}
			if !st.Connected {
				v.Reason = st.Reason
			}
		}
	}
	return v
}

func (b *backend) thingViews(ctx context.Context, s access.Scope, things []registry.Thing) ([]adminapi.Thing, error) {
	out := make([]adminapi.Thing, len(things))
	for i := range things {
		var err error
		if out[i], err = b.thingView(ctx, s, &things[i]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// SearchThings implements [web.Things].
func (b *backend) SearchThings(ctx context.Context, s access.Scope, query string, p web.Page) ([]adminapi.Thing, string, error) {
	found, err := b.reg.Search(ctx, s, query, p.After, p.Limit)
	if err != nil {
		return nil, "", err
	}
	out, err := b.thingViews(ctx, s, found.Things)
	return out, found.Next, err
}

// neverSeen finds things that no client ever connected for.
const neverSeen = "NOT " + registry.PrefixOnline + ".connected:*"

// SilentThings implements [web.Things]: things that left before a time, and
// things that were made before it and never came. Both are read in the order of
// their folded names, as far as both pages reach.
func (b *backend) SilentThings(ctx context.Context, s access.Scope, silence time.Duration, p web.Page) ([]adminapi.Thing, string, error) {
	before, after := b.now().Add(-silence), p.After
	var found []registry.Thing
	for looked := 0; ; {
		things, end, err := b.silent(ctx, s, before, after)
		if err != nil {
			return nil, "", err
		}
		for i := range things {
			if len(found) == p.Limit {
				end = found[p.Limit-1].Name.Fold()
				break
			}
			found = append(found, things[i])
		}
		if looked += batch; end == "" || len(found) == p.Limit || looked >= maxScan {
			out, err := b.thingViews(ctx, s, found)
			return out, end, err
		}
		after = end
	}
}

// silent reads one batch of both sources; end is how far it reaches, "" for the end.
func (b *backend) silent(ctx context.Context, s access.Scope, before time.Time, after string) (out []registry.Thing, end string, err error) {
	left, err := b.db.SilentThings(ctx, s, before, fleet.ThingName(after), registry.MaxFound)
	if err != nil {
		return nil, "", err
	}
	if len(left) == registry.MaxFound {
		end = left[len(left)-1].Thing.Fold()
	}
	filter, err := registry.ParseFilter(neverSeen)
	if err != nil {
		return nil, "", err
	}
	never, next, err := b.db.SearchIndex(ctx, s, filter, after, registry.MaxFound)
	if err != nil {
		return nil, "", err
	}
	if next != "" && (end == "" || next < end) {
		end = next
	}
	names, gone := map[string]bool{}, map[string]time.Time{}
	var ask []fleet.ThingName
	add := func(n fleet.ThingName) {
		if f := n.Fold(); !names[f] && (end == "" || f <= end) {
			names[f] = true
			ask = append(ask, n)
		}
	}
	for _, st := range left {
		gone[st.Thing.Fold()] = st.At
		add(st.Thing)
	}
	for _, n := range never {
		add(n)
	}
	things, err := b.db.ThingsNamed(ctx, s, ask)
	for _, t := range things {
		at, left := gone[t.Name.Fold()]
		if !left {
			at = t.CreatedAt
		}
		if at.Before(before) {
			out = append(out, t)
		}
	}
	return out, end, err
}

func thingName(name string) (fleet.ThingName, error) { return fleet.ParseThingName(name) }

// CreateThing implements [web.Things].
func (b *backend) CreateThing(ctx context.Context, by access.Actor, r adminapi.ThingRequest) (adminapi.Thing, error) {
	t, err := b.reg.CreateThing(ctx, registry.Thing{Tenant: by.Tenant, Name: fleet.ThingName(r.Name), Type: r.Type, BillingGroup: r.BillingGroup, Attributes: r.Attributes})
	if err != nil {
		return adminapi.Thing{}, err
	}
	b.log.InfoContext(ctx, "thing created", "thing", t.Name, "by", by.String())
	b.refresh(ctx, by.Scope(), b.groupsOf(ctx, by.Scope(), &t))
	return b.Thing(ctx, by.Scope(), string(t.Name))
}

// UpdateThing implements [web.Things].
func (b *backend) UpdateThing(ctx context.Context, by access.Actor, name string, r adminapi.ThingChange) (adminapi.Thing, error) {
	return b.changeThing(ctx, by, name, "thing changed", func(n fleet.ThingName) error {
		ch := registry.ThingChange{Merge: r.Merge, Type: r.Type, ExpectedVersion: r.ExpectedVersion}
		if r.Attributes != nil {
			ch.Attributes = *r.Attributes
		}
		_, err := b.reg.UpdateThing(ctx, by.Scope(), n, ch)
		return err
	})
}

// changeThing makes a change that may move a thing from group to group, and has
// the continuous jobs of those groups look.
func (b *backend) changeThing(ctx context.Context, by access.Actor, name, what string, change func(n fleet.ThingName) error, facts ...any) (adminapi.Thing, error) {
	s := by.Scope()
	n, err := thingName(name)
	if err != nil {
		return adminapi.Thing{}, err
	}
	was, err := b.reg.Get(ctx, s, n)
	if err != nil {
		return adminapi.Thing{}, err
	}
	before := b.groupsOf(ctx, s, &was)
	if err := change(n); err != nil {
		return adminapi.Thing{}, err
	}
	b.log.InfoContext(ctx, what, append([]any{"thing", n, "by", by.String()}, facts...)...)
	is, err := b.reg.Get(ctx, s, n)
	if err != nil {
		return adminapi.Thing{}, err
	}
	after := b.groupsOf(ctx, s, &is)
	var moved []string
	for _, g := range append(slices.Clone(before), after...) {
		if slices.Contains(before, g) != slices.Contains(after, g) {
			moved = append(moved, g)
		}
	}
	b.refresh(ctx, s, moved)
	return b.Thing(ctx, s, name)
}

// groupsOf lists the groups whose jobs a thing gets: its own, those above them,
// and the dynamic ones. What cannot be read is left out; see [backend.refresh].
func (b *backend) groupsOf(ctx context.Context, s access.Scope, t *registry.Thing) []string {
	out, err := b.reg.DynamicGroupsOf(ctx, s, t.Name)
	for _, name := range t.Groups {
		out = append(out, b.upward(ctx, s, name)...)
	}
	if err != nil {
		b.log.WarnContext(ctx, "the dynamic groups of a thing are not known; their jobs see it with their next sweep", "thing", t.Name, "error", err)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// upward is a group and those above it.
func (b *backend) upward(ctx context.Context, s access.Scope, name string) (out []string) {
	for name != "" && len(out) < registry.MaxGroupDepth {
		out = append(out, name)
		g, err := b.reg.Group(ctx, s, registry.ThingGroup, name)
		if err != nil {
			break
		}
		name = g.Parent
	}
	return out
}

// refresh has the continuous jobs of groups look at them now. The change itself
// is done and durable; where this fails, or the process ends before it, those
// jobs see it with their next sweep, a minute later.
func (b *backend) refresh(ctx context.Context, s access.Scope, groups []string) {
	if b.jobs == nil {
		return
	}
	slices.Sort(groups)
	for _, g := range slices.Compact(groups) {
		if err := b.jobs.Refresh(ctx, s.Tenant, g); err != nil {
			b.log.WarnContext(ctx, "the jobs of a group see its change with their next sweep", "group", g, "error", err)
		}
	}
}

// DeleteThing implements [web.Things]. The order is such that a crash between
// two steps leaves nothing that a repetition does not finish:
//
//  1. Whoever would be refused is refused before anything ends.
//  2. What the thing had to do ends. A crash here leaves a whole thing with
//     nothing to do.
//  3. The thing, what finds it, its shadows and its connections go in one
//     transaction, which decides again: a thing of the same name, made later,
//     never sees them (S43).
//  4. A job may have given it something between 2 and 3: that ends too. A crash
//     here leaves executions of a thing that is gone; asking again ends them,
//     and so does step 2 of the next thing of that name.
func (b *backend) DeleteThing(ctx context.Context, by access.Actor, name string, version int64) (adminapi.Thing, error) {
	s := by.Scope()
	n, err := thingName(name)
	if err != nil {
		return adminapi.Thing{}, err
	}
	v, err := b.Thing(ctx, s, name)
	if errors.Is(err, registry.ErrThingUnknown) {
		if err := b.finishDeletion(ctx, s, n); err != nil {
			return v, err
		}
		return v, err
	}
	switch {
	case err != nil:
		return v, err
	case version != 0 && version != v.Version:
		return v, registry.ErrVersion.New("It has the version %d.", v.Version)
	case len(v.Principals) > 0:
		return v, registry.ErrThingInUse.New("")
	}
	if err := b.jobs.ThingDeleted(ctx, s.Tenant, n); err != nil {
		return v, err
	}
	if err := b.reg.DropThing(ctx, s, n, version); err != nil {
		return v, err
	}
	b.log.InfoContext(ctx, "thing deleted", "thing", n, "by", by.String())
	return v, b.finishDeletion(ctx, s, n)
}

// finishDeletion ends what a thing that is gone still has to do. A thing that is
// there in another spelling is not gone.
func (b *backend) finishDeletion(ctx context.Context, s access.Scope, n fleet.ThingName) error {
	if _, err := b.db.Thing(ctx, s, n.Fold()); !errors.Is(err, registry.ErrThingUnknown) {
		return err
	}
	return b.jobs.ThingDeleted(ctx, s.Tenant, n)
}

func principalView(p *registry.Principal) adminapi.ThingPrincipal {
	status := p.Status
	if p.Revoked {
		status = fleet.Revoked
	}
	return adminapi.ThingPrincipal{Authority: p.Authority, Serial: serialText(p.Serial), Status: string(status), AttachedAt: p.AttachedAt, Certificate: p.Certificate, Kind: string(p.Kind), NotAfter: p.NotAfter}
}

// ThingPrincipals implements [web.Things].
func (b *backend) ThingPrincipals(ctx context.Context, s access.Scope, name string) ([]adminapi.ThingPrincipal, error) {
	v, err := b.Thing(ctx, s, name)
	return v.Principals, err
}

// AttachPrincipal implements [web.Things]. Whoever may take over was asked before.
func (b *backend) AttachPrincipal(ctx context.Context, by access.Actor, thing, certificate string, r adminapi.AttachRequest) (adminapi.Thing, error) {
	return b.changeThing(ctx, by, thing, "certificate attached", func(n fleet.ThingName) error {
		return b.reg.Attach(ctx, by.Scope(), n, certificate, registry.Kind(r.Kind), r.TakeOver)
	}, "certificate", certificate, "kind", r.Kind, "take_over", r.TakeOver)
}

// DetachPrincipal implements [web.Things].
func (b *backend) DetachPrincipal(ctx context.Context, by access.Actor, thing, certificate string) (adminapi.Thing, error) {
	return b.changeThing(ctx, by, thing, "certificate detached", func(n fleet.ThingName) error {
		principals, err := b.reg.Principals(ctx, by.Scope(), n)
		if err == nil && !slices.ContainsFunc(principals, func(p registry.Principal) bool { return p.Certificate == certificate }) {
			err = registry.ErrPrincipalUnknown.New("")
		}
		if err != nil {
			return err
		}
		return b.reg.Detach(ctx, by.Scope(), n, certificate)
	}, "certificate", certificate)
}

func typeView(t *registry.Type) adminapi.ThingType {
	return adminapi.ThingType{Name: t.Name, Description: t.Description, Attributes: nonNil(t.Attributes), Tags: nonNilMap(t.Tags), DeprecatedAt: t.Deprecated, CreatedAt: t.CreatedAt, UpdatedAt: t.UpdatedAt, Version: t.Version}
}

func nonNilMap(m map[string]string) map[string]string {
	if m == nil {
		return map[string]string{}
	}
	return m
}

// ThingTypes implements [web.ThingTypes].
func (b *backend) ThingTypes(ctx context.Context, s access.Scope, p web.Page) ([]adminapi.ThingType, string, error) {
	rows, next, err := collect(p.After, p.Limit,
		func(after string, n int) ([]registry.Type, error) { return b.reg.Types(ctx, s, after, n) },
		func(t *registry.Type) string { return strings.ToLower(t.Name) }, nil)
	return mapped(rows, typeView), next, err
}

// ThingType implements [web.ThingTypes].
func (b *backend) ThingType(ctx context.Context, s access.Scope, name string) (adminapi.ThingType, error) {
	t, err := b.reg.ThingType(ctx, s, name)
	return typeView(&t), err
}

// CreateThingType implements [web.ThingTypes].
func (b *backend) CreateThingType(ctx context.Context, by access.Actor, r adminapi.ThingTypeRequest) (adminapi.ThingType, error) {
	t, err := b.reg.CreateType(ctx, registry.Type{Tenant: by.Tenant, Name: r.Name, Description: r.Description, Attributes: r.Attributes, Tags: r.Tags})
	if err == nil {
		b.log.InfoContext(ctx, "thing type created", "type", t.Name, "by", by.String())
	}
	return typeView(&t), err
}

// DeprecateThingType implements [web.ThingTypes].
func (b *backend) DeprecateThingType(ctx context.Context, by access.Actor, name string, undo bool) (adminapi.ThingType, error) {
	t, err := b.reg.DeprecateType(ctx, by.Scope(), name, undo)
	if err == nil {
		b.log.InfoContext(ctx, "thing type deprecated", "type", name, "undo", undo, "by", by.String())
	}
	return typeView(&t), err
}

// DeleteThingType implements [web.ThingTypes].
func (b *backend) DeleteThingType(ctx context.Context, by access.Actor, name string) (adminapi.ThingType, error) {
	v, err := b.ThingType(ctx, by.Scope(), name)
	if err != nil {
		return v, err
	}
	if err := b.reg.DropType(ctx, by.Scope(), name); err != nil {
		return v, err
	}
	b.log.InfoContext(ctx, "thing type deleted", "type", name, "by", by.String())
	return v, nil
}
