package main

import (
	"fmt"
	"net/http"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"hallmark/hsm/hsmtest"
)

// TestWriteFaults_AreA503AndLeaveNothingHalf_A79 lets every write and sync of the
// service fail from the n-th on, for each n that an issue gets to: what is answered
// is a certificate or a 503 with a code, and when the disk is good again the same
// request gets its certificate, without a restart. TestDiskFull_… does it with a
// disk that is really full.
func TestWriteFaults_AreA503AndLeaveNothingHalf_A79(t *testing.T) {
	strace, err := exec.LookPath("strace")
	if err != nil {
		hsmtest.Missing(t, "strace is missing: apt-get install strace")
	}
	s := newSite(t, "software", "", anyName(1000))
	s.halt()
	p := s.service("hallmark.yaml", "state")
	a := newAsker(t, s)
	a.issueUnit(newUnit(t, "WARM"))
	most, refused := 3, 0
	if long() {
		most = 40
	}
	for kind, fault := range []string{"pwrite64:error=ENOSPC", "pwrite64:error=EIO", "fdatasync,fsync:error=EIO"} {
		calls, what, _ := strings.Cut(fault, ":")
		for n := 1; n <= most; n++ {
			trace := exec.Command(strace, "-f", "-qq", "-o", "/dev/null", "-e", "trace="+calls, "-e", fmt.Sprintf("inject=%s:%s:when=%d+", calls, what, n), "-p", fmt.Sprint(p.cmd.Process.Pid))
			if err := trace.Start(); err != nil {
				t.Fatal(err)
			}
			for deadline := time.Now().Add(10 * time.Second); !tracedBy(t, p.cmd.Process.Pid, trace.Process.Pid); time.Sleep(5 * time.Millisecond) {
				if time.Now().After(deadline) {
					trace.Process.Kill()
					trace.Wait()
					t.Skip("strace may not attach here")
				}
			}
			var asked []unit
			for i := range 4 {
				u := newUnit(t, fmt.Sprintf("F%d-%d-%d", kind, n, i))
				r, _ := a.issueUnit(u)
				switch {
				case r.status == http.StatusServiceUnavailable && r.code != "":
					refused++
				case r.status != http.StatusOK:
					t.Errorf("%s from write %d on: %s %s", fault, n, r, r.body)
				}
				asked = append(asked, u)
			}
			trace.Process.Signal(syscall.SIGINT)
			trace.Wait()
			for _, u := range asked {
				deadline := time.Now().Add(10 * time.Second) // a refusal may say when to come back
				r, _ := a.issueUnit(u)
				for r.status == http.StatusServiceUnavailable && time.Now().Before(deadline) {
					time.Sleep(100 * time.Millisecond)
					r, _ = a.issueUnit(u)
				}
				if r.status != http.StatusOK {
					t.Errorf("%s, %s when the disk is good again: %s %s", fault, u.name, r, r.body)
				}
			}
		}
	}
	if refused < 3 {
		t.Errorf("only %d requests met a failing write", refused)
	}
	t.Logf("%d requests were refused", refused)
	if err := p.stop(); err != nil {
		t.Errorf("%v", err)
	}
	s.clean()
}

// tracedBy tells whether every thread of a process has the tracer.
func tracedBy(t testing.TB, pid, tracer int) bool {
	t.Helper()
	out, err := exec.Command("sh", "-c", fmt.Sprintf("cat /proc/%d/task/*/status | grep TracerPid | sort -u", pid)).Output()
	return err == nil && strings.TrimSpace(string(out)) == fmt.Sprintf("TracerPid:\t%d", tracer)
}
