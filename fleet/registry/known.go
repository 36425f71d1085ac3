package registry

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"

	"hallmark/access"
	"hallmark/fleet"
	"hallmark/fleet/policy"
)

// standing is the counters that an answer depends on. They are read before the
// rows, so that a change in between makes the answer outdated and not wrong.
type standing struct {
	on   []*atomic.Uint64
	seen []uint64
}

func (s *standing) depend(n *atomic.Uint64) { s.on, s.seen = append(s.on, n), append(s.seen, n.Load()) }

func (s *standing) stands() bool {
	for i, n := range s.on {
		if n.Load() != s.seen[i] {
			return false
		}
	}
	return true
}

// Known is what the registry has of a device certificate: its row without the
// DER, and for what it may act.
type Known struct {
	Certificate Certificate
	Things      []Principal

	standing
	rows  []Thing     // of Things, in their order
	set   *policy.Set // nil if the certificate may not be used
	alone bool
}

// Stands tells whether it is still true. Where other nodes write to the database
// nobody can tell without asking, and the answer is no.
func (k *Known) Stands() bool { return k.alone && k.stands() }

// knowns keeps what was read of certificates that connect again and again, where
// this process hears of every change before its maker is answered (Config.Alone).
// A fleet that comes back at once then costs the database nothing.
type knowns struct {
	mu  sync.Mutex
	all map[string]*Known // by id, of certificates that one tenant has
}

// maxKnown bounds them: some 2 KiB each.
const maxKnown = 16384

func (c *knowns) get(id string) *Known {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := c.all[id]
	if k != nil && !k.stands() {
		delete(c.all, id)
		return nil
	}
	return k
}

func (c *knowns) put(k *Known) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all == nil {
		c.all = map[string]*Known{}
	}
	for id := range c.all { // some of them, whichever come first
		if len(c.all) < maxKnown {
			break
		}
		delete(c.all, id)
	}
	c.all[k.Certificate.ID] = k
}

// AtDoor finds the certificate that a connection showed. tenant is the one of the
// server name that the device asked for, or "": only a certificate that several
// tenants have needs it.
func (r *Registry) AtDoor(ctx context.Context, id, tenant string) (*Known, error) {
	if k := r.knowns.get(id); k != nil && (tenant == "" || k.Certificate.Tenant == tenant) {
		return k, nil
	}
	var st standing
	st.depend(r.changes.certificate("", id)) // of any tenant
	all, err := r.store.CertificatesByID(ctx, id)
	if err != nil {
		return nil, err
	}
	for i := range all {
		if all[i].Tenant == tenant || tenant == "" && len(all) == 1 {
			return r.read(ctx, all[i], st, len(all) == 1)
		}
	}
	return nil, ErrCertificateUnknown.New("")
}

// know finds a tenant's certificate.
func (r *Registry) know(ctx context.Context, s access.Scope, id string) (*Known, error) {
	if k := r.knowns.get(id); k != nil && k.Certificate.Tenant == s.Tenant {
		return k, nil
	}
	var st standing
	st.depend(r.changes.certificate(s.Tenant, id))
	c, err := r.store.Certificate(ctx, s, id)
	if err != nil {
		return nil, err
	}
	return r.read(ctx, c, st, false)
}

// read reads what hangs on a certificate's row.
func (r *Registry) read(ctx context.Context, c Certificate, st standing, keep bool) (*Known, error) {
	s := access.Scope{Tenant: c.Tenant}
	k := &Known{Certificate: c, standing: st, alone: r.alone}
	k.Certificate.DER = nil
	k.depend(r.changes.tenant(c.Tenant))
	var err error
	if k.Things, err = r.store.CertificateThings(ctx, s, c.ID); err != nil {
		return nil, err
	}
	if !c.Usable(r.now()) {
		return k, nil
	}
	for _, p := range k.Things {
		k.depend(r.changes.thing(c.Tenant, p.Thing.Fold()))
	}
	if k.rows, err = r.things(ctx, s, k.Things); err != nil {
		return nil, err
	}
	list, err := r.effective(ctx, s, c.ID, c.How.grouped(k.rows))
	if err != nil {
		return nil, err
	}
	if k.set, err = r.sets.compile(list); err != nil {
		return nil, err
	}
	if keep && r.alone {
		r.knowns.put(k)
	}
	return k, nil
}

// things reads the rows of a certificate's things.
func (r *Registry) things(ctx context.Context, s access.Scope, of []Principal) (out []Thing, err error) {
	for _, p := range of {
		t, err := r.store.Thing(ctx, s, p.Thing.Fold())
		if err != nil {
			return nil, err
		}
		out = append(out, t)
	}
	return out, nil
}

// connectionThing finds the thing of a connection: the certificate's exclusive
// one, else the one that is named like the client id; nil if there is none.
func connectionThing(of []Principal, rows []Thing, client string) *Thing {
	for i, p := range of {
		if p.Kind == Exclusive || string(p.Thing) == client {
			return &rows[i]
		}
	}
	return nil
}

// foreign tells whether a client identifier is the name of a thing that the
// certificate does not act for. A device may add a number to its thing's name, and
// sensor with the number 1 must not be taken for the thing sensor-1: neither by a
// policy that asks for the client identifier, nor by the broker, where it would end
// the other's session (S25, A69).
func (r *Registry) foreign(ctx context.Context, s access.Scope, b *bound, client string, of []Principal) (bool, error) {
	for _, p := range of {
		if string(p.Thing) == client {
			return false, nil
		}
	}
	if client == "" {
		return false, nil
	}
	folded := fleet.ThingName(client).Fold()
	b.depend(r.changes.thing(s.Tenant, folded))
	_, err := r.store.Thing(ctx, s, folded)
	if errors.Is(err, ErrThingUnknown) {
		return false, nil
	}
	return err == nil, err
}
