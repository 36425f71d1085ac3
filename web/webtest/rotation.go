package webtest

import (
	"context"
	"time"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/web"
)

// ThingRotations implements [web.Rotation].
func (f *Fake) ThingRotations(ctx context.Context, s access.Scope, thing string) ([]adminapi.RotationEvent, error) {
	if _, err := f.Thing(ctx, s, thing); err != nil {
		return nil, err
	}
	return []adminapi.RotationEvent{{At: f.Now(), What: "renewed", Certificate: "ab", Reason: "expiry"}}, nil
}

// ThingTimeline implements [web.Timeline].
func (f *Fake) ThingTimeline(ctx context.Context, s access.Scope, thing string, limit int) ([]adminapi.ThingEvent, error) {
	if _, err := f.Thing(ctx, s, thing); err != nil {
		return nil, err
	}
	items := []adminapi.ThingEvent{{At: f.Now().Add(-time.Hour), Kind: "thing", What: "created"}, {At: f.Now(), Kind: "rotation", What: "renewed", Certificate: "ab", Reason: "expiry"}}
	return items[max(0, len(items)-limit):], nil
}

// RotationDue implements [web.Rotation].
func (f *Fake) RotationDue(_ context.Context, s access.Scope, _ time.Duration, p web.Page) ([]adminapi.RotationDue, string, error) {
	return cut(s, []adminapi.RotationDue{{Thing: "LMP-1", Certificate: "ab", NotAfter: f.Now()}}, p)
}
