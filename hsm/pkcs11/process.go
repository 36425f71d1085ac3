//go:build cgo

package pkcs11

import (
	"bytes"
	"errors"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// childArgument makes the program the process of a module: see child.go.
	childArgument = "pkcs11-module"
	// maxCalls is how many questions a process may have at a time. Sessions are
	// fewer; the rest is for administration and for calls that hang.
	maxCalls = 512
	// maxSaid bounds a line of what a module writes to its standard error.
	maxSaid = 200
)

// errKilled is that we ended the process because it was silent or not needed.
var errKilled = errors.New("the module's process was ended")

// process is a module in a process of its own. It is of one start: who wants
// another makes another.
type process struct {
	path string
	log  *slog.Logger
	cmd  *exec.Cmd
	conn net.Conn
	said said

	free    chan uint16
	pending [maxCalls]pending
	reader  chan []byte // has the buffer of who reads answers, while nobody does

	once   sync.Once
	wanted atomic.Bool   // we ended it
	gone   chan struct{} // closed when no answer comes any more
	reaped chan struct{} // closed when the process is out of the system's table
}

// pending is a question on its way. done has room for the answer, so that who
// reads never waits for another caller.
type pending struct {
	out  atomic.Bool
	done chan reply
}

// startProcess starts a process for the module at path. Nothing is loaded yet.
func startProcess(path string, env [][2]string, log *slog.Logger) (*process, error) {
	p := &process{
		path: path, log: log,
		free: make(chan uint16, maxCalls), reader: make(chan []byte, 1), gone: make(chan struct{}), reaped: make(chan struct{}),
	}
	for i := range p.pending {
		p.pending[i].done = make(chan reply, 1)
		p.free <- uint16(i)
	}
	if err := p.spawn(childEnv(os.Environ(), env)); err != nil {
		return nil, err
	}
	p.reader <- make([]byte, maxFrame+1)
	go p.reap()
	return p, nil
}

// buffers are for questions. Those that held a PIN come back wiped.
var buffers = sync.Pool{New: func() any { b := make([]byte, 0, 1024); return &b }}

// call sends a question and waits for its answer, or for the end of the
// process. How long is for others to decide: they end the process.
func (p *process) call(q *ask) (reply, error) {
	var id uint16
	select {
	case id = <-p.free:
	case <-p.gone:
		return reply{}, errGone
	}
	// The number goes back only with the answer. Without one, none will be needed.
	w := &p.pending[id]
	buf := buffers.Get().(*[]byte)
	b, err := appendAsk((*buf)[:0], id, q)
	if err == nil {
		w.out.Store(true)
		_, err = p.conn.Write(b)
	}
	if len(q.secret) > 0 {
		clear(b)
	}
	*buf = b
	buffers.Put(buf)
	switch {
	case errors.Is(err, errLong):
		p.free <- id
		return reply{}, err
	case err != nil: // the other side is closed
		p.kill(errGone)
		return reply{}, errGone
	}
	// One of those who wait reads for all, until its own answer is there: no
	// goroutine between the socket and a lone caller.
	select {
	case r := <-w.done:
		p.free <- id
		return r, nil
	case in := <-p.reader:
		r, err := p.read(in, w)
		p.reader <- in
		if err != nil {
			p.kill(err)
			return reply{}, errGone
		}
		p.free <- id
		return r, nil
	case <-p.gone:
		return reply{}, errGone
	}
}

// read hands answers to those who wait for them, until it has the one for w.
func (p *process) read(in []byte, w *pending) (reply, error) {
	for {
		select {
		case r := <-w.done: // somebody read it before
			return r, nil
		default:
		}
		n, err := p.conn.Read(in)
		if err != nil || n == 0 {
			return reply{}, errGone
		}
		id, r, err := parseReply(in[:n])
		if err != nil || int(id) >= len(p.pending) || !p.pending[id].out.Swap(false) {
			// Answers to nothing are as bad as ones that cannot be read.
			return reply{}, errFrame
		}
		if to := &p.pending[id]; to != w {
			to.done <- r
			continue
		}
		return r, nil
	}
}

