package main

import (
	"context"
	"sync/atomic"
	"time"

	"hallmark/broker"
	"hallmark/ca"
	"hallmark/crl"
)

// stillConnected compares open connections with the revoked set, on a timer and
// not by the news that normally ends them: where that news got lost, the number is
// not 0, and the connection ends all the same.
type stillConnected struct {
	connected func(func(id *broker.Identity, client string))
	revoked   func(authority string, serial ca.Serial) (crl.Reason, time.Time, bool)
	drop      func(ctx context.Context, sel broker.Selection, cause broker.Cause, noWill bool) (int, error)

	now   atomic.Int64            // revoked or held, and connected
	found map[[2]string]time.Time // since when, by authority and serial number
}

// revokedPatience is how long a revoked device may still be there before this
// ends its connection: the news takes less.
const revokedPatience = 2 * time.Second

// look compares once.
func (w *stillConnected) look(ctx context.Context, at time.Time) (late []broker.Selection) {
	seen := map[[2]string]time.Time{}
	var n int64
	w.connected(func(id *broker.Identity, _ string) {
		serial, err := ca.ParseSerial(id.Serial)
		if id.Authority == "" || err != nil {
			return // not ours: the registry's status ends it
		}
		reason, _, revoked := w.revoked(id.Authority, serial)
		if !revoked {
			return
		}
		n++
		key := [2]string{id.Authority, id.Serial}
		since, known := w.found[key]
		if !known {
			since = at
		}
		seen[key] = since
		if at.Sub(since) < revokedPatience {
			return
		}
		sel, cause := broker.Selection{Authority: id.Authority, Serial: id.Serial}, broker.Withdrawn
		if reason == crl.CertificateHold {
			cause = broker.Asked
		}
		late = append(late, sel)
		_, _ = w.drop(ctx, sel, cause, true) // whatever its outcome, the next look counts again
	})
	w.found = seen
	w.now.Store(n)
	return late
}

// watchRevoked looks until ctx ends.
func (s *Server) watchRevoked(ctx context.Context) {
	for every(ctx, time.Second) {
		for _, sel := range s.still.look(ctx, time.Now()) {
			s.log.ErrorContext(ctx, "a revoked device was still connected and was taken off", "authority", sel.Authority, "serial", sel.Serial)
		}
	}
}
