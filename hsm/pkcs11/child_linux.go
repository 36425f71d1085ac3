//go:build cgo

package pkcs11

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"sync"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// #cgo LDFLAGS: -ldl
// #include <stdlib.h>
// #include "child_linux.h"
import "C"

// childSocket is the descriptor of the socket in a module's process.
const childSocket = 3

// init makes the program the process of a module when it was started as one by
// [process.spawn]. It is here and not in a main function because whatever
// program opens tokens needs it, tests included, and before any of its own
// code runs.
func init() {
	if len(os.Args) != 3 || os.Args[1] != childArgument {
		return
	}
	if kind, err := unix.GetsockoptInt(childSocket, unix.SOL_SOCKET, unix.SO_TYPE); err != nil || kind != unix.SOCK_SEQPACKET {
		fmt.Fprintln(os.Stderr, "hallmark: this command is for the program itself")
		os.Exit(2)
	}
	os.Exit(serveModule(childSocket))
}

// serveModule answers questions until the other side is gone. Its threads take
// them straight from the socket, each answers what it took: no hand-over
// between threads costs time, and there is always one that waits, which is how
// the end of the service is noticed while every other one hangs in the module.
func serveModule(fd int) int {
	unix.CloseOnExec(fd)
	// A dump of the memory would have the PIN and, with SoftHSM, the keys.
	unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{})
	// The service is told to stop, with its whole group; it needs us until then.
	signal.Ignore(syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGQUIT)
	return <-newServer(fd, &local{}).over
}

type server struct {
	fd   int
	lib  *local
	over chan int // gets the exit code

	threads sync.WaitGroup
}

// newServer answers questions from now on.
func newServer(fd int, lib *local) *server {
	s := &server{fd: fd, lib: lib, over: make(chan int, 1)}
	C.hallmark_waiting(1)
	s.threads.Go(s.serve)
	return s
}

func (s *server) end(code int) {
	select {
	case s.over <- code:
	default: // another thread said it
	}
}

// serve is one thread. C code takes the questions and answers signatures, which
// are nearly all of them, without a step through the scheduler of Go; it comes
// back with the others.
func (s *server) serve() {
	in, out := make([]byte, maxFrame+1), make([]byte, 0, 1024)
	var n C.long
	for {
		n = C.hallmark_serve(C.int(s.fd), (*C.uchar)(unsafe.Pointer(&in[0])), C.size_t(len(in)), n)
		switch {
		case n <= 0:
			C.hallmark_waiting(-1)
			s.end(0)
			return
		case n >= C.HALLMARK_LAST: // nobody waits any more
			n -= C.HALLMARK_LAST
			C.hallmark_waiting(1)
			s.threads.Go(s.serve)
			continue
		}
		id, q, err := parseAsk(in[:n])
		if err != nil {
			fmt.Fprintln(os.Stderr, "hallmark:", err)
			s.end(1)
			return
		}
		r, _ := s.lib.call(&q)
		if q.op == opInitialize && r.code == 0 {
			s.functions(string(q.data))
		}
		if len(q.secret) > 0 {
			clear(in[:n])
		}
		n = 0
		if out, err = appendReply(out[:0], id, &r); errors.Is(err, errLong) {
			out, _ = appendReply(out[:0], id, &reply{code: codeLong})
		}
		C.hallmark_waiting(1)
		if _, err := unix.Write(s.fd, out); err != nil {
			C.hallmark_waiting(-1)
			s.end(0)
			return
		}
	}
}

// functions shows the C code the module that is loaded and initialised.
func (s *server) functions(path string) bool {
	p := C.CString(path)
	defer C.free(unsafe.Pointer(p))
	// A binding is one pointer, to what its C code allocated.
	return C.hallmark_functions(p, *(*unsafe.Pointer)(unsafe.Pointer(s.lib.ctx.Load()))) == 1
}

// The C code knows the number of the one operation that it answers.
var _ = [1]struct{}{}[opSign-C.HALLMARK_SIGN]
