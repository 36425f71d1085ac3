package broker

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	mqtt "github.com/eclipse/paho.mqtt.golang"

	"hallmark/fleet"
)

// need skips a test whose program is not installed; in CI it fails.
func need(t *testing.T, program string) {
	t.Helper()
	if _, err := exec.LookPath(program); err != nil {
		if os.Getenv("CI") == "true" || os.Getenv("HALLMARK_CI") == "1" {
			t.Fatal(err)
		}
		t.Skip("apt-get install mosquitto-clients")
	}
}

func mosquitto(t *testing.T, f *bench, program, device string, version byte, args ...string) *exec.Cmd {
	t.Helper()
	ca, cert, key := testPKI().Files(t, device)
	host, port, _ := net.SplitHostPort(f.addr)
	v := map[byte]string{4: "mqttv311", 5: "mqttv5"}[version]
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	t.Cleanup(cancel)
	return exec.CommandContext(ctx, program, append([]string{"-h", host, "-p", port, "-V", v, "--cafile", ca, "--cert", cert, "--key", key, "-i", device}, args...)...)
}

func TestClients_MosquittoOverMutualTLS(t *testing.T) {
	need(t, "mosquitto_sub")
	both(t, func(t *testing.T, v byte) {
		f := open(t, nil)
		var out bytes.Buffer
		sub := mosquitto(t, f, "mosquitto_sub", "lamp1", v, "-t", "dt/#", "-q", "1", "-C", "3", "-v")
		sub.Stdout, sub.Stderr = &out, &out
		if err := sub.Start(); err != nil {
			t.Fatal(err)
		}
		f.event("subscribed", "lamp1")
		for i, args := range [][]string{{"-q", "0"}, {"-q", "1"}, {"-q", "1", "-r"}} {
			pub := mosquitto(t, f, "mosquitto_pub", "lamp2", v, append(args, "-t", fmt.Sprintf("dt/%d", i), "-m", "hello", "-u", "?SDK=test")...)
			if o, err := pub.CombinedOutput(); err != nil {
				t.Fatalf("mosquitto_pub: %v: %s", err, o)
			}
		}
		if err := sub.Wait(); err != nil {
			t.Fatalf("mosquitto_sub: %v: %s", err, &out)
		}
		if got := out.String(); got != "dt/0 hello\ndt/1 hello\ndt/2 hello\n" {
			t.Errorf("got %q", got)
		}
		// What is retained comes to a filter with wildcards, as the standard says.
		late := mosquitto(t, f, "mosquitto_sub", "lamp3", v, "-t", "#", "-C", "1", "-v")
		if o, err := late.CombinedOutput(); err != nil || string(o) != "dt/2 hello\n" {
			t.Errorf("retained: %v %q", err, o)
		}
	})
}

func TestClients_MosquittoOfflineQueueAndWill(t *testing.T) {
	need(t, "mosquitto_sub")
	both(t, func(t *testing.T, v byte) {
		f := open(t, nil)
		keep := []string{"-t", "cmd/lamp1", "-q", "1", "-c"}
		if v == 5 {
			keep = append(keep, "-x", "600")
		}
		if o, err := mosquitto(t, f, "mosquitto_sub", "lamp1", v, append(keep, "-E")...).CombinedOutput(); err != nil {
			t.Fatalf("%v %s", err, o)
		}
		pub := mosquitto(t, f, "mosquitto_pub", "lamp2", v, "-t", "cmd/lamp1", "-q", "1", "-l")
		pub.Stdin = strings.NewReader("a\nb\nc\n")
		if o, err := pub.CombinedOutput(); err != nil {
			t.Fatalf("%v %s", err, o)
		}
		if o, err := mosquitto(t, f, "mosquitto_sub", "lamp1", v, append(keep, "-C", "3")...).CombinedOutput(); err != nil || string(o) != "a\nb\nc\n" {
			t.Fatalf("%v %q", err, o)
		}

		watch, _ := f.connect(t, "watch", v, nil)
		watch.sub("will/+", 1)
		dying := mosquitto(t, f, "mosquitto_sub", "lamp4", v, "-t", "x", "--will-topic", "will/lamp4", "--will-payload", "gone", "--will-qos", "1")
		if err := dying.Start(); err != nil {
			t.Fatal(err)
		}
		f.event("subscribed", "lamp4")
		dying.Process.Kill()
		dying.Wait()
		watch.message("will/lamp4", "gone")
		if e := f.event("disconnected", "lamp4"); e.Reason != ConnectionLost || e.ClientInitiated {
			t.Errorf("got %+v", e)
		}
	})
}

