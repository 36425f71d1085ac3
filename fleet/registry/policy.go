package registry

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"hallmark/access"
	"hallmark/fleet/policy"
)

// Policy is a device policy document by its name: its default version.
type Policy struct{ Tenant, Name, Document string }

// PolicyHead is a named policy without its documents.
type PolicyHead struct {
	Tenant    string
	Name      string
	Default   int // number of the version that counts
	Latest    int // highest number ever used
	CreatedAt time.Time
	UpdatedAt time.Time
	Version   int64 // of the row: 1 at first; rises with every change
}

// PolicyVersion is one document of a policy. It never changes.
type PolicyVersion struct {
	Tenant    string
	Policy    string
	Number    int
	Document  string
	CreatedAt time.Time
}

// Targets of policies.
const (
	certificateTarget = "cert/"
	groupTarget       = "thinggroup/"
)

// CertificateTarget is a certificate as the target of a policy.
func CertificateTarget(id string) string { return certificateTarget + id }

// GroupTarget is a thing group as the target of a policy.
func GroupTarget(name string) string { return groupTarget + strings.ToLower(name) }

// PolicyStore persists policies and what they are attached to. Contract: as of
// [Store]; names are compared folded; look-ups return ErrPolicyUnknown when
// there is none. PutPolicyHead is like PutCertificate, with ErrPolicyChanged.
// AddPolicyVersion only inserts. AttachPolicy and DetachPolicy do nothing where
// nothing is to be done. Every change wakes [Registry.Changed].
type PolicyStore interface {
	PolicyHead(ctx context.Context, s access.Scope, name string) (PolicyHead, error)
	PolicyHeads(ctx context.Context, s access.Scope, after string, limit int) ([]PolicyHead, error)
	PutPolicyHead(ctx context.Context, p PolicyHead, was int64) error
	DropPolicy(ctx context.Context, tenant string, name string) error
	PolicyVersion(ctx context.Context, s access.Scope, name string, number int) (PolicyVersion, error)
	PolicyVersions(ctx context.Context, s access.Scope, name string) ([]PolicyVersion, error)
	AddPolicyVersion(ctx context.Context, v PolicyVersion) error
	DropPolicyVersion(ctx context.Context, tenant string, name string, number int) error
	AttachPolicy(ctx context.Context, tenant string, target, name string, at time.Time) error
	DetachPolicy(ctx context.Context, tenant string, target, name string) error
	// AttachedPolicies lists the names, as they are spelt, of a target's policies.
	AttachedPolicies(ctx context.Context, s access.Scope, target string) ([]string, error)
	// PolicyTargets lists what a policy is attached to.
	PolicyTargets(ctx context.Context, s access.Scope, name, after string, limit int) ([]string, error)
}

func policyName(s string) error {
	ok := s != "" && len(s) <= maxName
	for _, c := range []byte(s) {
		ok = ok && (c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("_+=,.@-", c) >= 0)
	}
	if !ok {
		return ErrPolicyName.New("")
	}
	return nil
}

// CreatePolicy makes a policy with its first version. The same document under
// the same name again changes nothing.
func (r *Registry) CreatePolicy(ctx context.Context, p Policy) (PolicyHead, error) {
	if err := policyName(p.Name); err != nil {
		return PolicyHead{}, err
	}
	if _, err := policy.Parse([]byte(p.Document)); err != nil {
		return PolicyHead{}, err
	}
	var head PolicyHead
	err := r.store.Atomic(ctx, func(ctx context.Context) (err error) {
		head, err = r.createPolicy(ctx, p)
		return err
	})
	return head, err
}

func (r *Registry) createPolicy(ctx context.Context, p Policy) (PolicyHead, error) {
	scope := access.Scope{Tenant: p.Tenant}
	head, err := r.store.PolicyHead(ctx, scope, p.Name)
	if err == nil {
		v, err := r.store.PolicyVersion(ctx, scope, p.Name, head.Default)
		if err == nil && (head.Name != p.Name || v.Document != p.Document) {
			err = ErrPolicyExists.New("")
		}
		return head, err
	}
	if !errors.Is(err, ErrPolicyUnknown) {
		return head, err
	}
	now := r.stamp()
	head = PolicyHead{Tenant: p.Tenant, Name: p.Name, Default: 1, Latest: 1, CreatedAt: now, UpdatedAt: now, Version: 1}
	if err := r.store.PutPolicyHead(ctx, head, 0); err != nil {
		return head, err
	}
	return head, r.store.AddPolicyVersion(ctx, PolicyVersion{Tenant: p.Tenant, Policy: p.Name, Number: 1, Document: p.Document, CreatedAt: now})
}

