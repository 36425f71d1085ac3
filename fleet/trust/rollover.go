package trust

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"hallmark/access"
	"hallmark/fleet"
	"hallmark/fleet/campaign"
	"hallmark/fleet/jobs"
	"hallmark/internal/fault"
)

// Phase is where a rollover is. Between two phases there is a gate.
type Phase string

// The phases, in their order.
const (
	Adding    Phase = "adding"    // devices get the new root beside the old one
	Switching Phase = "switching" // people have the service issue and show what leads to the new root
	Staying   Phase = "waiting"   // both are trusted, the new one is used
	Removing  Phase = "removing"  // devices lose the old root
	Sleepers  Phase = "sleepers"  // who returns late still gets both changes
	Over      Phase = "done"
	Canceled  Phase = "canceled" // by a person; what devices trust stays as it is
)

// Phases is their order.
var Phases = []Phase{Adding, Switching, Staying, Removing, Sleepers, Over}

// next is the phase after one; "" after the last.
func (p Phase) next() Phase {
	if i := slices.Index(Phases, p); i >= 0 && i+1 < len(Phases) {
		return Phases[i+1]
	}
	return ""
}

// Ended tells whether nothing of it goes on.
func (p Phase) Ended() bool { return p == Over || p == Canceled }

// Gates are the thresholds. Percentages are of all targets that ever had a certificate.
type Gates struct {
	Added   float64 `json:"added"`   // trust the new root, before the service switches
	Left    float64 `json:"left"`    // trust it, before the old one is removed
	Removed float64 `json:"removed"` // trust the old one no more, before only sleepers are waited for
	// Groups are thing groups of each of which InGroups percent are needed at each of
	// these gates too.
	Groups      []string `json:"groups,omitempty"`
	InGroups    float64  `json:"inGroups,omitempty"`
	WaitSeconds int64    `json:"waitSeconds"` // at least so long between the switch and the removal
	KeepSeconds int64    `json:"keepSeconds"` // so long sleepers are waited for
}

// lowers says what of it is lower than before, "" if nothing is.
func (g *Gates) lowers(was *Gates) string {
	for _, v := range []struct {
		name     string
		now, was float64
	}{{"added", g.Added, was.Added}, {"left", g.Left, was.Left}, {"removed", g.Removed, was.Removed}, {"inGroups", g.InGroups, was.InGroups},
		{"waitSeconds", float64(g.WaitSeconds), float64(was.WaitSeconds)}, {"keepSeconds", float64(g.KeepSeconds), float64(was.KeepSeconds)}} {
		if v.now < v.was {
			return fmt.Sprintf("%s from %g to %g", v.name, v.was, v.now)
		}
	}
	for _, group := range was.Groups {
		if !slices.Contains(g.Groups, group) {
			return "the group " + group + " is not needed"
		}
	}
	return ""
}

// Spec is what a rollover is to be.
type Spec struct {
	From    string   `json:"from"` // names of roots
	To      string   `json:"to"`
	Targets []string `json:"targets,omitempty"` // as in [campaign.Spec]
	Query   string   `json:"query,omitempty"`
	Gates   Gates    `json:"gates"`
	// Alone lets the service switch although who trusts only the old root finds no way
	// to what it shows then: sleepers stay outside.
	Alone bool `json:"alone,omitempty"`
	// The way in which both campaigns go.
	Canary        string        `json:"canary,omitempty"`
	CanaryWatch   time.Duration `json:"canaryWatch,omitempty"`
	PerMinute     int           `json:"perMinute,omitempty"`
	Jitter        time.Duration `json:"jitter,omitempty"`
	Timeout       time.Duration `json:"timeout,omitempty"`
	Soak          time.Duration `json:"soak,omitempty"`
	AbortPercent  float64       `json:"abortPercent,omitempty"` // failures of those that ended, at which a campaign stops itself
	AbortMinimum  int64         `json:"abortMinimum,omitempty"`
	ZoneAttribute string        `json:"zoneAttribute,omitempty"`
}

// Step is something that was done.
type Step struct {
	At    time.Time `json:"at"`
	By    string    `json:"by"`
	What  string    `json:"what"`
	Words string    `json:"words,omitempty"` // a reason, and what was counted
}

