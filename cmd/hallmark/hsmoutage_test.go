package main

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"hallmark/api/adminapi"
	"hallmark/api/factoryapi"
	"hallmark/hsm"
	"hallmark/hsm/hsmtest"
)

// lockedLog collects a log that many write.
type lockedLog struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// newSiteWith is [newSite] on file keys, with change called when the directory is
// prepared and nothing runs yet, and with the service's log.
func newSiteWith(t testing.TB, o adminapi.OrderRequest, change func(*site) error) (*site, *lockedLog) {
	t.Helper()
	log := &lockedLog{}
	g := &globals{JSON: true, Out: io.Discard, Err: log, In: strings.NewReader(""), Now: time.Now}
	s := &site{stage: stage{g: g, dir: filepath.Join(t.TempDir(), "site"), hsm: "software", freePorts: true}, t: t}
	ctx := context.Background()
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{
		{"check", func(context.Context) error { return s.check() }},
		{"prepare", s.prepare},
		{"ports", func(context.Context) error { return fixPorts(s.path("hallmark.yaml")) }},
		{"change", func(context.Context) error { return change(s) }},
		{"serve", s.serve},
		{"ceremony", s.ceremony},
		{"order", func(ctx context.Context) error { return s.openOrder(ctx, o) }},
		{"enrol", s.enrol},
	} {
		if err := step.do(ctx); err != nil {
			s.halt()
			t.Fatalf("setting up the site, %s: %v\n%s", step.name, err, log)
		}
	}
	t.Cleanup(s.halt)
	return s, log
}

// shot is one request of the load.
type shot struct {
	unit    unit
	verdict verdict
	at      time.Time
	err     error
}

// load is clients that ask for a new unit each time.
type load struct {
	a     *assault
	mu    sync.Mutex
	shots []shot
	stop  context.CancelFunc
	wg    sync.WaitGroup
}

func startLoad(t testing.TB, s *site, clients int, prefix string) *load {
	ctx, cancel := context.WithCancel(t.Context())
	l := &load{a: newAssault(t, s), stop: cancel}
	for c := range clients {
		l.wg.Go(func() {
			for i := 0; ctx.Err() == nil; i++ {
				u := newUnit(t, prefix+"-"+string(rune('A'+c))+"-"+time.Now().Format("150405")+"-"+strconv.Itoa(i))
				x := shot{unit: u, at: time.Now()}
				x.verdict, x.err = l.a.send(context.Background(), u.wire(t))
				l.mu.Lock()
				l.shots = append(l.shots, x)
				l.mu.Unlock()
				if x.verdict.status != http.StatusOK {
					every(ctx, 20*time.Millisecond) // a client that does not listen to Retry-After at all
				}
			}
		})
	}
	t.Cleanup(l.end)
	return l
}

func (l *load) end() {
	l.stop()
	l.wg.Wait()
}

// since counts the successes and refusals of the requests that began after a time.
func (l *load) since(from time.Time) (good, bad int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, x := range l.shots {
		switch {
		case x.at.Before(from):
		case x.verdict.status == http.StatusOK:
			good++
		default:
			bad++
		}
	}
	return good, bad
}

// until waits for what the load makes happen.
func until(t testing.TB, what string, longest time.Duration, ok func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	for !ok() {
		if time.Since(start) > longest {
			t.Fatalf("not within %v: %s", longest, what)
		}
		time.Sleep(10 * time.Millisecond)
	}
	return time.Since(start)
}

func (u unit) wire(t testing.TB) wire {
	return wire{door: "factory", method: "POST", path: "/factory/v1/units/issue", media: "application/json", body: toJSON(t, u.request())}
}

