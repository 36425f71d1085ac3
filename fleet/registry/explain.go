package registry

import (
	"context"
	"crypto/x509"
	"net/netip"

	"hallmark/access"
	"hallmark/fleet/policy"
)

// Question asks what a certificate may do, without a connection.
type Question struct {
	Certificate string // id
	Action      policy.Action
	Resource    string // the name alone, as [policy.Set.Allows] wants it
	ClientID    string // "" takes the name of the connection's thing
	SourceIP    netip.Addr
	DomainName  string
	Persistent  bool
	LastWill    bool
}

// Explanation is the answer with its reasons.
type Explanation struct {
	policy.Decision
	Certificate Certificate
	// Usable tells whether a device may use the certificate at all now. If not,
	// nothing is allowed, and the decision is what it would be otherwise.
	Usable   bool
	Thing    string // of the connection, "" if there is none
	ClientID string
	Policies []EffectivePolicy
}

// Explain answers as [Binding.Allows] of a connection with that certificate and
// client id would, and says why. It reads what is true now and caches nothing.
func (r *Registry) Explain(ctx context.Context, s access.Scope, q Question) (Explanation, error) {
	c, err := r.store.Certificate(ctx, s, q.Certificate)
	if err != nil {
		return Explanation{}, err
	}
	out := Explanation{Certificate: c, Usable: c.Usable(r.now()), ClientID: q.ClientID}
	cert, err := x509.ParseCertificate(c.DER)
	if err != nil {
		return out, err
	}
	things, err := r.store.CertificateThings(ctx, s, c.ID)
	if err != nil {
		return out, err
	}
	if out.ClientID == "" && len(things) > 0 {
		out.ClientID = string(things[0].Thing)
	}
	rows, err := r.things(ctx, s, things)
	if err != nil {
		return out, err
	}
	at := policy.ContextFromCertificate(cert)
	at.ClientID, at.SourceIP, at.DomainName, at.PersistentConnect, at.LastWill = out.ClientID, q.SourceIP, q.DomainName, q.Persistent, q.LastWill
	if t := connectionThing(things, rows, out.ClientID); t != nil {
		out.Thing = string(t.Name)
		at.Thing = policy.Thing{Name: string(t.Name), Type: t.Type, Attributes: t.Attributes, Attached: true}
	}
	if out.Policies, err = r.effective(ctx, s, c.ID, c.How.grouped(rows)); err != nil {
		return out, err
	}
	set, err := r.sets.compile(out.Policies)
	if err != nil {
		return out, err
	}
	out.Decision = set.Explain(&at, q.Action, q.Resource)
	return out, nil
}