// Rollover is the state machine of a root that is replaced over the air.
type Rollover struct {
	Tenant  string    `json:"-"`
	Name    string    `json:"-"`
	Spec    Spec      `json:"spec"`
	OldRoot string    `json:"oldRoot"` // ids; see [fleet.RootID]
	NewRoot string    `json:"newRoot"`
	Phase   Phase     `json:"phase"`
	Since   time.Time `json:"since"` // in this phase
	// Round is which campaign of the phase it is: a new one is made for who failed.
	Rounds  map[Phase]int `json:"rounds,omitempty"`
	Steps   []Step        `json:"steps"`
	Version int64         `json:"-"`
}

// Campaign is the name of the campaign that adds or removes; "" in a phase that has not
// had one.
func (r *Rollover) Campaign(p Phase) string {
	n := r.Rounds[p]
	what := map[Phase]string{Adding: "add", Removing: "remove"}[p]
	if n == 0 || what == "" {
		return ""
	}
	if n == 1 {
		return r.Name + "-" + what
	}
	return fmt.Sprintf("%s-%s-%d", r.Name, what, n)
}

// begun is when the rollover was started.
func (r *Rollover) begun() time.Time {
	if len(r.Steps) == 0 {
		return r.Since
	}
	return r.Steps[0].At
}

func (r *Rollover) did(at time.Time, by, what, words string) {
	if len(words) > maxWords {
		words = strings.ToValidUTF8(words[:maxWords], "")
	}
	if r.Steps = append(slices.Clone(r.Steps), Step{at, by, what, words}); len(r.Steps) > maxSteps {
		r.Steps = r.Steps[len(r.Steps)-maxSteps:]
	}
}

const (
	maxWords  = 512
	maxSteps  = 200
	maxName   = 32 // campaigns are named for it
	maxGroups = 20
	maxTime   = 10 * 366 * 24 * 3600
)

// The usual gates.
const (
	defaultAdded   = 95
	defaultLeft    = 98
	defaultRemoved = 95
	defaultWait    = 7 * 24 * 3600
	defaultKeep    = 365 * 24 * 3600
)

// Complete fills in what was left out.
func (s *Spec) Complete() {
	g := &s.Gates
	if g.Added == 0 {
		g.Added = defaultAdded
	}
	if g.Left == 0 {
		g.Left = max(defaultLeft, g.Added)
	}
	if g.Removed == 0 {
		g.Removed = defaultRemoved
	}
	if g.InGroups == 0 && len(g.Groups) > 0 {
		g.InGroups = 100
	}
	if g.WaitSeconds == 0 {
		g.WaitSeconds = defaultWait
	}
	if g.KeepSeconds == 0 {
		g.KeepSeconds = defaultKeep
	}
	if s.Soak == 0 {
		s.Soak = defaultSoak
	}
	if s.AbortPercent == 0 {
		s.AbortPercent, s.AbortMinimum = 5, 20
	}
}

func (g *Gates) check() error {
	for _, v := range []float64{g.Added, g.Left, g.Removed, g.InGroups} {
		if !(v >= 0 && v <= 100) {
			return ErrSpec.New("A gate is a percentage, 0 to 100.")
		}
	}
	switch {
	case g.Added == 0 || g.Left == 0 || g.Removed == 0:
		return ErrSpec.New("A gate of 0 percent is none.")
	case len(g.Groups) > 0 && g.InGroups == 0:
		return ErrSpec.New("A gate of 0 percent of a group is none.")
	case len(g.Groups) > maxGroups:
		return ErrSpec.New("At most %d groups are named.", maxGroups)
	case g.WaitSeconds < 1 || g.KeepSeconds < 1 || g.WaitSeconds > maxTime || g.KeepSeconds > maxTime:
		return ErrSpec.New("A time is 1 second to 10 years.")
	}
	for _, name := range g.Groups {
		if _, err := fleet.ParseThingName(name); err != nil {
			return ErrSpec.Wrap(err, "%.80q is no group.", name)
		}
	}
	return nil
}

