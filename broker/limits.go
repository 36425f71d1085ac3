package broker

import "time"

// Limits bounds what a device can cost, and settles each point where the
// reference cloud and the standard differ. A zero field means the default that
// its comment names; a negative number switches a limit off where that makes
// sense. [Reference] gives the cloud's own numbers.
type Limits struct {
	// Before a connection is known.

	Connections      int           // open at once; 100,000
	Handshakes       int           // TLS handshakes and CONNECTs being waited for at once; 512. More wait in the listen queue
	PerAddress       int           // the same, of one IPv4 address or IPv6 /64; 128. High enough for a factory behind one address
	AcceptRate       int           // accepted connections a second; 2,000
	HandshakeTimeout time.Duration // whole TLS handshake; 10 s
	ConnectTimeout   time.Duration // from the handshake to the end of CONNECT; 10 s
	ConnectRate      int           // CONNECTs a second of one client, with a burst of ten times that; 1, as the cloud

	// On the wire.

	PacketSize    int           // largest packet; 149,504 octets, as the cloud. Announced to MQTT 5
	PayloadSize   int           // largest payload; 131,072 octets, as the cloud
	PacketTimeout time.Duration // from the first octet of a packet to its last; 60 s
	WriteTimeout  time.Duration // for one write to go through; 30 s
	UserProps     int           // user properties in a packet; 100. The cloud says nothing, memory does (A71)

	// TopicBytes and TopicSlashes bound topics and filters, without the prefixes
	// $aws/rules/RULE/ and $share/NAME/. The cloud has 256 and 7; a standard client
	// may need more, and no firmware relies on being refused: 1,024 and 32.
	TopicBytes, TopicSlashes int
	ClientBytes              int // of a client identifier; 128, as the cloud

	// Filters per SUBSCRIBE and Subscriptions per session. The cloud has 8 and 50,
	// which a standard back-end client breaks at once: 64 and 256.
	Filters, Subscriptions int

	// PublishRate and PublishBytes a second of one connection are paced, not
	// refused: reading waits. 100 and 524,288, as the cloud; negative = unlimited.
	PublishRate, PublishBytes int
	SubscribeRate             int // SUBSCRIBE and UNSUBSCRIBE packets a second, paced; 20

	ReceiveMaximum int // QoS 1 and 2 messages a client may have unanswered; 100, as the cloud. MQTT 3.1.1 clients are not told: reading waits
	Inflight       int // the same towards the client, at most; 100, as the cloud
	TopicAliases   int // each way; 8, as the cloud

	// KeepAliveMin and KeepAliveMax bound what MQTT 5 clients ask; they are told the
	// result. 30 s and 1,200 s, as the cloud. An MQTT 3.1.1 client cannot be told, so
	// it gets what it asked ([MQTT-3.1.2-24]), where the cloud cuts it silently.
	KeepAliveMin, KeepAliveMax time.Duration

	// SessionExpiry caps how long a persistent session waits for its device; 7 days,
	// the most the cloud grants. MQTT 3.1.1 sessions get all of it; the cloud's
	// default of one hour loses the commands of a device that was off over night.
	SessionExpiry time.Duration
	// MessageExpiry caps a message's expiry interval; 7 days, as the cloud. A message
	// without one does not expire, as the standard says.
	MessageExpiry time.Duration

	// RestartGrace is how long after a restart of the service the wills of those wait
	// who were connected when it ended; 30 s. Most devices are back by then, and the
	// service's death is not theirs.
	RestartGrace time.Duration

	// Queues.

	// OutBytes is the most a connection has waiting to be written, and a clean
	// session's QoS 1 messages beyond its window; 1 MiB. QoS 0 beyond it is dropped and
	// counted. QoS 1 beyond half of it makes its publishers wait; beyond all of it,
	// or without any progress for SlowTimeout (10 s), the subscriber is disconnected
	// with 0x97.
	OutBytes    int
	SlowTimeout time.Duration
	// QueueMessages and QueueBytes bound what waits for one persistent session, in
	// the store; 10,000 and 64 MiB. A session beyond them ends (its device sees
	// session present = 0), since refusing would punish every publisher. One
	// publisher may fill QueueShare percent of it (50); then its own messages are
	// refused with 0x97, so that no device can end another's session alone (A72).
	QueueMessages, QueueBytes, QueueShare int

	// RetainedPerDevice, RetainedTopics and RetainedBytes bound retained messages of
	// one certificate and of one tenant; 1,000, 1,000,000 and 1 GiB. Beyond: 0x97.
	RetainedPerDevice, RetainedTopics, RetainedBytes int

	// Requests of one connection to reserved topics in work at once, 10 as the cloud,
	// and of the whole node, 64 in work and 8,192 waiting. Beyond: rejected, 429.
	Requests, Handlers, RequestQueue int
	RequestTimeout                   time.Duration // for one handler; 30 s

	// Where the two differ in behaviour. False, the zero value, is our default.

	// QoS2 offers QoS 2. The cloud has none: MQTT 5 sees Maximum QoS 1 and 0x9B,
	// MQTT 3.1.1 is disconnected.
	QoS2 bool
	// RetainedExactOnly delivers retained messages to exact filters only, as the
	// cloud does. The default is the standard's ([MQTT-3.3.1-6]): mosquitto_sub -t '#'
	// expects them, and no firmware relies on not getting them.
	RetainedExactOnly bool
	// HashWithoutParent makes a/# not match a, as in the cloud. The default is the
	// standard's (MQTT 5, Section 4.7.1.2).
	HashWithoutParent bool
	// NoSubscriptionIDs refuses subscription identifiers as the cloud does (0xA1). The
	// default accepts them: they are announced, so firmware that reads the CONNACK
	// works with both.
	NoSubscriptionIDs bool
	// SeparateVersions starts a new session when a client comes back with another
	// version of MQTT, as the cloud does. The default keeps the session, so that a
	// firmware update to MQTT 5 loses nothing.
	SeparateVersions bool
}

