package web

import (
	"context"
	"time"

	"hallmark/access"
	"hallmark/api/adminapi"
)

// Rotation is which certificates of devices end soon, and what became of the others.
type Rotation interface {
	ThingRotations(ctx context.Context, s access.Scope, thing string) ([]adminapi.RotationEvent, error)
	// RotationDue lists what ends within a window; 0 means the configured ones.
	RotationDue(ctx context.Context, s access.Scope, window time.Duration, p Page) (items []adminapi.RotationDue, next string, err error)
}

func (p *people) listThingRotations(c *call) (any, error) {
	items, err := p.Backend.Rotation.ThingRotations(c.Request().Context(), c.scope, c.Param("thing"))
	return adminapi.RotationEvents{Items: list(items)}, err
}

func (p *people) listRotationDue(c *call) (any, error) {
	page, err := c.page()
	if err != nil {
		return nil, err
	}
	const most = 20 * 366 * 24 * 3600
	window := min(c.number("window_seconds", 0), most)
	items, next, err := p.Backend.Rotation.RotationDue(c.Request().Context(), c.scope, time.Duration(window)*time.Second, page)
	return adminapi.RotationDuePage{Items: list(items), Next: c.next(next)}, err
}
