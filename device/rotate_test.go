package device

import (
	"crypto/x509"
	"encoding/json"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/bootstrap"
	"hallmark/crl"
	"hallmark/fleet/ownership"
)

func ended(j *cloudJob) func(*served) bool {
	return func(*served) bool { return j.Status != "QUEUED" && j.Status != inProgress }
}

func TestRotate_ANewKeyIsProvenBeforeTheOldOneIsLeft(t *testing.T) {
	s := newService(t)
	u := s.unit(1)
	j := s.ask(u.thing, "j1", rotateNow)
	end := u.begin()
	if status, step := s.ended(u.thing, j); status != succeeded || step != "connected" {
		t.Errorf("%s %s %v", status, step, j.Details)
	}
	s.mu.Lock()
	updates := slices.Clone(s.thing(u.thing).updates)
	s.mu.Unlock()
	if want := []string{"IN_PROGRESS issued over A", "SUCCEEDED connected over its own"}; !slices.Equal(updates, want) {
		t.Errorf("%q", updates)
	}
	// Again, and back.
	j = s.ask(u.thing, "j2", strings.Replace(rotateNow, "c1", "c2", 1))
	end()
	end = u.begin()
	if status, _ := s.ended(u.thing, j); status != succeeded {
		t.Errorf("%s %v", status, j.Details)
	}
	end()
	if slot := u.works(); slot != "A" {
		t.Errorf("slot %s", slot)
	}
	for i, campaign := range []string{"other", "c2", "c2"} {
		j = s.ask(u.thing, "undo"+string(rune('0'+i)), `{"operation":"rotate-certificate","version":1,"campaign":"`+campaign+`","undo":true}`)
		end = u.begin()
		if status, step := s.ended(u.thing, j); status != succeeded || step != "undone" {
			t.Errorf("%s %s %v", status, step, j.Details)
		}
		end()
		if slot, want := u.works(), []string{"A", "B", "B"}[i]; slot != want {
			t.Errorf("%d: slot %s", i, slot)
		}
	}
	if n := len(issued(t, s.Door, u.sn)); n != 3 {
		t.Errorf("%d certificates", n)
	}
}

func TestRotate_BRefusedAtTheDoorFallsBackToA(t *testing.T) {
	s := newService(t)
	u := s.unit(1)
	s.mu.Lock()
	first := ""
	s.thing(u.thing).door = func(certificate string) error {
		if first == "" {
			first = certificate
		}
		if certificate != first {
			return bootstrap.ErrRevoked.New("")
		}
		return nil
	}
	s.mu.Unlock()
	j := s.ask(u.thing, "j1", rotateNow)
	end := u.begin()
	if status, step := s.ended(u.thing, j); status != failed || step != "fallback" || j.Details["code"] == "" || j.Details["certificateId"] != first {
		t.Errorf("%s %s %v", status, step, j.Details)
	}
	end()
	if slot := u.works(); slot != "A" {
		t.Errorf("slot %s", slot)
	}
}

// many is the short form's number, or the proof's.
func many(short, long int) int {
	if os.Getenv("HALLMARK_PROOF") != "" {
		return long
	}
	return short
}

// rotateSteps are those at which something happens to a device.
var rotateSteps = []string{
	"rotate-begin", "write rotation.json", "rotate-key", "write key.pem", "rotate-ask", "rotate-answered", "store", "write registration.json", "write cert.pem",
	"rotate-issued", "rotate-stored", "rotate-trial", "rotate-promote", "write retired", "write active", "rotate-export", "write ldevid.key", "write ldevid.pem", "rotate-connected", "rotate-report", "rotate-forget",
}

// Issue 6, acceptance 2; A50: whatever happens to a device at whatever step, it ends on a
// certificate that lets it in, and the service hears the truth of it.
func TestA50_EachFaultAtEachStepLeavesAWorkingCertificate(t *testing.T) {
	s := newService(t)
	// once spoils the first time that the step comes.
	once := func(at string, do func(u *unit) error) func(u *unit, step string, n int) error {
		done := false
		return func(u *unit, step string, _ int) error {
			if done || step != at {
				return nil
			}
			done = true
			return do(u)
		}
	}
	// mends undoes what do did, a little later.
	mends := func(u *unit, mend func()) error {
		time.AfterFunc(50*time.Millisecond, func() {
			u.mu.Lock()
			defer u.mu.Unlock()
			mend()
		})
		return nil
	}
	faults := []struct {
		name string
		do   func(u *unit) error
	}{
		{"power cut", func(u *unit) error { return u.kill() }},
		{"disk full", func(u *unit) error { u.full = true; return mends(u, func() { u.full = false }) }},
		{"clock in 2048", func(u *unit) error {
			u.skew = 22 * 365 * 24 * time.Hour
			u.drop()
			return mends(u, func() { u.skew = 0 })
		}},
		{"clock in 1990", func(u *unit) error {
			u.skew = -36 * 365 * 24 * time.Hour
			return mends(u, func() { u.skew = 0 })
		}},
		{"network cut", func(u *unit) error { u.cut = true; u.drop(); return mends(u, func() { u.cut = false }) }},
	}
	var wg sync.WaitGroup
	turns := make(chan struct{}, 16)
	n := 0
	run := func(name, at string, do func(u *unit) error) {
		n++
		u := s.unit(n)
		turns <- struct{}{}
		wg.Go(func() {
			defer func() { <-turns }()
			u.spoil = once(at, do)
			j := s.ask(u.thing, "j1", rotateNow)
			u.survive(name+" at "+at, ended(j))
			slot := u.works()
			// By a clock that shows the end of all its certificates the device starts
			// from its birth certificate, into the other slot.
			if status, step := s.ended(u.thing, j); status != succeeded || slot != "B" && name != "clock in 2048" {
				t.Errorf("%s at %s: %s %s, slot %s", name, at, status, step, slot)
			}
		})
	}
	total := many(30, 500)
	for n < total {
		for i, at := range rotateSteps {
			for k, f := range faults {
				if total < 500 && k != 0 && (i+k)%9 != 0 || n >= total {
					continue
				}
				run(f.name, at, f.do)
			}
		}
		if total < 500 {
			break
		}
	}
	wg.Wait()
}

