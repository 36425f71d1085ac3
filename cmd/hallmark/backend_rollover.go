package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"time"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/ca"
	"hallmark/ca/profile"
)

// rollover is what there is to know of an authority that leaves or shall leave.
type rollover struct {
	from    ca.Authority
	cert    *x509.Certificate // of from, nil while it is pending
	root    string            // that signed it
	to      *ca.Authority
	toName  string
	end     *ca.End // nil: nothing was decided
	last    ca.LastEnd
	orphans []ca.Serving
	checks  []rolloverCheck
	now     time.Time
}

// rolloverCheck is a precondition.
type rolloverCheck struct {
	name, detail, next string
	bad                bool
	always             bool // also of what ends the overlap
}

func (p *rollover) check(name string, ok bool, next, detail string, args ...any) {
	p.checks = append(p.checks, rolloverCheck{name: name, bad: !ok, next: next, detail: fmt.Sprintf(detail, args...)})
}

// A successor starts with lists that do not end while people look elsewhere.
const (
	rootListLeft   = 7 * 24 * time.Hour
	issueUntilLeft = 30 * 24 * time.Hour
)

// rollover gathers how things stand: of an authority, of the successor that is
// named or was decided, and what speaks against the next step.
func (b *backend) rollover(ctx context.Context, s access.Scope, name, successor string) (*rollover, error) {
	from, err := b.authority(ctx, s, name)
	if err != nil {
		return nil, err
	}
	p := &rollover{from: from, toName: successor, now: b.now()}
	if from.Duty == profile.DutyRoot || from.State == ca.StatePending {
		return nil, ca.ErrRollover.New("%s is %s with the duty %s; this is about issuing authorities that were installed.", name, from.State, from.Duty)
	}
	if p.cert, err = x509.ParseCertificate(from.Certificate); err != nil {
		return nil, err
	}
	if p.end, err = b.end(ctx, s, name); err != nil {
		return nil, err
	}
	if p.toName == "" && p.end != nil {
		p.toName = p.end.Successor
	}
	if p.last, err = b.db.LastEnd(ctx, name); err != nil {
		return nil, err
	}
	servings, err := b.db.Servings(ctx)
	if err != nil {
		return nil, err
	}
	p.orphans = ca.Orphans(servings, b.ca.Authorities(), s.Tenant, name, p.now)
	if root := b.rootOf(s, p.cert); root != nil {
		p.root = root.Name
	}
	if p.toName == "" {
		return p, nil
	}
	all, err := b.authorities(ctx, s)
	if err != nil {
		return nil, err
	}
	for i := range all {
		if all[i].Name == p.toName {
			p.to = &all[i]
		}
	}
	b.checkSuccessor(s, p, servings)
	return p, b.checkDevicesTrust(ctx, s, p)
}

// rootOf finds the root that signed a certificate.
func (b *backend) rootOf(s access.Scope, c *x509.Certificate) *ca.Info {
	for _, root := range b.ca.Authorities() {
		if root.Tenant == s.Tenant && root.Duty == profile.DutyRoot && bytes.Equal(root.Cert.RawSubject, c.RawIssuer) && c.CheckSignatureFrom(root.Cert) == nil {
			return &root
		}
	}
	return nil
}

