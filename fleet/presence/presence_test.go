package presence

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"testing"
	"time"

	"hallmark/access"
	"hallmark/fleet"
)

// shelf is a Store that keeps what it is given and fails when told to. The real
// one is tested in package store.
type shelf struct {
	mu   sync.Mutex
	fail error
	put  map[string]State
	uses [][]Use // of each transaction
}

func (s *shelf) PutPresence(_ context.Context, states []State) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return s.fail
	}
	for _, st := range states {
		s.put[st.Client] = st
	}
	return nil
}
func (s *shelf) Presence(context.Context, access.Scope, fleet.ThingName) ([]State, error) {
	return nil, nil
}
func (s *shelf) ResetPresence(context.Context, string, string, time.Time) (int64, error) {
	return 0, nil
}
func (s *shelf) ForgetPresence(context.Context, time.Time, int) (int64, error) { return 0, nil }
func (s *shelf) PutUses(_ context.Context, uses []Use) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.fail != nil {
		return s.fail
	}
	s.uses = append(s.uses, uses)
	return nil
}
func (s *shelf) ForgetUses(context.Context, time.Time, int) (int64, error) { return 0, nil }
func (s *shelf) SilentThings(context.Context, access.Scope, time.Time, fleet.ThingName, int) ([]State, error) {
	return nil, nil
}

type heard struct {
	mu   sync.Mutex
	msgs []fleet.Message
}

func (h *heard) Publish(_ context.Context, m fleet.Message) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.msgs = append(h.msgs, m)
	return nil
}

func event(kind Kind, client, session string, at int64) Event {
	return Event{Sender: fleet.Sender{Tenant: "main", Thing: fleet.ThingName(client), Client: client, Certificate: "c0ffee"}, Kind: kind, Time: time.UnixMilli(at), Session: session,
		Version: 3, Address: netip.MustParseAddrPort("[::ffff:192.0.2.7]:1000")}
}

func TestFlush_PublishesTheEventsAsTheWireHasThem(t *testing.T) {
	h := &heard{}
	s := New(Config{Store: &shelf{put: map[string]State{}}, Publisher: h})
	s.Hear(event(Connected, "press-7", "s1", 1000))
	gone := event(Disconnected, "press-7", "s1", 2000)
	gone.Reason, gone.ClientInitiated = "CLIENT_INITIATED_DISCONNECT", true
	s.Hear(gone)
	failed := event(ConnectFailed, "press-7", "s2", 3000)
	failed.Reason = "AUTHORIZATION_FAILED"
	s.Hear(failed)
	sub := event(Subscribed, "press-7", "s1", 4000)
	sub.Topics = []string{"a/b"}
	s.Hear(sub)
	s.Hear(event(Connected, "a#b", "s1", 1)) // its topic would be a filter
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	want := []struct{ topic, body string }{
		{"$aws/events/presence/connected/press-7", `{"clientId":"press-7","timestamp":1000,"eventType":"connected","sessionIdentifier":"s1","principalIdentifier":"c0ffee","ipAddress":"192.0.2.7","versionNumber":3,"thingName":"press-7"}`},
		{"$aws/events/presence/disconnected/press-7", `{"clientId":"press-7","timestamp":2000,"eventType":"disconnected","sessionIdentifier":"s1","principalIdentifier":"c0ffee","versionNumber":3,"thingName":"press-7","clientInitiatedDisconnect":true,"disconnectReason":"CLIENT_INITIATED_DISCONNECT"}`},
		{"$aws/events/presence/connect_failed/press-7", `{"clientId":"press-7","timestamp":3000,"eventType":"connect_failed","sessionIdentifier":"s2","principalIdentifier":"c0ffee","ipAddress":"192.0.2.7","thingName":"press-7","connectFailureReason":"AUTHORIZATION_FAILED"}`},
		{"$aws/events/subscriptions/subscribed/press-7", `{"clientId":"press-7","timestamp":4000,"eventType":"subscribed","sessionIdentifier":"s1","principalIdentifier":"c0ffee","topics":["a/b"]}`},
	}
	if len(h.msgs) != len(want) {
		t.Fatalf("%d messages, want %d", len(h.msgs), len(want))
	}
	for i, w := range want {
		if h.msgs[i].Topic != w.topic || string(h.msgs[i].Payload) != w.body || h.msgs[i].Tenant != "main" {
			t.Errorf("got %s %s\nwant %s %s", h.msgs[i].Topic, h.msgs[i].Payload, w.topic, w.body)
		}
		if !json.Valid(h.msgs[i].Payload) {
			t.Errorf("not JSON: %s", h.msgs[i].Payload)
		}
	}
}

func TestHear_KeepsTheNewestOfEachClientThroughAFailure(t *testing.T) {
	store := &shelf{put: map[string]State{}, fail: errors.New("away")}
	s := New(Config{Store: store, Publisher: &heard{}, Node: "n1"})
	s.Hear(event(Connected, "a", "s1", 1000))
	s.Hear(event(Connected, "b", "s1", 1000))
	if err := s.Flush(t.Context()); err == nil {
		t.Fatal("the store's failure is hidden")
	}
	s.Hear(event(Connected, "a", "s2", 2000))    // took over
	s.Hear(event(Disconnected, "a", "s1", 2001)) // the older one's end comes late
	store.mu.Lock()
	store.fail = nil
	store.mu.Unlock()
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if a := store.put["a"]; !a.Connected || a.Session != "s2" || a.Node != "n1" {
		t.Errorf("a: %+v", a)
	}
	if b := store.put["b"]; !b.Connected || b.Session != "s1" {
		t.Errorf("b, heard before the failure: %+v", b)
	}
}

func TestHear_AStormIsBoundedAndStillEndsInTheRightState(t *testing.T) {
	store, h := &shelf{put: map[string]State{}}, &heard{}
	s := New(Config{Store: store, Publisher: h, MaxWaiting: 100})
	var wg sync.WaitGroup
	for i := range 50 {
		wg.Go(func() {
			c := fmt.Sprint("d", i)
			for n := range 10 {
				s.Hear(event(Connected, c, fmt.Sprint(n), int64(n)))
			}
		})
	}
	wg.Wait()
	if err := s.Flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if len(h.msgs) != 100 || s.Dropped.Load() != 400 {
		t.Errorf("%d published, %d dropped", len(h.msgs), s.Dropped.Load())
	}
	if len(store.put) != 50 || store.put["d7"].Session != "9" {
		t.Errorf("%d clients, %+v", len(store.put), store.put["d7"])
	}
}
