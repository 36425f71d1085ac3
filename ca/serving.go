package ca

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"hallmark/ca/profile"
)

// Serving declares which authorities issue what, and in which order they are
// asked: the first one that is open and whose key answers issues. An authority
// that no declaration names issues nothing.
type Serving struct {
	Tenant string `json:"tenant"`
	Name   string `json:"name"`
	// Serves is a profile, or a duty, which stands for its profiles that have no
	// declaration of their own.
	Serves string `json:"serves"`
	// Product and Region narrow it; "" is for all. Of the declarations that fit a
	// request the most particular one counts, see [served].
	Product     string   `json:"product,omitempty"`
	Region      string   `json:"region,omitempty"`
	Authorities []string `json:"authorities"` // none: as if it were not declared
	Version     int64    `json:"version"`
}

// Servings persists declarations. Contract: rows are protected against other
// writers, as is their number, so that none can be taken away (S32); the methods
// join the transaction of their context.
type Servings interface {
	// Servings gives those of all tenants, ordered by tenant and name.
	Servings(ctx context.Context) ([]Serving, error)
	// PutServing makes a declaration (was is 0), or replaces the one of that version.
	PutServing(ctx context.Context, s Serving, was int64) error
}

// maxServing bounds how many authorities a declaration names.
const maxServing = 8

// Check holds a declaration to the authorities that there are.
func (s *Serving) Check(all []Authority) error {
	duty, ok := dutyServed(s.Serves)
	if !ok {
		return ErrServing.New("%.40q is neither a profile nor a duty that issues.", s.Serves)
	}
	if len(s.Authorities) > maxServing {
		return ErrServing.New("It names more than %d authorities.", maxServing)
	}
	for _, v := range []string{s.Name, s.Product, s.Region} {
		if len(v) > 128 || strings.ContainsFunc(v, func(r rune) bool { return r < ' ' }) {
			return ErrServing.New("A name is longer than 128 octets, or has control characters.")
		}
	}
	for i, name := range s.Authorities {
		if slices.Contains(s.Authorities[:i], name) {
			return ErrServing.New("It names %s twice.", name)
		}
		at := slices.IndexFunc(all, func(a Authority) bool { return a.Name == name && a.Tenant == s.Tenant })
		switch {
		case at < 0:
			return ErrAuthorityUnknown.New("%.40s.", name)
		case all[at].Duty != duty:
			return ErrServing.New("%s has the duty %s, and %s takes one of the duty %s (S1).", name, all[at].Duty, s.Serves, duty)
		case all[at].State != StateActive:
			return ErrServing.New("%s is %s.", name, all[at].State)
		}
	}
	return nil
}

// dutyServed is the duty whose authorities serve a profile or duty.
func dutyServed(serves string) (profile.Duty, bool) {
	switch d := profile.Duty(serves); d {
	case profile.DutyDevice, profile.DutyInfrastructure:
		return d, true
	}
	p, ok := profile.Get(profile.Name(serves))
	return p.Issuer, ok && !p.CA && p.Issuer != "" && p.Issuer != profile.DutyRoot
}

// servingKey is what a declaration is about.
type servingKey struct{ tenant, serves, product, region string }

func (s *Serving) key() servingKey {
	return servingKey{s.Tenant, s.Serves, strings.ToLower(s.Product), strings.ToLower(s.Region)}
}

// serving is what is declared, joined with the loaded authorities.
type serving map[servingKey][]*authority

// joinServing makes the table that decisions are read from.
func joinServing(rows []Serving, auth map[string]*authority) serving {
	out := serving{}
	for i := range rows {
		var list []*authority
		for _, name := range rows[i].Authorities {
			if a := auth[name]; a != nil && a.Tenant == rows[i].Tenant {
				list = append(list, a)
			}
		}
		if len(rows[i].Authorities) > 0 { // also if none of them is loaded: nobody else steps in
			out[rows[i].key()] = list
		}
	}
	return out
}

// served gives the authorities for a request. The order of the look-ups is the
// order of particularity: the profile before its duty, and under each the product
// before the region.
func (m serving) served(tenant string, p profile.Profile, product, region string) []*authority {
	product, region = strings.ToLower(product), strings.ToLower(region)
	for _, serves := range [2]string{string(p.Name), string(p.Issuer)} {
		for _, k := range [4]servingKey{{tenant, serves, product, region}, {tenant, serves, product, ""}, {tenant, serves, "", region}, {tenant, serves, "", ""}} {
			if list, ok := m[k]; ok {
				return list
			}
		}
	}
	return nil
}

