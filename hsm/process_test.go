//go:build linux

package hsm_test

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"hallmark/hsm"
	"hallmark/hsm/hsmtest"
	"hallmark/internal/fault"
)

// assault signs with 8 goroutines until end, and checks what is refused.
type assault struct {
	done      atomic.Bool
	good, bad atomic.Int64
	slowest   atomic.Int64
	wg        sync.WaitGroup
}

func assaultOn(t testing.TB, s hsm.Signer) *assault {
	a := &assault{}
	for range 8 {
		a.wg.Go(func() {
			for !a.done.Load() {
				began := time.Now()
				err := try(s)
				for took := int64(time.Since(began)); ; {
					old := a.slowest.Load()
					if took <= old || a.slowest.CompareAndSwap(old, took) {
						break
					}
				}
				if err == nil {
					a.good.Add(1)
					continue
				}
				a.bad.Add(1)
				if f := fault.From(err); f == nil || f.Definition != hsm.ErrTokenDown || f.Kind != fault.Unavailable || f.RetryAfter == 0 {
					t.Errorf("refused with %v", err)
				}
				time.Sleep(time.Millisecond) // a client that does not listen to Retry-After
			}
		})
	}
	t.Cleanup(a.end)
	return a
}

func (a *assault) end() {
	a.done.Store(true)
	a.wg.Wait()
}

// A24: whatever a module does to the process it is in, this one lives, refuses
// with one code and a time to return, and signs again within 5 s.
func TestKeyring_A24_AModuleThatEndsOrHoldsItsProcessIsReplaced(t *testing.T) {
	tok := hsmtest.Faulty(t)
	var log lockedBuffer
	k := open(t, hsm.Config{SignTimeout: 500 * time.Millisecond, Log: logTo(&log)})
	s := generate(t, k, tok.URI("ca"), hsm.P256)
	for i, what := range []string{"crash", "abort", "exit", "hang", "stop", "minute"} {
		a := assaultOn(t, s)
		eventually(t, "20 signatures", func() bool { return a.good.Load() >= 20 })
		before := hsmtest.Processes(t, os.Getpid(), tok.Module)
		tok.Next("sign-" + what)
		eventually(t, "the command is taken", tok.Taken)
		began := time.Now()
		eventually(t, "a refusal", func() bool { return a.bad.Load() > 0 })
		good := a.good.Load()
		eventually(t, "20 signatures again", func() bool { return a.good.Load() >= good+20 })
		took := time.Since(began)
		a.end()
		t.Logf("%s: back after %v, %d refused, slowest call %v", what, took, a.bad.Load(), time.Duration(a.slowest.Load()))
		if took > 25*time.Second || time.Duration(a.slowest.Load()) > 10*time.Second {
			t.Errorf("%s: back after %v, slowest call %v", what, took, time.Duration(a.slowest.Load()))
		}
		signs(t, s)
		after := hsmtest.Processes(t, os.Getpid(), tok.Module)
		if len(before) != 1 || len(after) != 1 || before[0] == after[0] {
			t.Errorf("%s: processes %v became %v", what, before, after)
		}
		if h := k.Health(t.Context())[0]; h.State != hsm.StateUp || h.Replaced != i+1 || h.Stuck != 0 || h.PINLow {
			t.Errorf("%s: health %+v", what, h)
		}
	}
	if !strings.Contains(log.String(), "SIGSEGV") {
		t.Errorf("the log does not tell of the crash:\n%s", log.String())
	}
	if strings.Contains(log.String(), hsmtest.PIN) {
		t.Error("the log shows the PIN")
	}
}

// A24: a process that ends while nobody signs is replaced before somebody does.
func TestKeyring_A24_AnIdleModuleIsReplaced(t *testing.T) {
	tok := hsmtest.SoftHSM(t)
	k := open(t, hsm.Config{})
	s := generate(t, k, tok.URI("ca"), hsm.P256)
	before := hsmtest.Processes(t, os.Getpid(), tok.Module)
	syscall.Kill(before[0], syscall.SIGKILL)
	eventually(t, "another process", func() bool {
		now := hsmtest.Processes(t, os.Getpid(), tok.Module)
		return len(now) == 1 && now[0] != before[0] && k.Health(t.Context())[0].State == hsm.StateUp
	})
	signs(t, s)
}

