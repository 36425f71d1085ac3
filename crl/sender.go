package crl

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"
)

// File is something that is published: a list, a delta list, a filter.
type File struct {
	Path string // such as crl/device-1/0.crl
	Type string // media type
	// Age is for how long caches may keep it.
	Age     time.Duration
	Number  int64
	Changed time.Time
	parts   [][]byte
}

// Open gives its octets from the start.
func (f *File) Open() io.ReadSeeker { return newParts(f.parts) }

// Size is how many there are.
func (f *File) Size() int64 { return newParts(f.parts).size() }

// Destination is a place that lists are carried to.
type Destination interface {
	// Name says in logs and metrics where it is, without secrets.
	Name() string
	// Put replaces the file of that path as one step.
	Put(ctx context.Context, f *File) error
}

// SenderConfig makes a [Sender].
type SenderConfig struct {
	Destinations []Destination
	// Retry is the first wait after a failure; it doubles up to a minute, or Every if
	// that is less. 0 means 1 s.
	Retry time.Duration
	// Every is how often everything is sent again, so that a place that lost a file
	// has it back; 0 means an hour.
	Every time.Duration
	Log   *slog.Logger
	Now   func() time.Time
}

// Sender carries published files to other places, to each at its own pace. A file
// that is replaced before it was sent is never sent: a number does not fall
// there. It is safe for concurrent use.
type Sender struct {
	cfg   SenderConfig
	log   *slog.Logger
	now   func() time.Time
	lanes []*sending

	mu    sync.Mutex
	files map[string]*File // the newest of each path
}

// sending is the work for one destination.
type sending struct {
	to   Destination
	kick chan struct{}

	mu    sync.Mutex
	due   map[string]time.Time // paths, and since when
	state DestinationState
}

// DestinationState is how far a destination is, for metrics and alarms.
type DestinationState struct {
	Name    string
	Pending int       // files that are not there yet
	Since   time.Time // the oldest of them was made
	Sent    int64     // since start
	Failed  int64     // attempts
	Last    time.Time // of the last success
	Fault   string    // of the last attempt, "" after a success
}

// NewSender makes a Sender; nothing is sent before [Sender.Run].
func NewSender(cfg SenderConfig) *Sender {
	s := &Sender{cfg: cfg, files: map[string]*File{}}
	s.log, s.now = defaults(cfg.Log, cfg.Now)
	if s.cfg.Retry == 0 {
		s.cfg.Retry = time.Second
	}
	if s.cfg.Every == 0 {
		s.cfg.Every = time.Hour
	}
	for _, d := range cfg.Destinations {
		s.lanes = append(s.lanes, &sending{to: d, kick: make(chan struct{}, 1), due: map[string]time.Time{}, state: DestinationState{Name: d.Name()}})
	}
	return s
}

// Offer takes the newest octets of a path.
func (s *Sender) Offer(f File) {
	if s == nil {
		return
	}
	s.mu.Lock()
	if old := s.files[f.Path]; old != nil && old.Number >= f.Number {
		s.mu.Unlock()
		return
	}
	s.files[f.Path] = &f
	s.mu.Unlock()
	for _, l := range s.lanes {
		l.add(s.now(), f.Path)
	}
}

func (l *sending) add(at time.Time, paths ...string) {
	l.mu.Lock()
	for _, p := range paths {
		if _, waits := l.due[p]; !waits {
			l.due[p] = at
		}
	}
	l.count()
	l.mu.Unlock()
	select {
	case l.kick <- struct{}{}:
	default:
	}
}

// count is called with the lock held.
func (l *sending) count() {
	l.state.Pending, l.state.Since = len(l.due), time.Time{}
	for _, at := range l.due {
		if l.state.Since.IsZero() || at.Before(l.state.Since) {
			l.state.Since = at
		}
	}
}

// States tells how far every destination is.
func (s *Sender) States() []DestinationState {
	if s == nil {
		return nil
	}
	out := make([]DestinationState, len(s.lanes))
	for i, l := range s.lanes {
		l.mu.Lock()
		out[i] = l.state
		l.mu.Unlock()
	}
	return out
}

// Run sends until ctx ends.
func (s *Sender) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for _, l := range s.lanes {
		wg.Go(func() { s.run(ctx, l) })
	}
	wg.Wait()
}

func (s *Sender) run(ctx context.Context, l *sending) {
	again := time.NewTicker(s.cfg.Every)
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-l.kick:
		case <-again.C:
			s.mu.Lock()
			var all []string
			for p := range s.files {
				all = append(all, p)
			}
			s.mu.Unlock()
			l.add(s.now(), all...)
		}
		for wait := s.cfg.Retry; !s.send(ctx, l); wait = min(2*wait, s.cfg.Every, time.Minute) {
			if !sleep(ctx, wait) {
				return
			}
		}
	}
}

// send sends what is due, one after another; false if something failed. What
// comes meanwhile is in the next round.
func (s *Sender) send(ctx context.Context, l *sending) bool {
	l.mu.Lock()
	var paths []string
	for p := range l.due {
		paths = append(paths, p)
	}
	l.mu.Unlock()
	slices.Sort(paths)
	good := true
	for _, p := range paths {
		s.mu.Lock()
		f := s.files[p]
		s.mu.Unlock()
		err := l.to.Put(ctx, f)
		if ctx.Err() != nil {
			return true
		}
		s.mu.Lock()
		newest := s.files[p] == f
		s.mu.Unlock()
		l.mu.Lock()
		if err != nil {
			good = false
			l.state.Failed++
			l.state.Fault = err.Error()
		} else {
			l.state.Sent++
			l.state.Last, l.state.Fault = s.now(), ""
			if newest {
				delete(l.due, p)
			}
		}
		l.count()
		l.mu.Unlock()
		if err != nil {
			s.log.ErrorContext(ctx, "published file not sent; it is tried again", "destination", l.to.Name(), "path", p, "error", err)
		}
	}
	return good
}

// offer hands a list over.
func (s *Sender) offer(id listID, n *published, age time.Duration) {
	if s == nil {
		return
	}
	path := listPath(id)
	s.Offer(File{Path: path, Type: listType, Age: age, Number: n.Number, Changed: n.ThisUpdate, parts: slices.Concat([][]byte{n.front}, n.entries.octets(), [][]byte{n.back})})
	if n.delta != nil {
		s.Offer(File{Path: strings.TrimSuffix(path, ".crl") + deltaSuffix, Type: listType, Age: age, Number: n.Number, Changed: n.ThisUpdate, parts: [][]byte{n.delta.der}})
	}
}

const listType = "application/pkix-crl"

// errSend hides nothing but what a server might have echoed.
func errSend(status string) error { return errors.New("the server answered " + status) }
