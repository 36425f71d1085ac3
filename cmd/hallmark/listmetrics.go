package main

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"hallmark/crl"
)

// listMetrics tells of lists, delta lists, filters, destinations and imports, as
// many as are configured. Lists are summed up by authority: there can be thousands
// of shards.
type listMetrics struct {
	lists   *crl.Publisher
	sender  *crl.Sender
	filters *crl.Filters
	imports *crl.Imports
	now     func() time.Time
}

// Describe implements [prometheus.Collector].
func (m *listMetrics) Describe(ch chan<- *prometheus.Desc) { prometheus.DescribeByCollect(m, ch) }

// Collect implements [prometheus.Collector].
func (m *listMetrics) Collect(ch chan<- prometheus.Metric) {
	now := m.now()
	of := func(label, value string) (gauge, count func(name, help string, v float64)) {
		one := func(t prometheus.ValueType) func(name, help string, v float64) {
			return func(name, help string, v float64) {
				var labels, values []string
				if label != "" {
					labels, values = []string{label}, []string{value}
				}
				ch <- prometheus.MustNewConstMetric(prometheus.NewDesc("hallmark_crl_"+name, help, labels, nil), t, v, values...)
			}
		}
		return one(prometheus.GaugeValue), one(prometheus.CounterValue)
	}
	_, count := of("", "")
	st := &m.lists.Stats
	count("carried_entries_total", "Entries that the table lost and that stayed on their list; above 0 somebody wrote to the database.", float64(st.Carried.Load()))
	count("rollbacks_total", "Stored lists that were older than the published ones, or not what was signed.", float64(st.Rollback.Load()))
	count("requests_total", "Requests for lists and filters.", float64(st.Requests.Load()))

	type sum struct {
		entries, octets, deltas, delta float64
		made, next                     time.Time // the oldest, and the first that ends
	}
	sums := map[string]*sum{}
	for _, l := range m.lists.Lists() {
		s := sums[l.Authority]
		if s == nil {
			s = &sum{made: l.ThisUpdate, next: l.NextUpdate}
			sums[l.Authority] = s
		}
		s.entries += float64(l.Entries)
		s.octets += float64(l.Octets)
		if l.Delta {
			s.deltas++
			s.delta += float64(l.DeltaOctets)
		}
		if l.ThisUpdate.Before(s.made) {
			s.made = l.ThisUpdate
		}
		if l.NextUpdate.Before(s.next) {
			s.next = l.NextUpdate
		}
	}
	for name, s := range sums {
		gauge, _ := of("authority", name)
		gauge("entries", "Certificates on an authority's lists.", s.entries)
		gauge("bytes", "Of an authority's lists.", s.octets)
		gauge("age_seconds", "Since the oldest of an authority's lists was made.", now.Sub(s.made).Seconds())
		gauge("expiry_seconds", "Until the first of an authority's lists ends.", s.next.Sub(now).Seconds())
		gauge("deltas", "Delta lists of an authority.", s.deltas)
		gauge("delta_bytes", "Of an authority's delta lists.", s.delta)
	}
	for _, d := range m.sender.States() {
		gauge, count := of("destination", d.Name)
		gauge("destination_pending", "Files that a destination does not have yet.", float64(d.Pending))
		behind := 0.0
		if !d.Since.IsZero() {
			behind = now.Sub(d.Since).Seconds()
		}
		gauge("destination_behind_seconds", "Since the oldest of them was made; 0 if there is none.", behind)
		if !d.Last.IsZero() {
			gauge("destination_age_seconds", "Since a file was last sent there.", now.Sub(d.Last).Seconds())
		}
		count("destination_sent_total", "Files sent.", float64(d.Sent))
		count("destination_failures_total", "Attempts that failed.", float64(d.Failed))
	}
	for _, i := range m.imports.States() {
		gauge, count := of("source", i.Name)
		current := 0.0
		if i.Current {
			current = 1
		}
		gauge("import_current", "1 while the list of another CA is in force.", current)
		gauge("import_entries", "Certificates on it.", float64(i.Entries))
		gauge("import_bytes", "Of it.", float64(i.Octets))
		if !i.Fetched.IsZero() {
			gauge("import_age_seconds", "Since its source last answered.", now.Sub(i.Fetched).Seconds())
		}
		if !i.NextUpdate.IsZero() {
			gauge("import_expiry_seconds", "Until it ends.", i.NextUpdate.Sub(now).Seconds())
		}
		count("import_failures_total", "Attempts that gave no list.", float64(i.Failures))
	}
	if m.filters == nil {
		return
	}
	count("filters_total", "Filters and changes signed and published.", float64(m.filters.Stats.Built.Load()))
	count("filter_failures_total", "Filters that could not be made; the former stays.", float64(m.filters.Stats.Failures.Load()))
	for _, f := range m.filters.States() {
		gauge, _ := of("authority", f.Authority)
		gauge("filter_bytes", "Of an authority's filter.", float64(f.Octets))
		gauge("filter_delta_bytes", "Of the changes since.", float64(f.Delta))
		gauge("filter_issued", "Certificates that the filter knows.", float64(f.Issued))
		gauge("filter_age_seconds", "Since the filter or its changes were made.", now.Sub(f.ThisUpdate).Seconds())
		gauge("filter_expiry_seconds", "Until they end.", f.NextUpdate.Sub(now).Seconds())
	}
}

// checkPlaces tells of lists that are not where they should be, and of other CAs'
// that are not here.
func (b *backend) checkPlaces(c *checks) {
	now := b.now()
	for _, d := range b.sender.States() {
		name := "lists to " + d.Name
		switch {
		case d.Pending > 0 && now.Sub(d.Since) > 15*time.Minute:
			c.add(name, "failing", "It lacks files since "+d.Since.UTC().Format(time.RFC3339)+": "+d.Fault, "Look at hallmark crl destinations and mend the place; the service goes on trying.")
		case d.Fault != "":
			c.add(name, "warning", d.Fault, "Look at hallmark crl destinations if it stays; the service goes on trying.")
		default:
			c.add(name, "ok", "", "")
		}
	}
	for _, i := range b.imports.States() {
		name := "list of " + i.Name
		next := "Look at hallmark crl imports, and ask that CA if it publishes its list."
		switch {
		case !i.Current && i.Required:
			c.add(name, "failing", "There is no current list, so the CA's devices are refused. "+i.Fault, next)
		case !i.Current:
			c.add(name, "warning", "There is no current list; the last one counts on. "+i.Fault, next)
		case i.Fault != "":
			c.add(name, "warning", i.Fault, next)
		default:
			c.add(name, "ok", "", "")
		}
	}
	for _, f := range b.filters.States() {
		if name := "filter of " + f.Authority; !f.NextUpdate.After(now) {
			c.add(name, "failing", "It is over since "+f.NextUpdate.UTC().Format(time.RFC3339)+".", "Look into the log for why it is not renewed.")
		} else {
			c.add(name, "ok", "", "")
		}
	}
}