// changePolicy decides about one policy and writes its head.
func (r *Registry) changePolicy(ctx context.Context, s access.Scope, name string, decide func(ctx context.Context, h *PolicyHead) error) (out PolicyHead, err error) {
	for range maxTries {
		err = r.store.Atomic(ctx, func(ctx context.Context) error {
			h, err := r.store.PolicyHead(ctx, s, name)
			if err != nil {
				return err
			}
			if h.Name != name {
				return ErrPolicyUnknown.New("%q is known in another spelling.", name)
			}
			was := h.Version
			if err := decide(ctx, &h); err != nil {
				return err
			}
			h.Version, h.UpdatedAt = was+1, r.stamp()
			out = h
			return r.store.PutPolicyHead(ctx, h, was)
		})
		if !errors.Is(err, ErrPolicyChanged) {
			break
		}
	}
	return out, err
}

// CreatePolicyVersion adds a version, of at most [policy.MaxVersions], and makes
// it the default if asked to.
func (r *Registry) CreatePolicyVersion(ctx context.Context, s access.Scope, name, document string, asDefault bool) (PolicyHead, error) {
	if _, err := policy.Parse([]byte(document)); err != nil {
		return PolicyHead{}, err
	}
	return r.changePolicy(ctx, s, name, func(ctx context.Context, h *PolicyHead) error {
		all, err := r.store.PolicyVersions(ctx, s, name)
		if err != nil {
			return err
		}
		if len(all) >= policy.MaxVersions {
			return ErrPolicyVersions.New("")
		}
		h.Latest++
		if asDefault {
			h.Default = h.Latest
		}
		return r.store.AddPolicyVersion(ctx, PolicyVersion{Tenant: s.Tenant, Policy: h.Name, Number: h.Latest, Document: document, CreatedAt: r.stamp()})
	})
}

// SetDefaultPolicyVersion chooses the version that counts, at once.
func (r *Registry) SetDefaultPolicyVersion(ctx context.Context, s access.Scope, name string, number int) (PolicyHead, error) {
	return r.changePolicy(ctx, s, name, func(ctx context.Context, h *PolicyHead) error {
		_, err := r.store.PolicyVersion(ctx, s, name, number)
		h.Default = number
		return err
	})
}

// DropPolicyVersion removes a version that is not the default.
func (r *Registry) DropPolicyVersion(ctx context.Context, s access.Scope, name string, number int) error {
	_, err := r.changePolicy(ctx, s, name, func(ctx context.Context, h *PolicyHead) error {
		if h.Default == number {
			return ErrPolicyInUse.New("Version %d is the default.", number)
		}
		return r.store.DropPolicyVersion(ctx, s.Tenant, name, number)
	})
	return err
}

// DropPolicy removes a policy that has one version and is attached to nothing.
func (r *Registry) DropPolicy(ctx context.Context, s access.Scope, name string) error {
	return r.store.Atomic(ctx, func(ctx context.Context) error {
		h, err := r.store.PolicyHead(ctx, s, name)
		if err == nil && h.Name != name {
			err = ErrPolicyUnknown.New("%q is known in another spelling.", name)
		}
		if err != nil {
			return err
		}
		all, err := r.store.PolicyVersions(ctx, s, name)
		if err != nil {
			return err
		}
		targets, err := r.store.PolicyTargets(ctx, s, name, "", 1)
		if err != nil {
			return err
		}
		if len(all) > 1 || len(targets) > 0 {
			return ErrPolicyInUse.New("It has %d versions, and targets: %t.", len(all), len(targets) > 0)
		}
		return r.store.DropPolicy(ctx, s.Tenant, name)
	})
}

// Policy finds a policy's default document by its name.
func (r *Registry) Policy(ctx context.Context, s access.Scope, name string) (Policy, error) {
	h, err := r.store.PolicyHead(ctx, s, name)
	if err != nil {
		return Policy{}, err
	}
	v, err := r.store.PolicyVersion(ctx, s, name, h.Default)
	return Policy{Tenant: s.Tenant, Name: h.Name, Document: v.Document}, err
}

