package main

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"hallmark/access"
	"hallmark/fleet/policy"
	"hallmark/fleet/registry"
	"hallmark/provisioner/declare"
)

// policySpec is the document that counts. What certificates have it is not said:
// that is what registration does.
type policySpec struct {
	Document declare.Body `json:"document"`
}

type policyKind struct{ policyAPI }

func (policyKind) Name() string        { return "Policy" }
func (policyKind) Sees() access.Action { return access.ReadPolicies }
func (policyKind) Decode(raw []byte) (declare.Spec, error) {
	return declare.Decode[policySpec](raw)
}

func (k policyKind) Read(ctx context.Context, s access.Scope, name string) (declare.Spec, error) {
	p, ok, err := absent(k.reg.Policy(ctx, s, name))
	if !ok || p.Name != name {
		return nil, err
	}
	return policySpec{declare.NewBody(p.Document)}, nil
}

func (k policyKind) List(ctx context.Context, s access.Scope, after string, limit int) ([]string, string, error) {
	rows, next, err := collect(after, limit, func(after string, n int) ([]registry.PolicyHead, error) { return k.reg.Policies(ctx, s, after, n) },
		func(h *registry.PolicyHead) string { return h.Name }, nil)
	return mapped(rows, func(h *registry.PolicyHead) string { return h.Name }), next, err
}

// versions finds a version that says the same, else the one that has to make room.
func (k policyKind) versions(ctx context.Context, s access.Scope, name string, want declare.Spec) (same, drop int, err error) {
	h, err := k.reg.PolicyHead(ctx, s, name)
	if err != nil {
		return 0, 0, err
	}
	all, err := k.reg.PolicyVersions(ctx, s, name)
	if err != nil {
		return 0, 0, err
	}
	for _, v := range all {
		if declare.Equal(policySpec{declare.NewBody(v.Document)}, want) {
			same = v.Number
		} else if v.Number != h.Default && drop == 0 && len(all) >= policy.MaxVersions {
			drop = v.Number
		}
	}
	return same, drop, nil
}

func (k policyKind) Judge(ctx context.Context, s access.Scope, name string, was, want declare.Spec) (declare.Verdict, error) {
	v := declare.Verdict{Rights: []access.Action{access.PutPolicy}}
	if was == nil || declare.Equal(was, want) {
		return v, nil
	}
	same, drop, err := k.versions(ctx, s, name, want)
	switch {
	case err != nil:
		return v, err
	case same > 0:
		v.Notes = append(v.Notes, fmt.Sprintf("version %d says this already and becomes the default", same))
	case drop > 0:
		v.Notes = append(v.Notes, fmt.Sprintf("a policy has %d versions at most: version %d, the oldest that is not the default, is deleted", policy.MaxVersions, drop))
	}
	first := registry.GroupTarget("")
	targets, err := k.reg.PolicyTargets(ctx, s, name, first, 1)
	if err == nil && len(targets) > 0 && strings.HasPrefix(targets[0], first) {
		v.Rights = append(v.Rights, access.AttachPolicyToGroup)
		v.Notes = append(v.Notes, "it is attached to groups: "+alone("what a whole group may do"))
	}
	return v, err
}

func (k policyKind) Put(ctx context.Context, by access.Actor, name string, was, want declare.Spec) (out declare.Outcome, err error) {
	s, text := by.Scope(), want.(policySpec).Document.Text()
	if was == nil {
		_, err = k.reg.CreatePolicy(ctx, registry.Policy{Tenant: by.Tenant, Name: name, Document: text})
		return out, err
	}
	same, drop, err := k.versions(ctx, s, name, want)
	if err == nil && same > 0 {
		_, err = k.reg.SetDefaultPolicyVersion(ctx, s, name, same)
		return out, err
	}
	if err == nil && drop > 0 {
		err = k.reg.DropPolicyVersion(ctx, s, name, drop)
	}
	if err == nil {
		_, err = k.reg.CreatePolicyVersion(ctx, s, name, text, true)
	}
	return out, err
}

