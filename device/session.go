package device

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"time"

	"hallmark/device/mqtt"
	"hallmark/internal/fault"
)

// session is one connection of the device with its service.
type session struct {
	r     *runner
	conn  *mqtt.Conn
	thing string
	slot  string // whose certificate it uses

	deltas  chan delta
	sync    chan struct{} // deltas were missed: ask for the whole shadow
	version int64         // of the shadow that was looked at last
}

// delta is what the shadow wants to be different.
type delta struct {
	Version int64           `json:"version"`
	State   json.RawMessage `json:"state"`
}

// subscribe asks for what the device must hear, and for the answers to its
// requests. Some services deliver those of jobs without, and refuse to be asked.
func (s *session) subscribe(ctx context.Context) error {
	var must, may []mqtt.Subscription
	for _, f := range []string{"shadow/update/delta", "shadow/update/accepted", "shadow/update/rejected", "shadow/get/accepted", "shadow/get/rejected", "jobs/notify-next"} {
		must = append(must, mqtt.Subscription{Filter: s.topic(f), QoS: 1})
	}
	for _, f := range []string{"jobs/$next/get/+", "jobs/start-next/+", "jobs/+/update/+"} {
		may = append(may, mqtt.Subscription{Filter: s.topic(f), QoS: 1})
	}
	if err := s.conn.Subscribe(ctx, must...); err != nil {
		return err
	}
	if err := s.conn.Subscribe(ctx, may...); err != nil && !errors.Is(err, mqtt.ErrSubscribe) {
		return err
	}
	return nil
}

// topic is a reserved topic of this thing.
func (s *session) topic(rest string) string { return "$aws/things/" + s.thing + "/" + rest }

// message is called by the connection.
func (s *session) message(m mqtt.Message) {
	if s.r.requests.Deliver(m) {
		return
	}
	if ch := s.r.blocks.Load(); ch != nil && strings.HasPrefix(m.Topic, s.topic("streams/")) {
		select {
		case *ch <- m:
		default: // it is asked for again
		}
		return
	}
	switch m.Topic {
	case s.topic("shadow/update/delta"):
		var d delta
		if err := readMessage(m.Payload, &d); err != nil {
			s.r.event(Event{Event: EventRefused, Code: "delta-unreadable", Reason: err.Error()})
			return
		}
		select {
		case s.deltas <- d:
		default:
			nudge(s.sync)
		}
	case s.topic("jobs/notify-next"):
		var n struct {
			Execution json.RawMessage `json:"execution"`
		}
		if err := readMessage(m.Payload, &n); err == nil && len(n.Execution) > 0 {
			nudge(s.r.wake)
		}
	}
}

