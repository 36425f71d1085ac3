// Package strictjson reads JSON that came from outside, and refuses whatever
// two readers could understand differently.
//
// Promise: a document that is accepted means the same to every JSON reader.
// It is UTF-8 without a byte order mark and without unpaired surrogates
// (RFC 8259, Section 8.1; RFC 7493, Section 2.1), no object has a member twice
// at any depth (RFC 7493, Section 2.3), nothing follows the value, and where
// it is decoded into a struct every member has a field of exactly that name:
// encoding/json would also take another case.
//
// Invariants: work is bounded by [Limits] before any of it is done, so a
// hostile document of any size is refused in milliseconds; an error names the
// line, the column and the path and quotes no more than a few characters of
// the input; nothing panics.
//
// Start reading at [Decode]; the scanner is scan.go.
package strictjson
