package webtest

import (
	"context"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/web"
)

// Act is the release of the fixtures.
const Act = "sale-1"

func (f *Fake) ownershipAct(s access.Scope, name string) (adminapi.OwnershipAct, error) {
	row := adminapi.OwnershipAct{Name: Act, Kind: "release", Units: []string{Unit}, By: "sam", At: f.Now(), State: "open", ExpiresAt: f.Now()}
	return pick(s, []adminapi.OwnershipAct{row}, func(a *adminapi.OwnershipAct) bool { return a.Name == name })
}

func (f *Fake) acted(kind string, r *adminapi.OwnershipRequest) (adminapi.OwnershipAct, error) {
	f.Calls = append(f.Calls, kind+" "+r.Name)
	return adminapi.OwnershipAct{Name: r.Name, Kind: kind, Units: r.Units, By: "sam", At: f.Now(), State: "done"}, nil
}

// ReleaseUnits implements [web.Ownership].
func (f *Fake) ReleaseUnits(_ context.Context, _ access.Actor, r adminapi.OwnershipRequest) (adminapi.OwnershipAct, error) {
	return f.acted("release", &r)
}

// ResetUnits implements [web.Ownership].
func (f *Fake) ResetUnits(_ context.Context, _ access.Actor, r adminapi.OwnershipRequest) (adminapi.OwnershipAct, error) {
	return f.acted("reset", &r)
}

// DecommissionUnits implements [web.Ownership].
func (f *Fake) DecommissionUnits(_ context.Context, _ access.Actor, r adminapi.OwnershipRequest) (adminapi.OwnershipAct, error) {
	return f.acted("decommission", &r)
}

// AcceptUnits implements [web.Ownership].
func (f *Fake) AcceptUnits(context.Context, access.Actor, adminapi.OwnershipAcceptance) ([]adminapi.OwnershipUnit, error) {
	f.Calls = append(f.Calls, "accept")
	return []adminapi.OwnershipUnit{{Unit: "U-1", State: "owned", History: []adminapi.OwnershipEvent{}}}, nil
}

// OwnershipActs implements [web.Ownership].
func (f *Fake) OwnershipActs(_ context.Context, s access.Scope, p web.Page) ([]adminapi.OwnershipAct, string, error) {
	a, err := f.ownershipAct(s, Act)
	if err != nil {
		return nil, "", nil
	}
	return cut(s, []adminapi.OwnershipAct{a}, p)
}

// OwnershipAct implements [web.Ownership].
func (f *Fake) OwnershipAct(_ context.Context, s access.Scope, name string) (adminapi.OwnershipAct, error) {
	return f.ownershipAct(s, name)
}

// WithdrawRelease implements [web.Ownership].
func (f *Fake) WithdrawRelease(_ context.Context, by access.Actor, name string, _ adminapi.CampaignNote) (adminapi.OwnershipAct, error) {
	f.Calls = append(f.Calls, "withdraw "+name)
	return f.ownershipAct(by.Scope(), name)
}

// OwnershipOf implements [web.Ownership].
func (f *Fake) OwnershipOf(_ context.Context, s access.Scope, unit string) (adminapi.OwnershipUnit, error) {
	row := adminapi.OwnershipUnit{Unit: Unit, State: "owned", History: []adminapi.OwnershipEvent{{What: "accepted", At: f.Now(), By: "sam"}}}
	return pick(s, []adminapi.OwnershipUnit{row}, func(u *adminapi.OwnershipUnit) bool { return u.Unit == unit })
}

// DecommissionStatement implements [web.Ownership].
func (f *Fake) DecommissionStatement(ctx context.Context, s access.Scope, unit string) (adminapi.Envelope, error) {
	_, err := f.OwnershipOf(ctx, s, unit)
	return adminapi.Envelope{PayloadType: "application/vnd.hallmark.decommission+json", Payload: []byte("{}"), Signatures: []adminapi.EnvelopeSignature{{Keyid: "ab", Sig: []byte{1}}}}, err
}
