package main

import (
	"context"
	"errors"
	"sync"
	"time"

	"hallmark/access"
	"hallmark/broker"
	"hallmark/fleet"
	"hallmark/fleet/registry"
)

// lapses are certificates that something was changed about and that the broker
// has not been asked about yet. The registry says so after each commit of any
// node; a service that dies in between has no connection left to close, and the
// door refuses what is not ACTIVE when the device comes back.
type lapses struct {
	mu   sync.Mutex
	open map[lapsed]bool
	wake chan struct{}
}

type lapsed struct{ tenant, certificate string }

func (l *lapses) init() { l.open, l.wake = map[lapsed]bool{}, make(chan struct{}, 1) }

// note hears of every change in the registry. It must not wait.
func (l *lapses) note(c registry.Change) {
	if c.Certificate != "" {
		l.put(lapsed{c.Tenant, c.Certificate})
	}
}

func (l *lapses) put(c lapsed) {
	l.mu.Lock()
	l.open[c] = true
	l.mu.Unlock()
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

func (l *lapses) take() map[lapsed]bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	out := l.open
	l.open = map[lapsed]bool{}
	return out
}

// endLapsed closes the connections of certificates that are not ACTIVE any more,
// until ctx ends.
func (r *fleetRuntime) endLapsed(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.lapses.wake:
		}
		for c := range r.lapses.take() {
			err := r.endIfLapsed(ctx, c)
			if err == nil || ctx.Err() != nil {
				continue
			}
			r.log.ErrorContext(ctx, "a certificate was changed, and whether its connections have to end is not known yet", "certificate", c.certificate, "error", err)
			time.AfterFunc(time.Second, func() { r.lapses.put(c) })
		}
	}
}

// lookAtLeft has campaigns look at once at devices of which a certificate was revoked or
// switched off, until ctx ends. It does not hold up who closes connections; and what fails or
// is lost costs time alone: a campaign looks at every device again.
func (r *fleetRuntime) lookAtLeft(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.left.wake:
		}
		byTenant := map[string][]fleet.ThingName{}
		for c := range r.left.take() {
			things, err := r.registry.CertificateThings(ctx, access.Scope{Tenant: c.tenant}, c.certificate)
			if err != nil {
				r.log.WarnContext(ctx, "campaigns were not told of a certificate that was changed; they find it later", "certificate", c.certificate, "error", err)
			}
			for i := range things {
				byTenant[c.tenant] = append(byTenant[c.tenant], things[i].Thing)
			}
		}
		for tenant, things := range byTenant {
			if err := r.campaigns.LookSoon(ctx, tenant, things...); err != nil && ctx.Err() == nil {
				r.log.WarnContext(ctx, "campaigns were not told of devices that left; they find it later", "tenant", tenant, "error", err)
			}
		}
	}
}

// endIfLapsed looks at one certificate. INACTIVE is for now: the session waits for
// the certificate to be ACTIVE again. What is gone for good leaves nothing (S25).
// Of what was issued here revocation and hold tell the broker themselves.
func (r *fleetRuntime) endIfLapsed(ctx context.Context, c lapsed) error {
	cert, err := r.registry.Certificate(ctx, access.Scope{Tenant: c.tenant}, c.certificate)
	cause := broker.Asked
	switch {
	case errors.Is(err, registry.ErrCertificateUnknown):
		cause = broker.Withdrawn // deleted, or another tenant's now
	case err != nil:
		return err
	case cert.Status == fleet.Active:
		return nil
	case cert.Status == fleet.Revoked || cert.Status == fleet.PendingTransfer:
		cause = broker.Withdrawn
	}
	if cert.Status == fleet.Revoked || cert.Status == fleet.Inactive {
		r.left.put(c)
	}
	_, err = r.broker.Drop(ctx, broker.Selection{Tenant: c.tenant, Certificate: c.certificate}, cause, true)
	return err
}
