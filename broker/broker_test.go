package broker

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"hallmark/broker/brokertest"
	"hallmark/fleet"
	"hallmark/fleet/policy"
	"hallmark/internal/fault"
)

var errTestRefused = fault.Define(fault.Forbidden, "test-broker-refused", "Refused.", "")

var testPKI = sync.OnceValue(brokertest.New)

// rules is the authoriser of tests: what deny names is refused, the rest allowed.
type rules struct {
	mu   sync.Mutex
	deny map[string]bool // "iot:Action resource"
}

func (r *rules) Allows(action policy.Action, resource string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return !r.deny[action.String()+" "+resource]
}

func (r *rules) forbid(action policy.Action, resource string, no bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.deny[action.String()+" "+resource] = no
}

// bench is a broker on a port of its own, with what a test looks at.
type bench struct {
	*Broker
	t     testing.TB
	addr  string
	rules *rules
	mu    sync.Mutex
	// events in order, as "kind client reason"
	events  []Event
	kinds   []string
	revoked map[string]bool // things
	change  chan struct{}
}

func (f *bench) note(kind string, e Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.events, f.kinds = append(f.events, e), append(f.kinds, kind)
	close(f.change)
	f.change = make(chan struct{})
}

func (f *bench) Connected(e Event)     { f.note("connected", e) }
func (f *bench) Disconnected(e Event)  { f.note("disconnected", e) }
func (f *bench) ConnectFailed(e Event) { f.note("connect_failed", e) }
func (f *bench) Subscribed(e Event)    { f.note("subscribed", e) }
func (f *bench) Unsubscribed(e Event)  { f.note("unsubscribed", e) }

// event waits for an event of a client.
func (f *bench) event(kind, client string) Event {
	f.t.Helper()
	timeout := time.After(10 * time.Second)
	for {
		f.mu.Lock()
		for i := len(f.kinds) - 1; i >= 0; i-- {
			if f.kinds[i] == kind && f.events[i].Client == client {
				defer f.mu.Unlock()
				return f.events[i]
			}
		}
		change := f.change
		f.mu.Unlock()
		select {
		case <-change:
		case <-timeout:
			f.t.Fatalf("no event %s of %s; have %v", kind, client, f.kinds)
		}
	}
}

func (f *bench) Authenticate(_ context.Context, s tls.ConnectionState, _ netip.AddrPort) (Identity, error) {
	if len(s.PeerCertificates) == 0 {
		return Identity{}, errTestRefused.New("")
	}
	c := s.PeerCertificates[0]
	sum := sha256.Sum256(c.Raw)
	id := Identity{Tenant: c.Subject.Organization[0], Thing: fleet.ThingName(c.Subject.CommonName), Certificate: hex.EncodeToString(sum[:]), Authority: "test", Serial: c.SerialNumber.Text(16), NotAfter: c.NotAfter}
	if strings.HasPrefix(c.Subject.CommonName, "claim") {
		id.Thing, id.Claim = "", true
	}
	if strings.HasPrefix(c.Subject.CommonName, "any") {
		id.AnyClient = true
	}
	id.Bind = func(string, []string) Authoriser { return f.rules }
	f.mu.Lock()
	no := f.revoked[c.Subject.CommonName]
	f.mu.Unlock()
	if no {
		return Identity{}, errTestRefused.New("")
	}
	return id, nil
}

// open starts a broker for a test.
func open(t testing.TB, change func(*Config)) *bench {
	t.Helper()
	f := &bench{t: t, rules: &rules{deny: map[string]bool{}}, revoked: map[string]bool{}, change: make(chan struct{})}
	cfg := Config{
		TLS:           testPKI().Server(ALPN...),
		Authenticator: f, Events: f,
		Limits: Limits{PublishRate: -1, PublishBytes: -1, SubscribeRate: -1, ConnectRate: -1, KeepAliveMin: time.Second},
	}
	if change != nil {
		change(&cfg)
	}
	b, err := New(context.Background(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	f.Broker = b
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	f.addr = ln.Addr().String()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- b.Serve(ctx, ln) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		b.Close()
	})
	return f
}

// raw is a client that sends and sees single packets.
type raw struct {
	t       testing.TB
	nc      net.Conn
	version byte
	pending []byte
}

func (f *bench) dial(t testing.TB, device string, version byte) *raw {
	t.Helper()
	cfg := testPKI().Client(device)
	cfg.NextProtos = []string{"x-amzn-mqtt-ca"}
	nc, err := tls.Dial("tcp", f.addr, cfg)
	if err != nil {
		t.Fatal(err)
	}
	c := &raw{t: t, nc: nc, version: version}
	t.Cleanup(func() { nc.Close() })
	return c
}

type pkt = packets.Packet

func head(kind byte) packets.FixedHeader { return packets.FixedHeader{Type: kind} }

