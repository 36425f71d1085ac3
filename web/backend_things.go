package web

import (
	"context"
	"time"

	"hallmark/access"
	"hallmark/api/adminapi"
)

// Things is the things as people look for and change them. Certificates are
// named by their ids.
type Things interface {
	Timeline
	// SearchThings takes the search language. A page may be short, or empty,
	// before the last.
	SearchThings(ctx context.Context, s access.Scope, query string, p Page) (items []adminapi.Thing, next string, err error)
	// SilentThings lists the things that are not connected and were not for a while.
	SilentThings(ctx context.Context, s access.Scope, silence time.Duration, p Page) (items []adminapi.Thing, next string, err error)
	CreateThing(ctx context.Context, by access.Actor, r adminapi.ThingRequest) (adminapi.Thing, error)
	UpdateThing(ctx context.Context, by access.Actor, name string, r adminapi.ThingChange) (adminapi.Thing, error)
	// DeleteThing gives the thing as it was; version 0 is any.
	DeleteThing(ctx context.Context, by access.Actor, name string, version int64) (adminapi.Thing, error)
	ThingPrincipals(ctx context.Context, s access.Scope, name string) ([]adminapi.ThingPrincipal, error)
	AttachPrincipal(ctx context.Context, by access.Actor, thing, certificate string, r adminapi.AttachRequest) (adminapi.Thing, error)
	DetachPrincipal(ctx context.Context, by access.Actor, thing, certificate string) (adminapi.Thing, error)
}

// ThingTypes is the kinds of things.
type ThingTypes interface {
	ThingTypes(ctx context.Context, s access.Scope, p Page) (items []adminapi.ThingType, next string, err error)
	ThingType(ctx context.Context, s access.Scope, name string) (adminapi.ThingType, error)
	CreateThingType(ctx context.Context, by access.Actor, r adminapi.ThingTypeRequest) (adminapi.ThingType, error)
	DeprecateThingType(ctx context.Context, by access.Actor, name string, undo bool) (adminapi.ThingType, error)
	DeleteThingType(ctx context.Context, by access.Actor, name string) (adminapi.ThingType, error)
}

// GroupKind keeps the two kinds of groups apart, whose names are not.
type GroupKind string

// The kinds of groups.
const (
	ThingGroups   GroupKind = "thing" // static and dynamic
	BillingGroups GroupKind = "billing"
)

// GroupQuery selects groups; empty fields do not filter.
type GroupQuery struct {
	Parent string // only those right below it
	Prefix string // start of the name
}

// Groups is the groups of things.
type Groups interface {
	Groups(ctx context.Context, s access.Scope, k GroupKind, q GroupQuery, p Page) (items []adminapi.ThingGroup, next string, err error)
	Group(ctx context.Context, s access.Scope, k GroupKind, name string) (adminapi.ThingGroup, error)
	CreateGroup(ctx context.Context, by access.Actor, k GroupKind, r adminapi.ThingGroupRequest) (adminapi.ThingGroup, error)
	UpdateGroup(ctx context.Context, by access.Actor, k GroupKind, name string, r adminapi.ThingGroupChange) (adminapi.ThingGroup, error)
	DeleteGroup(ctx context.Context, by access.Actor, k GroupKind, name string, version int64) (adminapi.ThingGroup, error)
	GroupThings(ctx context.Context, s access.Scope, k GroupKind, name string, nested bool, p Page) (names []string, next string, err error)
	AddToGroup(ctx context.Context, by access.Actor, k GroupKind, name, thing string) (adminapi.Thing, error)
	RemoveFromGroup(ctx context.Context, by access.Actor, k GroupKind, name, thing string) (adminapi.Thing, error)
}
