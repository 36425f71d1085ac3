package main

import (
	"context"
	"net/http"
	"net/http/pprof"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"hallmark/hsm"
	"hallmark/store"
	"hallmark/web"
)

// checks are what readiness asks.
func (s *Server) checks() []web.Check {
	return []web.Check{
		{Name: "database", Do: s.db.Ping},
		{Name: "clock", Do: func(context.Context) error { return s.db.CheckClock() }},
		{Name: "authorities", Do: func(context.Context) error {
			if !s.tls.Load().ready {
				return errNoInfra.New("")
			}
			return nil
		}},
		{Name: "revocation", Do: func(context.Context) error {
			if age := s.set.Age(); !s.set.Loaded() || age > time.Minute {
				return store.ErrOpen.New("The state of revocation is %s old.", age.Round(time.Second))
			}
			return nil
		}},
		{Name: "tokens", Do: func(ctx context.Context) error {
			for _, h := range s.keys.Health(ctx) {
				if h.State != hsm.StateUp && !s.keys.Covered(h) {
					return hsm.ErrTokenDown.New("Token %s is %s.", h.Token.Label, h.State)
				}
			}
			for _, g := range s.keys.Groups() {
				if g.Serving == 0 {
					return hsm.ErrTokenDown.New("None of the tokens of %s works.", g.Name)
				}
			}
			return nil
		}},
	}
}

// localHandler serves metrics and profiles on the loopback address.
func (s *Server) localHandler() http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(s.reg, promhttp.HandlerOpts{}))
	mux.HandleFunc("GET /debug/pprof/", pprof.Index)
	mux.HandleFunc("GET /debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("GET /debug/pprof/symbol", pprof.Symbol)
	mux.HandleFunc("GET /debug/pprof/trace", pprof.Trace)
	return mux
}

// metrics exports the counters that packages keep.
func (s *Server) metrics() {
	count := func(name, help string, f func() int64) {
		s.reg.MustRegister(prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "hallmark_" + name, Help: help}, func() float64 { return float64(f()) }))
	}
	gauge := func(name, help string, f func() float64) {
		s.reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "hallmark_" + name, Help: help}, f))
	}
	count("store_commits_total", "Group commits.", s.db.Stats.Commits.Load)
	count("store_jobs_total", "Transactions that shared them.", s.db.Stats.Jobs.Load)
	count("store_reruns_total", "Transactions run again alone.", s.db.Stats.Reruns.Load)
	count("store_guessed_total", "Group commits that took the last one's outcome for granted.", s.db.Stats.Guessed.Load)
	count("store_guessed_wrong_total", "Batches run again because it was not so.", s.db.Stats.Wrong.Load)
	count("lint_errors_total", "Issued certificates that break a rule; each is a bug to report.", s.lintErrors.Load)
	count("ca_late_signatures_total", "Signatures destroyed because another was recorded first.", s.ca.Late.Load)
	count("crl_lists_total", "Lists signed and published.", s.lists.Stats.Built.Load)
	count("crl_failures_total", "Lists that could not be made; the former stays.", s.lists.Stats.Failures.Load)
	s.reg.MustRegister(s.logs)
	s.exposed = &exposure{keys: s.keys}
	s.expiry = &expiryWatch{ca: s.ca, exposed: s.exposed, certs: s.certs, lists: s.lists, db: s.db, now: s.now, log: s.log}
	s.reg.MustRegister(s.expiry)
	s.reg.MustRegister(&listMetrics{s.lists, s.sender, s.filters, s.imports, s.now})
	s.fleet.register(count, gauge)
	s.reg.MustRegister(campaignMetrics{s.fleet}, rotationMetrics{s}, ownershipMetrics{s}, firmwareMetrics{s})
	gauge("revoked_still_connected", "Open connections of this node whose certificate is revoked or on hold; more than a moment above 0 is a fault.", func() float64 { return float64(s.still.now.Load()) })
	gauge("revoked_serials", "Serial numbers in the revoked set.", func() float64 { return float64(s.set.Len()) })
	gauge("revoked_set_age_seconds", "Since the revoked set was last complete.", func() float64 { return s.set.Age().Seconds() })
	gauge("authority_expiry_seconds", "Until the first authority ends.", func() float64 {
		first := 0.0
		for i, a := range s.ca.Authorities() {
			if left := a.Cert.NotAfter.Sub(s.now()).Seconds(); i == 0 || left < first {
				first = left
			}
		}
		return first
	})
}
