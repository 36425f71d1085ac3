package shadow

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"time"

	"hallmark/access"
	"hallmark/fleet"
)

// Key names a shadow.
type Key struct {
	Tenant string
	Thing  fleet.ThingName
	Name   string // "" is the classic shadow
}

func (k Key) scope() access.Scope { return access.Scope{Tenant: k.Tenant} }

func (k Key) check() error {
	if _, err := fleet.ParseThingName(string(k.Thing)); err != nil {
		return err
	}
	if k.Name != "" && !validName(k.Name) {
		return ErrName.New("")
	}
	return nil
}

// unknown is the fault for a shadow that does not exist. Its text is the one
// that devices look for.
func (k Key) unknown() error {
	shown := string(k.Thing)
	if k.Name != "" {
		shown += "~" + k.Name
	}
	return ErrUnknown.New("No shadow exists with name: '%s'", shown)
}

// prefix is the topic below which everything about the shadow happens.
func (k Key) prefix() string {
	p := "$aws/things/" + string(k.Thing) + "/shadow"
	if k.Name != "" {
		p += "/name/" + k.Name
	}
	return p
}

func validName(s string) bool {
	if s == "" || len(s) > MaxName {
		return false
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		if !(c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == ':' || c == '_' || c == '-' || c == '$') {
			return false
		}
	}
	return true
}

// Row is a shadow as it is stored. A deleted one keeps its version, so that
// the next document goes on counting above it.
type Row struct {
	Key
	Version   int64 // 0: there never was one
	Deleted   bool
	Document  []byte // empty if deleted
	UpdatedAt time.Time
}

// Store persists shadows. Contract: Atomic runs fn in one transaction that every
// method joins, and may run it again; names are compared with their case; Shadow
// gives a Row with Version 0 if there is none; PutShadow inserts if was has
// version 0 and else changes the row only if it still has the version and the
// deletion of was, with [ErrChanged] when somebody was faster; ShadowNames lists the named shadows that are not deleted
// after a name, in the order of their bytes; DropShadows removes everything
// about a thing's shadows, tombstones too; ForgetShadows does so to at most limit
// shadows of all tenants that were not updated since a time, to those of registered
// things only if told so; EachShadow reads all rows of all
// tenants and reports in broken the ones that were tampered with.
type Store interface {
	Atomic(ctx context.Context, fn func(ctx context.Context) error) error
	Shadow(ctx context.Context, s access.Scope, k Key) (Row, error)
	PutShadow(ctx context.Context, r, was Row) error
	ShadowNames(ctx context.Context, s access.Scope, thing fleet.ThingName, after string, limit int) ([]string, error)
	DropShadows(ctx context.Context, s access.Scope, thing fleet.ThingName) error
	ForgetShadows(ctx context.Context, before time.Time, registered bool, limit int) (int64, error)
	EachShadow(ctx context.Context, f func(r Row, broken error) error) error
}

// Config makes a Service.
type Config struct {
	Store Store
	// Publisher gets the answers. It must not come back to this Service for the
	// same thing before it returns.
	Publisher fleet.Publisher
	// MaxDocument is the size of a document in bytes: 0 means
	// [DefaultMaxDocument], at most [LargestMaxDocument].
	MaxDocument int
	// InFlight is how many requests for one thing may be under way at once; 0
	// means [DefaultInFlight], a negative number that there is no limit.
	InFlight int
	Log      *slog.Logger
	Now      func() time.Time
}

// Service keeps shadows. It is safe for concurrent use.
type Service struct {
	store     Store
	publisher fleet.Publisher
	largest   int
	inFlight  int
	log       *slog.Logger
	now       func() time.Time

	mu    sync.Mutex
	doors map[Key]*door // of things: Name is ""
}

// door counts the requests for a thing that are under way, and lets its changes
// through one after the other, so that this node announces them in their order.
type door struct {
	waiting int
	sync.Mutex
}

// New makes a Service.
func New(cfg Config) *Service {
	s := &Service{store: cfg.Store, publisher: cfg.Publisher, inFlight: cmp.Or(cfg.InFlight, DefaultInFlight), log: cfg.Log, now: cfg.Now, doors: map[Key]*door{}}
	s.largest = min(cmp.Or(cfg.MaxDocument, DefaultMaxDocument), LargestMaxDocument)
	if s.log == nil {
		s.log = slog.New(slog.DiscardHandler)
	}
	if s.now == nil {
		s.now = time.Now
	}
	return s
}