// Reference is the cloud's side of every difference.
func Reference() Limits {
	return Limits{
		TopicBytes: 256, TopicSlashes: 7, Filters: 8, Subscriptions: 50, SessionExpiry: time.Hour,
		RetainedExactOnly: true, HashWithoutParent: true, NoSubscriptionIDs: true, SeparateVersions: true,
	}
}

func (l Limits) withDefaults() Limits {
	for _, d := range []struct {
		field *int
		value int
	}{
		{&l.Connections, 100_000}, {&l.Handshakes, 512}, {&l.PerAddress, 128}, {&l.AcceptRate, 2000}, {&l.ConnectRate, 1},
		{&l.PacketSize, 149_504}, {&l.PayloadSize, 128 << 10}, {&l.UserProps, 100},
		{&l.TopicBytes, 1024}, {&l.TopicSlashes, 32}, {&l.ClientBytes, 128}, {&l.Filters, 64}, {&l.Subscriptions, 256},
		{&l.PublishRate, 100}, {&l.PublishBytes, 512 << 10}, {&l.SubscribeRate, 20},
		{&l.ReceiveMaximum, 100}, {&l.Inflight, 100}, {&l.TopicAliases, 8},
		{&l.OutBytes, 1 << 20}, {&l.QueueMessages, 10_000}, {&l.QueueBytes, 64 << 20}, {&l.QueueShare, 50},
		{&l.RetainedPerDevice, 1000}, {&l.RetainedTopics, 1_000_000}, {&l.RetainedBytes, 1 << 30},
		{&l.Requests, 10}, {&l.Handlers, 64}, {&l.RequestQueue, 8192},
	} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	for _, d := range []struct {
		field *time.Duration
		value time.Duration
	}{
		{&l.HandshakeTimeout, 10 * time.Second}, {&l.ConnectTimeout, 10 * time.Second}, {&l.PacketTimeout, time.Minute}, {&l.WriteTimeout, 30 * time.Second},
		{&l.KeepAliveMin, 30 * time.Second}, {&l.KeepAliveMax, 20 * time.Minute}, {&l.SessionExpiry, 7 * 24 * time.Hour}, {&l.MessageExpiry, 7 * 24 * time.Hour},
		{&l.SlowTimeout, 10 * time.Second}, {&l.RestartGrace, 30 * time.Second}, {&l.RequestTimeout, 30 * time.Second},
	} {
		if *d.field == 0 {
			*d.field = d.value
		}
	}
	return l
}

// check refuses what the wire cannot say or the code cannot keep.
func (l *Limits) check() error {
	switch {
	case l.ReceiveMaximum < 1 || l.ReceiveMaximum > 65535:
		return ErrConfig.New("ReceiveMaximum is %d, not 1 to 65535.", l.ReceiveMaximum)
	case l.Inflight < 1 || l.Inflight > 10_000:
		return ErrConfig.New("Inflight is %d, not 1 to 10000.", l.Inflight)
	case l.TopicAliases < 0 || l.TopicAliases > 1024:
		return ErrConfig.New("TopicAliases is %d, not 0 to 1024.", l.TopicAliases)
	case l.PacketSize < 1024 || l.PacketSize > 268_435_455:
		return ErrConfig.New("PacketSize is %d, not 1024 to 268435455.", l.PacketSize)
	case l.QueueMessages < 1 || l.QueueMessages > 60_000:
		return ErrConfig.New("QueueMessages is %d, not 1 to 60000: each needs a packet identifier.", l.QueueMessages)
	case l.TopicBytes < 1 || l.TopicBytes > 65535 || l.ClientBytes < 1 || l.ClientBytes > 65535:
		return ErrConfig.New("TopicBytes and ClientBytes are 1 to 65535.")
	case l.KeepAliveMax < l.KeepAliveMin || l.KeepAliveMax > 65535*time.Second:
		return ErrConfig.New("KeepAliveMax is %v.", l.KeepAliveMax)
	case l.Handlers < 1 || l.Requests < 1 || l.Handshakes < 1 || l.OutBytes < 1024:
		return ErrConfig.New("Handlers, Requests, Handshakes and OutBytes must be positive.")
	}
	return nil
}
