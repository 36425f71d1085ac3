package jobs_test

import (
	"context"
	"crypto/sha256"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"hallmark/fleet"
	"hallmark/fleet/jobs"
	"hallmark/internal/fault"
	"hallmark/internal/seal"
	"hallmark/store"
)

// tape is a publisher that keeps what was published.
type tape struct {
	mu  sync.Mutex
	all []string
}

func (p *tape) Publish(_ context.Context, m fleet.Message) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all = append(p.all, m.Tenant+" "+m.Topic+" "+string(m.Payload))
	return nil
}

// take gives what was published since the last call below a prefix; the rest is
// forgotten.
func (p *tape) take(prefix string) (out []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range p.all {
		if rest, ok := strings.CutPrefix(m, "main "+prefix); ok {
			out = append(out, rest)
		}
	}
	p.all = nil
	return out
}

// groups is a registry with groups.
type groups struct {
	mu sync.Mutex
	m  map[string][]fleet.ThingName
}

func (g *groups) set(name string, things ...fleet.ThingName) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.m[name] = things
}

var errNobody = fault.Define(fault.NotFound, "test-nobody", "Nobody.", "Nothing.")

func (g *groups) Things(_ context.Context, tenant, target string, after fleet.ThingName, limit int) (out []fleet.ThingName, err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if name, ok := strings.CutPrefix(target, "thing/"); ok {
		if name == "nobody" {
			return nil, errNobody.New("")
		}
		if name == "loud" {
			name = "LOUD"
		}
		return []fleet.ThingName{fleet.ThingName(name)}, nil
	}
	all, ok := g.m[strings.TrimPrefix(target, "thinggroup/")]
	if !ok {
		return nil, errNobody.New("")
	}
	all = slices.Clone(all)
	slices.SortFunc(all, func(a, b fleet.ThingName) int { return strings.Compare(a.Fold(), b.Fold()) })
	for _, t := range all {
		if t.Fold() > after.Fold() && len(out) < limit {
			out = append(out, t)
		}
	}
	return out, nil
}

type site struct {
	t testing.TB
	*jobs.Service
	tape   *tape
	groups *groups
	db     *store.DB
	now    time.Time
}

func newSite(t testing.TB, cfg jobs.Config) *site {
	t.Helper()
	key, err := seal.Open(sha256.New().Sum(nil))
	if err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(t.Context(), store.Config{URL: filepath.Join(t.TempDir(), "h.db"), Seal: key})
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, tape: &tape{}, groups: &groups{m: map[string][]fleet.ThingName{}}, db: db, now: time.Unix(100_000, 0)}
	cfg.Store, cfg.Publisher, cfg.Targets, cfg.Now = db, s.tape, s.groups, func() time.Time { return s.now }
	s.Service = jobs.New(cfg)
	t.Cleanup(func() {
		// The checker proves every test's end.
		if found, err := s.Fsck(context.Background()); err != nil || len(found) > 0 {
			t.Errorf("fsck: %v %v", found, err)
		}
		db.Close()
	})
	return s
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (s *site) create(id string, spec jobs.Spec) {
	s.t.Helper()
	if spec.Document == "" {
		spec.Document = `{"do":"` + id + `"}`
	}
	_, err := s.CreateJob(s.t.Context(), "main", id, spec)
	must(s.t, err)
}

// pass lets time go by and steps.
func (s *site) pass(d time.Duration) {
	s.t.Helper()
	s.now = s.now.Add(d)
	must(s.t, s.Step(s.t.Context(), s.now))
}

// send asks as a device does; it gives the last level of the answer's topic and
// the answer. The answer's topic is that of the request.
func (s *site) send(topic, payload string) (string, string) {
	s.t.Helper()
	topic = "$aws/things/" + topic
	var kind, body string
	rows := s.Topics()
	if len(rows) != 1 || rows[0].Filter != "$aws/things/+/jobs/#" {
		s.t.Fatalf("%v", rows)
	}
	err := rows[0].Handle(s.t.Context(), fleet.Request{Sender: fleet.Sender{Tenant: "main"}, Topic: topic, Levels: strings.Split(topic, "/"), Payload: []byte(payload), Reply: func(at string, b []byte) {
		rest, ok := strings.CutPrefix(at, topic+"/")
		if !ok || kind != "" {
			s.t.Errorf("answered on %s", at)
		}
		kind, body = rest, string(b)
	}})
	if err != nil {
		s.t.Errorf("%s: %v", topic, err)
	}
	return kind, body
}

func (s *site) want(topic, payload, kind, body string) {
	s.t.Helper()
	k, b := s.send(topic, payload)
	if k != kind || b != body {
		s.t.Errorf("%s %s\ngot  %s %s\nwant %s %s", topic, payload, k, b, kind, body)
	}
}

func (s *site) told(prefix string, want ...string) {
	s.t.Helper()
	got := s.tape.take(prefix)
	if !slices.Equal(got, want) {
		s.t.Errorf("published\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func (s *site) job(id string) jobs.Job {
	s.t.Helper()
	j, err := s.Job(s.t.Context(), "main", id)
	must(s.t, err)
	return j
}

func (s *site) update(thing fleet.ThingName, job string, status jobs.Status) {
	s.t.Helper()
	_, err := s.Update(s.t.Context(), "main", thing, job, jobs.Update{Status: status})
	must(s.t, err)
}

func things(n int) (out []fleet.ThingName) {
	for i := range n {
		out = append(out, fleet.ThingName(fmt.Sprintf("t%05d", i)))
	}
	return out
}
