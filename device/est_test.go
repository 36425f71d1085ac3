package device

import (
	"net/http"
	"strings"
	"sync"
	"testing"

	"hallmark/bootstrap"
	"hallmark/bootstrap/est"
	"hallmark/crl"
)

// estDoor lets the service's door speak EST too, and counts the requests.
func (s *service) estDoor() (count func(operation string) int) {
	server := est.New(est.Config{Enroller: bootstrap.NewEnroller(bootstrap.EnrollerConfig{Rules: bootstrap.Rules{Protocol: "est", PerMinute: 6000}, Service: s.Service, Revoker: s.Crl}), Tenant: "main"}).Handler(est.Certificates)
	var mu sync.Mutex
	seen := map[string]int{}
	s.Intercept = func(w http.ResponseWriter, r *http.Request) bool {
		operation, ok := strings.CutPrefix(r.URL.Path, est.Prefix)
		if !ok {
			return true
		}
		mu.Lock()
		seen[operation]++
		mu.Unlock()
		server.ServeHTTP(w, r)
		return false
	}
	return func(operation string) int {
		mu.Lock()
		defer mu.Unlock()
		return seen[operation]
	}
}

// A50, by simple re-enrolment at the real door: power is cut at each step, and the
// device goes on with the same key.
func TestA50_ARotationByESTSurvivesAPowerCutAtEachStep(t *testing.T) {
	s := newService(t)
	asked := s.estDoor()
	steps := append([]string{""}, "rotate-begin", "rotate-key", "write key.pem", "connect", "ask", "answered", "store", "write registration.json", "write cert.pem", "rotate-issued", "rotate-stored", "rotate-trial", "rotate-promote", "rotate-connected", "rotate-report")
	var wg sync.WaitGroup
	for n, at := range steps {
		u := s.unit(n)
		u.cfg.Renewal = "est"
		wg.Go(func() {
			cut := at == ""
			u.spoil = func(u *unit, step string, _ int) error {
				if cut || step != at {
					return nil
				}
				cut = true
				return u.kill()
			}
			j := s.ask(u.thing, "j1", rotateNow)
			u.survive("cut at "+at, ended(j))
			if status, step := s.ended(u.thing, j); status != succeeded || step != "connected" || u.works() != "B" || !cut {
				t.Errorf("%s: %s %s %v", at, status, step, j.Details)
			}
			if n := len(issued(t, s.Door, u.sn)); n != 2 {
				t.Errorf("%s: %d certificates", at, n)
			}
		})
	}
	wg.Wait()
	if n := asked("simplereenroll"); n < len(steps) {
		t.Errorf("%d re-enrolments", n)
	}
}

// A device whose birth certificate was revoked gets no other by EST either: it hears
// why, keeps A, and says so.
func TestRotate_ARefusalByESTLeavesAInUse(t *testing.T) {
	s := newService(t)
	s.estDoor()
	u := s.unit(1)
	u.cfg.Renewal = "est"
	h, err := openHome(u.cfg.Dir)
	if err != nil {
		t.Fatal(err)
	}
	birth, err := h.birth()
	h.close()
	if err != nil {
		t.Fatal(err)
	}
	s.Revoke(t, birth.Leaf, crl.Superseded)
	j := s.ask(u.thing, "j1", rotateNow)
	u.survive("refused", ended(j))
	if status, step := s.ended(u.thing, j); status != failed || step != "renew" || !strings.HasPrefix(j.Details["code"], "register-") {
		t.Errorf("%s %s %v", status, step, j.Details)
	}
	if slot := u.works(); slot != "A" {
		t.Errorf("slot %s", slot)
	}
}
