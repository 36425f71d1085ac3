package main

import (
	"context"
	"crypto/x509"
	"fmt"
	"slices"
	"time"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/fleet"
	"hallmark/fleet/trust"
	"hallmark/provisioner/declare"
)

// TrustState implements [web.Bundles].
func (b *backend) TrustState(ctx context.Context, s access.Scope) (adminapi.TrustState, error) {
	v := adminapi.TrustState{Roots: []adminapi.TrustRoot{}, Shown: []adminapi.TrustShown{}}
	for _, r := range b.trust.Roots(s.Tenant) {
		v.Roots = append(v.Roots, adminapi.TrustRoot{Name: r.Name, Id: fleet.RootID(r.Cert.Raw), Subject: r.Cert.Subject.String(), Active: r.Active, NotAfter: r.Cert.NotAfter})
	}
	shown, by, err := b.trust.Shown(ctx, s.Tenant)
	for i := range shown {
		v.Shown = append(v.Shown, adminapi.TrustShown{What: shown[i].What, Server: shown[i].Server, Roots: nonNil(by[i])})
	}
	return v, err
}

// ThingTrust implements [web.Bundles].
func (b *backend) ThingTrust(ctx context.Context, s access.Scope, thing string) (adminapi.TrustBundle, error) {
	name, err := b.knownThing(ctx, s, thing)
	if err != nil {
		return adminapi.TrustBundle{}, err
	}
	v, err := b.trust.Bundle(ctx, s, name)
	if err != nil {
		return adminapi.TrustBundle{}, err
	}
	return adminapi.TrustBundle{Thing: string(v.Thing), Bundle: v.ID(), Roots: nonNil(v.Roots), Endpoint: v.Endpoint, Campaign: v.Campaign, SeenAt: v.SeenAt, ConfirmedAt: v.ConfirmedAt}, nil
}

func gatesView(g *trust.Gates) adminapi.TrustGates {
	return adminapi.TrustGates{Added: g.Added, Left: g.Left, Removed: g.Removed, Groups: g.Groups, InGroups: g.InGroups, WaitSeconds: g.WaitSeconds, KeepSeconds: g.KeepSeconds}
}

// rolloverView shows a rollover; g is its gate, if somebody asked for it.
func rolloverView(r *trust.Rollover, g *trust.Gate) adminapi.TrustRollover {
	v := adminapi.TrustRollover{Name: r.Name, From: r.Spec.From, To: r.Spec.To, Targets: nonNil(r.Spec.Targets), Query: r.Spec.Query, Gates: gatesView(&r.Spec.Gates), Alone: r.Spec.Alone, Phase: string(r.Phase), Since: r.Since, Version: r.Version,
		Campaigns: []string{}, Needs: []adminapi.TrustNeed{}, Steps: mapped(r.Steps, func(s *trust.Step) adminapi.TrustStep {
			return adminapi.TrustStep{At: s.At, By: s.By, What: s.What, Words: s.Words}
		})}
	for _, p := range trust.Phases {
		if id := r.Campaign(p); id != "" {
			v.Campaigns = append(v.Campaigns, id)
		}
	}
	if g != nil {
		v.Open, v.Next, v.Things, v.Without, v.Confirmed = g.Open, string(g.Next), g.Total.Things, g.Total.Without, g.Total.Confirmed
		v.Needs = mapped(g.Needs, func(n *trust.Need) adminapi.TrustNeed {
			return adminapi.TrustNeed{What: n.What, Have: n.Have, Ok: n.OK}
		})
	}
	return v
}