// connectPacket is a CONNECT that a test can change.
func connectPacket(version byte, client string) *pkt {
	return &pkt{FixedHeader: head(packets.Connect), ProtocolVersion: version, Connect: packets.ConnectParams{ProtocolName: []byte("MQTT"), ClientIdentifier: client, Clean: true, Keepalive: 60}}
}

// connect dials and connects, and fails the test if it is refused.
func (f *bench) connect(t testing.TB, client string, version byte, change func(*pkt)) (*raw, *pkt) {
	t.Helper()
	c := f.dial(t, client, version)
	p := connectPacket(version, client)
	if change != nil {
		change(p)
	}
	c.send(p)
	ack := c.recv(packets.Connack)
	if ack.ReasonCode != 0 {
		t.Fatalf("CONNACK 0x%02X", ack.ReasonCode)
	}
	return c, ack
}

func persistent(p *pkt) {
	p.Connect.Clean = false
	if p.ProtocolVersion == 5 {
		p.Properties.SessionExpiryInterval, p.Properties.SessionExpiryIntervalFlag = 3600, true
	}
}

func (c *raw) send(p *pkt) {
	c.t.Helper()
	p.ProtocolVersion = c.version
	p.Mods.AllowResponseInfo = true
	var buf bytes.Buffer
	var err error
	switch p.FixedHeader.Type {
	case packets.Connect:
		err = p.ConnectEncode(&buf)
	case packets.Publish:
		err = p.PublishEncode(&buf)
	case packets.Puback:
		err = p.PubackEncode(&buf)
	case packets.Pubrec:
		err = p.PubrecEncode(&buf)
	case packets.Pubrel:
		p.FixedHeader.Qos = 1
		err = p.PubrelEncode(&buf)
	case packets.Pubcomp:
		err = p.PubcompEncode(&buf)
	case packets.Subscribe:
		p.FixedHeader.Qos = 1
		err = p.SubscribeEncode(&buf)
	case packets.Unsubscribe:
		p.FixedHeader.Qos = 1
		err = p.UnsubscribeEncode(&buf)
	case packets.Pingreq:
		err = p.PingreqEncode(&buf)
	case packets.Disconnect:
		err = p.DisconnectEncode(&buf)
		if c.version == 5 && p.ReasonCode == 0 && !p.Properties.SessionExpiryIntervalFlag {
			buf.Reset()
			buf.Write([]byte{0xE0, 0})
		}
	}
	if err != nil {
		c.t.Fatal(err)
	}
	c.bytes(buf.Bytes())
}

func (c *raw) bytes(b []byte) {
	c.t.Helper()
	c.nc.SetWriteDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.nc.Write(b); err != nil {
		c.t.Fatalf("write: %v", err)
	}
}

// read gives the next packet, or the error that ended the connection.
func (c *raw) read(wait time.Duration) (*pkt, error) {
	c.nc.SetReadDeadline(time.Now().Add(wait))
	for {
		if len(c.pending) >= 2 {
			size, length, err := remaining(c.pending[1:])
			if err != nil {
				return nil, err
			}
			if total := 1 + size + length; size > 0 && len(c.pending) >= total {
				header, body := c.pending[0], bytes.Clone(c.pending[1+size:total])
				c.pending = c.pending[total:]
				p := &pkt{ProtocolVersion: c.version}
				if err := p.FixedHeader.Decode(header); err != nil {
					return nil, err
				}
				p.FixedHeader.Remaining = length
				switch p.FixedHeader.Type {
				case packets.Connack:
					err = p.ConnackDecode(body)
				case packets.Publish:
					err = p.PublishDecode(body)
				case packets.Puback, packets.Pubrec, packets.Pubrel, packets.Pubcomp:
					err = p.PubackDecode(body)
				case packets.Suback:
					err = p.SubackDecode(body)
				case packets.Unsuback:
					err = p.UnsubackDecode(body)
				case packets.Disconnect:
					err = p.DisconnectDecode(body)
				}
				return p, err
			}
		}
		buf := make([]byte, 64<<10)
		n, err := c.nc.Read(buf)
		c.pending = append(c.pending, buf[:n]...)
		if n == 0 && err != nil {
			return nil, err
		}
	}
}

// recv wants a packet of a kind next.
func (c *raw) recv(kind byte) *pkt {
	c.t.Helper()
	p, err := c.read(10 * time.Second)
	if err != nil {
		c.t.Fatalf("waiting for %s: %v", packets.PacketNames[kind], err)
	}
	if p.FixedHeader.Type != kind {
		c.t.Fatalf("want %s, got %s 0x%02X %q", packets.PacketNames[kind], packets.PacketNames[p.FixedHeader.Type], p.ReasonCode, p.TopicName)
	}
	return p
}

