// Package provisioner is what may be made: production orders and their signed
// approvals, the units of an order, the stations that make them, and the plan
// that turns a birth certificate into a thing.
//
// Promises:
//   - A factory cannot make more than was ordered. The quantity comes from the
//     signed order, is verified with keys pinned outside the database at every
//     reservation (S32), and is counted where the serial number is reserved.
//   - A unit asked twice with one key gets the same certificate (S9).
//   - "Installed" is said only with the device's own signature (S12).
//
// Start reading at provision.go, then order.go.
package provisioner
