package trust

import (
	"context"
	"fmt"
	"strings"
	"time"

	"hallmark/access"
	"hallmark/fleet/rollout"
)

func abortAt(percent float64, minimum int64) []rollout.AbortCriterion {
	if percent <= 0 {
		return nil
	}
	return []rollout.AbortCriterion{{FailureType: "ALL", Action: "CANCEL", Percentage: percent, MinExecuted: max(minimum, 1)}}
}

// Need is one condition of a gate.
type Need struct {
	What string // for people
	Have string
	OK   bool
}

// Gate is what stands between a phase and the next one, as it is now.
type Gate struct {
	Phase, Next Phase
	Open        bool
	Needs       []Need
	Total       Tally // of all targets, as the phase counts
}

// closed says what is missing.
func (g *Gate) closed() string {
	var out []string
	for _, n := range g.Needs {
		if !n.OK {
			out = append(out, n.What+": "+n.Have)
		}
	}
	return strings.Join(out, "; ") + "."
}

func (g *Gate) said() string {
	return fmt.Sprintf("%d of %d confirmed (%.1f %%)", g.Total.Confirmed, g.Total.Things-g.Total.Without, g.Total.Percent())
}

// Gate looks at the gate after a rollover's phase. Each target is looked at, so in a
// fleet of millions it takes its time.
func (s *Service) Gate(ctx context.Context, r *Rollover) (g Gate, err error) {
	g = Gate{Phase: r.Phase, Next: r.Phase.next()}
	if r.Phase.Ended() {
		return g, nil
	}
	now := s.clock()
	need := func(ok bool, what, have string, args ...any) {
		g.Needs = append(g.Needs, Need{what, fmt.Sprintf(have, args...), ok})
	}
	has, lacks := []string{r.NewRoot}, []string(nil)
	if r.Phase == Removing || r.Phase == Sleepers {
		lacks = []string{r.OldRoot}
	}
	if g.Total, err = s.Count(ctx, r.Tenant, r.Spec.Targets, r.Spec.Query, has, lacks); err != nil {
		return g, err
	}
	confirmed := func(percent float64, what string) error {
		need(g.Total.Reached(percent), fmt.Sprintf("%g %% of the fleet %s", percent, what), "%s", g.said())
		for _, group := range r.Spec.Gates.Groups {
			t, err := s.Count(ctx, r.Tenant, []string{"thinggroup/" + group}, "", has, lacks)
			if err != nil {
				return err
			}
			need(t.Reached(r.Spec.Gates.InGroups), fmt.Sprintf("%g %% of the group %s %s", r.Spec.Gates.InGroups, group, what), "%d of %d (%.1f %%)", t.Confirmed, t.Things-t.Without, t.Percent())
		}
		return nil
	}
	switched := func() error {
		shown, err := s.cfg.Shown(ctx, r.Tenant)
		if err != nil {
			return err
		}
		need(len(shown) > 0, "the service shows something", "%d chains", len(shown))
		for i := range shown {
			ok := shown[i].Accepted(s.rootOf(r, r.NewRoot), now)
			need(ok, shown[i].What+" leads to "+r.Spec.To, "%t", ok)
			if shown[i].Server && !r.Spec.Alone {
				ok := shown[i].Accepted(s.rootOf(r, r.OldRoot), now)
				need(ok, shown[i].What+" leads to "+r.Spec.From+" too, for sleepers", "%t", ok)
			}
		}
		return nil
	}
	passed := func(since time.Time, seconds int64, what string) {
		left := since.Add(time.Duration(seconds) * time.Second).Sub(now)
		need(left <= 0, what, "%s to go", max(left, 0).Round(time.Second))
	}
	switch r.Phase {
	case Adding:
		err = confirmed(r.Spec.Gates.Added, "trust "+r.Spec.To)
	case Switching:
		err = switched()
	case Staying:
		passed(r.Since, r.Spec.Gates.WaitSeconds, "the time after the switch is over")
		if err = confirmed(r.Spec.Gates.Left, "trust "+r.Spec.To); err == nil {
			err = switched()
		}
	case Removing:
		err = confirmed(r.Spec.Gates.Removed, "trust "+r.Spec.From+" no more")
	case Sleepers:
		if !g.Total.Reached(100) {
			passed(r.Since, r.Spec.Gates.KeepSeconds, "the time for sleepers is over")
		}
	}
	g.Open = err == nil
	for _, n := range g.Needs {
		g.Open = g.Open && n.OK
	}
	return g, err
}

// change changes a rollover that is as it was read.
func (s *Service) change(ctx context.Context, r *Rollover, f func(r *Rollover)) error {
	was := r.Version
	f(r)
	if err := s.store.PutRollover(ctx, *r, was); err != nil {
		return err
	}
	r.Version = was + 1
	return nil
}

