package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"hallmark/api/deviceapi"
	"hallmark/api/factoryapi"
	"hallmark/ca/catest"
	"hallmark/ca/csr"
	"hallmark/store/storetest"
)

// TestParallel_TruthIsOne covers A40, A42, S10 and the seventh of the ten ways:
// stations and devices ask all at once, over mutual TLS, and there is one truth.
// On PostgreSQL two service processes share it.
func TestParallel_TruthIsOne(t *testing.T) {
	for _, engine := range []string{"SQLite", "PostgreSQL"} {
		t.Run(engine, func(t *testing.T) {
			database := ""
			if engine == "PostgreSQL" {
				database = storetest.Postgres(t)
			}
			s := newSite(t, quickHSM(), database, anyName(quota))
			s.halt()
			p := &parallel{site: s, t: t, states: []string{"state"}}
			if database != "" {
				p.secondNode()
			}
			p.service("hallmark.yaml", "state")
			if database != "" {
				p.service("second.yaml", "second")
			}
			t.Run("fifty requests for one unit and key", p.oneUnit)
			t.Run("fifty first boots with one request", p.oneBoot)
			t.Run("two hundred stations with one code", p.enrolAtOnce)
			t.Run("a thousand requests for a hundred units", p.quota)
			s.clean()
		})
	}
}

// quota is the quantity of the order: two units for the first tests, a hundred
// for the last.
const quota = 102

// parallel is a site with one or two services on its database.
type parallel struct {
	*site
	t      *testing.T
	states []string // state directory of each
}

// secondNode prepares a service that shares database and keys with the first
// and nothing else.
func (p *parallel) secondNode() {
	p.t.Helper()
	text, err := os.ReadFile(p.path("hallmark.yaml"))
	if err != nil {
		p.t.Fatal(err)
	}
	out := strings.Replace(string(text), "state: state\n", "state: second\n", 1)
	listen, rest, ok := strings.Cut(out, "listen:\n")
	if !ok {
		p.t.Fatal("the configuration has no doors")
	}
	doors, after, _ := strings.Cut(rest, "approvers:")
	out = listen + "listen:\n" + otherPort.ReplaceAllString(doors, "127.0.0.1:0") + "approvers:" + after
	if err := os.WriteFile(p.path("second.yaml"), []byte(out), 0o644); err != nil {
		p.t.Fatal(err)
	}
	if err := fixPorts(p.path("second.yaml")); err != nil {
		p.t.Fatal(err)
	}
	for _, name := range []string{"seal.key", filepath.Join("keys", "log.key")} {
		b, err := os.ReadFile(p.path("state", name))
		if err != nil {
			p.t.Fatal(err)
		}
		to := p.path("second", name)
		if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
			p.t.Fatal(err)
		}
		if err := os.WriteFile(to, b, 0o600); err != nil {
			p.t.Fatal(err)
		}
	}
	p.states = append(p.states, "second")
}

// urls are the addresses of a door of all services.
func (p *parallel) urls(door string) (out []string) {
	for _, s := range p.states {
		out = append(out, "https://"+p.endpoints(s).Doors[door])
	}
	return out
}

// atOnce sends n requests together and counts the outcomes. One whose connection is
// cut asks again, as stations and devices do: a loaded service closes a connection
// whose handshake takes too long, and asking twice must change nothing. good gets the
// bodies of those that succeeded.
func (p *parallel) atOnce(t *testing.T, n int, send func(i int) (reply, error)) (outcomes map[string]int, good [][]byte) {
	t.Helper()
	var mu sync.Mutex
	var wg sync.WaitGroup
	outcomes = map[string]int{}
	start := make(chan struct{})
	for i := range n {
		wg.Go(func() {
			<-start
			r, err := send(i)
			for try := 0; err != nil && try < 5; try++ {
				r, err = send(i)
			}
			mu.Lock()
			defer mu.Unlock()
			if err != nil {
				outcomes[err.Error()]++
				return
			}
			outcomes[r.String()]++
			if r.status == http.StatusOK {
				good = append(good, r.body)
			}
		})
	}
	close(start)
	wg.Wait()
	return outcomes, good
}

