package registry

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"errors"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"hallmark/access"
	"hallmark/fleet"
	"hallmark/fleet/policy"
)

// EffectivePolicy is a policy that counts for a certificate.
type EffectivePolicy struct {
	Name     string
	Version  int
	Document string
	From     string // the target that it is attached to
}

// EffectivePolicies lists what counts for a certificate: its own policies, and
// those of the static groups of its things and of the groups above them. Dynamic
// groups give none. A policy that is attached in several places counts once.
func (r *Registry) EffectivePolicies(ctx context.Context, s access.Scope, id string) ([]EffectivePolicy, error) {
	things, err := r.store.CertificateThings(ctx, s, id)
	if err != nil {
		return nil, err
	}
	rows, err := r.things(ctx, s, things)
	if err != nil {
		return nil, err
	}
	if len(things) > 0 {
		rows = things[0].How.grouped(rows)
	}
	return r.effective(ctx, s, id, rows)
}

// grouped gives the things whose groups' policies count: none for a device in
// quarantine, which may do what its certificate's own policies say.
func (h How) grouped(things []Thing) []Thing {
	if h == HowDarkLane {
		return nil
	}
	return things
}

func (r *Registry) effective(ctx context.Context, s access.Scope, id string, things []Thing) (out []EffectivePolicy, err error) {
	targets := []string{CertificateTarget(id)}
	for i := range things {
		for _, name := range things[i].Groups {
			chain, err := r.ancestors(ctx, s, name)
			if err != nil {
				return nil, err
			}
			for _, g := range chain {
				if target := GroupTarget(g.Name); !slices.Contains(targets, target) {
					targets = append(targets, target)
				}
			}
		}
	}
	seen := map[string]bool{}
	for _, target := range targets {
		names, err := r.store.AttachedPolicies(ctx, s, target)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			if seen[strings.ToLower(name)] {
				continue
			}
			seen[strings.ToLower(name)] = true
			h, err := r.store.PolicyHead(ctx, s, name)
			if err != nil {
				return nil, err
			}
			v, err := r.store.PolicyVersion(ctx, s, name, h.Default)
			if err != nil {
				return nil, err
			}
			out = append(out, EffectivePolicy{h.Name, v.Number, v.Document, target})
		}
	}
	return out, nil
}

// sets holds compiled policies by what they say. Devices have few different
// sets, so that a million of them share a handful.
type sets struct {
	mu   sync.Mutex
	docs map[[32]byte]*policy.Document
	all  map[[32]byte]*policy.Set
}

// maxSets bounds both maps.
const maxSets = 4096

func (c *sets) init() {
	c.docs, c.all = map[[32]byte]*policy.Document{}, map[[32]byte]*policy.Set{}
}

// compile gives the set of some policies. One that does not parse fails the
// whole: what it denies is not known.
func (c *sets) compile(list []EffectivePolicy) (*policy.Set, error) {
	h := sha256.New()
	sums := make([][32]byte, len(list))
	for i, p := range list {
		sums[i] = sha256.Sum256([]byte(p.Name + "\x00" + p.Document))
	}
	order := make([]int, len(list))
	for i := range order {
		order[i] = i
	}
	slices.SortFunc(order, func(a, b int) int { return slices.Compare(sums[a][:], sums[b][:]) })
	for _, i := range order {
		h.Write(sums[i][:])
	}
	key := [32]byte(h.Sum(nil))
	c.mu.Lock()
	defer c.mu.Unlock()
	if s := c.all[key]; s != nil {
		return s, nil
	}
	var docs []*policy.Document
	for _, i := range order {
		d := c.docs[sums[i]]
		if d == nil {
			var err error
			if d, err = policy.Parse([]byte(list[i].Document)); err != nil {
				return nil, err
			}
			d.Name = list[i].Name
			if len(c.docs) >= maxSets {
				clear(c.docs)
			}
			c.docs[sums[i]] = d
		}
		docs = append(docs, d)
	}
	if len(c.all) >= maxSets {
		clear(c.all)
	}
	s := policy.Compile(docs...)
	c.all[key] = s
	return s, nil
}

