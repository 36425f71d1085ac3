package main

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"

	"hallmark/crl"
	"hallmark/fleet"
	"hallmark/fleet/ownership"
)

// OwnershipConfig is the rules of giving devices away.
type OwnershipConfig struct {
	// TwoPeopleOver is the number of units over which a second person approves a
	// release, a reset or a decommissioning; 0 means always. Default 10.
	TwoPeopleOver *int64 `yaml:"two_people_over"`
}

func (c *OwnershipConfig) complete() error {
	if c.TwoPeopleOver == nil {
		n := int64(10)
		c.TwoPeopleOver = &n
	}
	if *c.TwoPeopleOver < 0 {
		return errConfig.New("fleet.ownership: two_people_over is not negative.")
	}
	return nil
}

// openOwnership makes the service that the doors ask whose device it is. What it
// revokes is not logged by package crl: a plan tries what it shows.
func (s *Server) openOwnership() {
	s.ownership = ownership.New(ownership.Config{Store: s.db, Registry: s.reged, Revoker: crl.New(crl.Config{Store: s.db, Now: s.now}), Jobs: endedJobs{s}, TemplateGroups: s.planner.FirstBootGroups, Log: s.log, Now: s.now})
}

// endedJobs is the jobs of things whose devices left; they are there when the first one
// leaves.
type endedJobs struct{ s *Server }

// ThingDeleted implements [ownership.Jobs].
func (j endedJobs) ThingDeleted(ctx context.Context, tenant string, thing fleet.ThingName) error {
	return j.s.fleet.jobs.ThingDeleted(ctx, tenant, thing)
}

// ownershipMetrics counts what this node did.
type ownershipMetrics struct{ s *Server }

var ownershipUnits = prometheus.NewDesc("hallmark_ownership_units_total", "Units whose ownership this node changed: released, accepted, withdrawn, reset, decommissioned; and refused, the times that a device came that was nobody's.", []string{"what"}, nil)

var ownershipOverdue = prometheus.NewDesc("hallmark_ownership_releases_overdue", "Open releases of all tenants whose code has ended: nobody can accept them, and their devices get in nowhere. Counted every ten minutes.", nil, nil)

// Describe implements [prometheus.Collector].
func (m ownershipMetrics) Describe(c chan<- *prometheus.Desc) {
	c <- ownershipUnits
	c <- ownershipOverdue
}

// Collect implements [prometheus.Collector].
func (m ownershipMetrics) Collect(c chan<- prometheus.Metric) {
	t := &m.s.ownership.Stats
	c <- prometheus.MustNewConstMetric(ownershipOverdue, prometheus.GaugeValue, float64(t.Overdue.Load()))
	for what, n := range map[string]int64{"released": t.Released.Load(), "accepted": t.Accepted.Load(), "withdrawn": t.Withdrawn.Load(), "reset": t.Reset.Load(), "decommissioned": t.Decommissioned.Load(), "refused": t.Refused.Load()} {
		c <- prometheus.MustNewConstMetric(ownershipUnits, prometheus.CounterValue, float64(n), what)
	}
}
