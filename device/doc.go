// Package device is the reference device: what a product's own software has to
// do with its certificates, in a form that can be read, run and copied.
//
// Promises:
//   - A key is on disk before it is used, a certificate before it is believed,
//     and which pair is in use is one file that is replaced as one step. Killed
//     at any point, the next run goes on with the same key.
//   - The CSR is bound to the TLS connection that carries it (RFC 9266), so
//     nobody in between can have another key certified.
//   - A certificate is used only after its chain, its key and its name were
//     checked against the roots that the factory installed, and after the
//     service took it at the door.
//
// It imports nothing of the service: only what crosses the wire.
//
// Start reading at [FirstBoot].
package device
