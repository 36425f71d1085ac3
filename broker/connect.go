package broker

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"encoding/binary"
	"encoding/hex"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/mochi-mqtt/server/v2/packets"

	"hallmark/fleet/policy"
	"hallmark/internal/fault"
)

// connect reads the CONNECT, decides about it and answers. The order counts:
// who it is, what it may do, and only then what it replaces (A69).
func (c *conn) connect(ctx context.Context, state tls.ConnectionState) error {
	b := c.b
	c.nc.SetReadDeadline(wall().Add(b.lim.ConnectTimeout))

	// 1. Read it.
	header, body, err := c.rd.next()
	if err != nil {
		return err
	}
	if header != packets.Connect<<4 {
		return violation("first packet is no CONNECT") // [MQTT-3.1.0-1]
	}
	if c.version, err = c.protocol(body); err != nil {
		return err
	}
	var pk packets.Packet
	if err := decode(&pk, c.version, header, body, b.lim.UserProps); err != nil {
		return c.refuse(err.(*ending))
	}
	if e := b.validConnect(&pk, body[7]); e != nil {
		return c.refuse(e)
	}

	// 2. Who is it?
	authCtx, cancel := context.WithTimeout(ctx, b.lim.ConnectTimeout)
	id, err := b.cfg.Authenticator.Authenticate(authCtx, state, c.remote)
	cancel()
	if err != nil {
		b.log.InfoContext(ctx, "device not let in", "address", c.remote.Addr(), "err", err)
		if k := fault.KindOf(err); k == fault.Unavailable || k == fault.Internal {
			return c.refuse(end(codeUnavailable, ServerError, "authenticator"))
		}
		return c.refuse(end(codeNotAuthorized, AuthError, "authenticator"))
	}
	c.id = &id
	c.uuid = newUUID()
	client := strings.Clone(pk.Connect.ClientIdentifier)
	assigned := client == ""
	if assigned {
		if c.version == 4 && !pk.Connect.Clean {
			return c.refuse(end(codeClientID, ClientError, "no client identifier")) // [MQTT-3.1.3-8]
		}
		client = id.assign()
	}
	id.choose(client)
	if len(client) > b.lim.ClientBytes {
		return c.refused(client, end(codeClientID, AuthError, "client identifier too long"))
	}
	if !id.mayUse(client) { // another's: what the cloud IoT core answers is that it is not authorised
		return c.refused(client, end(codeNotAuthorized, AuthError, "client identifier"))
	}

	// 3. May it?
	expiry := b.connectExpiry(&pk, &id)
	w, e := c.readWill(&pk, client)
	if e != nil {
		return c.refuse(e)
	}
	if expiry > 0 || !pk.Connect.Clean {
		c.attrs = append(c.attrs, PersistentConnect)
	}
	if w != nil {
		c.attrs = append(c.attrs, LastWill)
	}
	c.bind(client)
	if !c.allows(policy.Connect, client) ||
		w != nil && (!c.allows(policy.Publish, w.msg.topic) || w.msg.retain && !c.allows(policy.RetainPublish, w.msg.topic)) {
		return c.refused(client, end(codeNotAuthorized, AuthError, "policy"))
	}

	// 4. Take over, attach, answer.
	c.keepAlive, err = 0, nil
	keepAlive := b.keepAlive(c.version, pk.Connect.Keepalive)
	c.keepAlive = keepAlive
	c.pace = b.newPace()
	p := &pk.Properties
	if p.MaximumPacketSize > 0 && int64(p.MaximumPacketSize) < int64(c.maxPacket) {
		c.maxPacket = int(p.MaximumPacketSize)
	}
	window := b.lim.Inflight
	if p.ReceiveMaximum > 0 {
		window = min(window, int(p.ReceiveMaximum))
	}
	if c.version == 5 {
		c.aliasMax = min(int(p.TopicAliasMaximum), b.lim.TopicAliases)
	}
	present, e := b.claim(ctx, c, client, pk.Connect.Clean, expiry, w)
	if e != nil {
		return c.refuse(e)
	}
	connack := &packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Connack}, ProtocolVersion: c.version, SessionPresent: present}
	if c.version == 5 {
		connack.Properties = b.offered(&pk, expiry, keepAlive)
		if assigned {
			connack.Properties.AssignedClientID = client // [MQTT-3.1.3-7]
		}
	}
	c.b.attach(c, window, item{octets: encode(connack)})
	if id.Recheck != nil {
		if err := id.Recheck(ctx); err != nil {
			return end(codeNotAuthorized, AuthError, "revoked while connecting")
		}
	}
	return nil
}