// Advance passes the gate to the next phase, if it is open now. That the rollover, and
// so its thresholds, are those that were looked at is seen when it is written.
func (s *Service) Advance(ctx context.Context, tenant, name, by string) (Rollover, error) {
	r, err := s.Rollover(ctx, access.Scope{Tenant: tenant}, name)
	if err != nil {
		return r, err
	}
	if r.Phase.Ended() {
		return r, ErrPhase.New("It is %s.", r.Phase)
	}
	g, err := s.Gate(ctx, &r)
	if err != nil {
		return r, err
	}
	if !g.Open {
		return r, ErrGate.New("%s", g.closed())
	}
	if err := s.change(ctx, &r, func(r *Rollover) {
		r.Phase, r.Since = g.Next, s.clock()
		if r.Phase == Removing {
			r.Rounds = map[Phase]int{Adding: r.Rounds[Adding], Removing: 1}
		}
		r.did(r.Since, by, string(r.Phase), g.said())
	}); err != nil {
		return r, err
	}
	s.log.InfoContext(ctx, "root rollover passed a gate", "tenant", tenant, "rollover", name, "phase", string(r.Phase), "counted", g.said(), "by", by)
	if r.Phase.Ended() {
		return r, s.end(ctx, &r, by, "The rollover is done.")
	}
	return r, s.ensure(ctx, &r)
}

// Again makes a new campaign for the phase: who failed in the one before gets another
// chance.
func (s *Service) Again(ctx context.Context, tenant, name, by string) (Rollover, error) {
	r, err := s.Rollover(ctx, access.Scope{Tenant: tenant}, name)
	if err != nil {
		return r, err
	}
	phase := Adding
	if r.Rounds[Removing] > 0 {
		phase = Removing
	}
	if r.Phase.Ended() {
		return r, ErrPhase.New("It is %s.", r.Phase)
	}
	before := r.Campaign(phase)
	if _, err := s.campaigns.Cancel(ctx, tenant, before, by, "The rollover tries again."); err != nil {
		if c, cerr := s.campaigns.Campaign(ctx, access.Scope{Tenant: tenant}, before); cerr != nil || !c.State.Ended() {
			return r, err
		}
	}
	if err := s.change(ctx, &r, func(r *Rollover) {
		rounds := map[Phase]int{}
		for p, n := range r.Rounds {
			rounds[p] = n
		}
		rounds[phase]++
		r.Rounds = rounds
		r.did(s.clock(), by, "again", string(phase))
	}); err != nil {
		return r, err
	}
	return r, s.ensure(ctx, &r)
}

// Cancel ends a rollover where it is: its campaigns are cancelled, and what devices
// trust stays. Both roots do no harm; a campaign can be rolled back by itself.
func (s *Service) Cancel(ctx context.Context, tenant, name, by, words string) (Rollover, error) {
	r, err := s.Rollover(ctx, access.Scope{Tenant: tenant}, name)
	if err != nil {
		return r, err
	}
	if r.Phase.Ended() {
		return r, ErrPhase.New("It is %s.", r.Phase)
	}
	if err := s.change(ctx, &r, func(r *Rollover) {
		r.did(s.clock(), by, "canceled", strings.TrimSpace("In "+string(r.Phase)+". "+words))
		r.Phase, r.Since = Canceled, s.clock()
	}); err != nil {
		return r, err
	}
	s.log.InfoContext(ctx, "root rollover cancelled", "tenant", tenant, "rollover", name, "by", by)
	return r, s.end(ctx, &r, by, "The rollover was cancelled.")
}

// Lowers says what of gates is lower than a rollover's, "" if nothing is.
func (r *Rollover) Lowers(g *Gates) string { return g.lowers(&r.Spec.Gates) }

// SetGates changes the thresholds. Where that lowers one, the caller sees to it that two
// people want it, and there has to be a reason.
func (s *Service) SetGates(ctx context.Context, tenant, name, by string, gates Gates, reason string) (Rollover, error) {
	r, err := s.Rollover(ctx, access.Scope{Tenant: tenant}, name)
	if err != nil {
		return r, err
	}
	if r.Phase.Ended() {
		return r, ErrPhase.New("It is %s.", r.Phase)
	}
	if err := gates.check(); err != nil {
		return r, err
	}
	lower := r.Lowers(&gates)
	if lower != "" && strings.TrimSpace(reason) == "" {
		return r, ErrReason.New("It lowers %s.", lower)
	}
	err = s.change(ctx, &r, func(r *Rollover) {
		what := "gates"
		if lower != "" {
			what = "gate lowered"
		}
		r.Spec.Gates = gates
		r.did(s.clock(), by, what, strings.TrimSpace(lower+" "+reason))
	})
	return r, err
}
