package bootstrap

import (
	"sync"
	"time"
)

// pace bounds the enrolments of one protocol a minute, and the refused ones of one
// address, on this node.
type pace struct {
	most int

	mu      sync.Mutex
	minute  time.Time
	count   int
	refused map[string]int // in this minute, by address
}

// Limits on refused requests.
const (
	maxRefused   = 20     // of one address in a minute
	maxAddresses = 10_000 // remembered; an attacker with many addresses gets no memory
)

// turn starts a new minute if it is time.
func (p *pace) turn(now time.Time) {
	if now.Sub(p.minute) >= time.Minute || now.Before(p.minute) {
		p.minute, p.count, p.refused = now, 0, nil
	}
}

func (p *pace) take(now time.Time) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.turn(now)
	if p.count >= p.most {
		return ErrEnrolRate.New("%d a minute are allowed.", p.most).After(p.minute.Add(time.Minute).Sub(now))
	}
	p.count++
	return nil
}

// Blocked refuses an address that was refused too often in this minute (S17).
func (e *Enroller) Blocked(address string) error {
	now := e.now()
	p := &e.pace
	p.mu.Lock()
	defer p.mu.Unlock()
	p.turn(now)
	if p.refused[address] < maxRefused {
		return nil
	}
	return ErrEnrolRate.New("").After(p.minute.Add(time.Minute).Sub(now))
}

// Refused notes that an address showed a credential that was refused.
func (e *Enroller) Refused(address string) {
	p := &e.pace
	p.mu.Lock()
	defer p.mu.Unlock()
	p.turn(e.now())
	if p.refused == nil || len(p.refused) >= maxAddresses {
		p.refused = map[string]int{}
	}
	p.refused[address]++
}