func (p *parallel) oneUnit(t *testing.T) {
	u, cert, urls := newUnit(t, "ONE"), p.stationPair(), p.urls("factory")
	client := p.client(&cert, 25)
	before := p.order(siteOrder).Used
	outcomes, good := p.atOnce(t, 50, func(i int) (reply, error) {
		return call(t.Context(), client, "POST", urls[i%len(urls)]+"/factory/v1/units/issue", u.request())
	})
	if outcomes["200"] != 50 {
		t.Errorf("outcomes: %v", outcomes)
	}
	certificates, fresh := map[string]bool{}, 0
	for _, b := range good {
		var a factoryapi.IssueAnswer
		if err := json.Unmarshal(b, &a); err != nil {
			t.Fatal(err)
		}
		certificates[string(a.Certificate)] = true
		if !a.Replayed {
			fresh++
		}
	}
	if len(certificates) != 1 {
		t.Errorf("%d certificates for one unit and one key", len(certificates))
	}
	if used := p.order(siteOrder).Used; used != before+1 {
		t.Errorf("one unit took %d of the quota", used-before)
	}
	t.Logf("%d of 50 answers were not called a replay", fresh)
}

func (p *parallel) oneBoot(t *testing.T) {
	birth := p.issue(newUnit(t, "BOOT"))
	urls := p.urls("device")
	client := p.client(&birth, 25)
	r, err := call(t.Context(), client, "POST", urls[0]+"/bootstrap/v1/nonce", nil)
	if err != nil || r.status != http.StatusOK {
		t.Fatal(r, err)
	}
	var nonce deviceapi.Nonce
	if err := json.Unmarshal(r.body, &nonce); err != nil {
		t.Fatal(err)
	}
	request, err := csr.Create(catest.NewKey(t), "BOOT", nonce.Nonce)
	if err != nil {
		t.Fatal(err)
	}
	outcomes, good := p.atOnce(t, 50, func(i int) (reply, error) {
		return call(t.Context(), client, "POST", urls[i%len(urls)]+"/bootstrap/v1/register", deviceapi.RegisterRequest{Csr: request})
	})
	if outcomes["200"] != 50 {
		t.Errorf("outcomes: %v", outcomes)
	}
	certificates := map[string]bool{}
	for _, b := range good {
		var a deviceapi.Registration
		if err := json.Unmarshal(b, &a); err != nil {
			t.Fatal(err)
		}
		certificates[string(a.Certificate)] = true
		if a.Thing != "BOOT" || a.Status != "ACTIVE" {
			t.Errorf("thing %s, %s", a.Thing, a.Status)
		}
	}
	if len(certificates) != 1 {
		t.Errorf("%d certificates of one first boot", len(certificates))
	}
	a, err := p.api("bob").GetDeviceWithResponse(t.Context(), "BOOT")
	if err != nil || a.JSON200 == nil {
		t.Fatal(err, string(a.Body))
	}
	operational := 0
	for _, c := range a.JSON200.Certificates {
		if c.Profile == "ldevid" {
			operational++
		}
	}
	if operational != 1 || a.JSON200.Thing.Name != "BOOT" || len(a.JSON200.Thing.Principals) != 1 {
		t.Errorf("%d operational certificates, thing %+v", operational, a.JSON200.Thing)
	}
}

// quota runs last: it leaves nothing of the order.
func (p *parallel) quota(t *testing.T) {
	const requests = 1000
	left := quota - int(p.order(siteOrder).Used)
	if left != quota-2 {
		t.Fatalf("%d units are left", left)
	}
	units := make([]unit, requests)
	for i := range units {
		units[i] = newUnit(t, fmt.Sprintf("U-%04d", i))
	}
	cert, urls := p.stationPair(), p.urls("factory")
	client := p.client(&cert, 100)
	outcomes, good := p.atOnce(t, requests, func(i int) (reply, error) {
		return call(t.Context(), client, "POST", urls[i%len(urls)]+"/factory/v1/units/issue", units[i].request())
	})
	if outcomes["200"] != left || outcomes["429 quota-exhausted"] != requests-left {
		t.Errorf("outcomes: %v; %d units were left for %d requests", outcomes, left, requests)
	}
	serials := map[string]bool{}
	for _, b := range good {
		var a factoryapi.IssueAnswer
		if err := json.Unmarshal(b, &a); err != nil {
			t.Fatal(err)
		}
		serials[a.Serial] = true
	}
	if len(serials) != left {
		t.Errorf("%d serial numbers", len(serials))
	}
	if o := p.order(siteOrder); o.Used != quota {
		t.Errorf("the order used %d of %d", o.Used, quota)
	}
}
