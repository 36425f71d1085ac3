// Package spool is the station's journal: what it was about to do and what it
// did, on disk before anything leaves the station.
//
// Promises:
//   - [Spool.Append] returns after the record is on the disk, or nothing of it is.
//   - After a power cut the journal opens with every record that Append
//     returned for. A last record that was cut in the middle is set aside.
//   - A journal that is broken anywhere else does not open: a record that is
//     missing there may be a certificate that nobody installed.
//   - Two processes never share a journal.
//
// The file is a header with a random id, then frames: length, CRC-32C of the
// payload, CRC-32C of those eight octets, payload. The length has a checksum of
// its own because a wrong length in the middle would look like a cut end. Each
// payload names the SHA-256 of the one before it, the first that of the header,
// so that records cannot be swapped, dropped or taken from another journal.
//
// Start reading at [Spool.Append], then scan.go.
package spool
