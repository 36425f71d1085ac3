package station

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"hallmark/api/factoryapi"
	"hallmark/internal/fault"
	"hallmark/station/adapter"
	"hallmark/station/spool"
	"hallmark/station/uplink"
)

// Uplink is the service as a station uses it. Contract: every method can be
// repeated with the same arguments; Issue returns the same certificate for the
// same unit and key, and the same unit for the same key when it allocates;
// errors carry the service's fault.
type Uplink interface {
	Order(ctx context.Context, id string) (factoryapi.FactoryOrder, error)
	Issue(ctx context.Context, r factoryapi.IssueRequest) (factoryapi.IssueAnswer, error)
	Commit(ctx context.Context, r factoryapi.CommitRequest) (factoryapi.CommitAnswer, error)
	// Skew is how far the service's clock is ahead of the station's, by the
	// last answer; known is false before the first.
	Skew() (skew time.Duration, known bool)
}

// Journal is the spool as a station uses it. Contract: Append returns nil when
// the record is durable, and nothing of it stays otherwise; Named finds the job
// of a unit that was worked on last, whatever its case.
type Journal interface {
	Append(r spool.Record) error
	Unit(job string) (spool.Unit, bool)
	Named(order, unit string) (spool.Unit, bool)
	Unfinished() []spool.Unit
}

// Config makes a [Station].
type Config struct {
	Order   string
	Uplink  Uplink
	Journal Journal
	Roots   []*x509.Certificate // that the units' chains must end in
	// Adapter opens the adapter of a nest.
	Adapter func(nest int) (adapter.Adapter, error)
	// Nests is how many units are worked on at once; 0 means 1.
	Nests int
	// Operator who works at the station, as the record will say; may be empty.
	Operator string
	// Tool is the name and version of this software; empty means "hallmark station".
	Tool string
	// StepTimeout bounds each thing a device is asked to do; 0 means 30 s.
	StepTimeout time.Duration
	// StopAfter that many units in a row that did not pass; 0 means never. What an
	// earlier run left and cannot be finished says nothing of the units in the
	// nests and is left out.
	StopAfter int
	// Budget of the line for a certificate; 0 means 1 s. More turns the andon yellow.
	Budget time.Duration
	// Renew looks after the station's own certificate; it is called at the
	// start and every hour; may be nil.
	Renew func(ctx context.Context) error
	// Event is told of everything that happens, one call at a time; may be nil.
	Event func(Event)
	Log   *slog.Logger
	Now   func() time.Time

	pause func(ctx context.Context, d time.Duration) error // tests do not wait
}

// Station works on one order.
type Station struct {
	cfg   Config
	log   *slog.Logger
	roots *x509.CertPool
	ended bool // the order is closed: of the units that come, only those that were begun are worked on

	stopOnce sync.Once
	stopping chan struct{}

	mu       sync.Mutex // guards what follows, and the order of events
	summary  Summary
	took     []time.Duration
	inARow   int
	inNest   map[string]bool
	last     map[string]verdict // of each job: a unit that failed may pass yet
	stopWith error
}

const (
	maxNests    = 64
	maxMeasured = 100_000
	maxOperator = 64  // octets of a name
	maxNote     = 500 // octets of what the journal says of a failure
	renewEvery  = time.Hour
	// maxSkew is how far the clocks of station and service may be apart (S38). The
	// service dates certificates back by ten minutes, which have to cover it.
	maxSkew = 5 * time.Minute
)

// New makes a station.
func New(cfg Config) (*Station, error) {
	switch {
	case cfg.Order == "":
		return nil, ErrConfig.New("There is no order.")
	case cfg.Uplink == nil || cfg.Journal == nil || cfg.Adapter == nil:
		return nil, ErrConfig.New("Uplink, journal or adapter is missing.")
	case len(cfg.Roots) == 0:
		return nil, ErrConfig.New("There is no root to trust.")
	case cfg.Nests < 0 || cfg.Nests > maxNests:
		return nil, ErrConfig.New("The number of nests is between 1 and %d.", maxNests)
	case len(cfg.Operator) > maxOperator:
		return nil, ErrConfig.New("The operator's name is longer than %d octets.", maxOperator)
	}
	if cfg.Nests == 0 {
		cfg.Nests = 1
	}
	if cfg.Tool == "" {
		cfg.Tool = "hallmark station"
	}
	if cfg.StepTimeout <= 0 {
		cfg.StepTimeout = 30 * time.Second
	}
	if cfg.Budget <= 0 {
		cfg.Budget = time.Second
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.Now == nil {
		cfg.Now = time.Now
	}
	if cfg.Event == nil {
		cfg.Event = func(Event) {}
	}
	if cfg.pause == nil {
		cfg.pause = sleep
	}
	s := &Station{cfg: cfg, log: cfg.Log, roots: x509.NewCertPool(), stopping: make(chan struct{}), inNest: map[string]bool{}, last: map[string]verdict{}}
	for _, r := range cfg.Roots {
		s.roots.AddCert(r)
	}
	return s, nil
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-t.C:
		return nil
	}
}

