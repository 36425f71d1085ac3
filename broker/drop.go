package broker

import (
	"context"

	"hallmark/fleet"
)

// Cause is why the service takes a device off.
type Cause uint8

// The causes.
const (
	// Withdrawn: certificate or thing was revoked, quarantined or transferred. The
	// device may not come back, and what it left is purged: sessions, queues, wills
	// and retained messages (S25). MQTT 5 hears 0x87, events say AUTH_ERROR.
	Withdrawn Cause = iota
	// Asked: somebody wants it off for now. MQTT 5 hears 0x98, events say
	// API_INITIATED_DISCONNECT.
	Asked
)

// Selection names devices: all that match every field that is set.
type Selection struct {
	Tenant      string // empty = every tenant, for revocations by certificate
	Certificate string
	Authority   string // with Serial: the certificate as a revocation list names it
	Serial      string
	Thing       fleet.ThingName
	Client      string
}

func (s *Selection) empty() bool {
	return s.Certificate == "" && s.Serial == "" && s.Thing == "" && s.Client == ""
}

func (s *Selection) is(id *Identity, client string) bool {
	return id != nil &&
		(s.Certificate == "" || s.Certificate == id.Certificate) &&
		(s.Serial == "" || s.Serial == id.Serial && s.Authority == id.Authority) &&
		(s.Thing == "" || s.Thing == id.Thing) &&
		(s.Client == "" || s.Client == client)
}

// Drop takes devices off within a second, and tells how many connections it
// ended. For [Withdrawn] the authenticator must refuse the device already when
// Drop is called, or it is back at once; Drop returns when the purge is durable.
// noWill keeps the wills unsaid; those of withdrawn devices always are.
func (b *Broker) Drop(ctx context.Context, sel Selection, cause Cause, noWill bool) (int, error) {
	if sel.empty() {
		return 0, ErrConfig.New("Nothing says which devices are meant.")
	}
	n := 0
	for _, r := range b.realmsOf(sel.Tenant) {
		n += b.dropIn(ctx, r, &sel, cause, noWill)
	}
	if cause != Withdrawn || b.stopping.Load() {
		return n, nil
	}
	if err := b.journal.write(); err != nil { // behind the purge in the journal's order
		return n, ErrNotDurable.Wrap(err, "")
	}
	return n, nil
}

func (b *Broker) realmsOf(tenant string) (out []*realm) {
	b.realmsMu.RLock()
	defer b.realmsMu.RUnlock()
	if tenant != "" {
		if r := b.realms[tenant]; r != nil {
			out = append(out, r)
		}
		return out
	}
	for _, r := range b.realms {
		out = append(out, r)
	}
	return out
}

func (b *Broker) dropIn(ctx context.Context, r *realm, sel *Selection, cause Cause, noWill bool) int {
	e := end(codeAdministrative, APIDisconnect, "asked for by the service")
	if cause == Withdrawn {
		e = end(codeNotAuthorized, AuthError, "withdrawn")
	}
	var live []*conn
	r.mu.Lock()
	for _, s := range r.near(sel) {
		if c := s.owner; c != nil {
			if sel.is(c.id, s.client) {
				live = append(live, c)
				c.purge.CompareAndSwap(false, cause == Withdrawn)
				if cause == Withdrawn || noWill {
					c.noWill.Store(true)
				}
			}
			continue
		}
		s.mu.Lock()
		gone := cause == Withdrawn && sel.is(s.identity, s.client)
		if gone {
			s.will = nil
		}
		s.mu.Unlock()
		if gone {
			b.endLocked(s)
		}
	}
	r.mu.Unlock()
	for _, c := range live {
		c.shut(e)
	}
	for _, c := range live {
		select {
		case <-c.done:
		case <-ctx.Done():
		}
	}
	// By authority and serial only what is connected is found: retained messages know
	// their certificate.
	certificate := sel.Certificate
	for _, c := range live {
		if certificate == "" && sel.Serial != "" {
			certificate = c.id.Certificate
		}
	}
	if cause == Withdrawn && sel.Client == "" && (certificate != "" || sel.Thing != "") {
		if changes := r.kept.purge(b, r.tenant, certificate, sel.Thing); len(changes) > 0 {
			b.journal.later(changes...)
		}
	}
	return len(live)
}

// Rebind asks again what connections may do, after a change of policies or of what
// they are attached to. It holds from the next packet and the next delivery on.
func (b *Broker) Rebind(sel Selection) {
	for _, r := range b.realmsOf(sel.Tenant) {
		r.mu.Lock()
		var live []*conn
		for _, s := range r.near(&sel) {
			if c := s.owner; c != nil && sel.is(c.id, s.client) {
				live = append(live, c)
			}
		}
		r.mu.Unlock()
		for _, c := range live {
			c.bind(c.session.client)
		}
	}
}
