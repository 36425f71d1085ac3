package campaign_test

import (
	"cmp"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/fleet"
	"hallmark/fleet/campaign"
	"hallmark/fleet/jobs"
	"hallmark/fleet/presence"
	"hallmark/internal/fault"
	"hallmark/internal/seal"
	"hallmark/store"
	"hallmark/store/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m) }

var main = access.Scope{Tenant: "main"}

var errNobody = fault.Define(fault.NotFound, "test-nobody", "Nobody.", "Nothing.")

// world is what is around the engine: groups, connections, and an Action.
type world struct {
	mu     sync.Mutex
	groups map[string][]fleet.ThingName
	zones  map[fleet.ThingName]string
	online map[fleet.ThingName]presence.State

	skip     map[fleet.ThingName]string // wants
	before   map[fleet.ThingName]string // else "old"
	broken   map[fleet.ThingName]bool   // judged as failed
	unproven map[fleet.ThingName]bool   // judged as wait
	refuses  map[fleet.ThingName]bool   // finish fails
	document string
	undo     string
	final    bool // done is not reversible

	finished map[fleet.ThingName]int
	undone   map[fleet.ThingName]int
	lost     map[fleet.ThingName]campaign.MemberState
	asked    map[string]int          // calls of wants, by thing
	told     map[fleet.ThingName]int // what to do next

	page func(after fleet.ThingName) error // nil, or the fault of a group's page
}

// Publish hears what devices are told.
func (w *world) Publish(_ context.Context, m fleet.Message) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if rest, ok := strings.CutPrefix(m.Topic, "$aws/things/"); ok && strings.Contains(string(m.Payload), `"jobDocument"`) {
		thing, _, _ := strings.Cut(rest, "/")
		w.told[fleet.ThingName(thing)]++
	}
	return nil
}

// tells gives how often things were told what to do next.
func (w *world) tells(things ...fleet.ThingName) (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, t := range things {
		n += w.told[t]
	}
	return n
}

func newWorld() *world {
	return &world{groups: map[string][]fleet.ThingName{}, zones: map[fleet.ThingName]string{}, online: map[fleet.ThingName]presence.State{}, skip: map[fleet.ThingName]string{}, before: map[fleet.ThingName]string{}, broken: map[fleet.ThingName]bool{},
		unproven: map[fleet.ThingName]bool{}, refuses: map[fleet.ThingName]bool{}, document: `{"do":"it"}`, undo: `{"undo":"it"}`, finished: map[fleet.ThingName]int{}, undone: map[fleet.ThingName]int{}, lost: map[fleet.ThingName]campaign.MemberState{}, asked: map[string]int{}, told: map[fleet.ThingName]int{}}
}

func (w *world) group(name string, things ...fleet.ThingName) {
	w.mu.Lock()
	defer w.mu.Unlock()
	slices.Sort(things)
	w.groups[name] = things
}

func (w *world) Things(_ context.Context, tenant, target string, after fleet.ThingName, limit int) (out []fleet.ThingName, err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if name, ok := strings.CutPrefix(target, "thing/"); ok {
		return []fleet.ThingName{fleet.ThingName(name)}, nil
	}
	name, ok := strings.CutPrefix(target, "thinggroup/")
	if q, is := strings.CutPrefix(target, "query/"); is {
		name, ok = q, true
	}
	all, known := w.groups[name]
	if !ok || !known {
		return nil, errNobody.New("%s", target)
	}
	if w.page != nil {
		if err := w.page(after); err != nil {
			return nil, err
		}
	}
	for _, t := range all {
		if t.Fold() > after.Fold() && len(out) < limit {
			out = append(out, t)
		}
	}
	return out, nil
}

func (w *world) Presence(_ context.Context, s access.Scope, thing fleet.ThingName) ([]presence.State, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if st, ok := w.online[thing]; ok {
		return []presence.State{st}, nil
	}
	return nil, nil
}

func (w *world) attribute(_ context.Context, _ access.Scope, thing fleet.ThingName, name string) (string, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if name != "zone" {
		return "", nil
	}
	return w.zones[thing], nil
}

