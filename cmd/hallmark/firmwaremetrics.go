package main

import (
	"context"

	"github.com/prometheus/client_golang/prometheus"

	"hallmark/fleet/trust"
)

// firmwareMetrics is what there is of firmware and of root rollovers. It counts from the
// database, when it is asked; how devices do with them, the metrics of campaigns say, and
// what takes a look at each of them is counted before ([fleetCounts]).
type firmwareMetrics struct{ s *Server }

var (
	firmwareByState = prometheus.NewDesc("hallmark_firmware_versions", "Versions of firmware by state.", []string{"state"}, nil)
	firmwareBelow   = prometheus.NewDesc("hallmark_firmware_versions_below_floor", "Released versions below the floor of a newer released one of their class.", nil, nil)
	devicesBelow    = prometheus.NewDesc("hallmark_firmware_devices_below_floor", "Devices that report a version below the floor of a released one of their class; absent before the first count.", nil, nil)
	firmwareEnded   = prometheus.NewDesc("hallmark_firmware_ended", "Released versions whose manifest ended or does not count any more: no device takes them.", nil, nil)
	rolloversBy     = prometheus.NewDesc("hallmark_trust_rollovers", "Root rollovers that go on, by phase.", []string{"phase"}, nil)
	gateSeconds     = prometheus.NewDesc("hallmark_trust_rollover_gate_seconds", "For how long a root rollover stands at the gate after its phase.", gateLabels, nil)
	gateConfirmed   = prometheus.NewDesc("hallmark_trust_rollover_confirmed_ratio", "Share of the devices that can confirm which did what its phase asks; absent before the first count of the phase.", gateLabels, nil)
	gateOpen        = prometheus.NewDesc("hallmark_trust_rollover_gate_open", "1 if all is there that the gate needs, so that somebody can pass it.", gateLabels, nil)

	gateLabels = []string{"tenant", "rollover", "phase"}
)

// Describe implements [prometheus.Collector].
func (m firmwareMetrics) Describe(c chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{firmwareByState, firmwareBelow, devicesBelow, firmwareEnded, rolloversBy, gateSeconds, gateConfirmed, gateOpen} {
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
	if n, known := m.s.counts.devicesBelow(); known {
		gauge(devicesBelow, float64(n))
	}
	list, err := m.s.trust.Ongoing(ctx)
	if err != nil {
		return
	}
	n, now := map[trust.Phase]int64{}, m.s.now()
	for i, r := range list {
		n[r.Phase]++
		if i >= maxGateSeries {
			continue
		}
		labels := []string{r.Tenant, r.Name, string(r.Phase)}
		gauge(gateSeconds, now.Sub(r.Since).Seconds(), labels...)
		if g, known := m.s.counts.gate(&r); known {
			gauge(gateConfirmed, g.confirmed, labels...)
			open := 0.0
			if g.open {
				open = 1
			}
			gauge(gateOpen, open, labels...)
		}
	}
	for _, p := range trust.Phases {
		if !p.Ended() {
			gauge(rolloversBy, float64(n[p]), string(p))
		}
	}
}
