package shadow_test

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"hallmark/fleet"
	"hallmark/fleet/shadow"
	"hallmark/internal/seal"
	"hallmark/store"
)

// tape is a publisher that keeps what was published.
type tape struct {
	mu   sync.Mutex
	all  []fleet.Message
	fail error
}

func (p *tape) Publish(_ context.Context, m fleet.Message) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.all = append(p.all, m)
	return p.fail
}

// take gives what was published since the last call: "tenant topic payload".
func (p *tape) take() (out []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range p.all {
		out = append(out, m.Tenant+" "+strings.TrimPrefix(m.Topic, "$aws/things/")+" "+string(m.Payload))
	}
	p.all = nil
	return out
}

type site struct {
	t testing.TB
	*shadow.Service
	tape *tape
	db   *store.DB
	now  time.Time
	rows []fleet.Topic
}

func newSite(t testing.TB, cfg shadow.Config) *site {
	t.Helper()
	key, err := seal.Open(sha256.New().Sum(nil))
	if err != nil {
		t.Fatal(err)
	}
	db, err := store.Open(t.Context(), store.Config{URL: filepath.Join(t.TempDir(), "h.db"), Seal: key})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { db.Close() })
	s := &site{t: t, tape: &tape{}, db: db, now: time.Unix(1000, 0)}
	cfg.Store, cfg.Publisher, cfg.Now = db, s.tape, func() time.Time { return s.now }
	s.Service = shadow.New(cfg)
	s.rows = s.Topics()
	return s
}

// send publishes as a device does, through the row whose filter matches.
func (s *site) send(topic, payload string) []string {
	s.t.Helper()
	topic = "$aws/things/" + topic
	levels := strings.Split(topic, "/")
	for _, row := range s.rows {
		filter := strings.Split(row.Filter, "/")
		match := len(filter) == len(levels)
		for i := 0; match && i < len(filter); i++ {
			match = filter[i] == "+" || filter[i] == levels[i]
		}
		if match {
			err := row.Handle(s.t.Context(), fleet.Request{Sender: fleet.Sender{Tenant: "main"}, Topic: topic, Levels: levels, Payload: []byte(payload),
				Reply: func(string, []byte) { s.t.Error("shadow answers go through the broker") }})
			if err != nil {
				s.t.Errorf("%s: %v", topic, err)
			}
			return s.tape.take()
		}
	}
	s.t.Fatalf("no row for %s", topic)
	return nil
}

func (s *site) want(got []string, want ...string) {
	s.t.Helper()
	if len(got) != len(want) {
		s.t.Fatalf("got %d messages\n%s\nwant %d\n%s", len(got), strings.Join(got, "\n"), len(want), strings.Join(want, "\n"))
	}
	for i := range got {
		if got[i] != "main "+want[i] {
			s.t.Errorf("message %d\ngot  %s\nwant main %s", i, got[i], want[i])
		}
	}
}

