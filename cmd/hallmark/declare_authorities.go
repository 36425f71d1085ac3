package main

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode"

	"hallmark/access"
	"hallmark/ca"
	"hallmark/ca/profile"
	"hallmark/crl"
	"hallmark/fleet"
	"hallmark/fleet/trust"
	"hallmark/provisioner/declare"
)

// servingSpec says which authorities issue what. One whose list is empty is as if
// it were not there.
type servingSpec struct {
	Serves      string   `json:"serves"`
	Product     string   `json:"product,omitempty"`
	Region      string   `json:"region,omitempty"`
	Authorities []string `json:"authorities,omitempty"`
	// Reason is why an authority may issue although devices may not have its root.
	Reason string `json:"reason,omitempty"`
}

// Public is what is compared: a reason is of one change.
func (s servingSpec) Public() declare.Spec {
	s.Reason = ""
	return s
}

type servingKind struct{ *backend }

func (servingKind) Name() string        { return "Serving" }
func (servingKind) Sees() access.Action { return access.ReadAuthorities }

func (servingKind) Decode(raw []byte) (declare.Spec, error) {
	d, err := declare.Decode[servingSpec](raw)
	if err != nil {
		return nil, err
	}
	s := d.(servingSpec)
	if s.Reason = strings.TrimSpace(s.Reason); len(s.Reason) > maxServingReason || strings.ContainsFunc(s.Reason, unicode.IsControl) {
		return nil, declare.ErrField.New("spec.reason: it is one line of at most %d octets.", maxServingReason).With("path", "reason")
	}
	return s, nil
}

const maxServingReason = 512

func (k servingKind) serving(s ca.Serving) servingSpec {
	return servingSpec{Serves: s.Serves, Product: s.Product, Region: s.Region, Authorities: s.Authorities}
}
func (k servingKind) of(ctx context.Context, s access.Scope) ([]ca.Serving, error) {
	all, err := k.db.Servings(ctx)
	return slices.DeleteFunc(all, func(d ca.Serving) bool { return d.Tenant != s.Tenant }), err
}

func (k servingKind) Read(ctx context.Context, s access.Scope, name string) (declare.Spec, error) {
	all, err := k.of(ctx, s)
	for _, d := range all {
		if d.Name == name {
			return k.serving(d), err
		}
	}
	return nil, err
}

func (k servingKind) List(ctx context.Context, s access.Scope, after string, limit int) ([]string, string, error) {
	return collect(after, limit, func(after string, n int) (names []string, err error) {
		all, err := k.of(ctx, s)
		for _, d := range all {
			if d.Name > after && len(names) < n {
				names = append(names, d.Name)
			}
		}
		return names, err
	}, func(n *string) string { return *n }, nil)
}

// Judge: who issues is as who is trusted to issue, so a change takes two (S36).
func (k servingKind) Judge(ctx context.Context, s access.Scope, name string, was, want declare.Spec) (declare.Verdict, error) {
	v := declare.Verdict{Rights: []access.Action{access.InstallAuthority}}
	w := want.(servingSpec)
	d := ca.Serving{Tenant: s.Tenant, Name: name, Serves: w.Serves, Product: w.Product, Region: w.Region, Authorities: w.Authorities}
	all, err := k.of(ctx, s)
	if err != nil {
		return v, err
	}
	rows, err := k.authorities(ctx, s)
	if err != nil {
		return v, err
	}
	if was != nil && declare.Equal(was, w.Public()) {
		return v, nil
	}
	if err := d.Check(rows); err != nil {
		return v, err
	}
	for _, have := range all {
		if have.Name != name && strings.EqualFold(have.Serves+"\x00"+have.Product+"\x00"+have.Region, d.Serves+"\x00"+d.Product+"\x00"+d.Region) {
			return v, ca.ErrServing.New("%s is declared by %s already.", d.String(), have.Name).With("path", "serves")
		}
	}
	if was != nil {
		if h := was.(servingSpec); h.Serves != w.Serves || h.Product != w.Product || h.Region != w.Region {
			return v, declare.ErrImmutable.New("What a declaration is about does not change.").With("path", "serves")
		}
	}
	if general := w.Product == "" && w.Region == "" && w.Serves == name; general && len(w.Authorities) == 0 {
		return v, ca.ErrLastIssuer.New("%s is for all that has no declaration of its own.", name).With("path", "authorities")
	}
	if len(w.Authorities) == 0 {
		v.Notes = append(v.Notes, "nothing is declared by it: what it was about goes to the next more general declaration")
	}
	v.Dangerous = "which authority issues"
	strange, err := k.strange(ctx, &d)
	if err != nil || strange == "" {
		return v, err
	}
	if w.Reason == "" {
		return v, ca.ErrServingRoot.New("%s.", strange).With("path", "authorities")
	}
	v.Notes = append(v.Notes, strange+" is under a root that devices may not have: who lacks it does not accept what it issues; reason: "+w.Reason)
	return v, nil
}