// enter takes a place among the requests for the thing; leave gives it back.
func (s *Service) enter(k Key) (*door, error) {
	k.Name = ""
	s.mu.Lock()
	defer s.mu.Unlock()
	d := s.doors[k]
	if d == nil {
		d = &door{}
		s.doors[k] = d
	}
	if s.inFlight > 0 && d.waiting >= s.inFlight {
		return nil, ErrInFlight.New("").After(time.Second)
	}
	d.waiting++
	return d, nil
}

func (s *Service) leave(k Key, d *door) {
	k.Name = ""
	s.mu.Lock()
	defer s.mu.Unlock()
	if d.waiting--; d.waiting == 0 {
		delete(s.doors, k)
	}
}

// Get gives the document and the delta as JSON, without a clientToken.
func (s *Service) Get(ctx context.Context, k Key) ([]byte, error) { return s.get(ctx, k, "") }

func (s *Service) get(ctx context.Context, k Key, token string) ([]byte, error) {
	if err := k.check(); err != nil {
		return nil, err
	}
	row, err := s.store.Shadow(ctx, k.scope(), k)
	if err != nil {
		return nil, err
	}
	if row.Version == 0 || row.Deleted {
		return nil, k.unknown()
	}
	d, err := UnmarshalDocument(row.Document)
	if err != nil {
		return nil, err
	}
	return encode(message{State: d.state(true), Metadata: d.metadata(), Version: row.Version, Timestamp: s.now().Unix(), Token: token})
}

// Update changes the document by a payload as it is sent to the update topic,
// and tells everybody: delta, documents, accepted, in that order. It returns
// what accepted says. The update is durable when it returns; an
// [ErrUndelivered] is about the telling only and comes with the answer.
func (s *Service) Update(ctx context.Context, k Key, payload []byte) ([]byte, error) {
	// 1. What is wrong with the request itself.
	if err := k.check(); err != nil {
		return nil, err
	}
	r, err := parseUpdate(payload)
	if err != nil {
		return nil, err
	}
	d, err := s.enter(k)
	if err != nil {
		return nil, &refusal{err, r.token}
	}
	defer s.leave(k, d)
	d.Lock()
	defer d.Unlock()
	// 2. The change, on what is there now.
	var was, is Row
	var before, after Document
	now := s.now().UTC().Truncate(time.Millisecond)
	err = s.again(ctx, func(ctx context.Context) (err error) {
		was, is, before, after, err = s.decide(ctx, k, &r, now)
		if err != nil {
			return err
		}
		return s.store.PutShadow(ctx, is, was)
	})
	if err != nil {
		return nil, &refusal{err, r.token}
	}
	// 3. Who wants to know, also if the sender is gone meanwhile.
	ctx = context.WithoutCancel(ctx)
	var told []error
	tell := func(topic string, v any) []byte {
		b, err := encode(v)
		if err == nil {
			err = s.publisher.Publish(ctx, fleet.Message{Tenant: k.Tenant, Topic: k.prefix() + topic, Payload: b, QoS: 1})
		}
		told = append(told, err)
		return b
	}
	if state, meta := diff(after.Desired, after.desiredMeta, after.Reported); state != nil {
		tell("/update/delta", message{State: state, Metadata: timestamp(meta), Version: is.Version, Timestamp: now.Unix(), Token: r.token})
	}
	all := documents{Current: after.side(is.Version), Timestamp: now.Unix(), Token: r.token}
	if was.Version > 0 && !was.Deleted {
		previous := before.side(was.Version)
		all.Previous = &previous
	}
	tell("/update/documents", all)
	answer := tell("/update/accepted", r.accepted(is.Version, now))
	return answer, undelivered(told...)
}

func undelivered(errs ...error) error {
	if err := errors.Join(errs...); err != nil {
		return ErrUndelivered.Wrap(err, "")
	}
	return nil
}

// decide computes the new row.
func (s *Service) decide(ctx context.Context, k Key, r *request, now time.Time) (was, is Row, before, after Document, err error) {
	if was, err = s.store.Shadow(ctx, k.scope(), k); err != nil {
		return was, is, before, after, err
	}
	current := int64(1) // what a request must name for a shadow that does not exist
	if was.Version > 0 && !was.Deleted {
		current = was.Version
		if before, err = UnmarshalDocument(was.Document); err != nil {
			return was, is, before, after, err
		}
	}
	if r.version != 0 && r.version != current {
		return was, is, before, after, ErrConflict.New("")
	}
	after = before.apply(r, now.Unix())
	n, err := after.size()
	if err == nil && n > s.largest {
		err = ErrSize.New("It would have %d bytes, %d are allowed.", n, s.largest)
	}
	if err != nil {
		return was, is, before, after, err
	}
	is = Row{Key: k, Version: was.Version + 1, UpdatedAt: now}
	is.Document, err = after.marshal()
	return was, is, before, after, err
}

