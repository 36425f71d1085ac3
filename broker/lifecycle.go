package broker

import (
	"context"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"
)

const (
	// takeoverTime is how long a newcomer waits for the old connection to be gone.
	takeoverTime = 5 * time.Second
	connectBurst = 10
)

// claim gives the connection its session: a waiting one, or a new one. Who has it
// now is disconnected first. What it decides is durable before it returns.
func (b *Broker) claim(ctx context.Context, c *conn, client string, clean bool, expiry time.Duration, w *will) (present bool, e *ending) {
	r, key := b.realm(c.id.Tenant), c.id.sessionKey(client)
	if !r.mayConnect(key, b.now(), b.lim.ConnectRate) {
		return false, end(codeRate, Throttled, "too many CONNECTs")
	}
	r.mu.Lock()
	for asked := b.cluster == nil; ; {
		if b.stopping.Load() {
			r.mu.Unlock()
			return false, end(codeShuttingDown, ServerDisconnect, "shutting down")
		}
		old, over := r.holder(key)
		if old == nil && !asked {
			if e := b.cluster.claim(ctx, r, key, c); e != nil {
				r.mu.Unlock()
				return false, e
			}
			asked = true
			continue
		}
		if old == nil {
			break
		}
		r.mu.Unlock()
		b.count.takeovers.Add(1)
		old.shut(end(codeTakenOver, DuplicateClient, "taken over")) // [MQTT-3.1.4-3]
		t := time.NewTimer(takeoverTime)
		select {
		case <-over:
		case <-c.closed:
			t.Stop()
			return false, end(codeUnavailable, ServerError, "closed while taking over")
		case <-t.C:
			return false, end(codeUnavailable, ServerError, "old connection does not end")
		}
		t.Stop()
		asked = b.cluster == nil
		r.mu.Lock()
	}
	s := r.sessions[key]
	present = s != nil && !clean && s.resumable(c)
	if s != nil && !present {
		b.endLocked(s) // [MQTT-3.1.4-4]
		s = nil
	}
	if s == nil {
		s = newSession(r, key, client)
		s.position = b.now().UnixMicro() // so that no row of an earlier session can be meant
		r.sessions[key] = s
		b.count.sessions.Add(1)
	}
	s.owner, c.session = c, s
	c.life = r.begin(key, b.now())
	r.leave(s)
	s.mu.Lock()
	s.identity, s.version, s.expiry = c.id, c.version, expiry
	s.will, s.willAt, s.endsAt = w, time.Time{}, time.Time{} // a delayed will is not sent any more [MQTT-3.1.3-9]
	if expiry > 0 && s.durable == nil {
		s.durable = &durable{ackedUpTo: s.position, loaded: s.position, last: s.position}
		s.lasting.Store(true)
	}
	lasting := s.durable != nil
	s.mu.Unlock()
	r.enter(s)
	if !lasting {
		r.mu.Unlock()
		return present, nil
	}
	result := make(chan error, 1)
	b.journal.submit(func() []Change {
		s.mu.Lock()
		defer s.mu.Unlock()
		return []Change{s.row(true)}
	}, func(err error) { result <- err })
	r.mu.Unlock()
	if err := <-result; err != nil {
		return false, end(codeUnavailable, ServerError, "session not stored")
	}
	return present, nil
}

// holder is the connection that has or is getting a client's session, and what is
// closed when it has not any more. r.mu is held.
func (r *realm) holder(key string) (*conn, <-chan struct{}) {
	if s := r.sessions[key]; s != nil && s.owner != nil {
		return s.owner, s.owner.done
	}
	if p := r.claims[key]; p != nil {
		return p.c, p.over
	}
	return nil, nil
}

// resumable tells whether the session may go on with this connection: it must be
// the same device's.
func (s *session) resumable(c *conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.realm.b.lim.SeparateVersions && s.version != c.version {
		return false
	}
	return s.identity == nil || s.identity.Certificate == c.id.Certificate || s.identity.Thing != "" && s.identity.Thing == c.id.Thing
}

