// Package sntptest is a time server for tests: it tells the time of this machine
// plus what a test says, with whatever faults a test wants.
//
// Start reading at server.go.
package sntptest

import (
	"encoding/binary"
	"net"
	"sync"
	"testing"
	"time"
)

// Server answers on a UDP port of its own until the test ends.
type Server struct {
	Addr string

	conn   net.PacketConn
	mu     sync.Mutex
	ahead  time.Duration
	silent bool
	change func([]byte) []byte
	once   bool
	asked  int
}

// New starts a server.
func New(t testing.TB) *Server {
	t.Helper()
	c, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &Server{Addr: c.LocalAddr().String(), conn: c}
	var wg sync.WaitGroup
	wg.Go(s.run)
	t.Cleanup(func() { c.Close(); wg.Wait() })
	return s
}

// Ahead says how far the server's time is from this machine's; every fault ends.
func (s *Server) Ahead(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ahead, s.silent, s.change, s.once = d, false, nil, false
}

// Silent makes the server say nothing.
func (s *Server) Silent() { s.mu.Lock(); s.silent = true; s.mu.Unlock() }

// Asked tells how often somebody asked.
func (s *Server) Asked() int { s.mu.Lock(); defer s.mu.Unlock(); return s.asked }

func (s *Server) run() {
	buf := make([]byte, 512)
	for {
		n, from, err := s.conn.ReadFrom(buf)
		if err != nil {
			return
		}
		s.mu.Lock()
		s.asked++
		answer := s.answer(buf[:n])
		change, once, silent := s.change, s.once, s.silent
		s.mu.Unlock()
		if silent || n < 48 {
			continue
		}
		if change != nil {
			s.conn.WriteTo(change(append([]byte(nil), answer...)), from)
		}
		if change == nil || once {
			s.conn.WriteTo(answer, from)
		}
	}
}

func (s *Server) answer(question []byte) []byte {
	b := make([]byte, 48)
	if len(question) < 48 {
		return b
	}
	b[0], b[1] = 4<<3|4, 2
	copy(b[24:32], question[40:48])
	for _, at := range []int{32, 40} {
		now := time.Now().Add(s.ahead)
		binary.BigEndian.PutUint32(b[at:], uint32(now.Unix()+2_208_988_800))
		binary.BigEndian.PutUint32(b[at+4:], uint32(int64(now.Nanosecond())<<32/int64(time.Second)))
	}
	return b
}

// Change alters every answer.
func (s *Server) Change(f func([]byte) []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.change, s.once, s.ahead, s.silent = f, false, 0, false
}

// ChangeFirst sends an altered answer, then the right one.
func (s *Server) ChangeFirst(f func([]byte) []byte) {
	s.Change(f)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.once = true
}
