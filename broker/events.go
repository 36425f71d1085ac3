package broker

import (
	"net/netip"
	"time"

	"hallmark/fleet"
)

// Event is one change in the life of a connection, with what the lifecycle
// events on the wire need.
type Event struct {
	fleet.Sender
	Claim           bool
	Time            time.Time
	Session         string // identifies this connection: a random UUID
	Version         int64  // equal for connect and disconnect, grows per client, starts again after an hour offline
	Address         netip.AddrPort
	Protocol        byte     // 4 or 5
	Reason          Reason   // of Disconnected and ConnectFailed
	ClientInitiated bool     // of Disconnected
	Topics          []string // of Subscribed and Unsubscribed
}

// Events hears of the life of connections. A method must not block: it is called
// on the connection's own goroutine, in order for one client identifier.
type Events interface {
	Connected(Event)
	Disconnected(Event)
	ConnectFailed(Event)
	Subscribed(Event)
	Unsubscribed(Event)
}

type noEvents struct{}

func (noEvents) Connected(Event)     {}
func (noEvents) Disconnected(Event)  {}
func (noEvents) ConnectFailed(Event) {}
func (noEvents) Subscribed(Event)    {}
func (noEvents) Unsubscribed(Event)  {}

// versionLife is how long after a disconnect a client's version numbers go on.
const versionLife = time.Hour
