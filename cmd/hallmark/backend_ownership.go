package main

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"time"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/ca"
	"hallmark/fleet/ownership"
	"hallmark/provisioner/declare"
	"hallmark/web"
)

func ownershipActView(a *ownership.Act) adminapi.OwnershipAct {
	return adminapi.OwnershipAct{Name: a.Name, Kind: string(a.Kind), Units: a.Units, To: a.To, Note: a.Note, By: a.By, At: a.At, State: string(a.State), ExpiresAt: a.Expires, EndedAt: a.EndedAt}
}

// act carries an act out, or asks a second person to approve it.
func (b *backend) act(ctx context.Context, by access.Actor, kind ownership.Kind, r *adminapi.OwnershipRequest) (adminapi.OwnershipAct, error) {
	s := ownershipSpec{Act: string(kind), Units: r.Units, To: r.To, ValidSeconds: r.ValidSeconds, Note: r.Note}
	w := s.wanted(r.Name)
	if err := w.Complete(); err != nil {
		return adminapi.OwnershipAct{}, err
	}
	s = specOfAct(&w)
	if err := b.second(ctx, by, ownershipKind{b}, r.Name, s); err != nil {
		return adminapi.OwnershipAct{}, err
	}
	a, code, err := b.ownership.Do(ctx, by, w)
	v := ownershipActView(&a)
	v.Code = code
	return v, err
}

// ReleaseUnits implements [web.Ownership].
func (b *backend) ReleaseUnits(ctx context.Context, by access.Actor, r adminapi.OwnershipRequest) (adminapi.OwnershipAct, error) {
	return b.act(ctx, by, ownership.Release, &r)
}

// ResetUnits implements [web.Ownership].
func (b *backend) ResetUnits(ctx context.Context, by access.Actor, r adminapi.OwnershipRequest) (adminapi.OwnershipAct, error) {
	return b.act(ctx, by, ownership.Reset, &r)
}

// DecommissionUnits implements [web.Ownership].
func (b *backend) DecommissionUnits(ctx context.Context, by access.Actor, r adminapi.OwnershipRequest) (adminapi.OwnershipAct, error) {
	return b.act(ctx, by, ownership.Decommission, &r)
}

// AcceptUnits implements [web.Ownership].
func (b *backend) AcceptUnits(ctx context.Context, by access.Actor, r adminapi.OwnershipAcceptance) ([]adminapi.OwnershipUnit, error) {
	units, err := b.ownership.Accept(ctx, by, ownership.Acceptance{Code: r.Code, Template: r.Template, Groups: r.Groups, Note: r.Note})
	return mapped(units, func(u *ownership.Unit) adminapi.OwnershipUnit { return ownershipView(u, by.Tenant, nil, nil) }), err
}

// OwnershipActs implements [web.Ownership].
func (b *backend) OwnershipActs(ctx context.Context, s access.Scope, p web.Page) ([]adminapi.OwnershipAct, string, error) {
	rows, next, err := collect(p.After, p.Limit, func(after string, n int) ([]ownership.Act, error) { return b.ownership.Acts(ctx, s, after, n) }, func(a *ownership.Act) string { return a.Name }, nil)
	return mapped(rows, ownershipActView), next, err
}

// OwnershipAct implements [web.Ownership].
func (b *backend) OwnershipAct(ctx context.Context, s access.Scope, name string) (adminapi.OwnershipAct, error) {
	a, err := b.ownership.Act(ctx, s, name)
	return ownershipActView(&a), err
}

// WithdrawRelease implements [web.Ownership].
func (b *backend) WithdrawRelease(ctx context.Context, by access.Actor, name string, n adminapi.CampaignNote) (adminapi.OwnershipAct, error) {
	a, err := b.ownership.Withdraw(ctx, by, name, n.Comment)
	return ownershipActView(&a), err
}

// OwnershipOf implements [web.Ownership]. Of the birth certificate, which another
// tenant's authority may have made, the owner sees its facts (S43).
func (b *backend) OwnershipOf(ctx context.Context, s access.Scope, unit string) (adminapi.OwnershipUnit, error) {
	u, events, err := b.ownership.Show(ctx, s, unit)
	if err != nil {
		return adminapi.OwnershipUnit{}, err
	}
	var birth *ca.Record
	if u.Tenant == s.Tenant {
		serial, err := ca.ParseSerial(u.Serial)
		if err != nil {
			return adminapi.OwnershipUnit{}, err
		}
		r, err := b.db.RecordBySerial(ctx, u.Home, u.Authority, serial)
		if err != nil {
			return adminapi.OwnershipUnit{}, err
		}
		birth = &r
	}
	return ownershipView(&u, s.Tenant, birth, events), nil
}

func ownershipView(u *ownership.Unit, tenant string, birth *ca.Record, events []ownership.Event) adminapi.OwnershipUnit {
	v := adminapi.OwnershipUnit{Unit: u.Shown, State: "elsewhere", History: mapped(events, ownershipEventView)}
	if u.Tenant == tenant {
		v.State, v.Act, v.Since, v.Template, v.Groups = string(u.State), u.Act, u.Since, u.Template, u.Groups
		if u.Foreign() {
			v.Home = u.Home
		}
	}
	if birth != nil {
		sum := sha256.Sum256(birth.DER)
		v.Birth = adminapi.OwnershipBirth{Authority: birth.Authority, Serial: birth.Serial.String(), Sha256: hex.EncodeToString(sum[:]), Origin: birth.Origin, NotBefore: birth.NotBefore, NotAfter: birth.NotAfter}
	}
	return v
}

