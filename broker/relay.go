package broker

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

// route is what another node has to do with a message.
type route struct {
	p      *peer
	level  byte // the highest that it has for the topic
	plain  bool
	groups []groupRef
}

// candidate is a node with members of a shared group.
type candidate struct {
	ref groupRef
	p   *peer
	groupState
}

// route finds the nodes that want a message, and decides which node delivers to each
// shared group: one of those with connected members, by their number; where nobody
// is connected, one whose members' sessions wait. A group that another node serves
// leaves the local targets.
func (c *cluster) route(r *realm, m *message, targets []target) ([]target, []route) {
	var routes []route
	var shares []candidate
	to := func(p *peer) *route {
		for i := range routes {
			if routes[i].p == p {
				return &routes[i]
			}
		}
		routes = append(routes, route{p: p})
		return &routes[len(routes)-1]
	}
	r.far.mu.RLock()
	r.far.match(m.topic, func(l *farLeaf) {
		for i := range l.nodes {
			n := &l.nodes[i]
			if n.level > levelNone {
				t := to(n.p)
				t.plain, t.level = true, max(t.level, n.level)
			}
			for _, g := range n.groups {
				shares = append(shares, candidate{groupRef{Filter: l.filter, Name: g.Name}, n.p, g})
			}
		}
	})
	r.far.mu.RUnlock()
	for len(shares) > 0 {
		ref := shares[0].ref
		local := slices.IndexFunc(targets, func(t target) bool { return t.group != nil && t.group.ref() == ref })
		list := []candidate{{ref: ref}}
		if local >= 0 {
			r.tree.mu.RLock()
			list[0].Online, list[0].Waiting = targets[local].group.weigh()
			r.tree.mu.RUnlock()
		}
		shares = slices.DeleteFunc(shares, func(s candidate) bool {
			if s.ref == ref {
				list = append(list, s)
			}
			return s.ref == ref
		})
		n := choose(list)
		if n <= 0 {
			continue
		}
		if local >= 0 {
			targets = slices.Delete(targets, local, local+1)
		}
		t := to(list[n].p)
		t.groups, t.level = append(t.groups, ref), levelLasting
	}
	return targets, routes
}

func (g *shared) ref() groupRef { return groupRef{Filter: g.filter, Name: g.name} }

// choose draws one of the nodes of a group; -1 if none has anybody.
func choose(list []candidate) int {
	for _, weight := range []func(*candidate) int{func(x *candidate) int { return x.Online }, func(x *candidate) int { return x.Waiting }} {
		total := 0
		for i := range list {
			total += max(weight(&list[i]), 0)
		}
		if total == 0 {
			continue
		}
		at := rand.IntN(total)
		for i := range list {
			if at -= max(weight(&list[i]), 0); at < 0 {
				return i
			}
		}
	}
	return -1
}

// joint waits for several parts of one publish. A refusal by one refuses it all:
// the publisher sends it again, and whoever had it gets it twice, as QoS 1 may.
type joint struct {
	a    completer
	mu   sync.Mutex
	left int
	code byte
}

// together makes a joint of so many parts.
func together(a completer, parts int) *joint {
	return &joint{a: a, left: parts, code: codeNoSubscribers}
}

// complete implements [completer].
func (j *joint) complete(code byte, k *kicks) {
	j.mu.Lock()
	if code >= 0x80 || j.code < 0x80 && code == codeSuccess {
		j.code = code
	}
	j.left--
	last, code := j.left == 0, j.code
	j.mu.Unlock()
	if last {
		j.a.complete(code, k)
	}
}

// changes implements [remembers].
func (j *joint) changes() []Change {
	if r, ok := j.a.(remembers); ok {
		return r.changes()
	}
	return nil
}

// relay sends a message on its routes. What it gives is completed by the local part,
// and a when the others answered too.
func (c *cluster) relay(r *realm, m *message, routes []route, a completer) completer {
	asks := 0
	for i := range routes {
		if m.qos > 0 && routes[i].level > levelLossy {
			asks++
		}
	}
	if asks > 0 {
		j := together(a, asks+1)
		a = j
		defer func() {
			for i := range routes {
				if t := &routes[i]; t.level > levelLossy {
					c.ask(r, m, t, []*peer{t.p}, func(code byte) {
						var k kicks
						j.complete(code, &k)
						k.flush()
					})
				}
			}
		}()
		m.id = messageID{c.hash.Load(), c.number.Add(1)}
	}
	c.b.count.relayedOut.Add(int64(len(routes))) // before the other node has it, so that whoever got one finds it counted
	for i := range routes {
		if t := &routes[i]; m.qos == 0 || t.level <= levelLossy {
			f := m.frame(r.tenant)
			f.Plain, f.Groups = t.plain, t.groups
			if err := c.fabric.Send(t.p.node, pack(kindMessage, &f)); err != nil {
				c.b.count.droppedQoS0.Add(1)
			}
		}
	}
	return a
}

// ask sends a QoS 1 or 2 message to another node and waits for what it did. tried
// are the nodes that were asked about the route's groups.
func (c *cluster) ask(r *realm, m *message, t *route, tried []*peer, done func(code byte)) {
	f := m.frame(r.tenant)
	f.Plain, f.Groups = t.plain, t.groups
	c.deliver(t.p, &f, t.level, func(a messageAnswer) {
		if len(a.Unserved) == 0 {
			done(a.Code)
			return
		}
		// The members that we counted on are gone.
		j := together(completion(done), len(a.Unserved)+1)
		var k kicks
		for _, ref := range a.Unserved {
			go c.serve(r, m, ref, tried, func(code byte) { j.complete(code, &kicks{}) })
		}
		j.complete(a.Code, &k)
	})
}