// strange names an authority that a declaration lets issue, or step in, although nothing
// says that devices have its root: none leads to it of those that issue for them now, as
// far as those are for all products and regions, and no root rollover has brought it. ""
// is none. What is declared and comes no nearer is not looked at again.
func (k servingKind) strange(ctx context.Context, d *ca.Serving) (string, error) {
	declared, err := k.db.Servings(ctx)
	if err != nil {
		return "", err
	}
	shown := func(name string) (a ca.Info, s trust.Shown, err error) {
		if a, err = k.ca.Authority(name); err == nil {
			s.Chain = append([]*x509.Certificate{a.Cert}, k.ca.CrossesOf(a.Cert)...)
		}
		return a, s, err
	}
	var before []string
	duties := map[profile.Duty][]trust.Shown{} // what issues now
	for _, have := range declared {
		own := have.Tenant == d.Tenant && have.Name == d.Name
		if own {
			before = have.Authorities
		}
		if len(have.Authorities) == 0 || !own && have.Product+have.Region != "" {
			continue
		}
		a, s, err := shown(have.Authorities[0])
		if err != nil {
			continue // it is not loaded, and issues nothing
		}
		if have.Tenant == d.Tenant || have.Tenant == access.DefaultTenant && a.Duty == profile.DutyInfrastructure { // the doors are everybody's
			duties[a.Duty] = append(duties[a.Duty], s)
		}
	}
	brought, taken := map[string]bool{}, map[string]bool{}
	if k.trust != nil {
		if brought, err = k.trust.Brought(ctx, d.Tenant); err != nil {
			return "", err
		}
		if taken, err = k.trust.Taken(ctx, d.Tenant); err != nil {
			return "", err
		}
	}
	for i, name := range d.Authorities {
		if at := slices.Index(before, name); at >= 0 && (i > 0 || at == 0) {
			continue
		}
		a, s, err := shown(name)
		if err != nil {
			return "", err
		}
		now := duties[a.Duty]
		if len(now) == 0 { // nobody is left: those that issued before
			for _, old := range k.ca.Authorities() {
				if old.Tenant == d.Tenant && old.Duty == a.Duty && (old.State == ca.StateClosed || old.State == ca.StateRevoked) {
					now = append(now, trust.Shown{Chain: append([]*x509.Certificate{old.Cert}, k.ca.CrossesOf(old.Cert)...)})
				}
			}
		}
		if a.Duty == profile.DutyDevice { // devices accept the doors too
			now = append(slices.Clip(now), duties[profile.DutyInfrastructure]...)
		}
		if !slices.ContainsFunc(k.ca.Roots(), func(root *x509.Certificate) bool {
			id, one := fleet.RootID(root.Raw), []*x509.Certificate{root}
			used := !taken[id] && slices.ContainsFunc(now, func(v trust.Shown) bool { return v.Accepted(one, k.now()) })
			return (used || brought[id]) && s.Accepted(one, k.now())
		}) {
			return name, nil
		}
	}
	return "", nil
}

func (k servingKind) Put(ctx context.Context, by access.Actor, name string, _, want declare.Spec) (out declare.Outcome, err error) {
	w := want.(servingSpec)
	if w.Reason != "" {
		access.RecordFrom(ctx).Note(func(e *access.TrailEntry) {
			about := map[string]string{"reason": w.Reason}
			maps.Copy(about, e.About)
			e.About = about
		})
	}
	all, err := k.of(ctx, by.Scope())
	if err != nil {
		return out, err
	}
	var was int64
	for _, d := range all {
		if d.Name == name {
			was = d.Version
		}
	}
	return out, k.db.PutServing(ctx, ca.Serving{Tenant: by.Tenant, Name: name, Serves: w.Serves, Product: w.Product, Region: w.Region, Authorities: w.Authorities}, was)
}

// endSpec is how far an authority shall leave; the document is named by it.
type endSpec struct {
	Stage     string `json:"stage"` // overlap, closed, revoked
	Successor string `json:"successor,omitempty"`
	Reason    string `json:"reason,omitempty"` // of a revocation, as in RFC 5280, Section 5.3.1
	Note      string `json:"note,omitempty"`
}

type endKind struct{ *backend }

func (endKind) Name() string        { return "AuthorityEnd" }
func (endKind) Sees() access.Action { return access.ReadAuthorities }

func (endKind) Decode(raw []byte) (declare.Spec, error) {
	s, err := declare.Decode[endSpec](raw)
	if err != nil {
		return nil, err
	}
	e := s.(endSpec)
	if !slices.Contains(ca.EndStages, ca.EndStage(e.Stage)) {
		return nil, declare.ErrField.New("spec.stage: it is one of overlap, closed and revoked.").With("path", "stage")
	}
	if revoked := e.Stage == string(ca.EndRevoked); revoked != (e.Reason != "") {
		return nil, declare.ErrField.New("spec.reason: a revocation has one, such as keyCompromise, and nothing else has.").With("path", "reason")
	}
	if e.Reason != "" {
		if r, err := crl.ParseReason(e.Reason); err != nil || r == crl.CertificateHold {
			return nil, declare.ErrField.New("spec.reason: %.40q is no reason for which an authority is revoked.", e.Reason).With("path", "reason")
		}
	}
	if e.Stage == string(ca.EndOverlap) && e.Successor == "" {
		return nil, declare.ErrField.New("spec.successor: an overlap is with one.").With("path", "successor")
	}
	return e, nil
}

