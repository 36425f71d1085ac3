package campaign_test

import (
	"testing"
	"time"

	"hallmark/fleet/campaign"
	"hallmark/fleet/jobs"
	"hallmark/fleet/rollout"
)

// How a campaign went is kept with it, as it changes.
func TestCampaign_KeepsHowItWent(t *testing.T) {
	s := onSQLite(t, campaign.Config{})
	all := things(20)
	s.group("all", all...)
	s.connect(s.now, true, all...)
	s.create("c", campaign.Spec{Targets: []string{"thinggroup/all"}, Rate: rollout.Rate{MaximumPerMinute: 5}, Soak: 100 * time.Hour})
	for i := range 6 {
		s.pass(time.Minute)
		if i == 3 {
			s.work("c", 4, jobs.Succeeded)
			s.work("c", 1, jobs.Failed)
		}
	}
	s.pass(10 * time.Second)
	c, err := s.Campaign(t.Context(), main, "c")
	must(t, err)
	if n := len(c.Samples); n < 4 || n > 8 {
		t.Fatalf("%d samples", n)
	}
	last := c.Samples[len(c.Samples)-1]
	if last.Told != 20 || last.Well != 4 || last.Bad != 1 || c.Samples[0].Told != 0 {
		t.Errorf("%+v", c.Samples)
	}
	before := len(c.Samples)
	for range 3 {
		s.pass(time.Hour)
	}
	if c, err = s.Campaign(t.Context(), main, "c"); err != nil || len(c.Samples) != before {
		t.Errorf("nothing changed, and there are %d samples after %d, %v", len(c.Samples), before, err)
	}
}
