package broker

// Connected calls fn for every connection that is open now, in no order, outside
// all locks: whoever compares connections with what should be uses it.
func (b *Broker) Connected(fn func(id *Identity, client string)) {
	type open struct {
		id     *Identity
		client string
	}
	for _, r := range b.realmsOf("") {
		var live []open
		r.mu.Lock()
		for _, s := range r.sessions {
			if c := s.owner; c != nil && c.id != nil {
				live = append(live, open{c.id, s.client})
			}
		}
		r.mu.Unlock()
		for _, o := range live {
			fn(o.id, o.client)
		}
	}
}