// Check is something that speaks for or against a rollover.
type Check struct {
	Name, Detail, Next string
	OK                 bool
}

// Plan says what speaks against starting a rollover; nothing is changed.
func (s *Service) Plan(ctx context.Context, tenant, name string, spec Spec) (checks []Check, err error) {
	spec.Complete()
	add := func(name string, ok bool, next, detail string, args ...any) {
		checks = append(checks, Check{name, fmt.Sprintf(detail, args...), next, ok})
	}
	if err := s.checkSpec(name, &spec); err != nil {
		return nil, err
	}
	from, to := s.root(tenant, spec.From), s.root(tenant, spec.To)
	add("old root", from != nil, "Name a root that is here: hallmark ca list", "%s is %s.", spec.From, said(from != nil, "known"))
	add("new root", to != nil && to.Active && s.clock().Before(to.Cert.NotAfter), "Hold its ceremony and store it: hallmark ca root", "%s is %s.", spec.To, said(to != nil && to.Active, "known and active"))
	if from == nil || to == nil {
		return checks, nil
	}
	// Roots without an end (9999-12-31, RFC 5280, Section 4.1.2.5) all end together.
	add("outlives", !to.Cert.NotAfter.Before(from.Cert.NotAfter), "Make a root that lives as long.", "%s ends %s, %s ends %s.", spec.To, to.Cert.NotAfter.Format(time.DateOnly), spec.From, from.Cert.NotAfter.Format(time.DateOnly))
	all, err := s.store.Rollovers(ctx, access.Scope{Tenant: tenant})
	if err != nil {
		return nil, err
	}
	other := ""
	for _, r := range all {
		if !r.Phase.Ended() || r.Name == name {
			other = r.Name
		}
	}
	add("no other", other == "", "End it first, or choose another name: hallmark trust rollover status "+other, "Other rollovers that go on: %s", dash(other))
	shown, by, err := s.Shown(ctx, tenant)
	if err != nil {
		return nil, err
	}
	for i := range shown {
		if shown[i].Server {
			add("devices get in", slices.Contains(by[i], spec.From) || slices.Contains(by[i], spec.To), "Look at what the service shows: hallmark trust show", "%s leads to %s.", shown[i].What, dash(strings.Join(by[i], ", ")))
		}
	}
	some, err := s.some(ctx, tenant, &spec)
	if err != nil {
		return nil, err
	}
	add("targets", some, "Name things, groups or a query that find some.", "There is %s.", map[bool]string{true: "at least one", false: "none"}[some])
	for _, g := range spec.Gates.Groups {
		_, err := s.cfg.Registry.Things(ctx, tenant, "thinggroup/"+g, "", 1)
		add("group", err == nil, "Name a group that is there.", "%s is %s.", g, said(err == nil, "there"))
	}
	return checks, nil
}

// said puts whether something is so into words.
func said(so bool, what string) string {
	if so {
		return what
	}
	return "not " + what
}

// some tells whether there is a target.
func (s *Service) some(ctx context.Context, tenant string, spec *Spec) (bool, error) {
	for _, source := range spec.sources() {
		list, err := s.cfg.Registry.Things(ctx, tenant, source, "", 1)
		if err != nil && fault.KindOf(err) != fault.NotFound || len(list) > 0 {
			return len(list) > 0, err
		}
	}
	return false, nil
}

// sources are what the registry is asked for.
func (s *Spec) sources() []string {
	out := slices.Clone(s.Targets)
	if s.Query != "" {
		out = append(out, "query/"+s.Query)
	}
	return out
}

func dash(s string) string {
	if s == "" {
		return "none"
	}
	return s
}

func (s *Service) checkSpec(name string, spec *Spec) error {
	ok := name != "" && len(name) <= maxName && strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") == ""
	switch {
	case !ok:
		return ErrSpec.New("The name needs 1 to %d of a-z A-Z 0-9 _ -.", maxName)
	case spec.From == spec.To || spec.From == "" || spec.To == "":
		return ErrSpec.New("Name two roots, from and to.")
	case len(spec.Targets) == 0 && spec.Query == "":
		return ErrSpec.New("Name targets: thing/NAME, thinggroup/NAME or a query.")
	}
	return spec.Gates.check()
}