func TestService_TellsTheStoryOfAShadow(t *testing.T) {
	s := newSite(t, shadow.Config{})
	s.want(s.send("t1/shadow/get", ``), `t1/shadow/get/rejected {"code":404,"message":"No shadow exists with name: 't1'"}`)
	s.want(s.send("t1/shadow/update", `{"state":{"desired":{"a":1.0,"b":{"c":[1,2]}},"reported":{"a":1}},"clientToken":"k1"}`),
		`t1/shadow/update/delta {"state":{"b":{"c":[1,2]}},"metadata":{"b":{"c":[{"timestamp":1000},{"timestamp":1000}]}},"version":1,"timestamp":1000,"clientToken":"k1"}`,
		`t1/shadow/update/documents {"current":{"state":{"desired":{"a":1.0,"b":{"c":[1,2]}},"reported":{"a":1}},"metadata":{"desired":{"a":{"timestamp":1000},"b":{"c":[{"timestamp":1000},{"timestamp":1000}]}},"reported":{"a":{"timestamp":1000}}},"version":1},"timestamp":1000,"clientToken":"k1"}`,
		`t1/shadow/update/accepted {"state":{"desired":{"a":1.0,"b":{"c":[1,2]}},"reported":{"a":1}},"metadata":{"desired":{"a":{"timestamp":1000},"b":{"c":[{"timestamp":1000},{"timestamp":1000}]}},"reported":{"a":{"timestamp":1000}}},"version":1,"timestamp":1000,"clientToken":"k1"}`)
	s.now = s.now.Add(1900 * time.Millisecond)
	// The device is there: no delta any more; the null is in accepted and nowhere else.
	s.want(s.send("t1/shadow/update", `{"state":{"reported":{"a":null,"b":{"c":[1.0,2]}},"desired":{"a":null},"delta":{"x":1},"other":1},"version":1}`),
		`t1/shadow/update/documents {"previous":{"state":{"desired":{"a":1.0,"b":{"c":[1,2]}},"reported":{"a":1}},"metadata":{"desired":{"a":{"timestamp":1000},"b":{"c":[{"timestamp":1000},{"timestamp":1000}]}},"reported":{"a":{"timestamp":1000}}},"version":1},"current":{"state":{"desired":{"b":{"c":[1,2]}},"reported":{"b":{"c":[1.0,2]}}},"metadata":{"desired":{"b":{"c":[{"timestamp":1000},{"timestamp":1000}]}},"reported":{"b":{"c":[{"timestamp":1001},{"timestamp":1001}]}}},"version":2},"timestamp":1001}`,
		`t1/shadow/update/accepted {"state":{"desired":{"a":null},"reported":{"a":null,"b":{"c":[1.0,2]}}},"metadata":{"desired":{},"reported":{"b":{"c":[{"timestamp":1001},{"timestamp":1001}]}}},"version":2,"timestamp":1001}`)
	s.want(s.send("t1/shadow/get", `{"clientToken":"g"}`),
		`t1/shadow/get/accepted {"state":{"desired":{"b":{"c":[1,2]}},"reported":{"b":{"c":[1.0,2]}}},"metadata":{"desired":{"b":{"c":[{"timestamp":1000},{"timestamp":1000}]}},"reported":{"b":{"c":[{"timestamp":1001},{"timestamp":1001}]}}},"version":2,"timestamp":1001,"clientToken":"g"}`)
	s.want(s.send("t1/shadow/update", `{"state":{"reported":{"a":1}},"version":1,"clientToken":"late"}`),
		`t1/shadow/update/rejected {"code":409,"message":"Version conflict","timestamp":1001,"clientToken":"late"}`)
	// A no-op counts; null state empties the document and keeps it.
	if got := s.send("t1/shadow/update", `{"state":{}}`); len(got) != 2 || !strings.HasSuffix(got[1], `accepted {"state":{},"metadata":{},"version":3,"timestamp":1001}`) {
		t.Errorf("no-op: %s", got)
	}
	if got := s.send("t1/shadow/update", `{"state":null}`); len(got) != 2 || !strings.HasSuffix(got[1], `accepted {"state":null,"metadata":{},"version":4,"timestamp":1001}`) {
		t.Errorf("null state: %s", got)
	}
	s.want(s.send("t1/shadow/get", `{}`), `t1/shadow/get/accepted {"state":{},"metadata":{},"version":4,"timestamp":1001}`)
	// Deletion answers with the last version; the next document counts on.
	s.want(s.send("t1/shadow/delete", `{"clientToken":"d","x":[`), `t1/shadow/delete/accepted {"version":4,"timestamp":1001}`)
	s.want(s.send("t1/shadow/delete", `{"clientToken":"d"}`), `t1/shadow/delete/rejected {"code":404,"message":"No shadow exists with name: 't1'","clientToken":"d"}`)
	s.want(s.send("t1/shadow/update", `{"state":{"reported":{"a":1}},"version":4}`), `t1/shadow/update/rejected {"code":409,"message":"Version conflict","timestamp":1001}`)
	got := s.send("t1/shadow/update", `{"state":{"reported":{"a":1}},"version":1}`)
	if len(got) != 2 || strings.Contains(got[0], "previous") || !strings.Contains(got[1], `"version":5`) {
		t.Errorf("after deletion: %s", got)
	}
	if found, err := s.Fsck(t.Context()); err != nil || len(found) > 0 {
		t.Errorf("fsck: %v %v", found, err)
	}
}

