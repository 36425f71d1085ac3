package fabric_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"

	"hallmark/broker/brokertest"
	"hallmark/fabric"
	"hallmark/fabric/fabrictest"
)

type outcome struct {
	answer []byte
	err    error
}

func ask(t *testing.T, f *fabric.Fabric, node, text string, patience time.Duration) ([]byte, error) {
	t.Helper()
	result := make(chan outcome, 1)
	f.Ask(node, []byte(text), patience, func(answer []byte, err error) { result <- outcome{answer, err} })
	select {
	case o := <-result:
		return o.answer, o.err
	case <-time.After(20 * time.Second):
		t.Fatal("neither an answer nor an error")
		return nil, nil
	}
}

func TestFabric_AsksAndIsAnswered(t *testing.T) {
	s := fabrictest.Start(t, nil)
	a, b := s.Node(t), s.Node(t)
	stop, err := b.Listen("b", func(data []byte, reply func([]byte)) {
		if string(data) != "silence" {
			reply(append([]byte("re: "), data...))
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ask(t, a, "b", "hello", 10*time.Second); err != nil || string(got) != "re: hello" {
		t.Errorf("%q %v", got, err)
	}
	if got, err := ask(t, a, "b", "", 10*time.Second); err != nil || string(got) != "re: " {
		t.Errorf("an empty frame: %q %v", got, err)
	}
	// Who did not get the frame is told from who did not answer.
	if _, err := ask(t, a, "b", "silence", 100*time.Millisecond); !errors.Is(err, fabric.ErrSilent) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("silence: %v", err)
	}
	if _, err := ask(t, a, "c", "hello", 10*time.Second); !errors.Is(err, fabric.ErrNobody) || errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("nobody: %v", err)
	}
	stop()
	if _, err := ask(t, a, "b", "hello", 10*time.Second); !errors.Is(err, fabric.ErrNobody) {
		t.Errorf("it stopped listening: %v", err)
	}
}

func TestFabric_KeepsTheOrder(t *testing.T) {
	s := fabrictest.Start(t, nil)
	a, b := s.Node(t), s.Node(t)
	const n = 2000
	var mu sync.Mutex
	var got []string
	done := make(chan struct{})
	if _, err := b.Listen("b", func(data []byte, reply func([]byte)) {
		mu.Lock()
		defer mu.Unlock()
		if got = append(got, string(data)); len(got) == n {
			close(done)
		}
		if reply != nil {
			reply(nil)
		}
	}); err != nil {
		t.Fatal(err)
	}
	var answers sync.WaitGroup
	for i := range n {
		if i%2 == 0 {
			if err := a.Send("b", fmt.Append(nil, i)); err != nil {
				t.Fatal(err)
			}
		} else {
			answers.Add(1)
			a.Ask("b", fmt.Append(nil, i), 10*time.Second, func(_ []byte, err error) {
				defer answers.Done()
				if err != nil {
					t.Error(err)
				}
			})
		}
	}
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		t.Fatalf("%d of %d frames", len(got), n)
	}
	answers.Wait()
	for i, text := range got {
		if text != fmt.Sprint(i) {
			t.Fatalf("frame %d is %s", i, text)
		}
	}
}

// TestFabric_ForgedFramesAreRefused_S24: whoever is on the NATS server without the
// key of the service can neither say nor read anything, nor move a frame.
func TestFabric_ForgedFramesAreRefused_S24(t *testing.T) {
	s := fabrictest.Start(t, nil)
	a, b := s.Node(t), s.Node(t)
	heard := make(chan string, 10)
	for _, node := range []string{"b", "other"} {
		if _, err := b.Listen(node, func(data []byte, _ func([]byte)) { heard <- node + " " + string(data) }); err != nil {
			t.Fatal(err)
		}
	}
	spy, err := nats.Connect(s.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer spy.Close()
	var mu sync.Mutex
	var seen []*nats.Msg
	if _, err := spy.Subscribe(">", func(m *nats.Msg) {
		mu.Lock()
		defer mu.Unlock()
		seen = append(seen, m)
	}); err != nil {
		t.Fatal(err)
	}
	if err := spy.Flush(); err != nil {
		t.Fatal(err)
	}
	const secret = "a device's private matter"
	if err := a.Send("b", []byte(secret)); err != nil {
		t.Fatal(err)
	}
	if got := <-heard; got != "b "+secret {
		t.Fatalf("got %q", got)
	}
	var m *nats.Msg
	for end := time.Now().Add(10 * time.Second); m == nil && time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		mu.Lock()
		if len(seen) > 0 {
			m = seen[0]
		}
		mu.Unlock()
	}
	if m == nil {
		t.Fatal("the spy sees nothing: this proves nothing")
	}
	if bytes.Contains(m.Data, []byte(secret)) {
		t.Error("the frame is readable")
	}
	elsewhere := m.Subject[:len(m.Subject)-1] + "other"
	bent := bytes.Clone(m.Data)
	bent[len(bent)-1] ^= 1
	for subject, data := range map[string][]byte{m.Subject: bent, elsewhere: m.Data, m.Subject + "": []byte("plain")} {
		if err := spy.Publish(subject, data); err != nil {
			t.Fatal(err)
		}
	}
	stranger, err := fabric.Open(t.Context(), fabric.Config{Key: bytes.Repeat([]byte{7}, 32), Servers: []string{s.URL}})
	if err != nil {
		t.Fatal(err)
	}
	defer stranger.Close()
	if _, err := ask(t, stranger, "b", "hello", 500*time.Millisecond); err == nil { // the spy is a listener, so it is silence
		t.Error("a node of another service is answered")
	}
	if err := spy.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := a.Send("b", []byte("end")); err != nil {
		t.Fatal(err)
	}
	if got := <-heard; got != "b end" {
		t.Errorf("a forged frame was taken: %q", got)
	}
	for end := time.Now().Add(10 * time.Second); b.Stats.Refused.Load() < 2; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d frames refused", b.Stats.Refused.Load())
		}
	}
}