// closed wants the connection to end without another packet.
func (c *raw) closed() {
	c.t.Helper()
	p, err := c.read(10 * time.Second)
	if err == nil {
		c.t.Fatalf("want the end of the connection, got %s 0x%02X %q", packets.PacketNames[p.FixedHeader.Type], p.ReasonCode, p.TopicName)
	}
	var n net.Error
	if errors.As(err, &n) && n.Timeout() {
		c.t.Fatal("the connection stays open")
	}
}

// ended wants DISCONNECT with a code, then the end.
func (c *raw) ended(code byte) {
	c.t.Helper()
	if c.version == 4 {
		c.closed()
		return
	}
	if p := c.recv(packets.Disconnect); p.ReasonCode != code {
		c.t.Fatalf("DISCONNECT 0x%02X, want 0x%02X", p.ReasonCode, code)
	}
	c.closed()
}

// quiet wants nothing before the answer to a ping: packets come in order, so
// nothing was on its way.
func (c *raw) quiet() {
	c.t.Helper()
	c.send(&pkt{FixedHeader: head(packets.Pingreq)})
	c.recv(packets.Pingresp)
}

func (c *raw) subscribe(filters ...packets.Subscription) []byte {
	c.t.Helper()
	c.send(&pkt{FixedHeader: head(packets.Subscribe), PacketID: 7, Filters: filters})
	return c.recv(packets.Suback).ReasonCodes
}

func (c *raw) sub(filter string, qos byte) {
	c.t.Helper()
	if codes := c.subscribe(packets.Subscription{Filter: filter, Qos: qos}); len(codes) != 1 || codes[0] != qos {
		c.t.Fatalf("SUBACK %x", codes)
	}
}

// pub publishes and, for QoS 1, wants the PUBACK.
func (c *raw) pub(topic, payload string, qos byte) {
	c.t.Helper()
	c.publish(&pkt{FixedHeader: packets.FixedHeader{Type: packets.Publish, Qos: qos}, TopicName: topic, Payload: []byte(payload), PacketID: uint16(qos) * 9})
}

func (c *raw) publish(p *pkt) {
	c.t.Helper()
	c.send(p)
	if p.FixedHeader.Qos == 1 {
		if a := c.recv(packets.Puback); a.ReasonCode >= 0x80 || a.PacketID != p.PacketID {
			c.t.Fatalf("PUBACK %d 0x%02X", a.PacketID, a.ReasonCode)
		}
	}
}

// message wants a message next, and acknowledges it.
func (c *raw) message(topic, payload string) *pkt {
	c.t.Helper()
	p := c.recv(packets.Publish)
	if p.TopicName != topic || string(p.Payload) != payload {
		c.t.Fatalf("got %q %q, want %q %q", p.TopicName, p.Payload, topic, payload)
	}
	if p.FixedHeader.Qos == 1 {
		c.send(&pkt{FixedHeader: head(packets.Puback), PacketID: p.PacketID})
	}
	return p
}

func (c *raw) bye() {
	c.t.Helper()
	c.send(&pkt{FixedHeader: head(packets.Disconnect)})
	c.closed()
}

// both runs a test for both versions.
func both(t *testing.T, fn func(t *testing.T, version byte)) {
	for _, v := range []byte{4, 5} {
		t.Run(fmt.Sprintf("v%d", v), func(t *testing.T) { fn(t, v) })
	}
}

var _ io.Closer = (*Broker)(nil)

func TestBroker_PassesAMessage(t *testing.T) {
	both(t, func(t *testing.T, v byte) {
		f := open(t, nil)
		sub, _ := f.connect(t, "lamp1", v, nil)
		sub.sub("dt/+/temp", 1)
		pub, _ := f.connect(t, "lamp2", v, nil)
		for _, qos := range []byte{0, 1} {
			pub.pub("dt/lamp2/temp", "21", qos)
			if p := sub.message("dt/lamp2/temp", "21"); p.FixedHeader.Qos != qos {
				t.Errorf("QoS %d", p.FixedHeader.Qos)
			}
		}
		sub.bye()
		if e := f.event("disconnected", "lamp1"); e.Reason != ClientDisconnect || !e.ClientInitiated {
			t.Errorf("got %+v", e)
		}
	})
}

func TestBroker_KeepsAPersistentSession(t *testing.T) {
	both(t, func(t *testing.T, v byte) {
		f := open(t, nil)
		sub, _ := f.connect(t, "lamp1", v, persistent)
		sub.sub("cmd/lamp1", 1)
		sub.bye()
		f.event("disconnected", "lamp1")
		pub, _ := f.connect(t, "lamp2", v, nil)
		for i := range 250 {
			pub.pub("cmd/lamp1", fmt.Sprint(i), 1)
		}
		sub, ack := f.connect(t, "lamp1", v, persistent)
		if !ack.SessionPresent {
			t.Error("no session present")
		}
		for i := range 250 {
			sub.message("cmd/lamp1", fmt.Sprint(i))
		}
		sub.quiet()
	})
}
