package fleet

import (
	"context"
	"net/netip"
)

// Sender is the device behind a message, as its certificate proved it.
type Sender struct {
	Tenant      string
	Thing       ThingName // empty for a claim certificate and for one without a thing
	Client      string    // the MQTT client identifier; empty over HTTPS
	Certificate string    // lower-case hex of the SHA-256 of the certificate's DER
}

// Request is one message to a reserved topic.
type Request struct {
	Sender
	Topic   string
	Levels  []string // the topic between its slashes
	Payload []byte
	Address netip.Addr // of the connection; not valid where there is none

	// Reply sends to the asking connection only, whether it subscribed or not.
	// It never blocks, and does nothing once the connection is gone.
	Reply func(topic string, payload []byte)
}

// Topic is one row of the table of reserved topics: who answers messages that
// match a filter, in the process that holds the connection. The handler
// answers what the sender did wrong by itself; an error that it returns is the
// service's own failure and is logged once by the caller.
type Topic struct {
	Filter string // an MQTT topic filter such as $aws/things/+/shadow/update
	Handle func(context.Context, Request) error
}

// Message is what the service publishes to a tenant's devices.
type Message struct {
	Tenant  string
	Topic   string
	Payload []byte
	QoS     byte // 0 or 1
}

// Publisher delivers to every subscriber of the tenant, on every node.
type Publisher interface {
	Publish(context.Context, Message) error
}
