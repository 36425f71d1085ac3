package simulate

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"hallmark/device"
	"hallmark/device/mqtt"
)

// Agents makes each device of a simulation the reference agent of package device,
// with its own directory: it obeys the service's jobs, so it changes its keys when a
// campaign asks. What it publishes it keeps until the service has acknowledged it,
// over as many connections as that takes.
type Agents struct {
	Server  string // URL of the device listener: registration, renewal over HTTPS, the probe
	Renewal string // as in [device.RunConfig]
	// Fault gives what happens to a device, by its index, in the order in which the
	// steps come; nil is a fleet to which nothing happens.
	Fault func(i int) []Fault
	// Mend is how long a fault lasts; 0 means 50 ms.
	Mend time.Duration
	// Probe is how many times a second one of the devices' certificates is tried at the
	// device listener, one device after the other, with what the device holds on its
	// disk at that moment; 0 is never.
	Probe float64
}

// AgentFigures is what agents and the probe saw.
type AgentFigures struct {
	Jobs      map[string]uint64 `json:"jobs"` // that ended, by status and step
	Fallbacks uint64            `json:"fallbacks"`
	Registers uint64            `json:"registrations"` // first boots, and renewals that no job asked for
	Faults    map[string]uint64 `json:"faults"`
	Unsent    uint64            `json:"unsent"` // messages that were never acknowledged
	Probes    uint64            `json:"probes"`
	Missed    uint64            `json:"probes_unanswered"` // the service did not answer; says nothing of the certificate
	Refused   []string          `json:"probes_refused"`    // devices whose certificate was refused, and why; at most 20
	Locked    uint64            `json:"locked_out"`        // how many times that was
}

// agents is what the agents of a simulation share.
type agents struct {
	Agents
	fallbacks, registers, probes, missed, locked atomic.Uint64

	mu      sync.Mutex
	jobs    map[string]uint64
	faults  map[string]uint64
	refused []string
}

func (a *agents) count(m map[string]uint64, key string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	m[key]++
}

// agent is one device: the life of the reference agent, and what happens to it.
type agent struct {
	d   *simulated
	dir string

	mu      sync.Mutex
	off     bool // the power: nothing happens any more in this life
	stop    context.CancelFunc
	full    bool          // the disk
	skew    time.Duration // of the clock
	cut     bool          // the network
	streams map[net.Conn]bool
	faults  []Fault // that are still to come
	started time.Time

	next    uint64                // number of the newest message
	waiting map[uint64]*mqtt.Conn // messages without acknowledgement, and the connection that they went out on
}

// errPower is how a step ends when the power does.
var errPower = error(syscall.EINTR)

// live is one life after the other until the simulation ends.
func (a *agent) live() {
	s := a.d.s
	if s.cfg.Rate > 0 {
		stop := every(time.Duration(float64(time.Second)/s.cfg.Rate), a.publish)
		defer stop()
	}
	for n := 1; s.ctx.Err() == nil; n++ {
		err := a.life()
		if s.ctx.Err() != nil {
			return
		}
		if err != nil && !errors.Is(err, errPower) {
			s.failures.Add(1)
			s.failed(err)
		} else {
			n = 0
		}
		wait(s.ctx, s.cfg.Backoff.Wait(n))
	}
}

func (a *agent) life() error {
	s := a.d.s
	select { // so that a fleet does not begin at one moment
	case s.dials <- struct{}{}:
	case <-s.ctx.Done():
		return nil
	}
	var once sync.Once
	begun := func() { once.Do(func() { <-s.dials }) }
	defer begun()
	ctx, cancel := context.WithCancel(s.ctx)
	defer cancel()
	a.mu.Lock()
	a.off, a.stop, a.started = false, cancel, time.Now()
	a.mu.Unlock()
	c := device.RunConfig{
		Config:   device.Config{Dir: a.dir, Server: s.agents.Server, Roots: s.cfg.Roots, Timeout: s.cfg.Timeout, Now: a.now, Hooks: &device.Hooks{Step: a.step, Write: a.write, Dial: a.dial}},
		Endpoint: s.cfg.Endpoint, ServerName: s.cfg.ServerName, Version: s.cfg.Version, KeepAlive: s.cfg.KeepAlive,
		Backoff: s.cfg.Backoff, Grace: time.Millisecond, Renewal: s.agents.Renewal, NoRenewal: true,
		Online: func(c *mqtt.Conn) { begun(); a.online(c) },
		Event:  func(e device.Event) { a.event(e, begun) },
	}
	err := device.Run(ctx, c)
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.off {
		return nil
	}
	return err
}

