package broker

import (
	"sync"
	"time"

	"hallmark/fleet"
)

// retained is the last retained message of each topic of a tenant.
type retained struct {
	mu sync.RWMutex
	trie[*kept]
	owners map[string]int // messages by certificate
	count  int
	bytes  int
}

// kept is one retained message and who left it: revocation takes it away (S25).
type kept struct {
	m           *message
	certificate string
	thing       fleet.ThingName
	at          time.Time
}

// put keeps a message, or forgets the topic's if the payload is empty
// [MQTT-3.3.1-10]. It gives the code of a refusal.
func (r *retained) put(b *Broker, m *message, from *Identity) byte {
	k := &kept{m: m, at: b.now()}
	if from != nil {
		k.certificate, k.thing = from.Certificate, from.Thing
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(m.payload) == 0 {
		r.dropLocked(b, m.topic)
		return 0
	}
	old := r.find(m.topic)
	bytes, count, own := r.bytes+m.size(), r.count+1, r.owners[k.certificate]+1
	if old != nil {
		bytes -= (*old).m.size()
		count--
		if (*old).certificate == k.certificate {
			own--
		}
	}
	l := &b.lim
	if from != nil && own > l.RetainedPerDevice || count > l.RetainedTopics || bytes > l.RetainedBytes {
		return codeQuota
	}
	r.dropLocked(b, m.topic)
	r.insert(b, k)
	return 0
}

// current is the change that gives the store what is kept for a topic now. Asked for
// in the journal's order, the store ends with what memory has.
func (r *retained) current(tenant, topic string) Change {
	r.mu.RLock()
	defer r.mu.RUnlock()
	k := r.find(topic)
	if k == nil {
		return EndRetained{tenant, topic}
	}
	return PutRetained{Tenant: tenant, Thing: string((*k).thing), Certificate: (*k).certificate, StoredAt: (*k).at, Message: (*k).m.stored()}
}

func (r *retained) insert(b *Broker, k *kept) {
	*r.at(k.m.topic) = k
	r.owners[k.certificate]++
	r.count++
	r.bytes += k.m.size()
	b.count.retained.Add(1)
	b.count.retainedBytes.Add(int64(k.m.size()))
}

func (r *retained) dropLocked(b *Broker, topic string) bool {
	old := r.find(topic)
	if old == nil {
		return false
	}
	k := *old
	r.remove(topic)
	if r.owners[k.certificate]--; r.owners[k.certificate] == 0 {
		delete(r.owners, k.certificate)
	}
	r.count--
	r.bytes -= k.m.size()
	b.count.retained.Add(-1)
	b.count.retainedBytes.Add(-int64(k.m.size()))
	return true
}

// matching gives the messages of the topics that a filter matches.
func (r *retained) matching(filter string) (out []*message) {
	r.mu.RLock()
	defer r.mu.RUnlock()
	r.topics(filter, func(k **kept) bool {
		out = append(out, (*k).m)
		return true
	})
	return out
}

// purge forgets what a device left, and gives the changes for the store: what is of a
// certificate and of a thing, each if it is given.
func (r *retained) purge(b *Broker, tenant, certificate string, thing fleet.ThingName) (changes []Change) {
	r.mu.Lock()
	defer r.mu.Unlock()
	left := r.count
	if certificate != "" {
		left = r.owners[certificate]
	}
	if left == 0 { // as with most of a fleet that is revoked
		return nil
	}
	var topics []string
	all := func(k **kept) bool {
		if certificate == "" || (*k).certificate == certificate {
			if left--; thing == "" || (*k).thing == thing {
				topics = append(topics, (*k).m.topic)
			}
		}
		return left > 0
	}
	r.all(&r.root, false, all)
	for _, t := range topics {
		r.dropLocked(b, t)
		changes = append(changes, EndRetained{tenant, t})
	}
	return changes
}

// sendRetained delivers what is retained to a new subscription.
func (b *Broker) sendRetained(c *conn, sub *subscription) {
	if b.lim.RetainedExactOnly && wild(sub.filter.filter) {
		return
	}
	s := c.session
	r := s.realm
	now := b.now()
	for _, m := range r.kept.matching(sub.filter.filter) {
		if m.expired(now) {
			b.count.expired.Add(1)
			continue
		}
		// The publisher's QoS still bounds it, and it is marked as retained [MQTT-3.3.1-8].
		t := sub.target(m)
		t.retain = true
		b.hand(r, m, []target{t}, &c.kicks, nil)
	}
}
