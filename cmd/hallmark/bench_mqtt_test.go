package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hallmark/device/mqtt"
)

// benchServes runs bench mqtt until the returned function is called.
func benchServes(t *testing.T, dir string, args ...string) (target benchBroker, end func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		g := &globals{Out: &bytes.Buffer{}, Err: &bytes.Buffer{}, In: strings.NewReader(""), Now: time.Now}
		root := newRootCmd(g)
		root.SetArgs(append([]string{"bench", "mqtt", "--dir", dir, "--hsm", "software"}, args...))
		ended <- root.ExecuteContext(ctx)
	}()
	for {
		select {
		case err := <-ended:
			t.Fatalf("ended: %v", err)
		case <-time.After(50 * time.Millisecond):
		}
		if _, err := os.Stat(filepath.Join(dir, "bench.json")); err != nil {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, "mqtt.json"))
		var all []benchBroker
		if err == nil {
			err = json.Unmarshal(text, &all)
		}
		if err != nil || len(all) != 1 {
			t.Fatalf("%s: %v", text, err)
		}
		return all[0], func() {
			cancel()
			if err := <-ended; err != nil {
				t.Errorf("the service did not end well: %v", err)
			}
		}
	}
}

// What bench mqtt serves, a fleet of the simulator lives on: things with a policy
// of least privilege, messages answered, nobody lost.
func TestBenchMQTT_ServesAFleet(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "bench")
	target, end := benchServes(t, dir, "-n", "20")
	out, errOut, err := deviceDo(t.Context(), "simulate", "--json", "--bundle", filepath.Join(dir, "devices.pem"), "--chain", filepath.Join(dir, "inter.crt"), "--ca-file", target.CAFile,
		"--endpoint", target.Addr, "--server-name", target.ServerName, "-n", "20", "--rate", "5", "--qos", "1", "--duration", "2s")
	if err != nil {
		t.Fatalf("%v: %s", err, errOut)
	}
	var r struct {
		Connects  int            `json:"connects"`
		Publishes int            `json:"publishes"`
		Errors    map[string]int `json:"errors"`
	}
	if err := json.Unmarshal([]byte(out), &r); err != nil || r.Connects != 20 || r.Publishes < 20 || len(r.Errors) != 0 {
		t.Errorf("%+v, %v", r, err)
	}
	end()

	// A load generator's own devices choose their client identifiers, in the tenant
	// that was relaxed (S25).
	text, err := os.ReadFile(filepath.Join(dir, "devices.pem"))
	if err != nil {
		t.Fatal(err)
	}
	theirs := filepath.Join(t.TempDir(), "theirs.pem")
	if err := os.WriteFile(theirs, text, 0o600); err != nil {
		t.Fatal(err)
	}
	target, end = benchServes(t, dir, "--devices", theirs)
	defer end()
	cert, rest := pem.Decode(text)
	key, _ := pem.Decode(rest)
	pair, err := tls.X509KeyPair(pem.EncodeToMemory(cert), pem.EncodeToMemory(key))
	if err != nil {
		t.Fatal(err)
	}
	root, err := os.ReadFile(target.CAFile)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(root)
	c, err := mqtt.Dial(t.Context(), mqtt.Config{Addr: target.Addr, TLS: mqtt.TLS(pair, roots, target.ServerName), ClientID: "any-name", Version: mqtt.V5})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := c.Publish(t.Context(), mqtt.Message{Topic: "bench/0/t", Payload: []byte("x"), QoS: 1}); err != nil {
		t.Error(err)
	}
}