// online takes a connection for the device's own messages until it ends.
func (a *agent) online(c *mqtt.Conn) {
	s := a.d.s
	a.mu.Lock()
	up := time.Since(a.started)
	a.mu.Unlock()
	s.up(up)
	s.connects.Add(1)
	if c.Resumed {
		s.resumed.Add(1)
	}
	a.d.hold(c)
	s.change(1)
	s.wg.Go(func() {
		select {
		case <-c.Done():
		case <-s.ctx.Done():
		}
		a.mu.Lock()
		a.started = time.Now()
		a.mu.Unlock()
		if a.d.release() {
			return // dropAll counted it
		}
		s.lost.Add(1)
	})
	a.flush(c)
}

func (a *agent) event(e device.Event, begun func()) {
	s := a.d.s
	switch e.Event {
	case device.EventJobFinished:
		s.agents.count(s.agents.jobs, e.Status+" "+e.Details["step"])
	case device.EventFallback:
		s.agents.fallbacks.Add(1)
	case device.EventRegistered:
		s.agents.registers.Add(1)
	case device.EventFailed:
		begun()
		s.failures.Add(1)
		s.errMu.Lock()
		s.errs[e.Code]++
		s.errMu.Unlock()
	}
}

// publish makes the next message, and sends whatever has not gone out yet.
func (a *agent) publish() {
	if !a.d.s.quiet.Load() {
		a.mu.Lock()
		a.next++
		a.waiting[a.next] = nil
		a.mu.Unlock()
	}
	a.d.mu.Lock()
	c := a.d.conn
	a.d.mu.Unlock()
	if c != nil {
		a.flush(c)
	}
}

// flush sends over a connection what was not sent over it.
func (a *agent) flush(c *mqtt.Conn) {
	s := a.d.s
	a.mu.Lock()
	var list []uint64
	for n, on := range a.waiting {
		if on != c {
			list = append(list, n)
			a.waiting[n] = c
		}
	}
	a.mu.Unlock()
	slices.Sort(list)
	for _, n := range list {
		start := time.Now()
		back := func(err error) {
			a.mu.Lock()
			defer a.mu.Unlock()
			if _, ok := a.waiting[n]; !ok {
				return // an earlier connection's acknowledgement came first
			}
			if err == nil {
				delete(a.waiting, n)
				s.published.Add(1)
				s.acked(time.Since(start))
			} else if a.waiting[n] == c {
				a.waiting[n] = nil // it goes out again
			}
		}
		m := mqtt.Message{Topic: "dt/" + a.d.thing + "/telemetry", Payload: fmt.Appendf(nil, `{"thing":%q,"n":%d,"time":%d}`, a.d.thing, n, start.UnixMilli()), QoS: 1}
		if err := c.Send(m, back); err != nil {
			back(err)
		}
	}
}

// unsent is how many messages nobody has acknowledged.
func (a *agent) unsent() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.waiting)
}

// now is the device's clock.
func (a *agent) now() time.Time {
	a.mu.Lock()
	defer a.mu.Unlock()
	return time.Now().Add(a.skew)
}

// step is where a fault happens.
func (a *agent) step(name string) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.off && len(a.faults) > 0 && (a.faults[0].Step == name || a.faults[0].Step == "") {
		f := a.faults[0]
		a.faults = a.faults[1:]
		a.d.s.agents.count(a.d.s.agents.faults, string(f.Kind))
		a.spoil(f.Kind)
	}
	if a.off {
		return errPower
	}
	return nil
}

func (a *agent) write(name string, data []byte, perm os.FileMode) error {
	if err := a.step("write " + base(name)); err != nil {
		return err
	}
	a.mu.Lock()
	full := a.full
	a.mu.Unlock()
	if full {
		return syscall.ENOSPC
	}
	// One step, without waiting for the disk: it is this process that is simulated to
	// die, not the machine.
	tmp := name + ".new"
	if err := os.WriteFile(tmp, data, perm); err != nil {
		return err
	}
	return os.Rename(tmp, name)
}

func (a *agent) dial(ctx context.Context, network, addr string) (net.Conn, error) {
	a.mu.Lock()
	cut := a.cut || a.off
	a.mu.Unlock()
	if cut {
		return nil, &net.OpError{Op: "dial", Net: network, Err: syscall.ENETUNREACH}
	}
	c, err := new(net.Dialer).DialContext(ctx, network, addr)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	for old := range a.streams { // one device has one or two
		if len(a.streams) > 4 {
			delete(a.streams, old)
		}
	}
	a.streams[c] = true
	return c, nil
}
