// Package ota is firmware over the air: artifacts with their signed manifests, the
// Action "update-firmware" of campaigns, and the two ways in which a device gets an
// image: signed URLs and MQTT file streams.
//
// Promises:
//
//   - The service cannot sign firmware and has no key for it. It stores and verifies:
//     against keys or roots of their own that the configuration pins (S40).
//   - What a second person did not release reaches no device (S36). The manifest that
//     was released is the one that every device verifies again.
//   - A URL is for one device, one image and a time, and nobody can make one.
//   - A device that says it has the new version is proven only by what the service
//     sees: it is connected, for as long as the campaign wants.
//   - A device that does not come up with the new image goes back by itself to the
//     one that worked; see package device.
//
// Standards: RFC 9052 for manifests (package manifest), RFC 9110, Section 14 for
// ranges, the file streams of the wire reference.
//
// Start reading at artifact.go, then action.go.
package ota
