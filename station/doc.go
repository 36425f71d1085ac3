// Package station is the software beside the production line: it takes serials,
// lets each device make its key, gets the birth certificate, writes it to the
// device and proves that it sits there.
//
// Promises:
//   - What is about to be asked is on disk before it is asked, so a station that
//     is killed at any point and started again finishes every unit that it had
//     begun, and no unit costs the order twice.
//   - A unit passes only when the service confirmed the commit. One whose commit
//     is unknown is neither passed nor failed: it is pending.
//   - A unit is committed only after the chain, the name, the key, what the
//     device reads back and the device's own signature were checked (S12).
//   - The station never sees a device's private key.
//   - Nests work on their own: one that fails spoils no other.
//
// Start reading at unit.go, then [Station.Run]; identity.go is how a station
// enrols and renews (S14). The journal is in spool, the protocol in uplink, the
// way to the device in adapter. docs/station.md is the manual.
package station
