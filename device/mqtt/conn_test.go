package mqtt

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"hallmark/broker/brokertest"
	"hallmark/device/mosquittotest"
	"hallmark/internal/freeport"
)

// both runs a test with each version of the protocol.
func both(t *testing.T, f func(t *testing.T, version byte)) {
	for _, v := range []byte{V311, V5} {
		t.Run(map[byte]string{V311: "MQTT 3.1.1", V5: "MQTT 5"}[v], func(t *testing.T) { f(t, v) })
	}
}

// inbox collects messages.
type inbox chan Message

func (b inbox) take(m Message) { b <- m }

func (b inbox) next(t *testing.T) Message {
	t.Helper()
	select {
	case m := <-b:
		return m
	case <-time.After(10 * time.Second):
		t.Fatal("no message")
		return Message{}
	}
}

func config(b *mosquittotest.Broker, id string, version byte) Config {
	return Config{Addr: b.Addr, ClientID: id, Version: version, TLS: TLS(b.PKI.Device(id), b.PKI.Pool(), "localhost"), Timeout: 10 * time.Second}
}

func dial(t *testing.T, cfg Config) *Conn {
	t.Helper()
	c, err := Dial(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Abort)
	return c
}

func TestConn_PublishesAndReceives(t *testing.T) {
	b := mosquittotest.Start(t)
	both(t, func(t *testing.T, v byte) {
		got := make(inbox, 10)
		cfg := config(b, fmt.Sprintf("sub-%d", v), v)
		cfg.OnMessage = got.take
		sub, pub := dial(t, cfg), dial(t, config(b, fmt.Sprintf("pub-%d", v), v))
		if err := sub.Subscribe(t.Context(), Subscription{"dt/+/telemetry", 1}, Subscription{"cmd/#", 0}); err != nil {
			t.Fatal(err)
		}
		large := bytes.Repeat([]byte("x"), 100_000)
		for qos, payload := range [][]byte{[]byte("zero"), large} {
			if err := pub.Publish(t.Context(), Message{Topic: "dt/lamp/telemetry", Payload: payload, QoS: byte(qos)}); err != nil {
				t.Fatal(err)
			}
			if m := got.next(t); m.Topic != "dt/lamp/telemetry" || !bytes.Equal(m.Payload, payload) || m.QoS != byte(qos) {
				t.Errorf("got %s %d bytes QoS %d", m.Topic, len(m.Payload), m.QoS)
			}
		}
		if err := sub.Unsubscribe(t.Context(), "dt/+/telemetry"); err != nil {
			t.Fatal(err)
		}
		for _, topic := range []string{"dt/lamp/telemetry", "cmd/last"} {
			if err := pub.Publish(t.Context(), Message{Topic: topic, QoS: 1}); err != nil {
				t.Fatal(err)
			}
		}
		if m := got.next(t); m.Topic != "cmd/last" {
			t.Errorf("a message of a filter that was given back: %s", m.Topic)
		}
		for _, m := range []Message{{Topic: "a/+"}, {Topic: ""}, {Topic: "a", QoS: 2}} {
			if err := pub.Publish(t.Context(), m); !errors.Is(err, ErrMessage) {
				t.Errorf("%+v: %v", m, err)
			}
		}
		if err := pub.Close(); err != nil || !errors.Is(pub.Err(), ErrClosed) {
			t.Errorf("%v %v", err, pub.Err())
		}
		if err := pub.Publish(t.Context(), Message{Topic: "a"}); err == nil {
			t.Error("published on a closed connection")
		}
	})
}

