package broker

import (
	"net"
	"runtime"
	"time"
)

// turns bounds how many connections compute their beginning or end at once while
// something more important works ([Config.Yield]). A handshake is most of what a
// device that comes back costs, and it waits for nothing but its peer: ten thousand of
// them would make everything else of the process, the factory line first, wait behind
// them for a core. Who waits for its peer has no turn, so slow clients keep nobody from
// theirs; [Limits.Handshakes] bounds those.
//
// Who is woken by another's turn would run at once, in the rest of its time slice:
// runtime.Gosched puts it behind everything that is ready. And the runtime looks at
// the network when it has nothing else to do, so a turn is followed by a rest of the
// same length.
type turns struct {
	slots chan struct{}
	yield func() bool
}

func newTurns(yield func() bool) *turns {
	if yield == nil {
		yield = func() bool { return false }
	}
	return &turns{make(chan struct{}, runtime.GOMAXPROCS(0)), yield}
}

// take waits for a turn and gives its beginning: none, the zero time, while nothing
// more important works.
func (t *turns) take() (since time.Time) {
	if !t.yield() {
		return since
	}
	t.slots <- struct{}{}
	runtime.Gosched()
	return time.Now()
}

// pass waits for a turn and gives it on, so that connections that end at once do so
// one after the other. What follows may wait for others, which a turn may not.
func (t *turns) pass() {
	if since := t.take(); !since.IsZero() {
		<-t.slots
	}
}

// turnConn is a connection that takes turns until finish. It belongs to the goroutine
// of the handshake, which ends before another one has it.
type turnConn struct {
	net.Conn
	turns *turns    // nil when the handshake is over
	since time.Time // of its turn; zero if it has none
}

// Read gives the turn away while it waits.
func (c *turnConn) Read(p []byte) (int, error) {
	if c.turns == nil {
		return c.Conn.Read(p)
	}
	c.leave()
	n, err := c.Conn.Read(p)
	c.since = c.turns.take()
	return n, err
}

func (c *turnConn) leave() {
	if !c.since.IsZero() {
		slots := c.turns.slots
		time.AfterFunc(time.Since(c.since), func() { <-slots })
		c.since = time.Time{}
	}
}

func (c *turnConn) finish() {
	c.leave()
	c.turns = nil
}
