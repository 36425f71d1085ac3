//go:build cgo

package pkcs11

import (
	"bytes"
	"crypto/sha256"
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

const (
	// maxStuck is how many instances with hanging calls a process carries. Each
	// costs a few threads and a mapping of the module, and none can be freed.
	maxStuck = 8
	// firstInit is the patience with the first initialisation of a module: some
	// connect to several HSMs. Later ones get four times what that one took.
	firstInit = 30 * time.Second
	// firstPause is the pause after an instance that never worked was given up.
	// It doubles, so that a far side which accepts connections and says nothing
	// uses up the instances in minutes and not in seconds.
	firstPause = time.Second
)

// stuckInstances counts them over all modules.
var stuckInstances atomic.Int32

// initMu serialises C_Initialize over all modules: SoftHSM does not guard it,
// and the environment of [SetModuleEnv] is the process's own.
var initMu sync.Mutex

// errPaused is that the next instance is not due yet.
var errPaused = errors.New("the module hangs, the next attempt is not due yet")

// instance is one loading of a module's file: the file itself or a copy, which
// for the dynamic linker is another object with a state of its own. A call that
// hangs, hangs in an instance; the module goes on in another.
//
// Libraries that a module needs are shared by its instances. A module whose
// trouble is in such a library is not helped by a copy, and is carried until
// maxStuck.
type instance struct {
	ctx *p11.Ctx
	log *slog.Logger // of who gave it up

	// Guarded by mu of the module.
	inflight int
	ready    bool // initialised
	worked   bool // a token was logged in to through it

	givenUp atomic.Bool // changed under mu
}

// another is an instance for a module that has none: one that is well again, a
// copy, or at first the file itself.
func (m *module) another() (*instance, error) {
	if n := stuckInstances.Load(); n >= maxStuck {
		return nil, token.ErrModuleStuck.New("%d instances hang.", n).After(busyRetry)
	}
	m.mu.Lock()
	first := m.loaded == 0
	paused := time.Now().Before(m.notBefore)
	var spare *instance
	if n := len(m.spare); n > 0 && !paused {
		spare, m.spare = m.spare[n-1], m.spare[:n-1]
	}
	m.mu.Unlock()
	switch {
	case paused:
		return nil, errPaused
	case spare != nil:
		return spare, nil
	}
	content, err := os.ReadFile(m.path)
	if err != nil {
		return nil, token.ErrModule.Wrap(err, "%s cannot be read.", m.path)
	}
	sum := sha256.Sum256(content)
	if first {
		return m.first(content, sum)
	}
	if sum != m.sum {
		// A call hangs, and somebody changed the file since: an update, or
		// worse. Either way what runs here has not been looked at by anybody.
		return nil, token.ErrModuleStuck.New("%s is not the file that was loaded at the start.", m.path).After(busyRetry)
	}
	var errs []error
	for _, place := range []func([]byte) (string, func(bool), error){memoryCopy, fileCopy} {
		path, done, err := place(content)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		ctx := m.open(path)
		done(ctx != nil)
		if ctx != nil {
			m.mu.Lock()
			m.loaded++
			m.mu.Unlock()
			return &instance{ctx: ctx}, nil
		}
		errs = append(errs, fmt.Errorf("the copy %s cannot be loaded", path))
	}
	// A module that finds its libraries or its configuration by its own place
	// cannot be copied.
	return nil, token.ErrModuleStuck.Wrap(errors.Join(errs...), "No copy of it can be loaded.").After(busyRetry)
}

// first loads the file itself.
func (m *module) first(content []byte, sum [sha256.Size]byte) (*instance, error) {
	serial := oneCallOnly(m.path, content)
	ctx := m.open(m.path)
	if ctx == nil {
		return nil, token.ErrModule.New("%s is not a PKCS #11 module.", m.path)
	}
	m.mu.Lock()
	m.loaded, m.sum, m.serial = 1, sum, serial
	m.mu.Unlock()
	return &instance{ctx: ctx}, nil
}

// open loads a shared object, in the environment of the module, which
// p11-kit-client reads already now.
func (m *module) open(path string) *p11.Ctx {
	initMu.Lock()
	defer initMu.Unlock()
	if m.setEnv() != nil {
		return nil
	}
	return p11.New(path)
}

func (m *module) setEnv() error {
	registry.mu.Lock()
	defer registry.mu.Unlock()
	return setEnv(registry.env[m.path])
}

// oneCallOnly says whether a module may have only one call at a time. The
// client of p11-kit has one connection for all calls; when that ends, the call
// which notices does not wake the others that wait for an answer (seen in
// 0.24.1: about one loss in fifteen under the load of four threads), and it
// closes a descriptor that they are about to read. Nothing is lost by waiting
// here: the connection carries one call after the other anyhow.
func oneCallOnly(path string, content []byte) bool {
	const client = "p11-kit-client"
	if strings.HasPrefix(filepath.Base(path), client) {
		return true
	}
	f, err := elf.NewFile(bytes.NewReader(content))
	if err != nil {
		return false // another system's format: its name decides
	}
	defer f.Close()
	names, err := f.DynString(elf.DT_SONAME)
	return err == nil && len(names) > 0 && strings.HasPrefix(names[0], client)
}

// initialize is C_Initialize. On errSilent the instance was given up.
func (m *module) initialize(inst *instance, log *slog.Logger) error {
	initMu.Lock()
	defer initMu.Unlock()
	if err := m.setEnv(); err != nil {
		return err
	}
	m.mu.Lock()
	limit := firstInit
	if m.initTook > 0 {
		limit = max(drainWait, 4*m.initTook)
	}
	m.mu.Unlock()
	began := time.Now()
	err := m.bounded(inst, limit, log, func() error { return inst.ctx.Initialize() })
	if isCode(err, p11.CKR_CRYPTOKI_ALREADY_INITIALIZED) {
		err = nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	inst.ready = err == nil
	if m.initTook == 0 && err == nil {
		m.initTook = time.Since(began)
	}
	return err
}

// finalize is C_Finalize. No other call is in the instance. On errSilent the
// instance was given up.
func (m *module) finalize(inst *instance, log *slog.Logger) error {
	m.mu.Lock()
	inst.ready = false
	m.mu.Unlock()
	err := m.bounded(inst, drainWait, log, inst.ctx.Finalize)
	if isCode(err, p11.CKR_CRYPTOKI_NOT_INITIALIZED) {
		err = nil
	}
	return err
}

// bounded makes a call that nobody else may make at the same time, and gives
// the instance up if it takes longer than limit.
func (m *module) bounded(inst *instance, limit time.Duration, log *slog.Logger, f func() error) error {
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
	hangs := inst.inflight > 0
	if hangs {
		m.giveUp(inst, log)
	}
	m.mu.Unlock()
	if !hangs {
		return <-done // it ended in the last moment
	}
	return fmt.Errorf("%w within %v", errSilent, limit)
}

// giveUp leaves an instance to the calls that hang in it. The caller holds mu.
func (m *module) giveUp(inst *instance, log *slog.Logger) {
	inst.givenUp.Store(true)
	inst.ready = false
	inst.log = log
	m.inst = nil
	m.stuck++
	n := stuckInstances.Add(1)
	if inst.worked {
		m.pause, m.notBefore = 0, time.Time{}
	} else {
		m.pause = max(firstPause, 2*m.pause)
		m.notBefore = time.Now().Add(m.pause)
	}
	log.Error("calls hang in the module, this instance of it is given up",
		"module", m.path, "calls", inst.inflight, "instances_stuck", n, "limit", maxStuck)
}

// reclaim takes an instance back whose last hanging call returned.
func (m *module) reclaim(inst *instance) {
	inst.ctx.Finalize() // can hang again; then the instance stays counted
	m.mu.Lock()
	inst.givenUp.Store(false)
	inst.worked = false
	m.spare = append(m.spare, inst)
	m.stuck--
	// The far side moves again, or died: no reason to wait any longer.
	m.pause, m.notBefore = 0, time.Time{}
	m.mu.Unlock()
	n := stuckInstances.Add(-1)
	inst.log.Info("the calls that hung in the module returned", "module", m.path, "instances_stuck", n)
}

// works notes that a token was reached through the instance of v.
func (m *module) works(v visit) {
	m.mu.Lock()
	v.inst.worked = true
	m.mu.Unlock()
}

func (m *module) stuckNow() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.stuck
}