// kill ends the process at once and every call with it.
func (p *process) kill(why error) {
	p.once.Do(func() {
		if errors.Is(why, errKilled) {
			p.wanted.Store(true)
		}
		close(p.gone)
		p.conn.Close()
		// A process that hangs in a module, or is stopped, hears nothing else.
		p.cmd.Process.Kill()
		if !errors.Is(why, errKilled) && !errors.Is(why, errGone) {
			p.log.Error("the module's process is ended", "module", p.path, "pid", p.cmd.Process.Pid, "error", why)
		}
	})
}

// reap waits for the end and says how it came, if nobody wanted it.
func (p *process) reap() {
	p.cmd.Wait()
	close(p.reaped)
	p.kill(errGone)
	if !p.wanted.Load() {
		p.log.Error("the module's process ended", "module", p.path, "pid", p.cmd.Process.Pid,
			"state", p.cmd.ProcessState.String(), "said", p.said.crash())
	}
}

// end kills the process and waits until the system has taken it away, which is
// soon unless the kernel itself is stuck in a device.
func (p *process) end() {
	p.kill(errKilled)
	timer := time.NewTimer(drainWait)
	defer timer.Stop()
	select {
	case <-p.reaped:
	case <-timer.C:
		p.log.Error("the module's process does not end", "module", p.path, "pid", p.cmd.Process.Pid)
	}
}

func (p *process) ended() bool {
	select {
	case <-p.gone:
		return !p.wanted.Load()
	default:
		return false
	}
}

// said looks at what a process writes to its standard error. Modules write what
// they like there, PINs included where somebody debugs, so only the line is kept
// that the Go runtime writes at a crash.
type said struct {
	mu   sync.Mutex
	line []byte // the last one, as far as it came
	last string
}

func (s *said) Write(b []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for part := range bytes.Lines(b) {
		line, whole := bytes.CutSuffix(part, []byte("\n"))
		s.line = append(s.line, line[:min(len(line), maxSaid-len(s.line))]...)
		if !whole {
			break
		}
		for _, begin := range []string{"SIG", "[signal ", "fatal error: "} {
			if bytes.HasPrefix(s.line, []byte(begin)) {
				s.last = string(s.line)
			}
		}
		s.line = s.line[:0]
	}
	return len(b), nil
}

func (s *said) crash() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.last
}

// What of our environment a module gets: what programs need to run, and what
// the configurations of modules are called. Nothing else, since our own
// environment may hold secrets.
var (
	childNames = map[string]bool{
		"PATH": true, "HOME": true, "USER": true, "LOGNAME": true, "LANG": true, "TZ": true, "TMPDIR": true,
		"LD_LIBRARY_PATH": true, "XDG_RUNTIME_DIR": true, "XDG_CONFIG_HOME": true,
		"ChrystokiConfigurationPath": true,
	}
	childPrefixes = []string{
		"LC_", "SOFTHSM2_", "P11_KIT_", "PKCS11", "TPM2_", "TSS2_", "OPENSC_", "NSS_", "YKCS11_", "YUBIHSM_", "PCSCLITE_",
		"CS_PKCS11_", "NFAST_", "CKNFAST_", "CLOUDHSM_", "KMS_PKCS11_", "ET_", "LUNA_",
	}
)

// childEnv is the environment of a module's process. What was set for the
// module stands above what we have ourselves.
func childEnv(ours []string, set [][2]string) []string {
	var env []string
	has := map[string]bool{}
	for i := len(set) - 1; i >= 0; i-- { // the last one counts
		if !has[set[i][0]] {
			has[set[i][0]] = true
			env = append(env, set[i][0]+"="+set[i][1])
		}
	}
	for _, e := range ours {
		name, _, _ := strings.Cut(e, "=")
		if has[name] || strings.Contains(name, "PIN") || strings.Contains(name, "PASSWORD") {
			continue
		}
		pass := childNames[name]
		for _, p := range childPrefixes {
			pass = pass || strings.HasPrefix(name, p)
		}
		if pass {
			env = append(env, e)
		}
	}
	return env
}