// A24: nothing is left of a process that was replaced, however often.
func TestKeyring_A24_ManyReplacementsLeakNothing(t *testing.T) {
	tok := hsmtest.Faulty(t)
	cycles := 50
	if os.Getenv("HALLMARK_PROOF") == "1" {
		cycles = 1000
	}
	k := open(t, hsm.Config{SignTimeout: 500 * time.Millisecond})
	s := generate(t, k, tok.URI("ca"), hsm.P256)
	var files, goroutines int
	for i := range cycles {
		switch {
		case i%10 == 9:
			tok.Next("sign-hang")
		case i%2 == 0:
			tok.Next("sign-exit") // the quickest
		default:
			syscall.Kill(hsmtest.Processes(t, os.Getpid(), tok.Module)[0], syscall.SIGKILL)
		}
		eventually(t, "a refusal", func() bool { return try(s) != nil })
		eventually(t, "a signature", func() bool { return try(s) == nil })
		if i == 4 {
			files, goroutines = openFiles(t), runtime.NumGoroutine()
		}
	}
	if p := hsmtest.Processes(t, os.Getpid(), tok.Module); len(p) != 1 {
		t.Errorf("processes %v", p)
	}
	eventually(t, "files and goroutines are as many as at first", func() bool {
		return openFiles(t) <= files+2 && runtime.NumGoroutine() <= goroutines+2
	})
	h := k.Health(t.Context())[0]
	t.Logf("%d cycles: %+v, %d files, %d goroutines", cycles, h, openFiles(t), runtime.NumGoroutine())
	if h.Replaced < cycles || h.Stuck != 0 || h.PINLow {
		t.Errorf("health %+v", h)
	}
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	if p := hsmtest.Processes(t, os.Getpid(), tok.Module); len(p) != 0 {
		t.Errorf("processes %v outlive the keyring", p)
	}
}

func openFiles(t testing.TB) int {
	t.Helper()
	dir, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(dir)
}

// A24, A26: the process gets the configuration of its module and nothing else of
// ours: no other variable, no file, and the PIN neither in its command line nor
// in its environment.
func TestKeyring_A24_AModuleGetsNothingOfOurs(t *testing.T) {
	t.Setenv("HALLMARK_TOKEN", "a secret")
	t.Setenv("SOFTHSM2_TEST_PIN", "another")
	t.Setenv("LC_TEST", "passes")
	f, err := os.Open(os.Args[0])
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	leak, err := unix.Dup(int(f.Fd())) // as a library opens it: every program would get it
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(leak)
	tok := hsmtest.SoftHSM(t)
	k := open(t, hsm.Config{})
	generate(t, k, tok.URI("ca"), hsm.P256)
	p := hsmtest.Processes(t, os.Getpid(), tok.Module)
	if len(p) != 1 {
		t.Fatalf("processes %v", p)
	}
	proc := filepath.Join("/proc", strconv.Itoa(p[0]))
	env, err := os.ReadFile(filepath.Join(proc, "environ"))
	if err != nil {
		t.Fatal(err)
	}
	line, err := os.ReadFile(filepath.Join(proc, "cmdline"))
	if err != nil {
		t.Fatal(err)
	}
	for _, secret := range []string{"a secret", "another", hsmtest.PIN, tok.PINFile} {
		if strings.Contains(string(env)+string(line), secret) {
			t.Errorf("%q is in %q or %q", secret, line, env)
		}
	}
	if !slices.Contains(strings.Split(string(env), "\x00"), "SOFTHSM2_CONF="+tok.Conf) || !strings.Contains(string(env), "LC_TEST=passes") {
		t.Errorf("the module's configuration is missing: %q", env)
	}
	ours, err := os.Readlink("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	fds, err := os.ReadDir(filepath.Join(proc, "fd"))
	if err != nil {
		t.Fatal(err)
	}
	sockets := 0
	for _, fd := range fds {
		to, err := os.Readlink(filepath.Join(proc, "fd", fd.Name()))
		if err != nil {
			continue
		}
		if strings.HasPrefix(to, "socket:") {
			sockets++
		}
		if to == ours || to == os.Args[0] {
			t.Errorf("descriptor %s is our %s", fd.Name(), to)
		}
	}
	if sockets != 1 {
		t.Errorf("%d sockets", sockets)
	}
	limits, err := os.ReadFile(filepath.Join(proc, "limits"))
	if err != nil {
		t.Fatal(err)
	}
	for l := range strings.Lines(string(limits)) {
		if strings.HasPrefix(l, "Max core file size") && strings.Fields(l)[4] != "0" {
			t.Errorf("the memory may be dumped: %s", l)
		}
	}
}

// A23, A24: a PIN that nobody knows to be right, sent to a module that ended
// before it answered, is not sent again.
func TestKeyring_A24_APINWithoutAnAnswerIsNotSentAgain(t *testing.T) {
	for _, what := range []string{"crash", "hang"} {
		tok := hsmtest.Faulty(t)
		k := open(t, hsm.Config{SignTimeout: time.Second})
		tok.Next("login-" + what)
		for range 3 {
			_, err := k.Signer(t.Context(), tok.URI("ca"))
			is(t, err, hsm.ErrTokenDown)
		}
		if n := tok.Logins(); n != 1 {
			t.Errorf("%s: %d logins", what, n)
		}
	}
}

// A24: what a process is for ends with it, and so does the process, also where
// it hangs in its module and nobody can say so.
func TestKeyring_A24_AModuleEndsWithItsService(t *testing.T) {
	tok := hsmtest.Faulty(t)
	k := open(t, hsm.Config{})
	generate(t, k, tok.URI("ca"), hsm.P256)
	if err := k.Close(); err != nil {
		t.Fatal(err)
	}
	for _, hangs := range []bool{false, true} {
		if hangs {
			tok.Next("sign-hang")
		}
		cmd := exec.Command(os.Args[0], "-test.run=^TestHelperOpensAToken$")
		cmd.Env = append(os.Environ(), "HALLMARK_TEST_TOKEN="+tok.URI("ca"), "HALLMARK_TEST_MODULE="+tok.Module, "SOFTHSM2_CONF="+tok.Conf)
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { cmd.Process.Kill() })
		said := bufio.NewScanner(out)
		for said.Scan() && !strings.HasPrefix(said.Text(), "ready ") {
		}
		if hangs {
			eventually(t, "it hangs", tok.Taken)
		}
		pid, err := strconv.Atoi(strings.TrimPrefix(said.Text(), "ready "))
		if err != nil {
			t.Fatalf("%q: %v", said.Text(), err)
		}
		cmd.Process.Kill()
		cmd.Wait()
		eventually(t, "the module's process is gone", func() bool {
			stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
			return err != nil || strings.Contains(string(stat), ") Z ")
		})
	}
}

