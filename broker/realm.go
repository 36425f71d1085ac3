package broker

import (
	"math/rand/v2"
	"sync"
	"time"
)

// realm is everything of one tenant. There is no map in the broker that two
// tenants share and that holds a topic or a client identifier (S24).
//
// Locks: realm.mu, then session.mu, then conn.mu. tree.mu and kept.mu are taken
// last and call nothing.
type realm struct {
	b      *Broker
	tenant string

	mu       sync.Mutex
	sessions map[string]*session // by Identity.sessionKey
	marked   map[mark][]*session // by what their devices are
	versions map[string]life     // by the same
	cleaned  time.Time           // when versions was last cleaned

	tree tree
	kept retained

	// Of a cluster only.
	claims map[string]*pendingClaim // CONNECTs that wait for the other nodes, by session key
	left   map[string]*session      // sessions that moved, until all nodes know
	far    far                      // what other nodes want
}

// life is the version number of a client's connections and its rate of CONNECTs.
type life struct {
	number       int64
	left, asked  time.Time // of the last disconnect and CONNECT
	tokens       float64
	seen, online bool
}

// tree is the subscriptions.
type tree struct {
	mu sync.RWMutex
	trie[leaf]
	touch func(filter string) // tells that other nodes have to hear of a filter; nil without a cluster
}

// leaf is the subscriptions to one filter.
type leaf struct {
	subs   []*subscription
	groups []*shared
	levels [4]int32 // subscriptions that are not shared, by level
}

// The levels of a subscription: what another node has to do before it answers a
// publisher.
const (
	levelNone    = byte(iota)
	levelLossy   // QoS 0: nothing
	levelClean   // QoS 1 or 2 of a session in memory: hand it over
	levelLasting // of a session in the store: see it written down
)

// level is the highest of a leaf's.
func (l *leaf) level() byte {
	for n := levelLasting; n > levelNone; n-- {
		if l.levels[n] > 0 {
			return n
		}
	}
	return levelNone
}

// subscription is one session's to one filter. It is replaced, never changed.
type subscription struct {
	session     *session
	filter      parsedFilter
	qos         byte
	noLocal     bool
	asPublished bool
	handling    byte
	id          int
	level       byte
	group       *shared
	index       int // in leaf.subs or shared.members
}

// shared is one group of a shared subscription.
type shared struct {
	filter  string
	name    string
	members []*subscription
}

// target is a session that gets a message.
type target struct {
	session *session
	group   *shared
	ids     []int
	qos     byte
	retain  bool
}

// realm finds or makes a tenant's realm.
func (b *Broker) realm(tenant string) *realm {
	b.realmsMu.RLock()
	r := b.realms[tenant]
	b.realmsMu.RUnlock()
	if r != nil {
		return r
	}
	b.realmsMu.Lock()
	defer b.realmsMu.Unlock()
	if r = b.realms[tenant]; r == nil {
		r = &realm{b: b, tenant: tenant, sessions: map[string]*session{}, marked: map[mark][]*session{}, versions: map[string]life{}, claims: map[string]*pendingClaim{}, left: map[string]*session{}}
		r.tree.hashWithoutParent = b.lim.HashWithoutParent
		r.kept.hashWithoutParent = b.lim.HashWithoutParent
		r.kept.owners = map[string]int{}
		if b.cluster != nil {
			r.far.hashWithoutParent = b.lim.HashWithoutParent
			r.tree.touch = func(filter string) { b.cluster.touch(tenant, filter) }
		}
		b.realms[tenant] = r
	}
	return r
}