func paho(t *testing.T, f *bench, url, device string, change func(*mqtt.ClientOptions)) mqtt.Client {
	t.Helper()
	o := mqtt.NewClientOptions().AddBroker(url).SetClientID(device).SetTLSConfig(testPKI().Client(device)).SetUsername("?SDK=test").SetConnectTimeout(10 * time.Second).SetAutoReconnect(false)
	if change != nil {
		change(o)
	}
	c := mqtt.NewClient(o)
	if tok := c.Connect(); !tok.WaitTimeout(10*time.Second) || tok.Error() != nil {
		t.Fatalf("connect: %v", tok.Error())
	}
	t.Cleanup(func() { c.Disconnect(0) })
	return c
}

func TestClients_PahoOverTLSAndWebSocket(t *testing.T) {
	asked := make(chan fleet.Request, 1)
	f := open(t, func(c *Config) {
		c.Topics = []fleet.Topic{{Filter: "$aws/things/+/jobs/get", Handle: func(_ context.Context, r fleet.Request) error {
			asked <- r
			r.Reply(r.Topic+"/accepted", []byte(`{"jobs":[]}`))
			return nil
		}}}
	})
	srv := httptest.NewUnstartedServer(f.WebSocket())
	srv.TLS = testPKI().Server("http/1.1")
	srv.StartTLS()
	defer srv.Close()
	for name, url := range map[string]string{"tls": "ssl://" + f.addr, "websocket": strings.Replace(srv.URL, "https", "wss", 1) + "/mqtt"} {
		t.Run(name, func(t *testing.T) {
			got := make(chan mqtt.Message, 100)
			c := paho(t, f, url, "lamp1", func(o *mqtt.ClientOptions) {
				o.SetDefaultPublishHandler(func(_ mqtt.Client, m mqtt.Message) { got <- m })
			})
			if tok := c.Subscribe("dt/+", 1, nil); !tok.WaitTimeout(5*time.Second) || tok.Error() != nil {
				t.Fatal(tok.Error())
			}
			big := strings.Repeat("x", 100_000)
			if tok := c.Publish("dt/big", 1, false, big); !tok.WaitTimeout(5*time.Second) || tok.Error() != nil {
				t.Fatal(tok.Error())
			}
			if m := <-got; string(m.Payload()) != big {
				t.Errorf("payload of %d octets", len(m.Payload()))
			}
			// The answer to a request comes without a subscription.
			if tok := c.Publish("$aws/things/lamp1/jobs/get", 1, false, ""); !tok.WaitTimeout(5*time.Second) || tok.Error() != nil {
				t.Fatal(tok.Error())
			}
			if r := <-asked; r.Thing != "lamp1" || r.Client != "lamp1" || r.Tenant != "acme" || len(r.Levels) != 5 || len(r.Certificate) != 64 {
				t.Errorf("got %+v", r)
			}
			if m := <-got; m.Topic() != "$aws/things/lamp1/jobs/get/accepted" {
				t.Errorf("got %s", m.Topic())
			}
			c.Disconnect(100)
			f.event("disconnected", "lamp1")
		})
	}
}

func TestWebSocket_RefusesWithoutTLSAndSubprotocol(t *testing.T) {
	f := open(t, nil)
	srv := httptest.NewServer(f.WebSocket())
	defer srv.Close()
	r, err := http.Get(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	r.Body.Close()
	if r.StatusCode != http.StatusUpgradeRequired {
		t.Errorf("got %s", r.Status)
	}
}
