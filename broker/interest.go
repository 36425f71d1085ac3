package broker

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// interestKey is a filter of a tenant whose state other nodes have to hear.
type interestKey struct{ tenant, filter string }

const (
	statesAtOnce = 1000
	topicsAtOnce = 100
)

// touch notes that the state of a filter changed. The tree calls it under its lock.
func (c *cluster) touch(tenant, filter string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.version++
	for _, p := range c.peers {
		p.dirty[interestKey{tenant, filter}] = struct{}{}
		p.poke()
	}
}

// touchShared notes that a member of shared groups came or went. s.mu is held.
func (c *cluster) touchShared(s *session) {
	for _, sub := range s.subs {
		if sub.filter.share != "" {
			c.touch(s.realm.tenant, sub.filter.filter)
		}
	}
}

// touchTopic notes that what is retained for a topic changed in the store.
func (c *cluster) touchTopic(tenant, topic string) uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.version++
	for _, p := range c.peers {
		p.topics[topicRef{Tenant: tenant, Topic: topic}] = struct{}{}
		p.poke()
	}
	return c.version
}

func (p *peer) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// mark is what settled can be asked for.
func (c *cluster) mark() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.version
}

// settled waits until all other nodes know everything up to a mark.
func (c *cluster) settled(mark uint64, patience time.Duration) bool {
	var t *time.Timer
	for {
		c.mu.Lock()
		ok, progress := true, c.progress
		for _, p := range c.peers {
			ok = ok && p.told && p.acked >= mark
		}
		c.mu.Unlock()
		if ok {
			return true
		}
		if t == nil {
			t = time.NewTimer(patience)
			defer t.Stop()
		}
		select {
		case <-progress:
		case <-t.C:
			return false
		case <-c.b.ctx.Done():
			return false
		}
	}
}

// tellAll makes everything that this node wants new to a peer.
func (c *cluster) tellAll(p *peer) {
	var all []interestKey
	for _, r := range c.b.realmsOf("") {
		r.tree.filters(func(filter string) { all = append(all, interestKey{r.tenant, filter}) })
	}
	c.mu.Lock()
	for _, k := range all {
		p.dirty[k] = struct{}{}
	}
	c.mu.Unlock()
	p.poke()
}

// tell keeps one other node informed, until it is forgotten. What it did not
// acknowledge it is told again: states, not steps, so that nothing can be missed.
func (c *cluster) tell(p *peer) {
	for {
		select {
		case <-p.closed:
			return
		case <-c.b.ctx.Done():
			return
		case <-p.wake:
		}
		for !p.gone() {
			keys, topics, more := c.take(p)
			if !more {
				break
			}
			f := interestFrame{From: c.self(), Number: p.number, Topics: topics}
			for _, k := range keys {
				level, groups := c.b.realm(k.tenant).tree.state(k.filter)
				f.States = append(f.States, interest{Tenant: k.tenant, Filter: k.filter, Level: level, Groups: groups})
			}
			result := make(chan bool, 1) // whether the peer knows us
			c.fabric.Ask(p.node, pack(kindInterest, &f), askTime, func(answer []byte, err error) {
				var a interestAnswer
				if err == nil {
					err = unpack(answer, &a)
				}
				if err != nil {
					close(result)
					return
				}
				result <- a.Known
			})
			var known, answered bool
			select {
			case known, answered = <-result:
			case <-p.closed:
				return
			case <-c.b.ctx.Done():
				return
			}
			if answered && known {
				continue
			}
			c.mu.Lock()
			for _, k := range keys {
				p.dirty[k] = struct{}{}
			}
			for _, t := range topics {
				p.topics[t] = struct{}{}
			}
			if answered {
				p.number, p.told = 0, false
			}
			c.mu.Unlock()
			if answered {
				c.tellAll(p)
			} else if !sleep(c.b.ctx, retryTime) {
				return
			}
		}
	}
}

// take gives what a peer has to be told next. When there is nothing left, it knows
// everything.
func (c *cluster) take(p *peer) (keys []interestKey, topics []topicRef, more bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for k := range p.dirty {
		if len(keys) == statesAtOnce {
			break
		}
		keys = append(keys, k)
		delete(p.dirty, k)
	}
	for t := range p.topics {
		if len(topics) == topicsAtOnce {
			break
		}
		topics = append(topics, t)
		delete(p.topics, t)
	}
	if len(keys) == 0 && len(topics) == 0 && p.number > 0 {
		p.acked, p.told = c.version, true
		c.moved()
		return nil, nil, false
	}
	p.number++ // the first frame goes out even if it is empty: it makes us known
	return keys, topics, true
}

