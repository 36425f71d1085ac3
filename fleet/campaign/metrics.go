package campaign

import (
	"context"
	"maps"
)

// Totals counts for the metrics.
func (s *Service) Totals(ctx context.Context) (Totals, error) { return s.store.CampaignTotals(ctx) }

// Nearest tells how near the campaigns that run are to stopping themselves: the share
// of devices that failed, of the share at which the threshold is; of all campaigns and
// thresholds the largest. 1 is there, 0 is none. Where too few devices have ended for
// the threshold to decide anything it says nothing.
func (s *Service) Nearest(ctx context.Context) (nearest float64, err error) {
	tenant, id := "", ""
	for {
		list, err := s.store.ActiveCampaigns(ctx, tenant, id, MaxPage)
		if err != nil {
			return 0, err
		}
		for i := range list {
			c := &list[i]
			tenant, id = c.Tenant, c.ID
			if c.State != Running {
				continue
			}
			t := c.Counted()
			for _, a := range c.Abort.Criteria {
				if n := t.Executed(); n >= a.MinExecuted && n > 0 {
					nearest = max(nearest, 100*float64(t.Of(a.FailureType))/float64(n)/a.Percentage)
				}
			}
		}
		if len(list) < MaxPage {
			return nearest, nil
		}
	}
}

// stopped counts that a campaign stopped itself.
func (s *Service) stopped(code string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.stops[code]++
}

// Stops is how often campaigns stopped themselves since this service began, by code.
func (s *Service) Stops() map[string]int64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.stops)
}
