package jobs

import (
	"context"
	"slices"
	"strings"

	"hallmark/fleet"
	"hallmark/internal/fault"
)

// target is a parsed element of [Spec.Targets].
type target struct{ kind, name string }

// The kinds of targets, as they are written; "" is a bare name.
const (
	aThing = "thing/"
	aGroup = "thinggroup/"
)

func parseTarget(s string) (target, error) {
	short := s
	if strings.HasPrefix(s, "arn:") {
		// arn:aws:iot:REGION:ACCOUNT:thing/NAME; a name may have colons.
		parts := strings.SplitN(s, ":", 6)
		short = parts[len(parts)-1]
		if len(parts) != 6 || !strings.Contains(short, "/") {
			return target{}, ErrJobInvalid.New("%q is no target.", clip(s))
		}
	}
	var t target
	for _, kind := range []string{aThing, aGroup, ""} {
		if name, ok := strings.CutPrefix(short, kind); ok {
			t = target{kind, name}
			break
		}
	}
	if _, err := fleet.ParseThingName(t.name); err != nil { // groups are named as things are
		return target{}, ErrJobInvalid.New("%q is no target.", clip(s))
	}
	return t, nil
}

// parts are the targets for the loop: groups as [Targets] knows them, and things.
func (s *Spec) parts() (groups []string, things []fleet.ThingName) {
	for _, text := range s.Targets {
		t, err := parseTarget(text)
		switch {
		case err != nil: // checked when the job was made
		case t.kind == aGroup:
			groups = append(groups, aGroup+t.name)
		default:
			things = append(things, fleet.ThingName(t.name))
		}
	}
	slices.Sort(groups)
	return slices.Compact(groups), things
}

// page is the things of all targets in a range of names.
type page struct {
	things []fleet.ThingName // sorted by folded name, each once
	upTo   string            // folded name of the range's end; "" is the end of all
}

// look asks for the next things of all targets.
func (s *Service) look(ctx context.Context, j *Job) (*page, error) {
	groups, things := j.parts()
	list, upTo, err := Look(ctx, func(ctx context.Context, target string, after fleet.ThingName, limit int) ([]fleet.ThingName, error) {
		return s.things(ctx, j.Tenant, target, after, limit)
	}, groups, things, j.Cursor)
	return &page{list, upTo}, err
}

// Look merges sources into their next things after a folded name, sorted and each
// once. upTo is the folded name up to which that is all of them, "" at the end. ask
// lists a source as [Targets] does: a merge of sorted lists, each of which was read
// up to some name, is complete up to the first of those.
func Look(ctx context.Context, ask func(ctx context.Context, source string, after fleet.ThingName, limit int) ([]fleet.ThingName, error), sources []string, things []fleet.ThingName, after string) (out []fleet.ThingName, upTo string, err error) {
	p := &page{}
	for _, t := range things {
		if t.Fold() > after {
			p.things = append(p.things, t)
		}
	}
	for _, g := range sources {
		list, err := ask(ctx, g, fleet.ThingName(after), targetPage)
		if err != nil && fault.KindOf(err) != fault.NotFound { // a group that was deleted has no things
			return nil, "", ErrTargets.Wrap(err, "Target %s.", g)
		}
		for i, t := range list {
			if t.Fold() <= after || i > 0 && t.Fold() <= list[i-1].Fold() {
				return nil, "", ErrTargets.New("Target %s is not listed in order.", g)
			}
		}
		if n := len(list); n >= targetPage && (p.upTo == "" || list[n-1].Fold() < p.upTo) {
			p.upTo = list[n-1].Fold()
		}
		p.things = append(p.things, list...)
	}
	slices.SortFunc(p.things, compareThings)
	p.things = slices.CompactFunc(p.things, func(a, b fleet.ThingName) bool { return a.Fold() == b.Fold() })
	p.cut(targetPage)
	return p.things, p.upTo, nil
}

// things asks for the things of a target. Without anybody to ask, a thing is
// itself and there are no groups.
func (s *Service) things(ctx context.Context, tenant, target string, after fleet.ThingName, limit int) ([]fleet.ThingName, error) {
	if s.group != nil {
		return s.group.Things(ctx, tenant, target, after, limit)
	}
	if name, ok := strings.CutPrefix(target, aThing); ok {
		return []fleet.ThingName{fleet.ThingName(name)}, nil
	}
	return nil, ErrTarget.New("")
}

func compareThings(a, b fleet.ThingName) int {
	switch x, y := a.Fold(), b.Fold(); {
	case x < y:
		return -1
	case x > y:
		return 1
	}
	return 0
}

// cut makes the range end after at most n things.
func (p *page) cut(n int) {
	if p.upTo != "" {
		end, _ := slices.BinarySearchFunc(p.things, p.upTo+"\x00", func(t fleet.ThingName, at string) int { return compareThings(t, fleet.ThingName(at)) })
		p.things = p.things[:end]
	}
	if len(p.things) > n {
		p.things = p.things[:n]
		p.upTo = p.things[n-1].Fold()
	}
}

// resolve checks that targets exist and writes them as they are called.
func (s *Service) resolve(ctx context.Context, tenant string, targets []string) ([]string, error) {
	out := make([]string, len(targets))
	for i, text := range targets {
		t, err := parseTarget(text)
		if err != nil {
			return nil, err
		}
		var found []fleet.ThingName
		for _, kind := range []string{aGroup, aThing} {
			if t.kind != "" && t.kind != kind {
				continue
			}
			if found, err = s.things(ctx, tenant, kind+t.name, "", 1); err == nil {
				t.kind = kind
				break
			}
			if fault.KindOf(err) != fault.NotFound {
				return nil, err
			}
		}
		if err != nil {
			return nil, ErrTarget.Wrap(err, "There is no %q.", clip(text))
		}
		// A thing is told of its job by topic, so its own spelling counts.
		own := t.name
		if t.kind == aThing && len(found) == 1 {
			own = string(found[0])
		}
		if out[i] = t.kind + own; strings.HasPrefix(text, "arn:") {
			out[i] = strings.TrimSuffix(text, t.name) + own
		}
	}
	return out, nil
}
