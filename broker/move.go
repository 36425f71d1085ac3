package broker

import (
	"context"
	"errors"
	"slices"
	"time"
)

// A session moves in this order, so that no message for it gets lost between two
// nodes:
//
//  1. The new node asks all others, as nobody knows where a client was.
//  2. The old node disconnects it, lets everything for it become durable, and keeps
//     its subscriptions: what still comes for them is passed on to the new node.
//  3. The new node takes the session's row, reads it, and wants its messages.
//  4. When every node knows that, the old one hears it, and forgets the subscriptions
//     when nothing that was sent before can be under way any more.
//
// Between 3 and 4 a message can come both ways, so the new node remembers for a while
// what it had.

const (
	markTime   = 2 * askTime
	recentTime = 3 * askTime
	maxHops    = 4
)

// pendingClaim is a CONNECT that waits for the other nodes.
type pendingClaim struct {
	c     *conn
	stamp int64
	over  chan struct{} // closed at its end
}

// claim makes the session of a client this node's. r.mu is held, and is held again
// when it returns; nobody here has the session.
func (c *cluster) claim(ctx context.Context, r *realm, key string, x *conn) *ending {
	b := c.b
	if !c.open.Load() {
		return end(codeUnavailable, ServerError, "node is joining")
	}
	p := &pendingClaim{x, time.Now().UnixMicro(), make(chan struct{})}
	r.claims[key] = p
	r.mu.Unlock()
	asking, cancel := context.WithTimeout(ctx, max(takeoverTime, 2*c.timeout))
	go func() { // whoever ends the connection ends this too
		select {
		case <-x.closed:
			cancel()
		case <-asking.Done():
		}
	}()
	answer, from, e := c.askAll(asking, r.tenant, key, p.stamp)
	cancel()
	r.mu.Lock()
	var taken bool
	if from != "" {
		// It was given up for us, so it is taken even if the connection is gone by now.
		if taken = c.takeOver(ctx, r, key, from); !taken {
			b.wg.Go(func() {
				for sleep(b.ctx, time.Second) {
					r.mu.Lock()
					if c.takeOver(b.ctx, r, key, from) {
						c.claimed(r, key, p)
						r.mu.Unlock()
						return
					}
					r.mu.Unlock()
				}
			})
			return end(codeUnavailable, ServerError, "session not taken")
		}
	}
	c.claimed(r, key, p)
	if e == nil {
		e = x.ended.Load()
	}
	if e != nil {
		return e
	}
	if answer.Seen {
		l := r.versions[key]
		l.number, l.seen, l.left = max(l.number, answer.Life), true, b.now()
		r.versions[key] = l
	}
	x.notBefore = time.UnixMilli(answer.Now)
	return nil
}

func (c *cluster) claimed(r *realm, key string, p *pendingClaim) {
	if r.claims[key] == p {
		delete(r.claims, key)
	}
	close(p.over)
}

// takeOver takes a session that another node gave up; false if the store does not
// answer. r.mu is held, but not while the store is asked.
func (c *cluster) takeOver(ctx context.Context, r *realm, key, from string) bool {
	b := c.b
	r.mu.Unlock()
	stored, err := c.store.Take(ctx, r.tenant, key, from, c.self())
	r.mu.Lock()
	switch {
	case errors.Is(err, ErrElsewhere): // the former node died meanwhile, and a third has it
	case err != nil:
		b.log.WarnContext(ctx, "session of another node not taken", "client", key, "err", err)
		return false
	case stored != nil && r.sessions[key] == nil:
		s, _, err := b.restoreSession(*stored, b.now())
		if err != nil {
			return false
		}
		b.count.movedIn.Add(1)
		s.remember()
		if old := r.left[key]; old != nil { // it was here before
			c.unmark(r, key, old)
		}
		b.wg.Go(func() { c.arrived(r.tenant, key, from) })
	}
	return true
}

