package broker

import "sync/atomic"

// Stats is what the broker counted since it started; the first group are levels.
type Stats struct {
	Connections   int64 // open, after CONNECT
	Pending       int64 // open, before it
	Sessions      int64
	Subscriptions int64
	Retained      int64
	RetainedBytes int64

	Accepted          int64
	RefusedAddress    int64 // too many unfinished connections of one address
	RefusedFull       int64
	HandshakesFailed  int64
	ConnectsRefused   int64
	Takeovers         int64
	PublishedIn       int64 // messages from devices
	BytesIn           int64 // their payloads
	PublishedOut      int64
	BytesOut          int64
	DroppedQoS0       int64 // a connection's queue was full
	DroppedTooLarge   int64 // beyond what the client takes
	Expired           int64
	RefusedPublish    int64
	RefusedSubscribe  int64
	RefusedReceive    int64
	Stored            int64 // messages written for persistent sessions
	SlowDisconnects   int64 // 0x97
	SessionsEndedFull int64 // persistent sessions that were full
	Requests          int64 // to reserved topics
	RequestsRejected  int64
	RequestsFailed    int64
	StoreFailures     int64
	Waits             int64 // publishers that waited for a slow subscriber

	// Of a cluster.
	RelayedOut    int64 // messages to other nodes
	RelayedIn     int64
	RelayFailures int64 // QoS 1 messages refused since another node did not answer
	MovedIn       int64 // sessions that came from other nodes with their device
	MovedOut      int64
	Adopted       int64 // sessions that no other node has any more
}

type counters struct {
	connections, pending, sessions, subscriptions, retained, retainedBytes               atomic.Int64
	accepted, refusedAddress, refusedFull, handshakesFailed, connectsRefused, takeovers  atomic.Int64
	publishedIn, bytesIn, publishedOut, bytesOut, droppedQoS0, droppedTooLarge, expired  atomic.Int64
	refusedPublish, refusedSubscribe, refusedReceive, stored, slowDisconnects, endedFull atomic.Int64
	requests, requestsRejected, requestsFailed, storeFailures, waits                     atomic.Int64
	relayedOut, relayedIn, relayFailures, movedIn, movedOut, adopted                     atomic.Int64
}

// Stats gives the counters.
func (b *Broker) Stats() Stats {
	c := &b.count
	return Stats{
		Connections: c.connections.Load(), Pending: c.pending.Load(), Sessions: c.sessions.Load(), Subscriptions: c.subscriptions.Load(),
		Retained: c.retained.Load(), RetainedBytes: c.retainedBytes.Load(),
		Accepted: c.accepted.Load(), RefusedAddress: c.refusedAddress.Load(), RefusedFull: c.refusedFull.Load(),
		HandshakesFailed: c.handshakesFailed.Load(), ConnectsRefused: c.connectsRefused.Load(), Takeovers: c.takeovers.Load(),
		PublishedIn: c.publishedIn.Load(), BytesIn: c.bytesIn.Load(), PublishedOut: c.publishedOut.Load(), BytesOut: c.bytesOut.Load(),
		DroppedQoS0: c.droppedQoS0.Load(), DroppedTooLarge: c.droppedTooLarge.Load(), Expired: c.expired.Load(),
		RefusedPublish: c.refusedPublish.Load(), RefusedSubscribe: c.refusedSubscribe.Load(), RefusedReceive: c.refusedReceive.Load(),
		Stored: c.stored.Load(), SlowDisconnects: c.slowDisconnects.Load(), SessionsEndedFull: c.endedFull.Load(),
		Requests: c.requests.Load(), RequestsRejected: c.requestsRejected.Load(), RequestsFailed: c.requestsFailed.Load(),
		StoreFailures: c.storeFailures.Load(), Waits: c.waits.Load(),
		RelayedOut: c.relayedOut.Load(), RelayedIn: c.relayedIn.Load(), RelayFailures: c.relayFailures.Load(),
		MovedIn: c.movedIn.Load(), MovedOut: c.movedOut.Load(), Adopted: c.adopted.Load(),
	}
}