func TestService_KeepsNamedShadowsApart(t *testing.T) {
	s := newSite(t, shadow.Config{})
	ctx := t.Context()
	for _, name := range []string{"", "b", "a", "$x"} {
		if _, err := s.Update(ctx, shadow.Key{Tenant: "main", Thing: "t", Name: name}, []byte(`{"state":{"reported":{"n":"`+name+`"}}}`)); err != nil {
			t.Fatal(err)
		}
	}
	s.tape.take()
	if got := s.send("t/shadow/name/b/get", ``); len(got) != 1 || !strings.HasPrefix(got[0], `main t/shadow/name/b/get/accepted {"state":{"reported":{"n":"b"}}`) {
		t.Error(got)
	}
	s.want(s.send("t/shadow/name/none/get", `{"clientToken":"x"}`), `t/shadow/name/none/get/rejected {"code":404,"message":"No shadow exists with name: 't~none'","clientToken":"x"}`)
	s.want(s.send("t/shadow/name/B/get", ``), `t/shadow/name/B/get/rejected {"code":404,"message":"No shadow exists with name: 't~B'"}`)
	s.want(s.send("t/shadow/name/no way/get", ``), `t/shadow/name/no way/get/rejected {"code":400,"message":"Invalid shadow name","timestamp":1000}`)
	// Another tenant has nothing of it (S24).
	if _, err := s.Get(ctx, shadow.Key{Tenant: "other", Thing: "t", Name: "b"}); !errors.Is(err, shadow.ErrUnknown) {
		t.Errorf("another tenant: %v", err)
	}
	// The list has no classic shadow, pages, and is empty for a thing without.
	var names []string
	token := ""
	for {
		p, err := s.ListNamed(ctx, "main", "t", token, 2)
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, p.Results...)
		if token = p.NextToken; token == "" {
			break
		}
	}
	if fmt.Sprint(names) != "[$x a b]" {
		t.Error(names)
	}
	if p, err := s.ListNamed(ctx, "main", "nobody", "", 0); err != nil || p.Results == nil || len(p.Results) != 0 {
		t.Errorf("%v %v", p, err)
	}
	if _, err := s.ListNamed(ctx, "main", "t", "", 101); !errors.Is(err, shadow.ErrPage) {
		t.Error(err)
	}
	if _, err := s.Delete(ctx, shadow.Key{Tenant: "main", Thing: "t", Name: "a"}); err != nil {
		t.Fatal(err)
	}
	if p, _ := s.ListNamed(ctx, "main", "t", "", 0); fmt.Sprint(p.Results) != "[$x b]" {
		t.Error(p.Results)
	}
	// A new owner starts from nothing (S43), tombstones too.
	if err := s.Forget(ctx, "main", "t"); err != nil {
		t.Fatal(err)
	}
	b, err := s.Update(ctx, shadow.Key{Tenant: "main", Thing: "t", Name: "a"}, []byte(`{"state":{}}`))
	if err != nil || !strings.Contains(string(b), `"version":1,`) {
		t.Errorf("%s %v", b, err)
	}
}

func TestService_LimitsTheResultNotTheRequest(t *testing.T) {
	s := newSite(t, shadow.Config{})
	k := shadow.Key{Tenant: "main", Thing: "t"}
	fill := func(section string, n int) error {
		_, err := s.Update(t.Context(), k, []byte(`{"state":{"`+section+`":{"a":"`+strings.Repeat("x", n-len(`{"a":""}`))+`"}}}`))
		return err
	}
	half := shadow.DefaultMaxDocument / 2
	if err := fill("desired", half); err != nil {
		t.Fatal(err)
	}
	if err := fill("reported", half); err != nil {
		t.Fatal(err)
	}
	err := fill("reported", half+1)
	if code, text := shadow.Reject(err); code != 413 || text != "The payload exceeds the maximum size allowed" {
		t.Errorf("one byte more: %d %s", code, text)
	}
	// White space and nulls do not count.
	if _, err := s.Update(t.Context(), k, []byte(`{"state":{"desired":{"b":null}},`+strings.Repeat(" ", 20000)+`"version":2}`)); err != nil {
		t.Error(err)
	}
}