func (s *Service) root(tenant, name string) *Root {
	for _, r := range s.cfg.Roots(tenant) {
		if r.Name == name {
			return &r
		}
	}
	return nil
}

// Start begins a rollover. The caller sees to it that two people want it.
func (s *Service) Start(ctx context.Context, tenant, name, by string, spec Spec) (r Rollover, err error) {
	spec.Complete()
	checks, err := s.Plan(ctx, tenant, name, spec)
	if err != nil {
		return r, err
	}
	for _, c := range checks {
		if !c.OK {
			return r, ErrNotReady.New("%s: %s", c.Name, c.Detail)
		}
	}
	from, to := s.root(tenant, spec.From), s.root(tenant, spec.To)
	now := s.clock()
	r = Rollover{Tenant: tenant, Name: name, Spec: spec, OldRoot: fleet.RootID(from.Cert.Raw), NewRoot: fleet.RootID(to.Cert.Raw), Phase: Adding, Since: now, Rounds: map[Phase]int{Adding: 1}}
	r.did(now, by, "started", "")
	if err := s.store.PutRollover(ctx, r, 0); err != nil {
		if errors.Is(err, ErrChanged) {
			err = ErrExists.New("%s.", name)
		}
		return r, err
	}
	r.Version = 1
	s.log.InfoContext(ctx, "root rollover started", "tenant", tenant, "rollover", name, "from", spec.From, "to", spec.To, "by", by)
	return r, nil
}

// Ensure makes the campaigns of rollovers that go on, if they are not there: what a
// crash may have left out. It may be called at any time by any node.
func (s *Service) Ensure(ctx context.Context) error {
	all, err := s.store.Rollovers(ctx, access.Scope{})
	errs := []error{err}
	for i := range all {
		if r := &all[i]; !r.Phase.Ended() {
			errs = append(errs, s.ensure(ctx, r))
		} else {
			errs = append(errs, s.end(ctx, r, "service:", "The rollover is "+string(r.Phase)+"."))
		}
	}
	return errors.Join(errs...)
}

func (s *Service) ensure(ctx context.Context, r *Rollover) error {
	if s.campaigns == nil {
		return nil
	}
	for _, p := range []Phase{Adding, Removing} {
		id := r.Campaign(p)
		if id == "" {
			continue
		}
		param := Parameters{Add: []string{r.Spec.To}}
		if p == Removing {
			param = Parameters{Remove: []string{r.OldRoot}, Requires: []string{r.NewRoot}}
		}
		raw, err := json.Marshal(param)
		if err != nil {
			return err
		}
		spec := campaign.Spec{Kind: campaign.Trust, Reason: campaign.Rollover, Description: "rollover " + r.Name + ": " + string(p), Targets: slices.Clone(r.Spec.Targets), Query: r.Spec.Query, Canary: r.Spec.Canary, CanaryWatch: r.Spec.CanaryWatch,
			ZoneAttribute: r.Spec.ZoneAttribute, Jitter: r.Spec.Jitter, Timeout: r.Spec.Timeout, Soak: r.Spec.Soak, Continuous: true, Parameters: raw}
		spec.Rate.MaximumPerMinute = r.Spec.PerMinute
		spec.Abort.Criteria = abortAt(r.Spec.AbortPercent, r.Spec.AbortMinimum)
		if _, err := s.campaigns.OpenAs(ctx, r.Tenant, id, "rollover:"+r.Name, spec); err != nil {
			return err
		}
	}
	return nil
}

