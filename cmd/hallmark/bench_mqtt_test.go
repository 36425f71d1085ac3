package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// What bench mqtt serves, a fleet of the simulator lives on: things with a policy
// of least privilege, messages answered, nobody lost.
func TestBenchMQTT_ServesAFleet(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "bench")
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ended := make(chan error, 1)
	go func() {
		g := &globals{Out: &bytes.Buffer{}, Err: &bytes.Buffer{}, In: strings.NewReader(""), Now: time.Now}
		root := newRootCmd(g)
		root.SetArgs([]string{"bench", "mqtt", "--dir", dir, "--hsm", "software", "-n", "20"})
		ended <- root.ExecuteContext(ctx)
	}()
	var target []benchBroker
	for len(target) == 0 {
		select {
		case err := <-ended:
			t.Fatalf("ended: %v", err)
		case <-time.After(50 * time.Millisecond):
		}
		if _, err := os.Stat(filepath.Join(dir, "bench.json")); err != nil {
			continue
		}
		text, err := os.ReadFile(filepath.Join(dir, "mqtt.json"))
		if err == nil {
			err = json.Unmarshal(text, &target)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	out, errOut, err := deviceDo(t.Context(), "simulate", "--json", "--bundle", filepath.Join(dir, "devices.pem"), "--chain", filepath.Join(dir, "inter.crt"), "--ca-file", target[0].CAFile,
		"--endpoint", target[0].Addr, "--server-name", target[0].ServerName, "-n", "20", "--rate", "5", "--qos", "1", "--duration", "2s")
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
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("the service did not end well: %v", err)
	}
}