func TestConn_SessionsOutliveConnections(t *testing.T) {
	b := mosquittotest.Start(t)
	both(t, func(t *testing.T, v byte) {
		got := make(inbox, 10)
		cfg := config(b, fmt.Sprintf("sleeper-%d", v), v)
		cfg.Persistent, cfg.OnMessage = true, got.take
		c := dial(t, cfg)
		if c.SessionPresent || c.Resumed {
			t.Error("a session before the first")
		}
		if err := c.Subscribe(t.Context(), Subscription{"cmd/sleeper", 1}); err != nil {
			t.Fatal(err)
		}
		c.Close()
		if err := dial(t, config(b, fmt.Sprintf("boss-%d", v), v)).Publish(t.Context(), Message{Topic: "cmd/sleeper", Payload: []byte("wake"), QoS: 1}); err != nil {
			t.Fatal(err)
		}
		c = dial(t, cfg)
		if !c.SessionPresent {
			t.Error("no session present")
		}
		if !c.Resumed {
			t.Error("TLS did not resume")
		}
		if m := got.next(t); string(m.Payload) != "wake" {
			t.Errorf("got %q", m.Payload)
		}
	})
}

func TestConn_WillAndTakeover(t *testing.T) {
	b := mosquittotest.Start(t)
	both(t, func(t *testing.T, v byte) {
		got := make(inbox, 10)
		watch := config(b, fmt.Sprintf("watch-%d", v), v)
		watch.OnMessage = got.take
		if err := dial(t, watch).Subscribe(t.Context(), Subscription{"will/+", 1}); err != nil {
			t.Fatal(err)
		}
		cfg := config(b, fmt.Sprintf("mortal-%d", v), v)
		cfg.Will = &Message{Topic: "will/x", Payload: []byte("gone"), QoS: 1}
		dial(t, cfg).Close()
		dial(t, cfg).Abort()
		if m := got.next(t); string(m.Payload) != "gone" {
			t.Errorf("got %q", m.Payload)
		}
		first := dial(t, cfg)
		dial(t, cfg)
		select {
		case <-first.Done():
		case <-time.After(10 * time.Second):
			t.Fatal("the older connection lives on")
		}
		if err := first.Err(); !errors.Is(err, ErrTaken) && !errors.Is(err, ErrLost) {
			t.Errorf("%v", err)
		}
	})
	// A server that says so is understood.
	c, f, err := pipe(t, Config{}, &packets.Packet{})
	if err != nil {
		t.Fatal(err)
	}
	f.nc.Write([]byte{packets.Disconnect << 4, 2, 0x8e, 0})
	<-c.Done()
	if !errors.Is(c.Err(), ErrTaken) || Reason(c.Err()) != "taken-over-0x8e" {
		t.Errorf("%v", c.Err())
	}
}

// What goes wrong at the door has a stable word, and never a connection.
func TestDial_SaysWhyNot(t *testing.T) {
	b := mosquittotest.Start(t)
	closed, err := freeport.Take(1)
	if err != nil {
		t.Fatal(err)
	}
	other := brokertest.New()
	for name, c := range map[string]struct {
		change func(*Config)
		want   string
	}{
		"nobody listens":   {func(c *Config) { c.Addr = fmt.Sprintf("127.0.0.1:%d", closed) }, "dial-port-closed"},
		"another root":     {func(c *Config) { c.TLS = TLS(b.PKI.Device("x"), other.Pool(), "localhost") }, "dial-tls-unknown-root"},
		"another name":     {func(c *Config) { c.TLS = TLS(b.PKI.Device("x"), b.PKI.Pool(), "elsewhere") }, "dial-tls-wrong-name"},
		"a foreign device": {func(c *Config) { c.TLS = TLS(other.Device("x"), b.PKI.Pool(), "localhost") }, "lost-"}, // with the alert, or its connection reset first
		"no address":       {func(c *Config) { c.Addr = "" }, "config"},
	} {
		t.Run(name, func(t *testing.T) {
			cfg := config(b, "x", V311)
			c.change(&cfg)
			conn, err := Dial(t.Context(), cfg)
			if conn != nil || !strings.Contains(Reason(err), c.want) {
				t.Errorf("%q: %v", Reason(err), err)
			}
		})
	}
	// A server that never answers is given up on.
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	cfg := config(b, "x", V311)
	cfg.Addr, cfg.Timeout = silent.Addr().String(), 100*time.Millisecond
	if _, err := Dial(t.Context(), cfg); Reason(err) != "dial-timeout" {
		t.Errorf("%q %v", Reason(err), err)
	}
}