func ownershipEventView(e *ownership.Event) adminapi.OwnershipEvent {
	return adminapi.OwnershipEvent{What: string(e.What), At: e.At, By: e.By, Note: e.Note, Act: e.Act, Revoked: e.Revoked, Archive: mapped(e.Archive, func(a *ownership.Archive) adminapi.OwnershipArchive {
		v := adminapi.OwnershipArchive{Thing: string(a.Thing), Type: a.Type, Attributes: a.Attributes, Groups: a.Groups, BillingGroup: a.BillingGroup, Policies: a.Policies, Configuration: a.Configuration, CreatedAt: a.CreatedAt,
			Certificates: mapped(a.Certificates, func(c *ownership.ArchivedCertificate) adminapi.OwnershipCertificate {
				return adminapi.OwnershipCertificate{Id: c.ID, Authority: c.Authority, Serial: c.Serial, Status: c.Status, Policies: c.Policies}
			})}
		if len(a.Shadows) > 0 {
			v.Shadows = map[string]string{}
			for name, document := range a.Shadows {
				v.Shadows[name] = string(document)
			}
		}
		return v
	})}
}

// ownershipSpec is an act as a document, which a second person approves.
type ownershipSpec struct {
	Act          string   `json:"act"` // release, reset or decommission
	Units        []string `json:"units"`
	To           string   `json:"to,omitempty"`
	ValidSeconds int64    `json:"validSeconds,omitempty"`
	Note         string   `json:"note,omitempty"`
}

func (s *ownershipSpec) wanted(name string) ownership.Wanted {
	return ownership.Wanted{Name: name, Kind: ownership.Kind(s.Act), Units: s.Units, To: s.To, Valid: ofSeconds(s.ValidSeconds), Note: s.Note}
}

func specOfAct(w *ownership.Wanted) ownershipSpec {
	return ownershipSpec{Act: string(w.Kind), Units: w.Units, To: w.To, ValidSeconds: int64(w.Valid / time.Second), Note: w.Note}
}

// ownershipKind is acts with more units than one person may decide about (S36).
type ownershipKind struct{ *backend }

func (ownershipKind) Name() string        { return "OwnershipAct" }
func (ownershipKind) Sees() access.Action { return access.ReadOwnership }

func (ownershipKind) Decode(raw []byte) (declare.Spec, error) {
	d, err := declare.Decode[ownershipSpec](raw)
	if err != nil {
		return nil, err
	}
	s := d.(ownershipSpec)
	w := s.wanted("x")
	if err := w.Complete(); err != nil {
		return nil, err
	}
	return specOfAct(&w), nil
}

// Read gives what was done, nil while it was not.
func (k ownershipKind) Read(ctx context.Context, s access.Scope, name string) (declare.Spec, error) {
	a, known, err := absent(k.ownership.Act(ctx, s, name))
	if err != nil || !known {
		return nil, err
	}
	v := ownershipSpec{Act: string(a.Kind), Units: a.Units, To: a.To, Note: a.Note}
	if a.Kind == ownership.Release {
		v.ValidSeconds = int64(a.Expires.Sub(a.At) / time.Second)
	}
	return v, nil
}

// List gives none: it is an act, not how things are.
func (ownershipKind) List(context.Context, access.Scope, string, int) ([]string, string, error) {
	return nil, "", nil
}

// Judge implements [declare.Kind].
func (k ownershipKind) Judge(ctx context.Context, s access.Scope, name string, was, want declare.Spec) (declare.Verdict, error) {
	w := want.(ownershipSpec)
	right, what := access.ReleaseUnits, "giving devices away"
	switch ownership.Kind(w.Act) {
	case ownership.Reset:
		right, what = access.ResetUnits, "resetting many devices"
	case ownership.Decommission:
		right, what = access.DecommissionUnits, "taking devices out of use for ever"
	}
	v := declare.Verdict{Rights: []access.Action{right}}
	if was != nil {
		if !declare.Equal(was, want) {
			return v, ownership.ErrExists.New("%s.", name)
		}
		return v, nil
	}
	if err := k.ownership.Check(ctx, s, w.wanted(name)); err != nil {
		return v, err
	}
	if int64(len(w.Units)) > *k.cfg.Fleet.Ownership.TwoPeopleOver {
		v.Dangerous = what
	}
	if w.Act == string(ownership.Release) {
		v.Notes = append(v.Notes, "the answer to whoever puts it in force has the transfer code, once")
	}
	return v, nil
}

// Put implements [declare.Kind].
func (k ownershipKind) Put(ctx context.Context, by access.Actor, name string, _, want declare.Spec) (declare.Outcome, error) {
	w := want.(ownershipSpec)
	_, code, err := k.ownership.Do(ctx, by, w.wanted(name))
	return declare.Outcome{Secret: code}, err
}
