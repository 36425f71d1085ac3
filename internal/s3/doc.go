// Package s3 is a client of a store that speaks the S3 protocol: put, look, and read a
// part, of objects whose SHA-256 is known before they are sent.
//
// Invariants:
//
//   - Every request is signed with version 4 of the signatures, body included: the store
//     refuses octets that are not those of the SHA-256 that was signed.
//   - Bodies are streamed both ways; none is held in memory.
//   - No redirect is followed, and no key of the store is in an error or a log.
//
// Buckets are named in the path, which every such store understands. Start reading at
// [Client].
package s3
