package main

import (
	"context"
	"net/netip"
	"strings"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/fleet"
	"hallmark/fleet/policy"
	"hallmark/fleet/registry"
	"hallmark/internal/fault"
	"hallmark/web"
)

var errNothingToCheck = fault.Define(fault.Conflict, "policy-check-no-certificate", "The thing has no certificate, so it may do nothing.", "Have the device register first, or ask about a certificate.")

// policyAPI answers for device policies; the registry keeps them.
type policyAPI struct{ *backend }

var _ web.Policies = policyAPI{}

func (b *backend) policies() web.Policies { return policyAPI{b} }

func policyHeadView(h *registry.PolicyHead) adminapi.DevicePolicy {
	return adminapi.DevicePolicy{Name: h.Name, DefaultVersion: h.Default, LatestVersion: h.Latest, Versions: []adminapi.DevicePolicyVersion{}, CreatedAt: h.CreatedAt, UpdatedAt: h.UpdatedAt}
}

// Policies implements [web.Policies].
func (b policyAPI) Policies(ctx context.Context, s access.Scope, p web.Page) ([]adminapi.DevicePolicy, string, error) {
	items, next, err := collect(p.After, p.Limit, func(after string, n int) ([]registry.PolicyHead, error) { return b.reg.Policies(ctx, s, after, n) },
		func(h *registry.PolicyHead) string { return h.Name }, nil)
	return mapped(items, policyHeadView), next, err
}

// Policy implements [web.Policies].
func (b policyAPI) Policy(ctx context.Context, s access.Scope, name string) (v adminapi.DevicePolicy, err error) {
	h, err := b.reg.PolicyHead(ctx, s, name)
	if err != nil {
		return v, err
	}
	versions, err := b.reg.PolicyVersions(ctx, s, name)
	if err != nil {
		return v, err
	}
	v = policyHeadView(&h)
	for _, one := range versions {
		if one.Number == h.Default {
			v.Document = one.Document
		}
		v.Versions = append(v.Versions, adminapi.DevicePolicyVersion{Policy: h.Name, Version: one.Number, Default: one.Number == h.Default, CreatedAt: one.CreatedAt})
	}
	return v, nil
}

// CreatePolicy implements [web.Policies].
func (b policyAPI) CreatePolicy(ctx context.Context, by access.Actor, r adminapi.DevicePolicyRequest) (adminapi.DevicePolicy, error) {
	if _, err := b.reg.CreatePolicy(ctx, registry.Policy{Tenant: by.Tenant, Name: r.Name, Document: r.Document}); err != nil {
		return adminapi.DevicePolicy{}, err
	}
	b.log.InfoContext(ctx, "policy created", "policy", r.Name, "by", by.String())
	return b.Policy(ctx, by.Scope(), r.Name)
}

// DeletePolicy implements [web.Policies].
func (b policyAPI) DeletePolicy(ctx context.Context, by access.Actor, name string) (adminapi.DevicePolicy, error) {
	v, err := b.Policy(ctx, by.Scope(), name)
	if err == nil {
		err = b.reg.DropPolicy(ctx, by.Scope(), name)
	}
	if err == nil {
		b.log.InfoContext(ctx, "policy deleted", "policy", name, "by", by.String())
	}
	return v, err
}

// grouped refuses what changes the rights of a whole group to whoever could not
// have attached the policy to it. It is called in the transaction of the change.
func (b policyAPI) grouped(ctx context.Context, by access.Actor, name string) error {
	first := registry.GroupTarget("")
	targets, err := b.reg.PolicyTargets(ctx, by.Scope(), name, first, 1)
	if err != nil || len(targets) == 0 || !strings.HasPrefix(targets[0], first) {
		return err
	}
	return access.Require(by, access.AttachPolicyToGroup)
}

// CreatePolicyVersion implements [web.Policies].
func (b policyAPI) CreatePolicyVersion(ctx context.Context, by access.Actor, name string, r adminapi.DevicePolicyVersionRequest) (adminapi.DevicePolicy, error) {
	var made registry.PolicyHead
	err := b.db.Atomic(ctx, func(ctx context.Context) (err error) {
		if r.Default {
			if err := b.grouped(ctx, by, name); err != nil {
				return err
			}
		}
		made, err = b.reg.CreatePolicyVersion(ctx, by.Scope(), name, r.Document, r.Default)
		return err
	})
	if err != nil {
		return adminapi.DevicePolicy{}, err
	}
	b.log.InfoContext(ctx, "policy version created", "policy", name, "version", made.Latest, "default", made.Default, "by", by.String())
	return b.Policy(ctx, by.Scope(), name)
}

// PolicyVersion implements [web.Policies].
func (b policyAPI) PolicyVersion(ctx context.Context, s access.Scope, name string, number int) (v adminapi.DevicePolicyVersion, err error) {
	h, err := b.reg.PolicyHead(ctx, s, name)
	if err != nil {
		return v, err
	}
	one, err := b.reg.PolicyVersion(ctx, s, name, number)
	if err != nil {
		return v, err
	}
	v = adminapi.DevicePolicyVersion{Policy: h.Name, Version: one.Number, Default: one.Number == h.Default, Document: one.Document, CreatedAt: one.CreatedAt}
	if d, err := policy.Parse([]byte(one.Document)); err == nil {
		v.Findings = mapped(policy.Overbroad(d), findingView)
	}
	return v, nil
}

