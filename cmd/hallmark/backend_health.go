package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"hallmark/access"
	"hallmark/api/adminapi"
	"hallmark/ca"
	"hallmark/ca/profile"
	"hallmark/ca/tlog"
	"hallmark/hsm"
	"hallmark/provisioner"
)

const (
	// authorityWarning is how long before its end an authority is reported; a
	// ceremony has to be arranged.
	authorityWarning = 90 * 24 * time.Hour
	// authorityUrgent and authorityLast are the second and the last call (A9).
	authorityUrgent = 30 * 24 * time.Hour
	authorityLast   = 7 * 24 * time.Hour
	// setWarning is how old the revoked set may be; it is read twice a second.
	setWarning = 10 * time.Second
	// logBehind is how many leaves may wait for a checkpoint: more than any burst
	// between two of them.
	logBehind = 1 << 16
	// tokenFresh is how long the state of the tokens is believed: finding out
	// costs a signature each.
	tokenFresh   = 10 * time.Second
	tokenTimeout = 3 * time.Second
)

// The three states of a check, worst last.
var severity = map[string]int{"ok": 0, "warning": 1, "failing": 2}

// checks collects what was looked at.
type checks struct {
	status string
	all    []adminapi.HealthCheck
}

func (c *checks) add(name, status, detail, next string) {
	if severity[status] > severity[c.status] {
		c.status = status
	}
	c.all = append(c.all, adminapi.HealthCheck{Name: name, Status: status, Detail: detail, Next: next})
}

// Summary implements [web.Health]. Without the database there is nothing to sum
// up; whatever else fails is said in a check.
func (b *backend) Summary(ctx context.Context, s access.Scope) (adminapi.Summary, error) {
	v := adminapi.Summary{}
	orders, err := readAll(b.orders(ctx, s), orderPosition)
	if err != nil {
		return v, err
	}
	for i := range orders {
		if orders[i].State == provisioner.OrderOpen {
			v.OrdersOpen++
			v.UnitsOrdered += orders[i].Quantity
			v.UnitsUsed += orders[i].Used
		}
	}
	n, err := b.count(ctx, s)
	if err != nil {
		return v, err
	}
	v.Certificates, v.Revoked, v.Things, v.Stations, v.LogSize = n.Certificates, n.Revoked, n.Things, n.Stations, n.LogSize
	c := &checks{status: "ok"}
	c.add("database", "ok", "", "")
	if err := b.checkAuthorities(ctx, s, c); err != nil {
		return v, err
	}
	b.checkService(c)
	b.checkStations(ctx, s, c)
	b.checkLists(s, c)
	b.checkPlaces(c)
	b.checkSet(c)
	b.checkLog(ctx, c)
	b.logs.health(c)
	b.saves.health(c)
	b.checkBreakGlass(ctx, c)
	if slices.Contains(b.cfg.Fleet.AnyClient, s.Tenant) {
		c.add("client identifiers", "warning", "A device may connect under any client identifier that its policies allow, and end the session of who has it.", "Remove the tenant from fleet.any_client.")
	}
	b.checkTokens(ctx, c)
	v.Status, v.Checks = c.status, c.all
	return v, nil
}

