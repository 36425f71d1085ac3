// Package mqtt is a device's end of MQTT over mutual TLS, versions 3.1.1 and 5.
//
// It is small on purpose: a connection is one goroutine, one timer and no
// buffers of its own, so that thousands of them fit into one process. It offers
// QoS 0 and 1, keep-alive, and requests that are answered on reserved topics.
//
// Promises:
//   - A connection is used once. It never reconnects by itself: when to try
//     again is the business of whoever holds the device's clock and patience.
//   - Nothing waits for ever: each packet that has an answer fails when the
//     connection ends, and a silent server is noticed by keep-alive.
//   - A message is acknowledged after its handler returned.
//   - Nothing that a server sends makes it panic or allocate without bound.
//
// Standards: MQTT Version 3.1.1 and MQTT Version 5.0 (OASIS).
//
// Start reading at [Dial].
package mqtt