// PolicyHead finds a policy.
func (r *Registry) PolicyHead(ctx context.Context, s access.Scope, name string) (PolicyHead, error) {
	return r.store.PolicyHead(ctx, s, name)
}

// Policies lists policies in the order of their folded names.
func (r *Registry) Policies(ctx context.Context, s access.Scope, after string, limit int) ([]PolicyHead, error) {
	return r.store.PolicyHeads(ctx, s, strings.ToLower(after), pageSize(limit))
}

// PolicyVersion finds one version of a policy.
func (r *Registry) PolicyVersion(ctx context.Context, s access.Scope, name string, number int) (PolicyVersion, error) {
	return r.store.PolicyVersion(ctx, s, name, number)
}

// PolicyVersions lists the versions of a policy by their numbers.
func (r *Registry) PolicyVersions(ctx context.Context, s access.Scope, name string) ([]PolicyVersion, error) {
	if _, err := r.store.PolicyHead(ctx, s, name); err != nil {
		return nil, err
	}
	return r.store.PolicyVersions(ctx, s, name)
}

// checkTarget makes sure that a policy's target exists; a dynamic group cannot
// be one, or an attribute that a device reports would grant something.
func (r *Registry) checkTarget(ctx context.Context, s access.Scope, target string) error {
	if id, ok := strings.CutPrefix(target, certificateTarget); ok {
		_, err := r.store.Certificate(ctx, s, id)
		return err
	}
	if name, ok := strings.CutPrefix(target, groupTarget); ok {
		g, err := r.store.Group(ctx, s, ThingGroup, name)
		if err == nil && g.Query != "" {
			err = ErrPolicyTarget.New("%s is a dynamic group.", g.Name)
		}
		return err
	}
	return ErrPolicyTarget.New("")
}

// AttachPolicy attaches a policy to a certificate or a static group, of at most
// [policy.MaxAttached] each.
func (r *Registry) AttachPolicy(ctx context.Context, s access.Scope, target, name string) error {
	return r.store.Atomic(ctx, func(ctx context.Context) error {
		if err := r.checkTarget(ctx, s, target); err != nil {
			return err
		}
		return r.attachPolicy(ctx, s, target, name)
	})
}

func (r *Registry) attachPolicy(ctx context.Context, s access.Scope, target, name string) error {
	h, err := r.store.PolicyHead(ctx, s, name)
	if err == nil && h.Name != name {
		err = ErrPolicyUnknown.New("%q is known in another spelling.", name)
	}
	if err != nil {
		return err
	}
	have, err := r.store.AttachedPolicies(ctx, s, target)
	if err != nil || slices.Contains(have, name) {
		return err
	}
	if len(have) >= policy.MaxAttached {
		return ErrPolicyLimit.New("")
	}
	return r.store.AttachPolicy(ctx, s.Tenant, target, name, r.stamp())
}

// DetachPolicy takes a policy from a target.
func (r *Registry) DetachPolicy(ctx context.Context, s access.Scope, target, name string) error {
	return r.store.Atomic(ctx, func(ctx context.Context) error { return r.store.DetachPolicy(ctx, s.Tenant, target, name) })
}

// AttachedPolicies lists the names of a target's policies. With inherited a
// group's are those of its ancestors too.
func (r *Registry) AttachedPolicies(ctx context.Context, s access.Scope, target string, inherited bool) ([]string, error) {
	name, group := strings.CutPrefix(target, groupTarget)
	if !group || !inherited {
		return r.store.AttachedPolicies(ctx, s, target)
	}
	chain, err := r.ancestors(ctx, s, name)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, g := range chain {
		have, err := r.store.AttachedPolicies(ctx, s, GroupTarget(g.Name))
		if err != nil {
			return nil, err
		}
		for _, p := range have {
			if !slices.Contains(out, p) {
				out = append(out, p)
			}
		}
	}
	return out, nil
}

// PolicyTargets lists what a policy is attached to, in pages.
func (r *Registry) PolicyTargets(ctx context.Context, s access.Scope, name, after string, limit int) ([]string, error) {
	return r.store.PolicyTargets(ctx, s, name, after, pageSize(limit))
}