// askAll asks every other node for a client's session until all have answered. A
// node that does not answer is waited for: either it comes back, or it is dead and
// its sessions are given to another node.
func (c *cluster) askAll(ctx context.Context, tenant, key string, stamp int64) (sum claimAnswer, from string, e *ending) {
	for again := true; again; {
		again = false
		peers := c.others()
		frame := pack(kindClaim, claimFrame{From: c.self(), Tenant: tenant, Key: key, Stamp: stamp})
		type result struct {
			p   *peer
			a   claimAnswer
			err error
		}
		results := make(chan result, len(peers))
		for _, p := range peers {
			c.fabric.Ask(p.node, frame, askTime+takeoverTime, func(answer []byte, err error) {
				x := result{p: p, err: err}
				if err == nil {
					x.err = unpack(answer, &x.a)
				}
				results <- x
			})
		}
		for range peers {
			var x result
			select {
			case x = <-results:
			case <-ctx.Done():
				return sum, "", end(codeUnavailable, ServerError, "other nodes do not answer")
			}
			switch {
			case x.err != nil:
				again = true
			case x.a.Refused:
				return sum, "", end(codeTakenOver, DuplicateClient, "taken over while connecting")
			default:
				if x.a.Lasting {
					from = x.p.node
				}
				sum.Seen, sum.Life, sum.Now = sum.Seen || x.a.Seen, max(sum.Life, x.a.Life), max(sum.Now, x.a.Now)
			}
		}
		if again && !sleep(ctx, retryTime) {
			return sum, "", end(codeUnavailable, ServerError, "other nodes do not answer")
		}
	}
	return sum, from, nil
}

// onClaim gives a session up for another node.
func (c *cluster) onClaim(f *claimFrame, reply func([]byte)) {
	b := c.b
	c.meet(f.From)
	r := b.realm(f.Tenant)
	r.mu.Lock()
	for {
		var old *conn
		var over <-chan struct{}
		if s := r.sessions[f.Key]; s != nil && s.owner != nil {
			old, over = s.owner, s.owner.done
		} else if p := r.claims[f.Key]; p != nil {
			// Two CONNECTs at once: the later one stays, whichever node asks first.
			if p.stamp > f.Stamp || p.stamp == f.Stamp && c.self() > f.From {
				r.mu.Unlock()
				reply(packAnswer(claimAnswer{Refused: true}))
				return
			}
			old, over = p.c, p.over
		}
		if old == nil {
			break
		}
		r.mu.Unlock()
		b.count.takeovers.Add(1)
		old.shut(end(codeTakenOver, DuplicateClient, "taken over at another node"))
		select {
		case <-over:
		case <-time.After(takeoverTime):
			reply(nil) // it is asked again
			return
		}
		r.mu.Lock()
	}
	a := claimAnswer{Now: b.now().UnixMilli()}
	if l := r.versions[f.Key]; l.seen && b.now().Sub(l.left) < versionLife {
		a.Seen, a.Life = true, l.number
		delete(r.versions, f.Key)
	}
	s := r.sessions[f.Key]
	if s != nil {
		a.Lasting = s.lasting.Load()
		c.release(r, s, f.From)
	} else if m := r.left[f.Key]; m != nil && m.movedTo == f.From {
		a.Lasting = true // it asks again: it did not hear the answer
	}
	r.mu.Unlock()
	if a.Lasting {
		if err := b.journal.write(); err != nil {
			reply(nil) // asked again, the session is marked as moved
			return
		}
		b.count.movedOut.Add(1)
	}
	reply(packAnswer(a))
}

// release takes a session without a connection out of memory, and leaves it in the
// store. Its subscriptions stay, and pass on to the node that has it now; an empty
// name says that they do not. r.mu is held.
func (c *cluster) release(r *realm, s *session, to string) {
	delete(r.sessions, s.key)
	r.leave(s)
	s.mu.Lock()
	if s.gone {
		s.mu.Unlock()
		return
	}
	s.gone, s.movedTo, s.will = true, to, nil
	// What the client answered must not come again from the store.
	var answered []Change
	if d := s.durable; d != nil && to != "" {
		answered = append(answered, Acknowledge{Tenant: r.tenant, Client: s.key, Position: d.ackedUpTo})
		for position := range d.above {
			answered = append(answered, Acknowledge{Tenant: r.tenant, Client: s.key, Position: position, Only: true})
		}
	}
	s.forget()
	n := len(s.subs)
	s.mu.Unlock()
	if len(answered) > 0 {
		c.b.journal.later(answered...)
	}
	c.b.count.sessions.Add(-1)
	c.b.count.subscriptions.Add(-int64(n))
	if old := r.left[s.key]; old != nil {
		c.unmark(r, s.key, old)
	}
	if r.left[s.key] = s; to == "" || !s.lasting.Load() {
		c.unmark(r, s.key, s)
	}
}

