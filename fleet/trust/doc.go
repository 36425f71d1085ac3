// Package trust changes whom devices trust: roots that are added and removed, the
// place of the service, and the rollover of a root over the air.
//
// Promises:
//   - What a device says is believed only as far as it fits: the roots that it names
//     make the bundle that it names, and it connected anew since it was asked.
//   - No root is taken from devices that what this service shows needs.
//   - A rollover passes a gate only when the gate's threshold is reached, counted at
//     that moment over every target, and when a person says so. Nobody who is asleep
//     counts as confirmed.
//   - A gate is lowered by two people and with a reason, which stay on record.
//   - Devices that slept get both changes when they return, for as long as was
//     configured, and are let in until then.
//   - Every step may be done again, after a crash or by another node.
//
// The device's side is in docs/trust.md, which is the protocol.
//
// Start reading at [Service.Judge], then [Rollover] and [Service.Advance].
package trust