// Stop lets the nests finish their units and takes no others.
func (s *Station) Stop() { s.stopOnce.Do(func() { close(s.stopping) }) }

// Run finishes what an earlier run left, then works on the units of source
// until it ends, [Station.Stop] is called or the stop policy acts; a nil source
// only finishes. When ctx ends, units are left where they are; the journal
// knows. The error tells why the run as a whole did not go well: [ErrUnits] if
// units did not pass.
func (s *Station) Run(ctx context.Context, source Source) (Summary, error) {
	begin := s.cfg.Now()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	nests := make([]*nest, s.cfg.Nests)
	for i := range nests {
		a, err := s.cfg.Adapter(i)
		if err != nil {
			return s.end(begin, err)
		}
		defer a.Close()
		nests[i] = &nest{Station: s, number: i, adapter: a}
	}
	var renewal sync.WaitGroup
	if s.cfg.Renew != nil {
		s.renew(ctx)
		renewal.Go(func() { s.keepRenewing(ctx) })
	}
	defer renewal.Wait()
	defer cancel()

	// 1. The order, and with it the time: a clock that is wrong refuses every
	// certificate, when each has cost the order a unit.
	o, err := s.cfg.Uplink.Order(ctx, s.cfg.Order)
	if err := s.checkClock(); err != nil {
		return s.end(begin, err)
	}
	if source != nil && err == nil {
		s.tell(Event{State: "order", Order: o.Id, Detail: o.State, Used: &o.Used, Quantity: &o.Quantity})
	}
	// 2. What was begun, oldest first, whatever order it belongs to.
	s.each(ctx, nests, s.leftOver())
	if source == nil || s.stopped() || ctx.Err() != nil {
		return s.end(begin, nil)
	}
	if err != nil {
		return s.end(begin, err)
	}
	// A closed order lets its station finish what failed, for a while (S9).
	if s.ended = o.State == "closed"; o.State != "open" && !s.ended {
		return s.end(begin, ErrOrder.New("Order %s is %s.", o.Id, o.State))
	}
	// 3. The units.
	s.each(ctx, nests, s.fresh(ctx, source))
	return s.end(begin, nil)
}

// checkClock compares the station's clock with the service's, if that was reached.
func (s *Station) checkClock() error {
	skew, known := s.cfg.Uplink.Skew()
	if !known || skew.Abs() <= maxSkew {
		return nil
	}
	where := "behind"
	if skew < 0 {
		where = "ahead of"
	}
	return ErrClock.New("The station's clock is %s %s the service's; %s are allowed.", skew.Abs().Round(time.Second), where, maxSkew)
}

// each lets the nests take units until there are none.
func (s *Station) each(ctx context.Context, nests []*nest, next func(nest int) (*work, error)) {
	var taking sync.Mutex
	var nestsDone sync.WaitGroup
	for _, n := range nests {
		nestsDone.Go(func() {
			for ctx.Err() == nil && !s.stopped() {
				// Only a nest that is free takes a unit: what was scanned and
				// not begun when the station stops would be forgotten.
				taking.Lock()
				w, err := next(n.number)
				taking.Unlock()
				if err != nil {
					if !errors.Is(err, io.EOF) {
						s.stopFor(err)
					}
					return
				}
				n.one(ctx, w)
			}
		})
	}
	nestsDone.Wait()
}

// leftOver gives the unfinished units of the journal, each to the nest that had
// it: after a power cut the boards are still where they were.
func (s *Station) leftOver() func(nest int) (*work, error) {
	left := s.cfg.Journal.Unfinished()
	return func(nest int) (*work, error) {
		i := slices.IndexFunc(left, func(u spool.Unit) bool { return u.Nest%s.cfg.Nests == nest })
		if i < 0 {
			return nil, io.EOF
		}
		u := left[i]
		left = slices.Delete(left, i, i+1)
		return &work{unit: u, device: deviceOf(u), begin: s.cfg.Now(), resumed: true, left: true}, nil
	}
}