// onInterest takes what another node wants.
func (c *cluster) onInterest(f *interestFrame, reply func([]byte)) {
	p := c.meet(f.From)
	if p == nil {
		return
	}
	c.mu.Lock()
	known, fresh := f.Number == 1 || p.heard > 0, f.Number == 1 || f.Number > p.heard
	if known && fresh {
		p.heard = f.Number
	}
	c.mu.Unlock()
	if known && fresh {
		if f.Number == 1 {
			for _, r := range c.b.realmsOf("") {
				r.far.forget(p)
			}
		}
		for i := range f.States {
			s := &f.States[i]
			if validFilter(s.Filter) && s.Level <= levelLasting {
				c.b.realm(s.Tenant).far.set(p, s)
			}
		}
		if p.gone() { // it was forgotten meanwhile
			for _, r := range c.b.realmsOf("") {
				r.far.forget(p)
			}
		}
	}
	answer := packAnswer(interestAnswer{Known: known})
	if !known || len(f.Topics) == 0 {
		reply(answer)
		return
	}
	// Read between two commits of our own, memory ends with what the store has.
	c.b.journal.submit(func() []Change { return nil }, func(err error) {
		for _, t := range f.Topics {
			if err != nil {
				return // no answer: we are told again
			}
			var kept *PutRetained
			if kept, err = c.store.RetainedAt(c.b.ctx, t.Tenant, t.Topic); err == nil {
				c.b.realm(t.Tenant).kept.replace(c.b, t.Topic, kept)
			}
		}
		if err == nil {
			reply(answer)
		}
	})
}

// sync asks another node to answer when everything that it wants is known here.
func (c *cluster) sync(p *peer) bool {
	result := make(chan bool, 1)
	c.fabric.Ask(p.node, pack(kindSync, syncFrame{From: c.self(), Name: c.name}), askTime, func(_ []byte, err error) { result <- err == nil })
	select {
	case ok := <-result:
		return ok
	case <-c.b.ctx.Done():
		return false
	}
}

func (c *cluster) onSync(f *syncFrame, reply func([]byte)) {
	p := c.meet(f.From)
	if p == nil {
		return
	}
	c.adopting.RLock()
	mark := c.mark()
	c.adopting.RUnlock()
	deadline := time.Now().Add(askTime)
	for !p.gone() && time.Now().Before(deadline) {
		c.mu.Lock()
		ok, progress := p.told && p.acked >= mark, c.progress
		c.mu.Unlock()
		if ok {
			reply(nil)
			return
		}
		t := time.NewTimer(time.Until(deadline))
		select {
		case <-progress:
		case <-t.C:
		case <-c.b.ctx.Done():
			t.Stop()
			return
		}
		t.Stop()
	}
}

// filters calls fn for every filter somebody subscribed to.
func (t *tree) filters(fn func(filter string)) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	t.paths(&t.root, "", true, fn)
}

// state is what other nodes hear of a filter.
func (t *tree) state(filter string) (level byte, groups []groupState) {
	t.mu.RLock()
	defer t.mu.RUnlock()
	l := t.find(filter)
	if l == nil {
		return levelNone, nil
	}
	for _, g := range l.groups {
		online, waiting := g.weigh()
		groups = append(groups, groupState{Name: g.name, Online: online, Waiting: waiting})
	}
	return l.level(), groups
}

// weigh counts the members that are connected, and those whose session waits.
func (g *shared) weigh() (online, waiting int) {
	for _, s := range g.members {
		if s.session.online.Load() {
			online++
		} else if s.session.lasting.Load() {
			waiting++
		}
	}
	return online, waiting
}

// far is what other nodes want of a tenant's messages.
type far struct {
	mu sync.RWMutex
	trie[farLeaf]
	size atomic.Int64 // leaves: a publisher looks no further if it is 0
}

type farLeaf struct {
	filter string
	nodes  []farNode
}

type farNode struct {
	p      *peer
	level  byte
	groups []groupState
}

// set replaces what a node wants of a filter.
func (f *far) set(p *peer, s *interest) {
	f.mu.Lock()
	defer f.mu.Unlock()
	nothing := s.Level == levelNone && len(s.Groups) == 0
	l := f.find(s.Filter)
	if l == nil {
		if nothing {
			return
		}
		l = f.at(s.Filter)
		l.filter = s.Filter
		f.size.Add(1)
	}
	i := slices.IndexFunc(l.nodes, func(n farNode) bool { return n.p == p })
	switch n := (farNode{p, s.Level, s.Groups}); {
	case nothing && i >= 0:
		l.nodes = slices.Delete(l.nodes, i, i+1)
	case nothing:
	case i >= 0:
		l.nodes[i] = n
	default:
		l.nodes = append(l.nodes, n)
	}
	if len(l.nodes) == 0 {
		f.remove(s.Filter)
		f.size.Add(-1)
	}
}

// forget drops everything that a node wants.
func (f *far) forget(p *peer) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var empty []string
	f.paths(&f.root, "", true, func(filter string) {
		l := f.find(filter)
		l.nodes = slices.DeleteFunc(l.nodes, func(n farNode) bool { return n.p == p })
		if len(l.nodes) == 0 {
			empty = append(empty, filter)
		}
	})
	for _, filter := range empty {
		f.remove(filter)
		f.size.Add(-1)
	}
}

// replace makes what is retained for a topic what the store has.
func (r *retained) replace(b *Broker, topic string, p *PutRetained) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.dropLocked(b, topic)
	if p != nil {
		r.insert(b, restored(p))
	}
}