// add makes a subscription count, in place of old if the session had one.
func (t *tree) add(s, old *subscription) {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.at(s.filter.filter)
	switch {
	case s.qos == 0:
		s.level = levelLossy
	case s.session.lasting.Load():
		s.level = levelLasting
	default:
		s.level = levelClean
	}
	if s.filter.share == "" {
		before := l.level()
		if l.levels[s.level]++; old != nil {
			l.levels[old.level]--
		}
		if t.touch != nil && l.level() != before {
			defer t.touch(s.filter.filter)
		}
	} else if t.touch != nil {
		defer t.touch(s.filter.filter)
	}
	if old != nil {
		s.index, s.group = old.index, old.group
		if s.group != nil {
			s.group.members[s.index] = s
		} else {
			l.subs[s.index] = s
		}
		return
	}
	if s.filter.share == "" {
		s.index = len(l.subs)
		l.subs = append(l.subs, s)
		return
	}
	for _, g := range l.groups {
		if g.name == s.filter.share {
			s.group = g
		}
	}
	if s.group == nil {
		s.group = &shared{filter: s.filter.filter, name: s.filter.share}
		l.groups = append(l.groups, s.group)
	}
	s.index = len(s.group.members)
	s.group.members = append(s.group.members, s)
}

func (t *tree) drop(s *subscription) {
	t.mu.Lock()
	defer t.mu.Unlock()
	l := t.find(s.filter.filter)
	if l == nil {
		return
	}
	cut := func(list []*subscription) []*subscription {
		last := len(list) - 1
		list[s.index] = list[last]
		list[s.index].index = s.index
		list[last] = nil
		return list[:last]
	}
	if s.group == nil {
		l.subs = cut(l.subs)
		before := l.level()
		if l.levels[s.level]--; t.touch != nil && l.level() != before {
			defer t.touch(s.filter.filter)
		}
	} else if s.group.members = cut(s.group.members); len(s.group.members) == 0 {
		for i, g := range l.groups {
			if g == s.group {
				l.groups = append(l.groups[:i:i], l.groups[i+1:]...)
				break
			}
		}
	}
	if s.group != nil && t.touch != nil {
		defer t.touch(s.filter.filter)
	}
	if len(l.subs) == 0 && len(l.groups) == 0 {
		t.remove(s.filter.filter)
	}
}

// targets appends who gets a message. A session with several subscriptions that
// match gets it once, with the highest QoS of them (MQTT 5, Section 3.3.4).
func (t *tree) targets(m *message, dst []target) []target {
	t.mu.RLock()
	leaves := 0
	t.match(m.topic, func(l *leaf) {
		if len(l.subs) > 0 {
			leaves++
		}
		for _, s := range l.subs {
			if s.noLocal && s.session.key == m.origin {
				continue // [MQTT-3.8.3-3]
			}
			dst = append(dst, s.target(m))
		}
		for _, g := range l.groups {
			if s := g.pick(nil); s != nil {
				dst = append(dst, s.target(m))
			}
		}
	})
	t.mu.RUnlock()
	if leaves > 1 {
		dst = merge(dst)
	}
	return dst
}

func (s *subscription) target(m *message) target {
	t := target{session: s.session, group: s.group, qos: min(m.qos, s.qos), retain: m.retain && s.asPublished}
	if s.id != 0 {
		t.ids = []int{s.id}
	}
	return t
}

// merge joins targets of one session. Shared ones stay apart.
func merge(list []target) []target {
	out := list[:0]
	seen := make(map[*session]int, len(list))
	for _, t := range list {
		if t.group == nil {
			if i, ok := seen[t.session]; ok {
				o := &out[i]
				o.qos, o.retain, o.ids = max(o.qos, t.qos), o.retain || t.retain, append(o.ids, t.ids...)
				continue
			}
			seen[t.session] = len(out)
		}
		out = append(out, t)
	}
	return out
}

// pick chooses a member: any that is connected, else any whose session waits for
// messages. not is one that was tried and failed. The tree's lock is held.
func (g *shared) pick(not *session) *subscription {
	n := len(g.members)
	if n == 0 {
		return nil
	}
	start := rand.IntN(n)
	var waiting *subscription
	for i := range n {
		s := g.members[(start+i)%n]
		switch {
		case s.session == not:
		case s.session.online.Load():
			return s
		case waiting == nil && s.session.lasting.Load():
			waiting = s
		}
	}
	return waiting
}

// another picks a member of a group after one failed; nil if there is none.
func (t *tree) another(g *shared, not *session) *subscription {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return g.pick(not)
}
