package mqtt

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"maps"
	"strings"
	"sync"
	"time"
)

// Requests matches the answers of a service with a device's requests on reserved
// topics: TOPIC is answered on TOPIC/accepted or TOPIC/rejected, and the answer
// repeats the member clientToken. The zero value is ready; it serves one
// connection after the other.
type Requests struct {
	mu      sync.Mutex
	waiting map[string]waiter
}

type waiter struct {
	topic string
	ch    chan reply
}

type reply struct {
	ok      bool
	payload []byte
}

// Do publishes body with a new clientToken and waits for the answer: its octets
// if it was accepted, else [ErrRejected] with the members code and message.
// Subscribe to the answers first, where the server does not deliver them without.
// A context without a deadline gets one of 30 s.
func (r *Requests) Do(ctx context.Context, c *Conn, topic string, body map[string]any) ([]byte, error) {
	if _, ok := ctx.Deadline(); !ok {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, 30*time.Second)
		defer cancel()
	}
	token := rand.Text()
	full := maps.Clone(body)
	if full == nil {
		full = map[string]any{}
	}
	full["clientToken"] = token
	payload, err := json.Marshal(full)
	if err != nil {
		return nil, ErrMessage.Wrap(err, "")
	}
	w := waiter{topic, make(chan reply, 1)}
	r.mu.Lock()
	if r.waiting == nil {
		r.waiting = map[string]waiter{}
	}
	r.waiting[token] = w
	r.mu.Unlock()
	defer func() {
		r.mu.Lock()
		delete(r.waiting, token)
		r.mu.Unlock()
	}()
	// The answer may overtake the acknowledgement, so both are waited for.
	acked := make(chan error, 1)
	if err := c.Send(Message{Topic: topic, Payload: payload, QoS: 1}, func(err error) { acked <- err }); err != nil {
		return nil, err
	}
	for {
		select {
		case a := <-w.ch:
			if !a.ok {
				return nil, rejection(topic, a.payload)
			}
			return a.payload, nil
		case err := <-acked:
			if err != nil {
				return nil, err
			}
			acked = nil
		case <-c.Done():
			return nil, c.Err()
		case <-ctx.Done():
			return nil, ErrTimeout.Wrap(ctx.Err(), "No answer to %s.", printable(topic))
		}
	}
}

// Deliver takes a message if it is the answer to a request; call it from
// OnMessage. An answer that nobody waits for is left to the caller.
func (r *Requests) Deliver(m Message) bool {
	topic, ok := strings.CutSuffix(m.Topic, "/accepted")
	if !ok {
		var rejected bool
		if topic, rejected = strings.CutSuffix(m.Topic, "/rejected"); !rejected {
			return false
		}
	}
	var a struct {
		ClientToken string `json:"clientToken"`
	}
	if json.Unmarshal(m.Payload, &a) != nil || a.ClientToken == "" {
		return false
	}
	r.mu.Lock()
	w, found := r.waiting[a.ClientToken]
	if found = found && w.topic == topic; found {
		delete(r.waiting, a.ClientToken)
	}
	r.mu.Unlock()
	if !found {
		return false
	}
	w.ch <- reply{ok, m.Payload}
	return true
}

// rejection reads what the service said. Shadows have a number for a code, jobs
// a word.
func rejection(topic string, payload []byte) error {
	var a struct {
		Code    any    `json:"code"`
		Message string `json:"message"`
		Retry   int64  `json:"retryAfterSeconds"`
	}
	_ = json.Unmarshal(payload, &a)
	code := ""
	switch v := a.Code.(type) {
	case string:
		code = printable(v)
	case float64:
		b, _ := json.Marshal(v)
		code = string(b)
	}
	return ErrRejected.New("%s: %s %s", printable(topic), code, printable(a.Message)).With("code", code).With("message", printable(a.Message)).After(time.Duration(min(max(a.Retry, 0), 1<<24)) * time.Second)
}
