// Package uplink is the station's protocol with the service: the client, the
// octets that a device signs to commit, and the one-time enrolment string. The
// server half is in uplink/server.
//
// Promises:
//   - A request is safe to repeat, so whatever might be a lost connection or a
//     service that restarts is repeated with growing, jittered pauses. A
//     refusal is never repeated.
//   - The client trusts the pinned roots and nothing else: no system roots, no
//     proxies, no redirects.
//   - Enrolment sends its code only to a server whose chain ends in the root
//     that the string names (S14).
//
// Standards: RFC 8446 and RFC 5246 (TLS 1.3 and 1.2), RFC 9457 (problems),
// RFC 9110, Section 10.2.3 (Retry-After). Start reading at [Client.Issue].
package uplink