// end is how an authority leaves, nil if it stays.
func (b *backend) end(ctx context.Context, s access.Scope, name string) (*ca.End, error) {
	ends, err := b.db.Ends(ctx, s)
	for i := range ends {
		if ends[i].Authority == name {
			return &ends[i], err
		}
	}
	return nil, err
}

func (k endKind) Read(ctx context.Context, s access.Scope, name string) (declare.Spec, error) {
	e, err := k.end(ctx, s, name)
	if e == nil || err != nil {
		return nil, err
	}
	out := endSpec{Stage: string(e.Stage), Successor: e.Successor, Note: e.Note}
	if e.Stage == ca.EndRevoked {
		out.Reason = crl.Reason(e.Reason).String()
	}
	return out, nil
}

// List gives none: that an authority leaves is an act, not how things are.
func (endKind) List(context.Context, access.Scope, string, int) ([]string, string, error) {
	return nil, "", nil
}

// Judge: see [backend.rollover] for what is checked before a successor takes over.
func (k endKind) Judge(ctx context.Context, s access.Scope, name string, was, want declare.Spec) (declare.Verdict, error) {
	v := declare.Verdict{Rights: []access.Action{access.InstallAuthority}}
	if was != nil && declare.Equal(was, want) {
		return v, nil
	}
	w := want.(endSpec)
	p, err := k.rollover(ctx, s, name, w.Successor)
	if err != nil {
		return v, err
	}
	if was != nil {
		had := was.(endSpec)
		if slices.Index(ca.EndStages, ca.EndStage(w.Stage)) < slices.Index(ca.EndStages, ca.EndStage(had.Stage)) {
			return v, ca.ErrEndBack.New("%s is %s.", name, had.Stage).With("path", "stage")
		}
		if had.Successor != "" && w.Successor != "" && had.Successor != w.Successor {
			return v, declare.ErrImmutable.New("%s has the successor %s.", name, had.Successor).With("path", "successor")
		}
	}
	var lacks []string
	for _, c := range p.checks {
		if c.bad && (w.Stage == string(ca.EndOverlap) || c.always && w.Stage == string(ca.EndClosed)) {
			lacks = append(lacks, c.name+": "+c.detail)
		}
	}
	if len(lacks) > 0 {
		return v, ca.ErrRollover.New("%s", strings.Join(lacks, " ")).With("path", "stage")
	}
	var left []string
	for _, o := range p.orphans {
		left = append(left, o.String())
	}
	switch ca.EndStage(w.Stage) {
	case ca.EndOverlap:
		v.Dangerous = "which authority issues"
		v.Notes = append(v.Notes, fmt.Sprintf("%s issues from then on; %s steps in if its key does not answer; both sign lists", w.Successor, name))
		v.Next = append(v.Next, "hallmark ca rollover status "+shellWord(name))
	case ca.EndClosed:
		if len(left) > 0 {
			return v, ca.ErrLastIssuer.New("%s serves alone: %s.", name, strings.Join(left, "; ")).With("path", "stage")
		}
		v.Dangerous = "the end of an authority"
		v.Notes = append(v.Notes, fmt.Sprintf("%s issues nothing more; it signs lists, the last ones after the end of its last certificate (%s)", name, p.lastEnd()))
	case ca.EndRevoked:
		v.Dangerous = "the revocation of an authority"
		v.Notes = append(v.Notes, fmt.Sprintf("the service issues nothing by %s and its doors refuse its %d certificates, at once", name, p.last.Certificates))
		if len(left) > 0 {
			v.Notes = append(v.Notes, "nobody is left to issue: "+strings.Join(left, "; "))
		}
		v.Next = append(v.Next, p.revokeCommands()...)
	}
	return v, nil
}

func (k endKind) Put(ctx context.Context, by access.Actor, name string, _, want declare.Spec) (out declare.Outcome, err error) {
	w := want.(endSpec)
	e := ca.End{Authority: name, Successor: w.Successor, Stage: ca.EndStage(w.Stage), Note: w.Note}
	if w.Reason != "" {
		r, err := crl.ParseReason(w.Reason)
		if err != nil {
			return out, err
		}
		e.Reason = int(r)
	}
	_, err = ca.Leave(ctx, k.db, by, e, k.now())
	return out, err
}

// settled follows what a plan changed, so that who applied it finds it working.
func (a planAPI) settled(ctx context.Context) {
	if a.follow == nil {
		return
	}
	if err := a.follow(context.WithoutCancel(ctx)); err != nil && !errors.Is(err, context.Canceled) {
		a.log.ErrorContext(ctx, "authorities are not as they are declared yet", "error", err)
	}
}