// Delete removes the document and announces it. The version stays counted.
func (s *Service) Delete(ctx context.Context, k Key) ([]byte, error) { return s.delete(ctx, k, "") }

func (s *Service) delete(ctx context.Context, k Key, token string) ([]byte, error) {
	if err := k.check(); err != nil {
		return nil, err
	}
	d, err := s.enter(k)
	if err != nil {
		return nil, err
	}
	defer s.leave(k, d)
	d.Lock()
	defer d.Unlock()
	now := s.now().UTC().Truncate(time.Millisecond)
	var was Row
	err = s.again(ctx, func(ctx context.Context) (err error) {
		if was, err = s.store.Shadow(ctx, k.scope(), k); err != nil {
			return err
		}
		if was.Version == 0 || was.Deleted {
			return k.unknown()
		}
		return s.store.PutShadow(ctx, Row{Key: k, Version: was.Version, Deleted: true, UpdatedAt: now}, was)
	})
	if err != nil {
		return nil, err
	}
	answer, err := encode(deleted{Version: was.Version, Timestamp: now.Unix(), Token: token})
	if err != nil {
		return nil, err
	}
	return answer, undelivered(s.publisher.Publish(context.WithoutCancel(ctx), fleet.Message{Tenant: k.Tenant, Topic: k.prefix() + "/delete/accepted", Payload: answer, QoS: 1}))
}

// again runs a change until no other service is faster.
func (s *Service) again(ctx context.Context, fn func(ctx context.Context) error) (err error) {
	for range maxTries {
		if err = s.store.Atomic(ctx, fn); !errors.Is(err, ErrChanged) {
			break
		}
	}
	return err
}

// NamedPage is a part of the list of a thing's named shadows.
type NamedPage struct {
	Results   []string `json:"results"`
	NextToken string   `json:"nextToken,omitempty"`
	Timestamp int64    `json:"timestamp"`
}

// ListNamed lists the named shadows of a thing, known or not. A size of 0 means
// as many as fit on a page.
func (s *Service) ListNamed(ctx context.Context, tenant string, thing fleet.ThingName, token string, size int) (NamedPage, error) {
	if _, err := fleet.ParseThingName(string(thing)); err != nil {
		return NamedPage{}, err
	}
	if size < 0 || size > maxPage || token != "" && !validName(token) {
		return NamedPage{}, ErrPage.New("")
	}
	size = cmp.Or(size, maxPage)
	names, err := s.store.ShadowNames(ctx, access.Scope{Tenant: tenant}, thing, token, size+1)
	if err != nil {
		return NamedPage{}, err
	}
	p := NamedPage{Results: names, Timestamp: s.now().Unix()}
	if len(names) > size {
		p.Results = names[:size]
		p.NextToken = names[size-1]
	}
	if p.Results == nil {
		p.Results = []string{}
	}
	return p, nil
}

// Forget removes all shadows of a thing without a trace and without a message:
// for a device that goes to another owner (S43).
func (s *Service) Forget(ctx context.Context, tenant string, thing fleet.ThingName) error {
	return s.store.Atomic(ctx, func(ctx context.Context) error {
		return s.store.DropShadows(ctx, access.Scope{Tenant: tenant}, thing)
	})
}

// keyOf reads the thing and the name from a topic's levels.
func keyOf(tenant string, levels []string) (k Key, operation string, ok bool) {
	switch {
	case len(levels) == 5 && levels[3] == "shadow":
		return Key{Tenant: tenant, Thing: fleet.ThingName(levels[2])}, levels[4], true
	case len(levels) == 7 && levels[3] == "shadow" && levels[4] == "name":
		return Key{Tenant: tenant, Thing: fleet.ThingName(levels[2]), Name: levels[5]}, levels[6], levels[5] != ""
	}
	return k, "", false
}

// sane tells whether a key can be put into a topic.
func (k Key) sane() bool { return !strings.ContainsAny(string(k.Thing)+k.Name, "/+#\x00") }
