package simulate

import (
	"context"
	"crypto/x509"
	"maps"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"hallmark/device"
	"hallmark/device/mqtt"
)

// Config describes a simulation. The zero value of a field is its default.
type Config struct {
	Endpoint   string // of the broker, host:port
	ServerName string // in its certificate; empty = the endpoint's host
	Roots      *x509.CertPool
	Devices    []Device

	Version   byte          // mqtt.V311 (0 too) or mqtt.V5
	KeepAlive time.Duration // 0 = 5 minutes
	Timeout   time.Duration // of a connect and of a write; 0 = 30 s

	Rate    float64       // messages a second of each device; 0 = none
	QoS     byte          // of them
	Payload int           // their size; 0 = 256 bytes
	Shadow  time.Duration // each device reports its state so often; 0 = never

	Stages   []int         // per cent of the fleet that are to be connected, in turn; nil = 10, 25, 50, 100
	Hold     time.Duration // at each stage
	Dials    int           // connects at once; 0 = 64
	Patience time.Duration // for each stage and the storm; 0 = 5 min

	Duration  time.Duration // of the run after the last stage; 0 = until the context ends
	Reconnect bool          // after it, drop all connections and connect again at once
	Backoff   device.Backoff

	Agents *Agents // nil: devices keep their certificates and obey nobody

	Progress func(Figures) // called every second; may be nil
}

// Figures is the fleet at one moment. Latencies are since the last one.
type Figures struct {
	Phase     string            `json:"phase"`
	Elapsed   time.Duration     `json:"-"`
	Devices   int               `json:"devices"`
	Connected int               `json:"connected"`
	Connects  float64           `json:"connects_per_second"`
	Publishes float64           `json:"publishes_per_second"`
	Connect   Quantiles         `json:"connect"`
	Ack       Quantiles         `json:"ack"`
	Errors    map[string]uint64 `json:"errors"` // since the beginning, by code
}

// Stage is how a part of the fleet came up.
type Stage struct {
	Percent  int       `json:"percent"` // 0: all, again (the storm)
	Target   int       `json:"target"`
	Reached  int       `json:"connected"`
	Seconds  float64   `json:"seconds"`
	PerSec   float64   `json:"connects_per_second"`
	Connect  Quantiles `json:"connect"` // a connect that worked, from TCP to CONNACK
	Failures uint64    `json:"failures"`
}

// Result is the whole run.
type Result struct {
	OK        bool              `json:"ok"` // all devices were connected at the end
	Devices   int               `json:"devices"`
	Connected int               `json:"connected"`
	Seconds   float64           `json:"seconds"`
	Stages    []Stage           `json:"stages"`
	Storm     *Stage            `json:"reconnect_all,omitempty"`
	Connects  uint64            `json:"connects"`
	Resumed   uint64            `json:"tls_resumed"`
	Lost      uint64            `json:"connections_lost"`
	Publishes uint64            `json:"publishes"` // sent; for QoS 1 acknowledged
	Skipped   uint64            `json:"publishes_skipped"`
	PerSec    float64           `json:"publishes_per_second"` // of the run after the last stage
	Ack       Quantiles         `json:"ack"`                  // QoS 1 publishes
	Shadows   uint64            `json:"shadow_updates"`
	Errors    map[string]uint64 `json:"errors"`
	KBDevice  float64           `json:"heap_kb_per_device"` // of this process
	Agents    *AgentFigures     `json:"agents,omitempty"`
}

// simulation is a run.
type simulation struct {
	cfg     Config
	devices []*simulated
	agents  *agents // nil without
	dials   chan struct{}
	ctx     context.Context
	began   time.Time

	connected atomic.Int64
	connects  atomic.Uint64
	resumed   atomic.Uint64
	lost      atomic.Uint64
	failures  atomic.Uint64
	published atomic.Uint64
	skipped   atomic.Uint64
	shadows   atomic.Uint64

	ack                 *latency
	connect             atomic.Pointer[latency] // of the stage
	recentMu            sync.Mutex
	recentAck, recentUp *latency
	phase               atomic.Pointer[string]
	quiet               atomic.Bool // agents make no new messages

	errMu sync.Mutex
	errs  map[string]uint64

	moved chan struct{} // one signal: the number of connected devices changed
	wg    sync.WaitGroup
}