// fake is the server's end of a connection without TLS.
type fake struct {
	t  *testing.T
	nc net.Conn
}

// pipe makes a connection whose server the test plays.
func pipe(t *testing.T, cfg Config, connack *packets.Packet) (*Conn, *fake, error) {
	t.Helper()
	mine, theirs := net.Pipe()
	f := &fake{t, theirs}
	cfg.ClientID = "lamp"
	if cfg.Version == 0 {
		cfg.Version = V5
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 10 * time.Second
	}
	greeted := make(chan struct{})
	go func() {
		defer close(greeted)
		f.read()
		connack.ProtocolVersion, connack.FixedHeader.Type = cfg.Version, packets.Connack
		var b bytes.Buffer
		connack.ConnackEncode(&b)
		f.nc.Write(b.Bytes())
	}()
	c, err := greet(t.Context(), mine, &cfg)
	<-greeted
	if err != nil {
		mine.Close()
		return nil, f, err
	}
	c.start()
	t.Cleanup(c.Abort)
	return c, f, nil
}

// read gives the kind and the octets of what the client sent.
func (f *fake) read() (byte, []byte, error) {
	var scratch [1]byte
	first, body, err := readPacket(f.nc, &scratch, maxLength)
	return first >> 4, body, err
}

func TestConn_KeepsAliveAndNoticesASilentServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, f, err := pipe(t, Config{KeepAlive: 40 * time.Second}, &packets.Packet{Properties: packets.Properties{ServerKeepAlive: 60, ServerKeepAliveFlag: true}})
		if err != nil {
			t.Fatal(err)
		}
		if c.KeepAlive != time.Minute {
			t.Errorf("keep-alive %v, the server said 60 s", c.KeepAlive)
		}
		began := time.Now()
		for range 3 {
			if kind, _, err := f.read(); kind != packets.Pingreq || err != nil {
				t.Fatalf("got %d %v", kind, err)
			}
			f.nc.Write([]byte{packets.Pingresp << 4, 0})
		}
		if d := time.Since(began); d < 100*time.Second || d > 180*time.Second {
			t.Errorf("three pings in %v", d)
		}
		f.read() // the fourth stays without an answer
		<-c.Done()
		if !errors.Is(c.Err(), ErrTimeout) {
			t.Errorf("%v", c.Err())
		}
	})
}

// The window is the server's, and what was sent fails with the connection.
func TestConn_BoundsWhatIsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, f, err := pipe(t, Config{}, &packets.Packet{Properties: packets.Properties{ReceiveMaximum: 2}})
		if err != nil {
			t.Fatal(err)
		}
		got := make(chan []byte, 10)
		go func() {
			for {
				kind, body, err := f.read()
				if err != nil {
					return
				}
				if kind == packets.Publish {
					got <- body
				}
			}
		}()
		results := make(chan error, 10)
		m := Message{Topic: "a", QoS: 1}
		for range 2 {
			if err := c.Send(m, func(err error) { results <- err }); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.Send(m, nil); !errors.Is(err, ErrWindow) {
			t.Errorf("%v", err)
		}
		f.nc.Write([]byte{packets.Puback << 4, 2, 0, 1})
		if err := <-results; err != nil {
			t.Error(err)
		}
		if err := c.Send(m, func(err error) { results <- err }); err != nil {
			t.Error(err)
		}
		// Code 0x87: not authorized.
		f.nc.Write([]byte{packets.Puback << 4, 3, 0, 2, 0x87})
		if err := <-results; !errors.Is(err, ErrPublish) || Reason(err) != "publish-refused-0x87" {
			t.Errorf("%v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := c.Publish(ctx, m); !errors.Is(err, ErrTimeout) {
			t.Errorf("%v", err)
		}
		f.nc.Close()
		if err := <-results; !errors.Is(err, ErrLost) {
			t.Errorf("%v", err)
		}
		if err := c.Publish(t.Context(), m); !errors.Is(err, ErrLost) {
			t.Errorf("%v", err)
		}
	})
}