func findingView(f *policy.Finding) adminapi.PolicyFinding {
	return adminapi.PolicyFinding{Check: f.Check, Reason: f.Reason, Statement: f.Statement, Sid: f.Sid, Resource: f.Resource}
}

// SetDefaultPolicyVersion implements [web.Policies].
func (b policyAPI) SetDefaultPolicyVersion(ctx context.Context, by access.Actor, name string, number int) (adminapi.DevicePolicy, error) {
	err := b.db.Atomic(ctx, func(ctx context.Context) error {
		if err := b.grouped(ctx, by, name); err != nil {
			return err
		}
		_, err := b.reg.SetDefaultPolicyVersion(ctx, by.Scope(), name, number)
		return err
	})
	if err != nil {
		return adminapi.DevicePolicy{}, err
	}
	b.log.InfoContext(ctx, "default version of a policy set", "policy", name, "version", number, "by", by.String())
	return b.Policy(ctx, by.Scope(), name)
}

// DeletePolicyVersion implements [web.Policies].
func (b policyAPI) DeletePolicyVersion(ctx context.Context, by access.Actor, name string, number int) (adminapi.DevicePolicy, error) {
	if err := b.reg.DropPolicyVersion(ctx, by.Scope(), name, number); err != nil {
		return adminapi.DevicePolicy{}, err
	}
	b.log.InfoContext(ctx, "policy version deleted", "policy", name, "version", number, "by", by.String())
	return b.Policy(ctx, by.Scope(), name)
}

// targetView reads a target as the registry names it.
func targetView(policy, target string) adminapi.PolicyTarget {
	if id, ok := strings.CutPrefix(target, registry.CertificateTarget("")); ok {
		return adminapi.PolicyTarget{Policy: policy, Kind: web.CertificateTarget, Name: id}
	}
	return adminapi.PolicyTarget{Policy: policy, Kind: web.GroupTarget, Name: strings.TrimPrefix(target, registry.GroupTarget(""))}
}

// PolicyTargets implements [web.Policies].
func (b policyAPI) PolicyTargets(ctx context.Context, s access.Scope, name string, p web.Page) ([]adminapi.PolicyTarget, string, error) {
	h, err := b.reg.PolicyHead(ctx, s, name)
	if err != nil {
		return nil, "", err
	}
	items, next, err := collect(p.After, p.Limit, func(after string, n int) ([]string, error) { return b.reg.PolicyTargets(ctx, s, name, after, n) },
		func(t *string) string { return *t }, nil)
	return mapped(items, func(t *string) adminapi.PolicyTarget { return targetView(h.Name, *t) }), next, err
}

// target names a target as the registry does. A claim certificate is in many
// devices and provisions, nothing else (A47), so no policy goes to it by hand.
func (b policyAPI) target(ctx context.Context, s access.Scope, t adminapi.PolicyTarget) (string, error) {
	if t.Kind == web.GroupTarget {
		return registry.GroupTarget(t.Name), nil
	}
	c, err := b.reg.Certificate(ctx, s, t.Name)
	if err == nil && c.How == registry.HowClaimCert {
		err = registry.ErrPolicyTarget.New("It is a claim certificate, whose policy follows from its template.")
	}
	return registry.CertificateTarget(t.Name), err
}

// AttachPolicy implements [web.Policies].
func (b policyAPI) AttachPolicy(ctx context.Context, by access.Actor, t adminapi.PolicyTarget) (adminapi.PolicyTarget, error) {
	err := b.db.Atomic(ctx, func(ctx context.Context) error {
		target, err := b.target(ctx, by.Scope(), t)
		if err != nil {
			return err
		}
		return b.reg.AttachPolicy(ctx, by.Scope(), target, t.Policy)
	})
	if err != nil {
		return adminapi.PolicyTarget{}, err
	}
	b.log.InfoContext(ctx, "policy attached", "policy", t.Policy, "kind", t.Kind, "target", t.Name, "by", by.String())
	return t, nil
}

// DetachPolicy implements [web.Policies].
func (b policyAPI) DetachPolicy(ctx context.Context, by access.Actor, t adminapi.PolicyTarget) (adminapi.PolicyTarget, error) {
	err := b.db.Atomic(ctx, func(ctx context.Context) error {
		if _, err := b.reg.PolicyHead(ctx, by.Scope(), t.Policy); err != nil {
			return err
		}
		target, err := b.target(ctx, by.Scope(), t)
		if err != nil {
			return err
		}
		if t.Kind == web.GroupTarget {
			if _, err := b.reg.Group(ctx, by.Scope(), registry.ThingGroup, t.Name); err != nil {
				return err
			}
		}
		return b.reg.DetachPolicy(ctx, by.Scope(), target, t.Policy)
	})
	if err != nil {
		return adminapi.PolicyTarget{}, err
	}
	b.log.InfoContext(ctx, "policy detached", "policy", t.Policy, "kind", t.Kind, "target", t.Name, "by", by.String())
	return t, nil
}

