package web

import (
	"context"

	"hallmark/access"
	"hallmark/api/adminapi"
)

// MaxTimeline is the most events that a thing's timeline gives.
const MaxTimeline = 500

// Timeline is what happened to a thing, from all that is kept of it.
type Timeline interface {
	// ThingTimeline gives the latest events, oldest first.
	ThingTimeline(ctx context.Context, s access.Scope, thing string, limit int) ([]adminapi.ThingEvent, error)
}

func (p *people) getThingTimeline(c *call) (any, error) {
	items, err := p.Backend.Things.ThingTimeline(c.Request().Context(), c.scope, c.Param("thing"), int(c.number("limit", MaxTimeline)))
	return adminapi.ThingTimeline{Items: list(items)}, err
}