// PlanTrustRollover implements [web.Bundles].
func (b *backend) PlanTrustRollover(ctx context.Context, s access.Scope, r adminapi.TrustRolloverRequest) (adminapi.TrustRolloverPlan, error) {
	g := r.Gates
	spec := trust.Spec{From: r.From, To: r.To, Targets: r.Targets, Query: r.Query, Gates: trust.Gates{Added: g.Added, Left: g.Left, Removed: g.Removed, Groups: g.Groups, InGroups: g.InGroups, WaitSeconds: g.WaitSeconds, KeepSeconds: g.KeepSeconds}}
	v := adminapi.TrustRolloverPlan{Ready: true, Checks: []adminapi.RolloverCheck{}}
	checks, err := b.trust.Plan(ctx, s.Tenant, r.Name, spec)
	if err != nil {
		return v, err
	}
	for _, c := range checks {
		one := adminapi.RolloverCheck{Name: c.Name, State: "ok", Detail: c.Detail}
		if !c.OK {
			one.State, one.Next, v.Ready = "failing", c.Next, false
		}
		v.Checks = append(v.Checks, one)
	}
	for _, root := range b.trust.Roots(s.Tenant) {
		if root.Name != r.To || !v.Ready {
			continue
		}
		t, err := b.trust.Count(ctx, s.Tenant, r.Targets, r.Query, []string{fleet.RootID(root.Cert.Raw)}, nil)
		if err != nil {
			return v, err
		}
		v.Things, v.Without, v.Confirmed = t.Things, t.Without, t.Confirmed
	}
	return v, nil
}

// TrustRollovers implements [web.Bundles].
func (b *backend) TrustRollovers(ctx context.Context, s access.Scope) ([]adminapi.TrustRollover, error) {
	all, err := b.trust.Rollovers(ctx, s)
	return mapped(all, func(r *trust.Rollover) adminapi.TrustRollover { return rolloverView(r, nil) }), err
}

// TrustRollover implements [web.Bundles].
func (b *backend) TrustRollover(ctx context.Context, s access.Scope, name string) (adminapi.TrustRollover, error) {
	r, err := b.trust.Rollover(ctx, s, name)
	return b.shownRollover(ctx, r, err)
}

// shownRollover is a rollover with its gate.
func (b *backend) shownRollover(ctx context.Context, r trust.Rollover, err error) (adminapi.TrustRollover, error) {
	if err != nil {
		return adminapi.TrustRollover{}, err
	}
	g, err := b.trust.Gate(ctx, &r)
	return rolloverView(&r, &g), err
}

// AdvanceTrustRollover implements [web.Bundles].
func (b *backend) AdvanceTrustRollover(ctx context.Context, by access.Actor, name string, _ adminapi.CampaignNote) (adminapi.TrustRollover, error) {
	r, err := b.trust.Advance(ctx, by.Tenant, name, by.Name)
	return b.shownRollover(ctx, r, err)
}

// RetryTrustRollover implements [web.Bundles].
func (b *backend) RetryTrustRollover(ctx context.Context, by access.Actor, name string, _ adminapi.CampaignNote) (adminapi.TrustRollover, error) {
	r, err := b.trust.Again(ctx, by.Tenant, name, by.Name)
	return b.shownRollover(ctx, r, err)
}

// CancelTrustRollover implements [web.Bundles].
func (b *backend) CancelTrustRollover(ctx context.Context, by access.Actor, name string, n adminapi.CampaignNote) (adminapi.TrustRollover, error) {
	r, err := b.trust.Cancel(ctx, by.Tenant, name, by.Name, n.Comment)
	return b.shownRollover(ctx, r, err)
}

