package broker

import (
	"context"
	"time"
)

// Store keeps persistent sessions and retained messages. It keeps what it is
// told in order; it decides nothing. Implementations: the database, and
// [Memory].
type Store interface {
	// Apply makes all changes, in order, or none; what it accepted is durable when it
	// returns nil. The broker has one call at a time under way.
	Apply(ctx context.Context, changes []Change) error

	// Sessions calls fn for every session, with its subscriptions, the identifiers of
	// QoS 2 messages received, and one Waiting for each publisher of messages that
	// wait for it.
	Sessions(ctx context.Context, fn func(StoredSession) error) error

	// Retained calls fn for every retained message.
	Retained(ctx context.Context, fn func(PutRetained) error) error

	// Queued gives up to limit messages of a session after a position, in order.
	Queued(ctx context.Context, tenant, client string, after int64, limit int) ([]StoredMessage, error)

	// Sweep deletes bodies that no message refers to any more. It is called now and then.
	Sweep(ctx context.Context) error
}

// ClusterStore is a store that several brokers have in common. Every session has
// one node at a time: only that node adds to its queue.
type ClusterStore interface {
	Store

	// Join makes a node known. Rows of nodes of the same name, which are former lives
	// of it, go. It gives the sessions that no known node has, which are the node's now.
	Join(ctx context.Context, m Member) ([]StoredSession, error)

	// Members gives the nodes that are known.
	Members(ctx context.Context) ([]Member, error)

	// Fence makes a node unknown and gives its sessions to another, in one
	// transaction; false if the node gave a sign of life since its beat was read, or
	// is unknown already. From then on every [Guard] of it fails.
	Fence(ctx context.Context, dead Member, heir string) ([]StoredSession, bool, error)

	// Leave says that a node stopped: its beat becomes [Left].
	Leave(ctx context.Context, node string) error

	// Take gives a session of one node to another; nil if there is none, ErrElsewhere
	// if it is with a third node.
	Take(ctx context.Context, tenant, client, from, to string) (*StoredSession, error)

	// RetainedAt gives what is retained for a topic; nil if nothing is.
	RetainedAt(ctx context.Context, tenant, topic string) (*PutRetained, error)
}

// Member is one node of a cluster.
type Member struct {
	Node string // of this life of it
	Name string // the same after a restart
	Beat int64  // grows with every sign of life
}

// Left is the beat of a node that stopped in order.
const Left = -1

// Change is one of the types below.
type Change interface{ change() }

// Session is what survives of a session apart from its subscriptions and queue.
type Session struct {
	Tenant, Client string
	Node           string // that has the session; empty without a cluster
	Thing          string
	Certificate    string
	Version        byte          // of MQTT: 4 or 5
	Expiry         time.Duration // after a disconnect
	Connected      bool          // while it is true there is no disconnect yet: after a crash the broker makes one up
	ExpiresAt      time.Time     // zero while connected
	SentUpTo       int64         // position up to which messages were sent at least once
	Will           []byte        // encoded, see will.go; nil = none
	WillAt         time.Time     // when the will is due; zero = at the disconnect
}

// StoredSession is a session with what belongs to it.
type StoredSession struct {
	Session
	Subscriptions []PutSubscription
	Received      []uint16
	Waiting       []Waiting
}

// Waiting sums up what one publisher has waiting for a session.
type Waiting struct {
	Publisher   string
	Messages    int
	Bytes       int   // their sizes
	First, Last int64 // positions
}

// StoredMessage is one message that waits for a session.
type StoredMessage struct {
	Position int64
	QoS      byte
	Retain   bool
	Released bool // QoS 2: PUBREC came, only PUBREL and PUBCOMP are left
	IDs      []int
	Message
}

// Message is what was published.
type Message struct {
	Topic      string
	Payload    []byte
	Properties []byte // encoded MQTT 5 properties that are passed on
	Publisher  string // client identifier; empty for the service
	QoS        byte
	ExpiresAt  time.Time // zero = never
}

// Size is what a message counts in a session's queue.
func (m *Message) Size() int { return len(m.Topic) + len(m.Payload) + len(m.Properties) + overhead }

// overhead is about what a message costs beside its octets.
const overhead = 64

// Recipient is a session for which a message waits.
type Recipient struct {
	Client   string
	Position int64
	QoS      byte
	Retain   bool
	IDs      []int // subscription identifiers
}

// The changes.
type (
	// PutSession writes a session over what was there, and leaves subscriptions and queue.
	PutSession struct{ Session }
	// EndSession deletes a session with everything that belongs to it.
	EndSession struct{ Tenant, Client string }
	// PutSubscription adds or replaces a subscription.
	PutSubscription struct {
		Tenant, Client, Filter string
		QoS                    byte
		NoLocal, AsPublished   bool
		Handling               byte // retain handling
		ID                     int  // subscription identifier; 0 = none
	}
	// EndSubscription deletes a subscription.
	EndSubscription struct{ Tenant, Client, Filter string }
	// Enqueue makes a message wait for sessions.
	Enqueue struct {
		Tenant  string
		Message Message
		To      []Recipient
	}
	// Acknowledge deletes what waits for a session up to a position, or at one.
	Acknowledge struct {
		Tenant, Client string
		Position       int64
		Only           bool
	}
	// Release marks a QoS 2 message whose PUBREC came.
	Release struct {
		Tenant, Client string
		Position       int64
	}
	// Receive remembers the identifier of a QoS 2 message from a client until PUBREL.
	Receive struct {
		Tenant, Client string
		ID             uint16
		Done           bool // forget it
	}
	// PutRetained replaces the retained message of a topic.
	PutRetained struct {
		Tenant      string
		Thing       string // of the publisher
		Certificate string // of the publisher
		StoredAt    time.Time
		Message
	}
	// EndRetained deletes it.
	EndRetained struct{ Tenant, Topic string }
	// Guard is a node's sign of life. It fails with [ErrFenced], and everything that
	// is applied with it, once the node is not known any more.
	Guard struct{ Node string }
)

func (PutSession) change()      {}
func (EndSession) change()      {}
func (PutSubscription) change() {}
func (EndSubscription) change() {}
func (Enqueue) change()         {}
func (Acknowledge) change()     {}
func (Release) change()         {}
func (Receive) change()         {}
func (PutRetained) change()     {}
func (EndRetained) change()     {}
func (Guard) change()           {}
