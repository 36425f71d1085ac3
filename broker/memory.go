package broker

import (
	"context"
	"maps"
	"slices"
	"sync"
)

// Memory is a [Store] that forgets everything with the process.
type Memory struct {
	mu       sync.Mutex
	sessions map[[2]string]*memorySession
	retained map[[2]string]PutRetained
	members  map[string]Member
}

type memorySession struct {
	s        Session
	subs     map[string]PutSubscription
	queue    []StoredMessage
	received map[uint16]struct{}
}

// NewMemory makes one.
func NewMemory() *Memory {
	return &Memory{sessions: map[[2]string]*memorySession{}, retained: map[[2]string]PutRetained{}, members: map[string]Member{}}
}

// Apply implements [Store].
func (m *Memory) Apply(_ context.Context, changes []Change) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, c := range changes {
		if g, ok := c.(Guard); ok {
			x, known := m.members[g.Node]
			if !known {
				return ErrFenced.New("")
			}
			x.Beat++
			m.members[g.Node] = x
		}
	}
	for _, c := range changes {
		m.apply(c)
	}
	return nil
}

func (m *Memory) apply(c Change) {
	with := func(tenant, client string, f func(*memorySession)) {
		if s := m.sessions[[2]string{tenant, client}]; s != nil {
			f(s)
		}
	}
	switch c := c.(type) {
	case PutSession:
		k := [2]string{c.Tenant, c.Client}
		s := m.sessions[k]
		if s == nil {
			s = &memorySession{subs: map[string]PutSubscription{}, received: map[uint16]struct{}{}}
			m.sessions[k] = s
		}
		s.s = c.Session
	case EndSession:
		delete(m.sessions, [2]string{c.Tenant, c.Client})
	case PutSubscription:
		with(c.Tenant, c.Client, func(s *memorySession) { s.subs[c.Filter] = c })
	case EndSubscription:
		with(c.Tenant, c.Client, func(s *memorySession) { delete(s.subs, c.Filter) })
	case Enqueue:
		for _, r := range c.To {
			with(c.Tenant, r.Client, func(s *memorySession) {
				s.queue = append(s.queue, StoredMessage{Position: r.Position, QoS: r.QoS, Retain: r.Retain, IDs: r.IDs, Message: c.Message})
			})
		}
	case Acknowledge:
		with(c.Tenant, c.Client, func(s *memorySession) {
			s.queue = slices.DeleteFunc(s.queue, func(q StoredMessage) bool {
				return q.Position == c.Position || !c.Only && q.Position < c.Position
			})
		})
	case Release:
		with(c.Tenant, c.Client, func(s *memorySession) {
			for i := range s.queue {
				if s.queue[i].Position == c.Position {
					s.queue[i].Released = true
				}
			}
		})
	case Receive:
		with(c.Tenant, c.Client, func(s *memorySession) {
			if c.Done {
				delete(s.received, c.ID)
			} else {
				s.received[c.ID] = struct{}{}
			}
		})
	case PutRetained:
		m.retained[[2]string{c.Tenant, c.Topic}] = c
	case EndRetained:
		delete(m.retained, [2]string{c.Tenant, c.Topic})
	}
}

// Sessions implements [Store].
func (m *Memory) Sessions(_ context.Context, fn func(StoredSession) error) error {
	for _, s := range m.all() {
		if err := fn(s); err != nil {
			return err
		}
	}
	return nil
}

func (m *Memory) all() (list []StoredSession) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.some(func(*Session) bool { return true })
}

// some gives the sessions that a condition selects, with what it may have changed.
func (m *Memory) some(which func(*Session) bool) (list []StoredSession) {
	for _, s := range m.sessions {
		if !which(&s.s) {
			continue
		}
		out := StoredSession{Session: s.s, Subscriptions: slices.Collect(maps.Values(s.subs)), Received: slices.Collect(maps.Keys(s.received))}
		by := map[string]*Waiting{}
		for _, q := range s.queue {
			w := by[q.Publisher]
			if w == nil {
				w = &Waiting{Publisher: q.Publisher, First: q.Position}
				by[q.Publisher] = w
			}
			w.Messages++
			w.Bytes += q.Size()
			w.Last = q.Position
		}
		for _, w := range by {
			out.Waiting = append(out.Waiting, *w)
		}
		list = append(list, out)
	}
	return list
}

// Retained implements [Store].
func (m *Memory) Retained(_ context.Context, fn func(PutRetained) error) error {
	m.mu.Lock()
	list := slices.Collect(maps.Values(m.retained))
	m.mu.Unlock()
	for _, r := range list {
		if err := fn(r); err != nil {
			return err
		}
	}
	return nil
}

// Queued implements [Store].
func (m *Memory) Queued(_ context.Context, tenant, client string, after int64, limit int) ([]StoredMessage, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := m.sessions[[2]string{tenant, client}]
	if s == nil {
		return nil, nil
	}
	i, _ := slices.BinarySearchFunc(s.queue, after+1, func(q StoredMessage, p int64) int { return int(q.Position - p) })
	return slices.Clone(s.queue[i:min(len(s.queue), i+limit)]), nil
}

// Sweep implements [Store].
func (m *Memory) Sweep(context.Context) error { return nil }