// end cancels the campaigns of a rollover.
func (s *Service) end(ctx context.Context, r *Rollover, by, words string) error {
	if s.campaigns == nil {
		return nil
	}
	var errs []error
	for _, p := range []Phase{Adding, Removing} {
		id := r.Campaign(p)
		if id == "" {
			continue
		}
		c, err := s.campaigns.Campaign(ctx, access.Scope{Tenant: r.Tenant}, id)
		if errors.Is(err, campaign.ErrUnknown) || err == nil && (c.State.Ended() || c.State == campaign.RollingBack) {
			continue
		}
		if err == nil {
			_, err = s.campaigns.Cancel(ctx, r.Tenant, id, by, words)
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// Rollover finds one.
func (s *Service) Rollover(ctx context.Context, scope access.Scope, name string) (Rollover, error) {
	all, err := s.store.Rollovers(ctx, scope)
	for _, r := range all {
		if r.Name == name && scope.Tenant != "" {
			return r, nil
		}
	}
	if err == nil {
		err = ErrRollover.New("%.40s.", name)
	}
	return Rollover{}, err
}

// Ongoing lists the rollovers of all tenants that go on, for what is counted.
func (s *Service) Ongoing(ctx context.Context) ([]Rollover, error) {
	list, err := s.store.Rollovers(ctx, access.Scope{})
	return slices.DeleteFunc(list, func(r Rollover) bool { return r.Phase.Ended() }), err
}

// Rollovers lists those of a tenant.
func (s *Service) Rollovers(ctx context.Context, scope access.Scope) ([]Rollover, error) {
	if scope.Tenant == "" {
		return nil, nil
	}
	return s.store.Rollovers(ctx, scope)
}

// Tally is a count of targets.
type Tally struct {
	Things    int64 // targets
	Without   int64 // that never had a certificate, or none that was not revoked
	Confirmed int64 // that trust as asked, of the others
}

// Reached tells whether a percentage of those that can confirm have confirmed; nobody
// is not everybody.
func (t *Tally) Reached(percent float64) bool {
	n := t.Things - t.Without
	return n > 0 && float64(t.Confirmed)*100 >= percent*float64(n)
}

// Percent is how many of those that can confirm have confirmed.
func (t *Tally) Percent() float64 {
	if n := t.Things - t.Without; n > 0 {
		return float64(t.Confirmed) * 100 / float64(n)
	}
	return 0
}

// Count looks at every target: has it confirmed to trust some roots, and not others?
func (s *Service) Count(ctx context.Context, tenant string, targets []string, query string, has, lacks []string) (t Tally, err error) {
	scope := access.Scope{Tenant: tenant}
	var many []string
	var things []fleet.ThingName
	for _, target := range targets {
		if name, ok := strings.CutPrefix(target, "thing/"); ok {
			things = append(things, fleet.ThingName(name))
		} else {
			many = append(many, target)
		}
	}
	if query != "" {
		many = append(many, "query/"+query)
	}
	ask := func(ctx context.Context, source string, after fleet.ThingName, limit int) ([]fleet.ThingName, error) {
		return s.cfg.Registry.Things(ctx, tenant, source, after, limit)
	}
	for after := ""; ; {
		list, upTo, err := jobs.Look(ctx, ask, many, things, after)
		if err != nil {
			return t, err
		}
		good := map[string]bool{}
		for from := after; ; {
			page, err := s.store.Bundles(ctx, scope, from, upTo, pageSize)
			if err != nil {
				return t, err
			}
			for i := range page {
				good[page[i].Thing.Fold()] = page[i].trusts(has, lacks)
			}
			if len(page) < pageSize {
				break
			}
			from = page[len(page)-1].Thing.Fold()
		}
		for _, thing := range list {
			t.Things++
			if good[thing.Fold()] {
				t.Confirmed++
				continue
			}
			all, err := s.cfg.Registry.Principals(ctx, scope, thing)
			if err != nil {
				return t, err
			}
			// One whose certificate ended comes back with its birth certificate.
			counts := false
			for i := range all {
				counts = counts || !all[i].Revoked && all[i].Status != fleet.Revoked
			}
			if !counts {
				t.Without++
			}
		}
		if after = upTo; after == "" {
			return t, nil
		}
	}
}

const pageSize = 500

// roots gives the certificates of a rollover's roots; nil for one that is not here any more.
func (s *Service) rootOf(r *Rollover, id string) []*x509.Certificate {
	for _, root := range s.cfg.Roots(r.Tenant) {
		if fleet.RootID(root.Cert.Raw) == id {
			return []*x509.Certificate{root.Cert}
		}
	}
	return nil
}
