package broker

import (
	"net"
	"net/netip"
	"sync"
	"time"
)

// admission counts connections that have not proven anything yet (S41, A68).
type admission struct {
	mu      sync.Mutex
	pending map[netip.Prefix]int
	tokens  float64
	last    time.Time
}

// enter takes a place of an address: false if it has too many unfinished.
func (a *admission) enter(p netip.Prefix, limit int) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	if limit > 0 && a.pending[p] >= limit {
		return false
	}
	a.pending[p]++
	return true
}

func (a *admission) leave(p netip.Prefix) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.pending[p]--; a.pending[p] <= 0 {
		delete(a.pending, p)
	}
}

// wait is how long the next accept has to wait.
func (a *admission) wait(rate int) time.Duration {
	if rate < 0 {
		return 0
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	now := wall()
	if a.last.IsZero() {
		a.tokens = float64(rate)
	} else {
		a.tokens = min(a.tokens+now.Sub(a.last).Seconds()*float64(rate), float64(rate))
	}
	a.last = now
	a.tokens--
	if a.tokens >= 0 {
		return 0
	}
	return time.Duration(-a.tokens / float64(rate) * float64(time.Second))
}

// addressOf gives a peer's address and what counts as one: an IPv4 address or an
// IPv6 /64.
func addressOf(a net.Addr) (netip.AddrPort, netip.Prefix) {
	var ap netip.AddrPort
	if t, ok := a.(*net.TCPAddr); ok {
		ap = t.AddrPort()
	} else if a != nil {
		ap, _ = netip.ParseAddrPort(a.String())
	}
	ip := ap.Addr().Unmap()
	bits := 64
	if ip.Is4() {
		bits = 32
	}
	p, _ := ip.Prefix(bits)
	return netip.AddrPortFrom(ip, ap.Port()), p
}

// pace holds a connection to its rates. Reading waits, so that nothing is lost
// and TCP slows the device down.
type pace struct {
	publishes, octets, subscribes bucket
}

type bucket struct {
	rate   float64 // a second, also the burst; 0 = unlimited
	tokens float64
	last   time.Time
}

func newBucket(rate int) bucket {
	if rate < 0 {
		return bucket{}
	}
	return bucket{rate: float64(rate), tokens: float64(rate)}
}

func (b *Broker) newPace() pace {
	return pace{newBucket(b.lim.PublishRate), newBucket(b.lim.PublishBytes), newBucket(b.lim.SubscribeRate)}
}

// take gives how long n tokens have to be waited for.
func (b *bucket) take(n float64) time.Duration {
	if b.rate == 0 {
		return 0
	}
	if b.tokens < n { // the clock is asked only when the tokens of the last time are used
		now := wall()
		if b.last.IsZero() {
			b.last = now
		}
		b.tokens = min(b.tokens+now.Sub(b.last).Seconds()*b.rate, b.rate)
		b.last = now
	}
	b.tokens -= n
	if b.tokens >= 0 {
		return 0
	}
	return time.Duration(-b.tokens / b.rate * float64(time.Second))
}

func (p *pace) publish(c *conn, octets int) error {
	return c.pause(max(p.publishes.take(1), p.octets.take(float64(octets))))
}

func (p *pace) subscribe(c *conn) error { return c.pause(p.subscribes.take(1)) }

// pause waits, with everything written that was decided so far.
func (c *conn) pause(d time.Duration) error {
	if d < time.Millisecond {
		return nil
	}
	c.kicks.flush()
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-c.closed:
		return c.ended.Load()
	}
}