// attach opens the session to messages, behind the CONNACK.
func (b *Broker) attach(c *conn, window int, connack item) {
	s := c.session
	s.mu.Lock()
	c.mu.Lock()
	c.connected = true
	c.pushLocked(connack, &c.kicks)
	c.mu.Unlock()
	s.conn, s.window = c, window
	s.online.Store(true)
	if b.cluster != nil {
		b.cluster.touchShared(s)
	}
	s.progress.Store(b.now().UnixMilli())
	s.pump(c, &c.kicks)
	s.mu.Unlock()
	b.count.connections.Add(1)
	if c.tellsEvents() {
		b.cfg.Events.Connected(c.event())
	}
	c.kicks.flush()
}

// detach takes the connection from its session: the session ends or waits, the
// will is published or waits.
func (b *Broker) detach(c *conn, e *ending) {
	s, r := c.session, c.session.realm
	now := b.now()
	r.mu.Lock()
	if s.owner != c {
		r.mu.Unlock()
		return
	}
	s.mu.Lock()
	s.conn = nil
	s.online.Store(false)
	if b.cluster != nil {
		b.cluster.touchShared(s)
	}
	if s.room != nil {
		close(s.room)
		s.room = nil
	}
	if c.noWill.Load() || !c.connected {
		s.will = nil
	}
	var due *will
	ends := s.expiry == 0 || c.purge.Load() || !c.connected && s.durable == nil
	waits := b.stopping.Load() && s.durable != nil && !ends
	switch {
	case waits:
		// The rows stay as those of a connected session: the restart goes on from there.
	case ends:
		due, s.will = s.will, nil
	default:
		s.endsAt = now.Add(s.expiry)
		if s.will != nil && s.will.delay == 0 {
			due, s.will = s.will, nil
		} else if s.will != nil {
			s.willAt = now.Add(s.will.delay)
			b.schedule.at(s.willAt, s)
		}
		b.schedule.at(s.endsAt, s)
	}
	var orphans []*outbound
	if ends {
		for _, list := range [2][]*outbound{s.inflight, s.queue} {
			for _, o := range list {
				if o.group != nil {
					orphans = append(orphans, o)
				}
			}
		}
	}
	s.forget()
	lasting := s.durable != nil
	s.mu.Unlock()
	s.owner = nil
	r.pause(s.key, now)
	switch {
	case ends:
		b.endLocked(s)
	case lasting && !waits:
		b.journal.submit(func() []Change {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.gone {
				return nil
			}
			return []Change{s.row(false)}
		}, nil)
	}
	r.mu.Unlock()
	if c.connected {
		b.count.connections.Add(-1)
	}
	if due != nil {
		b.publishWill(r, s, c.id, due)
	}
	for _, o := range orphans {
		b.handOver(r, o, s)
	}
	if c.connected && c.tellsEvents() {
		ev := c.event()
		ev.Reason, ev.ClientInitiated = e.reason, e.reason == ClientDisconnect
		b.cfg.Events.Disconnected(ev)
	}
}

// endLocked removes a session that has no connection, with everything of it. A
// will that waits is published: the session is over [MQTT-3.1.2-10]. realm.mu is held.
func (b *Broker) endLocked(s *session) {
	r := s.realm
	if r.sessions[s.key] == s {
		delete(r.sessions, s.key)
	}
	r.leave(s)
	s.mu.Lock()
	if s.gone {
		s.mu.Unlock()
		return
	}
	s.gone = true
	subs, w, id, lasting := s.subs, s.will, s.identity, s.durable != nil
	s.subs, s.will = nil, nil
	s.lasting.Store(false)
	s.forget()
	s.mu.Unlock()
	for _, sub := range subs {
		r.tree.drop(sub)
	}
	b.count.sessions.Add(-1)
	b.count.subscriptions.Add(-int64(len(subs)))
	if lasting {
		b.journal.later(EndSession{r.tenant, s.key})
	}
	if w != nil {
		go b.publishWill(r, s, id, w)
	}
}

