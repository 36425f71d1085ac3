//go:build cgo

package pkcs11

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
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
}{
	modules: map[string]*module{},
	env:     map[string][][2]string{},
	refused: map[string]error{},
}

// initMu serialises C_Initialize over all modules: SoftHSM does not guard it,
// and the environment of [SetModuleEnv] is the process's own.
var initMu sync.Mutex

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

// module is one shared object. Calls into it happen between enter and leave;
// re-initialisation waits until none is in flight, because C_Finalize under a
// running call crashes the process.
type module struct {
	path string
	ctx  *p11.Ctx

	openMu sync.Mutex // held while a token is opened for the first time

	mu       sync.Mutex
	inflight int
	closed   bool // being re-initialised
	change   sync.Cond
	gen      uint64 // rises with each initialisation
}

// loadModule loads and initialises the module, once per process.
func loadModule(path string) (*module, error) {
	path, err := realPath(path)
	if err != nil {
		return nil, err
	}
	registry.mu.Lock()
	defer registry.mu.Unlock()
	if m := registry.modules[path]; m != nil {
		return m, nil
	}
	initMu.Lock()
	err = setEnv(registry.env[path]) // p11-kit-client reads its address while it is loaded
	ctx := p11.New(path)
	initMu.Unlock()
	if err != nil {
		return nil, token.ErrModule.Wrap(err, "Its environment cannot be set.")
	}
	if ctx == nil {
		return nil, token.ErrModule.New("%s is not a PKCS #11 module.", path)
	}
	m := &module{path: path, ctx: ctx, gen: 1}
	m.change.L = &m.mu
	if err := m.initialize(registry.env[path]); err != nil {
		// The object stays loaded: unloading is what crashes. A later try
		// loads it again, which the dynamic linker counts and nothing more.
		return nil, token.ErrTokenDown.Wrap(err, "The module %s does not initialise.", path).After(minRetry)
	}
	registry.modules[path] = m
	return m, nil
}

func (m *module) initialize(env [][2]string) error {
	initMu.Lock()
	defer initMu.Unlock()
	if err := setEnv(env); err != nil {
		return err
	}
	err := m.ctx.Initialize()
	if isCode(err, p11.CKR_CRYPTOKI_ALREADY_INITIALIZED) {
		return nil
	}
	return err
}

func setEnv(env [][2]string) error {
	for _, e := range env {
		if err := os.Setenv(e[0], e[1]); err != nil {
			return err
		}
	}
	return nil
}

// enter begins a call and gives the generation it runs in. It waits while the
// module is re-initialised.
func (m *module) enter() uint64 {
	m.mu.Lock()
	for m.closed {
		m.change.Wait()
	}
	m.inflight++
	gen := m.gen
	m.mu.Unlock()
	return gen
}

func (m *module) leave() {
	m.mu.Lock()
	m.inflight--
	if m.inflight == 0 && m.closed {
		m.change.Broadcast()
	}
	m.mu.Unlock()
}

// restart finalises and initialises the module, unless somebody did since gen.
// It gives up if calls are still in flight after wait: a call that hangs holds
// the module, and only the far side can end it.
func (m *module) restart(gen uint64, wait time.Duration) error {
	m.mu.Lock()
	for m.closed {
		m.change.Wait()
	}
	if m.gen != gen {
		m.mu.Unlock()
		return nil
	}
	m.closed = true
	expired := false
	timer := time.AfterFunc(wait, func() {
		m.mu.Lock()
		expired = true
		m.change.Broadcast()
		m.mu.Unlock()
	})
	for m.inflight > 0 && !expired {
		m.change.Wait()
	}
	timer.Stop()
	busy := m.inflight
	m.mu.Unlock()

	var err error
	if busy > 0 {
		err = fmt.Errorf("%d calls hang in the module", busy)
	} else {
		err = m.ctx.Finalize()
		if isCode(err, p11.CKR_CRYPTOKI_NOT_INITIALIZED) {
			err = nil
		}
		registry.mu.Lock()
		env := registry.env[m.path]
		registry.mu.Unlock()
		if ierr := m.initialize(env); err == nil {
			err = ierr
		}
	}

	m.mu.Lock()
	m.closed = false
	if busy == 0 {
		// Even a failed attempt ends what the old sessions were.
		m.gen++
	}
	m.change.Broadcast()
	m.mu.Unlock()
	return err
}

func (m *module) generation() uint64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.gen
}

// slots lists the present tokens that match u. The caller has entered.
func (m *module) slots(u token.URI) ([]slot, error) {
	ids, err := m.ctx.GetSlotList(true)
	if err != nil {
		return nil, err
	}
	var found []slot
	for _, id := range ids {
		info, err := m.ctx.GetTokenInfo(id)
		if err != nil {
			continue // another token's trouble, or ours: then it is not found
		}
		if info.Flags&p11.CKF_TOKEN_INITIALIZED == 0 {
			continue
		}
		s := slot{number: id, flags: info.Flags, id: token.ID{
			Label:        trim(info.Label),
			Manufacturer: trim(info.ManufacturerID),
			Model:        trim(info.Model),
			Serial:       trim(info.SerialNumber),
			Firmware:     fmt.Sprintf("%d.%d", info.FirmwareVersion.Major, info.FirmwareVersion.Minor),
		}}
		if info.MaxSessionCount > 0 && info.MaxSessionCount < 1<<16 {
			s.sessions = int(info.MaxSessionCount)
		}
		if match(u.Token, s.id.Label) && match(u.Serial, s.id.Serial) &&
			match(u.Model, s.id.Model) && match(u.Manufacturer, s.id.Manufacturer) {
			found = append(found, s)
		}
	}
	return found, nil
}

// one is the only token that matches u.
func (m *module) one(u token.URI) (slot, error) {
	found, err := m.slots(u)
	switch {
	case err != nil:
		return slot{}, err
	case len(found) == 0:
		return slot{}, errNoToken
	case len(found) > 1:
		return slot{}, token.ErrKeyAmbiguous.New("%d tokens match; name the serial.", len(found))
	}
	return found[0], nil
}

type slot struct {
	number   uint
	flags    uint
	sessions int // most that the token allows, 0 = not said
	id       token.ID
}

func match(want, got string) bool { return want == "" || want == got }

// trim removes the padding of PKCS #11 fixed-length texts.
func trim(s string) string {
	for len(s) > 0 && (s[len(s)-1] == ' ' || s[len(s)-1] == 0) {
		s = s[:len(s)-1]
	}
	return s
}