// checkAuthorities reports one check for each, and one for a duty that nobody has.
func (b *backend) checkAuthorities(ctx context.Context, s access.Scope, c *checks) error {
	rows, err := b.authorities(ctx, s)
	if err != nil {
		return err
	}
	b.checkExposed(ctx, rows, c)
	now := b.now()
	serving := map[profile.Duty]bool{}
	for i := range rows {
		a := &rows[i]
		name := "authority " + a.Name
		if a.State == ca.StatePending {
			c.add(name, "warning", "It waits for its certificate.", "Have the root sign its CSR, then install the certificate.")
			continue
		}
		info, err := b.ca.Authority(a.Name)
		if err != nil {
			c.add(name, "failing", "It is not loaded.", "Look into the log for why, mostly its token, and restart.")
			continue
		}
		end := info.Cert.NotAfter
		issuing := a.State == ca.StateActive && now.Before(end) && (a.IssueUntil.IsZero() || now.Before(a.IssueUntil))
		serving[a.Duty] = serving[a.Duty] || issuing
		switch {
		case !now.Before(end):
			c.add(name, "failing", "Its certificate ended at "+end.Format(time.DateOnly)+".", "Roll over to a new authority.")
		case end.Sub(now) < authorityLast:
			c.add(name, "failing", "Its certificate ends at "+end.Format(time.DateOnly)+", in less than 7 days.", "Roll over to a new authority now.")
		case end.Sub(now) < authorityUrgent:
			c.add(name, "warning", "Its certificate ends at "+end.Format(time.DateOnly)+", in less than 30 days.", "Roll over to a new authority.")
		case end.Sub(now) < authorityWarning:
			c.add(name, "warning", "Its certificate ends at "+end.Format(time.DateOnly)+", in less than 90 days.", "Arrange a ceremony and roll over to a new authority.")
		case issuing && !a.IssueUntil.IsZero() && a.IssueUntil.Sub(now) < authorityWarning:
			c.add(name, "warning", "It issues until "+a.IssueUntil.Format(time.DateOnly)+".", "Arrange a ceremony and roll over to a new authority.")
		case !issuing:
			c.add(name, "ok", "It issues no more and signs its lists.", "")
		default:
			c.add(name, "ok", "", "")
		}
		if info.Lost != nil {
			b.checkLostKey(&info, c)
		}
	}
	for _, d := range []profile.Duty{profile.DutyRoot, profile.DutyDevice, profile.DutyInfrastructure} {
		if !serving[d] {
			c.add("duty "+string(d), "warning", "No active authority has it.", "Create and install one (hallmark ca).")
		}
	}
	return nil
}

// checkLostKey reports an authority whose token was away at the start: whether
// anybody issues for it, and that its lists are not renewed meanwhile.
func (b *backend) checkLostKey(a *ca.Info, c *checks) {
	alone := ""
	for _, d := range b.ca.Servings() {
		if d.Next == "" && d.Tenant == a.Tenant && slices.Contains(d.Authorities, a.Name) {
			alone = d.String()
		}
	}
	next := "Bring its token back; its return is noticed. Its lists are not renewed before."
	if alone != "" {
		c.add("key of "+a.Name, "failing", "It could not be opened since the start, and nobody issues "+alone+".", next)
		return
	}
	c.add("key of "+a.Name, "warning", "It could not be opened since the start; who is declared beside it issues.", next)
}

// checkService reports the certificates of the doors and of the OCSP responders,
// which the service renews by itself at half of their life (A9).
func (b *backend) checkService(c *checks) {
	if b.certs == nil {
		return
	}
	now := b.now()
	for _, k := range b.certs.ends() {
		name, left := "certificate "+k.name, k.notAfter.Sub(now)
		ends := "It ends at " + k.notAfter.UTC().Format(time.RFC3339) + "."
		next := "Look into the log for why it is not renewed."
		switch {
		case left <= 0:
			c.add(name, "failing", "It ended at "+k.notAfter.UTC().Format(time.RFC3339)+".", next)
		case left < k.notAfter.Sub(k.notBefore)/4: // half should be left
			c.add(name, "warning", ends, next)
		default:
			c.add(name, "ok", ends, "")
		}
	}
}

// checkLists sums the lists of an authority up in one check.
func (b *backend) checkLists(s access.Scope, c *checks) {
	now := b.now()
	shards, worst, early := map[string]int{}, map[string]time.Time{}, map[string]time.Duration{}
	for _, h := range b.lists.Lists() {
		shards[h.Authority]++
		if w, ok := worst[h.Authority]; !ok || h.NextUpdate.Before(w) {
			worst[h.Authority], early[h.Authority] = h.NextUpdate, h.NextUpdate.Sub(h.ThisUpdate)/4
		}
	}
	for _, a := range b.ca.Authorities() {
		if a.Tenant != s.Tenant || !now.Before(a.Cert.NotAfter) {
			continue
		}
		name, root := "lists of "+a.Name, a.Duty == profile.DutyRoot
		next := "Look into the log for why the list is not renewed, mostly its token."
		want := max(a.Shards, 1)
		if root {
			want, next, early[a.Name] = 1, "Have the root sign a new list, then publish it.", 2*early[a.Name] // half of its life (A35)
		}
		left := worst[a.Name].Sub(now)
		until := "The first ends at " + worst[a.Name].UTC().Format(time.RFC3339) + "."
		switch {
		case shards[a.Name] < want && root:
			c.add(name, "warning", "There is none.", next)
		case shards[a.Name] < want:
			c.add(name, "failing", fmt.Sprintf("There are %d of %d.", shards[a.Name], want), next)
		case left <= 0:
			c.add(name, "failing", "A list is over since "+worst[a.Name].UTC().Format(time.RFC3339)+".", next)
		case root && left < early[a.Name]/5: // a tenth of its life
			c.add(name, "failing", until+" That is less than a tenth of its life.", next)
		case root && left < early[a.Name]/2:
			c.add(name, "warning", until+" That is less than a quarter of its life.", next)
		case left < early[a.Name]: // a quarter of its life is left, where half should be; of a root's list half
			c.add(name, "warning", until, next)
		default:
			c.add(name, "ok", until, "")
		}
	}
}