// PolicySet gives what counts for a certificate, compiled.
func (r *Registry) PolicySet(ctx context.Context, s access.Scope, id string) (*policy.Set, error) {
	list, err := r.EffectivePolicies(ctx, s, id)
	if err != nil {
		return nil, err
	}
	return r.sets.compile(list)
}

// Connection is what a device connects with.
type Connection struct {
	Tenant      string
	Certificate *x509.Certificate
	ClientID    string // "" over HTTPS
	SourceIP    netip.Addr
	DomainName  string
	Persistent  bool
	LastWill    bool
}

// Binding is what one connection may do. Its answers follow every change that
// this process hears of; it needs no closing. It is safe for concurrent use.
type Binding struct {
	r     *Registry
	c     Connection
	base  policy.Context
	id    string
	mu    sync.Mutex // one goroutine looks anew
	state atomic.Pointer[bound]
}

// bound is an answer with the counters that it depends on.
type bound struct {
	standing
	set   *policy.Bound
	thing fleet.ThingName
}

// Bind finds what a connection may do.
func (r *Registry) Bind(ctx context.Context, c Connection) (*Binding, error) {
	b := &Binding{r: r, c: c, base: policy.ContextFromCertificate(c.Certificate), id: CertificateID(c.Certificate.Raw)}
	now, err := b.look(ctx)
	if err != nil {
		return nil, err
	}
	b.state.Store(now)
	return b, nil
}

// Thing is the connection's thing: the certificate's exclusive one, else the one
// that is named like the client id and that the certificate is attached to.
func (b *Binding) Thing() fleet.ThingName { return b.state.Load().thing }

// Allows tells whether the connection may do an action, which is named as on the
// wire, with a resource such as topic/a/b. When something changed it asks the
// store once; what cannot be found out is refused.
func (b *Binding) Allows(action, resource string) bool {
	a, err := policy.ParseAction(action)
	if err != nil {
		return false
	}
	_, name, ok := strings.Cut(resource, "/")
	return ok && b.current().Allows(a, name)
}

// AllowsAction is [Binding.Allows] without the type before the resource.
func (b *Binding) AllowsAction(a policy.Action, name string) bool { return b.current().Allows(a, name) }

// lookFor bounds how long a look at the store holds up a message.
const lookFor = 5 * time.Second

func (b *Binding) current() *policy.Bound {
	s := b.state.Load()
	if s.stands() {
		return s.set
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if s = b.state.Load(); s.stands() {
		return s.set
	}
	ctx, cancel := context.WithTimeout(context.Background(), lookFor)
	defer cancel()
	next, err := b.look(ctx)
	if err != nil {
		return nil // refused, and asked again with the next message
	}
	b.state.Store(next)
	return next.set
}

// look reads what is true now.
func (b *Binding) look(ctx context.Context) (*bound, error) {
	r, s, next := b.r, access.Scope{Tenant: b.c.Tenant}, &bound{}
	next.depend(r.changes.tenant(s.Tenant))
	next.depend(r.changes.certificate(s.Tenant, b.id))
	k, err := r.know(ctx, s, b.id)
	if errors.Is(err, ErrCertificateUnknown) {
		return next, nil // nothing is allowed
	}
	if err != nil {
		return nil, err
	}
	next.on, next.seen = slices.Clone(k.on), slices.Clone(k.seen)
	if k.set == nil || !k.Certificate.Usable(r.now()) {
		return next, nil
	}
	if k.Certificate.How != HowClaimCert { // whose identifiers are kept apart
		foreign, err := r.foreign(ctx, s, next, b.c.ClientID, k.Things)
		if err != nil || foreign {
			return next, err
		}
	}
	at := b.base
	at.ClientID, at.SourceIP, at.DomainName, at.PersistentConnect, at.LastWill = b.c.ClientID, b.c.SourceIP, b.c.DomainName, b.c.Persistent, b.c.LastWill
	if t := connectionThing(k.Things, k.rows, b.c.ClientID); t != nil {
		next.thing = t.Name
		at.Thing = policy.Thing{Name: string(t.Name), Type: t.Type, Attributes: t.Attributes, Attached: true}
	}
	next.set = k.set.Bind(at)
	return next, nil
}
