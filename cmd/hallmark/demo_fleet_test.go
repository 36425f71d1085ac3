package main

import (
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hallmark/device/mqtt"
)

// TestDemo_ItsFleetIsThereForOthers: when summary.json is there, everything that
// it names is: addresses, a claim certificate for a template, devices that are
// connected and do jobs, and one that anybody may be.
func TestDemo_ItsFleetIsThereForOthers(t *testing.T) {
	g := &globals{JSON: true, Out: io.Discard, Err: io.Discard, In: strings.NewReader(""), Now: time.Now}
	s := &site{stage: stage{g: g, dir: filepath.Join(t.TempDir(), "demo"), hsm: quickHSM()}, t: t}
	d := &demo{stage: stage{g: g, dir: s.dir, hsm: s.hsm, freePorts: true}, units: 5}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- d.run(ctx) }()
	defer func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("the demonstration: %v", err)
		}
	}()
	var sum demoSummary
	for deadline := time.Now().Add(3 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		b, err := os.ReadFile(s.path("summary.json"))
		if err == nil {
			if err := json.Unmarshal(b, &sum); err != nil {
				t.Fatal(err)
			}
			break
		}
		if !errors.Is(err, fs.ErrNotExist) || time.Now().After(deadline) || len(ended) > 0 {
			t.Fatalf("no summary.json: %v", err)
		}
	}
	for _, name := range []string{"mqtt", "device", "api", "public"} {
		if u, err := url.Parse("//" + sum.Endpoints[name]); err != nil || u.Hostname() == "" || u.Port() == "" {
			t.Errorf("endpoint %s is %q", name, sum.Endpoints[name])
		}
	}
	if sum.Fleet.Template != demoFleet || sum.Fleet.Device != "LMP-000005" || len(sum.Fleet.Connected) != 3 {
		t.Fatalf("%+v", sum.Fleet)
	}
	for _, secret := range [][]string{{"fleet", "claim.key"}, {"devices", sum.Fleet.Device, "ldevid.key"}} {
		if f, err := os.Stat(s.path(secret...)); err != nil || f.Mode().Perm() != 0o600 {
			t.Errorf("%v: %v %v", secret, f, err)
		}
	}
	root, err := os.ReadFile(s.path("pki", "root.pem"))
	if err != nil {
		t.Fatal(err)
	}
	s.roots = x509.NewCertPool()
	s.roots.AppendCertsFromPEM(root)

	t.Run("the device that nobody is", func(t *testing.T) {
		c, err := s.connect(sum.Fleet.Device, sum.Fleet.Device, mqtt.V5, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		for topic, may := range map[string]bool{
			"dt/" + sum.Fleet.Device + "/a/b": true, "$aws/things/" + sum.Fleet.Device + "/shadow/get": true,
			"dt/" + sum.Fleet.Connected[0] + "/a": false, "$aws/things/" + sum.Fleet.Connected[0] + "/shadow/get": false, "anything": false, "$aws/certificates/create/json": false,
		} {
			if err := c.Publish(t.Context(), mqtt.Message{Topic: topic, Payload: []byte(`{}`), QoS: 1}); (err == nil) != may {
				t.Errorf("publish to %s: %v", topic, err)
			}
		}
	})
	t.Run("a newcomer with the claim certificate", func(t *testing.T) {
		n := s.newcomer(t, "claim", "cbor")
		ok, answer := n.register(sum.Fleet.Template, map[string]string{"SerialNumber": "NEW-1"})
		if !ok || answer["thingName"] != "NEW-1" {
			t.Errorf("%v %v", ok, answer)
		}
	})
	t.Run("a connected device does a job", func(t *testing.T) {
		thing := sum.Fleet.Connected[0]
		if _, e, exit := s.cli("job", "create", "--id", "hello", "--thing", thing, "--document", `{"operation":"echo","message":"hello"}`); exit != exitOK {
			t.Fatal(e)
		}
		eventually(t, "the job", func() bool {
			out, e, exit := s.cli("job", "executions", "hello")
			if exit != exitOK {
				t.Fatal(e)
			}
			return strings.Contains(out, "SUCCEEDED")
		})
	})
}
