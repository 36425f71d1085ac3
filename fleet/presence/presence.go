package presence

import (
	"cmp"
	"context"
	"encoding/json"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"hallmark/access"
	"hallmark/fleet"
)

// Kind is what happened to a connection, in the words of the event topics.
type Kind string

// The kinds.
const (
	Connected     Kind = "connected"
	Disconnected  Kind = "disconnected"
	ConnectFailed Kind = "connect_failed"
	Subscribed    Kind = "subscribed"
	Unsubscribed  Kind = "unsubscribed"
)

// Event is one change in the life of a connection.
type Event struct {
	fleet.Sender
	Kind            Kind
	Time            time.Time
	Session         string // identifies the connection
	Version         int64  // the same for connect and disconnect of one connection
	Address         netip.AddrPort
	Reason          string // of Disconnected and ConnectFailed
	ClientInitiated bool
	Topics          []string // of Subscribed and Unsubscribed
}

// State is the newest that is known of a client identifier.
type State struct {
	Tenant      string
	Client      string
	Thing       fleet.ThingName // empty for a client without a thing
	Certificate string
	Node        string // of the service that has or had the connection
	Session     string
	Connected   bool
	At          time.Time // of the last change
	Reason      string    // why it is not connected

	// began is when a connection began that ended before it was written.
	began time.Time
}

// Store persists states. Contract: PutPresence writes each state unless the
// stored one is newer, or is of another session and connected since; ResetPresence
// marks everything as disconnected that a node had; ForgetPresence removes at most
// limit states whose client is not connected and changed last before a time;
// SilentThings lists things
// that are not connected and whose last change is before a time, in the order of
// their names. PutUses writes each use unless the stored one is newer; ForgetUses
// removes at most limit of those before a time.
type Store interface {
	PutPresence(ctx context.Context, states []State) error
	Presence(ctx context.Context, s access.Scope, thing fleet.ThingName) ([]State, error)
	ResetPresence(ctx context.Context, node, reason string, at time.Time) (int64, error)
	ForgetPresence(ctx context.Context, before time.Time, limit int) (int64, error)
	SilentThings(ctx context.Context, s access.Scope, since time.Time, after fleet.ThingName, limit int) ([]State, error)
	PutUses(ctx context.Context, uses []Use) error
	ForgetUses(ctx context.Context, before time.Time, limit int) (int64, error)
}

// Config makes a Service.
type Config struct {
	Store     Store
	Publisher fleet.Publisher
	// Node names this service among those of one database.
	Node string
	// MaxWaiting bounds the events that wait to be published; 0 means 100,000.
	MaxWaiting int
	// Yield tells that something more important, such as the factory line, needs the
	// database now; nil means that nothing ever does.
	Yield func() bool
	Log   *slog.Logger
	Now   func() time.Time
}

// Service is presence. It is safe for concurrent use.
type Service struct {
	cfg     Config
	log     *slog.Logger
	now     func() time.Time
	Dropped atomic.Int64 // events that were not published

	mu     sync.Mutex
	events []Event
	states map[clientKey]State
	uses   uses
	wake   chan struct{}
}

type clientKey struct{ tenant, client string }

// New makes a Service.
func New(cfg Config) *Service {
	s := &Service{cfg: cfg, log: cfg.Log, now: cfg.Now, states: map[clientKey]State{}, wake: make(chan struct{}, 1)}
	s.cfg.MaxWaiting = cmp.Or(cfg.MaxWaiting, 100_000)
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.now == nil {
		s.now = time.Now
	}
	if s.cfg.Yield == nil {
		s.cfg.Yield = func() bool { return false }
	}
	return s
}

// Hear takes an event; it never blocks.
func (s *Service) Hear(e Event) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e.Kind == Connected || e.Kind == Disconnected {
		k := clientKey{e.Tenant, e.Client}
		if have, ok := s.states[k]; !ok || e.Kind == Connected || have.Session == e.Session {
			st := State{Tenant: e.Tenant, Client: e.Client, Thing: e.Thing, Certificate: e.Certificate, Node: s.cfg.Node, Session: e.Session,
				Connected: e.Kind == Connected, At: e.Time, Reason: e.Reason}
			if have.Connected && !st.Connected {
				st.began = have.At
			}
			s.states[k] = st
		}
	}
	if len(s.events) >= s.cfg.MaxWaiting {
		s.Dropped.Add(1)
		return
	}
	s.events = append(s.events, e)
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// Start marks who was connected when this node stopped without saying so.
func (s *Service) Start(ctx context.Context) error {
	n, err := s.cfg.Store.ResetPresence(ctx, s.cfg.Node, "SERVER_ERROR", s.now())
	if err == nil && n > 0 {
		s.log.InfoContext(ctx, "connections of the last run ended with it", "clients", n)
	}
	return err
}

// retainPage is how many states one transaction removes.
const retainPage = 500

// Retain removes what is known of clients that have not been connected for a time, and
// of certificates that were not used for so long (S43); 0 keeps it. Addresses are in
// the events alone and are never kept.
func (s *Service) Retain(ctx context.Context, keep time.Duration) (n int64, err error) {
	if keep <= 0 {
		return 0, nil
	}
	for _, forget := range []func(context.Context, time.Time, int) (int64, error){s.cfg.Store.ForgetPresence, s.cfg.Store.ForgetUses} {
		for gone := int64(retainPage); gone >= retainPage; n += gone {
			if gone, err = forget(ctx, s.now().Add(-keep), retainPage); err != nil {
				return n + gone, err
			}
		}
	}
	return n, nil
}

