package main

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"hallmark/access"
	"hallmark/ca"
	"hallmark/ca/profile"
	"hallmark/crl"
	"hallmark/store"
)

// The kinds of things that end, as the metric names them.
const (
	endsRoot      = "root"
	endsAuthority = "authority"
	endsIssuing   = "issuing" // an authority's issue_until
	endsRootList  = "root_list"
	endsList      = "list" // the first of an authority's lists to end
	endsService   = "service"
	endsResponder = "responder"
	endsStation   = "station"
)

// stationsFresh is how long the ends of stations are believed: each is a look-up.
const stationsFresh = time.Minute

// expiring is one thing that the service depends on and that ends.
type expiring struct {
	kind, name  string
	from, until time.Time
}

// expiryWatch knows when everything ends that the service depends on.
type expiryWatch struct {
	ca      *ca.CA
	exposed *exposure
	certs   *certifier
	lists   *crl.Publisher
	db      *store.DB
	now     func() time.Time
	log     *slog.Logger

	mu       sync.Mutex
	stations map[string][]expiring // by tenant
	read     map[string]time.Time
}

// all lists everything of every tenant.
func (w *expiryWatch) all(ctx context.Context) []expiring {
	var out []expiring
	lists := map[string]expiring{}
	for _, h := range w.lists.Lists() {
		if e, ok := lists[h.Authority]; !ok || h.NextUpdate.Before(e.until) {
			lists[h.Authority] = expiring{endsList, h.Authority, h.ThisUpdate, h.NextUpdate}
		}
	}
	tenants := map[string]bool{}
	for _, a := range w.ca.Authorities() {
		tenants[a.Tenant] = true
		kind := endsAuthority
		if a.Duty == profile.DutyRoot {
			kind = endsRoot
		}
		out = append(out, expiring{kind, a.Name, a.Cert.NotBefore, a.Cert.NotAfter})
		if a.State == ca.StateActive && !a.IssueUntil.IsZero() {
			out = append(out, expiring{endsIssuing, a.Name, a.CreatedAt, a.IssueUntil})
		}
		if e, ok := lists[a.Name]; ok {
			if kind == endsRoot {
				e.kind = endsRootList
			}
			out = append(out, e)
		}
	}
	if w.certs != nil {
		for _, e := range w.certs.ends() {
			kind := endsService
			if len(e.name) > 5 && e.name[:5] == "ocsp-" {
				kind = endsResponder
			}
			out = append(out, expiring{kind, e.name, e.notBefore, e.notAfter})
		}
	}
	for tenant := range tenants {
		s, err := w.ofStations(ctx, tenant)
		if err != nil {
			w.log.ErrorContext(ctx, "ends of station certificates not read", "tenant", tenant, "error", err)
		}
		out = append(out, s...)
	}
	return out
}

// ofStations gives the newest certificate of every active station. After an error
// the former ones stay.
func (w *expiryWatch) ofStations(ctx context.Context, tenant string) ([]expiring, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := w.now()
	if at, ok := w.read[tenant]; ok && now.Sub(at) < stationsFresh && !now.Before(at) {
		return w.stations[tenant], nil
	}
	rows, err := w.db.Stations(ctx, access.Scope{Tenant: tenant})
	var out []expiring
	for _, st := range rows {
		if st.State != "active" {
			continue
		}
		held, rerr := w.db.Records(ctx, ca.RecordQuery{Tenant: tenant, Holder: "station:" + st.ID, Profile: string(profile.Station), Limit: 1000})
		if err = rerr; err != nil {
			break
		}
		e := expiring{kind: endsStation, name: st.ID}
		for i := range held {
			if r := &held[i]; r.DER != nil && !r.Revoked() && r.NotAfter.After(e.until) {
				e.from, e.until = r.NotBefore, r.NotAfter
			}
		}
		if !e.until.IsZero() {
			out = append(out, e)
		}
	}
	if err != nil {
		return w.stations[tenant], err
	}
	if w.stations == nil {
		w.stations, w.read = map[string][]expiring{}, map[string]time.Time{}
	}
	w.stations[tenant], w.read[tenant] = out, now
	return out, nil
}

var expiryDesc = prometheus.NewDesc("hallmark_expiry_seconds",
	"Until something ends that the service depends on: a root, an authority or its time to issue, its first list, a root's list, a certificate of the service or of an OCSP responder, the newest one of a station. Negative: it is over.",
	[]string{"kind", "name"}, nil)

var lifeDesc = prometheus.NewDesc("hallmark_expiry_life_ratio",
	"The part of its life that is left of what renews itself, where half of it should be, and of a root's list.", []string{"kind", "name"}, nil)

var exposedDesc = prometheus.NewDesc("hallmark_authority_exposed", "1 for an authority of whose key copies may exist: it is or was outside of a token.", []string{"name"}, nil)

// Describe implements prometheus.Collector.
func (w *expiryWatch) Describe(c chan<- *prometheus.Desc) {
	c <- expiryDesc
	c <- lifeDesc
	c <- exposedDesc
}

// Collect implements prometheus.Collector.
func (w *expiryWatch) Collect(c chan<- prometheus.Metric) {
	ctx, done := context.WithTimeout(context.Background(), 5*time.Second)
	defer done()
	for _, a := range w.ca.Authorities() {
		if w.exposed.is(ctx, a.KeyURI) {
			c <- prometheus.MustNewConstMetric(exposedDesc, prometheus.GaugeValue, 1, a.Name)
		}
	}
	now := w.now()
	for _, e := range w.all(ctx) {
		left := float64(e.until.Unix() - now.Unix()) // a Duration ends after 292 years
		c <- prometheus.MustNewConstMetric(expiryDesc, prometheus.GaugeValue, left, e.kind, e.name)
		switch e.kind {
		case endsService, endsResponder, endsStation, endsList, endsRootList:
			c <- prometheus.MustNewConstMetric(lifeDesc, prometheus.GaugeValue, left/e.until.Sub(e.from).Seconds(), e.kind, e.name)
		}
	}
}

// checkStations sums the certificates of a tenant's stations up in one check. They
// renew themselves; who is late has no connection, or is switched off.
func (b *backend) checkStations(ctx context.Context, s access.Scope, c *checks) {
	w := b.expiry
	if w == nil {
		return
	}
	all, err := w.ofStations(ctx, s.Tenant)
	if err != nil {
		c.add("station certificates", "failing", "Their ends cannot be read.", "Check the database.")
		return
	}
	now := b.now()
	over, late, first := 0, 0, expiring{}
	for _, e := range all {
		switch left := e.until.Sub(now); {
		case left <= 0:
			over++
		case left < e.until.Sub(e.from)/4:
			late++
		default:
			continue
		}
		if first.name == "" || e.until.Before(first.until) {
			first = e
		}
	}
	if over+late == 0 {
		c.add("station certificates", "ok", "", "")
		return
	}
	c.add("station certificates", "warning", fmt.Sprintf("%d ended and %d end soon without being renewed; the first is that of %s, at %s.", over, late, first.name, first.until.UTC().Format(time.RFC3339)),
		"Connect the stations to the service before their certificates end; enrol those anew whose certificate ended, or revoke them.")
}
