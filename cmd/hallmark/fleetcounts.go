package main

import (
	"context"
	"sync"
	"time"

	"hallmark/fleet/trust"
)

// fleetCounts is what is found out by looking at every device, so not when a metric is
// asked for: how many confirmed at the gate that each root rollover stands at, and how
// many run firmware that a floor closed.
type fleetCounts struct {
	mu    sync.Mutex
	gates map[gateKey]gateCount
	below int64
	known bool // below was counted
}

// gateKey is a rollover in a phase: what was counted for the one before says nothing.
type gateKey struct {
	tenant, rollover string
	phase            trust.Phase
}

type gateCount struct {
	confirmed float64 // share, 0 to 1
	open      bool
}

const (
	countEvery = time.Minute // at least; a count may take a twentieth of the time
	countPoll  = 10 * time.Second
	// maxGateSeries bounds the metrics of rollovers, of which a tenant has one at a time.
	maxGateSeries = 100
)

// gate is what was counted last for a rollover as it is now.
func (f *fleetCounts) gate(r *trust.Rollover) (gateCount, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	g, ok := f.gates[gateKey{r.Tenant, r.Name, r.Phase}]
	return g, ok
}

// devicesBelow is the last count of [ota.Service.DevicesBelow].
func (f *fleetCounts) devicesBelow() (int64, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.below, f.known
}

// countFleet keeps the counts up to date until ctx ends: at once for a rollover that is
// new or passed a gate, and else from time to time. While the line works nothing is counted.
func (s *Server) countFleet(ctx context.Context) {
	var next time.Time
	for every(ctx, countPoll) {
		if s.line.Busy() {
			continue
		}
		list, err := s.trust.Ongoing(ctx)
		if err != nil {
			s.log.WarnContext(ctx, "root rollovers were not counted; it is tried again", "error", err)
			continue
		}
		list = list[:min(len(list), maxGateSeries)]
		fresh := time.Now().Before(next)
		for i := range list {
			_, known := s.counts.gate(&list[i])
			fresh = fresh && known
		}
		if fresh {
			continue
		}
		start := time.Now()
		if err := s.countOnce(ctx, list); err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "devices were not counted; it is tried again", "error", err)
		}
		next = time.Now().Add(max(countEvery, 20*time.Since(start)))
	}
}

// countOnce counts for some rollovers and for all firmware.
func (s *Server) countOnce(ctx context.Context, list []trust.Rollover) error {
	gates := map[gateKey]gateCount{}
	for i := range list {
		r := &list[i]
		g, err := s.trust.Gate(ctx, r)
		if err != nil {
			return err
		}
		gates[gateKey{r.Tenant, r.Name, r.Phase}] = gateCount{confirmed: g.Total.Percent() / 100, open: g.Open}
	}
	below, err := s.fleet.ota.DevicesBelow(ctx)
	s.counts.mu.Lock()
	defer s.counts.mu.Unlock()
	if s.counts.gates = gates; err == nil {
		s.counts.below, s.counts.known = below, true
	}
	return err
}
