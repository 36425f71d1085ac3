// Package web is the service's HTTP for people and for everybody: the
// administration API and the console behind a token, and the plain door with
// lists, OCSP, authority certificates, log and health.
//
// Promises:
//   - A request reaches a handler only over the route table in routes.go, whose
//     every row names its right in the grants table of package access and its
//     operation in api/openapi.yaml. A row without either does not start.
//   - What the contract limits (lengths, patterns, ranges, unknown members and
//     parameters) is checked before a handler sees it.
//   - An error leaves as a problem document (RFC 9457) with a stable code and
//     what to do next, and never with a cause: that is in the log, once, under
//     the request id.
//   - Who asks is decided by the token, and where from by the connection;
//     forwarding headers are removed (A62). A path has one spelling (A63).
//
// Start reading at routes.go; backend.go is what the handlers work on.
package web
