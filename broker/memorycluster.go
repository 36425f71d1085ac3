package broker

import (
	"context"
	"maps"
	"slices"
)

var _ ClusterStore = (*Memory)(nil)

// Join implements [ClusterStore].
func (m *Memory) Join(_ context.Context, self Member) ([]StoredSession, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	maps.DeleteFunc(m.members, func(_ string, x Member) bool { return x.Name == self.Name })
	m.members[self.Node] = self
	return m.some(func(s *Session) bool {
		_, known := m.members[s.Node]
		if !known {
			s.Node = self.Node
		}
		return !known
	}), nil
}

// Members implements [ClusterStore].
func (m *Memory) Members(context.Context) ([]Member, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Values(m.members)), nil
}

// Fence implements [ClusterStore].
func (m *Memory) Fence(_ context.Context, dead Member, heir string) ([]StoredSession, bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, known := m.members[heir]; !known {
		return nil, false, ErrFenced.New("")
	}
	if x, known := m.members[dead.Node]; !known || x.Beat != dead.Beat {
		return nil, false, nil
	}
	delete(m.members, dead.Node)
	return m.some(func(s *Session) bool {
		his := s.Node == dead.Node
		if his {
			s.Node = heir
		}
		return his
	}), true, nil
}

// Leave implements [ClusterStore].
func (m *Memory) Leave(_ context.Context, node string) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if x, known := m.members[node]; known {
		x.Beat = Left
		m.members[node] = x
	}
	return nil
}

// Take implements [ClusterStore].
func (m *Memory) Take(_ context.Context, tenant, client, from, to string) (*StoredSession, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if _, known := m.members[to]; !known {
		return nil, ErrFenced.New("")
	}
	elsewhere := false
	list := m.some(func(s *Session) bool {
		if s.Tenant != tenant || s.Client != client {
			return false
		}
		if s.Node != from && s.Node != to {
			elsewhere = true
			return false
		}
		s.Node = to
		return true
	})
	switch {
	case elsewhere:
		return nil, ErrElsewhere.New("")
	case len(list) == 0:
		return nil, nil
	}
	return &list[0], nil
}

// RetainedAt implements [ClusterStore].
func (m *Memory) RetainedAt(_ context.Context, tenant, topic string) (*PutRetained, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if r, ok := m.retained[[2]string{tenant, topic}]; ok {
		return &r, nil
	}
	return nil, nil
}