func TestFabric_TellsAWordToOthersOnly(t *testing.T) {
	s := fabrictest.Start(t, nil)
	a, b := s.Node(t), s.Node(t)
	own, heard := make(chan struct{}, 1), make(chan struct{}, 1)
	if err := a.Hear("trust", func() { own <- struct{}{} }); err != nil {
		t.Fatal(err)
	}
	if err := b.Hear("trust", func() { heard <- struct{}{} }); err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); len(heard) == 0; time.Sleep(10 * time.Millisecond) { // the server may not know of Hear yet
		if err := a.Tell("trust"); err != nil || time.Now().After(end) {
			t.Fatalf("nothing heard: %v", err)
		}
	}
	if len(own) > 0 {
		t.Error("a node heard itself")
	}
}

func TestFabric_ComesBackToItsServer(t *testing.T) {
	s := fabrictest.Start(t, nil)
	a, b := s.Node(t), s.Node(t)
	if _, err := b.Listen("b", func(data []byte, reply func([]byte)) { reply(data) }); err != nil {
		t.Fatal(err)
	}
	s.Stop()
	for end := time.Now().Add(20 * time.Second); a.Up(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("the lost server is not noticed")
		}
	}
	if _, err := ask(t, a, "b", "x", 300*time.Millisecond); err == nil {
		t.Error("an answer without a server")
	}
	s.Again()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if got, err := ask(t, a, "b", "x", time.Second); err == nil && string(got) == "x" {
			break
		}
		if time.Now().After(end) {
			t.Fatal("not connected again")
		}
	}
}

func TestFabric_ProvesItselfToItsServer(t *testing.T) {
	pki := brokertest.New()
	s := fabrictest.Start(t, func(o *server.Options) {
		o.TLS, o.TLSVerify, o.TLSConfig, o.TLSTimeout = true, true, pki.Server(), 10
	})
	good := pki.Client("acme/node1")
	f, err := fabric.Open(t.Context(), fabric.Config{Key: fabrictest.Key, Servers: []string{s.URL}, TLS: good})
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
	for name, conf := range map[string]*tls.Config{
		"no certificate":          {RootCAs: pki.Pool(), ServerName: "localhost"},
		"another's certificate":   {RootCAs: pki.Pool(), ServerName: "localhost", Certificates: []tls.Certificate{brokertest.New().Device("acme/node1")}},
		"the server is not known": brokertest.New().Client("acme/node1"),
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		if f, err := fabric.Open(ctx, fabric.Config{Key: fabrictest.Key, Servers: []string{s.URL}, TLS: conf}); !errors.Is(err, fabric.ErrUnavailable) {
			t.Errorf("%s: %v", name, err)
			if f != nil {
				f.Close()
			}
		}
		cancel()
	}
}

func TestFabric_IsInsideTheProcessByDefault(t *testing.T) {
	start := time.Now()
	f, err := fabric.Open(t.Context(), fabric.Config{Key: fabrictest.Key})
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("started within %v", time.Since(start))
	defer f.Close()
	if f.Shared() || !f.Up() {
		t.Errorf("shared %v, up %v", f.Shared(), f.Up())
	}
	if _, err := ask(t, f, "nobody", "x", 10*time.Second); !errors.Is(err, fabric.ErrNobody) {
		t.Errorf("got %v", err)
	}
	streams := filepath.Join(t.TempDir(), "streams")
	j, err := fabric.Open(t.Context(), fabric.Config{Key: fabrictest.Key, JetStream: streams})
	if err != nil {
		t.Fatal(err)
	}
	j.Close()
	if _, err := os.Stat(filepath.Join(streams, "jetstream")); err != nil {
		t.Errorf("JetStream keeps nothing: %v", err)
	}
}

func TestOpen_RefusesWhatCannotWork(t *testing.T) {
	if _, err := fabric.Open(t.Context(), fabric.Config{Key: []byte("short")}); !errors.Is(err, fabric.ErrConfig) {
		t.Errorf("a short key: %v", err)
	}
	small := fabrictest.Start(t, func(o *server.Options) { o.MaxPayload = 1 << 16 })
	if _, err := fabric.Open(t.Context(), fabric.Config{Key: fabrictest.Key, Servers: []string{small.URL}}); !errors.Is(err, fabric.ErrConfig) {
		t.Errorf("a server for small messages: %v", err)
	}
}
