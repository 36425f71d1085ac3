package presence

import (
	"context"
	"time"
)

// Use is when a certificate was last used in a request over HTTPS. A request is no
// connection: it begins nothing that ends, has no client, and is in no query.
type Use struct {
	Tenant      string
	Certificate string
	At          time.Time
}

// UseEvery is how often a certificate's use is written.
const UseEvery = time.Minute

// Recent is how long after a request over HTTPS its device counts as being there: it has
// no connection that would end, and asks once in so long. It is twice the time in which
// the reference agent does (RunConfig.Poll).
const Recent = time.Hour

// There tells whether the device of a state is there now: connected, or heard of over
// HTTPS a short while ago.
func (s *State) There(now time.Time) bool {
	return s.Connected || s.Client == "" && s.At.After(now.Add(-Recent))
}

// uses is what is known of requests: what is to be written, and what was written in
// the last minute, in two halves so that the older one goes at once.
type uses struct {
	waiting    map[useKey]time.Time
	young, old map[string]time.Time // by certificate
	turned     time.Time            // when old was young
}

type useKey struct{ tenant, certificate string }

// fresh tells whether a certificate's use was noted within [UseEvery].
func (u *uses) fresh(certificate string, now time.Time) bool {
	if d := now.Sub(u.turned); d >= UseEvery || d < 0 {
		u.young, u.old, u.turned = map[string]time.Time{}, u.young, now
	}
	for _, m := range []map[string]time.Time{u.young, u.old} {
		if at, ok := m[certificate]; ok && now.Sub(at) < UseEvery && !now.Before(at) {
			return true
		}
	}
	return false
}

func (u *uses) note(tenant, certificate string, now time.Time) {
	if u.waiting == nil {
		u.waiting = map[useKey]time.Time{}
	}
	u.waiting[useKey{tenant, certificate}], u.young[certificate] = now, now
}

// Used notes that a certificate was used over HTTPS, once within [UseEvery]; it is
// written with what else was heard. whose tells its tenant, or "" for one that was not
// let in, and is asked only when there is something to note.
func (s *Service) Used(certificate string, whose func() string) {
	now := s.now()
	s.mu.Lock()
	fresh := s.uses.fresh(certificate, now)
	s.mu.Unlock()
	if fresh {
		return
	}
	tenant := whose()
	if tenant == "" {
		return
	}
	s.mu.Lock()
	if !s.uses.fresh(certificate, now) {
		s.uses.note(tenant, certificate, now)
	}
	s.mu.Unlock()
	s.poke()
}

// flushUses writes what was used since.
func (s *Service) flushUses(ctx context.Context) error {
	s.mu.Lock()
	waiting := s.uses.waiting
	s.uses.waiting = nil
	s.mu.Unlock()
	list := make([]Use, 0, len(waiting))
	for k, at := range waiting {
		list = append(list, Use{k.tenant, k.certificate, at})
	}
	return s.gently(ctx, len(list), func(from, to int) error {
		err := s.cfg.Store.PutUses(ctx, list[from:to])
		if err != nil {
			s.againUses(list[from:])
		}
		return err
	})
}

// againUses keeps what was not written, unless something newer came meanwhile.
func (s *Service) againUses(list []Use) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.uses.waiting == nil {
		s.uses.waiting = map[useKey]time.Time{}
	}
	for _, u := range list {
		k := useKey{u.Tenant, u.Certificate}
		if at, ok := s.uses.waiting[k]; !ok || at.Before(u.At) {
			s.uses.waiting[k] = u.At
		}
	}
}
