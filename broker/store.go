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

// Change is one of the types below.
type Change interface{ change() }

// Session is what survives of a session apart from its subscriptions and queue.
type Session struct {
	Tenant, Client string
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