// unmark forgets the subscriptions of a session that moved. r.mu is held.
func (c *cluster) unmark(r *realm, key string, s *session) {
	if r.left[key] == s {
		delete(r.left, key)
	}
	s.mu.Lock()
	subs := s.subs
	s.subs = nil
	s.lasting.Store(false)
	s.mu.Unlock()
	for _, sub := range subs {
		r.tree.drop(sub)
	}
}

// arrived tells the former node when all others know where the session is.
func (c *cluster) arrived(tenant, key, from string) {
	if !c.settled(c.mark(), time.Hour) {
		return
	}
	c.fabric.Ask(from, pack(kindArrived, arrivedFrame{From: c.self(), Tenant: tenant, Key: key}), askTime, func([]byte, error) {})
}

func (c *cluster) onArrived(f *arrivedFrame) {
	r := c.b.realm(f.Tenant)
	r.mu.Lock()
	s := r.left[f.Key]
	r.mu.Unlock()
	if s == nil || s.movedTo != f.From {
		return
	}
	c.unmarkLater(r, f.Key, s)
}

// unmarkLater is unmark, when what was sent before can be under way no more.
func (c *cluster) unmarkLater(r *realm, key string, s *session) {
	time.AfterFunc(markTime, func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.left[key] == s {
			c.unmark(r, key, s)
		}
	})
}

// remember notes what the session gets for a while, so that nothing comes twice.
func (s *session) remember() {
	s.mu.Lock()
	s.recent = map[messageID]struct{}{}
	s.mu.Unlock()
	time.AfterFunc(recentTime, func() {
		s.mu.Lock()
		s.recent = nil
		s.mu.Unlock()
	})
}

// whereTo is the node that a session moved to; empty if it did not.
func (s *session) whereTo() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.movedTo
}

// passOn sends a message for a session that moved to where it is.
func (c *cluster) passOn(r *realm, m *message, key, to string, groups []groupRef, hops byte, done func(code byte)) {
	c.mu.Lock()
	p := c.peers[to]
	c.mu.Unlock()
	if p == nil || hops >= maxHops {
		done(codeUnspecified) // sent again, it finds its way
		return
	}
	f := m.frame(r.tenant)
	f.To, f.Hops, f.Groups = key, hops+1, groups
	c.deliver(p, &f, levelLasting, func(a messageAnswer) { done(a.Code) })
}

// toSession delivers to one session, which is here, is on its way here, or moved on.
func (c *cluster) toSession(r *realm, m *message, f *messageFrame, done func(code byte)) {
	for deadline := time.Now().Add(askTime); ; {
		r.mu.Lock()
		s, claim, left := r.sessions[f.To], r.claims[f.To], r.left[f.To]
		r.mu.Unlock()
		switch {
		case s != nil:
			t := target{session: s}
			s.mu.Lock()
			for _, sub := range s.subs {
				if sub.group != nil && !slices.Contains(f.Groups, sub.group.ref()) || sub.group == nil && len(f.Groups) > 0 || !matches(sub.filter.filter, m.topic, c.b.lim.HashWithoutParent) {
					continue
				}
				x := sub.target(m)
				t.group, t.qos, t.retain, t.ids = x.group, max(t.qos, x.qos), t.retain || x.retain, append(t.ids, x.ids...)
			}
			s.mu.Unlock()
			var k kicks
			c.b.hand(r, m, []target{t}, &k, completion(done))
			k.flush()
			return
		case claim != nil:
			select {
			case <-claim.over:
			case <-time.After(time.Until(deadline)):
				done(codeUnspecified)
				return
			}
		case left != nil:
			c.passOn(r, m, f.To, left.whereTo(), f.Groups, f.Hops, done)
			return
		default:
			done(codeNoSubscribers) // it ended
			return
		}
	}
}
