package broker

import (
	"sync"
	"time"
)

// Limits are the broker's limits, with their defaults.
func (b *Broker) Limits() Limits { return b.lim }

// Pacer holds devices that have no connection to the rates that one connection
// has (S41): [Limits.PublishRate] requests and [Limits.PublishBytes] a second,
// with a burst of one second. A connection is paced by not being read; a request
// has to be refused. It is safe for concurrent use.
type Pacer struct {
	requests, octets float64
	now              func() time.Time

	mu sync.Mutex
	m  map[string]allowance
}

type allowance struct {
	requests, octets float64
	at               time.Time
}

// maxPaced is how many devices a Pacer remembers before it forgets those that are
// back at their full allowance: some 10 MB.
const maxPaced = 100_000

// unpaced is a rate that nothing reaches.
const unpaced = 1e15

// NewPacer makes a Pacer by the broker's limits.
func (b *Broker) NewPacer() *Pacer {
	rate := func(n int) float64 {
		if n < 0 {
			return unpaced
		}
		return float64(n)
	}
	return &Pacer{requests: rate(b.lim.PublishRate), octets: rate(b.lim.PublishBytes), now: wall, m: map[string]allowance{}}
}

// Take counts one request of a device. A positive answer is a refusal, and how
// long to wait. What is refused is not counted, so that who waits gets through.
func (p *Pacer) Take(device string, octets int) time.Duration {
	now := p.now()
	p.mu.Lock()
	defer p.mu.Unlock()
	a, known := p.m[device]
	if !known {
		a = allowance{p.requests, p.octets, now}
		p.sweep(now)
	}
	past := max(0, now.Sub(a.at).Seconds())
	a.requests, a.octets, a.at = min(a.requests+past*p.requests, p.requests), min(a.octets+past*p.octets, p.octets), now
	// One payload may be larger than what is left: it is owed.
	if wait := max(1-a.requests, 0)/p.requests + max(-a.octets, 0)/p.octets; wait > 0 {
		p.m[device] = a
		return max(time.Duration(wait*float64(time.Second)), time.Millisecond)
	}
	a.requests--
	a.octets -= float64(octets)
	p.m[device] = a
	return 0
}

// sweep forgets devices that have their full allowance again: after a second for
// most, and all at once only if an attacker had that many certificates.
func (p *Pacer) sweep(now time.Time) {
	if len(p.m) < maxPaced {
		return
	}
	for d, a := range p.m {
		if now.Sub(a.at) > time.Second && a.octets >= 0 {
			delete(p.m, d)
		}
	}
	if len(p.m) >= maxPaced {
		clear(p.m)
	}
}
