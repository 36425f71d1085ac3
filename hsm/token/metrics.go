package token

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are the figures of a keyring, labelled by token.
type Metrics struct {
	Sign    *prometheus.HistogramVec // seconds from request to answer, waiting included
	Errors  *prometheus.CounterVec   // by return code of the token
	InUse   *prometheus.GaugeVec     // sessions that sign at this moment
	Waiting *prometheus.GaugeVec     // requests in the queue
	Breaker *prometheus.GaugeVec     // 0 up, 1 down, 2 PIN refused
	Stuck   *prometheus.GaugeVec     // instances of the token's module that were given up
}

// NewMetrics makes the figures and registers them; reg may be nil. A second
// keyring on the same registry shares the figures of the first.
func NewMetrics(reg prometheus.Registerer) *Metrics {
	m := &Metrics{
		Sign: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name:    "hallmark_hsm_sign_seconds",
			Help:    "Time of a signature on a token, waiting for a session included.",
			Buckets: []float64{.00005, .0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1, 5},
		}, []string{"token"}),
		Errors: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hallmark_hsm_errors_total",
			Help: "Errors of tokens by return code.",
		}, []string{"token", "code"}),
		InUse: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "hallmark_hsm_sessions_in_use",
			Help: "Sessions that sign at this moment.",
		}, []string{"token"}),
		Waiting: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "hallmark_hsm_requests_waiting",
			Help: "Signature requests that wait for a session.",
		}, []string{"token"}),
		Breaker: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "hallmark_hsm_breaker_state",
			Help: "State of the token: 0 up, 1 down and reconnecting, 2 PIN refused.",
		}, []string{"token"}),
		Stuck: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "hallmark_hsm_stuck_instances",
			Help: "Instances of the token's module that were given up because calls hang in them.",
		}, []string{"token"}),
	}
	if reg == nil {
		return m
	}
	m.Sign = register(reg, m.Sign)
	m.Errors = register(reg, m.Errors)
	m.InUse = register(reg, m.InUse)
	m.Waiting = register(reg, m.Waiting)
	m.Breaker = register(reg, m.Breaker)
	m.Stuck = register(reg, m.Stuck)
	return m
}

func register[C prometheus.Collector](reg prometheus.Registerer, c C) C {
	var already prometheus.AlreadyRegisteredError
	if err := reg.Register(c); errors.As(err, &already) {
		if existing, ok := already.ExistingCollector.(C); ok {
			return existing
		}
	}
	return c
}
