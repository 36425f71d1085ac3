package main

import (
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"hallmark/broker"
)

// sharing notices that one device's certificate is on two connections at once, or
// that two of them take the session from each other: somebody has a copy of the key
// (A47). It looks at the connections of this node; a claim certificate is built into
// many devices and is no concern.
type sharing struct {
	log   *slog.Logger
	now   func() time.Time
	total atomic.Int64 // alarms

	mu    sync.Mutex
	live  map[string]map[string]liveClient // certificate → session
	taken map[[2]string]string             // certificate and address that lost its session → to which address
	lost  map[string]liveClient            // certificate → that lost its session just now
	said  map[string]time.Time
}

type liveClient struct{ client, address string }

const (
	sharedAgain = time.Hour // a certificate that was named is not named again before
	maxShared   = 10_000    // of each map that nothing else bounds
)

func newSharing(log *slog.Logger, now func() time.Time) *sharing {
	return &sharing{log: log, now: now, live: map[string]map[string]liveClient{}, taken: map[[2]string]string{}, lost: map[string]liveClient{}, said: map[string]time.Time{}}
}

func (s *sharing) connected(ev *broker.Event) {
	if ev.Certificate == "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	is := liveClient{ev.Client, ev.Address.Addr().Unmap().String()}
	// 1. Two at once, under two identifiers.
	all := s.live[ev.Certificate]
	if all == nil {
		all = map[string]liveClient{}
		s.live[ev.Certificate] = all
	}
	all[ev.Session] = is
	for session, other := range all {
		if session != ev.Session {
			s.alarm(ev, "two connections", is, other)
			break
		}
	}
	// 2. One session that goes to and fro. A device that moves takes its session
	// over from where it was; one that was taken from and comes back is not alone.
	if by, ok := s.taken[[2]string{ev.Certificate, is.address}]; ok && by != is.address {
		s.alarm(ev, "a session goes to and fro", is, liveClient{ev.Client, by})
	}
	if was, ok := s.lost[ev.Certificate]; ok && was.client == is.client && was.address != is.address {
		if len(s.taken) >= maxShared {
			clear(s.taken)
		}
		s.taken[[2]string{ev.Certificate, was.address}] = is.address
	}
	delete(s.lost, ev.Certificate)
}

func (s *sharing) disconnected(ev *broker.Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	all := s.live[ev.Certificate]
	was, ok := all[ev.Session]
	if delete(all, ev.Session); len(all) == 0 {
		delete(s.live, ev.Certificate)
	}
	if ok && ev.Reason == broker.DuplicateClient {
		if len(s.lost) >= maxShared {
			clear(s.lost)
		}
		s.lost[ev.Certificate] = was
	}
}

// alarm says so once an hour for each certificate.
func (s *sharing) alarm(ev *broker.Event, how string, is, other liveClient) {
	now := s.now()
	if at, ok := s.said[ev.Certificate]; ok && now.Sub(at) < sharedAgain {
		return
	}
	if len(s.said) >= maxShared {
		clear(s.said)
	}
	s.said[ev.Certificate] = now
	s.total.Add(1)
	s.log.Warn("one certificate is on two connections; its key may have been copied", "how", how, "tenant", ev.Tenant, "thing", string(ev.Thing), "certificate", ev.Certificate,
		"client", is.client, "address", is.address, "other_client", other.client, "other_address", other.address)
}
