package broker

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/mochi-mqtt/server/v2/packets"

	"hallmark/fleet/policy"
)

// conn is one network connection. Its goroutine reads and decides; while it is
// idle there is no other. A writer lives as long as there is something to write.
type conn struct {
	b      *Broker
	nc     net.Conn
	remote netip.AddrPort
	rd     reader

	version   byte // 4 or 5; 0 before CONNECT
	id        *Identity
	auth      atomic.Pointer[Authoriser]
	session   *session  // set once, before CONNACK
	uuid      string    // of this connection, for events
	life      int64     // version number, for events
	notBefore time.Time // its events are not earlier: another node's clock was ahead
	attrs     []string  // connect attributes, for Rebind
	keepAlive time.Duration
	maxPacket int // that the client takes
	connected bool

	ended     atomic.Pointer[ending]
	noWill    atomic.Bool
	purge     atomic.Bool // the session ends with the connection, whatever its expiry
	blocked   atomic.Bool // reading waits for a slow subscriber
	closed    chan struct{}
	netDone   chan struct{} // the socket is closed
	done      chan struct{} // the session is detached and the events are told
	closeOnce sync.Once

	mu       sync.Mutex // guards what follows; taken last
	out      []item
	outBytes int
	writing  bool
	kicked   bool
	closing  bool // nothing more may be pushed
	drained  chan struct{}

	aliasMax int // the client's topic aliases; the writer's map
	aliasOut map[string]uint16

	// The rest belongs to the reading goroutine.
	aliasIn   []string
	kicks     kicks
	deadline  time.Time // as last set
	partial   bool
	lastTopic string
	pace      pace

	acks    acks
	request requests
}

func (b *Broker) newConn(nc net.Conn, remote netip.AddrPort) *conn {
	c := &conn{b: b, nc: nc, remote: remote, maxPacket: b.lim.PacketSize, closed: make(chan struct{}), netDone: make(chan struct{}), done: make(chan struct{})}
	c.rd = reader{src: nc, max: b.lim.PacketSize, begin: c.beforeRead}
	c.rd.release()
	return c
}

// serve reads until the connection ends.
func (c *conn) serve(err error, after func()) {
	defer after()
	for err == nil {
		err = c.step()
	}
	c.b.turns.pass()
	c.finish(err)
}

// step reads and handles one packet.
func (c *conn) step() error {
	header, body, err := c.rd.next()
	if err != nil {
		return err
	}
	// Whoever ended the connection counts, whatever the device still sends (S19).
	if e := c.ended.Load(); e != nil {
		return e
	}
	pk := packetPool.Get().(*packets.Packet)
	defer func() {
		*pk = packets.Packet{}
		packetPool.Put(pk)
	}()
	if err := decode(pk, c.version, header, body, c.b.lim.UserProps); err != nil {
		return err
	}
	switch pk.FixedHeader.Type {
	case packets.Publish:
		return c.onPublish(pk)
	case packets.Puback:
		c.onPuback(pk.PacketID)
	case packets.Pubrec:
		c.onPubrec(pk.PacketID, pk.ReasonCode)
	case packets.Pubrel:
		return c.onPubrel(pk.PacketID)
	case packets.Pubcomp:
		c.onPubcomp(pk.PacketID)
	case packets.Subscribe:
		return c.onSubscribe(pk)
	case packets.Unsubscribe:
		return c.onUnsubscribe(pk)
	case packets.Pingreq:
		c.push(item{kind: packets.Pingresp}, &c.kicks) // [MQTT-3.12.4-1]
		return c.breathe()
	case packets.Disconnect:
		return c.onDisconnect(pk)
	default:
		// A second CONNECT [MQTT-3.1.0-2], what only servers send, AUTH without a method.
		return violation("packet type")
	}
	return nil
}

// packetPool: a packet has most of a kilobyte, which an idle connection has no use for.
var packetPool = sync.Pool{New: func() any { return new(packets.Packet) }}

// onDisconnect is the client's goodbye: the will is forgotten [MQTT-3.14.4-3]
// unless it asks for it.
func (c *conn) onDisconnect(pk *packets.Packet) error {
	if c.version == 5 && pk.Properties.SessionExpiryIntervalFlag {
		s := c.session
		s.mu.Lock()
		refused := s.expiry == 0 && pk.Properties.SessionExpiryInterval != 0 // [MQTT-3.14.2-2]
		if !refused {
			s.expiry = c.b.sessionExpiry(pk.Properties.SessionExpiryInterval)
		}
		s.mu.Unlock()
		if refused {
			return violation("session expiry after none")
		}
	}
	if pk.ReasonCode == codeSuccess {
		c.noWill.Store(true)
	}
	return end(codeSuccess, ClientDisconnect, "DISCONNECT")
}

// beforeRead is called before each read from the network: what was decided so far
// is written, and the time for the next octets is set.
func (c *conn) beforeRead(partial bool) {
	c.kicks.flush()
	if c.session != nil {
		c.session.tellAcks()
	}
	c.setDeadline(partial)
}

