package simulate

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"hallmark/broker/brokertest"
	"hallmark/device"
	"hallmark/device/mosquittotest"
	"hallmark/device/mqtt"
)

// bundle is a file as load generators make it.
func bundle(t *testing.T, p *brokertest.PKI, n int, keyFirst bool) []byte {
	t.Helper()
	var b bytes.Buffer
	for i := range n {
		c := p.Device(fmt.Sprintf("device-%08d", i))
		key, err := x509.MarshalPKCS8PrivateKey(c.PrivateKey)
		if err != nil {
			t.Fatal(err)
		}
		blocks := []*pem.Block{{Type: "CERTIFICATE", Bytes: c.Certificate[0]}, {Type: "CERTIFICATE", Bytes: p.CA.Raw}, {Type: "PRIVATE KEY", Bytes: key}}
		if keyFirst {
			blocks = []*pem.Block{blocks[2], blocks[0], blocks[1]}
		}
		for _, block := range blocks {
			if err := pem.Encode(&b, block); err != nil {
				t.Fatal(err)
			}
		}
	}
	return b.Bytes()
}

func devicesOf(t *testing.T, p *brokertest.PKI, n int) []Device {
	t.Helper()
	d, err := LoadBundle(bytes.NewReader(bundle(t, p, n, false)), 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func TestLoadBundle_TakesKeysBeforeAndAfter(t *testing.T) {
	p := brokertest.New()
	for _, keyFirst := range []bool{false, true} {
		raw := bundle(t, p, 5, keyFirst)
		for n, want := range map[int]int{0: 5, 3: 3, 9: 5} {
			got, err := LoadBundle(bytes.NewReader(raw), n, [][]byte{p.CA.Raw})
			if err != nil || len(got) != want || got[2].Thing != "device-00000002" || len(got[0].Certificate.Certificate) != 3 {
				t.Errorf("key first %v, n %d: %d devices, %v", keyFirst, n, len(got), err)
			}
		}
	}
	// A key that is not the certificate's, and what is no device.
	a, b := bundle(t, p, 1, false), bundle(t, brokertest.New(), 1, true)
	mixed := slices.Concat(a[:bytes.Index(a, []byte("-----BEGIN PRIVATE"))], b[:bytes.Index(b, []byte("-----BEGIN CERT"))])
	if _, err := LoadBundle(bytes.NewReader(mixed), 0, nil); !errors.Is(err, ErrBundle) {
		t.Errorf("%v", err)
	}
	if _, err := LoadBundle(strings.NewReader("nothing"), 0, nil); !errors.Is(err, ErrDevices) {
		t.Errorf("%v", err)
	}
}

func FuzzLoadBundle(f *testing.F) {
	f.Add([]byte("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"))
	f.Add([]byte("-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n"))
	f.Fuzz(func(t *testing.T, raw []byte) {
		devices, err := LoadBundle(bytes.NewReader(raw), 10, nil)
		if (err == nil) != (len(devices) > 0) {
			t.Errorf("%d devices, %v", len(devices), err)
		}
	})
}

func TestLoadDir_TellsWhoNeverBooted(t *testing.T) {
	p, dir := brokertest.New(), t.TempDir()
	for i, d := range devicesOf(t, p, 3) {
		home := filepath.Join(dir, fmt.Sprintf("SN-%d", i))
		key, err := x509.MarshalPKCS8PrivateKey(d.Certificate.PrivateKey)
		if err != nil {
			t.Fatal(err)
		}
		names := [2]string{"ldevid.pem", "ldevid.key"}
		if i == 1 {
			names = [2]string{"idevid.pem", "idevid.key"}
		}
		if err := os.Mkdir(home, 0o700); err != nil {
			t.Fatal(err)
		}
		for j, block := range []*pem.Block{{Type: "CERTIFICATE", Bytes: d.Certificate.Certificate[0]}, {Type: "PRIVATE KEY", Bytes: key}} {
			if err := os.WriteFile(filepath.Join(home, names[j]), pem.EncodeToMemory(block), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	got, without, err := LoadDir(dir, 0)
	if err != nil || len(got) != 2 || got[1].Thing != "device-00000002" || len(without) != 1 || filepath.Base(without[0]) != "SN-1" {
		t.Errorf("%d %v %v", len(got), without, err)
	}
	if got, _, err := LoadDir(dir, 1); err != nil || len(got) != 1 {
		t.Errorf("%d %v", len(got), err)
	}
}

func TestLatency_IsCloseToTheTruth(t *testing.T) {
	var l latency
	var all []time.Duration
	r := rand.New(rand.NewPCG(1, 2))
	for range 20_000 {
		d := time.Duration(r.ExpFloat64() * float64(20*time.Millisecond))
		all = append(all, d)
		l.add(d)
	}
	slices.Sort(all)
	for _, q := range []float64{0.01, 0.5, 0.99, 1} {
		truth := all[min(int(float64(len(all))*q), len(all)-1)]
		if got := l.quantile(q); float64(got) < 0.93*float64(truth) || float64(got) > 1.07*float64(truth)+2000 {
			t.Errorf("quantile %v: %v, truth %v", q, got, truth)
		}
	}
	for us := range uint64(1 << 20) {
		b := bucketOf(us)
		if u := uint64(upper(b).Microseconds()); u < us || b > 0 && uint64(upper(b-1).Microseconds()) >= us {
			t.Fatalf("%d µs is in bucket %d, which ends at %d", us, b, u)
		}
	}
	l.add(1 << 62)
	if l.quantile(1) <= 0 {
		t.Error("a duration beyond all buckets")
	}
}

func TestRun_ConnectsInStagesAndPublishes(t *testing.T) {
	b := mosquittotest.Start(t)
	var mu sync.Mutex
	topics := map[string]int{}
	listener, err := mqtt.Dial(t.Context(), mqtt.Config{Addr: b.Addr, ClientID: "listener", TLS: mqtt.TLS(b.PKI.Device("listener"), b.PKI.Pool(), "localhost"), OnMessage: func(m mqtt.Message) {
		mu.Lock()
		defer mu.Unlock()
		topics[m.Topic]++
		if strings.HasPrefix(m.Topic, "dt/") && len(m.Payload) != 300 {
			t.Errorf("%d bytes", len(m.Payload))
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Abort()
	if err := listener.Subscribe(t.Context(), mqtt.Subscription{Filter: "dt/+/telemetry"}, mqtt.Subscription{Filter: "$aws/things/+/shadow/update"}); err != nil {
		t.Fatal(err)
	}
	for _, version := range []byte{mqtt.V311, mqtt.V5} {
		for _, qos := range []byte{0, 1} {
			out, err := Run(t.Context(), Config{Endpoint: b.Addr, ServerName: "localhost", Roots: b.PKI.Pool(), Devices: devicesOf(t, b.PKI, 40), Version: version,
				Rate: 5, QoS: qos, Payload: 300, Shadow: 500 * time.Millisecond, Dials: 8, Duration: 1500 * time.Millisecond, Reconnect: true})
			if err != nil || !out.OK || out.Connected != 40 || len(out.Errors) != 0 || out.Lost != 0 {
				t.Errorf("%+v %v", out, err)
			}
			var targets []int
			for _, s := range out.Stages {
				targets = append(targets, s.Target)
				if s.Reached < s.Target || s.Failures != 0 {
					t.Errorf("%+v", s)
				}
			}
			if !slices.Equal(targets, []int{4, 10, 20, 40}) {
				t.Errorf("stages %v", targets)
			}
			if out.Storm == nil || out.Storm.Reached != 40 || out.Connects != 80 || out.Resumed != 40 {
				t.Errorf("storm %+v of %d connects, %d resumed", out.Storm, out.Connects, out.Resumed)
			}
			if out.Publishes < 200 || out.Shadows < 60 || qos == 1 && (out.Ack.Count < out.Publishes || out.Ack.P50 <= 0) {
				t.Errorf("%d publishes, %d shadows, %+v", out.Publishes, out.Shadows, out.Ack)
			}
		}
	}
	mu.Lock()
	defer mu.Unlock()
	if len(topics) != 80 {
		t.Errorf("%d topics, want 2 for each device", len(topics))
	}
}

// What fails is counted by its code, and the result says that it is not well.
func TestRun_TellsWhatFails(t *testing.T) {
	b := mosquittotest.Start(t)
	other := brokertest.New()
	devices := append(devicesOf(t, b.PKI, 3), func() Device {
		c := other.Device("stranger")
		return Device{Thing: "stranger", Certificate: c}
	}())
	cfg := Config{Endpoint: b.Addr, ServerName: "localhost", Roots: b.PKI.Pool(), Devices: devices, Patience: 500 * time.Millisecond, Duration: 10 * time.Millisecond, Stages: []int{100}, Backoff: device.Backoff{Min: 10 * time.Millisecond, Max: 50 * time.Millisecond}}
	out, err := Run(t.Context(), cfg)
	if err != nil || out.OK || out.Connected != 3 || out.Stages[0].Failures == 0 || len(out.Errors) == 0 {
		t.Errorf("%+v %v", out, err)
	}
	for code := range out.Errors {
		if !strings.HasPrefix(code, "lost-") {
			t.Errorf("code %q", code)
		}
	}
	cfg.Devices = append(devicesOf(t, b.PKI, 2), devices[0])
	if _, err := Run(t.Context(), cfg); !errors.Is(err, ErrDevices) {
		t.Errorf("one device twice: %v", err)
	}
	for _, change := range []func(*Config){func(c *Config) { c.Endpoint = "" }, func(c *Config) { c.Rate = -1 }, func(c *Config) { c.QoS = 2 }, func(c *Config) { c.Stages = []int{50, 10} }, func(c *Config) { c.Devices = nil }} {
		bad := Config{Endpoint: b.Addr, Roots: b.PKI.Pool(), Devices: devicesOf(t, b.PKI, 1)}
		change(&bad)
		if _, err := Run(t.Context(), bad); !errors.Is(err, ErrConfig) && !errors.Is(err, ErrDevices) {
			t.Errorf("%v", err)
		}
	}
}
