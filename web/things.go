package web

import (
	"strconv"
	"time"

	"hallmark/access"
	"hallmark/api/adminapi"
)

// The handlers of things, their types and groups.

// listThings has four ways to find things; each has its own order, so that they
// do not mix.
func (p *people) listThings(c *call) (any, error) {
	page, err := c.page()
	if err != nil {
		return nil, err
	}
	attribute, value, query, silent := c.query.Get("attribute"), c.query.Get("value"), c.query.Get("query"), c.query.Get("silent")
	switch {
	case value != "" && attribute == "":
		return nil, ErrContract.New("A value needs the name of its attribute.")
	case query != "" && (attribute != "" || silent != "") || silent != "" && attribute != "":
		return nil, ErrContract.New("Give an attribute, a query or a silence, one of them.")
	}
	var items []adminapi.Thing
	var next string
	ctx := c.Request().Context()
	switch {
	case query != "":
		items, next, err = p.Backend.Things.SearchThings(ctx, c.scope, query, page)
	case silent != "":
		seconds, _ := strconv.ParseInt(silent, 10, 64) // the contract checked it
		items, next, err = p.Backend.Things.SilentThings(ctx, c.scope, time.Duration(seconds)*time.Second, page)
	default:
		items, next, err = p.Backend.Registry.Things(ctx, c.scope, attribute, value, page)
	}
	return adminapi.ThingPage{Items: list(items), Next: c.next(next)}, err
}

func (p *people) createThing(c *call) (any, error) {
	r, err := body[adminapi.ThingRequest](c)
	if err != nil {
		return nil, err
	}
	return p.Backend.Things.CreateThing(c.Request().Context(), c.actor, r)
}

func (p *people) updateThing(c *call) (any, error) {
	r, err := body[adminapi.ThingChange](c)
	if err != nil {
		return nil, err
	}
	return p.Backend.Things.UpdateThing(c.Request().Context(), c.actor, c.Param("thing"), r)
}

func (p *people) deleteThing(c *call) (any, error) {
	return p.Backend.Things.DeleteThing(c.Request().Context(), c.actor, c.Param("thing"), c.version())
}

// version is the one that a deletion expects, 0 for any.
func (c *call) version() int64 {
	n, _ := strconv.ParseInt(c.query.Get("version"), 10, 64) // the contract checked it
	return n
}

func (p *people) listThingPrincipals(c *call) (any, error) {
	items, err := p.Backend.Things.ThingPrincipals(c.Request().Context(), c.scope, c.Param("thing"))
	return adminapi.ThingPrincipalPage{Items: list(items)}, err
}

// attachThingPrincipal needs a second right to take a thing from a device that
// is alive (S22).
func (p *people) attachThingPrincipal(c *call) (any, error) {
	r, err := body[adminapi.AttachRequest](c)
	if err != nil {
		return nil, err
	}
	if r.TakeOver {
		if err := access.Require(c.actor, access.TakeOverThing); err != nil {
			return nil, err
		}
	}
	return p.Backend.Things.AttachPrincipal(c.Request().Context(), c.actor, c.Param("thing"), c.Param("certificate"), r)
}

func (p *people) detachThingPrincipal(c *call) (any, error) {
	return p.Backend.Things.DetachPrincipal(c.Request().Context(), c.actor, c.Param("thing"), c.Param("certificate"))
}

func (p *people) listThingTypes(c *call) (any, error) {
	page, err := c.page()
	if err != nil {
		return nil, err
	}
	items, next, err := p.Backend.ThingTypes.ThingTypes(c.Request().Context(), c.scope, page)
	return adminapi.ThingTypePage{Items: list(items), Next: c.next(next)}, err
}

func (p *people) createThingType(c *call) (any, error) {
	r, err := body[adminapi.ThingTypeRequest](c)
	if err != nil {
		return nil, err
	}
	return p.Backend.ThingTypes.CreateThingType(c.Request().Context(), c.actor, r)
}

func (p *people) getThingType(c *call) (any, error) {
	return p.Backend.ThingTypes.ThingType(c.Request().Context(), c.scope, c.Param("type"))
}

func (p *people) deprecateThingType(c *call) (any, error) {
	r, err := body[adminapi.DeprecateRequest](c)
	if err != nil {
		return nil, err
	}
	return p.Backend.ThingTypes.DeprecateThingType(c.Request().Context(), c.actor, c.Param("type"), r.Undo)
}

func (p *people) deleteThingType(c *call) (any, error) {
	return p.Backend.ThingTypes.DeleteThingType(c.Request().Context(), c.actor, c.Param("type"))
}

// The two kinds of groups have the same handlers, each made for a kind.

type handler = func(p *people, c *call) (any, error)

func listGroups(k GroupKind) handler {
	return func(p *people, c *call) (any, error) {
		page, err := c.page()
		if err != nil {
			return nil, err
		}
		q := GroupQuery{Parent: c.query.Get("parent"), Prefix: c.query.Get("prefix")}
		items, next, err := p.Backend.Groups.Groups(c.Request().Context(), c.scope, k, q, page)
		return adminapi.ThingGroupPage{Items: list(items), Next: c.next(next)}, err
	}
}

// createGroup and updateGroup read a billing group's body as a thing group's: the
// contract lets it have fewer members.
func createGroup(k GroupKind) handler {
	return func(p *people, c *call) (any, error) {
		r, err := body[adminapi.ThingGroupRequest](c)
		if err != nil {
			return nil, err
		}
		return p.Backend.Groups.CreateGroup(c.Request().Context(), c.actor, k, r)
	}
}

func updateGroup(k GroupKind) handler {
	return func(p *people, c *call) (any, error) {
		r, err := body[adminapi.ThingGroupChange](c)
		if err != nil {
			return nil, err
		}
		return p.Backend.Groups.UpdateGroup(c.Request().Context(), c.actor, k, c.Param("group"), r)
	}
}

func getGroup(k GroupKind) handler {
	return func(p *people, c *call) (any, error) {
		return p.Backend.Groups.Group(c.Request().Context(), c.scope, k, c.Param("group"))
	}
}

func deleteGroup(k GroupKind) handler {
	return func(p *people, c *call) (any, error) {
		return p.Backend.Groups.DeleteGroup(c.Request().Context(), c.actor, k, c.Param("group"), c.version())
	}
}

func listGroupThings(k GroupKind) handler {
	return func(p *people, c *call) (any, error) {
		page, err := c.page()
		if err != nil {
			return nil, err
		}
		names, next, err := p.Backend.Groups.GroupThings(c.Request().Context(), c.scope, k, c.Param("group"), c.query.Get("nested") == "true", page)
		return adminapi.ThingNamePage{Items: list(names), Next: c.next(next)}, err
	}
}

func addToGroup(k GroupKind) handler {
	return func(p *people, c *call) (any, error) {
		return p.Backend.Groups.AddToGroup(c.Request().Context(), c.actor, k, c.Param("group"), c.Param("thing"))
	}
}

func removeFromGroup(k GroupKind) handler {
	return func(p *people, c *call) (any, error) {
		return p.Backend.Groups.RemoveFromGroup(c.Request().Context(), c.actor, k, c.Param("group"), c.Param("thing"))
	}
}
