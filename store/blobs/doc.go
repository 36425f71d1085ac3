// Package blobs keeps large files that never change, such as images of firmware, by
// tenant and SHA-256: in a directory, or in a store that speaks the S3 protocol.
//
// Invariants:
//
//   - What is there under a digest has that digest: it was checked while it was
//     written, and its name appeared only afterwards.
//   - Storing the same again is harmless, from several services at once too.
//
// Start reading at [Directory].
package blobs