// TestHSMOutage_TheServiceRefusesWhileItsTokenIsAwayAndRecovers is the second
// acceptance of the hostile input issue, A23 and A24: the device authority's key
// is behind a token server that is killed, and then frozen, under the load of
// eight clients.
func TestHSMOutage_TheServiceRefusesWhileItsTokenIsAwayAndRecovers(t *testing.T) {
	tok := hsmtest.Server(t)
	s, log := newSiteWith(t, anyName(1_000_000), func(s *site) error {
		files := s.keyURI
		s.keyURI = func(name string) string {
			if name == "device-1" {
				return tok.URI(name)
			}
			return files(name)
		}
		text, err := os.ReadFile(s.path("hallmark.yaml"))
		if err != nil {
			return err
		}
		return os.WriteFile(s.path("hallmark.yaml"), bytes.Replace(text, []byte("log_level: warn"), []byte("log_level: debug"), 1), 0o644)
	})
	t.Cleanup(func() {
		for line := range strings.Lines(log.String()) {
			if t.Failed() && strings.Contains(line, "token") && !strings.Contains(line, "request") {
				t.Logf("%s", line)
			}
		}
	})
	outage := 3 * time.Second
	if long() {
		outage = 10 * time.Second
	}
	asked := map[string]shot{}
	for _, c := range []struct {
		name       string
		away, back func()
		lasts      time.Duration
		first      time.Duration // the longest of the requests that meet the outage
	}{
		{"KILL", tok.Kill, tok.Start, outage, 6 * time.Second},
		{"FREEZE", tok.Freeze, tok.Thaw, outage + 5*time.Second, 6 * time.Second}, // 5 s until a silent token counts as lost
	} {
		l := startLoad(t, s, 8, c.name)
		until(t, "100 certificates", 30*time.Second, func() bool { good, _ := l.since(time.Time{}); return good >= 100 })
		began := time.Now()
		c.away()
		until(t, "a refusal", 10*time.Second, func() bool { _, bad := l.since(time.Time{}); return bad > 0 })
		known := time.Now() // the service knows from now on
		time.Sleep(c.lasts - time.Since(began))
		c.back()
		returned := time.Now()
		took := until(t, "a certificate again", 5*time.Second, func() bool { good, _ := l.since(returned); return good > 0 })
		until(t, "50 certificates again", 10*time.Second, func() bool { good, _ := l.since(returned); return good >= 50 })
		l.end()
		good, bad := 0, 0
		var slowest, slowestKnown time.Duration
		codes := map[string]int{}
		for _, x := range l.shots {
			asked[x.unit.name] = x
			v := x.verdict
			switch {
			case x.err != nil:
				t.Errorf("%s %s: %v", c.name, x.unit.name, x.err)
			case v.status == http.StatusOK:
				good++
				s.holds(t, x.unit, v.body)
			case v.status == http.StatusServiceUnavailable && v.retry != "" && v.code != "":
				bad++
				codes[v.code]++
			default:
				t.Errorf("%s %s: %s %s, Retry-After %q", c.name, x.unit.name, v, v.body, v.retry)
			}
			if x.at.Before(returned) && x.at.After(began) {
				slowest = max(slowest, v.took)
			}
			if x.at.Before(returned) && x.at.After(known) {
				slowestKnown = max(slowestKnown, v.took)
			}
		}
		t.Logf("%s: %d certificates, %d refusals %v, slowest %v, once known %v, issuing %v after the return", c.name, good, bad, codes, slowest, slowestKnown, took)
		if bad < 50 || len(codes) != 1 || codes["hsm-token-down"] == 0 {
			t.Errorf("%s: refusals %v: one stable code was expected", c.name, codes)
		}
		if slowest > c.first || slowestKnown > time.Second {
			t.Errorf("%s: the slowest answer took %v, and %v when the loss was known", c.name, slowest, slowestKnown)
		}
	}

	// Every unit asks again and has exactly one certificate: the one it was shown.
	a := newAssault(t, s)
	for name, x := range asked {
		v := a.must(x.unit.wire(t))
		if v.status != http.StatusOK {
			t.Errorf("%s asks again: %s", name, v)
			continue
		}
		leaf := s.holds(t, x.unit, v.body)
		if x.verdict.status == http.StatusOK && !bytes.Equal(leaf, s.holds(t, x.unit, x.verdict.body)) {
			t.Errorf("%s has two certificates", name)
		}
	}
	if used := s.order(siteOrder).Used; used != int64(len(asked)) {
		t.Errorf("the order counts %d of %d units", used, len(asked))
	}
	for _, h := range s.server.keys.Health(t.Context()) { // A23
		if h.PINLow || h.State != hsm.StateUp {
			t.Errorf("token %s is %s, PIN low %v", h.Token.Label, h.State, h.PINLow)
		}
	}
	if strings.Contains(log.String(), "refuses the PIN") || strings.Contains(log.String(), "hsm-pin-refused") {
		t.Error("the PIN was refused")
	}
	s.halt()
	s.clean()
}

// holds checks the certificate in an answer and gives it.
func (s *site) holds(t testing.TB, u unit, body []byte) []byte {
	t.Helper()
	var a factoryapi.IssueAnswer
	if err := json.Unmarshal(body, &a); err != nil {
		t.Fatal(err)
	}
	if err := s.verifies(a.Certificate, a.Chain, u); err != nil {
		t.Errorf("%s: %v", u.name, err)
	}
	return a.Certificate
}