// Run simulates the fleet. It returns an error only if the simulation could not
// be begun; what the service did is in the result.
func Run(ctx context.Context, cfg Config) (Result, error) {
	s, err := prepare(cfg)
	if err != nil {
		return Result{}, err
	}
	var before runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	// Devices live as long as this context; ctx only ends the waiting.
	var cancel context.CancelFunc
	s.ctx, cancel = context.WithCancel(context.WithoutCancel(ctx))
	defer cancel()
	stopReports := s.reports()
	s.probe()
	var out Result
	// 1. Up, in stages.
	done := 0
	for _, percent := range s.cfg.Stages {
		target := (len(s.devices)*percent + 99) / 100
		s.say("ramp")
		out.Stages = append(out.Stages, s.stage(ctx, percent, target, func() {
			for ; done < target; done++ {
				s.devices[done].begin()
			}
		}))
		if ctx.Err() != nil {
			break
		}
		s.say("hold")
		wait(ctx, s.cfg.Hold)
	}
	// 2. The run.
	s.say("run")
	published, start := s.published.Load(), time.Now()
	if s.cfg.Duration > 0 {
		wait(ctx, s.cfg.Duration)
	} else if !s.cfg.Reconnect {
		<-ctx.Done()
	}
	if d := time.Since(start).Seconds(); d > 0 {
		out.PerSec = float64(s.published.Load()-published) / d
	}
	// 3. The storm.
	if s.cfg.Reconnect && ctx.Err() == nil {
		s.say("storm")
		storm := s.stage(ctx, 0, len(s.devices), s.dropAll)
		out.Storm = &storm
	}
	if s.agents != nil {
		s.say("drain")
		s.drain(ctx)
	}
	// 4. What is left of it.
	var after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&after)
	out.Devices, out.Connected = len(s.devices), int(s.connected.Load())
	out.OK = out.Connected == out.Devices
	out.KBDevice = float64(int64(after.HeapInuse+after.StackInuse)-int64(before.HeapInuse+before.StackInuse)) / 1024 / float64(len(s.devices))
	out.Seconds = time.Since(s.began).Seconds()
	stopReports()
	out.Agents = s.agentFigures()
	cancel()
	s.wg.Wait()
	out.Connects, out.Resumed, out.Lost = s.connects.Load(), s.resumed.Load(), s.lost.Load()
	out.Publishes, out.Skipped, out.Shadows, out.Ack, out.Errors = s.published.Load(), s.skipped.Load(), s.shadows.Load(), s.ack.figures(), s.errors()
	return out, nil
}

func prepare(cfg Config) (*simulation, error) {
	if cfg.Endpoint == "" || cfg.Roots == nil || cfg.Rate < 0 || cfg.Rate > 10_000 || cfg.Payload < 0 || cfg.Payload > 128<<10 || cfg.QoS > 1 || cfg.Shadow < 0 {
		return nil, ErrConfig.New("")
	}
	if len(cfg.Devices) == 0 {
		return nil, ErrDevices.New("")
	}
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err == nil && files.Cur < uint64(len(cfg.Devices))+64 {
		return nil, ErrFiles.New("%d devices, %d files.", len(cfg.Devices), files.Cur)
	}
	if cfg.Payload == 0 {
		cfg.Payload = 256
	}
	if cfg.Stages == nil {
		cfg.Stages = []int{10, 25, 50, 100}
	}
	if cfg.Dials <= 0 {
		cfg.Dials = 64
	}
	if cfg.Patience <= 0 {
		cfg.Patience = 5 * time.Minute
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = 30 * time.Second
	}
	last := 0
	for _, p := range cfg.Stages {
		if p <= last || p > 100 {
			return nil, ErrConfig.New("Stages rise, to 100 at most.")
		}
		last = p
	}
	if last != 100 {
		cfg.Stages = append(cfg.Stages, 100)
	}
	s := &simulation{cfg: cfg, dials: make(chan struct{}, cfg.Dials), began: time.Now(), ack: new(latency), recentAck: new(latency), recentUp: new(latency), errs: map[string]uint64{}, moved: make(chan struct{}, 1)}
	s.connect.Store(new(latency))
	if cfg.Agents != nil {
		if cfg.Agents.Probe < 0 || cfg.Agents.Probe > 10_000 || cfg.Agents.Probe > 0 && cfg.Agents.Server == "" || cfg.Shadow > 0 {
			return nil, ErrConfig.New("A probe asks the device listener, 0 to 10000 times a second; agents report no state of their own.")
		}
		s.agents = &agents{Agents: *cfg.Agents, jobs: map[string]uint64{}, faults: map[string]uint64{}, refused: []string{}}
	}
	seen := map[string]bool{}
	for _, d := range cfg.Devices {
		if seen[d.Thing] {
			return nil, ErrDevices.New("%s is there twice: the two would drive each other out.", d.Thing)
		}
		seen[d.Thing] = true
		if s.agents != nil && d.Dir == "" {
			return nil, ErrDevices.New("%s has no directory, which an agent needs.", d.Thing)
		}
		s.devices = append(s.devices, newSimulated(s, d))
	}
	return s, nil
}

