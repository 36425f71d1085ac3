package campaign

import (
	"context"
	"slices"
	"time"

	"hallmark/fleet"
)

// DryRun is what a campaign would do, as things are now.
type DryRun struct {
	Things    int64 // targets
	Wanting   int64 // of them want the change
	TwoPeople bool  // somebody else has to approve it
	Stages    []DryStage
	Skipped   []DrySkip
	Named     []DryThing // the first of them, in the order of their turns
	More      bool       // there are more than are named
}

// DryStage is a stage of a dry run. The times assume that devices are there, and take
// no time for the change itself.
type DryStage struct {
	Name     string
	Things   int64
	Earliest time.Time // of its first device
	Latest   time.Time // earliest of its last device
	Watch    time.Duration
}

// DrySkip is how many targets would be skipped, and why.
type DrySkip struct {
	Code, Words string
	Things      int64
	Example     fleet.ThingName
}

// DryThing is a device that would get the change.
type DryThing struct {
	Thing    fleet.ThingName
	Stage    int
	Earliest time.Time
	Before   string
}

// DryRun tells who would get a change, in which stage and when at the earliest, and
// who would be skipped and why. It stores nothing and tells no device; named is how
// many devices are told apart.
func (s *Service) DryRun(ctx context.Context, tenant, id string, spec Spec, named int) (DryRun, error) {
	if named < 0 || named > maxExamples {
		return DryRun{}, ErrPage.New("At most %d things are named.", maxExamples)
	}
	c, a, err := s.prepare(ctx, tenant, id, &spec)
	if err != nil {
		return DryRun{}, err
	}
	var out DryRun
	// One of a hundred thousand devices takes a hundred octets here.
	type turn struct {
		place int64
		at    time.Time
		thing fleet.ThingName
		want  string
	}
	var turns []turn
	skips := map[string]*DrySkip{}
	for {
		things, upTo, err := s.look(ctx, tenant, &c.Spec, c.Cursor)
		if err != nil {
			return out, err
		}
		canary, err := s.canaries(ctx, c, upTo)
		if err != nil {
			return out, err
		}
		for _, t := range things {
			if out.Things++; out.Things > maxDryRun {
				return out, ErrInvalid.New("It is for more than %d things; try a part of them.", maxDryRun)
			}
			w, err := a.Wants(ctx, c, t)
			if err != nil {
				return out, err
			}
			if w.Skip != "" {
				if skips[w.Skip] == nil {
					skips[w.Skip] = &DrySkip{Code: w.Skip, Words: w.Words, Example: t}
				}
				skips[w.Skip].Things++
				continue
			}
			place, _ := spread(tenant, id, t, canary[t.Fold()])
			turns = append(turns, turn{place: place, thing: t, want: w.Before})
		}
		if c.Cursor = upTo; upTo == "" || ctx.Err() != nil {
			break
		}
	}
	if err := ctx.Err(); err != nil {
		return out, err
	}
	slices.SortFunc(turns, func(a, b turn) int {
		if a.place < b.place {
			return -1
		}
		return 1
	})
	for _, k := range skips {
		out.Skipped = append(out.Skipped, *k)
	}
	slices.SortFunc(out.Skipped, func(a, b DrySkip) int { return int(b.Things - a.Things) })
	out.Wanting = int64(len(turns))
	out.TwoPeople = !s.cfg.OnePerson && (spec.Continuous || out.Things > s.cfg.TwoPeopleOver || s.cfg.TwoPeopleOver <= 0)
	start := latest(s.clock(), c.Schedule.Start)
	plan, first := c.Plan(), 0
	offered := int64(0)
	for i, g := range plan {
		end := int(quota(plan, i, out.Wanting))
		if c.Canary != "" && i == 0 {
			end = first
			for end < len(turns) && turns[end].place < 0 {
				end++
			}
		}
		end = max(end, first)
		d := DryStage{Name: g.Name, Things: int64(end - first), Watch: g.Watch}
		for k := first; k < end; k++ {
			t := &turns[k]
			_, jitter := spread(tenant, id, t.thing, false)
			zone, err := s.zone(ctx, c, t.thing)
			if err != nil {
				return out, err
			}
			t.at = opening(&c.Schedule, zone, c.jittered(start, jitter))
		}
		own := turns[first:end]
		slices.SortFunc(own, func(a, b turn) int { return a.at.Compare(b.at) })
		// The rate: in a minute no more than it allows, which grows with what was offered.
		minute, room := start, 0
		for k := range own {
			if t := &own[k]; t.at.After(minute) {
				if t.at.Sub(minute) >= time.Minute {
					minute, room = t.at, 0
				}
			} else {
				t.at = minute
			}
			if room++; room > c.Rate.PerMinute(offered, offered) {
				minute, room = minute.Add(time.Minute), 1
				own[k].at = latest(own[k].at, minute)
			}
			offered++
			if len(out.Named) < named {
				out.Named = append(out.Named, DryThing{own[k].thing, i, own[k].at, own[k].want})
			}
			if k == 0 {
				d.Earliest = own[k].at
			}
			d.Latest = latest(d.Latest, own[k].at)
		}
		if len(own) > 0 {
			start = d.Latest
		} else {
			d.Earliest, d.Latest = start, start
		}
		start = start.Add(g.Watch)
		first = end
		out.Stages = append(out.Stages, d)
	}
	out.More = int64(len(out.Named)) < out.Wanting
	return out, nil
}
