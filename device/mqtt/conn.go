package mqtt

import (
	"bytes"
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"hallmark/internal/fault"
)

// The versions of the protocol.
const (
	V311 byte = 4
	V5   byte = 5
)

// Config describes one connection. The zero value of a field is its default.
type Config struct {
	Addr     string      // host:port
	TLS      *tls.Config // see [TLS]; the same for all connections of a device, so that its sessions resume
	ClientID string      // the name of the thing
	Version  byte        // V311 (the default) or V5
	Username string      // sent without a password, as device SDKs do; usually empty

	// Persistent keeps the session on the server. With version 5, for so long as
	// SessionExpiry says (0 = one hour).
	Persistent    bool
	SessionExpiry time.Duration
	Will          *Message // published by the server when the connection breaks

	KeepAlive time.Duration // 0 = 5 minutes; negative = none
	Timeout   time.Duration // for connecting, for a write and for an answer of the server; 0 = 15 s
	Inflight  int           // QoS 1 messages without acknowledgement; 0 = 20; the server may lower it
	MaxPacket int           // larger ones end the connection; 0 = 256 KiB

	// OnMessage gets what was published to this client, on the reading goroutine:
	// it must not wait for an answer on the same connection. May be nil.
	OnMessage func(Message)

	// Dial opens the stream; nil = TCP.
	Dial func(ctx context.Context, network, addr string) (net.Conn, error)
}

// Message is what is published.
type Message struct {
	Topic   string
	Payload []byte
	QoS     byte
	Retain  bool
	Dup     bool // received again
}

// Conn is one connection, from its CONNACK on. It is safe for concurrent use.
type Conn struct {
	SessionPresent bool          // the server had a session of this client
	Resumed        bool          // TLS resumed an earlier session
	KeepAlive      time.Duration // in force; 0 = none
	MaxPayload     int           // largest packet that the server takes; 0 = it did not say

	nc        net.Conn
	version   byte
	timeout   time.Duration
	limit     int
	onMessage func(Message)

	writeMu sync.Mutex // held over each write; never taken with mu held

	mu      sync.Mutex
	pending map[uint16]pending
	last    uint16
	err     error // why it ended

	slots chan struct{} // taken by QoS 1 messages
	done  chan struct{}

	began     time.Time
	lastRead  atomic.Int64 // since began
	lastWrite atomic.Int64
	pinged    atomic.Int64 // when a PINGREQ was sent that nothing answered yet; 0 = none
	timer     *time.Timer
	closing   atomic.Bool
}

// pending is a packet that waits for its answer.
type pending struct {
	kind byte // of the answer
	done func(codes []byte, err error)
}

// Dial connects and waits for the server's consent. The context bounds the
// connecting only.
func Dial(ctx context.Context, cfg Config) (*Conn, error) {
	if cfg.Version == 0 {
		cfg.Version = V311
	}
	if cfg.Addr == "" || cfg.TLS == nil || cfg.ClientID == "" || cfg.Version != V311 && cfg.Version != V5 {
		return nil, ErrConfig.New("")
	}
	if cfg.Timeout <= 0 {
		cfg.Timeout = 15 * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, cfg.Timeout)
	defer cancel()
	// 1. the stream
	dial := cfg.Dial
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	raw, err := dial(ctx, "tcp", cfg.Addr)
	if err != nil {
		return nil, ErrDial.Wrap(err, "")
	}
	// 2. TLS
	t := cfg.TLS
	if t.ServerName == "" {
		host, _, err := net.SplitHostPort(cfg.Addr)
		if err != nil {
			raw.Close()
			return nil, ErrConfig.Wrap(err, "The address is not host:port.")
		}
		t = t.Clone()
		t.ServerName = host
	}
	nc := tls.Client(raw, t)
	if err := nc.HandshakeContext(ctx); err != nil {
		raw.Close()
		return nil, ErrDial.Wrap(err, "")
	}
	// 3. MQTT
	c, err := greet(ctx, nc, &cfg)
	if err != nil {
		raw.Close()
		return nil, err
	}
	c.Resumed = nc.ConnectionState().DidResume
	c.start()
	return c, nil
}

