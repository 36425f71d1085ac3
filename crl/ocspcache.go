package crl

import (
	"sync"
	"time"

	"hallmark/ca"
)

// cached is a kept answer; it is signed anew from renew on.
type cached struct {
	answer
	status statusKind
	renew  time.Time
}

// answers is a bounded cache in two halves: when the young half is full it
// becomes the old one, and what nobody asks for is gone after the next turn.
type answers struct {
	mu         sync.Mutex
	half       int
	young, old map[string]cached
	keys       map[ca.Serial][]string // to forget by serial number
	oldKeys    map[ca.Serial][]string
	gen        uint64
}

func (c *answers) init(size int) {
	c.half = max(size/2, 1)
	c.young, c.old = map[string]cached{}, map[string]cached{}
	c.keys, c.oldKeys = map[ca.Serial][]string{}, map[ca.Serial][]string{}
}

// generation rises with every change of a status. An answer that was composed
// before a change is not kept after it.
func (c *answers) generation() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.gen
}

func (c *answers) get(key []byte, now time.Time) (cached, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	a, ok := c.young[string(key)]
	if !ok {
		a, ok = c.old[string(key)]
	}
	return a, ok && now.Before(a.renew)
}

func (c *answers) put(key string, a cached, serial ca.Serial, generation uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gen != generation {
		return
	}
	if len(c.young) >= c.half {
		c.old, c.oldKeys = c.young, c.keys
		c.young, c.keys = make(map[string]cached, c.half), make(map[ca.Serial][]string, c.half)
	}
	if _, ok := c.young[key]; !ok {
		c.keys[serial] = append(c.keys[serial], key)
	}
	c.young[key] = a
}

// due gives the keys of answers that have to be signed anew before a time, and of
// those only what was asked for or put here since the last turn.
func (c *answers) due(before time.Time) (keys []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for k, a := range c.young {
		if a.renew.Before(before) {
			keys = append(keys, k)
		}
	}
	return keys
}

func (c *answers) forget(serial ca.Serial) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gen++
	for _, k := range c.keys[serial] {
		delete(c.young, k)
	}
	for _, k := range c.oldKeys[serial] {
		delete(c.old, k)
	}
	delete(c.keys, serial)
	delete(c.oldKeys, serial)
}

// forgetAll is for a change about a whole authority.
func (c *answers) forgetAll() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.gen++
	clear(c.young)
	clear(c.old)
	clear(c.keys)
	clear(c.oldKeys)
}

// bucket limits signatures a second.
type bucket struct {
	mu     sync.Mutex
	rate   float64
	tokens float64
	last   time.Time
}

func (b *bucket) take(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.last.IsZero() && now.After(b.last) {
		b.tokens = min(b.tokens+now.Sub(b.last).Seconds()*b.rate, b.rate)
	}
	b.last = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}
