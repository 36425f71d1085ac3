package main

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestClock_AJumpStopsIssuanceUntilItIsAccepted_A74_S38 moves the clock of a
// whole service, built with the tag testclock: nothing outside a Go program can.
func TestClock_AJumpStopsIssuanceUntilItIsAccepted_A74_S38(t *testing.T) {
	program := filepath.Join(t.TempDir(), "hallmark")
	build := exec.Command("go", "build", "-tags", "testclock", "-o", program, ".")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	s := newSite(t, "software", "", anyName(100))
	s.halt()
	offset := filepath.Join(t.TempDir(), "offset")
	s.env = append(s.env, "HALLMARK_CLOCK_FILE="+offset)
	clock := func(d time.Duration) {
		t.Helper()
		if err := os.WriteFile(offset+".new", []byte(d.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(offset+".new", offset); err != nil {
			t.Fatal(err)
		}
	}
	const day = 24 * time.Hour
	service := func(flags ...string) *process {
		t.Helper()
		return s.program(program, append([]string{"serve", "--config", s.path("hallmark.yaml")}, flags...)...)
	}
	cert := s.stationPair()
	client := s.client(&cert, 1)
	unit := 0
	issues := func(when string, status int, code string) {
		t.Helper()
		unit++
		u := newUnit(t, "SN-"+string(rune('A'+unit)))
		r, err := call(t.Context(), client, "POST", "https://"+s.door("factory")+"/factory/v1/units/issue", u.request())
		if err != nil || r.status != status || r.code != code {
			t.Fatalf("%s: %v %s, want %d %s\n%s", when, err, r, status, code, r.body)
		}
	}
	goesOn := func(when string) {
		t.Helper()
		if o := s.order(siteOrder); o.State != "open" {
			t.Errorf("%s: the order is %s", when, o.State)
		}
		r, err := call(t.Context(), http.DefaultClient, "GET", "http://"+s.door("public")+"/readyz", nil)
		var checks map[string]string
		if err == nil {
			err = json.Unmarshal(r.body, &checks)
		}
		if err != nil || r.status != http.StatusServiceUnavailable || !strings.HasPrefix(checks["clock"], "clock-") {
			t.Errorf("%s: readiness says %v %d %v", when, err, r.status, checks)
		}
	}

	clock(2 * day)
	p := service()
	issues("two days from now", http.StatusOK, "")
	list := s.publicList()
	clock(day)
	issues("a day back", http.StatusServiceUnavailable, "clock-behind")
	goesOn("a day back")
	if err := p.stop(); err != nil {
		t.Fatal(err)
	}
	p = service()
	issues("a day back, after a restart", http.StatusServiceUnavailable, "clock-behind")
	goesOn("a day back, after a restart")
	if now := s.publicList(); now.Number.Cmp(list.Number) < 0 {
		t.Errorf("the list's number went from %d to %d", list.Number, now.Number)
	}
	clock(2*day - 8*time.Minute)
	issues("8 minutes back", http.StatusOK, "")
	clock(2*day + 10*time.Minute)
	issues("10 minutes ahead", http.StatusOK, "")

	list = s.publicList()
	clock(36 * day)
	issues("34 days ahead", http.StatusServiceUnavailable, "clock-ahead")
	goesOn("34 days ahead")
	if err := p.stop(); err != nil {
		t.Fatal(err)
	}
	p = service() // the list has ended, and would be made anew
	issues("34 days ahead, after a restart", http.StatusServiceUnavailable, "clock-ahead")
	goesOn("34 days ahead, after a restart")
	if now := s.publicList(); now.Number.Cmp(list.Number) < 0 || time.Until(now.ThisUpdate) > 3*day {
		t.Errorf("a list of %s was published", now.ThisUpdate)
	}
	if err := p.stop(); err != nil {
		t.Fatal(err)
	}
	service("--accept-clock")
	issues("accepted", http.StatusOK, "")
	if now := s.publicList(); now.Number.Cmp(list.Number) <= 0 || time.Until(now.ThisUpdate) < 35*day {
		t.Errorf("list %d of %s after it was accepted, was %d", now.Number, now.ThisUpdate, list.Number)
	}
	check := exec.Command(program, "fsck", "--dir", s.dir)
	check.Env = append(os.Environ(), s.env...)
	if out, err := check.CombinedOutput(); err != nil || !bytes.Contains(out, []byte("Clean")) {
		t.Errorf("fsck: %v\n%s", err, out)
	}

	// Production mode takes no such program (S38).
	file := filepath.Join(t.TempDir(), "hallmark.yaml")
	if err := os.WriteFile(file, []byte(goodProduction+approvedBy(t)), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"serve", "--config", file}, {"config", "check", file}} {
		if out, err := exec.Command(program, args...).CombinedOutput(); err == nil || !bytes.Contains(out, []byte("production-refused")) || !bytes.Contains(out, []byte("testclock")) {
			t.Errorf("%s: %v\n%s", args[0], err, out)
		}
	}
}

// program runs another build of the program as the service and returns when its
// doors are open.
func (s *site) program(file string, args ...string) *process {
	s.t.Helper()
	p := &process{t: s.t, cmd: exec.Command(file, args...), done: make(chan error, 1)}
	p.cmd.Env = append(os.Environ(), s.env...)
	p.cmd.Stdout, p.cmd.Stderr = &p.said, &p.said
	if err := p.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	go func() {
		p.done <- p.cmd.Wait()
		close(p.done)
	}()
	s.t.Cleanup(p.kill)
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(20 * time.Millisecond) { // it opens its doors at last
		var e endpointFile
		if b, err := os.ReadFile(s.path("state", "endpoints.json")); err == nil && json.Unmarshal(b, &e) == nil && e.PID == p.cmd.Process.Pid {
			return p
		}
		select {
		case err := <-p.done:
			s.t.Fatalf("the service ended early: %v\n%s", err, p.said.Bytes())
		default:
		}
		if time.Now().After(deadline) {
			p.kill()
			s.t.Fatalf("the service did not open its doors:\n%s", p.said.Bytes())
		}
	}
}