// fresh gives the units of a source, with what the journal knows of them.
func (s *Station) fresh(ctx context.Context, source Source) func(nest int) (*work, error) {
	// The source waits for a person; both ends must reach it.
	waiting, cancel := context.WithCancel(ctx)
	go func() {
		defer cancel()
		select {
		case <-s.stopping:
		case <-ctx.Done():
		}
	}()
	return func(int) (*work, error) {
		unit, err := source(waiting)
		if err != nil {
			return nil, err
		}
		w := &work{begin: s.cfg.Now(), device: adapter.Device{Label: unit, Unit: unit}}
		w.unit.Job, w.unit.Unit, w.unit.Order = namedJob(s.cfg.Order, unit), unit, s.cfg.Order
		if unit == "" {
			w.unit.Job = newJob()
			w.device.Label = w.unit.Job
		}
		return w, nil
	}
}

// The job of a scanned unit is its name in its order, so that a second scan
// finds the first. The job of a unit to be allocated is random and is also the
// device's label until the unit has a name.
const allocatedJob = "new-"

func namedJob(order, unit string) string { return "unit:" + order + ":" + strings.ToLower(unit) }

func newJob() string {
	var b [8]byte
	rand.Read(b[:])
	return allocatedJob + hex.EncodeToString(b[:])
}

func allocated(u spool.Unit) bool { return strings.HasPrefix(u.Job, allocatedJob) }

func deviceOf(u spool.Unit) adapter.Device {
	if allocated(u) {
		return adapter.Device{Label: u.Job, Unit: u.Unit}
	}
	return adapter.Device{Label: u.Unit, Unit: u.Unit}
}

// one works on one unit and records its outcome.
func (n *nest) one(ctx context.Context, w *work) {
	err := n.enter(w)
	if err == nil {
		err = n.carry(ctx, w)
		n.leave(w)
	}
	v := judge(err, w, n.cfg.Order)
	if ctx.Err() != nil && v.state == Failure {
		v = verdict{state: Pending} // a program that was killed with us says nothing about the unit
	}
	f := fault.From(err)
	if v.state == Failure && w.unit.State != "" && !w.again && !w.refused {
		detail := f.Detail
		if len(detail) > maxNote {
			detail = strings.ToValidUTF8(detail[:maxNote], "")
		}
		if failed := n.note(w, spool.Record{State: spool.Failed, Unit: w.unit.Unit, Serial: w.unit.Serial, Code: f.Code, Detail: detail}); failed != nil {
			v = judge(failed, w, n.cfg.Order)
			f = fault.From(failed)
		}
	}
	e := n.event(w, v.state)
	if f != nil {
		e.Code, e.What, e.Detail, e.Next, e.RequestID = f.Code, f.What, f.Detail, f.Next, uplink.RequestID(f)
		switch {
		case v.away:
			e.Next = "Put the unit into the nest and start again; a scrapped one is given up with hallmark station abandon."
		case v.state == Pending && w.again: // the journal has nothing to finish
			e.Next = "It was committed before. Scan it again when the service can be reached; until then it does not pass."
		}
		n.log.InfoContext(ctx, "unit did not pass", "unit", e.Unit, "job", e.Job, "nest", e.Nest, "state", e.State, "code", e.Code, "error", f)
	}
	n.count(v, e, w)
	n.tell(e)
	if v.stop {
		n.stopFor(f)
	}
}

// enter takes the serial for this nest and looks up what is known of it.
func (n *nest) enter(w *work) error {
	unit := w.device.Unit
	if unit == "" {
		return n.begun(w)
	}
	if !validUnit(unit) {
		w.refused = true
		w.unit.Unit, w.device.Unit = strings.ToValidUTF8(unit[:min(len(unit), 64)], "?"), ""
		return ErrSerial.New("")
	}
	if err := n.begun(w); err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	// Two serials that differ in case only are one unit to the service.
	key := strings.ToLower(unit)
	if n.inNest[key] {
		w.refused = true
		return ErrTwice.New("")
	}
	n.inNest[key] = true
	w.entered = key
	// What the service named began under another name than that of its unit.
	if known, ok := n.cfg.Journal.Named(w.unit.Order, unit); ok && !w.left {
		w.unit.Job = known.Job
	}
	// Not before: the nest that had this serial a moment ago has written since.
	if known, ok := n.cfg.Journal.Unit(w.unit.Job); ok {
		w.unit = known
		if known.State != spool.Failed || allocated(known) { // what was scanned and failed may have been misspelt
			w.device = deviceOf(known)
		}
		w.resumed = w.resumed || !known.State.Final()
	}
	return nil
}