// deliver asks a node until it answered, is forgotten, or the time is over.
func (c *cluster) deliver(p *peer, f *messageFrame, level byte, done func(messageAnswer)) {
	data := pack(kindMessage, f)
	deadline := time.Now().Add(askTime)
	var try func()
	try = func() {
		c.fabric.Ask(p.node, data, time.Until(deadline), func(answer []byte, err error) {
			var a messageAnswer
			switch {
			case err == nil:
				if err := unpack(answer, &a); err != nil {
					a.Code = codeUnspecified
				}
				done(a)
			case p.gone() && level < levelLasting:
				done(messageAnswer{Code: codeNoSubscribers}) // its clean sessions ended with it
			case p.gone() || errors.Is(err, context.DeadlineExceeded) || time.Until(deadline) < retryTime:
				// It may not be written down there. The publisher has to send it again.
				c.b.count.relayFailures.Add(1)
				done(messageAnswer{Code: codeUnspecified})
			default:
				time.AfterFunc(retryTime, try)
			}
		})
	}
	try()
}

// serve delivers a message to one member of a group: here if there is one, else on
// a node that was not tried.
func (c *cluster) serve(r *realm, m *message, ref groupRef, tried []*peer, done func(code byte)) {
	if sub := r.tree.member(ref); sub != nil {
		var k kicks
		c.b.hand(r, m, []target{sub.target(m)}, &k, completion(done))
		k.flush()
		return
	}
	var list []candidate
	r.far.mu.RLock()
	if l := r.far.find(ref.Filter); l != nil {
		for _, n := range l.nodes {
			for _, g := range n.groups {
				if g.Name == ref.Name && !slices.Contains(tried, n.p) {
					list = append(list, candidate{ref, n.p, g})
				}
			}
		}
	}
	r.far.mu.RUnlock()
	n := choose(list)
	if n < 0 {
		done(codeNoSubscribers)
		return
	}
	p := list[n].p
	if m.qos == 0 {
		f := m.frame(r.tenant)
		f.Groups = []groupRef{ref}
		c.fabric.Send(p.node, pack(kindMessage, &f))
		done(codeSuccess)
		return
	}
	c.ask(r, m, &route{p: p, level: levelLasting, groups: []groupRef{ref}}, append(slices.Clone(tried), p), done)
}

// recorded is what is left to do once a message is written down here: sessions that
// moved get it where they are, and other nodes hear what is retained. It is called on
// the journal's goroutine.
func (c *cluster) recorded(r *realm, m *message, moved []target, keep, wait bool, a completer, code byte, k *kicks) {
	if !wait {
		a = completion(nil)
	}
	parts := 1 + len(moved)
	if keep {
		parts++
	}
	j := together(a, parts)
	part := func(code byte) {
		var k kicks
		j.complete(code, &k)
		k.flush()
	}
	for i := range moved {
		t := &moved[i]
		var groups []groupRef
		if t.group != nil {
			groups = []groupRef{t.group.ref()}
		}
		c.passOn(r, m, t.session.key, t.session.whereTo(), groups, 0, part)
	}
	if keep {
		mark := c.touchTopic(r.tenant, m.topic)
		if !wait {
			part(code)
		} else {
			// It is safe already. That others show it when the publisher is answered is a
			// courtesy, with an end.
			go func() {
				c.settled(mark, time.Second)
				part(code)
			}()
		}
	}
	j.complete(code, k)
}

// onMessage delivers what another node publishes. Each connection's own policies
// decide here whether it may receive it.
func (c *cluster) onMessage(f *messageFrame, reply func([]byte)) {
	b := c.b
	r, m := b.realm(f.Tenant), f.message()
	b.count.relayedIn.Add(1)
	if f.To != "" {
		go c.toSession(r, m, f, func(code byte) { reply(packAnswer(messageAnswer{Code: code})) })
		return
	}
	targets, unserved := r.tree.some(m, f.Plain, f.Groups)
	code := byte(codeSuccess)
	if len(targets) == 0 {
		code = codeNoSubscribers
	}
	j := together(completion(func(code byte) { reply(packAnswer(messageAnswer{Code: code, Unserved: unserved})) }), 2)
	var k kicks
	slow := b.handAll(r, m, targets, nil, &k, j, code)
	if len(slow) == 0 {
		j.complete(code, &k)
		k.flush()
		return
	}
	k.flush()
	// The publisher waits for the answer, so it is slowed down like one of ours.
	go func() {
		t := time.NewTimer(askTime / 2)
		defer t.Stop()
		for _, s := range slow {
			room := s.overloaded()
			if room == nil {
				continue
			}
			select {
			case <-room:
			case <-t.C:
				t.Reset(0)
				s.cutIfStuck()
			}
		}
		var k kicks
		j.complete(code, &k)
		k.flush()
	}()
}

// some gives the targets of a message that another node asks for.
func (t *tree) some(m *message, plain bool, groups []groupRef) (dst []target, unserved []groupRef) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	if plain {
		t.match(m.topic, func(l *leaf) {
			for _, s := range l.subs {
				if !s.noLocal || s.session.key != m.origin {
					dst = append(dst, s.target(m))
				}
			}
		})
		dst = merge(dst)
	}
	for _, ref := range groups {
		if s := t.memberLocked(ref); s != nil {
			dst = append(dst, s.target(m))
		} else {
			unserved = append(unserved, ref)
		}
	}
	return dst, unserved
}

// member picks a member of a group by its name; nil if there is none.
func (t *tree) member(ref groupRef) *subscription {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.memberLocked(ref)
}

func (t *tree) memberLocked(ref groupRef) *subscription {
	if l := t.find(ref.Filter); l != nil {
		for _, g := range l.groups {
			if g.name == ref.Name {
				return g.pick(nil)
			}
		}
	}
	return nil
}
