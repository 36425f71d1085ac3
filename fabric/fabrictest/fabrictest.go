// Package fabrictest starts NATS servers for tests: on a free port of this machine,
// in the process of the test, which is another than that of the services it serves.
package fabrictest

import (
	"net"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"hallmark/fabric"
)

// Server is a NATS server that other processes can reach.
type Server struct {
	t    testing.TB
	opts server.Options
	srv  *server.Server
	URL  string
}

// Start runs one; change may be nil.
func Start(t testing.TB, change func(*server.Options)) *Server {
	t.Helper()
	s := &Server{t: t, opts: server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoSigs: true, NoLog: true}}
	if change != nil {
		change(&s.opts)
	}
	s.Again()
	t.Cleanup(s.Stop)
	return s
}

// Again starts the server that was stopped, on the same port.
func (s *Server) Again() {
	s.t.Helper()
	opts := s.opts
	srv, err := server.NewServer(&opts)
	if err != nil {
		s.t.Fatal(err)
	}
	srv.Start()
	if !srv.ReadyForConnections(10 * time.Second) {
		s.t.Fatal("the NATS server does not start")
	}
	s.srv, s.URL = srv, srv.ClientURL()
	s.opts.Port = srv.Addr().(*net.TCPAddr).Port
}

// Stop ends the server; nodes try to come back to it.
func (s *Server) Stop() {
	s.srv.Shutdown()
	s.srv.WaitForShutdown()
}

// Key is the key of every fabric in a test that needs no other.
var Key = []byte("0123456789abcdef0123456789abcdef")

// Node connects to the server.
func (s *Server) Node(t testing.TB) *fabric.Fabric {
	t.Helper()
	f, err := fabric.Open(t.Context(), fabric.Config{Key: Key, Servers: []string{s.URL}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(f.Close)
	return f
}
