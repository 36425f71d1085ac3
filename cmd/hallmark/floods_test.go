package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
)

// TestA68_FloodsInsideTLSAndHTTP2: a client that changes its keys without end loses its
// connection at every door; clients that begin and reset requests without end do not
// keep a station from its certificates.
func TestA68_FloodsInsideTLSAndHTTP2(t *testing.T) {
	s := newSite(t, "software", "", anyName(1000))
	a := newAssault(t, s)
	works := func(unit string) time.Duration {
		t.Helper()
		v, err := a.send(t.Context(), newUnit(t, unit).wire(t))
		if err != nil || v.status != http.StatusOK {
			t.Fatalf("the line, during a flood: %v %s", err, v)
		}
		return v.took
	}
	for i, door := range []string{"factory", "mqtt", "device", "people"} {
		t.Run("KeyUpdate/"+door, func(t *testing.T) {
			if n := keyUpdates(t, s, door); n < 2 || n > 2000 {
				t.Errorf("the connection took %d key updates", n)
			} else {
				t.Logf("ended after %d writes", n)
			}
			works(fmt.Sprintf("KEYS-%d", i))
		})
	}
	t.Run("rapid reset", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		var resets atomic.Int64
		for range 4 {
			wg.Go(func() { rapidReset(ctx, t, s, &resets) })
		}
		until(t, "resets", 30*time.Second, func() bool { return resets.Load() > 1000 })
		var slowest time.Duration
		for i := range 20 {
			slowest = max(slowest, works(fmt.Sprintf("RESET-%d", i)))
		}
		cancel()
		wg.Wait()
		t.Logf("%d requests begun and reset; a station's slowest of 20 took %v", resets.Load(), slowest)
	})
	s.halt()
	s.clean()
}

// keyUpdates asks for new keys (RFC 8446, Section 4.6.3) with OpenSSL's client until
// the server ends the connection, and tells how often it asked.
func keyUpdates(t *testing.T, s *site, door string) int {
	t.Helper()
	cmd := exec.Command("openssl", "s_client", "-connect", s.door(door), "-tls1_3", "-servername", "localhost",
		"-cert", s.path("station", "station-a.pem"), "-key", s.path("station", "station-a.key"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cmd.Process.Kill()
		cmd.Wait()
	}()
	// It says this when the handshake is done, and nothing more until the end.
	var said strings.Builder
	buf := make([]byte, 4096)
	for !strings.Contains(said.String(), "\n---\n") || !strings.Contains(said.String(), "Verify return code") {
		n, err := out.Read(buf)
		if said.Write(buf[:n]); err != nil {
			t.Fatalf("no handshake: %v\n%s", err, said.String())
		}
	}
	ended := make(chan struct{})
	go func() {
		io.Copy(io.Discard, out)
		close(ended)
	}()
	for n := 0; n <= 2000; n++ {
		select {
		case <-ended:
			return n
		case <-time.After(3 * time.Millisecond): // the client looks at the first letter of what it reads at once
		}
		if _, err := io.WriteString(in, "K\n"); err != nil {
			return n
		}
	}
	return 2001
}

// rapidReset begins requests and resets them at once (CVE-2023-44487) until ctx or the
// server ends the connection.
func rapidReset(ctx context.Context, t *testing.T, s *site, resets *atomic.Int64) {
	conf := s.tlsConfig(nil)
	conf.ServerName, conf.NextProtos = "localhost", []string{"h2"}
	raw, err := net.DialTimeout("tcp", s.door("people"), 10*time.Second)
	if err != nil {
		t.Error(err)
		return
	}
	conn := tls.Client(raw, conf)
	defer conn.Close()
	if err := conn.HandshakeContext(ctx); err != nil || conn.ConnectionState().NegotiatedProtocol != "h2" {
		t.Error(err, conn.ConnectionState().NegotiatedProtocol)
		return
	}
	defer context.AfterFunc(ctx, func() { raw.Close() })()
	go io.Copy(io.Discard, conn)
	io.WriteString(conn, http2.ClientPreface)
	f := http2.NewFramer(conn, conn)
	f.WriteSettings()
	var head bytes.Buffer
	h := hpack.NewEncoder(&head)
	for _, kv := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", "localhost"}, {":path", "/api/v1/orders"}} {
		h.WriteField(hpack.HeaderField{Name: kv[0], Value: kv[1], Sensitive: true}) // not in the table: the same octets each time
	}
	for id := uint32(1); id < 1<<30; id += 2 {
		if f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: head.Bytes(), EndStream: true, EndHeaders: true}) != nil || f.WriteRSTStream(id, http2.ErrCodeCancel) != nil {
			return // the server has had enough, or the test
		}
		resets.Add(1)
	}
}
