package broker

import (
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// TestTurns_AreTakenOnlyWhileTheLineWorks: nobody has a turn while the line is idle;
// while it works, as many compute as there are cores, who waits for its peer has none,
// and a rest follows each.
func TestTurns_AreTakenOnlyWhileTheLineWorks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var line atomic.Bool
		all := newTurns(line.Load)
		all.slots = make(chan struct{}, 1)
		dial := func() (*turnConn, net.Conn) {
			here, there := net.Pipe()
			return &turnConn{Conn: here, turns: all}, there
		}
		read := func(c *turnConn) chan struct{} {
			done := make(chan struct{})
			go func() {
				c.Read(make([]byte, 1))
				close(done)
			}()
			return done
		}
		isDone := func(c chan struct{}) bool {
			synctest.Wait()
			select {
			case <-c:
				return true
			default:
				return false
			}
		}
		a, peerA := dial()
		defer peerA.Close()
		got := read(a)
		peerA.Write([]byte{1})
		if <-got; len(all.slots) != 0 {
			t.Error("a turn was taken while the line was idle")
		}
		line.Store(true)
		got = read(a)
		peerA.Write([]byte{1})
		<-got
		b, peerB := dial()
		defer peerB.Close()
		gotB := read(b)
		go peerB.Write([]byte{1})
		if isDone(gotB) {
			t.Error("two computed at once")
		}
		time.Sleep(10 * time.Millisecond) // a computes
		gotA := read(a)                   // and waits for its peer
		if isDone(gotB) {
			t.Error("no rest after a turn")
		}
		time.Sleep(10 * time.Millisecond)
		if !isDone(gotB) {
			t.Error("a slow peer holds a turn")
		}
		b.finish()
		go peerA.Write([]byte{1})
		<-gotA
		a.finish()
		all.pass()
		if time.Sleep(time.Second); len(all.slots) != 0 {
			t.Errorf("%d turns were not given back", len(all.slots))
		}
	})
}