// checkSuccessor checks everything that a verifier needs of the successor's first
// certificate, before there is one.
func (b *backend) checkSuccessor(s access.Scope, p *rollover, servings []ca.Serving) {
	p.check("authorities", p.toName != p.from.Name, "Name another authority.", "%s takes over from %s.", p.toName, p.from.Name)
	if p.to == nil || p.to.State == ca.StatePending {
		next := "hallmark ca csr --name " + shellWord(p.toName) + " --duty " + string(p.from.Duty) + " --cn NAME --key URI"
		if p.to != nil {
			next = "Have the root sign its CSR, then: hallmark ca install " + shellWord(p.toName)
		}
		p.check("installed", false, next, "%s has no certificate yet.", p.toName)
		return
	}
	to, err := b.ca.Authority(p.toName)
	if err != nil || to.State != ca.StateActive {
		p.check("installed", false, "Look into the log for why; or make another authority.", "%s is %s, or not loaded.", p.toName, p.to.State)
		return
	}
	p.check("installed", true, "", "%s is active, its key and its certificate fit.", to.Name)
	p.check("duty", to.Duty == p.from.Duty, "Make an authority of the duty "+string(p.from.Duty)+".", "%s has the duty %s, %s has %s.", to.Name, to.Duty, p.from.Name, p.from.Duty)
	serves := slices.ContainsFunc(servings, func(d ca.Serving) bool { return d.Tenant == s.Tenant && slices.Contains(d.Authorities, p.from.Name) })
	p.check("declared", serves || p.end != nil, "There is nothing to take over; retire it: hallmark ca retire "+shellWord(p.from.Name), "%s is declared to issue: %t.", p.from.Name, serves)

	// The chain, and how long it is and lasts.
	if root := b.rootOf(s, to.Cert); root == nil {
		p.check("chain", false, "Store its root: hallmark ca root", "No stored root signed %s.", to.Name)
	} else {
		long := root.State == ca.StateActive && (root.Cert.MaxPathLen < 0 || root.Cert.MaxPathLen >= 1) && to.Cert.MaxPathLen == 0
		p.check("chain", long && p.now.Before(root.Cert.NotAfter), "Have an active root sign it.", "%s is signed by the root %s: path length %d under %d.", to.Name, root.Name, to.Cert.MaxPathLen, root.Cert.MaxPathLen)
		fresh := false
		detail := "The root " + root.Name + " has no list."
		for _, l := range b.lists.Lists() {
			if l.Authority == root.Name {
				fresh = l.NextUpdate.Sub(p.now) >= rootListLeft
				detail = fmt.Sprintf("The list of %s holds until %s.", root.Name, l.NextUpdate.UTC().Format(time.RFC3339))
			}
		}
		p.check("root list", fresh, "Sign a new one at the root, then: hallmark ca crl "+shellWord(root.Name)+" FILE", "%s", detail)
		p.check("not revoked", !b.set.Distrusted(to.Name), "Make another authority.", "%s is not on its root's list.", to.Name)
	}
	p.check("lifetime", !to.Cert.NotAfter.Before(p.cert.NotAfter) || to.Cert.NotAfter.Sub(p.now) > profileLife(p.from.Duty), "Have the root sign a certificate with a later end.",
		"%s ends at %s, %s at %s.", to.Name, day(to.Cert.NotAfter), p.from.Name, day(p.cert.NotAfter))
	until := to.IssueUntil
	p.check("issue until", until.IsZero() || until.Sub(p.now) >= issueUntilLeft, "Make an authority that issues for longer.", "%s issues until %s.", to.Name, dash(day(until)))

	// What a verifier fetches, from the first certificate on.
	err = ca.ValidBaseURL(to.BaseURL, b.cfg.Production)
	p.check("base URL", err == nil, "Make an authority with an owned DNS name.", "Its URLs start with %s; those of %s with %s.", to.BaseURL, p.from.Name, p.from.BaseURL)
	p.check("shards", to.Shards >= p.from.Shards, "Make an authority with as many lists, or more.", "%d lists; %s has %d.", to.Shards, p.from.Name, p.from.Shards)
	out := 0
	for _, l := range b.lists.Lists() {
		if l.Authority == to.Name && l.NextUpdate.After(p.now) {
			out++
		}
	}
	p.check("lists", out >= max(to.Shards, 1), "Look into the log for why; they are tried again all the time.", "%d of its %d lists are published.", out, max(to.Shards, 1))
	if b.certs != nil {
		ready := slices.ContainsFunc(b.certs.ends(), func(e ending) bool { return e.name == "ocsp-"+to.Name && p.now.Before(e.notAfter) })
		p.check("OCSP", ready, "Look into the log for why its responder has no certificate.", "Its responder answers: %t.", ready)
	}
}

// profileLife is the longest life of what a duty issues that has an end: a shorter
// authority would clip its certificates from the first day on.
func profileLife(d profile.Duty) (longest time.Duration) {
	for _, p := range profile.All() {
		if p.Issuer == d && !p.CA && !p.NoExpiry {
			longest = max(longest, p.Lifetime)
		}
	}
	return longest
}

// lastEnd says when the last certificate ends.
func (p *rollover) lastEnd() string {
	switch {
	case p.last.Certificates == 0:
		return "it has none"
	case !p.last.At.Before(p.cert.NotAfter.Truncate(time.Second)):
		return day(p.last.At) + ", as itself: it signs lists to its end"
	}
	return day(p.last.At)
}

// revokeCommands are what is left to do when an authority is revoked: only its root
// can tell the rest of the world.
func (p *rollover) revokeCommands() []string {
	root, serial := dash(p.root), fmt.Sprintf("%x", p.cert.SerialNumber)
	return []string{
		"at the root: hallmark ceremony crl … --revoke " + serial + "=cACompromise",
		"hallmark ca crl " + shellWord(root) + " FILE",
		"hallmark ca rollover status " + shellWord(p.from.Name),
	}
}

// ready tells whether nothing speaks against the start.
func (p *rollover) ready() bool {
	return p.to != nil && !slices.ContainsFunc(p.checks, func(c rolloverCheck) bool { return c.bad })
}