// rootRolloverSpec is a root rollover as a document: that it begins takes two people, and
// so does a lower gate, with a reason.
type rootRolloverSpec struct {
	From               string      `json:"from"`
	To                 string      `json:"to"`
	Targets            []string    `json:"targets,omitempty"`
	Query              string      `json:"query,omitempty"`
	Gates              trust.Gates `json:"gates"`
	Alone              bool        `json:"alone,omitempty"`
	Canary             string      `json:"canary,omitempty"`
	CanaryWatchSeconds int64       `json:"canaryWatchSeconds,omitempty"`
	PerMinute          int         `json:"perMinute,omitempty"`
	JitterSeconds      int64       `json:"jitterSeconds,omitempty"`
	TimeoutSeconds     int64       `json:"timeoutSeconds,omitempty"`
	SoakSeconds        int64       `json:"soakSeconds,omitempty"`
	AbortPercent       float64     `json:"abortPercent,omitempty"`
	AbortMinimum       int64       `json:"abortMinimum,omitempty"`
	ZoneAttribute      string      `json:"zoneAttribute,omitempty"`
	Reason             string      `json:"reason,omitempty"` // why a gate is lowered
}

// Public is what is compared: a reason is of one change, and the way in which the
// campaigns go is of the start.
func (s rootRolloverSpec) Public() declare.Spec {
	return rootRolloverSpec{From: s.From, To: s.To, Targets: s.Targets, Query: s.Query, Alone: s.Alone, Gates: s.Gates}
}

// rest is what of it does not change.
func (s rootRolloverSpec) rest() declare.Spec {
	return rootRolloverSpec{From: s.From, To: s.To, Targets: s.Targets, Query: s.Query, Alone: s.Alone}
}

func (s *rootRolloverSpec) spec() trust.Spec {
	return trust.Spec{From: s.From, To: s.To, Targets: s.Targets, Query: s.Query, Gates: s.Gates, Alone: s.Alone, Canary: s.Canary, CanaryWatch: ofSeconds(s.CanaryWatchSeconds), PerMinute: s.PerMinute, Jitter: ofSeconds(s.JitterSeconds),
		Timeout: ofSeconds(s.TimeoutSeconds), Soak: ofSeconds(s.SoakSeconds), AbortPercent: s.AbortPercent, AbortMinimum: s.AbortMinimum, ZoneAttribute: s.ZoneAttribute}
}

func rootRolloverOf(s *trust.Spec) rootRolloverSpec {
	seconds := func(d time.Duration) int64 { return int64(d / time.Second) }
	return rootRolloverSpec{From: s.From, To: s.To, Targets: s.Targets, Query: s.Query, Gates: s.Gates, Alone: s.Alone, Canary: s.Canary, CanaryWatchSeconds: seconds(s.CanaryWatch), PerMinute: s.PerMinute, JitterSeconds: seconds(s.Jitter),
		TimeoutSeconds: seconds(s.Timeout), SoakSeconds: seconds(s.Soak), AbortPercent: s.AbortPercent, AbortMinimum: s.AbortMinimum, ZoneAttribute: s.ZoneAttribute}
}

// paceOf says how the campaigns go: of the start alone, so it is not compared, but who
// approves has to see it.
func paceOf(s *trust.Spec) string {
	pace := fmt.Sprintf("its campaigns stop themselves at %g %% of failures, after %d; a device is confirmed %s after it proved itself", s.AbortPercent, s.AbortMinimum, s.Soak)
	if s.Canary != "" {
		pace += fmt.Sprintf("; the group %s goes first and is watched for %s", s.Canary, s.CanaryWatch)
	}
	if s.PerMinute > 0 {
		pace += fmt.Sprintf("; at most %d devices a minute", s.PerMinute)
	}
	return pace
}

type rootRolloverKind struct{ *backend }

func (rootRolloverKind) Name() string        { return "RootRollover" }
func (rootRolloverKind) Sees() access.Action { return access.ReadTrust }

// Decode fills in what was left out, so that it compares with what is there.
func (rootRolloverKind) Decode(raw []byte) (declare.Spec, error) {
	d, err := declare.Decode[rootRolloverSpec](raw)
	if err != nil {
		return nil, err
	}
	in := d.(rootRolloverSpec)
	s := in.spec()
	s.Complete()
	out := rootRolloverOf(&s)
	out.Reason = in.Reason
	return out, nil
}