type thingTypeSpec struct {
	Description string            `json:"description,omitempty"`
	Searchable  []string          `json:"searchable,omitempty"`
	Tags        map[string]string `json:"tags,omitempty"`
	Deprecated  bool              `json:"deprecated,omitempty"`
}

type thingTypeKind struct{ *backend }

func (thingTypeKind) Name() string        { return "ThingType" }
func (thingTypeKind) Sees() access.Action { return access.ReadThingTypes }
func (thingTypeKind) Decode(raw []byte) (declare.Spec, error) {
	return declare.Decode[thingTypeSpec](raw)
}

func (k thingTypeKind) Read(ctx context.Context, s access.Scope, name string) (declare.Spec, error) {
	t, ok, err := absent(k.reg.ThingType(ctx, s, name))
	if !ok {
		return nil, err
	}
	return thingTypeSpec{t.Description, t.Attributes, t.Tags, !t.Deprecated.IsZero()}, nil
}

func (k thingTypeKind) List(ctx context.Context, s access.Scope, after string, limit int) ([]string, string, error) {
	rows, next, err := collect(after, limit, func(after string, n int) ([]registry.Type, error) { return k.reg.Types(ctx, s, after, n) },
		func(t *registry.Type) string { return strings.ToLower(t.Name) }, nil)
	return mapped(rows, func(t *registry.Type) string { return t.Name }), next, err
}

func (thingTypeKind) Judge(_ context.Context, _ access.Scope, _ string, was, want declare.Spec) (declare.Verdict, error) {
	v := declare.Verdict{Rights: []access.Action{access.PutThingType}}
	if was != nil {
		kept := want.(thingTypeSpec)
		if kept.Deprecated = was.(thingTypeSpec).Deprecated; !declare.Equal(was, kept) {
			return v, declare.ErrImmutable.New("Of a thing type only deprecated changes.")
		}
	}
	return v, nil
}

func (k thingTypeKind) Put(ctx context.Context, by access.Actor, name string, was, want declare.Spec) (out declare.Outcome, err error) {
	t := want.(thingTypeSpec)
	if was == nil {
		_, err = k.reg.CreateType(ctx, registry.Type{Tenant: by.Tenant, Name: name, Description: t.Description, Attributes: t.Searchable, Tags: t.Tags})
	}
	if err == nil && (was != nil || t.Deprecated) {
		_, err = k.reg.DeprecateType(ctx, by.Scope(), name, !t.Deprecated)
	}
	return out, err
}

// groupSpec is a thing group's, or without parent, query and policies a billing
// group's. The things in it are not said: they say it themselves.
type groupSpec struct {
	Parent      string            `json:"parent,omitempty"`
	Query       string            `json:"query,omitempty"` // makes it dynamic
	Description string            `json:"description,omitempty"`
	Attributes  map[string]string `json:"attributes,omitempty"`
	Tags        map[string]string `json:"tags,omitempty"`
	Policies    []string          `json:"policies,omitempty"` // all that are attached
}

// Above has parents put first.
func (g groupSpec) Above() string { return g.Parent }

// Needs has a group wait with its parent and its policies.
func (g groupSpec) Needs(string) []declare.Ref {
	refs := []declare.Ref{{Kind: "ThingGroup", Name: g.Parent}}
	for _, p := range g.Policies {
		refs = append(refs, declare.Ref{Kind: "Policy", Name: p})
	}
	return refs
}

type groupDocKind struct {
	*backend
	class registry.GroupClass
}

func (k groupDocKind) Name() string {
	if k.class == registry.BillingGroup {
		return "BillingGroup"
	}
	return "ThingGroup"
}

func (groupDocKind) Sees() access.Action { return access.ReadGroups }

