//go:build cgo

package pkcs11

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// ownProcess says whether modules can run in processes of their own here.
const ownProcess = true

// starter runs functions one after the other on a thread that never ends. The
// kernel ends a child with the thread that started it (PR_SET_PDEATHSIG), and
// the threads of a Go program come and go.
var starter = sync.OnceValue(func() chan<- func() {
	work := make(chan func())
	go func() {
		runtime.LockOSThread()
		for f := range work {
			f()
		}
	}()
	return work
})

// spawn starts the process with one end of a socket pair as descriptor 3.
// Packets keep their borders, so that a message is one of them.
func (p *process) spawn(env []string) error {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socketpair", err)
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "module"), os.NewFile(uintptr(fds[1]), "module")
	defer ours.Close()
	defer theirs.Close()
	if p.conn, err = net.FileConn(ours); err != nil {
		return fmt.Errorf("socket of the module's process: %w", err)
	}
	p.cmd = &exec.Cmd{
		// The file that runs, also when its name has another one since.
		Path:       "/proc/self/exe",
		Args:       []string{os.Args[0], childArgument, p.path},
		Env:        env,
		Dir:        "/",
		Stderr:     &p.said,
		ExtraFiles: []*os.File{theirs},
		WaitDelay:  time.Second,
		// A session of its own: no terminal, and the interrupt of the keyboard is for
		// us; we end it.
		SysProcAttr: &syscall.SysProcAttr{Setsid: true, Pdeathsig: syscall.SIGKILL},
	}
	started := make(chan error)
	starter() <- func() {
		// Go marks its own descriptors so that a new program does not get them;
		// libraries and whoever started us may have not.
		unix.CloseRange(3, ^uint(0)>>1, unix.CLOSE_RANGE_CLOEXEC)
		started <- p.cmd.Start()
	}
	if err := <-started; err != nil {
		p.conn.Close()
		return fmt.Errorf("process of the module: %w", err)
	}
	return nil
}