func TestDial_TellsRefusalFromABadMoment(t *testing.T) {
	for _, c := range []struct {
		version, code byte
		want          error
		reason        string
	}{
		{V311, 5, ErrRefused, "refused-5"}, {V311, 3, ErrBusy, "busy-3"},
		{V5, 0x87, ErrRefused, "refused-0x87"}, {V5, 0x97, ErrBusy, "busy-0x97"}, {V5, 0x9f, ErrBusy, "busy-0x9f"},
	} {
		_, _, err := pipe(t, Config{Version: c.version}, &packets.Packet{ReasonCode: c.code})
		if !errors.Is(err, c.want) || Reason(err) != c.reason {
			t.Errorf("%d 0x%x: %v", c.version, c.code, err)
		}
	}
}

// Whatever a server sends that MQTT does not allow ends the connection, and
// takes no memory that it did not send.
func TestConn_EndsOnWhatIsNotMQTT(t *testing.T) {
	for name, raw := range map[string][]byte{
		"larger than the device takes": {0x30, 0xff, 0xff, 0xff, 0x7f},
		"a length of five octets":      {0x30, 0x80, 0x80, 0x80, 0x80, 0x01},
		"a packet of clients":          {packets.Subscribe<<4 | 2, 0},
		"QoS 2":                        {0x34, 6, 0, 1, 'a', 0, 1, 0},
		"a publish without identifier": {0x32, 6, 0, 1, 'a', 0, 0, 0},
		"a topic alias":                {0x30, 6, 0, 0, 3, 0x23, 0, 1},
		"a second CONNACK":             {packets.Connack << 4, 3, 0, 0, 0},
		"half a string":                {0x30, 3, 0, 9, 'a'},
	} {
		t.Run(name, func(t *testing.T) {
			c, f, err := pipe(t, Config{}, &packets.Packet{})
			if err != nil {
				t.Fatal(err)
			}
			go f.nc.Write(raw)
			select {
			case <-c.Done():
			case <-time.After(10 * time.Second):
				t.Fatal("it goes on")
			}
			if !errors.Is(c.Err(), ErrProtocol) {
				t.Errorf("%v", c.Err())
			}
		})
	}
}