// ofThing is the certificate that a thing would connect with: one that may be
// used now, or else the first.
func (b policyAPI) ofThing(ctx context.Context, s access.Scope, name string) (string, error) {
	n, err := fleet.ParseThingName(name)
	if err != nil {
		return "", err
	}
	t, err := b.reg.Get(ctx, s, n)
	if err != nil {
		return "", err
	}
	all, err := b.reg.Principals(ctx, s, t.Name)
	if err != nil || len(all) == 0 {
		return "", err
	}
	for _, p := range all {
		if p.Status == fleet.Active && p.Live(b.now()) {
			return p.Certificate, nil
		}
	}
	return all[0].Certificate, nil
}

func effectiveView(p *registry.EffectivePolicy) adminapi.AttachedPolicy {
	return adminapi.AttachedPolicy{Policy: p.Name, Version: p.Version, From: targetView(p.Name, p.From)}
}

// AttachedPolicies implements [web.Policies].
func (b policyAPI) AttachedPolicies(ctx context.Context, s access.Scope, q web.AttachedQuery) ([]adminapi.AttachedPolicy, error) {
	if q.Group != "" {
		g, err := b.reg.Group(ctx, s, registry.ThingGroup, q.Group)
		if err != nil {
			return nil, err
		}
		own, err := b.reg.AttachedPolicies(ctx, s, registry.GroupTarget(g.Name), q.Inherited)
		var out []adminapi.AttachedPolicy
		for _, name := range own {
			h, err := b.reg.PolicyHead(ctx, s, name)
			if err != nil {
				return nil, err
			}
			out = append(out, adminapi.AttachedPolicy{Policy: h.Name, Version: h.Default, From: targetView(h.Name, registry.GroupTarget(g.Name))})
		}
		return out, err
	}
	id := q.Certificate
	if q.Thing != "" {
		var err error
		if id, err = b.ofThing(ctx, s, q.Thing); err != nil || id == "" {
			return nil, err
		}
	}
	if _, err := b.reg.Certificate(ctx, s, id); err != nil {
		return nil, err
	}
	list, err := b.reg.EffectivePolicies(ctx, s, id)
	return mapped(list, effectiveView), err
}

// CheckPolicy implements [web.Policies].
func (b policyAPI) CheckPolicy(ctx context.Context, s access.Scope, r adminapi.PolicyQuestion) (v adminapi.PolicyDecision, err error) {
	q := registry.Question{Certificate: r.Certificate, Resource: r.Resource, ClientID: r.ClientId, DomainName: r.ServerName, Persistent: r.Persistent, LastWill: r.LastWill}
	if q.Action, err = policy.ParseAction(r.Action); err != nil {
		return v, err
	}
	if strings.HasPrefix(r.Resource, "arn:") {
		if q.Resource, err = policy.NameOf(q.Action, r.Resource); err != nil {
			return v, err
		}
	}
	if r.SourceIp != "" {
		if q.SourceIP, err = netip.ParseAddr(r.SourceIp); err != nil {
			return v, web.ErrInput.Wrap(err, "source_ip: it is no address.")
		}
	}
	if r.Thing != "" {
		if q.Certificate, err = b.ofThing(ctx, s, r.Thing); err != nil {
			return v, err
		}
		if q.Certificate == "" {
			return v, errNothingToCheck.New("")
		}
		if q.ClientID == "" {
			q.ClientID = r.Thing
		}
	}
	e, err := b.reg.Explain(ctx, s, q)
	if err != nil {
		return v, err
	}
	return decisionView(&e, q), nil
}

func decisionView(e *registry.Explanation, q registry.Question) adminapi.PolicyDecision {
	v := adminapi.PolicyDecision{Result: string(e.Result), Certificate: e.Certificate.ID, Status: string(e.Certificate.Status), Usable: e.Usable, Thing: e.Thing, ClientId: e.ClientID,
		Action: q.Action.String(), Resource: q.Resource, Missing: e.Missing, Matches: []adminapi.PolicyMatch{}, Policies: mapped(e.Policies, effectiveView)}
	if e.Certificate.Revoked {
		v.Status = string(fleet.Revoked)
	}
	if !e.Usable {
		v.Result = string(policy.ImplicitDeny)
	}
	for i, m := range e.Matches {
		one := matchView(&m)
		for _, p := range e.Policies {
			if p.Name == m.Policy {
				one.Version, one.From = p.Version, targetView(p.Name, p.From)
			}
		}
		v.Matches = append(v.Matches, one)
		if i == 0 && e.Usable {
			v.DecidedBy = one
		}
	}
	return v
}

func matchView(m *policy.Match) adminapi.PolicyMatch {
	v := adminapi.PolicyMatch{Policy: m.Policy, Statement: m.Statement, Sid: m.Sid, Effect: "Allow"}
	if m.Deny {
		v.Effect = "Deny"
	}
	return v
}
