// Package mosquittotest runs somebody else's MQTT broker for tests: mosquitto
// with mutual TLS, on a loopback port of its own, ended with the test.
//
// Start reading at [Start].
package mosquittotest

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"hallmark/broker/brokertest"
	"hallmark/internal/freeport"
)

// Broker is a running mosquitto.
type Broker struct {
	Addr string // host:port; its certificate is for localhost and 127.0.0.1
	PKI  *brokertest.PKI

	t      testing.TB
	config string
	cmd    *exec.Cmd
	log    log
}

// log collects what the broker says while the test runs.
type log struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *log) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// Start starts one, or skips the test where it is not installed; in CI that is a
// failure. It trusts devices of its own authority and of others.
func Start(t testing.TB, others ...*x509.Certificate) *Broker {
	t.Helper()
	const program = "/usr/sbin/mosquitto"
	if _, err := os.Stat(program); err != nil {
		if os.Getenv("CI") == "true" || os.Getenv("HALLMARK_CI") == "1" {
			t.Fatal(err)
		}
		t.Skip("apt-get install mosquitto")
	}
	b := &Broker{t: t, PKI: brokertest.New()}
	port, err := freeport.Take(1)
	if err != nil {
		t.Fatal(err)
	}
	b.Addr = fmt.Sprintf("127.0.0.1:%d", port)
	dir := t.TempDir()
	server := b.PKI.Server().Certificates[0]
	key, err := x509.MarshalPKCS8PrivateKey(server.PrivateKey)
	if err != nil {
		t.Fatal(err)
	}
	for name, block := range map[string]*pem.Block{
		"ca.pem":   {Type: "CERTIFICATE", Bytes: b.PKI.CA.Raw},
		"cert.pem": {Type: "CERTIFICATE", Bytes: server.Certificate[0]},
		"key.pem":  {Type: "PRIVATE KEY", Bytes: key},
	} {
		if err := os.WriteFile(filepath.Join(dir, name), pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	trusted, err := os.OpenFile(filepath.Join(dir, "ca.pem"), os.O_APPEND|os.O_WRONLY, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range others {
		if err := pem.Encode(trusted, &pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}); err != nil {
			t.Fatal(err)
		}
	}
	if err := trusted.Close(); err != nil {
		t.Fatal(err)
	}
	b.config = filepath.Join(dir, "mosquitto.conf")
	text := fmt.Sprintf("listener %d 127.0.0.1\ncafile %[2]s/ca.pem\ncertfile %[2]s/cert.pem\nkeyfile %[2]s/key.pem\nrequire_certificate true\nuse_identity_as_username true\nallow_anonymous true\npersistence true\npersistence_location %[2]s/\nuser root\nlog_dest stderr\nlog_type all\nmax_connections -1\n", port, dir)
	if err := os.WriteFile(b.config, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(b.Stop)
	b.Again()
	return b
}

// Again starts it after Stop, on the same port.
func (b *Broker) Again() {
	b.t.Helper()
	b.cmd = exec.Command("/usr/sbin/mosquitto", "-c", b.config)
	b.cmd.Stdout, b.cmd.Stderr = &b.log, &b.log
	if err := b.cmd.Start(); err != nil {
		b.t.Fatal(err)
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		c, err := net.Dial("tcp", b.Addr)
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(end) {
			b.t.Fatalf("mosquitto does not listen: %v\n%s", err, b.Log())
		}
	}
}

// Stop ends it.
func (b *Broker) Stop() {
	if b.cmd != nil {
		b.cmd.Process.Kill()
		b.cmd.Wait()
		b.cmd = nil
	}
}

// Log is what it said so far.
func (b *Broker) Log() string { return b.log.String() }
