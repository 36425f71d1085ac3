package campaign

import (
	"context"
	"encoding/json"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"hallmark/fleet"
	"hallmark/fleet/rollout"
	"hallmark/internal/strictjson"
)

// The sources of a campaign's things, as [jobs.Targets] gets them.
const (
	aThing = "thing/"
	aGroup = "thinggroup/"
	aQuery = "query/"
)

// ParseID checks the name of a campaign.
func ParseID(s string) error {
	ok := s != "" && len(s) <= maxID && !strings.HasSuffix(s, undoSuffix)
	for i := 0; ok && i < len(s); i++ {
		c := s[i]
		ok = c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '_' || c == '-'
	}
	if !ok {
		return ErrInvalid.New("The name needs 1 to %d of a-z A-Z 0-9 _ - and does not end in %s.", maxID, undoSuffix)
	}
	return nil
}

var reasons = []Reason{Expiry, Rollover, Compromise, Algorithm, Ownership, OnRequest, NewBuild}

// check completes a Spec and tells whether it is possible, but for its kind.
func (s *Spec) check() error {
	if s.Reason == "" {
		s.Reason = OnRequest
	}
	if !slices.Contains(reasons, s.Reason) {
		return ErrInvalid.New("The reason is one of %v.", reasons)
	}
	if utf8.RuneCountInString(s.Description) > MaxText || !utf8.ValidString(s.Description) {
		return ErrInvalid.New("The description has more than %d characters.", MaxText)
	}
	if len(s.Targets) > MaxTargets || len(s.Query) > maxQuery {
		return ErrInvalid.New("A campaign names at most %d targets, and a query of %d characters; for more there are groups.", MaxTargets, maxQuery)
	}
	for _, t := range s.Targets {
		name, ok := strings.CutPrefix(t, aThing)
		if !ok {
			name, ok = strings.CutPrefix(t, aGroup)
		}
		if _, err := fleet.ParseThingName(name); !ok || err != nil {
			return ErrInvalid.New("%.80q is no target: it is thing/NAME or thinggroup/NAME.", t)
		}
	}
	if len(s.Targets) == 0 && s.Query == "" && !s.Continuous {
		return ErrNobody.New("")
	}
	if s.Canary != "" {
		s.Canary = strings.TrimPrefix(s.Canary, aGroup)
		if _, err := fleet.ParseThingName(s.Canary); err != nil {
			return ErrInvalid.New("%.80q is no group.", s.Canary)
		}
	}
	if len(s.Stages) > MaxStages {
		return ErrInvalid.New("There are more than %d stages.", MaxStages)
	}
	before := 0.0
	for i := range s.Stages {
		g := &s.Stages[i]
		if !(g.Percent > before && g.Percent <= 100) || g.Watch < 0 || g.Watch > maxTime {
			return ErrInvalid.New("The stages' percentages rise up to 100, and count the stages before; a watch is not negative and at most a year.")
		}
		if g.Name == "" || len(g.Name) > 64 || !utf8.ValidString(g.Name) {
			return ErrInvalid.New("A stage has a name of 1 to 64 characters.")
		}
		before = g.Percent
	}
	for _, d := range []time.Duration{s.CanaryWatch, s.Jitter, s.Timeout, s.Silence, s.Soak} {
		if d < 0 || d > maxTime {
			return ErrInvalid.New("A time is not negative and at most a year.")
		}
	}
	if s.Timeout == 0 {
		s.Timeout = defaultTimeout
	}
	if s.Silence == 0 {
		s.Silence = s.Timeout
	}
	for i := range s.Abort.Criteria {
		if s.Abort.Criteria[i].Action == "" {
			s.Abort.Criteria[i].Action = "CANCEL"
		}
	}
	if s.Schedule.EndBehavior != "" && s.Schedule.EndBehavior != rollout.Cancel {
		return ErrInvalid.New("At the end of its schedule a campaign is cancelled; there is nothing else to choose.")
	}
	if utf8.RuneCountInString(s.ZoneAttribute) > 128 {
		return ErrInvalid.New("The zone's attribute has too long a name.")
	}
	if len(s.Parameters) > maxParams || len(s.Parameters) > 0 && strictjson.Check(s.Parameters) != nil {
		return ErrInvalid.New("The parameters are one JSON value of at most %d bytes.", maxParams)
	}
	for _, err := range []error{s.Rate.Check(), s.Abort.Check(), s.Schedule.Check()} {
		if err != nil {
			return err
		}
	}
	return nil
}

// sources are what [Service] asks for things: groups and the query, and single things.
func (s *Spec) sources() (many []string, things []fleet.ThingName) {
	for _, t := range s.Targets {
		if name, ok := strings.CutPrefix(t, aThing); ok {
			things = append(things, fleet.ThingName(name))
		} else {
			many = append(many, t)
		}
	}
	if s.Query != "" {
		many = append(many, aQuery+s.Query)
	}
	slices.Sort(many)
	return slices.Compact(many), things
}

// resolve asks for every target once, so that a misspelt one is not a campaign
// for nobody, and writes things as they are called.
func (s *Service) resolve(ctx context.Context, tenant string, spec *Spec) error {
	for i, t := range spec.Targets {
		found, err := s.cfg.Targets.Things(ctx, tenant, t, "", 1)
		if err != nil {
			return ErrNobody.Wrap(err, "%.80q.", t)
		}
		if strings.HasPrefix(t, aThing) && len(found) == 1 {
			spec.Targets[i] = aThing + string(found[0])
		}
	}
	if spec.Query != "" {
		if _, err := s.cfg.Targets.Things(ctx, tenant, aQuery+spec.Query, "", 1); err != nil {
			return err
		}
	}
	if spec.Canary != "" {
		if _, err := s.cfg.Targets.Things(ctx, tenant, aGroup+spec.Canary, "", 1); err != nil {
			return ErrNobody.Wrap(err, "%.80q.", spec.Canary)
		}
	}
	return nil
}

// Hash is what a second person approves: what is to be done, to whom, and how.
func (c *Campaign) Hash() string {
	raw, _ := json.Marshal([]any{"hallmark campaign v1", c.Tenant, c.ID, c.CreatedBy, c.Spec}) // every part has a form
	return digest(raw)
}