func (b *backend) checkSet(c *checks) {
	switch age := b.set.Age(); {
	case !b.set.Loaded():
		c.add("revoked set", "failing", "It is not loaded.", "Look into the log; nobody is let in before.")
	case age > setWarning:
		c.add("revoked set", "failing", "It was last complete "+age.Round(time.Second).String()+" ago.", "Check the database: new revocations do not take effect.")
	default:
		c.add("revoked set", "ok", "", "")
	}
}

// checkLog reads the checkpoint first: what it signs must be in the table.
func (b *backend) checkLog(ctx context.Context, c *checks) {
	cp, err := b.tlog.Checkpoint(ctx)
	size, headErr := b.db.Head(ctx)
	switch {
	case headErr != nil, err != nil && !errors.Is(err, tlog.ErrPending):
		b.log.ErrorContext(ctx, "log cannot be read for the summary", "error", errors.Join(err, headErr))
		c.add("log", "failing", "Its checkpoint cannot be read or is not ours.", "Run hallmark fsck.")
	case size < cp.Size:
		c.add("log", "failing", fmt.Sprintf("%d leaves are recorded, %d were signed for.", size, cp.Size), "Run hallmark fsck: the database was set back.")
	case size-cp.Size > logBehind:
		c.add("log", "warning", fmt.Sprintf("%d leaves wait for a checkpoint.", size-cp.Size), "Look into the log file for why they are not integrated.")
	default:
		c.add("log", "ok", "", "")
	}
}

func (b *backend) checkTokens(ctx context.Context, c *checks) {
	for _, h := range b.tokenHealth(ctx) {
		name := "token " + h.Token.Label
		switch {
		case h.State != hsm.StateUp && b.keys.Covered(h):
			c.add(name, "warning", "It does not answer; another token serves its keys.", "Bring the token back; its return is noticed.")
		case h.State == hsm.StateRefused:
			c.add(name, "failing", "It refused the PIN.", "Correct the PIN source, then restart.")
		case h.State != hsm.StateUp:
			c.add(name, "failing", "It does not answer.", "Check the token and its connection; the service reconnects by itself.")
		case h.PINLow:
			c.add(name, "warning", "Somebody tried a wrong PIN.", "Find out who, before the token locks itself.")
		default:
			c.add(name, "ok", "", "")
		}
	}
	b.checkGroups(c)
}

func (b *backend) tokenHealth(ctx context.Context) []hsm.TokenHealth {
	b.mu.Lock()
	defer b.mu.Unlock() // also so that one request examines for all who ask meanwhile
	if now := b.now(); b.tokensAt.IsZero() || now.Sub(b.tokensAt) >= tokenFresh || now.Before(b.tokensAt) {
		ctx, done := context.WithTimeout(ctx, tokenTimeout)
		defer done()
		b.tokens, b.tokensAt = b.keys.Health(ctx), now
	}
	return b.tokens
}

// countsFresh is how long counts are believed: each is a walk over an index.
const countsFresh = 5 * time.Second

// keptCounts are the counts of a tenant, and when they were made.
type keptCounts struct {
	access.Counts
	at time.Time
}

func (b *backend) count(ctx context.Context, s access.Scope) (access.Counts, error) {
	now := b.now()
	b.mu.Lock()
	k, ok := b.counts[s.Tenant]
	b.mu.Unlock()
	if ok && now.Sub(k.at) < countsFresh && !now.Before(k.at) {
		return k.Counts, nil
	}
	c, err := b.db.Counts(ctx, s)
	if err != nil {
		return c, err
	}
	b.mu.Lock()
	b.counts[s.Tenant] = keptCounts{c, now}
	b.mu.Unlock()
	return c, nil
}