// connect and disconnect set where things are.
func (w *world) connect(at time.Time, connected bool, things ...fleet.ThingName) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, t := range things {
		w.online[t] = presence.State{Tenant: "main", Client: string(t), Thing: t, Connected: connected, At: at}
	}
}

func (w *world) Check(_ context.Context, _ string, s *campaign.Spec) error {
	if string(s.Parameters) == `"impossible"` {
		return campaign.ErrInvalid.New("It says so itself.")
	}
	return nil
}

func (w *world) Wants(_ context.Context, _ *campaign.Campaign, t fleet.ThingName) (campaign.Want, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.asked[string(t)]++
	return campaign.Want{Skip: w.skip[t], Words: "test", Before: cmp.Or(w.before[t], "old")}, nil
}

func (w *world) Document(_ context.Context, _ *campaign.Campaign, undo bool) (string, error) {
	if undo {
		return w.undo, nil
	}
	return w.document, nil
}

func (w *world) Judge(_ context.Context, _ *campaign.Campaign, m *campaign.Member, r campaign.Report) (campaign.Verdict, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.broken[m.Thing]:
		return campaign.Fail("test-broken", "It is broken."), nil
	case w.unproven[m.Thing]:
		return campaign.Wait(), nil
	}
	return campaign.Proven("new"), nil
}

func (w *world) Finish(_ context.Context, _ *campaign.Campaign, m *campaign.Member) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.refuses[m.Thing] {
		return errors.New("not now")
	}
	w.finished[m.Thing]++
	return nil
}

func (w *world) Undo(_ context.Context, _ *campaign.Campaign, m *campaign.Member) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.undone[m.Thing]++
	return nil
}

func (w *world) Reversible(context.Context, *campaign.Campaign, *campaign.Member) (bool, error) {
	return !w.final, nil
}

func (w *world) Lost(_ context.Context, _ *campaign.Campaign, m *campaign.Member, s campaign.MemberState) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.lost[m.Thing] = s
	return nil
}

// site is a service, or several, on one database, and the world around it.
type site struct {
	t testing.TB
	*campaign.Service
	*world
	url  string
	db   *store.DB
	jobs *jobs.Service
	now  time.Time
	cfg  campaign.Config
}

func openDB(t testing.TB, url string) *store.DB {
	t.Helper()
	key, err := seal.Open(sha256.New().Sum(nil))
	must(t, err)
	db, err := store.Open(t.Context(), store.Config{URL: url, Seal: key})
	must(t, err)
	return db
}

// start makes the services of a node.
func (s *site) start(node string) {
	s.t.Helper()
	s.db = openDB(s.t, s.url)
	var engine *campaign.Service
	s.jobs = jobs.New(jobs.Config{Store: s.db, Publisher: s.world, Now: func() time.Time { return s.now }, Changed: func(ctx context.Context, e *jobs.Execution) error { return engine.Heard(ctx, e) }})
	cfg := s.cfg
	cfg.Store, cfg.Jobs, cfg.Presence, cfg.Targets, cfg.Attribute, cfg.Node, cfg.Now = s.db, s.jobs, s.world, s.world, s.attribute, node, func() time.Time { return s.now }
	cfg.Actions = map[campaign.Kind]campaign.Action{"test": s.world}
	engine = campaign.New(cfg)
	s.Service = engine
}

func newSite(t testing.TB, url string, cfg campaign.Config) *site {
	t.Helper()
	if cfg.TwoPeopleOver == 0 {
		cfg.TwoPeopleOver = 1 << 40
	}
	s := &site{t: t, world: newWorld(), url: url, now: time.Date(2027, 3, 1, 12, 0, 0, 0, time.UTC), cfg: cfg}
	s.start("a")
	t.Cleanup(func() {
		// The checker proves every test's end.
		if found, err := s.Fsck(context.Background()); err != nil || len(found) > 0 {
			t.Errorf("fsck: %v %v", found, err)
		}
		if found, err := s.jobs.Fsck(context.Background()); err != nil || len(found) > 0 {
			t.Errorf("fsck of jobs: %v %v", found, err)
		}
		s.db.Close()
	})
	return s
}