// greet sends CONNECT and reads the answer.
func greet(ctx context.Context, nc net.Conn, cfg *Config) (*Conn, error) {
	c := &Conn{nc: nc, version: cfg.Version, timeout: cfg.Timeout, limit: cfg.MaxPacket, onMessage: cfg.OnMessage, done: make(chan struct{}), began: time.Now(), KeepAlive: cfg.KeepAlive}
	if c.limit <= 0 {
		c.limit = 256 << 10
	}
	switch {
	case c.KeepAlive < 0:
		c.KeepAlive = 0
	case c.KeepAlive == 0:
		c.KeepAlive = 5 * time.Minute
	default: // the wire has whole seconds, 16 bits of them
		c.KeepAlive = min(max(c.KeepAlive.Round(time.Second), time.Second), 65535*time.Second)
	}
	pk := connectPacket(cfg, c)
	// A context that ends closes the stream, whatever the read waits for.
	stop := context.AfterFunc(ctx, func() { nc.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	if err := c.write(pk); err != nil {
		return nil, lost(ctx, err)
	}
	var scratch [1]byte
	first, body, err := readPacket(nc, &scratch, c.limit)
	if err != nil {
		return nil, lost(ctx, err)
	}
	ack, err := decode(c.version, first, body)
	if err != nil {
		return nil, err
	}
	if ack.FixedHeader.Type != packets.Connack {
		return nil, ErrProtocol.New("The first packet is not CONNACK.")
	}
	if ack.ReasonCode != 0 {
		return nil, refusal(&ack)
	}
	if ack.ProtocolVersion != c.version {
		return nil, ErrProtocol.New("The CONNACK is of another version.")
	}
	if !stop() {
		return nil, lost(ctx, ctx.Err())
	}
	c.SessionPresent = ack.SessionPresent
	window := cfg.Inflight
	if window <= 0 {
		window = 20
	}
	p := &ack.Properties
	if p.ReceiveMaximum > 0 {
		window = min(window, int(p.ReceiveMaximum))
	}
	if p.ServerKeepAliveFlag {
		c.KeepAlive = time.Duration(p.ServerKeepAlive) * time.Second // [MQTT-3.1.2-21]
	}
	c.MaxPayload = int(p.MaximumPacketSize)
	c.slots = make(chan struct{}, window)
	return c, nil
}

func connectPacket(cfg *Config, c *Conn) *packets.Packet {
	pk := &packets.Packet{ProtocolVersion: c.version, FixedHeader: packets.FixedHeader{Type: packets.Connect}}
	pk.Connect = packets.ConnectParams{ProtocolName: []byte("MQTT"), ClientIdentifier: cfg.ClientID, Keepalive: uint16(c.KeepAlive / time.Second), Clean: !cfg.Persistent}
	if cfg.Username != "" {
		pk.Connect.UsernameFlag, pk.Connect.Username = true, []byte(cfg.Username)
	}
	if w := cfg.Will; w != nil {
		pk.Connect.WillFlag, pk.Connect.WillTopic, pk.Connect.WillPayload, pk.Connect.WillQos, pk.Connect.WillRetain = true, w.Topic, w.Payload, w.QoS, w.Retain
	}
	if c.version == V5 {
		if cfg.Persistent {
			expiry := cfg.SessionExpiry
			if expiry <= 0 {
				expiry = time.Hour
			}
			pk.Properties.SessionExpiryInterval, pk.Properties.SessionExpiryIntervalFlag = uint32(expiry/time.Second), true
		}
		pk.Properties.MaximumPacketSize = uint32(c.limit)
	}
	return pk
}

// refusal says what a CONNACK other than 0 means.
func refusal(ack *packets.Packet) error {
	d := ErrRefused
	reason := ""
	if ack.ProtocolVersion == V5 {
		reason = fmt.Sprintf("0x%02x", ack.ReasonCode)
		switch ack.ReasonCode {
		case 0x88, 0x89, 0x97, 0x9f: // unavailable, busy, quota, rate
			d = ErrBusy
		}
	} else {
		reason = fmt.Sprintf("%d", ack.ReasonCode)
		if ack.ReasonCode == 3 {
			d = ErrBusy
		}
	}
	detail := "Code " + reason + "."
	if s := ack.Properties.ReasonString; s != "" {
		detail += " " + printable(s)
	}
	return d.New("%s", detail).With("reason", reason)
}

// printable keeps a server's words harmless in a log and on a terminal.
func printable(s string) string {
	if len(s) > 200 {
		s = s[:200]
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || r == 0xfffd || r >= 0x80 && r < 0xa0 {
			return -1
		}
		return r
	}, s)
}

// lost makes a failure of the stream a fault.
func lost(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return ErrTimeout.Wrap(ctx.Err(), "")
	}
	if fault.KindOf(err) != fault.Internal {
		return err
	}
	return ErrLost.Wrap(err, "")
}

func (c *Conn) start() {
	c.lastRead.Store(int64(time.Since(c.began)))
	if c.KeepAlive > 0 {
		c.mu.Lock() // the timer's own goroutine reads the field
		c.timer = time.AfterFunc(c.interval(), c.tick)
		c.mu.Unlock()
	}
	go c.read()
}

// read handles what comes in until the connection ends.
func (c *Conn) read() {
	var scratch [1]byte
	for {
		first, body, err := readPacket(c.nc, &scratch, c.limit)
		if err != nil {
			c.fail(ErrLost.Wrap(err, ""))
			return
		}
		c.lastRead.Store(int64(time.Since(c.began)))
		c.pinged.Store(0)
		pk, err := decode(c.version, first, body)
		if err == nil {
			err = c.handle(&pk)
		}
		if err != nil {
			c.fail(err)
			return
		}
	}
}