// due is called by the schedule: a will or an end may be due.
func (b *Broker) due(s *session) {
	now, r := b.now(), s.realm
	if b.stopping.Load() {
		return
	}
	r.mu.Lock()
	s.mu.Lock()
	if s.owner != nil || s.gone {
		s.mu.Unlock()
		r.mu.Unlock()
		return
	}
	var w *will
	id := s.identity
	if s.will != nil && !s.willAt.IsZero() && !s.willAt.After(now) {
		w, s.will, s.willAt = s.will, nil, time.Time{}
	}
	over := !s.endsAt.IsZero() && !s.endsAt.After(now)
	s.mu.Unlock()
	if over {
		b.endLocked(s)
	} else if w != nil {
		b.journal.submit(func() []Change {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.gone {
				return nil
			}
			return []Change{s.row(false)}
		}, nil)
	}
	r.mu.Unlock()
	if w != nil {
		b.publishWill(r, s, id, w)
	}
}

// handOver gives a message that a member of a shared group did not answer to
// another member (MQTT 5, Section 4.8.2).
func (b *Broker) handOver(r *realm, o *outbound, not *session) {
	if sub := r.tree.another(o.group, not); sub != nil {
		var k kicks
		t := sub.target(o.msg)
		b.hand(r, o.msg, []target{t}, &k, nil)
		k.flush()
	} else if b.cluster != nil {
		go b.cluster.serve(r, o.msg, o.group.ref(), nil, func(byte) {})
	}
}

// begin counts a connection of a client and gives its version number.
func (r *realm) begin(key string, now time.Time) int64 {
	l := r.versions[key]
	if l.seen && (l.online || now.Sub(l.left) < versionLife) {
		l.number++
	} else {
		l.number = 0
	}
	l.seen, l.online = true, true
	r.versions[key] = l
	return l.number
}

// pause notes that a client went, and now and then forgets those that are long gone.
func (r *realm) pause(key string, now time.Time) {
	l := r.versions[key]
	l.online, l.left = false, now
	r.versions[key] = l
	if now.Sub(r.cleaned) > versionLife/4 {
		r.cleaned = now
		for k, l := range r.versions {
			if !l.online && now.Sub(l.left) > versionLife {
				delete(r.versions, k)
			}
		}
	}
}

// mayConnect is the rate of CONNECTs of one client.
func (r *realm) mayConnect(key string, now time.Time, rate int) bool {
	if rate < 0 {
		return true
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	l := r.versions[key]
	burst := float64(rate * connectBurst)
	if l.asked.IsZero() {
		l.tokens = burst
	} else if d := now.Sub(l.asked); d > 0 {
		l.tokens = min(l.tokens+d.Seconds()*float64(rate), burst)
	}
	l.asked = now
	allowed := l.tokens >= 1
	if allowed {
		l.tokens--
	}
	r.versions[key] = l
	return allowed
}

// tellsEvents: identifiers with wildcards get no lifecycle events.
func (c *conn) tellsEvents() bool { return !wild(c.session.client) }

// onPuback, onPubrec and onPubcomp take what a client answered. An identifier that
// nobody waits for is left over from an earlier connection.
func (c *conn) onPuback(id uint16) {
	s := c.session
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, i := s.answered(id, 1); i >= 0 {
		s.done(i, &c.kicks)
	}
}

func (c *conn) onPubrec(id uint16, code byte) {
	s := c.session
	s.mu.Lock()
	o, i := s.answered(id, 2)
	if o != nil && code >= 0x80 { // the client refused it
		s.done(i, &c.kicks)
		s.mu.Unlock()
		return
	}
	if o == nil {
		s.mu.Unlock()
		c.push(item{kind: packets.Pubrel, pid: id, code: codeIDNotFound}, &c.kicks)
		return
	}
	o.released = true
	stored, position := o.stored, o.position
	s.mu.Unlock()
	if !stored {
		c.push(item{kind: packets.Pubrel, pid: id}, &c.kicks)
		return
	}
	// What PUBREL promises must outlive a crash: the message is never sent again.
	c.b.journal.submit(func() []Change { return []Change{Release{s.realm.tenant, s.key, position}} }, func(err error) {
		if err != nil {
			c.shut(end(codeUnspecified, ServerError, "release not stored"))
			return
		}
		var k kicks
		c.push(item{kind: packets.Pubrel, pid: id}, &k)
		k.flush()
	})
}

func (c *conn) onPubcomp(id uint16) {
	s := c.session
	s.mu.Lock()
	defer s.mu.Unlock()
	if o, i := s.answered(id, 2); o != nil && o.released {
		s.done(i, &c.kicks)
	}
}
