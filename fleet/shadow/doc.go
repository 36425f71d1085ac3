// Package shadow keeps what a device should be and what it said it is, while it
// is away: one document for each thing and shadow name, with a desired and a
// reported section, and the difference between the two.
//
// Promises:
//   - A document is changed as a whole or not at all, its version rises by one
//     with each accepted change and goes on rising after a deletion.
//   - Numbers come back with the digits they came with.
//   - The metadata has the shape of the state, and no stored state holds a null
//     or, outside of arrays, an empty object.
//   - Applying the delta to the reported section leaves no delta.
//
// Answers go through the broker to everybody who may read the topic, are never
// retained, and echo the request's clientToken. A shadow needs no registered
// thing. The wire format is that of the device shadow service of AWS IoT Core.
//
// Where that service says nothing, we decided: a version given for a shadow
// that does not exist must be 1; a document has at most 8 levels; "previous" is
// absent from the first documents message; a member that stands twice in a
// request is refused as invalid JSON.
//
// Start reading at merge.go, then document.go and [Service.Update].
package shadow
