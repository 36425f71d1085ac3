package broker

import (
	"context"
	"time"

	"hallmark/fleet"
)

// restore reads what the store kept. A session that was connected when the service
// ended is treated as disconnected now.
func (b *Broker) restore(ctx context.Context) error {
	now := b.now()
	var rows []Change
	err := b.cfg.Store.Sessions(ctx, func(row StoredSession) error {
		s, changed, err := b.restoreSession(row, now)
		if err != nil {
			return err
		}
		if changed {
			rows = append(rows, s.row(false))
		}
		return nil
	})
	if err != nil {
		return err
	}
	if len(rows) > 0 {
		b.journal.later(rows...)
	}
	return b.restoreRetained(ctx)
}

func (b *Broker) restoreRetained(ctx context.Context) error {
	return b.cfg.Store.Retained(ctx, func(p PutRetained) error {
		b.realm(p.Tenant).kept.replace(b, p.Topic, &p)
		return nil
	})
}

func restored(p *PutRetained) *kept {
	m := fromStored(p.Message)
	m.retain = true
	return &kept{m: m, certificate: p.Certificate, thing: fleet.ThingName(p.Thing), at: p.StoredAt}
}

func (b *Broker) restoreSession(row StoredSession, now time.Time) (*session, bool, error) {
	r := b.realm(row.Tenant)
	s := newSession(r, row.Client, row.Client)
	s.identity = &Identity{Tenant: row.Tenant, Thing: fleet.ThingName(row.Thing), Certificate: row.Certificate}
	s.version, s.expiry, s.endsAt, s.willAt = row.Version, row.Expiry, row.ExpiresAt, row.WillAt
	w, err := decodeWill(row.Will, row.Client)
	if err != nil {
		b.log.WarnContext(b.ctx, "stored will not readable", "client", row.Client, "err", err)
	}
	s.will = w
	d := &durable{sentUpTo: row.SentUpTo}
	s.position = max(now.UnixMicro(), row.SentUpTo)
	for i, q := range row.Waiting {
		if i == 0 {
			d.ackedUpTo, s.position = q.First-1, q.Last
		}
		d.ackedUpTo, s.position = min(d.ackedUpTo, q.First-1), max(s.position, q.Last)
		d.messages += q.Messages
		d.bytes += q.Bytes
		if q.Publisher != "" {
			if d.share == nil {
				d.share = map[string]int{}
			}
			d.share[q.Publisher] = q.Messages
		}
	}
	if len(row.Waiting) == 0 {
		d.ackedUpTo = s.position
	}
	d.loaded, d.last = d.ackedUpTo, s.position
	s.durable = d
	s.lasting.Store(true)
	for _, id := range row.Received {
		if s.received == nil {
			s.received = map[uint16]struct{}{}
		}
		s.received[id] = struct{}{}
	}
	changed := row.Connected || s.endsAt.IsZero()
	if changed {
		s.endsAt = now.Add(s.expiry)
		if s.will != nil {
			s.willAt = now.Add(max(s.will.delay, b.lim.RestartGrace))
		}
		// What of the window had been sent is not known.
		d.sentUpTo = max(d.sentUpTo, d.ackedUpTo+int64(b.lim.Inflight))
	}
	r.sessions[row.Client] = s
	r.enter(s)
	b.count.sessions.Add(1)
	// Last, since messages come as soon as there is a subscription.
	for _, p := range row.Subscriptions {
		f, ok := b.lim.parseFilter(p.Filter)
		if !ok {
			continue // a limit is stricter than when it was made
		}
		sub := &subscription{session: s, filter: f, qos: p.QoS, noLocal: p.NoLocal, asPublished: p.AsPublished, handling: p.Handling, id: p.ID}
		s.mu.Lock()
		s.subs[p.Filter] = sub
		s.mu.Unlock()
		r.tree.add(sub, nil)
		b.count.subscriptions.Add(1)
	}
	if s.will != nil {
		b.schedule.at(s.willAt, s)
	}
	b.schedule.at(s.endsAt, s)
	return s, changed, nil
}
