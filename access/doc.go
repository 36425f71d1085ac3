// Package access is who may do what: named principals with hashed tokens, a
// small role matrix, and approval by a second person as a value (S36).
//
// Every list and look-up of the program takes a [Scope], so that there is no
// way to forget the tenant. Roles come from database records, never from the
// text of a certificate's subject (S18).
//
// Start reading at grants.go.
package access
