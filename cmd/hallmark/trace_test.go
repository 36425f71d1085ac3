package main

import (
	"encoding/binary"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"hallmark/hsm/hsmtest"
)

// traced is a process that is killed in front of a system call, counted over all
// its threads. (strace counts each thread alone, and Go moves its work between
// threads, so that its n-th call is another one each time.)
type traced struct {
	pid  int
	done chan struct{} // closed at its end
	exit syscall.WaitStatus

	mu    sync.Mutex
	calls []uint64 // counted
	left  int      // kill in front of this one; 0: never
	seen  int
}

// What durability hangs on.
var (
	syncCalls  = []uint64{syscall.SYS_FSYNC, syscall.SYS_FDATASYNC}
	writeCalls = append([]uint64{syscall.SYS_PWRITE64, syscall.SYS_FTRUNCATE, syscall.SYS_UNLINKAT, syscall.SYS_RENAMEAT}, syncCalls...)
)

const (
	ptraceGetSyscallInfo = 0x420e
	optSysgood           = 1
	optClone             = 1 << 3
	optExitKill          = 1 << 20
	waitAllOfThread      = 0x40000000 | 0x20000000 // __WALL, __WNOTHREAD: nobody else's children
)

// trace starts a program under the tracer; count sets what kills it.
func trace(t testing.TB, cmd *exec.Cmd, calls []uint64, n int) *traced {
	t.Helper()
	p := &traced{done: make(chan struct{}), calls: calls, left: n}
	started := make(chan error, 1)
	cmd.SysProcAttr = &syscall.SysProcAttr{Ptrace: true}
	go func() {
		runtime.LockOSThread() // ptrace obeys one thread; it ends with this function
		defer close(p.done)
		if err := cmd.Start(); err != nil {
			started <- err
			return
		}
		p.pid = cmd.Process.Pid
		var ws syscall.WaitStatus
		_, err := syscall.Wait4(p.pid, &ws, waitAllOfThread, nil)
		if err == nil {
			err = syscall.PtraceSetOptions(p.pid, optSysgood|optClone|optExitKill)
		}
		if err == nil {
			err = syscall.PtraceSyscall(p.pid, 0)
		}
		if started <- err; err == nil {
			p.run()
		}
	}()
	if err := <-started; err != nil {
		hsmtest.Missing(t, "a process cannot be traced here: "+err.Error())
	}
	t.Cleanup(p.kill)
	return p
}

func (p *traced) run() {
	for {
		var ws syscall.WaitStatus
		tid, err := syscall.Wait4(-1, &ws, waitAllOfThread, nil)
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return
		}
		switch {
		case ws.Exited() || ws.Signaled():
			if tid == p.pid {
				p.exit = ws
				return
			}
		case ws.Stopped():
			pass := 0
			switch sig := ws.StopSignal(); {
			case sig == syscall.SIGTRAP|0x80:
				p.entered(tid)
			case sig == syscall.SIGTRAP || sig == syscall.SIGSTOP: // a new thread, or its first stop
			default:
				pass = int(sig)
			}
			syscall.PtraceSyscall(tid, pass) // fails if it was killed meanwhile
		}
	}
}

// entered looks at a stop of a system call and kills the process if it is due.
func (p *traced) entered(tid int) {
	// struct ptrace_syscall_info: op, at 24 the number of the call.
	var info [88]byte
	_, _, e := syscall.Syscall6(syscall.SYS_PTRACE, ptraceGetSyscallInfo, uintptr(tid), uintptr(len(info)), uintptr(unsafe.Pointer(&info)), 0, 0)
	if e != 0 || info[0] != 1 { // 1: on its way in
		return
	}
	nr := binary.NativeEndian.Uint64(info[24:])
	p.mu.Lock()
	defer p.mu.Unlock()
	if !slices.Contains(p.calls, nr) {
		return
	}
	p.seen++
	if p.left > 0 {
		if p.left--; p.left == 0 {
			syscall.Kill(p.pid, syscall.SIGKILL)
		}
	}
}

// arm kills the process in front of the n-th counted call from now on.
func (p *traced) arm(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.left, p.seen = n, 0
}

// counted is how many calls there were since arm, or since the start.
func (p *traced) counted() int { p.mu.Lock(); defer p.mu.Unlock(); return p.seen }

func (p *traced) kill() {
	syscall.Kill(p.pid, syscall.SIGKILL)
	<-p.done
}

// tracedService starts the site's service under the tracer.
func (s *site) tracedService(t testing.TB) *traced {
	t.Helper()
	said, err := os.CreateTemp(t.TempDir(), "said")
	if err != nil {
		t.Fatal(err)
	}
	defer said.Close()
	os.Remove(s.path("state", "endpoints.json"))
	cmd := exec.Command(must(os.Executable()), "serve", "--config", s.path("hallmark.yaml"))
	cmd.Env = append(append(os.Environ(), asProgram+"=1"), s.env...)
	cmd.Stdout, cmd.Stderr = said, said
	p := trace(t, cmd, syncCalls, 0)
	for deadline := time.Now().Add(60 * time.Second); ; time.Sleep(20 * time.Millisecond) { // its doors open at last
		if _, err := os.Stat(s.path("state", "endpoints.json")); err == nil {
			return p
		}
		select {
		case <-p.done:
			b, _ := os.ReadFile(said.Name())
			t.Fatalf("the service ended early: %s", b)
		default:
		}
		if time.Now().After(deadline) {
			t.Fatal("the service did not open its doors")
		}
	}
}