func (c *Conn) handle(pk *packets.Packet) error {
	switch pk.FixedHeader.Type {
	case packets.Publish:
		if c.onMessage != nil {
			c.onMessage(Message{Topic: pk.TopicName, Payload: pk.Payload, QoS: pk.FixedHeader.Qos, Retain: pk.FixedHeader.Retain, Dup: pk.FixedHeader.Dup})
		}
		if pk.FixedHeader.Qos == 1 {
			return c.write(&packets.Packet{ProtocolVersion: c.version, FixedHeader: packets.FixedHeader{Type: packets.Puback}, PacketID: pk.PacketID})
		}
		return nil
	case packets.Puback:
		return c.answer(pk.PacketID, packets.Puback, []byte{pk.ReasonCode})
	case packets.Suback, packets.Unsuback:
		return c.answer(pk.PacketID, pk.FixedHeader.Type, pk.ReasonCodes)
	case packets.Pingresp:
		return nil
	case packets.Disconnect:
		d := ErrLost
		if pk.ReasonCode == 0x8e {
			d = ErrTaken
		}
		detail := fmt.Sprintf("The broker said 0x%02x.", pk.ReasonCode)
		if s := pk.Properties.ReasonString; s != "" {
			detail += " " + printable(s)
		}
		return d.New("%s", detail).With("reason", fmt.Sprintf("0x%02x", pk.ReasonCode))
	}
	return ErrProtocol.New("A packet of type %d is out of place.", pk.FixedHeader.Type)
}

// answer hands an acknowledgement to what waits for it. One that nothing waits
// for was given up on this side.
func (c *Conn) answer(id uint16, kind byte, codes []byte) error {
	c.mu.Lock()
	p, ok := c.pending[id]
	if ok && p.kind == kind {
		delete(c.pending, id)
	}
	c.mu.Unlock()
	if !ok {
		return nil
	}
	if p.kind != kind {
		return ErrProtocol.New("An acknowledgement has another packet's identifier.")
	}
	p.done(codes, nil)
	return nil
}

// write sends one packet.
func (c *Conn) write(pk *packets.Packet) error {
	b := buffers.Get().(*bytes.Buffer)
	defer func() {
		if b.Cap() <= 64<<10 { // a large one is not kept for all the small ones
			b.Reset()
			buffers.Put(b)
		}
	}()
	if err := encode(pk, b); err != nil {
		return ErrMessage.Wrap(err, "")
	}
	if c.MaxPayload > 0 && b.Len() > c.MaxPayload {
		return ErrMessage.New("The packet has %d bytes, the broker takes %d.", b.Len(), c.MaxPayload)
	}
	c.writeMu.Lock()
	c.nc.SetWriteDeadline(time.Now().Add(c.timeout))
	_, err := c.nc.Write(b.Bytes())
	c.writeMu.Unlock()
	if err != nil {
		err = ErrLost.Wrap(err, "")
		c.fail(err)
		return err
	}
	c.lastWrite.Store(int64(time.Since(c.began)))
	return nil
}

// interval is after how much silence the server is asked for a sign of life:
// before its own patience ends, which is one and a half times the keep-alive.
func (c *Conn) interval() time.Duration { return c.KeepAlive * 3 / 4 }

// tick keeps the connection alive and finds that it is dead. A device that
// sends all the time asks too, if nothing comes back.
func (c *Conn) tick() {
	now := int64(time.Since(c.began))
	next := time.Duration(min(c.lastRead.Load(), c.lastWrite.Load()) + int64(c.interval()) - now)
	if asked := c.pinged.Load(); asked != 0 {
		if next = time.Duration(asked + int64(c.timeout) - now); next <= 0 {
			c.fail(ErrTimeout.New("It did not answer a ping."))
			return
		}
	} else if next <= 0 {
		c.pinged.Store(now)
		if c.write(&packets.Packet{ProtocolVersion: c.version, FixedHeader: packets.FixedHeader{Type: packets.Pingreq}}) != nil {
			return
		}
		next = min(c.timeout, c.interval())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err == nil {
		c.timer.Reset(next)
	}
}

// fail ends the connection for a reason; the first one counts.
func (c *Conn) fail(err error) {
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	if c.closing.Load() {
		err = ErrClosed.New("") // the server's end follows our own
	}
	c.err = err
	waiting := c.pending
	c.pending = nil
	if c.timer != nil {
		c.timer.Stop()
	}
	c.mu.Unlock()
	// The socket itself: the farewell of TLS could wait for a peer that is gone.
	nc := c.nc
	if t, ok := nc.(*tls.Conn); ok {
		nc = t.NetConn()
	}
	nc.Close()
	close(c.done)
	for _, p := range waiting {
		p.done(nil, err)
	}
}

// Done is closed when the connection ended.
func (c *Conn) Done() <-chan struct{} { return c.done }

// Err says why the connection ended; nil while it lives.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// Close takes leave: the server forgets the will and frees a clean session.
func (c *Conn) Close() error {
	if c.Err() != nil {
		return nil
	}
	c.closing.Store(true)
	err := c.write(&packets.Packet{ProtocolVersion: c.version, FixedHeader: packets.FixedHeader{Type: packets.Disconnect}})
	if t, ok := c.nc.(*tls.Conn); ok && err == nil {
		t.CloseWrite()
	}
	c.fail(ErrClosed.New(""))
	return err
}

// Abort drops the connection without a word, as a power cut does.
func (c *Conn) Abort() { c.fail(ErrClosed.New("")) }