// protocol reads name and version. What is neither MQTT 3.1.1 nor 5 is answered in
// the form of 3.1.1 [MQTT-3.1.2-2].
func (c *conn) protocol(body []byte) (byte, error) {
	if len(body) < 10 || binary.BigEndian.Uint16(body) != 4 || !bytes.Equal(body[2:6], []byte("MQTT")) {
		if len(body) >= 9 && bytes.HasPrefix(body, []byte("\x00\x06MQIsdp")) { // MQTT 3.1
			return 4, c.refuseAs(4, end(codeVersion, ClientError, "protocol version"))
		}
		return 0, violation("protocol name") // [MQTT-3.1.2-1]
	}
	switch v := body[6]; v {
	case 4, 5:
		return v, nil
	default:
		if v > 5 {
			return 0, c.refuseAs(5, end(codeVersion, ClientError, "protocol version"))
		}
		return 0, c.refuseAs(4, end(codeVersion, ClientError, "protocol version"))
	}
}

// validConnect is what the codec leaves to us.
func (b *Broker) validConnect(pk *packets.Packet, flags byte) *ending {
	cp := &pk.Connect
	switch {
	case flags&1 != 0: // [MQTT-3.1.2-3]
		return malformed("reserved flag")
	case !cp.WillFlag && (cp.WillQos != 0 || cp.WillRetain): // [MQTT-3.1.2-11] [MQTT-3.1.2-13]
		return malformed("will flags")
	case cp.WillQos > 2: // [MQTT-3.1.2-14]
		return malformed("will QoS")
	case pk.ProtocolVersion == 4 && cp.PasswordFlag && !cp.UsernameFlag: // [MQTT-3.1.2-22]
		return malformed("password without user name")
	case cp.UsernameFlag && (!utf8.Valid(cp.Username) || bytes.IndexByte(cp.Username, 0) >= 0): // [MQTT-3.1.3-11], MQTT 5 [MQTT-3.1.3-12]
		return malformed("user name")
	case pk.Properties.AuthenticationMethod != "":
		return end(codeAuthMethod, ClientError, "authentication method")
	case len(pk.Properties.AuthenticationData) > 0:
		return violation("authentication data without a method")
	case cp.WillFlag && cp.WillQos == 2 && !b.lim.QoS2: // [MQTT-3.2.2-12]
		return end(codeQoS, ClientError, "will QoS 2")
	case cp.WillFlag && (!b.lim.checkTopic(cp.WillTopic) || strings.ContainsAny(cp.WillProperties.ResponseTopic, "+#")):
		return end(codeTopicInvalid, ClientError, "will topic")
	case cp.WillFlag && len(cp.WillPayload) > b.lim.PayloadSize:
		return end(codeTooLarge, ClientError, "will payload")
	}
	return nil
}

// connectExpiry is how long the session outlives the connection.
func (b *Broker) connectExpiry(pk *packets.Packet, id *Identity) time.Duration {
	switch {
	case id.Claim:
		return 0
	case pk.ProtocolVersion == 4 && !pk.Connect.Clean:
		return b.lim.SessionExpiry
	case pk.ProtocolVersion == 4:
		return 0
	}
	return b.sessionExpiry(pk.Properties.SessionExpiryInterval)
}

func (b *Broker) sessionExpiry(seconds uint32) time.Duration {
	return min(time.Duration(seconds)*time.Second, b.lim.SessionExpiry)
}

// keepAlive is the interval that counts. The octets of MQTT 3.1.1 cannot carry
// another one than the client's.
func (b *Broker) keepAlive(version byte, asked uint16) time.Duration {
	d := time.Duration(asked) * time.Second
	if version == 4 {
		return d
	}
	if d == 0 {
		return b.lim.KeepAliveMax
	}
	return min(max(d, b.lim.KeepAliveMin), b.lim.KeepAliveMax)
}