func (k groupDocKind) Decode(raw []byte) (declare.Spec, error) {
	s, err := declare.Decode[groupSpec](raw)
	if err != nil {
		return nil, err
	}
	g := s.(groupSpec)
	if k.class == registry.BillingGroup && (g.Parent != "" || g.Query != "" || len(g.Policies) > 0) {
		return nil, declare.ErrField.New("A billing group has no parent, no query and no policies.")
	}
	slices.Sort(g.Policies)
	g.Policies = slices.Compact(g.Policies)
	return g, nil
}

func (k groupDocKind) Read(ctx context.Context, s access.Scope, name string) (declare.Spec, error) {
	g, ok, err := absent(k.reg.Group(ctx, s, k.class, name))
	if !ok {
		return nil, err
	}
	v := groupSpec{Parent: g.Parent, Query: g.Query, Description: g.Description, Attributes: g.Attributes, Tags: g.Tags}
	if k.class == registry.ThingGroup {
		v.Policies, err = k.reg.AttachedPolicies(ctx, s, registry.GroupTarget(name), false)
		slices.Sort(v.Policies)
	}
	return v, err
}

func (k groupDocKind) List(ctx context.Context, s access.Scope, after string, limit int) ([]string, string, error) {
	rows, next, err := collect(after, limit, func(after string, n int) ([]registry.Group, error) {
		return k.reg.Groups(ctx, s, registry.GroupQuery{Class: k.class, After: after, Limit: n})
	}, (*registry.Group).Fold, nil)
	return mapped(rows, func(g *registry.Group) string { return g.Name }), next, err
}

// apart splits what is the group's from what is attached to it.
func (g groupSpec) apart() (groupSpec, []string) {
	p := g.Policies
	g.Policies = nil
	return g, p
}

func (k groupDocKind) Judge(_ context.Context, _ access.Scope, _ string, was, want declare.Spec) (v declare.Verdict, err error) {
	own, policies := want.(groupSpec).apart()
	var before []string
	if was == nil {
		v.Rights = append(v.Rights, access.PutGroup)
	} else {
		var had groupSpec
		had, before = was.(groupSpec).apart()
		if had.Parent != own.Parent || (had.Query == "") != (own.Query == "") {
			return v, declare.ErrImmutable.New("A group keeps its parent, and stays static or dynamic.")
		}
		if !declare.Equal(had, own) {
			v.Rights = append(v.Rights, access.PutGroup)
		}
	}
	if !slices.Equal(before, policies) {
		v.Rights = append(v.Rights, access.AttachPolicyToGroup)
		v.Notes = append(v.Notes, alone("what a whole group may do"))
	}
	return v, nil
}

func (k groupDocKind) Put(ctx context.Context, by access.Actor, name string, was, want declare.Spec) (out declare.Outcome, err error) {
	s := by.Scope()
	own, policies := want.(groupSpec).apart()
	var had groupSpec
	var before []string
	if was == nil {
		_, err = k.reg.CreateGroup(ctx, registry.Group{Tenant: by.Tenant, Class: k.class, Name: name, Parent: own.Parent, Query: own.Query, Description: own.Description, Attributes: own.Attributes, Tags: own.Tags})
	} else if had, before = was.(groupSpec).apart(); !declare.Equal(had, own) {
		ch := registry.GroupChange{Description: &own.Description, Attributes: map[string]string{}, Tags: map[string]string{}}
		maps.Copy(ch.Attributes, own.Attributes)
		maps.Copy(ch.Tags, own.Tags)
		if own.Query != had.Query {
			ch.Query = &own.Query
		}
		_, err = k.reg.UpdateGroup(ctx, s, k.class, name, ch)
	}
	for _, p := range before {
		if err == nil && !slices.Contains(policies, p) {
			err = k.reg.DetachPolicy(ctx, s, registry.GroupTarget(name), p)
		}
	}
	for _, p := range policies {
		if err == nil && !slices.Contains(before, p) {
			err = k.reg.AttachPolicy(ctx, s, registry.GroupTarget(name), p)
		}
	}
	return out, err
}
