package main

import (
	"github.com/prometheus/client_golang/prometheus"
)

// rotationMetrics is what the last scan of this node found, and what it did.
type rotationMetrics struct{ s *Server }

var (
	rotationDue     = prometheus.NewDesc("hallmark_rotation_due", "Certificates in use that end within their window and have no successor, at the last scan.", nil, nil)
	rotationForeign = prometheus.NewDesc("hallmark_rotation_due_foreign", "Those of them that are of other CAs, which no campaign rotates.", nil, nil)
	rotationSoonest = prometheus.NewDesc("hallmark_rotation_soonest_seconds", "Time until the first of them that is of our own CAs ends; absent if there is none.", nil, nil)
	rotationScan    = prometheus.NewDesc("hallmark_rotation_scan_age_seconds", "Time since the last scan ended; absent before the first.", nil, nil)
	rotationFed     = prometheus.NewDesc("hallmark_rotation_fed_total", "Devices that scans of this node put into the campaign for what ends soon.", nil, nil)
	rotationEvents  = prometheus.NewDesc("hallmark_rotation_events_total", "What this node did with certificates of devices: renewed, retired, held, kept, undone.", []string{"what"}, nil)
)

// Describe implements [prometheus.Collector].
func (m rotationMetrics) Describe(c chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{rotationDue, rotationForeign, rotationSoonest, rotationScan, rotationFed, rotationEvents} {
		c <- d
	}
}

// Collect implements [prometheus.Collector].
func (m rotationMetrics) Collect(c chan<- prometheus.Metric) {
	t, now := m.s.rotation.Totals(), m.s.now()
	gauge := func(d *prometheus.Desc, v float64) {
		c <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v)
	}
	if !t.Scanned.IsZero() {
		gauge(rotationScan, now.Sub(t.Scanned).Seconds())
		gauge(rotationDue, float64(t.Due))
		gauge(rotationForeign, float64(t.Foreign))
	}
	if !t.Soonest.IsZero() {
		gauge(rotationSoonest, t.Soonest.Sub(now).Seconds())
	}
	c <- prometheus.MustNewConstMetric(rotationFed, prometheus.CounterValue, float64(t.Fed))
	for what, n := range t.Events {
		c <- prometheus.MustNewConstMetric(rotationEvents, prometheus.CounterValue, float64(n), string(what))
	}
}