// names tells whether any declaration lets an authority issue a profile.
func (m serving) names(a *authority, p profile.Profile) bool {
	for k, list := range m {
		if k.tenant == a.Tenant && (k.serves == string(p.Name) || k.serves == string(p.Issuer)) && slices.Contains(list, a) {
			return true
		}
	}
	return false
}

// choices are the authorities that may make a certificate, in their order.
func (c *CA) choices(tenant string, p profile.Profile, r *Request) ([]*authority, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if r.Authority == "" {
		list := c.serving.served(tenant, p, r.Product, r.Region)
		if len(list) == 0 {
			return nil, ErrNoAuthority.New("No authority is declared for %s.", p.Name).After(time.Minute)
		}
		return list, nil
	}
	a := c.auth[r.Authority]
	switch {
	case a == nil || a.Tenant != tenant:
		return nil, ErrAuthorityUnknown.New("%s.", r.Authority)
	case a.templates[p.Name] == nil:
		return nil, ErrNoAuthority.New("%s has the duty %s and does not issue %s certificates (S1).", a.Name, a.Duty, p.Name)
	case p.Issuer != "" && !c.serving.names(a, p): // its responder every authority has of its own
		return nil, ErrNoAuthority.New("%s is not declared for %s.", a.Name, p.Name)
	}
	return []*authority{a}, nil
}

// choose picks the first that is open. Those whose key failed a moment ago come
// last, so that the others do not wait for it.
func choose(list []*authority, p profile.Profile, now time.Time) (*authority, error) {
	var late *authority
	var closed error
	for _, a := range list {
		err := a.open(p, now)
		switch {
		case err != nil && closed == nil:
			closed = err
		case err != nil:
		case !a.resting(now):
			return a, nil
		case late == nil:
			late = a
		}
	}
	switch {
	case late != nil:
		return late, nil
	case closed != nil && len(list) == 1:
		return nil, closed
	}
	return nil, ErrNoAuthority.New("None of the %d that are declared for %s issues now.", len(list), p.Name).After(time.Minute)
}

// another picks one whose key is not known to be away: with none that is better,
// moving on would only spend serial numbers.
func another(list []*authority, than string, p profile.Profile, now time.Time) *authority {
	for _, a := range list {
		if a.Name != than && a.open(p, now) == nil && !a.resting(now) {
			return a
		}
	}
	return nil
}

// How long an authority rests whose key did not answer: the first time, and at
// most. Each try costs a serial number, which is voided.
const (
	restFirst = 2 * time.Second
	restMost  = time.Minute
)

// resting tells whether the key failed a moment ago. Of those who ask after that
// time one tries the key again, the others still pass it by.
func (l *authority) resting(now time.Time) bool {
	until := l.rest.until.Load()
	if now.UnixNano() < until {
		return true
	}
	return until != 0 && !l.rest.until.CompareAndSwap(until, now.Add(restFirst).UnixNano())
}

// failed notes that the key did not answer; answered that it does.
func (l *authority) failed(now time.Time) {
	d := min(restFirst<<min(l.rest.times.Add(1)-1, 5), restMost)
	l.rest.until.Store(now.Add(d).UnixNano())
}

func (l *authority) answered() {
	if l.rest.times.Load() != 0 {
		l.rest.times.Store(0)
		l.rest.until.Store(0)
	}
}

// Declared is a declaration as it works now.
type Declared struct {
	Serving
	// Next is who would issue now, "" if nobody.
	Next string
}

// Servings lists the declarations with who would issue by each of them now.
func (c *CA) Servings() []Declared {
	c.mu.RLock()
	defer c.mu.RUnlock()
	now := c.now()
	out := make([]Declared, 0, len(c.declared))
	for _, s := range c.declared {
		d := Declared{Serving: s}
		for _, a := range c.serving[s.key()] {
			if a.open(profile.Profile{}, now) == nil && now.UnixNano() >= a.rest.until.Load() {
				d.Next = a.Name
				break
			}
		}
		out = append(out, d)
	}
	return out
}

// String names a declaration for people.
func (s *Serving) String() string {
	out := s.Serves
	if s.Product != "" {
		out += fmt.Sprintf(", product %s", s.Product)
	}
	if s.Region != "" {
		out += fmt.Sprintf(", region %s", s.Region)
	}
	return out
}
