// Package broker carries messages between devices and the service: MQTT 3.1.1
// and MQTT 5 over mutual TLS, and the same inside WebSocket. The octets of a
// packet are read and written by a codec from elsewhere; sessions, subscriptions,
// delivery and every decision are here.
//
// # Promises
//
//   - A QoS 1 message for a persistent session is durable before its publisher
//     sees the PUBACK. A crash can repeat it, never lose it. Clean sessions touch
//     no database.
//   - After a PUBACK nothing is lost in silence. A subscriber that is too slow
//     first slows its publishers down, then is disconnected with 0x97; a
//     persistent session that is full ends, and its owner sees that from "session
//     present". QoS 0 is dropped when a connection's queue is full, and counted.
//   - Everything is kept per tenant (S24): a session, a topic, a retained message
//     or a shared group of one tenant cannot be named from another.
//   - A device is asked for by its certificate, then by its policies. Nobody's
//     session is taken over before the newcomer was found entitled to it (A69).
//     The policy sees the resolved topic, and sees it again at delivery (A70).
//   - A reserved topic ($aws/… or $hallmark/things/…) is answered in this process and is never fanned
//     out as a message.
//
// # Where the standard and the reference cloud differ
//
// Each difference is one field of [Limits], with its reason. [Reference] gives
// the cloud's side of all of them.
//
// # Several nodes
//
// One node is complete in itself, and asks nobody. With a [Fabric] and a
// [ClusterStore], several are one broker:
//
//   - Every persistent session has one node, in the store, and only that node adds to
//     its queue. A node that the others took for dead can write nothing any more
//     ([Guard]); its sessions are another's from the same transaction on.
//   - Every node knows which filters the others want messages for, so a message goes
//     where somebody wants it, and nowhere else. A SUBACK comes after all nodes know.
//   - A QoS 1 message is acknowledged after every node that has a session for it wrote
//     it down, or handed it over to a session in memory. A node that does not answer
//     means a refusal: MQTT 5 hears 0x80, MQTT 3.1.1 sends it again on a new connection.
//   - A client has one connection and one session in all nodes. A session moves with
//     its device; of a shared group one member in all nodes gets a message.
//   - A frame from another node carries no rights. What a device may receive is decided
//     where it is connected.
//
// Not promised over several nodes: the order of messages that two nodes published;
// that a QoS 1 message comes once (a crash, a takeover or a refused publish repeats
// it); that a group's messages are spread evenly; which of two retained messages of
// one topic stays when two nodes publish at the same moment (it is the same one
// everywhere). Without the fabric nobody new is let in, and what concerns another
// node is refused.
//
// The seam to a lone broker is [Broker.publish], [Broker.claim], the journal's
// commit and [Broker.Drop], which each node does for itself.
//
// # Standards
//
// MQTT Version 3.1.1 and MQTT Version 5.0 (OASIS). Tests quote the normative
// statements by their numbers: [MQTT-3.1.2-6] and so on.
//
// Start reading at server.go, then conn.go (one connection), publish.go (the way
// of a message), session.go (delivery) and journal.go (durability). Several nodes:
// cluster.go, then interest.go (who wants what), relay.go (messages) and move.go
// (sessions).
package broker
