package token

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"
)

// Metrics are the figures of a keyring, labelled by token.
type Metrics struct {
	Sign     *prometheus.HistogramVec // seconds from request to answer, waiting included
	Errors   *prometheus.CounterVec   // by return code of the token
	InUse    *prometheus.GaugeVec     // sessions that sign at this moment
	Waiting  *prometheus.GaugeVec     // requests in the queue
	Breaker  *prometheus.GaugeVec     // 0 up, 1 down, 2 PIN refused
	Stuck    *prometheus.GaugeVec     // calls that hang in a module of this process
	Replaced *prometheus.CounterVec   // processes of the token's module that were replaced

	// Of keys that several tokens hold, by key and token.
	KeySign       *prometheus.HistogramVec // seconds of the tries that gave a good signature
	Failovers     *prometheus.CounterVec   // tries that went to another token; by key
	BadSignatures *prometheus.CounterVec   // signatures that the pinned key did not verify
	Member        *prometheus.GaugeVec     // 1 the token serves the key, 0 it waits for a good test
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
			Name: "hallmark_hsm_stuck_calls",
			Help: "Calls that hang in the token's module, where it is loaded into the service itself.",
		}, []string{"token"}),
		Replaced: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "hallmark_hsm_module_processes_replaced_total",
			Help: "Processes of the token's module that crashed or hung and were replaced, by token.",
		}, []string{"token"}),
	}
	m.KeySign = prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name:    "hallmark_hsm_key_sign_seconds",
		Help:    "Time of a verified signature of a key that several tokens hold, by the token that made it.",
		Buckets: []float64{.0001, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 5},
	}, []string{"key", "token"})
	m.Failovers = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "hallmark_hsm_failovers_total",
		Help: "Signatures that were asked of another token because one failed.",
	}, []string{"key"})
	m.BadSignatures = prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "hallmark_hsm_wrong_signatures_total",
		Help: "Signatures of a token that the pinned public key did not verify; each is an alarm.",
	}, []string{"key", "token"})
	m.Member = prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "hallmark_hsm_key_token_serves",
		Help: "Breaker of a token within a key: 1 it serves, 0 it waits for a test signature that verifies.",
	}, []string{"key", "token"})
	if reg == nil {
		return m
	}
	m.KeySign = register(reg, m.KeySign)
	m.Failovers = register(reg, m.Failovers)
	m.BadSignatures = register(reg, m.BadSignatures)
	m.Member = register(reg, m.Member)
	m.Sign = register(reg, m.Sign)
	m.Errors = register(reg, m.Errors)
	m.InUse = register(reg, m.InUse)
	m.Waiting = register(reg, m.Waiting)
	m.Breaker = register(reg, m.Breaker)
	m.Stuck = register(reg, m.Stuck)
	m.Replaced = register(reg, m.Replaced)
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
