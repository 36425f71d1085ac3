// Package registry knows the devices after first boot: things with their types,
// groups and attributes; the certificates that may act for them; the CAs behind
// those; the policies that say what they may do; and how all of it is found.
//
// Promises:
//   - A thing belongs to one tenant and to the authority that registered it.
//     A look-up sees one tenant; only those for the door, which learns the tenant
//     from a certificate, see all.
//   - A thing whose certificate is live is never handed to another device,
//     unless the registration allows it and the hook said yes (S22).
//   - Registering twice with the same facts changes nothing.
//   - A CA and a certificate are registered in a second tenant only with a proof
//     of possession (S23).
//   - A certificate's status is in one place and moves along the table of the
//     wire only; REVOKED is final. Revocation reaches it whatever else is wrong.
//   - What grants something is protected against other writers, row by row and
//     table by table (S32). The index grants nothing and can be made again.
//   - A change of a policy, an attachment, a group or a thing counts with the next
//     message of a connection ([Binding]), at other nodes within a moment.
//
// What a registration may change of an existing thing is the template's word
// (OverrideSettings); without a word, a difference is refused.
//
// Choices where the wire is silent:
//   - Names of things, types, groups and policies that differ only in case are one
//     name, and have to be spelt as they were made.
//   - thingGroupNames in a query means static groups and those above them. Dynamic
//     groups cannot be named, so that no group depends on another.
//   - A query for a field alone (field:*) finds things that have it. A term without
//     a field is refused.
//   - A page of a search may be short or empty before the end: a search that would
//     take long gives what it has, and a cursor to go on with.
//   - A thing that was made by hand belongs to the first authority that registers
//     a device for it.
//
// Start reading at [Registry.Register], [Registry.Bind] and [ParseFilter].
package registry
