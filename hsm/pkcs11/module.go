//go:build cgo

package pkcs11

import (
	"debug/elf"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	p11 "github.com/miekg/pkcs11"

	"hallmark/hsm/token"
)

// firstInit is the patience with the first initialisation of a module: some
// connect to several HSMs. Later ones get four times what that one took.
const firstInit = 30 * time.Second

// A module's state belongs to the process it is loaded in: everybody there
// shares its sessions and logins. So there is one registry per process, and one
// module per file, configuration and way of loading.
var registry = struct {
	mu         sync.Mutex
	modules    map[string]*module
	env        map[string][][2]string
	parameters map[string]string
	refused    map[string]error // tokens that refused a PIN (A23)
	asking     map[string]bool  // tokens that have not answered to a PIN nobody knows to be right
}{
	modules:    map[string]*module{},
	env:        map[string][][2]string{},
	parameters: map[string]string{},
	refused:    map[string]error{},
	asking:     map[string]bool{},
}

// SetModuleEnv sets an environment variable that a module finds when it is
// loaded and initialised. The same module with other variables is another one,
// in a process of its own. Where it is loaded directly, there is one per file.
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

// SetModuleParameters sets the text that a module gets with C_Initialize. The
// library of NSS takes its configuration so, others none.
func SetModuleParameters(path, parameters string) error {
	path, err := realPath(path)
	if err != nil {
		return err
	}
	registry.mu.Lock()
	defer registry.mu.Unlock()
	registry.parameters[path] = parameters
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

// errNoInstance is what a module that is not loaded says to every call: the
// same as one that is not initialised.
const errNoInstance = p11.Error(p11.CKR_CRYPTOKI_NOT_INITIALIZED)

// module is one shared object. Calls into it happen between enter and leave;
// re-initialisation waits until none is in flight, or ends the process that
// they are in.
type module struct {
	path       string
	direct     bool
	env        [][2]string // of a process of its own
	parameters string
	serial     bool // takes one call at a time, see oneCallOnly

	openMu sync.Mutex // held while a token is opened for the first time

	mu       sync.Mutex
	change   sync.Cond
	inst     *instance // nil: there is none
	closed   bool      // being re-initialised
	gen      uint64    // rises with each initialisation
	users    int       // devices and openings
	replaced int       // processes that were ended for another
	initTook time.Duration
}

// instance is one loading of a module: for a module in a process of its own,
// that process.
type instance struct {
	lib      library
	inflight int // guarded by mu of the module
	// stuck is of an instance in this process that was not drained in time: it
	// is not called before it is.
	stuck bool
}

// moduleAt is the one module of a path and configuration. It is not loaded yet,
// and the caller has to let it go.
func moduleAt(path string, cfg token.Config) (*module, error) {
	path, err := realPath(path)
	if err != nil {
		return nil, err
	}
	registry.mu.Lock()
	defer registry.mu.Unlock()
	m := &module{path: path, direct: cfg.Direct || !ownProcess, parameters: registry.parameters[path]}
	key := fmt.Sprintf("%s\x00%t", path, m.direct)
	if !m.direct {
		for _, name := range cfg.Environment {
			if v, ok := os.LookupEnv(name); ok {
				m.env = append(m.env, [2]string{name, v})
			}
		}
		m.env = append(m.env, registry.env[path]...)
		key = fmt.Sprintf("%s\x00%q\x00%s", key, m.env, m.parameters)
	}
	if old := registry.modules[key]; old != nil {
		m = old
	} else {
		m.change.L = &m.mu
		m.serial = oneCallOnly(path)
		registry.modules[key] = m
	}
	m.mu.Lock()
	m.users++
	m.mu.Unlock()
	return m, nil
}

// letGo ends the process of a module that nobody uses any more. A module in
// this process stays initialised: somebody else in it may use it too.
func (m *module) letGo() {
	m.mu.Lock()
	m.users--
	var inst *instance
	if m.users == 0 && !m.direct && !m.closed {
		inst, m.inst = m.inst, nil
		m.gen++
	}
	m.mu.Unlock()
	if inst != nil {
		inst.lib.end()
	}
}

// oneCallOnly says whether a module may have only one call at a time. The
// client of p11-kit has one connection for all calls; when that ends, the call
// which notices does not wake the others that wait for an answer (seen in
// 0.24.1: about one loss in fifteen under the load of four threads), and it
// closes a descriptor that they are about to read. Nothing is lost by waiting
// here: the connection carries one call after the other anyhow.
func oneCallOnly(path string) bool {
	const client = "p11-kit-client"
	if strings.HasPrefix(filepath.Base(path), client) {
		return true
	}
	f, err := elf.Open(path)
	if err != nil {
		return false // another system's format: its name decides
	}
	defer f.Close()
	names, err := f.DynString(elf.DT_SONAME)
	return err == nil && len(names) > 0 && strings.HasPrefix(names[0], client)
}

// load makes the module ready if it is not. The caller holds openMu.
func (m *module) load(log *slog.Logger) error {
	m.mu.Lock()
	ready, gen := m.inst != nil && !m.inst.stuck && !m.inst.lib.ended(), m.gen
	m.mu.Unlock()
	if ready {
		return nil
	}
	err := m.restart(gen, false, log)
	if err == nil || token.Fault(err, token.ErrModule) || token.Fault(err, token.ErrModuleStuck) {
		return err
	}
	return token.ErrTokenDown.Wrap(err, "The module %s does not initialise.", m.path).After(minRetry)
}

// visit is one stay in a module: what is called and in which generation.
// Sessions and handles are of that instance and mean something else, or
// nothing, in the next; so who is in a visit uses its calls and no others.
type visit struct {
	m    *module
	inst *instance
	ctx  *calls
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
	if m.inst == nil || m.inst.stuck {
		return visit{}, errNoInstance
	}
	m.inst.inflight++
	return visit{m: m, inst: m.inst, ctx: &calls{m.inst.lib}, gen: m.gen}, nil
}

func (v visit) leave() { v.m.release(v.inst) }

func (m *module) release(inst *instance) {
	m.mu.Lock()
	defer m.mu.Unlock()
	inst.inflight--
	switch {
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

// restart initialises the module anew, unless somebody did since gen. At once
// is for a module that hangs: nobody waits for the calls in it.
func (m *module) restart(gen uint64, atOnce bool, log *slog.Logger) error {
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
	var calls int
	if inst != nil && !(atOnce && !m.direct) && !inst.lib.ended() {
		m.drained(inst, drainWait)
	}
	if inst != nil {
		calls = inst.inflight
	}
	m.mu.Unlock()

	var err error
	if m.direct {
		err = m.again(&inst, calls, log)
	} else {
		err = m.another(&inst, calls, log)
	}

	m.mu.Lock()
	if m.users == 0 && !m.direct && inst != nil {
		defer inst.lib.end() // everybody left meanwhile
		inst = nil
	}
	m.inst = inst
	m.closed = false
	m.gen++ // even a failed attempt ends what the old sessions were
	m.change.Broadcast()
	m.mu.Unlock()
	return err
}

// another is a new process in the place of the one before, whose calls end now.
func (m *module) another(inst **instance, calls int, log *slog.Logger) error {
	if old := *inst; old != nil {
		level := slog.LevelInfo
		if calls > 0 {
			level = slog.LevelError
		}
		log.Log(noDeadline, level, "the module's process is replaced", "module", m.path, "calls", calls)
		old.lib.end()
		*inst = nil
		m.mu.Lock()
		m.replaced++
		m.mu.Unlock()
	}
	p, err := startProcess(m.path, m.env, log)
	if err != nil {
		return err
	}
	next := &instance{lib: p}
	if err := m.initialize(next); err != nil {
		p.end()
		return err
	}
	*inst = next
	return nil
}

// again initialises a module in this process anew. Calls that hang there cannot
// be ended, and C_Finalize under a running call crashes the process.
func (m *module) again(inst **instance, calls int, log *slog.Logger) error {
	if *inst == nil {
		*inst = &instance{lib: &local{}}
	} else {
		m.mu.Lock()
		(*inst).stuck = calls > 0
		m.mu.Unlock()
		if calls == 0 {
			calls = m.finalize(*inst)
		}
		if calls > 0 {
			log.Error("calls hang in a module that is loaded directly", "module", m.path, "calls", calls)
			return token.ErrModuleStuck.New("%d calls hang in it.", calls).After(busyRetry)
		}
	}
	err := m.initialize(*inst)
	if token.Fault(err, token.ErrModule) {
		*inst = nil
	}
	return err
}

// initMu serialises C_Initialize of modules in this process: SoftHSM does not
// guard it, and the environment is the process's own.
var initMu sync.Mutex

// initialize loads the module and is C_Initialize.
func (m *module) initialize(inst *instance) error {
	m.mu.Lock()
	limit := firstInit
	if m.initTook > 0 {
		limit = max(drainWait, 4*m.initTook)
	}
	m.mu.Unlock()
	began := time.Now()
	err := m.bounded(inst, limit, func() error {
		if m.direct {
			initMu.Lock()
			defer initMu.Unlock()
			registry.mu.Lock()
			env := registry.env[m.path]
			registry.mu.Unlock()
			if err := setEnv(env); err != nil {
				return err
			}
		}
		return (&calls{inst.lib}).initialize(m.path, m.parameters)
	})
	switch {
	case isCode(err, p11.CKR_CRYPTOKI_ALREADY_INITIALIZED):
		err = nil
	case isCode(err, codeNoModule):
		return token.ErrModule.New("%s is not a PKCS #11 module.", m.path)
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.initTook == 0 && err == nil {
		m.initTook = time.Since(began)
	}
	return err
}

// finalize is C_Finalize. No other call is in the instance. It gives the number
// of calls that hang, which is one if this one does.
func (m *module) finalize(inst *instance) (calls int) {
	if errors.Is(m.bounded(inst, drainWait, func() error { return ckFinalize(inst.lib) }), errSilent) {
		return 1
	}
	return 0
}

// bounded makes a call that nobody else may make at the same time. An instance
// whose call takes longer than limit is stuck until it returns.
func (m *module) bounded(inst *instance, limit time.Duration, f func() error) error {
	m.mu.Lock()
	inst.inflight++
	m.mu.Unlock()
	done := make(chan error, 1)
	go func() {
		err := f()
		m.release(inst)
		done <- err
	}()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case err := <-done:
		return err
	case <-timer.C:
	}
	m.mu.Lock()
	inst.stuck = inst.inflight > 0
	stuck := inst.stuck
	m.mu.Unlock()
	if !stuck {
		return <-done // it ended in the last moment
	}
	return fmt.Errorf("%w within %v", errSilent, limit)
}

func ckFinalize(lib library) error { return (&calls{lib}).finalize() }

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

// lost says whether the module's process ended by itself.
func (m *module) lost() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.inst != nil && m.inst.lib.ended()
}

// figures are how many calls hang in a module in this process, and how many
// processes of it were replaced.
func (m *module) figures() (stuck, replaced int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.inst != nil && m.inst.stuck {
		stuck = m.inst.inflight
	}
	return stuck, m.replaced
}

func setEnv(env [][2]string) error {
	for _, e := range env {
		if err := os.Setenv(e[0], e[1]); err != nil {
			return err
		}
	}
	return nil
}
