package main

import (
	"context"
	"errors"

	"hallmark/access"
	"hallmark/ca"
	"hallmark/provisioner/declare"
)

// crossSpec is about a stored cross certificate, of which a document can say one
// thing: that it goes. It is stored with its certificate, see [backend.AddCross].
type crossSpec struct {
	State string `json:"state"` // stored, removed
}

const crossStored, crossRemoved = "stored", "removed"

type crossKind struct{ *backend }

func (crossKind) Name() string        { return "CrossCertificate" }
func (crossKind) Sees() access.Action { return access.ReadAuthorities }

func (crossKind) Decode(raw []byte) (declare.Spec, error) {
	s, err := declare.Decode[crossSpec](raw)
	if err != nil {
		return nil, err
	}
	if v := s.(crossSpec); v.State != crossStored && v.State != crossRemoved {
		return nil, declare.ErrField.New("spec.state: it is stored or removed.").With("path", "state")
	}
	return s, nil
}

// cross finds one of a tenant.
func (b *backend) cross(s access.Scope, name string) (ca.CrossInfo, error) {
	x, err := b.ca.Cross(name)
	if err == nil && x.Tenant != s.Tenant {
		err = ca.ErrAuthorityUnknown.New("%.40s.", name)
	}
	return x, err
}

func (k crossKind) Read(_ context.Context, s access.Scope, name string) (declare.Spec, error) {
	_, err := k.cross(s, name)
	if errors.Is(err, ca.ErrAuthorityUnknown) {
		return nil, nil
	}
	return crossSpec{crossStored}, err
}

// List gives none: without its certificate a document cannot bring one back.
func (crossKind) List(context.Context, access.Scope, string, int) ([]string, string, error) {
	return nil, "", nil
}

// Judge: who trusts only the root that signed it loses the way to what is below the
// other, so it takes two people (S36). One that ended is nobody's way any more.
func (k crossKind) Judge(_ context.Context, s access.Scope, name string, was, want declare.Spec) (declare.Verdict, error) {
	v := declare.Verdict{Rights: []access.Action{access.InstallAuthority}}
	x, err := k.cross(s, name)
	if err != nil {
		return v, err
	}
	if was != nil && declare.Equal(was, want) {
		return v, nil
	}
	v.Notes = append(v.Notes, "who trusts "+x.Root+" alone finds no chain to what is below "+x.Of+" here any more; what devices have got they keep, and it is good until "+day(x.Cert.NotAfter))
	if k.now().Before(x.Cert.NotAfter) {
		v.Dangerous = "a way to trust that somebody may rely on"
	}
	return v, nil
}

func (k crossKind) Put(ctx context.Context, by access.Actor, name string, _, want declare.Spec) (out declare.Outcome, err error) {
	if want.(crossSpec).State == crossRemoved {
		err = k.db.RemoveCross(ctx, by.Scope(), name)
	}
	return out, err
}
