package crl

import (
	"context"
	"slices"
	"sort"
	"sync"
	"time"

	"hallmark/access"
	"hallmark/ca"
)

// openFor is how long the plans that are under way are believed.
const openFor = 30 * time.Second

// openPlans are the plans of each tenant whose stage rotate a second person approved,
// and which did not end.
type openPlans struct {
	mu    sync.Mutex
	plans map[string][]BlastPlan
	at    map[string]time.Time
}

// Rotating tells since when a second person's decision stands to give the device of a
// certificate a new one; zero if there is none. Devices ask it through their renewal
// windows, so a plan is looked up in seconds' old memory, and a member by halving.
func (b *Blast) Rotating(ctx context.Context, s access.Scope, authority string, serial ca.Serial) (since time.Time, err error) {
	plans, err := b.rotating(ctx, s)
	if err != nil || len(plans) == 0 {
		return time.Time{}, err
	}
	story, err := b.cfg.Store.Story(ctx, s.Tenant, authority, serial)
	if err != nil {
		return time.Time{}, err
	}
	for i := range plans {
		p := &plans[i]
		covered, err := b.covers(ctx, p, &story)
		if err != nil {
			return time.Time{}, err
		}
		if at := p.Progress.Approvals[StageRotate].At; covered && (since.IsZero() || at.Before(since)) {
			since = at
		}
	}
	return since, nil
}

func (b *Blast) rotating(ctx context.Context, s access.Scope) (out []BlastPlan, err error) {
	now := b.now()
	b.open.mu.Lock()
	out, at := b.open.plans[s.Tenant], b.open.at[s.Tenant]
	b.open.mu.Unlock()
	if d := now.Sub(at); !at.IsZero() && d < openFor && d >= 0 {
		return out, nil
	}
	out = nil
	const page = 100
	for before := ""; ; {
		list, err := b.cfg.Store.Blasts(ctx, s, before, page)
		if err != nil {
			return nil, err
		}
		for i := range list {
			p := &list[i]
			before = p.ID
			if _, approved := p.Progress.Approvals[StageRotate]; approved && p.Rotate != nil && p.State != BlastDone && p.State != BlastAborted {
				out = append(out, *p)
			}
		}
		if len(list) < page {
			break
		}
	}
	b.open.mu.Lock()
	if b.open.plans == nil {
		b.open.plans, b.open.at = map[string][]BlastPlan{}, map[string]time.Time{}
	}
	b.open.plans[s.Tenant], b.open.at[s.Tenant] = out, now
	b.open.mu.Unlock()
	return out, nil
}

// covers tells whether a certificate is a member of a plan, whose members are in the
// order of their reservations.
func (b *Blast) covers(ctx context.Context, p *BlastPlan, s *Story) (bool, error) {
	if !slices.Contains(p.Authorities, s.Authority) || s.ID > p.Last {
		return false, nil
	}
	var err error
	member := func(i int) (m BlastMember) {
		if err != nil {
			return m
		}
		list, lerr := b.cfg.Store.BlastMembers(ctx, p, int64(i), 1)
		if err = lerr; err == nil && len(list) == 1 {
			m = list[0]
		}
		return m
	}
	n := int(p.Counts.Certificates)
	i := sort.Search(n, func(i int) bool { return member(i).ID >= s.ID })
	if err != nil || i == n {
		return false, err
	}
	m := member(i)
	return m.ID == s.ID && m.Serial == s.Serial, err
}