// steps are what happens when, in its order.
func (p *rollover) steps() (out []adminapi.RolloverStep) {
	to, from := p.toName, p.from.Name
	did := func(step string) (at time.Time, by string) {
		if p.end == nil {
			return at, by
		}
		s, _ := p.end.Did(step)
		return s.At, s.By
	}
	add := func(step, what, when, command string, at time.Time, by string) {
		out = append(out, adminapi.RolloverStep{Step: step, What: what, When: when, Command: command, DoneAt: at, DoneBy: by})
	}
	installed := p.to != nil && p.to.State != ca.StatePending
	var made, have time.Time
	if p.to != nil {
		made = p.to.CreatedAt
	}
	if installed {
		have = p.to.CreatedAt
	}
	closedAt, closedBy := did(ca.StepClosed)
	revokedAt, revokedBy := did(ca.StepRevoked)
	if to != "" {
		word := shellWord(to)
		add("key", "The key of "+to+" is made in the token, and its CSR.", "now", "hallmark ca csr --name "+word+" --duty "+string(p.from.Duty)+" --cn NAME --key URI", made, "")
		add("ceremony", "The root signs its certificate, and a list of its own if that holds for less than 7 days more.", "at the next ceremony", "hallmark ceremony sign --csr "+word+".csr …", have, "")
		add("install", "The certificate is installed. "+to+" publishes its lists and answers by OCSP from then on; it issues nothing.", "after the ceremony", "hallmark ca install "+word+" --root ROOT --certificate FILE", have, "")
		at, by := did(ca.StepSwitched)
		when := "when every check is ok, and a second person approves"
		if !p.from.IssueUntil.IsZero() {
			when += ", before " + day(p.from.IssueUntil) + ", when " + from + " ends to issue"
		}
		add("start", "Every declaration that names "+from+" names "+to+" before it, in one transaction: "+to+" issues, "+from+" steps in if its key does not answer.", when, "hallmark ca rollover start "+shellWord(from)+" "+word, at, by)
		add("overlap", "Both are valid, and both sign lists. Certificates are renewed by "+to+".", "as long as you want to be able to go back", "hallmark ca rollover status "+shellWord(from), closedAt, "")
	}
	if p.end != nil && p.end.Stage == ca.EndRevoked {
		add("revoke", "The service issues nothing by "+from+", and its doors refuse what it issued.", "done", "", revokedAt, revokedBy)
		at, by := did(ca.StepListed)
		add("root list", "The root's list has "+from+": everybody else learns it.", "at a ceremony, now", strings.Join(p.revokeCommands()[:2], "; "), at, by)
	} else {
		command := "hallmark ca retire " + shellWord(from)
		if to != "" {
			command = "hallmark ca rollover finish " + shellWord(from)
		}
		add("finish", from+" issues nothing more. It signs lists and certifies its OCSP responder (S2).", "when a second person approves", command, closedAt, closedBy)
	}
	at, by := did(ca.StepLast)
	when := "a day after the end of its last certificate, " + p.lastEnd()
	if p.last.Certificates == 0 {
		when = "at once, as it has no certificate"
	}
	add("last list", from+" signs its last lists. They hold until its own end, "+day(p.cert.NotAfter)+"; keep them published.", when, "", at, by)
	at, by = did(ca.StepEnded)
	add("end", "Its key is not needed any more; destroy it in a ceremony.", "when the last lists are out", "", at, by)
	return out
}

// AuthorityRollover implements [web.Authorities].
func (b *backend) AuthorityRollover(ctx context.Context, s access.Scope, name, successor string) (adminapi.Rollover, error) {
	p, err := b.rollover(ctx, s, name, successor)
	if err != nil {
		return adminapi.Rollover{}, err
	}
	v := adminapi.Rollover{Authority: name, Successor: p.toName, State: string(p.from.State), Ready: p.ready(), Certificates: p.last.Certificates, LastEnds: p.last.At, Steps: p.steps(), Checks: []adminapi.RolloverCheck{}}
	for _, c := range p.checks {
		state := "ok"
		if c.bad {
			state = "failing"
		} else {
			c.next = ""
		}
		v.Checks = append(v.Checks, adminapi.RolloverCheck{Name: c.name, State: state, Detail: c.detail, Next: c.next})
	}
	for _, o := range p.orphans {
		v.Alone = append(v.Alone, o.String())
	}
	if p.end != nil {
		v.Stage = string(p.end.Stage)
		facts, err := b.leavingFacts(ctx, s, name)
		if err != nil {
			return v, err
		}
		_, v.Waits, err = ca.Advance(ctx, looksOnly{b.db}, *p.end, facts, b.now())
		if err != nil {
			return v, err
		}
	}
	return v, nil
}

// looksOnly lets [ca.Advance] say what is next without doing it.
type looksOnly struct{ ca.EndStore }

func (looksOnly) Atomic(context.Context, func(context.Context) error) error { return nil }

// facts is what the lists say of an authority that leaves.
func (b *backend) leavingFacts(ctx context.Context, s access.Scope, name string) (ca.Facts, error) {
	a, err := b.ours(s, name)
	if err != nil {
		return ca.Facts{}, err
	}
	return leavingFacts(ctx, b.lists, a)
}

// Servings implements [web.Authorities].
func (b *backend) Servings(_ context.Context, s access.Scope) (out []adminapi.Serving, err error) {
	for _, d := range b.ca.Servings() {
		if d.Tenant == s.Tenant {
			out = append(out, adminapi.Serving{Name: d.Name, Serves: d.Serves, Product: d.Product, Region: d.Region, Authorities: nonNil(d.Authorities), Issues: d.Next})
		}
	}
	return out, nil
}