// Section 4 of assurance, rotation: devices are killed at random steps, again and
// again; none is bricked, and none has more than one live certificate besides.
func TestA50_KillsAtRandomStepsBrickNothing(t *testing.T) {
	s := newService(t)
	kills := many(40, 1000)
	each := many(8, 10)
	var wg sync.WaitGroup
	turns := make(chan struct{}, 16)
	for n := range kills / each {
		u := s.unit(n)
		turns <- struct{}{}
		wg.Go(func() {
			defer func() { <-turns }()
			left := each
			u.spoil = func(u *unit, step string, n int) error {
				if left > 0 && n >= 2 && rand.IntN(6) == 0 {
					left--
					return u.kill()
				}
				return nil
			}
			for i := 0; left > 0 || i == 0; i++ {
				j := s.ask(u.thing, "j"+string(rune('a'+i)), strings.Replace(rotateNow, "c1", "c"+string(rune('a'+i)), 1))
				u.survive("killed", ended(j))
				u.works()
				if status, step := s.ended(u.thing, j); status != succeeded {
					t.Errorf("%s: %s %s", u.thing, status, step)
				}
			}
		})
	}
	wg.Wait()
}

func TestRotate_AnIssuerThatRefusesLeavesAInUse(t *testing.T) {
	s := newService(t)
	for n, c := range []struct {
		code   string
		times  int
		status string
		step   string
	}{{"InvalidRequest", 1000, failed, "renew"}, {"ServiceUnavailable", 2, succeeded, "connected"}} {
		u := s.unit(n)
		u.cfg.Server = "" // no second way
		left := c.times
		s.mu.Lock()
		s.thing(u.thing).refuse = func() (string, bool) {
			if left--; left < 0 {
				return "", false
			}
			return c.code, false
		}
		s.mu.Unlock()
		j := s.ask(u.thing, "j1", rotateNow)
		u.survive(c.code, ended(j))
		if status, step := s.ended(u.thing, j); status != c.status || step != c.step {
			t.Errorf("%s: %s %s %v", c.code, status, step, j.Details)
		}
		if slot, want := u.works(), []string{"A", "B"}[n]; slot != want {
			t.Errorf("%s: slot %s", c.code, slot)
		}
	}
}

// Both operational certificates are revoked: the device comes back with its birth
// certificate, once the door has told it why.
func TestRotate_WhereNothingWorksItRegistersAnew(t *testing.T) {
	s := newService(t)
	u := s.unit(1)
	j := s.ask(u.thing, "j1", rotateNow)
	u.survive("rotated", ended(j))
	for _, rec := range issued(t, s.Door, u.sn) {
		c, err := x509.ParseCertificate(rec.DER)
		if err != nil {
			t.Fatal(err)
		}
		s.Revoke(t, c, crl.Superseded)
	}
	j = s.ask(u.thing, "j2", `{"operation":"echo","message":"back"}`)
	u.survive("back", ended(j))
	u.works()
	if n := len(issued(t, s.Door, u.sn)); n != 3 {
		t.Errorf("%d certificates", n)
	}
}

