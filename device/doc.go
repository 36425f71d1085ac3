// Package device is the reference device: what a product's own software has to
// do with its certificates, in a form that can be read, run and copied.
//
// Promises:
//
//   - A key is on disk before it is used, a certificate before it is believed,
//     and which pair is in use is one file that is replaced as one step. Killed
//     at any point, the next run goes on with the same key.
//
//   - The CSR is bound to the TLS connection that carries it (RFC 9266), so
//     nobody in between can have another key certified.
//
//   - A certificate is used only after its chain, its key and its name were
//     checked against the roots that the factory installed, and after the
//     service took it at the door.
//
//   - A setting is on disk before it is reported. A job is done at most once
//     unless it was declared harmless to repeat, and its result is not lost,
//     whenever the device stops. Nothing runs that the owner's list does not
//     have word for word.
//
//   - A new certificate is used only after it connected, and the old one is kept:
//     cut off at any step of a change of keys, the device has one that works (A50).
//
//   - New firmware is in the slot that does not run, and boots for good only after it
//     was up, connected and well for long enough; else the one before runs again.
//
//   - A device never gives its service up, and never comes back at the same
//     moment as all the others.
//
// It imports nothing of the service: only what crosses the wire.
//
// Start reading at [FirstBoot], then at [Run]; a change of keys is in rotate.go,
// one of firmware in ota.go.
package device