// stage does something and waits until so many devices are connected.
func (s *simulation) stage(ctx context.Context, percent, target int, do func()) Stage {
	up := new(latency)
	s.connect.Store(up)
	failures, start := s.failures.Load(), time.Now()
	deadline := time.NewTimer(s.cfg.Patience)
	defer deadline.Stop()
	do()
wait:
	for s.connected.Load() < int64(target) {
		select {
		case <-s.moved:
		case <-ctx.Done():
			break wait
		case <-deadline.C:
			break wait
		}
	}
	out := Stage{Percent: percent, Target: target, Reached: int(s.connected.Load()), Seconds: time.Since(start).Seconds(), Connect: up.figures(), Failures: s.failures.Load() - failures}
	if out.Seconds > 0 {
		out.PerSec = float64(out.Connect.Count) / out.Seconds
	}
	return out
}

// dropAll ends every connection without a word and lets all come back at once.
func (s *simulation) dropAll() {
	for _, d := range s.devices {
		d.drop()
	}
}

// drainFor is how long agents get for what is not acknowledged at the end.
const drainFor = 30 * time.Second

// drain stops what agents publish, and waits until the service has it all.
func (s *simulation) drain(ctx context.Context) {
	s.quiet.Store(true)
	for end := time.Now().Add(drainFor); time.Now().Before(end) && ctx.Err() == nil; wait(ctx, 20*time.Millisecond) {
		left := 0
		for _, d := range s.devices {
			if n := d.agent.unsent(); n > 0 {
				left += n
				d.agent.publish()
			}
		}
		if left == 0 {
			return
		}
	}
}

func (s *simulation) agentFigures() *AgentFigures {
	a := s.agents
	if a == nil {
		return nil
	}
	a.mu.Lock()
	out := &AgentFigures{Jobs: maps.Clone(a.jobs), Faults: maps.Clone(a.faults), Refused: slices.Clone(a.refused)}
	a.mu.Unlock()
	out.Fallbacks, out.Registers, out.Probes, out.Missed, out.Locked = a.fallbacks.Load(), a.registers.Load(), a.probes.Load(), a.missed.Load(), a.locked.Load()
	for _, d := range s.devices {
		out.Unsent += uint64(d.agent.unsent())
	}
	return out
}

func wait(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

func (s *simulation) say(phase string) { s.phase.Store(&phase) }

// failed counts an error by its code.
func (s *simulation) failed(err error) {
	code := mqtt.Reason(err)
	s.errMu.Lock()
	defer s.errMu.Unlock()
	s.errs[code]++
}

func (s *simulation) errors() map[string]uint64 {
	s.errMu.Lock()
	defer s.errMu.Unlock()
	return maps.Clone(s.errs)
}

// acked and up count a latency for the whole and for the next report.
func (s *simulation) acked(d time.Duration) {
	s.ack.add(d)
	s.recentMu.Lock()
	l := s.recentAck
	s.recentMu.Unlock()
	l.add(d)
}

func (s *simulation) up(d time.Duration) {
	s.connect.Load().add(d)
	s.recentMu.Lock()
	l := s.recentUp
	s.recentMu.Unlock()
	l.add(d)
}

// change notes that a device is connected, or is not any more.
func (s *simulation) change(by int64) {
	s.connected.Add(by)
	select {
	case s.moved <- struct{}{}:
	default:
	}
}

// reports calls Progress every second until the returned function is called.
func (s *simulation) reports() (stop func()) {
	if s.cfg.Progress == nil {
		return func() {}
	}
	end, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		t := time.NewTicker(time.Second)
		defer t.Stop()
		last, connects, published := time.Now(), uint64(0), uint64(0)
		for {
			select {
			case <-end:
				return
			case <-t.C:
			}
			s.recentMu.Lock()
			ack, up := s.recentAck, s.recentUp
			s.recentAck, s.recentUp = new(latency), new(latency)
			s.recentMu.Unlock()
			now, c, p := time.Now(), s.connects.Load(), s.published.Load()
			d := now.Sub(last).Seconds()
			s.cfg.Progress(Figures{Phase: *s.phase.Load(), Elapsed: now.Sub(s.began), Devices: len(s.devices), Connected: int(s.connected.Load()),
				Connects: float64(c-connects) / d, Publishes: float64(p-published) / d, Connect: up.figures(), Ack: ack.figures(), Errors: s.errors()})
			last, connects, published = now, c, p
		}
	}()
	return func() { close(end); <-ended }
}