// does does something to the unit that its owner decided, and cuts its connections.
func (u *unit) does(kind ownership.Kind, name string) {
	t := u.s.t
	t.Helper()
	by := access.Actor{Tenant: access.DefaultTenant, Kind: access.KindPrincipal, Name: "sam"}
	if _, _, err := u.s.Owners.Do(t.Context(), by, ownership.Wanted{Name: name, Kind: kind, Units: []string{u.sn}}); err != nil {
		t.Fatal(err)
	}
	if err := u.s.Set.Follow(t.Context()); err != nil {
		t.Fatal(err)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	for len(u.events) > 0 {
		<-u.events
	}
	u.drop()
}

// next is the next event of a kind, and how many connections were refused before it.
func (u *unit) next(is func(Event) bool) (e Event, refused int) {
	u.s.t.Helper()
	timeout := time.After(time.Minute)
	for {
		select {
		case e := <-u.events:
			if is(e) {
				return e, refused
			}
			if e.Event == EventFailed {
				refused++
			}
		case <-timeout:
			u.s.t.Fatalf("not in time, after %d refusals", refused)
		}
	}
}

// TestRun_AResetWhileItRunsIsFoundOutSoon: the certificates in both slots are refused at
// the broker. One refusal of the second is enough to ask the service, and what it gets
// then is used without the long waits of before.
func TestRun_AResetWhileItRunsIsFoundOutSoon(t *testing.T) {
	s := newService(t)
	u := s.unit(1)
	j := s.ask(u.thing, "j1", rotateNow)
	end := u.begin()
	defer end()
	if status, _ := s.ended(u.thing, j); status != succeeded {
		t.Fatalf("%s %v", status, j.Details)
	}
	u.does(ownership.Reset, "reset-1")
	if _, refused := u.next(func(e Event) bool { return e.Event == EventRegistered }); refused > refusals+1 {
		t.Errorf("%d connections were refused before it asked", refused)
	}
	e, _ := u.next(func(e Event) bool { return e.Event == EventFailed })
	if wait, err := time.ParseDuration(e.RetryIn); err != nil || wait > u.cfg.Backoff.Min {
		t.Errorf("registered anew, it waits %s: %v", e.RetryIn, err)
	}
	u.next(func(e Event) bool { return e.Event == EventConnected })
}

// TestRun_AReleasedDeviceAsksWhenItIsTold: the service answers, says what it waits for, and
// when to ask again.
func TestRun_AReleasedDeviceAsksWhenItIsTold(t *testing.T) {
	s := newService(t)
	u := s.unit(1)
	end := u.begin()
	defer end()
	u.next(func(e Event) bool { return e.Event == EventConnected })
	u.does(ownership.Release, "sale-1")
	e, _ := u.next(func(e Event) bool { return e.Event == EventRefused })
	if e.Code != ErrLater.Code || !strings.Contains(e.Reason, "released by its owner") {
		t.Errorf("%+v", e)
	}
	e, _ = u.next(func(e Event) bool { return e.Event == EventFailed })
	if wait, err := time.ParseDuration(e.RetryIn); err != nil || wait < 15*time.Minute || wait > 20*time.Minute {
		t.Errorf("it asks again in %s: %v", e.RetryIn, err)
	}
}

func TestRotate_AJobThatIsGoneIsForgotten(t *testing.T) {
	s := newService(t)
	u := s.unit(1)
	j := s.ask(u.thing, "j1", rotateNow)
	u.spoil = func(u *unit, step string, _ int) error {
		if step == "rotate-issued" && !u.off {
			u.spoil = nil
			s.mu.Lock()
			j.Status = "CANCELED"
			s.mu.Unlock()
			return u.kill()
		}
		return nil
	}
	u.survive("off", func(*served) bool { return j.Status == "CANCELED" })
	j = s.ask(u.thing, "j2", `{"operation":"echo","message":"here"}`)
	u.survive("echo", ended(j))
	end := u.begin()
	s.until(u.thing, "it is forgotten", func(*served) bool {
		k, err := loadRotation(u.cfg.Dir)
		return err == nil && k != nil && k.Step == stepDone
	})
	end()
	if slot := u.works(); slot != "A" {
		t.Errorf("slot %s", slot)
	}
}

func TestRenewal_ADeviceRenewsByItselfInTheServicesWindow(t *testing.T) {
	s := newService(t)
	for n, way := range []string{"", "https"} {
		u := s.unit(n)
		u.cfg.NoRenewal, u.cfg.Renewal = false, way
		name := u.cfg.Dir + "/slots/A/" + answerFile
		raw, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		now := time.Now()
		var m map[string]any
		if err := json.Unmarshal(raw, &m); err != nil {
			t.Fatal(err)
		}
		m["renew"] = window{now.Add(-2 * time.Hour), now.Add(-time.Hour)}
		raw, _ = json.Marshal(m)
		if err := os.WriteFile(name, raw, 0o600); err != nil {
			t.Fatal(err)
		}
		u.survive("renewed", func(th *served) bool {
			active, _ := os.ReadFile(u.cfg.Dir + "/slots/active")
			return string(active) == "B\n"
		})
		if slot := u.works(); slot != "B" {
			t.Errorf("slot %s", slot)
		}
	}
}

func TestRenewAt_IsWithinTheWindowAndBeforeTheEnd(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for i := range 200 {
		c := &x509.Certificate{Raw: []byte{byte(i)}, NotBefore: start, NotAfter: start.Add(100 * 24 * time.Hour)}
		if at := renewAt(c, nil).Sub(start).Hours() / 24; at < 50 || at > 67 {
			t.Errorf("day %v", at)
		}
		w := &window{start.Add(24 * time.Hour), start.Add(48 * time.Hour)}
		if at := renewAt(c, w); at.Before(w.Start) || at.After(w.End) {
			t.Errorf("%v", at)
		}
		if at := renewAt(c, &window{c.NotAfter, c.NotAfter.Add(time.Hour)}); at.After(start.Add(67 * 24 * time.Hour)) {
			t.Errorf("a window after the end is obeyed: %v", at)
		}
	}
}
