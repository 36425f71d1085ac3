package registry

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
)

// Change says what a commit changed of what a connection may do. Without a
// certificate and a thing it is about the whole tenant: a policy's version, a
// group. Without a tenant it is about everything.
type Change struct {
	Tenant      string
	Certificate string // id
	Thing       string // folded
}

// changes counts them, so that whoever holds an answer can tell with two loads
// whether it still stands. Certificates and things share a fixed number of
// counters: a stranger's change costs a new answer now and then, and nothing
// has to be forgotten.
type changes struct {
	seed  maphash.Seed
	some  [4096]atomic.Uint64 // by certificate or thing
	whole [64]atomic.Uint64   // by tenant
	all   atomic.Uint64
	wide  atomic.Uint64 // those of a whole tenant, or of everything

	mu sync.Mutex
	ch chan struct{}
}

func (c *changes) init() { c.seed, c.ch = maphash.MakeSeed(), make(chan struct{}) }

func (c *changes) tenant(tenant string) *atomic.Uint64 {
	return &c.whole[maphash.String(c.seed, tenant)%uint64(len(c.whole))]
}

func (c *changes) certificate(tenant, id string) *atomic.Uint64 {
	return &c.some[maphash.String(c.seed, "c\x00"+tenant+"\x00"+id)%uint64(len(c.some))]
}

func (c *changes) thing(tenant, folded string) *atomic.Uint64 {
	return &c.some[maphash.String(c.seed, "t\x00"+tenant+"\x00"+folded)%uint64(len(c.some))]
}

func (c *changes) note(ch Change) {
	switch {
	case ch.Certificate != "":
		c.certificate(ch.Tenant, ch.Certificate).Add(1)
		c.certificate("", ch.Certificate).Add(1) // whoever does not know whose it is
	case ch.Thing != "":
		c.thing(ch.Tenant, ch.Thing).Add(1)
	case ch.Tenant == "":
		c.wide.Add(1)
		for i := range c.whole {
			c.whole[i].Add(1)
		}
	default:
		c.wide.Add(1)
		c.tenant(ch.Tenant).Add(1)
	}
	c.all.Add(1)
	c.mu.Lock()
	close(c.ch)
	c.ch = make(chan struct{})
	c.mu.Unlock()
}

// Changed gives a channel that is closed by the next change that this process
// hears of. Take it before looking, or a change in between is missed.
func (r *Registry) Changed() <-chan struct{} {
	r.changes.mu.Lock()
	defer r.changes.mu.Unlock()
	return r.changes.ch
}

// Wide rises with every change that this process hears of and that is about a tenant
// and not one certificate or thing of it: a registered CA, a policy's version, a
// group. Take it before looking.
func (r *Registry) Wide() uint64 { return r.changes.wide.Load() }

// Generation rises with every change that this process hears of.
func (r *Registry) Generation() uint64 { return r.changes.all.Load() }