// request asks the service something about this thing.
func (s *session) request(ctx context.Context, topic string, body map[string]any) ([]byte, error) {
	timeout := s.r.cfg.Timeout
	if timeout <= 0 {
		timeout = 30 * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	return s.r.requests.Do(ctx, s.conn, s.topic(topic), body)
}

// serve keeps shadow and device in step until the connection ends.
func (s *session) serve(ctx context.Context) error {
	if err := s.refresh(ctx); err != nil {
		return err
	}
	poll := time.NewTimer(s.r.cfg.pollWait())
	defer poll.Stop()
	for {
		var err error
		select {
		case <-ctx.Done():
			s.leave()
			return nil
		case <-poll.C:
			wait := s.r.cfg.pollWait()
			if err = s.pending(ctx); err != nil {
				wait = max(wait, laterBy(err, 0))
			}
			poll.Reset(wait)
			err = s.tolerate(err)
		case <-s.conn.Done():
			return s.conn.Err()
		case <-s.r.reboot:
			return errReboot
		case <-s.r.turn:
			if t := s.r.trial(); t != nil && t.To != s.slot || s.r.trustTrial() != nil {
				return errTurn
			}
		case <-s.sync:
			err = s.refresh(ctx)
		case d := <-s.deltas:
			err = s.tolerate(s.change(ctx, d))
		}
		if err != nil && ctx.Err() == nil {
			return err
		}
	}
}

// pollWait is the time until it asks for jobs again.
func (c *RunConfig) pollWait() time.Duration {
	d := c.Poll
	if d <= 0 {
		d = 30 * time.Minute
	}
	return d/2 + Random(d/2)
}

// refresh brings everything into step: what was asked for while the device did
// not hear it, then how it is now, so that the first report after a change
// already says that it was made; then the jobs.
func (s *session) refresh(ctx context.Context) error {
	for _, step := range []func(context.Context) error{
		s.catchUp,
		func(ctx context.Context) error { return s.report(ctx, s.whole()) },
		s.pending,
	} {
		if err := s.tolerate(step(ctx)); err != nil {
			return err
		}
	}
	return nil
}

// tolerate lets a connection live whose service does not answer or does not
// agree: a fleet that came back for that would be the next trouble. It tries
// again later.
func (s *session) tolerate(err error) error {
	silent := errors.Is(err, mqtt.ErrTimeout) && s.conn.Err() == nil
	if err == nil || !silent && !later(err) {
		return err
	}
	s.r.event(Event{Event: EventRefused, Code: codeOf(err), Reason: wordsOf(err)})
	if silent {
		time.AfterFunc(s.r.cfg.Backoff.Wait(8), func() { nudge(s.sync) })
	}
	return nil
}

// leave waits for the job in work, which reports over this connection.
func (s *session) leave() {
	select {
	case <-s.r.idle:
	case <-s.conn.Done():
	}
}

// later tells whether an error is about one request, not about the connection.
func later(err error) bool {
	return errors.Is(err, mqtt.ErrRejected) || errors.Is(err, mqtt.ErrPublish)
}

// catchUp asks for the shadow and takes its delta.
func (s *session) catchUp(ctx context.Context) error {
	raw, err := s.request(ctx, "shadow/get", nil)
	if errors.Is(err, mqtt.ErrRejected) && fault.From(err).Members["code"] == "404" {
		return nil // nobody asked for anything yet
	}
	if err != nil {
		return err
	}
	var doc struct {
		Version int64 `json:"version"`
		State   struct {
			Delta json.RawMessage `json:"delta"`
		} `json:"state"`
	}
	if err := readMessage(raw, &doc); err != nil {
		s.r.event(Event{Event: EventRefused, Code: "shadow-unreadable", Reason: err.Error()})
		return nil
	}
	if len(doc.State.Delta) == 0 {
		s.version = max(s.version, doc.Version)
		return nil
	}
	return s.change(ctx, delta{doc.Version, doc.State.Delta})
}

// change takes a delta: on disk first, reported then. One that is older than
// what was seen changes nothing: messages may overtake each other.
func (s *session) change(ctx context.Context, d delta) error {
	if d.Version != 0 && d.Version <= s.version {
		return nil
	}
	s.version = max(s.version, d.Version)
	wanted, err := object(d.State)
	if err != nil || len(wanted) == 0 {
		return nil
	}
	after, reported, err := s.r.state.apply(wanted)
	if err != nil {
		s.r.event(Event{Event: EventRefused, Code: codeOf(err), Reason: wordsOf(err)})
		return nil
	}
	next := s.r.state
	next.Settings = after
	if err := next.save(s.r.cfg.Dir); err != nil { // it stays in the shadow's delta
		s.r.event(Event{Event: EventRefused, Code: codeOf(err), Reason: wordsOf(err)})
		return nil
	}
	s.r.state = next
	s.r.event(Event{Event: EventSettings, Settings: reported})
	return s.report(ctx, reported)
}

// whole is the device as it is: its settings, and what it says of itself.
func (s *session) whole() map[string]any {
	facts := map[string]any{"boots": s.r.state.Boots, "serial": s.r.serial, "slot": s.r.slot}
	if s.r.cfg.Firmware != nil {
		facts["firmware"] = s.r.firmwareFacts()
	}
	return merge(s.r.state.Settings, map[string]any{factsMember: facts})
}

func (s *session) report(ctx context.Context, reported map[string]any) error {
	_, err := s.request(ctx, "shadow/update", map[string]any{"state": map[string]any{"reported": reported}})
	return err
}

// pending looks whether a job waits or was left over.
func (s *session) pending(ctx context.Context) error {
	raw, err := s.request(ctx, "jobs/$next/get", map[string]any{"includeJobDocument": false})
	if err != nil {
		return err
	}
	var a struct {
		Execution execution `json:"execution"`
	}
	if err := readMessage(raw, &a); err == nil && a.Execution.Job != "" {
		nudge(s.r.wake)
	}
	return nil
}