func TestRequests_MatchesByTopicAndToken(t *testing.T) {
	b := mosquittotest.Start(t)
	var r Requests
	stray := make(inbox, 10)
	cfg := config(b, "lamp", V5)
	cfg.OnMessage = func(m Message) {
		if !r.Deliver(m) {
			stray <- m
		}
	}
	c := dial(t, cfg)
	if err := c.Subscribe(t.Context(), Subscription{"$aws/things/lamp/shadow/+/+", 1}); err != nil {
		t.Fatal(err)
	}
	service := config(b, "service", V5)
	asked := make(inbox, 10)
	service.OnMessage = asked.take
	s := dial(t, service)
	if err := s.Subscribe(t.Context(), Subscription{"$aws/things/lamp/shadow/get", 1}, Subscription{"$aws/things/lamp/shadow/update", 1}); err != nil {
		t.Fatal(err)
	}
	go func() {
		for m := range asked {
			var q struct{ ClientToken string }
			readJSON(m.Payload, &q)
			end, body := "/accepted", `{"clientToken":"`+q.ClientToken+`","version":7}`
			if strings.HasSuffix(m.Topic, "update") {
				end, body = "/rejected", `{"clientToken":"`+q.ClientToken+`","code":409,"message":"Version conflict"}`
			}
			// Another's answer, and one on another topic, come first.
			s.Send(Message{Topic: m.Topic + end, Payload: []byte(`{"clientToken":"another"}`), QoS: 1}, nil)
			s.Send(Message{Topic: "$aws/things/lamp/shadow/delete/accepted", Payload: []byte(body), QoS: 1}, nil)
			s.Send(Message{Topic: m.Topic + end, Payload: []byte(body), QoS: 1}, nil)
		}
	}()
	raw, err := r.Do(t.Context(), c, "$aws/things/lamp/shadow/get", nil)
	if err != nil || !bytes.Contains(raw, []byte(`"version":7`)) {
		t.Errorf("%s %v", raw, err)
	}
	_, err = r.Do(t.Context(), c, "$aws/things/lamp/shadow/update", map[string]any{"state": nil})
	if !errors.Is(err, ErrRejected) || !strings.Contains(err.Error(), "409") {
		t.Errorf("%v", err)
	}
	for range 4 {
		stray.next(t)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := r.Do(ctx, c, "$aws/things/lamp/shadow/nobody", nil); !errors.Is(err, ErrTimeout) {
		t.Errorf("%v", err)
	}
	s.Abort()
	close(asked)
}

// Two devices never share a session: the ticket is each one's own.
func TestTLS_TicketsAreNotShared(t *testing.T) {
	p := brokertest.New()
	ln, err := tls.Listen("tcp", "127.0.0.1:0", p.Server(ALPN))
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	names := make(chan string, 10)
	go func() {
		for {
			nc, err := ln.Accept()
			if err != nil {
				return
			}
			tc := nc.(*tls.Conn)
			if tc.Handshake() == nil {
				s := tc.ConnectionState()
				names <- fmt.Sprintf("%s %v %s", s.PeerCertificates[0].Subject.CommonName, s.DidResume, s.NegotiatedProtocol)
				tc.Write([]byte("x")) // and with it the ticket
			}
			nc.Close()
		}
	}()
	a, b := TLS(p.Device("a"), p.Pool(), "localhost"), TLS(p.Device("b"), p.Pool(), "localhost")
	var got []string
	for _, cfg := range []*tls.Config{a, b, a, b} {
		c, err := tls.Dial("tcp", ln.Addr().String(), cfg)
		if err != nil {
			t.Fatal(err)
		}
		io.ReadAll(c)
		c.Close()
		got = append(got, <-names)
	}
	want := "a false " + ALPN + ",b false " + ALPN + ",a true " + ALPN + ",b true " + ALPN
	if strings.Join(got, ",") != want {
		t.Errorf("got %v", got)
	}
}

func FuzzDecode(f *testing.F) {
	for _, raw := range [][]byte{
		{0x20, 3, 0, 0, 0}, {0x20, 2, 0, 5}, {0x30, 4, 0, 1, 'a', 0}, {0x32, 7, 0, 1, 'a', 0, 1, 0, 'x'},
		{0x40, 2, 0, 1}, {0x90, 4, 0, 1, 0, 1}, {0xb0, 3, 0, 1, 0}, {0xd0, 0}, {0xe0, 2, 0x8e, 0}, {0x20, 6, 0, 0, 3, 0x21, 0, 2},
		{0x30, 8, 0, 1, 'a', 2, 0x0b, 1, 'x', 'y'},
	} {
		f.Add(raw, true)
		f.Add(raw, false)
	}
	f.Fuzz(func(t *testing.T, raw []byte, five bool) {
		v := V311
		if five {
			v = V5
		}
		var scratch [1]byte
		first, body, err := readPacket(bytes.NewReader(raw), &scratch, 1<<20)
		if err != nil {
			return
		}
		pk, err := decode(v, first, body)
		if err == nil && pk.FixedHeader.Type == packets.Publish && (pk.TopicName == "" || len(pk.Payload) > len(body)) {
			t.Errorf("a publish without a topic or with more than there was")
		}
	})
}

func readJSON(b []byte, v any) {
	if err := json.Unmarshal(b, v); err != nil {
		panic(err)
	}
}