// Run writes and publishes what was heard, until ctx ends.
func (s *Service) Run(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			s.last(ctx)
			return
		case <-s.wake:
		}
		// A fleet that comes back at once shares commits.
		select {
		case <-ctx.Done():
			s.last(ctx)
			return
		case <-time.After(gatherFor):
		}
		if err := s.Flush(ctx); err != nil && ctx.Err() == nil {
			s.log.ErrorContext(ctx, "presence was not written; trying again", "error", err)
			select {
			case <-ctx.Done():
			case <-time.After(time.Second):
				s.poke()
			}
		}
	}
}

// last writes what was heard before the end.
func (s *Service) last(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := s.Flush(ctx); err != nil {
		s.log.WarnContext(ctx, "the last presence was not written; the next start says that this one ended", "error", err)
	}
}

func (s *Service) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// gatherFor is how long what was heard waits for more.
const gatherFor = 250 * time.Millisecond

// chunk is how many states one transaction writes. While the factory line works its
// commits wait for it, so then it is a few milliseconds' worth; and the writer rests
// after each, so that a fleet that comes back leaves the line most of the database.
const (
	chunk      = 200
	smallChunk = 8
	rest       = 2 // times what the chunk took
)

// gently writes so many rows, a chunk in each transaction.
func (s *Service) gently(ctx context.Context, rows int, write func(from, to int) error) error {
	for from := 0; from < rows; {
		n, yield, start := chunk, s.cfg.Yield(), time.Now()
		if yield {
			n = smallChunk
		}
		to := min(from+n, rows)
		if err := write(from, to); err != nil {
			return err
		}
		if from = to; from < rows && yield {
			select {
			case <-ctx.Done(): // what is left is written without a pause
			case <-time.After(rest * time.Since(start)):
			}
		}
	}
	return nil
}

// Flush writes the states and then publishes the events that were heard up to now.
func (s *Service) Flush(ctx context.Context) error {
	s.mu.Lock()
	events, states := s.events, s.states
	s.events, s.states = nil, map[clientKey]State{}
	s.mu.Unlock()
	list, began := make([]State, 0, len(states)), []State(nil)
	for _, st := range states {
		list = append(list, st)
		if !st.began.IsZero() {
			st.Connected, st.At, st.Reason = true, st.began, ""
			began = append(began, st)
		}
	}
	// The end of a connection counts only where the store knows of that connection, or
	// of none: it may have ended because a newer one took over.
	if err := s.gently(ctx, len(began), func(from, to int) error { return s.cfg.Store.PutPresence(ctx, began[from:to]) }); err != nil {
		s.putBack(events, list)
		return err
	}
	if err := s.gently(ctx, len(list), func(from, to int) error {
		err := s.cfg.Store.PutPresence(ctx, list[from:to])
		if err != nil {
			s.putBack(events, list[from:])
		}
		return err
	}); err != nil {
		return err
	}
	for i := range events {
		topic, payload := events[i].message()
		if topic == "" {
			continue
		}
		if err := s.cfg.Publisher.Publish(ctx, fleet.Message{Tenant: events[i].Tenant, Topic: topic, Payload: payload}); err != nil {
			s.Dropped.Add(1)
		}
	}
	return s.flushUses(ctx)
}

// putBack keeps what was not written, unless something newer came meanwhile.
func (s *Service) putBack(events []Event, states []State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.events = append(events, s.events...)
	for _, st := range states {
		k := clientKey{st.Tenant, st.Client}
		if _, newer := s.states[k]; !newer {
			s.states[k] = st
		}
	}
}

// message is the event on the wire; a client identifier that would be a wildcard
// in the topic has none.
func (e *Event) message() (topic string, payload []byte) {
	if e.Client == "" || strings.ContainsAny(e.Client, "#+") {
		return "", nil
	}
	group := "presence"
	if e.Kind == Subscribed || e.Kind == Unsubscribed {
		group = "subscriptions"
	}
	w := wire{
		Client: e.Client, Timestamp: e.Time.UnixMilli(), Type: e.Kind, Session: e.Session, Principal: e.Certificate, Topics: e.Topics,
	}
	if group == "presence" {
		w.Thing = string(e.Thing)
	}
	switch e.Kind {
	case Connected:
		w.Version, w.Address = &e.Version, address(e.Address)
	case Disconnected:
		w.Version, w.ClientInitiated, w.Disconnect = &e.Version, &e.ClientInitiated, e.Reason
	case ConnectFailed:
		w.ConnectFailure, w.Address = e.Reason, address(e.Address)
	}
	payload, err := json.Marshal(w)
	if err != nil {
		return "", nil // every member is a text or a number
	}
	return "$aws/events/" + group + "/" + string(e.Kind) + "/" + e.Client, payload
}

func address(a netip.AddrPort) string {
	if !a.IsValid() {
		return ""
	}
	return a.Addr().Unmap().String()
}

// wire is a lifecycle event as AWS IoT Core writes it.
type wire struct {
	Client          string   `json:"clientId"`
	Timestamp       int64    `json:"timestamp"` // milliseconds
	Type            Kind     `json:"eventType"`
	Session         string   `json:"sessionIdentifier,omitempty"`
	Principal       string   `json:"principalIdentifier,omitempty"`
	Address         string   `json:"ipAddress,omitempty"`
	Version         *int64   `json:"versionNumber,omitempty"`
	Thing           string   `json:"thingName,omitempty"`
	ClientInitiated *bool    `json:"clientInitiatedDisconnect,omitempty"`
	Disconnect      string   `json:"disconnectReason,omitempty"`
	ConnectFailure  string   `json:"connectFailureReason,omitempty"`
	Topics          []string `json:"topics,omitempty"`
}
