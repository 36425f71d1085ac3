package provisioner

import (
	"context"

	"hallmark/access"
	"hallmark/ca"
	"hallmark/ca/csr"
	"hallmark/ca/profile"
	"hallmark/internal/lane"
)

// UnitEnrolment asks for the birth certificate of a unit that no station makes:
// somebody with the right to it named the unit and the order beforehand.
type UnitEnrolment struct {
	Tenant  string
	Order   string
	Unit    string
	Request *csr.Request // its key was proven
	By      string       // who vouches, for the record
	Tool    string
	// Attested says that the key's origin was proven by an attestation (S5).
	Attested bool
}

// CheckEnrolment tells whether an order takes a unit that enrols by itself: it is
// bound to no station, its keys are the devices' own and unproven (S5), it is in
// its window, and its serial rule has the unit.
func (p *Provisioner) CheckEnrolment(ctx context.Context, tenant, order, unit string) error {
	_, err := p.enrolment(ctx, tenant, order, unit, false)
	return err
}

// CheckAttested is [Provisioner.CheckEnrolment] for a unit that will show an
// attestation of its key.
func (p *Provisioner) CheckAttested(ctx context.Context, tenant, order, unit string) error {
	_, err := p.enrolment(ctx, tenant, order, unit, true)
	return err
}

// enrolment finds the order. An order for attested keys takes those alone; one for
// claimed keys takes every key, and says of it no more than that.
func (p *Provisioner) enrolment(ctx context.Context, tenant, order, unit string, attested bool) (*verifiedOrder, error) {
	v, _, err := p.order(ctx, tenant, order)
	if err != nil {
		return nil, err
	}
	b, now := v.body, p.now().Unix()
	switch {
	case len(b.Stations) > 0:
		return nil, ErrOrderStation.New("Order %s is made at its stations only.", b.ID).With("order", b.ID)
	case b.KeyOrigin != profile.OriginClaimed && !(attested && b.KeyOrigin == profile.OriginAttested):
		return nil, originUnshown(b)
	case b.NotBefore != 0 && now < b.NotBefore || b.NotAfter != 0 && now >= b.NotAfter:
		return nil, ErrOrderWindow.New("Order %s runs from %s to %s.", b.ID, unixText(b.NotBefore), unixText(b.NotAfter)).With("order", b.ID)
	}
	if err := ValidUnit(unit); err != nil {
		return nil, err
	}
	if !v.matcher.allows(unit) {
		return nil, ErrUnitInvalid.New("%s is not in the %s.", unit, b.Serials).With("unit", unit)
	}
	return v, nil
}

// EnrolUnit makes the birth certificate, or hands it out again. Everything but
// the station is as in [Provisioner.Issue]: the signed order, its quota, the
// subject from the order. A unit that a station started stays that station's.
func (p *Provisioner) EnrolUnit(ctx context.Context, e UnitEnrolment) (IssueAnswer, error) {
	ctx = lane.With(ctx, lane.Claim)
	v, err := p.enrolment(ctx, e.Tenant, e.Order, e.Unit, e.Attested)
	if err != nil {
		return IssueAnswer{}, err
	}
	return p.issueFor(ctx, v, ca.Requester{Actor: access.Actor{Kind: access.KindService, Name: e.By}.String()}, e.Unit, ca.RekeyBeforeInstalled, e.Request, "", e.Tool)
}
