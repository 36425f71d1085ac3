package main

import (
	"context"
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"hallmark/access"
	"hallmark/fleet"
	"hallmark/fleet/campaign"
	"hallmark/fleet/jobs"
	"hallmark/fleet/registry"
	"hallmark/store"
)

// CampaignsConfig is the rules of changes that many devices get.
type CampaignsConfig struct {
	// TwoPeopleOver is the number of devices over which a second person approves a
	// campaign; 0 means always. Default 100.
	TwoPeopleOver *int64 `yaml:"two_people_over"`
}

func (c *CampaignsConfig) complete() error {
	if c.TwoPeopleOver == nil {
		n := int64(100)
		c.TwoPeopleOver = &n
	}
	if *c.TwoPeopleOver < 0 {
		return errConfig.New("fleet.campaigns: two_people_over is not negative.")
	}
	return nil
}

// campaignActions is what campaigns can do here.
func (s *Server) campaignActions(r *fleetRuntime) map[campaign.Kind]campaign.Action {
	return map[campaign.Kind]campaign.Action{campaign.Rotate: s.rotation, campaign.Trust: s.trust, campaign.Firmware: r.ota}
}

// openCampaigns makes the engine, after the services that its actions need.
func (s *Server) openCampaigns(r *fleetRuntime) {
	s.openTrust()
	r.campaigns = campaign.New(campaign.Config{
		Store: s.db, Jobs: r.jobs, Presence: store.Contacts{DB: s.db}, Targets: s.reged, Actions: s.campaignActions(r), Node: r.node, Yield: s.line.Busy, Log: s.log, Now: s.now,
		TwoPeopleOver: *s.cfg.Fleet.Campaigns.TwoPeopleOver, OnePerson: s.cfg.OnePerson,
		Attribute: func(ctx context.Context, scope access.Scope, thing fleet.ThingName, name string) (string, error) {
			t, err := s.reged.Get(ctx, scope, thing)
			if errors.Is(err, registry.ErrThingUnknown) {
				err = nil
			}
			return t.Attributes[name], err
		},
	})
	s.trust.Join(r.campaigns)
}

// heard tells the engine of the jobs of campaigns; it is there before the first
// device is.
func (r *fleetRuntime) heard(ctx context.Context, e *jobs.Execution) error {
	if r.campaigns == nil {
		return nil
	}
	return r.campaigns.Heard(ctx, e)
}

// campaignMetrics counts from the database, when it is asked.
type campaignMetrics struct{ r *fleetRuntime }

var (
	campaignsByState   = prometheus.NewDesc("hallmark_campaigns", "Campaigns by state.", []string{"state"}, nil)
	membersByState     = prometheus.NewDesc("hallmark_campaign_members", "Devices of the campaigns that are under way, by state.", []string{"state"}, nil)
	failuresByCode     = prometheus.NewDesc("hallmark_campaign_failures", "Devices of the campaigns that are under way that failed, by code.", []string{"code"}, nil)
	campaignOffers     = prometheus.NewDesc("hallmark_campaign_offers_total", "Devices that this node offered a change.", nil, nil)
	campaignReminders  = prometheus.NewDesc("hallmark_campaign_reminders_total", "Times that this node told a connected device again that did not begin.", nil, nil)
	campaignStops      = prometheus.NewDesc("hallmark_campaign_stops_total", "Times that a campaign stopped itself, by code, as this node found.", []string{"code"}, nil)
	campaignNearest    = prometheus.NewDesc("hallmark_campaign_threshold_ratio", "How near the campaigns that run are to stopping themselves: failures as a share of the threshold, the largest of all; 1 stops.", nil, nil)
	campaignActionErrs = prometheus.NewDesc("hallmark_campaign_action_errors_total", "Times that what a campaign does could not be asked or done; it is tried again.", nil, nil)
)

// Describe implements [prometheus.Collector].
func (m campaignMetrics) Describe(c chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{campaignsByState, membersByState, failuresByCode, campaignOffers, campaignReminders, campaignStops, campaignNearest, campaignActionErrs} {
		c <- d
	}
}

// Collect implements [prometheus.Collector].
func (m campaignMetrics) Collect(c chan<- prometheus.Metric) {
	c <- prometheus.MustNewConstMetric(campaignOffers, prometheus.CounterValue, float64(m.r.campaigns.Offers.Load()))
	c <- prometheus.MustNewConstMetric(campaignReminders, prometheus.CounterValue, float64(m.r.campaigns.Reminders.Load()))
	c <- prometheus.MustNewConstMetric(campaignActionErrs, prometheus.CounterValue, float64(m.r.campaigns.Errors.Load()))
	for code, n := range m.r.campaigns.Stops() {
		c <- prometheus.MustNewConstMetric(campaignStops, prometheus.CounterValue, float64(n), code)
	}
	if n, err := m.r.campaigns.Nearest(context.Background()); err == nil {
		c <- prometheus.MustNewConstMetric(campaignNearest, prometheus.GaugeValue, n)
	}
	t, err := m.r.campaigns.Totals(context.Background())
	if err != nil {
		return // the database has its own alert
	}
	for state, n := range t.Campaigns {
		c <- prometheus.MustNewConstMetric(campaignsByState, prometheus.GaugeValue, float64(n), string(state))
	}
	for state, n := range t.Members {
		c <- prometheus.MustNewConstMetric(membersByState, prometheus.GaugeValue, float64(n), string(state))
	}
	for code, n := range t.Failures {
		c <- prometheus.MustNewConstMetric(failuresByCode, prometheus.GaugeValue, float64(n), code)
	}
}
