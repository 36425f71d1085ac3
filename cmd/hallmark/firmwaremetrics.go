package main

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"

	"hallmark/fleet/trust"
)

// firmwareMetrics is what there is of firmware and of root rollovers. It counts from the
// database, when it is asked; how devices do with them, the metrics of campaigns say.
type firmwareMetrics struct{ s *Server }

var (
	firmwareByState = prometheus.NewDesc("hallmark_firmware_versions", "Versions of firmware by state.", []string{"state"}, nil)
	firmwareBelow   = prometheus.NewDesc("hallmark_firmware_below_floor", "Released versions below the floor of a newer released one of their class.", nil, nil)
	firmwareEnded   = prometheus.NewDesc("hallmark_firmware_ended", "Released versions whose manifest ended or does not count any more: no device takes them.", nil, nil)
	rolloversBy     = prometheus.NewDesc("hallmark_trust_rollovers", "Root rollovers that go on, by phase.", []string{"phase"}, nil)
	rolloverStands  = prometheus.NewDesc("hallmark_trust_rollover_phase_seconds", "Since when the oldest root rollover of a phase is in it: it stands at the gate after it.", []string{"phase"}, nil)
)

// Describe implements [prometheus.Collector].
func (m firmwareMetrics) Describe(c chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{firmwareByState, firmwareBelow, firmwareEnded, rolloversBy, rolloverStands} {
		c <- d
	}
}

// Collect implements [prometheus.Collector].
func (m firmwareMetrics) Collect(c chan<- prometheus.Metric) {
	ctx := context.Background()
	gauge := func(d *prometheus.Desc, v float64, label ...string) {
		c <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, label...)
	}
	if t, err := m.s.fleet.ota.Totals(ctx); err == nil { // the database has its own alert
		for state, n := range t.States {
			gauge(firmwareByState, float64(n), string(state))
		}
		gauge(firmwareBelow, float64(t.Below))
		gauge(firmwareEnded, float64(t.Ended))
	}
	list, err := m.s.trust.Ongoing(ctx)
	if err != nil {
		return
	}
	n, oldest, now := map[trust.Phase]int64{}, map[trust.Phase]float64{}, m.s.now()
	for _, r := range list {
		n[r.Phase]++
		oldest[r.Phase] = max(oldest[r.Phase], now.Sub(r.Since).Seconds())
	}
	for _, p := range trust.Phases {
		if !p.Ended() {
			gauge(rolloversBy, float64(n[p]), string(p))
			gauge(rolloverStands, oldest[p], string(p))
		}
	}
}