// begun refuses a unit that was never begun once the order is closed, before its device
// is touched.
func (n *nest) begun(w *work) error {
	if !n.ended || w.left {
		return nil
	}
	if unit := w.device.Unit; unit != "" {
		if _, ok := n.cfg.Journal.Named(w.unit.Order, unit); ok {
			return nil
		}
	}
	w.refused = true
	return ErrOrder.New("Order %s is closed.", w.unit.Order)
}

func (n *nest) leave(w *work) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.inNest, w.entered)
}

func (n *nest) event(w *work, state string) Event {
	e := Event{State: state, Order: w.unit.Order, Unit: w.unit.Unit, Nest: n.number, Serial: w.unit.Serial,
		MS: n.cfg.Now().Sub(w.begin).Milliseconds(), Resumed: w.resumed, Again: w.again}
	if e.Unit == "" {
		e.Job = w.unit.Job
	}
	if state == Passed {
		e.Used, e.Quantity = w.answer.Used, w.answer.Quantity
	}
	return e
}

func (s *Station) tell(e Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	e.Time = s.cfg.Now().UTC()
	s.cfg.Event(e)
}

func (s *Station) measure(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.took) < maxMeasured {
		s.took = append(s.took, d)
	}
}

// count adds an outcome to the summary and applies the stop policy.
func (s *Station) count(v verdict, e Event, w *work) {
	s.mu.Lock()
	job := w.unit.Job
	if e.Code == ErrTwice.Code {
		// It may be a second board, which what the first one does says nothing of.
		job = fmt.Sprintf("%s, again %d", job, len(s.last))
	}
	s.last[job] = v
	if e.Again && v.state == Passed {
		s.summary.Again++
	}
	if e.Resumed {
		s.summary.Resumed++
	}
	if e.Code != "" {
		if s.summary.Codes == nil {
			s.summary.Codes = map[string]int{}
		}
		s.summary.Codes[e.Code]++
	}
	switch {
	case v.state == Passed:
		s.inARow = 0
	case !v.alone:
		s.inARow++
	}
	enough := s.cfg.StopAfter > 0 && !v.alone && s.inARow >= s.cfg.StopAfter
	s.mu.Unlock()
	if enough {
		s.stopFor(ErrStopped.New("%d units in a row did not pass; the last reason was %s.", s.cfg.StopAfter, e.Code))
	}
}

// stopFor stops the run; the first reason counts.
func (s *Station) stopFor(err error) {
	s.mu.Lock()
	if s.stopWith == nil {
		s.stopWith = err
	}
	s.mu.Unlock()
	s.Stop()
}

func (s *Station) stopped() bool {
	select {
	case <-s.stopping:
		return true
	default:
		return false
	}
}

// end makes the summary.
func (s *Station) end(begin time.Time, err error) (Summary, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sum := s.summary
	for _, v := range s.last {
		switch v.state {
		case Passed:
			sum.Committed++
		case Failure:
			sum.Failed++
		default:
			sum.Pending++
		}
		if v.away {
			sum.Away++
		}
	}
	sum.Seconds = s.cfg.Now().Sub(begin).Seconds()
	slices.Sort(s.took)
	if n := len(s.took); n > 0 {
		sum.IssueMS.P50 = s.took[n/2].Milliseconds()
		sum.IssueMS.P99 = s.took[n*99/100].Milliseconds()
		sum.IssueMS.Max = s.took[n-1].Milliseconds()
	}
	if err == nil {
		err = s.stopWith
	}
	if err != nil {
		sum.Stopped = fault.From(err).Code
	} else if sum.Failed+sum.Pending > sum.Away {
		err = ErrUnits.New("%d failed, %d pending.", sum.Failed, sum.Pending)
	}
	switch {
	case err != nil:
		sum.Andon = "red"
	case sum.IssueMS.P99 > s.cfg.Budget.Milliseconds() || sum.Away > 0:
		sum.Andon = "yellow"
	default:
		sum.Andon = "green"
	}
	return sum, err
}

// keepRenewing looks after the station's certificate while it works.
func (s *Station) keepRenewing(ctx context.Context) {
	t := time.NewTicker(renewEvery)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			s.renew(ctx)
		}
	}
}

// renew is not allowed to stop the line: the certificate has a third of its
// life left when this is tried first.
func (s *Station) renew(ctx context.Context) {
	if err := s.cfg.Renew(ctx); err != nil && ctx.Err() == nil {
		s.log.WarnContext(ctx, "station certificate could not be renewed", "code", fault.From(err).Code, "error", err)
	}
}
