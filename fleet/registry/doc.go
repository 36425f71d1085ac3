// Package registry knows the devices after first boot: things, their
// attributes, and the certificates that may act for them.
//
// Promises:
//   - A thing belongs to one tenant and to the authority that registered it.
//     A look-up sees one tenant.
//   - A thing whose certificate is live is never handed to another device,
//     unless the registration allows it and the hook said yes (S22).
//   - Registering twice with the same facts changes nothing.
//
// What a registration may change of an existing thing is the template's word
// (OverrideSettings); without a word, a difference is refused.
//
// Start reading at [Registry.Register].
package registry
