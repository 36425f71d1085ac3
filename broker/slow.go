package broker

import "time"

// crowded tells whether more than one part in n of what may wait does. s.mu is held.
func (s *session) crowded(n int) bool {
	l := &s.realm.b.lim
	if d := s.durable; d != nil && d.messages > l.QueueMessages/n {
		return true
	}
	return s.durable == nil && s.queueBytes > l.OutBytes/n
}

// overloaded gives a channel to wait on if publishers should, else nil.
func (s *session) overloaded() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.conn == nil || s.gone || !s.crowded(2) {
		return nil
	}
	if s.room == nil {
		s.room = make(chan struct{})
	}
	return s.room
}

func (s *session) tooSlow(c *conn) {
	s.realm.b.count.slowDisconnects.Add(1)
	c.shut(end(codeQuota, Throttled, "subscriber too slow"))
}

// endFull ends a persistent session that is full, and its connection with it.
func (b *Broker) endFull(s *session) {
	b.log.Warn("session ended: too much waits for it", "tenant", s.realm.tenant, "client", s.client)
	b.endSession(s, end(codeQuota, Throttled, "session full"))
}

// endSession ends a session whether it has a connection or not.
func (b *Broker) endSession(s *session, e *ending) {
	r := s.realm
	r.mu.Lock()
	c := s.owner
	if c == nil {
		b.endLocked(s)
		r.mu.Unlock()
		return
	}
	c.purge.Store(true)
	r.mu.Unlock()
	c.shut(e)
}

// cutIfStuck ends a connection that has taken nothing for a while.
func (s *session) cutIfStuck() {
	b := s.realm.b
	s.mu.Lock()
	c := s.conn
	s.mu.Unlock()
	if c != nil && b.now().Sub(time.UnixMilli(s.progress.Load())) >= b.lim.SlowTimeout {
		s.tooSlow(c)
	}
}

// yield makes a publisher wait for a slow subscriber: reading stops, and TCP
// tells the device. A subscriber that takes nothing for a while is cut. Who waits
// is not waited for, so that two devices cannot hold each other up.
func (c *conn) yield(s *session) {
	if s == c.session {
		return
	}
	room := s.overloaded()
	if room == nil {
		return
	}
	s.mu.Lock()
	target := s.conn
	s.mu.Unlock()
	if target == nil || target.blocked.Load() {
		return
	}
	c.b.count.waits.Add(1)
	c.blocked.Store(true)
	defer c.blocked.Store(false)
	c.kicks.flush()
	limit := c.b.lim.SlowTimeout
	t := time.NewTimer(limit)
	defer t.Stop()
	for {
		select {
		case <-room:
			return
		case <-c.closed:
			return
		case <-t.C:
			idle := c.b.now().Sub(time.UnixMilli(s.progress.Load()))
			if idle >= limit {
				s.tooSlow(target)
				return
			}
			t.Reset(max(limit-idle, time.Millisecond))
		}
	}
}