// offered is what the CONNACK of MQTT 5 says.
func (b *Broker) offered(pk *packets.Packet, expiry, keepAlive time.Duration) packets.Properties {
	yes := func(y bool) byte {
		if y {
			return 1
		}
		return 0
	}
	p := packets.Properties{
		ReceiveMaximum: uint16(b.lim.ReceiveMaximum), MaximumPacketSize: uint32(b.lim.PacketSize), TopicAliasMaximum: uint16(b.lim.TopicAliases),
		RetainAvailable: 1, RetainAvailableFlag: true, WildcardSubAvailable: 1, WildcardSubAvailableFlag: true,
		SharedSubAvailable: 1, SharedSubAvailableFlag: true, SubIDAvailable: yes(!b.lim.NoSubscriptionIDs), SubIDAvailableFlag: true,
	}
	if !b.lim.QoS2 {
		p.MaximumQos, p.MaximumQosFlag = 1, true
	}
	if seconds := uint32(expiry / time.Second); seconds != pk.Properties.SessionExpiryInterval {
		p.SessionExpiryInterval, p.SessionExpiryIntervalFlag = seconds, true
	}
	if seconds := uint16(keepAlive / time.Second); seconds != pk.Connect.Keepalive {
		p.ServerKeepAlive, p.ServerKeepAliveFlag = seconds, true // [MQTT-3.2.2-21]
	}
	return p
}

// bind asks what the connection may do.
func (c *conn) bind(client string) {
	var a Authoriser
	if c.id.Bind != nil {
		a = c.id.Bind(client, c.attrs)
	}
	if a == nil {
		c.auth.Store(nil)
		return
	}
	c.auth.Store(&a)
}

// refused is refuse with the event for it.
func (c *conn) refused(client string, e *ending) error {
	if !strings.ContainsAny(client, "+#") {
		ev := c.event()
		ev.Client, ev.Reason = client, AuthorizationFail
		c.b.cfg.Events.ConnectFailed(ev)
	}
	return c.refuse(e)
}

func (c *conn) refuse(e *ending) error { return c.refuseAs(c.version, e) }

// refuseAs answers with a CONNACK and closes behind it.
func (c *conn) refuseAs(version byte, e *ending) error {
	c.b.count.connectsRefused.Add(1)
	connack := &packets.Packet{FixedHeader: packets.FixedHeader{Type: packets.Connack}, ProtocolVersion: version, ReasonCode: e.code}
	if version == 4 {
		switch e.code {
		case codeVersion:
			connack.ReasonCode = refused3Version
		case codeClientID:
			connack.ReasonCode = refused3ClientID
		case codeUnavailable, codeRate, codeQuota, codeShuttingDown:
			connack.ReasonCode = refused3Unavailable
		case codeNotAuthorized:
			connack.ReasonCode = refused3Unauthorized
		default:
			return e // nothing to say it with [MQTT-3.2.2-6]
		}
	}
	if !c.ended.CompareAndSwap(nil, e) {
		return e
	}
	close(c.closed)
	c.push(item{octets: encode(connack), last: true}, &c.kicks)
	time.AfterFunc(sayTime, c.closeNow)
	return e
}

// assign makes a client identifier that keeps the rule of S25.
func (id *Identity) assign() string {
	var r [4]byte
	rand.Read(r[:])
	if id.Thing == "" {
		return "auto-" + rand.Text()
	}
	return string(id.Thing) + "-" + strconv.Itoa(int(binary.BigEndian.Uint32(r[:])%1_000_000_000))
}

func newUUID() string {
	var u [16]byte
	rand.Read(u[:])
	u[6], u[8] = u[6]&0x0F|0x40, u[8]&0x3F|0x80 // RFC 9562, Section 5.4
	h := hex.EncodeToString(u[:])
	return h[:8] + "-" + h[8:12] + "-" + h[12:16] + "-" + h[16:20] + "-" + h[20:]
}