func (k rootRolloverKind) Read(ctx context.Context, s access.Scope, name string) (declare.Spec, error) {
	r, known, err := absent(k.trust.Rollover(ctx, s, name))
	if err != nil || !known {
		return nil, err
	}
	return rootRolloverOf(&r.Spec), nil
}

// List gives none: a rollover is an act, not how things are.
func (rootRolloverKind) List(context.Context, access.Scope, string, int) ([]string, string, error) {
	return nil, "", nil
}

// Judge implements [declare.Kind].
func (k rootRolloverKind) Judge(ctx context.Context, s access.Scope, name string, was, want declare.Spec) (declare.Verdict, error) {
	v := declare.Verdict{Rights: []access.Action{access.RollRoots}}
	w := want.(rootRolloverSpec)
	if was == nil {
		checks, err := k.trust.Plan(ctx, s.Tenant, name, w.spec())
		if err != nil {
			return v, err
		}
		for _, c := range checks {
			if !c.OK {
				return v, trust.ErrNotReady.New("%s: %s %s", c.Name, c.Detail, c.Next).With("path", "to")
			}
		}
		v.Dangerous = "whom the fleet trusts"
		spec := w.spec()
		spec.Complete()
		v.Notes = append(v.Notes, "its first campaign begins as soon as it is approved; no gate is passed by itself", paceOf(&spec))
		return v, nil
	}
	if declare.Equal(was.(rootRolloverSpec).Public(), w.Public()) {
		return v, nil
	}
	if !declare.Equal(was.(rootRolloverSpec).rest(), w.rest()) {
		return v, declare.ErrImmutable.New("Of a rollover that was started only the gates change.").With("path", "gates")
	}
	r, err := k.trust.Rollover(ctx, s, name)
	if err != nil {
		return v, err
	}
	if lower := r.Lowers(&w.Gates); lower != "" {
		if w.Reason == "" {
			return v, trust.ErrReason.New("It lowers %s.", lower).With("path", "reason")
		}
		v.Dangerous = "a lower gate of a root rollover"
		v.Notes = append(v.Notes, "it lowers "+lower+": "+w.Reason)
	}
	return v, nil
}

// Put implements [declare.Kind].
func (k rootRolloverKind) Put(ctx context.Context, by access.Actor, name string, was, want declare.Spec) (out declare.Outcome, err error) {
	w := want.(rootRolloverSpec)
	if was == nil {
		_, err = k.trust.Start(ctx, by.Tenant, name, by.Name, w.spec())
	} else {
		_, err = k.trust.SetGates(ctx, by.Tenant, name, by.Name, w.Gates, w.Reason)
	}
	return out, err
}

// checkDevicesTrust keeps an authority under a new root from issuing while a root
// rollover has not brought that root to the devices, or after one took it from them.
func (b *backend) checkDevicesTrust(ctx context.Context, s access.Scope, p *rollover) error {
	if b.trust == nil || p.to == nil {
		return nil
	}
	to, err := x509.ParseCertificate(p.to.Certificate)
	if err != nil {
		return nil // not installed: see there
	}
	root := b.rootOf(s, to)
	all, err := b.trust.Rollovers(ctx, s)
	i := slices.IndexFunc(all, func(r trust.Rollover) bool { return !r.Phase.Ended() && root != nil && r.Spec.To == root.Name })
	if err == nil && i >= 0 {
		p.check("devices' trust", all[i].Phase != trust.Adding, "hallmark trust rollover status "+shellWord(all[i].Name), "The root rollover %s to %s is %s.", all[i].Name, root.Name, all[i].Phase)
	}
	if err != nil || root == nil {
		return err
	}
	taken, err := b.trust.Taken(ctx, s.Tenant)
	if taken[fleet.RootID(root.Cert.Raw)] {
		p.check("devices' trust", false, "Bring "+root.Name+" back with another root rollover.", "A root rollover took %s from the devices.", root.Name)
	}
	return err
}
