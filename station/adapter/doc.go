// Package adapter reaches the device in a nest.
//
// An [Adapter] does what only the fixture can do: make the device create its
// key and CSR, give it the certificate, read it back and let it sign. It never
// sees a private key of a real device. Two adapters are built in: command:
// runs a program of the customer that speaks JSON lines, simulate: keeps
// devices as directories and can misbehave on purpose.
//
// The adapter decides nothing. Whether a CSR, a certificate that was read back
// or a signature is right is decided by package station.
//
// Start reading at [Adapter]; the program's protocol is in docs/station.md.
package adapter
