//go:build cgo

package pkcs11

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	p11 "github.com/miekg/pkcs11"

	"hallmark/hsm/token"
)

// A module's state belongs to the shared object, not to us: everybody in the
// process who loads the same file shares its sessions and logins. So there is
// one registry per process.
var registry = struct {
	mu      sync.Mutex
	modules map[string]*module
	env     map[string][][2]string
	refused map[string]error // tokens that refused a PIN (A23)
	asking  map[string]bool  // tokens that have not answered yet to a PIN nobody knows to be right
}{
	modules: map[string]*module{},
	env:     map[string][][2]string{},
	refused: map[string]error{},
	asking:  map[string]bool{},
}

// SetModuleEnv sets an environment variable that a module reads when it is
// initialised, each time it is. Two copies of one module can so have different
// configurations in one process, as tests and the demo need.
func SetModuleEnv(path, name, value string) error {
	path, err := realPath(path)
	if err != nil {
		return err
	}
	registry.mu.Lock()
	defer registry.mu.Unlock()
	registry.env[path] = append(registry.env[path], [2]string{name, value})
	return nil
}

func realPath(path string) (string, error) {
	p, err := filepath.EvalSymlinks(path)
	if err == nil {
		p, err = filepath.Abs(p)
	}
	if err != nil {
		return "", token.ErrModule.Wrap(err, "%s does not exist.", path)
	}
	return p, nil
}

// errSilent is that a call into a module did not return in time.
var errSilent = errors.New("the module does not answer")

// errNoInstance is what a module without an instance says to every call: the
// same as one that is not initialised.
const errNoInstance = p11.Error(p11.CKR_CRYPTOKI_NOT_INITIALIZED)

// module is one shared object. Calls into it happen between enter and leave;
// re-initialisation waits until none is in flight, because C_Finalize under a
// running call crashes the process. Where calls do not end, the instance they
// are in is given up for another.
type module struct {
	path   string
	serial bool // takes one call at a time, see oneCallOnly

	openMu sync.Mutex // held while a token is opened for the first time

	mu     sync.Mutex
	change sync.Cond
	inst   *instance // nil: there is none
	closed bool      // being re-initialised
	gen    uint64    // rises with each initialisation

	// Of package file instance.go.
	sum       [32]byte // of the file, when it was loaded first
	loaded    int
	spare     []*instance // given up once, and well again
	stuck     int         // given up, with calls in them
	initTook  time.Duration
	pause     time.Duration
	notBefore time.Time
}

// moduleAt is the one module of a path. It is not loaded yet.
func moduleAt(path string) (*module, error) {
	path, err := realPath(path)
	if err != nil {
		return nil, err
	}
	registry.mu.Lock()
	defer registry.mu.Unlock()
	m := registry.modules[path]
	if m == nil {
		m = &module{path: path}
		m.change.L = &m.mu
		registry.modules[path] = m
	}
	return m, nil
}

// load makes the module ready if it is not. The caller holds openMu.
func (m *module) load(log *slog.Logger) error {
	m.mu.Lock()
	ready, gen := m.inst != nil && m.inst.ready, m.gen
	m.mu.Unlock()
	if ready {
		return nil
	}
	err := m.restart(gen, log)
	if err == nil || token.Fault(err, token.ErrModule) || token.Fault(err, token.ErrModuleStuck) {
		return err
	}
	return token.ErrTokenDown.Wrap(err, "The module %s does not initialise.", m.path).After(minRetry)
}

// visit is one stay in a module: what is called and in which generation.
// Sessions and handles are of that instance and mean something else, or
// nothing, in the next; so who is in a visit uses its ctx and no other.
type visit struct {
	m    *module
	inst *instance
	ctx  *p11.Ctx
	gen  uint64
}

// enter begins a visit. It waits while the module is re-initialised, or busy if
// it takes one call at a time.
func (m *module) enter() (visit, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for m.closed || m.serial && m.inst != nil && m.inst.inflight > 0 {
		m.change.Wait()
	}
	if m.inst == nil {
		return visit{}, errNoInstance
	}
	m.inst.inflight++
	return visit{m: m, inst: m.inst, ctx: m.inst.ctx, gen: m.gen}, nil
}

func (v visit) leave() { v.m.release(v.inst) }

func (m *module) release(inst *instance) {
	m.mu.Lock()
	defer m.mu.Unlock()
	inst.inflight--
	switch {
	case inst.givenUp.Load():
		if inst.inflight == 0 {
			go m.reclaim(inst)
		}
	case m.closed:
		if inst.inflight == 0 {
			m.change.Broadcast()
		}
	case m.serial:
		m.change.Signal()
	}
}

// do makes a visit in a goroutine of its own and stops waiting for it when it
// makes no progress for limit. f calls alive before each step: it says that the
// last one ended, and is told whether anybody still waits. What f writes may be
// read only if do did not return errSilent.
func (m *module) do(limit time.Duration, f func(v visit, alive func() bool) error) error {
	var left atomic.Bool
	beat, done := make(chan struct{}, 1), make(chan error, 1)
	alive := func() bool {
		select {
		case beat <- struct{}{}:
		default:
		}
		return !left.Load()
	}
	go func() {
		v, err := m.enter()
		if err == nil {
			if err = errSilent; alive() {
				err = f(v, alive)
			}
			v.leave()
		}
		done <- err
	}()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		select {
		case err := <-done:
			return err
		case <-beat:
			timer.Reset(limit)
		case <-timer.C:
			left.Store(true)
			return fmt.Errorf("%w within %v", errSilent, limit)
		}
	}
}

// restart initialises the module anew, unless somebody did since gen.
func (m *module) restart(gen uint64, log *slog.Logger) error {
	m.mu.Lock()
	for m.closed {
		m.change.Wait()
	}
	if m.gen != gen {
		m.mu.Unlock()
		return nil
	}
	m.closed = true
	inst := m.inst
	if inst != nil && !m.drained(inst, drainWait) {
		m.giveUp(inst, log)
		inst = nil
	}
	m.mu.Unlock()

	var err error
	if inst != nil {
		err = m.finalize(inst, log)
		if errors.Is(err, errSilent) {
			inst = nil
		}
	}
	if inst == nil {
		inst, err = m.another()
	}
	if inst != nil {
		ierr := m.initialize(inst, log)
		if errors.Is(ierr, errSilent) {
			inst = nil
		}
		if err == nil {
			err = ierr
		}
	}

	m.mu.Lock()
	m.inst = inst
	m.closed = false
	m.gen++ // even a failed attempt ends what the old sessions were
	m.change.Broadcast()
	m.mu.Unlock()
	return err
}

// drained waits until no call is in flight, for so long. The caller holds mu.
func (m *module) drained(inst *instance, wait time.Duration) bool {
	expired := false
	timer := time.AfterFunc(wait, func() {
		m.mu.Lock()
		expired = true
		m.change.Broadcast()
		m.mu.Unlock()
	})
	defer timer.Stop()
	for inst.inflight > 0 && !expired {
		m.change.Wait()
	}
	return inst.inflight == 0
}

func (m *module) generation() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.gen
}

func setEnv(env [][2]string) error {
	for _, e := range env {
		if err := os.Setenv(e[0], e[1]); err != nil {
			return err
		}
	}
	return nil
}
