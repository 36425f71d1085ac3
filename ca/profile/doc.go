// Package profile is what we build: the certificate profiles, and the rendering
// of a to-be-signed certificate (TBS) from one of them.
//
// A profile is compiled once for an issuer into a [Template] that holds every
// octet that does not change; [Template.Render] splices in the rest. The
// template is checked once against crypto/x509 when it is compiled: what it
// renders must parse there to exactly the fields that went in.
//
// Extensions and their criticality follow RFC 5280, Section 4.2; the IDevID
// follows IEEE 802.1AR-2018, Section 8.
//
// Start reading at profile.go.
package profile