func TestService_SaysWhenItCouldNotTell(t *testing.T) {
	s := newSite(t, shadow.Config{})
	s.tape.fail = errors.New("no route")
	k := shadow.Key{Tenant: "main", Thing: "t"}
	answer, err := s.Update(t.Context(), k, []byte(`{"state":{"reported":{"a":1}}}`))
	if !errors.Is(err, shadow.ErrUndelivered) || !json.Valid(answer) {
		t.Errorf("%s %v", answer, err)
	}
	if _, err := s.Get(t.Context(), k); err != nil {
		t.Errorf("the update is lost: %v", err)
	}
}

// TestService_ParallelUpdatesAllCount sends updates without a version from many
// sides: each is in the document, each version was announced once, in order.
func TestService_ParallelUpdatesAllCount(t *testing.T) {
	s := newSite(t, shadow.Config{InFlight: -1})
	k := shadow.Key{Tenant: "main", Thing: "t"}
	const n = 50
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			if _, err := s.Update(t.Context(), k, []byte(fmt.Sprintf(`{"state":{"reported":{"k%d":%d}}}`, i, i))); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	var got struct {
		State   struct{ Reported map[string]int }
		Version int
	}
	b, err := s.Get(t.Context(), k)
	if err != nil || json.Unmarshal(b, &got) != nil || got.Version != n || len(got.State.Reported) != n {
		t.Fatalf("%s %v", b, err)
	}
	version := 0
	for _, m := range s.tape.take() {
		if strings.Contains(m, "/accepted ") {
			version++
			if !strings.Contains(m, fmt.Sprintf(`"version":%d,`, version)) {
				t.Fatalf("want version %d: %s", version, m)
			}
		}
	}
	if version != n {
		t.Errorf("%d accepted", version)
	}
}

// TestService_OneOfManyWinsAVersion is the same with expected versions.
func TestService_OneOfManyWinsAVersion(t *testing.T) {
	s := newSite(t, shadow.Config{InFlight: -1})
	k := shadow.Key{Tenant: "main", Thing: "t"}
	for version := 1; version < 5; version++ {
		var wg sync.WaitGroup
		var mu sync.Mutex
		won := 0
		for range 20 {
			wg.Go(func() {
				_, err := s.Update(t.Context(), k, []byte(fmt.Sprintf(`{"state":{"reported":{}},"version":%d}`, max(1, version-1))))
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					won++
				} else if !errors.Is(err, shadow.ErrConflict) {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		// The first round is special: 1 stands for "none yet" and for the first version.
		if want := 1; won != want && !(version == 1 && won == 2) {
			t.Errorf("round %d: %d won", version, won)
		}
		if version == 1 {
			version = 2
		}
	}
}

// slow is a publisher that waits.
type slow struct{ go_ chan struct{} }

func (p slow) Publish(ctx context.Context, _ fleet.Message) error { <-p.go_; return nil }

func TestService_TakesTenRequestsOfAThingAtOnce(t *testing.T) {
	s := newSite(t, shadow.Config{})
	p := slow{make(chan struct{})}
	service := shadow.New(shadow.Config{Store: s.db, Publisher: p})
	k := shadow.Key{Tenant: "main", Thing: "t"}
	results := make(chan error, 30)
	for range 30 {
		go func() {
			_, err := service.Update(t.Context(), k, []byte(`{"state":{}}`))
			results <- err
		}()
	}
	for range 20 { // the others are under way and wait for the publisher
		err := <-results
		if code, _ := shadow.Reject(err); code != 429 {
			t.Fatalf("got %v", err)
		}
	}
	if _, err := service.Delete(t.Context(), k); !errors.Is(err, shadow.ErrInFlight) {
		t.Errorf("delete: %v", err)
	}
	close(p.go_)
	for range 10 {
		if err := <-results; err != nil {
			t.Error(err)
		}
	}
}