func onSQLite(t testing.TB, cfg campaign.Config) *site {
	t.Helper()
	return newSite(t, filepath.Join(t.TempDir(), "h.db"), cfg)
}

func onBothEngines(t *testing.T, fn func(t *testing.T, url string)) {
	t.Run("SQLite", func(t *testing.T) { fn(t, filepath.Join(t.TempDir(), "h.db")) })
	t.Run("PostgreSQL", func(t *testing.T) { fn(t, storetest.Postgres(t)) })
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func things(n int) (out []fleet.ThingName) {
	for i := range n {
		out = append(out, fleet.ThingName(fmt.Sprintf("t%05d", i)))
	}
	return out
}

func (s *site) create(id string, spec campaign.Spec) campaign.Campaign {
	s.t.Helper()
	spec.Kind = "test"
	c, err := s.Create(s.t.Context(), "main", id, "ann", spec)
	must(s.t, err)
	return c
}

// pass lets time go by and steps.
func (s *site) pass(d time.Duration) {
	s.t.Helper()
	s.now = s.now.Add(d)
	must(s.t, s.jobs.Step(s.t.Context(), s.now))
	must(s.t, s.Step(s.t.Context(), s.now))
}

func (s *site) get(id string) campaign.Campaign {
	s.t.Helper()
	c, err := s.Campaign(s.t.Context(), main, id)
	must(s.t, err)
	return c
}

func (s *site) is(id string, state campaign.State, code string) {
	s.t.Helper()
	if c := s.get(id); c.State != state || c.Code != code {
		s.t.Fatalf("it is %s %q %q, not %s %q: %v", c.State, c.Code, c.Detail, state, code, c.Counts)
	}
}

// counts compares a campaign's members by state with what is wanted, as "done 3 waiting 2".
func (s *site) counts(id, want string) {
	s.t.Helper()
	c := s.get(id)
	var got []string
	for _, st := range campaign.MemberStates {
		if n := c.Counts.Of(st); n > 0 {
			got = append(got, fmt.Sprint(st, " ", n))
		}
	}
	if text := strings.Join(got, " "); text != want {
		s.t.Fatalf("%s is %s %s: %s\nnot %s", id, c.State, c.Code, text, want)
	}
}

// work has the devices that are told something do it: the first n with a status, all
// of those for -1.
func (s *site) work(id string, n int, status jobs.Status) (did []fleet.ThingName) {
	s.t.Helper()
	c := s.get(id)
	return s.update(c.Job(false), n, status)
}

func (s *site) update(job string, n int, status jobs.Status) (did []fleet.ThingName) {
	s.t.Helper()
	for n != 0 {
		list, err := s.jobs.ExecutionsOfJob(s.t.Context(), "main", job, jobs.Queued, "", 250)
		if errors.Is(err, jobs.ErrJobUnknown) {
			return nil
		}
		must(s.t, err)
		if len(list) == 0 {
			return did
		}
		for _, e := range list {
			if n == 0 {
				return did
			}
			s.report(e.Thing, job, status)
			did = append(did, e.Thing)
			n--
		}
	}
	return did
}

func (s *site) report(thing fleet.ThingName, job string, status jobs.Status) {
	s.t.Helper()
	_, err := s.jobs.Update(s.t.Context(), "main", thing, job, jobs.Update{Status: status})
	must(s.t, err)
}

func (s *site) member(id string, thing fleet.ThingName) campaign.Member {
	s.t.Helper()
	m, err := s.Member(s.t.Context(), main, id, thing)
	must(s.t, err)
	return m
}

// way is a thing's states in a campaign, in their order.
func (s *site) way(thing fleet.ThingName) string {
	s.t.Helper()
	steps, err := s.Timeline(s.t.Context(), main, thing, campaign.Step{}, 250)
	must(s.t, err)
	var out []string
	for _, st := range steps {
		text := string(st.State)
		if st.Code != "" {
			text += "(" + st.Code + ")"
		}
		out = append(out, text)
	}
	return strings.Join(out, " ")
}
