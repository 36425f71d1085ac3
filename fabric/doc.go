// Package fabric carries octets between the nodes of one service, over NATS. It
// knows no topic, session or device: package broker does, and says through a small
// interface of its own what it needs.
//
// # Promises
//
//   - At most once. A frame that is sent may be lost; who has to know asks, and gets
//     an answer, a refusal or silence within a time that it chose. Whatever has to
//     survive is in the database.
//   - In order, from one node to another, as long as the connection lasts.
//   - Nobody but the nodes of one service reads or writes frames, whoever runs the
//     NATS server and whoever else is on it: each frame is sealed with a key that the
//     nodes share and the server does not know, for its sender and its receiver.
//     Subjects are derived from that key too, so that two services on one server do
//     not meet.
//   - A frame carries no rights. A device is let in, and may publish or receive, by
//     what the node that holds its connection reads from its own database.
//
// # Where the server is
//
// Without configured servers a NATS server runs inside the process, without a port:
// it is reached through memory, and other nodes cannot reach it. With configured
// servers, any number of nodes meet there, over TLS. JetStream is switched on by
// naming a directory for it; nothing uses it yet.
//
// What several nodes promise together, and what not, is in
// docs/decisions/0011-the-fabric.md.
//
// Start reading at fabric.go, then ask.go.
package fabric