// setDeadline moves the read deadline: rarely, since a timer costs more than a
// small packet. It may so be late by an eighth of the keep alive.
func (c *conn) setDeadline(partial bool) {
	now := wall()
	wait := c.keepAlive + c.keepAlive/2 // [MQTT-3.1.2-24]
	if !c.connected {
		return // set by connect
	}
	if partial && !c.partial {
		c.partial = true
		packet := c.b.lim.PacketTimeout
		if wait == 0 || packet < wait {
			wait = packet
		}
	} else if partial {
		return // the time of a packet runs from its first octet
	} else {
		slack := wait / 12
		if !c.partial && !c.deadline.IsZero() && (wait == 0 || now.Add(wait).Before(c.deadline)) {
			return
		}
		c.partial = false
		wait += slack
	}
	if !c.id.NotAfter.IsZero() {
		// A certificate that expires ends the connection (A73).
		if left := max(c.id.NotAfter.Sub(c.b.now()), 0); wait == 0 || left < wait {
			wait = left + time.Millisecond
		}
	}
	c.deadline = time.Time{}
	if wait != 0 {
		c.deadline = now.Add(wait)
	}
	c.nc.SetReadDeadline(c.deadline)
	if c.deadline.IsZero() {
		c.deadline = now.Add(24 * time.Hour) // only to see that it was set
	}
}

// breathe makes a client that asks without reading wait until it read.
func (c *conn) breathe() error {
	c.mu.Lock()
	if c.outBytes <= c.b.lim.OutBytes {
		c.mu.Unlock()
		return nil
	}
	if c.drained == nil {
		c.drained = make(chan struct{})
	}
	room := c.drained
	c.mu.Unlock()
	c.kicks.flush()
	select {
	case <-room:
	case <-c.closed:
	}
	return nil
}

func (c *conn) allows(action policy.Action, resource string) bool {
	a := c.auth.Load()
	if a != nil && strings.HasPrefix(resource, ownPrefix) {
		return (action == policy.Publish || action == policy.Subscribe || action == policy.Receive) && ofThing(resource, c.id.Thing)
	}
	return a != nil && (*a).Allows(action, resource)
}

// shut ends the connection. The first reason counts. It does not wait.
func (c *conn) shut(e *ending) {
	if !c.ended.CompareAndSwap(nil, e) {
		return
	}
	close(c.closed)
	c.mu.Lock()
	say := c.connected && c.version == 5 && e.code >= 0x80 && !c.closing
	if say {
		// Only MQTT 5 knows a DISCONNECT from the server.
		var k kicks
		c.pushLocked(item{octets: disconnect5(e.code), last: true}, &k)
	}
	c.mu.Unlock()
	if !say {
		go c.closeNow()
		return
	}
	time.AfterFunc(sayTime, c.closeNow)
	c.kick()
}

// sayTime is how long a DISCONNECT or a refusing CONNACK may take to go out.
const sayTime = 500 * time.Millisecond

// closeNow closes the socket.
func (c *conn) closeNow() {
	c.closeOnce.Do(func() {
		// Closing TLS sends an alert, which a peer that does not read can hold up.
		raw := c.nc
		if t, ok := raw.(*tls.Conn); ok {
			raw = t.NetConn()
		}
		t := time.AfterFunc(sayTime/2, func() { raw.Close() })
		c.nc.Close()
		t.Stop()
		close(c.netDone)
	})
}

// asEnding finds out why reading stopped.
func (c *conn) asEnding(err error) *ending {
	var e *ending
	switch {
	case errors.As(err, &e):
		return e
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		switch {
		case c.id != nil && !c.id.NotAfter.IsZero() && !c.b.now().Before(c.id.NotAfter):
			return end(codeNotAuthorized, AuthError, "certificate expired")
		case !c.connected || c.partial:
			return end(codeMalformed, ClientError, "packet not finished in time")
		}
		return end(codeKeepAlive, KeepAliveTimeout, "keep alive")
	case errors.Is(err, io.EOF):
		return end(codeSuccess, ConnectionLost, "closed by the peer")
	}
	return end(codeSuccess, ConnectionLost, err.Error())
}

// finish ends the connection for good: socket, session, will, events.
func (c *conn) finish(err error) {
	c.kicks.flush()
	c.shut(c.asEnding(err))
	<-c.netDone
	c.rd.release()
	e := c.ended.Load()
	if c.session != nil {
		c.b.detach(c, e)
	}
	close(c.done)
	c.b.forget(c)
	if e.reason == ServerError {
		c.b.log.Warn("connection ended", "client", c.name(), "reason", string(e.reason), "cause", e.cause)
	} else {
		c.b.log.Debug("connection ended", "client", c.name(), "reason", string(e.reason), "cause", e.cause)
	}
}

func (c *conn) name() string {
	if c.session == nil {
		return ""
	}
	return c.session.client
}

func later(a, b time.Time) time.Time {
	if a.Before(b) {
		return b
	}
	return a
}

func (c *conn) event() Event {
	e := Event{Time: later(c.b.now(), c.notBefore), Session: c.uuid, Version: c.life, Address: c.remote, Protocol: c.version}
	if c.id != nil {
		e.Sender, e.Claim = c.id.sender(c.name()), c.id.Claim
	}
	return e
}
