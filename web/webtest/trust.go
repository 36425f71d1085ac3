package webtest

import (
	"context"

	"hallmark/access"
	"hallmark/api/adminapi"
)

// Rollover is the root rollover of the fixtures.
const Rollover = "roots-1"

func (f *Fake) rolloverOf(s access.Scope, name string) (adminapi.TrustRollover, error) {
	row := adminapi.TrustRollover{Name: Rollover, From: "root-1", To: "root-2", Targets: []string{"thinggroup/eu"}, Phase: "adding", Since: f.Now(), Campaigns: []string{}, Steps: []adminapi.TrustStep{}, Needs: []adminapi.TrustNeed{}, Version: 1}
	return pick(s, []adminapi.TrustRollover{row}, func(r *adminapi.TrustRollover) bool { return r.Name == name })
}

// TrustState implements [web.Bundles].
func (f *Fake) TrustState(context.Context, access.Scope) (adminapi.TrustState, error) {
	return adminapi.TrustState{Roots: []adminapi.TrustRoot{}, Shown: []adminapi.TrustShown{}}, nil
}

// ThingTrust implements [web.Bundles].
func (f *Fake) ThingTrust(ctx context.Context, s access.Scope, thing string) (adminapi.TrustBundle, error) {
	_, err := f.Thing(ctx, s, thing)
	return adminapi.TrustBundle{Thing: thing, Roots: []string{}, SeenAt: f.Now()}, err
}

// PlanTrustRollover implements [web.Bundles].
func (f *Fake) PlanTrustRollover(context.Context, access.Scope, adminapi.TrustRolloverRequest) (adminapi.TrustRolloverPlan, error) {
	return adminapi.TrustRolloverPlan{Checks: []adminapi.RolloverCheck{}}, nil
}

// TrustRollovers implements [web.Bundles].
func (f *Fake) TrustRollovers(_ context.Context, s access.Scope) ([]adminapi.TrustRollover, error) {
	row, err := f.rolloverOf(s, Rollover)
	if err != nil {
		return nil, nil
	}
	return []adminapi.TrustRollover{row}, nil
}

// TrustRollover implements [web.Bundles].
func (f *Fake) TrustRollover(_ context.Context, s access.Scope, name string) (adminapi.TrustRollover, error) {
	return f.rolloverOf(s, name)
}

// AdvanceTrustRollover implements [web.Bundles].
func (f *Fake) AdvanceTrustRollover(_ context.Context, by access.Actor, name string, _ adminapi.CampaignNote) (adminapi.TrustRollover, error) {
	f.Calls = append(f.Calls, "advance rollover "+name)
	return f.rolloverOf(by.Scope(), name)
}

// RetryTrustRollover implements [web.Bundles].
func (f *Fake) RetryTrustRollover(_ context.Context, by access.Actor, name string, _ adminapi.CampaignNote) (adminapi.TrustRollover, error) {
	f.Calls = append(f.Calls, "retry rollover "+name)
	return f.rolloverOf(by.Scope(), name)
}

// CancelTrustRollover implements [web.Bundles].
func (f *Fake) CancelTrustRollover(_ context.Context, by access.Actor, name string, _ adminapi.CampaignNote) (adminapi.TrustRollover, error) {
	f.Calls = append(f.Calls, "cancel rollover "+name)
	return f.rolloverOf(by.Scope(), name)
}