// TestHelperOpensAToken is the service in the test above.
func TestHelperOpensAToken(t *testing.T) {
	uri := os.Getenv("HALLMARK_TEST_TOKEN")
	if uri == "" {
		t.Skip("only a part of another test")
	}
	ready := make(chan struct{})
	go func() {
		for {
			if p := hsmtest.Processes(t, os.Getpid(), os.Getenv("HALLMARK_TEST_MODULE")); len(p) == 1 {
				fmt.Printf("ready %d\n", p[0])
				close(ready)
				return
			}
			time.Sleep(time.Millisecond)
		}
	}()
	k := hsm.Open(hsm.Config{SignTimeout: time.Minute})
	s, err := k.Signer(t.Context(), uri)
	<-ready
	for err == nil {
		err = try(s)
	}
	time.Sleep(time.Minute)
}

// A module may be loaded into the service itself: no process then, and the same
// answers.
func TestKeyring_DirectLoadingHasNoProcess(t *testing.T) {
	tok := hsmtest.SoftHSM(t)
	k := open(t, hsm.Config{Direct: true})
	signs(t, generate(t, k, tok.URI("ca"), hsm.P256))
	if p := hsmtest.Processes(t, os.Getpid(), tok.Module); len(p) != 0 {
		t.Errorf("processes %v", p)
	}
}

// A call that hangs in a module of this process cannot be ended. Whoever asks
// learns that, and all is well again when the call returns.
func TestKeyring_DirectModuleThatHangsIsToldOf(t *testing.T) {
	tok := hsmtest.Server(t)
	k := open(t, hsm.Config{SignTimeout: 200 * time.Millisecond, Direct: true})
	s := generate(t, k, tok.URI("ca"), hsm.P256)
	tok.Freeze()
	is(t, try(s), hsm.ErrTokenDown)
	eventually(t, "the reason is known", func() bool {
		f := fault.From(try(s))
		return f != nil && f.Definition == hsm.ErrModuleStuck && f.RetryAfter > 0
	})
	if h := k.Health(t.Context())[0]; h.Stuck == 0 || h.State != hsm.StateDown {
		t.Errorf("health %+v", h)
	}
	tok.Thaw()
	eventually(t, "the token is back", func() bool { return try(s) == nil })
	signs(t, s)
	if h := k.Health(t.Context())[0]; h.Stuck != 0 || h.Replaced != 0 {
		t.Errorf("health %+v", h)
	}
}
