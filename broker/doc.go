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
//   - A reserved topic ($aws/…) is answered in this process and is never fanned
//     out as a message.
//
// # Where the standard and the reference cloud differ
//
// Each difference is one field of [Limits], with its reason. [Reference] gives
// the cloud's side of all of them.
//
// # Several nodes
//
// One node is complete in itself. What another node would have to hear of goes
// through four functions and nowhere else: [Broker.publish] (messages, wills and
// retained changes), [Broker.claim] (takeover) and [Broker.Drop].
//
// # Standards
//
// MQTT Version 3.1.1 and MQTT Version 5.0 (OASIS). Tests quote the normative
// statements by their numbers: [MQTT-3.1.2-6] and so on.
//
// Start reading at server.go, then conn.go (one connection), publish.go (the way
// of a message), session.go (delivery) and journal.go (durability).
package broker
