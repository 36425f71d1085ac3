package fabric

import (
	"context"
	"strconv"
	"strings"
	"time"

	"github.com/nats-io/nats.go"
)

// question waits for its answer.
type question struct {
	done     func([]byte, error)
	deadline time.Time
}

// Ask sends a frame and calls done once: with the answer, [ErrNobody] if the server
// knows of no such node, [ErrSilent] if there was no answer in time. done is called
// on a goroutine that other answers wait for, so it must not block; answers of one
// node come in the order in which it gave them.
func (f *Fabric) Ask(node string, data []byte, patience time.Duration, done func(answer []byte, err error)) {
	f.mu.Lock()
	f.token++
	token := f.token
	f.asked[token] = &question{done, time.Now().Add(patience)}
	f.mu.Unlock()
	place := f.place(node)
	f.Stats.Sent.Add(1)
	if err := f.nc.PublishRequest(place, f.answers+"."+strconv.FormatUint(token, 36), f.seal.seal(place, data)); err != nil {
		f.finish(token, nil, ErrUnavailable.Wrap(err, ""))
	}
}

// noResponders is the status of the message that a server sends in place of an answer.
const noResponders = "503"

func (f *Fabric) onAnswer(m *nats.Msg) {
	token, err := strconv.ParseUint(m.Subject[strings.LastIndexByte(m.Subject, '.')+1:], 36, 64)
	if err != nil {
		return
	}
	// The server's own word cannot be sealed. Who forges it makes a node seem to be
	// away, which who holds the wire can do anyway.
	if len(m.Data) == 0 && m.Header.Get("Status") == noResponders {
		f.finish(token, nil, ErrNobody.New(""))
		return
	}
	if data, ok := f.open(m.Subject, m.Data); ok {
		f.finish(token, data, nil)
	}
}

func (f *Fabric) finish(token uint64, answer []byte, err error) {
	f.mu.Lock()
	q := f.asked[token]
	delete(f.asked, token)
	f.mu.Unlock()
	if q != nil {
		q.done(answer, err)
	}
}

// watch ends questions whose time is over.
func (f *Fabric) watch() {
	defer close(f.done)
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for open := true; open; {
		select {
		case <-tick.C:
		case <-f.stop:
			open = false
		}
		now := time.Now()
		var late []uint64
		f.mu.Lock()
		for token, q := range f.asked {
			if !open || now.After(q.deadline) {
				late = append(late, token)
			}
		}
		f.mu.Unlock()
		for _, token := range late {
			f.Stats.Silent.Add(1)
			f.finish(token, nil, ErrSilent.Wrap(context.DeadlineExceeded, ""))
		}
	}
}
