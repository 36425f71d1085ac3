package campaign

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"hallmark/access"
)

// notConfigured is the code of a campaign that is paused since the configuration has
// none any more.
const notConfigured = "not-configured"

// Follow has a campaign that the configuration opened do as the configuration says now:
// from here on, for who is not offered the change yet, and with its times, rate and
// thresholds for all. spec nil is a configuration without a campaign: it is paused, until
// there is one again. What people made, paused, or ended stays as they decided, and where
// there is no campaign nothing happens.
func (s *Service) Follow(ctx context.Context, tenant, id string, spec *Spec) error {
	have, err := s.store.Campaign(ctx, access.Scope{Tenant: tenant}, id)
	if errors.Is(err, ErrUnknown) {
		return nil
	}
	if err != nil {
		return err
	}
	want := have.Spec
	if spec != nil {
		copied := *spec
		c, _, err := s.prepare(ctx, tenant, id, &copied)
		if err != nil {
			return err
		}
		want = c.Spec
	}
	if !have.follow(&want, spec != nil, s.clock()) {
		return nil
	}
	var news string
	_, err = s.change(ctx, tenant, id, "", "", func(c *Campaign, now time.Time) error {
		before, state := c.Spec, c.State
		c.follow(&want, spec != nil, now)
		if news = strings.Join(differ(&before, &c.Spec), " "); c.State != state {
			c.By = configuration
		}
		return nil
	})
	if err == nil {
		s.log.InfoContext(ctx, "campaign follows the configuration", "tenant", tenant, "campaign", id, "changed", news, "has one", spec != nil)
	}
	return err
}

// follow is [Service.Follow] for the row; it tells whether anything changed.
func (c *Campaign) follow(want *Spec, wanted bool, now time.Time) bool {
	if c.CreatedBy != configuration || c.State.Ended() || c.State == RollingBack {
		return false
	}
	if !wanted {
		if c.State != Running && c.State != Scheduled {
			return false
		}
		c.State, c.Code, c.Detail = Paused, notConfigured, "The configuration has no campaign any more."
		return true
	}
	again := c.State == Paused && c.Code == notConfigured
	if again {
		c.Code, c.Detail = "", ""
		c.start(now)
	}
	next := *want
	drawn := c.Counts.Of() > c.Counts.In(-1)
	if c.Stage > 0 || c.Canary == "" && drawn {
		// The canary's stage is over, or there was none: what it was is told as it was.
		next.Canary, next.CanaryWatch = c.Canary, c.CanaryWatch
	}
	if len(differ(&c.Spec, &next)) == 0 {
		return again
	}
	if next.Canary != c.Canary {
		c.Drawn, c.StageEnded = false, time.Time{}
	}
	if next.Timeout < c.Timeout || next.Silence < c.Silence {
		c.Retimed = now
	}
	c.Spec = next
	return true
}

// differ names what is not the same in two, in the words of their JSON.
func differ(a, b *Spec) (out []string) {
	var one, other map[string]json.RawMessage
	for spec, into := range map[*Spec]*map[string]json.RawMessage{a: &one, b: &other} {
		raw, _ := json.Marshal(spec) // every part has a form
		_ = json.Unmarshal(raw, into)
	}
	for k, v := range other {
		if string(v) != string(one[k]) {
			out = append(out, k)
		}
		delete(one, k)
	}
	out = slices.AppendSeq(out, maps.Keys(one))
	slices.Sort(out)
	return out
}
